//! The host as the agent knows it: facts as values, and verbs that may be repeated.
//!
//! This is one of the three doors (with [`block::Device`] and `kube::Client`). Decisions never call it; `apply` and
//! the volume calls do. [`LinuxHost`] is the real one, a plain map in the simulated cluster is the other.
//!
//! Rules:
//! * Every verb is idempotent: what already holds is success, and nothing is changed then.
//! * Every call blocks. Whatever touches a drive runs on that drive's own [`crate::worker::Worker`].
//! * What writes to a raw device takes a [`Warrant`]; nothing else in this trait can reach a user's bytes but
//!   [`Host::remove_tree`], and that removes only below a drive's `.trash`.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use api::drive::{RepairMode, RepairOutcome};
use block::claim::Claim;
use block::erase::course::Queue;
use block::erase::{Begun, Limiter, Piece, Range, Secure, Secured, Warrant, Zeroed};

use crate::probe::Seen;

pub mod linux;

pub use linux::LinuxHost;

/// Facts and verbs of one host.
pub trait Host: Send + Sync {
    // ---- devices ----

    /// Looks at one device afresh: sysfs, mounts, holders, signatures. Never cached, opens read-only.
    fn probe(&self, device: &str) -> Result<Seen, HostError>;

    /// Reads at most 1 MiB at `offset`, past the page cache, without disturbing who holds the device.
    fn read_device(&self, device: &str, offset: u64, bytes: u64) -> Result<Vec<u8>, HostError>;

    /// Opens a device for reading and writing with `O_EXCL`: nobody mounts, formats or opens it so meanwhile.
    fn hold(&self, device: &str) -> Result<Box<dyn HeldDevice>, HostError>;

    /// Keeps a kernel name with the device that has it now, without disturbing who holds it: while the value lives, the name
    /// is given to no other device. For what goes by name: mkfs, mount.
    fn keep_name(&self, device: &str) -> Result<KeptName, HostError>;

