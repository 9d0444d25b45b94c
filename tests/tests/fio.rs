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

/// What a person or a script takes from fio's JSON. How fast the two were is theirs: fio and we do not run at the same
/// moment, and a busy machine may be slow to either. That the figures are in fio's units shows by their own sums.
#[derive(Debug)]
struct Read {
    name: String,
    options: Value,
    bytes: u64,
}

fn read(document: &Value, side: &str) -> Vec<Read> {
    let jobs = document["jobs"].as_array().unwrap();
    jobs.iter()
        .map(|job| {
            assert_eq!(job["error"], 0, "{job}");
            let side = &job[side];
            let bytes = side["io_bytes"].as_u64().unwrap();
            if bytes > 0 {
                sums(side);
            }
            steadiness(&job["steadystate"]);
            Read {
                name: job["jobname"].as_str().unwrap().to_owned(),
                options: job["job options"].clone(),
                bytes,
            }
        })
        .collect()
}

/// Rates are per second of `runtime`, which is in milliseconds; percentiles are ns, between the least and the most.
fn sums(side: &Value) {
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{side}"));
    let seconds = number(&side["runtime"]) / 1e3;
    // fio cuts the runtime to whole milliseconds, one of which may be a good part of a short job.
    let near = |rate: f64, of: f64| {
        let (least, most) = (of / (seconds + 0.002), of / (seconds - 0.002).max(1e-4));
        assert!(
            (least * 0.98..=most * 1.02).contains(&rate),
            "{rate} of {of}: {side}"
        );
    };
    near(number(&side["iops"]), number(&side["total_ios"]));
    near(number(&side["bw_bytes"]), number(&side["io_bytes"]));
    near(number(&side["bw"]) * 1024.0, number(&side["io_bytes"]));
    let latency = &side["lat_ns"];
    let p99 = number(&latency["percentile"]["99.000000"]);
    // A percentile is a bucket's bound, of which there are 64 to a doubling.
    let (least, most) = (
        number(&latency["min"]) * 0.98,
        number(&latency["max"]) * 1.02,
    );
    assert!((least..=most).contains(&p99), "{p99}: {latency}");
}

/// A job attained what it was asked for exactly when what was met is within it.
fn steadiness(steady: &Value) {
    let percent = |text: &Value| {
        text.as_str()?
            .rsplit(':')
            .next()?
            .strip_suffix('%')?
            .parse::<f64>()
            .ok()
    };
    let Some(asked) = percent(&steady["ss"]) else {
        return;
    };
    if steady["attained"] == 1 {
        let met = percent(&steady["criterion"]).unwrap();
        assert!(met <= asked, "{steady}");
    }
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
            assert_eq!(theirs.bytes > 0, ours.bytes > 0);
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
