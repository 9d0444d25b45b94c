//! ListVolumes and GetCapacity: what there is, and how much room. Pages go by name, so that they stay right while
//! volumes come and go.

use api::Reason;
use api::csi::{
    ControllerListVolumeHealthRequest, ControllerListVolumeHealthResponse, GetCapacityRequest,
    GetCapacityResponse, ListVolumesRequest, ListVolumesResponse,
    list_volumes_response::{Entry, VolumeStatus},
};
use api::status::status;
use tonic::{Code, Status};

use super::{Service, health, reply};
use crate::asked::{size, usage};
use crate::inventory::{Inventory, VolumeEntry};
use crate::placement::request::{Class, Places, Request};
use crate::placement::room;

/// What a token begins with; the name after which to go on follows.
const TOKEN_PREFIX: &str = "after:";
/// Entries of one page at most, also where none is asked for: a gRPC message holds 4 MiB.
const PAGE_ENTRIES_MAX: usize = 5_000;

/// One page: the volumes, and the token of the next page where there is one.
struct Page<'i> {
    volumes: Vec<&'i VolumeEntry>,
    next_token: String,
}

fn page<'i>(inventory: &'i Inventory, max_entries: i32, token: &str) -> Result<Page<'i>, Status> {
    let Ok(max) = usize::try_from(max_entries) else {
        let sentence = format!("max_entries is {max_entries}: a number is not negative");
        return Err(status(Reason::InvalidArgument, &sentence));
    };
    let max = match max {
        0 => PAGE_ENTRIES_MAX,
        max => max.min(PAGE_ENTRIES_MAX),
    };
    let after = match token {
        "" => "",
        token => token.strip_prefix(TOKEN_PREFIX).ok_or_else(|| {
            // CSI wants this code for it, which no reason of ours has.
            let text = format!(
                "{}: {token:?} is not a token of ours; begin anew",
                Reason::InvalidArgument
            );
            Status::new(Code::Aborted, text)
        })?,
    };
    let there = |volume: &&VolumeEntry| !volume.is_released() && !volume.uid.is_empty();
    let mut rest = inventory.volumes_after(after).filter(there);
    let volumes: Vec<_> = rest.by_ref().take(max).collect();
    let next_token = match (rest.next(), volumes.last()) {
        (Some(_), Some(last)) => format!("{TOKEN_PREFIX}{}", last.name),
        _ => String::new(),
    };
    Ok(Page {
        volumes,
        next_token,
    })
}

impl Service {
    pub(super) fn list(&self, request: &ListVolumesRequest) -> Result<ListVolumesResponse, Status> {
        self.must_lead()?;
        let inventory = self.leader.inventory();
        let page = page(&inventory, request.max_entries, &request.starting_token)?;
        let entry = |volume: &VolumeEntry| Entry {
            volume: Some(reply(volume)),
            status: Some(VolumeStatus::default()),
        };
        Ok(ListVolumesResponse {
            entries: page.volumes.into_iter().map(entry).collect(),
            next_token: page.next_token,
        })
    }

    pub(super) fn list_health(
        &self,
        request: &ControllerListVolumeHealthRequest,
    ) -> Result<ControllerListVolumeHealthResponse, Status> {
        self.must_lead()?;
        let inventory = self.leader.inventory();
        let page = page(&inventory, request.max_entries, &request.starting_token)?;
        let volumes = page.volumes.into_iter();
        Ok(ControllerListVolumeHealthResponse {
            entries: volumes
                .map(|volume| health::of(volume, &inventory))
                .collect(),
            next_token: page.next_token,
        })
    }

    /// The true largest fit, and all free bytes, of the drives that the class allows in one place.
    pub(super) fn capacity(
        &self,
        request: GetCapacityRequest,
    ) -> Result<GetCapacityResponse, Status> {
        let class = Class::parse(&request.parameters);
        let class = class.map_err(|error| status(Reason::InvalidParameter, &error.to_string()))?;
        self.must_lead()?;
        let supported = !request
            .volume_capabilities
            .iter()
            .any(|c| usage::unsupported(c).is_some());
        let place = request
            .accessible_topology
            .map(|topology| topology.segments);
        let question = Request {
            name: String::new(),
            bytes: 0,
            class,
            places: Places {
                required: place.into_iter().collect(),
                preferred: Vec::new(),
            },
            now: self.leader.now(),
        };
        let found = room(&question, &self.leader.inventory(), self.leader.policy);
        let usable = |bytes: u64| match bytes / size::STEP_BYTES * size::STEP_BYTES {
            bytes if supported && bytes >= size::SIZE_BYTES_MIN => size::wire(bytes),
            _ => 0,
        };
        Ok(GetCapacityResponse {
            available_capacity: usable(found.free_bytes),
            maximum_volume_size: Some(usable(found.largest_bytes)),
            minimum_volume_size: Some(size::wire(size::SIZE_BYTES_MIN)),
        })
    }
}
