//! Volume directories without an object: shown, kept, and adopted or removed only on a person's word.
//!
//! Nothing is an orphan before the first complete list of objects, nor while its drive does not answer: an absence
//! must be seen, not assumed.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::Volume;
use api::names::ANNOTATION_ADOPTS;
use api::storage_node::{ORPHANS_MAX, Orphan};
use jiff::Timestamp;
use kube::ResourceExt as _;
use tokio::task::JoinSet;

use super::record::{FORMAT, Record};
use super::refusal::Refusal;
use super::seen;
use super::service::Volumes;
use crate::host::Host;
use crate::registry::MountedDrive;

impl Volumes {
    /// Looks for orphans on all mounted drives.
    pub(super) async fn list_orphans(&self) {
        let Some(known) = self.inner.cache.all().map(Arc::new) else {
            return;
        };
        let before = self.inner.orphans.borrow().clone();
        let now = (self.inner.clock)();
        let mut asked = JoinSet::new();
        for drive in self.inner.registry.all() {
            let (host, known) = (Arc::clone(&self.inner.host), Arc::clone(&known));
            asked.spawn(async move {
                let id = Arc::clone(&drive.id);
                let found = drive
                    .call(&host, move |host, drive| unowned(host, drive, &known))
                    .await;
                (id, found)
            });
        }
        let mut orphans = Vec::new();
        while let Some(answer) = asked.join_next().await {
            let Ok((drive, found)) = answer else { continue };
            match found.map_err(Refusal::from).flatten() {
                Ok(records) => {
                    let shown = records
                        .iter()
                        .map(|record| orphan(record, &drive, &before, now));
                    orphans.extend(shown);
                }
                // What was known of this drive stays known.
                Err(refusal) => {
                    tracing::debug!(drive = %drive, reason = %refusal.reason, "A drive could not be searched for orphans");
                    orphans.extend(before.iter().filter(|one| one.drive == *drive).cloned());
                }
            }
        }
        orphans.sort_by(|a, b| (&a.drive, &a.volume).cmp(&(&b.drive, &b.volume)));
        orphans.truncate(ORPHANS_MAX);
        self.inner.orphans.send_if_modified(|shown| {
            let changed = *shown != orphans;
            *shown = orphans;
            changed
        });
    }
}

/// When it was first seen stays.
fn orphan(record: &Record, drive: &str, before: &[Orphan], now: Timestamp) -> Orphan {
    let since = before
        .iter()
        .find(|one| one.drive == drive && one.volume == record.volume)
        .map_or(now, |one| one.since);
    record.orphan(drive, since)
}

/// Records of the directories on a drive that no object owns.
fn unowned(
    host: &dyn Host,
    drive: &MountedDrive,
    known: &BTreeMap<String, Arc<Volume>>,
) -> Result<Vec<Record>, Refusal> {
    let mut found = Vec::new();
    for name in seen::volumes(host, drive)? {
        if host.kind(&drive.volume_dir(&name))?.is_none() {
            continue;
        }
        let content = host.read_file(&drive.volume_record(&name))?;
        let record = content.and_then(|content| Record::parse(&name, &content).ok());
        if owned(known.get(&name), record.as_ref(), &drive.id) {
            continue;
        }
        found.push(record.unwrap_or_else(|| bare(&name)));
    }
    Ok(found)
}

/// Whether an object has a right to the directory. A record that cannot be read belongs to the object of its name.
fn owned(object: Option<&Arc<Volume>>, record: Option<&Record>, drive: &str) -> bool {
    let Some(object) = object.filter(|one| one.spec.drive.as_deref() == Some(drive)) else {
        return false;
    };
    let Some(record) = record else { return true };
    let adopted = object.annotations().get(ANNOTATION_ADOPTS);
    object.uid().as_ref() == Some(&record.incarnation) || adopted == Some(&record.incarnation)
}

/// What is known of a directory without a readable record: its name.
fn bare(name: &str) -> Record {
    Record {
        format_version: FORMAT,
        volume: name.to_owned(),
        incarnation: String::new(),
        formerly: Vec::new(),
        csi_name: String::new(),
        capacity_bytes: 0,
        project_id: 0,
        capacity_enforcement: api::volume::CapacityEnforcement::Strict,
        single_writer: false,
        ephemeral: false,
        suspended: false,
        spread_id: None,
        claim: None,
        parameters: BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumes::testing::{record, volume};

    #[test]
    fn who_owns_a_directory() {
        let own = record("v1", 1, 1 << 30);
        let earlier = Record {
            incarnation: "u0".into(),
            ..own.clone()
        };
        let object = Arc::new(volume("v1"));
        let mut adopting = volume("v1");
        let annotations = adopting.metadata.annotations.get_or_insert_default();
        annotations.insert(ANNOTATION_ADOPTS.into(), "u0".into());
        let adopting = Arc::new(adopting);
        for (object, record, drive, is_owned) in [
            (None, Some(&own), "d1", false),
            (Some(&object), Some(&own), "d1", true),
            (Some(&object), Some(&own), "d2", false),
            (Some(&object), Some(&earlier), "d1", false),
            (Some(&adopting), Some(&earlier), "d1", true),
            (Some(&object), None, "d1", true),
        ] {
            assert_eq!(owned(object, record, drive), is_owned, "{record:?} {drive}");
        }
    }

    #[test]
    fn an_orphan_keeps_its_first_sight() {
        let own = record("v1", 1, 1 << 30);
        let first = orphan(&own, "d1", &[], Timestamp::UNIX_EPOCH);
        let later = Timestamp::from_second(9).unwrap();
        let seen = std::slice::from_ref(&first);
        assert_eq!(orphan(&own, "d1", seen, later), first);
        assert_eq!(orphan(&own, "d2", seen, later).since, later);
    }
}
