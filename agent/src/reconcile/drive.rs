//! The task of one drive: it owns the drive's worker, its session and its status.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::drive::Step;
use api::serve::faults;
use api::{Drive, DrivePhase, DriveStatus, Reason};
use kube::api::Api;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::apply::{Apply, Attached, Outcome, Refusal, Retry, Session};
use crate::metrics::OfDrive;
use crate::objects::{self, WriteError};
use crate::observe::{Observed, observe};
use crate::plan::{Action, Plan, Standing, plan, refused_phase, was_in_use};
use crate::probe::Snapshot;
use crate::registry::MountedDrive;
use crate::standing;
use crate::worker::{Lane, Worker, WorkerError};

use super::Context;
use vitals::Vitals;

mod report;
mod vitals;

/// A step that takes longer than this has hung: one piece of erasing, one mkfs, one mount with log recovery.
const STEP_TIMEOUT: Duration = Duration::from_secs(600);
/// The same for a drive that erases its cells: longer than the kernel waits for that command.
const SECURE_TIMEOUT: Duration = Duration::from_secs(4 * 3600);
/// Between two looks at a drive that nothing happened to.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// First and longest wait after a refusal that may pass by itself.
const BACKOFF_MIN: Duration = Duration::from_secs(5);
const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// Between two writes of a cursor.
const CURSOR_INTERVAL: Duration = Duration::from_secs(2);

/// Follows one Drive until its object is gone.
pub(super) async fn follow(ctx: Context, id: String, objects: watch::Receiver<Option<Arc<Drive>>>) {
    let Some(drive) = objects.borrow().clone() else {
        return;
    };
    let worker = ctx.registry.worker(&id);
    let status = drive.status.clone().unwrap_or_default();
    let mut task = Task {
        api: Api::all(ctx.client.clone()),
        snapshots: ctx.snapshots.clone(),
        mounts: ctx.registry.changes(),
        stored: status.clone(),
        status,
        uid: drive.metadata.uid.clone(),
        ctx,
        id,
        objects,
        worker,
        refused: None,
        failures: 0,
        busy_until: None,
        vitals: None,
    };
    while let Some(longest) = task.turn().await {
        task.wait(longest).await;
    }
    task.ctx.metrics.forget(&task.id);
    let (registry, id) = (task.ctx.registry.clone(), task.id.clone());
    drop(task);
    registry.suspend(&id, false);
    registry.forget_worker(&id);
}

struct Task {
    ctx: Context,
    id: String,
    api: Api<Drive>,
    objects: watch::Receiver<Option<Arc<Drive>>>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Is woken by the end of a mount of the agent's start.
    mounts: watch::Receiver<u64>,
    worker: Worker,
    /// The status as it should be.
    status: DriveStatus,
    /// The status as the API has it.
    stored: DriveStatus,
    uid: Option<String>,
    /// What was refused until it changes. An attempt changes a device itself, so what counts is how the next look
    /// finds it, if nobody changed the Drive meanwhile.
    refused: Option<Refused>,
    /// Refusals in a row.
    failures: u32,
    /// Until when it is not unmounted again for what can wait, since somebody was using it.
    busy_until: Option<Instant>,
    /// Its figures, while it is in use.
    vitals: Option<Vitals>,
}

/// What a refusal depends on: the same again would be refused again.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Refused {
    generation: Option<i64>,
    /// By number, where they could be looked at.
    devices: Option<BTreeMap<String, api::Fingerprint>>,
}

/// The devices that a drive may be on, each by its number.
fn devices_of(seen: &Observed) -> BTreeMap<String, api::Fingerprint> {
    seen.bearers
        .iter()
        .chain(&seen.named)
        .map(|seen| (seen.facts.major_minor.clone(), seen.fingerprint.clone()))
        .collect()
}

/// Why a run of actions ended early.
enum Stopped {
    /// An action was refused.
    Refused(Refusal),
    /// The object changed so that the plan no longer holds.
    Changed,
    /// The API does not take what must be written first.
    Unwritten(WriteError),
}

/// Whether a person says the same of both: all that what is destroyed depends on.
fn asks_the_same(one: &Drive, other: &Drive) -> bool {
    let asked = |drive: &Drive| {
        let (metadata, spec) = (&drive.metadata, &drive.spec);
        (
            (metadata.uid.clone(), metadata.deletion_timestamp.is_some()),
            (spec.suspended, spec.removal, spec.erase, spec.force),
            spec.device.fingerprint.clone(),
        )
    };
    asked(one) == asked(other)
}

