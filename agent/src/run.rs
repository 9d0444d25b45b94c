//! The agent put together: the order of its start, what runs side by side, and its end.
//!
//! ```text
//!   backend ─► cluster id ─► devices ─► mount what is on disk ─► CSI services · metrics
//!                                                            └─► once the API answers, as that cluster's:
//!                                                                reconcile (Drives) · benchmarks · lease · node status
//! ```
//! Nothing of this waits for the API where the cluster's id is remembered, and nothing waits long for one drive. A mounted
//! drive outlives the agent: its end unmounts nothing.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use api::serve::calls::Calls;
use api::serve::logs::LogFilter;
use api::serve::{Readiness, admin, socket};
use block::erase::Limiter;
use futures::FutureExt as _;
use jiff::Timestamp;
use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::args::Args;
use crate::host::linux::engines::{Engines, Fitted};
use crate::host::{Host, LinuxHost};
use crate::metrics::Metrics;
use crate::node_status::{self, NodeFacts};
use crate::probe::reader::Reader;
use crate::probe::sysfs::Root;
use crate::probe::{Discovery, Policy};
use crate::reconcile::{self, Context, FromDisk};
use crate::registration::KubeletRegistration;
use crate::registry::Registry;
use crate::site::Site;
use crate::volumes::Volumes;
use crate::{benchmark, cluster, connect, csi, lease, topology};

/// How long the end may take before it is not waited for.
const END_MAX: Duration = Duration::from_secs(10);

/// Runs the agent until SIGTERM or SIGINT.
pub async fn run(args: Args, log: LogFilter) -> anyhow::Result<()> {
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "{}: the agent opens, formats and mounts devices; start it as root (sudo)",
        api::Reason::NotRoot
    );
    let backend = block::probe_backend(args.io_backend.into())?;
    tracing::info!(%backend, "Devices are read and written so");
    let state_dir = args.state_dir.display();
    std::fs::create_dir_all(&args.state_dir)
        .with_context(|| format!("cannot make the state directory {state_dir}"))?;
    let stop = stop_on_signal()?;
    let known = cluster::remembered(&args.state_dir).is_some();
    let connection = connect::connect(args.kubeconfig.as_deref(), known, &stop).await?;
    let client = connection.client.clone();
    let Some(cluster_id) = cluster::id(&client, &args.state_dir, &stop).await? else {
        return Ok(());
    };
    connection.bind(&cluster_id);
    let site = Arc::new(Site {
        node: args.node.clone(),
        cluster_id,
        state_dir: args.state_dir.clone(),
        xfs_errors: args.xfs_errors.into(),
    });
    let mut metrics = admin::registry_of_node("ringpv-agent", &args.node);
    // Before anything is mounted: a second agent on this node ends here.
    let csi_path = args.csi_path()?;
    let socket = socket::listen(&csi_path, socket::OWNER).await?;
    let calls = Calls::new(&mut metrics, &csi::KNOWN_CALLS);
    let registration = args.registration_path();
    let registration = registration.map(|path| KubeletRegistration::new(path, &mut metrics));
    let engines = Engines::new(backend);
    let fitted = engines.subscribe();
    let (ctx, discovery) = context(&args, site, client, engines, &mut metrics).await?;
    let mut tasks = JoinSet::new();
    let mut from_disk = FromDisk::new(ctx.clone());
    from_disk.first().await;
    let ready = Readiness::waiting("this node's Drives are not known yet");
    let registered = registration.as_ref().map(KubeletRegistration::ready);
    if let Some(address) = args.metrics_listen {
        let admin = admin::Admin {
            metrics: Arc::new(metrics),
            ready: std::iter::once(ready.clone()).chain(registered).collect(),
            log,
        };
        serve_admin(&mut tasks, address, admin, &stop).await?;
    }
    serve_volumes(&mut tasks, &ctx, (socket, calls), &ready, &stop);
    if let Some(registration) = registration {
        tasks.spawn(registration.run(csi_path, stop.clone()));
    }
    let facts = NodeFacts::read(&args.node, &ctx.site.cluster_id, &backend, "/proc".as_ref());
    ctx.metrics.io_backend(&facts.io_backend);
    let (metrics, mut ring_ended) = (Arc::clone(&ctx.metrics), discovery.ring_ended());
    let fallen = async move {
        if ring_ended.wait_for(|ended| *ended).await.is_ok() {
            metrics.io_backend(&node_status::after_ring());
        }
    };
    tasks.spawn(stop.clone().run_until_cancelled_owned(fallen).map(drop));
    let seen = (facts, discovery, fitted);
    tasks.spawn(serve_drives(ctx, from_disk, seen, ready, stop.clone()));
    stop.cancelled().await;
    tracing::info!("Ending; mounted drives stay mounted");
    let ended = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(END_MAX, ended).await.is_err() {
        tracing::warn!("Not all that runs has ended in time");
    }
    Ok(())
}

