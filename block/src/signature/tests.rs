use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use super::*;

pub(super) const SIZE: u64 = 64 * MIB;

/// A device in memory: zeroes but for what was put in.
pub(super) struct Device {
    size: u64,
    pieces: Vec<(u64, Vec<u8>)>,
}

impl Device {
    pub(super) fn new(size: u64) -> Self {
        Self {
            size,
            pieces: Vec::new(),
        }
    }

    pub(super) fn with(mut self, offset: u64, bytes: &[u8]) -> Self {
        self.pieces.push((offset, bytes.to_vec()));
        self
    }

    fn read(&self, ranges: &[Range<u64>]) -> Vec<(u64, Vec<u8>)> {
        let cut = |range: &Range<u64>| {
            let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap()];
            for (at, piece) in &self.pieces {
                for (offset, byte) in (*at..).zip(piece) {
                    if range.contains(&offset) {
                        bytes[usize::try_from(offset - range.start).unwrap()] = *byte;
                    }
                }
            }
            (range.start, bytes)
        };
        ranges.iter().map(cut).collect()
    }

    pub(super) fn scan(&self) -> Vec<Found> {
        scan_pieces(self.size, &self.read(&everywhere(self.size)))
    }

    pub(super) fn write_to(&self, path: &Path) {
        let mut file = std::fs::File::create(path).unwrap();
        file.set_len(self.size).unwrap();
        for (at, piece) in &self.pieces {
            file.seek(SeekFrom::Start(*at)).unwrap();
            file.write_all(piece).unwrap();
        }
    }
}

fn scan_pieces(size: u64, pieces: &[(u64, Vec<u8>)]) -> Vec<Found> {
    let areas: Vec<Area<'_>> = pieces
        .iter()
        .map(|(offset, bytes)| Area {
            offset: *offset,
            bytes,
        })
        .collect();
    scan(size, &areas)
}

pub(super) fn scan_file(path: &Path, ranges: impl Fn(u64) -> Vec<Range<u64>>) -> Vec<Found> {
    let mut file = std::fs::File::open(path).unwrap();
    let size = file.metadata().unwrap().len();
    let mut read = |range: Range<u64>| {
        let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap()];
        file.seek(SeekFrom::Start(range.start)).unwrap();
        file.read_exact(&mut bytes).unwrap();
        (range.start, bytes)
    };
    let pieces: Vec<_> = ranges(size).into_iter().map(&mut read).collect();
    scan_pieces(size, &pieces)
}

pub(super) fn kinds(found: &[Found]) -> Vec<&'static str> {
    found.iter().map(|one| one.kind.as_str()).collect()
}

#[test]
fn areas_are_sound_for_any_size() {
    let sizes = (0..400)
        .map(|n| n * 4096)
        .chain((0..3000).map(|n| n * 512))
        .chain([
            MIB,
            63 * MIB + 512,
            300 * GIB,
            (4 << 40) + 512,
            u64::MAX - 511,
        ]);
    for size in sizes {
        let (one, two, all) = (first(size), second(size), everywhere(size));
        for areas in [&one, &two, &all] {
            for area in areas {
                assert!(
                    area.start < area.end && area.end <= size,
                    "{size}: {areas:?}"
                );
                assert!(area.start % SPOT == 0, "{size}: {areas:?}");
                assert!(
                    area.end % SPOT == 0 || area.end == size,
                    "{size}: {areas:?}"
                );
            }
            assert!(
                areas.windows(2).all(|pair| pair[0].end <= pair[1].start),
                "{size}: {areas:?}"
            );
        }
        let mut both = [one, two].concat();
        let bytes: u64 = both.iter().map(|area| area.end - area.start).sum();
        both.sort_by_key(|area| area.start);
        assert_eq!(merged(both, size), all, "{size}");
        assert_eq!(bytes, all.iter().map(|area| area.end - area.start).sum());
    }
}

#[test]
fn what_is_read_at_first_is_small() {
    let bytes: u64 = first(4 << 40)
        .iter()
        .map(|area| area.end - area.start)
        .sum();
    assert!(bytes <= 144 * KIB, "{bytes}");
    let bytes: u64 = everywhere(4 << 40)
        .iter()
        .map(|area| area.end - area.start)
        .sum();
    assert!(bytes <= 2 * MIB, "{bytes}");
}

#[test]
fn blank_is_blank_and_anything_else_is_not() {
    assert_eq!(Device::new(SIZE).scan(), []);
    assert_eq!(Device::new(0).scan(), []);
    for offset in [
        0,
        5000,
        300 * KIB,
        512 * KIB + 7,
        MIB,
        4 * MIB + 4095,
        SIZE - MIB,
        SIZE - 1,
    ] {
        let found = Device::new(SIZE).with(offset, &[1]).scan();
        assert_eq!(kinds(&found), ["unknown-data"], "{offset}");
        assert_eq!(found[0].offset, offset - offset % 512);
        let other = Device::new(SIZE).with(offset, &[2]).scan();
        assert_ne!(found, other, "a change of unknown data shows");
    }
    // Outside of what is read, nothing is seen: that is what the areas mean.
    assert_eq!(Device::new(SIZE).with(20 * MIB, &[1]).scan(), []);
}

