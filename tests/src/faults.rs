//! What goes wrong, drawn from the seed: deaths half-way through an effect, lost answers, an API that takes no writes,
//! reboots, long pauses of controllers, drives that turn slow, die, bear other data than before, are pulled out, come back elsewhere.

use std::time::Duration;

use api::DrivePhase;

use crate::chance::Chance;
use crate::host::disk::{Disk, Health};
use crate::world::World;

/// Longest life, in halves of effects, that a fuse leaves a process.
const FUSE_MAX: u64 = 24;

/// Whether and how often anything goes wrong.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    on: bool,
    /// Faults in a thousand steps.
    pub rate: u64,
    /// One write in so many is not taken.
    api: u64,
    /// One answer in so many is lost.
    answers: u64,
}

impl Faults {
    /// Some worlds are rougher than others.
    #[must_use]
    pub const fn of(chance: &mut Chance) -> Self {
        Self {
            on: true,
            rate: 1 + chance.below(20),
            api: 10 + chance.below(100),
            answers: 5 + chance.below(50),
        }
    }

    /// From now on nothing goes wrong.
    pub const fn end(&mut self) {
        self.on = false;
    }

    /// Whether the API takes this write.
    pub const fn api_fails(&self, chance: &mut Chance) -> bool {
        self.on && chance.once_in(self.api)
    }

    /// Whether a call's answer, or the call itself, is lost.
    pub const fn answer_lost(&self, chance: &mut Chance) -> bool {
        self.on && chance.once_in(self.answers)
    }
}

impl World {
    /// One fault.
    pub(crate) fn fault_step(&mut self) {
        let Some(index) = self.chance.pick(0..self.nodes.len()) else {
            return;
        };
        match self.chance.below(17) {
            0..5 => {
                let halves = 1 + self.chance.below(FUSE_MAX);
                if let Some(node) = self.nodes.get(index) {
                    node.host.light_fuse(Some(halves));
                }
            }
            5..7 => self.kill_agent(index),
            7 => self.reboot(index),
            8..11 => self.pause_controller(),
            11 => self.break_drive(index),
            12..14 => self.pull_drive(index),
            14 => self.meddle(index),
            _ => self.plug_drive(),
        }
    }

    fn kill_agent(&mut self, index: usize) {
        if let Some(node) = self.nodes.get_mut(index) {
            node.kill();
            let name = node.name.clone();
            self.note(format!("{name}: the agent is killed"));
        }
    }

    fn reboot(&mut self, index: usize) {
        if let Some(node) = self.nodes.get_mut(index) {
            node.kill();
            node.host.reboot();
            let name = node.name.clone();
            self.note(format!("{name}: reboots"));
            let volumes = &self.api.volumes;
            let there = |volume: &str| volumes.get(volume).is_some_and(|v| v.spec.node == name);
            self.person.forget_mounts(there);
        }
    }

    fn pause_controller(&mut self) {
        let pause = Duration::from_millis(self.chance.below(25_000));
        let (now, restarts) = (self.now, self.chance.once_in(3));
        let Some(index) = self.chance.pick(0..self.controllers.len()) else {
            return;
        };
        if let Some(controller) = self.controllers.get_mut(index) {
            controller.paused_until = now + pause;
            if restarts {
                controller.restart();
            }
            let line = format!("{} sleeps {} ms", controller.name, pause.as_millis());
            self.note(line);
        }
    }

    /// A drive answers slowly, or no more, or as it should again.
    fn break_drive(&mut self, index: usize) {
        let Some(node) = self.nodes.get(index) else {
            return;
        };
        let mut machine = node.host.machine();
        let serial = self
            .chance
            .pick(machine.space.disks.keys().cloned().collect::<Vec<_>>());
        let Some(disk) = serial.and_then(|serial| machine.space.disks.get_mut(&serial)) else {
            return;
        };
        disk.health = match disk.health {
            Health::Good if self.chance.once_in(2) => Health::Slow,
            Health::Slow if self.chance.once_in(2) => Health::Good,
            Health::Good | Health::Slow => Health::Dead,
            Health::Dead => Health::Good,
        };
        let line = format!("drive {} is {:?}", disk.serial, disk.health);
        drop(machine);
        self.note(line);
    }