impl Task {
    /// One round. How long to wait at most for a change before the next; `None`: the object is gone.
    async fn turn(&mut self) -> Option<Duration> {
        let object = self.objects.borrow_and_update().clone()?;
        let snapshot = Arc::clone(&self.snapshots.borrow_and_update());
        self.ctx.registry.suspend(&self.id, object.spec.suspended);
        if object.metadata.uid != self.uid {
            self.uid.clone_from(&object.metadata.uid);
            self.stored = object.status.clone().unwrap_or_default();
            self.status = self.stored.clone();
        }
        let drive = Drive {
            status: Some(self.status.clone()),
            ..Drive::clone(&object)
        };
        if self.is_attaching(&drive).await {
            return Some(LOOK_INTERVAL);
        }
        let seen = match self.observe(&drive, snapshot).await {
            Ok(seen) => seen,
            Err(standing) => {
                self.stand(&standing).await;
                return Some(self.later());
            }
        };
        Some(match plan(&drive, &seen, &self.ctx.site) {
            Plan::Wait => LOOK_INTERVAL,
            Plan::Settled => {
                self.settled(&drive, &seen).await;
                LOOK_INTERVAL
            }
            Plan::Stand(standing) => {
                self.use_no_more(&standing);
                self.stand(&standing).await;
                LOOK_INTERVAL
            }
            Plan::Do(_) if self.is_refused(&drive, &seen) => LOOK_INTERVAL,
            Plan::Do(actions) => {
                let outcome = self.run(&drive, &seen, actions).await;
                self.next(&drive, outcome).await
            }
        })
    }

    /// Waits for a change of the object or of the devices, and looks after a drive in use meanwhile.
    async fn wait(&mut self, longest: Duration) {
        let until = Instant::now() + longest;
        let attaching = self.ctx.registry.is_attaching(&self.id);
        loop {
            let vitals_due = self.vitals.as_ref().map_or(until, Vitals::due);
            tokio::select! {
                // An error means that the process ends; so does this task then.
                _ = self.objects.changed() => return,
                _ = self.snapshots.changed() => return,
                _ = self.mounts.changed(), if attaching => {
                    if self.ctx.registry.is_attaching(&self.id) {
                        continue;
                    }
                    return;
                }
                () = tokio::time::sleep_until(until) => return,
                () = tokio::time::sleep_until(vitals_due) => {}
            }
            self.vitals().await;
        }
    }

    /// Whether the drive's mount, begun at the agent's start, is still under way. Then nothing else is done about it: what
    /// hangs must not be joined by a second call, and a slow one ends by itself.
    async fn is_attaching(&mut self, drive: &Drive) -> bool {
        if !self.ctx.registry.is_attaching(&self.id) {
            return false;
        }
        if was_in_use(drive) {
            let standing = Standing {
                phase: refused_phase(drive),
                reason: Reason::Unresponsive,
                message: "its mount, begun at the agent's start, has not ended yet".to_owned(),
            };
            self.stand(&standing).await;
        }
        true
    }

    async fn observe(&self, drive: &Drive, snapshot: Arc<Snapshot>) -> Result<Observed, Standing> {
        let unavailable = |message: String| Standing {
            phase: refused_phase(drive),
            reason: Reason::Unresponsive,
            message,
        };
        let (ctx, id) = (self.ctx.clone(), self.id.clone());
        let identity = drive.spec.device.fingerprint.identity.clone();
        let said = matches!(self.status.phase, DrivePhase::Ready | DrivePhase::Failing);
        let in_use = self.ctx.registry.get(&self.id).ok().filter(|_| said);
        let afresh = in_use.is_none();
        let look = move || {
            observe(
                ctx.host.as_ref(),
                &ctx.site,
                &snapshot,
                &id,
                &identity,
                afresh,
            )
        };
        let mut seen = match self.worker.call(look).await {
            Ok(Ok(seen)) => seen,
            Ok(Err(error)) => return Err(unavailable(error.sentence())),
            Err(error) => return Err(unavailable(error.to_string())),
        };
        if let Some(mounted) = &mut seen.mounted {
            let busy = self.busy_until.is_some_and(|until| Instant::now() < until);
            mounted.shared |= busy;
        }
        let device = seen
            .mounted
            .as_ref()
            .and_then(|mounted| mounted.device.as_ref());
        seen.attached = in_use.zip(device).is_some_and(|(in_use, device)| {
            *in_use.device == *device.facts.name && !in_use.read_only
        });
        Ok(seen)
    }

    /// Whether this was refused before, and nothing has changed since.
    fn is_refused(&mut self, drive: &Drive, seen: &Observed) -> bool {
        let devices = devices_of(seen);
        let Some(refused) = &mut self.refused else {
            return false;
        };
        let same = refused.generation == drive.metadata.generation
            && *refused.devices.get_or_insert_with(|| devices.clone()) == devices;
        if !same {
            self.refused = None;
        }
        same
    }

    /// What a refusal depends on, as it is now. Looked at before the refusal is told: what a person does to the device in
    /// answer is a change.
    async fn refused_as_it_is(&self, drive: &Drive) -> Refused {
        let snapshot = Arc::clone(&self.snapshots.borrow());
        let seen = self.observe(drive, snapshot).await;
        Refused {
            generation: drive.metadata.generation,
            devices: seen.ok().as_ref().map(devices_of),
        }
    }

    async fn run(
        &mut self,
        drive: &Drive,
        seen: &Observed,
        actions: Vec<Action>,
    ) -> Result<(), Stopped> {
        let mut session = Session::default();
        for action in actions {
            session = self.act(drive, seen, session, action).await?;
        }
        Ok(())
    }

