//! Large transfers over one held device: writing zeroes, and reading back whether they are there.
//!
//! Throughput is what counts here, up to the rate that the process allows itself. Zeroes are written by a plain ring from
//! one registered piece of memory, which is faster than any buffer of a transfer's own; reading back runs on tokio-uring, with
//! registered memory too, [`LANES`] transfers of at most [`TRANSFER_BYTES`] at once (more gains nothing and delays the
//! device's neighbours): both by measurement (kernel-notes/11). Where io_uring does not work, or is refused when the first is
//! read back, plain threads do both with `pread` and `pwrite`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, OnceLock};
use std::thread;

use crate::erase::{Limiter, Range};
use crate::error::errno_of;
use crate::uring::{RingFlags, zeroes};
use reader::Reader;

pub(crate) mod reader;

/// Bytes of one transfer.
pub const TRANSFER_BYTES: u64 = 1 << 20;
/// Transfers in flight.
pub const LANES: u64 = 8;

/// Addresses handed to the kernel are multiples of this: no device asks for more.
const ALIGNMENT: usize = 4096;

/// A transfer that failed.
#[derive(Debug, thiserror::Error)]
#[error("{verb} {bytes} bytes at {offset}")]
pub struct BulkError {
    /// `read` or `write`.
    pub verb: &'static str,
    /// Where it began.
    pub offset: u64,
    /// How long it was.
    pub bytes: u64,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    /// Write zeroes.
    Zero,
    /// Look for a byte that is not zero.
    Find,
}

/// What was said when a ring was refused for the first time: once is enough for all devices.
static REFUSAL: OnceLock<String> = OnceLock::new();

/// Says that a ring was refused.
fn refused(what_for: &str, error: &io::Error) {
    REFUSAL.get_or_init(|| {
        tracing::warn!(%error, "io_uring is refused for {what_for}; threads do it");
        format!("io_uring is refused for {what_for}: {}", errno_of(error))
    });
}

/// Why threads moved what rings were to move, if ever they did in this process.
#[must_use]
pub fn refusal() -> Option<&'static str> {
    REFUSAL.get().map(String::as_str)
}

/// Moves much of one device at once.
#[derive(Debug)]
pub struct Bulk {
    file: Arc<File>,
    limiter: Arc<Limiter>,
    uring: Option<RingFlags>,
    /// It begins with the first that is read.
    reader: Reader,
}

impl Bulk {
    /// Over `file`, opened with `O_DIRECT`, at the pace of `limiter`. By io_uring with the flags that
    /// [`probe_backend`](crate::probe_backend) found, else by threads.
    pub fn new(file: Arc<File>, uring: Option<RingFlags>, limiter: Arc<Limiter>) -> Self {
        Self {
            file,
            limiter,
            uring,
            reader: Reader::default(),
        }
    }

    /// Writes zeroes over `range`. Without a flush: who writes much flushes once.
    pub fn zero(&self, range: Range) -> Result<(), BulkError> {
        match self.uring {
            Some(flags) => self.zero_by(range, |range| {
                zeroes::write(&self.file, range, flags, &self.limiter)
            }),
            None => by_threads(&self.file, &self.limiter, Verb::Zero, range).map(drop),
        }
    }

    /// By a ring, else by threads.
    fn zero_by(
        &self,
        range: Range,
        ring: impl FnOnce(Range) -> Result<(), zeroes::Failure>,
    ) -> Result<(), BulkError> {
        let by_threads = || by_threads(&self.file, &self.limiter, Verb::Zero, range).map(drop);
        match ring(range) {
            Ok(()) => Ok(()),
            // It worked when the process began; a sysctl, or what may be locked or opened, changed since.
            Err(zeroes::Failure::Ring(error)) => {
                refused("writing zeroes", &error);
                by_threads()
            }
            // No more memory may be locked: it goes without.
            Err(zeroes::Failure::Write(_, source))
                if source.raw_os_error() == Some(libc::ENOMEM) =>
            {
                by_threads()
            }
            Err(zeroes::Failure::Write(part, source)) => Err(Verb::Zero.failed(part, source)),
        }
    }

    /// The offset of the first byte of `range` that is not zero.
    pub fn find_nonzero(&self, range: Range) -> Result<Option<u64>, BulkError> {
        self.find(range, || reader::start(&self.file, &self.limiter))
    }

    fn find(
        &self,
        range: Range,
        start: impl FnOnce() -> io::Result<reader::Jobs>,
    ) -> Result<Option<u64>, BulkError> {
        // One transfer gains nothing by a ring, and a thread for it would take longer to begin.
        if range.bytes <= TRANSFER_BYTES {
            return by_thread(&self.file, &self.limiter, Verb::Find, range, Lane::ONLY);
        }
        match self.uring.and_then(|_| self.reader.jobs(start)) {
            Some(jobs) => reader::find(&jobs, range),
            None => by_threads(&self.file, &self.limiter, Verb::Find, range),
        }
    }
}

impl Verb {
    const fn word(self) -> &'static str {
        match self {
            Self::Zero => "write",
            Self::Find => "read",
        }
    }

    fn failed(self, range: Range, source: io::Error) -> BulkError {
        BulkError {
            verb: self.word(),
            offset: range.offset,
            bytes: range.bytes,
            source,
        }
    }
}

