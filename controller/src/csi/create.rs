//! CreateVolume: a promise under the inventory's lock, then one write, then the answer.
//!
//! | what is there under the name | answer |
//! |---|---|
//! | nothing | place, promise, write |
//! | the same volume | it |
//! | another size, class, place, or writer | `ALREADY_EXISTS` |
//! | one that is being deleted | `ABORTED`: the name is free when its data are gone |
//! | a promise whose write had no answer | look what became of it, then as above |

use api::csi::{CreateVolumeRequest, Topology, TopologyRequirement, Volume as WireVolume};
use api::names::{FINALIZER_DEVICE, LABEL_DRIVE, LABEL_NODE, volume_name};
use api::serve::faults;
use api::status::status;
use api::volume::{FsType, Placement, VolumeSpec};
use api::{Bytes, Reason, Volume};
use kube::api::ObjectMeta;
use std::collections::BTreeMap;
use tokio::time::Instant;
use tonic::Status;

use super::{Service, must_have, reply, size, usage};
use crate::inventory::{Inventory, VolumeEntry};
use crate::leader::{CallError, call, post_params};
use crate::lease::PLACING_WRITE_TIMEOUT;
use crate::placement::request::{Class, Places, Request, claim_of, class_parameters};
use crate::placement::{allows, place};

/// Longest name that CSI allows, in bytes.
const NAME_MAX: usize = 128;
/// Longest value of a label.
const LABEL_VALUE_MAX: usize = 63;

/// What a caller wants, checked.
struct Wanted {
    name: String,
    csi_name: String,
    range: size::Range,
    single_writer: bool,
    class: Class,
    parameters: BTreeMap<String, String>,
    places: Places,
}

/// What to do about it.
enum Decision {
    /// It is there.
    Answer(WireVolume),
    /// It was promised, and the write had no answer.
    Look,
    /// It is promised now, and to be written.
    Write(Box<Volume>),
}

impl Service {
    pub(super) async fn create(&self, request: CreateVolumeRequest) -> Result<WireVolume, Status> {
        let wanted = parse(request)?;
        self.must_lead()?;
        let _turn = self.turn(&wanted.name)?;
        let volume = match self.decide(&wanted)? {
            Decision::Answer(volume) => return Ok(volume),
            Decision::Write(volume) => volume,
            Decision::Look => {
                let settled = self.leader.settle(&wanted.name).await;
                settled.map_err(|error| error.status())?;
                match self.decide(&wanted)? {
                    Decision::Answer(volume) => return Ok(volume),
                    Decision::Write(volume) => volume,
                    Decision::Look => return Err(status(Reason::OperationPending, "")),
                }
            }
        };
        self.write(&wanted, &volume).await
    }

    /// Under one lock: what is there, else a drive for it and the promise.
    fn decide(&self, wanted: &Wanted) -> Result<Decision, Status> {
        let mut inventory = self.leader.inventory();
        if inventory.is_unconfirmed(&wanted.name) {
            return Ok(Decision::Look);
        }
        if let Some(found) = inventory.volume(&wanted.name) {
            wanted.compare(found, &inventory)?;
            return Ok(Decision::Answer(reply(found)));
        }
        self.may_place()?;
        let request = Request {
            name: wanted.name.clone(),
            bytes: wanted.range.choose()?,
            class: wanted.class.clone(),
            places: wanted.places.clone(),
            now: self.leader.now(),
        };
        let begun = Instant::now();
        let placed = place(&request, &inventory, self.leader.policy);
        let result = placed.as_ref().map_err(|no_fit| &**no_fit);
        self.leader.metrics.placed(result, begun.elapsed());
        let placement = placed.map_err(|no_fit| {
            let sentence = format!("no drive takes {}: {no_fit}", Bytes(request.bytes));
            status(no_fit.reason(), &sentence)
        })?;
        let volume = wanted.object(request.bytes, placement);
        if let Some(entry) = VolumeEntry::new(&volume) {
            inventory.promise(entry, request.now);
        }
        Ok(Decision::Write(Box::new(volume)))
    }

    async fn write(&self, wanted: &Wanted, volume: &Volume) -> Result<WireVolume, Status> {
        let volumes = self.leader.volumes();
        let params = post_params();
        let written = volumes.create(&params, volume);
        let written = faults::around("create", call(PLACING_WRITE_TIMEOUT, written));
        let error = match written.await {
            Ok(written) => {
                let entry = VolumeEntry::new(&written).unwrap_or_default();
                let answer = reply(&entry);
                tracing::info!(
                    volume = entry.name,
                    drive = entry.drive.as_deref(),
                    node = entry.node,
                    capacity_bytes = entry.capacity_bytes,
                    "volume placed"
                );
                self.leader.inventory().confirm(entry);
                return Ok(answer);
            }
            Err(error) => error,
        };
        match error {
            // Somebody wrote it meanwhile: an earlier call of ours whose answer was lost.
            CallError::Conflict(_) => {
                let found = self.leader.settle(&wanted.name).await;
                let found = found.map_err(|error| error.status())?;
                let Some(found) = found else {
                    return Err(status(Reason::OperationPending, ""));
                };
                wanted.compare(&found, &self.leader.inventory())?;
                Ok(reply(&found))
            }
            CallError::Refused(_) | CallError::NotFound => {
                self.leader.inventory().withdraw(&wanted.name);
                Err(error.status())
            }
            // It may have been written: the promise stands until somebody looks.
            CallError::Unclear(_) => Err(error.status()),
        }
    }
}