    /// Somebody else puts data on a device that is not ours yet, or whose preparation failed. What was said of it before
    /// says nothing of these.
    fn meddle(&mut self, index: usize) {
        let Some(node) = self.nodes.get(index) else {
            return;
        };
        let content = self.chance.any();
        let mut machine = node.host.machine();
        let failed = |serial: &str| {
            let wishes = self.person.drives.iter();
            let ids: Vec<&String> = wishes
                .filter(|(_, wish)| wish.serial == serial)
                .map(|(id, _)| id)
                .collect();
            let failed = |id: &&String| {
                let drive = self.api.drives.get(id);
                let status = drive.and_then(|drive| drive.status.as_ref());
                status.is_some_and(|s| s.phase == DrivePhase::Failed && s.capacity.is_none())
            };
            !ids.is_empty() && ids.iter().all(failed)
        };
        let disks = machine.space.disks.values();
        let ours = |disk: &Disk| disk.writes != 0 && !failed(&disk.serial);
        let free = disks
            .filter(|disk| !ours(disk) && disk.files.is_none() && !machine.holds(&disk.serial));
        let free: Vec<String> = free.map(|disk| disk.serial.clone()).collect();
        let Some(serial) = self.chance.pick(free) else {
            return;
        };
        if let Some(disk) = machine.space.disks.get_mut(&serial) {
            let before = disk.found().to_vec();
            disk.make_foreign(content);
            if before == disk.found() {
                return;
            }
        }
        drop(machine);
        self.person.named.remove(&serial);
        let wishes = self.person.drives.values_mut();
        let of_device = wishes.filter(|wish| wish.serial == serial);
        of_device.for_each(|wish| wish.spoiled = true);
        self.note(format!("somebody's data appear on {serial}"));
    }

    /// A drive is pulled out. What was mounted of it stays mounted, dead.
    fn pull_drive(&mut self, index: usize) {
        let Some(node) = self.nodes.get(index) else {
            return;
        };
        let mut machine = node.host.machine();
        let names: Vec<String> = machine.space.plugged.keys().cloned().collect();
        if let Some(name) = self.chance.pick(names)
            && let Some(serial) = machine.space.unplug(&name)
        {
            drop(machine);
            self.note(format!("drive {serial} is pulled out"));
        }
    }

    /// A drive that was pulled out comes back, under any free name.
    fn plug_drive(&mut self) {
        for index in 0..self.nodes.len() {
            let Some(node) = self.nodes.get(index) else {
                continue;
            };
            let mut machine = node.host.machine();
            let space = &machine.space;
            let out = space
                .disks
                .keys()
                .find(|serial| !space.plugged.values().any(|slot| slot.serial == **serial));
            if let Some(serial) = out.cloned() {
                let free = (0..64)
                    .map(|n| format!("nvme{n}n1"))
                    .find(|name| !space.plugged.contains_key(name));
                machine.space.plug(&free.unwrap_or_default(), &serial);
                drop(machine);
                return self.note(format!("drive {serial} is plugged in"));
            }
        }
    }

    /// Every fault is mended but slowness: drives answer and are plugged in, fuses are out, controllers are awake.
    pub(crate) fn mend(&mut self) {
        for node in &self.nodes {
            let mut machine = node.host.machine();
            machine.fuse = None;
            machine
                .space
                .disks
                .values_mut()
                .filter(|disk| disk.health == Health::Dead)
                .for_each(|disk| disk.health = Health::Good);
        }
        let drives: usize = self
            .nodes
            .iter()
            .map(|node| node.host.machine().space.disks.len())
            .sum();
        (0..drives).for_each(|_| self.plug_drive());
        self.controllers
            .iter_mut()
            .for_each(|controller| controller.paused_until = Duration::ZERO);
    }
}
