//! One bounded worker thread per drive, so that a hung drive costs that drive's calls and nobody else's.
//!
//! A thread in an uninterruptible read cannot be stopped. So a call waits at most its deadline; from then on until the
//! thread answers again, every further call is refused at once. Two lanes, each a thread of its own that starts with
//! its first job: [`Lane::Calls`] for what somebody waits for, [`Lane::Long`] for measurements, erasing, emptying trash.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use tokio::sync::oneshot;

/// Jobs that may wait in one lane.
const QUEUED_MAX: usize = 64;
/// Stack of a worker thread; nothing here recurses.
const STACK_BYTES: usize = 512 * 1024;
/// How long a call may take. Longer than any answer of a healthy drive, shorter than a CSI caller's patience.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// Which of a drive's two threads runs a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Short jobs that somebody waits for.
    Calls,
    /// Jobs that may take minutes.
    Long,
}

/// Why a job's answer is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkerError {
    /// An earlier call has been without an answer for longer than its deadline.
    #[error("the drive has not answered an earlier call yet")]
    Stuck,
    /// Too many jobs wait.
    #[error("{QUEUED_MAX} calls to the drive wait already")]
    Full,
    /// This call's deadline has passed. What it does may still happen.
    #[error("the drive did not answer within {0} s")]
    TimedOut(u64),
    /// The job panicked, or no thread could be started.
    #[error("the drive's worker failed; see the agent's log")]
    Failed,
}

impl WorkerError {
    /// Whether it is the drive that owes an answer.
    #[must_use]
    pub const fn blames_drive(self) -> bool {
        match self {
            Self::Stuck | Self::TimedOut(_) => true,
            Self::Full | Self::Failed => false,
        }
    }
}

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct LaneState {
    queue: Mutex<Option<mpsc::SyncSender<Job>>>,
    stuck: Arc<AtomicBool>,
    /// Jobs that wait or run.
    jobs: Arc<AtomicUsize>,
}

/// The answer of one job: a lane is stuck only by a job that runs still. Whoever comes second, the job's end or its
/// deadline, finds what the first has said.
#[derive(Clone)]
struct Owed {
    ended: Arc<Mutex<bool>>,
    stuck: Arc<AtomicBool>,
}

impl Owed {
    fn of(lane: &LaneState) -> Self {
        Self {
            ended: Arc::default(),
            stuck: Arc::clone(&lane.stuck),
        }
    }

    /// The job has ended.
    fn answered(&self) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        *ended = true;
        self.stuck.store(false, Ordering::Release);
    }

    /// Its deadline has passed.
    fn missed(&self) {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if !*ended {
            self.stuck.store(true, Ordering::Release);
        }
    }
}

/// The threads of one drive. Clones share them; they end when the last clone is dropped and their jobs are done.
#[derive(Clone)]
pub struct Worker {
    name: Arc<str>,
    calls: Arc<LaneState>,
    long: Arc<LaneState>,
}

impl Worker {
    /// A worker whose threads are named after `drive`. No thread is started yet.
    #[must_use]
    pub fn new(drive: &str) -> Self {
        Self {
            name: drive.into(),
            calls: Arc::default(),
            long: Arc::default(),
        }
    }

    /// Runs `job` in the calls lane, for at most [`CALL_TIMEOUT`].
    pub async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, WorkerError> {
        self.run(Lane::Calls, CALL_TIMEOUT, job).await
    }

