//! When a device has settled: fio's steady state. A window of one-second samples slides; a run is steady when, over a full
//! window, the samples' slope or their largest deviation from the mean stays below a limit: a share of the mean, or a
//! number. What the first seconds of a run gave may be left out. Pure.

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
    /// It must stay below this (a slope: per second).
    pub limit: f64,
    /// The limit is in percent of the mean; otherwise in operations a second, bytes a second or nanoseconds.
    pub percent: bool,
    /// Length of the window; fio's `steadystate_duration`.
    pub window: Duration,
    /// Samples of the first so much measured time are not looked at; fio's `steadystate_ramp_time`.
    pub ramp: Duration,
}

impl SteadyState {
    /// The window where none is given.
    pub const WINDOW: Duration = Duration::from_secs(10);

    /// The latest window of these one-second samples, all of them later than the ramp; none before it is full. At
    /// least two samples: one alone deviates from nothing.
    #[must_use]
    pub fn latest<'a, T>(&self, samples: &'a [T]) -> Option<&'a [T]> {
        let ramp = usize::try_from(self.ramp.as_millis().div_ceil(1000)).ok()?;
        let count = usize::try_from(self.window.as_secs()).ok()?.max(2);
        let later = samples.get(ramp..)?;
        later.get(later.len().checked_sub(count)?..)
    }

    /// The slope per second or the largest deviation over the latest window, in the samples' unit.
    #[must_use]
    pub fn value(&self, samples: &[f64]) -> Option<f64> {
        let window = self.latest(samples)?;
        let mean = mean(window);
        Some(if self.slope {
            slope(window, mean)
        } else {
            window
                .iter()
                .map(|sample| (sample - mean).abs())
                .fold(0.0, f64::max)
        })
    }

    /// What is compared with the limit, in its unit; none before the window is full, or when nothing was done in it.
    #[must_use]
    pub fn criterion(&self, samples: &[f64]) -> Option<f64> {
        let value = self.value(samples)?;
        let mean = mean(self.latest(samples)?);
        (mean > 0.0).then_some(if self.percent {
            value / mean * 100.0
        } else {
            value
        })
    }

    /// Whether these samples are steady.
    #[must_use]
    pub fn is_attained(&self, samples: &[f64]) -> bool {
        self.criterion(samples)
            .is_some_and(|criterion| criterion.abs() < self.limit)
    }
}

fn mean(samples: &[f64]) -> f64 {
    samples.iter().sum::<f64>() / samples.len() as f64
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
        let unit = if self.percent { "%" } else { "" };
        write!(f, "{measure}{slope}:{}{unit}", self.limit)
    }
}

impl FromStr for SteadyState {
    type Err = String;

    /// fio's `iops:2%`, `iops_slope:0.3%`, `bw`, `bw_slope`, `lat`, `lat_slope`; a limit without `%` is a number of
    /// operations a second, bytes a second or nanoseconds.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not like iops:2% or lat_slope:0.3%");
        let (name, limit) = text.split_once(':').ok_or_else(wrong)?;
        let (limit, percent) = match limit.strip_suffix('%') {
            Some(number) => (number, true),
            None => (limit, false),
        };
        let limit = limit
            .parse()
            .ok()
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
            limit,
            percent,
            window: Self::WINDOW,
            ramp: Duration::ZERO,
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
        for text in ["iops:2%", "bw_slope:0.3%", "lat:5%", "iops:500"] {
            assert_eq!(text.parse::<SteadyState>().unwrap().to_string(), text);
        }
        for text in [
            "iops",
            "iops:0%",
            "iops:0",
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
                deviation.criterion(samples).map(f64::round),
                slope.criterion(samples).map(f64::round),
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
    #[test]
    fn a_limit_may_be_a_number() {
        let steady = criterion("iops:16", 4);
        assert_eq!(steady.criterion(&[85.0, 95.0, 105.0, 115.0]), Some(15.0));
        assert!(steady.is_attained(&[85.0, 95.0, 105.0, 115.0]));
        assert!(!criterion("iops:15", 4).is_attained(&[85.0, 95.0, 105.0, 115.0]));
        let slope = criterion("iops_slope:11", 4);
        assert_eq!(slope.criterion(&[85.0, 95.0, 105.0, 115.0]), Some(10.0));
    }

    #[test]
    fn the_ramp_is_left_out() {
        let steady = SteadyState {
            ramp: Duration::from_millis(1500),
            ..criterion("iops:5%", 2)
        };
        let samples = [100.0, 100.0, 50.0, 50.0];
        assert!(!steady.is_attained(&samples[..3]), "the window is not full");
        assert!(steady.is_attained(&samples));
        assert_eq!(steady.latest(&samples), Some(&samples[2..]));
    }
}
