//! One [`Action`] through the [`Host`]: idempotent, and refused with a [`Reason`] and a sentence where it cannot be.
//!
//! Long actions are done piece by piece: `apply` answers [`Outcome::Partly`] and is called again, so that between two
//! pieces the cursor is written, a person's change of mind is seen, and the load is limited. Nothing here decides what
//! comes next; nothing here writes to a device but through the warrant that the session got from `Check`,
//! and, where mkfs and mount go by name, by a name that is kept with that device.

use std::sync::atomic::AtomicBool;

use api::drive::{DriveCapacity, EraseLevel, EraseMethod, EraseVerify, RepairReport};
use api::{Drive, LatencySummary, Reason};
use block::claim::{Claim, ClaimState, claim_offset};
use block::erase::{self, Method, Ours, Warrant};
use jiff::Timestamp;

use crate::host::{HeldDevice, Host, HostError, KeptName};
use crate::plan::Action;
use crate::probe::Seen;
use crate::records::Said;
use crate::site::Site;

mod claiming;
mod device;
mod filesystem;
mod gate;
mod refusal;
mod repair;
mod secure;

pub use refusal::{Refusal, Retry};

/// What is kept from one action of a drive to the next, while it is prepared or removed.
#[derive(Default)]
pub struct Session {
    hold: Option<Hold>,
    secure: SecureState,
    erase: Option<erase::Course>,
    verify: Option<Verify>,
    /// Of what an interrupted mkfs may have written.
    cleared_bytes: u64,
    /// Of a device that is not held while it is formatted, mounted or repaired.
    kept: Option<KeptName>,
    repair: Option<repair::Run>,
}

/// A held device, as it was when its warrant was made out.
struct Hold {
    device: Box<dyn HeldDevice>,
    warrant: Warrant,
    seen: Seen,
    /// Its claim block, as it is now.
    claim: Option<Claim>,
}

impl Hold {
    fn new(device: Box<dyn HeldDevice>, warrant: Warrant, seen: Seen) -> Self {
        let claim = seen.claim().ok().flatten().cloned();
        Self {
            device,
            warrant,
            seen,
            claim,
        }
    }
}

/// How far the drive is with erasing its cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum SecureState {
    /// It was not told to.
    #[default]
    No,
    /// It is at it.
    Begun(erase::Begun),
    /// It did, in this way.
    Done(&'static str),
}

struct Verify {
    ranges: Vec<erase::Range>,
    done_bytes: u64,
}

/// What an action came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was so already.
    Unchanged,
    /// It is so now.
    Changed,
    /// A piece of it is done; call again.
    Partly {
        /// Bytes done of the whole.
        done_bytes: u64,
        /// Bytes of the whole.
        total_bytes: u64,
        /// The device did it by itself, at a pace that nobody else sets.
        offloaded: bool,
        /// How it was erased since this was begun; empty for what erases nothing.
        methods: String,
    },
    /// The gate was passed; this is what reads at depth 1 showed.
    Gated(Box<LatencySummary>),
    /// Erasing is done.
    Erased {
        /// How: the methods in order.
        methods: String,
        /// Bytes.
        bytes: u64,
        /// What it is worth.
        level: EraseLevel,
    },
    /// The drive erased its cells, and bears its claim again.
    SecurelyErased,
    /// Reading back is done.
    Verified {
        /// Bytes that were read and found zero.
        bytes: u64,
        /// How thoroughly.
        verify: EraseVerify,
    },
    /// xfs_repair is at it; call again.
    Repairing {
        /// Which of its phases; 0 before the first.
        phase: u32,
        /// What it does there.
        doing: String,
    },
    /// xfs_repair has ended.
    RepairEnded(Box<RepairReport>),
    /// The drive is fit for use.
    Attached(Attached),
}

/// What is known of a drive that is fit for use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The kernel keeps a volume to its size.
    pub quota_enforced: bool,
    /// Bytes.
    pub capacity: DriveCapacity,
    /// What a person said of it before, as its record has it.
    pub said: Said,
}

