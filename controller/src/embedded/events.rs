//! Events are one thing under two names: `v1` and `events.k8s.io/v1` show the same objects with other field names.
//! They are stored in the older form, which kubectl reads; kube's recorder writes the newer.

use jiff::Timestamp;
use serde_json::Value;

use super::kinds::View;
use super::object::{lookup, text_at};
use super::refusal::Cause;
use super::table::{Cell, Column, age_of};

/// Where both forms are stored.
pub(crate) const STORED_AS: &str = "events";

/// Fields of the newer form, and of the older, where they differ.
const NAMES: [(&str, &str); 7] = [
    ("note", "message"),
    ("regarding", "involvedObject"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// What events may be selected by, in the older form.
pub(crate) const SELECTABLE: [&str; 11] = [
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source.component",
    "type",
];

/// The newer form over the older.
pub(crate) const VIEW: View = View {
    show: |event| rename(event, "events.k8s.io/v1", |(new, old)| (old, new)),
    store: |event| rename(event, "v1", |(new, old)| (new, old)),
};

fn rename(
    mut event: Value,
    api_version: &str,
    direction: fn((&'static str, &'static str)) -> (&'static str, &'static str),
) -> Value {
    if let Value::Object(fields) = &mut event {
        for (from, to) in NAMES.map(direction) {
            if let Some(value) = fields.remove(from) {
                fields.insert(to.to_owned(), value);
            }
        }
        // A patch names no version; it must not gain one that is then compared.
        if fields.contains_key("apiVersion") {
            fields.insert("apiVersion".to_owned(), api_version.into());
        }
    }
    event
}

/// What is wrong with where an event is: of what is in a namespace it is there as well, of what is in none in `default`.
pub(crate) fn misplaced(event: &Value) -> Option<Cause> {
    let about = ["involvedObject", "regarding"]
        .iter()
        .find_map(|field| text_at(event, &[field, "namespace"]))
        .unwrap_or_default();
    let own = text_at(event, &["metadata", "namespace"]).unwrap_or_default();
    let wanted = if about.is_empty() { "default" } else { about };
    (own != wanted).then(|| {
        Cause::invalid(
            "involvedObject.namespace",
            &format!("\"{about}\""),
            "does not match event.namespace",
        )
    })
}

/// A field label of the older form in the newer.
pub(crate) fn renamed(label: &str) -> String {
    let (head, tail) = label.split_once('.').unwrap_or((label, ""));
    let head = NAMES
        .iter()
        .find(|(_, old)| *old == head)
        .map_or(head, |(new, _)| new);
    if tail.is_empty() {
        head.to_owned()
    } else {
        format!("{head}.{tail}")
    }
}

/// What `kubectl get events` prints.
pub(crate) fn columns() -> Vec<Column> {
    let made = |name: &str, priority, cell| Column {
        name: name.to_owned(),
        form: "string".to_owned(),
        description: String::new(),
        priority,
        cell: Cell::Made(cell),
    };
    vec![
        made("Last Seen", 0, last_seen),
        Column::text("Type", ".type"),
        Column::text("Reason", ".reason"),
        made("Object", 0, object),
        made("Source", 1, source),
        Column::text("Message", ".message"),
        made("First Seen", 1, first_seen),
        made("Count", 1, count),
    ]
}

fn time(event: &Value, paths: &[&[&str]]) -> Option<Timestamp> {
    paths
        .iter()
        .find_map(|path| text_at(event, path)?.parse().ok())
}

fn last_seen(event: &Value, now: Timestamp) -> Value {
    let seen = time(
        event,
        &[
            &["series", "lastObservedTime"],
            &["lastTimestamp"],
            &["eventTime"],
        ],
    );
    age_of(seen, now).into()
}

fn first_seen(event: &Value, now: Timestamp) -> Value {
    age_of(time(event, &[&["firstTimestamp"], &["eventTime"]]), now).into()
}

fn object(event: &Value, _: Timestamp) -> Value {
    let kind = text_at(event, &["involvedObject", "kind"]).unwrap_or_default();
    let name = text_at(event, &["involvedObject", "name"]).unwrap_or_default();
    format!("{}/{name}", kind.to_lowercase()).into()
}

fn source(event: &Value, _: Timestamp) -> Value {
    [&["source", "component"] as &[&str], &["reportingComponent"]]
        .iter()
        .find_map(|path| text_at(event, path).filter(|text| !text.is_empty()))
        .unwrap_or_default()
        .into()
}

fn count(event: &Value, _: Timestamp) -> Value {
    lookup(event, &["series", "count"])
        .or_else(|| lookup(event, &["count"]))
        .cloned()
        .unwrap_or_else(|| 1.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_two_forms_say_the_same() {
        let new = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "note": "n",
            "regarding": {"name": "d"}, "reportingController": "agent", "reason": "Slow"});
        let old = (VIEW.store)(new.clone());
        assert_eq!(
            old,
            json!({"apiVersion": "v1", "kind": "Event", "message": "n",
                "involvedObject": {"name": "d"}, "reportingComponent": "agent", "reason": "Slow"})
        );
        assert_eq!((VIEW.show)(old), new);
        assert_eq!(renamed("involvedObject.name"), "regarding.name");
        assert_eq!(renamed("reason"), "reason");
    }
}
