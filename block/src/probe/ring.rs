//! Devices read through one ring. Two threads, for opening blocks and reading does not:
//!
//! ```text
//!   jobs ──► opener: open ──► opened ──► reader: first areas ──► scan ──► answer
//!             (one; another                │  ring of reads ▲
//!              while all are stuck)        └─ blank: second ┘
//! ```
//! Opening may take as long as a controller resets, so an opener that is stuck is left behind with its device, and
//! another takes its place. The reader never waits for a single device. Its buffers are kept while there is work, and
//! given back when there is none.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::watch;

use super::{
    Contents, Job, PATIENCE, Piece, ProbeError, claim_of, conclude, open_options_flags, read_error,
};
use crate::buffer::Buffer;
use crate::clock::Clock;
use crate::device::Op;
use crate::signature;
use crate::sys::OwningRing;
use crate::uring::{self, OpFile};

/// Reads in flight at most. A slow device has some three of them; what finds no room waits.
const READS_MAX: u32 = 1024;
/// And the fewest with which a ring is worth having.
const READS_MIN: u32 = 64;
/// Buffers of two sizes are kept: for the first areas, and for the second.
const SIZES: [usize; 2] = [128 << 10, 1 << 20];

/// The way to all threads. They end when the last clone is gone and every device has answered.
#[derive(Clone, Debug)]
pub(super) struct Threads(Arc<Closing>);

#[derive(Debug)]
struct Closing(Arc<Shared>);

impl Drop for Closing {
    fn drop(&mut self) {
        locked(&self.0.desk).closed = true;
        self.0.work.notify_all();
        self.0.ring_bell();
    }
}

#[derive(Debug)]
struct Shared {
    desk: Mutex<Desk>,
    /// There is something to open, or no more will come.
    work: Condvar,
    opened: Mutex<VecDeque<(Job, File)>>,
    /// The reader sleeps, or is about to.
    asleep: AtomicBool,
    bell: EventFd,
    clock: Clock,
    /// The reader is gone, though more may come.
    ended: watch::Sender<bool>,
    /// Has the reader end as if its ring had failed.
    #[cfg(test)]
    broken: AtomicBool,
}

/// Says that the reader has ended, however it did.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        if !locked(&self.0.desk).closed {
            tracing::warn!(
                "The ring that reads what devices hold has ended; threads read from now on. What the log says before this is worth a report, and a start of the agent brings the ring back"
            );
            self.0.ended.send_replace(true);
        }
        self.0.give_back();
    }
}

/// Where devices wait for an opener.
#[derive(Debug, Default)]
struct Desk {
    waiting: VecDeque<Job>,
    /// Openers that wait for work.
    idle: usize,
    /// Openers in all.
    openers: usize,
    /// When an opener last took or finished something.
    moved_ns: u64,
    closed: bool,
}

impl Threads {
    /// Starts the reader. The inner error: there is no ring.
    pub(super) fn start() -> io::Result<io::Result<Self>> {
        let shared = Arc::new(Shared {
            desk: Mutex::default(),
            work: Condvar::new(),
            opened: Mutex::default(),
            asleep: AtomicBool::new(false),
            bell: EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?,
            clock: Clock::start_plain(),
            ended: watch::Sender::new(false),
            #[cfg(test)]
            broken: AtomicBool::new(false),
        });
        let (ready, started) = mpsc::channel();
        let reader = Arc::clone(&shared);
        thread::Builder::new()
            .name("probe".to_owned())
            .spawn(move || match Reader::new(Arc::clone(&reader)) {
                Ok(mut reading) => {
                    drop(ready.send(Ok(())));
                    let _ending = Ending(reader);
                    reading.run();
                }
                Err(error) => drop(ready.send(Err(error))),
            })?;
        let started = started
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the probing thread ended at its start")));
        Ok(started.map(|()| Self(Arc::new(Closing(shared)))))
    }

    /// Gives a device to them.
    pub(super) fn submit(&self, job: Job) -> io::Result<()> {
        locked(&self.0.0.desk).waiting.push_back(job);
        self.0.0.work.notify_one();
        if self.has_ended() {
            self.0.0.give_back();
        }
        self.relieve(false)
    }

    /// Whether nothing is read any more.
    pub(super) fn has_ended(&self) -> bool {
        *self.0.0.ended.borrow()
    }

