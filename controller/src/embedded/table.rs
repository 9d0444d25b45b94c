//! What `kubectl get` prints: objects as rows of cells, made here because only the server knows a kind's columns.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::kinds::Kind;
use super::object::{lookup, revision, text_at};

/// One column.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub(crate) form: String,
    pub(crate) description: String,
    /// Above 0 it is shown by `-o wide` only.
    pub(crate) priority: i32,
    pub(crate) cell: Cell,
}

/// Where a cell comes from.
#[derive(Clone, Debug)]
pub(crate) enum Cell {
    /// A field. Of JSONPath, plain names are understood.
    Path(Vec<String>),
    /// Something made of several fields.
    Made(fn(&Value, Timestamp) -> Value),
}

impl Cell {
    /// The field at `.a.b.c`.
    pub(crate) fn path(json_path: &str) -> Self {
        Self::Path(
            json_path
                .trim_start_matches('.')
                .split('.')
                .map(str::to_owned)
                .collect(),
        )
    }
}

impl Column {
    pub(crate) fn text(name: &str, json_path: &str) -> Self {
        Self {
            name: name.to_owned(),
            form: "string".to_owned(),
            description: String::new(),
            priority: 0,
            cell: Cell::path(json_path),
        }
    }

    pub(crate) fn age() -> Self {
        Self {
            form: "date".to_owned(),
            ..Self::text("Age", ".metadata.creationTimestamp")
        }
    }

    fn cell(&self, object: &Value, now: Timestamp) -> Value {
        let path = match &self.cell {
            Cell::Made(make) => return make(object, now),
            Cell::Path(path) => path,
        };
        match lookup(object, path) {
            None | Some(Value::Null) => Value::Null,
            Some(value) if self.form == "date" => {
                age_of(value.as_str().and_then(|text| text.parse().ok()), now).into()
            }
            Some(value @ (Value::Array(_) | Value::Object(_))) => value.to_string().into(),
            Some(Value::String(text)) => text.as_str().into(),
            Some(value) if self.form == "string" => value.to_string().into(),
            Some(value) => value.clone(),
        }
    }
}

/// What of the object goes along with its row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Include {
    Nothing,
    #[default]
    Metadata,
    Object,
}

/// What stands before the rows of a table, as text.
pub(crate) fn head(kind: &Kind, revision: u64) -> String {
    let name = json!({"name": "Name", "type": "string", "format": "name", "priority": 0,
        "description": "Name must be unique within a namespace."});
    let others = kind.columns.iter().map(|column| {
        json!({"name": column.name, "type": column.form, "format": "", "priority": column.priority,
            "description": column.description})
    });
    let columns: Vec<Value> = std::iter::once(name).chain(others).collect();
    let columns = Value::Array(columns);
    format!(
        r#"{{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{{"resourceVersion":"{revision}"}},"columnDefinitions":{columns},"rows":["#
    )
}

/// What stands after the rows.
pub(crate) const TAIL: &str = "]}";

/// The row of an object that is in the form of `kind`.
pub(crate) fn row(kind: &Kind, object: Value, include: Include, now: Timestamp) -> Value {
    let name = text_at(&object, &["metadata", "name"]).unwrap_or_default();
    let name = Value::from(name);
    // Columns are those of the stored form.
    let shown = kind.view.map(|view| (view.store)(object.clone()));
    let stored = shown.as_ref().unwrap_or(&object);
    let cells: Vec<Value> = std::iter::once(name)
        .chain(kind.columns.iter().map(|column| column.cell(stored, now)))
        .collect();
    match include {
        Include::Nothing => json!({"cells": cells}),
        Include::Object => json!({"cells": cells, "object": object}),
        Include::Metadata => json!({
            "cells": cells,
            "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                "metadata": object.get("metadata")},
        }),
    }
}

/// The table of one object.
pub(crate) fn of_one(kind: &Kind, object: Value, include: Include, now: Timestamp) -> String {
    let head = head(kind, revision(&object));
    format!("{head}{}{TAIL}", row(kind, object, include, now))
}

/// How long ago, as kubectl says it; `<unknown>` for never.
pub(crate) fn age_of(then: Option<Timestamp>, now: Timestamp) -> String {
    then.map_or_else(
        || "<unknown>".to_owned(),
        |then| duration(now.as_second() - then.as_second()),
    )
}

/// Seconds in two figures or so: `42s`, `5m30s`, `3h12m`, `4d`.
fn duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    let pair = |whole: i64, unit: char, rest: i64, small: char| {
        if rest == 0 {
            format!("{whole}{unit}")
        } else {
            format!("{whole}{unit}{rest}{small}")
        }
    };
    match seconds {
        i64::MIN..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => pair(minutes, 'm', seconds % 60, 's'),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => pair(hours, 'h', minutes % 60, 'm'),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => pair(days, 'd', hours % 24, 'h'),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => pair(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::super::kinds::Kinds;
    use super::*;

    #[test]
    fn ages_read_as_kubectl_prints_them() {
        for (seconds, expected) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (330, "5m30s"),
            (7_200, "120m"),
            (11_520, "3h12m"),
            (100_000, "27h"),
            (180_000, "2d2h"),
            (864_000, "10d"),
            (63_072_000, "2y"),
            (63_158_400, "2y1d"),
            (900_000_000, "28y"),
        ] {
            assert_eq!(duration(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn a_row_has_a_cell_for_every_column() {
        let kinds = Kinds::new(&api::crds()).unwrap();
        let kind = kinds.find("ringpv.io", "v1alpha1", "drives").unwrap();
        let drive = json!({"metadata": {"name": "d", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"node": "n", "cordoned": true},
            "status": {"capacity": {"allocatableBytes": 7}}});
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let table = of_one(kind, drive, Include::Nothing, now);
        let table: Value = serde_json::from_str(&table).unwrap();
        let names: Vec<&str> = table["columnDefinitions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|column| column["name"].as_str().unwrap())
            .collect();
        let cells = table["rows"][0]["cells"].as_array().unwrap();
        let at = |name: &str| &cells[names.iter().position(|n| *n == name).unwrap()];
        assert_eq!(cells.len(), names.len());
        assert_eq!(at("Name"), "d");
        assert_eq!(at("Node"), "n");
        assert_eq!(at("Allocatable"), 7);
        assert_eq!(at("Cordoned"), true);
        assert_eq!(at("Health"), &Value::Null);
        assert_eq!(at("Age"), "60s");
    }
}
