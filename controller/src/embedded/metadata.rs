//! What may stand in an object's metadata.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

use super::refusal::{Cause, Refusal};

/// Longest name of an object.
const NAME_LENGTH_MAX: usize = 253;
/// Longest label value, and longest name part of a label's key.
const LABEL_LENGTH_MAX: usize = 63;
/// Annotations of one object, keys and values together.
const ANNOTATIONS_BYTES_MAX: usize = 256 << 10;

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
'-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation \
is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for \
validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// Metadata with only what the type knows, and without what this server does not keep.
pub(crate) fn normal(metadata: Option<&Value>) -> Result<Map<String, Value>, Refusal> {
    let value = metadata
        .cloned()
        .unwrap_or_else(|| Value::Object(Map::new()));
    let typed: ObjectMeta = serde_json::from_value(value)
        .map_err(|error| Refusal::bad_request(format!("metadata: {error}")))?;
    let typed = ObjectMeta {
        managed_fields: None,
        self_link: None,
        labels: typed.labels.filter(|labels| !labels.is_empty()),
        annotations: typed.annotations.filter(|all| !all.is_empty()),
        finalizers: typed.finalizers.filter(|all| !all.is_empty()),
        owner_references: typed.owner_references.filter(|all| !all.is_empty()),
        ..typed
    };
    match serde_json::to_value(typed) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) | Err(_) => Err(Refusal::internal("metadata is no object".to_owned())),
    }
}

/// What is wrong with metadata; the name is looked at only of new objects.
pub(crate) fn problems(metadata: Option<&Value>, is_new: bool) -> Vec<Cause> {
    let Some(Ok(meta)) = metadata.map(|value| serde_json::from_value::<ObjectMeta>(value.clone()))
    else {
        return Vec::new();
    };
    let mut causes = Vec::new();
    let name = meta.name.unwrap_or_default();
    if is_new && !is_subdomain(&name) {
        causes.push(Cause::invalid(
            "metadata.name",
            &format!("{name:?}"),
            SUBDOMAIN,
        ));
    }
    for (key, value) in meta.labels.iter().flatten() {
        for (text, fits) in [(key, is_qualified(key)), (value, is_label_value(value))] {
            if !fits {
                causes.push(Cause::invalid(
                    "metadata.labels",
                    &format!("{text:?}"),
                    LABEL,
                ));
            }
        }
    }
    let annotations = meta.annotations.unwrap_or_default();
    for key in annotations.keys().filter(|key| !is_qualified(key)) {
        causes.push(Cause::invalid(
            "metadata.annotations",
            &format!("{key:?}"),
            LABEL,
        ));
    }
    if total_bytes(&annotations) > ANNOTATIONS_BYTES_MAX {
        causes.push(Cause {
            field: "metadata.annotations".to_owned(),
            reason: "FieldValueTooLong",
            message: format!("Too long: may not be more than {ANNOTATIONS_BYTES_MAX} bytes"),
        });
    }
    for finalizer in meta
        .finalizers
        .iter()
        .flatten()
        .filter(|name| !is_qualified(name))
    {
        causes.push(Cause::invalid(
            "metadata.finalizers",
            &format!("{finalizer:?}"),
            LABEL,
        ));
    }
    causes
}

fn total_bytes(annotations: &BTreeMap<String, String>) -> usize {
    annotations
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum()
}

/// A name of `prefix` and five letters that spell nothing, from `uid`.
pub(crate) fn generated_name(prefix: &str, uid: uuid::Uuid) -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let suffix = uid.as_bytes().iter().rev().take(5).filter_map(|byte| {
        let index = usize::from(*byte) % LETTERS.len();
        LETTERS.get(index).copied().map(char::from)
    });
    prefix
        .chars()
        .take(LABEL_LENGTH_MAX - 5)
        .chain(suffix)
        .collect()
}

fn is_subdomain(name: &str) -> bool {
    let edge = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    name.len() <= NAME_LENGTH_MAX
        && name.split('.').all(|part| {
            part.starts_with(edge)
                && part.ends_with(edge)
                && part.chars().all(|letter| edge(letter) || letter == '-')
        })
}

fn is_label_value(value: &str) -> bool {
    let edge = |letter: char| letter.is_ascii_alphanumeric();
    value.is_empty()
        || (value.len() <= LABEL_LENGTH_MAX
            && value.starts_with(edge)
            && value.ends_with(edge)
            && value
                .chars()
                .all(|letter| edge(letter) || "-_.".contains(letter)))
}

fn is_qualified(key: &str) -> bool {
    match key.split_once('/') {
        None => !key.is_empty() && is_label_value(key),
        Some((prefix, name)) => is_subdomain(prefix) && !name.is_empty() && is_label_value(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_and_labels_are_held_to_their_form() {
        for (meta, expected) in [
            (json!({"name": "a.b-c1"}), None),
            (json!({"name": "A"}), Some("metadata.name")),
            (json!({"name": "-a"}), Some("metadata.name")),
            (json!({"name": "a..b"}), Some("metadata.name")),
            (json!({"name": "a".repeat(254)}), Some("metadata.name")),
            (
                json!({"name": "a", "labels": {"ringpv.io/rack": "R_1"}}),
                None,
            ),
            (json!({"name": "a", "labels": {"rack": ""}}), None),
            (
                json!({"name": "a", "labels": {"rack": "a b"}}),
                Some("metadata.labels"),
            ),
            (
                json!({"name": "a", "labels": {"a/b/c": "x"}}),
                Some("metadata.labels"),
            ),
            (
                json!({"name": "a", "finalizers": ["ringpv.io/device"]}),
                None,
            ),
            (
                json!({"name": "a", "finalizers": [""]}),
                Some("metadata.finalizers"),
            ),
            (
                json!({"name": "a", "annotations": {"a": "x".repeat(300 << 10)}}),
                Some("metadata.annotations"),
            ),
        ] {
            let said = problems(Some(&meta), true);
            assert_eq!(
                said.first().map(|cause| cause.field.as_str()),
                expected,
                "{meta}"
            );
        }
    }

    #[test]
    fn generated_names_are_names() {
        let name = generated_name("event-", uuid::Uuid::from_u128(0x1234_5678_9abc));
        assert!(is_subdomain(&name) && name.len() == 11, "{name}");
    }
}
