//! What `init` will do, decided before anything is created: each selected entry of drives.yaml against the devices as
//! their agents see them now. One refusal stops all of them, and every refusal is told at once. Pure.

use api::drive::{DeviceClaim, Gate};
use api::storage_node::DeviceVerdict;
use api::{Device, Drive, DrivePhase, DriveSpec, Reason};
use kube::ResourceExt as _;

use crate::advice::Refusal;
use crate::discover::{Use, devices_of, holds};
use crate::drives_file::Entry;
use crate::session::Inventory;

/// What is done for one entry.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// The object is created.
    Create {
        /// The object.
        drive: Box<Drive>,
        /// What is lost; empty for nothing.
        loses: String,
        /// The device as it is now, for the plan that is shown.
        device: Box<Device>,
    },
    /// It is being made already, or failed at it; it is only waited for.
    Join(Box<Drive>),
    /// It failed, and the file asks for another gate than it failed with: that is written, and it is waited for.
    Regate(Box<Drive>, Option<Gate>),
    /// It is a drive already.
    Keep(Box<Drive>),
}

/// Decides for all selected entries. `dangerous` is the word that data may be lost, before it is confirmed for each.
pub(crate) fn check(
    entries: &[Entry],
    inventory: &Inventory,
    dangerous: bool,
) -> Result<Vec<Step>, Vec<Refusal>> {
    let mut steps = Vec::new();
    let mut refusals = Vec::new();
    for entry in entries.iter().filter(|e| e.select) {
        match check_one(entry, inventory, dangerous) {
            Ok(step) => steps.push(step),
            Err(mut refused) => refusals.append(&mut refused),
        }
    }
    if refusals.is_empty() {
        Ok(steps)
    } else {
        Err(refusals)
    }
}

fn check_one(entry: &Entry, inventory: &Inventory, dangerous: bool) -> Result<Step, Vec<Refusal>> {
    let subject = format!("line {}: {} on {}", entry.line, entry.device, entry.node);
    let there = inventory.drives.iter().find(|d| d.name_any() == entry.id);
    let Some(drive) = there else {
        let device = seen(entry, inventory, &subject).map_err(|refusal| vec![refusal])?;
        return take(entry, device, dangerous, &subject);
    };
    existing(entry, drive).ok_or_else(|| {
        let refusal = Refusal::new(Reason::ClaimConflict, &subject);
        vec![refusal.detail("a drive of this id exists for another device")]
    })
}

/// The device that an entry means, if it is as it was.
fn seen<'a>(entry: &Entry, inventory: &'a Inventory, subject: &str) -> Result<&'a Device, Refusal> {
    let node = inventory
        .nodes
        .iter()
        .find(|n| n.name_any() == entry.node)
        .ok_or_else(|| {
            let detail = format!("no agent has reported a node called {}", entry.node);
            Refusal::new(Reason::NoAgent, subject).detail(detail)
        })?;
    let identity = &entry.fingerprint.identity;
    let mut devices = devices_of(node).iter();
    let device = devices.find(|d| d.fingerprint.identity == *identity);
    let device = device.ok_or_else(|| Refusal::new(Reason::DeviceNotFound, subject))?;
    let taken = inventory
        .drives
        .iter()
        .find(|d| d.spec.node == entry.node && d.spec.device.fingerprint.identity == *identity);
    if let Some(drive) = taken {
        return Err(Refusal::new(Reason::AlreadyInitialized, subject)
            .detail(format!("its device belongs to drive {}", drive.name_any())));
    }
    let same = device.fingerprint == entry.fingerprint && device.size_bytes == entry.size_bytes;
    if same {
        return Ok(device);
    }
    let now = match holds(device).as_str() {
        "" => "is empty".to_owned(),
        held => format!("holds {held}"),
    };
    Err(
        Refusal::new(Reason::FingerprintChanged, subject).detail(format!(
            "it is not as it was when it was discovered: now it {now}; nothing was written"
        )),
    )
}

