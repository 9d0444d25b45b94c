//! The gate: what a drive must show before it is formatted. It writes before it reads, because blocks that were never
//! written are answered without the medium; and it touches only places that erasing clears afterwards. A person who asks for
//! something else meanwhile ends it, and then it says nothing: whoever wants it still has it done anew.

use std::time::Duration;

use api::drive::Gate;
use bench::{End, Limits, Pattern, Report, Workload};
use block::claim::claim_offset;
use block::extents::Extent;

use super::{Apply, Hold, Outcome, Reason, Refusal, Retry, Session};
use crate::host::Run;
use crate::latency;

/// Places that are written and read, spread over the device.
const PLACES: u64 = 16;
/// Most bytes of one place.
const PLACE_BYTES_MAX: u64 = 16 << 20;
/// Each place is at most this share of the device.
const PLACE_SHARE: u64 = 64;
/// A place begins and ends at multiples of this: one write.
const GRAIN_BYTES: u64 = 1 << 20;
/// Longest time of each of the three runs.
const RUN_MAX: Duration = Duration::from_secs(2);
/// Reads at depth 1: enough for a 99th percentile.
const READS: u64 = 3000;

impl Apply<'_> {
    pub(super) fn gate(&self, session: &mut Session) -> Result<Outcome, Refusal> {
        let Some(gate) = self.drive.spec.gate else {
            return Ok(Outcome::Unchanged);
        };
        self.begin(session)?;
        let hold = session.hold()?;
        let extents = places(hold.device.size_bytes());
        let workload = |pattern, block_bytes, depth| Workload {
            extents: extents.clone(),
            ..Workload::new(pattern, block_bytes, depth)
        };
        let write = workload(Pattern::Write, 1 << 20, 8);
        let once = Limits {
            bytes: Some(extents.iter().map(|extent| extent.bytes).sum()),
            ..Limits::time(RUN_MAX * 8)
        };
        let Some(write) = self.run(hold, &write, &once)? else {
            return Ok(broken_off(&extents));
        };
        let few = Limits {
            operations: Some(READS),
            ..Limits::time(RUN_MAX)
        };
        let Some(single) = self.run(hold, &workload(Pattern::RandRead, 4096, 1), &few)? else {
            return Ok(broken_off(&extents));
        };
        let many = workload(Pattern::RandRead, 4096, 32);
        let Some(many) = self.run(hold, &many, &Limits::time(RUN_MAX))? else {
            return Ok(broken_off(&extents));
        };
        let shown = Shown {
            read_latency_p99_ns: single.read.latency.percentile_ns(99.0),
            read_iops: whole(many.iops()),
            write_bytes_per_second: whole(write.bytes_per_second()),
        };
        let short = shown.short_of(&gate);
        if short.is_empty() {
            tracing::info!(drive = self.id(), ?shown, "The drive passed its gate");
            return Ok(
                match latency::of_histogram(&single.read.latency, self.now) {
                    Some(summary) => Outcome::Gated(Box::new(summary)),
                    None => Outcome::Changed,
                },
            );
        }
        Err(Refusal::new(
            Reason::GateFailed,
            short.join("; "),
            Retry::OnChange,
        ))
    }

    /// `None`: it was broken off.
    fn run(
        &self,
        hold: &Hold,
        workload: &Workload,
        limits: &Limits,
    ) -> Result<Option<Report>, Refusal> {
        let run = Run {
            workload,
            limits,
            progress: &mut |_| {},
            cancel: self.cancel,
        };
        let report = hold
            .device
            .measure(&hold.warrant, run)
            .map_err(self.refused(Reason::GateFailed))?;
        let failed = report.read.errors + report.write.errors + report.unanswered;
        match report.end {
            End::Limit if failed == 0 => return Ok(Some(report)),
            End::Cancelled => return Ok(None),
            End::Limit | End::Steady | End::Errors | End::Unanswered => {}
        }
        let why = report
            .first_error()
            .map_or_else(String::new, |error| format!(": {error}"));
        let message = format!("{failed} operations failed in the gate{why}");
        Err(Refusal::new(Reason::GateFailed, message, Retry::OnChange))
    }
}

/// All of it is to be done yet.
fn broken_off(extents: &[Extent]) -> Outcome {
    Outcome::Partly {
        done_bytes: 0,
        total_bytes: extents.iter().map(|extent| extent.bytes).sum(),
        offloaded: false,
        methods: String::new(),
    }
}

/// What a drive showed.
#[derive(Clone, Copy, Debug)]
struct Shown {
    read_latency_p99_ns: u64,
    read_iops: u64,
    write_bytes_per_second: u64,
}

impl Shown {
    /// What it fell short of, each as a sentence.
    fn short_of(&self, gate: &Gate) -> Vec<String> {
        let mut short = Vec::new();
        if let Some(most) = gate
            .read_latency_p99_ns_max
            .filter(|most| self.read_latency_p99_ns > *most)
        {
            let (is, most) = (api::Nanos(self.read_latency_p99_ns), api::Nanos(most));
            short.push(format!("read p99 is {is}, at most {most} is asked for"));
        }
        if let Some(least) = gate.read_iops_min.filter(|least| self.read_iops < *least) {
            let is = self.read_iops;
            short.push(format!(
                "{is} random reads a second, at least {least} are asked for"
            ));
        }
        if let Some(least) = gate
            .write_bytes_per_second_min
            .filter(|least| self.write_bytes_per_second < *least)
        {
            let (is, least) = (api::Bytes(self.write_bytes_per_second), api::Bytes(least));
            short.push(format!(
                "writes {is} a second, at least {least} are asked for"
            ));
        }
        short
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

/// Places spread evenly over what the file system will have.
fn places(device_bytes: u64) -> Vec<Extent> {
    let usable = claim_offset(device_bytes).unwrap_or_default();
    let bytes =
        (usable / PLACE_SHARE).clamp(GRAIN_BYTES, PLACE_BYTES_MAX) / GRAIN_BYTES * GRAIN_BYTES;
    (0..PLACES)
        .map(|place| Extent {
            offset: usable / PLACES * place / GRAIN_BYTES * GRAIN_BYTES,
            bytes,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_lie_within_the_file_system_and_apart() {
        for size in [512 << 20, (2 << 30) + 512, 8 << 40] {
            let places = places(size);
            let total: u64 = places.iter().map(|place| place.bytes).sum();
            assert!((64 << 20..=256 << 20).contains(&total), "{total}");
            for pair in places.windows(2) {
                assert!(pair[0].offset + pair[0].bytes <= pair[1].offset);
            }
            let last = places.last().unwrap();
            assert!(last.offset + last.bytes <= claim_offset(size).unwrap());
            assert!(places.iter().all(|place| place.offset % GRAIN_BYTES == 0));
        }
    }

    #[test]
    fn only_bounds_that_are_given_are_tested() {
        let shown = Shown {
            read_latency_p99_ns: 500_000,
            read_iops: 10_000,
            write_bytes_per_second: 100 << 20,
        };
        assert!(shown.short_of(&Gate::default()).is_empty());
        let strict = Gate {
            read_latency_p99_ns_max: Some(499_999),
            read_iops_min: Some(10_001),
            write_bytes_per_second_min: Some(200 << 20),
        };
        assert_eq!(
            shown.short_of(&strict),
            [
                "read p99 is 500 µs, at most 499.99 µs is asked for",
                "10000 random reads a second, at least 10001 are asked for",
                "writes 100 MiB a second, at least 200 MiB are asked for",
            ]
        );
    }
}
