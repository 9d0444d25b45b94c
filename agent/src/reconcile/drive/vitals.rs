//! The drive's own figures while it is in use: health reads at a cadence, the kernel's counters four times a minute.
//! Both go to the metrics at once, and to the status when they are worth a write.

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use api::condition::{self, ConditionStatus, ConditionType};
use api::drive::DriveLatency;
use api::{DrivePhase, Reason};
use bench::{Limits, Pattern, Report, Workload};
use block::extents::Extent;
use tokio::time::Instant;

use crate::health::{self, ANSWER_MAX, COUNT_INTERVAL, READ_BYTES, READS, ROUND_MAX, Streak, Turn};
use crate::host::{BlockCounters, Host, HostError, Run};
use crate::latency::{Round, Window};
use crate::metrics::{OfDrive, OfDriveOp};
use crate::records::probe_parts;
use crate::registry::MountedDrive;
use crate::worker::{Lane, WorkerError};

use super::Task;

/// A round waits this long for a measurement or a removal of data to end, and is tried again.
const BUSY_WAIT: Duration = Duration::from_secs(2);
/// Longest that one round may keep the drive's thread.
const ROUND_TIMEOUT: Duration = Duration::from_secs(30);
/// Looks at the counters that are kept: their span is what the status speaks of.
const COUNTS_MAX: usize = 13;

/// Figures of one drive in use.
pub(super) struct Vitals {
    read_due: Instant,
    count_due: Instant,
    extents: Vec<Extent>,
    window: Window,
    streak: Streak,
    rounds: u64,
    counts: VecDeque<Count>,
    own: Own,
    written: Option<Instant>,
}

/// What the agent itself has read, to be told from what the drive's users have.
#[derive(Clone, Copy, Debug, Default)]
struct Own {
    reads: u64,
    nanos: u64,
}

struct Count {
    at: Instant,
    counters: BlockCounters,
    own: Own,
}

impl Vitals {
    /// Of a drive that has just come into use: the first round is due at once.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            read_due: now,
            count_due: now,
            extents: Vec::new(),
            window: Window::default(),
            streak: Streak::default(),
            rounds: 0,
            counts: VecDeque::new(),
            own: Own::default(),
            written: None,
        }
    }

    /// When there is something to do again.
    pub(super) fn due(&self) -> Instant {
        self.read_due.min(self.count_due)
    }

    fn figures(&self, now: jiff::Timestamp) -> DriveLatency {
        let users = match (self.counts.front(), self.counts.back()) {
            (Some(first), Some(last)) => health::users(
                &first.counters,
                &last.counters,
                last.at - first.at,
                last.own.reads - first.own.reads,
                last.own.nanos - first.own.nanos,
            ),
            _ => DriveLatency::default(),
        };
        DriveLatency {
            read: self.window.summary(now),
            ..users
        }
    }
}

impl Task {
    /// Does what is due. Nothing, while the drive is not in use.
    pub(super) async fn vitals(&mut self) {
        let (Some(mut vitals), Ok(drive)) =
            (self.memory.vitals.take(), self.ctx.registry.get(&self.id))
        else {
            return;
        };
        let now = Instant::now();
        if vitals.count_due <= now {
            vitals.count_due = now + COUNT_INTERVAL;
            self.count(&mut vitals, &drive, now);
        }
        if vitals.read_due <= now {
            if drive.worker.is_busy(Lane::Long) {
                vitals.read_due = now + BUSY_WAIT;
            } else {
                vitals.read_due = now + self.interval(vitals.rounds);
                self.round(&mut vitals, &drive).await;
            }
        }
        self.memory.vitals = Some(vitals);
    }

    /// The cadence, shifted once by the drive's name, so that a node's drives do not all read at the same moment.
    fn interval(&self, rounds: u64) -> Duration {
        let interval = self.ctx.limits.health_interval;
        if rounds > 0 {
            return interval;
        }
        let share = self.id.bytes().map(u32::from).sum::<u32>() % 1000;
        interval / 2 + interval * share / 2000
    }

    /// One round of health reads.
    async fn round(&mut self, vitals: &mut Vitals, drive: &MountedDrive) {
        let (host, device) = (self.ctx.host.clone(), drive.device.clone());
        let (root, seed) = (drive.root.clone(), vitals.rounds);
        let mut extents = std::mem::take(&mut vitals.extents);
        vitals.rounds += 1;
        let job = move || -> Result<(Report, Vec<Extent>), HostError> {
            if extents.is_empty() {
                for part in probe_parts(&root) {
                    extents.extend(host.extents(&part)?);
                }
            }
            let report = read(host.as_ref(), &device, &extents, seed)?;
            Ok((report, extents))
        };
        let outcome = self.worker.run(Lane::Long, ROUND_TIMEOUT, job).await;
        match round_of(outcome) {
            Ok((report, extents)) => {
                vitals.extents = extents;
                self.take(vitals, &report).await;
            }
            Err(Unread::Drive(error)) => self.turn_health(vitals, Some(error)).await,
            Err(Unread::Agent(error)) => {
                tracing::warn!(
                    drive = self.id,
                    error,
                    "A round of health reads could not be made; that says nothing of the drive"
                );
            }
        }
    }

