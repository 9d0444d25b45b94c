//! What is on a drive, and in the mount table, of one volume: gathered through the host, nothing concluded.
//!
//! The neighbours (ids and bytes of all other volumes) cost a look at each of them, so they are gathered only where a
//! decision needs them: a new directory, one that lost its id, one that is to grow.

use std::collections::BTreeSet;
use std::path::Path;

use super::plan::{Promise, is_trash_of};
use super::record::{Record, RecordError};
use super::refusal::Refusal;
use crate::host::{Host, HostError, MountEntry, QuotaUsage};
use crate::registry::{DriveUnavailable, MountedDrive};

/// One volume on its drive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Whether the drive's quota is enforced.
    pub quota_enforced: bool,
    /// Whether the drive's file system refuses writes.
    pub read_only: bool,
    /// Bytes that the drive's volumes may be promised in sum.
    pub allocatable_bytes: u64,
    /// The record, where there is one.
    pub record: Option<Result<Record, RecordError>>,
    /// Project id of the data directory (0 for none), where there is one.
    pub directory: Option<u32>,
    /// Limits and use of that project.
    pub quota: Option<QuotaUsage>,
    /// What is in the trash of this volume.
    pub trash: Vec<String>,
    /// The other volumes; none where no decision needs them.
    pub others: Option<Others>,
    /// The mount table.
    pub mounts: Vec<MountEntry>,
    /// `major:minor` of the drive in it: a mount of another file system is none of the volume's, whatever its name.
    /// None where only the table was read: then the caller's path says which mount is meant.
    pub device: Option<String>,
}

/// The other volumes of a drive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// Bytes promised to them, as recorded.
    pub recorded_bytes: u64,
    /// Project ids that are not free.
    pub projects: BTreeSet<u32>,
}

/// What a place in the mount table holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nothing is mounted there.
    Free,
    /// The volume's data directory.
    Volume {
        /// Whether writes are refused there.
        read_only: bool,
    },
    /// The empty stand-in.
    StandIn,
    /// Something else; what.
    Foreign(String),
}

/// One mount of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeMount<'s> {
    /// Where.
    pub target: &'s Path,
    /// Whether writes are refused there.
    pub read_only: bool,
    /// The whole data directory, not something below it.
    pub whole: bool,
}

impl Seen {
    /// What is mounted at a resolved path: the topmost of a stack.
    #[must_use]
    pub fn at(&self, volume: &str, path: &Path) -> Place {
        let Some(entry) = self.mounts.iter().rev().find(|entry| entry.target == path) else {
            return Place::Free;
        };
        match self.mount_of(volume, entry) {
            Some(mount) if mount.whole => Place::Volume {
                read_only: mount.read_only,
            },
            _ if entry.fs_type == "tmpfs" && entry.read_only => Place::StandIn,
            _ => Place::Foreign(format!("{} is mounted there", entry.source)),
        }
    }

    /// Every mount of the volume or of something in it, by whomever.
    pub fn mounts_of<'s>(&'s self, volume: &str) -> impl Iterator<Item = VolumeMount<'s>> {
        self.mounts
            .iter()
            .filter_map(move |entry| self.mount_of(volume, entry))
    }

    fn mount_of<'s>(&self, volume: &str, entry: &'s MountEntry) -> Option<VolumeMount<'s>> {
        let inside = entry.root.strip_prefix("/volumes").ok()?;
        let below = inside.strip_prefix(volume).ok()?;
        let device = self.device.as_ref();
        let ours = device.is_none_or(|device| *device == entry.major_minor);
        (ours && entry.fs_type == "xfs").then(|| VolumeMount {
            target: &entry.target,
            read_only: entry.read_only,
            whole: below.as_os_str().is_empty(),
        })
    }
}

/// Looks at a volume on its drive. For a promise the neighbours are looked at too where it needs them.
///
/// # Errors
/// The drive does not answer as it should, or is not mounted.
pub fn see(
    host: &dyn Host,
    drive: &MountedDrive,
    volume: &str,
    promise: Option<&Promise>,
) -> Result<Seen, Refusal> {
    let seen = look(host, drive, volume, promise)?;
    // Without its mount a drive looks empty. That must not be taken for the volume's absence, so the guard is read last.
    let guarded = host.read_link(&drive.root)?;
    if guarded.as_deref() != Some(Path::new(".")) || seen.device.is_none() {
        return Err(DriveUnavailable::NotMounted(drive.id.to_string()).into());
    }
    Ok(seen)
}

