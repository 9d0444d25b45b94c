//! Creating, expanding and deleting: what the controller decides.

use api::csi::{
    ControllerExpandVolumeRequest, CreateVolumeRequest, DeleteVolumeRequest,
    NodeExpandVolumeRequest, Topology, TopologyRequirement,
};
use api::names::TOPOLOGY_NODE;
use api::volume::CapacityEnforcement;
use api::{Bytes, Drive, Reason, Volume};
use kube::ResourceExt as _;

use crate::advice::{Hint, Refusal, Stop};
use crate::class;
use crate::confirm::{self, Target};
use crate::explain;
use crate::progress::{End, follow};
use crate::select::{drive_label, short};
use crate::session::Session;
use crate::socket;
use crate::view::Shaped;

use super::{CreateArgs, DeleteArgs, ExpandArgs, at_least, capability, find};

/// `volumes create`.
pub(super) async fn create(session: &mut Session, args: &CreateArgs) -> Result<(), Stop> {
    let parameters = class::parameters(args.class.as_deref())?;
    if args.dry_run.dry_run {
        let inventory = session.inventory().await?;
        let words = Shaped::default();
        return explain::what_if(
            session, args.size, parameters, &args.node, &inventory, words,
        )
        .await;
    }
    let topology = |node: &String| Topology {
        segments: [(TOPOLOGY_NODE.to_owned(), node.clone())].into(),
    };
    let nodes: Vec<_> = args.node.iter().map(topology).collect();
    let request = CreateVolumeRequest {
        name: args.name.clone(),
        capacity_range: Some(at_least(args.size)?),
        volume_capabilities: vec![capability(args.single_writer)],
        parameters,
        accessibility_requirements: (!nodes.is_empty()).then(|| TopologyRequirement {
            requisite: nodes.clone(),
            preferred: nodes,
        }),
        ..CreateVolumeRequest::default()
    };
    let answer = socket::controller(session)
        .await?
        .create_volume(request)
        .await?
        .into_inner();
    let Some(made) = answer.volume else {
        return Err(Stop::Failed(anyhow::anyhow!(
            "the controller answered without a volume; is it of another version?"
        )));
    };
    let bytes = Bytes(u64::try_from(made.capacity_bytes).unwrap_or(0));
    announce(session, &made.volume_id, bytes).await
}

/// Says where a new volume is and what its size is worth.
async fn announce(session: &mut Session, id: &str, bytes: Bytes) -> Result<(), Stop> {
    let inventory = session.inventory().await?;
    let volume = inventory.volumes.iter().find(|v| v.name_any() == id);
    let on = volume.and_then(|v| v.spec.drive.clone());
    let drive = inventory.drives.iter().find(|d| Some(d.name_any()) == on);
    let place = drive.map_or_else(|| "a drive".to_owned(), where_it_is);
    session
        .screen
        .line(format!("volume {id} created: {bytes} on {place}"))?;
    let promise = |v: &Volume| {
        let node = inventory.nodes.iter().find(|n| n.name_any() == v.spec.node);
        let quota = node
            .and_then(|n| n.status.as_ref())
            .is_some_and(|s| s.project_quota);
        v.spec.capacity_enforcement == CapacityEnforcement::BestEffort && !quota
    };
    let volume_name = || id.to_owned();
    if volume.is_some_and(promise) {
        session.hint(&Hint::BestEffort {
            volume: volume_name(),
        })?;
    }
    session.hint(&Hint::MountNext {
        volume: volume_name(),
    })
}

fn where_it_is(drive: &Drive) -> String {
    format!("{}, tier {}", drive_label(drive), drive.spec.access_tier)
}

