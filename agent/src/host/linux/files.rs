//! Directories and records on a mounted drive. What is written is durable when the call returns.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, symlink as link,
};
use std::path::{Component, Path, PathBuf};

use api::serve::faults;
use block::extents::{self, Extent};
use block::random::Random;
use nix::sys::statvfs::statvfs;

use super::super::{FileKind, HostError, Statfs};

/// No record is larger.
const RECORD_BYTES_MAX: u64 = 1 << 20;
/// Bytes written between two looks at the clock of the disk.
const FILL_CHUNK_BYTES: u64 = 1 << 20;

pub(super) fn create_dir(path: &Path, mode: u32) -> Result<(), HostError> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|error| HostError::io("make directory", path.display(), error))
}

pub(super) fn create_leaf(path: &Path, mode: u32) -> Result<(), HostError> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made.map_err(|error| HostError::io("make directory", path.display(), error)),
    }
}

pub(super) fn remove_dir(path: &Path) -> Result<(), HostError> {
    absent_is_fine(fs::remove_dir(path))
        .map_err(|error| HostError::io("remove directory", path.display(), error))
}

pub(super) fn remove_file(path: &Path) -> Result<(), HostError> {
    absent_is_fine(fs::remove_file(path))
        .and_then(|()| absent_is_fine(sync_parent(path)))
        .map_err(|error| HostError::io("remove", path.display(), error))
}

pub(super) fn list_dir(path: &Path) -> Result<Vec<String>, HostError> {
    let failed = |error| HostError::io("list", path.display(), error);
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        names.push(
            entry
                .map_err(failed)?
                .file_name()
                .to_string_lossy()
                .into_owned(),
        );
    }
    names.sort_unstable();
    Ok(names)
}

pub(super) fn kind(path: &Path) -> Result<Option<FileKind>, HostError> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => Ok(Some(FileKind::Directory)),
        Ok(found) if found.is_file() => Ok(Some(FileKind::File)),
        Ok(found) if found.is_symlink() => Ok(Some(FileKind::Link)),
        Ok(_) => Ok(Some(FileKind::Other)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(HostError::io("look at", path.display(), error)),
    }
}

pub(super) fn statfs(path: &Path) -> Result<Statfs, HostError> {
    let found = statvfs(path).map_err(|errno| HostError::io("statfs", path.display(), errno))?;
    Ok(Statfs {
        total_bytes: found.blocks().saturating_mul(found.fragment_size()),
        available_bytes: found
            .blocks_available()
            .saturating_mul(found.fragment_size()),
        total_inodes: found.files(),
        free_inodes: found.files_free(),
    })
}

pub(super) fn symlink(text: &str, path: &Path) -> Result<(), HostError> {
    let failed = |error| HostError::io("link", path.display(), error);
    match read_link(path)? {
        Some(found) if found == Path::new(text) => return Ok(()),
        Some(found) => {
            let why = format!("it is a link to {}", found.display());
            return Err(HostError::refused("link", path.display(), why));
        }
        None => {}
    }
    link(text, path).map_err(failed)?;
    sync_parent(path).map_err(failed)
}

pub(super) fn read_link(path: &Path) -> Result<Option<PathBuf>, HostError> {
    match fs::read_link(path) {
        Ok(text) => Ok(Some(text)),
        // EINVAL: something else than a link.
        Err(error) if is_absent(&error) || error.kind() == io::ErrorKind::InvalidInput => Ok(None),
        Err(error) => Err(HostError::io("read link", path.display(), error)),
    }
}

pub(super) fn rename(from: &Path, to: &Path) -> Result<(), HostError> {
    let failed = |error| HostError::io("rename", from.display(), error);
    match fs::rename(from, to) {
        Ok(()) => {}
        Err(error) if is_absent(&error) && fs::symlink_metadata(to).is_ok() => {}
        Err(error) => return Err(failed(error)),
    }
    sync_parent(to).map_err(failed)?;
    absent_is_fine(sync_parent(from)).map_err(failed)
}

