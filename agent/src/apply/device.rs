//! Actions on a held device: look, erase, read back.

use std::collections::BTreeSet;

use block::erase::{
    Bearer, Course, Found, Piece, Plan, Range, Unwarranted, Wanted, part_at, signature_areas,
};
use block::signature::{Found as Signature, Kind};

use super::{
    Apply, Claim, EraseLevel, EraseMethod, EraseVerify, Method, Outcome, Reason, Refusal, Retry,
    SecureState, Seen, Session, Verify, Warrant,
};
use crate::host::{Cause, HeldDevice, HostError};
use crate::plan::asked;
use crate::probe::identity;

/// Bytes read back in one piece.
const VERIFY_PIECE_BYTES: u64 = 64 << 20;
/// Bytes of one piece of what an interrupted mkfs may have written.
const CLEAR_PIECE_BYTES: u64 = 4 << 20;
/// Samples read back in one piece.
const VERIFY_SAMPLES: usize = 256;

/// What a device must not be, though it holds what it may hold: reasons that say whose it is are the warrant's to judge.
const WHOSE: [Reason; 5] = [
    Reason::HoldsData,
    Reason::AlreadyManaged,
    Reason::Adoptable,
    Reason::ForeignCluster,
    Reason::DuplicateDriveId,
];

impl Apply<'_> {
    pub(super) fn check(
        &self,
        session: &mut Session,
        device: &str,
        resume: bool,
    ) -> Result<Outcome, Refusal> {
        let (held, seen) = self.look(device)?;
        let again = self.sanitizes_again((held.as_ref(), &seen), false)?;
        if let Some(refusal) = not_to_be_taken(device, &seen, again.is_some()) {
            return Err(refusal);
        }
        if let Some(warrant) = again {
            *session = Session::of(held, warrant, seen);
            return Ok(Outcome::Changed);
        }
        self.can_secure(held.as_ref())?;
        let found = found(&seen, self.id());
        let warrant = if self.goes_on_blank(&found) {
            Warrant::to_go_on_blank(self.ours(), false, &found)
        } else if resume {
            Warrant::to_resume(self.ours(), &found)
        } else {
            Warrant::to_prepare(self.ours(), self.drive.spec.force, &found)
        }
        .map_err(|why| {
            let forced = matches!(why, Unwarranted::Force(_));
            let why = if forced {
                Unwarranted::Force(holdings(&seen))
            } else {
                why
            };
            Refusal::of_warrant(device, &why)
        })?;
        *session = Session::of(held, warrant, seen);
        Ok(Outcome::Changed)
    }

    pub(super) fn check_removal(
        &self,
        session: &mut Session,
        device: &str,
    ) -> Result<Outcome, Refusal> {
        let (held, seen) = self.look(device)?;
        if let Some(warrant) = self.sanitizes_again((held.as_ref(), &seen), true)? {
            *session = Session::of(held, warrant, seen);
            return Ok(Outcome::Changed);
        }
        self.can_secure(held.as_ref())?;
        let found = found(&seen, self.id());
        let warrant = if self.goes_on_blank(&found) {
            Warrant::to_go_on_blank(self.ours(), true, &found)
        } else {
            Warrant::to_remove(self.ours(), &found)
        }
        .map_err(|why| Refusal::of_warrant(device, &why))?;
        *session = Session::of(held, warrant, seen);
        Ok(Outcome::Changed)
    }

    /// Holds a device and looks at it afresh. What was looked at is what is held, not another of the same name.
    pub(super) fn look(&self, device: &str) -> Result<(Box<dyn HeldDevice>, Seen), Refusal> {
        let held = self.host.hold(device).map_err(|error| {
            // Who holds it is often to be seen: a mount, swap, another driver.
            let seen = self.host.probe(device).ok().filter(|_| error.is_busy());
            match seen
                .as_ref()
                .and_then(|seen| not_to_be_taken(device, seen, false))
            {
                Some(refusal) => Refusal {
                    retry: Retry::Later,
                    ..refusal
                },
                None => Refusal::of_host(Reason::ReadFailed, &error),
            }
        })?;
        let seen = self
            .host
            .probe(device)
            .map_err(self.refused(Reason::ReadFailed))?;
        if seen.facts.major_minor != held.major_minor()
            || seen.facts.size_bytes != held.size_bytes()
        {
            let message = format!("{device} was replaced while it was looked at");
            return Err(Refusal::new(
                Reason::FingerprintChanged,
                message,
                Retry::Later,
            ));
        }
        Ok((held, seen))
    }

    pub(super) fn erase(
        &self,
        session: &mut Session,
        done_bytes: u64,
        total_bytes: u64,
    ) -> Result<Outcome, Refusal> {
        self.begin(session)?;
        let (wanted, course) = (self.wanted(), session.erase.take());
        let hold = session.hold()?;
        let size = hold.device.size_bytes();
        let mut course =
            course.unwrap_or_else(|| Course::resumed(wanted, size, done_bytes, total_bytes));
        let outcome = loop {
            let Some(piece) = course.piece(hold.device.limiter()) else {
                break erased(session.secure, &course);
            };
            match hold.device.zero(&hold.warrant, piece, self.spare) {
                Ok(zeroed) => {
                    course.done(piece, &zeroed);
                    break Outcome::Partly {
                        done_bytes: course.cursor(),
                        total_bytes: course.plan().total_bytes(),
                        offloaded: piece.method.is_offloaded(),
                        methods: course.methods(),
                    };
                }
                Err(error)
                    if is_refusal(piece.method, &error)
                        && course.refused(piece, hold.device.queue()) => {}
                Err(error) => return Err(Refusal::of_host(Reason::EraseFailed, &error)),
            }
        };
        session.erase = Some(course);
        Ok(outcome)
    }

    /// Reads back, from a cursor if it is one of what is to be read back now: the same places are drawn each time.
    pub(super) fn verify(
        &self,
        session: &mut Session,
        done_bytes: u64,
        total_bytes: u64,
    ) -> Result<Outcome, Refusal> {
        let verify = asked(self.drive).verify;
        let mut state = match session.verify.take() {
            Some(state) => state,
            None => {
                let ranges = self.to_verify(session, verify)?;
                let same = total(&ranges) == total_bytes;
                let done_bytes = if same { done_bytes } else { 0 };
                Verify { ranges, done_bytes }
            }
        };
        let hold = session.hold()?;
        let before = state.done_bytes;
        let piece_bytes = hold.device.limiter().piece_bytes(VERIFY_PIECE_BYTES);
        for _ in 0..VERIFY_SAMPLES {
            let left = piece_bytes.saturating_sub(state.done_bytes - before);
            let Some(part) = part_at(&state.ranges, state.done_bytes, left).filter(|_| left > 0)
            else {
                break;
            };
            // What cannot be read is no proof that something else is there: it is read again later, from here on.
            let nonzero = hold.device.find_nonzero(part).map_err(|error| Refusal {
                retry: Retry::Later,
                ..Refusal::of_host(Reason::ReadFailed, &error)
            })?;
            if let Some(at) = nonzero {
                let message = format!("{}: byte {at} is not zero", hold.seen.facts.name);
                return Err(Refusal::new(Reason::VerifyFailed, message, Retry::OnChange));
            }
            state.done_bytes += part.bytes;
        }
        let done_bytes = state.done_bytes;
        let total_bytes = total(&state.ranges);
        if done_bytes == total_bytes {
            return Ok(Outcome::Verified {
                bytes: done_bytes,
                verify,
            });
        }
        session.verify = Some(state);
        Ok(Outcome::Partly {
            done_bytes,
            total_bytes,
            offloaded: false,
            methods: String::new(),
        })
    }

    /// Zeroes what an interrupted mkfs may have written, a piece at a time.
    pub(super) fn clear(&self, session: &mut Session) -> Result<Outcome, Refusal> {
        self.begin(session)?;
        let done_bytes = session.cleared_bytes;
        let hold = session.hold()?;
        let areas = signature_areas(hold.device.size_bytes());
        let piece_bytes = hold.device.limiter().piece_bytes(CLEAR_PIECE_BYTES);
        let Some(range) = part_at(&areas, done_bytes, piece_bytes) else {
            return Ok(Outcome::Changed);
        };
        let method = Method::ZeroWrites;
        hold.device
            .zero(
                &hold.warrant,
                Piece {
                    range,
                    method,
                    trial: false,
                },
                self.spare,
            )
            .map_err(self.refused(Reason::EraseFailed))?;
        session.cleared_bytes = done_bytes + range.bytes;
        Ok(Outcome::Partly {
            done_bytes: session.cleared_bytes,
            total_bytes: total(&areas),
            offloaded: false,
            methods: String::new(),
        })
    }

    fn to_verify(&self, session: &Session, verify: EraseVerify) -> Result<Vec<Range>, Refusal> {
        let size = session.hold()?.device.size_bytes();
        let wanted = self.wanted();
        let erased = self
            .drive
            .status
            .as_ref()
            .and_then(|status| status.erased.as_ref());
        let plan = match &session.erase {
            Some(course) => course.plan().clone(),
            None => Plan::resumed(wanted, size, erased.map_or(0, |erased| erased.bytes)),
        };
        Ok(match verify {
            EraseVerify::None => Vec::new(),
            EraseVerify::Sample => plan.sample(seed(self.id())),
            EraseVerify::Full => plan.erased().to_vec(),
        })
    }

    fn wanted(&self) -> Wanted {
        match asked(self.drive).method {
            // What the drive did itself leaves it reading as it likes.
            EraseMethod::Auto | EraseMethod::Format | EraseMethod::Sanitize => Wanted::Auto,
            EraseMethod::Signatures => Wanted::Signatures,
            EraseMethod::Zero => Wanted::Zero,
        }
    }
}

