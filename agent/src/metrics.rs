//! Every metric of the agent's drives, in one table. Base units; a histogram is a histogram; labels are the drive and
//! closed sets.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use api::latency::BUCKET_BOUNDS_NS;
use api::storage_node::{IoBackend, IoBackendName};

use crate::host::BlockCounters;
use crate::reconcile::Limits;

/// Label: the drive.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct OfDrive {
    /// Its id.
    pub drive: String,
}

/// Labels: the drive and what was done.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct OfDriveOp {
    /// Its id.
    pub drive: String,
    /// `read` or `write`.
    pub op: &'static str,
}

/// Labels: the drive and an engine.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct OfDriveBackend {
    /// Its id.
    pub drive: String,
    /// `uring` or `threads`.
    pub backend: &'static str,
}

/// Labels: an engine and why it.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct OfBackend {
    /// `uring` or `threads`.
    pub backend: &'static str,
    /// The word.
    pub reason: &'static str,
}

/// Label: the reason.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct OfReason {
    /// The word.
    pub reason: &'static str,
}

/// The metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Latencies of health reads and benchmarks at depth 1, as the agent measured them.
    pub io_latency: Family<OfDriveOp, Histogram, fn() -> Histogram>,
    /// 1 for the engine by which the node's devices are read and written.
    pub io_backend: Family<OfBackend, Gauge>,
    /// 1 for the engine by which the drive was read last.
    pub drive_io_backend: Family<OfDriveBackend, Gauge>,
    /// Size of the device.
    pub capacity_bytes: Family<OfDrive, Gauge>,
    /// What volumes may be promised.
    pub allocatable_bytes: Family<OfDrive, Gauge>,
    /// What is written.
    pub used_bytes: Family<OfDrive, Gauge>,
    /// 1 while the drive is in use.
    pub ready: Family<OfDrive, Gauge>,
    /// Bytes erased.
    pub erased_bytes: Family<OfDrive, Counter>,
    /// Bytes a second that erasing and reading back may take of all drives together; 0 for no limit.
    pub erase_limit_bytes: Gauge,
    /// The kernel's count of operations.
    pub kernel_operations: Family<OfDriveOp, Counter>,
    /// The kernel's sum of their durations, in milliseconds: its own unit.
    pub kernel_milliseconds: Family<OfDriveOp, Counter>,
    /// The kernel's count of bytes.
    pub kernel_bytes: Family<OfDriveOp, Counter>,
    /// Health reads that failed.
    pub health_errors: Family<OfDrive, Counter>,
    /// Drives refused.
    pub reconcile_errors: Family<OfReason, Counter>,
    /// Statuses written.
    pub status_writes: Counter,
}

/// The engines of a real device.
const BACKENDS: [&str; 2] = ["uring", "threads"];

#[expect(
    clippy::cast_precision_loss,
    reason = "a bound of a bucket has few digits"
)]
fn latencies() -> Histogram {
    Histogram::new(BUCKET_BOUNDS_NS.iter().map(|nanos| *nanos as f64 / 1e9))
}

impl Metrics {
    /// Makes them and registers them.
    #[must_use]
    pub fn new(registry: &mut Registry, limits: &Limits) -> Self {
        let metrics = Self {
            io_latency: Family::new_with_constructor(latencies),
            io_backend: Family::default(),
            drive_io_backend: Family::default(),
            capacity_bytes: Family::default(),
            allocatable_bytes: Family::default(),
            used_bytes: Family::default(),
            ready: Family::default(),
            erased_bytes: Family::default(),
            erase_limit_bytes: Gauge::default(),
            kernel_operations: Family::default(),
            kernel_milliseconds: Family::default(),
            kernel_bytes: Family::default(),
            health_errors: Family::default(),
            reconcile_errors: Family::default(),
            status_writes: Counter::default(),
        };
        let limit = limits.erase_bytes_per_second_max.unwrap_or(0);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        metrics.erase_limit_bytes.set(limit);
        metrics.register(registry);
        registry.register(
            "ringpv_io_backend",
            "1 for the engine by which devices are read and written, and why it",
            metrics.io_backend.clone(),
        );
        registry.register(
            "ringpv_drive_io_backend",
            "1 for the engine of the drive's last health reads",
            metrics.drive_io_backend.clone(),
        );
        registry.register_with_unit(
            "ringpv_erase_limit",
            "What erasing and reading back may take in a second, all drives together; 0 for no limit",
            Unit::Bytes,
            metrics.erase_limit_bytes.clone(),
        );
        metrics
    }

