//! The volumes of this node, acting: does a plan for what was promised as one job on the drive's own thread.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::storage_node::Orphan;
use api::{Reason, Volume};
use jiff::Timestamp;
use kube::Client;
use kube::api::Api;
use tokio::sync::{Notify, oneshot, watch};

use super::apply::apply;
use super::cache::Cache;
use super::plan::{self, Plan, Promise, Wanted};
use super::record::Record;
use super::refusal::Refusal;
use super::seen::{Place, Seen, see};
use super::status::Memory;
use super::subject::Subject;
use crate::host::{Host, HostError, TreeUsage};
use crate::registry::{MountedDrive, Registry};

/// How long the end of a mount waits for the API to know of it.
const TOLD_WITHIN: Duration = Duration::from_secs(1);
/// Entries of a volume that are counted where the kernel does not count.
pub(super) const COUNTED_MAX: u64 = 4096;

/// The volumes of a node. Cheap to clone.
#[derive(Clone)]
pub struct Volumes {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) host: Arc<dyn Host>,
    pub(super) node: String,
    pub(super) registry: Registry,
    pub(super) client: Client,
    pub(super) cache: Cache,
    pub(super) memory: Mutex<BTreeMap<String, Memory>>,
    /// Volumes to look at again.
    pub(super) due: Mutex<BTreeSet<String>>,
    pub(super) due_now: Notify,
    /// Who waits for the next look at a volume to be over.
    pub(super) waiting: Mutex<BTreeMap<String, Vec<oneshot::Sender<()>>>>,
    /// Drives whose trash is being emptied.
    pub(super) emptying: Mutex<BTreeSet<String>>,
    pub(super) orphans: watch::Sender<Vec<Orphan>>,
    pub(super) clock: fn() -> Timestamp,
}

/// Size and use of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Bytes that it may hold.
    pub total_bytes: u64,
    /// Bytes in it.
    pub used_bytes: u64,
    /// Bytes that may still be written.
    pub available_bytes: u64,
    /// Inodes that it may have.
    pub total_inodes: u64,
    /// Inodes that it has.
    pub used_inodes: u64,
}

