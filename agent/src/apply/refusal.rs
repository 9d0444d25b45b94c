//! Why an action was not done: one word, one sentence, and when to try again.

use api::Reason;
use block::erase::Unwarranted;

use crate::host::{Cause, HostError};

/// The very device, but not as it was: what is on it now is somebody's, or nothing at all, and a person says which.
const WAY_OUT: &str = "kubectl ringpv remove without --erase lets it go as it is, then discover and init --dangerous take it anew";

/// When a refused action is worth another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// After a while, by itself.
    Later,
    /// When the Drive or the device changes.
    OnChange,
}

/// An action that was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Refusal {
    /// Why, as one word.
    pub reason: Reason,
    /// Why, with particulars.
    pub message: String,
    /// When to try again.
    pub retry: Retry,
}

impl Refusal {
    /// A refusal.
    pub fn new(reason: Reason, message: impl Into<String>, retry: Retry) -> Self {
        Self {
            reason,
            message: message.into(),
            retry,
        }
    }

    /// The refusal for what the host could not do: `reason`, unless the error says something more special.
    #[must_use]
    pub fn of_host(reason: Reason, error: &HostError) -> Self {
        let special = match &error.cause {
            Cause::ProgramMissing("mkfs.xfs") => Some(Reason::MkfsMissing),
            Cause::Io(_) if error.is_busy() && error.verb == "open" => Some(Reason::OpenedByOther),
            Cause::Io(_) if error.is_not_found() && error.verb == "open" => {
                Some(Reason::DeviceNotFound)
            }
            Cause::Io(_)
            | Cause::ProgramMissing(_)
            | Cause::Program { .. }
            | Cause::TimedOut(_)
            | Cause::Refused(_)
            | Cause::Unable(_) => None,
        };
        Self::new(special.unwrap_or(reason), error.sentence(), Retry::Later)
    }

    /// The refusal for a missing warrant. Nothing was written, and nothing will be until something changes.
    #[must_use]
    pub fn of_warrant(device: &str, why: &Unwarranted) -> Self {
        let reason = match why {
            Unwarranted::Identity { .. }
            | Unwarranted::Content { .. }
            | Unwarranted::Left { .. }
            | Unwarranted::NotBlank(_)
            | Unwarranted::Stranger(_) => Reason::FingerprintChanged,
            Unwarranted::Force(_) => Reason::ForceRequired,
            Unwarranted::OtherCluster(_) => Reason::ForeignCluster,
            Unwarranted::OtherDrive(_) | Unwarranted::NotClaimed(_) => Reason::ClaimConflict,
            Unwarranted::InUseBefore => Reason::IdMismatch,
            Unwarranted::TooSmall(_) => Reason::TooSmall,
        };
        let message = match why {
            Unwarranted::Content { .. }
            | Unwarranted::Left { .. }
            | Unwarranted::NotBlank(_)
            | Unwarranted::Stranger(_) => {
                format!("{device}: {why}; nothing was written; {WAY_OUT}")
            }
            Unwarranted::Identity { .. }
            | Unwarranted::Force(_)
            | Unwarranted::OtherCluster(_)
            | Unwarranted::OtherDrive(_)
            | Unwarranted::NotClaimed(_)
            | Unwarranted::InUseBefore
            | Unwarranted::TooSmall(_) => format!("{device}: {why}; nothing was written"),
        };
        Self::new(reason, message, Retry::OnChange)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_is_the_special_one() {
        let io =
            |verb, errno| HostError::io(verb, "loop7", std::io::Error::from_raw_os_error(errno));
        let missing = HostError {
            verb: "mkfs.xfs",
            target: "loop7".into(),
            cause: Cause::ProgramMissing("mkfs.xfs"),
        };
        let cases = [
            (io("open", libc::EBUSY), Reason::OpenedByOther),
            (io("open", libc::ENOENT), Reason::DeviceNotFound),
            (io("zero", libc::EIO), Reason::EraseFailed),
            (missing, Reason::MkfsMissing),
        ];
        for (error, expected) in cases {
            assert_eq!(
                Refusal::of_host(Reason::EraseFailed, &error).reason,
                expected
            );
        }
        let refusal = Refusal::of_warrant("loop7", &Unwarranted::Force("gpt".into()));
        assert_eq!(
            refusal.to_string(),
            "ForceRequired: loop7: the device holds data (gpt); nothing was written"
        );
    }

    /// What a Format left that is not blank, or what came since, is not written to again: the way on is named.
    #[test]
    fn what_is_not_as_it_was_names_the_way_out() {
        let word = || "ext4".to_owned();
        for why in [
            Unwarranted::NotBlank(word()),
            Unwarranted::Stranger(word()),
            Unwarranted::Content {
                wanted: "blank".into(),
                found: word(),
            },
            Unwarranted::Left {
                left: "blank".into(),
                found: word(),
            },
        ] {
            let refusal = Refusal::of_warrant("nvme0n1", &why);
            assert_eq!(refusal.reason, Reason::FingerprintChanged);
            assert!(refusal.message.ends_with(WAY_OUT), "{refusal}");
        }
        // Of another device nothing is said that would lead to writing to it.
        let why = Unwarranted::Identity {
            wanted: "a".into(),
            found: "b".into(),
        };
        assert!(
            !Refusal::of_warrant("nvme0n1", &why)
                .message
                .contains("init")
        );
    }
}
