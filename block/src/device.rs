//! The door to a device: submit operations, complete them, read its clock.
//!
//! The contract of every engine:
//!
//! - [`Device::submit`] queues an operation and returns at once; nothing is promised to have reached the device before
//!   [`Device::complete`] is called, which hands over everything queued in one system call and reaps what has ended.
//! - Operations end in any order. Each ends exactly once, with its token, its operation and so its buffer.
//! - A transfer is whole or it failed: a short one is an error ([`IoCause::Short`]).
//! - At most [`Device::depth`] operations are in flight; one more is refused, and comes back with the refusal.

use std::time::Duration;

use crate::buffer::Buffer;
use crate::error::{DeviceError, IoCause, IoError, Refused};

/// What a device is asked to do.
#[derive(Debug)]
pub enum Op {
    /// Nothing: to the engine and back. Measures the way, not the device.
    Nop,
    /// Fill the buffer from the device.
    Read {
        /// Where, in bytes.
        offset: u64,
        /// As many bytes as this is long.
        buffer: Buffer,
    },
    /// Write the buffer to the device.
    Write {
        /// Where, in bytes.
        offset: u64,
        /// What.
        buffer: Buffer,
    },
    /// Make durable what was completed before.
    Flush,
}

/// The kinds of [`Op`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OpKind {
    /// [`Op::Nop`]
    Nop,
    /// [`Op::Read`]
    Read,
    /// [`Op::Write`]
    Write,
    /// [`Op::Flush`]
    Flush,
}

impl OpKind {
    /// As a noun, for messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nop => "nop",
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
        }
    }
}

impl Op {
    /// Its kind.
    #[inline]
    #[must_use]
    pub const fn kind(&self) -> OpKind {
        match self {
            Self::Nop => OpKind::Nop,
            Self::Read { .. } => OpKind::Read,
            Self::Write { .. } => OpKind::Write,
            Self::Flush => OpKind::Flush,
        }
    }

    /// Where it begins; 0 where it has no place.
    #[inline]
    #[must_use]
    pub const fn offset(&self) -> u64 {
        match self {
            Self::Read { offset, .. } | Self::Write { offset, .. } => *offset,
            Self::Nop | Self::Flush => 0,
        }
    }

    /// Bytes that it transfers.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Read { buffer, .. } | Self::Write { buffer, .. } => buffer.len(),
            Self::Nop | Self::Flush => 0,
        }
    }

    /// Whether it transfers nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its buffer, if it has one.
    #[inline]
    #[must_use]
    pub fn into_buffer(self) -> Option<Buffer> {
        match self {
            Self::Read { buffer, .. } | Self::Write { buffer, .. } => Some(buffer),
            Self::Nop | Self::Flush => None,
        }
    }
}

/// An operation that ended.
#[derive(Debug)]
pub struct Completion {
    /// As given to [`Device::submit`].
    pub token: u64,
    /// The operation, with its buffer.
    pub op: Op,
    /// How it ended. Boxed, so that the good case stays small.
    pub result: Result<(), Box<IoError>>,
}

/// The parts of a [`Completion`] that a loop needs: no more than fits into registers.
#[derive(Debug)]
pub struct Ended {
    /// When it was seen to have ended.
    pub now_ns: u64,
    /// As given to [`Device::submit`].
    pub token: u64,
    /// What it was.
    pub kind: OpKind,
    /// Its buffer, if it has one.
    pub buffer: Option<Buffer>,
    /// How it ended.
    pub result: Result<(), Box<IoError>>,
}

/// The measures of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Offsets and lengths are multiples of this; a power of two.
    pub sector_bytes: u32,
}

impl Geometry {
    /// Whether `len` bytes at `offset` can be transferred at all.
    ///
    /// # Errors
    /// [`IoCause::Misaligned`], [`IoCause::Beyond`].
    pub fn check(&self, offset: u64, len: usize) -> Result<(), IoCause> {
        let len = len as u64;
        if !(offset | len).is_multiple_of(u64::from(self.sector_bytes)) {
            return Err(IoCause::Misaligned {
                sector_bytes: self.sector_bytes,
            });
        }
        match offset.checked_add(len) {
            Some(end) if end <= self.size_bytes => Ok(()),
            Some(_) | None => Err(IoCause::Beyond {
                size_bytes: self.size_bytes,
            }),
        }
    }

    /// The last multiple of `unit` that is not above `value`.
    #[must_use]
    pub const fn align_down(value: u64, unit: u64) -> u64 {
        value - value % unit
    }
}

/// How long [`Device::complete`] waits for a first completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    No,
    /// Until the device's clock shows this, in nanoseconds.
    Until(u64),
    /// As long as it takes, while anything is in flight.
    Forever,
}

/// How a device is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Operations in flight at most, 1 to [`DEPTH_MAX`].
    pub depth: u32,
    /// Buffers of this length are prepared (and registered with the kernel where it lets us), one for each operation in flight.
    pub buffer_bytes: usize,
}

