//! The right to write to one device. It cannot be made but by a match between what a person named and what the
//! device shows now, under an exclusive hold.
//!
//! | to | the person's word | what the device must show |
//! |---|---|---|
//! | prepare | identity, content, and `force` where there is content | both, and no claim that stands against it |
//! | resume | identity | the identity, our own claim, Preparing, of this very Drive object, and no stranger |
//! | adopt | identity, and the cluster it is from | the identity, and that cluster's Formatted claim of this drive |
//! | remove with erasing | identity, and `removal` | the identity, our own claim, and no stranger |
//! | go on after a secure erase | as it was for that | the identity, and nothing at all |
//! | sanitize once more | as it was for that | the identity, a Sanitize that failed, and that it answers no read because of it |
//!
//! A stranger is a signature that was not there when the device was claimed, and is not this drive's own file system:
//! somebody made it since, and nobody named it. A device that was let be, because something was refused, must hold
//! exactly what it was left with.
//!
//! What stands against it, whatever the word: the claim or the file system of a drive of another cluster; a Formatted
//! claim or a file system of another drive of this cluster. What is of another cluster is never erased: the right to
//! adopt is the right to write the claim block alone.

use crate::claim::{CLAIM_BYTES, Claim, ClaimError, ClaimState, claim_offset};

use super::Range;

/// Who asks: the Drive object.
#[derive(Clone, Copy, Debug)]
pub struct Ours<'a> {
    /// Drive id.
    pub drive_id: &'a str,
    /// Cluster id.
    pub cluster_id: &'a str,
    /// UID of the Drive object.
    pub incarnation: &'a str,
    /// Identity that the person named.
    pub identity: &'a str,
    /// Content that the person named.
    pub content: &'a str,
}

/// What the device shows, probed while it is held exclusively.
#[derive(Clone, Debug)]
pub struct Found<'a> {
    /// `major:minor` of the held device.
    pub major_minor: &'a str,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Identity part of its fingerprint.
    pub identity: &'a str,
    /// Content part of its fingerprint.
    pub content: &'a str,
    /// Whether nothing at all was found on it.
    pub blank: bool,
    /// Its claim block.
    pub claim: Result<Option<Claim>, ClaimError>,
    /// Drive id and cluster of the XFS of ours that it bears, if it bears one.
    pub file_system: Option<(&'a str, Bearer)>,
    /// What it holds besides a claim, as a fingerprint says it.
    pub held: String,
    /// Signatures that its claim does not know and that are not this drive's own.
    pub strangers: Vec<String>,
}

/// Whose file system a device bears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bearer {
    /// A drive of this cluster.
    ThisCluster,
    /// A drive of another one.
    OtherCluster,
}

/// Why nothing may be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unwarranted {
    /// It is another device.
    #[error("the device's identity is {found}, not {wanted}")]
    Identity {
        /// What was named.
        wanted: String,
        /// What is there.
        found: String,
    },
    /// It holds something else than when it was named.
    #[error("the device's content is {found}, not {wanted} as when it was discovered")]
    Content {
        /// What was named.
        wanted: String,
        /// What is there.
        found: String,
    },
    /// It holds something else than when its preparation stopped.
    #[error("the device's content is {found}, not {left} as when its preparation stopped")]
    Left {
        /// What it was left with.
        left: String,
        /// What is there.
        found: String,
    },
    /// Somebody put something on it since it was claimed.
    #[error("the device holds {0}, which was not there when it was claimed")]
    Stranger(String),
    /// It was being erased securely, and is not blank.
    #[error("the drive was told to erase its cells and should be blank, but its content is {0}")]
    NotBlank(String),
    /// It holds data, and the word to destroy them was not given.
    #[error("the device holds data ({0})")]
    Force(String),
    /// It belongs to another cluster.
    #[error("the device is a drive of another cluster{0}")]
    OtherCluster(String),
    /// It belongs to another drive of this cluster, or to another object of this name.
    #[error("the device bears the claim of {0}")]
    OtherDrive(String),
    /// Its records are complete, so it may hold data of ours.
    #[error("the device was in use as this drive; it is mounted as it is, never prepared again")]
    InUseBefore,
    /// It has no claim of ours, though it was claimed.
    #[error("the claim block is {0}")]
    NotClaimed(&'static str),
    /// It is too small to bear a claim block.
    #[error("the device has only {0} bytes")]
    TooSmall(u64),
}

/// The right to write to one device, and to no other.
#[derive(Debug, PartialEq, Eq)]
pub struct Warrant {
    major_minor: String,
    size_bytes: u64,
    claim_offset: u64,
    scope: Scope,
}

/// How much of the device a warrant covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// The claim block is written; nothing is erased.
    Claim,
    /// The claim block is written, all else may be erased.
    Prepare,
    /// All may be erased.
    Remove,
}

