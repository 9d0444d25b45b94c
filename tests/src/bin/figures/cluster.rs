//! A real Kubernetes: what a pod waits for its volume, many claims at once, placing among 10,000 drives, what an idle node
//! asks of the API.
//!
//! ```text
//!  24 loop drives of the native node ──► idle agent, pods one after another, 200 claims at once on 8 of them
//!  10,000 Drives and their nodes that no agent has ──► CreateVolume over the leader's socket, then 50,000 volumes
//! ```

#![expect(
    clippy::indexing_slicing,
    reason = "of JSON: what an object lacks reads as null"
)]

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::{Duration, Instant};

use api::csi::controller_client::ControllerClient;
use api::csi::{CreateVolumeRequest, Topology, TopologyRequirement};
use api::names::NAMESPACE;
use api::testing::{drive, lease, noon};
use api::{Drive, StorageNode, StorageNodeSpec};
use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tests::command::{now, until};
use tests::csi::{Csi, best_effort, create_request};
use tests::kubernetes::NATIVE;
use tests::kubernetes::stage::{CLASS, REST, Stage, claim, container, pod};

use super::{elapsed, line, quantile, resident_mib};

const OWN_DRIVES: usize = 24;
const OWN_BYTES: u64 = 1 << 30;
const IDLE: Duration = Duration::from_secs(300);
const PODS: usize = 20;
const CLAIMS: usize = 200;
const CLAIMED_DRIVES: usize = 8;
const DRIVES: u64 = 10_000;
const DRIVES_OF_A_NODE: u64 = 12;
const VOLUMES: usize = 50_000;
const CALLERS: usize = 16;
const AGENT: &str = "system:serviceaccount:ringpv:ringpv-agent";
const CONTROLLER: &str = "system:serviceaccount:ringpv:ringpv-controller";
const LONG: Duration = Duration::from_secs(900);

/// What can be asked for alone.
pub(super) const PARTS: [&str; 4] = ["idle", "pods", "claims", "drives"];

pub(super) fn is_part(word: &str) -> bool {
    PARTS.contains(&word)
}

