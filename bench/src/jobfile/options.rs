//! The options of a job file: one table of what each means here. An option that is not in it is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use block::Choice;
use block::device::DEPTH_MAX;

use super::Amount;
use crate::steady::SteadyState;
use crate::units::{parse_bytes, parse_duration};
use crate::workload::Pattern;

/// The largest block, in bytes.
const BLOCK_BYTES_MAX: u64 = 64 << 20;
/// The longest list of percentiles, fio's own limit.
const PERCENTILES_MAX: usize = 20;

/// What an option means here.
enum Meaning {
    /// What it means to fio.
    Set(fn(&mut Draft, &str) -> Result<(), String>),
    /// Nothing, whatever its value, and why.
    Nothing(&'static str),
    /// One of these values is what is done anyway; the others cannot be had, and why.
    Only(&'static [&'static str], &'static str),
}

use Meaning::{Nothing, Only, Set};

const ALWAYS: &str = "it is always done";
const ONE_JOB: &str = "one job runs at a time";
const BATCHES: &str = "up to half the depth is submitted at a time, and one completion waited for";
const NO_FILES: &str = "no file is made or removed";
const NOT_CLAT: &str = "a latency is measured as a whole, lat_ns";
const OWN_RANDOM: &str = "offsets and contents are drawn by a generator of its own";
const NO_SYNC: &str = "nothing is synced while measuring";
const NO_WAIT: &str = "the loop never pauses";

/// An option: fio's name, other names, meaning.
type Row = (&'static str, &'static [&'static str], Meaning);

const OPTIONS: &[Row] = &[
    ("name", &[], Set(|d, v| put(&mut d.name, text(v)))),
    ("filename", &[], Set(filename)),
    (
        "directory",
        &[],
        Set(|d, v| put(&mut d.directory, text(v).map(|v| Some(v.into())))),
    ),
    ("rw", &["readwrite"], Set(pattern)),
    (
        "bs",
        &["blocksize"],
        Set(|d, v| put(&mut d.block_bytes, block_bytes(v))),
    ),
    (
        "iodepth",
        &[],
        Set(|d, v| put(&mut d.depth, number(v, 1, DEPTH_MAX.into()).map(small))),
    ),
    ("ioengine", &[], Set(engine)),
    (
        "rwmixread",
        &[],
        Set(|d, v| put(&mut d.read_percent, number(v, 0, 100).map(small))),
    ),
    (
        "rwmixwrite",
        &[],
        Set(|d, v| {
            put(
                &mut d.read_percent,
                number(v, 0, 100).map(|w| small(100 - w)),
            )
        }),
    ),
    ("size", &[], Set(|d, v| put(&mut d.size, amount(v)))),
    (
        "io_size",
        &["io_limit"],
        Set(|d, v| put(&mut d.io_size, some_bytes(v).map(Some))),
    ),
    ("offset", &[], Set(|d, v| put(&mut d.offset, bytes(v)))),
    (
        "number_ios",
        &[],
        Set(|d, v| put(&mut d.operations, number(v, 1, u64::MAX).map(Some))),
    ),
    (
        "runtime",
        &["timeout"],
        Set(|d, v| put(&mut d.duration, some_time(v).map(Some))),
    ),
    (
        "time_based",
        &[],
        Set(|d, v| put(&mut d.time_based, switch(v))),
    ),
    ("ramp_time", &[], Set(|d, v| put(&mut d.warm_up, time(v)))),
    (
        "rate",
        &[],
        Set(|d, v| put(&mut d.rate, some_bytes(v).map(Some))),
    ),
    (
        "rate_iops",
        &[],
        Set(|d, v| put(&mut d.rate_iops, number(v, 1, u64::MAX).map(Some))),
    ),
    (
        "randseed",
        &[],
        Set(|d, v| put(&mut d.seed, number(v, 0, u64::MAX))),
    ),
    (
        "steadystate",
        &["ss"],
        Set(|d, v| put(&mut d.steady, v.parse().map(Some))),
    ),
    (
        "steadystate_duration",
        &["ss_dur"],
        Set(|d, v| put(&mut d.steady_duration, time(v))),
    ),
    (
        "steadystate_ramp_time",
        &["ss_ramp"],
        Set(|d, v| put(&mut d.steady_ramp, time(v))),
    ),
    (
        "percentile_list",
        &[],
        Set(|d, v| put(&mut d.percentiles, percentiles(v).map(Some))),
    ),
    ("verify", &[], Set(verify)),
    ("direct", &[], Set(|d, v| direct(d, switch(v)?))),
    ("buffered", &[], Set(|d, v| direct(d, !switch(v)?))),
    // Read where jobs are told apart.
    ("stonewall", &["wait_for_previous"], Set(|_, _| Ok(()))),
    ("fixedbufs", &[], Nothing(ALWAYS)),
    ("registerfiles", &[], Nothing(ALWAYS)),
    ("nonvectored", &[], Nothing(ALWAYS)),
    ("norandommap", &[], Nothing(ALWAYS)),
    ("overwrite", &[], Nothing(ALWAYS)),
    ("lat_percentiles", &[], Nothing(ALWAYS)),
    ("clat_percentiles", &[], Nothing(NOT_CLAT)),
    ("slat_percentiles", &[], Nothing(NOT_CLAT)),
    ("disable_clat", &[], Nothing(NOT_CLAT)),
    ("disable_slat", &[], Nothing(NOT_CLAT)),
    ("group_reporting", &[], Nothing(ONE_JOB)),
    ("new_group", &[], Nothing(ONE_JOB)),
    ("thread", &[], Nothing(ONE_JOB)),
    ("exitall", &[], Nothing(ONE_JOB)),
    (
        "invalidate",
        &[],
        Nothing("nothing goes through the page cache"),
    ),
    ("fallocate", &[], Nothing(NO_FILES)),
    ("iodepth_batch", &["iodepth_batch_submit"], Nothing(BATCHES)),
    (
        "iodepth_batch_complete",
        &["iodepth_batch_complete_min"],
        Nothing(BATCHES),
    ),
    ("iodepth_batch_complete_max", &[], Nothing(BATCHES)),
    ("iodepth_low", &[], Nothing(BATCHES)),
    ("randrepeat", &[], Nothing(OWN_RANDOM)),
    ("allrandrepeat", &[], Nothing(OWN_RANDOM)),
    ("random_generator", &[], Nothing(OWN_RANDOM)),
    ("clocksource", &[], Nothing("a device has its clock")),
    ("description", &[], Nothing("it is for people")),
    (
        "disk_util",
        &[],
        Nothing("the use of the disk is not printed"),
    ),
    (
        "verify_fatal",
        &[],
        Nothing("all blocks are read back, and the first wrong ones told"),
    ),
    (
        "do_verify",
        &[],
        Only(
            &["1"],
            "what is written with verify is read back in the same run",
        ),
    ),
    ("unlink", &[], Only(&["0"], NO_FILES)),
    (
        "continue_on_error",
        &[],
        Only(
            &["io", "all"],
            "a job goes on after an error, up to 100 of them",
        ),
    ),
    ("numjobs", &[], Only(&["1"], ONE_JOB)),
    ("loops", &[], Only(&["1"], "use io_size or time_based")),
    (
        "nrfiles",
        &[],
        Only(&["1"], "a job measures one device or file"),
    ),
    (
        "random_distribution",
        &[],
        Only(&["random"], "random offsets are uniform"),
    ),
    (
        "refill_buffers",
        &[],
        Only(&["0"], "a buffer is filled once with random bytes"),
    ),
    ("cmd_type", &[], Set(|_, v| command_type(v))),
    ("hipri", &[], Set(|d, v| put(&mut d.polled, switch(v)))),
    (
        "sqthread_poll",
        &[],
        Only(&["0"], "no kernel thread submits"),
    ),
    ("gtod_reduce", &[], Only(&["0"], "each latency is measured")),
    ("fsync", &[], Only(&["0"], NO_SYNC)),
    ("fdatasync", &[], Only(&["0"], NO_SYNC)),
    ("end_fsync", &[], Only(&["0"], NO_SYNC)),
    ("sync", &[], Only(&["0", "none"], NO_SYNC)),
    ("startdelay", &[], Only(&["0"], NO_WAIT)),
    ("thinktime", &[], Only(&["0"], NO_WAIT)),
];

/// fio's own name of an option that has several.
#[must_use]
pub fn canonical(key: &str) -> &str {
    OPTIONS
        .iter()
        .find(|(_, others, _)| others.contains(&key))
        .map_or(key, |(name, _, _)| name)
}

/// The options that mean here what they mean to fio.
#[must_use]
pub fn supported() -> String {
    let honoured = OPTIONS
        .iter()
        .filter(|(_, _, meaning)| matches!(meaning, Set(_)));
    let names: Vec<&str> = honoured.map(|(name, _, _)| *name).collect();
    names.join(", ")
}

/// What was taken and changes nothing, by the reason.
#[derive(Clone, Debug, Default)]
pub(super) struct Taken(BTreeMap<&'static str, BTreeSet<&'static str>>);

impl Taken {
    pub(super) fn note(&mut self, key: &'static str, why: &'static str) {
        self.0.entry(why).or_default().insert(key);
    }

    /// One sentence a reason.
    pub(super) fn notes(&self) -> Vec<String> {
        let sentence = |(why, keys): (&&str, &BTreeSet<&str>)| {
            let keys: Vec<&str> = keys.iter().copied().collect();
            format!("without effect: {} ({why})", keys.join(", "))
        };
        self.0.iter().map(sentence).collect()
    }
}

/// A job of which not all lines were read.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) name: String,
    pub(super) filename: Option<PathBuf>,
    pub(super) directory: Option<PathBuf>,
    pub(super) pattern: Pattern,
    pub(super) block_bytes: u32,
    pub(super) depth: u32,
    /// And whether it is one of several operations at a time.
    pub(super) engine: (Choice, bool),
    libaio: bool,
    pub(super) read_percent: u32,
    pub(super) size: Amount,
    pub(super) io_size: Option<u64>,
    pub(super) offset: u64,
    pub(super) operations: Option<u64>,
    pub(super) duration: Option<Duration>,
    pub(super) time_based: bool,
    pub(super) warm_up: Duration,
    pub(super) rate: Option<u64>,
    pub(super) rate_iops: Option<u64>,
    pub(super) seed: u64,
    pub(super) steady: Option<SteadyState>,
    pub(super) steady_duration: Duration,
    pub(super) steady_ramp: Duration,
    pub(super) percentiles: Option<Vec<f64>>,
    pub(super) verify: bool,
    pub(super) polled: bool,
    pub(super) passthrough: bool,
    pub(super) direct: bool,
}

impl Draft {
    /// fio's defaults.
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            filename: None,
            directory: None,
            pattern: Pattern::Read,
            block_bytes: 4096,
            depth: 1,
            engine: (Choice::Threads, false),
            libaio: false,
            read_percent: 50,
            size: Amount::Rest,
            io_size: None,
            offset: 0,
            operations: None,
            duration: None,
            time_based: false,
            warm_up: Duration::ZERO,
            rate: None,
            rate_iops: None,
            seed: 0,
            steady: None,
            steady_duration: Duration::ZERO,
            steady_ramp: Duration::ZERO,
            percentiles: None,
            verify: false,
            polled: false,
            passthrough: false,
            direct: false,
        }
    }

