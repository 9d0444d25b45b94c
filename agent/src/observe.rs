//! What the machine shows of one drive, as values for [`crate::plan`]. Reads, and changes nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::host::{Host, HostError, MountEntry};
use crate::probe::{Seen, Snapshot};
use crate::records::{DriveRecord, RecordError, drive_record};
use crate::site::Site;

/// One look.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Every device was read or given up on once; before that, a device that is missing may only be late.
    pub complete: bool,
    /// Devices that bear the drive, by file system or claim.
    pub bearers: Vec<Arc<Seen>>,
    /// Devices with the identity that the Drive names.
    pub named: Vec<Arc<Seen>>,
    /// A device with that identity that the agent was told not to look at.
    pub left_out: Option<String>,
    /// What is mounted at the drive's place.
    pub mounted: Option<Mounted>,
    /// Whether the drive is registered for use, on that mount.
    pub attached: bool,
}

/// A mount at the drive's place.
#[derive(Clone, Debug)]
pub struct Mounted {
    /// `major:minor` of its device.
    pub major_minor: String,
    /// The device, if it is still there.
    pub device: Option<Arc<Seen>>,
    /// Whether it refuses writes.
    pub read_only: bool,
    /// Whether more of its file system is mounted, such as its volumes, so that unmounting it would not free the device.
    pub shared: bool,
    /// What is on it.
    pub content: Content,
}

/// What a mount at a drive's place turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A drive with its record.
    Recorded(DriveRecord),
    /// An XFS without a record.
    Bare,
    /// A record that cannot be believed; why.
    Unreadable(String),
    /// Every access fails: XFS has shut down, or its device is gone.
    ShutDown(String),
    /// Something that is no XFS.
    Other(String),
}

/// Looks at one drive. `identity` is the one that its Drive names. With `afresh` its devices are probed again: a
/// snapshot may be older than the agent's own last write. So are they while one looks like another cluster's, for a
/// move that is done must not be done again.
pub fn observe(
    host: &dyn Host,
    site: &Site,
    snapshot: &Snapshot,
    drive: &str,
    identity: &str,
    afresh: bool,
) -> Result<Observed, HostError> {
    let renewed;
    let foreign = |seen: &Arc<Seen>| seen.holds.as_ref().is_some_and(|held| !held.ours);
    let snapshot = if afresh || snapshot.by_drive(drive).any(foreign) {
        renewed = renew(host, snapshot, drive, identity);
        &renewed
    } else {
        snapshot
    };
    let place = site.mount_dir(drive);
    let table = host.mounts()?;
    let mounted = match table.iter().rev().find(|entry| entry.target == place) {
        Some(entry) => Some(mounted(host, site, (snapshot, &table), drive, entry)?),
        None => None,
    };
    Ok(Observed {
        complete: snapshot.complete,
        bearers: snapshot.by_drive(drive).cloned().collect(),
        named: snapshot.by_identity(identity).cloned().collect(),
        left_out: snapshot.left_out.get(identity).cloned(),
        mounted,
        attached: false,
    })
}

/// A snapshot in which the devices of one drive are as they are this moment. One that cannot be probed is gone.
fn renew(host: &dyn Host, snapshot: &Snapshot, drive: &str, identity: &str) -> Snapshot {
    let concerned: BTreeSet<String> = snapshot
        .by_drive(drive)
        .chain(snapshot.by_identity(identity))
        .map(|seen| seen.facts.name.clone())
        .collect();
    let mut renewed = snapshot.clone();
    for name in concerned {
        match host.probe(&name) {
            Ok(seen) => renewed.devices.insert(name, Arc::new(seen)),
            Err(error) => {
                tracing::debug!(
                    drive,
                    device = name,
                    error = error.sentence(),
                    "A device could not be looked at again"
                );
                renewed.devices.remove(&name)
            }
        };
    }
    renewed
}

fn mounted(
    host: &dyn Host,
    site: &Site,
    (snapshot, table): (&Snapshot, &[MountEntry]),
    drive: &str,
    entry: &MountEntry,
) -> Result<Mounted, HostError> {
    let device = snapshot
        .devices
        .values()
        .find(|seen| seen.facts.major_minor == entry.major_minor)
        .cloned();
    // The host's own table, as the snapshot has it, may show more than that of the agent's namespace.
    let shared = table
        .iter()
        .any(|other| other.major_minor == entry.major_minor && other.target != entry.target)
        || device
            .iter()
            .flat_map(|seen| &seen.facts.mounts)
            .any(|target| *target != entry.target);
    let super_read_only = entry.super_options.split(',').any(|option| option == "ro");
    Ok(Mounted {
        major_minor: entry.major_minor.clone(),
        device,
        read_only: entry.read_only || super_read_only,
        shared,
        content: if entry.fs_type == "xfs" {
            content(host, site, drive)?
        } else {
            Content::Other(format!("{} ({})", entry.source, entry.fs_type))
        },
    })
}

fn content(host: &dyn Host, site: &Site, drive: &str) -> Result<Content, HostError> {
    match host.read_file(&drive_record(&site.mount_dir(drive))) {
        Ok(None) => Ok(Content::Bare),
        Ok(Some(text)) => Ok(match DriveRecord::parse(&text) {
            Ok(record) => Content::Recorded(record),
            Err(error @ (RecordError::Malformed(_) | RecordError::Version(_))) => {
                Content::Unreadable(error.to_string())
            }
        }),
        Err(error) if error.is_medium() => Ok(Content::ShutDown(error.sentence())),
        Err(error) => Err(error),
    }
}
