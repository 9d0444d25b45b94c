//! kubectl as a person uses it, step by step on one volume: what it prints, and whether it is content.

use anyhow::{Result, ensure};
use kube::Client;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use super::{Ground, LABEL, others};
use crate::command::program;

/// One command, and what it must say.
struct Step {
    line: &'static str,
    succeeds: bool,
    says: &'static [&'static str],
}

const fn yes(line: &'static str, says: &'static [&'static str]) -> Step {
    Step {
        line,
        succeeds: true,
        says,
    }
}

const fn no(line: &'static str, says: &'static [&'static str]) -> Step {
    Step {
        line,
        succeeds: false,
        says,
    }
}

/// `NAME` is the volume, `MINE` what selects it, `FILE` its manifest.
const FIRST_STEPS: &[Step] = &[
    yes("version", &["Server Version: v1."]),
    yes(
        "api-resources --api-group=ringpv.io",
        &[
            "drives",
            "rdrive",
            "volumes",
            "rvol",
            "storagenodes",
            "benchmarks",
        ],
    ),
    yes(
        "explain volume.spec.capacityBytes",
        &["FIELD: capacityBytes <integer>"],
    ),
    yes(
        "create -f FILE --dry-run=server",
        &["created (server dry run)"],
    ),
    yes("create -f FILE", &["volume.ringpv.io/NAME created"]),
];

/// What follows once the volume is there, and an event about it.
const STEPS: &[Step] = &[
    no(
        "create -f FILE",
        &["AlreadyExists", "volumes.ringpv.io \"NAME\" already exists"],
    ),
    yes("get volumes -l MINE", &["NAME", "NODE", "AGE", "node-1"]),
    yes("get rvol NAME -o wide", &["NAME", "node-1"]),
    yes(
        "get volume NAME -o yaml",
        &["kind: Volume", "capacityBytes: 1024", "uid: "],
    ),
    yes("get volume NAME -o json", &["\"capacityBytes\": 1024"]),
    yes("get volumes -l MINE -o name", &["volume.ringpv.io/NAME"]),
    yes(
        "get volumes -l MINE --field-selector spec.node=node-1 --show-labels",
        &["LABELS", "MINE"],
    ),
    yes("get volumes -l MINE,extra=none", &["No resources found"]),
    no(
        "get volume NAME-none",
        &["(NotFound)", "volumes.ringpv.io \"NAME-none\" not found"],
    ),
    yes("label volume NAME extra=one", &["labeled"]),
    yes("label volume NAME extra-", &["unlabeled"]),
    yes("annotate volume NAME note=two", &["annotated"]),
    yes(
        "patch volume NAME --type=merge -p {\"spec\":{\"capacityBytes\":2048}}",
        &["patched"],
    ),
    no(
        "patch volume NAME --type=merge -p {\"spec\":{\"capacityBytes\":1}}",
        &["is invalid", "a Volume's capacity never shrinks"],
    ),
    no(
        "patch volume NAME --type=merge -p {\"spec\":{\"capacityBytes\":\"1Gi\"}}",
        &["spec.capacityBytes in body must be of type integer"],
    ),
    no(
        "patch volume NAME -p {\"spec\":{\"capacityBytes\":4096}}",
        &["application/strategic-merge-patch+json is not supported"],
    ),
    yes(
        "patch volume NAME --subresource=status --type=merge -p {\"status\":{\"phase\":\"Ready\"}}",
        &["patched"],
    ),
    yes(
        "wait volume/NAME --for=jsonpath={.status.phase}=Ready --timeout=10s",
        &["condition met"],
    ),
    yes("edit volume NAME", &["edited"]),
    yes(
        "get volume NAME -o jsonpath={.spec.capacityBytes}",
        &["8192"],
    ),
    yes(
        "describe volume NAME",
        &["Capacity Bytes:", "8192", "Events:", "reads take long"],
    ),
    yes(
        "get events -n default --field-selector involvedObject.name=NAME",
        &[
            "LAST SEEN",
            "Warning",
            "Slow",
            "volume/NAME",
            "reads take long",
        ],
    ),
    yes("events -n default --for volume/NAME", &["reads take long"]),
    yes(
        "delete volumes -l MINE",
        &["volume.ringpv.io \"NAME\" deleted"],
    ),
    yes("get volumes -l MINE", &["No resources found"]),
];

/// What the embedded API alone refuses.
const REFUSED_STEPS: &[Step] = &[
    no(
        "apply --server-side -f FILE",
        &["server-side apply is not served here"],
    ),
    no("create namespace NAME", &["MethodNotAllowed"]),
    no(
        "get pods",
        &["the server doesn't have a resource type \"pods\""],
    ),
    yes("create -f FILE", &["created"]),
    yes(
        "delete volumes --all",
        &["volume.ringpv.io \"NAME\" deleted"],
    ),
];

/// kubectl, where there is one.
#[must_use]
pub fn kubectl() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join("kubectl"))
        .find(|program| program.is_file())
}

