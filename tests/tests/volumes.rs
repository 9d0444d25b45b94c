//! Level loop. The volumes of a node on real XFS: what a kubelet asks, in order and out of it, what happens between
//! two calls, and what is left when the API is away.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent::host::Host as _;
use agent::volumes::plan::{Wanted, plan};
use agent::volumes::{Subject, apply::apply, seen::see};
use agent::worker::{Lane, WorkerError};
use api::csi::volume_capability::access_mode::Mode;
use api::csi::volume_capability::{AccessType, BlockVolume};
use api::csi::{
    CapacityRange, NodeExpandVolumeRequest, NodeGetInfoRequest, NodeGetVolumeHealthRequest,
    NodeGetVolumeStatsRequest, NodeStageVolumeRequest,
};
use api::names::{ANNOTATION_ADOPTS, FINALIZER_DEVICE};
use api::volume::CapacityEnforcement;
use api::{Reason, Volume, VolumePhase};
use serde_json::json;
use tests::node::{
    ALLOCATABLE_BYTES, Agent, NODE, Node, capability, capacity, in_phase, reason, why,
};
use tonic::{Code, Status};

const MIB: u64 = 1 << 20;
const WRITER: Mode = Mode::SingleNodeWriter;

fn code<T: std::fmt::Debug>(answer: Result<T, Status>) -> Code {
    answer.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[tokio::test]
async fn a_volume_from_its_promise_to_its_end() {
    let Some(node) = Node::new("a_volume_from_its_promise_to_its_end", 1).await else {
        return;
    };
    let agent = node.agent("a").await;
    node.volume("v1", 64 * MIB).await;
    let status = in_phase(&node, "v1", VolumePhase::Ready).await;
    assert_eq!(
        (status.project_id, status.capacity_bytes),
        (Some(1), Some(64 * MIB))
    );
    assert_eq!(node.host.project(&node.data("v1")).unwrap(), 1);

    let (staging, pod, reader) = (
        node.place("staging"),
        node.place("pod"),
        node.place("reader"),
    );
    for _ in 0..2 {
        agent.stage("v1", &staging).await.unwrap();
    }
    for _ in 0..2 {
        agent
            .publish("v1", (&staging, &pod), false, WRITER)
            .await
            .unwrap();
        agent
            .publish("v1", (&staging, &reader), true, WRITER)
            .await
            .unwrap();
    }
    let mounts = node.host.mounts().unwrap();
    let at = |path: &Path| mounts.iter().filter(|entry| entry.target == path).count();
    assert_eq!(
        (at(&staging), at(&pod), at(&reader)),
        (1, 1, 1),
        "repeated, not stacked"
    );
    fs::write(pod.join("f"), vec![1; 100_000]).unwrap();
    assert_eq!(fs::read(reader.join("f")).unwrap().len(), 100_000);
    let refused = fs::write(reader.join("g"), "").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(30), "EROFS: {refused}");

    let both = |v: Option<&Volume>| v?.status.as_ref().map(|status| status.targets.len());
    node.until("v1", |v| both(v) == Some(2)).await;
    let status = in_phase(&node, "v1", VolumePhase::Published).await;
    assert_eq!(status.staging_path.as_deref(), staging.to_str());
    stats(&agent, &pod).await;

    for _ in 0..2 {
        agent.unpublish("v1", &pod).await.unwrap();
        agent.unpublish("v1", &reader).await.unwrap();
        agent.unstage("v1", &staging).await.unwrap();
    }
    assert!(!pod.exists() && !reader.exists());
    in_phase(&node, "v1", VolumePhase::Ready).await;
    assert!(node.data("v1").join("f").exists());
    node.delete("v1", true).await;
    node.gone("v1").await;
    assert!(!node.data("v1").exists());
    for empty in [node.drives[0].trash_dir(), node.drives[0].records_dir()] {
        assert_eq!(node.host.list_dir(&empty).unwrap(), Vec::<String>::new());
    }
}

