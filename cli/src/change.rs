//! Changing a spec: one merge patch an object, checked against the version that was looked at, told in one line. What
//! is so already is said and left alone.

use std::fmt::Debug;

use api::names::MANAGER_CLI;
use kube::api::{Patch, PatchParams};
use kube::core::ClusterResourceScope;
use kube::{Api, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::advice::{Hint, Stop};
use crate::session::Session;

/// One change of one object.
pub(crate) struct Change<K> {
    /// The object as it was looked at.
    pub(crate) object: K,
    /// What it is called: `drive 1a2b3c4d (nvme0n1 on node-1)`.
    pub(crate) label: String,
    /// The merge patch; `None` where all is as asked already.
    pub(crate) patch: Option<Value>,
}

/// Writes one patch, if the object is still the one that was looked at.
pub(crate) async fn patch<K>(api: &Api<K>, object: &K, mut body: Value) -> Result<K, Stop>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    if let (Some(version), Value::Object(fields)) = (object.resource_version(), &mut body) {
        let metadata = fields.entry("metadata").or_insert_with(|| json!({}));
        if let Value::Object(metadata) = metadata {
            metadata.insert("resourceVersion".to_owned(), version.into());
        }
    }
    let parameters = PatchParams {
        field_manager: Some(MANAGER_CLI.to_owned()),
        ..PatchParams::default()
    };
    match api
        .patch(&object.name_any(), &parameters, &Patch::Merge(&body))
        .await
    {
        Ok(changed) => Ok(changed),
        Err(kube::Error::Api(status)) if status.is_conflict() => {
            Err(Stop::Failed(anyhow::anyhow!(
                "{} was changed by somebody else in the same moment; look at it and try again",
                object.name_any()
            )))
        }
        Err(error) => Err(error.into()),
    }
}

/// Makes all changes, or with `dry_run` only tells them. `done` is what became of an object: `cordoned`.
pub(crate) async fn all<K>(
    session: &mut Session,
    changes: Vec<Change<K>>,
    done: &str,
    dry_run: bool,
) -> Result<(), Stop>
where
    K: Resource<DynamicType = (), Scope = ClusterResourceScope>
        + Clone
        + DeserializeOwned
        + Debug
        + Serialize,
{
    let api = session.api::<K>().await?;
    for change in changes {
        let label = &change.label;
        let text = match change.patch {
            None => format!("{label} is {done} already"),
            Some(_) if dry_run => format!("{label} would be {done}"),
            Some(body) => {
                patch(&api, &change.object, body).await?;
                format!("{label} is now {done}")
            }
        };
        session.screen.line(text)?;
    }
    if dry_run {
        session.hint(&Hint::DryRun)?;
    }
    Ok(())
}
