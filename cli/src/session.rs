//! What a verb works with: the screen, the clock, the API server, the two CSI sockets. Each is opened when it is first
//! needed, so `help` and a mistyped file need no cluster.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use api::{Drive, Reason, StorageNode, Volume};
use jiff::Timestamp;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt as _};
use serde::de::DeserializeOwned;

use crate::advice::{Hint, Refusal, Stop};
use crate::args::Global;
use crate::screen::Screen;

/// Where the embedded controller of this host leaves its kubeconfig.
const EMBEDDED_KUBECONFIG: &str = "/var/lib/ringpv/embedded/kubeconfig";
/// A server that accepts no connection within this is not there.
const CONNECT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// One run of the command.
pub(crate) struct Session {
    /// Where words go.
    pub(crate) screen: Screen,
    /// What was given before or after any verb.
    pub(crate) global: Global,
    clock: fn() -> Timestamp,
    client: Option<Client>,
}

/// Everything that most verbs look at, fetched together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inventory {
    /// Nodes by name.
    pub(crate) nodes: Vec<StorageNode>,
    /// Drives by node and name.
    pub(crate) drives: Vec<Drive>,
    /// Volumes by name.
    pub(crate) volumes: Vec<Volume>,
}

impl Inventory {
    /// Names of the nodes whose agents are not heard of.
    pub(crate) fn silent_nodes(&self) -> BTreeSet<String> {
        let silent = self.nodes.iter().filter(|node| {
            let status = node.status.as_ref();
            status.is_some_and(|status| status.silent_since.is_some())
        });
        silent.map(|node| node.name_any()).collect()
    }
}

impl Session {
    /// A run that opens what it needs; with a client, that one is used.
    pub(crate) fn new(
        screen: Screen,
        global: Global,
        clock: fn() -> Timestamp,
        client: Option<Client>,
    ) -> Self {
        Self {
            screen,
            global,
            clock,
            client,
        }
    }

    /// The time.
    pub(crate) fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// Says something beside the result.
    pub(crate) fn hint(&mut self, hint: &Hint) -> Result<(), Stop> {
        Ok(self.screen.note(hint)?)
    }

    /// The API server.
    pub(crate) async fn client(&mut self) -> Result<Client, Stop> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let client = connect(&self.global).await?;
        self.client = Some(client.clone());
        Ok(client)
    }

    /// All objects of one kind.
    pub(crate) async fn all<K>(&mut self) -> Result<Vec<K>, Stop>
    where
        K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
        K: kube::Resource<Scope = kube::core::ClusterResourceScope>,
    {
        let api: Api<K> = Api::all(self.client().await?);
        Ok(api.list(&ListParams::default()).await?.items)
    }

    /// Nodes, drives and volumes.
    pub(crate) async fn inventory(&mut self) -> Result<Inventory, Stop> {
        let client = self.client().await?;
        let all = ListParams::default();
        let (nodes, drives, volumes) = (
            Api::<StorageNode>::all(client.clone()),
            Api::<Drive>::all(client.clone()),
            Api::<Volume>::all(client),
        );
        let (nodes, drives, volumes) =
            tokio::try_join!(nodes.list(&all), drives.list(&all), volumes.list(&all))?;
        Ok(Inventory {
            nodes: nodes.items,
            drives: drives.items,
            volumes: volumes.items,
        })
    }

    /// An API of one of our kinds.
    pub(crate) async fn api<K>(&mut self) -> Result<Api<K>, Stop>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope>,
    {
        Ok(Api::all(self.client().await?))
    }
}

/// The kubeconfig to use: the one given, else `KUBECONFIG`, else `~/.kube/config`, else the embedded controller's.
fn kubeconfig(global: &Global) -> Result<Kubeconfig, Stop> {
    if let Some(path) = &global.kubeconfig {
        return read_kubeconfig(path);
    }
    let found = Kubeconfig::from_env().context("KUBECONFIG names a file that cannot be read");
    if let Some(found) = found.map_err(|e| unreadable("KUBECONFIG", e))? {
        return Ok(found);
    }
    let home = std::env::home_dir().map(|h| h.join(".kube/config"));
    let places = home.into_iter().chain([PathBuf::from(EMBEDDED_KUBECONFIG)]);
    for path in places {
        match path.try_exists() {
            Ok(true) => return read_kubeconfig(&path),
            Ok(false) => {}
            Err(error) => {
                let shown = path.display().to_string();
                let error = anyhow::Error::from(error).context(format!("cannot look at {shown}"));
                return Err(unreadable(&shown, error));
            }
        }
    }
    Err(Stop::refused(Refusal::new(Reason::NoCluster, "").detail(format!(
        "no API server is known: neither --kubeconfig nor KUBECONFIG is given, and there is no ~/.kube/config and no {EMBEDDED_KUBECONFIG}"
    ))))
}

fn read_kubeconfig(path: &Path) -> Result<Kubeconfig, Stop> {
    let shown = path.display().to_string();
    let read = Kubeconfig::read_from(path);
    let read = read.with_context(|| format!("cannot use the kubeconfig {shown}"));
    read.map_err(|error| unreadable(&shown, error))
}

/// A kubeconfig, or what it names, that cannot be read: refused where only the permission lacks.
fn unreadable(what: &str, error: anyhow::Error) -> Stop {
    let denied = |cause: &(dyn std::error::Error + 'static)| {
        let io = cause.downcast_ref::<std::io::Error>();
        io.is_some_and(|e| e.kind() == std::io::ErrorKind::PermissionDenied)
    };
    if !error.chain().any(denied) {
        return Stop::Failed(error);
    }
    Stop::refused(
        Refusal::new(Reason::NotRoot, what)
            .detail("you may not read it; the embedded controller's is for root alone")
            .next("run it as root (sudo), or name a kubeconfig of your own with --kubeconfig"),
    )
}

async fn connect(global: &Global) -> Result<Client, Stop> {
    let options = KubeConfigOptions {
        context: global.context.clone(),
        ..KubeConfigOptions::default()
    };
    let config = Config::from_custom_kubeconfig(kubeconfig(global)?, &options).await;
    let config = config.context("the kubeconfig cannot be used");
    let mut config = config.map_err(|e| unreadable("what the kubeconfig names", e))?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    Ok(Client::try_from(config).context("the kubeconfig cannot be used")?)
}
