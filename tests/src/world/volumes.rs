//! What a simulated agent does about its volumes, by itself and on CSI calls: the real look, plan and apply.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent::registry::MountedDrive;
use agent::volumes::plan::{End, Wanted, end_without_drive};
use agent::volumes::service::{carry_out, unmount};
use agent::volumes::status::{self, Found, Memory};
use agent::volumes::{Refusal, Subject, reconcile};
use api::names::FINALIZER_DEVICE;
use api::{Reason, Volume};
use serde_json::json;

use super::World;
use super::node::{Node, Process, named};
use crate::host::SimHost;

/// Entries of a trash that go in one step.
const REMOVED_AT_ONCE: u64 = 1000;

impl World {
    /// One turn of any volume of a machine.
    pub(super) fn volume_turn(&mut self, node: usize) {
        let process = self.nodes.get(node).and_then(|node| node.process.as_ref());
        let names: Vec<String> = process
            .map(|p| p.volumes.keys().cloned().collect())
            .unwrap_or_default();
        if let Some(name) = self.chance.pick(names) {
            self.turn_of_volume(node, &name);
        }
    }

    /// Brings one volume to where it should be.
    pub(super) fn turn_of_volume(&mut self, node: usize, name: &str) {
        let Some(at) = self.nodes.get(node) else {
            return;
        };
        let Some((volume, mounted, host)) = at.subject(name) else {
            return;
        };
        let subject = Subject::of(Arc::clone(&volume));
        let held = volume
            .metadata
            .finalizers
            .iter()
            .flatten()
            .any(|one| one == FINALIZER_DEVICE);
        let outcome = match (volume.metadata.deletion_timestamp.is_some(), held) {
            (true, false) => return,
            (false, false) => return self.volume_finalizer(&volume, true),
            (true, true) => match self.end(&volume, &subject, mounted.as_ref(), &host) {
                Ok(Some(found)) => Ok(found),
                Ok(None) => return self.volume_finalizer(&volume, false),
                Err(refusal) => Err(refusal),
            },
            (false, true) => match &mounted {
                Some(drive) => reconcile::provisioned(&host, drive, &subject.promise, true)
                    .map(|stands| Found::Stands(Box::new(stands))),
                None => Err(Refusal::new(Reason::DriveUnavailable, "not mounted")),
            },
        };
        if host.is_dead() || self.faults.api_fails(&mut self.chance) {
            return;
        }
        let found = outcome.unwrap_or_else(Found::Refused);
        let old = volume.status.clone().unwrap_or_default();
        let new = status::status(name, &old, &Memory::default(), &found, self.timestamp());
        if let Some(patch) = status::patch(&old, &new) {
            self.api.volumes.patch(name, &patch).ok();
        }
    }

    /// The end of a deleted volume; `None`: its object may go.
    fn end(
        &mut self,
        volume: &Volume,
        subject: &Subject,
        mounted: Option<&MountedDrive>,
        host: &SimHost,
    ) -> Result<Option<Found>, Refusal> {
        let (Some(drive), Some(name)) = (mounted, &subject.drive) else {
            let drive = subject
                .drive
                .as_ref()
                .and_then(|name| self.api.drives.get(name));
            let missing = Refusal::new(Reason::DriveUnavailable, "not mounted");
            end_without_drive(drive).ok_or(missing)?;
            self.person.orphans.insert(named(volume));
            return Ok(None);
        };
        match reconcile::ended(host, drive, &subject.promise, volume.spec.release)? {
            End::Act(_) => Err(Refusal::new(Reason::Internal, name.clone())),
            End::LetGo => Ok(None),
            End::Empty(names) => {
                use agent::host::Host as _;
                for one in names {
                    host.remove_tree(&drive.trash_dir().join(one), REMOVED_AT_ONCE)?;
                }
                Ok(Some(Found::Releasing))
            }
        }
    }

