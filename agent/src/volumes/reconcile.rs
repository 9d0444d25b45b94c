//! The loop that keeps this node's volumes as they were promised: select → plan → apply → report.
//!
//! ```text
//!   watch of this node's Volumes ──┐
//!   a drive was mounted or left ───┼──► due ──► one task a volume ─┬─► directory, limits ─► status
//!   a CSI call did something ──────┤                               └─► deleted: trash or keep ─► finalizer dropped
//!   every half minute, all ────────┘
//! ```
//! A volume whose drive hangs keeps one task waiting, for that drive alone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api::names::FINALIZER_DEVICE;
use api::serve::faults;
use api::{Drive, Reason, Volume};
use futures::TryStreamExt as _;
use kube::ResourceExt as _;
use kube::api::Api;
use kube::runtime::watcher;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::apply::apply;
use super::plan::{self, End, Promise, Wanted, end_without_drive};
use super::refusal::Refusal;
use super::seen::see;
use super::service::{Volumes, carry_out, used};
use super::status::{self, Found, Stands};
use super::subject::Subject;
use crate::host::Host;
use crate::objects::{Version, WriteError, patch_status, set_finalizer};
use crate::own;
use crate::registry::MountedDrive;

/// Between two looks at a volume of which nothing is heard.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Volumes that are looked at at once.
const TASKS_MAX: usize = 32;
/// Steps of an ending in one go; the longest has three.
const STEPS_MAX: usize = 4;
/// A volume whose files must be counted one by one is counted again after this time for each entry.
const COUNT_PAUSE_PER_ENTRY: Duration = Duration::from_millis(60);

