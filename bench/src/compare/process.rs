//! Programs that are measured: run to their end on one processor, their time and CPU time taken by the kernel's account.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::sys::time::TimeValLike as _;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::figures::Figures;

/// No program may take longer.
const LIMIT: Duration = Duration::from_secs(180);

/// Where programs are looked for after PATH: administrators' tools are not on everybody's.
const PLACES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// The full path of a program.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(PLACES.into_iter().map(PathBuf::from))
        .map(|place| place.join(name))
        .find(|file| file.is_file())
}

/// A program with its words.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    path: PathBuf,
    words: Vec<String>,
    /// An exit status beside 0 that is no failure.
    fine: Option<i32>,
}

impl Program {
    pub(crate) fn new(path: &Path, words: impl IntoIterator<Item = impl ToString>) -> Self {
        Self {
            path: path.into(),
            words: words.into_iter().map(|word| word.to_string()).collect(),
            fine: None,
        }
    }

    /// The same, where this exit status is no failure.
    pub(crate) fn or(self, fine: i32) -> Self {
        Self {
            fine: Some(fine),
            ..self
        }
    }

    /// The same, on one processor alone; the error is the name of the program that is missing for that.
    pub(crate) fn on_processor(self, processor: usize) -> Result<Self, &'static str> {
        let taskset = find("taskset").ok_or("taskset")?;
        let mut words = vec!["-c".into(), processor.to_string()];
        words.push(self.path.display().to_string());
        words.extend(self.words);
        Ok(Self {
            path: taskset,
            words,
            fine: self.fine,
        })
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "other programs are what is compared with; none of this is part of the agent"
    )]
    fn start(&self) -> anyhow::Result<Running> {
        let output = tempfile::tempfile().context("cannot make a temporary file")?;
        let handle = || output.try_clone().context("cannot copy a handle");
        let child = Command::new(&self.path)
            .args(&self.words)
            .stdin(Stdio::null())
            .stdout(handle()?)
            .stderr(handle()?)
            .spawn()
            .with_context(|| format!("cannot start {}", self.path.display()))?;
        Ok(Running {
            child,
            output,
            path: self.path.clone(),
            fine: self.fine,
        })
    }

    /// The first line of what it says. `None` where it cannot be run, fails, or takes longer than `limit`.
    pub(crate) fn first_line(&self, limit: Duration) -> Option<String> {
        let said = self.start().ok()?.end(limit).ok()??;
        let mut lines = said.lines().map(str::trim);
        lines.find(|line| !line.is_empty()).map(str::to_owned)
    }
}

struct Running {
    child: std::process::Child,
    output: File,
    path: PathBuf,
    fine: Option<i32>,
}

impl Drop for Running {
    /// What nobody waits for any more writes no more.
    fn drop(&mut self) {
        let _ended = self.child.kill().is_err();
        let _reaped = self.child.wait().is_err();
    }
}

impl Running {
    /// Waits for its end. `None` when it was ended because it took longer than `limit`.
    fn end(mut self, limit: Duration) -> anyhow::Result<Option<String>> {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).context("a process id")?);
        let (ended, watched) = mpsc::channel::<()>();
        let late = std::thread::scope(|scope| {
            // The process is not reaped before this has ended, so the id is its own.
            let watch = scope.spawn(move || {
                let late = watched.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout);
                if late {
                    let _gone = kill(pid, Signal::SIGKILL).is_err();
                }
                late
            });
            let waited = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
            drop(ended);
            waited.map(|_| watch.join().unwrap_or(false))
        });
        let status = self.child.wait().context("cannot wait for a program")?;
        if late.context("cannot wait for a program")? {
            return Ok(None);
        }
        let mut text = String::new();
        self.output.rewind()?;
        // What is no text is of no use here.
        let _odd = self.output.read_to_string(&mut text).is_err();
        anyhow::ensure!(
            status.success() || (self.fine.is_some() && status.code() == self.fine),
            "{} ended with {status}: {}",
            self.path.display(),
            text.lines().last().unwrap_or_default()
        );
        Ok(Some(text))
    }
}