impl Volumes {
    /// The volumes on the drives of `registry`, of the node of that name.
    #[must_use]
    pub fn new(
        host: Arc<dyn Host>,
        node: &str,
        registry: Registry,
        client: Client,
        clock: fn() -> Timestamp,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                host,
                node: node.to_owned(),
                registry,
                client,
                cache: Cache::default(),
                memory: Mutex::default(),
                due: Mutex::default(),
                due_now: Notify::new(),
                waiting: Mutex::default(),
                emptying: Mutex::default(),
                orphans: watch::Sender::new(Vec::new()),
                clock,
            }),
        }
    }

    /// Volume directories without an object, as they change.
    #[must_use]
    pub fn orphans(&self) -> watch::Receiver<Vec<Orphan>> {
        self.inner.orphans.subscribe()
    }

    /// Bytes that the Volumes on a drive are promised in sum; `None` before all of them are known.
    #[must_use]
    pub fn promised_bytes(&self, drive: &str) -> Option<u64> {
        let all = self.inner.cache.all()?;
        let on_it = all
            .values()
            .filter(|volume| volume.spec.drive.as_deref() == Some(drive));
        Some(on_it.fold(0, |sum, volume| {
            sum.saturating_add(volume.spec.capacity_bytes)
        }))
    }

    /// Has a volume looked at soon.
    pub(super) fn look_again(&self, volume: &str) {
        let mut due = self.lock(&self.inner.due);
        due.insert(volume.to_owned());
        drop(due);
        self.inner.due_now.notify_one();
    }

    /// The same, and waits until that look's result is written. Whoever unmounts a volume may delete it next, and the
    /// controller refuses that while it believes the volume mounted. Without the API it is not waited for long.
    async fn looked_again(&self, volume: &str) {
        let (sender, looked) = oneshot::channel();
        {
            let mut waiting = self.lock(&self.inner.waiting);
            waiting.entry(volume.to_owned()).or_default().push(sender);
        }
        self.look_again(volume);
        drop(tokio::time::timeout(TOLD_WITHIN, looked).await);
    }

    pub(super) fn lock<'a, T>(&self, of: &'a Mutex<T>) -> std::sync::MutexGuard<'a, T> {
        of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn api(&self) -> Api<Volume> {
        Api::all(self.inner.client.clone())
    }

    /// Runs a job on a drive's calls lane.
    pub(super) async fn on_drive<T: Send + 'static>(
        &self,
        drive: &str,
        job: impl FnOnce(&dyn Host, &MountedDrive) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let drive = self.inner.registry.get(drive)?;
        drive.call(&self.inner.host, job).await?
    }

    /// Plans and does what `wanted` needs. Gives the plan, whose actions are done then, with its paths resolved.
    ///
    /// # Errors
    /// The volume may not be had so, or its drive does not answer.
    pub async fn carry_out(
        &self,
        subject: &Subject,
        wanted: Wanted,
    ) -> Result<(Plan, Wanted), Refusal> {
        self.not_ending(subject)?;
        let mut promise = subject.promise.clone();
        let volume = promise.record.volume.clone();
        let Some(drive) = &subject.drive else {
            return Err(Refusal::new(
                Reason::Pending,
                "no drive was chosen for it yet",
            ));
        };
        promise.suspended |= self.inner.registry.is_suspended(drive);
        let done = match self.inner.registry.get(drive) {
            Err(_) if promise.suspended => {
                let host = Arc::clone(&self.inner.host);
                blocking(move || carry_out_suspended(host.as_ref(), &promise, wanted)).await
            }
            Err(unavailable) => Err(unavailable.into()),
            Ok(drive) => {
                drive
                    .call(&self.inner.host, move |host, drive| {
                        carry_out(host, drive, &promise, wanted)
                    })
                    .await?
            }
        };
        self.look_again(&volume);
        done
    }

    /// A volume that goes is given to nobody any more, and one that is moved only from its new drive.
    fn not_ending(&self, subject: &Subject) -> Result<(), Refusal> {
        let Some(object) = &subject.object else {
            return Ok(());
        };
        if object.metadata.deletion_timestamp.is_some() {
            return Err(Refusal::new(
                Reason::BeingRemoved,
                "the volume is being deleted",
            ));
        }
        match &object.spec.move_to {
            Some(to) => Err(Refusal::new(
                Reason::Pending,
                format!("the volume is being moved to drive {to}"),
            )),
            None => Ok(()),
        }
    }

    /// Takes what is mounted of a volume away from `path`, whatever is known of the volume.
    ///
    /// # Errors
    /// It is in use, or its drive does not answer.
    pub async fn unmount(&self, volume: &str, path: &Path) -> Result<(), Refusal> {
        let (name, path) = (volume.to_owned(), path.to_owned());
        let job = move |host: &dyn Host| unmount(host, &name, &path);
        let drive = self
            .inner
            .cache
            .get(volume)
            .and_then(|object| object.spec.drive.clone())
            .and_then(|drive| self.inner.registry.get(&drive).ok());
        let path = match drive {
            Some(drive) => {
                drive
                    .call(&self.inner.host, move |host, _| job(host))
                    .await?
            }
            None => {
                let host = Arc::clone(&self.inner.host);
                blocking(move || job(host.as_ref())).await
            }
        }?;
        if let Some(memory) = self.lock(&self.inner.memory).get_mut(volume) {
            memory.pods.remove(&path);
            memory.staging.take_if(|staging| *staging == path);
        }
        self.looked_again(volume).await;
        Ok(())
    }

    /// Remembers what only the caller knows.
    pub fn remember(&self, volume: &str, staging: Option<&Path>, target: Option<(&Path, String)>) {
        let mut memories = self.lock(&self.inner.memory);
        let memory = memories.entry(volume.to_owned()).or_default();
        if let Some(staging) = staging {
            memory.staging = Some(staging.to_owned());
        }
        if let Some((target, pod)) = target {
            memory.pods.insert(target.to_owned(), pod);
        }
    }

    /// Size and use of a volume that is mounted at `path`.
    ///
    /// # Errors
    /// It is not mounted there, or its drive does not answer.
    pub async fn stats(&self, subject: &Subject, path: &Path) -> Result<Stats, Refusal> {
        let Some(drive) = subject.drive.clone() else {
            return Err(Refusal::new(Reason::VolumeNotFound, "it was never placed"));
        };
        let (record, path) = (subject.promise.record.clone(), path.to_owned());
        self.on_drive(&drive, move |host, drive| {
            stats(host, drive, &record, &path)
        })
        .await
    }

    /// Whether a volume is mounted at `path`.
    ///
    /// # Errors
    /// The mount table cannot be read.
    pub async fn is_mounted_at(&self, volume: &str, path: &Path) -> Result<bool, Refusal> {
        let (host, volume, path) = (
            Arc::clone(&self.inner.host),
            volume.to_owned(),
            path.to_owned(),
        );
        blocking(move || {
            let path = host.resolve(&path)?;
            Ok(mounted_at(&mount_table(host.as_ref())?, &volume, &path))
        })
        .await
    }
}

impl Volumes {
    /// Whether anything of a volume is mounted anywhere.
    pub(super) async fn is_mounted(&self, volume: &str) -> Result<bool, Refusal> {
        let (host, volume) = (Arc::clone(&self.inner.host), volume.to_owned());
        blocking(move || {
            Ok(mount_table(host.as_ref())?
                .mounts_of(&volume)
                .next()
                .is_some())
        })
        .await
    }
}

