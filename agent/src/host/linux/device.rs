//! Devices: held exclusively while they are prepared, read past the page cache, counted by the kernel.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use block::Backend;
use block::bulk::{self, BulkError};
use block::claim::{self, Claim};
use block::erase::course::Queue;
use block::erase::{
    Begun, EraseError, Eraser, Limiter, Piece, Range, Secure, SecureError, Secured, Warrant, Zeroed,
};
use nix::sys::stat::{major, minor};

use crate::probe::Discovery;

use super::super::{BlockCounters, Cause, HeldDevice, HostError, KeptName, Run};
use super::{device_path, measure};

/// How often, and after which pause, a device that somebody holds is tried again.
const HOLD_TRIES: u32 = 20;
const HOLD_PAUSE: Duration = Duration::from_millis(100);

/// Bytes of a sector as sysfs counts them, whatever the device's own are.
const SYSFS_SECTOR_BYTES: u64 = 512;

pub(super) fn read(device: &str, offset: u64, bytes: u64) -> Result<Vec<u8>, HostError> {
    let path = device_path(device);
    let file = open(&path, false, 0)?;
    bulk::read(&file, Range { offset, bytes }).map_err(|error| of_bulk(device, error))
}

/// `major:minor` of a device node.
pub(super) fn number(device: &str) -> Result<String, HostError> {
    let path = device_path(device);
    let found = fs::metadata(&path).map_err(|e| HostError::io("look at", path.display(), e))?;
    Ok(format!("{}:{}", major(found.rdev()), minor(found.rdev())))
}

/// An open device keeps its number, and with it its name: both are given away only after the last one has closed it
/// (kernel-notes/35).
pub(super) fn keep_name(device: &str) -> Result<KeptName, HostError> {
    let path = device_path(device);
    let file = open(&path, false, 0)?;
    let found = file.metadata();
    let number = found.map_err(|e| HostError::io("look at", path.display(), e))?;
    Ok(KeptName {
        major_minor: format!("{}:{}", major(number.rdev()), minor(number.rdev())),
        open: Box::new(file),
    })
}

pub(super) fn hold(
    device: &str,
    backend: Backend,
    limiter: Arc<Limiter>,
    discovery: Discovery,
) -> Result<Box<dyn HeldDevice>, HostError> {
    let path = device_path(device);
    let file = open_exclusively(&path)?;
    let failed = |error| HostError::io("measure", path.display(), error);
    let found = file.metadata().map_err(failed)?;
    if !found.file_type().is_block_device() {
        return Err(HostError::refused(
            "hold",
            path.display(),
            "it is no block device",
        ));
    }
    let file = Arc::new(file);
    let eraser = Eraser::new(Arc::clone(&file), backend.ring_flags(), limiter)
        .map_err(|error| of_erase(device, error))?;
    Ok(Box::new(Held {
        device: device.to_owned(),
        file,
        eraser,
        backend,
        discovery,
    }))
}

fn open(path: &Path, write: bool, flags: i32) -> Result<File, HostError> {
    OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(libc::O_DIRECT | flags)
        .open(path)
        .map_err(|error| HostError::io("open", path.display(), error))
}

/// A process that is gone may hold a device for a moment still, by a ring that is being torn down (kernel-notes/05), and
/// tools that look for their own on it hold it for as long.
fn open_exclusively(path: &Path) -> Result<File, HostError> {
    for _ in 0..HOLD_TRIES {
        match open(path, true, libc::O_EXCL) {
            Err(error) if error.is_busy() => std::thread::sleep(HOLD_PAUSE),
            opened => return opened,
        }
    }
    open(path, true, libc::O_EXCL)
}

struct Held {
    device: String,
    file: Arc<File>,
    eraser: Eraser,
    backend: Backend,
    discovery: Discovery,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.discovery.changed(&self.device);
    }
}

impl HeldDevice for Held {
    fn size_bytes(&self) -> u64 {
        self.eraser.size_bytes()
    }

    fn major_minor(&self) -> String {
        self.eraser.major_minor().to_owned()
    }

    fn read(&self, offset: u64, bytes: u64) -> Result<Vec<u8>, HostError> {
        bulk::read(&self.file, Range { offset, bytes }).map_err(|e| of_bulk(&self.device, e))
    }

    fn write_claim(&self, warrant: &Warrant, claim: Option<&Claim>) -> Result<(), HostError> {
        warrant.assert_device(self.eraser.major_minor(), self.eraser.size_bytes());
        let block = match claim {
            Some(claim) => claim
                .encode()
                .map_err(|error| HostError::refused("claim", &self.device, error.to_string()))?,
            None => {
                assert!(
                    warrant.takes_claim(),
                    "only a removal takes the claim block away"
                );
                vec![0; claim::SIZE]
            }
        };
        bulk::write(&self.file, warrant.claim_offset(), &block)
            .map_err(|error| of_bulk(&self.device, error))
    }

    fn limiter(&self) -> &Limiter {
        self.eraser.limiter()
    }

    fn queue(&self) -> Queue {
        self.eraser.queue()
    }

