//! A simulated machine and the agent process on it: what it has seen of the API, what it is in the midst of.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use agent::host::XfsErrors;
use agent::probe::{Policy, Snapshot};
use agent::registry::MountedDrive;
use agent::site::Site;
use api::{Drive, Volume};

use super::drives::Task;
use super::{CLUSTER, World};
use crate::chance::Chance;
use crate::host::SimHost;
use crate::host::disk::Disk;

/// Size of every simulated drive.
pub const DRIVE_BYTES: u64 = 1 << 30;

/// A machine.
pub struct Node {
    /// Its name.
    pub name: String,
    /// What its agent is told.
    pub site: Site,
    /// The machine.
    pub host: SimHost,
    /// The agent, while it runs.
    pub process: Option<Process>,
}

/// What a running agent knows.
#[derive(Default)]
pub struct Process {
    /// Drives as the watch showed them.
    pub drives: BTreeMap<String, Arc<Drive>>,
    /// Volumes as the watch showed them.
    pub volumes: BTreeMap<String, Arc<Volume>>,
    /// Devices as they were last seen.
    pub snapshot: Arc<Snapshot>,
    /// What it does about each drive.
    pub tasks: BTreeMap<String, Task>,
    /// Drives in use.
    pub registry: BTreeMap<String, MountedDrive>,
}

impl Node {
    /// A machine with drives, blank ones and some that hold somebody's data.
    #[must_use]
    pub fn new(number: usize, drives: usize, chance: &mut Chance) -> Self {
        let name = format!("node-{number}");
        let site = Site {
            node: name.clone(),
            cluster_id: CLUSTER.to_owned(),
            state_dir: PathBuf::from("/var/lib/ringpv"),
            xfs_errors: XfsErrors::FailFast,
        };
        let host = SimHost::default();
        {
            let mut machine = host.machine();
            machine.quota = !chance.once_in(4);
            machine.policy = Some(Policy {
                node: name.clone(),
                cluster_id: CLUSTER.to_owned(),
                drive_bytes_min: 512 << 20,
                allow_loop: false,
                mount_root: site.state_dir.join("mnt"),
            });
            for index in 0..drives {
                let serial = format!("{number:08x}{index:08x}");
                let mut disk = Disk::blank(&serial, DRIVE_BYTES, !chance.once_in(3));
                if chance.once_in(3) {
                    disk.make_foreign(chance.any());
                }
                machine.space.plug(&format!("nvme{index}n1"), &serial);
                machine.space.disks.insert(serial, disk);
            }
        }
        Self {
            name,
            site,
            host,
            process: None,
        }
    }

    /// The process dies where it is.
    pub fn kill(&mut self) {
        self.process = None;
        self.host.restart();
    }
}

impl World {
    /// One thing on one machine: the agent starts, hears of something, or goes on with something.
    pub(super) fn node_step(&mut self) {
        let Some(node) = self.chance.pick(0..self.nodes.len()) else {
            return;
        };
        if self
            .nodes
            .get(node)
            .is_some_and(|node| node.process.is_none())
        {
            if self.chance.once_in(3) {
                self.start_agent(node);
            }
            return;
        }
        match self.chance.below(10) {
            0..4 => self.hear_of_drive(node),
            4..5 => self.hear_of_volume(node),
            5..6 => self.look_at_devices(node),
            6..9 => self.drive_turn(node),
            _ => self.volume_turn(node),
        }
        self.bury(node);
    }

    /// A process whose fuse burnt down is gone.
    pub(super) fn bury(&mut self, node: usize) {
        if let Some(node) = self.nodes.get_mut(node)
            && node.host.is_dead()
        {
            let name = node.name.clone();
            node.kill();
            self.note(format!("{name}: the agent was killed half-way"));
        }
    }

    pub(super) fn start_agent(&mut self, node: usize) {
        let Some(node) = self.nodes.get_mut(node) else {
            return;
        };
        node.host.restart();
        node.process = Some(Process::default());
        let name = node.name.clone();
        self.note(format!("{name}: the agent starts"));
        self.list_all(&name);
    }

