//! Which engine this host can have, and why not the better one.
//!
//! The rule: never ask the version, try it. A ring is made as the engine will make it (restricted, enabled, used once); the
//! flags that this kernel does not know are dropped one set after another (kernel-notes/01). What refuses io_uring is
//! told apart, because each has another remedy: the sysctl, a sandbox (seccomp), a kernel without it or too old
//! (kernel-notes/06).

use std::fmt;
use std::path::Path;

use nix::errno::Errno;

use crate::blocking::Blocking;
use crate::buffer::Buffer;
use crate::device::{Completion, Device, Ended, Geometry, Op, Options, Wait};
use crate::error::{BackendError, DeviceError, OpenError, Refused};
use crate::fitting::Timing;
use crate::target::{Mode, ReadOnly, Target};
use crate::uring::passthrough::Passthrough;
use crate::uring::{self, Ring, RingFlags};

/// What a person asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// io_uring where it works, else threads.
    #[default]
    Auto,
    /// io_uring or nothing.
    Uring,
    /// Threads.
    Threads,
}

impl std::str::FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "uring" => Ok(Self::Uring),
            "threads" => Ok(Self::Threads),
            other => Err(format!("{other:?} is not one of auto, uring, threads")),
        }
    }
}

/// The engine in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// io_uring, with the flags that this kernel knows.
    Uring {
        /// The flags.
        flags: RingFlags,
    },
    /// Threads.
    Threads {
        /// Why not io_uring.
        why: WhyThreads,
    },
}

impl Backend {
    /// The flags of its rings, where it has rings.
    #[must_use]
    pub const fn ring_flags(&self) -> Option<RingFlags> {
        match self {
            Self::Uring { flags } => Some(*flags),
            Self::Threads { .. } => None,
        }
    }

    /// `uring` or `threads`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Uring { .. } => "uring",
            Self::Threads { .. } => "threads",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uring { flags } => write!(f, "io_uring ({flags})"),
            Self::Threads { why } => write!(f, "threads: {why}"),
        }
    }
}

/// Why threads are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyThreads {
    /// They were asked for.
    Asked,
    /// The sysctl `kernel.io_uring_disabled` forbids io_uring to this process.
    Sysctl {
        /// Its value: 1 (only the privileged) or 2 (nobody).
        value: u32,
    },
    /// EPERM though the sysctl allows it: a sandbox, a container's seccomp profile most likely.
    Seccomp,
    /// The ring that reads what devices hold worked, and has ended.
    Ended,
    /// The ring works, and threads are faster on this device.
    Faster(Timing),
    /// ENOSYS: the kernel was built without io_uring, or a sandbox says so.
    Missing,
    /// ENOMEM: as much memory is locked as this process may lock.
    LockedMemory,
    /// The kernel has io_uring, without what the engine needs.
    TooOld {
        /// What is lacking.
        lacks: &'static str,
    },
    /// Something else.
    Failed {
        /// What was tried.
        step: &'static str,
        /// The answer.
        errno: Errno,
    },
}

impl WhyThreads {
    /// What it means that `step` was refused.
    pub(crate) fn refused(step: &'static str, errno: Errno) -> Self {
        explain(
            uring::ProbeFailure::Step { step, errno },
            io_uring_disabled(),
        )
    }
}

impl fmt::Display for WhyThreads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => f.write_str("threads were asked for"),
            Self::Sysctl { value } => {
                write!(f, "kernel.io_uring_disabled is {value}")
            }
            Self::Seccomp => f.write_str(
                "io_uring_setup is refused (EPERM) though kernel.io_uring_disabled allows it: a seccomp profile",
            ),
            Self::Ended => f.write_str("the ring that reads what devices hold has ended"),
            Self::Faster(timing) => write!(
                f,
                "io_uring leaves each read of this device to a kernel worker: {timing}"
            ),
            Self::Missing => f.write_str("this kernel has no io_uring (ENOSYS)"),
            Self::LockedMemory => f.write_str(
                "io_uring_setup is refused (ENOMEM): no more memory may be locked (RLIMIT_MEMLOCK)",
            ),
            Self::TooOld { lacks } => write!(f, "this kernel's io_uring lacks {lacks}"),
            Self::Failed { step, errno } => write!(f, "{step} failed: {errno}"),
        }
    }
}

