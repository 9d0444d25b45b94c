//! One action of a drive's plan, piece by piece on the drive's worker: its status written before it begins, what destroys
//! asked for once more, and a person heard between two pieces.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api::drive::Step;
use api::serve::faults;
use api::{Drive, DriveStatus, Reason};
use block::erase::Turn;
use tokio::time::{Instant, sleep};

use crate::apply::{Apply, Attached, Outcome, Refusal, Retry, Session};
use crate::metrics::OfDrive;
use crate::objects;
use crate::observe::Observed;
use crate::plan::Action;
use crate::registry::MountedDrive;
use crate::standing;
use crate::worker::{Lane, WorkerError};

use super::{Stopped, Task};

/// A step that takes longer than this has hung: one piece of erasing, one mkfs, one mount with log recovery.
const STEP_TIMEOUT: Duration = Duration::from_secs(600);
/// The same for a drive that erases its cells: longer than the kernel waits for that command.
const SECURE_TIMEOUT: Duration = Duration::from_secs(4 * 3600);
/// Between two looks whether it is this drive's turn to zero.
const TURN_PAUSE: Duration = Duration::from_millis(5);
/// Between two writes of a cursor.
const CURSOR_INTERVAL: Duration = Duration::from_secs(2);

/// Whether a person says the same of both: all that what is destroyed depends on.
fn asks_the_same(one: &Drive, other: &Drive) -> bool {
    let asked = |drive: &Drive| {
        let (metadata, spec) = (&drive.metadata, &drive.spec);
        (
            (metadata.uid.clone(), metadata.deletion_timestamp.is_some()),
            (spec.suspended, spec.removal, spec.erase, spec.force),
            spec.repair.clone(),
            spec.device.fingerprint.clone(),
        )
    };
    asked(one) == asked(other)
}

impl Task {
    /// Does one action to its end, its status written before it begins.
    pub(super) async fn act(
        &mut self,
        drive: &Drive,
        seen: &Observed,
        mut session: Session,
        mut action: Action,
    ) -> Result<Session, Stopped> {
        let begun = standing::begun(drive, &self.status, &action, (self.ctx.clock)());
        let written = self.write(begun).await.map_err(Stopped::Unwritten);
        let goes_on = match written {
            Ok(()) if action.destroys() => self.is_to_be_done_by_now(drive).await,
            Ok(()) | Err(_) => written,
        };
        if let Err(stopped) = goes_on {
            self.rest(drive, session).await;
            return Err(stopped);
        }
        let name = action.name();
        faults::before(name);
        if self.act_on_api(drive, &action).await? {
            faults::after(name);
            return Ok(session);
        }
        if action.unmounts() {
            self.ctx.registry.remove(&self.id);
        }
        let mut cursor_written = Instant::now();
        let mut by_itself = false;
        loop {
            // Held over the rests in it as well, so that all drives together leave half of the time.
            let _turn = self.erase_turn(by_itself).await;
            let outcome;
            (session, outcome) = self.piece(drive, session, &action).await?;
            let status = standing::after(self.status.clone(), &outcome, (self.ctx.clock)());
            if let Outcome::Repairing { .. } = outcome {
                // To its end, whatever is said meanwhile: cut short it leaves a file system worse than it was.
                faults::piece(name);
                self.report(status).await;
                continue;
            }
            let Outcome::Partly {
                done_bytes,
                total_bytes,
                offloaded,
                methods: _,
            } = outcome
            else {
                if let Outcome::Attached(attached) = &outcome {
                    self.register(seen, attached);
                }
                self.report(status).await;
                faults::after(name);
                return Ok(session);
            };
            by_itself = offloaded;
            faults::piece(name);
            self.count_erased(&status);
            if let Action::Erase {
                done_bytes: cursor,
                total_bytes: total,
            } = &mut action
            {
                (*cursor, *total) = (done_bytes, total_bytes);
            }
            self.status = status;
            if cursor_written.elapsed() >= CURSOR_INTERVAL {
                cursor_written = Instant::now();
                self.report(self.status.clone()).await;
            }
            if self.changed_its_mind(drive) {
                self.report(self.status.clone()).await;
                self.rest(drive, session).await;
                return Err(Stopped::Changed);
            }
        }
    }

    /// One piece of an action, on the drive's worker. The session goes along and comes back; with a thread that hangs
    /// it is gone, and with it the hold on the device once the thread ends.
    async fn piece(
        &self,
        drive: &Drive,
        mut session: Session,
        action: &Action,
    ) -> Result<(Session, Outcome), Stopped> {
        let limit = if *action == Action::SecureErase {
            SECURE_TIMEOUT
        } else {
            STEP_TIMEOUT
        };
        let (ctx, action) = (self.ctx.clone(), action.clone());
        let status = Some(self.status.clone());
        let now = (self.ctx.clock)();
        let cancelled = Arc::new(AtomicBool::new(false));
        let heed = self.heed(drive, &cancelled);
        let (drive, cancel) = (drive.clone(), Arc::clone(&cancelled));
        let spare = self.has_neighbours();
        let job = move || {
            let drive = Drive { status, ..drive };
            let apply = Apply {
                host: ctx.host.as_ref(),
                site: &ctx.site,
                drive: &drive,
                now,
                cancel: &cancel,
                spare,
            };
            let outcome = apply.apply(&mut session, &action);
            (session, outcome)
        };
        let unanswered = |error: WorkerError| {
            Stopped::Refused(Refusal::new(
                Reason::Unresponsive,
                error.to_string(),
                Retry::Later,
            ))
        };
        let answer = tokio::select! {
            answer = self.worker.run(Lane::Long, limit, job) => answer,
            never = heed => match never {},
        };
        let (session, outcome) = answer.map_err(unanswered)?;
        outcome
            .map(|outcome| (session, outcome))
            .map_err(Stopped::Refused)
    }

