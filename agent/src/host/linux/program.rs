//! Programs: found at fixed places, never by PATH; with a time-out; their last words kept.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::super::{Cause, HostError};

/// Where a program may be.
const PLACES: [&str; 5] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin"];
/// How often a running program is looked at.
const TICK: Duration = Duration::from_millis(10);
/// How much of what it prints is kept.
const OUTPUT_BYTES_MAX: u64 = 64 * 1024;
/// How much is kept of what a long one says; a half of it where it says more.
const SAID_BYTES_MAX: usize = 16 * 1024;
/// How much of that goes into a message.
const WORDS_BYTES_MAX: usize = 400;

/// What a program printed, both streams.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) stdout: String,
    pub(super) stderr: String,
    pub(super) success: bool,
    status: String,
}

/// Runs a program to its end, whatever its status.
pub(super) fn run(
    program: &'static str,
    args: &[&str],
    target: &str,
    timeout: Duration,
) -> Result<Output, HostError> {
    let failed = |cause| HostError {
        verb: program,
        target: target.to_owned(),
        cause,
    };
    let mut child = spawn(program, args, target)?;
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let mut waited = Duration::ZERO;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if waited < timeout => {
                thread::sleep(TICK);
                waited += TICK;
            }
            Ok(None) => {
                abandon(child);
                return Err(failed(Cause::TimedOut(timeout.as_secs())));
            }
            Err(error) => return Err(failed(Cause::Io(error))),
        }
    };
    Ok(Output {
        stdout: stdout.join().unwrap_or_default(),
        stderr: stderr.join().unwrap_or_default(),
        success: status.success(),
        status: status.to_string(),
    })
}

/// Finds a program and starts it.
fn spawn(program: &'static str, args: &[&str], target: &str) -> Result<Child, HostError> {
    let failed = |cause| HostError {
        verb: program,
        target: target.to_owned(),
        cause,
    };
    let path = PLACES
        .iter()
        .map(|place| Path::new(place).join(program))
        .find(|path| path.is_file())
        .ok_or_else(|| failed(Cause::ProgramMissing(program)))?;
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the Host that all others go through"
    )]
    let child = std::process::Command::new(&path)
        .args(args)
        .env_clear()
        .env("PATH", PLACES.join(":"))
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    child.map_err(|error| failed(Cause::Io(error)))
}

/// A program that runs for long; what it says is heard meanwhile.
pub(super) struct Running {
    child: Option<Child>,
    said: Arc<Mutex<String>>,
    readers: Vec<thread::JoinHandle<()>>,
    ends_when_dropped: bool,
}

/// Starts a program that may take hours.
pub(super) fn start(
    program: &'static str,
    args: &[&str],
    target: &str,
    ends_when_dropped: bool,
) -> Result<Running, HostError> {
    let mut child = spawn(program, args, target)?;
    let said = Arc::new(Mutex::new(String::new()));
    let readers = [
        child.stdout.take().map(|stream| listen(stream, &said)),
        child.stderr.take().map(|stream| listen(stream, &said)),
    ];
    Ok(Running {
        child: Some(child),
        said,
        readers: readers.into_iter().flatten().collect(),
        ends_when_dropped,
    })
}

/// Keeps the end of what a stream says, line by line.
fn listen(
    stream: impl std::io::Read + Send + 'static,
    said: &Arc<Mutex<String>>,
) -> thread::JoinHandle<()> {
    let said = Arc::clone(said);
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            said.push_str(&String::from_utf8_lossy(&line));
            said.push('\n');
            if said.len() > SAID_BYTES_MAX {
                *said = end_of(&said, SAID_BYTES_MAX / 2).to_owned();
            }
        }
    })
}

impl Running {
    /// Waits for its end, but no longer than so. `Some` at its end: its exit status, or none where a signal ended it.
    pub(super) fn wait(&mut self, longest: Duration) -> std::io::Result<Option<Option<i32>>> {
        let Some(child) = &mut self.child else {
            return Ok(Some(None));
        };
        let mut waited = Duration::ZERO;
        loop {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                for reader in self.readers.drain(..) {
                    reader.join().ok();
                }
                return Ok(Some(status.code()));
            }
            if waited >= longest {
                return Ok(None);
            }
            thread::sleep(TICK);
            waited += TICK;
        }
    }

    /// The end of what it said so far, both streams.
    pub(super) fn said(&self) -> String {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            if self.ends_when_dropped {
                abandon(child);
            } else {
                // Nobody waits for it but this thread, so that it is no zombie.
                thread::spawn(move || drop(child.wait()));
            }
        }
    }
}

