//! What `erase` is asked.

use std::path::PathBuf;

use bench::units::parse_bytes;
use clap::{Args, ValueEnum};

use super::RealEngine;

pub(super) const ERASE_HELP: &str = "\
Destroys what is on the devices. Each needs its --fingerprint, in the same order: asked to erase without it,
ringpv-bench shows what the device is and holds, and writes nothing. A device in use, or one of RingPV's drives, is
never erased (kubectl ringpv remove --erase does that).

Zeroing is logical: what is read from now on is zeroes, while the medium may keep what was there. Only the drive's own
Sanitize or Format erases the medium.

Without --rate nothing is limited. With it what is written and read back keeps to it; what a device zeroes by itself
moves no bytes of ours, and is done in short calls with rests between them.

With a word a device is opened for writing, and let go of as it was where the word is not its own.

Exit codes: 0 erased, 1 refused, 2 wrong usage, 3 failed or cancelled.";

/// What to erase.
#[derive(Args, Debug)]
pub(crate) struct Erase {
    /// Block devices
    #[arg(required = true)]
    pub(crate) devices: Vec<PathBuf>,
    /// The fingerprint of each device, in order: yes, erase these
    #[arg(long)]
    pub(crate) fingerprint: Vec<String>,
    /// How: all of it where the device zeroes by itself, else its signature areas (auto); all of it
    #[arg(long, default_value = "auto")]
    pub(crate) method: EraseHow,
    /// What is read back
    #[arg(long, default_value = "sample")]
    pub(crate) verify: EraseVerify,
    /// Bytes a second that all devices together may take of writing and reading; without it there is no limit. With it others
    /// are spared: devices that zero by themselves do so one after the other, with rests
    #[arg(long, value_parser = parse_bytes)]
    pub(crate) rate: Option<u64>,
    /// auto, uring or threads
    #[arg(long, default_value = "auto")]
    pub(crate) engine: RealEngine,
}

/// Ways to erase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EraseHow {
    /// All of the device where it zeroes by itself, else every signature area
    Auto,
    /// Every signature area
    Signatures,
    /// All of the device, by writes where it does not zero by itself
    Zero,
    /// All of the device, by writes
    Writes,
}

/// How much is read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EraseVerify {
    /// Nothing
    None,
    /// Signature areas, and a block of each 64 MiB
    Sample,
    /// All that was erased
    Full,
}
