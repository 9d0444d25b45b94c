//! What a simulated agent does about its drives: the real observe, plan and apply, one action a step, with the status
//! written before each as the real loop writes it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use agent::apply::{Apply, Outcome, Refusal, Retry, Session};
use agent::health::is_worth_writing;
use agent::latency::of_histogram;
use agent::observe::{Observed, observe};
use agent::plan::{Action, Plan, plan};
use agent::probe::Seen;
use agent::registry::MountedDrive;
use agent::standing;
use agent::worker::Worker;
use api::drive::{DriveLatency, Removal};
use api::names::FINALIZER_DEVICE;
use api::{Drive, DrivePhase, DriveStatus};
use bench::Histogram;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::World;
use super::node::Node;
use crate::cluster::{Refused, Store};
use crate::host::disk::Health;

/// What is done about one drive.
#[derive(Default)]
pub struct Task {
    uid: Option<String>,
    status: DriveStatus,
    stored: DriveStatus,
    run: Option<Run>,
    /// What was refused until it changes.
    refused: Option<Circumstances>,
    /// Refusals in a row, and until when nothing is tried after the last.
    failures: u32,
    not_before: Timestamp,
}

/// What a refusal depends on: the same again would be refused again.
#[derive(PartialEq, Eq)]
struct Circumstances {
    generation: Option<i64>,
    devices: Vec<(String, api::Fingerprint)>,
}

fn circumstances(drive: &Drive, seen: &Observed) -> Circumstances {
    let devices = seen.bearers.iter().chain(&seen.named);
    let device = |seen: &Arc<Seen>| (seen.facts.major_minor.clone(), seen.fingerprint.clone());
    Circumstances {
        generation: drive.metadata.generation,
        devices: devices.map(device).collect(),
    }
}

/// A plan under way.
struct Run {
    drive: Drive,
    seen: Observed,
    actions: VecDeque<Action>,
    session: Session,
}

impl World {
    /// One turn of any drive of a machine.
    pub(super) fn drive_turn(&mut self, node: usize) {
        let process = self.nodes.get(node).and_then(|node| node.process.as_ref());
        let names: Vec<String> = process
            .map(|process| {
                process
                    .drives
                    .keys()
                    .chain(process.tasks.keys())
                    .cloned()
                    .collect()
            })
            .unwrap_or_default();
        if let Some(name) = self.chance.pick(names) {
            self.turn_of_drive(node, &name);
        }
    }

    /// One turn of a drive: a plan is made, or the next action of one is done.
    pub(super) fn turn_of_drive(&mut self, node: usize, name: &str) {
        let now = self.timestamp();
        let unwritable = self.faults.api_fails(&mut self.chance);
        let mut said = Vec::new();
        if let Some(node) = self.nodes.get_mut(node) {
            let mut turn = Turn {
                store: &mut self.api.drives,
                unwritable,
                now,
                said: &mut said,
            };
            turn.of(node, name);
            said.iter_mut()
                .for_each(|line| *line = format!("{}: {line}", node.name));
        }
        said.into_iter().for_each(|line| self.note(line));
    }
}

/// What one turn needs besides the machine.
struct Turn<'w> {
    store: &'w mut Store<Drive>,
    /// The API takes no writes just now.
    unwritable: bool,
    now: Timestamp,
    said: &'w mut Vec<String>,
}

