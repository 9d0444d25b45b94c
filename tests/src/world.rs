//! A simulated cluster: the real decisions (judge, plan, apply, place, the election, the ends of volumes) on simulated
//! machines, drives and time, from a seed.
//!
//! ```text
//!   Person ── init, create, publish, delete, remove ──► Api (objects) ◄── watch, late ──┬── Node: agent process
//!                                                         ▲                             │     drives, volumes ─► SimHost
//!                                                         └── placing writes, late ── Controller ×2: lease, inventory
//! ```
//!
//! One [`World::step`] is one small thing that somebody does: an action of a drive's plan, a call, a delivered event, a
//! death. After each the safety invariants of [`crate::invariants`] are checked. A run has two halves: in the first
//! everything goes wrong that [`crate::faults`] knows; in the second nothing does, and the wishes of the person must
//! come true and stay true.

use std::time::Duration;

use api::{Drive, Volume};
use jiff::Timestamp;

use crate::chance::Chance;
use crate::cluster::Store;
use crate::faults::Faults;
use crate::invariants;

pub mod calls;
pub mod controller;
pub mod drives;
pub mod node;
pub mod person;
pub mod volumes;

use controller::Controller;
use node::Node;
use person::Person;

/// Cluster id of every simulated cluster.
pub const CLUSTER: &str = "7d9a1c1e-0000-4000-8000-00000000c1d5";

/// How large a world is.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Nodes.
    pub nodes: usize,
    /// Drives of each.
    pub drives: usize,
    /// Steps with faults.
    pub steps: usize,
}

/// The objects, and the Lease.
#[derive(Debug, Default)]
pub struct Api {
    /// Drives.
    pub drives: Store<Drive>,
    /// Volumes.
    pub volumes: Store<Volume>,
    /// The controllers' Lease.
    pub lease: Option<controller::Record>,
}

/// Everything.
pub struct World {
    /// Chance.
    pub chance: Chance,
    /// Time since the beginning, for all alike.
    pub now: Duration,
    /// The objects.
    pub api: Api,
    /// Machines.
    pub nodes: Vec<Node>,
    /// Controllers.
    pub controllers: Vec<Controller>,
    /// Who wishes.
    pub person: Person,
    /// What goes wrong.
    pub faults: Faults,
    /// Verdicts on drives that were written; their figures are renewed for ever.
    pub verdicts: u64,
    /// What somebody decided that must never be decided.
    pub wrong: Option<String>,
    /// What happened, for a failing seed.
    pub history: Vec<String>,
}

impl World {
    /// A world of blank and foreign drives, all processes about to start.
    #[must_use]
    pub fn new(seed: u64, scale: Scale) -> Self {
        let mut chance = Chance::new(seed);
        let nodes = (0..scale.nodes).map(|n| Node::new(n, scale.drives, &mut chance));
        Self {
            nodes: nodes.collect(),
            now: Duration::ZERO,
            api: Api::default(),
            controllers: (0..2).map(|n| Controller::new(n, &mut chance)).collect(),
            person: Person::default(),
            faults: Faults::of(&mut chance),
            verdicts: 0,
            wrong: None,
            history: Vec::new(),
            chance,
        }
    }

    /// The time as people write it.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        timestamp(self.now)
    }

    /// Writes something into the history.
    pub fn note(&mut self, what: impl Into<String>) {
        let line = format!("{:9.3} {}", self.now.as_secs_f64(), what.into());
        self.history.push(line);
    }

    /// A whole run. What it broke, if it broke anything; the history says how it came to that.
    ///
    /// # Errors
    /// The first rule that did not hold.
    pub fn run(&mut self, scale: Scale) -> Result<(), String> {
        for _ in 0..scale.steps {
            self.step()?;
        }
        self.faults.end();
        self.calm()?;
        self.wishes_come_true(scale)?;
        let quiet = self.activity();
        for _ in 0..40 {
            self.round()?;
        }
        invariants::reached(self)?;
        if self.activity() != quiet {
            return Err(format!(
                "it never comes to rest: {quiet:?}, then {:?}",
                self.activity()
            ));
        }
        Ok(())
    }

    /// Writes to the API and effects on the machines so far; without the Lease's and the verdicts.
    fn activity(&self) -> (u64, u64, u64) {
        let effects = self
            .nodes
            .iter()
            .map(|node| node.host.machine().effects)
            .sum();
        let drives = self.api.drives.revision - self.verdicts;
        (drives, self.api.volumes.revision, effects)
    }

    /// One machine with one drive that is being prepared, and nothing goes wrong but this: the agent dies after `halves`
    /// halves of effects. The drive must become Ready all the same. Whether the agent lived to see that.
    ///
    /// # Errors
    /// The first rule that did not hold.
    pub fn prepared_with_a_death(halves: u64) -> Result<bool, String> {
        let scale = Scale {
            nodes: 1,
            drives: 1,
            steps: 0,
        };
        let mut world = Self::new(1, scale);
        world.faults.end();
        world.person.rest();
        world.start_agent(0);
        while world.person.drives.is_empty() {
            world.wish_for_drive();
        }
        let host = world.nodes.first().map(|node| node.host.clone());
        let host = host.ok_or("a machine")?;
        host.light_fuse(Some(halves));
        for _ in 0..100 {
            world.round()?;
            world.bury(0);
        }
        invariants::reached(&world)?;
        Ok(host.machine().fuse.is_some())
    }

    /// One small thing.
    fn step(&mut self) -> Result<(), String> {
        self.now += Duration::from_millis(1 + self.chance.below(160));
        match self.chance.below(1000) {
            0..550 => self.node_step(),
            550..800 => self.controller_step(),
            800..980 => self.person_step(),
            n if n < 980 + self.faults.rate => self.fault_step(),
            _ => self.node_step(),
        }
        invariants::safe(self)
    }

    /// Everything that went wrong by chance is mended.
    fn calm(&mut self) -> Result<(), String> {
        self.note("from here on nothing goes wrong");
        self.mend();
        self.person.rest();
        invariants::safe(self)
    }

    /// Everybody does what there is to do, once, with fresh eyes.
    fn round(&mut self) -> Result<(), String> {
        for node in 0..self.nodes.len() {
            self.refresh_node(node);
            self.node_round(node);
            invariants::safe(self)?;
        }
        for controller in 0..self.controllers.len() {
            self.controller_round(controller);
            invariants::safe(self)?;
        }
        self.person_round();
        self.now += Duration::from_millis(900);
        invariants::safe(self)
    }

    fn wishes_come_true(&mut self, scale: Scale) -> Result<(), String> {
        let rounds = 400 + 40 * scale.nodes * scale.drives;
        let mut last = String::new();
        let mut still = (0, (0, 0, 0));
        for _ in 0..rounds {
            self.round()?;
            let activity = self.activity();
            still = if still.1 == activity {
                (still.0 + 1, activity)
            } else {
                (0, activity)
            };
            match invariants::reached(self) {
                Ok(()) if still.0 >= 30 => return Ok(()),
                Ok(()) => last.clear(),
                Err(why) => last = why,
            }
        }
        if last.is_empty() {
            last = "it is as wished, but never comes to rest".to_owned();
        }
        Err(format!("after {rounds} rounds without faults: {last}"))
    }
}

/// A moment of the simulation as people write it.
#[must_use]
pub fn timestamp(now: Duration) -> Timestamp {
    let millis = 1_800_000_000_000 + i64::try_from(now.as_millis()).unwrap_or(0);
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH)
}
