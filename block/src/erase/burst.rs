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

/// The bytes of the next, where they were to be `planned`, and `bytes` of them (fewer at the end of a piece) took so many
/// nanoseconds. However long a call takes for itself, with the rests no fewer bytes are zeroed than would be written at
/// `bytes_per_second`.
#[must_use]
pub fn next(planned: u64, bytes: u64, took_ns: u64, bytes_per_second: u64) -> u64 {
    // So few that they say nothing of more.
    if bytes < planned && u128::from(took_ns) <= LONGEST.as_nanos() {
        return planned;
    }
    let whole = |bytes: u128| u64::try_from(bytes).unwrap_or(u64::MAX);
    let fitting = whole(u128::from(bytes) * LONGEST.as_nanos() / u128::from(took_ns.max(1)));
    let written = whole(2 * u128::from(took_ns) * u128::from(bytes_per_second) / 1_000_000_000);
    let least = written.clamp(LEAST_BYTES, MOST_BYTES);
    let most = bytes.saturating_mul(GROWTH).clamp(least, MOST_BYTES);
    fitting.clamp(least, most).next_multiple_of(LEAST_BYTES)
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

    const RATE: u64 = 100 * MIB;

    #[test]
    fn one_takes_about_as_long_as_a_neighbour_may_wait() {
        for (planned, bytes, took_ns, wanted) in [
            (MIB, MIB, 250_000, MIB),
            (MIB, MIB, 500_000, MIB / 2),
            (64 * MIB, 64 * MIB, 1_000_000, 16 * MIB),
            // It grows by steps, up to an end.
            (MIB, MIB, 10, 4 * MIB),
            (MIB, MIB, 0, 4 * MIB),
            (MOST_BYTES, MOST_BYTES, 0, MOST_BYTES),
            // The rest of a piece: it tells only of what is slow.
            (64 * MIB, MIB, 10, 64 * MIB),
            (64 * MIB, 44 * MIB, 1_000_000, 11 * MIB),
            // Whole blocks.
            (3 * MIB + 1, 3 * MIB + 1, 250_000, 3 * MIB + MIB / 2),
            // Not slower than written zeroes.
            (MIB, MIB, 1_000_000_000, 200 * MIB),
        ] {
            let told = next(planned, bytes, took_ns, RATE);
            assert_eq!(told, wanted, "{bytes} of {planned} in {took_ns} ns");
        }
    }

    /// Milliseconds a call, whatever it zeroes: to cut it spares nobody.
    #[test]
    fn what_each_call_costs_is_not_paid_more_often_than_the_rate_allows() {
        for call_ns in [1_000_000, 30_000_000] {
            let (mut burst, mut done, mut ns) = (FIRST_BYTES, 0, 0);
            while done < 64 << 30 {
                done += burst;
                ns += 2 * call_ns;
                burst = next(burst, burst, call_ns, RATE);
            }
            let rate = u128::from(done) * 1_000_000_000 / u128::from(ns);
            assert!(rate >= u128::from(RATE) * 99 / 100, "{rate} bytes a second");
        }
    }

    /// Quick where nothing is stored, slow where there is something.
    #[test]
    fn a_device_that_grows_slow_is_told_less() {
        let mut burst = MOST_BYTES;
        for _ in 0..4 {
            burst = next(burst, burst, burst / 4, RATE);
        }
        assert!(burst <= MIB, "{burst}");
    }
}