    fn zero(&self, warrant: &Warrant, piece: Piece, spare: bool) -> Result<Zeroed, HostError> {
        // Durable before the cursor says so.
        let zeroed = self.eraser.zero(warrant, piece, spare).and_then(|zeroed| {
            self.eraser.flush()?;
            Ok(zeroed)
        });
        zeroed.map_err(|error| of_erase(&self.device, error))
    }

    fn can_secure(&self, how: Secure) -> Result<(), HostError> {
        match self.eraser.can_secure(how) {
            Ok(_) => Ok(()),
            Err(error) => Err(of_secure(&self.device, error)),
        }
    }

    fn has_failed_to_sanitize(&self) -> Result<bool, HostError> {
        let failed = self.eraser.has_failed_to_sanitize();
        failed.map_err(|error| of_secure(&self.device, error))
    }

    fn secure(
        &self,
        warrant: &Warrant,
        how: Secure,
        begun: Option<&Begun>,
    ) -> Result<Secured, HostError> {
        let secured = self.eraser.secure(warrant, how, begun);
        secured.map_err(|error| of_secure(&self.device, error))
    }

    fn find_nonzero(&self, range: Range) -> Result<Option<u64>, HostError> {
        let found = self.eraser.find_nonzero(range);
        found.map_err(|error| of_erase(&self.device, error))
    }

    fn measure(&self, warrant: &Warrant, run: Run<'_>) -> Result<bench::Report, HostError> {
        warrant.assert_device(self.eraser.major_minor(), self.eraser.size_bytes());
        assert!(
            !run.workload.extents.is_empty(),
            "a gate names what it touches"
        );
        for extent in &run.workload.extents {
            warrant.assert_erasable(Range {
                offset: extent.offset,
                bytes: extent.bytes,
            });
        }
        measure::held(self.backend, &self.file, &device_path(&self.device), run)
    }
}

fn of_erase(device: &str, error: EraseError) -> HostError {
    match error {
        EraseError::Bulk(error) => of_bulk(device, error),
        EraseError::Flush(source) => HostError::io("flush", device, source),
        EraseError::NoDevice(source) => HostError::io("measure", device, source),
        EraseError::Offload {
            method,
            offset,
            bytes,
            source,
        } => {
            let target = format!(
                "{bytes} bytes at {offset} of {device} by {}",
                method.as_str()
            );
            HostError::io("zero", target, source)
        }
        EraseError::Unproved { .. } => HostError {
            verb: "zero",
            target: device.to_owned(),
            cause: Cause::Unable(error.to_string()),
        },
        EraseError::Cancelled { .. } => HostError::refused("zero", device, "it was stopped"),
    }
}

fn of_secure(device: &str, error: SecureError) -> HostError {
    let cause = if error.is_refusal() {
        Cause::Unable(error.to_string())
    } else if error.needs_a_person() {
        Cause::Refused(error.to_string())
    } else if let SecureError::Command(_, source) = error {
        Cause::Io(source)
    } else {
        Cause::Io(io::Error::other(error))
    };
    HostError {
        verb: "erase",
        target: format!("{device} securely"),
        cause,
    }
}

fn of_bulk(device: &str, error: BulkError) -> HostError {
    let target = format!("{} bytes at {} of {device}", error.bytes, error.offset);
    HostError::io(error.verb, target, error.source)
}

pub(super) fn counters(sys: &Path, device: &str) -> Result<BlockCounters, HostError> {
    let path = sys.join("class/block").join(device).join("stat");
    let text = fs::read_to_string(&path).map_err(|e| HostError::io("read", path.display(), e))?;
    parse_counters(&text)
        .ok_or_else(|| HostError::refused("read", path.display(), "it has too few numbers"))
}

fn parse_counters(text: &str) -> Option<BlockCounters> {
    let mut numbers = text.split_ascii_whitespace().map(str::parse::<u64>);
    let mut next = || numbers.next()?.ok();
    let (reads, _merged, read_sectors, read_ms) = (next()?, next()?, next()?, next()?);
    let (writes, _merged, write_sectors, write_ms) = (next()?, next()?, next()?, next()?);
    let (in_flight, busy_ms, weighted_ms) = (next()?, next()?, next()?);
    Some(BlockCounters {
        reads,
        read_bytes: read_sectors.saturating_mul(SYSFS_SECTOR_BYTES),
        read_ms,
        writes,
        write_bytes: write_sectors.saturating_mul(SYSFS_SECTOR_BYTES),
        write_ms,
        in_flight,
        busy_ms,
        weighted_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_an_old_and_a_new_kernel() {
        let old = "  10 1 80 5  20 2 160 9  3 12 14\n";
        let new = "  10 1 80 5  20 2 160 9  3 12 14 0 0 0 0 7 1\n";
        let expected = BlockCounters {
            reads: 10,
            read_bytes: 80 * 512,
            read_ms: 5,
            writes: 20,
            write_bytes: 160 * 512,
            write_ms: 9,
            in_flight: 3,
            busy_ms: 12,
            weighted_ms: 14,
        };
        assert_eq!(parse_counters(old), Some(expected));
        assert_eq!(parse_counters(new), Some(expected));
        assert_eq!(parse_counters("1 2 3"), None);
        assert_eq!(parse_counters("x"), None);
    }
}
