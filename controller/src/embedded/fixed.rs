//! Objects that nobody makes: the namespaces and the definitions. They stand beside the stored ones, and are made
//! anew at every start. The uid of `kube-system` is the cluster's id, as in any cluster.

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;

use super::kinds::Kinds;
use super::object::{Object, put, set_meta};

/// Namespaces that exist: ours, the one in which events of cluster-scoped objects are kept, and the one whose uid
/// is the cluster's id.
const NAMESPACES: [&str; 3] = [api::names::NAMESPACE, "default", "kube-system"];

/// All of them, by key.
pub(crate) fn objects(
    kinds: &Kinds,
    definitions: &[CustomResourceDefinition],
    cluster_id: &str,
    created: Timestamp,
    revision: u64,
) -> Vec<(Box<str>, Arc<Object>)> {
    let place = |group: &str, plural: &str, name: &str, mut object: Value| {
        let kind = kinds.find(group, "v1", plural)?;
        let created = Timestamp::from_second(created.as_second())
            .ok()?
            .to_string();
        set_meta(&mut object, "uid", uid(cluster_id, plural, name).into());
        set_meta(&mut object, "creationTimestamp", created.into());
        set_meta(&mut object, "resourceVersion", revision.to_string().into());
        let object = Object::new(kind, &object);
        Some((kind.key("", name).into(), Arc::new(object)))
    };
    let namespaces = NAMESPACES
        .iter()
        .filter_map(|name| place("", "namespaces", name, namespace(name)));
    let definitions = definitions.iter().filter_map(|crd| {
        let name = crd.metadata.name.as_deref()?;
        let plural = "customresourcedefinitions";
        place("apiextensions.k8s.io", plural, name, definition(crd)?)
    });
    namespaces.chain(definitions).collect()
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
        "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
}

fn definition(crd: &CustomResourceDefinition) -> Option<Value> {
    let mut object = serde_json::to_value(crd).ok()?;
    let condition = |of: &str| {
        json!({"type": of, "status": "True", "reason": "BuiltIn",
            "message": "served by the embedded API", "lastTransitionTime": "1970-01-01T00:00:00Z"})
    };
    let versions: Vec<&str> = crd.spec.versions.iter().map(|v| v.name.as_str()).collect();
    let status = json!({
        "acceptedNames": serde_json::to_value(&crd.spec.names).ok()?,
        "conditions": [condition("NamesAccepted"), condition("Established")],
        "storedVersions": versions,
    });
    put(&mut object, "status", status);
    Some(object)
}

fn uid(cluster_id: &str, plural: &str, name: &str) -> String {
    if name == "kube-system" {
        return cluster_id.to_owned();
    }
    let hash = Sha256::digest(format!("{cluster_id}/{plural}/{name}"));
    let bytes: Vec<u8> = hash.iter().copied().take(16).collect();
    <[u8; 16]>::try_from(bytes)
        .map(|bytes| uuid::Uuid::new_v8(bytes).to_string())
        .unwrap_or_default()
}