    /// True once nothing is read any more.
    pub(super) fn end(&self) -> watch::Receiver<bool> {
        self.0.0.ended.subscribe()
    }

    #[cfg(test)]
    pub(super) fn break_off(&self) {
        self.0.0.broken.store(true, Ordering::SeqCst);
        let _full = self.0.0.bell.write(1).is_err();
    }

    /// Starts an opener where none is free: `waited` says that a device has waited for one long enough, and else none of
    /// those that there are has got on for a while.
    pub(super) fn relieve(&self, waited: bool) -> io::Result<()> {
        let shared = &self.0.0;
        let mut desk = locked(&shared.desk);
        let still_ns = shared.clock.now_ns().saturating_sub(desk.moved_ns);
        let stuck = waited || desk.openers == 0 || u128::from(still_ns) >= PATIENCE.as_nanos();
        if desk.waiting.is_empty() || desk.idle > 0 || !stuck {
            return Ok(());
        }
        let opener = Arc::clone(shared);
        thread::Builder::new()
            .name("probe-open".to_owned())
            .spawn(move || opener.open_all())?;
        desk.openers += 1;
        Ok(())
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// An opener's life. It ends when another waits for work already.
    fn open_all(&self) {
        let mut desk = locked(&self.desk);
        loop {
            if let Some(job) = desk.waiting.pop_front() {
                desk.moved_ns = self.clock.now_ns();
                drop(desk);
                self.open(job);
                desk = locked(&self.desk);
                desk.moved_ns = self.clock.now_ns();
            } else if desk.closed || desk.idle > 0 {
                desk.openers -= 1;
                drop(desk);
                self.ring_bell();
                return;
            } else {
                desk.idle += 1;
                desk = self.work.wait(desk).unwrap_or_else(PoisonError::into_inner);
                desk.idle -= 1;
            }
        }
    }

    fn open(&self, job: Job) {
        let file = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(open_options_flags())
            .open(&job.target.path);
        match file {
            Ok(file) => {
                locked(&self.opened).push_back((job, file));
                if *self.ended.borrow() {
                    self.give_back();
                }
                self.ring_bell();
            }
            Err(source) => {
                let path = job.target.path.clone();
                job.end(Err(ProbeError::Open { path, source }));
            }
        }
    }

    /// Lets go of what waits for a reader that is gone: whoever asked learns that, and may ask again.
    fn give_back(&self) {
        let waiting = std::mem::take(&mut locked(&self.desk).waiting);
        let opened = std::mem::take(&mut *locked(&self.opened));
        drop((waiting, opened));
    }

    /// Nothing more will be opened.
    fn is_closed(&self) -> bool {
        let desk = locked(&self.desk);
        desk.closed && desk.openers == 0
    }

    fn ring_bell(&self) {
        if self.asleep.swap(false, Ordering::AcqRel) {
            // A full counter rings as well.
            let _full = self.bell.write(1).is_err();
        }
    }
}

/// A device of which something is being read.
struct Reading {
    job: Job,
    file: File,
    /// The areas of the second phase are being read.
    second: bool,
    pieces: Vec<Piece>,
    in_flight: usize,
    failed: Option<ProbeError>,
    claim: Result<Option<crate::claim::Claim>, crate::claim::ClaimError>,
}

/// What a read in flight belongs to.
#[derive(Clone, Copy, Debug)]
enum Owner {
    Bell,
    Device(usize),
}

struct Reader {
    shared: Arc<Shared>,
    ring: OwningRing,
    /// By token.
    owners: Vec<Owner>,
    free: Vec<u64>,
    devices: Vec<Option<Reading>>,
    vacant: Vec<usize>,
    /// Areas that found no room in the ring yet.
    later: VecDeque<(usize, Range<u64>)>,
    pools: [Vec<Buffer>; 2],
    bell_armed: bool,
}

/// The widest ring for which memory may be locked, and how many reads it takes.
fn widest<R>(open: impl Fn(u32) -> io::Result<R>) -> io::Result<(R, u32)> {
    let mut reads = READS_MAX;
    loop {
        match open(reads) {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && reads > READS_MIN => {
                reads /= 2;
            }
            opened => return opened.map(|ring| (ring, reads)),
        }
    }
}

impl Reader {
    fn new(shared: Arc<Shared>) -> io::Result<Self> {
        let (ring, reads) = widest(uring::reading_ring)?;
        Ok(Self {
            shared,
            ring,
            owners: vec![Owner::Bell; reads as usize],
            free: (0..u64::from(reads)).rev().collect(),
            devices: Vec::new(),
            vacant: Vec::new(),
            later: VecDeque::new(),
            pools: [Vec::new(), Vec::new()],
            bell_armed: false,
        })
    }

