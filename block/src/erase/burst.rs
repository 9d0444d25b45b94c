//! How much a device is told to zero at once, and how long it is left alone after, where others are to be spared: the kernel
//! hands all of it to the device, and who shares something with that device waits behind it (kernel-notes/13).
//!
//! | one call | the next |
//! |---|---|
//! | took less than a neighbour may wait | larger, by steps |
//! | took longer, and a smaller one takes less | smaller |
//! | took longer, and a smaller one takes as long: the call itself costs | larger, until its bytes cost more than it does |
//!
//! Pure.

use std::time::Duration;

/// A neighbour waits no longer than this, about.
const LONGEST: Duration = Duration::from_micros(250);
/// The smallest; also what each is a multiple of.
const LEAST_BYTES: u64 = 512 << 10;
/// The first, of which nobody knows how long it takes.
const FIRST_BYTES: u64 = 1 << 20;
/// The largest. What a device has zeroed so far in no time it may have to write from here on.
const MOST_BYTES: u64 = 32 << 20;
/// One is at most so many times as large as that before it, and twice where a neighbour waits for it: a single answer proves
/// little.
const GROWTH: u64 = 4;
/// After so many of one size a larger one shows whether the size still matters.
const TRIED_AGAIN: u32 = 256;

/// How long a device is left alone after a call for `bytes` that took so many nanoseconds: as long as it worked, so that half
/// of the time is its neighbours', but no longer than written zeroes at `bytes_per_second` would have taken in all.
#[must_use]
pub fn rest(bytes: u64, took_ns: u64, bytes_per_second: u64) -> Duration {
    let written_ns = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_second.max(1));
    let left = u64::try_from(written_ns).unwrap_or(u64::MAX);
    Duration::from_nanos(took_ns.min(left.saturating_sub(took_ns)))
}

/// What a call was for, and how long it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Call {
    bytes: u64,
    took_ns: u64,
}

/// How much of one device is zeroed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Burst {
    planned: u64,
    /// The last that told something.
    last: Option<Call>,
    /// Whether the call itself costs, as two of different size told last.
    flat: bool,
    /// Calls of this size in a row.
    alike: u32,
}

impl Default for Burst {
    fn default() -> Self {
        Self {
            planned: FIRST_BYTES,
            last: None,
            flat: false,
            alike: 0,
        }
    }
}

impl Burst {
    /// Bytes of the next call.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.planned
    }

    /// After a call for `bytes`, fewer than planned at the end of a piece.
    pub fn done(&mut self, bytes: u64, took_ns: u64) {
        let call = Call { bytes, took_ns };
        // So few that they say nothing of more.
        if bytes < self.planned && call.is_short() {
            return;
        }
        self.flat = match self.last {
            None => false,
            // Of one size: it tells only that something is new.
            Some(last) if last.bytes == bytes => self.flat && call.took_ns <= 2 * last.took_ns,
            Some(last) => !call.is_by_its_bytes(last),
        };
        let grows = self.flat || self.alike >= TRIED_AGAIN;
        let next = if grows && !call.is_short() {
            bytes.saturating_mul(2)
        } else {
            call.fitting().min(bytes.saturating_mul(GROWTH))
        };
        let next = next.clamp(LEAST_BYTES, MOST_BYTES) / LEAST_BYTES * LEAST_BYTES;
        self.alike = if next == self.planned {
            self.alike + 1
        } else {
            0
        };
        self.planned = next;
        self.last = Some(call);
    }
}

impl Call {
    fn is_short(self) -> bool {
        u128::from(self.took_ns) <= LONGEST.as_nanos()
    }

