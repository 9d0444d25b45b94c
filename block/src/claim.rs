//! The claim block: how a device says, before it has any file system of ours, whose it is and how far.
//!
//! 4096 bytes at one mebibyte before the device's end, rounded down to 4096. It is the first write of init and it
//! survives mkfs, because the file system is made only up to it. Erasing leaves it out; only the erasing that goes
//! with a removal takes it, last.
//!
//! | bytes | what |
//! |---|---|
//! | 0..12 | magic `RINGPVCLAIM1` |
//! | 12..16 | format version, little endian |
//! | 16 | state: 1 Preparing, 2 Formatted |
//! | 64..128 | drive id, ASCII, padded with zeroes |
//! | 128..192 | cluster id, likewise |
//! | 192..256 | incarnation (UID of the Drive object), likewise |
//! | 256..320 | identity of the device when it was claimed, likewise |
//! | 320..384 | what it held when it was last let be, likewise; nothing while it is being written to |
//! | 384..386 | number of digests that follow, little endian |
//! | 392..2440 | digests of the signatures that were on it when it was claimed, 8 bytes each, little endian |
//! | 4092..4096 | CRC-32C of all before it, little endian |
//!
//! Preparing: the device was never in use, so mkfs may be repeated. Formatted: it may hold data for ever after.
//!
//! What a person allowed to be destroyed is what was on the device then. A preparation that is interrupted may lie for
//! long, and somebody may put data on the device meanwhile; the last two fields tell those from what was named.

/// Size of the claim block in bytes.
pub const CLAIM_BYTES: u64 = SIZE as u64;
/// The first bytes of a claim block.
pub const MAGIC: &[u8; 12] = b"RINGPVCLAIM1";
/// The only format version so far.
pub const VERSION: u32 = 1;

/// The same, as a length in memory.
pub const SIZE: usize = 4096;
const BEFORE_END_BYTES: u64 = 1 << 20;
const FIELD: usize = 64;
const LEFT_AT: usize = 5 * FIELD;
const COUNT_AT: usize = 6 * FIELD;
const NAMED_AT: usize = COUNT_AT + 8;
/// Digests that have a place. A signature beyond them is a stranger to a resume, which then needs a person.
pub const NAMED_MAX: usize = 256;
const CRC_AT: usize = SIZE - 4;

/// How far a claimed device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimState {
    /// Between the first write and the complete records. Never in use.
    Preparing,
    /// Its file system and records are complete. It may hold data.
    Formatted,
}

/// What a claim block says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// How far.
    pub state: ClaimState,
    /// Drive id.
    pub drive_id: String,
    /// Cluster id.
    pub cluster_id: String,
    /// UID of the Drive object it was claimed for.
    pub incarnation: String,
    /// Identity of the device when it was claimed.
    pub identity: String,
    /// What the device held besides this block when it was last let be, as its fingerprint says it. `None` while it is
    /// being written to, and once it is Formatted.
    pub left: Option<String>,
    /// Digests of the signatures that were on it when it was claimed, at most [`NAMED_MAX`]; see
    /// [`Found::digest`](crate::signature::Found::digest). Empty once it is Formatted.
    pub named: Vec<u64>,
}

/// A claim block that cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// The magic is there, but not the checksum that goes with it.
    #[error("the claim block is damaged (its checksum is wrong)")]
    Damaged,
    /// Written by a later version.
    #[error("the claim block has format version {0}; this version reads {VERSION}")]
    Version(u32),
    /// A field that holds what must not be.
    #[error("the claim block's {0} is not text of 1 to {FIELD} bytes")]
    Field(&'static str),
}

/// Where the claim block of a device of this size is. `None` for a device too small to have one.
#[must_use]
pub const fn claim_offset(device_bytes: u64) -> Option<u64> {
    match device_bytes.checked_sub(BEFORE_END_BYTES) {
        Some(0) | None => None,
        Some(offset) => Some(offset / CLAIM_BYTES * CLAIM_BYTES),
    }
}

