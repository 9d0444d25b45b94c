//! Level sanity. The upstream suite csi-sanity against the real controller and agent, with two loop drives.

#![cfg(test)]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tests::command::{program, run};
use tests::ginkgo::cases;
use tests::machine::Machine;
use tests::tree::root;

/// Sparse: the suite's default volume has 10 GiB.
const DRIVE_BYTES: u64 = 64 << 30;

/// The suite's program, built by Go from the versions that `tests/sanity/go.mod` pins.
fn csi_sanity() -> Result<PathBuf, String> {
    let output = std::env::current_exe()
        .unwrap()
        .with_file_name("csi-sanity");
    let mut go = tests::go::go(&root().join("tests/sanity"))?;
    go.args(["build", "-o"])
        .arg(&output)
        .arg("github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity");
    let built = run(go, Duration::from_secs(900));
    match built.code {
        Some(0) => Ok(output),
        _ => Err(format!("Go could not build it: {built}")),
    }
}

/// The skips that `tests/sanity/skips` explains.
fn explained() -> BTreeSet<String> {
    let text = fs::read_to_string(root().join("tests/sanity/skips")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(": ").expect("SPEC: why").0.to_owned())
        .collect()
}

#[test]
fn csi_sanity_passes() {
    let Some(machine) = Machine::running("csi_sanity_passes", &[DRIVE_BYTES, DRIVE_BYTES]) else {
        return;
    };
    let suite = match csi_sanity() {
        Ok(path) => path,
        Err(why) => return tests::skip("csi_sanity_passes", &why),
    };
    machine.init_all();
    // Where the kernel has no project quota a volume needs its class's word for that.
    fs::write(
        machine.path("class.yaml"),
        "capacity-enforcement: best-effort\n",
    )
    .unwrap();

    let mut command = program(suite);
    let report = machine.path("report.json");
    let at = |name: &str| machine.path(name).display().to_string();
    command
        .arg(format!("--csi.endpoint={}", at("agent.sock")))
        .arg(format!(
            "--csi.controllerendpoint={}",
            at("controller.sock")
        ))
        .arg(format!("--csi.stagingdir={}", at("staging")))
        .arg(format!("--csi.mountdir={}", at("target")))
        .arg(format!("--csi.testvolumeparameters={}", at("class.yaml")))
        .arg(format!("--ginkgo.json-report={}", report.display()))
        .arg("--ginkgo.no-color");
    let outcome = run(command, Duration::from_secs(600));
    let report: Value = serde_json::from_str(
        &fs::read_to_string(&report).unwrap_or_else(|e| panic!("{e}: {outcome}")),
    )
    .unwrap();
    let specs = cases(&report);
    let of = |state: &str| -> Vec<&String> {
        specs
            .iter()
            .filter(|(_, case)| case.state == state)
            .map(|(name, _)| name)
            .collect()
    };
    // What the suite itself has switched off is pending.
    let (passed, skipped) = (of("passed"), [of("skipped"), of("pending")].concat());
    let failed: Vec<String> = specs
        .iter()
        .filter(|(_, case)| !["passed", "skipped", "pending"].contains(&case.state.as_str()))
        .map(|(name, case)| format!("{}: {name}: {}", case.state, case.said))
        .collect();
    tests::tell(&format!(
        "COUNTED: {} passed, {} failed, {} skipped",
        passed.len(),
        failed.len(),
        skipped.len()
    ));
    assert!(
        failed.is_empty(),
        "{}\n{}",
        failed.join("\n"),
        outcome.stdout
    );
    assert!(
        passed.len() > 40,
        "the suite ran only {} specs: {outcome}",
        passed.len()
    );

    let skipped: BTreeSet<String> = skipped.into_iter().cloned().collect();
    assert_eq!(
        skipped,
        explained(),
        "skipped by the suite (left) and explained in tests/sanity/skips (right)"
    );
}
