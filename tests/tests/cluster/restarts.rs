//! Agent, kubelet and API go away and come back under running pods, which notice nothing.

use std::time::Duration;

use serde_json::json;
use tests::command::{program, run};
use tests::kubernetes::PATIENCE;

use tests::kubernetes::stage::{CLASS, REST, Stage, pod};

/// Writes and reads for ever; the first error ends it, and so the container.
const BUSY: &str = "i=0; while true; do echo $i > /load/file.new && sync /load/file.new && mv /load/file.new /load/file \
                    && [ \"$(cat /load/file)\" = $i ] || exit 1; i=$((i+1)); echo $i; sleep 0.05; done";

/// A pod that works all the time.
struct Busy<'a>(&'a Stage);

impl<'a> Busy<'a> {
    fn start(stage: &'a Stage) -> Self {
        stage.claim("load", CLASS, "32Mi");
        stage.apply(&pod("busy", &["load"], BUSY));
        stage.run(&["busy"]);
        Self(stage)
    }

    /// It has met no error, and works on.
    fn works(&self) {
        let stage = self.0;
        let done = || -> u64 {
            let said = stage.kubectl(&["logs", "busy", "--tail=1"]);
            said.trim().parse().unwrap_or(0)
        };
        let before = done();
        stage.cluster.until("the pod works on", || done() > before);
        let status = stage.get("pod", "busy")["status"]["containerStatuses"][0].clone();
        assert_eq!(status["restartCount"], 0, "{status}");
    }
}

/// A claim that is made now is served.
fn serves(stage: &Stage, name: &str) {
    stage.claim(name, CLASS, "16Mi");
    stage.apply(&pod(name, &[name], REST));
    stage.run(&[name]);
    stage.delete(&["pod", name, "--grace-period=1"]);
    stage.delete(&["pvc", name]);
}

/// A new image under running pods.
pub(crate) fn upgraded(stage: &Stage) {
    let busy = Busy::start(stage);
    let loaded = stage.cluster.load_own("next");
    loaded.unwrap_or_else(|error| panic!("{error:#}"));
    let image = format!("--image={}/ringpv:next", tests::kubernetes::REGISTRY);
    let done = stage.install(&[&image]).ok();
    assert!(done.stdout.contains("→"), "{done}");
    busy.works();
    serves(stage, "after-upgrade");
    stage.install(&[]).ok();
    busy.works();
    stage.clear();
}

/// The agent is killed while a drive is made, and while a pod waits for its volume.
pub(crate) fn agent_killed(stage: &Stage) {
    let kill = || {
        let agent = stage.agent();
        stage.kubectl(&[
            "--namespace=ringpv",
            "delete",
            "pod",
            &agent,
            "--grace-period=0",
            "--force",
        ]);
    };
    let busy = Busy::start(stage);
    let drives = stage.all("rdrive");
    let used = stage.all("rvol")[0]["spec"]["drive"].clone();
    let free = drives
        .iter()
        .map(|it| it["metadata"]["name"].clone())
        .find(|it| *it != used);
    let free = free.unwrap();
    let free = free.as_str().unwrap();
    let device = stage.drives.iter().find(|it| {
        let mounts = it.mounts();
        mounts.iter().any(|mount| mount.ends_with(free))
    });
    let device = device.unwrap();
    stage.cluster.ringpv(&["remove", free]).ok();
    let mut zero = program("blkdiscard");
    zero.args(["--zeroout", "--force"]).arg(device.path());
    run(zero, PATIENCE).ok();
    stage
        .cluster
        .until("the device can become a drive again", || {
            let seen = stage.cluster.ringpv(&["discover", "--overwrite"]);
            seen.stdout
                .lines()
                .any(|line| line.contains(device.name()) && line.contains("yes"))
        });
    let id = stage
        .cluster
        .ringpv(&["init", "drives.yaml", "--no-wait"])
        .ok();
    println!("{id}");
    for _ in 0..3 {
        kill();
        stage
            .cluster
            .until("an agent runs", || !stage.agent_if_any().is_empty());
    }
    stage.cluster.until("both drives are ready", || {
        let all = stage.all("rdrive");
        all.len() == 2 && all.iter().all(|it| it["status"]["phase"] == "Ready")
    });
    busy.works();

    stage.claim("staged", CLASS, "16Mi");
    stage.apply(&pod("staged", &["staged"], REST));
    stage.cluster.until("the claim is bound", || {
        stage.get("pvc", "staged")["status"]["phase"] == "Bound"
    });
    kill();
    stage.run(&["staged"]);
    busy.works();
    stage.clear();
}

/// The kubelet starts anew: it learns of the driver again, and of what is mounted.
pub(crate) fn kubelet_restarted(stage: &mut Stage) {
    Busy::start(stage);
    let restarted = stage.cluster.restart_kubelet();
    restarted.unwrap_or_else(|error| panic!("{error:#}"));
    serves(stage, "after-restart");
    Busy(stage).works();
    stage.clear();
}

/// The API server answers nobody for a minute.
pub(crate) fn api_away(stage: &Stage) {
    let busy = Busy::start(stage);
    let count = || -> u64 {
        let file = stage
            .drives
            .iter()
            .flat_map(tests::loopdev::LoopDevice::mounts);
        let found = file.filter_map(|mount| std::fs::read_to_string(mount.join("file")).ok());
        found
            .filter_map(|text| text.trim().parse().ok())
            .max()
            .unwrap_or(0)
    };
    let before = count();
    let agent = stage.agent();
    stage.cluster.without_api(Duration::from_secs(60));
    let after = count();
    assert!(
        after > before + 100,
        "the pod wrote while nobody answered: {before}, {after}"
    );
    busy.works();
    let agent = stage.get("-nringpv", &format!("pod/{agent}"));
    assert_eq!(
        agent["status"]["containerStatuses"][0]["restartCount"],
        json!(0),
        "{agent}"
    );
    serves(stage, "after-silence");
    stage.clear();
}
