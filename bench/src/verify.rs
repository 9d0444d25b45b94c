//! Whether what was written is there: each block tells of itself, and after the run all of them are read back.
//!
//! ```text
//!   0      8     16      24          28      32     36     40                     end of the block
//!   ├ magic ┼ run ┼ offset ┼ generation ┼ length ┼ crc32c ┼ zero ┼ pattern of the four ┤
//! ```
//!
//! A block is what one operation writes. Its generation counts the writes to its place in this run, from 1, so a block
//! whose last write was acknowledged and is not there holds an older generation, another run's block, or none. The number
//! of the run is drawn anew for each: what an earlier run left cannot pass for what this one wrote. A block
//! that is whole and belongs elsewhere was misdirected; one whose checksum does not fit is torn or corrupt, from its first wrong byte on.
//!
//! No two writes of one block are in flight at a time, for nobody could say which of them is the last; the workload skips to
//! its next step. A block whose last write failed may hold either content and is not checked, only counted.
//!
//! What it says of a device: that it gave back, after a flush and past the page cache, what it had taken. A device may answer from its
//! own cache; what a loss of power leaves is another question.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use block::device::transfer;
use block::random::Random;
use block::{Completion, Device, DeviceError, Op, OpKind, Wait};

use crate::run::RunError;
use crate::workload::{Step, Steps, WorkloadError};

const MAGIC: [u8; 8] = *b"ringpv/v";
const CRC_AT: usize = 32;
const HEADER_BYTES: usize = 40;

/// Blocks that can be kept in mind: 4 bytes each, 256 MiB in all.
pub const BLOCKS_MAX: u64 = 64 << 20;
/// Wrong blocks that are told one by one.
const TOLD_MAX: usize = 10;

/// What a block tells of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Number of the run.
    pub run: u64,
    /// Where it belongs, in bytes.
    pub offset: u64,
    /// Which write of this place it is, from 1.
    pub generation: u32,
    /// Its length in bytes.
    pub length: u32,
}

impl Stamp {
    fn header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        let fields = MAGIC
            .into_iter()
            .chain(self.run.to_le_bytes())
            .chain(self.offset.to_le_bytes())
            .chain(self.generation.to_le_bytes())
            .chain(self.length.to_le_bytes());
        for (byte, field) in header.iter_mut().zip(fields) {
            *byte = field;
        }
        header
    }

    fn pattern(&self) -> Random {
        let place = self.offset ^ (u64::from(self.generation) << 40) ^ u64::from(self.length);
        Random::new(self.run ^ Random::new(place).bits())
    }

    /// Makes `block` tell this. A block shorter than the header has no room for it all: nothing shorter than a sector is
    /// written.
    pub fn fill(&self, block: &mut [u8]) {
        let header = self.header();
        for (byte, field) in block.iter_mut().zip(header) {
            *byte = field;
        }
        let body = block.get_mut(HEADER_BYTES..).unwrap_or_default();
        self.pattern().fill(body);
        let crc = crc(block).to_le_bytes();
        let place = block.get_mut(CRC_AT..CRC_AT + 4).unwrap_or_default();
        for (byte, field) in place.iter_mut().zip(crc) {
            *byte = field;
        }
    }

    /// What a block tells, if it is one of ours.
    fn read(block: &[u8]) -> Option<Self> {
        let field = |at: usize| Some(u64::from_le_bytes(block.get(at..at + 8)?.try_into().ok()?));
        let both = field(24)?;
        block.starts_with(&MAGIC).then_some(Self {
            run: field(8)?,
            offset: field(16)?,
            generation: u32::try_from(both & u64::from(u32::MAX)).ok()?,
            length: u32::try_from(both >> 32).ok()?,
        })
    }

    /// Compares what was read with what was written last.
    ///
    /// # Errors
    /// [`Wrong`].
    pub fn check(&self, block: &[u8]) -> Result<(), Wrong> {
        let found = Self::read(block);
        let stored = block
            .get(CRC_AT..CRC_AT + 4)
            .and_then(|crc| crc.try_into().ok())
            .map(u32::from_le_bytes);
        let whole = stored == Some(crc(block));
        match found {
            None if block.iter().all(|byte| *byte == 0) => Err(Wrong::Zeros),
            None => Err(self.corrupt(block, None)),
            Some(found) if !whole => Err(self.corrupt(block, Some(found))),
            Some(found) if found.run != self.run => Err(Wrong::OtherRun),
            Some(found) if found.offset != self.offset => Err(Wrong::Misdirected {
                offset: found.offset,
            }),
            Some(found) if found != *self => Err(Wrong::Generation {
                expected: self.generation,
                found: found.generation,
            }),
            Some(_) => Ok(()),
        }
    }

    fn corrupt(&self, block: &[u8], told: Option<Self>) -> Wrong {
        let mut right = vec![0; block.len()];
        self.fill(&mut right);
        let from = right
            .iter()
            .zip(block)
            .position(|(right, read)| right != read);
        Wrong::Corrupt {
            from: from.unwrap_or(0),
            told: told.filter(|told| told.run == self.run),
        }
    }
}

