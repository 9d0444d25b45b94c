//! Passthrough: reads as the drive's own commands, past the kernel's block layer, through the character device that stands
//! beside an NVMe block device (`/dev/ng0n1` beside `/dev/nvme0n1`).
//!
//! The rule: it reads, and a person asked for it by hand. A ring can be held to commands but not to commands that read
//! (kernel-notes/22), so what the kernel does for a [`Ring<ReadOnly>`](super::Ring) is done by this file: the one function that makes a command
//! (`Namespace::entry`) makes NVMe Read out of an [`Op::Read`], and has no other number to write there. It is a type of its
//! own, which [`open`](crate::open) never gives: health checks and probes, which open by that, cannot have one.
//!
//! Whether it works is not believed but tried, by one read at the opening; where it does not, the block device is read
//! as ever, and says why.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use io_uring::register::Restriction;
use io_uring::{cqueue, opcode, squeue, types};
use nix::errno::Errno;
use nix::sys::stat::{major, minor};

use super::polled::{Polling, TRIAL_NS, WhyInterrupts};
use super::queues::QueuePair;
use super::{
    RingFlags, UNREGISTER_BUFFERS, UNREGISTER_FILES, UNREGISTER_RING_FDS, accept, check_depth,
    failed, not_entered, refused,
};
use crate::buffer::Buffer;
use crate::device::{Completion, Device, Geometry, Op, OpKind, Options, Wait, transfer};
use crate::error::{DeviceError, IoCause, NvmeStatus, OpenError, Refused, errno_of};
use crate::sys;
use crate::target::{ReadOnly, Target};

/// `NVME_URING_CMD_IO` of the kernel's `nvme_ioctl.h`: `_IOWR('N', 0x80, struct nvme_uring_cmd)`.
const NVME_URING_CMD_IO: u32 = 0xc048_4e80;
/// The opcode of NVMe Read.
const NVME_READ: u8 = 0x02;
/// Blocks of one command: their number is written in 16 bits, from 0.
const BLOCKS_MAX: u64 = 1 << 16;
/// The bits of a command word.
const WORD: u64 = 0xffff_ffff;
/// A buffer lies in so many pages that need not lie side by side.
const PAGE_BYTES: u64 = 4096;
/// Where the kernel lists such devices.
const CLASS: &str = "nvme-generic";

/// Why a device is not read by commands of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhyBlocks {
    /// It has no character device of NVMe beside it.
    NotNvme,
    /// It is a part of a drive, and commands reach all of the drive.
    Partition,
    /// The drive keeps more than the data with each block, or this kernel (before 6.8) does not say.
    Metadata,
    /// The character device could not be opened.
    Open(PathBuf, Errno),
    /// The character device is not that of the block device.
    Other(PathBuf),
    /// One command does not read so much.
    TooLong {
        /// What one command reads.
        max_bytes: u64,
    },
    /// There is no such ring.
    Setup(Errno),
    /// The read that tried it failed.
    Read(IoCause),
    /// The read that tried it was not answered.
    Unanswered,
}

impl fmt::Display for WhyBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNvme => f.write_str("it is no NVMe namespace"),
            Self::Partition => f.write_str("it is a partition, and commands reach the whole drive"),
            Self::Metadata => f.write_str(
                "the kernel does not say that blocks hold nothing beside the data (metadata_bytes)",
            ),
            Self::Open(path, errno) => write!(f, "cannot open {}: {errno}", path.display()),
            Self::Other(path) => write!(f, "{} belongs to another device", path.display()),
            Self::TooLong { max_bytes } => write!(f, "one command reads at most {max_bytes} bytes"),
            Self::Setup(errno) => write!(f, "io_uring says {errno}"),
            Self::Read(cause) => write!(f, "the first read says {cause}"),
            Self::Unanswered => f.write_str("the first read was not answered"),
        }
    }
}

/// The character device of a namespace: what commands are sent to, and what must be known to make one.
#[derive(Debug)]
pub(crate) struct Namespace {
    file: File,
    path: PathBuf,
    id: u32,
    sector_bytes: u32,
    /// What one command reads.
    max_bytes: u64,
    /// Its place among the registered files, or its descriptor.
    fixed: bool,
    /// The ring, so that another ring's buffers are not taken for registered.
    ring: u32,
}

