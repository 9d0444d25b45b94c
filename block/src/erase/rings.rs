//! The rings that erasing takes, tried before anything is written: what is refused later gives way to threads, unasked.

use std::io;

use super::Limiter;
use crate::backend::WhyThreads;
use crate::bulk::reader;
use crate::error::errno_of;
use crate::uring::{RingFlags, zeroes};

/// Why so many devices cannot be erased by rings at once; `None` where they can.
#[must_use]
pub fn refused(flags: RingFlags, devices: usize) -> Option<WhyThreads> {
    let tried: io::Result<Vec<_>> = (0..devices).map(|_| rings(flags)).collect();
    let error = tried.err()?;
    Some(WhyThreads::refused("making a ring", errno_of(&error)))
}

/// Of one device: what writes zeroes, and what reads back.
fn rings(flags: RingFlags) -> io::Result<impl Sized> {
    Ok((zeroes::ring(flags)?, reader::ring(&Limiter::unlimited())?))
}