    /// Runs `job` in a lane. On [`WorkerError::TimedOut`] the job goes on by itself; its answer is dropped.
    pub async fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        timeout: Duration,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, WorkerError> {
        let state = self.lane(lane);
        if state.stuck.load(Ordering::Acquire) {
            return Err(WorkerError::Stuck);
        }
        let (answer, answered) = oneshot::channel();
        let (jobs, owed) = (Arc::clone(&state.jobs), Owed::of(state));
        let ends = owed.clone();
        let job: Job = Box::new(move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            ends.answered();
            jobs.fetch_sub(1, Ordering::AcqRel);
            if let Ok(value) = result {
                drop(answer.send(value));
            }
        });
        state.jobs.fetch_add(1, Ordering::AcqRel);
        if let Err(error) = self.submit(lane, state, job) {
            state.jobs.fetch_sub(1, Ordering::AcqRel);
            return Err(error);
        }
        match tokio::time::timeout(timeout, answered).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) => Err(WorkerError::Failed),
            Err(_) => {
                owed.missed();
                tracing::warn!(drive = %self.name, ?lane, "A drive does not answer; its calls are refused until it does");
                Err(WorkerError::TimedOut(timeout.as_secs()))
            }
        }
    }

    /// Whether a job waits or runs in a lane.
    #[must_use]
    pub fn is_busy(&self, lane: Lane) -> bool {
        self.lane(lane).jobs.load(Ordering::Acquire) > 0
    }

    /// Whether nobody else has a clone of it, and it has nothing to do.
    #[must_use]
    pub fn is_idle_alone(&self) -> bool {
        Arc::strong_count(&self.calls) == 1
            && !self.is_busy(Lane::Calls)
            && !self.is_busy(Lane::Long)
    }

    fn lane(&self, lane: Lane) -> &LaneState {
        match lane {
            Lane::Calls => &self.calls,
            Lane::Long => &self.long,
        }
    }

    /// Whether the calls lane is refused at present.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.calls.stuck.load(Ordering::Acquire)
    }

    fn submit(&self, lane: Lane, state: &LaneState, job: Job) -> Result<(), WorkerError> {
        let mut queue = state.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = match queue.take() {
            Some(sender) => sender,
            None => self.start(lane)?,
        };
        let outcome = sender.try_send(job).map_err(|error| match error {
            mpsc::TrySendError::Full(_) => WorkerError::Full,
            mpsc::TrySendError::Disconnected(_) => WorkerError::Failed,
        });
        *queue = Some(sender);
        outcome
    }

    fn start(&self, lane: Lane) -> Result<mpsc::SyncSender<Job>, WorkerError> {
        let (sender, jobs) = mpsc::sync_channel::<Job>(QUEUED_MAX);
        let tag = match lane {
            Lane::Calls => "c",
            Lane::Long => "l",
        };
        let short: String = self.name.chars().take(12).collect();
        std::thread::Builder::new()
            .name(format!("{tag}-{short}"))
            .stack_size(STACK_BYTES)
            .spawn(move || jobs.iter().for_each(|job| job()))
            .map_err(|error| {
                tracing::error!(drive = %self.name, %error, "A drive's worker thread could not be started");
                WorkerError::Failed
            })?;
        Ok(sender)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hung_drive_costs_its_own_calls_alone() {
        let (hung, other) = (Worker::new("hung"), Worker::new("other"));
        let (release, wait) = mpsc::channel::<()>();
        let short = Duration::from_millis(20);
        let first = hung.run(Lane::Calls, short, move || wait.recv().is_ok());
        assert_eq!(first.await, Err(WorkerError::TimedOut(0)));
        assert!(hung.is_stuck());
        assert_eq!(hung.call(|| 1).await, Err(WorkerError::Stuck));
        let long = Duration::from_secs(60);
        assert_eq!(hung.run(Lane::Long, long, || 2).await, Ok(2));
        assert_eq!(other.call(|| 3).await, Ok(3));
        release.send(()).unwrap();
        while hung.is_stuck() {
            tokio::task::yield_now().await;
        }
        assert_eq!(hung.call(|| 4).await, Ok(4));
    }

    /// The deadline passes, the job ends, and only then the caller gets to say so.
    #[test]
    fn a_job_that_ended_leaves_no_lane_stuck() {
        let lane = LaneState::default();
        let is_stuck = || lane.stuck.load(Ordering::Acquire);
        let late = Owed::of(&lane);
        late.missed();
        assert!(is_stuck());
        late.answered();
        assert!(!is_stuck());
        late.missed();
        assert!(!is_stuck());
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_no_more() {
        let worker = Worker::new("d");
        let job: fn() -> u32 = || panic!("on purpose");
        assert_eq!(worker.call(job).await, Err(WorkerError::Failed));
        assert_eq!(worker.call(|| 5).await, Ok(5));
    }

    #[tokio::test]
    async fn the_queue_is_bounded() {
        let worker = Worker::new("d");
        let (release, wait) = mpsc::channel::<()>();
        let blocker = tokio::spawn({
            let worker = worker.clone();
            async move { worker.call(move || wait.recv().is_ok()).await }
        });
        tokio::task::yield_now().await;
        let mut waiting = Vec::new();
        for _ in 0..QUEUED_MAX + 2 {
            let worker = worker.clone();
            waiting.push(tokio::spawn(async move { worker.call(|| 1).await }));
        }
        // Each has its turn before the one that blocks them goes on.
        for _ in 0..2 * QUEUED_MAX {
            tokio::task::yield_now().await;
        }
        release.send(()).unwrap();
        let mut full = 0;
        for answer in waiting {
            full += usize::from(answer.await.unwrap() == Err(WorkerError::Full));
        }
        assert!(full >= 1);
        assert_eq!(blocker.await.unwrap(), Ok(true));
    }
}
