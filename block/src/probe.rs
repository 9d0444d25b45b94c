//! Reading what devices hold: all at once, each as soon as it answers, none delaying another.
//!
//! The rules:
//! * Read-only, `O_DIRECT`, never `O_EXCL`: looking must not break an administrator's own mkfs, wake udev, or be
//!   answered from an old page cache.
//! * A device that does not answer in time is [`ProbeError::Unresponsive`]. The read stays with the kernel and its
//!   buffers with the read, for it cannot be called back (kernel-notes/33); the device is not asked again until that read has ended.
//! * A slow device gives up its place after a moment, so that any number of slow ones never keeps a fast one waiting.
//!
//! One thread reads for all through a ring that the kernel restricts to reads ([`ring`]). Where io_uring does not work, or
//! that thread has ended, each device gets a thread instead.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot, watch};

use crate::backend::WhyThreads;
use crate::buffer::Buffer;
use crate::claim::{CLAIM_BYTES, Claim, ClaimError, claim_offset};
use crate::error::errno_of;
use crate::signature::{self, Area, Found};

mod ring;

/// Devices read at once. Bounds the memory in use: some 150 KiB each, 1.3 MiB while a blank one is read to the end.
const AT_ONCE_MAX: usize = 32;
/// After this long a device that has not answered makes room for the next.
const PATIENCE: Duration = Duration::from_millis(50);
/// A device to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its node.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// What a device holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// What was found, in order of offset. Empty: blank.
    pub found: Vec<Found>,
    /// Its claim block: none, a whole one, or one that cannot be read.
    pub claim: Result<Option<Claim>, ClaimError>,
}

/// A device could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It could not be opened.
    #[error("opening {path}")]
    Open {
        /// Its node.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A read failed.
    #[error("reading {bytes} bytes at {offset} of {path}")]
    Read {
        /// Its node.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// How much.
        bytes: u64,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// It did not answer in time.
    #[error("{path} did not answer within {waited:?}")]
    Unresponsive {
        /// Its node.
        path: PathBuf,
        /// How long it was waited for.
        waited: Duration,
    },
    /// It still owes the answer to an earlier read.
    #[error("{path} has not answered an earlier read yet")]
    StillWaiting {
        /// Its node.
        path: PathBuf,
    },
    /// The reading thread ended.
    #[error("the thread that reads devices ended while {path} was read")]
    Stopped {
        /// Its node.
        path: PathBuf,
    },
}

impl ProbeError {
    /// Whether the device owes an answer, rather than having given a bad one.
    #[must_use]
    pub const fn is_unresponsive(&self) -> bool {
        match self {
            Self::Unresponsive { .. } | Self::StillWaiting { .. } => true,
            Self::Open { .. } | Self::Read { .. } | Self::Stopped { .. } => false,
        }
    }
}

/// Reads devices for many callers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Prober {
    engine: Engine,
    /// Places for devices being read.
    places: Arc<Semaphore>,
    /// Devices with a read under way.
    busy: Arc<Mutex<BTreeSet<PathBuf>>>,
}

#[derive(Clone, Debug)]
enum Engine {
    Uring(ring::Threads),
    Threads {
        /// Why there is none, where a ring was wanted.
        refused: Option<Arc<str>>,
    },
}

/// One device to be read, and who waits for it. What it holds goes back whether or not somebody still waits.
#[derive(Debug)]
struct Job {
    target: Target,
    answer: oneshot::Sender<Result<Contents, ProbeError>>,
    busy: Busy,
}

impl Job {
    fn end(self, result: Result<Contents, ProbeError>) {
        drop(self.busy);
        // The caller may have given up; that a device answers too late is not lost, it is read again.
        drop(self.answer.send(result));
    }
}

/// A mark that a device is being read. It goes when the read has ended, however late that is.
#[derive(Debug)]
struct Busy {
    path: PathBuf,
    all: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl Busy {
    fn mark(all: &Arc<Mutex<BTreeSet<PathBuf>>>, path: &Path) -> Option<Self> {
        let fresh = all
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(path.to_path_buf());
        fresh.then(|| Self {
            path: path.to_path_buf(),
            all: Arc::clone(all),
        })
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.all
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.path);
    }
}

impl Prober {
    /// With `uring` its thread starts now, and ends when the last clone is dropped and every device has answered. Where
    /// a ring is refused after all, threads are used, and the log says so.
    ///
    /// # Errors
    /// No thread to be had.
    pub fn start(uring: bool) -> io::Result<Self> {
        let engine = match uring {
            true => match ring::Threads::start()? {
                Ok(threads) => Engine::Uring(threads),
                Err(error) => {
                    tracing::warn!(%error, "io_uring is refused for reading signatures; threads are used");
                    let why = match error.raw_os_error() {
                        Some(_) => {
                            WhyThreads::refused("making a ring", errno_of(&error)).to_string()
                        }
                        None => error.to_string(),
                    };
                    Engine::Threads {
                        refused: Some(why.into()),
                    }
                }
            },
            false => Engine::Threads { refused: None },
        };
        Ok(Self {
            engine,
            places: Arc::new(Semaphore::new(AT_ONCE_MAX)),
            busy: Arc::default(),
        })
    }

    /// Whether devices are read through a ring.
    #[must_use]
    pub fn uses_ring(&self) -> bool {
        match &self.engine {
            Engine::Uring(threads) => !threads.has_ended(),
            Engine::Threads { .. } => false,
        }
    }

    /// True once threads are used in the place of a ring: one that was used has ended, or it was refused from the start.
    #[must_use]
    pub fn ring_ended(&self) -> watch::Receiver<bool> {
        match &self.engine {
            Engine::Uring(threads) => threads.end(),
            Engine::Threads { refused } => watch::channel(refused.is_some()).1,
        }
    }

