//! `cordon` and `uncordon`: whether new volumes are placed on a drive. Those that are there stay.

use api::Drive;
use clap::Args;
use serde_json::json;

use crate::advice::Stop;
use crate::args::DryRun;
use crate::change::{self, Change};
use crate::select::{DriveArgs, drive_label};
use crate::session::Session;

/// Flags of `cordon` and `uncordon`.
#[derive(Debug, Args)]
pub(crate) struct CordonArgs {
    #[command(flatten)]
    drives: DriveArgs,
    #[command(flatten)]
    dry_run: DryRun,
}

/// Runs either.
pub(crate) async fn run(
    session: &mut Session,
    args: &CordonArgs,
    cordoned: bool,
) -> Result<(), Stop> {
    let drives: Vec<Drive> = session.all().await?;
    let changes = args.drives.pick(&drives)?.into_iter().map(|drive| Change {
        label: drive_label(&drive),
        patch: (drive.spec.cordoned != cordoned).then(|| json!({"spec": {"cordoned": cordoned}})),
        object: drive,
    });
    let done = if cordoned { "cordoned" } else { "uncordoned" };
    change::all(session, changes.collect(), done, args.dry_run.dry_run).await
}
