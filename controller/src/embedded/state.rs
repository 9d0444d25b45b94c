//! What is, and what lately happened: the current objects by key, and a bounded history from which watches are
//! served. A watch holds no queue of its own, only a revision; one that falls behind the history is told so (410)
//! and lists again. Memory is therefore bounded however slow a client reads.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use tokio::sync::watch;

use super::kinds::Kind;
use super::object::Object;
use super::selector::Selector;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Happening {
    Added,
    Modified,
    Deleted,
}

/// One thing that happened.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) happening: Happening,
    pub(crate) key: Box<str>,
    /// After; for a deletion the last state, in the revision of the deletion.
    pub(crate) object: Arc<Object>,
    /// Before.
    pub(crate) previous: Option<Arc<Object>>,
}

impl Entry {
    fn bytes(&self) -> usize {
        self.object.bytes() + self.key.len()
    }
}

/// Bounds of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HistoryLimits {
    pub(crate) entries_max: usize,
    pub(crate) bytes_max: usize,
}

/// Current objects and history, in one consistent revision.
#[derive(Debug)]
pub(crate) struct State {
    objects: BTreeMap<Box<str>, Arc<Object>>,
    history: VecDeque<Arc<Entry>>,
    history_bytes: usize,
    limits: HistoryLimits,
    /// Everything after this revision is in the history.
    forgotten: u64,
    revision: u64,
}

/// Why a watch cannot go on from where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooOld {
    pub(crate) oldest: u64,
}

impl State {
    pub(crate) fn new(
        objects: BTreeMap<Box<str>, Arc<Object>>,
        revision: u64,
        limits: HistoryLimits,
    ) -> Self {
        Self {
            objects,
            history: VecDeque::new(),
            history_bytes: 0,
            limits,
            forgotten: revision,
            revision,
        }
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Arc<Object>> {
        self.objects.get(key)
    }

    /// All objects stored under a prefix that ends in `/`.
    pub(crate) fn under<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a Arc<Object>)> {
        self.objects
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
            .map(|(key, object)| (&**key, object))
    }

    /// The objects that `selector` means, in the order of their names.
    pub(crate) fn list(
        &self,
        kind: &Kind,
        namespace: &str,
        selector: &Selector,
    ) -> Vec<Arc<Object>> {
        if let (Some(name), true) = (
            selector.only_name(),
            !kind.namespaced || !namespace.is_empty(),
        ) {
            let found = self.get(&kind.key(namespace, name)).into_iter();
            return found
                .filter(|object| selector.matches(object))
                .cloned()
                .collect();
        }
        let prefix = if namespace.is_empty() {
            kind.prefix()
        } else {
            kind.key(namespace, "")
        };
        self.under(&prefix)
            .map(|(_, object)| object)
            .filter(|object| selector.matches(object))
            .cloned()
            .collect()
    }

    /// What happened after `revision`.
    pub(crate) fn since(&self, revision: u64) -> Result<impl Iterator<Item = &Arc<Entry>>, TooOld> {
        if revision < self.forgotten || revision > self.revision {
            return Err(TooOld {
                oldest: self.forgotten,
            });
        }
        let start = self
            .history
            .partition_point(|entry| entry.object.revision <= revision);
        Ok(self.history.range(start..))
    }

    fn take_in(&mut self, entry: Entry) {
        self.revision = entry.object.revision;
        match entry.happening {
            Happening::Added | Happening::Modified => {
                let object = Arc::clone(&entry.object);
                self.objects.insert(entry.key.clone(), object);
            }
            Happening::Deleted => {
                self.objects.remove(&entry.key);
            }
        }
        self.history_bytes += entry.bytes();
        self.history.push_back(Arc::new(entry));
        while self.history.len() > self.limits.entries_max
            || self.history_bytes > self.limits.bytes_max
        {
            let Some(oldest) = self.history.pop_front() else {
                break;
            };
            self.history_bytes -= oldest.bytes();
            self.forgotten = oldest.object.revision;
        }
    }
}

/// The state, and a signal of its revision.
#[derive(Debug)]
pub(crate) struct Shared {
    state: RwLock<State>,
    revision: watch::Sender<u64>,
}

impl Shared {
    pub(crate) fn new(state: State) -> Self {
        let (revision, _) = watch::channel(state.revision);
        Self {
            state: RwLock::new(state),
            revision,
        }
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn publish(&self, entries: Vec<Entry>) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        for entry in entries {
            state.take_in(entry);
        }
        self.revision.send_replace(state.revision);
    }

    pub(crate) fn follow(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::super::kinds::Kinds;
    use super::*;
    use serde_json::json;

    fn entry(kinds: &Kinds, revision: u64, happening: Happening) -> Entry {
        let kind = kinds.find("coordination.k8s.io", "v1", "leases").unwrap();
        let object = json!({"metadata": {"name": "a", "namespace": "n", "resourceVersion": revision.to_string()}});
        Entry {
            happening,
            key: kind.key("n", "a").into(),
            object: Arc::new(Object::new(kind, &object)),
            previous: None,
        }
    }

    #[test]
    fn a_watch_goes_on_only_from_where_nothing_is_forgotten() {
        let kinds = Kinds::new(&[]).unwrap();
        let limits = HistoryLimits {
            entries_max: 2,
            bytes_max: 1 << 20,
        };
        let mut state = State::new(BTreeMap::new(), 10, limits);
        let since = |state: &State, revision| {
            state
                .since(revision)
                .map(|entries| entries.map(|e| e.object.revision).collect::<Vec<_>>())
        };
        assert_eq!(since(&state, 9), Err(TooOld { oldest: 10 }));
        assert_eq!(since(&state, 10), Ok(vec![]));
        for revision in 11..=13 {
            state.take_in(entry(&kinds, revision, Happening::Modified));
        }
        assert_eq!(since(&state, 10), Err(TooOld { oldest: 11 }));
        assert_eq!(since(&state, 11), Ok(vec![12, 13]));
        assert_eq!(since(&state, 13), Ok(vec![]));
        assert_eq!(since(&state, 14), Err(TooOld { oldest: 11 }));
    }

    #[test]
    fn what_is_deleted_is_gone_from_lists_and_not_from_history() {
        let kinds = Kinds::new(&[]).unwrap();
        let kind = kinds.find("coordination.k8s.io", "v1", "leases").unwrap();
        let limits = HistoryLimits {
            entries_max: 9,
            bytes_max: 1 << 20,
        };
        let mut state = State::new(BTreeMap::new(), 0, limits);
        state.take_in(entry(&kinds, 1, Happening::Added));
        assert_eq!(state.list(kind, "n", &Selector::default()).len(), 1);
        assert_eq!(state.list(kind, "", &Selector::default()).len(), 1);
        assert_eq!(state.list(kind, "m", &Selector::default()).len(), 0);
        state.take_in(entry(&kinds, 2, Happening::Deleted));
        assert_eq!(state.list(kind, "n", &Selector::default()).len(), 0);
        assert_eq!(state.since(0).unwrap().count(), 2);
    }
}
