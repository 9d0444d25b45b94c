//! What the leader does to objects that nobody calls it for. Pure: `step` looks at the inventory and says what is to be
//! written; it looks again after every change, so nothing is lost with an effect that failed.
//!
//! | what is seen | what is done |
//! |---|---|
//! | a Drive without the placement finalizer | it gets it, and only then takes volumes |
//! | a Drive being deleted that no volume names | the finalizer is dropped; the agent does the rest |
//! | the same while volumes name it | people are told how many |
//! | an inline Volume without a drive | a drive of its node is chosen, promised, written |
//! | the same, and nothing fits | its pod and people are told why; tried again when something changes, at the latest after a while |
//! | a Volume that is to be moved, and that nobody uses | the drive that is named is promised, written in place of the other |
//! | the same, and somebody does, or the drive cannot take it | people are told why, once; tried again at each look |
//! | more promised on a Drive than it holds | people are told, once |
//! | an agent whose Lease is not renewed in time, or not there for as long | its node is marked silent, and takes no volumes; people are told |
//! | the same, renewed again | the mark is taken away; people are told |

use std::collections::{BTreeMap, BTreeSet};

use api::event::Notice;
use api::names::FINALIZER_PLACEMENT;
use api::volume::Placement;
use api::{Bytes, Reason};
use jiff::{SignedDuration, Timestamp};

use crate::health::Judgement;
use crate::inventory::{DriveEntry, Inventory, VolumeEntry};
use crate::placement::request::{Class, Places, Request};
use crate::placement::{Policy, place, place_on};

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
    /// The drive of an inline volume, or another one for a volume that is moved. Promised already.
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
    /// Why an inline volume has no drive: to its pod, by the volume's status, and to people.
    Refuse(Notice),
    /// A word to people.
    Tell(Notice),
}

/// What was said and tried already.
#[derive(Debug, Default)]
pub struct Lifecycle {
    over_allocated: BTreeSet<String>,
    held: BTreeMap<String, usize>,
    unfit: BTreeMap<String, Unfit>,
    /// What was said of volumes that are to be moved.
    unmoved: BTreeMap<String, (Reason, String)>,
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
        let moving: Vec<VolumeEntry> = inventory.volumes().filter(is_moving).cloned().collect();
        self.unmoved
            .retain(|name, _| moving.iter().any(|v| v.name == *name));
        if may_place {
            let placed = unplaced.into_iter();
            effects.extend(placed.filter_map(|volume| self.inline(volume, inventory, policy, now)));
            let moved = moving.into_iter();
            effects.extend(moved.filter_map(|volume| self.moved(volume, inventory, policy, now)));
        }
        effects
    }

    /// The drive that a person named, in place of the other, once nobody uses the volume.
    fn moved(
        &mut self,
        volume: VolumeEntry,
        inventory: &mut Inventory,
        policy: Policy,
        now: Timestamp,
    ) -> Option<Effect> {
        let (reason, message) = match destination(&volume, inventory, policy, now) {
            Ok(placement) => {
                self.unmoved.remove(&volume.name);
                return Some(promised(volume, placement, inventory, now));
            }
            Err(why) => why,
        };
        let said = (reason, message.clone());
        if self.unmoved.insert(volume.name.clone(), said.clone()) == Some(said) {
            return None;
        }
        Some(Effect::Tell(notice_of(volume, reason, message)))
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
                    return Some(promised(volume, placement, inventory, now));
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
        Some(Effect::Refuse(notice_of(volume, reason, message)))
    }
}

/// A volume's drive, promised and to be written.
fn promised(
    volume: VolumeEntry,
    placement: Placement,
    inventory: &mut Inventory,
    now: Timestamp,
) -> Effect {
    let place = Effect::Place {
        volume: volume.name.clone(),
        uid: volume.uid.clone(),
        placement: Box::new(placement.clone()),
    };
    let entry = VolumeEntry {
        drive: Some(placement.chosen.drive.as_str().into()),
        move_to: None,
        ..volume
    };
    inventory.promise(entry, now);
    place
}

fn notice_of(volume: VolumeEntry, reason: Reason, message: String) -> Notice {
    Notice {
        kind: "Volume",
        name: volume.name,
        uid: volume.uid,
        reason,
        message,
        warning: true,
    }
}

fn is_unplaced(volume: &&VolumeEntry) -> bool {
    volume.drive.is_none() && volume.ephemeral && !volume.deleting
}

fn is_moving(volume: &&VolumeEntry) -> bool {
    volume.move_to.is_some() && volume.drive.is_some() && !volume.deleting
}

/// What a volume that is to be moved finds on the drive that was named.
fn destination(
    volume: &VolumeEntry,
    inventory: &Inventory,
    policy: Policy,
    now: Timestamp,
) -> Result<Placement, (Reason, String)> {
    let to = volume.move_to.as_deref().unwrap_or_default();
    let drive = inventory.drive(to).ok_or_else(|| {
        let message = format!("it is to be moved to drive {to}, which is not there");
        (Reason::DriveNotFound, message)
    })?;
    if volume.in_use {
        let message = format!("it is moved to drive {to} once no pod uses it");
        return Err((Reason::StillPublished, message));
    }
    let request = inline_request(volume, now).map_err(|error| (Reason::InvalidParameter, error))?;
    let placement = if volume.drive.as_deref() == Some(to) {
        Err(Reason::AlreadyManaged)
    } else {
        place_on(drive, &request, inventory, policy)
    };
    placement.map_err(|reason| {
        let why = reason.meaning();
        (reason, format!("it cannot be moved to drive {to}: {why}"))
    })
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
#[path = "lifecycle/tests.rs"]
mod tests;
