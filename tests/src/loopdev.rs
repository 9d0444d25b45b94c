//! Loop devices on sparse files: a test's drives. Each goes with its guard, whatever happened on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::command::{program, run};

const LIMIT: Duration = Duration::from_secs(30);

/// A loop device that is ours until this value is dropped.
#[derive(Debug)]
pub struct LoopDevice {
    name: String,
    file: PathBuf,
}

impl LoopDevice {
    /// Why this machine has no loop devices for us; `None` when it has.
    #[must_use]
    pub fn refusal() -> Option<String> {
        if !nix::unistd::geteuid().is_root() {
            return Some("root is needed for loop devices and mounts".to_owned());
        }
        if !Path::new("/dev/loop-control").exists() {
            return Some("the kernel offers no loop devices (/dev/loop-control)".to_owned());
        }
        let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        if !known.contains("\txfs\n") {
            return Some("the kernel has no XFS (modprobe xfs)".to_owned());
        }
        None
    }

    /// Makes a sparse file of `bytes` and a loop device on it.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn create(file: &Path, bytes: u64) -> Self {
        let handle = fs::File::create(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        handle.set_len(bytes).expect("a sparse file");
        Self::attach(file)
    }

    /// Makes a loop device on a file that is there.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn attach(file: &Path) -> Self {
        let mut command = program("losetup");
        command.args(["--find", "--show", "--partscan"]).arg(file);
        let outcome = run(command, LIMIT).ok();
        let name = outcome.stdout.trim().trim_start_matches("/dev/").to_owned();
        Self {
            name,
            file: file.to_owned(),
        }
    }

    /// The kernel's name: `loop7`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `/dev/loop7`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }

    /// The file below it.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Checksum of all that is on it.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn checksum(&self) -> String {
        let mut command = program("sha256sum");
        command.arg(self.path());
        let printed = run(command, LIMIT).ok().stdout;
        // The name that follows may be another one the next time.
        printed.split(' ').next().unwrap_or_default().to_owned()
    }

    /// Where the device is mounted, deepest last.
    #[must_use]
    pub fn mounts(&self) -> Vec<PathBuf> {
        mounts()
            .into_iter()
            .filter(|mount| mount.source == self.path())
            .map(|mount| mount.target)
            .collect()
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        for target in self.mounts().iter().rev() {
            unmount(target);
        }
        let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
        let path = self.path().display().to_string();
        if swaps
            .lines()
            .any(|line| line.split(' ').next() == Some(&path))
        {
            let mut command = program("swapoff");
            command.arg(self.path());
            drop(run(command, LIMIT));
        }
        let mut command = program("losetup");
        command.arg("--detach").arg(self.path());
        drop(run(command, LIMIT));
    }
}

/// A line of the mount table.
#[derive(Clone, Debug)]
pub struct Mount {
    /// Where.
    pub target: PathBuf,
    /// Of what device.
    pub source: PathBuf,
    /// Options of this mount.
    pub options: String,
}

/// The mount table, in mount order.
#[must_use]
pub fn mounts() -> Vec<Mount> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let mut left = left.split(' ').skip(4);
            let target = left.next()?.replace("\\040", " ");
            Some(Mount {
                target: PathBuf::from(target),
                options: left.next()?.to_owned(),
                source: PathBuf::from(right.split(' ').nth(1)?),
            })
        })
        .collect()
}

/// Unmounts, even what is in use; what is not mounted is left alone.
pub fn unmount(target: &Path) {
    let flags = nix::mount::MntFlags::MNT_DETACH;
    if nix::mount::umount2(target, nix::mount::MntFlags::empty()).is_err() {
        nix::mount::umount2(target, flags).ok();
    }
}