    /// Takes in what a round has shown.
    async fn take(&mut self, vitals: &mut Vitals, report: &Report) {
        let round = Round::of(&report.read.latency);
        let of = OfDriveOp {
            drive: self.id.clone(),
            op: "read",
        };
        let histogram = self.ctx.metrics.io_latency.get_or_create_owned(&of);
        for (nanos, count) in round.recorded() {
            #[expect(clippy::cast_precision_loss, reason = "a latency has three digits")]
            let seconds = *nanos as f64 / 1e9;
            (0..*count).for_each(|_| histogram.observe(seconds));
        }
        self.ctx.metrics.read_by(&self.id, report.engine);
        vitals.own.reads += round.count();
        vitals.own.nanos += round.sum_ns();
        let failed = report.read.errors + report.unanswered;
        if round.count() > 0 {
            vitals.window.push(round);
        }
        let error = report.read.first_error.as_ref().map(ToString::to_string);
        let complaint = (failed > 0).then(|| {
            let why = error.unwrap_or_else(|| "no answer".to_owned());
            format!("{failed} of the last health reads failed: {why}")
        });
        self.turn_health(vitals, complaint).await;
    }

    /// Counts a round as good or bad, and reports what is worth it.
    async fn turn_health(&mut self, vitals: &mut Vitals, complaint: Option<String>) {
        let now = (self.ctx.clock)();
        let mut status = self.status.clone();
        let failing = status.phase == DrivePhase::Failing;
        if complaint.is_some() {
            let of = OfDrive {
                drive: self.id.clone(),
            };
            self.ctx.metrics.health_errors.get_or_create(&of).inc();
        }
        let (truth, reason) = match complaint {
            None => (ConditionStatus::True, Reason::Healthy),
            Some(_) => (ConditionStatus::False, Reason::IoErrors),
        };
        let message = complaint.clone().unwrap_or_default();
        let type_ = ConditionType::HealthChecked;
        let mut said =
            condition::get(&status.conditions, type_).map(|said| said.status) != Some(truth);
        if said {
            condition::set(&mut status.conditions, type_, truth, reason, &message, now);
        }
        match vitals.streak.count(complaint.is_none(), failing) {
            Turn::Stays => {}
            Turn::Fails => {
                tracing::warn!(drive = self.id, message, reason = %Reason::IoErrors, "A drive's reads fail");
                (status.phase, status.reason, status.message) =
                    (DrivePhase::Failing, Some(Reason::IoErrors), message);
                said = true;
            }
            Turn::Recovers => {
                tracing::info!(drive = self.id, "A drive's reads no longer fail");
                (status.phase, status.reason, status.message) =
                    (DrivePhase::Ready, Some(Reason::Ready), String::new());
                said = true;
            }
        }
        let figures = vitals.figures(now);
        let age = vitals.written.map(|at| at.elapsed());
        if said || health::is_worth_writing(status.latency.as_ref(), &figures, age) {
            if figures.read.is_some() {
                status.latency = Some(figures);
            }
            vitals.written = Some(Instant::now());
            self.report(status).await;
        }
    }

    /// One look at the kernel's counters.
    fn count(&self, vitals: &mut Vitals, drive: &MountedDrive, at: Instant) {
        // A few bytes of sysfs, which no drive can hold up.
        let counters = match self.ctx.host.counters(&drive.device) {
            Ok(counters) => counters,
            Err(error) => {
                tracing::debug!(
                    drive = self.id,
                    error = error.sentence(),
                    "The kernel's counters could not be read"
                );
                return;
            }
        };
        self.ctx.metrics.kernel(
            &self.id,
            vitals.counts.back().map(|last| &last.counters),
            &counters,
        );
        let own = vitals.own;
        vitals.counts.push_back(Count { at, counters, own });
        while vitals.counts.len() > COUNTS_MAX {
            vitals.counts.pop_front();
        }
    }
}

/// Whose a failed round is.
#[derive(Debug, PartialEq, Eq)]
enum Unread {
    /// The drive gave no answer, or a bad one.
    Drive(String),
    /// It was not asked.
    Agent(String),
}

/// What a round came to: only what may be the drive's counts against it.
fn round_of<T>(outcome: Result<Result<T, HostError>, WorkerError>) -> Result<T, Unread> {
    let of = |drives, sentence| match drives {
        true => Unread::Drive(sentence),
        false => Unread::Agent(sentence),
    };
    match outcome {
        Ok(Ok(round)) => Ok(round),
        Ok(Err(error)) => Err(of(error.blames_drive(), error.sentence())),
        Err(error) => Err(of(error.blames_drive(), error.to_string())),
    }
}

/// Random reads of the probe file at depth 1.
fn read(host: &dyn Host, device: &str, extents: &[Extent], seed: u64) -> Result<Report, HostError> {
    let workload = Workload {
        extents: extents.to_vec(),
        seed,
        ..Workload::new(Pattern::RandRead, READ_BYTES, 1)
    };
    let limits = Limits {
        operations: Some(READS),
        answer_within: ANSWER_MAX,
        ..Limits::time(ROUND_MAX)
    };
    let run = Run {
        workload: &workload,
        limits: &limits,
        progress: &mut |_| {},
        cancel: &AtomicBool::new(false),
    };
    host.measure(device, run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_the_drives_is_not_held_against_it() {
        let io = |errno| {
            Ok(Err(HostError::io(
                "open",
                "/dev/a",
                std::io::Error::from_raw_os_error(errno),
            )))
        };
        let refused = || Ok(Err(HostError::refused("measure", "/dev/a", "no ring")));
        for (outcome, drives) in [
            (io(libc::EIO), true),
            (io(libc::ENXIO), true),
            (io(libc::EMFILE), false),
            (io(libc::ENOMEM), false),
            // FIEMAP, where the file system does not know it.
            (io(libc::EOPNOTSUPP), false),
            (refused(), false),
            (Err(WorkerError::Stuck), true),
            (Err(WorkerError::TimedOut(30)), true),
            (Err(WorkerError::Full), false),
            (Err(WorkerError::Failed), false),
        ] {
            let said = format!("{outcome:?}");
            let unread = round_of::<()>(outcome).unwrap_err();
            assert_eq!(matches!(unread, Unread::Drive(_)), drives, "{said}");
        }
    }
}
