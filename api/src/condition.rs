//! Conditions of a status. The agent writes them; one entry a type, `lastTransitionTime` moves only with `status`.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Reason;

/// What a condition speaks of.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum ConditionType {
    /// Drive: mounted, checked and in use. Volume: its directory and quota stand. StorageNode: discovery is done.
    Ready,
    /// A volume cannot grow beyond its capacity.
    CapacityEnforced,
    /// Bytes outside any volume's project grow on the drive.
    QuotaBypassed,
    /// More is promised on the drive than it can hold.
    OverAllocated,
    /// Health reads run and succeed.
    HealthChecked,
}

/// Truth of a condition.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Not known (yet).
    Unknown,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it speaks of.
    #[serde(rename = "type")]
    pub type_: ConditionType,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// Why, as one word.
    pub reason: Reason,
    /// Why, as a sentence with figures, and what to do.
    pub message: String,
    /// When `status` last changed.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub last_transition_time: Timestamp,
}

/// Sets a condition in place. The transition time moves only when the status changes. Returns whether anything changed.
pub fn set(
    conditions: &mut Vec<Condition>,
    type_: ConditionType,
    status: ConditionStatus,
    reason: Reason,
    message: &str,
    now: Timestamp,
) -> bool {
    let Some(old) = conditions.iter_mut().find(|c| c.type_ == type_) else {
        conditions.push(Condition {
            type_,
            status,
            reason,
            message: message.to_owned(),
            last_transition_time: now,
        });
        conditions.sort_by_key(|c| c.type_);
        return true;
    };
    let changed = old.status != status || old.reason != reason || old.message != message;
    if old.status != status {
        old.last_transition_time = now;
    }
    old.status = status;
    old.reason = reason;
    message.clone_into(&mut old.message);
    changed
}

/// The condition of one type, if it was ever set.
#[must_use]
pub fn get(conditions: &[Condition], type_: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|c| c.type_ == type_)
}
