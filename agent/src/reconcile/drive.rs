//! The task of one drive: it owns the drive's worker, its session and its status.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::{Drive, DrivePhase, DriveStatus, Reason};
use kube::api::Api;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::apply::{Refusal, Retry, Session};
use crate::objects::{Latest, Version, WriteError};
use crate::observe::{Observed, observe};
use crate::plan::{Action, Plan, Standing, plan, refused_phase, was_in_use};
use crate::probe::Snapshot;
use crate::standing;
use crate::worker::Worker;

use super::Context;
use vitals::Vitals;

mod act;
mod report;
mod vitals;

/// Between two looks at a drive that nothing happened to.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// First and longest wait after a refusal that may pass by itself.
const BACKOFF_MIN: Duration = Duration::from_secs(5);
const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// First wait after a status that could not be written.
const WRITE_AGAIN_MIN: Duration = Duration::from_secs(1);
/// First and longest wait for the watch to show what the API itself has said already.
const SHOWN_MIN: Duration = Duration::from_millis(200);
const SHOWN_MAX: Duration = Duration::from_secs(5);

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
        memory: Memory::of(&drive),
        ctx,
        id,
        objects,
        worker,
    };
    while let Some(longest) = task.turn().await {
        task.wait(longest).await;
    }
    task.ctx.metrics.forget(&task.id);
    let (registry, id, objects) = (
        task.ctx.registry.clone(),
        task.id.clone(),
        task.objects.clone(),
    );
    drop(task);
    registry.forget_worker(&id);
    // Only now: with it the task of another object of this name may begin.
    drop(objects);
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
    memory: Memory,
}

/// What is remembered of one object from round to round. Another one of its name has nothing to do with it.
struct Memory {
    /// The object as it was last read or written.
    latest: Latest,
    /// What was refused until it changes. An attempt changes a device itself, so what counts is how the next look
    /// finds it, if nobody changed the Drive meanwhile.
    refused: Option<Refused>,
    /// Refusals in a row.
    failures: u32,
    /// Looks in a row after which the status could not be written.
    unwritten: u32,
    /// Ends in a row by a change that the watch did not show yet.
    unshown: u32,
    /// Until when it is not unmounted again for what can wait, since somebody was using it.
    busy_until: Option<Instant>,
    /// Its figures, while it is in use.
    vitals: Option<Vitals>,
}

impl Memory {
    fn of(object: &Drive) -> Self {
        Self {
            latest: Latest::of(object),
            refused: None,
            failures: 0,
            unwritten: 0,
            unshown: 0,
            busy_until: None,
            vitals: None,
        }
    }

    /// The object as the watch shows it. Whether it is another one than before: then all is forgotten.
    fn is_replaced_by(&mut self, object: &Drive) -> bool {
        if Version::of(object).is_of(self.latest.version()) {
            self.latest.shown(object);
            return false;
        }
        *self = Self::of(object);
        true
    }

    /// How long to wait at most after the object was found changed: not at all where the watch has shown the change, else
    /// until it does, a little longer each time.
    fn until_shown(&mut self, shown: bool) -> Duration {
        if shown {
            self.unshown = 0;
            return Duration::ZERO;
        }
        let factor = 1u32 << self.unshown.min(16);
        self.unshown = self.unshown.saturating_add(1);
        SHOWN_MIN.saturating_mul(factor).min(SHOWN_MAX)
    }

