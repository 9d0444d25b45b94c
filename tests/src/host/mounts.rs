//! Mounts: the verbs and the table.

use std::path::{Path, PathBuf};

use agent::host::{MountDevice, MountEntry};
use nix::errno::Errno;

use super::space::{FileSystem, Mount};
use super::tree::ROOT;
use super::{Failure, Machine};

const TAKEN: Failure = Failure::Refused("something else is mounted there");

impl Machine {
    pub(super) fn mount(&mut self, request: &MountDevice) -> Result<(), Failure> {
        let slot = self.space.plugged.get(&request.device).cloned();
        let file_system = FileSystem::Drive(slot.map(|slot| slot.serial).unwrap_or_default());
        let number = self.number(&request.device);
        match self.space.mounted_at(&request.target) {
            Some(there) if there.number == number => return Ok(()),
            Some(_) => return Err(TAKEN),
            None => {}
        }
        if self.is_held(&request.device) {
            return Err(Failure::Errno(Errno::EBUSY));
        }
        self.space.tree(&file_system)?;
        let place = self.space.make_dirs(&request.target)?;
        self.space.mounts.push(Mount {
            target: place.path,
            file_system,
            inode: ROOT,
            root: PathBuf::from("/"),
            read_only: request.untouched,
            quota: request.quota && self.quota,
            device: request.device.clone(),
            number,
            dead: false,
        });
        Ok(())
    }

    pub(super) fn bind(
        &mut self,
        source: &Path,
        target: &Path,
        read_only: bool,
    ) -> Result<(), Failure> {
        let from = self.space.walk(source, true)?;
        let to = self.space.walk(target, true)?;
        let same = |mount: &&Mount| mount.file_system == from.file_system && !mount.dead;
        let from_mount = self.space.mounts.iter().find(same);
        let from_number = from_mount
            .map(|mount| mount.number.clone())
            .unwrap_or_default();
        let mounts = &mut self.space.mounts;
        let there = mounts.iter_mut().rev().find(|m| m.target == to.path);
        match there {
            Some(there) if there.file_system == from.file_system && there.inode == from.inode => {
                there.read_only = read_only;
            }
            Some(_) => return Err(TAKEN),
            None => mounts.push(Mount {
                target: to.path,
                file_system: from.file_system,
                inode: from.inode,
                root: from.below,
                read_only,
                quota: false,
                device: String::new(),
                number: from_number,
                dead: from.dead,
            }),
        }
        Ok(())
    }

    pub(super) fn mount_empty(&mut self, target: &Path) -> Result<(), Failure> {
        let to = self.space.walk(target, true)?;
        match self.space.mounted_at(&to.path) {
            Some(there) if there.file_system == FileSystem::Empty => return Ok(()),
            Some(_) => return Err(TAKEN),
            None => {}
        }
        self.space.mounts.push(Mount {
            target: to.path,
            file_system: FileSystem::Empty,
            inode: ROOT,
            root: PathBuf::from("/"),
            read_only: true,
            quota: false,
            device: String::new(),
            number: "0:50".to_owned(),
            dead: false,
        });
        Ok(())
    }

    pub(super) fn unmount(&mut self, target: &Path) -> Result<(), Failure> {
        let walked = self.space.walk(target, true);
        let path = walked.map_or_else(|_| target.to_owned(), |place| place.path);
        if self.space.mounted_at(&path).is_none() {
            return Ok(());
        }
        let mounts = &mut self.space.mounts;
        if mounts
            .iter()
            .any(|m| m.target != path && m.target.starts_with(&path))
        {
            return Err(Failure::Errno(Errno::EBUSY));
        }
        mounts.retain(|mount| mount.target != path);
        Ok(())
    }

    pub(super) fn mount_table(&self) -> Vec<MountEntry> {
        let entry = |mount: &Mount| MountEntry {
            major_minor: mount.number.clone(),
            root: mount.root.clone(),
            target: mount.target.clone(),
            read_only: mount.read_only,
            fs_type: match mount.file_system {
                FileSystem::Empty => "tmpfs".to_owned(),
                FileSystem::System | FileSystem::Drive(_) => "xfs".to_owned(),
            },
            source: format!("/dev/{}", mount.device),
            super_options: match mount.quota {
                true => "rw,prjquota".to_owned(),
                false => "rw".to_owned(),
            },
        };
        self.space.mounts.iter().map(entry).collect()
    }
}
