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

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use io_uring::register::Restriction;
use io_uring::{Builder, IoUring, cqueue, opcode, squeue};
use nix::errno::Errno;

use crate::buffer::Buffer;
use crate::clock::Clock;
use crate::device::{Completion, DEPTH_MAX, Device, Ended, Geometry, Op, OpKind, Options, Wait};
use crate::error::{DeviceError, IoCause, IoError, OpenError, Refused, errno_of};
use crate::sys::{self, OwningRing};
use crate::target::{Mode, Target};

pub(crate) mod abi;
mod entry;
pub mod passthrough;
pub mod polled;
pub(crate) mod zeroes;
pub(crate) use entry::OpFile;
use passthrough::WhyBlocks;
use polled::Polling;

/// Set-up flags of a ring, in the order in which kernels learned them: each level includes those below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RingFlags {
    /// CQSIZE: 5.5.
    Plain,
    /// SUBMIT_ALL: 5.18.
    SubmitAll,
    /// COOP_TASKRUN and TASKRUN_FLAG: 5.19.
    CoopTaskrun,
    /// SINGLE_ISSUER and DEFER_TASKRUN: 6.1.
    DeferTaskrun,
    /// NO_SQARRAY: 6.6.
    NoSqArray,
}

impl RingFlags {
    /// The best first.
    const STEPS: [Self; 5] = [
        Self::NoSqArray,
        Self::DeferTaskrun,
        Self::CoopTaskrun,
        Self::SubmitAll,
        Self::Plain,
    ];

    fn build(self, entries: u32) -> std::io::Result<IoUring> {
        self.builder(entries).build(entries)
    }

    fn builder<S, C>(self, entries: u32) -> Builder<S, C>
    where
        S: squeue::EntryMarker,
        C: cqueue::EntryMarker,
    {
        let mut builder = IoUring::builder();
        builder
            .dontfork()
            .setup_r_disabled()
            .setup_cqsize(entries.saturating_mul(2).max(4));
        if self >= Self::SubmitAll {
            builder.setup_submit_all();
        }
        if self >= Self::CoopTaskrun {
            builder.setup_coop_taskrun().setup_taskrun_flag();
        }
        if self >= Self::DeferTaskrun {
            builder.setup_single_issuer().setup_defer_taskrun();
        }
        if self >= Self::NoSqArray {
            builder.setup_no_sqarray();
        }
        builder
    }
}

impl fmt::Display for RingFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "CQSIZE",
            Self::SubmitAll => "CQSIZE, SUBMIT_ALL",
            Self::CoopTaskrun => "CQSIZE, SUBMIT_ALL, COOP_TASKRUN",
            Self::DeferTaskrun => "CQSIZE, SUBMIT_ALL, COOP_TASKRUN, SINGLE_ISSUER, DEFER_TASKRUN",
            Self::NoSqArray => {
                "CQSIZE, SUBMIT_ALL, COOP_TASKRUN, SINGLE_ISSUER, DEFER_TASKRUN, NO_SQARRAY"
            }
        })
    }
}

/// Why a trial of io_uring failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProbeFailure {
    /// A system call was refused.
    Step {
        /// Which.
        step: &'static str,
        /// The answer.
        errno: Errno,
    },
    /// The kernel's io_uring is too old.
    Lacks(&'static str),
}

impl fmt::Display for ProbeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step { step, errno } => write!(f, "{step}: {errno}"),
            Self::Lacks(what) => write!(f, "io_uring lacks {what}"),
        }
    }
}