    /// Runs a workload that only reads on a device, through a ring that the kernel itself restricts to reads.
    fn measure(&self, device: &str, run: Run<'_>) -> Result<bench::Report, HostError>;

    /// Runs a workload on a regular file, which it may write to: the scratch file of a drive.
    fn measure_file(&self, path: &Path, run: Run<'_>) -> Result<bench::Report, HostError>;

    /// The kernel's block counters of a device.
    fn counters(&self, device: &str) -> Result<BlockCounters, HostError>;

    // ---- file systems ----

    /// Makes an XFS of `size_bytes` whose UUID is the drive id. Without force: a device that holds anything is refused.
    fn make_xfs(&self, request: &MakeXfs) -> Result<(), HostError>;

    /// Begins xfs_repair on a device that is not mounted. What writes holds the device exclusively by itself.
    fn repair_xfs(&self, device: &str, mode: RepairMode) -> Result<Box<dyn Repairing>, HostError>;

    /// Mounts a device. Already mounted there from the same device: success.
    fn mount(&self, request: &MountDevice) -> Result<(), HostError>;

    /// Binds `source` to `target`, which must exist. Read-only is really read-only (a second, remounting call).
    fn bind(&self, source: &Path, target: &Path, read_only: bool) -> Result<(), HostError>;

    /// Mounts an empty, read-only tmpfs of one page: the stand-in for what is suspended.
    fn mount_empty(&self, target: &Path) -> Result<(), HostError>;

    /// Unmounts what is mounted at `target`. Nothing there, or no such path: success. Still in use: an error.
    fn unmount(&self, target: &Path) -> Result<(), HostError>;

    /// Takes the mount at `target` out of the tree though it may be in use: for the dead mount of a device that is gone.
    fn detach(&self, target: &Path) -> Result<(), HostError>;

    /// The mount table of this process's namespace, in mount order.
    fn mounts(&self) -> Result<Vec<MountEntry>, HostError>;

    /// Sets how XFS on this device answers I/O errors; see [`XfsErrors`].
    fn set_xfs_errors(&self, device: &str, errors: XfsErrors) -> Result<(), HostError>;

    /// Gives a mounted XFS another label.
    fn relabel_xfs(&self, mount: &Path, label: &str) -> Result<(), HostError>;

    /// Sizes of the file system that holds `path`; with a project quota on `path`, those of the quota.
    fn statfs(&self, path: &Path) -> Result<Statfs, HostError>;

    // ---- project quota ----

    /// Whether the kernel has XFS project quota at all.
    fn quota_supported(&self) -> bool;

    /// Project id of a directory; 0 for none.
    fn project(&self, directory: &Path) -> Result<u32, HostError>;

    /// Gives a directory a project id that everything made in it inherits.
    fn set_project(&self, directory: &Path, project: u32) -> Result<(), HostError>;

    /// Sets the hard limits of a project on the file system that holds `directory`; 0 is no limit. By the directory and
    /// not by a device: names of devices move, a path through the guard link cannot.
    fn set_quota(
        &self,
        directory: &Path,
        project: u32,
        limits: QuotaLimits,
    ) -> Result<(), HostError>;

    /// Limits and use of a project on the file system that holds `directory`; all zero for one that was never used.
    fn quota(&self, directory: &Path, project: u32) -> Result<QuotaUsage, HostError>;

    /// The projects that the quota of the file system of `directory` knows, in order, without 0.
    fn projects(&self, directory: &Path) -> Result<Vec<u32>, HostError>;

    // ---- files of a mounted drive ----

    /// A path as the mount table would show it: the links of its parents followed, its last component as it is, whether
    /// or not anything is there. What is at the end is not touched, so a hung file system mounted there does no harm.
    fn resolve(&self, path: &Path) -> Result<PathBuf, HostError>;

    /// Bytes and inodes of a tree, links not followed and no other file system entered; `None` where it has more than
    /// `entries_max` entries. For drives whose kernel does not count for us.
    fn tree_usage(&self, path: &Path, entries_max: u64) -> Result<Option<TreeUsage>, HostError>;

    /// Makes a directory and its missing parents. An existing one keeps its mode.
    fn create_dir(&self, path: &Path, mode: u32) -> Result<(), HostError>;

    /// Makes one directory in one that is there. Unlike [`Host::create_dir`] it makes no parents, so with the guard link in
    /// the path nothing lands on the disk below a drive that is not mounted.
    fn create_leaf(&self, path: &Path, mode: u32) -> Result<(), HostError>;

    /// Removes one empty directory; a missing one is success.
    fn remove_dir(&self, path: &Path) -> Result<(), HostError>;

    /// Names in a directory, sorted. A missing directory is an error that [`HostError::is_not_found`] tells.
    fn list_dir(&self, path: &Path) -> Result<Vec<String>, HostError>;

    /// What is at `path`, links not followed; `None` for nothing.
    fn kind(&self, path: &Path) -> Result<Option<FileKind>, HostError>;

    /// Makes a symbolic link; one with the same text is success, anything else there an error.
    fn symlink(&self, text: &str, path: &Path) -> Result<(), HostError>;

    /// Text of a symbolic link; `None` where there is no link.
    fn read_link(&self, path: &Path) -> Result<Option<PathBuf>, HostError>;

    /// Renames within one file system and makes it durable. Gone from `from` and there at `to`: success.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), HostError>;

    /// Removes at most `entries_max` entries of a tree, deepest first, never following a link or crossing into another
    /// file system, and says whether all is gone; repeated, it goes on where it was. Refuses every path that has no
    /// component `.trash`.
    fn remove_tree(&self, path: &Path, entries_max: u64) -> Result<bool, HostError>;

    /// Content of a small file; `None` where it does not exist. At most 1 MiB is read.
    fn read_file(&self, path: &Path) -> Result<Option<Vec<u8>>, HostError>;

    /// Writes a record: temporary file, fsync, rename, fsync of the directory. After a crash it is old or new, whole.
    fn write_file(&self, path: &Path, content: &[u8]) -> Result<(), HostError>;

    /// Removes a file durably; a missing one is success.
    fn remove_file(&self, path: &Path) -> Result<(), HostError>;

    /// Makes `path` a file of `bytes` written bytes drawn from `seed`. A file of that size is left as it is.
    fn write_filled(&self, path: &Path, bytes: u64, seed: u64) -> Result<(), HostError>;

    /// Where on its device the written parts of a file are, by FIEMAP.
    fn extents(&self, path: &Path) -> Result<Vec<block::extents::Extent>, HostError>;
}

/// A device that is held exclusively. Dropping it lets go.
pub trait HeldDevice: Send {
    /// Size in bytes, as the open device says.
    fn size_bytes(&self) -> u64;

    /// `major:minor` of the open device. While it is held the kernel gives that pair to no other device (kernel-notes/35).
    fn major_minor(&self) -> String;

    /// Reads at most 1 MiB, past the page cache. Offset and length are multiples of the sector.
    fn read(&self, offset: u64, bytes: u64) -> Result<Vec<u8>, HostError>;

    /// Writes the claim block, and flushes. `None` zeroes it, which only the warrant of a removal allows.
    fn write_claim(&self, warrant: &Warrant, claim: Option<&Claim>) -> Result<(), HostError>;

    /// The pace at which zeroes are written and read back: one for all drives of the node.
    fn limiter(&self) -> &Limiter;

    /// What the kernel says now of what the device can do by itself.
    fn queue(&self) -> Queue;

    /// Zeroes one piece by its method, durably. Whether an error says that another way may do, its method knows
    /// ([`is_refused_by`](block::erase::Method::is_refused_by)).
    /// `spare`: see [`Eraser::zero`](block::erase::Eraser::zero).
    fn zero(&self, warrant: &Warrant, piece: Piece, spare: bool) -> Result<Zeroed, HostError>;

    /// Whether the drive can erase its cells so, and nothing but what was named. [`Cause::Unable`] where it cannot.
    fn can_secure(&self, how: Secure) -> Result<(), HostError>;

    /// Whether the drive's latest Sanitize failed, and it answers no read because of that.
    fn has_failed_to_sanitize(&self) -> Result<bool, HostError>;

    /// Has the drive erase its cells, the claim block included, or says how far it is: asked again, with what was `begun`,
    /// until it is done. What it then reads nobody knows. [`Cause::Refused`] where a person has to decide.
    fn secure(
        &self,
        warrant: &Warrant,
        how: Secure,
        begun: Option<&Begun>,
    ) -> Result<Secured, HostError>;

    /// Reads a range back past the page cache. `None`: all zero; else the offset of the first byte that is not.
    fn find_nonzero(&self, range: Range) -> Result<Option<u64>, HostError>;

    /// Runs a workload on the held device. It touches the extents that it names and nothing else, and names some.
    fn measure(&self, warrant: &Warrant, run: Run<'_>) -> Result<bench::Report, HostError>;
}

/// A run of xfs_repair. Dropping it ends one that only looks; one that writes goes on to its end, for to be cut short does a
/// file system no good.
pub trait Repairing: Send {
    /// Waits until it does something else, or ends; for a second or two at most.
    fn wait(&mut self) -> Result<RepairTurn, HostError>;
}

/// What xfs_repair is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RepairTurn {
    /// In this phase, 0 before the first; what it does in it, in its own words.
    Phase(u32, String),
    /// At its end: what that means, and the end of what it printed.
    Ended(RepairOutcome, String),
}

/// A kernel name that stays with its device.
pub struct KeptName {
    /// `major:minor` of the device.
    pub major_minor: String,
    /// Open for as long as the name is kept.
    pub open: Box<dyn Send>,
}

/// A measurement to be made.
pub struct Run<'a> {
    /// What is done.
    pub workload: &'a bench::Workload,
    /// When it ends.
    pub limits: &'a bench::Limits,
    /// Is told a few times a second how far it is.
    pub progress: &'a mut dyn FnMut(&bench::Progress),
    /// Ends it when set.
    pub cancel: &'a AtomicBool,
}

/// What `make_xfs` is to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MakeXfs {
    /// Kernel name of the device.
    pub device: String,
    /// UUID of the file system.
    pub drive_id: String,
    /// Label, at most 12 bytes.
    pub label: String,
    /// Bytes from the start of the device that it may use.
    pub size_bytes: u64,
}

