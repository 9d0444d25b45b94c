//! What is decided about a volume that somebody asks for, grows or gives up. Pure: each decision is made under the
//! inventory's lock, by these functions and no others, in the CSI service as in the simulated cluster.
//!
//! | CreateVolume: what is there under the name | decision |
//! |---|---|
//! | nothing | place, promise, write |
//! | the same volume | it |
//! | another size, class, place, or writer | `ALREADY_EXISTS` |
//! | one that is being deleted | `ABORTED`: the name is free when its data are gone |
//! | a promise whose write had no answer | look what became of it, then as above |
//!
//! | DeleteVolume: what is there under the id | decision |
//! |---|---|
//! | nothing, once somebody looked | gone |
//! | one that is mounted, once somebody looked | refused |
//! | one that has the word and is being deleted | gone |
//! | one | the word `release`, then the deletion, each where it is lacking |
//!
//! Sizes are absolute, so an expansion that is repeated promises nothing twice.

pub mod size;
pub mod usage;

use std::collections::BTreeMap;

use api::csi::{CreateVolumeRequest, Topology, TopologyRequirement};
use api::names::{FINALIZER_DEVICE, LABEL_DRIVE, LABEL_NODE, volume_name};
use api::status::status;
use api::volume::{FsType, Placement, VolumeSpec};
use api::{Bytes, DrivePhase, Reason, Volume};
use jiff::Timestamp;
use kube::api::ObjectMeta;
use tonic::Status;

use crate::inventory::{Inventory, VolumeEntry};
use crate::placement::request::{Class, Places, Request, claim_of, class_parameters};
use crate::placement::{NoFit, Policy, allows, place};

/// Longest name that CSI allows, in bytes.
const NAME_MAX: usize = 128;
/// Longest value of a label.
const LABEL_VALUE_MAX: usize = 63;

/// What a decision depends on besides the inventory.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// How drives are weighed.
    pub policy: Policy,
    /// Now.
    pub now: Timestamp,
    /// The lease lasts long enough for a write that promises.
    pub may_place: bool,
}

impl Terms {
    fn must_place(&self) -> Result<(), Status> {
        if self.may_place {
            return Ok(());
        }
        let sentence = "the lease is about to end, so nothing is promised now; ask again";
        Err(status(Reason::NotLeader, sentence))
    }
}

/// A volume that somebody wants, checked.
#[derive(Clone, Debug)]
pub struct Wanted {
    name: String,
    csi_name: String,
    range: size::Range,
    single_writer: bool,
    class: Class,
    parameters: BTreeMap<String, String>,
    places: Places,
}

/// What to do about a volume that is wanted.
#[derive(Clone, Debug)]
pub enum Decision {
    /// It is there.
    There(Box<VolumeEntry>),
    /// It was promised, and the write had no answer: look, then decide again.
    Look,
    /// It is promised now, and to be written.
    Write(Box<Volume>),
}

/// Why a volume is not made.
#[derive(Clone, Debug)]
pub enum Refused {
    /// As the caller is told.
    Call(Status),
    /// No drive takes so many bytes.
    NoFit(u64, Box<NoFit>),
}

impl Refused {
    /// As the caller is told.
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            Self::Call(status) => status,
            Self::NoFit(bytes, no_fit) => {
                let sentence = format!("no drive takes {}: {no_fit}", Bytes(bytes));
                status(no_fit.reason(), &sentence)
            }
        }
    }
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self::Call(status)
    }
}

impl Wanted {
    /// Reads what a caller asks for.
    ///
    /// # Errors
    /// What it asks for makes no sense, or is not supported.
    pub fn parse(request: CreateVolumeRequest) -> Result<Self, Status> {
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
        Ok(Self {
            name: volume_name(&request.name),
            csi_name: request.name,
            range: size::Range::parse(request.capacity_range.as_ref())?,
            single_writer: usage.single_writer,
            class,
            parameters: request.parameters,
            places: places(request.accessibility_requirements),
        })
    }