    fn run(&mut self) {
        let mut ended: Vec<(u64, Op, i32)> = Vec::new();
        loop {
            self.arm_bell();
            let opened = locked(&self.shared.opened).pop_front();
            let more = opened.is_some();
            if let Some((job, file)) = opened {
                self.begin(job, file);
            }
            let busy = self.devices.len() > self.vacant.len();
            if !busy && !more {
                self.pools.iter_mut().for_each(Vec::clear);
            }
            // Nothing to be begun: sleep, unless something came while that was said.
            self.shared.asleep.store(!more, Ordering::SeqCst);
            let none = locked(&self.shared.opened).is_empty();
            let idle = !more && !busy && none;
            if idle && self.shared.is_closed() {
                // Else the end would wait for the read of the bell.
                let _full = self.shared.bell.write(1).is_err();
                return;
            }
            let sleep = !more && none;
            match self.ring.enter(u32::from(sleep), None) {
                Ok(()) | Err(Errno::EINTR | Errno::EAGAIN | Errno::EBUSY) => {}
                Err(errno) => {
                    tracing::error!(%errno, "the ring that reads devices failed");
                    return;
                }
            }
            self.shared.asleep.store(false, Ordering::SeqCst);
            #[cfg(test)]
            if self.shared.broken.load(Ordering::SeqCst) {
                return;
            }
            self.ring
                .reap(|token, op, result| ended.push((token, op, result)));
            for (token, op, result) in ended.drain(..) {
                self.take(token, op, result);
            }
            self.read_later();
        }
    }

    /// Whoever rings the bell ends this read.
    fn arm_bell(&mut self) {
        if self.bell_armed {
            return;
        }
        let buffer = Buffer::zeroed(8);
        let bell = self.shared.bell.as_raw_fd();
        self.bell_armed = self
            .push(Owner::Bell, bell, Op::Read { offset: 0, buffer })
            .is_ok();
    }

    fn push(&mut self, owner: Owner, fd: i32, op: Op) -> Result<(), Op> {
        let Some(token) = self.free.pop() else {
            return Err(op);
        };
        let file = OpFile {
            number: fd,
            fixed: false,
            ring: 0,
            rw_flags: 0,
        };
        if let Some(place) = usize::try_from(token)
            .ok()
            .and_then(|index| self.owners.get_mut(index))
        {
            *place = owner;
        }
        self.ring.push(file, token, op).inspect_err(|_| {
            self.free.push(token);
        })
    }

    fn begin(&mut self, job: Job, file: File) {
        let areas = signature::first(job.target.size_bytes);
        let reading = Reading {
            job,
            file,
            second: false,
            pieces: Vec::with_capacity(areas.len()),
            in_flight: 0,
            failed: None,
            claim: Ok(None),
        };
        let index = self.vacant.pop().unwrap_or(self.devices.len());
        match self.devices.get_mut(index) {
            Some(place) => *place = Some(reading),
            None => self.devices.push(Some(reading)),
        }
        self.read(index, areas);
    }

    fn read(&mut self, index: usize, areas: Vec<Range<u64>>) {
        if let Some(Some(reading)) = self.devices.get_mut(index) {
            reading.in_flight += areas.len();
        }
        self.later
            .extend(areas.into_iter().map(|area| (index, area)));
        self.read_later();
        if let Some(Some(reading)) = self.devices.get(index)
            && reading.in_flight == 0
        {
            // A device of no size.
            self.conclude(index);
        }
    }

