//! What is to be done for one volume on its drive: `plan(promise, seen) -> actions`. Pure.
//!
//! Rules:
//! * The truth about a project id is the id on the directory, unless another volume of the drive has it too. Never 0.
//! * Order within a plan: record, directory, id, limits, mount. A crash between any two leaves what the same call,
//!   repeated, completes; nothing is shown to a pod before its limits are in force.
//! * Data belong to the incarnation that the record names. An object that is not that one and does not say that it
//!   adopts it gets nothing of them, and may not release them.
//! * Who means another incarnation gets nothing of them either, unless it is one whose data these were before.
//! * What is promised grows; it never shrinks here, whatever a stale object says.
//! * Released data go to the trash only when nothing of them is mounted in the mount table, whatever a status says.

use std::path::{Path, PathBuf};

use api::volume::CapacityEnforcement;
use api::{Bytes, Drive, Reason};
use block::quota::limit_bytes;

use super::record::Record;
use super::refusal::Refusal;
use super::seen::{Place, Seen};
use crate::host::QuotaLimits;

/// Bytes for each inode that a volume may have by default.
const BYTES_PER_INODE: u64 = 16 * 1024;
/// Inodes that the smallest volume may have.
const INODES_MIN: u64 = 1024;

/// What was promised of a volume: by its object, or where no API answers by its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    /// The record as it should be, but for the project id.
    pub record: Record,
    /// Incarnation whose data it may take over.
    pub adopts: Option<String>,
    /// Incarnation that the caller means, where it knows it.
    pub meant: Option<String>,
    /// Project id that its status says it had: the witness where the record is damaged.
    pub witness: Option<u32>,
    /// Pods get an empty stand-in.
    pub suspended: bool,
}

/// What a caller wants of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Directory, record and limits stand.
    Provisioned,
    /// Mounted at its staging path.
    Staged {
        /// Staging path.
        path: PathBuf,
    },
    /// Mounted for a pod.
    Published {
        /// Staging path that must be mounted; none for an inline ephemeral volume, which is never staged.
        staging: Option<PathBuf>,
        /// Where.
        target: PathBuf,
        /// Whether writes are refused there.
        read_only: bool,
        /// Whether it may be published nowhere else.
        exclusive: bool,
    },
    /// At least these bytes may be written.
    Expanded {
        /// Bytes.
        required_bytes: u64,
    },
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "a plan has a handful of actions, and most of them one record"
)]
pub enum Action {
    /// The record is written.
    WriteRecord(Record),
    /// The data directory is made.
    MakeDirectory,
    /// The directory gets its project id.
    SetProject(u32),
    /// The project gets its limits.
    SetLimits(u32, QuotaLimits),
    /// The place for a mount is made.
    MakeTarget(PathBuf),
    /// The data directory is mounted.
    Bind {
        /// Where.
        target: PathBuf,
        /// Whether writes are refused there.
        read_only: bool,
    },
    /// The empty stand-in is mounted.
    BindEmpty(PathBuf),
    /// What is mounted there is unmounted.
    Unmount(PathBuf),
    /// The empty directory that was mounted on is removed.
    RemoveTarget(PathBuf),
    /// The data directory is renamed into the trash, under this name.
    Trash(String),
    /// The record is removed.
    RemoveRecord,
}

impl Action {
    /// Its name in logs and fault points.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::WriteRecord(_) => "volume.write-record",
            Self::MakeDirectory => "volume.make-directory",
            Self::SetProject(_) => "volume.set-project",
            Self::SetLimits(..) => "volume.set-limits",
            Self::MakeTarget(_) => "volume.make-target",
            Self::Bind { .. } => "volume.bind",
            Self::BindEmpty(_) => "volume.bind-empty",
            Self::Unmount(_) => "volume.unmount",
            Self::RemoveTarget(_) => "volume.remove-target",
            Self::Trash(_) => "volume.trash",
            Self::RemoveRecord => "volume.remove-record",
        }
    }
}

/// Actions, and what will hold once they are done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What to do, in order.
    pub actions: Vec<Action>,
    /// Project id.
    pub project_id: u32,
    /// Bytes that may be written. Less than promised where the drive has no room to grow.
    pub capacity_bytes: u64,
    /// Why it is less.
    pub shortfall: Option<Refusal>,
}

/// How a volume that is to go stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// These steps come next.
    Act(Vec<Action>),
    /// These names in the trash are to be emptied first.
    Empty(Vec<String>),
    /// Nothing of it is left here, or what is left stays: the object may go.
    LetGo,
}

/// The default limits of a volume.
#[must_use]
pub fn limits(capacity_bytes: u64) -> QuotaLimits {
    QuotaLimits {
        bytes: limit_bytes(capacity_bytes),
        inodes: (capacity_bytes / BYTES_PER_INODE).max(INODES_MIN),
    }
}

