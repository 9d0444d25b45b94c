//! Reading back by tokio-uring: a thread of its own with a ring, which takes one job after another. Its memory is registered
//! once, or each page of each transfer would be pinned anew; none is shared with a transfer in flight: a buffer goes in and comes
//! home.

use std::fs::File;
use std::io;
use std::rc::Rc;
use std::sync::mpsc as answers;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio::sync::mpsc;
use tokio_uring::Runtime;
use tokio_uring::buf::fixed::{FixedBuf, FixedBufRegistry};
use tokio_uring::buf::{BoundedBuf as _, Slice};

use super::{
    BulkError, LANES, Lane, TRANSFER_BYTES, Verb, aligned, earliest, first_nonzero, memory, refused,
};
use crate::erase::{Limiter, Range};

/// Jobs waiting for the thread; its caller waits for each, so one is enough.
pub(super) const QUEUED_MAX: usize = 1;

/// Something to look for.
#[derive(Debug)]
pub(super) struct Job {
    range: Range,
    answer: answers::Sender<Result<Option<u64>, BulkError>>,
}

/// Where the thread takes its jobs from.
pub(super) type Jobs = mpsc::Sender<Job>;

type Buffers = FixedBufRegistry<Vec<u8>>;

/// Who reads back.
#[derive(Debug, Default)]
pub(super) struct Reader(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    /// Nothing was read yet.
    #[default]
    None,
    /// The thread whose ring reads.
    Ring(Jobs),
    /// A ring was refused: plain threads, for good.
    Threads,
}

impl Reader {
    /// Those of the ring that reads, whose thread ends when this is dropped; `start` makes one where there is none, or where
    /// that which there was has died. `None` where a ring is refused. Most that are zeroed are never read back.
    pub(super) fn jobs(&self, start: impl FnOnce() -> io::Result<Jobs>) -> Option<Jobs> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Threads => return None,
            State::Ring(jobs) if !jobs.is_closed() => return Some(jobs.clone()),
            State::Ring(_) | State::None => {}
        }
        match start() {
            Ok(jobs) => {
                *state = State::Ring(jobs.clone());
                Some(jobs)
            }
            Err(error) => {
                refused("reading back", &error);
                *state = State::Threads;
                None
            }
        }
    }

    #[cfg(test)]
    pub(super) fn that_died() -> Self {
        let (jobs, _ended) = mpsc::channel(QUEUED_MAX);
        Self(Mutex::new(State::Ring(jobs)))
    }
}

/// Has a job done.
pub(super) fn find(jobs: &Jobs, range: Range) -> Result<Option<u64>, BulkError> {
    let (answer, answered) = answers::channel();
    let ended = || io::Error::other("the thread of the large transfers ended");
    let gone = || Verb::Find.failed(range, ended());
    jobs.blocking_send(Job { range, answer })
        .map_err(|_| gone())?;
    answered.recv().map_err(|_| gone())?
}

/// A thread with a ring and memory of its own, if it can have them.
pub(super) fn start(file: &File, limiter: &Arc<Limiter>) -> io::Result<Jobs> {
    let (sender, jobs) = mpsc::channel(QUEUED_MAX);
    let (target, limiter) = (file.try_clone()?, Arc::clone(limiter));
    let (ready, started) = answers::channel();
    thread::Builder::new()
        .name("bulk".to_owned())
        .spawn(move || match ring(&limiter) {
            Ok((runtime, buffers)) => {
                drop(ready.send(Ok(())));
                runtime.block_on(serve(target, buffers, limiter, jobs));
            }
            Err(error) => drop(ready.send(Err(error))),
        })?;
    let ended = |_| Err(io::Error::other("the thread ended at its start"));
    started.recv().unwrap_or_else(ended)?;
    Ok(sender)
}

/// A ring, with memory registered for each lane (kernel-notes/04). It is this thread's alone.
pub(crate) fn ring(limiter: &Limiter) -> io::Result<(Runtime, Buffers)> {
    let runtime = Runtime::new(&tokio_uring::builder())?;
    let bytes = limiter.transfer_bytes(TRANSFER_BYTES);
    let buffers = Buffers::new((0..LANES).map(|_| memory(bytes)));
    runtime.block_on(async { buffers.register() })?;
    Ok((runtime, buffers))
}

async fn serve(
    target: File,
    buffers: Buffers,
    limiter: Arc<Limiter>,
    mut jobs: mpsc::Receiver<Job>,
) {
    let file = Rc::new(tokio_uring::fs::File::from_std(target));
    while let Some(Job { range, answer }) = jobs.recv().await {
        let lanes: Vec<_> = Lane::all()
            .map(|lane| {
                let buffer = buffers.check_out(usize::try_from(lane.index).unwrap_or(usize::MAX));
                tokio_uring::spawn(read(
                    file.clone(),
                    buffer,
                    Arc::clone(&limiter),
                    range,
                    lane,
                ))
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

async fn read(
    file: Rc<tokio_uring::fs::File>,
    buffer: Option<FixedBuf>,
    limiter: Arc<Limiter>,
    range: Range,
    lane: Lane,
) -> Result<Option<u64>, BulkError> {
    let lost = || Verb::Find.failed(range, io::Error::other("a lane has lost its memory"));
    let mut buffer = buffer.ok_or_else(lost)?;
    let bytes = limiter.transfer_bytes(TRANSFER_BYTES);
    for transfer in lane.transfers(range, bytes) {
        tokio::time::sleep(limiter.take(transfer.bytes)).await;
        let part = aligned(&buffer, transfer.bytes);
        let slice = read_exact(&file, buffer.slice(part), transfer.offset)
            .await
            .map_err(|source| Verb::Find.failed(transfer, source))?;
        if let Some(at) = first_nonzero(&slice) {
            return Ok(Some(transfer.offset + at as u64));
        }
        buffer = slice.into_inner();
    }
    Ok(None)
}

/// Reads all of a slice, which a device may give in parts.
async fn read_exact(
    file: &tokio_uring::fs::File,
    slice: Slice<FixedBuf>,
    offset: u64,
) -> io::Result<Slice<FixedBuf>> {
    let (begin, end) = (slice.begin(), slice.end());
    let mut buffer = slice.into_inner();
    let mut at = begin;
    while at < end {
        let place = offset + (at - begin) as u64;
        let (done, rest) = file.read_fixed_at(buffer.slice(at..end), place).await;
        match done? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            done => at += done,
        }
        buffer = rest.into_inner();
    }
    Ok(buffer.slice(begin..end))
}