    /// Takes one option.
    pub(super) fn take(
        &mut self,
        key: &str,
        value: Option<&str>,
        taken: &mut Taken,
    ) -> Result<(), String> {
        let Some((name, _, meaning)) = OPTIONS.iter().find(|(name, _, _)| *name == key) else {
            return Err(format!(
                "{key} is not supported; supported are {}",
                supported()
            ));
        };
        let shown = value.map_or_else(|| key.to_owned(), |value| format!("{key}={value}"));
        // A switch may stand alone.
        let value = value.unwrap_or("1");
        if value.contains('$') {
            return Err(format!("{shown}: variables are not supported"));
        }
        match meaning {
            Set(set) => {
                set(self, value).map_err(|why| format!("{shown}: {why}"))?;
                if self.libaio {
                    taken.note("ioengine=libaio", "io_uring is used");
                }
            }
            Nothing(why) => taken.note(name, why),
            Only(values, why) if values.contains(&value) => taken.note(name, why),
            Only(values, why) => {
                return Err(format!(
                    "{shown}: {why}; only {key}={} is supported",
                    values.join(" or ")
                ));
            }
        }
        Ok(())
    }
}

fn put<T>(place: &mut T, value: Result<T, String>) -> Result<(), String> {
    *place = value?;
    Ok(())
}

