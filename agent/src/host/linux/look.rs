//! Looking without touching: where a path leads, what a tree holds.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::super::{HostError, TreeUsage};
use super::files::is_absent;

/// Unit of `st_blocks`.
const STAT_BLOCK_BYTES: u64 = 512;

pub(super) fn resolve(path: &Path) -> Result<PathBuf, HostError> {
    let failed = |error| HostError::io("resolve", path.display(), error);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return fs::canonicalize(path).map_err(failed);
    };
    match fs::canonicalize(parent) {
        Ok(parent) => Ok(parent.join(name)),
        // Nothing is there, so nothing can be mounted below it.
        Err(error) if is_absent(&error) => Ok(path.to_owned()),
        Err(error) => Err(failed(error)),
    }
}

pub(super) fn tree_usage(path: &Path, entries_max: u64) -> Result<Option<TreeUsage>, HostError> {
    let failed = |error| HostError::io("count", path.display(), error);
    let top = fs::symlink_metadata(path).map_err(failed)?;
    let mut usage = TreeUsage {
        bytes: top.blocks().saturating_mul(STAT_BLOCK_BYTES),
        inodes: 1,
    };
    let (mut entry_count, mut linked) = (0_u64, BTreeSet::new());
    let mut directories = vec![path.to_owned()];
    while let Some(directory) = directories.pop() {
        // What vanishes while it is counted is not there to be counted.
        let entries = match fs::read_dir(&directory) {
            Err(error) if is_absent(&error) => continue,
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            entry_count += 1;
            if entry_count > entries_max {
                return Ok(None);
            }
            let entry = entry.map_err(failed)?;
            let found = match entry.metadata() {
                Err(error) if is_absent(&error) => continue,
                found => found.map_err(failed)?,
            };
            let counted = found.dev() != top.dev()
                || (found.nlink() > 1 && !found.is_dir() && !linked.insert(found.ino()));
            if counted {
                continue;
            }
            usage.bytes += found.blocks().saturating_mul(STAT_BLOCK_BYTES);
            usage.inodes += 1;
            if found.is_dir() {
                directories.push(entry.path());
            }
        }
    }
    Ok(Some(usage))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_of_parents_are_followed_and_the_last_name_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir(real.join("kubelet")).unwrap();
        symlink(real.join("kubelet"), real.join("link")).unwrap();
        symlink("/", real.join("kubelet/end")).unwrap();
        for (given, resolved) in [
            ("link/target", "kubelet/target"),
            ("link/end", "kubelet/end"),
            ("none/deep/er", "none/deep/er"),
        ] {
            assert_eq!(resolve(&real.join(given)).unwrap(), real.join(resolved));
        }
        assert_eq!(resolve(Path::new("/")).unwrap(), Path::new("/"));
    }

    #[test]
    fn a_tree_is_counted_once_and_within_bounds() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/f"), vec![1; 100_000]).unwrap();
        fs::hard_link(dir.path().join("d/f"), dir.path().join("again")).unwrap();
        symlink("/", dir.path().join("l")).unwrap();
        let usage = tree_usage(dir.path(), 4).unwrap().unwrap();
        assert_eq!(usage.inodes, 4);
        assert!((100_000..200_000).contains(&usage.bytes), "{usage:?}");
        assert_eq!(tree_usage(dir.path(), 3).unwrap(), None);
        assert!(tree_usage(&dir.path().join("none"), 3).is_err());
    }
}
