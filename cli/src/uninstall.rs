//! `uninstall`: takes RingPV's programs out of a cluster. Drives, volumes and their objects stay, so that an installation
//! takes them up again. With `--dangerous` the objects go, too; even then no byte on any drive is touched, and `adopt`
//! brings them back.
//!
//! Objects go first, while agents are there to let their drives go in order; then the programs; then the definitions.
//! Nobody lets go what is on a silent node, or a volume on a Lost drive. So these are refused before anything is deleted.

use std::collections::BTreeSet;
use std::time::Duration;

use api::names::DRIVER;
use api::{Benchmark, Drive, DrivePhase, Reason, StorageNode, Volume};
use clap::Args;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt as _};
use tokio::time::{Instant, sleep};

use crate::advice::{Hint, Refusal, Remains, Stop};
use crate::args::{Confirm, DryRun, Wait};
use crate::confirm::{self, Target};
use crate::install::apply::Cluster;
use crate::install::manifests::{self, Object};
use crate::screen::Tone;
use crate::select::drive_label;
use crate::session::{Inventory, Session};
use crate::view::{self, Cell, Column, column, counted};

/// Flags of `uninstall`.
#[derive(Debug, Args)]
pub(crate) struct UninstallArgs {
    /// Remove all drive and volume objects, too, and the definitions of their kinds; the data stay on the drives
    #[arg(long)]
    dangerous: bool,
    #[command(flatten)]
    confirm: Confirm,
    #[command(flatten)]
    dry_run: DryRun,
    #[command(flatten)]
    wait: Wait,
}

/// A line of the table.
struct Gone {
    object: Object,
    was_there: bool,
}

/// The table's columns; of a dry run nothing is done.
fn columns(dry_run: bool) -> [Column<Gone>; 3] {
    [
        column("KIND", |gone: &Gone| Cell::text(gone.object.kind())),
        column("NAME", |gone| Cell::text(gone.object.name())),
        column(if dry_run { "WOULD BE" } else { "DONE" }, |gone| {
            if gone.was_there {
                Cell::text("deleted").toned(Tone::Good)
            } else {
                Cell::text("not there").toned(Tone::Dim)
            }
        }),
    ]
}

const LOOK_AGAIN: Duration = Duration::from_millis(300);

/// Runs `uninstall`.
pub(crate) async fn run(session: &mut Session, args: &UninstallArgs) -> Result<(), Stop> {
    let client = session.client().await?;
    let known = inventory(session).await?;
    let cluster = Cluster::new(client.clone(), args.dry_run.dry_run);
    if args.dangerous {
        let inventory = known.clone().unwrap_or_default();
        let refusals = refusals(&inventory);
        if !refusals.is_empty() {
            return Err(Stop::Refused(refusals));
        }
        let target = target(&client, &inventory).await?;
        if !args.dry_run.dry_run {
            confirm::confirm(
                &mut session.screen,
                &[target],
                args.confirm.words(),
                "Uninstalling",
            )?;
            if known.is_some() {
                remove_objects(session, args.wait.timeout).await?;
            }
        }
    }
    let mut objects = manifests::removable()?;
    if args.dangerous {
        objects.extend(manifests::definitions()?);
    }
    let mut gone = Vec::new();
    for object in objects {
        let was_there = cluster.delete(&object).await?;
        gone.push(Gone { object, was_there });
    }
    let columns = columns(args.dry_run.dry_run);
    let columns: Vec<_> = columns.iter().collect();
    view::table(&mut session.screen, &columns, &gone, false)?;
    if args.dry_run.dry_run {
        return session.hint(&Hint::DryRun);
    }
    if !args.wait.no_wait {
        namespace_is_gone(&client, args.wait.timeout).await?;
    }
    let Some(inventory) = known.filter(|_| !args.dangerous) else {
        return Ok(());
    };
    remains(session, &client, &inventory).await
}

