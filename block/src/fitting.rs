//! Which engine fits one device, where both work.
//!
//! The rule: a ring, unless the device makes io_uring leave each read to a worker of the kernel (kernel-notes/20) *and*
//! threads of our own then take less than half as long. The first is asked of the device by one read, the second
//! measured by a few dozen, at the depth that is wanted: threads that win one at a time may lose with many. In doubt it is
//! the ring, for a ring that waits can be told how long, and a thread in `pread` cannot.

use std::fmt;

use nix::errno::Errno;

use crate::backend::{Backend, WhyThreads};
use crate::blocking::Blocking;
use crate::device::{Device, Geometry, Op, Options, Wait, transfer};
use crate::error::DeviceError;
use crate::target::{Mode, Target};
use crate::uring::{Ring, RingFlags};

/// Bytes of a read.
const READ_BYTES: u32 = 4096;
/// Reads by each engine, about.
const READS: u32 = 256;
/// Rounds by each engine: at least and at most, and those at the beginning that do not count, in which workers are born.
const ROUNDS: (u32, u32) = (9, 33);
const ROUNDS_BEFORE: u32 = 4;
/// After so long no further round is begun.
const TIME_NS: u64 = 250_000_000;
/// A read that takes longer says nothing.
const ANSWER_NS: u64 = 1_000_000_000;

/// What reads of 4 KiB took, `depth` at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How many at a time.
    pub depth: u32,
    /// By a ring: the median round, divided by its reads, in nanoseconds.
    pub ring_ns: u64,
    /// By threads, the same.
    pub threads_ns: u64,
}

impl fmt::Display for Timing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = |nanos: u64| nanos as f64 / 1000.0;
        write!(
            f,
            "a read takes {:.1} µs by it and {:.1} µs by threads, {} at a time",
            micros(self.ring_ns),
            micros(self.threads_ns),
            self.depth
        )
    }
}

/// Whether threads are the better engine: when they take less than half as long.
#[must_use]
pub const fn threads_fit(timing: Timing) -> bool {
    timing.threads_ns < timing.ring_ns / 2
}

/// The engine for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fitting {
    /// It.
    pub backend: Backend,
    /// What was measured, where that was worth it.
    pub timing: Option<Timing>,
    /// Whether the device answered as it should. If not, the engine was not chosen by anything, and another time
    /// may tell.
    pub settled: bool,
}

/// The engine for this target at this depth, where `backend` is the host's. Reads from the target and does nothing else; may
/// block as long as it does not answer.
#[must_use]
pub fn fitting<M: Mode>(backend: Backend, target: &Target<M>, depth: u32) -> Fitting {
    let keep = |settled| Fitting {
        backend,
        timing: None,
        settled,
    };
    let Backend::Uring { flags } = backend else {
        return keep(true);
    };
    match is_left_to_workers(target, flags) {
        Some(true) => {}
        Some(false) => return keep(true),
        None => return keep(false),
    }
    measure(target, flags, depth).map_or(keep(false), |timing| fitting_by(backend, timing))
}

/// The engine for a device that has each read done by a worker, by what was measured.
const fn fitting_by(ring: Backend, timing: Timing) -> Fitting {
    let why = WhyThreads::Faster(timing);
    Fitting {
        backend: if threads_fit(timing) {
            Backend::Threads { why }
        } else {
            ring
        },
        timing: Some(timing),
        settled: true,
    }
}

/// Whether the device refuses what io_uring tries first, a read that may not wait. `None` when it does not say.
fn is_left_to_workers<M: Mode>(target: &Target<M>, flags: RingFlags) -> Option<bool> {
    let bytes = read_bytes(target.geometry());
    let mut ring = Ring::new(target.clone(), Options::new(1, 0), flags).ok()?;
    ring.never_wait();
    let buffer = ring.buffer(bytes as usize);
    let wait = Wait::Until(ring.now_ns() + ANSWER_NS);
    match transfer(&mut ring, Op::Read { offset: 0, buffer }, wait) {
        Ok(_) => Some(false),
        Err(DeviceError::Io(error)) => match error.errno() {
            Some(Errno::EOPNOTSUPP) => Some(true),
            // It would have had to wait: it knows how not to.
            Some(Errno::EAGAIN) => Some(false),
            Some(_) | None => None,
        },
        Err(_) => None,
    }
}

fn read_bytes(geometry: Geometry) -> u32 {
    READ_BYTES.max(geometry.sector_bytes)
}

/// Times both engines, in turn. `None` when a read failed or was not answered.
fn measure<M: Mode>(target: &Target<M>, flags: RingFlags, depth: u32) -> Option<Timing> {
    let bytes = read_bytes(target.geometry());
    let options = Options::new(depth, bytes as usize);
    let mut ring = Ring::new(target.clone(), options, flags).ok()?;
    let mut threads = Blocking::new(target.clone(), options).ok()?;
    let mut taken = (Vec::new(), Vec::new());
    let rounds = (READS / depth.max(1)).clamp(ROUNDS.0, ROUNDS.1);
    for number in 0..ROUNDS_BEFORE + rounds {
        let ring_ns = round(&mut ring, bytes, number)?;
        let threads_ns = round(&mut threads, bytes, number)?;
        if number >= ROUNDS_BEFORE {
            taken.0.push(ring_ns);
            taken.1.push(threads_ns);
        }
        if ring.now_ns() > TIME_NS && !taken.0.is_empty() {
            break;
        }
    }
    Some(Timing {
        depth,
        ring_ns: median(taken.0) / u64::from(depth),
        threads_ns: median(taken.1) / u64::from(depth),
    })
}

