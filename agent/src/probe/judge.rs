//! Which devices may become a drive. Pure.
//!
//! A device is eligible if nobody uses it, nobody will mistake it for another, and it is of a kind and size that
//! serves as a drive. What it holds does not make it ineligible: it is told ([`Reason::HoldsData`]) and a person's
//! word is needed. A drive of RingPV is never eligible, whoever's it is: it is managed, adoptable or foreign.
//!
//! All reasons are given at once, so that nobody mends one to learn the next.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use api::drive::Transport;
use api::storage_node::{DeviceReason, DeviceVerdict};
use api::{Bytes, Fingerprint, Reason, names};
use block::claim::{ClaimError, ClaimState};
use block::signature::{Found, Kind};

use super::facts::{DeviceFacts, DeviceKind, Media};
use super::{Held, Seen, identity};

/// What a device must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// This node's name.
    pub node: String,
    /// This cluster's id.
    pub cluster_id: String,
    /// Smallest drive in bytes.
    pub drive_bytes_min: u64,
    /// Loop devices may become drives.
    pub allow_loop: bool,
    /// Where drives are mounted: `<here>/<drive id>`.
    pub mount_root: PathBuf,
}

/// What is known beyond a device's own facts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// Ids of this cluster's Drive objects of this node.
    pub drives: BTreeSet<String>,
    /// Identities that more than one device shows, with the devices.
    pub identities: BTreeMap<String, BTreeSet<String>>,
    /// Drive ids that more than one device bears, with the devices.
    pub drive_ids: BTreeMap<String, BTreeSet<String>>,
}

/// Whether its bytes are its own: it is no member of an array, holds no partitions, nothing is built upon it.
pub(super) fn stands_alone(facts: &DeviceFacts) -> bool {
    facts.holders.is_empty() && facts.partitions.is_empty()
}

/// Whether a device is worth reading. What is never a drive is left in peace: an optical drive would pull its tray in,
/// a hidden path would fail, and other people's loop devices are none of our business.
#[must_use]
pub fn worth_reading(facts: &DeviceFacts, policy: &Policy) -> bool {
    let kind = match facts.kind {
        DeviceKind::Disk
        | DeviceKind::Partition
        | DeviceKind::DeviceMapper
        | DeviceKind::Md
        | DeviceKind::Loop => policy.allow_loop || facts.transport != Transport::Loop,
        DeviceKind::CdRom | DeviceKind::Unsupported => false,
    };
    kind && !facts.hidden && facts.size_bytes > 0 && matches!(facts.logical_block_bytes, 512 | 4096)
}

/// Judges all devices together: identities, then what two devices must not share, then each.
#[must_use]
pub fn judge_all(
    facts: &BTreeMap<String, DeviceFacts>,
    drives: &BTreeSet<String>,
    policy: &Policy,
) -> BTreeMap<String, Seen> {
    let identities = identity::identities(facts, &policy.node);
    let others = others(facts, &identities, drives.clone(), policy);
    facts
        .iter()
        .map(|(name, facts)| {
            let identity = identities.get(name).cloned().unwrap_or_default();
            (name.clone(), judge(facts, identity, &others, policy))
        })
        .collect()
}

/// What is shared by several devices that must not share it.
fn others(
    facts: &BTreeMap<String, DeviceFacts>,
    identities: &BTreeMap<String, String>,
    drives: BTreeSet<String>,
    policy: &Policy,
) -> Others {
    let mut others = Others {
        drives,
        ..Others::default()
    };
    for (name, identity) in identities {
        let devices = others.identities.entry(identity.clone()).or_default();
        devices.insert(name.clone());
    }
    for (name, facts) in facts.iter().filter(|(_, facts)| stands_alone(facts)) {
        if let Some(held) = held(facts, policy) {
            let devices = others.drive_ids.entry(held.id).or_default();
            devices.insert(name.clone());
        }
    }
    others.identities.retain(|_, devices| devices.len() > 1);
    others.drive_ids.retain(|_, devices| devices.len() > 1);
    // One that is mounted in its place was there first: it stays, and only the copies are refused.
    let in_place = |id: &str, name: &str| {
        facts
            .get(name)
            .is_some_and(|facts| facts.mounts.contains(&policy.mount_root.join(id)))
    };
    for (id, devices) in &mut others.drive_ids {
        let mounted: Vec<String> = devices
            .iter()
            .filter(|name| in_place(id, name))
            .cloned()
            .collect();
        if let [first] = mounted.as_slice() {
            devices.remove(first);
        }
    }
    others
}

