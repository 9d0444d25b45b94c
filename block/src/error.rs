//! What can go wrong, an enum for each kind of undertaking: opening, choosing a backend, one operation, the engine.

use std::path::PathBuf;
use std::sync::Arc;

use nix::errno::Errno;
use thiserror::Error;

use crate::backend::WhyThreads;
use crate::device::{Op, OpKind};

mod nvme;
pub use nvme::NvmeStatus;

/// One operation did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{} of {len} bytes at {offset} of {device}", kind.as_str())]
pub struct IoError {
    /// Device.
    pub device: Arc<str>,
    /// What was asked.
    pub kind: OpKind,
    /// Where, in bytes.
    pub offset: u64,
    /// How many bytes.
    pub len: usize,
    /// What happened.
    #[source]
    pub cause: IoCause,
}

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IoCause {
    /// The kernel or the device said so.
    #[error("{0}")]
    Kernel(Errno),
    /// The drive said so, where it was asked by a command of its own.
    #[error("{0}")]
    Nvme(NvmeStatus),
    /// Nothing, or more than one command to the drive may be.
    #[error("one command reads from {min_bytes} to {max_bytes} bytes")]
    CommandLength {
        /// At least.
        min_bytes: u32,
        /// At most.
        max_bytes: u64,
    },
    /// Fewer bytes than asked: the end of a file that shrank.
    #[error("ended after {done} bytes")]
    Short {
        /// Bytes transferred.
        done: usize,
    },
    /// Not a multiple of the sector.
    #[error("not a multiple of the sector of {sector_bytes} bytes")]
    Misaligned {
        /// The sector.
        sector_bytes: u32,
    },
    /// Past the end.
    #[error("beyond the end at {size_bytes}")]
    Beyond {
        /// The size.
        size_bytes: u64,
    },
    /// A write or flush on a device opened for reading.
    #[error("opened for reading only")]
    ReadOnly,
    /// As many operations in flight as were allowed.
    #[error("{depth} operations are in flight already")]
    Full {
        /// The limit.
        depth: usize,
    },
}

impl IoError {
    /// The kernel's word for it, where it was the kernel.
    #[must_use]
    pub const fn errno(&self) -> Option<Errno> {
        match self.cause {
            IoCause::Kernel(errno) => Some(errno),
            IoCause::Nvme(_)
            | IoCause::CommandLength { .. }
            | IoCause::Short { .. }
            | IoCause::Misaligned { .. }
            | IoCause::Beyond { .. }
            | IoCause::ReadOnly
            | IoCause::Full { .. } => None,
        }
    }

    /// Whether the same operation may succeed when tried again soon.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self.cause {
            IoCause::Kernel(errno) => TRANSIENT.contains(&errno),
            IoCause::Nvme(status) => status.is_transient(),
            IoCause::Full { .. } => true,
            IoCause::CommandLength { .. }
            | IoCause::Short { .. }
            | IoCause::Misaligned { .. }
            | IoCause::Beyond { .. }
            | IoCause::ReadOnly => false,
        }
    }
}

/// Shortage and interruption. A medium error, a device that is gone or a forbidden operation stays what it is.
const TRANSIENT: [Errno; 6] = [
    Errno::EAGAIN,
    Errno::EINTR,
    Errno::ENOMEM,
    Errno::EBUSY,
    Errno::ETIMEDOUT,
    Errno::ECANCELED,
];

/// An operation that was not accepted: it comes back, with its buffer.
#[derive(Debug, Error)]
#[error("{error}")]
pub struct Refused {
    /// The operation.
    pub op: Op,
    /// Why.
    #[source]
    pub error: Box<IoError>,
}

/// The engine failed, not one operation.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// One operation, where only one was wanted.
    #[error(transparent)]
    Io(Box<IoError>),
    /// No answer in the time allowed.
    #[error("{device}: a {} was not answered in time", kind.as_str())]
    Unanswered {
        /// Device.
        device: Arc<str>,
        /// What was asked.
        kind: OpKind,
    },
    /// `io_uring_enter` failed.
    #[error("{device}: io_uring_enter")]
    Enter {
        /// Device.
        device: Arc<str>,
        /// Why.
        #[source]
        errno: Errno,
    },
    /// The threads that do the work are gone.
    #[error("{device}: its worker threads ended")]
    WorkersGone {
        /// Device.
        device: Arc<str>,
    },
}

