//! What an engine works on: a file or block device, opened once, for reading or for writing, and measured.
//!
//! The rule: nothing becomes writable by accident. [`Target::<ReadOnly>::open`](Target::open) opens without any right to write;
//! a regular file is opened for writing by a constructor that takes nothing else; a block device only from a handle
//! which somebody opened who was allowed to (who holds the warrant for it).

use std::fs::{File, OpenOptions};
use std::io::{Seek as _, SeekFrom};
use std::marker::PhantomData;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{major, minor};

use crate::device::Geometry;
use crate::error::{OpenError, errno_of};
use crate::sys;

/// Whether an engine may write.
pub trait Mode: 'static + sealed::Sealed {
    /// It may.
    const WRITES: bool;
}

/// Reads, and nothing else.
#[derive(Debug)]
pub enum ReadOnly {}

/// Reads and writes.
#[derive(Debug)]
pub enum ReadWrite {}

impl Mode for ReadOnly {
    const WRITES: bool = false;
}

impl Mode for ReadWrite {
    const WRITES: bool = true;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::ReadOnly {}
    impl Sealed for super::ReadWrite {}
}

/// An open, measured file or device.
#[derive(Debug)]
pub struct Target<M> {
    file: Arc<File>,
    path: PathBuf,
    name: Arc<str>,
    geometry: Geometry,
    mode: PhantomData<fn() -> M>,
}

impl<M> Clone for Target<M> {
    fn clone(&self) -> Self {
        Self {
            file: Arc::clone(&self.file),
            path: self.path.clone(),
            name: Arc::clone(&self.name),
            geometry: self.geometry,
            mode: PhantomData,
        }
    }
}

impl Target<ReadOnly> {
    /// Opens a block device or regular file for reading: never exclusively, so that nobody else is disturbed.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::measure(open_direct(path, false)?, path)
    }
}

impl Target<ReadWrite> {
    /// Opens an existing regular file for reading and writing.
    ///
    /// # Errors
    /// [`OpenError::NotAFile`] on anything else, a block device above all.
    pub fn open_file(path: &Path) -> Result<Self, OpenError> {
        let kind = std::fs::metadata(path)
            .map_err(|error| failed_open(path, &error))?
            .file_type();
        if !kind.is_file() {
            return Err(OpenError::NotAFile { path: path.into() });
        }
        let target = Self::measure(open_direct(path, true)?, path)?;
        let opened = target.file.metadata();
        if !opened.is_ok_and(|metadata| metadata.is_file()) {
            return Err(OpenError::NotAFile { path: path.into() });
        }
        Ok(target)
    }

    /// Takes a handle that its owner opened for reading and writing, with `O_DIRECT`: the one way to a writable block device.
    ///
    /// # Errors
    /// [`OpenError::WrongAccess`] when the handle is not so opened.
    pub fn held(file: File, path: &Path) -> Result<Self, OpenError> {
        Self::measure(file, path)
    }
}

impl<M: Mode> Target<M> {
    /// Size and sector.
    #[must_use]
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The path, as text for messages.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file.
    #[must_use]
    pub const fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Major and minor number of the block device that it is, or that it lies on.
    #[must_use]
    pub fn number(&self) -> Option<(u64, u64)> {
        let found = self.file.metadata().ok()?;
        let number = if found.file_type().is_block_device() {
            found.rdev()
        } else {
            found.dev()
        };
        Some((major(number), minor(number)))
    }

    /// An attribute that sysfs has of that device, or of the disk that it is a part of.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<String> {
        let (major, minor) = self.number()?;
        let device = Path::new("/sys/dev/block").join(format!("{major}:{minor}"));
        let read = |path: PathBuf| std::fs::read_to_string(path).ok();
        let text = read(device.join(name)).or_else(|| read(device.join("..").join(name)))?;
        Some(text.trim().to_owned())
    }

    fn measure(file: File, path: &Path) -> Result<Self, OpenError> {
        let wanted = if M::WRITES {
            OFlag::O_RDWR
        } else {
            OFlag::O_RDONLY
        };
        let measured = |errno| OpenError::Measure {
            path: path.into(),
            errno,
        };
        let flags = fcntl(&file, FcntlArg::F_GETFL).map_err(measured)?;
        let flags = OFlag::from_bits_retain(flags);
        if flags & OFlag::O_ACCMODE != wanted || !flags.contains(OFlag::O_DIRECT) {
            return Err(OpenError::WrongAccess { path: path.into() });
        }
        let metadata = file
            .metadata()
            .map_err(|error| measured(errno_of(&error)))?;
        let sector_bytes = if metadata.file_type().is_block_device() {
            sys::logical_sector_bytes(file.as_fd()).map_err(measured)?
        } else if metadata.is_file() {
            FILE_SECTOR_BYTES
        } else {
            return Err(OpenError::WrongKind { path: path.into() });
        };
        if !sector_bytes.is_power_of_two() {
            return Err(measured(Errno::ERANGE));
        }
        let size_bytes = (&file)
            .seek(SeekFrom::End(0))
            .map_err(|error| measured(errno_of(&error)))?;
        Ok(Self {
            file: Arc::new(file),
            path: path.into(),
            name: path.to_string_lossy().into(),
            geometry: Geometry {
                size_bytes,
                sector_bytes,
            },
            mode: PhantomData,
        })
    }
}

/// What is asked of transfers on a regular file: the least that any drive asks. The drive below may ask for more, and then
/// says EINVAL itself.
const FILE_SECTOR_BYTES: u32 = 512;

fn open_direct(path: &Path, write: bool) -> Result<File, OpenError> {
    // Looked at first: opening a pipe would wait for its other end, and O_NONBLOCK would change reads (kernel-notes/09).
    let kind = std::fs::metadata(path)
        .map_err(|error| failed_open(path, &error))?
        .file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(OpenError::WrongKind { path: path.into() });
    }
    OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(OFlag::O_DIRECT.bits())
        .open(path)
        .map_err(|error| failed_open(path, &error))
}

fn failed_open(path: &Path, error: &std::io::Error) -> OpenError {
    let errno = errno_of(error);
    let path = path.into();
    if errno == Errno::EINVAL {
        OpenError::NoDirectIo { path }
    } else {
        OpenError::Open { path, errno }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_of(bytes: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(bytes).unwrap();
        file
    }

    #[test]
    fn a_file_is_measured() {
        let file = file_of(1 << 20);
        let target = Target::<ReadOnly>::open(file.path()).unwrap();
        assert_eq!(target.geometry().size_bytes, 1 << 20);
        assert_eq!(&**target.name(), file.path().to_str().unwrap());
    }

    #[test]
    fn what_is_refused() {
        let check = |result: Result<Target<ReadWrite>, OpenError>, expected: &str| {
            assert_eq!(result.unwrap_err().to_string(), expected);
        };
        check(
            Target::open_file(Path::new("/dev/null")),
            "/dev/null is not a regular file",
        );
        check(
            Target::open_file(Path::new("/nowhere")),
            "cannot open /nowhere",
        );
        let file = file_of(4096);
        let reading = File::open(file.path()).unwrap();
        check(
            Target::held(reading, Path::new("it")),
            "it: the handle is not open for what is wanted",
        );
        let directory = Target::<ReadOnly>::open(Path::new("/proc/self")).unwrap_err();
        assert!(
            matches!(directory, OpenError::WrongKind { .. }),
            "{directory}"
        );
    }
}
