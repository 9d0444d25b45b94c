//! Emulated machines with NVMe drives as nodes: replicas spread over machines, sizes that are enforced, a power cut, and a drive
//! that is pulled out and plugged in again.

use serde_json::{Value, json};
use tests::guest::Images;
use tests::kubernetes::Machine;

use tests::kubernetes::stage::{MIB, Stage, claim, stateful_set};

const NAMES: [&str; 2] = ["machine-1", "machine-2"];
/// The class of claims whose size is enforced; the native node's kernel cannot, and is passed over.
const CLASS: &str = "enforced";
/// What the volume's own folders may take of its size.
const SLACK: u64 = 64 << 10;
const SIZE: &str = "1G";
const PODS: [&str; 2] = ["spread-0", "spread-1"];

pub(crate) fn story(stage: &Stage) {
    let images = Images::new();
    let mut machines = stage.machines(&NAMES, SIZE, &images);
    stage.class(
        CLASS,
        "WaitForFirstConsumer",
        json!({"capacity-enforcement": "strict"}),
    );
    replicas_are_spread(stage);
    a_size_is_enforced(stage);
    the_power_goes(stage, &mut machines[..1]);
    a_drive_is_pulled_out(stage, &machines[1], &images);
    stage.clear();
    for machine in machines {
        stage.cluster.leave(machine);
    }
    they_do_not_come_back(stage);
}

/// Their agents fall silent, and what is left of them in the API is taken away. What the native node has stays.
fn they_do_not_come_back(stage: &Stage) {
    let before = (stage.all("rnode").len(), stage.all("rdrive").len());
    for name in NAMES {
        let word = ["forget", name, "--yes", name];
        stage.cluster.ringpv(&word).refused(1, "NodeHeard");
        // Else it would take three minutes.
        let lease = format!("lease/ringpv-agent-{name}");
        let short = json!({"spec": {"leaseDurationSeconds": 1}}).to_string();
        stage.kubectl(&["--namespace=ringpv", "patch", &lease, "--patch", &short]);
        stage.cluster.until("its agent is silent", || {
            !stage.get("rnode", name)["status"]["silentSince"].is_null()
        });
        stage.told(name, "renewed");
        stage.cluster.ringpv(&word).ok();
        stage.cluster.until("its lease goes with it", || {
            let lease = ["--namespace=ringpv", "get", &lease, "--ignore-not-found"];
            stage.kubectl(&lease).is_empty()
        });
    }
    let after = (stage.all("rnode").len(), stage.all("rdrive").len());
    assert_eq!((after.0 + 2, after.1 + 4), before);
}

/// Each replica gets a machine of its own, by the topology that its claim's volume has.
fn replicas_are_spread(stage: &Stage) {
    let mut set = stateful_set("spread", 2, &[claim("data", CLASS, "64Mi")]);
    set["spec"]["template"]["spec"]["topologySpreadConstraints"] = json!([{
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "spread"}},
    }]);
    stage.apply(&set);
    stage.run(&PODS);
    let mut nodes: Vec<Value> = PODS
        .iter()
        .map(|pod| stage.get("pod", pod)["spec"]["nodeName"].clone())
        .collect();
    nodes.sort_by_key(ToString::to_string);
    assert_eq!(nodes, NAMES);
}

/// Whoever writes on is stopped at the volume's size, and again at the size that it grew to.
fn a_size_is_enforced(stage: &Stage) {
    is_full_at(stage, 64 * MIB);
    let patch = json!({"spec": {"resources": {"requests": {"storage": "96Mi"}}}}).to_string();
    stage.kubectl(&["patch", "pvc", "data-spread-0", "--patch", &patch]);
    stage.cluster.until("the claim has grown", || {
        stage.get("pvc", "data-spread-0")["status"]["capacity"]["storage"] == "96Mi"
    });
    is_full_at(stage, 96 * MIB);
}

fn is_full_at(stage: &Stage, bytes: u64) {
    let size = "df -k /data | tail -n 1 | awk '{print $2}'";
    let size = stage.sh("spread-0", size).ok().stdout;
    assert_eq!(size.trim(), (bytes / 1024).to_string());
    let full = stage.sh(
        "spread-0",
        "dd if=/dev/zero of=/data/much bs=4k count=40000",
    );
    assert!(
        full.code != Some(0) && full.stderr.contains("No space left"),
        "{full}"
    );
    let written = "sync; stat -c %s /data/much; rm /data/much";
    let written = stage.sh("spread-0", written).ok().stdout;
    let written: u64 = written.trim().parse().unwrap();
    assert!(
        (bytes - SLACK..=bytes).contains(&written),
        "{written} bytes were taken by a volume of {bytes}"
    );
}

/// Its pod finds out, the next one waits and says for what, and has its data once the drive is back.
fn a_drive_is_pulled_out(stage: &Stage, machine: &Machine, images: &Images) {
    let on = |pod: &&str| stage.get("pod", pod)["spec"]["nodeName"] == machine.name();
    let pod = PODS.into_iter().find(on).unwrap();
    let write = "dd if=/dev/urandom of=/data/file bs=64k count=64 2>/dev/null; cd /data; sha256sum file >sum; sync";
    stage.sh(pod, write).ok();
    let claim = stage.get("pvc", &format!("data-{pod}"));
    let pv = stage.get("pv", claim["spec"]["volumeName"].as_str().unwrap());
    let volume = stage.get("rvol", pv["spec"]["csi"]["volumeHandle"].as_str().unwrap());
    let id = volume["spec"]["drive"].as_str().unwrap();
    let drive = || stage.get("rdrive", id)["status"].clone();
    let serial = drive()["device"]["serial"].as_str().unwrap().to_owned();
    let slot = if serial.ends_with('a') {
        "nvme0"
    } else {
        "nvme1"
    };

    machine.guest().outside("unplug", &[slot]);
    stage.cluster.until("the drive is lost", || {
        let status = drive();
        status["phase"] == "Lost" && status["reason"] == "DriveLost"
    });
    stage.told(id, "no device with identity");
    let failed = stage.sh(pod, "echo more >/data/more && sync /data/more");
    assert_ne!(failed.code, Some(0), "{failed}");
    stage.delete(&["pod", pod, "--grace-period=1"]);
    stage.told(pod, "DriveUnavailable");

    machine
        .guest()
        .outside("plug", &[&images.spec(&serial, SIZE)]);
    // Under another name where something of it is mounted still (kernel-notes/37).
    stage
        .cluster
        .until("the drive is back", || drive()["phase"] == "Ready");
    stage.run(&[pod]);
    stage.sh(pod, "cd /data && sha256sum -c sum").ok();
}

/// What was synced is there when the power is back, in the same pod on the same machine.
fn the_power_goes(stage: &Stage, machines: &mut [Machine]) {
    let machine = &mut machines[0];
    let on = |pod: &&str| stage.get("pod", pod)["spec"]["nodeName"] == machine.name();
    let pod = PODS.into_iter().find(on).unwrap();
    let write = "dd if=/dev/urandom of=/data/file bs=64k count=64 2>/dev/null; cd /data; sha256sum file >sum; sync";
    stage.sh(pod, write).ok();
    machine.cut();
    let powered = stage.cluster.power_on(machines);
    powered.unwrap_or_else(|error| panic!("{error:#}"));
    stage.cluster.until("the pod runs again", || {
        stage.sh(pod, "cd /data && sha256sum -c sum").code == Some(0)
    });
}
