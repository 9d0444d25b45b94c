//! What is to be done about one drive: `plan(desired, observed) -> actions`. Pure.
//!
//! The law that this file embodies: a device that may hold data of ours is mounted or left alone, whatever the object
//! says; only a device that a person named, that shows what it showed then, and that was never in use, is prepared.
//!
//! | the device | and | then |
//! |---|---|---|
//! | bears the drive, claim Formatted, XFS there | identity as named | mount |
//! | bears the drive, claim Formatted, no XFS | | refuse: nothing is written |
//! | bears the drive, XFS, claim unreadable | | mount; without a record on it refuse |
//! | bears our claim, Preparing | the drive was in use | refuse: nothing is written |
//! | bears our claim, Preparing, of this object | identity as named | resume at the step in the status |
//! | bears our claim, Preparing, of another object | fingerprint as named, and force | prepare |
//! | bears the drive, of another cluster | `adoptFrom` names that one | move it here; its claim once no volume is mounted |
//! | bears nothing of ours | fingerprint as named, drive never in use | prepare |
//! | bears nothing of ours | it was erasing its cells | prepare, or erase once more; only if it is blank |
//! | answers no read | it was told to sanitize | sanitize once more; only if the last one failed |
//! | bears another drive, made to the end | | refuse |
//! | bears nothing of ours | the drive was in use | refuse: nothing is written |
//! | bears the drive, in use before | suspended, no volume mounted, `repair` not done yet | unmount, xfs_repair, then as ever |
//! | two of them | | refuse both |
//!
//! The warrant, checked again under an exclusive hold, has the last word on all writing (`block::erase::Warrant`).

use std::sync::Arc;

use api::drive::{Erase, EraseMethod, Progress, Step};
use api::names::{FINALIZER_DEVICE, FINALIZER_PLACEMENT};
use api::{Bytes, Drive, DrivePhase, Reason};
use block::claim::{Claim, ClaimState};

use crate::observe::{Content, Mounted, Observed};
use crate::probe::{Held, Seen};
use crate::site::Site;

mod action;
mod preparing;
mod removal;

pub use action::Action;
use preparing::{from_record, prepared, resumed, sanitized_again};
use removal::removal;

/// Where a drive stands while there is nothing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Phase.
    pub phase: DrivePhase,
    /// Why, as one word.
    pub reason: Reason,
    /// Why, with particulars.
    pub message: String,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing: it is in use and all is well.
    Settled,
    /// Nothing can be said yet.
    Wait,
    /// These, in this order, until one fails.
    Do(Vec<Action>),
    /// Nothing more; this is how it stands.
    Stand(Standing),
}

/// What is to be done about `drive`.
#[must_use]
pub fn plan(drive: &Drive, seen: &Observed, site: &Site) -> Plan {
    let deleting = drive.metadata.deletion_timestamp.is_some();
    match (deleting, has_finalizer(drive, FINALIZER_DEVICE)) {
        (false, false) => return Plan::Do(vec![Action::AddFinalizer]),
        (true, false) => return Plan::Wait,
        (true, true) if !has_finalizer(drive, FINALIZER_PLACEMENT) => {
            return removal(drive, seen, site);
        }
        (true | false, true) => {}
    }
    if let Some(mounted) = &seen.mounted {
        return in_place(drive, seen, mounted, site);
    }
    if !seen.complete {
        return Plan::Wait;
    }
    match seen.bearers.as_slice() {
        [] if deleting => stand(DrivePhase::Removing, Reason::DriveInUse, ""),
        [] => named(drive, seen),
        [one] => bearer(drive, one, site),
        many => refused(drive, Reason::DuplicateDriveId, names(many)),
    }
}

