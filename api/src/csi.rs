//! The messages and services of `proto/*.proto`, generated.

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
mod generated {
    /// The Container Storage Interface, as far as it is spoken here.
    pub mod v1 {
        tonic::include_proto!("csi.v1");
    }

    /// What is said beyond it.
    pub mod ringpv {
        tonic::include_proto!("ringpv.v1alpha1");
    }

    /// How a plugin makes itself known to a kubelet.
    pub mod registration {
        tonic::include_proto!("pluginregistration");
    }
}

pub use generated::{registration, ringpv, v1};
pub use v1::*;
