//! The course of an erasure: which piece is next, by which method, from what was seen so far. Pure: durations and what the
//! kernel says of the device are arguments.
//!
//! ```text
//!   PUNCH_HOLE, 1 MiB ── refused ──────────────────────────► zero writes (signature areas alone, if that is all the plan is)
//!        │ done
//!   PUNCH_HOLE, timed ── fast, or nothing else may be tried ─► all the rest by PUNCH_HOLE
//!        │ slow (one that is slow on 1 MiB already is not timed again)
//!   ZERO_RANGE, WRITE_ZEROES: 1 MiB each; timed, if close ───► all the rest by the fastest
//!        └─ the device's own zeroing is gone ────────────────► all the rest by zero writes
//! ```
//! PUNCH_HOLE comes first because it is the one that fails instead of writing. The other two may write zeroes and say
//! nothing, and such a write costs the device its offload for good (kernel-notes/10). So they are tried only
//! - where there is something to gain: PUNCH_HOLE is slower than [`FAST_BYTES_PER_SECOND`];
//! - where they are the same command to the device as PUNCH_HOLE but for one bit, or nothing is lost ([`Queue::one_command`]);
//! - on 1 MiB, after which the kernel is asked again what the device can do.
//!
//! A whole erasure that has begun by the device is ended whole, by writes if need be: what a person was promised is not
//! taken back because of a trial.

use std::num::NonZeroU64;

use super::{Limiter, Method, Piece, Plan, Wanted};

/// Bytes of the first piece by a method: refused or done, it costs nothing. It is read back.
pub(super) const TRIAL_BYTES: u64 = 1 << 20;
/// A first piece that took no longer shows what a call costs, not how fast the device is.
const QUICK_NS: u64 = 100_000;
/// So many times as fast is clear from a first piece.
const CLEARLY: u64 = 2;
/// Bytes of a piece that is timed.
const TIMED_BYTES: u64 = 64 << 20;
/// Bytes of one written piece.
const WRITE_PIECE_BYTES: u64 = 64 << 20;
/// An offloaded piece is to take about this share of a second: progress is shown and a pause is heard between two.
const PIECES_PER_SECOND: u64 = 4;
/// Least and most bytes of an offloaded piece. Larger ones gain nothing.
const OFFLOAD_PIECE_BYTES: std::ops::RangeInclusive<u64> = 16 << 20..=1 << 30;
/// Above this PUNCH_HOLE is fast enough: a drive of 4 TB takes eight minutes, and no trial is worth its risk.
pub const FAST_BYTES_PER_SECOND: u64 = 8 << 30;

/// What the kernel says a device's queue can do, read after a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// `write_zeroes_max_bytes`: 0 once an offload was refused.
    pub zeroes_bytes_max: u64,
    /// `write_zeroes_unmap_max_bytes`: 0 on kernels before 6.17, and for devices that do not promise zeroes after unmapping.
    pub unmap_bytes_max: u64,
    /// Zeroing with and without unmapping is one command of this device (NVMe, virtio). On SCSI and through the device
    /// mapper they are two, and a refusal of the one turns off both. A loop device has it where its file has all of its
    /// blocks: the file system below keeps blocks for what is zeroed without unmapping.
    pub one_command: bool,
}

/// What came of one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zeroed {
    /// Bytes, from the beginning of the piece: fewer than all where it would have taken long.
    pub bytes: u64,
    /// How long it took; of what the device zeroes by itself without the rests that spare others.
    pub took_ns: u64,
    /// What the device's queue says after it.
    pub queue: Queue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Can the device do it so?
    Try(Method),
    /// How fast?
    Time(Method),
    /// All the rest is done so.
    Settled(Method),
}

/// An erasure under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Course {
    plan: Plan,
    cursor: u64,
    stage: Stage,
    /// The fastest method so far, with its bytes a second.
    best: Option<(Method, NonZeroU64)>,
    /// Methods that did a piece, in order.
    used: Vec<Method>,
}

impl Course {
    /// Begins a plan, or goes on with it from `cursor`.
    #[must_use]
    pub fn new(plan: Plan, cursor: u64) -> Self {
        let stage = if plan.is_whole() {
            Stage::Try(Method::PunchHole)
        } else {
            Stage::Settled(Method::ZeroWrites)
        };
        Self {
            plan,
            cursor,
            stage,
            best: None,
            used: Vec::new(),
        }
    }