/// Over a block without the place of the checksum itself.
fn crc(block: &[u8]) -> u32 {
    let before = block.get(..CRC_AT).unwrap_or_default();
    let after = block.get(CRC_AT + 4..).unwrap_or_default();
    crc32c::crc32c_append(crc32c::crc32c(before), after)
}

/// What is wrong with a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Nothing was ever written there, as it seems.
    Zeros,
    /// A whole block of an earlier run.
    OtherRun,
    /// A whole block of an earlier write to the same place.
    Generation {
        /// The last one written.
        expected: u32,
        /// The one that is there.
        found: u32,
    },
    /// A whole block of another place.
    Misdirected {
        /// That place, in bytes.
        offset: u64,
    },
    /// Its checksum does not fit, or it is no block of a run.
    Corrupt {
        /// First byte of the block that is not as it was written.
        from: usize,
        /// What its header tells, if it can be read and is of this run.
        told: Option<Stamp>,
    },
    /// It could not be read.
    Unreadable(String),
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zeros => f.write_str("only zeros are there: a lost write"),
            Self::OtherRun => f.write_str("a block of an earlier run is there: a lost write"),
            Self::Generation { expected, found } => write!(
                f,
                "generation {expected} was written last and generation {found} is there: a lost write"
            ),
            Self::Misdirected { offset } => write!(
                f,
                "the block that was written to {offset} is there: a misdirected write"
            ),
            Self::Corrupt { from, told: None } => {
                write!(f, "torn or corrupt from its byte {from} on")
            }
            Self::Corrupt {
                from,
                told: Some(told),
            } => write!(
                f,
                "torn or corrupt from its byte {from} on; its header tells of generation {} at {}",
                told.generation, told.offset
            ),
            Self::Unreadable(error) => f.write_str(error),
        }
    }
}

/// A wrong block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Where, in bytes.
    pub offset: u64,
    /// What.
    pub wrong: Wrong,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block at {}: {}", self.offset, self.wrong)
    }
}

/// What the reading back found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Blocks that were read back.
    pub blocks: u64,
    /// Those of them that are wrong.
    pub wrong: u64,
    /// The first of those, in the order of their completion; ten at most.
    pub first: Vec<Mismatch>,
    /// Blocks that were not read back, because their last write failed.
    pub unknown: u64,
}

impl Verified {
    fn count(&mut self, offset: u64, outcome: Result<(), Wrong>) {
        self.blocks += 1;
        if let Err(wrong) = outcome {
            self.wrong += 1;
            if self.first.len() < TOLD_MAX {
                self.first.push(Mismatch { offset, wrong });
            }
        }
    }
}

/// What was written, by block: the generation, and two marks.
#[derive(Clone, Debug)]
pub struct Written {
    run: u64,
    states: Vec<u32>,
    /// The block that each token writes.
    tokens: Vec<u64>,
}

/// A write of the block is in flight.
const BUSY: u32 = 1 << 31;
/// The last write of the block failed.
const UNKNOWN: u32 = 1 << 30;
const GENERATION: u32 = UNKNOWN - 1;

impl Written {
    /// Of nothing yet.
    ///
    /// # Errors
    /// [`WorkloadError::Unverifiable`]: too many blocks, or so few that the queue could not be filled without
    /// writing one twice at a time.
    pub fn new(run: u64, blocks: u64, depth: usize) -> Result<Self, WorkloadError> {
        let count = usize::try_from(blocks)
            .ok()
            .filter(|count| blocks <= BLOCKS_MAX && *count >= depth.saturating_mul(2))
            .ok_or(WorkloadError::Unverifiable { blocks, depth })?;
        Ok(Self {
            run,
            states: vec![0; count],
            tokens: vec![0; depth],
        })
    }

    fn state(&mut self, block: u64) -> Option<&mut u32> {
        self.states.get_mut(usize::try_from(block).ok()?)
    }

    /// Whether a write of this block is in flight.
    #[must_use]
    pub fn is_busy(&self, block: u64) -> bool {
        let state = usize::try_from(block)
            .ok()
            .and_then(|at| self.states.get(at));
        state.is_some_and(|state| state & BUSY != 0)
    }

