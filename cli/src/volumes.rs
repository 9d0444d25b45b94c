//! `volumes`: volumes on a host without Kubernetes, over the same two CSI sockets that kubelet and the provisioner use.
//! Creating asks the controller, mounting asks this host's agent; what is mounted is kept in a table, so that a boot
//! brings it back. Deleting destroys data: it asks for the volume's name.

mod attach;
pub(crate) mod mounts;
mod shape;

use std::path::PathBuf;

use api::csi::volume_capability::access_mode::Mode;
use api::csi::volume_capability::{AccessMode, AccessType, MountVolume};
use api::csi::{CapacityRange, VolumeCapability};
use api::{Bytes, Reason, Volume};
use clap::{Args, Subcommand};
use kube::ResourceExt as _;

use crate::advice::{Refusal, Stop};
use crate::args::{Confirm, DryRun, Wait, duration, size};
use crate::session::Session;

/// Verbs of `volumes`.
#[derive(Debug, Subcommand)]
pub(crate) enum VolumesVerb {
    /// Create a volume: a drive is chosen and the bytes are reserved
    Create(CreateArgs),
    /// Mount a volume of this host, now and after every boot
    Mount(MountArgs),
    /// Grow a volume, while it is in use
    Expand(ExpandArgs),
    /// Unmount a volume of this host
    Unmount(UnmountArgs),
    /// Destroy a volume and its data
    Delete(DeleteArgs),
}

/// Flags of `volumes create`.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Its name
    #[arg(value_name = "VOLUME")]
    name: String,
    /// Its size
    #[arg(long, value_name = "SIZE", value_parser = size)]
    size: Bytes,
    /// Its class: a StorageClass as a file
    #[arg(long, value_name = "FILE")]
    class: Option<PathBuf>,
    /// On one of these nodes, first choice first
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    node: Vec<String>,
    /// For one mount alone (ReadWriteOncePod)
    #[arg(long)]
    single_writer: bool,
    #[command(flatten)]
    dry_run: DryRun,
}

/// Flags of `volumes mount`.
#[derive(Debug, Args)]
pub(crate) struct MountArgs {
    /// Its name
    #[arg(
        value_name = "VOLUME",
        required_unless_present = "all",
        requires = "path"
    )]
    name: Option<String>,
    /// Where; made if it is not there
    #[arg(value_name = "PATH")]
    path: Option<PathBuf>,
    /// Everything that the table says, as after a boot
    #[arg(long, conflicts_with_all = ["name", "path", "read_only"])]
    all: bool,
    /// Refuse writes there
    #[arg(long)]
    read_only: bool,
    /// With --all: how long an agent that is starting is waited for
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "2m")]
    timeout: std::time::Duration,
    #[command(flatten)]
    table: Table,
    #[command(flatten)]
    dry_run: DryRun,
}

/// Flags of `volumes expand`.
#[derive(Debug, Args)]
pub(crate) struct ExpandArgs {
    /// Its name
    #[arg(value_name = "VOLUME")]
    name: String,
    /// Its new size, in all
    #[arg(value_name = "SIZE", value_parser = size)]
    size: Bytes,
    #[command(flatten)]
    dry_run: DryRun,
}

/// Flags of `volumes unmount`.
#[derive(Debug, Args)]
pub(crate) struct UnmountArgs {
    /// Its name
    #[arg(value_name = "VOLUME")]
    name: String,
    /// From where [else from everywhere]
    #[arg(value_name = "PATH")]
    path: Option<PathBuf>,
    #[command(flatten)]
    table: Table,
    #[command(flatten)]
    dry_run: DryRun,
}

/// Flags of `volumes delete`.
#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Its name, whole
    #[arg(value_name = "VOLUME")]
    name: String,
    #[command(flatten)]
    confirm: Confirm,
    #[command(flatten)]
    dry_run: DryRun,
    #[command(flatten)]
    wait: Wait,
}

/// Where the mount table is.
#[derive(Debug, Args)]
pub(crate) struct Table {
    /// Table of what is mounted on this host
    #[arg(
        long,
        value_name = "FILE",
        env = "RINGPV_MOUNTS",
        hide_env_values = true
    )]
    #[arg(default_value = "/var/lib/ringpv/mounts.yaml")]
    mounts: PathBuf,
}

/// Runs `volumes`.
pub(crate) async fn run(session: &mut Session, verb: &VolumesVerb) -> Result<(), Stop> {
    match verb {
        VolumesVerb::Create(args) => shape::create(session, args).await,
        VolumesVerb::Expand(args) => shape::expand(session, args).await,
        VolumesVerb::Delete(args) => shape::delete(session, args).await,
        VolumesVerb::Mount(args) => attach::mount(session, args).await,
        VolumesVerb::Unmount(args) => attach::unmount(session, args).await,
    }
}

/// The volume of a name: its own, or the one its CSI caller gave.
async fn find(session: &mut Session, name: &str) -> Result<Volume, Stop> {
    let all: Vec<Volume> = session.all().await?;
    let found = all
        .iter()
        .find(|v| v.name_any() == name)
        .or_else(|| all.iter().find(|v| v.spec.csi_name == name));
    found.cloned().ok_or_else(|| {
        Stop::refused(
            Refusal::new(Reason::VolumeNotFound, name).next("kubectl ringpv list volumes"),
        )
    })
}

/// A mounted file system, written by one node; with `single`, by one mount.
fn capability(single: bool) -> VolumeCapability {
    let mode = if single {
        Mode::SingleNodeSingleWriter
    } else {
        Mode::SingleNodeWriter
    };
    VolumeCapability {
        access_mode: Some(AccessMode { mode: mode.into() }),
        access_type: Some(AccessType::Mount(MountVolume {
            fs_type: "xfs".to_owned(),
            ..MountVolume::default()
        })),
    }
}

/// At least so many bytes.
fn at_least(size: Bytes) -> Result<CapacityRange, Stop> {
    let required_bytes =
        i64::try_from(size.0).map_err(|_| Stop::Usage(format!("{size} is too large")))?;
    Ok(CapacityRange {
        required_bytes,
        limit_bytes: 0,
    })
}
