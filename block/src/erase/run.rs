//! Erasing for real: one held device, by its [`Course`], at the pace of a [`Limiter`], with a [`Warrant`] or not at all.
//!
//! [`Eraser`] does one piece; [`erase`] does all of them, for who has nothing else to do between two. The agent goes piece by
//! piece, because it writes its cursor to the API in between.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::stat::{major, minor};

use super::burst::{self, Burst};
use super::course::{Queue, Zeroed};
use super::{Course, Limiter, Method, Piece, Range, Turn, Turns, Warrant, part_at};
use crate::bulk::{self, Bulk, BulkError};
use crate::claim::CLAIM_BYTES;
use crate::clock::Clock;
use crate::uring::RingFlags;

mod secure;

/// `FALLOC_FL_WRITE_ZEROES`, which the C library's headers do not name yet (kernel-notes/12).
const WRITE_ZEROES: i32 = 0x80;

/// Devices for which zeroing with and without unmapping is one command (NVMe, virtio). A loop device passes both on to a
/// file system, and there ZERO_RANGE allocates every block that it zeroes: it would fill the disk below, unless it has
/// all of them already (kernel-notes/10).
const ONE_COMMAND: [&str; 2] = ["nvme", "vd"];
/// Bytes of a block as `stat` counts them.
const STAT_BLOCK_BYTES: u64 = 512;

/// What the first piece by a method is written over with where it is zero.
const TRIAL_BYTE: u8 = 0xa5;
/// A piece that spares others ends after so long.
const SPARING_PIECE_NS: u64 = 1_000_000_000;
/// Between two looks whether its turn has come.
const TURN_PAUSE: Duration = Duration::from_millis(2);