/// A device could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// `open`.
    #[error("cannot open {path}")]
    Open {
        /// Path.
        path: PathBuf,
        /// Why.
        #[source]
        errno: Errno,
    },
    /// The file system below does not know direct I/O.
    #[error("{path}: no direct I/O there (O_DIRECT refused)")]
    NoDirectIo {
        /// Path.
        path: PathBuf,
    },
    /// Neither a block device nor a regular file.
    #[error("{path} is neither a block device nor a regular file")]
    WrongKind {
        /// Path.
        path: PathBuf,
    },
    /// Asked to write to a file, and it is a device.
    #[error("{path} is not a regular file")]
    NotAFile {
        /// Path.
        path: PathBuf,
    },
    /// A handle that allows writing was given where only reading is wanted, or the reverse.
    #[error("{path}: the handle is not open for what is wanted")]
    WrongAccess {
        /// Path.
        path: PathBuf,
    },
    /// Size or sector size could not be read.
    #[error("cannot measure {path}")]
    Measure {
        /// Path.
        path: PathBuf,
        /// Why.
        #[source]
        errno: Errno,
    },
    /// The ring could not be made.
    #[error("{path}: cannot set up io_uring ({step})")]
    Ring {
        /// Path.
        path: PathBuf,
        /// What was being done.
        step: &'static str,
        /// Why.
        #[source]
        errno: Errno,
    },
    /// A worker thread could not be started.
    #[error("{path}: cannot start a worker thread")]
    Thread {
        /// Path.
        path: PathBuf,
        /// Why.
        #[source]
        errno: Errno,
    },
    /// Depth out of bounds.
    #[error("{path}: a depth of {depth} is not between 1 and {max}")]
    Depth {
        /// Path.
        path: PathBuf,
        /// As asked.
        depth: u32,
        /// The limit.
        max: u32,
    },
}

impl OpenError {
    /// No ring is to be had, whatever the device.
    #[must_use]
    pub const fn is_of_ring(&self) -> bool {
        matches!(self, Self::Ring { .. })
    }

    /// The kernel's answer to opening or measuring the device itself.
    #[must_use]
    pub const fn errno_of_device(&self) -> Option<Errno> {
        match self {
            Self::Open { errno, .. } | Self::Measure { errno, .. } => Some(*errno),
            Self::NoDirectIo { .. }
            | Self::WrongKind { .. }
            | Self::NotAFile { .. }
            | Self::WrongAccess { .. }
            | Self::Ring { .. }
            | Self::Thread { .. }
            | Self::Depth { .. } => None,
        }
    }
}

/// io_uring was insisted upon and cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("io_uring was asked for, but {why}")]
pub struct BackendError {
    /// Why not.
    pub why: WhyThreads,
}

/// The errno of an error of the standard library.
pub(crate) fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn one_operation_in_words() {
        let error = IoError {
            device: "/dev/loop7".into(),
            kind: OpKind::Read,
            offset: 8192,
            len: 4096,
            cause: IoCause::Kernel(Errno::EIO),
        };
        assert_eq!(
            error.to_string(),
            "read of 4096 bytes at 8192 of /dev/loop7"
        );
        assert_eq!(error.source().unwrap().to_string(), "EIO: I/O error");
        assert_eq!(error.errno(), Some(Errno::EIO));
    }

    #[test]
    fn what_passes() {
        let of = |cause| {
            IoError {
                device: "d".into(),
                kind: OpKind::Write,
                offset: 0,
                len: 512,
                cause,
            }
            .is_transient()
        };
        assert!(of(IoCause::Kernel(Errno::EAGAIN)));
        assert!(of(IoCause::Full { depth: 1 }));
        for stays in [Errno::EIO, Errno::ENODATA, Errno::ENXIO, Errno::EACCES] {
            assert!(!of(IoCause::Kernel(stays)), "{stays}");
        }
        assert!(!of(IoCause::Short { done: 0 }));
    }
}
