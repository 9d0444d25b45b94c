use std::collections::BTreeMap;
use std::sync::Mutex;

use api::drive::Transport;
use http::{Method, Request, Response, StatusCode};
use kube::client::Body;

use super::*;
use crate::probe::{DeviceFacts, DeviceKind, Media, Policy, judge_all};
use block::Timing;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn facts() -> NodeFacts {
    NodeFacts {
        node: "n1".to_owned(),
        cluster_id: "c".to_owned(),
        io_backend: IoBackend::default(),
        kernel: "6.1.0".to_owned(),
        project_quota: true,
    }
}

fn device(name: &str) -> DeviceFacts {
    DeviceFacts {
        name: name.to_owned(),
        path: format!("/dev/{name}").into(),
        major_minor: "8:0".to_owned(),
        diskseq: 1,
        kind: DeviceKind::Disk,
        size_bytes: 1 << 40,
        logical_block_bytes: 512,
        physical_block_bytes: 512,
        read_only: name == "sdc",
        removable: false,
        hidden: false,
        zoned: false,
        rotational: false,
        numa_node: None,
        transport: Transport::Sata,
        model: String::new(),
        serial: name.to_owned(),
        wwid: String::new(),
        firmware: String::new(),
        place: String::new(),
        partition: None,
        partitions: Vec::new(),
        holders: Vec::new(),
        loops: Vec::new(),
        slaves: Vec::new(),
        backing: None,
        mounts: Vec::new(),
        swap: false,
        media: Media::Read {
            found: Vec::new(),
            claim: Ok(None),
        },
    }
}

fn snapshot(names: &[&str]) -> Snapshot {
    let policy = Policy {
        node: "n1".to_owned(),
        cluster_id: "c".to_owned(),
        drive_bytes_min: 1,
        allow_loop: false,
        mount_root: "/m".into(),
    };
    let facts = names
        .iter()
        .map(|name| ((*name).to_owned(), device(name)))
        .collect();
    let devices = judge_all(&facts, &Default::default(), &policy)
        .into_iter()
        .map(|(name, seen)| (name, Arc::new(seen)))
        .collect();
    Snapshot {
        generation: 1,
        complete: true,
        sees_host_mounts: true,
        devices,
        left_out: Default::default(),
    }
}

#[test]
fn the_status_counts_and_is_in_order() {
    let status = status(&facts(), &snapshot(&["sdc", "sda", "sdb"]), &[], NOW);
    let names: Vec<&str> = status.devices.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["sda", "sdb", "sdc"]);
    assert_eq!((status.eligible, status.drives), (2, 0));
    assert_eq!(status.conditions[0].status, ConditionStatus::True);
    let mut pending = snapshot(&["sda"]);
    pending.complete = false;
    let later = super::status(&facts(), &pending, &status.conditions, NOW);
    assert_eq!(later.conditions[0].status, ConditionStatus::False);
    assert_eq!(later.conditions.len(), 1);
}

/// Threads are faster by far.
const FASTER: Timing = Timing {
    depth: 1,
    ring_ns: 40_000,
    threads_ns: 800,
};

#[test]
fn a_device_with_an_engine_of_its_own_says_so() {
    let mut facts = facts();
    facts.io_backend.name = IoBackendName::Uring;
    let snapshot = snapshot(&["sda", "sdb"]);
    let threads = Backend::Threads {
        why: WhyThreads::Faster(FASTER),
    };
    let shown = |diskseq, engines: &[(u32, Backend)]| {
        let key = DeviceKey {
            major_minor: "8:0".to_owned(),
            diskseq,
        };
        let fitted = Fitted::from([(key, engines.iter().copied().collect())]);
        let mut status = status(&facts, &snapshot, &[], NOW);
        add_fitted(&mut status, &snapshot, &fitted);
        status.devices[0].io_backend.clone()
    };
    let backend = shown(1, &[(1, threads), (32, threads)]).unwrap();
    let said = (backend.name, backend.reason);
    assert_eq!(said, (IoBackendName::Threads, Reason::ThreadsFaster));
    assert!(backend.message.contains("40.0 µs"), "{}", backend.message);
    assert_eq!(
        shown(2, &[(1, threads)]),
        None,
        "another device had its number"
    );
    assert_eq!(shown(1, &[]), None);
}

#[test]
fn every_reason_for_threads_has_its_word() {
    let threads = |why| io_backend(&Backend::Threads { why });
    let cases = [
        (WhyThreads::Asked, Reason::ThreadsChosen),
        (WhyThreads::Sysctl { value: 2 }, Reason::UringDisabled),
        (WhyThreads::Seccomp, Reason::UringRefused),
        (WhyThreads::Missing, Reason::UringUnsupported),
        (WhyThreads::LockedMemory, Reason::UringNoMemory),
        (WhyThreads::Ended, Reason::UringEnded),
        (WhyThreads::Faster(FASTER), Reason::ThreadsFaster),
    ];
    for (why, reason) in cases {
        let said = threads(why);
        assert_eq!((said.name, said.reason), (IoBackendName::Threads, reason));
        assert!(!said.message.is_empty());
    }
}

