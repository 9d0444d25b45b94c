//! Measurements in the simulation: the real closed loop over a simulated drive of the same size, its seed drawn from the
//! drive's serial and the run's own seed. What a run writes it writes to that stand-in: nobody reads it again.

use agent::host::{HostError, Run};
use bench::Report;
use block::sim::{SimClock, SimDrive, SimModel};
use block::{Geometry, Options, ReadWrite};

/// Runs on a stand-in of `bytes` for the drive of that serial.
pub(super) fn run(serial: &str, bytes: u64, run: Run<'_>) -> Result<Report, HostError> {
    let seed = serial.bytes().map(u64::from).sum::<u64>() ^ run.workload.seed;
    let geometry = Geometry {
        size_bytes: bytes,
        sector_bytes: 512,
    };
    let drive = SimDrive::new(serial, geometry, SimModel::SSD, SimClock::default(), seed);
    let block_bytes = usize::try_from(run.workload.block_bytes).unwrap_or(usize::MAX);
    let mut device = drive.open::<ReadWrite>(Options::new(run.workload.depth, block_bytes));
    bench::run(
        &mut device,
        run.workload,
        run.limits,
        run.progress,
        run.cancel,
    )
    .map_err(|error| HostError::refused("measure", serial, error.to_string()))
}
