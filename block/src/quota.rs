//! Project quota of XFS: the project id of a directory, and the limits and use of a project.
//!
//! Rule: everything here goes by an open directory, never by a device's name, so it reaches the very file system that
//! the caller has open. An id is a property of the directory and works on every kernel that has XFS; limits and use
//! need a kernel with XFS quota and a mount with `prjquota`, else the answer is [`QuotaError::Unsupported`].
//!
//! Ids belong to one file system. Id 0 is what belongs to no project; nothing here limits it.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use thiserror::Error;

use crate::sys;
use kernel::{DiskQuota, FileAttributes, QuotaCommand};

pub(crate) mod kernel;

/// XFS accounts in blocks of this many bytes; a limit is a whole number of them.
pub const LIMIT_GRAIN_BYTES: u64 = 4096;
/// The unit in which the kernel takes and gives sizes here.
const BASIC_BLOCK_BYTES: u64 = 512;

/// Hard limits of a project; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes. In force is the next lower multiple of [`LIMIT_GRAIN_BYTES`], but never less than one of them.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// Limits and use of one project.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Its id.
    pub project: u32,
    /// Limits in force.
    pub limits: Limits,
    /// Bytes used.
    pub used_bytes: u64,
    /// Inodes used.
    pub used_inodes: u64,
}

/// A quota that could not be read or set.
#[derive(Debug, Error)]
pub enum QuotaError {
    /// The kernel has no XFS quota, the mount has no `prjquota`, or this is no XFS.
    #[error("no project quota is in force at {}", .0.display())]
    Unsupported(PathBuf),
    /// Id 0 is everybody's: it is not given and not limited.
    #[error("project 0 of {} is no project", .0.display())]
    ProjectZero(PathBuf),
    /// The kernel refused.
    #[error("{verb} of project {project} at {}", path.display())]
    Kernel {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// For which project.
        project: u32,
        /// Its answer.
        #[source]
        source: io::Error,
    },
}

impl QuotaError {
    /// Whether there is no quota here at all, so that asking again is vain.
    #[must_use]
    pub const fn is_unsupported(&self) -> bool {
        matches!(self, Self::Unsupported(_))
    }

    /// The kernel's number for it, where the kernel refused.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel { source, .. } => source.raw_os_error(),
            Self::Unsupported(_) | Self::ProjectZero(_) => None,
        }
    }
}

/// An open directory of the file system meant.
#[derive(Debug)]
pub struct Directory {
    file: File,
    path: PathBuf,
}

