//! `repair DRIVE`: has xfs_repair look over the file systems of drives that are suspended, and tells what it came to.

use std::collections::{BTreeMap, BTreeSet};

use api::drive::{REPAIR_PHASES, Repair, RepairMode, RepairOutcome, RepairReport};
use api::{Drive, DrivePhase, Reason};
use clap::Args;
use jiff::Timestamp;
use kube::ResourceExt as _;
use serde_json::json;

use crate::advice::{Hint, Refusal, Stop};
use crate::args::{Confirm, DryRun, Wait};
use crate::change;
use crate::confirm::{self, Target};
use crate::init::wait;
use crate::progress::{Board, End, follow};
use crate::screen::Screen;
use crate::select::{DriveArgs, drive_label, short};
use crate::session::Session;

/// Flags of `repair`.
#[derive(Debug, Args)]
pub(crate) struct RepairArgs {
    #[command(flatten)]
    drives: DriveArgs,
    /// Look only, and write nothing
    #[arg(long, conflicts_with = "zero_log")]
    check: bool,
    /// Zero a log that the kernel cannot replay; what was changed last is lost with it
    #[arg(long)]
    zero_log: bool,
    #[command(flatten)]
    confirm: Confirm,
    #[command(flatten)]
    dry_run: DryRun,
    #[command(flatten)]
    wait: Wait,
}

impl RepairArgs {
    fn mode(&self) -> RepairMode {
        match (self.check, self.zero_log) {
            (true, _) => RepairMode::Check,
            (false, true) => RepairMode::ZeroLog,
            (false, false) => RepairMode::Repair,
        }
    }
}

/// Runs `repair`.
pub(crate) async fn run(session: &mut Session, args: &RepairArgs) -> Result<(), Stop> {
    let mode = args.mode();
    if mode.writes() && args.drives.ids.is_empty() {
        return Err(Stop::Usage(
            "a repair takes its drives by id, one by one; --check takes them in any way".to_owned(),
        ));
    }
    let drives: Vec<Drive> = session.all().await?;
    let drives = args.drives.pick(&drives)?;
    let refusals: Vec<Refusal> = drives.iter().filter_map(refusal).collect();
    if !refusals.is_empty() {
        return Err(Stop::Refused(refusals));
    }
    if args.dry_run.dry_run {
        let fate = if mode.writes() { "repaired" } else { "checked" };
        for drive in &drives {
            let label = drive_label(drive);
            session.screen.line(format!("{label} would be {fate}"))?;
        }
        return session.hint(&Hint::DryRun);
    }
    if mode.writes() {
        let targets: Vec<Target> = drives.iter().map(|drive| target(drive, mode)).collect();
        let words = args.confirm.words();
        confirm::confirm(&mut session.screen, &targets, words, "Repairing")?;
    }
    let id = Timestamp::now().to_string();
    let wanted = Repair {
        id: id.clone(),
        mode,
    };
    let api = session.api::<Drive>().await?;
    for drive in &drives {
        let word = json!({"spec": {"repair": wanted}});
        change::patch_despite_reports(&api, drive, word).await?;
    }
    until_done(session, &drives, &id, args.wait).await
}

/// Why a drive's file system is not to be looked over now.
fn refusal(drive: &Drive) -> Option<Refusal> {
    let label = drive_label(drive);
    let id = drive.name_any();
    let phase = drive.status.as_ref().map(|status| status.phase);
    match phase.unwrap_or_default() {
        DrivePhase::Pending | DrivePhase::Preparing | DrivePhase::Failed | DrivePhase::Removing => {
            let detail = format!(
                "it is {:?}, and has no file system to repair",
                phase.unwrap_or_default()
            );
            Some(
                Refusal::new(Reason::NotReady, label)
                    .detail(detail)
                    .next("kubectl ringpv list drives"),
            )
        }
        DrivePhase::Ready
        | DrivePhase::ReadOnly
        | DrivePhase::Failing
        | DrivePhase::Lost
        | DrivePhase::Repairing => (!drive.spec.suspended).then(|| {
            Refusal::new(Reason::NotSuspended, label).next(format!(
                "kubectl ringpv suspend drives {}, then end the pods that use it",
                short(&id)
            ))
        }),
    }
}

