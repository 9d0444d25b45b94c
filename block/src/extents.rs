//! Where on its device a file is, by FIEMAP: health reads go to the written blocks of the probe file and nowhere else.
//! Blocks that were allocated and never written are left out: a device answers reads of those without its medium.

use std::fs::File;
use std::os::fd::AsFd as _;

use nix::errno::Errno;

use crate::sys;

pub(crate) mod kernel;

use kernel::FileExtent;

/// Extents of one file at most; a file with more is too fragmented to be read evenly.
const EXTENTS_MAX: usize = 4096;

const LAST: u32 = 0x1;
/// Unknown place, delayed, encoded, in an inode, tail-packed, unwritten: no block on the device holds these bytes.
const NOT_ON_DEVICE: u32 = 0x2 | 0x4 | 0x8 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800;

/// A run of bytes on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Byte offset on the device.
    pub offset: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Where the written parts of `file` are, in the order of the file.
///
/// # Errors
/// The file system does not tell, or tells of more than 4096 extents.
pub fn of_file(file: &File) -> Result<Vec<Extent>, Errno> {
    let mut extents = Vec::new();
    let mut start = 0;
    loop {
        let map = sys::file_map(file.as_fd(), start, u64::MAX - start)?;
        let count = usize::try_from(map.mapped_extents).unwrap_or(usize::MAX);
        let found = map.extents.0.get(..count).ok_or(Errno::EOVERFLOW)?;
        extents.extend(found.iter().filter_map(written));
        match found.last() {
            Some(last) if last.flags & LAST == 0 => start = last.logical + last.length,
            Some(_) | None => return Ok(extents),
        }
        if extents.len() > EXTENTS_MAX {
            return Err(Errno::EOVERFLOW);
        }
    }
}

fn written(found: &FileExtent) -> Option<Extent> {
    (found.flags & NOT_ON_DEVICE == 0).then_some(Extent {
        offset: found.physical,
        bytes: found.length,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_on_the_device_counts() {
        let cases = [
            (0, true),
            (LAST, true),
            (0x1000, true),
            (0x800, false),
            (0x4 | 0x2, false),
        ];
        for (flags, expected) in cases {
            let mut extent = FileExtent::default();
            extent.flags = flags;
            assert_eq!(written(&extent).is_some(), expected, "{flags:#x}");
        }
    }

    #[test]
    fn the_layout_is_the_kernels() {
        assert_eq!(size_of::<FileExtent>(), 56);
        let header = size_of::<kernel::FileMap>() - kernel::FILE_MAP_EXTENTS * 56;
        assert_eq!(header, 32);
    }

    #[test]
    fn a_file_without_a_map_is_told() {
        match of_file(&File::open("/proc/self/status").unwrap()) {
            Err(Errno::EOPNOTSUPP | Errno::ENOTTY) => {}
            other => panic!("{other:?}"),
        }
    }
}