impl Volumes {
    /// Keeps the volumes until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut events = own::watch(self.api(), &self.inner.node);
        let mut drives = self.inner.registry.changes();
        drives.mark_changed();
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tasks = Tasks::default();
        loop {
            tokio::select! {
                event = events.try_next() => match event {
                    Ok(Some(event)) => self.take(event),
                    Ok(None) => break,
                    Err(error) => {
                        tracing::warn!(%error, reason = %Reason::ApiUnavailable, "Volumes cannot be watched; what is mounted stays, and this is tried again");
                    }
                },
                Ok(()) = drives.changed() => {
                    self.empty_all_trash();
                    self.all_due();
                }
                _ = ticks.tick() => self.all_due(),
                () = self.inner.due_now.notified() => {}
                Some(ended) = tasks.running.join_next() => tasks.ended(ended),
                () = stop.cancelled() => break,
            }
            tasks.start(&self);
        }
        // What is under way on a drive's worker may be interrupted anywhere.
        tasks.running.shutdown().await;
    }

    fn take(&self, event: watcher::Event<Volume>) {
        for name in self.inner.cache.take(event) {
            if self.inner.cache.get(&name).is_none() {
                self.lock(&self.inner.memory).remove(&name);
            }
            self.look_again(&name);
        }
    }

    fn all_due(&self) {
        let Some(known) = self.inner.cache.all() else {
            return;
        };
        self.lock(&self.inner.due).extend(known.into_keys());
        // An empty name stands for the orphans.
        self.look_again("");
    }

    /// Brings one volume, or where it has no object the list of orphans, to where it should be.
    async fn reconcile(self, name: String) {
        let Some(volume) = self.inner.cache.get(&name) else {
            self.list_orphans().await;
            return;
        };
        let subject = Subject::of(Arc::clone(&volume));
        let outcome = if volume.metadata.deletion_timestamp.is_some() {
            self.end(&volume, &subject).await
        } else {
            self.keep(&volume, &subject).await
        };
        let found = match outcome {
            Ok(Some(found)) => found,
            Ok(None) => return,
            Err(refusal) => Found::Refused(refusal),
        };
        if let Found::Refused(refusal) = &found {
            tracing::debug!(volume = name, reason = %refusal.reason, message = refusal.message, "A volume is not as it should be");
        }
        if let Err(error) = self.report(&volume, &found).await {
            tracing::warn!(volume = name, error = %error, "A volume's status could not be written; this is tried again");
        }
    }

    /// Directory, record and limits stand.
    async fn keep(&self, volume: &Volume, subject: &Subject) -> Result<Option<Found>, Refusal> {
        let Some(drive) = &subject.drive else {
            return Ok(None);
        };
        let finalizers = volume.finalizers();
        if !finalizers.iter().any(|one| one == FINALIZER_DEVICE) {
            // Without it the object could vanish while its data stand. The change leads here again.
            return match set_finalizer(&self.api(), volume, FINALIZER_DEVICE, true).await {
                Ok(()) | Err(WriteError::Conflict(_) | WriteError::Gone(_)) => Ok(None),
                Err(error) => Err(Refusal::new(Reason::ApiUnavailable, error.to_string())),
            };
        }
        let name = volume.name_any();
        let may_count = self.may_count(&name);
        let promise = subject.promise.clone();
        let stands = self
            .on_drive(drive, move |host, drive| {
                provisioned(host, drive, &promise, may_count)
            })
            .await?;
        if let (true, Some(used), false) = (may_count, stands.used, stands.seen.quota_enforced) {
            self.counted(&name, used.inodes);
        }
        Ok(Some(Found::Stands(Box::new(stands))))
    }

    fn may_count(&self, name: &str) -> bool {
        let memories = self.lock(&self.inner.memory);
        let next = memories.get(name).and_then(|memory| memory.count_after);
        next.is_none_or(|next| next <= Instant::now())
    }

    fn counted(&self, name: &str, entries: u64) {
        let pause =
            COUNT_PAUSE_PER_ENTRY.saturating_mul(u32::try_from(entries).unwrap_or(u32::MAX));
        let mut memories = self.lock(&self.inner.memory);
        memories.entry(name.to_owned()).or_default().count_after =
            Instant::now().checked_add(pause);
    }

    /// A deleted volume goes: its data only with a release, its object once nothing of it is mounted.
    async fn end(&self, volume: &Volume, subject: &Subject) -> Result<Option<Found>, Refusal> {
        let finalizers = volume.finalizers();
        if !finalizers.iter().any(|one| one == FINALIZER_DEVICE) {
            return Ok(None);
        }
        let release = volume.spec.release;
        let end = match &subject.drive {
            None => End::LetGo,
            Some(drive) => match self.inner.registry.get(drive) {
                Ok(_) => {
                    let promise = subject.promise.clone();
                    self.on_drive(drive, move |host, drive| {
                        ended(host, drive, &promise, release)
                    })
                    .await?
                }
                Err(unavailable) => self.end_without_drive(drive, unavailable.into()).await?,
            },
        };
        if let (End::Empty(_), Some(drive)) = (&end, &subject.drive) {
            self.empty_trash(drive);
            return Ok(Some(Found::Releasing));
        }
        let name = volume.name_any();
        let api = self.api();
        let let_go = set_finalizer(&api, volume, FINALIZER_DEVICE, false);
        match faults::around("volume.let-go", let_go).await {
            Ok(()) => {
                tracing::info!(volume = name, release, "A volume's object was let go");
                self.look_again("");
            }
            // A change of the object brings it here again.
            Err(WriteError::Conflict(_)) => {}
            Err(error) => {
                return Err(Refusal::new(Reason::ApiUnavailable, error.to_string()));
            }
        }
        Ok(None)
    }

    /// The drive is not mounted.
    async fn end_without_drive(&self, drive: &str, missing: Refusal) -> Result<End, Refusal> {
        let drives: Api<Drive> = Api::all(self.inner.client.clone());
        let found = drives
            .get_opt(drive)
            .await
            .map_err(|error| Refusal::new(Reason::ApiUnavailable, error.to_string()))?;
        end_without_drive(found.as_ref()).ok_or(missing)
    }

    /// Writes the status, where it changed.
    async fn report(&self, volume: &Volume, found: &Found) -> Result<(), WriteError> {
        let name = volume.name_any();
        let old = volume.status.clone().unwrap_or_default();
        let memory = self.lock(&self.inner.memory).get(&name).cloned();
        let memory = memory.unwrap_or_default();
        let now = (self.inner.clock)();
        let new = status::status(&name, &old, &memory, found, now);
        if let Found::Stands(stands) = found
            && let Some(used) = stands.used
        {
            let mut memories = self.lock(&self.inner.memory);
            memories.entry(name.clone()).or_default().used = Some(used);
        }
        match status::patch(&old, &new) {
            Some(patch) => {
                let version = Version::of(volume);
                match patch_status(&self.api(), &name, &version, &patch).await {
                    // What is there now comes by the watch.
                    Ok(_) | Err(WriteError::Gone(_) | WriteError::Replaced(_)) => Ok(()),
                    Err(error) => Err(error),
                }
            }
            None => Ok(()),
        }
    }
}

