//! Reports as JSON. Every key under `jobs[]` is one that fio prints for the same job, with fio's type and unit, so that what
//! reads fio's output reads this; a test holds both side by side. What fio has not stands under `ringpv`.
//!
//! fio's `slat_ns` and `clat_ns`, and its `latency_us` that is made of the latter, are not here: a latency is measured as a
//! whole. fio gives percentiles of that (`lat_ns.percentile`) when it is asked to by `lat_percentiles=1`.

use std::time::Duration;

use block::{IoCause, IoError};
use nix::errno::Errno;
use serde_json::{Map, Value, json};

use super::{Depths, Report, Sample, Side, sentence};
use crate::histogram::Histogram;
use crate::run::End;
use crate::steady::{Measure, SteadyState};

/// fio's own list of percentiles.
pub const PERCENTILES: [f64; 17] = [
    1.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95,
    99.99,
];

/// One job of a document.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What it found.
    pub report: Report,
    /// `jobname`.
    pub name: String,
    /// `job options`.
    pub options: Map<String, Value>,
    /// The percentiles to give, each between 0 and 100.
    pub percentiles: Vec<f64>,
}

impl Entry {
    /// A run without a job file: named after its workload, with fio's percentiles.
    #[must_use]
    pub fn new(report: Report) -> Self {
        let workload = &report.workload;
        let mut options = Map::new();
        for (key, value) in [
            ("filename", report.device.clone()),
            ("rw", workload.pattern.as_str().into()),
            ("bs", workload.block_bytes.to_string()),
            ("iodepth", workload.depth.to_string()),
            ("ioengine", report.engine.into()),
            ("direct", "1".into()),
            ("randseed", workload.seed.to_string()),
        ] {
            options.insert(key.into(), value.into());
        }
        Self {
            name: report.name(),
            options,
            percentiles: PERCENTILES.to_vec(),
            report,
        }
    }
}

/// All jobs as one document; with `bins` (fio's `json+`) each latency that was counted, by nanoseconds. `head` is put
/// beside them.
#[must_use]
pub fn document(entries: &[Entry], bins: bool, head: Map<String, Value>) -> Value {
    let jobs: Vec<Value> = entries
        .iter()
        .enumerate()
        .map(|(group, entry)| job(group, entry, bins))
        .collect();
    let ours = match entries {
        [one] => ours(&one.report),
        several => json!({
            "jobs": several.iter().map(|entry| ours(&entry.report)).collect::<Vec<_>>(),
        }),
    };
    let mut document = head;
    document.insert(
        "ringpv-bench version".into(),
        env!("CARGO_PKG_VERSION").into(),
    );
    document.insert("jobs".into(), jobs.into());
    document.insert("ringpv".into(), ours);
    document.into()
}

/// What fio has not.
fn ours(report: &Report) -> Value {
    let mut object = json!({
        "engine": report.description,
        "end": report.end.as_str(),
        "unanswered": report.unanswered,
        "firstError": report.first_error().map(sentence),
        "readHistogram": report.read.latency.encode(),
        "writeHistogram": report.write.latency.encode(),
    });
    if let (Some(verified), Some(object)) = (&report.verified, object.as_object_mut()) {
        let first = verified.first.iter().map(ToString::to_string);
        object.insert(
            "verify".into(),
            json!({
                "blocks": verified.blocks,
                "wrong": verified.wrong,
                "unknown": verified.unknown,
                "first": first.collect::<Vec<_>>(),
            }),
        );
    }
    object
}

fn job(group: usize, entry: &Entry, bins: bool) -> Value {
    let report = &entry.report;
    let seconds = report.elapsed.as_secs_f64().max(1e-9);
    let percent = |time: Duration| time.as_secs_f64() / seconds * 100.0;
    let side = |side: &Side, series: &dyn Fn(&Sample) -> f64| {
        let seconds: Vec<f64> = match side.is_used() {
            true => report.samples.iter().map(series).collect(),
            false => Vec::new(),
        };
        direction(side, entry, &seconds, bins)
    };
    let levels = Depths::FROM.iter().zip(report.depths.percent());
    let levels = levels.map(|(from, percent)| match from {
        64 => (">=64".to_owned(), json!(percent)),
        from => (from.to_string(), json!(percent)),
    });
    let mut job = json!({
        "jobname": entry.name,
        "groupid": group,
        "error": error(report),
        "elapsed": report.elapsed.as_secs(),
        "job options": entry.options,
        "read": side(&report.read, &|sample| sample.read_iops),
        "write": side(&report.write, &|sample| (sample.iops - sample.read_iops).max(0.0)),
        "trim": side(&Side::default(), &|_| 0.0),
        "job_runtime": millis(report.elapsed),
        "usr_cpu": percent(report.cpu.user),
        "sys_cpu": percent(report.cpu.system),
        "iodepth_level": levels.collect::<Map<_, _>>(),
        "total_err": report.errors(),
        "first_error": report.first_error().map_or(0, errno),
    });
    if let (Some(steady), Some(job)) = (report.steady_state, job.as_object_mut()) {
        job.insert("steadystate".into(), steady_state(&steady, report));
    }
    job
}

/// The number of the error that makes the job a failed one; 0 when none does.
fn error(report: &Report) -> i32 {
    match report.first_error() {
        Some(error) => errno(error),
        None if report.unanswered > 0 => Errno::ETIMEDOUT as i32,
        None => match &report.verified {
            Some(verified) if verified.wrong > 0 => Errno::EILSEQ as i32,
            Some(_) | None => 0,
        },
    }
}

