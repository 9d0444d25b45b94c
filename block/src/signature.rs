//! What a device may already hold, and where that is written. Pure: bytes in, findings out.
//!
//! The rule: a device is *blank* only if every byte in the areas below is zero. Whatever is there beyond that is
//! named as well as possible, and what has no name is [`Kind::Unknown`]: data all the same. A magic with a bad
//! checksum is damaged, not absent, and two signatures at once are two findings, not none.
//!
//! Reading goes in two phases. The [`first`] covers all that one is likely to meet; only a device that looks blank
//! after it is read at the places of the [`second`] phase too. Both together are [`everywhere`]: what must be zeroed
//! for a device to be found blank again.
//!
//! ```text
//!  0        72 KiB                512 KiB  1   2   4 … 64 MiB      size-1 MiB  -512 KiB   -64 KiB   size
//!  ├─ first ──┼──────── second ──────┤  ▪   ▪   ▪      ▪    ▪(256 GiB)  ▪ first   ├ second ──┼─ first ─┤
//! ```

mod checks;
mod kind;
mod table;

use std::ops::Range;

pub use kind::Kind;

use crate::claim::{CLAIM_BYTES, MAGIC as CLAIM_MAGIC, claim_offset};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Alignment of every area, and the size of a spot: the largest logical sector that a drive may have.
const SPOT: u64 = 4 * KIB;
/// What is read at the start of a device at first: up to and with the btrfs superblock.
const HEAD_FIRST: u64 = 72 * KIB;
/// What is read at its end at first.
const TAIL_FIRST: u64 = 64 * KIB;
/// What is read at the start of a device that still looks blank: both leading ZFS labels.
const HEAD_SECOND: u64 = 512 * KIB;
/// What is read at its end: both trailing ZFS labels, whatever the remainder of the size.
const TAIL_SECOND: u64 = 768 * KIB;
/// Single places: second headers of LUKS2, VMFS, bcachefs, the mirrors of btrfs.
const SPOTS_SECOND: [u64; 6] = [512 * KIB, MIB, 2 * MIB, 4 * MIB, 64 * MIB, 256 * GIB];
/// md 0.90 keeps its superblock in the last whole 64 KiB that has another 64 KiB or a remainder behind it.
const MD_0_90_RESERVED: u64 = 64 * KIB;

/// Bytes that were read from a device.
#[derive(Clone, Copy, Debug)]
pub struct Area<'a> {
    /// Where they begin on the device.
    pub offset: u64,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// Something that a device holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Offset of its magic in bytes.
    pub offset: u64,
    /// What it is.
    pub kind: Kind,
    /// Its UUID or serial as blkid prints it; empty where it has none.
    pub uuid: String,
    /// Its label; empty where it has none. For [`Kind::Unknown`] a checksum of what was read, so that a change shows.
    pub label: String,
    /// The magic is there, but the structure's own checksum does not match.
    pub damaged: bool,
    /// Its making was begun and not ended (`sb_inprogress` of XFS).
    pub unfinished: bool,
}

impl Found {
    /// Label, else UUID, and its state, as people read it: `data`, `4baa3a90-… damaged`.
    #[must_use]
    pub fn detail(&self) -> String {
        let name = match self.label.as_str() {
            "" => self.uuid.as_str(),
            label => label,
        };
        let state = [(self.damaged, "damaged"), (self.unfinished, "unfinished")];
        let mut words = vec![name];
        words.extend(state.iter().filter(|(is, _)| *is).map(|(_, word)| *word));
        words.join(" ").trim_start().to_owned()
    }

    /// What it is and whose, as a number (FNV-1a): the same for its copies elsewhere on the device and for what is left
    /// of it half-way through an erase, another for whatever is made there later.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let parts = [self.kind.as_str(), "\0", &self.uuid, "\0", &self.label];
        let bytes = parts.iter().flat_map(|part| part.bytes());
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }
}

/// Areas of the first phase.
#[must_use]
pub fn first(size: u64) -> Vec<Range<u64>> {
    let mut wanted = vec![0..HEAD_FIRST, size.saturating_sub(TAIL_FIRST)..size];
    wanted.extend(claim_offset(size).map(|at| at..at + CLAIM_BYTES));
    wanted.extend(md_0_90_offset(size).map(|at| at..at + SPOT));
    merged(wanted, size)
}

/// Areas of the second phase: what [`first`] left out of [`everywhere`].
#[must_use]
pub fn second(size: u64) -> Vec<Range<u64>> {
    let read = first(size);
    let mut rest = Vec::new();
    for whole in everywhere(size) {
        let mut from = whole.start;
        for gone in read
            .iter()
            .filter(|r| r.start >= whole.start && r.end <= whole.end)
        {
            rest.push(from..gone.start);
            from = gone.end;
        }
        rest.push(from..whole.end);
    }
    rest.retain(|range| !range.is_empty());
    rest
}

