//! `clean VOLUME`: destroys, by name, volumes that nobody uses any more: those that have an object, and those of which
//! only the directory on the drive is left (orphans). Setting `spec.release` is the only word that permits destruction;
//! an orphan gets its object again for it, so that there is one way and no other. What a PersistentVolume still names is
//! refused: a claim counts on it, though no pod runs.

use api::storage_node::Orphan;
use api::{Bytes, Reason, StorageNode, Volume};
use clap::Args;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::adopt::volume_of;
use crate::advice::{Hint, Refusal, Stop, all_or_refused};
use crate::args::{Confirm, DryRun};
use crate::change;
use crate::confirm::{self, Target};
use crate::persistent_volumes::Claimed;
use crate::select::short;
use crate::session::{Inventory, Session};

/// Flags of `clean`.
#[derive(Debug, Args)]
pub(crate) struct CleanArgs {
    /// Names of volumes, whole
    #[arg(value_name = "VOLUME", required = true)]
    names: Vec<String>,
    #[command(flatten)]
    confirm: Confirm,
    #[command(flatten)]
    dry_run: DryRun,
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq)]
enum Waste {
    Object(Box<Volume>),
    Orphan(String, Box<Orphan>),
}

impl Waste {
    fn target(&self) -> Target {
        let (name, node, drive, bytes) = match self {
            Self::Object(v) => (
                v.name_any(),
                &v.spec.node,
                v.spec.drive.clone(),
                v.spec.capacity_bytes,
            ),
            Self::Orphan(node, o) => (
                o.volume.clone(),
                node,
                Some(o.drive.clone()),
                o.capacity_bytes,
            ),
        };
        let drive = drive.as_deref().map_or("no drive", short);
        Target {
            name: format!("volume {name}"),
            loses: format!(
                "its data, up to {}, on drive {drive} of {node}",
                Bytes(bytes)
            ),
            word: name,
        }
    }
}

/// Runs `clean`.
pub(crate) async fn run(session: &mut Session, args: &CleanArgs) -> Result<(), Stop> {
    let inventory = session.inventory().await?;
    let claimed = Claimed::ask(session).await?.unwrap_or_default();
    let asked = args.names.iter().map(|name| {
        let found = find(name, &inventory)?;
        claimed.refusal(name).map_or(Ok(found), Err)
    });
    let waste = all_or_refused(asked)?;
    let targets: Vec<_> = waste.iter().map(Waste::target).collect();
    if args.dry_run.dry_run {
        for target in targets {
            session.screen.line(format!(
                "{} would be destroyed with {}",
                target.name, target.loses
            ))?;
        }
        return session.hint(&Hint::DryRun);
    }
    confirm::confirm(
        &mut session.screen,
        &targets,
        args.confirm.words(),
        "Cleaning",
    )?;
    let api = session.api::<Volume>().await?;
    for (waste, target) in waste.into_iter().zip(targets) {
        let volume = match waste {
            Waste::Object(volume) => *volume,
            Waste::Orphan(node, orphan) => {
                api.create(&PostParams::default(), &volume_of(&node, &orphan))
                    .await?
            }
        };
        release(&api, &volume).await?;
        session.screen.line(format!(
            "{} released; its data are being removed",
            target.name
        ))?;
    }
    Ok(())
}

fn find(name: &str, inventory: &Inventory) -> Result<Waste, Refusal> {
    if let Some(volume) = inventory.volumes.iter().find(|v| v.name_any() == name) {
        let targets = volume.status.iter().flat_map(|s| &s.targets);
        let paths: Vec<_> = targets.map(|t| t.path.as_str()).collect();
        if !paths.is_empty() {
            return Err(
                Refusal::new(Reason::StillPublished, format!("volume {name}"))
                    .detail(format!("it is mounted at {}", paths.join(", "))),
            );
        }
        return Ok(Waste::Object(Box::new(volume.clone())));
    }
    let orphans = |node: &StorageNode| node.status.clone().unwrap_or_default().orphans;
    let found = inventory.nodes.iter().find_map(|node| {
        let orphan = orphans(node).into_iter().find(|o| o.volume == name)?;
        Some(Waste::Orphan(node.name_any(), Box::new(orphan)))
    });
    found.ok_or_else(|| {
        Refusal::new(Reason::VolumeNotFound, name)
            .detail("there is neither a volume nor an orphan of that name")
    })
}

/// Permits destruction of the very volume that was looked at, then deletes its object.
async fn release(api: &Api<Volume>, volume: &Volume) -> Result<(), Stop> {
    let released = change::patch(api, volume, json!({"spec": {"release": true}})).await?;
    let parameters = DeleteParams {
        preconditions: Some(Preconditions {
            uid: released.uid(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    api.delete(&released.name_any(), &parameters).await?;
    Ok(())
}
