//! The decisions of an election. Pure: `now` is the process's own monotonic clock, the wall clock is only written down
//! for people. Two electors on one Lease never both lead: that is a property test below, with lost answers, pauses of
//! any length and clocks of their own.

use std::time::Duration;

use jiff::Timestamp;

/// The figures of an election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long a lease holds.
    pub duration: Duration,
    /// How long after a renewal the next is begun.
    pub renew: Duration,
    /// How long after a failed one.
    pub retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(10),
            renew: Duration::from_secs(3),
            retry: Duration::from_millis(1_500),
        }
    }
}

/// What stands in the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; empty for nobody.
    pub holder: String,
    /// When it was renewed, by the holder's wall clock. For people.
    pub renewed: Timestamp,
    /// When it was taken. For people.
    pub acquired: Timestamp,
    /// How long the holder may rely on it.
    pub duration: Duration,
    /// How often it changed hands.
    pub transitions: i32,
    /// Version of the object; empty where there is none.
    pub version: String,
}

/// Whether an elector leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does not.
    Following,
    /// It does.
    Leading {
        /// Until then, if nothing is renewed.
        until: Duration,
    },
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// Nothing for so long.
    Wait(Duration),
    /// Read the Lease.
    Read,
    /// Write this; its version is the precondition.
    Write(Record),
}

/// What is known of the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
enum View {
    /// Nothing, or nothing that can be relied on any more.
    Unknown,
    /// There is no Lease.
    Absent,
    /// This, unchanged since then.
    Seen { record: Record, since: Duration },
}

/// One process's part in an election.
#[derive(Clone, Debug)]
pub struct Elector {
    identity: String,
    gone: Option<String>,
    timing: Timing,
    view: View,
    /// The last record that somebody else wrote, kept while `view` is unknown: its age must not begin anew.
    last_seen: Option<(Record, Duration)>,
    last_read: Option<Duration>,
    /// Until when our own lease holds.
    held_until: Option<Duration>,
    renewed_at: Option<Duration>,
}

impl Elector {
    /// An elector that has seen nothing yet. See [`super::Campaign::new`] for `gone`.
    #[must_use]
    pub fn new(identity: String, gone: Option<String>, timing: Timing) -> Self {
        Self {
            identity,
            gone,
            timing,
            view: View::Unknown,
            last_seen: None,
            last_read: None,
            held_until: None,
            renewed_at: None,
        }
    }

    /// Whether it leads at `now`.
    #[must_use]
    pub fn standing(&self, now: Duration) -> Standing {
        match self.held_until {
            Some(until) if now < until => Standing::Leading { until },
            Some(_) | None => Standing::Following,
        }
    }

    /// Until when its lease holds.
    #[must_use]
    pub const fn held_until(&self) -> Option<Duration> {
        self.held_until
    }

    /// Time between two tries.
    #[must_use]
    pub const fn retry(&self) -> Duration {
        self.timing.retry
    }

    /// Whether the Lease was just read, so that a write can follow at once.
    #[must_use]
    pub const fn is_fresh(&self) -> bool {
        self.held_until.is_none() && !matches!(self.view, View::Unknown)
    }

    /// Who else holds the Lease.
    #[must_use]
    pub fn other_holder(&self) -> Option<&str> {
        let record = match &self.view {
            View::Seen { record, .. } => record,
            View::Unknown => self.last_seen.as_ref().map(|(record, _)| record)?,
            View::Absent => return None,
        };
        (record.holder != self.identity && !record.holder.is_empty()).then_some(&*record.holder)
    }

    /// What to do at `now`; `wall` is what is written down.
    #[must_use]
    pub fn next(&self, now: Duration, wall: Timestamp) -> Move {
        let leads = matches!(self.standing(now), Standing::Leading { .. });
        if leads && let Some(renewed) = self.renewed_at {
            let due = renewed + self.timing.renew;
            if now < due {
                return Move::Wait(due - now);
            }
        }
        match &self.view {
            View::Unknown => Move::Read,
            View::Absent => Move::Write(self.claim(None, wall)),
            View::Seen { record, .. } if record.holder == self.identity => {
                let renewed = Record {
                    renewed: wall,
                    duration: self.timing.duration,
                    ..record.clone()
                };
                Move::Write(renewed)
            }
            View::Seen { record, since } if self.is_free(record, *since, now) => {
                Move::Write(self.claim(Some(record), wall))
            }
            View::Seen { .. } => match self.last_read.map(|read| read + self.timing.retry) {
                Some(due) if now < due => Move::Wait(due - now),
                Some(_) | None => Move::Read,
            },
        }
    }

