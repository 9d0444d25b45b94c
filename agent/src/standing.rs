//! How a Drive's status follows from what is done and found. Pure: an old status in, a new one out; and the smallest
//! merge patch between two, so that nothing is written that is so already.

use api::condition::{self, ConditionStatus, ConditionType};
use api::drive::{DriveDevice, EraseVerify, ErasedProof, Progress, RepairReport, Step};
use api::{Drive, DrivePhase, DriveStatus, LatencySummary, Reason};
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::apply::{Attached, Outcome, Refusal};
use crate::plan::{Action, Standing, refused_phase};
use crate::probe::Seen;

/// Change of used bytes, as a share of what is allocatable, below which it is not written.
const USED_HYSTERESIS_SHARE: u64 = 100;

/// Before an action begins.
#[must_use]
pub fn begun(drive: &Drive, status: &DriveStatus, action: &Action, now: Timestamp) -> DriveStatus {
    let mut status = status.clone();
    let Some(step) = action.step() else {
        return status;
    };
    if crate::plan::wants_repair(drive) && matches!(action, Action::Unmount | Action::Repair { .. })
    {
        return repairing(status, step, now);
    }
    let is_going = drive.metadata.deletion_timestamp.is_some();
    let (phase, reason) = match (is_going, mounts_only(drive, action)) {
        (true, _) => (DrivePhase::Removing, Reason::Removing),
        // A remount of a drive that was in use shows nothing: it is done before anybody could read it.
        (false, true) => return status,
        (false, false) => (DrivePhase::Preparing, Reason::Preparing),
    };
    status.phase = phase;
    status.reason = Some(reason);
    status.message.clear();
    status.incarnation.clone_from(&drive.metadata.uid);
    if keeps_cursor(&status, action) {
        return status;
    }
    let (done_bytes, total_bytes) = action.cursor();
    let same = status
        .progress
        .as_ref()
        .filter(|progress| progress.step == step);
    let method = Some(crate::plan::asked(drive).method);
    let goes_on =
        |begun: &&Progress| done_bytes > 0 && begun.method == method && begun.removal == is_going;
    let methods = same.filter(goes_on).map(|begun| begun.methods.clone());
    status.progress = Some(Progress {
        step,
        done_bytes,
        total_bytes,
        method,
        methods: methods.unwrap_or_default(),
        removal: is_going,
        phase: None,
        since: same.map_or(now, |progress| progress.since),
    });
    let anew = matches!(action, Action::Erase { done_bytes: 0, .. });
    if anew || *action == Action::SecureErase {
        // What was proved before says nothing of what is erased now.
        status.erased = None;
    }
    if *action == Action::SecureErase {
        status.secure_erase_since.get_or_insert(now);
    }
    status
}

/// A repair begins, or its unmounting before it.
fn repairing(mut status: DriveStatus, step: Step, now: Timestamp) -> DriveStatus {
    status.phase = DrivePhase::Repairing;
    status.reason = Some(Reason::Repairing);
    status.message.clear();
    status.progress = Some(Progress {
        step,
        done_bytes: 0,
        total_bytes: 0,
        phase: None,
        method: None,
        methods: String::new(),
        removal: false,
        since: now,
    });
    ready(
        &mut status,
        ConditionStatus::False,
        Reason::Repairing,
        Reason::Repairing.meaning(),
        now,
    );
    status
}

/// Whether it only looks at a device before going on with what was begun: who dies meanwhile goes on with that, too.
fn keeps_cursor(status: &DriveStatus, action: &Action) -> bool {
    let looks = matches!(action, Action::Check { resume: true, .. });
    let looks_again = matches!(action, Action::CheckRemoval { .. });
    status.progress.as_ref().is_some_and(|begun| {
        looks || looks_again && begun.removal && matches!(begun.step, Step::Erase | Step::Verify)
    })
}

fn mounts_only(drive: &Drive, action: &Action) -> bool {
    matches!(action, Action::Mount { .. }) && crate::plan::was_in_use(drive)
}

