//! The table of `plan.rs`, row by row.

use std::collections::BTreeSet;

use api::drive::DriveCapacity;
use block::claim::ClaimError;

use super::testing::*;
use super::*;
use crate::probe::DeviceFacts;
use crate::probe::fixture::{CLUSTER, DRIVE, OTHER_CLUSTER, OTHER_DRIVE, nvme, ours, read};
use ClaimState::{Formatted, Preparing};

#[test]
fn a_drive_that_was_never_in_use() {
    let preparing = |incarnation: &str| Ok(Some(claim(Preparing, DRIVE, CLUSTER, incarnation)));
    let gated = but(drive(), |d| d.spec.gate = Some(Default::default()));
    let suspended = but(drive(), |d| d.spec.suspended = true);
    check(vec![
        (
            "no finalizer yet",
            but(drive(), |d| d.metadata.finalizers = None),
            seen(vec![bare()]),
            "add-finalizer".into(),
        ),
        (
            "a blank device",
            drive(),
            seen(vec![bare()]),
            PREPARE.into(),
        ),
        (
            "with a gate",
            gated,
            seen(vec![bare()]),
            PREPARE.replace("claim", "claim gate"),
        ),
        (
            "suspended",
            suspended.clone(),
            seen(vec![bare()]),
            "Pending Suspended".into(),
        ),
        (
            "no device",
            drive(),
            seen(vec![]),
            "Failed DeviceNotFound".into(),
        ),
        (
            "no device yet",
            drive(),
            Observed {
                complete: false,
                ..seen(vec![])
            },
            "wait".into(),
        ),
        (
            "our claim",
            drive(),
            seen(vec![device(false, preparing("u1"))]),
            PREPARE.replace("claim ", ""),
        ),
        (
            "our claim, suspended",
            suspended,
            seen(vec![device(false, preparing("u1"))]),
            "Preparing Suspended".into(),
        ),
        (
            "the claim of an earlier object",
            drive(),
            seen(vec![device(false, preparing("u0"))]),
            PREPARE.into(),
        ),
        (
            "our file system, no claim",
            drive(),
            seen(vec![device(true, Ok(None))]),
            "mount attach".into(),
        ),
        (
            "our file system, claim damaged",
            drive(),
            seen(vec![device(true, Err(ClaimError::Damaged))]),
            "mount attach".into(),
        ),
        (
            "in use, as the object is new",
            drive(),
            seen(vec![whole()]),
            "mount attach".into(),
        ),
        (
            "in use, its file system gone",
            drive(),
            seen(vec![device(
                false,
                Ok(Some(claim(Formatted, DRIVE, CLUSTER, "u1"))),
            )]),
            "Failed IdMismatch".into(),
        ),
        (
            "of another drive that was given up half-made",
            drive(),
            seen(vec![DeviceFacts {
                media: read(
                    vec![ours(OTHER_DRIVE, CLUSTER)],
                    Ok(Some(claim(Preparing, OTHER_DRIVE, CLUSTER, "u9"))),
                ),
                ..nvme("a")
            }]),
            PREPARE.into(),
        ),
        (
            "of another drive",
            drive(),
            seen(vec![DeviceFacts {
                media: read(vec![ours(OTHER_DRIVE, CLUSTER)], Ok(None)),
                ..nvme("a")
            }]),
            "Failed ClaimConflict".into(),
        ),
        (
            "of another cluster",
            drive(),
            seen(vec![DeviceFacts {
                media: read(
                    vec![ours(DRIVE, OTHER_CLUSTER)],
                    Ok(Some(claim(Formatted, DRIVE, OTHER_CLUSTER, "u"))),
                ),
                ..nvme("a")
            }]),
            "Failed ForeignCluster".into(),
        ),
        (
            "deleted before it began",
            deleted(drive()),
            seen(vec![bare()]),
            "drop-finalizer".into(),
        ),
    ]);
}