/// The drive of RingPV that a device bears. Its file system says it; before there is one, the claim block. A claim that
/// says Preparing is the later word over a file system of ours that was there when it was written: it is only written where
/// no drive in use stands, so that is what an earlier preparation left. One that came since is not.
fn held(facts: &DeviceFacts, policy: &Policy) -> Option<Held> {
    let Media::Read { found, claim } = &facts.media else {
        return None;
    };
    let claim = claim.clone().ok().flatten();
    let cluster_id = claim.as_ref().map(|c| c.cluster_id.clone());
    let file_system = found
        .iter()
        .find(|one| one.kind == Kind::Xfs && !one.uuid.is_empty())
        .and_then(|one| Some((one, one.label.strip_prefix(names::FILESYSTEM_LABEL_PREFIX)?)));
    let own_tag = names::cluster_tag(&policy.cluster_id);
    let file_system = file_system.filter(|(xfs, tag)| {
        let remains = claim.as_ref().is_some_and(|claim| {
            claim.state == ClaimState::Preparing
                && claim.cluster_id == policy.cluster_id
                && claim.drive_id != xfs.uuid
                && claim.named.contains(&xfs.digest())
        });
        !(remains && *tag == own_tag)
    });
    let Some((xfs, tag)) = file_system else {
        let claim = claim?;
        return Some(Held {
            id: claim.drive_id.clone(),
            ours: claim.cluster_id == policy.cluster_id,
            cluster_id: claim.cluster_id.clone(),
            file_system: false,
            claim: Some(claim),
        });
    };
    let ours = tag == own_tag
        && cluster_id
            .as_ref()
            .is_none_or(|id| *id == policy.cluster_id);
    Some(Held {
        id: xfs.uuid.clone(),
        ours,
        cluster_id: cluster_id.unwrap_or_else(|| match ours {
            true => policy.cluster_id.clone(),
            false => String::new(),
        }),
        file_system: !xfs.unfinished,
        claim,
    })
}

/// Whether a device may become a drive, with all reasons.
#[must_use]
pub fn judge(facts: &DeviceFacts, identity: String, others: &Others, policy: &Policy) -> Seen {
    let held = held(facts, policy);
    let mut reasons = Vec::new();
    kind_reasons(facts, policy, &mut reasons);
    use_reasons(facts, held.as_ref(), policy, &mut reasons);
    identity_reasons(facts, &identity, held.as_ref(), others, &mut reasons);
    media_reasons(facts, &mut reasons);
    content_reasons(facts, held.as_ref(), others, &mut reasons);
    reasons.sort_by_key(|one| one.reason);
    let verdict = match reasons.iter().any(|one| one.reason != Reason::HoldsData) {
        true => DeviceVerdict::Denied,
        false => DeviceVerdict::Eligible,
    };
    let fingerprint = Fingerprint {
        identity,
        content: identity::content(&facts.media),
    };
    Seen {
        drive_id: (verdict == DeviceVerdict::Eligible)
            .then(|| identity::drive_id(&policy.cluster_id, &fingerprint)),
        facts: facts.clone(),
        fingerprint,
        holds: held,
        verdict,
        reasons,
    }
}

