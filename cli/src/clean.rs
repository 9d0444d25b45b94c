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

use crate::advice::{Hint, Refusal, Stop, all_or_refused};
use crate::args::{Confirm, DryRun};
use crate::change;
use crate::confirm::{self, Target};
use crate::orphans::{apart, volume_of};
use crate::persistent_volumes::Claimed;
use crate::select::short;
use crate::session::{Inventory, Session};

/// Flags of `clean`.
#[derive(Debug, Args)]
pub(crate) struct CleanArgs {
    /// Names of volumes, whole
    #[arg(value_name = "VOLUME", required = true)]
    names: Vec<String>,
    /// What is on this drive alone, where several hold data of one name: its id, or its first digits
    #[arg(short, long, value_name = "DRIVE")]
    drive: Option<String>,
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
    /// The same on a drive that was named, for there are others of its name.
    OnDrive(String, Box<Orphan>),
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
            Self::Orphan(node, o) | Self::OnDrive(node, o) => (
                o.volume.clone(),
                node,
                Some(o.drive.clone()),
                o.capacity_bytes,
            ),
        };
        let word = match self {
            Self::Object(_) | Self::Orphan(..) => name.clone(),
            Self::OnDrive(_, o) => format!("{}/{name}", o.drive),
        };
        let drive = drive.as_deref().map_or("no drive", short);
        Target {
            name: format!("volume {name}"),
            loses: format!(
                "its data, up to {}, on drive {drive} of {node}",
                Bytes(bytes)
            ),
            word,
        }
    }
}

/// Runs `clean`.
pub(crate) async fn run(session: &mut Session, args: &CleanArgs) -> Result<(), Stop> {
    let inventory = session.inventory().await?;
    let claimed = Claimed::ask(session).await?.unwrap_or_default();
    let asked = args.names.iter().map(|name| {
        let found = find(name, args.drive.as_deref(), &inventory)?;
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
            Waste::Orphan(node, orphan) | Waste::OnDrive(node, orphan) => {
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

/// What a name means, on a drive if one is named.
fn find(name: &str, drive: Option<&str>, inventory: &Inventory) -> Result<Waste, Refusal> {
    let is_there = |id: &str| drive.is_none_or(|drive| id.starts_with(drive));
    if let Some(volume) = inventory.volumes.iter().find(|v| v.name_any() == name) {
        let of_object = volume.spec.drive.as_deref().unwrap_or_default();
        if !is_there(of_object) {
            return Err(
                Refusal::new(Reason::VolumeConflict, format!("volume {name}"))
                    .detail(format!(
                        "the volume of that name is on drive {}",
                        short(of_object)
                    ))
                    .next("what another drive has of it can be cleaned once that volume is gone"),
            );
        }
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
    let of_node = |node: &StorageNode| {
        let orphans = node.status.clone().unwrap_or_default().orphans;
        let node = node.name_any();
        orphans.into_iter().map(move |o| (node.clone(), o))
    };
    let named = inventory.nodes.iter().flat_map(of_node);
    let named: Vec<_> = named.filter(|(_, o)| o.volume == name).collect();
    let several = named.len() > 1;
    let meant = named.into_iter().filter(|(_, o)| is_there(&o.drive));
    let (may, refused) = apart(meant, |name| {
        format!("kubectl ringpv clean {name} --drive DRIVE destroys what is on that drive alone")
    });
    if let Some(refusal) = refused.into_iter().next() {
        return Err(refusal);
    }
    match may.into_iter().next() {
        Some((node, orphan)) if several => Ok(Waste::OnDrive(node, Box::new(orphan))),
        Some((node, orphan)) => Ok(Waste::Orphan(node, Box::new(orphan))),
        None => Err(Refusal::new(Reason::VolumeNotFound, name)
            .detail("there is neither a volume nor an orphan of that name")),
    }
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

#[cfg(test)]
mod tests {
    use api::DrivePhase;

    use super::*;
    use crate::testing;

    fn with_orphans(orphans: &[(&str, &str, &str)], volumes: Vec<Volume>) -> Inventory {
        let mut inventory = Inventory {
            drives: vec![testing::drive("d1", "n1", "nvme0n1", DrivePhase::Ready)],
            volumes,
            ..Inventory::default()
        };
        for node in ["n1", "n2"] {
            let mut node = testing::node(node, vec![]);
            let here = orphans.iter().filter(|(on, ..)| *on == node.name_any());
            let here = here.map(|(_, volume, drive)| testing::orphan(volume, drive));
            node.status.get_or_insert_default().orphans = here.collect();
            inventory.nodes.push(node);
        }
        inventory
    }

    #[test]
    fn of_two_copies_the_drive_is_named_and_confirmed() {
        let inventory = with_orphans(
            &[("n1", "v", "d1"), ("n2", "v", "d2"), ("n2", "w", "d2")],
            vec![],
        );
        let refused = find("v", None, &inventory).unwrap_err();
        assert_eq!(refused.reason, Reason::AmbiguousName);
        let one = find("v", Some("d2"), &inventory).unwrap().target();
        assert_eq!(one.word, "d2/v");
        let lone = find("w", None, &inventory).unwrap().target();
        assert_eq!(lone.word, "w");
        let refused = find("v", Some("d3"), &inventory).unwrap_err();
        assert_eq!(refused.reason, Reason::VolumeNotFound);
    }

    #[test]
    fn a_volume_is_not_meant_by_another_drives_copy() {
        let volume = testing::volume("v", "n1", "d1", 1 << 20);
        let inventory = with_orphans(&[("n2", "v", "d2")], vec![volume]);
        let refused = find("v", Some("d2"), &inventory).unwrap_err();
        assert_eq!(refused.reason, Reason::VolumeConflict);
        let found = find("v", None, &inventory).unwrap();
        assert!(matches!(found, Waste::Object(_)));
    }
}
