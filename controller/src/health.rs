//! Which drives are slow before they are dead: `assess(history, peers, now)`. Pure.
//!
//! ```text
//!   Drive.status ─ each tick ─► sample ─► vote: how many times slower than expected?
//!                                 │          ├─ its own past at such a load (its latency–load curve)
//!                                 ▼          ├─ less what all on its node or of its model slowed down by
//!                              the curve     └─ its peers of the same model at such a load
//!                                                         │
//!              Healthy ◄─ calm long enough ─ Probation ◄─ calm ─ Slow ◄─ most votes of a window ─┘
//!                                 Failing ◄─ errors (its phase)
//! ```
//! | grade | entered when | left when |
//! |---|---|---|
//! | Slow | over half of the votes of a window say 2× or more | three quarters say less than 1.5× |
//! | Probation | left Slow or Failing | four windows without a slow majority, twice as long after each relapse |
//! | Failing | the drive's phase says so | it does not any more |
//!
//! A status is written on change, so a tick takes what stands there as the drive's word until it changes; figures that
//! nobody renewed for long are no word any more. At most one drive of a node is withdrawn for slowness at a time: who
//! thinks that all are slow is wrong about what is slow. Nothing is moved or unmounted, only new volumes stay away.
//! Every verdict carries its figures.

mod history;
mod round;

pub use self::history::{Excess, History, Peers, Sample, Than};
pub use self::round::{Health, Judgement};

use api::drive::{HealthState, HealthVerdict};
use api::{Nanos, Reason};
use jiff::{SignedDuration, Timestamp};

/// A vote of so many thousandths of what was expected is a slow one.
const SLOW_PERMILLE: u64 = 2_000;
/// And one below this a calm one.
const CALM_PERMILLE: u64 = 1_500;
/// Votes without which nothing is said.
const VOTES_MIN: usize = 3;
/// Windows that a probation lasts.
const PROBATION_WINDOWS: i32 = 4;
/// Doublings of a probation at most.
const PROBATION_DOUBLINGS_MAX: u32 = 4;
/// A good time of such a length makes one relapse forgotten.
const RELAPSE_DECAY: SignedDuration = SignedDuration::from_hours(24);

/// How fast verdicts are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Votes of this time are counted.
    pub window: SignedDuration,
}

impl Settings {
    /// Time between two votes.
    #[must_use]
    pub fn tick(self) -> SignedDuration {
        (self.window / 10).max(SignedDuration::from_millis(500))
    }

    /// Figures older than this are nobody's word any more.
    fn stale_after(self) -> SignedDuration {
        (self.window * 10).max(SignedDuration::from_hours(1))
    }

    /// A verdict's figures are written anew at most so often.
    fn rewrite_after(self) -> SignedDuration {
        self.window.max(SignedDuration::from_mins(5))
    }

    fn probation(self, relapses: u32) -> SignedDuration {
        let doublings = relapses.saturating_sub(1).min(PROBATION_DOUBLINGS_MAX);
        self.window * PROBATION_WINDOWS * (1_i32 << doublings)
    }
}

/// Judges one drive by its votes.
#[must_use]
pub fn assess(
    history: &History,
    peers: &Peers,
    settings: Settings,
    now: Timestamp,
) -> HealthVerdict {
    let tally = Tally::of(history, settings, now);
    let old = &history.standing;
    let decayed = decayed_relapses(history, now);
    let verdict = |state, reason, relapses, message: String| HealthVerdict {
        state,
        reason,
        message,
        since: if state == old.state { old.since } else { now },
        typical_read_ns: history.typical_read_ns(),
        relapses,
    };
    if let Some(reason) = history.failing {
        let message = format!("{}; no new volumes", reason.meaning());
        return verdict(HealthState::Failing, reason, decayed, message);
    }
    let probation = |relapses| {
        let rest = settings.probation(relapses);
        let message = format!(
            "{}; new volumes again when it stays so for {}",
            figures(history, peers),
            spell(rest)
        );
        verdict(HealthState::Probation, Reason::Probation, relapses, message)
    };
    let slow = |relapses| {
        let message = slow_figures(history, peers, now);
        verdict(HealthState::Slow, Reason::Slow, relapses, message)
    };
    match old.state {
        HealthState::Healthy | HealthState::Probation if tally.is_slow() => slow(decayed + 1),
        HealthState::Slow if tally.is_calm() => probation(decayed),
        HealthState::Slow => slow(decayed),
        HealthState::Failing => probation(decayed),
        HealthState::Probation => {
            let over = now.duration_since(old.since) >= settings.probation(decayed);
            if over && tally.is_calm() {
                let message = figures(history, peers);
                verdict(HealthState::Healthy, Reason::Healthy, decayed, message)
            } else {
                probation(decayed)
            }
        }
        HealthState::Healthy => {
            let message = figures(history, peers);
            verdict(HealthState::Healthy, Reason::Healthy, decayed, message)
        }
    }
}

