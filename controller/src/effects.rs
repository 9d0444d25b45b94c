//! The only writer beside CSI's calls: an effect becomes a merge patch or an event. The queue is bounded and holds one
//! effect an object; what does not get in, fails or meets a conflict is decided anew at the next look, so nothing is
//! tried again here.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::event::{EVENTS_NAMESPACE, Notice};
use api::names::{LABEL_DRIVE, MANAGER_CONTROLLER};
use api::serve::faults;
use api::{Drive, StorageNode, Volume, VolumePhase};
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::Patch;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use crate::health::Judgement;
use crate::leader::{CallError, Leader, call, patch_params, post_params};
use crate::lease::PLACING_WRITE_TIMEOUT;
use crate::lifecycle::{Effect, silence_notice};

/// Effects that wait at most.
const QUEUE_MAX: usize = 1_024;
/// Effects that are written at once.
const WRITERS: usize = 4;
/// Time-out of a write that promises nothing.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// What an effect is about; of one key one waits or is written at a time.
type Key = (&'static str, String);

fn key(effect: &Effect) -> Option<Key> {
    match effect {
        Effect::Finalizers { drive, .. } => Some(("finalizers", drive.clone())),
        Effect::Place { volume, .. } => Some(("place", volume.clone())),
        Effect::Verdict(judgement) => Some(("verdict", judgement.drive.to_string())),
        Effect::Silence { node, .. } => Some(("silence", node.clone())),
        Effect::Refuse(notice) => Some(("refuse", notice.name.clone())),
        Effect::Tell(_) => None,
    }
}

struct Queued {
    effect: Effect,
    since: Instant,
}

/// Where effects wait. Cheap to clone.
#[derive(Clone)]
pub struct Queue {
    sender: mpsc::Sender<Queued>,
    under_way: Arc<Mutex<BTreeSet<Key>>>,
}

impl Queue {
    /// Takes an effect, unless one of its object is under way or the queue is full.
    pub fn offer(&self, effect: Effect) -> bool {
        let key = key(&effect);
        if let Some(key) = &key
            && !self.keys().insert(key.clone())
        {
            return false;
        }
        let queued = Queued {
            effect,
            since: Instant::now(),
        };
        let taken = self.sender.try_send(queued).is_ok();
        if !taken && let Some(key) = &key {
            self.keys().remove(key);
        }
        taken
    }

    fn keys(&self) -> std::sync::MutexGuard<'_, BTreeSet<Key>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The queue, and the writer that empties it until the last clone of the queue is gone.
pub fn queue(leader: Arc<Leader>) -> (Queue, impl Future<Output = ()> + Send) {
    let (sender, receiver) = mpsc::channel(QUEUE_MAX);
    let queue = Queue {
        sender,
        under_way: Arc::default(),
    };
    let under_way = queue.under_way.clone();
    let writer = ReceiverStream::new(receiver).for_each_concurrent(WRITERS, move |queued| {
        let (leader, under_way) = (leader.clone(), under_way.clone());
        async move {
            let key = key(&queued.effect);
            write(&leader, queued.effect).await;
            leader
                .metrics
                .reconcile_seconds
                .observe(queued.since.elapsed().as_secs_f64());
            if let Some(key) = &key {
                let mut under_way = under_way.lock().unwrap_or_else(PoisonError::into_inner);
                under_way.remove(key);
            }
        }
    });
    (queue, writer)
}

async fn write(leader: &Leader, effect: Effect) {
    let result = match &effect {
        Effect::Finalizers {
            drive,
            resource_version,
            finalizers,
        } => write_finalizers(leader, drive, resource_version, finalizers).await,
        Effect::Place {
            volume,
            uid,
            placement,
        } => write_place(leader, volume, uid, placement).await,
        Effect::Verdict(judgement) => write_verdict(leader, judgement).await,
        Effect::Silence { node, uid, since } => write_silence(leader, node, uid, *since).await,
        Effect::Refuse(notice) => write_refusal(leader, notice).await,
        Effect::Tell(notice) => write_event(leader, notice).await,
    };
    match result {
        Ok(()) => {}
        // Gone, or changed meanwhile: what is to be done is decided on what is there now.
        Err(CallError::NotFound | CallError::Conflict(_)) => {
            tracing::debug!(?effect, "an effect is out of date");
        }
        Err(error) => {
            leader.metrics.failed(error.reason());
            tracing::warn!(key = ?key(&effect), %error, reason = %error.reason(), "an effect was not written; it is decided anew");
        }
    }
}

async fn write_finalizers(
    leader: &Leader,
    drive: &str,
    resource_version: &str,
    finalizers: &[String],
) -> Result<(), CallError> {
    let patch = json!({ "metadata": {
        "resourceVersion": resource_version,
        "finalizers": finalizers,
    }});
    let drives: Api<Drive> = Api::all(leader.client.clone());
    let (params, patch) = (patch_params(), Patch::Merge(&patch));
    let written = call(WRITE_TIMEOUT, drives.patch(drive, &params, &patch));
    let written = faults::around("finalizers", written).await?;
    // The last finalizer of what is being deleted takes the object with it: then the watch tells.
    if written.metadata.deletion_timestamp.is_none() {
        leader.inventory().apply_drive(&written);
    }
    Ok(())
}

async fn write_place(
    leader: &Leader,
    volume: &str,
    uid: &str,
    placement: &api::volume::Placement,
) -> Result<(), CallError> {
    if !leader.leadership.may_place() {
        leader.inventory().withdraw(volume);
        return Err(CallError::Conflict("the lease is about to end".to_owned()));
    }
    let chosen = &placement.chosen;
    let patch = json!({
        "metadata": { "uid": uid, "labels": { LABEL_DRIVE: chosen.drive } },
        "spec": { "drive": chosen.drive, "placement": placement, "moveTo": null },
    });
    let volumes: Api<Volume> = leader.volumes();
    let (params, patch) = (patch_params(), Patch::Merge(&patch));
    let written = volumes.patch(volume, &params, &patch);
    match faults::around("place", call(PLACING_WRITE_TIMEOUT, written)).await {
        Ok(written) => {
            leader.inventory().apply_volume(&written);
            leader.metrics.placed(Ok(placement), Duration::ZERO);
            tracing::info!(
                volume,
                drive = chosen.drive,
                node = chosen.node,
                "a volume got its drive"
            );
            Ok(())
        }
        // It may have been written: the promise stands until somebody looks.
        Err(error @ CallError::Unclear(_)) => Err(error),
        Err(error) => {
            leader.inventory().withdraw(volume);
            Err(error)
        }
    }
}

/// To the volume's agent, which lets the pod's mount fail with these words, and to people.
async fn write_refusal(leader: &Leader, notice: &Notice) -> Result<(), CallError> {
    let patch = json!({
        "metadata": { "uid": notice.uid },
        "status": { "phase": VolumePhase::Pending, "reason": notice.reason, "message": notice.message },
    });
    let volumes: Api<Volume> = leader.volumes();
    let (params, patch) = (patch_params(), Patch::Merge(&patch));
    let written = volumes.patch_status(&notice.name, &params, &patch);
    faults::around("refuse", call(WRITE_TIMEOUT, written)).await?;
    write_event(leader, notice).await
}

async fn write_verdict(leader: &Leader, judgement: &Judgement) -> Result<(), CallError> {
    let Judgement {
        drive,
        verdict,
        turned,
    } = judgement;
    let patch = json!({ "status": { "verdict": verdict_patch(verdict) } });
    let drives: Api<Drive> = Api::all(leader.client.clone());
    let (params, patch) = (patch_params(), Patch::Merge(&patch));
    let written = drives.patch_status(drive, &params, &patch);
    let written = faults::around("verdict", call(WRITE_TIMEOUT, written)).await?;
    leader.inventory().apply_drive(&written);
    if *turned {
        tracing::warn!(
            drive = &**drive,
            node = written.spec.node,
            state = ?verdict.state,
            reason = %verdict.reason,
            message = verdict.message,
            "a drive's health turned"
        );
        let notice = leader
            .inventory()
            .drive(drive)
            .map(|entry| crate::lifecycle::health_notice(entry, judgement));
        if let Some(notice) = notice {
            write_event(leader, &notice).await?;
        }
    }
    Ok(())
}

async fn write_silence(
    leader: &Leader,
    node: &str,
    uid: &str,
    since: Option<Timestamp>,
) -> Result<(), CallError> {
    let patch = json!({ "metadata": { "uid": uid }, "status": { "silentSince": since } });
    let nodes: Api<StorageNode> = Api::all(leader.client.clone());
    let (params, patch) = (patch_params(), Patch::Merge(&patch));
    let written = nodes.patch_status(node, &params, &patch);
    let written = faults::around("silence", call(WRITE_TIMEOUT, written)).await?;
    leader.inventory().apply_node(&written);
    let notice = silence_notice(node, uid, since.is_some());
    tracing::warn!(node, reason = %notice.reason, message = notice.message, "a node's agent is not heard of, or is again");
    write_event(leader, &notice).await
}

/// A merge patch leaves alone what it does not name, so what is unknown is named.
fn verdict_patch(verdict: &api::drive::HealthVerdict) -> Value {
    let mut patch = json!(verdict);
    if verdict.typical_read_ns.is_none()
        && let Some(fields) = patch.as_object_mut()
    {
        fields.insert("typicalReadNs".to_owned(), Value::Null);
    }
    patch
}

async fn write_event(leader: &Leader, notice: &Notice) -> Result<(), CallError> {
    let event = notice.event(MANAGER_CONTROLLER, leader.now());
    let events: Api<Event> = Api::namespaced(leader.client.clone(), EVENTS_NAMESPACE);
    let params = post_params();
    let told = call(WRITE_TIMEOUT, events.create(&params, &event));
    faults::around("tell", told).await?;
    Ok(())
}
