//! The messages and services of `proto/*.proto`, generated.

/// The Container Storage Interface, as far as it is spoken here.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_lifetimes,
    elided_lifetimes_in_paths,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    clippy::wildcard_enum_match_arm,
    clippy::disallowed_types,
    reason = "generated"
)]
pub mod v1 {
    tonic::include_proto!("csi.v1");
}

/// What is said beyond it.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_lifetimes,
    elided_lifetimes_in_paths,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    clippy::wildcard_enum_match_arm,
    clippy::disallowed_types,
    reason = "generated"
)]
pub mod ringpv {
    tonic::include_proto!("ringpv.v1alpha1");
}

pub use v1::*;
