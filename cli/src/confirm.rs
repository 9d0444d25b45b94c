//! The word before data is lost. What will be lost is shown, then a word is asked that belongs to that very target: a
//! drive's fingerprint, a volume's name. `--yes` takes the same word and never stands for "all of them".

use api::Reason;

use crate::advice::{Refusal, Stop};
use crate::screen::Screen;

/// The words of `--yes`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words<'a>(&'a [String]);

impl<'a> Words<'a> {
    /// Words as typed.
    pub(crate) const fn new(words: &'a [String]) -> Self {
        Self(words)
    }

    fn has(self, word: &str) -> bool {
        self.0.iter().any(|w| w.trim() == word)
    }
}

/// One thing that will be destroyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// What it is called: `loop10 on node-1`.
    pub(crate) name: String,
    /// What is lost with it, as the end of the sentence "… destroys".
    pub(crate) loses: String,
    /// The word to give.
    pub(crate) word: String,
}

/// Asks for the word of each target. Refuses unless every one was given, before anything is begun.
pub(crate) fn confirm(
    screen: &mut Screen,
    targets: &[Target],
    words: Words<'_>,
    verb: &str,
) -> Result<(), Stop> {
    let mut refusals = Vec::new();
    for target in targets {
        if words.has(&target.word) {
            continue;
        }
        screen.note(format!("{verb} {} destroys {}.", target.name, target.loses))?;
        match screen.ask(&format!("Type {} to go on:", target.word))? {
            Some(answer) if answer == target.word => {}
            Some(answer) => {
                let said = if answer.is_empty() {
                    "nothing was typed".to_owned()
                } else {
                    format!("{answer:?} is not {}", target.word)
                };
                return Err(Stop::refused(
                    Refusal::new(Reason::NotConfirmed, &target.name)
                        .detail(format!("{said}; nothing was changed")),
                ));
            }
            None => refusals.push(
                Refusal::new(Reason::NotConfirmed, &target.name)
                    .detail("nobody is at a terminal to confirm; nothing was changed")
                    .next(format!("add --yes {}", target.word)),
            ),
        }
    }
    if refusals.is_empty() {
        Ok(())
    } else {
        Err(Stop::Refused(refusals))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        Target {
            name: "loop10 on n1".to_owned(),
            loses: "ext4 \"photos\"".to_owned(),
            word: "ab/cd".to_owned(),
        }
    }

    fn answer(typed: Option<&'static str>, yes: &[&str]) -> Result<(), Stop> {
        let input = typed.map(|t| Box::new(t.as_bytes()) as Box<dyn std::io::BufRead + Send>);
        let mut screen = Screen::to(std::io::sink(), std::io::sink(), input);
        let yes: Vec<_> = yes.iter().map(|s| (*s).to_owned()).collect();
        confirm(&mut screen, &[target()], Words::new(&yes), "init of")
    }

    #[test]
    fn only_the_very_word_confirms() {
        assert!(answer(Some("ab/cd\n"), &[]).is_ok());
        assert!(answer(None, &["ab/cd"]).is_ok());
        for typed in ["yes\n", "y\n", "ab\n", "\n", ""] {
            let stop = answer(Some(typed), &[]).unwrap_err();
            assert_eq!(stop.exit_code(), 1, "{typed:?}");
        }
        let stop = answer(None, &["true", "all", "ef/cd"]).unwrap_err();
        assert!(stop.lines()[0].contains("add --yes ab/cd"), "{stop:?}");
    }
}
