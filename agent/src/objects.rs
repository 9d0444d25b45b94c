//! Writes to the API: status as a merge patch, finalizers, both under the object's resourceVersion, and events. Nothing else
//! is written.
//!
//! A name may be another object by now. A uid in a patch of the status says nothing: of a custom resource the API server
//! keeps all metadata as they are, and only the version is compared. So that is named, and the uid looked at where it moved.

use std::collections::VecDeque;
use std::time::Duration;

use api::event::{EVENTS_NAMESPACE, Notice};
use api::names::MANAGER_AGENT;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

/// How long one write may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a status is tried again because others wrote to the object meanwhile.
const STATUS_TRIES_MAX: usize = 8;

/// A write that was not done.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The object is not there (any more).
    #[error("{0} is gone")]
    Gone(String),
    /// It was deleted, and another one made under its name.
    #[error("{0} is another object by now")]
    Replaced(String),
    /// Somebody else was faster.
    #[error("{0} was changed meanwhile")]
    Conflict(String),
    /// The API server refused or did not answer.
    #[error("writing {name}")]
    Api {
        /// Object.
        name: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// No answer in time.
    #[error("writing {0}: no answer within {t} s", t = WRITE_TIMEOUT.as_secs())]
    TimedOut(String),
}

/// Tells people, and does not wait for it: an event that is lost says nothing that the status does not say as well.
pub fn tell(client: kube::Client, notice: &Notice, now: Timestamp) {
    let event = notice.event(MANAGER_AGENT, now);
    let name = notice.name.clone();
    tokio::spawn(async move {
        let events: Api<Event> = Api::namespaced(client, EVENTS_NAMESPACE);
        let params = PostParams {
            field_manager: Some(MANAGER_AGENT.to_owned()),
            ..PostParams::default()
        };
        if let Err(error) = within(&name, events.create(&params, &event)).await {
            tracing::debug!(name, %error, "An event could not be written");
        }
    });
}

async fn within<T>(
    name: &str,
    write: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, WriteError> {
    match tokio::time::timeout(WRITE_TIMEOUT, write).await {
        Ok(Ok(object)) => Ok(object),
        Ok(Err(kube::Error::Api(answer))) if answer.code == 404 => {
            Err(WriteError::Gone(name.to_owned()))
        }
        Ok(Err(kube::Error::Api(answer))) if answer.code == 409 => {
            Err(WriteError::Conflict(name.to_owned()))
        }
        Ok(Err(source)) => Err(WriteError::Api {
            name: name.to_owned(),
            source: Box::new(source),
        }),
        Err(_) => Err(WriteError::TimedOut(name.to_owned())),
    }
}

/// Which object is meant, and as it was when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    uid: Option<String>,
    resource_version: Option<String>,
}

impl Version {
    /// As `object` was read.
    pub fn of<K: Resource>(object: &K) -> Self {
        Self {
            uid: object.uid(),
            resource_version: object.resource_version(),
        }
    }

    /// Whether both are of one object.
    #[must_use]
    pub fn is_of(&self, other: &Self) -> bool {
        self.uid == other.uid
    }
}

/// So many of our own writes are told from those of others while the watch has not shown them yet.
const OWN_WRITES_MAX: usize = 32;

/// The latest version that is known of an object: of what the watch shows and of what our own writes came to. Versions have
/// no order, so what the watch shows is later than what we wrote unless it is one of our own writes, come by the watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latest {
    version: Version,
    shown: Version,
    own: VecDeque<Version>,
}

impl Latest {
    /// As the watch shows `object` for the first time.
    pub fn of<K: Resource>(object: &K) -> Self {
        let version = Version::of(object);
        Self {
            shown: version.clone(),
            version,
            own: VecDeque::new(),
        }
    }

    /// The version.
    #[must_use]
    pub const fn version(&self) -> &Version {
        &self.version
    }

    /// The watch shows `object`, of the same uid. Where it is taken wrongly for the latest, a write costs a conflict.
    pub fn shown<K: Resource>(&mut self, object: &K) {
        let shown = Version::of(object);
        if shown == self.shown {
            return;
        }
        self.shown = shown.clone();
        match self.own.iter().position(|own| *own == shown) {
            // We wrote again since.
            Some(at) if at + 1 < self.own.len() => drop(self.own.drain(..=at)),
            Some(_) => {
                self.own.clear();
                self.version = shown;
            }
            None => self.version = shown,
        }
    }

