//! How the API is reached. An agent that was started before on this node mounts and serves what is on disk whether or not
//! there is an API, so it does not wait for one either: where the kubeconfig is missing, as at a boot before the
//! controller has written it, the client answers nobody until it is there.

use std::io::ErrorKind;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use http::Request;
use kube::Client;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Between two looks for a kubeconfig that is missing.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What a request is answered before there is a kubeconfig.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the kubeconfig is not there yet; is the controller started (--embedded writes it)?")]
struct NotYet;

/// A client of the API. With `patient`, a kubeconfig that is missing is waited for by the client itself: every request
/// fails until it is there, as it would while the API is away.
///
/// # Errors
/// There is no kubeconfig and nobody is patient, or it is none that can be used.
pub async fn client(
    kubeconfig: Option<&Path>,
    patient: bool,
    stop: &CancellationToken,
) -> anyhow::Result<Client> {
    let Some(path) = kubeconfig else {
        let config = kube::Config::incluster()
            .context("not in a pod with a service account: give --kubeconfig FILE")?;
        return made_of(config);
    };
    match path.metadata() {
        Err(error) if patient && error.kind() == ErrorKind::NotFound => {
            tracing::warn!(
                kubeconfig = %path.display(),
                reason = %api::Reason::ApiUnavailable,
                "The kubeconfig is not there; drives are mounted and served from what is on disk, and it is waited for"
            );
            Ok(late(path.to_owned(), stop.clone()))
        }
        _ => from_file(path).await,
    }
}

async fn from_file(path: &Path) -> anyhow::Result<Client> {
    let read = Kubeconfig::read_from(path).with_context(|| {
        format!(
            "cannot read the kubeconfig {}; is the controller started (--embedded writes it)?",
            path.display()
        )
    })?;
    let config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("the kubeconfig {} is not usable", path.display()))?;
    made_of(config)
}

fn made_of(config: kube::Config) -> anyhow::Result<Client> {
    Client::try_from(config).context("cannot make a client of the API")
}

/// A client that is one once the kubeconfig is there.
fn late(path: PathBuf, stop: CancellationToken) -> Client {
    let (found, client) = watch::channel(None::<Client>);
    tokio::spawn(stop.run_until_cancelled_owned(look_for(path, found)));
    let through = tower::service_fn(move |request: Request<Body>| {
        let client = client.borrow().clone();
        async move {
            match client {
                Some(client) => client.send(request).await.map_err(tower::BoxError::from),
                None => Err(tower::BoxError::from(NotYet)),
            }
        }
    });
    Client::new(through, "default")
}

/// Looks until the kubeconfig can be used. A malformed one is an error that a person must see to, and is said as often as
/// it changes; the volumes are served all the same.
async fn look_for(path: PathBuf, found: watch::Sender<Option<Client>>) {
    let mut said = String::new();
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        if path.metadata().is_err() {
            continue;
        }
        match from_file(&path).await {
            Ok(client) => {
                tracing::info!(kubeconfig = %path.display(), "The kubeconfig is there");
                found.send_replace(Some(client));
                return;
            }
            Err(error) => {
                let error = format!("{error:#}");
                if error != said {
                    tracing::error!(error, reason = %api::Reason::ApiUnavailable, "The kubeconfig cannot be used; it is read again");
                }
                said = error;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Namespace;
    use kube::api::Api;

    const KUBECONFIG: &str = "apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]
users: [{name: u, user: {}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
";

    #[tokio::test]
    async fn a_missing_kubeconfig_is_waited_for_by_the_patient_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubeconfig");
        let stop = CancellationToken::new();
        let refused = client(Some(&path), false, &stop).await.err().unwrap();
        assert!(format!("{refused:#}").contains("is the controller started"));

        let patient = client(Some(&path), true, &stop).await.unwrap();
        let namespaces: Api<Namespace> = Api::all(patient);
        let ask = async || format!("{:?}", namespaces.get("x").await.unwrap_err());
        assert!(ask().await.contains("NotYet"), "{}", ask().await);
        std::fs::write(&path, KUBECONFIG).unwrap();
        let connects = async {
            while ask().await.contains("NotYet") {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), connects)
            .await
            .expect("it is found by itself");
    }

    #[tokio::test]
    async fn a_malformed_kubeconfig_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubeconfig");
        std::fs::write(&path, "{").unwrap();
        let stop = CancellationToken::new();
        for patient in [false, true] {
            assert!(client(Some(&path), patient, &stop).await.is_err());
        }
    }
}
