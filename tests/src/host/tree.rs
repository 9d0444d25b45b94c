//! A file system as a table of inodes: directories, small files, links, and a project id on each.

use std::collections::BTreeMap;

use agent::volumes::plan::is_trash_of;

/// The root's inode.
pub const ROOT: u64 = 1;

/// What an inode is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Names and their inodes.
    Dir(BTreeMap<String, u64>),
    /// Content.
    File(Vec<u8>),
    /// A file of that many bytes whose content nobody looks at.
    Filled(u64),
    /// Text of a symbolic link.
    Link(String),
}

/// One inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Project id; 0 for none.
    pub project: u32,
}

/// A file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    nodes: BTreeMap<u64, Node>,
    next: u64,
    /// Limits by project: bytes and inodes; 0 is none.
    pub limits: BTreeMap<u32, (u64, u64)>,
}

impl Default for Tree {
    fn default() -> Self {
        let root = Node {
            kind: Kind::Dir(BTreeMap::new()),
            project: 0,
        };
        Self {
            nodes: BTreeMap::from([(ROOT, root)]),
            next: ROOT + 1,
            limits: BTreeMap::new(),
        }
    }
}

impl Tree {
    /// An inode that is there.
    #[must_use]
    pub fn node(&self, inode: u64) -> Option<&Node> {
        self.nodes.get(&inode)
    }

    /// The same, to be changed.
    pub fn node_mut(&mut self, inode: u64) -> Option<&mut Node> {
        self.nodes.get_mut(&inode)
    }

    /// Inode of a name in a directory.
    #[must_use]
    pub fn child(&self, directory: u64, name: &str) -> Option<u64> {
        match &self.node(directory)?.kind {
            Kind::Dir(names) => names.get(name).copied(),
            Kind::File(_) | Kind::Filled(_) | Kind::Link(_) => None,
        }
    }

    /// Names in a directory; `None` when it is none.
    #[must_use]
    pub fn names(&self, directory: u64) -> Option<Vec<String>> {
        match &self.node(directory)?.kind {
            Kind::Dir(names) => Some(names.keys().cloned().collect()),
            Kind::File(_) | Kind::Filled(_) | Kind::Link(_) => None,
        }
    }

    /// Puts something new under a name, with the directory's project. What was there is replaced.
    pub fn put(&mut self, directory: u64, name: &str, kind: Kind) -> u64 {
        let inode = self.next;
        self.next += 1;
        let project = self.node(directory).map_or(0, |node| node.project);
        self.nodes.insert(inode, Node { kind, project });
        if let Some(old) = self.link(directory, name, Some(inode)) {
            self.nodes.remove(&old);
        }
        inode
    }

    /// Sets or takes away a name; returns the inode that bore it.
    pub fn link(&mut self, directory: u64, name: &str, inode: Option<u64>) -> Option<u64> {
        let Some(Node {
            kind: Kind::Dir(names),
            ..
        }) = self.node_mut(directory)
        else {
            return None;
        };
        match inode {
            Some(inode) => names.insert(name.to_owned(), inode),
            None => names.remove(name),
        }
    }

    /// Takes a name away with all below it.
    pub fn remove(&mut self, directory: u64, name: &str) {
        if let Some(inode) = self.link(directory, name, None) {
            for below in self.names(inode).unwrap_or_default() {
                self.remove(inode, &below);
            }
            self.nodes.remove(&inode);
        }
    }

    /// Takes away all that a drive has of a volume, as a person does who cleans an orphan away.
    pub fn forget_volume(&mut self, volume: &str) {
        if let Some(folder) = self.child(ROOT, "volumes") {
            self.remove(folder, volume);
        }
        if let Some(own) = self.child(ROOT, ".ringpv")
            && let Some(records) = self.child(own, "volumes")
        {
            self.remove(records, &format!("{volume}.json"));
        }
        if let Some(trash) = self.child(ROOT, ".trash") {
            for name in self.names(trash).unwrap_or_default() {
                if is_trash_of(volume, &name) {
                    self.remove(trash, &name);
                }
            }
        }
    }

    /// Bytes and inodes below a directory, itself included.
    #[must_use]
    pub fn usage(&self, inode: u64) -> (u64, u64) {
        match self.node(inode).map(|node| &node.kind) {
            None => (0, 0),
            Some(Kind::Dir(names)) => names.values().fold((0, 1), |(bytes, inodes), child| {
                let (b, i) = self.usage(*child);
                (bytes + b, inodes + i)
            }),
            Some(Kind::File(content)) => (content.len() as u64, 1),
            Some(Kind::Filled(bytes)) => (*bytes, 1),
            Some(Kind::Link(_)) => (0, 1),
        }
    }

    /// Bytes and inodes of a project.
    #[must_use]
    pub fn project_usage(&self, project: u32) -> (u64, u64) {
        let of = self.nodes.values().filter(|node| node.project == project);
        of.fold((0, 0), |(bytes, inodes), node| match &node.kind {
            Kind::File(content) => (bytes + content.len() as u64, inodes + 1),
            Kind::Filled(size) => (bytes + size, inodes + 1),
            Kind::Dir(_) | Kind::Link(_) => (bytes, inodes + 1),
        })
    }
}
