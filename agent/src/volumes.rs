//! Volumes on the node: a directory with a project quota on a drive, bind mounts of it, and its end.
//!
//! ```text
//!   CSI call ──┐                       pure                     one job on the drive's own thread
//!   Volume  ───┴─► Promise ─► plan(promise, wanted, seen) ─► actions ─► apply(action) through the Host
//!                                            ▲
//!              record, directory, quota, mount table (seen)
//! ```
//!
//! Looking, planning and doing are one job on the drive's calls lane, so two of them never interleave on a drive.

pub mod apply;
pub mod cache;
pub mod ephemeral;
mod orphans;
pub mod plan;
pub mod reconcile;
pub mod record;
pub mod refusal;
pub mod seen;
pub mod service;
pub mod status;
pub mod subject;
#[cfg(test)]
mod testing;
mod trash;

pub use refusal::Refusal;
pub use service::{Stats, Volumes};
pub use subject::{Meant, Subject};