/// Makes a ring as [`Ring`] does, sends one operation through it, and says with which flags it went.
pub(crate) fn probe() -> Result<RingFlags, ProbeFailure> {
    let step = |step| move |errno| ProbeFailure::Step { step, errno };
    let (ring, flags) = RingFlags::STEPS
        .iter()
        .find_map(|flags| match flags.build(2) {
            Ok(ring) => Some(Ok((ring, *flags))),
            Err(error) => Some(errno_of(&error))
                .filter(|errno| *errno != Errno::EINVAL)
                .map(Err),
        })
        .unwrap_or(Err(Errno::EINVAL))
        .map_err(step("io_uring_setup"))?;
    if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
        return Err(ProbeFailure::Lacks("waiting with a time-out (5.11)"));
    }
    restrict(&ring, false).map_err(step("io_uring_register (restrictions)"))?;
    ring.submitter()
        .register_enable_rings()
        .map_err(|error| step("io_uring_register")(errno_of(&error)))?;
    let mut ring = OwningRing::new(ring, 1);
    let file = OpFile {
        number: -1,
        fixed: false,
        ring: 0,
        rw_flags: 0,
    };
    if ring.push(file, 0, Op::Nop).is_err() {
        return Err(ProbeFailure::Lacks("a submission queue"));
    }
    ring.enter(1, Some(PROBE_WAIT))
        .map_err(step("io_uring_enter"))?;
    let mut answer = None;
    ring.reap(|_, _, result| answer = Some(result));
    match answer {
        Some(0) => Ok(flags),
        Some(_) | None => Err(step("a no-op")(Errno::EIO)),
    }
}

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

/// A no-op that takes longer than this is no way to work.
const PROBE_WAIT: Duration = Duration::from_secs(2);

/// `IORING_UNREGISTER_BUFFERS` and `IORING_UNREGISTER_FILES` of the kernel's `io_uring.h`.
const UNREGISTER_BUFFERS: u8 = 1;
const UNREGISTER_FILES: u8 = 3;
/// `IORING_UNREGISTER_RING_FDS`.
const UNREGISTER_RING_FDS: u8 = 21;

/// Lets the ring take only what the engine sends.
fn restrict(ring: &IoUring, writes: bool) -> Result<(), Errno> {
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
    ring.submitter()
        .register_restrictions(&mut allowed)
        .map_err(|error| errno_of(&error))
}

/// A ring over one file or device.
pub struct Ring<M> {
    ring: OwningRing,
    target: Target<M>,
    file: OpFile,
    depth: usize,
    /// Registered buffers not yet given out.
    pool: Vec<Buffer>,
    registered: usize,
    /// Whether the ring itself is registered.
    placed: bool,
    flags: RingFlags,
    polling: Polling,
    /// Why it is not the drive's own commands that read, where those were asked for.
    instead: Option<WhyBlocks>,
    clock: Clock,
    /// The clock's last reading.
    read_ns: Cell<u64>,
    /// The kernel takes entries from the thread that enabled the ring, and from no other (kernel-notes/02).
    stays: PhantomData<*const ()>,
}

impl<M: Mode> fmt::Debug for Ring<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("target", self.target.name())
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

/// Rings are numbered, so that a buffer registered with one is not taken for registered by another.
static RINGS: AtomicU32 = AtomicU32::new(1);

impl<M: Mode> Ring<M> {
    /// A ring over `target`, with the flags that [`probe_backend`](crate::probe_backend) found.
    ///
    /// # Errors
    /// [`OpenError::Depth`], [`OpenError::Ring`].
    pub fn new(target: Target<M>, options: Options, flags: RingFlags) -> Result<Self, OpenError> {
        let builder = flags.builder(options.depth);
        Self::built(target, options, flags, (builder, Polling::NotAsked))
    }

    fn built(
        target: Target<M>,
        options: Options,
        flags: RingFlags,
        (builder, polling): (Builder, Polling),
    ) -> Result<Self, OpenError> {
        let failed = |step| {
            let path = target.path().to_path_buf();
            move |errno| OpenError::Ring { path, step, errno }
        };
        let depth = check_depth(&target, options)?;
        let ring = builder
            .build(options.depth)
            .map_err(|error| failed("setup")(errno_of(&error)))?;
        let id = RINGS.fetch_add(1, Ordering::Relaxed);
        let fd = target.file().as_raw_fd();
        // Without a place in the table of files each operation looks its file up: slower, not wrong.
        let fixed = ring.submitter().register_files(&[fd]).is_ok();
        let mut ring = OwningRing::new(ring, depth);
        let pool = register_pool(depth, options.buffer_bytes, |buffers| {
            ring.register(buffers, id)
        });
        let placed = ring.register_self();
        restrict(ring.ring(), M::WRITES).map_err(failed("restrictions"))?;
        ring.ring()
            .submitter()
            .register_enable_rings()
            .map_err(|error| failed("enabling")(errno_of(&error)))?;
        Ok(Self {
            file: OpFile {
                number: if fixed { 0 } else { fd },
                fixed,
                ring: id,
                rw_flags: 0,
            },
            registered: pool.len(),
            placed,
            ring,
            target,
            depth,
            pool,
            flags,
            polling,
            instead: None,
            clock: Clock::start(),
            read_ns: Cell::new(0),
            stays: PhantomData,
        })
    }