/// Drives and volumes; `None` where their kinds are not known.
async fn inventory(session: &mut Session) -> Result<Option<Inventory>, Stop> {
    let drives = session.api::<Drive>().await?;
    match drives.list(&ListParams::default().limit(1)).await {
        Ok(_) => Ok(Some(session.inventory().await?)),
        Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn used(inventory: &Inventory) -> impl Iterator<Item = &Volume> {
    let volumes = inventory.volumes.iter();
    volumes.filter(|volume| {
        volume
            .status
            .as_ref()
            .is_some_and(|it| !it.targets.is_empty())
    })
}

/// Why the objects cannot go now: what nobody would let go, and what pods use. What is on a silent node is not named
/// beside it, for it goes with its node.
fn refusals(inventory: &Inventory) -> Vec<Refusal> {
    let unheard = unheard_nodes(inventory);
    let nodes = unheard.iter().map(|node| unheard_node(node, inventory));
    let drives = inventory.drives.iter();
    let drives = drives.filter(|drive| !unheard.contains(drive.spec.node.as_str()));
    let drives = drives.filter_map(|drive| lost_drive(drive, inventory));
    let volumes = used(inventory).filter(|it| !unheard.contains(it.spec.node.as_str()));
    nodes.chain(drives).chain(volumes.map(in_use)).collect()
}

/// Nodes with drives or volumes whose agents are not heard of. An agent that runs makes its node's object anew within a
/// minute; so where there is none, none runs.
fn unheard_nodes(inventory: &Inventory) -> BTreeSet<&str> {
    let silent = inventory.silent_nodes();
    let names = inventory.nodes.iter().map(|node| node.name_any());
    let heard: BTreeSet<_> = names.filter(|name| !silent.contains(name)).collect();
    let drives = inventory.drives.iter().map(|it| it.spec.node.as_str());
    let volumes = inventory.volumes.iter().map(|it| it.spec.node.as_str());
    let bearing = drives.chain(volumes);
    bearing.filter(|name| !heard.contains(*name)).collect()
}

fn unheard_node(name: &str, inventory: &Inventory) -> Refusal {
    let drives = inventory.drives.iter().filter(|it| it.spec.node == name);
    let volumes = inventory.volumes.iter().filter(|it| it.spec.node == name);
    Refusal::new(Reason::NodeSilent, format!("node {name}"))
        .detail(format!(
            "its agent is not heard of, and nobody else lets its {} and {} go; nothing was deleted",
            counted(drives.count(), "drive"),
            counted(volumes.count(), "volume"),
        ))
        .next(format!("kubectl ringpv forget {name}, then uninstall"))
}

/// A Lost drive that keeps its volumes. One that is being deleted lets them go.
fn lost_drive(drive: &Drive, inventory: &Inventory) -> Option<Refusal> {
    let phase = drive.status.as_ref().map(|s| s.phase).unwrap_or_default();
    if phase != DrivePhase::Lost || drive.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let id = drive.name_any();
    let volumes = inventory.volumes.iter();
    let volumes = volumes.filter(|volume| volume.spec.drive.as_ref() == Some(&id));
    let count = volumes.count();
    (count > 0).then(|| {
        Refusal::new(Reason::DriveLost, drive_label(drive))
            .detail(format!(
                "it is Lost, and what is on it ({}) is not let go while it may come back; nothing was deleted",
                counted(count, "volume")
            ))
            .next(format!("kubectl ringpv forget --drive {id}, then uninstall"))
    })
}

/// A volume in use would lose its object under its pod.
fn in_use(volume: &Volume) -> Refusal {
    Refusal::new(
        Reason::StillPublished,
        format!("volume {}", volume.name_any()),
    )
    .next("end the pods that use it, then uninstall")
}

/// What the word is asked for.
async fn target(client: &kube::Client, inventory: &Inventory) -> Result<Target, Stop> {
    let cluster = Api::<Namespace>::all(client.clone())
        .get("kube-system")
        .await?;
    let word = cluster.uid().unwrap_or_default();
    Ok(Target {
        name: "RingPV with all its objects".to_owned(),
        loses: format!(
            "the objects of {} and {} (the data stay on the drives, and adopt brings the objects back)",
            counted(inventory.drives.len(), "drive"),
            counted(inventory.volumes.len(), "volume"),
        ),
        word: word.split('-').next().unwrap_or_default().to_owned(),
    })
}

/// A kind of objects in its turn.
struct Turn {
    noun: &'static str,
    /// What has its turn later.
    later: &'static str,
}

/// An object that is there still.
struct Left {
    name: String,
    is_deleted: bool,
}

/// Lets all objects go, those that refer to others first. No release is set, so no data are destroyed.
async fn remove_objects(session: &mut Session, timeout: Duration) -> Result<(), Stop> {
    let end = Instant::now() + timeout;
    let turn = |noun, later| Turn { noun, later };
    let mut gone = Vec::new();
    let benchmarks = turn("benchmark", "volumes, drives, nodes, programs");
    gone.push(remove_all::<Benchmark>(session, end, &benchmarks, &gone).await?);
    let volumes = turn("volume", "drives, nodes, programs");
    gone.push(remove_all::<Volume>(session, end, &volumes, &gone).await?);
    let drives = turn("drive", "nodes, programs");
    gone.push(remove_all::<Drive>(session, end, &drives, &gone).await?);
    let nodes = turn("node", "programs");
    remove_all::<StorageNode>(session, end, &nodes, &gone).await?;
    Ok(())
}

/// Deletes all objects of a kind, and waits until they are gone. Says how many those were.
async fn remove_all<K>(
    session: &mut Session,
    end: Instant,
    turn: &Turn,
    gone: &[String],
) -> Result<String, Stop>
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let api = session.api::<K>().await?;
    let all = api.list(&ListParams::default()).await?.items;
    for object in &all {
        match api
            .delete(&object.name_any(), &DeleteParams::default())
            .await
        {
            Err(kube::Error::Api(answer)) if answer.code == 404 => {}
            other => drop(other?),
        }
    }
    loop {
        let left = api.list(&ListParams::default()).await?.items;
        // An agent that runs makes its node anew; the definition takes that along.
        if left.is_empty() || left.iter().all(|object| object.meta().finalizers.is_none()) {
            return Ok(counted(all.len(), turn.noun));
        }
        if Instant::now() > end {
            let left = left.iter().map(|object| Left {
                name: object.name_any(),
                is_deleted: object.meta().deletion_timestamp.is_some(),
            });
            let left: Vec<_> = left.collect();
            return Err(Stop::FailedFor(late(turn, gone, all.len(), &left)));
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// The time is over: what is gone, what was not begun, and each object that is waited for.
fn late(turn: &Turn, gone: &[String], asked: usize, left: &[Left]) -> Vec<Refusal> {
    let next = "see that the agents of their nodes run, then uninstall again";
    let waiting = left.iter().filter(|object| object.is_deleted).count();
    let here = counted(asked.saturating_sub(waiting), turn.noun);
    let gone: Vec<_> = gone.iter().map(String::as_str).chain([&*here]).collect();
    let whole = format!(
        "objects gone: {}; deleted, but there still: {}; not begun: {}; no data were removed by this",
        gone.join(", "),
        counted(waiting, turn.noun),
        turn.later,
    );
    let whole = Refusal::new(Reason::TimedOut, "uninstall").detail(whole);
    let each = left.iter().map(|object| {
        let subject = format!("{} {}", turn.noun, object.name);
        Refusal::new(Reason::TimedOut, subject).detail(if object.is_deleted {
            "it is deleted, and waits for its agent to let it go"
        } else {
            "it was made after the others were deleted"
        })
    });
    let all = [whole].into_iter().chain(each);
    all.map(|refusal| refusal.next(next)).collect()
}

async fn namespace_is_gone(client: &kube::Client, timeout: Duration) -> Result<(), Stop> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let end = Instant::now() + timeout;
    while namespaces.get_opt(api::names::NAMESPACE).await?.is_some() {
        if Instant::now() > end {
            return Err(Stop::FailedFor(vec![
                Refusal::new(Reason::TimedOut, "namespace ringpv")
                    .detail("its pods have not ended yet")
                    .next("kubectl --namespace ringpv get pods"),
            ]));
        }
        sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// Says what is still there, and what follows from it.
async fn remains(
    session: &mut Session,
    client: &kube::Client,
    inventory: &Inventory,
) -> Result<(), Stop> {
    let claims: Api<PersistentVolume> = Api::all(client.clone());
    let claims = claims.list(&ListParams::default()).await?;
    let ours = |it: &&PersistentVolume| {
        let csi = it.spec.as_ref().and_then(|spec| spec.csi.as_ref());
        csi.is_some_and(|csi| csi.driver == DRIVER)
    };
    session.hint(&Hint::Remains(Remains {
        drives: inventory.drives.len(),
        volumes: inventory.volumes.len(),
        persistent_volumes: claims.iter().filter(ours).count(),
        used: used(inventory).count(),
    }))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::advice::list;
    use crate::testing;

    fn silent(name: &str) -> StorageNode {
        let mut node = testing::node(name, Vec::new());
        node.status.get_or_insert_default().silent_since = Some(Timestamp::UNIX_EPOCH);
        node
    }

    fn drive(id: &str, node: &str, phase: DrivePhase) -> Drive {
        testing::drive(id, node, "nvme0n1", phase)
    }

    fn volume(name: &str, node: &str, drive: &str) -> Volume {
        testing::volume(name, node, drive, 1)
    }

    fn published(mut volume: Volume) -> Volume {
        let status = volume.status.get_or_insert_default();
        status.targets.push(api::volume::Target {
            path: "/pods/p".to_owned(),
            read_only: false,
            pod: String::new(),
        });
        volume
    }

    fn check(why: &str, drives: &[&Drive], volumes: &[&Volume], expected: &[(Reason, &str)]) {
        let inventory = Inventory {
            nodes: vec![testing::node("heard", Vec::new()), silent("silent")],
            drives: drives.iter().copied().cloned().collect(),
            volumes: volumes.iter().copied().cloned().collect(),
        };
        let refusals = refusals(&inventory);
        let said = refusals.iter().map(|it| {
            let next = it.next.as_deref().unwrap_or_default();
            (it.reason, next)
        });
        assert_eq!(said.collect::<Vec<_>>(), expected, "{why}");
    }

    #[test]
    fn what_nobody_lets_go_is_refused_before_anything_is_deleted() {
        let ready = drive("d-ready", "heard", DrivePhase::Ready);
        let lost = drive("d-lost", "heard", DrivePhase::Lost);
        let far = drive("d-far", "silent", DrivePhase::Lost);
        let nobodys = drive("d-nobody", "never", DrivePhase::Ready);
        let mut ending = lost.clone();
        ending.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        let on_ready = volume("v1", "heard", "d-ready");
        let on_lost = volume("v2", "heard", "d-lost");
        let on_far = volume("v3", "silent", "d-far");
        let forget_lost = "kubectl ringpv forget --drive d-lost, then uninstall";
        let forget_silent = "kubectl ringpv forget silent, then uninstall";
        let forget_never = "kubectl ringpv forget never, then uninstall";
        let end_pods = "end the pods that use it, then uninstall";

        check("all is well", &[&ready], &[&on_ready], &[]);
        check("a silent node with nothing on it", &[], &[], &[]);
        check("a Lost drive without volumes goes", &[&lost], &[], &[]);
        check("its drive has no object", &[], &[&on_lost], &[]);
        check("its drive is let go", &[&ending], &[&on_lost], &[]);
        let expected = [(Reason::DriveLost, forget_lost)];
        check("Lost", &[&lost], &[&on_lost], &expected);
        let expected = [(Reason::NodeSilent, forget_silent)];
        check("drives of a silent node", &[&far], &[], &expected);
        check("volumes of a silent node", &[], &[&on_far], &expected);
        let expected = [(Reason::NodeSilent, forget_never)];
        check("a node without object", &[&nobodys], &[], &expected);

        let expected = [
            (Reason::NodeSilent, forget_silent),
            (Reason::DriveLost, forget_lost),
            (Reason::StillPublished, end_pods),
        ];
        let used = [published(on_ready), published(on_far)];
        let volumes = [&used[0], &on_lost, &used[1]];
        check("all at once", &[&ready, &lost, &far], &volumes, &expected);
    }

    #[test]
    fn a_refusal_counts_what_would_wait() {
        let inventory = Inventory {
            nodes: vec![testing::node("heard", Vec::new()), silent("silent")],
            drives: vec![
                drive("d-lost", "heard", DrivePhase::Lost),
                drive("d-far", "silent", DrivePhase::Ready),
            ],
            volumes: vec![volume("v1", "heard", "d-lost")],
        };
        assert_eq!(
            list(&refusals(&inventory), ""),
            [
                "NodeSilent: node silent: its agent is not heard of, and nobody else lets its 1 drive and 0 volumes go; \
                 nothing was deleted\n  next: kubectl ringpv forget silent, then uninstall",
                "DriveLost: drive d-lost (nvme0n1 on heard): it is Lost, and what is on it (1 volume) is not let go while \
                 it may come back; nothing was deleted\n  next: kubectl ringpv forget --drive d-lost, then uninstall",
            ]
        );
    }

    #[test]
    fn who_comes_late_says_what_is_gone_and_what_waits() {
        let turn = Turn {
            noun: "volume",
            later: "drives, nodes, programs",
        };
        let left = [("v1", true), ("v2", false)].map(|(name, is_deleted)| Left {
            name: name.to_owned(),
            is_deleted,
        });
        let gone = ["1 benchmark".to_owned()];
        assert_eq!(
            list(&late(&turn, &gone, 3, &left), ""),
            [
                "TimedOut: uninstall: objects gone: 1 benchmark, 2 volumes; deleted, but there still: 1 volume; \
                 not begun: drives, nodes, programs; no data were removed by this",
                "TimedOut: volume v1: it is deleted, and waits for its agent to let it go",
                "TimedOut: volume v2: it was made after the others were deleted\
                 \n  next: see that the agents of their nodes run, then uninstall again",
            ]
        );
    }
}
