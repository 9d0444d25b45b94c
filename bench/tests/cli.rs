//! `ringpv-bench` as its user meets it: exit codes, what is on which stream, what is refused.

#![cfg(test)]

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[expect(clippy::disallowed_methods, reason = "the program under test")]
fn program(verb: &str, args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var("CARGO_BIN_EXE_ringpv-bench").unwrap());
    command.arg(verb).args(args);
    command
}

fn command(args: &[&str]) -> Command {
    program("run", args)
}

fn run(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

fn compare(args: &[&str]) -> Output {
    program("compare", args).output().unwrap()
}

/// Exit code, and both streams.
fn outcome(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (
        output.status.code().unwrap(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

fn file(directory: &Path, name: &str) -> String {
    let path = directory.join(name);
    std::fs::write(&path, vec![7; 1 << 20]).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_file_is_measured_and_left_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "f");
    for engine in ["auto", "threads"] {
        let output = run(&[&path, "--ops", "200", "--engine", engine, "--json"]);
        let (code, stdout, _) = outcome(&output);
        assert_eq!(code, 0);
        let json: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        let job = &json["jobs"][0];
        assert_eq!(job["read"]["total_ios"], 200);
        assert_eq!(job["read"]["io_bytes"], 200 * 4096);
        assert_eq!(job["write"]["total_ios"], 0);
        let p50 = job["read"]["lat_ns"]["percentile"]["50.000000"].as_u64();
        assert!(p50.is_some_and(|nanos| nanos > 0), "{job}");
    }
    assert!(std::fs::read(&path).unwrap().iter().all(|byte| *byte == 7));
}

#[test]
fn a_file_is_written_only_when_that_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "f");
    let (code, stdout, stderr) = outcome(&run(&[&path, "--rw", "write", "--ops", "8"]));
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains("--write-file"), "{stderr}");
    let fingerprint = ["--rw", "randrw", "--fingerprint", "0123456789abcdef"];
    let (code, _, stderr) = outcome(&run(&[&[path.as_str()], &fingerprint[..]].concat()));
    assert_eq!(code, 1, "{stderr}");
    assert!(std::fs::read(&path).unwrap().iter().all(|byte| *byte == 7));

    let (code, stdout, _) = outcome(&run(&[
        &path,
        "--rw",
        "write",
        "--ops",
        "8",
        "--write-file",
    ]));
    assert_eq!(code, 0);
    assert!(stdout.contains("8 operations"), "{stdout}");
    let written = std::fs::read(&path).unwrap();
    assert!(written[..8 * 4096].iter().any(|byte| *byte != 7));
    assert!(written[8 * 4096..].iter().all(|byte| *byte == 7));
    assert_eq!(written.len(), 1 << 20);
}

#[test]
fn exit_codes() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "f");
    for (args, code, words) in [
        (&["--engine", "null", "--ops", "100"][..], 0, ""),
        (&["--engine", "sim", "--ops", "100"], 0, ""),
        (
            &["--engine", "sim", "--iopoll"],
            2,
            "--iopoll and --passthrough go with a block device or a file",
        ),
        (
            &["x", "--rw", "randrw", "--hipri"],
            2,
            "--iopoll: only reads are polled",
        ),
        (
            &["--engine", "sim", "--sim-model", "disk", "--ops", "100"],
            0,
            "",
        ),
        (
            &["--engine", "null", "--sim-model", "disk"],
            2,
            "--sim-model goes with --engine sim",
        ),
        (
            &[&path, "--rwmixread", "70"],
            2,
            "--rwmixread goes with a mixed pattern",
        ),
        (
            &[&path, "--ss-ramp", "1"],
            2,
            "--ss-ramp goes with --steady-state",
        ),
        (
            &[&path, "--ss_dur", "5s"],
            2,
            "--steady-state-duration goes with --steady-state",
        ),
        (&[], 2, "name a block device or a file"),
        (&["--rw", "sideways"], 2, "randread"),
        (&[&path, "--bs", "1000"], 2, "not a multiple"),
        (&[&path, "--write-file"], 2, "go with a pattern that writes"),
        (&[&path, "--offset", "2m"], 2, "beyond the end"),
        (&[&path, "--runtime", "0"], 2, "nothing to measure"),
        (&["/nowhere"], 3, "cannot open /nowhere"),
        (
            &["/dev/null"],
            3,
            "neither a block device nor a regular file",
        ),
    ] {
        let (found, stdout, stderr) = outcome(&run(args));
        assert_eq!(found, code, "{args:?}: {stdout}{stderr}");
        assert!(stderr.contains(words), "{args:?}: {stderr}");
    }
}