impl Namespace {
    /// The one that stands beside the block device.
    fn beside(target: &Target<ReadOnly>) -> Result<Self, WhyBlocks> {
        let is_device = target.file().metadata();
        if !is_device.is_ok_and(|it| it.file_type().is_block_device()) {
            return Err(WhyBlocks::NotNvme);
        }
        let (major, minor) = target.number().ok_or(WhyBlocks::NotNvme)?;
        let number = format!("/sys/dev/block/{major}:{minor}");
        let block = fs::canonicalize(number).map_err(|_| WhyBlocks::NotNvme)?;
        if block.join("partition").exists() {
            return Err(WhyBlocks::Partition);
        }
        let generic = generic_of(&block).ok_or(WhyBlocks::NotNvme)?;
        let class = fs::canonicalize(generic.join("subsystem"));
        if !class.is_ok_and(|class| class.ends_with(CLASS)) {
            return Err(WhyBlocks::NotNvme);
        }
        // Blocks that carry more than their data would be longer than the buffers.
        if target.attribute("metadata_bytes").as_deref() != Some("0") {
            return Err(WhyBlocks::Metadata);
        }
        let read = |path: PathBuf| Some(fs::read_to_string(path).ok()?.trim().to_owned());
        let name = generic.file_name().unwrap_or_default();
        let path = Path::new("/dev").join(name);
        let file = OpenOptions::new().read(true).open(&path);
        let file = file.map_err(|error| WhyBlocks::Open(path.clone(), errno_of(&error)))?;
        let is_it = file.metadata().is_ok_and(|found| {
            found.file_type().is_char_device()
                && read(generic.join("dev")) == Some(number_of(found.rdev()))
        });
        let id = is_it
            .then(|| sys::namespace_id(file.as_fd()).ok())
            .flatten();
        let id = id.filter(|id| target.attribute("nsid") == Some(id.to_string()));
        let sector_bytes = target.geometry().sector_bytes;
        let limit = |name: &str| target.attribute(name).and_then(|text| text.parse().ok());
        Ok(Self {
            id: id.ok_or_else(|| WhyBlocks::Other(path.clone()))?,
            file,
            path,
            sector_bytes,
            max_bytes: max_bytes(
                sector_bytes,
                limit("queue/max_hw_sectors_kb"),
                limit("queue/max_segments"),
            ),
            fixed: false,
            ring: 0,
        })
    }

    /// What to push for `op`: NVMe Read into its own buffer, which is what `sys` relies on. `None` for what is not that.
    pub(crate) fn entry(&self, op: &mut Op, user_data: u64) -> Option<squeue::Entry128> {
        let (offset, buffer) = match op {
            Op::Read { offset, buffer } => (*offset, buffer),
            Op::Nop => {
                let nop = opcode::Nop::new().build();
                return Some(squeue::Entry128::from(nop).user_data(user_data));
            }
            Op::Write { .. } | Op::Flush => return None,
        };
        let len = u64::try_from(buffer.len()).ok()?;
        let address = buffer.as_mut_ptr().expose_provenance() as u64;
        let command = read_command(self.id, self.sector_bytes, offset, len, address)?;
        let index = buffer
            .registered()
            .filter(|registered| registered.ring == self.ring)
            .map(|registered| registered.index);
        let (number, flags) = match self.fixed {
            true => (0, squeue::Flags::FIXED_FILE),
            false => (self.file.as_raw_fd(), squeue::Flags::empty()),
        };
        let entry = opcode::UringCmd80::new(types::Fd(number), NVME_URING_CMD_IO)
            .buf_index(index)
            .cmd(command)
            .build();
        Some(entry.flags(flags).user_data(user_data))
    }
}

/// The place in sysfs of the character device that belongs to a block device: both are told apart by two letters.
fn generic_of(block: &Path) -> Option<PathBuf> {
    let rest = block.file_name()?.to_str()?.strip_prefix("nvme")?;
    Some(block.with_file_name(format!("ng{rest}")))
}

