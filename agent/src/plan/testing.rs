//! Drives as a person's init makes them, and devices as an agent sees them, for tests.

use api::drive::{DeviceClaim, DriveCapacity, Erase, EraseMethod, Progress};
use api::testing::noon;
use api::{AccessTier, DriveSpec, DriveStatus, Fingerprint};
use block::claim::ClaimError;

use super::*;
use crate::host::XfsErrors;
use crate::probe::DeviceFacts;
use crate::probe::fixture::{CLUSTER, DRIVE, judged, nvme, ours, read};
use crate::records::{DriveRecord, FORMAT_VERSION, Said};
use ClaimState::Formatted;

/// On node `n1`, of a blank device with identity `i1`.
pub(crate) fn spec() -> DriveSpec {
    DriveSpec {
        node: "n1".to_owned(),
        device: DeviceClaim {
            fingerprint: Fingerprint {
                identity: "i1".to_owned(),
                content: "blank".to_owned(),
            },
            name: "nvme0n1".to_owned(),
            size_bytes: 1 << 30,
        },
        access_tier: AccessTier::Default,
        cordoned: false,
        suspended: false,
        erase: Erase::default(),
        gate: None,
        repair: None,
        force: false,
        adopt_from: None,
        removal: None,
    }
}

pub(crate) fn site() -> Site {
    Site {
        node: "n1".into(),
        cluster_id: CLUSTER.into(),
        state_dir: "/var/lib/ringpv".into(),
        xfs_errors: XfsErrors::FailFast,
    }
}

pub(crate) fn claim(state: ClaimState, drive: &str, cluster: &str, incarnation: &str) -> Claim {
    Claim {
        state,
        drive_id: drive.into(),
        cluster_id: cluster.into(),
        incarnation: incarnation.into(),
        identity: identity("a"),
        left: None,
        named: Vec::new(),
    }
}

pub(crate) fn identity(name: &str) -> String {
    judged(vec![nvme(name)], &[])[name]
        .fingerprint
        .identity
        .clone()
}

/// A Drive of device `a`, with our finalizer.
pub(crate) fn drive() -> Drive {
    let mut drive = Drive::new(DRIVE, spec());
    drive.spec.device.fingerprint = Fingerprint {
        identity: identity("a"),
        content: "blank".into(),
    };
    drive.metadata.uid = Some("u1".into());
    drive.metadata.finalizers = Some(vec![FINALIZER_DEVICE.into()]);
    drive.status = Some(DriveStatus::default());
    drive
}

pub(crate) fn at(step: Step) -> Drive {
    let mut drive = drive();
    let status = drive.status.as_mut().unwrap();
    status.phase = DrivePhase::Preparing;
    status.progress = Some(Progress {
        step,
        done_bytes: 512,
        total_bytes: 1024,
        phase: None,
        method: Some(EraseMethod::Auto),
        methods: String::new(),
        removal: false,
        since: noon(),
    });
    drive
}

pub(crate) fn used() -> Drive {
    let mut drive = drive();
    let status = drive.status.as_mut().unwrap();
    status.phase = DrivePhase::Ready;
    status.capacity = Some(DriveCapacity::default());
    drive
}

pub(crate) fn deleted(mut drive: Drive) -> Drive {
    let now = k8s_openapi::jiff::Timestamp::UNIX_EPOCH;
    drive.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
    drive
}

pub(crate) fn but(mut drive: Drive, change: impl FnOnce(&mut Drive)) -> Drive {
    change(&mut drive);
    drive
}

/// Device `a` with our file system, or without, and a claim.
pub(crate) fn device(file_system: bool, claim: Result<Option<Claim>, ClaimError>) -> DeviceFacts {
    let found = if file_system {
        vec![ours(DRIVE, CLUSTER)]
    } else {
        vec![]
    };
    DeviceFacts {
        media: read(found, claim),
        ..nvme("a")
    }
}

pub(crate) fn bare() -> DeviceFacts {
    nvme("a")
}

pub(crate) fn whole() -> DeviceFacts {
    device(true, Ok(Some(claim(Formatted, DRIVE, CLUSTER, "u0"))))
}

pub(crate) fn seen(devices: Vec<DeviceFacts>) -> Observed {
    let all = judged(devices, &[DRIVE]);
    let snapshot = crate::probe::Snapshot {
        complete: true,
        devices: all
            .into_iter()
            .map(|(name, seen)| (name, Arc::new(seen)))
            .collect(),
        ..Default::default()
    };
    Observed {
        complete: true,
        bearers: snapshot.by_drive(DRIVE).cloned().collect(),
        named: snapshot.by_identity(&identity("a")).cloned().collect(),
        left_out: None,
        mounted: None,
        attached: false,
    }
}

pub(crate) fn mounted(device: DeviceFacts, content: Content) -> Observed {
    let mut observed = seen(vec![device]);
    observed.mounted = Some(Mounted {
        major_minor: "259:0".into(),
        device: observed.named.first().cloned(),
        read_only: false,
        shared: false,
        content,
    });
    observed
}

pub(crate) fn record(drive: &str, cluster: &str) -> Content {
    Content::Recorded(DriveRecord {
        format_version: FORMAT_VERSION,
        drive_id: drive.into(),
        cluster_id: cluster.into(),
        created: noon(),
        empty_bytes: 1 << 30,
        said: Said::default(),
    })
}

/// A plan as words: the names of its actions, or how it stands.
pub(crate) fn words(drive: &Drive, seen: &Observed) -> String {
    match plan(drive, seen, &site()) {
        Plan::Settled => "settled".into(),
        Plan::Wait => "wait".into(),
        Plan::Do(actions) => actions
            .iter()
            .map(Action::name)
            .collect::<Vec<_>>()
            .join(" "),
        Plan::Stand(standing) => format!("{:?} {}", standing.phase, standing.reason),
    }
}

pub(crate) const FROM_RECORD: &str = "record seal mount attach";
pub(crate) const FROM_FORMAT: &str = "format first-mount record seal mount attach";
pub(crate) const PREPARE: &str =
    "check claim erase verify format first-mount record seal mount attach";

pub(crate) fn check(rows: Vec<(&str, Drive, Observed, String)>) {
    for (row, drive, seen, expected) in rows {
        assert_eq!(words(&drive, &seen), expected, "{row}");
    }
}