/// Whether a device that is as it was may be taken.
fn take(
    entry: &Entry,
    device: &Device,
    dangerous: bool,
    subject: &str,
) -> Result<Step, Vec<Refusal>> {
    if device.verdict == DeviceVerdict::Denied {
        return Err(denied(device, subject));
    }
    if device.drive_id.as_ref() != Some(&entry.id) {
        let refusal = Refusal::new(Reason::FileInvalid, subject);
        return Err(vec![refusal.detail(
            "its id is not the one that discover shows for this device",
        )]);
    }
    let loses = if Use::of(device) == Use::LosesData {
        lost(device)
    } else {
        String::new()
    };
    if !loses.is_empty() && !dangerous {
        return Err(vec![
            Refusal::new(Reason::ForceRequired, subject)
                .detail(format!("init would destroy {loses}"))
                .next("select: no leaves it alone; --dangerous takes it, after its fingerprint"),
        ]);
    }
    Ok(Step::Create {
        drive: Box::new(object(entry, device, !loses.is_empty())),
        loses,
        device: Box::new(device.clone()),
    })
}

/// What a drive that is there means for its entry; `None` where it is not of this device.
fn existing(entry: &Entry, drive: &Drive) -> Option<Step> {
    let same = drive.spec.node == entry.node
        && drive.spec.device.fingerprint.identity == entry.fingerprint.identity;
    let phase = drive.status.as_ref().map(|s| s.phase).unwrap_or_default();
    let under_way = matches!(
        phase,
        DrivePhase::Pending | DrivePhase::Preparing | DrivePhase::Failed
    );
    let drive = Box::new(drive.clone());
    same.then_some({
        if phase == DrivePhase::Failed && drive.spec.gate != entry.gate {
            Step::Regate(drive, entry.gate)
        } else if under_way {
            Step::Join(drive)
        } else {
            Step::Keep(drive)
        }
    })
}

fn denied(device: &Device, subject: &str) -> Vec<Refusal> {
    let refusals = device.reasons.iter().map(|r| {
        Refusal::new(r.reason, subject).detail(if r.message.is_empty() {
            r.reason.meaning().to_owned()
        } else {
            format!("{}: {}", r.reason.meaning(), r.message)
        })
    });
    refusals.collect()
}

/// What is lost with a device that holds something.
fn lost(device: &Device) -> String {
    let held = holds(device);
    if held.is_empty() {
        "what it holds".to_owned()
    } else {
        held
    }
}