#[test]
fn every_row_is_in_what_is_read_and_is_found_there() {
    let size = 256 * GIB + 8 * MIB;
    for (offset, bytes, kind) in table::examples(size) {
        let found = Device::new(size).with(offset, &bytes).scan();
        assert!(
            found.iter().any(|one| one.kind == kind),
            "{} at {offset}: {found:?}",
            kind.as_str()
        );
    }
}

#[test]
fn the_claim_alone_is_no_other_data_but_what_is_beside_it_is() {
    let at = claim_offset(SIZE).unwrap();
    let mut claim = CLAIM_MAGIC.to_vec();
    claim.resize(4096, 7);
    let device = Device::new(SIZE).with(at, &claim);
    assert_eq!(kinds(&device.scan()), ["ringpv-claim"]);
    let device = device.with(4096, b"somebody's bytes");
    assert_eq!(kinds(&device.scan()), ["unknown-data", "ringpv-claim"]);
    let device = device.with(0, b"XFSB");
    assert_eq!(kinds(&device.scan()), ["xfs", "ringpv-claim"]);
}

#[test]
fn boot_sectors_and_partition_tables_are_told_apart() {
    let mut mbr = vec![0; 512];
    mbr[510..].copy_from_slice(&[0x55, 0xaa]);
    let check = |sector: &[u8], expected: &[&str]| {
        let found = Device::new(SIZE).with(0, sector).scan();
        assert_eq!(kinds(&found), expected);
    };
    check(&mbr, &["dos"]);
    let mut parted = mbr.clone();
    parted[450] = 0x83;
    check(&parted, &["dos"]);
    parted[450] = 0xee;
    check(&parted, &["dos"]);
    let mut fat = mbr.clone();
    fat[0x52..0x5a].copy_from_slice(b"FAT32   ");
    fat[450] = 0x83;
    check(&fat, &["vfat"]);
    let mut code = mbr;
    code[446] = 0x31;
    check(&code, &["unknown-data"]);
}

#[test]
fn weak_magics_need_a_sensible_structure() {
    let ext = Device::new(SIZE).with(KIB + 0x38, &[0x53, 0xef]);
    assert_eq!(kinds(&ext.scan()), ["unknown-data"]);
    let minix = Device::new(SIZE).with(KIB + 0x10, &[0x7f, 0x13]);
    assert_eq!(kinds(&minix.scan()), ["unknown-data"]);
}

#[test]
fn strong_magics_with_nothing_behind_them_are_damaged() {
    for (offset, magic, kind) in [
        (512, b"LABELONE".as_slice(), Kind::Lvm2),
        (512, b"EFI PART".as_slice(), Kind::Gpt),
        (4096, &[0xfc, 0x4e, 0x2b, 0xa9], Kind::Md),
        (64 * KIB + 0x40, b"_BHRfS_M".as_slice(), Kind::Btrfs),
    ] {
        let found = Device::new(SIZE).with(offset, magic).scan();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].kind, found[0].damaged), (kind, true));
    }
}

#[test]
fn zfs_is_found_by_any_of_its_labels() {
    let mut list = vec![1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    list.extend([0; 8]);
    list.extend(7_u32.to_be_bytes());
    list.extend(b"version");
    let size = SIZE + 100 * KIB;
    let end = size - size % (256 * KIB);
    for label in [0, 256 * KIB, end - 512 * KIB, end - 256 * KIB] {
        let found = Device::new(size).with(label + 16 * KIB, &list).scan();
        assert_eq!(kinds(&found), ["zfs_member"], "{label}");
        let block = 0x00ba_b10c_u64.to_le_bytes();
        let found = Device::new(size).with(label + 200 * KIB, &block).scan();
        assert_eq!(kinds(&found), ["zfs_member"], "{label}");
    }
}

#[test]
fn erasing_covers_every_place_that_is_read() {
    for size in [512 * MIB, 600 * MIB + 512, 300 * GIB, 4 << 40] {
        let erased = crate::erase::signature_areas(size);
        let claim = claim_offset(size).unwrap();
        for area in everywhere(size) {
            let mut offset = area.start;
            while offset < area.end {
                let inside = erased
                    .iter()
                    .any(|e| e.offset <= offset && offset < e.offset + e.bytes);
                assert!(inside || offset == claim, "{offset} of {size}: {erased:?}");
                offset += 512;
                if offset > claim && offset < claim + CLAIM_BYTES {
                    offset = claim + CLAIM_BYTES;
                }
            }
        }
    }
}
