//! The rows of `plan.rs` for drives that go.

use api::drive::{Erase, Removal};

use super::testing::*;
use super::*;
use crate::probe::fixture::{CLUSTER, DRIVE};
use crate::probe::{DeviceFacts, Media};
use ClaimState::{Formatted, Preparing};

#[test]
fn removal_lets_go_and_erases_only_on_a_persons_word() {
    let guarded = |drive: Drive| {
        but(deleted(drive), |d| {
            d.metadata
                .finalizers
                .as_mut()
                .unwrap()
                .push(FINALIZER_PLACEMENT.into())
        })
    };
    let erasing = |drive: Drive| {
        but(deleted(drive), |d| {
            d.spec.removal = Some(Removal {
                erase: Erase::default(),
            })
        })
    };
    let in_use = || mounted(whole(), record(DRIVE, CLUSTER));
    let claimed = |state| {
        seen(vec![device(
            false,
            Ok(Some(claim(state, DRIVE, CLUSTER, "u0"))),
        )])
    };
    let unread = || DeviceFacts {
        media: Media::Failed {
            message: "input/output error".to_owned(),
        },
        ..bare()
    };
    let erase = "check-removal erase verify unclaim drop-finalizer";
    check(vec![
        (
            "volumes on it",
            guarded(used()),
            Observed {
                attached: true,
                ..in_use()
            },
            "settled".into(),
        ),
        (
            "volumes on it, not mounted",
            guarded(used()),
            seen(vec![whole()]),
            "mount attach".into(),
        ),
        (
            "volumes on it, gone",
            guarded(used()),
            seen(vec![]),
            "Removing DriveInUse".into(),
        ),
        (
            "volumes, never prepared",
            guarded(drive()),
            seen(vec![bare()]),
            "Removing DriveInUse".into(),
        ),
        ("mounted", deleted(used()), in_use(), "unmount".into()),
        (
            "mounted, to be erased",
            erasing(used()),
            in_use(),
            "unmount".into(),
        ),
        (
            "unmounted",
            deleted(used()),
            seen(vec![whole()]),
            "drop-finalizer".into(),
        ),
        (
            "to be erased",
            erasing(used()),
            seen(vec![whole()]),
            erase.into(),
        ),
        (
            "half erased",
            erasing(used()),
            claimed(Formatted),
            erase.into(),
        ),
        (
            "never completed",
            erasing(drive()),
            claimed(Preparing),
            erase.into(),
        ),
        (
            "erased",
            erasing(used()),
            seen(vec![bare()]),
            "drop-finalizer".into(),
        ),
        (
            "never claimed",
            erasing(drive()),
            seen(vec![bare()]),
            "drop-finalizer".into(),
        ),
        (
            "gone",
            erasing(used()),
            seen(vec![]),
            "Removing DeviceNotFound".into(),
        ),
        (
            "gone, its preparation begun",
            erasing(at(Step::Erase)),
            seen(vec![]),
            "Removing DeviceNotFound".into(),
        ),
        (
            "not to be read, its preparation begun",
            erasing(at(Step::Gate)),
            seen(vec![unread()]),
            "Removing ReadFailed".into(),
        ),
        (
            "not to be read, never begun",
            erasing(drive()),
            seen(vec![unread()]),
            "drop-finalizer".into(),
        ),
        (
            "gone, not to be erased",
            deleted(used()),
            seen(vec![]),
            "drop-finalizer".into(),
        ),
        (
            "no claim on it",
            erasing(used()),
            seen(vec![device(true, Ok(None))]),
            "Removing ClaimConflict".into(),
        ),
        (
            "let go already",
            but(deleted(used()), |d| d.metadata.finalizers = None),
            seen(vec![whole()]),
            "wait".into(),
        ),
    ]);
}