/// What is to be done so that `wanted` holds.
///
/// # Errors
/// A refusal: nothing may be done then.
pub fn plan(promise: &Promise, wanted: &Wanted, seen: &Seen) -> Result<Plan, Refusal> {
    if let (true, Wanted::Staged { path } | Wanted::Published { target: path, .. }) =
        (promise.suspended, wanted)
    {
        return stand_in(promise, wanted, seen, path);
    }
    let mut plan = provision(promise, seen)?;
    match wanted {
        Wanted::Provisioned => {}
        Wanted::Staged { path } => plan.actions.extend(stage(promise, seen, path)?),
        Wanted::Published {
            staging,
            target,
            read_only,
            exclusive,
        } => {
            publishable(promise, seen, staging.as_deref(), target, *exclusive)?;
            plan.actions
                .extend(publish(promise, seen, target, *read_only)?);
        }
        Wanted::Expanded { required_bytes } => {
            if let Some(shortfall) = plan
                .shortfall
                .take_if(|_| plan.capacity_bytes < *required_bytes)
            {
                return Err(shortfall);
            }
        }
    }
    Ok(plan)
}

/// Directory, record and limits.
fn provision(promise: &Promise, seen: &Seen) -> Result<Plan, Refusal> {
    let own = own_record(promise, seen)?;
    is_meant(promise, own)?;
    let wanted_bytes = promise.record.capacity_bytes;
    if promise.record.capacity_enforcement == CapacityEnforcement::Strict && !seen.quota_enforced {
        return Err(Refusal::new(
            Reason::CapacityNotEnforced,
            "the kernel has no XFS project quota, and the volume's class does not say capacity-enforcement: best-effort",
        ));
    }
    let had_bytes = own.map_or(0, |record| record.capacity_bytes);
    let mut capacity_bytes = wanted_bytes.max(had_bytes);
    let shortfall = over_allocated(seen, capacity_bytes);
    match &shortfall {
        Some(_) if seen.directory.is_some() && had_bytes > 0 => capacity_bytes = had_bytes,
        Some(refusal) => return Err(refusal.clone()),
        None => {}
    }
    let project_id = project(own, seen);
    let record = Record {
        capacity_bytes,
        project_id,
        formerly: own.map_or_else(Vec::new, |own| own.formerly_of(&promise.record.incarnation)),
        ..promise.record.clone()
    };
    let mut actions = Vec::new();
    if own.is_none_or(|own| is_outdated(own, &record, seen.read_only)) {
        actions.push(Action::WriteRecord(record));
    }
    if seen.directory.is_none() {
        actions.push(Action::MakeDirectory);
    }
    if seen.directory != Some(project_id) {
        actions.push(Action::SetProject(project_id));
    }
    let limits = limits(capacity_bytes);
    let in_force = seen.quota.filter(|_| seen.directory == Some(project_id));
    if seen.quota_enforced && in_force.is_none_or(|quota| quota.limits != limits) {
        actions.push(Action::SetLimits(project_id, limits));
    }
    if seen.read_only && !actions.is_empty() {
        return Err(Refusal::new(
            Reason::DriveReadOnly,
            "the drive's file system is read-only or shut down, and the volume is not yet as it should be on it",
        ));
    }
    Ok(Plan {
        actions,
        project_id,
        capacity_bytes,
        shortfall,
    })
}

/// Whether a record must be written anew. On a drive that takes no writes a volume's data may still be read, whatever
/// its record says of a suspension.
fn is_outdated(own: &Record, wanted: &Record, read_only: bool) -> bool {
    let suspended = if read_only {
        own.suspended
    } else {
        wanted.suspended
    };
    let wanted = Record {
        suspended,
        ..wanted.clone()
    };
    *own != wanted
}

/// The record, if the data are this promise's own. No record and no directory: nothing there, so nothing foreign.
fn own_record<'s>(promise: &Promise, seen: &'s Seen) -> Result<Option<&'s Record>, Refusal> {
    let earlier = |whose: String| {
        Refusal::new(
            Reason::EarlierData,
            format!("volumes/{} on the drive {whose}", promise.record.volume),
        )
    };
    match (&seen.record, seen.directory) {
        (Some(Ok(record)), _) if is_own(promise, record) => Ok(Some(record)),
        // A record alone is a promise that was never kept: no bytes are behind it.
        (Some(Ok(_)) | None, None) => Ok(None),
        (Some(Ok(record)), Some(_)) => Err(earlier(format!(
            "was made for an earlier object of this name ({})",
            record.incarnation
        ))),
        (Some(Err(error)), _) if error.is_newer() => {
            Err(Refusal::new(Reason::RecordUnreadable, error.to_string()))
        }
        (Some(Err(_)), None) => Ok(None),
        // The second witness: the status, which this agent wrote, names the id that the directory bears.
        (Some(Err(_)) | None, Some(project))
            if project != 0 && promise.witness == Some(project) =>
        {
            Ok(None)
        }
        (Some(Err(error)), Some(_)) => {
            Err(Refusal::new(Reason::RecordUnreadable, error.to_string()))
        }
        (None, Some(_)) => Err(earlier("has no record".to_owned())),
    }
}

