//! What a loop device stands on, by the kernel's own word: a path may be another file's in another mount namespace, and a
//! file may have several.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat;

use crate::sys;

/// The file or block device below a loop device. The kernel encodes device numbers as `stat` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ground {
    device: u64,
    inode: u64,
    /// The number of a block device.
    number: u64,
}

impl Ground {
    /// Of an open loop device; `None` where it stands on nothing.
    ///
    /// # Errors
    /// It is no loop device.
    pub fn of(device: &File) -> Result<Option<Self>, Errno> {
        match sys::loop_status(device.as_fd()) {
            Ok([device, inode, number, ..]) => Ok(Some(Self {
                device,
                inode,
                number,
            })),
            Err(Errno::ENXIO) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// What a path leads to here, where the loop device itself cannot be asked.
    #[must_use]
    pub fn at(path: &Path) -> Option<Self> {
        let found = std::fs::metadata(path).ok()?;
        Some(Self {
            device: found.dev(),
            inode: found.ino(),
            number: found.rdev(),
        })
    }

    /// Whether bytes of it are this open file's or block device's, by whatever name it was opened: a disk's are those of its
    /// partitions as well.
    ///
    /// # Errors
    /// The file cannot be looked at.
    pub fn is(&self, file: &File) -> std::io::Result<bool> {
        let found = file.metadata()?;
        Ok(if found.file_type().is_block_device() {
            let (one, other) = (found.rdev(), self.number);
            one == other || disk_of(one) == Some(other) || disk_of(other) == Some(one)
        } else {
            (found.dev(), found.ino()) == (self.device, self.inode)
        })
    }
}

/// The number of the disk that a block device is a partition of.
fn disk_of(number: u64) -> Option<u64> {
    let (major, minor) = (stat::major(number), stat::minor(number));
    let partition = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    let disk = partition
        .join("partition")
        .exists()
        .then_some(partition.parent()?)?;
    let text = std::fs::read_to_string(disk.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some(stat::makedev(major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_itself_by_every_name() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        let file = File::create(&one).unwrap();
        std::fs::hard_link(&one, &other).unwrap();
        assert!(Ground::at(&other).unwrap().is(&file).unwrap());
        let third = File::create(folder.path().join("third")).unwrap();
        assert!(!Ground::at(&other).unwrap().is(&third).unwrap());
        assert!(Ground::of(&file).is_err());
    }
}