/// Runs what touches no drive.
pub(super) async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(job)
        .await
        .unwrap_or_else(|error| Err(Refusal::new(Reason::Internal, error.to_string())))
}

/// The mount table alone, for what needs no look at the drive.
fn mount_table(host: &dyn Host) -> Result<Seen, HostError> {
    Ok(Seen {
        mounts: host.mounts()?,
        ..Seen::default()
    })
}

fn mounted_at(seen: &Seen, volume: &str, path: &Path) -> bool {
    matches!(seen.at(volume, path), Place::Volume { .. } | Place::StandIn)
}

fn resolved(host: &dyn Host, wanted: Wanted) -> Result<Wanted, HostError> {
    Ok(match wanted {
        Wanted::Staged { path } => Wanted::Staged {
            path: host.resolve(&path)?,
        },
        Wanted::Published {
            staging,
            target,
            read_only,
            exclusive,
        } => Wanted::Published {
            staging: staging.map(|path| host.resolve(&path)).transpose()?,
            target: host.resolve(&target)?,
            read_only,
            exclusive,
        },
        Wanted::Provisioned | Wanted::Expanded { .. } => wanted,
    })
}

/// One job: look, plan, do.
///
/// # Errors
/// The volume may not be had so, or its drive does not answer.
pub fn carry_out(
    host: &dyn Host,
    drive: &MountedDrive,
    promise: &Promise,
    wanted: Wanted,
) -> Result<(Plan, Wanted), Refusal> {
    let volume = &promise.record.volume;
    let wanted = resolved(host, wanted)?;
    let seen = see(host, drive, volume, Some(promise))?;
    let plan = plan::plan(promise, &wanted, &seen)?;
    for action in &plan.actions {
        apply(host, drive, volume, action)?;
    }
    Ok((plan, wanted))
}

/// A suspended volume whose drive is not there still lets its pod start, with the stand-in.
fn carry_out_suspended(
    host: &dyn Host,
    promise: &Promise,
    wanted: Wanted,
) -> Result<(Plan, Wanted), Refusal> {
    let wanted = resolved(host, wanted)?;
    let plan = plan::plan(promise, &wanted, &mount_table(host)?)?;
    for action in &plan.actions {
        super::apply::apply_elsewhere(host, action)?;
    }
    Ok((plan, wanted))
}

/// One job: what is mounted of a volume at `path` is taken away. The path as it is resolved.
///
/// # Errors
/// It is in use.
pub fn unmount(host: &dyn Host, volume: &str, path: &Path) -> Result<PathBuf, Refusal> {
    let path = host.resolve(path)?;
    for action in plan::unmount(volume, &mount_table(host)?, &path) {
        super::apply::apply_elsewhere(host, &action)?;
    }
    Ok(path)
}

/// Use as the quota counts it, else by counting; none where that would take too long.
pub(super) fn used(
    host: &dyn Host,
    drive: &MountedDrive,
    record: &Record,
    project: Option<u32>,
) -> Result<Option<TreeUsage>, HostError> {
    let data = drive.volume_dir(&record.volume);
    match project {
        Some(project) if project != 0 && drive.quota_enforced => {
            let usage = host.quota(&data, project)?;
            Ok(Some(TreeUsage {
                bytes: usage.used_bytes,
                inodes: usage.used_inodes,
            }))
        }
        Some(_) | None => host.tree_usage(&data, COUNTED_MAX),
    }
}

fn stats(
    host: &dyn Host,
    drive: &MountedDrive,
    record: &Record,
    path: &Path,
) -> Result<Stats, Refusal> {
    let volume = &record.volume;
    let path = host.resolve(path)?;
    let seen = see(host, drive, volume, None)?;
    if !mounted_at(&seen, volume, &path) || seen.directory.is_none() {
        let message = format!("volume {volume} is not mounted at {}", path.display());
        return Err(Refusal::new(Reason::VolumeNotFound, message));
    }
    let file_system = host.statfs(&drive.volume_dir(volume))?;
    let Some(used) = used(host, drive, record, seen.directory)? else {
        // Too many files to count: the drive's own numbers, which at least say what may still be written.
        return Ok(Stats {
            total_bytes: file_system.total_bytes,
            used_bytes: file_system
                .total_bytes
                .saturating_sub(file_system.available_bytes),
            available_bytes: file_system.available_bytes,
            total_inodes: file_system.total_inodes,
            used_inodes: file_system
                .total_inodes
                .saturating_sub(file_system.free_inodes),
        });
    };
    let limits = match seen.quota {
        Some(quota) => quota.limits,
        None => plan::limits(record.capacity_bytes),
    };
    Ok(Stats {
        total_bytes: limits.bytes,
        used_bytes: used.bytes,
        available_bytes: limits
            .bytes
            .saturating_sub(used.bytes)
            .min(file_system.available_bytes),
        total_inodes: limits.inodes,
        used_inodes: used.inodes,
    })
}