/// The largest depth of any engine.
pub const DEPTH_MAX: u32 = 1024;

impl Options {
    /// `depth` operations in flight, each of up to `buffer_bytes`.
    #[must_use]
    pub const fn new(depth: u32, buffer_bytes: usize) -> Self {
        Self {
            depth,
            buffer_bytes,
        }
    }
}

/// A device under one owner.
///
/// An engine over io_uring must stay on the thread that opened it (kernel-notes/02), so a `Device` is not `Send` in general: open it where it is used.
pub trait Device {
    /// What it is called in messages: a path, or `sim`, `null`.
    fn name(&self) -> &str;

    /// The engine: `uring`, `threads`, `null`, `sim`.
    fn engine(&self) -> &'static str;

    /// What the engine runs with, for people: ring flags, registered buffers.
    fn description(&self) -> String;

    /// Size and sector.
    fn geometry(&self) -> Geometry;

    /// Operations in flight at most.
    fn depth(&self) -> usize;

    /// Operations in flight now.
    fn in_flight(&self) -> usize;

    /// Nanoseconds of the device's own clock, from a beginning of its own.
    fn now_ns(&self) -> u64;

    /// Lets time pass until the clock shows `at_ns`.
    fn sleep_until(&self, at_ns: u64) {
        std::thread::sleep(Duration::from_nanos(at_ns.saturating_sub(self.now_ns())));
    }

    /// A zeroed or used buffer of `len` bytes; a registered one while there are any.
    fn buffer(&mut self, len: usize) -> Buffer;

    /// Queues `op`; its completion will carry `token`, which is below the depth and nobody else's until then.
    ///
    /// # Errors
    /// The operation cannot be done at all: misaligned, beyond the end, a write on a read-only device, queue full or
    /// token taken.
    fn submit(&mut self, token: u64, op: Op) -> Result<(), Refused>;

    /// Hands over what is queued and appends what has ended to `done`.
    ///
    /// # Errors
    /// The engine itself failed; single operations fail in their completions.
    fn complete(&mut self, wait: Wait, done: &mut Vec<Completion>) -> Result<(), DeviceError>;

    /// The same for those who want no list: `each` gets the parts of what has ended. All were seen to have ended at one time,
    /// which is the device's clock, read once, and returned.
    ///
    /// # Errors
    /// As [`Device::complete`].
    fn complete_each(&mut self, wait: Wait, mut each: impl FnMut(Ended)) -> Result<u64, DeviceError>
    where
        Self: Sized,
    {
        let mut done = Vec::with_capacity(self.in_flight());
        self.complete(wait, &mut done)?;
        let now_ns = self.now_ns();
        for Completion { token, op, result } in done {
            each(Ended {
                now_ns,
                token,
                kind: op.kind(),
                buffer: op.into_buffer(),
                result,
            });
        }
        Ok(now_ns)
    }
}

/// Submits one operation and waits for it, until `wait` ends. For those who need one block, not many: nothing else may be in flight.
///
/// # Errors
/// [`DeviceError::Io`] when it was refused or failed, [`DeviceError::Unanswered`] when `wait` ended first.
pub fn transfer(
    device: &mut dyn Device,
    op: Op,
    wait: Wait,
) -> Result<Option<Buffer>, DeviceError> {
    assert_eq!(device.in_flight(), 0, "one operation at a time");
    let kind = op.kind();
    device
        .submit(0, op)
        .map_err(|refused| DeviceError::Io(refused.error))?;
    let mut done = Vec::with_capacity(1);
    device.complete(wait, &mut done)?;
    match done.pop() {
        Some(completion) => {
            completion.result.map_err(DeviceError::Io)?;
            Ok(completion.op.into_buffer())
        }
        None => Err(DeviceError::Unanswered {
            device: device.name().into(),
            kind,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_transferred() {
        let geometry = Geometry {
            size_bytes: 1 << 20,
            sector_bytes: 512,
        };
        let check = |offset, len| geometry.check(offset, len);
        assert_eq!(check(0, 0), Ok(()));
        assert_eq!(check(0, 512), Ok(()));
        assert_eq!(check((1 << 20) - 512, 512), Ok(()));
        let misaligned = Err(IoCause::Misaligned { sector_bytes: 512 });
        assert_eq!(check(1, 512), misaligned);
        assert_eq!(check(512, 511), misaligned);
        let beyond = Err(IoCause::Beyond {
            size_bytes: 1 << 20,
        });
        assert_eq!(check(1 << 20, 512), beyond);
        assert_eq!(check(u64::MAX - 511, 1024), beyond);
    }

    #[test]
    fn alignment() {
        assert_eq!(Geometry::align_down(4097, 4096), 4096);
        assert_eq!(Geometry::align_down(4096, 4096), 4096);
        assert_eq!(Geometry::align_down(4095, 4096), 0);
    }
}
