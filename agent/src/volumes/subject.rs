//! What was promised of a volume, and who says so.
//!
//! It is asked in this order: the watched objects; one live GET; where the API does not answer, the record on a mounted
//! drive. So a reboot without an API server brings back every pod's data.
//!
//! Rule: a name alone does not tell whose data are meant. An object that was deleted leaves its directory, another of
//! the same name may have been made on another drive, and at a boot either drive may be mounted first. A caller that
//! knows which volume it means says so ([`Meant`]), and gets that one or none; where nobody says it and two drives have
//! the name, nobody gets either.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::names::{ANNOTATION_ADOPTS, CONTEXT_DRIVE, CONTEXT_INCARNATION};
use api::{Reason, Volume};
use kube::ResourceExt as _;
use tokio::task::JoinSet;

use super::plan::Promise;
use super::record::Record;
use super::refusal::Refusal;
use super::service::Volumes;
use crate::host::Host;
use crate::registry::MountedDrive;

/// How long one live GET may take before what is on disk counts.
const GET_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the other drives may take to say that they have the name too, once one has it. A drive that hangs is not
/// waited for by the volumes of the others.
const OTHERS_WITHIN: Duration = Duration::from_secs(1);

/// A volume as it was promised, and by whom that is known.
#[derive(Clone, Debug)]
pub struct Subject {
    /// What was promised.
    pub promise: Promise,
    /// Its drive, once placed.
    pub drive: Option<String>,
    /// Its object; none where only the drive could be asked.
    pub object: Option<Arc<Volume>>,
}

impl Subject {
    /// As an object promises it.
    #[must_use]
    pub fn of(volume: Arc<Volume>) -> Self {
        let status = volume.status.as_ref();
        Self {
            promise: Promise {
                record: Record::of(&volume),
                adopts: volume.annotations().get(ANNOTATION_ADOPTS).cloned(),
                meant: None,
                witness: status.and_then(|status| status.project_id),
                suspended: volume.spec.suspended,
            },
            drive: volume.spec.drive.clone(),
            object: Some(volume),
        }
    }

    fn on_disk(record: Record, drive: &MountedDrive) -> Self {
        Self {
            promise: Promise {
                suspended: record.suspended,
                record,
                adopts: None,
                meant: None,
                witness: None,
            },
            drive: Some(drive.id.to_string()),
            object: None,
        }
    }
}

/// Which volume of a name a caller means, as far as it knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meant {
    /// The drive that it is on.
    pub drive: Option<String>,
    /// Its incarnation.
    pub incarnation: Option<String>,
}

impl Meant {
    /// As a call's volume context says it.
    #[must_use]
    pub fn read(context: &BTreeMap<String, String>) -> Self {
        Self {
            drive: context.get(CONTEXT_DRIVE).cloned(),
            incarnation: context.get(CONTEXT_INCARNATION).cloned(),
        }
    }
}

impl Volumes {
    /// The volume of a name that is meant, from the nearest place that knows it.
    ///
    /// # Errors
    /// There is no such volume on this node, or nobody could be asked.
    pub async fn subject(&self, volume: &str, meant: &Meant) -> Result<Subject, Refusal> {
        let mut subject = match self.inner.cache.get(volume) {
            Some(object) => self.here(Subject::of(object)),
            None => self.fresh(volume, meant).await,
        }?;
        subject.promise.meant.clone_from(&meant.incarnation);
        Ok(subject)
    }

    /// The same, but not from what was watched.
    ///
    /// # Errors
    /// As [`Self::subject`].
    pub async fn fresh(&self, volume: &str, meant: &Meant) -> Result<Subject, Refusal> {
        match self.object(volume).await {
            Ok(Some(object)) => self.here(Subject::of(Arc::new(object))),
            Ok(None) => Err(Refusal::new(Reason::VolumeNotFound, volume)),
            Err(unavailable) => self.on_disk(volume, meant).await?.ok_or(unavailable),
        }
    }

    /// One live GET.
    pub(super) async fn object(&self, volume: &str) -> Result<Option<Volume>, Refusal> {
        let unavailable = |why: String| Refusal::new(Reason::ApiUnavailable, why);
        match tokio::time::timeout(GET_TIMEOUT, self.api().get_opt(volume)).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => Err(unavailable(error.to_string())),
            Err(_) => Err(unavailable(format!(
                "no answer within {} s",
                GET_TIMEOUT.as_secs()
            ))),
        }
    }

    fn here(&self, subject: Subject) -> Result<Subject, Refusal> {
        match &subject.object {
            Some(object) if object.spec.node != self.inner.node => {
                let message = format!(
                    "volume {} lives on node {}",
                    object.name_any(),
                    object.spec.node
                );
                Err(Refusal::new(Reason::OtherNode, message))
            }
            Some(_) | None => Ok(subject),
        }
    }

    /// The record of a volume on the drive that is meant, or on any mounted one. All are asked at once.
    ///
    /// # Errors
    /// The drive that is meant is not mounted, or two have a volume of that name and none is meant.
    pub(super) async fn on_disk(
        &self,
        volume: &str,
        meant: &Meant,
    ) -> Result<Option<Subject>, Refusal> {
        let drives = match &meant.drive {
            Some(drive) => vec![self.inner.registry.get(drive)?],
            None => self.inner.registry.all(),
        };
        let mut asked = JoinSet::new();
        for drive in drives {
            let (host, volume) = (Arc::clone(&self.inner.host), volume.to_owned());
            asked.spawn(async move {
                let read = drive
                    .call(&host, move |host, drive| recorded(host, drive, &volume))
                    .await;
                let record = read.ok().flatten()?;
                Some(Subject::on_disk(record, &drive))
            });
        }
        let Some(found) = next(&mut asked).await else {
            return Ok(None);
        };
        let other = tokio::time::timeout(OTHERS_WITHIN, next(&mut asked)).await;
        match other.ok().flatten() {
            None => Ok(Some(found)),
            Some(other) => {
                let drive = |subject: Subject| subject.drive.unwrap_or_default();
                let message = format!(
                    "drives {} and {} both have a volume {volume}, and no API answers which of them is meant",
                    drive(found),
                    drive(other)
                );
                Err(Refusal::new(Reason::EarlierData, message))
            }
        }
    }
}

/// A volume's record on a drive, where it is there and can be read.
fn recorded(host: &dyn Host, drive: &MountedDrive, volume: &str) -> Option<Record> {
    let content = host.read_file(&drive.volume_record(volume)).ok()??;
    Record::parse(volume, &content).ok()
}

/// The next drive that has the volume.
async fn next(asked: &mut JoinSet<Option<Subject>>) -> Option<Subject> {
    while let Some(answer) = asked.join_next().await {
        if let Ok(Some(subject)) = answer {
            return Some(subject);
        }
    }
    None
}
