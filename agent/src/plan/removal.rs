//! Letting go of a drive: when no volume is on it any more, and its object is to go.

use api::drive::Step;
use api::{Drive, DrivePhase, Reason};

use super::{
    Action, Plan, asked, is_of_what_is_asked, may_lack_its_claim, names, own_claim, rests, stand,
    was_in_use,
};
use crate::observe::Observed;
use crate::probe::Seen;
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
        [one] if own_claim(drive, one, site).is_some() => erasing(drive, &one.facts.name),
        [one] => stand(
            DrivePhase::Removing,
            Reason::ClaimConflict,
            format!(
                "{} has no claim of this drive, so it is not erased; kubectl ringpv remove without --erase lets it go as it is",
                one.facts.name
            ),
        ),
        [] if seen.named.is_empty() && may_hold_what_is_to_go(drive) => stand(
            DrivePhase::Removing,
            Reason::DeviceNotFound,
            "it cannot be erased while it is gone; put it back, or let it go by kubectl ringpv remove without --erase",
        ),
        // Its claim went with its cells: it is erased once more, for nobody knows whether all of it was.
        [] if may_lack_its_claim(drive) => match seen.named.as_slice() {
            [one] => erasing(drive, &one.facts.name),
            many => stand(DrivePhase::Removing, Reason::DuplicateIdentity, names(many)),
        },
        // Nothing of ours was ever on it, or it is erased already.
        [] if !may_hold_what_is_to_go(drive) || seen.named.iter().all(|one| is_empty(one)) => {
            Plan::Do(vec![Action::DropFinalizer])
        }
        // It may be unreadable, or held by another driver, with all that is on it.
        [] => {
            let failed = seen.named.iter().any(|one| one.has(Reason::ReadFailed));
            let reason = if failed {
                Reason::ReadFailed
            } else {
                Reason::ClaimConflict
            };
            stand(
                DrivePhase::Removing,
                reason,
                format!(
                    "{} is not blank and does not show this drive, so it is not erased; kubectl ringpv remove without --erase lets it go as it is",
                    names(&seen.named)
                ),
            )
        }
        many => stand(DrivePhase::Removing, Reason::DuplicateDriveId, names(many)),
    }
}

/// All steps of erasing it; from the cursor, where that was begun.
fn erasing(drive: &Drive, device: &str) -> Plan {
    let secure = asked(drive).method.is_secure();
    let status = drive.status.as_ref().filter(|_| !secure);
    let begun = status
        .and_then(|status| status.progress.as_ref())
        .filter(|progress| is_of_what_is_asked(drive, progress));
    let cursor = begun.map_or((0, 0), |begun| (begun.done_bytes, begun.total_bytes));
    let erased = status
        .and_then(|status| status.erased.as_ref())
        .map_or(0, |erased| erased.bytes);
    // What was erased to its end is not erased again, if that is what is asked for still: the cursor stands at its end.
    let (erase, verify) = match begun.map(|begun| begun.step) {
        Some(Step::Erase) => (cursor, (0, 0)),
        Some(Step::Verify) => ((erased, erased), cursor),
        _ => ((0, 0), (0, 0)),
    };
    let mut actions = vec![Action::CheckRemoval {
        device: device.to_owned(),
    }];
    if secure {
        actions.push(Action::SecureErase);
    }
    actions.extend([
        Action::Erase {
            done_bytes: erase.0,
            total_bytes: erase.1,
        },
        Action::Verify {
            done_bytes: verify.0,
            total_bytes: verify.1,
        },
        Action::Unclaim,
        Action::DropFinalizer,
    ]);
    Plan::Do(actions)
}

/// Whether its device may hold something that the word to erase it is about: it was in use, or its preparation wrote to it
/// over what somebody had there.
fn may_hold_what_is_to_go(drive: &Drive) -> bool {
    let progress = drive.status.as_ref().and_then(|it| it.progress.as_ref());
    let was_begun = progress.is_some_and(|begun| begun.removal || begun.step != Step::Check);
    was_begun || was_in_use(drive) || may_lack_its_claim(drive)
}

/// Whether it was read, and holds neither anything nor a claim, not even a damaged one.
fn is_empty(device: &Seen) -> bool {
    device.is_blank() && matches!(device.claim(), Ok(None))
}