fn push(reasons: &mut Vec<DeviceReason>, reason: Reason, message: impl Into<String>) {
    reasons.push(DeviceReason {
        reason,
        message: message.into(),
    });
}

/// What the device is.
fn kind_reasons(facts: &DeviceFacts, policy: &Policy, reasons: &mut Vec<DeviceReason>) {
    if facts.size_bytes < policy.drive_bytes_min {
        let (has, least) = (Bytes(facts.size_bytes), Bytes(policy.drive_bytes_min));
        push(
            reasons,
            Reason::TooSmall,
            format!("{has}; the smallest drive has {least}"),
        );
    }
    if facts.hidden {
        push(reasons, Reason::Hidden, "");
    }
    if facts.read_only {
        push(reasons, Reason::ReadOnlyDevice, "");
    }
    if facts.removable && facts.kind != DeviceKind::CdRom {
        push(reasons, Reason::RemovableMedia, "");
    }
    match facts.kind {
        DeviceKind::CdRom => push(reasons, Reason::CdRom, ""),
        DeviceKind::Unsupported => push(reasons, Reason::UnsupportedKind, driver(&facts.name)),
        DeviceKind::Loop
        | DeviceKind::Disk
        | DeviceKind::Partition
        | DeviceKind::DeviceMapper
        | DeviceKind::Md => {}
    }
    if facts.transport == Transport::Loop && !policy.allow_loop {
        push(reasons, Reason::LoopNotAllowed, "");
    }
    if facts.zoned {
        push(reasons, Reason::UnsupportedKind, "zoned");
    }
    if !matches!(facts.logical_block_bytes, 512 | 4096) {
        let bytes = facts.logical_block_bytes;
        push(
            reasons,
            Reason::UnsupportedSectorSize,
            format!("{bytes} bytes"),
        );
    }
}

fn driver(name: &str) -> &str {
    name.trim_end_matches(|c: char| c.is_ascii_digit())
}

/// Who uses it. A drive of ours in its own place is in use by us, and that is said as AlreadyManaged or Adoptable.
fn use_reasons(
    facts: &DeviceFacts,
    held: Option<&Held>,
    policy: &Policy,
    reasons: &mut Vec<DeviceReason>,
) {
    if !facts.partitions.is_empty() {
        push(reasons, Reason::Partitioned, facts.partitions.join(", "));
    }
    if !facts.holders.is_empty() {
        push(reasons, Reason::HeldByOther, facts.holders.join(", "));
    }
    if !facts.loops.is_empty() {
        let loops = facts.loops.join(", ");
        push(reasons, Reason::HeldByOther, format!("{loops} on it"));
    }
    let in_place = held
        .is_some_and(|held| held.ours && facts.mounts.contains(&policy.mount_root.join(&held.id)));
    if !facts.mounts.is_empty() && !in_place {
        push(reasons, Reason::Mounted, listed(&facts.mounts));
    }
    if facts.swap {
        push(reasons, Reason::SwapInUse, "");
    }
}

