//! The agent: one on every node. Finds block devices, makes them drives on a person's word, keeps them mounted and
//! measured, and serves the volumes on them.
//!
//! ```text
//!   kernel uevents ─► probe ─► judge ─► StorageNode.status        Drive, Volume, Benchmark (watched, this node's alone)
//!                       │                                             │
//!                       └────── devices ──► reconcile ◄───────────────┘
//!                                              │  plan(desired, observed, now) -> actions     pure
//!                                              │  apply(action) through the Host              idempotent
//!                                              ▼
//!                    Registry of MountedDrives ──► csi (Node service), health reads, benchmarks
//!                                              │
//!                              one Worker (bounded thread) per drive ──► Host: the only way to the machine
//! ```
//!
//! What it must never do: write to a device without a [`block::erase::Warrant`]; remove data that no release names;
//! mount a drive of another cluster, or one of two that show the same id; let one hung drive delay another.
//!
//! Start reading at [`host`] (what can be asked of the machine), then [`registry`] (who may touch a drive).
#![forbid(unsafe_code)]

pub mod allocation;
pub mod apply;
pub mod args;
pub mod benchmark;
pub mod cluster;
pub mod connect;
pub mod csi;
pub mod health;
pub mod host;
pub mod latency;
pub mod lease;
pub mod metrics;
pub mod node_status;
pub mod objects;
pub mod observe;
pub mod own;
pub mod plan;
pub mod probe;
pub mod reconcile;
pub mod records;
pub mod registration;
pub mod registry;
pub mod run;
pub mod site;
pub mod standing;
pub mod topology;
pub mod uevent;
pub mod volumes;
pub mod worker;
