//! What block devices there are, and which of them may become a drive.
//!
//! Start reading at [`judge`], which says what an eligible device is, then [`discovery`], which keeps the picture.
//!
//! ```text
//!   sysfs, mounts, swaps ─► facts ─┐
//!   the device's own bytes ────────┼─► identities ─► judge ─► Seen ─► Snapshot ─► StorageNode, reconcile
//!   the ids of our Drives ─────────┘
//! ```

pub mod discovery;
pub mod facts;
pub mod identity;
pub mod judge;
pub mod mounts;
pub mod reader;
pub mod sysfs;
mod watcher;

use std::collections::BTreeMap;
use std::sync::Arc;

use api::drive::{AccessTier, Transport};
use api::storage_node::{DeviceReason, DeviceVerdict, HeldDrive, Signature};
use api::{Device, Fingerprint, Reason};
use block::claim::{Claim, ClaimError};
use block::signature::Found;

pub use discovery::Discovery;
pub use facts::{DeviceFacts, DeviceKind, Media};
pub use judge::{Policy, judge_all, worth_reading};

/// A device as it is seen now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What was read.
    pub facts: DeviceFacts,
    /// What tells it from others, and what it holds. The identity is empty where it has none.
    pub fingerprint: Fingerprint,
    /// Id that a new Drive on it would get. Absent unless it is eligible.
    pub drive_id: Option<String>,
    /// The drive of RingPV that it bears, of whichever cluster.
    pub holds: Option<Held>,
    /// Whether it may become a drive.
    pub verdict: DeviceVerdict,
    /// All reasons.
    pub reasons: Vec<DeviceReason>,
}

/// A drive of RingPV on a device, as its file system and claim block say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Drive id.
    pub id: String,
    /// Whether it is of this cluster.
    pub ours: bool,
    /// Cluster id, where the claim block says it.
    pub cluster_id: String,
    /// Whether its file system stands (made to the end, with our label and this id).
    pub file_system: bool,
    /// What the claim block says, if there is a whole one.
    pub claim: Option<Claim>,
}

/// All devices at one time. Shared, never changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Grows with each change.
    pub generation: u64,
    /// Every device was read or given up on once.
    pub complete: bool,
    /// Whether the host's mount table is known, not only the agent's own.
    pub sees_host_mounts: bool,
    /// Devices by kernel name.
    pub devices: BTreeMap<String, Arc<Seen>>,
    /// Kernel names of devices that the agent was told not to look at, by their identity.
    pub left_out: BTreeMap<String, String>,
}

impl Snapshot {
    /// The devices that show an identity: none, one, or (a fault) several.
    pub fn by_identity<'a>(&'a self, identity: &'a str) -> impl Iterator<Item = &'a Arc<Seen>> {
        self.devices
            .values()
            .filter(move |seen| !identity.is_empty() && seen.fingerprint.identity == identity)
    }

    /// The devices that bear a drive, by file system or claim: none, one, or (a copy) several. Devices below or above
    /// a stack (members of an array, disks with partitions) are left out.
    pub fn by_drive<'a>(&'a self, drive_id: &'a str) -> impl Iterator<Item = &'a Arc<Seen>> {
        self.devices.values().filter(move |seen| {
            judge::stands_alone(&seen.facts)
                && seen.holds.as_ref().is_some_and(|held| held.id == drive_id)
        })
    }
}

impl Seen {
    /// The claim block as it is on the device: absent, whole, or unreadable.
    pub fn claim(&self) -> Result<Option<&Claim>, &ClaimError> {
        match &self.facts.media {
            Media::Read { claim, .. } => claim.as_ref().map(Option::as_ref),
            Media::Unread | Media::Unresponsive { .. } | Media::Failed { .. } => Ok(None),
        }
    }

    /// What it holds.
    #[must_use]
    pub fn found(&self) -> &[Found] {
        found(&self.facts.media)
    }

    /// Whether it was read and holds nothing at all.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        matches!(&self.facts.media, Media::Read { found, .. } if found.is_empty())
    }

    /// Whether it was opened or read in vain.
    #[must_use]
    pub const fn is_unread(&self) -> bool {
        matches!(self.facts.media, Media::Failed { .. })
    }

    /// Whether a reason is among its reasons.
    #[must_use]
    pub fn has(&self, reason: Reason) -> bool {
        self.reasons.iter().any(|one| one.reason == reason)
    }

    /// As it stands in the StorageNode's status.
    #[must_use]
    pub fn device(&self) -> Device {
        let facts = &self.facts;
        Device {
            name: facts.name.clone(),
            major_minor: facts.major_minor.clone(),
            fingerprint: Fingerprint {
                identity: match self.fingerprint.identity.as_str() {
                    "" => "none".to_owned(),
                    identity => identity.to_owned(),
                },
                content: self.fingerprint.content.clone(),
            },
            drive_id: self.drive_id.clone(),
            holds_drive: self.holds.as_ref().map(|held| HeldDrive {
                id: held.id.clone(),
                cluster_id: held.cluster_id.clone(),
                volumes: 0,
                access_tier: None,
                labels: BTreeMap::new(),
            }),
            verdict: self.verdict,
            reasons: self.reasons.clone(),
            proposed_tier: proposed_tier(facts),
            size_bytes: facts.size_bytes,
            logical_block_bytes: facts.logical_block_bytes,
            physical_block_bytes: facts.physical_block_bytes,
            model: facts.model.clone(),
            serial: facts.serial.clone(),
            wwid: facts.wwid.clone(),
            firmware: facts.firmware.clone(),
            transport: facts.transport,
            rotational: facts.rotational,
            numa_node: facts.numa_node,
            io_backend: None,
            signatures: found(&facts.media)
                .iter()
                .map(|one| Signature {
                    kind: one.kind.as_str().to_owned(),
                    offset: one.offset,
                    detail: one.detail(),
                })
                .collect(),
        }
    }
}

fn found(media: &Media) -> &[Found] {
    match media {
        Media::Read { found, .. } => found,
        Media::Unread | Media::Unresponsive { .. } | Media::Failed { .. } => &[],
    }
}

/// The access tier that init proposes: by how the device is attached and whether it spins. What a hypervisor or a file
/// says of spinning means nothing.
#[must_use]
pub const fn proposed_tier(facts: &DeviceFacts) -> AccessTier {
    match (facts.transport, facts.rotational) {
        (Transport::Virtio | Transport::Loop, _) => AccessTier::Default,
        (_, true) | (Transport::Usb, false) => AccessTier::Cold,
        (Transport::Nvme, false) => AccessTier::Hot,
        (Transport::NvmeFabric | Transport::Sata | Transport::Sas, false) => AccessTier::Warm,
        (Transport::DeviceMapper | Transport::Md | Transport::Other, false) => AccessTier::Default,
    }
}

#[cfg(test)]
mod discovery_tests;
#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod identity_tests;
#[cfg(test)]
mod judge_tests;
#[cfg(test)]
mod machine;
#[cfg(test)]
mod sysfs_tests;
