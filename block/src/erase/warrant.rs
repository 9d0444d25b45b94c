//! The right to write to one device. It cannot be made but by a match between what a person named and what the
//! device shows now, under an exclusive hold.
//!
//! | to | the person's word | what the device must show |
//! |---|---|---|
//! | prepare | identity, content, and `force` where there is content | both, and no claim that stands against it |
//! | resume | identity | the identity, and our own claim, Preparing, of this very Drive object |
//! | adopt | identity, and the cluster it is from | the identity, and that cluster's Formatted claim of this drive |
//! | remove with erasing | identity, and `removal` | the identity, and our own claim |
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
        match claim {
            claim if claim.state == ClaimState::Formatted => Err(Unwarranted::InUseBefore),
            claim if claim.incarnation != ours.incarnation => Err(Unwarranted::OtherDrive(
                format!("an earlier object of this name (UID {})", claim.incarnation),
            )),
            _ => Self::of(found, Scope::Prepare),
        }
    }

    /// The right to erase a drive of ours that is being removed with its data, its claim block included.
    pub fn to_remove(ours: Ours<'_>, found: &Found<'_>) -> Result<Self, Unwarranted> {
        same_identity(ours, found)?;
        not_of_others(ours, found)?;
        own_claim(ours, found)?;
        Self::of(found, Scope::Remove)
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
        Some((id, Bearer::ThisCluster)) if id != ours.drive_id && !never_in_use(ours, found) => {
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

/// Whether a drive of this cluster was claimed on this device and never completed. Such a claim is only written where no
/// drive in use stands, so a file system of ours under it, of that drive or of one given up before it, holds no data.
fn never_in_use(ours: Ours<'_>, found: &Found<'_>) -> bool {
    matches!(&found.claim, Ok(Some(claim)) if claim.state == ClaimState::Preparing && claim.cluster_id == ours.cluster_id)
}

/// Whether this very drive may hold data there.
fn was_in_use(ours: Ours<'_>, found: &Found<'_>) -> bool {
    let formatted = matches!(&found.claim, Ok(Some(claim)) if claim.state == ClaimState::Formatted);
    let bears = found.file_system.is_some_and(|(id, _)| id == ours.drive_id);
    formatted || (bears && !never_in_use(ours, found))
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
mod tests {
    use super::*;

    const OURS: Ours<'_> = Ours {
        drive_id: "d1",
        cluster_id: "c1",
        incarnation: "u1",
        identity: "i1",
        content: "x1",
    };

    fn found() -> Found<'static> {
        Found {
            major_minor: "7:1",
            size_bytes: 1 << 30,
            identity: "i1",
            content: "x1",
            blank: false,
            claim: Ok(None),
            file_system: None,
        }
    }

    fn claim(state: ClaimState, drive: &str, cluster: &str, incarnation: &str) -> Claim {
        Claim {
            state,
            drive_id: drive.into(),
            cluster_id: cluster.into(),
            incarnation: incarnation.into(),
            identity: "i1".into(),
        }
    }

    /// The three rights, each as the refusal's first word or `-`.
    fn rights(found: &Found<'_>, force: bool) -> [String; 3] {
        [
            Warrant::to_prepare(OURS, force, found),
            Warrant::to_resume(OURS, found),
            Warrant::to_remove(OURS, found),
        ]
        .map(|right| match right {
            Ok(_) => "-".into(),
            Err(why) => format!("{why:?}")
                .chars()
                .take_while(|c| c.is_alphanumeric())
                .collect(),
        })
    }

    use ClaimState::{Formatted, Preparing};
    type Change = fn(&mut Found<'static>);

    /// Case, what the device shows beside data with a matching fingerprint, the person's force, and the three rights.
    const CASES: &[(&str, Change, bool, [&str; 3])] = &[
        (
            "blank",
            |f| f.blank = true,
            false,
            ["-", "NotClaimed", "NotClaimed"],
        ),
        (
            "data, no force",
            |_| {},
            false,
            ["Force", "NotClaimed", "NotClaimed"],
        ),
        (
            "data, force",
            |_| {},
            true,
            ["-", "NotClaimed", "NotClaimed"],
        ),
        (
            "content changed",
            |f| f.content = "x2",
            true,
            ["Content", "NotClaimed", "NotClaimed"],
        ),
        ("other device", |f| f.identity = "i2", true, ["Identity"; 3]),
        (
            "too small",
            |f| {
                f.size_bytes = 4096;
                f.blank = true;
            },
            false,
            ["TooSmall", "NotClaimed", "NotClaimed"],
        ),
        (
            "our claim",
            |f| f.claim = Ok(Some(claim(Preparing, "d1", "c1", "u1"))),
            false,
            ["Force", "-", "-"],
        ),
        (
            "our claim, other device",
            |f| {
                f.claim = Ok(Some(claim(Preparing, "d1", "c1", "u1")));
                f.identity = "i2";
            },
            true,
            ["Identity"; 3],
        ),
        (
            "an earlier object's claim",
            |f| f.claim = Ok(Some(claim(Preparing, "d1", "c1", "u0"))),
            true,
            ["-", "OtherDrive", "-"],
        ),
        (
            "in use as ours",
            |f| f.claim = Ok(Some(claim(Formatted, "d1", "c1", "u1"))),
            true,
            ["InUseBefore", "InUseBefore", "-"],
        ),
        (
            "our file system, claim gone",
            |f| f.file_system = Some(("d1", Bearer::ThisCluster)),
            true,
            ["InUseBefore", "NotClaimed", "NotClaimed"],
        ),
        (
            "another drive, never in use",
            |f| {
                f.claim = Ok(Some(claim(Preparing, "d2", "c1", "u2")));
                f.file_system = Some(("d2", Bearer::ThisCluster));
            },
            true,
            ["-", "OtherDrive", "OtherDrive"],
        ),
        (
            "the remains of another drive under our claim",
            |f| {
                f.claim = Ok(Some(claim(Preparing, "d1", "c1", "u1")));
                f.file_system = Some(("d2", Bearer::ThisCluster));
            },
            true,
            ["-", "-", "-"],
        ),
        (
            "the remains of one drive under the claim of a second",
            |f| {
                f.claim = Ok(Some(claim(Preparing, "d3", "c1", "u3")));
                f.file_system = Some(("d2", Bearer::ThisCluster));
            },
            true,
            ["-", "OtherDrive", "OtherDrive"],
        ),
        (
            "another cluster's file system under our claim",
            |f| {
                f.claim = Ok(Some(claim(Preparing, "d1", "c1", "u1")));
                f.file_system = Some(("d2", Bearer::OtherCluster));
            },
            true,
            ["OtherCluster"; 3],
        ),
        (
            "another drive",
            |f| f.claim = Ok(Some(claim(Formatted, "d2", "c1", "u2"))),
            true,
            ["OtherDrive"; 3],
        ),
        (
            "another drive, claim gone",
            |f| f.file_system = Some(("d2", Bearer::ThisCluster)),
            true,
            ["OtherDrive", "NotClaimed", "OtherDrive"],
        ),
        (
            "another cluster's claim",
            |f| f.claim = Ok(Some(claim(Preparing, "d1", "c2", "u1"))),
            true,
            ["OtherCluster"; 3],
        ),
        (
            "another cluster, claim gone",
            |f| f.file_system = Some(("d1", Bearer::OtherCluster)),
            true,
            ["OtherCluster", "NotClaimed", "OtherCluster"],
        ),
        (
            "damaged claim, no force",
            |f| f.claim = Err(ClaimError::Damaged),
            false,
            ["Force", "NotClaimed", "NotClaimed"],
        ),
        (
            "damaged claim, force",
            |f| f.claim = Err(ClaimError::Damaged),
            true,
            ["-", "NotClaimed", "NotClaimed"],
        ),
        (
            "a later version's claim",
            |f| f.claim = Err(ClaimError::Version(2)),
            true,
            ["OtherDrive", "NotClaimed", "OtherDrive"],
        ),
    ];

    #[test]
    fn who_may_write() {
        for (name, change, force, expected) in CASES {
            let mut found = found();
            change(&mut found);
            assert_eq!(
                rights(&found, *force),
                expected.map(str::to_owned),
                "{name}"
            );
        }
    }

    #[test]
    fn a_drive_moves_here_only_from_the_cluster_named() {
        use ClaimState::{Formatted, Preparing};
        let right = |claim, from: &str| {
            let found = Found { claim, ..found() };
            Warrant::to_adopt(OURS, from, &found).map(|warrant| warrant.scope)
        };
        let theirs = || Ok(Some(claim(Formatted, "d1", "c2", "u9")));
        assert_eq!(right(theirs(), "c2"), Ok(Scope::Claim));
        assert!(matches!(
            right(theirs(), "c3"),
            Err(Unwarranted::OtherCluster(_))
        ));
        let other = Ok(Some(claim(Formatted, "d2", "c2", "u9")));
        assert!(matches!(
            right(other, "c2"),
            Err(Unwarranted::OtherDrive(_))
        ));
        let incomplete = Ok(Some(claim(Preparing, "d1", "c2", "u9")));
        for missing in [incomplete, Ok(None), Err(ClaimError::Damaged)] {
            assert!(matches!(
                right(missing, "c2"),
                Err(Unwarranted::NotClaimed(_))
            ));
        }
    }

    #[test]
    fn a_warrant_is_for_one_device_and_spares_the_claim() {
        let found = Found {
            blank: true,
            ..found()
        };
        let warrant = Warrant::to_prepare(OURS, false, &found).unwrap();
        warrant.assert_device("7:1", 1 << 30);
        warrant.assert_erasable(Range {
            offset: 0,
            bytes: warrant.claim_offset(),
        });
        let refused = [
            Range {
                offset: 0,
                bytes: warrant.claim_offset() + 1,
            },
            Range {
                offset: warrant.claim_offset() + 4095,
                bytes: 1,
            },
            Range {
                offset: 1 << 30,
                bytes: 1,
            },
            Range {
                offset: u64::MAX,
                bytes: u64::MAX,
            },
        ];
        for range in refused {
            assert!(
                std::panic::catch_unwind(|| warrant.assert_erasable(range)).is_err(),
                "{range:?}"
            );
        }
        for (device, size) in [("7:2", 1 << 30), ("7:1", 1 << 31)] {
            assert!(std::panic::catch_unwind(|| warrant.assert_device(device, size)).is_err());
        }
    }
}
