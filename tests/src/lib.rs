//! The whole system under test, and the rules of the house.
//!
//! | level | what runs | where |
//! |---|---|---|
//! | pure | unit tests of every crate, the rules of the house | everywhere |
//! | sim | the real decisions in a simulated cluster, from a seed, with faults | everywhere |
//! | loop | the real processes on loop devices: data, bad input, `kill -9` | root on Linux |
//! | sanity | csi-sanity against the real controller and agent | root, and Go |
//! | guest | project quota and dying drives, in an emulated machine | root |
//! | cluster | a real Kubernetes: the API that our processes rely on, and a node with pods | root, and Go |
//!
//! `tests/run` runs them; each file in `tests/tests` names its level in its first line. A test that cannot run says
//! why through [`skip`] and passes; the runner counts it as skipped.
#![forbid(unsafe_code)]

pub mod chance;
pub mod cluster;
pub mod command;
pub mod conformance;
pub mod csi;
pub mod data;
pub mod faults;
pub mod ginkgo;
pub mod go;
pub mod guest;
pub mod host;
pub mod invariants;
pub mod kubernetes;
pub mod loopdev;
pub mod machine;
pub mod node;
pub mod points;
pub mod process;
pub mod removal;
pub mod sanity;
pub mod tree;
pub mod world;

/// Says that a test cannot run here, and why. The runner counts it as skipped.
#[expect(clippy::print_stdout, reason = "the runner reads it")]
pub fn skip(test: &str, why: &str) {
    println!("SKIPPED: {test}: {why}");
}

/// Says something that belongs into the test's log.
#[expect(clippy::print_stdout, reason = "shown when the test fails")]
pub fn tell(text: &str) {
    println!("{text}");
}
