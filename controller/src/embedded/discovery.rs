//! What is served, as clients ask for it: groups, versions, resources and their verbs.

use serde_json::{Value, json};
use std::collections::BTreeSet;

use super::kinds::{Kind, Kinds};
use super::object::put;

/// `/version`. The minor version is that of the Kubernetes API whose behaviour this is held to.
pub(crate) fn version() -> Value {
    json!({
        "major": "1",
        "minor": "33",
        "gitVersion": concat!("v1.33.0+ringpv-", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

/// The document at a discovery path, if it is one.
pub(crate) fn document(kinds: &Kinds, path: &str) -> Option<Value> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        ["version"] => Some(version()),
        ["api"] => Some(json!({"kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": []})),
        ["apis"] => {
            let groups: Vec<Value> = groups(kinds)
                .iter()
                .map(|group| described(kinds, group))
                .collect();
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        ["apis", group] if groups(kinds).contains(group) => {
            let mut document = described(kinds, group);
            put(&mut document, "kind", "APIGroup".into());
            put(&mut document, "apiVersion", "v1".into());
            Some(document)
        }
        ["api", version] => resources(kinds, "", version),
        ["apis", group, version] => resources(kinds, group, version),
        _ => None,
    }
}

fn groups(kinds: &Kinds) -> BTreeSet<&str> {
    kinds
        .iter()
        .map(|kind| kind.group.as_str())
        .filter(|group| !group.is_empty())
        .collect()
}

fn described(kinds: &Kinds, group: &str) -> Value {
    let versions: BTreeSet<&str> = kinds
        .iter()
        .filter(|kind| kind.group == group)
        .map(|kind| kind.version.as_str())
        .collect();
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| json!({"groupVersion": format!("{group}/{version}"), "version": version}))
        .collect();
    json!({"name": group, "versions": versions, "preferredVersion": versions.first()})
}

fn resources(kinds: &Kinds, group: &str, version: &str) -> Option<Value> {
    let served: Vec<_> = kinds
        .iter()
        .filter(|kind| kind.group == group && kind.version == version)
        .collect();
    let api_version = served.first()?.api_version();
    let resources: Vec<Value> = served
        .iter()
        .flat_map(|kind| described_kind(kind))
        .collect();
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version,
        "resources": resources}),
    )
}

fn described_kind(kind: &Kind) -> Vec<Value> {
    let verbs: &[&str] = if kind.writable {
        &[
            "create",
            "delete",
            "deletecollection",
            "get",
            "list",
            "patch",
            "update",
            "watch",
        ]
    } else {
        &["get", "list", "watch"]
    };
    let mut described = vec![json!({
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": verbs,
        "shortNames": kind.short_names,
        "categories": kind.categories,
    })];
    if kind.status {
        described.push(json!({
            "name": format!("{}/status", kind.plural),
            "singularName": "",
            "namespaced": kind.namespaced,
            "kind": kind.kind,
            "verbs": ["get", "patch", "update"],
        }));
    }
    described
}
