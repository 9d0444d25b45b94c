//! How fast a drive is, small enough to live in an object: what placement reads and what `health` draws.
//!
//! The full histogram stays on the node and in Prometheus (and, HdrHistogram V2, in a Benchmark). A summary
//! carries its percentiles and [`BUCKETS`] coarse buckets, the same bounds for every drive, so that two of them
//! can be compared and added.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Upper bounds of the coarse buckets, in nanoseconds: 1-2-5 steps from 2 µs to 5 s. What is slower falls into
/// the last bucket, which has no bound.
pub const BUCKET_BOUNDS_NS: [u64; 20] = [
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
];

/// Number of coarse buckets: one per bound, and one for what is slower than all of them.
pub const BUCKETS: usize = BUCKET_BOUNDS_NS.len() + 1;

/// Latencies of one kind of operation, over one measurement. Times are in nanoseconds, from before the submission
/// to the reaping of the completion (fio's `lat_ns`, never `clat_ns`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LatencySummary {
    /// Operations measured.
    pub count: u64,
    /// Median, ns.
    pub p50_ns: u64,
    /// 99th percentile, ns.
    pub p99_ns: u64,
    /// 99.9th percentile, ns. Of little worth below 3,000 operations.
    pub p999_ns: u64,
    /// Slowest operation, ns.
    pub max_ns: u64,
    /// Mean, ns.
    pub mean_ns: u64,
    /// Operations per coarse bucket; bounds in [`BUCKET_BOUNDS_NS`], the last bucket is open.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub buckets: Vec<u64>,
    /// When the measurement ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub measured_at: Option<Timestamp>,
}

/// The bucket in which a latency of `nanos` is counted.
#[must_use]
pub fn bucket_index(nanos: u64) -> usize {
    BUCKET_BOUNDS_NS.partition_point(|bound| *bound < nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_their_bound() {
        assert_eq!(bucket_index(0), 0);
        assert_eq!(bucket_index(2_000), 0);
        assert_eq!(bucket_index(2_001), 1);
        assert_eq!(bucket_index(u64::MAX), BUCKETS - 1);
    }
}
