//! Erasing, as a plan: what is zeroed, in which pieces and how; and what is read back. Pure.
//!
//! The claim block is never part of a plan. A plan is a list of ranges and a cursor: the number of bytes of them that
//! are done. The cursor is kept in the Drive's status, so a killed agent goes on where it was; doing a piece twice
//! harms nothing. Whether a device can zero by itself is learned from the first piece: the advertised limit lies
//! (kernel-notes/10), and `PUNCH_HOLE` is the one call that fails instead of writing.

use crate::claim::{CLAIM_BYTES, claim_offset};
use crate::random::Random;

pub mod warrant;

pub use warrant::{Bearer, Found, Ours, Unwarranted, Warrant};

/// Bytes of one offloaded piece: large enough to cost nothing, small enough for progress and for stopping.
const PUNCH_PIECE_BYTES: u64 = 256 << 20;
/// Bytes of one written piece.
const WRITE_PIECE_BYTES: u64 = 64 << 20;
/// At either end of a device, what is taken for a signature area. Every known magic lies within.
const EDGE_BYTES: u64 = 16 << 20;
/// Around a magic far from the ends.
const ISLAND_BYTES: u64 = 1 << 20;
/// Where copies of superblocks lie far from the ends: btrfs at 64 MiB and 256 GiB.
const ISLANDS: [u64; 2] = [64 << 20, 256 << 30];
/// One sample is read back in each such stretch.
const SAMPLE_STRIDE_BYTES: u64 = 64 << 20;
/// Bytes of one sample.
const SAMPLE_BYTES: u64 = 4096;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The whole device where it zeroes by itself, else every signature area.
    Auto,
    /// Every signature area.
    Signatures,
    /// The whole device, by writes where it does not zero by itself.
    Zero,
}

/// How a piece is zeroed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// `fallocate(PUNCH_HOLE)` on the device: offloaded, and honest.
    PunchHole,
    /// Writes of zeroes, several in flight.
    ZeroWrites,
}

impl Method {
    /// The word in a drive's proof of erasure.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PunchHole => "punch-hole",
            Self::ZeroWrites => "zero-writes",
        }
    }
}

/// Bytes of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub bytes: u64,
}

impl Range {
    pub(crate) const fn end(self) -> u64 {
        self.offset.saturating_add(self.bytes)
    }

    /// Whether the two have a byte in common.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.offset < other.end() && other.offset < self.end()
    }
}

/// The next thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where.
    pub range: Range,
    /// How.
    pub method: Method,
}

/// What is erased, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    wanted: Wanted,
    device_bytes: u64,
    method: Method,
    whole: bool,
    ranges: Vec<Range>,
}

impl Plan {
    /// The plan to begin with.
    #[must_use]
    pub fn new(wanted: Wanted, device_bytes: u64) -> Self {
        match wanted {
            Wanted::Auto | Wanted::Zero => Self {
                wanted,
                device_bytes,
                method: Method::PunchHole,
                whole: true,
                ranges: whole(device_bytes),
            },
            Wanted::Signatures => Self {
                wanted,
                device_bytes,
                method: Method::ZeroWrites,
                whole: false,
                ranges: signature_areas(device_bytes),
            },
        }
    }

    /// The plan that was under way when `total_bytes` was recorded.
    #[must_use]
    pub fn resumed(wanted: Wanted, device_bytes: u64, total_bytes: u64) -> Self {
        let first = Self::new(wanted, device_bytes);
        match first.without_offload() {
            Some((second, _)) if first.total_bytes() != total_bytes => second,
            Some(_) | None => first,
        }
    }

    /// The plan for a device that cannot zero by itself, and whether the cursor holds on. `None`: there is no other.
    #[must_use]
    pub fn without_offload(&self) -> Option<(Self, bool)> {
        match (self.method, self.wanted) {
            (Method::ZeroWrites, _) => None,
            (Method::PunchHole, Wanted::Zero) => {
                let method = Method::ZeroWrites;
                Some((
                    Self {
                        method,
                        ..self.clone()
                    },
                    true,
                ))
            }
            (Method::PunchHole, Wanted::Auto | Wanted::Signatures) => {
                Some((Self::new(Wanted::Signatures, self.device_bytes), false))
            }
        }
    }

