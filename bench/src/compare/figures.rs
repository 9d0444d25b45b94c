//! What is compared, as numbers: figures of one run, ratios over all rounds, goals. Pure.

use std::fmt;

/// What one run of one side showed. What a tool does not say is not there.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    /// From start to end, in seconds.
    pub(crate) wall_s: f64,
    /// CPU time of its processes outside the kernel, in seconds.
    pub(crate) user_s: f64,
    /// And inside.
    pub(crate) system_s: f64,
    /// Operations that it did.
    pub(crate) operations: Option<f64>,
    /// Operations a second, by its own count.
    pub(crate) iops: Option<f64>,
    /// Bytes a second, by its own count.
    pub(crate) bytes_per_s: Option<f64>,
    /// Median latency in nanoseconds.
    pub(crate) p50_ns: Option<f64>,
    /// 99th percentile of the latency in nanoseconds.
    pub(crate) p99_ns: Option<f64>,
}

/// One after another: what was counted and taken, not what a tool says of itself.
impl std::ops::AddAssign for Figures {
    fn add_assign(&mut self, other: Self) {
        *self = Self {
            wall_s: self.wall_s + other.wall_s,
            user_s: self.user_s + other.user_s,
            system_s: self.system_s + other.system_s,
            ..Self::default()
        };
    }
}

/// Which of them counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    /// Operations a second.
    Iops,
    /// Bytes a second.
    BytesPerSecond,
    /// CPU time an operation: of the whole process, so that what a tool does beside its loop counts, too.
    Cpu,
    /// The part of it outside the kernel.
    UserCpu,
    /// CPU time a byte.
    CpuPerByte,
    /// Median latency.
    P50,
    /// 99th percentile of the latency.
    P99,
    /// Time from start to end.
    Wall,
}

impl Measure {
    pub(crate) fn of(self, figures: &Figures) -> Option<f64> {
        let cpu_s = figures.user_s + figures.system_s;
        match self {
            Self::Iops => figures.iops,
            Self::BytesPerSecond => figures.bytes_per_s,
            Self::Cpu => Some(cpu_s / figures.operations?),
            Self::UserCpu => Some(figures.user_s / figures.operations?),
            Self::CpuPerByte => Some(cpu_s / (figures.bytes_per_s? * figures.wall_s)),
            Self::P50 => figures.p50_ns,
            Self::P99 => figures.p99_ns,
            Self::Wall => Some(figures.wall_s),
        }
        .filter(|value| value.is_finite() && *value > 0.0)
    }

    /// Ours over the peer's; of times the peer's over ours, so that it says how often as fast.
    pub(crate) fn ratio(self, ours: f64, peers: f64) -> f64 {
        if self == Self::Wall {
            return peers / ours;
        }
        ours / peers
    }

    /// For people.
    pub(crate) fn text(self, value: f64) -> String {
        let nanos = |seconds: f64| bench::report::time(whole(seconds * 1e9));
        match self {
            Self::Iops => bench::report::count(value),
            Self::BytesPerSecond => format!("{}/s", bench::report::bytes(value)),
            Self::Cpu | Self::UserCpu | Self::Wall => nanos(value),
            Self::CpuPerByte => format!("{}/MiB", nanos(value * 1_048_576.0)),
            Self::P50 | Self::P99 => bench::report::time(whole(value)),
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a time, not negative; a float that does not fit becomes the largest number"
)]
const fn whole(value: f64) -> u64 {
    value.round() as u64
}

/// What a ratio should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
    /// From one to the other.
    Within(f64, f64),
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "≥ {least:.2}"),
            Self::AtMost(most) => write!(f, "≤ {most:.2}"),
            Self::Within(least, most) => write!(f, "{least:.2}–{most:.2}"),
        }
    }
}

impl Goal {
    fn holds(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(least) => ratio >= least,
            Self::AtMost(most) => ratio <= most,
            Self::Within(least, most) => (least..=most).contains(&ratio),
        }
    }
}

/// The ratios of all rounds, ascending.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ratios(Vec<f64>);

