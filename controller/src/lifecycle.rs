//! What the leader does to objects that nobody calls it for. Pure: `step` looks at the inventory and says what is to be
//! written; it looks again after every change, so nothing is lost with an effect that failed.
//!
//! | what is seen | what is done |
//! |---|---|
//! | a Drive without the placement finalizer | it gets it, and only then takes volumes |
//! | a Drive being deleted that no volume names | the finalizer is dropped; the agent does the rest |
//! | the same while volumes name it | people are told how many |
//! | an inline Volume without a drive | a drive of its node is chosen, promised, written |
//! | the same, and nothing fits | people are told why; tried again when something changes, at the latest after a while |
//! | more promised on a Drive than it holds | people are told, once |
//! | an agent whose Lease is not renewed in time | its node is marked silent, and takes no volumes; people are told |
//! | the same, renewed again | the mark is taken away; people are told |

use std::collections::{BTreeMap, BTreeSet};

use api::names::FINALIZER_PLACEMENT;
use api::volume::Placement;
use api::{Bytes, Reason};
use jiff::{SignedDuration, Timestamp};

use crate::health::Judgement;
use crate::inventory::{DriveEntry, Inventory, VolumeEntry};
use crate::placement::request::{Class, Places, Request};
use crate::placement::{Policy, place};

/// How long an inline volume that does not fit is left alone.
const RETRY_AFTER: SignedDuration = SignedDuration::from_secs(5);

/// Something to be written.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// A Drive's finalizers, as they are to be.
    Finalizers {
        /// Drive.
        drive: String,
        /// Version on which this was decided: another one means that it is decided again.
        resource_version: String,
        /// All of them.
        finalizers: Vec<String>,
    },
    /// The drive of an inline volume. Promised already.
    Place {
        /// Volume.
        volume: String,
        /// Its uid.
        uid: String,
        /// Why this drive.
        placement: Box<Placement>,
    },
    /// A drive's health.
    Verdict(Judgement),
    /// Since when a node's agent is not heard of; nothing where it is again.
    Silence {
        /// Node.
        node: String,
        /// UID of its object.
        uid: String,
        /// As it is to be.
        since: Option<Timestamp>,
    },
    /// A word to people.
    Tell(Notice),
}

/// A word to people about one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// `Drive`, `Volume` or `StorageNode`.
    pub kind: &'static str,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// The word.
    pub reason: Reason,
    /// The sentence.
    pub message: String,
    /// Whether somebody should look.
    pub warning: bool,
}

/// What was said and tried already.
#[derive(Debug, Default)]
pub struct Lifecycle {
    over_allocated: BTreeSet<String>,
    held: BTreeMap<String, usize>,
    unfit: BTreeMap<String, Unfit>,
}

#[derive(Debug)]
struct Unfit {
    tried: Timestamp,
    said: String,
}

impl Lifecycle {
    /// One look at everything. Chosen drives are promised at once; with `may_place` false nothing is placed.
    pub fn step(
        &mut self,
        inventory: &mut Inventory,
        policy: Policy,
        now: Timestamp,
        may_place: bool,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (name, node, silent) in inventory.turns(now) {
            effects.push(Effect::Silence {
                node: name.to_owned(),
                uid: node.uid.clone(),
                since: silent.then_some(now),
            });
        }
        for drive in inventory.drives() {
            effects.extend(finalizers(drive, inventory.volumes_on(&drive.name)));
            effects.extend(self.held_drive(drive, inventory.volumes_on(&drive.name)));
            effects.extend(self.over_allocation(drive));
        }
        self.held.retain(|name, _| inventory.drive(name).is_some());
        self.over_allocated
            .retain(|name| inventory.drive(name).is_some());
        let unplaced: Vec<VolumeEntry> = inventory.volumes().filter(is_unplaced).cloned().collect();
        self.unfit
            .retain(|name, _| unplaced.iter().any(|v| v.name == *name));
        for volume in unplaced {
            if may_place {
                effects.extend(self.inline(volume, inventory, policy, now));
            }
        }
        effects
    }

