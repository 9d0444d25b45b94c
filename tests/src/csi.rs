//! CSI calls over a Unix socket, as kubelet and the provisioner make them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use api::csi::controller_client::ControllerClient;
use api::csi::identity_client::IdentityClient;
use api::csi::node_client::NodeClient;
use api::csi::*;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// Parameters of a class that any drive can serve, whatever its kernel enforces.
#[must_use]
pub fn best_effort() -> BTreeMap<&'static str, &'static str> {
    BTreeMap::from([("capacity-enforcement", "best-effort")])
}

/// A CSI socket.
#[derive(Clone, Debug)]
pub struct Csi {
    socket: PathBuf,
}

impl Csi {
    /// The socket at a path; nothing is opened yet.
    #[must_use]
    pub fn at(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// Opens it.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn channel(&self) -> Result<Channel, tonic::transport::Error> {
        let socket = self.socket.clone();
        let connect = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        Endpoint::from_static("http://localhost")
            .connect_with_connector(connect)
            .await
    }

    async fn open(&self) -> Result<Channel, Status> {
        let unavailable = |e: tonic::transport::Error| Status::unavailable(e.to_string());
        self.channel().await.map_err(unavailable)
    }

    /// Whether its Probe says that it is ready.
    pub async fn ready(&self) -> bool {
        let Ok(channel) = self.channel().await else {
            return false;
        };
        let answer = IdentityClient::new(channel)
            .probe(ProbeRequest::default())
            .await;
        answer.is_ok_and(|answer| answer.into_inner().ready != Some(false))
    }

    /// CreateVolume for a mounted, single-node volume.
    ///
    /// # Errors
    /// As the controller answers.
    pub async fn create(
        &self,
        name: &str,
        bytes: i64,
        parameters: &BTreeMap<&str, &str>,
    ) -> Result<Volume, Status> {
        let request = create_request(name, bytes, parameters);
        let answer = ControllerClient::new(self.open().await?)
            .create_volume(request)
            .await?;
        answer
            .into_inner()
            .volume
            .ok_or_else(|| Status::internal("no volume in the answer"))
    }

    /// DeleteVolume.
    ///
    /// # Errors
    /// As the controller answers.
    pub async fn delete(&self, id: &str) -> Result<(), Status> {
        let request = DeleteVolumeRequest {
            volume_id: id.to_owned(),
            ..Default::default()
        };
        ControllerClient::new(self.open().await?)
            .delete_volume(request)
            .await?;
        Ok(())
    }

    /// ControllerExpandVolume.
    ///
    /// # Errors
    /// As the controller answers.
    pub async fn expand(&self, id: &str, bytes: i64) -> Result<i64, Status> {
        let request = ControllerExpandVolumeRequest {
            volume_id: id.to_owned(),
            capacity_range: Some(CapacityRange {
                required_bytes: bytes,
                limit_bytes: 0,
            }),
            ..Default::default()
        };
        let answer = ControllerClient::new(self.open().await?)
            .controller_expand_volume(request)
            .await?;
        Ok(answer.into_inner().capacity_bytes)
    }

    /// NodePublishVolume of an inline ephemeral volume, as the kubelet makes it for a pod.
    ///
    /// # Errors
    /// As the agent answers.
    pub async fn publish_inline(&self, id: &str, size: &str, target: &Path) -> Result<(), Status> {
        let context = [
            ("csi.storage.k8s.io/ephemeral", "true"),
            ("capacity-enforcement", "best-effort"),
            ("size", size),
        ];
        let request = NodePublishVolumeRequest {
            volume_id: id.to_owned(),
            target_path: target.to_string_lossy().into_owned(),
            volume_capability: Some(writer()),
            volume_context: context
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            ..Default::default()
        };
        NodeClient::new(self.open().await?)
            .node_publish_volume(request)
            .await?;
        Ok(())
    }

    /// NodeStageVolume.
    ///
    /// # Errors
    /// As the agent answers.
    pub async fn stage(&self, id: &str, staging: &Path) -> Result<(), Status> {
        let request = NodeStageVolumeRequest {
            volume_id: id.to_owned(),
            staging_target_path: staging.to_string_lossy().into_owned(),
            volume_capability: Some(writer()),
            ..Default::default()
        };
        NodeClient::new(self.open().await?)
            .node_stage_volume(request)
            .await?;
        Ok(())
    }

    /// NodePublishVolume.
    ///
    /// # Errors
    /// As the agent answers.
    pub async fn publish(
        &self,
        id: &str,
        staging: &Path,
        target: &Path,
        readonly: bool,
    ) -> Result<(), Status> {
        let request = NodePublishVolumeRequest {
            volume_id: id.to_owned(),
            staging_target_path: staging.to_string_lossy().into_owned(),
            target_path: target.to_string_lossy().into_owned(),
            volume_capability: Some(writer()),
            readonly,
            ..Default::default()
        };
        NodeClient::new(self.open().await?)
            .node_publish_volume(request)
            .await?;
        Ok(())
    }

    /// NodeUnpublishVolume.
    ///
    /// # Errors
    /// As the agent answers.
    pub async fn unpublish(&self, id: &str, target: &Path) -> Result<(), Status> {
        let request = NodeUnpublishVolumeRequest {
            volume_id: id.to_owned(),
            target_path: target.to_string_lossy().into_owned(),
        };
        NodeClient::new(self.open().await?)
            .node_unpublish_volume(request)
            .await?;
        Ok(())
    }

    /// NodeUnstageVolume.
    ///
    /// # Errors
    /// As the agent answers.
    pub async fn unstage(&self, id: &str, staging: &Path) -> Result<(), Status> {
        let request = NodeUnstageVolumeRequest {
            volume_id: id.to_owned(),
            staging_target_path: staging.to_string_lossy().into_owned(),
        };
        NodeClient::new(self.open().await?)
            .node_unstage_volume(request)
            .await?;
        Ok(())
    }
}

/// A request for a mounted, single-node volume.
#[must_use]
pub fn create_request(
    name: &str,
    bytes: i64,
    parameters: &BTreeMap<&str, &str>,
) -> CreateVolumeRequest {
    CreateVolumeRequest {
        name: name.to_owned(),
        capacity_range: Some(CapacityRange {
            required_bytes: bytes,
            limit_bytes: 0,
        }),
        volume_capabilities: vec![writer()],
        parameters: parameters
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        ..Default::default()
    }
}

/// The capability of a pod that writes on its node.
#[must_use]
pub fn writer() -> VolumeCapability {
    VolumeCapability {
        access_mode: Some(volume_capability::AccessMode {
            mode: volume_capability::access_mode::Mode::SingleNodeWriter.into(),
        }),
        access_type: Some(volume_capability::AccessType::Mount(Default::default())),
    }
}

/// Calls again while the answer is that one should: a call under way, a process that starts.
///
/// # Errors
/// The first answer of another kind, or the last after `tries`.
pub async fn patiently<T, F>(tries: u32, mut call: impl FnMut() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<T, Status>>,
{
    for _ in 1..tries {
        match call().await {
            Err(status) if matches!(status.code(), Code::Aborted | Code::Unavailable) => {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            answer => return answer,
        }
    }
    call().await
}
