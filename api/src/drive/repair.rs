//! A file system that xfs_repair looks over, by a person's word, and what came of it.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Phases of xfs_repair.
pub const REPAIR_PHASES: u32 = 7;

/// A person's word for one run of xfs_repair. Heeded while the drive is suspended and no volume of it is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Repair {
    /// Names this run: another one asks for another run.
    #[schemars(length(min = 1, max = 64))]
    pub id: String,
    /// What it may do.
    #[serde(default)]
    pub mode: RepairMode,
}

/// What a run of xfs_repair may do.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum RepairMode {
    /// Look, and write nothing (`-n`).
    Check,
    /// Mend what is damaged. What cannot be mended is lost; files that have lost their names go to `lost+found`.
    #[default]
    Repair,
    /// The same for a log that no mount can replay: it is zeroed (`-L`), and with it goes what was changed last.
    ZeroLog,
}

impl RepairMode {
    /// Whether it writes to the device.
    #[must_use]
    pub const fn writes(self) -> bool {
        !matches!(self, Self::Check)
    }
}

/// What a run of xfs_repair came to.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum RepairOutcome {
    /// Nothing was wrong.
    Clean,
    /// Something is wrong, and was left as it is: only a look was asked for.
    Damaged,
    /// What was wrong is mended.
    Repaired,
    /// The log holds changes that the kernel could not replay; nothing was written.
    DirtyLog,
    /// xfs_repair did not come to its end, or could not mend it.
    Failed,
}

impl RepairOutcome {
    /// What it means, as the end of a sentence about the drive's file system.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Clean => "is clean",
            Self::Damaged => "is damaged; nothing was changed",
            Self::Repaired => "was damaged, and is repaired",
            Self::DirtyLog => "has a log that the kernel cannot replay; nothing was changed",
            Self::Failed => "could not be repaired",
        }
    }

    /// Whether the file system is well.
    #[must_use]
    pub const fn is_well(self) -> bool {
        matches!(self, Self::Clean | Self::Repaired)
    }
}

/// The latest run of xfs_repair. The agent's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RepairReport {
    /// The word that it follows.
    pub id: String,
    /// What it was allowed to do.
    pub mode: RepairMode,
    /// What it came to.
    pub outcome: RepairOutcome,
    /// The end of what xfs_repair printed, and before it what a mount said that was to replay the log.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log: String,
    /// When it ended.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub at: Timestamp,
}