    /// The id of the volume.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is there, else a drive for it and the promise.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn decide(&self, inventory: &mut Inventory, terms: Terms) -> Result<Decision, Refused> {
        if inventory.is_unconfirmed(&self.name) {
            return Ok(Decision::Look);
        }
        if let Some(found) = inventory.volume(&self.name) {
            self.compare(found, inventory)?;
            return Ok(Decision::There(Box::new(found.clone())));
        }
        terms.must_place()?;
        let request = Request {
            name: self.name.clone(),
            bytes: self.range.choose()?,
            class: self.class.clone(),
            places: self.places.clone(),
            now: terms.now,
        };
        let placement = place(&request, inventory, terms.policy)
            .map_err(|no_fit| Refused::NoFit(request.bytes, no_fit))?;
        let volume = self.object(request.bytes, placement);
        if let Some(entry) = VolumeEntry::new(&volume) {
            inventory.promise(entry, terms.now);
        }
        Ok(Decision::Write(Box::new(volume)))
    }

    /// Whether a volume that is there is the one wanted.
    ///
    /// # Errors
    /// In what it differs.
    pub fn compare(&self, found: &VolumeEntry, inventory: &Inventory) -> Result<(), Status> {
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

fn places(requirement: Option<TopologyRequirement>) -> Places {
    let requirement = requirement.unwrap_or_default();
    let segments = |list: Vec<Topology>| list.into_iter().map(|t| t.segments).collect();
    Places {
        required: segments(requirement.requisite),
        preferred: segments(requirement.preferred),
    }
}

/// What to do about a volume that is to grow.
#[derive(Clone, Debug)]
pub enum Growth {
    /// It is that large already.
    There(Box<VolumeEntry>),
    /// A write about it had no answer: look, then decide again.
    Look,
    /// The new size is promised now, and to be written.
    Write(Box<VolumeEntry>),
}

/// Promises the growth of a volume, if there is any.
///
/// # Errors
/// There is no such volume, it is too large already, or its drive has no room or is not ready.
pub fn grow(
    inventory: &mut Inventory,
    id: &str,
    range: size::Range,
    terms: Terms,
) -> Result<Growth, Status> {
    if inventory.is_unconfirmed(id) {
        return Ok(Growth::Look);
    }
    let found = existing(inventory, id)?;
    if range.is_below(found.capacity_bytes) {
        let sentence = format!(
            "{id} has {} already, and never shrinks",
            Bytes(found.capacity_bytes)
        );
        return Err(status(Reason::CapacityExceeded, &sentence));
    }
    let wanted = range.choose()?;
    if wanted <= found.capacity_bytes {
        return Ok(Growth::There(Box::new(found)));
    }
    if found.deleting {
        return Err(status(
            Reason::BeingRemoved,
            &format!("{id} is being deleted"),
        ));
    }
    terms.must_place()?;
    let drive = found
        .drive
        .as_deref()
        .and_then(|drive| inventory.drive(drive));
    let Some(drive) = drive.filter(|drive| drive.phase == DrivePhase::Ready) else {
        let name = found.drive.as_deref().unwrap_or("none yet");
        let sentence = format!("the drive of {id} ({name}) is not ready");
        return Err(status(Reason::DriveUnavailable, &sentence));
    };
    let more = wanted - found.capacity_bytes;
    if more > drive.free_bytes() {
        let sentence = format!(
            "{id} wants {} more, its drive {} has {} free",
            Bytes(more),
            drive.name,
            Bytes(drive.free_bytes())
        );
        return Err(status(Reason::InsufficientCapacity, &sentence));
    }
    let grown = VolumeEntry {
        capacity_bytes: wanted,
        ..found
    };
    inventory.promise(grown.clone(), terms.now);
    Ok(Growth::Write(Box::new(grown)))
}

/// What to do about a volume that is given up.
#[derive(Clone, Debug)]
pub enum Ending {
    /// Nothing is left to do.
    Gone,
    /// What is known may be behind: look, then decide again.
    Look,
    /// The word `release` where it is lacking, then the deletion where it is.
    Act(Box<VolumeEntry>),
}

/// What to do about a volume that is given up. `looked`: the inventory has it as the API has it.
///
/// # Errors
/// It is mounted still.
pub fn end(inventory: &Inventory, id: &str, looked: bool) -> Result<Ending, Status> {
    let Some(volume) = inventory.volume(id) else {
        return Ok(if looked { Ending::Gone } else { Ending::Look });
    };
    if !looked && (volume.in_use || inventory.is_unconfirmed(id)) {
        return Ok(Ending::Look);
    }
    if volume.in_use {
        let sentence = format!("{id} is still mounted on node {}", volume.node);
        return Err(status(Reason::StillPublished, &sentence));
    }
    Ok(if volume.is_released() {
        Ending::Gone
    } else {
        Ending::Act(Box::new(volume.clone()))
    })
}

/// The volume of an id that must be there. What was deleted by word is not there any more.
///
/// # Errors
/// There is none.
pub fn existing(inventory: &Inventory, id: &str) -> Result<VolumeEntry, Status> {
    must_have(id, "volume_id")?;
    let found = inventory.volume(id).filter(|volume| !volume.is_released());
    let found = found.filter(|volume| !volume.uid.is_empty());
    found.cloned().ok_or_else(|| not_found(id))
}

/// Refuses an empty field of a request.
pub(crate) fn must_have(value: &str, field: &str) -> Result<(), Status> {
    if value.is_empty() {
        return Err(status(
            Reason::InvalidArgument,
            &format!("{field} is missing"),
        ));
    }
    Ok(())
}

/// The refusal of an id that names nothing.
pub(crate) fn not_found(id: &str) -> Status {
    status(Reason::VolumeNotFound, &format!("no volume {id:?}"))
}