/// After an action, or a piece of it.
#[must_use]
pub fn after(mut status: DriveStatus, outcome: &Outcome, now: Timestamp) -> DriveStatus {
    match outcome {
        Outcome::Unchanged | Outcome::Changed => {}
        Outcome::SecurelyErased => status.secure_erase_since = None,
        Outcome::Partly {
            done_bytes,
            total_bytes,
            methods,
            offloaded: _,
        } => {
            if let Some(progress) = &mut status.progress {
                progress.done_bytes = *done_bytes;
                progress.total_bytes = *total_bytes;
                progress.methods = joined(&progress.methods, methods);
            }
        }
        Outcome::Gated(summary) => {
            let latency = status.latency.get_or_insert_default();
            latency.read = Some(LatencySummary::clone(summary));
        }
        Outcome::Erased {
            methods,
            bytes,
            level,
        } => {
            status.secure_erase_since = None;
            let begun = status.progress.as_ref();
            let begun = begun.filter(|begun| begun.step == Step::Erase);
            let methods = joined(begun.map_or("", |begun| &begun.methods), methods);
            // Nothing was left to do: it was done before an interruption, and how is known already.
            if methods.is_empty() && status.erased.is_some() {
                return status;
            }
            status.erased = Some(ErasedProof {
                method: methods,
                bytes: *bytes,
                verified_bytes: 0,
                verify: EraseVerify::None,
                level: *level,
                at: now,
            });
        }
        Outcome::Verified { bytes, verify } => {
            if let Some(erased) = &mut status.erased {
                erased.verified_bytes = *bytes;
                erased.verify = *verify;
                erased.at = now;
            }
        }
        Outcome::Repairing { phase, doing } => {
            status.message.clone_from(doing);
            if let Some(progress) = &mut status.progress {
                progress.phase = Some(*phase);
            }
        }
        Outcome::RepairEnded(report) => {
            status.repair = Some(RepairReport::clone(report));
            status.progress = None;
            status.message = format!("its file system {}", report.outcome.meaning());
        }
        Outcome::Attached(attached) => attach(&mut status, attached, now),
    }
    status
}

/// Methods of erasing, those from before an interruption first.
fn joined(before: &str, since: &str) -> String {
    let words = |text: &'_ str| -> Vec<String> {
        let words = text.split(", ").filter(|word| !word.is_empty());
        words.map(str::to_owned).collect()
    };
    let since = words(since);
    let mut all = words(before);
    all.retain(|word| !since.contains(word));
    all.extend(since);
    all.join(", ")
}

fn attach(status: &mut DriveStatus, attached: &Attached, now: Timestamp) {
    status.phase = DrivePhase::Ready;
    status.reason = Some(Reason::Ready);
    status.message.clear();
    status.progress = None;
    status.secure_erase_since = None;
    set_capacity(status, attached.capacity);
    ready(status, ConditionStatus::True, Reason::Ready, "", now);
    let (enforced, reason) = if attached.quota_enforced {
        (ConditionStatus::True, Reason::QuotaSupported)
    } else {
        (ConditionStatus::False, Reason::QuotaUnsupported)
    };
    let type_ = ConditionType::CapacityEnforced;
    condition::set(
        &mut status.conditions,
        type_,
        enforced,
        reason,
        reason.meaning(),
        now,
    );
}

fn ready(
    status: &mut DriveStatus,
    truth: ConditionStatus,
    reason: Reason,
    message: &str,
    now: Timestamp,
) {
    condition::set(
        &mut status.conditions,
        ConditionType::Ready,
        truth,
        reason,
        message,
        now,
    );
}

/// Sets the capacity, leaving used bytes as they are while they hardly moved.
pub fn set_capacity(status: &mut DriveStatus, mut capacity: api::drive::DriveCapacity) {
    if let Some(old) = &status.capacity {
        let moved = old.used_bytes.abs_diff(capacity.used_bytes);
        if moved <= capacity.allocatable_bytes / USED_HYSTERESIS_SHARE {
            capacity.used_bytes = old.used_bytes;
        }
    }
    status.capacity = Some(capacity);
}

/// An action was refused. The cursor stays, so that a later try goes on from it.
#[must_use]
pub fn refused(
    drive: &Drive,
    mut status: DriveStatus,
    refusal: &Refusal,
    now: Timestamp,
) -> DriveStatus {
    let standing = Standing {
        phase: refused_phase(drive),
        reason: refusal.reason,
        message: refusal.message.clone(),
    };
    stood(&mut status, &standing, now);
    // What does not read as zero is erased anew, not read once more, and nothing proves that it was erased.
    if refusal.reason == Reason::VerifyFailed {
        status.erased = None;
        let read_back = |progress: &&mut Progress| progress.step == Step::Verify;
        if let Some(progress) = status.progress.as_mut().filter(read_back) {
            progress.step = Step::Erase;
            progress.done_bytes = 0;
            progress.methods.clear();
        }
    }
    status
}

