//! The one leader of a cluster: it decides where volumes go and which drives are slow, and answers CSI's controller
//! calls. It touches no device.
//!
//! ```text
//!   watches ─► Inventory ─► place ───► CreateVolume: one Volume written, then the answer
//!                 │    └──► step ────► effects: finalizers, inline volumes, events
//!                 └───────► assess ──► Drive.status.verdict
//!   Lease ───► who leads: only the leader does any of this
//! ```
//! What it must never do: promise a byte twice (a promise counts before its write begins, and no write begins with the
//! lease about to end); destroy data but by the word `spec.release`; place on a drive that could vanish meanwhile.
//!
//! Start reading at [`placement`], then [`inventory`] and [`asked`].
#![forbid(unsafe_code)]

pub mod args;
pub mod asked;
pub mod csi;
pub mod effects;
pub mod embedded;
pub mod health;
pub mod inventory;
pub mod labels;
pub mod leader;
pub mod lease;
pub mod lifecycle;
pub mod metrics;
pub mod placement;
pub mod run;
pub mod watching;
