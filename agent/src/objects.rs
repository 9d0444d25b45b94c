//! Writes to the API: status as a merge patch, finalizers under the object's resourceVersion. Nothing else is written.

use std::time::Duration;

use api::names::MANAGER_AGENT;
use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

/// How long one write may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// A write that was not done.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The object is not there (any more).
    #[error("{0} is gone")]
    Gone(String),
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

/// An object as it is now.
pub async fn get<K>(api: &Api<K>, name: &str) -> Result<K, WriteError>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    within(name, api.get(name)).await
}

/// Merges `patch` into an object's status.
pub async fn patch_status<K>(
    api: &Api<K>,
    name: &str,
    patch: &serde_json::Value,
) -> Result<K, WriteError>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let params = PatchParams {
        field_manager: Some(MANAGER_AGENT.to_owned()),
        ..PatchParams::default()
    };
    within(name, api.patch_status(name, &params, &Patch::Merge(patch))).await
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
