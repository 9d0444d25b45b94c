//! Large transfers over one held device: writing zeroes, and reading back whether they are there.
//!
//! Throughput is what counts here, up to the rate that the process allows itself. Zeroes are written by a plain ring from
//! one registered piece of memory, which is faster than any buffer of a transfer's own (kernel-notes/11). Reading
//! back runs on tokio-uring: a thread of its own with [`LANES`] transfers of at most [`TRANSFER_BYTES`] in flight (more
//! gains nothing and delays the device's neighbours); no memory is shared with a transfer in flight: a buffer goes in and
//! comes home. Where io_uring does not work, or is refused when the first is read back, plain threads do both with
//! `pread` and `pwrite`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc as answers;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use tokio::sync::mpsc;
use tokio_uring::buf::BoundedBuf as _;

use crate::erase::{Limiter, Range};
use crate::error::errno_of;
use crate::uring::{RingFlags, zeroes};

/// Bytes of one transfer.
pub const TRANSFER_BYTES: u64 = 1 << 20;
/// Transfers in flight.
pub const LANES: u64 = 8;

/// Addresses handed to the kernel are multiples of this: no device asks for more.
const ALIGNMENT: usize = 4096;
/// Jobs waiting for the thread; its caller waits for each, so one is enough.
const QUEUED_MAX: usize = 1;

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

/// Something to look for.
struct Job {
    range: Range,
    answer: answers::Sender<Result<Option<u64>, BulkError>>,
}

/// Who reads back.
#[derive(Debug, Default)]
enum Reader {
    /// Nothing was read yet.
    #[default]
    None,
    /// The thread whose ring reads takes its jobs here.
    Ring(mpsc::Sender<Job>),
    /// A ring was refused: plain threads, for good.
    Threads,
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
    reader: Mutex<Reader>,
}

