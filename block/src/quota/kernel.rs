//! Project ids and quota as the kernel lays them out in memory.

/// `struct fsxattr` of the kernel: a file's project id and flags.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FileAttributes {
    flags: u32,
    extent_size: u32,
    extent_count: u32,
    /// Project id; 0 for none.
    pub(crate) project: u32,
    cow_extent_size: u32,
    reserved: [u8; 8],
}

/// `FS_XFLAG_PROJINHERIT`.
const INHERIT_PROJECT: u32 = 0x200;

impl FileAttributes {
    /// Whether what is made in this directory gets its project id.
    pub(crate) const fn inherits_project(&self) -> bool {
        self.flags & INHERIT_PROJECT != 0
    }

    /// Makes it so.
    pub(crate) const fn inherit_project(&mut self) {
        self.flags |= INHERIT_PROJECT;
    }
}

/// `struct fs_disk_quota` of the kernel: sizes in blocks of 512 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DiskQuota {
    version: i8,
    flags: i8,
    field_mask: u16,
    pub(crate) id: u32,
    block_hard_limit: u64,
    block_soft_limit: u64,
    inode_hard_limit: u64,
    inode_soft_limit: u64,
    block_count: u64,
    inode_count: u64,
    inode_timer: i32,
    block_timer: i32,
    inode_warnings: u16,
    block_warnings: u16,
    timers_high: [i8; 4],
    realtime_hard_limit: u64,
    realtime_soft_limit: u64,
    realtime_count: u64,
    realtime_timer: i32,
    realtime_warnings: u16,
    reserved: [u8; 10],
}

/// What `quotactl_fd` is asked: each reads or writes one [`DiskQuota`], which is what `sys` relies on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum QuotaCommand {
    /// Limits and use of a project.
    Get = 3,
    /// Sets the limits of a project.
    SetLimits = 4,
    /// As `Get`, of the first project from this one on that has either.
    GetNext = 9,
}

/// `PRJQUOTA`.
const PROJECT_QUOTA: u32 = 2;

impl QuotaCommand {
    /// `QCMD` of the kernel's `Q_X…` command for projects.
    pub(crate) const fn number(self) -> u32 {
        (('X' as u32) << 8 | self as u32) << 8 | PROJECT_QUOTA
    }
}

const _: () = assert!(size_of::<FileAttributes>() == 28 && size_of::<DiskQuota>() == 112);

/// `FS_DQUOT_VERSION` and `FS_PROJ_QUOTA`.
const QUOTA_VERSION: i8 = 1;
const QUOTA_OF_PROJECT: i8 = 2;
/// `FS_DQ_ISOFT`, `_IHARD`, `_BSOFT` and `_BHARD`.
const ALL_LIMITS: u16 = 0b1111;

impl DiskQuota {
    /// For setting the limits of a project.
    pub(crate) fn of_project(id: u32) -> Self {
        Self {
            version: QUOTA_VERSION,
            flags: QUOTA_OF_PROJECT,
            id,
            ..Self::default()
        }
    }

    /// Sets both hard limits and clears the soft ones.
    pub(crate) const fn limit(&mut self, blocks: u64, inodes: u64) {
        self.field_mask = ALL_LIMITS;
        self.block_hard_limit = blocks;
        self.inode_hard_limit = inodes;
    }

    /// Id of the project that it is of.
    pub(crate) const fn project(&self) -> u32 {
        self.id
    }

    /// Hard limits: blocks, inodes.
    pub(crate) const fn limits(&self) -> (u64, u64) {
        (self.block_hard_limit, self.inode_hard_limit)
    }

    /// Use: blocks, inodes.
    pub(crate) const fn used(&self) -> (u64, u64) {
        (self.block_count, self.inode_count)
    }
}
