//! Level loop, beside the others. The whole demo as a newcomer runs it, the real `kubectl-ringpv demo`: to its end, left running and taken
//! away, interrupted at many a point, killed. Whatever became of it, nothing that it made is left.

#![cfg(test)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tests::command::{Outcome, ours, program, run, wait};
use tests::loopdev::{LoopDevice, mounts};

/// Longest that a demo, or taking one away, may take on a machine with much else to do.
const LIMIT: Duration = Duration::from_secs(300);
/// Where the demo makes its cgroup, whatever the machine's kind of cgroups.
const CGROUPS: [&str; 2] = ["/sys/fs/cgroup/blkio", "/sys/fs/cgroup"];

/// The chapter in which a drive is throttled through a cgroup.
const THROTTLED: usize = 12;

/// Demos measure: two at a time would measure each other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Holds its own turn; whatever happens to the test, a demo that is left in its folder is taken away.
struct Stage {
    /// Made and removed by the demo itself.
    dir: PathBuf,
    /// Process ids of the demos that played here.
    played: Vec<i32>,
    _turn: std::sync::MutexGuard<'static, ()>,
    folder: TempDir,
}

impl Stage {
    fn new(test: &str) -> Option<Self> {
        if let Some(why) = LoopDevice::refusal() {
            tests::skip(test, &why);
            return None;
        }
        let turn = ONE_AT_A_TIME.lock();
        let folder = TempDir::with_prefix_in("ringpv-demo-", "/var/tmp").unwrap();
        Some(Self {
            dir: folder.path().join("demo"),
            played: Vec::new(),
            _turn: turn.unwrap_or_else(std::sync::PoisonError::into_inner),
            folder,
        })
    }

    /// Starts a demo, to be read as it goes on. What it says beside its results goes to a file.
    fn start(&mut self, words: &[&str]) -> Playing {
        let notes = fs::File::create(self.folder.path().join("notes")).unwrap();
        let mut command = program(ours("kubectl-ringpv"));
        command.arg("demo").arg("--dir").arg(&self.dir).args(words);
        command.stdin(Stdio::null()).stderr(notes);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        self.played.push(i32::try_from(child.id()).unwrap());
        Playing {
            output: BufReader::new(child.stdout.take().unwrap()),
            said: Vec::new(),
            child,
        }
    }

    fn stop(&self) -> Outcome {
        let mut command = program(ours("kubectl-ringpv"));
        command.args(["demo", "--stop", "--dir"]).arg(&self.dir);
        run(command, LIMIT)
    }

    /// What is left of all that the demos made.
    fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        if self.dir.exists() {
            left.push(format!("the directory {}", self.dir.display()));
        }
        let targets = mounts().into_iter().map(|mount| mount.target);
        let under = targets.filter(|target| target.starts_with(&self.dir));
        left.extend(under.map(|target| format!("a mount at {}", target.display())));
        left.extend(loops_under(&self.dir));
        left.extend(processes_with(&self.dir));
        for pid in &self.played {
            let cgroups = CGROUPS.map(|at| Path::new(at).join(format!("ringpv-demo-{pid}")));
            let there = cgroups.iter().filter(|cgroup| cgroup.exists());
            left.extend(there.map(|cgroup| format!("the cgroup {}", cgroup.display())));
        }
        left
    }

    fn notes(&self) -> String {
        fs::read_to_string(self.folder.path().join("notes")).unwrap_or_default()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.dir.exists() {
            drop(self.stop());
        }
    }
}

/// Loop devices on files under a directory.
fn loops_under(dir: &Path) -> Vec<String> {
    let mut command = program("losetup");
    command.args(["--list", "--noheadings", "--output", "NAME,BACK-FILE"]);
    let dir = dir.display().to_string();
    let outcome = run(command, LIMIT).ok();
    let ours = outcome.stdout.lines().filter(|line| line.contains(&dir));
    ours.map(str::to_owned).collect()
}

/// Processes whose command line names a directory.
fn processes_with(dir: &Path) -> Vec<String> {
    let dir = dir.display().to_string();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(&dir)
            .then(|| format!("process {}: {line}", entry.file_name().display()))
    });
    lines.collect()
}

/// A demo under way.
struct Playing {
    child: Child,
    output: BufReader<ChildStdout>,
    said: Vec<String>,
}

impl Playing {
    /// Reads on until so many chapters began and then so many more lines came. False where it ended before.
    fn read_to(&mut self, chapter: usize, lines: usize) -> bool {
        let heading = |line: &String| line.starts_with("# ");
        let mut more = lines;
        while more > 0 {
            let Some(line) = self.line() else {
                return false;
            };
            let begun = self.said.iter().filter(|line| heading(line)).count();
            if begun >= chapter && !heading(&line) {
                more -= 1;
            }
        }
        true
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line).unwrap() == 0 {
            return None;
        }
        let line = line.trim_end().to_owned();
        self.said.push(line.clone());
        Some(line)
    }

    fn signal(&self, signal: Signal) {
        kill(
            Pid::from_raw(i32::try_from(self.child.id()).unwrap()),
            signal,
        )
        .unwrap();
    }

    /// Reads to the end and waits for it.
    fn end(mut self) -> (ExitStatus, String) {
        while self.line().is_some() {}
        let status = wait(&mut self.child, LIMIT).expect("it ends");
        (status, self.said.join("\n"))
    }
}

