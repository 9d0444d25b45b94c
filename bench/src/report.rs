//! What a run found, as numbers and as text for people; as JSON in [`json`].

use std::fmt::Write as _;
use std::time::Duration;

use block::IoError;

use crate::histogram::Histogram;
use crate::run::End;
use crate::steady::{Measure, SteadyState};
use crate::verify::Verified;
use crate::workload::Workload;

pub mod json;

/// The outcome of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// Device.
    pub device: String,
    /// Engine: `uring`, `threads`, `null`, `sim`.
    pub engine: &'static str,
    /// What the engine ran with.
    pub description: String,
    /// What was run.
    pub workload: Workload,
    /// Why it ended.
    pub end: End,
    /// Measured time.
    pub elapsed: Duration,
    /// Reads.
    pub read: Side,
    /// Writes.
    pub write: Side,
    /// Operations that the device had not answered at the end.
    pub unanswered: u64,
    /// CPU time of the process while measuring.
    pub cpu: Cpu,
    /// One for each second.
    pub samples: Vec<Sample>,
    /// How full the queue was at each submission.
    pub depths: Depths,
    /// The criterion, if one was given.
    pub steady_state: Option<SteadyState>,
    /// What was read back, if that was wanted and the run came to its end.
    pub verified: Option<Verified>,
}

/// Reads, or writes.
#[derive(Clone, Debug, Default)]
pub struct Side {
    /// Operations that succeeded.
    pub operations: u64,
    /// Bytes that they moved.
    pub bytes: u64,
    /// Operations that failed.
    pub errors: u64,
    /// The first of those.
    pub first_error: Option<IoError>,
    /// Latencies of those that succeeded.
    pub latency: Histogram,
}

/// CPU time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// In the program.
    pub user: Duration,
    /// In the kernel on its behalf.
    pub system: Duration,
}

/// Operations by how many were in flight when they were submitted, themselves and those of their batch included: 1, 2 to
/// 3, 4 to 7, …, 64 and more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depths([u64; 7]);

impl Depths {
    /// The lower bounds.
    pub const FROM: [u64; 7] = [1, 2, 4, 8, 16, 32, 64];

    /// Counts a batch of `operations` after which `in_flight` were in flight.
    pub fn count(&mut self, operations: u64, in_flight: usize) {
        let level = in_flight.checked_ilog2().unwrap_or(0).min(6) as usize;
        if let Some(count) = self.0.get_mut(level) {
            *count += operations;
        }
    }

    /// Share of each level, in percent; zeros where nothing was submitted.
    #[must_use]
    pub fn percent(&self) -> [f64; 7] {
        let all = self.0.iter().sum::<u64>().max(1) as f64;
        self.0.map(|count| count as f64 / all * 100.0)
    }
}

/// One second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Operations a second.
    pub iops: f64,
    /// Reads among them, a second.
    pub read_iops: f64,
    /// Bytes a second.
    pub bytes_per_second: f64,
    /// Mean latency.
    pub latency_ns: f64,
}

impl Sample {
    /// The samples of one measure.
    #[must_use]
    pub fn series(samples: &[Self], measure: Measure) -> Vec<f64> {
        let of = |sample: &Self| match measure {
            Measure::Iops => sample.iops,
            Measure::Bandwidth => sample.bytes_per_second,
            Measure::Latency => sample.latency_ns,
        };
        samples.iter().map(of).collect()
    }
}

impl Side {
    /// Operations a second over `elapsed`.
    #[must_use]
    pub fn iops(&self, elapsed: Duration) -> f64 {
        over(self.operations, elapsed)
    }

    /// Bytes a second over `elapsed`.
    #[must_use]
    pub fn bytes_per_second(&self, elapsed: Duration) -> f64 {
        over(self.bytes, elapsed)
    }

    const fn is_used(&self) -> bool {
        self.operations + self.errors > 0
    }
}

impl Report {
    /// Operations a second, reads and writes together.
    #[must_use]
    pub fn iops(&self) -> f64 {
        self.read.iops(self.elapsed) + self.write.iops(self.elapsed)
    }

    /// Bytes a second, reads and writes together.
    #[must_use]
    pub fn bytes_per_second(&self) -> f64 {
        self.read.bytes_per_second(self.elapsed) + self.write.bytes_per_second(self.elapsed)
    }

    /// Operations that failed.
    #[must_use]
    pub const fn errors(&self) -> u64 {
        self.read.errors + self.write.errors
    }

    /// The first operation that failed.
    #[must_use]
    pub fn first_error(&self) -> Option<&IoError> {
        self.read
            .first_error
            .as_ref()
            .or(self.write.first_error.as_ref())
    }