impl Turn<'_> {
    fn of(&mut self, node: &mut Node, name: &str) {
        let Some(process) = &mut node.process else {
            return;
        };
        let Some(object) = process.drives.get(name).cloned() else {
            // The object is gone: its task ends, what is mounted stays mounted.
            process.tasks.remove(name);
            return;
        };
        let mut task = process.tasks.remove(name).unwrap_or_default();
        if task.uid != object.metadata.uid {
            let status = object.status.clone().unwrap_or_default();
            task = Task {
                uid: object.metadata.uid.clone(),
                stored: status.clone(),
                status,
                ..Task::default()
            };
        }
        match task.run.take() {
            Some(run) => self.go_on(node, name, &mut task, run, &object),
            None => self.begin(node, name, &mut task, &object),
        }
        if let Some(process) = &mut node.process {
            process.tasks.insert(name.to_owned(), task);
        }
    }

    fn begin(&mut self, node: &mut Node, name: &str, task: &mut Task, object: &Arc<Drive>) {
        let drive = Drive {
            status: Some(task.status.clone()),
            ..Drive::clone(object)
        };
        let Some(process) = &mut node.process else {
            return;
        };
        let said = matches!(task.status.phase, DrivePhase::Ready | DrivePhase::Failing);
        let in_use = process.registry.get(name).filter(|_| said).cloned();
        let identity = &drive.spec.device.fingerprint.identity;
        let afresh = in_use.is_none();
        let seen = observe(
            &node.host,
            &node.site,
            &process.snapshot,
            name,
            identity,
            afresh,
        );
        let Ok(mut seen) = seen else {
            return;
        };
        let device = seen
            .mounted
            .as_ref()
            .and_then(|mounted| mounted.device.as_ref());
        seen.attached = in_use.as_ref().zip(device).is_some_and(|(in_use, device)| {
            *in_use.device == *device.facts.name && !in_use.read_only
        });
        match plan(&drive, &seen, &node.site) {
            Plan::Wait => {}
            Plan::Settled => {
                let mut status = task.status.clone();
                measured(node, in_use.as_ref(), &mut status, self.now);
                self.report(name, task, status);
            }
            Plan::Stand(standing) => {
                match (standing.phase, process.registry.get_mut(name)) {
                    (DrivePhase::ReadOnly, Some(mounted)) => mounted.read_only = true,
                    (DrivePhase::ReadOnly, None) => {}
                    _ => drop(process.registry.remove(name)),
                }
                let mut status = task.status.clone();
                standing::stood(&mut status, &standing, self.now);
                if status.reason != task.status.reason {
                    self.said.push(format!(
                        "{name} stands: {:?} {}",
                        standing.phase, standing.reason
                    ));
                }
                self.report(name, task, status);
            }
            Plan::Do(_) if task.refused.as_ref() == Some(&circumstances(&drive, &seen)) => {}
            Plan::Do(_) if task.not_before > self.now => {}
            Plan::Do(actions) => {
                task.run = Some(Run {
                    drive,
                    seen,
                    actions: actions.into(),
                    session: Session::default(),
                });
            }
        }
    }

    fn go_on(
        &mut self,
        node: &mut Node,
        name: &str,
        task: &mut Task,
        mut run: Run,
        latest: &Drive,
    ) {
        let Some(mut action) = run.actions.pop_front() else {
            return;
        };
        let begun = standing::begun(&run.drive, &task.status, &action, self.now);
        if !self.report(name, task, begun) {
            return; // nothing is begun before its status is written
        }
        let on = action == Action::AddFinalizer;
        if on || action == Action::DropFinalizer {
            if self.set_finalizer(&run.drive, on) && !run.actions.is_empty() {
                task.run = Some(run);
            }
            return;
        }
        let leaves = matches!(
            action,
            Action::Unmount | Action::Abandon { .. } | Action::Seal { .. }
        );
        if leaves && let Some(process) = &mut node.process {
            process.registry.remove(name);
        }
        let drive = Drive {
            status: Some(task.status.clone()),
            ..run.drive.clone()
        };
        let apply = Apply {
            host: &node.host,
            site: &node.site,
            drive: &drive,
            now: self.now,
            cancel: &AtomicBool::new(false),
            spare: false,
        };
        match apply.apply(&mut run.session, &action) {
            Ok(
                outcome @ Outcome::Partly {
                    done_bytes,
                    total_bytes,
                    ..
                },
            ) => {
                let status = standing::after(task.status.clone(), &outcome, self.now);
                if let Action::Erase {
                    done_bytes: cursor,
                    total_bytes: total,
                } = &mut action
                {
                    (*cursor, *total) = (done_bytes, total_bytes);
                }
                self.report(name, task, status);
                if asked(latest) == asked(&run.drive) {
                    run.actions.push_front(action);
                    task.run = Some(run);
                }
            }
            Ok(outcome) => {
                self.said.push(format!("{name}: {}", action.name()));
                let mut status = standing::after(task.status.clone(), &outcome, self.now);
                if let Outcome::Attached(attached) = &outcome {
                    register(node, name, &run.seen, attached, &mut status);
                }
                self.report(name, task, status);
                if run.actions.is_empty() {
                    (task.refused, task.failures) = (None, 0);
                } else {
                    task.run = Some(run);
                }
            }
            Err(refusal) => self.refused(name, task, &run, &action, &refusal),
        }
    }

    fn refused(
        &mut self,
        name: &str,
        task: &mut Task,
        run: &Run,
        action: &Action,
        refusal: &Refusal,
    ) {
        self.said
            .push(format!("{name}: {} refused: {refusal}", action.name()));
        let status = standing::refused(&run.drive, task.status.clone(), refusal, self.now);
        self.report(name, task, status);
        if refusal.retry == Retry::OnChange {
            task.refused = Some(circumstances(&run.drive, &run.seen));
            return;
        }
        let seconds = (5_i64 << task.failures.min(6)).min(300);
        task.not_before = self.now + SignedDuration::from_secs(seconds);
        task.failures += 1;
    }

    /// Writes the status; whether that could be done.
    fn report(&mut self, name: &str, task: &mut Task, status: DriveStatus) -> bool {
        task.status = status;
        let Some(patch) = standing::patch(&task.stored, &task.status) else {
            return true;
        };
        if self.unwritable {
            return false;
        }
        match self.store.patch(name, &patch) {
            Ok(_) => {
                task.stored = task.status.clone();
                true
            }
            Err(Refused::NotFound | Refused::Conflict | Refused::AlreadyExists) => false,
        }
    }

    fn set_finalizer(&mut self, drive: &Drive, on: bool) -> bool {
        let mut finalizers = drive.metadata.finalizers.clone().unwrap_or_default();
        finalizers.retain(|one| one != FINALIZER_DEVICE);
        if on {
            finalizers.push(FINALIZER_DEVICE.to_owned());
        }
        let version = &drive.metadata.resource_version;
        let patch = json!({"metadata": {"resourceVersion": version, "finalizers": finalizers}});
        let name = drive.metadata.name.as_deref().unwrap_or_default();
        !self.unwritable && self.store.patch(name, &patch).is_ok()
    }
}

