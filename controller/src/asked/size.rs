//! How large a volume becomes. Sizes are multiples of 4 KiB, the block that quota counts in; a request without a size
//! gets 1 GiB; no volume is smaller than 1 MiB.

use api::csi::CapacityRange;
use api::{Bytes, Reason};
use tonic::Status;

/// What sizes are multiples of.
pub const STEP_BYTES: u64 = 4 << 10;
/// The smallest volume.
pub const SIZE_BYTES_MIN: u64 = 1 << 20;
/// The size where none is asked for.
pub const SIZE_BYTES_DEFAULT: u64 = 1 << 30;

/// Bytes wanted: at least, and at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    required: u64,
    limit: Option<u64>,
}

fn refusal(reason: Reason, sentence: &str) -> Status {
    api::status::status(reason, sentence)
}

impl Range {
    /// Reads what a caller asked for.
    pub fn parse(range: Option<&CapacityRange>) -> Result<Self, Status> {
        let range = range.copied().unwrap_or_default();
        let read = |bytes: i64, what: &str| {
            u64::try_from(bytes).map_err(|_| {
                let sentence = format!("{what} is {bytes}: a size is not negative");
                refusal(Reason::InvalidArgument, &sentence)
            })
        };
        let required = read(range.required_bytes, "required_bytes")?;
        let limit = read(range.limit_bytes, "limit_bytes")?;
        let limit = (limit > 0).then_some(limit);
        if limit.is_some_and(|limit| limit < required) {
            let sentence = "limit_bytes is less than required_bytes";
            return Err(refusal(Reason::InvalidArgument, sentence));
        }
        Ok(Self { required, limit })
    }

    /// Whether no size was asked for.
    pub const fn is_open(self) -> bool {
        self.required == 0 && self.limit.is_none()
    }

    /// The size that a new volume gets.
    pub fn choose(self) -> Result<u64, Status> {
        let largest = self.limit.map(|limit| limit / STEP_BYTES * STEP_BYTES);
        let wanted = match self.required {
            0 => SIZE_BYTES_DEFAULT.min(largest.unwrap_or(SIZE_BYTES_DEFAULT)),
            required => required,
        };
        let size = wanted
            .max(SIZE_BYTES_MIN)
            .checked_next_multiple_of(STEP_BYTES)
            .ok_or_else(|| refusal(Reason::CapacityExceeded, "no drive is that large"))?;
        match self.limit {
            Some(limit) if size > limit => {
                let sentence = format!(
                    "sizes are multiples of {} and at least {}: none is between {} and {limit} bytes",
                    Bytes(STEP_BYTES),
                    Bytes(SIZE_BYTES_MIN),
                    self.required,
                );
                Err(refusal(Reason::CapacityExceeded, &sentence))
            }
            Some(_) | None => Ok(size),
        }
    }

    /// Whether a volume that is there already is what is asked for.
    pub fn holds(self, bytes: u64) -> bool {
        bytes >= self.required && self.limit.is_none_or(|limit| bytes <= limit)
    }

    /// Whether a volume of so many bytes is too large already.
    pub fn is_below(self, bytes: u64) -> bool {
        self.limit.is_some_and(|limit| bytes > limit)
    }
}

/// As the wire has it.
pub fn wire(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[test]
    fn sizes() {
        const GIB: i64 = 1 << 30;
        for (required_bytes, limit_bytes, wanted) in [
            (0, 0, Ok(GIB)),
            (5 * GIB, 0, Ok(5 * GIB)),
            (5 * GIB + 1, 0, Ok(5 * GIB + 4096)),
            (5 * GIB + 1, 6 * GIB, Ok(5 * GIB + 4096)),
            (5 * GIB, 5 * GIB, Ok(5 * GIB)),
            (0, GIB / 2 + 5, Ok(GIB / 2)),
            (0, 9 * GIB, Ok(GIB)),
            (1, 0, Ok(1 << 20)),
            (5 * GIB + 1, 5 * GIB + 2, Err(Code::OutOfRange)),
            (0, 4096, Err(Code::OutOfRange)),
            (1, 4096, Err(Code::OutOfRange)),
            (-1, 0, Err(Code::InvalidArgument)),
            (0, -1, Err(Code::InvalidArgument)),
            (2, 1, Err(Code::InvalidArgument)),
        ] {
            let range = CapacityRange {
                required_bytes,
                limit_bytes,
            };
            let size = Range::parse(Some(&range)).and_then(Range::choose);
            let size = size.map(wire).map_err(|status| status.code());
            assert_eq!(size, wanted, "{required_bytes}..{limit_bytes}");
        }
        assert_eq!(
            Range::parse(None).and_then(Range::choose).unwrap(),
            SIZE_BYTES_DEFAULT
        );
    }

    #[test]
    fn what_is_there_already() {
        let range = |required, limit| Range { required, limit };
        assert!(range(0, None).holds(1 << 30));
        assert!(range(5, None).holds(6));
        assert!(!range(7, None).holds(6));
        assert!(!range(1, Some(5)).holds(6));
        assert!(range(1, Some(5)).is_below(6));
    }
}
