//! Liveness: one Lease a node, renewed every minute. Nothing else is written by an idle agent.

use std::time::Duration;

use api::names::{LEASE_AGENT_PREFIX, MANAGER_AGENT, NAMESPACE};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// Between two renewals.
const RENEW: Duration = Duration::from_secs(60);
/// After so long without one the node counts as silent.
const DURATION_SECONDS: u32 = 180;
/// After a renewal that failed.
const RETRY: Duration = Duration::from_secs(5);

/// Renews this node's Lease until `stop`.
pub async fn run(client: Client, node: String, clock: fn() -> Timestamp, stop: CancellationToken) {
    let leases: Api<Lease> = Api::namespaced(client, NAMESPACE);
    let name = format!("{LEASE_AGENT_PREFIX}{node}");
    loop {
        let wait = match renew(&leases, &name, &node, clock()).await {
            Ok(()) => RENEW,
            Err(error) => {
                tracing::warn!(lease = name, %error, reason = %api::Reason::ApiUnavailable, "The node's lease could not be renewed; tried again");
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn renew(leases: &Api<Lease>, name: &str, node: &str, now: Timestamp) -> kube::Result<()> {
    // Six digits of the second, as the type wants it.
    let now = format!("{now:.6}");
    let spec = json!({ "spec": {
        "holderIdentity": node,
        "leaseDurationSeconds": DURATION_SECONDS,
        "renewTime": now,
    }});
    let params = PatchParams {
        field_manager: Some(MANAGER_AGENT.to_owned()),
        ..PatchParams::default()
    };
    match leases.patch(name, &params, &Patch::Merge(&spec)).await {
        Err(kube::Error::Api(answer)) if answer.code == 404 => {}
        other => return other.map(|_| ()),
    }
    let lease: Lease = serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": {
            "holderIdentity": node,
            "leaseDurationSeconds": DURATION_SECONDS,
            "acquireTime": now,
            "renewTime": now,
        },
    }))
    .map_err(kube::Error::SerdeError)?;
    let params = PostParams {
        field_manager: Some(MANAGER_AGENT.to_owned()),
        ..PostParams::default()
    };
    leases.create(&params, &lease).await.map(|_| ())
}