    /// Reads from now on fail with EAGAIN or EOPNOTSUPP instead of waiting for anything but the device.
    pub(crate) const fn never_wait(&mut self) {
        self.file.rw_flags = nix::libc::RWF_NOWAIT;
    }

    /// Hands over what is queued, waits, and gives what has ended, with the reading of the clock that it returns.
    #[inline(always)]
    fn reap(
        &mut self,
        wait: Wait,
        mut each: impl FnMut(u64, Completion),
    ) -> Result<u64, DeviceError> {
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
            let name = self.target.name();
            let mut reaped = false;
            self.ring.reap(|token, op, result| {
                reaped = true;
                let result = if is_whole(&op, result) {
                    Ok(())
                } else {
                    Err(broken(name, (op.kind(), op.offset(), op.len()), result))
                };
                each(now_ns, Completion { token, op, result });
            });
            match entered {
                Ok(()) if !reaped && waits && !is_past(wait, now_ns) => {}
                Ok(()) | Err(Errno::ETIME) => return Ok(now_ns),
                // No memory for a request, or completions to be reaped first: both pass.
                Err(Errno::EINTR | Errno::EAGAIN | Errno::EBUSY)
                    if !reaped && !is_past(wait, now_ns) => {}
                Err(Errno::EINTR | Errno::EAGAIN | Errno::EBUSY) => return Ok(now_ns),
                Err(errno) => {
                    return Err(DeviceError::Enter {
                        device: Arc::clone(self.target.name()),
                        errno,
                    });
                }
            }
        }
    }
}

/// Whether a wait has had its time.
const fn is_past(wait: Wait, now_ns: u64) -> bool {
    matches!(wait, Wait::Until(at) if at <= now_ns)
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

/// Registers as many buffers as the kernel lets us: all, half, a quarter … none.
fn register_pool(
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

impl<M: Mode> Device for Ring<M> {
    fn name(&self) -> &str {
        self.target.name()
    }

    fn engine(&self) -> &'static str {
        "uring"
    }

    fn description(&self) -> String {
        let instead = self.instead.as_ref();
        let instead = instead.map_or_else(String::new, |why| format!(", no passthrough: {why}"));
        format!(
            "io_uring ({}), {} of {} buffers registered, file {}, ring {}{}{instead}",
            self.flags,
            self.registered,
            self.depth,
            registered(self.file.fixed),
            registered(self.placed),
            self.polling,
        )
    }

    fn geometry(&self) -> Geometry {
        self.target.geometry()
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn in_flight(&self) -> usize {
        self.ring.in_flight()
    }

    #[inline]
    fn now_ns(&self) -> u64 {
        let now_ns = self.clock.now_ns();
        self.read_ns.set(now_ns);
        now_ns
    }

    fn buffer(&mut self, len: usize) -> Buffer {
        match self.pool.pop_if(|buffer| len <= buffer.capacity()) {
            Some(mut buffer) => {
                buffer.set_len(len);
                buffer
            }
            None => Buffer::zeroed(len),
        }
    }

    #[inline(always)]
    fn submit(&mut self, token: u64, op: Op) -> Result<(), Refused> {
        if let Err(cause) = accept::<M>(&self.target.geometry(), &op) {
            return Err(refused(self.target.name(), op, cause));
        }
        let depth = self.depth;
        self.ring
            .push(self.file, token, op)
            .map_err(|op| refused(self.target.name(), op, IoCause::Full { depth }))
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

/// How the kernel finds something.
const fn registered(so: bool) -> &'static str {
    if so { "registered" } else { "by descriptor" }
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
