//! fio's job files: text → jobs. Pure; nothing is opened.
//!
//! What is taken is a subset, and the rule is that a job means here what it means to fio. An option whose meaning cannot be
//! kept is a mistake, told with its line; one that changes nothing here is taken and named as without effect
//! ([`JobFile::notes`]). The table of both is [`options`]. Where fio's default is not what is done here (`direct=0`, jobs side by
//! side) the file has to say the other: `direct=1`, `stonewall`.
//!
//! The text is fio's: `[name]` begins a job, `[global]` gives what the jobs below it inherit, `key=value` or `key` alone sets an
//! option, the last one counts, and `;` or `#` begins a comment anywhere.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use block::extents::Extent;
use block::{Choice, Geometry};

use crate::report::json::PERCENTILES;
use crate::run::Limits;
use crate::steady::SteadyState;
use crate::workload::{Pattern, Workload};
use options::{Draft, Taken};

pub mod options;

/// A job file.
#[derive(Clone, Debug, Default)]
pub struct JobFile {
    /// Options of `[global]` that have a value, by fio's own names, in order.
    pub global: Vec<(String, String)>,
    /// The jobs, to be run one after another.
    pub jobs: Vec<Job>,
    /// What was taken and changes nothing, as sentences.
    pub notes: Vec<String>,
}

/// How much of a device a job stays within.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// From its offset to the end.
    Rest,
    /// So many bytes.
    Bytes(u64),
    /// So many percent of the whole, not beyond the end.
    Percent(u64),
}

/// A job.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Its name.
    pub name: String,
    /// Its own options that have a value, by fio's own names, in order.
    pub options: Vec<(String, String)>,
    /// What it measures.
    pub filename: PathBuf,
    /// Through which engine.
    pub engine: Choice,
    /// Whether the device is asked for completions, where it can be.
    pub polled: bool,
    /// Whether an NVMe drive is sent its own commands, where it can be.
    pub passthrough: bool,
    /// Pattern, block, depth, mix and seed.
    pub workload: Workload,
    /// Whether what it wrote is read back and checked.
    pub verify: bool,
    /// Begins here, in bytes.
    pub offset: u64,
    /// Stays within so much from there.
    pub size: Amount,
    /// Moves so many bytes instead of `size`.
    pub io_size: Option<u64>,
    /// Goes on until its time is over, round and round.
    pub time_based: bool,
    /// Time, operations, warm-up, rate and steady state; the bytes follow from the device, see [`Job::limits`].
    pub limits: Limits,
    /// The percentiles to give.
    pub percentiles: Vec<f64>,
}

impl Job {
    /// The part of a device of this geometry that it stays within.
    ///
    /// # Errors
    /// A sentence: the device is smaller than the job says.
    pub fn extent(&self, geometry: Geometry) -> Result<Extent, String> {
        let all = geometry.size_bytes;
        let rest = all
            .checked_sub(self.offset)
            .filter(|rest| *rest > 0)
            .ok_or_else(|| {
                format!(
                    "job {}: offset={} is not below the {all} bytes of {}",
                    self.name,
                    self.offset,
                    self.filename.display()
                )
            })?;
        let bytes = match self.size {
            Amount::Rest => rest,
            Amount::Bytes(bytes) if bytes > rest => {
                return Err(format!(
                    "job {}: size={bytes}, and {} has {rest} bytes from offset {} on; fio would make the file longer, \
                     here it has to be as long before",
                    self.name,
                    self.filename.display(),
                    self.offset,
                ));
            }
            Amount::Bytes(bytes) => bytes,
            Amount::Percent(percent) => (all / 100 * percent + all % 100 * percent / 100).min(rest),
        };
        Ok(Extent {
            offset: self.offset,
            bytes,
        })
    }

    /// The workload on a device of this geometry.
    ///
    /// # Errors
    /// Those of [`Job::extent`].
    pub fn workload(&self, geometry: Geometry) -> Result<Workload, String> {
        Ok(Workload {
            extents: vec![self.extent(geometry)?],
            ..self.workload.clone()
        })
    }

