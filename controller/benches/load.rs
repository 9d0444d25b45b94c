//! The real process under load: CreateVolume over its socket, on its durable store, and what it then weighs.
//!
//! ```text
//! cargo bench -p controller --bench load                 # 1,000 drives, 5,000 volumes, 16 callers
//! cargo bench -p controller --bench load -- 100 500 4    # fewer of each
//! ```
#![expect(clippy::print_stdout, reason = "its figures are what it is run for")]

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use api::csi::controller_client::ControllerClient;
use api::csi::identity_client::IdentityClient;
use api::csi::volume_capability::access_mode::Mode;
use api::csi::volume_capability::{AccessMode, AccessType, MountVolume};
use api::csi::{
    CapacityRange, CreateVolumeRequest, GetCapacityRequest, ProbeRequest, VolumeCapability,
};
use api::testing::{drive, noon};
use api::{AccessTier, Drive};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::api::{Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};

/// Bytes of a drive's promise; the volumes are one gibibyte each.
const DRIVE_BYTES: u64 = 4 << 40;
const PATIENCE: Duration = Duration::from_secs(60);

struct Sizes {
    drives: u64,
    volumes: usize,
    callers: usize,
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // Without this word it is being tested, not run.
    if !words.iter().any(|word| word == "--bench") {
        return Ok(());
    }
    let mut numbers = words.iter().filter_map(|word| word.parse().ok());
    let sizes = Sizes {
        drives: numbers.next().unwrap_or(1_000),
        volumes: numbers.next().unwrap_or(5_000).try_into()?,
        callers: numbers.next().unwrap_or(16).try_into()?,
    };
    tokio::runtime::Runtime::new()?.block_on(run(&sizes))
}

/// The process, and where it is reached.
struct Controller {
    child: Child,
    directory: PathBuf,
}

