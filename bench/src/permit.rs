//! Who may write: the rule by which a target becomes writable.
//!
//! A block device is given out for writing only when the fingerprint given is that of the device as it is now, read
//! under an exclusive hold, so that nothing mounts it or holds it meanwhile (kernel-notes/07). The fingerprint covers both what the device is
//! (world-wide name, serial, place; size) and what it holds (every signature found): after either has changed the word
//! no longer fits. A drive of RingPV is refused whatever the word: it is measured by `kubectl ringpv bench`, whose
//! writes go to a file of its own. A regular file needs the explicit word `--write-file`, and must not back a loop device.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use block::loopdev::Ground;
use block::probe::{Contents, examine};
use block::signature::{Found, Kind};
use block::{ReadOnly, ReadWrite, Target};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::stat::{major, minor};
use sha2::{Digest as _, Sha256};

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// A file, and the word is missing.
    #[error("{0} would be overwritten: say so with --write-file")]
    NeedsWriteFile(PathBuf),
    /// `--write-file`, and it is a device.
    #[error("{0} is a block device: writing to it needs --fingerprint, not --write-file")]
    IsDevice(PathBuf),
    /// `--fingerprint`, and it is a file.
    #[error("{0} is a regular file: writing to it needs --write-file, not --fingerprint")]
    IsFile(PathBuf),
    /// The word is missing.
    #[error(
        "everything on {path} would be overwritten.\n{shown}\nIf that is what you want: --fingerprint {fingerprint}"
    )]
    NeedsFingerprint {
        /// Device.
        path: PathBuf,
        /// What it is and holds.
        shown: String,
        /// The word.
        fingerprint: String,
    },
    /// The word is another device's, or this one has changed.
    #[error(
        "{given} is not the fingerprint of {path} as it is now: another device, or it has changed.\n{shown}"
    )]
    Mismatch {
        /// Device.
        path: PathBuf,
        /// As given.
        given: String,
        /// What it is and holds.
        shown: String,
    },
    /// Somebody else holds it.
    #[error(
        "{0} is in use: mounted, swap, part of an array or volume group, or held by another program"
    )]
    InUse(PathBuf),
    /// It is the ground of a loop device.
    #[error("{path} backs {device}: detach that first")]
    BacksLoop {
        /// File or device.
        path: PathBuf,
        /// The loop device.
        device: String,
    },
    /// Nothing tells it from other devices.
    #[error(
        "{0} has neither a serial number nor a place of its own, so no word is for it alone: this kernel (before 5.15) does not count its devices"
    )]
    NoIdentity(PathBuf),
    /// It belongs to RingPV.
    #[error("{0} is a drive of RingPV: measure it with kubectl ringpv bench")]
    Ours(PathBuf),
}

/// Opens for writing what may be written to.
pub(crate) fn writable(
    path: &Path,
    write_file: bool,
    fingerprint: Option<&str>,
) -> anyhow::Result<Target<ReadWrite>> {
    let kind = std::fs::metadata(path)
        .map_err(|error| {
            anyhow::Error::new(error).context(format!("cannot open {}", path.display()))
        })?
        .file_type();
    if kind.is_block_device() {
        if write_file {
            return Err(Refusal::IsDevice(path.into()).into());
        }
        return device(path, fingerprint);
    }
    if fingerprint.is_some() {
        return Err(Refusal::IsFile(path.into()).into());
    }
    if !write_file {
        return Err(Refusal::NeedsWriteFile(path.into()).into());
    }
    let target = Target::open_file(path)?;
    refuse_loop_ground(target.file(), path)?;
    Ok(target)
}

/// A block device. Without a word it is looked at and nobody is disturbed; with one it is held, looked at once, under that
/// hold, and only then given out.
fn device(path: &Path, given: Option<&str>) -> anyhow::Result<Target<ReadWrite>> {
    let looked_at = || {
        let target = Target::<ReadOnly>::open(path)?;
        refuse_loop_ground(target.file(), path)?;
        anyhow::Ok(look(target.file(), path, target.geometry().size_bytes)?.permit(path, given)?)
    };
    if given.is_none() {
        looked_at()?;
    }
    let Hold(target) = match Hold::take(path) {
        Ok(hold) => hold,
        // Whose it is says more than that somebody has it.
        Err(refusal) => return Err(looked_at().err().unwrap_or(refusal)),
    };
    look(target.file(), path, target.geometry().size_bytes)?.permit(path, given)?;
    Ok(target)
}

/// The word that allows writing to a device as it is now.
pub(crate) fn fingerprint(path: &Path) -> anyhow::Result<String> {
    Ok(look_at(path)?.fingerprint())
}

/// What a device is, whatever it holds.
pub(crate) fn identity_of(path: &Path) -> anyhow::Result<String> {
    Ok(look_at(path)?.identity)
}