/// An API server with room for StorageNodes, which remembers what was asked of it.
#[derive(Default)]
struct Server {
    objects: BTreeMap<String, Value>,
    asked: Vec<String>,
    down: bool,
}

impl Server {
    fn answer(&mut self, method: &Method, path: &str, body: &[u8]) -> (StatusCode, Value) {
        let name = path
            .trim_start_matches("/apis/ringpv.io/v1alpha1/storagenodes")
            .trim_matches('/')
            .trim_end_matches("/status")
            .to_owned();
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        self.asked.push(format!("{method} {path}"));
        let problem = |code: u16, reason: &str| {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason, "reason": reason, "code": code});
            (StatusCode::from_u16(code).unwrap(), status)
        };
        if self.down {
            return problem(503, "ServiceUnavailable");
        }
        if method == Method::POST {
            let name = body["metadata"]["name"].as_str().unwrap().to_owned();
            self.objects.insert(name, body.clone());
            return (StatusCode::CREATED, body);
        }
        let Some(object) = self.objects.get_mut(&name) else {
            return problem(404, "NotFound");
        };
        if method == Method::PATCH {
            for (key, value) in body["status"].as_object().unwrap() {
                object["status"][key] = value.clone();
            }
        }
        (StatusCode::OK, object.clone())
    }
}

fn client(server: &Arc<Mutex<Server>>) -> kube::Client {
    let server = Arc::clone(server);
    let service = tower::service_fn(move |request: Request<Body>| {
        let server = Arc::clone(&server);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect_bytes().await.unwrap();
            let mut server = server.lock().unwrap();
            let (code, answer) = server.answer(&head.method, head.uri.path(), &body);
            let body = Body::from(serde_json::to_vec(&answer).unwrap());
            let response = Response::builder().status(code).body(body).unwrap();
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    kube::Client::new(service, "default")
}

#[tokio::test(start_paused = true)]
async fn the_object_is_made_and_then_written_on_change_alone() {
    let server = Arc::new(Mutex::new(Server::default()));
    let (publish, pictures) = watch::channel(Arc::new(snapshot(&["sda"])));
    let (end, ring_ended) = watch::channel(false);
    let task = tokio::spawn(report(
        client(&server),
        facts(),
        (pictures, watch::channel(Fitted::new()).1),
        ring_ended,
        Registry::default(),
    ));
    let settle = async || sleep(Duration::from_secs(10)).await;
    settle().await;
    const OBJECT: &str = "/apis/ringpv.io/v1alpha1/storagenodes/n1";
    let get = format!("GET {OBJECT}");
    let patch = format!("PATCH {OBJECT}/status");
    let taken = |server: &Arc<Mutex<Server>>| std::mem::take(&mut server.lock().unwrap().asked);
    let made = "POST /apis/ringpv.io/v1alpha1/storagenodes".to_owned();
    assert_eq!(taken(&server), [get.clone(), made.clone(), patch.clone()]);
    // Somebody else's fields are left alone, the same picture is not written again.
    server.lock().unwrap().objects.get_mut("n1").unwrap()["status"]["topology"] =
        json!({"zone": "z"});
    publish.send(Arc::new(snapshot(&["sda"]))).unwrap();
    settle().await;
    assert_eq!(taken(&server), std::slice::from_ref(&get));
    publish.send(Arc::new(snapshot(&["sda", "sdb"]))).unwrap();
    settle().await;
    assert_eq!(taken(&server), [get.clone(), patch.clone()]);
    let object = server.lock().unwrap().objects["n1"].clone();
    assert_eq!(object["status"]["eligible"], 2);
    assert_eq!(object["status"]["topology"]["zone"], "z");
    // Devices are read by threads from now on.
    end.send(true).unwrap();
    settle().await;
    assert_eq!(taken(&server), [get.clone(), patch.clone()]);
    let object = server.lock().unwrap().objects["n1"].clone();
    assert_eq!(object["status"]["ioBackend"]["reason"], "UringEnded");
    // A server that is away is asked again, ever more slowly; a deleted object comes back.
    server.lock().unwrap().down = true;
    publish.send(Arc::new(snapshot(&["sda"]))).unwrap();
    sleep(Duration::from_secs(100)).await;
    assert!((5..=8).contains(&taken(&server).len()));
    {
        let mut server = server.lock().unwrap();
        server.down = false;
        server.objects.clear();
    }
    sleep(Duration::from_secs(70)).await;
    assert_eq!(taken(&server), [get, made, patch]);
    drop(publish);
    task.await.unwrap();
}