fn errno(error: &IoError) -> i32 {
    if let IoCause::Kernel(errno) = error.cause {
        errno as i32
    } else {
        Errno::EIO as i32
    }
}

/// One direction; `seconds` are its operations a second, one for each sample.
fn direction(side: &Side, entry: &Entry, seconds: &[f64], bins: bool) -> Value {
    // fio counts no time for a direction that was not used.
    let elapsed = match side.is_used() {
        true => entry.report.elapsed,
        false => Duration::ZERO,
    };
    let bytes_per_second = side.bytes_per_second(elapsed);
    let iops = Spread::of(seconds.iter().copied());
    let kib = f64::from(entry.report.workload.block_bytes) / 1024.0;
    let bandwidth = Spread::of(seconds.iter().map(|iops| iops * kib));
    json!({
        "io_bytes": side.bytes,
        "io_kbytes": side.bytes / 1024,
        "bw_bytes": whole(bytes_per_second),
        "bw": whole(bytes_per_second / 1024.0),
        "iops": side.iops(elapsed),
        "runtime": millis(elapsed),
        "total_ios": side.operations,
        "lat_ns": latency(&side.latency, &entry.percentiles, bins),
        "bw_min": whole(bandwidth.min),
        "bw_max": whole(bandwidth.max),
        "bw_mean": bandwidth.mean,
        "bw_dev": bandwidth.deviation,
        "bw_samples": seconds.len(),
        "iops_min": whole(iops.min),
        "iops_max": whole(iops.max),
        "iops_mean": iops.mean,
        "iops_stddev": iops.deviation,
        "iops_samples": seconds.len(),
    })
}

fn latency(latency: &Histogram, percentiles: &[f64], bins: bool) -> Value {
    let mut object = json!({
        "min": latency.min_ns(),
        "max": latency.max_ns(),
        "mean": latency.mean_ns() as f64,
        "stddev": latency.stdev_ns(),
        "N": latency.count(),
    });
    if let (Some(object), true) = (object.as_object_mut(), latency.count() > 0) {
        let percentile = percentiles.iter().map(|percent| {
            let value = latency.percentile_ns(*percent);
            (format!("{percent:.6}"), json!(value))
        });
        object.insert(
            "percentile".into(),
            percentile.collect::<Map<_, _>>().into(),
        );
        if bins {
            let bins = latency
                .recorded()
                .map(|(nanos, count)| (nanos.to_string(), json!(count)));
            object.insert("bins".into(), bins.collect::<Map<_, _>>().into());
        }
    }
    object
}

/// fio's object: its data are those of the latest window.
fn steady_state(steady: &SteadyState, report: &Report) -> Value {
    let series = Sample::series(&report.samples, steady.measure);
    let value = steady.value(&series).unwrap_or(0.0);
    let criterion = steady.criterion(&series).unwrap_or(0.0);
    let unit = if steady.percent { "%" } else { "" };
    let name = steady.to_string();
    let name = name.split(':').next().unwrap_or_default();
    let window = steady.latest(&report.samples).unwrap_or_default();
    let whole_series = |measure| -> Vec<u64> {
        let series = Sample::series(window, measure);
        series.into_iter().map(whole).collect()
    };
    let (iops, bandwidth) = (
        whole_series(Measure::Iops),
        whole_series(Measure::Bandwidth),
    );
    let mean = |series: &[u64]| series.iter().sum::<u64>() / (series.len() as u64).max(1);
    json!({
        "ss": format!("{name}:{:.6}{unit}", steady.limit),
        "duration": steady.window.as_secs(),
        "attained": i32::from(report.end == End::Steady),
        "criterion": format!("{criterion:.6}{unit}"),
        "max_deviation": if steady.slope { 0.0 } else { value },
        "slope": if steady.slope { value } else { 0.0 },
        "data": {
            "bw_mean": mean(&bandwidth),
            "iops_mean": mean(&iops),
            "iops": iops,
            "bw": bandwidth,
        },
    })
}

/// Smallest, largest, mean and standard deviation of some numbers; zeros of none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Spread {
    min: f64,
    max: f64,
    mean: f64,
    deviation: f64,
}

impl Spread {
    fn of(numbers: impl Iterator<Item = f64> + Clone) -> Self {
        let count = numbers.clone().count();
        if count == 0 {
            return Self::default();
        }
        let n = count as f64;
        let mean = numbers.clone().sum::<f64>() / n;
        let squares = numbers.clone().map(|one| (one - mean).powi(2)).sum::<f64>();
        Self {
            min: numbers.clone().fold(f64::MAX, f64::min),
            max: numbers.fold(0.0, f64::max),
            mean,
            // Of a sample, as fio has it.
            deviation: (squares / (n - 1.0).max(1.0)).sqrt(),
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate, not negative; a float that does not fit becomes the largest number"
)]
const fn whole(value: f64) -> u64 {
    value as u64
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread() {
        assert_eq!(Spread::of([].into_iter()), Spread::default());
        let one = Spread::of([5.0].into_iter());
        assert_eq!(
            (one.min, one.max, one.mean, one.deviation),
            (5.0, 5.0, 5.0, 0.0)
        );
        let two = Spread::of([4.0, 8.0].into_iter());
        assert_eq!((two.min, two.max, two.mean), (4.0, 8.0, 6.0));
        assert!((two.deviation - 8f64.sqrt()).abs() < 1e-9);
    }
}
