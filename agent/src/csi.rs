//! The CSI Node service: what a kubelet, another orchestrator or `kubectl ringpv volumes` asks of this node.
//!
//! ```text
//!   call ─► check the request ─► one in flight a volume ─► Volumes (promise, plan, drive's thread) ─► answer
//! ```
//! Rules: every call may be repeated; what a volume's unknown caller cannot have is refused with one reason and one
//! sentence; taking away something that is not there succeeds; a drive that does not answer makes its own volumes
//! UNAVAILABLE and no others.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use api::csi::node_server::{Node, NodeServer};
use api::csi::node_service_capability::{Rpc, Type, rpc};
use api::csi::volume_usage::Unit;
use api::csi::{
    CapacityRange, NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetCapabilitiesRequest,
    NodeGetCapabilitiesResponse, NodeGetInfoRequest, NodeGetInfoResponse,
    NodeGetStorageHealthRequest, NodeGetStorageHealthResponse, NodeGetVolumeHealthRequest,
    NodeGetVolumeHealthResponse, NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse,
    NodePublishVolumeRequest, NodePublishVolumeResponse, NodeServiceCapability,
    NodeStageVolumeRequest, NodeStageVolumeResponse, NodeUnpublishVolumeRequest,
    NodeUnpublishVolumeResponse, NodeUnstageVolumeRequest, NodeUnstageVolumeResponse, Topology,
    VolumeHealth, VolumeUsage,
};
use api::names::{is_dns_label, volume_name};
use api::serve::Readiness;
use api::serve::calls::Calls;
use api::serve::identity::IdentityService;
use api::serve::socket::Socket;
use api::volume::VOLUMES_PER_DRIVE_MAX;
use api::{Drive, DrivePhase, Reason};
use kube::api::Api;
use kube::{Client, ResourceExt as _};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::own;
use crate::registry::Registry;
use crate::topology;
use crate::volumes::plan::Wanted;
use crate::volumes::{Meant, Refusal, Stats, Subject, Volumes, ephemeral};

mod capability;
mod health;
mod in_flight;

use capability::{check, missing};
use in_flight::InFlight;

/// Calls that are answered at this socket.
pub const KNOWN_CALLS: [&str; 13] = [
    "GetPluginInfo",
    "GetPluginCapabilities",
    "Probe",
    "NodeStageVolume",
    "NodeUnstageVolume",
    "NodePublishVolume",
    "NodeUnpublishVolume",
    "NodeGetVolumeStats",
    "NodeGetVolumeHealth",
    "NodeGetStorageHealth",
    "NodeExpandVolume",
    "NodeGetCapabilities",
    "NodeGetInfo",
];

/// What the Node service can do beyond the least.
const CAPABILITIES: [rpc::Type; 6] = [
    rpc::Type::StageUnstageVolume,
    rpc::Type::GetVolumeStats,
    rpc::Type::ExpandVolume,
    rpc::Type::SingleNodeMultiWriter,
    rpc::Type::GetVolumeHealth,
    rpc::Type::GetStorageHealth,
];

/// Keys that a kubelet adds to the context of a published volume.
const POD_NAME: &str = "csi.storage.k8s.io/pod.name";
const POD_NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";

/// How long the API may take where its answer is only an addition.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);

/// The service.
#[derive(Clone)]
pub struct NodeService {
    node: String,
    volumes: Volumes,
    registry: Registry,
    client: Client,
    in_flight: InFlight,
}

impl NodeService {
    /// The service of a node, over its volumes and mounted drives.
    #[must_use]
    pub fn new(node: &str, volumes: Volumes, registry: Registry, client: Client) -> Self {
        Self {
            node: node.to_owned(),
            volumes,
            registry,
            client,
            in_flight: InFlight::default(),
        }
    }
}

/// Serves Identity and Node at a socket until `stop`.
///
/// # Errors
/// The socket failed.
pub async fn serve(
    socket: Socket,
    service: NodeService,
    ready: Readiness,
    calls: Calls,
    stop: CancellationToken,
) -> io::Result<()> {
    let (connections, file) = socket.into_parts();
    let served = tonic::transport::Server::builder()
        .layer(calls)
        .add_service(IdentityService::server("ringpv-agent", ready))
        .add_service(NodeServer::new(service))
        .serve_with_incoming_shutdown(connections, stop.cancelled_owned())
        .await;
    drop(file);
    served.map_err(io::Error::other)
}

/// The name of the Volume that a request is about. It is the id itself, but for the handles that the kubelet makes for
/// inline volumes, which are longer than a label.
fn id(volume: &str) -> Result<Cow<'_, str>, Refusal> {
    match name_of(volume) {
        name if name.is_empty() => Err(missing("volume_id")),
        name if is_dns_label(&name) => Ok(name),
        other => Err(Refusal::new(Reason::VolumeNotFound, format!("{other:?}"))),
    }
}

