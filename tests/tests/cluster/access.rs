//! Least privilege: an agent is kept to its node and to what is its to write, a person to what their role says, and no
//! role holds what its programs do not use.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use api::Drive;
use jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tests::command::{Outcome, program, run};
use tests::conformance::connect;
use tests::kubernetes::{NATIVE, PATIENCE};

use tests::kubernetes::stage::Stage;

/// Somebody with a token.
struct Somebody<'a> {
    stage: &'a Stage,
    kubeconfig: String,
}

impl<'a> Somebody<'a> {
    fn with(stage: &'a Stage, token: &str) -> Self {
        let words = ["config", "view", "--raw", "--output=json"];
        let mut config: Value = serde_json::from_str(&stage.kubectl(&words)).unwrap();
        config["users"][0]["user"] = json!({"token": token.trim()});
        let kubeconfig = stage
            .cluster
            .path("somebody.kubeconfig")
            .display()
            .to_string();
        fs::write(&kubeconfig, config.to_string()).unwrap();
        Self { stage, kubeconfig }
    }

    fn kubectl(&self, words: &[&str]) -> Outcome {
        let mut command = program(self.stage.cluster.kubectl_program());
        command.env("KUBECONFIG", &self.kubeconfig).args(words);
        run(command, PATIENCE)
    }

    /// Patches the status of a drive, without a look at it first as kubectl's; or says why not.
    fn status(&self, drive: &str, patch: &Value) -> Result<(), String> {
        self.call(async |drives| {
            let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
            drives.patch_status(drive, &params, &patch).await
        })
    }

    /// The same of its spec.
    fn spec(&self, drive: &str, patch: &Value) -> Result<(), String> {
        self.call(async |drives| {
            let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
            drives.patch(drive, &params, &patch).await
        })
    }

    fn call(
        &self,
        call: impl AsyncFnOnce(Api<Drive>) -> kube::Result<Drive>,
    ) -> Result<(), String> {
        self.stage.cluster.runtime.block_on(async {
            let client = connect(Path::new(&self.kubeconfig)).await.unwrap();
            let done = call(Api::all(client)).await;
            done.map(drop).map_err(|error| error.to_string())
        })
    }

    fn patch(&self, words: &[&str], patch: &Value) -> Outcome {
        let patch = patch.to_string();
        let mut all = vec!["patch", "--type=merge", "--patch", &patch];
        all.extend(words);
        self.kubectl(&all)
    }
}

