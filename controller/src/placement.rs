//! Where a volume goes: `place(request, inventory)`. Pure: a total order and no chance, so the same question has the
//! same answer, and time is part of the question.
//!
//! ```text
//!   places ─► nodes, each with its rank ─► drives ─► filters ─► scores ─► the best, and three runners-up
//!                │ not allowed                          │ refused, by reason
//!                └──────────────────────────────────────┴─────────► counts: "42 drives: 30 too small, 8 wrong tier"
//! ```
//! Order: rank of the node among the preferred places, then the weighted sum of scores, then a hash of the two names,
//! then the name. What a fit is stands in [`filter`], what is good in [`score`], what may be asked in [`request`].

mod filter;
pub mod request;
pub mod score;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use api::names::TOPOLOGY_NODE;
use api::volume::{Placement, Refusals};
use api::{AccessTier, Bytes, Reason};

use self::filter::{FILTERS, NODE_SILENT, WRONG_TOPOLOGY, short};
use self::request::{Places, Request, Segments};
use self::score::Scores;
use crate::inventory::{DriveEntry, Inventory, NodeEntry};

/// How many runners-up are kept.
const RUNNERS_UP: usize = 3;

/// What the operator allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Volumes on one drive.
    pub volumes_per_drive_max: u32,
    /// What is reported as free is weighted by latency, so that a scheduler that prefers room prefers fast nodes.
    pub capacity_by_latency: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            volumes_per_drive_max: 512,
            capacity_by_latency: false,
        }
    }
}

/// No drive can take the volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoFit {
    /// Drives looked at.
    pub considered: u32,
    /// Drives refused, by reason, most first.
    pub refused: Vec<Refusals>,
    /// The most that a drive has free which lacks nothing but room.
    pub largest_free_bytes: Option<u64>,
}

impl NoFit {
    /// The word for it.
    #[must_use]
    pub fn reason(&self) -> Reason {
        if self.considered == 0 {
            Reason::NoDrives
        } else {
            Reason::NoFit
        }
    }
}

impl fmt::Display for NoFit {
    /// "42 drives: 30 too small (at most 4 GiB free), 8 wrong tier, 4 slow or failing".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.considered == 0 {
            return f.write_str("there are no drives");
        }
        let plural = if self.considered == 1 { "" } else { "s" };
        write!(f, "{} drive{plural}", self.considered)?;
        for (index, Refusals { reason, count }) in self.refused.iter().enumerate() {
            let lead = if index == 0 { ":" } else { "," };
            write!(f, "{lead} {count} {}", short(*reason))?;
            if let (Reason::InsufficientCapacity, Some(free)) = (*reason, self.largest_free_bytes) {
                write!(f, " (at most {} free)", Bytes(free))?;
            }
        }
        Ok(())
    }
}

/// The request with what is worked out once for all drives.
struct Query<'a> {
    request: &'a Request,
    policy: Policy,
    /// Rank of each tier in the class's order, by [`tier_index`]; none where the tier is not wanted.
    tier_ranks: [Option<usize>; 4],
    /// What a drive of each tier is measured against.
    references_ns: [Option<u64>; 4],
}

/// Place of a tier in a table.
pub(crate) const fn tier_index(tier: AccessTier) -> usize {
    match tier {
        AccessTier::Hot => 0,
        AccessTier::Warm => 1,
        AccessTier::Cold => 2,
        AccessTier::Default => 3,
    }
}

impl<'a> Query<'a> {
    /// A drive is measured against its own tier; where the class does not care for tiers, against all drives, so that
    /// the fast ones win.
    fn new(request: &'a Request, inventory: &Inventory, policy: Policy) -> Self {
        let tiers = &request.class.tiers;
        let references = inventory.latency_references();
        let rank = |tier| match tiers.is_empty() {
            true => Some(0),
            false => tiers.iter().position(|wanted| *wanted == tier),
        };
        let reference = |tier| match tiers.is_empty() {
            true => references.all_ns,
            false => references.tier_ns(tier),
        };
        Self {
            request,
            policy,
            tier_ranks: AccessTier::ALL.map(rank),
            references_ns: AccessTier::ALL.map(reference),
        }
    }

    fn tier_rank(&self, tier: AccessTier) -> Option<usize> {
        self.tier_ranks.get(tier_index(tier)).copied().flatten()
    }

    fn reference_ns(&self, tier: AccessTier) -> Option<u64> {
        self.references_ns.get(tier_index(tier)).copied().flatten()
    }

