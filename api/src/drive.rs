//! Drive: a device that is, or is to become, ours. Its name is a UUID: the id minted at discovery, written into the
//! claim block and then into the XFS superblock, so the device says itself which Drive it is.
//!
//! | field | writer |
//! |---|---|
//! | `spec` | people (`init`, `cordon`, `access-tier`, …) |
//! | `status` but for `verdict` | the agent of `spec.node` |
//! | `status.verdict` | the leading controller |
//!
//! ```text
//!            init                                          device gone ─► Lost ─► back
//!   (Device) ────► Pending ─► Preparing ─► Ready ◄───────────────────────────────┘
//!                                │  ▲        │ ├─ XFS read-only or shut down ─► ReadOnly
//!                                ▼  │        │ └─ I/O errors ────────────────► Failing
//!                              Failed        ├─ suspended, spec.repair ─► Repairing ─► mounted again, or refused
//!                                            ▼ deletionTimestamp, no Volume names it
//!                                         Removing ─► (object gone; file system stays, unless spec.removal erases)
//! ```

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
use std::fmt;
use std::str::FromStr;

use crate::{Condition, LatencySummary, Reason};

mod erase;
mod repair;

pub use erase::{Erase, EraseLevel, EraseMethod, EraseVerify, ErasedProof, Removal};
pub use repair::{REPAIR_PHASES, Repair, RepairMode, RepairOutcome, RepairReport};

/// What is wanted of a drive.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "ringpv.io",
    version = "v1alpha1",
    kind = "Drive",
    plural = "drives",
    shortname = "rdrive",
    category = "ringpv",
    status = "DriveStatus",
    derive = "PartialEq",
    selectable = ".spec.node",
    doc = "A block device that holds volumes. Name: its id, which is also the UUID of its file system.",
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.node"),
    printcolumn(name = "Device", type_ = "string", json_path = ".status.device.name"),
    printcolumn(name = "Tier", type_ = "string", json_path = ".spec.accessTier"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Health", type_ = "string", json_path = ".status.verdict.state"),
    printcolumn(
        name = "Allocatable",
        type_ = "integer",
        json_path = ".status.capacity.allocatableBytes"
    ),
    printcolumn(
        name = "Read-p99-ns",
        type_ = "integer",
        json_path = ".status.latency.read.p99Ns"
    ),
    printcolumn(
        name = "Cordoned",
        type_ = "boolean",
        json_path = ".spec.cordoned",
        priority = "1"
    ),
    printcolumn(
        name = "Model",
        type_ = "string",
        json_path = ".status.device.model",
        priority = "1"
    ),
    printcolumn(
        name = "Step",
        type_ = "string",
        json_path = ".status.progress.step",
        priority = "1"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[kube(validation = Rule::new("self.spec.node == oldSelf.spec.node && self.spec.device == oldSelf.spec.device || (has(oldSelf.status) && has(oldSelf.status.phase) && oldSelf.status.phase == 'Lost')").message("spec.node and spec.device change only by accept, while the drive is Lost"))]
#[kube(validation = Rule::new("self.metadata.name.matches('^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$')").message("a Drive's name is the UUID that discover shows for its device"))]
pub struct DriveSpec {
    /// Node that the device is in.
    #[schemars(length(min = 1))]
    pub node: String,
    /// The very device.
    pub device: DeviceClaim,
    /// Access tier.
    #[serde(default)]
    pub access_tier: AccessTier,
    /// No new volumes.
    #[serde(default)]
    pub cordoned: bool,
    /// Nothing on it is mounted for pods; they get an empty read-only stand-in.
    #[serde(default)]
    pub suspended: bool,
    /// How it is erased before it is formatted.
    #[serde(default)]
    pub erase: Erase,
    /// Benchmark that it must pass before it is formatted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Gate>,
    /// A person's word that what the fingerprint shows may be destroyed.
    #[serde(default)]
    pub force: bool,
    /// A person's word that the drive which the device bears moves here: the id of the cluster it is from. Its drive.json
    /// must say that very id; then it and its label are rewritten to this cluster. Set by `adopt --from-cluster`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopt_from: Option<String>,
    /// A run of xfs_repair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<Repair>,
    /// What removal does beyond letting go. Read when the object is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removal: Option<Removal>,
}

/// The device a person named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceClaim {
    /// As discovered. Both parts must match before the first write; later only the identity.
    pub fingerprint: Fingerprint,
    /// The kernel's name when it was discovered. For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Size in bytes when it was discovered. For people; part of the identity as well.
    pub size_bytes: u64,
}

/// What tells a device from all others, and what it holds.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct Fingerprint {
    /// From wwid or serial (else its fixed place), size and sector size. Survives renaming by the kernel.
    #[schemars(length(min = 1))]
    pub identity: String,
    /// From the signatures found on it; `blank` for none.
    #[schemars(length(min = 1))]
    pub content: String,
}

