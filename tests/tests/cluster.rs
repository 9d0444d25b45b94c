//! Level cluster. A real Kubernetes, and RingPV in it as an administrator has it: stories, each in a file of its own.
//! `STORY=NAME` tells only those whose name holds that.

#![cfg(test)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use controller::embedded::{Embedded, Listen, Options as EmbeddedOptions};
use tests::command::{now, ours, program, run};
use tests::conformance::{self, kubectl};
use tests::kubernetes::stage::Stage;
use tests::kubernetes::{Kubernetes, NATIVE, PATIENCE, held, refusal};
use tests::loopdev::mounts;

mod cluster {
    pub(crate) mod access;
    pub(crate) mod hindered;
    pub(crate) mod installed;
    pub(crate) mod kinds;
    pub(crate) mod leader;
    pub(crate) mod machines;
    pub(crate) mod measured;
    pub(crate) mod refused;
    pub(crate) mod reinstalled;
    pub(crate) mod restarts;
    pub(crate) mod sane;
    pub(crate) mod seen;
    pub(crate) mod stateful;
    pub(crate) mod steered;
}
use cluster::{
    access, hindered, installed, kinds, leader, machines, measured, refused, reinstalled, restarts,
    sane, seen, stateful, steered,
};

/// When a story is told: always, or where CI is set only by the commits whose turn it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Always,
    InTurn,
}
use Told::{Always, InTurn};

type Story = fn(&mut Stage);

/// One after another on one cluster, which takes as long to start as one of them to run.
const STORIES: [(&str, Told, Story); 22] = [
    ("a_pod_runs_to_its_end", Always, |it| {
        a_pod_runs_to_its_end(&it.cluster)
    }),
    ("requests_are_written_down", Always, |it| {
        requests_are_written_down(&it.cluster)
    }),
    ("the_api_is_as_we_rely_on", Always, |it| {
        the_api_is_as_we_rely_on(&it.cluster)
    }),
    ("its_kubectl_is_content", InTurn, |it| {
        its_kubectl_is_content(&it.cluster)
    }),
    ("installed", Always, |it| installed::story(it)),
    ("stateful", Always, |it| stateful::story(it)),
    ("refused", Always, |it| refused::story(it)),
    ("hindered", InTurn, hindered::story),
    ("kinds", InTurn, |it| kinds::story(it)),
    ("spread_selected_suspended_moved", InTurn, |it| {
        steered::story(it)
    }),
    ("csi_sanity", InTurn, |it| sane::story(it)),
    ("an_agent_is_kept_to_its_own", Always, |it| {
        access::agents(it)
    }),
    ("people_are_kept_to_their_roles", InTurn, |it| {
        access::people(it)
    }),
    ("measured", InTurn, |it| measured::story(it)),
    ("seen", InTurn, |it| seen::story(it)),
    ("the_leader_is_killed", InTurn, |it| leader::story(it)),
    ("the_leader_wakes_up_late", InTurn, |it| leader::late(it)),
    ("upgraded", InTurn, |it| restarts::upgraded(it)),
    ("the_agent_is_killed", InTurn, |it| {
        restarts::agent_killed(it)
    }),
    (
        "the_kubelet_is_restarted",
        InTurn,
        restarts::kubelet_restarted,
    ),
    ("the_api_is_away", InTurn, |it| restarts::api_away(it)),
    ("machines", InTurn, |it| machines::story(it)),
];

#[test]
fn on_a_real_cluster() {
    if let Some(why) = refusal() {
        return tests::skip("on_a_real_cluster", &why);
    }
    let left = Left::by_a_killed_holder();
    let mut stage = Stage::installed();
    left.is_gone();
    println!("story what_a_killed_test_left_is_swept ... ok");
    stage.with_drives();
    let only = std::env::var("STORY").ok();
    let in_turn = |name: &str| tests::chance::is_its_turn(name, 4);
    let mut told = 0;
    let mut whole = true;
    for (name, when, story) in STORIES {
        let is_told = match &only {
            Some(only) => name.contains(only.as_str()),
            None => when == Always || in_turn(name),
        };
        if !is_told {
            println!("story {name}: not the turn of this commit");
            whole = false;
            continue;
        }
        let start = now();
        story(&mut stage);
        told += 1;
        println!(
            "story {name} ... ok ({:.1} s)",
            start.elapsed().as_secs_f64()
        );
    }
    access::verbs(&stage, whole);
    println!("story no_role_holds_what_nobody_uses ... ok");
    if only.is_none_or(|only| "reinstalled".contains(&only)) {
        // The last, for it takes all away.
        reinstalled::story(&stage);
        println!("story reinstalled ... ok");
    }
    // The test itself counts as one, and the cases of the API count themselves.
    println!("COUNTED: {} passed, 0 failed, 0 skipped", told + 2);
}

/// What outlives the holder of a cluster who is killed while a pod runs.
struct Left {
    mounts: Vec<PathBuf>,
    processes: Vec<PathBuf>,
}

const RESTING: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: resting
spec:
  containers:
  - name: resting
    image: ringpv.test/pause:1
    imagePullPolicy: Never
";