    /// The first rule that the drive fails.
    fn refusal(&self, drive: &DriveEntry) -> Option<Reason> {
        let failed = FILTERS.iter().find(|rule| (rule.refuses)(self, drive));
        failed.map(|rule| rule.reason)
    }
}

/// Which nodes are allowed, and in which order they are preferred.
struct Ranks<'i> {
    /// Nodes that are allowed; none for all.
    required: Option<BTreeMap<&'i str, ()>>,
    preferred: BTreeMap<&'i str, usize>,
    others: usize,
}

impl<'i> Ranks<'i> {
    fn new(places: &Places, inventory: &'i Inventory) -> Self {
        let mut preferred = BTreeMap::new();
        for (rank, segments) in places.preferred.iter().enumerate() {
            for node in nodes_in(segments, inventory) {
                preferred.entry(node).or_insert(rank);
            }
        }
        let required = (!places.required.is_empty()).then(|| {
            let nodes = places.required.iter();
            nodes
                .flat_map(|segments| nodes_in(segments, inventory))
                .map(|node| (node, ()))
                .collect()
        });
        Self {
            required,
            preferred,
            others: places.preferred.len(),
        }
    }

    fn rank(&self, node: &str) -> Option<usize> {
        if let Some(required) = &self.required
            && !required.contains_key(node)
        {
            return None;
        }
        Some(self.preferred.get(node).copied().unwrap_or(self.others))
    }
}

/// Whether `places` allow a node.
#[must_use]
pub fn allows(places: &Places, inventory: &Inventory, node: &str) -> bool {
    Ranks::new(places, inventory).rank(node).is_some()
}

/// Nodes to which all of `segments` apply. A segment that names the node spares the walk over all of them.
fn nodes_in<'i>(segments: &Segments, inventory: &'i Inventory) -> Vec<&'i str> {
    let applies = |(name, node): (&'i str, &NodeEntry)| {
        let holds = segments.iter().all(|(key, value)| {
            if key == TOPOLOGY_NODE {
                value == name
            } else {
                node.topology.get(key) == Some(value)
            }
        });
        holds.then_some(name)
    };
    match segments.get(TOPOLOGY_NODE) {
        Some(name) => inventory.node(name).and_then(applies).into_iter().collect(),
        None => inventory.nodes().filter_map(applies).collect(),
    }
}

/// Looks at every drive, in order of names within nodes: the rank of its node, or the first rule that it fails.
fn walk<'i>(
    query: &Query<'_>,
    inventory: &'i Inventory,
    mut see: impl FnMut(&'i DriveEntry, Result<usize, Reason>),
) {
    let ranks = Ranks::new(&query.request.places, inventory);
    for (name, node) in inventory.nodes() {
        let rank = ranks.rank(name);
        for drive in node.drives() {
            let verdict = match rank {
                None => Err(WRONG_TOPOLOGY.0),
                Some(_) if node.silent_since.is_some() => Err(NODE_SILENT.0),
                Some(rank) => query.refusal(drive).map_or(Ok(rank), Err),
            };
            see(drive, verdict);
        }
    }
}

/// A drive that passed.
struct Candidate<'i> {
    rank: usize,
    scores: Scores,
    tie: u64,
    drive: &'i DriveEntry,
}

impl Candidate<'_> {
    /// Smaller is better.
    fn key(&self) -> (usize, Reverse<u64>, u64, &str) {
        let Self {
            rank, scores, tie, ..
        } = self;
        (*rank, Reverse(scores.total), *tie, &self.drive.name)
    }
}

/// Refusals by reason.
#[derive(Default)]
struct Counts {
    considered: u32,
    by_reason: BTreeMap<Reason, u32>,
    largest_free_bytes: Option<u64>,
}

impl Counts {
    fn refuse(&mut self, drive: &DriveEntry, reason: Reason) {
        *self.by_reason.entry(reason).or_default() += 1;
        if reason == Reason::InsufficientCapacity {
            self.largest_free_bytes = self.largest_free_bytes.max(Some(drive.free_bytes()));
        }
    }

    fn most_first(&self) -> Vec<Refusals> {
        let refusals = self.by_reason.iter();
        let mut list: Vec<_> = refusals
            .map(|(&reason, &count)| Refusals { reason, count })
            .collect();
        list.sort_by_key(|refusals| Reverse(refusals.count));
        list
    }
}

