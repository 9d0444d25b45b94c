//! `drives access-tier set|unset`: what a class asks for with `access-tier`. It changes where new volumes go, never
//! where the ones that are there lie.

use api::{AccessTier, Drive};
use clap::{Args, Subcommand};
use serde_json::json;

use crate::advice::Stop;
use crate::args::DryRun;
use crate::change::{self, Change};
use crate::select::{DriveArgs, drive_label};
use crate::session::Session;

/// Verbs of `drives`.
#[derive(Debug, Subcommand)]
pub(crate) enum DrivesVerb {
    /// Set or unset the access tier
    #[command(subcommand)]
    AccessTier(TierVerb),
}

/// Verbs of `drives access-tier`.
#[derive(Debug, Subcommand)]
pub(crate) enum TierVerb {
    /// Say that drives are Hot, Warm or Cold
    Set(SetArgs),
    /// Say nothing: back to Default
    Unset(UnsetArgs),
}

/// Flags of `access-tier set`.
#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// hot, warm or cold
    #[arg(value_name = "TIER")]
    to: AccessTier,
    #[command(flatten)]
    drives: DriveArgs,
    #[command(flatten)]
    dry_run: DryRun,
}

/// Flags of `access-tier unset`.
#[derive(Debug, Args)]
pub(crate) struct UnsetArgs {
    #[command(flatten)]
    drives: DriveArgs,
    #[command(flatten)]
    dry_run: DryRun,
}

/// Runs `drives`.
pub(crate) async fn run(session: &mut Session, verb: &DrivesVerb) -> Result<(), Stop> {
    let DrivesVerb::AccessTier(verb) = verb;
    match verb {
        TierVerb::Set(args) => set(session, args.to, &args.drives, args.dry_run).await,
        TierVerb::Unset(args) => {
            set(session, AccessTier::Default, &args.drives, args.dry_run).await
        }
    }
}

async fn set(
    session: &mut Session,
    tier: AccessTier,
    pick: &DriveArgs,
    dry_run: DryRun,
) -> Result<(), Stop> {
    let drives: Vec<Drive> = session.all().await?;
    let changes = pick.pick(&drives)?.into_iter().map(|drive| Change {
        label: drive_label(&drive),
        patch: (drive.spec.access_tier != tier).then(|| json!({"spec": {"accessTier": tier}})),
        object: drive,
    });
    change::all(
        session,
        changes.collect(),
        &format!("of tier {tier}"),
        dry_run.dry_run,
    )
    .await
}
