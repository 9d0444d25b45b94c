//! Level loop. What a node does of itself while the API is away, on real XFS: it gives the volume that is meant, or none.

#![cfg(test)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use agent::volumes::record::Record;
use api::csi::volume_capability::access_mode::Mode;
use api::names::{CONTEXT_DRIVE, CONTEXT_INCARNATION};
use api::{Reason, VolumePhase};
use kube::ResourceExt as _;
use serde_json::json;
use tests::command::now;
use tests::node::{Agent, NODE, Node, in_phase, reason};
use tonic::Code;

const MIB: u64 = 1 << 20;
const WRITER: Mode = Mode::SingleNodeWriter;
/// How long something may take that happens by itself.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn without_the_api_what_is_on_disk_is_mounted() {
    let Some(node) = Node::new("without_the_api_what_is_on_disk_is_mounted", 2).await else {
        return;
    };
    node.agent("a").await;
    node.volume("v1", 64 * MIB).await;
    in_phase(&node, "v1", VolumePhase::Ready).await;
    node.set_away(true);
    let restarted = node.agent("b").await;
    let (staging, pod) = (node.place("staging"), node.place("pod"));
    restarted.stage("v1", &staging).await.unwrap();
    restarted
        .publish("v1", (&staging, &pod), false, WRITER)
        .await
        .unwrap();
    fs::write(pod.join("f"), "x").unwrap();
    let unknown = restarted.stage("v9", &node.place("s9")).await;
    assert_eq!(unknown.unwrap_err().code(), Code::Unavailable);
    restarted.unpublish("v1", &pod).await.unwrap();
    restarted.unstage("v1", &staging).await.unwrap();
    assert!(node.data("v1").join("f").exists());
    assert_eq!(*restarted.volumes.orphans().borrow(), vec![]);
}

/// Stages the volume `v1` for a while, and gives what its file says.
async fn said_by(agent: &Agent, staging: &Path, context: &[(&str, &str)]) -> String {
    agent.stage_meant("v1", staging, context).await.unwrap();
    let said = fs::read_to_string(staging.join("f")).unwrap();
    agent.unstage("v1", staging).await.unwrap();
    said
}

#[tokio::test]
async fn of_two_volumes_of_a_name_the_one_that_is_meant_is_mounted() {
    let test = "of_two_volumes_of_a_name_the_one_that_is_meant_is_mounted";
    let Some(node) = Node::new(test, 2).await else {
        return;
    };
    let agent = node.agent("a").await;
    let staging = node.place("staging");
    // The first one's object goes and its data stay; the second is of the same name, on the other drive.
    let mut incarnations = Vec::new();
    for (drive, text) in [("d0", "first"), ("d1", "second")] {
        let wanted = api::testing::volume("v1").on(NODE, drive).bytes(64 * MIB);
        let made = node.create(wanted.build()).await;
        incarnations.push(made.uid().unwrap());
        in_phase(&node, "v1", VolumePhase::Ready).await;
        agent.stage("v1", &staging).await.unwrap();
        fs::write(staging.join("f"), text).unwrap();
        agent.unstage("v1", &staging).await.unwrap();
        if drive == "d0" {
            node.delete("v1", false).await;
            node.gone("v1").await;
        }
    }
    let first = [
        (CONTEXT_DRIVE, "d0"),
        (CONTEXT_INCARNATION, &*incarnations[0]),
    ];
    let second = [
        (CONTEXT_DRIVE, "d1"),
        (CONTEXT_INCARNATION, &*incarnations[1]),
    ];
    let earlier = Some(Reason::EarlierData);
    // With the API the object's data are the ones, and who means others gets none.
    assert_eq!(said_by(&agent, &staging, &second).await, "second");
    let answer = agent.stage_meant("v1", &staging, &first).await;
    assert_eq!(reason(answer), earlier);

    node.set_away(true);
    let agent = node.agent("b").await;
    assert_eq!(reason(agent.stage("v1", &staging).await), earlier);
    assert_eq!(said_by(&agent, &staging, &first).await, "first");
    assert_eq!(said_by(&agent, &staging, &second).await, "second");
    let mixed = [first[0], second[1]];
    let answer = agent.stage_meant("v1", &staging, &mixed).await;
    assert_eq!(reason(answer), earlier);
    // Its drive is late: the other's data are not taken for it.
    let elsewhere = [(CONTEXT_DRIVE, "d9"), second[1]];
    let answer = agent.stage_meant("v1", &staging, &elsewhere).await;
    assert_eq!(reason(answer), Some(Reason::DriveUnavailable));
}

#[tokio::test]
async fn a_suspended_volume_stays_so() {
    let Some(node) = Node::new("a_suspended_volume_stays_so", 1).await else {
        return;
    };
    let agent = node.agent("a").await;
    node.volume("v1", 64 * MIB).await;
    in_phase(&node, "v1", VolumePhase::Ready).await;
    let staging = node.place("staging");
    for (suspended, entries) in [(true, 0), (false, 1)] {
        node.change("v1", json!({ "suspended": suspended })).await;
        let recorded = || {
            let content = fs::read(node.drives[0].volume_record("v1")).unwrap();
            Record::parse("v1", &content).unwrap().suspended
        };
        let end = now() + PATIENCE;
        while recorded() != suspended {
            assert!(now() < end, "the record does not say so");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        fs::write(node.data("v1").join("f"), "x").unwrap();
        node.set_away(true);
        let restarted = node.agent(&format!("b-{suspended}")).await;
        restarted.stage("v1", &staging).await.unwrap();
        assert_eq!(fs::read_dir(&staging).unwrap().count(), entries);
        restarted.unstage("v1", &staging).await.unwrap();
        restarted.stop().await;
        node.set_away(false);
    }
    agent.stop().await;
}
