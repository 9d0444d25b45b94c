//! Which cluster this is: the UID of the namespace kube-system, remembered in the state directory so that drives are
//! mounted while the API is away.

use std::path::{Path, PathBuf};
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

/// The cluster id that is remembered from before.
#[must_use]
pub fn remembered(state_dir: &Path) -> Option<String> {
    let text = std::fs::read_to_string(file(state_dir)).ok()?;
    let id = text.trim();
    (!id.is_empty()).then(|| id.to_owned())
}

fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("cluster-id")
}

/// The cluster id; `None` when asked to stop before it is known.
pub async fn id(
    client: &Client,
    state_dir: &Path,
    stop: &CancellationToken,
) -> anyhow::Result<Option<String>> {
    let path = file(state_dir);
    let remembered = remembered(state_dir);
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
            (Err(error), Some(old)) => {
                tracing::warn!(error = format!("{error:#}"), reason = %api::Reason::ApiUnavailable, "The API does not answer; drives are mounted from what is on disk");
                return Ok(Some(old.clone()));
            }
            (Err(error), None) => {
                tracing::warn!(error = format!("{error:#}"), reason = %api::Reason::ApiUnavailable, "The API does not answer, and the cluster's id is not known from before; waiting for it");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(ASK_AGAIN) => {}
            () = stop.cancelled() => return Ok(None),
        }
    }
}

/// Asks until the API answers. Whether it is that of the cluster whose drives were mounted; if not, the agent ends: started
/// again, it mounts no drive of the old cluster and writes the old id on no drive of the new one.
pub async fn confirm(client: &Client, id: &str, stop: &CancellationToken) -> bool {
    let asked = async {
        loop {
            match ask(client).await {
                Ok(now) => return now,
                Err(_) => tokio::time::sleep(ASK_AGAIN).await,
            }
        }
    };
    let Some(now) = stop.run_until_cancelled(asked).await else {
        return false;
    };
    if now != id {
        end_in_another(id, &now, stop);
    }
    now == id
}

/// Ends the agent: the API is that of the cluster `new`, and the drives are those of `old`.
pub(crate) fn end_in_another(old: &str, new: &str, stop: &CancellationToken) {
    tracing::error!(old, new, reason = %api::Reason::ForeignCluster, "The API that answers now is another cluster's; the agent ends, to start again in that one");
    stop.cancel();
}

/// The id of the cluster whose API this is.
pub(crate) async fn ask(client: &Client) -> anyhow::Result<String> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = tokio::time::timeout(ASK_MAX, namespaces.get("kube-system"))
        .await
        .context("no answer in time")??;
    namespace
        .uid()
        .context("the namespace kube-system has no uid")
}
