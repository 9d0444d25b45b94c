//! Who leads. A lease is not a fence: a process that was stopped for a while still believes in its lease when it wakes,
//! so nothing here relies on the lease alone.
//!
//! | rule | figure |
//! |---|---|
//! | a lease holds from the *beginning* of the write that renewed it | 10 s |
//! | it is renewed | every 3 s, tried again every 1.5 s |
//! | placing writes are not begun with less of it left than | 4 s (so 6 s without a renewal stop placing) |
//! | and carry a time-out of | 2 s |
//! | a follower takes over when a lease has not changed, by its own clock, for | 10 s |
//! | then it lists everything consistently, before it places | |
//! | who loses the lease, or cannot renew it to its end, exits | |
//!
//! So the last write of an old leader ends two seconds before a new one can begin. The decisions stand in [`Elector`],
//! which knows neither clock nor client; the rest carries them out.

mod elector;

pub use self::elector::{Elector, Move, Record, Standing, Timing};

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::names::{LEASE_CONTROLLER, MANAGER_CONTROLLER, NAMESPACE};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Time-out of a placing write.
pub const PLACING_WRITE_TIMEOUT: Duration = Duration::from_secs(2);
/// Lease that must be left when one is begun.
pub const PLACING_LEASE_LEFT_MIN: Duration = Duration::from_secs(4);
/// Time-out of a call about the lease itself.
const LEASE_CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// What the rest of the process knows of the lease. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Leadership {
    origin: Instant,
    /// Until when the lease holds, in milliseconds after `origin`; 0 for not at all.
    held_until_ms: Arc<AtomicU64>,
}

impl Leadership {
    /// Of a process that does not lead yet.
    #[must_use]
    pub fn following() -> Self {
        Self {
            origin: Instant::now(),
            held_until_ms: Arc::new(AtomicU64::new(0)),
        }
    }

    /// Whether a placing write may begin now.
    #[must_use]
    pub fn may_place(&self) -> bool {
        let held_until = Duration::from_millis(self.held_until_ms.load(Ordering::Acquire));
        self.origin.elapsed() + PLACING_LEASE_LEFT_MIN <= held_until
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn hold_until(&self, held_until: Option<Duration>) {
        let millis = held_until.map_or(0, |until| until.as_millis());
        let millis = u64::try_from(millis).unwrap_or(0);
        self.held_until_ms.store(millis, Ordering::Release);
    }
}

/// Why a process does not lead any more.
#[derive(Debug, thiserror::Error)]
pub enum LeaseLost {
    /// Somebody else took over.
    #[error("{0} leads now")]
    Taken(String),
    /// It could not be renewed to its end.
    #[error("the lease could not be renewed for 10 s: the API server does not answer")]
    Expired,
}

/// A process's part in the election.
pub struct Campaign {
    leases: Api<Lease>,
    elector: Elector,
    leadership: Leadership,
    clock: fn() -> Timestamp,
}

impl Campaign {
    /// Enters the election as `identity`. A holder whose name begins with `gone` is known to be gone: with an embedded
    /// store it was a process that held the store's lock, which is ours now.
    #[must_use]
    pub fn new(
        client: Client,
        identity: String,
        gone: Option<String>,
        clock: fn() -> Timestamp,
    ) -> Self {
        Self {
            leases: Api::namespaced(client, NAMESPACE),
            elector: Elector::new(identity, gone, Timing::default()),
            leadership: Leadership::following(),
            clock,
        }
    }

    /// What the rest of the process asks before it writes.
    #[must_use]
    pub fn leadership(&self) -> Leadership {
        self.leadership.clone()
    }

    /// Waits until this process leads. Returns false if it was stopped before.
    pub async fn win(&mut self, stop: &CancellationToken) -> bool {
        let mut told: Option<String> = None;
        loop {
            let wait = self.turn().await;
            if self.leads() {
                return true;
            }
            let holder = self.elector.other_holder();
            if holder.is_some() && holder != told.as_deref() {
                tracing::info!(
                    holder,
                    "another controller leads; this one takes over by itself"
                );
                told = holder.map(ToOwned::to_owned);
            }
            tokio::select! {
                () = sleep(wait) => {}
                () = stop.cancelled() => return false,
            }
        }
    }

    fn leads(&self) -> bool {
        let standing = self.elector.standing(self.leadership.now());
        matches!(standing, Standing::Leading { .. })
    }

