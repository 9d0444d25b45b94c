//! The store as a whole: what is acknowledged is there after a restart, and what is not a whole store of this
//! version is refused, never replaced.

use futures::future::try_join_all;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use std::collections::BTreeSet;
use std::path::Path;

use super::*;

fn open(directory: &Path) -> Embedded {
    Embedded::open(directory, Options::default()).unwrap()
}

fn refused(directory: &Path) -> OpenError {
    Embedded::open(directory, Options::default()).unwrap_err()
}

fn leases(embedded: &Embedded) -> Api<Lease> {
    Api::default_namespaced(embedded.client())
}

fn lease(name: &str) -> Lease {
    Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        spec: None,
    }
}

async fn write(embedded: &Embedded, count: usize) {
    let api = leases(embedded);
    let names: Vec<String> = (0..count).map(|index| format!("lease-{index}")).collect();
    let params = PostParams::default();
    let wanted: Vec<Lease> = names.iter().map(|name| lease(name)).collect();
    try_join_all(wanted.iter().map(|lease| api.create(&params, lease)))
        .await
        .unwrap();
}

async fn names(embedded: &Embedded) -> BTreeSet<String> {
    let list = leases(embedded).list(&ListParams::default()).await.unwrap();
    list.into_iter()
        .filter_map(|lease| lease.metadata.name)
        .collect()
}

#[tokio::test]
async fn what_is_acknowledged_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path());
    write(&first, 50).await;
    let api = leases(&first);
    let patch = serde_json::json!({"spec": {"holderIdentity": "me"}});
    let patched = api
        .patch("lease-7", &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
    api.delete("lease-8", &Default::default()).await.unwrap();
    let cluster_id = first.cluster_id().to_owned();
    first.close();
    drop((api, first));

    let second = open(directory.path());
    assert_eq!(second.cluster_id(), cluster_id);
    let found = names(&second).await;
    assert_eq!(found.len(), 49);
    assert!(!found.contains("lease-8"));
    let again = leases(&second).get("lease-7").await.unwrap();
    assert_eq!(again, patched);
    let created = leases(&second)
        .create(&PostParams::default(), &lease("later"))
        .await
        .unwrap();
    assert!(created.metadata.resource_version > patched.metadata.resource_version);
}

#[tokio::test]
async fn a_closed_store_refuses_writes_and_lets_another_open_it() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path());
    assert!(matches!(
        refused(directory.path()),
        OpenError::StoreLocked { .. }
    ));
    first.close();
    let error = leases(&first)
        .create(&PostParams::default(), &lease("a"))
        .await
        .unwrap_err();
    assert!(matches!(error, kube::Error::Api(status) if status.code == 503));
    open(directory.path());
}

#[test]
fn a_store_of_a_newer_version_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    open(directory.path()).close();
    let database = redb::Database::open(directory.path().join("store.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    let facts = redb::TableDefinition::<&str, u64>::new("facts");
    transaction
        .open_table(facts)
        .unwrap()
        .insert("format", 2)
        .unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = refused(directory.path());
    assert!(
        error.to_string().contains("start the newer version again"),
        "{error}"
    );
}

#[tokio::test]
async fn a_cut_or_overwritten_store_is_refused_or_whole() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path());
    write(&first, 200).await;
    let expected = names(&first).await;
    let path = directory.path().join("store.redb");
    let killed = std::fs::read(&path).unwrap();
    first.close();
    let closed = std::fs::read(&path).unwrap();
    for whole in [killed, closed] {
        survive(directory.path(), &whole, &expected).await;
    }
}

/// Opens damaged copies of a whole store.
async fn survive(directory: &Path, whole: &[u8], expected: &BTreeSet<String>) {
    let path = directory.join("store.redb");
    let length = whole.len();

    let mut damages: Vec<(String, Vec<u8>)> = vec![
        ("empty".to_owned(), Vec::new()),
        ("text".to_owned(), b"no store at all".repeat(1_000)),
        ("zeroes".to_owned(), vec![0; length]),
    ];
    for cut in [
        1,
        100,
        512,
        4_095,
        4_096,
        8_192,
        length / 3,
        length / 2,
        length - 4_096,
        length - 1,
    ] {
        damages.push((format!("cut to {cut}"), whole[..cut].to_vec()));
    }
    for start in (0..length).step_by(length / 24) {
        let mut bytes = whole.to_vec();
        bytes[start..(start + 512).min(length)].fill(0xA5);
        damages.push((format!("overwritten at {start}"), bytes));
    }
    let mut refusals = 0;
    for (damage, bytes) in damages {
        std::fs::write(&path, &bytes).unwrap();
        match Embedded::open(directory, Options::default()) {
            Err(OpenError::StoreDamaged { .. }) => {
                refusals += 1;
                assert_eq!(
                    std::fs::read(&path).unwrap().len(),
                    bytes.len(),
                    "{damage}: touched"
                );
            }
            Err(error) => panic!("{damage}: {error}"),
            // What was overwritten held nothing.
            Ok(embedded) => {
                assert_eq!(&names(&embedded).await, expected, "{damage}");
                embedded.close();
            }
        }
    }
    assert!(refusals > 10, "{refusals}");
}

