//! Why a drive cannot take a volume. One row a rule, named by the [`Reason`] with which it refuses; they are tried in
//! the order of the table, so a refusal names the first that a drive fails: what it *is* before what it *lacks*, and
//! room last, because room is what a person can still make.

use api::volume::CapacityEnforcement;
use api::{DrivePhase, Reason};

use super::Query;
use crate::inventory::DriveEntry;

/// One rule.
pub(super) struct Filter {
    /// What it refuses with.
    pub(super) reason: Reason,
    /// How a count of it reads: "8 wrong tier".
    pub(super) short: &'static str,
    /// Whether it refuses.
    pub(super) refuses: fn(&Query<'_>, &DriveEntry) -> bool,
}

/// How a count of drives on other nodes reads. Nodes are left out whole, before any drive of theirs is looked at.
pub(super) const WRONG_TOPOLOGY: (Reason, &str) = (Reason::WrongTopology, "on other nodes");

/// How a count of drives on silent nodes reads. They, too, are left out whole.
pub(super) const NODE_SILENT: (Reason, &str) = (Reason::NodeSilent, "on silent nodes");

/// The rules, in the order in which they are tried.
pub(super) const FILTERS: [Filter; 12] = [
    Filter {
        reason: Reason::BeingRemoved,
        short: "being removed",
        refuses: |_, drive| drive.deleting,
    },
    Filter {
        reason: Reason::NotReady,
        short: "not ready",
        // A drive that does not bear the placement finalizer yet could vanish under the volume.
        refuses: |_, drive| drive.phase != DrivePhase::Ready || drive.suspended || !drive.guarded,
    },
    Filter {
        reason: Reason::Cordoned,
        short: "cordoned",
        refuses: |_, drive| drive.cordoned,
    },
    Filter {
        reason: Reason::Unhealthy,
        short: "slow or failing",
        refuses: |_, drive| !drive.takes_volumes(),
    },
    Filter {
        reason: Reason::WrongTier,
        short: "wrong tier",
        refuses: |query, drive| query.tier_rank(drive.tier).is_none(),
    },
    Filter {
        reason: Reason::LabelMismatch,
        short: "not selected",
        refuses: |query, drive| !query.request.class.selector.matches(&drive.labels),
    },
    Filter {
        reason: Reason::SpreadTaken,
        short: "holding one of the spread group",
        refuses: |query, drive| {
            let spread = query.request.class.spread_id.as_deref();
            spread.is_some_and(|group| drive.usage.spread.contains(group))
        },
    },
    Filter {
        reason: Reason::CapacityNotEnforced,
        short: "without project quota",
        refuses: |query, drive| {
            query.request.class.enforcement == CapacityEnforcement::Strict && !drive.enforces
        },
    },
    Filter {
        reason: Reason::LatencyUnknown,
        short: "never measured",
        refuses: |query, drive| {
            query.request.class.read_latency_p99_ns_max.is_some() && drive.read.is_none()
        },
    },
    Filter {
        reason: Reason::TooSlow,
        short: "too slow",
        refuses: |query, drive| {
            let ceiling = query.request.class.read_latency_p99_ns_max;
            ceiling.is_some_and(|max| drive.read.as_ref().is_some_and(|r| r.p99_ns > max))
        },
    },
    Filter {
        reason: Reason::TooManyVolumes,
        short: "with too many volumes",
        refuses: |query, drive| drive.usage.volumes >= query.policy.volumes_per_drive_max,
    },
    Filter {
        reason: Reason::InsufficientCapacity,
        short: "too small",
        refuses: |query, drive| drive.free_bytes() < query.request.bytes,
    },
];

/// How a count of `reason` reads.
pub(super) fn short(reason: Reason) -> &'static str {
    let rows = FILTERS.iter().map(|filter| (filter.reason, filter.short));
    let row = rows.chain([NODE_SILENT]).find(|row| row.0 == reason);
    row.unwrap_or(WRONG_TOPOLOGY).1
}
