//! The wiring: API → election → watches → inventory → decisions → effects, and the sockets around it.
//!
//! Order of the start: the store (or the cluster's API), the sockets, the election, then a consistent list of
//! everything, and only then it is ready. Order of the end: no new calls, the calls and effects under way, the lease
//! given up, the store.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::names::NAMESPACE;
use api::serve::admin::{self, Admin};
use api::serve::calls::Calls;
use api::serve::identity::IdentityService;
use api::serve::logs::LogFilter;
use api::serve::socket::{self, SocketError};
use api::serve::{Readiness, socket::SocketFile};
use api::{Drive, StorageNode, Volume};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;

use crate::args::Args;
use crate::csi::{CALLS, Service};
use crate::effects::{self, Queue};
use crate::embedded::{Embedded, OpenError, Options, ServeError, Server};
use crate::health::{Health, Settings};
use crate::leader::Leader;
use crate::lease::{Campaign, LeaseLost};
use crate::lifecycle::{Effect, Lifecycle};
use crate::metrics::{InventoryMetrics, Metrics};
use crate::watching::{self, Synced};

/// Looks follow changes after this rest, so that many changes make one look.
const REST: Duration = Duration::from_millis(50);
/// A look is taken so often without any change.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Promises of this age of which nothing was seen are looked up.
pub const DOUBT_AFTER: Duration = Duration::from_secs(15);
/// How long the end of calls and effects is waited for.
const DRAIN: Duration = Duration::from_secs(5);

/// Why the controller does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The embedded API does not start.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The CSI socket cannot be had.
    #[error("--csi-endpoint")]
    Socket(#[from] SocketError),
    /// The address for metrics cannot be had.
    #[error("--metrics-listen {address}")]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No way to the API.
    #[error(
        "no way to the API: {0}; give --kubeconfig FILE, or --embedded DIR to serve it from here"
    )]
    NoCluster(String),
    /// The lease is lost; another process leads, or none.
    #[error("this controller does not lead any more, and has to be started again to take part")]
    Lease(#[from] LeaseLost),
    /// The CSI server failed.
    #[error("the CSI server failed")]
    Csi(#[source] tonic::transport::Error),
    /// The signals cannot be heard.
    #[error("signals cannot be heard")]
    Signals(#[source] io::Error),
}

impl RunError {
    /// The process's exit status: 1 where something is in the way that a person has to clear, 2 for wrong usage,
    /// 3 where it failed.
    #[must_use]
    pub const fn exit_status(&self) -> u8 {
        match self {
            Self::Socket(SocketError::Malformed(_) | SocketError::TooLong(_)) => 2,
            Self::Open(_) | Self::Socket(_) | Self::Metrics { .. } | Self::NoCluster(_) => 1,
            Self::Serve(_) | Self::Lease(_) | Self::Csi(_) | Self::Signals(_) => 3,
        }
    }
}

/// Runs until a signal, or until it cannot.
///
/// # Errors
/// Why it does not start, or had to end.
pub async fn run(args: Args, log: LogFilter) -> Result<(), RunError> {
    let stop = stop_on_signals()?;
    let api = open_api(&args).await?;
    let (connections, file) = socket::listen(
        &socket::path_of(&args.csi_endpoint)?,
        socket::OWNER_AND_GROUP,
    )
    .await?
    .into_parts();
    let ready = Readiness::waiting("this controller does not lead yet");
    let mut registry = admin::registry("ringpv-controller");
    let metrics = Metrics::new(&mut registry);
    let calls = Calls::new(&mut registry, &CALLS);
    let mut campaign = Campaign::new(
        api.client.clone(),
        api.identity.clone(),
        api.gone.clone(),
        Timestamp::now,
    );
    let leader = Arc::new(Leader::new(
        api.client.clone(),
        args.policy(),
        campaign.leadership(),
        metrics,
        Timestamp::now,
    ));
    InventoryMetrics::register(&mut registry, Arc::downgrade(&leader));
    let admin = Admin {
        metrics: Arc::new(registry),
        ready: vec![ready.clone()],
        log,
    };
    let admin = serve_admin(args.metrics_listen, admin, &stop).await?;
    let csi_stop = CancellationToken::new();
    let csi = serve_csi(connections, file, &leader, &ready, calls, csi_stop.clone());

    let outcome = if campaign.win(&stop).await {
        leader.metrics.leads.set(1);
        tracing::info!(identity = api.identity, "this controller leads");
        lead(&args, &leader, &ready, &mut campaign, &stop).await
    } else {
        Ok(())
    };

    ready.set_waiting("this controller is stopping");
    leader.metrics.leads.set(0);
    csi_stop.cancel();
    let csi = timeout(DRAIN, csi).await;
    if outcome.is_ok() {
        campaign.give_up().await;
    }
    stop.cancel();
    if let Some(admin) = admin {
        timeout(DRAIN, admin).await.ok();
    }
    api.close().await;
    outcome?;
    tracing::info!("stopped");
    match csi {
        Ok(Ok(Err(error))) => Err(RunError::Csi(error)),
        Ok(Ok(Ok(())) | Err(_)) | Err(_) => Ok(()),
    }
}

/// The API, and how this process is called in the election.
struct ApiAccess {
    client: Client,
    identity: String,
    gone: Option<String>,
    embedded: Option<(Embedded, Server)>,
}

impl ApiAccess {
    async fn close(self) {
        if let Some((embedded, server)) = self.embedded {
            server.stop().await;
            embedded.close();
        }
    }
}

async fn open_api(args: &Args) -> Result<ApiAccess, RunError> {
    let unique = uuid::Uuid::new_v4();
    if let Some(directory) = &args.embedded {
        let embedded = Embedded::open(directory, Options::default())?;
        let server = embedded.serve(&args.listen.unwrap_or_default()).await?;
        tracing::info!(
            address = server.address(),
            kubeconfig = %server.kubeconfig().display(),
            cluster = embedded.cluster_id(),
            "the API is served"
        );
        // Whoever led from this store before held its lock, which is ours now: he is gone.
        let gone = format!("embedded:{}:", embedded.cluster_id());
        return Ok(ApiAccess {
            client: embedded.client(),
            identity: format!("{gone}{unique}"),
            gone: Some(gone),
            embedded: Some((embedded, server)),
        });
    }
    let no_cluster = |error: &dyn std::fmt::Display| RunError::NoCluster(error.to_string());
    let config = match &args.kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path).map_err(|e| no_cluster(&e))?;
            let options = KubeConfigOptions::default();
            let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
            config.map_err(|e| no_cluster(&e))?
        }
        None => kube::Config::infer().await.map_err(|e| no_cluster(&e))?,
    };
    let client = Client::try_from(config).map_err(|e| no_cluster(&e))?;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Ok(ApiAccess {
        client,
        identity: format!("{}:{unique}", host.trim()),
        gone: None,
        embedded: None,
    })
}