/// The first few paths; the number of the others.
fn listed(paths: &[PathBuf]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<String> = paths
        .iter()
        .take(SHOWN)
        .map(|path: &PathBuf| Path::display(path).to_string())
        .collect();
    match paths.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Whether it can be told from every other.
fn identity_reasons(
    facts: &DeviceFacts,
    identity: &str,
    held: Option<&Held>,
    others: &Others,
    reasons: &mut Vec<DeviceReason>,
) {
    let but_this = |devices: &BTreeSet<String>| {
        let names: Vec<&str> = devices
            .iter()
            .map(String::as_str)
            .filter(|name| *name != facts.name)
            .collect();
        names.join(", ")
    };
    if identity.is_empty() {
        push(reasons, Reason::NoStableIdentity, "");
    }
    if let Some(devices) = others.identities.get(identity) {
        push(reasons, Reason::DuplicateIdentity, but_this(devices));
    }
    if let Some(held) = held
        && stands_alone(facts)
        && let Some(devices) = others.drive_ids.get(&held.id)
        && devices.contains(&facts.name)
    {
        let message = match but_this(devices).as_str() {
            "" => format!("{}, and the original is mounted", held.id),
            names => format!("{}, as {names}", held.id),
        };
        push(reasons, Reason::DuplicateDriveId, message);
    }
}

/// Whether it could be read.
fn media_reasons(facts: &DeviceFacts, reasons: &mut Vec<DeviceReason>) {
    match &facts.media {
        Media::Unresponsive { message } => push(reasons, Reason::Unresponsive, message),
        Media::Failed { message } => push(reasons, Reason::ReadFailed, message),
        Media::Unread | Media::Read { .. } => {}
    }
}

/// What it holds, and whose that is.
fn content_reasons(
    facts: &DeviceFacts,
    held: Option<&Held>,
    others: &Others,
    reasons: &mut Vec<DeviceReason>,
) {
    let Media::Read { found, claim } = &facts.media else {
        return;
    };
    if let Err(error @ ClaimError::Version(_)) = claim {
        push(reasons, Reason::ClaimConflict, error.to_string());
        return;
    }
    if let Some(held) = held {
        let (reason, mut message) = ownership(held, &others.drives);
        let besides = besides(held, found);
        if !besides.is_empty() {
            message = format!("{message}; besides: {besides}");
        }
        push(reasons, reason, message);
    } else if !found.is_empty() {
        let words: Vec<String> = found.iter().map(one_line).collect();
        push(reasons, Reason::HoldsData, words.join("; "));
    }
}

/// What a device holds besides the drive that it bears.
fn besides(held: &Held, found: &[Found]) -> String {
    let own =
        |one: &&Found| one.kind == Kind::Claim || one.kind == Kind::Xfs && one.uuid == held.id;
    let words: Vec<String> = found.iter().filter(|one| !own(one)).map(one_line).collect();
    words.join("; ")
}

fn one_line(found: &Found) -> String {
    match found.detail().as_str() {
        "" => format!("{} at {}", found.kind.as_str(), found.offset),
        detail => format!("{} at {} ({detail})", found.kind.as_str(), found.offset),
    }
}

/// Whose drive it is, and what that means here.
///
/// | cluster | Drive object | file system | claim | |
/// |---|---|---|---|---|
/// | another | | | | ForeignCluster |
/// | this | | bears one id | bears another | ClaimConflict |
/// | this | there | | | AlreadyManaged |
/// | this | none | stands | Formatted or none | Adoptable |
/// | this | none | none | Formatted | ClaimConflict: it may have held data |
/// | this | none | | Preparing | HoldsData: it was never in use |
fn ownership(held: &Held, drives: &BTreeSet<String>) -> (Reason, String) {
    let id = &held.id;
    if !held.ours {
        let of = match held.cluster_id.as_str() {
            "" => String::new(),
            cluster => format!(" of cluster {cluster}"),
        };
        return (Reason::ForeignCluster, format!("drive {id}{of}"));
    }
    let claim = held.claim.as_ref();
    if let Some(other) = claim.filter(|claim| claim.drive_id != *id) {
        let message = format!(
            "its file system is drive {id}, its claim block {}",
            other.drive_id
        );
        return (Reason::ClaimConflict, message);
    }
    if drives.contains(id) {
        return (Reason::AlreadyManaged, format!("drive {id}"));
    }
    match (held.file_system, claim.map(|claim| claim.state)) {
        (_, Some(ClaimState::Preparing)) => {
            let message = format!("the unfinished preparation of drive {id}, which has no object");
            (Reason::HoldsData, message)
        }
        (true, _) => (Reason::Adoptable, format!("drive {id}")),
        (false, _) => {
            let message =
                format!("it was drive {id}, and its file system is missing or unfinished");
            (Reason::ClaimConflict, message)
        }
    }
}
