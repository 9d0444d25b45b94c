//! The Controller service of CSI, and what is said beyond it. Translates, guards, answers; what it decides with stands
//! in [`crate::leader`], where it goes in [`crate::placement`].
//!
//! Manners: a call for a volume of which another is under way is refused (`ABORTED`); every call may be repeated; who
//! does not lead answers `UNAVAILABLE`; a refusal reads `Reason: sentence; advice`, the same word as everywhere.
//! CreateVolume is one write: it answers when the Volume object is on disk, placement included. DeleteVolume answers
//! when the object bears the word `release` and is being deleted; its bytes are given back when its data are gone.

mod change;
mod create;
mod explain;
mod health;
mod list;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use api::Reason;
use api::csi::controller_server::{Controller, ControllerServer};
use api::csi::controller_service_capability::{Rpc, Type, rpc};
use api::csi::ringpv::placement_server::{Placement, PlacementServer};
use api::csi::ringpv::{ExplainRequest, ExplainResponse};
use api::csi::{self as wire, ControllerServiceCapability, Topology};
use api::names::{TOPOLOGY_NODE, is_dns_label};
use api::serve::Readiness;
use api::status::status;
use tonic::{Request, Response, Status};

use crate::asked::{Terms, existing, size};
use crate::inventory::VolumeEntry;
use crate::leader::Leader;

/// Names of the calls that are answered here, for the metrics.
pub const CALLS: [&str; 14] = [
    "CreateVolume",
    "DeleteVolume",
    "ValidateVolumeCapabilities",
    "ListVolumes",
    "GetCapacity",
    "ControllerGetCapabilities",
    "ControllerExpandVolume",
    "ControllerGetVolume",
    "ControllerGetVolumeHealth",
    "ControllerListVolumeHealth",
    "Explain",
    "GetPluginInfo",
    "GetPluginCapabilities",
    "Probe",
];

/// The service.
#[derive(Clone)]
pub struct Service {
    leader: Arc<Leader>,
    ready: Readiness,
    in_flight: Arc<Mutex<BTreeSet<String>>>,
}

/// A volume of which no other call is under way, until this is dropped.
struct Turn<'a> {
    service: &'a Service,
    volume: String,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let in_flight = self.service.in_flight.lock();
        in_flight
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.volume);
    }
}

impl Service {
    /// The service over what the leader knows; it answers while `ready` says so.
    #[must_use]
    pub fn new(leader: Arc<Leader>, ready: Readiness) -> Self {
        Self {
            leader,
            ready,
            in_flight: Arc::default(),
        }
    }

    /// CSI's part of it.
    #[must_use]
    pub fn controller(&self) -> ControllerServer<Self> {
        ControllerServer::new(self.clone())
    }

    /// Our own part.
    #[must_use]
    pub fn placement(&self) -> PlacementServer<Self> {
        PlacementServer::new(self.clone())
    }

    /// Only the leader answers, and only once it knows what there is.
    fn must_lead(&self) -> Result<(), Status> {
        let ready = self.ready.get();
        ready.map_err(|why| status(Reason::NotLeader, &why))
    }

    /// What decisions depend on besides the inventory.
    fn terms(&self) -> Terms {
        Terms {
            policy: self.leader.policy,
            now: self.leader.now(),
            may_place: self.leader.leadership.may_place(),
        }
    }

    fn turn(&self, volume: &str) -> Result<Turn<'_>, Status> {
        let in_flight = self.in_flight.lock();
        let mut in_flight = in_flight.unwrap_or_else(PoisonError::into_inner);
        if !in_flight.insert(volume.to_owned()) {
            return Err(status(Reason::OperationPending, ""));
        }
        Ok(Turn {
            service: self,
            volume: volume.to_owned(),
        })
    }

    /// The volume of an id that must be there. What was deleted by word is not there any more.
    fn volume(&self, id: &str) -> Result<VolumeEntry, Status> {
        existing(&self.leader.inventory(), id)
    }
}

/// Whether there can be a volume of that id at all.
fn can_exist(id: &str) -> bool {
    is_dns_label(id)
}

