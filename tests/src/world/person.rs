//! The person: wishes drives and volumes, changes their mind, and asks again until what they asked for is answered. What
//! they said is the truth against which [`crate::invariants`] judge: a device that nobody named is never written, data
//! that nobody released are never gone.

use std::collections::{BTreeMap, BTreeSet};

use api::drive::{DeviceClaim, Erase, EraseMethod, Removal};
use api::storage_node::DeviceVerdict;
use api::{Drive, DriveSpec, Reason, Volume};
use serde_json::json;

use super::calls::Answer;
use super::node::named;
use super::volumes::target;
use super::{Chance, Node, World};
use crate::host::tree::Kind;

/// What a person wants of a drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriveWish {
    /// Serial of the device that was named.
    pub serial: String,
    /// Node.
    pub node: String,
    /// It is to be there; else it is to be let go.
    pub wanted: bool,
    /// It is to be erased when it is let go.
    pub erase: bool,
    /// Other data appeared on the device before it was prepared.
    pub spoiled: bool,
}

/// What a person wants of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeWish {
    /// Bytes asked for.
    pub bytes: u64,
    /// It is to be there; else it is released.
    pub wanted: bool,
    /// The controller has answered.
    pub made: bool,
    /// A pod is to have it.
    pub pod: bool,
    /// A node was asked to give it to the pod, and not yet with success to take it back: as kubelet remembers it.
    pub asked: bool,
    /// The pod has it.
    pub mounted: bool,
    /// What its pod wrote into it; 0 for nothing yet.
    pub token: u64,
}

/// The person.
#[derive(Debug, Default)]
pub struct Person {
    /// By drive id.
    pub drives: BTreeMap<String, DriveWish>,
    /// By name.
    pub volumes: BTreeMap<String, VolumeWish>,
    /// Serials that were ever named in an init.
    pub named: BTreeSet<String>,
    /// Serials that may be erased with all that is on them.
    pub erasable: BTreeSet<String>,
    /// Volumes whose release was ever asked for.
    pub released: BTreeSet<String>,
    /// Volumes that were deleted without a release, and what their pods wrote: it stays.
    pub kept: BTreeMap<String, u64>,
    /// Those, and volumes that were let go while their drive, about to go itself, was away: what it has of them stays on it.
    pub orphans: BTreeSet<String>,
    counter: u64,
    resting: bool,
}

impl Person {
    /// No new wishes from now on; the old ones are followed up.
    pub const fn rest(&mut self) {
        self.resting = true;
    }

    /// A machine booted: nothing of its pods is mounted.
    pub(crate) fn forget_mounts(&mut self, there: impl Fn(&str) -> bool) {
        let of_node = self.volumes.iter_mut().filter(|(name, _)| there(name));
        of_node.for_each(|(_, wish)| wish.mounted = false);
    }
}

impl World {
    /// A new wish, or an old one followed up.
    pub(super) fn person_step(&mut self) {
        match self.chance.below(40) {
            0..3 => self.wish_for_drive(),
            3..6 => self.wish_for_volume(),
            6..8 => self.change_of_mind(),
            8 if self.chance.once_in(3) => self.let_drive_go(),
            _ => {
                let names: Vec<String> = self.person.volumes.keys().cloned().collect();
                if let Some(name) = self.chance.pick(names) {
                    self.follow_up(&name);
                }
                let drives: Vec<String> = self.person.drives.keys().cloned().collect();
                if let Some(drive) = self.chance.pick(drives) {
                    self.follow_up_drive(&drive);
                }
            }
        }
    }

    /// Everything that is wished for, followed up once.
    pub(super) fn person_round(&mut self) {
        self.clean();
        let names: Vec<String> = self.person.volumes.keys().cloned().collect();
        names.iter().for_each(|name| self.follow_up(name));
        let drives: Vec<String> = self.person.drives.keys().cloned().collect();
        drives.iter().for_each(|drive| self.follow_up_drive(drive));
    }

