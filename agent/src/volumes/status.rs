//! How a Volume's status follows from what is found. Pure: an old status in, a new one out.
//!
//! Rules:
//! * What is mounted is what the mount table says. What only a caller knew (which mount is the staging path, for which
//!   pod a target is) is remembered, by this process and by the status itself.
//! * Use is written when it moved by a hundredth of the capacity, or when two looks in a row saw the same. So a busy
//!   volume costs few writes, and one that has come to rest shows its exact numbers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use api::condition::{self, ConditionStatus, ConditionType};
use api::volume::Target;
use api::{Reason, VolumePhase, VolumeStatus};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::refusal::Refusal;
use super::seen::{Place, Seen};
use crate::host::TreeUsage;
use crate::standing::merge_patch;

/// Change of used bytes, as a share of the capacity, below which it is not written while it still moves.
const USED_HYSTERESIS_SHARE: u64 = 100;
/// Targets that a status names.
const TARGETS_MAX: usize = 64;

/// What this process remembers of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Staging path of the last stage or publish.
    pub staging: Option<PathBuf>,
    /// Pods, `namespace/name`, by target.
    pub pods: BTreeMap<PathBuf, String>,
    /// Use at the last look.
    pub used: Option<TreeUsage>,
    /// Where its files must be counted one by one: not before this.
    pub count_after: Option<Instant>,
}

/// What a look at a volume found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It stands.
    Stands(Box<Stands>),
    /// Nothing could be done for it.
    Refused(Refusal),
    /// Released: its data are being removed.
    Releasing,
}

/// A volume that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stands {
    /// The look.
    pub seen: Seen,
    /// Project id of its directory.
    pub project_id: u32,
    /// Bytes that may be written.
    pub capacity_bytes: u64,
    /// Why these are less than promised.
    pub shortfall: Option<Refusal>,
    /// Bytes and inodes in use, where they could be counted.
    pub used: Option<TreeUsage>,
}

/// The new status.
#[must_use]
pub fn status(
    volume: &str,
    old: &VolumeStatus,
    memory: &Memory,
    found: &Found,
    now: Timestamp,
) -> VolumeStatus {
    let mut status = old.clone();
    match found {
        Found::Stands(stands) => stand(volume, &mut status, memory, stands, now),
        Found::Refused(refusal) => {
            let lost =
                refusal.reason == Reason::DriveUnavailable && old.phase != VolumePhase::Pending;
            status.phase = if lost {
                VolumePhase::Lost
            } else {
                VolumePhase::Pending
            };
            explain(&mut status, refusal.reason, &refusal.message, false, now);
        }
        Found::Releasing => {
            status.phase = VolumePhase::Releasing;
            (status.staging_path, status.targets) = (None, Vec::new());
            explain(&mut status, Reason::Trashed, "", false, now);
        }
    }
    status
}

/// The merge patch that makes `old` into `new`, or nothing.
#[must_use]
pub fn patch(old: &VolumeStatus, new: &VolumeStatus) -> Option<Value> {
    let value = |status: &VolumeStatus| serde_json::to_value(status).unwrap_or_default();
    merge_patch(&value(old), &value(new)).map(|status| json!({ "status": status }))
}