/// `volumes expand`.
pub(super) async fn expand(session: &mut Session, args: &ExpandArgs) -> Result<(), Stop> {
    let volume = find(session, &args.name).await?;
    let id = volume.name_any();
    let now = Bytes(volume.spec.capacity_bytes);
    if args.size.0 < now.0 {
        return Err(Stop::refused(
            Refusal::new(Reason::InvalidArgument, &id)
                .detail(format!("it has {now}; a volume never shrinks"))
                .next(""),
        ));
    }
    if args.dry_run.dry_run {
        session.screen.line(format!(
            "volume {id} would grow from {now} to {}",
            args.size
        ))?;
        return session.hint(&Hint::DryRun);
    }
    let request = ControllerExpandVolumeRequest {
        volume_id: id.clone(),
        capacity_range: Some(at_least(args.size)?),
        ..ControllerExpandVolumeRequest::default()
    };
    let answer = socket::controller(session)
        .await?
        .controller_expand_volume(request)
        .await?
        .into_inner();
    let grown = Bytes(u64::try_from(answer.capacity_bytes).unwrap_or(0));
    let mounted = volume.status.iter().flat_map(|s| &s.targets).next();
    if let (true, Some(target)) = (answer.node_expansion_required, mounted) {
        let request = NodeExpandVolumeRequest {
            volume_id: id.clone(),
            volume_path: target.path.clone(),
            capacity_range: Some(at_least(grown)?),
            ..NodeExpandVolumeRequest::default()
        };
        socket::node(session)
            .await?
            .node_expand_volume(request)
            .await?;
    }
    Ok(session
        .screen
        .line(format!("volume {id} grown from {now} to {grown}"))?)
}

/// `volumes delete`.
pub(super) async fn delete(session: &mut Session, args: &DeleteArgs) -> Result<(), Stop> {
    let volume = find(session, &args.name).await?;
    let id = volume.name_any();
    let targets = volume.status.iter().flat_map(|s| &s.targets);
    let paths: Vec<_> = targets.map(|t| t.path.as_str()).collect();
    if !paths.is_empty() {
        return Err(Stop::refused(
            Refusal::new(Reason::StillPublished, format!("volume {id}"))
                .detail(format!("it is mounted at {}", paths.join(", ")))
                .next(format!("kubectl ringpv volumes unmount {id}")),
        ));
    }
    let drive = volume.spec.drive.as_deref().map_or("no drive", short);
    let used = volume.status.as_ref().and_then(|s| s.used_bytes);
    let used = used.map_or_else(String::new, |b| format!(", {} written", Bytes(b)));
    let target = Target {
        name: format!("volume {id}"),
        loses: format!("its data on drive {drive} of {}{used}", volume.spec.node),
        word: id.clone(),
    };
    if args.dry_run.dry_run {
        session.screen.line(format!(
            "{} would be destroyed with {}",
            target.name, target.loses
        ))?;
        return session.hint(&Hint::DryRun);
    }
    confirm::confirm(
        &mut session.screen,
        &[target],
        args.confirm.words(),
        "Deleting",
    )?;
    let request = DeleteVolumeRequest {
        volume_id: id.clone(),
        ..DeleteVolumeRequest::default()
    };
    socket::controller(session)
        .await?
        .delete_volume(request)
        .await?;
    let freed = Bytes(volume.spec.capacity_bytes);
    let goes_on = Hint::GoesOn {
        command: "kubectl ringpv list volumes".to_owned(),
    };
    if args.wait.no_wait {
        session
            .screen
            .line(format!("volume {id} released; its data are being removed"))?;
        return session.hint(&goes_on);
    }
    let api = session.api::<Volume>().await?;
    let uid = volume.uid();
    let end = follow(api, args.wait.timeout, |all| {
        Ok(all.get(&id).is_none_or(|v| v.uid() != uid))
    })
    .await?;
    if end == End::Done {
        return Ok(session.screen.line(format!(
            "volume {id} deleted; drive {drive} has {freed} more to promise"
        ))?);
    }
    session.hint(&goes_on)?;
    Err(Stop::FailedFor(vec![
        Refusal::new(Reason::TimedOut, format!("volume {id}"))
            .next("kubectl ringpv list volumes --watch"),
    ]))
}
