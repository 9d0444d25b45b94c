//! `forget NODE`: takes away the objects of nodes that will not come back, or with `--drive` of drives whose devices are
//! lost: volumes, drives, benchmarks, and the node itself, with the finalizers that its agent would drop if it could. No
//! device is touched: a drive that turns up again, in this node or another, is there for `adopt` with all data. So it
//! destroys nothing; but who still counts on a volume counts on data that nobody reaches, and therefore the name is asked
//! for.

use std::fmt::Debug;

use api::{Benchmark, Drive, DrivePhase, Reason, StorageNode, Volume};
use clap::Args;
use kube::api::{DeleteParams, Preconditions};
use kube::core::ClusterResourceScope;
use kube::{Api, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::advice::{Hint, Refusal, Stop, all_or_refused};
use crate::args::{Confirm, DryRun};
use crate::change;
use crate::confirm::{self, Target};
use crate::persistent_volumes::Claimed;
use crate::select::{by_names, drive_label};
use crate::session::{Inventory, Session};
use crate::view::counted;

/// Claims that are named in a sentence.
const NAMED_MAX: usize = 5;

/// Flags of `forget`.
#[derive(Debug, Args)]
pub(crate) struct ForgetArgs {
    /// Names of nodes, whole
    #[arg(value_name = "NODE", required_unless_present = "drive")]
    nodes: Vec<String>,
    /// Only these drives, which have to be Lost: ids, or their first digits
    #[arg(
        short,
        long,
        value_name = "DRIVE",
        value_delimiter = ',',
        conflicts_with = "nodes"
    )]
    drive: Vec<String>,
    #[command(flatten)]
    confirm: Confirm,
    #[command(flatten)]
    dry_run: DryRun,
}

/// What goes together.
#[derive(Debug)]
struct Gone {
    /// What it is called: `node n1`.
    label: String,
    /// The word that is asked for.
    word: String,
    node: Option<StorageNode>,
    drives: Vec<Drive>,
    volumes: Vec<Volume>,
    benchmarks: Vec<Benchmark>,
}

/// Runs `forget`.
pub(crate) async fn run(session: &mut Session, args: &ForgetArgs) -> Result<(), Stop> {
    let inventory = session.inventory().await?;
    let benchmarks = session.all::<Benchmark>().await?;
    let claimed = Claimed::ask(session).await?.unwrap_or_default();
    let ids = inventory.drives.iter().map(|drive| drive.name_any());
    let ids = by_names(&args.drive, ids, "drive")?;
    let nodes = args.nodes.iter();
    let asked = nodes.map(|name| of_node(name, &inventory, &benchmarks));
    let drives = inventory.drives.iter();
    let drives = drives.filter(|drive| ids.contains(&drive.name_any()));
    let asked = asked.chain(drives.map(|drive| of_drive(drive, &inventory, &benchmarks)));
    let gone = all_or_refused(asked)?;
    let targets: Vec<_> = gone.iter().map(|one| one.target(&claimed)).collect();
    if args.dry_run.dry_run {
        for target in targets {
            session.screen.line(format!(
                "{} would be forgotten, with {}",
                target.name, target.loses
            ))?;
        }
        return session.hint(&Hint::DryRun);
    }
    let words = args.confirm.words();
    confirm::confirm(&mut session.screen, &targets, words, "Forgetting")?;
    let client = session.client().await?;
    for one in gone {
        // Volumes first: a drive is not let go while one names it.
        forget_all(&Api::all(client.clone()), &one.volumes).await?;
        forget_all(&Api::all(client.clone()), &one.benchmarks).await?;
        forget_all(&Api::all(client.clone()), &one.drives).await?;
        forget_all(&Api::all(client.clone()), one.node.as_slice()).await?;
        session.screen.line(format!(
            "{} is forgotten; what is on its devices stays: kubectl ringpv adopt, wherever one turns up",
            one.label
        ))?;
    }
    Ok(())
}

/// What goes with a node; refused while its agent is heard of.
fn of_node(name: &str, inventory: &Inventory, benchmarks: &[Benchmark]) -> Result<Gone, Refusal> {
    let node = inventory.nodes.iter().find(|node| node.name_any() == name);
    let drives = inventory.drives.iter().filter(|d| d.spec.node == name);
    let drives: Vec<Drive> = drives.cloned().collect();
    let volumes = inventory.volumes.iter().filter(|v| v.spec.node == name);
    let volumes: Vec<Volume> = volumes.cloned().collect();
    if node.is_none() && drives.is_empty() && volumes.is_empty() {
        return Err(Refusal::new(Reason::NothingMatched, format!("node {name}"))
            .next("kubectl ringpv list nodes"));
    }
    // An agent that runs makes its node's object anew within a minute; so where there is none, none runs.
    let heard = node.is_some() && !inventory.silent_nodes().contains(name);
    if heard {
        return Err(Refusal::new(Reason::NodeHeard, format!("node {name}"))
            .detail("its agent is at work, or ended less than three minutes ago")
            .next("kubectl ringpv forget --drive takes single drives that are Lost; a node is forgotten once list nodes calls it Silent"));
    }
    let on_it = |benchmark: &&Benchmark| benchmark.spec.node == name;
    Ok(Gone {
        label: format!("node {name}"),
        word: name.to_owned(),
        node: node.cloned(),
        drives,
        volumes,
        benchmarks: benchmarks.iter().filter(on_it).cloned().collect(),
    })
}

