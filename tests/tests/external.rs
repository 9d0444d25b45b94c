//! Level external. Kubernetes' own end-to-end suite of storage drivers, against RingPV: on emulated machines with NVMe drives,
//! where a volume's size is enforced; for the class whose sizes are promises on this machine's own node, which is five times
//! as fast. `CLASS=NAME` and `FOCUS=REGEX` run less of it; where CI is set a commit is held to that class, in it to the cases of
//! [`CORE`], and to those of the others whose turn it is.

#![cfg(test)]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tests::chance::is_its_turn;
use tests::ginkgo::{Case, cases};
use tests::guest::{Guest, Images};
use tests::kubernetes::stage::Stage;
use tests::kubernetes::{NATIVE, Selection, refusal};
use tests::tree::root;

const MACHINES: [&str; 2] = ["machine-1", "machine-2"];
/// All that is about a driver that is not the suite's own.
const FOCUS: &str = r"External.Storage";
/// What takes a node away from all others, what other systems need, and one that needs two programs which are had as images
/// alone (hello-populator and volume-data-source-validator).
const SKIP: &str = r"\[Disruptive\]|\[Feature:Windows\]|ntfs|any volume data source";
/// A case that looks at the node's own mounts.
const UNUSED: &str = "should not mount / map unused volumes in a pod";
/// Processes that run cases side by side.
const PROCESSES: u32 = 4;
const LIMIT: Duration = Duration::from_secs(4 * 3600);
/// A class: its name, its binding, and how sizes are kept.
type Class = (&'static str, &'static str, &'static str);
/// As `tests/external` defines each. What is promised comes first, for it needs no machines.
const CLASSES: [Class; 3] = [
    ("best-effort", "WaitForFirstConsumer", PROMISED),
    ("strict", "WaitForFirstConsumer", "strict"),
    ("immediate", "Immediate", "strict"),
];
const PROMISED: &str = "best-effort";
/// In how many commits a case has its turn.
const TURNS: u64 = 16;
/// What every commit is held to: the end of cases' names.
const CORE: [&str; 5] = [
    "Dynamic PV (default fs)] volumes should store data",
    "Dynamic PV (default fs)] subPath should support existing single file [LinuxOnly]",
    "Dynamic PV (default fs)(allowExpansion)] volume-expand should resize volume when PVC is edited while pod is using it",
    "Generic Ephemeral-volume (default fs) (late-binding)] ephemeral should create read/write inline ephemeral volume",
    "CSI Ephemeral-volume (default fs)] ephemeral should create read/write inline ephemeral volume",
];

/// Why the suite may skip a case: a part of what it says then, and the reason, one a line.
fn explained() -> Vec<(String, String)> {
    let text = fs::read_to_string(root().join("tests/external/skips")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(": ").expect("SAID: why"))
        .map(|(said, why)| (said.to_owned(), why.to_owned()))
        .collect()
}

#[test]
fn every_case_of_what_ringpv_declares() {
    const TEST: &str = "every_case_of_what_ringpv_declares";
    if let Some(why) = refusal().or_else(Guest::refusal) {
        return tests::skip(TEST, &why);
    }
    let stage = Stage::installed();
    let loaded = stage.cluster.load_suite();
    loaded.unwrap_or_else(|error| panic!("{error:#}"));
    let (only, ci) = (std::env::var("CLASS").ok(), std::env::var_os("CI"));
    let chosen = |&(class, _, sizes): &Class| match &only {
        Some(only) => only == class,
        None => ci.is_none() || sizes == PROMISED,
    };
    let images = Images::new();
    let mut machines = Vec::new();
    let mut passed = 0;
    for (class, binding, sizes) in CLASSES.into_iter().filter(chosen) {
        stage.class(class, binding, json!({"capacity-enforcement": sizes}));
        // This machine's kernel may have no project quota.
        if sizes == PROMISED {
            stage.init();
        } else if machines.is_empty() {
            stage.kubectl(&["cordon", NATIVE]);
            machines = stage.machines(&MACHINES, "4G", &images);
        }
        passed += of_class(&stage, class);
    }
    drop(machines);
    assert!(passed > 0, "no case ran");
    // The test itself counts as one.
    println!("COUNTED: {} passed, 0 failed, 0 skipped", passed - 1);
}

/// Runs the cases of a class that are asked for. How many passed.
fn of_class(stage: &Stage, class: &str) -> usize {
    let chosen = match (std::env::var_os("CI"), std::env::var("FOCUS")) {
        (Some(_), Err(_)) => share(&suite(stage, class, FOCUS, 0), class),
        (_, _) => Vec::new(),
    };
    let focus = match std::env::var("FOCUS") {
        Ok(focus) => format!("{FOCUS}.*({focus})"),
        Err(_) if chosen.is_empty() => FOCUS.to_owned(),
        // Before a name the suite puts its own.
        Err(_) => {
            let names: Vec<String> = chosen.iter().map(|name| pattern(name)).collect();
            format!("({})$", names.join("|"))
        }
    };
    let report = suite(stage, class, &focus, PROCESSES);
    all_were_run(&report, &chosen);
    judge(&report)
}

/// What matches a case's name: in a report a part of it may end in a blank, for the suite's choice not.
fn pattern(name: &str) -> String {
    let words: Vec<String> = name.split_whitespace().map(regex::escape).collect();
    words.join(" +")
}

/// What became of each case.
fn suite(stage: &Stage, class: &str, focus: &str, processes: u32) -> Value {
    let report = stage.cluster.path("suite.json");
    let mut skip = SKIP.to_owned();
    if class == PROMISED && fs::File::open("/proc/1/ns/mnt").is_err() {
        println!(
            "left to the machines: {UNUSED} (nobody may enter this machine's first namespaces)"
        );
        skip = format!("{skip}|{UNUSED}");
    }
    let what = Selection {
        focus,
        skip: &skip,
        processes,
        limit: LIMIT,
    };
    let driver = root().join(format!("tests/external/{class}.yaml"));
    println!("class {class}");
    let outcome = stage.cluster.run_suite(&driver, what, &report).unwrap();
    println!("{outcome}");
    if let Some(keep) = std::env::var_os("REPORT") {
        let keep = PathBuf::from(keep).join(format!("{class}.json"));
        fs::copy(&report, keep).unwrap();
    }
    let text = fs::read_to_string(&report).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Of the cases that are listed, those that a commit is held to with a class.
fn share(listed: &Value, class: &str) -> Vec<String> {
    let all = cases(listed).into_iter();
    let all: Vec<String> = all
        .filter(|(_, case)| case.state == "passed")
        .map(|(name, _)| name)
        .collect();
    for core in CORE {
        assert!(
            all.iter().any(|name| name.ends_with(core)),
            "the suite has no case {core:?}"
        );
    }
    let turn = |name: &String| is_core(name) || is_its_turn(name, TURNS);
    let chosen: Vec<String> = all.iter().filter(|name| turn(name)).cloned().collect();
    println!(
        "class {class}: {} of {} cases:\n{}",
        chosen.len(),
        all.len(),
        chosen.join("\n")
    );
    chosen
}

fn is_core(name: &str) -> bool {
    CORE.iter().any(|core| name.ends_with(core))
}

/// None of those that were chosen was left out, and none of the core skipped itself.
fn all_were_run(report: &Value, chosen: &[String]) {
    let became = cases(report);
    for name in chosen {
        let case = became.get(name);
        let case = case.unwrap_or_else(|| panic!("the report lacks {name:?}"));
        let skipped_itself = case.state == "skipped" && !case.said.is_empty();
        assert!(
            case.state == "passed" || (skipped_itself && !is_core(name)),
            "{name}: {case:?}"
        );
    }
}

/// How many passed; none may have failed, nor skipped itself for a reason that is not explained.
fn judge(report: &Value) -> usize {
    let mut passed = 0;
    let mut failed = Vec::new();
    let mut said = BTreeSet::new();
    let mut skipped = 0;
    for (name, Case { state, said: words }) in cases(report) {
        match state.as_str() {
            "passed" => passed += 1,
            "pending" => {}
            // Not selected.
            "skipped" if words.is_empty() => {}
            "skipped" => {
                skipped += 1;
                said.insert(words);
            }
            _ => failed.push(format!("{state}: {name}: {words}")),
        }
    }
    println!(
        "{passed} cases passed, {} failed, {skipped} skipped:",
        failed.len()
    );
    let explained = explained();
    let why = |words: &String| explained.iter().find(|(part, _)| words.contains(part));
    for words in &said {
        println!("  {words} -- {}", why(words).map_or("?", |(_, why)| why));
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    let unexplained: Vec<_> = said.iter().filter(|words| why(words).is_none()).collect();
    assert!(
        unexplained.is_empty(),
        "tests/external/skips does not explain: {unexplained:#?}"
    );
    passed
}