/// The object to create.
fn object(entry: &Entry, device: &Device, force: bool) -> Drive {
    let mut drive = Drive::new(
        &entry.id,
        DriveSpec {
            node: entry.node.clone(),
            device: DeviceClaim {
                fingerprint: entry.fingerprint.clone(),
                name: device.name.clone(),
                size_bytes: device.size_bytes,
            },
            access_tier: entry.access_tier,
            cordoned: false,
            suspended: false,
            erase: entry.erase,
            gate: entry.gate,
            force,
            adopt_from: None,
            repair: None,
            removal: None,
        },
    );
    let labels = [(api::names::LABEL_NODE.to_owned(), entry.node.clone())];
    drive.metadata.labels = Some(labels.into());
    drive
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use api::storage_node::{DeviceReason, Signature};

    fn entry(device: &Device) -> Entry {
        Entry {
            line: 7,
            select: true,
            node: "n1".to_owned(),
            device: device.name.clone(),
            id: device.drive_id.clone().unwrap(),
            size_bytes: device.size_bytes,
            fingerprint: device.fingerprint.clone(),
            access_tier: api::AccessTier::Hot,
            erase: api::drive::Erase::default(),
            gate: None,
        }
    }

    /// Checks an entry written for `then` against a node that has `now`.
    fn decide(
        then: &Device,
        now: Device,
        drives: Vec<Drive>,
        dangerous: bool,
    ) -> Result<Step, Reason> {
        let inventory = Inventory {
            nodes: vec![testing::node("n1", vec![now])],
            drives,
            volumes: Vec::new(),
        };
        match check(&[entry(then)], &inventory, dangerous) {
            Ok(mut steps) => Ok(steps.remove(0)),
            Err(refusals) => Err(refusals[0].reason),
        }
    }

    fn with_ext4(name: &str) -> Device {
        let mut device = testing::device(name);
        device.signatures = vec![Signature {
            kind: "ext4".to_owned(),
            offset: 1080,
            detail: "photos".to_owned(),
        }];
        device.reasons = vec![DeviceReason {
            reason: Reason::HoldsData,
            message: "ext4".to_owned(),
        }];
        device
    }

    #[test]
    fn an_empty_device_is_taken() {
        let device = testing::device("loop1");
        let Ok(Step::Create { drive, loses, .. }) =
            decide(&device, device.clone(), Vec::new(), false)
        else {
            panic!("it is free");
        };
        assert!(loses.is_empty() && !drive.spec.force);
        assert_eq!(drive.spec.device.fingerprint, device.fingerprint);
        assert_eq!(drive.metadata.name, device.drive_id);
    }

    #[test]
    fn data_needs_the_word() {
        let full = with_ext4("loop1");
        assert_eq!(
            decide(&full, full.clone(), Vec::new(), false),
            Err(Reason::ForceRequired)
        );
        let Ok(Step::Create { drive, loses, .. }) = decide(&full, full.clone(), Vec::new(), true)
        else {
            panic!("the word was given");
        };
        assert!(drive.spec.force);
        assert_eq!(loses, "ext4 \"photos\"");
    }

    #[test]
    fn a_device_that_is_not_as_it_was_is_refused_whatever_the_word() {
        let device = testing::device("loop1");
        let mut filled = with_ext4("loop1");
        filled.fingerprint.content = "ffff".to_owned();
        let mut grown = device.clone();
        grown.size_bytes *= 2;
        let mut swapped = device.clone();
        swapped.fingerprint.identity = "other".to_owned();
        let mut mounted = device.clone();
        mounted.verdict = DeviceVerdict::Denied;
        mounted.reasons = vec![DeviceReason {
            reason: Reason::Mounted,
            message: "at /srv".to_owned(),
        }];
        let mut renumbered = device.clone();
        renumbered.drive_id = Some("1a2b3c4d-0000-8000-8000-0000000000ff".to_owned());
        for (now, reason) in [
            (filled, Reason::FingerprintChanged),
            (grown, Reason::FingerprintChanged),
            (swapped, Reason::DeviceNotFound),
            (mounted, Reason::Mounted),
            (renumbered, Reason::FileInvalid),
        ] {
            for dangerous in [false, true] {
                assert_eq!(
                    decide(&device, now.clone(), Vec::new(), dangerous),
                    Err(reason)
                );
            }
        }
    }

    #[test]
    fn what_is_there_is_joined_or_kept() {
        let device = testing::device("loop1");
        let id = device.drive_id.clone().unwrap();
        let mut drive = testing::drive(&id, "n1", "loop1", DrivePhase::Preparing);
        drive.spec.device.fingerprint = device.fingerprint.clone();
        let step = decide(&device, device.clone(), vec![drive.clone()], false);
        assert!(matches!(step, Ok(Step::Join(_))), "{step:?}");
        let mut failed = drive.clone();
        failed.status.as_mut().unwrap().phase = DrivePhase::Failed;
        let step = decide(&device, device.clone(), vec![failed.clone()], false);
        assert!(matches!(step, Ok(Step::Join(_))), "{step:?}");
        failed.spec.gate = Some(Gate::default());
        let step = decide(&device, device.clone(), vec![failed], false);
        assert!(matches!(step, Ok(Step::Regate(_, None))), "{step:?}");
        let mut ready = drive.clone();
        ready.status.as_mut().unwrap().phase = DrivePhase::Ready;
        let step = decide(&device, device.clone(), vec![ready.clone()], false);
        assert!(matches!(step, Ok(Step::Keep(_))), "{step:?}");
        // The same id for another device, the same device for another id.
        drive.spec.device.fingerprint.identity = "other".to_owned();
        assert_eq!(
            decide(&device, device.clone(), vec![drive], false),
            Err(Reason::ClaimConflict)
        );
        ready.metadata.name = Some("1a2b3c4d-0000-8000-8000-0000000000ee".to_owned());
        assert_eq!(
            decide(&device, device.clone(), vec![ready], false),
            Err(Reason::AlreadyInitialized)
        );
    }
}
