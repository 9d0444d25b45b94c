//! What an NVMe drive says of a command that failed, in words.

use std::fmt;

/// The status of a command, as the kernel passes it on: code, type and flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NvmeStatus(u16);

/// Nothing is gained by trying again.
const DO_NOT_RETRY: u16 = 1 << 14;

/// Types, with the codes that a read, a format or a sanitize may meet.
const GENERIC: u16 = 0;
const SPECIFIC: u16 = 1;
const MEDIUM: u16 = 2;
const PATH: u16 = 3;
const VENDOR: u16 = 7;

const NAMES: &[(u16, u16, &str)] = &[
    (GENERIC, 0x01, "invalid opcode"),
    (GENERIC, 0x02, "invalid field"),
    (GENERIC, 0x04, "data transfer error"),
    (GENERIC, 0x06, "internal error"),
    (GENERIC, 0x07, "abort requested"),
    (GENERIC, 0x0b, "invalid namespace or format"),
    (GENERIC, SANITIZE_FAILED, "sanitize failed"),
    (GENERIC, 0x1d, "sanitize in progress"),
    (GENERIC, 0x20, "namespace is write protected"),
    (GENERIC, 0x21, "command interrupted"),
    (GENERIC, 0x80, "LBA out of range"),
    (GENERIC, 0x82, "namespace not ready"),
    (GENERIC, 0x83, "reservation conflict"),
    (GENERIC, 0x84, "format in progress"),
    (SPECIFIC, 0x0a, "invalid format"),
    (SPECIFIC, 0x0b, "new firmware waits for a reset"),
    (MEDIUM, 0x81, "unrecovered read error"),
    (MEDIUM, 0x82, "guard check error"),
    (MEDIUM, 0x83, "application tag check error"),
    (MEDIUM, 0x84, "reference tag check error"),
    (MEDIUM, 0x86, "access denied"),
    (MEDIUM, 0x87, "deallocated or unwritten block"),
    (PATH, 0x00, "internal path error"),
    (PATH, 0x02, "path inaccessible"),
    (PATH, 0x03, "path in transition"),
    (PATH, 0x70, "host path error"),
    (PATH, 0x71, "aborted by the host"),
];

/// Of the generic ones: the latest Sanitize failed, and nothing but another one is done.
const SANITIZE_FAILED: u16 = 0x1c;

impl NvmeStatus {
    /// From the kernel's number, which is not 0.
    #[must_use]
    pub const fn new(status: u16) -> Self {
        Self(status)
    }

    const fn kind(self) -> u16 {
        self.0 >> 8 & 0b111
    }

    const fn code(self) -> u16 {
        self.0 & 0xff
    }

    /// Whether the drive does nothing because its latest Sanitize failed.
    pub(crate) const fn is_sanitize_failed(self) -> bool {
        self.kind() == GENERIC && self.code() == SANITIZE_FAILED
    }

    /// Whether the same command may succeed soon: the drive does not say otherwise, and it is not the medium.
    #[must_use]
    pub const fn is_transient(self) -> bool {
        self.0 & DO_NOT_RETRY == 0 && matches!(self.kind(), GENERIC | PATH)
    }
}

impl fmt::Display for NvmeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, code) = (self.kind(), self.code());
        let name = NAMES.iter().find(|(k, c, _)| (*k, *c) == (kind, code));
        let name = name.map_or_else(
            || match kind {
                GENERIC => "generic",
                SPECIFIC => "of this command",
                MEDIUM => "of the medium",
                PATH => "of the path",
                VENDOR => "of the vendor",
                _ => "unknown",
            },
            |(.., name)| name,
        );
        write!(f, "NVMe status {kind:x}h/{code:02x}h: {name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_words() {
        let say = |status| NvmeStatus::new(status).to_string();
        assert_eq!(say(0x281), "NVMe status 2h/81h: unrecovered read error");
        // With the flags of a drive that has more to say.
        assert_eq!(say(0x6281), "NVMe status 2h/81h: unrecovered read error");
        assert_eq!(say(0x4080), "NVMe status 0h/80h: LBA out of range");
        assert_eq!(say(0x7c1), "NVMe status 7h/c1h: of the vendor");
    }

    #[test]
    fn what_passes() {
        let passes = |status| NvmeStatus::new(status).is_transient();
        assert!(passes(0x021) && passes(0x370));
        assert!(!passes(0x4021) && !passes(0x281) && !passes(0x180));
    }
}
