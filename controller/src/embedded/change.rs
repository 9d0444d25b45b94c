//! What one mutation makes of one object. Pure: the clock, the next revision and the chance that names need are in
//! [`Stamp`]; the store asks, writes what comes back, and decides nothing itself.
//!
//! | part | changes by |
//! |---|---|
//! | `status` | the status subresource alone, which changes nothing else |
//! | `metadata.{uid,creationTimestamp,deletionTimestamp,generation,resourceVersion}` | this file alone |
//! | `metadata.generation` | one more for every change outside metadata and status, and for deletion |
//! | the object's end | deletion without finalizers, or the last finalizer's going from a deleted object |
//!
//! A write that names a resource version is done to that one or refused. A write that changes nothing is no write.

use jiff::Timestamp;
use serde_json::{Map, Value};
use std::sync::Arc;

use super::events;
use super::kinds::{Kind, Shape};
use super::metadata;
use super::object::{lookup, put, revision, set_meta, take, text_at};
use super::refusal::{Cause, Refusal};

/// A request to change one object.
#[derive(Clone, Debug)]
pub(crate) struct Mutation {
    pub(crate) kind: Arc<Kind>,
    pub(crate) namespace: String,
    /// From the path; absent for a creation.
    pub(crate) name: Option<String>,
    pub(crate) act: Act,
    /// Everything but the writing.
    pub(crate) dry_run: bool,
    pub(crate) unknown_fields: UnknownFields,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Create(Value),
    Replace { object: Value, status: bool },
    Merge { patch: Value, status: bool },
    Delete(Preconditions),
}

/// What must hold of an object for it to be deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Preconditions {
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
}

/// What becomes of fields that the schema does not know: dropped, dropped and said, or refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum UnknownFields {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// What this file may not fetch itself.
#[derive(Clone, Debug)]
pub(crate) struct Stamp {
    pub(crate) now: Timestamp,
    pub(crate) revision: u64,
    pub(crate) uid: uuid::Uuid,
}

/// What is to be written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Effect {
    /// Nothing: the object is already so.
    Same(Value),
    Created(Value),
    Modified(Value),
    /// The object's last state.
    Removed(Value),
}

/// An effect, and what to warn the client of.
#[derive(Debug, PartialEq)]
pub(crate) struct Change {
    pub(crate) effect: Effect,
    pub(crate) warnings: Vec<String>,
}

impl Mutation {
    /// What becomes of the object that is `current` now.
    pub(crate) fn apply(&self, current: Option<Value>, stamp: &Stamp) -> Result<Change, Refusal> {
        let mut warnings = Vec::new();
        let name = self.name.as_deref().unwrap_or_default();
        let effect = match (&self.act, current) {
            (Act::Create(object), current) => {
                let object = self.create(self.stored(object), stamp, &mut warnings)?;
                if current.is_some() {
                    return Err(Refusal::already_exists(&self.kind, name));
                }
                Effect::Created(object)
            }
            (_, None) => return Err(Refusal::not_found(&self.kind, name)),
            (Act::Delete(preconditions), Some(current)) => {
                self.delete(current, preconditions, stamp)?
            }
            (Act::Replace { object, status }, Some(current)) => {
                let wanted = self.stored(object);
                if revision(&wanted) == 0 {
                    let cause = Cause::invalid(
                        "metadata.resourceVersion",
                        "0x0",
                        "must be specified for an update",
                    );
                    return Err(Refusal::invalid(&self.kind, name, &[cause]));
                }
                self.update(current, wanted, *status, stamp, &mut warnings)?
            }
            (Act::Merge { patch, status }, Some(current)) => {
                let mut wanted = current.clone();
                merge(&mut wanted, &self.stored(patch));
                self.update(current, wanted, *status, stamp, &mut warnings)?
            }
        };
        Ok(Change { effect, warnings })
    }

