//! What is written to the Drive, and what is not: status by the smallest patch, and nothing that is so already.

use std::sync::atomic::AtomicBool;

use api::drive::{DriveCapacity, DriveStatus};
use api::event::Notice;
use api::names::FINALIZER_DEVICE;
use api::{Drive, DrivePhase, Reason};

use kube::ResourceExt as _;
use tokio::time::Instant;

use crate::allocation::{self, Figures};
use crate::apply::{Apply, Refusal};
use crate::host::Host;
use crate::metrics::OfDrive;
use crate::objects::{self, WriteError};
use crate::observe::{Content, Observed};
use crate::plan::{Action, REPAIR_WAITS, Standing, repair_waits};
use crate::records::Said;
use crate::registry::MountedDrive;
use crate::standing;

use super::vitals::Vitals;
use super::{Stopped, Task};

/// What people are told where a drive's phase, or the reason for it, is another than before.
fn turn(drive: &Drive, before: &DriveStatus, now: &DriveStatus) -> Option<Notice> {
    let reason = now.reason?;
    if (before.phase, before.reason) == (now.phase, now.reason) {
        return None;
    }
    let message = match now.message.as_str() {
        "" => reason.meaning(),
        message => message,
    };
    let warning = match now.phase {
        DrivePhase::Failed | DrivePhase::ReadOnly | DrivePhase::Failing | DrivePhase::Lost => true,
        // It waits for something that somebody may have to do.
        DrivePhase::Pending => reason != Reason::Pending,
        DrivePhase::Preparing
        | DrivePhase::Ready
        | DrivePhase::Repairing
        | DrivePhase::Removing => false,
    };
    Some(Notice {
        kind: "Drive",
        name: drive.name_any(),
        uid: drive.uid().unwrap_or_default(),
        reason,
        message: message.to_owned(),
        warning,
    })
}

impl Task {
    /// Writes the status. On failure it is kept as what should be, and written with the next.
    pub(super) async fn write(&mut self, status: DriveStatus) -> Result<(), WriteError> {
        self.status = status;
        self.gauge();
        let Some(patch) = standing::patch(&self.stored, &self.status) else {
            return Ok(());
        };
        let version = self.memory.latest.version();
        let written = objects::patch_status(&self.api, &self.id, version, &patch).await?;
        self.memory.latest.wrote(&written);
        let before = std::mem::replace(&mut self.stored, self.status.clone());
        if let Some(notice) = turn(&written, &before, &self.stored) {
            objects::tell(self.ctx.client.clone(), &notice, (self.ctx.clock)());
        }
        self.ctx.metrics.status_writes.inc();
        Ok(())
    }

    /// Shows the status in the metrics.
    fn gauge(&self) {
        let (metrics, of) = (
            &self.ctx.metrics,
            OfDrive {
                drive: self.id.clone(),
            },
        );
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        if let Some(capacity) = &self.status.capacity {
            metrics
                .capacity_bytes
                .get_or_create(&of)
                .set(signed(capacity.total_bytes));
            metrics
                .allocatable_bytes
                .get_or_create(&of)
                .set(signed(capacity.allocatable_bytes));
            metrics
                .used_bytes
                .get_or_create(&of)
                .set(signed(capacity.used_bytes));
        }
        let ready = self.status.phase == DrivePhase::Ready;
        metrics.ready.get_or_create(&of).set(i64::from(ready));
    }

    /// Writes the status if that is possible now.
    pub(super) async fn report(&mut self, status: DriveStatus) {
        match self.write(status).await {
            // What is there now comes by the watch.
            Ok(()) | Err(WriteError::Gone(_) | WriteError::Replaced(_)) => {}
            Err(error) => {
                let error = anyhow::Error::new(error);
                tracing::warn!(drive = self.id, error = format!("{error:#}"), reason = %Reason::ApiUnavailable, "A status could not be written; it is tried again");
            }
        }
    }

    pub(super) async fn stand(&mut self, standing: &Standing) {
        let mut status = self.status.clone();
        standing::stood(&mut status, standing, (self.ctx.clock)());
        if status.reason != self.status.reason {
            tracing::info!(drive = self.id, reason = %standing.reason, message = standing.message, "A drive stands otherwise");
        }
        self.report(status).await;
    }

    /// The drive is in use and all is well: what may have moved by itself is looked at.
    pub(super) async fn settled(&mut self, drive: &Drive, seen: &Observed) {
        let mut status = self.status.clone();
        let mounted = seen
            .mounted
            .iter()
            .filter_map(|mounted| mounted.device.as_ref());
        if let Some(device) = mounted.chain(&seen.bearers).next() {
            status.device = Some(standing::device(device));
        }
        match self.usage(drive, seen).await {
            Some(Ok((capacity, unowned_bytes))) => {
                standing::set_capacity(&mut status, capacity);
                self.tell_allocation(&mut status, capacity, unowned_bytes);
            }
            Some(Err(refusal)) => {
                tracing::warn!(drive = self.id, reason = %refusal.reason, message = refusal.message, "A drive's use could not be read");
            }
            None => {}
        }
        if seen
            .mounted
            .as_ref()
            .is_some_and(|mounted| repair_waits(drive, mounted))
        {
            REPAIR_WAITS.clone_into(&mut status.message);
        } else if status.message == REPAIR_WAITS {
            status.message.clear();
        }
        if drive.metadata.deletion_timestamp.is_some() {
            status.message = Reason::DriveInUse.meaning().to_owned();
            status.reason = Some(Reason::DriveInUse);
        }
        self.memory
            .vitals
            .get_or_insert_with(|| Vitals::new(Instant::now()));
        debug_assert!(matches!(
            status.phase,
            DrivePhase::Ready | DrivePhase::Failing
        ));
        self.memory.failures = 0;
        self.report(status).await;
    }

