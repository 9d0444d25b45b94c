//! What came of the contests, and what a check makes of it: it passes where something was judged, nothing is short, and all
//! that was asked for by name was judged. What was not judged is not met. Pure.

use super::figures::{Goal, Measure, Outcome, Ratios};

/// A check judges by medians of at least so many rounds.
pub(super) const ROUNDS_MIN: u32 = 7;

/// A contest with what came of it.
pub(super) struct Held {
    pub(super) contest: &'static str,
    /// Its rows, or why it was left out.
    pub(super) lines: Result<Vec<Line>, String>,
}

/// A row with what came of it.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) what: String,
    pub(super) peer: &'static str,
    pub(super) measure: Measure,
    pub(super) goal: Goal,
    /// Or why nothing was measured.
    pub(super) result: Result<Shown, String>,
}

/// Medians of both sides, and the ratios.
pub(super) struct Shown {
    pub(super) ours: f64,
    pub(super) peers: f64,
    pub(super) ratios: Ratios,
}

impl Held {
    /// What of it could not be judged, and why.
    fn unjudged(&self) -> Vec<String> {
        match &self.lines {
            Ok(lines) => {
                let of = |line: &Line| {
                    let why = line.result.as_ref().err()?;
                    Some(format!("{} ({why})", line.name))
                };
                lines.iter().filter_map(of).collect()
            }
            Err(why) => vec![format!("{} (left out: {why})", self.contest)],
        }
    }
}

impl Line {
    /// `None` where it could not be judged.
    fn outcome(&self) -> Option<Outcome> {
        let shown = self.result.as_ref().ok()?;
        Some(shown.ratios.against(self.goal))
    }
}

/// What a comparison exits with, and why a check did not pass: of one that failed or was ended nothing is judged, and
/// without `--check` nothing at all.
pub(super) fn code(
    held: &[Held],
    only: &[String],
    check: bool,
    ended: bool,
) -> (u8, Option<String>) {
    if ended {
        return (crate::FAILED, None);
    }
    match failing(held, only).filter(|_| check) {
        Some(why) => (crate::REFUSED, Some(why)),
        None => (0, None),
    }
}

/// Why a check does not pass. `only` names contests of which each row has to be judged.
fn failing(held: &[Held], only: &[String]) -> Option<String> {
    let lines = || held.iter().flat_map(|held| held.lines.iter().flatten());
    let short: Vec<&str> = lines()
        .filter(|line| line.outcome() == Some(Outcome::Short))
        .map(|line| line.name.as_str())
        .collect();
    if !short.is_empty() {
        return Some(format!("short: {}", short.join(", ")));
    }
    let unjudged: Vec<String> = held
        .iter()
        .filter(|held| only.iter().any(|only| only == held.contest))
        .flat_map(Held::unjudged)
        .collect();
    if !unjudged.is_empty() {
        return Some(format!(
            "asked for by --only and not judged: {}",
            unjudged.join(", ")
        ));
    }
    let is_judged = lines().any(|line| line.outcome().is_some());
    (!is_judged).then(|| "nothing was judged".to_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn line(ratios: &[f64]) -> Line {
        let shown = Ratios::new(ratios.to_vec()).map(|ratios| Shown {
            ours: 1.0,
            peers: 1.0,
            ratios,
        });
        Line {
            name: "nop/cpu".into(),
            what: "no-ops".into(),
            peer: "another",
            measure: Measure::Iops,
            goal: Goal::AtLeast(1.0),
            result: shown.ok_or_else(|| "it is not on this machine".to_owned()),
        }
    }

    pub(in super::super) fn left_out(contest: &'static str) -> Held {
        Held {
            contest,
            lines: Err("the reason".into()),
        }
    }

    fn nop(ratios: &[&[f64]]) -> Held {
        Held {
            contest: "nop",
            lines: Ok(ratios.iter().map(|ratios| line(ratios)).collect()),
        }
    }

    const MET: &[f64] = &[1.0, 1.1, 1.2];
    const CLOSE: &[f64] = &[0.8, 0.9, 1.2];
    const SHORT: &[f64] = &[0.7, 0.8, 0.9];
    const MISSING: &[f64] = &[];

    #[test]
    fn only_what_is_short_and_was_to_be_checked_is_told_by_the_exit_code() {
        for (rows, check, ended, wanted) in [
            (&[MET, CLOSE, MISSING][..], true, false, 0),
            (&[MET, SHORT], true, false, crate::REFUSED),
            (&[MET, SHORT], false, false, 0),
            (&[SHORT], true, true, crate::FAILED),
            (&[MET], false, true, crate::FAILED),
        ] {
            let (code, why) = code(&[nop(rows)], &[], check, ended);
            assert_eq!(code, wanted);
            assert_eq!(why.is_some(), wanted == crate::REFUSED);
        }
    }

    #[test]
    fn what_was_not_judged_does_not_pass_a_check() {
        let only = ["nop".to_owned()];
        let all: &[String] = &[];
        for (held, only, why) in [
            (vec![], all, Some("nothing was judged")),
            (vec![nop(&[MISSING])], all, Some("nothing was judged")),
            (vec![left_out("erase-8")], all, Some("nothing was judged")),
            (vec![nop(&[MET]), left_out("erase-8")], all, None),
            (vec![nop(&[MET])], &only, None),
            (
                vec![nop(&[MET, MISSING])],
                &only,
                Some("asked for by --only and not judged: nop/cpu (it is not on this machine)"),
            ),
            (
                vec![left_out("nop")],
                &only,
                Some("asked for by --only and not judged: nop (left out: the reason)"),
            ),
            (vec![nop(&[MISSING, SHORT])], &only, Some("short: nop/cpu")),
        ] {
            let wanted = if why.is_some() { crate::REFUSED } else { 0 };
            let told = why.map(str::to_owned);
            assert_eq!(code(&held, only, true, false), (wanted, told));
            assert_eq!(code(&held, only, false, false), (0, None));
        }
    }
}
