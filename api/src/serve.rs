//! What every server process shares, and the only I/O of this crate: the gRPC socket, the Identity service, the
//! endpoint for metrics, health and the log filter, the count of calls, the log itself, and where tests let it die.
//!
//! ```text
//!   sidecar, kubelet, CLI ──unix──► socket ──► calls (count, time) ──► identity + the process's own services
//!   Prometheus, probes    ──tcp───► admin: /metrics /healthz /readyz /log
//! ```
//! Rules: a socket that somebody serves is never taken away from him; a socket is reachable only by its mode from the
//! first moment on; a process that is not ready says why.

pub mod admin;
pub mod calls;
pub mod faults;
pub mod identity;
pub mod logs;
pub mod socket;

use std::sync::{Arc, PoisonError, RwLock};

/// Whether a process can serve, and if not, why not. Cheap to clone; one value for all that ask.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<RwLock<Result<(), String>>>);

impl Readiness {
    /// Not ready yet, for the reason given.
    #[must_use]
    pub fn waiting(why: &str) -> Self {
        Self(Arc::new(RwLock::new(Err(why.to_owned()))))
    }

    /// From now on it can serve.
    pub fn set_ready(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Ok(());
    }

    /// From now on it cannot.
    pub fn set_waiting(&self, why: &str) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Err(why.to_owned());
    }

    /// How it stands.
    ///
    /// # Errors
    /// The reason why it cannot serve.
    pub fn get(&self) -> Result<(), String> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
