//! What the controller knows: nodes, their drives, the volumes on them. Fed by watch events and by the promises that
//! this process makes itself; it knows no client and no clock.
//!
//! Rule: **a byte is counted from the moment it is promised until its Volume is gone.** A drive's usage is the sum over
//! the volumes that name it, each with the larger of what was seen and what was promised, recounted from them whenever
//! one changes; there is no second number that could drift. Data that stand without their Volume (orphans, as the nodes
//! report them) count as well. A promise stands until a watch event shows what became of it, or until somebody looked
//! and found nothing.
//!
//! ```text
//!   promise ──► written ──► seen (watch) ──► gone (watch)
//!      └─ refused: withdrawn     └─ answer lost: stands, is looked up later
//! ```

mod entry;
mod heard;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use api::{AccessTier, Drive, StorageNode, Volume};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;

pub use self::entry::{DriveEntry, KernelLatency, ReadLatency, Usage, VolumeEntry};
use self::heard::{Heard, Lack, Lacking};
use crate::placement::tier_index;

/// A node: its topology and its drives.
#[derive(Clone, Debug, Default)]
pub struct NodeEntry {
    /// UID of its object; empty where there is none.
    pub uid: String,
    /// Zone, region and the like.
    pub topology: BTreeMap<String, String>,
    /// Since when its agent is not heard of: as its object says; where there is none, as was found here.
    pub silent_since: Option<Timestamp>,
    lacking: Option<Lacking>,
    /// Bytes of data without an object, by drive and volume.
    orphans: BTreeMap<String, BTreeMap<String, u64>>,
    drives: BTreeMap<Arc<str>, DriveEntry>,
}

impl NodeEntry {
    /// Its drives, by name.
    pub fn drives(&self) -> impl Iterator<Item = &DriveEntry> {
        self.drives.values()
    }

    fn lacks_for_long(&self, now: Timestamp) -> bool {
        self.lacking.is_some_and(|lacking| lacking.is_silence(now))
    }
}

/// What drives are measured against: medians of [`ReadLatency::figure_ns`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// Of all drives.
    pub all_ns: Option<u64>,
    tiers_ns: [Option<u64>; 4],
}

impl References {
    /// Of the drives of one tier.
    #[must_use]
    pub fn tier_ns(&self, tier: AccessTier) -> Option<u64> {
        self.tiers_ns.get(tier_index(tier)).copied().flatten()
    }
}

/// What this process has promised and not yet seen.
#[derive(Clone, Debug)]
struct Promise {
    entry: VolumeEntry,
    since: Timestamp,
    /// The API said that it was written.
    written: bool,
}

#[derive(Clone, Debug, Default)]
struct Slot {
    seen: Option<VolumeEntry>,
    promised: Option<Promise>,
}

impl Slot {
    /// What stands: the promise where there is one, for it is the newer word.
    fn standing(&self) -> Option<&VolumeEntry> {
        let promised = self.promised.as_ref().map(|promise| &promise.entry);
        promised.or(self.seen.as_ref())
    }

    fn drive(&self) -> Option<&Arc<str>> {
        self.standing()?.drive.as_ref()
    }

    /// The larger of what was seen and what was promised.
    fn bytes(&self) -> u64 {
        let seen = self.seen.as_ref().map_or(0, |entry| entry.capacity_bytes);
        let promised = self.promised.as_ref();
        seen.max(promised.map_or(0, |promise| promise.entry.capacity_bytes))
    }
}

/// Nodes, drives and volumes.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    nodes: BTreeMap<Arc<str>, NodeEntry>,
    node_of_drive: BTreeMap<Arc<str>, Arc<str>>,
    volumes: BTreeMap<String, Slot>,
    volumes_of_drive: BTreeMap<Arc<str>, BTreeSet<String>>,
    /// By node.
    heard: BTreeMap<String, Heard>,
    references: OnceLock<References>,
}

impl Inventory {
    // ---- what is seen ----

