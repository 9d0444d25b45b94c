//! The start of the agent: what is on disk is mounted before anybody is asked, so that pods run while the API is away.

use std::sync::Arc;

use block::claim::ClaimState;
use tokio::task::JoinSet;

use crate::apply::{Apply, Outcome, Session};
use crate::plan::Action;
use crate::probe::{Seen, Snapshot};
use crate::registry::MountedDrive;
use crate::worker::{Lane, Worker};

use super::Context;

/// How long one drive's mount may take; log recovery of a large drive is minutes.
const MOUNT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(600);

/// Mounts and registers every drive of this cluster that was completed, is borne by one device alone, and still has
/// the identity under which it was claimed. All at once, each on its own worker.
pub async fn attach_from_disk(ctx: &Context, snapshot: &Snapshot) {
    let mut attaching = JoinSet::new();
    for seen in snapshot.devices.values().filter(|seen| is_whole(seen)) {
        let Some(held) = &seen.holds else { continue };
        if snapshot.by_drive(&held.id).count() == 1 {
            attaching.spawn(attach(ctx.clone(), Arc::clone(seen), held.id.clone()));
        }
    }
    attaching.join_all().await;
}

/// Whether a device bears a drive that can be mounted without asking.
fn is_whole(seen: &Seen) -> bool {
    seen.holds.as_ref().is_some_and(|held| {
        held.ours
            && held.file_system
            && held.claim.as_ref().is_some_and(|claim| {
                claim.state == ClaimState::Formatted && claim.identity == seen.fingerprint.identity
            })
    })
}

async fn attach(ctx: Context, seen: Arc<Seen>, id: String) {
    let worker = Worker::new(&id);
    let job = {
        let (ctx, seen, id) = (ctx.clone(), Arc::clone(&seen), id.clone());
        move || {
            let drive = stand_in(&id, &seen);
            let apply = Apply {
                host: ctx.host.as_ref(),
                site: &ctx.site,
                drive: &drive,
                now: (ctx.clock)(),
            };
            let mount = Action::Mount {
                device: seen.facts.name.clone(),
                fresh: false,
            };
            let mut session = Session::default();
            apply.apply(&mut session, &mount)?;
            apply.apply(&mut session, &Action::Attach)
        }
    };
    match worker.run(Lane::Long, MOUNT_TIMEOUT, job).await {
        Ok(Ok(Outcome::Attached(attached))) => {
            tracing::info!(
                drive = id,
                device = seen.facts.name,
                "Mounted what is on disk"
            );
            ctx.registry.insert(MountedDrive {
                id: id.as_str().into(),
                device: seen.facts.name.as_str().into(),
                root: ctx.site.guarded(&id).into(),
                quota_enforced: attached.quota_enforced,
                allocatable_bytes: attached.capacity.allocatable_bytes,
                read_only: false,
                worker,
            });
        }
        Ok(Ok(_)) => {}
        Ok(Err(refusal)) => {
            tracing::warn!(drive = id, reason = %refusal.reason, message = refusal.message, "A drive could not be mounted at the start");
        }
        Err(error) => {
            tracing::warn!(drive = id, %error, "A drive could not be mounted at the start");
        }
    }
}

/// A Drive as far as mounting needs one, for a drive whose object nobody could be asked for.
fn stand_in(id: &str, seen: &Seen) -> api::Drive {
    let spec = api::DriveSpec {
        node: String::new(),
        device: api::drive::DeviceClaim {
            fingerprint: seen.fingerprint.clone(),
            name: seen.facts.name.clone(),
            size_bytes: seen.facts.size_bytes,
        },
        access_tier: api::AccessTier::Default,
        cordoned: false,
        suspended: false,
        erase: api::drive::Erase::default(),
        gate: None,
        force: false,
        adopt_from: None,
        removal: None,
    };
    api::Drive::new(id, spec)
}