    /// By writes alone, whatever the device can do.
    #[must_use]
    pub fn by_writes(plan: Plan, cursor: u64) -> Self {
        Self {
            stage: Stage::Settled(Method::ZeroWrites),
            ..Self::new(plan, cursor)
        }
    }

    /// Goes on with what was under way when `done_bytes` of `total_bytes` were recorded. A person may have asked for
    /// something else since: then the recorded bytes are those of another plan, and it begins anew.
    #[must_use]
    pub fn resumed(wanted: Wanted, device_bytes: u64, done_bytes: u64, total_bytes: u64) -> Self {
        let plan = Plan::resumed(wanted, device_bytes, total_bytes);
        let same = plan.total_bytes() == total_bytes;
        Self::new(plan, if same { done_bytes } else { 0 })
    }

    /// The plan as it is now.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Bytes done.
    #[must_use]
    pub const fn cursor(&self) -> u64 {
        self.cursor
    }

    /// The methods that did a piece since this value was made, in order: `punch-hole, zero-range`.
    #[must_use]
    pub fn methods(&self) -> String {
        let words: Vec<&str> = self.used.iter().map(|method| method.as_str()).collect();
        words.join(", ")
    }

    /// The next piece. `None`: all is done.
    #[must_use]
    pub fn piece(&self, limiter: &Limiter) -> Option<Piece> {
        let (method, bytes_max) = match self.stage {
            Stage::Try(method) => (method, TRIAL_BYTES),
            Stage::Time(method) => (method, TIMED_BYTES),
            Stage::Settled(Method::ZeroWrites) => {
                (Method::ZeroWrites, limiter.piece_bytes(WRITE_PIECE_BYTES))
            }
            Stage::Settled(method) => (method, self.offload_piece_bytes()),
        };
        Some(Piece {
            trial: matches!(self.stage, Stage::Try(_)),
            range: self.plan.part_at(self.cursor, bytes_max)?,
            method,
        })
    }

    /// The piece was done, or its beginning.
    pub fn done(&mut self, piece: Piece, zeroed: &Zeroed) {
        self.cursor += zeroed.bytes;
        if self.used.last() != Some(&piece.method) {
            self.used.push(piece.method);
        }
        let queue = zeroed.queue;
        let gone = queue.zeroes_bytes_max == 0;
        self.stage = match self.stage {
            // The next piece is as long as this one says: a first, small one may have told what a call costs and no more.
            Stage::Settled(method) => {
                let rate = bytes_per_second(zeroed.bytes, zeroed.took_ns);
                if method != Method::ZeroWrites {
                    self.best = Some((method, rate));
                }
                Stage::Settled(method)
            }
            Stage::Try(method) | Stage::Time(method) if method != Method::PunchHole && gone => {
                Stage::Settled(Method::ZeroWrites)
            }
            Stage::Try(Method::PunchHole) if zeroed.took_ns <= QUICK_NS => {
                Stage::Time(Method::PunchHole)
            }
            Stage::Try(method) if self.is_clearly_faster(zeroed.bytes, zeroed.took_ns) => {
                let rate = bytes_per_second(zeroed.bytes, zeroed.took_ns);
                self.best = Some((method, rate));
                self.after(method, queue)
            }
            // So slow on the first MiB that the kernel wrote it, or the device might as well have.
            Stage::Try(method) if !self.may_be_faster(zeroed.bytes, zeroed.took_ns) => {
                self.after(method, queue)
            }
            Stage::Try(method) => Stage::Time(method),
            Stage::Time(method) => {
                let rate = bytes_per_second(zeroed.bytes, zeroed.took_ns);
                if self.best.is_none_or(|(_, best)| rate > best) {
                    self.best = Some((method, rate));
                }
                self.after(method, queue)
            }
        };
    }