    fn register(&self, registry: &mut Registry) {
        let drives = registry.sub_registry_with_prefix("ringpv_drive");
        drives.register_with_unit(
            "io_latency",
            "Latency of the agent's own reads and writes at depth 1",
            Unit::Seconds,
            self.io_latency.clone(),
        );
        drives.register_with_unit(
            "capacity",
            "Size of the device",
            Unit::Bytes,
            self.capacity_bytes.clone(),
        );
        drives.register_with_unit(
            "allocatable",
            "What volumes may be promised in sum",
            Unit::Bytes,
            self.allocatable_bytes.clone(),
        );
        drives.register_with_unit(
            "used",
            "What is written by all volumes together",
            Unit::Bytes,
            self.used_bytes.clone(),
        );
        drives.register(
            "ready",
            "1 while the drive is mounted and in use",
            self.ready.clone(),
        );
        drives.register_with_unit(
            "erased",
            "Bytes erased",
            Unit::Bytes,
            self.erased_bytes.clone(),
        );
        drives.register(
            "kernel_operations",
            "Operations as the kernel counts them",
            self.kernel_operations.clone(),
        );
        drives.register(
            "kernel_milliseconds",
            "Sum of their durations as the kernel counts it",
            self.kernel_milliseconds.clone(),
        );
        drives.register(
            "kernel_bytes",
            "Bytes as the kernel counts them",
            self.kernel_bytes.clone(),
        );
        drives.register(
            "health_errors",
            "Health reads that failed",
            self.health_errors.clone(),
        );
        registry.register(
            "ringpv_reconcile_errors",
            "Drives refused, by reason",
            self.reconcile_errors.clone(),
        );
        registry.register(
            "ringpv_status_writes",
            "Statuses written to the API",
            self.status_writes.clone(),
        );
    }

    /// Adds what the kernel counted since the last look; with the first look, since the device appeared.
    pub fn kernel(&self, drive: &str, before: Option<&BlockCounters>, after: &BlockCounters) {
        let none = BlockCounters::default();
        let before = before.unwrap_or(&none);
        let rows = [
            ("read", &self.kernel_operations, before.reads, after.reads),
            (
                "read",
                &self.kernel_milliseconds,
                before.read_ms,
                after.read_ms,
            ),
            (
                "read",
                &self.kernel_bytes,
                before.read_bytes,
                after.read_bytes,
            ),
            (
                "write",
                &self.kernel_operations,
                before.writes,
                after.writes,
            ),
            (
                "write",
                &self.kernel_milliseconds,
                before.write_ms,
                after.write_ms,
            ),
            (
                "write",
                &self.kernel_bytes,
                before.write_bytes,
                after.write_bytes,
            ),
        ];
        for (op, family, before, after) in rows {
            let of = OfDriveOp {
                drive: drive.to_owned(),
                op,
            };
            family
                .get_or_create(&of)
                .inc_by(after.saturating_sub(before));
        }
    }

    /// Says by which engine devices are read and written.
    pub fn io_backend(&self, backend: &IoBackend) {
        let of = OfBackend {
            backend: match backend.name {
                IoBackendName::Uring => "uring",
                IoBackendName::Threads => "threads",
            },
            reason: backend.reason.as_str(),
        };
        self.io_backend.clear();
        self.io_backend.get_or_create(&of).set(1);
    }

    /// Says by which engine a drive was read.
    pub fn read_by(&self, drive: &str, backend: &'static str) {
        let of = |backend| OfDriveBackend {
            drive: drive.to_owned(),
            backend,
        };
        for other in BACKENDS.into_iter().filter(|other| *other != backend) {
            self.drive_io_backend.remove(&of(other));
        }
        self.drive_io_backend.get_or_create(&of(backend)).set(1);
    }

    /// Counts a refusal.
    pub fn refused(&self, reason: api::Reason) {
        let of = OfReason {
            reason: reason.as_str(),
        };
        self.reconcile_errors.get_or_create(&of).inc();
    }

    /// Forgets a drive.
    pub fn forget(&self, drive: &str) {
        let of = OfDrive {
            drive: drive.to_owned(),
        };
        for family in [
            &self.capacity_bytes,
            &self.allocatable_bytes,
            &self.used_bytes,
            &self.ready,
        ] {
            family.remove(&of);
        }
        self.erased_bytes.remove(&of);
        for backend in BACKENDS {
            self.drive_io_backend.remove(&OfDriveBackend {
                drive: drive.to_owned(),
                backend,
            });
        }
        self.health_errors.remove(&of);
        for op in ["read", "write"] {
            let of = OfDriveOp {
                drive: drive.to_owned(),
                op,
            };
            self.io_latency.remove(&of);
            for family in [
                &self.kernel_operations,
                &self.kernel_milliseconds,
                &self.kernel_bytes,
            ] {
                family.remove(&of);
            }
        }
    }
}
