//! The drive erases its cells: by a person's choice alone, and with the claim written again at once.
//!
//! ```text
//!   status: secureEraseSince ──► Format or Sanitize ──► claim ──► secureEraseSince gone ──► zeroed and read back as ever
//!                                        └── killed here: blank, without a claim ──┐
//!                                             goes on only while it is blank ◄─────┘
//! ```
//! A Sanitize that failed leaves a drive that answers no read until another one succeeds. It gets that by the same word,
//! known by its identity alone ([`Warrant::to_sanitize_again`](super::Warrant::to_sanitize_again)), once a person asks for
//! another try or the agent starts anew.
//!
//! Until the claim is back only the status says whose the device is. So it is written before, and whoever comes later takes
//! the device for his own only if nothing at all is on it (see [`Warrant::to_go_on_blank`](super::Warrant::to_go_on_blank)).

use api::drive::EraseMethod;
use api::serve::faults;
use block::erase::{Found, Secure, Secured};

use super::device::found;
use super::{
    Apply, ClaimState, Outcome, Reason, Refusal, Retry, SecureState, Seen, Session, Warrant,
};
use crate::host::{Cause, HeldDevice, HostError};
use crate::plan::{asked, may_lack_its_claim, sanitizes_unread};

/// What a person says to have it tried again: it changes the Drive, and nothing else.
const AGAIN: &str = "suspend and resume";

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

    /// The right to what a Sanitize by this Drive's word left that failed; `None` where it is not so.
    pub(super) fn sanitizes_again(
        &self,
        (held, seen): (&dyn HeldDevice, &Seen),
        removal: bool,
    ) -> Result<Option<Warrant>, Refusal> {
        if !sanitizes_unread(self.drive, seen) {
            return Ok(None);
        }
        let failed = held.has_failed_to_sanitize().map_err(refused)?;
        if !failed {
            return Ok(None);
        }
        let (found, unread) = (found(seen, self.id()), seen.is_unread());
        Warrant::to_sanitize_again(self.ours(), removal, (failed, unread), &found)
            .map(Some)
            .map_err(|why| Refusal::of_warrant(&seen.facts.name, &why))
    }

    /// Has the drive erase its cells, or looks how far it is.
    pub(super) fn secure_erase(&self, session: &mut Session) -> Result<Outcome, Refusal> {
        let Some(how) = self.secure() else {
            return Ok(Outcome::Unchanged);
        };
        self.begin(session)?;
        let begun = match &session.secure {
            SecureState::Begun(begun) => Some(*begun),
            SecureState::No | SecureState::Done(_) => None,
        };
        let hold = session.hold()?;
        let secured = hold.device.secure(&hold.warrant, how, begun.as_ref());
        match secured.map_err(refused)? {
            Secured::Underway {
                begun,
                done_bytes,
                total_bytes,
            } => {
                session.secure = SecureState::Begun(begun);
                Ok(Outcome::Partly {
                    done_bytes,
                    total_bytes,
                    offloaded: false,
                    methods: String::new(),
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
    match &error.cause {
        Cause::Unable(_) => {
            Refusal::new(Reason::EraseUnsupported, error.sentence(), Retry::OnChange)
        }
        // Another try wears the drive: it is asked for.
        Cause::Refused(_) => {
            let sentence = error.sentence();
            let message = format!("{sentence}; kubectl ringpv {AGAIN} has it tried again");
            Refusal::new(Reason::EraseFailed, message, Retry::OnChange)
        }
        Cause::Io(_) | Cause::ProgramMissing(_) | Cause::Program { .. } | Cause::TimedOut(_) => {
            Refusal::of_host(Reason::EraseFailed, &error)
        }
    }
}
