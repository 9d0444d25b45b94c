//! What `compare` is asked.

use std::path::PathBuf;
use std::time::Duration;

use bench::units::parse_duration;
use clap::Args;

pub(crate) const COMPARE_HELP: &str = "\
Without devices it makes its own loop devices, in memory and on files of --dir, and leaves nothing behind (killed by
SIGKILL it leaves the devices: losetup --detach); that needs root. On devices that are given it reads; it writes to
them with a --fingerprint for each (see run). What erases wants all that are given to be of exactly one size, for both
sides erase all of a device: at least eight of 512 MiB (erase-8, erase-writes-8, neighbour-offloaded), two of 1 GiB
(neighbour) or one of 1 GiB (erase-writes-1); elsewhere these are left out, and the table and the JSON say so and why.
A contest takes about a minute. Leave the machine alone meanwhile: what else runs is measured, too.

Contests, for --only: randread-1, randread-32, randread-128, passthrough-32, nop, write-8, write-32, health-check,
probe-256, probe-slow, erase-8, erase-writes-1, erase-writes-8, neighbour, neighbour-offloaded.

A goal is met by the median of all rounds; short is what misses it by the median and by the better quartile; close is
what misses it by the median alone: more rounds may tell.
With --check nothing counts as met that was not judged: it fails as well where no row could be judged, and where a row of
a contest that --only names could not, because its peer is missing or the contest was left out.

Exit codes: 0 compared, 1 something is short or was not judged (--check), 2 wrong usage, 3 failed or cancelled.";

/// What to compare.
#[derive(Args, Debug)]
pub(crate) struct Compare {
    /// Block devices to compare on
    pub(crate) devices: Vec<PathBuf>,
    /// Only this contest (their names are below); may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) only: Vec<String>,
    /// Rounds, each in random order; with --check at least 7
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Length of each timed run
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    pub(crate) runtime: Duration,
    /// Processor on which both sides run
    #[arg(long, default_value_t = 0)]
    pub(crate) processor: usize,
    /// Where the files go that are not in memory
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Reads and writes devices of its own that stand on files of --dir, past the page cache; else those are in memory
    #[arg(long, conflicts_with = "devices")]
    pub(crate) on_disk: bool,
    /// fio's own least program, built from its source
    #[arg(long, value_name = "FILE")]
    pub(crate) t_io_uring: Option<PathBuf>,
    /// The fingerprint of each device, in order: yes, overwrite these
    #[arg(long)]
    pub(crate) fingerprint: Vec<String>,
    /// JSON instead of a table, with what machine and which versions of the peers it was
    #[arg(long)]
    pub(crate) json: bool,
    /// Exit 1 when something is short, nothing was judged, or a row of what --only names was not
    #[arg(long)]
    pub(crate) check: bool,
}