    /// How long until the next look, where the status could not be written or was.
    fn until_written(&mut self, unwritten: bool) -> Duration {
        if !unwritten {
            self.unwritten = 0;
            return LOOK_INTERVAL;
        }
        let factor = 1u32 << self.unwritten.min(16);
        self.unwritten = self.unwritten.saturating_add(1);
        WRITE_AGAIN_MIN.saturating_mul(factor).min(LOOK_INTERVAL)
    }
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

impl Task {
    /// One round. How long to wait at most for a change before the next; `None`: the object is gone.
    async fn turn(&mut self) -> Option<Duration> {
        let object = self.objects.borrow_and_update().clone()?;
        let snapshot = Arc::clone(&self.snapshots.borrow_and_update());
        if self.memory.is_replaced_by(&object) {
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
                self.until_written()
            }
            Plan::Stand(standing) => {
                self.use_no_more(&standing);
                self.stand(&standing).await;
                self.until_written()
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
            let vitals_due = self.memory.vitals.as_ref().map_or(until, Vitals::due);
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
            let busy = self
                .memory
                .busy_until
                .is_some_and(|until| Instant::now() < until);
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
        let Some(refused) = &mut self.memory.refused else {
            return false;
        };
        let same = refused.generation == drive.metadata.generation
            && *refused.devices.get_or_insert_with(|| devices.clone()) == devices;
        if !same {
            self.memory.refused = None;
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
                self.memory.refused = None;
                self.memory.failures = 0;
                self.memory.unshown = 0;
                Duration::ZERO
            }
            Err(Stopped::Changed) => {
                let shown = self.objects.has_changed().unwrap_or(true);
                self.memory.until_shown(shown)
            }
            Err(Stopped::Unwritten(WriteError::Gone(_) | WriteError::Replaced(_))) => LOOK_INTERVAL,
            Err(Stopped::Unwritten(error)) => {
                let error = anyhow::Error::new(error);
                tracing::warn!(drive = self.id, error = format!("{error:#}"), reason = %Reason::ApiUnavailable, "Nothing is begun before its status is written");
                self.later()
            }
            Err(Stopped::Refused(refusal)) => {
                self.ctx.metrics.refused(refusal.reason);
                tracing::warn!(drive = self.id, reason = %refusal.reason, message = refusal.message, "A drive was refused");
                if refusal.retry == Retry::OnChange {
                    self.memory.refused = Some(self.refused_as_it_is(drive).await);
                }
                let status =
                    standing::refused(drive, self.status.clone(), &refusal, (self.ctx.clock)());
                self.report(status).await;
                if refusal.reason == Reason::DriveInUse {
                    self.memory.busy_until = Some(Instant::now() + BACKOFF_MAX);
                }
                if refusal.retry == Retry::OnChange {
                    return LOOK_INTERVAL;
                }
                self.later()
            }
        }
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

    /// Until the next look: soon, a little later each time, where what is so could not be written.
    fn until_written(&mut self) -> Duration {
        let unwritten = standing::patch(&self.stored, &self.status).is_some();
        self.memory.until_written(unwritten)
    }

    /// Longer with each refusal in a row.
    fn later(&mut self) -> Duration {
        let factor = 1u32 << self.memory.failures.min(16);
        self.memory.failures = self.memory.failures.saturating_add(1);
        BACKOFF_MIN.saturating_mul(factor).min(BACKOFF_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive(uid: &str, version: &str) -> Drive {
        let mut drive = api::testing::drive("d").build();
        drive.metadata.uid = Some(uid.to_owned());
        drive.metadata.resource_version = Some(version.to_owned());
        drive
    }

    #[test]
    fn a_watch_that_lags_is_waited_for_and_not_asked_at_once() {
        let mut memory = Memory::of(&drive("one", "1"));
        let waits: Vec<u128> = [false, false, false, false, false, false, true, false]
            .map(|shown| memory.until_shown(shown).as_millis())
            .to_vec();
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 5000, 0, 200]);
    }

    #[test]
    fn what_could_not_be_written_is_written_soon() {
        let mut memory = Memory::of(&drive("one", "1"));
        let waits: Vec<u64> = [true, true, true, true, true, true, true, false, true]
            .map(|unwritten| memory.until_written(unwritten).as_secs())
            .to_vec();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 1]);
    }

    /// Deleted, and made anew under its name before anybody looked: it is tried at once.
    #[tokio::test(start_paused = true)]
    async fn another_object_of_the_name_is_met_without_a_memory() {
        let mut memory = Memory::of(&drive("one", "1"));
        memory.refused = Some(Refused {
            generation: Some(1),
            devices: None,
        });
        memory.failures = 3;
        memory.busy_until = Some(Instant::now());
        memory.vitals = Some(Vitals::new(Instant::now()));
        assert!(!memory.is_replaced_by(&drive("one", "2")));
        assert!(memory.refused.is_some() && memory.vitals.is_some() && memory.failures == 3);
        assert_eq!(memory.latest, Latest::of(&drive("one", "2")));
        assert!(memory.is_replaced_by(&drive("two", "3")));
        assert!(memory.refused.is_none() && memory.vitals.is_none());
        assert!(memory.busy_until.is_none() && memory.failures == 0);
        assert_eq!(memory.latest, Latest::of(&drive("two", "3")));
    }
}
