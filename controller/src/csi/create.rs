//! CreateVolume: a promise under the inventory's lock ([`crate::asked`] decides), then one write, then the answer.

use api::csi::{CreateVolumeRequest, Volume as WireVolume};
use api::serve::faults;
use api::status::status;
use api::{Reason, Volume};
use tokio::time::Instant;
use tonic::Status;

use super::{Service, reply};
use crate::asked::{Decision, Refused, Wanted};
use crate::inventory::VolumeEntry;
use crate::leader::{CallError, call, post_params};
use crate::lease::PLACING_WRITE_TIMEOUT;

impl Service {
    pub(super) async fn create(&self, request: CreateVolumeRequest) -> Result<WireVolume, Status> {
        let wanted = Wanted::parse(request)?;
        self.must_lead()?;
        let _turn = self.turn(wanted.name())?;
        let mut decision = self.decide(&wanted)?;
        if matches!(decision, Decision::Look) {
            let settled = self.leader.settle(wanted.name()).await;
            settled.map_err(|error| error.status())?;
            decision = self.decide(&wanted)?;
        }
        match decision {
            Decision::There(volume) => Ok(reply(&volume)),
            Decision::Look => Err(status(Reason::OperationPending, "")),
            Decision::Write(volume) => self.write(&wanted, &volume).await,
        }
    }

    fn decide(&self, wanted: &Wanted) -> Result<Decision, Status> {
        let mut inventory = self.leader.inventory();
        // The lock is waited for before: what is shown is how long placing takes, not how many callers there are.
        let begun = Instant::now();
        let decided = wanted.decide(&mut inventory, self.terms());
        let elapsed = begun.elapsed();
        drop(inventory);
        let placed = match &decided {
            Ok(Decision::Write(volume)) => volume.spec.placement.as_ref().map(Ok),
            Err(Refused::NoFit(_, no_fit)) => Some(Err(&**no_fit)),
            Ok(Decision::There(_) | Decision::Look) | Err(Refused::Call(_)) => None,
        };
        if let Some(placed) = placed {
            self.leader.metrics.placed(placed, elapsed);
        }
        decided.map_err(Refused::status)
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
                let found = self.leader.settle(wanted.name()).await;
                let found = found.map_err(|error| error.status())?;
                let Some(found) = found else {
                    return Err(status(Reason::OperationPending, ""));
                };
                wanted.compare(&found, &self.leader.inventory())?;
                Ok(reply(&found))
            }
            CallError::Refused(_) | CallError::NotFound => {
                self.leader.inventory().withdraw(wanted.name());
                Err(error.status())
            }
            // It may have been written: the promise stands until somebody looks.
            CallError::Unclear(_) => Err(error.status()),
        }
    }
}
