//! Objects as tests need them.

use std::collections::BTreeMap;

use api::drive::{DeviceClaim, DriveCapacity, DriveDevice, DriveLatency, Erase, Transport};
use api::storage_node::{DeviceVerdict, Orphan};
use api::volume::CapacityEnforcement;
use api::{
    AccessTier, Device, Drive, DrivePhase, DriveSpec, DriveStatus, Fingerprint, LatencySummary,
};
use api::{
    StorageNode, StorageNodeSpec, StorageNodeStatus, Volume, VolumePhase, VolumeSpec, VolumeStatus,
};
use jiff::Timestamp;

/// An eligible, empty device of 1 GiB.
pub(crate) fn device(name: &str) -> Device {
    Device {
        name: name.to_owned(),
        major_minor: "259:0".to_owned(),
        fingerprint: Fingerprint {
            identity: format!("id-{name}"),
            content: "blank".to_owned(),
        },
        drive_id: Some(format!(
            "{:08x}-0000-8000-8000-000000000001",
            name.len() * 16
        )),
        holds_drive: None,
        verdict: DeviceVerdict::Eligible,
        reasons: Vec::new(),
        proposed_tier: AccessTier::Hot,
        size_bytes: 1 << 30,
        logical_block_bytes: 512,
        physical_block_bytes: 4096,
        model: "Model X".to_owned(),
        serial: "S1".to_owned(),
        wwid: String::new(),
        firmware: String::new(),
        transport: Transport::Nvme,
        rotational: false,
        numa_node: None,
        io_backend: None,
        signatures: Vec::new(),
    }
}

/// A node with devices.
pub(crate) fn node(name: &str, devices: Vec<Device>) -> StorageNode {
    let mut node = StorageNode::new(name, StorageNodeSpec {});
    node.status = Some(StorageNodeStatus {
        devices,
        project_quota: true,
        kernel: "6.1.0".to_owned(),
        version: "0.1.0".to_owned(),
        ..StorageNodeStatus::default()
    });
    node
}

/// A drive of 1 GiB.
pub(crate) fn drive(id: &str, node: &str, device: &str, phase: DrivePhase) -> Drive {
    let mut drive = Drive::new(
        id,
        DriveSpec {
            node: node.to_owned(),
            device: DeviceClaim {
                fingerprint: Fingerprint {
                    identity: format!("id-{device}"),
                    content: "blank".to_owned(),
                },
                name: device.to_owned(),
                size_bytes: 1 << 30,
            },
            access_tier: AccessTier::Hot,
            cordoned: false,
            suspended: false,
            erase: Erase::default(),
            gate: None,
            repair: None,
            force: false,
            adopt_from: None,
            removal: None,
        },
    );
    drive.status = Some(DriveStatus {
        phase,
        device: Some(DriveDevice {
            name: device.to_owned(),
            model: "Model X".to_owned(),
            ..DriveDevice::default()
        }),
        capacity: Some(DriveCapacity {
            total_bytes: 1 << 30,
            allocatable_bytes: 1000 << 20,
            used_bytes: 0,
        }),
        latency: Some(DriveLatency {
            read: Some(LatencySummary {
                count: 1000,
                p50_ns: 80_000,
                p99_ns: 210_000,
                ..LatencySummary::default()
            }),
            ..DriveLatency::default()
        }),
        ..DriveStatus::default()
    });
    drive
}

/// A volume.
pub(crate) fn volume(name: &str, node: &str, drive: &str, capacity_bytes: u64) -> Volume {
    let mut volume = Volume::new(
        name,
        VolumeSpec {
            csi_name: name.to_owned(),
            node: node.to_owned(),
            drive: Some(drive.to_owned()),
            capacity_bytes,
            fs_type: api::volume::FsType::Xfs,
            capacity_enforcement: api::volume::CapacityEnforcement::Strict,
            single_writer: false,
            ephemeral: false,
            claim: None,
            spread_id: None,
            parameters: std::collections::BTreeMap::new(),
            placement: None,
            suspended: false,
            release: false,
            move_to: None,
        },
    );
    volume.status = Some(VolumeStatus {
        phase: VolumePhase::Ready,
        used_bytes: Some(4096),
        ..VolumeStatus::default()
    });
    volume
}

/// A volume of which only the directory is left, with a record that can be read.
pub(crate) fn orphan(volume: &str, drive: &str) -> Orphan {
    Orphan {
        volume: volume.to_owned(),
        drive: drive.to_owned(),
        capacity_bytes: 1 << 20,
        incarnation: "uid".to_owned(),
        csi_name: volume.to_owned(),
        capacity_enforcement: CapacityEnforcement::Strict,
        single_writer: false,
        ephemeral: false,
        spread_id: None,
        claim: None,
        parameters: BTreeMap::new(),
        since: Timestamp::UNIX_EPOCH,
    }
}
