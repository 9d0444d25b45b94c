//! Letting go of a drive: when no volume is on it any more, and its object is to go.

use api::drive::Step;
use api::{Drive, DrivePhase, Reason};

use super::{Action, Plan, names, own_claim, rests, stand, was_in_use};
use crate::observe::Observed;
use crate::site::Site;

/// No volume is on it and its object is to go.
pub(super) fn removal(drive: &Drive, seen: &Observed, site: &Site) -> Plan {
    if seen.mounted.is_some() {
        return Plan::Do(vec![Action::Unmount]);
    }
    if drive.spec.removal.is_none() {
        return Plan::Do(vec![Action::DropFinalizer]);
    }
    // The word to suspend is the word to touch nothing: what a removal would destroy is kept until it is taken back.
    if drive.spec.suspended {
        return stand(DrivePhase::Removing, Reason::Suspended, rests(drive));
    }
    if !seen.complete {
        return Plan::Wait;
    }
    match seen.bearers.as_slice() {
        [one] if own_claim(drive, one, site).is_some() => {
            let progress = drive.status.as_ref().and_then(|s| s.progress.as_ref());
            let begun = progress.filter(|p| {
                p.step == Step::Erase
                    && drive
                        .status
                        .as_ref()
                        .is_some_and(|s| s.phase == DrivePhase::Removing)
            });
            Plan::Do(vec![
                Action::CheckRemoval {
                    device: one.facts.name.clone(),
                },
                Action::Erase {
                    done_bytes: begun.map_or(0, |p| p.done_bytes),
                    total_bytes: begun.map_or(0, |p| p.total_bytes),
                },
                Action::Verify,
                Action::Unclaim,
                Action::DropFinalizer,
            ])
        }
        [one] => stand(
            DrivePhase::Removing,
            Reason::ClaimConflict,
            format!(
                "{} has no claim of this drive, so it is not erased; take spec.removal away to let it go as it is",
                one.facts.name
            ),
        ),
        [] if was_in_use(drive) && seen.named.is_empty() => stand(
            DrivePhase::Removing,
            Reason::DeviceNotFound,
            "it cannot be erased while it is gone; put it back, or take spec.removal away to let it go",
        ),
        // Nothing of ours is on it: it was never claimed, or it is erased already.
        [] => Plan::Do(vec![Action::DropFinalizer]),
        many => stand(DrivePhase::Removing, Reason::DuplicateDriveId, names(many)),
    }
}