fn total(ranges: &[Range]) -> u64 {
    ranges.iter().map(|range| range.bytes).sum()
}

/// What came of it all.
fn erased(secure: SecureState, course: &Course) -> Outcome {
    let (plan, zeroed) = (course.plan(), course.methods());
    match secure {
        SecureState::Done(method) => Outcome::Erased {
            methods: format!("{method}, {zeroed}"),
            bytes: plan.device_bytes(),
            level: EraseLevel::Physical,
        },
        SecureState::No | SecureState::Begun(_) => Outcome::Erased {
            methods: zeroed,
            bytes: plan.total_bytes(),
            level: if plan.is_whole() {
                EraseLevel::Logical
            } else {
                EraseLevel::Signatures
            },
        },
    }
}

/// The device cannot do it so: it says so, or says that it did and did not.
fn is_refusal(method: Method, error: &HostError) -> bool {
    matches!(error.cause, Cause::Unable(_))
        || error
            .errno()
            .is_some_and(|errno| method.is_refused_by(errno))
}

/// What stands against taking a device, apart from what it holds and whose it is; `unread` where it may be one that
/// answers no read.
fn not_to_be_taken(device: &str, seen: &Seen, unread: bool) -> Option<Refusal> {
    let may_be = |reason| WHOSE.contains(&reason) || unread && reason == Reason::ReadFailed;
    let one = seen.reasons.iter().find(|one| !may_be(one.reason))?;
    let what = match one.message.as_str() {
        "" => one.reason.meaning(),
        message => message,
    };
    let message = format!("{device}: {what}; nothing was written");
    Some(Refusal::new(one.reason, message, Retry::OnChange))
}

