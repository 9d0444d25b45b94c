//! Completion of `kubectl ringpv`. kubectl looks for a program `kubectl_complete-ringpv`, runs it with the words that
//! stand after `kubectl ringpv`, the last of them as far as it is typed, and reads one candidate a line (a tab parts it
//! from what it means) and at the end a directive of cobra's. `completion kubectl` prints that program: a script of one
//! line, which asks here. Nothing but the words themselves is looked at: no cluster is asked, so it never waits.

use clap::{Arg, Command};

/// The program that kubectl runs.
pub(crate) const SCRIPT: &str = "\
#!/bin/sh
# Completes `kubectl ringpv`. Put it on the PATH as kubectl_complete-ringpv, executable.
exec kubectl-ringpv __complete -- \"$@\"";

/// Cobra's directive: where nothing fits, the shell may offer files.
const FILES: &str = ":0";
/// Cobra's directive: no files.
const NO_FILES: &str = ":4";

/// Values that a parser of ours reads, by what help calls them.
const VALUES: [(&str, &[&str]); 3] = [
    ("TIER", &["hot", "warm", "cold", "default"]),
    ("PROFILE", &["quick", "full"]),
    (
        "PATTERN",
        &["randread", "randwrite", "randrw", "read", "write", "rw"],
    ),
];

/// What may stand in place of the last word, one a line, and the directive.
pub(crate) fn lines(mut root: Command, words: &[String]) -> Vec<String> {
    // Only a command that was built knows which flags its subcommands inherit.
    root.build();
    let (last, typed) = words.split_last().map_or(("", words), |(l, t)| (l, t));
    let place = Place::after(&root, typed);
    let (mut candidates, files) = match (place.value_of, last.split_once('=')) {
        (Some(arg), _) => (values(arg), takes_file(arg)),
        (None, Some((flag, _))) if flag.starts_with("--") => {
            let arg = long(place.command, flag);
            let values = arg.map(values).unwrap_or_default();
            let whole = values.into_iter().map(|value| format!("{flag}={value}"));
            (whole.collect(), arg.is_some_and(takes_file))
        }
        _ if last.starts_with('-') && !place.no_flags => (flags(place.command), false),
        _ => place.arguments(),
    };
    candidates.retain(|candidate| candidate.starts_with(last));
    candidates.push(if files { FILES } else { NO_FILES }.to_owned());
    candidates
}

/// Where the last word stands.
struct Place<'c> {
    command: &'c Command,
    /// The flag whose value it is.
    value_of: Option<&'c Arg>,
    /// Whether `--` was typed.
    no_flags: bool,
    /// Arguments before it that are no flags.
    arguments: usize,
}

impl<'c> Place<'c> {
    fn after(root: &'c Command, typed: &[String]) -> Self {
        let mut place = Self {
            command: root,
            value_of: None,
            no_flags: false,
            arguments: 0,
        };
        for word in typed {
            place.step(word);
        }
        place
    }

    fn step(&mut self, word: &str) {
        if self.value_of.take().is_some() {
            return;
        }
        if word == "--" {
            self.no_flags = true;
        } else if word.starts_with('-') && word.len() > 1 && !self.no_flags {
            let arg = if word.starts_with("--") {
                long(self.command, word)
            } else {
                short(self.command, word)
            };
            self.value_of = arg.filter(|arg| arg.get_action().takes_values());
        } else if let Some(verb) = self.command.find_subcommand(word) {
            self.command = verb;
        } else {
            self.arguments += 1;
        }
    }

    /// Verbs, or what the argument that is next may be; and whether that may be a file.
    fn arguments(&self) -> (Vec<String>, bool) {
        let verbs = self.command.get_subcommands().filter(|c| !c.is_hide_set());
        let mut candidates: Vec<_> = verbs
            .filter(|_| self.arguments == 0)
            .map(|verb| {
                let about = verb.get_about().map(ToString::to_string);
                told(verb.get_name(), about.as_deref())
            })
            .collect();
        // The last argument may stand for several.
        let next = self.command.get_positionals().nth(self.arguments);
        let next = next.or_else(|| self.command.get_positionals().last());
        candidates.extend(next.map(values).unwrap_or_default());
        (candidates, next.is_some_and(takes_file))
    }
}

