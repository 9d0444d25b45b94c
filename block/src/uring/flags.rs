//! The set-up flags of a ring, and whether there can be one at all: tried, not believed, once a process. A ring that is
//! refused later, with flags that worked then, is short of something; threads do its work.

use std::fmt;
use std::time::Duration;

use io_uring::{Builder, IoUring, cqueue, squeue};
use nix::errno::Errno;

use super::entry::OpFile;
use super::restrict;
use crate::device::Op;
use crate::error::errno_of;
use crate::sys::OwningRing;

/// A no-op that takes longer than this is no way to work.
const PROBE_WAIT: Duration = Duration::from_secs(2);

/// Set-up flags of a ring, in the order in which kernels learned them: each level includes those below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RingFlags {
    /// CQSIZE: 5.5.
    Plain,
    /// SUBMIT_ALL: 5.18.
    SubmitAll,
    /// COOP_TASKRUN and TASKRUN_FLAG: 5.19.
    CoopTaskrun,
    /// SINGLE_ISSUER and DEFER_TASKRUN: 6.1.
    DeferTaskrun,
    /// NO_SQARRAY: 6.6.
    NoSqArray,
}

impl RingFlags {
    /// The best first.
    pub(super) const STEPS: [Self; 5] = [
        Self::NoSqArray,
        Self::DeferTaskrun,
        Self::CoopTaskrun,
        Self::SubmitAll,
        Self::Plain,
    ];

    pub(super) fn build(self, entries: u32) -> std::io::Result<IoUring> {
        self.builder(entries).build(entries)
    }

    pub(super) fn builder<S, C>(self, entries: u32) -> Builder<S, C>
    where
        S: squeue::EntryMarker,
        C: cqueue::EntryMarker,
    {
        let mut builder = IoUring::builder();
        builder
            .dontfork()
            .setup_r_disabled()
            .setup_cqsize(entries.saturating_mul(2).max(4));
        if self >= Self::SubmitAll {
            builder.setup_submit_all();
        }
        if self >= Self::CoopTaskrun {
            builder.setup_coop_taskrun().setup_taskrun_flag();
        }
        if self >= Self::DeferTaskrun {
            builder.setup_single_issuer().setup_defer_taskrun();
        }
        if self >= Self::NoSqArray {
            builder.setup_no_sqarray();
        }
        builder
    }
}

impl fmt::Display for RingFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "CQSIZE",
            Self::SubmitAll => "CQSIZE, SUBMIT_ALL",
            Self::CoopTaskrun => "CQSIZE, SUBMIT_ALL, COOP_TASKRUN",
            Self::DeferTaskrun => "CQSIZE, SUBMIT_ALL, COOP_TASKRUN, SINGLE_ISSUER, DEFER_TASKRUN",
            Self::NoSqArray => {
                "CQSIZE, SUBMIT_ALL, COOP_TASKRUN, SINGLE_ISSUER, DEFER_TASKRUN, NO_SQARRAY"
            }
        })
    }
}

/// Why a trial of io_uring failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProbeFailure {
    /// A system call was refused.
    Step {
        /// Which.
        step: &'static str,
        /// The answer.
        errno: Errno,
    },
    /// The kernel's io_uring is too old.
    Lacks(&'static str),
}

impl fmt::Display for ProbeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step { step, errno } => write!(f, "{step}: {errno}"),
            Self::Lacks(what) => write!(f, "io_uring lacks {what}"),
        }
    }
}

/// What one set of flags may be refused with and a lesser one not: EINVAL where the kernel does not know it, and what a
/// sandbox or a limit says to some rings and not to others.
const STEPS_DOWN: [Errno; 3] = [Errno::EINVAL, Errno::ENOMEM, Errno::EPERM];

/// The first that can be built, best first; else what the last one that was tried was refused with.
fn best<T>(build: impl Fn(RingFlags) -> Result<T, Errno>) -> Result<(T, RingFlags), Errno> {
    let mut refused = Errno::EINVAL;
    for flags in RingFlags::STEPS {
        match build(flags) {
            Ok(ring) => return Ok((ring, flags)),
            Err(errno) => refused = errno,
        }
        if !STEPS_DOWN.contains(&refused) {
            break;
        }
    }
    Err(refused)
}

/// Makes a ring as [`Ring`](super::Ring) does, sends one operation through it, and says with which flags it went.
pub(crate) fn probe() -> Result<RingFlags, ProbeFailure> {
    let step = |step| move |errno| ProbeFailure::Step { step, errno };
    let build = |flags: RingFlags| flags.build(2).map_err(|error| errno_of(&error));
    let (ring, flags) = best(build).map_err(step("io_uring_setup"))?;
    if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
        return Err(ProbeFailure::Lacks("waiting with a time-out (5.11)"));
    }
    restrict(&ring, false).map_err(step("io_uring_register (restrictions)"))?;
    ring.submitter()
        .register_enable_rings()
        .map_err(|error| step("io_uring_register")(errno_of(&error)))?;
    let mut ring = OwningRing::new(ring, 1);
    let file = OpFile {
        number: -1,
        fixed: false,
        ring: 0,
        rw_flags: 0,
    };
    if ring.push(file, 0, Op::Nop).is_err() {
        return Err(ProbeFailure::Lacks("a submission queue"));
    }
    ring.enter(1, Some(PROBE_WAIT))
        .map_err(step("io_uring_enter"))?;
    let mut answer = None;
    ring.reap(|_, _, result| answer = Some(result));
    match answer {
        Some(0) => Ok(flags),
        Some(_) | None => Err(step("a no-op")(Errno::EIO)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_flags_that_is_refused_gives_way_to_a_lesser_one() {
        let only_plain = |errno| {
            best(move |flags| match flags {
                RingFlags::Plain => Ok(()),
                RingFlags::SubmitAll
                | RingFlags::CoopTaskrun
                | RingFlags::DeferTaskrun
                | RingFlags::NoSqArray => Err(errno),
            })
        };
        for errno in STEPS_DOWN {
            assert_eq!(only_plain(errno), Ok(((), RingFlags::Plain)), "{errno}");
        }
        for errno in [Errno::ENOSYS, Errno::EMFILE] {
            assert_eq!(only_plain(errno), Err(errno));
        }
        assert_eq!(best(|_| Err::<(), _>(Errno::EPERM)), Err(Errno::EPERM));
    }
}
