//! The table: one row a place where a magic may be.

use super::checks::{self, Check};
use super::{CLAIM_MAGIC, Found, GIB, Image, KIB, Kind, MIB, SPOT, claim_offset, md_0_90_offset};

/// Where the structure that holds a magic begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum At {
    /// So many bytes from the start.
    Start(u64),
    /// So many bytes before the end, the end rounded down to 4 KiB.
    End(u64),
    /// The n-th sector before the end, for either sector size.
    EndSector(u64),
    /// So many bytes before the very end.
    EndByte(u64),
    /// Where md 0.90 is.
    Md090,
    /// Where a claim block is.
    Claim,
    /// Each KiB of the uberblock array of each of the four ZFS labels.
    ZfsUberblocks,
    /// The name–value list of each of the four ZFS labels.
    ZfsList,
}

/// A UUID's or label's place in the structure, and how it is written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Text {
    /// It has none.
    None,
    /// 16 bytes in order.
    Uuid(u64),
    /// 16 bytes, the first three groups little-endian.
    Guid(u64),
    /// 32 bits, as FAT's serial: `1234-ABCD`.
    Serial32(u64),
    /// 64 bits, as NTFS's serial: 16 digits.
    Serial64(u64),
    /// So many bytes of ASCII or UTF-8, ended by a NUL or by blanks.
    Ascii(u64, usize),
    /// So many bytes of UTF-16, little-endian.
    Utf16(u64, usize),
}

/// One place where a magic may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    kind: Kind,
    at: At,
    /// Offset of the magic in the structure.
    magic_at: u64,
    magic: &'static [u8],
    uuid: Text,
    label: Text,
    check: Check,
}

const fn row(kind: Kind, at: At, magic_at: u64, magic: &'static [u8]) -> Row {
    Row {
        kind,
        at,
        magic_at,
        magic,
        uuid: Text::None,
        label: Text::None,
        check: Check::None,
    }
}

impl Row {
    const fn uuid(self, uuid: Text) -> Self {
        Self { uuid, ..self }
    }

    const fn label(self, label: Text) -> Self {
        Self { label, ..self }
    }

    const fn check(self, check: Check) -> Self {
        Self { check, ..self }
    }

    /// All findings of this row.
    pub(super) fn find(&self, image: &Image<'_>) -> Vec<Found> {
        self.at
            .bases(image)
            .into_iter()
            .filter_map(|base| self.find_at(image, base))
            .collect()
    }

    fn find_at(&self, image: &Image<'_>, base: u64) -> Option<Found> {
        let offset = base.checked_add(self.magic_at)?;
        if image.bytes(offset, self.magic.len())? != self.magic {
            return None;
        }
        let found = Found {
            offset,
            kind: self.kind,
            uuid: self.uuid.read(image, base),
            label: self.label.read(image, base),
            damaged: false,
            unfinished: false,
        };
        checks::apply(self.check, image, base, found)
    }
}

impl At {
    fn bases(self, image: &Image<'_>) -> Vec<u64> {
        let size = image.size;
        match self {
            Self::Start(offset) => vec![offset],
            Self::End(bytes) => (size - size % SPOT)
                .checked_sub(bytes)
                .into_iter()
                .collect(),
            Self::EndSector(count) => [512, 4096]
                .into_iter()
                .filter(|sector| size.is_multiple_of(*sector))
                .filter_map(|sector| size.checked_sub(count * sector))
                .collect(),
            Self::EndByte(bytes) => size.checked_sub(bytes).into_iter().collect(),
            Self::Md090 => md_0_90_offset(size).into_iter().collect(),
            Self::Claim => claim_offset(size).into_iter().collect(),
            Self::ZfsList => zfs_labels(size).map(|label| label + 16 * KIB).collect(),
            Self::ZfsUberblocks => zfs_labels(size)
                .filter_map(|label| {
                    // The ring of uberblocks: its first is enough to name the pool, but any may be the only one left.
                    (128..256)
                        .map(|slot| label + slot * KIB)
                        .find(|at| checks::is_uberblock(image, *at))
                })
                .collect(),
        }
    }
}

/// Where the four labels of a ZFS member begin.
fn zfs_labels(size: u64) -> impl Iterator<Item = u64> {
    const LABEL: u64 = 256 * KIB;
    let end = size - size % LABEL;
    [
        Some(0),
        Some(LABEL),
        end.checked_sub(2 * LABEL),
        end.checked_sub(LABEL),
    ]
    .into_iter()
    .flatten()
}

