//! When a device has settled: fio's steady state. A window of one-second samples slides; a run is steady when, over a full
//! window, the samples' slope or their largest deviation from the mean stays below a share of the mean. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Operations a second.
    Iops,
    /// Bytes a second.
    Bandwidth,
    /// Mean latency.
    Latency,
}

/// When to call a run steady.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SteadyState {
    /// What is watched.
    pub measure: Measure,
    /// The slope of a line through the samples, rather than their largest deviation from the mean.
    pub slope: bool,
    /// Below so many percent of the mean (a slope: per second).
    pub limit_percent: f64,
    /// Length of the window; fio's `steadystate_duration`.
    pub window: Duration,
}

impl SteadyState {
    /// The window where none is given.
    pub const WINDOW: Duration = Duration::from_secs(10);

    /// The criterion's value over these one-second samples, in percent of their mean; none before the window is full.
    #[must_use]
    pub fn criterion_percent(&self, samples: &[f64]) -> Option<f64> {
        let count = usize::try_from(self.window.as_secs()).ok()?.max(2);
        let window = samples.get(samples.len().checked_sub(count)?..)?;
        let n = window.len() as f64;
        let mean = window.iter().sum::<f64>() / n;
        if mean == 0.0 {
            return None;
        }
        let value = if self.slope {
            slope(window, mean)
        } else {
            window
                .iter()
                .map(|sample| (sample - mean).abs())
                .fold(0.0, f64::max)
        };
        Some(value / mean * 100.0)
    }

    /// Whether these samples are steady.
    #[must_use]
    pub fn is_attained(&self, samples: &[f64]) -> bool {
        self.criterion_percent(samples)
            .is_some_and(|percent| percent.abs() < self.limit_percent)
    }
}

/// Least squares: change a sample.
fn slope(window: &[f64], mean: f64) -> f64 {
    let middle = (window.len() as f64 - 1.0) / 2.0;
    let (mut above, mut below) = (0.0, 0.0);
    for (index, sample) in window.iter().enumerate() {
        let x = index as f64 - middle;
        above += x * (sample - mean);
        below += x * x;
    }
    above / below
}

impl fmt::Display for SteadyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let measure = match self.measure {
            Measure::Iops => "iops",
            Measure::Bandwidth => "bw",
            Measure::Latency => "lat",
        };
        let slope = if self.slope { "_slope" } else { "" };
        write!(f, "{measure}{slope}:{}%", self.limit_percent)
    }
}

impl FromStr for SteadyState {
    type Err = String;

    /// fio's `iops:2%`, `iops_slope:0.3%`, `bw`, `bw_slope`, `lat`, `lat_slope`; the limit is always a percentage.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not like iops:2% or lat_slope:0.3%");
        let (name, limit) = text.split_once(':').ok_or_else(wrong)?;
        let limit_percent: f64 = limit
            .strip_suffix('%')
            .and_then(|number| number.parse().ok())
            .filter(|limit: &f64| limit.is_finite() && *limit > 0.0)
            .ok_or_else(wrong)?;
        let (name, slope) = match name.strip_suffix("_slope") {
            Some(name) => (name, true),
            None => (name, false),
        };
        let measure = match name {
            "iops" => Measure::Iops,
            "bw" => Measure::Bandwidth,
            "lat" => Measure::Latency,
            _ => return Err(wrong()),
        };
        Ok(Self {
            measure,
            slope,
            limit_percent,
            window: Self::WINDOW,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn criterion(text: &str, seconds: u64) -> SteadyState {
        SteadyState {
            window: Duration::from_secs(seconds),
            ..text.parse().unwrap()
        }
    }

    #[test]
    fn as_fio_writes_it() {
        for text in ["iops:2%", "bw_slope:0.3%", "lat:5%"] {
            assert_eq!(text.parse::<SteadyState>().unwrap().to_string(), text);
        }
        for text in [
            "iops",
            "iops:2",
            "iops:0%",
            "iops:NaN%",
            "iops:-1%",
            "depth:1%",
            "",
        ] {
            assert!(text.parse::<SteadyState>().is_err(), "{text}");
        }
    }

    #[test]
    fn deviation_and_slope() {
        let deviation = criterion("iops:5%", 4);
        let slope = criterion("iops_slope:5%", 4);
        let check = |samples: &[f64]| {
            (
                deviation.criterion_percent(samples).map(f64::round),
                slope.criterion_percent(samples).map(f64::round),
            )
        };
        assert_eq!(check(&[100.0; 3]), (None, None), "the window is not full");
        assert_eq!(check(&[0.0; 4]), (None, None), "nothing done is not steady");
        assert_eq!(check(&[100.0; 4]), (Some(0.0), Some(0.0)));
        assert_eq!(
            check(&[7.0, 90.0, 110.0, 110.0, 90.0]),
            (Some(10.0), Some(0.0))
        );
        assert_eq!(check(&[85.0, 95.0, 105.0, 115.0]), (Some(15.0), Some(10.0)));
        assert_eq!(
            check(&[115.0, 105.0, 95.0, 85.0]),
            (Some(15.0), Some(-10.0))
        );
        assert!(
            !slope.is_attained(&[115.0, 105.0, 95.0, 85.0]),
            "falling is not steady"
        );
        assert!(slope.is_attained(&[90.0, 110.0, 110.0, 90.0]));
    }
}
