//! Benchmarks: what a Benchmark asks for, as runs of the `bench` crate; what they found, as its status; what is kept.
//! Pure; [`follow`] carries it out.
//!
//! Reads go to the extents of the drive's probe file (sequential ones to those of its scratch file), by a ring that may
//! only read. What writes goes to the scratch file and nowhere else. A drive is measured by one benchmark at a time, and only while it is in use.

use std::time::Duration;

use api::benchmark::{BenchmarkPhase, KEPT_MAX, Pattern, Profile, Workload, WorkloadResult};
use api::{Benchmark, BenchmarkSpec, Drive, Reason};
use bench::steady::Measure;
use bench::{Limits, Report, SteadyState};
use jiff::Timestamp;
use kube::ResourceExt as _;

use crate::latency;

pub mod follow;

/// Longest measured time of one workload that a person gave.
const CUSTOM_MAX: Duration = Duration::from_secs(600);
/// Measured time of a workload of the profile Quick.
const QUICK_MS: u64 = 2_000;
/// Longest measured time of a workload of the profile Full; it ends sooner when steady.
const FULL_MS: u64 = 20_000;
/// Time before measuring, in the profile Full.
const FULL_WARM_UP_MS: u64 = 2_000;
/// A workload is steady when its rate changes by less than this share a second, over ten seconds.
const STEADY_PERCENT: f64 = 0.3;

/// What is run for one entry of the results.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// As the object says it.
    pub workload: Workload,
    /// Whether it may end sooner, once it is steady.
    pub until_steady: bool,
}

/// Why a benchmark is not run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unfit(pub String);

/// What a Benchmark asks for, in order.
pub fn tasks(spec: &BenchmarkSpec) -> Result<Vec<Task>, Unfit> {
    let ready_made = |pattern, block_bytes, depth, full: bool| Task {
        workload: Workload {
            pattern,
            block_bytes,
            depth,
            read_percent: None,
            duration_ms: Some(if full { FULL_MS } else { QUICK_MS }),
            operations: None,
            rate_iops: None,
            warm_up_ms: if full { FULL_WARM_UP_MS } else { 0 },
            seed: 0,
        },
        until_steady: full,
    };
    let reads = |full| {
        vec![
            ready_made(Pattern::RandRead, 4096, 1, full),
            ready_made(Pattern::RandRead, 4096, 32, full),
            ready_made(Pattern::Read, 1 << 20, 8, full),
        ]
    };
    match (spec.profile, &spec.workload) {
        (Profile::Quick, _) => Ok(reads(false)),
        (Profile::Full, _) => {
            let mut all = reads(true);
            all.push(ready_made(Pattern::RandWrite, 4096, 1, true));
            all.push(ready_made(Pattern::RandWrite, 4096, 32, true));
            all.push(ready_made(Pattern::Write, 1 << 20, 8, true));
            Ok(all)
        }
        (Profile::Custom, Some(workload)) => custom(workload).map(|task| vec![task]),
        (Profile::Custom, None) => Err(Unfit("the profile Custom needs a workload".to_owned())),
    }
}

fn custom(workload: &Workload) -> Result<Task, Unfit> {
    if workload.duration_ms.is_none() && workload.operations.is_none() {
        return Err(Unfit(
            "a workload needs durationMs or operations, or it would never end".to_owned(),
        ));
    }
    let longest = u64::try_from(CUSTOM_MAX.as_millis()).unwrap_or(u64::MAX);
    if workload
        .duration_ms
        .unwrap_or(0)
        .saturating_add(workload.warm_up_ms)
        > longest
    {
        return Err(Unfit(format!(
            "a workload runs for at most {} s",
            CUSTOM_MAX.as_secs()
        )));
    }
    Ok(Task {
        workload: workload.clone(),
        until_steady: false,
    })
}

impl Task {
    /// The workload in the terms of the `bench` crate.
    #[must_use]
    pub fn to_bench(&self) -> bench::Workload {
        let workload = &self.workload;
        let mut bench = bench::Workload::new(
            match workload.pattern {
                Pattern::RandRead => bench::Pattern::RandRead,
                Pattern::RandWrite => bench::Pattern::RandWrite,
                Pattern::RandRw => bench::Pattern::RandRw,
                Pattern::Read => bench::Pattern::Read,
                Pattern::Write => bench::Pattern::Write,
                Pattern::Rw => bench::Pattern::Rw,
            },
            workload.block_bytes,
            workload.depth,
        );
        bench.seed = workload.seed;
        if let Some(read_percent) = workload.read_percent {
            bench.read_percent = read_percent;
        }
        bench
    }