    /// `clean` of every orphan: it takes room that only the agent knows of.
    fn clean(&mut self) {
        let volumes = &self.api.volumes;
        let orphans = self.person.orphans.iter();
        let gone = orphans.filter(|name| volumes.get(name).is_none());
        let gone: Vec<String> = gone.cloned().collect();
        for name in gone {
            for node in &self.nodes {
                let mut machine = node.host.machine();
                let disks = machine.space.disks.values_mut();
                for files in disks.filter_map(|disk| disk.files.as_mut()) {
                    files.forget_volume(&name);
                }
            }
            self.person.orphans.remove(&name);
            self.person.kept.remove(&name);
            self.note(format!("{name} is cleaned away"));
        }
    }

    // ---- drives ----

    /// Discover, and init of one device, as it was seen when the agent last looked.
    pub(super) fn wish_for_drive(&mut self) {
        let index = self.chance.pick(0..self.nodes.len());
        let Some(node) = index.and_then(|index| self.nodes.get(index)) else {
            return;
        };
        let Some(process) = &node.process else {
            return;
        };
        let eligible = process.snapshot.devices.values();
        let eligible = eligible
            .filter(|seen| seen.verdict == DeviceVerdict::Eligible)
            .cloned();
        let Some(seen) = self.chance.pick(eligible.collect::<Vec<_>>()) else {
            return;
        };
        let Some(id) = seen
            .drive_id
            .clone()
            .filter(|id| self.api.drives.get(id).is_none())
        else {
            return;
        };
        let spec = DriveSpec {
            device: DeviceClaim {
                fingerprint: seen.fingerprint.clone(),
                name: seen.facts.name.clone(),
                size_bytes: seen.facts.size_bytes,
            },
            force: !seen.is_blank() && self.chance.once_in(2),
            erase: erase(&mut self.chance, node, &seen.facts.serial),
            ..spec_of(&node.name)
        };
        // What is named is what the agent saw, which may be long ago.
        let now_there = node.host.machine().content(&seen.facts.serial);
        let spoiled = now_there != seen.fingerprint.content;
        let (force, wish) = (
            spec.force,
            DriveWish {
                serial: seen.facts.serial.clone(),
                node: node.name.clone(),
                wanted: true,
                erase: false,
                spoiled,
            },
        );
        let now = self.timestamp();
        if self.api.drives.create(Drive::new(&id, spec), now).is_ok() {
            self.note(format!(
                "init of {} ({}) as {id}, force {force}",
                wish.serial, seen.facts.name
            ));
            if !spoiled && (force || seen.is_blank()) {
                self.person.named.insert(wish.serial.clone());
            }
            self.person.drives.insert(id, wish);
        }
    }

    /// `remove`, with or without erasing.
    fn let_drive_go(&mut self) {
        let wanted = self.person.drives.iter().filter(|(_, wish)| wish.wanted);
        let Some(id) = self
            .chance
            .pick(wanted.map(|(id, _)| id.clone()).collect::<Vec<_>>())
        else {
            return;
        };
        let in_use = self
            .api
            .volumes
            .all()
            .any(|volume| volume.spec.drive.as_ref() == Some(&id));
        let erase = self.chance.once_in(2);
        // The command line refuses to remove a drive with volumes; plain means do not.
        if in_use && (erase || !self.chance.once_in(4)) {
            return;
        }
        let Some(wish) = self.person.drives.get_mut(&id) else {
            return;
        };
        wish.wanted = false;
        wish.erase = erase;
        let serial = wish.serial.clone();
        if erase {
            self.person.erasable.insert(serial);
        }
        self.note(format!("{id} is to go, erase {erase}"));
        self.follow_up_drive(&id);
    }

