//! Making a drive: its steps, in their order, and those that are left after an interruption.

use api::Drive;
use api::drive::Step;

use super::{Action, is_of_what_is_asked};
use crate::probe::Seen;

/// All steps of preparing.
pub(super) fn prepared(drive: &Drive, device: &Seen) -> Vec<Action> {
    let mut actions = vec![
        Action::Check {
            device: device.facts.name.clone(),
            resume: false,
        },
        Action::Claim,
    ];
    actions.extend(from_gate(drive, device));
    actions
}

/// A Sanitize that failed is done again before anything else: until one succeeds the drive cannot even be claimed.
pub(super) fn sanitized_again(drive: &Drive, device: &Seen) -> Vec<Action> {
    let mut actions = vec![Action::Check {
        device: device.facts.name.clone(),
        resume: true,
    }];
    actions.extend(from_erase(drive, device));
    actions
}

fn from_gate(drive: &Drive, device: &Seen) -> Vec<Action> {
    let mut actions = Vec::new();
    if drive.spec.gate.is_some() {
        actions.push(Action::Gate);
    }
    actions.extend(from_erase(drive, device));
    actions
}

fn from_erase(drive: &Drive, device: &Seen) -> Vec<Action> {
    let mut actions = Vec::new();
    if drive.spec.erase.method.is_secure() {
        actions.push(Action::SecureErase);
    }
    actions.push(Action::Erase {
        done_bytes: 0,
        total_bytes: 0,
    });
    actions.extend(from_verify(device, (0, 0)));
    actions
}

fn from_verify(device: &Seen, (done_bytes, total_bytes): (u64, u64)) -> Vec<Action> {
    let mut actions = vec![Action::Verify {
        done_bytes,
        total_bytes,
    }];
    actions.extend(from_format(device));
    actions
}

fn from_format(device: &Seen) -> Vec<Action> {
    let name = || device.facts.name.clone();
    let mut actions = vec![
        Action::Format { device: name() },
        Action::Mount {
            device: name(),
            fresh: true,
        },
    ];
    actions.extend(from_record(device));
    actions
}

pub(super) fn from_record(device: &Seen) -> Vec<Action> {
    let name = || device.facts.name.clone();
    vec![
        Action::Record,
        Action::Seal { device: name() },
        Action::Mount {
            device: name(),
            fresh: false,
        },
        Action::Attach,
    ]
}

/// The steps that are left after an interruption. The step in the status had begun; none after it had.
pub(super) fn resumed(drive: &Drive, device: &Seen, file_system: bool) -> Vec<Action> {
    let name = || device.facts.name.clone();
    let progress = drive
        .status
        .as_ref()
        .and_then(|status| status.progress.as_ref());
    let check = Action::Check {
        device: name(),
        resume: true,
    };
    // A cursor of another method, or of a removal that did not come to be, is none.
    let begun = progress.filter(|progress| is_of_what_is_asked(drive, progress));
    let cursor = begun.map(|progress| (progress.done_bytes, progress.total_bytes));
    match progress.map(|progress| progress.step) {
        Some(Step::Mount | Step::Record | Step::Unmount) if file_system => {
            let mut actions = vec![Action::Mount {
                device: name(),
                fresh: true,
            }];
            actions.extend(from_record(device));
            actions
        }
        Some(Step::Mount | Step::Record | Step::Unmount | Step::Format) => {
            let mut actions = vec![check, Action::Clear];
            actions.extend(from_format(device));
            actions
        }
        // What the drive did is known only to who asked it: it does so again.
        Some(Step::SecureErase | Step::Erase | Step::Verify)
            if drive.spec.erase.method.is_secure() =>
        {
            let mut actions = vec![check];
            actions.extend(from_erase(drive, device));
            actions
        }
        Some(Step::Verify) if let Some(cursor) = cursor => {
            let mut actions = vec![check];
            actions.extend(from_verify(device, cursor));
            actions
        }
        Some(Step::Erase | Step::Verify) => {
            let (done_bytes, total_bytes) = cursor.unwrap_or_default();
            let erase = Action::Erase {
                done_bytes,
                total_bytes,
            };
            let mut actions = vec![check, erase];
            actions.extend(from_verify(device, (0, 0)));
            actions
        }
        // Nothing that is being prepared is repaired; the check finds out what it is.
        Some(Step::Check | Step::Claim | Step::Gate | Step::SecureErase | Step::Repair) | None => {
            let mut actions = vec![check];
            actions.extend(from_gate(drive, device));
            actions
        }
    }
}
