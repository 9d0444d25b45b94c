//! The StorageNode: what this host has, told to the API. Made if it is missing; written on change, and on no other
//! occasion. Only fields that are this module's are sent: topology and orphans have writers of their own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::condition::{self, ConditionStatus, ConditionType};
use api::names::MANAGER_AGENT;
use api::storage_node::{DeviceVerdict, IoBackend, IoBackendName};
use api::{Condition, Reason, StorageNode, StorageNodeSpec, StorageNodeStatus};
use block::{Backend, WhyThreads};
use jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::host::linux::engines::{DeviceKey, Fitted};
use crate::probe::Snapshot;
use crate::records::Said;
use crate::registry::Registry;

/// Least time between two writes: a shelf of drives that comes up is one or two.
const PAUSE: Duration = Duration::from_secs(1);
/// After this long without a change the object is looked at: somebody may have deleted it.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// First and longest pause while the API does not answer.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Parts of the status that others write.
const OF_OTHERS: [&str; 3] = ["topology", "orphans", "silentSince"];

/// What does not change while the agent runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// The node's name.
    pub node: String,
    /// Cluster id that this agent's drives bear.
    pub cluster_id: String,
    /// How devices are touched, and why so.
    pub io_backend: IoBackend,
    /// `uname -r`.
    pub kernel: String,
    /// Whether the kernel has XFS project quota.
    pub project_quota: bool,
}

impl NodeFacts {
    /// Reads them. `proc` is the root of procfs.
    #[must_use]
    pub fn read(node: &str, cluster_id: &str, backend: &Backend, proc: &Path) -> Self {
        let kernel = nix::sys::utsname::uname();
        Self {
            node: node.to_owned(),
            cluster_id: cluster_id.to_owned(),
            io_backend: io_backend(backend),
            kernel: kernel
                .map(|names| names.release().to_string_lossy().into_owned())
                .unwrap_or_default(),
            project_quota: proc.join("fs/xfs/xqm").exists(),
        }
    }
}

/// The engine in use as the status says it.
#[must_use]
pub fn io_backend(backend: &Backend) -> IoBackend {
    let (name, reason, message) = match backend {
        Backend::Uring { flags } => (IoBackendName::Uring, Reason::UringUsed, flags.to_string()),
        Backend::Threads { why } => {
            let reason = match why {
                WhyThreads::Asked => Reason::ThreadsChosen,
                WhyThreads::Sysctl { .. } => Reason::UringDisabled,
                WhyThreads::Seccomp => Reason::UringRefused,
                WhyThreads::LockedMemory => Reason::UringNoMemory,
                WhyThreads::Ended => Reason::UringEnded,
                WhyThreads::Faster(_) => Reason::ThreadsFaster,
                WhyThreads::Missing | WhyThreads::TooOld { .. } | WhyThreads::Failed { .. } => {
                    Reason::UringUnsupported
                }
            };
            (IoBackendName::Threads, reason, why.to_string())
        }
    };
    IoBackend {
        name,
        reason,
        message,
    }
}

/// The same once the ring that reads what devices hold has ended. What a ring is still used for, each device says.
#[must_use]
pub fn after_ring() -> IoBackend {
    io_backend(&Backend::Threads {
        why: WhyThreads::Ended,
    })
}

/// The status for a picture. `conditions` are those that stand, of which one is ours.
#[must_use]
pub fn status(
    facts: &NodeFacts,
    snapshot: &Snapshot,
    conditions: &[Condition],
    now: Timestamp,
) -> StorageNodeStatus {
    let count = |of: &dyn Fn(&crate::probe::Seen) -> bool| {
        let count = snapshot.devices.values().filter(|seen| of(seen)).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    };
    let mut conditions = conditions.to_vec();
    let (truth, reason, message) = readiness(snapshot);
    condition::set(
        &mut conditions,
        ConditionType::Ready,
        truth,
        reason,
        message,
        now,
    );
    StorageNodeStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: facts.kernel.clone(),
        cluster_id: facts.cluster_id.clone(),
        io_backend: facts.io_backend.clone(),
        project_quota: facts.project_quota,
        eligible: count(&|seen| seen.verdict == DeviceVerdict::Eligible),
        drives: count(&|seen| seen.has(Reason::AlreadyManaged)),
        devices: snapshot
            .devices
            .values()
            .map(|seen| seen.device())
            .collect(),
        conditions,
        ..StorageNodeStatus::default()
    }
}

/// Adds what people said of the drives, as the drives' records have it: a device alone does not show it.
fn add_said(status: &mut StorageNodeStatus, said: &BTreeMap<String, Said>) {
    let held = status
        .devices
        .iter_mut()
        .filter_map(|device| device.holds_drive.as_mut());
    for held in held {
        if let Some(said) = said.get(&held.id) {
            held.access_tier = said.access_tier;
            held.labels.clone_from(&said.labels);
        }
    }
}