    fn follow_up_drive(&mut self, id: &str) {
        let Some(wish) = self
            .person
            .drives
            .get(id)
            .filter(|wish| !wish.wanted)
            .cloned()
        else {
            return;
        };
        let now = self.timestamp();
        let Some(drive) = self.api.drives.get(id) else {
            self.person.drives.remove(id);
            return;
        };
        // What somebody put there since, or made another drive of, is not to be erased: it is let go as it is.
        let refused = drive.status.as_ref().and_then(|status| status.reason);
        let others = [Reason::FingerprintChanged, Reason::ClaimConflict];
        if drive.spec.removal.is_some() && refused.is_some_and(|why| others.contains(&why)) {
            let word = json!({"spec": {"removal": null}});
            self.api.drives.patch(id, &word).ok();
            if let Some(wish) = self.person.drives.get_mut(id) {
                wish.erase = false;
            }
            return;
        }
        let node = self.nodes.iter().find(|node| node.name == wish.node);
        if let Some(node) = node.filter(|_| wish.erase && drive.spec.removal.is_none()) {
            let removal = Removal {
                erase: erase(&mut self.chance, node, &wish.serial),
            };
            self.api
                .drives
                .patch(id, &json!({"spec": {"removal": removal}}))
                .ok();
        }
        let deleting = self
            .api
            .drives
            .get(id)
            .is_some_and(|drive| drive.metadata.deletion_timestamp.is_some());
        if !deleting {
            self.api.drives.delete(id, now).ok();
        }
    }

    // ---- volumes ----

    fn wish_for_volume(&mut self) {
        if self.person.volumes.len() >= 8 {
            return;
        }
        self.person.counter += 1;
        let name = format!("vol-{}", self.person.counter);
        let bytes = (1 + self.chance.below(80)) * (8 << 20);
        let wish = VolumeWish {
            bytes,
            wanted: true,
            made: false,
            pod: self.chance.once_in(2),
            asked: false,
            mounted: false,
            token: 0,
        };
        self.note(format!("{name} of {bytes} bytes is wished for"));
        self.person.volumes.insert(name, wish);
    }

    fn change_of_mind(&mut self) {
        let names: Vec<String> = self.person.volumes.keys().cloned().collect();
        let Some(name) = self.chance.pick(names) else {
            return;
        };
        let kind = self.chance.below(8);
        let Some(wish) = self.person.volumes.get_mut(&name) else {
            return;
        };
        match kind {
            // As a provisioner does: what was not answered yet is asked for until it is.
            0 if !wish.pod && wish.wanted && wish.made => {
                wish.wanted = false;
                self.person.released.insert(name.clone());
                self.note(format!("{name} is to be deleted"));
            }
            // `kubectl delete` by somebody who knows nothing of releases.
            1 if !wish.pod && !wish.asked && wish.token != 0 => {
                let token = wish.token;
                self.person.volumes.remove(&name);
                self.person.kept.insert(name.clone(), token);
                self.person.orphans.insert(name.clone());
                self.api.volumes.delete(&name, self.timestamp()).ok();
                self.note(format!("{name} is deleted by plain means"));
            }
            // A claim can grow once it is bound.
            2 | 3 if wish.made => wish.bytes += 8 << 20,
            2 | 3 => {}
            _ => wish.pod = !wish.pod,
        }
    }

    fn follow_up(&mut self, name: &str) {
        let Some(wish) = self.person.volumes.get(name).cloned() else {
            return;
        };
        let Some(controller) = self.chance.pick(0..self.controllers.len()) else {
            return;
        };
        let volume = self.api.volumes.get(name).cloned();
        match (wish.wanted, volume) {
            (true, _) if !wish.made => self.ask_for(controller, name, &wish),
            (true, Some(volume)) => self.keep(controller, name, &wish, &volume),
            (true, None) => {}
            (false, Some(volume)) if wish.asked => self.unmount(name, &volume),
            (false, Some(volume)) => {
                if volume.metadata.deletion_timestamp.is_none() {
                    self.delete_volume(controller, name);
                }
            }
            (false, None) => drop(self.person.volumes.remove(name)),
        }
    }