fn decayed_relapses(history: &History, now: Timestamp) -> u32 {
    let old = &history.standing;
    if old.state != HealthState::Healthy {
        return old.relapses;
    }
    let days = now.duration_since(old.since).as_secs() / RELAPSE_DECAY.as_secs();
    old.relapses
        .saturating_sub(u32::try_from(days).unwrap_or(0))
}

/// The votes of a window, counted.
struct Tally {
    all: usize,
    slow: usize,
    calm: usize,
    /// Whether they reach far enough back.
    long_enough: bool,
}

impl Tally {
    fn of(history: &History, settings: Settings, now: Timestamp) -> Self {
        let from = now - settings.window;
        let votes: Vec<_> = history.votes.iter().filter(|v| v.at >= from).collect();
        let count =
            |is: &dyn Fn(u64) -> bool| votes.iter().filter(|v| is(v.excess.permille)).count();
        Self {
            all: votes.len(),
            slow: count(&|permille| permille >= SLOW_PERMILLE),
            calm: count(&|permille| permille < CALM_PERMILLE),
            long_enough: votes
                .first()
                .is_some_and(|vote| now.duration_since(vote.at) >= settings.window / 2),
        }
    }

    const fn says_something(&self) -> bool {
        self.all >= VOTES_MIN && self.long_enough
    }

    const fn is_slow(&self) -> bool {
        self.says_something() && self.slow * 2 > self.all
    }

    const fn is_calm(&self) -> bool {
        self.says_something() && self.calm * 4 >= self.all * 3
    }
}

/// "reads 1.1× its own past (84 µs)".
fn figures(history: &History, peers: &Peers) -> String {
    let now_ns = history.latest.map_or(0, |sample| sample.read_p50_ns);
    match history.votes.back() {
        Some(vote) => format!(
            "{} (median {})",
            comparison(vote.excess, peers),
            Nanos(now_ns)
        ),
        None => format!("reads at a median of {}", Nanos(now_ns)),
    }
}

/// "reads 3.4× its peers at equal load for 6 min (median 820 µs, 240 µs before)".
fn slow_figures(history: &History, peers: &Peers, now: Timestamp) -> String {
    let is_slow = |excess: Excess| excess.permille >= SLOW_PERMILLE;
    let run = history
        .votes
        .iter()
        .rev()
        .take_while(|vote| is_slow(vote.excess));
    let since = run.last().map_or(now, |vote| vote.at);
    let worst = history.votes.back().map(|vote| vote.excess);
    let what = worst.map_or_else(|| "reads slowly".to_owned(), |e| comparison(e, peers));
    let median = history.latest.map_or(0, |sample| sample.read_p50_ns);
    let before = history
        .typical_read_ns()
        .map_or_else(String::new, |ns| format!(", {} before", Nanos(ns)));
    format!(
        "{what} at equal load for {} (median {}{before}); no new volumes",
        spell(now.duration_since(since)),
        Nanos(median),
    )
}

fn comparison(excess: Excess, peers: &Peers) -> String {
    let times = format!(
        "{}.{}×",
        excess.permille / 1_000,
        excess.permille % 1_000 / 100
    );
    match excess.than {
        Than::OwnReads => format!("reads {times} its own past"),
        Than::OwnSlowestReads => format!("its slowest reads take {times} its own past"),
        Than::OwnUsersReads => format!("its users' reads take {times} its own past"),
        Than::OwnUsersWrites => format!("its users' writes take {times} its own past"),
        Than::Peers => format!("reads {times} its {} peers", peers.count),
    }
}

/// "45 s", "6 min", "2 h".
fn spell(time: SignedDuration) -> String {
    match time.as_secs() {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    }
}

#[cfg(test)]
#[path = "health/tests.rs"]
mod tests;