    fn held_drive(&mut self, drive: &DriveEntry, volumes: usize) -> Option<Effect> {
        if !drive.deleting || volumes == 0 {
            self.held.remove(&*drive.name);
            return None;
        }
        let before = self.held.insert(drive.name.to_string(), volumes);
        let plural = if volumes == 1 { " is" } else { "s are" };
        let message = format!("it is removed when no volume is on it; {volumes} volume{plural}");
        before
            .is_none()
            .then(|| tell(drive, Reason::DriveInUse, message))
    }

    fn over_allocation(&mut self, drive: &DriveEntry) -> Option<Effect> {
        if !drive.is_over_allocated() {
            self.over_allocated.remove(&*drive.name);
            return None;
        }
        if !self.over_allocated.insert(drive.name.to_string()) {
            return None;
        }
        let message = format!(
            "{} are promised to {} volumes, it holds {}",
            Bytes(drive.usage.bytes),
            drive.usage.volumes,
            Bytes(drive.allocatable_bytes)
        );
        Some(tell(drive, Reason::OverAllocated, message))
    }

    /// A drive for an inline volume, on the node where its pod is.
    fn inline(
        &mut self,
        volume: VolumeEntry,
        inventory: &mut Inventory,
        policy: Policy,
        now: Timestamp,
    ) -> Option<Effect> {
        let unfit = self.unfit.get(&volume.name);
        if unfit.is_some_and(|unfit| now.duration_since(unfit.tried) < RETRY_AFTER) {
            return None;
        }
        let (reason, message) = match inline_request(&volume, now) {
            Err(error) => (Reason::InvalidParameter, error),
            Ok(request) => match place(&request, inventory, policy) {
                Ok(placement) => {
                    self.unfit.remove(&volume.name);
                    let drive = Some(placement.chosen.drive.as_str().into());
                    let (name, uid) = (volume.name.clone(), volume.uid.clone());
                    inventory.promise(VolumeEntry { drive, ..volume }, now);
                    return Some(Effect::Place {
                        volume: name,
                        uid,
                        placement: Box::new(placement),
                    });
                }
                Err(no_fit) => (no_fit.reason(), no_fit.to_string()),
            },
        };
        let unfit = Unfit {
            tried: now,
            said: message.clone(),
        };
        let before = self.unfit.insert(volume.name.clone(), unfit);
        if before.is_some_and(|before| before.said == message) {
            return None;
        }
        Some(Effect::Tell(Notice {
            kind: "Volume",
            name: volume.name,
            uid: volume.uid,
            reason,
            message,
            warning: true,
        }))
    }
}

fn is_unplaced(volume: &&VolumeEntry) -> bool {
    volume.drive.is_none() && volume.ephemeral && !volume.deleting
}

fn inline_request(volume: &VolumeEntry, now: Timestamp) -> Result<Request, String> {
    let class = Class::parse(&volume.parameters).map_err(|error| error.to_string())?;
    Ok(Request {
        name: volume.name.clone(),
        bytes: volume.capacity_bytes,
        class,
        places: Places::nodes([volume.node.as_str()]),
        now,
    })
}

/// The placement finalizer: on from the beginning, off when the drive is to go and no volume names it.
fn finalizers(drive: &DriveEntry, volumes: usize) -> Option<Effect> {
    let wanted = match (drive.guarded, drive.deleting) {
        // A finalizer cannot be added to what is being deleted.
        (false, true) | (true, false) => return None,
        (true, true) if volumes > 0 => return None,
        (wanted, _) => !wanted,
    };
    let others = drive
        .finalizers
        .iter()
        .filter(|f| *f != FINALIZER_PLACEMENT);
    let mut finalizers: Vec<String> = others.cloned().collect();
    if wanted {
        finalizers.push(FINALIZER_PLACEMENT.to_owned());
    }
    Some(Effect::Finalizers {
        drive: drive.name.to_string(),
        resource_version: drive.resource_version.clone(),
        finalizers,
    })
}

fn tell(drive: &DriveEntry, reason: Reason, message: String) -> Effect {
    Effect::Tell(Notice {
        kind: "Drive",
        name: drive.name.to_string(),
        uid: drive.uid.clone(),
        reason,
        message,
        warning: true,
    })
}

/// What people are told of a health verdict.
#[must_use]
pub fn health_notice(drive: &DriveEntry, judgement: &Judgement) -> Notice {
    use api::drive::HealthState;
    let verdict = &judgement.verdict;
    Notice {
        kind: "Drive",
        name: drive.name.to_string(),
        uid: drive.uid.clone(),
        reason: verdict.reason,
        message: verdict.message.clone(),
        warning: matches!(verdict.state, HealthState::Slow | HealthState::Failing),
    }
}

