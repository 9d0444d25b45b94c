//! Inline ephemeral volumes: promised by the pod itself, so they reach only its node, and live only as long as it.
//!
//! ```text
//!   publish ─► Volume without a drive ─► the leader fills the drive in ─► directory, limits, mount
//!   unpublish ─► unmounted ─► spec.release, deleted ─► the trash, as any released volume
//! ```
//! The pod's own words are the warrant for the release: it asked for a volume that goes with it.

use std::collections::BTreeMap;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use api::names::{
    FINALIZER_DEVICE, LABEL_NODE, PARAM_CAPACITY_ENFORCEMENT, PARAM_SIZE, PARAM_SPREAD_ID,
};
use api::serve::faults;
use api::volume::{CapacityEnforcement, FsType};
use api::{Bytes, Reason, Volume, VolumeSpec};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::json;
use tonic::{Code, Status};

use super::refusal::Refusal;
use super::service::Volumes;
use super::subject::{Meant, Subject};

/// How long a pod waits for its drive. The kubelet asks again, so this is no end.
const PLACED_WITHIN: Duration = Duration::from_secs(30);
/// Prefix of what the kubelet adds to a volume's attributes.
const KUBELET_PREFIX: &str = "csi.storage.k8s.io/";
/// The kubelet's word that a volume is an inline ephemeral one.
const EPHEMERAL: &str = "csi.storage.k8s.io/ephemeral";
/// A capacity is a multiple of this, as a quota's limit is.
const CAPACITY_GRAIN_BYTES: u64 = block::quota::LIMIT_GRAIN_BYTES;

/// What a pod wrote of its volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    capacity_bytes: u64,
    capacity_enforcement: CapacityEnforcement,
    single_writer: bool,
    parameters: BTreeMap<String, String>,
}

/// Whether a publication is of an inline ephemeral volume.
#[must_use]
pub fn is_asked(context: &BTreeMap<String, String>) -> bool {
    context.get(EPHEMERAL).is_some_and(|word| word == "true")
}

/// Whether the id of a volume is the kubelet's own for an inline one: `csi-` and the SHA-256 of the pod and its volume. (source:
/// pkg/volume/csi/csi_mounter.go of Kubernetes)
#[must_use]
pub fn is_handle(id: &str) -> bool {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let sum = id.strip_prefix("csi-");
    sum.is_some_and(|sum| sum.len() == 64 && sum.bytes().all(hex))
}

/// A refusal once there is a Volume, by a code that the kubelet does not take for final: after a final one it would not ask
/// to unpublish when the pod goes, and the Volume would stay. (source: isFinalError in pkg/volume/csi/csi_client.go of
/// Kubernetes)
#[must_use]
pub fn not_final(refusal: Refusal) -> Status {
    let status = Status::from(refusal);
    let tried_again = [
        Code::Cancelled,
        Code::DeadlineExceeded,
        Code::Unavailable,
        Code::ResourceExhausted,
        Code::Aborted,
    ];
    if tried_again.contains(&status.code()) {
        return status;
    }
    Status::unavailable(status.message())
}

