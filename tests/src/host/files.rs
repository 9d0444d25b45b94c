//! Files, directories, records and quota.

use std::path::{Path, PathBuf};

use agent::host::{FileKind, QuotaLimits, QuotaUsage, Statfs};
use nix::errno::Errno;

use super::space::{FileSystem, Lost, Place, Space};
use super::tree::{Kind, ROOT};
use super::{Destroyed, Failure, Machine};

/// The place of a path's parent, and the path's last part.
fn parent(space: &Space, path: &Path) -> Result<(Place, String), Lost> {
    let name = path.file_name().and_then(|name| name.to_str());
    let place = space.walk(path.parent().unwrap_or(Path::new("/")), true)?;
    Ok((place, name.unwrap_or_default().to_owned()))
}

impl Machine {
    /// Puts something at a path, replacing what is there.
    pub(super) fn put(&mut self, path: &Path, kind: Kind) -> Result<(), Failure> {
        let (place, name) = parent(&self.space, path)?;
        if place.read_only {
            return Err(Failure::Errno(Errno::EROFS));
        }
        self.space
            .tree_mut(&place.file_system)?
            .put(place.inode, &name, kind);
        Ok(())
    }

    pub(super) fn resolve(&self, path: &Path) -> Result<PathBuf, Lost> {
        let (above, name) = parent(&self.space, path)?;
        Ok(above.path.join(name))
    }

    pub(super) fn kind(&self, path: &Path) -> Result<Option<FileKind>, Lost> {
        let (tree, inode) = match self.space.at(path, false) {
            Err(Lost::NotFound) => return Ok(None),
            other => other?,
        };
        Ok(tree.node(inode).map(|node| match node.kind {
            Kind::Dir(_) => FileKind::Directory,
            Kind::File(_) | Kind::Filled(_) => FileKind::File,
            Kind::Link(_) => FileKind::Link,
        }))
    }

    pub(super) fn read_link(&self, path: &Path) -> Result<Option<PathBuf>, Lost> {
        let (tree, inode) = match self.space.at(path, false) {
            Err(Lost::NotFound) => return Ok(None),
            other => other?,
        };
        match tree.node(inode).map(|node| &node.kind) {
            Some(Kind::Link(text)) => Ok(Some(PathBuf::from(text))),
            Some(_) | None => Ok(None),
        }
    }

    pub(super) fn read_file(&self, path: &Path) -> Result<Option<Vec<u8>>, Lost> {
        let (tree, inode) = match self.space.at(path, true) {
            Err(Lost::NotFound) => return Ok(None),
            other => other?,
        };
        match tree.node(inode).map(|node| &node.kind) {
            Some(Kind::File(content)) => Ok(Some(content.clone())),
            Some(_) | None => Ok(None),
        }
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> Result<(), Failure> {
        match parent(&self.space, path) {
            Err(Lost::NotFound) => Ok(()),
            Err(lost) => Err(lost.into()),
            Ok((above, name)) => {
                let tree = self.space.tree_mut(&above.file_system)?;
                tree.remove(above.inode, &name);
                Ok(())
            }
        }
    }

    pub(super) fn remove_dir(&mut self, path: &Path) -> Result<(), Failure> {
        let place = match self.space.walk(path, false) {
            Err(Lost::NotFound) => return Ok(()),
            other => other?,
        };
        if self.space.mounted_at(&place.path).is_some() {
            return Err(Failure::Errno(Errno::EBUSY));
        }
        let names = self.space.tree(&place.file_system)?.names(place.inode);
        if names.is_none_or(|names| !names.is_empty()) {
            return Err(Failure::Errno(Errno::ENOTEMPTY));
        }
        self.remove_file(path)
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> Result<(), Failure> {
        let (old, old_name) = parent(&self.space, from)?;
        let (new, new_name) = parent(&self.space, to)?;
        if old.file_system != new.file_system {
            return Err(Failure::Errno(Errno::EXDEV));
        }
        let tree = self.space.tree_mut(&old.file_system)?;
        if tree.child(old.inode, &old_name).is_none() {
            let there = tree.child(new.inode, &new_name).is_some();
            return if there {
                Ok(())
            } else {
                Err(Failure::Lost(Lost::NotFound))
            };
        }
        let moved = tree.link(old.inode, &old_name, None);
        tree.link(new.inode, &new_name, moved);
        Ok(())
    }

    pub(super) fn remove_tree(&mut self, path: &Path, entries_max: u64) -> Result<bool, Failure> {
        assert!(
            path.components().any(|part| part.as_os_str() == ".trash"),
            "{} is not below a .trash",
            path.display()
        );
        let place = match self.space.walk(path, false) {
            Err(Lost::NotFound) => return Ok(true),
            other => other?,
        };
        let (_, inodes) = self.space.tree(&place.file_system)?.usage(place.inode);
        if inodes > entries_max {
            return Ok(false);
        }
        self.remove_file(path)?;
        if let FileSystem::Drive(serial) = place.file_system {
            self.destroyed.push(Destroyed::Removed {
                serial,
                path: place.below,
            });
        }
        Ok(true)
    }

    pub(super) fn statfs(&self, path: &Path) -> Result<Statfs, Lost> {
        let place = self.space.walk(path, true)?;
        let tree = self.space.tree(&place.file_system)?;
        let (used, inodes) = tree.usage(ROOT);
        let total_bytes = match &place.file_system {
            FileSystem::Drive(serial) => self.space.disks.get(serial).map_or(0, |disk| disk.bytes),
            FileSystem::System | FileSystem::Empty => 1 << 30,
        };
        Ok(Statfs {
            total_bytes,
            available_bytes: total_bytes.saturating_sub(used),
            total_inodes: total_bytes / 512,
            free_inodes: (total_bytes / 512).saturating_sub(inodes),
        })
    }

    pub(super) fn project(&self, directory: &Path) -> Result<u32, Lost> {
        let (tree, inode) = self.space.at(directory, true)?;
        Ok(tree.node(inode).map_or(0, |node| node.project))
    }

    pub(super) fn set_project(&mut self, directory: &Path, project: u32) -> Result<(), Failure> {
        let place = self.space.walk(directory, true)?;
        let tree = self.space.tree_mut(&place.file_system)?;
        if let Some(node) = tree.node_mut(place.inode) {
            node.project = project;
        }
        Ok(())
    }

    pub(super) fn set_quota(
        &mut self,
        directory: &Path,
        project: u32,
        limits: QuotaLimits,
    ) -> Result<(), Failure> {
        if !self.quota {
            return Err(Failure::Errno(Errno::ENOSYS));
        }
        let place = self.space.walk(directory, true)?;
        let tree = self.space.tree_mut(&place.file_system)?;
        tree.limits.insert(project, (limits.bytes, limits.inodes));
        Ok(())
    }

    pub(super) fn quota(&self, directory: &Path, project: u32) -> Result<QuotaUsage, Lost> {
        let (tree, _) = self.space.at(directory, true)?;
        let (bytes, inodes) = tree.limits.get(&project).copied().unwrap_or_default();
        let (used_bytes, used_inodes) = tree.project_usage(project);
        Ok(QuotaUsage {
            limits: QuotaLimits { bytes, inodes },
            used_bytes,
            used_inodes,
        })
    }

    pub(super) fn projects(&self, directory: &Path) -> Result<Vec<u32>, Lost> {
        let (tree, _) = self.space.at(directory, true)?;
        let known = tree.limits.keys().copied();
        Ok(known.filter(|project| *project != 0).collect())
    }
}
