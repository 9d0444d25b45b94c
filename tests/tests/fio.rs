//! Level loop. What reads fio's JSON reads ours: one job file, run by fio and by `ringpv-bench` on the same file, and both
//! outputs read by the same few lines. Every key that we print under `jobs[]` is one of fio's for this job, of its type.

#![cfg(test)]

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tests::command::{Outcome, ours, program, run};

const LIMIT: Duration = Duration::from_secs(60);
const SIZE: u64 = 16 << 20;

/// Three jobs as people write them. The two options in the middle ask fio for what we always do.
const JOBS: &str = "\
[global]
ioengine=io_uring
direct=1
filename=scratch
size=16m
lat_percentiles=1
continue_on_error=io

[write]
rw=write
bs=64k
iodepth=4

[read]
stonewall
rw=randread
norandommap
bs=4k
iodepth=16
number_ios=2000

[mix]
stonewall
rw=randrw
rwmixread=70
norandommap
bs=4k
iodepth=8
runtime=6
time_based
ss=iops:90%
ss_dur=2
ss_ramp=1
";

/// The outputs of both for [`JOBS`], or nothing where they cannot be had.
fn outputs(test: &str, format: &str) -> Option<(Value, Value)> {
    let skip = |why: &str| {
        println!("SKIPPED: {test}: {why}");
        None
    };
    if !Path::new("/usr/bin/fio").exists() {
        return skip("fio is not there");
    }
    // Not the folder for temporary files: it may be in memory, where there is no O_DIRECT.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    std::fs::write(
        folder.path().join("scratch"),
        vec![7; usize::try_from(SIZE).unwrap()],
    )
    .unwrap();
    std::fs::write(folder.path().join("jobs.fio"), JOBS).unwrap();
    let here = |name: &Path, args: &[&str]| -> Outcome {
        let mut command = program(name);
        command.current_dir(folder.path()).args(args);
        run(command, LIMIT)
    };
    let format = format!("--output-format={format}");
    let theirs = here(Path::new("/usr/bin/fio"), &["jobs.fio", &format]);
    if theirs.code != Some(0) {
        return skip(&format!("fio cannot run here: {}", theirs.stderr.trim()));
    }
    let bench = ours("ringpv-bench");
    let ours = here(&bench, &["run", "jobs.fio", &format, "--write-file"]).ok();
    let json = |outcome: &Outcome| {
        // fio may say something before its JSON.
        let start = outcome.stdout.find('{').unwrap_or(0);
        serde_json::from_str(&outcome.stdout[start..]).unwrap_or_else(|e| panic!("{e}: {outcome}"))
    };
    Some((json(&theirs), json(&ours)))
}

/// What a person or a script takes from fio's JSON.
#[derive(Debug)]
struct Read {
    name: String,
    options: Value,
    iops: f64,
    bw_kib: u64,
    bytes: u64,
    p99_ns: u64,
    steady: bool,
}

fn read(document: &Value, side: &str) -> Vec<Read> {
    let jobs = document["jobs"].as_array().unwrap();
    jobs.iter()
        .map(|job| {
            let side = &job[side];
            assert_eq!(job["error"], 0, "{job}");
            Read {
                name: job["jobname"].as_str().unwrap().to_owned(),
                options: job["job options"].clone(),
                iops: side["iops"].as_f64().unwrap(),
                bw_kib: side["bw"].as_u64().unwrap(),
                bytes: side["io_bytes"].as_u64().unwrap(),
                p99_ns: side["lat_ns"]["percentile"]["99.000000"]
                    .as_u64()
                    .unwrap_or(0),
                steady: job["steadystate"]["attained"] == 1,
            }
        })
        .collect()
}

#[test]
fn one_reader_reads_both() {
    let Some((theirs, ours)) = outputs("one_reader_reads_both", "json") else {
        return;
    };
    for side in ["read", "write"] {
        for (theirs, ours) in read(&theirs, side).iter().zip(read(&ours, side)) {
            println!("{side}\n  fio   {theirs:?}\n  ours  {ours:?}");
            assert_eq!((&theirs.name, &theirs.options), (&ours.name, &ours.options));
            assert_eq!(theirs.steady, ours.steady);
            assert_eq!(theirs.bytes > 0, ours.bytes > 0);
            if ours.bytes > 0 {
                // The same unit: neither a thousand times as much nor as little. What a busy machine does is not judged.
                let near = |a: f64, b: f64| (0.02..50.0).contains(&(a / b));
                assert!(near(ours.iops, theirs.iops));
                assert!(near(ours.bw_kib as f64, theirs.bw_kib as f64));
                assert!(near(ours.p99_ns as f64, theirs.p99_ns as f64));
            }
            if ours.name == "write" {
                let bytes = if side == "write" { SIZE } else { 0 };
                assert_eq!((theirs.bytes, ours.bytes), (bytes, bytes));
            }
        }
    }
    let operations = |document: &Value| document["jobs"][1]["read"]["total_ios"].clone();
    assert_eq!(
        (operations(&theirs), operations(&ours)),
        (2000.into(), 2000.into())
    );
    assert_eq!(theirs["global options"], ours["global options"]);
}

#[test]
fn every_key_is_fios() {
    let Some((theirs, ours)) = outputs("every_key_is_fios", "json+") else {
        return;
    };
    let mut breaches = Vec::new();
    let (theirs, ours) = (&theirs["jobs"], &ours["jobs"]);
    for (index, job) in ours.as_array().unwrap().iter().enumerate() {
        compare(
            &format!("jobs[{index}]"),
            job,
            &theirs[index],
            &mut breaches,
        );
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
    // What people read is there.
    for (key, of) in [("read", 1), ("write", 0)] {
        let latency = &ours[of][key]["lat_ns"];
        let percentile = latency["percentile"].as_object().unwrap();
        let fios = theirs[of][key]["lat_ns"]["percentile"].as_object().unwrap();
        assert!(percentile.keys().eq(fios.keys()), "{percentile:?}");
        let counted: u64 = latency["bins"]
            .as_object()
            .unwrap()
            .values()
            .filter_map(Value::as_u64)
            .sum();
        assert_eq!(latency["N"], counted);
    }
    assert_eq!(
        ours[2]["steadystate"]["data"]["iops"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

/// Keys that are there, of the same type; a whole number where fio has one.
fn compare(place: &str, ours: &Value, theirs: &Value, breaches: &mut Vec<String>) {
    let same = match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            // The latencies that were met differ.
            for (key, value) in ours.iter().filter(|_| !place.ends_with(".bins")) {
                match theirs.get(key) {
                    Some(theirs) => compare(&format!("{place}.{key}"), value, theirs, breaches),
                    None => breaches.push(format!("{place}.{key}: fio has it not")),
                }
            }
            true
        }
        (Value::Number(ours), Value::Number(theirs)) => ours.is_f64() == theirs.is_f64(),
        (Value::Array(ours), Value::Array(theirs)) => {
            for (index, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                compare(&format!("{place}[{index}]"), ours, theirs, breaches);
            }
            true
        }
        (Value::String(_), Value::String(_)) => true,
        _ => false,
    };
    if !same {
        breaches.push(format!("{place}: {ours}, and fio has {theirs}"));
    }
}
