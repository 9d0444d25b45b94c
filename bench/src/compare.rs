//! `ringpv-bench compare`: RingPV beside the tools that an expert would use instead, in the same run, on the same devices.
//!
//! ```text
//!   contest: one job on one ground ── sides: ours, and peers ──► rounds, each in random order, on one processor
//!                                                                  │ figures of each side
//!   rows: ours against one peer by one measure ◄───────────────────┘ ratio within the round; median, goal, met or short
//! ```
//! A single figure of a noisy machine says nothing; a ratio within a round says little, the median of the ratios over
//! many rounds says who is ahead. A peer that is not on this machine is named in its rows; a contest that is left out is a
//! row of its own, with why.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use block::random::Random;

use crate::Usage;
use crate::args::Compare;
use device::{Device, Holds};
use figures::{Figures, Goal, Measure, Ratios};
use ground::{Fill, Loop, Under};
use verdict::{Held, Line, ROUNDS_MIN, Shown};

mod device;
mod erasing;
mod figures;
mod ground;
mod host;
mod probing;
mod process;
mod table;
mod transfers;
mod verdict;

/// One job, done by several.
struct Contest {
    /// What is done.
    what: String,
    rows: Vec<Row>,
    /// Ours first.
    sides: Vec<Side>,
}

/// Ours against one peer.
struct Row {
    /// By which it is chosen.
    name: String,
    peer: &'static str,
    measure: Measure,
    goal: Goal,
}

/// One who does the job.
struct Side {
    name: &'static str,
    run: Result<Run, String>,
}

type Run = Box<dyn FnMut() -> anyhow::Result<Figures>>;

impl Side {
    fn new(name: &'static str, run: impl FnMut() -> anyhow::Result<Figures> + 'static) -> Self {
        Self {
            name,
            run: Ok(Box::new(run)),
        }
    }

    /// The same, but it writes to devices, which are held meanwhile: see [`Side::writing`].
    fn writing_to(self, devices: &[Device]) -> Self {
        match self.run {
            Ok(mut run) => Self::writing(self.name, devices, move |_| run()),
            Err(why) => Self {
                name: self.name,
                run: Err(why),
            },
        }
    }

    /// One who writes to devices. Each was permitted by its own word at the beginning, and holds since what this run wrote:
    /// before each round it is made sure that it is still that device, that it holds nothing else, and that nobody has begun
    /// to use it; after each, that it holds nothing but what such a round leaves. In between it is held, so that nobody begins
    /// to use it, until `run` lets go of it for a program that takes its own hold.
    fn writing(
        name: &'static str,
        devices: &[Device],
        mut run: impl FnMut(&mut Holds) -> anyhow::Result<Figures> + 'static,
    ) -> Self {
        let devices = devices.to_vec();
        Self::new(name, move || {
            let mut holds = Holds::take(&devices)?;
            let figures = run(&mut holds);
            // A round that fails leaves what is ours, too: nobody else is blamed for it later.
            let left = devices.iter().map(Device::remember).collect::<Vec<_>>();
            drop(holds);
            let figures = figures?;
            left.into_iter().collect::<anyhow::Result<()>>()?;
            Ok(figures)
        })
    }

    fn missing(name: &'static str, program: &str) -> Self {
        Self {
            name,
            run: Err(format!("{program} is not on this machine")),
        }
    }
}

/// What contests are held with.
struct Lab {
    /// This program.
    own: PathBuf,
    t_io_uring: Option<PathBuf>,
    processor: usize,
    /// Of each timed run.
    runtime: Duration,
    folder: PathBuf,
    /// Devices of our own that are read and written stand on files of that folder, not on files in memory.
    on_disk: bool,
    /// Devices that were given, with the words that allow writing.
    given: Vec<Device>,
    /// What must live as long as the contest.
    kept: std::cell::RefCell<Vec<Box<dyn std::any::Any>>>,
}

impl Lab {
    fn keep(&self, what: impl std::any::Any) {
        self.kept.borrow_mut().push(Box::new(what));
    }

    /// A device to read from: the first given, else one in memory, full of random bytes.
    fn filled(&self, bytes: u64) -> anyhow::Result<PathBuf> {
        match self.given.first() {
            Some(device) => Ok(device.path.clone()),
            None => Ok(self.own_device(bytes, Fill::Random)?.path),
        }
    }

