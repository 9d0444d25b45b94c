//! Builders for the tests of this module.

use api::Volume;
use api::volume::CapacityEnforcement;

use super::plan::Promise;
use super::record::{FORMAT, Record};
use crate::host::MountEntry;

/// A strict volume's record.
pub(super) fn record(volume: &str, project_id: u32, capacity_bytes: u64) -> Record {
    Record {
        format_version: FORMAT,
        volume: volume.to_owned(),
        incarnation: format!("uid-of-{volume}"),
        formerly: Vec::new(),
        csi_name: volume.to_owned(),
        capacity_bytes,
        project_id,
        capacity_enforcement: CapacityEnforcement::Strict,
        single_writer: false,
        ephemeral: false,
        suspended: false,
        spread_id: None,
        claim: None,
        parameters: std::collections::BTreeMap::new(),
    }
}

/// What is promised by an object with that record.
pub(super) fn promise(record: &Record) -> Promise {
    Promise {
        record: Record {
            project_id: 0,
            ..record.clone()
        },
        adopts: None,
        meant: None,
        witness: None,
        suspended: false,
    }
}

/// A strict volume's object on drive `d1`, whose incarnation is that of [`record`].
pub(super) fn volume(name: &str) -> Volume {
    api::testing::volume(name).on("n1", "d1").build()
}

/// A mount of a part of an XFS.
pub(super) fn mounted(root: &str, target: &str, read_only: bool) -> MountEntry {
    MountEntry {
        major_minor: "259:0".into(),
        root: root.into(),
        target: target.into(),
        read_only,
        fs_type: "xfs".into(),
        source: "/dev/nvme0n1".into(),
        super_options: String::new(),
    }
}
