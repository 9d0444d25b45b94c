//! The upstream suite csi-sanity: built by Go from the versions that `tests/sanity/go.mod` pins, run against the sockets of a
//! driver, and held to what `tests/sanity/skips` explains.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::command::{program, run};
use crate::ginkgo::cases;
use crate::tree::root;

/// What it runs against.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The node service's socket. A socket's path has room for 107 bytes.
    pub node: &'a Path,
    /// The controller's.
    pub controller: &'a Path,
    /// Where it stages and publishes: each is made, and the folder of each is there.
    pub staging: &'a Path,
    /// As `staging`.
    pub target: &'a Path,
    /// Where its files of parameters and its report go.
    pub folder: &'a Path,
    /// Of a volume, and of one that is expanded; `None`: 10 and 20 GiB.
    pub sizes: Option<(u64, u64)>,
}

/// The suite's program.
///
/// # Errors
/// There is no Go, or it could not build it.
pub fn build() -> Result<PathBuf, String> {
    let output = std::env::current_exe()
        .map_err(|error| error.to_string())?
        .with_file_name("csi-sanity");
    let mut go = crate::go::go(&root().join("tests/sanity"))?;
    go.args(["build", "-o"])
        .arg(&output)
        .arg("github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity");
    let built = run(go, Duration::from_secs(900));
    match built.code {
        Some(0) => Ok(output),
        _ => Err(format!("Go could not build it: {built}")),
    }
}

/// Runs all of it. How many passed, and how many were skipped.
///
/// # Panics
/// A case failed, or one was skipped that the list does not explain, or the other way round.
#[must_use]
pub fn hold(suite: &Path, subject: Subject<'_>) -> (usize, usize) {
    // Where the kernel has no project quota a volume needs its class's word for that.
    let parameters = subject.folder.join("class.yaml");
    fs::write(&parameters, "capacity-enforcement: best-effort\n").expect("a file of parameters");
    let report = subject.folder.join("report.json");
    let mut command = program(suite);
    let mut flag = |name: &str, value: &dyn std::fmt::Display| {
        command.arg(format!("--{name}={value}"));
    };
    flag("csi.endpoint", &subject.node.display());
    flag("csi.controllerendpoint", &subject.controller.display());
    flag("csi.stagingdir", &subject.staging.display());
    flag("csi.mountdir", &subject.target.display());
    flag("csi.testvolumeparameters", &parameters.display());
    if let Some((size, expanded)) = subject.sizes {
        flag("csi.testvolumesize", &size);
        flag("csi.testvolumeexpandsize", &expanded);
    }
    flag("ginkgo.json-report", &report.display());
    command.arg("--ginkgo.no-color");
    let outcome = run(command, Duration::from_secs(600));
    let text = fs::read_to_string(&report).unwrap_or_else(|error| panic!("{error}: {outcome}"));
    let report: Value = serde_json::from_str(&text).expect("a report in JSON");

    let (mut passed, mut skipped, mut failed) = (0, BTreeSet::new(), Vec::new());
    for (name, case) in cases(&report) {
        match case.state.as_str() {
            "passed" => passed += 1,
            // What the suite itself has switched off is pending.
            "skipped" | "pending" => {
                skipped.insert(name);
            }
            state => failed.push(format!("{state}: {name}: {}", case.said)),
        }
    }
    assert!(
        failed.is_empty(),
        "{}\n{}",
        failed.join("\n"),
        outcome.stdout
    );
    assert!(passed > 40, "the suite ran only {passed} specs: {outcome}");
    assert_eq!(
        skipped,
        explained(),
        "skipped by the suite (left) and explained in tests/sanity/skips (right)"
    );
    (passed, skipped.len())
}

/// The skips that `tests/sanity/skips` explains.
fn explained() -> BTreeSet<String> {
    let text = fs::read_to_string(root().join("tests/sanity/skips")).expect("the list of skips");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(": ").expect("SPEC: why").0.to_owned())
        .collect()
}