/// As many reads as the depth, from places that each round has of its own: how long they took.
fn round(device: &mut impl Device, bytes: u32, number: u32) -> Option<u64> {
    let places = (device.geometry().size_bytes / u64::from(bytes)).max(1);
    let depth = device.depth() as u64;
    let buffers: Vec<_> = (0..depth).map(|_| device.buffer(bytes as usize)).collect();
    let begun = device.now_ns();
    for (token, buffer) in (0..).zip(buffers) {
        let place = (u64::from(number) * depth + token).wrapping_mul(STRIDE) % places;
        let offset = place * u64::from(bytes);
        device.submit(token, Op::Read { offset, buffer }).ok()?;
    }
    let until = Wait::Until(begun + ANSWER_NS);
    let mut done = Vec::new();
    while device.in_flight() > 0 {
        let before = done.len();
        device.complete(until, &mut done).ok()?;
        if done.len() == before {
            return None;
        }
    }
    let taken = device.now_ns() - begun;
    done.iter().all(|one| one.result.is_ok()).then_some(taken)
}

/// A prime: places are spread over the device.
const STRIDE: u64 = 1_000_003;

fn median(mut taken: Vec<u64>) -> u64 {
    taken.sort_unstable();
    taken.get(taken.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Choice, ReadOnly, ReadWrite, probe_backend};

    #[test]
    fn threads_have_to_be_twice_as_fast() {
        let fit = |ring_ns, threads_ns| {
            threads_fit(Timing {
                depth: 1,
                ring_ns,
                threads_ns,
            })
        };
        assert!(fit(40_000, 800));
        assert!(fit(2001, 999));
        assert!(!fit(2000, 1000), "no more than twice");
        assert!(!fit(5200, 3400));
        assert!(!fit(800, 40_000));
        assert!(!fit(0, 0), "a clock that stands says nothing");
    }

    #[test]
    fn what_is_said() {
        let timing = Timing {
            depth: 4,
            ring_ns: 40_123,
            threads_ns: 800,
        };
        let backend = Backend::Threads {
            why: WhyThreads::Faster(timing),
        };
        assert_eq!(
            backend.to_string(),
            "threads: io_uring leaves each read of this device to a kernel worker: a read takes 40.1 µs by it and 0.8 µs \
             by threads, 4 at a time"
        );
    }

    /// Which is faster is a machine's to say, so each answer is given here; what reads then is what was chosen.
    #[test]
    fn what_was_faster_reads() {
        let Ok(ring @ Backend::Uring { .. }) = probe_backend(Choice::Uring) else {
            println!("SKIPPED: what_was_faster_reads: no io_uring here");
            return;
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [7; 8192]).unwrap();
        for (threads_ns, by_threads) in [(1000, true), (3000, false)] {
            let timing = Timing {
                depth: 1,
                ring_ns: 4000,
                threads_ns,
            };
            let fitted = fitting_by(ring, timing);
            assert_eq!((fitted.timing, fitted.settled), (Some(timing), true));
            let faster = Backend::Threads {
                why: WhyThreads::Faster(timing),
            };
            assert_eq!(fitted.backend == faster, by_threads);
            let target = Target::<ReadOnly>::open(file.path()).unwrap();
            let mut opened = crate::open(fitted.backend, target, Options::new(1, 4096)).unwrap();
            assert_eq!(opened.engine() == "threads", by_threads);
            let buffer = opened.buffer(4096);
            let read = transfer(
                &mut opened,
                Op::Read {
                    offset: 4096,
                    buffer,
                },
                Wait::Forever,
            );
            let read = read.unwrap().expect("what was read");
            assert!(read.iter().all(|byte| *byte == 7));
        }
    }

    /// Both engines read every round, whichever wins.
    #[test]
    fn both_are_measured_at_each_depth() {
        let Ok(Backend::Uring { flags }) = probe_backend(Choice::Uring) else {
            println!("SKIPPED: both_are_measured_at_each_depth: no io_uring here");
            return;
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let target = Target::<ReadOnly>::open(file.path()).unwrap();
        for depth in [1, 7, 64] {
            let timing = measure(&target, flags, depth).unwrap();
            assert_eq!(timing.depth, depth);
            assert!(timing.ring_ns > 0 && timing.threads_ns > 0, "{timing}");
        }
        // A file that ends before its first block cannot be read: nothing is concluded.
        file.as_file().set_len(0).unwrap();
        let target = Target::<ReadWrite>::open_file(file.path()).unwrap();
        let fitted = fitting(Backend::Uring { flags }, &target, 1);
        assert_eq!((fitted.timing, fitted.settled), (None, false));
    }

    #[test]
    fn where_there_is_no_ring_nothing_is_measured() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let target = Target::<ReadOnly>::open(file.path()).unwrap();
        let backend = probe_backend(Choice::Threads).unwrap();
        let fitted = fitting(backend, &target, 1);
        assert_eq!((fitted.backend, fitted.settled), (backend, true));
    }
}
