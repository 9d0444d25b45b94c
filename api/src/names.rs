//! Every name that two processes must agree on: group, labels, finalizers, field managers, topology keys.

use sha2::{Digest as _, Sha256};

/// API group of all custom resources.
pub const GROUP: &str = "ringpv.io";
/// The one served version.
pub const VERSION: &str = "v1alpha1";
/// CSI driver name, as in `CSIDriver` and `GetPluginInfo`.
pub const DRIVER: &str = "ringpv.io";
/// Topology segment key; its value is the node's name.
pub const TOPOLOGY_NODE: &str = "ringpv.io/node";

/// Finalizer of a Drive held by the leading controller while a Volume names the drive.
pub const FINALIZER_PLACEMENT: &str = "ringpv.io/placement";
/// Finalizer of a Drive and of a Volume, held by the agent while it has something mounted or on disk for it.
pub const FINALIZER_DEVICE: &str = "ringpv.io/device";

/// Field manager and event source of the agent.
pub const MANAGER_AGENT: &str = "ringpv-agent";
/// Field manager and event source of the controller.
pub const MANAGER_CONTROLLER: &str = "ringpv-controller";
/// Field manager of the command line.
pub const MANAGER_CLI: &str = "kubectl-ringpv";

/// Label: the node of a Drive, Volume or Benchmark, so that an agent can watch its own alone.
pub const LABEL_NODE: &str = "ringpv.io/node";
/// Label: the Drive of a Volume or Benchmark.
pub const LABEL_DRIVE: &str = "ringpv.io/drive";
/// Prefix of all labels that RingPV sets itself; people's labels may not start with it.
pub const LABEL_PREFIX: &str = "ringpv.io/";

/// Namespace of leases and events.
pub const NAMESPACE: &str = "ringpv";
/// Name of the controllers' Lease.
pub const LEASE_CONTROLLER: &str = "ringpv-controller";
/// Prefix of an agent's Lease; the node's name follows.
pub const LEASE_AGENT_PREFIX: &str = "ringpv-agent-";

/// Class parameter: ordered, comma-separated access tiers, first choice first.
pub const PARAM_ACCESS_TIER: &str = "access-tier";
/// Class parameter: at most one volume of a group on one drive.
pub const PARAM_SPREAD_ID: &str = "spread-id";
/// Class parameter: a label selector over Drives.
pub const PARAM_DRIVE_SELECTOR: &str = "drive-selector";
/// Class parameter: highest acceptable read p99 of a drive, a duration such as `500us`.
pub const PARAM_MAX_READ_LATENCY_P99: &str = "max-read-latency-p99";
/// Class parameter: `latency=40,capacity=30,tier=20,volumes=10`.
pub const PARAM_WEIGHTS: &str = "weights";
/// Class parameter: `strict` (default) or `best-effort`.
pub const PARAM_CAPACITY_ENFORCEMENT: &str = "capacity-enforcement";

/// What the label of a drive's file system begins with; [`cluster_tag`] follows. XFS labels hold 12 bytes.
pub const FILESYSTEM_LABEL_PREFIX: &str = "rpv:";

/// Key of an inline ephemeral volume's attributes: its size, such as `5Gi`. All class parameters may stand beside it.
pub const PARAM_SIZE: &str = "size";

/// Annotation of a Drive that `adopt` made before anybody could read the drive's record: the access tier that it guessed.
/// While the Drive says that and no more, what the record on the drive says is right, and the agent leaves it alone.
pub const ANNOTATION_GUESSED_TIER: &str = "ringpv.io/guessed-tier";
/// Annotation of a Volume that `adopt` made: the incarnation in the record on the drive ([`crate::storage_node::Orphan`])
/// that it takes over. Without it a new Volume never gets the data of an earlier one of its name.
pub const ANNOTATION_ADOPTS: &str = "ringpv.io/adopts";

/// Key of the volume context of NodeStageVolume and NodePublishVolume: the drive that the volume is on. A caller that
/// knows it is not given a volume of the same name on another drive while no API answers.
pub const CONTEXT_DRIVE: &str = "ringpv.io/drive";
/// Key of the same: the incarnation, the UID of the Volume object, that the caller means. Another volume of the name is
/// refused, unless it has adopted that one's data.
pub const CONTEXT_INCARNATION: &str = "ringpv.io/incarnation";

/// Longest DNS label, in bytes.
const DNS_LABEL_MAX: usize = 63;

/// Whether `name` is an RFC 1123 DNS label.
#[must_use]
pub fn is_dns_label(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !name.is_empty()
        && name.len() <= DNS_LABEL_MAX
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// The name of the Volume for a CSI name: the name itself where it is a DNS label, else `v-` and 40 hex digits
/// of its SHA-256. The CSI name stands in `spec.csiName` and is compared, so a clash of hashes is refused.
#[must_use]
pub fn volume_name(csi_name: &str) -> String {
    if is_dns_label(csi_name) && !csi_name.starts_with("v-") {
        return csi_name.to_owned();
    }
    let mut name = String::from("v-");
    for byte in Sha256::digest(csi_name.as_bytes()).iter().take(20) {
        name.push_str(&format!("{byte:02x}"));
    }
    name
}

/// A cluster's id in 8 hex digits: short enough for a file system's label, which tells whose a drive is without
/// mounting it.
#[must_use]
pub fn cluster_tag(cluster_id: &str) -> String {
    let mut tag = String::with_capacity(8);
    for byte in Sha256::digest(cluster_id.as_bytes()).iter().take(4) {
        tag.push_str(&format!("{byte:02x}"));
    }
    tag
}

/// The label of the file system of each drive of a cluster.
#[must_use]
pub fn filesystem_label(cluster_id: &str) -> String {
    format!("{FILESYSTEM_LABEL_PREFIX}{}", cluster_tag(cluster_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_fit_into_xfs_and_differ_between_clusters() {
        let label = filesystem_label("7d9a1c1e-0000-4000-8000-000000000002");
        assert_eq!(label.len(), 12);
        assert_ne!(
            label,
            filesystem_label("7d9a1c1e-0000-4000-8000-000000000003")
        );
    }

    #[test]
    fn volume_names() {
        assert_eq!(volume_name("pvc-1b2c"), "pvc-1b2c");
        let odd = volume_name("Sanity test/ü");
        assert!(is_dns_label(&odd), "{odd}");
        assert_ne!(odd, volume_name("Sanity test/u"));
        // A caller cannot name a volume so that it meets somebody else's hash.
        assert_ne!(volume_name(&odd), odd);
        assert!(is_dns_label(&volume_name(&"x".repeat(128))));
    }
}
