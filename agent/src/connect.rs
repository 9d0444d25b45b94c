//! How the API is reached. An agent that was started before on this node mounts and serves what is on disk whether or not
//! there is an API, so it does not wait for one either: where the kubeconfig is missing, as at a boot before the
//! controller has written it, the client answers nobody until it is there; and where it is written anew, as by a controller
//! that lost its directory, the client goes by the new one, once the API that it names has shown to be the same cluster's:
//! nothing that another cluster says is ever taken for the word of this one.

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

use crate::cluster;

/// Between two looks at the kubeconfig.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What a request is answered before there is a kubeconfig.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the kubeconfig is not there yet; is the controller started (--embedded writes it)?")]
struct NotYet;

/// The way to the API.
#[derive(Clone)]
pub struct Connection {
    /// Asks whoever the kubeconfig names now.
    pub client: Client,
    way: watch::Sender<Way>,
}

/// Whom requests go to, and whom alone they may go to.
#[derive(Clone, Default)]
struct Way {
    client: Option<Client>,
    /// The cluster by whose id the agent goes. Before it has one, any cluster may answer.
    cluster: Option<String>,
}

impl Connection {
    /// From now on only the API of this cluster is asked. One that answers for another cluster ends the agent.
    pub fn bind(&self, cluster_id: &str) {
        self.way
            .send_modify(|way| way.cluster = Some(cluster_id.to_owned()));
    }
}

/// Connects to the API. With `patient`, a kubeconfig that is missing is waited for by the client itself: every request
/// fails until it is there, as it would while the API is away.
///
/// # Errors
/// There is no kubeconfig and nobody is patient, or it is none that can be used.
pub async fn connect(
    kubeconfig: Option<&Path>,
    patient: bool,
    stop: &CancellationToken,
) -> anyhow::Result<Connection> {
    let Some(path) = kubeconfig else {
        let config = kube::Config::incluster()
            .context("not in a pod with a service account: give --kubeconfig FILE")?;
        let client = Client::try_from(config).context("cannot make a client of the API")?;
        let (way, _) = watch::channel(Way::default());
        return Ok(Connection { client, way });
    };
    let text = match std::fs::read_to_string(path) {
        Err(error) if patient && error.kind() == ErrorKind::NotFound => {
            tracing::warn!(
                kubeconfig = %path.display(),
                reason = %api::Reason::ApiUnavailable,
                "The kubeconfig is not there; drives are mounted and served from what is on disk, and it is waited for"
            );
            return Ok(following(path, String::new(), None, stop));
        }
        read => read.with_context(|| {
            format!(
                "cannot read the kubeconfig {}; is the controller started (--embedded writes it)?",
                path.display()
            )
        })?,
    };
    let client = named_by(&text, path).await?;
    Ok(following(path, text, Some(client), stop))
}

/// A client of the API that a kubeconfig of this text names.
async fn named_by(text: &str, path: &Path) -> anyhow::Result<Client> {
    let config = async {
        let read = Kubeconfig::from_yaml(text)?;
        kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await
    };
    let config = config
        .await
        .with_context(|| format!("the kubeconfig {} is not usable", path.display()))?;
    Client::try_from(config).context("cannot make a client of the API")
}

/// A client that asks whoever the kubeconfig names at the time.
fn following(
    path: &Path,
    text: String,
    first: Option<Client>,
    stop: &CancellationToken,
) -> Connection {
    let (way, named) = watch::channel(Way {
        client: first,
        cluster: None,
    });
    let following = follow(path.to_owned(), text, way.clone(), stop.clone());
    tokio::spawn(stop.clone().run_until_cancelled_owned(following));
    let through = tower::service_fn(move |request: Request<Body>| {
        let client = named.borrow().client.clone();
        async move {
            match client {
                Some(client) => client.send(request).await.map_err(tower::BoxError::from),
                None => Err(tower::BoxError::from(NotYet)),
            }
        }
    });
    Connection {
        client: Client::new(through, "default"),
        way,
    }
}

/// Makes a new client whenever the kubeconfig says something else than `text`: a controller whose directory was lost has a
/// new certificate and a new token, and answers nobody who shows the old one. It is handed over when the API that it
/// names is that of the agent's cluster; while that cannot be asked, it is tried again. A kubeconfig that is missing or
/// malformed changes nothing; what is wrong with it a person must see to, so it is said as often as it changes.
async fn follow(path: PathBuf, mut text: String, way: watch::Sender<Way>, stop: CancellationToken) {
    let mut refused = String::new();
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        let now = match tokio::fs::read_to_string(&path).await {
            Ok(now) if now != text && now != refused => now,
            Ok(_) | Err(_) => continue,
        };
        let client = match named_by(&now, &path).await {
            Ok(client) => client,
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(error, reason = %api::Reason::ApiUnavailable, "The kubeconfig cannot be used; it is read again");
                refused = now;
                continue;
            }
        };
        let cluster = way.borrow().cluster.clone();
        if let Some(id) = &cluster {
            match cluster::ask(&client).await {
                Ok(asked) if asked == *id => {}
                Ok(asked) => return cluster::end_in_another(id, &asked, &stop),
                Err(_) => continue,
            }
        }
        // The agent may have come by its cluster since it was looked at; then this is asked, too.
        let handed = way.send_if_modified(|way| {
            let same = way.cluster == cluster;
            if same {
                way.client = Some(client);
            }
            same
        });
        if handed {
            tracing::info!(kubeconfig = %path.display(), "The kubeconfig is new; the API is asked as it says");
            text = now;
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

    async fn client(
        kubeconfig: Option<&Path>,
        patient: bool,
        stop: &CancellationToken,
    ) -> anyhow::Result<Client> {
        let connection = connect(kubeconfig, patient, stop).await?;
        Ok(connection.client)
    }

    #[tokio::test]
    async fn a_new_kubeconfig_is_followed_and_a_malformed_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubeconfig");
        std::fs::write(&path, KUBECONFIG).unwrap();
        let stop = CancellationToken::new();
        let connection = connect(Some(&path), false, &stop).await.unwrap();
        let mut way = connection.way.subscribe();
        std::fs::write(&path, "{").unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(!way.has_changed().unwrap());
        std::fs::write(&path, KUBECONFIG.replace(":1'", ":2'")).unwrap();
        tokio::time::timeout(Duration::from_secs(20), way.changed())
            .await
            .expect("it is found by itself")
            .unwrap();
        assert!(way.borrow().client.is_some());
    }

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
