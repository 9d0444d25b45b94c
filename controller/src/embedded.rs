//! The embedded API: the resources of `ringpv.io/v1alpha1` served over the Kubernetes wire format from a store of
//! this process's own, for one host, a demo, and every test. What it serves it serves as a kube-apiserver does, so
//! that agent, controller, CLI and kubectl are the same code in both settings; what it does not serve it refuses.
//!
//! ```text
//!  kubectl, agent, cli ── https ─► serve ─┐                       ┌─► state ──► get, list, watch
//!                                         ├─► service ─► request ─┤    ▲ published when on disk
//!  this process, tests ── in process ─────┘    (what is asked)    └─► store ─► change (pure) ─► disk
//!                                                                     one writer, one flush a batch
//! ```
//!
//! Served: get, list, watch, create, replace, merge patch, status, delete with finalizers; discovery and tables for
//! kubectl; validation by the definitions' schemas and rules. Not served: server-side apply, strategic and JSON patch,
//! garbage collection, conversion, paging (a list is whole), history older than the last few thousand changes.
//!
//! What it must never do: answer a write that is not on disk; open a store that it does not understand; listen
//! beyond this host.
//!
//! Start reading at [`change`], then [`store`].

mod change;
mod credentials;
mod discovery;
mod disk;
mod events;
mod fixed;
mod kinds;
mod metadata;
mod object;
mod openapi;
mod refusal;
mod request;
mod rules;
mod schema;
mod selector;
mod serve;
mod service;
mod state;
mod store;
mod table;
mod validate;
mod watching;

pub use self::credentials::CredentialsError;
pub use self::serve::{Listen, MalformedListen, ServeError, Server};
pub use self::service::{AnswerBody, Service};

use api::Reason;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

use self::disk::{Content, Disk};
use self::kinds::Kinds;
use self::request::{Ask, Target};
use self::state::{HistoryLimits, Shared, State};
use self::store::Store;

/// Where the revisions of a store in memory begin; as in a real cluster, the very first are long forgotten.
const MEMORY_REVISION: u64 = 1_000;

/// Where time comes from.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;
/// Where uids come from.
pub type Uids = Arc<dyn Fn() -> Uuid + Send + Sync>;
/// Who hears of every request for objects, before it is done.
pub type Observer = Arc<dyn Fn(&Call) + Send + Sync>;

/// A request for objects, as a role would permit it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` or `deletecollection`.
    pub verb: &'static str,
    /// API group; empty for core.
    pub group: String,
    /// Plural, with `/status` for the subresource.
    pub resource: String,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// Empty for lists and creations.
    pub name: String,
}

impl Call {
    fn of(target: &Target, ask: &Ask) -> Self {
        let verb = match ask {
            Ask::Get => "get",
            Ask::List(_) => "list",
            Ask::Watch(_) => "watch",
            Ask::DeleteCollection { .. } => "deletecollection",
            Ask::Mutate(mutation) => match mutation.act {
                change::Act::Create(_) => "create",
                change::Act::Replace { .. } => "update",
                change::Act::Merge { .. } => "patch",
                change::Act::Delete(_) => "delete",
            },
        };
        let subresource = if target.status { "/status" } else { "" };
        Self {
            verb,
            group: target.kind.group.clone(),
            resource: format!("{}{subresource}", target.kind.plural),
            namespace: target.namespace.clone(),
            name: target.name.clone().unwrap_or_default(),
        }
    }
}

/// How the API runs.
#[derive(Clone)]
pub struct Options {
    /// Time.
    pub clock: Clock,
    /// Uids of new objects, and the chance in generated names.
    pub uids: Uids,
    /// Hears of every request.
    pub observer: Option<Observer>,
    /// Events that are kept; the oldest go first.
    pub events_max: usize,
    /// Changes that a watch may lag behind.
    pub history_entries_max: usize,
    /// The same in bytes.
    pub history_bytes_max: usize,
}