/// The agent's own token, as the kubelet gives it to its pod, and what it is not good for.
pub(crate) fn agents(stage: &Stage) {
    let pod = stage.agent();
    let uid = stage.get("-nringpv", &format!("pod/{pod}"))["metadata"]["uid"].clone();
    let uid = uid.as_str().unwrap();
    let token = stage.kubectl(&[
        "--namespace=ringpv",
        "create",
        "token",
        "ringpv-agent",
        "--bound-object-kind=Pod",
        "--bound-object-name",
        &pod,
        "--bound-object-uid",
        uid,
    ]);
    let agent = Somebody::with(stage, &token);
    let own = stage.all("rdrive")[0]["metadata"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    // A drive of another node, which needs none to be there.
    let elsewhere = "00000000-0000-4000-8000-000000000001";
    let mut drive = stage.get("rdrive", &own);
    drive["metadata"] = json!({"name": elsewhere});
    drive["spec"]["node"] = json!("elsewhere");
    drive.as_object_mut().unwrap().remove("status");
    stage.apply(&drive);

    let status = json!({"status": {"observedGeneration": 1}});
    agent.status(&own, &status).unwrap();
    let verdict = json!({"status": {"verdict": {
        "state": "Slow", "reason": "Ready", "message": "mine", "since": "2026-01-01T00:00:00Z"}}});
    for (refused, says) in [
        (agent.status(elsewhere, &status), "node elsewhere"),
        (agent.status(&own, &verdict), "the controller's"),
        (
            agent.spec(&own, &json!({"spec": {"cordoned": true}})),
            "changes no spec",
        ),
    ] {
        let refused = refused.unwrap_err();
        assert!(refused.contains(says), "{refused}");
    }
    agent
        .kubectl(&["delete", "rdrive", &own])
        .refused(1, "cannot delete");
    agent
        .kubectl(&["get", "secrets", "--all-namespaces"])
        .refused(1, "cannot list");
    only_inline_volumes(stage, &agent, [&own, elsewhere]);
    // A token that is bound to no pod is nobody's.
    let loose = stage.kubectl(&["--namespace=ringpv", "create", "token", "ringpv-agent"]);
    let loose = Somebody::with(stage, &loose);
    let refused = loose.status(&own, &status).unwrap_err();
    assert!(refused.contains("bound to no node"), "{refused}");

    let gone = json!({"metadata": {"finalizers": null}}).to_string();
    stage.kubectl(&["delete", "rdrive", elsewhere, "--wait=false"]);
    // It may be gone already.
    let _freed = stage.cluster.kubectl(&[
        "patch",
        "rdrive",
        elsewhere,
        "--type=merge",
        "--patch",
        &gone,
    ]);
}

/// A volume with a drive is the controller's to make; of another node nobody's.
fn only_inline_volumes(stage: &Stage, agent: &Somebody<'_>, [own, elsewhere]: [&str; 2]) {
    let volume = |node: &str, drive: &str| {
        let spec = json!({"csiName": "v", "node": node, "drive": drive, "capacityBytes": 1 << 24, "ephemeral": true});
        json!({"apiVersion": "ringpv.io/v1alpha1", "kind": "Volume", "metadata": {"name": "v"}, "spec": spec})
    };
    for (volume, says) in [
        (volume(NATIVE, own), "without a drive"),
        (volume("elsewhere", elsewhere), "node elsewhere"),
    ] {
        let file = stage.cluster.path("volume.json").display().to_string();
        fs::write(&file, volume.to_string()).unwrap();
        agent
            .kubectl(&["create", "--filename", &file])
            .refused(1, says);
    }
}

/// Those who steer destroy nothing; those who may destroy say so.
pub(crate) fn people(stage: &Stage) {
    let own = stage.all("rdrive")[0]["metadata"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    let somebody = |role: &str| {
        let account = format!("person-{role}");
        stage.kubectl(&["create", "serviceaccount", &account]);
        let (role, subject) = (
            format!("--clusterrole=ringpv-{role}"),
            format!("--serviceaccount=default:{account}"),
        );
        stage.kubectl(&["create", "clusterrolebinding", &account, &role, &subject]);
        stage.kubectl(&["create", "token", &account])
    };
    let cordon = |on: bool| json!({"spec": {"cordoned": on}});
    let token = somebody("view");
    let viewer = Somebody::with(stage, &token);
    viewer.kubectl(&["get", "rdrive,rvol,rnode,rbench"]).ok();
    viewer
        .patch(&["rdrive", &own], &cordon(true))
        .refused(1, "cannot patch");

    let token = somebody("operate");
    let operator = Somebody::with(stage, &token);
    operator.patch(&["rdrive", &own], &cordon(true)).ok();
    operator.patch(&["rdrive", &own], &cordon(false)).ok();
    for patch in [
        json!({"spec": {"force": true}}),
        json!({"spec": {"removal": {"erase": true}}}),
    ] {
        let refused = operator.patch(&["rdrive", &own], &patch);
        assert!(refused.code != Some(0), "{refused}");
    }
    let refused = operator.patch(&["rdrive", &own], &json!({"spec": {"force": true}}));
    refused.refused(1, "verb erase on drives");

    stage.apply(&json!({"apiVersion": "ringpv.io/v1alpha1", "kind": "StorageNode", "metadata": {"name": "gone"}, "spec": {}}));
    let forget = ["delete", "rnode", "gone"];
    operator.kubectl(&forget).refused(1, "cannot delete");

    let token = somebody("erase");
    let eraser = Somebody::with(stage, &token);
    eraser.kubectl(&forget).ok();
    eraser
        .patch(&["rdrive", &own], &json!({"spec": {"force": true}}))
        .ok();
    eraser
        .patch(&["rdrive", &own], &json!({"spec": {"force": false}}))
        .ok();
    stage.delete(&[
        "clusterrolebinding",
        "person-view",
        "person-operate",
        "person-erase",
    ]);
    stage.delete(&[
        "serviceaccount",
        "person-view",
        "person-operate",
        "person-erase",
    ]);
}

type Verbs = BTreeMap<(String, String), BTreeSet<String>>;

/// What roles give, and what the API's log says was used. A permission without use is one too many, where `whole` says
/// that all stories ran; a use without permission was refused, which no program of ours may meet.
pub(crate) fn verbs(stage: &Stage, whole: bool) {
    let mut idle = Vec::new();
    for (account, roles) in [
        (
            "ringpv-agent",
            vec![
                ("ringpv", "clusterrole", "ringpv-agent"),
                ("ringpv", "role", "ringpv-agent"),
                ("default", "role", "ringpv-agent"),
            ],
        ),
        (
            "ringpv-controller",
            vec![
                ("ringpv", "clusterrole", "ringpv-controller"),
                ("ringpv", "clusterrole", "ringpv-sidecars"),
                ("ringpv", "role", "ringpv-controller"),
            ],
        ),
    ] {
        let mut given = Verbs::new();
        for (namespace, kind, name) in roles {
            let namespace = format!("--namespace={namespace}");
            add(
                &mut given,
                &stage.get(&namespace, &format!("{kind}/{name}")),
            );
        }
        let (used, refused) = used(stage, account);
        assert!(refused.is_empty(), "{account} was refused: {refused:#?}");
        for (of, verbs) in given {
            let used = used.get(&of).cloned().unwrap_or_default();
            // A server without streamed lists is asked for a list before a watch. Our own verb is no request's.
            let is_used = |verb: &str| {
                used.contains(verb) || verb == "erase" || (verb == "list" && used.contains("watch"))
            };
            for verb in verbs.iter().filter(|verb| !is_used(verb)) {
                idle.push(format!("{account}: {verb} {}.{}", of.1, of.0));
            }
        }
    }
    assert!(idle.is_empty() || !whole, "never used: {idle:#?}");
}

fn add(given: &mut Verbs, role: &Value) {
    let words = |rule: &Value, key: &str| -> Vec<String> {
        let all = rule[key].as_array().into_iter().flatten();
        all.map(|it| it.as_str().unwrap().to_owned()).collect()
    };
    for rule in role["rules"].as_array().unwrap() {
        for group in words(rule, "apiGroups") {
            for resource in words(rule, "resources") {
                let entry = given.entry((group.clone(), resource)).or_default();
                entry.extend(words(rule, "verbs"));
            }
        }
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn used(stage: &Stage, account: &str) -> (Verbs, Vec<String>) {
    let user = format!("system:serviceaccount:ringpv:{account}");
    let (mut used, mut refused) = (Verbs::new(), Vec::new());
    for event in stage.cluster.audited() {
        let at: Timestamp = text_of(&event["requestReceivedTimestamp"]).parse().unwrap();
        let mut without = stage.without_role.iter();
        if event["user"]["username"] != user.as_str()
            || without.any(|[from, to]| (*from..*to).contains(&at))
        {
            continue;
        }
        let text = text_of;
        let object = &event["objectRef"];
        let (mut resource, verb) = (text(&object["resource"]), text(&event["verb"]));
        if object["subresource"].is_string() {
            resource = format!("{resource}/{}", text(&object["subresource"]));
        }
        // A token of the test's own is an agent's, too; so is what the policies refuse it.
        let is_ours = !text(&event["userAgent"]).starts_with("kubectl/");
        if is_ours && event["responseStatus"]["code"] == 403 {
            refused.push(format!(
                "{verb} {resource}: {}",
                event["responseStatus"]["message"]
            ));
        }
        if is_ours {
            used.entry((text(&object["apiGroup"]), resource))
                .or_default()
                .insert(verb);
        }
    }
    (used, refused)
}
