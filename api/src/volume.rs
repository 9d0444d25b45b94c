//! Volume: a promise of bytes on one drive. Writing the object *is* the reservation; a drive's allocated bytes are
//! the sum over the Volumes that name it, and are given back only when the object is gone.
//!
//! | field | writer |
//! |---|---|
//! | `spec` at creation | the controller (CreateVolume); for an inline ephemeral volume the agent, without a drive |
//! | `spec.drive`, `spec.placement` where absent, or to the drive of `spec.moveTo` | the leading controller |
//! | `spec.capacityBytes` | the controller (ControllerExpandVolume); never shrinks |
//! | `spec.release` | the controller (DeleteVolume) and people (`clean`): the only word that permits destruction |
//! | `spec.suspended` | people |
//! | `spec.moveTo` | people; taken away by the leading controller together with the move |
//! | `status` | the agent of `spec.node` |
//!
//! ```text
//!   Pending ─► Ready ─► Staged ⇄ Published ─► Staged ─► Ready ─► Releasing ─► (gone)
//!              directory + quota    bind mounts                    only if spec.release
//! ```
//! A deletionTimestamp without `spec.release` lets the object go, once unpublished; the data stay, as an orphan.

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

use crate::{Condition, Reason};

/// What is wanted of a volume.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "ringpv.io",
    version = "v1alpha1",
    kind = "Volume",
    plural = "volumes",
    shortname = "rvol",
    category = "ringpv",
    status = "VolumeStatus",
    derive = "PartialEq",
    selectable = ".spec.node",
    selectable = ".spec.drive",
    doc = "Bytes promised on one drive. Name: the CSI volume id.",
    printcolumn(
        name = "Capacity",
        type_ = "integer",
        json_path = ".spec.capacityBytes"
    ),
    printcolumn(name = "Used", type_ = "integer", json_path = ".status.usedBytes"),
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.node"),
    printcolumn(name = "Drive", type_ = "string", json_path = ".spec.drive"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Claim", type_ = "string", json_path = ".spec.claim.name"),
    printcolumn(
        name = "Namespace",
        type_ = "string",
        json_path = ".spec.claim.namespace",
        priority = "1"
    ),
    printcolumn(
        name = "Release",
        type_ = "boolean",
        json_path = ".spec.release",
        priority = "1"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[kube(validation = Rule::new("self.spec.capacityBytes >= oldSelf.spec.capacityBytes").message("a Volume's capacity never shrinks"))]
#[kube(validation = Rule::new("!has(oldSelf.spec.drive) || (has(self.spec.drive) && self.spec.drive == oldSelf.spec.drive) || (has(self.spec.drive) && has(oldSelf.spec.moveTo) && self.spec.drive == oldSelf.spec.moveTo && !has(self.spec.moveTo))").message("a Volume's drive never changes, but to the one that spec.moveTo named"))]
#[kube(validation = Rule::new("!has(oldSelf.spec.placement) || (has(self.spec.placement) && self.spec.placement == oldSelf.spec.placement) || self.spec.drive != oldSelf.spec.drive").message("a Volume's placement changes with its drive alone"))]
#[kube(validation = Rule::new("self.spec.node == oldSelf.spec.node && self.spec.csiName == oldSelf.spec.csiName").message("a Volume's node and CSI name never change"))]
#[kube(validation = Rule::new("!oldSelf.spec.release || self.spec.release").message("a release is not taken back: its data may be gone"))]
pub struct VolumeSpec {
    /// Name that the CSI caller gave; compared on a repeated CreateVolume.
    pub csi_name: String,
    /// Node of the drive.
    #[schemars(length(min = 1))]
    pub node: String,
    /// Drive. Absent only for an inline ephemeral volume that is not placed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drive: Option<String>,
    /// Bytes promised. Quota, reservation and `df` all say this number.
    #[schemars(range(min = 1))]
    pub capacity_bytes: u64,
    /// File system; always `xfs` as yet.
    #[serde(default)]
    pub fs_type: FsType,
    /// Whether the size is enforced.
    #[serde(default)]
    pub capacity_enforcement: CapacityEnforcement,
    /// Whether one pod alone may use it (ReadWriteOncePod).
    #[serde(default)]
    pub single_writer: bool,
    /// Whether it lives only as long as its pod.
    #[serde(default)]
    pub ephemeral: bool,
    /// The claim it is for, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<ClaimRef>,
    /// At most one volume of a group on one drive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread_id: Option<String>,
    /// Class parameters as they were asked for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
    /// Why this drive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// Nothing of it is mounted for pods; they get an empty read-only stand-in.
    #[serde(default)]
    pub suspended: bool,
    /// The word that its data may be destroyed when the object is deleted.
    #[serde(default)]
    pub release: bool,
    /// Drive of the same node to which its reference is to be moved: there it begins empty, and its data stay where they
    /// are. Done once nobody uses it; till then nobody gets it mounted anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub move_to: Option<String>,
}

/// File systems.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FsType {
    /// A directory with a project quota on the drive's XFS.
    #[default]
    Xfs,
}

/// What a volume's size is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CapacityEnforcement {
    /// The kernel stops writes beyond it; refused where it cannot.
    #[default]
    Strict,
    /// Enforced where the kernel can, a promise elsewhere.
    BestEffort,
}