/// What a device holds, for people.
fn holdings(seen: &Seen) -> String {
    let kinds: BTreeSet<&str> = seen.found().iter().map(|one| one.kind.as_str()).collect();
    kinds.into_iter().collect::<Vec<_>>().join(", ")
}

/// Zeroes the claim block and lets go: nothing of the drive is left.
pub(super) fn unclaim(session: &mut Session) -> Result<Outcome, Refusal> {
    let hold = session.hold()?;
    hold.device
        .write_claim(&hold.warrant, None)
        .map_err(|error| Refusal::of_host(Reason::EraseFailed, &error))?;
    session.let_go();
    Ok(Outcome::Changed)
}

/// What the warrant of drive `id` judges.
pub(super) fn found<'s>(seen: &'s Seen, id: &str) -> Found<'s> {
    Found {
        major_minor: &seen.facts.major_minor,
        size_bytes: seen.facts.size_bytes,
        identity: &seen.fingerprint.identity,
        content: &seen.fingerprint.content,
        blank: seen.is_blank(),
        claim: seen
            .claim()
            .map(Option::<&Claim>::cloned)
            .map_err(Clone::clone),
        file_system: seen
            .holds
            .as_ref()
            .filter(|held| held.file_system)
            .map(|held| {
                let bearer = if held.ours {
                    Bearer::ThisCluster
                } else {
                    Bearer::OtherCluster
                };
                (held.id.as_str(), bearer)
            }),
        held: identity::held(&seen.facts.media),
        strangers: strangers(seen, id),
    }
}

/// Signatures that the claim on a device does not know, and that are not drive `id`'s own file system. What has no name
/// is nobody's sign: writes of ours that were broken off look like that.
fn strangers(seen: &Seen, id: &str) -> Vec<String> {
    let claim = seen.claim().ok().flatten();
    let named = claim.map_or(&[][..], |claim| claim.named.as_slice());
    let own = |one: &Signature| {
        one.kind == Kind::Xfs && (one.uuid == id || one.damaged && one.uuid.is_empty())
    };
    let stranger = |one: &&Signature| {
        !matches!(one.kind, Kind::Claim | Kind::Unknown)
            && !own(one)
            && !named.contains(&one.digest())
    };
    let strangers = seen.found().iter().filter(stranger);
    strangers
        .map(|one| {
            format!("{} {}", one.kind.as_str(), one.detail())
                .trim_end()
                .to_owned()
        })
        .collect()
}

/// A seed from a drive's id (FNV-1a).
pub(super) fn seed(id: &str) -> u64 {
    id.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