/// Why an erasure stopped.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// A call on the device failed.
    #[error("{} of {bytes} bytes at {offset}", .method.as_str())]
    Offload {
        /// Which.
        method: Method,
        /// Where it began.
        offset: u64,
        /// How long it was.
        bytes: u64,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The device says that it did it, and did not.
    #[error("{} was answered as done, but the byte at {offset} is not zero", .method.as_str())]
    Unproved {
        /// Which.
        method: Method,
        /// The first byte that is not zero.
        offset: u64,
    },
    /// A write or a read failed.
    #[error("{}", .0.to_string())]
    Bulk(#[source] BulkError),
    /// What was zeroed could not be made durable.
    #[error("flushing the device")]
    Flush(#[source] io::Error),
    /// It is no block device that can be measured.
    #[error("the device cannot be looked at")]
    NoDevice(#[source] io::Error),
    /// Somebody asked for the end.
    #[error("stopped after {done_bytes} of {total_bytes} bytes")]
    Cancelled {
        /// Bytes done: a cursor to go on from.
        done_bytes: u64,
        /// Bytes in all.
        total_bytes: u64,
    },
}

impl EraseError {
    /// The device cannot do it so; another way may do.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Offload { method, source, .. } => source
                .raw_os_error()
                .is_some_and(|errno| method.is_refused_by(errno)),
            Self::Unproved { .. } => true,
            Self::Bulk(_) | Self::Flush(_) | Self::NoDevice(_) | Self::Cancelled { .. } => false,
        }
    }
}

/// A device that is being erased, open for writing with `O_DIRECT` and held by whoever made this.
#[derive(Debug)]
pub struct Eraser {
    file: Arc<File>,
    bulk: Bulk,
    limiter: Arc<Limiter>,
    major_minor: String,
    size_bytes: u64,
    sysfs: PathBuf,
    /// The place in sysfs of the disk that it is a part of; its own where it is one.
    disk: PathBuf,
    /// See [`Queue::one_command`].
    one_command: bool,
    /// Of what it zeroes by itself, by a method; one piece at a time.
    burst: Mutex<(Method, Burst)>,
    /// Waited for before it zeroes by itself and spares others.
    turns: Option<Arc<Turns>>,
    clock: Clock,
}

impl Eraser {
    /// Over a block device. By io_uring with the flags that [`probe_backend`](crate::probe_backend) found, else by threads.
    ///
    /// # Errors
    /// [`EraseError::NoDevice`].
    pub fn new(
        file: Arc<File>,
        uring: Option<RingFlags>,
        limiter: Arc<Limiter>,
    ) -> Result<Self, EraseError> {
        let found = file.metadata().map_err(EraseError::NoDevice)?;
        if !found.file_type().is_block_device() {
            return Err(EraseError::NoDevice(Errno::ENOTBLK.into()));
        }
        let size_bytes = io::Seek::seek(&mut &*file, io::SeekFrom::End(0));
        let major_minor = format!("{}:{}", major(found.rdev()), minor(found.rdev()));
        let bulk = Bulk::new(Arc::clone(&file), uring, Arc::clone(&limiter));
        let sysfs = Path::new("/sys/dev/block").join(&major_minor);
        let name = kernel_name(&sysfs);
        let disk = disk_of(&sysfs);
        Ok(Self {
            one_command: ONE_COMMAND.iter().any(|kind| name.starts_with(kind))
                || is_on_allocated_file(&disk),
            sysfs,
            disk,
            major_minor,
            size_bytes: size_bytes.map_err(EraseError::NoDevice)?,
            bulk,
            file,
            limiter,
            burst: Mutex::new((Method::PunchHole, Burst::default())),
            turns: None,
            clock: Clock::start_plain(),
        })
    }

    /// The same, which zeroes by itself in turn with all others that have these turns, where there is a rate.
    #[must_use]
    pub fn in_turn(self, turns: &Arc<Turns>) -> Self {
        Self {
            turns: Some(Arc::clone(turns)),
            ..self
        }
    }

    /// Size of the device.
    #[must_use]
    pub const fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// `major:minor` of the device.
    #[must_use]
    pub fn major_minor(&self) -> &str {
        &self.major_minor
    }

    /// The pace.
    #[must_use]
    pub fn limiter(&self) -> &Limiter {
        &self.limiter
    }

    /// Zeroes one piece. [`EraseError::is_refusal`] where the device cannot do it so. The first piece by each method of the
    /// device's own is read back, and where it was zero before it is written over first: a device that answers and does nothing
    /// is found out before all of it is zeroed in vain. Not durable before [`flush`](Self::flush). With `spare`, and where there
    /// is a rate, what the device does by itself is cut and rests in between, so that others have half of the time of what they
    /// share with it, as far as the rate leaves it ([`burst`]); and a long piece ends after its first second.
    ///
    /// # Errors
    /// [`EraseError`].
    ///
    /// # Panics
    /// The warrant is for another device, or the piece is not erasable.
    pub fn zero(&self, warrant: &Warrant, piece: Piece, spare: bool) -> Result<Zeroed, EraseError> {
        warrant.assert_device(&self.major_minor, self.size_bytes);
        warrant.assert_erasable(piece.range);
        let (bytes, took_ns) = match piece.method {
            Method::ZeroWrites => {
                let begun = self.clock.now_ns();
                self.bulk.zero(piece.range).map_err(EraseError::Bulk)?;
                let took_ns = self.clock.now_ns().saturating_sub(begun);
                (piece.range.bytes, took_ns)
            }
            Method::PunchHole | Method::ZeroRange | Method::WriteZeroes => {
                if piece.trial {
                    self.make_nonzero(piece.range)?;
                }
                let zeroed = self.offload(piece, spare)?;
                if piece.trial {
                    unproved(piece.method, self.find_nonzero(piece.range)?)?;
                }
                zeroed
            }
        };
        Ok(Zeroed {
            bytes,
            took_ns,
            queue: self.queue(),
        })
    }

    /// What is zero already would prove nothing. Its beginning is enough.
    fn make_nonzero(&self, range: Range) -> Result<(), EraseError> {
        let beginning = Range {
            bytes: range.bytes.min(CLAIM_BYTES),
            ..range
        };
        if self.find_nonzero(beginning)?.is_some() {
            return Ok(());
        }
        let bytes = usize::try_from(beginning.bytes).unwrap_or(0);
        bulk::write_unflushed(&self.file, range.offset, &vec![TRIAL_BYTE; bytes])
            .map_err(EraseError::Bulk)
    }

    /// Makes durable what was zeroed. Zeroing by the device does not flush what the device holds back.
    ///
    /// # Errors
    /// [`EraseError::Flush`].
    pub fn flush(&self) -> Result<(), EraseError> {
        self.file.sync_data().map_err(EraseError::Flush)
    }

    /// The offset of the first byte of `range` that is not zero, read past the page cache.
    ///
    /// # Errors
    /// [`EraseError::Bulk`].
    pub fn find_nonzero(&self, range: Range) -> Result<Option<u64>, EraseError> {
        self.bulk.find_nonzero(range).map_err(EraseError::Bulk)
    }

    /// How many bytes the device has zeroed, and for how many nanoseconds it was at it.
    fn offload(
        &self,
        Piece {
            range,
            method,
            trial,
        }: Piece,
        spare: bool,
    ) -> Result<(u64, u64), EraseError> {
        let flags = match method {
            Method::ZeroRange => FallocateFlags::FALLOC_FL_ZERO_RANGE,
            Method::WriteZeroes => FallocateFlags::from_bits_retain(WRITE_ZEROES),
            Method::PunchHole | Method::ZeroWrites => {
                FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE
            }
        };
        let rate = self.limiter.bytes_per_second().filter(|_| spare);
        let turns = self.turns.as_ref().filter(|_| rate.is_some());
        let _turn = turns.map(|turns| self.turn(turns));
        let mut bursts = self.burst.lock().unwrap_or_else(PoisonError::into_inner);
        if bursts.0 != method {
            *bursts = (method, Burst::default());
        }
        let burst = &mut bursts.1;
        let (mut done, mut busy_ns) = (0, 0);
        let begun_ns = self.clock.now_ns();
        while let Some(part) = part_at(&[range], done, rate.map_or(u64::MAX, |_| burst.bytes())) {
            let begun = self.clock.now_ns();
            zero_by(&self.file, flags, part).map_err(|source| EraseError::Offload {
                method,
                offset: part.offset,
                bytes: part.bytes,
                source,
            })?;
            let took_ns = self.clock.now_ns().saturating_sub(begun);
            busy_ns += took_ns;
            done += part.bytes;
            if let Some(rate) = rate {
                burst.done(part.bytes, took_ns);
                std::thread::sleep(burst::rest(part.bytes, took_ns, rate));
                // Who waits for the piece hears of a change of mind, and other devices have their turn.
                let long = self.clock.now_ns().saturating_sub(begun_ns) > SPARING_PIECE_NS;
                if long && !trial {
                    break;
                }
            }
        }
        Ok((done, busy_ns))
    }

    /// Waits until it has its turn.
    fn turn(&self, turns: &Arc<Turns>) -> Turn {
        let mut turn = turns.ask();
        while !turn.has_come(self.clock.now_ns()) {
            std::thread::sleep(TURN_PAUSE);
        }
        turn
    }

    /// What the kernel says now of what the device can do; nothing where it does not say.
    #[must_use]
    pub fn queue(&self) -> Queue {
        let read = |name: &str| queue_limit(&self.disk, name);
        Queue {
            zeroes_bytes_max: read("write_zeroes_max_bytes"),
            unmap_bytes_max: read("write_zeroes_unmap_max_bytes"),
            one_command: self.one_command,
        }
    }
}

/// Zeroes by the device.
fn zero_by(file: &File, flags: FallocateFlags, range: Range) -> io::Result<()> {
    let signed = |n: u64| i64::try_from(n).map_err(|_| Errno::EFBIG);
    Ok(fallocate(
        file,
        flags,
        signed(range.offset)?,
        signed(range.bytes)?,
    )?)
}

/// An error where something was found that is not zero.
fn unproved(method: Method, found: Option<u64>) -> Result<(), EraseError> {
    found.map_or(Ok(()), |offset| {
        Err(EraseError::Unproved { method, offset })
    })
}

/// `nvme0n1`; empty where sysfs does not say.
fn kernel_name(sysfs: &Path) -> String {
    let place = std::fs::read_link(sysfs).unwrap_or_default();
    let name = place.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The disk that a partition lies on: one directory up, as the kernel follows the link. It alone has a queue.
fn disk_of(sysfs: &Path) -> PathBuf {
    if sysfs.join("partition").exists() {
        sysfs.join("..")
    } else {
        sysfs.to_owned()
    }
}

/// 0 where sysfs does not say.
fn queue_limit(disk: &Path, name: &str) -> u64 {
    let text = std::fs::read_to_string(disk.join("queue").join(name));
    text.map_or(0, |text| text.trim().parse().unwrap_or(0))
}

/// Whether it is a loop device over a file that has all of its blocks: nothing more is allocated for it.
fn is_on_allocated_file(sysfs: &Path) -> bool {
    let backing = std::fs::read_to_string(sysfs.join("loop/backing_file"));
    let file = backing.and_then(|path| std::fs::metadata(path.trim_end()));
    file.is_ok_and(|file| file.is_file() && file.blocks() * STAT_BLOCK_BYTES >= file.len())
}

/// What an erasure came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Erased {
    /// The methods that did a piece, in order.
    pub methods: String,
    /// Bytes.
    pub bytes: u64,
    /// All of the device, or its signature areas alone.
    pub whole: bool,
}

/// Erases a device by `course`, from its cursor to the end. `progress` is told the bytes done and in all after each piece;
/// `cancel` stops it between two pieces.
///
/// # Errors
/// [`EraseError`]; [`EraseError::Cancelled`] has the cursor to go on from.
///
/// # Panics
/// The warrant is for another device.
pub fn erase(
    eraser: &Eraser,
    warrant: &Warrant,
    mut course: Course,
    progress: &mut dyn FnMut(u64, u64),
    cancel: &AtomicBool,
) -> Result<Erased, EraseError> {
    while let Some(piece) = course.piece(eraser.limiter()) {
        if cancel.load(Ordering::Relaxed) {
            return Err(EraseError::Cancelled {
                done_bytes: course.cursor(),
                total_bytes: course.plan().total_bytes(),
            });
        }
        match eraser.zero(warrant, piece, true) {
            Ok(zeroed) => course.done(piece, &zeroed),
            Err(error) if error.is_refusal() && course.refused(piece, eraser.queue()) => {}
            Err(error) => return Err(error),
        }
        progress(course.cursor(), course.plan().total_bytes());
    }
    eraser.flush()?;
    Ok(Erased {
        methods: course.methods(),
        bytes: course.plan().total_bytes(),
        whole: course.plan().is_whole(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answers_and_does_nothing_is_asked_no_more() {
        assert!(unproved(Method::PunchHole, None).is_ok());
        let lie = unproved(Method::PunchHole, Some(4096)).unwrap_err();
        assert!(lie.is_refusal(), "{lie}");
        assert!(
            lie.to_string().contains("the byte at 4096 is not zero"),
            "{lie}"
        );
    }

    /// As sysfs has it: a link to the device, the partition below its disk, and the queue the disk's alone.
    #[test]
    fn a_partition_has_the_queue_of_its_disk() {
        let root = tempfile::tempdir().unwrap();
        let (disk, links) = (root.path().join("devices/sda"), root.path().join("block"));
        std::fs::create_dir_all(disk.join("sda1")).unwrap();
        std::fs::create_dir(disk.join("queue")).unwrap();
        std::fs::create_dir(&links).unwrap();
        std::fs::write(disk.join("queue/write_zeroes_max_bytes"), "4096\n").unwrap();
        std::fs::write(disk.join("sda1/partition"), "1\n").unwrap();
        for (name, place) in [("8:0", "../devices/sda"), ("8:1", "../devices/sda/sda1")] {
            let link = links.join(name);
            std::os::unix::fs::symlink(place, &link).unwrap();
            let disk = disk_of(&link);
            assert_eq!(queue_limit(&disk, "write_zeroes_max_bytes"), 4096, "{name}");
            // Kernels before 6.17 do not say.
            assert_eq!(queue_limit(&disk, "write_zeroes_unmap_max_bytes"), 0);
        }
        assert_eq!(kernel_name(&links.join("8:1")), "sda1");
    }
}
