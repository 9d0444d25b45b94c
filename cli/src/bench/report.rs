//! What a benchmark found, for people.

use std::io;

use api::benchmark::{BenchmarkStatus, WorkloadResult};
use api::{Bytes, Drive, LatencySummary, Nanos};
use base64::Engine as _;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;

use crate::chart;
use crate::screen::{Screen, Tone};
use crate::select::drive_label;

/// Prints one benchmark.
pub(super) fn print(
    screen: &mut Screen,
    drive: &Drive,
    status: &BenchmarkStatus,
) -> io::Result<()> {
    let head = screen.paint(Tone::Bold, &drive_label(drive));
    screen.line(format!("\n{head}"))?;
    for result in &status.results {
        workload(screen, result)?;
    }
    let past = status.ratio_to_past.as_deref();
    let peers = status.ratio_to_peers.as_deref();
    screen.line(match past {
        Some(ratio) => format!("\n  read p99 is {ratio}× that of its last run"),
        None => "\n  its first run of this kind; the next one will be compared with it".to_owned(),
    })?;
    screen.line(match peers {
        Some(ratio) => {
            format!("  read p99 is {ratio}× the median of the other drives of its model")
        }
        None => "  there are no other measured drives of its model to compare it with".to_owned(),
    })
}

fn workload(screen: &mut Screen, result: &WorkloadResult) -> io::Result<()> {
    let errors = match result.errors {
        0 => String::new(),
        n => screen.paint(Tone::Bad, &format!("   {n} operations failed")),
    };
    screen.line(format!(
        "\n  {}   {} operations/s   {}/s   {} ms   {}{errors}",
        screen.paint(Tone::Bold, &result.name),
        result.iops,
        Bytes(result.bytes_per_second),
        result.elapsed_ms,
        result.engine,
    ))?;
    let sides = [
        ("read", &result.read, &result.read_histogram),
        ("write", &result.write, &result.write_histogram),
    ];
    for (side, summary, histogram) in sides {
        if let Some(summary) = summary {
            let full = decode(histogram);
            screen.line(format!(
                "    {side:<5} {}",
                percentiles(summary, full.as_ref())
            ))?;
            let bars = full
                .as_ref()
                .map_or_else(|| chart::coarse(&summary.buckets), chart::fine);
            for line in chart::draw(&bars) {
                screen.line(format!("    {line}"))?;
            }
        }
    }
    Ok(())
}

/// The percentiles in one line; p90 only where the full histogram is there.
pub(crate) fn percentiles(summary: &LatencySummary, full: Option<&Histogram<u64>>) -> String {
    let mut parts = vec![format!("p50 {}", Nanos(summary.p50_ns))];
    if let Some(full) = full {
        parts.push(format!("p90 {}", Nanos(full.value_at_quantile(0.9))));
    }
    parts.push(format!("p99 {}", Nanos(summary.p99_ns)));
    if summary.count >= 3_000 {
        parts.push(format!("p99.9 {}", Nanos(summary.p999_ns)));
    }
    parts.push(format!("max {}", Nanos(summary.max_ns)));
    parts.push(format!("of {}", summary.count));
    parts.join("   ")
}

/// The full histogram of a result; `None` where it is absent or damaged, and the summary must do.
fn decode(text: &str) -> Option<Histogram<u64>> {
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .ok()?;
    Deserializer::new().deserialize(&mut bytes.as_slice()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::serialization::{Serializer as _, V2Serializer};

    #[test]
    fn a_histogram_comes_back_and_a_damaged_one_is_none() {
        let mut histogram = Histogram::<u64>::new(3).unwrap();
        histogram.record_n(80_000, 10).unwrap();
        let mut bytes = Vec::new();
        V2Serializer::new()
            .serialize(&histogram, &mut bytes)
            .unwrap();
        let engine = base64::engine::general_purpose::STANDARD;
        assert_eq!(decode(&engine.encode(&bytes)), Some(histogram));
        bytes.truncate(9);
        assert!(decode(&engine.encode(&bytes)).is_none());
        assert!(decode("no base64!").is_none() && decode("").is_none());
    }

    #[test]
    fn a_tail_is_named_only_where_enough_was_measured() {
        let few = LatencySummary {
            count: 100,
            p50_ns: 80_000,
            p99_ns: 200_000,
            p999_ns: 1,
            max_ns: 300_000,
            ..LatencySummary::default()
        };
        assert_eq!(
            percentiles(&few, None),
            "p50 80 µs   p99 200 µs   max 300 µs   of 100"
        );
    }
}
