//! An installation that something is wrong with says what, and harms nobody: a role that was taken away, another agent on
//! the same node.

use jiff::Timestamp;
use serde_json::{Value, json};
use tests::kubernetes::stage::{CLASS, REST, Stage, pod};

/// A pod works on without them; both are told of in the agent's log, and both are mended by the command.
pub(crate) fn story(stage: &mut Stage) {
    stage.claim("kept", CLASS, "16Mi");
    stage.apply(&pod("kept", &["kept"], REST));
    stage.run(&["kept"]);
    stage.sh("kept", "echo here >/kept/file; sync").ok();
    another_agent(stage);
    let from = Timestamp::now();
    a_role_is_missing(stage);
    stage.without_role.push([from, Timestamp::now()]);
    let kept = stage.sh("kept", "cat /kept/file").ok();
    assert_eq!(kept.stdout, "here\n");
    stage.clear();
}

fn logs(stage: &Stage, pod: &str) -> String {
    let words = ["--namespace=ringpv", "logs", pod, "--all-containers"];
    stage.cluster.kubectl(&words).stdout
}

/// It is the driver already: a second one ends, and the first goes on.
fn another_agent(stage: &Stage) {
    let first = stage.agent();
    let mut second = stage.get("-nringpv", &format!("pod/{first}"));
    second["metadata"] = json!({"name": "second", "namespace": "ringpv"});
    second["status"] = Value::Null;
    second["spec"]["restartPolicy"] = json!("Never");
    // The metrics of the first are at the port that it wants.
    let words = second["spec"]["containers"][0]["args"]
        .as_array_mut()
        .unwrap();
    words.retain(|word| !word.as_str().unwrap().starts_with("--metrics-listen"));
    for probe in ["livenessProbe", "readinessProbe"] {
        second["spec"]["containers"][0][probe] = Value::Null;
    }
    stage.apply(&second);
    stage.cluster.until("the second agent has ended", || {
        stage.get("-nringpv", "pod/second")["status"]["phase"] == "Failed"
    });
    let said = logs(stage, "second");
    assert!(said.contains("is served by another process"), "{said}");
    assert_eq!(stage.agent(), first);
    stage.delete(&["--namespace=ringpv", "pod", "second"]);
    assert!(
        stage
            .all("rdrive")
            .iter()
            .all(|it| it["status"]["phase"] == "Ready"),
        "the first goes on"
    );
}

/// What it may not do is in its log, by verb and resource, until it may.
fn a_role_is_missing(stage: &Stage) {
    stage.kubectl(&["delete", "clusterrolebinding", "ringpv-agent"]);
    let agent = stage.agent();
    stage.delete(&["--namespace=ringpv", "pod", &agent]);
    stage.cluster.until("the log says what is forbidden", || {
        let agent = stage.agent_if_any();
        let said = logs(stage, &agent);
        said.contains("cannot get resource") || said.contains("cannot list resource")
    });
    stage.install(&[]).ok();
    stage.cluster.until("the agent is ready", || {
        let ready = r#"--output=jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
        let agent = stage.agent_if_any();
        let words = ["--namespace=ringpv", "get", "pod", &agent, ready];
        stage.cluster.kubectl(&words).stdout == "True"
    });
}
