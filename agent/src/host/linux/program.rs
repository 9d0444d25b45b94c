//! Programs: found at fixed places, never by PATH; with a time-out; their last words kept.

use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use super::super::{Cause, HostError};

/// Where a program may be.
const PLACES: [&str; 5] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin"];
/// How often a running program is looked at.
const TICK: Duration = Duration::from_millis(10);
/// How much of what it prints is kept.
const OUTPUT_BYTES_MAX: u64 = 64 * 1024;
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
    let path = PLACES
        .iter()
        .map(|place| Path::new(place).join(program))
        .find(|path| path.is_file())
        .ok_or_else(|| failed(Cause::ProgramMissing(program)))?;
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the Host that all others go through"
    )]
    let mut child = std::process::Command::new(&path)
        .args(args)
        .env_clear()
        .env("PATH", PLACES.join(":"))
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(Cause::Io(error)))?;
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
    let from = line.len().saturating_sub(WORDS_BYTES_MAX);
    let from = (from..line.len())
        .find(|at| line.is_char_boundary(*at))
        .unwrap_or(line.len());
    line.get(from..).unwrap_or_default().to_owned()
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
    fn last_words_are_the_end_in_one_line() {
        let long = format!("{}ü{}", "x".repeat(500), "y".repeat(WORDS_BYTES_MAX - 1));
        assert_eq!(last_words(&long), "y".repeat(WORDS_BYTES_MAX - 1));
        assert_eq!(last_words(" a\n b\n"), "a b");
    }
}
