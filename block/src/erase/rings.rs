//! The rings that erasing takes, tried before anything is written: what is refused later gives way to threads, unasked.

use std::io;

use super::Limiter;
use crate::backend::WhyThreads;
use crate::bulk::reader;
use crate::error::errno_of;
use crate::uring::{RingFlags, zeroes};

/// Why so many devices cannot be erased, and with `reads` read back, by rings at once; `None` where they can.
#[must_use]
pub fn refused(
    flags: RingFlags,
    devices: usize,
    limiter: &Limiter,
    reads: bool,
) -> Option<WhyThreads> {
    let of_one = |_| {
        let reader = reads.then(|| reader::ring(limiter)).transpose()?;
        Ok((zeroes::ring(flags)?, reader))
    };
    let tried: io::Result<Vec<_>> = (0..devices).map(of_one).collect();
    let error = tried.err()?;
    Some(WhyThreads::refused("making a ring", errno_of(&error)))
}
