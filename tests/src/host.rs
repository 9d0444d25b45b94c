//! A simulated machine behind the real door [`agent::host::Host`]: plain maps instead of a kernel.
//!
//! Every verb that changes something is an *effect*, and the process that uses the door may die just before or just
//! after any of them: [`SimHost::light_fuse`] says how many halves of effects it has left. What a dead process asks for
//! is refused and changes nothing; what it changed before stays, as it does on a real machine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use agent::host::{
    BlockCounters, FileKind, HeldDevice, Host, HostError, KeptName, MakeXfs, MountDevice,
    MountEntry, QuotaLimits, QuotaUsage, Repairing, Run, Statfs, TreeUsage, XfsErrors,
};
use agent::probe::{Policy, Seen, Snapshot};
use api::drive::RepairMode;
use bench::Report;
use block::extents::Extent;
use nix::errno::Errno;

pub mod disk;
mod drives;
mod files;
mod measure;
mod mounts;
pub mod space;
pub mod tree;

use space::{Lost, Space};
use tree::{Kind, Tree};

/// Something that cannot be taken back. The world judges each.
#[derive(Clone, Debug)]
pub enum Destroyed {
    /// A file system went with its superblock.
    FileSystem {
        /// Serial of its drive.
        serial: String,
        /// What it held.
        files: Box<Tree>,
    },
    /// A tree was removed.
    Removed {
        /// Serial of its drive.
        serial: String,
        /// The path on the drive.
        path: PathBuf,
    },
}

/// Size of a scratch file in the simulation.
const STAND_IN_BYTES: u64 = 1 << 20;

/// What is behind the door.
#[derive(Debug, Default)]
pub struct Machine {
    /// Files, drives, mounts.
    pub space: Space,
    /// Halves of effects left to the process; `None`: as many as it likes.
    pub fuse: Option<u64>,
    /// Effects done so far.
    pub effects: u64,
    /// What was destroyed since the world last looked.
    pub destroyed: Vec<Destroyed>,
    /// Whether the kernel has project quota.
    pub quota: bool,
    /// Node, cluster, and what a device must be.
    pub policy: Option<Policy>,
    /// Devices held exclusively.
    held: BTreeMap<String, u32>,
}

/// Why a verb failed.
enum Failure {
    /// The path or the drive.
    Lost(Lost),
    /// The kernel's answer.
    Errno(Errno),
    /// A refusal, as a sentence.
    Refused(&'static str),
}

impl From<Lost> for Failure {
    fn from(lost: Lost) -> Self {
        Self::Lost(lost)
    }
}

impl Failure {
    fn told(self, verb: &'static str, at: &Path) -> HostError {
        match self {
            Self::Lost(Lost::NotFound) => HostError::io(verb, at.display(), Errno::ENOENT),
            Self::Lost(Lost::Io) => HostError::io(verb, at.display(), Errno::EIO),
            Self::Errno(errno) => HostError::io(verb, at.display(), errno),
            Self::Refused(why) => HostError::refused(verb, at.display(), why),
        }
    }
}

const KILLED: Failure = Failure::Refused("the process was killed");

/// The door. Clones lead to the same machine.
#[derive(Clone, Debug, Default)]
pub struct SimHost {
    machine: Arc<Mutex<Machine>>,
    hung: Arc<(Mutex<BTreeSet<String>>, Condvar)>,
}

impl SimHost {
    /// What is behind the door.
    pub fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every device as the real judge sees it now. `drives` are the ids of the cluster's Drives of this node.
    #[must_use]
    pub fn snapshot(&self, drives: &BTreeSet<String>) -> Snapshot {
        self.machine().snapshot(drives)
    }

    /// From now on a mount of the device comes to no end, as by a drive that does not answer; or those that wait do.
    pub fn hang(&self, device: &str, hangs: bool) {
        let (devices, changed) = &*self.hung;
        let mut devices = devices.lock().unwrap_or_else(PoisonError::into_inner);
        if hangs {
            devices.insert(device.to_owned());
        } else {
            devices.remove(device);
        }
        changed.notify_all();
    }

    /// Returns once the device hangs no more.
    fn await_answer(&self, device: &str) {
        let (devices, changed) = &*self.hung;
        let devices = devices.lock().unwrap_or_else(PoisonError::into_inner);
        drop(changed.wait_while(devices, |devices| devices.contains(device)));
    }

    /// Gives the process `halves` halves of effects to live.
    pub fn light_fuse(&self, halves: Option<u64>) {
        self.machine().fuse = halves;
    }

    /// Whether the process died of its fuse.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.machine().fuse == Some(0)
    }

