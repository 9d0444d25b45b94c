//! What callers ask of a simulated controller: the real placement, with placing writes that take their time and whose
//! answers may be lost.

use std::collections::BTreeMap;
use std::time::Duration;

use api::csi::CapacityRange;
use api::drive::HealthState;
use api::{Reason, Volume};
use controller::asked::size::Range;
use controller::asked::{Decision, Ending, Growth, Refused, Terms, Wanted, end, grow};
use controller::inventory::{Inventory, VolumeEntry};
use controller::lease::PLACING_WRITE_TIMEOUT;
use controller::placement::Policy;
use serde_json::json;
use tonic::Status;

use super::World;
use super::controller::Controller;
use super::node::named;
use crate::chance::Chance;
use crate::cluster::{Refused as NotWritten, Store};
use crate::csi::create_request;

/// A placing write on its way.
pub(super) struct Write {
    what: What,
    lands: Duration,
    /// It never arrives.
    lost: bool,
    /// It arrives, and nobody is told.
    unanswered: bool,
}

/// What is written.
enum What {
    Create(Box<Volume>),
    Grow {
        name: String,
        uid: String,
        bytes: u64,
    },
}

/// What a caller is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is there.
    Is,
    /// Ask again.
    Later,
    /// No drive fits.
    NoFit,
}

impl Answer {
    fn of(status: &Status) -> Self {
        match api::status::reason_of(status) {
            Some(Reason::InsufficientCapacity) => Self::NoFit,
            _ => Self::Later,
        }
    }
}

impl World {
    /// CreateVolume at a controller.
    pub(super) fn create_volume(&mut self, index: usize, name: &str, bytes: u64) -> Answer {
        let request = create_request(name, i64::try_from(bytes).unwrap_or(i64::MAX), &class());
        let wanted = Wanted::parse(request).expect("a sound request");
        let Some((controller, terms)) = self.asked(index, name) else {
            return Answer::Later;
        };
        let Some(inventory) = &mut controller.inventory else {
            return Answer::Later;
        };
        let mut decision = wanted.decide(inventory, terms);
        if matches!(decision, Ok(Decision::Look)) {
            self.settle(index, name);
            let inventory = self.inventory(index);
            decision = inventory.map_or(Ok(Decision::Look), |inventory| {
                wanted.decide(inventory, terms)
            });
        }
        let volume = match decision {
            Ok(Decision::There(_)) => return Answer::Is,
            Ok(Decision::Look) => return Answer::Later,
            Ok(Decision::Write(volume)) => volume,
            Err(Refused::NoFit(..)) => return Answer::NoFit,
            Err(Refused::Call(status)) => return Answer::of(&status),
        };
        self.must_be_healthy(index, &volume);
        let drive = volume.spec.drive.clone().unwrap_or_default();
        self.send(index, What::Create(volume));
        let leader = self.controllers.get(index).map(|c| c.name.clone());
        let leader = leader.unwrap_or_default();
        self.note(format!("{leader} places {name} ({bytes}) on {drive}"));
        Answer::Later
    }

    /// ControllerExpandVolume at a controller.
    pub(super) fn expand_volume(&mut self, index: usize, name: &str, bytes: u64) -> Answer {
        let range = CapacityRange {
            required_bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
            limit_bytes: 0,
        };
        let range = Range::parse(Some(&range)).expect("a sound size");
        let Some((controller, terms)) = self.asked(index, name) else {
            return Answer::Later;
        };
        let Some(inventory) = &mut controller.inventory else {
            return Answer::Later;
        };
        let mut growth = grow(inventory, name, range, terms);
        if matches!(growth, Ok(Growth::Look)) {
            self.settle(index, name);
            let inventory = self.inventory(index);
            growth = inventory.map_or(Ok(Growth::Look), |inventory| {
                grow(inventory, name, range, terms)
            });
        }
        match growth {
            Ok(Growth::There(_)) => Answer::Is,
            Ok(Growth::Look) => Answer::Later,
            Ok(Growth::Write(grown)) => {
                let what = What::Grow {
                    name: name.to_owned(),
                    uid: grown.uid,
                    bytes,
                };
                self.send(index, what);
                self.note(format!("{name} is to grow to {bytes}"));
                Answer::Later
            }
            Err(status) => Answer::of(&status),
        }
    }

    /// DeleteVolume at a controller: the word, then the deletion. Whether it was done.
    pub(super) fn delete_volume(&mut self, index: usize, name: &str) -> bool {
        let Some((controller, _)) = self.asked(index, name) else {
            return false;
        };
        let Some(inventory) = &controller.inventory else {
            return false;
        };
        let mut ending = end(inventory, name, false);
        if matches!(ending, Ok(Ending::Look)) {
            if self.faults.api_fails(&mut self.chance) {
                return false;
            }
            self.settle(index, name);
            let inventory = self.inventory(index);
            ending = inventory.map_or(Ok(Ending::Look), |inventory| end(inventory, name, true));
        }
        let volume = match ending {
            Ok(Ending::Gone) => return true,
            Ok(Ending::Act(volume)) => volume,
            Ok(Ending::Look) | Err(_) => return false,
        };
        let same = |volumes: &Store<Volume>| {
            let uid = volumes.get(name).and_then(|v| v.metadata.uid.clone());
            uid.is_some_and(|uid| uid == volume.uid)
        };
        if self.faults.api_fails(&mut self.chance) || !same(&self.api.volumes) {
            return false;
        }
        let word = json!({"metadata": {"uid": volume.uid}, "spec": {"release": true}});
        if !volume.release && self.api.volumes.patch(name, &word).is_err() {
            return false;
        }
        // Between the word and the deletion the controller may die; the call is made again then.
        let wall = self.timestamp();
        !self.faults.api_fails(&mut self.chance) && self.api.volumes.delete(name, wall).is_ok()
    }