/// The block device that belongs to a character device, for those who name that; `None` where it is none of NVMe's.
#[must_use]
pub fn block_beside(path: &Path) -> Option<PathBuf> {
    let found = fs::metadata(path).ok()?;
    let number = Some(number_of(found.rdev())).filter(|_| found.file_type().is_char_device())?;
    let generic = fs::canonicalize(Path::new("/sys/dev/char").join(number)).ok()?;
    let rest = generic.file_name()?.to_str()?.strip_prefix("ng")?;
    let block = generic.with_file_name(format!("nvme{rest}"));
    let is_it = block.is_dir() && generic_of(&block).as_deref() == Some(&generic);
    is_it.then(|| Path::new("/dev").join(format!("nvme{rest}")))
}

fn number_of(device: u64) -> String {
    format!("{}:{}", major(device), minor(device))
}

/// What one command reads, at most: nobody takes it apart on the way.
fn max_bytes(sector_bytes: u32, hardware_kib: Option<u64>, segments: Option<u64>) -> u64 {
    let hardware = hardware_kib.map_or(PAGE_BYTES, |kib| kib.saturating_mul(1024));
    let pages = segments.map_or(PAGE_BYTES, |count| count.saturating_mul(PAGE_BYTES));
    hardware
        .min(pages)
        .min(BLOCKS_MAX * u64::from(sector_bytes))
}

/// The kernel's `struct nvme_uring_cmd` for NVMe Read. `None`: no command reads that.
fn read_command(
    namespace: u32,
    sector_bytes: u32,
    offset: u64,
    len: u64,
    address: u64,
) -> Option<[u8; 80]> {
    let sector = u64::from(sector_bytes);
    if !offset.is_multiple_of(sector) || !len.is_multiple_of(sector) {
        return None;
    }
    let first = offset / sector;
    // Counted from 0.
    let blocks = u16::try_from((len / sector).checked_sub(1)?).ok()?;
    let mut command = [0; 80];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = command.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    put(0, &[NVME_READ]);
    put(4, &namespace.to_ne_bytes());
    put(24, &address.to_ne_bytes());
    put(36, &u32::try_from(len).ok()?.to_ne_bytes());
    // Command words 10 and 11: the first block; 12: how many.
    put(40, &u32::try_from(first & WORD).ok()?.to_ne_bytes());
    put(44, &u32::try_from(first >> 32).ok()?.to_ne_bytes());
    put(48, &u32::from(blocks).to_ne_bytes());
    Some(command)
}

/// A drive that is read by commands of its own.
pub struct Passthrough {
    queues: QueuePair<squeue::Entry128, cqueue::Entry32>,
    target: Target<ReadOnly>,
    namespace: Namespace,
}

impl fmt::Debug for Passthrough {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passthrough")
            .field("namespace", &self.namespace)
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

impl Passthrough {
    /// One over the drive that `target` is, with which one sector was read; polling for its answers where that was
    /// `polled_for` and works. Or why there is none.
    ///
    /// # Errors
    /// The depth is out of bounds.
    pub fn tried(
        target: &Target<ReadOnly>,
        options: Options,
        flags: RingFlags,
        polled_for: bool,
    ) -> Result<Result<Self, WhyBlocks>, OpenError> {
        let depth = check_depth(target, options)?;
        let polls = || target.attribute("queue/io_poll").as_deref() == Some("1");
        let polling = match polled_for {
            false => Polling::NotAsked,
            true if polls() => Polling::Polled,
            true => Polling::Refused(WhyInterrupts::NoQueues),
        };
        let begun = |polling| Self::begun(target.clone(), (depth, options), flags, polling);
        let why = match (begun(polling), polling) {
            (Err(WhyBlocks::Setup(errno)), Polling::Polled) => WhyInterrupts::Setup(errno),
            (Err(WhyBlocks::Read(IoCause::Kernel(errno))), Polling::Polled) => {
                WhyInterrupts::Read(Some(errno))
            }
            (Err(WhyBlocks::Read(_) | WhyBlocks::Unanswered), Polling::Polled) => {
                WhyInterrupts::Read(None)
            }
            (tried, _) => return Ok(tried),
        };
        Ok(begun(Polling::Refused(why)))
    }

