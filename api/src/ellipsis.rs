//! Ellipses in names, as people type them: `node-{1...4}`, `loop{08...11}`, `sd{b...e}`, and several in one word.
//!
//! Bounds are inclusive and may run either way; numbers with a leading zero keep their width. A pattern stands for a
//! bounded list, which is made before anything is matched, so that what a command will touch can be shown.

use std::collections::BTreeSet;

/// Most names that one pattern may stand for.
pub const NAMES_MAX: usize = 10_000;

/// A pattern that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EllipsisError {
    /// A brace without its partner.
    #[error("{0:?} has a brace without its partner; write for example nvme{{0...3}}n1")]
    Unbalanced(String),
    /// What stands in the braces is no range.
    #[error("{{{range}}} in {pattern:?} is not a range; write {{1...4}} or {{a...z}}")]
    NotARange {
        /// The whole pattern.
        pattern: String,
        /// What stands in the braces.
        range: String,
    },
    /// It stands for more names than is sensible.
    #[error("{0:?} stands for more than {NAMES_MAX} names")]
    TooMany(String),
    /// Nothing was typed.
    #[error("an empty name")]
    Empty,
}

/// The names that a pattern stands for, in the order in which it says them. A word without braces stands for itself.
///
/// # Errors
/// The pattern cannot be read, or stands for more than [`NAMES_MAX`] names.
pub fn expand(pattern: &str) -> Result<Vec<String>, EllipsisError> {
    let unbalanced = || EllipsisError::Unbalanced(pattern.to_owned());
    if pattern.trim().is_empty() {
        return Err(EllipsisError::Empty);
    }
    let mut names = vec![String::new()];
    let mut rest = pattern.trim();
    while let Some((literal, after)) = rest.split_once('{') {
        let (range, tail) = after.split_once('}').ok_or_else(unbalanced)?;
        if literal.contains('}') || range.contains('{') {
            return Err(unbalanced());
        }
        let choices = choices(pattern, range)?;
        if names.len().saturating_mul(choices.len()) > NAMES_MAX {
            return Err(EllipsisError::TooMany(pattern.to_owned()));
        }
        names = names
            .iter()
            .flat_map(|head| {
                choices
                    .iter()
                    .map(move |one| format!("{head}{literal}{one}"))
            })
            .collect();
        rest = tail;
    }
    if rest.contains('}') {
        return Err(unbalanced());
    }
    for name in &mut names {
        name.push_str(rest);
    }
    Ok(names)
}

/// All names that any of several patterns stands for.
///
/// # Errors
/// As [`expand`].
pub fn expand_all<'a>(
    patterns: impl IntoIterator<Item = &'a str>,
) -> Result<BTreeSet<String>, EllipsisError> {
    let mut all = BTreeSet::new();
    for pattern in patterns {
        all.extend(expand(pattern)?);
    }
    Ok(all)
}

/// What `first...last` stands for.
fn choices(pattern: &str, range: &str) -> Result<Vec<String>, EllipsisError> {
    let not_a_range = || EllipsisError::NotARange {
        pattern: pattern.to_owned(),
        range: range.to_owned(),
    };
    let (first, last) = range.split_once("...").ok_or_else(not_a_range)?;
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty();
    if number(first) && number(last) {
        let low: u64 = first.parse().map_err(|_| not_a_range())?;
        let high: u64 = last.parse().map_err(|_| not_a_range())?;
        let width = match first.len().max(last.len()) {
            width if padded(first) || padded(last) => width,
            _ => 0,
        };
        return bounded(pattern, low, high)
            .map(|all| all.into_iter().map(|n| format!("{n:0width$}")).collect());
    }
    let letter = |text: &str| match text.as_bytes() {
        [byte] if byte.is_ascii_lowercase() || byte.is_ascii_uppercase() => Some(*byte),
        _ => None,
    };
    match (letter(first), letter(last)) {
        (Some(low), Some(high)) if low.is_ascii_lowercase() == high.is_ascii_lowercase() => {
            let all = bounded(pattern, low.into(), high.into())?;
            Ok(all
                .into_iter()
                .filter_map(|n| u8::try_from(n).ok())
                .map(|byte| char::from(byte).to_string())
                .collect())
        }
        _ => Err(not_a_range()),
    }
}

/// Whether a number is written with zeros before it, as those between the bounds are to be then. A lone 0 is not.
fn padded(number: &str) -> bool {
    number.len() > 1 && number.starts_with('0')
}

/// The numbers from one bound to the other, whichever is larger.
fn bounded(pattern: &str, from: u64, to: u64) -> Result<Vec<u64>, EllipsisError> {
    let too_many = || EllipsisError::TooMany(pattern.to_owned());
    let count = usize::try_from(from.abs_diff(to)).map_err(|_| too_many())?;
    if count >= NAMES_MAX {
        return Err(too_many());
    }
    Ok(if from <= to {
        (from..=to).collect()
    } else {
        (to..=from).rev().collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_stand_for_what_they_say() {
        let cases: &[(&str, &[&str])] = &[
            ("vda", &["vda"]),
            (" sdb ", &["sdb"]),
            ("loop{10...12}", &["loop10", "loop11", "loop12"]),
            ("{3...1}", &["3", "2", "1"]),
            (
                "d{0...10}",
                &[
                    "d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "d8", "d9", "d10",
                ],
            ),
            ("n{08...10}", &["n08", "n09", "n10"]),
            ("sd{b...d}", &["sdb", "sdc", "sdd"]),
            ("sd{A...B}", &["sdA", "sdB"]),
            (
                "nvme{0...1}n{1...2}",
                &["nvme0n1", "nvme0n2", "nvme1n1", "nvme1n2"],
            ),
            ("{1...1}x", &["1x"]),
        ];
        for (pattern, names) in cases {
            assert_eq!(expand(pattern).unwrap(), *names, "{pattern}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for bad in [
            "",
            " ",
            "a{1...2",
            "a}",
            "a}b{1...2}",
            "{{1...2}}",
            "{1..2}",
            "{1...b}",
            "{...}",
            "{a...B}",
            "{aa...bb}",
            "{-1...2}",
            "{1...99999999999999999999}",
            "{0...10000}",
            "{1...200}{1...200}",
            "{0...18446744073709551615}",
        ] {
            assert!(expand(bad).is_err(), "{bad}");
        }
        assert_eq!(expand("{1...10000}").unwrap().len(), NAMES_MAX);
    }

    #[test]
    fn several_patterns_make_one_set() {
        let all = expand_all(["sd{a...b}", "sda", "sdc"]).unwrap();
        assert_eq!(all.into_iter().collect::<Vec<_>>(), ["sda", "sdb", "sdc"]);
        assert!(expand_all(["sda", "{"]).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(pattern in ".*") {
            if let Ok(names) = expand(&pattern) {
                prop_assert!(!names.is_empty() && names.len() <= NAMES_MAX);
            }
        }

        #[test]
        fn a_range_has_each_of_its_numbers(from in 0_u64..5000, to in 0_u64..5000) {
            let names = expand(&format!("d{{{from}...{to}}}")).unwrap();
            prop_assert_eq!(names.len(), usize::try_from(from.abs_diff(to)).unwrap() + 1);
            let first = format!("d{from}");
            let last = format!("d{to}");
            prop_assert_eq!(names.first(), Some(&first));
            prop_assert_eq!(names.last(), Some(&last));
        }
    }
}