async fn stats(agent: &Agent, path: &Path) {
    let request = |volume: &str, path: &Path| NodeGetVolumeStatsRequest {
        volume_id: volume.to_owned(),
        volume_path: path.to_string_lossy().into_owned(),
        staging_target_path: String::new(),
    };
    let mut csi = agent.csi.clone();
    let answer = csi
        .node_get_volume_stats(request("v1", path))
        .await
        .unwrap();
    let usage = answer.into_inner().usage;
    assert_eq!((usage[0].total, usage[1].total), (64 << 20, 4096));
    assert!(
        usage[0].used >= 100_000 && usage[0].used < 200_000,
        "{usage:?}"
    );
    assert_eq!(usage[0].available, usage[0].total - usage[0].used);
    assert_eq!((usage[1].used, usage[1].available), (2, 4094));
    for (volume, path) in [("v1", Path::new("/nowhere")), ("v2", path)] {
        let answer = csi.node_get_volume_stats(request(volume, path)).await;
        assert_eq!(code(answer), Code::NotFound, "{volume} {}", path.display());
    }
}

#[tokio::test]
async fn without_a_release_the_data_stay_and_only_an_adoption_gets_them() {
    let test = "without_a_release_the_data_stay_and_only_an_adoption_gets_them";
    let Some(node) = Node::new(test, 1).await else {
        return;
    };
    let agent = node.agent("a").await;
    let first = node.volume("v1", 64 * MIB).await;
    let staging = node.place("staging");
    agent.stage("v1", &staging).await.unwrap();
    fs::write(staging.join("f"), "precious").unwrap();
    node.delete("v1", false).await;
    // Mounted, it stays; and nobody gets it anew.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(node.api.get_opt("v1").await.unwrap().is_some());
    let again = agent.stage("v1", &staging).await;
    assert_eq!(reason(again), Some(Reason::BeingRemoved));
    agent.unstage("v1", &staging).await.unwrap();
    node.gone("v1").await;
    let mut orphans = agent.volumes.orphans();
    let orphan = orphans.wait_for(|found| found.len() == 1).await.unwrap()[0].clone();
    assert_eq!(
        (orphan.volume.as_str(), orphan.drive.as_str()),
        ("v1", "d0")
    );
    assert_eq!(Some(&orphan.incarnation), first.metadata.uid.as_ref());

    // A new volume of that name neither gets nor releases what the first one left.
    node.volume("v1", 64 * MIB).await;
    let answer = agent.stage("v1", &staging).await;
    assert_eq!(reason(answer), Some(Reason::EarlierData));
    let earlier = Some(Reason::EarlierData);
    node.until("v1", |v| why(v) == earlier).await;
    node.delete("v1", true).await;
    node.gone("v1").await;
    assert_eq!(fs::read(node.data("v1").join("f")).unwrap(), b"precious");

    let mut adopting = api::testing::volume("v1")
        .on(NODE, "d0")
        .bytes(64 * MIB)
        .build();
    let adopts = adopting.metadata.annotations.get_or_insert_default();
    adopts.insert(ANNOTATION_ADOPTS.to_owned(), orphan.incarnation);
    node.create(adopting).await;
    agent.stage("v1", &staging).await.unwrap();
    assert_eq!(fs::read(staging.join("f")).unwrap(), b"precious");
    orphans.wait_for(Vec::is_empty).await.unwrap();
    agent.unstage("v1", &staging).await.unwrap();
    node.delete("v1", true).await;
    node.gone("v1").await;
    assert!(!node.data("v1").exists());
}