/// A candidate and what it means.
fn told(word: &str, about: Option<&str>) -> String {
    match about.and_then(|text| text.lines().next()) {
        Some(about) => format!("{word}\t{about}"),
        None => word.to_owned(),
    }
}

fn long<'c>(command: &'c Command, word: &str) -> Option<&'c Arg> {
    let name = word.strip_prefix("--")?;
    // With its value in the same word the next word is none.
    command
        .get_arguments()
        .find(|arg| arg.get_long() == Some(name.split('=').next().unwrap_or(name)))
        .filter(|_| !name.contains('='))
}

fn short<'c>(command: &'c Command, word: &str) -> Option<&'c Arg> {
    let mut letters = word.chars().skip(1);
    let letter = letters.next()?;
    let arg = command
        .get_arguments()
        .find(|arg| arg.get_short() == Some(letter));
    arg.filter(|_| letters.next().is_none())
}

fn flags(command: &Command) -> Vec<String> {
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
    let flags = shown.filter_map(|arg| {
        let help = arg.get_help().map(ToString::to_string);
        Some(told(&format!("--{}", arg.get_long()?), help.as_deref()))
    });
    flags.collect()
}

fn value_name(arg: &Arg) -> &str {
    let names = arg.get_value_names().unwrap_or_default();
    names.first().map_or("", |name| name.as_str())
}

fn values(arg: &Arg) -> Vec<String> {
    let known = arg.get_possible_values();
    if arg.get_action().takes_values() && !known.is_empty() {
        let known = known.iter().filter(|value| !value.is_hide_set());
        return known
            .map(|value| {
                let help = value.get_help().map(ToString::to_string);
                told(value.get_name(), help.as_deref())
            })
            .collect();
    }
    let name = value_name(arg);
    let ours = VALUES.iter().find(|(of, _)| *of == name);
    ours.map(|(_, values)| values.iter().map(|v| (*v).to_owned()).collect())
        .unwrap_or_default()
}

/// Whether a value names something in the file system.
fn takes_file(arg: &Arg) -> bool {
    matches!(value_name(arg), "FILE" | "DIR" | "PATH")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::CommandFactory as _;

    fn complete(words: &[&str]) -> Vec<String> {
        let words: Vec<_> = words.iter().map(|w| (*w).to_owned()).collect();
        let lines = lines(Cli::command(), &words);
        let word = |line: String| line.split('\t').next().unwrap_or_default().to_owned();
        lines.into_iter().map(word).collect()
    }

    #[test]
    fn what_may_come_next() {
        let verbs = complete(&[""]);
        assert!(verbs.contains(&"discover".to_owned()), "{verbs:?}");
        assert!(!verbs.iter().any(|v| v.starts_with("__")), "{verbs:?}");
        for (words, wanted) in [
            (&["disc"][..], &["discover", ":4"][..]),
            (&["nonsense", "x"], &[":4"]),
            (&["list", "b"], &["benchmarks", ":4"]),
            (&["list", "drives", "--no-h"], &["--no-headers", ":4"]),
            (&["list", "drives", "-o", "j"], &["json", ":4"]),
            (&["list", "drives", "--output=ya"], &["--output=yaml", ":4"]),
            (&["drives", "access-tier", "set", "h"], &["hot", ":4"]),
            (&["bench", "--profile", "f"], &["full", ":4"]),
            (&["init", "dr"], &[":0"]),
            (&["--kubeconfig", "x", "vers"], &["version", ":4"]),
            (&["health", "--kubec"], &["--kubeconfig", ":4"]),
            (&["explain", "--class", ""], &[":0"]),
            (&["completion", "k"], &["kubectl", ":4"]),
        ] {
            assert_eq!(complete(words), wanted, "{words:?}");
        }
        assert!(complete(&[]).len() > 10);
    }
}