pub(super) fn read_file(path: &Path) -> Result<Option<Vec<u8>>, HostError> {
    let failed = |error| HostError::io("read", path.display(), error);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut content = Vec::new();
    file.take(RECORD_BYTES_MAX)
        .read_to_end(&mut content)
        .map_err(failed)?;
    Ok(Some(content))
}

pub(super) fn write_file(path: &Path, content: &[u8]) -> Result<(), HostError> {
    let temporary = temporary(path);
    let write = || {
        let mut file = create(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_parent(path)
    };
    write().map_err(|error| HostError::io("write", path.display(), error))
}

pub(super) fn write_filled(path: &Path, bytes: u64, seed: u64) -> Result<(), HostError> {
    if fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.len() == bytes) {
        return Ok(());
    }
    let temporary = temporary(path);
    let write = || {
        let mut file = create(&temporary)?;
        let (mut left, mut random, mut chunk) = (bytes, Random::new(seed), Vec::new());
        while left > 0 {
            chunk.clear();
            let wanted = left.min(FILL_CHUNK_BYTES);
            while (chunk.len() as u64) < wanted {
                chunk.extend_from_slice(&random.bits().to_le_bytes());
            }
            chunk.truncate(usize::try_from(wanted).unwrap_or(chunk.len()));
            file.write_all(&chunk)?;
            left -= wanted;
            faults::piece("fill");
        }
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_parent(path)
    };
    write().map_err(|error| HostError::io("fill", path.display(), error))
}

pub(super) fn extents(path: &Path) -> Result<Vec<Extent>, HostError> {
    let file = File::open(path).map_err(|error| HostError::io("open", path.display(), error))?;
    extents::of_file(&file).map_err(|errno| HostError::io("map", path.display(), errno))
}

/// Removes a tree without ever descending more than one level: the directories of a directory are moved up to the
/// top first. So no path grows too long, nothing is kept open, and a repetition goes on where it was.
pub(super) fn remove_tree(path: &Path, entries_max: u64) -> Result<bool, HostError> {
    let in_trash = path
        .components()
        .any(|part| part == Component::Normal(".trash".as_ref()));
    let is_trash_itself = path.file_name().is_some_and(|name| name == ".trash");
    if !in_trash || is_trash_itself || path.components().any(|part| part == Component::ParentDir) {
        let why = "only what is below a drive's .trash is removed";
        return Err(HostError::refused("remove", path.display(), why));
    }
    let mut removal = Removal {
        top: path,
        device: 0,
        left: entries_max,
        moved: 0,
    };
    let outcome = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => {
            removal.device = found.dev();
            removal.empty_top()
        }
        Ok(_) => fs::remove_file(path).map(|()| true),
        Err(error) if is_absent(&error) => Ok(true),
        Err(error) => Err(error),
    };
    outcome.map_err(|error| HostError::io("remove", path.display(), error))
}

struct Removal<'a> {
    top: &'a Path,
    device: u64,
    left: u64,
    moved: u64,
}

