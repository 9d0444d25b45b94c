//! Measurements: an engine is opened, runs one workload on the thread that opened it, and is closed.

use std::fs::File;
use std::path::Path;

use bench::Report;
use block::{Backend, Mode, Options, ReadOnly, ReadWrite, Target};

use super::super::{HostError, Run};
use super::{Engines, sentence};

pub(super) fn device(engines: &Engines, path: &Path, run: Run<'_>) -> Result<Report, HostError> {
    let target = Target::<ReadOnly>::open(path).map_err(|error| refused(path, &error))?;
    on(engines, target, path, run)
}

pub(super) fn file(engines: &Engines, path: &Path, run: Run<'_>) -> Result<Report, HostError> {
    let target = Target::<ReadWrite>::open_file(path).map_err(|error| refused(path, &error))?;
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
    let target = Target::<ReadWrite>::held(file, path).map_err(|error| refused(path, &error))?;
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
    let mut device =
        block::open(backend, target, options).map_err(|error| refused(path, &error))?;
    bench::run(
        &mut device,
        run.workload,
        run.limits,
        run.progress,
        run.cancel,
    )
    .map_err(|error| refused(path, &error))
}

fn refused(path: &Path, error: &dyn std::error::Error) -> HostError {
    HostError::refused("measure", path.display(), sentence(error))
}
