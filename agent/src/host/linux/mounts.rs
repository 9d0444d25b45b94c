//! Mounts: the table, and the verbs. A verb looks at the table first, so repeating one changes nothing.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::super::{HostError, MountDevice, MountEntry};
use super::{device_path, files};

/// Mounts stacked on one place; more than this is not our doing.
const STACKED_MAX: usize = 8;
/// How often, and how far apart, a mount of a busy device is tried again: two seconds in all.
const BUSY_TRIES: usize = 40;
const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// How often an unmount of what is in use is tried again: half a second in all, for whoever really uses it stays longer.
const IN_USE_TRIES: usize = 10;
/// Flags that every mount of ours has.
const DRIVE_FLAGS: MsFlags = MsFlags::MS_NOATIME;

/// Reads a mount table in the form of `/proc/PID/mountinfo`. A line that cannot be read is left out.
pub(crate) fn parse(table: &[u8]) -> Vec<MountEntry> {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(line)
        .collect()
}

fn line(text: &[u8]) -> Option<MountEntry> {
    let mut fields = text.split(|byte| *byte == b' ');
    let mut next = || fields.next();
    let (_id, _parent) = (next()?, next()?);
    let major_minor = text_of(next()?);
    let (root, target) = (path_of(next()?), path_of(next()?));
    let options = text_of(next()?);
    // Optional fields end with a lone hyphen.
    fields.by_ref().find(|field| *field == b"-")?;
    let mut next = || fields.next();
    Some(MountEntry {
        major_minor,
        root,
        target,
        read_only: options.split(',').any(|option| option == "ro"),
        fs_type: text_of(next()?),
        source: text_of(next()?),
        super_options: text_of(next().unwrap_or_default()),
    })
}

fn text_of(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescaped(field)).into_owned()
}

fn path_of(field: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(unescaped(field)))
}

/// Undoes the kernel's octal escapes of space, tab, newline and backslash.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        if *byte == b'\\'
            && let Some((digits, after)) = tail.split_at_checked(3)
            && let Some(value) = octal(digits)
        {
            plain.push(value);
            rest = after;
        } else {
            plain.push(*byte);
        }
    }
    plain
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

/// What is mounted at exactly `target`: the topmost of a stack.
fn at<'t>(table: &'t [MountEntry], target: &Path) -> Option<&'t MountEntry> {
    table.iter().rev().find(|entry| entry.target == target)
}

/// The mount that a resolved path is in.
fn covering<'t>(table: &'t [MountEntry], path: &Path) -> Option<&'t MountEntry> {
    let deepest = table
        .iter()
        .filter(|entry| path.starts_with(&entry.target))
        .map(|entry| entry.target.components().count())
        .max()?;
    table.iter().rev().find(|entry| {
        path.starts_with(&entry.target) && entry.target.components().count() == deepest
    })
}

/// Whether `entry` is a bind of the resolved `source`.
fn is_bind_of(table: &[MountEntry], entry: &MountEntry, source: &Path) -> bool {
    covering(table, source).is_some_and(|from| {
        let Ok(below) = source.strip_prefix(&from.target) else {
            return false;
        };
        // `join("")` would add a slash, which components do not see.
        from.major_minor == entry.major_minor && from.root.join(below) == entry.root
    })
}

pub(super) fn mount_device(
    table: &[MountEntry],
    device_number: &str,
    request: &MountDevice,
) -> Result<(), HostError> {
    let target = &request.target;
    if let Some(entry) = at(table, target) {
        if entry.major_minor == device_number && entry.root == Path::new("/") {
            return Ok(());
        }
        let why = format!("{} is mounted there", entry.source);
        return Err(HostError::refused("mount", target.display(), why));
    }
    files::create_dir(target, 0o755)?;
    let (mut flags, mut options) = (DRIVE_FLAGS, Vec::new());
    if request.quota {
        options.push("prjquota");
    }
    if request.untouched {
        flags |= MsFlags::MS_RDONLY;
        options.push("norecovery");
    }
    let options = options.join(",");
    let source = device_path(&request.device);
    let once = || {
        let options = Some(options.as_str());
        mount(Some(&source), target, Some("xfs"), flags, options)
    };
    let mut mounted = once();
    // Whoever held the device exclusively may be gone and the kernel not through with it (kernel-notes/05).
    for _ in 0..BUSY_TRIES {
        if mounted != Err(Errno::EBUSY) {
            break;
        }
        thread::sleep(BUSY_PAUSE);
        mounted = once();
    }
    mounted.map_err(|errno| HostError::io("mount", source.display(), errno))
}