    /// When it ends.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let workload = &self.workload;
        Limits {
            operations: workload.operations,
            warm_up: Duration::from_millis(workload.warm_up_ms),
            rate_iops: workload.rate_iops,
            steady_state: self.until_steady.then_some(SteadyState {
                measure: Measure::Iops,
                slope: true,
                limit: STEADY_PERCENT,
                percent: true,
                window: SteadyState::WINDOW,
                ramp: Duration::ZERO,
            }),
            ..Limits::time(
                workload
                    .duration_ms
                    .map_or(CUSTOM_MAX, Duration::from_millis),
            )
        }
    }

    /// Longest that it may take, the wait for a slow device's last answers included.
    #[must_use]
    pub fn time_max(&self) -> Duration {
        let limits = self.limits();
        limits.warm_up + limits.duration.unwrap_or(CUSTOM_MAX) + 2 * limits.answer_within
    }

    /// A short name: `randread-4k-qd1`.
    #[must_use]
    pub fn name(&self) -> String {
        let workload = &self.workload;
        let pattern = self.to_bench().pattern;
        let bytes = workload.block_bytes;
        let size = match (bytes % (1 << 20), bytes % (1 << 10)) {
            (0, _) => format!("{}m", bytes >> 20),
            (_, 0) => format!("{}k", bytes >> 10),
            _ => format!("{bytes}b"),
        };
        format!("{pattern}-{size}-qd{}", workload.depth)
    }

    /// What it found, as an entry of the results.
    #[must_use]
    pub fn result(&self, report: &Report, now: Timestamp) -> WorkloadResult {
        let encoded = |side: &bench::Side| match side.operations {
            0 => String::new(),
            _ => side.latency.encode(),
        };
        WorkloadResult {
            name: self.name(),
            workload: self.workload.clone(),
            engine: report.engine.to_owned(),
            elapsed_ms: u64::try_from(report.elapsed.as_millis()).unwrap_or(u64::MAX),
            iops: whole(report.iops()),
            bytes_per_second: whole(report.bytes_per_second()),
            read: latency::of_histogram(&report.read.latency, now),
            write: latency::of_histogram(&report.write.latency, now),
            read_histogram: encoded(&report.read),
            write_histogram: encoded(&report.write),
            errors: report.errors() + report.unanswered,
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates, and rates are not negative"
)]
const fn whole(rate: f64) -> u64 {
    rate as u64
}

/// The read p99 by which a benchmark is compared: that of its first workload that read.
#[must_use]
pub fn read_p99_ns(results: &[WorkloadResult]) -> Option<u64> {
    results
        .iter()
        .find_map(|result| Some(result.read.as_ref()?.p99_ns))
}

/// Against this drive's last finished run of the same kind.
#[must_use]
pub fn ratio_to_past(this: &Benchmark, p99_ns: u64, all: &[Benchmark]) -> Option<String> {
    let same = |other: &&Benchmark| {
        other.spec.drive == this.spec.drive
            && other.spec.profile == this.spec.profile
            && other.spec.workload == this.spec.workload
            && other.metadata.uid != this.metadata.uid
    };
    let done = |other: &Benchmark| {
        let status = other.status.as_ref()?;
        let ended = (status.phase == BenchmarkPhase::Done).then_some(status.ended_at?)?;
        Some((ended, read_p99_ns(&status.results)?))
    };
    let (_, past) = all.iter().filter(same).filter_map(done).max()?;
    ratio(p99_ns, past)
}

/// Against the median of the health reads of the other drives of its model.
#[must_use]
pub fn ratio_to_peers(drive: &str, p99_ns: u64, drives: &[Drive]) -> Option<String> {
    let device = |drive: &Drive| drive.status.as_ref()?.device.clone();
    let own = device(drives.iter().find(|one| one.name_any() == drive)?)?;
    let peer = |other: &&Drive| {
        other.name_any() != drive
            && device(other).is_some_and(|device| {
                (&device.model, device.transport, device.rotational)
                    == (&own.model, own.transport, own.rotational)
            })
    };
    let p99 = |drive: &Drive| {
        Some(
            drive
                .status
                .as_ref()?
                .latency
                .as_ref()?
                .read
                .as_ref()?
                .p99_ns,
        )
    };
    let mut peers: Vec<u64> = drives.iter().filter(peer).filter_map(p99).collect();
    peers.sort_unstable();
    ratio(p99_ns, *peers.get(peers.len() / 2)?)
}

/// `1.07`: two digits, rounded.
fn ratio(this: u64, that: u64) -> Option<String> {
    let hundredths =
        (u128::from(this) * 100 + u128::from(that) / 2).checked_div(u128::from(that))?;
    Some(format!("{}.{:02}", hundredths / 100, hundredths % 100))
}

/// The benchmarks that are no longer kept: all but the last ten ended ones of each drive, and those whose drive is gone
/// and whose owner it was (where no garbage collector does it).
#[must_use]
pub fn surplus(all: &[Benchmark], drives: &std::collections::BTreeSet<String>) -> Vec<String> {
    let mut ended: Vec<&Benchmark> = all
        .iter()
        .filter(|one| {
            one.status
                .as_ref()
                .is_some_and(|status| status.ended_at.is_some())
        })
        .collect();
    // Newest first; ties break on the name.
    ended.sort_by_key(|one| {
        let at = one.status.as_ref().and_then(|status| status.ended_at);
        (std::cmp::Reverse(at), one.name_any())
    });
    let mut kept = std::collections::BTreeMap::<&str, usize>::new();
    let mut surplus: Vec<String> = ended
        .into_iter()
        .filter(|one| {
            let kept = kept.entry(&one.spec.drive).or_default();
            *kept += 1;
            *kept > KEPT_MAX
        })
        .map(|one| one.name_any())
        .collect();
    let orphaned = all.iter().filter(|one| {
        let owner = one
            .owner_references()
            .iter()
            .find(|owner| owner.kind == "Drive");
        owner.is_some_and(|owner| !drives.contains(&owner.name))
    });
    surplus.extend(orphaned.map(|one| one.name_any()));
    surplus.sort_unstable();
    surplus.dedup();
    surplus
}

/// Whether a benchmark is still to be run. One that was under way when the agent ended is begun again.
#[must_use]
pub fn is_wanted(benchmark: &Benchmark) -> bool {
    let phase = benchmark.status.as_ref().map(|status| status.phase);
    benchmark.metadata.deletion_timestamp.is_none()
        && matches!(
            phase.unwrap_or_default(),
            BenchmarkPhase::Pending | BenchmarkPhase::Running
        )
}

/// The reason and sentence of a benchmark that ended without a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Refused, or failed.
    pub reason: Reason,
    /// Why.
    pub message: String,
}

#[cfg(test)]
mod tests;
