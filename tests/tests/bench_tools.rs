//! Level loop. What `ringpv-bench` does to devices besides measuring: it tells what they hold, and erases them on a person's
//! word, checked against the very device.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tests::command::{Outcome, ours, program, run};
use tests::loopdev::LoopDevice;

const LIMIT: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
const SIZE: u64 = 96 * MIB;
const REFUSED: i32 = 1;
const USAGE: i32 = 2;

fn bench(words: &[&str]) -> Outcome {
    let mut command = program(ours("ringpv-bench"));
    command.args(words);
    run(command, LIMIT)
}

/// Devices full of something; nothing, and said so, where there are none.
fn devices(test: &str, count: usize) -> Option<(tempfile::TempDir, Vec<LoopDevice>)> {
    if let Some(why) = LoopDevice::refusal() {
        println!("SKIPPED: {test}: {why}");
        return None;
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let made = (0..count).map(|index| {
        let file = folder.path().join(format!("device{index}"));
        let byte = u8::try_from(index).unwrap() + 7;
        fs::write(&file, vec![byte; usize::try_from(SIZE).unwrap()]).unwrap();
        LoopDevice::attach(&file)
    });
    let made = made.collect();
    Some((folder, made))
}

fn path(device: &LoopDevice) -> String {
    device.path().display().to_string()
}

/// The word that a refusal names.
fn fingerprint(device: &LoopDevice) -> String {
    let refused = bench(&["erase", &path(device)]).refused(REFUSED, "--fingerprint");
    let word = refused.stderr.split("--fingerprint ").nth(1).unwrap();
    word.split_whitespace().next().unwrap().to_owned()
}

/// Bytes of a device's ground that are not zero.
fn left(device: &LoopDevice) -> usize {
    let bytes = fs::read(device.file()).unwrap();
    bytes.iter().filter(|byte| **byte != 0).count()
}

#[test]
fn what_devices_hold_is_told_of_each() {
    let Some((folder, made)) = devices("what_devices_hold_is_told_of_each", 1) else {
        return;
    };
    let xfs = folder.path().join("xfs");
    let blank = folder.path().join("blank");
    fs::File::create(&xfs).unwrap().set_len(320 * MIB).unwrap();
    fs::File::create(&blank).unwrap().set_len(8 * MIB).unwrap();
    let mut mkfs = program("mkfs.xfs");
    mkfs.arg("-q").arg(&xfs);
    run(mkfs, LIMIT).ok();
    let paths: Vec<PathBuf> = vec![made[0].path(), xfs, blank, folder.path().join("none")];
    let words: Vec<String> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    for engine in ["auto", "threads"] {
        let mut all = vec!["probe", "--json", "--engine", engine];
        all.extend(words.iter().map(String::as_str));
        let told = bench(&all);
        assert_eq!(told.code, Some(3), "one of them does not exist: {told}");
        let mut kinds: Vec<(String, String)> = told
            .stdout
            .lines()
            .map(|line| {
                let told: Value = serde_json::from_str(line).unwrap();
                let kind = told["found"][0]["kind"].as_str();
                let kind = kind.unwrap_or(if told["error"].is_null() {
                    "blank"
                } else {
                    "error"
                });
                (told["device"].as_str().unwrap().to_owned(), kind.to_owned())
            })
            .collect();
        kinds.sort();
        let mut expected: Vec<(String, String)> = words
            .iter()
            .cloned()
            .zip(["unknown-data", "xfs", "blank", "error"].map(str::to_owned))
            .collect();
        expected.sort();
        assert_eq!(kinds, expected, "{engine}");
    }
}

#[test]
fn a_device_is_erased_by_its_own_word_alone() {
    let Some((folder, made)) = devices("a_device_is_erased_by_its_own_word_alone", 2) else {
        return;
    };
    let [one, other] = &made[..] else {
        panic!("two devices");
    };
    let (word, another) = (fingerprint(one), fingerprint(other));
    let (one_path, other_path) = (path(one), path(other));
    let full = usize::try_from(SIZE).unwrap();
    // Exchanged words, one word for two, and a device in use: nothing is written to either.
    let pair = |first: &str, second: &str| {
        bench(&[
            "erase",
            &one_path,
            &other_path,
            "--fingerprint",
            first,
            "--fingerprint",
            second,
        ])
    };
    pair(&another, &word).refused(REFUSED, "not the fingerprint");
    pair(&word, &word).refused(REFUSED, "not the fingerprint");
    let counted = bench(&["erase", &one_path, &other_path, "--fingerprint", &word]);
    counted.refused(USAGE, "one --fingerprint for each");
    let above = fs::File::options()
        .read(true)
        .custom_flags(nix::libc::O_EXCL)
        .open(one.path())
        .unwrap();
    bench(&["erase", &one_path, "--fingerprint", &word]).refused(REFUSED, "in use");
    drop(above);
    assert_eq!((left(one), left(other)), (full, full));
    let erased = bench(&[
        "erase",
        &one_path,
        "--verify",
        "full",
        "--fingerprint",
        &word,
    ])
    .ok();
    assert!(
        erased.stdout.contains("96.0 MiB read back as zeroes"),
        "{erased}"
    );
    assert_eq!((left(one), left(other)), (0, full));
    // What was named is not what it is any more.
    bench(&["erase", &one_path, "--fingerprint", &word]).refused(REFUSED, "not the fingerprint");
    for (how, engine) in [("zero", "threads"), ("writes", "auto")] {
        let word = fingerprint(other);
        let words = ["erase", &other_path, "--method", how, "--engine", engine];
        let done = bench(&[&words[..], &["--fingerprint", &word]].concat()).ok();
        assert!(done.stdout.contains("all of it"), "{done}");
        assert_eq!(left(other), 0, "{how}");
        fs::write(other.file(), vec![9; full]).unwrap();
    }
    drop(made);
    drop(folder);
}

/// Whether the figures of a comparison can be had at all; what they are is for a machine that does nothing else.
#[test]
fn a_comparison_is_held() {
    let held = bench(&[
        "compare",
        "--only",
        "nop",
        "--rounds",
        "2",
        "--runtime",
        "50ms",
        "--json",
    ])
    .ok();
    let told: Value = serde_json::from_str(&held.stdout).unwrap();
    let row = &told["rows"][0];
    assert_eq!(row["name"], "nop/cpu", "{held}");
    if row["outcome"] != "missing" {
        assert!(row["ratio"]["median"].as_f64().unwrap() > 0.0, "{held}");
    }
    bench(&["compare", "--only", "everything"]).refused(USAGE, "not one of");
    bench(&[
        "compare",
        "/dev/null",
        "--fingerprint",
        "a",
        "--fingerprint",
        "b",
    ])
    .refused(USAGE, "one --fingerprint for each");
}
