//! What was read about a device. Nothing is concluded here.

use std::path::PathBuf;

use api::drive::Transport;
use block::claim::{Claim, ClaimError};
use block::signature::Found;

/// What sysfs, procfs and the device itself say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// The kernel's name, without `/dev/`.
    pub name: String,
    /// Its node.
    pub path: PathBuf,
    /// `major:minor`.
    pub major_minor: String,
    /// Grows with each medium behind a node: two readings with one number are of one device (kernel-notes/34).
    /// 0 before Linux 5.15.
    pub diskseq: u64,
    /// What it is to the kernel.
    pub kind: DeviceKind,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Logical sector in bytes.
    pub logical_block_bytes: u32,
    /// Physical sector in bytes.
    pub physical_block_bytes: u32,
    /// Write-protected.
    pub read_only: bool,
    /// Its medium can be taken out.
    pub removable: bool,
    /// A path of a multipath namespace, not to be used itself.
    pub hidden: bool,
    /// It has zones that are written in order.
    pub zoned: bool,
    /// It spins.
    pub rotational: bool,
    /// NUMA node of its controller.
    pub numa_node: Option<u32>,
    /// How it is attached.
    pub transport: Transport,
    /// Model as it says.
    pub model: String,
    /// Serial as it says.
    pub serial: String,
    /// World-wide name with its scheme: `eui.…`, `naa.…`, `nvme.…`, a device mapper's or array's UUID.
    pub wwid: String,
    /// Firmware revision.
    pub firmware: String,
    /// Its place in the machine, such as `0000:01:00.0`; empty for virtual devices.
    pub place: String,
    /// For a partition: of which disk, which number, from which sector of 512 bytes.
    pub partition: Option<PartitionOf>,
    /// Partitions on it.
    pub partitions: Vec<String>,
    /// Devices built upon it.
    pub holders: Vec<String>,
    /// Loop devices that stand on it or on its disk, which the kernel counts as nobody's hold (kernel-notes/07).
    pub loops: Vec<String>,
    /// Devices it is built upon.
    pub slaves: Vec<String>,
    /// For a loop device: its file.
    pub backing: Option<BackingFile>,
    /// Where a file system on it is mounted.
    pub mounts: Vec<PathBuf>,
    /// Swap is on it.
    pub swap: bool,
    /// What reading it said.
    pub media: Media,
}

/// What a device is to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceKind {
    /// A whole disk.
    Disk,
    /// A partition.
    Partition,
    /// A loop device.
    Loop,
    /// Device mapper: LVM, LUKS, multipath.
    DeviceMapper,
    /// An md array.
    Md,
    /// An optical drive.
    CdRom,
    /// RAM, compressed RAM, floppy, a network's or a flash chip's block device.
    Unsupported,
}

/// Where a partition is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionOf {
    /// The disk.
    pub disk: String,
    /// Its number.
    pub number: u32,
    /// Where it begins, in sectors of 512 bytes.
    pub start_sector: u64,
}

/// The file behind a loop device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackingFile {
    /// Its path when it was attached.
    pub path: PathBuf,
    /// `st_dev:st_ino`; empty where the path cannot be looked up from here.
    pub inode: String,
    /// Where in the file the device begins.
    pub offset_bytes: u64,
}

/// What reading a device said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Media {
    /// It was not read: a device of its kind is never a drive.
    Unread,
    /// It did not answer in time.
    Unresponsive {
        /// With particulars.
        message: String,
    },
    /// It could not be opened or read.
    Failed {
        /// With particulars.
        message: String,
    },
    /// It was read.
    Read {
        /// What it holds.
        found: Vec<Found>,
        /// Its claim block, if it has one.
        claim: Result<Option<Claim>, ClaimError>,
    },
}
