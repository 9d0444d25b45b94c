//! What is remembered of a drive: its latency–load curve, its votes, where it stood. And how a sample becomes a vote.

use std::collections::VecDeque;

use api::Reason;
use api::drive::{HealthState, HealthVerdict};
use jiff::Timestamp;

use super::{CALM_PERMILLE, Settings};
use crate::inventory::DriveEntry;

/// Votes that are kept at most.
const VOTES_MAX: usize = 64;
/// Samples after which the past is known.
const SAMPLES_KNOWN: u32 = 5;
/// Samples over which it is a plain mean.
const SAMPLES_MEAN: u32 = 8;
/// Then it follows what is faster by one in so many of the difference,
const FOLLOW_FASTER: u64 = 4;
/// and what is slower by one in so many: over days, or a drive that wears out slowly would be its own excuse.
const FOLLOW_SLOWER: u64 = 4_096;
/// Binary places that the mean carries below a nanosecond, so that small differences add up.
const FRACTION_BITS: u32 = 16;
/// Requests in flight, in hundredths, up to which a load is of a class; beyond the last there is one more.
const LOAD_CLASSES: [u64; 3] = [200, 800, 3_200];
/// How much slower a class may be than the one below before it was ever measured, in thousandths. An overestimate: a
/// load that is new shall not look like a fault.
const UNMEASURED_GROWTH: [u64; 3] = [3_000, 2_500, 2_500];
/// Signals other than the median of reads are noisier: half of their excess counts.
const NOISY_SIGNAL_DIVISOR: u64 = 2;
/// Against peers alone a drive must stand out more: it may just be another kind.
const PEERS_ONLY_PERMILLE: u64 = 3_000;

/// What a drive shows at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Median of its health reads, ns.
    pub read_p50_ns: u64,
    /// Their 99th percentile, ns; none where too few were made to have one.
    pub read_p99_ns: Option<u64>,
    /// Mean of its users' reads, ns.
    pub users_read_ns: Option<u64>,
    /// Mean of its users' writes, ns.
    pub users_write_ns: Option<u64>,
    /// Requests in flight, in hundredths.
    pub load_hundredths: u64,
}

/// Reads without which there is no 99th percentile to speak of.
const P99_COUNT_MIN: u64 = 299;

impl Sample {
    /// What `drive` shows, if it was measured and somebody stands to it still.
    #[must_use]
    pub fn of(drive: &DriveEntry, settings: Settings, now: Timestamp) -> Option<Self> {
        let read = drive.read.as_ref()?;
        if now.duration_since(read.measured_at) > settings.stale_after() {
            return None;
        }
        Some(Self {
            read_p50_ns: read.p50_ns,
            read_p99_ns: (read.count >= P99_COUNT_MIN).then_some(read.p99_ns),
            users_read_ns: drive.kernel.read_mean_ns,
            users_write_ns: drive.kernel.write_mean_ns,
            load_hundredths: drive.kernel.load_hundredths.unwrap_or(0),
        })
    }

    /// Class of its load.
    #[must_use]
    pub fn load_class(&self) -> usize {
        LOAD_CLASSES.partition_point(|bound| *bound < self.load_hundredths)
    }

    fn signals(&self) -> [(Than, Option<u64>); 4] {
        [
            (Than::OwnReads, Some(self.read_p50_ns)),
            (Than::OwnSlowestReads, self.read_p99_ns),
            (Than::OwnUsersReads, self.users_read_ns),
            (Than::OwnUsersWrites, self.users_write_ns),
        ]
    }
}

/// Against what a drive is slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Than {
    /// Its own health reads before, by their median.
    OwnReads,
    /// The same by their 99th percentile.
    OwnSlowestReads,
    /// Its users' reads before.
    OwnUsersReads,
    /// Its users' writes before.
    OwnUsersWrites,
    /// Its peers.
    Peers,
}

/// How many times slower than expected, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Excess {
    /// Thousandths; 1,000 is as expected.
    pub permille: u64,
    /// Against what.
    pub than: Than,
}

/// One vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vote {
    pub(super) at: Timestamp,
    pub(super) excess: Excess,
}

/// What others show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// Drives of the same model at such a load, itself not included; 0 where there are too few.
    pub count: usize,
    /// Median of their median reads, ns.
    pub median_ns: u64,
    /// Upper quartile of the same.
    pub upper_quartile_ns: u64,
    /// What others on its node, or of its model, slowed down by, in thousandths: no fault of its own.
    pub common_permille: u64,
}

/// A mean that follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Typical {
    /// Nanoseconds, with [`FRACTION_BITS`] binary places.
    scaled: u64,
    samples: u32,
}

impl Typical {
    fn known(ns: u64) -> Self {
        Self {
            scaled: ns << FRACTION_BITS,
            samples: SAMPLES_MEAN,
        }
    }

    const fn ns(self) -> u64 {
        self.scaled >> FRACTION_BITS
    }

    const fn is_known(self) -> bool {
        self.samples >= SAMPLES_KNOWN
    }

    fn learn(&mut self, ns: u64) {
        let sample = ns.min(u64::MAX >> (FRACTION_BITS + 1)) << FRACTION_BITS;
        let slower = sample >= self.scaled;
        let difference = sample.abs_diff(self.scaled);
        self.samples = self.samples.saturating_add(1);
        let share = if self.samples <= SAMPLES_MEAN {
            u64::from(self.samples)
        } else if slower {
            FOLLOW_SLOWER
        } else {
            FOLLOW_FASTER
        };
        let step = difference / share;
        self.scaled = if slower {
            self.scaled.saturating_add(step)
        } else {
            self.scaled.saturating_sub(step)
        };
    }
}

