//! What a magic alone does not say: checksums, versions, and which of two readings of the same bytes is meant.
//!
//! A strong magic with a wrong checksum is kept and called damaged. A weak one (two bytes) whose structure makes no
//! sense is dropped: the bytes are then unknown data, which is no less a reason to keep away.

use sha2::{Digest as _, Sha256};

use super::{Found, Image, KIB, Kind};

/// What is checked beyond the magic.
#[derive(Clone, Copy, Debug)]
pub(super) enum Check {
    None,
    Xfs,
    Ext,
    Btrfs,
    Lvm2,
    Luks,
    Md1,
    Md090,
    Gpt,
    Nilfs2,
    Minix,
    Zfs,
    Ddf,
}

/// Completes or drops a finding.
pub(super) fn apply(check: Check, image: &Image<'_>, base: u64, found: Found) -> Option<Found> {
    match check {
        Check::None => Some(found),
        Check::Xfs => Some(xfs(image, base, found)),
        Check::Ext => ext(image, base, found),
        Check::Btrfs => Some(btrfs(image, base, found)),
        Check::Lvm2 => Some(lvm2(image, base, found)),
        Check::Luks => Some(luks(image, base, found)),
        Check::Md1 => Some(md1(image, base, found)),
        Check::Md090 => Some(md090(image, base, found)),
        Check::Gpt => Some(gpt(image, base, found)),
        Check::Nilfs2 => nilfs2(image, base, found),
        Check::Minix => minix(image, base, found),
        Check::Zfs => zfs(image, base, found),
        Check::Ddf => Some(ddf(image, base, found)),
    }
}