impl Default for Options {
    /// The real clock and real chance.
    fn default() -> Self {
        Self {
            clock: Arc::new(Timestamp::now),
            uids: Arc::new(Uuid::new_v4),
            observer: None,
            events_max: 1_000,
            history_entries_max: 8_192,
            history_bytes_max: 8 << 20,
        }
    }
}

impl Options {
    fn history(&self) -> HistoryLimits {
        HistoryLimits {
            entries_max: self.history_entries_max,
            bytes_max: self.history_bytes_max,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("events_max", &self.events_max)
            .field("history_entries_max", &self.history_entries_max)
            .field("history_bytes_max", &self.history_bytes_max)
            .finish_non_exhaustive()
    }
}

/// Why the embedded API does not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the directory.
    #[error("{}: {path}: another controller uses this store; stop it first, or give --embedded another directory", Reason::StoreLocked, path = path.display())]
    StoreLocked {
        /// The store.
        path: PathBuf,
    },
    /// Written by a newer version.
    #[error("{}: {path}: the store has format {found}, this version knows up to {known}; start the newer version again", Reason::StoreNewer, path = path.display())]
    StoreNewer {
        /// The store.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// The format of this version.
        known: u64,
    },
    /// Cut, overwritten, or no store at all.
    #[error("{}: {path}: the store is damaged ({what}); nothing on the drives is lost: move this file away, start again, and run `kubectl ringpv adopt` to rebuild the objects from the drives", Reason::StoreDamaged, path = path.display())]
    StoreDamaged {
        /// The store.
        path: PathBuf,
        /// In what way.
        what: String,
    },
    /// An empty store could not be made.
    #[error("{path}: an empty store cannot be made: {what}", path = path.display())]
    StoreUnmade {
        /// The store.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// The directory or a small file in it.
    #[error("{path}: cannot be used", path = path.display())]
    Directory {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The process may not use the directory, or a file in it.
    #[error("{}: {path}: the user who started the controller may not use it; start it as root (sudo), or give it a directory of that user's with --embedded DIR", Reason::NotRoot, path = path.display())]
    NotRoot {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The cluster's id is no UUID.
    #[error("{path}: holds no UUID; it is the id that this cluster's drives bear: put it back from one of them (`kubectl ringpv discover` shows it), or remove the file to begin a new cluster", path = path.display())]
    ClusterId {
        /// The file.
        path: PathBuf,
    },
    /// The store holds the objects of another cluster than the file beside it names.
    #[error("{path}: names the cluster {found}, the store beside it holds the objects of {of_store}; remove this file to go on with the store, or move the store away to go on with this file", path = path.display())]
    OtherCluster {
        /// The file.
        path: PathBuf,
        /// The id in it.
        found: String,
        /// The id in the store.
        of_store: String,
    },
    /// A definition that this server cannot hold objects to.
    #[error("the definitions cannot be served: {0}")]
    Definitions(String),
}

impl OpenError {
    /// A file or directory that cannot be used: as who we are, or at all.
    fn unusable(path: &Path, source: std::io::Error) -> Self {
        let path = path.to_owned();
        if source.kind() == std::io::ErrorKind::PermissionDenied {
            Self::NotRoot { path, source }
        } else {
            Self::Directory { path, source }
        }
    }
}

/// The embedded API, open.
#[derive(Clone)]
pub struct Embedded {
    service: Service,
    directory: Option<PathBuf>,
    cluster_id: Arc<str>,
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded")
            .field("directory", &self.directory)
            .field("cluster_id", &self.cluster_id)
            .finish_non_exhaustive()
    }
}

impl Embedded {
    /// Opens the store in `directory`, making both where they are not.
    ///
    /// # Errors
    /// When the store is in use, of a newer version, damaged, or cannot be made. Nothing is changed then.
    pub fn open(directory: &Path, options: Options) -> Result<Self, OpenError> {
        let lock = credentials::lock(directory)?;
        let known_id = credentials::cluster_id(directory)?;
        let definitions = api::crds();
        let kinds = kinds(&definitions)?;
        let now = (options.clock)();
        // Revisions of a new store begin where no older one can have been, so that a client of a lost store
        // finds its own too old, instead of waiting for it.
        let first_revision = u64::try_from(now.as_millisecond()).unwrap_or(1);
        let path = directory.join("store.redb");
        let id = known_id
            .clone()
            .unwrap_or_else(|| (options.uids)().to_string());
        let (disk, content) = Disk::open(&path, &kinds, first_revision, &id, lock)?;
        let Content {
            objects,
            revision,
            cluster_id,
        } = content;
        credentials::keep_cluster_id(directory, known_id.as_deref(), &cluster_id)?;
        let shared = shared(
            &kinds,
            &definitions,
            &cluster_id,
            now,
            objects,
            revision,
            &options,
        );
        let store = Store::on_disk(shared, disk, &options)
            .map_err(|source| OpenError::unusable(directory, source))?;
        Ok(Self {
            service: Service::new(kinds, store, options),
            directory: Some(directory.to_owned()),
            cluster_id: cluster_id.into(),
        })
    }

    /// The same API over a store that is gone with the process. Everything happens in the caller's own turn, so it
    /// is as deterministic as the clock and the uids in `options`.
    ///
    /// # Errors
    /// When the definitions cannot be served.
    pub fn in_memory(cluster_id: &str, options: Options) -> Result<Self, OpenError> {
        let definitions = api::crds();
        let kinds = kinds(&definitions)?;
        let now = (options.clock)();
        let objects = BTreeMap::new();
        let shared = shared(
            &kinds,
            &definitions,
            cluster_id,
            now,
            objects,
            MEMORY_REVISION,
            &options,
        );
        let store = Store::in_memory(shared, &options);
        Ok(Self {
            service: Service::new(kinds, store, options),
            directory: None,
            cluster_id: cluster_id.into(),
        })
    }

    /// A client that talks to this API without a socket.
    ///
    /// Must be called within a tokio runtime.
    #[must_use]
    pub fn client(&self) -> kube::Client {
        kube::Client::new(self.service(), api::names::NAMESPACE)
    }

    /// The API as a service, for those who put something between it and a client.
    #[must_use]
    pub fn service(&self) -> Service {
        self.service.clone()
    }

    /// The id that this cluster's drives bear: the uid of the namespace `kube-system`.
    #[must_use]
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// Serves the API on `listen` until the server is stopped or dropped, and writes the kubeconfig.
    ///
    /// # Errors
    /// When the address cannot be had, or is not of this host, or the credentials cannot be made.
    pub async fn serve(&self, listen: &Listen) -> Result<Server, ServeError> {
        let directory = self.directory.as_deref().ok_or(ServeError::NoDirectory)?;
        Server::start(self.service(), directory, listen).await
    }

    /// Ends all writing and releases the store. What was acknowledged is on disk; what comes later is refused.
    pub fn close(&self) {
        self.service.store().close();
    }
}

fn kinds(
    definitions: &[k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition],
) -> Result<Kinds, OpenError> {
    Kinds::new(definitions).map_err(|error| OpenError::Definitions(error.to_string()))
}

fn shared(
    kinds: &Kinds,
    definitions: &[k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition],
    cluster_id: &str,
    now: Timestamp,
    mut objects: BTreeMap<Box<str>, Arc<object::Object>>,
    revision: u64,
    options: &Options,
) -> Arc<Shared> {
    objects.extend(fixed::objects(
        kinds,
        definitions,
        cluster_id,
        now,
        revision,
    ));
    Arc::new(Shared::new(State::new(
        objects,
        revision,
        options.history(),
    )))
}

#[cfg(test)]
mod tests;
