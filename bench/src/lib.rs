//! Workload → histogram: how fast a device answers, in fio's terms.
//!
//! ```text
//!   Workload ──► Steps ──► run: closed loop over a block::Device ──► Report ──► text, JSON
//!   (pure: same seed, same operations)        │ every latency                     │
//!                                             └──► Histogram (fixed memory) ──────┘
//! ```
//!
//! **What is measured.** A latency is the time from before the submission of an operation to the reaping of its
//! completion: fio's `lat_ns`. fio's `clat_ns` begins after `io_uring_enter` returned, when a fast device may be done
//! already; it is never what is meant here. The clock is read once per batch of submissions and once per reaping, so a
//! latency includes the preparation of the operations beside it in its batch: below 1 µs.
//!
//! **How it is measured.** As fio does when tuned: registered buffers and file, up to half the depth submitted at a time,
//! waiting for one completion and reaping all. Random offsets are drawn with replacement (fio's `norandommap`). A buffer
//! to be written is filled once with random bytes and not again (fio's `refill_buffers=0`, without scrambling), unless what
//! is written is to be verified: then each block is made anew, and latencies and rates include the making.
//!
//! **What is not measured.** The loop is closed: while a device stalls, nothing new is started, so a stall is one long
//! latency for each operation in flight and not one for each that would have come. A rate limit does not change that.
//! CPU time is that of the whole process.
//!
//! The command line program takes fio's job files ([`jobfile`]) and prints fio's JSON ([`report::json`]).
//!
//! Knows devices and nothing of Kubernetes; the agent turns a [`Report`] into resources. Start reading at [`run()`].
#![forbid(unsafe_code)]

pub mod histogram;
pub mod jobfile;
pub mod report;
pub mod run;
pub mod steady;
pub mod units;
pub mod verify;
pub mod workload;

pub use histogram::Histogram;
pub use report::{Report, Side};
pub use run::{End, Limits, Progress, RunError, run};
pub use steady::SteadyState;
pub use workload::{Pattern, Workload, WorkloadError};
