//! The volume part of one agent on real XFS over loop devices, asked over a real CSI socket, with the embedded API in
//! memory as its cluster. The drives are mounted by hand, so that nothing but volumes is under test.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use agent::csi::{KNOWN_CALLS, NodeService};
use agent::host::linux::Engines;
use agent::host::{Host as _, LinuxHost, MakeXfs, MountDevice};
use agent::probe::reader::Reader;
use agent::probe::sysfs::Root;
use agent::probe::{Discovery, Policy};
use agent::registry::{MountedDrive, Registry};
use agent::volumes::Volumes;
use agent::worker::Worker;
use api::csi::node_client::NodeClient;
use api::csi::volume_capability::access_mode::Mode;
use api::csi::{
    NodePublishVolumeRequest, NodeStageVolumeRequest, NodeUnpublishVolumeRequest,
    NodeUnstageVolumeRequest, VolumeCapability, volume_capability,
};
use api::serve::calls::Calls;
use api::serve::{Readiness, socket};
use api::volume::CapacityEnforcement;
use api::{Reason, Volume, VolumePhase, VolumeStatus};
use block::erase::Limiter;
use block::probe::Prober;
use block::{Backend, WhyThreads};
use controller::embedded::{AnswerBody, Embedded, Options};
use http::{Request, Response, StatusCode};
use jiff::Timestamp;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::client::Body;
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Channel;
use tower::ServiceExt as _;

use crate::csi::Csi;
use crate::loopdev::LoopDevice;

/// Name of the node.
pub const NODE: &str = "n1";
/// Bytes that each drive promises.
pub const ALLOCATABLE_BYTES: u64 = 512 << 20;
/// Size of each drive.
const DRIVE_BYTES: u64 = 640 << 20;
/// How long something may take that happens by itself.
const PATIENCE: Duration = Duration::from_secs(20);

/// A node with mounted drives.
pub struct Node {
    /// The real host.
    pub host: Arc<LinuxHost>,
    /// Its drives `d0`, `d1`, …
    pub drives: Vec<MountedDrive>,
    /// Its Volumes.
    pub api: Api<Volume>,
    client: Client,
    away: Arc<AtomicBool>,
    registry: Registry,
    stop: CancellationToken,
    // Dropped in this order: mounts and devices, then the folder with their files.
    _devices: Vec<LoopDevice>,
    dir: TempDir,
}