/// Adds how devices are read and written that are not treated as the node's others.
fn add_fitted(status: &mut StorageNodeStatus, snapshot: &Snapshot, fitted: &Fitted) {
    for device in &mut status.devices {
        let Some(seen) = snapshot.devices.get(&device.name) else {
            continue;
        };
        let key = DeviceKey {
            major_minor: seen.facts.major_minor.clone(),
            diskseq: seen.facts.diskseq,
        };
        // At the least depth at which it is so: that is how its health is read.
        let depths = fitted.get(&key).into_iter().flatten();
        device.io_backend = depths
            .map(|(_, backend)| io_backend(backend))
            .find(|backend| backend.name != status.io_backend.name);
    }
}

/// Whether discovery is done.
const fn readiness(snapshot: &Snapshot) -> (ConditionStatus, Reason, &'static str) {
    match (snapshot.complete, snapshot.sees_host_mounts) {
        (true, true) => (
            ConditionStatus::True,
            Reason::Ready,
            "every device was looked at",
        ),
        (true, false) => (
            ConditionStatus::True,
            Reason::Ready,
            "every device was looked at, but the host's mounts are not visible: run the agent in the host's PID namespace",
        ),
        (false, _) => (
            ConditionStatus::False,
            Reason::Unresponsive,
            "not every device has answered yet",
        ),
    }
}

/// The fields of the status that are sent.
fn fields(status: &StorageNodeStatus) -> Value {
    let mut fields = json!(status);
    if let Some(map) = fields.as_object_mut() {
        map.retain(|key, _| !OF_OTHERS.contains(&key.as_str()));
    }
    fields
}

/// Keeps the object as the pictures say, until the pictures end.
pub async fn report(
    client: kube::Client,
    mut facts: NodeFacts,
    (mut snapshots, mut engines): (watch::Receiver<Arc<Snapshot>>, watch::Receiver<Fitted>),
    mut ring_ended: watch::Receiver<bool>,
    registry: Registry,
) {
    let mut drives = registry.changes();
    let nodes: Api<StorageNode> = Api::all(client);
    let mut pause = RETRY.0;
    loop {
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        let fitted = engines.borrow_and_update().clone();
        if *ring_ended.borrow_and_update() {
            facts.io_backend = after_ring();
        }
        drives.mark_unchanged();
        let said = registry.said();
        match write(
            &nodes,
            &facts,
            (&snapshot, &said, &fitted),
            Timestamp::now(),
        )
        .await
        {
            Ok(written) => {
                pause = RETRY.0;
                if written {
                    let (generation, devices) = (snapshot.generation, snapshot.devices.len());
                    tracing::debug!(generation, devices, "StorageNode written");
                    sleep(PAUSE).await;
                }
                let news = async {
                    tokio::select! {
                        changed = snapshots.changed() => changed,
                        Ok(()) = engines.changed() => Ok(()),
                        Ok(()) = ring_ended.changed() => Ok(()),
                        changed = drives.wait_for(|_| registry.said() != said) => changed.map(drop),
                    }
                };
                if let Ok(Err(_ended)) = timeout(LOOK_AGAIN, news).await {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(reason = %Reason::ApiUnavailable, %error, "the StorageNode cannot be written; tried again");
                sleep(pause).await;
                pause = (pause * 2).min(RETRY.1);
            }
        }
    }
}

/// Makes the object be as the picture says. Whether anything had to be written.
async fn write(
    nodes: &Api<StorageNode>,
    facts: &NodeFacts,
    (snapshot, said, fitted): (&Snapshot, &BTreeMap<String, Said>, &Fitted),
    now: Timestamp,
) -> kube::Result<bool> {
    let there = match nodes.get_opt(&facts.node).await? {
        Some(there) => there,
        None => {
            let new = StorageNode::new(&facts.node, StorageNodeSpec {});
            let params = PostParams {
                field_manager: Some(MANAGER_AGENT.to_owned()),
                ..PostParams::default()
            };
            nodes.create(&params, &new).await?
        }
    };
    let old = there.status.unwrap_or_default();
    let mut new = status(facts, snapshot, &old.conditions, now);
    add_said(&mut new, said);
    add_fitted(&mut new, snapshot, fitted);
    if fields(&old) == fields(&new) {
        return Ok(false);
    }
    let patch = json!({ "status": fields(&new) });
    let params = PatchParams::apply(MANAGER_AGENT);
    nodes
        .patch_status(&facts.node, &params, &Patch::Merge(&patch))
        .await?;
    Ok(true)
}

#[cfg(test)]
mod tests;