/// A signal's latency–load curve.
#[derive(Clone, Copy, Debug, Default)]
struct Curve([Typical; LOAD_CLASSES.len() + 1]);

impl Curve {
    fn learn(&mut self, class: usize, ns: u64) {
        if let Some(typical) = self.0.get_mut(class) {
            typical.learn(ns);
        }
    }

    /// What is expected at a load: as it was, else grown from the next lower class that is known.
    fn expected_ns(&self, class: usize) -> Option<u64> {
        let known = |at: usize| self.0.get(at).filter(|typical| typical.is_known());
        if let Some(typical) = known(class) {
            return Some(typical.ns());
        }
        let below = (0..class).rev().find(|at| known(*at).is_some())?;
        let growths = UNMEASURED_GROWTH.get(below..class)?;
        let grown = |ns: u64, permille: &u64| ns.saturating_mul(*permille) / 1_000;
        Some(growths.iter().fold(known(below)?.ns(), grown))
    }
}

/// What is remembered of a drive.
#[derive(Clone, Debug)]
pub struct History {
    curves: [Curve; 4],
    pub(super) votes: VecDeque<Vote>,
    /// Where it stood after the last verdict.
    pub(super) standing: HealthVerdict,
    /// What it shows now.
    pub(super) latest: Option<Sample>,
    /// The phase's word for errors.
    pub(super) failing: Option<Reason>,
}

impl History {
    /// Of a drive never seen before; `written` is the verdict of an earlier controller, if there was one.
    #[must_use]
    pub fn new(written: Option<&HealthVerdict>, now: Timestamp) -> Self {
        let fresh = HealthVerdict {
            state: HealthState::Healthy,
            reason: Reason::Healthy,
            message: String::new(),
            since: now,
            typical_read_ns: None,
            relapses: 0,
        };
        let standing = written.cloned().unwrap_or(fresh);
        let mut curves = [Curve::default(); 4];
        if let (Some(ns), [reads, ..]) = (standing.typical_read_ns, &mut curves)
            && let Some(lowest) = reads.0.first_mut()
        {
            *lowest = Typical::known(ns);
        }
        Self {
            curves,
            votes: VecDeque::new(),
            standing,
            latest: None,
            failing: None,
        }
    }

    /// Median read when idle, as it was, once known.
    #[must_use]
    pub fn typical_read_ns(&self) -> Option<u64> {
        let lowest = self.curves.first()?.0.first()?;
        lowest.is_known().then(|| lowest.ns())
    }

    /// Whether enough is known to say anything.
    #[must_use]
    pub fn is_known(&self) -> bool {
        !self.votes.is_empty()
    }

    /// How many times slower than its own past `sample` is, where that is known: the worst of its signals.
    #[must_use]
    pub fn own_excess(&self, sample: &Sample) -> Option<Excess> {
        let class = sample.load_class();
        let signals = self.curves.iter().zip(sample.signals());
        let excesses = signals.filter_map(|(curve, (than, ns))| {
            let expected = curve.expected_ns(class)?.max(1);
            let permille = ns?.saturating_mul(1_000) / expected;
            Some(Excess {
                permille: match than {
                    Than::OwnReads | Than::Peers => permille,
                    Than::OwnSlowestReads | Than::OwnUsersReads | Than::OwnUsersWrites => {
                        permille / NOISY_SIGNAL_DIVISOR
                    }
                },
                than,
            })
        });
        // The first of equals: the median of reads is the plainest to say.
        excesses.reduce(|worst, next| {
            if next.permille > worst.permille {
                next
            } else {
                worst
            }
        })
    }

    /// Casts the vote of one tick, and learns from a sample that is not out of the ordinary.
    pub fn observe(&mut self, sample: Sample, peers: &Peers, now: Timestamp) {
        self.latest = Some(sample);
        let own = self.own_excess(&sample).map(|excess| Excess {
            permille: excess.permille * 1_000 / peers.common_permille.max(1_000),
            ..excess
        });
        let excess = match (own, against_peers(&sample, peers)) {
            (Some(own), Some(peers)) if peers.permille > own.permille => Some(peers),
            (None, Some(peers)) => Some(peers),
            (own, _) => own,
        };
        if let Some(excess) = excess {
            self.votes.push_back(Vote { at: now, excess });
            if self.votes.len() > VOTES_MAX {
                self.votes.pop_front();
            }
        }
        let ordinary = excess.is_none_or(|excess| excess.permille < CALM_PERMILLE);
        let withdrawn = self.standing.state != HealthState::Healthy;
        if ordinary && !(withdrawn && self.typical_read_ns().is_some()) {
            let class = sample.load_class();
            for (curve, (_, ns)) in self.curves.iter_mut().zip(sample.signals()) {
                if let Some(ns) = ns {
                    curve.learn(class, ns);
                }
            }
        }
    }
}

/// How many times slower than its peers, where it stands out from the slowest quarter of them too.
fn against_peers(sample: &Sample, peers: &Peers) -> Option<Excess> {
    if peers.count == 0 {
        return None;
    }
    let permille = sample.read_p50_ns.saturating_mul(1_000) / peers.median_ns.max(1);
    let quartile = sample.read_p50_ns.saturating_mul(1_000) / peers.upper_quartile_ns.max(1);
    (permille >= PEERS_ONLY_PERMILLE && quartile >= CALM_PERMILLE).then_some(Excess {
        permille,
        than: Than::Peers,
    })
}