fn look_at(path: &Path) -> anyhow::Result<Seen> {
    let target = Target::<ReadOnly>::open(path)?;
    look(target.file(), path, target.geometry().size_bytes)
}

/// A device that nobody else mounts, or opens exclusively, while this value lives. Whoever opens it otherwise writes as ever:
/// dd and fio do.
#[derive(Debug)]
pub(crate) struct Hold(Target<ReadWrite>);

impl Hold {
    /// Refuses a device that anybody holds, one that is mounted above all, and one that a loop device stands on.
    pub(crate) fn take(path: &Path) -> anyhow::Result<Self> {
        let target = Target::<ReadWrite>::held(held(path)?, path)?;
        refuse_loop_ground(target.file(), path)?;
        Ok(Self(target))
    }

    /// From now on programs that are started inherit it.
    pub(crate) fn inherited(&self) -> anyhow::Result<()> {
        let flags = FcntlArg::F_SETFD(FdFlag::empty());
        fcntl(self.0.file(), flags).context("cannot let programs inherit a hold")?;
        Ok(())
    }

    /// What the device is, and its word, as it is now.
    pub(crate) fn look(&self) -> anyhow::Result<(String, String)> {
        let Self(target) = self;
        let seen = look(target.file(), target.path(), target.geometry().size_bytes)?;
        let fingerprint = seen.fingerprint();
        Ok((seen.identity, fingerprint))
    }
}

fn held(path: &Path) -> anyhow::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags((OFlag::O_DIRECT | OFlag::O_EXCL).bits())
        .open(path)
        .map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EBUSY) => Refusal::InUse(path.into()).into(),
            _ => anyhow::Error::new(error).context(format!("cannot open {}", path.display())),
        })
}

/// What a device is and holds.
struct Seen {
    identity: String,
    contents: Contents,
}

fn look(file: &File, path: &Path, size_bytes: u64) -> anyhow::Result<Seen> {
    let device = file.metadata()?.rdev();
    let sysfs = PathBuf::from(format!(
        "/sys/dev/block/{}:{}",
        major(device),
        minor(device)
    ));
    let identity = identity(&sysfs, size_bytes).ok_or_else(|| Refusal::NoIdentity(path.into()))?;
    Ok(Seen {
        identity,
        contents: examine(file, path, size_bytes)?,
    })
}

impl Seen {
    fn permit(&self, path: &Path, given: Option<&str>) -> Result<(), Refusal> {
        let claimed = !matches!(self.contents.claim, Ok(None));
        if claimed || self.contents.found.iter().any(is_ours) {
            return Err(Refusal::Ours(path.into()));
        }
        let fingerprint = self.fingerprint();
        match given {
            Some(given) if given == fingerprint => Ok(()),
            Some(given) => Err(Refusal::Mismatch {
                path: path.into(),
                given: given.to_owned(),
                shown: self.shown(),
            }),
            None => Err(Refusal::NeedsFingerprint {
                path: path.into(),
                shown: self.shown(),
                fingerprint,
            }),
        }
    }

    /// 16 hex digits over identity and content.
    fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(&self.identity);
        for found in &self.contents.found {
            hash.update([0]);
            hash.update(line(found));
        }
        hash.finalize()
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    fn shown(&self) -> String {
        let mut lines = vec![format!("  it is: {}", self.identity)];
        if self.contents.found.is_empty() {
            lines.push("  it holds: nothing known (blank)".into());
        }
        for found in &self.contents.found {
            lines.push(format!("  it holds: {}", line(found)));
        }
        lines.join("\n")
    }
}

fn line(found: &Found) -> String {
    format!(
        "{} at {} {}",
        found.kind.as_str(),
        found.offset,
        found.detail()
    )
    .trim_end()
    .to_owned()
}

/// A claim, or a file system with the label of one of our drives.
fn is_ours(found: &Found) -> bool {
    found.kind == Kind::Claim || found.label.starts_with("rpv:")
}

