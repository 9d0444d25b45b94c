//! Which objects a verb is about. A name or id that is given must exist, and its beginning suffices where it is the
//! beginning of one alone; flags narrow down, and matching nothing is exit code 1. A verb that changes something wants
//! a selector or `--all`: nothing is changed by default.

use std::collections::BTreeSet;

use api::{AccessTier, Drive, DrivePhase, Reason, ellipsis};
use clap::Args;
use kube::ResourceExt as _;

use crate::advice::{Refusal, Stop};

/// Shortest beginning of an id that is taken for it.
const PREFIX_MIN: usize = 4;
/// Digits of an id that tables show.
const SHORT: usize = 8;

/// The first digits of an id.
pub(crate) fn short(id: &str) -> &str {
    id.get(..SHORT).unwrap_or(id)
}

/// Flags that pick drives.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct DriveArgs {
    /// Ids of drives, or their first digits
    #[arg(value_name = "DRIVE")]
    pub(crate) ids: Vec<String>,
    #[command(flatten)]
    pub(crate) flags: DriveFlags,
}

/// The same without ids.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct DriveFlags {
    /// On these nodes, such as node-{1...4}
    #[arg(short, long, value_name = "NODE", value_delimiter = ',')]
    pub(crate) node: Vec<String>,
    /// On these devices, such as nvme{0...3}n1
    #[arg(short, long, value_name = "DEVICE", value_delimiter = ',')]
    pub(crate) drive: Vec<String>,
    /// In this state
    #[arg(long, value_name = "STATUS", value_delimiter = ',')]
    pub(crate) status: Vec<String>,
    /// Of this access tier
    #[arg(long, value_name = "TIER", value_delimiter = ',')]
    pub(crate) tier: Vec<AccessTier>,
    /// With this label: k, k=v, k!=v
    #[arg(short, long, value_name = "LABEL", value_delimiter = ',')]
    pub(crate) label: Vec<LabelTerm>,
    /// All of them
    #[arg(long)]
    pub(crate) all: bool,
}

impl DriveArgs {
    /// Whether anything was said.
    pub(crate) fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.flags.is_empty()
    }

    /// The drives meant, for a verb that changes them.
    pub(crate) fn pick(&self, drives: &[Drive]) -> Result<Vec<Drive>, Stop> {
        if self.is_empty() {
            return Err(Stop::Usage(
                "say which drives: their ids, --node, --drive, --status, --tier, --label or --all"
                    .to_owned(),
            ));
        }
        self.filter(drives)
    }

    /// The drives meant; all where nothing was said.
    pub(crate) fn filter(&self, drives: &[Drive]) -> Result<Vec<Drive>, Stop> {
        let filter = DriveFilter::new(self)?;
        let ids = by_names(&self.ids, drives.iter().map(|d| d.name_any()), "drive")?;
        let picked: Vec<_> = drives
            .iter()
            .filter(|d| self.ids.is_empty() || ids.contains(&d.name_any()))
            .filter(|d| filter.matches(d))
            .cloned()
            .collect();
        if picked.is_empty() && !self.is_empty() && !self.flags.all {
            return Err(nothing("drive"));
        }
        Ok(picked)
    }
}

impl DriveFlags {
    fn is_empty(&self) -> bool {
        !self.all
            && self.node.is_empty()
            && self.drive.is_empty()
            && self.status.is_empty()
            && self.tier.is_empty()
            && self.label.is_empty()
    }
}

/// Nothing matched.
pub(crate) fn nothing(what: &str) -> Stop {
    Stop::refused(
        Refusal::new(Reason::NothingMatched, "")
            .detail(format!("no {what} matches"))
            .next(format!("kubectl ringpv list {what}s")),
    )
}

/// The full names for what was typed: each a name, or the beginning of exactly one.
pub(crate) fn by_names(
    typed: &[String],
    names: impl Iterator<Item = String>,
    what: &str,
) -> Result<BTreeSet<String>, Stop> {
    let names: BTreeSet<_> = names.collect();
    let mut picked = BTreeSet::new();
    let mut refusals = Vec::new();
    for text in typed {
        if names.contains(text) {
            picked.insert(text.clone());
            continue;
        }
        let begins: Vec<_> = names
            .iter()
            .filter(|n| n.starts_with(text.as_str()))
            .collect();
        match begins.as_slice() {
            [one] if text.len() >= PREFIX_MIN => {
                picked.insert((*one).clone());
            }
            [] | [_] => refusals.push(
                Refusal::new(Reason::NothingMatched, "")
                    .detail(format!("no {what} is called {text}"))
                    .next(format!("kubectl ringpv list {what}s")),
            ),
            several => {
                let several: Vec<_> = several.iter().map(|n| n.as_str()).collect();
                refusals.push(
                    Refusal::new(Reason::AmbiguousName, text.as_str())
                        .detail(format!("it begins {}", several.join(", "))),
                );
            }
        }
    }
    if refusals.is_empty() {
        Ok(picked)
    } else {
        Err(Stop::Refused(refusals))
    }
}