/// The claim a volume is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimRef {
    /// Namespace of the claim.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Name of the claim.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Name of the PersistentVolume.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub persistent_volume: String,
}

/// Why a drive was chosen: all scores, the runners-up, the refusals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// The winner's scores.
    pub chosen: Scored,
    /// The next best, best first; at most three.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runners_up: Vec<Scored>,
    /// Drives refused, counted by reason, most first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<Refusals>,
    /// Drives looked at.
    pub considered: u32,
    /// When.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub at: Timestamp,
}

/// One drive's scores, each 0 to 1,000 before its weight; `total` is their weighted sum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Scored {
    /// Drive.
    pub drive: String,
    /// Its node.
    pub node: String,
    /// Weighted sum.
    pub total: u32,
    /// Latency against its tier, discounted by age and number of samples.
    pub latency: u32,
    /// Free share after placement.
    pub capacity: u32,
    /// Place of its tier in the class's order.
    pub tier: u32,
    /// Fewer volumes, more points.
    pub volumes: u32,
}

/// Drives refused for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refusals {
    /// Why.
    pub reason: Reason,
    /// How many.
    pub count: u32,
}

/// What a volume is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeStatus {
    /// Where it stands.
    #[serde(default)]
    pub phase: VolumePhase,
    /// Why, as one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Why, with particulars.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Staging path, while staged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staging_path: Option<String>,
    /// Where it is published.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Target>,
    /// Project id of its directory. Given on every kernel; limits follow it where there is project quota.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_id: Option<u32>,
    /// Limit in force, bytes. Behind `spec.capacityBytes` until the agent has grown it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_bytes: Option<u64>,
    /// Bytes in use, as quota counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_bytes: Option<u64>,
    /// Inodes in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_inodes: Option<u64>,
    /// Conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Where a volume stands.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
pub enum VolumePhase {
    /// Promised; nothing on disk yet.
    #[default]
    Pending,
    /// Directory and quota stand.
    Ready,
    /// Mounted at its staging path.
    Staged,
    /// Mounted for at least one pod.
    Published,
    /// Its drive is not there.
    Lost,
    /// Released: in the trash, being removed.
    Releasing,
}

impl VolumePhase {
    /// All phases.
    pub const ALL: [Self; 6] = [
        Self::Pending,
        Self::Ready,
        Self::Staged,
        Self::Published,
        Self::Lost,
        Self::Releasing,
    ];
}

/// Volumes that one drive may have: what placement keeps to, and a node tells its callers.
pub const VOLUMES_PER_DRIVE_MAX: u64 = 512;

/// One place where a volume is published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Path.
    pub path: String,
    /// Whether writes are refused there.
    #[serde(default)]
    pub read_only: bool,
    /// `namespace/name` of the pod, where known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod: String,
}