fn parse(request: CreateVolumeRequest) -> Result<Wanted, Status> {
    must_have(&request.name, "name")?;
    let invalid = |sentence: &str| status(Reason::InvalidArgument, sentence);
    if request.name.len() > NAME_MAX {
        return Err(invalid(&format!(
            "the name is longer than {NAME_MAX} bytes"
        )));
    }
    if request.volume_content_source.is_some() {
        let sentence = "volumes do not start with data of snapshots or other volumes";
        return Err(status(Reason::Unsupported, sentence));
    }
    if !request.mutable_parameters.is_empty() {
        let sentence = "there are no mutable parameters (VolumeAttributesClass)";
        return Err(status(Reason::Unsupported, sentence));
    }
    let usage = usage::parse(&request.volume_capabilities)?;
    let class = Class::parse(&request.parameters);
    let class = class.map_err(|error| status(Reason::InvalidParameter, &error.to_string()))?;
    Ok(Wanted {
        name: volume_name(&request.name),
        csi_name: request.name,
        range: size::Range::parse(request.capacity_range.as_ref())?,
        single_writer: usage.single_writer,
        class,
        parameters: request.parameters,
        places: places(request.accessibility_requirements),
    })
}

fn places(requirement: Option<TopologyRequirement>) -> Places {
    let requirement = requirement.unwrap_or_default();
    let segments = |list: Vec<Topology>| list.into_iter().map(|t| t.segments).collect();
    Places {
        required: segments(requirement.requisite),
        preferred: segments(requirement.preferred),
    }
}

impl Wanted {
    /// Whether a volume that is there is the one wanted.
    fn compare(&self, found: &VolumeEntry, inventory: &Inventory) -> Result<(), Status> {
        if found.csi_name != self.csi_name {
            let sentence = format!(
                "{} is the id of the volume named {:?}",
                found.name, found.csi_name
            );
            return Err(status(Reason::NameConflict, &sentence));
        }
        if found.deleting {
            let sentence =
                "a volume of this name is being deleted; ask again when its data are gone";
            return Err(status(Reason::OperationPending, sentence));
        }
        if !self.range.holds(found.capacity_bytes) {
            let sentence = format!(
                "{:?} exists and has {}",
                self.csi_name,
                Bytes(found.capacity_bytes)
            );
            return Err(status(Reason::SizeConflict, &sentence));
        }
        let differs = if found.parameters != class_parameters(&self.parameters) {
            "its class parameters"
        } else if found.single_writer != self.single_writer {
            "its access mode"
        } else if !allows(&self.places, inventory, &found.node) {
            "its place"
        } else {
            return Ok(());
        };
        let sentence = format!(
            "{:?} exists on node {}, and {differs} differ from what is asked for",
            self.csi_name, found.node
        );
        Err(status(Reason::VolumeConflict, &sentence))
    }

    fn object(&self, capacity_bytes: u64, placement: Placement) -> Volume {
        let chosen = &placement.chosen;
        let spec = VolumeSpec {
            csi_name: self.csi_name.clone(),
            node: chosen.node.clone(),
            drive: Some(chosen.drive.clone()),
            capacity_bytes,
            fs_type: FsType::Xfs,
            capacity_enforcement: self.class.enforcement,
            single_writer: self.single_writer,
            ephemeral: false,
            claim: claim_of(&self.parameters),
            spread_id: self.class.spread_id.clone(),
            parameters: class_parameters(&self.parameters),
            placement: None,
            suspended: false,
            release: false,
            move_to: None,
        };
        let labels = [(LABEL_NODE, &chosen.node), (LABEL_DRIVE, &chosen.drive)]
            .into_iter()
            .filter(|(_, value)| value.len() <= LABEL_VALUE_MAX)
            .map(|(key, value)| (key.to_owned(), value.clone()))
            .collect();
        Volume {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(labels),
                finalizers: Some(vec![FINALIZER_DEVICE.to_owned()]),
                ..ObjectMeta::default()
            },
            spec: VolumeSpec {
                placement: Some(placement),
                ..spec
            },
            status: None,
        }
    }
}
