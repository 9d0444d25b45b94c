//! When xfs_repair is run, row by row.

use api::drive::{Repair, RepairMode, RepairOutcome, RepairReport};
use api::testing::noon;

use super::testing::*;
use super::*;
use crate::probe::DeviceFacts;
use crate::probe::fixture::nvme;
use crate::probe::fixture::{CLUSTER, DRIVE, OTHER_CLUSTER, ours, read};
use ClaimState::{Formatted, Preparing};

fn wanted(mut drive: Drive) -> Drive {
    drive.spec.suspended = true;
    drive.spec.repair = Some(Repair {
        id: "2".to_owned(),
        mode: RepairMode::Repair,
    });
    drive
}

fn done(mut drive: Drive, id: &str) -> Drive {
    let status = drive.status.get_or_insert_default();
    status.repair = Some(RepairReport {
        id: id.to_owned(),
        mode: RepairMode::Repair,
        outcome: RepairOutcome::Clean,
        log: String::new(),
        at: noon(),
    });
    drive
}

fn shared(mut seen: Observed) -> Observed {
    if let Some(mounted) = &mut seen.mounted {
        mounted.shared = true;
    }
    seen
}

#[test]
fn a_drive_is_repaired_once_for_each_word_and_while_nobody_uses_it() {
    let in_place = || Observed {
        attached: true,
        ..mounted(whole(), record(DRIVE, CLUSTER))
    };
    let claimed = |state, cluster: &str| Ok(Some(claim(state, DRIVE, cluster, "u1")));
    let headless = || seen(vec![device(false, claimed(Formatted, CLUSTER))]);
    check(vec![
        (
            "in place",
            wanted(used()),
            in_place(),
            "unmount repair".into(),
        ),
        (
            "in place, and shut down",
            wanted(used()),
            mounted(whole(), Content::ShutDown("EIO".into())),
            "unmount repair".into(),
        ),
        (
            "not suspended",
            but(wanted(used()), |d| d.spec.suspended = false),
            in_place(),
            "settled".into(),
        ),
        (
            "volumes of it are mounted",
            wanted(used()),
            shared(in_place()),
            "settled".into(),
        ),
        (
            "done already",
            done(wanted(used()), "2"),
            in_place(),
            "settled".into(),
        ),
        (
            "an earlier one was done",
            done(wanted(used()), "1"),
            in_place(),
            "unmount repair".into(),
        ),
        (
            "not mounted",
            wanted(used()),
            seen(vec![whole()]),
            "repair".into(),
        ),
        (
            "not mounted, and done",
            done(wanted(used()), "2"),
            seen(vec![whole()]),
            "mount attach".into(),
        ),
        (
            "its superblock is gone",
            wanted(used()),
            headless(),
            "repair".into(),
        ),
        (
            "the same without a word",
            used(),
            headless(),
            "Lost IdMismatch".into(),
        ),
        (
            "the object was made anew",
            wanted(drive()),
            seen(vec![whole()]),
            "repair".into(),
        ),
        (
            "never in use",
            wanted(drive()),
            seen(vec![device(true, claimed(Preparing, CLUSTER))]),
            "Preparing Suspended".into(),
        ),
        (
            "of another cluster",
            wanted(used()),
            seen(vec![DeviceFacts {
                media: read(
                    vec![ours(DRIVE, OTHER_CLUSTER)],
                    claimed(Formatted, OTHER_CLUSTER),
                ),
                ..nvme("a")
            }]),
            "Lost ForeignCluster".into(),
        ),
        (
            "another device is in its place",
            but(wanted(used()), |d| {
                d.spec.device.fingerprint.identity = "other".to_owned();
            }),
            in_place(),
            "Lost FingerprintChanged".into(),
        ),
        (
            "two of them",
            wanted(used()),
            seen(vec![
                whole(),
                DeviceFacts {
                    name: "b".into(),
                    ..whole()
                },
            ]),
            "Lost DuplicateDriveId".into(),
        ),
        (
            "to be let go",
            but(deleted(wanted(used())), |d| {
                d.metadata.finalizers =
                    Some(vec![FINALIZER_DEVICE.into(), FINALIZER_PLACEMENT.into()]);
            }),
            in_place(),
            "settled".into(),
        ),
    ]);
}
