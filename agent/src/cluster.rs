//! Which cluster this is: the UID of the namespace kube-system, remembered in the state directory so that drives are
//! mounted while the API is away.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::Api;
use kube::{Client, ResourceExt as _};
use tokio_util::sync::CancellationToken;

/// How long the API is waited for when the id is known from before.
const ASK_MAX: Duration = Duration::from_secs(3);
/// Between two tries when it is not.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// The cluster id; `None` when asked to stop before it is known.
pub async fn id(
    client: &Client,
    state_dir: &Path,
    stop: &CancellationToken,
) -> anyhow::Result<Option<String>> {
    let path = state_dir.join("cluster-id");
    let remembered = std::fs::read_to_string(&path)
        .map(|text| text.trim().to_owned())
        .ok();
    loop {
        match (ask(client).await, &remembered) {
            (Ok(id), Some(old)) if id == *old => return Ok(Some(id)),
            (Ok(id), old) => {
                if let Some(old) = old {
                    tracing::warn!(
                        old,
                        new = id,
                        "The node is in another cluster than before; drives of the old one are not mounted"
                    );
                }
                std::fs::write(&path, format!("{id}\n"))
                    .with_context(|| format!("cannot write {}", path.display()))?;
                return Ok(Some(id));
            }
            (Err(error), Some(old)) if !old.is_empty() => {
                tracing::warn!(error = format!("{error:#}"), reason = %api::Reason::ApiUnavailable, "The API does not answer; drives are mounted from what is on disk");
                return Ok(Some(old.clone()));
            }
            (Err(error), _) => {
                tracing::warn!(error = format!("{error:#}"), reason = %api::Reason::ApiUnavailable, "The API does not answer, and the cluster's id is not known from before; waiting for it");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(ASK_AGAIN) => {}
            () = stop.cancelled() => return Ok(None),
        }
    }
}

async fn ask(client: &Client) -> anyhow::Result<String> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = tokio::time::timeout(ASK_MAX, namespaces.get("kube-system"))
        .await
        .context("no answer in time")??;
    namespace
        .uid()
        .context("the namespace kube-system has no uid")
}
