//! `list benchmarks`.

use api::benchmark::{BenchmarkPhase, WorkloadResult};
use api::{Benchmark, Drive, LatencySummary};
use clap::Args;
use jiff::Timestamp;
use kube::ResourceExt as _;
use serde_json::Value;

use crate::advice::{Hint, Stop};
use crate::screen::Tone;
use crate::select::{Names, by_names, device_name, nothing, short};
use crate::session::Session;
use crate::view::{Cell, Column, Row, column, wide};

use super::{Changes, Listing, changes_of, show};

/// Flags of `list benchmarks`.
#[derive(Debug, Args)]
pub(crate) struct BenchmarksArgs {
    /// Names of benchmarks, or how they begin
    #[arg(value_name = "BENCHMARK")]
    names: Vec<String>,
    /// On these nodes, such as node-{1...4}
    #[arg(short, long, value_name = "NODE", value_delimiter = ',')]
    node: Vec<String>,
    /// Of these drives: ids, or their first digits
    #[arg(short, long, value_name = "DRIVE", value_delimiter = ',')]
    drive: Vec<String>,
    #[command(flatten)]
    listing: Listing,
}

struct BenchmarkRow {
    benchmark: Benchmark,
    device: String,
    now: Timestamp,
}

impl BenchmarkRow {
    fn first(&self) -> Option<&WorkloadResult> {
        self.benchmark.status.as_ref()?.results.first()
    }

    fn latency(&self) -> Option<&LatencySummary> {
        let first = self.first()?;
        first.read.as_ref().or(first.write.as_ref())
    }
}

impl Row for BenchmarkRow {
    fn object(&self) -> Result<Value, serde_json::Error> {
        serde_json::to_value(&self.benchmark)
    }

    fn name(&self) -> String {
        format!("benchmark.ringpv.io/{}", self.benchmark.name_any())
    }
}

const COLUMNS: &[Column<BenchmarkRow>] = &[
    column("BENCHMARK", |r| Cell::text(r.benchmark.name_any())),
    column("NODE", |r| Cell::text(&r.benchmark.spec.node)),
    column("DEVICE", |r| Cell::text(&r.device)),
    column("DRIVE", |r| Cell::text(short(&r.benchmark.spec.drive))),
    column("PROFILE", |r| {
        Cell::text(format!("{:?}", r.benchmark.spec.profile))
    }),
    column("P50", |r| Cell::nanos(r.latency().map(|l| l.p50_ns))),
    column("P99", |r| Cell::nanos(r.latency().map(|l| l.p99_ns))),
    column("IOPS", |r| {
        let iops = r
            .first()
            .map(|f| usize::try_from(f.iops).unwrap_or(usize::MAX));
        iops.map_or_else(Cell::none, Cell::count)
    }),
    column("TO-PAST", |r| {
        ratio(
            r.benchmark
                .status
                .as_ref()
                .and_then(|s| s.ratio_to_past.as_deref()),
        )
    }),
    column("TO-PEERS", |r| {
        ratio(
            r.benchmark
                .status
                .as_ref()
                .and_then(|s| s.ratio_to_peers.as_deref()),
        )
    }),
    column("STATUS", |r| {
        let phase = r
            .benchmark
            .status
            .as_ref()
            .map(|s| s.phase)
            .unwrap_or_default();
        let tone = match phase {
            BenchmarkPhase::Done => Tone::Good,
            BenchmarkPhase::Pending | BenchmarkPhase::Running => Tone::Warn,
            BenchmarkPhase::Failed => Tone::Bad,
        };
        Cell::text(format!("{phase:?}")).toned(tone)
    }),
    column("AGE", |r| {
        Cell::age(
            r.benchmark
                .metadata
                .creation_timestamp
                .as_ref()
                .map(|t| t.0),
            r.now,
        )
    }),
    wide("ENGINE", |r| {
        Cell::text(r.first().map(|f| f.engine.clone()).unwrap_or_default())
    }),
    wide("MESSAGE", |r| {
        let status = r.benchmark.status.as_ref();
        Cell::text(status.map(|s| s.message.clone()).unwrap_or_default())
    }),
];

fn ratio(text: Option<&str>) -> Cell {
    text.map_or_else(Cell::none, |t| Cell::text(format!("{t}×")))
}

/// Runs `list benchmarks`.
pub(crate) async fn run(session: &mut Session, args: &BenchmarksArgs) -> Result<(), Stop> {
    let nodes = Names::new(&args.node, "--node")?;
    let mut changes = Changes::new();
    if args.listing.watch {
        changes_of::<Benchmark>(session.client().await?, &mut changes);
    }
    let fetch = async |session: &mut Session| {
        let mut all: Vec<Benchmark> = session.all().await?;
        if all.is_empty() {
            session.hint(&Hint::ListIsEmpty {
                what: "benchmarks",
                command: "kubectl ringpv bench DRIVE makes one",
            })?;
        }
        let drives: Vec<Drive> = session.all().await?;
        let names = by_names(&args.names, all.iter().map(|b| b.name_any()), "benchmark")?;
        let of = by_names(&args.drive, drives.iter().map(|d| d.name_any()), "drive")?;
        all.retain(|b| {
            (names.is_empty() || names.contains(&b.name_any()))
                && (of.is_empty() || of.contains(&b.spec.drive))
                && nodes.matches(&b.spec.node)
        });
        if all.is_empty()
            && !(args.names.is_empty() && args.drive.is_empty() && args.node.is_empty())
        {
            return Err(nothing("benchmark"));
        }
        all.sort_by_key(|b| b.metadata.creation_timestamp.clone().map(|t| t.0));
        let device = |b: &Benchmark| {
            let drive = drives.iter().find(|d| d.name_any() == b.spec.drive);
            drive.map(|d| device_name(d).to_owned()).unwrap_or_default()
        };
        let now = session.now();
        let rows = all.into_iter().map(|benchmark| BenchmarkRow {
            device: device(&benchmark),
            benchmark,
            now,
        });
        Ok(rows.collect())
    };
    show(session, COLUMNS, &args.listing, changes, fetch).await
}
