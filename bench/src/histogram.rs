//! Latencies in fixed memory: 1 ns to 60 s with three significant digits, so a quantile is off by at most one part in a
//! thousand. Bounds are fixed, so recording never allocates; what is slower than 60 s counts as 60 s. Smallest, largest and sum
//! are kept exactly beside it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram as Hdr;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2Serializer};
use thiserror::Error;

/// What is slower counts as this.
pub const HIGHEST_NS: u64 = 60_000_000_000;
const LOWEST_NS: u64 = 1;
const SIGNIFICANT_DIGITS: u8 = 3;

/// Latencies of one kind of operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    counts: Hdr<u64>,
    sum_ns: u64,
    min_ns: u64,
    max_ns: u64,
}

/// A text that is no histogram.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// Not base64.
    #[error("not base64")]
    Base64(#[source] base64::DecodeError),
    /// Not HdrHistogram V2.
    #[error("no HdrHistogram in V2 format: {0}")]
    Format(String),
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    /// An empty one: 216 KiB.
    ///
    /// # Panics
    /// Never: the bounds are constants that the library accepts.
    #[must_use]
    #[expect(clippy::expect_used, reason = "constants, checked by every test")]
    pub fn new() -> Self {
        Self {
            counts: Hdr::new_with_bounds(LOWEST_NS, HIGHEST_NS, SIGNIFICANT_DIGITS)
                .expect("1 ns to 60 s in 3 digits is a valid range"),
            sum_ns: 0,
            min_ns: u64::MAX,
            max_ns: 0,
        }
    }

    /// Counts one latency.
    pub fn record(&mut self, latency_ns: u64) {
        self.record_n(latency_ns, 1);
    }

    /// Counts one latency `count` times.
    pub fn record_n(&mut self, latency_ns: u64, count: u64) {
        self.counts.saturating_record_n(latency_ns, count);
        self.sum_ns = self.sum_ns.saturating_add(latency_ns.saturating_mul(count));
        self.min_ns = self.min_ns.min(latency_ns);
        self.max_ns = self.max_ns.max(latency_ns);
    }

    /// Adds another's counts.
    pub fn merge(&mut self, other: &Self) {
        // Equal bounds, so it cannot fail; were it to, nothing would have been added.
        if self.counts.add(&other.counts).is_ok() {
            self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
            self.min_ns = self.min_ns.min(other.min_ns);
            self.max_ns = self.max_ns.max(other.max_ns);
        }
    }

    /// Latencies counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.len()
    }

    /// The shortest; 0 when empty.
    #[must_use]
    pub fn min_ns(&self) -> u64 {
        if self.count() == 0 { 0 } else { self.min_ns }
    }

    /// The longest.
    #[must_use]
    pub const fn max_ns(&self) -> u64 {
        self.max_ns
    }

    /// The mean; 0 when empty.
    #[must_use]
    pub fn mean_ns(&self) -> u64 {
        self.sum_ns.checked_div(self.count()).unwrap_or(0)
    }

    /// The standard deviation.
    #[must_use]
    pub fn stdev_ns(&self) -> f64 {
        self.counts.stdev()
    }

    /// The latency that `percent` of a hundred operations did not exceed; 0 when empty.
    #[must_use]
    pub fn percentile_ns(&self, percent: f64) -> u64 {
        self.counts.value_at_percentile(percent).min(self.max_ns)
    }

    /// Counts per bucket: one for each of the ascending upper `bounds_ns` (inclusive), and one for what is above them all.
    #[must_use]
    pub fn buckets(&self, bounds_ns: &[u64]) -> Vec<u64> {
        let mut buckets = vec![0; bounds_ns.len() + 1];
        for entry in self.counts.iter_recorded() {
            let index = bounds_ns.partition_point(|bound| *bound < entry.value_iterated_to());
            if let Some(bucket) = buckets.get_mut(index) {
                *bucket += entry.count_at_value();
            }
        }
        buckets
    }

    /// What was counted, ascending: a latency (the upper bound of its cell) and how often.
    pub fn recorded(&self) -> impl Iterator<Item = (u64, u64)> {
        let entries = self.counts.iter_recorded();
        entries.map(|entry| (entry.value_iterated_to(), entry.count_at_value()))
    }

    /// HdrHistogram V2, base64: what other tools read. Without the exact sum, smallest and largest.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut bytes = Vec::new();
        match V2Serializer::new().serialize(&self.counts, &mut bytes) {
            Ok(_) => STANDARD.encode(bytes),
            // Writing to memory: only counts above 2^63 do not fit the format.
            Err(_) => String::new(),
        }
    }

    /// From [`Histogram::encode`], of whatever bounds; sum, smallest and largest to three digits.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(text: &str) -> Result<Self, DecodeError> {
        let bytes = STANDARD.decode(text).map_err(DecodeError::Base64)?;
        let decoded: Hdr<u64> = Deserializer::new()
            .deserialize(&mut bytes.as_slice())
            .map_err(|error| DecodeError::Format(error.to_string()))?;
        let mut histogram = Self::new();
        for entry in decoded.iter_recorded() {
            let (value, count) = (entry.value_iterated_to(), entry.count_at_value());
            histogram.counts.saturating_record_n(value, count);
            histogram.sum_ns = histogram.sum_ns.saturating_add(value.saturating_mul(count));
            histogram.min_ns = histogram.min_ns.min(value);
            histogram.max_ns = histogram.max_ns.max(value);
        }
        Ok(histogram)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(latencies: &[u64]) -> Histogram {
        let mut histogram = Histogram::new();
        for latency in latencies {
            histogram.record(*latency);
        }
        histogram
    }

    #[test]
    fn empty() {
        let empty = Histogram::new();
        assert_eq!((empty.count(), empty.min_ns(), empty.mean_ns()), (0, 0, 0));
        assert_eq!((empty.max_ns(), empty.percentile_ns(99.0)), (0, 0));
        assert_eq!(empty.buckets(&[10]), [0, 0]);
    }

    #[test]
    fn buckets_include_their_bound() {
        assert_eq!(of(&[1, 10, 11, 500]).buckets(&[10, 100]), [2, 1, 1]);
    }

    #[test]
    fn slower_than_everything() {
        let histogram = of(&[HIGHEST_NS * 3]);
        assert_eq!(histogram.count(), 1);
        assert_eq!(histogram.max_ns(), HIGHEST_NS * 3);
        assert!(histogram.percentile_ns(50.0) >= HIGHEST_NS);
    }

    #[test]
    fn no_histogram() {
        for text in ["", "%", "AAAA"] {
            assert!(Histogram::decode(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn quantiles_are_off_by_a_thousandth(
            mut latencies in prop::collection::vec(1..HIGHEST_NS, 1..300),
            percent in 1.0..100.0f64,
        ) {
            let histogram = of(&latencies);
            latencies.sort_unstable();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank of at most 300")]
            let rank = (percent / 100.0 * latencies.len() as f64).ceil() as usize;
            let exact = latencies[rank.clamp(1, latencies.len()) - 1];
            let found = histogram.percentile_ns(percent);
            prop_assert!(found.abs_diff(exact) <= exact / 1000 + 1, "{found} for {exact}");
            prop_assert_eq!(histogram.min_ns(), latencies[0]);
            prop_assert_eq!(histogram.max_ns(), *latencies.last().unwrap());
        }

        #[test]
        fn encoded_and_back(latencies in prop::collection::vec(1..HIGHEST_NS, 0..100)) {
            let histogram = of(&latencies);
            let back = Histogram::decode(&histogram.encode()).unwrap();
            prop_assert_eq!(back.count(), histogram.count());
            for percent in [50.0, 99.0, 99.9] {
                let (there, here) = (back.percentile_ns(percent), histogram.percentile_ns(percent));
                prop_assert!(there.abs_diff(here) <= here / 1000 + 1);
            }
        }

        #[test]
        fn merging_is_adding(
            left in prop::collection::vec(1..HIGHEST_NS, 0..50),
            right in prop::collection::vec(1..HIGHEST_NS, 0..50),
        ) {
            let mut merged = of(&left);
            merged.merge(&of(&right));
            prop_assert_eq!(merged, of(&[left, right].concat()));
        }
    }
}
