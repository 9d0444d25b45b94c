//! The kinds that are served, and what is known of each: its names, its shape, its columns, what may be selected
//! by. Ours come from the custom resource definitions themselves; Lease, Event, Namespace and the definitions
//! are the few others that our own processes and a person's kubectl need.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionVersion,
};
use serde_json::Value;
use std::sync::Arc;

use super::events;
use super::schema::{BadSchema, Schema};
use super::table::{Cell, Column};

/// One kind in one version.
#[derive(Debug)]
pub(crate) struct Kind {
    /// API group; empty for core.
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    /// `plural.group`, as people and messages name it.
    pub(crate) resource: String,
    /// The resource under which its objects are stored: its own, but for a view of another.
    pub(crate) stored_as: String,
    pub(crate) namespaced: bool,
    pub(crate) writable: bool,
    /// Whether status is a subresource, and generation counts changes of all else.
    pub(crate) status: bool,
    pub(crate) columns: Vec<Column>,
    pub(crate) selectable: Vec<Selectable>,
    pub(crate) shape: Shape,
    pub(crate) view: Option<View>,
}

/// A field that `fieldSelector` may name, besides `metadata.name` and `metadata.namespace`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selectable {
    pub(crate) label: String,
    pub(crate) path: Vec<String>,
}

/// What an object of the kind looks like.
#[derive(Debug)]
pub(crate) enum Shape {
    /// As its definition's schema says.
    Schema(Box<Schema>),
    /// As the Rust type says: what the function gives back.
    Typed(fn(Value) -> Result<Value, serde_json::Error>),
    /// Made by this server alone.
    Fixed,
}

/// How objects of one kind are shown as another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub(crate) show: fn(Value) -> Value,
    pub(crate) store: fn(Value) -> Value,
}

impl Kind {
    /// `group/version`, or the version alone for core.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Where objects of this kind begin in the store.
    pub(crate) fn prefix(&self) -> String {
        format!("{}/", self.stored_as)
    }

    /// Where one object is in the store.
    pub(crate) fn key(&self, namespace: &str, name: &str) -> String {
        format!("{}/{namespace}/{name}", self.stored_as)
    }

    /// An object as it is stored, in this kind's form.
    pub(crate) fn show(&self, stored: Value) -> Value {
        match self.view {
            None => stored,
            Some(view) => (view.show)(stored),
        }
    }

    fn built_in(group: &str, version: &str, kind: &str, names: [&str; 2]) -> Self {
        let [plural, singular] = names;
        let resource = if group.is_empty() {
            plural.to_owned()
        } else {
            format!("{plural}.{group}")
        };
        Self {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
            singular: singular.to_owned(),
            short_names: Vec::new(),
            categories: Vec::new(),
            stored_as: resource.clone(),
            resource,
            namespaced: false,
            writable: false,
            status: false,
            columns: Vec::new(),
            selectable: Vec::new(),
            shape: Shape::Fixed,
            view: None,
        }
    }

    fn defined(crd: &CustomResourceDefinition) -> Result<Self, BadSchema> {
        let names = &crd.spec.names;
        let bad = |what: &str| BadSchema {
            path: names.kind.clone(),
            what: what.to_owned(),
        };
        let [version] = crd.spec.versions.as_slice() else {
            return Err(bad("has not exactly one version"));
        };
        let source = version
            .schema
            .as_ref()
            .and_then(|schema| schema.open_api_v3_schema.as_ref())
            .and_then(|schema| serde_json::to_value(schema).ok())
            .ok_or_else(|| bad("has no schema"))?;
        let mut kind = Self::built_in(
            &crd.spec.group,
            &version.name,
            &names.kind,
            [&names.plural, names.singular.as_deref().unwrap_or_default()],
        );
        kind.short_names = names.short_names.clone().unwrap_or_default();
        kind.categories = names.categories.clone().unwrap_or_default();
        kind.namespaced = crd.spec.scope == "Namespaced";
        kind.writable = true;
        kind.status = version
            .subresources
            .as_ref()
            .is_some_and(|subresources| subresources.status.is_some());
        kind.columns = columns(version);
        kind.selectable = version
            .selectable_fields
            .iter()
            .flatten()
            .map(|field| selectable(field.json_path.trim_start_matches('.')))
            .collect();
        kind.shape = Shape::Schema(Box::new(Schema::compile(&source)?));
        Ok(kind)
    }
}

