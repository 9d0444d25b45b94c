//! Which device this is, and what it holds, as two short words: the fingerprint that a person confirms.
//!
//! Identity is never the kernel's name. In order of preference:
//!
//! | source | for | unique |
//! |---|---|---|
//! | world-wide name | NVMe, SCSI, multipath | `eui.` `uuid.` `naa.`: in the world; else on the node |
//! | serial and model | what has no such name | on the node |
//! | UUID of device mapper or array | LVM, LUKS, md | on the node (clones of a machine share it) |
//! | file: device, inode, path, offset | loop devices | on the node |
//! | place in the machine | what says nothing of itself | on the node |
//! | its disk's identity, number, start | partitions | as its disk's |
//! | those it is built upon | md and device mapper without a UUID | as theirs |
//!
//! What is unique only on the node is hashed together with the node's name, so that two machines made from one
//! template do not claim one drive. What is unique in the world is not: a disk that two nodes see is one drive.
//! Size and sector size are part of every identity.

use std::collections::BTreeMap;

use api::Fingerprint;
use block::signature::{Found, Kind};
use sha2::{Digest as _, Sha256};

use super::facts::{DeviceFacts, DeviceKind, Media};

/// Content of a device without any signature.
pub const BLANK: &str = "blank";
/// Content of a device that was not or could not be read.
pub const UNREAD: &str = "unread";

/// Schemes of world-wide names whose values are given out by a registry, or are random UUIDs.
const REGISTERED: &[&str] = &["eui.", "uuid.", "naa.2", "naa.5", "naa.6"];
/// How deep stacks of devices are followed (a partition of an array of volumes of …).
const STACK_MAX: u32 = 8;

/// Something that tells a device from all others.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    text: String,
    in_the_world: bool,
}

/// Identity parts of all devices that have one, by kernel name.
#[must_use]
pub fn identities(all: &BTreeMap<String, DeviceFacts>, node: &str) -> BTreeMap<String, String> {
    all.iter()
        .filter_map(|(name, facts)| {
            let found = name_of(facts, all, STACK_MAX)?;
            Some((name.clone(), identity(&found, facts, node)))
        })
        .collect()
}

fn identity(name: &Name, facts: &DeviceFacts, node: &str) -> String {
    let node = if name.in_the_world { "" } else { node };
    digest(&[
        node,
        &name.text,
        &facts.size_bytes.to_string(),
        &facts.logical_block_bytes.to_string(),
    ])
}

fn name_of(facts: &DeviceFacts, all: &BTreeMap<String, DeviceFacts>, depth: u32) -> Option<Name> {
    let depth = depth.checked_sub(1)?;
    let on_node = |text: String| {
        Some(Name {
            text,
            in_the_world: false,
        })
    };
    if let Some(part) = &facts.partition {
        let disk = name_of(all.get(&part.disk)?, all, depth)?;
        return Some(Name {
            text: format!(
                "{} part {} at {}",
                disk.text, part.number, part.start_sector
            ),
            ..disk
        });
    }
    if !facts.wwid.is_empty() {
        return Some(Name {
            in_the_world: REGISTERED.iter().any(|s| facts.wwid.starts_with(s)),
            text: format!("wwid {}", facts.wwid),
        });
    }
    if !facts.serial.is_empty() {
        return on_node(format!("serial {} {}", facts.model, facts.serial));
    }
    if let Some(file) = &facts.backing {
        let path = file.path.display();
        return on_node(format!("file {} {path} {}", file.inode, file.offset_bytes));
    }
    if !facts.place.is_empty() {
        return on_node(format!("place {}", facts.place));
    }
    if !matches!(facts.kind, DeviceKind::Md | DeviceKind::DeviceMapper) || facts.slaves.is_empty() {
        return None;
    }
    let mut parts = Vec::new();
    for slave in &facts.slaves {
        parts.push(name_of(all.get(slave)?, all, depth)?);
    }
    parts.sort_by(|a, b| a.text.cmp(&b.text));
    let text: Vec<&str> = parts.iter().map(|part| part.text.as_str()).collect();
    Some(Name {
        text: format!("{:?} on {}", facts.kind, text.join(", ")),
        in_the_world: parts.iter().all(|part| part.in_the_world),
    })
}

/// The content part of the fingerprint.
#[must_use]
pub fn content(media: &Media) -> String {
    content_of(media, |_| true)
}

/// What a device holds besides a claim block, likewise.
#[must_use]
pub fn held(media: &Media) -> String {
    content_of(media, |one| one.kind != Kind::Claim)
}

fn content_of(media: &Media, counts: impl Fn(&Found) -> bool) -> String {
    let Media::Read { found, .. } = media else {
        return UNREAD.to_owned();
    };
    let lines: Vec<String> = found.iter().filter(|one| counts(one)).map(line).collect();
    match lines.as_slice() {
        [] => BLANK.to_owned(),
        lines => digest(&lines.iter().map(String::as_str).collect::<Vec<_>>()),
    }
}

/// All that is known of a finding. The parts are told apart, so that no label reads like another's UUID.
fn line(found: &Found) -> String {
    format!(
        "{} {} {:?} {:?} {} {}",
        found.kind.as_str(),
        found.offset,
        found.uuid,
        found.label,
        found.damaged,
        found.unfinished
    )
}

/// 16 hex digits over the parts, each ended so that no two lists read alike.
fn digest(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The id that a new Drive on this device would get: the same each time, so that a second `init` of one device is a
/// plain conflict.
#[must_use]
pub fn drive_id(cluster_id: &str, fingerprint: &Fingerprint) -> String {
    let mut hash = Sha256::new();
    for part in [cluster_id, &fingerprint.identity, &fingerprint.content] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(hash.finalize()) {
        *to = from;
    }
    uuid::Builder::from_custom_bytes(bytes)
        .into_uuid()
        .to_string()
}