    /// The piece was refused: the device cannot do it so. False: there is no other way.
    pub fn refused(&mut self, piece: Piece, queue: Queue) -> bool {
        self.stage = match (self.stage, piece.method) {
            (_, Method::ZeroWrites) => return false,
            (Stage::Try(_) | Stage::Time(_), Method::ZeroRange | Method::WriteZeroes)
                if queue.zeroes_bytes_max > 0 =>
            {
                self.after(piece.method, queue)
            }
            // What could be done before and was chosen as the fastest: the honest one is asked once more.
            (Stage::Settled(_), Method::ZeroRange | Method::WriteZeroes)
                if queue.zeroes_bytes_max > 0 =>
            {
                self.best = None;
                Stage::Settled(Method::PunchHole)
            }
            (_, Method::PunchHole | Method::ZeroRange | Method::WriteZeroes) => {
                if self.plan.wanted() == Wanted::Auto && self.cursor == 0 {
                    self.plan = Plan::new(Wanted::Signatures, self.plan.device_bytes());
                }
                Stage::Settled(Method::ZeroWrites)
            }
        };
        true
    }

    /// What is tried after a method, or the fastest if nothing is.
    fn after(&self, method: Method, queue: Queue) -> Stage {
        let best = self.best.map_or(Method::PunchHole, |(best, _)| best);
        let fast = self
            .best
            .is_some_and(|(_, rate)| rate.get() >= FAST_BYTES_PER_SECOND);
        if fast || !queue.one_command {
            return Stage::Settled(best);
        }
        match method {
            Method::PunchHole => Stage::Try(Method::ZeroRange),
            Method::ZeroRange if queue.unmap_bytes_max > 0 => Stage::Try(Method::WriteZeroes),
            Method::ZeroRange | Method::WriteZeroes | Method::ZeroWrites => Stage::Settled(best),
        }
    }

    /// Whether a first, small piece was so much faster than the fastest so far that no larger one need be timed.
    fn is_clearly_faster(&self, bytes: u64, took_ns: u64) -> bool {
        let rate = bytes_per_second(bytes, took_ns).get();
        self.best
            .is_none_or(|(_, best)| rate / CLEARLY > best.get())
    }

    /// Whether a first, small piece leaves room for being faster than the fastest so far. It need not be: a call has a cost
    /// of its own, so it is compared with what the fastest needs for a large piece.
    fn may_be_faster(&self, bytes: u64, took_ns: u64) -> bool {
        let rate = bytes_per_second(bytes, took_ns).get();
        self.best
            .is_none_or(|(_, best)| rate.saturating_mul(TIMED_BYTES / TRIAL_BYTES) > best.get())
    }

    fn offload_piece_bytes(&self) -> u64 {
        let (least, most) = OFFLOAD_PIECE_BYTES.into_inner();
        let bytes = self.best.map_or(TIMED_BYTES, |(_, rate)| {
            (rate.get() / PIECES_PER_SECOND) >> 20 << 20
        });
        bytes.clamp(least, most)
    }
}

fn bytes_per_second(bytes: u64, took_ns: u64) -> NonZeroU64 {
    let rate = u128::from(bytes) * 1_000_000_000 / u128::from(took_ns.max(1));
    NonZeroU64::new(u64::try_from(rate).unwrap_or(u64::MAX)).unwrap_or(NonZeroU64::MIN)
}

#[cfg(test)]
mod tests {
    use super::Method::{PunchHole, WriteZeroes, ZeroRange, ZeroWrites};
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    /// A device: nanoseconds a GiB of each method, with a cost of each call; what it does not know it refuses, or the
    /// kernel writes it.
    struct Device {
        punch: Option<u64>,
        range: Option<u64>,
        write_zeroes: Option<u64>,
        queue: Queue,
    }

    const CALL_NS: u64 = 20_000;
    const WRITTEN_NS: u64 = 190_000_000;

    impl Device {
        fn zero(&mut self, piece: Piece) -> Option<Zeroed> {
            let lost = self.queue.zeroes_bytes_max == 0;
            let per_gib = match piece.method {
                PunchHole if lost => None,
                PunchHole => self.punch,
                ZeroRange if lost || self.range.is_none() => {
                    self.queue.zeroes_bytes_max = 0;
                    Some(WRITTEN_NS)
                }
                ZeroRange => self.range,
                WriteZeroes if lost || self.queue.unmap_bytes_max == 0 => None,
                WriteZeroes => self.write_zeroes,
                ZeroWrites => Some(WRITTEN_NS),
            }?;
            let took_ns = CALL_NS + per_gib * piece.range.bytes / GIB;
            Some(Zeroed {
                bytes: piece.range.bytes,
                took_ns,
                queue: self.queue,
            })
        }
    }

