//! The start of the agent: what is on disk is mounted before anybody is asked, so that pods run while the API is away.
//!
//! ```text
//!   whole drives ─► one mount each, on the drive's worker ─┬─ done within START_WAIT ─► registered ─► the agent serves
//!   what answers or appears later, until the API is known ─┴─ later ───► registered then; its reconciler lets it be till then
//! ```

use std::collections::BTreeSet;
use std::future::{Future, pending};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use block::claim::{Claim, ClaimState};
use block::signature::{Found, Kind};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::apply::{Apply, Outcome, Session};
use crate::plan::Action;
use crate::probe::{Seen, Snapshot};
use crate::registry::MountedDrive;
use crate::worker::Lane;

use super::Context;

/// How long the agent waits at its start for all answers and mounts, before it serves the drives that are mounted by then.
/// A mount takes less than a second unless its log is long, and nobody is to wait for another's drive.
pub const START_WAIT: Duration = Duration::from_secs(5);

/// Mounts and registers every drive of this cluster that was completed, is borne by one device alone, and still has
/// the identity under which it was claimed. All at once, each on its own worker, and each medium once: a drive that was
/// slow to answer, or is plugged in while nobody can be asked, as soon as it is seen.
pub struct FromDisk {
    ctx: Context,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    /// What was begun: drives with the device and the medium that bore them.
    begun: BTreeSet<(String, String, u64)>,
    attaching: JoinSet<()>,
}

impl FromDisk {
    /// Begins nothing yet.
    #[must_use]
    pub fn new(ctx: Context) -> Self {
        Self {
            snapshots: ctx.snapshots.clone(),
            ctx,
            begun: BTreeSet::new(),
            attaching: JoinSet::new(),
        }
    }

    /// Mounts until all devices have answered and all mounts have ended, or [`START_WAIT`] is over.
    pub async fn first(&mut self) {
        let all = async {
            while !self.begin() || self.late() > 0 {
                self.change().await;
            }
        };
        if tokio::time::timeout(START_WAIT, all).await.is_err() {
            tracing::warn!(
                late = self.late(),
                reason = %api::Reason::Unresponsive,
                "Not every drive is mounted yet; the others are served, and these once they are"
            );
        }
    }

    /// Mounts what is there and what appears, until `known` is done, and gives what that gives. From then on reconcilers
    /// mount, and nothing is begun here any more.
    pub async fn until<T>(&mut self, known: impl Future<Output = T>) -> T {
        let mut known = pin!(known);
        loop {
            self.begin();
            tokio::select! {
                biased;
                known = &mut known => return known,
                () = self.change() => {}
            }
        }
    }

    /// Waits for the mounts under way, which go on for as long as they are waited for.
    pub async fn finish(mut self) {
        while self.attaching.join_next().await.is_some() {}
    }

    /// How many mounts are under way.
    #[must_use]
    pub fn late(&self) -> usize {
        self.attaching.len()
    }

    /// Waits until there is another picture, or a mount has ended.
    async fn change(&mut self) {
        tokio::select! {
            Some(_) = self.attaching.join_next() => {}
            Ok(()) = self.snapshots.changed() => {}
            else => pending().await,
        }
    }

    /// Begins what the picture now shows for the first time. Whether all devices have answered.
    fn begin(&mut self) -> bool {
        let snapshot = Arc::clone(&self.snapshots.borrow_and_update());
        let (ctx, label) = (&self.ctx, self.ctx.site.label());
        for seen in snapshot
            .devices
            .values()
            .filter(|seen| is_whole(seen, &label))
        {
            let Some(held) = &seen.holds else { continue };
            let (id, facts) = (&held.id, &seen.facts);
            if snapshot.by_drive(id).count() > 1 || ctx.registry.get(id).is_ok() {
                continue;
            }
            let medium = (id.clone(), facts.name.clone(), facts.diskseq);
            if !ctx.registry.is_attaching(id) && self.begun.insert(medium) {
                let guard = ctx.registry.attaching(id);
                let mount = attach(ctx.clone(), Arc::clone(seen), id.clone());
                self.attaching.spawn(async move {
                    mount.await;
                    drop(guard);
                });
            }
        }
        snapshot.complete
    }
}

/// Whether a device bears a drive that can be mounted without asking: one of this cluster, or one that was moved here while
/// its volumes were mounted, so that our label is on it and our claim is not. Its record has the last word then.
fn is_whole(seen: &Seen, label: &str) -> bool {
    let Some(held) = &seen.holds else {
        return false;
    };
    let moved_here = |claim: &Claim| {
        let ours = |one: &Found| one.kind == Kind::Xfs && one.uuid == held.id && one.label == label;
        claim.drive_id == held.id && seen.found().iter().any(ours)
    };
    held.file_system
        && held.claim.as_ref().is_some_and(|claim| {
            (held.ours || moved_here(claim))
                && claim.state == ClaimState::Formatted
                && claim.identity == seen.fingerprint.identity
        })
}

async fn attach(ctx: Context, seen: Arc<Seen>, id: String) {
    let worker = ctx.registry.worker(&id);
    let job = {
        let (ctx, seen, id) = (ctx.clone(), Arc::clone(&seen), id.clone());
        move || {
            let drive = stand_in(&id, &seen);
            let apply = Apply {
                host: ctx.host.as_ref(),
                site: &ctx.site,
                drive: &drive,
                now: (ctx.clock)(),
                cancel: &AtomicBool::new(false),
                spare: false,
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
    // It cannot be stopped, and log recovery of a large drive is minutes: it is waited for, by itself, to its end.
    match worker.run(Lane::Long, Duration::MAX, job).await {
        Ok(Ok(Outcome::Attached(attached))) => {
            tracing::info!(
                drive = id,
                device = seen.facts.name,
                "Mounted what is on disk"
            );
            // What its object says, once it is known, counts more: this only adds to what nobody has said yet.
            if attached.said.suspended {
                ctx.registry.suspend(&id, true);
            }
            ctx.registry.hear(&id, attached.said);
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
        repair: None,
        force: false,
        adopt_from: None,
        removal: None,
    };
    api::Drive::new(id, spec)
}
