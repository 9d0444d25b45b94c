//! Giving objects to the API server, which merges them into what it has; and telling what that changed.

use anyhow::Context as _;
use api::Reason;
use api::names::MANAGER_CLI;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PropagationPolicy};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use serde_json::Value;

use super::at;
use super::manifests::{LABEL_VERSION, Manifests, Object, VERSION};
use crate::advice::{Refusal, Stop};

/// What became of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was not there.
    Created,
    /// It was there, and otherwise: what of it, as paths.
    Changed(Vec<String>),
    /// It was so already.
    Unchanged,
}

impl Outcome {
    /// For people.
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Changed(_) => "changed",
            Self::Unchanged => "unchanged",
        }
    }

    /// What was changed, cut to what fits into a line.
    pub(crate) fn changes(&self) -> String {
        const SHOWN: usize = 2;
        let Self::Changed(paths) = self else {
            return String::new();
        };
        let shown: Vec<_> = paths.iter().take(SHOWN).map(String::as_str).collect();
        match paths.len().saturating_sub(SHOWN) {
            0 => shown.join(", "),
            more => format!("{}, {more} more", shown.join(", ")),
        }
    }
}

/// A cluster that objects are given to.
pub(crate) struct Cluster {
    /// To its API.
    pub(crate) client: Client,
    /// Whether nothing is kept.
    pub(crate) dry_run: bool,
}

impl Cluster {
    /// With `dry_run` nothing is kept.
    pub(crate) const fn new(client: Client, dry_run: bool) -> Self {
        Self { client, dry_run }
    }

