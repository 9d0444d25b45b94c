//! `adopt`: what is on devices but not in the API is brought back. A device that bears a drive of this cluster gets its
//! Drive object again; a drive of another cluster only with `--from-cluster` and that cluster's id; then every volume
//! that the drives hold without an object gets its Volume again, from its own record, and with `--pv-class` its
//! PersistentVolume. Nothing on a device is erased.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::drive::{DeviceClaim, Erase};
use api::names::{ANNOTATION_GUESSED_TIER, LABEL_NODE, LABEL_PREFIX, cluster_tag};
use api::storage_node::{HeldDrive, Orphan};
use api::{Device, Drive, DriveSpec, Reason, StorageNode, Volume};
use clap::Args;
use kube::ResourceExt as _;
use serde_json::{Value, json};

use crate::advice::{self, Hint, Refusal, Stop};
use crate::args::{DryRun, Wait};
use crate::change::{self, Change};
use crate::discover::{Use, devices_of};
use crate::init::wait;
use crate::orphans::{self, Left, volume_of};
use crate::persistent_volumes;
use crate::progress::{End, follow};
use crate::select::{Names, device_name, nothing, short};
use crate::session::{Inventory, Session};

/// How long the records of freshly mounted drives are waited for.
const RECORDS_TIMEOUT: Duration = Duration::from_secs(15);

/// Flags of `adopt`.
#[derive(Debug, Args)]
pub(crate) struct AdoptArgs {
    /// Ids of drives that devices bear, or their first digits
    #[arg(value_name = "DRIVE")]
    ids: Vec<String>,
    /// On these nodes, such as node-{1...4}
    #[arg(short, long, value_name = "NODE", value_delimiter = ',')]
    node: Vec<String>,
    /// On these devices, such as nvme{0...3}n1
    #[arg(short, long, value_name = "DEVICE", value_delimiter = ',')]
    drive: Vec<String>,
    /// All that can be adopted
    #[arg(long)]
    all: bool,
    /// Take over drives of another cluster, by its id as discover shows it
    #[arg(long, value_name = "ID")]
    from_cluster: Option<String>,
    /// Make PersistentVolumes as well, of this StorageClass ('' for none), each for the claim that its volume was made for
    #[arg(long, value_name = "CLASS")]
    pv_class: Option<String>,
    #[command(flatten)]
    dry_run: DryRun,
    #[command(flatten)]
    wait: Wait,
}

/// A device that bears a drive without an object.
struct Found {
    node: String,
    device: Device,
    held: HeldDrive,
    /// The cluster that it is taken from.
    adopt_from: Option<String>,
}

impl Found {
    fn label(&self) -> String {
        format!("{} on {}", self.device.name, self.node)
    }
}

/// Runs `adopt`.
pub(crate) async fn run(session: &mut Session, args: &AdoptArgs) -> Result<(), Stop> {
    if args.ids.is_empty() && args.node.is_empty() && args.drive.is_empty() && !args.all {
        return Err(Stop::Usage(
            "say what to adopt: ids of drives, --node, --drive or --all".to_owned(),
        ));
    }
    let inventory = session.inventory().await?;
    let found = find(args, &inventory.nodes)?;
    let (found, refused) = allowed(found, args.from_cluster.as_deref());
    if !refused.is_empty() && (!args.all || found.is_empty()) {
        return Err(Stop::Refused(refused));
    }
    for line in advice::list(&refused, "") {
        session.screen.note(line)?;
    }
    let known: BTreeSet<_> = inventory.drives.iter().map(|d| d.name_any()).collect();
    let drives: Vec<_> = found
        .iter()
        .filter(|f| !known.contains(&f.held.id))
        .map(drive_of)
        .collect();
    let ids: BTreeSet<_> = found.iter().map(|f| f.held.id.clone()).collect();
    let orphans = left(args, &inventory.nodes, &ids)?;
    let waiting = guessed(&inventory.drives);
    if drives.is_empty() && orphans.is_empty() && waiting.is_empty() && args.pv_class.is_none() {
        return Err(Stop::refused(
            Refusal::new(Reason::NothingMatched, "")
                .detail("no device bears a drive without an object, and no volume is without one")
                .next("kubectl ringpv discover --all"),
        ));
    }
    if args.dry_run.dry_run {
        return would(session, &found, orphans);
    }
    let made = create_drives(session, drives).await?;
    if !made.is_empty() {
        wait::until_ready(
            session,
            &made,
            Vec::new(),
            &args.wait,
            "kubectl ringpv adopt --all",
        )
        .await?;
    }
    let waiting: BTreeSet<_> = waiting.into_iter().chain(guessed(&made)).collect();
    if !waiting.is_empty() && !args.wait.no_wait {
        learn_said(session, args, &waiting).await?;
    }
    let adopted: BTreeSet<_> = made.iter().map(|d| d.name_any()).collect();
    let orphans = if adopted.is_empty() || args.wait.no_wait {
        orphans
    } else {
        await_records(session, args, &ids, &adopted).await?
    };
    let (orphans, refused) = readable(orphans);
    create_volumes(session, &orphans).await?;
    if let Some(class) = &args.pv_class {
        create_persistent_volumes(session, args, class).await?;
    }
    if refused.is_empty() {
        return Ok(());
    }
    Err(Stop::Refused(refused))
}

