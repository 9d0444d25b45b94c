//! Changing a spec: one merge patch an object, checked against the version that was looked at, told in one line. What
//! is so already is said and left alone.

use std::fmt::Debug;

use api::names::MANAGER_CLI;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::ClusterResourceScope;
use kube::{Api, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::advice::{Hint, Stop};
use crate::session::Session;

/// Tries, where the object is reported on again and again.
const TRIES_MAX: usize = 8;

/// How an object of a person's is made.
pub(crate) fn post() -> PostParams {
    PostParams {
        field_manager: Some(MANAGER_CLI.to_owned()),
        ..PostParams::default()
    }
}

/// One change of one object.
pub(crate) struct Change<K> {
    /// The object as it was looked at.
    pub(crate) object: K,
    /// What it is called: `drive 1a2b3c4d (nvme0n1 on node-1)`.
    pub(crate) label: String,
    /// The merge patch; `None` where all is as asked already.
    pub(crate) patch: Option<Value>,
}

/// Writes one patch, if the object is still the very one that was looked at, in all that is said and reported of it.
pub(crate) async fn patch<K>(api: &Api<K>, object: &K, body: Value) -> Result<K, Stop>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    match attempt(api, object, body).await? {
        Some(changed) => Ok(changed),
        None => Err(changed_meanwhile(object)),
    }
}

/// Writes one patch, if what people say of the object is still what was looked at. That an agent or the controller
/// reports something of it in the same moment is no reason to refuse a word that does not depend on that.
pub(crate) async fn patch_despite_reports<K>(
    api: &Api<K>,
    object: &K,
    body: Value,
) -> Result<K, Stop>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let mut latest = object.clone();
    for _ in 0..TRIES_MAX {
        if let Some(changed) = attempt(api, &latest, body.clone()).await? {
            return Ok(changed);
        }
        latest = api.get(&object.name_any()).await?;
        if !says_the_same(object.meta(), latest.meta()) {
            break;
        }
    }
    Err(changed_meanwhile(object))
}

/// Writes one patch; `None` where the object is of another version by now.
async fn attempt<K>(api: &Api<K>, object: &K, body: Value) -> Result<Option<K>, Stop>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let body = at_version(body, object.resource_version());
    let parameters = PatchParams {
        field_manager: Some(MANAGER_CLI.to_owned()),
        ..PatchParams::default()
    };
    let name = object.name_any();
    match api.patch(&name, &parameters, &Patch::Merge(&body)).await {
        Ok(changed) => Ok(Some(changed)),
        Err(kube::Error::Api(status)) if status.is_conflict() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn changed_meanwhile<K: Resource>(object: &K) -> Stop {
    Stop::Failed(anyhow::anyhow!(
        "{} was changed by somebody else in the same moment; look at it and try again",
        object.name_any()
    ))
}

/// A patch that is refused where the object has another version.
fn at_version(mut body: Value, version: Option<String>) -> Value {
    if let (Some(version), Value::Object(fields)) = (version, &mut body) {
        let metadata = fields.entry("metadata").or_insert_with(|| json!({}));
        if let Value::Object(metadata) = metadata {
            metadata.insert("resourceVersion".to_owned(), version.into());
        }
    }
    body
}

/// Whether two versions differ in nothing but what was reported: a spec's every change counts its generation up.
fn says_the_same(before: &ObjectMeta, now: &ObjectMeta) -> bool {
    before.uid == now.uid
        && before.generation.is_some()
        && before.generation == now.generation
        && before.deletion_timestamp == now.deletion_timestamp
        && before.labels == now.labels
        && before.annotations == now.annotations
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
                patch_despite_reports(&api, &change.object, body).await?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_no_change_of_mind() {
        let looked_at = ObjectMeta {
            uid: Some("u1".to_owned()),
            generation: Some(3),
            resource_version: Some("7".to_owned()),
            ..ObjectMeta::default()
        };
        let but = |change: &dyn Fn(&mut ObjectMeta)| {
            let mut other = looked_at.clone();
            change(&mut other);
            says_the_same(&looked_at, &other)
        };
        assert!(but(&|m| m.resource_version = Some("8".to_owned())));
        assert!(!but(&|m| m.generation = Some(4)));
        assert!(!but(&|m| m.uid = Some("u2".to_owned())));
        assert!(!but(
            &|m| m.labels = Some([("a".to_owned(), "b".to_owned())].into())
        ));
        assert!(!says_the_same(
            &ObjectMeta::default(),
            &ObjectMeta::default()
        ));
    }
}
