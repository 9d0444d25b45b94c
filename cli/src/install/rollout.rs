//! Waiting until the pods are there, with what stands in their way.

use std::time::Duration;

use api::Reason;
use api::names::NAMESPACE;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::apply::Cluster;
use super::at;
use super::manifests::Object;
use crate::advice::{Refusal, Stop};
use crate::progress::Board;
use crate::session::Session;

const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How far a set of pods is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Far {
    ready: u64,
    wanted: u64,
    seen: bool,
}

impl Far {
    /// Of a Deployment or DaemonSet. Its controller has to have seen it first.
    fn of(kind: &str, object: &Value) -> Self {
        let number = |path: &str| at(object, path).as_u64().unwrap_or(0);
        let seen = number("/status/observedGeneration") >= number("/metadata/generation");
        let (updated, ready, wanted) = if kind == "DaemonSet" {
            (
                number("/status/updatedNumberScheduled"),
                number("/status/numberReady"),
                number("/status/desiredNumberScheduled"),
            )
        } else {
            (
                number("/status/updatedReplicas"),
                number("/status/readyReplicas"),
                number("/spec/replicas"),
            )
        };
        Self {
            ready: updated.min(ready),
            wanted,
            seen,
        }
    }

    const fn is_there(self) -> bool {
        self.seen && self.ready >= self.wanted
    }
}

/// Waits until all pods of the installation are ready and of this version.
pub(super) async fn wait(
    session: &mut Session,
    cluster: &Cluster,
    objects: &[Object],
    timeout: Duration,
) -> Result<(), Stop> {
    let sets: Vec<_> = objects
        .iter()
        .filter(|it| matches!(it.kind(), "Deployment" | "DaemonSet"))
        .collect();
    let labels: Vec<_> = sets
        .iter()
        .map(|it| (it.to_string(), it.to_string()))
        .collect();
    let mut board = Board::new(&session.screen, &labels);
    let end = Instant::now() + timeout;
    loop {
        let mut waiting = false;
        for set in &sets {
            let now = cluster.api(set).get(set.name()).await?;
            let far = Far::of(set.kind(), &serde_json::to_value(now)?);
            waiting |= !far.is_there();
            let percent = (100 * far.ready).checked_div(far.wanted).unwrap_or(100);
            let step = if far.is_there() { "Ready" } else { "Starting" };
            let detail = format!("{} of {} pods", far.ready, far.wanted);
            let percent = if far.is_there() { 100 } else { percent.min(99) };
            let percent = u32::try_from(percent).unwrap_or(100);
            board.show(
                &mut session.screen,
                &set.to_string(),
                percent,
                step,
                &detail,
            )?;
            if far.is_there() && far.wanted == 0 {
                session
                    .screen
                    .note(format!("{set}: no node is selected, so there is no pod"))?;
            }
        }
        if !waiting {
            board.finish();
            return Ok(());
        }
        if Instant::now() > end {
            board.finish();
            return Err(Stop::FailedFor(obstacles(cluster).await?));
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// What the pods that are not ready say of themselves, and what was last told of them.
async fn obstacles(cluster: &Cluster) -> Result<Vec<Refusal>, Stop> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    let events: Api<Event> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    let (ours, all) = (
        ListParams::default().labels("app.kubernetes.io/name=ringpv"),
        ListParams::default(),
    );
    let (pods, events) = tokio::try_join!(pods.list(&ours), events.list(&all))?;
    let mut refusals = Vec::new();
    for pod in pods {
        let pod = serde_json::to_value(&pod)?;
        let Some(why) = obstacle(&pod) else { continue };
        let name = at(&pod, "/metadata/name").as_str().unwrap_or_default();
        let told = events.iter().filter(|event| {
            event.involved_object.name.as_deref() == Some(name)
                && event.type_.as_deref() == Some("Warning")
        });
        let last = told.max_by_key(|event| event.resource_version());
        let told = last
            .and_then(|event| event.message.clone())
            .unwrap_or_default();
        let detail = if told.is_empty() {
            why
        } else {
            format!("{why}: {told}")
        };
        refusals.push(
            Refusal::new(Reason::TimedOut, format!("pod {name}"))
                .detail(detail)
                .next(format!(
                    "kubectl --namespace {NAMESPACE} describe pod {name}; it goes on without you"
                )),
        );
    }
    if refusals.is_empty() {
        let none = Refusal::new(Reason::TimedOut, "pods").detail("not all are there yet");
        let next = format!("kubectl --namespace {NAMESPACE} get events");
        refusals.push(none.next(next));
    }
    Ok(refusals)
}

/// Why a pod is not ready, in a few words; `None` where it is.
fn obstacle(pod: &Value) -> Option<String> {
    let list = |path: &str| at(pod, path).as_array().cloned().unwrap_or_default();
    let conditions = list("/status/conditions");
    if conditions
        .iter()
        .any(|it| it["type"] == "Ready" && it["status"] == "True")
    {
        return None;
    }
    let statuses = list("/status/containerStatuses");
    for status in &statuses {
        let name = status["name"].as_str().unwrap_or_default();
        for state in [
            "/state/waiting",
            "/state/terminated",
            "/lastState/terminated",
        ] {
            let Some(reason) = at(status, state)["reason"].as_str() else {
                continue;
            };
            if reason != "ContainerCreating" {
                return Some(format!("container {name} is not running ({reason})"));
            }
        }
    }
    let unscheduled = conditions
        .iter()
        .find(|it| it["type"] == "PodScheduled" && it["status"] == "False");
    if let Some(message) = unscheduled.and_then(|it| it["message"].as_str()) {
        return Some(format!("no node takes it: {message}"));
    }
    Some("it is not ready yet".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_set_is_there_when_its_newest_pods_are_ready() {
        let set = |generation: u64, updated: u64, ready: u64| {
            Far::of(
                "Deployment",
                &json!({"metadata": {"generation": 2}, "spec": {"replicas": 2},
                "status": {"observedGeneration": generation, "updatedReplicas": updated, "readyReplicas": ready}}),
            )
        };
        assert!(set(2, 2, 2).is_there());
        for far in [set(1, 2, 2), set(2, 1, 2), set(2, 2, 1)] {
            assert!(!far.is_there(), "{far:?}");
        }
    }

    #[test]
    fn obstacles_are_named() {
        let pod = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}], "containerStatuses": [
            {"name": "agent", "state": {"waiting": {"reason": "ErrImageNeverPull"}}}]}});
        assert_eq!(
            obstacle(&pod).unwrap(),
            "container agent is not running (ErrImageNeverPull)"
        );
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        assert_eq!(obstacle(&ready), None);
    }
}