    fn device(punch: Option<u64>, range: Option<u64>) -> Device {
        Device {
            punch,
            range,
            write_zeroes: None,
            queue: Queue {
                zeroes_bytes_max: 4 * GIB,
                unmap_bytes_max: 0,
                one_command: true,
            },
        }
    }

    /// The methods by which an erasure is done, in order, each with the number of its pieces; and the plan at its end.
    fn walk(mut course: Course, device: &mut Device) -> (Vec<(Method, u64)>, Plan) {
        let limiter = Limiter::unlimited();
        let mut done: Vec<(Method, u64)> = Vec::new();
        let mut covered = course.cursor();
        for _ in 0..10_000 {
            let Some(piece) = course.piece(&limiter) else {
                assert_eq!(covered, course.plan().total_bytes());
                return (done, course.plan().clone());
            };
            match device.zero(piece) {
                Some(zeroed) => {
                    covered += piece.range.bytes;
                    course.done(piece, &zeroed);
                    assert_eq!(course.cursor(), covered);
                    match done.last_mut() {
                        Some((method, count)) if *method == piece.method => *count += 1,
                        _ => done.push((piece.method, 1)),
                    }
                }
                None => {
                    let whole = course.plan().is_whole();
                    assert!(course.refused(piece, device.queue));
                    if whole && !course.plan().is_whole() {
                        covered = 0;
                    }
                }
            }
        }
        panic!("it does not end: {course:?}");
    }

    fn erased(wanted: Wanted, device: &mut Device) -> (Vec<Method>, bool) {
        let (done, plan) = walk(Course::new(Plan::new(wanted, 4 * GIB), 0), device);
        (
            done.into_iter().map(|(method, _)| method).collect(),
            plan.is_whole(),
        )
    }

    #[test]
    fn a_call_that_costs_much_is_made_seldom() {
        // As of a loop device on a file system that waits for its journal: 30 ms, however long the piece.
        let mut course = Course::new(Plan::new(Wanted::Zero, 64 * GIB), 0);
        let queue = Queue {
            one_command: false,
            ..device(None, None).queue
        };
        let mut calls = 0;
        while let Some(piece) = course.piece(&Limiter::unlimited()) {
            let took_ns = 30_000_000;
            let bytes = piece.range.bytes;
            course.done(
                piece,
                &Zeroed {
                    bytes,
                    took_ns,
                    queue,
                },
            );
            calls += 1;
        }
        assert!(calls < 70, "{calls}: one a GiB, and a few to find that out");
    }

    #[test]
    fn what_was_not_done_of_a_piece_is_the_next() {
        let mut course = Course::new(Plan::new(Wanted::Zero, 64 * GIB), 0);
        let queue = device(None, None).queue;
        let piece = course.piece(&Limiter::unlimited()).unwrap();
        let part = Zeroed {
            bytes: piece.range.bytes / 2,
            took_ns: 1,
            queue,
        };
        course.done(piece, &part);
        assert_eq!(course.cursor(), part.bytes);
        let next = course.piece(&Limiter::unlimited()).unwrap();
        assert_eq!(next.range.offset, part.bytes);
    }

    #[test]
    fn what_was_measured_leads_to_the_fastest() {
        // One that deallocates slowly, and zeroes at once.
        let mut lazy = device(Some(174_000_000), Some(100_000));
        assert_eq!(
            erased(Wanted::Auto, &mut lazy),
            (vec![PunchHole, ZeroRange], true)
        );
        // 50 ms/GiB is fast enough: ZERO_RANGE, which it does not know, is never tried, so nothing is lost.
        let mut tmpfs = device(Some(50_000_000), None);
        assert_eq!(erased(Wanted::Auto, &mut tmpfs), (vec![PunchHole], true));
        assert_eq!(tmpfs.queue.zeroes_bytes_max, 4 * GIB);
        // A drive whose ZERO_RANGE writes its cells.
        let mut slow = device(Some(200_000_000), Some(900_000_000));
        let (methods, whole) = erased(Wanted::Auto, &mut slow);
        assert_eq!((methods.last(), whole), (Some(&PunchHole), true));
    }

