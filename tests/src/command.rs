//! Programs run by the tests: with a deadline, with their output kept, and none that outlives its test.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A program by its path or name. It is killed when the thread that started it ends, however that happens.
#[expect(
    clippy::disallowed_methods,
    reason = "the tests are the person at the keyboard; this is the one place where they start programs"
)]
#[must_use]
pub fn program(path: impl AsRef<Path>) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .arg(path.as_ref());
    command
}

/// One of our own programs, as built beside the running test.
///
/// # Panics
/// When it was not built: `cargo build --workspace` builds it.
#[must_use]
pub fn ours(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    let path = test
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| path.exists());
    path.unwrap_or_else(|| panic!("{name} is not built: cargo build --workspace"))
}

/// The time now, for deadlines of tests.
#[expect(clippy::disallowed_methods, reason = "a test waits for real processes")]
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// What a program said and how it ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The command, as a person would type it.
    pub command: String,
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "$ {}\n{}{}", self.command, self.stdout, self.stderr)?;
        match self.code {
            Some(code) => write!(f, "[exit {code}]"),
            None => write!(f, "[killed]"),
        }
    }
}

impl Outcome {
    /// Itself, when the program succeeded.
    ///
    /// # Panics
    /// With all it said, when it failed.
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self}");
        self
    }

    /// Itself, when the program ended with `code` and said `word`.
    ///
    /// # Panics
    /// When it did not.
    pub fn refused(self, code: i32, word: &str) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        let said = format!("{}{}", self.stdout, self.stderr);
        assert!(said.contains(word), "it does not say {word:?}: {self}");
        self
    }
}

/// Runs a program to its end, or kills it after `limit`.
///
/// # Panics
/// When it cannot be started, or did not end in time.
#[must_use]
pub fn run(mut command: Command, limit: Duration) -> Outcome {
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let said = words.join(" ").replace("setpriv --pdeathsig KILL -- ", "");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{said}: {e}"));
    let stdout = reader(child.stdout.take());
    let stderr = reader(child.stderr.take());
    let status = wait(&mut child, limit);
    if status.is_none() {
        drop(child.kill());
        drop(child.wait());
    }
    let outcome = Outcome {
        command: said,
        code: status.and_then(|status| status.code()),
        stdout: stdout.join().unwrap_or_default(),
        stderr: stderr.join().unwrap_or_default(),
    };
    assert!(status.is_some(), "no end after {limit:?}: {outcome}");
    outcome
}

/// Reads a pipe to its end on a thread of its own, so that neither pipe ever fills.
fn reader(pipe: Option<impl io::Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            drop(pipe.read_to_end(&mut bytes));
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Waits for a child's end, but no longer than `limit`.
pub fn wait(child: &mut Child, limit: Duration) -> Option<std::process::ExitStatus> {
    let end = now() + limit;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if now() > end {
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Polls until `look` finds something.
///
/// # Panics
/// After `limit`, with what was waited for.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    until_telling(limit, || look().ok_or_else(|| what.to_owned()))
}

/// The same for what can tell, each time, what is there instead.
///
/// # Panics
/// After `limit`, with what was told last.
pub fn until_telling<T>(limit: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let end = now() + limit;
    loop {
        match look() {
            Ok(found) => return found,
            Err(what) => assert!(now() < end, "waited {limit:?} in vain for {what}"),
        }
        thread::sleep(Duration::from_millis(20));
    }
}
