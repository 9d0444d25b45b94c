//! Level pure. What `kubectl ringpv` prints, as transcripts: each file under `tests/cli` is a conversation, command and
//! output, held against the real program over the embedded API in memory. `UPDATE=1` writes them anew; read the
//! difference as a newcomer would.

#![cfg(test)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use api::condition::{Condition, ConditionStatus, ConditionType};
use api::drive::{DriveCapacity, DriveDevice, DriveLatency, HealthState, Transport};
use api::storage_node::{DeviceReason, DeviceVerdict, HeldDrive, Signature};
use api::volume::{Placement, Refusals, Scored};
use api::{
    AccessTier, Benchmark, Device, Drive, DrivePhase, DriveStatus, Fingerprint, LatencySummary,
    Reason, StorageNode, StorageNodeSpec, StorageNodeStatus, Volume, VolumePhase, VolumeStatus,
};
use controller::embedded::{Embedded, Options};
use futures::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};

/// The time at which all of it happens.
fn now() -> Timestamp {
    "2025-01-02T03:04:05Z".parse().unwrap()
}

/// Output that is kept.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn drive_id(number: u32) -> String {
    format!("{number:08x}-0000-8000-8000-00000000000a")
}

/// An empty NVMe device.
fn device(number: u32, name: &str) -> Device {
    Device {
        name: name.to_owned(),
        major_minor: format!("259:{number}"),
        fingerprint: Fingerprint {
            identity: format!("{number:016x}"),
            content: "blank".to_owned(),
        },
        drive_id: Some(drive_id(number)),
        holds_drive: None,
        verdict: DeviceVerdict::Eligible,
        reasons: Vec::new(),
        proposed_tier: AccessTier::Hot,
        size_bytes: 4 << 40,
        logical_block_bytes: 512,
        physical_block_bytes: 4096,
        model: "Fast 9000".to_owned(),
        serial: format!("S{number}"),
        wwid: format!("eui.{number:016x}"),
        firmware: "1.0".to_owned(),
        transport: Transport::Nvme,
        rotational: false,
        numa_node: None,
        io_backend: None,
        signatures: Vec::new(),
    }
}

fn reason(reason: Reason, message: &str) -> DeviceReason {
    DeviceReason {
        reason,
        message: message.to_owned(),
    }
}

/// The devices of a node: empty ones, one with data, a mounted one, one with an earlier drive, one of another cluster.
fn devices() -> Vec<Device> {
    let mut data = device(0x33, "nvme3n1");
    data.fingerprint.content = "feedfeedfeedfeed".to_owned();
    data.signatures = vec![Signature {
        kind: "ext4".to_owned(),
        offset: 1080,
        detail: "photos".to_owned(),
    }];
    data.reasons = vec![reason(Reason::HoldsData, "ext4 \"photos\"")];
    let mut root = device(0x44, "sda");
    root.drive_id = None;
    root.verdict = DeviceVerdict::Denied;
    root.transport = Transport::Sata;
    root.proposed_tier = AccessTier::Warm;
    root.size_bytes = 256 << 30;
    root.reasons = vec![
        reason(Reason::Partitioned, "sda1, sda2"),
        reason(Reason::Mounted, "at /"),
    ];
    let held = |number: u32, name: &str, cluster: &str, why: Reason| {
        let mut held = device(number, name);
        held.verdict = DeviceVerdict::Denied;
        held.holds_drive = Some(HeldDrive {
            id: drive_id(number),
            cluster_id: cluster.to_owned(),
            volumes: 2,
            access_tier: None,
            labels: BTreeMap::new(),
        });
        held.reasons = vec![reason(why, "")];
        held
    };
    vec![
        device(0x11, "nvme1n1"),
        device(0x22, "nvme2n1"),
        data,
        held(0x55, "nvme5n1", "ours", Reason::Adoptable),
        held(0x66, "nvme6n1", "0000beef", Reason::ForeignCluster),
        device(0xaa, "nvme10n1"),
        root,
    ]
}