    /// Says whether what was promised of it can be kept.
    fn tell_allocation(
        &self,
        status: &mut DriveStatus,
        capacity: DriveCapacity,
        unowned_bytes: Option<u64>,
    ) {
        let figures = Figures {
            device_bytes: capacity.total_bytes,
            allocatable_bytes: capacity.allocatable_bytes,
            promised_bytes: self.ctx.volumes.promised_bytes(&self.id),
            unowned_bytes,
        };
        let now = (self.ctx.clock)();
        for (condition, holds) in allocation::tell(&mut status.conditions, &figures, now) {
            tracing::warn!(
                drive = self.id,
                ?condition,
                holds,
                ?figures,
                "A drive's condition turned"
            );
        }
    }

    /// Its bytes, and those of no project where the kernel counts. Its record is brought up to date on the way: what a
    /// person says of it now is on it before the API could lose it.
    async fn usage(
        &self,
        drive: &Drive,
        seen: &Observed,
    ) -> Option<Result<(DriveCapacity, Option<u64>), Refusal>> {
        let Content::Recorded(record) = seen.mounted.as_ref()?.content.clone() else {
            return None;
        };
        let mounted = self.ctx.registry.get(&self.id).ok()?;
        let (ctx, drive) = (self.ctx.clone(), drive.clone());
        let read = move || {
            let apply = Apply {
                host: ctx.host.as_ref(),
                site: &ctx.site,
                drive: &drive,
                now: (ctx.clock)(),
                cancel: &AtomicBool::new(false),
                spare: false,
            };
            match apply.remember(&record) {
                Ok(true) => ctx.registry.hear(&mounted.id, Said::of(&drive)),
                Ok(false) => {}
                // A full drive is to be shown as full.
                Err(refusal) => {
                    tracing::warn!(drive = %mounted.id, reason = %refusal.reason, message = refusal.message, "What a person said of a drive could not be kept on it; this is tried again");
                }
            }
            let unowned_bytes = unowned_bytes(ctx.host.as_ref(), &mounted);
            let capacity = apply.capacity(&record)?;
            Ok((capacity, unowned_bytes))
        };
        self.worker.call(read).await.ok()
    }

    /// What is for the API to do, and not for the host. Whether it was.
    pub(super) async fn act_on_api(&self, drive: &Drive, action: &Action) -> Result<bool, Stopped> {
        let on = *action == Action::AddFinalizer;
        if !on && *action != Action::DropFinalizer {
            return Ok(false);
        }
        match objects::set_finalizer(&self.api, drive, FINALIZER_DEVICE, on).await {
            Ok(()) => Ok(true),
            // The change that was in the way arrives by the watch.
            Err(WriteError::Conflict(_)) => Err(Stopped::Changed),
            Err(error) => Err(Stopped::Unwritten(error)),
        }
    }
}

/// Bytes of files of no project on a drive, where the kernel counts them.
fn unowned_bytes(host: &dyn Host, mounted: &MountedDrive) -> Option<u64> {
    if !mounted.quota_enforced {
        return None;
    }
    match host.quota(&mounted.root, 0) {
        Ok(usage) => Some(usage.used_bytes),
        Err(error) => {
            tracing::warn!(drive = %mounted.id, error = error.sentence(), reason = %Reason::QuotaFailed, "The bytes of no project could not be read, so files that left their projects would not be noticed");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_told_of_turns_alone() {
        let drive = api::testing::drive("d").build();
        let status = |phase, reason| DriveStatus {
            phase,
            reason: Some(reason),
            ..DriveStatus::default()
        };
        let told = |before: &DriveStatus, now: &DriveStatus| {
            turn(&drive, before, now).map(|notice| (notice.reason, notice.warning))
        };
        let ready = status(DrivePhase::Ready, Reason::Ready);
        let lost = status(DrivePhase::Lost, Reason::DriveLost);
        let held = status(DrivePhase::Pending, Reason::HeldByOther);
        assert_eq!(told(&ready, &ready), None);
        assert_eq!(told(&ready, &lost), Some((Reason::DriveLost, true)));
        assert_eq!(told(&lost, &ready), Some((Reason::Ready, false)));
        assert_eq!(
            told(&DriveStatus::default(), &held),
            Some((Reason::HeldByOther, true))
        );
        assert_eq!(told(&ready, &DriveStatus::default()), None);
    }
}
