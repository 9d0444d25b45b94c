//! When an agent was last heard of: it renews a Lease. What counts is when a renewal was seen here, for clocks differ.
//! The same of a node that has no Lease, or no object: what counts is when that was seen here first.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;

/// What a Lease lasts that does not say. A node is given as long to have its object and its Lease.
const LASTS_DEFAULT: SignedDuration = SignedDuration::from_mins(3);

/// What was heard of one agent.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    /// As the agent's clock has it.
    renewal: Option<Timestamp>,
    /// As ours has it: when that renewal was seen first.
    seen: Timestamp,
    /// Whether there was another before it. The first that a new leader sees may be an old one.
    anew: bool,
    lasts: SignedDuration,
}

impl Heard {
    /// A Lease seen `now`, after what was heard before.
    pub(super) fn new(lease: &Lease, before: Option<&Self>, now: Timestamp) -> Self {
        let spec = lease.spec.clone().unwrap_or_default();
        let renewal = spec.renew_time.map(|time| time.0);
        let lasts = spec.lease_duration_seconds.map(i64::from);
        let lasts = lasts.map_or(LASTS_DEFAULT, SignedDuration::from_secs);
        match before {
            Some(before) if before.renewal == renewal => Self {
                lasts,
                ..before.clone()
            },
            _ => Self {
                renewal,
                seen: now,
                anew: before.is_some(),
                lasts,
            },
        }
    }

    /// Whether what is known of a node has to change: `Some(true)`, it has fallen silent; `Some(false)`, it is heard of
    /// again.
    pub(super) fn turn(&self, silent_since: Option<Timestamp>, now: Timestamp) -> Option<bool> {
        match silent_since {
            None => (now.duration_since(self.seen) > self.lasts).then_some(true),
            Some(since) => (self.anew && self.seen > since).then_some(false),
        }
    }
}

/// What a node lacks. An agent that lives makes it within a minute or two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// It has drives and no object.
    Object,
    /// It has an object and no Lease.
    Lease,
}

/// A lack, and when it was seen here first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lacking {
    what: Lack,
    since: Timestamp,
}

impl Lacking {
    /// A lack seen `now`, after what was seen before.
    pub(super) fn new(what: Lack, before: Option<Self>, now: Timestamp) -> Self {
        let same = before.filter(|before| before.what == what);
        same.unwrap_or(Self { what, since: now })
    }

    /// Whether it has lasted so long that the node counts as silent.
    pub(super) fn is_silence(&self, now: Timestamp) -> bool {
        now.duration_since(self.since) > LASTS_DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use api::testing::{lease, noon};

    use super::*;

    #[test]
    fn silent_is_who_was_not_seen_to_renew() {
        let at = |seconds: i64| noon() + SignedDuration::from_secs(seconds);
        // Its clock is a day behind.
        let renewed = |seconds: i64| lease("n1", at(seconds - 86_400));
        let first = Heard::new(&renewed(0), None, at(0));
        assert_eq!(first.turn(None, at(180)), None);
        assert_eq!(first.turn(None, at(181)), Some(true));
        let same = Heard::new(&renewed(0), Some(&first), at(100));
        assert_eq!(
            same.turn(None, at(181)),
            Some(true),
            "seen anew is not renewed"
        );
        let second = Heard::new(&renewed(60), Some(&first), at(60));
        assert_eq!(second.turn(None, at(181)), None);
        assert_eq!(second.turn(None, at(241)), Some(true));
        // Heard of again is who renewed since.
        assert_eq!(second.turn(Some(at(241)), at(250)), None);
        let third = Heard::new(&renewed(290), Some(&second), at(290));
        assert_eq!(third.turn(Some(at(241)), at(290)), Some(false));
        // A leader who sees its first lease now does not know whether it is an old one.
        let other = Heard::new(&renewed(60), None, at(300));
        assert_eq!(other.turn(Some(at(241)), at(300)), None);
        let other = Heard::new(&renewed(350), Some(&other), at(350));
        assert_eq!(other.turn(Some(at(241)), at(350)), Some(false));
    }

    #[test]
    fn a_lack_is_silence_once_it_has_lasted() {
        let at = |seconds: i64| noon() + SignedDuration::from_secs(seconds);
        let first = Lacking::new(Lack::Object, None, at(0));
        let same = Lacking::new(Lack::Object, Some(first), at(170));
        assert!(!same.is_silence(at(180)));
        assert!(same.is_silence(at(181)));
        let other = Lacking::new(Lack::Lease, Some(same), at(170));
        assert!(!other.is_silence(at(350)));
        assert!(other.is_silence(at(351)));
    }
}
