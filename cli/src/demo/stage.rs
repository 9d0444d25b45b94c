//! What the demo starts, and how it goes away again. A note of it lies in the demo's own directory, so that `--stop`
//! can take away what a killed demo left. Nothing is ever found by a guess: a process is its id and its start time, a
//! loop device is the backing file that the demo made, a mount is a place under the directory that the demo made.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use api::Reason;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::advice::{Refusal, Stop};
use crate::session::Session;

/// The note; a directory without it is not the demo's.
const NOTE: &str = "demo.json";
/// The kernel takes no longer name for a socket than 107 bytes.
const DIR_LENGTH_MAX: usize = 80;
/// How long a process may take to end when asked.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// How often something is looked at again.
const AGAIN: Duration = Duration::from_millis(50);
/// Lines of a log that are shown after a failure.
const LOG_LINES: usize = 15;

/// What was started.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Note {
    processes: Vec<Process>,
    cgroup: Option<PathBuf>,
    subtree_control: Option<PathBuf>,
}

/// A process, told from a later one of its id.
#[derive(Debug, Serialize, Deserialize)]
struct Process {
    name: String,
    id: u32,
    started: String,
}

/// The demo's place and everything in it.
pub(super) struct Stage {
    dir: PathBuf,
    note: Note,
    /// The process group of the command that is being run.
    running: Option<u32>,
}