impl Claim {
    /// The 4096 bytes.
    pub fn encode(&self) -> Result<Vec<u8>, ClaimError> {
        let mut head = Vec::with_capacity(SIZE);
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&VERSION.to_le_bytes());
        head.push(match self.state {
            ClaimState::Preparing => 1,
            ClaimState::Formatted => 2,
        });
        head.resize(FIELD, 0);
        for (name, text) in [
            ("drive id", &self.drive_id),
            ("cluster id", &self.cluster_id),
            ("incarnation", &self.incarnation),
            ("identity", &self.identity),
        ] {
            if !is_field(text.as_bytes()) {
                return Err(ClaimError::Field(name));
            }
            head.extend_from_slice(text.as_bytes());
            head.resize(head.len().next_multiple_of(FIELD), 0);
        }
        if let Some(left) = &self.left {
            if !is_field(left.as_bytes()) {
                return Err(ClaimError::Field("content"));
            }
            head.extend_from_slice(left.as_bytes());
        }
        head.resize(COUNT_AT, 0);
        let named = self.named.iter().take(NAMED_MAX);
        let count = u16::try_from(named.len()).unwrap_or(0);
        head.extend_from_slice(&count.to_le_bytes());
        head.resize(NAMED_AT, 0);
        head.extend(named.flat_map(|digest| digest.to_le_bytes()));
        head.resize(CRC_AT, 0);
        let crc = crc32c::crc32c(&head);
        head.extend_from_slice(&crc.to_le_bytes());
        Ok(head)
    }

    /// Reads 4096 bytes. `None` where there is no claim at all.
    pub fn decode(block: &[u8]) -> Result<Option<Self>, ClaimError> {
        if !block.starts_with(MAGIC) {
            return Ok(None);
        }
        let (body, crc) = block
            .get(..SIZE)
            .and_then(|block| block.split_last_chunk::<4>())
            .ok_or(ClaimError::Damaged)?;
        if u32::from_le_bytes(*crc) != crc32c::crc32c(body) {
            return Err(ClaimError::Damaged);
        }
        let version = body.get(12..16).and_then(|b| b.first_chunk::<4>());
        match version.map(|b| u32::from_le_bytes(*b)) {
            Some(VERSION) => {}
            Some(other) => return Err(ClaimError::Version(other)),
            None => return Err(ClaimError::Damaged),
        }
        let state = match body.get(16) {
            Some(1) => ClaimState::Preparing,
            Some(2) => ClaimState::Formatted,
            _ => return Err(ClaimError::Damaged),
        };
        let field = |index: usize, name: &'static str| {
            let start = index * FIELD;
            let bytes = body.get(start..start + FIELD).unwrap_or_default();
            let used = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
            match bytes.get(..used) {
                Some(text) if is_field(text) => Ok(String::from_utf8_lossy(text).into_owned()),
                _ => Err(ClaimError::Field(name)),
            }
        };
        let left = body.get(LEFT_AT).is_some_and(|first| *first != 0);
        let count = body.get(COUNT_AT..).and_then(|b| b.first_chunk::<2>());
        let count = count.map_or(0, |count| usize::from(u16::from_le_bytes(*count)));
        let digests = body.get(NAMED_AT..).unwrap_or_default().as_chunks::<8>().0;
        Ok(Some(Self {
            state,
            drive_id: field(1, "drive id")?,
            cluster_id: field(2, "cluster id")?,
            incarnation: field(3, "incarnation")?,
            identity: field(4, "identity")?,
            left: left.then(|| field(5, "content")).transpose()?,
            named: digests
                .iter()
                .take(count.min(NAMED_MAX))
                .map(|digest| u64::from_le_bytes(*digest))
                .collect(),
        }))
    }
}

fn is_field(text: &[u8]) -> bool {
    (1..=FIELD).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn claim() -> Claim {
        Claim {
            state: ClaimState::Preparing,
            drive_id: "3f1e2d4c-0000-8000-8000-000000000001".into(),
            cluster_id: "7d9a1c1e-0000-4000-8000-000000000002".into(),
            incarnation: "5b7f9d2a-0000-4000-8000-000000000003".into(),
            identity: "00112233445566ff".into(),
            left: None,
            named: Vec::new(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for state in [ClaimState::Preparing, ClaimState::Formatted] {
            let claim = Claim { state, ..claim() };
            let block = claim.encode().unwrap();
            assert_eq!(block.len(), SIZE);
            assert_eq!(Claim::decode(&block), Ok(Some(claim)));
        }
        for (left, count) in [
            (Some("blank"), 0),
            (None, 1),
            (Some("bd3866dd40c0b90e"), NAMED_MAX),
        ] {
            let claim = Claim {
                left: left.map(str::to_owned),
                named: (0..count as u64)
                    .map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
                    .collect(),
                ..claim()
            };
            assert_eq!(Claim::decode(&claim.encode().unwrap()), Ok(Some(claim)));
        }
        assert_eq!(Claim::decode(&[0; SIZE]), Ok(None));
        assert_eq!(Claim::decode(&[]), Ok(None));
    }

    #[test]
    fn a_later_version_is_told_from_damage() {
        let mut block = claim().encode().unwrap();
        block[12] = 2;
        assert_eq!(Claim::decode(&block), Err(ClaimError::Damaged));
        let crc = crc32c::crc32c(&block[..CRC_AT]);
        block[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Claim::decode(&block), Err(ClaimError::Version(2)));
        assert_eq!(Claim::decode(&block[..64]), Err(ClaimError::Damaged));
    }

    #[test]
    fn a_field_that_does_not_fit_is_refused() {
        for bad in ["", "with space", &"x".repeat(65)] {
            let claim = Claim {
                incarnation: bad.into(),
                ..claim()
            };
            assert_eq!(claim.encode(), Err(ClaimError::Field("incarnation")));
        }
    }

    #[test]
    fn the_place_is_whole_blocks_before_the_end() {
        assert_eq!(claim_offset(0), None);
        assert_eq!(claim_offset(1 << 20), None);
        assert_eq!(claim_offset(1 << 30), Some((1 << 30) - (1 << 20)));
        assert_eq!(claim_offset((1 << 30) + 512), Some((1 << 30) - (1 << 20)));
    }

    proptest! {
        #[test]
        fn one_wrong_byte_is_never_believed(at in 0..SIZE, flip in 1u8..) {
            let mut block = claim().encode().unwrap();
            block[at] ^= flip;
            prop_assert!(!matches!(Claim::decode(&block), Ok(Some(_))));
        }
    }
}