impl Bulk {
    /// Over `file`, opened with `O_DIRECT`, at the pace of `limiter`. By io_uring with the flags that
    /// [`probe_backend`](crate::probe_backend) found, else by threads.
    pub fn new(file: Arc<File>, uring: Option<RingFlags>, limiter: Arc<Limiter>) -> Self {
        Self {
            file,
            limiter,
            uring,
            reader: Mutex::default(),
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

    /// The ring that reads, whose thread ends when this is dropped; `start` makes one where there is none, or where that
    /// which there was has died. `None` where a ring is refused. Most that are zeroed are never read back.
    fn ring(
        &self,
        start: impl FnOnce() -> io::Result<mpsc::Sender<Job>>,
    ) -> Option<mpsc::Sender<Job>> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        match &*reader {
            Reader::Threads => return None,
            Reader::Ring(sender) if !sender.is_closed() => return Some(sender.clone()),
            Reader::Ring(_) | Reader::None => {}
        }
        match start() {
            Ok(sender) => {
                *reader = Reader::Ring(sender.clone());
                Some(sender)
            }
            Err(error) => {
                refused("reading back", &error);
                *reader = Reader::Threads;
                None
            }
        }
    }

    /// A thread with a ring of its own, if it can have one.
    fn start(&self) -> io::Result<mpsc::Sender<Job>> {
        let (sender, jobs) = mpsc::channel(QUEUED_MAX);
        let (target, limiter) = (self.file.try_clone()?, Arc::clone(&self.limiter));
        let (ready, started) = answers::channel();
        thread::Builder::new()
            .name("bulk".to_owned())
            .spawn(
                move || match tokio_uring::Runtime::new(&tokio_uring::builder()) {
                    Ok(runtime) => {
                        drop(ready.send(Ok(())));
                        runtime.block_on(serve(target, limiter, jobs));
                    }
                    Err(error) => drop(ready.send(Err(error))),
                },
            )?;
        let ended = |_| Err(io::Error::other("the thread ended at its start"));
        started.recv().unwrap_or_else(ended)?;
        Ok(sender)
    }

    /// The offset of the first byte of `range` that is not zero.
    pub fn find_nonzero(&self, range: Range) -> Result<Option<u64>, BulkError> {
        self.find(range, || self.start())
    }

    fn find(
        &self,
        range: Range,
        start: impl FnOnce() -> io::Result<mpsc::Sender<Job>>,
    ) -> Result<Option<u64>, BulkError> {
        let Some(jobs) = self.uring.and_then(|_| self.ring(start)) else {
            return by_threads(&self.file, &self.limiter, Verb::Find, range);
        };
        let (answer, answered) = answers::channel();
        let ended = || io::Error::other("the thread of the large transfers ended");
        let gone = || Verb::Find.failed(range, ended());
        jobs.blocking_send(Job { range, answer })
            .map_err(|_| gone())?;
        answered.recv().map_err(|_| gone())?
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
    let mut memory = memory();
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
    let mut memory = memory();
    let part = aligned(&memory, range.bytes);
    let slice = memory.get_mut(part).unwrap_or_default();
    slice.copy_from_slice(content);
    file.write_all_at(slice, offset)
        .map_err(|source| Verb::Zero.failed(range, source))
}

/// The transfers of one lane: every [`LANES`]th of the range, in order.
fn lane_transfers(range: Range, lane: u64, bytes: u64) -> impl Iterator<Item = Range> {
    let step = bytes * LANES;
    let end = range.offset + range.bytes;
    let mut next = range.offset + lane * bytes;
    std::iter::from_fn(move || {
        let transfer = (next < end).then(|| Range {
            offset: next,
            bytes: (end - next).min(bytes),
        })?;
        next += step;
        Some(transfer)
    })
}

/// Memory of which `aligned` gives the part that a direct transfer may use.
fn memory() -> Vec<u8> {
    vec![0; length(TRANSFER_BYTES) + ALIGNMENT]
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

async fn serve(target: File, limiter: Arc<Limiter>, mut jobs: mpsc::Receiver<Job>) {
    let file = std::rc::Rc::new(tokio_uring::fs::File::from_std(target));
    while let Some(Job { range, answer }) = jobs.recv().await {
        let lanes: Vec<_> = (0..LANES)
            .map(|lane| {
                let lane = by_uring(file.clone(), Arc::clone(&limiter), range, lane);
                tokio_uring::spawn(lane)
            })
            .collect();
        let mut result = Ok(None);
        for lane in lanes {
            let outcome = lane
                .await
                .unwrap_or_else(|lost| Err(Verb::Find.failed(range, io::Error::other(lost))));
            result = earliest(result, outcome);
        }
        // The asker may be gone; then nobody wants to know.
        drop(answer.send(result));
    }
}

async fn by_uring(
    file: std::rc::Rc<tokio_uring::fs::File>,
    limiter: Arc<Limiter>,
    range: Range,
    lane: u64,
) -> Result<Option<u64>, BulkError> {
    let mut memory = memory();
    let bytes = limiter.transfer_bytes(TRANSFER_BYTES);
    for transfer in lane_transfers(range, lane, bytes) {
        tokio::time::sleep(limiter.take(transfer.bytes)).await;
        let part = aligned(&memory, transfer.bytes);
        let (done, slice) = file
            .read_exact_at(memory.slice(part), transfer.offset)
            .await;
        done.map_err(|source| Verb::Find.failed(transfer, source))?;
        if let Some(at) = first_nonzero(&slice) {
            return Ok(Some(transfer.offset + at as u64));
        }
        memory = slice.into_inner();
    }
    Ok(None)
}

fn by_threads(
    file: &File,
    limiter: &Limiter,
    verb: Verb,
    range: Range,
) -> Result<Option<u64>, BulkError> {
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES)
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
    lane: u64,
) -> Result<Option<u64>, BulkError> {
    let mut memory = memory();
    let bytes = limiter.transfer_bytes(TRANSFER_BYTES);
    for transfer in lane_transfers(range, lane, bytes) {
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
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// By threads and, where there is one, by a ring; with a limit and without.
    fn ways() -> Vec<(Option<RingFlags>, Arc<Limiter>)> {
        let found = crate::probe_backend(crate::Choice::Auto).unwrap();
        let mut ways = Vec::new();
        for uring in [None, found.ring_flags()] {
            for rate in [None, Some(500 * MIB)] {
                ways.push((uring, Arc::new(Limiter::new(rate))));
            }
        }
        ways
    }

    #[test]
    fn lanes_share_a_range_without_gap_or_overlap() {
        let range = Range {
            offset: 4096,
            bytes: 21 * MIB + 512,
        };
        let mut all: Vec<Range> = (0..LANES)
            .flat_map(|lane| lane_transfers(range, lane, MIB))
            .collect();
        all.sort_unstable();
        let mut end = range.offset;
        for transfer in all {
            assert_eq!(transfer.offset, end);
            end += transfer.bytes;
        }
        assert_eq!(end, range.offset + range.bytes);
    }

    #[test]
    fn a_range_is_zeroed_and_nothing_beside_it() {
        for (uring, limiter) in ways() {
            let file = tempfile::NamedTempFile::new().unwrap();
            let size = 20 * MIB;
            std::fs::write(file.path(), vec![0xa5; usize::try_from(size).unwrap()]).unwrap();
            let direct = File::options()
                .read(true)
                .write(true)
                .open(file.path())
                .unwrap();
            let bulk = Bulk::new(Arc::new(direct), uring, limiter);
            let range = Range {
                offset: MIB,
                bytes: 17 * MIB + 4096,
            };
            assert_eq!(bulk.find_nonzero(range).unwrap(), Some(MIB));
            bulk.zero(range).unwrap();
            assert_eq!(bulk.find_nonzero(range).unwrap(), None);
            let whole = Range {
                offset: MIB,
                bytes: size - MIB,
            };
            let end = range.offset + range.bytes;
            assert_eq!(
                bulk.find_nonzero(whole).unwrap(),
                Some(end),
                "uring: {uring:?}"
            );
            let before = Range {
                offset: 0,
                bytes: MIB,
            };
            assert_eq!(bulk.find_nonzero(before).unwrap(), Some(0));
        }
    }

    /// Both ways, whatever this machine has: nothing here depends on a ring.
    #[test]
    fn where_a_ring_is_refused_threads_read_and_one_that_died_begins_anew() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![0; 8192]).unwrap();
        let all = Range {
            offset: 0,
            bytes: 8192,
        };
        let bulk = || {
            let limiter = Arc::new(Limiter::new(None));
            let flags = Some(RingFlags::Plain);
            Bulk::new(Arc::new(file.reopen().unwrap()), flags, limiter)
        };
        let refused = bulk();
        let refusal = || Err(io::Error::from_raw_os_error(libc::ENOMEM));
        assert_eq!(refused.find(all, refusal).unwrap(), None);
        let never = || panic!("a ring that was refused is not asked for again");
        assert_eq!(refused.find(all, never).unwrap(), None);

        let died = bulk();
        let (dead, jobs) = mpsc::channel(QUEUED_MAX);
        drop(jobs);
        *died.reader.lock().unwrap() = Reader::Ring(dead);
        let mut begun = false;
        let again = || {
            begun = true;
            refusal()
        };
        assert_eq!(died.find(all, again).unwrap(), None);
        assert!(begun);
    }

    #[test]
    fn where_a_ring_is_refused_threads_write_zeroes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![7; 8192]).unwrap();
        let bulk = Bulk::new(
            Arc::new(file.reopen().unwrap()),
            Some(RingFlags::Plain),
            Arc::new(Limiter::new(None)),
        );
        let all = Range {
            offset: 0,
            bytes: 8192,
        };
        for errno in [libc::EPERM, libc::EMFILE, libc::ENOMEM] {
            let refused = |_| Err(zeroes::Failure::Ring(io::Error::from_raw_os_error(errno)));
            bulk.zero_by(all, refused).unwrap();
            assert_eq!(std::fs::read(file.path()).unwrap(), [0; 8192]);
            std::fs::write(file.path(), vec![7; 8192]).unwrap();
        }
        let broken = |part| {
            let error = io::Error::from_raw_os_error(libc::EIO);
            Err(zeroes::Failure::Write(part, error))
        };
        let error = bulk.zero_by(all, broken).unwrap_err();
        assert_eq!(error.source.raw_os_error(), Some(libc::EIO));
    }

    #[test]
    fn a_failure_is_told() {
        let all = Range {
            offset: 0,
            bytes: 3 * MIB,
        };
        for (uring, limiter) in ways() {
            let reading = tempfile::NamedTempFile::new().unwrap();
            let reading = Arc::new(File::open(reading.path()).unwrap());
            let bulk = Bulk::new(reading, uring, limiter);
            let error = bulk.zero(all).unwrap_err();
            assert_eq!(error.source.raw_os_error(), Some(libc::EBADF), "{uring:?}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        for (uring, limiter) in ways() {
            let handle = Arc::new(file.reopen().unwrap());
            let error = Bulk::new(handle, uring, limiter)
                .find_nonzero(Range {
                    offset: 0,
                    bytes: 4096,
                })
                .unwrap_err();
            assert_eq!(error.to_string(), "read 4096 bytes at 0");
        }
    }
}