#[tokio::test]
async fn what_is_refused_and_with_which_word() {
    let Some(node) = Node::new("what_is_refused_and_with_which_word", 1).await else {
        return;
    };
    let agent = node.agent("a").await;
    node.volume("v1", 64 * MIB).await;
    node.volume("v2", 64 * MIB).await;
    let (s1, s2, a, b) = (
        node.place("s1"),
        node.place("s2"),
        node.place("a"),
        node.place("b"),
    );
    assert_eq!(code(agent.stage("", &s1).await), Code::InvalidArgument);
    assert_eq!(
        code(agent.stage("v1", Path::new("")).await),
        Code::InvalidArgument
    );
    assert_eq!(code(agent.stage("v9", &s1).await), Code::NotFound);
    let mut block = NodeStageVolumeRequest {
        volume_id: "v1".to_owned(),
        staging_target_path: s1.to_string_lossy().into_owned(),
        volume_capability: capability(WRITER),
        ..Default::default()
    };
    block.volume_capability.as_mut().unwrap().access_type = Some(AccessType::Block(BlockVolume {}));
    let answer = agent.csi.clone().node_stage_volume(block).await;
    assert_eq!(reason(answer), Some(Reason::Unsupported));
    let unstaged = agent.publish("v1", (&s1, &a), false, WRITER).await;
    assert_eq!(reason(unstaged), Some(Reason::NotStaged));

    agent.stage("v1", &s1).await.unwrap();
    let taken = agent.stage("v2", &s1).await;
    assert_eq!(reason(taken), Some(Reason::TargetConflict));
    agent.stage("v2", &s2).await.unwrap();
    let alone = Mode::SingleNodeSingleWriter;
    for _ in 0..2 {
        agent.publish("v1", (&s1, &a), false, alone).await.unwrap();
    }
    let second = agent.publish("v1", (&s1, &b), false, alone).await;
    assert_eq!(code(second), Code::FailedPrecondition);
    let many = agent
        .publish("v1", (&s1, &b), false, Mode::MultiNodeMultiWriter)
        .await;
    assert_eq!(code(many), Code::InvalidArgument);

    // Taking away what is not its own leaves it; a directory with something in it is nobody's to remove.
    agent.unpublish("v2", &a).await.unwrap();
    assert!(
        node.host
            .mounts()
            .unwrap()
            .iter()
            .any(|entry| entry.target == a)
    );
    fs::create_dir(&b).unwrap();
    fs::write(b.join("kept"), "").unwrap();
    agent.unpublish("v9", &b).await.unwrap();
    assert!(b.join("kept").exists());

    node.volume("v3", ALLOCATABLE_BYTES - 127 * MIB).await;
    let beyond = agent.stage("v3", &node.place("s3")).await;
    assert_eq!(reason(beyond), Some(Reason::OverAllocated));
    let mut strict = api::testing::volume("v4").on(NODE, "d0").bytes(MIB).build();
    strict = node.create(strict).await;
    if !node.host.quota_supported() {
        node.change("v4", json!({ "capacityEnforcement": "Strict" }))
            .await;
        let answer = agent.stage("v4", &node.place("s4")).await;
        assert_eq!(reason(answer), Some(Reason::CapacityNotEnforced));
        assert!(!node.data("v4").join("x").exists());
    }
    drop(strict);
}