/// Every area in which a signature may be, in order, 4 KiB aligned but for the end of the device.
#[must_use]
pub fn everywhere(size: u64) -> Vec<Range<u64>> {
    let mut wanted = first(size);
    wanted.push(0..HEAD_SECOND);
    wanted.push(size.saturating_sub(TAIL_SECOND)..size);
    wanted.extend(SPOTS_SECOND.map(|at| at..at.saturating_add(SPOT)));
    merged(wanted, size)
}

/// Aligns, clips to the device, sorts and joins what touches.
fn merged(mut wanted: Vec<Range<u64>>, size: u64) -> Vec<Range<u64>> {
    wanted.sort_by_key(|range| range.start);
    let mut areas: Vec<Range<u64>> = Vec::with_capacity(wanted.len());
    for range in wanted {
        let start = range.start - range.start % SPOT;
        let end = range
            .end
            .checked_next_multiple_of(SPOT)
            .unwrap_or(size)
            .min(size);
        match areas.last_mut() {
            _ if start >= end => {}
            Some(last) if last.end >= start => last.end = last.end.max(end),
            _ => areas.push(start..end),
        }
    }
    areas
}

/// Where md 0.90 has its superblock on a device of `size` bytes.
const fn md_0_90_offset(size: u64) -> Option<u64> {
    (size - size % MD_0_90_RESERVED).checked_sub(MD_0_90_RESERVED)
}

/// What was read of one device, addressed by its offsets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Image<'a> {
    size: u64,
    areas: &'a [Area<'a>],
}

impl<'a> Image<'a> {
    /// `length` bytes at `offset`, if they were read in one area.
    fn bytes(&self, offset: u64, length: usize) -> Option<&'a [u8]> {
        self.areas.iter().find_map(|area| {
            let from = usize::try_from(offset.checked_sub(area.offset)?).ok()?;
            area.bytes.get(from..from.checked_add(length)?)
        })
    }

    fn array<const N: usize>(&self, offset: u64) -> Option<[u8; N]> {
        self.bytes(offset, N)?.try_into().ok()
    }

    fn le16(&self, offset: u64) -> Option<u16> {
        self.array(offset).map(u16::from_le_bytes)
    }

    fn le32(&self, offset: u64) -> Option<u32> {
        self.array(offset).map(u32::from_le_bytes)
    }

    fn be32(&self, offset: u64) -> Option<u32> {
        self.array(offset).map(u32::from_be_bytes)
    }

    fn le64(&self, offset: u64) -> Option<u64> {
        self.array(offset).map(u64::from_le_bytes)
    }
}

/// Names what a device of `size` bytes holds, from the areas that were read of it, in order of offset. Areas must not
/// overlap. Empty means blank as far as was read.
#[must_use]
pub fn scan(size: u64, areas: &[Area<'_>]) -> Vec<Found> {
    let image = Image { size, areas };
    let mut found: Vec<Found> = table::ROWS
        .iter()
        .flat_map(|row| row.find(&image))
        .collect();
    checks::partition_tables(&image, &mut found);
    found.sort();
    found.dedup_by(|a, b| a.offset == b.offset && a.kind == b.kind);
    if looks_blank(&found) {
        found.extend(unknown(size, areas));
        found.sort();
    }
    found
}

/// Whether nothing was found but, at most, our own claim: the device is then worth the second phase.
#[must_use]
pub fn looks_blank(found: &[Found]) -> bool {
    found.iter().all(|one| one.kind == Kind::Claim)
}

/// The first byte that is not zero, the claim block apart, and a checksum of all that was read.
fn unknown(size: u64, areas: &[Area<'_>]) -> Option<Found> {
    let claim = claim_offset(size).filter(|at| {
        let image = Image { size, areas };
        image.bytes(*at, CLAIM_MAGIC.len()) == Some(CLAIM_MAGIC.as_slice())
    });
    let claimed = claim.map_or(0..0, |at| at..at + CLAIM_BYTES);
    let mut first_offset = None;
    let mut checksum = 0;
    for area in areas {
        if is_zero(area.bytes) {
            continue;
        }
        for (index, piece) in (0_u64..).zip(area.bytes.chunks(512)) {
            let offset = area.offset + index * 512;
            if claimed.contains(&offset) || is_zero(piece) {
                continue;
            }
            first_offset.get_or_insert(offset);
            checksum = crc32c::crc32c_append(checksum, &offset.to_le_bytes());
            checksum = crc32c::crc32c_append(checksum, piece);
        }
    }
    first_offset.map(|offset| Found {
        offset,
        kind: Kind::Unknown,
        uuid: String::new(),
        label: format!("crc32c:{checksum:08x}"),
        damaged: false,
        unfinished: false,
    })
}

/// Compared with a page of zeroes, page by page: the C library does that by the widest registers of the processor that it
/// finds itself on.
fn is_zero(bytes: &[u8]) -> bool {
    static ZEROES: [u8; PAGE] = [0; PAGE];
    bytes
        .chunks(PAGE)
        .all(|page| ZEROES.get(..page.len()) == Some(page))
}

const PAGE: usize = 4096;

#[cfg(test)]
mod oracle_tests;
#[cfg(test)]
mod tests;
