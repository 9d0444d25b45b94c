//! What is remembered of an object: what placement, health and the answers of CSI need, and no more, for there may be
//! hundreds of thousands.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::condition::{self, ConditionStatus, ConditionType};
use api::drive::{HealthState, HealthVerdict};
use api::names::FINALIZER_PLACEMENT;
use api::volume::CapacityEnforcement;
use api::{AccessTier, Drive, DrivePhase, Volume, VolumePhase};
use jiff::Timestamp;

use crate::placement::name_hash;
use crate::placement::request::class_parameters;

/// A drive.
#[derive(Clone, Debug)]
pub struct DriveEntry {
    /// Name.
    pub name: Arc<str>,
    /// Node.
    pub node: Arc<str>,
    /// UID, for events.
    pub uid: String,
    /// Version of the object when it was seen, for changes of its finalizers.
    pub resource_version: String,
    /// Finalizers.
    pub finalizers: Vec<String>,
    /// Whether it bears the finalizer that keeps it while volumes name it.
    pub guarded: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Tier.
    pub tier: AccessTier,
    /// Phase.
    pub phase: DrivePhase,
    /// No new volumes.
    pub cordoned: bool,
    /// Suspended by a person.
    pub suspended: bool,
    /// Being deleted.
    pub deleting: bool,
    /// Whether a volume's size is enforced on it.
    pub enforces: bool,
    /// What volumes may be promised in sum.
    pub allocatable_bytes: u64,
    /// Health reads, where there are any.
    pub read: Option<ReadLatency>,
    /// What its own users see: mean read and write latency, and requests in flight in hundredths.
    pub kernel: KernelLatency,
    /// Model, for comparing with peers.
    pub model: String,
    /// Whether it is a loop device: what is behind two of them may differ in all.
    pub is_loop: bool,
    /// Health, as last written.
    pub verdict: Option<HealthVerdict>,
    /// What is promised on it.
    pub usage: Usage,
    /// Hash of its name, for ties.
    pub(crate) hash: u64,
}

/// What a drive's own users see, as the kernel counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelLatency {
    /// Mean of reads, ns.
    pub read_mean_ns: Option<u64>,
    /// Mean of writes, ns.
    pub write_mean_ns: Option<u64>,
    /// Requests in flight, in hundredths.
    pub load_hundredths: Option<u64>,
}

/// A drive's health reads, in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLatency {
    /// Median, ns.
    pub p50_ns: u64,
    /// 99th percentile, ns.
    pub p99_ns: u64,
    /// Reads measured.
    pub count: u64,
    /// When.
    pub measured_at: Timestamp,
}

impl ReadLatency {
    /// The one figure by which drives are compared: the mean of median and 99th percentile, so that a drive which is
    /// fast mostly but stalls often is not called fast.
    #[must_use]
    pub const fn figure_ns(&self) -> u64 {
        self.p50_ns.midpoint(self.p99_ns)
    }
}

/// What is promised on a drive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes.
    pub bytes: u64,
    /// Volumes.
    pub volumes: u32,
    /// Spread groups of which it holds a volume.
    pub spread: BTreeSet<String>,
}

impl DriveEntry {
    /// What is to be remembered of `drive`.
    pub(super) fn new(drive: &Drive) -> Option<Self> {
        let name: Arc<str> = Arc::from(drive.metadata.name.as_deref()?);
        let finalizers = drive.metadata.finalizers.clone().unwrap_or_default();
        let status = drive.status.clone().unwrap_or_default();
        let device = status.device.unwrap_or_default();
        let latency = status.latency.unwrap_or_default();
        let quota = condition::get(&status.conditions, ConditionType::CapacityEnforced);
        Some(Self {
            hash: name_hash(&name),
            name,
            node: Arc::from(drive.spec.node.as_str()),
            uid: drive.metadata.uid.clone().unwrap_or_default(),
            resource_version: drive.metadata.resource_version.clone().unwrap_or_default(),
            guarded: finalizers.iter().any(|f| f == FINALIZER_PLACEMENT),
            finalizers,
            labels: drive.metadata.labels.clone().unwrap_or_default(),
            tier: drive.spec.access_tier,
            phase: status.phase,
            cordoned: drive.spec.cordoned,
            suspended: drive.spec.suspended,
            deleting: drive.metadata.deletion_timestamp.is_some(),
            enforces: quota.is_some_and(|condition| condition.status == ConditionStatus::True),
            allocatable_bytes: status.capacity.map_or(0, |c| c.allocatable_bytes),
            read: latency.read.and_then(|read| {
                let measured_at = read.measured_at?;
                (read.count > 0).then_some(ReadLatency {
                    p50_ns: read.p50_ns,
                    p99_ns: read.p99_ns,
                    count: read.count,
                    measured_at,
                })
            }),
            kernel: KernelLatency {
                read_mean_ns: latency.kernel_read_mean_ns,
                write_mean_ns: latency.kernel_write_mean_ns,
                load_hundredths: latency.load_hundredths,
            },
            is_loop: device.transport == Some(api::drive::Transport::Loop),
            model: device.model,
            verdict: status.verdict,
            usage: Usage::default(),
        })
    }

