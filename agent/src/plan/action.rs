//! The steps of a plan.

use api::drive::Step;

/// One step, carried out by [`crate::apply`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Put the agent's finalizer on the Drive.
    AddFinalizer,
    /// Take it off: the last step of a removal.
    DropFinalizer,
    /// Hold the device, look at it again, and get the warrant to prepare it.
    Check {
        /// Kernel name.
        device: String,
        /// For going on with our own claim, instead of for taking the device.
        resume: bool,
    },
    /// Hold the device and get the warrant to erase it with its removal.
    CheckRemoval {
        /// Kernel name.
        device: String,
    },
    /// Write the claim block, Preparing.
    Claim,
    /// Measure, and compare with what the Drive asks for.
    Gate,
    /// Have the drive erase its cells, and write its claim again, which goes with them.
    SecureErase,
    /// Erase, from a cursor.
    Erase {
        /// Bytes done.
        done_bytes: u64,
        /// Bytes of the plan that was under way; 0 for a new one.
        total_bytes: u64,
    },
    /// Read back, from a cursor.
    Verify {
        /// Bytes done.
        done_bytes: u64,
        /// Bytes that were to be read back then; 0 for a beginning.
        total_bytes: u64,
    },
    /// Zero the signature areas, because an interrupted mkfs may have written to them.
    Clear,
    /// Let go of the device and make the file system.
    Format {
        /// Kernel name.
        device: String,
    },
    /// Mount at the drive's place, with the guard link.
    Mount {
        /// Kernel name.
        device: String,
        /// Whether the drive has no record yet.
        fresh: bool,
    },
    /// Write the layout, the probe file and the record.
    Record,
    /// Unmount, and set the claim to Formatted.
    Seal {
        /// Kernel name.
        device: String,
    },
    /// Look at another cluster's drive without touching it, and write our claim onto it.
    TakeOver {
        /// Kernel name.
        device: String,
    },
    /// Write our label and record onto a drive that was taken over.
    Relabel,
    /// Register the drive for use.
    Attach,
    /// Take it out of use and unmount it.
    Unmount,
    /// Detach the mounts of a device that is gone.
    Abandon {
        /// `major:minor` that it had.
        major_minor: String,
    },
    /// Have xfs_repair look over the file system of a device that is not mounted.
    Repair {
        /// Kernel name.
        device: String,
    },
    /// Zero the claim block: the end of an erasing removal.
    Unclaim,
}

impl Action {
    /// Its name, for the points at which a test lets the agent die.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::AddFinalizer => "add-finalizer",
            Self::DropFinalizer => "drop-finalizer",
            Self::Check { .. } => "check",
            Self::CheckRemoval { .. } => "check-removal",
            Self::Claim => "claim",
            Self::Gate => "gate",
            Self::SecureErase => "secure-erase",
            Self::Erase { .. } => "erase",
            Self::Verify { .. } => "verify",
            Self::Clear => "clear",
            Self::Format { .. } => "format",
            Self::Mount { fresh: true, .. } => "first-mount",
            Self::Mount { fresh: false, .. } => "mount",
            Self::Record => "record",
            Self::Seal { .. } => "seal",
            Self::TakeOver { .. } => "take-over",
            Self::Relabel => "relabel",
            Self::Attach => "attach",
            Self::Unmount => "unmount",
            Self::Abandon { .. } => "abandon",
            Self::Repair { .. } => "repair",
            Self::Unclaim => "unclaim",
        }
    }

    /// Whether the drive is in nobody's use after it.
    #[must_use]
    pub const fn unmounts(&self) -> bool {
        matches!(
            self,
            Self::Unmount | Self::Abandon { .. } | Self::Seal { .. }
        )
    }

    /// Whether it takes away what is on a device.
    #[must_use]
    pub const fn destroys(&self) -> bool {
        matches!(
            self,
            Self::Claim
                | Self::Gate
                | Self::SecureErase
                | Self::Erase { .. }
                | Self::Clear
                | Self::Format { .. }
                | Self::Repair { .. }
                | Self::Unclaim
        )
    }

    /// Bytes done and in all with which it begins; 0 for what has no bytes.
    #[must_use]
    pub const fn cursor(&self) -> (u64, u64) {
        if let Self::Erase {
            done_bytes,
            total_bytes,
        }
        | Self::Verify {
            done_bytes,
            total_bytes,
        } = self
        {
            (*done_bytes, *total_bytes)
        } else {
            (0, 0)
        }
    }

    /// The step that a person sees while it is done.
    #[must_use]
    pub const fn step(&self) -> Option<Step> {
        match self {
            Self::Check { .. } | Self::CheckRemoval { .. } => Some(Step::Check),
            Self::Claim | Self::TakeOver { .. } => Some(Step::Claim),
            Self::Gate => Some(Step::Gate),
            Self::SecureErase => Some(Step::SecureErase),
            Self::Erase { .. } | Self::Unclaim => Some(Step::Erase),
            Self::Verify { .. } => Some(Step::Verify),
            Self::Clear | Self::Format { .. } => Some(Step::Format),
            Self::Mount { .. } => Some(Step::Mount),
            Self::Record | Self::Seal { .. } | Self::Relabel => Some(Step::Record),
            Self::Unmount => Some(Step::Unmount),
            Self::Repair { .. } => Some(Step::Repair),
            Self::AddFinalizer | Self::DropFinalizer | Self::Attach | Self::Abandon { .. } => None,
        }
    }
}
