//! The loop on simulated time, where every number is known.

use block::Options;
use block::extents::Extent;
use block::null::Null;
use block::sim::{SimClock, SimDevice, SimDrive, SimModel};
use block::{Geometry, ReadOnly, ReadWrite};

use super::*;
use crate::histogram::Histogram;
use crate::report::Side;
use crate::workload::Pattern;

const GEOMETRY: Geometry = Geometry {
    size_bytes: 64 << 20,
    sector_bytes: 512,
};

/// Every read takes exactly 100 µs; ten at once.
const EXACT: SimModel = SimModel {
    read_ns: 99_000,
    write_ns: 49_000,
    flush_ns: 0,
    page_ns: 1_000,
    channels: 10,
    spread_percent: 0,
    tail_per_million: 0,
    tail_factor: 1,
};

fn drive(model: SimModel) -> SimDrive {
    SimDrive::new("sim", GEOMETRY, model, SimClock::default(), 1)
}

fn bench(drive: &SimDrive, workload: &Workload, limits: &Limits) -> Result<Report, RunError> {
    let mut device: SimDevice<ReadWrite> = drive.open(Options::new(32, 4096));
    run(
        &mut device,
        workload,
        limits,
        &mut |_| {},
        &AtomicBool::new(false),
    )
}

#[test]
fn littles_law() {
    // Depth 1: 10,000 a second. Depth 10 uses all channels, depth 20 queues behind them.
    for (depth, iops, latency_ns) in [
        (1, 10_000.0, 100_000),
        (10, 100_000.0, 100_000),
        (20, 100_000.0, 200_000),
    ] {
        let workload = Workload::new(Pattern::RandRead, 4096, depth);
        let report = bench(
            &drive(EXACT),
            &workload,
            &Limits::time(Duration::from_secs(2)),
        )
        .unwrap();
        assert_eq!(report.end, End::Limit);
        assert!(
            (report.iops() / iops - 1.0).abs() < 0.001,
            "depth {depth}: {}",
            report.iops()
        );
        let p50 = report.read.latency.percentile_ns(50.0);
        assert!(
            p50.abs_diff(latency_ns) <= latency_ns / 1000,
            "depth {depth}: {p50}"
        );
        assert_eq!(report.write.operations, 0);
        assert_eq!(report.samples.len(), 2);
    }
}

#[test]
fn exactly_as_many_as_asked() {
    let workload = Workload::new(Pattern::RandRead, 4096, 8);
    let report = bench(&drive(EXACT), &workload, &Limits::operations(1001)).unwrap();
    assert_eq!((report.read.operations, report.end), (1001, End::Limit));
    let limits = Limits {
        bytes: Some(4097),
        ..Limits::time(Duration::from_secs(9))
    };
    let report = bench(&drive(EXACT), &workload, &limits).unwrap();
    assert_eq!((report.read.operations, report.read.bytes), (2, 8192));
}

#[test]
fn warm_up_is_not_counted() {
    let workload = Workload::new(Pattern::RandRead, 4096, 1);
    let limits = Limits {
        warm_up: Duration::from_secs(5),
        ..Limits::time(Duration::from_secs(1))
    };
    let drive = drive(EXACT);
    let report = bench(&drive, &workload, &limits).unwrap();
    assert!(
        report.read.operations.abs_diff(10_000) <= 1,
        "{}",
        report.read.operations
    );
    assert_eq!(report.elapsed, Duration::from_secs(1));
    let device: SimDevice<ReadOnly> = drive.open(Options::new(1, 512));
    assert_eq!(device.now_ns(), 6_000_000_000);
}

#[test]
fn a_rate_is_kept_from_above() {
    let workload = Workload::new(Pattern::RandRead, 4096, 4);
    let limits = Limits {
        rate_iops: Some(500),
        ..Limits::time(Duration::from_secs(4))
    };
    let report = bench(&drive(EXACT), &workload, &limits).unwrap();
    assert!(
        (499.0..=501.0).contains(&report.iops()),
        "{}",
        report.iops()
    );
    assert_eq!(report.read.latency.max_ns(), 100_000, "nothing queues");
}

#[test]
fn reads_and_writes_apart() {
    let mut workload = Workload::new(Pattern::RandRw, 4096, 4);
    workload.read_percent = 30;
    let report = bench(&drive(EXACT), &workload, &Limits::operations(1000)).unwrap();
    assert_eq!(report.read.operations + report.write.operations, 1000);
    assert!((250..350).contains(&report.read.operations));
    let p50 = |side: &Side| side.latency.percentile_ns(50.0) / 1000;
    assert_eq!((p50(&report.read), p50(&report.write)), (100, 50));
}

#[test]
fn steady_when_it_settles() {
    let workload = Workload::new(Pattern::RandRead, 4096, 4);
    let steady = SteadyState {
        window: Duration::from_secs(3),
        .."iops_slope:1%".parse().unwrap()
    };
    let limits = Limits {
        steady_state: Some(steady),
        ..Limits::time(Duration::from_secs(60))
    };
    let report = bench(&drive(EXACT), &workload, &limits).unwrap();
    assert_eq!((report.end, report.samples.len()), (End::Steady, 3));
}

