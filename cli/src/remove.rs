//! `remove DRIVE`: lets drives go. Without `--erase` their file systems stay as they are and `adopt` brings them back;
//! with it what is on them is destroyed, after the fingerprint of each. A drive that holds volumes is not removed.

use std::collections::BTreeMap;

use api::drive::{Erase, EraseMethod, EraseVerify, ErasedProof, Removal, Step};
use api::{Drive, DrivePhase, Reason, Volume};
use clap::Args;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, Preconditions};
use serde_json::json;

use crate::advice::{Hint, Refusal, Stop};
use crate::args::{Confirm, DryRun, Wait};
use crate::change;
use crate::confirm::{self, Target};
use crate::init::wait;
use crate::progress::{Board, End, follow};
use crate::select::{DriveArgs, drive_label};
use crate::session::Session;
use crate::view::counted;

/// Names that a refusal lists.
const NAMED_MAX: usize = 5;

/// Flags of `remove`.
#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    #[command(flatten)]
    drives: DriveArgs,
    /// Destroy what is on them; only for drives given by id
    #[arg(long)]
    erase: bool,
    /// How it is erased: auto, signatures, zero, or by the drive itself: format, sanitize
    #[arg(
        long,
        value_name = "METHOD",
        requires = "erase",
        default_value = "auto"
    )]
    method: EraseMethod,
    #[command(flatten)]
    confirm: Confirm,
    #[command(flatten)]
    dry_run: DryRun,
    #[command(flatten)]
    wait: Wait,
}

/// Runs `remove`.
pub(crate) async fn run(session: &mut Session, args: &RemoveArgs) -> Result<(), Stop> {
    if args.erase && args.drives.ids.is_empty() {
        return Err(Stop::Usage(
            "--erase takes its drives by id, one by one".to_owned(),
        ));
    }
    let inventory = session.inventory().await?;
    let drives = args.drives.pick(&inventory.drives)?;
    let refusals = in_use(&drives, &inventory.volumes);
    if !refusals.is_empty() {
        return Err(Stop::Refused(refusals));
    }
    let fate = if args.erase {
        "removed and erased"
    } else {
        "removed; its file system stays"
    };
    if args.dry_run.dry_run {
        for drive in &drives {
            session
                .screen
                .line(format!("{} would be {fate}", drive_label(drive)))?;
        }
        return session.hint(&Hint::DryRun);
    }
    if args.erase {
        let targets: Vec<_> = drives.iter().map(target).collect();
        confirm::confirm(
            &mut session.screen,
            &targets,
            args.confirm.words(),
            "Erasing",
        )?;
    }
    let api = session.api::<Drive>().await?;
    for drive in &drives {
        let mut drive = drive.clone();
        if args.erase {
            let removal = Removal {
                erase: Erase {
                    method: args.method,
                    verify: EraseVerify::Sample,
                },
            };
            // What is said of it is what the word was checked against; what an agent reports meanwhile is not, and before it
            // erases anything the agent looks whether volumes are on it.
            let word = json!({"spec": {"removal": removal}});
            drive = change::patch_despite_reports(&api, &drive, word).await?;
        } else if drive.spec.removal.is_some() {
            // The latest word counts: it was to be erased, and is to be let go as it is.
            let word = json!({"spec": {"removal": null}});
            drive = change::patch_despite_reports(&api, &drive, word).await?;
        }
        delete(&api, &drive).await?;
    }
    until_gone(session, &drives, args, fate).await
}

/// A refusal for each drive that holds volumes.
fn in_use(drives: &[Drive], volumes: &[Volume]) -> Vec<Refusal> {
    let refusals = drives.iter().filter_map(|drive| {
        let id = drive.name_any();
        let here: Vec<_> = volumes
            .iter()
            .filter(|v| v.spec.drive.as_ref() == Some(&id))
            .map(|v| v.name_any())
            .collect();
        let (count, named) = (
            here.len(),
            here.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>(),
        );
        let more = if count > NAMED_MAX { ", …" } else { "" };
        (count > 0).then(|| {
            Refusal::new(Reason::DriveInUse, drive_label(drive))
                .detail(format!(
                    "{} on it: {}{more}",
                    counted(count, "volume"),
                    named.join(", ")
                ))
                .next("kubectl ringpv volumes delete NAME, for each that is not needed")
        })
    });
    refusals.collect()
}

fn target(drive: &Drive) -> Target {
    Target {
        name: drive_label(drive),
        loses: "everything on it, with all volumes' leftovers and orphans".to_owned(),
        word: drive.spec.device.fingerprint.to_string(),
    }
}

