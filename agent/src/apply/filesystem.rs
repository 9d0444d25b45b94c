//! Actions on the file system: make, mount, record, seal, take over, attach, unmount.

use std::path::Path;

use api::serve::faults;
use block::signature::{Area, Found, Kind, scan};

use super::device::{found, seed};
use super::{
    Apply, Attached, ClaimState, DriveCapacity, Hold, HostError, Outcome, Reason, Refusal, Retry,
    Session, Warrant, claim_offset,
};
use crate::host::{KeptName, MakeXfs, MountDevice};
use crate::records::{
    DriveRecord, FORMAT_VERSION, PROBE_PARTS, Said, drive_record, probe_bytes, probe_parts, scratch,
};
use crate::site::guard_name;

/// Bytes of a device that show its file system.
const HEAD_BYTES: u64 = 4096;

impl Apply<'_> {
    pub(super) fn format(&self, session: &mut Session, device: &str) -> Result<Outcome, Refusal> {
        // What it was left with is not what it will hold.
        self.begin(session)?;
        let held = &session.hold()?.device;
        let size = held.size_bytes();
        let size_bytes = claim_offset(size).unwrap_or_default();
        // mkfs.xfs goes by name, and wants nobody to hold the device. The name stays with it all the same.
        let kept = self.host.keep_name(device);
        let kept = kept.map_err(self.refused(Reason::FormatFailed))?;
        if kept.major_minor != held.major_minor() {
            let message = format!("{device} is the name of another device by now");
            return Err(Refusal::new(Reason::FormatFailed, message, Retry::Later));
        }
        session.let_go();
        session.kept = Some(kept);
        let request = MakeXfs {
            device: device.to_owned(),
            drive_id: self.id().to_owned(),
            label: self.site.label(),
            size_bytes,
        };
        self.host
            .make_xfs(&request)
            .map_err(self.refused(Reason::FormatFailed))?;
        let head = self
            .host
            .read_device(device, 0, HEAD_BYTES)
            .map_err(self.refused(Reason::FormatFailed))?;
        let area = Area {
            offset: 0,
            bytes: &head,
        };
        let made = scan(size, &[area])
            .into_iter()
            .find(|one| one.kind == Kind::Xfs && !one.damaged && !one.unfinished);
        match made {
            Some(xfs) if xfs.uuid == self.id() => Ok(Outcome::Changed),
            Some(xfs) => Err(self.mismatch(format!(
                "{device}: mkfs.xfs made a file system with UUID {}",
                xfs.uuid
            ))),
            None => Err(self.mismatch(format!(
                "{device}: mkfs.xfs ended well, but no XFS is there"
            ))),
        }
    }

    pub(super) fn mount(&self, device: &str, fresh: bool) -> Result<Outcome, Refusal> {
        let place = self.site.mount_dir(self.id());
        self.end_look(&place)?;
        let _kept = self.kept_as_ours(device, &place)?;
        self.host
            .mount(&MountDevice {
                device: device.to_owned(),
                target: place.clone(),
                quota: self.host.quota_supported(),
                untouched: false,
            })
            .map_err(self.refused(Reason::MountFailed))?;
        if let Err(error) = self.host.set_xfs_errors(device, self.site.xfs_errors) {
            tracing::warn!(
                drive = self.id(),
                error = error.sentence(),
                "XFS error handling could not be set; the kernel's own is in force"
            );
        }
        if !fresh && let Err(refusal) = self.own_record(&place) {
            self.host
                .unmount(&place)
                .map_err(self.refused(refusal.reason))?;
            return Err(refusal);
        }
        self.guard(&place)?;
        Ok(Outcome::Changed)
    }

    /// Keeps the name of a device that bears the file system of this drive, so that no other is mounted by it. One that is
    /// mounted there already is not read.
    fn kept_as_ours(&self, device: &str, place: &Path) -> Result<Option<KeptName>, Refusal> {
        let failed = |error| self.refused(Reason::MountFailed)(error);
        let table = self.host.mounts().map_err(failed)?;
        if table.iter().any(|entry| entry.target == place) {
            return Ok(None);
        }
        let kept = self.host.keep_name(device).map_err(failed)?;
        let head = self.host.read_device(device, 0, HEAD_BYTES);
        let area = Area {
            offset: 0,
            bytes: &head.map_err(failed)?,
        };
        let is_ours = |one: &Found| one.kind == Kind::Xfs && one.uuid == self.id();
        // Of what lies beyond the head nothing is asked, so the size does not matter.
        if scan(HEAD_BYTES, &[area]).iter().any(is_ours) {
            return Ok(Some(kept));
        }
        Err(self.mismatch(format!(
            "{device} does not bear the file system of this drive"
        )))
    }

    /// Unmounts what a take-over that was interrupted left: read-only, and its log not replayed.
    fn end_look(&self, place: &Path) -> Result<(), Refusal> {
        let table = self
            .host
            .mounts()
            .map_err(self.refused(Reason::MountFailed))?;
        let untouched = |options: &str| options.split(',').any(|option| option == "norecovery");
        let is_look = table
            .iter()
            .any(|entry| entry.target == place && untouched(&entry.super_options));
        if is_look {
            self.host
                .unmount(place)
                .map_err(self.refused(Reason::MountFailed))?;
        }
        Ok(())
    }

    /// The record on a mounted drive, if it is this drive's: of this cluster, or of the one it is moved here from.
    fn own_record(&self, place: &Path) -> Result<DriveRecord, Refusal> {
        let content = self
            .host
            .read_file(&drive_record(place))
            .map_err(self.refused(Reason::MountFailed))?
            .ok_or_else(|| self.mismatch("drive.json is missing on it"))?;
        let record =
            DriveRecord::parse(&content).map_err(|error| self.mismatch(error.to_string()))?;
        if record.drive_id != self.id() {
            return Err(self.mismatch(format!(
                "drive.json on it is that of drive {}",
                record.drive_id
            )));
        }
        let from = self.drive.spec.adopt_from.as_ref();
        if record.cluster_id != self.site.cluster_id && Some(&record.cluster_id) != from {
            let message = format!("drive.json on it is that of cluster {}", record.cluster_id);
            return Err(Refusal::new(
                Reason::ForeignCluster,
                message,
                Retry::OnChange,
            ));
        }
        Ok(record)
    }

    /// The guard link stands. On a mount only: below one it would vouch for a drive that is not there.
    fn guard(&self, place: &Path) -> Result<(), Refusal> {
        let table = self
            .host
            .mounts()
            .map_err(self.refused(Reason::MountFailed))?;
        if !table.iter().any(|entry| entry.target == place) {
            let message = format!("nothing is mounted at {}", place.display());
            return Err(Refusal::new(Reason::MountFailed, message, Retry::Later));
        }
        self.host
            .symlink(".", &place.join(guard_name(self.id())))
            .map_err(self.refused(Reason::MountFailed))
    }

    pub(super) fn record(&self) -> Result<Outcome, Refusal> {
        // A crash between the mount and its link leaves a mount without one.
        self.guard(&self.site.mount_dir(self.id()))?;
        let root = self.site.guarded(self.id());
        if self.own_record(&root).is_ok() {
            return Ok(Outcome::Unchanged);
        }
        let write = || -> Result<(), HostError> {
            for (name, mode) in [
                (".ringpv", 0o750),
                (".ringpv/volumes", 0o750),
                ("volumes", 0o755),
                (".trash", 0o700),
            ] {
                self.host.create_leaf(&root.join(name), mode)?;
            }
            Ok(())
        };
        write().map_err(self.refused(Reason::MountFailed))?;
        self.fill(&root)
            .map_err(self.refused(Reason::ProbeFileFailed))?;
        let empty = self
            .host
            .statfs(&root)
            .map_err(self.refused(Reason::MountFailed))?;
        let record = DriveRecord {
            format_version: FORMAT_VERSION,
            drive_id: self.id().to_owned(),
            cluster_id: self.site.cluster_id.clone(),
            created: self.now,
            empty_bytes: empty.available_bytes,
            said: Said::of(self.drive),
        };
        self.host
            .write_file(&drive_record(&root), &record.to_json())
            .map_err(self.refused(Reason::MountFailed))?;
        Ok(Outcome::Changed)
    }

    /// Writes the probe file and the scratch file. Their blocks hold data, so that reading them asks the medium.
    fn fill(&self, root: &Path) -> Result<(), HostError> {
        let bytes = probe_bytes(self.drive.spec.device.size_bytes);
        let seed = seed(self.id());
        let files = probe_parts(root)
            .into_iter()
            .map(|path| (path, bytes / PROBE_PARTS))
            .chain([(scratch(root), bytes)]);
        for (number, (path, bytes)) in (1..).zip(files) {
            if let Some(parent) = path.parent() {
                self.host.create_dir(parent, 0o750)?;
            }
            self.host.write_filled(&path, bytes, seed ^ number)?;
        }
        Ok(())
    }

    pub(super) fn seal(&self, session: &mut Session, device: &str) -> Result<Outcome, Refusal> {
        let place = self.site.mount_dir(self.id());
        // From here on it is never prepared again, so what makes it whole must be on it.
        self.own_record(&place).map_err(|refusal| Refusal {
            retry: Retry::Later,
            ..refusal
        })?;
        self.host
            .unmount(&place)
            .map_err(self.refused(Reason::MountFailed))?;
        let (held, seen) = self.look(device)?;
        let warrant = Warrant::to_resume(self.ours(), &found(&seen, self.id()))
            .map_err(|why| Refusal::of_warrant(device, &why))?;
        let mut hold = Hold::new(held, warrant, seen);
        self.write_claim(&mut hold, self.own_claim(ClaimState::Formatted))?;
        session.let_go();
        Ok(Outcome::Changed)
    }

    pub(super) fn take_over(
        &self,
        session: &mut Session,
        device: &str,
    ) -> Result<Outcome, Refusal> {
        let Some(from) = self.drive.spec.adopt_from.as_deref() else {
            let message = "nobody said which cluster it is taken over from";
            return Err(Refusal::new(
                Reason::ForeignCluster,
                message,
                Retry::OnChange,
            ));
        };
        let place = self.site.mount_dir(self.id());
        self.host
            .mount(&MountDevice {
                device: device.to_owned(),
                target: place.clone(),
                quota: false,
                untouched: true,
            })
            .map_err(self.refused(Reason::MountFailed))?;
        faults::piece("take-over");
        let record = self.own_record(&place);
        self.host
            .unmount(&place)
            .map_err(self.refused(Reason::MountFailed))?;
        // Of this cluster or of that one: a drive that was in use during its move bears our record before our claim.
        record?;
        let (held, seen) = self.look(device)?;
        let warrant = Warrant::to_adopt(self.ours(), from, &found(&seen, self.id()))
            .map_err(|why| Refusal::of_warrant(device, &why))?;
        let mut hold = Hold::new(held, warrant, seen);
        self.write_claim(&mut hold, self.own_claim(ClaimState::Formatted))?;
        session.let_go();
        Ok(Outcome::Changed)
    }

    pub(super) fn relabel(&self) -> Result<Outcome, Refusal> {
        let place = self.site.mount_dir(self.id());
        let record = self.own_record(&place)?;
        self.host
            .relabel_xfs(&place, &self.site.label())
            .map_err(self.refused(Reason::MountFailed))?;
        faults::piece("relabel");
        let record = DriveRecord {
            cluster_id: self.site.cluster_id.clone(),
            ..record
        };
        self.host
            .write_file(&drive_record(&place), &record.to_json())
            .map_err(self.refused(Reason::MountFailed))?;
        self.guard(&place)?;
        Ok(Outcome::Changed)
    }

    pub(super) fn attach(&self) -> Result<Outcome, Refusal> {
        let place = self.site.mount_dir(self.id());
        self.guard(&place)?;
        let record = self.own_record(&self.site.guarded(self.id()))?;
        let table = self
            .host
            .mounts()
            .map_err(self.refused(Reason::MountFailed))?;
        let entry = table.iter().rev().find(|entry| entry.target == place);
        let options = entry
            .map(|entry| entry.super_options.as_str())
            .unwrap_or_default();
        let accounted = options
            .split(',')
            .any(|option| option == "prjquota" || option == "pquota");
        Ok(Outcome::Attached(Attached {
            quota_enforced: accounted && self.host.quota_supported(),
            capacity: self.capacity(&record)?,
            said: record.said,
        }))
    }

    /// Keeps the record as a person says of the drive now. Whether it had to be written.
    pub fn remember(&self, record: &DriveRecord) -> Result<bool, Refusal> {
        let Some(said) = Said::by_a_person(self.drive).filter(|said| *said != record.said) else {
            return Ok(false);
        };
        let record = DriveRecord {
            said,
            ..record.clone()
        };
        // Through the guard link: on this drive, or nowhere.
        self.host
            .write_file(
                &drive_record(&self.site.guarded(self.id())),
                &record.to_json(),
            )
            .map_err(self.refused(Reason::MountFailed))?;
        Ok(true)
    }

    /// Bytes of a mounted drive.
    pub fn capacity(&self, record: &DriveRecord) -> Result<DriveCapacity, Refusal> {
        let now = self
            .host
            .statfs(&self.site.mount_dir(self.id()))
            .map_err(self.refused(Reason::MountFailed))?;
        Ok(DriveCapacity {
            total_bytes: self.drive.spec.device.size_bytes,
            allocatable_bytes: record.allocatable_bytes(),
            used_bytes: record.empty_bytes.saturating_sub(now.available_bytes),
        })
    }

    pub(super) fn unmount(&self) -> Result<Outcome, Refusal> {
        let place = self.site.mount_dir(self.id());
        let table = self
            .host
            .mounts()
            .map_err(self.refused(Reason::MountFailed))?;
        let Some(own) = table.iter().rev().find(|entry| entry.target == place) else {
            return Ok(Outcome::Unchanged);
        };
        let elsewhere = table
            .iter()
            .find(|entry| entry.major_minor == own.major_minor && entry.target != place);
        if let Some(entry) = elsewhere {
            let message = format!("part of it is still mounted at {}", entry.target.display());
            return Err(Refusal::new(Reason::DriveInUse, message, Retry::Later));
        }
        self.host
            .unmount(&place)
            .and_then(|()| self.host.remove_dir(&place))
            .map_err(self.refused(Reason::DriveInUse))?;
        Ok(Outcome::Changed)
    }

    /// Detaches every mount of a device that is gone, the last one first: its file system is dead, and while any of
    /// it is mounted the kernel mounts no other of the same id.
    pub(super) fn abandon(&self, major_minor: &str) -> Result<Outcome, Refusal> {
        let table = self
            .host
            .mounts()
            .map_err(self.refused(Reason::MountFailed))?;
        for entry in table
            .iter()
            .rev()
            .filter(|entry| entry.major_minor == major_minor)
        {
            self.host
                .detach(&entry.target)
                .map_err(self.refused(Reason::MountFailed))?;
        }
        Ok(Outcome::Changed)
    }

    fn mismatch(&self, message: impl Into<String>) -> Refusal {
        Refusal::new(Reason::IdMismatch, message, Retry::OnChange)
    }
}