    /// A new process: nothing that the old one held is held.
    pub fn restart(&self) {
        let mut machine = self.machine();
        machine.fuse = None;
        machine.held.clear();
    }

    /// A boot: nothing is mounted.
    pub fn reboot(&self) {
        self.restart();
        self.machine().space.mounts.clear();
    }

    /// Reads; a dead process reads nothing.
    fn look<T>(
        &self,
        verb: &'static str,
        at: impl AsRef<Path>,
        look: impl FnOnce(&Machine) -> Result<T, Lost>,
    ) -> Result<T, HostError> {
        let machine = self.machine();
        if machine.fuse == Some(0) {
            return Err(KILLED.told(verb, at.as_ref()));
        }
        look(&machine).map_err(|lost| Failure::Lost(lost).told(verb, at.as_ref()))
    }

    /// One effect: half of it before, in which the process may die, the thing itself, and half of it after.
    fn change<T>(
        &self,
        verb: &'static str,
        at: impl AsRef<Path>,
        change: impl FnOnce(&mut Machine) -> Result<T, Failure>,
    ) -> Result<T, HostError> {
        let mut machine = self.machine();
        if !burn(&mut machine.fuse) {
            return Err(KILLED.told(verb, at.as_ref()));
        }
        let outcome = change(&mut machine);
        machine.effects += 1;
        if !burn(&mut machine.fuse) {
            return Err(KILLED.told(verb, at.as_ref()));
        }
        outcome.map_err(|failure| failure.told(verb, at.as_ref()))
    }
}

/// Takes one half off a fuse; false when the process is dead.
fn burn(fuse: &mut Option<u64>) -> bool {
    match fuse {
        None => true,
        Some(left) => {
            *left = left.saturating_sub(1);
            *left > 0
        }
    }
}

impl Host for SimHost {
    fn probe(&self, device: &str) -> Result<Seen, HostError> {
        self.look("probe", device, |m| m.probe(device))
    }

    fn read_device(&self, device: &str, offset: u64, bytes: u64) -> Result<Vec<u8>, HostError> {
        self.look("read", device, |m| Ok(m.disk(device)?.read(offset, bytes)))
    }

    fn hold(&self, device: &str) -> Result<Box<dyn HeldDevice>, HostError> {
        drives::hold(self, device)
    }

    fn keep_name(&self, device: &str) -> Result<KeptName, HostError> {
        drives::keep_name(self, device)
    }

    fn measure(&self, device: &str, run: Run<'_>) -> Result<Report, HostError> {
        let (serial, bytes) = self.look("measure", device, |m| {
            let disk = m.disk(device)?;
            Ok((disk.serial.clone(), disk.bytes))
        })?;
        measure::run(&serial, bytes, run)
    }

    fn measure_file(&self, path: &Path, run: Run<'_>) -> Result<Report, HostError> {
        let name = path.display().to_string();
        measure::run(&name, STAND_IN_BYTES, run)
    }

    fn counters(&self, device: &str) -> Result<BlockCounters, HostError> {
        self.look("count", device, |m| {
            m.disk(device).map(|_| BlockCounters::default())
        })
    }

    fn make_xfs(&self, request: &MakeXfs) -> Result<(), HostError> {
        self.change("format", &request.device, |m| m.make_xfs(request))
    }

    fn repair_xfs(&self, device: &str, mode: RepairMode) -> Result<Box<dyn Repairing>, HostError> {
        self.change("repair", device, |m| m.repair_xfs(device, mode))
    }

    fn mount(&self, request: &MountDevice) -> Result<(), HostError> {
        self.await_answer(&request.device);
        self.change("mount", &request.target, |m| m.mount(request))
    }

    fn bind(&self, source: &Path, target: &Path, read_only: bool) -> Result<(), HostError> {
        self.change("bind", target, |m| m.bind(source, target, read_only))
    }

    fn mount_empty(&self, target: &Path) -> Result<(), HostError> {
        self.change("mount", target, |m| m.mount_empty(target))
    }

    fn unmount(&self, target: &Path) -> Result<(), HostError> {
        self.change("unmount", target, |m| m.unmount(target))
    }

    fn detach(&self, target: &Path) -> Result<(), HostError> {
        self.change("detach", target, |m| {
            m.space.mounts.retain(|mount| mount.target != target);
            Ok(())
        })
    }

    fn relabel_xfs(&self, mount: &Path, label: &str) -> Result<(), HostError> {
        self.change("label", mount, |m| m.relabel(mount, label))
    }

    fn mounts(&self) -> Result<Vec<MountEntry>, HostError> {
        self.look("read", "mounts", |m| Ok(m.mount_table()))
    }

