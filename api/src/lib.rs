//! What is said: the objects of `ringpv.io/v1alpha1`, the reasons, the units, the CSI messages.
//!
//! ```text
//!   StorageNode ── status.devices[].driveId ──┐   an id for the Drive that *would* be made there
//!        ▲ one per host, written by its agent │
//!        │                                    ▼
//!      node ◄────────── spec.node ────────  Drive  ◄── spec.drive ── Volume   (the reservation)
//!                                             ▲                        ▲
//!                                spec.drive   │                        │ metadata.name = CSI volume id
//!                                         Benchmark                PersistentVolume / CSI caller
//! ```
//!
//! Pure types: no clock, no file, no socket (feature `serve` excepted: the endpoints that every server
//! process shares). Everything an operator can see refers to one enum, [`Reason`]: the same word in the
//! CLI, an event, a condition, a log line and a metric label.
//!
//! Every field has one writer. Who writes it stands at the type; the arrays of a status are replaced whole,
//! so `status.conditions` belongs to the agent alone.
//!
//! Start reading at [`drive`], then [`volume`].
#![forbid(unsafe_code)]

pub mod benchmark;
pub mod condition;
pub mod csi;
pub mod drive;
pub mod ellipsis;
pub mod event;
pub mod latency;
pub mod names;
pub mod reason;
#[cfg(feature = "serve")]
pub mod serve;
pub mod status;
pub mod storage_node;
#[cfg(feature = "testing")]
pub mod testing;
pub mod units;
pub mod volume;

pub use benchmark::{Benchmark, BenchmarkSpec, BenchmarkStatus};
pub use condition::Condition;
pub use drive::{AccessTier, Drive, DrivePhase, DriveSpec, DriveStatus, Fingerprint};
pub use latency::LatencySummary;
pub use reason::Reason;
pub use storage_node::{Device, StorageNode, StorageNodeSpec, StorageNodeStatus};
pub use units::{Bytes, Nanos};
pub use volume::{Volume, VolumePhase, VolumeSpec, VolumeStatus};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;

/// The custom resource definitions of this version, in the order in which they are installed.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![
        StorageNode::crd(),
        Drive::crd(),
        Volume::crd(),
        Benchmark::crd(),
    ]
}

/// The definitions as YAML, as they are committed in `deploy/crds.yaml`.
///
/// # Errors
/// Serialization failed.
pub fn crds_yaml() -> Result<String, serde_yaml::Error> {
    let mut text = String::from("# Generated: UPDATE=1 cargo test -p api crds\n");
    for crd in crds() {
        text.push_str("---\n");
        text.push_str(&serde_yaml::to_string(&crd)?);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crds_are_as_committed() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/crds.yaml");
        let wanted = crds_yaml().unwrap();
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, &wanted).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == wanted,
            "deploy/crds.yaml is not what the types say: UPDATE=1 cargo test -p api crds"
        );
    }
}
