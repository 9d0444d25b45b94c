//! Where this node stands, and what lies on it without an object: the two parts of the StorageNode that are not seen on
//! devices. Written on change, and looked at again now and then, for somebody may have deleted the object.

use std::collections::BTreeMap;
use std::time::Duration;

use api::names::{MANAGER_AGENT, TOPOLOGY_NODE};
use api::storage_node::Orphan;
use api::{Reason, StorageNode};
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::timeout;

/// Labels of a Kubernetes node that say where it stands; passed on as they are.
const LABELS: [&str; 2] = [
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
/// How long the API may take where its answer is only an addition.
const ASK_MAX: Duration = Duration::from_secs(3);
/// After this long without a change both parts are looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(300);
/// First and longest pause while the API does not answer, or the StorageNode is not made yet.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The topology segments of a node: its own name, and region and zone where the API knows a Kubernetes node of that
/// name. Without an answer only the name is told.
pub async fn segments(client: &Client, node: &str) -> BTreeMap<String, String> {
    let nodes: Api<Node> = Api::all(client.clone());
    let found = timeout(ASK_MAX, nodes.get_opt(node)).await;
    let labels = found
        .ok()
        .and_then(Result::ok)
        .flatten()
        .and_then(|node| node.metadata.labels);
    let mut segments = labels.unwrap_or_default();
    segments.retain(|key, _| LABELS.contains(&key.as_str()));
    segments.insert(TOPOLOGY_NODE.to_owned(), node.to_owned());
    segments
}

/// Keeps both parts as they are, until the orphans' sender is gone.
pub async fn report(client: Client, node: String, mut orphans: watch::Receiver<Vec<Orphan>>) {
    let nodes: Api<StorageNode> = Api::all(client.clone());
    let mut pause = RETRY.0;
    loop {
        let segments = segments(&client, &node).await;
        let found = orphans.borrow_and_update().clone();
        match write(&nodes, &node, &segments, &found).await {
            Ok(()) => {
                pause = RETRY.0;
                if let Ok(Err(_ended)) = timeout(LOOK_AGAIN, orphans.changed()).await {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(reason = %Reason::ApiUnavailable, %error, "Topology and orphans cannot be written; tried again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY.1);
            }
        }
    }
}

/// Makes both parts be so. Not there yet is an error: whoever sees devices makes the object.
async fn write(
    nodes: &Api<StorageNode>,
    node: &str,
    segments: &BTreeMap<String, String>,
    orphans: &[Orphan],
) -> kube::Result<()> {
    let status = nodes.get_status(node).await?.status.unwrap_or_default();
    if status.topology == *segments && status.orphans == orphans {
        return Ok(());
    }
    // A merge alone would keep segments that the node has no more.
    let mut topology = json!(segments);
    if let Some(map) = topology.as_object_mut() {
        let gone = status
            .topology
            .keys()
            .filter(|key| !segments.contains_key(*key));
        map.extend(gone.map(|key| (key.clone(), serde_json::Value::Null)));
    }
    let patch = json!({ "status": { "topology": topology, "orphans": orphans } });
    let params = PatchParams {
        field_manager: Some(MANAGER_AGENT.to_owned()),
        ..PatchParams::default()
    };
    nodes
        .patch_status(node, &params, &Patch::Merge(&patch))
        .await?;
    Ok(())
}
