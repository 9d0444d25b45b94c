//! From watch events to the inventory. A watch begins with a list that is as new as the store, so what is not in it is
//! gone; when a watch breaks it begins anew the same way.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;

use api::names::LEASE_AGENT_PREFIX;
use api::{Drive, StorageNode, Volume};
use futures::TryStreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::inventory::Inventory;
use crate::leader::Leader;

/// Which kinds have been listed once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    nodes: bool,
    drives: bool,
    volumes: bool,
    leases: bool,
}

impl Synced {
    /// Whether all have.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.nodes && self.drives && self.volumes && self.leases
    }
}

/// A kind that the inventory knows.
pub trait Tracked:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static
{
    /// As it is now.
    fn apply(&self, inventory: &mut Inventory, now: Timestamp);
    /// Gone.
    fn remove(name: &str, inventory: &mut Inventory);
    /// All that are known.
    fn names(inventory: &Inventory) -> Vec<String>;
    /// Its mark among those listed.
    fn mark(synced: &mut Synced) -> &mut bool;
}

impl Tracked for StorageNode {
    fn apply(&self, inventory: &mut Inventory, _now: Timestamp) {
        inventory.apply_node(self);
    }

    fn remove(name: &str, inventory: &mut Inventory) {
        inventory.remove_node(name);
    }

    fn names(inventory: &Inventory) -> Vec<String> {
        inventory.nodes().map(|(name, _)| name.to_owned()).collect()
    }

    fn mark(synced: &mut Synced) -> &mut bool {
        &mut synced.nodes
    }
}

impl Tracked for Drive {
    fn apply(&self, inventory: &mut Inventory, _now: Timestamp) {
        inventory.apply_drive(self);
    }

    fn remove(name: &str, inventory: &mut Inventory) {
        inventory.remove_drive(name);
    }

    fn names(inventory: &Inventory) -> Vec<String> {
        inventory
            .drives()
            .map(|drive| drive.name.to_string())
            .collect()
    }

    fn mark(synced: &mut Synced) -> &mut bool {
        &mut synced.drives
    }
}

impl Tracked for Volume {
    fn apply(&self, inventory: &mut Inventory, _now: Timestamp) {
        inventory.apply_volume(self);
    }

    fn remove(name: &str, inventory: &mut Inventory) {
        inventory.remove_volume(name);
    }

    fn names(inventory: &Inventory) -> Vec<String> {
        inventory
            .volumes()
            .map(|volume| volume.name.clone())
            .collect()
    }

    fn mark(synced: &mut Synced) -> &mut bool {
        &mut synced.volumes
    }
}

/// The Leases of agents; there are others beside them.
impl Tracked for Lease {
    fn apply(&self, inventory: &mut Inventory, now: Timestamp) {
        let name = self.name_any();
        if let Some(node) = name.strip_prefix(LEASE_AGENT_PREFIX) {
            inventory.hear(node, self, now);
        }
    }

    fn remove(name: &str, inventory: &mut Inventory) {
        if let Some(node) = name.strip_prefix(LEASE_AGENT_PREFIX) {
            inventory.forget_lease(node);
        }
    }

    fn names(inventory: &Inventory) -> Vec<String> {
        let nodes = inventory.heard();
        nodes
            .map(|node| format!("{LEASE_AGENT_PREFIX}{node}"))
            .collect()
    }

    fn mark(synced: &mut Synced) -> &mut bool {
        &mut synced.leases
    }
}

/// Takes one event. `listed` are the names of the list under way.
pub fn take<K: Tracked>(
    event: Event<K>,
    inventory: &mut Inventory,
    listed: &mut BTreeSet<String>,
    now: Timestamp,
) {
    match event {
        Event::Init => listed.clear(),
        Event::InitApply(object) => {
            listed.insert(object.name_any());
            object.apply(inventory, now);
        }
        Event::InitDone => {
            for name in K::names(inventory) {
                if !listed.contains(&name) {
                    K::remove(&name, inventory);
                }
            }
            listed.clear();
        }
        Event::Apply(object) => object.apply(inventory, now),
        Event::Delete(object) => K::remove(&object.name_any(), inventory),
    }
}

/// Watches one kind until `over`.
pub async fn watch<K: Tracked>(
    api: Api<K>,
    leader: Arc<Leader>,
    changed: Arc<Notify>,
    synced: Arc<watch::Sender<Synced>>,
    over: CancellationToken,
) {
    let events = watcher(api, watcher::Config::default()).default_backoff();
    let mut events = std::pin::pin!(events);
    let mut listed = BTreeSet::new();
    loop {
        let event = tokio::select! {
            event = events.try_next() => event,
            () = over.cancelled() => return,
        };
        match event {
            Ok(Some(event)) => {
                let done = matches!(event, Event::InitDone);
                let now = leader.now();
                take(event, &mut leader.inventory(), &mut listed, now);
                if done {
                    synced.send_modify(|synced| *K::mark(synced) = true);
                }
                changed.notify_one();
            }
            Ok(None) => return,
            Err(error) => {
                let kind = K::kind(&()).to_string();
                tracing::warn!(kind, %error, reason = %api::Reason::ApiUnavailable, "a watch broke; it begins anew");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::VolumeEntry;
    use api::testing::{drive, noon, volume};

    /// A list is older than a promise made while it was on its way.
    #[test]
    fn what_is_not_listed_is_gone_but_for_promises() {
        let mut inventory = Inventory::default();
        let mut listed = BTreeSet::new();
        let mut see = |event: Event<Volume>, inventory: &mut Inventory| {
            take(event, inventory, &mut listed, noon());
        };
        inventory.apply_drive(&drive("d").build());
        for name in ["a", "b"] {
            see(
                Event::Apply(volume(name).on("n1", "d").build()),
                &mut inventory,
            );
        }
        see(Event::Init, &mut inventory);
        see(
            Event::InitApply(volume("b").on("n1", "d").build()),
            &mut inventory,
        );
        let promised = VolumeEntry::new(&volume("c").on("n1", "d").build()).unwrap();
        inventory.promise(promised.clone(), noon());
        inventory.confirm(promised);
        see(Event::InitDone, &mut inventory);
        let names: Vec<_> = inventory.volumes().map(|v| v.name.clone()).collect();
        assert_eq!(names, ["b", "c"]);
        see(
            Event::Apply(volume("c").on("n1", "d").build()),
            &mut inventory,
        );
        see(
            Event::Delete(volume("c").on("n1", "d").build()),
            &mut inventory,
        );
        assert_eq!(inventory.volumes_on("d"), 1);
    }
}
