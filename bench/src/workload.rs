//! What is done to a device, as data: a workload and a seed give one endless sequence of operations, always the same.
//! Pure: no device, no clock.

use std::fmt;
use std::str::FromStr;

use block::extents::Extent;
use block::random::Random;
use block::{Geometry, OpKind};
use thiserror::Error;

/// Access patterns, by fio's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// `read`: sequential reads.
    Read,
    /// `write`: sequential writes.
    Write,
    /// `rw`: sequential reads and writes, one cursor for both.
    Rw,
    /// `randread`: random reads.
    RandRead,
    /// `randwrite`: random writes.
    RandWrite,
    /// `randrw`: random reads and writes.
    RandRw,
    /// `nop`: to the kernel and back, without the device. Not fio's; what `t/io_uring -N1` measures.
    Nop,
}

impl Pattern {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Read,
        Self::Write,
        Self::Rw,
        Self::RandRead,
        Self::RandWrite,
        Self::RandRw,
        Self::Nop,
    ];

    /// fio's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Rw => "rw",
            Self::RandRead => "randread",
            Self::RandWrite => "randwrite",
            Self::RandRw => "randrw",
            Self::Nop => "nop",
        }
    }

    /// Whether it writes at all.
    #[must_use]
    pub const fn writes(self) -> bool {
        match self {
            Self::Read | Self::RandRead | Self::Nop => false,
            Self::Write | Self::Rw | Self::RandWrite | Self::RandRw => true,
        }
    }

    const fn is_random(self) -> bool {
        match self {
            Self::RandRead | Self::RandWrite | Self::RandRw => true,
            Self::Read | Self::Write | Self::Rw | Self::Nop => false,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|pattern| pattern.as_str() == text)
            .ok_or_else(|| {
                let known: Vec<&str> = Self::ALL.into_iter().map(Self::as_str).collect();
                format!("{text:?} is not one of {}", known.join(", "))
            })
    }
}

/// A workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// The pattern.
    pub pattern: Pattern,
    /// Bytes per operation.
    pub block_bytes: u32,
    /// Operations in flight.
    pub depth: u32,
    /// Share of reads in percent, for the mixed patterns.
    pub read_percent: u32,
    /// Seed of offsets and of what is written.
    pub seed: u64,
    /// Only these parts of the device are touched; none given: all of it. They do not overlap.
    pub extents: Vec<Extent>,
    /// What is written tells of itself, under this number of the run, and is read back at the end: see [`crate::verify`].
    pub verify: Option<u64>,
}

impl Workload {
    /// A pattern over the whole device: `block_bytes` an operation, `depth` in flight, half of a mix read.
    #[must_use]
    pub const fn new(pattern: Pattern, block_bytes: u32, depth: u32) -> Self {
        Self {
            pattern,
            block_bytes,
            depth,
            read_percent: 50,
            seed: 0,
            extents: Vec::new(),
            verify: None,
        }
    }

    /// The sequence of its operations on a device of this geometry.
    ///
    /// # Errors
    /// [`WorkloadError`].
    pub fn steps(&self, geometry: Geometry) -> Result<Steps, WorkloadError> {
        let sector_bytes = geometry.sector_bytes;
        let block_bytes = self.block_bytes;
        if block_bytes == 0 || !block_bytes.is_multiple_of(sector_bytes) {
            return Err(WorkloadError::BlockSize {
                block_bytes,
                sector_bytes,
            });
        }
        if self.verify.is_some() && !self.pattern.writes() {
            return Err(WorkloadError::NothingWritten {
                pattern: self.pattern,
            });
        }
        if self.read_percent > 100 {
            return Err(WorkloadError::ReadPercent {
                read_percent: self.read_percent,
            });
        }
        let whole = [Extent {
            offset: 0,
            bytes: geometry.size_bytes,
        }];
        let extents = if self.extents.is_empty() {
            &whole[..]
        } else {
            &self.extents
        };
        let mut runs = Vec::with_capacity(extents.len());
        let mut blocks = 0;
        for extent in extents {
            let (offset, count) = blocks_of(extent, block_bytes, &geometry)?;
            if count > 0 {
                runs.push(Run {
                    first: blocks,
                    offset,
                });
                blocks += count;
            }
        }
        if blocks == 0 {
            return Err(WorkloadError::NoRoom { block_bytes });
        }
        Ok(Steps {
            runs,
            blocks,
            block_bytes: u64::from(block_bytes),
            cursor: 0,
            pattern: self.pattern,
            read_percent: self.read_percent,
            random: Random::new(self.seed),
        })
    }
}