fn readable(orphans: Vec<Left>) -> (Vec<Left>, Vec<Refusal>) {
    orphans::apart(orphans, |_| {
        "kubectl ringpv adopt DRIVE brings back what is on that drive alone".to_owned()
    })
}

/// What a dry run says.
fn would(session: &mut Session, found: &[Found], orphans: Vec<Left>) -> Result<(), Stop> {
    for found in found {
        session.screen.line(format!(
            "drive {} ({}) would be adopted",
            short(&found.held.id),
            found.label()
        ))?;
    }
    let (orphans, refused) = readable(orphans);
    for (_, orphan) in orphans {
        session
            .screen
            .line(format!("volume {} would be adopted", orphan.volume))?;
    }
    for line in advice::list(&refused, "") {
        session.screen.note(line)?;
    }
    session.hint(&Hint::DryRun)
}

/// Devices that bear a drive without an object, among those meant.
fn find(args: &AdoptArgs, nodes: &[StorageNode]) -> Result<Vec<Found>, Stop> {
    let (node_names, devices) = (
        Names::new(&args.node, "--node")?,
        Names::new(&args.drive, "--drive")?,
    );
    let meant = |held: &HeldDrive| {
        args.ids.is_empty() || args.ids.iter().any(|id| held.id.starts_with(id.as_str()))
    };
    let mut found = Vec::new();
    for node in nodes.iter().filter(|n| node_names.matches(&n.name_any())) {
        for device in devices_of(node).iter().filter(|d| devices.matches(&d.name)) {
            if let (Use::Adopt | Use::Foreign, Some(held)) = (Use::of(device), &device.holds_drive)
                && meant(held)
            {
                found.push(Found {
                    node: node.name_any(),
                    device: device.clone(),
                    held: held.clone(),
                    adopt_from: None,
                });
            }
        }
    }
    if !args.ids.is_empty() && found.is_empty() && left(args, nodes, &BTreeSet::new())?.is_empty() {
        return Err(nothing("drive"));
    }
    Ok(found)
}

/// Apart: what may be adopted, and the drives of other clusters that nobody asked for by their cluster's id.
fn allowed(found: Vec<Found>, from_cluster: Option<&str>) -> (Vec<Found>, Vec<Refusal>) {
    let (mut may, mut refused) = (Vec::new(), Vec::new());
    for mut found in found {
        let theirs = found.held.cluster_id.clone();
        let named = |id: &str| id == theirs || (!theirs.is_empty() && id == cluster_tag(&theirs));
        let refusal = Refusal::new(Reason::ForeignCluster, found.label());
        match from_cluster {
            _ if Use::of(&found.device) != Use::Foreign => may.push(found),
            Some(id) if named(id) => {
                found.adopt_from = Some(theirs);
                may.push(found);
            }
            Some(id) => {
                let detail = format!("its drive is of the cluster {theirs}, not of {id}");
                refused.push(refusal.detail(detail));
            }
            None => {
                let detail =
                    format!("its drive is of the cluster {theirs}; there it would be missed");
                let next = format!("if it is meant to move here: --from-cluster {theirs}");
                refused.push(refusal.detail(detail).next(next));
            }
        }
    }
    (may, refused)
}

/// The object for a drive that a device bears, as a person last had it where its record tells.
fn drive_of(found: &Found) -> Drive {
    let mut drive = Drive::new(
        &found.held.id,
        DriveSpec {
            node: found.node.clone(),
            device: DeviceClaim {
                fingerprint: found.device.fingerprint.clone(),
                name: found.device.name.clone(),
                size_bytes: found.device.size_bytes,
            },
            access_tier: found.held.access_tier.unwrap_or(found.device.proposed_tier),
            cordoned: false,
            suspended: false,
            erase: Erase::default(),
            gate: None,
            repair: None,
            force: false,
            adopt_from: found.adopt_from.clone(),
            removal: None,
        },
    );
    if found.held.access_tier.is_none() {
        drive.annotations_mut().insert(
            ANNOTATION_GUESSED_TIER.to_owned(),
            found.device.proposed_tier.to_string(),
        );
    }
    let theirs = found.held.labels.iter();
    let theirs = theirs.filter(|(key, _)| !key.starts_with(LABEL_PREFIX));
    drive
        .labels_mut()
        .extend(theirs.map(|(key, value)| (key.clone(), value.clone())));
    drive
        .labels_mut()
        .insert(LABEL_NODE.to_owned(), found.node.clone());
    drive
}