    /// A device to write to.
    fn writable(&self, bytes: u64) -> anyhow::Result<Device> {
        match self.given.first() {
            Some(device) if device.identity.is_empty() => {
                anyhow::bail!(Skipped(format!(
                    "writes to {}: not without its --fingerprint",
                    device.path.display()
                )))
            }
            Some(device) => Ok(device.clone()),
            None => self.own_device(bytes, Fill::Random),
        }
    }

    fn under(&self) -> Under<'_> {
        if self.on_disk {
            Under::Disk(&self.folder)
        } else {
            Under::Memory
        }
    }

    fn own_device(&self, bytes: u64, fill: Fill) -> anyhow::Result<Device> {
        let made = ground::make(self.under(), bytes, fill, |_| Ok(()))?;
        let device = Device::made(&made, bytes)?;
        self.keep(made);
        Ok(device)
    }

    /// Many small loop devices on files of the folder.
    fn many(
        &self,
        count: usize,
        bytes: u64,
        prepare: impl Fn(usize, &Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<Vec<PathBuf>> {
        let mut made: Vec<Loop> = Vec::with_capacity(count);
        for index in 0..count {
            let under = Under::Disk(&self.folder);
            made.push(ground::make(under, bytes, Fill::Holes, |file| {
                prepare(index, file)
            })?);
        }
        let paths = made.iter().map(|made| made.path.clone()).collect();
        self.keep(made);
        Ok(paths)
    }

    /// Devices that zero by themselves, with a pattern to write over them.
    fn zeroing(&self, count: usize, bytes: u64) -> anyhow::Result<Vec<Device>> {
        self.to_erase(count, bytes, Under::Disk(&self.folder))
    }

    /// Devices that zeroes are written to, with a pattern to write over them.
    fn overwritten(&self, count: usize, bytes: u64) -> anyhow::Result<Vec<Device>> {
        self.to_erase(count, bytes, self.under())
    }

    fn to_erase(&self, count: usize, bytes: u64, under: Under<'_>) -> anyhow::Result<Vec<Device>> {
        if !self.given.is_empty() {
            anyhow::ensure!(
                self.given.len() >= count,
                Skipped(format!(
                    "{count} devices are needed, {} are given",
                    self.given.len()
                ))
            );
            anyhow::ensure!(
                self.given.iter().all(|device| !device.identity.is_empty()),
                Skipped("writes to devices: not without their --fingerprint".into())
            );
            // What both sides do has to be the same.
            anyhow::ensure!(
                self.given.iter().all(|device| device.size_bytes == bytes),
                Skipped(format!("devices of {bytes} bytes are needed"))
            );
        }
        let pattern = ground::pattern(bytes)?;
        let path = pattern.path().to_path_buf();
        self.keep(pattern);
        let mut devices: Vec<Device> = self.given.iter().take(count).cloned().collect();
        if devices.is_empty() {
            for _ in 0..count {
                let made = ground::make(under, bytes, Fill::Holes, |_| Ok(()))?;
                devices.push(Device::made(&made, bytes)?);
                self.keep(made);
            }
        }
        for device in &mut devices {
            device.pattern.clone_from(&path);
        }
        Ok(devices)
    }

    /// An empty file.
    fn scratch(&self) -> anyhow::Result<PathBuf> {
        let file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.as_file().set_len(1 << 20)?;
        let path = file.path().to_path_buf();
        self.keep(file);
        Ok(path)
    }
}

/// A contest that is not held here, and why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Skipped(String);

type Make = fn(&Lab) -> anyhow::Result<Contest>;

/// All contests, by the beginning of their rows' names.
const CONTESTS: &[(&str, Make)] = &[
    ("randread-1", transfers::single_reads),
    ("randread-32", |lab| transfers::random_reads(lab, 32)),
    ("randread-128", |lab| transfers::random_reads(lab, 128)),
    ("passthrough-32", |lab| transfers::passthrough(lab, 32)),
    ("nop", transfers::no_ops),
    ("write-8", |lab| transfers::writes(lab, 8)),
    ("write-32", |lab| transfers::writes(lab, 32)),
    ("health-check", transfers::health_check),
    ("probe-256", probing::all),
    ("probe-slow", probing::slow),
    ("erase-8", erasing::offloaded),
    ("erase-writes-1", |lab| erasing::written(lab, 1)),
    ("erase-writes-8", |lab| erasing::written(lab, 8)),
    ("neighbour", erasing::neighbour),
    ("neighbour-offloaded", erasing::neighbour_offloaded),
];

/// Holds the contests that were asked for.
pub(crate) fn compare(args: &Compare, cancel: &AtomicBool) -> anyhow::Result<ExitCode> {
    let chosen = args.contests()?;
    let given = args.given()?;
    // Short enough for every reader of JSON.
    let seed = crate::number() >> 32;
    let mut random = Random::new(seed);
    let mut held = Vec::new();
    let mut failed = false;
    for (contest, make) in chosen {
        let lab = args.lab(given.clone())?;
        say(&format!("{contest} ..."));
        match make(&lab).and_then(|contest| hold(contest, args.rounds, &mut random, cancel)) {
            Ok(lines) => held.push(Held {
                contest,
                lines: Ok(lines),
            }),
            Err(error) => match error.downcast::<Skipped>() {
                Ok(Skipped(why)) => {
                    say(&format!("{contest}: left out: {why}"));
                    held.push(Held {
                        contest,
                        lines: Err(why),
                    });
                }
                // The others are held all the same.
                Err(error) => {
                    failed = true;
                    let why = format!("it cannot be compared here: {error:#}");
                    say(&format!("{contest}: {why}"));
                    held.push(Held {
                        contest,
                        lines: Err(why),
                    });
                }
            },
        }
        if cancel.load(Ordering::Relaxed) {
            break;
        }
    }
    let text = if args.json {
        let told = table::as_json(&held, args.rounds, seed, &args.ground(), &host::facts());
        format!("{told:#}\n")
    } else {
        table::as_text(&held, args.rounds, &args.ground())
    };
    let _gone = std::io::stdout().write_all(text.as_bytes()).is_err();
    let ended = failed || cancel.load(Ordering::Relaxed);
    let (code, why) = verdict::code(&held, &args.only, args.check, ended);
    if let Some(why) = why {
        say(&format!("--check: {why}"));
    }
    Ok(ExitCode::from(code))
}

/// What takes minutes says where it is.
fn say(text: &str) {
    let _gone = writeln!(std::io::stderr(), "{text}").is_err();
}

impl Compare {
    /// The contests that were asked for, in their order.
    fn contests(&self) -> anyhow::Result<Vec<(&'static str, Make)>> {
        if self.check && self.rounds < ROUNDS_MIN {
            return Err(Usage(format!(
                "--check with --rounds {}: it judges by medians of at least {ROUNDS_MIN} rounds; fewer tell of the \
                 machine's noise",
                self.rounds
            ))
            .into());
        }
        if let Some(unknown) = self
            .only
            .iter()
            .find(|only| CONTESTS.iter().all(|(name, _)| name != only))
        {
            let known: Vec<&str> = CONTESTS.iter().map(|(name, _)| *name).collect();
            return Err(Usage(format!("--only {unknown}: not one of {}", known.join(", "))).into());
        }
        let all = CONTESTS.iter().copied();
        Ok(all
            .filter(|(name, _)| self.only.is_empty() || self.only.iter().any(|only| only == name))
            .collect())
    }

    /// The devices that were given, each permitted by its word: once, for what is written here is nobody's word.
    fn given(&self) -> anyhow::Result<Vec<Device>> {
        if !self.fingerprint.is_empty() && self.fingerprint.len() != self.devices.len() {
            return Err(Usage(
                "give one --fingerprint for each device, in the same order, or none".into(),
            )
            .into());
        }
        let mut words = self.fingerprint.iter().map(String::as_str);
        let given = self.devices.iter();
        given
            .map(|path| Device::given(path, words.next()))
            .collect()
    }

    /// What is read and written, in words.
    fn ground(&self) -> String {
        if !self.devices.is_empty() {
            return "the devices given".into();
        }
        let folder = self.folder().display().to_string();
        if self.on_disk {
            return format!("loop devices on files of {folder}");
        }
        format!(
            "loop devices on files in memory; what is probed, and what zeroes by itself, stood on files of {folder}"
        )
    }

    fn folder(&self) -> PathBuf {
        self.dir.clone().unwrap_or_else(std::env::temp_dir)
    }

    fn lab(&self, given: Vec<Device>) -> anyhow::Result<Lab> {
        let path = self.t_io_uring.clone();
        if let Some(missing) = path.as_ref().filter(|path| !path.is_file()) {
            return Err(Usage(format!("--t-io-uring {}: no such file", missing.display())).into());
        }
        let folder = self.folder();
        if self.on_disk && ground::is_in_memory(&folder)? {
            return Err(Usage(format!(
                "--on-disk: {} is in memory: name a folder on a disk with --dir",
                folder.display()
            ))
            .into());
        }
        Ok(Lab {
            own: std::env::current_exe().context("where is this program?")?,
            t_io_uring: path,
            processor: self.processor,
            runtime: self.runtime,
            folder,
            on_disk: self.on_disk,
            given,
            kept: std::cell::RefCell::default(),
        })
    }
}

/// Holds one contest.
fn hold(
    mut contest: Contest,
    rounds: u32,
    random: &mut Random,
    cancel: &AtomicBool,
) -> anyhow::Result<Vec<Line>> {
    let mut shown: Vec<Vec<Option<Figures>>> = Vec::new();
    // Nobody is measured for nothing.
    if contest.sides.first().is_some_and(|ours| ours.run.is_err()) {
        return Ok(lines(contest, &shown));
    }
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..contest.sides.len()).collect();
        for last in (1..order.len()).rev() {
            let other = usize::try_from(random.below(last as u64 + 1)).unwrap_or(0);
            order.swap(last, other);
        }
        let mut figures = vec![None; contest.sides.len()];
        for index in order {
            if cancel.load(Ordering::Relaxed) {
                return Ok(lines(contest, &shown));
            }
            let Some(side) = contest.sides.get_mut(index) else {
                continue;
            };
            if let Ok(run) = &mut side.run {
                let found = run().with_context(|| format!("{}: {}", contest.what, side.name))?;
                if let Some(place) = figures.get_mut(index) {
                    *place = Some(found);
                }
            }
        }
        shown.push(figures);
        say(&format!("  round {} of {rounds}", round + 1));
    }
    Ok(lines(contest, &shown))
}