    /// The first list of a watch: everything, as it is.
    fn list_all(&mut self, name: &str) {
        let drives = self
            .api
            .drives
            .all()
            .filter(|drive| drive.spec.node == name);
        let drives = drives
            .map(|drive| (named(drive), Arc::new(drive.clone())))
            .collect();
        let volumes = self
            .api
            .volumes
            .all()
            .filter(|volume| volume.spec.node == name);
        let volumes = volumes
            .map(|volume| (named(volume), Arc::new(volume.clone())))
            .collect();
        let node = self.nodes.iter_mut().find(|node| node.name == name);
        if let Some(node) = node
            && let Some(process) = &mut node.process
        {
            process.drives = drives;
            process.volumes = volumes;
            let ids = process.drives.keys().cloned().collect();
            process.snapshot = Arc::new(node.host.snapshot(&ids));
        }
    }

    /// The watch delivers one drive as it is now; events in between are never seen.
    fn hear_of_drive(&mut self, node: usize) {
        let Some(at) = self.nodes.get_mut(node) else {
            return;
        };
        let (name, Some(process)) = (at.name.clone(), &mut at.process) else {
            return;
        };
        let stored = self
            .api
            .drives
            .all()
            .filter(|drive| drive.spec.node == name);
        let known: Vec<String> = stored
            .map(named)
            .chain(process.drives.keys().cloned())
            .collect();
        let Some(drive) = self.chance.pick(known) else {
            return;
        };
        match self.api.drives.get(&drive) {
            Some(object) => process.drives.insert(drive, Arc::new(object.clone())),
            None => process.drives.remove(&drive),
        };
    }

    /// The same of a volume.
    fn hear_of_volume(&mut self, node: usize) {
        let Some(at) = self.nodes.get_mut(node) else {
            return;
        };
        let (name, Some(process)) = (at.name.clone(), &mut at.process) else {
            return;
        };
        let stored = self
            .api
            .volumes
            .all()
            .filter(|volume| volume.spec.node == name);
        let known: Vec<String> = stored
            .map(named)
            .chain(process.volumes.keys().cloned())
            .collect();
        let Some(volume) = self.chance.pick(known) else {
            return;
        };
        match self.api.volumes.get(&volume) {
            Some(object) => process.volumes.insert(volume, Arc::new(object.clone())),
            None => process.volumes.remove(&volume),
        };
    }

    fn look_at_devices(&mut self, node: usize) {
        if let Some(node) = self.nodes.get_mut(node)
            && let Some(process) = &mut node.process
        {
            let ids = process.drives.keys().cloned().collect();
            process.snapshot = Arc::new(node.host.snapshot(&ids));
        }
    }

    /// Everything there is to hear, heard.
    pub(super) fn refresh_node(&mut self, node: usize) {
        let name = self.nodes.get(node).map(|node| node.name.clone());
        match self.nodes.get(node).map(|node| node.process.is_some()) {
            Some(true) => self.list_all(&name.unwrap_or_default()),
            Some(false) => self.start_agent(node),
            None => {}
        }
    }

    /// Every drive and every volume once.
    pub(super) fn node_round(&mut self, node: usize) {
        let known = |process: &Process| -> (Vec<String>, Vec<String>) {
            let drives = process.drives.keys().chain(process.tasks.keys());
            (
                drives.cloned().collect(),
                process.volumes.keys().cloned().collect(),
            )
        };
        let process = self.nodes.get(node).and_then(|node| node.process.as_ref());
        let (drives, volumes) = process.map(known).unwrap_or_default();
        for drive in drives {
            self.turn_of_drive(node, &drive);
        }
        for volume in volumes {
            self.turn_of_volume(node, &volume);
        }
    }
}

/// Name of an object.
pub fn named<K: kube::Resource>(object: &K) -> String {
    object.meta().name.clone().unwrap_or_default()
}