    /// Sets `cancel` as soon as a person asks for something else than what is being done. Never ends.
    async fn heed(&self, drive: &Drive, cancel: &AtomicBool) -> Infallible {
        let mut objects = self.objects.clone();
        while objects.changed().await.is_ok() {
            if self.changed_its_mind(drive) {
                cancel.store(true, Ordering::Relaxed);
            }
        }
        std::future::pending().await
    }

    /// Lets be a device that nothing more is done with for now.
    async fn rest(&self, drive: &Drive, mut session: Session) {
        let (ctx, drive, now) = (self.ctx.clone(), drive.clone(), (self.ctx.clock)());
        let job = move || {
            let apply = Apply {
                host: ctx.host.as_ref(),
                site: &ctx.site,
                drive: &drive,
                now,
                cancel: &AtomicBool::new(false),
                spare: false,
            };
            apply.rest(&mut session)
        };
        match self.worker.run(Lane::Long, STEP_TIMEOUT, job).await {
            Ok(Ok(())) => {}
            Ok(Err(refusal)) => {
                tracing::warn!(drive = self.id, reason = %refusal.reason, message = refusal.message, "What the device was left with could not be kept");
            }
            Err(error) => {
                tracing::warn!(drive = self.id, %error, "What the device was left with could not be kept");
            }
        }
    }

    /// Counts the bytes erased since the last piece.
    fn count_erased(&self, status: &DriveStatus) {
        let done = |status: &DriveStatus| {
            let progress = status.progress.as_ref();
            progress
                .filter(|p| p.step == Step::Erase)
                .map_or(0, |p| p.done_bytes)
        };
        let of = OfDrive {
            drive: self.id.clone(),
        };
        let bytes = done(status).saturating_sub(done(&self.status));
        self.ctx
            .metrics
            .erased_bytes
            .get_or_create(&of)
            .inc_by(bytes);
    }

    /// Whether a person asked for something else than what is being done.
    fn changed_its_mind(&self, drive: &Drive) -> bool {
        let latest = self.objects.borrow();
        latest
            .as_ref()
            .is_none_or(|latest| !asks_the_same(latest, drive))
    }

    /// The opposite, asked of the API itself: what is destroyed next is not brought back by a word that was on its way.
    async fn is_to_be_done_by_now(&self, drive: &Drive) -> Result<(), Stopped> {
        let latest = objects::get(&self.api, &self.id).await;
        let latest = latest.map_err(Stopped::Unwritten)?;
        if asks_the_same(&latest, drive) {
            return Ok(());
        }
        Err(Stopped::Changed)
    }

    /// Waits for this drive's turn to zero by itself, where there is somebody to leave time to.
    async fn erase_turn(&self, by_itself: bool) -> Option<Turn> {
        if !by_itself || !self.has_neighbours() {
            return None;
        }
        let asked = Instant::now();
        let mut turn = self.ctx.erase_turns.ask();
        while !turn.has_come(u64::try_from(asked.elapsed().as_nanos()).unwrap_or(u64::MAX)) {
            sleep(TURN_PAUSE).await;
        }
        Some(turn)
    }

    /// Whether what the device zeroes by itself is cut and rests in between, so that others have half of the time of what they
    /// share with it: they do while volumes are on another drive, and a rate is set at all. Written zeroes and read-back are
    /// paced as they go (`block::erase::Limiter`).
    fn has_neighbours(&self) -> bool {
        let others = self.ctx.registry.all().into_iter();
        let mut others = others.filter(|other| *other.id != *self.id);
        self.ctx.limits.erase_bytes_per_second_max.is_some()
            && others.any(|other| self.ctx.volumes.promised_bytes(&other.id) != Some(0))
    }

    /// The drive is fit for use.
    fn register(&mut self, seen: &Observed, attached: &Attached) {
        let devices = seen
            .mounted
            .iter()
            .filter_map(|mounted| mounted.device.as_ref());
        let Some(device) = devices.chain(&seen.bearers).chain(&seen.named).next() else {
            return;
        };
        self.status.device = Some(standing::device(device));
        self.ctx.registry.hear(&self.id, attached.said.clone());
        self.ctx.registry.insert(MountedDrive {
            id: self.id.as_str().into(),
            device: device.facts.name.as_str().into(),
            root: self.ctx.site.guarded(&self.id).into(),
            quota_enforced: attached.quota_enforced,
            allocatable_bytes: attached.capacity.allocatable_bytes,
            read_only: false,
            worker: self.worker.clone(),
        });
    }
}
