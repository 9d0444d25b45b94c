//! StorageNode: what a host has. Written by its agent, but that the leader says when that falls silent; nobody wishes
//! anything of it, so its spec is empty.

#![expect(
    unreachable_pub,
    reason = "the schema derive declares a second, private copy of the spec under its span"
)]
#![expect(
    clippy::duplicated_attributes,
    reason = "each printcolumn has a name and a type of its own"
)]

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::drive::{AccessTier, Fingerprint, Transport};
use crate::volume::{CapacityEnforcement, ClaimRef};
use crate::{Condition, Reason};

/// Nothing can be wished of a node.
#[derive(
    CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize,
)]
#[kube(
    group = "ringpv.io",
    version = "v1alpha1",
    kind = "StorageNode",
    plural = "storagenodes",
    shortname = "rnode",
    category = "ringpv",
    status = "StorageNodeStatus",
    derive = "PartialEq",
    doc = "A host, its block devices and what may be done with each. Name: the node's name.",
    printcolumn(name = "Eligible", type_ = "integer", json_path = ".status.eligible"),
    printcolumn(name = "Drives", type_ = "integer", json_path = ".status.drives"),
    printcolumn(name = "Silent", type_ = "date", json_path = ".status.silentSince"),
    printcolumn(name = "IO", type_ = "string", json_path = ".status.ioBackend.name"),
    printcolumn(name = "Quota", type_ = "boolean", json_path = ".status.projectQuota"),
    printcolumn(
        name = "Kernel",
        type_ = "string",
        json_path = ".status.kernel",
        priority = "1"
    ),
    printcolumn(
        name = "Version",
        type_ = "string",
        json_path = ".status.version",
        priority = "1"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
pub struct StorageNodeSpec {}

/// What the agent sees, and whether it is heard of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StorageNodeStatus {
    /// Version of the agent.
    pub version: String,
    /// Kernel release, as `uname -r`.
    pub kernel: String,
    /// Cluster id that this agent's drives bear.
    pub cluster_id: String,
    /// How devices are read and written, and why so.
    pub io_backend: IoBackend,
    /// Whether the kernel has XFS project quota (`/proc/fs/xfs/xqm`).
    pub project_quota: bool,
    /// Devices that could become a drive now.
    pub eligible: u32,
    /// Devices that are drives of this cluster.
    pub drives: u32,
    /// Topology of the node: zone, region and the like, as its Kubernetes node says.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub topology: BTreeMap<String, String>,
    /// All block devices, sorted by name.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// Volume directories without an object, at most [`ORPHANS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orphans: Vec<Orphan>,
    /// Conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Since when its agent is not heard of: the leader's word, absent while it is. No volume is placed there then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub silent_since: Option<Timestamp>,
}

/// How the agent touches devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IoBackend {
    /// The engine in use.
    pub name: IoBackendName,
    /// Why this one.
    pub reason: Reason,
    /// Ring flags in use, or the refusal's text.
    pub message: String,
}

/// The engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IoBackendName {
    /// io_uring.
    Uring,
    /// Threads with pread and pwrite.
    Threads,
}

impl Default for IoBackend {
    fn default() -> Self {
        Self {
            name: IoBackendName::Threads,
            reason: Reason::ThreadsChosen,
            message: String::new(),
        }
    }
}

/// One block device as the agent found it. Sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// The kernel's name now, without `/dev/`. Never an identity.
    pub name: String,
    /// Major and minor, `259:0`.
    pub major_minor: String,
    /// What tells this device from all others, and what it holds. Both must match before the first write.
    pub fingerprint: Fingerprint,
    /// Id that a new Drive on it would get (a UUID). Absent where the device cannot become a drive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drive_id: Option<String>,
    /// Id of the Drive whose file system it bears, of whichever cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds_drive: Option<HeldDrive>,
    /// Whether it may become a drive.
    pub verdict: DeviceVerdict,
    /// Why not; or, for an eligible device, what must be confirmed first ([`Reason::HoldsData`]).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<DeviceReason>,
    /// Access tier that init proposes.
    #[serde(default)]
    pub proposed_tier: AccessTier,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Logical sector size in bytes.
    pub logical_block_bytes: u32,
    /// Physical sector size in bytes.
    pub physical_block_bytes: u32,
    /// Model as the device says.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// Serial as the device says.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub serial: String,
    /// World-wide name, where it has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub wwid: String,
    /// Firmware revision.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub firmware: String,
    /// How it is read and written, where that is not how the node's others are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_backend: Option<IoBackend>,
    /// How it is attached.
    pub transport: Transport,
    /// Whether it spins.
    pub rotational: bool,
    /// NUMA node, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numa_node: Option<u32>,
    /// What it already holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signatures: Vec<Signature>,
}

/// Whether a device may become a drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeviceVerdict {
    /// It may.
    Eligible,
    /// It may not; the reasons say why.
    Denied,
}

/// One reason about a device, with what is special to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceReason {
    /// The word.
    pub reason: Reason,
    /// The particulars: mount point, holder, offset.
    pub message: String,
}

/// Something found on a device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Signature {
    /// Its name as blkid's TYPE would say it, in lower case: `xfs`, `ext4`, `gpt`, `lvm2`, `ringpv-claim`.
    pub kind: String,
    /// Byte offset of its magic.
    pub offset: u64,
    /// Label or UUID, where it has one; `damaged` where only the magic is whole.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// A drive of RingPV that a device bears.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeldDrive {
    /// Drive id.
    pub id: String,
    /// Cluster id. Empty where the file system could not be looked into.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cluster_id: String,
    /// Volumes recorded on it.
    #[serde(default)]
    pub volumes: u32,
    /// Access tier that a person gave it, as its record says. Absent where the record could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_tier: Option<AccessTier>,
    /// Labels that people gave it, as its record says.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Orphans that are listed; adopting or cleaning some lets the next ones show.
pub const ORPHANS_MAX: usize = 500;

/// A volume directory without its object, as its record says. It is kept until a person names it, and `adopt` makes
/// its Volume anew from this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Orphan {
    /// Volume id.
    pub volume: String,
    /// Drive it is on.
    pub drive: String,
    /// Size it was promised, in bytes.
    pub capacity_bytes: u64,
    /// UID of the Volume object that it was made for; `adopt` names it in [`crate::names::ANNOTATION_ADOPTS`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub incarnation: String,
    /// Name that the CSI caller gave.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub csi_name: String,
    /// Whether its size is enforced.
    #[serde(default)]
    pub capacity_enforcement: CapacityEnforcement,
    /// Whether one pod alone may use it.
    #[serde(default)]
    pub single_writer: bool,
    /// Whether it was to live only as long as its pod.
    #[serde(default)]
    pub ephemeral: bool,
    /// Its spread group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread_id: Option<String>,
    /// The claim it was made for, where recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<ClaimRef>,
    /// Class parameters as they were asked for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
    /// When it was first seen without an object.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub since: Timestamp,
}
