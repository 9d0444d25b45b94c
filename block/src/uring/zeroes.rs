//! Writing zeroes at full speed: one ring, one piece of registered memory for every write of every drive, so nothing is
//! pinned or copied from cold memory anew. A ring of its own a call costs microseconds beside a piece that takes
//! milliseconds, and belongs to the thread that writes (kernel-notes/02).

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::time::Duration;

use nix::errno::Errno;

use super::{RingFlags, restrict};
use crate::buffer::ZEROES_BYTES;
use crate::erase::{Limiter, Range};
use crate::error::errno_of;
use crate::sys::ZeroRing;

/// Writes in flight, and writes queued.
pub(crate) const DEPTH: usize = 8;
const DEPTH_U32: u32 = 8;
/// Before a ring that cannot be entered now is entered again.
const BREATH: Duration = Duration::from_millis(1);

/// Why a write of zeroes failed, and which.
type Failed = (Range, io::Error);

/// What was in the way.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No ring was to be had: nothing was written.
    Ring(io::Error),
    /// A write failed.
    Write(Range, io::Error),
}

/// Writes zeroes over `range` at the pace of `limiter`. Without a flush.
pub(crate) fn write(
    file: &File,
    range: Range,
    flags: RingFlags,
    limiter: &Limiter,
) -> Result<(), Failure> {
    let ring = ring(flags).map_err(Failure::Ring)?;
    written(file, range, ring, limiter).map_err(|(part, error)| Failure::Write(part, error))
}

/// A ring that takes writes alone, enabled on this thread.
pub(crate) fn ring(flags: RingFlags) -> io::Result<ZeroRing> {
    let mut ring = ZeroRing::new(flags.build(DEPTH_U32)?)?;
    restrict(ring.ring(), true)?;
    ring.ring().submitter().register_enable_rings()?;
    Ok(ring)
}

fn written(file: &File, range: Range, ring: ZeroRing, limiter: &Limiter) -> Result<(), Failed> {
    let transfer = limiter.transfer_bytes(ZEROES_BYTES as u64);
    let mut writes = Writes {
        file,
        ring,
        next: range.offset,
        end: range.end(),
        transfer,
        in_flight: [None; DEPTH],
    };
    while writes.fill(limiter)? {
        writes.reap()?;
    }
    Ok(())
}

struct Writes<'a> {
    file: &'a File,
    ring: ZeroRing,
    next: u64,
    end: u64,
    transfer: u64,
    /// What is written now, by token.
    in_flight: [Option<Range>; DEPTH],
}

impl Writes<'_> {
    /// Queues as much as there is room for. Whether anything is in flight.
    fn fill(&mut self, limiter: &Limiter) -> Result<bool, Failed> {
        while self.next < self.end {
            let Some(free) = self.in_flight.iter().position(Option::is_none) else {
                break;
            };
            let part = Range {
                offset: self.next,
                bytes: (self.end - self.next).min(self.transfer),
            };
            let wait = limiter.take(part.bytes);
            if !wait.is_zero() {
                // What was queued does not wait along; where that fails now, the next entering does it.
                let _later = self.ring.ring().submit().is_err();
                std::thread::sleep(wait);
            }
            self.push(free, part)?;
            self.next += part.bytes;
        }
        Ok(self.in_flight.iter().any(Option::is_some))
    }

    fn push(&mut self, slot: usize, part: Range) -> Result<(), Failed> {
        let bytes = u32::try_from(part.bytes).unwrap_or(0);
        let queued = self
            .ring
            .push(self.file.as_fd(), part.offset, bytes, slot as u64);
        match self.in_flight.get_mut(slot) {
            Some(place) if queued => *place = Some(part),
            Some(_) | None => return Err((part, Errno::EBUSY.into())),
        }
        Ok(())
    }

    /// Hands over what is queued, waits for an answer and takes all there are.
    fn reap(&mut self) -> Result<(), Failed> {
        self.enter();
        while let Some((slot, result)) = self.answer() {
            let Some(part) = self.in_flight.get_mut(slot).and_then(Option::take) else {
                continue;
            };
            match u64::try_from(result) {
                Ok(done) if done == part.bytes => {}
                Ok(done) if done > 0 && done < part.bytes => {
                    let rest = Range {
                        offset: part.offset + done,
                        bytes: part.bytes - done,
                    };
                    self.push(slot, rest)?;
                }
                Ok(_) => return Err((part, io::ErrorKind::WriteZero.into())),
                Err(_) => return Err((part, Errno::from_raw(result.saturating_neg()).into())),
            }
        }
        Ok(())
    }

    /// Takes one answer that is there: its token, and what the kernel says.
    fn answer(&mut self) -> Option<(usize, i32)> {
        let entry = self.ring.ring().completion().next()?;
        let slot = usize::try_from(entry.user_data()).unwrap_or(usize::MAX);
        Some((slot, entry.result()))
    }

    /// Waits for one answer, for as long as that takes: a write that is given up may yet land, on what somebody wrote
    /// meanwhile. Whoever waits for this thread has a time limit; the device stays held until the last write has ended.
    fn enter(&mut self) {
        let entered = self.ring.ring().submit_and_wait(1);
        if entered.is_err_and(|error| errno_of(&error) != Errno::EINTR) {
            // No memory for a request, or answers to be taken first: both pass.
            std::thread::sleep(BREATH);
        }
    }
}

impl Drop for Writes<'_> {
    /// Nothing is left in flight: what is written after this comes after these zeroes.
    fn drop(&mut self) {
        while self.in_flight.iter().any(Option::is_some) {
            self.enter();
            while let Some((slot, _)) = self.answer() {
                if let Some(place) = self.in_flight.get_mut(slot) {
                    *place = None;
                }
            }
        }
    }
}
