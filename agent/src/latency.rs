//! From measurements to what an object carries: percentiles and coarse buckets. Pure.

use std::collections::VecDeque;

use api::LatencySummary;
use api::latency::{BUCKET_BOUNDS_NS, BUCKETS, bucket_index};
use bench::Histogram;
use jiff::Timestamp;

/// Rounds of health reads that count together: enough for a 99.9th percentile, few enough to see a drive turn slow
/// with the first round.
pub const ROUNDS_MAX: usize = 5;

/// The latencies of one round, in far less memory than a histogram: a value and how often, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    recorded: Vec<(u64, u64)>,
    max_ns: u64,
    sum_ns: u64,
}

impl Round {
    /// From a histogram.
    #[must_use]
    pub fn of(histogram: &Histogram) -> Self {
        Self {
            recorded: histogram.recorded().collect(),
            max_ns: histogram.max_ns(),
            sum_ns: histogram.mean_ns().saturating_mul(histogram.count()),
        }
    }

    /// Values and how often.
    #[must_use]
    pub fn recorded(&self) -> &[(u64, u64)] {
        &self.recorded
    }

    /// Operations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.recorded.iter().map(|(_, count)| count).sum()
    }

    /// Time that they took in sum, in nanoseconds.
    #[must_use]
    pub const fn sum_ns(&self) -> u64 {
        self.sum_ns
    }
}

/// The last rounds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    rounds: VecDeque<Round>,
}

impl Window {
    /// Adds a round; the oldest goes.
    pub fn push(&mut self, round: Round) {
        self.rounds.push_back(round);
        while self.rounds.len() > ROUNDS_MAX {
            self.rounds.pop_front();
        }
    }

    /// All rounds as one summary. `None` while nothing was measured.
    #[must_use]
    pub fn summary(&self, now: Timestamp) -> Option<LatencySummary> {
        let mut all: Vec<(u64, u64)> = self
            .rounds
            .iter()
            .flat_map(|round| round.recorded.iter().copied())
            .collect();
        all.sort_unstable();
        let sum_ns = self.rounds.iter().map(|round| round.sum_ns).sum();
        let max_ns = self.rounds.iter().map(|round| round.max_ns).max()?;
        summary(&all, max_ns, sum_ns, now)
    }
}

/// A histogram as a summary. `None` for an empty one.
#[must_use]
pub fn of_histogram(histogram: &Histogram, now: Timestamp) -> Option<LatencySummary> {
    let round = Round::of(histogram);
    summary(&round.recorded, round.max_ns, round.sum_ns, now)
}

fn summary(
    ascending: &[(u64, u64)],
    max_ns: u64,
    sum_ns: u64,
    now: Timestamp,
) -> Option<LatencySummary> {
    let count: u64 = ascending.iter().map(|(_, count)| count).sum();
    let quantile = |thousandths: u64| {
        // The smallest value that so many thousandths of all do not exceed.
        let rank = count.saturating_mul(thousandths).div_ceil(1000).max(1);
        let mut seen = 0;
        let found = ascending.iter().find(|(_, count)| {
            seen += count;
            seen >= rank
        });
        found.map_or(max_ns, |(value, _)| *value).min(max_ns)
    };
    let mut buckets = vec![0; BUCKETS];
    for (value, count) in ascending {
        if let Some(bucket) = buckets.get_mut(bucket_index(*value)) {
            *bucket += count;
        }
    }
    debug_assert_eq!(buckets.len(), BUCKET_BOUNDS_NS.len() + 1);
    Some(LatencySummary {
        count,
        p50_ns: quantile(500),
        p99_ns: quantile(990),
        p999_ns: quantile(999),
        max_ns,
        mean_ns: sum_ns.checked_div(count)?,
        buckets,
        measured_at: Some(now),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(latencies: impl IntoIterator<Item = u64>) -> Histogram {
        let mut histogram = Histogram::new();
        latencies.into_iter().for_each(|ns| histogram.record(ns));
        histogram
    }

    #[test]
    fn a_summary_agrees_with_its_histogram() {
        let histogram = histogram((1..=10_000).map(|n| n * 100));
        let summary = of_histogram(&histogram, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(summary.count, 10_000);
        for (percent, found) in [
            (50.0, summary.p50_ns),
            (99.0, summary.p99_ns),
            (99.9, summary.p999_ns),
        ] {
            assert_eq!(found, histogram.percentile_ns(percent), "{percent}");
        }
        assert_eq!((summary.max_ns, summary.mean_ns), (1_000_000, 500_050));
        assert_eq!(summary.buckets, histogram.buckets(&BUCKET_BOUNDS_NS));
    }

    #[test]
    fn a_window_forgets_and_a_slow_round_shows_at_once() {
        let mut window = Window::default();
        assert_eq!(window.summary(Timestamp::UNIX_EPOCH), None);
        let p99 = |window: &Window| window.summary(Timestamp::UNIX_EPOCH).unwrap().p99_ns;
        for _ in 0..ROUNDS_MAX {
            window.push(Round::of(&histogram([100; 1000])));
        }
        assert_eq!(p99(&window), 100);
        window.push(Round::of(&histogram([9000; 1000])));
        assert!(p99(&window) >= 9000);
        for _ in 0..ROUNDS_MAX {
            window.push(Round::of(&histogram([100; 1000])));
        }
        assert_eq!(p99(&window), 100);
        assert_eq!(window.summary(Timestamp::UNIX_EPOCH).unwrap().count, 5000);
    }

    #[test]
    fn nothing_measured_is_no_summary() {
        assert_eq!(of_histogram(&Histogram::new(), Timestamp::UNIX_EPOCH), None);
    }
}