/// The drive is mounted at its place, or something else is.
fn in_place(drive: &Drive, seen: &Observed, mounted: &Mounted, site: &Site) -> Plan {
    let Some(device) = &mounted.device else {
        if !seen.complete {
            return Plan::Wait;
        }
        let mut actions = vec![Action::Abandon {
            major_minor: mounted.major_minor.clone(),
        }];
        return match seen.bearers.as_slice() {
            [] => stand(DrivePhase::Lost, Reason::DriveLost, lost(drive, seen)),
            [one] => match bearer(drive, one, site) {
                Plan::Do(rest) => {
                    actions.extend(rest);
                    Plan::Do(actions)
                }
                other @ (Plan::Settled | Plan::Wait | Plan::Stand(_)) => other,
            },
            many => refused(drive, Reason::DuplicateDriveId, names(many)),
        };
    };
    if device.fingerprint.identity != drive.spec.device.fingerprint.identity {
        return other_identity(drive, device);
    }
    if was_in_use(drive) && wants_repair(drive) && !mounted.shared {
        let device = device.facts.name.clone();
        return Plan::Do(vec![Action::Unmount, Action::Repair { device }]);
    }
    match &mounted.content {
        Content::ShutDown(why) => stand(
            DrivePhase::ReadOnly,
            Reason::FilesystemShutdown,
            if repair_waits(drive, mounted) {
                format!("{why}; {REPAIR_WAITS}")
            } else {
                why.clone()
            },
        ),
        Content::Other(what) => refused(
            drive,
            Reason::MountFailed,
            format!("{what} is mounted at its place"),
        ),
        Content::Unreadable(why) => refused(drive, Reason::IdMismatch, why.clone()),
        Content::Bare if own_preparing_claim(drive, device, site).is_some() => {
            Plan::Do(from_record(device))
        }
        Content::Bare => refused(drive, Reason::IdMismatch, "drive.json is missing on it"),
        Content::Recorded(record) if record.drive_id != id(drive) => refused(
            drive,
            Reason::IdMismatch,
            format!("drive.json on it is that of drive {}", record.drive_id),
        ),
        Content::Recorded(record) => {
            let foreign = record.cluster_id != site.cluster_id;
            if foreign && drive.spec.adopt_from.as_ref() != Some(&record.cluster_id) {
                let whose = format!("drive.json on it is that of cluster {}", record.cluster_id);
                return refused(drive, Reason::ForeignCluster, whose);
            }
            recorded(drive, seen, (mounted, device), foreign, site)
        }
    }
}

/// The drive is mounted at its place with its own record, of this cluster or (`foreign`) of the one it moves here from.
fn recorded(
    drive: &Drive,
    seen: &Observed,
    (mounted, device): (&Mounted, &Seen),
    foreign: bool,
    site: &Site,
) -> Plan {
    let name = || device.facts.name.clone();
    // The claim says after the next boot whose the drive is, and it is not written to a device that is mounted. What pods
    // use of the drive is left to them: the claim follows once nothing else of it is mounted.
    if !mounted.shared && claim_is_to_move(drive, device, site) {
        return Plan::Do(vec![
            Action::Unmount,
            Action::TakeOver { device: name() },
            Action::Mount {
                device: name(),
                fresh: false,
            },
            Action::Relabel,
            Action::Attach,
        ]);
    }
    if mounted.read_only {
        let message = format!("{} is mounted read-only", name());
        return stand(DrivePhase::ReadOnly, Reason::DriveReadOnly, message);
    }
    if foreign {
        return Plan::Do(vec![Action::Relabel, Action::Attach]);
    }
    // What is in use is sealed; a snapshot that shows the claim as it was before is only late.
    if seen.attached {
        return Plan::Settled;
    }
    if own_preparing_claim(drive, device, site).is_some() {
        return Plan::Do(from_record(device));
    }
    Plan::Do(vec![Action::Attach])
}

