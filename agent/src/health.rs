//! The agent's part of health: reading, counting, and what of it is worth writing. Pure. The verdict is the
//! controller's; the agent says only what it saw, and that reads fail.
//!
//! | | |
//! |---|---|
//! | read | 200 random 4 KiB reads of the probe file, at depth 1, at most half a second; five rounds count together |
//! | failing | three rounds in a row with a failed read; again in use after three without |
//! | written | when the median moved by a fifth or the 99th percentile by half; else every ten minutes |

use std::time::Duration;

use api::drive::DriveLatency;
use api::{DriveStatus, LatencySummary};

use crate::host::BlockCounters;

/// Reads of one round.
pub const READS: u64 = 200;
/// Bytes of one read.
pub const READ_BYTES: u32 = 4096;
/// Longest round: a slow drive is not made slower by being looked at.
pub const ROUND_MAX: Duration = Duration::from_millis(500);
/// A read without an answer for so long has failed.
pub const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Between two looks at the kernel's counters.
pub const COUNT_INTERVAL: Duration = Duration::from_secs(15);
/// Rounds in a row that make a drive Failing, or end that.
pub const ROUNDS_TO_TURN: u32 = 3;
/// What did not change is written again after so long.
const WRITE_INTERVAL: Duration = Duration::from_secs(600);

/// Rounds in a row of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streak {
    failed: u32,
    good: u32,
}

/// What a round makes of a drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// As it was.
    Stays,
    /// Its reads fail.
    Fails,
    /// Its reads no longer fail.
    Recovers,
}

impl Streak {
    /// Counts one round.
    pub fn count(&mut self, good: bool, failing: bool) -> Turn {
        if good {
            *self = Self {
                failed: 0,
                good: self.good.saturating_add(1),
            };
        } else {
            *self = Self {
                failed: self.failed.saturating_add(1),
                good: 0,
            };
        }
        match failing {
            false if self.failed >= ROUNDS_TO_TURN => Turn::Fails,
            true if self.good >= ROUNDS_TO_TURN => Turn::Recovers,
            true | false => Turn::Stays,
        }
    }
}

/// What the kernel's counters say of the drive's users over a stretch of time, without the agent's own reads.
#[must_use]
pub fn users(
    before: &BlockCounters,
    after: &BlockCounters,
    elapsed: Duration,
    own_reads: u64,
    own_ns: u64,
) -> DriveLatency {
    let reads = after
        .reads
        .saturating_sub(before.reads)
        .saturating_sub(own_reads);
    let read_ns = nanos(after.read_ms.saturating_sub(before.read_ms)).saturating_sub(own_ns);
    let writes = after.writes.saturating_sub(before.writes);
    let write_ns = nanos(after.write_ms.saturating_sub(before.write_ms));
    let weighted_ns =
        nanos(after.weighted_ms.saturating_sub(before.weighted_ms)).saturating_sub(own_ns);
    let elapsed_ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
    DriveLatency {
        read: None,
        kernel_read_mean_ns: (reads > 0).then(|| read_ns / reads),
        kernel_write_mean_ns: (writes > 0).then(|| write_ns / writes),
        load_hundredths: weighted_ns.saturating_mul(100).checked_div(elapsed_ns),
    }
}

const fn nanos(millis: u64) -> u64 {
    millis.saturating_mul(1_000_000)
}

/// Whether new figures are worth a write over those written `age` ago.
#[must_use]
pub fn is_worth_writing(
    written: Option<&DriveLatency>,
    new: &DriveLatency,
    age: Option<Duration>,
) -> bool {
    let (Some(written), Some(age)) = (written, age) else {
        return true;
    };
    age >= WRITE_INTERVAL
        || match (&written.read, &new.read) {
            (Some(old), Some(new)) => {
                moved(old.p50_ns, new.p50_ns, 5) || moved(old.p99_ns, new.p99_ns, 2)
            }
            (old, new) => old.is_some() != new.is_some(),
        }
}

/// Whether a figure moved by at least one part in `share`, of the smaller of the two.
const fn moved(old: u64, new: u64, share: u64) -> bool {
    let smaller = if old < new { old } else { new };
    old.abs_diff(new) > smaller / share
}

/// The latest summary of a status.
#[must_use]
pub fn read_of(status: &DriveStatus) -> Option<&LatencySummary> {
    status.latency.as_ref()?.read.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_in_a_row_turn_a_drive() {
        let mut streak = Streak::default();
        let mut failing = false;
        let rounds = "ggbbgbbbbggbggg";
        let mut turns = String::new();
        for round in rounds.chars() {
            match streak.count(round == 'g', failing) {
                Turn::Stays => turns.push('.'),
                Turn::Fails => {
                    failing = true;
                    turns.push('F');
                }
                Turn::Recovers => {
                    failing = false;
                    turns.push('R');
                }
            }
        }
        assert_eq!(turns, ".......F......R");
    }

    #[test]
    fn the_agents_own_reads_are_not_its_users() {
        let before = BlockCounters::default();
        let after = BlockCounters {
            reads: 1100,
            read_ms: 300,
            writes: 10,
            write_ms: 50,
            weighted_ms: 350,
            ..BlockCounters::default()
        };
        let users = users(&before, &after, Duration::from_secs(1), 1000, 200_000_000);
        assert_eq!(users.kernel_read_mean_ns, Some(1_000_000));
        assert_eq!(users.kernel_write_mean_ns, Some(5_000_000));
        assert_eq!(users.load_hundredths, Some(15));
        let idle = super::users(&after, &after, Duration::from_secs(1), 1000, 1);
        assert_eq!(
            (idle.kernel_read_mean_ns, idle.load_hundredths),
            (None, Some(0))
        );
    }

    #[test]
    fn what_is_worth_writing() {
        let figures = |p50_ns, p99_ns| DriveLatency {
            read: Some(LatencySummary {
                p50_ns,
                p99_ns,
                ..LatencySummary::default()
            }),
            ..DriveLatency::default()
        };
        let old = figures(100, 1000);
        let cases = [
            (figures(100, 1000), 0, false),
            (figures(119, 1400), 0, false),
            (figures(121, 1000), 0, true),
            (figures(100, 1501), 0, true),
            (figures(100, 600), 0, true),
            (figures(100, 1000), 600, true),
            (DriveLatency::default(), 0, true),
        ];
        for (new, age, expected) in cases {
            let age = Some(Duration::from_secs(age));
            assert_eq!(is_worth_writing(Some(&old), &new, age), expected, "{new:?}");
        }
        assert!(is_worth_writing(None, &old, None));
    }
}
