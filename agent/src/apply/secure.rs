//! The drive erases its cells: by a person's choice alone, and with the claim written again at once.
//!
//! ```text
//!   status: secureEraseSince ──► Format or Sanitize ──► claim ──► secureEraseSince gone ──► zeroed and read back as ever
//!                                        └── killed here: blank, without a claim ──┐
//!                                             goes on only while it is blank ◄─────┘
//! ```
//! Until the claim is back only the status says whose the device is. So it is written before, and whoever comes later takes
//! the device for his own only if nothing at all is on it (see [`Warrant::to_go_on_blank`](super::Warrant::to_go_on_blank)).

use api::drive::EraseMethod;
use api::serve::faults;
use block::erase::{Found, Secure, Secured};

use super::{Apply, ClaimState, Outcome, Reason, Refusal, Retry, SecureState, Session};
use crate::host::{Cause, HeldDevice, HostError};
use crate::plan::{asked, may_lack_its_claim};

impl Apply<'_> {
    /// Whether the drive can do what is asked for. Nothing is changed by asking.
    pub(super) fn can_secure(&self, held: &dyn HeldDevice) -> Result<(), Refusal> {
        self.secure()
            .map_or(Ok(()), |how| held.can_secure(how).map_err(refused))
    }

    /// Whether a secure erase may have taken its claim along that nobody saw the end of.
    pub(super) fn goes_on_blank(&self, found: &Found<'_>) -> bool {
        may_lack_its_claim(self.drive) && matches!(found.claim, Ok(None))
    }

    /// Has the drive erase its cells, or looks how far it is.
    pub(super) fn secure_erase(&self, session: &mut Session) -> Result<Outcome, Refusal> {
        let Some(how) = self.secure() else {
            return Ok(Outcome::Unchanged);
        };
        self.begin(session)?;
        let begun = session.secure == SecureState::Begun;
        let hold = session.hold()?;
        let secured = hold.device.secure(&hold.warrant, how, begun);
        match secured.map_err(refused)? {
            Secured::Underway {
                done_bytes,
                total_bytes,
            } => {
                session.secure = SecureState::Begun;
                Ok(Outcome::Partly {
                    done_bytes,
                    total_bytes,
                    offloaded: false,
                })
            }
            Secured::Done { method } => {
                faults::piece("secure-erase");
                let hold = session.hold_mut()?;
                let claim = hold.claim.clone();
                let claim = claim.unwrap_or_else(|| self.own_claim(ClaimState::Preparing));
                self.write_claim(hold, claim)?;
                session.secure = SecureState::Done(method);
                Ok(Outcome::SecurelyErased)
            }
        }
    }

    fn secure(&self) -> Option<Secure> {
        match asked(self.drive).method {
            EraseMethod::Format => Some(Secure::Format),
            EraseMethod::Sanitize => Some(Secure::Sanitize),
            EraseMethod::Auto | EraseMethod::Signatures | EraseMethod::Zero => None,
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
fn refused(error: HostError) -> Refusal {
    if matches!(error.cause, Cause::Unable(_)) {
        Refusal::new(Reason::EraseUnsupported, error.sentence(), Retry::OnChange)
    } else {
        Refusal::of_host(Reason::EraseFailed, &error)
    }
}