/// What `mount` is to mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountDevice {
    /// Kernel name of the device.
    pub device: String,
    /// Where. Made if it is missing.
    pub target: PathBuf,
    /// With project quota.
    pub quota: bool,
    /// Read-only and without log recovery: for looking at a drive that must not be touched.
    pub untouched: bool,
}

/// How XFS answers I/O errors of its metadata, in `/sys/fs/xfs/DEVICE/error`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XfsErrors {
    /// No retry: the file system shuts down at the first error that matters, and its users see it at once.
    #[default]
    FailFast,
    /// The kernel's own setting: some errors are retried for ever.
    Kernel,
}

/// One line of the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// `major:minor` of the file system's device.
    pub major_minor: String,
    /// The part of that file system that is mounted: `/`, or the bound directory.
    pub root: PathBuf,
    /// Where.
    pub target: PathBuf,
    /// Whether this mount refuses writes.
    pub read_only: bool,
    /// File system type.
    pub fs_type: String,
    /// What was mounted: `/dev/nvme0n1`, `tmpfs`.
    pub source: String,
    /// Options of the file system itself (`rw,prjquota,…`).
    pub super_options: String,
}

/// Sizes of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statfs {
    /// Bytes in all.
    pub total_bytes: u64,
    /// Bytes that a user may still write.
    pub available_bytes: u64,
    /// Inodes in all.
    pub total_inodes: u64,
    /// Inodes free.
    pub free_inodes: u64,
}

/// Hard limits of a project; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuotaLimits {
    /// Bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// Limits and use of a project.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuotaUsage {
    /// Limits in force.
    pub limits: QuotaLimits,
    /// Bytes used.
    pub used_bytes: u64,
    /// Inodes used.
    pub used_inodes: u64,
}

