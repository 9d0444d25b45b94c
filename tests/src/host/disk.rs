//! A drive as bytes: sparse blocks of 4 KiB, and beside them the file system whose superblock is in the first block.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use block::erase::Range;
use block::signature::{self, Area};

use super::tree::Tree;

const BLOCK: u64 = 4096;

/// How a drive answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// As it should.
    #[default]
    Good,
    /// It answers, ten times later.
    Slow,
    /// Every read and write fails.
    Dead,
}

/// A drive. It keeps all this wherever it is plugged in.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// Serial, and the identity that follows from it.
    pub serial: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Blocks that are not zero, by their offset.
    blocks: BTreeMap<u64, Vec<u8>>,
    /// What the signature table finds in them, once it was asked.
    found: OnceCell<Vec<signature::Found>>,
    /// The file system, while its superblock is there.
    pub files: Option<Tree>,
    /// How it answers.
    pub health: Health,
    /// Whether it zeroes ranges by itself.
    pub offloads: bool,
    /// Raw writes that it has taken since it was made.
    pub writes: u64,
}

impl Disk {
    /// A blank drive.
    #[must_use]
    pub fn blank(serial: &str, bytes: u64, offloads: bool) -> Self {
        Self {
            serial: serial.to_owned(),
            bytes,
            offloads,
            ..Self::default()
        }
    }

    /// Bytes at an offset.
    #[must_use]
    pub fn read(&self, offset: u64, bytes: u64) -> Vec<u8> {
        let mut out = vec![0; usize::try_from(bytes).unwrap_or(0)];
        let first = offset - offset % BLOCK;
        for (at, block) in self.blocks.range(first..offset + bytes) {
            let index = |from: u64, to: u64| usize::try_from(to.saturating_sub(from)).unwrap_or(0);
            let from = block.get(index(*at, offset)..).unwrap_or_default();
            let into = out.get_mut(index(offset, *at)..).unwrap_or_default();
            let both = from.len().min(into.len());
            if let (Some(from), Some(into)) = (from.get(..both), into.get_mut(..both)) {
                into.copy_from_slice(from);
            }
        }
        out
    }

    /// Writes one whole block.
    pub fn write_block(&mut self, offset: u64, content: Vec<u8>) {
        assert!(offset.is_multiple_of(BLOCK) && content.len() as u64 == BLOCK);
        self.writes += 1;
        self.found.take();
        if content.iter().all(|byte| *byte == 0) {
            self.blocks.remove(&offset);
        } else {
            self.blocks.insert(offset, content);
        }
    }

    /// Zeroes a range of whole blocks. Returns the file system that went with it, if one did.
    pub fn zero(&mut self, range: Range) -> Option<Tree> {
        let end = range.offset + range.bytes;
        self.writes += 1;
        self.found.take();
        self.blocks.retain(|at, _| *at < range.offset || *at >= end);
        if range.offset == 0 {
            self.files.take()
        } else {
            None
        }
    }

    /// First byte of a range that is not zero.
    #[must_use]
    pub fn find_nonzero(&self, range: Range) -> Option<u64> {
        let blocks = self.blocks.range(range.offset..range.offset + range.bytes);
        let mut bytes = blocks.flat_map(|(at, block)| (*at..).zip(block));
        bytes.find(|(_, byte)| **byte != 0).map(|(at, _)| at)
    }

    /// Makes an XFS whose superblock bears `uuid` and `label`.
    pub fn format(&mut self, uuid: [u8; 16], label: &str) {
        self.write_block(0, superblock(uuid, label));
        self.files = Some(Tree::default());
    }

    /// Gives its XFS another label.
    pub fn relabel(&mut self, label: &str) {
        self.found.take();
        if let Some(block) = self.blocks.get_mut(&0) {
            let padded = label.bytes().chain(std::iter::repeat(0));
            for (slot, byte) in block.iter_mut().skip(108).take(12).zip(padded) {
                *slot = byte;
            }
        }
    }

    /// Makes it hold somebody's XFS, as far as anybody can see from outside.
    pub fn make_foreign(&mut self, seed: u64) {
        let mut uuid = [0x5a; 16];
        if let Some(slot) = uuid.first_chunk_mut::<8>() {
            *slot = seed.to_le_bytes();
        }
        self.write_block(0, superblock(uuid, "photos"));
        self.files = None;
        self.writes = 0;
    }

    /// What the signature table finds on it.
    #[must_use]
    pub fn found(&self) -> &[signature::Found] {
        self.found.get_or_init(|| {
            let blocks = self.blocks.iter();
            let areas: Vec<Area<'_>> = blocks
                .map(|(offset, bytes)| Area {
                    offset: *offset,
                    bytes,
                })
                .collect();
            signature::scan(self.bytes, &areas)
        })
    }
}

/// The first block of an XFS.
fn superblock(uuid: [u8; 16], label: &str) -> Vec<u8> {
    let mut block = Vec::with_capacity(4096);
    block.extend_from_slice(b"XFSB");
    block.resize(32, 0);
    block.extend_from_slice(&uuid);
    block.resize(100, 0);
    block.extend_from_slice(&4_u16.to_be_bytes()); // version 4: a superblock without a checksum
    block.resize(108, 0);
    block.extend(label.bytes().take(12));
    block.resize(4096, 0);
    block
}