    fn ask_for(&mut self, controller: usize, name: &str, wish: &VolumeWish) {
        match self.create_volume(controller, name, wish.bytes) {
            Answer::Is => {
                if let Some(wish) = self.person.volumes.get_mut(name) {
                    wish.made = true;
                }
            }
            Answer::NoFit => {
                self.note(format!("{name} fits nowhere: given up"));
                self.person.volumes.remove(name);
            }
            Answer::Later => {}
        }
    }

    fn keep(&mut self, controller: usize, name: &str, wish: &VolumeWish, volume: &Volume) {
        if volume.spec.capacity_bytes < wish.bytes
            && self.expand_volume(controller, name, wish.bytes) == Answer::NoFit
            && let Some(wish) = self.person.volumes.get_mut(name)
        {
            wish.bytes = volume.spec.capacity_bytes;
        }
        let node = self
            .nodes
            .iter()
            .position(|node| node.name == volume.spec.node);
        // A pod whose drive was pulled out from under it is started again.
        let there = node
            .and_then(|node| self.nodes.get(node))
            .is_some_and(|node| {
                node.host
                    .machine()
                    .space
                    .mounted_at(&target(name))
                    .is_some()
            });
        match (wish.pod, wish.mounted && there, node) {
            (true, false, Some(node)) => {
                if let Some(wish) = self.person.volumes.get_mut(name) {
                    wish.asked = true;
                }
                if let Ok(target) = self.publish(node, name) {
                    self.write_data(node, name, &target);
                }
            }
            (false, _, Some(_)) if wish.asked => self.unmount(name, volume),
            _ => {}
        }
    }

    /// The pod writes, or finds what it wrote.
    fn write_data(&mut self, node: usize, name: &str, target: &std::path::Path) {
        let token = self.chance.any() | 1;
        let Some(node) = self.nodes.get(node) else {
            return;
        };
        let mut machine = node.host.machine();
        let Ok(place) = machine.space.walk(target, true) else {
            return;
        };
        let Ok(tree) = machine.space.tree_mut(&place.file_system) else {
            return;
        };
        let Some(wish) = self.person.volumes.get_mut(name) else {
            return;
        };
        wish.mounted = true;
        if wish.token == 0 {
            wish.token = token;
            tree.put(
                place.inode,
                "data",
                Kind::File(token.to_le_bytes().to_vec()),
            );
        }
        drop(machine);
        self.note(format!("{name} is mounted"));
    }

    fn unmount(&mut self, name: &str, volume: &Volume) {
        let node = self
            .nodes
            .iter()
            .position(|node| node.name == volume.spec.node);
        if let Some(node) = node
            && self.unpublish(node, name).is_ok()
            && let Some(wish) = self.person.volumes.get_mut(name)
        {
            (wish.asked, wish.mounted) = (false, false);
            self.note(format!("{name} is unmounted"));
        }
    }
}

fn spec_of(node: &str) -> DriveSpec {
    let claim = json!({"fingerprint": {"identity": "-", "content": "-"}, "sizeBytes": 0});
    serde_json::from_value(json!({"node": node, "device": claim}))
        .expect("a spec with its defaults")
}

/// The ids of all Drives of a node.
#[must_use]
pub fn ids(world: &World, node: &str) -> BTreeSet<String> {
    world
        .api
        .drives
        .all()
        .filter(|drive| drive.spec.node == node)
        .map(named)
        .collect()
}

/// How a drive is to be erased; by itself only where it can, for otherwise it would be refused for good.
fn erase(chance: &mut Chance, node: &Node, serial: &str) -> Erase {
    let machine = node.host.machine();
    let disk = machine.space.disks.get(serial);
    let can = disk.is_some_and(|disk| disk.offloads);
    let method = if can && chance.once_in(3) {
        EraseMethod::Format
    } else {
        EraseMethod::Auto
    };
    Erase {
        method,
        ..Erase::default()
    }
}
