//! DeleteVolume and ControllerExpandVolume: what is done to a volume that is there.

use api::Reason;
use api::csi::{
    ControllerExpandVolumeRequest, ControllerExpandVolumeResponse,
    ValidateVolumeCapabilitiesRequest, ValidateVolumeCapabilitiesResponse,
    validate_volume_capabilities_response::Confirmed,
};
use api::serve::faults;
use api::status::status;
use kube::api::{DeleteParams, Patch, Preconditions};
use serde_json::json;
use std::time::Duration;
use tonic::Status;

use super::{Service, can_exist};
use crate::asked::{Ending, Growth, end, grow, must_have, not_found, size, usage};
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
        let mut ending = end(&self.leader.inventory(), id, false)?;
        if matches!(ending, Ending::Look) {
            let settled = self.leader.settle(id).await;
            settled.map_err(|error| error.status())?;
            ending = end(&self.leader.inventory(), id, true)?;
        }
        let Ending::Act(volume) = ending else {
            return Ok(());
        };
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
        let growth = grow(&mut self.leader.inventory(), &id, range, self.terms());
        let growth = match growth? {
            Growth::Look => {
                let settled = self.leader.settle(&id).await;
                settled.map_err(|error| error.status())?;
                grow(&mut self.leader.inventory(), &id, range, self.terms())?
            }
            growth @ (Growth::There(_) | Growth::Write(_)) => growth,
        };
        let grown = match growth {
            Growth::Look => return Err(status(Reason::OperationPending, "")),
            Growth::There(volume) => return Ok(answer(&volume)),
            Growth::Write(grown) => grown,
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
