//! The same device by plain system calls, for kernels and sandboxes without io_uring.
//!
//! With a depth of 1 the call is made on the caller's own thread inside [`Device::complete`], as fio's `psync`: no hand-over
//! adds to a latency, and a call that hangs, hangs the caller whatever it was willing to wait. Above that, [`WORKERS_MAX`] threads at
//! most do the calls; a thread that hangs is left behind on drop, with the operation that it owns.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::buffer::Buffer;
use crate::clock::Clock;
use crate::device::{Completion, Device, Geometry, Op, Options, Wait};
use crate::error::{DeviceError, IoCause, OpenError, Refused, errno_of};
use crate::target::{Mode, Target};
use crate::uring::{accept, check_depth, failed, refused};

/// Threads of one device at most.
pub const WORKERS_MAX: usize = 32;

/// How long a dropped device waits for its threads.
const DROP_WAIT: Duration = Duration::from_secs(10);

/// Threads over one file or device.
#[derive(Debug)]
pub struct Blocking<M> {
    target: Target<M>,
    depth: usize,
    /// Submitted, not handed over yet.
    queued: Vec<(u64, Op)>,
    in_flight: usize,
    workers: usize,
    desk: Arc<Desk>,
    clock: Clock,
}

/// Where caller and workers meet.
#[derive(Debug, Default)]
struct Desk {
    state: Mutex<DeskState>,
    /// There is work, or no more will come.
    work: Condvar,
    /// Something ended, or a worker did.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct DeskState {
    work: VecDeque<(u64, Op)>,
    done: Vec<Completion>,
    closing: bool,
    workers: usize,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, DeskState> {
        // A worker holds the lock only to move values: the state is whole even if one panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: Mode> Blocking<M> {
    /// Over `target`.
    ///
    /// # Errors
    /// [`OpenError::Depth`], [`OpenError::Thread`].
    pub fn new(target: Target<M>, options: Options) -> Result<Self, OpenError> {
        let depth = check_depth(&target, options)?;
        let mut blocking = Self {
            workers: 0,
            depth,
            queued: Vec::with_capacity(depth),
            in_flight: 0,
            desk: Arc::new(Desk::default()),
            clock: Clock::start(),
            target,
        };
        if depth > 1 {
            for _ in 0..depth.min(WORKERS_MAX) {
                blocking.start_worker()?;
            }
        }
        Ok(blocking)
    }

    fn start_worker(&mut self) -> Result<(), OpenError> {
        let desk = Arc::clone(&self.desk);
        let file = Arc::clone(self.target.file());
        let name = Arc::clone(self.target.name());
        self.desk.lock().workers += 1;
        std::thread::Builder::new()
            .name("block-io".into())
            .spawn(move || work(&desk, &file, &name))
            .map_err(|error| {
                self.desk.lock().workers -= 1;
                OpenError::Thread {
                    path: self.target.path().into(),
                    errno: errno_of(&error),
                }
            })?;
        self.workers += 1;
        Ok(())
    }
}

/// A worker's life. It leaves when the device closes; if it unwinds it still signs off.
fn work(desk: &Desk, file: &File, name: &Arc<str>) {
    struct SignOff<'a>(&'a Desk);
    impl Drop for SignOff<'_> {
        fn drop(&mut self) {
            self.0.lock().workers -= 1;
            self.0.ended.notify_all();
        }
    }
    let _sign_off = SignOff(desk);
    let mut state = desk.lock();
    loop {
        if let Some((token, op)) = state.work.pop_front() {
            drop(state);
            let completion = perform(file, name, token, op);
            state = desk.lock();
            state.done.push(completion);
            desk.ended.notify_one();
        } else if state.closing {
            return;
        } else {
            state = desk
                .work
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// One operation, here and now.
fn perform(file: &File, name: &Arc<str>, token: u64, mut op: Op) -> Completion {
    let wanted = op.len();
    let done = loop {
        let done = match &mut op {
            Op::Nop => Ok(0),
            Op::Read { offset, buffer } => file.read_at(buffer, *offset),
            Op::Write { offset, buffer } => file.write_at(buffer, *offset),
            Op::Flush => file.sync_data().map(|()| 0),
        };
        match done {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            done => break done,
        }
    };
    let result = match done {
        Ok(done) if done == wanted => Ok(()),
        Ok(done) => Err(failed(name, &op, IoCause::Short { done })),
        Err(error) => Err(failed(name, &op, IoCause::Kernel(errno_of(&error)))),
    };
    Completion { token, op, result }
}

impl<M: Mode> Device for Blocking<M> {
    fn name(&self) -> &str {
        self.target.name()
    }

    fn engine(&self) -> &'static str {
        "threads"
    }

    fn description(&self) -> String {
        match self.workers {
            0 => "pread and pwrite on the caller's thread".into(),
            workers => format!("pread and pwrite on {workers} threads"),
        }
    }

    fn geometry(&self) -> Geometry {
        self.target.geometry()
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn in_flight(&self) -> usize {
        self.queued.len() + self.in_flight
    }

    fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    fn buffer(&mut self, len: usize) -> Buffer {
        Buffer::zeroed(len)
    }

    fn submit(&mut self, token: u64, op: Op) -> Result<(), Refused> {
        let accepted = if self.in_flight() >= self.depth {
            Err(IoCause::Full { depth: self.depth })
        } else {
            accept::<M>(&self.target.geometry(), &op)
        };
        match accepted {
            Ok(()) => {
                self.queued.push((token, op));
                Ok(())
            }
            Err(cause) => Err(refused(self.target.name(), op, cause)),
        }
    }

    fn complete(&mut self, wait: Wait, done: &mut Vec<Completion>) -> Result<(), DeviceError> {
        if self.workers == 0 {
            for (token, op) in self.queued.drain(..) {
                done.push(perform(self.target.file(), self.target.name(), token, op));
            }
            return Ok(());
        }
        let mut state = self.desk.lock();
        self.in_flight += self.queued.len();
        if !self.queued.is_empty() {
            state.work.extend(self.queued.drain(..));
            self.desk.work.notify_all();
        }
        while state.done.is_empty() && self.in_flight > 0 {
            if state.workers == 0 {
                return Err(DeviceError::WorkersGone {
                    device: Arc::clone(self.target.name()),
                });
            }
            let left = match wait {
                Wait::No => break,
                Wait::Forever => Duration::from_secs(3600),
                Wait::Until(at) => match at.checked_sub(self.clock.now_ns()) {
                    None | Some(0) => break,
                    Some(left) => Duration::from_nanos(left),
                },
            };
            (state, _) = self
                .desk
                .ended
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.in_flight -= state.done.len();
        done.append(&mut state.done);
        Ok(())
    }
}

impl<M> Drop for Blocking<M> {
    fn drop(&mut self) {
        let mut state = self.desk.lock();
        state.closing = true;
        self.desk.work.notify_all();
        while state.workers > 0 {
            let (next, time) = self
                .desk
                .ended
                .wait_timeout(state, DROP_WAIT)
                .unwrap_or_else(PoisonError::into_inner);
            state = next;
            if time.timed_out() {
                tracing::warn!(
                    threads = state.workers,
                    "the device never answered; its threads are left behind"
                );
                return;
            }
        }
    }
}
