//! How a drive is to be erased, and how it was.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Bytes;

/// How a device is erased.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Erase {
    /// Method.
    #[serde(default)]
    pub method: EraseMethod,
    /// What is read back.
    #[serde(default)]
    pub verify: EraseVerify,
}

/// Methods of erasing.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum EraseMethod {
    /// Offloaded zeroing of the whole device where it has it, else every signature area. Never hours long.
    #[default]
    Auto,
    /// Every area in which a signature may be.
    Signatures,
    /// The whole device, by writes of zeroes where it cannot do it itself. May take hours.
    Zero,
    /// NVMe Format with a secure erase, of this namespace alone; then as `Auto`. Refused where the drive would format others.
    Format,
    /// NVMe Sanitize of the whole drive; then as `Auto`. Refused where the drive has other namespaces. Cannot be interrupted:
    /// until it is through the drive answers nothing.
    Sanitize,
}

impl EraseMethod {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Auto,
        Self::Signatures,
        Self::Zero,
        Self::Format,
        Self::Sanitize,
    ];

    /// Whether the drive destroys what its cells hold, and with it all else that is on it.
    #[must_use]
    pub const fn is_secure(self) -> bool {
        matches!(self, Self::Format | Self::Sanitize)
    }
}

impl FromStr for EraseMethod {
    type Err = String;

    /// In small letters or as the API has it.
    fn from_str(text: &str) -> Result<Self, String> {
        let word = |method: &Self| format!("{method:?}").to_ascii_lowercase();
        let found = Self::ALL
            .iter()
            .find(|one| word(one) == text.to_ascii_lowercase());
        let words = || Self::ALL.iter().map(word).collect::<Vec<_>>().join(", ");
        found
            .copied()
            .ok_or_else(|| format!("it is one of {}", words()))
    }
}

/// What is read back after erasing.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum EraseVerify {
    /// Nothing.
    None,
    /// Signature areas and a seeded sample.
    #[default]
    Sample,
    /// Everything that was erased.
    Full,
}

/// What removal does beyond letting go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Removal {
    /// A person's word, checked against this very drive, that its data may be destroyed.
    pub erase: Erase,
}

/// How a drive was erased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ErasedProof {
    /// What was done, in order: `format-crypto`, `format-user-data`, `sanitize-block`, `sanitize-crypto` and
    /// `sanitize-overwrite` (the drive erased its cells), `punch-hole`, `zero-range` and `write-zeroes` (the device zeroed by
    /// itself), `zero-writes` (zeroes were written). Those from before an interruption come first.
    pub method: String,
    /// Bytes that were erased.
    pub bytes: u64,
    /// Bytes that were read back as zero, past every cache of the host.
    pub verified_bytes: u64,
    /// How much was read back.
    pub verify: EraseVerify,
    /// What it is worth. Zeroing is logical, read back or not: the device answers zeroes, and its cells may keep older data
    /// that its maker's tools could reach. Only what destroys the cells' content, NVMe Sanitize and Format with a secure
    /// erase, is physical; that it did so is the drive's own word, what is read back is what it was zeroed with afterwards.
    pub level: EraseLevel,
    /// When it was done.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub at: Timestamp,
}

/// What an erasure is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EraseLevel {
    /// Only the areas of signatures were zeroed; other data may be read by who reads the raw device.
    Signatures,
    /// The device answers zeroes everywhere; its cells may keep older data.
    Logical,
    /// The device destroyed its cells' content (NVMe Format or Sanitize).
    Physical,
}

impl EraseLevel {
    /// What it means, for people.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Signatures => {
                "signature areas alone: other data can still be read from the raw device"
            }
            Self::Logical => "logical: the device answers zeroes, its cells may keep older data",
            Self::Physical => "physical: the device destroyed what its cells held",
        }
    }
}

impl fmt::Display for ErasedProof {
    /// `640 MiB by punch-hole, 41 MiB read back (sample); logical: …`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bytes, method) = (Bytes(self.bytes), &self.method);
        let meaning = self.level.meaning();
        let verified = match self.verify {
            EraseVerify::None => "nothing read back".to_owned(),
            EraseVerify::Sample => format!("{} read back (sample)", Bytes(self.verified_bytes)),
            EraseVerify::Full => format!("{} read back (all)", Bytes(self.verified_bytes)),
        };
        write!(f, "{bytes} by {method}, {verified}; {meaning}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_says_what_it_is_worth() {
        let mut proof = ErasedProof {
            method: "punch-hole".to_owned(),
            bytes: 640 << 20,
            verified_bytes: 33 << 20,
            verify: EraseVerify::Sample,
            level: EraseLevel::Logical,
            at: Timestamp::UNIX_EPOCH,
        };
        assert_eq!(
            proof.to_string(),
            "640 MiB by punch-hole, 33 MiB read back (sample); logical: the device answers zeroes, its cells may keep older data"
        );
        proof.verify = EraseVerify::None;
        proof.level = EraseLevel::Signatures;
        assert_eq!(
            proof.to_string(),
            "640 MiB by punch-hole, nothing read back; signature areas alone: other data can still be read from the raw device"
        );
    }
}