fn target(drive: &Drive, mode: RepairMode) -> Target {
    let loses = match mode {
        RepairMode::ZeroLog => {
            "what was changed last and is in its log alone, and what is damaged beyond repair"
        }
        RepairMode::Check | RepairMode::Repair => {
            "what of it is damaged beyond repair; files without a name go to lost+found"
        }
    };
    Target {
        name: drive_label(drive),
        loses: loses.to_owned(),
        word: drive.spec.device.fingerprint.to_string(),
    }
}

/// What the run that was asked for came to, once it has ended.
fn report<'d>(drive: &'d Drive, id: &str) -> Option<&'d RepairReport> {
    let report = drive.status.as_ref()?.repair.as_ref()?;
    (report.id == id).then_some(report)
}

async fn until_done(
    session: &mut Session,
    drives: &[Drive],
    id: &str,
    wait: Wait,
) -> Result<(), Stop> {
    let goes_on = Hint::GoesOn {
        command: "kubectl ringpv list drives".to_owned(),
    };
    if wait.no_wait {
        return session.hint(&goes_on);
    }
    let labels: Vec<_> = drives
        .iter()
        .map(|d| (d.name_any(), wait::label(d)))
        .collect();
    let mut board = Board::new(&session.screen, &labels);
    let api = session.api::<Drive>().await?;
    let screen = &mut session.screen;
    let mut last = BTreeMap::new();
    // How a drive stood before it was asked for says nothing of what came of it, unless it was begun meanwhile.
    let stale: BTreeMap<_, _> = drives
        .iter()
        .map(|d| (d.name_any(), wait::standing(d)))
        .collect();
    let mut begun = BTreeSet::new();
    let end = follow(api, wait.timeout, |all: &BTreeMap<String, Drive>| {
        for (name, _) in &labels {
            let drive = all.get(name);
            if let Some(drive) = drive {
                show(&mut board, screen, drive, id)?;
                if wait::standing(drive).0 == DrivePhase::Repairing {
                    begun.insert(name.clone());
                }
            }
            last.insert(name.clone(), drive.cloned());
        }
        let over = |(name, drive): (&String, &Option<Drive>)| {
            drive.as_ref().is_none_or(|drive| {
                let anew = begun.contains(name) || stale.get(name) != Some(&wait::standing(drive));
                report(drive, id).is_some() || (anew && is_refused(drive))
            })
        };
        Ok(last.iter().all(over))
    })
    .await;
    board.finish();
    let mut failed = Vec::new();
    for (name, label) in &labels {
        let drive = last.get(name).and_then(Option::as_ref);
        let done = drive.and_then(|drive| Some((drive, report(drive, id)?)));
        match (drive, done) {
            (_, Some((drive, report))) => failed.extend(tell(&mut session.screen, drive, report)?),
            (Some(drive), None) => failed.push(unfinished(drive, label)),
            (None, _) => failed.push(
                Refusal::new(Reason::DriveNotFound, label)
                    .detail("the drive was removed meanwhile"),
            ),
        }
    }
    if end? != End::Done {
        session.hint(&goes_on)?;
    }
    if failed.is_empty() {
        let ids: Vec<String> = drives
            .iter()
            .map(|d| short(&d.name_any()).to_owned())
            .collect();
        return session.hint(&Hint::ResumeNext {
            drives: ids.join(" "),
        });
    }
    Err(Stop::FailedFor(failed))
}

fn show(board: &mut Board, screen: &mut Screen, drive: &Drive, id: &str) -> Result<(), Stop> {
    let name = drive.name_any();
    if let Some(report) = report(drive, id) {
        return board.show(screen, &name, 100, &format!("{:?}", report.outcome), "");
    }
    let status = drive.status.clone().unwrap_or_default();
    let phase = status
        .progress
        .and_then(|progress| progress.phase)
        .unwrap_or(0);
    let percent = phase.saturating_sub(1) * 100 / REPAIR_PHASES;
    let step = match (status.phase, phase) {
        (DrivePhase::Repairing, 1..) => format!("phase {phase} of {REPAIR_PHASES}"),
        (phase, _) => format!("{phase:?}"),
    };
    board.show(screen, &name, percent, &step, &status.message)
}

