//! The clock of a device: nanoseconds from when it was opened.
//!
//! It is read twice for each batch of operations, so its price counts: the processor's own counter (TSC) costs half of what
//! the kernel's monotonic clock does. The counter is trusted where the kernel trusts it, that is where it is the
//! kernel's own clock source (kernel-notes/15); elsewhere the kernel's clock is used. Its rate is measured against the
//! kernel's clock, over the time since the first clock of the process was started, and at least [`BASELINE`].

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::sys;

/// Over so long the counter's rate is known to 1 part in 50,000: each pair of readings is at most 50 ns apart.
const BASELINE: Duration = Duration::from_millis(5);

/// A reading of both clocks, the first of the process; none where the counter is not to be trusted.
static FIRST: OnceLock<Option<Reading>> = OnceLock::new();

#[derive(Clone, Copy, Debug)]
struct Reading {
    ticks: u64,
    at: Instant,
}

impl Reading {
    #[expect(
        clippy::disallowed_methods,
        reason = "a device carries its own clock; this is it"
    )]
    fn now() -> Option<Self> {
        Some(Self {
            ticks: sys::processor_ticks()?,
            at: Instant::now(),
        })
    }
}

/// A monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Clock {
    /// By the processor's counter.
    Ticks {
        /// Its reading at the start.
        start: u64,
        /// Nanoseconds a tick, times 2³².
        rate: u64,
    },
    /// By the kernel.
    Kernel {
        /// The start.
        opened: Instant,
    },
}

impl Clock {
    /// Starts now; the first of a process takes [`BASELINE`].
    pub(crate) fn start() -> Self {
        let first = *FIRST.get_or_init(|| Reading::now().filter(|_| kernel_trusts_ticks()));
        if let Some(first) = first {
            std::thread::sleep(BASELINE.saturating_sub(first.at.elapsed()));
            if let Some(now) = Reading::now()
                && let Some(rate) = rate(now.ticks.wrapping_sub(first.ticks), now.at - first.at)
            {
                return Self::Ticks {
                    start: now.ticks,
                    rate,
                };
            }
        }
        Self::start_plain()
    }

    /// Starts at once, by the kernel: for who reads it seldom.
    #[expect(
        clippy::disallowed_methods,
        reason = "a device carries its own clock; this is it"
    )]
    pub(crate) fn start_plain() -> Self {
        Self::Kernel {
            opened: Instant::now(),
        }
    }

    /// Nanoseconds since the start: 584 years fit.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "584 years fit")]
    pub(crate) fn now_ns(self) -> u64 {
        match self {
            Self::Ticks { start, rate } => {
                // A processor's counter may be read a few ticks before another's.
                let ticks = sys::processor_ticks()
                    .unwrap_or(start)
                    .saturating_sub(start);
                nanos(ticks, rate)
            }
            Self::Kernel { opened } => opened.elapsed().as_nanos() as u64,
        }
    }
}

/// Nanoseconds a tick, times 2³².
fn rate(ticks: u64, elapsed: Duration) -> Option<u64> {
    let scaled = elapsed.as_nanos() << 32;
    let rate = scaled.checked_div(u128::from(ticks))?;
    // 1 MHz to 1 THz: else it is no counter of the time.
    u64::try_from(rate)
        .ok()
        .filter(|rate| (1 << 22..=1000 << 32).contains(rate))
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "584 years fit")]
fn nanos(ticks: u64, rate: u64) -> u64 {
    ((u128::from(ticks) * u128::from(rate)) >> 32) as u64
}

/// Whether the kernel itself tells the time by the counter.
fn kernel_trusts_ticks() -> bool {
    std::fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource")
        .is_ok_and(|source| source.trim() == "tsc")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        let second = Duration::from_secs(1);
        let of = |hertz| rate(hertz, second).unwrap();
        for hertz in [1_000_000, 2_999_999_999, 5_000_000_000] {
            let hour = nanos(hertz * 3600, of(hertz));
            assert!(hour.abs_diff(3600 * 1_000_000_000) < 1_000_000, "{hour}");
        }
        assert_eq!(rate(0, second), None);
        assert_eq!(rate(1, second), None, "that is no counter of the time");
        assert_eq!(rate(u64::MAX, second), None);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "held to the kernel's clock")]
    fn both_clocks_agree() {
        let clock = Clock::start();
        let (before, kernel) = (clock.now_ns(), Instant::now());
        std::thread::sleep(Duration::from_millis(50));
        let (shown, passed) = (clock.now_ns() - before, kernel.elapsed().as_nanos());
        // Being put aside between two readings makes them differ: only a wrong rate is looked for.
        let ratio = shown as f64 / passed as f64;
        assert!((0.5..1.5).contains(&ratio), "{clock:?}: {ratio}");
        let mut last = 0;
        for _ in 0..10_000 {
            let now = clock.now_ns();
            assert!(now >= last);
            last = now;
        }
    }
}
