//! The rows of `plan.rs` for drives that erase their cells themselves.

use api::drive::{Erase, EraseLevel, EraseMethod, EraseVerify, ErasedProof, Removal};
use api::testing::noon;
use block::claim::ClaimError;

use super::testing::*;
use super::*;
use crate::probe::fixture::{CLUSTER, DRIVE, nvme};
use crate::probe::{DeviceFacts, Media};
use ClaimState::{Formatted, Preparing};

const FORMAT: Erase = Erase {
    method: EraseMethod::Format,
    verify: EraseVerify::Sample,
};

/// With the status as it is from the moment before the drive is told to, until its claim is back.
fn told(drive: Drive, step: Step) -> Drive {
    but(drive, |drive| {
        let status = drive.status.get_or_insert_default();
        status.secure_erase_since = Some(noon());
        status.progress = Some(Progress {
            step,
            done_bytes: 512,
            total_bytes: 1024,
            phase: None,
            method: Some(EraseMethod::Format),
            methods: String::new(),
            removal: drive.metadata.deletion_timestamp.is_some(),
            since: noon(),
        });
    })
}

fn claimed(state: ClaimState) -> Observed {
    let claim = claim(state, DRIVE, CLUSTER, "u1");
    seen(vec![device(false, Ok(Some(claim)))])
}

#[test]
fn what_erases_its_cells_while_it_is_made() {
    let made = || but(drive(), |drive| drive.spec.erase = FORMAT);
    let again = format!("check secure-erase erase verify {FROM_FORMAT}");
    let whole = PREPARE.replace("claim", "claim secure-erase");
    let mut rows = vec![
        ("a blank device", made(), seen(vec![bare()]), whole.clone()),
        (
            "the claim went with its cells",
            told(made(), Step::SecureErase),
            seen(vec![bare()]),
            whole.clone(),
        ),
        (
            "the same, and tried in vain since",
            told(made(), Step::Check),
            seen(vec![bare()]),
            whole,
        ),
        (
            "the drive is gone",
            told(made(), Step::SecureErase),
            seen(vec![]),
            "Failed DeviceNotFound".to_owned(),
        ),
    ];
    // Only who asked the drive knows that it did: after an interruption it does so again.
    for step in [Step::SecureErase, Step::Erase, Step::Verify] {
        rows.push((
            "claimed",
            told(made(), step),
            claimed(Preparing),
            again.clone(),
        ));
    }
    check(rows);
}

/// The same without a secure erase: neither what is erased nor what is read back is done a second time.
#[test]
fn an_erasing_removal_goes_on_from_both_its_cursors() {
    let cursors = |step: Step, removal: bool| {
        let drive = but(deleted(at(step)), |drive| {
            let erase = Erase::default();
            drive.spec.removal = Some(Removal { erase });
            let status = drive.status.get_or_insert_default();
            status.phase = DrivePhase::Removing;
            if let Some(progress) = &mut status.progress {
                progress.removal = removal;
            }
            status.erased = Some(ErasedProof {
                method: "punch-hole".to_owned(),
                bytes: 4096,
                verified_bytes: 0,
                verify: EraseVerify::None,
                level: EraseLevel::Logical,
                at: noon(),
            });
        });
        let Plan::Do(actions) = plan(&drive, &claimed(Formatted), &site()) else {
            panic!("nothing to do");
        };
        let cursors: Vec<_> = actions[1..3].iter().map(Action::cursor).collect();
        cursors
    };
    assert_eq!(cursors(Step::Check, true), [(0, 0), (0, 0)]);
    assert_eq!(cursors(Step::Erase, true), [(512, 1024), (0, 0)]);
    assert_eq!(cursors(Step::Verify, true), [(4096, 4096), (512, 1024)]);
    // What was done when it was made says nothing of what it holds now.
    assert_eq!(cursors(Step::Erase, false), [(0, 0), (0, 0)]);
    assert_eq!(cursors(Step::Verify, false), [(0, 0), (0, 0)]);
}

/// A person asks for another method while one is under way: its cursor, and what it read back, are not those of the other.
#[test]
fn another_method_begins_anew() {
    let claimed = claimed(Preparing);
    for step in [Step::Erase, Step::Verify] {
        let other = but(at(step), |drive| {
            drive.spec.erase.method = EraseMethod::Zero
        });
        let Plan::Do(actions) = plan(&other, &claimed, &site()) else {
            panic!("nothing to do");
        };
        assert_eq!(actions[1].name(), "erase", "{step:?}");
        assert_eq!(actions[1].cursor(), (0, 0), "{step:?}");
    }
}