pub(super) fn bind(
    table: &[MountEntry],
    source: &Path,
    target: &Path,
    read_only: bool,
) -> Result<(), HostError> {
    let resolve = |path: &Path| {
        path.canonicalize()
            .map_err(|error| HostError::io("bind", path.display(), error))
    };
    let (source, target) = (resolve(source)?, resolve(target)?);
    let failed = |errno: Errno| HostError::io("bind", target.display(), errno);
    let none = None::<&str>;
    let mut is_read_only = false;
    match at(table, &target) {
        Some(entry) if is_bind_of(table, entry, &source) => is_read_only = entry.read_only,
        Some(entry) => {
            let why = format!("{} is mounted there", entry.source);
            return Err(HostError::refused("bind", target.display(), why));
        }
        None => mount(Some(&source), &target, none, MsFlags::MS_BIND, none).map_err(failed)?,
    }
    if is_read_only == read_only {
        return Ok(());
    }
    // The kernel ignores read-only in the binding call itself; only a remount of the bind sets it.
    let mut flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | DRIVE_FLAGS;
    flags.set(MsFlags::MS_RDONLY, read_only);
    mount(none, &target, none, flags, none).map_err(failed)
}

pub(super) fn mount_empty(table: &[MountEntry], target: &Path) -> Result<(), HostError> {
    match at(table, target) {
        Some(entry) if entry.fs_type == "tmpfs" && entry.read_only => return Ok(()),
        Some(entry) => {
            let why = format!("{} is mounted there", entry.source);
            return Err(HostError::refused("mount", target.display(), why));
        }
        None => {}
    }
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let options = Some("size=4096,nr_inodes=2,mode=0555");
    mount(Some("tmpfs"), target, Some("tmpfs"), flags, options)
        .map_err(|errno| HostError::io("mount", target.display(), errno))
}

/// Unmounts every layer at `target`; `read` gives the table afresh.
pub(super) fn unmount(
    read: impl Fn() -> Result<Vec<MountEntry>, HostError>,
    target: &Path,
) -> Result<(), HostError> {
    // The table has resolved paths. What cannot be resolved may be a mount whose device is gone: its name as given.
    let target = target.canonicalize().unwrap_or_else(|_| target.to_owned());
    for _ in 0..STACKED_MAX {
        if at(&read()?, &target).is_none() {
            return Ok(());
        }
        unmount_one(&target).map_err(|errno| HostError::io("unmount", target.display(), errno))?;
    }
    let why = format!("more than {STACKED_MAX} mounts are stacked there");
    Err(HostError::refused("unmount", target.display(), why))
}

/// A program that another thread starts holds copies of our open files until it is really that program: what looks in
/// use may not be, a moment later.
fn unmount_one(target: &Path) -> nix::Result<()> {
    let mut result = Err(Errno::EBUSY);
    for attempt in 0..IN_USE_TRIES {
        if attempt > 0 {
            thread::sleep(BUSY_PAUSE);
        }
        result = umount2(target, MntFlags::UMOUNT_NOFOLLOW);
        if result != Err(Errno::EBUSY) {
            break;
        }
    }
    result
}

pub(super) fn detach(target: &Path) -> Result<(), HostError> {
    match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(errno) => Err(HostError::io("detach", target.display(), errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 7:3 / /var/lib/ringpv/mnt/d1 rw,noatime shared:9 - xfs /dev/loop3 rw,prjquota
31 22 7:3 /volumes/v1 /run/a\\040b ro,noatime - xfs /dev/loop3 rw,prjquota
garbage
32 22 0:45 / /run/a\\040b rw master:1 shared:2 - tmpfs tmpfs rw\n";

    #[test]
    fn the_table_is_read() {
        let table = parse(TABLE);
        assert_eq!(table.len(), 4);
        assert_eq!(table[1].super_options, "rw,prjquota");
        assert_eq!(table[2].target, Path::new("/run/a b"));
        assert!(table[2].read_only && !table[1].read_only);
        assert_eq!(
            (table[3].fs_type.as_str(), table[3].source.as_str()),
            ("tmpfs", "tmpfs")
        );
        assert_eq!(at(&table, Path::new("/run/a b")).unwrap().fs_type, "tmpfs");
        assert_eq!(unescaped(br"a\134b\0"), br"a\b\0");
    }

    #[test]
    fn a_bind_is_known_by_device_and_root() {
        let table = parse(TABLE);
        let bound = &table[2];
        let cases = [
            ("/var/lib/ringpv/mnt/d1/volumes/v1", true),
            ("/var/lib/ringpv/mnt/d1/volumes/v2", false),
            ("/var/lib/ringpv/mnt/d1", false),
            ("/volumes/v1", false),
        ];
        for (source, expected) in cases {
            assert_eq!(
                is_bind_of(&table, bound, Path::new(source)),
                expected,
                "{source}"
            );
        }
        let root = Path::new("/var/lib/ringpv/mnt/d1");
        assert!(is_bind_of(&table, &table[1], root));
    }
}
