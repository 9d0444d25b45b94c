//! Project quota through `block::quota`, in the words of the host.

use std::io;
use std::path::Path;

use block::quota::{Directory, Limits, QuotaError};

use super::super::{HostError, QuotaLimits, QuotaUsage};

/// Projects that are listed; an XFS with more volumes than this is not ours.
const PROJECTS_MAX: usize = 100_000;

pub(super) fn project(directory: &Path) -> Result<u32, HostError> {
    Directory::open(directory)
        .and_then(|open| open.project())
        .map_err(|error| failed("read the project of", directory, error))
}

pub(super) fn set_project(directory: &Path, project: u32) -> Result<(), HostError> {
    Directory::open(directory)
        .and_then(|open| open.set_project(project))
        .map_err(|error| failed("set the project of", directory, error))
}

pub(super) fn set_limits(
    directory: &Path,
    project: u32,
    limits: QuotaLimits,
) -> Result<(), HostError> {
    let limits = Limits {
        bytes: limits.bytes,
        inodes: limits.inodes,
    };
    file_system_of(directory)
        .and_then(|open| open.set_limits(project, limits))
        .map_err(|error| failed("set the quota of", directory, error))
}

pub(super) fn usage(directory: &Path, project: u32) -> Result<QuotaUsage, HostError> {
    let usage = file_system_of(directory)
        .and_then(|open| open.usage(project))
        .map_err(|error| failed("read the quota of", directory, error))?;
    Ok(QuotaUsage {
        limits: QuotaLimits {
            bytes: usage.limits.bytes,
            inodes: usage.limits.inodes,
        },
        used_bytes: usage.used_bytes,
        used_inodes: usage.used_inodes,
    })
}

pub(super) fn projects(directory: &Path) -> Result<Vec<u32>, HostError> {
    let found = file_system_of(directory)
        .and_then(|open| open.projects(1, PROJECTS_MAX))
        .map_err(|error| failed("list the projects of", directory, error))?;
    Ok(found.iter().map(|usage| usage.project).collect())
}

/// Any directory of the file system does, so a guard link at the end of the path may be followed.
fn file_system_of(directory: &Path) -> Result<Directory, QuotaError> {
    Directory::open(&directory.join("."))
}

fn failed(verb: &'static str, directory: &Path, error: QuotaError) -> HostError {
    match error {
        QuotaError::Kernel { source, .. } => HostError::io(verb, directory.display(), source),
        QuotaError::Unsupported(_) => {
            let errno = io::Error::from_raw_os_error(libc::EOPNOTSUPP);
            HostError::io(verb, directory.display(), errno)
        }
        QuotaError::ProjectZero(_) => {
            HostError::refused(verb, directory.display(), "0 is no project")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_says_what_is_missing() {
        let proc = Path::new("/proc");
        let unsupported =
            |errno| matches!(errno, Some(libc::ENOTTY | libc::ENOSYS | libc::EOPNOTSUPP));
        assert!(unsupported(usage(proc, 1).unwrap_err().errno()));
        assert!(unsupported(project(proc).unwrap_err().errno()));
        assert!(project(Path::new("/no/such")).unwrap_err().is_not_found());
        assert!(set_project(proc, 0).unwrap_err().errno().is_none());
    }
}