/// How programs are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Each when the one before has ended.
    InTurn,
    /// All at once.
    AtOnce,
}

/// Runs programs to their end: what they took, and what they said.
#[expect(clippy::disallowed_methods, reason = "the clock at the rim")]
pub(crate) fn run(programs: &[Program], order: Order) -> anyhow::Result<(Figures, String)> {
    let before = used()?;
    let start = Instant::now();
    let mut text = String::new();
    let mut take = |running: Running| {
        let path = running.path.display().to_string();
        let said = running.end(LIMIT)?;
        text += &said.with_context(|| format!("{path} took longer than {LIMIT:?}"))?;
        anyhow::Ok(())
    };
    match order {
        Order::InTurn => programs
            .iter()
            .try_for_each(|program| take(program.start()?))?,
        Order::AtOnce => programs
            .iter()
            .map(Program::start)
            .collect::<anyhow::Result<Vec<_>>>()?
            .into_iter()
            .try_for_each(take)?,
    }
    let wall_s = start.elapsed().as_secs_f64();
    let after = used()?;
    let figures = Figures {
        wall_s,
        user_s: after.0 - before.0,
        system_s: after.1 - before.1,
        ..Figures::default()
    };
    Ok((figures, text))
}

/// Runs one program for at most `limit`: the time that it took, at least.
#[expect(clippy::disallowed_methods, reason = "the clock at the rim")]
pub(crate) fn run_at_most(program: &Program, limit: Duration) -> anyhow::Result<Figures> {
    let start = Instant::now();
    program.start()?.end(limit)?;
    Ok(Figures {
        wall_s: start.elapsed().as_secs_f64(),
        ..Figures::default()
    })
}

/// Seconds outside and inside the kernel of all processes that were waited for.
fn used() -> anyhow::Result<(f64, f64)> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("getrusage")?;
    let seconds = |time: nix::sys::time::TimeVal| time.num_microseconds() as f64 / 1e6;
    Ok((seconds(usage.user_time()), seconds(usage.system_time())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program {
        Program::new(&find("sh").unwrap(), ["-c", script])
    }

    #[test]
    fn a_status_may_be_fine() {
        let status = |fine: Option<i32>| {
            let program = shell("exit 2");
            let program = fine.map_or(program.clone(), |fine| program.or(fine));
            run(&[program], Order::InTurn).is_ok()
        };
        assert!(status(Some(2)));
        assert!(!status(Some(3)) && !status(None));
    }

    #[test]
    fn what_programs_took_and_said() {
        let (figures, text) = run(&[shell("echo a"), shell("echo b")], Order::InTurn).unwrap();
        assert_eq!(text, "a\nb\n");
        assert!(figures.wall_s > 0.0);
        let both = run(&[shell("true"), shell("echo c")], Order::AtOnce).unwrap();
        assert_eq!(both.1, "c\n");
        let pinned = shell("echo d").on_processor(0).unwrap();
        assert_eq!(run(&[pinned], Order::InTurn).unwrap().1, "d\n");
    }

    #[test]
    fn a_failure_is_told_with_its_last_words() {
        let failed = run(&[shell("echo why; exit 3")], Order::InTurn).unwrap_err();
        assert!(failed.to_string().ends_with("why"), "{failed}");
    }

    #[test]
    fn a_first_line_is_told_or_not() {
        let first = |script| shell(script).first_line(Duration::from_secs(5));
        assert_eq!(first("echo; echo ' a 1.2'; echo b"), Some("a 1.2".into()));
        assert_eq!(first("true"), None);
        assert_eq!(first("echo usage; exit 1"), None);
        let missing = Program::new(Path::new("/nowhere"), ["--version"]);
        assert_eq!(missing.first_line(LIMIT), None);
        let late = shell("echo a; exec sleep 600").first_line(Duration::from_millis(50));
        assert_eq!(late, None);
    }

    #[test]
    fn what_takes_too_long_is_ended() {
        let figures = run_at_most(&shell("exec sleep 600"), Duration::from_millis(50)).unwrap();
        assert!(figures.wall_s >= 0.05);
    }
}