/// A world to talk to.
struct World {
    client: Client,
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let numbers = Arc::new(std::sync::atomic::AtomicU64::new(1));
        let uids = move || {
            let number = numbers.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            format!("00000000-0000-4000-8000-{number:012x}")
                .parse()
                .unwrap()
        };
        let options = Options {
            clock: Arc::new(now),
            uids: Arc::new(uids),
            ..Options::default()
        };
        let embedded =
            Embedded::in_memory("5a5a5a5a-0000-4000-8000-000000000000", options).unwrap();
        Self {
            client: embedded.client(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn all<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope>,
    {
        Api::all(self.client.clone())
    }

    async fn status<K>(&self, name: &str, status: impl serde::Serialize)
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        let patch = Patch::Merge(json!({"status": status}));
        self.all::<K>()
            .patch_status(name, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    async fn node(&self, name: &str, devices: Vec<Device>) {
        let node = StorageNode::new(name, StorageNodeSpec {});
        self.all()
            .create(&PostParams::default(), &node)
            .await
            .unwrap();
        let eligible = devices
            .iter()
            .filter(|d| d.verdict == DeviceVerdict::Eligible)
            .count();
        let status = StorageNodeStatus {
            version: "0.1.0".to_owned(),
            kernel: "6.1.0".to_owned(),
            cluster_id: "ours".to_owned(),
            project_quota: name == "node-1",
            eligible: u32::try_from(eligible).unwrap(),
            devices,
            conditions: vec![Condition {
                type_: ConditionType::Ready,
                status: ConditionStatus::True,
                reason: Reason::Ready,
                message: String::new(),
                last_transition_time: now(),
            }],
            silent_since: (name != "node-1").then(|| now() - SignedDuration::from_mins(42)),
            ..StorageNodeStatus::default()
        };
        self.status::<StorageNode>(name, status).await;
    }

    async fn drive(
        &self,
        number: u32,
        node: &str,
        name: &str,
        tier: AccessTier,
        status: DriveStatus,
    ) {
        let device = device(number, name);
        let spec = json!({
            "node": node,
            "device": {"fingerprint": device.fingerprint, "name": name, "sizeBytes": device.size_bytes},
            "accessTier": tier,
        });
        let drive = Drive::new(&drive_id(number), serde_json::from_value(spec).unwrap());
        self.all()
            .create(&PostParams::default(), &drive)
            .await
            .unwrap();
        let status = DriveStatus {
            device: Some(DriveDevice {
                name: name.to_owned(),
                identity: device.fingerprint.identity,
                model: device.model,
                serial: device.serial,
                firmware: device.firmware,
                transport: Some(device.transport),
                rotational: false,
            }),
            ..status
        };
        self.status::<Drive>(&drive_id(number), status).await;
    }

    async fn volume(
        &self,
        name: &str,
        number: u32,
        capacity_bytes: u64,
        placement: Option<Placement>,
    ) {
        let spec = json!({
            "csiName": name,
            "node": "node-1",
            "drive": drive_id(number),
            "capacityBytes": capacity_bytes,
            "placement": placement,
            "parameters": {"access-tier": "hot"},
        });
        let volume = Volume::new(name, serde_json::from_value(spec).unwrap());
        self.all()
            .create(&PostParams::default(), &volume)
            .await
            .unwrap();
        let status = VolumeStatus {
            phase: VolumePhase::Ready,
            used_bytes: Some(3 << 30),
            ..VolumeStatus::default()
        };
        self.status::<Volume>(name, status).await;
    }

    /// A cluster in use: two nodes, four drives, three volumes.
    async fn in_use(&self) {
        self.node("node-1", devices()).await;
        self.node("node-2", vec![device(0x77, "nvme1n1")]).await;
        let hot = |p99| ready(p99, HealthState::Healthy);
        self.drive(0xa1, "node-1", "nvme7n1", AccessTier::Hot, hot(210_000))
            .await;
        self.drive(0xa2, "node-1", "nvme12n1", AccessTier::Warm, hot(95_000))
            .await;
        self.drive(
            0xa3,
            "node-2",
            "nvme7n1",
            AccessTier::Hot,
            ready(41_000_000, HealthState::Slow),
        )
        .await;
        let lost = DriveStatus {
            phase: DrivePhase::Lost,
            reason: Some(Reason::DriveLost),
            message: "nvme8n1 was pulled".to_owned(),
            ..DriveStatus::default()
        };
        self.drive(0xb4, "node-2", "nvme8n1", AccessTier::Cold, lost)
            .await;
        let placement = Placement {
            chosen: scored(0xa1, "node-1", 910),
            runners_up: vec![scored(0xa2, "node-1", 640)],
            refused: vec![Refusals {
                reason: Reason::Unhealthy,
                count: 2,
            }],
            considered: 4,
            at: "2025-01-02T02:54:05Z".parse().unwrap(),
        };
        self.volume("data-0", 0xa1, 512 << 30, Some(placement))
            .await;
        self.volume("data-1", 0xa1, 9 << 30, None).await;
        self.volume("logs", 0xa2, 1 << 40, None).await;
    }
}

fn scored(number: u32, node: &str, total: u32) -> Scored {
    Scored {
        drive: drive_id(number),
        node: node.to_owned(),
        total,
        latency: total,
        capacity: 750,
        tier: 1000,
        volumes: 900,
    }
}

fn ready(p99_ns: u64, state: HealthState) -> DriveStatus {
    let mut buckets = vec![0; api::latency::BUCKETS];
    buckets[api::latency::bucket_index(p99_ns / 2)] = 985;
    buckets[api::latency::bucket_index(p99_ns)] = 15;
    let slow = state == HealthState::Slow;
    DriveStatus {
        phase: DrivePhase::Ready,
        capacity: Some(DriveCapacity {
            total_bytes: 4 << 40,
            allocatable_bytes: 4000 << 30,
            used_bytes: 6 << 30,
        }),
        latency: Some(DriveLatency {
            read: Some(LatencySummary {
                count: 1000,
                p50_ns: p99_ns / 2,
                p99_ns,
                p999_ns: p99_ns * 2,
                max_ns: p99_ns * 2,
                mean_ns: p99_ns / 2,
                buckets,
                measured_at: Some("2025-01-02T03:03:50Z".parse().unwrap()),
            }),
            ..DriveLatency::default()
        }),
        verdict: serde_json::from_value(json!({
            "state": state,
            "reason": if slow { Reason::Slow } else { Reason::Healthy },
            "message": if slow { "reads 3.4× its peers at equal load for 6 min" } else { "as fast as ever" },
            "since": "2025-01-02T02:04:05Z",
        }))
        .unwrap(),
        ..DriveStatus::default()
    }
}

/// What an agent would answer: every new drive becomes ready, and the one that was adopted tells what it holds.
async fn agent(client: Client) {
    let drives: Api<Drive> = Api::all(client.clone());
    let nodes: Api<StorageNode> = Api::all(client);
    let mut events = Box::pin(watcher(drives.clone(), watcher::Config::default()));
    while let Some(event) = events.next().await {
        let Ok(watcher::Event::Apply(drive) | watcher::Event::InitApply(drive)) = event else {
            continue;
        };
        if drive.status.is_some() {
            continue;
        }
        let status = if drive.spec.device.name == "nvme2n1" {
            json!({"phase": "Failed", "reason": Reason::MkfsMissing, "message": ""})
        } else {
            json!(ready(80_000, HealthState::Healthy))
        };
        let patch = Patch::Merge(json!({ "status": status }));
        drives
            .patch_status(&drive.name_any(), &PatchParams::default(), &patch)
            .await
            .unwrap();
        if drive.spec.device.name == "nvme5n1" {
            let patch = Patch::Merge(
                json!({"status": {"orphans": [orphan(0x55, "kept-0"), orphan(0x55, "kept-1")]}}),
            );
            nodes
                .patch_status("node-1", &PatchParams::default(), &patch)
                .await
                .unwrap();
        }
    }
}

fn orphan(number: u32, volume: &str) -> Value {
    json!({
        "volume": volume,
        "drive": drive_id(number),
        "capacityBytes": 7_u64 << 30,
        "incarnation": "1111",
        "csiName": volume,
        "parameters": {"access-tier": "hot"},
        "since": now(),
    })
}

/// What an agent would answer to a benchmark.
async fn bench(client: Client) {
    let benchmarks: Api<Benchmark> = Api::all(client);
    let mut events = Box::pin(watcher(benchmarks.clone(), watcher::Config::default()));
    while let Some(event) = events.next().await {
        let Ok(watcher::Event::Apply(benchmark) | watcher::Event::InitApply(benchmark)) = event
        else {
            continue;
        };
        if benchmark.status.is_some() {
            continue;
        }
        let read = ready(210_000, HealthState::Healthy).latency.unwrap().read;
        let workload = json!({"pattern": "RandRead", "blockBytes": 4096, "depth": 1});
        let patch = Patch::Merge(json!({"status": {
            "phase": "Done",
            "percent": 100,
            "ratioToPeers": "1.12",
            "results": [{
                "name": "randread-4k-qd1",
                "workload": workload,
                "engine": "uring",
                "elapsedMs": 2000,
                "iops": 9500,
                "bytesPerSecond": 9500 * 4096,
                "read": read,
            }],
        }}));
        benchmarks
            .patch_status(&benchmark.name_any(), &PatchParams::default(), &patch)
            .await
            .unwrap();
    }
}

/// Splits a line into words as a shell would, as far as the transcripts need: `'…'` is one word.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut inside = false;
    for c in line.chars() {
        match c {
            '\'' => inside = !inside,
            ' ' if !inside => words.push(String::new()),
            c => words.last_mut().unwrap().push(c),
        }
    }
    words.retain(|w| !w.is_empty());
    words
}

/// Runs one command line of a transcript and returns what it prints.
async fn answer(world: &World, line: &str) -> String {
    let (command, typed) = line
        .split_once(" <<< ")
        .map_or((line, None), |(c, t)| (c, Some(t)));
    let dir = world.dir.path().display().to_string();
    if let Some(rest) = command.strip_prefix("sed ") {
        return edit(&dir, rest);
    }
    let rest = command
        .strip_prefix("kubectl ringpv")
        .expect("a command of ours");
    let rest = rest.replace("drives.yaml", &format!("{dir}/drives.yaml"));
    let typed = typed.map(|t| {
        Box::new(std::io::Cursor::new(format!("{t}\n"))) as Box<dyn std::io::BufRead + Send>
    });
    let paper = Paper::default();
    let screen = cli::Screen::to(paper.clone(), paper.clone(), typed);
    let arguments = std::iter::once("kubectl-ringpv".to_owned()).chain(words(&rest));
    let code = cli::run(
        arguments.map(Into::into),
        screen,
        now,
        Some(world.client.clone()),
    )
    .await;
    let text = String::from_utf8(paper.0.lock().unwrap().clone()).unwrap();
    let mut text = text
        .replace(&dir, "")
        .replace("/drives.yaml", "drives.yaml");
    if code != 0 {
        writeln!(text, "[exit {code}]").unwrap();
    }
    text
}

/// `sed s/from/to/ drives.yaml`, so that transcripts can edit as people do.
fn edit(dir: &str, rest: &str) -> String {
    let mut parts = rest.split('/').skip(1);
    let (from, to) = (parts.next().unwrap(), parts.next().unwrap());
    let file = Path::new(dir).join("drives.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains(from), "{from} is not in drives.yaml");
    std::fs::write(&file, text.replacen(from, to, 1)).unwrap();
    String::new()
}

/// Holds a transcript: its lines that begin `$ ` are run, what follows is what they print. Lines with `#` stay.
async fn hold(world: &World, name: &str) {
    let file: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "cli", name]
        .iter()
        .collect();
    let wanted = std::fs::read_to_string(&file).unwrap();
    let mut got = String::new();
    for line in wanted.lines() {
        if line.starts_with("# ") {
            writeln!(got, "{line}").unwrap();
        }
        if let Some(command) = line.strip_prefix("$ ") {
            write!(got, "{line}\n{}\n", answer(world, command).await).unwrap();
        }
    }
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, got).unwrap();
        return;
    }
    let first = got.lines().zip(wanted.lines()).position(|(g, w)| g != w);
    assert!(
        got == wanted,
        "{name}, line {:?}: UPDATE=1 writes it anew\n{got}",
        first.map(|n| n + 1)
    );
}