/// One device bears the drive, and it is not mounted.
fn bearer(drive: &Drive, device: &Arc<Seen>, site: &Site) -> Plan {
    let Some(held) = &device.holds else {
        return Plan::Wait;
    };
    if device.fingerprint.identity != drive.spec.device.fingerprint.identity {
        return other_identity(drive, device);
    }
    if let Some(elsewhere) = device
        .reasons
        .iter()
        .find(|one| one.reason == Reason::Mounted)
    {
        return refused(drive, Reason::Mounted, elsewhere.message.clone());
    }
    let name = || device.facts.name.clone();
    let mount = || Action::Mount {
        device: name(),
        fresh: false,
    };
    if !held.ours {
        return of_another_cluster(drive, device, held, site);
    }
    let claim = held.claim.as_ref();
    match claim.map(|claim| claim.state) {
        Some(ClaimState::Formatted) | None if wants_repair(drive) => {
            Plan::Do(vec![Action::Repair { device: name() }])
        }
        Some(ClaimState::Formatted) | None if held.file_system => {
            Plan::Do(vec![mount(), Action::Attach])
        }
        Some(ClaimState::Formatted) | None => refused(
            drive,
            Reason::IdMismatch,
            format!(
                "the claim on {} says that it was in use, but its file system is not there; nothing was written",
                name()
            ),
        ),
        Some(ClaimState::Preparing) if is_deleting(drive) => {
            stand(DrivePhase::Removing, Reason::DriveInUse, "")
        }
        Some(ClaimState::Preparing) if was_in_use(drive) => refused(
            drive,
            Reason::IdMismatch,
            format!(
                "the drive was in use, and the claim on {} says that it never was; nothing was written",
                name()
            ),
        ),
        Some(ClaimState::Preparing) if drive.spec.suspended => {
            stand(DrivePhase::Preparing, Reason::Suspended, rests(drive))
        }
        Some(ClaimState::Preparing) if claim.is_some_and(|c| is_of(c, drive)) => {
            Plan::Do(resumed(drive, device, held.file_system))
        }
        Some(ClaimState::Preparing) => Plan::Do(prepared(drive, device)),
    }
}

/// One device bears the drive, of another cluster as its file system or its claim says.
fn of_another_cluster(drive: &Drive, device: &Seen, held: &Held, site: &Site) -> Plan {
    let name = || device.facts.name.clone();
    let mount = || Action::Mount {
        device: name(),
        fresh: false,
    };
    let claim = held.claim.as_ref();
    let of_this_cluster = claim.is_some_and(|claim| claim.cluster_id == site.cluster_id);
    match &drive.spec.adopt_from {
        // The claim was written already; label and record follow.
        Some(_) if of_this_cluster && is_formatted(claim) && held.file_system => {
            Plan::Do(vec![mount(), Action::Relabel, Action::Attach])
        }
        Some(from) if *from == held.cluster_id && is_formatted(claim) && held.file_system => {
            Plan::Do(vec![
                Action::TakeOver { device: name() },
                mount(),
                Action::Relabel,
                Action::Attach,
            ])
        }
        Some(_) | None => {
            let whose = match held.cluster_id.as_str() {
                "" => format!("{} bears it for another cluster", name()),
                cluster => format!("{} bears it for cluster {cluster}", name()),
            };
            refused(drive, Reason::ForeignCluster, whose)
        }
    }
}

/// How far a preparation or an erasing removal is that a person suspended. It goes on from there.
fn rests(drive: &Drive) -> String {
    let status = drive.status.as_ref();
    match status.and_then(|status| status.progress.as_ref()) {
        Some(Progress {
            step: step @ (Step::Erase | Step::Verify),
            done_bytes,
            total_bytes,
            ..
        }) if *total_bytes > 0 => {
            let (done, total) = (Bytes(*done_bytes), Bytes(*total_bytes));
            let what = if *step == Step::Verify {
                "reading back"
            } else {
                "erasing"
            };
            format!("{what} rests at {done} of {total}")
        }
        Some(_) | None => String::new(),
    }
}