impl Stage {
    /// Makes the directory. One that is there is somebody else's, or an earlier demo's.
    pub(super) fn new(dir: PathBuf) -> Result<Self, Stop> {
        let shown = dir.display().to_string();
        if shown.len() > DIR_LENGTH_MAX {
            return Err(Stop::Usage(format!(
                "--dir {shown}: {DIR_LENGTH_MAX} characters at most, for it holds sockets"
            )));
        }
        match std::fs::create_dir(&dir) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let next = if dir.join(NOTE).is_file() {
                    format!("take the earlier demo away: kubectl ringpv demo --stop --dir {shown}")
                } else {
                    "name another with --dir".to_owned()
                };
                return Err(Stop::refused(
                    Refusal::new(Reason::FileExists, shown)
                        .detail("the directory is there already")
                        .next(next),
                ));
            }
            Err(error) => {
                return Err(Stop::Failed(
                    anyhow::Error::from(error).context(format!("cannot make {shown}")),
                ));
            }
        }
        let stage = Self {
            dir: real(&dir)?,
            note: Note::default(),
            running: None,
        };
        stage.save()?;
        Ok(stage)
    }

    /// What an earlier demo left.
    pub(super) fn left_behind(dir: &Path) -> Result<Self, Stop> {
        let note = match std::fs::read_to_string(dir.join(NOTE)) {
            Ok(text) => serde_json::from_str(&text).context("the demo's note is damaged")?,
            Err(_) => {
                return Err(Stop::refused(
                    Refusal::new(Reason::NothingMatched, dir.display().to_string())
                        .detail("no demo is there")
                        .next("name its directory with --dir"),
                ));
            }
        };
        Ok(Self {
            dir: real(dir)?,
            note,
            running: None,
        })
    }

    /// A place under the demo's directory.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn save(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.note)?;
        let (beside, note) = (self.path("demo.json.new"), self.path(NOTE));
        std::fs::write(&beside, text).context("cannot write the demo's note")?;
        std::fs::rename(&beside, note).context("cannot write the demo's note")
    }

    /// What the demo's commands are told through their environment.
    pub(super) fn environment(&self) -> BTreeMap<&'static str, String> {
        let text = |name: &str| self.path(name).display().to_string();
        BTreeMap::from([
            ("KUBECONFIG", text("embedded/kubeconfig")),
            (
                "RINGPV_CONTROLLER_ENDPOINT",
                format!("unix://{}", text("run/controller.sock")),
            ),
            (
                "RINGPV_NODE_ENDPOINT",
                format!("unix://{}", text("run/agent.sock")),
            ),
            ("RINGPV_MOUNTS", text("state/mounts.yaml")),
        ])
    }

    /// Starts a program that stays, in a process group of its own: Ctrl-C is for the demo, which ends it in order.
    pub(super) async fn start(
        &mut self,
        name: &str,
        program: &Path,
        args: &[String],
    ) -> Result<u32> {
        let log = std::fs::File::create(self.path(&format!("log/{name}")))?;
        let mut command = Command::new(program);
        command
            .args(args)
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        #[cfg(unix)]
        command.process_group(0);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let id = child.id().ok_or_else(|| anyhow!("{name} ended at once"))?;
        let started = start_time(id).ok_or_else(|| anyhow!("{name} ended at once"))?;
        self.note.processes.push(Process {
            name: name.to_owned(),
            id,
            started,
        });
        self.save()?;
        // Reaped when it ends; whether it runs is asked of the kernel.
        tokio::spawn(async move {
            let mut child = child;
            drop(child.wait().await);
        });
        Ok(id)
    }

    /// Runs a command to its end, in a process group of its own: where the demo is interrupted meanwhile, the command
    /// and all that it started are ended before anything is taken away, so that nothing is made behind its back.
    pub(super) async fn run(&mut self, mut command: Command) -> std::io::Result<Output> {
        command.stdin(Stdio::null());
        #[cfg(unix)]
        command.process_group(0);
        let child = command.spawn()?;
        self.running = child.id();
        let output = child.wait_with_output().await;
        self.running = None;
        output
    }

    /// Runs a program and returns what it printed.
    pub(super) async fn output(&mut self, program: &str, args: &[&str]) -> Result<String> {
        let mut command = Command::new(program);
        command
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let output = self.run(command).await;
        let output = output.with_context(|| format!("cannot run {program}"))?;
        printed(program, args, &output)
    }

    /// Ends the command that was being run when the demo was interrupted.
    async fn end_running(&mut self) -> Result<()> {
        let Some(group) = self.running.take() else {
            return Ok(());
        };
        for signal in ["-TERM", "-KILL"] {
            // Its processes may have ended in this moment.
            drop(output("kill", &[signal, "--", &format!("-{group}")]).await);
            let tries = END_TIMEOUT.as_millis() / AGAIN.as_millis();
            for _ in 0..tries {
                if !group_runs(group) {
                    return Ok(());
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
        bail!("it does not end")
    }

    /// Notes a cgroup, and the file in which its parent had a controller switched on for it.
    pub(super) fn remember_cgroup(
        &mut self,
        cgroup: PathBuf,
        subtree_control: Option<PathBuf>,
    ) -> Result<()> {
        self.note.cgroup = Some(cgroup);
        self.note.subtree_control = subtree_control;
        self.save()
    }

    /// The first process that has ended though it should not.
    pub(super) fn ended(&self) -> Option<&str> {
        let ended = self
            .note
            .processes
            .iter()
            .find(|p| start_time(p.id).as_ref() != Some(&p.started));
        ended.map(|p| p.name.as_str())
    }

    /// The last lines of the processes' logs.
    pub(super) fn show_logs(&self, session: &mut Session) -> Result<(), Stop> {
        for process in &self.note.processes {
            let file = self.path(&format!("log/{}", process.name));
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            session
                .screen
                .note(format!("\nThe last of what {} said:", process.name))?;
            for line in lines
                .get(lines.len().saturating_sub(LOG_LINES)..)
                .unwrap_or_default()
            {
                session.screen.note(format!("  {line}"))?;
            }
        }
        Ok(())
    }

    /// Takes everything away; what is still there afterwards is named.
    pub(super) async fn take_away(mut self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        if let Err(error) = self.end_running().await {
            left.push(format!("the command that was being run: {error}"));
        }
        // The agent first, as it uses what the controller serves.
        for process in self.note.processes.iter().rev() {
            if let Err(error) = end(process).await {
                left.push(format!(
                    "process {} ({}): {error}",
                    process.id, process.name
                ));
            }
        }
        let memory = self.path("memory");
        for mount in mounts_under(&self.dir)?
            .into_iter()
            .rev()
            .filter(|m| *m != memory)
        {
            unmount(&mount, &mut left).await;
        }
        for device in self.loops().await? {
            if let Err(error) = output("losetup", &["-d", &device]).await {
                left.push(format!("{device}: {error:#}"));
            }
        }
        // A loop device that was busy a moment ago is let go by the kernel a moment later.
        for _ in 0..40 {
            if self.loops().await?.is_empty() {
                break;
            }
            tokio::time::sleep(AGAIN).await;
        }
        left.extend(self.loops().await?);
        for mount in mounts_under(&self.dir)?.into_iter().rev() {
            unmount(&mount, &mut left).await;
        }
        if let Some(cgroup) = self.note.cgroup.as_deref().filter(|c| c.exists()) {
            if let Err(error) = std::fs::remove_dir(cgroup) {
                left.push(format!("{}: {error}", cgroup.display()));
            }
            if let Some(file) = &self.note.subtree_control {
                std::fs::write(file, "-io")
                    .with_context(|| format!("cannot write {}", file.display()))?;
            }
        }
        left.extend(
            mounts_under(&self.dir)?
                .iter()
                .map(|m| format!("the mount {}", m.display())),
        );
        // Only where nothing is mounted any more may a tree be removed: what is mounted is not a file of the demo.
        if left.is_empty() {
            std::fs::remove_dir_all(&self.dir)
                .with_context(|| format!("cannot remove {}", self.dir.display()))?;
        }
        Ok(left)
    }

    /// Loop devices whose backing files are the demo's.
    async fn loops(&self) -> Result<Vec<String>> {
        let list = output(
            "losetup",
            &[
                "--list",
                "--noheadings",
                "--raw",
                "--output",
                "NAME,BACK-FILE",
            ],
        )
        .await?;
        let ours = list.lines().filter_map(|line| {
            let (name, file) = line.split_once(' ')?;
            Path::new(file.trim())
                .starts_with(&self.dir)
                .then(|| name.to_owned())
        });
        Ok(ours.collect())
    }
}

/// The path as the kernel's tables name it.
fn real(dir: &Path) -> Result<PathBuf> {
    dir.canonicalize()
        .with_context(|| format!("cannot tell where {} is", dir.display()))
}

/// When a process started, in the kernel's ticks; `None` where there is none, or only its zombie.
fn start_time(id: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name in parentheses may hold anything; what follows the last one is fields 3 and on.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}

/// Whether any process of a group runs.
fn group_runs(group: u32) -> bool {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok())
        .any(|stat| {
            let mut fields = stat
                .rsplit_once(')')
                .map_or("", |(_, rest)| rest)
                .split_ascii_whitespace();
            fields.next() != Some("Z") && fields.nth(1) == Some(group.to_string().as_str())
        })
}

/// Asks a process to end, and ends it where it does not.
async fn end(process: &Process) -> Result<()> {
    let runs = || start_time(process.id).as_ref() == Some(&process.started);
    for signal in ["-TERM", "-KILL"] {
        if !runs() {
            return Ok(());
        }
        output("kill", &[signal, &process.id.to_string()]).await?;
        let tries = END_TIMEOUT.as_millis() / AGAIN.as_millis();
        for _ in 0..tries {
            if !runs() {
                return Ok(());
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
    bail!("it does not end")
}

async fn unmount(mount: &Path, left: &mut Vec<String>) {
    let mut error = String::new();
    for _ in 0..40 {
        match output("umount", &[&mount.display().to_string()]).await {
            Ok(_) => return,
            Err(busy) => error = format!("{busy:#}"),
        }
        tokio::time::sleep(AGAIN).await;
    }
    left.push(format!("the mount {}: {error}", mount.display()));
}

/// Mount points under a directory, in the order in which they were mounted.
fn mounts_under(dir: &Path) -> Result<Vec<PathBuf>> {
    let table =
        std::fs::read_to_string("/proc/self/mountinfo").context("cannot read the mount table")?;
    let places = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape);
    Ok(places
        .map(PathBuf::from)
        .filter(|p| p.starts_with(dir))
        .collect())
}

/// The kernel writes space, tab, newline and backslash of a path in octal.
fn unescape(text: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// Runs a program and returns what it printed.
pub(super) async fn output(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("cannot run {program}"))?;
    printed(program, args, &output)
}

fn printed(program: &str, args: &[&str], output: &Output) -> Result<String> {
    if !output.status.success() {
        bail!(
            "{program} {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_by_its_start() {
        let id = std::process::id();
        let ours = start_time(id);
        assert!(
            ours.as_deref()
                .is_some_and(|t| t.bytes().all(|b| b.is_ascii_digit())),
            "{ours:?}"
        );
        assert_eq!(start_time(u32::MAX), None);
    }

    #[test]
    fn only_a_directory_with_the_note_is_a_demo() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Stage::left_behind(dir.path()).is_err());
        let Err(stop) = Stage::new(dir.path().to_owned()) else {
            panic!("a directory that is there is not taken");
        };
        assert!(stop.lines()[0].contains("another with --dir"), "{stop:?}");
    }

    #[test]
    fn mount_points_with_spaces() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
    }
}
