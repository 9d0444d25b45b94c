//! What a drive says of itself, on itself: `.ringpv/drive.json`. Whoever loses every object finds here what it is.
//!
//! ```text
//!   .drive-<id> -> .          the guard: a path through it exists on this drive alone
//!   .ringpv/drive.json        this record
//!   .ringpv/volumes/*.json    one record a volume
//!   .ringpv/probe/<n>/data    the probe file in parts, spread over the allocation groups; health reads go there
//!   .ringpv/scratch/data      what a write benchmark may write to
//!   volumes/<volume>/         data
//!   .trash/<volume>-<n>/      released data on its way out
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use api::names::{ANNOTATION_GUESSED_TIER, LABEL_PREFIX};
use api::{AccessTier, Drive};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The only format version so far.
pub const FORMAT_VERSION: u32 = 1;

/// Parts of the probe file. A new directory goes to the next allocation group, and its file with it.
pub const PROBE_PARTS: u64 = 8;
/// A part is a multiple of this.
const PROBE_GRAIN_BYTES: u64 = 128 << 10;
/// Largest probe file.
const PROBE_BYTES_MAX: u64 = 1 << 30;
/// Its share of the device.
const PROBE_SHARE: u64 = 1000;
/// Share of the file system that is kept back: inodes (3.1 % at one for each 16 KiB), maps of fragmented files.
const HEADROOM_SHARE: u64 = 25;
/// A promise is a multiple of this.
const PROMISE_GRAIN_BYTES: u64 = 1 << 20;

/// The record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DriveRecord {
    /// Format version of this record and of the layout.
    pub format_version: u32,
    /// Drive id.
    pub drive_id: String,
    /// Cluster id.
    pub cluster_id: String,
    /// When it was made.
    pub created: Timestamp,
    /// Bytes that a user could write when it was empty, its own files in place.
    pub empty_bytes: u64,
    /// What a person said of the drive.
    #[serde(flatten)]
    pub said: Said,
}

/// What a person said of a drive, and no device can tell: kept on it, so that `adopt` knows it after the API has lost it.
/// Empty in a record of an older version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Said {
    /// Access tier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_tier: Option<AccessTier>,
    /// Labels, without our own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Whether it is suspended, and with it all volumes on it: kept for a boot while the API is away.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspended: bool,
}

impl Said {
    /// As a Drive says it, if a person does: what `adopt` guessed for want of the record is nobody's word.
    #[must_use]
    pub fn by_a_person(drive: &Drive) -> Option<Self> {
        let said = Self::of(drive);
        let annotations = drive.metadata.annotations.as_ref();
        let guessed = annotations.and_then(|all| all.get(ANNOTATION_GUESSED_TIER));
        let tier = drive.spec.access_tier.to_string();
        (guessed != Some(&tier) || !said.labels.is_empty()).then_some(said)
    }

    /// As a Drive says it.
    #[must_use]
    pub fn of(drive: &Drive) -> Self {
        let mut labels = drive.metadata.labels.clone().unwrap_or_default();
        labels.retain(|key, _| !key.starts_with(LABEL_PREFIX));
        Self {
            access_tier: Some(drive.spec.access_tier),
            labels,
            suspended: drive.spec.suspended,
        }
    }
}

/// Why a record is not believed.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not JSON of this form.
    #[error("drive.json cannot be read")]
    Malformed(#[source] serde_json::Error),
    /// A later version.
    #[error("drive.json has format version {0}; this version reads {FORMAT_VERSION}")]
    Version(u32),
}

impl DriveRecord {
    /// Reads a record.
    pub fn parse(content: &[u8]) -> Result<Self, RecordError> {
        let record: Self = serde_json::from_slice(content).map_err(RecordError::Malformed)?;
        if record.format_version != FORMAT_VERSION {
            return Err(RecordError::Version(record.format_version));
        }
        Ok(record)
    }

    /// The record as it is written.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// What volumes may be promised in sum.
    #[must_use]
    pub const fn allocatable_bytes(&self) -> u64 {
        let usable = self.empty_bytes - self.empty_bytes / HEADROOM_SHARE;
        usable / PROMISE_GRAIN_BYTES * PROMISE_GRAIN_BYTES
    }
}

