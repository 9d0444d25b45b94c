//! `uninstall`: takes RingPV's programs out of a cluster. Drives, volumes and their objects stay, so that an installation
//! takes them up again. With `--dangerous` the objects go, too; even then no byte on any drive is touched, and `adopt`
//! brings them back.
//!
//! Objects go first, while agents are there to let their drives go in order; then the programs; then the definitions.

use std::time::Duration;

use api::names::DRIVER;
use api::{Benchmark, Drive, Reason, StorageNode, Volume};
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
        refuse_used(&inventory)?;
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

/// A volume in use would lose its object under its pod.
fn refuse_used(inventory: &Inventory) -> Result<(), Stop> {
    let refusals: Vec<_> = used(inventory)
        .map(|volume| {
            Refusal::new(
                Reason::StillPublished,
                format!("volume {}", volume.name_any()),
            )
            .next("end the pods that use it, then uninstall")
        })
        .collect();
    if refusals.is_empty() {
        return Ok(());
    }
    Err(Stop::Refused(refusals))
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

/// Lets all objects go, those that refer to others first. No release is set, so no data are destroyed.
async fn remove_objects(session: &mut Session, timeout: Duration) -> Result<(), Stop> {
    let end = Instant::now() + timeout;
    remove_all::<Benchmark>(session, end).await?;
    remove_all::<Volume>(session, end).await?;
    remove_all::<Drive>(session, end).await?;
    remove_all::<StorageNode>(session, end).await
}

async fn remove_all<K>(session: &mut Session, end: Instant) -> Result<(), Stop>
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let api = session.api::<K>().await?;
    let kind = K::kind(&()).into_owned();
    let all = api.list(&ListParams::default()).await?;
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
            return Ok(());
        }
        if Instant::now() > end {
            let refusals = left.iter().map(|object| {
                Refusal::new(Reason::TimedOut, format!("{kind} {}", object.name_any()))
                    .detail("its agent has not let it go; everything else is as it was")
                    .next("see that the agent of its node runs, then uninstall again")
            });
            return Err(Stop::FailedFor(refusals.collect()));
        }
        sleep(LOOK_AGAIN).await;
    }
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
