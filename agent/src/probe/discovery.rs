//! Discovery: a picture of all devices that is always current. There is no command to refresh it. What keeps it is
//! [`super::watcher`]; this is how the rest of the agent looks at it, and how one device is looked at afresh before
//! the first write.

use std::collections::BTreeSet;
use std::sync::Arc;

use block::probe::Prober;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::reader::{Reader, kernel_name};
use super::sysfs::{self, SysfsError};
use super::watcher::{Watcher, same};
use super::{Seen, Snapshot, judge_all, mounts};
use crate::uevent::{Change, Events};

/// Discovery cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// sysfs.
    #[error(transparent)]
    Sysfs(#[from] SysfsError),
    /// The thread that waits for the kernel's events.
    #[error("listening to the kernel's events")]
    Events(#[source] std::io::Error),
    /// The agent shuts down.
    #[error("discovery has ended")]
    Ended,
}

/// One device could not be looked at afresh.
#[derive(Debug, thiserror::Error)]
pub enum ReprobeError {
    /// sysfs.
    #[error(transparent)]
    Sysfs(#[from] SysfsError),
    /// It is gone.
    #[error("there is no device {0}")]
    NotFound(String),
    /// The device behind the name was replaced or resized while it was read.
    #[error("the device {0} changed while it was read")]
    Changed(String),
}

/// The picture of the devices, kept current by a task. Cheap to clone; the task ends with the last clone.
#[derive(Clone, Debug)]
pub struct Discovery {
    reader: Arc<Reader>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    drives: Arc<watch::Sender<BTreeSet<String>>>,
    hints: mpsc::UnboundedSender<Change>,
    ring_ended: watch::Receiver<bool>,
    _task: Arc<Task>,
}

/// The task, stopped when nobody is interested any more.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Discovery {
    /// Begins to look. Returns as soon as all devices have answered, or after a moment with what is known then.
    /// `drives` are the ids of this node's Drive objects, as far as they are known already.
    ///
    /// # Errors
    /// The devices cannot be listed.
    pub async fn start(
        reader: Reader,
        prober: Prober,
        drives: BTreeSet<String>,
    ) -> Result<Self, DiscoveryError> {
        let reader = Arc::new(reader);
        let (publish, mut snapshots) = watch::channel(Arc::new(Snapshot::default()));
        let (drives, drives_seen) = watch::channel(drives);
        let (hints, changes) = mpsc::unbounded_channel();
        let events =
            Events::start(&reader.root.proc, hints.clone()).map_err(DiscoveryError::Events)?;
        let ring_ended = prober.ring_ended();
        let of = Arc::clone(&reader);
        let mut watcher = Watcher::new(of, prober, publish, drives_seen, events);
        // What changes from here on is told; so what changes before is seen.
        watcher.survey().await?;
        if !watcher.sees_host_mounts() {
            let path = reader.root.proc.join("1/mountinfo");
            tracing::warn!(path = %path.display(), "the host's mounts are not visible, only our own; run in the host's PID namespace");
        }
        let task = tokio::spawn(watcher.run(changes));
        snapshots
            .wait_for(|snapshot| snapshot.generation > 0)
            .await
            .map_err(|_| DiscoveryError::Ended)?;
        Ok(Self {
            reader,
            snapshots,
            drives: Arc::new(drives),
            hints,
            ring_ended,
            _task: Arc::new(Task(task)),
        })
    }

    /// True once the ring that devices were read with has ended.
    #[must_use]
    pub fn ring_ended(&self) -> watch::Receiver<bool> {
        self.ring_ended.clone()
    }

    /// The picture now, and a way to wait for the next.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// The picture now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshots.borrow())
    }

    /// Tells which Drive objects this node has, by id.
    pub fn set_drives(&self, ids: BTreeSet<String>) {
        self.drives.send_if_modified(|old| {
            let changed = *old != ids;
            *old = ids;
            changed
        });
    }

    /// Tells that we changed a device ourselves, by kernel name. Soon the picture shows it.
    pub fn changed(&self, device: &str) {
        // After the task's end there is no picture to be kept.
        drop(
            self.hints
                .send(Change::Device(kernel_name(device).to_owned())),
        );
    }

    /// Looks at one device afresh: facts, mounts, contents, judged among the others as last seen. Blocks as long as
    /// the device does. This is what the first write relies on, together with an exclusive hold of that
    /// `major:minor`.
    ///
    /// # Errors
    /// [`ReprobeError`]. A device that is there but cannot be read is no error here: its reasons say so.
    pub fn reprobe(&self, device: &str) -> Result<Seen, ReprobeError> {
        let name = kernel_name(device).to_owned();
        let before = self.snapshot();
        let mut survey = self.reader.survey(|_| ())?;
        for (other, facts) in &mut survey.facts {
            if let Some(seen) = before
                .devices
                .get(other)
                .filter(|seen| same(&seen.facts, facts))
            {
                facts.media = seen.facts.media.clone();
                facts.serial.clone_from(&seen.facts.serial);
            }
        }
        let not_found = || ReprobeError::NotFound(name.clone());
        let facts = survey.facts.get_mut(&name).ok_or_else(not_found)?;
        facts.media = self.reader.read_media(facts);
        if sysfs::has_slow_serial(facts) {
            facts.serial = sysfs::slow_serial(&self.reader.root, &name);
        }
        let usage = mounts::read(&self.reader.root.proc, &self.reader.root.dev);
        let after = sysfs::read_one(&self.reader.root, &usage, &name).ok_or_else(not_found)?;
        if !same(facts, &after) {
            return Err(ReprobeError::Changed(name));
        }
        // Who mounted or swapped to it while it was read counts as well.
        facts.mounts = after.mounts;
        facts.swap = after.swap;
        facts.holders = after.holders;
        let drives = self.drives.borrow().clone();
        judge_all(&survey.facts, &drives, &self.reader.policy)
            .remove(&name)
            .ok_or_else(not_found)
    }
}