fn lines(contest: Contest, shown: &[Vec<Option<Figures>>]) -> Vec<Line> {
    let Contest { what, rows, sides } = contest;
    let of = |row: &Row| -> Result<Shown, String> {
        let place = sides.iter().position(|side| side.name == row.peer);
        let place = place.ok_or_else(|| format!("there is no {}", row.peer))?;
        for side in [sides.first(), sides.get(place)].into_iter().flatten() {
            side.run.as_ref().map_err(Clone::clone)?;
        }
        let pairs: Vec<(f64, f64)> = shown
            .iter()
            .filter_map(|round| {
                let of = |index: usize| row.measure.of(round.get(index)?.as_ref()?);
                Some((of(0)?, of(place)?))
            })
            .collect();
        let median = |values: Vec<f64>| Ratios::new(values).map(|values| values.median());
        let ratios = pairs
            .iter()
            .map(|(ours, peer)| row.measure.ratio(*ours, *peer));
        let found = Ratios::new(ratios.collect()).and_then(|ratios| {
            Some(Shown {
                ours: median(pairs.iter().map(|pair| pair.0).collect())?,
                peers: median(pairs.iter().map(|pair| pair.1).collect())?,
                ratios,
            })
        });
        found.ok_or_else(|| "nothing was measured".to_owned())
    };
    rows.iter()
        .map(|row| Line {
            name: row.name.clone(),
            what: what.clone(),
            peer: row.peer,
            measure: row.measure,
            goal: row.goal,
            result: of(row),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_every_contest() {
        let (_, named) = crate::args::COMPARE_HELP
            .split_once("for --only: ")
            .and_then(|(before, after)| Some((before, after.split_once('.')?.0)))
            .unwrap();
        let named: Vec<&str> = named.split(',').map(str::trim).collect();
        let held: Vec<&str> = CONTESTS.iter().map(|(name, _)| *name).collect();
        assert_eq!(named, held);
    }
}