#[test]
fn a_slow_drive_is_seen_and_a_bad_sector_counted() {
    let drive = drive(EXACT);
    drive.inject(|faults| {
        faults.slow_percent = 300;
        faults.bad_sectors.extend(8..16);
    });
    let mut workload = Workload::new(Pattern::Read, 4096, 1);
    workload.extents = vec![Extent {
        offset: 0,
        bytes: 16 << 12,
    }];
    let report = bench(&drive, &workload, &Limits::operations(16)).unwrap();
    assert_eq!((report.read.operations, report.errors()), (15, 1));
    assert_eq!(report.read.latency.percentile_ns(50.0), 300_000);
    let first = report.first_error().unwrap();
    assert_eq!(first.to_string(), "read of 4096 bytes at 4096 of sim");
}

#[test]
fn too_many_errors_end_it() {
    let drive = drive(EXACT);
    drive.inject(|faults| faults.gone = true);
    let workload = Workload::new(Pattern::RandRead, 4096, 4);
    let report = bench(&drive, &workload, &Limits::time(Duration::from_secs(60))).unwrap();
    assert_eq!(report.end, End::Errors);
    assert!(report.errors() < ERRORS_MAX + 4);
}

#[test]
fn a_hung_drive_is_not_waited_for() {
    let drive = drive(EXACT);
    drive.inject(|faults| faults.hung = true);
    let workload = Workload::new(Pattern::RandRead, 4096, 4);
    let limits = Limits {
        answer_within: Duration::from_secs(3),
        ..Limits::time(Duration::from_secs(60))
    };
    let report = bench(&drive, &workload, &limits).unwrap();
    assert_eq!((report.end, report.unanswered), (End::Unanswered, 4));
    assert_eq!(report.elapsed, Duration::from_secs(3));
}

#[test]
fn cancelled_between_two_operations() {
    let mut device = Null::new(GEOMETRY, Options::new(1, 4096));
    let cancel = AtomicBool::new(false);
    let mut calls = 0;
    let report = run(
        &mut device,
        &Workload::new(Pattern::Read, 4096, 1),
        &Limits::time(Duration::from_secs(3600)),
        &mut |progress| {
            calls += 1;
            assert!(progress.operations > 0 && progress.iops > 0.0);
            cancel.store(true, Ordering::Relaxed);
        },
        &cancel,
    )
    .unwrap();
    assert_eq!((report.end, calls), (End::Cancelled, 1));
    assert!(report.read.operations > 0);
}

#[test]
fn what_cannot_run() {
    let workload = Workload::new(Pattern::RandRead, 4096, 1);
    let endless = Limits {
        duration: None,
        ..Limits::time(Duration::ZERO)
    };
    let error = |workload: &Workload, limits: &Limits| {
        bench(&drive(EXACT), workload, limits)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        error(&workload, &endless),
        "a run needs a limit: time, operations or bytes"
    );
    let odd = Workload::new(Pattern::RandRead, 100, 1);
    let one = Limits::operations(1);
    assert_eq!(error(&odd, &one), "this workload cannot run on sim");
    let deep = Workload::new(Pattern::RandRead, 4096, 33);
    assert_eq!(
        error(&deep, &one),
        "a depth of 33 is not between 1 and the 32 that the device was opened for"
    );
    let mut reader: SimDevice<ReadOnly> = drive(EXACT).open(Options::new(1, 4096));
    let writes = Workload::new(Pattern::Write, 4096, 1);
    let error = run(
        &mut reader,
        &writes,
        &one,
        &mut |_| {},
        &AtomicBool::new(false),
    )
    .unwrap_err();
    assert!(matches!(error, RunError::Refused(_)), "{error}");
}

#[test]
fn the_report_speaks_fio() {
    let workload = Workload::new(Pattern::RandRead, 4096, 1);
    let report = bench(
        &drive(EXACT),
        &workload,
        &Limits::time(Duration::from_secs(1)),
    )
    .unwrap();
    let json = report.json();
    let read = &json["jobs"][0]["read"];
    assert_eq!(read["total_ios"], 10_000);
    assert_eq!(read["bw_bytes"], 40_960_000);
    assert_eq!(read["runtime"], 1000);
    assert_eq!(read["lat_ns"]["percentile"]["99.000000"], 100_000);
    assert_eq!(read["lat_ns"]["N"], 10_000);
    assert_eq!(json["jobs"][0]["write"]["total_ios"], 0);
    let histogram = json["ringpv"]["readHistogram"].as_str().unwrap();
    assert_eq!(Histogram::decode(histogram).unwrap().count(), 10_000);
    let text = report.text();
    assert!(text.starts_with("randread-4k-qd1 on sim\n"), "{text}");
    assert!(text.contains("10.0k IOPS"), "{text}");
}
