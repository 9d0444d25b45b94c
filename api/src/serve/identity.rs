//! The Identity service, the same at both sockets: a suite or sidecar that asks the agent must learn of the
//! controller's service too, or it leaves half of its questions unasked.

use std::collections::BTreeMap;

use tonic::{Request, Response, Status};

use super::Readiness;
use crate::csi::plugin_capability::{Service, Type, VolumeExpansion, service, volume_expansion};
use crate::csi::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest,
    GetPluginInfoResponse, PluginCapability, ProbeRequest, ProbeResponse,
    identity_server::{Identity, IdentityServer},
};
use crate::names;

/// Who answers at this socket.
#[derive(Clone, Debug)]
pub struct IdentityService {
    ready: Readiness,
    process: &'static str,
}

impl IdentityService {
    /// The service of `process` (its binary's name), which is ready when `ready` says so.
    #[must_use]
    pub fn server(process: &'static str, ready: Readiness) -> IdentityServer<Self> {
        IdentityServer::new(Self { ready, process })
    }
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn get_plugin_info(
        &self,
        _: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse {
            name: names::DRIVER.to_owned(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: BTreeMap::from([("process".to_owned(), self.process.to_owned())]),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        let service = |kind: service::Type| {
            Type::Service(Service {
                r#type: kind.into(),
            })
        };
        let capabilities = [
            service(service::Type::ControllerService),
            service(service::Type::VolumeAccessibilityConstraints),
            Type::VolumeExpansion(VolumeExpansion {
                r#type: volume_expansion::Type::Online.into(),
            }),
        ];
        Ok(Response::new(GetPluginCapabilitiesResponse {
            capabilities: capabilities
                .into_iter()
                .map(|kind| PluginCapability { r#type: Some(kind) })
                .collect(),
        }))
    }

    /// Not ready is an answer, not an error: an error would make sidecars give up. The reason stands at `/readyz`.
    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        Ok(Response::new(ProbeResponse {
            ready: Some(self.ready.get().is_ok()),
        }))
    }
}