#[test]
fn interrupted_it_says_what_it_has() {
    let child: Child = command(&["--engine", "null", "--runtime", "600s"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    // Until it has blocked the signal it would end at once: give it time, as a person does.
    std::thread::sleep(Duration::from_secs(2));
    kill(pid, Signal::SIGINT).unwrap();
    let (code, stdout, stderr) = outcome(&child.wait_with_output().unwrap());
    assert_eq!(code, 3, "{stderr}");
    assert!(stdout.contains("cancelled before its limit"), "{stdout}");
    assert!(stdout.contains(" IOPS "), "{stdout}");
}

/// A job file beside `f`, and what it is run as.
fn job_file(directory: &Path, text: &str) -> String {
    let path = directory.join("jobs.fio");
    let target = file(directory, "f");
    let head = format!("[global]\nfilename={target}\ndirect=1\nioengine=psync\n");
    std::fs::write(&path, head + text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_job_file_is_run_job_by_job() {
    let directory = tempfile::tempdir().unwrap();
    let jobs = job_file(
        directory.path(),
        "thread\n[one]\nrw=randread\nnumber_ios=50\n[two]\nstonewall\nbs=64k\npercentile_list=50:99.5\n",
    );
    let (code, stdout, stderr) = outcome(&run(&[&jobs]));
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.starts_with("one: randread-4k-qd1 on "), "{stdout}");
    assert!(stdout.contains("\ntwo: read-64k-qd1 on "), "{stdout}");
    assert!(
        stdout.contains(" 16 operations"),
        "once over the file: {stdout}"
    );
    assert_eq!(
        stderr,
        "ringpv-bench: without effect: thread (one job runs at a time)\n"
    );

    let (code, stdout, _) = outcome(&run(&["--job", &jobs, "--output-format", "json+"]));
    assert_eq!(code, 0);
    let json: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(json["jobs"][0]["read"]["total_ios"], 50);
    assert_eq!(json["jobs"][1]["job options"]["bs"], "64k");
    let latency = &json["jobs"][1]["read"]["lat_ns"];
    let percentiles: Vec<&String> = latency["percentile"].as_object().unwrap().keys().collect();
    assert_eq!(percentiles, ["50.000000", "99.500000"]);
    assert!(latency["bins"].is_object(), "{latency}");
    assert!(
        json["ringpv"]["jobs"][1]["readHistogram"].is_string(),
        "{json}"
    );
    assert!(json["timestamp"].as_u64() > Some(1_700_000_000), "{json}");
}

#[test]
fn a_job_file_writes_only_when_that_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let jobs = job_file(
        directory.path(),
        "[look]\n[fill]\nstonewall\nrw=write\nbs=64k\nverify=crc32c\n[change]\nstonewall\nrw=randwrite\nverify=crc32c\n",
    );
    // Refused before the first job, which only reads, has begun.
    let (code, stdout, stderr) = outcome(&run(&[&jobs]));
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains("--write-file"), "{stderr}");
    let path = directory.path().join("f");
    assert!(std::fs::read(&path).unwrap().iter().all(|byte| *byte == 7));
    let (code, stdout, stderr) = outcome(&run(&[&jobs, "--write-file"]));
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stdout.contains("verify   16 blocks read back, all right"),
        "{stdout}"
    );

    let reading = job_file(directory.path(), "[look]\n");
    let (code, _, stderr) = outcome(&run(&[&reading, "--write-file"]));
    assert_eq!(code, 2);
    assert!(stderr.contains("go with a job that writes"), "{stderr}");
}

