//! Two simulated controllers: the real election, inventory, ends of volumes and judgement of drives.

use std::time::Duration;

use api::Drive;
use controller::health::{Health, Settings};
use controller::inventory::Inventory;
pub use controller::lease::Record;
use controller::lease::{Elector, Move, PLACING_LEASE_LEFT_MIN, Standing, Timing};
use controller::lifecycle::{Effect, Lifecycle};
use controller::placement::Policy;
use controller::run::DOUBT_AFTER;
use jiff::SignedDuration;
use serde_json::json;

use super::World;
use super::calls::Write;
use super::node::named;
use crate::chance::Chance;

/// Longest that a write which promises nothing waits in its queue and on its way.
const EFFECT_MS_MAX: u64 = 6_000;
/// How fast drives are judged.
const JUDGES: Settings = Settings {
    window: SignedDuration::from_secs(20),
};
/// Time between two judgements.
const JUDGES_EVERY: Duration = Duration::from_secs(2);

/// A controller process.
pub struct Controller {
    /// Its name.
    pub name: String,
    /// Its own clock is ahead by this much.
    offset: Duration,
    /// It does nothing until then: a stopped process, a long pause.
    pub paused_until: Duration,
    elector: Elector,
    /// What it decides with, while it leads.
    pub(super) inventory: Option<Inventory>,
    /// Placing writes that have not landed yet.
    pub(super) writes: Vec<Write>,
    lifecycle: Lifecycle,
    health: Health,
    judges_at: Duration,
    /// Other writes, and when they are made.
    effects: Vec<(Duration, Effect)>,
}

impl Controller {
    /// A process that has seen nothing.
    #[must_use]
    pub fn new(number: usize, chance: &mut Chance) -> Self {
        let name = format!("controller-{number}");
        Self {
            elector: Elector::new(name.clone(), None, Timing::default()),
            name,
            offset: Duration::from_millis(chance.below(100_000)),
            paused_until: Duration::ZERO,
            inventory: None,
            writes: Vec::new(),
            lifecycle: Lifecycle::default(),
            health: Health::new(JUDGES),
            judges_at: Duration::ZERO,
            effects: Vec::new(),
        }
    }

    /// Ends and starts anew; what it wrote is still on its way.
    pub fn restart(&mut self) {
        self.elector = Elector::new(self.name.clone(), None, Timing::default());
        self.inventory = None;
        self.lifecycle = Lifecycle::default();
        self.health = Health::new(JUDGES);
    }

    fn clock(&self, now: Duration) -> Duration {
        now + self.offset
    }

    /// Whether it may begin a placing write.
    pub(super) fn may_place(&self, now: Duration) -> bool {
        let until = self.elector.held_until().unwrap_or_default();
        self.inventory.is_some() && self.clock(now) + PLACING_LEASE_LEFT_MIN <= until
    }
}

impl World {
    /// One thing that any controller does.
    pub(super) fn controller_step(&mut self) {
        self.land_writes();
        let Some(index) = self.chance.pick(0..self.controllers.len()) else {
            return;
        };
        if self
            .controllers
            .get(index)
            .is_some_and(|c| c.paused_until > self.now)
        {
            return;
        }
        match self.chance.below(40) {
            0..20 => self.lease_turn(index),
            20..29 => self.hear(index),
            29 => self.settle_doubts(index),
            _ => {
                self.look(index);
                self.write_effects(index, false);
            }
        }
    }

    /// Everything that one controller has to do.
    pub(super) fn controller_round(&mut self, index: usize) {
        self.land_writes();
        self.lease_turn(index);
        self.hear_all(index);
        self.settle_doubts(index);
        self.look(index);
        self.write_effects(index, true);
    }

    fn lease_turn(&mut self, index: usize) {
        let (now, wall) = (self.now, self.timestamp());
        let lost = self.faults.answer_lost(&mut self.chance);
        let Some(controller) = self.controllers.get_mut(index) else {
            return;
        };
        let clock = controller.clock(now);
        if controller.inventory.is_some()
            && controller.elector.standing(clock) == Standing::Following
        {
            controller.restart(); // who loses the lease exits
        }
        match controller.elector.next(clock, wall) {
            Move::Wait(_) => {}
            Move::Read if lost => {}
            Move::Read => controller.elector.read(self.api.lease.clone(), clock),
            Move::Write(record) => {
                let version = self
                    .api
                    .lease
                    .as_ref()
                    .map(|lease| lease.version.clone())
                    .unwrap_or_default();
                let accepted = record.version == version;
                let next = version.parse::<u64>().unwrap_or(0) + 1;
                if accepted {
                    let version = next.to_string();
                    self.api.lease = Some(Record {
                        version,
                        ..record.clone()
                    });
                }
                if accepted && !lost {
                    controller.elector.written(record, next.to_string(), clock);
                } else {
                    controller.elector.unclear();
                }
            }
        }
        let leads = matches!(controller.elector.standing(clock), Standing::Leading { .. });
        if leads && controller.inventory.is_none() {
            let name = controller.name.clone();
            controller.inventory = Some(Inventory::default());
            self.hear_all(index);
            self.note(format!("{name} leads"));
        }
    }

