//! The loop: observe → plan → apply → report. The only orchestration of drives; it decides nothing by itself.
//!
//! ```text
//!   watch of this node's Drives ─► one task a Drive ─► observe ─► plan ─┬─► actions, one by one on the drive's worker
//!   snapshots of devices ─────────────┘      ▲                          │      status is written before each begins
//!                                            └──────────────────────────┴─► standing: status, then wait for a change
//! ```
//!
//! A task ends with its object. A drive that is mounted without an object stays mounted: its data are somebody's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::Drive;
use block::erase::Turns;
use futures::TryStreamExt as _;
use jiff::Timestamp;
use kube::api::Api;
use kube::runtime::watcher;
use kube::{Client, ResourceExt as _};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::host::Host;
use crate::metrics::Metrics;
use crate::own;
use crate::probe::Snapshot;
use crate::registry::Registry;
use crate::site::Site;
use crate::volumes::Volumes;

mod drive;
mod start;

pub use start::{FromDisk, START_WAIT};

/// Bounds and cadences of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Between two health reads of a drive.
    pub health_interval: Duration,
    /// Bytes a second that erasing and reading back may take, all drives of the node together.
    pub erase_bytes_per_second_max: Option<u64>,
}

/// What every drive's task shares.
#[derive(Clone)]
pub struct Context {
    /// The machine.
    pub host: Arc<dyn Host>,
    /// Node, cluster, places.
    pub site: Arc<Site>,
    /// The API.
    pub client: Client,
    /// Drives in use.
    pub registry: Registry,
    /// Volumes on them.
    pub volumes: Volumes,
    /// Devices as they are seen now.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// Bounds.
    pub limits: Limits,
    /// Whose turn it is to zero by itself, where volumes share what drives share: one drive's.
    pub erase_turns: Arc<Turns>,
    /// The wall clock.
    pub clock: fn() -> Timestamp,
}

/// Follows this node's Drives until `stop`. `known` is told their ids, once all are known.
pub async fn run(
    ctx: Context,
    known: watch::Sender<Option<BTreeSet<String>>>,
    stop: CancellationToken,
) {
    let api: Api<Drive> = Api::all(ctx.client.clone());
    let mut tasks = Tasks::default();
    let mut events = own::watch(api, &ctx.site.node);
    loop {
        let event = tokio::select! {
            event = events.try_next() => event,
            () = stop.cancelled() => break,
        };
        match event {
            Ok(Some(event)) => {
                if tasks.take(event, &ctx) {
                    known.send_replace(Some(tasks.drives.keys().cloned().collect()));
                }
            }
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(%error, reason = %api::Reason::ApiUnavailable, "Drives cannot be watched; mounted drives stay, and this is tried again");
            }
        }
    }
    tasks.end().await;
}

/// What a task is told of its object; closed when it has ended.
type Objects = watch::Sender<Option<Arc<Drive>>>;

/// The tasks of the drives, by name. What a person suspended is so from the event that says it on, whatever a task is at.
#[derive(Default)]
struct Tasks {
    drives: BTreeMap<String, Objects>,
    /// Tasks whose objects are gone, until they have ended.
    ending: BTreeMap<String, Objects>,
    running: JoinSet<()>,
    /// While a list is under way: what it has named so far.
    listed: Option<BTreeMap<String, Arc<Drive>>>,
}

impl Tasks {
    /// Takes one event. Whether the set of drives may have changed.
    fn take(&mut self, event: watcher::Event<Drive>, ctx: &Context) -> bool {
        match event {
            watcher::Event::Init => {
                self.listed = Some(BTreeMap::new());
                false
            }
            watcher::Event::InitApply(drive) => {
                if let Some(listed) = &mut self.listed {
                    listed.insert(drive.name_any(), Arc::new(drive));
                }
                false
            }
            watcher::Event::InitDone => {
                let listed = self.listed.take().unwrap_or_default();
                let gone: Vec<String> = self
                    .drives
                    .keys()
                    .filter(|name| !listed.contains_key(*name))
                    .cloned()
                    .collect();
                gone.iter().for_each(|name| self.remove(name, ctx));
                for drive in listed.into_values() {
                    self.set(drive, ctx);
                }
                true
            }
            watcher::Event::Apply(drive) => self.set(Arc::new(drive), ctx),
            watcher::Event::Delete(drive) => {
                self.remove(&drive.name_any(), ctx);
                true
            }
        }
    }

    /// Whether the drive is a new one.
    fn set(&mut self, drive: Arc<Drive>, ctx: &Context) -> bool {
        let name = drive.name_any();
        ctx.registry.suspend(&name, drive.spec.suspended);
        if let Some(task) = self.drives.get(&name)
            && task.send(Some(Arc::clone(&drive))).is_ok()
        {
            return false;
        }
        let (sender, receiver) = watch::channel(Some(drive));
        let task = drive::follow(ctx.clone(), name.clone(), receiver);
        self.running.spawn(after(self.ending.remove(&name), task));
        self.drives.insert(name, sender).is_none()
    }

    fn remove(&mut self, name: &str, ctx: &Context) {
        if let Some(task) = self.drives.remove(name) {
            ctx.registry.suspend(name, false);
            task.send_replace(None);
            self.ending.retain(|_, task| !task.is_closed());
            self.ending.insert(name.to_owned(), task);
        }
    }

    /// Stops all tasks where they are: an action under way on a worker is one that may be interrupted anywhere.
    async fn end(mut self) {
        self.running.shutdown().await;
    }
}

/// Does `task` once the one before it has ended: two of one drive would each do what the other has begun, and the end of
/// the first would take from the second what both of them use.
async fn after(before: Option<Objects>, task: impl Future<Output = ()>) {
    if let Some(before) = before {
        before.closed().await;
    }
    task.await;
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_task_begins_when_the_one_before_it_has_ended() {
        let begun = Arc::new(AtomicBool::new(false));
        let (sender, receiver) = watch::channel(None);
        let begins = Arc::clone(&begun);
        let task = async move { begins.store(true, Ordering::Relaxed) };
        let task = tokio::spawn(after(Some(sender), task));
        tokio::task::yield_now().await;
        assert!(!begun.load(Ordering::Relaxed));
        drop(receiver);
        task.await.unwrap();
        assert!(begun.load(Ordering::Relaxed));
    }
}
