//! Turns of devices that zero by themselves and share what they are attached by: one at a time, in the order in which they ask, and
//! nobody waits longer for one that hangs in its own than [`TURN_MAX_NS`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Who has had the turn for so long hangs, and the next has it.
pub const TURN_MAX_NS: u64 = 20_000_000_000;

/// Who has the turn, and who waits for it.
#[derive(Debug, Default)]
pub struct Turns(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    /// The first has the turn.
    waiting: VecDeque<u64>,
    next: u64,
}

/// A place among those who wait; dropped, it is given up, and the turn with it.
#[derive(Debug)]
pub struct Turn {
    turns: Arc<Turns>,
    place: u64,
    /// Who has had the turn, and since when as far as this one knows.
    seen: Option<(u64, u64)>,
}

impl Turns {
    /// Asks for a turn.
    #[must_use]
    pub fn ask(self: &Arc<Self>) -> Turn {
        let mut queue = self.queue();
        let place = queue.next;
        queue.next += 1;
        queue.waiting.push_back(place);
        Turn {
            turns: Arc::clone(self),
            place,
            seen: None,
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Whether it has come, at a time in nanoseconds. To be asked again until it has.
    pub fn has_come(&mut self, now_ns: u64) -> bool {
        let mut queue = self.turns.queue();
        // Taken for one that hangs before it had begun: it goes beside the next.
        let is_passed_over = !queue.waiting.contains(&self.place);
        let Some(&first) = queue.waiting.front().filter(|_| !is_passed_over) else {
            return true;
        };
        if first == self.place {
            return true;
        }
        let (seen, since_ns) = *self.seen.get_or_insert((first, now_ns));
        if seen != first {
            self.seen = Some((first, now_ns));
        } else if now_ns.saturating_sub(since_ns) > TURN_MAX_NS {
            queue.waiting.pop_front();
        }
        queue.waiting.front() == Some(&self.place)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns
            .queue()
            .waiting
            .retain(|place| *place != self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_in_the_order_of_asking() {
        let turns = Arc::new(Turns::default());
        let (mut one, mut other, mut third) = (turns.ask(), turns.ask(), turns.ask());
        assert!(one.has_come(0) && !other.has_come(0) && !third.has_come(0));
        drop(one);
        // Who asks again stands behind those who wait.
        let mut one = turns.ask();
        assert!(!one.has_come(1) && !third.has_come(1) && other.has_come(1));
        drop(third);
        drop(other);
        assert!(one.has_come(2) && one.has_come(3));
    }

    #[test]
    fn one_that_hangs_keeps_nobody() {
        let turns = Arc::new(Turns::default());
        let (mut hangs, mut next, mut last) = (turns.ask(), turns.ask(), turns.ask());
        assert!(hangs.has_come(0) && !next.has_come(5) && !last.has_come(7));
        assert!(!next.has_come(5 + TURN_MAX_NS) && !last.has_come(7 + TURN_MAX_NS));
        // Who finds it out does not go itself, but for being the next.
        assert!(!last.has_come(8 + TURN_MAX_NS));
        assert!(next.has_come(9 + TURN_MAX_NS) && !last.has_come(9 + TURN_MAX_NS));
        // The next has had no more than a moment of its own.
        assert!(!last.has_come(8 + 2 * TURN_MAX_NS));
        // What hung and goes on takes nothing from anybody.
        drop(hangs);
        assert!(next.has_come(10 + TURN_MAX_NS) && !last.has_come(10 + TURN_MAX_NS));
        drop(next);
        assert!(last.has_come(11 + TURN_MAX_NS));
    }
}