    /// What a run of actions came to, and when to look again.
    async fn next(&mut self, drive: &Drive, outcome: Result<(), Stopped>) -> Duration {
        match outcome {
            Ok(()) => {
                self.refused = None;
                self.failures = 0;
                Duration::ZERO
            }
            Err(Stopped::Changed) => Duration::ZERO,
            Err(Stopped::Unwritten(WriteError::Gone(_))) => LOOK_INTERVAL,
            Err(Stopped::Unwritten(error)) => {
                let error = anyhow::Error::new(error);
                tracing::warn!(drive = self.id, error = format!("{error:#}"), reason = %Reason::ApiUnavailable, "Nothing is begun before its status is written");
                self.later()
            }
            Err(Stopped::Refused(refusal)) => {
                self.ctx.metrics.refused(refusal.reason);
                tracing::warn!(drive = self.id, reason = %refusal.reason, message = refusal.message, "A drive was refused");
                if refusal.retry == Retry::OnChange {
                    self.refused = Some(self.refused_as_it_is(drive).await);
                }
                let status =
                    standing::refused(drive, self.status.clone(), &refusal, (self.ctx.clock)());
                self.report(status).await;
                if refusal.reason == Reason::DriveInUse {
                    self.busy_until = Some(Instant::now() + BACKOFF_MAX);
                }
                if refusal.retry == Retry::OnChange {
                    return LOOK_INTERVAL;
                }
                self.later()
            }
        }
    }

    /// Does one action to its end, its status written before it begins.
    async fn act(
        &mut self,
        drive: &Drive,
        seen: &Observed,
        mut session: Session,
        mut action: Action,
    ) -> Result<Session, Stopped> {
        let begun = standing::begun(drive, &self.status, &action, (self.ctx.clock)());
        self.write(begun).await.map_err(Stopped::Unwritten)?;
        if action.destroys() && self.changed_its_mind_by_now(drive).await? {
            self.rest(drive, session).await;
            return Err(Stopped::Changed);
        }
        let name = action.name();
        faults::before(name);
        if self.act_on_api(drive, &action).await? {
            faults::after(name);
            return Ok(session);
        }
        if matches!(
            action,
            Action::Unmount | Action::Abandon { .. } | Action::Seal { .. }
        ) {
            self.ctx.registry.remove(&self.id);
        }
        let mut cursor_written = Instant::now();
        loop {
            let began = Instant::now();
            let outcome;
            (session, outcome) = self.piece(drive, session, &action).await?;
            let status = standing::after(self.status.clone(), &outcome, (self.ctx.clock)());
            let Outcome::Partly {
                done_bytes,
                total_bytes,
                offloaded,
            } = outcome
            else {
                if let Outcome::Attached(attached) = &outcome {
                    self.register(seen, attached);
                }
                self.report(status).await;
                faults::after(name);
                return Ok(session);
            };
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
            if offloaded && self.has_neighbours() {
                tokio::time::sleep(began.elapsed()).await;
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
        let (ctx, drive, action) = (self.ctx.clone(), drive.clone(), action.clone());
        let status = Some(self.status.clone());
        let now = (self.ctx.clock)();
        let job = move || {
            let drive = Drive { status, ..drive };
            let apply = Apply {
                host: ctx.host.as_ref(),
                site: &ctx.site,
                drive: &drive,
                now,
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
        let (session, outcome) = self
            .worker
            .run(Lane::Long, limit, job)
            .await
            .map_err(unanswered)?;
        outcome
            .map(|outcome| (session, outcome))
            .map_err(Stopped::Refused)
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

    /// The same, asked of the API itself: what is destroyed next is not brought back by a word that was on its way.
    async fn changed_its_mind_by_now(&self, drive: &Drive) -> Result<bool, Stopped> {
        let latest = objects::get(&self.api, &self.id).await;
        let latest = latest.map_err(Stopped::Unwritten)?;
        Ok(!asks_the_same(&latest, drive))
    }

    /// Whether a piece that the device zeroes by itself is followed by a rest as long as itself, so that others have half of
    /// the time of what they share with it: they do while volumes are on another drive, and a rate is set at all. Written
    /// zeroes and read-back are paced as they go (`block::erase::Limiter`).
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

    /// The drive is not what it was: a read-only one may still be read, any other is not touched.
    fn use_no_more(&self, standing: &Standing) {
        match (standing.phase, self.ctx.registry.get(&self.id)) {
            (DrivePhase::ReadOnly, Ok(mut mounted)) if !mounted.read_only => {
                mounted.read_only = true;
                self.ctx.registry.insert(mounted);
            }
            (DrivePhase::ReadOnly, _) => {}
            _ => self.ctx.registry.remove(&self.id),
        }
    }

    /// Longer with each refusal in a row.
    fn later(&mut self) -> Duration {
        let factor = 1u32 << self.failures.min(16);
        self.failures = self.failures.saturating_add(1);
        BACKOFF_MIN.saturating_mul(factor).min(BACKOFF_MAX)
    }
}