/// Drives: kept as wished, measured, and told of, with the node that has them. Not before the API is known to be that of
/// the cluster whose id the agent goes by: with an id that is only remembered, it would claim devices that another
/// cluster's Drives name for the old one. Until then what is on disk is mounted as it appears.
async fn serve_drives(
    ctx: Context,
    mut from_disk: FromDisk,
    (facts, discovery, fitted): (NodeFacts, Discovery, watch::Receiver<Fitted>),
    ready: Readiness,
    stop: CancellationToken,
) {
    let (client, site) = (&ctx.client, &ctx.site);
    let confirmed = cluster::confirm(client, &site.cluster_id, &stop);
    if !from_disk.until(confirmed).await {
        return;
    }
    let mut tasks = JoinSet::new();
    let late = stop.clone().run_until_cancelled_owned(from_disk.finish());
    tasks.spawn(late.map(drop));
    let (known, drives) = watch::channel(None);
    tasks.spawn(reconcile::run(ctx.clone(), known, stop.clone()));
    tasks.spawn(lease::run(
        client.clone(),
        site.node.clone(),
        ctx.clock,
        stop.clone(),
    ));
    tasks.spawn(benchmark::follow::run(
        ctx.clone(),
        drives.clone(),
        stop.clone(),
    ));
    tasks.spawn(tell_drives(
        ctx.clone(),
        (facts, fitted),
        drives,
        discovery,
        ready,
        stop.clone(),
    ));
    while tasks.join_next().await.is_some() {}
}

/// What all tasks share, and what looks at the devices.
async fn context(
    args: &Args,
    site: Arc<Site>,
    client: Client,
    engines: Engines,
    metrics: &mut prometheus_client::registry::Registry,
) -> anyhow::Result<(Context, Discovery)> {
    let uring = matches!(engines.host(), block::Backend::Uring { .. });
    let discovery = discovery(args, &site, uring).await?;
    let limits = args.limits();
    let limiter = Limiter::new(limits.erase_bytes_per_second_max);
    let host: Arc<dyn Host> = Arc::new(LinuxHost {
        sys: "/sys".into(),
        proc: "/proc".into(),
        engines,
        limiter: Arc::new(limiter),
        discovery: discovery.clone(),
    });
    let registry = Registry::default();
    let volumes = Volumes::new(
        Arc::clone(&host),
        &site.node,
        registry.clone(),
        client.clone(),
        Timestamp::now,
    );
    let ctx = Context {
        host,
        site,
        client,
        registry,
        volumes,
        snapshots: discovery.subscribe(),
        metrics: Arc::new(Metrics::new(metrics, &limits)),
        limits,
        erase_turns: Arc::default(),
        clock: Timestamp::now,
    };
    Ok((ctx, discovery))
}

/// Volumes: kept as promised, served over CSI, and told of where they have no object.
fn serve_volumes(
    tasks: &mut JoinSet<()>,
    ctx: &Context,
    (socket, calls): (socket::Socket, Calls),
    ready: &Readiness,
    stop: &CancellationToken,
) {
    let (node, client) = (&ctx.site.node, &ctx.client);
    let volumes = ctx.volumes.clone();
    let service =
        csi::NodeService::new(node, volumes.clone(), ctx.registry.clone(), client.clone());
    let told = topology::report(client.clone(), node.clone(), volumes.orphans());
    tasks.spawn(stop.clone().run_until_cancelled_owned(told).map(drop));
    tasks.spawn(volumes.run(stop.clone()));
    let served = csi::serve(socket, service, ready.clone(), calls, stop.clone());
    tasks.spawn(async move {
        if let Err(error) = served.await {
            tracing::error!(%error, "CSI calls are not answered any more");
        }
    });
}

async fn serve_admin(
    tasks: &mut JoinSet<()>,
    address: SocketAddr,
    admin: admin::Admin,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen at {address} for metrics"))?;
    let stopped = stop.clone().cancelled_owned();
    tasks.spawn(async move {
        if let Err(error) = admin::serve(listener, admin, stopped).await {
            tracing::error!(%error, "Metrics are not served any more");
        }
    });
    Ok(())
}

/// Tells discovery which Drives there are. Once that is known the node is told of as well, and the agent is ready:
/// before, every drive would look as if it had no object.
async fn tell_drives(
    ctx: Context,
    (facts, fitted): (NodeFacts, watch::Receiver<Fitted>),
    mut drives: watch::Receiver<Option<BTreeSet<String>>>,
    discovery: Discovery,
    ready: Readiness,
    stop: CancellationToken,
) {
    let tell = async {
        let mut told = false;
        loop {
            if let Some(known) = drives.borrow_and_update().clone() {
                discovery.set_drives(known);
                ready.set_ready();
                if !told {
                    told = true;
                    let report = node_status::report(
                        ctx.client.clone(),
                        facts.clone(),
                        (discovery.subscribe(), fitted.clone()),
                        discovery.ring_ended(),
                        ctx.registry.clone(),
                    );
                    tokio::spawn(stop.clone().run_until_cancelled_owned(report));
                }
            }
            if drives.changed().await.is_err() {
                return;
            }
        }
    };
    stop.run_until_cancelled(tell).await;
}

async fn discovery(args: &Args, site: &Site, uring: bool) -> anyhow::Result<Discovery> {
    let only = match args.devices.as_slice() {
        [] => None,
        patterns => Some(
            api::ellipsis::expand_all(patterns.iter().map(String::as_str)).context("--devices")?,
        ),
    };
    let reader = Reader {
        root: Root::default(),
        policy: Policy {
            node: site.node.clone(),
            cluster_id: site.cluster_id.clone(),
            drive_bytes_min: args.min_size.0,
            allow_loop: args.allow_loop,
            mount_root: site.state_dir.join("mnt"),
        },
        only,
    };
    let prober = block::probe::Prober::start(uring).context("cannot start the prober")?;
    Discovery::start(reader, prober, BTreeSet::new())
        .await
        .context("cannot look at the block devices")
}

/// A token that is cancelled by the first SIGTERM or SIGINT.
fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        token.cancel();
    });
    Ok(stop)
}
