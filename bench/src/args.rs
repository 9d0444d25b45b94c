//! The command line, in fio's words where the meaning is fio's, and what it asks for, checked once. A file for each verb.

use std::path::PathBuf;
use std::time::Duration;

use bench::units::parse_duration;
use block::Choice;
use block::sim::SimModel;
use clap::{Args, Parser, Subcommand, ValueEnum};

mod compare;
mod erase;
mod run;

pub(crate) use compare::{COMPARE_HELP, Compare};
pub(crate) use erase::{Erase, EraseHow, EraseVerify};
pub(crate) use run::{Run, beside_a_job_file, without_effect};

/// Measures how fast a file or block device answers.
#[derive(Debug, Parser)]
#[command(name = "ringpv-bench", version, about)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs one workload and says what was measured.
    #[command(after_help = run::AFTER_HELP)]
    Run(Box<Run>),
    /// Says what devices hold: all are read at once, and each is told of as soon as it is known
    #[command(after_help = PROBE_HELP)]
    Probe(Probe),
    /// Zeroes block devices as the agent does, all at once, and reads back what was zeroed
    #[command(after_help = erase::ERASE_HELP)]
    Erase(Erase),
    /// Runs beside fio, blkid and others on the same devices, and says who is ahead
    #[command(after_help = COMPARE_HELP)]
    Compare(Compare),
}

const PROBE_HELP: &str = "\
Exit codes: 0 all were read, 2 wrong usage, 3 some device could not be opened or read, or did not answer in time.";

/// Which devices.
#[derive(Args, Debug)]
pub(crate) struct Probe {
    /// Block devices or files
    #[arg(required = true)]
    pub(crate) devices: Vec<PathBuf>,
    /// One that takes longer is told of as unresponsive
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub(crate) deadline: Duration,
    /// auto, uring or threads
    #[arg(long, default_value = "auto")]
    pub(crate) engine: RealEngine,
    /// A line of JSON for each
    #[arg(long)]
    pub(crate) json: bool,
}

/// What is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Text
    Normal,
    /// fio's JSON
    Json,
    /// The same with bins
    #[value(name = "json+")]
    JsonPlus,
}

/// Engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// io_uring where it works, else threads
    Auto,
    /// io_uring or nothing
    Uring,
    /// pread and pwrite on threads
    Threads,
    /// Completes at once: what the loop itself costs
    Null,
    /// A simulated drive in virtual time
    Sim,
}

/// Engines that there are for a device: none that only pretends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum RealEngine {
    /// io_uring where it works, else threads
    #[default]
    Auto,
    /// io_uring or nothing
    Uring,
    /// pread and pwrite on threads
    Threads,
}

impl From<RealEngine> for Choice {
    fn from(engine: RealEngine) -> Self {
        match engine {
            RealEngine::Auto => Self::Auto,
            RealEngine::Uring => Self::Uring,
            RealEngine::Threads => Self::Threads,
        }
    }
}

impl Engine {
    /// The choice of a real engine, if it is one.
    pub(crate) const fn real(self) -> Option<Choice> {
        match self {
            Self::Auto => Some(Choice::Auto),
            Self::Uring => Some(Choice::Uring),
            Self::Threads => Some(Choice::Threads),
            Self::Null | Self::Sim => None,
        }
    }
}

/// Drives that sim knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Model {
    /// An NVMe drive
    Nvme,
    /// A SATA SSD
    Ssd,
    /// A disk that turns
    Disk,
}

impl Model {
    /// Its figures.
    pub(crate) const fn figures(self) -> SimModel {
        match self {
            Self::Nvme => SimModel::NVME,
            Self::Ssd => SimModel::SSD,
            Self::Disk => SimModel::DISK,
        }
    }
}
