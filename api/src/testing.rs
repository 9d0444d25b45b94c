//! Builders of objects for tests, that read as sentences: `drive("d1").on("n1").tier(Hot).holds(100 << 30).build()`.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::ObjectMeta;
use std::collections::BTreeMap;

use crate::condition::{self, ConditionStatus, ConditionType};
use crate::drive::{
    DeviceClaim, DriveCapacity, DriveLatency, Erase, HealthState, HealthVerdict, Transport,
};
use crate::names::{FINALIZER_DEVICE, FINALIZER_PLACEMENT, LEASE_AGENT_PREFIX, TOPOLOGY_NODE};
use crate::volume::Target;
use crate::{
    AccessTier, Drive, DrivePhase, DriveSpec, Fingerprint, LatencySummary, Reason, StorageNode,
    StorageNodeSpec, StorageNodeStatus, Volume, VolumePhase, VolumeSpec,
};

/// The time of all builders: long enough after the epoch to have a past.
#[must_use]
pub fn noon() -> Timestamp {
    Timestamp::constant(1_750_000_000, 0)
}

/// A Drive that is ready, guarded, enforces quota and holds 100 GiB.
#[must_use]
pub fn drive(name: &str) -> DriveBuilder {
    let device = DeviceClaim {
        fingerprint: Fingerprint {
            identity: format!("identity-of-{name}"),
            content: "blank".to_owned(),
        },
        name: "nvme0n1".to_owned(),
        size_bytes: 100 << 30,
    };
    let spec = DriveSpec {
        node: "n1".to_owned(),
        device,
        access_tier: AccessTier::Default,
        cordoned: false,
        suspended: false,
        erase: Erase::default(),
        gate: None,
        repair: None,
        force: false,
        removal: None,
        adopt_from: None,
    };
    let mut drive = Drive::new(name, spec);
    drive.metadata.uid = Some(format!("uid-of-{name}"));
    drive.metadata.resource_version = Some("1".to_owned());
    drive.metadata.finalizers = Some(vec![
        FINALIZER_DEVICE.to_owned(),
        FINALIZER_PLACEMENT.to_owned(),
    ]);
    drive.status = Some(crate::DriveStatus {
        phase: DrivePhase::Ready,
        ..crate::DriveStatus::default()
    });
    DriveBuilder(drive).holds(100 << 30).quota(true)
}

/// See [`drive`].
#[derive(Clone, Debug)]
pub struct DriveBuilder(Drive);

impl DriveBuilder {
    /// The object.
    #[must_use]
    pub fn build(self) -> Drive {
        self.0
    }

    fn status(mut self, change: impl FnOnce(&mut crate::DriveStatus)) -> Self {
        change(self.0.status.get_or_insert_default());
        self
    }

    fn latency(self, change: impl FnOnce(&mut DriveLatency)) -> Self {
        self.status(|status| change(status.latency.get_or_insert_default()))
    }

    /// On a node.
    #[must_use]
    pub fn on(mut self, node: &str) -> Self {
        node.clone_into(&mut self.0.spec.node);
        self
    }

    /// Of a tier.
    #[must_use]
    pub fn tier(mut self, tier: AccessTier) -> Self {
        self.0.spec.access_tier = tier;
        self
    }

    /// With so many allocatable bytes.
    #[must_use]
    pub fn holds(self, bytes: u64) -> Self {
        self.status(|status| {
            status.capacity = Some(DriveCapacity {
                total_bytes: bytes,
                allocatable_bytes: bytes,
                used_bytes: 0,
            });
        })
    }

    /// In a phase.
    #[must_use]
    pub fn phase(self, phase: DrivePhase) -> Self {
        self.status(|status| status.phase = phase)
    }

    /// Of a model.
    #[must_use]
    pub fn model(self, model: &str, transport: Transport) -> Self {
        self.status(|status| {
            let device = status.device.get_or_insert_default();
            model.clone_into(&mut device.model);
            device.transport = Some(transport);
        })
    }

    /// Whether its kernel enforces quota.
    #[must_use]
    pub fn quota(self, enforced: bool) -> Self {
        let (truth, reason) = match enforced {
            true => (ConditionStatus::True, Reason::QuotaSupported),
            false => (ConditionStatus::False, Reason::QuotaUnsupported),
        };
        let kind = ConditionType::CapacityEnforced;
        self.status(|status| {
            condition::set(&mut status.conditions, kind, truth, reason, "", noon());
        })
    }

    /// Whose health reads take so long.
    #[must_use]
    pub fn reads(self, p50_ns: u64, p99_ns: u64, count: u64, at: Timestamp) -> Self {
        self.latency(|latency| {
            latency.read = Some(LatencySummary {
                count,
                p50_ns,
                p99_ns,
                p999_ns: p99_ns,
                max_ns: p99_ns,
                mean_ns: p50_ns,
                buckets: Vec::new(),
                measured_at: Some(at),
            });
        })
    }

    /// Whose users see such means at such a load.
    #[must_use]
    pub fn serves(self, read_ns: Option<u64>, write_ns: Option<u64>, load_hundredths: u64) -> Self {
        self.latency(|latency| {
            latency.kernel_read_mean_ns = read_ns;
            latency.kernel_write_mean_ns = write_ns;
            latency.load_hundredths = Some(load_hundredths);
        })
    }

    /// Judged so.
    #[must_use]
    pub fn health(self, state: HealthState, reason: Reason) -> Self {
        self.status(|status| {
            status.verdict = Some(HealthVerdict {
                state,
                reason,
                message: String::new(),
                since: noon(),
                typical_read_ns: None,
                relapses: 0,
            });
        })
    }