/// The same where any id is taken.
fn name_of(volume: &str) -> Cow<'_, str> {
    if ephemeral::is_handle(volume) {
        volume_name(volume).into()
    } else {
        volume.into()
    }
}

/// A path that a request names: absolute and without detours.
fn path(field: &str, text: &str) -> Result<PathBuf, Refusal> {
    let path = Path::new(text);
    let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    if text.is_empty() {
        return Err(missing(field));
    }
    if !path.is_absolute() || path.parent().is_none() || !path.components().all(plain) {
        let message = format!("{field} {text:?} is no absolute path");
        return Err(Refusal::new(Reason::InvalidArgument, message));
    }
    Ok(path.to_owned())
}

/// A path at which a volume is said to be mounted. Nothing is mounted at one that is not plain.
fn mounted(volume: &str, text: &str) -> Result<PathBuf, Refusal> {
    path("volume_path", text).map_err(|_| {
        let message = format!("volume {volume} is not mounted at {text:?}");
        Refusal::new(Reason::VolumeNotFound, message)
    })
}

/// A number of bytes as CSI counts them.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Bytes that are required, from a range.
fn required(range: Option<&CapacityRange>) -> Result<u64, Refusal> {
    let Some(range) = range else { return Ok(0) };
    let bytes = |number: i64| {
        u64::try_from(number)
            .map_err(|_| Refusal::new(Reason::InvalidArgument, "a capacity is negative"))
    };
    let (required, limit) = (bytes(range.required_bytes)?, bytes(range.limit_bytes)?);
    if limit != 0 && limit < required {
        let message = format!("limit_bytes {limit} is below required_bytes {required}");
        return Err(Refusal::new(Reason::InvalidArgument, message));
    }
    Ok(required)
}

impl NodeService {
    /// The volume of a name, where the call has no way to say more of it.
    async fn subject(&self, volume: &str) -> Result<Subject, Refusal> {
        self.volumes.subject(volume, &Meant::default()).await
    }

    async fn stage(&self, request: &NodeStageVolumeRequest) -> Result<(), Refusal> {
        if request.volume_id.is_empty() {
            return Err(missing("volume_id"));
        }
        let staging = path("staging_target_path", &request.staging_target_path)?;
        check(request.volume_capability.as_ref())?;
        let volume = &id(&request.volume_id)?;
        let _flight = self.in_flight.begin(volume)?;
        let meant = Meant::read(&request.volume_context);
        let subject = self.volumes.subject(volume, &meant).await?;
        let wanted = Wanted::Staged { path: staging };
        if let (_, Wanted::Staged { path }) = self.volumes.carry_out(&subject, wanted).await? {
            self.volumes.remember(volume, Some(&path), None);
        }
        Ok(())
    }

    async fn publish(&self, request: &NodePublishVolumeRequest) -> Result<(), Status> {
        if request.volume_id.is_empty() {
            return Err(missing("volume_id").into());
        }
        let target = path("target_path", &request.target_path)?;
        let use_ = check(request.volume_capability.as_ref())?;
        let volume = &id(&request.volume_id)?;
        let _flight = self.in_flight.begin(volume)?;
        let (subject, staging) = if ephemeral::is_asked(&request.volume_context) {
            let wish = ephemeral::Wish::read(&request.volume_context, use_.exclusive)?;
            let subject = self.volumes.ephemeral(volume, &request.volume_id, wish);
            (subject.await.map_err(ephemeral::not_final)?, None)
        } else {
            if request.staging_target_path.is_empty() {
                let message = "staging_target_path is missing";
                return Err(Refusal::new(Reason::NotStaged, message).into());
            }
            let staging = path("staging_target_path", &request.staging_target_path)?;
            let meant = Meant::read(&request.volume_context);
            let subject = self.volumes.subject(volume, &meant).await?;
            (subject, Some(staging))
        };
        let wanted = Wanted::Published {
            staging,
            target,
            read_only: use_.read_only || request.readonly,
            exclusive: use_.exclusive || subject.promise.record.single_writer,
        };
        let is_inline = subject.promise.record.ephemeral;
        let carried_out = self.volumes.carry_out(&subject, wanted).await;
        let (_, done) = carried_out.map_err(|refusal| match is_inline {
            true => ephemeral::not_final(refusal),
            false => refusal.into(),
        })?;
        if let Wanted::Published {
            staging, target, ..
        } = done
        {
            let context = |key| request.volume_context.get(key).map_or("", String::as_str);
            let pod = match (context(POD_NAMESPACE), context(POD_NAME)) {
                (_, "") => String::new(),
                (namespace, name) => format!("{namespace}/{name}"),
            };
            self.volumes
                .remember(volume, staging.as_deref(), Some((&target, pod)));
        }
        Ok(())
    }