fn selectable(path: &str) -> Selectable {
    Selectable {
        label: path.to_owned(),
        path: path.split('.').map(str::to_owned).collect(),
    }
}

fn columns(version: &CustomResourceDefinitionVersion) -> Vec<Column> {
    let defined = version.additional_printer_columns.iter().flatten();
    let columns: Vec<Column> = defined
        .map(|column| Column {
            name: column.name.clone(),
            form: column.type_.clone(),
            description: column.description.clone().unwrap_or_default(),
            priority: column.priority.unwrap_or(0),
            cell: Cell::path(&column.json_path),
        })
        .collect();
    if columns.is_empty() {
        vec![Column::age()]
    } else {
        columns
    }
}

fn typed<T: serde::de::DeserializeOwned + serde::Serialize>(
    value: Value,
) -> Result<Value, serde_json::Error> {
    serde_json::to_value(serde_json::from_value::<T>(value)?)
}

fn lease() -> Kind {
    let mut kind = Kind::built_in("coordination.k8s.io", "v1", "Lease", ["leases", "lease"]);
    kind.namespaced = true;
    kind.writable = true;
    kind.columns = vec![
        Column::text("Holder", ".spec.holderIdentity"),
        Column::age(),
    ];
    kind.shape = Shape::Typed(typed::<k8s_openapi::api::coordination::v1::Lease>);
    kind
}

fn event(group: &str) -> Kind {
    let mut kind = Kind::built_in(group, "v1", "Event", ["events", "event"]);
    kind.namespaced = true;
    kind.writable = true;
    kind.short_names = vec!["ev".to_owned()];
    kind.stored_as = events::STORED_AS.to_owned();
    kind.columns = events::columns();
    kind.shape = Shape::Typed(typed::<k8s_openapi::api::core::v1::Event>);
    kind.selectable = events::SELECTABLE
        .iter()
        .map(|path| selectable(path))
        .collect();
    if !group.is_empty() {
        kind.view = Some(events::VIEW);
        for field in &mut kind.selectable {
            field.label = events::renamed(&field.label);
        }
    }
    kind
}

fn namespace() -> Kind {
    let mut kind = Kind::built_in("", "v1", "Namespace", ["namespaces", "namespace"]);
    kind.short_names = vec!["ns".to_owned()];
    kind.columns = vec![Column::text("Status", ".status.phase"), Column::age()];
    kind
}

fn definition() -> Kind {
    let mut kind = Kind::built_in(
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        ["customresourcedefinitions", "customresourcedefinition"],
    );
    kind.short_names = vec!["crd".to_owned(), "crds".to_owned()];
    kind.columns = vec![Column::text("Created At", ".metadata.creationTimestamp")];
    kind
}

/// All kinds that are served.
#[derive(Clone, Debug)]
pub(crate) struct Kinds(Arc<Vec<Arc<Kind>>>);

impl Kinds {
    /// The built-in kinds and those of `definitions`.
    pub(crate) fn new(definitions: &[CustomResourceDefinition]) -> Result<Self, BadSchema> {
        let mut kinds = vec![
            namespace(),
            event(""),
            lease(),
            event("events.k8s.io"),
            definition(),
        ];
        for crd in definitions {
            kinds.push(Kind::defined(crd)?);
        }
        Ok(Self(Arc::new(kinds.into_iter().map(Arc::new).collect())))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.0.iter()
    }

    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.iter()
            .find(|kind| kind.group == group && kind.version == version && kind.plural == plural)
    }

    /// The kind whose objects are stored under the resource of `key`, for what is read back from disk.
    pub(crate) fn of_key(&self, key: &str) -> Option<&Arc<Kind>> {
        let (resource, _) = key.split_once('/')?;
        self.iter()
            .find(|kind| kind.view.is_none() && kind.stored_as == resource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_definition_is_understood_whole() {
        let kinds = Kinds::new(&api::crds()).unwrap();
        for kind in kinds.iter() {
            let Shape::Schema(schema) = &kind.shape else {
                continue;
            };
            for field in &kind.selectable {
                assert!(schema.property(&field.path).is_some(), "{field:?}");
            }
            for column in &kind.columns {
                let Cell::Path(path) = &column.cell else {
                    panic!("{column:?} is no plain path");
                };
                let known = schema.property(path).is_some()
                    || path.first().is_some_and(|first| first == "metadata");
                assert!(known, "{}: {column:?}", kind.kind);
            }
        }
        assert!(kinds.find("ringpv.io", "v1alpha1", "drives").is_some());
    }
}