    /// A write begins: `buffer` is made to tell of itself.
    pub fn begin(&mut self, token: u64, step: &Step, buffer: &mut [u8]) {
        let run = self.run;
        let Some(state) = self.state(step.block) else {
            return;
        };
        let generation = (*state & GENERATION) + 1;
        *state = generation | BUSY;
        let stamp = Stamp {
            run,
            offset: step.offset,
            generation,
            length: u32::try_from(buffer.len()).unwrap_or(u32::MAX),
        };
        stamp.fill(buffer);
        if let Some(place) = usize::try_from(token)
            .ok()
            .and_then(|at| self.tokens.get_mut(at))
        {
            *place = step.block;
        }
    }

    /// A write ended.
    pub fn end(&mut self, token: u64, succeeded: bool) {
        let block = usize::try_from(token)
            .ok()
            .and_then(|at| self.tokens.get(at).copied());
        if let Some(state) = block.and_then(|block| self.state(block)) {
            *state &= GENERATION;
            if !succeeded {
                *state |= UNKNOWN;
            }
        }
    }
}

/// Flushes, reads back every block that was written, and checks it. `None` when `cancel` was set before the end.
///
/// # Errors
/// [`RunError::Device`] and [`RunError::Refused`]: the flush failed, the engine failed, or the device did not answer within `answer_within`. A
/// block that cannot be read is a wrong one.
pub(crate) fn read_back(
    device: &mut dyn Device,
    (steps, written): (&Steps, &Written),
    depth: usize,
    answer_within: Duration,
    cancel: &AtomicBool,
) -> Result<Option<Verified>, RunError> {
    let patience_ns = u64::try_from(answer_within.as_nanos()).unwrap_or(u64::MAX);
    let until = |device: &dyn Device| Wait::Until(device.now_ns().saturating_add(patience_ns));
    let wait = until(device);
    transfer(device, Op::Flush, wait).map_err(RunError::Device)?;
    let length = steps.block_bytes();
    let buffer_bytes = usize::try_from(length).unwrap_or(usize::MAX);
    let mut idle: Vec<_> = (0..depth as u64)
        .map(|token| (token, device.buffer(buffer_bytes)))
        .collect();
    // What is read by each token.
    let mut reading = vec![0_u64; depth];
    let mut verified = Verified::default();
    let mut blocks = (0..).zip(&written.states).filter(|(_, state)| **state != 0);
    let mut done: Vec<Completion> = Vec::with_capacity(depth);
    loop {
        if cancel.load(Ordering::Relaxed) && device.in_flight() == 0 {
            return Ok(None);
        }
        while let (false, Some((token, buffer))) = (cancel.load(Ordering::Relaxed), idle.pop()) {
            let Some((block, state)) = blocks.next() else {
                idle.push((token, buffer));
                break;
            };
            if state & UNKNOWN != 0 {
                verified.unknown += 1;
                idle.push((token, buffer));
                continue;
            }
            if let Some(place) = place_of(&mut reading, token) {
                *place = block;
            }
            let offset = steps.offset(block);
            let read = Op::Read { offset, buffer };
            device.submit(token, read).map_err(RunError::Refused)?;
        }
        if device.in_flight() == 0 {
            return Ok(Some(verified));
        }
        let wait = until(device);
        device.complete(wait, &mut done).map_err(RunError::Device)?;
        if done.is_empty() {
            return Err(RunError::Device(DeviceError::Unanswered {
                device: device.name().into(),
                kind: OpKind::Read,
            }));
        }
        for completion in done.drain(..) {
            let Completion { token, op, result } = completion;
            let offset = op.offset();
            let Some(buffer) = op.into_buffer() else {
                continue;
            };
            let block = place_of(&mut reading, token).map_or(u64::MAX, |block| *block);
            let state = usize::try_from(block)
                .ok()
                .and_then(|at| written.states.get(at));
            let stamp = Stamp {
                run: written.run,
                offset,
                generation: state.copied().unwrap_or(0) & GENERATION,
                length: u32::try_from(length).unwrap_or(u32::MAX),
            };
            let outcome = match result {
                Ok(()) => stamp.check(&buffer),
                Err(error) => Err(Wrong::Unreadable(format!("{error}: {}", error.cause))),
            };
            verified.count(offset, outcome);
            idle.push((token, buffer));
        }
    }
}

fn place_of(places: &mut [u64], token: u64) -> Option<&mut u64> {
    places.get_mut(usize::try_from(token).ok()?)
}

#[cfg(test)]
mod tests;
