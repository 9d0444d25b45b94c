//! What the kernel's `FS_IOC_FIEMAP` reads and writes.

/// Extents that one look tells of.
pub(crate) const FILE_MAP_EXTENTS: usize = FILE_MAP_EXTENTS_U32 as usize;
const FILE_MAP_EXTENTS_U32: u32 = 64;

/// `struct fiemap` of the kernel, with room for extents.
#[repr(C)]
#[derive(Clone, Debug, Default)]
pub(crate) struct FileMap {
    pub(crate) start: u64,
    pub(crate) length: u64,
    pub(crate) flags: u32,
    pub(crate) mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    pub(crate) extents: FileExtents,
}

/// The extents of a [`FileMap`].
#[repr(C)]
#[derive(Clone, Debug)]
pub(crate) struct FileExtents(pub(crate) [FileExtent; FILE_MAP_EXTENTS]);

impl Default for FileExtents {
    fn default() -> Self {
        Self([FileExtent::default(); FILE_MAP_EXTENTS])
    }
}

/// `struct fiemap_extent` of the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FileExtent {
    pub(crate) logical: u64,
    pub(crate) physical: u64,
    pub(crate) length: u64,
    reserved: [u64; 2],
    pub(crate) flags: u32,
    reserved_more: [u32; 3],
}

impl FileMap {
    /// The question where so many bytes from `start` are, with room for the answer.
    pub(crate) fn asking(start: u64, length: u64) -> Self {
        Self {
            start,
            length,
            flags: 1, // FIEMAP_FLAG_SYNC
            extent_count: FILE_MAP_EXTENTS_U32,
            ..Self::default()
        }
    }
}
