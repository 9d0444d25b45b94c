//! Sizes and times as people write them.

use std::time::Duration;

/// `4096`, `4k`, `1m`, `2g`, `1t`, with or without `iB` or `b`: powers of 1024, as fio has it.
///
/// # Errors
/// A sentence that says what is wanted.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = lower.get(digits.len()..).unwrap_or_default();
    let shift = match unit {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(format!("{unit:?} is not one of k, m, g, t")),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| "a whole number with k, m, g or t behind it".into())
}

/// `3`, `3s`, `500ms`, `2m`, `1h`, `100us`.
///
/// # Errors
/// A sentence that says what is wanted.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.get(digits.len()..).unwrap_or_default();
    let micros = match unit {
        "" | "s" => 1_000_000,
        "us" => 1,
        "ms" => 1_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        _ => return Err(format!("{unit:?} is not one of us, ms, s, m, h")),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(micros))
        .map(Duration::from_micros)
        .ok_or_else(|| "a whole number with us, ms, s, m or h behind it".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times() {
        for (text, bytes) in [
            ("512", 512),
            ("4k", 4096),
            ("1M", 1 << 20),
            ("2GiB", 2 << 30),
            ("1tb", 1 << 40),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "k", "4x", "-1", "1.5k", "99999999999t", "4 k"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
        for (text, millis) in [
            ("3", 3000),
            ("3s", 3000),
            ("500ms", 500),
            ("2m", 120_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for text in ["", "s", "3d", "1.5s", "-1s", "99999999999999999h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
