//! The engine over io_uring: one ring, one file, one thread.
//!
//! A ring is made disabled, given its file, its buffers and, for [`ReadOnly`](crate::ReadOnly), the list of operations that the
//! kernel will take from it, and only then enabled (kernel-notes/03). So a `Ring<ReadOnly>` cannot write even if the code
//! above it is wrong: its file is open for reading and its ring knows no write.
//!
//! It runs with what the kernel grants: flags fall back one set at a time, registered buffers halve on ENOMEM down to none
//! (kernel-notes/04). [`Device::description`] says with what.
//!
//! A reader may ask for a ring that polls (see [`polled`]).

use std::fmt;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Duration;

use io_uring::register::Restriction;
use io_uring::{IoUring, opcode, squeue};
use nix::errno::Errno;

use crate::buffer::Buffer;
use crate::clock::Clock;
use crate::device::{Completion, DEPTH_MAX, Device, Ended, Geometry, Op, OpKind, Options, Wait};
use crate::error::{DeviceError, IoCause, IoError, OpenError, Refused, errno_of};
use crate::sys::{self, OwningRing};
use crate::target::{Mode, Target};

pub(crate) mod abi;
mod entry;
mod flags;
pub mod passthrough;
pub mod polled;
mod queues;
pub(crate) mod zeroes;
pub(crate) use entry::OpFile;
pub use flags::RingFlags;
pub(crate) use flags::{ProbeFailure, probe};
use passthrough::WhyBlocks;
use polled::Polling;
use queues::QueuePair;

/// A ring of `depth` for reads of any file, on this thread: the kernel takes nothing else from it.
pub(crate) fn reading_ring(depth: u32) -> std::io::Result<OwningRing> {
    let flags = probe().map_err(|failure| std::io::Error::other(failure.to_string()))?;
    let ring = flags.build(depth)?;
    let mut ring = OwningRing::new(ring, depth as usize);
    ring.register_self();
    restrict(ring.ring(), false)?;
    ring.ring().submitter().register_enable_rings()?;
    Ok(ring)
}

/// The least that a loop over a ring can be: no-ops, `depth` at once, no clock and no list. How many were done in about
/// `duration`, and the seconds of CPU time of this process outside and inside the kernel. What other loops are measured by
/// where fio's `t/io_uring` is not to be had.
///
/// # Errors
/// io_uring does not work here.
pub fn bare_loop(depth: u32, duration: Duration) -> std::io::Result<(u64, f64, f64)> {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeValLike as _;
    let used = || {
        let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
        let seconds = |time: nix::sys::time::TimeVal| time.num_microseconds() as f64 / 1e6;
        Ok::<_, Errno>((seconds(usage.user_time()), seconds(usage.system_time())))
    };
    let flags = probe().map_err(|failure| std::io::Error::other(failure.to_string()))?;
    let mut ring = flags.build(depth)?;
    ring.submitter().register_enable_rings()?;
    let clock = Clock::start();
    let before = used()?;
    let mut done = 0;
    while u128::from(clock.now_ns()) < duration.as_nanos() {
        done += sys::no_ops(&mut ring, depth, BARE_TURNS)?;
    }
    let after = used()?;
    Ok((done, after.0 - before.0, after.1 - before.1))
}

/// Turns between two readings of the clock.
const BARE_TURNS: u32 = 10_000;

/// `IORING_UNREGISTER_BUFFERS` and `IORING_UNREGISTER_FILES` of the kernel's `io_uring.h`.
const UNREGISTER_BUFFERS: u8 = 1;
const UNREGISTER_FILES: u8 = 3;
/// `IORING_UNREGISTER_RING_FDS`.
const UNREGISTER_RING_FDS: u8 = 21;

/// Lets the ring take only what the engine sends.
fn restrict(ring: &IoUring, writes: bool) -> Result<(), Errno> {
    ring.submitter()
        .register_restrictions(&mut allowed(writes))
        .map_err(|error| errno_of(&error))
}

/// What the engine sends.
fn allowed(writes: bool) -> Vec<Restriction> {
    let mut allowed = vec![
        Restriction::sqe_op(opcode::Nop::CODE),
        Restriction::sqe_op(opcode::Read::CODE),
        Restriction::sqe_op(opcode::ReadFixed::CODE),
        Restriction::sqe_flags_allowed(squeue::Flags::FIXED_FILE.bits()),
        Restriction::register_op(UNREGISTER_BUFFERS),
        Restriction::register_op(UNREGISTER_FILES),
        Restriction::register_op(UNREGISTER_RING_FDS),
    ];
    if writes {
        allowed.extend([
            Restriction::sqe_op(opcode::Write::CODE),
            Restriction::sqe_op(opcode::WriteFixed::CODE),
            Restriction::sqe_op(opcode::Fsync::CODE),
        ]);
    }
    allowed
}

/// A ring over one file or device.
pub struct Ring<M> {
    queues: QueuePair,
    target: Target<M>,
    file: OpFile,
    /// Why it is not the drive's own commands that read, where those were asked for.
    instead: Option<WhyBlocks>,
}

impl<M: Mode> fmt::Debug for Ring<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("target", self.target.name())
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

impl<M: Mode> Ring<M> {
    /// A ring over `target`, with the flags that [`probe_backend`](crate::probe_backend) found.
    ///
    /// # Errors
    /// [`OpenError::Depth`], [`OpenError::Ring`].
    pub fn new(target: Target<M>, options: Options, flags: RingFlags) -> Result<Self, OpenError> {
        Self::built(target, options, flags, Polling::NotAsked)
    }

