//! How good a drive is for a volume: one function a criterion, each 0 to 1,000, in integers; the weights stand in one
//! table and a class may set its own.
//!
//! | criterion | 1,000 | 0 |
//! |---|---|---|
//! | latency | twice as fast as its tier's median, measured just now, often | never measured |
//! | capacity | nothing on it afterwards | full afterwards |
//! | tier | the class's first choice | – |
//! | volumes | no volume on it yet | – |
//!
//! A measurement is worth less the older it is and the fewer samples it has, so an unknown drive is never the best by
//! latency. Scores of latency are rounded to steps: drives of one model differ by noise, and noise shall not decide.

use std::str::FromStr;

use api::volume::Scored;
use jiff::Timestamp;

use super::Query;
use crate::inventory::{DriveEntry, ReadLatency};

/// The best score of one criterion.
pub const SCORE_MAX: u64 = 1_000;
/// Step to which latency scores are rounded.
const LATENCY_STEP: u64 = 50;
/// Samples at which a measurement is worth half of what endless samples would be worth.
const SAMPLES_HALF: u64 = 30;
/// Age at which a measurement is worth half of a fresh one. A drive's status is written on change and seldom
/// otherwise, so hours are nothing unusual.
const AGE_HALF_SECONDS: u64 = 12 * 3600;
/// Highest weight.
const WEIGHT_MAX: u32 = 1_000;

/// How the criteria are weighed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights {
    /// Latency against the tier.
    pub latency: u32,
    /// Free share after placement.
    pub capacity: u32,
    /// Place of the tier in the class's order.
    pub tier: u32,
    /// Fewer volumes.
    pub volumes: u32,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            latency: 40,
            capacity: 30,
            tier: 20,
            volumes: 10,
        }
    }
}

/// Text that is no weights.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{0:?} is not a list of weights; write for example latency=40,capacity=30 with any of latency, capacity, tier, volumes and numbers from 0 to {WEIGHT_MAX}, not all 0"
)]
pub struct MalformedWeights(pub String);

impl FromStr for Weights {
    type Err = MalformedWeights;

    /// Reads `latency=40,capacity=30`; what is not named keeps its default.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || MalformedWeights(text.to_owned());
        let mut weights = Self::default();
        for pair in text.split(',') {
            let (name, number) = pair.split_once('=').ok_or_else(malformed)?;
            let weight = match name.trim() {
                "latency" => &mut weights.latency,
                "capacity" => &mut weights.capacity,
                "tier" => &mut weights.tier,
                "volumes" => &mut weights.volumes,
                _ => return Err(malformed()),
            };
            let number = number.trim().parse().ok();
            *weight = number.filter(|n| *n <= WEIGHT_MAX).ok_or_else(malformed)?;
        }
        if weights.latency + weights.capacity + weights.tier + weights.volumes == 0 {
            return Err(malformed());
        }
        Ok(weights)
    }
}

/// All scores of one drive. Numbers only, so that ten thousand of them cost nothing; see [`Scores::of`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scores {
    pub(super) total: u64,
    latency: u64,
    capacity: u64,
    tier: u64,
    volumes: u64,
}

impl Scores {
    /// Scores `drive`, which passed every filter.
    pub(super) fn of(query: &Query<'_>, drive: &DriveEntry) -> Self {
        let latency = latency(
            drive.read.as_ref(),
            query.reference_ns(drive.tier),
            query.request.now,
        );
        let capacity = capacity(
            drive.free_bytes().saturating_sub(query.request.bytes),
            drive.allocatable_bytes,
        );
        let tier = tier(query.tier_rank(drive.tier), query.request.class.tiers.len());
        let volumes = SCORE_MAX / (1 + u64::from(drive.usage.volumes));
        let weights = query.request.class.weights;
        let total = u64::from(weights.latency) * latency
            + u64::from(weights.capacity) * capacity
            + u64::from(weights.tier) * tier
            + u64::from(weights.volumes) * volumes;
        Self {
            total,
            latency,
            capacity,
            tier,
            volumes,
        }
    }

    /// As it is kept in the Volume.
    pub(super) fn named(&self, drive: &DriveEntry) -> Scored {
        let small = |score: u64| u32::try_from(score).unwrap_or(u32::MAX);
        Scored {
            drive: drive.name.to_string(),
            node: drive.node.to_string(),
            total: small(self.total),
            latency: small(self.latency),
            capacity: small(self.capacity),
            tier: small(self.tier),
            volumes: small(self.volumes),
        }
    }
}