impl Output {
    /// The output, or the failure as an error that carries the program's last words.
    pub(super) fn success_or(self, program: &'static str, target: &str) -> Result<Self, HostError> {
        if self.success {
            return Ok(self);
        }
        Err(HostError {
            verb: program,
            target: target.to_owned(),
            cause: Cause::Program {
                program,
                status: self.status,
                stderr: last_words(&self.stderr),
            },
        })
    }
}

/// One line, of the end of what was printed.
fn last_words(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    end_of(&line, WORDS_BYTES_MAX).to_owned()
}

/// The last bytes of a text, so many at most and whole characters.
fn end_of(text: &str, bytes_max: usize) -> &str {
    let from = text.len().saturating_sub(bytes_max);
    let from = (from..text.len())
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(text.len());
    text.get(from..).unwrap_or_default()
}

fn drain(stream: Option<impl std::io::Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut kept = Vec::new();
        if let Some(mut stream) = stream {
            // What was read before an error is still worth keeping.
            drop(
                stream
                    .by_ref()
                    .take(OUTPUT_BYTES_MAX)
                    .read_to_end(&mut kept),
            );
            drop(std::io::copy(&mut stream, &mut std::io::sink()));
        }
        String::from_utf8_lossy(&kept).into_owned()
    })
}

/// Kills a program that took too long. In an uninterruptible read it dies when that ends: a thread waits for it.
fn abandon(mut child: Child) {
    thread::spawn(move || {
        drop(child.kill());
        drop(child.wait());
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_well_badly_or_never() {
        let ok = run("sh", &["-c", "echo out; echo err >&2"], "x", TICK * 100).unwrap();
        assert_eq!((ok.stdout.as_str(), ok.stderr.as_str()), ("out\n", "err\n"));
        let bad = run("sh", &["-c", "echo a  b >&2; exit 3"], "dev", TICK * 100).unwrap();
        let error = bad.success_or("sh", "dev").unwrap_err();
        assert_eq!(
            error.sentence(),
            "sh dev: sh ended with exit status: 3: a b"
        );
        let slow = run("sleep", &["60"], "x", TICK * 2).unwrap_err();
        assert!(matches!(slow.cause, Cause::TimedOut(0)));
        let none = run("no-such-program", &[], "x", TICK).unwrap_err();
        assert_eq!(
            none.sentence(),
            "no-such-program x: no-such-program was not found"
        );
    }

    #[test]
    fn what_runs_for_long_is_heard_meanwhile() {
        let line = "echo one; echo two >&2; sleep 0.3; echo three; exit 4";
        let mut running = start("sh", &["-c", line], "x", true).unwrap();
        assert_eq!(running.wait(TICK * 10).unwrap(), None);
        let said = running.said();
        assert!(said.contains("one\n") && !said.contains("three"), "{said}");
        assert_eq!(running.wait(TICK * 1000).unwrap(), Some(Some(4)));
        let said = running.said();
        assert!(
            said.contains("two\n") && said.ends_with("three\n"),
            "{said}"
        );
        let line = "i=0; while [ $i -lt 3000 ]; do i=$((i + 1)); echo line $i; done";
        let mut long = start("sh", &["-c", line], "x", true).unwrap();
        assert_eq!(long.wait(TICK * 1000).unwrap(), Some(Some(0)));
        let said = long.said();
        assert!(
            said.len() <= SAID_BYTES_MAX && said.ends_with("line 3000\n"),
            "{said}"
        );
    }

    #[test]
    fn last_words_are_the_end_in_one_line() {
        let long = format!("{}ü{}", "x".repeat(500), "y".repeat(WORDS_BYTES_MAX - 1));
        assert_eq!(last_words(&long), "y".repeat(WORDS_BYTES_MAX - 1));
        assert_eq!(last_words(" a\n b\n"), "a b");
    }
}