/// What a tree holds, counted by looking at all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeUsage {
    /// Bytes allocated on the medium.
    pub bytes: u64,
    /// Inodes, the top directory's too.
    pub inodes: u64,
}

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
    /// A socket, a device, a pipe.
    Other,
}

/// Counters of a block device since it appeared, from sysfs `stat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockCounters {
    /// Reads completed.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Milliseconds that all reads together took.
    pub read_ms: u64,
    /// Writes completed.
    pub writes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Milliseconds that all writes together took.
    pub write_ms: u64,
    /// Requests in flight now.
    pub in_flight: u64,
    /// Milliseconds with at least one request in flight.
    pub busy_ms: u64,
    /// Milliseconds summed over all requests: divided by wall time, the mean number in flight.
    pub weighted_ms: u64,
}

/// A fact that could not be read, or a verb that could not be done.
#[derive(Debug, thiserror::Error)]
#[error("{verb} {target}")]
pub struct HostError {
    /// What was tried, in the imperative: `mount`, `write`.
    pub verb: &'static str,
    /// To what: a device or a path.
    pub target: String,
    /// Why not.
    #[source]
    pub cause: Cause,
}

/// Why the host could not do it.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The kernel's answer.
    #[error("{0}")]
    Io(io::Error),
    /// A program that is not installed; its name.
    #[error("{0} was not found")]
    ProgramMissing(&'static str),
    /// A program's last words.
    #[error("{program} ended with {status}: {stderr}")]
    Program {
        /// Its name.
        program: &'static str,
        /// Its exit status.
        status: String,
        /// The end of what it printed.
        stderr: String,
    },
    /// It took too long and was killed.
    #[error("no answer within {0} s")]
    TimedOut(u64),
    /// Something that must not be: said as a sentence.
    #[error("{0}")]
    Refused(String),
    /// Something that it cannot do, today as tomorrow: said as a sentence.
    #[error("{0}")]
    Unable(String),
}

/// What the kernel says when it has no files or memory left, when a sandbox or sysctl forbids, or when it cannot do what is
/// asked of it on any drive.
const NOT_THE_DRIVES: [i32; 11] = [
    libc::EMFILE,
    libc::ENFILE,
    libc::ENOMEM,
    libc::EPERM,
    libc::EACCES,
    libc::ENOSYS,
    libc::EOPNOTSUPP,
    libc::ENOTTY,
    libc::EINVAL,
    libc::EAGAIN,
    libc::EINTR,
];

impl HostError {
    /// An error of the kernel.
    pub fn io(verb: &'static str, target: impl fmt::Display, source: impl Into<io::Error>) -> Self {
        Self {
            verb,
            target: target.to_string(),
            cause: Cause::Io(source.into()),
        }
    }

    /// A refusal, said as a sentence.
    pub fn refused(verb: &'static str, target: impl fmt::Display, why: impl Into<String>) -> Self {
        Self {
            verb,
            target: target.to_string(),
            cause: Cause::Refused(why.into()),
        }
    }

    /// The errno, where the kernel answered.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match &self.cause {
            Cause::Io(source) => source.raw_os_error(),
            Cause::ProgramMissing(_)
            | Cause::Program { .. }
            | Cause::TimedOut(_)
            | Cause::Refused(_)
            | Cause::Unable(_) => None,
        }
    }

    /// Nothing of that name is there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(
            self.errno(),
            Some(libc::ENOENT | libc::ENXIO | libc::ENODEV | libc::ENOTDIR)
        )
    }

    /// Somebody else holds it.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.errno() == Some(libc::EBUSY)
    }

    /// Whether the drive itself may be to blame. A shortage of the process's own, what is forbidden to it, and what the
    /// kernel has not, say nothing of a drive.
    #[must_use]
    pub fn blames_drive(&self) -> bool {
        match &self.cause {
            Cause::Io(source) => !source
                .raw_os_error()
                .is_some_and(|errno| NOT_THE_DRIVES.contains(&errno)),
            Cause::TimedOut(_) => true,
            Cause::ProgramMissing(_)
            | Cause::Program { .. }
            | Cause::Refused(_)
            | Cause::Unable(_) => false,
        }
    }

    /// The medium failed, not the request.
    #[must_use]
    pub fn is_medium(&self) -> bool {
        matches!(
            self.errno(),
            Some(libc::EIO | libc::ENODATA | libc::EBADMSG | libc::EUCLEAN | libc::ESHUTDOWN)
        )
    }

    /// The error and all its causes as one line, for a status message.
    #[must_use]
    pub fn sentence(&self) -> String {
        format!("{self}: {}", self.cause)
    }
}
