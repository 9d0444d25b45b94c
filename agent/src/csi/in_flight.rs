//! One call in flight a volume. The specification leaves it to the callers, and asks for ABORTED where they do not
//! keep to it; then each of two that meet is either alone or refused.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use api::Reason;

use crate::volumes::Refusal;

/// The volumes with a call in flight.
#[derive(Clone, Debug, Default)]
pub(super) struct InFlight(Arc<Mutex<BTreeSet<String>>>);

/// One call. Its end, however it ends, lets the next one in.
#[derive(Debug)]
pub(super) struct Flight {
    all: InFlight,
    volume: String,
}

impl InFlight {
    /// Begins a call for a volume.
    pub(super) fn begin(&self, volume: &str) -> Result<Flight, Refusal> {
        let mut volumes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !volumes.insert(volume.to_owned()) {
            return Err(Refusal::new(Reason::OperationPending, volume));
        }
        Ok(Flight {
            all: self.clone(),
            volume: volume.to_owned(),
        })
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut volumes = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        volumes.remove(&self.volume);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_a_volume_until_it_ends() {
        let calls = InFlight::default();
        let first = calls.begin("v1").unwrap();
        let other = calls.begin("v2").unwrap();
        let refused = calls.begin("v1").unwrap_err();
        assert_eq!(refused.reason, Reason::OperationPending);
        drop((first, other));
        drop(calls.begin("v1").unwrap());
    }
}