#[test]
fn an_interrupted_preparation_goes_on() {
    let claimed = |file_system| {
        seen(vec![device(
            file_system,
            Ok(Some(claim(Preparing, DRIVE, CLUSTER, "u1"))),
        )])
    };
    let cases = [
        (
            Step::Check,
            false,
            "check erase verify ".to_owned() + FROM_FORMAT,
        ),
        (
            Step::Claim,
            false,
            "check erase verify ".to_owned() + FROM_FORMAT,
        ),
        (
            Step::Gate,
            false,
            "check erase verify ".to_owned() + FROM_FORMAT,
        ),
        (
            Step::Erase,
            false,
            "check erase verify ".to_owned() + FROM_FORMAT,
        ),
        (
            Step::Verify,
            false,
            "check verify ".to_owned() + FROM_FORMAT,
        ),
        (Step::Format, false, "check clear ".to_owned() + FROM_FORMAT),
        (Step::Format, true, "check clear ".to_owned() + FROM_FORMAT),
        (Step::Mount, true, "first-mount ".to_owned() + FROM_RECORD),
        (Step::Record, true, "first-mount ".to_owned() + FROM_RECORD),
        (Step::Mount, false, "check clear ".to_owned() + FROM_FORMAT),
    ];
    for (step, file_system, expected) in cases {
        assert_eq!(
            words(&at(step), &claimed(file_system)),
            expected,
            "{step:?} {file_system}"
        );
    }
    let Plan::Do(actions) = plan(&at(Step::Erase), &claimed(false), &site()) else {
        panic!("nothing to do");
    };
    assert_eq!(actions[1].cursor(), (512, 1024));
    let Plan::Do(actions) = plan(&at(Step::Verify), &claimed(false), &site()) else {
        panic!("nothing to do");
    };
    assert_eq!(actions[1].cursor(), (512, 1024), "of reading back, too");
}

#[test]
fn what_is_mounted() {
    let preparing = || device(true, Ok(Some(claim(Preparing, DRIVE, CLUSTER, "u1"))));
    let ours = || record(DRIVE, CLUSTER);
    let in_use = |content| mounted(whole(), content);
    let gone = |bearers: Vec<DeviceFacts>| {
        let mut observed = seen(bearers);
        observed.mounted = in_use(ours())
            .mounted
            .map(|m| Mounted { device: None, ..m });
        observed
    };
    let theirs = || record(DRIVE, OTHER_CLUSTER);
    let read_only = |mut seen: Observed| {
        seen.mounted.as_mut().unwrap().read_only = true;
        seen
    };
    check(vec![
        (
            "known",
            used(),
            Observed {
                attached: true,
                ..in_use(ours())
            },
            "settled".into(),
        ),
        (
            "known, the snapshot late",
            used(),
            Observed {
                attached: true,
                ..mounted(preparing(), ours())
            },
            "settled".into(),
        ),
        ("not yet known", used(), in_use(ours()), "attach".into()),
        (
            "no record yet",
            at(Step::Mount),
            mounted(preparing(), Content::Bare),
            FROM_RECORD.into(),
        ),
        (
            "recorded, not sealed",
            at(Step::Record),
            mounted(preparing(), ours()),
            FROM_RECORD.into(),
        ),
        (
            "in use, its record gone",
            used(),
            in_use(Content::Bare),
            "Lost IdMismatch".into(),
        ),
        (
            "another drive's record",
            used(),
            in_use(record(OTHER_DRIVE, CLUSTER)),
            "Lost IdMismatch".into(),
        ),
        (
            "another cluster's record",
            used(),
            in_use(theirs()),
            "Lost ForeignCluster".into(),
        ),
        (
            "unreadable",
            used(),
            in_use(Content::Unreadable("x".into())),
            "Lost IdMismatch".into(),
        ),
        (
            "shut down",
            used(),
            in_use(Content::ShutDown("x".into())),
            "ReadOnly FilesystemShutdown".into(),
        ),
        (
            "read-only",
            used(),
            read_only(in_use(ours())),
            "ReadOnly DriveReadOnly".into(),
        ),
        (
            "something else",
            used(),
            in_use(Content::Other("tmpfs".into())),
            "Lost MountFailed".into(),
        ),
        (
            "its device gone",
            used(),
            gone(vec![]),
            "Lost DriveLost".into(),
        ),
        (
            "its device back",
            used(),
            gone(vec![whole()]),
            "abandon mount attach".into(),
        ),
    ]);
}