/// The drive's number in the mount table.
fn device(
    host: &dyn Host,
    drive: &MountedDrive,
    mounts: &[MountEntry],
) -> Result<Option<String>, HostError> {
    let Some(place) = drive.root.parent() else {
        return Ok(None);
    };
    let place = host.resolve(place)?;
    let mounted = mounts.iter().rev().find(|entry| entry.target == place);
    Ok(mounted.map(|entry| entry.major_minor.clone()))
}

fn look(
    host: &dyn Host,
    drive: &MountedDrive,
    volume: &str,
    promise: Option<&Promise>,
) -> Result<Seen, HostError> {
    let record = host
        .read_file(&drive.volume_record(volume))?
        .map(|content| Record::parse(volume, &content));
    let directory = project_of(host, &drive.volume_dir(volume))?;
    let quota = match directory {
        Some(project) if project != 0 && drive.quota_enforced => {
            Some(host.quota(&drive.root, project)?)
        }
        Some(_) | None => None,
    };
    let mounts = host.mounts()?;
    let mut seen = Seen {
        device: device(host, drive, &mounts)?,
        quota_enforced: drive.quota_enforced,
        read_only: drive.read_only,
        allocatable_bytes: drive.allocatable_bytes,
        record,
        directory,
        quota,
        trash: names(host, &drive.trash_dir())?
            .into_iter()
            .filter(|name| is_trash_of(volume, name))
            .collect(),
        others: None,
        mounts,
    };
    if promise.is_some_and(|promise| needs_others(promise, &seen)) {
        seen.others = Some(others(host, drive, volume)?);
    }
    Ok(seen)
}

fn needs_others(promise: &Promise, seen: &Seen) -> bool {
    match (&seen.record, seen.directory) {
        (Some(Ok(record)), Some(project)) => {
            project == 0
                || project != record.project_id
                || record.capacity_bytes < promise.record.capacity_bytes
        }
        _ => true,
    }
}

/// Sums up the other volumes: their records, the ids on their directories and in the trash, the ids with anything in
/// them by the quota's account.
fn others(host: &dyn Host, drive: &MountedDrive, volume: &str) -> Result<Others, HostError> {
    let mut others = Others::default();
    for other in volumes(host, drive)?.into_iter().filter(|v| v != volume) {
        let content = host.read_file(&drive.volume_record(&other))?;
        if let Some(Ok(record)) = content.map(|content| Record::parse(&other, &content)) {
            others.recorded_bytes = others.recorded_bytes.saturating_add(record.capacity_bytes);
            others.projects.insert(record.project_id);
        }
        others
            .projects
            .extend(project_of(host, &drive.volume_dir(&other))?);
    }
    let trash = drive.trash_dir();
    for name in names(host, &trash)? {
        others.projects.extend(project_of(host, &trash.join(name))?);
    }
    // Its own files are its own use: the id on its own directory is taken only by another directory or record.
    let own = project_of(host, &drive.volume_dir(volume))?;
    if drive.quota_enforced {
        for project in host.projects(&drive.root)? {
            let usage = host.quota(&drive.root, project)?;
            let in_use = usage.used_bytes > 0 || usage.used_inodes > 0;
            if in_use && own != Some(project) {
                others.projects.insert(project);
            }
        }
    }
    Ok(others)
}

/// All volumes that have a directory or a record on a drive, sorted.
///
/// # Errors
/// The drive does not answer as it should.
pub fn volumes(host: &dyn Host, drive: &MountedDrive) -> Result<BTreeSet<String>, HostError> {
    let mut found: BTreeSet<String> = names(host, &drive.volumes_dir())?.into_iter().collect();
    let records = names(host, &drive.records_dir())?;
    // A temporary file of an interrupted write has another ending.
    found.extend(
        records
            .iter()
            .filter_map(|name| name.strip_suffix(".json"))
            .map(str::to_owned),
    );
    found.retain(|name| api::names::is_dns_label(name));
    Ok(found)
}

/// Project id of a directory; none where there is no directory.
fn project_of(host: &dyn Host, path: &Path) -> Result<Option<u32>, HostError> {
    match host.project(path) {
        Ok(project) => Ok(Some(project)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Names in a directory; a missing one has none.
pub(super) fn names(host: &dyn Host, path: &Path) -> Result<Vec<String>, HostError> {
    match host.list_dir(path) {
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        listed => listed,
    }
}
