//! Level pure. The embedded API against what our processes rely on of Kubernetes: in memory, over its socket, and, where
//! RINGPV_CONFORMANCE_KUBECONFIG names a cluster, the same cases against a real kube-apiserver.

#![cfg(test)]

use controller::embedded::{Embedded, Listen, Options};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use std::path::Path;
use std::time::Duration;
use tests::conformance::{cases, kubectl, prepare};

/// Longest time for one case.
const CASE_MAX: Duration = Duration::from_secs(120);

async fn all_cases_hold(client: Client, place: &str) {
    prepare(&client).await.unwrap();
    let mut failed = Vec::new();
    let cases = cases();
    let count = cases.len();
    for (index, case) in cases.into_iter().enumerate() {
        let tag = format!("{}-{index}", std::process::id());
        let result = tokio::time::timeout(CASE_MAX, case.run(client.clone(), &tag)).await;
        match result {
            Ok(Ok(())) => println!("case {place} {} ... ok", case.name),
            Ok(Err(error)) => failed.push(format!("{}: {error:#}", case.name)),
            Err(_) => failed.push(format!("{}: takes too long", case.name)),
        }
    }
    // The test itself counts as one.
    println!(
        "COUNTED: {} passed, 0 failed, 0 skipped",
        count - failed.len() - usize::from(failed.is_empty())
    );
    assert!(failed.is_empty(), "{place}:\n  {}", failed.join("\n  "));
}

async fn connect(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
    Client::try_from(config.unwrap()).unwrap()
}

#[tokio::test]
async fn in_memory() {
    let id = "4f6d0a51-8f5c-4f5e-a7a4-2d1c4a3b9e10";
    let embedded = Embedded::in_memory(id, Options::default()).unwrap();
    all_cases_hold(embedded.client(), "memory").await;
}

#[tokio::test]
async fn over_the_socket() {
    let directory = tempfile::tempdir().unwrap();
    let embedded = Embedded::open(directory.path(), Options::default()).unwrap();
    let server = embedded.serve(&Listen::default()).await.unwrap();
    all_cases_hold(connect(server.kubeconfig()).await, "socket").await;
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
        let error = connect(&path).await.apiserver_version().await.unwrap_err();
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
    assert!(connect(&path).await.apiserver_version().await.is_err());
    let version = connect(server.kubeconfig())
        .await
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
    let client = connect(server.kubeconfig()).await;
    let tag = std::process::id().to_string();
    let result = kubectl::run(client, server.kubeconfig(), &tag, true).await;
    server.stop().await;
    embedded.close();
    result.unwrap();
}

#[tokio::test]
async fn on_a_real_cluster() {
    let Some(kubeconfig) = std::env::var_os("RINGPV_CONFORMANCE_KUBECONFIG") else {
        tests::skip(
            "on_a_real_cluster",
            "RINGPV_CONFORMANCE_KUBECONFIG names no kubeconfig of a cluster",
        );
        return;
    };
    let kubeconfig = Path::new(&kubeconfig);
    let client = connect(kubeconfig).await;
    all_cases_hold(client.clone(), "cluster").await;
    let tag = std::process::id().to_string();
    kubectl::run(client, kubeconfig, &tag, false).await.unwrap();
}
