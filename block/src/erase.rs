//! Erasing: what is zeroed ([`Plan`]), in which pieces and how ([`Course`]), at what pace ([`Limiter`]), by whose right
//! ([`Warrant`]), and what is read back. Pure but for [`run`], which does it.
//!
//! The claim block is never part of a plan. A plan is a list of ranges and a cursor: the number of bytes of them that
//! are done. The cursor is kept in the Drive's status, so a killed agent goes on where it was; doing a piece twice
//! harms nothing. Whether a device can zero by itself is learned from the first piece: the advertised limit lies
//! (kernel-notes/10), and `PUNCH_HOLE` is the one call that fails instead of writing.
//!
//! Nothing is discarded. `PUNCH_HOLE` zeroes *and* unmaps where the device can do both, so a discard before it would be
//! the same work twice; after it, or after written zeroes, a discard could only put back what the device likes to answer
//! for unmapped blocks, and where it promises nothing that need not be zero.

use crate::claim::{CLAIM_BYTES, claim_offset};
use crate::random::Random;

pub mod burst;
pub mod course;
pub mod limiter;
pub mod rings;
pub mod run;
pub mod secure;
pub mod turns;
pub mod warrant;

pub use course::{Course, Zeroed};
pub use limiter::{Bucket, Limiter};
pub use run::{EraseError, Erased, Eraser, erase};
pub use secure::{Begun, Secure, SecureError, Secured};
pub use turns::{Turn, Turns};
pub use warrant::{Bearer, Found, Ours, Unwarranted, Warrant};

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
    /// `fallocate(ZERO_RANGE)`: offloaded without unmapping; else the kernel writes zeroes and says nothing.
    ZeroRange,
    /// `fallocate(WRITE_ZEROES)`, kernel 6.17 and later: offloaded where the device unmaps and answers zeroes.
    WriteZeroes,
    /// Writes of zeroes, several in flight.
    ZeroWrites,
}

impl Method {
    /// The word in a drive's proof of erasure.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PunchHole => "punch-hole",
            Self::ZeroRange => "zero-range",
            Self::WriteZeroes => "write-zeroes",
            Self::ZeroWrites => "zero-writes",
        }
    }

    /// Whether it is the device that zeroes.
    #[must_use]
    pub const fn is_offloaded(self) -> bool {
        !matches!(self, Self::ZeroWrites)
    }

    /// Whether an error says that the device cannot do it so, rather than that it cannot be zeroed: another way may do.
    /// Of the two that are there only to be faster every error says it: one that keeps its blocks has no space for them
    /// where punching would do. EINVAL is a driver's way to say so: each piece is aligned.
    #[must_use]
    pub fn is_refused_by(self, errno: i32) -> bool {
        match self {
            Self::ZeroWrites => false,
            Self::ZeroRange | Self::WriteZeroes => true,
            Self::PunchHole => matches!(
                errno,
                libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY | libc::EREMOTEIO | libc::EINVAL
            ),
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
    /// Whether it is to show that the device does it so: it is read back.
    pub trial: bool,
}

/// What is erased. How, is the [`Course`]'s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    wanted: Wanted,
    device_bytes: u64,
    whole: bool,
    ranges: Vec<Range>,
}

impl Plan {
    /// The plan to begin with.
    #[must_use]
    pub fn new(wanted: Wanted, device_bytes: u64) -> Self {
        let whole_wanted = match wanted {
            Wanted::Auto | Wanted::Zero => true,
            Wanted::Signatures => false,
        };
        Self {
            wanted,
            device_bytes,
            whole: whole_wanted,
            ranges: if whole_wanted {
                whole(device_bytes)
            } else {
                signature_areas(device_bytes)
            },
        }
    }

    /// The plan that was under way when `total_bytes` was recorded.
    #[must_use]
    pub fn resumed(wanted: Wanted, device_bytes: u64, total_bytes: u64) -> Self {
        let first = Self::new(wanted, device_bytes);
        match wanted {
            Wanted::Auto if total_bytes != 0 && first.total_bytes() != total_bytes => {
                Self::new(Wanted::Signatures, device_bytes)
            }
            Wanted::Auto | Wanted::Zero | Wanted::Signatures => first,
        }
    }

    /// What was asked for.
    #[must_use]
    pub const fn wanted(&self) -> Wanted {
        self.wanted
    }

    /// Size of its device.
    #[must_use]
    pub const fn device_bytes(&self) -> u64 {
        self.device_bytes
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

    /// The part at the cursor, at most `bytes_max` of it. `None` at the end.
    #[must_use]
    pub fn part_at(&self, cursor: u64, bytes_max: u64) -> Option<Range> {
        part_at(&self.ranges, cursor, bytes_max)
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
mod tests;
