//! Why nothing was done for a volume, as one word and its particulars.

use api::Reason;
use tonic::Status;

use crate::host::{Cause, HostError};
use crate::registry::DriveUnavailable;

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Refusal {
    /// The one word.
    pub reason: Reason,
    /// Particulars.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

impl From<DriveUnavailable> for Refusal {
    fn from(error: DriveUnavailable) -> Self {
        let message = match &error {
            DriveUnavailable::NotMounted(_) => error.to_string(),
            DriveUnavailable::Worker { source, .. } => format!("{error}: {source}"),
        };
        Self::new(error.reason(), message)
    }
}

impl From<HostError> for Refusal {
    fn from(error: HostError) -> Self {
        Self::new(reason(&error), error.sentence())
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        api::status::status(refusal.reason, &refusal.message)
    }
}

/// The errno first, for it says what the caller can do; the verb where it says nothing.
fn reason(error: &HostError) -> Reason {
    match error.errno() {
        _ if error.is_medium() => return Reason::DriveUnavailable,
        _ if error.is_busy() => return Reason::StillPublished,
        Some(libc::EROFS) => return Reason::DriveReadOnly,
        Some(libc::ENOSPC | libc::EDQUOT) => return Reason::InsufficientCapacity,
        Some(_) | None => {}
    }
    let refused = matches!(error.cause, Cause::Refused(_));
    match error.verb {
        "bind" | "mount" | "mount on" if refused => Reason::TargetConflict,
        "bind" | "mount" => Reason::MountFailed,
        "set the quota of" | "set the project of" | "read the quota of" => Reason::QuotaFailed,
        _ => Reason::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    #[test]
    fn what_the_host_says_becomes_a_reason() {
        for (verb, errno, wanted) in [
            ("write", Errno::EIO, Reason::DriveUnavailable),
            ("write", Errno::ENOSPC, Reason::InsufficientCapacity),
            ("make directory", Errno::EROFS, Reason::DriveReadOnly),
            ("unmount", Errno::EBUSY, Reason::StillPublished),
            ("bind", Errno::ENOENT, Reason::MountFailed),
            ("set the quota of", Errno::EINVAL, Reason::QuotaFailed),
            ("list", Errno::EACCES, Reason::Internal),
        ] {
            let error = HostError::io(verb, "/x", errno);
            assert_eq!(Refusal::from(error).reason, wanted, "{verb} {errno}");
        }
        let occupied = HostError::refused("bind", "/x", "/dev/sda is mounted there");
        let refusal = Refusal::from(occupied);
        assert_eq!(refusal.reason, Reason::TargetConflict);
        assert_eq!(refusal.message, "bind /x: /dev/sda is mounted there");
    }
}
