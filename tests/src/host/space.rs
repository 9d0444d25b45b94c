//! The name space of a simulated machine: file systems, and mounts that join them.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::disk::{Disk, Health};
use super::tree::{Kind, ROOT, Tree};

/// Links followed in one walk; a guard link leads to its own directory.
const LINKS_MAX: usize = 16;

/// A file system of the machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileSystem {
    /// The machine's own: its system disk.
    System,
    /// A drive's, by its serial.
    Drive(String),
    /// An empty one of its own.
    Empty,
}

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where, as a path without links.
    pub target: PathBuf,
    /// What.
    pub file_system: FileSystem,
    /// Which directory of it.
    pub inode: u64,
    /// The path of that directory within it.
    pub root: PathBuf,
    /// Refuses writes.
    pub read_only: bool,
    /// Quota is accounted and enforced.
    pub quota: bool,
    /// Kernel name of the device when it was mounted.
    pub device: String,
    /// `major:minor` of its device.
    pub number: String,
    /// Its device was pulled out: nothing but unmounting works.
    pub dead: bool,
}

/// A drive in a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugged {
    /// Serial of the drive.
    pub serial: String,
    /// Minor number, never given twice.
    pub minor: u64,
}

/// Where a walk ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The path without links.
    pub path: PathBuf,
    /// File system.
    pub file_system: FileSystem,
    /// Inode.
    pub inode: u64,
    /// The path within its file system.
    pub below: PathBuf,
    /// Whether the mount refuses writes.
    pub read_only: bool,
    /// Whether the mount's device was pulled out.
    pub dead: bool,
}

/// Why a walk did not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// A part of the path is not there.
    NotFound,
    /// The drive below it does not answer.
    Io,
}

/// File systems and mounts.
#[derive(Clone, Debug, Default)]
pub struct Space {
    /// The machine's own files.
    pub system: Tree,
    /// Drives, by serial; those that are not plugged in now as well.
    pub disks: BTreeMap<String, Disk>,
    /// The drives that are plugged in, by kernel name.
    pub plugged: BTreeMap<String, Plugged>,
    minors: u64,
    /// Mounts, in order.
    pub mounts: Vec<Mount>,
    empty: Tree,
}

impl Space {
    /// The files of a file system.
    ///
    /// # Errors
    /// When its drive does not answer.
    pub fn tree(&self, file_system: &FileSystem) -> Result<&Tree, Lost> {
        match file_system {
            FileSystem::System => Ok(&self.system),
            FileSystem::Empty => Ok(&self.empty),
            FileSystem::Drive(serial) => {
                let disk = self.disks.get(serial).ok_or(Lost::Io)?;
                let there = self.plugged.values().any(|slot| slot.serial == *serial);
                match &disk.files {
                    Some(files) if there && disk.health != Health::Dead => Ok(files),
                    Some(_) | None => Err(Lost::Io),
                }
            }
        }
    }

    /// The same, to be changed.
    ///
    /// # Errors
    /// When its drive does not answer.
    pub fn tree_mut(&mut self, file_system: &FileSystem) -> Result<&mut Tree, Lost> {
        self.tree(file_system)?;
        match file_system {
            FileSystem::System => Ok(&mut self.system),
            FileSystem::Empty => Err(Lost::Io),
            FileSystem::Drive(serial) => {
                let files = self
                    .disks
                    .get_mut(serial)
                    .and_then(|disk| disk.files.as_mut());
                files.ok_or(Lost::Io)
            }
        }
    }

    /// Follows a path to its end, through mounts and links. `last` says whether a link at the end is followed too.
    ///
    /// # Errors
    /// When a part of it is not there, or a drive on the way does not answer.
    pub fn walk(&self, path: &Path, last: bool) -> Result<Place, Lost> {
        let mut place = self.through(Place {
            path: PathBuf::from("/"),
            file_system: FileSystem::System,
            inode: ROOT,
            below: PathBuf::from("/"),
            read_only: false,
            dead: false,
        });
        let parts: Vec<&str> = path.components().filter_map(normal).collect();
        let mut links = 0;
        for (index, part) in parts.iter().enumerate() {
            if place.dead {
                return Err(Lost::Io);
            }
            let tree = self.tree(&place.file_system)?;
            let inode = tree.child(place.inode, part).ok_or(Lost::NotFound)?;
            let is_link = tree.node(inode).map(|node| &node.kind);
            if let Some(Kind::Link(text)) = is_link
                && (last || index + 1 < parts.len())
            {
                links += 1;
                // The only link that anybody makes here leads to the directory that it is in.
                assert!(text == "." && links < LINKS_MAX, "a link to {text}");
                continue;
            }
            place = self.through(Place {
                path: place.path.join(part),
                below: place.below.join(part),
                inode,
                ..place
            });
        }
        Ok(place)
    }

    /// The file system and inode at a path.
    ///
    /// # Errors
    /// As [`Space::walk`].
    pub fn at(&self, path: &Path, last: bool) -> Result<(&Tree, u64), Lost> {
        let place = self.walk(path, last)?;
        if place.dead {
            return Err(Lost::Io);
        }
        Ok((self.tree(&place.file_system)?, place.inode))
    }

    /// Puts a drive into a slot.
    pub fn plug(&mut self, name: &str, serial: &str) {
        self.minors += 1;
        let slot = Plugged {
            serial: serial.to_owned(),
            minor: self.minors,
        };
        self.plugged.insert(name.to_owned(), slot);
    }

    /// Pulls a drive out of its slot. What is mounted of it is dead from then on. Its serial.
    pub fn unplug(&mut self, name: &str) -> Option<String> {
        let slot = self.plugged.remove(name)?;
        for mount in &mut self.mounts {
            mount.dead |= mount.file_system == FileSystem::Drive(slot.serial.clone());
        }
        Some(slot.serial)
    }

    /// Goes into the topmost mount at a place, if there is one.
    fn through(&self, place: Place) -> Place {
        match self.mounted_at(&place.path) {
            Some(mount) => Place {
                file_system: mount.file_system.clone(),
                inode: mount.inode,
                below: mount.root.clone(),
                read_only: mount.read_only,
                dead: mount.dead,
                path: place.path,
            },
            None => place,
        }
    }

    /// The topmost mount at a path without links.
    #[must_use]
    pub fn mounted_at(&self, path: &Path) -> Option<&Mount> {
        self.mounts.iter().rev().find(|mount| mount.target == path)
    }

    /// Makes a directory and its missing parents in the machine's own files or on a drive.
    ///
    /// # Errors
    /// When a drive does not answer.
    pub fn make_dirs(&mut self, path: &Path) -> Result<Place, Lost> {
        let mut done = PathBuf::from("/");
        for part in path.components().filter_map(normal) {
            let parent = self.walk(&done, true)?;
            done.push(part);
            match self.walk(&done, true) {
                Ok(_) => {}
                Err(Lost::NotFound) => {
                    let tree = self.tree_mut(&parent.file_system)?;
                    tree.put(parent.inode, part, Kind::Dir(BTreeMap::new()));
                }
                Err(Lost::Io) => return Err(Lost::Io),
            }
        }
        self.walk(path, true)
    }
}

fn normal(part: Component<'_>) -> Option<&str> {
    match part {
        Component::Normal(name) => name.to_str(),
        Component::RootDir | Component::CurDir | Component::ParentDir | Component::Prefix(_) => {
            None
        }
    }
}
