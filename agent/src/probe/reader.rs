//! Looks at the machine, blocking: the facts of all devices, and of one device afresh with what it holds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use block::probe::{Contents, ProbeError, Target};

use super::facts::{DeviceFacts, Media};
use super::sysfs::{Root, SysfsError};
use super::{Policy, mounts, sysfs, worth_reading};

/// What is looked at, and by which rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    /// Where the machine's trees are.
    pub root: Root,
    /// What a device must be.
    pub policy: Policy,
    /// Only devices of these names are shown and read. `None`: all.
    pub only: Option<BTreeSet<String>>,
}

/// All devices as sysfs, mounts and swaps show them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// By kernel name; what is not shown as well, for others are built of it.
    pub facts: BTreeMap<String, DeviceFacts>,
    /// Whether the host's mount table could be read.
    pub sees_host_mounts: bool,
}

impl Reader {
    /// All facts but what devices hold; each device is told of at once, but for its `partitions`.
    ///
    /// # Errors
    /// sysfs cannot be read.
    pub fn survey(&self, tell: impl FnMut(&DeviceFacts)) -> Result<Survey, SysfsError> {
        let usage = mounts::read(&self.root.proc, &self.root.dev);
        Ok(Survey {
            facts: sysfs::read_all(&self.root, &usage, tell)?,
            sees_host_mounts: usage.of_host,
        })
    }

    /// Whether a device is shown at all.
    #[must_use]
    pub fn shows(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(name))
    }

    /// Whether a device is shown and read.
    #[must_use]
    pub fn reads(&self, facts: &DeviceFacts) -> bool {
        self.shows(&facts.name) && worth_reading(facts, &self.policy)
    }

    /// Reads what one device holds, now. Blocks as long as the device does.
    #[must_use]
    pub fn read_media(&self, facts: &DeviceFacts) -> Media {
        if worth_reading(facts, &self.policy) {
            media_of(block::probe::read(&target_of(facts)))
        } else {
            Media::Unread
        }
    }
}

/// A device as the prober takes it.
#[must_use]
pub fn target_of(facts: &DeviceFacts) -> Target {
    Target {
        path: facts.path.clone(),
        size_bytes: facts.size_bytes,
    }
}

/// A prober's answer as a fact.
#[must_use]
pub fn media_of(answer: Result<Contents, ProbeError>) -> Media {
    match answer {
        Ok(Contents { found, claim }) => Media::Read { found, claim },
        // Always in the same words: a silent device shall not make news each time it is asked.
        Err(error) if error.is_unresponsive() => Media::Unresponsive {
            message: "it did not answer in time".to_owned(),
        },
        Err(error) => Media::Failed {
            message: chain(&error),
        },
    }
}

/// An error with all its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// The name in sysfs of what a person or object calls a device: with or without `/dev/`.
#[must_use]
pub fn kernel_name(device: &str) -> &str {
    Path::new(device)
        .strip_prefix("/dev")
        .ok()
        .and_then(Path::to_str)
        .unwrap_or(device)
}
