//! Mounting and unmounting on this host, as kubelet would: stage once, publish at each path; the table remembers.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use api::Reason;
use api::csi::{
    NodePublishVolumeRequest, NodeStageVolumeRequest, NodeUnpublishVolumeRequest,
    NodeUnstageVolumeRequest,
};
use kube::ResourceExt as _;

use crate::advice::{Hint, Refusal, Stop};
use crate::session::Session;
use crate::socket;

use super::mounts::{Mount, Mounts, staging};
use super::{MountArgs, UnmountArgs, capability, find};

/// How often an agent that is starting is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// `volumes mount`.
pub(super) async fn mount(session: &mut Session, args: &MountArgs) -> Result<(), Stop> {
    let file = absolute(&args.table.mounts)?;
    match (&args.name, &args.path) {
        (Some(name), Some(path)) => one(session, args, &file, name, path).await,
        _ => all(session, args, &file).await,
    }
}

async fn one(
    session: &mut Session,
    args: &MountArgs,
    file: &Path,
    name: &str,
    path: &Path,
) -> Result<(), Stop> {
    let volume = find(session, name).await?;
    let mount = Mount {
        volume: volume.name_any(),
        path: absolute(path)?,
        read_only: args.read_only,
        single_writer: Some(volume.spec.single_writer),
        drive: volume.spec.drive.clone(),
        incarnation: volume.uid(),
    };
    let before = Mounts::read(file)?;
    let mut table = before.clone();
    let news = table.add(mount.clone()).map_err(Stop::refused)?;
    if news {
        empty(&mount.path)?;
    }
    let shown = mount.path.display();
    if args.dry_run.dry_run {
        session.screen.line(format!(
            "volume {} would be mounted at {shown}",
            mount.volume
        ))?;
        return session.hint(&Hint::DryRun);
    }
    attach(session, file, &mount, volume.spec.single_writer).await?;
    if table != before {
        table.write(file)?;
    }
    let how = if mount.read_only { ", read-only" } else { "" };
    Ok(session
        .screen
        .line(format!("volume {} mounted at {shown}{how}", mount.volume))?)
}

/// A path that stays the same wherever it is read.
fn absolute(path: &Path) -> Result<PathBuf, Stop> {
    let path = std::path::absolute(path)
        .with_context(|| format!("cannot tell where {} is", path.display()))?;
    if path
        .components()
        .any(|c| matches!(c, std::path::Component::ParentDir))
    {
        return Err(Stop::Usage(format!(
            "{}: give the path without ..",
            path.display()
        )));
    }
    Ok(path)
}

/// A mount hides what is in the directory; somebody who has files there did not mean that.
fn empty(path: &Path) -> Result<(), Stop> {
    let mut entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(Stop::Failed(
                anyhow::Error::from(error).context(format!("cannot look into {}", path.display())),
            ));
        }
    };
    if entries.next().is_none() {
        return Ok(());
    }
    Err(Stop::refused(
        Refusal::new(Reason::InvalidArgument, path.display().to_string())
            .detail("the directory is not empty; the mount would hide what is in it")
            .next("name an empty directory, or one that is not there yet"),
    ))
}

/// Stages and publishes; both do nothing where it is so already.
async fn attach(
    session: &mut Session,
    file: &Path,
    mount: &Mount,
    single_writer: bool,
) -> Result<(), Stop> {
    let staging = staging(file, &mount.volume);
    let parent = mount.path.parent().unwrap_or(Path::new("/"));
    for directory in [staging.as_path(), parent] {
        match std::fs::create_dir_all(directory) {
            // It is there, and even if a dead drive is mounted on it: the agent says what is the matter.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => made.with_context(|| format!("cannot make {}", directory.display()))?,
        }
    }
    let capability = capability(single_writer);
    let mut node = socket::node(session).await?;
    node.node_stage_volume(NodeStageVolumeRequest {
        volume_id: mount.volume.clone(),
        staging_target_path: text(&staging)?,
        volume_capability: Some(capability.clone()),
        volume_context: mount.context(),
        ..NodeStageVolumeRequest::default()
    })
    .await?;
    node.node_publish_volume(NodePublishVolumeRequest {
        volume_id: mount.volume.clone(),
        staging_target_path: text(&staging)?,
        target_path: text(&mount.path)?,
        volume_capability: Some(capability),
        readonly: mount.read_only,
        volume_context: mount.context(),
        ..NodePublishVolumeRequest::default()
    })
    .await?;
    Ok(())
}

fn text(path: &Path) -> Result<String, Stop> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| Stop::Usage(format!("{} is not UTF-8", path.display())))
}

