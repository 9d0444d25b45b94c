//! Waiting for drives to become ready, with the progress of all of them.

use std::collections::{BTreeMap, BTreeSet};

use api::drive::Step;
use api::{Bytes, Drive, DrivePhase, Reason};
use kube::ResourceExt as _;

use crate::advice::{Hint, Refusal, Stop};
use crate::args::Wait;
use crate::progress::{Board, End, follow};
use crate::screen::Tone;
use crate::select::{device_name, short};
use crate::session::Session;

/// A drive as people point at it: `loop10 on node-1`.
pub(crate) fn label(drive: &Drive) -> String {
    format!("{} on {}", device_name(drive), drive.spec.node)
}

/// Where a drive stands: percent of all, the step, its particulars.
pub(crate) fn progress(drive: &Drive) -> (u32, String, String) {
    let Some(status) = &drive.status else {
        return (0, "Pending".to_owned(), String::new());
    };
    let why = || match status.reason {
        Some(reason) if status.message.is_empty() => format!("{reason}: {}", reason.meaning()),
        Some(reason) => format!("{reason}: {}", status.message),
        None => status.message.clone(),
    };
    match (status.phase, &status.progress) {
        (DrivePhase::Ready, _) => (100, "Ready".to_owned(), String::new()),
        (DrivePhase::Removing, _) if needs_a_person(drive) => (0, "Refused".to_owned(), why()),
        (DrivePhase::Preparing | DrivePhase::Removing, Some(progress)) => {
            let (from, to) = span(progress.step);
            let done = u128::from(progress.done_bytes.min(progress.total_bytes));
            let of = u128::from(progress.total_bytes.max(1));
            let within = u32::try_from(u128::from(to - from) * done / of).unwrap_or(0);
            let detail = match progress.total_bytes {
                0 => String::new(),
                total => format!("{} of {}", Bytes(progress.done_bytes), Bytes(total)),
            };
            let step = match status.reason {
                Some(Reason::Suspended) => format!("{:?}, suspended", progress.step),
                Some(_) | None => format!("{:?}", progress.step),
            };
            (from + within, step, detail)
        }
        (phase, _) => (0, format!("{phase:?}"), why()),
    }
}

/// From which percent of the whole to which a step goes. Erasing is what takes time.
const fn span(step: Step) -> (u32, u32) {
    match step {
        Step::Check => (0, 3),
        Step::Claim => (3, 5),
        Step::Gate => (5, 25),
        Step::SecureErase => (25, 30),
        Step::Erase => (30, 70),
        Step::Verify => (70, 80),
        Step::Format => (80, 88),
        Step::Mount => (88, 90),
        Step::Record => (90, 100),
        Step::Unmount => (0, 25),
        Step::Repair => (0, 100),
    }
}

/// Waits until each drive is ready or failed. Drives in `stale` were changed since they were looked at: how they stood
/// then says nothing. `again` is the command that waits once more.
pub(crate) async fn until_ready(
    session: &mut Session,
    drives: &[Drive],
    stale: Vec<Drive>,
    wait: &Wait,
    again: &str,
) -> Result<(), Stop> {
    let goes_on = Hint::GoesOn {
        command: again.to_owned(),
    };
    if wait.no_wait {
        return session.hint(&goes_on);
    }
    let labels: Vec<_> = drives.iter().map(|d| (d.name_any(), label(d))).collect();
    let names: BTreeSet<_> = drives.iter().map(|d| d.name_any()).collect();
    let mut board = Board::new(&session.screen, &labels);
    let mut stale: BTreeMap<_, _> = stale.iter().map(|d| (d.name_any(), standing(d))).collect();
    let mut last = BTreeMap::new();
    let api = session.api::<Drive>().await?;
    let screen = &mut session.screen;
    let end = follow(api, wait.timeout, |all: &BTreeMap<String, Drive>| {
        last = names
            .iter()
            .map(|n| (n.clone(), all.get(n).cloned()))
            .collect();
        stale.retain(|name, then| {
            let drive = all.get(name);
            drive.is_some_and(|drive| standing(drive) == *then)
        });
        for (name, _) in &labels {
            if let Some(Some(drive)) = last.get(name) {
                let (percent, step, detail) = progress(drive);
                board.show(screen, name, percent, &step, &detail)?;
            }
        }
        Ok(stale.is_empty() && last.values().all(|d| d.as_ref().is_none_or(settled)))
    })
    .await;
    board.finish();
    if end? == End::Done {
        return conclude(session, &labels, &last);
    }
    session.hint(&goes_on)?;
    let left = labels
        .iter()
        .filter(|(name, _)| !matches!(last.get(name), Some(Some(d)) if settled(d)));
    let refusals = left.map(|(_, label)| Refusal::new(Reason::TimedOut, label).next(again));
    Err(Stop::FailedFor(refusals.collect()))
}

