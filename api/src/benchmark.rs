//! Benchmark: one measurement of one drive, kept. Created by people, run and answered by the agent of its node, owned by
//! its Drive; the last ten of a drive are kept.

#![expect(
    unreachable_pub,
    reason = "the schema derive declares a second, private copy of the spec under its span"
)]
#![expect(
    clippy::duplicated_attributes,
    reason = "each printcolumn has a name and a type of its own"
)]

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{LatencySummary, Reason};

/// How many benchmarks of one drive are kept.
pub const KEPT_MAX: usize = 10;

/// What is to be measured.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "ringpv.io",
    version = "v1alpha1",
    kind = "Benchmark",
    plural = "benchmarks",
    shortname = "rbench",
    category = "ringpv",
    status = "BenchmarkStatus",
    derive = "PartialEq",
    selectable = ".spec.node",
    selectable = ".spec.drive",
    doc = "One measurement of one drive.",
    printcolumn(name = "Drive", type_ = "string", json_path = ".spec.drive"),
    printcolumn(name = "Profile", type_ = "string", json_path = ".spec.profile"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Percent", type_ = "integer", json_path = ".status.percent"),
    printcolumn(name = "To-past", type_ = "string", json_path = ".status.ratioToPast"),
    printcolumn(
        name = "To-peers",
        type_ = "string",
        json_path = ".status.ratioToPeers"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[kube(validation = Rule::new("self.spec == oldSelf.spec").message("a Benchmark's spec never changes; create another"))]
#[kube(validation = Rule::new("has(self.spec.workload) != (self.spec.profile != 'Custom')").message("a workload goes with the profile Custom, and only with it"))]
pub struct BenchmarkSpec {
    /// Node of the drive.
    #[schemars(length(min = 1))]
    pub node: String,
    /// Drive.
    #[schemars(length(min = 1))]
    pub drive: String,
    /// What is run.
    #[serde(default)]
    pub profile: Profile,
    /// The workload of the profile Custom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<Workload>,
}

/// Ready-made measurements.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum Profile {
    /// Random reads 4 KiB at depth 1 and 32, sequential reads; some seconds; reads only.
    #[default]
    Quick,
    /// Reads and writes (to the scratch file), each until steady; a minute or two.
    Full,
    /// The workload given.
    Custom,
}

/// A workload in fio's terms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// What is done.
    pub pattern: Pattern,
    /// Bytes per operation; a multiple of the logical sector size.
    #[schemars(range(min = 512, max = 16_777_216))]
    pub block_bytes: u32,
    /// Operations in flight.
    #[schemars(range(min = 1, max = 1024))]
    pub depth: u32,
    /// Share of reads in percent, for the mixed patterns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub read_percent: Option<u32>,
    /// Ends after so many milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// Ends after so many operations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations: Option<u64>,
    /// At most so many operations a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_iops: Option<u64>,
    /// Not counted at the beginning, milliseconds.
    #[serde(default)]
    pub warm_up_ms: u64,
    /// Seed of the offsets.
    #[serde(default)]
    pub seed: u64,
}

/// Access patterns. A write goes only to the drive's reserved scratch file.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum Pattern {
    /// Random reads.
    RandRead,
    /// Random writes.
    RandWrite,
    /// Random reads and writes.
    RandRw,
    /// Sequential reads.
    Read,
    /// Sequential writes.
    Write,
    /// Sequential reads and writes.
    Rw,
}

impl Pattern {
    /// Whether it writes.
    #[must_use]
    pub const fn writes(self) -> bool {
        match self {
            Self::RandRead | Self::Read => false,
            Self::RandWrite | Self::RandRw | Self::Write | Self::Rw => true,
        }
    }
}

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BenchmarkStatus {
    /// Where it stands.
    #[serde(default)]
    pub phase: BenchmarkPhase,
    /// Why, as one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Why, with particulars.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// How far, 0 to 100.
    #[serde(default)]
    pub percent: u32,
    /// One entry a workload.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<WorkloadResult>,
    /// Read p99 against this drive's last finished run of the same profile: `1.07`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio_to_past: Option<String>,
    /// Read p99 against the median of the other drives of its model: `0.98`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio_to_peers: Option<String>,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub ended_at: Option<Timestamp>,
}

/// Where a benchmark stands.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum BenchmarkPhase {
    /// Not begun.
    #[default]
    Pending,
    /// Under way.
    Running,
    /// Measured.
    Done,
    /// Refused or failed; `reason` says why.
    Failed,
}

/// One workload's result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadResult {
    /// A short name: `randread-4k-qd1`.
    pub name: String,
    /// What ran.
    pub workload: Workload,
    /// Engine it ran on: `uring`, `threads`.
    pub engine: String,
    /// Time measured, milliseconds.
    pub elapsed_ms: u64,
    /// Operations a second, reads and writes together.
    pub iops: u64,
    /// Bytes a second.
    pub bytes_per_second: u64,
    /// Reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<LatencySummary>,
    /// Writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write: Option<LatencySummary>,
    /// Full histogram of the reads, ns: HdrHistogram V2, base64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub read_histogram: String,
    /// Full histogram of the writes, ns: HdrHistogram V2, base64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub write_histogram: String,
    /// Operations that failed.
    #[serde(default)]
    pub errors: u64,
}