fn stand(
    volume: &str,
    status: &mut VolumeStatus,
    memory: &Memory,
    stands: &Stands,
    now: Timestamp,
) {
    let seen = &stands.seen;
    let known = memory
        .staging
        .clone()
        .or_else(|| status.staging_path.as_ref().map(PathBuf::from));
    let staging = known.filter(|path| is_here(volume, seen, path));
    status.targets = targets(volume, status, memory, seen, staging.as_deref());
    status.staging_path = staging.map(|path| path.to_string_lossy().into_owned());
    let (phase, reason) = match (status.targets.is_empty(), &status.staging_path) {
        (false, _) => (VolumePhase::Published, Reason::Published),
        (true, Some(_)) => (VolumePhase::Staged, Reason::Staged),
        (true, None) => (VolumePhase::Ready, Reason::Provisioned),
    };
    status.phase = phase;
    status.project_id = Some(stands.project_id);
    status.capacity_bytes = Some(stands.capacity_bytes);
    match &stands.shortfall {
        Some(refusal) => explain(status, refusal.reason, &refusal.message, true, now),
        None => explain(status, reason, "", true, now),
    }
    if let Some(used) = stands.used {
        let moved = status.used_bytes.is_none_or(|old| {
            old.abs_diff(used.bytes) > stands.capacity_bytes / USED_HYSTERESIS_SHARE
        });
        if moved || memory.used == Some(used) {
            status.used_bytes = Some(used.bytes);
            status.used_inodes = Some(used.inodes);
        }
    }
    let (enforced, reason) = if seen.quota_enforced {
        (ConditionStatus::True, Reason::QuotaSupported)
    } else {
        (ConditionStatus::False, Reason::BestEffortCapacity)
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

fn is_here(volume: &str, seen: &Seen, path: &Path) -> bool {
    matches!(seen.at(volume, path), Place::Volume { .. } | Place::StandIn)
}

/// Every mount of the whole volume but the staging path, and the stand-ins at places known as targets.
fn targets(
    volume: &str,
    old: &VolumeStatus,
    memory: &Memory,
    seen: &Seen,
    staging: Option<&Path>,
) -> Vec<Target> {
    let remembered: BTreeMap<&Path, &str> = old
        .targets
        .iter()
        .map(|target| (Path::new(&target.path), target.pod.as_str()))
        .chain(
            memory
                .pods
                .iter()
                .map(|(path, pod)| (path.as_path(), pod.as_str())),
        )
        .collect();
    let mut found: BTreeMap<&Path, bool> = seen
        .mounts_of(volume)
        .filter(|mount| mount.whole)
        .map(|mount| (mount.target, mount.read_only))
        .collect();
    let stood_in = remembered
        .keys()
        .filter(|path| seen.at(volume, path) == Place::StandIn);
    found.extend(stood_in.map(|path| (*path, true)));
    found
        .into_iter()
        .filter(|(path, _)| Some(*path) != staging)
        .take(TARGETS_MAX)
        .map(|(path, read_only)| Target {
            path: path.to_string_lossy().into_owned(),
            read_only,
            pod: remembered.get(path).copied().unwrap_or_default().to_owned(),
        })
        .collect()
}

fn explain(status: &mut VolumeStatus, reason: Reason, message: &str, ready: bool, now: Timestamp) {
    status.reason = Some(reason);
    message.clone_into(&mut status.message);
    let truth = if ready {
        ConditionStatus::True
    } else {
        ConditionStatus::False
    };
    let message = if message.is_empty() {
        reason.meaning()
    } else {
        message
    };
    condition::set(
        &mut status.conditions,
        ConditionType::Ready,
        truth,
        reason,
        message,
        now,
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumes::testing::mounted;

    const GIB: u64 = 1 << 30;

    fn found(mounts: &[(&str, &str)], used_bytes: u64) -> Found {
        Found::Stands(Box::new(Stands {
            seen: Seen {
                quota_enforced: true,
                mounts: mounts
                    .iter()
                    .map(|(root, target)| mounted(root, target, false))
                    .collect(),
                ..Seen::default()
            },
            project_id: 7,
            capacity_bytes: GIB,
            shortfall: None,
            used: Some(TreeUsage {
                bytes: used_bytes,
                inodes: 1,
            }),
        }))
    }

    fn memory() -> Memory {
        Memory {
            staging: Some("/staging".into()),
            pods: BTreeMap::from([("/a".into(), "ns/pod".into())]),
            ..Memory::default()
        }
    }

    fn next(old: &VolumeStatus, memory: &Memory, found: &Found) -> VolumeStatus {
        status("v1", old, memory, found, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn the_phase_is_what_is_mounted() {
        let whole = "/volumes/v1";
        for (mounts, phase, targets) in [
            (vec![], VolumePhase::Ready, vec![]),
            (vec![(whole, "/staging")], VolumePhase::Staged, vec![]),
            (
                vec![(whole, "/staging"), (whole, "/b"), (whole, "/a")],
                VolumePhase::Published,
                vec![("/a", "ns/pod"), ("/b", "")],
            ),
            (
                vec![
                    (whole, "/staging"),
                    ("/volumes/v1/data", "/sub"),
                    ("/volumes/v2", "/c"),
                ],
                VolumePhase::Staged,
                vec![],
            ),
        ] {
            let status = next(&VolumeStatus::default(), &memory(), &found(&mounts, 0));
            assert_eq!(status.phase, phase, "{mounts:?}");
            let shown: Vec<_> = status
                .targets
                .iter()
                .map(|target| (target.path.as_str(), target.pod.as_str()))
                .collect();
            assert_eq!(shown, targets);
        }
    }

    #[test]
    fn after_a_restart_the_status_remembers_what_the_process_forgot() {
        let mounts = [("/volumes/v1", "/staging"), ("/volumes/v1", "/a")];
        let before = next(&VolumeStatus::default(), &memory(), &found(&mounts, 0));
        let after = next(&before, &Memory::default(), &found(&mounts, 0));
        assert_eq!(before, after);
        assert_eq!(after.staging_path.as_deref(), Some("/staging"));
        let unmounted = next(&after, &Memory::default(), &found(&[], 0));
        assert_eq!((unmounted.staging_path, unmounted.targets), (None, vec![]));
    }

    #[test]
    fn suspended_places_are_remembered_ones() {
        let mut stands_in = mounted("/", "/a", true);
        stands_in.fs_type = "tmpfs".into();
        let mut other = stands_in.clone();
        other.target = "/other".into();
        let Found::Stands(mut stands) = found(&[], 0) else {
            panic!("it stands");
        };
        stands.seen.mounts = vec![stands_in, other];
        let status = next(&VolumeStatus::default(), &memory(), &Found::Stands(stands));
        assert_eq!(status.targets.len(), 1);
        assert!(status.targets[0].read_only && status.targets[0].path == "/a");
    }

    #[test]
    fn use_is_written_when_it_moved_or_came_to_rest() {
        let mut status = VolumeStatus::default();
        let mut memory = Memory::default();
        // Seen, written: 1 % of 1 GiB is some 10.7 MB.
        for (seen, written) in [
            (4096, 4096),
            (8192, 4096),
            (12_288, 4096),
            (12_288, 12_288),
            (20_000_000, 20_000_000),
            (10_000_000, 20_000_000),
            (10_000_000, 10_000_000),
        ] {
            let found = found(&[], seen);
            status = next(&status, &memory, &found);
            assert_eq!(status.used_bytes, Some(written), "{seen}");
            memory.used = Some(TreeUsage {
                bytes: seen,
                inodes: 1,
            });
        }
    }

    #[test]
    fn a_refusal_keeps_what_was_known_and_says_why() {
        let mounts = [("/volumes/v1", "/a")];
        let published = next(&VolumeStatus::default(), &memory(), &found(&mounts, 4096));
        let gone = Found::Refused(Refusal::new(
            Reason::DriveUnavailable,
            "drive d1 is not mounted",
        ));
        let lost = next(&published, &memory(), &gone);
        assert_eq!(lost.phase, VolumePhase::Lost);
        assert_eq!((lost.used_bytes, lost.targets.len()), (Some(4096), 1));
        let never = next(&VolumeStatus::default(), &memory(), &gone);
        assert_eq!(never.phase, VolumePhase::Pending);
        assert_eq!(never.message, "drive d1 is not mounted");
        let ready = condition::get(&never.conditions, ConditionType::Ready).unwrap();
        assert_eq!(ready.status, ConditionStatus::False);
    }
}
