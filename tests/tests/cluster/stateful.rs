//! A database's way: three replicas with two claims each, data that are there after every turn, more room under load, a
//! drive that takes no more, and capacity given back.

use serde_json::json;

use tests::kubernetes::stage::{CLASS, MIB, Stage, bytes_of, claim, stateful_set};

const PODS: [&str; 3] = ["db-0", "db-1", "db-2"];
const WRITE: &str = "for d in /data /log; do dd if=/dev/urandom of=$d/file bs=64k count=64 2>/dev/null && \
                     (cd $d && sha256sum file > sum) || exit 1; done; sync";
const CHECK: &str = "for d in /data /log; do (cd $d && sha256sum -c sum) || exit 1; done";

pub(crate) fn story(stage: &Stage) {
    let claims = [claim("data", CLASS, "64Mi"), claim("log", CLASS, "32Mi")];
    stage.apply(&stateful_set("db", 3, &claims));
    stage.run(&PODS);
    for pod in PODS {
        stage.sh(pod, WRITE).ok();
    }
    let volumes = stage.all("rvol");
    let promised: u64 = volumes.iter().map(bytes_of).sum();
    assert_eq!((volumes.len(), promised), (6, 3 * 96 * MIB));
    for volume in &volumes {
        let node = &volume["spec"]["node"];
        assert_eq!(node, tests::kubernetes::NATIVE);
        assert!(
            volume["spec"]["placement"]["scores"].is_array()
                || volume["spec"]["placement"].is_object()
        );
    }

    // Pods go and come back, and so do their data.
    stage.delete(&["pod", "--selector=app=db", "--grace-period=1"]);
    stage.run(&PODS);
    for pod in PODS {
        stage.sh(pod, CHECK).ok();
    }

    grows_under_load(stage);
    a_cordoned_drive_gets_no_more(stage);

    // Capacity comes back with the claims' end.
    stage.clear();
    let free = |drive: &serde_json::Value| {
        let capacity = &drive["status"]["capacity"];
        capacity["allocatableBytes"].as_u64().unwrap()
    };
    let shown = stage
        .cluster
        .ringpv(&["list", "drives", "--output=json"])
        .ok();
    assert!(
        stage
            .all("rdrive")
            .iter()
            .all(|drive| free(drive) > 2 << 30),
        "{shown}"
    );
}

/// More room, while it is written to.
fn grows_under_load(stage: &Stage) {
    let load = "i=0; while [ $i -lt 200 ]; do dd if=/dev/zero of=/data/load bs=64k count=16 2>/dev/null || exit 1; \
                sync; i=$((i+1)); done; touch /data/done";
    stage
        .sh("db-0", &format!("({load}) >/dev/null 2>&1 &"))
        .ok();
    let patch = json!({"spec": {"resources": {"requests": {"storage": "128Mi"}}}}).to_string();
    stage.kubectl(&["patch", "pvc", "data-db-0", "--patch", &patch]);
    stage.cluster.until("the claim has grown", || {
        stage.get("pvc", "data-db-0")["status"]["capacity"]["storage"] == "128Mi"
    });
    stage.cluster.until("the load came to its end", || {
        stage.sh("db-0", "test -e /data/done").code == Some(0)
    });
    stage.sh("db-0", CHECK).ok();
    let grown = stage.get("pvc", "data-db-0")["spec"]["volumeName"].clone();
    let grown = stage.get("rvol", grown.as_str().unwrap());
    assert_eq!(bytes_of(&grown), 128 * MIB);
}

/// It keeps what it has.
fn a_cordoned_drive_gets_no_more(stage: &Stage) {
    let drives = stage.all("rdrive");
    let cordoned = drives[0]["metadata"]["name"].as_str().unwrap();
    stage.cluster.ringpv(&["cordon", cordoned]).ok();
    for index in 0..4 {
        let name = format!("more-{index}");
        stage.claim(&name, "immediate", "16Mi");
        stage.cluster.until("it is bound", || {
            stage.get("pvc", &name)["status"]["phase"] == "Bound"
        });
        let volume = stage.get("pvc", &name)["spec"]["volumeName"].clone();
        let volume = stage.get("rvol", volume.as_str().unwrap());
        assert_ne!(volume["spec"]["drive"], cordoned);
    }
    stage.cluster.ringpv(&["uncordon", cordoned]).ok();
}