    fn read_later(&mut self) {
        while let Some((index, area)) = self.later.pop_front() {
            let Some(Some(reading)) = self.devices.get(index) else {
                continue;
            };
            let fd = reading.file.as_raw_fd();
            let buffer = self.buffer(usize::try_from(area.end - area.start).unwrap_or(0));
            let offset = area.start;
            if let Err(op) = self.push(Owner::Device(index), fd, Op::Read { offset, buffer }) {
                if let Some(buffer) = op.into_buffer() {
                    self.keep(buffer);
                }
                self.later.push_front((index, area));
                return;
            }
        }
    }

    fn buffer(&mut self, len: usize) -> Buffer {
        let class = SIZES.iter().position(|size| len <= *size);
        let Some((pool, size)) =
            class.and_then(|class| Some((self.pools.get_mut(class)?, *SIZES.get(class)?)))
        else {
            return Buffer::zeroed(len);
        };
        let mut buffer = pool.pop().unwrap_or_else(|| Buffer::zeroed(size));
        buffer.set_len(len);
        buffer
    }

    fn keep(&mut self, buffer: Buffer) {
        let class = SIZES.iter().position(|size| *size == buffer.capacity());
        if let Some(pool) = class.and_then(|class| self.pools.get_mut(class)) {
            pool.push(buffer);
        }
    }

    fn take(&mut self, token: u64, op: Op, result: i32) {
        self.free.push(token);
        let owner = usize::try_from(token)
            .ok()
            .and_then(|index| self.owners.get(index));
        let Some(Owner::Device(index)) = owner.copied() else {
            self.bell_armed = false;
            return;
        };
        let (offset, len) = (op.offset(), op.len());
        let Some(buffer) = op.into_buffer() else {
            return;
        };
        let Some(Some(reading)) = self.devices.get_mut(index) else {
            return;
        };
        reading.in_flight -= 1;
        let source = match usize::try_from(result) {
            Ok(done) if done == len => None,
            Ok(_short) => Some(io::Error::from(io::ErrorKind::UnexpectedEof)),
            Err(_) => Some(io::Error::from_raw_os_error(result.saturating_neg())),
        };
        if let Some(source) = source {
            let range = offset..offset + len as u64;
            let error = read_error(&reading.job.target.path, &range, source);
            reading.failed.get_or_insert(error);
        }
        reading.pieces.push(Piece { offset, buffer });
        if reading.in_flight == 0 {
            self.conclude(index);
        }
    }

    /// All areas that were asked for were read.
    fn conclude(&mut self, index: usize) {
        let Some(place) = self.devices.get_mut(index) else {
            return;
        };
        let Some(reading) = place else {
            return;
        };
        let size = reading.job.target.size_bytes;
        // Reads end in any order; what is found is told in the device's.
        reading.pieces.sort_unstable_by_key(|piece| piece.offset);
        if !reading.second {
            reading.claim = claim_of(size, &reading.pieces);
        }
        let result = match reading.failed.take() {
            Some(error) => Err(error),
            None => Ok(conclude(size, &reading.pieces)),
        };
        let blank = result
            .as_ref()
            .is_ok_and(|found| signature::looks_blank(found));
        let rest = signature::second(size);
        if blank && !reading.second && !rest.is_empty() {
            reading.second = true;
            self.read(index, rest);
            return;
        }
        if let Some(reading) = place.take() {
            self.vacant.push(index);
            let Reading {
                job,
                file,
                pieces,
                claim,
                ..
            } = reading;
            drop(file);
            for piece in pieces {
                self.keep(piece.buffer);
            }
            job.end(result.map(|found| Contents { found, claim }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_as_wide_as_memory_may_be_locked() {
        let refused = |errno| Err(io::Error::from_raw_os_error(errno));
        let up_to = |most| {
            widest(move |reads| {
                if reads > most {
                    refused(libc::ENOMEM)
                } else {
                    Ok(())
                }
            })
        };
        assert_eq!(up_to(READS_MAX).unwrap().1, READS_MAX);
        assert_eq!(up_to(300).unwrap().1, 256);
        assert_eq!(up_to(READS_MIN).unwrap().1, READS_MIN);
        let errno = |error: io::Error| error.raw_os_error();
        assert_eq!(errno(up_to(READS_MIN - 1).unwrap_err()), Some(libc::ENOMEM));
        let forbidden = widest(|_| refused(libc::EPERM) as io::Result<()>);
        assert_eq!(errno(forbidden.unwrap_err()), Some(libc::EPERM));
    }
}
