//! Liveness: one Lease a node, renewed every minute. Nothing else is written by an idle agent. It belongs to the node's
//! StorageNode, and goes when a person forgets that.

use std::time::Duration;

use api::StorageNode;
use api::names::{LEASE_AGENT_PREFIX, MANAGER_AGENT, NAMESPACE};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Resource as _};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// Between two renewals.
const RENEW: Duration = Duration::from_secs(60);
/// After so long without one the node counts as silent.
const DURATION_SECONDS: u32 = 180;
/// After a renewal that failed.
const RETRY: Duration = Duration::from_secs(5);

/// Renews this node's Lease until `stop`.
pub async fn run(client: Client, node: String, clock: fn() -> Timestamp, stop: CancellationToken) {
    let mut renewal = Renewal {
        leases: Api::namespaced(client.clone(), NAMESPACE),
        nodes: Api::all(client),
        name: format!("{LEASE_AGENT_PREFIX}{node}"),
        node,
        owned: false,
    };
    loop {
        let wait = match renewal.renew(clock()).await {
            Ok(()) => RENEW,
            Err(error) => {
                tracing::warn!(lease = renewal.name, %error, reason = %api::Reason::ApiUnavailable, "The node's lease could not be renewed; tried again");
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
    }
}

struct Renewal {
    leases: Api<Lease>,
    nodes: Api<StorageNode>,
    name: String,
    node: String,
    /// Whether the Lease names its owner already.
    owned: bool,
}

impl Renewal {
    async fn renew(&mut self, now: Timestamp) -> kube::Result<()> {
        let owner = match self.owned {
            true => None,
            false => self.owner().await?,
        };
        let params = PatchParams {
            field_manager: Some(MANAGER_AGENT.to_owned()),
            ..PatchParams::default()
        };
        let renewed = self.body(now, owner.as_ref());
        let patch = Patch::Merge(&renewed);
        match self.leases.patch(&self.name, &params, &patch).await {
            Err(kube::Error::Api(answer)) if answer.code == 404 => {}
            other => {
                self.owned |= other.is_ok() && owner.is_some();
                return other.map(|_| ());
            }
        }
        // It went with its owner, of which there may be another by now.
        self.owned = false;
        let owner = self.owner().await?;
        let mut body = self.body(now, owner.as_ref());
        if let Some(spec) = body.pointer_mut("/spec").and_then(Value::as_object_mut) {
            spec.insert("acquireTime".to_owned(), json!(stamp(now)));
        }
        let lease: Lease = serde_json::from_value(body).map_err(kube::Error::SerdeError)?;
        let params = PostParams {
            field_manager: Some(MANAGER_AGENT.to_owned()),
            ..PostParams::default()
        };
        self.leases.create(&params, &lease).await?;
        self.owned = owner.is_some();
        Ok(())
    }

    /// The node's object, where it is there already.
    async fn owner(&self) -> kube::Result<Option<OwnerReference>> {
        let node = self.nodes.get_opt(&self.node).await?;
        Ok(node.and_then(|node| node.owner_ref(&())))
    }

    fn body(&self, now: Timestamp, owner: Option<&OwnerReference>) -> Value {
        let mut metadata = json!({ "name": self.name });
        if let (Some(owner), Some(metadata)) = (owner, metadata.as_object_mut()) {
            metadata.insert("ownerReferences".to_owned(), json!([owner]));
        }
        json!({
            "metadata": metadata,
            "spec": {
                "holderIdentity": self.node,
                "leaseDurationSeconds": DURATION_SECONDS,
                "renewTime": stamp(now),
            },
        })
    }
}

/// Six digits of the second, as the type wants it.
fn stamp(now: Timestamp) -> String {
    format!("{now:.6}")
}