    /// A controller that takes a call about a volume now, and on what terms: it leads, is awake, and no other call about
    /// that volume is under way.
    fn asked(&mut self, index: usize, name: &str) -> Option<(&mut Controller, Terms)> {
        let (now, wall) = (self.now, self.timestamp());
        let controller = self.controllers.get_mut(index)?;
        let takes = controller.inventory.is_some()
            && controller.paused_until <= now
            && !controller.writes.iter().any(|write| write.is_of(name));
        let terms = Terms {
            policy: Policy::default(),
            now: wall,
            may_place: controller.may_place(now),
        };
        takes.then_some((controller, terms))
    }

    fn inventory(&mut self, index: usize) -> Option<&mut Inventory> {
        self.controllers.get_mut(index)?.inventory.as_mut()
    }

    /// Looks what became of a volume, and takes that for true.
    pub(super) fn settle(&mut self, index: usize, name: &str) {
        let found = self.api.volumes.get(name).cloned();
        if let Some(inventory) = self.inventory(index) {
            inventory.withdraw(name);
            match found {
                Some(volume) => inventory.apply_volume(&volume),
                None => inventory.remove_volume(name),
            }
        }
    }

    fn must_be_healthy(&mut self, index: usize, volume: &Volume) {
        let (name, drive) = (named(volume), volume.spec.drive.clone().unwrap_or_default());
        let judged = self.inventory(index).and_then(|inventory| {
            let verdict = inventory.drive(&drive)?.verdict.as_ref()?;
            (verdict.state != HealthState::Healthy).then_some(verdict.state)
        });
        if let Some(state) = judged {
            self.wrong = Some(format!("{name} was placed on {drive}, which is {state:?}"));
        }
    }

    fn send(&mut self, index: usize, what: What) {
        let write = Write::begin(what, self.now, &mut self.faults, &mut self.chance);
        if let Some(controller) = self.controllers.get_mut(index) {
            controller.writes.push(write);
        }
    }

    /// Placing writes whose time has come arrive; most are answered.
    pub(super) fn land_writes(&mut self) {
        let (now, wall) = (self.now, self.timestamp());
        for index in 0..self.controllers.len() {
            let Some(controller) = self.controllers.get_mut(index) else {
                continue;
            };
            let (landed, waiting): (Vec<Write>, Vec<Write>) = controller
                .writes
                .drain(..)
                .partition(|write| write.lands <= now);
            controller.writes = waiting;
            for write in landed.into_iter().filter(|write| !write.lost) {
                let written = match &write.what {
                    What::Create(volume) => self.api.volumes.create(Volume::clone(volume), wall),
                    What::Grow { name, uid, bytes } => {
                        let right = self
                            .api
                            .volumes
                            .get(name)
                            .is_some_and(|v| v.metadata.uid.as_ref() == Some(uid));
                        let patch = json!({"spec": {"capacityBytes": bytes}});
                        if right {
                            self.api.volumes.patch(name, &patch)
                        } else {
                            Err(NotWritten::Conflict)
                        }
                    }
                };
                let name = write.name().to_owned();
                self.answered(index, &name, written.ok(), write.unanswered);
            }
        }
    }

    fn answered(&mut self, index: usize, name: &str, written: Option<Volume>, unanswered: bool) {
        self.note(format!(
            "{name}: {}",
            if written.is_some() {
                "written"
            } else {
                "not written"
            }
        ));
        if unanswered {
            return;
        }
        match written.as_ref().and_then(VolumeEntry::new) {
            Some(entry) => {
                if let Some(inventory) = self.inventory(index) {
                    inventory.confirm(entry);
                }
            }
            // It is looked up, whatever it was.
            None => self.settle(index, name),
        }
    }
}

impl Write {
    /// On its way: it arrives within the time-out, or never.
    fn begin(
        what: What,
        now: Duration,
        faults: &mut crate::faults::Faults,
        chance: &mut Chance,
    ) -> Self {
        let longest = u64::try_from(PLACING_WRITE_TIMEOUT.as_millis()).unwrap_or(1);
        Self {
            what,
            lands: now + Duration::from_millis(chance.below(longest)),
            lost: faults.answer_lost(chance),
            unanswered: faults.answer_lost(chance),
        }
    }

    fn name(&self) -> &str {
        match &self.what {
            What::Create(volume) => volume.metadata.name.as_deref().unwrap_or_default(),
            What::Grow { name, .. } => name,
        }
    }

    fn is_of(&self, name: &str) -> bool {
        self.name() == name
    }
}

/// The class of every volume here.
fn class() -> BTreeMap<&'static str, &'static str> {
    BTreeMap::from([("capacity-enforcement", "best-effort")])
}