fn stop_on_signals() -> Result<CancellationToken, RunError> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    let stopped = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = stopped.cancelled() => {}
        }
        stopped.cancel();
    });
    Ok(stop)
}

async fn serve_admin(
    address: Option<SocketAddr>,
    admin: Admin,
    stop: &CancellationToken,
) -> Result<Option<JoinHandle<io::Result<()>>>, RunError> {
    let Some(address) = address else {
        return Ok(None);
    };
    let failed = |source| RunError::Metrics { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    tracing::info!(address = %bound, "metrics are served");
    let stop = stop.clone().cancelled_owned();
    Ok(Some(tokio::spawn(admin::serve(listener, admin, stop))))
}

fn serve_csi(
    connections: UnixListenerStream,
    file: SocketFile,
    leader: &Arc<Leader>,
    ready: &Readiness,
    calls: Calls,
    stop: CancellationToken,
) -> JoinHandle<Result<(), tonic::transport::Error>> {
    let service = Service::new(leader.clone(), ready.clone());
    let router = tonic::transport::Server::builder()
        .layer(calls)
        .add_service(IdentityService::server("ringpv-controller", ready.clone()))
        .add_service(service.controller())
        .add_service(service.placement());
    tokio::spawn(async move {
        let served = router.serve_with_incoming_shutdown(connections, stop.cancelled_owned());
        let result = served.await;
        drop(file);
        result
    })
}

/// Everything that only the leader does, until it is stopped or loses the lease.
async fn lead(
    args: &Args,
    leader: &Arc<Leader>,
    ready: &Readiness,
    campaign: &mut Campaign,
    stop: &CancellationToken,
) -> Result<(), RunError> {
    let over = CancellationToken::new();
    let changed = Arc::new(Notify::new());
    let (synced, mut all_synced) = watch::channel(Synced::default());
    let (client, synced) = (&leader.client, Arc::new(synced));
    let tasks = [
        tokio::spawn(watching::watch::<StorageNode>(
            Api::all(client.clone()),
            leader.clone(),
            changed.clone(),
            synced.clone(),
            over.clone(),
        )),
        tokio::spawn(watching::watch::<Drive>(
            Api::all(client.clone()),
            leader.clone(),
            changed.clone(),
            synced.clone(),
            over.clone(),
        )),
        tokio::spawn(watching::watch::<Volume>(
            Api::all(client.clone()),
            leader.clone(),
            changed.clone(),
            synced.clone(),
            over.clone(),
        )),
        // A renewal changes nothing: that one is missing shows at the next look.
        tokio::spawn(watching::watch::<Lease>(
            Api::namespaced(client.clone(), NAMESPACE),
            leader.clone(),
            Arc::default(),
            synced,
            over.clone(),
        )),
    ];
    let (queue, writer) = effects::queue(leader.clone());
    let writer = tokio::spawn(writer);
    let work = async {
        if all_synced.wait_for(Synced::is_complete).await.is_err() {
            return;
        }
        ready.set_ready();
        tracing::info!("ready");
        tokio::join!(
            look(leader, &queue, &changed),
            judge(leader, &queue, args.health()),
            settle_doubts(leader),
        );
    };
    let outcome = tokio::select! {
        outcome = campaign.hold(stop) => outcome.map_err(RunError::from),
        () = work => Ok(()),
    };
    ready.set_waiting("this controller is stopping");
    over.cancel();
    drop(queue);
    timeout(DRAIN, writer).await.ok();
    for task in tasks {
        timeout(DRAIN, task).await.ok();
    }
    outcome
}

/// Looks at everything after each change, and sometimes without one.
async fn look(leader: &Leader, queue: &Queue, changed: &Notify) {
    let mut lifecycle = Lifecycle::default();
    loop {
        let effects = {
            let (now, may_place) = (leader.now(), leader.leadership.may_place());
            let mut inventory = leader.inventory();
            for node in inventory.note_lacks(now) {
                tracing::warn!(node = &*node, reason = %api::Reason::NodeSilent, "a node has drives but no StorageNode; no volume is placed there until its agent makes one");
            }
            lifecycle.step(&mut inventory, leader.policy, now, may_place)
        };
        for effect in effects {
            let placed = match &effect {
                Effect::Place { volume, .. } => Some(volume.clone()),
                Effect::Finalizers { .. }
                | Effect::Verdict(_)
                | Effect::Silence { .. }
                | Effect::Refuse(_)
                | Effect::Tell(_) => None,
            };
            // An effect of the same volume under way holds the promise itself.
            if !queue.offer(effect)
                && let Some(volume) = placed
            {
                leader.inventory().withdraw(&volume);
            }
        }
        tokio::select! {
            () = changed.notified() => sleep(REST).await,
            () = sleep(LOOK_AGAIN) => {}
        }
    }
}

/// Judges all drives, ten times a window.
async fn judge(leader: &Leader, queue: &Queue, settings: Settings) {
    let mut health = Health::new(settings);
    let tick = Duration::try_from(settings.tick()).unwrap_or(Duration::from_secs(30));
    let mut ticks = interval(tick);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let judgements = health.round(&leader.inventory(), leader.now());
        for judgement in judgements {
            queue.offer(Effect::Verdict(judgement));
        }
    }
}

/// Looks up promises of which nothing was seen.
async fn settle_doubts(leader: &Leader) {
    loop {
        sleep(DOUBT_AFTER / 3).await;
        let before = leader.now() - DOUBT_AFTER;
        let doubtful = leader.inventory().doubtful(before);
        for volume in doubtful {
            match leader.settle(&volume).await {
                Ok(found) => {
                    tracing::debug!(volume, there = found.is_some(), "a promise was looked up")
                }
                Err(error) => tracing::debug!(volume, %error, "a promise could not be looked up"),
            }
        }
    }
}