/// How a row ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The median is as it should be.
    Met,
    /// The median is not, but the better quartile is: noise may be the reason.
    Close,
    /// Neither is.
    Short,
}

impl Outcome {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Close => "close",
            Self::Short => "short",
        }
    }
}

impl Ratios {
    /// At least one.
    pub(crate) fn new(mut ratios: Vec<f64>) -> Option<Self> {
        ratios.sort_by(f64::total_cmp);
        (!ratios.is_empty()).then_some(Self(ratios))
    }

    /// The value below which `share` of them are, interpolated.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let place = share * (self.0.len().saturating_sub(1)) as f64;
        let at = |index: f64| {
            let index = usize::try_from(whole(index)).unwrap_or(0);
            self.0.get(index).copied().unwrap_or(f64::NAN)
        };
        let (below, above) = (at(place.floor()), at(place.ceil()));
        below + (above - below) * (place - place.floor())
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// A single round of a noisy machine says little, and many rounds have a spread: short is what misses the goal by its
    /// median and by the quartile that is nearer to the goal.
    pub(crate) fn against(&self, goal: Goal) -> Outcome {
        let near = match goal {
            Goal::AtLeast(_) => self.quantile(0.75),
            Goal::AtMost(_) => self.quantile(0.25),
            Goal::Within(least, _) if self.median() < least => self.quantile(0.75),
            Goal::Within(..) => self.quantile(0.25),
        };
        if goal.holds(self.median()) {
            Outcome::Met
        } else if goal.holds(near) {
            Outcome::Close
        } else {
            Outcome::Short
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratios(values: &[f64]) -> Ratios {
        Ratios::new(values.to_vec()).unwrap()
    }

    #[test]
    fn quantiles() {
        let five = ratios(&[5.0, 1.0, 3.0, 2.0, 4.0]);
        assert_eq!(five.median(), 3.0);
        assert_eq!((five.quantile(0.0), five.quantile(1.0)), (1.0, 5.0));
        assert_eq!(five.quantile(0.75), 4.0);
        assert_eq!(ratios(&[1.0, 2.0]).median(), 1.5);
        assert_eq!(ratios(&[7.0]).quantile(0.9), 7.0);
        assert_eq!(Ratios::new(Vec::new()), None);
    }

    #[test]
    fn goals_and_outcomes() {
        let spread = ratios(&[0.8, 0.9, 1.0, 1.1, 1.2]);
        let cases = [
            (Goal::AtLeast(1.0), Outcome::Met),
            (Goal::AtLeast(1.05), Outcome::Close),
            (Goal::AtLeast(1.15), Outcome::Short),
            (Goal::AtMost(1.0), Outcome::Met),
            (Goal::AtMost(0.95), Outcome::Close),
            (Goal::AtMost(0.85), Outcome::Short),
            (Goal::Within(0.85, 1.05), Outcome::Met),
            (Goal::Within(1.05, 1.15), Outcome::Close),
            (Goal::Within(0.1, 0.95), Outcome::Close),
            (Goal::Within(0.1, 0.5), Outcome::Short),
        ];
        for (goal, outcome) in cases {
            assert_eq!(spread.against(goal), outcome, "{goal}");
        }
    }

    #[test]
    fn measures() {
        let figures = Figures {
            wall_s: 2.0,
            user_s: 0.5,
            system_s: 1.5,
            operations: Some(1000.0),
            bytes_per_s: Some(100.0),
            ..Figures::default()
        };
        let of = |measure: Measure| measure.of(&figures);
        assert_eq!(of(Measure::Cpu), Some(0.002));
        assert_eq!(of(Measure::UserCpu), Some(0.0005));
        assert_eq!(of(Measure::CpuPerByte), Some(0.01));
        assert_eq!(of(Measure::Iops), None, "not said");
        assert_eq!(Measure::Wall.ratio(2.0, 8.0), 4.0, "four times as fast");
        assert_eq!(Measure::Cpu.ratio(2.0, 8.0), 0.25);
        assert_eq!(Measure::Cpu.text(1.3e-6), "1.30 µs");
        assert_eq!(Measure::Wall.text(0.0621), "62.1 ms");
    }
}
