//! What ails a volume, or the drives of this node, in the words of CSI 1.13: from the agent's own view of a drive and
//! from the leader's verdict. No entry means that nothing is known to be wrong.

use api::csi::node_get_storage_health_response::StorageBackendHealth;
use api::csi::volume_health::VolumeHealthEntry;
use api::csi::{StorageHealthErrorType, VolumeHealthErrorType};
use api::drive::HealthState;
use api::{Drive, DrivePhase, Reason};
use kube::ResourceExt as _;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Severity {
    /// It works, worse than it should.
    Degraded,
    /// It does not work.
    Unreachable,
}

/// One ailment of a drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ailment {
    severity: Severity,
    reason: Reason,
    message: String,
}

/// What ails a drive. `answers`: whether it is mounted here and its calls are answered; `drive`: its object, if the API
/// could be asked.
pub(super) fn ailment(id: &str, answers: bool, drive: Option<&Drive>) -> Option<Ailment> {
    let status = drive.and_then(|drive| drive.status.as_ref());
    let said = status.map(|status| (status.phase, status.reason, &status.message));
    let ail = |severity, reason: Reason, message: &str| {
        let message = if message.is_empty() {
            reason.meaning()
        } else {
            message
        };
        Some(Ailment {
            severity,
            reason,
            message: format!("drive {id}: {message}"),
        })
    };
    match said {
        _ if !answers => {
            let reason = match said {
                // What its object says may be older than what its agent knows.
                None | Some((DrivePhase::Ready, ..)) => Reason::DriveUnavailable,
                Some((DrivePhase::Lost, reason, _)) => reason.unwrap_or(Reason::DriveLost),
                Some((_, reason, _)) => reason.unwrap_or(Reason::DriveUnavailable),
            };
            let message = said.map_or("", |(_, _, message)| message.as_str());
            ail(Severity::Unreachable, reason, message)
        }
        Some((DrivePhase::ReadOnly, reason, message)) => {
            let reason = reason.unwrap_or(Reason::DriveReadOnly);
            ail(Severity::Degraded, reason, message)
        }
        Some((DrivePhase::Failing, reason, message)) => {
            let reason = reason.unwrap_or(Reason::IoErrors);
            ail(Severity::Degraded, reason, message)
        }
        _ => {
            let verdict = status.and_then(|status| status.verdict.as_ref())?;
            match verdict.state {
                HealthState::Healthy => None,
                HealthState::Slow | HealthState::Probation | HealthState::Failing => {
                    ail(Severity::Degraded, verdict.reason, &verdict.message)
                }
            }
        }
    }
}

/// For the volume on that drive.
pub(super) fn of_volume(ailment: Ailment) -> VolumeHealthEntry {
    let status = match ailment.severity {
        Severity::Degraded => VolumeHealthErrorType::Degraded,
        Severity::Unreachable => VolumeHealthErrorType::Inaccessible,
    };
    VolumeHealthEntry {
        status: status.into(),
        reason: ailment.reason.to_string(),
        message: ailment.message,
    }
}

/// For the node: one entry for each kind of ailment and reason, which names all drives that have it.
pub(super) fn of_node(mut ailments: Vec<Ailment>) -> Vec<StorageBackendHealth> {
    ailments.sort_by_key(|ailment| (ailment.severity, ailment.reason));
    ailments
        .chunk_by(|a, b| (a.severity, a.reason) == (b.severity, b.reason))
        .filter_map(|alike| {
            let first = alike.first()?;
            let status = match first.severity {
                Severity::Degraded => StorageHealthErrorType::StorageDegraded,
                Severity::Unreachable => StorageHealthErrorType::StorageUnreachable,
            };
            let messages: Vec<&str> = alike.iter().map(|one| one.message.as_str()).collect();
            Some(StorageBackendHealth {
                status: status.into(),
                reason: first.reason.to_string(),
                message: messages.join("; "),
                volume_capability: None,
            })
        })
        .collect()
}

/// The drive among `drives`.
pub(super) fn named<'d>(drives: &'d [Drive], id: &str) -> Option<&'d Drive> {
    drives.iter().find(|drive| drive.name_any() == id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::testing::drive;

    fn ready(verdict: Option<HealthState>) -> Drive {
        let drive = drive("d1");
        match verdict {
            Some(state) => drive.health(state, Reason::Slow).build(),
            None => drive.build(),
        }
    }

    #[test]
    fn what_ails_a_drive() {
        let lost = drive("d1").phase(DrivePhase::Lost).build();
        let read_only = drive("d1").phase(DrivePhase::ReadOnly).build();
        for (answers, drive, expected) in [
            (true, None, None),
            (true, Some(ready(None)), None),
            (true, Some(ready(Some(HealthState::Healthy))), None),
            (
                true,
                Some(ready(Some(HealthState::Slow))),
                Some((Severity::Degraded, Reason::Slow)),
            ),
            (
                true,
                Some(read_only),
                Some((Severity::Degraded, Reason::DriveReadOnly)),
            ),
            (
                false,
                Some(lost),
                Some((Severity::Unreachable, Reason::DriveLost)),
            ),
            (
                false,
                Some(ready(None)),
                Some((Severity::Unreachable, Reason::DriveUnavailable)),
            ),
            (
                false,
                None,
                Some((Severity::Unreachable, Reason::DriveUnavailable)),
            ),
        ] {
            let found = ailment("d1", answers, drive.as_ref());
            let short = found.as_ref().map(|found| (found.severity, found.reason));
            assert_eq!(short, expected, "{drive:?}");
        }
    }

    #[test]
    fn a_node_names_each_reason_once() {
        let slow = ready(Some(HealthState::Slow));
        let entries = of_node(vec![
            ailment("d1", true, Some(&slow)).unwrap(),
            ailment("d3", false, None).unwrap(),
            ailment("d2", true, Some(&slow)).unwrap(),
        ]);
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].reason, "Slow");
        assert_eq!(
            entries[0].message,
            "drive d1: slower than its own past or its peers; drive d2: slower than its own past or its peers"
        );
        assert_eq!(
            entries[1].status,
            i32::from(StorageHealthErrorType::StorageUnreachable)
        );
    }
}