/// Everything that one action needs.
pub struct Apply<'a> {
    /// The machine.
    pub host: &'a dyn Host,
    /// The node and its places.
    pub site: &'a Site,
    /// The Drive as it was when the plan was made.
    pub drive: &'a Drive,
    /// The time.
    pub now: Timestamp,
    /// Ends a piece that takes long, when set: somebody asks for something else by now.
    pub cancel: &'a AtomicBool,
    /// Whether there are others to whom time is left while the device zeroes by itself.
    pub spare: bool,
}

impl Session {
    /// With a device, and the right to write to it.
    fn of(device: Box<dyn HeldDevice>, warrant: Warrant, seen: Seen) -> Self {
        Self {
            hold: Some(Hold::new(device, warrant, seen)),
            ..Self::default()
        }
    }

    /// Lets go of a held device, keeping what was learned about it.
    fn let_go(&mut self) {
        self.hold = None;
    }

    fn hold(&self) -> Result<&Hold, Refusal> {
        let lost = || Refusal::new(Reason::Internal, "the device is not held", Retry::Later);
        self.hold.as_ref().ok_or_else(lost)
    }

    fn hold_mut(&mut self) -> Result<&mut Hold, Refusal> {
        let lost = || Refusal::new(Reason::Internal, "the device is not held", Retry::Later);
        self.hold.as_mut().ok_or_else(lost)
    }
}

impl Apply<'_> {
    /// Does one action, or one piece of it. A device that is held when something is refused is let be as it is.
    pub fn apply(&self, session: &mut Session, action: &Action) -> Result<Outcome, Refusal> {
        let outcome = self.act(session, action);
        if outcome.is_err()
            && let Err(refusal) = self.let_be(session)
        {
            tracing::warn!(drive = self.id(), reason = %refusal.reason, message = refusal.message, "What the device was left with could not be kept");
        }
        outcome
    }

    /// Nothing more is done for now, for a person said so: a device that is held is let be as it is.
    pub fn rest(&self, session: &mut Session) -> Result<(), Refusal> {
        self.let_be(session)
    }

    fn act(&self, session: &mut Session, action: &Action) -> Result<Outcome, Refusal> {
        match action {
            Action::Check { device, resume } => self.check(session, device, *resume),
            Action::CheckRemoval { device } => self.check_removal(session, device),
            Action::Claim => self.claim(session),
            Action::Gate => self.gate(session),
            Action::SecureErase => self.secure_erase(session),
            Action::Erase {
                done_bytes,
                total_bytes,
            } => self.erase(session, *done_bytes, *total_bytes),
            Action::Verify {
                done_bytes,
                total_bytes,
            } => self.verify(session, *done_bytes, *total_bytes),
            Action::Clear => self.clear(session),
            Action::Unclaim => device::unclaim(session),
            Action::Format { device } => self.format(session, device),
            Action::Mount { device, fresh } => self.mount(device, *fresh),
            Action::Record => self.record(),
            Action::Seal { device } => self.seal(session, device),
            Action::TakeOver { device } => self.take_over(session, device),
            Action::Relabel => self.relabel(),
            Action::Attach => self.attach(),
            Action::Unmount => self.unmount(),
            Action::Repair { device } => self.repair(session, device),
            Action::Abandon { major_minor } => self.abandon(major_minor),
            // These are for the API, and the reconciler's.
            Action::AddFinalizer | Action::DropFinalizer => Ok(Outcome::Unchanged),
        }
    }

    fn id(&self) -> &str {
        self.drive.metadata.name.as_deref().unwrap_or_default()
    }

    fn ours(&self) -> Ours<'_> {
        let fingerprint = &self.drive.spec.device.fingerprint;
        Ours {
            drive_id: self.id(),
            cluster_id: &self.site.cluster_id,
            incarnation: self.drive.metadata.uid.as_deref().unwrap_or_default(),
            identity: &fingerprint.identity,
            content: &fingerprint.content,
        }
    }

    fn own_claim(&self, state: ClaimState) -> Claim {
        let ours = self.ours();
        Claim {
            state,
            drive_id: ours.drive_id.to_owned(),
            cluster_id: ours.cluster_id.to_owned(),
            incarnation: ours.incarnation.to_owned(),
            identity: ours.identity.to_owned(),
            left: None,
            named: Vec::new(),
        }
    }

    fn refused(&self, reason: Reason) -> impl Fn(HostError) -> Refusal {
        move |error| Refusal::of_host(reason, &error)
    }
}