    fn built(
        target: Target<M>,
        options: Options,
        flags: RingFlags,
        polling: Polling,
    ) -> Result<Self, OpenError> {
        let depth = check_depth(&target, options)?;
        let fd = target.file().as_raw_fd();
        let mut allowed = allowed(M::WRITES);
        let queues = QueuePair::enabled(fd, (depth, options), flags, polling, &mut allowed);
        let queues = queues.map_err(|(step, errno)| OpenError::Ring {
            path: target.path().to_path_buf(),
            step,
            errno,
        })?;
        Ok(Self {
            file: OpFile {
                number: if queues.fixed { 0 } else { fd },
                fixed: queues.fixed,
                ring: queues.id,
                rw_flags: 0,
            },
            queues,
            target,
            instead: None,
        })
    }

    /// Reads from now on fail with EAGAIN or EOPNOTSUPP instead of waiting for anything but the device.
    pub(crate) const fn never_wait(&mut self) {
        self.file.rw_flags = nix::libc::RWF_NOWAIT;
    }

    #[inline(always)]
    fn reap(
        &mut self,
        wait: Wait,
        mut each: impl FnMut(u64, Completion),
    ) -> Result<u64, DeviceError> {
        let name = self.target.name();
        let reaped = self.queues.answers(wait, |now_ns, token, op, result| {
            let result = if is_whole(&op, result) {
                Ok(())
            } else {
                Err(broken(name, (op.kind(), op.offset(), op.len()), result))
            };
            each(now_ns, Completion { token, op, result });
        });
        reaped.map_err(|errno| not_entered(name, errno))
    }
}

/// The engine itself failed.
#[cold]
fn not_entered(device: &Arc<str>, errno: Errno) -> DeviceError {
    DeviceError::Enter {
        device: Arc::clone(device),
        errno,
    }
}

/// The depth as a count, if it is within bounds.
pub(crate) fn check_depth<M: Mode>(
    target: &Target<M>,
    options: Options,
) -> Result<usize, OpenError> {
    usize::try_from(options.depth)
        .ok()
        .filter(|depth| (1..=DEPTH_MAX as usize).contains(depth))
        .ok_or_else(|| OpenError::Depth {
            path: target.path().into(),
            depth: options.depth,
            max: DEPTH_MAX,
        })
}

impl<M: Mode> Device for Ring<M> {
    fn name(&self) -> &str {
        self.target.name()
    }

    fn engine(&self) -> &'static str {
        "uring"
    }

    fn description(&self) -> String {
        let described = self.queues.description("");
        match &self.instead {
            Some(why) => format!("{described}, no passthrough: {why}"),
            None => described,
        }
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

    #[inline]
    fn now_ns(&self) -> u64 {
        self.queues.now_ns()
    }

    fn buffer(&mut self, len: usize) -> Buffer {
        self.queues.buffer(len)
    }

    #[inline(always)]
    fn submit(&mut self, token: u64, op: Op) -> Result<(), Refused> {
        if let Err(cause) = accept::<M>(&self.target.geometry(), &op) {
            return Err(refused(self.target.name(), op, cause));
        }
        let depth = self.queues.depth;
        let pushed = self.queues.ring.push(self.file, token, op);
        pushed.map_err(|op| refused(self.target.name(), op, IoCause::Full { depth }))
    }

    fn complete(&mut self, wait: Wait, done: &mut Vec<Completion>) -> Result<(), DeviceError> {
        self.reap(wait, |_, completion| done.push(completion))
            .map(drop)
    }

    #[inline]
    fn complete_each(
        &mut self,
        wait: Wait,
        mut each: impl FnMut(Ended),
    ) -> Result<u64, DeviceError> {
        self.reap(wait, |now_ns, Completion { token, op, result }| {
            each(Ended {
                now_ns,
                token,
                kind: op.kind(),
                buffer: op.into_buffer(),
                result,
            });
        })
    }
}

/// Whether an engine of this mode takes `op` at all.
#[inline(always)]
pub(crate) fn accept<M: Mode>(geometry: &Geometry, op: &Op) -> Result<(), IoCause> {
    match op.kind() {
        OpKind::Write | OpKind::Flush if !M::WRITES => Err(IoCause::ReadOnly),
        OpKind::Nop | OpKind::Flush => Ok(()),
        OpKind::Read | OpKind::Write => geometry.check(op.offset(), op.len()),
    }
}

/// `op`, on its way home.
pub(crate) fn refused(device: &Arc<str>, op: Op, cause: IoCause) -> Refused {
    Refused {
        error: failed(device, &op, cause),
        op,
    }
}

/// The error of `op`.
pub(crate) fn failed(device: &Arc<str>, op: &Op, cause: IoCause) -> Box<IoError> {
    Box::new(IoError {
        device: Arc::clone(device),
        kind: op.kind(),
        offset: op.offset(),
        len: op.len(),
        cause,
    })
}

/// Whether the kernel's number, bytes or an error below zero, is all that was asked for.
#[inline(always)]
fn is_whole(op: &Op, result: i32) -> bool {
    usize::try_from(result).is_ok_and(|done| done >= op.len())
}

/// What became of an operation that was not whole.
#[cold]
fn broken(
    device: &Arc<str>,
    (kind, offset, len): (OpKind, u64, usize),
    result: i32,
) -> Box<IoError> {
    let cause = match usize::try_from(result) {
        Ok(done) => IoCause::Short { done },
        Err(_negative) => IoCause::Kernel(Errno::from_raw(result.saturating_neg())),
    };
    Box::new(IoError {
        device: Arc::clone(device),
        kind,
        offset,
        len,
        cause,
    })
}

#[cfg(test)]
mod tests;