    /// The name under which a creation will be stored, drawn from `stamp` where the object names but a prefix.
    pub(crate) fn settle_name(&mut self, stamp: &Stamp) -> Result<(), Refusal> {
        if let Act::Create(object) = &self.act {
            self.check_type(&self.stored(object))?;
        }
        let Act::Create(object) = &mut self.act else {
            return Ok(());
        };
        let given = |field| text_at(object, &["metadata", field]).filter(|text| !text.is_empty());
        let name = match (given("name"), given("generateName")) {
            (Some(name), _) => name.to_owned(),
            (None, Some(prefix)) => metadata::generated_name(prefix, stamp.uid),
            (None, None) => {
                let cause = Cause {
                    message: "Required value: name or generateName is required".to_owned(),
                    ..Cause::required("metadata.name")
                };
                return Err(Refusal::invalid(&self.kind, "", &[cause]));
            }
        };
        if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
            metadata.insert("name".to_owned(), name.clone().into());
        }
        self.name = Some(name);
        Ok(())
    }

    fn stored(&self, value: &Value) -> Value {
        self.kind
            .view
            .map_or_else(|| value.clone(), |view| (view.store)(value.clone()))
    }

    fn create(
        &self,
        mut object: Value,
        stamp: &Stamp,
        warnings: &mut Vec<String>,
    ) -> Result<Value, Refusal> {
        self.check_identity(&object)?;
        if revision(&object) != 0 {
            return Err(Refusal::bad_request(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        let mut meta = metadata::normal(object.get("metadata"))?;
        for own in [
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
        ] {
            meta.remove(own);
        }
        meta.insert("uid".to_owned(), stamp.uid.to_string().into());
        meta.insert("creationTimestamp".to_owned(), whole_seconds(stamp.now));
        meta.insert(
            "resourceVersion".to_owned(),
            stamp.revision.to_string().into(),
        );
        if self.kind.namespaced {
            meta.insert("namespace".to_owned(), self.namespace.clone().into());
        }
        if self.kind.status {
            meta.insert("generation".to_owned(), 1.into());
            take(&mut object, "status");
        }
        put(&mut object, "metadata", Value::Object(meta));
        self.shape(&mut object, None, warnings)?;
        Ok(object)
    }

    fn update(
        &self,
        current: Value,
        mut wanted: Value,
        status: bool,
        stamp: &Stamp,
        warnings: &mut Vec<String>,
    ) -> Result<Effect, Refusal> {
        let name = self.name.as_deref().unwrap_or_default();
        self.check_identity(&wanted)?;
        let mut meta = metadata::normal(wanted.get("metadata"))?;
        let old_meta = metadata::normal(current.get("metadata"))?;
        self.check_own(&old_meta, &meta)?;
        if meta.contains_key("resourceVersion") && revision(&wanted) != revision(&current) {
            return Err(Refusal::stale(&self.kind, name));
        }
        if status {
            let wanted_status = take(&mut wanted, "status");
            wanted = current.clone();
            meta.clone_from(&old_meta);
            put(&mut wanted, "status", wanted_status);
        } else if self.kind.status {
            let kept = current.get("status").cloned().unwrap_or_default();
            put(&mut wanted, "status", kept);
        }
        for own in OWN_FIELDS {
            match old_meta.get(own) {
                Some(value) => meta.insert(own.to_owned(), value.clone()),
                None => meta.remove(own),
            };
        }
        self.check_finalizers(&old_meta, &meta)?;
        put(&mut wanted, "metadata", Value::Object(meta));
        self.shape(&mut wanted, Some(&current), warnings)?;
        Ok(self.settle(current, wanted, stamp))
    }

    /// The effect of an update whose object is whole: none, a new revision, or the end of a deleted object.
    fn settle(&self, current: Value, mut wanted: Value, stamp: &Stamp) -> Effect {
        if wanted == current {
            return Effect::Same(current);
        }
        if self.kind.status && outside_status(&wanted) != outside_status(&current) {
            raise_generation(&mut wanted);
        }
        set_meta(
            &mut wanted,
            "resourceVersion",
            stamp.revision.to_string().into(),
        );
        if is_deleted(&wanted) && !has_finalizers(&wanted) {
            Effect::Removed(wanted)
        } else {
            Effect::Modified(wanted)
        }
    }

    fn delete(
        &self,
        mut current: Value,
        preconditions: &Preconditions,
        stamp: &Stamp,
    ) -> Result<Effect, Refusal> {
        let name = self.name.as_deref().unwrap_or_default();
        let had = |field| text_at(&current, &["metadata", field]).unwrap_or_default();
        for (what, wanted, had) in [
            ("UID", &preconditions.uid, had("uid")),
            (
                "ResourceVersion",
                &preconditions.resource_version,
                had("resourceVersion"),
            ),
        ] {
            if let Some(wanted) = wanted.as_deref().filter(|wanted| *wanted != had) {
                let why = format!(
                    "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {had}"
                );
                return Err(Refusal::conflict(&self.kind, name, &why));
            }
        }
        if has_finalizers(&current) {
            if is_deleted(&current) {
                return Ok(Effect::Same(current));
            }
            set_meta(&mut current, "deletionTimestamp", whole_seconds(stamp.now));
            set_meta(&mut current, "deletionGracePeriodSeconds", 0.into());
            if self.kind.status {
                raise_generation(&mut current);
            }
            set_meta(
                &mut current,
                "resourceVersion",
                stamp.revision.to_string().into(),
            );
            return Ok(Effect::Modified(current));
        }
        set_meta(
            &mut current,
            "resourceVersion",
            stamp.revision.to_string().into(),
        );
        Ok(Effect::Removed(current))
    }

    /// The object must be of the kind that the path names.
    fn check_type(&self, object: &Value) -> Result<(), Refusal> {
        if !object.is_object() {
            return Err(Refusal::bad_request(
                "the object provided is no JSON object",
            ));
        }
        let api_version = stored_api_version(&self.kind);
        if let Some(given) = text_at(object, &["apiVersion"]).filter(|it| *it != api_version) {
            return Err(Refusal::bad_request(format!(
                "the API version in the data ({given}) does not match the expected API version ({api_version})"
            )));
        }
        let kind = &self.kind.kind;
        if let Some(given) = text_at(object, &["kind"]).filter(|given| given != kind) {
            let cause = Cause::invalid("kind", &format!("{given:?}"), &format!("must be {kind}"));
            let name = text_at(object, &["metadata", "name"]).unwrap_or_default();
            return Err(Refusal::invalid(&self.kind, name, &[cause]));
        }
        Ok(())
    }

    /// Path and object must speak of the same thing.
    fn check_identity(&self, object: &Value) -> Result<(), Refusal> {
        self.check_type(object)?;
        let name = self.name.as_deref().unwrap_or_default();
        if let Some(given) = text_at(object, &["metadata", "name"]).filter(|given| *given != name) {
            return Err(Refusal::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({name})"
            )));
        }
        let namespace = text_at(object, &["metadata", "namespace"]).unwrap_or_default();
        if !namespace.is_empty() && namespace != self.namespace {
            return Err(Refusal::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        Ok(())
    }

    /// Who names another uid means another object; who sets a time of deletion means to delete.
    fn check_own(&self, old: &Map<String, Value>, new: &Map<String, Value>) -> Result<(), Refusal> {
        let name = self.name.as_deref().unwrap_or_default();
        let text =
            |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        for field in ["uid", "deletionTimestamp"] {
            let (had, given) = (text(old.get(field)), text(new.get(field)));
            if given.is_empty() || given == had {
                continue;
            }
            if field == "uid" && matches!(self.act, Act::Replace { .. }) {
                let why = format!(
                    "Precondition failed: UID in precondition: {given}, UID in object meta: {had}"
                );
                return Err(Refusal::conflict(&self.kind, name, &why));
            }
            let (path, shown) = (format!("metadata.{field}"), format!("{given:?}"));
            let cause = Cause::invalid(&path, &shown, "field is immutable");
            return Err(Refusal::invalid(&self.kind, name, &[cause]));
        }
        Ok(())
    }

    fn check_finalizers(
        &self,
        old: &Map<String, Value>,
        new: &Map<String, Value>,
    ) -> Result<(), Refusal> {
        if !old.contains_key("deletionTimestamp") {
            return Ok(());
        }
        let list = |meta: &Map<String, Value>| -> Vec<Value> {
            let finalizers = meta.get("finalizers").and_then(Value::as_array);
            finalizers.cloned().unwrap_or_default()
        };
        let had = list(old);
        let added: Vec<Value> = list(new)
            .into_iter()
            .filter(|finalizer| !had.contains(finalizer))
            .collect();
        if added.is_empty() {
            return Ok(());
        }
        let cause = Cause::forbidden(
            "metadata.finalizers",
            &format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers {}",
                Value::Array(added)
            ),
        );
        let name = self.name.as_deref().unwrap_or_default();
        Err(Refusal::invalid(&self.kind, name, &[cause]))
    }

    /// Holds the object to the kind's shape: prunes, fills in, validates.
    fn shape(
        &self,
        object: &mut Value,
        old: Option<&Value>,
        warnings: &mut Vec<String>,
    ) -> Result<(), Refusal> {
        let name = self.name.as_deref().unwrap_or_default();
        let mut causes = metadata::problems(lookup(object, &["metadata"]), old.is_none());
        match &self.kind.shape {
            Shape::Fixed => return Err(Refusal::method_not_allowed()),
            Shape::Typed(round_trip) => {
                *object = round_trip(object.clone()).map_err(|error| {
                    Refusal::bad_request(format!(
                        "{} in version \"{}\" cannot be handled as a {}: {error}",
                        self.kind.kind, self.kind.version, self.kind.kind
                    ))
                })?;
                if self.kind.stored_as == events::STORED_AS && old.is_none() {
                    causes.extend(events::misplaced(object));
                }
            }
            Shape::Schema(schema) => {
                let metadata = take(object, "metadata");
                take(object, "apiVersion");
                take(object, "kind");
                let mut unknown = Vec::new();
                schema.prune(object, "", &mut unknown);
                schema.fill(object);
                put(object, "metadata", metadata);
                self.report_unknown(&unknown, warnings)?;
                schema.validate(object, old, "", &mut causes);
            }
        }
        put(object, "apiVersion", stored_api_version(&self.kind).into());
        put(object, "kind", self.kind.kind.clone().into());
        if causes.is_empty() {
            Ok(())
        } else {
            Err(Refusal::invalid(&self.kind, name, &causes))
        }
    }

    fn report_unknown(
        &self,
        unknown: &[String],
        warnings: &mut Vec<String>,
    ) -> Result<(), Refusal> {
        let said: Vec<String> = unknown
            .iter()
            .map(|path| format!("unknown field \"{path}\""))
            .collect();
        match self.unknown_fields {
            UnknownFields::Strict if !said.is_empty() => Err(Refusal::bad_request(format!(
                "{} in version \"{}\" cannot be handled as a {}: strict decoding error: {}",
                self.kind.kind,
                self.kind.version,
                self.kind.kind,
                said.join(", ")
            ))),
            UnknownFields::Warn => {
                warnings.extend(said);
                Ok(())
            }
            UnknownFields::Strict | UnknownFields::Ignore => Ok(()),
        }
    }
}

/// Metadata that no client sets.
const OWN_FIELDS: [&str; 7] = [
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
];

fn stored_api_version(kind: &Kind) -> String {
    match kind.view {
        None => kind.api_version(),
        Some(_) => "v1".to_owned(),
    }
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        target.clone_from(patch);
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    if let Value::Object(fields) = target {
        for (name, value) in patch {
            if value.is_null() {
                fields.remove(name);
            } else {
                merge(fields.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
    }
}

fn raise_generation(object: &mut Value) {
    let generation = lookup(object, &["metadata", "generation"]).and_then(Value::as_u64);
    set_meta(object, "generation", (generation.unwrap_or(0) + 1).into());
}

fn outside_status(object: &Value) -> Vec<(&String, &Value)> {
    object
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, _)| !matches!(name.as_str(), "metadata" | "status"))
        .collect()
}

fn has_finalizers(object: &Value) -> bool {
    lookup(object, &["metadata", "finalizers"])
        .and_then(Value::as_array)
        .is_some_and(|finalizers| !finalizers.is_empty())
}

fn is_deleted(object: &Value) -> bool {
    lookup(object, &["metadata", "deletionTimestamp"]).is_some()
}

/// Times in metadata have no fractions of a second.
fn whole_seconds(time: Timestamp) -> Value {
    Timestamp::from_second(time.as_second())
        .unwrap_or(time)
        .to_string()
        .into()
}

#[cfg(test)]
#[path = "change_tests.rs"]
mod tests;