/// What tells this device from all others: the first that it has of world-wide name, serial, mapper UUID, backing file;
/// else its place in the machine, or for what is only software the kernel's count of devices since its boot. Never the
/// kernel's name alone.
fn identity(sysfs: &Path, size_bytes: u64) -> Option<String> {
    let read = |name: &str| {
        let text = std::fs::read_to_string(sysfs.join(name)).ok()?;
        Some(text.split_whitespace().collect::<Vec<_>>().join(" ")).filter(|text| !text.is_empty())
    };
    let disk = if sysfs.join("partition").exists() {
        "../"
    } else {
        ""
    };
    let name = [
        "wwid",
        "device/wwid",
        "device/serial",
        "serial",
        "dm/uuid",
        "loop/backing_file",
    ]
    .iter()
    .find_map(|name| {
        Some(format!(
            "{} {}",
            name.rsplit('/').next()?,
            read(&format!("{disk}{name}"))?
        ))
    })
    .or_else(|| {
        let place = std::fs::canonicalize(sysfs).ok()?;
        let is_fixed = !place.starts_with("/sys/devices/virtual");
        is_fixed.then(|| format!("place {}", place.display()))
    })
    .or_else(|| {
        Some(format!(
            "the {}th device since the boot",
            read(&format!("{disk}diskseq"))?
        ))
    })?;
    let model =
        read(&format!("{disk}device/model")).map_or(String::new(), |model| format!("{model}, "));
    let partition = read("partition").map_or(String::new(), |number| {
        format!(
            ", partition {number} at sector {}",
            read("start").unwrap_or_default()
        )
    });
    Some(format!("{model}{name}{partition}, {size_bytes} bytes"))
}

/// Loop devices do not hold what they stand on; so each is asked whether it is this. One that this process may not open
/// is taken to stand on what its path leads to here.
fn refuse_loop_ground(file: &File, path: &Path) -> anyhow::Result<()> {
    let Ok(devices) = std::fs::read_dir("/sys/block") else {
        return Ok(());
    };
    for device in devices.flatten() {
        let Ok(ground) = std::fs::read_to_string(device.path().join("loop/backing_file")) else {
            continue;
        };
        let node = Path::new("/dev").join(device.file_name());
        let told = File::open(&node).ok().and_then(|it| Ground::of(&it).ok());
        let ground = told.unwrap_or_else(|| Ground::at(Path::new(ground.trim_end_matches('\n'))));
        if let Some(ground) = ground
            && ground.is(file)?
        {
            return Err(Refusal::BacksLoop {
                path: path.into(),
                device: node.display().to_string(),
            }
            .into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use block::claim::ClaimError;

    use super::*;

    fn found(kind: Kind, label: &str) -> Found {
        Found {
            offset: 0,
            kind,
            uuid: String::new(),
            label: label.into(),
            damaged: false,
            unfinished: false,
        }
    }

    fn seen(identity: &str, holds: Vec<Found>) -> Seen {
        Seen {
            identity: identity.into(),
            contents: Contents {
                found: holds,
                claim: Ok(None),
            },
        }
    }

    #[test]
    fn the_word_fits_this_device_as_it_is_now() {
        let path = Path::new("/dev/x");
        let blank = seen("serial 1, 4096 bytes", vec![]);
        let word = blank.fingerprint();
        assert!(blank.permit(path, Some(&word)).is_ok());
        assert!(matches!(
            blank.permit(path, None),
            Err(Refusal::NeedsFingerprint { .. })
        ));
        for other in [
            seen("serial 2, 4096 bytes", vec![]),
            seen("serial 1, 8192 bytes", vec![]),
            seen("serial 1, 4096 bytes", vec![found(Kind::Ext4, "")]),
            seen(
                "serial 1, 4096 bytes",
                vec![found(Kind::Unknown, "crc32c:1")],
            ),
        ] {
            assert!(matches!(
                other.permit(path, Some(&word)),
                Err(Refusal::Mismatch { .. })
            ));
        }
    }

    #[test]
    fn what_is_ours_is_refused_whatever_the_word() {
        let mut damaged = seen("serial 1", vec![]);
        damaged.contents.claim = Err(ClaimError::Damaged);
        for ours in [
            seen("serial 1", vec![found(Kind::Xfs, "rpv:0123abcd")]),
            seen("serial 1", vec![found(Kind::Claim, "")]),
            damaged,
        ] {
            let word = ours.fingerprint();
            let refused = ours.permit(Path::new("/dev/x"), Some(&word));
            assert!(matches!(refused, Err(Refusal::Ours(_))));
        }
    }

    #[test]
    fn identity_is_never_the_kernels_name() {
        let sysfs = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = sysfs.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let disk = sysfs.path().join("disk");
        let of = |path: &Path| identity(path, 512).unwrap();
        write("disk/size", "1");
        assert!(of(&disk).starts_with("place /"));
        write("disk/loop/backing_file", "/a b/c.img\n");
        assert_eq!(of(&disk), "backing_file /a b/c.img, 512 bytes");
        write("disk/device/serial", " S1   2 \n");
        write("disk/device/model", "FAST \n");
        assert_eq!(of(&disk), "FAST, serial S1 2, 512 bytes");
        write("disk/p1/partition", "1\n");
        write("disk/p1/start", "2048\n");
        assert_eq!(
            of(&disk.join("p1")),
            "FAST, serial S1 2, partition 1 at sector 2048, 512 bytes"
        );
        write("disk/wwid", "eui.1\n");
        assert_eq!(of(&disk), "FAST, wwid eui.1, 512 bytes");
    }
}