/// CRC-32 (reflected, 0xedb88320) going on from `crc`, without inversion before or after.
fn crc32_raw(crc: u32, bytes: impl IntoIterator<Item = u8>) -> u32 {
    bytes.into_iter().fold(crc, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

/// `bytes` with the range of its own checksum replaced by `filler`.
fn without(bytes: &[u8], gap: std::ops::Range<usize>, filler: u8) -> impl Iterator<Item = u8> {
    bytes
        .iter()
        .enumerate()
        .map(move |(index, byte)| if gap.contains(&index) { filler } else { *byte })
}

/// Damaged unless the two are there and equal.
fn verified<T: PartialEq>(found: Found, computed: Option<T>, stored: Option<T>) -> Found {
    let damaged = computed.is_none() || computed != stored;
    Found { damaged, ..found }
}

fn xfs(image: &Image<'_>, base: u64, found: Found) -> Found {
    const CRC: usize = 224;
    let found = Found {
        unfinished: image.bytes(base + 126, 1).is_some_and(|byte| byte != [0]),
        ..found
    };
    let version = image.array(base + 100).map(u16::from_be_bytes);
    if version.is_none_or(|version| version & 0xf != 5) {
        return found; // version 4 has no checksum
    }
    let computed = image
        .array(base + 102)
        .map(u16::from_be_bytes)
        .filter(|sector| (512..=32768).contains(sector))
        .and_then(|sector| image.bytes(base, sector.into()))
        .map(|sector| crc32c::crc32c(&without(sector, CRC..CRC + 4, 0).collect::<Vec<_>>()));
    verified(found, computed, image.le32(base + 224))
}

fn ext(image: &Image<'_>, base: u64, found: Found) -> Option<Found> {
    const COMPAT_JOURNAL: u32 = 0x4;
    const INCOMPAT_JOURNAL_DEVICE: u32 = 0x8;
    const INCOMPAT_EXT3: u32 = 0x2 | 0x4 | 0x10; // filetype, recover, meta_bg
    const RO_COMPAT_EXT3: u32 = 0x1 | 0x2 | 0x4; // sparse_super, large_file, btree_dir
    const RO_COMPAT_CHECKSUM: u32 = 0x400;
    let [compat, incompat, ro_compat] = [0x5c, 0x60, 0x64].map(|at| image.le32(base + at));
    let (compat, incompat, ro_compat) = (compat?, incompat?, ro_compat?);
    let plausible = image.le32(base + 0x18)? <= 6 // block size of at most 64 KiB
        && image.le32(base + 0x4c)? <= 1 // revision
        && (image.le32(base + 4)? != 0 || image.le32(base)? != 0); // blocks, inodes
    if !plausible {
        return None;
    }
    let kind = if incompat & INCOMPAT_JOURNAL_DEVICE != 0 {
        Kind::Jbd
    } else if incompat & !INCOMPAT_EXT3 != 0 || ro_compat & !RO_COMPAT_EXT3 != 0 {
        Kind::Ext4
    } else if compat & COMPAT_JOURNAL != 0 {
        Kind::Ext3
    } else {
        Kind::Ext2
    };
    let found = Found { kind, ..found };
    if ro_compat & RO_COMPAT_CHECKSUM == 0 {
        return Some(found);
    }
    let computed = image.bytes(base, 0x3fc).map(|sb| !crc32c::crc32c(sb));
    Some(verified(found, computed, image.le32(base + 0x3fc)))
}

fn btrfs(image: &Image<'_>, base: u64, found: Found) -> Found {
    if image.le16(base + 0xc4) != Some(0) {
        return found; // not crc32c
    }
    let computed = image.bytes(base + 0x20, 4096 - 0x20).map(crc32c::crc32c);
    verified(found, computed, image.le32(base))
}

fn lvm2(image: &Image<'_>, base: u64, found: Found) -> Found {
    const SEED: u32 = 0xf597_a6cf;
    let computed = image
        .bytes(base + 20, 512 - 20)
        .map(|label| crc32_raw(SEED, label.iter().copied()));
    let uuid = image
        .le32(base + 20)
        .and_then(|header| image.bytes(base + u64::from(header), 32))
        .filter(|id| id.iter().all(u8::is_ascii_alphanumeric))
        .map(|id| lvm_uuid(&String::from_utf8_lossy(id)))
        .unwrap_or_default();
    verified(Found { uuid, ..found }, computed, image.le32(base + 16))
}

/// LVM's own grouping of 32 characters: 6-4-4-4-4-4-6.
fn lvm_uuid(id: &str) -> String {
    let mut text = String::with_capacity(38);
    for (index, c) in id.chars().enumerate() {
        if matches!(index, 6 | 10 | 14 | 18 | 22 | 26) {
            text.push('-');
        }
        text.push(c);
    }
    text
}

fn luks(image: &Image<'_>, base: u64, found: Found) -> Found {
    const SUM: usize = 448;
    if image.array(base + 6).map(u16::from_be_bytes) != Some(2) {
        return found; // LUKS1 has no checksum of its header
    }
    let label = super::table::ascii(image, base + 24, 48);
    let found = Found { label, ..found };
    let sha256 = image.bytes(base + 72, 7) == Some(b"sha256\0".as_slice());
    let length = image.array(base + 8).map(u64::from_be_bytes);
    let header = length
        .and_then(|length| usize::try_from(length).ok())
        .filter(|length| (4096..=4 << 20).contains(length))
        .and_then(|length| image.bytes(base, length));
    match header {
        Some(header) if sha256 => {
            let bytes: Vec<u8> = without(header, SUM..SUM + 64, 0).collect();
            let computed: [u8; 32] = Sha256::digest(bytes).into();
            verified(found, Some(computed), image.array(base + 448))
        }
        _ => found, // another hash, or a header longer than what was read
    }
}

fn md1(image: &Image<'_>, base: u64, found: Found) -> Found {
    const SUM: usize = 216;
    let computed = image
        .le32(base + 220)
        .and_then(|devices| usize::try_from(devices).ok())
        .and_then(|devices| 256_usize.checked_add(devices.checked_mul(2)?))
        .filter(|length| *length <= 4096)
        .and_then(|length| image.bytes(base, length))
        .map(|sb| {
            let bytes: Vec<u8> = without(sb, SUM..SUM + 4, 0).collect();
            let sum: u64 = bytes
                .chunks(4)
                .map(|word| word.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
                .sum();
            (sum & 0xffff_ffff) + (sum >> 32)
        })
        .and_then(|sum| u32::try_from(sum & 0xffff_ffff).ok());
    let in_place = image.le64(base + 144) == Some(base / 512);
    let found = verified(found, computed, image.le32(base + 216));
    Found {
        damaged: found.damaged || !in_place,
        ..found
    }
}

fn md090(image: &Image<'_>, base: u64, found: Found) -> Found {
    let little = found_byte(image, base) == Some(0xfc);
    let mut bytes = [0; 16];
    for (to, word) in bytes.chunks_exact_mut(4).zip([20, 52, 56, 60]) {
        if let Some(mut id) = image.array::<4>(base + word) {
            if little {
                id.reverse(); // kept as four numbers, printed as numbers
            }
            to.copy_from_slice(&id);
        }
    }
    Found {
        uuid: super::table::uuid(bytes).unwrap_or_default(),
        ..found
    }
}

fn found_byte(image: &Image<'_>, at: u64) -> Option<u8> {
    image.array::<1>(at).map(|[byte]| byte)
}

fn gpt(image: &Image<'_>, base: u64, found: Found) -> Found {
    const CRC: usize = 16;
    let computed = image
        .le32(base + 12)
        .and_then(|length| usize::try_from(length).ok())
        .filter(|length| (92..=512).contains(length))
        .and_then(|length| image.bytes(base, length))
        .map(|header| !crc32_raw(!0, without(header, CRC..CRC + 4, 0)));
    verified(found, computed, image.le32(base + 16))
}

fn ddf(image: &Image<'_>, base: u64, found: Found) -> Found {
    const CRC: usize = 4;
    let computed = image
        .bytes(base, 512)
        .map(|header| !crc32_raw(!0, without(header, CRC..CRC + 4, 0xff)));
    verified(found, computed, image.be32(base + 4))
}

fn nilfs2(image: &Image<'_>, base: u64, found: Found) -> Option<Found> {
    const SUM: usize = 16;
    let length = usize::from(image.le16(base + 8)?);
    if image.le32(base) != Some(2) || !(SUM + 4..=1024).contains(&length) {
        return None;
    }
    let seed = image.le32(base + 12)?;
    let computed = image
        .bytes(base, length)
        .map(|sb| crc32_raw(seed, without(sb, SUM..SUM + 4, 0)));
    Some(verified(found, computed, image.le32(base + 16)))
}

/// Minix: a two-byte magic, so the numbers around it must make sense.
fn minix(image: &Image<'_>, base: u64, found: Found) -> Option<Found> {
    let third = found.offset == base + 0x18;
    let inodes = if third {
        image.le32(base)?
    } else {
        u32::from(image.le16(base)?)
    };
    let log_zone = image.le16(base + 0x0a)?;
    let first_zone = image.le16(base + 8)?;
    (inodes != 0 && (third || (first_zone != 0 && log_zone <= 6))).then_some(found)
}

/// ZFS: the name of the first pair is where a list in XDR has it.
fn zfs(image: &Image<'_>, base: u64, found: Found) -> Option<Found> {
    let [encoding, endian, _, _, rest @ ..] = image.array::<12>(base)?;
    let header = encoding <= 1 && endian <= 1 && rest == [0, 0, 0, 0, 0, 0, 0, 1];
    header.then_some(found)
}

/// Whether a ZFS uberblock, of either byte order, begins at `at`.
pub(super) fn is_uberblock(image: &Image<'_>, at: u64) -> bool {
    const MAGIC: u64 = 0x00ba_b10c;
    image
        .le64(at)
        .is_some_and(|word| word == MAGIC || word.swap_bytes() == MAGIC)
}

/// The MBR: two bytes that boot sectors of file systems end with as well. Told apart by what stands before them.
pub(super) fn partition_tables(image: &Image<'_>, found: &mut Vec<Found>) {
    const ENTRIES: u64 = 446;
    const PROTECTIVE: u8 = 0xee;
    if image.bytes(510, 2) != Some([0x55, 0xaa].as_slice()) {
        return;
    }
    let entries: Vec<[u8; 16]> = (0..4)
        .filter_map(|index| image.array(ENTRIES + 16 * index))
        .collect();
    let plausible = entries.iter().all(|[boot, ..]| matches!(boot, 0 | 0x80));
    let kinds: Vec<u8> = entries
        .iter()
        .map(|[_, _, _, _, kind, ..]| *kind)
        .filter(|kind| *kind != 0)
        .collect();
    let has_gpt = found.iter().any(|one| one.kind == Kind::Gpt);
    let boot_sector = found.iter().any(|one| one.offset < KIB);
    let is_table = match (plausible, kinds.as_slice()) {
        (false, _) => false,
        (true, []) => !boot_sector,
        (true, kinds) if kinds.iter().all(|kind| *kind == PROTECTIVE) => !has_gpt,
        (true, _) => !has_fat(found),
    };
    if is_table {
        found.push(Found {
            offset: 510,
            kind: Kind::Dos,
            uuid: image
                .le32(440)
                .filter(|id| *id != 0)
                .map(|id| format!("{id:08x}"))
                .unwrap_or_default(),
            label: String::new(),
            damaged: false,
            unfinished: false,
        });
    }
}

/// Boot sectors of these end in the same two bytes, and their code stands where a table would.
fn has_fat(found: &[Found]) -> bool {
    found.iter().any(|one| {
        matches!(
            one.kind,
            Kind::Fat | Kind::Exfat | Kind::Ntfs | Kind::Bitlocker
        )
    })
}
