//! Level pure. `kill -9` in the midst of writes to the embedded API's store: what was acknowledged is there, and nothing is
//! there in part.
//!
//! The process that is killed is this test's own program, run again with a directory to write to.

#![cfg(test)]

use controller::embedded::{Embedded, Options};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::api::{Api, ListParams, ObjectMeta, PostParams};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

/// Names the directory to the process that is to be killed.
const DIRECTORY: &str = "RINGPV_CRASH_DIRECTORY";
/// Writers at one time.
const WRITERS: usize = 16;
/// How many acknowledgements each life lasts.
const LIVES: [usize; 6] = [1, 17, 120, 250, 400, 33];

fn leases(embedded: &Embedded) -> Api<Lease> {
    Api::namespaced(embedded.client(), "default")
}

/// Writes until it is killed; says of each write that it was acknowledged.
async fn write_without_end(directory: &Path) {
    let embedded = Embedded::open(directory, Options::default()).unwrap();
    let api = leases(&embedded);
    let life = uid();
    let writers = (0..WRITERS).map(|writer| {
        let (api, life) = (api.clone(), life.clone());
        tokio::spawn(async move {
            for index in 0.. {
                let lease = Lease {
                    metadata: ObjectMeta {
                        name: Some(format!("{life}-{writer}-{index}")),
                        ..ObjectMeta::default()
                    },
                    spec: Some(LeaseSpec {
                        holder_identity: Some("x".repeat(500)),
                        ..LeaseSpec::default()
                    }),
                };
                let created = api.create(&PostParams::default(), &lease).await.unwrap();
                let meta = created.metadata;
                let (name, revision) = (meta.name.unwrap(), meta.resource_version.unwrap());
                let mut out = std::io::stdout().lock();
                writeln!(out, "acknowledged {name} {revision}").unwrap();
            }
        })
    });
    futures::future::join_all(writers).await;
}

/// A word that no other life has.
fn uid() -> String {
    format!("life-{}", std::process::id())
}

/// Lets a child live for so many acknowledgements, kills it, and gives back all that it said.
#[expect(
    clippy::disallowed_methods,
    reason = "the process to be killed is this program itself"
)]
fn live(directory: &Path, acknowledgements: usize) -> Vec<(String, String)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "what_was_acknowledged_survives_kill_9",
            "--nocapture",
        ])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut heard = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let mut words = line.split(' ');
        if let (Some("acknowledged"), Some(name), Some(revision)) =
            (words.next(), words.next(), words.next())
        {
            heard.push((name.to_owned(), revision.to_owned()));
        }
        if heard.len() == acknowledgements {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    heard
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kill_9() {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        return write_without_end(Path::new(&directory)).await;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeMap::new();
    for acknowledgements in LIVES {
        let heard = live(directory.path(), acknowledgements);
        assert!(heard.len() >= acknowledgements, "{}", heard.len());
        acknowledged.extend(heard);
        let embedded = Embedded::open(directory.path(), Options::default()).unwrap();
        let list = leases(&embedded)
            .list(&ListParams::default())
            .await
            .unwrap();
        let found: BTreeMap<String, Lease> = list
            .into_iter()
            .map(|lease| (lease.metadata.name.clone().unwrap(), lease))
            .collect();
        for (name, revision) in &acknowledged {
            let lease = found.get(name).unwrap_or_else(|| panic!("{name} is lost"));
            assert_eq!(lease.metadata.resource_version.as_ref(), Some(revision));
        }
        for lease in found.values() {
            let holder = lease
                .spec
                .as_ref()
                .and_then(|spec| spec.holder_identity.as_ref());
            assert_eq!(holder.map(String::len), Some(500));
        }
        embedded.close();
    }
    println!(
        "{} acknowledged writes over {} kills",
        acknowledged.len(),
        LIVES.len()
    );
}