/// Chooses a drive.
///
/// # Errors
/// No drive can take the volume; the counts say why.
pub fn place(
    request: &Request,
    inventory: &Inventory,
    policy: Policy,
) -> Result<Placement, Box<NoFit>> {
    let query = Query::new(request, inventory, policy);
    let salt = name_hash(&request.name);
    let mut counts = Counts::default();
    let mut best: Vec<Candidate<'_>> = Vec::with_capacity(RUNNERS_UP + 2);
    walk(&query, inventory, |drive, verdict| {
        counts.considered += 1;
        let rank = match verdict {
            Ok(rank) => rank,
            Err(reason) => return counts.refuse(drive, reason),
        };
        let candidate = Candidate {
            rank,
            scores: Scores::of(&query, drive),
            tie: mix(salt ^ drive.hash),
            drive,
        };
        let at = best.partition_point(|better| better.key() < candidate.key());
        if at <= RUNNERS_UP {
            best.insert(at, candidate);
            best.truncate(RUNNERS_UP + 1);
        }
    });
    let mut named = best.iter().map(|found| found.scores.named(found.drive));
    match named.next() {
        Some(chosen) => Ok(Placement {
            chosen,
            runners_up: named.collect(),
            refused: counts.most_first(),
            considered: counts.considered,
            at: request.now,
        }),
        None => Err(Box::new(NoFit {
            considered: counts.considered,
            refused: counts.most_first(),
            largest_free_bytes: counts.largest_free_bytes,
        })),
    }
}

/// Whether one drive can take the volume, and what speaks for it.
///
/// # Errors
/// The first rule that it fails.
pub fn place_on(
    drive: &DriveEntry,
    request: &Request,
    inventory: &Inventory,
    policy: Policy,
) -> Result<Placement, Reason> {
    let query = Query::new(request, inventory, policy);
    let refused = match Ranks::new(&request.places, inventory).rank(&drive.node) {
        None => Some(WRONG_TOPOLOGY.0),
        Some(_) if inventory.is_silent(&drive.node) => Some(NODE_SILENT.0),
        Some(_) => query.refusal(drive),
    };
    match refused {
        Some(reason) => Err(reason),
        None => Ok(Placement {
            chosen: Scores::of(&query, drive).named(drive),
            runners_up: Vec::new(),
            refused: Vec::new(),
            considered: 1,
            at: request.now,
        }),
    }
}

/// What a class finds in some places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// The largest volume that would fit: the most that one drive has free.
    pub largest_bytes: u64,
    /// Free bytes of all drives that would be considered, weighted where the policy says so.
    pub free_bytes: u64,
}

/// How much room there is for volumes like `request`, whose own size does not count.
#[must_use]
pub fn room(request: &Request, inventory: &Inventory, policy: Policy) -> Room {
    let any_size = Request {
        bytes: 0,
        ..request.clone()
    };
    let query = Query::new(&any_size, inventory, policy);
    let mut room = Room::default();
    walk(&query, inventory, |drive, verdict| {
        if verdict.is_ok() {
            room.largest_bytes = room.largest_bytes.max(drive.free_bytes());
            let free_bytes = match policy.capacity_by_latency {
                true => score::attractive_bytes(&query, drive),
                false => drive.free_bytes(),
            };
            room.free_bytes = room.free_bytes.saturating_add(free_bytes);
        }
    });
    room
}

/// A drive that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Drive.
    pub drive: String,
    /// Its node.
    pub node: String,
    /// The first rule that it fails.
    pub reason: Reason,
}

/// The refused drives one by one, at most `max`.
#[must_use]
pub fn refusals(
    request: &Request,
    inventory: &Inventory,
    policy: Policy,
    max: usize,
) -> Vec<Refused> {
    let query = Query::new(request, inventory, policy);
    let mut list = Vec::new();
    walk(&query, inventory, |drive, verdict| {
        if let Err(reason) = verdict
            && list.len() < max
        {
            list.push(Refused {
                drive: drive.name.to_string(),
                node: drive.node.to_string(),
                reason,
            });
        }
    });
    list
}

/// A hash of a name that no version changes (FNV-1a, then mixed).
#[must_use]
pub(crate) fn name_hash(name: &str) -> u64 {
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    mix(name.bytes().fold(0xcbf2_9ce4_8422_2325, fnv))
}

/// Spreads the bits (the finalizer of splitmix64).
const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
#[path = "placement/tests.rs"]
mod tests;
