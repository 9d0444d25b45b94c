//! The store on disk: one redb file, one transaction per batch, flushed before it returns.
//!
//! A file that is there is opened or refused, never replaced: what looks empty or broken may hold somebody's
//! objects. Drives describe themselves, so a person who moves a broken store away loses none: `adopt` brings
//! Drives and Volumes back.

use redb::{Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::OpenError;
use super::kinds::Kinds;
use super::object::Object;
use super::state::{Entry, Happening};

/// Version of what is written here. A store of a higher one is refused.
const FORMAT: u64 = 1;
/// Pages kept in memory; the objects are in memory anyway.
const CACHE_BYTES: usize = 4 << 20;

const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
const WORDS: TableDefinition<'_, &str, &str> = TableDefinition::new("words");
const FACTS: TableDefinition<'_, &str, u64> = TableDefinition::new("facts");

/// An open store.
pub(crate) struct Disk {
    path: PathBuf,
    database: Option<Database>,
    /// Dropped last: the directory is free when the store is closed.
    _lock: File,
}

/// What an opened store holds.
pub(crate) struct Content {
    pub(crate) objects: BTreeMap<Box<str>, Arc<Object>>,
    pub(crate) revision: u64,
    /// The id of the cluster whose objects these are.
    pub(crate) cluster_id: String,
}

impl Disk {
    /// Opens the store at `path`, or makes an empty one for `cluster_id` whose revisions begin at `first_revision`.
    pub(crate) fn open(
        path: &Path,
        kinds: &Kinds,
        first_revision: u64,
        cluster_id: &str,
        lock: File,
    ) -> Result<(Self, Content), OpenError> {
        let is_there = path
            .try_exists()
            .map_err(|source| OpenError::unusable(path, source))?;
        if !is_there {
            create(path, first_revision, cluster_id)?;
        }
        let damaged = |source: redb::Error| {
            if let Some(denied) = denied(path, &source) {
                return denied;
            }
            let path = path.to_owned();
            if matches!(source, redb::Error::DatabaseAlreadyOpen) {
                return OpenError::StoreLocked { path };
            }
            let what = source.to_string();
            OpenError::StoreDamaged { path, what }
        };
        // The store's own code is not written for files that were cut or overwritten.
        let opened = std::panic::catch_unwind(|| checked(path));
        let database = opened
            .map_err(|_| OpenError::StoreDamaged {
                path: path.to_owned(),
                what: "it cannot be read".to_owned(),
            })?
            .map_err(|error| damaged(error.into()))?;
        let content = load(&database, path, kinds)?;
        let disk = Self {
            path: path.to_owned(),
            database: Some(database),
            _lock: lock,
        };
        Ok((disk, content))
    }

    /// Opens the file again after a failed write; gives the revision that is in it.
    pub(crate) fn reopen(&mut self) -> Result<u64, redb::Error> {
        drop(self.database.take());
        let database = open(&self.path)?;
        let revision = fact(&database, "revision")?;
        self.database = Some(database);
        Ok(revision.unwrap_or(0))
    }

    /// Writes a batch and flushes it.
    pub(crate) fn write(&mut self, entries: &[Entry], revision: u64) -> Result<(), redb::Error> {
        let database = self.database.as_ref().ok_or(redb::Error::DatabaseClosed)?;
        let mut transaction = database.begin_write()?;
        // One flush more, so that the newest state is never in doubt: without it a last batch that went bad on the
        // disk would be taken for one that was never finished, and its acknowledged writes dropped in silence.
        transaction.set_two_phase_commit(true);
        {
            let mut objects = transaction.open_table(OBJECTS)?;
            for entry in entries {
                match entry.happening {
                    Happening::Added | Happening::Modified => {
                        objects.insert(&*entry.key, &*entry.object.json)?;
                    }
                    Happening::Deleted => {
                        objects.remove(&*entry.key)?;
                    }
                }
            }
            transaction
                .open_table(FACTS)?
                .insert("revision", revision)?;
        }
        transaction.commit()?;
        Ok(())
    }
}

fn open(path: &Path) -> Result<Database, DatabaseError> {
    Database::builder().set_cache_size(CACHE_BYTES).open(path)
}

/// Opens the file and holds every page against its checksum.
fn checked(path: &Path) -> Result<Database, DatabaseError> {
    let length = std::fs::metadata(path)
        .map_err(redb::StorageError::Io)?
        .len();
    if length == 0 {
        return Err(corrupted("it is empty"));
    }
    let mut database = open(path)?;
    if !database.check_integrity()? {
        return Err(corrupted("its pages do not fit their checksums"));
    }
    Ok(database)
}

/// Where only the permission lacks: a store that may not be read is not a damaged one.
fn denied(path: &Path, error: &redb::Error) -> Option<OpenError> {
    if let redb::Error::Io(error) = error
        && error.kind() == std::io::ErrorKind::PermissionDenied
    {
        return Some(OpenError::unusable(path, error.kind().into()));
    }
    None
}

fn corrupted(what: &str) -> DatabaseError {
    DatabaseError::Storage(redb::StorageError::Corrupted(what.to_owned()))
}

fn fact(database: &Database, name: &str) -> Result<Option<u64>, redb::Error> {
    let transaction = database.begin_read()?;
    let facts = transaction.open_table(FACTS)?;
    Ok(facts.get(name)?.map(|value| value.value()))
}

fn word(database: &Database, name: &str) -> Result<Option<String>, redb::Error> {
    let transaction = database.begin_read()?;
    let words = transaction.open_table(WORDS)?;
    Ok(words.get(name)?.map(|value| value.value().to_owned()))
}

fn load(database: &Database, path: &Path, kinds: &Kinds) -> Result<Content, OpenError> {
    let damaged = |what: String| OpenError::StoreDamaged {
        path: path.to_owned(),
        what,
    };
    let unreadable = |error: redb::Error| damaged(error.to_string());
    let format = fact(database, "format").map_err(unreadable)?;
    match format {
        Some(FORMAT) => {}
        Some(found) if found > FORMAT => {
            return Err(OpenError::StoreNewer {
                path: path.to_owned(),
                found,
                known: FORMAT,
            });
        }
        Some(_) | None => return Err(damaged("it says no known format".to_owned())),
    }
    let revision = fact(database, "revision")
        .map_err(unreadable)?
        .ok_or_else(|| damaged("it says no revision".to_owned()))?;
    let mut objects = BTreeMap::new();
    let mut read = || -> Result<(), redb::Error> {
        let transaction = database.begin_read()?;
        for row in transaction.open_table(OBJECTS)?.iter()? {
            let (key, json) = row?;
            let object = kinds
                .of_key(key.value())
                .and_then(|kind| Object::read(kind, json.value()).ok())
                .ok_or_else(|| redb::Error::Corrupted(format!("{} is no object", key.value())))?;
            objects.insert(key.value().into(), Arc::new(object));
        }
        Ok(())
    };
    read().map_err(unreadable)?;
    let cluster_id = word(database, "cluster-id")
        .map_err(unreadable)?
        .ok_or_else(|| damaged("it says no cluster id".to_owned()))?;
    Ok(Content {
        objects,
        revision,
        cluster_id,
    })
}

/// Makes an empty store: whole under another name first, so that none is ever found half made.
fn create(path: &Path, first_revision: u64, cluster_id: &str) -> Result<(), OpenError> {
    let unmade = |what: String| OpenError::StoreUnmade {
        path: path.to_owned(),
        what,
    };
    let fresh = path.with_extension("new");
    let make = || -> Result<(), redb::Error> {
        if fresh.exists() {
            std::fs::remove_file(&fresh)?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&fresh)?;
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create_file(file)?;
        let transaction = database.begin_write()?;
        transaction.open_table(OBJECTS)?;
        {
            let mut facts = transaction.open_table(FACTS)?;
            facts.insert("format", FORMAT)?;
            facts.insert("revision", first_revision)?;
            let mut words = transaction.open_table(WORDS)?;
            words.insert("cluster-id", cluster_id)?;
        }
        transaction.commit()?;
        drop(database);
        std::fs::rename(&fresh, path)?;
        if let Some(directory) = path.parent() {
            File::open(directory)?.sync_all()?;
        }
        Ok(())
    };
    make().map_err(|error| unmade(error.to_string()))
}
