//! The drives that are mounted now. Whoever works on a drive takes its [`MountedDrive`] here, for one operation.
//!
//! A drive is registered after its guard link was checked and removed before it is unmounted. Between the two,
//! every path on it goes through the guarded root: `<mount>/.drive-<id>`, a link to `.` that exists on that drive
//! alone. Where the mount is missing, or is another drive, the path does not exist, so nothing lands elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use api::Reason;
use tokio::sync::watch;

use crate::host::Host;
use crate::records::Said;
use crate::worker::{Worker, WorkerError};

/// A mounted drive. Cheap to clone; a clone kept across an unmount only finds that its paths are gone.
#[derive(Clone)]
pub struct MountedDrive {
    /// Drive id: the Drive's name and the UUID of its file system.
    pub id: Arc<str>,
    /// Kernel name of its device now, without `/dev/`.
    pub device: Arc<str>,
    /// `<mount>/.drive-<id>`: the root of every path on it.
    pub root: Arc<Path>,
    /// Whether its quota is accounted and enforced.
    pub quota_enforced: bool,
    /// Bytes that its volumes may be promised in sum.
    pub allocatable_bytes: u64,
    /// Whether it was found read-only or shut down: reads may work, nothing else is tried.
    pub read_only: bool,
    /// Its threads.
    pub worker: Worker,
}

/// Why nothing was done on a drive. To the outside: [`Reason::DriveUnavailable`].
#[derive(Debug, thiserror::Error)]
pub enum DriveUnavailable {
    /// No such drive is mounted here.
    #[error("drive {0} is not mounted on this node")]
    NotMounted(String),
    /// It does not answer.
    #[error("drive {id}")]
    Worker {
        /// Drive id.
        id: String,
        /// Why.
        #[source]
        source: WorkerError,
    },
}

impl DriveUnavailable {
    /// The one word.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        Reason::DriveUnavailable
    }
}

impl MountedDrive {
    /// Where the volumes' data are.
    #[must_use]
    pub fn volumes_dir(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// Where the volumes' records are.
    #[must_use]
    pub fn records_dir(&self) -> PathBuf {
        self.root.join(".ringpv/volumes")
    }

    /// Directory of a volume's data.
    #[must_use]
    pub fn volume_dir(&self, volume: &str) -> PathBuf {
        self.volumes_dir().join(volume)
    }

    /// Record of a volume.
    #[must_use]
    pub fn volume_record(&self, volume: &str) -> PathBuf {
        self.records_dir().join(format!("{volume}.json"))
    }

    /// Where released volumes wait for their removal.
    #[must_use]
    pub fn trash_dir(&self) -> PathBuf {
        self.root.join(".trash")
    }

    /// Runs `job` on the drive's calls lane, with the host, and waits for at most [`crate::worker::CALL_TIMEOUT`].
    pub async fn call<T: Send + 'static>(
        &self,
        host: &Arc<dyn Host>,
        job: impl FnOnce(&dyn Host, &Self) -> T + Send + 'static,
    ) -> Result<T, DriveUnavailable> {
        let (host, drive) = (Arc::clone(host), self.clone());
        self.worker
            .call(move || job(host.as_ref(), &drive))
            .await
            .map_err(|source| DriveUnavailable::Worker {
                id: self.id.to_string(),
                source,
            })
    }
}

/// All mounted drives of this node, and the one worker of each drive, mounted or not.
#[derive(Clone, Default)]
pub struct Registry {
    drives: Arc<RwLock<BTreeMap<Arc<str>, MountedDrive>>>,
    workers: Arc<Mutex<BTreeMap<String, Worker>>>,
    /// Drives whose mount was begun at the start and has not ended.
    attaching: Arc<Mutex<BTreeSet<String>>>,
    /// What a person said of each drive that was mounted since the start, as its record has it.
    said: Arc<Mutex<BTreeMap<String, Said>>>,
    /// Drives that a person suspended, mounted or not.
    suspended: Arc<RwLock<BTreeSet<String>>>,
    /// Counts changes, so that others can wait for one.
    changes: Arc<watch::Sender<u64>>,
}

impl Registry {
    /// The drive, if it is mounted.
    pub fn get(&self, id: &str) -> Result<MountedDrive, DriveUnavailable> {
        let drives = self.drives.read().unwrap_or_else(PoisonError::into_inner);
        drives
            .get(id)
            .cloned()
            .ok_or_else(|| DriveUnavailable::NotMounted(id.to_owned()))
    }

    /// All of them, by id.
    #[must_use]
    pub fn all(&self) -> Vec<MountedDrive> {
        let drives = self.drives.read().unwrap_or_else(PoisonError::into_inner);
        drives.values().cloned().collect()
    }