/// What goes with a drive; refused while its device is there.
fn of_drive(
    drive: &Drive,
    inventory: &Inventory,
    benchmarks: &[Benchmark],
) -> Result<Gone, Refusal> {
    let phase = drive.status.as_ref().map(|s| s.phase).unwrap_or_default();
    let silent = inventory.silent_nodes().contains(&drive.spec.node);
    if phase != DrivePhase::Lost && !silent {
        return Err(Refusal::new(Reason::DriveInUse, drive_label(drive))
            .detail(format!("it is {phase:?}, not Lost: its device is there"))
            .next("kubectl ringpv remove lets it go"));
    }
    let id = drive.name_any();
    let on_it = |volume: &&Volume| volume.spec.drive.as_ref() == Some(&id);
    let of_it = |benchmark: &&Benchmark| benchmark.spec.drive == id;
    Ok(Gone {
        label: drive_label(drive),
        word: id.clone(),
        node: None,
        drives: vec![drive.clone()],
        volumes: inventory.volumes.iter().filter(on_it).cloned().collect(),
        benchmarks: benchmarks.iter().filter(of_it).cloned().collect(),
    })
}

impl Gone {
    fn target(&self, claimed: &Claimed) -> Target {
        let claims: Vec<_> = self
            .volumes
            .iter()
            .filter_map(|volume| claimed.by(&volume.name_any()))
            .collect();
        let waiting = match claims.len() {
            0 => String::new(),
            count => {
                let named = claims.iter().take(NAMED_MAX).copied();
                let more = if count > NAMED_MAX { ", …" } else { "" };
                format!(
                    ". {} left without data until the drives are back: {}{more}",
                    counted(count, "claim"),
                    named.collect::<Vec<_>>().join(", ")
                )
            }
        };
        Target {
            name: self.label.clone(),
            loses: format!(
                "the objects of {} and {}, and nothing on any device{waiting}",
                counted(self.drives.len(), "drive"),
                counted(self.volumes.len(), "volume"),
            ),
            word: self.word.clone(),
        }
    }
}

async fn forget_all<K>(api: &Api<K>, objects: &[K]) -> Result<(), Stop>
where
    K: Resource<DynamicType = (), Scope = ClusterResourceScope> + Clone + DeserializeOwned + Debug,
{
    for object in objects {
        forget(api, object).await?;
    }
    Ok(())
}

/// Deletes the very object that was looked at, and drops the finalizers that it waits for.
async fn forget<K>(api: &Api<K>, object: &K) -> Result<(), Stop>
where
    K: Resource<DynamicType = (), Scope = ClusterResourceScope> + Clone + DeserializeOwned + Debug,
{
    let name = object.name_any();
    let parameters = DeleteParams {
        preconditions: Some(Preconditions {
            uid: object.uid(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match api.delete(&name, &parameters).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let Some(left) = api.get_opt(&name).await? else {
        return Ok(());
    };
    if left.uid() == object.uid() && !left.finalizers().is_empty() {
        let none = json!({"metadata": {"finalizers": null}});
        change::patch_despite_reports(api, &left, none).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn only_a_silent_node_is_forgotten() {
        let mut silent = testing::node("silent", Vec::new());
        silent.status.get_or_insert_default().silent_since = Some(jiff::Timestamp::UNIX_EPOCH);
        let inventory = Inventory {
            nodes: vec![silent, testing::node("heard", Vec::new())],
            drives: ["silent", "heard", "gone"]
                .map(|node| {
                    testing::drive(&format!("d-{node}"), node, "nvme0n1", DrivePhase::Ready)
                })
                .to_vec(),
            volumes: vec![testing::volume("v", "silent", "d-silent", 1)],
        };
        let case = |name: &str| {
            let gone = of_node(name, &inventory, &[]).map_err(|refusal| refusal.reason)?;
            Ok((gone.drives.len(), gone.volumes.len()))
        };
        assert_eq!(case("silent"), Ok((1, 1)));
        assert_eq!(case("heard"), Err(Reason::NodeHeard));
        assert_eq!(
            case("gone"),
            Ok((1, 0)),
            "its object was deleted, and nobody made it anew"
        );
        assert_eq!(case("never"), Err(Reason::NothingMatched));

        let case = |drive: &Drive| {
            let gone = of_drive(drive, &inventory, &[]).map_err(|refusal| refusal.reason)?;
            Ok((gone.drives.len(), gone.volumes.len()))
        };
        let lost = testing::drive("d-silent", "heard", "nvme0n1", DrivePhase::Lost);
        assert_eq!(case(&lost), Ok((1, 1)));
        assert_eq!(case(&inventory.drives[0]), Ok((1, 1)), "of a silent node");
        assert_eq!(case(&inventory.drives[1]), Err(Reason::DriveInUse));
    }
}