    #[test]
    fn what_cannot_zero_by_itself() {
        for (wanted, whole) in [
            (Wanted::Auto, false),
            (Wanted::Zero, true),
            (Wanted::Signatures, false),
        ] {
            let mut none = device(None, None);
            assert_eq!(erased(wanted, &mut none), (vec![ZeroWrites], whole));
        }
    }

    #[test]
    fn an_offload_that_a_trial_costs_is_made_up_for_by_writes() {
        for wanted in [Wanted::Auto, Wanted::Zero] {
            let mut lost = device(Some(400_000_000), None);
            assert_eq!(
                erased(wanted, &mut lost),
                (vec![PunchHole, ZeroRange, ZeroWrites], true)
            );
            // Killed after that: the device refuses now, and the rest is written all the same.
            let course = Course::new(Plan::resumed(wanted, 4 * GIB, 4 * GIB - 4096), 500 * MIB);
            let (done, plan) = walk(course, &mut lost);
            assert_eq!(
                (done[0].0, done.len(), plan.is_whole()),
                (ZeroWrites, 1, true)
            );
        }
    }

    #[test]
    fn where_two_commands_are_behind_it_only_the_honest_one_is_used() {
        let mut scsi = device(Some(400_000_000), Some(1));
        scsi.queue.one_command = false;
        assert_eq!(erased(Wanted::Auto, &mut scsi).0, [PunchHole]);
    }

    #[test]
    fn write_zeroes_is_for_kernels_and_devices_that_have_it() {
        let mut new = device(Some(400_000_000), Some(300_000_000));
        new.write_zeroes = Some(200_000_000);
        assert_eq!(erased(Wanted::Auto, &mut new).0.last(), Some(&ZeroRange));
        new.queue.unmap_bytes_max = GIB;
        assert_eq!(erased(Wanted::Auto, &mut new).0.last(), Some(&WriteZeroes));
    }

    #[test]
    fn what_was_chosen_and_then_fails_gives_way() {
        let limiter = Limiter::unlimited();
        let mut device = device(Some(174_000_000), Some(100_000));
        let mut course = Course::new(Plan::new(Wanted::Zero, 64 * GIB), 0);
        for method in [PunchHole, ZeroRange, ZeroRange] {
            let piece = course.piece(&limiter).unwrap();
            assert_eq!(piece.method, method);
            let zeroed = device.zero(piece).unwrap();
            course.done(piece, &zeroed);
        }
        let next = |course: &Course| course.piece(&limiter).unwrap();
        assert!(course.refused(next(&course), device.queue));
        assert_eq!(next(&course).method, PunchHole);
        assert!(course.refused(next(&course), device.queue));
        assert_eq!(next(&course).method, ZeroWrites);
        assert!(!course.refused(next(&course), device.queue));
        assert_eq!(course.methods(), "punch-hole, zero-range");
    }

    #[test]
    fn a_cursor_is_that_of_its_own_plan() {
        let whole = 4 * GIB - 4096;
        let cursor = |wanted, total| Course::resumed(wanted, 4 * GIB, 5 * MIB, total).cursor();
        assert_eq!(cursor(Wanted::Auto, whole), 5 * MIB);
        assert_eq!(cursor(Wanted::Zero, whole), 5 * MIB);
        let areas = Plan::new(Wanted::Signatures, 4 * GIB).total_bytes();
        assert_eq!(cursor(Wanted::Auto, areas), 5 * MIB);
        assert_eq!(cursor(Wanted::Zero, areas), 0);
        assert_eq!(cursor(Wanted::Signatures, whole), 0);
    }

    #[test]
    fn pieces_take_about_a_quarter_of_a_second() {
        let limiter = Limiter::unlimited();
        for (per_gib, bytes) in [
            (1_000_000_000, 256 * MIB),
            (50_000_000, GIB),
            (60_000_000_000, 16 * MIB),
        ] {
            let mut device = device(Some(per_gib), None);
            device.queue.one_command = false;
            let mut course = Course::new(Plan::new(Wanted::Auto, 64 * GIB), 0);
            for _ in 0..2 {
                let piece = course.piece(&limiter).unwrap();
                let zeroed = device.zero(piece).unwrap();
                course.done(piece, &zeroed);
            }
            let piece = course.piece(&limiter).unwrap().range.bytes;
            assert!(
                piece.abs_diff(bytes) <= bytes / 20,
                "{piece} instead of {bytes}"
            );
        }
    }
}