    /// The drive's worker. Whoever asks, and whether or not the drive is mounted, gets the same one: two would be two
    /// threads that hang on one drive, and neither would know of the other's job.
    #[must_use]
    pub fn worker(&self, id: &str) -> Worker {
        if let Ok(mounted) = self.get(id) {
            return mounted.worker;
        }
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        let worker = workers.entry(id.to_owned());
        worker.or_insert_with(|| Worker::new(id)).clone()
    }

    /// Forgets a drive's worker, if nobody has it and it has nothing to do. One that hangs is kept for whoever comes next.
    pub fn forget_worker(&self, id: &str) {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        if workers.get(id).is_some_and(Worker::is_idle_alone) {
            workers.remove(id);
        }
    }

    /// Says that the drive's mount at the start is under way, until the answer is dropped. Until then the drive is its
    /// mount's: its reconciler lets it be.
    pub fn attaching(&self, id: &str) -> Attaching {
        let mut attaching = self.lock_attaching();
        attaching.insert(id.to_owned());
        Attaching {
            id: id.to_owned(),
            registry: self.clone(),
        }
    }

    /// Whether the drive's mount at the start is still under way.
    #[must_use]
    pub fn is_attaching(&self, id: &str) -> bool {
        self.lock_attaching().contains(id)
    }

    fn lock_attaching(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.attaching
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a drive, or replaces what is known of it. Only the drive's own reconciler calls this, or its mount at
    /// the start before that has ended.
    pub fn insert(&self, drive: MountedDrive) {
        let mut drives = self.drives.write().unwrap_or_else(PoisonError::into_inner);
        drives.insert(Arc::clone(&drive.id), drive);
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Forgets a drive. Only the drive's own reconciler calls this, before it unmounts.
    pub fn remove(&self, id: &str) {
        let mut drives = self.drives.write().unwrap_or_else(PoisonError::into_inner);
        if drives.remove(id).is_some() {
            self.changes.send_modify(|n| *n = n.wrapping_add(1));
        }
    }

    /// Takes what the record of a drive says that a person said of it. Kept after the drive is let go: that is when
    /// `adopt` asks for it.
    pub fn hear(&self, id: &str, said: Said) {
        let mut all = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(id.to_owned(), said);
        drop(all);
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// What people said of the drives that were mounted since the start.
    #[must_use]
    pub fn said(&self) -> BTreeMap<String, Said> {
        let all = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        all.clone()
    }

    /// Notes whether a person suspended the drive. Only the drive's own reconciler calls this, or its mount at
    /// the start where the drive's record says that it is suspended.
    pub fn suspend(&self, id: &str, suspended: bool) {
        let mut ids = self
            .suspended
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if suspended {
            ids.insert(id.to_owned());
        } else {
            ids.remove(id);
        }
    }

    /// Whether a person suspended the drive, and with it all volumes on it.
    #[must_use]
    pub fn is_suspended(&self, id: &str) -> bool {
        let ids = self
            .suspended
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        ids.contains(id)
    }

    /// A receiver that is woken by each change, and by the end of each mount of the start.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// A mount of the start that is under way. It ends when this is dropped.
#[must_use]
pub struct Attaching {
    id: String,
    registry: Registry,
}

impl Drop for Attaching {
    fn drop(&mut self) {
        self.registry.lock_attaching().remove(&self.id);
        self.registry
            .changes
            .send_modify(|n| *n = n.wrapping_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::Lane;
    use std::sync::mpsc;
    use std::time::Duration;

    #[tokio::test]
    async fn a_drive_has_one_worker() {
        let registry = Registry::default();
        let (release, wait) = mpsc::channel::<()>();
        let first = registry.worker("d");
        let hung = first.run(Lane::Calls, Duration::from_millis(10), move || {
            wait.recv().is_ok()
        });
        assert!(hung.await.is_err());
        let second = registry.worker("d");
        assert!(second.is_stuck(), "whoever comes next knows that it hangs");
        drop(first);
        registry.forget_worker("d");
        assert!(registry.worker("d").is_stuck());
        drop(second);
        registry.forget_worker("d");
        assert!(registry.worker("d").is_stuck(), "its job has not ended");
        release.send(()).unwrap();
        while registry.worker("d").is_busy(Lane::Calls) {
            tokio::task::yield_now().await;
        }
        registry.forget_worker("d");
        assert!(registry.workers.lock().unwrap().is_empty());
    }

    #[test]
    fn a_mount_of_the_start_ends_with_its_guard() {
        let registry = Registry::default();
        let mut changes = registry.changes();
        let mount = registry.attaching("d");
        assert!(registry.is_attaching("d") && !registry.is_attaching("e"));
        drop(mount);
        assert!(!registry.is_attaching("d"));
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
    }
}