    fn set_xfs_errors(&self, device: &str, _errors: XfsErrors) -> Result<(), HostError> {
        self.look("set", device, |m| m.disk(device).map(drop))
    }

    fn statfs(&self, path: &Path) -> Result<Statfs, HostError> {
        self.look("statfs", path, |m| m.statfs(path))
    }

    fn quota_supported(&self) -> bool {
        self.machine().quota
    }

    fn project(&self, directory: &Path) -> Result<u32, HostError> {
        self.look("project", directory, |m| m.project(directory))
    }

    fn set_project(&self, directory: &Path, project: u32) -> Result<(), HostError> {
        self.change("project", directory, |m| m.set_project(directory, project))
    }

    fn set_quota(
        &self,
        directory: &Path,
        project: u32,
        limits: QuotaLimits,
    ) -> Result<(), HostError> {
        self.change("quota", directory, |m| {
            m.set_quota(directory, project, limits)
        })
    }

    fn quota(&self, directory: &Path, project: u32) -> Result<QuotaUsage, HostError> {
        self.look("quota", directory, |m| m.quota(directory, project))
    }

    fn projects(&self, directory: &Path) -> Result<Vec<u32>, HostError> {
        self.look("quota", directory, |m| m.projects(directory))
    }

    fn resolve(&self, path: &Path) -> Result<PathBuf, HostError> {
        self.look("resolve", path, |m| m.resolve(path))
    }

    fn tree_usage(&self, path: &Path, entries_max: u64) -> Result<Option<TreeUsage>, HostError> {
        self.look("count", path, |m| {
            let (tree, inode) = m.space.at(path, true)?;
            let (bytes, inodes) = tree.usage(inode);
            Ok((inodes <= entries_max).then_some(TreeUsage { bytes, inodes }))
        })
    }

    fn create_dir(&self, path: &Path, _mode: u32) -> Result<(), HostError> {
        self.change("make directory", path, |m| {
            Ok(m.space.make_dirs(path).map(drop)?)
        })
    }

    fn create_leaf(&self, path: &Path, _mode: u32) -> Result<(), HostError> {
        self.change("make directory", path, |m| {
            m.space.at(path.parent().unwrap_or(path), true)?;
            Ok(m.space.make_dirs(path).map(drop)?)
        })
    }

    fn remove_dir(&self, path: &Path) -> Result<(), HostError> {
        self.change("remove directory", path, |m| m.remove_dir(path))
    }

    fn list_dir(&self, path: &Path) -> Result<Vec<String>, HostError> {
        self.look("list", path, |m| {
            let (tree, inode) = m.space.at(path, true)?;
            tree.names(inode).ok_or(Lost::NotFound)
        })
    }

    fn kind(&self, path: &Path) -> Result<Option<FileKind>, HostError> {
        self.look("look at", path, |m| m.kind(path))
    }

    fn symlink(&self, text: &str, path: &Path) -> Result<(), HostError> {
        self.change("link", path, |m| match m.read_link(path)? {
            Some(found) if found == Path::new(text) => Ok(()),
            Some(_) => Err(Failure::Refused("it is another link")),
            None => m.put(path, Kind::Link(text.to_owned())),
        })
    }

    fn read_link(&self, path: &Path) -> Result<Option<PathBuf>, HostError> {
        self.look("read link", path, |m| m.read_link(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), HostError> {
        self.change("rename", from, |m| m.rename(from, to))
    }

    fn remove_tree(&self, path: &Path, entries_max: u64) -> Result<bool, HostError> {
        self.change("remove", path, |m| m.remove_tree(path, entries_max))
    }

    fn read_file(&self, path: &Path) -> Result<Option<Vec<u8>>, HostError> {
        self.look("read", path, |m| m.read_file(path))
    }

    fn write_file(&self, path: &Path, content: &[u8]) -> Result<(), HostError> {
        self.change("write", path, |m| m.put(path, Kind::File(content.to_vec())))
    }

    fn remove_file(&self, path: &Path) -> Result<(), HostError> {
        self.change("remove", path, |m| m.remove_file(path))
    }

    fn write_filled(&self, path: &Path, bytes: u64, _seed: u64) -> Result<(), HostError> {
        self.change("fill", path, |m| m.put(path, Kind::Filled(bytes)))
    }

    fn extents(&self, path: &Path) -> Result<Vec<Extent>, HostError> {
        self.look("map", path, |m| {
            let (tree, inode) = m.space.at(path, true)?;
            let bytes = tree.usage(inode).0;
            Ok(vec![Extent {
                offset: 1 << 20,
                bytes,
            }])
        })
    }
}