/// No device bears the drive.
fn named(drive: &Drive, seen: &Observed) -> Plan {
    if was_in_use(drive) {
        return match seen.named.as_slice() {
            [] => stand(DrivePhase::Lost, Reason::DriveLost, lost(drive, seen)),
            there => stand(
                DrivePhase::Lost,
                Reason::IdMismatch,
                format!(
                    "{} is there, but no longer bears this drive; nothing was written",
                    names(there)
                ),
            ),
        };
    }
    match seen.named.as_slice() {
        [] => refused(drive, Reason::DeviceNotFound, lost(drive, seen)),
        // The warrant would say so too, but only once nobody else holds the device, which a drive in use never allows.
        [one] if let Some(other) = one.holds.as_ref().filter(|held| is_drive(held)) => refused(
            drive,
            Reason::ClaimConflict,
            format!("{} bears drive {}", one.facts.name, other.id),
        ),
        [_] if drive.spec.suspended => stand(DrivePhase::Pending, Reason::Suspended, ""),
        [one] if sanitizes_unread(drive, one) => Plan::Do(sanitized_again(drive, one)),
        [one] => Plan::Do(prepared(drive, one)),
        many => refused(drive, Reason::DuplicateIdentity, names(many)),
    }
}

fn id(drive: &Drive) -> &str {
    drive.metadata.name.as_deref().unwrap_or_default()
}

fn is_deleting(drive: &Drive) -> bool {
    drive.metadata.deletion_timestamp.is_some()
}

fn has_finalizer(drive: &Drive, finalizer: &str) -> bool {
    drive
        .metadata
        .finalizers
        .iter()
        .flatten()
        .any(|one| one == finalizer)
}

/// Whether the drive was ever Ready. Its capacity is written then, and never before.
#[must_use]
pub fn was_in_use(drive: &Drive) -> bool {
    drive
        .status
        .as_ref()
        .is_some_and(|status| status.capacity.is_some())
}

/// Whether a person asked for a run of xfs_repair that was not made yet. It is heeded only while the drive is suspended.
#[must_use]
pub fn wants_repair(drive: &Drive) -> bool {
    let status = drive.status.as_ref();
    let done = status.and_then(|status| status.repair.as_ref());
    let wanted = drive.spec.repair.as_ref();
    drive.spec.suspended
        && !is_deleting(drive)
        && wanted.is_some_and(|wanted| done.is_none_or(|done| done.id != wanted.id))
}

/// What a drive says whose repair waits.
pub const REPAIR_WAITS: &str = "the repair waits until the pods that use its volumes are gone";

/// Whether a repair waits for the end of pods.
#[must_use]
pub fn repair_waits(drive: &Drive, mounted: &Mounted) -> bool {
    wants_repair(drive) && mounted.shared
}

/// How it is to be erased: for its removal, where it is to go.
#[must_use]
pub fn asked(drive: &Drive) -> Erase {
    match &drive.spec.removal {
        Some(removal) if is_deleting(drive) => removal.erase,
        Some(_) | None => drive.spec.erase,
    }
}

/// Whether a cursor is one of what is asked for now.
fn is_of_what_is_asked(drive: &Drive, begun: &Progress) -> bool {
    begun.method == Some(asked(drive).method) && begun.removal == is_deleting(drive)
}

/// Whether the drive was told to erase its cells, its claim with them, and the claim was not written again yet.
#[must_use]
pub fn may_lack_its_claim(drive: &Drive) -> bool {
    drive
        .status
        .as_ref()
        .is_some_and(|status| status.secure_erase_since.is_some())
}

/// Whether it was told to sanitize by this very Drive, is to be still, and answers no read.
#[must_use]
pub fn sanitizes_unread(drive: &Drive, device: &Seen) -> bool {
    may_lack_its_claim(drive) && asked(drive).method == EraseMethod::Sanitize && device.is_unread()
}

fn is_formatted(claim: Option<&Claim>) -> bool {
    claim.is_some_and(|claim| claim.state == ClaimState::Formatted)
}

/// Whether it was made to the end. A claim that says Preparing is what a preparation left that was given up, with or
/// without a file system.
fn is_drive(held: &Held) -> bool {
    let claim = held.claim.as_ref();
    claim.map_or(held.file_system, |claim| {
        claim.state == ClaimState::Formatted
    })
}

