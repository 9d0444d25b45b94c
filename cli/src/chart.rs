//! Histograms drawn with characters: how often each latency came, in steps whose bounds are the same for every drive,
//! so that two drawings can be laid beside each other. Pure.

use api::Nanos;
use api::latency::BUCKET_BOUNDS_NS;
use hdrhistogram::Histogram;

/// Width of the longest bar.
const WIDTH: usize = 40;
/// Bounds within a decade, in tenths; fine enough to see two humps, coarse enough to fit a screen.
const FINE: [u64; 6] = [10, 15, 20, 30, 50, 70];
const EIGHTHS: [char; 8] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];

/// One bar: from above `from` to `to`, `None` where it has no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bar {
    from_ns: u64,
    to_ns: Option<u64>,
    count: u64,
}

/// The coarse buckets of a summary.
pub(crate) fn coarse(buckets: &[u64]) -> Vec<Bar> {
    let from = std::iter::once(0).chain(BUCKET_BOUNDS_NS);
    let to = BUCKET_BOUNDS_NS.into_iter().map(Some).chain([None]);
    let bars = buckets
        .iter()
        .zip(from.zip(to))
        .map(|(count, (from_ns, to_ns))| Bar {
            from_ns,
            to_ns,
            count: *count,
        });
    trimmed(bars.collect())
}

/// The buckets of a full histogram.
pub(crate) fn fine(histogram: &Histogram<u64>) -> Vec<Bar> {
    let decades = std::iter::successors(Some(100_u64), |d| d.checked_mul(10)).take(9);
    let bounds: Vec<_> = decades.flat_map(|d| FINE.map(|step| d * step)).collect();
    let from = std::iter::once(0).chain(bounds.iter().copied());
    let to = bounds.iter().copied().map(Some).chain([None]);
    let mut bars: Vec<_> = from
        .zip(to)
        .map(|(from_ns, to_ns)| Bar {
            from_ns,
            to_ns,
            count: 0,
        })
        .collect();
    for recorded in histogram.iter_recorded() {
        let value = histogram.lowest_equivalent(recorded.value_iterated_to());
        let index = bounds.partition_point(|bound| *bound < value);
        if let Some(bar) = bars.get_mut(index) {
            bar.count += recorded.count_at_value();
        }
    }
    trimmed(bars)
}

/// Without the empty ends.
fn trimmed(bars: Vec<Bar>) -> Vec<Bar> {
    let first = bars.iter().position(|b| b.count > 0);
    let last = bars.iter().rposition(|b| b.count > 0);
    match (first, last) {
        (Some(first), Some(last)) => bars.into_iter().take(last + 1).skip(first).collect(),
        _ => Vec::new(),
    }
}

/// The drawing, a line a bar: bounds, bar, share.
pub(crate) fn draw(bars: &[Bar]) -> Vec<String> {
    let total: u64 = bars.iter().map(|b| b.count).fold(0, u64::saturating_add);
    let most = bars.iter().map(|b| b.count).max().unwrap_or(0);
    if most == 0 {
        return Vec::new();
    }
    let lines = bars.iter().map(|bar| {
        let low = Nanos(bar.from_ns).to_string();
        let high = bar
            .to_ns
            .map_or_else(|| "more".to_owned(), |to| Nanos(to).to_string());
        let share = share(bar.count, total);
        format!(
            "{low:>8} – {high:<8} {:WIDTH$} {share}",
            bar_text(bar.count, most)
        )
    });
    lines.collect()
}

/// A bar in eighths of a character. What is there at all is seen.
fn bar_text(count: u64, most: u64) -> String {
    let width = u128::from(u64::try_from(WIDTH * 8).unwrap_or(u64::MAX));
    let eighths = u128::from(count) * width / u128::from(most.max(1));
    let eighths = usize::try_from(eighths)
        .unwrap_or(0)
        .max(usize::from(count > 0));
    let mut text = "█".repeat(eighths / 8);
    if let Some(part) = (eighths % 8).checked_sub(1).and_then(|n| EIGHTHS.get(n)) {
        text.push(*part);
    }
    text
}

/// A share in percent, with as many digits as a tail needs: `61.2 %`, `0.03 %`, `<0.01 %`.
fn share(count: u64, total: u64) -> String {
    if count == 0 {
        return "0 %".to_owned();
    }
    let hundredths = u128::from(count) * 10_000 / u128::from(total.max(1));
    match hundredths {
        0 => "<0.01 %".to_owned(),
        1..100 => format!("0.{hundredths:02} %"),
        _ => format!("{}.{} %", hundredths / 100, hundredths % 100 / 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coarse_buckets_are_drawn_between_their_bounds() {
        let mut buckets = [0; api::latency::BUCKETS];
        buckets[api::latency::bucket_index(80_000)] = 960;
        buckets[api::latency::bucket_index(150_000)] = 39;
        buckets[api::latency::bucket_index(900_000)] = 1;
        let lines = draw(&coarse(&buckets));
        assert_eq!(lines.len(), 4, "{lines:#?}");
        assert!(
            lines[0].starts_with("   50 µs – 100 µs   ████"),
            "{}",
            lines[0]
        );
        assert!(lines[0].ends_with(" 96.0 %"));
        assert!(lines[1].trim_end().ends_with("3.9 %"));
        assert!(
            lines[2].trim_end().ends_with(" 0 %"),
            "a hole is shown: {}",
            lines[2]
        );
        assert!(
            lines[3].contains('▏'),
            "one in a thousand is seen: {}",
            lines[3]
        );
    }

    #[test]
    fn the_open_bucket_and_the_empty_histogram() {
        let mut buckets = [0; api::latency::BUCKETS];
        assert!(draw(&coarse(&buckets)).is_empty());
        *buckets.last_mut().unwrap() = 3;
        assert!(draw(&coarse(&buckets))[0].starts_with("     5 s – more"));
    }

    #[test]
    fn a_full_histogram_loses_no_operation() {
        let mut histogram = Histogram::<u64>::new(3).unwrap();
        for value in [
            0,
            900,
            1_000,
            80_000,
            81_000,
            95_000,
            3_000_000,
            90_000_000_000_000,
        ] {
            histogram.record(value).unwrap();
        }
        let bars = fine(&histogram);
        assert_eq!(bars.iter().map(|b| b.count).sum::<u64>(), 8, "{bars:?}");
    }
}