    /// A StorageNode as it is now.
    pub fn apply_node(&mut self, node: &StorageNode) {
        let Some(name) = node.metadata.name.as_deref() else {
            return;
        };
        let status = node.status.clone().unwrap_or_default();
        let mut orphans: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        for orphan in status.orphans {
            let of_drive = orphans.entry(orphan.drive).or_default();
            of_drive.insert(orphan.volume, orphan.capacity_bytes);
        }
        let entry = self.node_entry(name);
        let uid = node.metadata.uid.clone().unwrap_or_default();
        if entry.uid != uid {
            // A new object is a sign of life: what it lacks counts from now on.
            entry.lacking = None;
        }
        entry.uid = uid;
        entry.topology = status.topology;
        entry.silent_since = status.silent_since;
        let before = std::mem::replace(&mut entry.orphans, orphans.clone());
        for drive in before.keys().chain(orphans.keys()) {
            self.recount(drive);
        }
    }

    /// A StorageNode is gone; its drives stay known. A silent node stays silent until its agent makes the object anew.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.uid.clear();
            node.topology.clear();
        }
        self.forget_empty_node(name);
    }

    /// A Drive as it is now.
    pub fn apply_drive(&mut self, drive: &Drive) {
        let Some(mut entry) = DriveEntry::new(drive) else {
            return;
        };
        let (name, node) = (entry.name.clone(), entry.node.clone());
        if self.node_of_drive.get(&name) != Some(&node) {
            self.remove_drive(&name);
        }
        self.node_of_drive.insert(name.clone(), node.clone());
        entry.usage = self.count(&name);
        self.references = OnceLock::new();
        self.node_entry(&node).drives.insert(name, entry);
    }

    /// A Drive is gone.
    pub fn remove_drive(&mut self, name: &str) {
        let Some(node) = self.node_of_drive.remove(name) else {
            return;
        };
        if let Some(entry) = self.nodes.get_mut(&node) {
            entry.drives.remove(name);
        }
        self.references = OnceLock::new();
        self.forget_empty_node(&node);
    }

    /// A Volume as it is now.
    pub fn apply_volume(&mut self, volume: &Volume) {
        if let Some(entry) = VolumeEntry::new(volume) {
            self.change_volume(&entry.name.clone(), |slot| {
                let kept = slot.promised.take();
                // What is seen may be older than what is promised: a smaller size, or not yet that drive.
                slot.promised = kept.filter(|promise| {
                    let Promise { entry: newer, .. } = promise;
                    newer.capacity_bytes > entry.capacity_bytes || newer.drive != entry.drive
                });
                slot.seen = Some(entry);
            });
        }
    }

    /// A Volume is gone. A promise of the same name stands: it is of another one, made since.
    pub fn remove_volume(&mut self, name: &str) {
        self.change_volume(name, |slot| {
            let gone = slot.seen.take();
            let same = |promise: &Promise| {
                gone.as_ref()
                    .is_some_and(|gone| !gone.uid.is_empty() && gone.uid == promise.entry.uid)
            };
            slot.promised = slot.promised.take().filter(|promise| !same(promise));
        });
    }

    /// The Lease of a node's agent as it is `now`.
    pub fn hear(&mut self, node: &str, lease: &Lease, now: Timestamp) {
        let heard = Heard::new(lease, self.heard.get(node), now);
        self.heard.insert(node.to_owned(), heard);
    }

    /// The Lease of a node's agent is gone.
    pub fn forget_lease(&mut self, node: &str) {
        self.heard.remove(node);
    }

    /// Nodes of whose agents something was heard.
    pub fn heard(&self) -> impl Iterator<Item = &str> {
        self.heard.keys().map(String::as_str)
    }

    /// Takes note of what nodes lack `now`: an object, or a Lease. A node without an object falls silent here once that
    /// has lasted; those are returned. Of one without a Lease, [`Self::turns`] says so.
    pub fn note_lacks(&mut self, now: Timestamp) -> Vec<Arc<str>> {
        let mut fallen = Vec::new();
        for (name, node) in &mut self.nodes {
            let lack = match (node.uid.is_empty(), self.heard.contains_key(&**name)) {
                (true, _) => Some(Lack::Object),
                (false, false) => Some(Lack::Lease),
                (false, true) => None,
            };
            node.lacking = lack.map(|lack| Lacking::new(lack, node.lacking, now));
            let silence = node.uid.is_empty() && node.lacks_for_long(now);
            if silence && node.silent_since.is_none() {
                node.silent_since = Some(now);
                fallen.push(name.clone());
            }
        }
        fallen
    }

    /// Nodes whose agents fell silent (true) or are heard of again (false), as far as their objects do not say so yet.
    pub fn turns(&self, now: Timestamp) -> impl Iterator<Item = (&str, &NodeEntry, bool)> {
        let nodes = self.nodes.iter().filter(|(_, node)| !node.uid.is_empty());
        nodes.filter_map(move |(name, node)| {
            let silent = match self.heard.get(&**name) {
                Some(heard) => heard.turn(node.silent_since, now)?,
                None if node.silent_since.is_none() && node.lacks_for_long(now) => true,
                None => return None,
            };
            Some((&**name, node, silent))
        })
    }

    // ---- what is promised ----

    /// A volume is about to be written, or a larger size of one that is there. Counts from now on.
    pub fn promise(&mut self, entry: VolumeEntry, now: Timestamp) {
        self.change_volume(&entry.name.clone(), |slot| {
            slot.promised = Some(Promise {
                entry,
                since: now,
                written: false,
            });
        });
    }

    /// It was written, as `entry` says. It counts as a promise until a watch shows it, so that a list made before the
    /// write cannot undo it.
    pub fn confirm(&mut self, entry: VolumeEntry) {
        self.change_volume(&entry.name.clone(), |slot| {
            if let Some(promise) = &mut slot.promised {
                promise.entry = entry;
                promise.written = true;
            }
        });
    }

    /// It was not written: what was seen, if anything, counts again.
    pub fn withdraw(&mut self, name: &str) {
        self.change_volume(name, |slot| slot.promised = None);
    }

    /// Promises older than `before` of which nothing has been seen: somebody should look.
    pub fn doubtful(&self, before: Timestamp) -> Vec<String> {
        let old = |slot: &Slot| slot.promised.as_ref().is_some_and(|p| p.since < before);
        let doubtful = self.volumes.iter().filter(|(_, slot)| old(slot));
        doubtful.map(|(name, _)| name.clone()).collect()
    }

    /// Whether it was promised and nobody knows whether it was written.
    #[must_use]
    pub fn is_unconfirmed(&self, name: &str) -> bool {
        let promised = self
            .volumes
            .get(name)
            .and_then(|slot| slot.promised.as_ref());
        promised.is_some_and(|promise| !promise.written)
    }

    // ---- what is asked ----

    /// All nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, &NodeEntry)> {
        self.nodes.iter().map(|(name, node)| (&**name, node))
    }

    /// One node.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<(&str, &NodeEntry)> {
        self.nodes
            .get_key_value(name)
            .map(|(name, node)| (&**name, node))
    }

    /// Whether a node's agent is not heard of.
    #[must_use]
    pub fn is_silent(&self, node: &str) -> bool {
        self.nodes
            .get(node)
            .is_some_and(|node| node.silent_since.is_some())
    }

    /// All drives.
    pub fn drives(&self) -> impl Iterator<Item = &DriveEntry> {
        self.nodes.values().flat_map(NodeEntry::drives)
    }

    /// One drive.
    #[must_use]
    pub fn drive(&self, name: &str) -> Option<&DriveEntry> {
        let node = self.node_of_drive.get(name)?;
        self.nodes.get(node)?.drives.get(name)
    }

    /// All volumes, by name, promised ones included.
    pub fn volumes(&self) -> impl Iterator<Item = &VolumeEntry> {
        self.volumes.values().filter_map(Slot::standing)
    }

    /// Volumes whose name comes after `name`.
    pub fn volumes_after(&self, name: &str) -> impl Iterator<Item = &VolumeEntry> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.volumes
            .range::<str, _>((Excluded(name), Unbounded))
            .filter_map(|(_, slot)| slot.standing())
    }

    /// One volume.
    #[must_use]
    pub fn volume(&self, name: &str) -> Option<&VolumeEntry> {
        self.volumes.get(name)?.standing()
    }

    /// Volumes of a drive, promised ones included.
    #[must_use]
    pub fn volumes_on(&self, drive: &str) -> usize {
        self.volumes_of_drive.get(drive).map_or(0, BTreeSet::len)
    }

    /// What drives are measured against. Worked out when first asked after a change.
    #[must_use]
    pub fn latency_references(&self) -> References {
        *self.references.get_or_init(|| {
            let mut all = Vec::new();
            let mut tiers: [Vec<u64>; 4] = Default::default();
            for drive in self.drives() {
                if let Some(read) = &drive.read {
                    all.push(read.figure_ns());
                    if let Some(tier) = tiers.get_mut(tier_index(drive.tier)) {
                        tier.push(read.figure_ns());
                    }
                }
            }
            References {
                all_ns: median(all),
                tiers_ns: tiers.map(median),
            }
        })
    }

    // ---- within ----

    fn node_entry(&mut self, name: &str) -> &mut NodeEntry {
        self.nodes.entry(Arc::from(name)).or_default()
    }

    fn forget_empty_node(&mut self, name: &str) {
        let empty = |node: &NodeEntry| node.drives.is_empty() && node.uid.is_empty();
        if self.nodes.get(name).is_some_and(empty) {
            self.nodes.remove(name);
        }
    }

    /// Changes a volume, and recounts the drives on which it was and is.
    fn change_volume(&mut self, name: &str, change: impl FnOnce(&mut Slot)) {
        let slot = self.volumes.entry(name.to_owned()).or_default();
        let before = slot.drive().cloned();
        change(slot);
        let after = slot.drive().cloned();
        if slot.standing().is_none() {
            self.volumes.remove(name);
        }
        if before != after {
            if let Some(drive) = &before {
                if let Some(volumes) = self.volumes_of_drive.get_mut(drive) {
                    volumes.remove(name);
                }
                if self.volumes_on(drive) == 0 {
                    self.volumes_of_drive.remove(drive);
                }
            }
            if let Some(drive) = after.clone() {
                let volumes = self.volumes_of_drive.entry(drive).or_default();
                volumes.insert(name.to_owned());
            }
        }
        for drive in [before, after].into_iter().flatten() {
            self.recount(&drive);
        }
    }

    fn recount(&mut self, drive: &str) {
        let usage = self.count(drive);
        let node = self.node_of_drive.get(drive);
        let entry = node.and_then(|node| self.nodes.get_mut(node)?.drives.get_mut(drive));
        if let Some(entry) = entry {
            entry.usage = usage;
        }
    }

    fn count(&self, drive: &str) -> Usage {
        let names = self.volumes_of_drive.get(drive).into_iter().flatten();
        let mut usage = Usage::default();
        for slot in names.filter_map(|name| self.volumes.get(name)) {
            usage.bytes = usage.bytes.saturating_add(slot.bytes());
            usage.volumes += 1;
            let spread = slot.standing().and_then(|entry| entry.spread_id.clone());
            usage.spread.extend(spread);
        }
        let node = self.node_of_drive.get(drive);
        let orphans = node.and_then(|node| self.nodes.get(node)?.orphans.get(drive));
        let mine = self.volumes_of_drive.get(drive);
        for (volume, bytes) in orphans.into_iter().flatten() {
            // One whose object is back, by adoption, counts by that.
            if !mine.is_some_and(|mine| mine.contains(volume.as_str())) {
                usage.bytes = usage.bytes.saturating_add(*bytes);
            }
        }
        usage
    }
}

/// The middle one, the lower of two.
fn median(mut values: Vec<u64>) -> Option<u64> {
    let last = values.len().checked_sub(1)?;
    let (_, median, _) = values.select_nth_unstable(last / 2);
    Some(*median)
}

#[cfg(test)]
#[path = "inventory/tests.rs"]
mod tests;