#[test]
fn what_is_wrong_with_a_job_file() {
    let directory = tempfile::tempdir().unwrap();
    for (text, args, words) in [
        (
            "[a]\nbsrange=4k-8k",
            &[][..],
            "jobs.fio: line 6: bsrange is not supported",
        ),
        ("[a]\nsize=2m", &[], "fio would make the file longer"),
        (
            "[a]\nbs=1000",
            &[],
            "job a: a block of 1000 bytes is not a multiple",
        ),
        ("[a]\n[b]", &[], "line 6: [b] has no stonewall"),
        (
            "[a]",
            &["--bs", "4k", "--verify"],
            "--bs, --verify beside a job file",
        ),
    ] {
        let jobs = job_file(directory.path(), text);
        let (code, stdout, stderr) = outcome(&run(&[&[jobs.as_str()], args].concat()));
        assert_eq!((code, stdout.as_str()), (2, ""), "{text}: {stderr}");
        assert!(stderr.contains(words), "{text}: {stderr}");
    }
    let (code, _, stderr) = outcome(&run(&["/nowhere.fio"]));
    assert_eq!(code, 3);
    assert!(stderr.contains("cannot read /nowhere.fio"), "{stderr}");
}

#[test]
fn what_was_written_is_read_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "f");
    let args = [
        "--rw",
        "randwrite",
        "--ops",
        "2000",
        "--verify",
        "--write-file",
    ];
    for engine in ["auto", "threads"] {
        let (code, stdout, stderr) =
            outcome(&run(
                &[&[path.as_str(), "--engine", engine], &args[..]].concat()
            ));
        assert_eq!(code, 0, "{stderr}");
        assert!(stdout.contains(" blocks read back, all right"), "{stdout}");
    }
    for (args, words) in [
        (&[path.as_str(), "--verify"][..], "this workload cannot run"),
        (
            &["--engine", "null", "--rw", "write", "--verify"],
            "keeps nothing",
        ),
    ] {
        let (code, _, stderr) = outcome(&run(args));
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
    }
}

#[test]
fn a_contest_that_is_left_out_is_a_row_and_passes_no_check() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "f");
    // On what is no NVMe drive; it makes no loop device of its own, so nobody has to be root.
    let args = [path.as_str(), "--only", "passthrough-32"];
    let why = "an NVMe drive has to be given";

    let (code, stdout, stderr) = outcome(&compare(&[&args[..], &["--json"]].concat()));
    assert_eq!(code, 0, "{stderr}");
    let told: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let row = serde_json::json!({ "name": "passthrough-32", "outcome": "left out", "why": why });
    assert_eq!(told["rows"], serde_json::json!([row]));
    assert!(told["host"]["kernel"].is_string(), "{told}");

    let (code, stdout, stderr) = outcome(&compare(&[&args[..], &["--check"]].concat()));
    assert_eq!(code, 1, "{stderr}");
    let row = format!("passthrough-32  left out: {why}\n");
    assert!(stdout.contains(&row), "{stdout}");
    let told = format!("not judged: passthrough-32 (left out: {why})");
    assert!(stderr.contains(&told), "{stderr}");
}

#[test]
fn a_check_of_few_rounds_is_refused() {
    for rounds in ["1", "6"] {
        let output = compare(&["--only", "nop", "--check", "--rounds", rounds]);
        let (code, stdout, stderr) = outcome(&output);
        assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
        assert!(stderr.contains("at least 7 rounds"), "{stderr}");
    }
}

#[test]
fn a_folder_in_memory_is_no_disk() {
    let output = compare(&["--only", "nop", "--on-disk", "--dir", "/dev/shm"]);
    let (code, stdout, stderr) = outcome(&output);
    assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
    assert!(
        stderr.contains("/dev/shm is in memory: name a folder on a disk"),
        "{stderr}"
    );
}