    /// A watch delivers any one object as it is now.
    fn hear(&mut self, index: usize) {
        let drives: Vec<String> = self.api.drives.all().map(named).collect();
        let volumes: Vec<String> = self.api.volumes.all().map(named).collect();
        let Some(inventory) = self
            .controllers
            .get_mut(index)
            .and_then(|c| c.inventory.as_mut())
        else {
            return;
        };
        let known_drives = inventory.drives().map(|drive| drive.name.to_string());
        let known_drives: Vec<String> = known_drives.chain(drives).collect();
        let known_volumes = inventory.volumes().map(|volume| volume.name.clone());
        let known_volumes: Vec<String> = known_volumes.chain(volumes).collect();
        if self.chance.once_in(2) {
            if let Some(name) = self.chance.pick(known_drives) {
                match self.api.drives.get(&name) {
                    Some(drive) => inventory.apply_drive(drive),
                    None => inventory.remove_drive(&name),
                }
            }
        } else if let Some(name) = self.chance.pick(known_volumes) {
            match self.api.volumes.get(&name) {
                Some(volume) => inventory.apply_volume(volume),
                None => inventory.remove_volume(&name),
            }
        }
    }

    fn hear_all(&mut self, index: usize) {
        let Some(inventory) = self
            .controllers
            .get_mut(index)
            .and_then(|c| c.inventory.as_mut())
        else {
            return;
        };
        let drives: Vec<String> = inventory
            .drives()
            .map(|drive| drive.name.to_string())
            .collect();
        for name in drives
            .iter()
            .filter(|name| self.api.drives.get(name).is_none())
        {
            inventory.remove_drive(name);
        }
        let volumes: Vec<String> = inventory
            .volumes()
            .map(|volume| volume.name.clone())
            .collect();
        for name in volumes
            .iter()
            .filter(|name| self.api.volumes.get(name).is_none())
        {
            inventory.remove_volume(name);
        }
        self.api
            .drives
            .all()
            .for_each(|drive| inventory.apply_drive(drive));
        self.api
            .volumes
            .all()
            .for_each(|volume| inventory.apply_volume(volume));
    }

    /// Promises of which nothing was seen for long are looked up.
    fn settle_doubts(&mut self, index: usize) {
        let before = self.timestamp() - DOUBT_AFTER;
        let controller = self.controllers.get(index);
        let inventory = controller.and_then(|controller| controller.inventory.as_ref());
        let doubtful = inventory.map(|inventory| inventory.doubtful(before));
        for name in doubtful.unwrap_or_default() {
            self.settle(index, &name);
        }
    }

    /// What the leader does unasked: it looks at everything, and what it decides is written a while later.
    fn look(&mut self, index: usize) {
        let (now, wall) = (self.now, self.timestamp());
        let Some(controller) = self.controllers.get_mut(index) else {
            return;
        };
        let may_place = controller.may_place(now);
        let Some(inventory) = &mut controller.inventory else {
            return;
        };
        let mut effects = controller
            .lifecycle
            .step(inventory, Policy::default(), wall, may_place);
        if controller.judges_at <= now {
            controller.judges_at = now + JUDGES_EVERY;
            let judgements = controller.health.round(inventory, wall);
            effects.extend(judgements.into_iter().map(Effect::Verdict));
        }
        for effect in effects {
            let due = now + Duration::from_millis(self.chance.below(EFFECT_MS_MAX));
            controller.effects.push((due, effect));
        }
    }

    /// Effects that are due are written, whoever leads by now.
    fn write_effects(&mut self, index: usize, all: bool) {
        let now = self.now;
        let Some(controller) = self.controllers.get_mut(index) else {
            return;
        };
        let (due, waiting) = controller
            .effects
            .drain(..)
            .partition(|(due, _)| all || *due <= now);
        controller.effects = waiting;
        let due: Vec<(Duration, Effect)> = due;
        for (_, effect) in due {
            let (drive, patch) = match effect {
                Effect::Finalizers {
                    drive,
                    resource_version,
                    finalizers,
                } => (
                    drive,
                    json!({"metadata": {"resourceVersion": resource_version, "finalizers": finalizers}}),
                ),
                Effect::Verdict(judgement) => {
                    if judgement.turned {
                        let (drive, state) = (&judgement.drive, judgement.verdict.state);
                        self.note(format!("{drive} is judged {state:?}"));
                    }
                    let patch = json!({"status": {"verdict": judgement.verdict}});
                    (judgement.drive.to_string(), patch)
                }
                Effect::Place { .. }
                | Effect::Silence { .. }
                | Effect::Refuse(_)
                | Effect::Tell(_) => continue,
            };
            if self.faults.api_fails(&mut self.chance) {
                continue;
            }
            let before = self.api.drives.revision;
            let written = self.api.drives.patch(&drive, &patch);
            if patch.pointer("/status/verdict").is_some() {
                self.verdicts += self.api.drives.revision - before;
            }
            let controller = self.controllers.get_mut(index);
            if let (Ok(drive), Some(inventory)) =
                (written, controller.and_then(|c| c.inventory.as_mut()))
                && drive.metadata.deletion_timestamp.is_none()
            {
                inventory.apply_drive(&drive);
            }
        }
    }
}

/// Bytes that a drive's volumes may be promised.
#[must_use]
pub fn allocatable(drive: &Drive) -> Option<u64> {
    let status = drive.status.as_ref()?;
    status.capacity.map(|capacity| capacity.allocatable_bytes)
}
