//! What callers ask of a simulated controller: the real placement, with placing writes that take their time and whose
//! answers may be lost.

use std::time::Duration;

use api::Volume;
use api::drive::HealthState;
use api::names::FINALIZER_DEVICE;
use api::volume::{FsType, VolumeSpec};
use controller::inventory::VolumeEntry;
use controller::lease::PLACING_WRITE_TIMEOUT;
use controller::placement::request::{Class, Places, Request};
use controller::placement::{Policy, place};
use kube::api::ObjectMeta;
use serde_json::json;

use super::World;
use super::controller::Controller;
use crate::chance::Chance;
use crate::cluster::Refused;

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is there.
    Is(Box<VolumeEntry>),
    /// Ask again.
    Later,
    /// No drive fits.
    NoFit,
}

impl World {
    /// CreateVolume at a controller.
    pub(super) fn create_volume(
        &mut self,
        index: usize,
        name: &str,
        bytes: u64,
        class: &Class,
    ) -> Answer {
        let (now, wall) = (self.now, self.timestamp());
        let Some(controller) = self.controllers.get_mut(index) else {
            return Answer::Later;
        };
        let may_place = controller.may_place(now);
        let Some(inventory) = controller
            .inventory
            .as_mut()
            .filter(|_| controller.paused_until <= now)
        else {
            return Answer::Later;
        };
        if inventory.is_unconfirmed(name) {
            if controller.writes.iter().any(|write| write.is_of(name)) {
                return Answer::Later; // the call is under way still
            }
            inventory.withdraw(name);
            match self.api.volumes.get(name) {
                Some(volume) => inventory.apply_volume(volume),
                None => inventory.remove_volume(name),
            }
        }
        if let Some(found) = inventory.volume(name) {
            return if found.deleting {
                Answer::Later
            } else {
                Answer::Is(Box::new(found.clone()))
            };
        }
        if !may_place {
            return Answer::Later;
        }
        let request = Request {
            name: name.to_owned(),
            bytes,
            class: class.clone(),
            places: Places::default(),
            now: wall,
        };
        let Ok(placement) = place(&request, inventory, Policy::default()) else {
            return Answer::NoFit;
        };
        let volume = object(&request, placement);
        if let Some(entry) = VolumeEntry::new(&volume) {
            inventory.promise(entry, wall);
        }
        let drive = volume.spec.drive.clone().unwrap_or_default();
        let judged = inventory.drive(&drive).and_then(|d| d.verdict.as_ref());
        if let Some(verdict) = judged.filter(|verdict| verdict.state != HealthState::Healthy) {
            let state = verdict.state;
            self.wrong = Some(format!("{name} was placed on {drive}, which is {state:?}"));
        }
        let line = format!("{} places {name} ({bytes}) on {drive}", controller.name);
        let write = Write::begin(
            What::Create(Box::new(volume)),
            now,
            &mut self.faults,
            &mut self.chance,
        );
        controller.writes.push(write);
        self.note(line);
        Answer::Later
    }

    /// ControllerExpandVolume at a controller.
    pub(super) fn expand_volume(&mut self, index: usize, name: &str, bytes: u64) -> Answer {
        let (now, wall) = (self.now, self.timestamp());
        let Some(controller) = self.controllers.get_mut(index) else {
            return Answer::Later;
        };
        let may_place = controller.may_place(now) && controller.paused_until <= now;
        let under_way = controller.writes.iter().any(|write| write.is_of(name));
        let Some(inventory) = controller
            .inventory
            .as_mut()
            .filter(|_| may_place && !under_way)
        else {
            return Answer::Later;
        };
        if inventory.is_unconfirmed(name) {
            inventory.withdraw(name);
            match self.api.volumes.get(name) {
                Some(volume) => inventory.apply_volume(volume),
                None => inventory.remove_volume(name),
            }
        }
        let Some(found) = inventory.volume(name).cloned() else {
            return Answer::Later;
        };
        if found.capacity_bytes >= bytes {
            return Answer::Is(Box::new(found));
        }
        let drive = found
            .drive
            .as_deref()
            .and_then(|drive| inventory.drive(drive));
        let Some(drive) =
            drive.filter(|drive| drive.phase == api::DrivePhase::Ready && !found.deleting)
        else {
            return Answer::Later;
        };
        if bytes - found.capacity_bytes > drive.free_bytes() {
            return Answer::NoFit;
        }
        let uid = found.uid.clone();
        inventory.promise(
            VolumeEntry {
                capacity_bytes: bytes,
                ..found
            },
            wall,
        );
        let what = What::Grow {
            name: name.to_owned(),
            uid,
            bytes,
        };
        let write = Write::begin(what, now, &mut self.faults, &mut self.chance);
        controller.writes.push(write);
        Answer::Later
    }

    /// DeleteVolume at a controller: the word, then the deletion. Whether it was done.
    pub(super) fn delete_volume(&mut self, index: usize, name: &str) -> bool {
        let now = self.now;
        let ready = |c: &Controller| {
            c.inventory.is_some()
                && c.paused_until <= now
                && !c.writes.iter().any(|w| w.is_of(name))
        };
        if !self.controllers.get(index).is_some_and(ready)
            || self.faults.api_fails(&mut self.chance)
        {
            return false;
        }
        let wall = self.timestamp();
        let Some(volume) = self.api.volumes.get(name) else {
            return true;
        };
        let word = json!({"metadata": {"uid": volume.metadata.uid}, "spec": {"release": true}});
        if self.api.volumes.patch(name, &word).is_err() {
            return false;
        }
        // Between the word and the deletion the controller may die; the call is made again then.
        !self.faults.api_fails(&mut self.chance) && self.api.volumes.delete(name, wall).is_ok()
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
                            Err(Refused::Conflict)
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
        let controller = self.controllers.get_mut(index).filter(|_| !unanswered);
        let Some(inventory) = controller.and_then(|c| c.inventory.as_mut()) else {
            return;
        };
        match written.as_ref().and_then(VolumeEntry::new) {
            Some(entry) => inventory.confirm(entry),
            // It is looked up, whatever it was.
            None => {
                inventory.withdraw(name);
                match self.api.volumes.get(name) {
                    Some(volume) => inventory.apply_volume(volume),
                    None => inventory.remove_volume(name),
                }
            }
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

fn object(request: &Request, placement: api::volume::Placement) -> Volume {
    let chosen = placement.chosen.clone();
    Volume {
        metadata: ObjectMeta {
            name: Some(request.name.clone()),
            finalizers: Some(vec![FINALIZER_DEVICE.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: VolumeSpec {
            csi_name: request.name.clone(),
            node: chosen.node,
            drive: Some(chosen.drive),
            capacity_bytes: request.bytes,
            fs_type: FsType::Xfs,
            capacity_enforcement: request.class.enforcement,
            single_writer: false,
            ephemeral: false,
            claim: None,
            spread_id: request.class.spread_id.clone(),
            parameters: std::collections::BTreeMap::new(),
            placement: Some(placement),
            suspended: false,
            release: false,
            move_to: None,
        },
        status: None,
    }
}