/// The figures of a drive in use, where they are worth a write.
fn measured(node: &Node, in_use: Option<&MountedDrive>, status: &mut DriveStatus, now: Timestamp) {
    let machine = node.host.machine();
    let slot = in_use.and_then(|drive| machine.space.plugged.get(&*drive.device));
    let Some(disk) = slot.and_then(|slot| machine.space.disks.get(&slot.serial)) else {
        return;
    };
    let typical_ns = match disk.health {
        Health::Good => 80_000,
        Health::Slow => 800_000,
        Health::Dead => return,
    };
    let known = status.latency.as_ref().and_then(|all| all.read.as_ref());
    if known.is_some_and(|read| (typical_ns..2 * typical_ns).contains(&read.p50_ns)) {
        return; // as it was: not worth the arithmetic, either
    }
    let mut histogram = Histogram::new();
    (0..400).for_each(|n| histogram.record(typical_ns + n * typical_ns / 400));
    let new = DriveLatency {
        read: of_histogram(&histogram, now),
        ..DriveLatency::default()
    };
    let age = status.latency.as_ref().map(|_| Duration::ZERO);
    if is_worth_writing(status.latency.as_ref(), &new, age) {
        status.latency = Some(new);
    }
}

/// What a person may change while something is done.
fn asked(drive: &Drive) -> (Option<&String>, bool, bool, Option<Removal>) {
    let deleting = drive.metadata.deletion_timestamp.is_some();
    (
        drive.metadata.uid.as_ref(),
        deleting,
        drive.spec.suspended,
        drive.spec.removal,
    )
}

/// The drive is fit for use.
fn register(
    node: &mut Node,
    name: &str,
    seen: &Observed,
    attached: &agent::apply::Attached,
    status: &mut DriveStatus,
) {
    let mounted = seen
        .mounted
        .iter()
        .filter_map(|mounted| mounted.device.as_ref());
    let Some(device) = mounted.chain(&seen.bearers).chain(&seen.named).next() else {
        return;
    };
    status.device = Some(standing::device(device));
    let mounted = MountedDrive {
        id: name.into(),
        device: device.facts.name.as_str().into(),
        root: node.site.guarded(name).into(),
        quota_enforced: attached.quota_enforced,
        allocatable_bytes: attached.capacity.allocatable_bytes,
        read_only: false,
        worker: Worker::new(name),
    };
    if let Some(process) = &mut node.process {
        process.registry.insert(name.to_owned(), mounted);
    }
}
