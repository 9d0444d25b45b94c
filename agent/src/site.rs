//! What is the same for every drive of this process: which node, which cluster, where things are mounted.

use std::path::{Path, PathBuf};

use crate::host::XfsErrors;

/// Node, cluster and places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Name of the node.
    pub node: String,
    /// Cluster id: the UID of the namespace kube-system.
    pub cluster_id: String,
    /// Where the agent keeps its mounts and its few files.
    pub state_dir: PathBuf,
    /// How XFS answers I/O errors.
    pub xfs_errors: XfsErrors,
}

impl Site {
    /// Where a drive is mounted.
    #[must_use]
    pub fn mount_dir(&self, drive: &str) -> PathBuf {
        mount_dir(&self.state_dir, drive)
    }

    /// The root of every path on a mounted drive: a link to `.` that exists on that drive alone.
    #[must_use]
    pub fn guarded(&self, drive: &str) -> PathBuf {
        self.mount_dir(drive).join(guard_name(drive))
    }

    /// Label of the file systems of this cluster's drives.
    #[must_use]
    pub fn label(&self) -> String {
        api::names::filesystem_label(&self.cluster_id)
    }
}

/// Where a drive is mounted below a state directory.
#[must_use]
pub fn mount_dir(state_dir: &Path, drive: &str) -> PathBuf {
    state_dir.join("mnt").join(drive)
}

/// Name of the guard link of a drive.
#[must_use]
pub fn guard_name(drive: &str) -> String {
    format!(".drive-{drive}")
}