impl Left {
    fn by_a_killed_holder() -> Self {
        let mut holder = program(ours("kube"));
        let holder = holder.arg("hold").stdin(Stdio::piped());
        let mut holder = holder.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(holder.stdout.take().unwrap()).lines();
        let mut lines = lines
            .map_while(Result::ok)
            .inspect(|line| println!("{line}"));
        assert!(lines.any(|line| line.starts_with("ready")));
        let folder = held().expect("a cluster that is held");
        let manifest = folder.join("resting.yaml");
        fs::write(&manifest, RESTING).unwrap();
        for words in [
            format!("apply --filename {}", manifest.display()),
            "wait --for=condition=Ready pod/resting --timeout=90s".to_owned(),
        ] {
            let mut kubectl = program(ours("kube"));
            kubectl
                .args(["exec", "--", "kubectl"])
                .args(words.split(' '));
            run(kubectl, PATIENCE).ok();
        }
        holder.kill().unwrap();
        holder.wait().unwrap();

        let targets = mounts().into_iter().map(|mount| mount.target);
        let bundles = folder.join("containerd-state/io.containerd.runtime.v2.task/k8s.io");
        let bundles = fs::read_dir(bundles).unwrap().flatten();
        let left = Self {
            mounts: targets.filter(|it| it.starts_with(&folder)).collect(),
            processes: bundles
                .map(|bundle| fs::read_to_string(bundle.path().join("init.pid")).unwrap())
                .map(|pid| Path::new("/proc").join(pid.trim()))
                .collect(),
        };
        assert!(left.mounts.len() > 2, "{:?}", left.mounts);
        assert_eq!(
            left.processes.len(),
            2,
            "of the pod's network, and of its container"
        );
        left
    }

    fn is_gone(&self) {
        let mounted: Vec<PathBuf> = mounts().into_iter().map(|mount| mount.target).collect();
        // The new cluster has its own there.
        let shared = |it: &PathBuf| it.ends_with("run/kubelet") || it.ends_with("run/ringpv");
        let still = self.mounts.iter().filter(|it| !shared(it));
        let still: Vec<_> = still.filter(|it| mounted.contains(it)).collect();
        assert!(still.is_empty(), "mounted: {still:?}");
        let still: Vec<_> = self
            .processes
            .iter()
            .filter(|it| it.join("exe").exists())
            .collect();
        assert!(still.is_empty(), "running: {still:?}");
    }
}

const POD: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: hello
spec:
  restartPolicy: Never
  containers:
  - name: hello
    image: ringpv.test/hello:1
    imagePullPolicy: Never
";

fn a_pod_runs_to_its_end(cluster: &Kubernetes) {
    // A program that needs no other file, and says something.
    let root = tempfile::tempdir().unwrap();
    fs::copy(cluster.kubectl_program(), root.path().join("kubectl")).unwrap();
    let command = ["/kubectl", "version", "--client"];
    cluster
        .image("ringpv.test/hello:1", root.path(), &command)
        .unwrap();
    cluster.apply(POD);
    cluster.until("the pod has run to its end", || {
        let phase = ["get", "pod", "hello", "--output=jsonpath={.status.phase}"];
        cluster.kubectl(&phase).stdout == "Succeeded"
    });
    let node = ["get", "pod", "hello", "--output=jsonpath={.spec.nodeName}"];
    assert_eq!(cluster.kubectl(&node).ok().stdout, NATIVE);
    let said = cluster.kubectl(&["logs", "hello"]).ok().stdout;
    assert!(said.contains("Client Version: v1."), "{said}");
    cluster.kubectl(&["delete", "pod", "hello"]).ok();
}

fn requests_are_written_down(cluster: &Kubernetes) {
    let of_the_pod = |event: &serde_json::Value| {
        event["objectRef"]["name"] == "hello" && event["user"]["username"] == "admin"
    };
    let mut verbs: Vec<_> = cluster.audited().into_iter().filter(of_the_pod).collect();
    verbs.retain(|event| event["verb"] == "create" || event["verb"] == "delete");
    let verbs: Vec<_> = verbs.iter().map(|event| &event["verb"]).collect();
    assert_eq!(verbs, ["create", "delete"]);
}

/// The same cases that tests/tests/api_conformance.rs holds against the embedded API.
fn the_api_is_as_we_rely_on(cluster: &Kubernetes) {
    let held = conformance::hold(cluster.client(), "cluster");
    cluster.runtime.block_on(held).unwrap();
}

/// The same steps of a person at kubectl, against both.
fn its_kubectl_is_content(cluster: &Kubernetes) {
    let program = cluster.kubectl_program();
    let steps = |client, kubeconfig: &Path, embedded| {
        let tag = std::process::id().to_string();
        let kubeconfig = kubeconfig.to_owned();
        let program = program.clone();
        async move { kubectl::run(client, &program, &kubeconfig, &tag, embedded).await }
    };
    cluster.runtime.block_on(async {
        let client = cluster.client();
        steps(client, &cluster.kubeconfig(), false).await.unwrap();

        let directory = tempfile::tempdir().unwrap();
        let embedded = Embedded::open(directory.path(), EmbeddedOptions::default()).unwrap();
        let server = embedded.serve(&Listen::default()).await.unwrap();
        let client = conformance::connect(server.kubeconfig()).await.unwrap();
        steps(client, server.kubeconfig(), true).await.unwrap();
        server.stop().await;
        embedded.close();
    });
}