/// An agent's volume part that runs.
pub struct Agent {
    /// Its Node service.
    pub csi: NodeClient<Channel>,
    /// Itself.
    pub volumes: Volumes,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Node {
    /// A node with so many drives. `None`, and said so, where that cannot be.
    ///
    /// # Panics
    /// When this machine has all it takes and it fails all the same.
    #[must_use]
    pub async fn new(test: &str, drive_count: usize) -> Option<Self> {
        if let Some(why) = LoopDevice::refusal() {
            crate::skip(test, &why);
            return None;
        }
        let dir = TempDir::with_prefix("ringpv-").expect("a temporary folder");
        let host = Arc::new(LinuxHost {
            sys: "/sys".into(),
            proc: "/proc".into(),
            engines: Engines::new(Backend::Threads {
                why: WhyThreads::Asked,
            }),
            limiter: Arc::new(Limiter::unlimited()),
            discovery: nothing_discovered().await,
        });
        let registry = Registry::default();
        let (mut devices, mut drives) = (Vec::new(), Vec::new());
        for index in 0..drive_count {
            let file = dir.path().join(format!("drive-{index}"));
            let device = LoopDevice::create(&file, DRIVE_BYTES);
            let drive = mounted(&host, &device, dir.path(), index);
            registry.insert(drive.clone());
            devices.push(device);
            drives.push(drive);
        }
        let embedded = Embedded::in_memory("c1", Options::default()).expect("an API in memory");
        let away = Arc::new(AtomicBool::new(false));
        let client = client(&embedded, Arc::clone(&away));
        Some(Self {
            host,
            drives,
            api: Api::all(client.clone()),
            client,
            away,
            registry,
            stop: CancellationToken::new(),
            _devices: devices,
            dir,
        })
    }

    /// A place below the folder of the node, not made.
    #[must_use]
    pub fn place(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// From now on the API answers nobody, or again.
    pub fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    /// Starts the volume part of an agent afresh, with nothing remembered, at a socket of its own.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn agent(&self, name: &str) -> Agent {
        let host: Arc<dyn agent::host::Host> = Arc::clone(&self.host) as _;
        let registry = self.registry.clone();
        let client = self.client.clone();
        let volumes = Volumes::new(host, NODE, registry.clone(), client.clone(), Timestamp::now);
        let path = self.place(&format!("{name}.sock"));
        let socket = socket::listen(&path, socket::OWNER)
            .await
            .expect("a socket");
        let calls = Calls::new(
            &mut prometheus_client::registry::Registry::default(),
            &KNOWN_CALLS,
        );
        let service = NodeService::new(NODE, volumes.clone(), registry, client);
        let ready = Readiness::waiting("");
        ready.set_ready();
        let stop = self.stop.child_token();
        let running = tokio::spawn(volumes.clone().run(stop.clone()));
        tokio::spawn(agent::csi::serve(
            socket,
            service,
            ready,
            calls,
            stop.clone(),
        ));
        let channel = Csi::at(&path).channel().await.expect("somebody listens");
        Agent {
            csi: NodeClient::new(channel),
            volumes,
            stop,
            running,
        }
    }

    /// Creates a Volume on drive `d0`.
    ///
    /// # Panics
    /// When the API refuses.
    pub async fn volume(&self, name: &str, bytes: u64) -> Volume {
        self.create(
            api::testing::volume(name)
                .on(NODE, "d0")
                .bytes(bytes)
                .build(),
        )
        .await
    }

    /// Creates a Volume as it is, best-effort where this kernel has no quota.
    ///
    /// # Panics
    /// When the API refuses.
    pub async fn create(&self, mut volume: Volume) -> Volume {
        if !self.host.quota_supported() {
            volume.spec.capacity_enforcement = CapacityEnforcement::BestEffort;
        }
        (volume.metadata.uid, volume.metadata.resource_version) = (None, None);
        let created = self.api.create(&PostParams::default(), &volume).await;
        created.expect("the API takes the Volume")
    }

    /// Changes a Volume's spec.
    ///
    /// # Panics
    /// When the API refuses.
    pub async fn change(&self, name: &str, spec: serde_json::Value) {
        let patch = Patch::Merge(json!({ "spec": spec }));
        let changed = self.api.patch(name, &PatchParams::default(), &patch).await;
        changed.expect("the API takes the change");
    }

    /// Deletes a Volume, with or without the word that its data may go.
    ///
    /// # Panics
    /// When the API refuses.
    pub async fn delete(&self, name: &str, release: bool) {
        if release {
            self.change(name, json!({ "release": true })).await;
        }
        let deleted = self.api.delete(name, &DeleteParams::default()).await;
        deleted.expect("the API takes the deletion");
    }

    /// Waits until a Volume is as wanted; `None` stands for its absence.
    ///
    /// # Panics
    /// When it is not in time.
    pub async fn until(
        &self,
        name: &str,
        wanted: impl Fn(Option<&Volume>) -> bool,
    ) -> Option<Volume> {
        let waiting = async {
            loop {
                let found = self.api.get_opt(name).await.expect("the API answers");
                if wanted(found.as_ref()) {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if let Ok(found) = tokio::time::timeout(PATIENCE, waiting).await {
            return found;
        }
        let found = self.api.get_opt(name).await;
        panic!("volume {name} did not become what it should: {found:#?}");
    }

    /// Waits until a Volume is gone.
    ///
    /// # Panics
    /// When it is not in time.
    pub async fn gone(&self, name: &str) {
        self.until(name, |volume| volume.is_none()).await;
    }

    /// Data directory of a volume on drive `d0`, whether there or not.
    #[must_use]
    pub fn data(&self, volume: &str) -> PathBuf {
        self.drives
            .first()
            .map(|drive| drive.volume_dir(volume))
            .unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
        let below = |entry: &agent::host::MountEntry| entry.target.starts_with(self.dir.path());
        for entry in self.host.mounts().unwrap_or_default().iter().rev() {
            if below(entry) {
                crate::loopdev::unmount(&entry.target);
            }
        }
    }
}

/// Devices are no part of this: none is looked at.
async fn nothing_discovered() -> Discovery {
    let reader = Reader {
        root: Root::default(),
        policy: Policy {
            node: NODE.to_owned(),
            cluster_id: "c1".to_owned(),
            drive_bytes_min: 0,
            allow_loop: true,
            mount_root: PathBuf::new(),
        },
        only: Some(BTreeSet::new()),
    };
    let prober = Prober::start(false).expect("a prober");
    let started = Discovery::start(reader, prober, BTreeSet::new()).await;
    started.expect("sysfs can be read")
}

/// A new drive, mounted and laid out as the agent does it.
fn mounted(host: &LinuxHost, device: &LoopDevice, dir: &Path, index: usize) -> MountedDrive {
    // XFS mounts no two file systems of one id, and tests run beside each other.
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let request = MakeXfs {
        device: device.name().to_owned(),
        drive_id: format!("{:08x}-0000-8000-8000-{serial:012}", std::process::id()),
        label: "rpv:test".to_owned(),
        size_bytes: DRIVE_BYTES,
    };
    host.make_xfs(&request).expect("mkfs.xfs");
    let id = format!("d{index}");
    let target = dir.join("mnt").join(&id);
    let quota = host.quota_supported();
    let mount = MountDevice {
        device: device.name().to_owned(),
        target: target.clone(),
        quota,
        untouched: false,
    };
    host.mount(&mount).expect("a mount");
    let root = target.join(format!(".drive-{id}"));
    host.symlink(".", &root).expect("the guard link");
    for name in [".ringpv", "volumes", ".trash"] {
        host.create_dir(&root.join(name), 0o755)
            .expect("a directory");
    }
    MountedDrive {
        worker: Worker::new(&id),
        id: id.into(),
        device: device.name().into(),
        root: root.into(),
        quota_enforced: quota,
        allocatable_bytes: ALLOCATABLE_BYTES,
        read_only: false,
    }
}

/// A client of the API that hears nothing while it is away.
fn client(embedded: &Embedded, away: Arc<AtomicBool>) -> Client {
    let service = embedded.service();
    let through = tower::service_fn(move |request: Request<Body>| {
        let (service, away) = (service.clone(), away.load(Ordering::SeqCst));
        async move {
            if away {
                let mut refused = Response::new(AnswerBody::default());
                *refused.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                return Ok::<_, Infallible>(refused);
            }
            service.oneshot(request).await
        }
    });
    Client::new(through, "ringpv")
}

/// The reason of a refusal.
#[must_use]
pub fn reason<T: std::fmt::Debug>(answer: Result<T, Status>) -> Option<Reason> {
    answer
        .err()
        .and_then(|status| api::status::reason_of(&status))
}

/// A capability of a mounted volume.
#[must_use]
pub fn capability(mode: Mode) -> Option<VolumeCapability> {
    Some(VolumeCapability {
        access_mode: Some(volume_capability::AccessMode { mode: mode.into() }),
        access_type: Some(volume_capability::AccessType::Mount(
            volume_capability::MountVolume::default(),
        )),
    })
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

impl Agent {
    /// Ends it, and waits for that.
    pub async fn stop(self) {
        self.stop.cancel();
        self.running.await.ok();
    }

    /// NodeStageVolume.
    ///
    /// # Errors
    /// As the agent answers.
    pub async fn stage(&self, volume: &str, path: &Path) -> Result<(), Status> {
        self.stage_meant(volume, path, &[]).await
    }

    /// NodeStageVolume by a caller that knows more of the volume than its name.
    ///
    /// # Errors
    /// As the agent answers.
    pub async fn stage_meant(
        &self,
        volume: &str,
        path: &Path,
        context: &[(&str, &str)],
    ) -> Result<(), Status> {
        let request = NodeStageVolumeRequest {
            volume_id: volume.to_owned(),
            staging_target_path: text(path),
            volume_capability: capability(Mode::SingleNodeWriter),
            volume_context: context
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            ..Default::default()
        };
        self.csi.clone().node_stage_volume(request).await.map(drop)
    }

    /// NodePublishVolume.
    ///
    /// # Errors
    /// As the agent answers.
    pub async fn publish(
        &self,
        volume: &str,
        paths: (&Path, &Path),
        readonly: bool,
        mode: Mode,
    ) -> Result<(), Status> {
        let request = NodePublishVolumeRequest {
            volume_id: volume.to_owned(),
            staging_target_path: text(paths.0),
            target_path: text(paths.1),
            volume_capability: capability(mode),
            readonly,
            ..Default::default()
        };
        self.csi
            .clone()
            .node_publish_volume(request)
            .await
            .map(drop)
    }

    /// NodePublishVolume of an inline ephemeral volume.
    ///
    /// # Errors
    /// As the agent answers.
    pub async fn publish_inline(
        &self,
        volume: &str,
        target: &Path,
        attributes: &[(&str, &str)],
    ) -> Result<(), Status> {
        let mut volume_context: BTreeMap<String, String> = attributes
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        volume_context.insert("csi.storage.k8s.io/ephemeral".to_owned(), "true".to_owned());
        let request = NodePublishVolumeRequest {
            volume_id: volume.to_owned(),
            target_path: text(target),
            volume_capability: capability(Mode::SingleNodeWriter),
            volume_context,
            ..Default::default()
        };
        self.csi
            .clone()
            .node_publish_volume(request)
            .await
            .map(drop)
    }

    /// NodeUnpublishVolume.
    ///
    /// # Errors
    /// As the agent answers.
    pub async fn unpublish(&self, volume: &str, target: &Path) -> Result<(), Status> {
        let request = NodeUnpublishVolumeRequest {
            volume_id: volume.to_owned(),
            target_path: text(target),
        };
        self.csi
            .clone()
            .node_unpublish_volume(request)
            .await
            .map(drop)
    }

    /// NodeUnstageVolume.
    ///
    /// # Errors
    /// As the agent answers.
    pub async fn unstage(&self, volume: &str, path: &Path) -> Result<(), Status> {
        let request = NodeUnstageVolumeRequest {
            volume_id: volume.to_owned(),
            staging_target_path: text(path),
        };
        self.csi
            .clone()
            .node_unstage_volume(request)
            .await
            .map(drop)
    }
}

/// Why a volume stands as it does.
#[must_use]
pub fn why(volume: Option<&Volume>) -> Option<Reason> {
    volume?.status.as_ref()?.reason
}

/// The capacity that a volume's status says, in bytes.
#[must_use]
pub fn capacity(volume: Option<&Volume>) -> Option<u64> {
    volume?.status.as_ref()?.capacity_bytes
}

/// A volume's phase.
#[must_use]
pub fn phase(volume: Option<&Volume>) -> Option<VolumePhase> {
    Some(volume?.status.as_ref()?.phase)
}

/// Waits for a phase, and gives the status.
///
/// # Panics
/// When it does not come.
pub async fn in_phase(node: &Node, volume: &str, wanted: VolumePhase) -> VolumeStatus {
    let found = node.until(volume, |v| phase(v) == Some(wanted)).await;
    found
        .and_then(|volume| volume.status)
        .expect("a volume with a status")
}
