//! The drives that are mounted now. Whoever works on a drive takes its [`MountedDrive`] here, for one operation.
//!
//! A drive is registered after its guard link was checked and removed before it is unmounted. Between the two,
//! every path on it goes through the guarded root: `<mount>/.drive-<id>`, a link to `.` that exists on that drive
//! alone. Where the mount is missing, or is another drive, the path does not exist, so nothing lands elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use api::Reason;
use tokio::sync::watch;

use crate::host::Host;
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

/// All mounted drives of this node.
#[derive(Clone, Default)]
pub struct Registry {
    drives: Arc<RwLock<BTreeMap<Arc<str>, MountedDrive>>>,
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

    /// Registers a drive, or replaces what is known of it. Only the drive's own reconciler calls this.
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

    /// Notes whether a person suspended the drive. Only the drive's own reconciler calls this.
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

    /// A receiver that is woken by each change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
