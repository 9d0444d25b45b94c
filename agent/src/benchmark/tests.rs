use super::*;
use api::BenchmarkStatus;
use api::LatencySummary;
use std::collections::BTreeSet;

fn workload() -> Workload {
    Workload {
        pattern: Pattern::RandRw,
        block_bytes: 8192,
        depth: 4,
        read_percent: Some(70),
        duration_ms: Some(100),
        operations: None,
        rate_iops: Some(1000),
        warm_up_ms: 50,
        seed: 9,
    }
}

fn spec(profile: Profile, workload: Option<Workload>) -> BenchmarkSpec {
    BenchmarkSpec {
        node: "n1".into(),
        drive: "d1".into(),
        profile,
        workload,
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A benchmark of `drive` that ended at `second` with this read p99.
fn ended(name: &str, drive: &str, second: i64, p99_ns: u64) -> Benchmark {
    let mut benchmark = Benchmark::new(
        name,
        BenchmarkSpec {
            drive: drive.into(),
            ..spec(Profile::Quick, None)
        },
    );
    benchmark.metadata.uid = Some(format!("uid-of-{name}"));
    let report = WorkloadResult {
        name: "randread-4k-qd1".into(),
        workload: workload(),
        engine: "sim".into(),
        elapsed_ms: 0,
        iops: 0,
        bytes_per_second: 0,
        read: Some(LatencySummary {
            p99_ns,
            ..LatencySummary::default()
        }),
        write: None,
        read_histogram: String::new(),
        write_histogram: String::new(),
        errors: 0,
    };
    benchmark.status = Some(BenchmarkStatus {
        phase: BenchmarkPhase::Done,
        results: vec![report],
        ended_at: Some(at(second)),
        ..BenchmarkStatus::default()
    });
    benchmark
}

#[test]
fn profiles() {
    let names = |profile| -> Vec<String> {
        tasks(&spec(profile, None))
            .unwrap()
            .iter()
            .map(Task::name)
            .collect()
    };
    let reads = ["randread-4k-qd1", "randread-4k-qd32", "read-1m-qd8"];
    assert_eq!(names(Profile::Quick), reads);
    assert_eq!(names(Profile::Full)[..3], reads);
    assert_eq!(
        names(Profile::Full)[3..],
        ["randwrite-4k-qd1", "randwrite-4k-qd32", "write-1m-qd8"]
    );
    assert!(tasks(&spec(Profile::Custom, None)).is_err());
}

#[test]
fn a_workload_of_ones_own() {
    let task = tasks(&spec(Profile::Custom, Some(workload())))
        .unwrap()
        .remove(0);
    assert_eq!(task.name(), "randrw-8k-qd4");
    let bench = task.to_bench();
    assert_eq!((bench.read_percent, bench.seed, bench.depth), (70, 9, 4));
    let limits = task.limits();
    assert_eq!(limits.duration, Some(Duration::from_millis(100)));
    assert_eq!((limits.rate_iops, limits.steady_state), (Some(1000), None));
    for bad in [
        Workload {
            duration_ms: None,
            ..workload()
        },
        Workload {
            duration_ms: Some(600_000),
            ..workload()
        },
        Workload {
            duration_ms: Some(u64::MAX),
            ..workload()
        },
    ] {
        assert!(
            tasks(&spec(Profile::Custom, Some(bad.clone()))).is_err(),
            "{bad:?}"
        );
    }
    let by_count = Workload {
        duration_ms: None,
        operations: Some(10),
        ..workload()
    };
    assert!(tasks(&spec(Profile::Custom, Some(by_count))).is_ok());
}

#[test]
fn the_past_is_the_last_run_of_the_same_kind() {
    let this = ended("now", "d1", 100, 0);
    let mut failed = ended("failed", "d1", 50, 1);
    failed.status.as_mut().unwrap().phase = BenchmarkPhase::Failed;
    let mut full = ended("full", "d1", 60, 1);
    full.spec.profile = Profile::Full;
    let all = [
        this.clone(),
        ended("older", "d1", 10, 500),
        ended("last", "d1", 20, 1000),
        ended("other", "d2", 30, 1),
        failed,
        full,
    ];
    assert_eq!(ratio_to_past(&this, 1070, &all).as_deref(), Some("1.07"));
    assert_eq!(ratio_to_past(&this, 1070, &all[..1]), None);
}

#[test]
fn peers_are_the_other_drives_of_a_model() {
    let drive = |name: &str, model: &str, p99_ns| {
        let mut drive = Drive::new(name, crate::plan::testing::spec());
        drive.status = Some(api::DriveStatus {
            device: Some(api::drive::DriveDevice {
                model: model.into(),
                ..Default::default()
            }),
            latency: Some(api::drive::DriveLatency {
                read: Some(LatencySummary {
                    p99_ns,
                    ..LatencySummary::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        });
        drive
    };
    let drives = [
        drive("d1", "fast", 7),
        drive("d2", "fast", 200),
        drive("d3", "fast", 100),
        drive("d4", "fast", 900),
        drive("d5", "slow", 1),
    ];
    assert_eq!(ratio_to_peers("d1", 100, &drives).as_deref(), Some("0.50"));
    assert_eq!(ratio_to_peers("d5", 100, &drives), None);
    assert_eq!(ratio_to_peers("d9", 100, &drives), None);
}

#[test]
fn ten_are_kept_and_none_of_a_drive_that_is_gone() {
    let mut all: Vec<Benchmark> = (0..12)
        .map(|n| ended(&format!("b{n:02}"), "d1", n, 1))
        .collect();
    all.push(ended("c", "d2", 0, 1));
    let drives = BTreeSet::from(["d1".to_owned(), "d2".to_owned()]);
    assert_eq!(surplus(&all, &drives), ["b00", "b01"]);
    let owner = k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference {
        kind: "Drive".into(),
        name: "d2".into(),
        ..Default::default()
    };
    all.last_mut().unwrap().owner_references_mut().push(owner);
    let fewer = BTreeSet::from(["d1".to_owned()]);
    assert_eq!(surplus(&all, &fewer), ["b00", "b01", "c"]);
}

#[test]
fn ratios() {
    assert_eq!(ratio(1, 0), None);
    assert_eq!(ratio(0, 5).as_deref(), Some("0.00"));
    assert_eq!(ratio(2, 3).as_deref(), Some("0.67"));
    assert_eq!(
        ratio(u64::MAX, 1).as_deref(),
        Some("18446744073709551615.00")
    );
}
