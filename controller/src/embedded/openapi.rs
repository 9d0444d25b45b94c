//! As much OpenAPI as kubectl needs to make and edit objects: without a word that the server checks fields itself,
//! kubectl asks for the whole description of every kind, or refuses. The definitions' schemas go along, for
//! `kubectl explain`; of the other kinds there is nothing but the word.

use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

use super::kinds::{Kind, Kinds};
use super::object::{lookup, put, text_at};
use super::state::State;

/// The document at a path under `/openapi/v3`, if it is one.
pub(crate) fn document(kinds: &Kinds, state: &State, path: &str) -> Option<Value> {
    let rest = path.strip_prefix("/openapi/v3")?;
    let rest = rest.trim_matches('/');
    if rest.is_empty() {
        let roots: BTreeSet<String> = kinds.iter().map(|kind| root(kind)).collect();
        let paths: Map<String, Value> = roots
            .into_iter()
            .map(|root| {
                let url = format!("/openapi/v3/{root}");
                (root, json!({"serverRelativeURL": url}))
            })
            .collect();
        return Some(json!({"paths": paths}));
    }
    let served: Vec<&Kind> = kinds
        .iter()
        .map(AsRef::as_ref)
        .filter(|kind| root(kind) == rest)
        .collect();
    served.first()?;
    let paths: Map<String, Value> = served.iter().map(|kind| described(kind)).collect();
    let schemas: Map<String, Value> = served
        .iter()
        .filter_map(|kind| schema(kind, state))
        .collect();
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "RingPV embedded API", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
        "components": {"schemas": schemas},
    }))
}

fn root(kind: &Kind) -> String {
    let prefix = if kind.group.is_empty() { "api" } else { "apis" };
    format!("{prefix}/{}", kind.api_version())
}

fn group_version_kind(kind: &Kind) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
}

/// The paths of a kind: that it can be read, and that whoever changes it may say what becomes of unknown fields.
fn described(kind: &Kind) -> (String, Value) {
    let namespace = if kind.namespaced {
        "/namespaces/{namespace}"
    } else {
        ""
    };
    let path = format!("/{}{namespace}/{}/{{name}}", root(kind), kind.plural);
    let parameter = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
    let operation = |action: &str, parameters: Vec<Value>| {
        json!({"x-kubernetes-action": action, "x-kubernetes-group-version-kind": group_version_kind(kind),
            "parameters": parameters, "responses": {}})
    };
    let mut operations = json!({"get": operation("get", Vec::new())});
    if kind.writable {
        let said = ["dryRun", "fieldManager", "fieldValidation"].map(parameter);
        put(&mut operations, "patch", operation("patch", said.to_vec()));
    }
    (path, operations)
}

/// The schema in a kind's definition, with what every object has.
fn schema(kind: &Kind, state: &State) -> Option<(String, Value)> {
    let key = format!(
        "customresourcedefinitions.apiextensions.k8s.io//{}",
        kind.resource
    );
    let definition = state.get(&key)?.value();
    let versions = lookup(&definition, &["spec", "versions"])?.as_array()?;
    let version = versions
        .iter()
        .find(|version| text_at(version, &["name"]) == Some(&kind.version))?;
    let mut schema = lookup(version, &["schema", "openAPIV3Schema"])?.clone();
    let text = json!({"type": "string"});
    if let Some(properties) = schema.get_mut("properties") {
        put(properties, "apiVersion", text.clone());
        put(properties, "kind", text);
        put(properties, "metadata", json!({"type": "object"}));
    }
    put(
        &mut schema,
        "x-kubernetes-group-version-kind",
        json!([group_version_kind(kind)]),
    );
    let reversed: Vec<&str> = kind.group.rsplit('.').collect();
    let name = format!("{}.{}.{}", reversed.join("."), kind.version, kind.kind);
    Some((name, schema))
}
