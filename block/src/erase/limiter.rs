//! One bandwidth for all drives of a node: zeroes that are written and read-back share it, so that however many drives are
//! erased at once, the bus and the processors that their neighbours share are left to those.
//!
//! Whoever is about to move bytes takes them here and waits for as long as it is told. The reckoning is pure: time is an
//! argument.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Clock;

/// What a node allows itself where nobody says otherwise, in bytes a second (kernel-notes/13).
pub const RATE_DEFAULT: u64 = 100 << 20;
/// What a late riser may make up for. Sleeps overshoot by tens of microseconds; without this the rate would never be met.
const SLACK_NS: u64 = 2_000_000;
/// Transfers are so small that one of them is this share of a second's bytes: a neighbour waits behind little
/// (kernel-notes/13).
const TRANSFERS_PER_SECOND: u64 = 4096;
/// Smallest transfer that is made of that: smaller ones cost more processor than they spare latency.
const TRANSFER_BYTES_MIN: u64 = 32 << 10;
const NANOS: u128 = 1_000_000_000;

/// When the next bytes may go, at a rate. Pure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    bytes_per_second: u64,
    free_at_ns: u64,
}

impl Bucket {
    /// At so many bytes a second; at least one.
    #[must_use]
    pub const fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second: if bytes_per_second == 0 {
                1
            } else {
                bytes_per_second
            },
            free_at_ns: 0,
        }
    }

    /// Takes `bytes` at `now_ns`: nanoseconds to wait before they may go.
    pub fn take(&mut self, now_ns: u64, bytes: u64) -> u64 {
        let start = self.free_at_ns.max(now_ns.saturating_sub(SLACK_NS));
        let lasts = u128::from(bytes) * NANOS / u128::from(self.bytes_per_second);
        let lasts = u64::try_from(lasts).unwrap_or(u64::MAX);
        self.free_at_ns = start.saturating_add(lasts);
        start.saturating_sub(now_ns)
    }
}

/// A [`Bucket`] that all drives of a process share, with a clock; or no limit at all.
#[derive(Debug)]
pub struct Limiter {
    bucket: Option<Mutex<Bucket>>,
    bytes_per_second: Option<u64>,
    clock: Clock,
}

impl Limiter {
    /// At so many bytes a second; as fast as it goes without.
    #[must_use]
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        Self {
            bucket: bytes_per_second.map(|rate| Mutex::new(Bucket::new(rate))),
            bytes_per_second,
            clock: Clock::start_plain(),
        }
    }

    /// No limit.
    #[must_use]
    pub fn unlimited() -> Self {
        Self::new(None)
    }

    /// The rate.
    #[must_use]
    pub const fn bytes_per_second(&self) -> Option<u64> {
        self.bytes_per_second
    }

    /// Takes `bytes`; how long to wait before they may go. They are taken even if they then do not go.
    #[must_use]
    pub fn take(&self, bytes: u64) -> Duration {
        let Some(bucket) = &self.bucket else {
            return Duration::ZERO;
        };
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        Duration::from_nanos(bucket.take(self.clock.now_ns(), bytes))
    }

    /// Bytes of one transfer, at most `bytes_max`: a power of two.
    #[must_use]
    pub fn transfer_bytes(&self, bytes_max: u64) -> u64 {
        match self.bytes_per_second {
            None => bytes_max,
            Some(rate) => {
                let share = (rate / TRANSFERS_PER_SECOND).max(1);
                let power = 1 << share.ilog2();
                power.clamp(TRANSFER_BYTES_MIN.min(bytes_max), bytes_max)
            }
        }
    }

    /// Bytes of one piece of work, at most `bytes_max`: at most a quarter of a second's, in whole MiB and at least one, so
    /// that between two pieces somebody can ask for a pause and is soon heard.
    #[must_use]
    pub fn piece_bytes(&self, bytes_max: u64) -> u64 {
        match self.bytes_per_second {
            None => bytes_max,
            Some(rate) => ((rate / 4) >> 20 << 20).clamp(1 << 20, bytes_max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;
    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn all_share_the_one_rate() {
        let mut bucket = Bucket::new(100 * MIB);
        let now = 5 * SECOND;
        // What was not used before is lost, but for the slack.
        assert_eq!(bucket.take(now, 10 * MIB), 0);
        let waits: Vec<u64> = (0..3).map(|_| bucket.take(now, 10 * MIB)).collect();
        let after = |tenths: u64| tenths * SECOND / 10 - SLACK_NS;
        assert_eq!(waits, [after(1), after(2), after(3)]);
    }

    #[test]
    fn sizes_follow_the_rate() {
        let sizes = |rate| {
            let limiter = Limiter::new(rate);
            (limiter.transfer_bytes(MIB), limiter.piece_bytes(64 * MIB))
        };
        assert_eq!(sizes(None), (MIB, 64 * MIB));
        assert_eq!(sizes(Some(200 * MIB)), (32 << 10, 50 * MIB));
        assert_eq!(sizes(Some(4 << 30)), (MIB, 64 * MIB));
        assert_eq!(sizes(Some(1 << 30)), (256 << 10, 64 * MIB));
        assert_eq!(sizes(Some(1000)), (32 << 10, MIB));
        assert_eq!(sizes(Some(0)), (32 << 10, MIB));
    }

    #[test]
    fn no_limit_is_no_wait() {
        assert_eq!(Limiter::unlimited().take(u64::MAX), Duration::ZERO);
        let limited = Limiter::new(Some(MIB));
        assert!(limited.take(MIB) < Duration::from_millis(1));
        assert!(limited.take(MIB) > Duration::from_millis(900));
    }

    proptest! {
        /// Over any stretch of takes that each wait as they are told, no more goes than the rate allows, slack included.
        #[test]
        fn the_rate_is_kept(
            rate in 1u64..1 << 34,
            takes in proptest::collection::vec((1u64..2 << 20, 0u64..20_000_000), 1..200),
        ) {
            let mut bucket = Bucket::new(rate);
            let begun = SECOND;
            let (mut now, mut gone) = (begun, 0u128);
            for (bytes, late) in takes {
                now = now.saturating_add(bucket.take(now, bytes)).saturating_add(late);
                let allowed = u128::from(rate) * u128::from(now - begun + SLACK_NS) / NANOS;
                // Rounding down gives away less than a nanosecond's bytes a take.
                let rounding = u128::from(rate) * 200 / NANOS + 200;
                prop_assert!(gone <= allowed + rounding, "{gone} of {allowed}");
                gone += u128::from(bytes);
            }
        }
    }
}