/// One job: provisioned, and looked at.
///
/// # Errors
/// It cannot stand as promised, or its drive does not answer.
pub fn provisioned(
    host: &dyn Host,
    drive: &MountedDrive,
    promise: &Promise,
    may_count: bool,
) -> Result<Stands, Refusal> {
    let volume = &promise.record.volume;
    let (plan, _) = carry_out(host, drive, promise, Wanted::Provisioned)?;
    let seen = see(host, drive, volume, None)?;
    let used = if drive.quota_enforced || may_count {
        used(host, drive, &promise.record, seen.directory)?
    } else {
        None
    };
    Ok(Stands {
        seen,
        project_id: plan.project_id,
        capacity_bytes: plan.capacity_bytes,
        shortfall: plan.shortfall,
        used,
    })
}

/// One job: all steps of an ending that can be done at once.
///
/// # Errors
/// It is still mounted, or its drive does not answer.
pub fn ended(
    host: &dyn Host,
    drive: &MountedDrive,
    promise: &Promise,
    release: bool,
) -> Result<End, Refusal> {
    let volume = &promise.record.volume;
    for _ in 0..STEPS_MAX {
        let seen = see(host, drive, volume, Some(promise))?;
        let actions = match plan::end(promise, release, &seen)? {
            End::Act(actions) => actions,
            end @ (End::Empty(_) | End::LetGo) => return Ok(end),
        };
        for action in &actions {
            apply(host, drive, volume, action)?;
        }
    }
    Err(Refusal::new(Reason::Internal, "a volume's end has no end"))
}

/// The tasks under way, at most one a volume.
#[derive(Default)]
struct Tasks {
    running: JoinSet<String>,
    busy: BTreeSet<String>,
}

impl Tasks {
    /// Starts what is due and not under way.
    fn start(&mut self, volumes: &Volumes) {
        let mut due = volumes.lock(&volumes.inner.due);
        let room = TASKS_MAX.saturating_sub(self.busy.len());
        let next: Vec<String> = due.difference(&self.busy).take(room).cloned().collect();
        for name in next {
            due.remove(&name);
            self.busy.insert(name.clone());
            // Taken now: who waits from here on waits for the look after this one.
            let waiting = volumes.lock(&volumes.inner.waiting).remove(&name);
            let volumes = volumes.clone();
            self.running.spawn(async move {
                volumes.reconcile(name.clone()).await;
                drop(waiting);
                name
            });
        }
    }

    fn ended(&mut self, ended: Result<String, tokio::task::JoinError>) {
        match ended {
            Ok(name) => {
                self.busy.remove(&name);
            }
            Err(error) => {
                tracing::error!(%error, "A volume's task failed; all volumes are looked at again");
                self.busy.clear();
            }
        }
    }
}