    /// With a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        let labels = self.0.metadata.labels.get_or_insert_default();
        labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Cordoned.
    #[must_use]
    pub fn cordoned(mut self) -> Self {
        self.0.spec.cordoned = true;
        self
    }

    /// Suspended.
    #[must_use]
    pub fn suspended(mut self) -> Self {
        self.0.spec.suspended = true;
        self
    }

    /// Being deleted.
    #[must_use]
    pub fn deleting(mut self) -> Self {
        self.0.metadata.deletion_timestamp = Some(time(noon()));
        self
    }

    /// Without the finalizer that keeps it while volumes name it.
    #[must_use]
    pub fn unguarded(mut self) -> Self {
        self.0.metadata.finalizers = Some(vec![FINALIZER_DEVICE.to_owned()]);
        self
    }
}

/// A Volume of 1 GiB that no drive has been chosen for.
#[must_use]
pub fn volume(name: &str) -> VolumeBuilder {
    let spec = VolumeSpec {
        csi_name: name.to_owned(),
        node: "n1".to_owned(),
        drive: None,
        capacity_bytes: 1 << 30,
        fs_type: crate::volume::FsType::Xfs,
        capacity_enforcement: crate::volume::CapacityEnforcement::Strict,
        single_writer: false,
        ephemeral: false,
        claim: None,
        spread_id: None,
        parameters: BTreeMap::new(),
        placement: None,
        suspended: false,
        release: false,
        move_to: None,
    };
    let mut volume = Volume::new(name, spec);
    volume.metadata.uid = Some(format!("uid-of-{name}"));
    volume.metadata.resource_version = Some("1".to_owned());
    volume.metadata.finalizers = Some(vec![FINALIZER_DEVICE.to_owned()]);
    VolumeBuilder(volume)
}

/// See [`volume`].
#[derive(Clone, Debug)]
pub struct VolumeBuilder(Volume);

impl VolumeBuilder {
    /// The object.
    #[must_use]
    pub fn build(self) -> Volume {
        self.0
    }

    fn status(mut self, change: impl FnOnce(&mut crate::VolumeStatus)) -> Self {
        change(self.0.status.get_or_insert_default());
        self
    }

    /// On a node and drive.
    #[must_use]
    pub fn on(mut self, node: &str, drive: &str) -> Self {
        node.clone_into(&mut self.0.spec.node);
        self.0.spec.drive = Some(drive.to_owned());
        self
    }

    /// Of so many bytes.
    #[must_use]
    pub fn bytes(mut self, bytes: u64) -> Self {
        self.0.spec.capacity_bytes = bytes;
        self
    }

    /// Of a spread group.
    #[must_use]
    pub fn spread(mut self, group: &str) -> Self {
        self.0.spec.spread_id = Some(group.to_owned());
        self
    }

    /// Inline ephemeral, on a node.
    #[must_use]
    pub fn ephemeral(mut self, node: &str) -> Self {
        node.clone_into(&mut self.0.spec.node);
        self.0.spec.ephemeral = true;
        self
    }

    /// With a class parameter.
    #[must_use]
    pub fn parameter(mut self, key: &str, value: &str) -> Self {
        let parameters = &mut self.0.spec.parameters;
        parameters.insert(key.to_owned(), value.to_owned());
        self
    }

    /// In a phase.
    #[must_use]
    pub fn phase(self, phase: VolumePhase) -> Self {
        self.status(|status| status.phase = phase)
    }

    /// Published at a path.
    #[must_use]
    pub fn published(self, path: &str) -> Self {
        self.status(|status| {
            status.phase = VolumePhase::Published;
            status.staging_path = Some("/staging".to_owned());
            status.targets.push(Target {
                path: path.to_owned(),
                read_only: false,
                pod: String::new(),
            });
        })
    }

    /// To be moved to a drive.
    #[must_use]
    pub fn moving_to(mut self, drive: &str) -> Self {
        self.0.spec.move_to = Some(drive.to_owned());
        self
    }

    /// With the word that its data may be destroyed.
    #[must_use]
    pub fn released(mut self) -> Self {
        self.0.spec.release = true;
        self
    }

    /// Being deleted.
    #[must_use]
    pub fn deleting(mut self) -> Self {
        self.0.metadata.deletion_timestamp = Some(time(noon()));
        self
    }
}

/// A StorageNode with topology segments beside its own name.
#[must_use]
pub fn node(name: &str, segments: &[(&str, &str)]) -> StorageNode {
    let mut topology = BTreeMap::from([(TOPOLOGY_NODE.to_owned(), name.to_owned())]);
    for (key, value) in segments {
        topology.insert((*key).to_owned(), (*value).to_owned());
    }
    StorageNode {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            uid: Some(format!("uid-of-{name}")),
            ..ObjectMeta::default()
        },
        spec: StorageNodeSpec {},
        status: Some(StorageNodeStatus {
            topology,
            ..StorageNodeStatus::default()
        }),
    }
}

/// The Lease of a node's agent, renewed at a time.
#[must_use]
pub fn lease(node: &str, renewed: Timestamp) -> Lease {
    Lease {
        metadata: ObjectMeta {
            name: Some(format!("{LEASE_AGENT_PREFIX}{node}")),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            lease_duration_seconds: Some(180),
            renew_time: Some(MicroTime(renewed)),
            ..LeaseSpec::default()
        }),
    }
}

fn time(at: Timestamp) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Time {
    k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at)
}