/// Where the first whole, aligned block of an extent begins, and how many there are.
fn blocks_of(
    extent: &Extent,
    block_bytes: u32,
    geometry: &Geometry,
) -> Result<(u64, u64), WorkloadError> {
    let end = extent
        .offset
        .checked_add(extent.bytes)
        .filter(|end| *end <= geometry.size_bytes)
        .ok_or(WorkloadError::Beyond {
            extent: *extent,
            size_bytes: geometry.size_bytes,
        })?;
    let offset = extent
        .offset
        .next_multiple_of(u64::from(geometry.sector_bytes));
    Ok((offset, end.saturating_sub(offset) / u64::from(block_bytes)))
}

/// A workload that this device cannot run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WorkloadError {
    /// Blocks that the device does not have.
    #[error("a block of {block_bytes} bytes is not a multiple of the sector of {sector_bytes}")]
    BlockSize {
        /// As asked.
        block_bytes: u32,
        /// The device's.
        sector_bytes: u32,
    },
    /// More than all.
    #[error("{read_percent} percent of reads")]
    ReadPercent {
        /// As asked.
        read_percent: u32,
    },
    /// An extent past the end.
    #[error("{} bytes at {} end beyond the device's {size_bytes}", extent.bytes, extent.offset)]
    Beyond {
        /// The extent.
        extent: Extent,
        /// The device's size.
        size_bytes: u64,
    },
    /// Nothing to verify.
    #[error("{pattern} does not write: only what was written in the same run can be verified")]
    NothingWritten {
        /// As asked.
        pattern: Pattern,
    },
    /// More blocks than can be kept in mind, or too few for the depth.
    #[error(
        "{blocks} blocks at a depth of {depth} cannot be verified: at least twice the depth and at most {} are, \
         for the last write of each is kept in 4 bytes of memory; choose a smaller part or larger blocks",
        crate::verify::BLOCKS_MAX
    )]
    Unverifiable {
        /// Blocks of the workload.
        blocks: u64,
        /// Operations in flight.
        depth: usize,
    },
    /// Nowhere a whole block.
    #[error("there is no room for a block of {block_bytes} bytes")]
    NoRoom {
        /// As asked.
        block_bytes: u32,
    },
}

/// One operation to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Read or write.
    pub kind: OpKind,
    /// Where, in bytes.
    pub offset: u64,
    /// The same as a number: below [`Steps::blocks`].
    pub block: u64,
}

const NOP: Step = Step {
    kind: OpKind::Nop,
    offset: 0,
    block: 0,
};

/// The operations of a workload, without end.
#[derive(Clone, Debug)]
pub struct Steps {
    /// In ascending order of `first`; the first begins with block 0.
    runs: Vec<Run>,
    blocks: u64,
    block_bytes: u64,
    cursor: u64,
    pattern: Pattern,
    read_percent: u32,
    random: Random,
}

/// Blocks that lie side by side.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Number of its first block.
    first: u64,
    /// Where that lies.
    offset: u64,
}

impl Steps {
    /// The blocks that it may touch.
    #[must_use]
    pub const fn blocks(&self) -> u64 {
        self.blocks
    }

    /// The next operation.
    #[inline]
    pub fn step(&mut self) -> Step {
        let kind = match self.pattern {
            Pattern::Nop => return NOP,
            Pattern::Read | Pattern::RandRead => OpKind::Read,
            Pattern::Write | Pattern::RandWrite => OpKind::Write,
            Pattern::Rw | Pattern::RandRw => {
                if self.random.below(100) < u64::from(self.read_percent) {
                    OpKind::Read
                } else {
                    OpKind::Write
                }
            }
        };
        let block = if self.pattern.is_random() {
            self.random.below(self.blocks)
        } else {
            let block = self.cursor;
            self.cursor = (self.cursor + 1) % self.blocks;
            block
        };
        Step {
            kind,
            offset: self.offset(block),
            block,
        }
    }

    /// Bytes of each block.
    pub(crate) const fn block_bytes(&self) -> u64 {
        self.block_bytes
    }