fn text(value: &str) -> Result<String, String> {
    match value {
        "" | "1" => Err("a name is wanted".into()),
        value => Ok(value.into()),
    }
}

fn filename(draft: &mut Draft, value: &str) -> Result<(), String> {
    if value.contains([':', '\\']) {
        return Err("a job measures one device or file (a colon separates several)".into());
    }
    draft.filename = Some(text(value)?.into());
    Ok(())
}

fn pattern(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.pattern = match value {
        "readwrite" => Pattern::Rw,
        value => value.parse()?,
    };
    Ok(())
}

fn engine(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.libaio = value == "libaio";
    draft.passthrough = value == "io_uring_cmd";
    draft.engine = match value {
        "io_uring" | "io_uring_cmd" | "libaio" => (Choice::Uring, true),
        "psync" | "sync" | "pvsync" | "pvsync2" => (Choice::Threads, false),
        _ => {
            return Err(
                "it is not one of io_uring, io_uring_cmd, libaio, psync, sync, pvsync, pvsync2"
                    .into(),
            );
        }
    };
    Ok(())
}

/// What `ioengine=io_uring_cmd` sends.
fn command_type(value: &str) -> Result<(), String> {
    match value {
        "nvme" => Ok(()),
        _ => Err("only nvme is supported".into()),
    }
}