impl Text {
    fn read(self, image: &Image<'_>, base: u64) -> String {
        self.try_read(image, base).unwrap_or_default()
    }

    fn try_read(self, image: &Image<'_>, base: u64) -> Option<String> {
        match self {
            Self::None => None,
            Self::Uuid(at) => uuid(image.array(base + at)?),
            Self::Guid(at) => {
                let [a, b, c, d, e, f, g, h, rest @ ..] = image.array::<16>(base + at)?;
                let mut bytes = [d, c, b, a, f, e, h, g, 0, 0, 0, 0, 0, 0, 0, 0];
                for (to, from) in bytes.iter_mut().skip(8).zip(rest) {
                    *to = from;
                }
                uuid(bytes)
            }
            Self::Serial32(at) => {
                let serial = image.le32(base + at)?;
                Some(format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff))
            }
            Self::Serial64(at) => Some(format!("{:016X}", image.le64(base + at)?)),
            Self::Ascii(at, length) => Some(ascii(image, base + at, length)),
            Self::Utf16(at, length) => {
                let units: Vec<u16> = image
                    .bytes(base + at, length)?
                    .chunks_exact(2)
                    .map(|pair| pair.iter().rev().fold(0, |n, b| n << 8 | u16::from(*b)))
                    .take_while(|unit| *unit != 0)
                    .collect();
                Some(printable(&String::from_utf16_lossy(&units)))
            }
        }
    }
}

/// `length` bytes of text at `at`, up to a NUL; empty where they were not read.
pub(super) fn ascii(image: &Image<'_>, at: u64, length: usize) -> String {
    let bytes = image.bytes(at, length).unwrap_or_default();
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    printable(&String::from_utf8_lossy(text))
}

/// Text from a foreign device, fit for a table: without control characters and outer blanks. FAT's `NO NAME` is none.
fn printable(text: &str) -> String {
    let clean: String = text.chars().filter(|c| !c.is_control()).collect();
    match clean.trim() {
        "NO NAME" => String::new(),
        label => label.to_owned(),
    }
}

/// A UUID in its usual form; `None` for all zeroes.
pub(super) fn uuid(bytes: [u8; 16]) -> Option<String> {
    if bytes == [0; 16] {
        return None;
    }
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    Some(text)
}

use At::{Claim, End, EndByte, EndSector, Md090, Start, ZfsList, ZfsUberblocks};
use Text::{Ascii, Guid, Serial32, Serial64, Utf16, Uuid};

const MD: &[u8] = &[0xfc, 0x4e, 0x2b, 0xa9];
const MD_BIG_ENDIAN: &[u8] = &[0xa9, 0x2b, 0x4e, 0xfc];
const BCACHE: &[u8] = &[
    0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba, 0x6d, 0x81,
];
const BCACHEFS: &[u8] = &[
    0xc6, 0x85, 0x73, 0xf6, 0x66, 0xce, 0x90, 0xa9, 0xd9, 0x6a, 0x60, 0xcf, 0x80, 0x3d, 0xf7, 0xef,
];
const STRATIS: &[u8] = b"!Stra0tis\x86\xff\x02^\x41rh";

const fn luks2_second(at: u64) -> Row {
    row(Kind::Luks, Start(at), 0, b"SKUL\xba\xbe")
        .uuid(Ascii(168, 40))
        .label(Ascii(24, 48))
        .check(Check::Luks)
}

const fn lvm2(at: u64) -> Row {
    row(Kind::Lvm2, Start(at), 0, b"LABELONE").check(Check::Lvm2)
}

const fn swap(page: u64, magic: &'static [u8]) -> Row {
    row(Kind::Swap, Start(0), page - 10, magic)
        .uuid(Uuid(1024 + 12))
        .label(Ascii(1024 + 28, 16))
}

const fn hibernation(page: u64, magic: &'static [u8]) -> Row {
    row(Kind::Hibernation, Start(0), page - 10, magic)
}

const fn md1(at: At) -> Row {
    row(Kind::Md, at, 0, MD)
        .uuid(Uuid(16))
        .label(Ascii(32, 32))
        .check(Check::Md1)
}

const fn bcachefs(at: At) -> Row {
    row(Kind::Bcachefs, at, 0x18, BCACHEFS)
        .uuid(Uuid(56))
        .label(Ascii(72, 32))
}

const fn reiserfs(at: u64, magic: &'static [u8]) -> Row {
    row(Kind::Reiserfs, Start(at), 0x34, magic)
        .uuid(Uuid(84))
        .label(Ascii(100, 16))
}