    /// Whether it came to its end without any error.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let ended = matches!(self.end, End::Limit | End::Steady);
        let right = match &self.verified {
            Some(verified) => verified.wrong == 0,
            None => self.workload.verify.is_none(),
        };
        ended && right && self.errors() == 0 && self.unanswered == 0
    }

    /// As fio's JSON output has it; see [`json`].
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        json::document(
            &[json::Entry::new(self.clone())],
            false,
            serde_json::Map::new(),
        )
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        self.titled(&format!("{} on {}", self.name(), self.device))
    }

    /// For people, as one of several jobs.
    #[must_use]
    pub fn text_of(&self, job: &str) -> String {
        self.titled(&format!("{job}: {} on {}", self.name(), self.device))
    }

    fn titled(&self, title: &str) -> String {
        let mut text = format!("{title}\n");
        let mut line = |key: &str, value: String| {
            // Writing to a string cannot fail.
            let _ok = writeln!(text, "  {key:<9}{value}").is_ok();
        };
        line("engine", self.description.clone());
        for (name, side) in [("read", &self.read), ("write", &self.write)] {
            if !side.is_used() {
                continue;
            }
            line(
                name,
                format!(
                    "{} IOPS   {}/s   {} operations in {:.2} s",
                    count(side.iops(self.elapsed)),
                    bytes(side.bytes_per_second(self.elapsed)),
                    side.operations,
                    self.elapsed.as_secs_f64(),
                ),
            );
            line("", latency_line(&side.latency));
            if let Some(error) = &side.first_error {
                line(
                    "errors",
                    format!("{}; the first: {}", side.errors, sentence(error)),
                );
            }
        }
        let operations = (self.read.operations + self.write.operations).max(1) as f64;
        let micros = |time: Duration| time.as_secs_f64() * 1e6 / operations;
        line(
            "cpu",
            format!(
                "{:.2} µs user and {:.2} µs system per operation",
                micros(self.cpu.user),
                micros(self.cpu.system)
            ),
        );
        if let Some(steady) = self.steady_state {
            let attained = if self.end == End::Steady {
                "attained"
            } else {
                "not attained"
            };
            line(
                "steady",
                format!("{steady} over {} s: {attained}", steady.window.as_secs()),
            );
        }
        if self.workload.verify.is_some() {
            line("verify", self.verify_line());
        }
        match self.end {
            End::Limit | End::Steady => {}
            End::Cancelled => line("end", "cancelled before its limit".into()),
            End::Errors => line("end", "too many errors".into()),
            End::Unanswered => line(
                "end",
                format!("{} operations were never answered", self.unanswered),
            ),
        }
        text
    }

    fn verify_line(&self) -> String {
        let Some(verified) = &self.verified else {
            return "nothing was read back".into();
        };
        let mut line = match verified.wrong {
            0 => format!("{} blocks read back, all right", verified.blocks),
            wrong => format!("{wrong} of {} blocks wrong", verified.blocks),
        };
        if verified.unknown > 0 {
            let _ok = write!(line, "; {} not read, their write failed", verified.unknown).is_ok();
        }
        for mismatch in &verified.first {
            let _ok = write!(line, "\n           {mismatch}").is_ok();
        }
        line
    }

    /// `randread-4k-qd32`
    #[must_use]
    pub fn name(&self) -> String {
        let Workload {
            pattern,
            block_bytes,
            depth,
            ..
        } = &self.workload;
        let size = match block_bytes {
            bytes if bytes.is_multiple_of(1 << 20) => format!("{}m", bytes >> 20),
            bytes if bytes.is_multiple_of(1 << 10) => format!("{}k", bytes >> 10),
            bytes => bytes.to_string(),
        };
        format!("{pattern}-{size}-qd{depth}")
    }
}

impl End {
    /// As one word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Steady => "steady",
            Self::Cancelled => "cancelled",
            Self::Errors => "errors",
            Self::Unanswered => "unanswered",
        }
    }
}

fn latency_line(latency: &Histogram) -> String {
    let mut line = format!(
        "min {}  mean {}",
        time(latency.min_ns()),
        time(latency.mean_ns())
    );
    for (name, percent) in [
        ("p50", 50.0),
        ("p90", 90.0),
        ("p99", 99.0),
        ("p99.9", 99.9),
        ("p99.99", 99.99),
    ] {
        let _ok = write!(line, "  {name} {}", time(latency.percentile_ns(percent))).is_ok();
    }
    let _ok = write!(line, "  max {}", time(latency.max_ns())).is_ok();
    line
}

fn sentence(error: &IoError) -> String {
    format!("{error}: {}", error.cause)
}

fn over(amount: u64, elapsed: Duration) -> f64 {
    let seconds = elapsed.as_secs_f64();
    if seconds > 0.0 {
        amount as f64 / seconds
    } else {
        0.0
    }
}

/// A number in steps of `base`, with three digits or more.
fn scaled(value: f64, base: f64, units: &[&str]) -> String {
    let mut value = value;
    let mut unit = "";
    for next in units {
        unit = next;
        if value < base {
            break;
        }
        if next != units.last().unwrap_or(&"") {
            value /= base;
        }
    }
    let digits = match value {
        value if value < 10.0 => 2,
        value if value < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$}{unit}")
}

/// `312k`
#[must_use]
pub fn count(value: f64) -> String {
    scaled(value, 1000.0, &["", "k", "M", "G"])
}

/// `1.19 GiB`
#[must_use]
pub fn bytes(value: f64) -> String {
    scaled(value, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB"])
}

/// `66.1 µs`
#[must_use]
pub fn time(nanos: u64) -> String {
    scaled(nanos as f64, 1000.0, &[" ns", " µs", " ms", " s"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!(count(0.0), "0.00");
        assert_eq!(count(999.0), "999");
        assert_eq!(count(312_400.0), "312k");
        assert_eq!(count(4_500_000.0), "4.50M");
        assert_eq!(bytes(1_279_590_400.0), "1.19 GiB");
        assert_eq!(time(4_300), "4.30 µs");
        assert_eq!(time(66_120), "66.1 µs");
        assert_eq!(time(60_000_000_000), "60.0 s");
        assert_eq!(time(7_200_000_000_000), "7200 s");
    }

    #[test]
    fn depths_by_powers_of_two() {
        let mut depths = Depths::default();
        assert_eq!(depths.percent(), [0.0; 7]);
        for (operations, in_flight) in [(1, 1), (1, 3), (2, 31), (3, 64), (1, 1000)] {
            depths.count(operations, in_flight);
        }
        assert_eq!(depths.percent(), [12.5, 12.5, 0.0, 0.0, 25.0, 0.0, 50.0]);
    }
}