impl Removal<'_> {
    /// Whether all is gone.
    fn empty_top(&mut self) -> io::Result<bool> {
        loop {
            let mut found_any = false;
            for entry in fs::read_dir(self.top)? {
                let entry = entry?;
                found_any = true;
                if self.left == 0 {
                    return Ok(false);
                }
                if self.is_dir_here(&entry)? {
                    self.empty_child(&entry.path())?;
                } else {
                    fs::remove_file(entry.path())?;
                    self.left -= 1;
                }
            }
            if !found_any {
                fs::remove_dir(self.top)?;
                return sync_parent(self.top).map(|()| true);
            }
        }
    }

    /// Removes the files of a directory below the top, moves its directories up, and removes it once it is empty.
    fn empty_child(&mut self, child: &Path) -> io::Result<()> {
        for entry in fs::read_dir(child)? {
            let entry = entry?;
            if self.left == 0 {
                return Ok(());
            }
            self.left -= 1;
            if self.is_dir_here(&entry)? {
                let place = self.free_place()?;
                fs::rename(entry.path(), place)?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        match fs::remove_dir(child) {
            // Reading a directory that changes may leave entries out: the next round finds them.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            other => other,
        }
    }

    fn free_place(&mut self) -> io::Result<PathBuf> {
        loop {
            self.moved += 1;
            let place = self.top.join(format!(".up-{}", self.moved));
            if matches!(place.symlink_metadata(), Err(error) if is_absent(&error)) {
                return Ok(place);
            }
            if self.moved == u64::MAX {
                return Err(io::Error::other("no free name"));
            }
        }
    }

    fn is_dir_here(&self, entry: &fs::DirEntry) -> io::Result<bool> {
        let found = entry.metadata()?;
        if found.dev() != self.device {
            let what = format!("{} is another file system", entry.path().display());
            return Err(io::Error::other(what));
        }
        Ok(found.is_dir())
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o640)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.new"))
}

fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent()
        .map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn absent_is_fine(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if is_absent(&error) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_whole_and_repeatable() {
        let dir = tempfile::tempdir().unwrap();
        let record = dir.path().join("a.json");
        assert_eq!(read_file(&record).unwrap(), None);
        for content in ["one", "two"] {
            write_file(&record, content.as_bytes()).unwrap();
            assert_eq!(read_file(&record).unwrap().unwrap(), content.as_bytes());
        }
        assert_eq!(list_dir(dir.path()).unwrap(), ["a.json"]);
        for _ in 0..2 {
            remove_file(&record).unwrap();
        }
        assert_eq!(kind(&record).unwrap(), None);
    }

    #[test]
    fn a_leaf_needs_its_parent() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("none/leaf");
        assert!(create_leaf(&missing, 0o755).unwrap_err().is_not_found());
        for _ in 0..2 {
            create_leaf(&dir.path().join("leaf"), 0o755).unwrap();
        }
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(create_leaf(&dir.path().join("file"), 0o755).is_err());
    }

    #[test]
    fn links_and_renames_may_be_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for _ in 0..2 {
            symlink(".", &at("guard")).unwrap();
        }
        assert!(symlink("elsewhere", &at("guard")).is_err());
        assert_eq!(read_link(&at("guard")).unwrap().unwrap(), Path::new("."));
        create_dir(&at("from/deep"), 0o755).unwrap();
        for _ in 0..2 {
            rename(&at("from"), &at("to")).unwrap();
        }
        assert_eq!(kind(&at("to/deep")).unwrap(), Some(FileKind::Directory));
        assert!(
            rename(&at("nothing"), &at("nowhere"))
                .unwrap_err()
                .is_not_found()
        );
    }

    #[test]
    fn a_filled_file_is_written_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("probe");
        write_filled(&path, 3_000_000, 7).unwrap();
        let first = fs::read(&path).unwrap();
        assert_eq!(first.len(), 3_000_000);
        assert!(
            first
                .chunks(4096)
                .all(|block| block.iter().any(|byte| *byte != 0))
        );
        write_filled(&path, 3_000_000, 8).unwrap();
        assert_eq!(fs::read(&path).unwrap(), first);
    }

    #[test]
    fn a_tree_goes_in_bounded_steps_and_nothing_else_goes() {
        let dir = tempfile::tempdir().unwrap();
        let trash = dir.path().join(".trash");
        let top = trash.join("v1-1");
        let mut deep = top.clone();
        for _ in 0..40 {
            deep.push("d".repeat(100));
        }
        create_dir(&deep, 0o755).unwrap();
        for name in ["a", "b", "c"] {
            fs::write(deep.join(name), name).unwrap();
        }
        let outside = dir.path().join("outside");
        fs::write(&outside, "kept").unwrap();
        link(&outside, deep.join("link")).unwrap();
        let mut rounds = 0;
        while !remove_tree(&top, 7).unwrap() {
            rounds += 1;
            assert!(rounds < 100);
        }
        assert!(rounds > 1);
        assert!(outside.exists() && trash.exists() && !top.exists());
        assert!(remove_tree(&top, 7).unwrap());
        for refused in [
            dir.path().to_owned(),
            trash.clone(),
            trash.join("../outside"),
        ] {
            assert!(remove_tree(&refused, 7).is_err(), "{}", refused.display());
        }
    }
}