impl fmt::Display for Fingerprint {
    /// `identity/content`, as a person types it to confirm.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.identity, self.content)
    }
}

impl FromStr for Fingerprint {
    type Err = MalformedFingerprint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((identity, content)) if !identity.is_empty() && !content.is_empty() => Ok(Self {
                identity: identity.to_owned(),
                content: content.to_owned(),
            }),
            _ => Err(MalformedFingerprint(text.to_owned())),
        }
    }
}

/// Text that is no fingerprint.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a fingerprint; it reads IDENTITY/CONTENT, as discover prints it")]
pub struct MalformedFingerprint(pub String);

/// How costly a drive's place is, as people say it.
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
pub enum AccessTier {
    /// NVMe and the like.
    Hot,
    /// SATA and SAS SSDs.
    Warm,
    /// Spinning or slow.
    Cold,
    /// Not said.
    #[default]
    Default,
}

impl AccessTier {
    /// All tiers, fastest first.
    pub const ALL: [Self; 4] = [Self::Hot, Self::Warm, Self::Cold, Self::Default];

    /// The word itself.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hot => "Hot",
            Self::Warm => "Warm",
            Self::Cold => "Cold",
            Self::Default => "Default",
        }
    }
}

impl fmt::Display for AccessTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A word that is no tier.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not an access tier; it is one of hot, warm, cold, default")]
pub struct UnknownTier(pub String);

impl FromStr for AccessTier {
    type Err = UnknownTier;

    /// Reads a tier in any case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|tier| tier.as_str().eq_ignore_ascii_case(text.trim()))
            .ok_or_else(|| UnknownTier(text.to_owned()))
    }
}

/// How a device is attached.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum Transport {
    /// NVMe on PCIe.
    Nvme,
    /// NVMe over fabrics.
    NvmeFabric,
    /// SATA.
    Sata,
    /// SAS.
    Sas,
    /// USB.
    Usb,
    /// virtio-blk or virtio-scsi.
    Virtio,
    /// Device mapper.
    DeviceMapper,
    /// md RAID.
    Md,
    /// Loop device.
    Loop,
    /// Anything else.
    Other,
}

/// What a drive must show before it is formatted. Absent bounds are not tested.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gate {
    /// Highest read p99 (random 4 KiB, depth 1), ns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_latency_p99_ns_max: Option<u64>,
    /// Least random reads (4 KiB, depth 32) a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_iops_min: Option<u64>,
    /// Least sequential write, bytes a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_bytes_per_second_min: Option<u64>,
}

/// What a drive is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DriveStatus {
    /// Where it stands.
    #[serde(default)]
    pub phase: DrivePhase,
    /// Why, as one word. Together with `message` it is what `list drives` shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Why, with particulars.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The step under way, while preparing or removing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// UID of the Drive object for which the claim block was written. A resume needs it and the identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<String>,
    /// The device as it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DriveDevice>,
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<DriveCapacity>,
    /// How fast it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<DriveLatency>,
    /// Since when the device may be without its claim, because the drive was told to erase its cells. The agent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub secure_erase_since: Option<Timestamp>,
    /// How it was erased, and how well that was checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erased: Option<ErasedProof>,
    /// What the latest run of xfs_repair came to. The agent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<RepairReport>,
    /// Conditions. The agent's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Health. The leading controller's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<HealthVerdict>,
}

