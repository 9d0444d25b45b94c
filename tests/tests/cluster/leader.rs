//! The leading controller is killed in the middle of fifty claims, or is stopped and wakes up when another leads: none is
//! lost, and none is promised twice.

use std::collections::BTreeSet;
use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::command::now;

use tests::kubernetes::stage::{MIB, Stage, bytes_of, claim};

const CLAIMS: usize = 50;

pub(crate) fn story(stage: &Stage) {
    let leader = stage.leader();
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
    assert_ne!(stage.leader(), leader);
    each_once(stage, CLAIMS);
    stage.clear();
}

/// Each claim has one volume, and each volume its claim.
fn each_once(stage: &Stage, claims: usize) {
    let volumes = stage.all("rvol");
    let names: BTreeSet<_> = volumes
        .iter()
        .map(|it| it["spec"]["csiName"].as_str().unwrap())
        .collect();
    assert_eq!((volumes.len(), names.len()), (claims, claims));
    assert!(volumes.iter().all(|it| bytes_of(it) == 16 * MIB));
    for volume in stage.all("pv") {
        let handle = volume["spec"]["csi"]["volumeHandle"].as_str().unwrap();
        assert!(
            volumes.iter().any(|it| it["metadata"]["name"] == handle),
            "{handle}"
        );
    }
}

/// It hears nothing for longer than its lease lasts, in the midst of claims, and then goes on as if nothing had been.
pub(crate) fn late(stage: &Stage) {
    const BEFORE: usize = 20;
    let leader = stage.leader();
    let process = process_of(&leader);
    let claims = |from: usize, to: usize| -> String {
        let claims = (from..to).map(|index| claim(&format!("late-{index}"), "immediate", "16Mi"));
        let claims: Vec<_> = claims.map(|it| it.to_string()).collect();
        claims.join("\n---\n")
    };
    let bound = || {
        let claims = stage.all("pvc");
        let bound = claims.iter().filter(|it| it["status"]["phase"] == "Bound");
        bound.count()
    };
    std::thread::scope(|scope| {
        scope.spawn(|| stage.cluster.apply(&claims(0, BEFORE)));
        let some = || stage.all("rvol").len() > 2;
        stage.cluster.until("some are promised", some);
        kill(process, Signal::SIGSTOP).expect("it is the cluster's");
    });
    let stopped = now();
    stage
        .cluster
        .until("another leads", || stage.leader() != leader);
    println!(
        "another leads after {:.1} s",
        stopped.elapsed().as_secs_f64()
    );
    stage.cluster.apply(&claims(BEFORE, 2 * BEFORE));
    stage
        .cluster
        .until("the other serves", || bound() == 2 * BEFORE);
    // It may have been ended meanwhile, for it did not answer.
    let woken = kill(process, Signal::SIGCONT);
    println!("it was there to be woken: {}", woken.is_ok());
    stage.cluster.until("it was started anew", || {
        let pod = stage.get("-nringpv", &format!("pod/{leader}"));
        let containers = pod["status"]["containerStatuses"].as_array().cloned();
        let ready = |it: &serde_json::Value| it["ready"] == true || it["started"] == true;
        let containers = containers.unwrap_or_default();
        containers.iter().all(ready)
            && containers
                .iter()
                .any(|it| it["restartCount"].as_u64() > Some(0))
    });
    assert_ne!(stage.leader(), leader, "it takes its place in the row");
    each_once(stage, 2 * BEFORE);
    stage.clear();
}

/// The controller's process in a pod: its container has the pod's name for a host name.
fn process_of(pod: &str) -> Pid {
    let mark = format!("HOSTNAME={pod}\0");
    let is_it = |id: &i32| {
        let of = |file: &str| fs::read(format!("/proc/{id}/{file}")).unwrap_or_default();
        of("comm").starts_with(b"ringpv-controll")
            && String::from_utf8_lossy(&of("environ")).contains(&mark)
    };
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut ids = processes.filter_map(|it| it.file_name().to_str()?.parse().ok());
    Pid::from_raw(ids.find(is_it).expect("the controller of the pod"))
}