    /// Where a block lies, in bytes.
    pub(crate) fn offset(&self, block: u64) -> u64 {
        let after = self.runs.partition_point(|run| run.first <= block);
        match self.runs.get(after.wrapping_sub(1)) {
            Some(run) => run.offset + (block - run.first) * self.block_bytes,
            None => 0,
        }
    }
}

impl Iterator for Steps {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        Some(self.step())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GEOMETRY: Geometry = Geometry {
        size_bytes: 1 << 20,
        sector_bytes: 512,
    };

    fn offsets(workload: &Workload, count: usize) -> Vec<u64> {
        let steps = workload.steps(GEOMETRY).unwrap();
        steps.take(count).map(|step| step.offset).collect()
    }

    #[test]
    fn names_are_fios() {
        for pattern in Pattern::ALL {
            assert_eq!(pattern.as_str().parse(), Ok(pattern));
        }
        assert_eq!(
            "readrand".parse::<Pattern>(),
            Err(
                "\"readrand\" is not one of read, write, rw, randread, randwrite, randrw, nop"
                    .into()
            )
        );
    }

    #[test]
    fn sequential_over_extents_and_round() {
        let mut workload = Workload::new(Pattern::Read, 4096, 1);
        workload.extents = vec![
            Extent {
                offset: 8192,
                bytes: 8192 + 4095,
            },
            Extent {
                offset: 100,
                bytes: 4000,
            },
            Extent {
                offset: 65_000,
                bytes: 5000,
            },
        ];
        // The second has no whole block; the third begins at its first whole sector.
        assert_eq!(offsets(&workload, 4), [8192, 12_288, 65_024, 8192]);
    }

    #[test]
    fn what_cannot_run() {
        let error = |change: fn(&mut Workload)| {
            let mut workload = Workload::new(Pattern::RandRead, 4096, 1);
            change(&mut workload);
            workload.steps(GEOMETRY).unwrap_err().to_string()
        };
        assert_eq!(
            error(|w| w.block_bytes = 513),
            "a block of 513 bytes is not a multiple of the sector of 512"
        );
        assert_eq!(
            error(|w| w.block_bytes = 0),
            "a block of 0 bytes is not a multiple of the sector of 512"
        );
        assert_eq!(error(|w| w.read_percent = 101), "101 percent of reads");
        assert_eq!(
            error(|w| w.extents = vec![Extent {
                offset: 1 << 20,
                bytes: 1
            }]),
            "1 bytes at 1048576 end beyond the device's 1048576"
        );
        assert_eq!(
            error(|w| w.block_bytes = 2 << 20),
            "there is no room for a block of 2097152 bytes"
        );
    }

    #[test]
    fn a_seed_is_a_promise() {
        let mut workload = Workload::new(Pattern::RandRead, 4096, 1);
        assert_eq!(offsets(&workload, 100), offsets(&workload, 100));
        let before = offsets(&workload, 100);
        workload.seed = 1;
        assert_ne!(offsets(&workload, 100), before);
    }

    #[test]
    fn the_mix_is_as_asked() {
        let mut workload = Workload::new(Pattern::RandRw, 4096, 1);
        workload.read_percent = 70;
        let steps = workload.steps(GEOMETRY).unwrap();
        let reads = steps.take(10_000).filter(|step| step.kind == OpKind::Read);
        let reads = reads.count();
        assert!((6_800..7_200).contains(&reads), "{reads}");
    }

    proptest! {
        #[test]
        fn inside_the_extents_and_aligned(
            seed: u64,
            random: bool,
            block in 1u32..9,
            extents in prop::collection::vec((0..1u64 << 19, 1..1u64 << 19), 1..5),
        ) {
            let pattern = if random { Pattern::RandRead } else { Pattern::Read };
            let mut workload = Workload::new(pattern, block * 512, 1);
            workload.seed = seed;
            workload.extents = extents.iter().map(|(offset, bytes)| Extent { offset: *offset, bytes: *bytes }).collect();
            if let Ok(steps) = workload.steps(GEOMETRY) {
                for step in steps.take(200) {
                    prop_assert!(step.offset.is_multiple_of(512));
                    let end = step.offset + u64::from(block) * 512;
                    let inside = extents
                        .iter()
                        .any(|(offset, bytes)| step.offset >= *offset && end <= offset + bytes);
                    prop_assert!(inside, "{step:?}");
                }
            }
        }
    }
}
