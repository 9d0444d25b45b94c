//! `accept DRIVE`: tells a lost drive where its device is now, after it was moved to another slot or host. The device
//! must bear the drive's own file system; the API server refuses the change unless the drive is Lost. A drive with
//! volumes stays with its node: theirs never changes.

use api::{Device, Drive, DrivePhase, Reason, Volume};
use clap::Args;
use kube::ResourceExt as _;
use serde_json::json;

use crate::advice::{Refusal, Stop};
use crate::args::DryRun;
use crate::change::{self, Change};
use crate::discover::devices_of;
use crate::select::{by_names, drive_label};
use crate::session::{Inventory, Session};
use crate::view::counted;

/// Flags of `accept`.
#[derive(Debug, Args)]
pub(crate) struct AcceptArgs {
    /// Id of the drive, or its first digits
    #[arg(value_name = "DRIVE")]
    drive: String,
    /// Node that the device is in now [else wherever a device bears the drive]
    #[arg(short, long, value_name = "NODE")]
    node: Option<String>,
    /// The device [else the one that bears the drive]
    #[arg(short, long, value_name = "DEVICE")]
    device: Option<String>,
    #[command(flatten)]
    dry_run: DryRun,
}

/// Runs `accept`.
pub(crate) async fn run(session: &mut Session, args: &AcceptArgs) -> Result<(), Stop> {
    let inventory = session.inventory().await?;
    let names = by_names(
        std::slice::from_ref(&args.drive),
        inventory.drives.iter().map(|d| d.name_any()),
        "drive",
    )?;
    let Some(drive) = inventory
        .drives
        .iter()
        .find(|d| names.contains(&d.name_any()))
    else {
        return Err(crate::select::nothing("drive"));
    };
    let (node, device) = decide(args, drive, &inventory).map_err(Stop::refused)?;
    let change = Change {
        label: drive_label(drive),
        object: drive.clone(),
        patch: Some(json!({"spec": {"node": node, "device": {
            "fingerprint": device.fingerprint,
            "name": device.name,
            "sizeBytes": device.size_bytes,
        }}, "metadata": {"labels": {api::names::LABEL_NODE: node}}})),
    };
    let done = format!("accepted as {} on {node}", device.name);
    change::all(session, vec![change], &done, args.dry_run.dry_run).await
}

