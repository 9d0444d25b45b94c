//! One action on a volume, through the host. Every one may be repeated: what already holds is success.

use std::path::Path;

use api::serve::faults;

use super::plan::Action;
use crate::host::{FileKind, Host, HostError};
use crate::registry::MountedDrive;

/// Mode of a new data directory: its owner's, as an empty file system's root is; fsGroup and the pod change it.
const DIRECTORY_MODE: u32 = 0o755;
/// Mode of a place for a mount.
const TARGET_MODE: u32 = 0o750;

/// Does one action.
///
/// # Errors
/// The host could not. Nothing later of the plan may be done then.
pub fn apply(
    host: &dyn Host,
    drive: &MountedDrive,
    volume: &str,
    action: &Action,
) -> Result<(), HostError> {
    let name = action.name();
    tracing::debug!(drive = %drive.id, volume, action = name, "A step of a volume's plan");
    faults::before(name);
    on_drive(host, drive, volume, action)?;
    faults::after(name);
    Ok(())
}

fn on_drive(
    host: &dyn Host,
    drive: &MountedDrive,
    volume: &str,
    action: &Action,
) -> Result<(), HostError> {
    let data = drive.volume_dir(volume);
    match action {
        Action::WriteRecord(record) => {
            host.create_leaf(&drive.records_dir(), 0o700)?;
            host.write_file(&drive.volume_record(volume), &record.to_json())
        }
        Action::MakeDirectory => {
            host.create_leaf(&drive.volumes_dir(), DIRECTORY_MODE)?;
            host.create_leaf(&data, DIRECTORY_MODE)
        }
        Action::SetProject(project) => host.set_project(&data, *project),
        Action::SetLimits(project, limits) => host.set_quota(&data, *project, *limits),
        Action::MakeTarget(_)
        | Action::BindEmpty(_)
        | Action::Unmount(_)
        | Action::RemoveTarget(_) => elsewhere(host, action),
        Action::Bind { target, read_only } => host.bind(&data, target, *read_only),
        Action::Trash(name) => {
            host.create_leaf(&drive.trash_dir(), 0o700)?;
            host.rename(&data, &drive.trash_dir().join(name))
        }
        Action::RemoveRecord => host.remove_file(&drive.volume_record(volume)),
    }
}

/// Does one of the actions that concern only the place of a mount, not the drive.
///
/// # Errors
/// The host could not; or it is none of those actions.
pub fn apply_elsewhere(host: &dyn Host, action: &Action) -> Result<(), HostError> {
    let name = action.name();
    faults::before(name);
    elsewhere(host, action)?;
    faults::after(name);
    Ok(())
}

fn elsewhere(host: &dyn Host, action: &Action) -> Result<(), HostError> {
    match action {
        Action::MakeTarget(path) => match host.kind(path)? {
            Some(FileKind::Directory) => Ok(()),
            None => host.create_dir(path, TARGET_MODE),
            Some(FileKind::File | FileKind::Link | FileKind::Other) => {
                let why = "it is there and no directory";
                Err(HostError::refused("mount on", path.display(), why))
            }
        },
        Action::BindEmpty(target) => host.mount_empty(target),
        Action::Unmount(path) => host.unmount(path),
        Action::RemoveTarget(path) => remove_target(host, path),
        Action::WriteRecord(_)
        | Action::MakeDirectory
        | Action::SetProject(_)
        | Action::SetLimits(..)
        | Action::Bind { .. }
        | Action::Trash(_)
        | Action::RemoveRecord => {
            let why = "this is done on the volume's drive, which is not there";
            Err(HostError::refused("act", format!("{action:?}"), why))
        }
    }
}

/// Removes the directory that was mounted on, if it is one and empty. With anything in it it is not ours to remove.
fn remove_target(host: &dyn Host, path: &Path) -> Result<(), HostError> {
    match host.kind(path)? {
        Some(FileKind::Directory) => match host.remove_dir(path) {
            Err(error) if error.errno() == Some(libc::ENOTEMPTY) => {
                tracing::warn!(path = %path.display(), "A target is unmounted and not empty; it is left as it is");
                Ok(())
            }
            done => done,
        },
        None | Some(FileKind::File | FileKind::Link | FileKind::Other) => Ok(()),
    }
}