    /// Why threads read in the place of a ring; `None` where one reads, or none was wanted.
    #[must_use]
    pub fn why_threads(&self) -> Option<String> {
        match &self.engine {
            Engine::Uring(threads) => threads.has_ended().then(|| WhyThreads::Ended.to_string()),
            Engine::Threads { refused } => refused.as_deref().map(str::to_owned),
        }
    }

    /// Reads one device. Any number may be asked for at once. The deadline counts from when its turn has come.
    ///
    /// # Errors
    /// [`ProbeError`].
    pub async fn probe(&self, target: Target, deadline: Duration) -> Result<Contents, ProbeError> {
        let path = target.path.clone();
        let stopped = || ProbeError::Stopped { path: path.clone() };
        let place = self.places.acquire().await.map_err(|_| stopped())?;
        let Some(busy) = Busy::mark(&self.busy, &path) else {
            return Err(ProbeError::StillWaiting { path });
        };
        let (answer, mut answered) = oneshot::channel();
        let job = Job {
            target,
            answer,
            busy,
        };
        self.submit(job).map_err(|source| ProbeError::Open {
            path: path.clone(),
            source,
        })?;
        let patience = PATIENCE.min(deadline);
        let early = tokio::time::timeout(patience, &mut answered).await;
        drop(place);
        let late = match early {
            Ok(answer) => Ok(answer),
            Err(_) => {
                self.relieve();
                tokio::time::timeout(deadline.saturating_sub(patience), answered).await
            }
        };
        match late {
            Ok(answer) => answer.map_err(|_| stopped())?,
            Err(_) => Err(ProbeError::Unresponsive {
                path,
                waited: deadline,
            }),
        }
    }

    /// Sees to it that this device is not kept waiting by others whose opening is stuck.
    fn relieve(&self) {
        if let Engine::Uring(threads) = &self.engine
            && let Err(error) = threads.relieve(true)
        {
            tracing::error!(%error, "no thread to open devices with");
        }
    }

    fn submit(&self, job: Job) -> io::Result<()> {
        match &self.engine {
            Engine::Uring(threads) if !threads.has_ended() => threads.submit(job),
            Engine::Uring(_) | Engine::Threads { .. } => {
                let read = move || {
                    let contents = read(&job.target);
                    job.end(contents);
                };
                thread::Builder::new()
                    .name("probe".to_owned())
                    .spawn(read)
                    .map(drop)
            }
        }
    }
}

/// A range that was read.
struct Piece {
    offset: u64,
    buffer: Buffer,
}

fn piece_of(range: &Range<u64>) -> Piece {
    Piece {
        offset: range.start,
        buffer: Buffer::zeroed(usize::try_from(range.end - range.start).unwrap_or(0)),
    }
}

/// What the pieces show, and whether that is enough: a device that looks blank is to be read at the other places too.
fn conclude(size: u64, pieces: &[Piece]) -> Vec<Found> {
    let areas: Vec<Area<'_>> = pieces
        .iter()
        .map(|piece| Area {
            offset: piece.offset,
            bytes: &piece.buffer,
        })
        .collect();
    signature::scan(size, &areas)
}

fn claim_of(size: u64, pieces: &[Piece]) -> Result<Option<Claim>, ClaimError> {
    let Some(offset) = claim_offset(size) else {
        return Ok(None);
    };
    let length = usize::try_from(CLAIM_BYTES).unwrap_or(0);
    let block = pieces.iter().find_map(|piece| {
        let from = usize::try_from(offset.checked_sub(piece.offset)?).ok()?;
        piece.buffer.get(from..from + length)
    });
    block.map_or(Ok(None), Claim::decode)
}

fn read_error(path: &Path, range: &Range<u64>, source: io::Error) -> ProbeError {
    ProbeError::Read {
        path: path.to_path_buf(),
        offset: range.start,
        bytes: range.end - range.start,
        source,
    }
}

fn open_options_flags() -> i32 {
    libc::O_DIRECT | libc::O_CLOEXEC
}

/// Reads one device here and now. Blocks as long as the device does.
///
/// # Errors
/// [`ProbeError`]; never that it did not answer.
pub fn read(target: &Target) -> Result<Contents, ProbeError> {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(open_options_flags())
        .open(&target.path)
        .map_err(|source| ProbeError::Open {
            path: target.path.clone(),
            source,
        })?;
    examine(&file, &target.path, target.size_bytes)
}

/// Reads what an open device of `size_bytes` holds. `file` was opened with `O_DIRECT`; `path` is for the errors. Blocks.
///
/// # Errors
/// A read failed.
pub fn examine(file: &File, path: &Path, size_bytes: u64) -> Result<Contents, ProbeError> {
    let read = |ranges: Vec<Range<u64>>| -> Result<Vec<Piece>, ProbeError> {
        let one = |range: Range<u64>| {
            let mut piece = piece_of(&range);
            file.read_exact_at(&mut piece.buffer, range.start)
                .map_err(|source| read_error(path, &range, source))?;
            Ok(piece)
        };
        ranges.into_iter().map(one).collect()
    };
    let mut pieces = read(signature::first(size_bytes))?;
    let claim = claim_of(size_bytes, &pieces);
    let mut found = conclude(size_bytes, &pieces);
    if signature::looks_blank(&found) {
        pieces.extend(read(signature::second(size_bytes))?);
        found = conclude(size_bytes, &pieces);
    }
    Ok(Contents { found, claim })
}

#[cfg(test)]
mod tests;