#[tokio::test]
async fn the_first_steps() {
    let world = World::new();
    hold(&world, "nothing.txt").await;
    world.node("node-1", devices()).await;
    let agent = tokio::spawn(agent(world.client.clone()));
    hold(&world, "first-steps.txt").await;
    agent.abort();
}

#[tokio::test]
async fn a_cluster_in_use() {
    let world = World::new();
    world.in_use().await;
    hold(&world, "lists.txt").await;
    let bench = tokio::spawn(bench(world.client.clone()));
    hold(&world, "changes.txt").await;
    bench.abort();
}

#[tokio::test]
async fn help_and_wrong_usage() {
    hold(&World::new(), "usage.txt").await;
}

#[tokio::test]
async fn json_is_one_list() {
    let world = World::new();
    world.in_use().await;
    let text = answer(&world, "kubectl ringpv list drives -o json").await;
    let list: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(list["kind"], "List");
    assert_eq!(list["items"].as_array().unwrap().len(), 4);
    assert_eq!(list["items"][0]["kind"], "Drive");
    let text = answer(&world, "kubectl ringpv health --all -o json").await;
    let health: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(health, list, "the same objects");
    let yaml = answer(&world, "kubectl ringpv list volumes logs -o yaml").await;
    let list: Value = serde_yaml::from_str(&yaml).unwrap();
    assert_eq!(list["items"][0]["spec"]["capacityBytes"], 1_u64 << 40);
    let yaml = answer(&world, "kubectl ringpv explain data-0 -o yaml").await;
    let why: Value = serde_yaml::from_str(&yaml).unwrap();
    assert_eq!(why["placement"]["chosen"]["total"], 910);
    let agent = tokio::spawn(bench(world.client.clone()));
    let text = answer(&world, "kubectl ringpv bench 000000a1 -o json").await;
    agent.abort();
    // Its progress is told beside the result.
    let json = text.split_once("Done\n").map_or(&*text, |(_, json)| json);
    let list: Value = serde_json::from_str(json).unwrap();
    assert_eq!(list["items"][0]["kind"], "Benchmark");
    assert_eq!(list["items"][0]["status"]["results"][0]["iops"], 9500);
}