/// How a sentence names what a person may type.
const COMMAND: &str = "kubectl ringpv ";

/// Whether a removal rests until somebody changes something: it does not go on by itself.
pub(crate) fn needs_a_person(drive: &Drive) -> bool {
    let (phase, reason, _) = standing(drive);
    phase == DrivePhase::Removing
        && matches!(
            reason,
            Some(
                Reason::EraseUnsupported
                    | Reason::FingerprintChanged
                    | Reason::ClaimConflict
                    | Reason::ForeignCluster
                    | Reason::DeviceNotFound
                    | Reason::DuplicateDriveId
                    | Reason::DuplicateIdentity
            )
        )
}

/// How a drive stands, as far as it shows whether that was said anew.
pub(crate) fn standing(drive: &Drive) -> (DrivePhase, Option<Reason>, String) {
    let status = drive.status.clone().unwrap_or_default();
    (status.phase, status.reason, status.message)
}

fn settled(drive: &Drive) -> bool {
    let phase = drive.status.as_ref().map(|s| s.phase).unwrap_or_default();
    !matches!(phase, DrivePhase::Pending | DrivePhase::Preparing)
}

fn conclude(
    session: &mut Session,
    labels: &[(String, String)],
    last: &BTreeMap<String, Option<Drive>>,
) -> Result<(), Stop> {
    let mut failed = Vec::new();
    for (name, label) in labels {
        match last.get(name) {
            Some(Some(drive)) if ready(drive) => {
                let word = session.screen.paint(Tone::Good, "ready");
                session
                    .screen
                    .line(format!("drive {} ({label}) {word}", short(name)))?;
            }
            Some(Some(drive)) => failed.push(why(drive, label)),
            Some(None) | None => {
                failed.push(
                    Refusal::new(Reason::DriveNotFound, label)
                        .detail("the drive was removed meanwhile"),
                );
            }
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(Stop::FailedFor(failed))
}

fn ready(drive: &Drive) -> bool {
    drive
        .status
        .as_ref()
        .is_some_and(|s| s.phase == DrivePhase::Ready)
}

/// Why a drive did not come to be as it was asked for. A sentence that ends with a command of its own is of this very case:
/// the reason's general advice would lead elsewhere.
pub(crate) fn why(drive: &Drive, label: &str) -> Refusal {
    let status = drive.status.clone().unwrap_or_default();
    let refusal = Refusal::new(status.reason.unwrap_or(Reason::Failing), label);
    match status.message.split_once(&format!("; {COMMAND}")) {
        Some((detail, next)) => refusal.detail(detail).next(format!("{COMMAND}{next}")),
        None => refusal.detail(status.message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(message: &str) -> String {
        let mut drive = api::testing::drive("d").build();
        let status = drive.status.get_or_insert_default();
        status.reason = Some(Reason::FingerprintChanged);
        status.message = message.to_owned();
        why(&drive, "nvme0n1").to_string()
    }

    #[test]
    fn the_step_of_the_case_comes_before_that_of_the_reason() {
        assert_eq!(
            said("its content is gpt; nothing was written; kubectl ringpv remove lets it go"),
            "FingerprintChanged: nvme0n1: its content is gpt; nothing was written\n  next: kubectl ringpv remove lets it go"
        );
        let general = said("its content is gpt; nothing was written");
        assert!(
            general.ends_with(Reason::FingerprintChanged.advice()),
            "{general}"
        );
    }
}