/// Reads one range of at most [`TRANSFER_BYTES`].
pub fn read(file: &File, range: Range) -> Result<Vec<u8>, BulkError> {
    let mut memory = memory(range.bytes);
    let part = aligned(&memory, range.bytes);
    let slice = memory.get_mut(part).unwrap_or_default();
    file.read_exact_at(slice, range.offset)
        .map_err(|source| Verb::Find.failed(range, source))?;
    Ok(slice.to_vec())
}

/// Writes at most [`TRANSFER_BYTES`] and flushes the device.
pub fn write(file: &File, offset: u64, content: &[u8]) -> Result<(), BulkError> {
    write_unflushed(file, offset, content)?;
    let range = range_of(offset, content);
    file.sync_data()
        .map_err(|source| Verb::Zero.failed(range, source))
}

const fn range_of(offset: u64, content: &[u8]) -> Range {
    Range {
        offset,
        bytes: content.len() as u64,
    }
}

/// Writes at most [`TRANSFER_BYTES`], for who flushes the device after.
pub fn write_unflushed(file: &File, offset: u64, content: &[u8]) -> Result<(), BulkError> {
    let range = range_of(offset, content);
    assert!(range.bytes <= TRANSFER_BYTES, "one transfer at a time");
    let mut memory = memory(range.bytes);
    let part = aligned(&memory, range.bytes);
    let slice = memory.get_mut(part).unwrap_or_default();
    slice.copy_from_slice(content);
    file.write_all_at(slice, offset)
        .map_err(|source| Verb::Zero.failed(range, source))
}

/// One of several that share a range.
#[derive(Clone, Copy, Debug)]
struct Lane {
    /// Its number.
    index: u64,
    /// How many there are.
    of: u64,
}

impl Lane {
    const ONLY: Self = Self { index: 0, of: 1 };

    fn all() -> impl Iterator<Item = Self> {
        (0..LANES).map(|index| Self { index, of: LANES })
    }

    /// Its transfers of the range, in order: one of each so many.
    fn transfers(self, range: Range, bytes: u64) -> impl Iterator<Item = Range> {
        let step = bytes * self.of;
        let end = range.offset + range.bytes;
        let mut next = range.offset + self.index * bytes;
        std::iter::from_fn(move || {
            let transfer = (next < end).then(|| Range {
                offset: next,
                bytes: (end - next).min(bytes),
            })?;
            next += step;
            Some(transfer)
        })
    }
}

/// Memory of which `aligned` gives the part that a direct transfer of so many bytes may use.
fn memory(bytes: u64) -> Vec<u8> {
    vec![0; length(bytes) + ALIGNMENT]
}

fn aligned(memory: &[u8], bytes: u64) -> std::ops::Range<usize> {
    let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
    start..start + length(bytes)
}

fn length(bytes: u64) -> usize {
    usize::try_from(bytes.min(TRANSFER_BYTES)).unwrap_or(usize::MAX)
}

/// Offset of the first byte that is not zero. Whole pages are folded first: that the compiler turns into wide ORs.
fn first_nonzero(bytes: &[u8]) -> Option<usize> {
    let page = bytes
        .chunks(ALIGNMENT)
        .position(|page| page.iter().fold(0, |all, byte| all | byte) != 0)?;
    let from = page * ALIGNMENT;
    let within = bytes.get(from..)?.iter().position(|byte| *byte != 0)?;
    Some(from + within)
}

fn by_threads(
    file: &File,
    limiter: &Limiter,
    verb: Verb,
    range: Range,
) -> Result<Option<u64>, BulkError> {
    thread::scope(|scope| {
        let lanes: Vec<_> = Lane::all()
            .map(|lane| scope.spawn(move || by_thread(file, limiter, verb, range, lane)))
            .collect();
        let lost = || Err(verb.failed(range, io::Error::other("a transfer panicked")));
        let mut result = Ok(None);
        for lane in lanes {
            result = earliest(result, lane.join().unwrap_or_else(|_| lost()));
        }
        result
    })
}

fn by_thread(
    file: &File,
    limiter: &Limiter,
    verb: Verb,
    range: Range,
    lane: Lane,
) -> Result<Option<u64>, BulkError> {
    let bytes = limiter.transfer_bytes(TRANSFER_BYTES);
    let mut memory = memory(bytes);
    for transfer in lane.transfers(range, bytes) {
        thread::sleep(limiter.take(transfer.bytes));
        let part = aligned(&memory, transfer.bytes);
        let slice = memory.get_mut(part).unwrap_or_default();
        let done = match verb {
            Verb::Zero => file.write_all_at(slice, transfer.offset),
            Verb::Find => file.read_exact_at(slice, transfer.offset),
        };
        done.map_err(|source| verb.failed(transfer, source))?;
        if verb == Verb::Find
            && let Some(at) = first_nonzero(slice)
        {
            return Ok(Some(transfer.offset + at as u64));
        }
    }
    Ok(None)
}

/// A failure before a finding, the earliest finding of all lanes, else nothing.
fn earliest(
    one: Result<Option<u64>, BulkError>,
    other: Result<Option<u64>, BulkError>,
) -> Result<Option<u64>, BulkError> {
    match (one?, other?) {
        (Some(one), Some(other)) => Ok(Some(one.min(other))),
        (one, other) => Ok(one.or(other)),
    }
}

#[cfg(test)]
mod tests;
