//! How a refusal crosses gRPC: the code follows from the [`Reason`] alone, by one exhaustive match, and the message
//! always reads `Reason: sentence; advice`.
//!
//! What a caller does follows from the code: `RESOURCE_EXHAUSTED` makes the provisioner look for another node,
//! `UNAVAILABLE` and `ABORTED` are tried again as they are, `FAILED_PRECONDITION` after something else has happened,
//! `INVALID_ARGUMENT` and `NOT_FOUND` not at all.

use tonic::{Code, Status};

use crate::Reason;

/// The gRPC code of a reason.
#[must_use]
#[expect(clippy::too_many_lines, reason = "a table: one line a reason")]
pub const fn code(reason: Reason) -> Code {
    use Reason as R;
    match reason {
        R::Healthy
        | R::Ready
        | R::NodeHeard
        | R::QuotaSupported
        | R::UringUsed
        | R::ThreadsFaster
        | R::ThreadsChosen
        | R::Placed
        | R::Provisioned
        | R::Staged
        | R::Published
        | R::Trashed
        | R::BestEffortCapacity
        | R::BenchmarkDone => Code::Ok,

        R::InvalidArgument | R::InvalidParameter | R::Unsupported | R::FileInvalid => {
            Code::InvalidArgument
        }

        R::VolumeNotFound | R::DriveNotFound | R::DeviceNotFound => Code::NotFound,

        R::SizeConflict | R::NameConflict | R::VolumeConflict | R::TargetConflict => {
            Code::AlreadyExists
        }

        R::OperationPending => Code::Aborted,

        R::TimedOut => Code::DeadlineExceeded,

        R::CapacityExceeded => Code::OutOfRange,

        R::NoFit
        | R::NoDrives
        | R::InsufficientCapacity
        | R::TooManyVolumes
        | R::WrongTopology
        | R::WrongTier
        | R::LabelMismatch
        | R::SpreadTaken
        | R::TooSlow
        | R::LatencyUnknown
        | R::CapacityNotEnforced
        | R::NotReady
        | R::NodeSilent
        | R::Unhealthy
        | R::OverAllocated
        | R::QuotaBypassed => Code::ResourceExhausted,

        R::Pending
        | R::Preparing
        | R::Repairing
        | R::DriveUnavailable
        | R::DriveLost
        | R::DriveReadOnly
        | R::FilesystemShutdown
        | R::Unresponsive
        | R::NotLeader
        | R::NoAgent
        | R::NoCluster
        | R::SocketUnavailable
        | R::ApiUnavailable
        | R::BenchmarkRunning => Code::Unavailable,

        R::StillPublished
        | R::StillClaimed
        | R::NotStaged
        | R::EarlierData
        | R::RecordUnreadable
        | R::NotPublished
        | R::OtherNode
        | R::DriveInUse
        | R::NotSuspended
        | R::BeingRemoved
        | R::Removing
        | R::Suspended
        | R::Cordoned
        | R::TooSmall
        | R::Hidden
        | R::ReadOnlyDevice
        | R::Partitioned
        | R::HeldByOther
        | R::Mounted
        | R::SwapInUse
        | R::CdRom
        | R::RemovableMedia
        | R::LoopNotAllowed
        | R::UnsupportedKind
        | R::UnsupportedSectorSize
        | R::NoStableIdentity
        | R::DuplicateIdentity
        | R::OpenedByOther
        | R::AlreadyManaged
        | R::Adoptable
        | R::ForeignCluster
        | R::HoldsData
        | R::DuplicateDriveId
        | R::FingerprintChanged
        | R::ForceRequired
        | R::NothingMatched
        | R::AmbiguousName
        | R::NotConfirmed
        | R::AlreadyInitialized
        | R::FileExists
        | R::UnsupportedHere
        | R::ClaimConflict
        | R::GateFailed
        | R::MkfsMissing
        | R::IdMismatch
        | R::Slow
        | R::Probation
        | R::Failing
        | R::QuotaUnsupported
        | R::UringDisabled
        | R::UringRefused
        | R::UringUnsupported
        | R::UringNoMemory
        | R::UringEnded
        | R::BenchmarkRefused
        | R::StoreNewer
        | R::StoreLocked
        | R::NotRoot => Code::FailedPrecondition,

        R::ReadFailed
        | R::EraseFailed
        | R::EraseUnsupported
        | R::VerifyFailed
        | R::FormatFailed
        | R::MountFailed
        | R::RepairFailed
        | R::FilesystemDamaged
        | R::ProbeFileFailed
        | R::IoErrors
        | R::QuotaFailed
        | R::BenchmarkFailed
        | R::StoreDamaged
        | R::Internal => Code::Internal,
    }
}

/// A gRPC status of `reason`: `Reason: sentence; advice`. An empty `sentence` becomes the reason's own meaning.
#[must_use]
pub fn status(reason: Reason, sentence: &str) -> Status {
    let sentence = if sentence.is_empty() {
        reason.meaning()
    } else {
        sentence
    };
    Status::new(code(reason), text(reason, sentence))
}

/// `Reason: sentence; advice`, the form that every surface prints.
fn text(reason: Reason, sentence: &str) -> String {
    match reason.advice() {
        "" => format!("{reason}: {sentence}"),
        advice => format!("{reason}: {sentence}; {advice}"),
    }
}

/// The reason that a status made by [`status`] was made of, for clients that branch on it.
#[must_use]
pub fn reason_of(status: &Status) -> Option<Reason> {
    status.message().split_once(':')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_comes_back_from_its_status() {
        for reason in Reason::ALL {
            let status = status(*reason, "3 of 4");
            assert_eq!(reason_of(&status), Some(*reason));
            assert_eq!(status.code(), code(*reason));
            assert_eq!(
                status.message().ends_with("3 of 4"),
                reason.advice().is_empty(),
                "{status:?}"
            );
        }
        assert_eq!(reason_of(&Status::internal("no reason at all")), None);
    }

    #[test]
    fn what_callers_rely_on() {
        for (reason, wanted) in [
            (Reason::NoFit, Code::ResourceExhausted),
            (Reason::SizeConflict, Code::AlreadyExists),
            (Reason::OperationPending, Code::Aborted),
            (Reason::VolumeNotFound, Code::NotFound),
            (Reason::StillPublished, Code::FailedPrecondition),
            (Reason::NotLeader, Code::Unavailable),
            (Reason::CapacityExceeded, Code::OutOfRange),
            (Reason::InvalidParameter, Code::InvalidArgument),
        ] {
            assert_eq!(code(reason), wanted, "{reason}");
        }
        let empty = status(Reason::VolumeNotFound, "");
        assert_eq!(empty.message(), "VolumeNotFound: no such volume");
    }
}
