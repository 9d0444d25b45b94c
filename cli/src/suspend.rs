//! `suspend` and `resume`: whether drives and volumes are used. Nothing is destroyed and nothing is torn away: what is
//! mounted stays until its pod goes; a pod that comes gets an empty, read-only stand-in. A suspended drive takes no new
//! volumes either, and its preparation rests.

use api::drive::Repair;
use api::{Drive, Volume};
use clap::{Args, Subcommand};
use kube::ResourceExt as _;
use serde_json::{Value, json};

use crate::advice::{Hint, Stop};
use crate::args::DryRun;
use crate::change::{self, Change};
use crate::list::volumes::VolumeArgs;
use crate::select::{DriveArgs, drive_label};
use crate::session::Session;

/// What can be suspended and resumed.
#[derive(Debug, Subcommand)]
pub(crate) enum SuspendVerb {
    /// Drives, with all volumes on them
    #[command(visible_alias = "drive")]
    Drives(SuspendDrives),
    /// Volumes
    #[command(visible_alias = "volume")]
    Volumes(SuspendVolumes),
}

/// Flags for drives.
#[derive(Debug, Args)]
pub(crate) struct SuspendDrives {
    #[command(flatten)]
    drives: DriveArgs,
    #[command(flatten)]
    dry_run: DryRun,
}

/// Flags for volumes.
#[derive(Debug, Args)]
pub(crate) struct SuspendVolumes {
    #[command(flatten)]
    volumes: VolumeArgs,
    #[command(flatten)]
    dry_run: DryRun,
}

/// Runs either.
pub(crate) async fn run(
    session: &mut Session,
    verb: &SuspendVerb,
    suspended: bool,
) -> Result<(), Stop> {
    let done = if suspended { "suspended" } else { "resumed" };
    let (what, dry_run) = match verb {
        SuspendVerb::Drives(args) => {
            let drives: Vec<Drive> = session.all().await?;
            let picked = args.drives.pick(&drives)?.into_iter();
            let changes = picked.map(|drive| Change {
                label: drive_label(&drive),
                patch: drive_patch(&drive, suspended),
                object: drive,
            });
            change::all(session, changes.collect(), done, args.dry_run.dry_run).await?;
            ("drives", args.dry_run)
        }
        SuspendVerb::Volumes(args) => {
            let inventory = session.inventory().await?;
            let picked = args.volumes.pick(&inventory.volumes, &inventory.drives)?;
            let changes = picked.into_iter().map(|volume: Volume| Change {
                label: format!("volume {}", volume.name_any()),
                patch: patch(volume.spec.suspended, suspended),
                object: volume,
            });
            change::all(session, changes.collect(), done, args.dry_run.dry_run).await?;
            ("volumes", args.dry_run)
        }
    };
    if suspended && !dry_run.dry_run {
        session.hint(&Hint::Suspended { what })?;
    }
    Ok(())
}

/// A repair that was asked for and not made yet is none any more, once the drive is resumed.
fn drive_patch(drive: &Drive, suspended: bool) -> Option<Value> {
    let status = drive.status.as_ref();
    let done = status.and_then(|status| status.repair.as_ref());
    let waits = |repair: &Repair| done.is_none_or(|done| done.id != repair.id);
    let mut patch = patch(drive.spec.suspended, suspended)?;
    if !suspended && drive.spec.repair.as_ref().is_some_and(waits) {
        patch = json!({"spec": {"suspended": false, "repair": null}});
    }
    Some(patch)
}

fn patch(now: bool, suspended: bool) -> Option<Value> {
    (now != suspended).then(|| json!({"spec": {"suspended": suspended}}))
}