const fn drbd(magic: &'static [u8]) -> Row {
    row(Kind::Drbd, End(4 * KIB), 60, magic)
}

const fn btrfs(at: u64) -> Row {
    row(Kind::Btrfs, Start(at), 0x40, b"_BHRfS_M")
        .uuid(Uuid(0x20))
        .label(Ascii(0x12b, 256))
        .check(Check::Btrfs)
}

/// All rows. Where two structures share a place, the more telling one decides in `checks`.
pub(super) const ROWS: &[Row] = &[
    row(Kind::Claim, Claim, 0, CLAIM_MAGIC),
    row(Kind::Xfs, Start(0), 0, b"XFSB")
        .uuid(Uuid(32))
        .label(Ascii(108, 12))
        .check(Check::Xfs),
    row(Kind::XfsLog, Start(0), 0, &[0xfe, 0xed, 0xba, 0xbe]),
    row(Kind::Ext4, Start(KIB), 0x38, &[0x53, 0xef])
        .uuid(Uuid(0x68))
        .label(Ascii(0x78, 16))
        .check(Check::Ext),
    btrfs(64 * KIB),
    btrfs(64 * MIB),
    btrfs(256 * GIB),
    lvm2(0),
    lvm2(512),
    lvm2(1024),
    lvm2(1536),
    row(Kind::Lvm1, Start(0), 0, &[b'H', b'M', 1, 0]),
    row(Kind::Lvm1, Start(0), 0, &[b'H', b'M', 2, 0]),
    row(Kind::LvmSnapshot, Start(0), 0, b"SnAp"),
    row(Kind::Verity, Start(0), 0, b"verity\0\0").uuid(Uuid(16)),
    row(Kind::Integrity, Start(0), 0, b"integrt\0"),
    row(Kind::Luks, Start(0), 0, b"LUKS\xba\xbe")
        .uuid(Ascii(168, 40))
        .check(Check::Luks),
    luks2_second(16 * KIB),
    luks2_second(32 * KIB),
    luks2_second(64 * KIB),
    luks2_second(128 * KIB),
    luks2_second(256 * KIB),
    luks2_second(512 * KIB),
    luks2_second(MIB),
    luks2_second(2 * MIB),
    luks2_second(4 * MIB),
    swap(4 * KIB, b"SWAPSPACE2"),
    swap(8 * KIB, b"SWAPSPACE2"),
    swap(16 * KIB, b"SWAPSPACE2"),
    swap(32 * KIB, b"SWAPSPACE2"),
    swap(64 * KIB, b"SWAPSPACE2"),
    swap(4 * KIB, b"SWAP-SPACE"),
    swap(8 * KIB, b"SWAP-SPACE"),
    swap(16 * KIB, b"SWAP-SPACE"),
    swap(32 * KIB, b"SWAP-SPACE"),
    swap(64 * KIB, b"SWAP-SPACE"),
    hibernation(4 * KIB, b"S1SUSPEND"),
    hibernation(8 * KIB, b"S1SUSPEND"),
    hibernation(16 * KIB, b"S1SUSPEND"),
    hibernation(32 * KIB, b"S1SUSPEND"),
    hibernation(64 * KIB, b"S1SUSPEND"),
    hibernation(4 * KIB, b"S2SUSPEND"),
    hibernation(8 * KIB, b"S2SUSPEND"),
    hibernation(16 * KIB, b"S2SUSPEND"),
    hibernation(32 * KIB, b"S2SUSPEND"),
    hibernation(64 * KIB, b"S2SUSPEND"),
    hibernation(4 * KIB, b"ULSUSPEND"),
    hibernation(8 * KIB, b"ULSUSPEND"),
    hibernation(16 * KIB, b"ULSUSPEND"),
    hibernation(32 * KIB, b"ULSUSPEND"),
    hibernation(64 * KIB, b"ULSUSPEND"),
    hibernation(4 * KIB, b"LINHIB0001"),
    hibernation(8 * KIB, b"LINHIB0001"),
    hibernation(16 * KIB, b"LINHIB0001"),
    hibernation(32 * KIB, b"LINHIB0001"),
    hibernation(64 * KIB, b"LINHIB0001"),
    row(
        Kind::Hibernation,
        Start(0),
        0,
        &[0xed, 0xc3, 0x02, 0xe9, 0x98, 0x56, 0xe5, 0x0c],
    ),
    md1(Start(0)),
    md1(Start(4 * KIB)),
    md1(End(8 * KIB)),
    row(Kind::Md, Md090, 0, MD).check(Check::Md090),
    row(Kind::Md, Md090, 0, MD_BIG_ENDIAN).check(Check::Md090),
    row(Kind::Zfs, ZfsList, 24, b"version").check(Check::Zfs),
    row(Kind::Zfs, ZfsUberblocks, 0, &[]),
    row(Kind::Gpt, Start(512), 0, b"EFI PART")
        .uuid(Guid(56))
        .check(Check::Gpt),
    row(Kind::Gpt, Start(4096), 0, b"EFI PART")
        .uuid(Guid(56))
        .check(Check::Gpt),
    row(Kind::Gpt, EndSector(1), 0, b"EFI PART")
        .uuid(Guid(56))
        .check(Check::Gpt),
    row(Kind::Bcache, Start(4 * KIB), 0x18, BCACHE)
        .uuid(Uuid(40))
        .label(Ascii(72, 32)),
    bcachefs(Start(4 * KIB)),
    bcachefs(Start(2 * MIB)),
    bcachefs(End(MIB)),
    row(Kind::Bluestore, Start(0), 0, b"bluestore block device").uuid(Ascii(23, 36)),
    row(Kind::Vdo, Start(0), 0, b"dmvdo001").uuid(Uuid(40)),
    row(Kind::Bitlocker, Start(0), 3, b"-FVE-FS-"),
    row(Kind::Apfs, Start(0), 32, b"NXSB").uuid(Uuid(72)),
    row(Kind::HfsPlus, Start(KIB), 0, &[b'H', b'+', 0, 4]),
    row(Kind::HfsPlus, Start(KIB), 0, &[b'H', b'X', 0, 5]),
    row(Kind::Fat, Start(0), 0x52, b"FAT32   ")
        .uuid(Serial32(67))
        .label(Ascii(71, 11)),
    row(Kind::Fat, Start(0), 0x52, b"MSWIN")
        .uuid(Serial32(67))
        .label(Ascii(71, 11)),
    row(Kind::Fat, Start(0), 0x36, b"FAT16   ")
        .uuid(Serial32(39))
        .label(Ascii(43, 11)),
    row(Kind::Fat, Start(0), 0x36, b"FAT12   ")
        .uuid(Serial32(39))
        .label(Ascii(43, 11)),
    row(Kind::Fat, Start(0), 0x36, b"FAT     ")
        .uuid(Serial32(39))
        .label(Ascii(43, 11)),
    row(Kind::Fat, Start(0), 0x36, b"MSDOS")
        .uuid(Serial32(39))
        .label(Ascii(43, 11)),
    row(Kind::Exfat, Start(0), 3, b"EXFAT   ").uuid(Serial32(100)),
    row(Kind::Ntfs, Start(0), 3, b"NTFS    ").uuid(Serial64(72)),
    row(Kind::Refs, Start(0), 0, b"\0\0\0ReFS\0"),
    row(Kind::F2fs, Start(KIB), 0, &[0x10, 0x20, 0xf5, 0xf2])
        .uuid(Uuid(108))
        .label(Utf16(124, 1024)),
    row(Kind::F2fs, Start(5 * KIB), 0, &[0x10, 0x20, 0xf5, 0xf2])
        .uuid(Uuid(108))
        .label(Utf16(124, 1024)),
    row(Kind::Erofs, Start(KIB), 0, &[0xe2, 0xe1, 0xf5, 0xe0])
        .uuid(Uuid(48))
        .label(Ascii(64, 16)),
    row(Kind::Nilfs2, Start(KIB), 6, &[0x34, 0x34])
        .uuid(Uuid(152))
        .label(Ascii(168, 80))
        .check(Check::Nilfs2),
    row(Kind::Nilfs2, End(4 * KIB), 6, &[0x34, 0x34])
        .uuid(Uuid(152))
        .label(Ascii(168, 80))
        .check(Check::Nilfs2),
    row(Kind::Jfs, Start(32 * KIB), 0, b"JFS1")
        .uuid(Uuid(136))
        .label(Ascii(152, 16)),
    row(Kind::Iso9660, Start(32 * KIB), 1, b"CD001").label(Ascii(40, 32)),
    row(Kind::Udf, Start(32 * KIB), 1, b"BEA01"),
    row(Kind::Udf, Start(34 * KIB), 1, b"BEA01"),
    row(Kind::Udf, Start(34 * KIB), 1, b"NSR02"),
    row(Kind::Udf, Start(34 * KIB), 1, b"NSR03"),
    row(Kind::Udf, Start(36 * KIB), 1, b"NSR02"),
    row(Kind::Udf, Start(36 * KIB), 1, b"NSR03"),
    row(Kind::Gfs2, Start(64 * KIB), 0, &[0x01, 0x16, 0x19, 0x70])
        .uuid(Uuid(256))
        .label(Ascii(160, 64)),
    row(Kind::Ocfs2, Start(KIB), 0, b"OCFSV2"),
    row(Kind::Ocfs2, Start(2 * KIB), 0, b"OCFSV2"),
    row(Kind::Ocfs2, Start(4 * KIB), 0, b"OCFSV2"),
    row(Kind::Ocfs2, Start(8 * KIB), 0, b"OCFSV2"),
    reiserfs(64 * KIB, b"ReIsErFs"),
    reiserfs(64 * KIB, b"ReIsEr2Fs"),
    reiserfs(64 * KIB, b"ReIsEr3Fs"),
    reiserfs(8 * KIB, b"ReIsErFs"),
    row(Kind::Reiser4, Start(64 * KIB), 0, b"ReIsEr4")
        .uuid(Uuid(20))
        .label(Ascii(36, 16)),
    row(Kind::Minix, Start(KIB), 0x10, &[0x7f, 0x13]).check(Check::Minix),
    row(Kind::Minix, Start(KIB), 0x10, &[0x8f, 0x13]).check(Check::Minix),
    row(Kind::Minix, Start(KIB), 0x10, &[0x68, 0x24]).check(Check::Minix),
    row(Kind::Minix, Start(KIB), 0x10, &[0x78, 0x24]).check(Check::Minix),
    row(Kind::Minix, Start(KIB), 0x18, &[0x5a, 0x4d]).check(Check::Minix),
    row(Kind::Squashfs, Start(0), 0, b"hsqs"),
    row(Kind::Squashfs, Start(0), 0, b"sqsh"),
    row(Kind::Cramfs, Start(0), 0, &[0x45, 0x3d, 0xcd, 0x28]).label(Ascii(48, 16)),
    row(Kind::Cramfs, Start(512), 0, &[0x45, 0x3d, 0xcd, 0x28]).label(Ascii(48, 16)),
    row(Kind::Romfs, Start(0), 0, b"-rom1fs-").label(Ascii(16, 16)),
    row(Kind::Ufs, Start(8 * KIB), 1372, &[0x54, 0x19, 0x01, 0x00]),
    row(Kind::Ufs, Start(64 * KIB), 1372, &[0x19, 0x01, 0x54, 0x19]),
    row(Kind::Bfs, Start(0), 0, &[0xce, 0xfa, 0xad, 0x1b]),
    row(Kind::Zonefs, Start(0), 0, b"SFOZ")
        .uuid(Uuid(72))
        .label(Ascii(8, 64)),
    drbd(&[0x83, 0x74, 0x02, 0x6b]),
    drbd(&[0x83, 0x74, 0x02, 0x6c]),
    drbd(&[0x83, 0x74, 0x02, 0x6d]),
    row(Kind::Stratis, Start(512), 4, STRATIS),
    row(Kind::Stratis, Start(9 * 512), 4, STRATIS),
    row(Kind::VmfsVolume, Start(MIB), 0, &[0x0d, 0xd0, 0x01, 0xc0]),
    row(Kind::Vmfs, Start(2 * MIB), 0, &[0x5e, 0xf1, 0xab, 0x2f]),
    row(Kind::OracleAsm, Start(0), 32, b"ORCLDISK").label(Ascii(40, 24)),
    row(Kind::Ddf, EndSector(1), 0, &[0xde, 0x11, 0xde, 0x11]).check(Check::Ddf),
    row(Kind::Ddf, EndByte(257 * 512), 0, &[0xde, 0x11, 0xde, 0x11]).check(Check::Ddf),
    row(Kind::Imsm, EndSector(2), 0, b"Intel Raid ISM Cfg Sig. "),
];

/// One example a row: where its magic would be on a device of `size`, the least that is found there, and its kind.
#[cfg(test)]
pub(super) fn examples(size: u64) -> Vec<(u64, Vec<u8>, Kind)> {
    let image = Image { size, areas: &[] };
    ROWS.iter()
        .filter(|row| !matches!(row.at, ZfsList | ZfsUberblocks))
        .filter(|row| !matches!(row.check, Check::Ext | Check::Minix | Check::Nilfs2))
        .flat_map(|row| {
            row.at
                .bases(&image)
                .into_iter()
                .map(|base| (base + row.magic_at, row.magic.to_vec(), row.kind))
        })
        .collect()
}
