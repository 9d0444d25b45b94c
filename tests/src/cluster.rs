//! The objects of a simulated cluster, with the rules of the API that decisions rely on: a resourceVersion per write,
//! conflicts, merge patches, finalizers, and a deletionTimestamp while any is left.

use std::collections::BTreeMap;
use std::fmt::Debug;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Resource;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Why a write was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is there already.
    AlreadyExists,
    /// It is not there.
    NotFound,
    /// Somebody else was faster.
    Conflict,
}

/// All objects of one kind.
#[derive(Clone, Debug)]
pub struct Store<K> {
    objects: BTreeMap<String, K>,
    /// Grows with every write.
    pub revision: u64,
    created: u64,
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            revision: 0,
            created: 0,
        }
    }
}

impl<K> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    /// All objects, by name.
    pub fn all(&self) -> impl Iterator<Item = &K> {
        self.objects.values()
    }

    /// One object.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&K> {
        self.objects.get(name)
    }

    /// Creates an object; it gets a uid of its own.
    ///
    /// # Errors
    /// One of that name is there.
    pub fn create(&mut self, mut object: K, now: Timestamp) -> Result<K, Refused> {
        let name = object.meta().name.clone().unwrap_or_default();
        if self.objects.contains_key(&name) {
            return Err(Refused::AlreadyExists);
        }
        self.created += 1;
        self.revision += 1;
        let meta = object.meta_mut();
        meta.uid = Some(format!(
            "uid-{}-{}",
            K::kind(&()).to_lowercase(),
            self.created
        ));
        meta.creation_timestamp = Some(Time(now));
        meta.resource_version = Some(self.revision.to_string());
        meta.generation = Some(1);
        self.objects.insert(name, object.clone());
        Ok(object)
    }

    /// Merges a patch into an object. A resourceVersion in it must be the object's.
    ///
    /// # Errors
    /// It is not there, or was changed meanwhile.
    ///
    /// # Panics
    /// When the patched object is no object of its kind.
    pub fn patch(&mut self, name: &str, patch: &Value) -> Result<K, Refused> {
        let old = self.objects.get(name).ok_or(Refused::NotFound)?;
        let expected = patch
            .pointer("/metadata/resourceVersion")
            .and_then(Value::as_str);
        if expected.is_some() && expected != old.meta().resource_version.as_deref() {
            return Err(Refused::Conflict);
        }
        let mut value = serde_json::to_value(old).expect("an object is JSON");
        merge(&mut value, patch);
        let mut new: K =
            serde_json::from_value(value).expect("a patched object is one of its kind");
        if same(&new, old) {
            return Ok(new);
        }
        self.revision += 1;
        let (before, after) = (spec(old), spec(&new));
        let meta = new.meta_mut();
        meta.resource_version = Some(self.revision.to_string());
        if before != after {
            meta.generation = Some(meta.generation.unwrap_or(0) + 1);
        }
        if new.meta().deletion_timestamp.is_some() && finalizers(&new).is_empty() {
            self.objects.remove(name);
        } else {
            self.objects.insert(name.to_owned(), new.clone());
        }
        Ok(new)
    }

    /// Deletes an object: at once, or when its last finalizer is taken off.
    ///
    /// # Errors
    /// It is not there.
    pub fn delete(&mut self, name: &str, now: Timestamp) -> Result<(), Refused> {
        let object = self.objects.get_mut(name).ok_or(Refused::NotFound)?;
        self.revision += 1;
        if finalizers(object).is_empty() {
            self.objects.remove(name);
        } else if object.meta().deletion_timestamp.is_none() {
            let meta = object.meta_mut();
            meta.deletion_timestamp = Some(Time(now));
            meta.resource_version = Some(self.revision.to_string());
            meta.generation = Some(meta.generation.unwrap_or(0) + 1);
        }
        Ok(())
    }
}

fn finalizers<K: Resource>(object: &K) -> &[String] {
    object.meta().finalizers.as_deref().unwrap_or_default()
}

fn spec<K: Serialize>(object: &K) -> Option<Value> {
    serde_json::to_value(object).ok()?.get("spec").cloned()
}

fn same<K: Serialize>(a: &K, b: &K) -> bool {
    serde_json::to_value(a).ok() == serde_json::to_value(b).ok()
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let (Value::Object(target), Value::Object(patch)) = (&mut *target, patch) else {
        *target = patch.clone();
        return;
    };
    for (key, value) in patch {
        match value {
            Value::Null => drop(target.remove(key)),
            Value::Object(_) => {
                let slot = target
                    .entry(key.clone())
                    .or_insert_with(|| Value::Object(serde_json::Map::new()));
                merge(slot, value);
            }
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                target.insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{Drive, DriveSpec};
    use serde_json::json;

    fn drive(name: &str) -> Drive {
        let spec: DriveSpec = serde_json::from_value(json!({
            "node": "n", "device": {"fingerprint": {"identity": "i", "content": "blank"}, "sizeBytes": 1}
        }))
        .unwrap();
        Drive::new(name, spec)
    }

    #[test]
    fn finalizers_hold_an_object() {
        let now = Timestamp::UNIX_EPOCH;
        let mut store = Store::default();
        let mut held = drive("a");
        held.metadata.finalizers = Some(vec!["x".to_owned()]);
        store.create(held.clone(), now).unwrap();
        assert_eq!(store.create(held, now), Err(Refused::AlreadyExists));
        store.delete("a", now).unwrap();
        assert!(
            store
                .get("a")
                .unwrap()
                .metadata
                .deletion_timestamp
                .is_some()
        );
        store
            .patch("a", &json!({"metadata": {"finalizers": []}}))
            .unwrap();
        assert!(store.get("a").is_none());
    }

    #[test]
    fn a_stale_resource_version_conflicts() {
        let mut store = Store::default();
        let first = store.create(drive("a"), Timestamp::UNIX_EPOCH).unwrap();
        let patch = json!({"metadata": {"resourceVersion": first.metadata.resource_version}, "spec": {"cordoned": true}});
        store.patch("a", &patch).unwrap();
        assert_eq!(store.patch("a", &patch), Err(Refused::Conflict));
        let revision = store.revision;
        store
            .patch("a", &json!({"spec": {"cordoned": true}}))
            .unwrap();
        assert_eq!(store.revision, revision, "what is so already is no write");
    }
}
