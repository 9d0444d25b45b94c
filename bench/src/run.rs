//! The closed loop: keep `depth` operations in flight, stamp before each batch, stamp after each reaping, count.
//!
//! A run goes through warm-up (not counted), the measured part, and the wait for what is still in flight (counted: leaving
//! the slowest out would flatter the device). It ends at the first of its limits, when steady, when cancelled,
//! after too many errors, or when the device does not answer; whatever the end, there is a [`Report`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use block::{Device, DeviceError, Refused};
use thiserror::Error;

use crate::report::Report;
use crate::steady::SteadyState;
use crate::verify;
use crate::workload::{Workload, WorkloadError};
use turn::Running;

mod count;
mod turn;

/// When a run ends. At least one of duration, operations and bytes must be given.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Measured time.
    pub duration: Option<Duration>,
    /// Measured operations.
    pub operations: Option<u64>,
    /// Measured bytes.
    pub bytes: Option<u64>,
    /// Time before measuring.
    pub warm_up: Duration,
    /// At most so many operations a second.
    pub rate_iops: Option<u64>,
    /// Ends as soon as this is attained.
    pub steady_state: Option<SteadyState>,
    /// A device that completes nothing for so long, with something in flight, does not answer.
    pub answer_within: Duration,
}

impl Limits {
    /// How long a device may be silent where nothing else is said: the kernel's own time-out for one attempt.
    pub const ANSWER_WITHIN: Duration = Duration::from_secs(30);

    /// So long.
    #[must_use]
    pub const fn time(duration: Duration) -> Self {
        Self {
            duration: Some(duration),
            operations: None,
            bytes: None,
            warm_up: Duration::ZERO,
            rate_iops: None,
            steady_state: None,
            answer_within: Self::ANSWER_WITHIN,
        }
    }

    /// So many operations.
    #[must_use]
    pub const fn operations(operations: u64) -> Self {
        Self {
            duration: None,
            operations: Some(operations),
            ..Self::time(Duration::ZERO)
        }
    }

    /// Operations and bytes as one number of operations.
    fn operations_max(&self, block_bytes: u32) -> u64 {
        let by_bytes = self
            .bytes
            .map(|bytes| bytes.div_ceil(u64::from(block_bytes.max(1))));
        self.operations
            .unwrap_or(u64::MAX)
            .min(by_bytes.unwrap_or(u64::MAX))
    }
}

/// After so many failed operations a run ends.
pub const ERRORS_MAX: u64 = 100;
/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At its limit of time, operations or bytes.
    Limit,
    /// The steady state was attained.
    Steady,
    /// It was asked to.
    Cancelled,
    /// After [`ERRORS_MAX`] failed operations.
    Errors,
    /// The device did not answer.
    Unanswered,
}

/// A run that could not begin or go on.
#[derive(Debug, Error)]
pub enum RunError {
    /// The workload does not fit the device.
    #[error("this workload cannot run on {device}")]
    Workload {
        /// Device.
        device: String,
        /// Why.
        #[source]
        error: WorkloadError,
    },
    /// Neither time nor operations nor bytes are limited.
    #[error("a run needs a limit: time, operations or bytes")]
    Endless,
    /// The device was opened for fewer operations in flight, or for none.
    #[error("a depth of {depth} is not between 1 and the {max} that the device was opened for")]
    Depth {
        /// As asked.
        depth: u32,
        /// The device's.
        max: usize,
    },
    /// The engine failed.
    #[error("the engine failed")]
    Device(#[source] DeviceError),
    /// An operation was not accepted.
    #[error("refused")]
    Refused(#[source] Refused),
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Before measuring.
    pub warming_up: bool,
    /// Measured time.
    pub elapsed: Duration,
    /// Measured share, 0 to 1.
    pub share: f64,
    /// Operations measured.
    pub operations: u64,
    /// Operations a second since the last call.
    pub iops: f64,
    /// Bytes a second since the last call.
    pub bytes_per_second: f64,
    /// 99th percentile so far, of reads and writes, whichever is slower.
    pub p99_ns: u64,
}

/// Runs `workload` on `device` until one of `limits` is reached or `cancel` is set, then reads back what is to be verified. `progress` is called a few times a second of the
/// device's clock.
///
/// # Errors
/// [`RunError`]. Failed operations are no error: the report counts them.
pub fn run<D: Device>(
    device: &mut D,
    workload: &Workload,
    limits: &Limits,
    progress: &mut dyn FnMut(&Progress),
    cancel: &AtomicBool,
) -> Result<Report, RunError> {
    let mut running = Running::new(device, workload, limits)?;
    let end = loop {
        if cancel.load(Ordering::Relaxed) {
            break End::Cancelled;
        }
        if let Some(end) = running.end() {
            break end;
        }
        running.fill()?;
        running.reap()?;
        running.tick(progress);
    };
    let end = running.drain(end)?;
    let written = running.written();
    let mut report = running.report(end);
    if let (Some((steps, written)), End::Limit | End::Steady) = (written, end) {
        let depth = report.workload.depth as usize;
        let found = (&steps, &written);
        report.verified = verify::read_back(device, found, depth, limits.answer_within, cancel)?;
        if report.verified.is_none() {
            report.end = End::Cancelled;
        }
    }
    Ok(report)
}

#[cfg(test)]
mod tests;
