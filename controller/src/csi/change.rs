//! DeleteVolume and ControllerExpandVolume: what is done to a volume that is there.

use api::csi::{
    ControllerExpandVolumeRequest, ControllerExpandVolumeResponse,
    ValidateVolumeCapabilitiesRequest, ValidateVolumeCapabilitiesResponse,
    validate_volume_capabilities_response::Confirmed,
};
use api::serve::faults;
use api::status::status;
use api::{Bytes, DrivePhase, Reason};
use kube::api::{DeleteParams, Patch, Preconditions};
use serde_json::json;
use std::time::Duration;
use tonic::Status;

use super::{Service, can_exist, must_have, not_found, size, usage};
use crate::inventory::VolumeEntry;
use crate::leader::{CallError, call, patch_params};
use crate::lease::PLACING_WRITE_TIMEOUT;
use crate::placement::request::Class;

/// Time-out of writes that promise nothing.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

impl Service {
    /// Gives the word that the data may be destroyed, then deletes the object; the agent does the rest.
    pub(super) async fn delete(&self, id: &str) -> Result<(), Status> {
        must_have(id, "volume_id")?;
        self.must_lead()?;
        if !can_exist(id) {
            return Ok(());
        }
        let _turn = self.turn(id)?;
        let Some(volume) = self.as_it_is(id).await? else {
            return Ok(());
        };
        if volume.in_use {
            let sentence = format!("{id} is still mounted on node {}", volume.node);
            return Err(status(Reason::StillPublished, &sentence));
        }
        if volume.is_released() {
            return Ok(());
        }
        match self.release(&volume).await {
            Ok(()) | Err(CallError::NotFound) => {
                tracing::info!(
                    volume = id,
                    drive = volume.drive.as_deref(),
                    "volume released"
                );
                Ok(())
            }
            Err(error) => Err(error.status()),
        }
    }

    /// The volume as the inventory has it, unless that may be behind: then as the API has it.
    async fn as_it_is(&self, id: &str) -> Result<Option<VolumeEntry>, Status> {
        let known = {
            let inventory = self.leader.inventory();
            let known = inventory.volume(id).cloned();
            known.filter(|volume| !volume.in_use && !inventory.is_unconfirmed(id))
        };
        match known {
            Some(volume) => Ok(Some(volume)),
            None => {
                let settled = self.leader.settle(id).await;
                settled.map_err(|error| error.status())
            }
        }
    }