impl Warrant {
    /// The right to take a device that a person named.
    pub fn to_prepare(ours: Ours<'_>, force: bool, found: &Found<'_>) -> Result<Self, Unwarranted> {
        same_identity(ours, found)?;
        not_of_others(ours, found)?;
        if was_in_use(ours, found) {
            return Err(Unwarranted::InUseBefore);
        }
        if found.content != ours.content {
            return Err(Unwarranted::Content {
                wanted: ours.content.to_owned(),
                found: found.content.to_owned(),
            });
        }
        if !(found.blank || force) {
            return Err(Unwarranted::Force(found.content.to_owned()));
        }
        Self::of(found, Scope::Prepare)
    }

    /// The right to go on with a device that this very object has claimed.
    pub fn to_resume(ours: Ours<'_>, found: &Found<'_>) -> Result<Self, Unwarranted> {
        same_identity(ours, found)?;
        let claim = own_claim(ours, found)?;
        not_of_others(ours, found)?;
        if claim.state == ClaimState::Formatted {
            return Err(Unwarranted::InUseBefore);
        }
        if claim.incarnation != ours.incarnation {
            let earlier = format!("an earlier object of this name (UID {})", claim.incarnation);
            return Err(Unwarranted::OtherDrive(earlier));
        }
        no_strangers(found)?;
        match &claim.left {
            Some(left) if *left != found.held => Err(Unwarranted::Left {
                left: left.clone(),
                found: found.held.clone(),
            }),
            Some(_) | None => Self::of(found, Scope::Prepare),
        }
    }

    /// The right to erase a drive of ours that is being removed with its data, its claim block included.
    pub fn to_remove(ours: Ours<'_>, found: &Found<'_>) -> Result<Self, Unwarranted> {
        same_identity(ours, found)?;
        not_of_others(ours, found)?;
        own_claim(ours, found)?;
        no_strangers(found)?;
        Self::of(found, Scope::Remove)
    }

    /// The right to go on with a device that was being erased securely, by this very object's word, when the agent died: the
    /// claim went with all else, and nothing has come since. With `removal` it takes the claim along, as
    /// [`to_remove`](Self::to_remove).
    pub fn to_go_on_blank(
        ours: Ours<'_>,
        removal: bool,
        found: &Found<'_>,
    ) -> Result<Self, Unwarranted> {
        same_identity(ours, found)?;
        not_of_others(ours, found)?;
        match &found.claim {
            Ok(None) if found.blank && found.file_system.is_none() => {
                let scope = if removal {
                    Scope::Remove
                } else {
                    Scope::Prepare
                };
                Self::of(found, scope)
            }
            Ok(_) | Err(_) => Err(Unwarranted::NotBlank(found.content.to_owned())),
        }
    }

    /// The right to have a drive sanitized once more that was told to by this very object's word, whose Sanitize `failed` so
    /// that it says itself that it is closed ([`Eraser::has_failed_to_sanitize`](super::Eraser::has_failed_to_sanitize)),
    /// and of which nothing could be read (`unread`): nothing can until one succeeds, so there is nothing of it to look at.
    pub fn to_sanitize_again(
        ours: Ours<'_>,
        removal: bool,
        (failed, unread): (bool, bool),
        found: &Found<'_>,
    ) -> Result<Self, Unwarranted> {
        same_identity(ours, found)?;
        not_of_others(ours, found)?;
        let nothing = found.file_system.is_none() && matches!(found.claim, Ok(None));
        if failed && unread && nothing {
            let scope = if removal {
                Scope::Remove
            } else {
                Scope::Prepare
            };
            return Self::of(found, scope);
        }
        Err(Unwarranted::NotBlank(found.content.to_owned()))
    }

    /// The right to write this cluster's claim onto a drive that a person moves here from cluster `from`.
    pub fn to_adopt(ours: Ours<'_>, from: &str, found: &Found<'_>) -> Result<Self, Unwarranted> {
        same_identity(ours, found)?;
        match &found.claim {
            Ok(Some(claim)) if claim.drive_id != ours.drive_id => {
                Err(Unwarranted::OtherDrive(format!("drive {}", claim.drive_id)))
            }
            Ok(Some(claim)) if claim.cluster_id != from => Err(Unwarranted::OtherCluster(format!(
                " ({}, not {from})",
                claim.cluster_id
            ))),
            Ok(Some(claim)) if claim.state == ClaimState::Formatted => {
                Self::of(found, Scope::Claim)
            }
            Ok(Some(_)) => Err(Unwarranted::NotClaimed(
                "that of a drive that was never completed",
            )),
            Ok(None) => Err(Unwarranted::NotClaimed("missing")),
            Err(_) => Err(Unwarranted::NotClaimed("damaged")),
        }
    }