#[test]
fn the_whole_demo() {
    let Some(mut stage) = Stage::new("the_whole_demo") else {
        return;
    };
    let (status, said) = stage.start(&[]).end();
    let notes = stage.notes();
    assert!(status.success(), "{status}\n{said}\n{notes}");
    let chapters = said.lines().filter(|line| line.starts_with("# ")).count();
    assert!(chapters >= 12, "{chapters} chapters:\n{said}");
    assert!(said.contains("data: OK"), "{said}");
    // A machine that is busy, or has no block throttle, cannot show a slow drive; it says so.
    assert!(
        said.contains("volume next created") || said.contains("\nSkipped: "),
        "{said}"
    );
    assert!(said.contains("Nothing is left"), "{said}\n{notes}");
    assert_eq!(stage.left(), [""; 0]);
}

#[test]
fn interrupted_at_many_a_point() {
    let Some(mut stage) = Stage::new("interrupted_at_many_a_point") else {
        return;
    };
    // Chapter, and lines after it began: making devices, starting the processes, discovering, the refusal, formatting,
    // measuring, placing, writing data, growing, a drive that is throttled, deleting, removing.
    let points = [
        (0, 1),
        (1, 2),
        (2, 2),
        (3, 4),
        (4, 3),
        (5, 12),
        (8, 12),
        (10, 3),
        (11, 1),
        (THROTTLED, 3),
        (13, 4),
        (14, 2),
    ];
    for (index, (chapter, lines)) in points.into_iter().enumerate() {
        let mut demo = stage.start(&[]);
        assert!(demo.read_to(chapter, lines), "{}", stage.notes());
        if chapter == THROTTLED {
            // What is likeliest to be left is there now, where this machine can throttle at all.
            let cgroup = stage.left().iter().any(|left| left.contains("cgroup"));
            let skipped = |line: &String| line.starts_with("Skipped: ");
            assert!(cgroup || demo.said.iter().any(skipped), "{:?}", demo.said);
        }
        let signals = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
        // Most people press Ctrl-C; the other two ways are each tried once.
        let signal = signals.get(index.saturating_sub(4)).copied();
        let signal = signal.unwrap_or(Signal::SIGINT);
        demo.signal(signal);
        let (status, said) = demo.end();
        let (at, notes) = (format!("{chapter}, {lines}, {signal}"), stage.notes());
        assert_eq!(status.code(), Some(3), "{at}: {said}\n{notes}");
        assert!(notes.contains("interrupted"), "{at}: {said}\n{notes}");
        assert!(said.contains("Nothing is left"), "{at}: {said}\n{notes}");
        assert_eq!(stage.left(), [""; 0], "{at}");
    }
}

#[test]
fn left_running_and_then_taken_away() {
    let Some(mut stage) = Stage::new("left_running_and_then_taken_away") else {
        return;
    };
    let (status, said) = stage.start(&["--keep"]).end();
    assert!(status.success(), "{status}\n{said}\n{}", stage.notes());
    // As it says, it can be talked to.
    let exports = said
        .lines()
        .filter_map(|line| line.strip_prefix("  export "));
    let environment: Vec<_> = exports.filter_map(|line| line.split_once('=')).collect();
    let mut command = program(ours("kubectl-ringpv"));
    command.args(["list", "drives", "-o", "name"]);
    command.envs(environment);
    let drives = run(command, LIMIT).ok();
    assert_eq!(drives.stdout.lines().count(), 6, "{drives}\n{said}");
    // A second one does not take its place.
    let mut command = program(ours("kubectl-ringpv"));
    command.args(["demo", "--dir"]).arg(&stage.dir);
    let second = run(command, LIMIT);
    assert_eq!(second.code, Some(1), "{second}");
    assert!(second.stderr.contains("--stop"), "{second}");
    stage.stop().ok();
    assert_eq!(stage.left(), [""; 0]);
    let nothing = stage.stop();
    assert_eq!(nothing.code, Some(1), "{nothing}");
}

#[test]
fn killed_and_then_taken_away() {
    let Some(mut stage) = Stage::new("killed_and_then_taken_away") else {
        return;
    };
    let mut demo = stage.start(&[]);
    assert!(demo.read_to(3, 3), "{}", stage.notes());
    demo.signal(Signal::SIGKILL);
    let (status, _) = demo.end();
    assert!(tests::machine::signalled(status), "{status}");
    assert!(!stage.left().is_empty());
    stage.stop().ok();
    assert_eq!(stage.left(), [""; 0]);
}
