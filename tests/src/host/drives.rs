//! Raw devices: looked at, held, claimed, zeroed, formatted.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use agent::host::{
    Cause, HeldDevice, Host as _, HostError, KeptName, MakeXfs, RepairTurn, Repairing, Run,
};
use agent::probe::{DeviceFacts, DeviceKind, Media, Seen, Snapshot, identity, judge_all};
use api::drive::{REPAIR_PHASES, RepairMode, RepairOutcome, Transport};
use block::claim::{CLAIM_BYTES, Claim, claim_offset};
use block::erase::course::Queue;
use block::erase::{Begun, Limiter, Method, Piece, Range, Secure, Secured, Warrant, Zeroed};
use nix::errno::Errno;

use super::disk::{Disk, Health};
use super::space::Lost;
use super::{Destroyed, Failure, Machine, SimHost};

impl Machine {
    /// The drive of a kernel name, when it is plugged in and answers.
    pub(super) fn disk(&self, device: &str) -> Result<&Disk, Lost> {
        let slot = self.space.plugged.get(device).ok_or(Lost::NotFound)?;
        match self.space.disks.get(&slot.serial) {
            Some(disk) if disk.health != Health::Dead => Ok(disk),
            Some(_) => Err(Lost::Io),
            None => Err(Lost::NotFound),
        }
    }

    fn disk_mut(&mut self, device: &str) -> Result<&mut Disk, Lost> {
        self.disk(device)?;
        let slot = self.space.plugged.get(device).ok_or(Lost::NotFound)?;
        self.space.disks.get_mut(&slot.serial).ok_or(Lost::NotFound)
    }

    /// `major:minor` of a kernel name.
    pub(super) fn number(&self, device: &str) -> String {
        let minor = self.space.plugged.get(device).map_or(0, |slot| slot.minor);
        format!("259:{minor}")
    }

    pub(super) fn is_held(&self, device: &str) -> bool {
        self.held.get(device).is_some_and(|count| *count > 0)
    }

    /// Whether a drive is held, wherever it is plugged in.
    #[must_use]
    pub fn holds(&self, serial: &str) -> bool {
        let mut plugged = self.space.plugged.iter();
        plugged.any(|(name, slot)| slot.serial == serial && self.is_held(name))
    }

    fn is_mounted(&self, device: &str) -> bool {
        let number = self.number(device);
        self.space.mounts.iter().any(|mount| mount.number == number)
    }

    pub(super) fn probe(&self, device: &str) -> Result<Seen, Lost> {
        self.disk(device)?;
        let seen = self.snapshot(&BTreeSet::new()).devices.remove(device);
        seen.map(|seen| Seen::clone(&seen)).ok_or(Lost::NotFound)
    }

    /// Writes another label into the superblock of what is mounted there.
    pub(super) fn relabel(&mut self, target: &Path, label: &str) -> Result<(), Failure> {
        let device = self
            .space
            .mounts
            .iter()
            .find(|mount| mount.target == target);
        let device = device
            .map(|mount| mount.device.clone())
            .ok_or(Lost::NotFound)?;
        self.disk_mut(&device)?.relabel(label);
        Ok(())
    }

    /// What is on a drive, as a fingerprint has it.
    #[must_use]
    pub fn content(&self, serial: &str) -> String {
        let disk = self.space.disks.get(serial);
        disk.map_or_else(String::new, |disk| identity::content(&media(disk)))
    }

    /// Every device as the real judge sees it.
    pub(super) fn snapshot(&self, drives: &BTreeSet<String>) -> Snapshot {
        let facts = self.space.plugged.keys().filter_map(|name| {
            let slot = self.space.plugged.get(name)?;
            let disk = self.space.disks.get(&slot.serial)?;
            Some((name.clone(), self.facts(name, disk)))
        });
        let policy = self.policy.as_ref().expect("a policy");
        let seen = judge_all(&facts.collect(), drives, policy);
        Snapshot {
            generation: self.effects,
            complete: true,
            sees_host_mounts: true,
            devices: seen
                .into_iter()
                .map(|(name, seen)| (name, Arc::new(seen)))
                .collect(),
            ..Snapshot::default()
        }
    }