    /// Keeps the lease until it is lost or the process is stopped.
    ///
    /// # Errors
    /// The lease was lost.
    pub async fn hold(&mut self, stop: &CancellationToken) -> Result<(), LeaseLost> {
        loop {
            if !self.leads() {
                self.leadership.hold_until(None);
                let other = self.elector.other_holder();
                return Err(other.map_or(LeaseLost::Expired, |o| LeaseLost::Taken(o.into())));
            }
            let wait = self.turn().await;
            tokio::select! {
                () = sleep(wait) => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    /// Gives the lease up, so that the next one need not wait. Only when nothing is being written any more.
    pub async fn give_up(&mut self) {
        self.leadership.hold_until(None);
        if let Some(record) = self.elector.released((self.clock)()) {
            let write = self.write(&record);
            if !matches!(timeout(LEASE_CALL_TIMEOUT, write).await, Ok(Ok(_))) {
                tracing::debug!("the lease was not given up; it runs out by itself");
            }
        }
    }

    /// Does what the elector wants, once, and says how long to wait before the next turn.
    async fn turn(&mut self) -> Duration {
        match self.elector.next(self.leadership.now(), (self.clock)()) {
            Move::Wait(time) => return time,
            Move::Read => self.read().await,
            Move::Write(record) => {
                let begun = self.leadership.now();
                let write = self.write(&record);
                match timeout(LEASE_CALL_TIMEOUT, write).await {
                    Ok(Ok(version)) => self.elector.written(record, version, begun),
                    Ok(Err(error)) => {
                        tracing::debug!(%error, "the lease was not written");
                        self.elector.unclear();
                    }
                    Err(_) => self.elector.unclear(),
                }
            }
        }
        self.leadership.hold_until(self.elector.held_until());
        match self.elector.next(self.leadership.now(), (self.clock)()) {
            Move::Wait(time) => time,
            Move::Write(_) if self.elector.is_fresh() => Duration::ZERO,
            Move::Read | Move::Write(_) => self.elector.retry(),
        }
    }

    async fn read(&mut self) {
        let get = self.leases.get_opt(LEASE_CONTROLLER);
        match timeout(LEASE_CALL_TIMEOUT, get).await {
            Ok(Ok(lease)) => {
                let record = lease.map(|lease| record_of(&lease));
                self.elector.read(record, self.leadership.now());
            }
            Ok(Err(error)) => tracing::warn!(%error, "the lease cannot be read; tried again"),
            Err(_) => tracing::warn!("the lease cannot be read in time; tried again"),
        }
    }

    /// Writes a record, creating the Lease if it bears no version. The answer is the new version.
    async fn write(&self, record: &Record) -> kube::Result<String> {
        let params = PostParams {
            field_manager: Some(MANAGER_CONTROLLER.to_owned()),
            ..PostParams::default()
        };
        let lease = lease_of(record);
        let written = if record.version.is_empty() {
            self.leases.create(&params, &lease).await?
        } else {
            self.leases
                .replace(LEASE_CONTROLLER, &params, &lease)
                .await?
        };
        Ok(written.metadata.resource_version.unwrap_or_default())
    }
}

fn record_of(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.unwrap_or(0);
    Record {
        holder: spec.holder_identity.unwrap_or_default(),
        renewed: spec.renew_time.map_or(Timestamp::UNIX_EPOCH, |t| t.0),
        acquired: spec.acquire_time.map_or(Timestamp::UNIX_EPOCH, |t| t.0),
        duration: Duration::from_secs(u64::try_from(seconds).unwrap_or(0)),
        transitions: spec.lease_transitions.unwrap_or(0),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
    }
}

fn lease_of(record: &Record) -> Lease {
    let seconds = i32::try_from(record.duration.as_secs()).unwrap_or(i32::MAX);
    Lease {
        metadata: ObjectMeta {
            name: Some(LEASE_CONTROLLER.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            resource_version: (!record.version.is_empty()).then(|| record.version.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(record.holder.clone()),
            renew_time: Some(MicroTime(record.renewed)),
            acquire_time: Some(MicroTime(record.acquired)),
            lease_duration_seconds: Some(seconds),
            lease_transitions: Some(record.transitions),
            ..LeaseSpec::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::{Embedded, Options};

    fn campaign(embedded: &Embedded, name: &str) -> Campaign {
        Campaign::new(embedded.client(), name.to_owned(), None, Timestamp::now)
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_one_leads_at_once_when_told_and_else_waits_the_lease_out() {
        let embedded = Embedded::in_memory("cluster", Options::default()).unwrap();
        let never = CancellationToken::new();
        let mut first = campaign(&embedded, "first");
        let leadership = first.leadership();
        assert!(!leadership.may_place());
        assert!(first.win(&never).await);
        assert!(leadership.may_place());

        // It holds on while it renews, and the other waits.
        let stop = CancellationToken::new();
        let mut second = campaign(&embedded, "second");
        let (held, won) = tokio::join!(
            async {
                let held = timeout(Duration::from_secs(60), first.hold(&never)).await;
                stop.cancel();
                held
            },
            second.win(&stop),
        );
        assert!(held.is_err() && !won);

        // Told: at once.
        first.give_up().await;
        assert!(!leadership.may_place());
        let begun = Instant::now();
        assert!(second.win(&never).await);
        assert!(
            begun.elapsed() <= Timing::default().retry,
            "{:?}",
            begun.elapsed()
        );

        // Not told: when the lease is over by its own clock, and then the old one may place nothing.
        let leadership = second.leadership();
        let begun = Instant::now();
        let mut third = campaign(&embedded, "third");
        assert!(third.win(&never).await);
        assert!(begun.elapsed() > Timing::default().duration);
        assert!(!leadership.may_place());
        assert!(matches!(
            second.hold(&never).await,
            Err(LeaseLost::Expired | LeaseLost::Taken(_))
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn placing_stops_four_seconds_before_the_lease_does() {
        let embedded = Embedded::in_memory("cluster", Options::default()).unwrap();
        let mut first = campaign(&embedded, "first");
        assert!(first.win(&CancellationToken::new()).await);
        let leadership = first.leadership();
        sleep(Duration::from_millis(5_900)).await;
        assert!(leadership.may_place());
        sleep(Duration::from_millis(200)).await;
        assert!(!leadership.may_place());
    }
}
