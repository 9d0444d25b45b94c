//! Level pure. The embedded API against what our processes rely on of Kubernetes: in memory and over its socket. The
//! level cluster holds a real kube-apiserver against the same cases.

#![cfg(test)]

use agent::objects::{Version, WriteError, patch_status};
use api::Volume;
use controller::embedded::{Embedded, Listen, Options};
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::json;
use tests::conformance::{connect, hold, kubectl, prepare};

#[tokio::test]
async fn in_memory() {
    let id = "4f6d0a51-8f5c-4f5e-a7a4-2d1c4a3b9e10";
    let embedded = Embedded::in_memory(id, Options::default()).unwrap();
    hold(embedded.client(), "memory").await.unwrap();
}

#[tokio::test]
async fn over_the_socket() {
    let directory = tempfile::tempdir().unwrap();
    let embedded = Embedded::open(directory.path(), Options::default()).unwrap();
    let server = embedded.serve(&Listen::default()).await.unwrap();
    let client = connect(server.kubeconfig()).await.unwrap();
    hold(client, "socket").await.unwrap();
    server.stop().await;
    embedded.close();
}

#[tokio::test]
async fn strangers_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let embedded = Embedded::open(directory.path(), Options::default()).unwrap();
    let server = embedded.serve(&Listen::default()).await.unwrap();
    let kubeconfig = std::fs::read_to_string(server.kubeconfig()).unwrap();
    let token = std::fs::read_to_string(directory.path().join("token")).unwrap();
    for wrong in [
        String::new(),
        token.replace(|c: char| c.is_ascii_digit(), "a"),
    ] {
        let altered = kubeconfig.replace(token.trim(), wrong.trim());
        let path = directory.path().join("altered");
        std::fs::write(&path, altered).unwrap();
        let error = connect(&path)
            .await
            .unwrap()
            .apiserver_version()
            .await
            .unwrap_err();
        assert!(
            matches!(&error, kube::Error::Api(status) if status.code == 401),
            "{error:?}"
        );
    }
    // Who does not know our authority does not talk to us either.
    let authority = kubeconfig
        .lines()
        .find(|line| line.contains("certificate-authority"))
        .unwrap();
    let path = directory.path().join("altered");
    std::fs::write(&path, kubeconfig.replace(authority, "")).unwrap();
    assert!(
        connect(&path)
            .await
            .unwrap()
            .apiserver_version()
            .await
            .is_err()
    );
    let version = connect(server.kubeconfig())
        .await
        .unwrap()
        .apiserver_version()
        .await
        .unwrap();
    assert_eq!(version.major, "1");
}

#[tokio::test]
async fn kubectl_is_content() {
    if let Some(why) = kubectl::refusal() {
        return tests::skip("kubectl_is_content", &why);
    }
    let directory = tempfile::tempdir().unwrap();
    let embedded = Embedded::open(directory.path(), Options::default()).unwrap();
    let server = embedded.serve(&Listen::default()).await.unwrap();
    let client = connect(server.kubeconfig()).await.unwrap();
    let tag = std::process::id().to_string();
    let kubectl = kubectl::kubectl().unwrap();
    let result = kubectl::run(client, &kubectl, server.kubeconfig(), &tag, true).await;
    server.stop().await;
    embedded.close();
    result.unwrap();
}

/// The agent's status of a Volume reaches that very one: others may write to it meanwhile, but another object of its name
/// gets nothing of it.
#[tokio::test]
async fn a_status_reaches_the_object_it_is_of() {
    let id = "4f6d0a51-8f5c-4f5e-a7a4-2d1c4a3b9e10";
    let embedded = Embedded::in_memory(id, Options::default()).unwrap();
    let client = embedded.client();
    prepare(&client).await.unwrap();
    let volumes = Api::<Volume>::all(client);
    let wanted: Volume = serde_json::from_value(json!({
        "apiVersion": "ringpv.io/v1alpha1", "kind": "Volume", "metadata": {"name": "v"},
        "spec": {"csiName": "v", "node": "node-1", "capacityBytes": 1024},
    }))
    .unwrap();
    let params = PostParams::default();
    let first = volumes.create(&params, &wanted).await.unwrap();
    let version = Version::of(&first);
    let phase = |phase: &str| json!({"status": {"phase": phase}});
    for word in ["Ready", "Staged"] {
        let written = patch_status(&volumes, "v", &version, &phase(word)).await;
        let status = written.unwrap().status.unwrap();
        assert_eq!(serde_json::to_value(status.phase).unwrap(), word);
    }
    let delete = DeleteParams::default();
    volumes.delete("v", &delete).await.unwrap();
    let gone = patch_status(&volumes, "v", &version, &phase("Lost")).await;
    assert!(matches!(gone, Err(WriteError::Gone(_))), "{gone:?}");
    volumes.create(&params, &wanted).await.unwrap();
    let other = patch_status(&volumes, "v", &version, &phase("Lost")).await;
    assert!(matches!(other, Err(WriteError::Replaced(_))), "{other:?}");
    assert_eq!(volumes.get("v").await.unwrap().status, None);
}
