//! What the leader decides with: the inventory, the policy, its lease, a client, the time. One value, shared by the CSI
//! service, the reconciliation and the metrics.
//!
//! The inventory's lock is held for a decision, never for a call: what is decided is promised under the same lock, and
//! only then written.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::names::MANAGER_CONTROLLER;
use api::{Reason, Volume};
use jiff::Timestamp;
use kube::api::{PatchParams, PostParams};
use kube::{Api, Client};
use tokio::time::timeout;
use tonic::Status;

use crate::inventory::{Inventory, VolumeEntry};
use crate::lease::{Leadership, PLACING_WRITE_TIMEOUT};
use crate::metrics::Metrics;
use crate::placement::Policy;

/// See the module.
pub struct Leader {
    /// API client.
    pub client: Client,
    /// What placement may do.
    pub policy: Policy,
    /// The lease.
    pub leadership: Leadership,
    /// Metrics.
    pub metrics: Metrics,
    /// The wall clock.
    pub clock: fn() -> Timestamp,
    inventory: Mutex<Inventory>,
}

/// Why a call to the API failed, as far as it matters to the caller.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The object is not there.
    #[error("not found")]
    NotFound,
    /// It is there already, or is not as it was.
    #[error("conflict: {0}")]
    Conflict(String),
    /// The server refused; nothing was written.
    #[error("{0}")]
    Refused(String),
    /// No answer, or none in time: it may or may not have been written.
    #[error("{0}")]
    Unclear(String),
}

impl CallError {
    fn of(error: &kube::Error) -> Self {
        let kube::Error::Api(answer) = error else {
            return Self::Unclear(error.to_string());
        };
        match answer.code {
            404 => Self::NotFound,
            409 => Self::Conflict(answer.message.clone()),
            429 | 500.. => Self::Unclear(answer.message.clone()),
            _ => Self::Refused(answer.message.clone()),
        }
    }

    /// The reason that people see.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::NotFound => Reason::VolumeNotFound,
            Self::Conflict(_) => Reason::OperationPending,
            Self::Refused(_) => Reason::Internal,
            Self::Unclear(_) => Reason::ApiUnavailable,
        }
    }

    /// As gRPC callers see it.
    #[must_use]
    pub fn status(&self) -> Status {
        api::status::status(self.reason(), &self.to_string())
    }
}

/// Waits for an answer of the API, but not for ever.
///
/// # Errors
/// See [`CallError`].
pub async fn call<T>(
    time: Duration,
    answer: impl Future<Output = kube::Result<T>>,
) -> Result<T, CallError> {
    match timeout(time, answer).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(CallError::of(&error)),
        Err(_) => Err(CallError::Unclear("no answer in time".to_owned())),
    }
}

/// How this process signs what it creates.
#[must_use]
pub fn post_params() -> PostParams {
    PostParams {
        field_manager: Some(MANAGER_CONTROLLER.to_owned()),
        ..PostParams::default()
    }
}

/// How this process signs what it patches.
#[must_use]
pub fn patch_params() -> PatchParams {
    PatchParams {
        field_manager: Some(MANAGER_CONTROLLER.to_owned()),
        ..PatchParams::default()
    }
}

impl Leader {
    /// With an empty inventory.
    #[must_use]
    pub fn new(
        client: Client,
        policy: Policy,
        leadership: Leadership,
        metrics: Metrics,
        clock: fn() -> Timestamp,
    ) -> Self {
        Self {
            client,
            policy,
            leadership,
            metrics,
            clock,
            inventory: Mutex::default(),
        }
    }

    /// The inventory. For a decision, not across a call.
    pub fn inventory(&self) -> MutexGuard<'_, Inventory> {
        self.inventory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// Volumes.
    #[must_use]
    pub fn volumes(&self) -> Api<Volume> {
        Api::all(self.client.clone())
    }

    /// Looks what became of a volume, whatever is believed of it, and takes that for true.
    ///
    /// # Errors
    /// The API did not answer; then the belief stands.
    pub async fn settle(&self, name: &str) -> Result<Option<VolumeEntry>, CallError> {
        let volumes = self.volumes();
        let found = call(PLACING_WRITE_TIMEOUT, volumes.get_opt(name)).await?;
        let mut inventory = self.inventory();
        inventory.withdraw(name);
        match &found {
            Some(volume) => inventory.apply_volume(volume),
            None => inventory.remove_volume(name),
        }
        Ok(inventory.volume(name).cloned())
    }
}