/// Free bytes of a drive as a scheduler shall see them that prefers much room: all of them at the best latency, half of
/// them where nothing is known of it.
pub(super) fn attractive_bytes(query: &Query<'_>, drive: &DriveEntry) -> u64 {
    let reference_ns = query.reference_ns(drive.tier);
    let latency = latency(drive.read.as_ref(), reference_ns, query.request.now);
    let share = u128::from(SCORE_MAX + latency);
    let bytes = u128::from(drive.free_bytes()) * share / u128::from(2 * SCORE_MAX);
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Half of all points for the median of its tier, all of them for twice its speed, a quarter for half of it; then
/// discounted by what the measurement is worth.
fn latency(read: Option<&ReadLatency>, reference_ns: Option<u64>, now: Timestamp) -> u64 {
    let (Some(read), Some(reference_ns)) = (read, reference_ns) else {
        return 0;
    };
    let raw = (SCORE_MAX / 2).saturating_mul(reference_ns) / read.figure_ns().max(1);
    let worth = worth(read, now);
    let score = raw.min(SCORE_MAX) * worth / SCORE_MAX;
    (score + LATENCY_STEP / 2) / LATENCY_STEP * LATENCY_STEP
}

/// What a measurement is worth, 0 to 1,000.
fn worth(read: &ReadLatency, now: Timestamp) -> u64 {
    let samples = SCORE_MAX * read.count / (read.count.saturating_add(SAMPLES_HALF));
    let seconds = now.duration_since(read.measured_at).as_secs();
    let seconds = u64::try_from(seconds).unwrap_or(0);
    let age = SCORE_MAX * AGE_HALF_SECONDS / (AGE_HALF_SECONDS.saturating_add(seconds));
    samples * age / SCORE_MAX
}

fn capacity(free_after_bytes: u64, allocatable_bytes: u64) -> u64 {
    let share =
        u128::from(free_after_bytes) * u128::from(SCORE_MAX) / u128::from(allocatable_bytes.max(1));
    u64::try_from(share).unwrap_or(SCORE_MAX).min(SCORE_MAX)
}

/// The first choice gets all points, the last of `choices` still its share.
fn tier(rank: Option<usize>, choices: usize) -> u64 {
    let (Ok(rank), Ok(choices)) = (u64::try_from(rank.unwrap_or(0)), u64::try_from(choices)) else {
        return 0;
    };
    let choices = choices.max(1);
    SCORE_MAX * choices.saturating_sub(rank) / choices
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;

    fn read(figure_ns: u64, count: u64, age_seconds: i64, now: Timestamp) -> ReadLatency {
        ReadLatency {
            p50_ns: figure_ns,
            p99_ns: figure_ns,
            count,
            measured_at: now - SignedDuration::from_secs(age_seconds),
        }
    }

    #[test]
    fn latency_is_against_the_tier_and_discounted() {
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(1_000);
        let many = 1_000_000;
        for (figure_ns, count, age_seconds, wanted) in [
            (50_000, many, 0, 1_000),
            (10_000, many, 0, 1_000),
            (100_000, many, 0, 500),
            (104_000, many, 0, 500), // noise
            (200_000, many, 0, 250),
            (100_000, 30, 0, 250),
            (100_000, many, 12 * 3600, 250),
            (100_000, many, -60, 500), // a clock that is ahead makes nothing better than fresh
            (10_000_000, many, 0, 0),
        ] {
            let score = latency(
                Some(&read(figure_ns, count, age_seconds, now)),
                Some(100_000),
                now,
            );
            assert_eq!(score, wanted, "{figure_ns} {count} {age_seconds}");
        }
        assert_eq!(latency(None, Some(100_000), now), 0);
    }

    #[test]
    fn tiers_in_order() {
        assert_eq!(tier(Some(0), 0), 1_000);
        assert_eq!(tier(Some(0), 2), 1_000);
        assert_eq!(tier(Some(1), 2), 500);
        assert_eq!(tier(Some(2), 3), 333);
    }

    #[test]
    fn shares_of_huge_drives() {
        assert_eq!(capacity(u64::MAX, u64::MAX), 1_000);
        assert_eq!(capacity(1 << 49, 1 << 50), 500);
        assert_eq!(capacity(0, 0), 0);
    }

    #[test]
    fn weights() {
        let weights: Weights = " latency = 7 , tier=0".parse().unwrap();
        assert_eq!(
            (weights.latency, weights.tier, weights.capacity),
            (7, 0, 30)
        );
        for bad in [
            "",
            "latency",
            "latency=x",
            "latency=1001",
            "speed=1",
            "latency=0,capacity=0,tier=0,volumes=0",
        ] {
            assert!(bad.parse::<Weights>().is_err(), "{bad}");
        }
    }
}