impl Wish {
    /// Reads the attributes of a pod's volume: its size, and the parameters that a class could have.
    ///
    /// # Errors
    /// No size, or a value without sense.
    pub fn read(context: &BTreeMap<String, String>, single_writer: bool) -> Result<Self, Refusal> {
        let invalid = |message: String| Refusal::new(Reason::InvalidParameter, message);
        let size = context.get(PARAM_SIZE).ok_or_else(|| {
            invalid(format!(
                "an inline volume needs its size among its volumeAttributes: {PARAM_SIZE}: 5Gi"
            ))
        })?;
        let Bytes(size) = Bytes::from_str(size).map_err(|error| invalid(error.to_string()))?;
        let capacity_bytes = size
            .checked_next_multiple_of(CAPACITY_GRAIN_BYTES)
            .filter(|bytes| *bytes > 0)
            .ok_or_else(|| invalid(format!("{PARAM_SIZE}: {size} bytes is no size of a volume")))?;
        let word = context.get(PARAM_CAPACITY_ENFORCEMENT);
        let capacity_enforcement = match word.map_or("strict", String::as_str) {
            "strict" => CapacityEnforcement::Strict,
            "best-effort" => CapacityEnforcement::BestEffort,
            other => {
                return Err(invalid(format!(
                    "{PARAM_CAPACITY_ENFORCEMENT}: {other:?} is neither strict nor best-effort"
                )));
            }
        };
        let is_own = |key: &str| key != PARAM_SIZE && !key.starts_with(KUBELET_PREFIX);
        Ok(Self {
            capacity_bytes,
            capacity_enforcement,
            single_writer,
            parameters: context
                .iter()
                .filter(|(key, _)| is_own(key))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
        })
    }

    /// The Volume that the leader is to place.
    fn volume(self, name: &str, handle: &str, node: &str) -> Volume {
        let spec = VolumeSpec {
            csi_name: handle.to_owned(),
            node: node.to_owned(),
            drive: None,
            capacity_bytes: self.capacity_bytes,
            fs_type: FsType::Xfs,
            capacity_enforcement: self.capacity_enforcement,
            single_writer: self.single_writer,
            ephemeral: true,
            claim: None,
            spread_id: self.parameters.get(PARAM_SPREAD_ID).cloned(),
            parameters: self.parameters,
            placement: None,
            suspended: false,
            release: false,
            move_to: None,
        };
        let mut volume = Volume::new(name, spec);
        volume
            .labels_mut()
            .insert(LABEL_NODE.to_owned(), node.to_owned());
        volume.finalizers_mut().push(FINALIZER_DEVICE.to_owned());
        volume
    }
}

/// What the leader says of a volume: its drive, or why there is none, which it asks itself again and again.
fn answer(object: Arc<Volume>) -> Option<Result<Subject, Refusal>> {
    if object.spec.drive.is_some() {
        return Some(Ok(Subject::of(object)));
    }
    let status = object.status.as_ref()?;
    let refusal = Refusal::new(status.reason?, status.message.clone());
    Some(Err(refusal))
}