    fn facts(&self, name: &str, disk: &Disk) -> DeviceFacts {
        let media = match disk.health {
            Health::Dead => Media::Failed {
                message: "input/output error".to_owned(),
            },
            Health::Good | Health::Slow => media(disk),
        };
        let number = self.number(name);
        let mounts = self
            .space
            .mounts
            .iter()
            .filter(|mount| mount.number == number);
        DeviceFacts {
            name: name.to_owned(),
            path: Path::new("/dev").join(name),
            major_minor: number.clone(),
            diskseq: 0,
            kind: DeviceKind::Disk,
            size_bytes: disk.bytes,
            logical_block_bytes: 512,
            physical_block_bytes: 4096,
            read_only: false,
            removable: false,
            hidden: false,
            zoned: false,
            rotational: false,
            numa_node: None,
            transport: Transport::Nvme,
            model: "Simulated".to_owned(),
            serial: disk.serial.clone(),
            wwid: format!("eui.{}", disk.serial),
            firmware: "1".to_owned(),
            place: String::new(),
            partition: None,
            partitions: Vec::new(),
            holders: Vec::new(),
            loops: Vec::new(),
            slaves: Vec::new(),
            backing: None,
            mounts: mounts.map(|mount| mount.target.clone()).collect(),
            swap: false,
            media,
        }
    }

    pub(super) fn make_xfs(&mut self, request: &MakeXfs) -> Result<(), Failure> {
        if self.is_mounted(&request.device) || self.is_held(&request.device) {
            return Err(Failure::Errno(Errno::EBUSY));
        }
        let disk = self.disk_mut(&request.device)?;
        // Without force, mkfs refuses what bears anything that it knows.
        if disk.read(0, 4096).iter().any(|byte| *byte != 0) {
            return Err(Failure::Refused("it appears to contain something"));
        }
        let hex = request.drive_id.replace('-', "");
        let id = u128::from_str_radix(&hex, 16);
        let id = id.map_err(|_| Failure::Refused("the id is no UUID"))?;
        disk.format(id.to_be_bytes(), &request.label);
        Ok(())
    }

    pub(super) fn repair_xfs(
        &mut self,
        device: &str,
        mode: RepairMode,
    ) -> Result<Box<dyn Repairing>, Failure> {
        if mode.writes() && (self.is_mounted(device) || self.is_held(device)) {
            return Err(Failure::Errno(Errno::EBUSY));
        }
        self.disk(device)?;
        Ok(Box::new(Repair { phase: 0 }))
    }
}

/// A run of xfs_repair, which finds nothing wrong: what is in a tree cannot be damaged.
struct Repair {
    phase: u32,
}

impl Repairing for Repair {
    fn wait(&mut self) -> Result<RepairTurn, HostError> {
        self.phase += 1;
        if self.phase > REPAIR_PHASES {
            return Ok(RepairTurn::Ended(RepairOutcome::Clean, String::new()));
        }
        Ok(RepairTurn::Phase(self.phase, "simulated".to_owned()))
    }
}

/// What reading a drive shows.
fn media(disk: &Disk) -> Media {
    let offset = claim_offset(disk.bytes).unwrap_or(0);
    Media::Read {
        found: disk.found().to_vec(),
        claim: Claim::decode(&disk.read(offset, CLAIM_BYTES)),
    }
}

/// Opens a device exclusively.
pub(super) fn hold(host: &SimHost, device: &str) -> Result<Box<dyn HeldDevice>, HostError> {
    let (size_bytes, major_minor) = host.look("open", device, |machine| {
        Ok((machine.disk(device)?.bytes, machine.number(device)))
    })?;
    let mut machine = host.machine();
    if machine.is_mounted(device) || machine.is_held(device) {
        return Err(HostError::io("open", device, Errno::EBUSY));
    }
    *machine.held.entry(device.to_owned()).or_default() += 1;
    Ok(Box::new(Held {
        host: host.clone(),
        device: device.to_owned(),
        size_bytes,
        major_minor,
        limiter: Limiter::unlimited(),
    }))
}

/// Names do not move in the simulation while anything of the agent's runs.
pub(super) fn keep_name(host: &SimHost, device: &str) -> Result<KeptName, HostError> {
    let number = host.look("open", device, |machine| {
        machine.disk(device)?;
        Ok(machine.number(device))
    })?;
    Ok(KeptName {
        major_minor: number,
        open: Box::new(()),
    })
}

/// What the kernel says of a drive's queue.
const fn queue(offloads: bool) -> Queue {
    Queue {
        zeroes_bytes_max: if offloads { 4 << 30 } else { 0 },
        unmap_bytes_max: 0,
        one_command: true,
    }
}

/// A device that is held.
struct Held {
    host: SimHost,
    device: String,
    size_bytes: u64,
    major_minor: String,
    limiter: Limiter,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(count) = self.host.machine().held.get_mut(&self.device) {
            *count = count.saturating_sub(1);
        }
    }
}

impl Held {
    fn unable(&self, why: &str) -> HostError {
        HostError {
            verb: "erase",
            target: self.device.clone(),
            cause: Cause::Unable(why.to_owned()),
        }
    }
}

