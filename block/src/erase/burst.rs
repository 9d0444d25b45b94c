//! How much a device is told to zero at once, and how long it is left alone after, where others are to be spared: the kernel
//! hands all of it to the device, and who shares something with that device waits behind it (kernel-notes/13). What takes no
//! time is not cut, and waits for nothing. Pure.

use std::time::Duration;

/// A neighbour waits no longer than this, about.
const LONGEST: Duration = Duration::from_micros(250);
/// The smallest; also what each is a multiple of.
const LEAST_BYTES: u64 = 512 << 10;
/// The first, of which nobody knows how long it takes.
pub const FIRST_BYTES: u64 = 1 << 20;
/// The largest: as much as a device zeroes in no time.
pub const MOST_BYTES: u64 = 1 << 30;
/// One is at most so many times as large as that before it: a single quick answer proves little.
const GROWTH: u64 = 4;

/// A device that takes longer over one is not left alone for longer than this.
const REST_MOST: Duration = Duration::from_millis(100);

/// How long the device is left alone after one that took so many nanoseconds: half of the time is its neighbours'.
#[must_use]
pub fn rest(took_ns: u64) -> Duration {
    Duration::from_nanos(took_ns).min(REST_MOST)
}

/// The bytes of the next, after one of `bytes` that took so many nanoseconds.
#[must_use]
pub fn next(bytes: u64, took_ns: u64) -> u64 {
    let fitting = u128::from(bytes) * LONGEST.as_nanos() / u128::from(took_ns.max(1));
    let fitting = u64::try_from(fitting).unwrap_or(u64::MAX);
    let most = bytes.saturating_mul(GROWTH).min(MOST_BYTES);
    fitting.min(most).max(LEAST_BYTES) / LEAST_BYTES * LEAST_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn half_of_the_time_is_the_neighbours() {
        assert_eq!(rest(0), Duration::ZERO);
        assert_eq!(rest(250_000), LONGEST);
        assert_eq!(rest(u64::MAX), REST_MOST);
    }

    #[test]
    fn one_takes_about_as_long_as_a_neighbour_may_wait() {
        for (bytes, took_ns, wanted) in [
            (MIB, 250_000, MIB),
            (MIB, 500_000, MIB / 2),
            (MIB, 1_000_000_000, MIB / 2),
            (64 * MIB, 1_000_000, 16 * MIB),
            // It grows by steps, up to an end.
            (MIB, 10, 4 * MIB),
            (MIB, 0, 4 * MIB),
            (MOST_BYTES, 0, MOST_BYTES),
            (u64::MAX, 1, MOST_BYTES),
            // Whole blocks, whatever came before.
            (3, 250_000, MIB / 2),
            (5 * MIB + 512, 250_000, 5 * MIB),
        ] {
            assert_eq!(next(bytes, took_ns), wanted, "{bytes} in {took_ns} ns");
        }
    }
}