#[test]
fn a_drive_that_was_in_use() {
    let other_identity = but(used(), |d| d.spec.device.fingerprint.identity = "x".into());
    let elsewhere = DeviceFacts {
        mounts: vec!["/mnt".into()],
        ..whole()
    };
    let mut copy = whole();
    copy.name = "b".into();
    copy.wwid = "eui.b".into();
    let adopting = but(used(), |d| d.spec.adopt_from = Some(OTHER_CLUSTER.into()));
    let foreign = |claimed: &str| {
        let claim = claim(Formatted, DRIVE, claimed, "u");
        seen(vec![DeviceFacts {
            media: read(vec![ours(DRIVE, OTHER_CLUSTER)], Ok(Some(claim))),
            ..nvme("a")
        }])
    };
    check(vec![
        ("there", used(), seen(vec![whole()]), "mount attach".into()),
        ("gone", used(), seen(vec![]), "Lost DriveLost".into()),
        (
            "wiped",
            used(),
            seen(vec![bare()]),
            "Lost IdMismatch".into(),
        ),
        (
            "its file system gone",
            used(),
            seen(vec![device(
                false,
                Ok(Some(claim(Formatted, DRIVE, CLUSTER, "u1"))),
            )]),
            "Lost IdMismatch".into(),
        ),
        (
            "another identity",
            other_identity,
            seen(vec![whole()]),
            "Lost FingerprintChanged".into(),
        ),
        (
            "mounted elsewhere",
            used(),
            seen(vec![elsewhere]),
            "Lost Mounted".into(),
        ),
        (
            "two of them",
            used(),
            seen(vec![whole(), copy]),
            "Lost DuplicateDriveId".into(),
        ),
        (
            "of another cluster",
            used(),
            foreign(OTHER_CLUSTER),
            "Lost ForeignCluster".into(),
        ),
        (
            "moved here",
            adopting.clone(),
            foreign(OTHER_CLUSTER),
            "take-over mount relabel attach".into(),
        ),
        (
            "moved here, half",
            adopting,
            foreign(CLUSTER),
            "mount relabel attach".into(),
        ),
    ]);
}

#[test]
fn a_drive_that_is_left_out_is_named() {
    let left_out = Observed {
        left_out: Some("nvme1n2".to_owned()),
        ..seen(vec![])
    };
    for drive in [drive(), used()] {
        let said = |seen| match plan(&drive, seen, &site()) {
            Plan::Stand(standing) => standing.message,
            other @ (Plan::Settled | Plan::Wait | Plan::Do(_)) => panic!("{other:?}"),
        };
        let message = said(&left_out);
        let identity = &drive.spec.device.fingerprint.identity;
        assert_eq!(
            message,
            format!("nvme1n2 has identity {identity}, and --devices leaves it out")
        );
        assert!(said(&seen(vec![])).contains("is on the node"));
    }
}

/// Whatever the object says and whatever is observed: a device that may hold data of ours is never written to but by an
/// erasing removal.
#[test]
fn nothing_that_was_in_use_is_ever_prepared() {
    let writes = |plan: &Plan| match plan {
        Plan::Do(actions) => actions.iter().any(|action| {
            matches!(
                action,
                Action::Claim
                    | Action::Gate
                    | Action::Erase { .. }
                    | Action::Clear
                    | Action::Format { .. }
            )
        }),
        Plan::Settled | Plan::Wait | Plan::Stand(_) => false,
    };
    let steps = [
        None,
        Some(Step::Check),
        Some(Step::Erase),
        Some(Step::Format),
        Some(Step::Record),
    ];
    let devices = [
        whole(),
        device(true, Ok(None)),
        device(true, Err(ClaimError::Damaged)),
        device(false, Ok(Some(claim(Formatted, DRIVE, CLUSTER, "u1")))),
        device(true, Ok(Some(claim(Formatted, DRIVE, CLUSTER, "u1")))),
    ];
    let mut tried = BTreeSet::new();
    for (number, facts) in devices.into_iter().enumerate() {
        for step in steps {
            for bits in 0..8u32 {
                let drive = but(step.map_or_else(drive, at), |d| {
                    d.spec.force = bits & 1 > 0;
                    d.spec.device.fingerprint.content =
                        if bits & 2 > 0 { "blank" } else { "x" }.into();
                    if bits & 4 > 0 {
                        d.status.as_mut().unwrap().capacity = Some(DriveCapacity::default());
                    }
                });
                let plan = plan(&drive, &seen(vec![facts.clone()]), &site());
                assert!(
                    !writes(&plan),
                    "device {number}, {step:?}, {bits:b}: {plan:?}"
                );
                tried.insert((number, step, bits));
            }
        }
    }
    assert_eq!(tried.len(), 5 * 5 * 8);
}