impl HeldDevice for Held {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn major_minor(&self) -> String {
        self.major_minor.clone()
    }

    fn read(&self, offset: u64, bytes: u64) -> Result<Vec<u8>, HostError> {
        let read = |machine: &Machine| Ok(machine.disk(&self.device)?.read(offset, bytes));
        self.host.look("read", &self.device, read)
    }

    fn write_claim(&self, warrant: &Warrant, claim: Option<&Claim>) -> Result<(), HostError> {
        warrant.assert_device(&self.major_minor, self.size_bytes);
        let refused =
            |e: block::claim::ClaimError| HostError::refused("claim", &self.device, e.to_string());
        let block = match claim {
            Some(claim) => claim.encode().map_err(refused)?,
            None => {
                assert!(warrant.takes_claim(), "only a removal takes the claim away");
                vec![0; usize::try_from(CLAIM_BYTES).unwrap_or(0)]
            }
        };
        self.host.change("claim", &self.device, |machine| {
            machine
                .disk_mut(&self.device)?
                .write_block(warrant.claim_offset(), block);
            Ok(())
        })
    }

    fn limiter(&self) -> &Limiter {
        &self.limiter
    }

    fn queue(&self) -> Queue {
        let offloads = |machine: &Machine| Ok(machine.disk(&self.device)?.offloads);
        let offloads = self.host.look("look at", &self.device, offloads);
        queue(offloads.unwrap_or(false))
    }

    fn zero(&self, warrant: &Warrant, piece: Piece, _: bool) -> Result<Zeroed, HostError> {
        let Piece { range, method, .. } = piece;
        warrant.assert_device(&self.major_minor, self.size_bytes);
        warrant.assert_erasable(range);
        // Of the drives that zero nothing by themselves, every other says that it does.
        let lies = self.host.look("look at", &self.device, |machine| {
            let disk = machine.disk(&self.device)?;
            Ok(!disk.offloads && disk.serial.bytes().last().is_some_and(|byte| byte % 2 == 1))
        })?;
        if method.is_offloaded() && lies {
            return Err(self.unable("it was answered as done, and was not"));
        }
        self.host.change("zero", &self.device, |machine| {
            let disk = machine.disk_mut(&self.device)?;
            if method.is_offloaded() && !disk.offloads {
                return Err(Failure::Errno(Errno::EOPNOTSUPP));
            }
            let (serial, offloads) = (disk.serial.clone(), disk.offloads);
            if let Some(files) = disk.zero(range) {
                let files = Box::new(files);
                machine
                    .destroyed
                    .push(Destroyed::FileSystem { serial, files });
            }
            let ns_per_kib = if method == Method::ZeroRange { 1 } else { 500 };
            Ok(Zeroed {
                bytes: range.bytes,
                took_ns: range.bytes / 1024 * ns_per_kib,
                queue: queue(offloads),
            })
        })
    }

    fn can_secure(&self, how: Secure) -> Result<(), HostError> {
        let can = how == Secure::Format
            && self.host.look("look at", &self.device, |machine| {
                Ok(machine.disk(&self.device)?.offloads)
            })?;
        can.then_some(())
            .ok_or_else(|| self.unable("the drive cannot do it"))
    }

    fn has_failed_to_sanitize(&self) -> Result<bool, HostError> {
        Ok(false)
    }

    fn secure(
        &self,
        warrant: &Warrant,
        how: Secure,
        _: Option<&Begun>,
    ) -> Result<Secured, HostError> {
        self.can_secure(how)?;
        warrant.assert_device(&self.major_minor, self.size_bytes);
        self.host.change("erase", &self.device, |machine| {
            let disk = machine.disk_mut(&self.device)?;
            let serial = disk.serial.clone();
            let all = Range {
                offset: 0,
                bytes: disk.bytes,
            };
            if let Some(files) = disk.zero(all) {
                let files = Box::new(files);
                machine
                    .destroyed
                    .push(Destroyed::FileSystem { serial, files });
            }
            Ok(Secured::Done {
                method: "format-user-data",
            })
        })
    }

    fn find_nonzero(&self, range: Range) -> Result<Option<u64>, HostError> {
        let find = |machine: &Machine| Ok(machine.disk(&self.device)?.find_nonzero(range));
        self.host.look("verify", &self.device, find)
    }

    fn measure(&self, warrant: &Warrant, run: Run<'_>) -> Result<bench::Report, HostError> {
        warrant.assert_device(&self.major_minor, self.size_bytes);
        self.host.measure(&self.device, run)
    }
}