impl Volumes {
    /// The inline ephemeral volume `name` of a pod, which the kubelet calls `handle`, made and placed if it is not yet.
    ///
    /// # Errors
    /// Another volume has that name, the API does not answer, or no drive was chosen in time.
    pub async fn ephemeral(
        &self,
        name: &str,
        handle: &str,
        wish: Wish,
    ) -> Result<Subject, Refusal> {
        let mut changes = self.inner.cache.changes();
        let object = match self.inner.cache.get(name) {
            Some(object) => object,
            None => Arc::new(self.create(name, handle, wish).await?),
        };
        if !object.spec.ephemeral || object.spec.node != self.inner.node {
            let message = format!("volume {name} is no inline ephemeral volume of this node");
            return Err(Refusal::new(Reason::NameConflict, message));
        }
        if object.spec.drive.is_some() {
            return Ok(Subject::of(object));
        }
        let placed = async {
            loop {
                if let Some(object) = self.inner.cache.get(name)
                    && let Some(answer) = answer(object)
                {
                    return answer;
                }
                // The sender lives as long as this service.
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let waited = tokio::time::timeout(PLACED_WITHIN, placed).await;
        waited.unwrap_or_else(|_| {
            let message = format!(
                "no controller chose a drive within {} s: none leads, or it does not come to it",
                PLACED_WITHIN.as_secs()
            );
            Err(Refusal::new(Reason::NotLeader, message))
        })
    }

    async fn create(&self, name: &str, handle: &str, wish: Wish) -> Result<Volume, Refusal> {
        if let Some(object) = self.object(name).await? {
            return Ok(object);
        }
        let params = PostParams {
            field_manager: Some(api::names::MANAGER_AGENT.to_owned()),
            ..PostParams::default()
        };
        let volume = wish.volume(name, handle, &self.inner.node);
        let api = self.api();
        let created = api.create(&params, &volume);
        match faults::around("volume.promise-inline", created).await {
            Ok(object) => Ok(object),
            Err(error) => Err(Refusal::new(Reason::ApiUnavailable, error.to_string())),
        }
    }

    /// An inline ephemeral volume that is mounted nowhere any more is released and deleted. Any other one is left alone.
    ///
    /// # Errors
    /// The API does not answer: the caller repeats it, so that no volume outlives its pod unseen.
    pub async fn release_ephemeral(&self, name: &str) -> Result<(), Refusal> {
        let object = match self.inner.cache.get(name) {
            Some(object) => Some(object),
            None => match self.object(name).await {
                Ok(object) => object.map(Arc::new),
                Err(unavailable) => {
                    let on_disk = self.on_disk(name, &Meant::default()).await;
                    return match on_disk {
                        Ok(Some(subject)) if subject.promise.record.ephemeral => Err(unavailable),
                        // An inline volume's name is its pod's alone: of two on disk none is one.
                        Ok(_) | Err(_) => Ok(()),
                    };
                }
            },
        };
        let Some(object) = object.filter(|object| object.spec.ephemeral) else {
            return Ok(());
        };
        if self.is_mounted(name).await? {
            return Ok(());
        }
        let failed = |error: kube::Error| Refusal::new(Reason::ApiUnavailable, error.to_string());
        let params = PatchParams {
            field_manager: Some(api::names::MANAGER_AGENT.to_owned()),
            ..PatchParams::default()
        };
        let uid = object.metadata.uid.clone();
        let release = json!({ "metadata": { "uid": uid }, "spec": { "release": true } });
        let (api, release) = (self.api(), Patch::Merge(&release));
        let patched = api.patch(name, &params, &release);
        match faults::around("volume.release-inline", patched).await {
            Err(kube::Error::Api(answer)) if answer.code == 404 => return Ok(()),
            patched => patched.map_err(failed)?,
        };
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid,
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match faults::around("volume.delete-inline", api.delete(name, &params)).await {
            Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(()),
            deleted => deleted.map(drop).map_err(failed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn a_pods_words() {
        let words = context(&[
            (EPHEMERAL, "true"),
            ("csi.storage.k8s.io/pod.name", "p"),
            ("size", "5Gi"),
            ("access-tier", "hot"),
        ]);
        assert!(is_asked(&words) && !is_asked(&context(&[(EPHEMERAL, "false")])));
        let volume = Wish::read(&words, true)
            .unwrap()
            .volume("csi-1", "csi-1", "n1");
        assert_eq!(volume.spec.capacity_bytes, 5 << 30);
        assert_eq!(volume.spec.parameters, context(&[("access-tier", "hot")]));
        assert!(volume.spec.ephemeral && volume.spec.single_writer && !volume.spec.release);
        assert_eq!(volume.spec.drive, None);
        assert_eq!(volume.finalizers(), [FINALIZER_DEVICE]);
    }

    #[test]
    fn sizes_and_words_without_sense() {
        for (size, capacity) in [("1", 4096), ("4097", 8192), ("1Mi", 1 << 20)] {
            let wish = Wish::read(&context(&[("size", size)]), false).unwrap();
            assert_eq!(wish.capacity_bytes, capacity);
        }
        for words in [
            context(&[]),
            context(&[("size", "much")]),
            context(&[("size", "0")]),
            context(&[("size", "18446744073709551615")]),
            context(&[("size", "1Gi"), ("capacity-enforcement", "maybe")]),
        ] {
            let refusal = Wish::read(&words, false).unwrap_err();
            assert_eq!(refusal.reason, Reason::InvalidParameter, "{words:?}");
        }
    }
}
