//! What `run` is asked, and the workload and the limits that come of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bench::units::{parse_bytes, parse_duration};
use bench::{Limits, Pattern, SteadyState, Workload};
use block::Geometry;
use block::extents::Extent;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args};

use super::{Engine, Format, Model};

pub(super) const AFTER_HELP: &str = "\
Reading needs no more than the right to read. Writing destroys what is there: on a block device it needs
--fingerprint with the word that identifies the device and what it holds now (asked to write without it,
ringpv-bench shows both and writes nothing), on a regular file --write-file. A device in use is never written to.

A job file says what would be options here, in fio's words. What it says and cannot be had is refused with its line;
--write-file or --fingerprint are given here all the same.

Exit codes: 0 measured, 1 refused, 2 wrong usage, 3 failed (errors, no answer, cancelled, wrong blocks).

Examples:
  ringpv-bench run /dev/nvme1n1
  ringpv-bench run /dev/nvme1n1 --rw read --bs 1m --iodepth 8 --runtime 10s --json
  ringpv-bench run scratch.img --rw randrw --rwmixread 70 --write-file --ops 100000
  ringpv-bench run scratch.img --rw randwrite --write-file --verify --io_size 1g
  ringpv-bench run nightly.fio --output-format json+
  ringpv-bench run --engine null --ops 10000000";

/// What to run, on what, for how long.
#[derive(Args, Debug)]
pub(crate) struct Run {
    /// A block device or regular file, or a job file of fio (its name ends in .fio); none for the engines null and sim
    pub(crate) target: Option<PathBuf>,
    /// A job file of fio, whatever its name
    #[arg(long, value_name = "FILE", conflicts_with = "target")]
    pub(crate) job: Option<PathBuf>,
    /// Pattern: read, write, rw, randread, randwrite, randrw; nop goes to the kernel and back, without the device
    #[arg(long, default_value = "randread", visible_alias = "readwrite")]
    pub(crate) rw: Pattern,
    /// Bytes per operation: 512, 4k, 1m
    #[arg(long, default_value = "4k", alias = "blocksize", value_parser = parse_bytes)]
    pub(crate) bs: u64,
    /// Operations in flight
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) iodepth: u32,
    /// Share of reads in percent, for rw and randrw
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub(crate) rwmixread: u32,
    /// Ends after this time: 3s, 500ms, 2m; a bare number is seconds. 10s where nothing else ends the run
    #[arg(long, value_parser = parse_duration)]
    pub(crate) runtime: Option<Duration>,
    /// Ends after so many operations
    #[arg(long, aliases = ["number_ios", "number-ios"])]
    pub(crate) ops: Option<u64>,
    /// Ends after so many bytes
    #[arg(long, alias = "io_size", value_parser = parse_bytes)]
    pub(crate) io_size: Option<u64>,
    /// At most so many bytes a second
    #[arg(long, value_parser = parse_bytes)]
    pub(crate) rate: Option<u64>,
    /// At most so many operations a second
    #[arg(long, alias = "rate_iops", conflicts_with = "rate")]
    pub(crate) rate_iops: Option<u64>,
    /// Not measured at the beginning
    #[arg(long, default_value = "0", aliases = ["ramp_time", "ramp-time"], value_parser = parse_duration)]
    pub(crate) warm_up: Duration,
    /// Ends when settled: iops:2%, iops_slope:0.3%, bw…, lat…
    #[arg(long, aliases = ["steadystate", "ss"])]
    pub(crate) steady_state: Option<SteadyState>,
    /// Seconds over which it must have settled
    #[arg(long, default_value = "10s", aliases = ["steadystate_duration", "ss_dur"], value_parser = parse_duration)]
    pub(crate) steady_state_duration: Duration,
    /// Seconds at the beginning that are not looked at for it
    #[arg(long, default_value = "0", aliases = ["steadystate_ramp_time", "ss_ramp"], value_parser = parse_duration)]
    pub(crate) ss_ramp: Duration,
    /// Reads back all that was written and checks it: each block has a header, a pattern and a crc32c
    #[arg(long)]
    pub(crate) verify: bool,
    /// Begins here
    #[arg(long, default_value = "0", value_parser = parse_bytes)]
    pub(crate) offset: u64,
    /// Stays within so many bytes from there; the size of the device that null and sim simulate
    #[arg(long, value_parser = parse_bytes, default_value_if("engine", "null", "1g"), default_value_if("engine", "sim", "1g"))]
    pub(crate) size: Option<u64>,
    /// Seed of the offsets and of what is written
    #[arg(long, default_value_t = 0)]
    pub(crate) randseed: u64,
    /// How the device is touched
    #[arg(long, default_value = "auto", alias = "ioengine")]
    pub(crate) engine: Engine,
    /// Asks the device over and over whether it is done instead of waiting for its interrupt, where it has queues for
    /// that; for reading by io_uring
    #[arg(long, alias = "hipri")]
    pub(crate) iopoll: bool,
    /// Sends an NVMe drive its own read commands, past the kernel's block layer, where /dev/ng… stands beside the
    /// device; for reading by io_uring, alone or with --iopoll. Nobody may format the drive meanwhile
    #[arg(long)]
    pub(crate) passthrough: bool,
    /// What sim simulates
    #[arg(long, default_value = "nvme")]
    pub(crate) sim_model: Model,
    /// What is printed: normal is text, json is fio's JSON, json+ has every latency counted in it
    #[arg(long, alias = "output_format", default_value = "normal", value_enum)]
    pub(crate) output_format: Format,
    /// The same as --output-format json
    #[arg(long, conflicts_with = "output_format")]
    pub(crate) json: bool,
    /// The device's fingerprint: yes, overwrite this one
    #[arg(long, conflicts_with = "write_file")]
    pub(crate) fingerprint: Option<String>,
    /// Yes, overwrite this regular file
    #[arg(long)]
    pub(crate) write_file: bool,
}

