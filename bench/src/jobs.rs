//! A job file, run: all jobs are opened and checked before the first of them begins, then they run one after another.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use bench::jobfile::{Job, JobFile, parse};
use bench::report::json::Entry;
use bench::{Limits, Report, Workload};
use block::uring::passthrough::block_beside;
use block::{
    Backend, Options, ReadOnly, ReadWrite, Target, Through, open, open_passthrough, open_polled,
    probe_backend,
};
use serde_json::{Map, Value};

use crate::args::Run;
use crate::permit;
use crate::{Usage, shown};

/// Reads the job file.
pub(crate) fn read(path: &Path) -> anyhow::Result<JobFile> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).map_err(|mistakes| {
        let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        Usage(format!("{}: {}", path.display(), lines.join("\n  "))).into()
    })
}

/// A job that can begin.
#[derive(Debug)]
pub(crate) struct Ready<'a> {
    job: &'a Job,
    backend: Backend,
    target: Opened,
    workload: Workload,
    limits: Limits,
}

#[derive(Debug)]
enum Opened {
    Read(Target<ReadOnly>),
    Write(Target<ReadWrite>),
}

/// Opens what every job needs. What is written to is opened once: its fingerprint was checked under an exclusive hold,
/// which goes on from the first job on it to the last, so that the word still speaks of the same device.
pub(crate) fn prepare<'a>(
    file: &'a JobFile,
    args: &Run,
    run: u64,
) -> anyhow::Result<Vec<Ready<'a>>> {
    let writes = |job: &Job| job.workload.pattern.writes();
    if !file.jobs.iter().any(writes) && (args.write_file || args.fingerprint.is_some()) {
        return Err(
            Usage("--write-file and --fingerprint go with a job that writes".into()).into(),
        );
    }
    let mut held: BTreeMap<PathBuf, Target<ReadWrite>> = BTreeMap::new();
    let mut ready = Vec::with_capacity(file.jobs.len());
    for job in &file.jobs {
        let path = job.filename.as_path();
        let target = if !writes(job) {
            let beside = job.passthrough.then(|| block_beside(path)).flatten();
            Opened::Read(Target::<ReadOnly>::open(beside.as_deref().unwrap_or(path))?)
        } else if let Some(target) = held.get(path) {
            Opened::Write(target.clone())
        } else {
            let fingerprint = args.fingerprint.as_deref();
            let target = permit::writable(path, args.write_file, fingerprint)?;
            held.insert(path.into(), target.clone());
            Opened::Write(target)
        };
        let geometry = match &target {
            Opened::Read(target) => target.geometry(),
            Opened::Write(target) => target.geometry(),
        };
        let mut workload = job.workload(geometry).map_err(Usage)?;
        workload.verify = job.verify.then_some(run);
        workload
            .steps(geometry)
            .map_err(|error| Usage(format!("job {}: {error}", job.name)))?;
        ready.push(Ready {
            job,
            backend: probe_backend(job.engine).with_context(|| format!("job {}", job.name))?,
            target,
            workload,
            limits: job.limits(geometry).map_err(Usage)?,
        });
    }
    Ok(ready)
}

/// Runs them until one is cancelled or does not answer. `told` is called with each as it ends.
pub(crate) fn measure(
    jobs: Vec<Ready<'_>>,
    cancel: &AtomicBool,
    told: &mut dyn FnMut(&Entry),
) -> anyhow::Result<Vec<Entry>> {
    let mut entries = Vec::with_capacity(jobs.len());
    for ready in jobs {
        if cancel.load(Ordering::Relaxed) {
            break;
        }
        let entry = Entry {
            name: ready.job.name.clone(),
            options: object(&ready.job.options),
            percentiles: ready.job.percentiles.clone(),
            report: one(ready, cancel)?,
        };
        told(&entry);
        let answered = entry.report.unanswered == 0;
        entries.push(entry);
        if !answered {
            break;
        }
    }
    Ok(entries)
}

fn one(ready: Ready<'_>, cancel: &AtomicBool) -> anyhow::Result<Report> {
    let block_bytes = usize::try_from(ready.workload.block_bytes)?;
    let options = Options::new(ready.workload.depth, block_bytes);
    let name = || format!("job {}", ready.job.name);
    let (workload, limits) = (&ready.workload, &ready.limits);
    match ready.target {
        Opened::Read(target) if ready.job.passthrough => {
            let polled = ready.job.polled;
            let drive =
                open_passthrough(ready.backend, target, options, polled).with_context(name)?;
            match drive {
                Through::Commands(mut drive) => shown(&mut drive, workload, limits, cancel),
                Through::Blocks(mut device) => shown(&mut device, workload, limits, cancel),
            }
        }
        Opened::Read(target) => {
            let open = if ready.job.polled { open_polled } else { open };
            let mut device = open(ready.backend, target, options).with_context(name)?;
            shown(&mut device, workload, limits, cancel)
        }
        Opened::Write(target) => {
            let mut device = open(ready.backend, target, options).with_context(name)?;
            shown(&mut device, workload, limits, cancel)
        }
    }
    .with_context(name)
}

/// Options as fio echoes them.
pub(crate) fn object(options: &[(String, String)]) -> Map<String, Value> {
    let strings = options.iter().cloned();
    strings.map(|(key, value)| (key, value.into())).collect()
}