/// Where a drive stands.
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
pub enum DrivePhase {
    /// Not yet looked at by its agent.
    #[default]
    Pending,
    /// Between claim block and first mount.
    Preparing,
    /// In use.
    Ready,
    /// Preparing was refused or failed; `reason` says why. Nothing is mounted.
    Failed,
    /// The file system is read-only or shut down.
    ReadOnly,
    /// I/O errors.
    Failing,
    /// The device is gone.
    Lost,
    /// Suspended, unmounted, and looked over by xfs_repair.
    Repairing,
    /// Being let go.
    Removing,
}

impl DrivePhase {
    /// All phases.
    pub const ALL: [Self; 9] = [
        Self::Pending,
        Self::Preparing,
        Self::Ready,
        Self::Failed,
        Self::ReadOnly,
        Self::Failing,
        Self::Lost,
        Self::Repairing,
        Self::Removing,
    ];
}

/// Steps of preparing, in order; and of removal. Each is written to status before it begins.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum Step {
    /// The device is read again and compared with the fingerprint.
    Check,
    /// The claim block is written: the first write.
    Claim,
    /// The gate benchmark runs.
    Gate,
    /// The drive erases its cells by NVMe Format or Sanitize.
    SecureErase,
    /// The device is erased.
    Erase,
    /// What was erased is read back.
    Verify,
    /// mkfs.xfs.
    Format,
    /// The file system is mounted and its id compared.
    Mount,
    /// The records and the probe file are written.
    Record,
    /// The file system is unmounted.
    Unmount,
    /// xfs_repair looks it over.
    Repair,
}

/// How far a step is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// The step.
    pub step: Step,
    /// Bytes done: the durable cursor for [`Step::Erase`]; a resume starts here.
    #[serde(default)]
    pub done_bytes: u64,
    /// Bytes in all; 0 where the step has no bytes.
    #[serde(default)]
    pub total_bytes: u64,
    /// Which of its seven phases xfs_repair is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<u32>,
    /// The method of erasing that the cursor is of. A person may ask for another one, and then it begins anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<EraseMethod>,
    /// How it was erased up to the cursor: the methods that did a piece, in order.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub methods: String,
    /// It is of a removal: what was erased before the drive was in use is not what is to be erased now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub removal: bool,
    /// When the step began.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub since: Timestamp,
}

/// The device of a drive as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DriveDevice {
    /// The kernel's name now.
    pub name: String,
    /// Identity part of the fingerprint.
    pub identity: String,
    /// Model.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// Serial.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub serial: String,
    /// Firmware revision.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub firmware: String,
    /// How it is attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<Transport>,
    /// Whether it spins.
    #[serde(default)]
    pub rotational: bool,
}

/// Bytes of a drive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DriveCapacity {
    /// Size of the device.
    pub total_bytes: u64,
    /// What volumes may be promised in sum: the file system less its metadata, the probe file and headroom.
    pub allocatable_bytes: u64,
    /// What is written, of all volumes together, as the file system counts.
    #[serde(default)]
    pub used_bytes: u64,
}

/// How fast a drive is. Written with hysteresis.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DriveLatency {
    /// Health reads: random 4 KiB at depth 1 from the probe file, O_DIRECT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<LatencySummary>,
    /// Mean read latency of the drive's own users since the last look, from the kernel's block counters, ns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_read_mean_ns: Option<u64>,
    /// Mean write latency of the drive's own users, ns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_write_mean_ns: Option<u64>,
    /// Mean number of requests in flight over the same time, in hundredths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_hundredths: Option<u64>,
}

/// The controller's judgement on a drive's health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthVerdict {
    /// Where it stands.
    pub state: HealthState,
    /// Why, as one word.
    pub reason: Reason,
    /// Why, with figures: "reads 3.4× its peers at equal load for 6 min".
    pub message: String,
    /// Since when.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub since: Timestamp,
    /// Median of its reads while it was healthy, ns: its own past, which a restart of the controller does not lose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub typical_read_ns: Option<u64>,
    /// How often it turned slow lately. Each time makes its next probation longer; a good day takes one off.
    #[serde(default)]
    pub relapses: u32,
}

/// A drive's health.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum HealthState {
    /// As fast as its past and its peers.
    Healthy,
    /// Slower; no new volumes.
    Slow,
    /// Fast again; no new volumes yet.
    Probation,
    /// Errors or a critical warning; no new volumes.
    Failing,
}