    fn begun(
        target: Target<ReadOnly>,
        (depth, options): (usize, Options),
        flags: RingFlags,
        polling: Polling,
    ) -> Result<Self, WhyBlocks> {
        let mut namespace = Namespace::beside(&target)?;
        let max_bytes = namespace.max_bytes;
        if options.buffer_bytes as u64 > max_bytes {
            return Err(WhyBlocks::TooLong { max_bytes });
        }
        let fd = namespace.file.as_raw_fd();
        let mut allowed = commands_alone();
        let queues = QueuePair::enabled(fd, (depth, options), flags, polling, &mut allowed);
        let queues = queues.map_err(|(_, errno)| WhyBlocks::Setup(errno))?;
        (namespace.ring, namespace.fixed) = (queues.id, queues.fixed);
        let mut device = Self {
            queues,
            namespace,
            target,
        };
        // A buffer of its own: those that are registered are for the work.
        let buffer = Buffer::zeroed(device.namespace.sector_bytes as usize);
        let wait = Wait::Until(device.now_ns() + TRIAL_NS);
        match transfer(&mut device, Op::Read { offset: 0, buffer }, wait) {
            Ok(_) => Ok(device),
            Err(DeviceError::Io(error)) => Err(WhyBlocks::Read(error.cause)),
            Err(_) => Err(WhyBlocks::Unanswered),
        }
    }
}

/// The ring takes commands to a drive, and no-ops. That they read cannot be said here (kernel-notes/22).
fn commands_alone() -> [Restriction; 6] {
    [
        Restriction::sqe_op(opcode::Nop::CODE),
        Restriction::sqe_op(opcode::UringCmd80::CODE),
        Restriction::sqe_flags_allowed(squeue::Flags::FIXED_FILE.bits()),
        Restriction::register_op(UNREGISTER_BUFFERS),
        Restriction::register_op(UNREGISTER_FILES),
        Restriction::register_op(UNREGISTER_RING_FDS),
    ]
}

impl Device for Passthrough {
    fn name(&self) -> &str {
        self.target.name()
    }

    fn engine(&self) -> &'static str {
        "passthrough"
    }

    fn description(&self) -> String {
        let path = self.namespace.path.display();
        self.queues.description(&format!(", passthrough {path}"))
    }

    fn geometry(&self) -> Geometry {
        self.target.geometry()
    }

    fn depth(&self) -> usize {
        self.queues.depth
    }

    fn in_flight(&self) -> usize {
        self.queues.ring.in_flight()
    }

    fn now_ns(&self) -> u64 {
        self.queues.now_ns()
    }

    fn buffer(&mut self, len: usize) -> Buffer {
        self.queues.buffer(len)
    }

    fn submit(&mut self, token: u64, op: Op) -> Result<(), Refused> {
        let (min_bytes, max_bytes) = (self.namespace.sector_bytes, self.namespace.max_bytes);
        let cause = match accept::<ReadOnly>(&self.target.geometry(), &op) {
            Err(cause) => Some(cause),
            Ok(())
                if op.kind() == OpKind::Read && !(1..=max_bytes).contains(&(op.len() as u64)) =>
            {
                Some(IoCause::CommandLength {
                    min_bytes,
                    max_bytes,
                })
            }
            Ok(()) => None,
        };
        if let Some(cause) = cause {
            return Err(refused(self.target.name(), op, cause));
        }
        let depth = self.queues.depth;
        let pushed = self.queues.ring.push(&self.namespace, token, op);
        pushed.map_err(|op| refused(self.target.name(), op, IoCause::Full { depth }))
    }

    fn complete(&mut self, wait: Wait, done: &mut Vec<Completion>) -> Result<(), DeviceError> {
        let name = self.target.name();
        let reaped = self.queues.answers(wait, |_, token, op, result| {
            let result = answer(result).map_err(|cause| failed(name, &op, cause));
            done.push(Completion { token, op, result });
        });
        reaped.map(drop).map_err(|errno| not_entered(name, errno))
    }
}

/// What the kernel's number means: 0 is whole, above is the drive's own status, below the kernel's.
fn answer(result: i32) -> Result<(), IoCause> {
    match u16::try_from(result) {
        Ok(0) => Ok(()),
        Ok(status) => Err(IoCause::Nvme(NvmeStatus::new(status))),
        Err(_) => Err(IoCause::Kernel(Errno::from_raw(result.saturating_neg()))),
    }
}

impl super::Ring<ReadOnly> {
    /// Tells in its description why it reads blocks though commands were asked for.
    pub(crate) fn instead_of_passthrough(&mut self, why: WhyBlocks) {
        self.instead = Some(why);
    }
}

#[cfg(test)]
mod tests;