/// Bytes of the probe file, and of the scratch file, of a device: the smaller of 1 GiB and 0.1 %, at least 1 MiB.
#[must_use]
pub fn probe_bytes(device_bytes: u64) -> u64 {
    let whole = (device_bytes / PROBE_SHARE).clamp(1, PROBE_BYTES_MAX);
    let part = whole.div_ceil(PROBE_PARTS);
    part.next_multiple_of(PROBE_GRAIN_BYTES) * PROBE_PARTS
}

/// Path of the record below a root.
#[must_use]
pub fn drive_record(root: &Path) -> PathBuf {
    root.join(".ringpv/drive.json")
}

/// Paths of the parts of the probe file.
#[must_use]
pub fn probe_parts(root: &Path) -> Vec<PathBuf> {
    (0..PROBE_PARTS)
        .map(|part| root.join(format!(".ringpv/probe/{part}/data")))
        .collect()
}

/// Path of the scratch file.
#[must_use]
pub fn scratch(root: &Path) -> PathBuf {
    root.join(".ringpv/scratch/data")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_is_read_as_written() {
        let record = DriveRecord {
            format_version: FORMAT_VERSION,
            drive_id: "d1".into(),
            cluster_id: "c1".into(),
            created: Timestamp::UNIX_EPOCH,
            empty_bytes: 1000 << 20,
            said: Said {
                access_tier: Some(AccessTier::Cold),
                labels: BTreeMap::from([("rack".into(), "3".into())]),
                suspended: true,
            },
        };
        assert_eq!(DriveRecord::parse(&record.to_json()).unwrap(), record);
        assert_eq!(record.allocatable_bytes(), 960 << 20);
        let later = DriveRecord {
            format_version: 2,
            ..record
        };
        assert!(matches!(
            DriveRecord::parse(&later.to_json()),
            Err(RecordError::Version(2))
        ));
        assert!(matches!(
            DriveRecord::parse(b"{}"),
            Err(RecordError::Malformed(_))
        ));
    }

    #[test]
    fn a_record_of_an_older_version_is_read() {
        let text = br#"{"formatVersion": 1, "driveId": "d1", "clusterId": "c1",
            "created": "1970-01-01T00:00:00Z", "emptyBytes": 5}"#;
        let record = DriveRecord::parse(text).unwrap();
        assert_eq!((record.empty_bytes, record.said), (5, Said::default()));
    }

    #[test]
    fn our_own_labels_are_not_a_persons() {
        let mut drive = api::testing::drive("d1").tier(AccessTier::Warm).build();
        let labels = drive.metadata.labels.get_or_insert_default();
        for (key, value) in [("rack", "3"), ("ringpv.io/node", "n1")] {
            labels.insert(key.into(), value.into());
        }
        drive.spec.suspended = true;
        let said = Said::of(&drive);
        assert!(said.suspended);
        assert_eq!(said.access_tier, Some(AccessTier::Warm));
        assert_eq!(said.labels, BTreeMap::from([("rack".into(), "3".into())]));
    }

    #[test]
    fn a_guess_is_nobodys_word() {
        let drive = |guess: Option<&str>, labels: &[(&str, &str)]| {
            let mut drive = api::testing::drive("d1").tier(AccessTier::Warm).build();
            let metadata = &mut drive.metadata;
            let annotations = metadata.annotations.get_or_insert_default();
            annotations.extend(guess.map(|tier| (ANNOTATION_GUESSED_TIER.into(), tier.into())));
            let labels = labels.iter().map(|(k, v)| ((*k).into(), (*v).into()));
            metadata.labels.get_or_insert_default().extend(labels);
            Said::by_a_person(&drive).is_some()
        };
        assert!(drive(None, &[]));
        assert!(!drive(Some("Warm"), &[]));
        assert!(!drive(Some("Warm"), &[("ringpv.io/node", "n1")]));
        assert!(drive(Some("Warm"), &[("rack", "3")]));
        assert!(drive(Some("Hot"), &[]));
    }

    #[test]
    fn probe_files() {
        let cases = [
            (512 << 20, 1 << 20),
            (2 << 30, 3 << 20),
            (100 << 30, 103 << 20),
            (1 << 40, 1 << 30),
            (1 << 50, 1 << 30),
        ];
        for (device, probe) in cases {
            assert_eq!(probe_bytes(device), probe, "{device}");
        }
    }
}