/// Tries io_uring once, unless threads were asked for.
///
/// # Errors
/// io_uring was insisted upon and does not work.
pub fn probe_backend(choice: Choice) -> Result<Backend, BackendError> {
    if choice == Choice::Threads {
        return Ok(Backend::Threads {
            why: WhyThreads::Asked,
        });
    }
    match uring::probe() {
        Ok(flags) => Ok(Backend::Uring { flags }),
        Err(failure) => {
            let why = explain(failure, io_uring_disabled());
            match choice {
                Choice::Uring => Err(BackendError { why }),
                Choice::Auto | Choice::Threads => Ok(Backend::Threads { why }),
            }
        }
    }
}

/// Opens `target` by the engine chosen. Call it on the thread that will use the device (kernel-notes/02).
///
/// # Errors
/// [`OpenError`].
pub fn open<M: Mode>(
    backend: Backend,
    target: Target<M>,
    options: Options,
) -> Result<Opened<M>, OpenError> {
    Ok(match backend {
        Backend::Uring { flags } => Opened::Ring(Ring::new(target, options, flags)?),
        Backend::Threads { .. } => Opened::Blocking(Blocking::new(target, options)?),
    })
}

/// By `open` where that can be had, else by threads, and why it is them. For who did not insist upon io_uring: a ring may be
/// refused at any time after one worked, by a sysctl or for want of memory or files.
///
/// # Errors
/// [`OpenError`]: not for want of a ring.
pub fn open_else_threads<M: Mode>(
    backend: Backend,
    target: Target<M>,
    options: Options,
    open: impl FnOnce(Backend, Target<M>, Options) -> Result<Opened<M>, OpenError>,
) -> Result<(Opened<M>, Option<OpenError>), OpenError> {
    match open(backend, target.clone(), options) {
        Ok(opened) => Ok((opened, None)),
        Err(error) if error.is_of_ring() => {
            let threads = Blocking::new(target, options)?;
            Ok((Opened::Blocking(threads), Some(error)))
        }
        Err(error) => Err(error),
    }
}

/// The same for a reader that polls where the device can (see [`uring::polled`]). Threads do not poll.
///
/// # Errors
/// As [`open`].
pub fn open_polled(
    backend: Backend,
    target: Target<ReadOnly>,
    options: Options,
) -> Result<Opened<ReadOnly>, OpenError> {
    match backend {
        Backend::Uring { flags } => Ring::polled(target, options, flags).map(Opened::Ring),
        Backend::Threads { .. } => open(backend, target, options),
    }
}

/// What a reader got who asked for passthrough.
#[derive(Debug)]
pub enum Through {
    /// The drive, by commands of its own.
    Commands(Passthrough),
    /// The block device, as without; a ring's description says why.
    Blocks(Opened<ReadOnly>),
}

/// For a reader who was asked by a person to read an NVMe drive by its own commands (see [`uring::passthrough`]); `polled` as
/// well, where that works. Never for a health check or a probe. Threads do neither.
///
/// # Errors
/// As [`open`].
pub fn open_passthrough(
    backend: Backend,
    target: Target<ReadOnly>,
    options: Options,
    polled: bool,
) -> Result<Through, OpenError> {
    let tried = |flags| Passthrough::tried(&target, options, flags, polled);
    let why = match backend.ring_flags().map(tried).transpose()? {
        Some(Ok(commands)) => return Ok(Through::Commands(commands)),
        Some(Err(why)) => Some(why),
        None => None,
    };
    let open = if polled { open_polled } else { open };
    let mut opened = open(backend, target, options)?;
    if let (Opened::Ring(ring), Some(why)) = (&mut opened, why) {
        ring.instead_of_passthrough(why);
    }
    Ok(Through::Blocks(opened))
}

/// A device by whichever engine there is. Not a `Box<dyn Device>`: an operation through a ring costs 40 ns, and a loop that is
/// compiled together with its engine saves a quarter of that.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there are few, and each is moved once"
)]
pub enum Opened<M: Mode> {
    /// By io_uring.
    Ring(Ring<M>),
    /// By threads.
    Blocking(Blocking<M>),
}

/// The same call to the engine that it is.
macro_rules! either {
    ($opened:expr, $device:ident => $call:expr) => {
        match $opened {
            Opened::Ring($device) => $call,
            Opened::Blocking($device) => $call,
        }
    };
}

impl<M: Mode> Device for Opened<M> {
    fn name(&self) -> &str {
        either!(self, device => device.name())
    }

