//! Whether what was promised of a drive can be kept: two conditions on a Drive. Pure.
//!
//! | condition | holds when | ends when |
//! |---|---|---|
//! | `OverAllocated` | the capacities of the drive's Volumes sum up to more than is allocatable | they no longer do |
//! | `QuotaBypassed` | files of no project take more than our own files and a margin | they take less than our own and half of it |
//!
//! The first is exact, so it has no hysteresis. The second is measured. Where quota is in force the kernel counts the
//! files of no project as project 0. Ours are there: the probe file, the scratch file, and records. A volume's are not,
//! until somebody takes them out of their project, which a file's owner may do. Reading alone, it is never acted on: the
//! bytes are a user's.

use api::condition::{self, Condition, ConditionStatus, ConditionType};
use api::{Bytes, Reason};
use jiff::Timestamp;

use crate::records::probe_bytes;

/// Bytes of project 0 beyond the probe and scratch files that are no news: a record and its place in a directory for
/// each of 1,024 volumes are 8 MiB; as much again for temporary copies and directories.
const MARGIN_BYTES_MIN: u64 = 16 << 20;
/// Its share of what is allocatable. The headroom of a drive is four times as much, so no promise is at risk below it.
const MARGIN_SHARE: u64 = 100;

/// What is known of a drive in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Size of its device, in bytes.
    pub device_bytes: u64,
    /// Bytes that its volumes may be promised in sum.
    pub allocatable_bytes: u64,
    /// Bytes that they are promised in sum; `None` before all are known.
    pub promised_bytes: Option<u64>,
    /// Bytes used by files of no project; `None` where quota is not in force.
    pub unowned_bytes: Option<u64>,
}

/// Whether more is promised than the drive can hold. `None`: not known.
#[must_use]
pub fn is_over_allocated(figures: &Figures) -> Option<bool> {
    let promised = figures.promised_bytes?;
    Some(promised > figures.allocatable_bytes)
}

/// Whether volumes' files have left their projects. `None`: the kernel does not tell. `stands`: whether it was so before.
#[must_use]
pub fn is_quota_bypassed(figures: &Figures, stands: bool) -> Option<bool> {
    let own = probe_bytes(figures.device_bytes).saturating_mul(2);
    let beyond = figures.unowned_bytes?.saturating_sub(own);
    let margin = (figures.allocatable_bytes / MARGIN_SHARE).max(MARGIN_BYTES_MIN);
    Some(beyond > if stands { margin / 2 } else { margin })
}

/// Sets both conditions as they are now. One that never held is not mentioned. Gives those that turned.
pub fn tell(
    conditions: &mut Vec<Condition>,
    figures: &Figures,
    now: Timestamp,
) -> Vec<(ConditionType, bool)> {
    let stands = |conditions: &[Condition], type_| {
        condition::get(conditions, type_).map(|c| c.status == ConditionStatus::True)
    };
    let bypassed = stands(conditions, ConditionType::QuotaBypassed).unwrap_or(false);
    let judged = [
        (
            ConditionType::OverAllocated,
            is_over_allocated(figures),
            Reason::OverAllocated,
        ),
        (
            ConditionType::QuotaBypassed,
            is_quota_bypassed(figures, bypassed),
            Reason::QuotaBypassed,
        ),
    ];
    let mut turned = Vec::new();
    for (type_, holds, reason) in judged {
        let Some(holds) = holds else { continue };
        let before = stands(conditions, type_);
        // Its figures are of the moment at which it turned: they move all the time, and a status is written on change.
        if before == Some(holds) || (before.is_none() && !holds) {
            continue;
        }
        let (status, reason) = if holds {
            (ConditionStatus::True, reason)
        } else {
            (ConditionStatus::False, Reason::Ready)
        };
        condition::set(
            conditions,
            type_,
            status,
            reason,
            &sentence(type_, figures),
            now,
        );
        turned.push((type_, holds));
    }
    turned
}

fn sentence(type_: ConditionType, figures: &Figures) -> String {
    let allocatable = Bytes(figures.allocatable_bytes);
    if type_ == ConditionType::OverAllocated {
        let promised = Bytes(figures.promised_bytes.unwrap_or_default());
        return format!("its volumes are promised {promised} of {allocatable}");
    }
    let unowned = Bytes(figures.unowned_bytes.unwrap_or_default());
    format!("{unowned} belong to no volume's project, of {allocatable}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::testing::noon;

    const GIB: u64 = 1 << 30;
    const MIB: u64 = 1 << 20;

    fn figures(promised: Option<u64>, unowned: Option<u64>) -> Figures {
        Figures {
            device_bytes: 100 * GIB,
            allocatable_bytes: 90 * GIB,
            promised_bytes: promised,
            unowned_bytes: unowned,
        }
    }

    #[test]
    fn promises_are_compared_exactly() {
        for (promised, over) in [
            (None, None),
            (Some(0), Some(false)),
            (Some(90 * GIB), Some(false)),
            (Some(90 * GIB + 1), Some(true)),
            (Some(u64::MAX), Some(true)),
        ] {
            let found = is_over_allocated(&figures(promised, None));
            assert_eq!(found, over, "{promised:?}");
        }
    }

    #[test]
    fn files_of_no_project() {
        // Probe and scratch file of 100 GiB are 206 MiB; 1 % of 90 GiB are 921 MiB.
        for (unowned, stands, bypassed) in [
            (None, false, None),
            (None, true, None),
            (Some(0), false, Some(false)),
            (Some(206 * MIB), false, Some(false)),
            (Some(1127 * MIB), false, Some(false)),
            (Some(1128 * MIB), false, Some(true)),
            (Some(1000 * MIB), false, Some(false)),
            (Some(1000 * MIB), true, Some(true)),
            (Some(600 * MIB), true, Some(false)),
        ] {
            let found = is_quota_bypassed(&figures(None, unowned), stands);
            assert_eq!(found, bypassed, "{unowned:?} {stands}");
        }
        let small = Figures {
            device_bytes: 640 * MIB,
            allocatable_bytes: 512 * MIB,
            promised_bytes: None,
            unowned_bytes: Some(20 * MIB),
        };
        assert_eq!(is_quota_bypassed(&small, false), Some(true));
        assert_eq!(is_quota_bypassed(&small, true), Some(true));
        let less = Figures {
            unowned_bytes: Some(18 * MIB),
            ..small
        };
        assert_eq!(is_quota_bypassed(&less, false), Some(false));
    }

    #[test]
    fn conditions_turn_and_are_not_mentioned_before() {
        let mut conditions = Vec::new();
        let (over, bypassed) = (ConditionType::OverAllocated, ConditionType::QuotaBypassed);
        for (promised, unowned, expected) in [
            (None, None, vec![]),
            (Some(GIB), Some(0), vec![]),
            (Some(91 * GIB), Some(0), vec![(over, true)]),
            (Some(92 * GIB), Some(2 * GIB), vec![(bypassed, true)]),
            (None, None, vec![]),
            (Some(92 * GIB), Some(GIB), vec![]),
            (
                Some(90 * GIB),
                Some(0),
                vec![(over, false), (bypassed, false)],
            ),
            (Some(90 * GIB), Some(GIB), vec![]),
        ] {
            let turned = tell(&mut conditions, &figures(promised, unowned), noon());
            assert_eq!(turned, expected, "{promised:?} {unowned:?}");
        }
        assert!(
            conditions
                .iter()
                .all(|c| c.status == ConditionStatus::False)
        );
    }
}