    async fn unpublish(&self, request: &NodeUnpublishVolumeRequest) -> Result<(), Refusal> {
        if request.volume_id.is_empty() {
            return Err(missing("volume_id"));
        }
        let target = path("target_path", &request.target_path)?;
        let name = name_of(&request.volume_id);
        let _flight = self.in_flight.begin(&name)?;
        self.volumes.unmount(&name, &target).await?;
        match id(&request.volume_id) {
            Ok(volume) => self.volumes.release_ephemeral(&volume).await,
            // It is none of ours, so nothing of it is here.
            Err(_) => Ok(()),
        }
    }

    async fn unstage(&self, request: &NodeUnstageVolumeRequest) -> Result<(), Refusal> {
        if request.volume_id.is_empty() {
            return Err(missing("volume_id"));
        }
        let staging = path("staging_target_path", &request.staging_target_path)?;
        let name = name_of(&request.volume_id);
        let _flight = self.in_flight.begin(&name)?;
        self.volumes.unmount(&name, &staging).await
    }

    async fn stats(&self, request: &NodeGetVolumeStatsRequest) -> Result<Stats, Refusal> {
        if request.volume_id.is_empty() {
            return Err(missing("volume_id"));
        }
        if request.volume_path.is_empty() {
            return Err(missing("volume_path"));
        }
        let subject = self.subject(&id(&request.volume_id)?).await?;
        let at = mounted(&request.volume_id, &request.volume_path)?;
        self.volumes.stats(&subject, &at).await
    }

    async fn expand(&self, request: &NodeExpandVolumeRequest) -> Result<u64, Refusal> {
        if request.volume_id.is_empty() {
            return Err(missing("volume_id"));
        }
        if request.volume_path.is_empty() {
            return Err(missing("volume_path"));
        }
        if request.volume_capability.is_some() {
            check(request.volume_capability.as_ref())?;
        }
        let required_bytes = required(request.capacity_range.as_ref())?;
        let volume = &id(&request.volume_id)?;
        let _flight = self.in_flight.begin(volume)?;
        let mut subject = self.subject(volume).await?;
        let at = mounted(volume, &request.volume_path)?;
        if subject.promise.record.capacity_bytes < required_bytes {
            // The watch may be behind the call that grew it.
            subject = self.volumes.fresh(volume, &Meant::default()).await?;
        }
        let promised = subject.promise.record.capacity_bytes;
        if promised < required_bytes {
            let message = format!("{required_bytes} bytes are asked for, {promised} are promised");
            return Err(Refusal::new(Reason::CapacityExceeded, message));
        }
        if !self.volumes.is_mounted_at(volume, &at).await? {
            let message = format!("volume {volume} is not mounted at {}", at.display());
            return Err(Refusal::new(Reason::VolumeNotFound, message));
        }
        let wanted = Wanted::Expanded { required_bytes };
        let (plan, _) = self.volumes.carry_out(&subject, wanted).await?;
        Ok(plan.capacity_bytes)
    }
}

/// What the API adds to an answer. Where it does not answer, that is left out.
impl NodeService {
    /// This node's Drives.
    async fn drives(&self) -> Vec<Drive> {
        let api: Api<Drive> = Api::all(self.client.clone());
        let listed = tokio::time::timeout(ASK_TIMEOUT, own::list(&api, &self.node)).await;
        listed.ok().and_then(Result::ok).unwrap_or_default()
    }

    fn answers(&self, drive: &str) -> bool {
        self.registry
            .get(drive)
            .is_ok_and(|drive| !drive.worker.is_stuck())
    }
}

/// Whether a drive should be mounted here.
fn in_use(drive: &Drive) -> bool {
    let phase = drive
        .status
        .as_ref()
        .map_or(DrivePhase::Pending, |status| status.phase);
    matches!(
        phase,
        DrivePhase::Ready
            | DrivePhase::ReadOnly
            | DrivePhase::Failing
            | DrivePhase::Lost
            | DrivePhase::Repairing
    )
}