fn reply(volume: &VolumeEntry) -> wire::Volume {
    let here = (TOPOLOGY_NODE.to_owned(), volume.node.clone());
    wire::Volume {
        capacity_bytes: size::wire(volume.capacity_bytes),
        volume_id: volume.name.clone(),
        volume_context: BTreeMap::new(),
        content_source: None,
        accessible_topology: vec![Topology {
            segments: BTreeMap::from([here]),
        }],
    }
}

/// What the service can do, and nothing that it cannot.
const CAPABILITIES: [rpc::Type; 8] = [
    rpc::Type::CreateDeleteVolume,
    rpc::Type::ListVolumes,
    rpc::Type::GetCapacity,
    rpc::Type::ExpandVolume,
    rpc::Type::GetVolume,
    rpc::Type::SingleNodeMultiWriter,
    rpc::Type::GetVolumeHealth,
    rpc::Type::ListVolumeHealth,
];

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Controller for Service {
    async fn create_volume(
        &self,
        request: Request<wire::CreateVolumeRequest>,
    ) -> Answer<wire::CreateVolumeResponse> {
        let volume = Some(self.create(request.into_inner()).await?);
        Ok(Response::new(wire::CreateVolumeResponse { volume }))
    }

    async fn delete_volume(
        &self,
        request: Request<wire::DeleteVolumeRequest>,
    ) -> Answer<wire::DeleteVolumeResponse> {
        self.delete(&request.into_inner().volume_id).await?;
        Ok(Response::new(wire::DeleteVolumeResponse {}))
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<wire::ValidateVolumeCapabilitiesRequest>,
    ) -> Answer<wire::ValidateVolumeCapabilitiesResponse> {
        self.validate(request.into_inner()).map(Response::new)
    }

    async fn list_volumes(
        &self,
        request: Request<wire::ListVolumesRequest>,
    ) -> Answer<wire::ListVolumesResponse> {
        self.list(&request.into_inner()).map(Response::new)
    }

    async fn get_capacity(
        &self,
        request: Request<wire::GetCapacityRequest>,
    ) -> Answer<wire::GetCapacityResponse> {
        self.capacity(request.into_inner()).map(Response::new)
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<wire::ControllerGetCapabilitiesRequest>,
    ) -> Answer<wire::ControllerGetCapabilitiesResponse> {
        let capabilities = CAPABILITIES.map(|kind| ControllerServiceCapability {
            r#type: Some(Type::Rpc(Rpc {
                r#type: kind.into(),
            })),
        });
        Ok(Response::new(wire::ControllerGetCapabilitiesResponse {
            capabilities: capabilities.into(),
        }))
    }

    async fn controller_expand_volume(
        &self,
        request: Request<wire::ControllerExpandVolumeRequest>,
    ) -> Answer<wire::ControllerExpandVolumeResponse> {
        self.expand(request.into_inner()).await.map(Response::new)
    }

    async fn controller_get_volume(
        &self,
        request: Request<wire::ControllerGetVolumeRequest>,
    ) -> Answer<wire::ControllerGetVolumeResponse> {
        self.must_lead()?;
        let volume = self.volume(&request.into_inner().volume_id)?;
        Ok(Response::new(wire::ControllerGetVolumeResponse {
            volume: Some(reply(&volume)),
            status: Some(wire::controller_get_volume_response::VolumeStatus::default()),
        }))
    }

    async fn controller_get_volume_health(
        &self,
        request: Request<wire::ControllerGetVolumeHealthRequest>,
    ) -> Answer<wire::ControllerGetVolumeHealthResponse> {
        self.must_lead()?;
        let volume = self.volume(&request.into_inner().volume_id)?;
        let health = health::of(&volume, &self.leader.inventory());
        Ok(Response::new(wire::ControllerGetVolumeHealthResponse {
            volume_health: Some(health),
        }))
    }

    async fn controller_list_volume_health(
        &self,
        request: Request<wire::ControllerListVolumeHealthRequest>,
    ) -> Answer<wire::ControllerListVolumeHealthResponse> {
        self.list_health(&request.into_inner()).map(Response::new)
    }
}

#[tonic::async_trait]
impl Placement for Service {
    async fn explain(&self, request: Request<ExplainRequest>) -> Answer<ExplainResponse> {
        self.what_if(request.into_inner()).map(Response::new)
    }
}

#[cfg(test)]
#[path = "csi/tests.rs"]
mod tests;