    fn engine(&self) -> &'static str {
        either!(self, device => device.engine())
    }

    fn description(&self) -> String {
        either!(self, device => device.description())
    }

    fn geometry(&self) -> Geometry {
        either!(self, device => device.geometry())
    }

    fn depth(&self) -> usize {
        either!(self, device => device.depth())
    }

    #[inline]
    fn in_flight(&self) -> usize {
        either!(self, device => device.in_flight())
    }

    #[inline]
    fn now_ns(&self) -> u64 {
        either!(self, device => device.now_ns())
    }

    fn buffer(&mut self, len: usize) -> Buffer {
        either!(self, device => device.buffer(len))
    }

    #[inline(always)]
    fn submit(&mut self, token: u64, op: Op) -> Result<(), Refused> {
        either!(self, device => device.submit(token, op))
    }

    #[inline]
    fn complete(&mut self, wait: Wait, done: &mut Vec<Completion>) -> Result<(), DeviceError> {
        either!(self, device => device.complete(wait, done))
    }

    #[inline]
    fn complete_each(&mut self, wait: Wait, each: impl FnMut(Ended)) -> Result<u64, DeviceError> {
        either!(self, device => device.complete_each(wait, each))
    }
}

/// What a failed trial means.
fn explain(failure: uring::ProbeFailure, disabled: u32) -> WhyThreads {
    match failure {
        uring::ProbeFailure::Lacks(lacks) => WhyThreads::TooOld { lacks },
        uring::ProbeFailure::Step { step, errno } => {
            if errno == Errno::EPERM && disabled > 0 {
                WhyThreads::Sysctl { value: disabled }
            } else if errno == Errno::EPERM || errno == Errno::EACCES {
                WhyThreads::Seccomp
            } else if errno == Errno::ENOSYS {
                WhyThreads::Missing
            } else if errno == Errno::ENOMEM {
                WhyThreads::LockedMemory
            } else {
                WhyThreads::Failed { step, errno }
            }
        }
    }
}

/// The sysctl; 0 where the kernel has none (before 6.6).
fn io_uring_disabled() -> u32 {
    std::fs::read_to_string(Path::new("/proc/sys/kernel/io_uring_disabled"))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uring::ProbeFailure;

    #[test]
    fn refusals_are_told_apart() {
        let setup = |errno, disabled| {
            explain(
                ProbeFailure::Step {
                    step: "io_uring_setup",
                    errno,
                },
                disabled,
            )
        };
        let cases = [
            (setup(Errno::EPERM, 0), WhyThreads::Seccomp),
            (setup(Errno::EPERM, 1), WhyThreads::Sysctl { value: 1 }),
            (setup(Errno::EPERM, 2), WhyThreads::Sysctl { value: 2 }),
            (setup(Errno::ENOSYS, 0), WhyThreads::Missing),
            (setup(Errno::ENOMEM, 0), WhyThreads::LockedMemory),
            (
                setup(Errno::EMFILE, 0),
                WhyThreads::Failed {
                    step: "io_uring_setup",
                    errno: Errno::EMFILE,
                },
            ),
            (
                explain(ProbeFailure::Lacks("restrictions"), 0),
                WhyThreads::TooOld {
                    lacks: "restrictions",
                },
            ),
        ];
        for (found, expected) in cases {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_ring_refused_after_one_worked_gives_way_to_threads_and_says_so() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let target = Target::<ReadOnly>::open(file.path()).unwrap();
        let backend = Backend::Uring {
            flags: RingFlags::Plain,
        };
        for errno in [Errno::ENOMEM, Errno::EPERM, Errno::EMFILE] {
            let path = file.path().to_path_buf();
            let step = "setup";
            let refuse = |_, _, _| Err(OpenError::Ring { path, step, errno });
            let opened = open_else_threads(backend, target.clone(), Options::new(4, 512), refuse);
            let (opened, why) = opened.unwrap();
            assert_eq!(opened.engine(), "threads");
            assert!(matches!(why, Some(OpenError::Ring { .. })), "{why:?}");
        }
        let options = Options::new(0, 512);
        let depth = open_else_threads(backend, target, options, open).unwrap_err();
        assert!(matches!(depth, OpenError::Depth { .. }), "{depth}");
    }

    #[test]
    fn threads_when_asked() {
        assert_eq!(
            probe_backend(Choice::Threads),
            Ok(Backend::Threads {
                why: WhyThreads::Asked
            })
        );
    }
}
