//! The claim block while a drive is made: what was on the device when it was claimed, and what it was left with.
//!
//! ```text
//!   claimed ── what was named is there still ──► written to (left: nothing) ──► Formatted
//!      ▲                                            │ refused: gate, erase, read-back
//!      └──────────── let be (left: what it holds) ◄─┘
//! ```
//! Whoever goes on after an interruption, in a moment or in a month, finds in the claim what a person allowed to be
//! destroyed. What was put on the device since is not among it (see [`Warrant`](block::erase::Warrant)).

use block::claim::{CLAIM_BYTES, NAMED_MAX};
use block::signature::{Area, Kind, everywhere, scan};

use super::{Apply, Claim, ClaimState, Hold, Outcome, Reason, Refusal, Retry, Session};
use crate::probe::{Media, identity};

impl Apply<'_> {
    /// Claims the held device, with all that is on it.
    pub(super) fn claim(&self, session: &mut Session) -> Result<Outcome, Refusal> {
        let claim = Claim {
            named: self.named(session.hold()?)?,
            ..self.own_claim(ClaimState::Preparing)
        };
        self.write_claim(session.hold_mut()?, claim)?;
        self.let_be(session)?;
        Ok(Outcome::Changed)
    }

    /// Digests of every signature on the device, wherever one may be: erasing one may uncover another.
    fn named(&self, hold: &Hold) -> Result<Vec<u64>, Refusal> {
        let size = hold.device.size_bytes();
        let mut areas = Vec::new();
        for range in everywhere(size) {
            let bytes = hold.device.read(range.start, range.end - range.start);
            areas.push((
                range.start,
                bytes.map_err(self.refused(Reason::ReadFailed))?,
            ));
        }
        let areas: Vec<Area<'_>> = areas
            .iter()
            .map(|(offset, bytes)| Area {
                offset: *offset,
                bytes,
            })
            .collect();
        let found = scan(size, &areas);
        let named = found
            .iter()
            .filter(|one| !matches!(one.kind, Kind::Claim | Kind::Unknown));
        let mut digests: Vec<u64> = named.map(|one| one.digest()).collect();
        digests.sort_unstable();
        digests.dedup();
        digests.truncate(NAMED_MAX);
        Ok(digests)
    }

    /// From here on the device is written to.
    pub(super) fn begin(&self, session: &mut Session) -> Result<(), Refusal> {
        let hold = session.hold_mut()?;
        match hold.claim.clone() {
            Some(claim) if claim.left.is_some() => self.write_claim(
                hold,
                Claim {
                    left: None,
                    ..claim
                },
            ),
            Some(_) | None => Ok(()),
        }
    }

    /// The device is written to no more for now: keeps what it holds, so that nothing else is taken for that later.
    pub(super) fn let_be(&self, session: &mut Session) -> Result<(), Refusal> {
        let Ok(hold) = session.hold_mut() else {
            return Ok(());
        };
        let making = |claim: &&Claim| claim.state == ClaimState::Preparing && claim.left.is_none();
        let Some(claim) = hold.claim.as_ref().filter(making).cloned() else {
            return Ok(());
        };
        let seen = self.host.probe(&hold.seen.facts.name);
        let seen = seen.map_err(self.refused(Reason::ReadFailed))?;
        // Of what nobody could read nothing is kept: "unread" would be taken for what it holds.
        if !matches!(seen.facts.media, Media::Read { .. }) {
            return Ok(());
        }
        let left = Some(identity::held(&seen.facts.media));
        self.write_claim(hold, Claim { left, ..claim })
    }

    /// Writes a claim and reads it back.
    pub(super) fn write_claim(&self, hold: &mut Hold, claim: Claim) -> Result<(), Refusal> {
        let written = hold
            .device
            .write_claim(&hold.warrant, Some(&claim))
            .and_then(|()| {
                let offset = hold.warrant.claim_offset();
                hold.device.read(offset, CLAIM_BYTES)
            })
            .map_err(self.refused(Reason::IoErrors))?;
        if Claim::decode(&written).as_ref() == Ok(&Some(claim.clone())) {
            hold.claim = Some(claim);
            return Ok(());
        }
        let message = format!(
            "{}: the claim block does not read as it was written",
            hold.seen.facts.name
        );
        Err(Refusal::new(Reason::VerifyFailed, message, Retry::OnChange))
    }
}
