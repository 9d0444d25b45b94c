//! Level external. Kubernetes' own end-to-end suite of storage drivers, against RingPV on emulated machines with NVMe
//! drives, where a volume's size is enforced. `FOCUS=REGEX` runs only those of its cases; where CI is set those of [`CORE`], and of
//! the others those whose turn it is by the commit.

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
/// What takes a node away from all others, and what other systems need.
const SKIP: &str = r"\[Disruptive\]|\[Feature:Windows\]|ntfs|\[Serial\]";
const LIMIT: Duration = Duration::from_secs(4 * 3600);
/// The classes, as `tests/external` defines each: its name, its binding, how a size is kept, and one in how many cases has its turn
/// where CI is set.
const CLASSES: [(&str, &str, &str, u64); 3] = [
    ("strict", "WaitForFirstConsumer", "strict", 32),
    ("immediate", "Immediate", "strict", 128),
    ("best-effort", "WaitForFirstConsumer", "best-effort", 128),
];
/// What every commit is held to, of the first class: the end of cases' names.
const CORE: [&str; 9] = [
    "Dynamic PV (default fs)] volumes should store data",
    "Dynamic PV (default fs)] subPath should support existing single file [LinuxOnly]",
    "Dynamic PV (default fs)] subPath should fail if subpath with backstepping is outside the volume [Slow] [LinuxOnly]",
    "Dynamic PV (default fs)(allowExpansion)] volume-expand should resize volume when PVC is edited while pod is using it",
    "Dynamic PV (immediate binding)] topology should provision a volume and schedule a pod with AllowedTopologies",
    "Generic Ephemeral-volume (default fs) (late-binding)] ephemeral should create read/write inline ephemeral volume",
    "CSI Ephemeral-volume (default fs)] ephemeral should create read/write inline ephemeral volume",
    "Dynamic PV (default fs)] capacity provides storage capacity information",
    "Dynamic PV (default fs)] fsgroupchangepolicy (OnRootMismatch)[LinuxOnly], pod created with an initial fsgroup, new pod fsgroup applied to volume contents",
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
    let images = Images::new();
    let machines = stage.machines(&MACHINES, "4G", &images);
    // Its kernel may have no project quota.
    stage.kubectl(&["cordon", NATIVE]);
    for (class, binding, enforcement, _) in CLASSES {
        let words = json!({"capacity-enforcement": enforcement});
        stage.class(class, binding, words);
    }

    let listed = std::env::var_os("CI").map(|_| suite(&stage, CLASSES[0].0, FOCUS, 0));
    let only = std::env::var("CLASS").ok();
    let mut passed = 0;
    for (class, _, _, turns) in CLASSES {
        if only.as_ref().is_some_and(|only| only != class) {
            continue;
        }
        let chosen = listed.as_ref().map(|listed| share(listed, class, turns));
        if chosen.as_ref().is_some_and(Vec::is_empty) {
            continue;
        }
        let chosen = chosen.unwrap_or_default();
        let focus = match std::env::var("FOCUS") {
            Ok(focus) => format!("{FOCUS}.*({focus})"),
            Err(_) if chosen.is_empty() => FOCUS.to_owned(),
            // Before a name the suite puts its own.
            Err(_) => {
                let names: Vec<String> = chosen.iter().map(|name| pattern(name)).collect();
                format!("({})$", names.join("|"))
            }
        };
        let report = suite(&stage, class, &focus, 3);
        passed += judge(&report);
        all_were_run(&report, &chosen);
    }
    drop(machines);
    assert!(passed > 0, "no case ran");
    // The test itself counts as one.
    println!("COUNTED: {} passed, 0 failed, 0 skipped", passed - 1);
}

/// What matches a case's name: in a report a part of it may end in a blank, for the suite's choice not.
fn pattern(name: &str) -> String {
    let words: Vec<String> = name.split_whitespace().map(regex::escape).collect();
    words.join(" +")
}

/// What became of each case.
fn suite(stage: &Stage, class: &str, focus: &str, processes: u32) -> Value {
    let report = stage.cluster.path("suite.json");
    let what = Selection {
        focus,
        skip: SKIP,
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
fn share(listed: &Value, class: &str, turns: u64) -> Vec<String> {
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
    let is_first = class == CLASSES[0].0;
    let turn = |name: &String| {
        (is_first && is_core(name)) || is_its_turn(&format!("{class} {name}"), turns)
    };
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
