//! Bytes and nanoseconds: parsed, printed, and nothing else. The only place that knows KiB from kB.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

/// A duration in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

/// A quantity that could not be read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ParseUnitError {
    /// Neither a number nor a number with a known suffix.
    #[error("{text:?} is not a {what}; write for example {example}")]
    Malformed {
        /// What was typed.
        text: String,
        /// What was wanted.
        what: &'static str,
        /// A correct example.
        example: &'static str,
    },
    /// Larger than 64 bits can hold.
    #[error("{text:?} is too large for a {what}")]
    TooLarge {
        /// What was typed.
        text: String,
        /// What was wanted.
        what: &'static str,
    },
}

const BYTE_SUFFIXES: &[(&str, u64)] = &[
    ("", 1),
    ("B", 1),
    ("Ki", 1 << 10),
    ("KiB", 1 << 10),
    ("Mi", 1 << 20),
    ("MiB", 1 << 20),
    ("Gi", 1 << 30),
    ("GiB", 1 << 30),
    ("Ti", 1 << 40),
    ("TiB", 1 << 40),
    ("Pi", 1 << 50),
    ("PiB", 1 << 50),
    ("k", 1_000),
    ("kB", 1_000),
    ("M", 1_000_000),
    ("MB", 1_000_000),
    ("G", 1_000_000_000),
    ("GB", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("TB", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("PB", 1_000_000_000_000_000),
];

const NANO_SUFFIXES: &[(&str, u64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads `number[.fraction]suffix` exactly; what is smaller than the base unit is cut.
fn parse(
    text: &str,
    table: &[(&str, u64)],
    what: &'static str,
    example: &'static str,
) -> Result<u64, ParseUnitError> {
    let malformed = || ParseUnitError::Malformed {
        text: text.to_owned(),
        what,
        example,
    };
    let too_large = || ParseUnitError::TooLarge {
        text: text.to_owned(),
        what,
    };
    let trimmed = text.trim();
    let split = trimmed
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(trimmed.len());
    let (number, suffix) = trimmed.split_at(split);
    let suffix = suffix.trim();
    let scale = table
        .iter()
        .find(|(s, _)| *s == suffix)
        .map(|(_, n)| *n)
        .ok_or_else(malformed)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || (number.contains('.') && fraction.is_empty()) || fraction.contains('.') {
        return Err(malformed());
    }
    let whole: u128 = whole.parse().map_err(|_| too_large())?;
    let mut value = whole.checked_mul(u128::from(scale)).ok_or_else(too_large)?;
    // Beyond the eighteenth digit nothing is left of the largest unit.
    let (mut parts, mut of) = (0_u128, 1_u128);
    for digit in fraction.bytes().take(18) {
        parts = parts * 10 + u128::from(digit.saturating_sub(b'0'));
        of *= 10;
    }
    value += parts * u128::from(scale) / of;
    u64::try_from(value).map_err(|_| too_large())
}

impl FromStr for Bytes {
    type Err = ParseUnitError;

    /// Reads `5Gi`, `5GiB`, `5.5 GiB`, `5G`, `1073741824`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text, BYTE_SUFFIXES, "size", "5Gi").map(Bytes)
    }
}

impl FromStr for Nanos {
    type Err = ParseUnitError;

    /// Reads `500us`, `1.5ms`, `2s`, `10m`. A bare number is refused: its unit would be a guess.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text, NANO_SUFFIXES, "duration", "500us").map(Nanos)
    }
}

/// Prints `value/unit` with at most two decimals, cut rather than rounded, so that a size is never shown larger than it is.
fn scaled(f: &mut fmt::Formatter<'_>, value: u64, unit: u64, name: &str) -> fmt::Result {
    let hundredths = (u128::from(value) * 100) / u128::from(unit);
    let (whole, rest) = (hundredths / 100, hundredths % 100);
    let text = match (rest, rest % 10) {
        (0, _) => format!("{whole} {name}"),
        (_, 0) => format!("{whole}.{} {name}", rest / 10),
        _ => format!("{whole}.{rest:02} {name}"),
    };
    f.pad(&text)
}

impl fmt::Display for Bytes {
    /// IEC units, at most two decimals: `5 GiB`, `1.5 TiB`, `512 B`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [
            (1 << 50, "PiB"),
            (1 << 40, "TiB"),
            (1 << 30, "GiB"),
            (1 << 20, "MiB"),
            (1 << 10, "KiB"),
        ];
        for (unit, name) in units {
            if self.0 >= unit {
                return scaled(f, self.0, unit, name);
            }
        }
        f.pad(&format!("{} B", self.0))
    }
}

impl fmt::Display for Nanos {
    /// `95 µs`, `1.25 ms`, `3 s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, name) in [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs")] {
            if self.0 >= unit {
                return scaled(f, self.0, unit, name);
            }
        }
        f.pad(&format!("{} ns", self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_read_and_print() {
        let cases = [
            ("0", 0, "0 B"),
            ("512", 512, "512 B"),
            ("5Gi", 5 << 30, "5 GiB"),
            ("5 GiB", 5 << 30, "5 GiB"),
            ("1.5TiB", 3 << 39, "1.5 TiB"),
            ("5G", 5_000_000_000, "4.65 GiB"),
            ("1023Ki", 1023 << 10, "1023 KiB"),
        ];
        for (text, bytes, printed) in cases {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
            assert_eq!(Bytes(bytes).to_string(), printed);
        }
        for bad in ["", "x", "5X", "-1", "5.", ".5Gi", "1..5Gi", "20000000000Gi"] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad}");
        }
    }

    #[test]
    fn nanos_read_and_print() {
        for (text, nanos, printed) in [
            ("500us", 500_000, "500 µs"),
            ("1.25ms", 1_250_000, "1.25 ms"),
            ("95ns", 95, "95 ns"),
            ("2s", 2_000_000_000, "2 s"),
        ] {
            assert_eq!(text.parse(), Ok(Nanos(nanos)), "{text}");
            assert_eq!(Nanos(nanos).to_string(), printed);
        }
        assert!("500".parse::<Nanos>().is_err());
    }

    proptest! {
        #[test]
        fn never_printed_larger_than_it_is(bytes: u64) {
            let back: Bytes = Bytes(bytes).to_string().parse().unwrap();
            prop_assert!(back.0 <= bytes);
            prop_assert!(bytes - back.0 <= bytes / 90);
        }
    }
}
