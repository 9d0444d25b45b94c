//! XFS: made by mkfs.xfs from our own option file, and told how to answer I/O errors.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::super::{HostError, MakeXfs, XfsErrors};
use super::{device_path, program};

/// The options of every file system of ours.
const OPTIONS: &str = include_str!("../../../mkfs.xfs.conf");
const MKFS: &str = "mkfs.xfs";
/// Longer than any mkfs.xfs without discard takes on a device that answers at all.
const MKFS_TIMEOUT: Duration = Duration::from_secs(300);
/// What it says of a device that somebody holds; how often, and how far apart, it is tried again then.
const BUSY: &str = "Device or resource busy";
const BUSY_TRIES: usize = 20;
const BUSY_PAUSE: Duration = Duration::from_millis(50);
const XFS_IO: &str = "xfs_io";
const LABEL_TIMEOUT: Duration = Duration::from_secs(30);
const USAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Errors of metadata I/O that XFS lets one set apart.
const ERROR_CLASSES: [&str; 4] = ["EIO", "ENOSPC", "ENODEV", "default"];

pub(super) fn make(request: &MakeXfs) -> Result<(), HostError> {
    let target = request.device.as_str();
    // Without an argument mkfs.xfs prints all options it knows, and fails.
    let usage = program::run(MKFS, &[], target, USAGE_TIMEOUT)?;
    let options = known_options(OPTIONS, &format!("{}{}", usage.stdout, usage.stderr));
    let file = option_file(&options).map_err(|error| HostError::io(MKFS, target, error))?;
    let path = device_path(target);
    let args = [
        "-q",
        // No discard: that is erasing's decision. And no -f: what holds anything is refused by mkfs.xfs as well.
        "-K",
        "-c",
        &format!("options={}", file.path().display()),
        "-m",
        &format!("uuid={}", request.drive_id),
        "-L",
        &request.label,
        "-d",
        &format!("size={}", request.size_bytes),
        &path.to_string_lossy(),
    ];
    let mut ended = program::run(MKFS, &args, target, MKFS_TIMEOUT)?;
    // Our own hold is let go by now, but not yet in a process that was just forked for another drive.
    for _ in 0..BUSY_TRIES {
        if ended.success || !ended.stderr.contains(BUSY) {
            break;
        }
        thread::sleep(BUSY_PAUSE);
        ended = program::run(MKFS, &args, target, MKFS_TIMEOUT)?;
    }
    ended.success_or(MKFS, target)?;
    Ok(())
}

fn option_file(options: &str) -> std::io::Result<tempfile::NamedTempFile> {
    let mut file = tempfile::Builder::new()
        .prefix("ringpv-mkfs-")
        .tempfile_in("/run")?;
    file.write_all(options.as_bytes())?;
    file.flush()?;
    Ok(file)
}

/// Leaves out every key that `usage` does not name, every section that has none left, and comments.
fn known_options(options: &str, usage: &str) -> String {
    let knows = |key: &str| {
        usage
            .split(|c: char| !(c.is_ascii_alphanumeric() || c == '='))
            .any(|word| {
                word.strip_prefix(key)
                    .is_some_and(|rest| rest.starts_with('='))
            })
    };
    let mut known = String::new();
    let mut section = None;
    for line in options.lines() {
        if line.starts_with('[') {
            section = Some(line);
        } else if let Some((key, _)) = line.split_once('=')
            && !line.starts_with('#')
            && knows(key)
        {
            for line in section.take().into_iter().chain([line]) {
                known.push_str(line);
                known.push('\n');
            }
        }
    }
    known
}

pub(super) fn relabel(mount: &Path, label: &str) -> Result<(), HostError> {
    let target = mount.to_string_lossy();
    let command = format!("label -s {label}");
    program::run(
        XFS_IO,
        &["-r", "-c", &command, &target],
        &target,
        LABEL_TIMEOUT,
    )?
    .success_or(XFS_IO, &target)?;
    Ok(())
}

pub(super) fn set_errors(sys: &Path, device: &str, errors: XfsErrors) -> Result<(), HostError> {
    // -1: for ever, the kernel's own setting for all but ENODEV.
    let retries = |class: &str| match errors {
        XfsErrors::Kernel if class != "ENODEV" => "-1",
        XfsErrors::Kernel | XfsErrors::FailFast => "0",
    };
    let base = sys.join("fs/xfs").join(device).join("error");
    for class in ERROR_CLASSES {
        let knob = base.join("metadata").join(class).join("max_retries");
        fs::write(&knob, retries(class))
            .map_err(|error| HostError::io("write", knob.display(), error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_mkfs_does_not_know_are_left_out() {
        let usage = "[-m crc=0|1,finobt=0|1,uuid=xxx] [-i log=n|perblock=n,sparse=0|1]";
        let options =
            "# note=1\n[metadata]\ncrc=1\nbigtime=1\n[naming]\nparent=0\n[inode]\nsparse=1\n";
        assert_eq!(
            known_options(options, usage),
            "[metadata]\ncrc=1\n[inode]\nsparse=1\n"
        );
    }

    #[test]
    fn every_error_class_is_set() {
        let dir = tempfile::tempdir().unwrap();
        let metadata = dir.path().join("fs/xfs/loop7/error/metadata");
        for class in ERROR_CLASSES {
            fs::create_dir_all(metadata.join(class)).unwrap();
        }
        let read = |class: &str| fs::read_to_string(metadata.join(class).join("max_retries"));
        set_errors(dir.path(), "loop7", XfsErrors::FailFast).unwrap();
        assert_eq!(
            (read("EIO").unwrap(), read("default").unwrap()),
            ("0".into(), "0".into())
        );
        set_errors(dir.path(), "loop7", XfsErrors::Kernel).unwrap();
        assert_eq!(
            (read("EIO").unwrap(), read("ENODEV").unwrap()),
            ("-1".into(), "0".into())
        );
        assert!(
            set_errors(dir.path(), "loop8", XfsErrors::Kernel)
                .unwrap_err()
                .is_not_found()
        );
    }
}