fn verify(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.verify = match value {
        "crc32c" | "pattern" => true,
        "0" | "none" => false,
        _ => return Err("it is not one of crc32c, pattern (either: a header, a pattern and a crc32c in each block)".into()),
    };
    Ok(())
}

fn direct(draft: &mut Draft, direct: bool) -> Result<(), String> {
    draft.direct = direct;
    match direct {
        true => Ok(()),
        false => Err("fio would go through the page cache, here nothing does: direct=1".into()),
    }
}

fn switch(value: &str) -> Result<bool, String> {
    match value {
        "1" => Ok(true),
        "0" => Ok(false),
        _ => Err("it is 0 or 1".into()),
    }
}

fn number(value: &str, min: u64, max: u64) -> Result<u64, String> {
    let range = || match max {
        u64::MAX => format!("a whole number from {min} on is wanted"),
        max => format!("a whole number from {min} to {max} is wanted"),
    };
    let number = value.parse().map_err(|_| range())?;
    if (min..=max).contains(&number) {
        Ok(number)
    } else {
        Err(range())
    }
}

/// A number that was checked to fit.
fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// fio's sizes: powers of 1024, by one letter or with a `b`. To fio `4kib` is 4000 bytes and to everybody else 4096: refused.
fn bytes(value: &str) -> Result<u64, String> {
    let lower = value.to_ascii_lowercase();
    if let Some(hex) = lower.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).map_err(|_| "it is no hexadecimal number".into());
    }
    if lower.ends_with("ib") || lower.ends_with('i') {
        return Err(
            "with an i it is a power of 1000 to fio and of 1024 to others: write 4k, 1m, 2g".into(),
        );
    }
    if lower.contains([',', '-', ':', '%']) {
        return Err(
            "one size for everything is wanted, in bytes or with k, m, g or t behind it".into(),
        );
    }
    parse_bytes(&lower)
}

fn some_bytes(value: &str) -> Result<u64, String> {
    bytes(value).and_then(|bytes| match bytes {
        0 => Err("it leaves nothing to do".into()),
        bytes => Ok(bytes),
    })
}

fn block_bytes(value: &str) -> Result<u32, String> {
    match bytes(value)? {
        bytes @ 1..=BLOCK_BYTES_MAX => Ok(small(bytes)),
        _ => Err("between 1 byte and 64 MiB".into()),
    }
}

fn amount(value: &str) -> Result<Amount, String> {
    match value.strip_suffix('%') {
        Some(percent) => number(percent, 1, 100).map(Amount::Percent),
        None => some_bytes(value).map(Amount::Bytes),
    }
}

/// fio's times: seconds where nothing is said.
fn time(value: &str) -> Result<Duration, String> {
    let value = value.trim_end_matches("ec");
    match value.strip_suffix('d') {
        Some(days) => number(days, 0, 10_000).map(|days| Duration::from_secs(days * 86_400)),
        None => parse_duration(value),
    }
}

fn some_time(value: &str) -> Result<Duration, String> {
    time(value).and_then(|time| match time {
        Duration::ZERO => Err("it leaves nothing to measure".into()),
        time => Ok(time),
    })
}

fn percentiles(value: &str) -> Result<Vec<f64>, String> {
    let wrong = || {
        format!(
            "up to {PERCENTILES_MAX} numbers above 0 and up to 100 are wanted, with colons between them"
        )
    };
    let one = |text: &str| {
        let number = text.trim().parse().ok();
        number.filter(|number: &f64| *number > 0.0 && *number <= 100.0)
    };
    let list: Option<Vec<f64>> = value.split(':').map(one).collect();
    list.filter(|list| list.len() <= PERCENTILES_MAX)
        .ok_or_else(wrong)
}