/// Deletes the very object that was looked at, not a later one of its name.
async fn delete(api: &kube::Api<Drive>, drive: &Drive) -> Result<(), Stop> {
    let parameters = DeleteParams {
        preconditions: Some(Preconditions {
            uid: drive.uid(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match api.delete(&drive.name_any(), &parameters).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn until_gone(
    session: &mut Session,
    drives: &[Drive],
    args: &RemoveArgs,
    fate: &str,
) -> Result<(), Stop> {
    let goes_on = Hint::GoesOn {
        command: "kubectl ringpv list drives".to_owned(),
    };
    if args.wait.no_wait {
        return session.hint(&goes_on);
    }
    let uids: BTreeMap<_, _> = drives.iter().map(|d| (d.name_any(), d.uid())).collect();
    let labels: Vec<_> = drives
        .iter()
        .map(|d| (d.name_any(), wait::label(d)))
        .collect();
    let mut board = Board::new(&session.screen, &labels);
    let api = session.api::<Drive>().await?;
    let screen = &mut session.screen;
    let mut left = BTreeMap::new();
    // How a drive stood before it was asked for says nothing of what it was asked.
    let stale: BTreeMap<_, _> = drives
        .iter()
        .map(|d| (d.name_any(), wait::standing(d)))
        .collect();
    let mut proofs = BTreeMap::new();
    let end = follow(api, args.wait.timeout, |all: &BTreeMap<String, Drive>| {
        left.clear();
        for (name, uid) in &uids {
            match all.get(name).filter(|d| d.uid() == *uid) {
                Some(drive) => {
                    left.insert(name.clone(), drive.clone());
                    if let Some(erased) = proof(drive, args.erase) {
                        proofs.insert(name.clone(), format!(": {erased}"));
                    }
                    let (percent, step, detail) = wait::progress(drive);
                    board.show(screen, name, percent.min(99), &step, &detail)?;
                }
                None => board.show(screen, name, 100, "Gone", "")?,
            }
        }
        let rests = |(name, drive): (&String, &Drive)| {
            wait::needs_a_person(drive) && stale.get(name) != Some(&wait::standing(drive))
        };
        Ok(left.iter().all(rests))
    })
    .await;
    board.finish();
    for drive in drives.iter().filter(|d| !left.contains_key(&d.name_any())) {
        let proof = proofs.get(&drive.name_any()).map_or("", String::as_str);
        session
            .screen
            .line(format!("{} {fate}{proof}", drive_label(drive)))?;
    }
    let end = end?;
    if left.is_empty() {
        return Ok(());
    }
    let left = labels
        .iter()
        .filter_map(|(name, label)| Some((left.get(name)?, label)));
    if end == End::Done {
        let refused = left.map(|(drive, label)| {
            let again = format!(
                "kubectl ringpv remove {} lets it go as it is; --erase --method asks for another way",
                drive.name_any()
            );
            wait::why(drive, label).next(again)
        });
        return Err(Stop::FailedFor(refused.collect()));
    }
    session.hint(&goes_on)?;
    let late = left.map(|(_, label)| Refusal::new(Reason::TimedOut, label));
    Err(Stop::FailedFor(late.collect()))
}

/// How it was erased with its removal, as far as that was seen before its object went. What it says before the removal
/// erases is of its preparation.
fn proof(drive: &Drive, erases: bool) -> Option<ErasedProof> {
    let status = drive.status.as_ref().filter(|_| erases)?;
    let step = status.progress.as_ref()?.step;
    let removing = status.phase == DrivePhase::Removing && step == Step::Verify;
    let erased = status.erased.clone().filter(|_| removing)?;
    (erased.verified_bytes > 0).then_some(erased)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_drive_with_volumes_is_not_removed() {
        let drive = testing::drive("1a2b3c4d-0", "n1", "loop1", DrivePhase::Ready);
        let on = |name: &str, drive: &str| testing::volume(name, "n1", drive, 1);
        assert!(in_use(std::slice::from_ref(&drive), &[on("a", "other")]).is_empty());
        let volumes: Vec<_> = (0..7).map(|n| on(&format!("v{n}"), "1a2b3c4d-0")).collect();
        let refusals = in_use(&[drive], &volumes);
        assert_eq!(refusals[0].reason, Reason::DriveInUse);
        assert!(
            refusals[0]
                .detail
                .contains("7 volumes on it: v0, v1, v2, v3, v4, …")
        );
    }
}
