//! RingPV is taken out and put in again, and even all its objects are: no byte is lost.

use tests::kubernetes::stage::{CLASS, REST, Stage, claim, pod};

const WRITE: &str = "dd if=/dev/urandom of=/db/file bs=64k count=64 2>/dev/null && cd /db && sha256sum file > sum && sync";
const CHECK: &str = "cd /db && sha256sum -c sum";

pub(crate) fn story(stage: &Stage) {
    stage.claim("db", CLASS, "64Mi");
    stage.apply(&pod("db", &["db"], REST));
    stage.run(&["db"]);
    stage.sh("db", WRITE).ok();

    // The programs go; drives, volumes, data and the running pod stay.
    let gone = stage.cluster.ringpv(&["uninstall"]).ok();
    assert!(gone.stderr.contains("2 drives and 1 volumes"), "{gone}");
    assert!(gone.stderr.contains("pods use 1 of the volumes"), "{gone}");
    stage.sh("db", CHECK).ok();
    assert_eq!((stage.all("rdrive").len(), stage.all("rvol").len()), (2, 1));
    stage.install(&[]).ok();
    stage.sh("db", CHECK).ok();
    stage.delete(&["pod", "db"]);
    stage.apply(&pod("db", &["db"], REST));
    stage.run(&["db"]);
    stage.sh("db", CHECK).ok();

    // Not while a pod uses one of them.
    stage
        .cluster
        .ringpv(&["uninstall", "--dangerous"])
        .refused(1, "StillPublished");
    let handle = stage.retain("db", "db");
    stage.cluster.until("it is mounted nowhere", || {
        let volume = &stage.all("rvol")[0];
        volume["status"]["targets"]
            .as_array()
            .is_none_or(Vec::is_empty)
    });

    all_but_the_data_goes(stage);
    drives_know_themselves(stage, &handle);
}

/// The word is the cluster's own.
fn all_but_the_data_goes(stage: &Stage) {
    let word = stage.get("namespace", "kube-system")["metadata"]["uid"].clone();
    let word = word.as_str().unwrap().split('-').next().unwrap().to_owned();
    let unsaid = stage
        .cluster
        .ringpv(&["uninstall", "--dangerous"])
        .refused(1, "NotConfirmed");
    assert!(unsaid.stderr.contains(&word), "{unsaid}");
    assert_eq!(stage.all("rdrive").len(), 2);
    stage
        .cluster
        .ringpv(&["uninstall", "--dangerous", "--yes", &word])
        .ok();
    let kinds = stage.kubectl(&["get", "crds", "--output=name"]);
    assert!(!kinds.contains("ringpv.io"), "{kinds}");
}

/// What the API forgot is found on the drives.
fn drives_know_themselves(stage: &Stage, handle: &str) {
    stage.install(&[]).ok();
    stage.cluster.until("the drives are found", || {
        stage.cluster.ringpv(&["adopt", "--all"]).code == Some(0)
    });
    stage.cluster.until("all is as it was", || {
        let ready = stage
            .all("rdrive")
            .iter()
            .filter(|it| it["status"]["phase"] == "Ready")
            .count();
        ready == 2 && stage.all("rvol").len() == 1
    });
    let gone = stage.cluster.ringpv(&["list", "volumes", "--pv-gone"]).ok();
    assert!(gone.stdout.contains(handle), "{gone}");
    // Its PersistentVolume is for the claim of before, and for no other.
    let adopted = stage
        .cluster
        .ringpv(&["adopt", "--all", "--pv-class", ""])
        .ok();
    assert!(adopted.stdout.contains(handle), "{adopted}");
    stage
        .cluster
        .ringpv(&["clean", handle, "--yes", handle])
        .refused(1, "StillClaimed");
    stage.apply(&claim("db", "", "64Mi"));
    stage.apply(&pod("db", &["db"], REST));
    stage.run(&["db"]);
    stage.sh("db", CHECK).ok();
    stage.delete(&["pod", "db"]);
    stage.delete(&["pvc", "db"]);
    let name = stage.all("pv")[0]["metadata"]["name"].clone();
    stage.delete(&["pv", name.as_str().unwrap()]);
    stage.cluster.until("its volume is cleaned", || {
        let cleaned = stage.cluster.ringpv(&["clean", handle, "--yes", handle]);
        cleaned.code == Some(0)
    });
    stage.clear();
}
