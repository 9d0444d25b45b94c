//! Registration with the kubelet, without a sidecar: a socket in the folder that it watches tells it where the CSI
//! services are.
//!
//! ```text
//!   kubelet: finds plugins_registry/ringpv.io-reg.sock ─► GetInfo ─► NodeGetInfo at the CSI socket ─► NotifyRegistrationStatus
//! ```
//! A refusal is logged with the kubelet's reason. The kubelet tries again by itself; where that brings nothing, or where
//! the socket was taken away, it gets a new one, which it takes for a new plugin. While it is away nothing is lost: it looks
//! through its folder when it starts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use api::csi::registration::registration_server::{Registration, RegistrationServer};
use api::csi::registration::{
    InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
};
use api::names::DRIVER;
use api::serve::{Readiness, socket};
use futures::{FutureExt as _, StreamExt as _};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

mod authority;

use authority::Localhost;

/// What the kubelet takes for a CSI driver.
const TYPE: &str = "CSIPlugin";
/// Versions of CSI that are spoken: the kubelet takes the highest of its own major one.
const VERSIONS: [&str; 1] = ["1.0.0"];
/// The kubelet's own attempts are waited for so long before it gets a new socket.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
/// How often it is looked whether the socket is there still.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Before a socket that could not be made is tried again.
const REST: Duration = Duration::from_secs(5);

/// Why an agent is not ready that the kubelet does not call.
const UNKNOWN: &str = "the kubelet does not know this driver yet";
const REFUSED: &str = "the kubelet refuses this driver";

/// How the registration stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Standing {
    /// The kubelet has not been here.
    #[default]
    Waiting,
    /// It calls the CSI services.
    Registered,
    /// It does not, and says why.
    Refused(String),
}

/// Where a kubelet finds the plugins that want to be known to it.
#[must_use]
pub fn socket_path(kubelet_dir: &Path) -> PathBuf {
    kubelet_dir
        .join("plugins_registry")
        .join(format!("{DRIVER}-reg.sock"))
}

/// Where a kubelet expects the CSI socket of a driver.
#[must_use]
pub fn csi_path(kubelet_dir: &Path) -> PathBuf {
    kubelet_dir.join("plugins").join(DRIVER).join("csi.sock")
}

/// Makes this node's driver known to its kubelet.
#[derive(Debug)]
pub struct KubeletRegistration {
    path: PathBuf,
    registered: Gauge,
    ready: Readiness,
}

impl KubeletRegistration {
    /// To the kubelet that watches for `path`. Whether it knows is told by a metric.
    #[must_use]
    pub fn new(path: PathBuf, registry: &mut Registry) -> Self {
        let registered = Gauge::default();
        registry.register(
            "ringpv_kubelet_registered",
            "1 while the kubelet calls this node's driver",
            registered.clone(),
        );
        Self {
            path,
            registered,
            ready: Readiness::waiting(UNKNOWN),
        }
    }

    /// Whether the kubelet knows.
    #[must_use]
    pub fn ready(&self) -> Readiness {
        self.ready.clone()
    }

    /// Keeps the CSI services at `csi` known until `stop`.
    pub async fn run(self, csi: PathBuf, stop: CancellationToken) {
        let Self {
            path,
            registered,
            ready,
        } = self;
        let (standing, _) = watch::channel(Standing::default());
        while !stop.is_cancelled() {
            standing.send_replace(Standing::Waiting);
            registered.set(0);
            ready.set_waiting(UNKNOWN);
            let service = Service {
                csi: csi.clone(),
                standing: standing.clone(),
                registered: registered.clone(),
                ready: ready.clone(),
            };
            let over = over(&path, standing.subscribe(), stop.clone());
            if let Err(error) = serve(&path, service, over).await {
                tracing::error!(%error, socket = %path.display(), "The kubelet cannot learn of this driver; tried again");
                stop.run_until_cancelled(tokio::time::sleep(REST)).await;
            }
        }
        registered.set(0);
    }
}

async fn serve(
    path: &Path,
    service: Service,
    over: impl Future<Output = ()>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (connections, file) = socket::listen(path, socket::OWNER).await?.into_parts();
    let connections = connections.map(|connection| connection.map(Localhost::new));
    let served = tonic::transport::Server::builder()
        .add_service(RegistrationServer::new(service))
        .serve_with_incoming_shutdown(connections, over)
        .await;
    drop(file);
    Ok(served?)
}

/// Ends when there should be another socket, or none: after a refusal that stays, when the file is gone, at the end.
async fn over(path: &Path, mut standing: watch::Receiver<Standing>, stop: CancellationToken) {
    let refused = async {
        loop {
            let is_refused = |standing: &Standing| matches!(standing, Standing::Refused(_));
            if standing.wait_for(is_refused).await.is_err() {
                return;
            }
            let registered = standing.wait_for(|standing| *standing == Standing::Registered);
            if tokio::time::timeout(AGAIN_AFTER, registered).await.is_err() {
                tracing::info!("The kubelet is asked anew");
                return;
            }
        }
    };
    let gone = async {
        // The socket is made after this begins.
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if !path.exists() {
                tracing::warn!(socket = %path.display(), "The socket was taken away; it is made anew");
                return;
            }
        }
    };
    let again = async {
        tokio::select! { () = refused => {}, () = gone => {} }
    };
    stop.run_until_cancelled(again).map(drop).await;
}

/// What the kubelet asks.
struct Service {
    csi: PathBuf,
    standing: watch::Sender<Standing>,
    registered: Gauge,
    ready: Readiness,
}

#[tonic::async_trait]
impl Registration for Service {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: TYPE.to_owned(),
            name: DRIVER.to_owned(),
            endpoint: self.csi.display().to_string(),
            supported_versions: VERSIONS.map(str::to_owned).to_vec(),
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let RegistrationStatus {
            plugin_registered,
            error,
        } = request.into_inner();
        self.registered.set(i64::from(plugin_registered));
        let standing = if plugin_registered {
            tracing::info!(driver = DRIVER, "Registered with the kubelet");
            self.ready.set_ready();
            Standing::Registered
        } else {
            tracing::error!(
                driver = DRIVER,
                reason = error,
                "The kubelet refuses this driver; pods with its volumes do not start"
            );
            self.ready.set_waiting(&format!("{REFUSED}: {error}"));
            Standing::Refused(error)
        };
        self.standing.send_replace(standing);
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

#[cfg(test)]
mod tests;
