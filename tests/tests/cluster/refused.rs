//! What cannot be is refused, where its author looks, with a reason.

use std::time::Duration;

use serde_json::json;

use tests::kubernetes::stage::{CLASS, REST, Stage, claim, pod};

pub(crate) fn story(stage: &Stage) {
    // No drive has so much room: the scheduler says it of the pod, and the driver of a claim that does not wait for one.
    stage.claim("huge", CLASS, "500Gi");
    stage.apply(&pod("huge", &["huge"], REST));
    stage.told("huge", "did not have enough free storage");
    stage.claim("huge-now", "immediate", "500Gi");
    stage.told("huge-now", "2 too small");

    // A parameter that is none: its name, and what there is instead.
    stage.class("typo", "Immediate", json!({"acess-tier": "hot"}));
    stage.claim("typo", "typo", "16Mi");
    stage.told("typo", "acess-tier");
    stage.told("typo", "access-tier");
    stage.class("lukewarm", "Immediate", json!({"access-tier": "lukewarm"}));
    stage.claim("lukewarm", "lukewarm", "16Mi");
    stage.told("lukewarm", "lukewarm");
    stage.told("lukewarm", "cold");

    // A file system that is not offered.
    stage.class(
        "ext4",
        "Immediate",
        json!({"csi.storage.k8s.io/fstype": "ext4"}),
    );
    stage.claim("ext4", "ext4", "16Mi");
    stage.told("ext4", "xfs");

    // A raw device.
    let mut block = claim("block", "immediate", "16Mi");
    block["spec"]["volumeMode"] = json!("Block");
    stage.apply(&block);
    stage.told("block", "block");

    assert!(stage.all("rvol").is_empty());
    stage.clear();

    chosen_in_vain(stage);
    stage.delete(&["storageclass", "typo", "lukewarm", "ext4"]);
}

/// The scheduler chose the node while it had room, and now it has none: the claim says so, and the scheduler is asked
/// again, who finds it when it has room.
fn chosen_in_vain(stage: &Stage) {
    let cordon = |verb: &str| {
        stage.cluster.ringpv(&[verb, "--all"]).ok();
    };
    let refused = || {
        stage.all("events").iter().any(|event| {
            let words = event["message"].as_str().unwrap_or_default();
            event["involvedObject"]["name"] == "late" && words.contains("2 cordoned")
        })
    };
    // What the scheduler knows is some seconds old; it may just be told when the drives are cordoned.
    for _ in 0..5 {
        cordon("cordon");
        stage.claim("late", CLASS, "16Mi");
        stage.apply(&pod("late", &["late"], REST));
        std::thread::sleep(Duration::from_secs(4));
        if refused() {
            break;
        }
        stage.clear();
        cordon("uncordon");
        std::thread::sleep(Duration::from_secs(12));
    }
    assert!(refused(), "the scheduler always knew");
    cordon("uncordon");
    stage.run(&["late"]);
    stage.clear();
}