impl Controller {
    #[expect(
        clippy::disallowed_methods,
        reason = "it measures the process as it is run"
    )]
    fn start() -> Result<Self> {
        // Cargo puts benchmarks into a directory beside the binaries.
        let own = std::env::current_exe()?;
        let profile = own.ancestors().nth(2).context("no target directory")?;
        let directory = profile.join("load-bench");
        std::fs::remove_dir_all(&directory).ok();
        std::fs::create_dir_all(&directory)?;
        let child = std::process::Command::new(profile.join("ringpv-controller"));
        let child = Command::from(child)
            .arg("--embedded")
            .arg(directory.join("store"))
            .arg("--csi-endpoint")
            .arg(directory.join("csi.sock"))
            .args(["--log", "warn"])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self { child, directory })
    }

    async fn channel(&self) -> Result<Channel> {
        let path = self.directory.join("csi.sock");
        let endpoint = Endpoint::try_from(format!("unix:{}", path.display()))?;
        let ready = async {
            loop {
                if let Ok(channel) = endpoint.connect().await {
                    let mut identity = IdentityClient::new(channel.clone());
                    let probe = identity.probe(ProbeRequest {}).await;
                    if probe.is_ok_and(|probe| probe.into_inner().ready == Some(true)) {
                        return channel;
                    }
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, ready)
            .await
            .context("it did not become ready")
    }

    async fn client(&self) -> Result<Client> {
        let path = self.directory.join("store").join("kubeconfig");
        let kubeconfig = Kubeconfig::read_from(path)?;
        let options = KubeConfigOptions::default();
        Ok(Client::try_from(
            Config::from_custom_kubeconfig(kubeconfig, &options).await?,
        )?)
    }

    /// Resident memory, in KiB.
    fn resident_kib(&self) -> Result<u64> {
        let id = self.child.id().context("it ended")?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        Ok(number.context("no VmRSS")?.parse()?)
    }
}

async fn run(sizes: &Sizes) -> Result<()> {
    let controller = Controller::start()?;
    let channel = controller.channel().await?;
    println!(
        "idle                       {:>8} KiB resident",
        controller.resident_kib()?
    );
    let begun = Instant::now();
    make_drives(&controller.client().await?, sizes).await?;
    println!(
        "{:>5} drives made in       {:>8.2} s",
        sizes.drives,
        begun.elapsed().as_secs_f64()
    );
    wait_for_room(&channel, sizes).await?;
    println!(
        "{:>5} drives               {:>8} KiB resident",
        sizes.drives,
        controller.resident_kib()?
    );

    let begun = Instant::now();
    let calls = stream::iter(0..sizes.volumes).map(|index| create(channel.clone(), index));
    let mut times: Vec<Duration> = calls.buffer_unordered(sizes.callers).try_collect().await?;
    let elapsed = begun.elapsed();
    times.sort_unstable();
    let rate = f64::from(u32::try_from(times.len())?) / elapsed.as_secs_f64();
    let at = |permille: usize| {
        let index = (times.len() * permille / 1_000).min(times.len().saturating_sub(1));
        times.get(index).copied().unwrap_or_default().as_secs_f64() * 1_000.0
    };
    println!("{:>5} volumes, {} callers", times.len(), sizes.callers);
    println!("  rate                     {rate:>8.0} /s");
    println!(
        "  p50, p99, max            {:>8.2} {:.2} {:.2} ms",
        at(500),
        at(990),
        at(1_000)
    );
    sleep(Duration::from_secs(2)).await;
    println!(
        "  resident                 {:>8} KiB",
        controller.resident_kib()?
    );
    Ok(())
}

async fn make_drives(client: &Client, sizes: &Sizes) -> Result<()> {
    let drives: Api<Drive> = Api::all(client.clone());
    let made = stream::iter(0..sizes.drives).map(|index| make_drive(&drives, index));
    made.buffer_unordered(sizes.callers).try_collect().await
}

async fn make_drive(drives: &Api<Drive>, index: u64) -> Result<()> {
    let name = format!("{index:08x}-0000-8000-8000-000000000000");
    let us = 80 + index % 53;
    let tier = if index.is_multiple_of(2) {
        AccessTier::Hot
    } else {
        AccessTier::Warm
    };
    let mut object = drive(&name)
        .on(&format!("node-{:03}", index / 10))
        .tier(tier)
        .holds(DRIVE_BYTES)
        .reads(us * 1_000, us * 3_000, 1_000, noon())
        .build();
    let status = object.status.take();
    object.metadata.uid = None;
    object.metadata.resource_version = None;
    object.metadata.finalizers = None;
    drives.create(&PostParams::default(), &object).await?;
    let patch = Patch::Merge(serde_json::json!({ "status": status }));
    drives
        .patch_status(&name, &PatchParams::default(), &patch)
        .await?;
    Ok(())
}

/// Until the controller has seen and guarded every drive.
async fn wait_for_room(channel: &Channel, sizes: &Sizes) -> Result<()> {
    let mut client = ControllerClient::new(channel.clone());
    let wanted = i64::try_from(DRIVE_BYTES * sizes.drives)?;
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let answer = client
            .get_capacity(GetCapacityRequest::default())
            .await?
            .into_inner();
        if answer.available_capacity == wanted {
            return Ok(());
        }
        sleep(Duration::from_millis(100)).await;
    }
    bail!("the drives did not become usable")
}

async fn create(channel: Channel, index: usize) -> Result<Duration> {
    let request = CreateVolumeRequest {
        name: format!("pvc-{index:08x}-1111-2222-3333-444455556666"),
        capacity_range: Some(CapacityRange {
            required_bytes: 1 << 30,
            limit_bytes: 0,
        }),
        volume_capabilities: vec![VolumeCapability {
            access_mode: Some(AccessMode {
                mode: Mode::SingleNodeWriter.into(),
            }),
            access_type: Some(AccessType::Mount(MountVolume::default())),
        }],
        ..CreateVolumeRequest::default()
    };
    let begun = Instant::now();
    ControllerClient::new(channel)
        .create_volume(request)
        .await?;
    Ok(begun.elapsed())
}