    fn volume_finalizer(&mut self, volume: &Volume, on: bool) {
        if self.faults.api_fails(&mut self.chance) {
            return;
        }
        let mut finalizers = volume.metadata.finalizers.clone().unwrap_or_default();
        finalizers.retain(|one| one != FINALIZER_DEVICE);
        if on {
            finalizers.push(FINALIZER_DEVICE.to_owned());
        }
        let version = &volume.metadata.resource_version;
        let patch = json!({"metadata": {"resourceVersion": version, "finalizers": finalizers}});
        if self.api.volumes.patch(&named(volume), &patch).is_ok() && !on {
            self.note(format!("{} was let go", named(volume)));
        }
    }

    // ---- what kubelet calls ----

    /// NodeStageVolume and NodePublishVolume. Where the volume is then.
    ///
    /// # Errors
    /// As the agent refuses.
    pub(super) fn publish(&mut self, node: usize, name: &str) -> Result<PathBuf, String> {
        let fresh = self.api.volumes.get(name).cloned();
        let at = self.nodes.get_mut(node).ok_or("no such node")?;
        let process = at.process.as_mut().ok_or("the agent does not run")?;
        // A miss in what was watched costs one live look.
        let known = process.volumes.get(name).cloned();
        let volume = known.or(fresh.map(Arc::new)).ok_or("no such volume")?;
        if volume.metadata.deletion_timestamp.is_some() {
            return Err("it is being deleted".to_owned());
        }
        let subject = Subject::of(volume);
        let drive = subject
            .drive
            .as_ref()
            .and_then(|drive| process.registry.get(drive));
        let drive = drive.cloned().ok_or("its drive is not mounted")?;
        let (staging, target) = (staging(name), target(name));
        for folder in [&staging, &target] {
            let parent = folder.parent().unwrap_or(Path::new("/"));
            at.host
                .machine()
                .space
                .make_dirs(parent)
                .map_err(|e| format!("{e:?}"))?;
        }
        let host = at.host.clone();
        let outcome = (|| {
            let wanted = Wanted::Staged {
                path: staging.clone(),
            };
            carry_out(&host, &drive, &subject.promise, wanted)?;
            let wanted = Wanted::Published {
                staging: Some(staging.clone()),
                target: target.clone(),
                read_only: false,
                exclusive: false,
            };
            carry_out(&host, &drive, &subject.promise, wanted)
        })();
        self.bury(node);
        outcome
            .map(|_| target)
            .map_err(|refusal: Refusal| refusal.to_string())
    }

    /// NodeUnpublishVolume and NodeUnstageVolume.
    ///
    /// # Errors
    /// As the agent refuses.
    pub(super) fn unpublish(&mut self, node: usize, name: &str) -> Result<(), String> {
        let at = self.nodes.get_mut(node).ok_or("no such node")?;
        if at.process.is_none() {
            return Err("the agent does not run".to_owned());
        }
        let host = at.host.clone();
        for path in [target(name), staging(name)] {
            let parent = path.parent().unwrap_or(Path::new("/"));
            host.machine()
                .space
                .make_dirs(parent)
                .map_err(|e| format!("{e:?}"))?;
            let outcome = unmount(&host, name, &path);
            if let Err(refusal) = outcome {
                self.bury(node);
                return Err(refusal.to_string());
            }
        }
        Ok(())
    }
}

impl Node {
    /// A volume as the agent knows it, and its drive where that is in use.
    fn subject(&self, name: &str) -> Option<(Arc<Volume>, Option<MountedDrive>, SimHost)> {
        let process: &Process = self.process.as_ref()?;
        let volume = Arc::clone(process.volumes.get(name)?);
        let drive = volume.spec.drive.as_ref();
        let mounted = drive.and_then(|drive| process.registry.get(drive)).cloned();
        Some((volume, mounted, self.host.clone()))
    }
}

/// Where a volume is staged.
#[must_use]
pub fn staging(volume: &str) -> PathBuf {
    Path::new("/kubelet/staging").join(volume)
}

/// Where its pod has it.
#[must_use]
pub fn target(volume: &str) -> PathBuf {
    Path::new("/kubelet/pods").join(volume)
}
