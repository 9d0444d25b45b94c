//! What a drive says of one of its volumes: `.ringpv/volumes/<volume>.json`.
//!
//! Rule: with the records alone a volume can be mounted while no API answers, and its object can be made anew after
//! the API has lost it. A record is written before the directory that it describes, and removed only after that
//! directory is in the trash, so a directory without a record is never a step of ours half done.

use std::collections::BTreeMap;

use api::Volume;
use api::storage_node::Orphan;
use api::volume::{CapacityEnforcement, ClaimRef};
use jiff::Timestamp;
use kube::ResourceExt as _;
use serde::{Deserialize, Serialize};

/// The format that this version writes.
pub const FORMAT: u32 = 1;
/// Earlier incarnations that a record keeps: the latest ones.
const FORMERLY_MAX: usize = 16;

/// One volume as its drive knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Format of the record.
    pub format_version: u32,
    /// Volume id.
    pub volume: String,
    /// UID of the Volume object that it was made for. Another object of the same name has no right to the data.
    pub incarnation: String,
    /// Incarnations whose data these were before they were adopted, oldest first: whoever means one of them means these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub formerly: Vec<String>,
    /// Name that the CSI caller gave.
    pub csi_name: String,
    /// Bytes promised.
    pub capacity_bytes: u64,
    /// Project id of the directory; 0 before one was chosen.
    pub project_id: u32,
    /// Whether the size is enforced.
    pub capacity_enforcement: CapacityEnforcement,
    /// Whether one pod alone may use it.
    pub single_writer: bool,
    /// Whether it lives only as long as its pod.
    pub ephemeral: bool,
    /// Whether a person suspended it: a boot without an API gives it to nobody either.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspended: bool,
    /// Its spread group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread_id: Option<String>,
    /// The claim that it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<ClaimRef>,
    /// Class parameters as they were asked for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
}

/// A record that is there and says nothing usable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Written by a later version, whose promises this one does not know.
    #[error("the record of volume {volume} has format {format}; this version knows up to {FORMAT}")]
    Newer {
        /// Volume.
        volume: String,
        /// Its format.
        format: u32,
    },
    /// No record.
    #[error("the record of volume {volume} cannot be read: {why}")]
    Damaged {
        /// Volume.
        volume: String,
        /// What is wrong with it.
        why: String,
    },
}

impl RecordError {
    /// Whether only a later version may touch the volume.
    #[must_use]
    pub const fn is_newer(&self) -> bool {
        matches!(self, Self::Newer { .. })
    }
}

impl Record {
    /// The record that a Volume object asks for, without a project id.
    #[must_use]
    pub fn of(volume: &Volume) -> Self {
        let spec = &volume.spec;
        Self {
            format_version: FORMAT,
            volume: volume.name_any(),
            incarnation: volume.uid().unwrap_or_default(),
            formerly: Vec::new(),
            csi_name: spec.csi_name.clone(),
            capacity_bytes: spec.capacity_bytes,
            project_id: 0,
            capacity_enforcement: spec.capacity_enforcement,
            single_writer: spec.single_writer,
            ephemeral: spec.ephemeral,
            suspended: spec.suspended,
            spread_id: spec.spread_id.clone(),
            claim: spec.claim.clone(),
            parameters: spec.parameters.clone(),
        }
    }

    /// The former incarnations of these data once they belong to `incarnation`.
    #[must_use]
    pub fn formerly_of(&self, incarnation: &str) -> Vec<String> {
        let mut formerly = self.formerly.clone();
        if self.incarnation != incarnation {
            formerly.push(self.incarnation.clone());
        }
        formerly.drain(..formerly.len().saturating_sub(FORMERLY_MAX));
        formerly
    }

    /// Reads a record of `volume`.
    ///
    /// # Errors
    /// It is newer, no record, or another volume's.
    pub fn parse(volume: &str, content: &[u8]) -> Result<Self, RecordError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Format {
            format_version: u32,
        }
        let damaged = |why: String| RecordError::Damaged {
            volume: volume.to_owned(),
            why,
        };
        let format: Format =
            serde_json::from_slice(content).map_err(|error| damaged(error.to_string()))?;
        if format.format_version > FORMAT {
            return Err(RecordError::Newer {
                volume: volume.to_owned(),
                format: format.format_version,
            });
        }
        let record: Self =
            serde_json::from_slice(content).map_err(|error| damaged(error.to_string()))?;
        if record.volume != volume {
            return Err(damaged(format!("it is that of {}", record.volume)));
        }
        Ok(record)
    }

    /// The record as it is written.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // Maps with text keys and plain fields: this cannot fail; were it to, the empty record is refused when read.
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// How the volume is shown while it has no object.
    #[must_use]
    pub fn orphan(&self, drive: &str, since: Timestamp) -> Orphan {
        Orphan {
            volume: self.volume.clone(),
            drive: drive.to_owned(),
            capacity_bytes: self.capacity_bytes,
            incarnation: self.incarnation.clone(),
            csi_name: self.csi_name.clone(),
            capacity_enforcement: self.capacity_enforcement,
            single_writer: self.single_writer,
            ephemeral: self.ephemeral,
            spread_id: self.spread_id.clone(),
            claim: self.claim.clone(),
            parameters: self.parameters.clone(),
            since,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumes::testing::record;

    #[test]
    fn a_record_survives_writing_and_reading() {
        let written = record("v1", 7, 1 << 30);
        assert_eq!(Record::parse("v1", &written.to_json()), Ok(written));
    }

    #[test]
    fn only_the_latest_former_incarnations_are_kept() {
        let mut own = record("v1", 7, 1 << 30);
        let first = own.incarnation.clone();
        assert_eq!(own.formerly_of(&first), Vec::<String>::new());
        for n in 0..=FORMERLY_MAX {
            let next = n.to_string();
            own.formerly = own.formerly_of(&next);
            assert!(own.formerly.len() <= FORMERLY_MAX);
            assert_eq!(own.formerly.last(), Some(&own.incarnation));
            own.incarnation = next;
        }
        assert!(!own.formerly.contains(&first));
    }

    #[test]
    fn what_is_no_record_of_this_volume_is_refused() {
        let good = String::from_utf8(record("v1", 7, 1 << 30).to_json()).unwrap();
        let newer = good.replace("\"formatVersion\": 1", "\"formatVersion\": 2");
        for (volume, content, word) in [
            ("v2", good.as_str(), "it is that of v1"),
            ("v1", newer.as_str(), "has format 2"),
            ("v1", "", "cannot be read"),
            ("v1", "{\"formatVersion\":1}", "cannot be read"),
        ] {
            let error = Record::parse(volume, content.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