/// Those parts, or all.
pub(super) fn print(parts: &[&str]) {
    let stage = Stage::of(OWN_DRIVES, OWN_BYTES, &[]);
    stage.with_drives();
    until("all drives to be ready", LONG, || {
        let ready = |it: &Value| it["status"]["phase"] == "Ready";
        stage.all("rdrive").iter().all(ready).then_some(())
    });
    let run: [fn(&Stage); 4] = [idle, pods, claims, many_drives];
    for (part, run) in PARTS.iter().zip(run) {
        if parts.is_empty() || parts.contains(part) {
            run(&stage);
        }
    }
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// A part of another, as a number.
fn ratio(part: usize, whole: f64) -> f64 {
    f64::from(u32::try_from(part).unwrap_or(u32::MAX)) / whole
}

// ---- the API's own log ----

/// What was asked of the API between two times by one of us, without what keeps a leader a leader.
fn asked(stage: &Stage, who: &str, between: [Timestamp; 2]) -> Vec<Value> {
    let in_time = |event: &Value| {
        let at = event["requestReceivedTimestamp"].as_str();
        let at = at.and_then(|at| at.parse::<Timestamp>().ok());
        at.is_some_and(|at| between[0] <= at && at < between[1])
    };
    let mut events = stage.cluster.audited();
    events.retain(|event| {
        event["user"]["username"] == who
            // A watch is told when it begins, too.
            && event["stage"] == "ResponseComplete"
            && event["objectRef"]["name"] != "ringpv-controller"
            && in_time(event)
    });
    events
}

fn writes(events: &[Value]) -> usize {
    let is_write = |event: &&Value| {
        let verb = event["verb"].as_str().unwrap_or_default();
        ["create", "update", "patch", "delete"].contains(&verb)
    };
    events.iter().filter(is_write).count()
}

fn conflicts(events: &[Value]) -> usize {
    let refused = |event: &&Value| event["responseStatus"]["code"] == 409;
    events.iter().filter(refused).count()
}

fn idle(stage: &Stage) {
    std::thread::sleep(Duration::from_secs(60));
    let begun = Timestamp::now();
    std::thread::sleep(IDLE);
    let asked = asked(stage, AGENT, [begun, Timestamp::now()]);
    let rate = |count| format!("{:.3} /s", ratio(count, IDLE.as_secs_f64()));
    line(
        "idle node of 24 drives: requests of its agent",
        &rate(asked.len()),
        "≤ 0.1 /s",
    );
    line("  of which writes", &rate(writes(&asked)), "≤ 0.04 /s");
}

// ---- our own metrics ----

/// Calls answered, how many of them with another code than Ok, and seconds in all, of every process of ours.
#[derive(Clone, Copy, Default)]
struct Calls {
    count: f64,
    failed: f64,
    seconds: f64,
}

fn calls(stage: &Stage, rpcs: &[&str]) -> Calls {
    let list = ["--namespace=ringpv", "get", "pods", "--output=json"];
    let list: Value = serde_json::from_str(&stage.kubectl(&list)).unwrap_or_default();
    let mut calls = Calls::default();
    for pod in list["items"].as_array().into_iter().flatten() {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let port = pod["metadata"]["annotations"]["prometheus.io/port"].as_str();
        let port = port.unwrap_or_default();
        let path = format!("/api/v1/namespaces/ringpv/pods/{name}:{port}/proxy/metrics");
        for metric in stage.kubectl(&["get", "--raw", &path]).lines() {
            let Some((of, number)) = metric.rsplit_once(' ') else {
                continue;
            };
            if !rpcs
                .iter()
                .any(|rpc| of.contains(&format!("rpc=\"{rpc}\"")))
            {
                continue;
            }
            let number: f64 = number.parse().unwrap_or_default();
            if of.starts_with("ringpv_csi_request_duration_seconds_sum") {
                calls.seconds += number;
            } else if of.starts_with("ringpv_csi_requests_total") {
                calls.count += number;
                if !of.contains("code=\"Ok\"") {
                    calls.failed += number;
                }
            }
        }
    }
    calls
}

// ---- pods ----

fn pods(stage: &Stage) {
    let ours = ["CreateVolume", "NodeStageVolume", "NodePublishVolume"];
    let before = calls(stage, &ours);
    let (mut with, mut without) = (Vec::new(), Vec::new());
    // In turn, so that both meet the same machine.
    for number in 0..PODS {
        let name = format!("plain-{number}");
        without.push(until_runs(stage, &name, &[emptydir(&name)]));
        let name = format!("with-{number}");
        let claimed = claim(&name, CLASS, "64Mi");
        with.push(until_runs(
            stage,
            &name,
            &[claimed, pod(&name, &[&name], REST)],
        ));
    }
    let after = calls(stage, &ours);
    let (with, without) = (quantile(&mut with, 500), quantile(&mut without, 500));
    let goal = without.mul_f64(1.3) + Duration::from_millis(1500);
    line(
        "pod with a claim, created until it runs (p50 of 20)",
        &seconds(with),
        &format!("≤ {}", seconds(goal)),
    );
    line("  the same pod with an emptyDir", &seconds(without), "");
    let each = (after.seconds - before.seconds) / ratio(PODS, 1.0);
    line(
        "  our own calls together, of each",
        &ms(Duration::from_secs_f64(each)),
        "≤ 150 ms",
    );
    stage.clear();
}

fn emptydir(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 1, "volumes": [{"name": "data", "emptyDir": {}}],
            "containers": [container(REST, vec![json!({"name": "data", "mountPath": "/data"})])],
        },
    })
}

