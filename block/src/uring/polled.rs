//! Polling: the kernel asks the device whether it is done, instead of waiting for its interrupt. It costs a processor and
//! saves the interrupt's way, where a device has queues for it (`nvme.poll_queues` on the kernel's command line).
//!
//! Only a reader polls: a ring that polls takes no flush. Whether the device can is not believed but tried, by one
//! read at the opening (kernel-notes/21); where it cannot, the ring goes by interrupts, and says why.

use std::fmt;

use nix::errno::Errno;

use super::{Ring, RingFlags};
use crate::buffer::Buffer;
use crate::device::{Device as _, Op, Options, Wait, transfer};
use crate::error::{DeviceError, OpenError};
use crate::target::{ReadOnly, Target};

/// The read that tries it has so long.
pub(super) const TRIAL_NS: u64 = 2_000_000_000;

/// How a ring learns that something has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Polling {
    /// By interrupt, as nobody asked for else.
    NotAsked,
    /// By asking the device.
    Polled,
    /// By interrupt, for polling does not work here.
    Refused(WhyInterrupts),
}

/// Why a ring that should poll does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WhyInterrupts {
    /// `queue/io_poll` is not 1.
    NoQueues,
    /// There is no such ring.
    Setup(Errno),
    /// The read that tried it failed.
    Read(Option<Errno>),
}

impl fmt::Display for Polling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAsked => Ok(()),
            Self::Polled => f.write_str(", polled"),
            Self::Refused(why) => write!(f, ", not polled: {why}"),
        }
    }
}

impl fmt::Display for WhyInterrupts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoQueues => f.write_str("the device has no queues for it (queue/io_poll)"),
            Self::Setup(errno) => write!(f, "io_uring_setup says {errno}"),
            Self::Read(Some(errno)) => write!(f, "the first read says {errno}"),
            Self::Read(None) => f.write_str("the first read was not answered"),
        }
    }
}

impl Ring<ReadOnly> {
    /// A ring over `target` that polls where the device can, and else goes by interrupts.
    ///
    /// # Errors
    /// As [`Ring::new`].
    pub fn polled(
        target: Target<ReadOnly>,
        options: Options,
        flags: RingFlags,
    ) -> Result<Self, OpenError> {
        let polls = target
            .attribute("queue/io_poll")
            .is_some_and(|it| it == "1");
        let why = if polls {
            match Self::tried(target.clone(), options, flags)? {
                Ok(ring) => return Ok(ring),
                Err(why) => why,
            }
        } else {
            WhyInterrupts::NoQueues
        };
        Self::built(target, options, flags, Polling::Refused(why))
    }

    /// A ring that polls, with which one sector was read.
    pub(super) fn tried(
        target: Target<ReadOnly>,
        options: Options,
        flags: RingFlags,
    ) -> Result<Result<Self, WhyInterrupts>, OpenError> {
        let mut ring = match Self::built(target, options, flags, Polling::Polled) {
            Ok(ring) => ring,
            Err(OpenError::Ring { errno, .. }) => return Ok(Err(WhyInterrupts::Setup(errno))),
            Err(error) => return Err(error),
        };
        // A buffer of its own: those that are registered are for the work.
        let buffer = Buffer::zeroed(ring.geometry().sector_bytes as usize);
        let wait = Wait::Until(ring.now_ns() + TRIAL_NS);
        Ok(
            match transfer(&mut ring, Op::Read { offset: 0, buffer }, wait) {
                Ok(_) => Ok(ring),
                Err(DeviceError::Io(error)) => Err(WhyInterrupts::Read(error.errno())),
                Err(_) => Err(WhyInterrupts::Read(None)),
            },
        )
    }
}