/// What people are told of an agent that fell silent, or is heard of again.
#[must_use]
pub fn silence_notice(node: &str, uid: &str, silent: bool) -> Notice {
    let (reason, message) = match silent {
        true => (
            Reason::NodeSilent,
            "its agent has not renewed its Lease; no volume is placed here until it does",
        ),
        false => (Reason::NodeHeard, Reason::NodeHeard.meaning()),
    };
    Notice {
        kind: "StorageNode",
        name: node.to_owned(),
        uid: uid.to_owned(),
        reason,
        message: message.to_owned(),
        warning: silent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::names::FINALIZER_DEVICE;
    use api::testing::{DriveBuilder, drive, lease, node, noon, volume};

    fn inventory(drives: Vec<DriveBuilder>) -> Inventory {
        let mut inventory = Inventory::default();
        for drive in drives {
            inventory.apply_drive(&drive.build());
        }
        inventory
    }

    fn step(lifecycle: &mut Lifecycle, inventory: &mut Inventory, seconds: i64) -> Vec<Effect> {
        let now = noon() + SignedDuration::from_secs(seconds);
        lifecycle.step(inventory, Policy::default(), now, true)
    }

    fn reasons(effects: &[Effect]) -> Vec<Reason> {
        let reason = |effect: &Effect| match effect {
            Effect::Tell(notice) => Some(notice.reason),
            Effect::Finalizers { .. }
            | Effect::Place { .. }
            | Effect::Verdict(_)
            | Effect::Silence { .. } => None,
        };
        effects.iter().filter_map(reason).collect()
    }

    /// Every combination: what becomes of the finalizers.
    #[test]
    fn the_placement_finalizer() {
        for guarded in [false, true] {
            for deleting in [false, true] {
                for volumes in [0, 1] {
                    let mut built = drive("d");
                    if !guarded {
                        built = built.unguarded();
                    }
                    if deleting {
                        built = built.deleting();
                    }
                    let inventory = inventory(vec![built]);
                    let effect = finalizers(inventory.drive("d").unwrap(), volumes);
                    let wanted: Option<&[&str]> = match (guarded, deleting, volumes) {
                        (false, false, _) => Some(&[FINALIZER_DEVICE, FINALIZER_PLACEMENT]),
                        (true, true, 0) => Some(&[FINALIZER_DEVICE]),
                        _ => None,
                    };
                    let found = effect.map(|effect| {
                        let Effect::Finalizers { finalizers, .. } = effect else {
                            panic!("{effect:?}");
                        };
                        finalizers
                    });
                    assert_eq!(
                        found.as_deref(),
                        wanted
                            .map(|list| list.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>())
                            .as_deref(),
                        "{guarded} {deleting} {volumes}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_promise_keeps_a_drive_as_a_volume_does() {
        let mut inventory = inventory(vec![drive("d").deleting()]);
        let entry = VolumeEntry::new(&volume("v").on("n1", "d").build()).unwrap();
        inventory.promise(entry, noon());
        let mut lifecycle = Lifecycle::default();
        let effects = step(&mut lifecycle, &mut inventory, 0);
        assert_eq!(reasons(&effects), [Reason::DriveInUse]);
        assert_eq!(step(&mut lifecycle, &mut inventory, 1), []);
        inventory.withdraw("v");
        let effects = step(&mut lifecycle, &mut inventory, 2);
        assert!(
            matches!(&effects[..], [Effect::Finalizers { .. }]),
            "{effects:?}"
        );
    }

    #[test]
    fn inline_volumes_are_placed_on_their_node_one_after_the_other() {
        let mut inventory = inventory(vec![
            drive("d1").on("n1").holds(3 << 29),
            drive("d2").on("n2").holds(1 << 40),
        ]);
        for name in ["a", "b"] {
            inventory.apply_volume(&volume(name).ephemeral("n1").build());
        }
        let mut lifecycle = Lifecycle::default();
        let effects = step(&mut lifecycle, &mut inventory, 0);
        // 1 GiB each, and the drive of their node holds one.
        let [
            Effect::Place {
                volume: first,
                placement,
                ..
            },
            Effect::Tell(notice),
        ] = &effects[..]
        else {
            panic!("{effects:?}");
        };
        assert_eq!(
            (first.as_str(), placement.chosen.drive.as_str()),
            ("a", "d1")
        );
        assert_eq!((notice.name.as_str(), notice.reason), ("b", Reason::NoFit));
        assert_eq!(
            notice.message,
            "2 drives: 1 on other nodes, 1 too small (at most 512 MiB free)"
        );
        // Said once, tried again later, and placed when there is room.
        assert_eq!(step(&mut lifecycle, &mut inventory, 6), []);
        inventory.withdraw("a");
        inventory.remove_volume("a");
        assert_eq!(step(&mut lifecycle, &mut inventory, 7), []);
        assert!(matches!(
            &step(&mut lifecycle, &mut inventory, 12)[..],
            [Effect::Place { .. }]
        ));
    }

    #[test]
    fn inline_volumes_wait_for_the_lease_and_for_sense() {
        let mut inventory = inventory(vec![drive("d1")]);
        inventory.apply_volume(&volume("a").ephemeral("n1").build());
        inventory.apply_volume(&volume("gone").ephemeral("n1").deleting().build());
        let odd = volume("odd").ephemeral("n1").parameter("colour", "red");
        inventory.apply_volume(&odd.build());
        let mut lifecycle = Lifecycle::default();
        let none = lifecycle.step(&mut inventory, Policy::default(), noon(), false);
        assert_eq!(none, []);
        let effects = step(&mut lifecycle, &mut inventory, 0);
        assert!(matches!(&effects[0], Effect::Place { volume, .. } if volume == "a"));
        assert_eq!(reasons(&effects), [Reason::InvalidParameter]);
        assert_eq!(effects.len(), 2);
    }

    #[test]
    fn over_allocation_is_told_once_each_time() {
        let mut inventory = inventory(vec![drive("d").holds(1 << 30)]);
        let mut lifecycle = Lifecycle::default();
        for _ in 0..2 {
            inventory.apply_volume(&volume("v").on("n1", "d").bytes(2 << 30).build());
            let effects = step(&mut lifecycle, &mut inventory, 0);
            assert_eq!(reasons(&effects), [Reason::OverAllocated]);
            assert_eq!(step(&mut lifecycle, &mut inventory, 1), []);
            inventory.remove_volume("v");
            assert_eq!(step(&mut lifecycle, &mut inventory, 2), []);
        }
    }

    #[test]
    fn a_silent_node_is_marked_and_takes_no_volumes() {
        let at = |seconds| noon() + SignedDuration::from_secs(seconds);
        let mut inventory = inventory(vec![drive("d1").on("n1"), drive("d2").on("n2")]);
        for name in ["n1", "n2"] {
            inventory.apply_node(&node(name, &[]));
            inventory.hear(name, &lease(name, at(0)), at(0));
        }
        let mut lifecycle = Lifecycle::default();
        assert_eq!(step(&mut lifecycle, &mut inventory, 180), []);
        inventory.hear("n2", &lease("n2", at(150)), at(150));
        let effects = step(&mut lifecycle, &mut inventory, 181);
        let silence = |since| Effect::Silence {
            node: "n1".to_owned(),
            uid: "uid-of-n1".to_owned(),
            since,
        };
        assert_eq!(effects, [silence(Some(at(181)))]);
        let mut marked = node("n1", &[]);
        marked.status.get_or_insert_default().silent_since = Some(at(181));
        inventory.apply_node(&marked);
        assert_eq!(step(&mut lifecycle, &mut inventory, 182), []);

        let request = Request {
            name: "v".to_owned(),
            bytes: 1,
            class: Class::default(),
            places: Places::default(),
            now: at(182),
        };
        let chosen = |inventory: &Inventory| {
            let placement = place(&request, inventory, Policy::default());
            placement.map(|placement| placement.chosen.node)
        };
        assert_eq!(chosen(&inventory), Ok("n2".to_owned()));
        inventory.remove_drive("d2");
        assert_eq!(
            chosen(&inventory).unwrap_err().to_string(),
            "1 drive: 1 on silent nodes"
        );

        inventory.hear("n1", &lease("n1", at(190)), at(190));
        assert_eq!(step(&mut lifecycle, &mut inventory, 190), [silence(None)]);
    }
}