    /// Bytes of the plan in all.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.bytes).sum()
    }

    /// Whether all of the device is erased, or its signature areas alone.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.whole
    }

    /// How it is done.
    #[must_use]
    pub const fn method(&self) -> Method {
        self.method
    }

    /// The piece at the cursor. `None` at the end.
    #[must_use]
    pub fn piece_at(&self, cursor: u64) -> Option<Piece> {
        let piece_bytes = match self.method {
            Method::PunchHole => PUNCH_PIECE_BYTES,
            Method::ZeroWrites => WRITE_PIECE_BYTES,
        };
        Some(Piece {
            range: part_at(&self.ranges, cursor, piece_bytes)?,
            method: self.method,
        })
    }

    /// All that was erased, to be read back in full.
    #[must_use]
    pub fn erased(&self) -> &[Range] {
        &self.ranges
    }

    /// What is read back as a sample: every signature area, and where the whole was erased one block in each 64 MiB.
    #[must_use]
    pub fn sample(&self, seed: u64) -> Vec<Range> {
        let mut sample = signature_areas(self.device_bytes);
        if !self.whole {
            return sample;
        }
        for range in &self.ranges {
            let mut start = range.offset;
            while start < range.end() {
                let stride = (range.end() - start).min(SAMPLE_STRIDE_BYTES);
                let slots = stride / SAMPLE_BYTES;
                if slots > 0 {
                    let slot = Random::new(seed ^ start).below(slots);
                    sample.push(Range {
                        offset: start + slot * SAMPLE_BYTES,
                        bytes: SAMPLE_BYTES,
                    });
                }
                start += stride;
            }
        }
        merged(sample)
    }
}

/// The part that begins `cursor` bytes into the ranges: at most `bytes_max` of it, within one range. `None` at the end.
#[must_use]
pub fn part_at(ranges: &[Range], cursor: u64, bytes_max: u64) -> Option<Range> {
    let mut before = 0;
    for range in ranges {
        let inside = cursor.saturating_sub(before);
        if inside < range.bytes {
            return Some(Range {
                offset: range.offset + inside,
                bytes: (range.bytes - inside).min(bytes_max),
            });
        }
        before += range.bytes;
    }
    None
}

/// All of a device but its claim block.
fn whole(device_bytes: u64) -> Vec<Range> {
    without_claim(
        vec![Range {
            offset: 0,
            bytes: device_bytes,
        }],
        device_bytes,
    )
}

/// Every area of a device in which a signature may be, but not the claim block.
#[must_use]
pub fn signature_areas(device_bytes: u64) -> Vec<Range> {
    let clip = |from: u64, to: u64| Range {
        offset: from.min(device_bytes),
        bytes: to.min(device_bytes).saturating_sub(from.min(device_bytes)),
    };
    let tail = device_bytes.saturating_sub(EDGE_BYTES) / CLAIM_BYTES * CLAIM_BYTES;
    let mut areas = vec![clip(0, EDGE_BYTES), clip(tail, device_bytes)];
    areas.extend(ISLANDS.map(|at| clip(at, at + ISLAND_BYTES)));
    without_claim(merged(areas), device_bytes)
}

fn without_claim(ranges: Vec<Range>, device_bytes: u64) -> Vec<Range> {
    let Some(claim) = claim_offset(device_bytes) else {
        return ranges;
    };
    let mut rest = Vec::with_capacity(ranges.len() + 1);
    for range in ranges {
        let before = range.end().min(claim).saturating_sub(range.offset);
        let after_from = range.offset.max(claim + CLAIM_BYTES);
        let after = range.end().saturating_sub(after_from);
        rest.push(Range {
            offset: range.offset,
            bytes: before,
        });
        rest.push(Range {
            offset: after_from,
            bytes: after,
        });
    }
    rest.retain(|range| range.bytes > 0);
    rest
}