/// A list of names with ellipses, spelt out. Empty matches all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names(BTreeSet<String>);

impl Names {
    /// Spells ellipses out; `/dev/` before a device is left away.
    pub(crate) fn new(patterns: &[String], flag: &str) -> Result<Self, Stop> {
        let mut names = BTreeSet::new();
        for pattern in patterns {
            let pattern = pattern.strip_prefix("/dev/").unwrap_or(pattern);
            let spelt =
                ellipsis::expand(pattern).map_err(|e| Stop::Usage(format!("{flag}: {e}")))?;
            names.extend(spelt);
        }
        Ok(Self(names))
    }

    /// Whether a name is among them.
    pub(crate) fn matches(&self, name: &str) -> bool {
        self.0.is_empty() || self.0.contains(name)
    }
}

struct DriveFilter<'a> {
    nodes: Names,
    devices: Names,
    statuses: Vec<Status>,
    flags: &'a DriveFlags,
}

/// What `--status` may say of a drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Phase(DrivePhase),
    Cordoned,
    Slow,
}

impl Status {
    fn read(text: &str) -> Result<Self, Stop> {
        let phase = DrivePhase::ALL
            .into_iter()
            .find(|p| format!("{p:?}").eq_ignore_ascii_case(text));
        match text.to_ascii_lowercase().as_str() {
            "cordoned" => Ok(Self::Cordoned),
            "slow" => Ok(Self::Slow),
            _ => phase.map(Self::Phase).ok_or_else(|| {
                let phases: Vec<_> = DrivePhase::ALL
                    .iter()
                    .map(|p| format!("{p:?}").to_lowercase())
                    .collect();
                Stop::Usage(format!(
                    "--status {text}: it is one of {}, cordoned, slow",
                    phases.join(", ")
                ))
            }),
        }
    }

    fn matches(self, drive: &Drive) -> bool {
        let status = drive.status.as_ref();
        match self {
            Self::Phase(phase) => status.map(|s| s.phase).unwrap_or_default() == phase,
            Self::Cordoned => drive.spec.cordoned,
            Self::Slow => status
                .and_then(|s| s.verdict.as_ref())
                .is_some_and(|v| v.state == api::drive::HealthState::Slow),
        }
    }
}

impl<'a> DriveFilter<'a> {
    fn new(args: &'a DriveArgs) -> Result<Self, Stop> {
        let flags = &args.flags;
        Ok(Self {
            nodes: Names::new(&flags.node, "--node")?,
            devices: Names::new(&flags.drive, "--drive")?,
            statuses: flags
                .status
                .iter()
                .map(|s| Status::read(s))
                .collect::<Result<_, _>>()?,
            flags,
        })
    }

    fn matches(&self, drive: &Drive) -> bool {
        let tiers = &self.flags.tier;
        self.nodes.matches(&drive.spec.node)
            && self.devices.matches(device_name(drive))
            && (self.statuses.is_empty() || self.statuses.iter().any(|s| s.matches(drive)))
            && (tiers.is_empty() || tiers.contains(&drive.spec.access_tier))
            && self
                .flags
                .label
                .iter()
                .all(|term| term.matches(drive.labels()))
    }
}

/// What the kernel calls a drive's device: now, or when it was discovered.
pub(crate) fn device_name(drive: &Drive) -> &str {
    let now = drive.status.as_ref().and_then(|s| s.device.as_ref());
    now.map_or(drive.spec.device.name.as_str(), |d| d.name.as_str())
}

/// A drive as sentences call it: `drive 1a2b3c4d (nvme0n1 on node-1)`.
pub(crate) fn drive_label(drive: &Drive) -> String {
    format!(
        "drive {} ({} on {})",
        short(&drive.name_any()),
        device_name(drive),
        drive.spec.node
    )
}

/// One term of `--label`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LabelTerm {
    /// The label is there.
    Has(String),
    /// The label has the value.
    Is(String, String),
    /// The label has another value, or is not there.
    IsNot(String, String),
}

impl std::str::FromStr for LabelTerm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let term = if let Some((key, value)) = text.split_once("!=") {
            Self::IsNot(key.to_owned(), value.to_owned())
        } else if let Some((key, value)) = text.split_once('=') {
            Self::Is(key.to_owned(), value.trim_start_matches('=').to_owned())
        } else {
            Self::Has(text.to_owned())
        };
        let (Self::Has(key) | Self::Is(key, _) | Self::IsNot(key, _)) = &term;
        if key.is_empty() {
            return Err("it reads key, key=value or key!=value".to_owned());
        }
        Ok(term)
    }
}

impl LabelTerm {
    /// Whether an object with these labels is meant.
    pub(crate) fn matches(&self, labels: &std::collections::BTreeMap<String, String>) -> bool {
        match self {
            Self::Has(key) => labels.contains_key(key),
            Self::Is(key, value) => labels.get(key) == Some(value),
            Self::IsNot(key, value) => labels.get(key) != Some(value),
        }
    }
}
