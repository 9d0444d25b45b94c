//! `ringpv-bench compare`: RingPV beside the tools that an expert would use instead, in the same run, on the same devices.
//!
//! ```text
//!   contest: one job on one ground ── sides: ours, and peers ──► rounds, each in random order, on one processor
//!                                                                  │ figures of each side
//!   rows: ours against one peer by one measure ◄───────────────────┘ ratio within the round; median, goal, met or short
//! ```
//! A single figure of a noisy machine says nothing; a ratio within a round says little, the median of the ratios over
//! many rounds says who is ahead. A peer that is not on this machine is named in its rows.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use block::random::Random;
use block::{ReadOnly, Target};
use serde_json::{Value, json};

use crate::args::Compare;
use crate::{Usage, permit};
use figures::{Figures, Goal, Measure, Ratios};
use ground::{Fill, Loop, Under};

mod erasing;
mod figures;
mod ground;
mod probing;
mod process;
mod transfers;

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

    /// The same, but it writes to devices. Each was permitted by its own word at the beginning, and holds since what this
    /// run writes: before each round it is made sure that it is still that device, and that nobody has begun to use it.
    fn writing_to(self, devices: &[Device]) -> Self {
        let Ok(mut run) = self.run else {
            return self;
        };
        let devices = devices.to_vec();
        Self::new(self.name, move || {
            devices.iter().try_for_each(Device::refuse_another)?;
            run()
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
    /// Devices that were given, with the words that allow writing.
    given: Vec<Device>,
    /// What must live as long as the contest.
    kept: std::cell::RefCell<Vec<Box<dyn std::any::Any>>>,
}

/// A device that may be written to.
#[derive(Clone, Debug)]
struct Device {
    path: PathBuf,
    /// What it is; empty where nobody permitted to write to it.
    identity: String,
    size_bytes: u64,
    /// A file of random bytes as long as the device, for those that are written over between two rounds.
    pattern: PathBuf,
}

impl Device {
    /// One of our own.
    fn made(made: &Loop, size_bytes: u64) -> anyhow::Result<Self> {
        Ok(Self {
            identity: permit::identity_of(&made.path)?,
            path: made.path.clone(),
            size_bytes,
            pattern: PathBuf::new(),
        })
    }

    /// One that was given; it may be written to, if its word was given too.
    fn given(path: &Path, word: Option<&str>) -> anyhow::Result<Self> {
        let target = Target::<ReadOnly>::open(path)?;
        let identity = match word {
            Some(_) => {
                permit::writable(path, false, word)?;
                permit::identity_of(path)?
            }
            None => String::new(),
        };
        Ok(Self {
            path: path.to_path_buf(),
            identity,
            size_bytes: target.geometry().size_bytes,
            pattern: PathBuf::new(),
        })
    }

    fn refuse_another(&self) -> anyhow::Result<()> {
        let now = permit::identity_of(&self.path)?;
        anyhow::ensure!(
            now == self.identity,
            "{} is another device than at the beginning: nothing more is written",
            self.path.display()
        );
        permit::refuse_in_use(&self.path)
    }
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

    fn own_device(&self, bytes: u64, fill: Fill) -> anyhow::Result<Device> {
        let made = ground::make(Under::Memory, bytes, fill, |_| Ok(()))?;
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
        self.to_erase(count, bytes, Under::Memory)
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
];

/// A row with what came of it.
struct Line {
    name: String,
    what: String,
    peer: &'static str,
    measure: Measure,
    goal: Goal,
    result: Result<Shown, String>,
}

/// Medians of both sides, and the ratios.
struct Shown {
    ours: f64,
    peers: f64,
    ratios: Ratios,
}

/// Holds the contests that were asked for.
pub(crate) fn compare(args: &Compare, cancel: &AtomicBool) -> anyhow::Result<ExitCode> {
    let chosen: Vec<_> = CONTESTS
        .iter()
        .filter(|(name, _)| args.only.is_empty() || args.only.iter().any(|only| only == name))
        .collect();
    if let Some(unknown) = args
        .only
        .iter()
        .find(|only| CONTESTS.iter().all(|(name, _)| name != only))
    {
        let known: Vec<&str> = CONTESTS.iter().map(|(name, _)| *name).collect();
        return Err(Usage(format!("--only {unknown}: not one of {}", known.join(", "))).into());
    }
    let mut lines = Vec::new();
    let mut failed = false;
    for (name, make) in chosen {
        let lab = args.lab()?;
        say(&format!("{name} ..."));
        match make(&lab).and_then(|contest| hold(contest, args.rounds, cancel)) {
            Ok(held) => lines.extend(held),
            Err(error) => match error.downcast::<Skipped>() {
                Ok(skipped) => say(&format!("{name}: left out: {skipped}")),
                // The others are held all the same.
                Err(error) => {
                    failed = true;
                    say(&format!("{name} cannot be compared here: {error:#}"));
                }
            },
        }
        if cancel.load(Ordering::Relaxed) {
            break;
        }
    }
    let text = if args.json {
        format!("{:#}\n", as_json(&lines, args.rounds))
    } else {
        as_text(&lines, args.rounds)
    };
    let _gone = std::io::stdout().write_all(text.as_bytes()).is_err();
    let short = lines
        .iter()
        .filter_map(|line| line.result.as_ref().ok().map(|shown| (line, shown)))
        .any(|(line, shown)| shown.ratios.against(line.goal) == figures::Outcome::Short);
    Ok(if failed || cancel.load(Ordering::Relaxed) {
        ExitCode::from(crate::FAILED)
    } else if args.check && short {
        ExitCode::from(crate::REFUSED)
    } else {
        ExitCode::SUCCESS
    })
}

/// What takes minutes says where it is.
fn say(text: &str) {
    let _gone = writeln!(std::io::stderr(), "{text}").is_err();
}

impl Compare {
    fn lab(&self) -> anyhow::Result<Lab> {
        if !self.fingerprint.is_empty() && self.fingerprint.len() != self.devices.len() {
            return Err(Usage(
                "give one --fingerprint for each device, in the same order, or none".into(),
            )
            .into());
        }
        let mut words = self.fingerprint.iter().map(String::as_str);
        let given = self.devices.iter();
        let given: Vec<Device> = given
            .map(|path| Device::given(path, words.next()))
            .collect::<anyhow::Result<_>>()?;
        let path = self.t_io_uring.clone();
        if let Some(missing) = path.as_ref().filter(|path| !path.is_file()) {
            return Err(Usage(format!("--t-io-uring {}: no such file", missing.display())).into());
        }
        Ok(Lab {
            own: std::env::current_exe().context("where is this program?")?,
            t_io_uring: path,
            processor: self.processor,
            runtime: self.runtime,
            folder: self.dir.clone().unwrap_or_else(std::env::temp_dir),
            given,
            kept: std::cell::RefCell::default(),
        })
    }
}

/// Holds one contest.
fn hold(mut contest: Contest, rounds: u32, cancel: &AtomicBool) -> anyhow::Result<Vec<Line>> {
    let mut shown: Vec<Vec<Option<Figures>>> = Vec::new();
    let mut random = Random::new(u64::from(rounds) ^ 0x9e37);
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

fn as_text(lines: &[Line], rounds: u32) -> String {
    let mut table = vec![
        [
            "what",
            "ours",
            "peer",
            "peer's",
            "ratio",
            "min–max",
            "goal",
            "",
        ]
        .map(str::to_owned),
    ];
    let mut notes = Vec::new();
    for line in lines {
        let mut cells = [
            line.name.clone(),
            String::new(),
            line.peer.to_owned(),
            String::new(),
            String::new(),
            String::new(),
            line.goal.to_string(),
            String::new(),
        ];
        match &line.result {
            Ok(shown) => {
                let ratios = &shown.ratios;
                cells[1] = line.measure.text(shown.ours);
                cells[3] = line.measure.text(shown.peers);
                cells[4] = format!("{:.2}", ratios.median());
                cells[5] = format!("{:.2}–{:.2}", ratios.quantile(0.0), ratios.quantile(1.0));
                cells[7] = ratios.against(line.goal).as_str().to_owned();
            }
            Err(why) => cells[1] = why.clone(),
        }
        table.push(cells);
        if !notes.contains(&line.what) {
            notes.push(line.what.clone());
        }
    }
    let width = |column: usize| {
        let cells = table.iter().skip(usize::from(column == 1));
        let of = |cells: &[String; 8]| cells.get(column).map_or(0, |cell| cell.chars().count());
        cells
            .map(of)
            .filter(|width| *width < 24 || column != 1)
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..8).map(width).collect();
    let mut text = String::new();
    for cells in &table {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text += padded.join("  ").trim_end();
        text += "\n";
    }
    text += &format!(
        "\nMedians of {rounds} rounds; a ratio is ours over the peer's, of times the peer's over ours.\n"
    );
    text
}

fn as_json(lines: &[Line], rounds: u32) -> Value {
    let rows: Vec<Value> = lines
        .iter()
        .map(|line| match &line.result {
            Ok(shown) => json!({
                "name": line.name,
                "what": line.what,
                "peer": line.peer,
                "ours": shown.ours,
                "peers": shown.peers,
                "ratio": {
                    "median": shown.ratios.median(),
                    "min": shown.ratios.quantile(0.0),
                    "max": shown.ratios.quantile(1.0),
                    "lowerQuartile": shown.ratios.quantile(0.25),
                    "upperQuartile": shown.ratios.quantile(0.75),
                },
                "goal": line.goal.to_string(),
                "outcome": shown.ratios.against(line.goal).as_str(),
            }),
            Err(why) => json!({
                "name": line.name,
                "what": line.what,
                "peer": line.peer,
                "goal": line.goal.to_string(),
                "outcome": "missing",
                "why": why,
            }),
        })
        .collect();
    json!({ "rounds": rounds, "rows": rows })
}
