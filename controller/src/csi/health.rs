//! What ails a volume, in CSI's three words. A volume ails where its drive does.

use api::csi::volume_health::VolumeHealthEntry;
use api::csi::{VolumeHealth, VolumeHealthErrorType as Kind};
use api::drive::HealthState;
use api::{DrivePhase, Reason};

use crate::inventory::{DriveEntry, Inventory, VolumeEntry};

/// One entry a finding; none where nothing is wrong.
pub(super) fn of(volume: &VolumeEntry, inventory: &Inventory) -> VolumeHealth {
    let drive = volume
        .drive
        .as_deref()
        .map(|name| (name, inventory.drive(name)));
    let findings = match drive {
        None => Vec::new(),
        Some((name, None)) => {
            let message = format!("its drive {name} has no object");
            vec![(Kind::Inaccessible, Reason::DriveNotFound, message)]
        }
        Some((_, Some(drive))) => {
            let mut findings = findings(drive);
            if inventory.is_silent(&drive.node) {
                let message = format!("node {}: {}", drive.node, Reason::NodeSilent.meaning());
                findings.push((Kind::Inaccessible, Reason::NodeSilent, message));
            }
            findings
        }
    };
    VolumeHealth {
        volume_id: volume.name.clone(),
        health_statuses: findings
            .into_iter()
            .map(|(kind, reason, message)| VolumeHealthEntry {
                status: kind.into(),
                reason: reason.to_string(),
                message,
            })
            .collect(),
    }
}

fn findings(drive: &DriveEntry) -> Vec<(Kind, Reason, String)> {
    let mut list = Vec::new();
    let mut say = |kind, reason: Reason, why: &str| {
        list.push((kind, reason, format!("drive {}: {why}", drive.name)));
    };
    match drive.phase {
        DrivePhase::Ready => {}
        DrivePhase::Lost => {
            say(
                Kind::Inaccessible,
                Reason::DriveLost,
                Reason::DriveLost.meaning(),
            );
        }
        DrivePhase::ReadOnly => {
            say(
                Kind::Degraded,
                Reason::DriveReadOnly,
                Reason::DriveReadOnly.meaning(),
            );
        }
        DrivePhase::Failing => say(Kind::Degraded, Reason::IoErrors, Reason::IoErrors.meaning()),
        DrivePhase::Repairing => {
            say(
                Kind::Inaccessible,
                Reason::Repairing,
                Reason::Repairing.meaning(),
            );
        }
        DrivePhase::Pending | DrivePhase::Preparing | DrivePhase::Failed | DrivePhase::Removing => {
            let why = Reason::DriveUnavailable.meaning();
            say(Kind::Inaccessible, Reason::DriveUnavailable, why);
        }
    }
    if let Some(verdict) = &drive.verdict {
        match verdict.state {
            HealthState::Healthy | HealthState::Probation => {}
            HealthState::Slow => say(Kind::Degraded, verdict.reason, &verdict.message),
            HealthState::Failing if drive.phase == DrivePhase::Ready => {
                say(Kind::Degraded, verdict.reason, &verdict.message);
            }
            HealthState::Failing => {}
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::testing::{drive, volume};

    #[test]
    fn a_volume_ails_where_its_drive_does() {
        for (on, wanted) in [
            (drive("d"), vec![]),
            (
                drive("d").phase(DrivePhase::Lost),
                vec![(Kind::Inaccessible, "DriveLost")],
            ),
            (
                drive("d").phase(DrivePhase::ReadOnly),
                vec![(Kind::Degraded, "DriveReadOnly")],
            ),
            (
                drive("d").health(HealthState::Slow, Reason::Slow),
                vec![(Kind::Degraded, "Slow")],
            ),
            (
                drive("d").health(HealthState::Probation, Reason::Probation),
                vec![],
            ),
            (
                drive("d")
                    .phase(DrivePhase::Failing)
                    .health(HealthState::Failing, Reason::IoErrors),
                vec![(Kind::Degraded, "IoErrors")],
            ),
            (drive("other"), vec![(Kind::Inaccessible, "DriveNotFound")]),
        ] {
            let mut inventory = Inventory::default();
            inventory.apply_drive(&on.build());
            let volume = VolumeEntry::new(&volume("v").on("n1", "d").build()).unwrap();
            let health = of(&volume, &inventory);
            assert_eq!(health.volume_id, "v");
            let found: Vec<_> = health
                .health_statuses
                .iter()
                .map(|entry| (entry.status(), entry.reason.as_str()))
                .collect();
            assert_eq!(found, wanted);
        }
    }
}