/// The first minor version that knows every word of the steps (`events`; `--subresource` and `wait --for=jsonpath` before).
const MINOR_MIN: u32 = 26;

/// Why the steps cannot be gone through here: there is no kubectl, or one that is too old.
#[must_use]
pub fn refusal() -> Option<String> {
    let Some(kubectl) = kubectl() else {
        return Some("kubectl is not installed".to_owned());
    };
    let mut ask = program(kubectl);
    ask.args(["version", "--client", "-o", "json"]);
    let said = crate::command::run(ask, Duration::from_secs(60));
    let version: serde_json::Value = serde_json::from_str(&said.stdout).unwrap_or_default();
    let minor = version.pointer("/clientVersion/minor");
    let digits = minor.and_then(|minor| minor.as_str()).unwrap_or_default();
    let digits = digits.trim_end_matches(|c: char| !c.is_ascii_digit());
    match digits.parse() {
        Ok(MINOR_MIN..) => None,
        Ok(old) => Some(format!(
            "kubectl is 1.{old}; 1.{MINOR_MIN} or later is needed"
        )),
        Err(_) => Some(format!("kubectl does not say its version: {said}")),
    }
}

/// Goes through all steps with the kubectl `program` against the API of `kubeconfig`.
///
/// # Errors
/// With the first step that is not as it must be, and what kubectl printed.
pub async fn run(
    client: Client,
    program: &Path,
    kubeconfig: &Path,
    tag: &str,
    embedded: bool,
) -> Result<()> {
    let ground = Ground {
        client,
        tag: tag.to_owned(),
    };
    let home = tempfile::tempdir()?;
    let person = Person {
        program: program.to_owned(),
        kubeconfig: kubeconfig.to_owned(),
        home: home.path().to_owned(),
        name: ground.name("a"),
        mine: format!("{LABEL}={tag}"),
    };
    let manifest = serde_yaml::to_string(&ground.volume("a"))?;
    tokio::fs::write(person.file(), manifest).await?;
    let result = person.go_through(&ground, embedded).await;
    others::forget(&ground).await?;
    result.and(ground.sweep().await)
}

struct Person {
    program: PathBuf,
    kubeconfig: PathBuf,
    home: PathBuf,
    name: String,
    mine: String,
}

impl Person {
    fn file(&self) -> PathBuf {
        self.home.join("volume.yaml")
    }

    fn fill(&self, text: &str) -> String {
        text.replace("FILE", &self.file().to_string_lossy())
            .replace("MINE", &self.mine)
            .replace("NAME", &self.name)
    }

    async fn go_through(&self, ground: &Ground, embedded: bool) -> Result<()> {
        let mut watch = self.watch()?;
        for step in FIRST_STEPS {
            self.take(step).await?;
        }
        others::publish(ground).await?;
        let more = if embedded { REFUSED_STEPS } else { &[] };
        for step in STEPS.iter().chain(more) {
            self.take(step).await?;
        }
        // The watch ends by a signal only; what it printed until then is what it saw.
        tokio::time::sleep(Duration::from_millis(500)).await;
        watch.kill()?;
        let seen = watch.wait_with_output()?;
        let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
        let rows = seen
            .lines()
            .filter(|line| line.starts_with(&self.name))
            .count();
        ensure!(
            seen.starts_with("NAME") && rows >= 6,
            "kubectl get -w saw {rows} rows:\n{seen}"
        );
        Ok(())
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the program under test is started as a person would"
    )]
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", &self.home)
            .env("KUBE_EDITOR", "sed -i s/2048/8192/")
            .stdin(Stdio::null());
        command
    }

    fn watch(&self) -> Result<std::process::Child> {
        let mut command = self.command();
        command.args(["get", "volumes", "-l", &self.mine, "--watch"]);
        Ok(command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?)
    }

    async fn take(&self, step: &Step) -> Result<()> {
        let mut command = self.command();
        command.args(step.line.split(' ').map(|word| self.fill(word)));
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        let Output {
            status,
            stdout,
            stderr,
        } = output;
        let printed = format!(
            "{}{}",
            String::from_utf8_lossy(&stdout),
            String::from_utf8_lossy(&stderr)
        );
        ensure!(
            status.success() == step.succeeds,
            "kubectl {}: {status}\n{printed}",
            step.line
        );
        for fragment in step.says {
            let fragment = self.fill(fragment);
            ensure!(
                printed.contains(&fragment),
                "kubectl {}: no {fragment:?} in\n{printed}",
                step.line
            );
        }
        Ok(())
    }
}
