//! The real host: device nodes, sysfs, the mount table, and programs by full path with a time-out.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::drive::RepairMode;
use bench::Report;
use block::erase::Limiter;

use crate::probe::discovery::ReprobeError;
use crate::probe::{Discovery, Seen};

use super::{
    BlockCounters, Cause, FileKind, HeldDevice, Host, HostError, KeptName, MakeXfs, MountDevice,
    MountEntry, QuotaLimits, QuotaUsage, Repairing, Run, Statfs, TreeUsage, XfsErrors,
};

mod device;
pub mod engines;
mod files;
mod look;
mod measure;
mod mounts;
mod program;
mod quota;
mod repair;
mod xfs;

pub use engines::Engines;

/// This machine.
#[derive(Clone, Debug)]
pub struct LinuxHost {
    /// Root of sysfs.
    pub sys: PathBuf,
    /// Root of procfs.
    pub proc: PathBuf,
    /// How devices are read and written.
    pub engines: Engines,
    /// The pace at which devices are erased and read back.
    pub limiter: Arc<Limiter>,
    /// What looks at devices, and is told when one was changed from here.
    pub discovery: Discovery,
}

/// An error and all its causes, as one line.
fn sentence(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

/// The node of a device. Names have `!` where the path has a slash.
fn device_path(device: &str) -> PathBuf {
    Path::new("/dev").join(device.replace('!', "/"))
}

impl Host for LinuxHost {
    fn probe(&self, device: &str) -> Result<Seen, HostError> {
        self.discovery.reprobe(device).map_err(|error| {
            let cause = match error {
                ReprobeError::NotFound(_) => Cause::Io(io::Error::from_raw_os_error(libc::ENODEV)),
                ReprobeError::Sysfs(_) | ReprobeError::Changed(_) => {
                    Cause::Refused(sentence(&error))
                }
            };
            HostError {
                verb: "look at",
                target: device.to_owned(),
                cause,
            }
        })
    }

    fn read_device(&self, device: &str, offset: u64, bytes: u64) -> Result<Vec<u8>, HostError> {
        device::read(device, offset, bytes)
    }

    fn hold(&self, device: &str) -> Result<Box<dyn HeldDevice>, HostError> {
        let limiter = Arc::clone(&self.limiter);
        device::hold(device, self.engines.host(), limiter, self.discovery.clone())
    }

    fn keep_name(&self, device: &str) -> Result<KeptName, HostError> {
        device::keep_name(device)
    }

    fn measure(&self, device: &str, run: Run<'_>) -> Result<Report, HostError> {
        measure::device(&self.engines, &device_path(device), run)
    }

    fn measure_file(&self, path: &Path, run: Run<'_>) -> Result<Report, HostError> {
        measure::file(&self.engines, path, run)
    }

    fn counters(&self, device: &str) -> Result<BlockCounters, HostError> {
        device::counters(&self.sys, device)
    }

    fn make_xfs(&self, request: &MakeXfs) -> Result<(), HostError> {
        let made = xfs::make(request);
        self.discovery.changed(&request.device);
        made
    }

    fn repair_xfs(&self, device: &str, mode: RepairMode) -> Result<Box<dyn Repairing>, HostError> {
        repair::begin(device, mode)
    }

    fn mount(&self, request: &MountDevice) -> Result<(), HostError> {
        let number = device::number(&request.device)?;
        mounts::mount_device(&self.mounts()?, &number, request)
    }

    fn bind(&self, source: &Path, target: &Path, read_only: bool) -> Result<(), HostError> {
        mounts::bind(&self.mounts()?, source, target, read_only)
    }

    fn mount_empty(&self, target: &Path) -> Result<(), HostError> {
        mounts::mount_empty(&self.mounts()?, target)
    }

    fn unmount(&self, target: &Path) -> Result<(), HostError> {
        mounts::unmount(|| self.mounts(), target)
    }

    fn detach(&self, target: &Path) -> Result<(), HostError> {
        mounts::detach(target)
    }

    fn mounts(&self) -> Result<Vec<MountEntry>, HostError> {
        let path = self.proc.join("self/mountinfo");
        let table = std::fs::read(&path).map_err(|e| HostError::io("read", path.display(), e))?;
        Ok(mounts::parse(&table))
    }

    fn set_xfs_errors(&self, device: &str, errors: XfsErrors) -> Result<(), HostError> {
        xfs::set_errors(&self.sys, device, errors)
    }

    fn relabel_xfs(&self, mount: &Path, label: &str) -> Result<(), HostError> {
        xfs::relabel(mount, label)?;
        // No event tells of a write to what is mounted, and the label says whose the drive is.
        for entry in self.mounts()?.iter().filter(|one| one.target == mount) {
            self.discovery.changed(&entry.source);
        }
        Ok(())
    }

    fn statfs(&self, path: &Path) -> Result<Statfs, HostError> {
        files::statfs(path)
    }

    fn quota_supported(&self) -> bool {
        self.proc.join("fs/xfs/xqm").exists()
    }

    fn project(&self, directory: &Path) -> Result<u32, HostError> {
        quota::project(directory)
    }

    fn set_project(&self, directory: &Path, project: u32) -> Result<(), HostError> {
        quota::set_project(directory, project)
    }

    fn set_quota(
        &self,
        directory: &Path,
        project: u32,
        limits: QuotaLimits,
    ) -> Result<(), HostError> {
        quota::set_limits(directory, project, limits)
    }

    fn quota(&self, directory: &Path, project: u32) -> Result<QuotaUsage, HostError> {
        quota::usage(directory, project)
    }

    fn projects(&self, directory: &Path) -> Result<Vec<u32>, HostError> {
        quota::projects(directory)
    }

    fn resolve(&self, path: &Path) -> Result<PathBuf, HostError> {
        look::resolve(path)
    }

    fn tree_usage(&self, path: &Path, entries_max: u64) -> Result<Option<TreeUsage>, HostError> {
        look::tree_usage(path, entries_max)
    }

    fn create_dir(&self, path: &Path, mode: u32) -> Result<(), HostError> {
        files::create_dir(path, mode)
    }

    fn create_leaf(&self, path: &Path, mode: u32) -> Result<(), HostError> {
        files::create_leaf(path, mode)
    }

    fn remove_dir(&self, path: &Path) -> Result<(), HostError> {
        files::remove_dir(path)
    }

    fn list_dir(&self, path: &Path) -> Result<Vec<String>, HostError> {
        files::list_dir(path)
    }

    fn kind(&self, path: &Path) -> Result<Option<FileKind>, HostError> {
        files::kind(path)
    }

    fn symlink(&self, text: &str, path: &Path) -> Result<(), HostError> {
        files::symlink(text, path)
    }

    fn read_link(&self, path: &Path) -> Result<Option<PathBuf>, HostError> {
        files::read_link(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), HostError> {
        files::rename(from, to)
    }

    fn remove_tree(&self, path: &Path, entries_max: u64) -> Result<bool, HostError> {
        files::remove_tree(path, entries_max)
    }

    fn read_file(&self, path: &Path) -> Result<Option<Vec<u8>>, HostError> {
        files::read_file(path)
    }

    fn write_file(&self, path: &Path, content: &[u8]) -> Result<(), HostError> {
        files::write_file(path, content)
    }

    fn remove_file(&self, path: &Path) -> Result<(), HostError> {
        files::remove_file(path)
    }

    fn write_filled(&self, path: &Path, bytes: u64, seed: u64) -> Result<(), HostError> {
        files::write_filled(path, bytes, seed)
    }

    fn extents(&self, path: &Path) -> Result<Vec<block::extents::Extent>, HostError> {
        files::extents(path)
    }
}
