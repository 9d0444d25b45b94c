//! The costs of measuring, per operation: recording a latency, drawing the next operation, the way through a ring and
//! back, and the whole loop over a device that does nothing. `cargo bench -p bench` measures; `cargo test` runs each once.

use std::hint::black_box;
use std::sync::atomic::AtomicBool;

use bench::{Histogram, Limits, Pattern, Workload, run};
use block::null::Null;
use block::{
    Backend, Choice, Device as _, Geometry, Op, Options, ReadOnly, Target, Wait, open,
    probe_backend,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const GEOMETRY: Geometry = Geometry {
    size_bytes: 1 << 40,
    sector_bytes: 512,
};

/// Operations a batch, as in the loop at depth 64.
const BATCH: u32 = 32;

fn record(criterion: &mut Criterion) {
    let mut histogram = Histogram::new();
    let mut latency_ns = 1u64;
    criterion.bench_function("histogram/record", |bencher| {
        bencher.iter(|| {
            latency_ns = latency_ns
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            histogram.record(black_box(latency_ns >> 40));
        });
    });
    criterion.bench_function("histogram/percentile", |bencher| {
        bencher.iter(|| histogram.percentile_ns(black_box(99.0)));
    });
}

fn steps(criterion: &mut Criterion) {
    for pattern in [Pattern::RandRead, Pattern::Read, Pattern::RandRw] {
        let workload = Workload::new(pattern, 4096, 32);
        let Ok(mut steps) = workload.steps(GEOMETRY) else {
            continue;
        };
        criterion.bench_function(&format!("workload/{pattern}"), |bencher| {
            bencher.iter(|| black_box(steps.step()));
        });
    }
}

fn ring(criterion: &mut Criterion) {
    let Ok(backend @ Backend::Uring { .. }) = probe_backend(Choice::Auto) else {
        // Not a failure: there is nothing to measure here.
        return;
    };
    let Ok(file) = tempfile::NamedTempFile::new() else {
        return;
    };
    let Ok(target) = Target::<ReadOnly>::open(file.path()) else {
        return;
    };
    let Ok(mut device) = open(backend, target, Options::new(BATCH, 4096)) else {
        return;
    };
    let mut done = Vec::with_capacity(BATCH as usize);
    for batch in [1, BATCH] {
        let mut group = criterion.benchmark_group("ring");
        group.throughput(Throughput::Elements(u64::from(batch)));
        group.bench_function(format!("nop/{batch}"), |bencher| {
            bencher.iter(|| {
                for token in 0..u64::from(batch) {
                    assert!(device.submit(token, Op::Nop).is_ok(), "there is room");
                }
                while device.in_flight() > 0 {
                    let completed = device.complete(Wait::Forever, &mut done);
                    assert!(completed.is_ok(), "it works");
                }
                done.clear();
            });
        });
        group.finish();
    }
}

fn whole_loop(criterion: &mut Criterion) {
    const OPERATIONS: u64 = 10_000;
    let workload = Workload::new(Pattern::RandRead, 4096, 64);
    let mut device = Null::new(GEOMETRY, Options::new(64, 4096));
    let mut group = criterion.benchmark_group("loop");
    group.throughput(Throughput::Elements(OPERATIONS));
    group.bench_function("null", |bencher| {
        bencher.iter(|| {
            let limits = Limits::operations(OPERATIONS);
            let cancel = AtomicBool::new(false);
            let report = run(&mut device, &workload, &limits, &mut |_| {}, &cancel);
            assert!(report.is_ok_and(|report| report.read.operations == OPERATIONS));
        });
    });
    group.finish();
}

criterion_group!(benches, record, steps, ring, whole_loop);
criterion_main!(benches);