    /// We wrote, and `object` came of it.
    pub fn wrote<K: Resource>(&mut self, object: &K) {
        self.version = Version::of(object);
        self.own.push_back(self.version.clone());
        if self.own.len() > OWN_WRITES_MAX {
            self.own.pop_front();
        }
    }
}

/// An object as it is now.
pub async fn get<K>(api: &Api<K>, name: &str) -> Result<K, WriteError>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    within(name, api.get(name)).await
}

/// Merges `patch` into the status of the object that was read as `version`, whatever else was written to it since, and
/// of no other of its name.
pub async fn patch_status<K>(
    api: &Api<K>,
    name: &str,
    version: &Version,
    patch: &serde_json::Value,
) -> Result<K, WriteError>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let params = PatchParams {
        field_manager: Some(MANAGER_AGENT.to_owned()),
        ..PatchParams::default()
    };
    let mut latest = version.clone();
    for _ in 0..STATUS_TRIES_MAX {
        let metadata = json!({ "resourceVersion": latest.resource_version });
        let patch = json!({ "metadata": metadata, "status": patch.get("status") });
        let patch = Patch::Merge(&patch);
        match within(name, api.patch_status(name, &params, &patch)).await {
            Err(WriteError::Conflict(_)) => latest = Version::of(&get(api, name).await?),
            written => return written,
        }
        if !latest.is_of(version) {
            return Err(WriteError::Replaced(name.to_owned()));
        }
    }
    Err(WriteError::Conflict(name.to_owned()))
}

/// Puts a finalizer on an object, or takes it off. So already: nothing is written.
pub async fn set_finalizer<K>(
    api: &Api<K>,
    object: &K,
    finalizer: &str,
    on: bool,
) -> Result<(), WriteError>
where
    K: Resource + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    let name = object.name_any();
    let mut finalizers = object.finalizers().to_vec();
    if finalizers.iter().any(|one| one == finalizer) == on {
        return Ok(());
    }
    finalizers.retain(|one| one != finalizer);
    if on {
        finalizers.push(finalizer.to_owned());
    }
    let patch = json!({ "metadata": {
        "resourceVersion": object.resource_version(),
        "finalizers": finalizers,
    }});
    let params = PatchParams {
        field_manager: Some(MANAGER_AGENT.to_owned()),
        ..PatchParams::default()
    };
    match within(&name, api.patch(&name, &params, &Patch::Merge(&patch))).await {
        Ok(_) => Ok(()),
        Err(WriteError::Gone(_)) if !on => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use api::Drive;

    use super::*;

    fn at(version: &str) -> Drive {
        let mut drive = api::testing::drive("d").build();
        drive.metadata.resource_version = Some(version.to_owned());
        drive
    }

    fn known(latest: &Latest) -> &str {
        let version = latest.version().resource_version.as_deref();
        version.unwrap_or_default()
    }

    #[test]
    fn what_others_wrote_is_known_by_the_watch() {
        let mut latest = Latest::of(&at("a"));
        latest.shown(&at("b"));
        assert_eq!(known(&latest), "b");
        latest.wrote(&at("c"));
        // Looked at again, it is what was shown before we wrote.
        latest.shown(&at("b"));
        assert_eq!(known(&latest), "c");
        latest.shown(&at("d"));
        assert_eq!(known(&latest), "d");
    }

    #[test]
    fn an_own_write_comes_by_the_watch_later() {
        let mut latest = Latest::of(&at("a"));
        for version in ["b", "c", "d"] {
            latest.wrote(&at(version));
        }
        for version in ["b", "c", "d"] {
            latest.shown(&at(version));
            assert_eq!(known(&latest), "d", "{version}");
        }
        assert!(latest.own.is_empty());
        // The watch may pass over some.
        latest.wrote(&at("e"));
        latest.shown(&at("f"));
        assert_eq!(known(&latest), "f");
        // Another's, from before our write, and shown after it: one conflict, until ours is shown.
        latest.wrote(&at("h"));
        latest.shown(&at("g"));
        assert_eq!(known(&latest), "g");
        latest.shown(&at("h"));
        assert_eq!(known(&latest), "h");
        for _ in 0..2 * OWN_WRITES_MAX {
            latest.wrote(&at("i"));
        }
        assert_eq!(latest.own.len(), OWN_WRITES_MAX);
    }
}
