//! Level pure. What people are told to do next can be done: every verb of `kubectl ringpv` that a text names is one, and
//! every path is in the tree. That holds for the reasons, for all other texts of the programs, and for the papers.

#![cfg(test)]

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use api::Reason;
use tests::tree::{Tree, root};

/// Output that is kept.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The words that follow `kubectl ringpv` wherever `text` has it, at most two; what is no word ends them.
fn commands(text: &str) -> Vec<Vec<String>> {
    let is_word = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_lowercase())
            && word.chars().all(|c| c.is_ascii_lowercase() || c == '-')
    };
    let after = text.split("kubectl ringpv ").skip(1);
    let commands = after.map(|rest| {
        let rest = rest.lines().next().unwrap_or_default();
        let mut words = Vec::new();
        for word in rest.split(' ').take(2) {
            let bare = word.trim_end_matches(|c: char| !c.is_ascii_lowercase());
            if !is_word(bare) {
                break;
            }
            words.push(bare.to_owned());
            if bare != word {
                break;
            }
        }
        words
    });
    commands.filter(|words| !words.is_empty()).collect()
}

/// What the command line says in help for these words; `None` where it does not know them.
async fn help(words: &[&str]) -> Option<String> {
    let line = std::iter::once(&"kubectl-ringpv").chain(words);
    let line = line.chain(&["--help"]).map(Into::into);
    let paper = Paper::default();
    let screen = cli::Screen::to(paper.clone(), std::io::sink(), None);
    let code = cli::run(line, screen, jiff::Timestamp::now, None).await;
    let said = paper.0.lock().unwrap().clone();
    (code == 0).then(|| String::from_utf8(said).unwrap())
}

/// Whether the command line knows these words. After a verb without verbs of its own anything may stand.
async fn is_known(words: &[String]) -> bool {
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let [verb, rest @ ..] = &*words else {
        return true;
    };
    match help(&[verb]).await {
        None => false,
        Some(said) if said.contains("\nCommands:\n") && !rest.is_empty() => {
            help(&words).await.is_some()
        }
        Some(_) => true,
    }
}

/// Paths under the folders that people are sent to.
fn paths(text: &str) -> Vec<String> {
    let is_path = |c: char| c.is_ascii_alphanumeric() || "._/-".contains(c);
    let words = text.split(|c| !is_path(c));
    let ours = words.filter(|word| {
        ["deploy/", "kernel-notes/"]
            .iter()
            .any(|folder| word.starts_with(folder))
    });
    ours.map(|word| word.trim_end_matches(['.', '/']).to_owned())
        .collect()
}

/// Whether a path is in the tree; a kernel note is cited by its number alone.
fn is_there(path: &str) -> bool {
    let path = root().join(path);
    let number = path.file_name().map(|n| format!("{}-", n.display()));
    let beside = path.parent().unwrap_or(Path::new("")).read_dir();
    let mut beside = beside.into_iter().flatten().flatten();
    path.exists()
        || number.is_some_and(|number| {
            beside.any(|entry| entry.file_name().to_string_lossy().starts_with(&number))
        })
}

/// What is wrong in a text.
async fn breaches(of: &str, text: &str) -> Vec<String> {
    let mut breaches = Vec::new();
    for words in commands(text) {
        if !is_known(&words).await {
            breaches.push(format!(
                "{of}: no command kubectl ringpv {}",
                words.join(" ")
            ));
        }
    }
    let absent = paths(text).into_iter().filter(|path| !is_there(path));
    breaches.extend(absent.map(|path| format!("{of}: no file {path}")));
    breaches
}

#[tokio::test]
async fn every_advice_can_be_followed() {
    let mut found = Vec::new();
    for reason in Reason::ALL {
        found.extend(breaches(reason.as_str(), reason.advice()).await);
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[tokio::test]
async fn every_text_of_the_programs_too() {
    let tree = Tree::read();
    let mut found = Vec::new();
    for (path, text) in tree.rust() {
        if !path.starts_with("tests/") {
            found.extend(breaches(path, text).await);
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[tokio::test]
async fn what_is_not_there_is_found() {
    let wrong = breaches(
        "x",
        "kubectl ringpv frobnicate; kubectl ringpv list nonsense; deploy/x.json",
    )
    .await;
    assert_eq!(wrong.len(), 3, "{wrong:?}");
    let right =
        "kubectl ringpv list drives; `kubectl ringpv adopt` takes them; see deploy/crds.yaml.";
    assert_eq!(breaches("x", right).await, [""; 0]);
}
