//! The kinds of volumes and of mounts that pods may ask for.

use serde_json::json;

use tests::kubernetes::stage::{CLASS, REST, Stage, claim, container, pod};

pub(crate) fn story(stage: &Stage) {
    generic_ephemeral(stage);
    inline_ephemeral(stage);
    mounts(stage);
    single_pod(stage);
    retained(stage);
}

/// A volume that lives with its pod, of a claim template.
fn generic_ephemeral(stage: &Stage) {
    let mut it = pod("scratch", &[], REST);
    it["spec"]["containers"] = json!([container(
        REST,
        vec![json!({"name": "s", "mountPath": "/s"})]
    )]);
    let template = json!({"spec": claim("", CLASS, "16Mi")["spec"]});
    it["spec"]["volumes"] = json!([{"name": "s", "ephemeral": {"volumeClaimTemplate": template}}]);
    stage.apply(&it);
    stage.run(&["scratch"]);
    stage
        .sh("scratch", "echo kept > /s/file && cat /s/file")
        .ok();
    assert_eq!(stage.all("rvol").len(), 1);
    stage.delete(&["pod", "scratch"]);
    stage
        .cluster
        .until("its volume went along", || stage.all("rvol").is_empty());
}

/// A volume that the pod itself describes.
fn inline_ephemeral(stage: &Stage) {
    const ANY: &str = "default,hot,warm,cold";
    let mut it = pod("inline", &[], REST);
    it["spec"]["containers"] = json!([container(
        REST,
        vec![json!({"name": "s", "mountPath": "/s"})]
    )]);
    let mut sized = |size: &str, tier: &str| {
        let attributes =
            json!({"size": size, "capacity-enforcement": "best-effort", "access-tier": tier});
        it["spec"]["volumes"] =
            json!([{"name": "s", "csi": {"driver": "ringpv.io", "volumeAttributes": attributes}}]);
        stage.apply(&it);
    };
    // The pod reads why, and what was made for it goes with it.
    for (size, tier, why) in [("1Ti", ANY, "too small"), ("16Mi", "tepid", "tepid")] {
        sized(size, tier);
        stage.told("inline", why);
        stage.delete(&["pod", "inline"]);
        stage
            .cluster
            .until("its volume went along", || stage.all("rvol").is_empty());
    }
    sized("16Mi", ANY);
    stage.run(&["inline"]);
    stage
        .sh("inline", "echo kept > /s/file && cat /s/file")
        .ok();
    let volumes = stage.all("rvol");
    assert_eq!(volumes.len(), 1);
    assert_eq!(volumes[0]["spec"]["ephemeral"], true);
    stage.delete(&["pod", "inline"]);
    stage
        .cluster
        .until("its volume went along", || stage.all("rvol").is_empty());
}

/// Part of a volume, only for reading, and for a group.
fn mounts(stage: &Stage) {
    stage.claim("shared", CLASS, "32Mi");
    let mut it = pod("writer", &["shared"], REST);
    it["spec"]["securityContext"] =
        json!({"fsGroup": 4711, "runAsUser": 1000, "runAsNonRoot": true});
    stage.apply(&it);
    stage.run(&["writer"]);
    stage
        .sh(
            "writer",
            "mkdir /shared/part && echo one > /shared/part/file && id",
        )
        .ok();
    let group = stage
        .sh("writer", "stat -c %g /shared/part/file")
        .ok()
        .stdout;
    assert_eq!(group.trim(), "4711");

    let mut it = pod("reader", &["shared"], REST);
    it["spec"]["containers"] = json!([container(
        REST,
        vec![json!({"name": "shared", "mountPath": "/part", "subPath": "part", "readOnly": true}),]
    )]);
    stage.apply(&it);
    stage.run(&["reader"]);
    assert_eq!(
        stage.sh("reader", "cat /part/file").ok().stdout.trim(),
        "one"
    );
    let written = stage.sh("reader", "echo two > /part/file");
    assert!(
        written.code != Some(0) && written.stderr.contains("Read-only"),
        "{written}"
    );
    stage.clear();
}

/// ReadWriteOncePod: one pod alone.
fn single_pod(stage: &Stage) {
    let mut alone = claim("alone", CLASS, "16Mi");
    alone["spec"]["accessModes"] = json!(["ReadWriteOncePod"]);
    stage.apply(&alone);
    stage.apply(&pod("first", &["alone"], REST));
    stage.run(&["first"]);
    stage.apply(&pod("second", &["alone"], REST));
    stage.told("second", "ReadWriteOncePod");
    stage.clear();
}

/// What is retained stays after its claim, and a PersistentVolume made by hand names it.
fn retained(stage: &Stage) {
    stage.claim("kept", CLASS, "16Mi");
    stage.apply(&pod(
        "keeper",
        &["kept"],
        "echo precious > /kept/file && sync && sleep 10000",
    ));
    stage.run(&["keeper"]);
    stage.cluster.until("it is written", || {
        stage.sh("keeper", "cat /kept/file").stdout.trim() == "precious"
    });
    let handle = stage.retain("keeper", "kept");
    assert_eq!(stage.all("rvol").len(), 1, "it is retained");

    stage.apply(&json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "by-hand"},
        "spec": {
            "capacity": {"storage": "16Mi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "",
            "persistentVolumeReclaimPolicy": "Delete",
            "claimRef": {"namespace": "default", "name": "again"},
            "csi": {"driver": "ringpv.io", "volumeHandle": handle, "fsType": "xfs"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "ringpv.io/node", "operator": "In", "values": [tests::kubernetes::NATIVE]}]}]}},
        },
    }));
    let mut again = claim("again", "", "16Mi");
    again["spec"]["volumeName"] = json!("by-hand");
    stage.apply(&again);
    stage.apply(&pod("finder", &["again"], REST));
    stage.run(&["finder"]);
    assert_eq!(
        stage.sh("finder", "cat /again/file").ok().stdout.trim(),
        "precious"
    );
    stage.clear();
}
