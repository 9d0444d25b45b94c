//! An administrator installs, looks, changes a flag, mistypes a folder, and puts it right.

use serde_json::Value;
use tests::kubernetes::NATIVE;

use tests::kubernetes::stage::Stage;

/// The lines of the table, without its titles, and with what was done.
fn rows(table: &str) -> Vec<Vec<&str>> {
    let lines = table.lines().skip(1);
    lines
        .map(|line| line.split_whitespace().collect())
        .collect()
}

pub(crate) fn story(stage: &Stage) {
    // The kubelet knows the driver, by the agent's own word.
    stage.cluster.until("the kubelet knows the driver", || {
        let node: Value = stage.get("csinode", NATIVE);
        let drivers = node["spec"]["drivers"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        drivers.iter().any(|driver| {
            driver["name"] == "ringpv.io"
                && driver["topologyKeys"] == serde_json::json!(["ringpv.io/node"])
        })
    });

    // Once more changes nothing, and says so of every object.
    let again = stage.install(&[]).ok();
    let changed: Vec<_> = rows(&again.stdout)
        .into_iter()
        .filter(|row| row[2] != "unchanged")
        .collect();
    assert!(
        changed.is_empty() && again.stdout.contains("DaemonSet"),
        "{again}"
    );

    // What a flag would change is said, and not done.
    let before = stage.get("-nringpv", "deployment/ringpv-controller");
    let dry = stage.install(&["--replicas=1", "--dry-run"]).ok();
    let changed: Vec<_> = rows(&dry.stdout)
        .into_iter()
        .filter(|row| row[2] != "unchanged")
        .collect();
    assert_eq!(changed.len(), 1, "{dry}");
    assert!(dry.stdout.contains("spec.replicas"), "{dry}");
    let after = stage.get("-nringpv", "deployment/ringpv-controller");
    assert_eq!(before["spec"], after["spec"]);

    // What is printed is what is there: applied by kubectl it changes nothing.
    let printed = stage.install(&["--output=yaml"]).ok().stdout;
    let file = stage.cluster.path("printed.yaml");
    std::fs::write(&file, printed).unwrap();
    let file = file.display().to_string();
    let kubectl = [
        "diff",
        "--server-side",
        "--force-conflicts",
        "--filename",
        &file,
    ];
    let diff = stage.cluster.kubectl(&kubectl);
    assert_eq!(diff.code, Some(0), "{diff}");

    // A folder that is not there: the person learns which, and what is there goes on once it is put right.
    let wrong = ["--kubelet-dir=/nowhere/kubelet", "--timeout=20s"];
    let refused = stage.install(&wrong).refused(3, "/nowhere/kubelet");
    assert!(refused.stderr.contains("is not a directory"), "{refused}");
    stage.install(&[]).ok();

    all_that_tells_how_it_is(stage);
    // Agents told of each drive, and the API server took it.
    for drive in stage.all("rdrive") {
        let name = drive["metadata"]["name"].as_str().unwrap();
        stage.cluster.until("people are told of the drive", || {
            stage
                .all("events")
                .iter()
                .any(|event| event["involvedObject"]["name"] == name && event["reason"] == "Ready")
        });
    }

    // A cluster that is too old, a folder that is none, a flag that is none.
    let old = ["install", "--output=yaml", "--kube-version=1.29"];
    stage.cluster.ringpv(&old).refused(1, "1.30 or later");
    let relative = ["install", "--kubelet-dir=var/lib"];
    stage.cluster.ringpv(&relative).refused(2, "absolute path");
}

/// What is handed to whoever helps: an administrator may read all of it, so nothing is left out.
fn all_that_tells_how_it_is(stage: &Stage) {
    let folder = stage.cluster.path("support");
    let word = folder.display().to_string();
    stage.cluster.ringpv(&["support", &word]).ok();
    let read = |file: &str| {
        let path = folder.join(file);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
    };
    for (file, holds) in [
        ("versions.txt", "API server: v1."),
        ("objects/drives.yaml", "ringpv.io/v1alpha1"),
        ("objects/storagenodes.yaml", NATIVE),
        ("objects/daemonsets.yaml", "ringpv-agent"),
    ] {
        assert!(read(file).contains(holds), "{file}");
    }
    let agent = stage.agent();
    assert!(read(&format!("logs/{agent}/agent.log")).len() > 100);
    assert!(read(&format!("metrics/{agent}.txt")).contains("ringpv_build_info"));
    let left_out = std::fs::read_to_string(folder.join("left-out.txt"));
    assert!(left_out.is_err(), "{left_out:?}");
    stage
        .cluster
        .ringpv(&["support", &word])
        .refused(1, "FileExists");
}