impl Directory {
    /// Opens a directory for reading. A symbolic link at the end of `path` is refused: a project id must not land on
    /// what somebody let it point to.
    ///
    /// # Errors
    /// Not there, no directory, or not readable.
    pub fn open(path: &Path) -> Result<Self, QuotaError> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        let file = File::options()
            .read(true)
            .custom_flags(flags.bits())
            .open(path)
            .map_err(|source| QuotaError::Kernel {
                verb: "opening the directory",
                path: path.to_owned(),
                project: 0,
                source,
            })?;
        Ok(Self {
            file,
            path: path.to_owned(),
        })
    }

    /// Its project id; 0 for none.
    ///
    /// # Errors
    /// No XFS.
    pub fn project(&self) -> Result<u32, QuotaError> {
        let attributes = self.attributes(0)?;
        Ok(attributes.project)
    }

    /// Gives it a project id that everything made in it from now on inherits.
    ///
    /// # Errors
    /// Id 0, no XFS, or the kernel refused.
    pub fn set_project(&self, project: u32) -> Result<(), QuotaError> {
        if project == 0 {
            return Err(QuotaError::ProjectZero(self.path.clone()));
        }
        let mut attributes = self.attributes(project)?;
        if attributes.project == project && attributes.inherits_project() {
            return Ok(());
        }
        attributes.project = project;
        attributes.inherit_project();
        sys::set_file_attributes(self.file.as_fd(), &attributes)
            .map_err(|errno| self.failed("setting the id", project, errno))
    }

    /// Sets the limits of a project; they are in force when this returns.
    ///
    /// # Errors
    /// Id 0, [`QuotaError::Unsupported`], or the kernel refused.
    pub fn set_limits(&self, project: u32, limits: Limits) -> Result<(), QuotaError> {
        if project == 0 {
            return Err(QuotaError::ProjectZero(self.path.clone()));
        }
        let mut quota = DiskQuota::of_project(project);
        quota.limit(limit_bytes(limits.bytes) / BASIC_BLOCK_BYTES, limits.inodes);
        sys::quotactl(
            self.file.as_fd(),
            QuotaCommand::SetLimits,
            project,
            &mut quota,
        )
        .map_err(|errno| self.failed("setting the limits", project, errno))
    }

    /// Limits and use of a project; all zero for one that was never used.
    ///
    /// # Errors
    /// [`QuotaError::Unsupported`], or the kernel refused.
    pub fn usage(&self, project: u32) -> Result<Usage, QuotaError> {
        match self.asked(QuotaCommand::Get, project) {
            Ok(quota) => Ok(usage(project, &quota)),
            Err(Errno::ENOENT) => Ok(Usage {
                project,
                ..Usage::default()
            }),
            Err(errno) => Err(self.failed("reading the quota", project, errno)),
        }
    }

    /// The projects from id `from` on that use or limit anything, in order; at most `count_max`.
    ///
    /// # Errors
    /// [`QuotaError::Unsupported`], or the kernel refused.
    pub fn projects(&self, from: u32, count_max: usize) -> Result<Vec<Usage>, QuotaError> {
        let mut found = Vec::new();
        let mut next = Some(from);
        while let Some(project) = next.filter(|_| found.len() < count_max) {
            let quota = match self.asked(QuotaCommand::GetNext, project) {
                Ok(quota) => quota,
                Err(Errno::ENOENT) => break,
                Err(errno) => return Err(self.failed("listing the projects", project, errno)),
            };
            found.push(usage(quota.project(), &quota));
            next = quota.project().checked_add(1);
        }
        Ok(found)
    }

    fn asked(&self, command: QuotaCommand, project: u32) -> Result<DiskQuota, Errno> {
        let mut quota = DiskQuota::default();
        sys::quotactl(self.file.as_fd(), command, project, &mut quota)?;
        Ok(quota)
    }

    fn attributes(&self, project: u32) -> Result<FileAttributes, QuotaError> {
        sys::file_attributes(self.file.as_fd())
            .map_err(|errno| self.failed("reading the id", project, errno))
    }

    /// ENOSYS: no quota in the kernel or none on this mount. ESRCH: quota, but not of projects. ENOTTY,
    /// EOPNOTSUPP: no such file system.
    fn failed(&self, verb: &'static str, project: u32, errno: Errno) -> QuotaError {
        let unsupported = [
            Errno::ENOSYS,
            Errno::ESRCH,
            Errno::ENOTTY,
            Errno::EOPNOTSUPP,
        ];
        if unsupported.contains(&errno) {
            return QuotaError::Unsupported(self.path.clone());
        }
        QuotaError::Kernel {
            verb,
            path: self.path.clone(),
            project,
            source: errno.into(),
        }
    }
}

/// The limit that is in force where `bytes` are asked for; 0 stays no limit.
#[must_use]
pub const fn limit_bytes(bytes: u64) -> u64 {
    match bytes {
        0 => 0,
        1..LIMIT_GRAIN_BYTES => LIMIT_GRAIN_BYTES,
        _ => bytes - bytes % LIMIT_GRAIN_BYTES,
    }
}

fn usage(project: u32, quota: &DiskQuota) -> Usage {
    let (limit_blocks, limit_inodes) = quota.limits();
    let (used_blocks, used_inodes) = quota.used();
    Usage {
        project,
        limits: Limits {
            bytes: limit_blocks.saturating_mul(BASIC_BLOCK_BYTES),
            inodes: limit_inodes,
        },
        used_bytes: used_blocks.saturating_mul(BASIC_BLOCK_BYTES),
        used_inodes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_never_above_what_was_asked_and_never_none() {
        for (asked, in_force) in [
            (0, 0),
            (1, 4096),
            (4095, 4096),
            (4096, 4096),
            (8191, 4096),
            (5 << 30, 5 << 30),
        ] {
            assert_eq!(limit_bytes(asked), in_force, "{asked}");
        }
    }

    #[test]
    fn elsewhere_than_on_xfs_it_says_unsupported() {
        let proc = Directory::open(Path::new("/proc")).unwrap();
        assert!(proc.usage(1).unwrap_err().is_unsupported());
        assert!(
            proc.set_limits(1, Limits::default())
                .unwrap_err()
                .is_unsupported()
        );
        assert!(proc.project().unwrap_err().is_unsupported());
        let zero = proc.set_project(0).unwrap_err();
        assert!(matches!(zero, QuotaError::ProjectZero(_)), "{zero}");
    }
}