/// How long a pod takes until it runs, with what it needs; then it goes.
fn until_runs(stage: &Stage, name: &str, objects: &[Value]) -> Duration {
    let pods: Api<k8s_openapi::api::core::v1::Pod> =
        Api::default_namespaced(stage.cluster.client());
    let begun = now();
    stage.cluster.runtime.block_on(async {
        for object in objects {
            create(stage, object).await;
        }
        loop {
            let phase = pods.get(name).await.ok().and_then(|pod| pod.status?.phase);
            if phase.as_deref() == Some("Running") || elapsed(begun) > LONG {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let time = elapsed(begun);
    stage.delete(&["pod", name]);
    time
}

/// Makes an object of the default namespace.
async fn create(stage: &Stage, object: &Value) {
    use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
    let client = stage.cluster.client();
    let params = PostParams::default();
    let refused = if object["kind"] == "Pod" {
        let pod: Pod = serde_json::from_value(object.clone()).expect("a pod");
        Api::default_namespaced(client)
            .create(&params, &pod)
            .await
            .err()
    } else {
        let claim: PersistentVolumeClaim = serde_json::from_value(object.clone()).expect("a claim");
        Api::default_namespaced(client)
            .create(&params, &claim)
            .await
            .err()
    };
    assert!(refused.is_none(), "{refused:?}");
}

// ---- many claims ----

fn claims(stage: &Stage) {
    for drive in stage.all("rdrive").iter().skip(CLAIMED_DRIVES) {
        let name = drive["metadata"]["name"].as_str().unwrap_or_default();
        stage.cluster.ringpv(&["cordon", name]).ok();
    }
    stage.apply(&json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "here"},
        "provisioner": "ringpv.io", "volumeBindingMode": "Immediate",
        "parameters": {"capacity-enforcement": "best-effort"},
        "allowedTopologies": [{"matchLabelExpressions": [{"key": "ringpv.io/node", "values": [NATIVE]}]}],
    }));
    let before = calls(stage, &["CreateVolume"]);
    let (from, begun) = (Timestamp::now(), now());
    stage.cluster.runtime.block_on(async {
        let made = (0..CLAIMS).map(|number| async move {
            create(stage, &claim(&format!("many-{number}"), "here", "16Mi")).await;
        });
        stream::iter(made)
            .buffer_unordered(CALLERS)
            .collect::<Vec<()>>()
            .await;
    });
    until("all claims to be bound", LONG, || {
        let bound = |it: &Value| it["status"]["phase"] == "Bound";
        stage.all("pvc").iter().all(bound).then_some(())
    });
    let time = elapsed(begun);
    let after = calls(stage, &["CreateVolume"]);
    let asked = asked(stage, CONTROLLER, [from, Timestamp::now()]);
    let volumes = |event: &Value| event["objectRef"]["resource"] == "volumes";
    let of_volumes: Vec<Value> = asked.into_iter().filter(volumes).collect();
    line(
        "200 claims at once on one node of 8 drives: all bound",
        &seconds(time),
        "≤ 30 s",
    );
    let own = (after.seconds - before.seconds) / (after.count - before.count).max(1.0);
    let own = Duration::from_secs_f64(own);
    line("  a CreateVolume of these, in the mean", &ms(own), "");
    // Each in turn would have taken so long of it, so at least the rest is the provisioner's and the API's.
    let upstream = time.saturating_sub(Duration::from_secs_f64(after.seconds - before.seconds));
    line("  at least the upstream's share", &seconds(upstream), "");
    let failed = after.failed - before.failed;
    let again = after.count - before.count - ratio(CLAIMS, 1.0) - failed;
    let seen = format!("{failed} {again} {}", conflicts(&of_volumes));
    line(
        "  calls refused, calls again, conflicts in the API",
        &seen,
        "0 0 0",
    );
    stage.clear();
}

// ---- many drives ----

fn many_drives(stage: &Stage) {
    make_nodes(stage);
    make_drives(stage);
    let socket = Csi::at(&stage.leader_socket());
    let node = |number: u64| format!("far-{number}");

    let from = Timestamp::now();
    let mut alone = volumes(stage, &socket, "alone", 500, 1, |_| None);
    std::thread::sleep(Duration::from_secs(1));
    let asked_then = asked(stage, CONTROLLER, [from, Timestamp::now()]);
    line(
        "CreateVolume among 10,000 drives, one caller: p50",
        &ms(quantile(&mut alone, 500)),
        "",
    );
    line("  p99", &ms(quantile(&mut alone, 990)), "≤ 30 ms");
    let each = format!("{:.2}", ratio(writes(&asked_then), 500.0));
    line("  API writes for each", &each, "1");

    let (from, begun) = (Timestamp::now(), now());
    let mut many = volumes(stage, &socket, "many", 3_000, CALLERS, |_| None);
    rate("16 callers", &mut many, elapsed(begun));
    let begun = now();
    let mut one = volumes(stage, &socket, "one", 2_000, CALLERS, |_| Some(node(3)));
    rate(
        "16 callers, all on one node of 12 drives",
        &mut one,
        elapsed(begun),
    );
    let asked_then = asked(stage, CONTROLLER, [from, Timestamp::now()]);
    line(
        "  conflicts of both",
        &conflicts(&asked_then).to_string(),
        "0",
    );

    let made = alone.len() + many.len() + one.len();
    volumes(
        stage,
        &socket,
        "rest",
        VOLUMES.saturating_sub(made),
        CALLERS,
        |_| None,
    );
    std::thread::sleep(Duration::from_secs(5));
    let resident = leader_pid(stage).map_or(0.0, resident_mib);
    line(
        "controller at 10,000 drives and 50,000 volumes: RSS",
        &format!("{resident:.0} MiB"),
        "≤ 400 MiB",
    );
}

fn rate(what: &str, times: &mut [Duration], all: Duration) {
    let rate = format!("{:.0} /s", ratio(times.len(), all.as_secs_f64()));
    line(&format!("  {what}: rate"), &rate, "≥ 150 /s");
    line(&format!("  {what}: p99"), &ms(quantile(times, 990)), "");
}

/// The nodes of these drives. Nobody renews their Leases, so each lasts a day: else they would fall silent.
fn make_nodes(stage: &Stage) {
    let client = stage.cluster.client();
    let nodes: &Api<StorageNode> = &Api::all(client.clone());
    let leases: &Api<Lease> = &Api::namespaced(client, NAMESPACE);
    let make = |number: u64| async move {
        let (name, params) = (format!("far-{number}"), PostParams::default());
        let mut long = lease(&name, noon());
        long.spec.get_or_insert_default().lease_duration_seconds = Some(86_400);
        let made = leases.create(&params, &long).await;
        made.unwrap_or_else(|error| panic!("{name}: {error}"));
        let node = StorageNode::new(&name, StorageNodeSpec {});
        let made = nodes.create(&params, &node).await;
        made.unwrap_or_else(|error| panic!("{name}: {error}"));
    };
    stage.cluster.runtime.block_on(async {
        stream::iter((0..DRIVES.div_ceil(DRIVES_OF_A_NODE)).map(make))
            .buffer_unordered(32)
            .collect::<Vec<()>>()
            .await;
    });
}

/// Drives as agents of other nodes would have reported them; waits until the leader would place on each.
fn make_drives(stage: &Stage) {
    let drives: &Api<Drive> = &Api::all(stage.cluster.client());
    let make = |number: u64| async move {
        let name = format!("{number:08x}-0000-8000-8000-000000000000");
        let built = drive(&name)
            .on(&format!("far-{}", number / DRIVES_OF_A_NODE))
            .holds(4 << 40)
            .reads(
                (80 + number % 53) * 1_000,
                (240 + number % 53) * 1_000,
                1_000,
                noon(),
            )
            .build();
        let bare = Drive::new(&name, built.spec.clone());
        let made = drives.create(&PostParams::default(), &bare).await;
        made.unwrap_or_else(|error| panic!("{name}: {error}"));
        let status = Patch::Merge(json!({ "status": built.status }));
        let told = drives
            .patch_status(&name, &PatchParams::default(), &status)
            .await;
        told.unwrap_or_else(|error| panic!("{name}: {error}"));
    };
    let begun = now();
    stage.cluster.runtime.block_on(async {
        stream::iter((0..DRIVES).map(make))
            .buffer_unordered(32)
            .collect::<Vec<()>>()
            .await;
    });
    line("(10,000 drives made)", &seconds(elapsed(begun)), "");
    let guarded = |drive: &Drive| {
        drive
            .metadata
            .finalizers
            .as_ref()
            .is_some_and(|all| !all.is_empty())
    };
    until("all drives to be guarded", LONG, || {
        std::thread::sleep(Duration::from_secs(2));
        let list = stage
            .cluster
            .runtime
            .block_on(drives.list(&kube::api::ListParams::default()));
        list.ok()
            .filter(|list| list.items.iter().all(guarded))
            .map(drop)
    });
    line("(and guarded by the leader)", &seconds(elapsed(begun)), "");
}

/// Makes volumes by so many callers at once, each on the node that `place` says; how long each call took.
fn volumes(
    stage: &Stage,
    socket: &Csi,
    name: impl Display,
    count: usize,
    callers: usize,
    place: impl Fn(usize) -> Option<String>,
) -> Vec<Duration> {
    stage.cluster.runtime.block_on(async {
        let channel = socket.channel().await.expect("the leader's socket");
        let calls = (0..count).map(|number| {
            let request = request(&format!("{name}-{number}"), place(number));
            let mut client = ControllerClient::new(channel.clone());
            async move {
                let begun: Instant = now();
                client.create_volume(request).await.expect("a volume");
                elapsed(begun)
            }
        });
        stream::iter(calls)
            .buffer_unordered(callers)
            .collect()
            .await
    })
}

fn request(name: &str, node: Option<String>) -> CreateVolumeRequest {
    let topology = node.map(|node| Topology {
        segments: BTreeMap::from([("ringpv.io/node".to_owned(), node)])
            .into_iter()
            .collect(),
    });
    CreateVolumeRequest {
        accessibility_requirements: topology.map(|one| TopologyRequirement {
            requisite: vec![one.clone()],
            preferred: vec![one],
        }),
        ..create_request(name, 1 << 30, &best_effort())
    }
}

/// The leader's process: the pod's name is the name of its host.
fn leader_pid(stage: &Stage) -> Option<u32> {
    let wanted = format!("HOSTNAME={}", stage.leader());
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| {
        let read = |what: &str| std::fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
        read("comm").starts_with(b"ringpv-controll")
            && read("environ")
                .split(|byte| *byte == 0)
                .any(|one| one == wanted.as_bytes())
    })
}