/// Only what is blank is erased already.
#[test]
fn what_cannot_be_read_is_not_called_erased() {
    let going = but(deleted(used()), |drive| {
        let erase = Erase::default();
        drive.spec.removal = Some(Removal { erase });
    });
    let unreadable = DeviceFacts {
        media: Media::Failed {
            message: "input/output error".to_owned(),
        },
        ..bare()
    };
    let damaged = device(false, Err(ClaimError::Damaged));
    check(vec![
        (
            "unreadable",
            going.clone(),
            seen(vec![unreadable]),
            "Removing ReadFailed".into(),
        ),
        (
            "its claim damaged, its file system gone",
            going.clone(),
            seen(vec![damaged]),
            "Removing ClaimConflict".into(),
        ),
        ("blank", going, seen(vec![bare()]), "drop-finalizer".into()),
    ]);
}

#[test]
fn what_erases_its_cells_while_it_is_removed() {
    let going = |drive: Drive| {
        but(deleted(drive), |drive| {
            drive.spec.removal = Some(Removal { erase: FORMAT });
            drive.status.get_or_insert_default().phase = DrivePhase::Removing;
        })
    };
    let lost = |drive| told(going(drive), Step::SecureErase);
    let erase = "check-removal secure-erase erase verify unclaim drop-finalizer";
    let twice = || {
        seen(vec![
            bare(),
            DeviceFacts {
                name: "b".into(),
                ..nvme("a")
            },
        ])
    };
    check(vec![
        ("whole", going(used()), seen(vec![whole()]), erase.into()),
        (
            "half erased",
            told(going(used()), Step::Erase),
            claimed(Formatted),
            erase.into(),
        ),
        // Not "erased already": nobody saw the end of it, and there is no proof.
        (
            "the claim went with its cells",
            lost(used()),
            seen(vec![bare()]),
            erase.into(),
        ),
        (
            "the same, never in use",
            lost(drive()),
            seen(vec![bare()]),
            erase.into(),
        ),
        (
            "gone",
            lost(drive()),
            seen(vec![]),
            "Removing DeviceNotFound".into(),
        ),
        (
            "two of them",
            lost(used()),
            twice(),
            "Removing DuplicateIdentity".into(),
        ),
        (
            "suspended",
            but(lost(used()), |drive| drive.spec.suspended = true),
            seen(vec![bare()]),
            "Removing Suspended".into(),
        ),
        (
            "not to be erased any more",
            but(lost(used()), |drive| drive.spec.removal = None),
            seen(vec![bare()]),
            "drop-finalizer".into(),
        ),
    ]);
    // What is zeroed begins anew with it: there is no cursor to go on from.
    let Plan::Do(actions) = plan(
        &told(going(used()), Step::Erase),
        &claimed(Formatted),
        &site(),
    ) else {
        panic!("nothing to do");
    };
    assert_eq!(actions[2].cursor(), (0, 0));
}

/// Until another one succeeds it answers no read: only who was told to sanitize, and is to still, goes on without one.
#[test]
fn a_sanitize_that_failed_is_done_again() {
    let unread = || DeviceFacts {
        media: Media::Failed {
            message: "input/output error".to_owned(),
        },
        ..bare()
    };
    let of = |method, drive: Drive| {
        but(drive, |drive| {
            let erase = Erase { method, ..FORMAT };
            drive.spec.erase = erase;
            drive.spec.removal = drive.spec.removal.map(|_| Removal { erase });
        })
    };
    let made = |method| told(of(method, drive()), Step::SecureErase);
    let going = |method| {
        let going = but(deleted(used()), |drive| {
            drive.spec.removal = Some(Removal { erase: FORMAT });
        });
        told(of(method, going), Step::SecureErase)
    };
    let untold = of(EraseMethod::Sanitize, drive());
    let again = format!("check secure-erase erase verify {FROM_FORMAT}");
    let erase = "check-removal secure-erase erase verify unclaim drop-finalizer";
    let rows = vec![
        (
            "while it is made",
            made(EraseMethod::Sanitize),
            seen(vec![unread()]),
            again,
        ),
        (
            "suspended",
            but(made(EraseMethod::Sanitize), |drive| {
                drive.spec.suspended = true;
            }),
            seen(vec![unread()]),
            "Pending Suspended".into(),
        ),
        (
            "while it is removed",
            going(EraseMethod::Sanitize),
            seen(vec![unread()]),
            erase.into(),
        ),
        // Their first step refuses it: it cannot be read.
        (
            "it was not told to yet",
            untold,
            seen(vec![unread()]),
            PREPARE.replace("claim", "claim secure-erase"),
        ),
        (
            "another method is asked for by now",
            made(EraseMethod::Format),
            seen(vec![unread()]),
            PREPARE.replace("claim", "claim secure-erase"),
        ),
    ];
    check(rows);
}