/// There is nothing to do, and this is how it stands.
pub fn stood(status: &mut DriveStatus, standing: &Standing, now: Timestamp) {
    status.phase = standing.phase;
    status.reason = Some(standing.reason);
    status.message.clone_from(&standing.message);
    let message = match standing.message.as_str() {
        "" => standing.reason.meaning(),
        message => message,
    };
    ready(
        status,
        ConditionStatus::False,
        standing.reason,
        message,
        now,
    );
}

/// The device as it is now.
#[must_use]
pub fn device(seen: &Seen) -> DriveDevice {
    let facts = &seen.facts;
    DriveDevice {
        name: facts.name.clone(),
        identity: seen.fingerprint.identity.clone(),
        model: facts.model.clone(),
        serial: facts.serial.clone(),
        firmware: facts.firmware.clone(),
        transport: Some(facts.transport),
        rotational: facts.rotational,
    }
}

/// The merge patch that makes `old` into `new`, or nothing. The verdict is the controller's and is never touched.
#[must_use]
pub fn patch(old: &DriveStatus, new: &DriveStatus) -> Option<Value> {
    let value = |status: &DriveStatus| {
        let status = DriveStatus {
            verdict: None,
            ..status.clone()
        };
        serde_json::to_value(status).unwrap_or_default()
    };
    merge_patch(&value(old), &value(new)).map(|status| serde_json::json!({ "status": status }))
}