fn is_own(promise: &Promise, record: &Record) -> bool {
    record.incarnation == promise.record.incarnation
        || promise.adopts.as_ref() == Some(&record.incarnation)
}

/// Refuses who means another volume of this name.
fn is_meant(promise: &Promise, own: Option<&Record>) -> Result<(), Refusal> {
    let Some(meant) = &promise.meant else {
        return Ok(());
    };
    let is = &promise.record.incarnation;
    if meant == is || own.is_some_and(|own| own.formerly_of(is).contains(meant)) {
        return Ok(());
    }
    let message = format!(
        "the volume {} that was asked for ({meant}) is not the one that is there now ({is})",
        promise.record.volume
    );
    Err(Refusal::new(Reason::EarlierData, message))
}

/// Whether the drive has no room for it.
fn over_allocated(seen: &Seen, capacity_bytes: u64) -> Option<Refusal> {
    let others = seen.others.as_ref()?;
    let sum = others.recorded_bytes.saturating_add(capacity_bytes);
    (sum > seen.allocatable_bytes).then(|| {
        Refusal::new(
            Reason::OverAllocated,
            format!(
                "{} more would make {} on a drive of {}",
                Bytes(capacity_bytes),
                Bytes(sum),
                Bytes(seen.allocatable_bytes)
            ),
        )
    })
}

/// The id on the directory, else the recorded one, else the lowest free one.
fn project(own: Option<&Record>, seen: &Seen) -> u32 {
    let taken = |id: u32| {
        seen.others
            .as_ref()
            .is_some_and(|others| others.projects.contains(&id))
    };
    let on_directory = seen.directory;
    let recorded = own.map(|record| record.project_id);
    [on_directory, recorded]
        .into_iter()
        .flatten()
        .find(|id| *id != 0 && !taken(*id))
        .or_else(|| (1..u32::MAX).find(|id| !taken(*id)))
        .unwrap_or(u32::MAX)
}

fn stage(promise: &Promise, seen: &Seen, path: &Path) -> Result<Vec<Action>, Refusal> {
    let bind = Action::Bind {
        target: path.to_owned(),
        read_only: false,
    };
    match seen.at(&promise.record.volume, path) {
        Place::Free => Ok(vec![Action::MakeTarget(path.to_owned()), bind]),
        Place::Volume { read_only: false } => Ok(Vec::new()),
        Place::Volume { read_only: true } => Ok(vec![bind]),
        // A person resumed it.
        Place::StandIn => Ok(vec![Action::Unmount(path.to_owned()), bind]),
        Place::Foreign(what) => Err(conflict(path, &what)),
    }
}

/// Whether a publication is allowed at all.
fn publishable(
    promise: &Promise,
    seen: &Seen,
    staging: Option<&Path>,
    target: &Path,
    exclusive: bool,
) -> Result<(), Refusal> {
    let volume = &promise.record.volume;
    if let Some(path) = staging {
        let staged = match seen.at(volume, path) {
            Place::Volume { .. } => true,
            Place::StandIn => promise.suspended,
            Place::Free | Place::Foreign(_) => false,
        };
        if !staged {
            let message = format!("nothing of the volume is mounted at {}", path.display());
            return Err(Refusal::new(Reason::NotStaged, message));
        }
    }
    let elsewhere = seen
        .mounts_of(volume)
        .find(|mount| mount.whole && mount.target != target && Some(mount.target) != staging);
    if let (true, Some(other)) = (exclusive, elsewhere) {
        let message = format!(
            "one pod alone may use it, and it is mounted at {}",
            other.target.display()
        );
        return Err(Refusal::new(Reason::StillPublished, message));
    }
    Ok(())
}

fn publish(
    promise: &Promise,
    seen: &Seen,
    target: &Path,
    read_only: bool,
) -> Result<Vec<Action>, Refusal> {
    let bind = Action::Bind {
        target: target.to_owned(),
        read_only,
    };
    match seen.at(&promise.record.volume, target) {
        Place::Free => Ok(vec![Action::MakeTarget(target.to_owned()), bind]),
        Place::Volume { read_only: is } if is == read_only => Ok(Vec::new()),
        // Writable where it must not be: a crash came between the two halves of a bind, so no pod has it yet.
        Place::Volume { read_only: false } => Ok(vec![bind]),
        Place::Volume { read_only: true } => {
            Err(conflict(target, "the volume is mounted read-only"))
        }
        Place::StandIn => Ok(vec![Action::Unmount(target.to_owned()), bind]),
        Place::Foreign(what) => Err(conflict(target, &what)),
    }
}