#[tonic::async_trait]
impl Node for NodeService {
    async fn node_stage_volume(
        &self,
        request: Request<NodeStageVolumeRequest>,
    ) -> Result<Response<NodeStageVolumeResponse>, Status> {
        self.stage(request.get_ref()).await?;
        Ok(Response::new(NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        request: Request<NodeUnstageVolumeRequest>,
    ) -> Result<Response<NodeUnstageVolumeResponse>, Status> {
        self.unstage(request.get_ref()).await?;
        Ok(Response::new(NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        self.publish(request.get_ref()).await?;
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        self.unpublish(request.get_ref()).await?;
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        let stats = self.stats(request.get_ref()).await?;
        let usage = |unit: Unit, total: u64, used: u64, available: u64| VolumeUsage {
            unit: unit.into(),
            total: signed(total),
            used: signed(used),
            available: signed(available),
        };
        let inodes_left = stats.total_inodes.saturating_sub(stats.used_inodes);
        Ok(Response::new(NodeGetVolumeStatsResponse {
            usage: vec![
                usage(
                    Unit::Bytes,
                    stats.total_bytes,
                    stats.used_bytes,
                    stats.available_bytes,
                ),
                usage(
                    Unit::Inodes,
                    stats.total_inodes,
                    stats.used_inodes,
                    inodes_left,
                ),
            ],
        }))
    }

    async fn node_get_volume_health(
        &self,
        request: Request<NodeGetVolumeHealthRequest>,
    ) -> Result<Response<NodeGetVolumeHealthResponse>, Status> {
        let volume = &request.get_ref().volume_id;
        let subject = self.subject(&id(volume)?).await?;
        let health_statuses = match &subject.drive {
            Some(drive) => {
                let drives = self.drives().await;
                let ailment =
                    health::ailment(drive, self.answers(drive), health::named(&drives, drive));
                ailment.map(health::of_volume).into_iter().collect()
            }
            None => Vec::new(),
        };
        Ok(Response::new(NodeGetVolumeHealthResponse {
            volume_health: Some(VolumeHealth {
                volume_id: volume.clone(),
                health_statuses,
            }),
        }))
    }

    async fn node_get_storage_health(
        &self,
        _: Request<NodeGetStorageHealthRequest>,
    ) -> Result<Response<NodeGetStorageHealthResponse>, Status> {
        let drives = self.drives().await;
        let mut ids: BTreeSet<String> = drives
            .iter()
            .filter(|one| in_use(one))
            .map(|one| one.name_any())
            .collect();
        ids.extend(self.registry.all().iter().map(|drive| drive.id.to_string()));
        let ailments = ids
            .iter()
            .filter_map(|id| health::ailment(id, self.answers(id), health::named(&drives, id)))
            .collect();
        Ok(Response::new(NodeGetStorageHealthResponse {
            backend_health: health::of_node(ailments),
        }))
    }

    async fn node_expand_volume(
        &self,
        request: Request<NodeExpandVolumeRequest>,
    ) -> Result<Response<NodeExpandVolumeResponse>, Status> {
        let capacity_bytes = self.expand(request.get_ref()).await?;
        Ok(Response::new(NodeExpandVolumeResponse {
            capacity_bytes: signed(capacity_bytes),
        }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let capability = |kind: rpc::Type| NodeServiceCapability {
            r#type: Some(Type::Rpc(Rpc {
                r#type: kind.into(),
            })),
        };
        Ok(Response::new(NodeGetCapabilitiesResponse {
            capabilities: CAPABILITIES.into_iter().map(capability).collect(),
        }))
    }

    async fn node_get_info(
        &self,
        _: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        let segments = topology::segments(&self.client, &self.node).await;
        let drive_count = u64::try_from(self.registry.all().len())
            .unwrap_or(u64::MAX)
            .max(1);
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.node.clone(),
            max_volumes_per_node: signed(drive_count.saturating_mul(VOLUMES_PER_DRIVE_MAX)),
            accessible_topology: Some(Topology { segments }),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_paths() {
        let reason = |refusal: Refusal| refusal.reason;
        assert_eq!(id("pvc-1"), Ok("pvc-1".into()));
        let inline = format!("csi-{}", "0f".repeat(32));
        assert_eq!(id(&inline), Ok(volume_name(&inline).into()));
        assert_eq!(id("").map_err(reason), Err(Reason::InvalidArgument));
        for odd in ["..", "a/b", "A", "x\0"] {
            assert_eq!(
                id(odd).map_err(reason),
                Err(Reason::VolumeNotFound),
                "{odd}"
            );
        }
        assert_eq!(path("p", "/a/b"), Ok("/a/b".into()));
        for odd in ["", "/", "a/b", "/a/../b", ".."] {
            assert_eq!(
                path("p", odd).map_err(reason),
                Err(Reason::InvalidArgument),
                "{odd}"
            );
        }
    }

    #[test]
    fn ranges() {
        let range = |required_bytes, limit_bytes| CapacityRange {
            required_bytes,
            limit_bytes,
        };
        assert_eq!(required(None), Ok(0));
        assert_eq!(required(Some(&range(5, 0))), Ok(5));
        assert_eq!(required(Some(&range(5, 5))), Ok(5));
        for bad in [range(-1, 0), range(5, 4), range(0, -4)] {
            assert!(required(Some(&bad)).is_err(), "{bad:?}");
        }
    }
}
