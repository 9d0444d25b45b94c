//! The leading controller is killed in the middle of fifty claims: none is lost, and none is promised twice.

use std::collections::BTreeSet;

use crate::stage::{MIB, Stage, bytes_of, claim};

const CLAIMS: usize = 50;

pub(crate) fn story(stage: &Stage) {
    let holder = stage.get("-nringpv", "lease/ringpv-controller");
    let holder = holder["spec"]["holderIdentity"].as_str().unwrap();
    let leader = holder.split(':').next().unwrap().to_owned();
    let claims: Vec<_> = (0..CLAIMS)
        .map(|index| claim(&format!("many-{index}"), "immediate", "16Mi").to_string())
        .collect();
    let claims = claims.join("\n---\n");
    let before = std::thread::scope(|scope| {
        // It takes its time over so many.
        scope.spawn(|| stage.cluster.apply(&claims));
        stage
            .cluster
            .until("some are promised", || stage.all("rvol").len() > 2);
        let before = stage.all("rvol").len();
        let killed = [
            "--namespace=ringpv",
            "delete",
            "pod",
            &leader,
            "--grace-period=0",
            "--force",
        ];
        stage.kubectl(&killed);
        before
    });
    println!("{before} of {CLAIMS} were promised when {leader} was killed");
    assert!(before < CLAIMS, "it came too late");
    stage.cluster.until("all claims are bound", || {
        stage
            .all("pvc")
            .iter()
            .filter(|it| it["status"]["phase"] == "Bound")
            .count()
            == CLAIMS
    });
    let after = stage.get("-nringpv", "lease/ringpv-controller");
    assert!(
        !after["spec"]["holderIdentity"]
            .as_str()
            .unwrap()
            .starts_with(&leader)
    );

    let volumes = stage.all("rvol");
    let names: BTreeSet<_> = volumes
        .iter()
        .map(|it| it["spec"]["csiName"].as_str().unwrap())
        .collect();
    assert_eq!((volumes.len(), names.len()), (CLAIMS, CLAIMS));
    assert!(volumes.iter().all(|it| bytes_of(it) == 16 * MIB));
    for volume in stage.all("pv") {
        let handle = volume["spec"]["csi"]["volumeHandle"].as_str().unwrap();
        assert!(
            volumes.iter().any(|it| it["metadata"]["name"] == handle),
            "{handle}"
        );
    }
    stage.clear();
}