    /// When it ends on a device of this geometry: as fio does, after `io_size` or, without that, `size` bytes, unless it is
    /// `time_based`; or before, when its time or its number of operations is over.
    ///
    /// # Errors
    /// Those of [`Job::extent`].
    pub fn limits(&self, geometry: Geometry) -> Result<Limits, String> {
        let block_bytes = u64::from(self.workload.block_bytes);
        let bytes = match (self.time_based, self.io_size) {
            (true, _) => None,
            (false, Some(bytes)) => Some(bytes),
            (false, None) => {
                let bytes = self.extent(geometry)?.bytes;
                // Whole blocks only, as the workload counts them.
                Some(Geometry::align_down(bytes, block_bytes.max(1)).max(block_bytes))
            }
        };
        Ok(Limits {
            bytes,
            ..self.limits.clone()
        })
    }
}

/// What is wrong with one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Number of the line, from 1.
    pub line: usize,
    /// What is wrong with it, and what would be right.
    pub words: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.words)
    }
}

/// One option as it stands in the file.
#[derive(Clone, Debug)]
struct Line {
    number: usize,
    key: String,
    value: Option<String>,
}

/// A section with all that it inherits.
#[derive(Clone, Debug)]
struct Section {
    name: String,
    line: usize,
    inherited: Vec<Line>,
    own: Vec<Line>,
}

/// Reads a job file.
///
/// # Errors
/// Every mistake in it, in order.
pub fn parse(text: &str) -> Result<JobFile, Vec<Mistake>> {
    let mut mistakes = Vec::new();
    let (global, sections) = sections(text, &mut mistakes);
    let mut file = JobFile {
        global: echo(&global),
        ..JobFile::default()
    };
    let mut taken = Taken::default();
    for section in &sections {
        match job(section, &mut taken) {
            Ok(job) => file.jobs.push(job),
            Err(found) => mistakes.extend(found),
        }
    }
    mistakes.extend(side_by_side(&sections));
    if sections.is_empty() && mistakes.is_empty() {
        mistakes.push(Mistake {
            line: 1,
            words: "there is no job: a job begins with [its name]".into(),
        });
    }
    mistakes.sort_by_key(|mistake| mistake.line);
    // An option of [global] is a mistake once, not once a job.
    mistakes.dedup();
    file.notes = taken.notes();
    if mistakes.is_empty() {
        Ok(file)
    } else {
        Err(mistakes)
    }
}

/// All options of `[global]`, and the jobs.
fn sections(text: &str, mistakes: &mut Vec<Mistake>) -> (Vec<Line>, Vec<Section>) {
    let mut global: Vec<Line> = Vec::new();
    let mut sections: Vec<Section> = Vec::new();
    let mut in_job = None;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split([';', '#']).next().unwrap_or_default().trim();
        let mut wrong = |words: &str| {
            mistakes.push(Mistake {
                line: number,
                words: words.into(),
            });
        };
        if line.is_empty() {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            match name.strip_suffix(']') {
                Some("global") => in_job = Some(false),
                Some(name) if !name.is_empty() => {
                    in_job = Some(true);
                    sections.push(Section {
                        name: name.into(),
                        line: number,
                        inherited: global.clone(),
                        own: Vec::new(),
                    });
                }
                Some(_) | None => wrong("a section is [global] or [name of a job]"),
            }
            continue;
        }
        let (key, value) = match line.split_once('=') {
            Some((key, value)) => (key.trim(), Some(value.trim().to_owned())),
            None => (line, None),
        };
        let option = Line {
            number,
            key: options::canonical(key).to_owned(),
            value,
        };
        match (in_job, sections.last_mut()) {
            (None, _) => wrong("an option stands below [global] or [name of a job]"),
            (Some(true), Some(section)) => section.own.push(option),
            (Some(_), _) => global.push(option),
        }
    }
    (global, sections)
}

/// fio runs jobs side by side that no `stonewall` keeps apart.
fn side_by_side(sections: &[Section]) -> Vec<Mistake> {
    let walled = |section: &Section| {
        let mut lines = section.inherited.iter().chain(&section.own);
        lines
            .rfind(|line| line.key == "stonewall")
            .is_some_and(|line| line.value.as_deref() != Some("0"))
    };
    let open = sections.iter().skip(1).filter(|section| !walled(section));
    open.map(|section| Mistake {
        line: section.line,
        words: format!(
            "[{}] has no stonewall: fio would run it side by side with the job before it, here jobs run one after another",
            section.name
        ),
    })
    .collect()
}

/// What fio echoes: options that have a value.
fn echo(lines: &[Line]) -> Vec<(String, String)> {
    lines
        .iter()
        .filter_map(|line| Some((line.key.clone(), line.value.clone()?)))
        .collect()
}