    /// Bytes that can still be promised.
    #[must_use]
    pub const fn free_bytes(&self) -> u64 {
        self.allocatable_bytes.saturating_sub(self.usage.bytes)
    }

    /// Whether its health lets it take volumes. A drive never judged does: it has passed its gate.
    #[must_use]
    pub fn takes_volumes(&self) -> bool {
        match self.verdict.as_ref().map(|verdict| verdict.state) {
            None | Some(HealthState::Healthy) => true,
            Some(HealthState::Slow | HealthState::Probation | HealthState::Failing) => false,
        }
    }

    /// Whether more is promised than it holds. Before its capacity is known nothing can be said.
    #[must_use]
    pub const fn is_over_allocated(&self) -> bool {
        self.allocatable_bytes > 0 && self.usage.bytes > self.allocatable_bytes
    }
}

/// A volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeEntry {
    /// Name, the CSI volume id.
    pub name: String,
    /// The name that the caller gave.
    pub csi_name: String,
    /// UID; empty before it is known.
    pub uid: String,
    /// Version of the object when it was seen.
    pub resource_version: String,
    /// Node.
    pub node: String,
    /// Drive; none for an inline volume that is not placed yet.
    pub drive: Option<Arc<str>>,
    /// Bytes promised.
    pub capacity_bytes: u64,
    /// Bytes that its node enforces now.
    pub enforced_bytes: Option<u64>,
    /// Spread group.
    pub spread_id: Option<String>,
    /// What the size is worth.
    pub enforcement: CapacityEnforcement,
    /// One pod alone may use it.
    pub single_writer: bool,
    /// Inline ephemeral.
    pub ephemeral: bool,
    /// Parameters of its class.
    pub parameters: BTreeMap<String, String>,
    /// Drive to which its reference is to be moved.
    pub move_to: Option<String>,
    /// Its data may be destroyed.
    pub release: bool,
    /// Being deleted.
    pub deleting: bool,
    /// Phase.
    pub phase: VolumePhase,
    /// Staged or published somewhere.
    pub in_use: bool,
}

impl VolumeEntry {
    /// What is to be remembered of `volume`.
    #[must_use]
    pub fn new(volume: &Volume) -> Option<Self> {
        let (meta, spec) = (&volume.metadata, &volume.spec);
        let status = volume.status.as_ref();
        Some(Self {
            name: meta.name.clone()?,
            csi_name: spec.csi_name.clone(),
            uid: meta.uid.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            node: spec.node.clone(),
            drive: spec.drive.as_deref().map(Arc::from),
            capacity_bytes: spec.capacity_bytes,
            enforced_bytes: status.and_then(|status| status.capacity_bytes),
            spread_id: spec.spread_id.clone(),
            enforcement: spec.capacity_enforcement,
            single_writer: spec.single_writer,
            ephemeral: spec.ephemeral,
            parameters: class_parameters(&spec.parameters),
            move_to: spec.move_to.clone(),
            release: spec.release,
            deleting: meta.deletion_timestamp.is_some(),
            phase: status.map(|status| status.phase).unwrap_or_default(),
            in_use: status.is_some_and(|s| s.staging_path.is_some() || !s.targets.is_empty()),
        })
    }

    /// Whether it was deleted by word: for callers it is gone, though its bytes are not free yet.
    #[must_use]
    pub const fn is_released(&self) -> bool {
        self.release && self.deleting
    }
}
