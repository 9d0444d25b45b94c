//! Devices to be judged, for the tests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use api::drive::Transport;
use api::{Reason, names};
use block::claim::{Claim, ClaimError, ClaimState};
use block::signature::{Found, Kind};

use super::facts::{DeviceFacts, DeviceKind, Media};
use super::{Policy, Seen, judge_all};

pub(crate) const CLUSTER: &str = "7d9a1c1e-0000-4000-8000-000000000002";
pub(crate) const OTHER_CLUSTER: &str = "7d9a1c1e-0000-4000-8000-000000000003";
pub(crate) const DRIVE: &str = "3f1e2d4c-0000-8000-8000-000000000001";
pub(crate) const OTHER_DRIVE: &str = "3f1e2d4c-0000-8000-8000-000000000009";

pub(crate) fn policy() -> Policy {
    Policy {
        node: "n1".to_owned(),
        cluster_id: CLUSTER.to_owned(),
        drive_bytes_min: 512 << 20,
        allow_loop: true,
        mount_root: PathBuf::from("/var/lib/ringpv/mnt"),
    }
}

/// A blank NVMe drive of 1 TiB that nobody uses.
pub(crate) fn nvme(name: &str) -> DeviceFacts {
    DeviceFacts {
        name: name.to_owned(),
        path: PathBuf::from("/dev").join(name),
        major_minor: "259:0".to_owned(),
        diskseq: 7,
        kind: DeviceKind::Disk,
        size_bytes: 1 << 40,
        logical_block_bytes: 512,
        physical_block_bytes: 4096,
        read_only: false,
        removable: false,
        hidden: false,
        zoned: false,
        rotational: false,
        numa_node: Some(0),
        transport: Transport::Nvme,
        model: "Fast One".to_owned(),
        serial: format!("S-{name}"),
        wwid: format!("eui.00253{name}"),
        firmware: "1.0".to_owned(),
        place: "0000:01:00.0".to_owned(),
        partition: None,
        partitions: Vec::new(),
        holders: Vec::new(),
        loops: Vec::new(),
        slaves: Vec::new(),
        backing: None,
        mounts: Vec::new(),
        swap: false,
        media: read(vec![], Ok(None)),
    }
}

pub(crate) fn read(found: Vec<Found>, claim: Result<Option<Claim>, ClaimError>) -> Media {
    Media::Read { found, claim }
}

pub(crate) fn xfs(uuid: &str, label: &str) -> Found {
    Found {
        offset: 0,
        kind: Kind::Xfs,
        uuid: uuid.to_owned(),
        label: label.to_owned(),
        damaged: false,
        unfinished: false,
    }
}

/// The file system of a drive.
pub(crate) fn ours(drive: &str, cluster: &str) -> Found {
    xfs(drive, &names::filesystem_label(cluster))
}

pub(crate) fn claim(drive: &str, cluster: &str, state: ClaimState) -> Claim {
    Claim {
        state,
        drive_id: drive.to_owned(),
        cluster_id: cluster.to_owned(),
        incarnation: "i".to_owned(),
        identity: "d".to_owned(),
        left: None,
        named: Vec::new(),
    }
}

/// Judges these devices together, with these Drive objects.
pub(crate) fn judged(devices: Vec<DeviceFacts>, drives: &[&str]) -> BTreeMap<String, Seen> {
    let facts = devices
        .into_iter()
        .map(|one| (one.name.clone(), one))
        .collect();
    let drives: BTreeSet<String> = drives.iter().map(|id| (*id).to_owned()).collect();
    judge_all(&facts, &drives, &policy())
}

pub(crate) fn reasons(seen: &Seen) -> Vec<Reason> {
    seen.reasons.iter().map(|one| one.reason).collect()
}