    /// The API of an object.
    pub(crate) fn api(&self, object: &Object) -> Api<DynamicObject> {
        let (group, version) = object
            .version()
            .split_once('/')
            .unwrap_or(("", object.version()));
        let kind = GroupVersionKind::gvk(group, version, object.kind());
        let resource = ApiResource::from_gvk_with_plural(&kind, &plural(object.kind()));
        match object.namespace() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    /// Makes an object be as it is to be. What others set beside it stays.
    pub(crate) async fn apply(&self, object: &Object) -> Result<Outcome, Stop> {
        let api = self.api(object);
        let before = api.get_opt(object.name()).await?;
        let mut params = PatchParams::apply(MANAGER_CLI).force();
        params.dry_run = self.dry_run;
        let patch = Patch::Apply(&object.0);
        let after = match api.patch(object.name(), &params, &patch).await {
            Ok(after) => after,
            // What would be in a namespace that only would be there.
            Err(kube::Error::Api(answer)) if self.dry_run && answer.code == 404 => {
                return Ok(Outcome::Created);
            }
            Err(kube::Error::Api(answer)) if answer.is_invalid() && before.is_some() => {
                return Err(unchangeable(object, &answer.message));
            }
            Err(error) => return Err(error.into()),
        };
        let Some(before) = before else {
            return Ok(Outcome::Created);
        };
        let mut paths = Vec::new();
        let plain = |it| plain(it, &object.0);
        differences("", &plain(before)?, &plain(after)?, &mut paths);
        Ok(if paths.is_empty() {
            Outcome::Unchanged
        } else {
            Outcome::Changed(paths)
        })
    }

    /// Refuses to put an older version over a newer one.
    pub(crate) async fn refuse_newer(&self, manifests: &Manifests) -> Result<(), Stop> {
        let is_definition = |object: &&Object| object.kind() == "CustomResourceDefinition";
        for object in manifests.objects.iter().filter(is_definition) {
            let Some(there) = self.api(object).get_opt(object.name()).await? else {
                continue;
            };
            let labels = there.metadata.labels.unwrap_or_default();
            let installed = labels.get(LABEL_VERSION).map_or("0", String::as_str);
            if numbers(installed) > numbers(VERSION) {
                return Err(Stop::refused(
                    Refusal::new(Reason::UnsupportedHere, object.to_string())
                        .detail(format!(
                            "it is of RingPV {installed}, and this is {VERSION}: going back would lose what only the newer one knows"
                        ))
                        .next(format!("use kubectl-ringpv {installed}")),
                ));
            }
        }
        Ok(())
    }

    /// Deletes an object; false where it is not there.
    pub(crate) async fn delete(&self, object: &Object) -> Result<bool, Stop> {
        let params = DeleteParams {
            dry_run: self.dry_run,
            propagation_policy: Some(PropagationPolicy::Foreground),
            ..DeleteParams::default()
        };
        match self.api(object).delete(object.name(), &params).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// What cannot be changed in place says so, and nothing else of it was touched.
fn unchangeable(object: &Object, message: &str) -> Stop {
    let next = match object.kind() {
        "StorageClass" => format!(
            "kubectl delete storageclass {} (volumes are not touched by that), and install again",
            object.name()
        ),
        kind => format!(
            "look at kubectl get {} {} -o yaml",
            plural(kind),
            object.name()
        ),
    };
    Stop::refused(
        Refusal::new(Reason::InvalidArgument, object.to_string())
            .detail(message)
            .next(next),
    )
}

/// The plural of a kind, as paths have it.
fn plural(kind: &str) -> String {
    let kind = kind.to_lowercase();
    match kind.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None if kind.ends_with('s') => format!("{kind}es"),
        None => format!("{kind}s"),
    }
}

/// The numbers of a version, for comparing.
fn numbers(version: &str) -> Vec<u64> {
    let digits = |part: &str| {
        part.chars()
            .take_while(char::is_ascii_digit)
            .collect::<String>()
    };
    version
        .split('.')
        .map(|part| digits(part).parse().unwrap_or(0))
        .collect()
}

/// An object without what others write into it: status, and metadata but for labels and the annotations of ours.
fn plain(object: DynamicObject, ours: &Value) -> Result<Value, Stop> {
    let mut value = serde_json::to_value(object).context("an object of the API server")?;
    if let Some(fields) = value.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        let annotations = at(ours, "/metadata/annotations");
        metadata
            .retain(|key, _| key == "labels" || (key == "annotations" && !annotations.is_null()));
        if let Some(there) = metadata
            .get_mut("annotations")
            .and_then(Value::as_object_mut)
        {
            there.retain(|key, _| annotations.get(key).is_some());
        }
    }
    Ok(value)
}

/// The paths at which two values differ; a list is named by the entry's own name where it has one.
fn differences(path: &str, before: &Value, after: &Value, found: &mut Vec<String>) {
    let below = |key: &str| {
        if path.is_empty() {
            key.to_owned()
        } else {
            format!("{path}.{key}")
        }
    };
    match (before, after) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let (a, b) = (a.get(key), b.get(key));
                differences(
                    &below(key),
                    a.unwrap_or(&Value::Null),
                    b.unwrap_or(&Value::Null),
                    found,
                );
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                let name = at(b, "/name")
                    .as_str()
                    .map_or_else(|| index.to_string(), str::to_owned);
                differences(&format!("{path}[{name}]"), a, b, found);
            }
        }
        (a, b) if a == b => {}
        (Value::String(a), Value::String(b)) if a.len() + b.len() < 100 => {
            found.push(format!("{} {a} → {b}", tail(path)));
        }
        (_, _) => found.push(tail(path).to_owned()),
    }
}

/// A path without what all pods' paths begin with.
fn tail(path: &str) -> &str {
    path.strip_prefix("spec.template.spec.").unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_changed_is_named() {
        let pod = |image: &str| json!({"spec": {"template": {"spec": {"containers": [{"name": "agent", "image": image}]}}}});
        let mut found = Vec::new();
        differences("", &pod("a:1"), &pod("a:2"), &mut found);
        assert_eq!(found, ["containers[agent].image a:1 → a:2"]);
        found.clear();
        differences(
            "",
            &json!({"a": [1], "b": 1}),
            &json!({"a": [1, 2], "c": 1}),
            &mut found,
        );
        assert_eq!(found, ["a", "b", "c"]);
        assert_eq!(Outcome::Changed(found).changes(), "a, b, 1 more");
    }

    #[test]
    fn plurals_are_those_of_the_api() {
        for (kind, plural_) in [
            ("StorageClass", "storageclasses"),
            ("ValidatingAdmissionPolicy", "validatingadmissionpolicies"),
            (
                "ValidatingAdmissionPolicyBinding",
                "validatingadmissionpolicybindings",
            ),
            ("DaemonSet", "daemonsets"),
            ("CSIDriver", "csidrivers"),
        ] {
            assert_eq!(plural(kind), plural_);
        }
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(numbers("0.10.0") > numbers("0.9.1"));
        assert!(numbers("1.0.0-rc1") == numbers("1.0.0"));
    }
}
