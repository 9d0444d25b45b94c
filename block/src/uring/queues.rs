//! A ring's two queues over one file, and all that goes with them whatever the entries are: its buffers, its clock, its
//! set-up and its waiting. What an entry says and what an answer means is the engine's.

use std::cell::Cell;
use std::marker::PhantomData;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use io_uring::register::Restriction;
use io_uring::{Builder, cqueue, squeue};
use nix::errno::Errno;

use super::RingFlags;
use super::polled::Polling;
use crate::buffer::Buffer;
use crate::clock::Clock;
use crate::device::{Op, Options, Wait};
use crate::error::errno_of;
use crate::sys::OwningRing;

/// Rings are numbered, so that a buffer registered with one is not taken for registered by another.
static RINGS: AtomicU32 = AtomicU32::new(1);

/// The two queues of a ring. Of plain entries, or of the larger ones of passthrough.
pub(super) struct QueuePair<S = squeue::Entry, C = cqueue::Entry>
where
    S: squeue::EntryMarker,
    C: cqueue::EntryMarker,
{
    pub(super) ring: OwningRing<S, C>,
    /// The ring's number.
    pub(super) id: u32,
    /// Whether its file has a place, the first, in the table of files.
    pub(super) fixed: bool,
    pub(super) depth: usize,
    /// Registered buffers not yet given out.
    pool: Vec<Buffer>,
    registered: usize,
    /// Whether the ring itself is registered.
    placed: bool,
    /// Whether there was no memory for twice the answers that can be owed.
    halved: bool,
    flags: RingFlags,
    pub(super) polling: Polling,
    clock: Clock,
    /// The clock's last reading.
    read_ns: Cell<u64>,
    /// The kernel takes entries from the thread that enabled the ring, and from no other (kernel-notes/02).
    stays: PhantomData<*const ()>,
}

impl<S: squeue::EntryMarker, C: cqueue::EntryMarker> QueuePair<S, C> {
    /// Of a ring over `file` that takes what is `allowed`, enabled on this thread. Else which step the kernel refused.
    pub(super) fn enabled(
        file: RawFd,
        (depth, options): (usize, Options),
        flags: RingFlags,
        polling: Polling,
        allowed: &mut [Restriction],
    ) -> Result<Self, (&'static str, Errno)> {
        let at = |step| move |error: std::io::Error| (step, errno_of(&error));
        let mut builder: Builder<S, C> = flags.builder(options.depth);
        if polling == Polling::Polled {
            builder.setup_iopoll();
        }
        let mut halved = false;
        let ring = builder.build(options.depth).or_else(|error| {
            // No more memory may be locked: a ring that has room for one answer to each operation needs less.
            if errno_of(&error) != Errno::ENOMEM {
                return Err(error);
            }
            halved = true;
            builder.setup_cqsize(options.depth).build(options.depth)
        });
        let ring = ring.map_err(at("setup"))?;
        let id = RINGS.fetch_add(1, Ordering::Relaxed);
        // Without a place in the table of files each operation looks its file up: slower, not wrong.
        let fixed = ring.submitter().register_files(&[file]).is_ok();
        let mut ring = OwningRing::new(ring, depth);
        let pool = register_pool(depth, options.buffer_bytes, |buffers| {
            ring.register(buffers, id)
        });
        let placed = ring.register_self();
        let submitter = ring.ring().submitter();
        let restricted = submitter.register_restrictions(allowed);
        restricted.map_err(at("restrictions"))?;
        submitter.register_enable_rings().map_err(at("enabling"))?;
        Ok(Self {
            registered: pool.len(),
            ring,
            id,
            fixed,
            depth,
            pool,
            placed,
            halved,
            flags,
            polling,
            clock: Clock::start(),
            read_ns: Cell::new(0),
            stays: PhantomData,
        })
    }

    /// What it runs with, for people; `by` says more of how it reads.
    pub(super) fn description(&self, by: &str) -> String {
        format!(
            "io_uring ({}{}{by}), {} of {} buffers registered, file {}, ring {}{}",
            self.flags,
            if self.halved { ", halved" } else { "" },
            self.registered,
            self.depth,
            registered(self.fixed),
            registered(self.placed),
            self.polling,
        )
    }

    /// A registered buffer of `len` bytes while there are any.
    pub(super) fn buffer(&mut self, len: usize) -> Buffer {
        match self.pool.pop_if(|buffer| len <= buffer.capacity()) {
            Some(mut buffer) => {
                buffer.set_len(len);
                buffer
            }
            None => Buffer::zeroed(len),
        }
    }

    #[inline]
    pub(super) fn now_ns(&self) -> u64 {
        let now_ns = self.clock.now_ns();
        self.read_ns.set(now_ns);
        now_ns
    }

    /// Hands over what is queued, waits, and gives each answer that there is: when it was seen, its token, its operation and the
    /// kernel's number. The time is that of the reading of the clock that is returned.
    ///
    /// # Errors
    /// The kernel does not take the ring.
    #[inline(always)]
    pub(super) fn answers(
        &mut self,
        wait: Wait,
        mut each: impl FnMut(u64, u64, Op, i32),
    ) -> Result<u64, Errno> {
        loop {
            // Entered even with nothing to wait for: else nothing is posted (kernel-notes/08).
            let waits = wait != Wait::No && self.ring.in_flight() > 0;
            // A ring that polls would not heed the time-out (kernel-notes/21): it is asked over and over instead.
            let want = u32::from(waits && self.polling != Polling::Polled);
            let timeout = match wait {
                // The clock as it was last read: the wait may end later by as long as the batch took to prepare.
                Wait::Until(at) => {
                    Some(Duration::from_nanos(at.saturating_sub(self.read_ns.get())))
                }
                Wait::No | Wait::Forever => None,
            };
            let entered = self.ring.enter(want, timeout);
            let now_ns = self.now_ns();
            let mut reaped = false;
            self.ring.reap(|token, op, result| {
                reaped = true;
                each(now_ns, token, op, result);
            });
            let goes_on = !reaped && !is_past(wait, now_ns);
            match entered {
                Ok(()) if goes_on && waits => {}
                // No memory for a request, or completions to be reaped first: both pass.
                Err(Errno::EINTR | Errno::EAGAIN | Errno::EBUSY) if goes_on => {}
                Ok(()) | Err(Errno::ETIME | Errno::EINTR | Errno::EAGAIN | Errno::EBUSY) => {
                    return Ok(now_ns);
                }
                Err(errno) => return Err(errno),
            }
        }
    }
}

/// Whether a wait has had its time.
const fn is_past(wait: Wait, now_ns: u64) -> bool {
    matches!(wait, Wait::Until(at) if at <= now_ns)
}

/// How the kernel finds something.
const fn registered(so: bool) -> &'static str {
    if so { "registered" } else { "by descriptor" }
}

/// Registers as many buffers as the kernel lets us: all, half, a quarter … none (kernel-notes/04).
pub(super) fn register_pool(
    depth: usize,
    bytes: usize,
    register: impl Fn(&mut [Buffer]) -> Result<(), Errno>,
) -> Vec<Buffer> {
    if bytes == 0 {
        return Vec::new();
    }
    let mut count = depth;
    while count > 0 {
        let mut pool: Vec<Buffer> = (0..count).map(|_| Buffer::zeroed(bytes)).collect();
        match register(&mut pool) {
            Ok(()) => return pool,
            Err(Errno::ENOMEM) => count /= 2,
            Err(errno) => {
                tracing::debug!(%errno, "buffers are not registered");
                return Vec::new();
            }
        }
    }
    Vec::new()
}