/// Options that go with a job file; all others are the job's own.
const WITH_A_JOB_FILE: [&str; 6] = [
    "target",
    "job",
    "output_format",
    "json",
    "fingerprint",
    "write_file",
];

/// The options given on this command line that would have to be in the job file.
pub(crate) fn beside_a_job_file(run: &ArgMatches) -> Vec<String> {
    let given = |id: &&clap::Id| {
        run.value_source(id.as_str()) == Some(ValueSource::CommandLine)
            && !WITH_A_JOB_FILE.contains(&id.as_str())
            // The group that clap makes of the struct.
            && id.as_str() != "Run"
    };
    let name = |id: &clap::Id| format!("--{}", id.as_str().replace('_', "-"));
    run.ids().filter(given).map(name).collect()
}

/// What was given on this command line and would be without effect, and what it goes with.
pub(crate) fn without_effect(given: &ArgMatches, run: &Run) -> Option<&'static str> {
    let mixed = matches!(run.rw, Pattern::Rw | Pattern::RandRw);
    let steady = run.steady_state.is_some();
    let needs = [
        (
            "sim_model",
            run.engine == Engine::Sim,
            "--sim-model goes with --engine sim",
        ),
        (
            "rwmixread",
            mixed,
            "--rwmixread goes with a mixed pattern: --rw rw or randrw",
        ),
        ("ss_ramp", steady, "--ss-ramp goes with --steady-state"),
        (
            "steady_state_duration",
            steady,
            "--steady-state-duration goes with --steady-state",
        ),
    ];
    needs.into_iter().find_map(|(id, has, words)| {
        let is_given = given.value_source(id) == Some(ValueSource::CommandLine);
        (is_given && !has).then_some(words)
    })
}

/// Where nothing else ends a run.
const RUNTIME: Duration = Duration::from_secs(10);

impl Run {
    /// The job file, if there is one.
    pub(crate) fn job_file(&self) -> Option<&Path> {
        let named = |path: &&Path| path.extension().is_some_and(|end| end == "fio");
        let target = self.target.as_deref().filter(named);
        self.job.as_deref().or(target)
    }

    /// What is printed.
    pub(crate) const fn format(&self) -> Format {
        if self.json {
            Format::Json
        } else {
            self.output_format
        }
    }

    /// The workload on a device of this geometry.
    pub(crate) fn workload(&self, geometry: Geometry) -> Result<Workload, String> {
        let block_bytes = u32::try_from(self.bs)
            .ok()
            .filter(|bytes| (1..=BLOCK_BYTES_MAX).contains(bytes))
            .ok_or_else(|| format!("--bs {}: between 1 byte and 64 MiB", self.bs))?;
        let mut workload = Workload::new(self.rw, block_bytes, self.iodepth);
        workload.read_percent = self.rwmixread;
        workload.seed = self.randseed;
        if self.offset > 0 || self.size.is_some() {
            let rest = geometry
                .size_bytes
                .checked_sub(self.offset)
                .ok_or_else(|| {
                    format!(
                        "--offset {} is beyond the end at {}",
                        self.offset, geometry.size_bytes
                    )
                })?;
            workload.extents = vec![Extent {
                offset: self.offset,
                bytes: self.size.map_or(rest, |size| size.min(rest)),
            }];
        }
        Ok(workload)
    }