/// Volumes without an object, among those meant: on the drives that are adopted, or that are there already.
fn left(
    args: &AdoptArgs,
    nodes: &[StorageNode],
    adopted: &BTreeSet<String>,
) -> Result<Vec<Left>, Stop> {
    let names = Names::new(&args.node, "--node")?;
    let is_meant = |orphan: &Orphan| {
        adopted.contains(&orphan.drive)
            || args
                .ids
                .iter()
                .any(|id| orphan.drive.starts_with(id.as_str()))
            || (args.ids.is_empty() && args.drive.is_empty())
    };
    let mut orphans = Vec::new();
    for node in nodes.iter().filter(|n| names.matches(&n.name_any())) {
        let here = node
            .status
            .iter()
            .flat_map(|s| &s.orphans)
            .filter(|o| is_meant(o));
        orphans.extend(here.map(|o| (node.name_any(), o.clone())));
    }
    Ok(orphans)
}

async fn create_drives(session: &mut Session, drives: Vec<Drive>) -> Result<Vec<Drive>, Stop> {
    let api = session.api::<Drive>().await?;
    let mut made = Vec::new();
    for drive in drives {
        match api.create(&change::post(), &drive).await {
            Ok(drive) => made.push(drive),
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                session.screen.note(Refusal::new(
                    Reason::AlreadyInitialized,
                    wait::label(&drive),
                ))?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(made)
}

/// Ids of the drives whose tier was only guessed, as nobody could read their records yet.
fn guessed(drives: &[Drive]) -> BTreeSet<String> {
    let is_guess = |drive: &&Drive| drive.annotations().contains_key(ANNOTATION_GUESSED_TIER);
    drives
        .iter()
        .filter(is_guess)
        .map(|drive| drive.name_any())
        .collect()
}

/// Waits until the agents have read the records of freshly mounted drives, and has their Drives say what the records do.
/// What was not told in time is told to the next `adopt`; till then the records stay as they are.
async fn learn_said(
    session: &mut Session,
    args: &AdoptArgs,
    ids: &BTreeSet<String>,
) -> Result<(), Stop> {
    let api = session.api::<StorageNode>().await?;
    let mut told = BTreeMap::new();
    follow(api, args.wait.timeout.min(RECORDS_TIMEOUT), |nodes| {
        let held = nodes
            .values()
            .flat_map(devices_of)
            .filter_map(|device| device.holds_drive.as_ref());
        told = held
            .filter(|held| ids.contains(&held.id) && held.access_tier.is_some())
            .map(|held| (held.id.clone(), held.clone()))
            .collect();
        Ok(told.len() == ids.len())
    })
    .await?;
    let drives = session.inventory().await?.drives;
    let changes = drives.into_iter().filter_map(|drive| {
        let held = told.get(&drive.name_any())?;
        Some(Change {
            label: wait::label(&drive),
            patch: Some(as_recorded(&drive, held)),
            object: drive,
        })
    });
    change::all(session, changes.collect(), "as its record has it", false).await
}

/// The patch that has a Drive say what its record does. What a person said of it meanwhile stands.
fn as_recorded(drive: &Drive, held: &HeldDrive) -> Value {
    let guess = drive.annotations().get(ANNOTATION_GUESSED_TIER);
    let labels: BTreeMap<_, _> = held
        .labels
        .iter()
        .filter(|(key, _)| !key.starts_with(LABEL_PREFIX) && !drive.labels().contains_key(*key))
        .collect();
    let metadata = json!({
        "annotations": { ANNOTATION_GUESSED_TIER: null },
        "labels": labels,
    });
    match held.access_tier {
        Some(tier) if guess == Some(&drive.spec.access_tier.to_string()) => {
            json!({ "metadata": metadata, "spec": { "accessTier": tier } })
        }
        Some(_) | None => json!({ "metadata": metadata }),
    }
}

/// Waits until the agents have told which volumes the adopted drives hold. A drive that holds none says nothing, so
/// the wait is short.
async fn await_records(
    session: &mut Session,
    args: &AdoptArgs,
    ids: &BTreeSet<String>,
    adopted: &BTreeSet<String>,
) -> Result<Vec<Left>, Stop> {
    let api = session.api::<StorageNode>().await?;
    let mut last = Vec::new();
    let end = follow(api, args.wait.timeout.min(RECORDS_TIMEOUT), |nodes| {
        let nodes: Vec<_> = nodes.values().cloned().collect();
        last = left(args, &nodes, ids)?;
        let told: BTreeSet<_> = last.iter().map(|(_, o)| o.drive.clone()).collect();
        Ok(adopted.is_subset(&told))
    })
    .await?;
    if end == End::Left {
        session.hint(&Hint::GoesOn {
            command: "kubectl ringpv adopt --all".to_owned(),
        })?;
    }
    Ok(last)
}

/// Makes a PersistentVolume for each volume meant that none names.
async fn create_persistent_volumes(
    session: &mut Session,
    args: &AdoptArgs,
    class: &str,
) -> Result<(), Stop> {
    let Inventory {
        drives, volumes, ..
    } = session.inventory().await?;
    let (nodes, devices) = (
        Names::new(&args.node, "--node")?,
        Names::new(&args.drive, "--drive")?,
    );
    let meant = |volume: &&Volume| {
        let id = volume.spec.drive.as_deref().unwrap_or_default();
        let drive = drives.iter().find(|drive| drive.name_any() == id);
        nodes.matches(&volume.spec.node)
            && drive.is_some_and(|drive| devices.matches(device_name(drive)))
            && (args.ids.is_empty() || args.ids.iter().any(|typed| id.starts_with(typed.as_str())))
    };
    let meant: Vec<&Volume> = volumes.iter().filter(meant).collect();
    persistent_volumes::make(session, &meant, class).await
}

async fn create_volumes(session: &mut Session, orphans: &[Left]) -> Result<(), Stop> {
    let api = session.api::<Volume>().await?;
    for (node, orphan) in orphans {
        match api.create(&change::post(), &volume_of(node, orphan)).await {
            Ok(_) => session
                .screen
                .line(format!("volume {} adopted", orphan.volume))?,
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                session
                    .screen
                    .note(format!("volume {} has an object meanwhile", orphan.volume))?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use api::{AccessTier, DrivePhase};

    #[test]
    fn a_guess_gives_way_to_the_record_and_not_to_a_persons_word() {
        let held = HeldDrive {
            id: "d1".to_owned(),
            cluster_id: "c".to_owned(),
            volumes: 0,
            access_tier: Some(AccessTier::Cold),
            labels: BTreeMap::from([
                ("rack".to_owned(), "3".to_owned()),
                (LABEL_NODE.to_owned(), "another".to_owned()),
            ]),
        };
        let mut drive = testing::drive("d1", "n1", "nvme0n1", DrivePhase::Ready);
        let guess = drive.spec.access_tier.to_string();
        drive
            .annotations_mut()
            .insert(ANNOTATION_GUESSED_TIER.to_owned(), guess);
        let patch = |drive: &Drive| as_recorded(drive, &held);
        let forget = json!({ ANNOTATION_GUESSED_TIER: null });
        assert_eq!(
            patch(&drive),
            json!({
                "metadata": { "annotations": forget, "labels": { "rack": "3" } },
                "spec": { "accessTier": "Cold" },
            })
        );
        drive.spec.access_tier = AccessTier::Warm;
        drive.labels_mut().insert("rack".to_owned(), "4".to_owned());
        assert_eq!(
            patch(&drive),
            json!({ "metadata": { "annotations": forget, "labels": {} } })
        );
    }

    #[test]
    fn a_drive_comes_back_as_its_record_has_it() {
        let case = |tier, labels: &[(&str, &str)]| {
            let mut device = testing::device("nvme0n1");
            device.proposed_tier = AccessTier::Hot;
            let labels = labels
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect();
            let held = HeldDrive {
                id: "1a2b3c4d-0000-8000-8000-000000000001".to_owned(),
                cluster_id: "c".to_owned(),
                volumes: 0,
                access_tier: tier,
                labels,
            };
            let drive = drive_of(&Found {
                node: "n1".to_owned(),
                device,
                held,
                adopt_from: None,
            });
            let guessed = drive.annotations().contains_key(ANNOTATION_GUESSED_TIER);
            assert_eq!(guessed, tier.is_none());
            (drive.spec.access_tier, drive.labels().clone())
        };
        let node = || (LABEL_NODE.to_owned(), "n1".to_owned());
        let (tier, labels) = case(None, &[]);
        assert_eq!((tier, labels), (AccessTier::Hot, BTreeMap::from([node()])));
        let recorded = [("rack", "3"), (LABEL_NODE, "another")];
        let (tier, labels) = case(Some(AccessTier::Cold), &recorded);
        assert_eq!(tier, AccessTier::Cold);
        let rack = ("rack".to_owned(), "3".to_owned());
        assert_eq!(labels, BTreeMap::from([rack, node()]));
    }
}