/// Everything in the table, without the API: the table and the drives know enough. An agent that is starting is waited
/// for; a volume that fails, or whose drive does not answer, does not delay the others.
async fn all(session: &mut Session, args: &MountArgs, file: &Path) -> Result<(), Stop> {
    let table = Mounts::read(file)?;
    if args.dry_run.dry_run {
        for mount in &table.mounts {
            session.screen.line(format!(
                "volume {} would be mounted at {}",
                mount.volume,
                mount.path.display()
            ))?;
        }
        return session.hint(&Hint::DryRun);
    }
    let deadline = tokio::time::Instant::now() + args.timeout;
    let (mut failed, mut pending) = (Vec::new(), table.mounts.iter().collect::<Vec<_>>());
    while !pending.is_empty() {
        let patient = tokio::time::Instant::now() < deadline;
        let mut waiting = Vec::new();
        for mount in pending {
            let shown = format!("volume {} at {}", mount.volume, mount.path.display());
            match attach(session, file, mount, table.is_single_writer(mount)).await {
                Ok(()) => session.screen.line(format!("{shown} mounted"))?,
                Err(stop) if patient && may_pass(&stop) => waiting.push(mount),
                Err(stop) => failed.push(format!("{shown}: {}", stop.lines().join("\n"))),
            }
        }
        if !waiting.is_empty() {
            tokio::time::sleep(AGAIN).await;
        }
        pending = waiting;
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(Stop::Failed(anyhow::anyhow!(failed.join("\n"))))
}

/// Whether waiting may help: the processes are starting, or the drive is not mounted yet.
fn may_pass(stop: &Stop) -> bool {
    match stop {
        Stop::Failed(_) | Stop::FailedFor(_) => true,
        Stop::Refused(refusals) => refusals.iter().any(|r| {
            matches!(
                r.reason,
                Reason::SocketUnavailable
                    | Reason::NoCluster
                    | Reason::DriveUnavailable
                    | Reason::OperationPending
                    | Reason::DriveNotFound
            )
        }),
        Stop::Usage(_) => false,
    }
}

/// `volumes unmount`.
pub(super) async fn unmount(session: &mut Session, args: &UnmountArgs) -> Result<(), Stop> {
    let file = absolute(&args.table.mounts)?;
    let mut table = Mounts::read(&file)?;
    // The name suffices where the API is away or the object is gone: the table knows the id.
    let volume = match table.of(&args.name).as_slice() {
        [] => find(session, &args.name).await?.name_any(),
        [known, ..] => known.volume.clone(),
    };
    let path = args.path.as_deref().map(absolute).transpose()?;
    let all = table.of(&volume);
    let paths: Vec<_> = match path {
        Some(path) => vec![path],
        None => all.iter().map(|m| m.path.clone()).collect(),
    };
    if paths.is_empty() {
        return Err(Stop::refused(
            Refusal::new(Reason::NotPublished, format!("volume {volume}"))
                .detail("this host's table does not say that it is mounted anywhere")
                .next("kubectl ringpv list volumes -o wide"),
        ));
    }
    if args.dry_run.dry_run {
        for path in &paths {
            session.screen.line(format!(
                "volume {volume} would be unmounted from {}",
                path.display()
            ))?;
        }
        return session.hint(&Hint::DryRun);
    }
    let mut node = socket::node(session).await?;
    for path in &paths {
        node.node_unpublish_volume(NodeUnpublishVolumeRequest {
            volume_id: volume.clone(),
            target_path: text(path)?,
        })
        .await?;
        table.remove(&volume, path);
        table.write(&file)?;
        session
            .screen
            .line(format!("volume {volume} unmounted from {}", path.display()))?;
    }
    if !table.of(&volume).is_empty() {
        return Ok(());
    }
    let staging = staging(&file, &volume);
    node.node_unstage_volume(NodeUnstageVolumeRequest {
        volume_id: volume,
        staging_target_path: text(&staging)?,
    })
    .await?;
    match std::fs::remove_dir(&staging) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Stop::Failed(
            anyhow::Error::from(error).context(format!("cannot remove {}", staging.display())),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_files_is_not_hidden() {
        let dir = tempfile::tempdir().unwrap();
        assert!(empty(dir.path()).is_ok());
        assert!(empty(&dir.path().join("not there")).is_ok());
        std::fs::write(dir.path().join("file"), "x").unwrap();
        assert_eq!(empty(dir.path()).unwrap_err().exit_code(), 1);
    }

    #[test]
    fn paths_are_absolute() {
        assert!(absolute(Path::new("here")).unwrap().is_absolute());
        assert!(matches!(
            absolute(Path::new("/a/../b")),
            Err(Stop::Usage(_))
        ));
    }

    #[test]
    fn only_what_may_pass_is_waited_for() {
        let stop = |reason| Stop::refused(Refusal::new(reason, ""));
        assert!(may_pass(&stop(Reason::DriveUnavailable)));
        assert!(!may_pass(&stop(Reason::OtherNode)));
    }
}