/// Sorted, without overlaps and empty ranges.
fn merged(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.retain(|range| range.bytes > 0);
    ranges.sort_unstable();
    let mut out: Vec<Range> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match out.last_mut() {
            Some(last) if range.offset <= last.end() => {
                last.bytes = last.end().max(range.end()) - last.offset;
            }
            _ => out.push(range),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    fn walk(plan: &Plan) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut cursor = 0;
        while let Some(piece) = plan.piece_at(cursor) {
            cursor += piece.range.bytes;
            pieces.push(piece);
        }
        assert_eq!(cursor, plan.total_bytes());
        pieces
    }

    #[test]
    fn plans() {
        let cases = [
            (Wanted::Auto, GIB, Method::PunchHole, GIB - 4096),
            (Wanted::Zero, GIB, Method::PunchHole, GIB - 4096),
            (Wanted::Signatures, GIB, Method::ZeroWrites, 33 * MIB - 4096),
            (
                Wanted::Signatures,
                512 * GIB,
                Method::ZeroWrites,
                34 * MIB - 4096,
            ),
            (
                Wanted::Signatures,
                20 * MIB,
                Method::ZeroWrites,
                20 * MIB - 4096,
            ),
        ];
        for (wanted, size, method, total) in cases {
            let plan = Plan::new(wanted, size);
            assert_eq!((plan.method(), plan.total_bytes()), (method, total));
            walk(&plan);
        }
    }

    #[test]
    fn every_place_where_a_signature_is_looked_for_is_erased() {
        for size in [512 * MIB, GIB + 512, 3 * GIB + 4096 * 7, 300 * GIB, 1 << 44] {
            let areas = signature_areas(size);
            for looked in crate::signature::everywhere(size) {
                let looked = Range {
                    offset: looked.start,
                    bytes: looked.end - looked.start,
                };
                for part in without_claim(vec![looked], size) {
                    let covers =
                        |area: &Range| area.offset <= part.offset && part.end() <= area.end();
                    assert!(areas.iter().any(covers), "{part:?} of {size}");
                }
            }
        }
    }

    #[test]
    fn a_device_that_cannot_zero_by_itself() {
        let (auto, keeps) = Plan::new(Wanted::Auto, GIB).without_offload().unwrap();
        assert_eq!(
            (auto.clone(), keeps),
            (Plan::new(Wanted::Signatures, GIB), false)
        );
        assert!(auto.without_offload().is_none());
        let (zero, keeps) = Plan::new(Wanted::Zero, GIB).without_offload().unwrap();
        assert!(keeps && zero.is_whole() && zero.method() == Method::ZeroWrites);
    }

    #[test]
    fn a_resume_takes_the_plan_that_was_under_way() {
        let first = Plan::new(Wanted::Auto, GIB);
        let second = first.without_offload().unwrap().0;
        for plan in [&first, &second] {
            let again = Plan::resumed(Wanted::Auto, GIB, plan.total_bytes());
            assert_eq!(again.erased(), plan.erased());
        }
        let zero = Plan::new(Wanted::Zero, GIB);
        assert_eq!(Plan::resumed(Wanted::Zero, GIB, zero.total_bytes()), zero);
    }

    proptest! {
        #[test]
        fn the_claim_block_is_never_in_a_plan(sectors in 1u64..1 << 30, kind in 0usize..3, seed: u64) {
            let size = sectors * 512;
            let wanted = [Wanted::Auto, Wanted::Signatures, Wanted::Zero][kind];
            let plan = Plan::new(wanted, size);
            let mut last_end = 0;
            for range in plan.erased().iter().copied().chain(plan.sample(seed)) {
                prop_assert!(range.bytes > 0 && range.end() <= size);
                prop_assert_eq!(range.offset % 4096, 0);
                if let Some(offset) = claim_offset(size) {
                    let claim = Range { offset, bytes: CLAIM_BYTES };
                    prop_assert!(!range.overlaps(claim));
                }
            }
            for piece in walk(&plan) {
                prop_assert!(piece.range.offset >= last_end);
                last_end = piece.range.end();
            }
            let claim = if claim_offset(size).is_some() { CLAIM_BYTES.min(size) } else { 0 };
            if plan.is_whole() {
                prop_assert_eq!(plan.total_bytes() + claim, size);
            }
        }
    }
}
