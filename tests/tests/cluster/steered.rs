//! What a person steers by: groups that are spread, drives that are selected, a drive that is suspended under a pod and then
//! left for another.

use serde_json::{Value, json};

use tests::kubernetes::stage::{CLASS, REST, Stage, pod};

pub(crate) fn story(stage: &Stage) {
    let drives = stage.all("rdrive");
    let name = |drive: &Value| drive["metadata"]["name"].as_str().unwrap().to_owned();
    let drives: Vec<String> = drives.iter().map(name).collect();
    spread(stage);
    selected(stage, &drives[0]);
    suspended_and_left(stage);
}

fn drive_of(stage: &Stage, claim: &str) -> String {
    let volumes = stage.all("rvol");
    let of_claim = |volume: &&Value| volume["spec"]["claim"]["name"] == claim;
    let volume = volumes
        .iter()
        .find(of_claim)
        .expect("a volume of the claim");
    volume["spec"]["drive"].as_str().unwrap().to_owned()
}

/// One volume of a group on each drive, and no third.
fn spread(stage: &Stage) {
    stage.class("spread", "Immediate", json!({"spread-id": "db"}));
    for name in ["spread-a", "spread-b", "spread-c"] {
        stage.claim(name, "spread", "16Mi");
    }
    stage.cluster.until("two have a drive each", || {
        let bound = stage.all("pvc");
        bound
            .iter()
            .filter(|it| it["status"]["phase"] == "Bound")
            .count()
            == 2
    });
    let volumes = stage.all("rvol");
    assert_eq!(volumes.len(), 2);
    assert_ne!(volumes[0]["spec"]["drive"], volumes[1]["spec"]["drive"]);
    let waits = stage.all("pvc");
    let waits = waits.iter().find(|it| it["status"]["phase"] == "Pending");
    let waits = waits.unwrap()["metadata"]["name"].as_str().unwrap();
    stage.told(waits, "2 holding one of the spread group");
    stage.clear();
    stage.delete(&["storageclass", "spread"]);
}

/// By a label, and by a tier.
fn selected(stage: &Stage, drive: &str) {
    let ringpv = |words: &[&str]| stage.cluster.ringpv(words).ok();
    ringpv(&["label", "drives", "rack=7", drive]);
    let tier = stage.get("rdrive", drive)["spec"]["accessTier"].clone();
    let tier = tier.as_str().unwrap().to_lowercase();
    ringpv(&["drives", "access-tier", "set", "cold", drive]);
    stage.class("rack", "Immediate", json!({"drive-selector": "rack=7"}));
    stage.class("tier", "Immediate", json!({"access-tier": "cold"}));
    for class in ["rack", "tier"] {
        for index in 0..3 {
            stage.claim(&format!("{class}-{index}"), class, "16Mi");
        }
    }
    stage.cluster.until("all have a drive", || {
        let bound = stage.all("pvc");
        bound
            .iter()
            .filter(|it| it["status"]["phase"] == "Bound")
            .count()
            == 6
    });
    let volumes = stage.all("rvol");
    assert!(
        volumes.iter().all(|it| it["spec"]["drive"] == drive),
        "{volumes:?}"
    );
    stage.clear();
    ringpv(&["label", "drives", "rack-", drive]);
    ringpv(&["drives", "access-tier", "set", &tier, drive]);
    stage.delete(&["storageclass", "rack", "tier"]);
}

/// A pod whose drive is suspended starts with an empty folder; when its volume is moved it has an empty place; and what it
/// had before is there when it comes back.
fn suspended_and_left(stage: &Stage) {
    stage.claim("data", CLASS, "16Mi");
    let start = || {
        stage.apply(&pod("worker", &["data"], REST));
        stage.run(&["worker"]);
    };
    let stop = || {
        stage.delete(&["pod", "worker"]);
        stage.cluster.until("nobody uses it", || {
            let status = stage.all("rvol")[0]["status"].clone();
            status["stagingPath"].is_null()
                && status["targets"].as_array().is_none_or(Vec::is_empty)
        });
    };
    start();
    stage
        .sh("worker", "echo precious > /data/file && sync")
        .ok();
    let from = drive_of(stage, "data");
    let drives = stage.all("rdrive");
    let names = drives
        .iter()
        .map(|it| it["metadata"]["name"].as_str().unwrap());
    let to = names.into_iter().find(|name| *name != from).unwrap();

    stage.cluster.ringpv(&["suspend", "drives", &from]).ok();
    stage.sh("worker", "cat /data/file").ok();
    stop();
    start();
    let listed = stage.sh("worker", "ls -A /data").ok().stdout;
    assert_eq!(listed, "");
    assert_ne!(stage.sh("worker", "touch /data/new").code, Some(0));

    // Its pod goes, and comes back to another drive.
    stop();
    let there = ["move", &from, "--to", to, "--yes", &from];
    stage.cluster.ringpv(&there).ok();
    start();
    stage.sh("worker", "echo new > /data/new && sync").ok();
    assert_eq!(drive_of(stage, "data"), to);

    stage.cluster.ringpv(&["resume", "drives", &from]).ok();
    stop();
    let back = ["move", to, "--to", &from, "--yes", to];
    stage.cluster.ringpv(&back).ok();
    start();
    let found = stage.sh("worker", "ls /data && cat /data/file").ok().stdout;
    assert_eq!(found, "file\nprecious\n");
    stage.clear();
    // What it wrote on the other drive is nobody's now, and stays until a person says its name.
    let volume = stage.all("rnode").into_iter().find_map(|node| {
        let orphan = node["status"]["orphans"][0]["volume"].clone();
        orphan.as_str().map(str::to_owned)
    });
    if let Some(volume) = volume {
        let clean = ["clean", &volume, "--yes", &volume];
        stage.cluster.until("it is cleaned", || {
            stage.cluster.ringpv(&clean).code == Some(0)
        });
    }
    stage
        .cluster
        .until("no volume is left", || stage.all("rvol").is_empty());
}