/// Of a suspended volume the caller gets the stand-in; what is mounted already stays until its pod goes.
fn stand_in(promise: &Promise, wanted: &Wanted, seen: &Seen, path: &Path) -> Result<Plan, Refusal> {
    if let Wanted::Published {
        staging, exclusive, ..
    } = wanted
    {
        publishable(promise, seen, staging.as_deref(), path, *exclusive)?;
    }
    let empty = Action::BindEmpty(path.to_owned());
    let actions = match seen.at(&promise.record.volume, path) {
        Place::Free => vec![Action::MakeTarget(path.to_owned()), empty],
        Place::Volume { .. } | Place::StandIn => Vec::new(),
        Place::Foreign(what) => return Err(conflict(path, &what)),
    };
    Ok(Plan {
        actions,
        project_id: seen.directory.unwrap_or(0),
        capacity_bytes: promise.record.capacity_bytes,
        shortfall: None,
    })
}

fn conflict(path: &Path, what: &str) -> Refusal {
    Refusal::new(
        Reason::TargetConflict,
        format!("{}: {what}", path.display()),
    )
}

/// What takes a mount of the volume away from `path`. What is not the volume's is left alone: the caller's wish, that
/// the volume is not mounted there, holds already.
#[must_use]
pub fn unmount(volume: &str, seen: &Seen, path: &Path) -> Vec<Action> {
    match seen.at(volume, path) {
        Place::Volume { .. } | Place::StandIn => vec![
            Action::Unmount(path.to_owned()),
            Action::RemoveTarget(path.to_owned()),
        ],
        Place::Free => vec![Action::RemoveTarget(path.to_owned())],
        Place::Foreign(_) => Vec::new(),
    }
}

/// How the volume of a deleted object goes: with a release its data do, without one only the object.
///
/// # Errors
/// It is still mounted, or its drive cannot be written.
pub fn end(promise: &Promise, release: bool, seen: &Seen) -> Result<End, Refusal> {
    let volume = &promise.record.volume;
    if let Some(mount) = seen.mounts_of(volume).next() {
        let message = format!("still mounted at {}", mount.target.display());
        return Err(Refusal::new(Reason::StillPublished, message));
    }
    let own = match own_record(promise, seen) {
        Ok(own) => own,
        // Not this object's data: they stay, as an orphan.
        Err(_) => return Ok(End::LetGo),
    };
    let actions = match (release, seen.directory) {
        (true, Some(_)) => vec![
            Action::Trash(trash_name(volume, &seen.trash)),
            Action::RemoveRecord,
        ],
        (true | false, None) if seen.record.is_some() => vec![Action::RemoveRecord],
        (false, Some(_)) if own.is_none() => {
            // Without its record nobody could adopt it: it is written anew first.
            let project_id = project(None, seen);
            vec![Action::WriteRecord(Record {
                project_id,
                ..promise.record.clone()
            })]
        }
        (true | false, _) => Vec::new(),
    };
    if !actions.is_empty() {
        if seen.read_only {
            let message = "the drive's file system is read-only or shut down";
            return Err(Refusal::new(Reason::DriveReadOnly, message));
        }
        return Ok(End::Act(actions));
    }
    Ok(if release && !seen.trash.is_empty() {
        End::Empty(seen.trash.clone())
    } else {
        End::LetGo
    })
}

/// How the volume of a deleted object goes while its drive is not mounted. As long as the Drive is there to stay it may
/// come back, and what is on it is to be removed or kept first: none then. A Drive that is being deleted waits for its
/// volumes, so one that never comes back could not go if they waited for it: what a release leaves on it is an orphan.
#[must_use]
pub fn end_without_drive(drive: Option<&Drive>) -> Option<End> {
    let stays = |drive: &Drive| drive.metadata.deletion_timestamp.is_none();
    (!drive.is_some_and(stays)).then_some(End::LetGo)
}

/// The next free name of a volume in the trash: `<volume>-<n>`.
fn trash_name(volume: &str, taken: &[String]) -> String {
    let last = taken.iter().filter_map(|name| number(volume, name)).max();
    format!("{volume}-{}", last.map_or(0, |n| n.saturating_add(1)))
}

/// Whether a name in the trash is this volume's.
#[must_use]
pub fn is_trash_of(volume: &str, name: &str) -> bool {
    number(volume, name).is_some()
}

fn number(volume: &str, name: &str) -> Option<u64> {
    let digits = name.strip_prefix(volume)?.strip_prefix('-')?;
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests;