    async fn release(&self, volume: &VolumeEntry) -> Result<(), CallError> {
        let volumes = self.leader.volumes();
        // The uid makes sure that the word is given for this volume and no later one of the same name.
        let precondition =
            json!({ "metadata": { "uid": volume.uid }, "spec": { "release": true } });
        let (params, patch) = (patch_params(), Patch::Merge(&precondition));
        if !volume.release {
            let released = volumes.patch(&volume.name, &params, &patch);
            let released = faults::around("release", call(WRITE_TIMEOUT, released)).await?;
            self.leader.inventory().apply_volume(&released);
        }
        if !volume.deleting {
            let params = DeleteParams {
                preconditions: Some(Preconditions {
                    uid: Some(volume.uid.clone()),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            };
            let deleted = volumes.delete(&volume.name, &params);
            let deleted = faults::around("delete", call(WRITE_TIMEOUT, deleted)).await?;
            // Told at once, so that the next call sees it gone before the watch does.
            match deleted.left() {
                Some(deleting) => self.leader.inventory().apply_volume(&deleting),
                None => self.leader.inventory().remove_volume(&volume.name),
            }
        }
        Ok(())
    }

    /// Promises a larger size. Sizes are absolute, so a repeated call promises nothing twice.
    pub(super) async fn expand(
        &self,
        request: ControllerExpandVolumeRequest,
    ) -> Result<ControllerExpandVolumeResponse, Status> {
        must_have(&request.volume_id, "volume_id")?;
        let range = size::Range::parse(request.capacity_range.as_ref())?;
        if range.is_open() {
            let sentence = "capacity_range is missing: say how large the volume is to be";
            return Err(status(Reason::InvalidArgument, sentence));
        }
        if let Some(why) = request
            .volume_capability
            .as_ref()
            .and_then(usage::unsupported)
        {
            return Err(status(Reason::Unsupported, &why));
        }
        self.must_lead()?;
        let id = request.volume_id;
        let _turn = self.turn(&id)?;
        if self.leader.inventory().is_unconfirmed(&id) {
            let settled = self.leader.settle(&id).await;
            settled.map_err(|error| error.status())?;
        }
        let Some(grown) = self.promise_growth(&id, range)? else {
            let volume = self.volume(&id)?;
            return Ok(answer(&volume));
        };
        let volumes = self.leader.volumes();
        let wanted = json!({
            "metadata": { "uid": grown.uid },
            "spec": { "capacityBytes": grown.capacity_bytes },
        });
        let (params, patch) = (patch_params(), Patch::Merge(&wanted));
        let written = volumes.patch(&id, &params, &patch);
        match faults::around("expand", call(PLACING_WRITE_TIMEOUT, written)).await {
            Ok(written) => {
                self.leader.inventory().apply_volume(&written);
                tracing::info!(
                    volume = id,
                    capacity_bytes = grown.capacity_bytes,
                    "volume expanded"
                );
                Ok(answer(&grown))
            }
            Err(error @ CallError::Unclear(_)) => Err(error.status()),
            Err(error) => {
                self.leader.inventory().withdraw(&id);
                Err(error.status())
            }
        }
    }

    /// Promises the growth, if there is any. None: the volume is large enough already.
    fn promise_growth(&self, id: &str, range: size::Range) -> Result<Option<VolumeEntry>, Status> {
        let found = self.volume(id)?;
        if range.is_below(found.capacity_bytes) {
            let sentence = format!(
                "{id} has {} already, and never shrinks",
                Bytes(found.capacity_bytes)
            );
            return Err(status(Reason::CapacityExceeded, &sentence));
        }
        let wanted = range.choose()?;
        if wanted <= found.capacity_bytes {
            return Ok(None);
        }
        if found.deleting {
            return Err(status(
                Reason::BeingRemoved,
                &format!("{id} is being deleted"),
            ));
        }
        self.may_place()?;
        let mut inventory = self.leader.inventory();
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
        inventory.promise(grown.clone(), self.leader.now());
        Ok(Some(grown))
    }

    /// Confirms what is supported, or says what is not.
    pub(super) fn validate(
        &self,
        request: ValidateVolumeCapabilitiesRequest,
    ) -> Result<ValidateVolumeCapabilitiesResponse, Status> {
        must_have(&request.volume_id, "volume_id")?;
        if request.volume_capabilities.is_empty() {
            let sentence = "no volume capability was given";
            return Err(status(Reason::InvalidArgument, sentence));
        }
        self.must_lead()?;
        if !can_exist(&request.volume_id) {
            return Err(not_found(&request.volume_id));
        }
        self.volume(&request.volume_id)?;
        let mut refused = request
            .volume_capabilities
            .iter()
            .filter_map(usage::unsupported);
        let class = Class::parse(&request.parameters).err();
        let refusal = refused
            .next()
            .or_else(|| class.map(|error| error.to_string()));
        Ok(match refusal {
            Some(message) => ValidateVolumeCapabilitiesResponse {
                confirmed: None,
                message,
            },
            None => ValidateVolumeCapabilitiesResponse {
                confirmed: Some(Confirmed {
                    volume_context: request.volume_context,
                    volume_capabilities: request.volume_capabilities,
                    parameters: request.parameters,
                    mutable_parameters: request.mutable_parameters,
                }),
                message: String::new(),
            },
        })
    }
}

/// The node has to follow unless it enforces that size already.
fn answer(volume: &VolumeEntry) -> ControllerExpandVolumeResponse {
    ControllerExpandVolumeResponse {
        capacity_bytes: size::wire(volume.capacity_bytes),
        node_expansion_required: volume.enforced_bytes != Some(volume.capacity_bytes),
    }
}
