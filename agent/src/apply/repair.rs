//! xfs_repair, on a device that bears this very drive and nothing else. The log is replayed by a mount before it, as
//! xfs_repair itself cannot; only a person's word has it zeroed.

use api::drive::{Repair, RepairMode, RepairReport};
use block::claim::{ClaimState, claim_offset};
use block::signature::{Area, Found, Kind, scan};

use super::{Apply, Outcome, Reason, Refusal, Retry, Session};
use crate::host::{KeptName, MountDevice, RepairTurn, Repairing};

/// Bytes of a block, as mkfs.xfs is told.
const BLOCK_BYTES: u64 = 4096;
/// More allocation groups of equal size mkfs.xfs makes on no device, but where each has the largest size there is.
const GROUPS_MAX: u64 = 64;
const GROUP_BYTES_MAX: u64 = 1 << 40;

/// A run that is under way.
pub(super) struct Run {
    run: Box<dyn Repairing>,
    /// What the mount before it said.
    mount: String,
}

impl Apply<'_> {
    pub(super) fn repair(&self, session: &mut Session, device: &str) -> Result<Outcome, Refusal> {
        let Some(wanted) = &self.drive.spec.repair else {
            let message = "nobody asked for a repair";
            return Err(Refusal::new(Reason::Internal, message, Retry::OnChange));
        };
        let Some(run) = &mut session.repair else {
            return self.begin_repair(session, device, wanted);
        };
        match run.run.wait().map_err(self.refused(Reason::RepairFailed))? {
            RepairTurn::Phase(phase, doing) => Ok(Outcome::Repairing { phase, doing }),
            RepairTurn::Ended(outcome, said) => {
                let log = format!("{}{said}", run.mount);
                tracing::info!(drive = self.id(), mode = ?wanted.mode, ?outcome, "A repair has ended");
                session.repair = None;
                session.kept = None;
                Ok(Outcome::RepairEnded(Box::new(RepairReport {
                    id: wanted.id.clone(),
                    mode: wanted.mode,
                    outcome,
                    log,
                    at: self.now,
                })))
            }
        }
    }

    fn begin_repair(
        &self,
        session: &mut Session,
        device: &str,
        wanted: &Repair,
    ) -> Result<Outcome, Refusal> {
        let kept = self.kept_as_this_drive(device)?;
        let mount = match wanted.mode {
            RepairMode::Check | RepairMode::Repair => self.replay(device)?,
            RepairMode::ZeroLog => String::new(),
        };
        let run = self.host.repair_xfs(device, wanted.mode);
        let run = run.map_err(self.refused(Reason::RepairFailed))?;
        session.kept = Some(kept);
        session.repair = Some(Run { run, mount });
        Ok(Outcome::Repairing {
            phase: 0,
            doing: String::new(),
        })
    }

    /// Keeps the name of a device that bears this drive, is as the Drive names it, and bears nothing else. Its superblock may
    /// be what is damaged; its claim says whose it is then.
    fn kept_as_this_drive(&self, device: &str) -> Result<KeptName, Refusal> {
        let failed = |error| self.refused(Reason::RepairFailed)(error);
        let kept = self.host.keep_name(device).map_err(failed)?;
        let seen = self.host.probe(device).map_err(failed)?;
        let refuse =
            |message: String| Err(Refusal::new(Reason::IdMismatch, message, Retry::OnChange));
        if seen.facts.major_minor != kept.major_minor {
            let message = format!("{device} was replaced while it was looked at");
            return Err(Refusal::new(
                Reason::FingerprintChanged,
                message,
                Retry::Later,
            ));
        }
        if seen.fingerprint.identity != self.drive.spec.device.fingerprint.identity {
            return refuse(format!("{device} is not the device that the drive names"));
        }
        if let Some(other) = seen
            .reasons
            .iter()
            .find(|one| one.reason == Reason::Mounted)
        {
            return Err(Refusal::new(
                Reason::Mounted,
                other.message.clone(),
                Retry::Later,
            ));
        }
        let strange = seen.found().iter().find(|one| {
            if one.kind == Kind::Xfs {
                return !one.damaged && one.uuid != self.id();
            }
            // What a file system without its first superblock looks like, or what somebody wrote: only ours has more of them.
            let known = one.kind != Kind::Unknown;
            let is_ours = || self.has_further_superblock(device, seen.facts.size_bytes);
            one.kind != Kind::Claim && (known || !is_ours())
        });
        if let Some(strange) = strange {
            let what = strange.kind.as_str();
            return refuse(format!(
                "{device} bears {what} that is not this drive's; nothing was written"
            ));
        }
        let ours = self.ours();
        match seen.claim().ok().flatten() {
            Some(claim)
                if claim.drive_id != ours.drive_id || claim.cluster_id != ours.cluster_id =>
            {
                refuse(format!(
                    "{device} bears the claim of another drive; nothing was written"
                ))
            }
            Some(claim) if claim.state != ClaimState::Formatted => {
                refuse(format!("{device} was never in use; nothing was written"))
            }
            // Without a claim, its file system says that it is ours.
            None if !seen.found().iter().any(|one| one.uuid == self.id()) => refuse(format!(
                "{device} does not say that it is this drive; nothing was written"
            )),
            Some(_) | None => Ok(kept),
        }
    }

    /// Whether one of the superblocks with which the other allocation groups begin bears this drive's id.
    fn has_further_superblock(&self, device: &str, device_bytes: u64) -> bool {
        let Some(bytes) = claim_offset(device_bytes) else {
            return false;
        };
        let blocks = bytes / BLOCK_BYTES;
        let groups = (2..=GROUPS_MAX).map(|groups| blocks.div_ceil(groups) * BLOCK_BYTES);
        let mut offsets = groups
            .chain([GROUP_BYTES_MAX])
            .filter(|offset| *offset < bytes);
        offsets.any(|offset| {
            let Ok(head) = self.host.read_device(device, offset, BLOCK_BYTES) else {
                return false;
            };
            let area = Area {
                offset: 0,
                bytes: &head,
            };
            let is_ours = |one: &Found| one.kind == Kind::Xfs && one.uuid == self.id();
            scan(BLOCK_BYTES, &[area]).iter().any(is_ours)
        })
    }

    /// Mounts and unmounts, so that the kernel replays the log. What it says where it cannot.
    fn replay(&self, device: &str) -> Result<String, Refusal> {
        let place = self.site.mount_dir(self.id());
        let mounted = self.host.mount(&MountDevice {
            device: device.to_owned(),
            target: place.clone(),
            quota: self.host.quota_supported(),
            untouched: false,
        });
        if let Err(error) = mounted {
            return Ok(format!("{}\n", error.sentence()));
        }
        self.host
            .unmount(&place)
            .map_err(self.refused(Reason::DriveInUse))?;
        Ok(String::new())
    }
}