/// RFC 7386: objects are merged, all else is replaced, what is gone becomes null.
#[must_use]
pub fn merge_patch(old: &Value, new: &Value) -> Option<Value> {
    let (Value::Object(old_map), Value::Object(new_map)) = (old, new) else {
        return (old != new).then(|| new.clone());
    };
    let mut changes = Map::new();
    for (key, value) in new_map {
        match old_map.get(key) {
            Some(before) => {
                if let Some(change) = merge_patch(before, value) {
                    changes.insert(key.clone(), change);
                }
            }
            None => {
                changes.insert(key.clone(), value.clone());
            }
        }
    }
    for key in old_map.keys().filter(|key| !new_map.contains_key(*key)) {
        changes.insert(key.clone(), Value::Null);
    }
    (!changes.is_empty()).then_some(Value::Object(changes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::Retry;
    use crate::plan::testing::at;
    use api::drive::EraseLevel;
    use api::testing::noon;
    use serde_json::json;

    #[test]
    fn merge_patches() {
        let cases = [
            (json!({"a": 1}), json!({"a": 1}), None),
            (json!({"a": 1}), json!({"a": 2}), Some(json!({"a": 2}))),
            (
                json!({"a": {"b": 1, "c": 2}}),
                json!({"a": {"b": 1}}),
                Some(json!({"a": {"c": null}})),
            ),
            (
                json!({"a": [1, 2]}),
                json!({"a": [1]}),
                Some(json!({"a": [1]})),
            ),
            (
                json!({}),
                json!({"a": {"b": 1}}),
                Some(json!({"a": {"b": 1}})),
            ),
            (
                json!({"a": {"b": 1}}),
                json!({"a": 3}),
                Some(json!({"a": 3})),
            ),
        ];
        for (old, new, expected) in cases {
            assert_eq!(merge_patch(&old, &new), expected, "{old} to {new}");
        }
    }

    /// Whoever dies while he looks at a device goes on where the one before him was.
    #[test]
    fn a_look_keeps_the_cursor() {
        let look = |resume| Action::Check {
            device: "a".to_owned(),
            resume,
        };
        let removal = Action::CheckRemoval {
            device: "a".to_owned(),
        };
        for (step, action, kept) in [
            (Step::Erase, look(true), true),
            (Step::Format, look(true), true),
            (Step::Erase, look(false), false),
            (Step::Erase, removal.clone(), true),
            (Step::Verify, removal.clone(), true),
            (Step::Format, removal.clone(), false),
        ] {
            let drive = at(step);
            let mut status = drive.status.clone().unwrap_or_default();
            if let Some(progress) = &mut status.progress {
                progress.removal = action == removal;
            }
            let after = begun(&drive, &status, &action, noon());
            let (step_now, bytes) = after.progress.map_or((Step::Claim, 0), |progress| {
                (progress.step, progress.done_bytes)
            });
            assert_eq!(
                (step_now == step, bytes == 512),
                (kept, kept),
                "{step:?} {action:?}"
            );
        }
    }

    /// The agent dies after the last piece and before the proof, and goes on from the cursor with nothing left to do.
    #[test]
    fn a_proof_says_how_what_was_erased_before_an_interruption_was() {
        let erase = |done_bytes| Action::Erase {
            done_bytes,
            total_bytes: 1024,
        };
        let piece = |done_bytes, methods: &str| Outcome::Partly {
            done_bytes,
            total_bytes: 1024,
            offloaded: true,
            methods: methods.to_owned(),
        };
        let end = |methods: &str| Outcome::Erased {
            methods: methods.to_owned(),
            bytes: 1024,
            level: EraseLevel::Logical,
        };
        let method = |status: DriveStatus, outcome: &Outcome| {
            let erased = after(status, outcome, noon()).erased.unwrap();
            erased.method
        };
        let drive = crate::plan::testing::drive();
        // What was proved when it was made says nothing of its removal.
        let made = after(DriveStatus::default(), &end("zero-writes"), noon());
        let fresh = begun(&drive, &made, &erase(0), noon());
        let fresh = after(fresh, &piece(512, "punch-hole"), noon());
        let done = after(fresh, &piece(1024, "punch-hole, zero-range"), noon());
        assert_eq!(
            method(done.clone(), &end("punch-hole, zero-range")),
            "punch-hole, zero-range"
        );
        // Killed here, and begun again with the cursor at its end.
        let again = begun(&drive, &done, &erase(1024), noon());
        assert_eq!(method(again, &end("")), "punch-hole, zero-range");
        // Killed half-way: the rest is done otherwise.
        let again = begun(&drive, &done, &erase(512), noon());
        let again = after(again, &piece(1024, "write-zeroes"), noon());
        assert_eq!(
            method(again, &end("write-zeroes")),
            "punch-hole, zero-range, write-zeroes"
        );
        // From the start, all is done anew.
        let anew = begun(&drive, &done, &erase(0), noon());
        assert_eq!(method(anew, &end("zero-writes")), "zero-writes");
        // Its cells first, as it was.
        let cells = "format-crypto, punch-hole, zero-range";
        assert_eq!(method(done, &end(cells)), cells);
    }

    #[test]
    fn what_does_not_read_as_zero_is_proved_by_nothing_and_erased_anew() {
        let drive = at(Step::Verify);
        let proved = Outcome::Erased {
            methods: "punch-hole".to_owned(),
            bytes: 1024,
            level: EraseLevel::Logical,
        };
        let status = after(drive.status.clone().unwrap_or_default(), &proved, noon());
        assert!(status.erased.is_some());
        let why = Refusal::new(Reason::VerifyFailed, "1 at 512", Retry::OnChange);
        let status = refused(&drive, status, &why, noon());
        let progress = status.progress.unwrap();
        assert_eq!((status.erased, progress.step), (None, Step::Erase));
        assert_eq!((progress.done_bytes, progress.methods.as_str()), (0, ""));
    }

    /// A read that fails says nothing of what is there: not one byte is written for it.
    #[test]
    fn what_cannot_be_read_back_is_read_again_and_not_erased_again() {
        let drive = at(Step::Verify);
        let before = drive.status.clone().unwrap_or_default();
        let why = Refusal::new(Reason::ReadFailed, "read 4096 bytes at 512", Retry::Later);
        let status = refused(&drive, before.clone(), &why, noon());
        assert_eq!(status.progress, before.progress);
        assert_eq!(status.erased, before.erased);
    }

    #[test]
    fn the_verdict_is_not_ours() {
        let verdict = json!({
            "state": "Slow", "reason": "Slow", "message": "", "since": "2026-01-01T00:00:00Z",
        });
        let judged = DriveStatus {
            verdict: serde_json::from_value(verdict).unwrap(),
            ..DriveStatus::default()
        };
        assert_eq!(patch(&judged, &DriveStatus::default()), None);
        assert_eq!(patch(&DriveStatus::default(), &judged), None);
    }

    #[test]
    fn used_bytes_are_written_when_they_moved() {
        let capacity = |used_bytes| api::drive::DriveCapacity {
            total_bytes: 1000,
            allocatable_bytes: 1000,
            used_bytes,
        };
        let mut status = DriveStatus::default();
        for (used, written) in [(0, 0), (10, 0), (11, 11), (2, 11), (0, 0)] {
            set_capacity(&mut status, capacity(used));
            assert_eq!(status.capacity.unwrap().used_bytes, written);
        }
    }
}