fn job(section: &Section, taken: &mut Taken) -> Result<Job, Vec<Mistake>> {
    let mut draft = Draft::new(&section.name);
    let mut mistakes = Vec::new();
    for line in section.inherited.iter().chain(&section.own) {
        if let Err(words) = draft.take(&line.key, line.value.as_deref(), taken) {
            mistakes.push(Mistake {
                line: line.number,
                words,
            });
        }
    }
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    finish(draft, section, taken).map_err(|words| {
        vec![Mistake {
            line: section.line,
            words: format!("[{}] {words}", section.name),
        }]
    })
}

/// What the options mean together.
fn finish(draft: Draft, section: &Section, taken: &mut Taken) -> Result<Job, String> {
    if let Some(words) = contradiction(&draft) {
        return Err(words.into());
    }
    let rate_iops = rate(&draft)?;
    let filename = draft
        .filename
        .ok_or("has no filename: here no file is made")?;
    let filename = match draft.directory {
        Some(directory) => directory.join(filename),
        None => filename,
    };
    let (engine, asynchronous) = draft.engine;
    if !asynchronous && draft.depth > 1 {
        taken.note(
            "iodepth",
            "a synchronous engine has a depth of 1, as in fio",
        );
    }
    let depth = if asynchronous { draft.depth } else { 1 };
    let workload = Workload {
        read_percent: draft.read_percent,
        seed: draft.seed,
        ..Workload::new(draft.pattern, draft.block_bytes, depth)
    };
    Ok(Job {
        name: draft.name,
        options: echo(&section.own),
        filename,
        engine,
        polled: draft.polled,
        passthrough: draft.passthrough,
        workload,
        verify: draft.verify,
        offset: draft.offset,
        size: draft.size,
        io_size: draft.io_size,
        time_based: draft.time_based,
        limits: Limits {
            duration: draft.duration,
            operations: draft.operations,
            warm_up: draft.warm_up,
            rate_iops,
            steady_state: draft.steady.map(|steady| SteadyState {
                window: draft.steady_duration,
                ramp: draft.steady_ramp,
                ..steady
            }),
            ..Limits::time(Duration::ZERO)
        },
        percentiles: draft.percentiles.unwrap_or_else(|| PERCENTILES.to_vec()),
    })
}

/// What does not go together, if anything.
fn contradiction(draft: &Draft) -> Option<&'static str> {
    // Commands to a drive never go through it.
    if !draft.direct && !draft.passthrough {
        Some("has no direct=1: fio would go through the page cache, here nothing does")
    } else if draft.time_based && draft.duration.is_none() {
        Some("has time_based and no runtime")
    } else if draft.time_based && (draft.io_size.is_some() || draft.operations.is_some()) {
        Some("has time_based, which in fio overrides io_size and number_ios")
    } else if draft.verify && !draft.pattern.writes() {
        Some("has verify and does not write: only what was written in the same run is verified")
    } else if draft.polled && draft.pattern.writes() {
        Some("has hipri and writes: only reads are polled")
    } else if draft.polled && !draft.engine.1 {
        Some("has hipri and an engine that does not poll: ioengine=io_uring")
    } else if draft.passthrough && draft.pattern.writes() {
        Some("has ioengine=io_uring_cmd and writes: only reads are sent to the drive so")
    } else if draft.steady.is_some() && draft.steady_duration.is_zero() {
        Some("has ss and no ss_dur: without it fio does not look for a steady state")
    } else {
        None
    }
}

/// The rate in operations a second.
fn rate(draft: &Draft) -> Result<Option<u64>, String> {
    let rate_iops = match (draft.rate, draft.rate_iops) {
        (None, None) => return Ok(None),
        _ if matches!(draft.pattern, Pattern::Rw | Pattern::RandRw) => {
            let words =
                "limits the rate of a mix: in fio each direction has the limit, here both together";
            return Err(words.into());
        }
        (Some(_), Some(_)) => return Err("has rate and rate_iops: one of them".into()),
        (None, Some(rate)) => rate,
        (Some(rate), None) => rate / u64::from(draft.block_bytes),
    };
    match rate_iops {
        0 => Err("has a rate below one operation a second".into()),
        rate => Ok(Some(rate)),
    }
}

#[cfg(test)]
mod tests;