    /// As many bytes as take as long as a neighbour may wait.
    fn fitting(self) -> u64 {
        let bytes = u128::from(self.bytes) * LONGEST.as_nanos() / u128::from(self.took_ns.max(1));
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// Whether the length follows from the bytes rather than from being a call, as two of different size tell: the larger one
    /// takes longer by more than half of what its size would make of the smaller.
    fn is_by_its_bytes(self, other: Self) -> bool {
        let (small, large) = if self.bytes < other.bytes {
            (self, other)
        } else {
            (other, self)
        };
        // (t' - t) / t > (b' - b) / b / 2, without a division.
        let longer = u128::from(large.took_ns.saturating_sub(small.took_ns));
        let more = u128::from(large.bytes - small.bytes);
        2 * longer * u128::from(small.bytes) > more * u128::from(small.took_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    const MS: u64 = 1_000_000;

    /// Calls of a device that needs so long for one, and for a GiB: each one's bytes and nanoseconds.
    fn calls(call_ns: u64, gib_ns: u64, count: usize) -> Vec<(u64, u64)> {
        let mut burst = Burst::default();
        (0..count)
            .map(|_| {
                let bytes = burst.bytes();
                let took_ns = call_ns + gib_ns * bytes / GIB;
                burst.done(bytes, took_ns);
                (bytes, took_ns)
            })
            .collect()
    }

    #[test]
    fn as_long_a_rest_as_the_rate_leaves() {
        let rest = |bytes, took_ns, rate| rest(bytes, took_ns, rate).as_micros();
        assert_eq!(rest(MIB, 0, 100 * MIB), 0);
        assert_eq!(rest(MIB, 250_000, 100 * MIB), 250, "half of the time");
        assert_eq!(
            rest(MIB, 8 * MS, 100 * MIB),
            2000,
            "10 ms would be written in"
        );
        assert_eq!(rest(MIB, 50 * MS, 100 * MIB), 0, "slower than the rate");
        assert_eq!(rest(MIB, 250_000, 0), 250);
    }

    #[test]
    fn a_call_takes_about_as_long_as_a_neighbour_may_wait() {
        // 100 MiB, 1 GiB, 4 GiB and 100 GiB a second.
        for (gib_ns, wanted) in [
            (10_240 * MS, LEAST_BYTES),
            (1000 * MS, LEAST_BYTES),
            (250 * MS, MIB),
            (8 * MS, 32 * MIB),
        ] {
            for (bytes, _) in calls(0, gib_ns, 1000).split_off(10) {
                let once = bytes == wanted * 2;
                assert!(bytes == wanted || once, "{bytes} of a GiB in {gib_ns} ns");
                assert!(bytes <= MOST_BYTES);
            }
        }
        assert_eq!(calls(0, 0, 20).pop(), Some((MOST_BYTES, 0)));
        let steps: Vec<u64> = calls(0, 0, 4).into_iter().map(|(it, _)| it).collect();
        assert_eq!(steps, [MIB, 4 * MIB, 16 * MIB, 32 * MIB]);
    }

    /// To cut what each call costs, whatever it zeroes, spares nobody.
    #[test]
    fn where_the_call_itself_costs_calls_are_large() {
        for call_ns in [MS, 30 * MS] {
            assert_eq!(calls(call_ns, 0, 20).pop(), Some((MOST_BYTES, call_ns)));
        }
        // Both: most of the bytes go in calls that are no more than some times as long as the shortest there is.
        let told = calls(MS, 16 * MS, 1000);
        assert!(told.iter().all(|(_, took_ns)| *took_ns <= 20 * MS));
        let bytes: u64 = told.iter().map(|(bytes, _)| bytes).sum();
        let ns: u64 = told.iter().map(|(_, took_ns)| took_ns).sum();
        assert!(bytes / (ns / MS) > 20 * MIB, "{bytes} bytes in {ns} ns");
    }

    /// One that took long for another reason changes little, and that a call costs is found out later.
    #[test]
    fn a_stall_is_forgotten() {
        let mut burst = Burst::default();
        for _ in 0..10 {
            burst.done(burst.bytes(), 10 * MS * burst.bytes() / GIB);
        }
        let before = burst.bytes();
        burst.done(before, 100 * MS);
        assert!(burst.bytes() <= before);
        for _ in 0..10 {
            burst.done(burst.bytes(), 10 * MS * burst.bytes() / GIB);
            assert!(burst.bytes() <= before * GROWTH, "{}", burst.bytes());
        }
        assert_eq!(burst.bytes(), before);

        let mut burst = Burst::default();
        burst.done(burst.bytes(), 100 * MS);
        for _ in 0..TRIED_AGAIN + 20 {
            burst.done(burst.bytes(), MS);
        }
        assert_eq!(burst.bytes(), MOST_BYTES);
    }

    /// Quick where nothing is stored, slow where there is something; also at the end of a piece.
    #[test]
    fn a_device_that_grows_slow_is_told_less() {
        let mut burst = Burst {
            planned: 32 * MIB,
            ..Burst::default()
        };
        burst.done(MIB, 10);
        assert_eq!(burst.bytes(), 32 * MIB, "too few to tell");
        burst.done(22 * MIB, MS);
        assert_eq!(burst.bytes(), 5 * MIB + MIB / 2);

        // Of one whose calls cost something, too.
        let mut burst = Burst::default();
        for gib_ns in [0, 1000 * MS] {
            for _ in 0..20 {
                burst.done(burst.bytes(), MS + gib_ns * burst.bytes() / GIB);
            }
        }
        assert!(burst.bytes() <= 8 * MIB, "{}", burst.bytes());
    }
}