    /// Whether the Lease may be taken: given up, of one known to be gone, or unchanged for as long as it holds.
    fn is_free(&self, record: &Record, since: Duration, now: Duration) -> bool {
        let holds = record.duration.max(self.timing.duration);
        let gone = self.gone.as_deref();
        record.holder.is_empty()
            || gone.is_some_and(|gone| record.holder.starts_with(gone))
            || now.saturating_sub(since) > holds
    }

    fn claim(&self, old: Option<&Record>, wall: Timestamp) -> Record {
        Record {
            holder: self.identity.clone(),
            renewed: wall,
            acquired: wall,
            duration: self.timing.duration,
            transitions: old.map_or(0, |old| old.transitions.saturating_add(1)),
            version: old.map(|old| old.version.clone()).unwrap_or_default(),
        }
    }

    /// The Lease was read at `now`.
    pub fn read(&mut self, record: Option<Record>, now: Duration) {
        self.last_read = Some(now);
        let Some(record) = record else {
            self.view = View::Absent;
            self.held_until = None;
            return;
        };
        if record.holder == self.identity {
            // Ours, from a write whose answer was lost. It holds from when that began, which `unclear` remembers by
            // leaving `held_until` as it was; a renewal follows at once.
            let since = now;
            self.view = View::Seen { record, since };
            return;
        }
        let since = match &self.last_seen {
            Some((seen, since)) if *seen == record => *since,
            Some(_) | None => now,
        };
        self.last_seen = Some((record.clone(), since));
        self.held_until = None;
        self.view = View::Seen { record, since };
    }

    /// Our `record` was written: the lease holds from when the write was begun.
    pub fn written(&mut self, record: Record, version: String, begun: Duration) {
        self.held_until = Some(begun + self.timing.duration);
        self.renewed_at = Some(begun);
        let record = Record { version, ..record };
        self.view = View::Seen {
            record,
            since: begun,
        };
    }

    /// A write was refused or its answer lost: what stands in the Lease must be read. A lease that is held already
    /// still holds as long as it did.
    pub fn unclear(&mut self) {
        self.view = View::Unknown;
    }