#[tokio::test]
async fn a_lost_store_begins_empty_with_the_same_cluster_id_and_later_revisions() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path());
    write(&first, 3).await;
    let id = first.cluster_id().to_owned();
    let before = leases(&first).list(&ListParams::default()).await.unwrap();
    first.close();
    std::fs::remove_file(directory.path().join("store.redb")).unwrap();
    let second = open(directory.path());
    assert_eq!(second.cluster_id(), id);
    let after = leases(&second).list(&ListParams::default()).await.unwrap();
    assert!(after.items.is_empty());
    assert!(after.metadata.resource_version > before.metadata.resource_version);
}

#[test]
fn the_cluster_id_outlives_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("cluster-id");
    let first = open(directory.path());
    let id = first.cluster_id().to_owned();
    first.close();
    std::fs::remove_file(&file).unwrap();
    let second = open(directory.path());
    assert_eq!(second.cluster_id(), id);
    second.close();
    std::fs::write(&file, "00000000-0000-0000-0000-000000000000").unwrap();
    assert!(matches!(
        refused(directory.path()),
        OpenError::OtherCluster { .. }
    ));
}

#[tokio::test]
async fn events_are_bounded() {
    use k8s_openapi::api::core::v1::Event;
    let options = Options {
        events_max: 5,
        ..Options::default()
    };
    let embedded = Embedded::in_memory("00000000-0000-0000-0000-000000000000", options).unwrap();
    let api: Api<Event> = Api::namespaced(embedded.client(), "default");
    for index in 0..12 {
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("event-{index}")),
                ..ObjectMeta::default()
            },
            ..Event::default()
        };
        api.create(&PostParams::default(), &event).await.unwrap();
    }
    let kept = api.list(&ListParams::default()).await.unwrap();
    let mut kept: Vec<String> = kept.into_iter().filter_map(|e| e.metadata.name).collect();
    kept.sort();
    assert_eq!(
        kept,
        ["event-10", "event-11", "event-7", "event-8", "event-9"]
    );
}

/// A short history in memory, under a clock and uids that are counted; what was called, and what is left.
async fn history() -> (Vec<Call>, String) {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicI64, Ordering};
    let (ticks, uids) = (AtomicI64::new(1_700_000_000), AtomicI64::new(0));
    let calls = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&calls);
    let options = Options {
        clock: Arc::new(move || {
            Timestamp::from_second(ticks.fetch_add(1, Ordering::Relaxed)).unwrap()
        }),
        uids: Arc::new(move || {
            let count = uids.fetch_add(1, Ordering::Relaxed);
            Uuid::from_u128(u128::try_from(count).unwrap())
        }),
        observer: Some(Arc::new(move |call: &Call| {
            heard.lock().unwrap().push(call.clone());
        })),
        ..Options::default()
    };
    let embedded = Embedded::in_memory("00000000-0000-0000-0000-000000000000", options).unwrap();
    write(&embedded, 3).await;
    leases(&embedded)
        .delete("lease-1", &Default::default())
        .await
        .unwrap();
    let list = leases(&embedded)
        .list(&ListParams::default())
        .await
        .unwrap();
    let calls = calls.lock().unwrap().clone();
    (calls, serde_json::to_string(&list).unwrap())
}

#[tokio::test(start_paused = true)]
async fn in_memory_it_replays_to_the_letter_and_tells_what_was_called() {
    let (calls, left) = history().await;
    let verbs: Vec<&str> = calls.iter().map(|call| call.verb).collect();
    assert_eq!(verbs, ["create", "create", "create", "delete", "list"]);
    let deletion = &calls[3];
    assert_eq!(deletion.group, "coordination.k8s.io");
    assert_eq!(
        (deletion.resource.as_str(), deletion.name.as_str()),
        ("leases", "lease-1")
    );
    assert_eq!(deletion.namespace, api::names::NAMESPACE);
    assert_eq!(history().await, (calls, left));
}
