//! An object as it is kept in memory: its JSON as bytes, sent as they are, and beside it only what selectors ask
//! for. Five thousand volumes as parsed trees would take ten times the room.

use bytes::Bytes;
use serde_json::Value;
use std::collections::BTreeMap;

use super::kinds::Kind;

/// One object in one revision.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) json: Bytes,
    pub(crate) revision: u64,
    pub(crate) name: Box<str>,
    pub(crate) namespace: Box<str>,
    pub(crate) labels: BTreeMap<Box<str>, Box<str>>,
    /// Values of the kind's selectable fields, in their order; empty where absent.
    pub(crate) fields: Box<[Box<str>]>,
}

impl Object {
    /// Indexes `value`, whose metadata is complete.
    pub(crate) fn new(kind: &Kind, value: &Value) -> Self {
        let text = |path: &[&str]| -> Box<str> { lookup(value, path).map_or("".into(), shown) };
        let labels = lookup(value, &["metadata", "labels"]).and_then(Value::as_object);
        Self {
            json: Bytes::from(value.to_string()),
            revision: revision(value),
            name: text(&["metadata", "name"]),
            namespace: text(&["metadata", "namespace"]),
            labels: labels
                .into_iter()
                .flatten()
                .map(|(key, value)| (key.as_str().into(), shown(value)))
                .collect(),
            fields: kind
                .selectable
                .iter()
                .map(|field| lookup(value, &field.path).map_or("".into(), shown))
                .collect(),
        }
    }

    /// Reads back what the store holds.
    pub(crate) fn read(kind: &Kind, json: &[u8]) -> Result<Self, serde_json::Error> {
        Ok(Self::new(kind, &serde_json::from_slice(json)?))
    }

    /// The object as a tree.
    pub(crate) fn value(&self) -> Value {
        // What is kept here was made by `new` from a tree.
        serde_json::from_slice(&self.json).unwrap_or_default()
    }

    /// The object in the form of `kind`, which may be a view of what is stored.
    pub(crate) fn shown_as(&self, kind: &Kind) -> Bytes {
        match kind.view {
            None => self.json.clone(),
            Some(view) => Bytes::from((view.show)(self.value()).to_string()),
        }
    }

    /// What it takes in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        self.json.len() + 256
    }
}

/// The value at a path of names.
pub(crate) fn lookup<'a, S: AsRef<str>>(value: &'a Value, path: &[S]) -> Option<&'a Value> {
    path.iter()
        .try_fold(value, |value, name| value.get(name.as_ref()))
}

/// The text at a path of names.
pub(crate) fn text_at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a str> {
    lookup(value, path).and_then(Value::as_str)
}

/// `metadata.resourceVersion`; 0 where there is none.
pub(crate) fn revision(value: &Value) -> u64 {
    text_at(value, &["metadata", "resourceVersion"])
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// Takes a field out; null where it is not.
pub(crate) fn take(object: &mut Value, field: &str) -> Value {
    object
        .as_object_mut()
        .and_then(|fields| fields.remove(field))
        .unwrap_or_default()
}

/// Sets a field, or removes it for null.
pub(crate) fn put(object: &mut Value, field: &str, value: Value) {
    if let Value::Object(fields) = object {
        if value.is_null() {
            fields.remove(field);
        } else {
            fields.insert(field.to_owned(), value);
        }
    }
}

/// Sets a field of the metadata, or removes it for null.
pub(crate) fn set_meta(object: &mut Value, field: &str, value: Value) {
    if let Some(metadata) = object.get_mut("metadata") {
        put(metadata, field, value);
    }
}

fn shown(value: &Value) -> Box<str> {
    match value {
        Value::Null => "".into(),
        Value::String(text) => text.as_str().into(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            value.to_string().into()
        }
    }
}
