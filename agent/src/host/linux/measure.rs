//! Measurements: an engine is opened, runs one workload on the thread that opened it, and is closed. A ring that is refused
//! after the start gives way to threads: the report says by what was measured.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use bench::{Report, RunError};
use block::{Backend, DeviceError, Mode, OpenError, Options, ReadOnly, ReadWrite, Target};

use super::super::{HostError, Run};
use super::{Engines, sentence};

/// Whether the log says already that rings are refused; until one is to be had again.
static REFUSAL_SAID: AtomicBool = AtomicBool::new(false);

pub(super) fn device(engines: &Engines, path: &Path, run: Run<'_>) -> Result<Report, HostError> {
    let target = Target::<ReadOnly>::open(path).map_err(|error| unopened(path, &error))?;
    on(engines, target, path, run)
}

pub(super) fn file(engines: &Engines, path: &Path, run: Run<'_>) -> Result<Report, HostError> {
    let target = Target::<ReadWrite>::open_file(path).map_err(|error| unopened(path, &error))?;
    on(engines, target, path, run)
}

pub(super) fn held(
    backend: Backend,
    file: &File,
    path: &Path,
    run: Run<'_>,
) -> Result<Report, HostError> {
    let file = file
        .try_clone()
        .map_err(|error| HostError::io("measure", path.display(), error))?;
    let target = Target::<ReadWrite>::held(file, path).map_err(|error| unopened(path, &error))?;
    // By what the host has: to find out more, it would read beyond what the workload names.
    with(backend, target, path, run)
}

fn on<M: Mode>(
    engines: &Engines,
    target: Target<M>,
    path: &Path,
    run: Run<'_>,
) -> Result<Report, HostError> {
    let backend = engines.of(&target, run.workload.depth);
    with(backend, target, path, run)
}

fn with<M: Mode>(
    backend: Backend,
    target: Target<M>,
    path: &Path,
    run: Run<'_>,
) -> Result<Report, HostError> {
    let block_bytes = usize::try_from(run.workload.block_bytes).unwrap_or(usize::MAX);
    let options = Options::new(run.workload.depth, block_bytes);
    let opened = block::open_else_threads(backend, target, options, block::open);
    let (mut device, instead) = opened.map_err(|error| unopened(path, &error))?;
    match instead {
        Some(error) if !REFUSAL_SAID.swap(true, Ordering::Relaxed) => {
            let error = sentence(&error);
            tracing::warn!(
                error,
                "A ring is refused where one worked at the start; threads read instead"
            );
        }
        Some(_) => {}
        None => REFUSAL_SAID.store(false, Ordering::Relaxed),
    }
    bench::run(
        &mut device,
        run.workload,
        run.limits,
        run.progress,
        run.cancel,
    )
    .map_err(|error| match &error {
        // One operation, or that none is answered, is the device's own word.
        RunError::Device(cause @ (DeviceError::Io(_) | DeviceError::Unanswered { .. })) => {
            HostError::io("measure", path.display(), io::Error::other(sentence(cause)))
        }
        RunError::Device(_)
        | RunError::Workload { .. }
        | RunError::Endless
        | RunError::Depth { .. }
        | RunError::Refused(_) => refused(path, &error),
    })
}

/// The kernel's answer for the device itself, else a sentence: what is not the device's is not held against it.
fn unopened(path: &Path, error: &OpenError) -> HostError {
    match error.errno_of_device() {
        Some(errno) => HostError::io("open", path.display(), errno),
        None => refused(path, error),
    }
}

fn refused(path: &Path, error: &dyn std::error::Error) -> HostError {
    HostError::refused("measure", path.display(), sentence(error))
}