    /// When it ends.
    pub(crate) fn limits(&self) -> Result<Limits, String> {
        let endless = self.runtime.is_none() && self.ops.is_none() && self.io_size.is_none();
        let rate_iops = match (self.rate_iops, self.rate) {
            (None, None) => None,
            (Some(rate), _) => Some(rate),
            (None, Some(rate)) => Some(rate / self.bs.max(1)),
        };
        if rate_iops == Some(0) {
            return Err("a rate below one operation a second".into());
        }
        if self.runtime == Some(Duration::ZERO) || self.ops == Some(0) || self.io_size == Some(0) {
            return Err("a limit of nothing leaves nothing to measure".into());
        }
        Ok(Limits {
            duration: self.runtime.or(endless.then_some(RUNTIME)),
            operations: self.ops,
            bytes: self.io_size,
            warm_up: self.warm_up,
            rate_iops,
            steady_state: self.steady_state.map(|steady| SteadyState {
                window: self.steady_state_duration,
                ramp: self.ss_ramp,
                ..steady
            }),
            answer_within: Limits::ANSWER_WITHIN,
        })
    }
}

/// The largest block.
const BLOCK_BYTES_MAX: u32 = 64 << 20;

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::{Cli, Command};
    use super::*;

    #[test]
    fn what_belongs_into_a_job_file() {
        let beside = |args: &[&str]| {
            let args = [&["ringpv-bench", "run"], args].concat();
            let matches = <Cli as clap::CommandFactory>::command()
                .try_get_matches_from(args)
                .unwrap();
            beside_a_job_file(matches.subcommand_matches("run").unwrap())
        };
        assert!(beside(&["a.fio", "--json", "--write-file"]).is_empty());
        assert!(
            beside(&[
                "--job",
                "a",
                "--output-format",
                "json+",
                "--fingerprint",
                "f"
            ])
            .is_empty()
        );
        assert_eq!(
            beside(&["a.fio", "--bs", "4k", "--ss_dur", "3"]),
            ["--bs", "--steady-state-duration"]
        );
        assert_eq!(beside(&["a.fio", "--verify"]), ["--verify"]);
        let file = |args: &[&str]| run(args).unwrap().job_file().map(Path::to_owned);
        assert_eq!(file(&["a.fio"]), Some("a.fio".into()));
        assert_eq!(file(&["--job", "a"]), Some("a".into()));
        assert_eq!(file(&["/dev/a"]), None);
        assert!(run(&["/dev/a", "--job", "a"]).is_err());
        assert!(run(&["/dev/a", "--json", "--output-format", "json"]).is_err());
    }

    fn run(args: &[&str]) -> Result<Run, clap::Error> {
        let args = [&["ringpv-bench", "run"], args].concat();
        Cli::try_parse_from(args).map(|cli| match cli.command {
            Command::Run(run) => *run,
            Command::Probe(_) | Command::Erase(_) | Command::Compare(_) => panic!("not run"),
        })
    }

    #[test]
    fn usage() {
        for good in [
            &["/dev/x"][..],
            &["/dev/x", "--size", "1g", "--rate_iops", "5"],
            &["--engine", "null"],
            &["--engine", "sim", "--sim-model", "disk"],
            &[
                "/dev/x",
                "--ss",
                "iops:2%",
                "--ss_dur",
                "5s",
                "--ramp_time",
                "2",
            ],
        ] {
            run(good).unwrap_or_else(|error| panic!("{good:?}: {error}"));
        }
        for bad in [
            &["/dev/x", "--rw", "trim"][..],
            &["/dev/x", "--iodepth", "0"],
            &["/dev/x", "--iodepth", "1025"],
            &["/dev/x", "--rwmixread", "101"],
            &["/dev/x", "--fingerprint", "a", "--write-file"],
            &["/dev/x", "--rate", "1m", "--rate-iops", "5"],
        ] {
            assert!(run(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn limits_and_workloads() {
        let geometry = Geometry {
            size_bytes: 1 << 20,
            sector_bytes: 512,
        };
        let plain = run(&["/dev/x"]).unwrap();
        assert_eq!(plain.limits().unwrap().duration, Some(RUNTIME));
        assert_eq!(plain.workload(geometry).unwrap().extents, []);
        let ops = run(&["/dev/x", "--ops", "5", "--rate", "8k"]).unwrap();
        let limits = ops.limits().unwrap();
        assert_eq!(
            (limits.duration, limits.operations, limits.rate_iops),
            (None, Some(5), Some(2))
        );
        let part = run(&["/dev/x", "--offset", "512k", "--size", "1g"]).unwrap();
        let extents = part.workload(geometry).unwrap().extents;
        assert_eq!(
            extents,
            [Extent {
                offset: 1 << 19,
                bytes: 1 << 19
            }]
        );
        for bad in [
            &["/dev/x", "--runtime", "0"][..],
            &["/dev/x", "--ops", "0"],
            &["/dev/x", "--rate", "1k"],
        ] {
            assert!(run(bad).unwrap().limits().is_err(), "{bad:?}");
        }
        for bad in [
            &["/dev/x", "--bs", "0"][..],
            &["/dev/x", "--bs", "1g"],
            &["/dev/x", "--offset", "1g"],
        ] {
            assert!(run(bad).unwrap().workload(geometry).is_err(), "{bad:?}");
        }
    }
}