fn is_of(claim: &Claim, drive: &Drive) -> bool {
    drive.metadata.uid.as_ref() == Some(&claim.incarnation)
}

fn own_claim<'s>(drive: &Drive, device: &'s Seen, site: &Site) -> Option<&'s Claim> {
    let claim = device.claim().ok().flatten()?;
    (claim.drive_id == id(drive) && claim.cluster_id == site.cluster_id).then_some(claim)
}

/// Whether the claim on it is still that of the cluster that the drive moves here from.
fn claim_is_to_move(drive: &Drive, device: &Seen, site: &Site) -> bool {
    let claim = device.claim().ok().flatten();
    claim.is_some_and(|claim| {
        claim.drive_id == id(drive)
            && claim.cluster_id != site.cluster_id
            && drive.spec.adopt_from.as_ref() == Some(&claim.cluster_id)
            && claim.state == ClaimState::Formatted
    })
}

fn own_preparing_claim<'s>(drive: &Drive, device: &'s Seen, site: &Site) -> Option<&'s Claim> {
    own_claim(drive, device, site)
        .filter(|claim| claim.state == ClaimState::Preparing && is_of(claim, drive))
}

fn names(devices: &[Arc<Seen>]) -> String {
    let names: Vec<&str> = devices
        .iter()
        .map(|seen| seen.facts.name.as_str())
        .collect();
    names.join(", ")
}

/// Of a drive that is missed: under which other name it is back (kernel-notes/37), or that it is not.
fn lost(drive: &Drive, seen: &Observed) -> String {
    let device = &drive.spec.device;
    let name = match device.name.as_str() {
        "" => String::new(),
        name => format!(", {name} when it was discovered"),
    };
    let (identity, size) = (&device.fingerprint.identity, Bytes(device.size_bytes));
    match &seen.left_out {
        Some(there) => format!("{there} has identity {identity}, and --devices leaves it out"),
        None => format!("no device with identity {identity} ({size}{name}) is on the node"),
    }
}

fn other_identity(drive: &Drive, device: &Seen) -> Plan {
    let (there, named) = (
        &device.fingerprint.identity,
        &drive.spec.device.fingerprint.identity,
    );
    let message = format!(
        "{} bears this drive, but its identity is {there}, not {named}; kubectl ringpv accept, if that is meant",
        device.facts.name
    );
    let phase = if was_in_use(drive) {
        DrivePhase::Lost
    } else {
        DrivePhase::Failed
    };
    stand(phase, Reason::FingerprintChanged, message)
}

fn stand(phase: DrivePhase, reason: Reason, message: impl Into<String>) -> Plan {
    Plan::Stand(Standing {
        phase,
        reason,
        message: message.into(),
    })
}

/// Nothing is done. A drive that was in use is lost to its users until that changes; another has failed.
fn refused(drive: &Drive, reason: Reason, message: impl Into<String>) -> Plan {
    stand(refused_phase(drive), reason, message)
}

/// The phase of a drive that cannot be used.
#[must_use]
pub fn refused_phase(drive: &Drive) -> DrivePhase {
    match (is_deleting(drive), was_in_use(drive)) {
        (true, _) => DrivePhase::Removing,
        (false, true) => DrivePhase::Lost,
        (false, false) => DrivePhase::Failed,
    }
}

#[cfg(test)]
#[expect(
    clippy::too_many_lines,
    reason = "a table has as many lines as it has rows"
)]
mod moving_tests;
#[cfg(test)]
#[expect(
    clippy::too_many_lines,
    reason = "a table has as many lines as it has rows"
)]
mod removal_tests;
#[cfg(test)]
#[expect(
    clippy::too_many_lines,
    reason = "a table has as many lines as it has rows"
)]
mod repair_tests;
#[cfg(test)]
mod secure_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
#[expect(
    clippy::too_many_lines,
    reason = "a table has as many lines as it has rows"
)]
mod tests;