#[tokio::test]
async fn links_in_the_kubelets_folder_are_followed() {
    let Some(node) = Node::new("links_in_the_kubelets_folder_are_followed", 1).await else {
        return;
    };
    let agent = node.agent("a").await;
    node.volume("v1", 64 * MIB).await;
    fs::create_dir(node.place("real")).unwrap();
    symlink(node.place("real"), node.place("link")).unwrap();
    let (staging, pod) = (node.place("link/staging"), node.place("link/pod"));
    for _ in 0..2 {
        agent.stage("v1", &staging).await.unwrap();
        agent
            .publish("v1", (&staging, &pod), true, WRITER)
            .await
            .unwrap();
    }
    let mounts = node.host.mounts().unwrap();
    let count = |path| mounts.iter().filter(|entry| entry.target == path).count();
    assert_eq!(
        (
            count(node.place("real/staging")),
            count(node.place("real/pod"))
        ),
        (1, 1)
    );
    for _ in 0..2 {
        agent.unpublish("v1", &pod).await.unwrap();
        agent.unstage("v1", &staging).await.unwrap();
    }
    assert_eq!(fs::read_dir(node.place("real")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_hung_drive_is_unavailable_alone() {
    let Some(node) = Node::new("a_hung_drive_is_unavailable_alone", 2).await else {
        return;
    };
    let agent = node.agent("a").await;
    for (name, drive) in [("v1", "d0"), ("v2", "d1")] {
        let volume = api::testing::volume(name)
            .on(NODE, drive)
            .bytes(MIB)
            .build();
        node.create(volume).await;
        in_phase(&node, name, VolumePhase::Ready).await;
    }
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let hung = node.drives[0]
        .worker
        .run(Lane::Calls, Duration::from_millis(50), move || {
            wait.recv().ok();
        });
    assert_eq!(hung.await, Err(WorkerError::TimedOut(0)));
    let answer = agent.stage("v1", &node.place("s1")).await;
    assert_eq!(code(answer), Code::Unavailable);
    agent.stage("v2", &node.place("s2")).await.unwrap();
    let request = NodeGetVolumeHealthRequest {
        volume_id: "v1".to_owned(),
        ..Default::default()
    };
    let health = agent
        .csi
        .clone()
        .node_get_volume_health(request)
        .await
        .unwrap();
    let entries = health.into_inner().volume_health.unwrap().health_statuses;
    assert_eq!(entries[0].reason, "DriveUnavailable");
    release.send(()).unwrap();
    while node.drives[0].worker.is_stuck() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    agent.stage("v1", &node.place("s1")).await.unwrap();
}

#[tokio::test]
async fn released_data_go_after_a_restart_too_and_nothing_else_does() {
    let test = "released_data_go_after_a_restart_too_and_nothing_else_does";
    let Some(node) = Node::new(test, 1).await else {
        return;
    };
    let drive = &node.drives[0];
    let left = drive.trash_dir().join("v1-0");
    fs::create_dir_all(left.join("deep/er")).unwrap();
    for n in 0..3000 {
        fs::write(left.join(format!("deep/{n}")), "").unwrap();
    }
    fs::create_dir(node.data("kept")).unwrap();
    fs::write(node.data("kept").join("f"), "x").unwrap();
    let agent = node.agent("a").await;
    let mut orphans = agent.volumes.orphans();
    let found = orphans.wait_for(|found| !found.is_empty()).await.unwrap();
    assert_eq!((found.len(), found[0].volume.as_str()), (1, "kept"));
    drop(found);
    for _ in 0..500 {
        if !left.exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!left.exists() && node.data("kept").join("f").exists());
}

#[tokio::test]
async fn capacity_grows_to_what_is_promised_and_not_beyond() {
    let Some(node) = Node::new("capacity_grows_to_what_is_promised_and_not_beyond", 1).await else {
        return;
    };
    let agent = node.agent("a").await;
    node.volume("v1", 64 * MIB).await;
    let staging = node.place("staging");
    agent.stage("v1", &staging).await.unwrap();
    let expand = |bytes: u64, path: &Path| {
        let (mut csi, volume_path) = (agent.csi.clone(), path.to_string_lossy().into_owned());
        async move {
            let request = NodeExpandVolumeRequest {
                volume_id: "v1".to_owned(),
                volume_path,
                capacity_range: Some(CapacityRange {
                    required_bytes: i64::try_from(bytes).unwrap(),
                    limit_bytes: 0,
                }),
                ..Default::default()
            };
            csi.node_expand_volume(request)
                .await
                .map(|answer| answer.into_inner().capacity_bytes)
        }
    };
    assert_eq!(code(expand(65 * MIB, &staging).await), Code::OutOfRange);
    node.change("v1", json!({ "capacityBytes": 128 * MIB }))
        .await;
    for _ in 0..2 {
        assert_eq!(expand(128 * MIB, &staging).await.unwrap(), 128 << 20);
    }
    assert_eq!(
        code(expand(128 * MIB, Path::new("/nowhere")).await),
        Code::NotFound
    );
    node.until("v1", |v| capacity(v) == Some(128 * MIB)).await;
    node.change("v1", json!({ "capacityBytes": ALLOCATABLE_BYTES + MIB }))
        .await;
    let beyond = expand(ALLOCATABLE_BYTES + MIB, &staging).await;
    assert_eq!(reason(beyond), Some(Reason::OverAllocated));
    agent.unstage("v1", &staging).await.unwrap();
    agent.stage("v1", &staging).await.unwrap();
    let short = node
        .until("v1", |v| why(v) == Some(Reason::OverAllocated))
        .await;
    assert_eq!(
        short.unwrap().status.unwrap().capacity_bytes,
        Some(128 * MIB)
    );
}

#[tokio::test]
async fn an_inline_volume_comes_and_goes_with_its_pod() {
    let Some(node) = Node::new("an_inline_volume_comes_and_goes_with_its_pod", 1).await else {
        return;
    };
    let agent = node.agent("a").await;
    let pod = node.place("pod");
    let sizeless = agent.publish_inline("csi-1", &pod, &[]).await;
    assert_eq!(reason(sizeless), Some(Reason::InvalidParameter));
    let attributes = [("size", "16Mi"), ("capacity-enforcement", "best-effort")];
    let placed = async {
        let made = node.until("csi-1", |v| v.is_some()).await.unwrap();
        assert!(made.spec.ephemeral && made.spec.drive.is_none());
        node.change("csi-1", json!({ "drive": "d0" })).await;
    };
    let (published, ()) = tokio::join!(agent.publish_inline("csi-1", &pod, &attributes), placed);
    published.unwrap();
    agent
        .publish_inline("csi-1", &pod, &attributes)
        .await
        .unwrap();
    fs::write(pod.join("f"), "x").unwrap();
    for _ in 0..2 {
        agent.unpublish("csi-1", &pod).await.unwrap();
    }
    node.gone("csi-1").await;
    assert!(!node.data("csi-1").exists() && !pod.exists());
}

#[tokio::test]
async fn a_suspended_volume_shows_an_empty_stand_in() {
    let Some(node) = Node::new("a_suspended_volume_shows_an_empty_stand_in", 1).await else {
        return;
    };
    let agent = node.agent("a").await;
    node.volume("v1", MIB).await;
    let (staging, pod) = (node.place("staging"), node.place("pod"));
    agent.stage("v1", &staging).await.unwrap();
    fs::write(staging.join("f"), "x").unwrap();
    agent.unstage("v1", &staging).await.unwrap();
    node.change("v1", json!({ "suspended": true })).await;
    node.until("v1", |v| v.is_some_and(|v| v.spec.suspended))
        .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    agent.stage("v1", &staging).await.unwrap();
    agent
        .publish("v1", (&staging, &pod), false, WRITER)
        .await
        .unwrap();
    assert_eq!(fs::read_dir(&pod).unwrap().count(), 0);
    assert!(fs::write(pod.join("g"), "").is_err());
    in_phase(&node, "v1", VolumePhase::Published).await;
    agent.unpublish("v1", &pod).await.unwrap();
    node.change("v1", json!({ "suspended": false })).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    agent.stage("v1", &staging).await.unwrap();
    agent
        .publish("v1", (&staging, &pod), false, WRITER)
        .await
        .unwrap();
    assert!(pod.join("f").exists());
}

#[tokio::test]
async fn a_call_broken_off_after_any_effect_succeeds_when_repeated() {
    let test = "a_call_broken_off_after_any_effect_succeeds_when_repeated";
    let Some(node) = Node::new(test, 1).await else {
        return;
    };
    let mut whole = 0;
    for done in 0..8 {
        // A process that looked, planned, did the first `done` steps, and died.
        let name = format!("v{done}");
        let object = node.volume(&name, MIB).await;
        let promise = Subject::of(Arc::new(object)).promise;
        let (host, drive) = (node.host.as_ref(), &node.drives[0]);
        let staging = node.place(&format!("s{done}"));
        let wanted = Wanted::Staged {
            path: staging.clone(),
        };
        let seen = see(host, drive, &name, Some(&promise)).unwrap();
        let steps = plan(&promise, &wanted, &seen).unwrap().actions;
        whole = whole.max(steps.len());
        for action in steps.iter().take(done) {
            apply(host, drive, &name, action).unwrap();
        }
        let next = node.agent(&name).await;
        next.stage(&name, &staging).await.unwrap();
        fs::write(staging.join("f"), "x").unwrap();
        next.stop().await;
        let ids: Vec<u32> = (0..=done)
            .map(|n| host.project(&node.data(&format!("v{n}"))).unwrap())
            .collect();
        let mut unique = ids.clone();
        unique.sort_unstable();
        unique.dedup();
        assert!(unique.len() == ids.len() && !ids.contains(&0), "{ids:?}");
    }
    assert!(
        (5..8).contains(&whole),
        "every step was one to die after: {whole}"
    );
}

#[tokio::test]
async fn what_the_node_says_of_itself() {
    let Some(node) = Node::new("what_the_node_says_of_itself", 2).await else {
        return;
    };
    let agent = node.agent("a").await;
    let answer = agent
        .csi
        .clone()
        .node_get_info(NodeGetInfoRequest {})
        .await
        .unwrap();
    let info = answer.into_inner();
    assert_eq!(
        (info.node_id.as_str(), info.max_volumes_per_node),
        (NODE, 1024)
    );
    let segments = info.accessible_topology.unwrap().segments;
    assert_eq!(
        segments.get("ringpv.io/node").map(String::as_str),
        Some(NODE)
    );
    // A finalizer that somebody took off comes back: the object may not vanish while its data stand.
    node.volume("v1", MIB).await;
    in_phase(&node, "v1", VolumePhase::Ready).await;
    let bare = json!({ "metadata": { "finalizers": null } });
    let patch = kube::api::Patch::Merge(bare);
    node.api
        .patch("v1", &kube::api::PatchParams::default(), &patch)
        .await
        .unwrap();
    node.until("v1", |v| {
        v.is_some_and(|v| {
            v.metadata
                .finalizers
                .as_ref()
                .is_some_and(|f| f.iter().any(|one| one == FINALIZER_DEVICE))
        })
    })
    .await;
    let enforcement = CapacityEnforcement::BestEffort;
    assert_eq!(
        node.api.get("v1").await.unwrap().spec.capacity_enforcement == enforcement,
        !node.host.quota_supported()
    );
}