/// Says what a run came to; a refusal where that is not well.
fn tell(
    screen: &mut Screen,
    drive: &Drive,
    report: &RepairReport,
) -> Result<Option<Refusal>, Stop> {
    let label = drive_label(drive);
    if report.outcome != RepairOutcome::Clean {
        for line in report.log.lines() {
            screen.note(format!("  {line}"))?;
        }
    }
    let meaning = format!("its file system {}", report.outcome.meaning());
    if report.outcome.is_well() {
        screen.line(format!("{label}: {meaning}"))?;
        return Ok(None);
    }
    let id = drive.name_any();
    let id = short(&id);
    let next = match report.outcome {
        RepairOutcome::Damaged => format!("kubectl ringpv repair {id}"),
        RepairOutcome::DirtyLog => format!(
            "kubectl ringpv repair {id} --zero-log, which loses what was changed last; look at the kernel log before"
        ),
        RepairOutcome::Clean | RepairOutcome::Repaired | RepairOutcome::Failed => {
            "look at the lines above and at the node's kernel log; kubectl ringpv move takes its volumes to another drive, empty".to_owned()
        }
    };
    let refusal = Refusal::new(Reason::FilesystemDamaged, label);
    Ok(Some(refusal.detail(meaning).next(next)))
}

/// Whether the agent does not, or cannot, do what was asked.
fn is_refused(drive: &Drive) -> bool {
    let (phase, reason, _) = wait::standing(drive);
    let refused = [
        Reason::IdMismatch,
        Reason::RepairFailed,
        Reason::FingerprintChanged,
    ];
    phase != DrivePhase::Repairing && reason.is_some_and(|reason| refused.contains(&reason))
}

/// A run that was not made in time: why the agent could not, or that it goes on.
fn unfinished(drive: &Drive, label: &str) -> Refusal {
    let (_, reason, message) = wait::standing(drive);
    match reason {
        None | Some(Reason::Repairing | Reason::Ready) => {
            Refusal::new(Reason::TimedOut, label).detail(message)
        }
        Some(_) => wait::why(drive, label),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn suspended(phase: DrivePhase) -> Drive {
        let mut drive = testing::drive("1a2b3c4d-0", "n1", "loop1", phase);
        drive.spec.suspended = true;
        drive
    }

    #[test]
    fn only_a_suspended_drive_with_a_file_system_is_repaired() {
        for phase in DrivePhase::ALL {
            let has_one = matches!(
                phase,
                DrivePhase::Ready
                    | DrivePhase::ReadOnly
                    | DrivePhase::Failing
                    | DrivePhase::Lost
                    | DrivePhase::Repairing
            );
            let drive = suspended(phase);
            assert_eq!(refusal(&drive).is_none(), has_one, "{phase:?}");
            let mut used = drive;
            used.spec.suspended = false;
            let wanted = if has_one {
                Reason::NotSuspended
            } else {
                Reason::NotReady
            };
            assert_eq!(refusal(&used).unwrap().reason, wanted, "{phase:?}");
        }
    }

    #[test]
    fn what_a_run_came_to_leads_on() {
        let said = |outcome| {
            let report = RepairReport {
                id: "1".to_owned(),
                mode: RepairMode::Repair,
                outcome,
                log: "Phase 1\n".to_owned(),
                at: api::testing::noon(),
            };
            let mut screen = Screen::to(std::io::sink(), std::io::sink(), None);
            tell(&mut screen, &suspended(DrivePhase::Ready), &report).unwrap()
        };
        assert_eq!(said(RepairOutcome::Clean), None);
        assert_eq!(said(RepairOutcome::Repaired), None);
        for (outcome, next) in [
            (RepairOutcome::Damaged, "kubectl ringpv repair 1a2b3c4d"),
            (RepairOutcome::DirtyLog, "--zero-log"),
            (RepairOutcome::Failed, "kernel log"),
        ] {
            let text = said(outcome).unwrap().to_string();
            assert!(
                text.starts_with("FilesystemDamaged: drive 1a2b3c4d"),
                "{text}"
            );
            assert!(text.contains(next), "{text}");
        }
    }
}