    /// What to write in order to give the lease up, if it is ours.
    #[must_use]
    pub fn released(&self, wall: Timestamp) -> Option<Record> {
        match &self.view {
            View::Seen { record, .. } if record.holder == self.identity => Some(Record {
                holder: String::new(),
                renewed: wall,
                ..record.clone()
            }),
            View::Seen { .. } | View::Absent | View::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);
    const WALL: Timestamp = Timestamp::UNIX_EPOCH;

    fn elector(name: &str) -> Elector {
        Elector::new(name.to_owned(), None, Timing::default())
    }

    fn record(holder: &str, version: &str) -> Record {
        Record {
            holder: holder.to_owned(),
            renewed: WALL,
            acquired: WALL,
            duration: 10 * SECOND,
            transitions: 3,
            version: version.to_owned(),
        }
    }

    fn writes(elector: &Elector, now: Duration) -> Option<Record> {
        match elector.next(now, WALL) {
            Move::Write(record) => Some(record),
            Move::Wait(_) | Move::Read => None,
        }
    }

    #[test]
    fn the_first_one_creates_it_and_renews() {
        let mut a = elector("a");
        assert_eq!(a.next(Duration::ZERO, WALL), Move::Read);
        a.read(None, Duration::ZERO);
        let claim = writes(&a, Duration::ZERO).unwrap();
        assert_eq!((claim.holder.as_str(), claim.version.as_str()), ("a", ""));
        assert_eq!(a.standing(SECOND), Standing::Following);
        a.written(claim, "1".to_owned(), SECOND);
        assert_eq!(
            a.standing(2 * SECOND),
            Standing::Leading { until: 11 * SECOND }
        );
        assert_eq!(a.next(2 * SECOND, WALL), Move::Wait(2 * SECOND));
        assert_eq!(writes(&a, 4 * SECOND).unwrap().version, "1");
        // A renewal whose answer is lost takes nothing away, and is tried again after a look.
        a.unclear();
        assert_eq!(
            a.standing(10 * SECOND),
            Standing::Leading { until: 11 * SECOND }
        );
        assert_eq!(a.next(5 * SECOND, WALL), Move::Read);
        a.read(Some(record("a", "2")), 5 * SECOND);
        assert_eq!(writes(&a, 5 * SECOND).unwrap().version, "2");
        assert_eq!(a.standing(11 * SECOND), Standing::Following);
    }

    #[test]
    fn a_follower_waits_the_old_lease_out_by_its_own_clock() {
        let mut b = elector("b");
        for second in 0..=5 {
            b.read(Some(record("a", "1")), second * SECOND);
        }
        assert_eq!(writes(&b, 10 * SECOND), None);
        assert!(writes(&b, 10 * SECOND + Duration::from_millis(1)).is_some());
        // A renewal seen: the wait begins anew.
        b.read(Some(record("a", "2")), 9 * SECOND);
        assert_eq!(writes(&b, 18 * SECOND), None);
        // An attempt that failed does not make the old lease young.
        b.unclear();
        b.read(Some(record("a", "2")), 20 * SECOND);
        let claim = writes(&b, 20 * SECOND).unwrap();
        assert_eq!((claim.version.as_str(), claim.transitions), ("2", 4));
    }

    #[test]
    fn given_up_or_known_to_be_gone_is_taken_at_once() {
        let mut b = elector("b");
        b.read(Some(record("", "7")), SECOND);
        assert!(writes(&b, SECOND).is_some());

        let gone = Some("store-1/".to_owned());
        let mut c = Elector::new("store-1/c".to_owned(), gone, Timing::default());
        c.read(Some(record("store-1/a", "7")), SECOND);
        assert!(writes(&c, SECOND).is_some());
        c.read(Some(record("store-2/a", "8")), SECOND);
        assert_eq!(writes(&c, SECOND), None);
    }

    #[test]
    fn who_sees_another_holder_leads_no_more() {
        let mut a = elector("a");
        a.read(None, Duration::ZERO);
        let claim = writes(&a, Duration::ZERO).unwrap();
        a.written(claim, "1".to_owned(), Duration::ZERO);
        a.unclear();
        a.read(Some(record("b", "2")), SECOND);
        assert_eq!(a.standing(SECOND), Standing::Following);
        assert_eq!(a.other_holder(), Some("b"));
        assert!(a.released(WALL).is_none());
    }

    /// What one process does at one moment of the test below.
    #[derive(Clone, Debug)]
    struct Turn {
        who: usize,
        /// Before it: time that passes for all.
        pause_ms: u64,
        /// How long its call takes.
        call_ms: u64,
        /// Its answer is lost.
        lost: bool,
    }

    fn turns() -> impl Strategy<Value = Vec<Turn>> {
        let turn = (
            0..3_usize,
            0..4_000_u64,
            0..2_500_u64,
            prop::bool::weighted(0.2),
        );
        let turn = turn.prop_map(|(who, pause_ms, call_ms, lost)| Turn {
            who,
            pause_ms,
            call_ms,
            lost,
        });
        prop::collection::vec(turn, 1..200)
    }

    proptest! {
        /// Never do two lead at one moment, and the last write that one may have begun has ended when another may
        /// begin his first.
        #[test]
        fn never_two_leaders(turns in turns(), offsets in prop::array::uniform3(0..100_000_u64)) {
            let mut store: Option<Record> = None;
            let mut version = 0_u32;
            let mut electors = ["a", "b", "c"].map(elector);
            let mut time = 0_u64;
            for turn in turns {
                time += turn.pause_ms;
                let offset = offsets[turn.who];
                let clock = |time: u64| Duration::from_millis(time + offset);
                let begun = clock(time);
                match electors[turn.who].next(begun, WALL) {
                    Move::Wait(_) => {}
                    Move::Read => {
                        time += turn.call_ms;
                        if !turn.lost {
                            electors[turn.who].read(store.clone(), clock(time));
                        }
                    }
                    Move::Write(record) => {
                        time += turn.call_ms;
                        let expected = store.as_ref().map(|r| r.version.clone()).unwrap_or_default();
                        let accepted = record.version == expected;
                        if accepted {
                            version += 1;
                            store = Some(Record { version: version.to_string(), ..record.clone() });
                        }
                        if accepted && !turn.lost {
                            electors[turn.who].written(record, version.to_string(), begun);
                        } else {
                            electors[turn.who].unclear();
                        }
                    }
                }
                let leaders: Vec<_> = (0..3).filter_map(|who| {
                    let now = Duration::from_millis(time + offsets[who]);
                    match electors[who].standing(now) {
                        Standing::Leading { until } => Some((who, until.saturating_sub(now))),
                        Standing::Following => None,
                    }
                }).collect();
                prop_assert!(leaders.len() <= 1, "{leaders:?}");
            }
        }
    }
}