    /// Stops the process unless `major_minor` of that size is the device that this warrant is for.
    pub fn assert_device(&self, major_minor: &str, size_bytes: u64) {
        assert!(
            self.major_minor == major_minor && self.size_bytes == size_bytes,
            "a warrant for {} of {} bytes was shown for {major_minor} of {size_bytes} bytes",
            self.major_minor,
            self.size_bytes,
        );
    }

    /// Stops the process unless the range lies on the device, outside of the claim block.
    pub fn assert_erasable(&self, range: Range) {
        let claim = Range {
            offset: self.claim_offset,
            bytes: CLAIM_BYTES,
        };
        assert!(
            self.scope != Scope::Claim && range.end() <= self.size_bytes && !range.overlaps(claim),
            "{range:?} is not erasable on a device of {} bytes",
            self.size_bytes,
        );
    }

    /// Where the claim block is.
    #[must_use]
    pub const fn claim_offset(&self) -> u64 {
        self.claim_offset
    }

    /// Whether the claim block itself may be zeroed.
    #[must_use]
    pub fn takes_claim(&self) -> bool {
        self.scope == Scope::Remove
    }

    fn of(found: &Found<'_>, scope: Scope) -> Result<Self, Unwarranted> {
        Ok(Self {
            major_minor: found.major_minor.to_owned(),
            size_bytes: found.size_bytes,
            claim_offset: claim_offset(found.size_bytes)
                .ok_or(Unwarranted::TooSmall(found.size_bytes))?,
            scope,
        })
    }
}

fn same_identity(ours: Ours<'_>, found: &Found<'_>) -> Result<(), Unwarranted> {
    if found.identity == ours.identity {
        return Ok(());
    }
    Err(Unwarranted::Identity {
        wanted: ours.identity.to_owned(),
        found: found.identity.to_owned(),
    })
}

/// Refuses what is another cluster's, and what another drive of this one has in use.
fn not_of_others(ours: Ours<'_>, found: &Found<'_>) -> Result<(), Unwarranted> {
    match found.file_system {
        Some((id, Bearer::OtherCluster)) => {
            return Err(Unwarranted::OtherCluster(format!(" (drive {id})")));
        }
        Some((id, Bearer::ThisCluster)) if id != ours.drive_id && !never_in_use(id, found) => {
            return Err(Unwarranted::OtherDrive(format!("drive {id}")));
        }
        Some(_) | None => {}
    }
    match &found.claim {
        Ok(Some(claim)) if claim.cluster_id != ours.cluster_id => {
            Err(Unwarranted::OtherCluster(format!(
                " (drive {} of cluster {})",
                claim.drive_id, claim.cluster_id
            )))
        }
        Ok(Some(claim))
            if claim.state == ClaimState::Formatted && claim.drive_id != ours.drive_id =>
        {
            Err(Unwarranted::OtherDrive(format!("drive {}", claim.drive_id)))
        }
        // A claim of a later version may be anybody's.
        Err(ClaimError::Version(version)) => Err(Unwarranted::OtherDrive(format!(
            "a later version (format {version})"
        ))),
        // A claim that was never in use, or is damaged, is content like any other: the fingerprint names it.
        Ok(_) | Err(ClaimError::Damaged | ClaimError::Field(_)) => Ok(()),
    }
}

fn no_strangers(found: &Found<'_>) -> Result<(), Unwarranted> {
    match found.strangers.as_slice() {
        [] => Ok(()),
        strangers => Err(Unwarranted::Stranger(strangers.join(", "))),
    }
}

/// Whether drive `id` was claimed on this device and never completed: it cannot hold data.
fn never_in_use(id: &str, found: &Found<'_>) -> bool {
    matches!(&found.claim, Ok(Some(claim)) if claim.state == ClaimState::Preparing && claim.drive_id == id)
}

/// Whether this very drive may hold data there.
fn was_in_use(ours: Ours<'_>, found: &Found<'_>) -> bool {
    let formatted = matches!(&found.claim, Ok(Some(claim)) if claim.state == ClaimState::Formatted);
    let bears = found.file_system.is_some_and(|(id, _)| id == ours.drive_id);
    formatted || (bears && !never_in_use(ours.drive_id, found))
}

fn own_claim<'f>(ours: Ours<'_>, found: &'f Found<'_>) -> Result<&'f Claim, Unwarranted> {
    let claim = match &found.claim {
        Ok(Some(claim)) => claim,
        Ok(None) => return Err(Unwarranted::NotClaimed("missing")),
        Err(_) => return Err(Unwarranted::NotClaimed("damaged")),
    };
    if claim.cluster_id != ours.cluster_id {
        return Err(Unwarranted::OtherCluster(format!(
            " (drive {} of cluster {})",
            claim.drive_id, claim.cluster_id
        )));
    }
    if claim.drive_id != ours.drive_id {
        return Err(Unwarranted::OtherDrive(format!("drive {}", claim.drive_id)));
    }
    Ok(claim)
}

#[cfg(test)]
mod tests;
