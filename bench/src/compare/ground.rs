//! Loop devices to compare on. A file in memory is unlinked as soon as its device stands on it, so that it goes with the
//! device; one on a disk keeps its name as long, for by that it is seen to have all of its blocks (kernel-notes/10).
//! A device is not kept open meanwhile: the kernel forgets what was read of a device when its last user lets go
//! (kernel-notes/36), and whoever reads through the page cache would find all of it there.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use super::process::{Order, Program, find, run};

/// Where files in memory go.
const MEMORY: &str = "/dev/shm";
/// Bytes written at once while a file is filled.
const CHUNK_BYTES: usize = 1 << 20;

/// A loop device that goes with this value.
#[derive(Debug)]
pub(crate) struct Loop {
    /// `/dev/loop7`
    pub(crate) path: PathBuf,
    /// Removed after the device.
    _file: Option<tempfile::NamedTempFile>,
}

impl Drop for Loop {
    fn drop(&mut self) {
        let words = ["--detach".into(), self.path.display().to_string()];
        let detached =
            find("losetup").map(|losetup| run(&[Program::new(&losetup, words)], Order::InTurn));
        if let Some(Err(error)) = detached {
            super::say(&format!("{} stays: {error:#}", self.path.display()));
        }
    }
}

/// What a loop device stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Under<'a> {
    /// A file in memory.
    Memory,
    /// A file in this folder.
    Disk(&'a Path),
}

/// What the file holds at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fill {
    /// Nothing at all.
    Holes,
    /// Random bytes, all of it: a hole is read without its ground, and would flatter who reads most.
    Random,
}

/// Whether files of a folder are in memory.
pub(crate) fn is_in_memory(folder: &Path) -> anyhow::Result<bool> {
    let found = statfs(folder).with_context(|| format!("cannot look at {}", folder.display()))?;
    Ok(found.filesystem_type() == TMPFS_MAGIC)
}

/// A loop device of `bytes`. `prepare` may put something into the file before it is attached.
pub(crate) fn make(
    under: Under<'_>,
    bytes: u64,
    fill: Fill,
    prepare: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<Loop> {
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "making loop devices needs root: start it with sudo, or name devices to compare on"
    );
    let folder = match under {
        Under::Memory => Path::new(MEMORY),
        Under::Disk(folder) => folder,
    };
    let file = tempfile::Builder::new()
        .prefix("ringpv-compare-")
        .tempfile_in(folder)
        .with_context(|| format!("cannot make a file in {}", folder.display()))?;
    file.as_file().set_len(bytes)?;
    if fill == Fill::Random {
        write_random(file.as_file(), bytes)
            .with_context(|| format!("cannot fill {bytes} bytes in {}", folder.display()))?;
    }
    prepare(file.path())?;
    let losetup = find("losetup").context("losetup (package mount) is missing")?;
    let attach = Program::new(
        &losetup,
        [
            "--find".into(),
            "--show".into(),
            "--direct-io=on".into(),
            file.path().display().to_string(),
        ],
    );
    let (_, said) = run(&[attach], Order::InTurn)?;
    Ok(Loop {
        path: PathBuf::from(said.trim()),
        _file: (under != Under::Memory).then_some(file),
    })
}

/// A file of random bytes in memory.
pub(crate) fn pattern(bytes: u64) -> anyhow::Result<tempfile::NamedTempFile> {
    let file = tempfile::Builder::new()
        .prefix("ringpv-compare-")
        .tempfile_in(MEMORY)
        .with_context(|| format!("cannot make a file in {MEMORY}"))?;
    write_random(file.as_file(), bytes).context("cannot fill a file in memory")?;
    Ok(file)
}

fn write_random(mut file: &File, bytes: u64) -> std::io::Result<()> {
    let mut random = block::random::Random::new(bytes);
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut left = bytes;
    while left > 0 {
        for word in chunk.chunks_exact_mut(8) {
            word.copy_from_slice(&random.bits().to_le_bytes());
        }
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        file.write_all(chunk.get(..part).unwrap_or_default())?;
        left -= part as u64;
    }
    file.sync_all()
}

/// The kernel's limit on reads of one device by this process and what it starts, while this value lives.
#[derive(Debug)]
pub(crate) struct Slowed {
    group: PathBuf,
    /// Where this process was before.
    home: PathBuf,
}

impl Slowed {
    /// Lets the device be read `reads_per_second` times a second.
    pub(crate) fn new(device: &Path, reads_per_second: u32) -> anyhow::Result<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let number = fs::metadata(device)?.rdev();
        let number = format!(
            "{}:{}",
            nix::sys::stat::major(number),
            nix::sys::stat::minor(number)
        );
        let (root, controller, file, limit) = [
            (
                "/sys/fs/cgroup/blkio",
                "blkio",
                "blkio.throttle.read_iops_device",
                format!("{number} {reads_per_second}"),
            ),
            (
                "/sys/fs/cgroup",
                "",
                "io.max",
                format!("{number} riops={reads_per_second}"),
            ),
        ]
        .into_iter()
        .find(|(root, ..)| Path::new(root).join("cgroup.procs").exists())
        .context("this kernel has no cgroups to slow a device with")?;
        let root = PathBuf::from(root);
        let table = fs::read_to_string("/proc/self/cgroup").context("/proc/self/cgroup")?;
        let home = root.join(group_of(&table, controller).trim_start_matches('/'));
        let group = root.join(format!("ringpv-compare-{}", std::process::id()));
        fs::create_dir(&group).with_context(|| format!("cannot make {}", group.display()))?;
        let slowed = Self { group, home };
        fs::write(slowed.group.join(file), limit)
            .with_context(|| format!("cannot set {file} of a new cgroup"))?;
        fs::write(
            slowed.group.join("cgroup.procs"),
            std::process::id().to_string(),
        )
        .context("cannot go into a new cgroup")?;
        Ok(slowed)
    }
}

impl Drop for Slowed {
    fn drop(&mut self) {
        let own = std::process::id().to_string();
        let _stays = fs::write(self.home.join("cgroup.procs"), own).is_err();
        // A process that was ended may take a moment to leave it.
        for _ in 0..100 {
            if fs::remove_dir(&self.group).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The group of a controller in `/proc/self/cgroup`; of the one hierarchy without a name where it has none.
fn group_of<'t>(table: &'t str, controller: &str) -> &'t str {
    let mut groups = table.lines().filter_map(|line| {
        let (controllers, group) = line.split_once(':')?.1.split_once(':')?;
        controllers
            .split(',')
            .any(|one| one == controller)
            .then_some(group)
    });
    groups.next_back().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_process_is() {
        let table = "5:cpu,cpuacct:/a\n4:blkio:/b/c\n0::/d\n";
        assert_eq!(group_of(table, "blkio"), "/b/c");
        assert_eq!(group_of(table, "cpuacct"), "/a");
        assert_eq!(group_of(table, ""), "/d");
        assert_eq!(group_of("", "blkio"), "");
    }
}