/// Where the drive's device is: the one device that bears its file system, among those meant.
fn decide(
    args: &AcceptArgs,
    drive: &Drive,
    inventory: &Inventory,
) -> Result<(String, Device), Refusal> {
    let label = drive_label(drive);
    let phase = drive.status.as_ref().map(|s| s.phase).unwrap_or_default();
    if phase != DrivePhase::Lost {
        return Err(Refusal::new(Reason::InvalidArgument, label)
            .detail(format!(
                "it is {phase:?}, not Lost: its device is where it was"
            ))
            .next("kubectl ringpv list drives --status lost"));
    }
    let wanted = args
        .device
        .as_deref()
        .map(|d| d.trim_start_matches("/dev/"));
    let places = inventory
        .nodes
        .iter()
        .filter(|n| args.node.as_ref().is_none_or(|x| *x == n.name_any()));
    let mut meant: Vec<(String, &Device)> = Vec::new();
    for node in places {
        let here = devices_of(node)
            .iter()
            .filter(|d| wanted.is_none_or(|w| d.name == w));
        meant.extend(here.map(|d| (node.name_any(), d)));
    }
    let id = drive.name_any();
    let on_it = |volume: &&Volume| volume.spec.drive.as_ref() == Some(&id);
    let here: Vec<_> = inventory.volumes.iter().filter(on_it).collect();
    let bears = |d: &Device| d.holds_drive.as_ref().is_some_and(|h| h.id == id);
    let bearing: Vec<_> = meant.iter().filter(|(_, d)| bears(d)).collect();
    match bearing.as_slice() {
        [(node, _)] if *node != drive.spec.node && !here.is_empty() => {
            // A volume never changes its node, nor does the PersistentVolume that names it.
            let (old, id) = (&drive.spec.node, drive.name_any());
            Err(Refusal::new(Reason::DriveInUse, label)
                .detail(format!(
                    "its device is in {node} now, and {} on it, whose node stays {old}",
                    counted(here.len(), "volume")
                ))
                .next(format!(
                    "put the device back into {old}; or, for it to stay in {node}: kubectl ringpv forget --drive {id}, then kubectl ringpv adopt {id}"
                )))
        }
        [(node, device)] => Ok((node.clone(), (*device).clone())),
        [] if meant.is_empty() => Err(Refusal::new(Reason::DeviceNotFound, label)),
        [] => Err(Refusal::new(Reason::IdMismatch, label)
            .detail("no such device bears this drive's file system; data do not come back by pointing elsewhere")
            .next("kubectl ringpv discover --all; a drive whose device is truly gone: kubectl ringpv remove")),
        several => {
            let places: Vec<_> = several.iter().map(|(n, d)| format!("{} on {n}", d.name)).collect();
            Err(Refusal::new(Reason::DuplicateDriveId, label)
                .detail(format!("{} bear it", places.join(" and "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use api::storage_node::HeldDrive;

    const ID: &str = "1a2b3c4d-0000-8000-8000-000000000001";

    fn bearing(name: &str) -> Device {
        let mut device = testing::device(name);
        device.holds_drive = Some(HeldDrive {
            id: ID.to_owned(),
            cluster_id: "c".to_owned(),
            volumes: 1,
            access_tier: None,
            labels: std::collections::BTreeMap::new(),
        });
        device
    }

    #[test]
    fn only_a_device_that_bears_the_drive() {
        let lost = testing::drive(ID, "n1", "nvme0n1", DrivePhase::Lost);
        let case = |devices: Vec<Device>, device: Option<&str>, drive: &Drive| {
            let args = AcceptArgs {
                drive: ID.to_owned(),
                node: None,
                device: device.map(str::to_owned),
                dry_run: DryRun::default(),
            };
            let inventory = Inventory {
                nodes: vec![testing::node("n2", devices)],
                ..Inventory::default()
            };
            decide(&args, drive, &inventory)
                .map(|(_, d)| d.name)
                .map_err(|r| r.reason)
        };
        let blank = || testing::device("nvme1n1");
        let here = || bearing("nvme2n1");
        assert_eq!(
            case(vec![blank(), here()], None, &lost),
            Ok("nvme2n1".to_owned())
        );
        assert_eq!(
            case(vec![here()], Some("/dev/nvme2n1"), &lost),
            Ok("nvme2n1".to_owned())
        );
        assert_eq!(
            case(vec![blank(), here()], Some("nvme1n1"), &lost),
            Err(Reason::IdMismatch)
        );
        assert_eq!(
            case(vec![here(), bearing("nvme3n1")], None, &lost),
            Err(Reason::DuplicateDriveId)
        );
        assert_eq!(
            case(vec![here()], Some("sda"), &lost),
            Err(Reason::DeviceNotFound)
        );
        let inventory = Inventory {
            nodes: vec![testing::node("n2", vec![here()])],
            volumes: vec![testing::volume("v", "n1", ID, 1)],
            ..Inventory::default()
        };
        let args = AcceptArgs {
            drive: ID.to_owned(),
            node: None,
            device: None,
            dry_run: DryRun::default(),
        };
        let refusal = decide(&args, &lost, &inventory).unwrap_err();
        assert_eq!(refusal.reason, Reason::DriveInUse, "its volume stays on n1");
        assert!(refusal.next.unwrap().contains("forget --drive"));
        let ready = testing::drive(ID, "n1", "nvme0n1", DrivePhase::Ready);
        assert_eq!(
            case(vec![here()], None, &ready),
            Err(Reason::InvalidArgument)
        );
    }
}
