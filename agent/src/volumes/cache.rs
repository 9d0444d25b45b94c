//! This node's Volumes as the watch shows them. Whoever misses one here asks the API once before he says it is not there.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use api::Volume;
use kube::ResourceExt as _;
use kube::runtime::watcher::Event;
use tokio::sync::watch;

/// The Volumes, by name.
#[derive(Debug)]
pub struct Cache {
    state: RwLock<State>,
    /// Counts changes, so that others can wait for one.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    volumes: BTreeMap<String, Arc<Volume>>,
    /// While a list is under way: what it has named so far.
    listed: Option<BTreeMap<String, Arc<Volume>>>,
    /// Whether a list was ever complete: before that an absence says nothing.
    complete: bool,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            state: RwLock::default(),
            changes: watch::Sender::new(0),
        }
    }
}

impl Cache {
    /// The Volume, if it is known.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<Volume>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.volumes.get(name).cloned()
    }

    /// All Volumes; none before the first list was complete.
    #[must_use]
    pub fn all(&self) -> Option<BTreeMap<String, Arc<Volume>>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.complete.then(|| state.volumes.clone())
    }

    /// A receiver that is woken by each change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Takes an event of the watch; gives the names that changed, those that went included.
    pub fn take(&self, event: Event<Volume>) -> Vec<String> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let changed = match event {
            Event::Init => {
                state.listed = Some(BTreeMap::new());
                Vec::new()
            }
            Event::InitApply(volume) => {
                if let Some(listed) = &mut state.listed {
                    listed.insert(volume.name_any(), Arc::new(volume));
                }
                Vec::new()
            }
            Event::InitDone => {
                let listed = state.listed.take().unwrap_or_default();
                let before = std::mem::replace(&mut state.volumes, listed);
                state.complete = true;
                let mut changed: Vec<String> = before.into_keys().collect();
                changed.extend(state.volumes.keys().cloned());
                changed.sort_unstable();
                changed.dedup();
                changed
            }
            Event::Apply(volume) => {
                let name = volume.name_any();
                state.volumes.insert(name.clone(), Arc::new(volume));
                vec![name]
            }
            Event::Delete(volume) => {
                let name = volume.name_any();
                state.volumes.remove(&name);
                vec![name]
            }
        };
        drop(state);
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumes::testing::volume;

    #[test]
    fn a_list_replaces_what_was_known_and_tells_what_went() {
        let cache = Cache::default();
        assert!(cache.all().is_none());
        for event in [
            Event::Init,
            Event::InitApply(volume("a")),
            Event::InitApply(volume("b")),
        ] {
            assert_eq!(cache.take(event), Vec::<String>::new());
        }
        assert!(cache.get("a").is_none() && cache.all().is_none());
        assert_eq!(cache.take(Event::InitDone), ["a", "b"]);
        assert_eq!(cache.take(Event::Apply(volume("c"))), ["c"]);
        assert_eq!(cache.take(Event::Delete(volume("a"))), ["a"]);
        // The watch broke, and the new list does not have b.
        cache.take(Event::Init);
        cache.take(Event::InitApply(volume("c")));
        assert!(cache.get("b").is_some(), "what was known holds meanwhile");
        assert_eq!(cache.take(Event::InitDone), ["b", "c"]);
        assert_eq!(cache.all().unwrap().into_keys().collect::<Vec<_>>(), ["c"]);
    }
}
