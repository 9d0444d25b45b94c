//! One round over all drives: what each shows, what its peers show, its vote, its verdict; and that a node loses at
//! most one drive to slowness at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::drive::{HealthState, HealthVerdict};
use api::{DrivePhase, Reason};
use jiff::Timestamp;

use super::history::{History, Peers, Sample};
use super::{Settings, assess};
use crate::inventory::{DriveEntry, Inventory};

/// Others without which nothing is said about them.
const OTHERS_MIN: usize = 3;
/// A typical latency that moved by so many thousandths is written anew.
const TYPICAL_MOVED_PERMILLE: u64 = 250;

/// A verdict to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Drive.
    pub drive: Arc<str>,
    /// What it is now.
    pub verdict: HealthVerdict,
    /// Whether its state is another one than before, or is the first bad one: people are told.
    pub turned: bool,
}

/// All drives' histories.
#[derive(Debug)]
pub struct Health {
    settings: Settings,
    drives: BTreeMap<Arc<str>, Kept>,
}

#[derive(Debug)]
struct Kept {
    history: History,
    written_at: Option<Timestamp>,
}

/// Sorted figures of a group of drives.
#[derive(Default)]
struct Group(Vec<u64>);

impl Group {
    /// Median and upper quartile of all but one member, whose figure is `own`.
    fn others(&self, own: u64) -> Option<(usize, u64, u64)> {
        let count = self.0.len().checked_sub(1)?;
        if count < OTHERS_MIN {
            return None;
        }
        let skip = self.0.partition_point(|figure| *figure < own);
        let at = |index: usize| {
            let index = if index >= skip { index + 1 } else { index };
            self.0.get(index).copied()
        };
        Some((count, at((count - 1) / 2)?, at((count * 3 - 1) / 4)?))
    }
}

/// What groups of drives show.
#[derive(Default)]
struct Groups<'i> {
    /// Median reads, by model and load class.
    reads: BTreeMap<(&'i str, usize), Group>,
    /// Excess over the own past, by model.
    model_excess: BTreeMap<&'i str, Group>,
    /// The same by node.
    node_excess: BTreeMap<&'i str, Group>,
}

impl<'i> Groups<'i> {
    fn add(&mut self, drive: &'i DriveEntry, sample: &Sample, excess: Option<u64>) {
        if let Some(model) = model_of(drive) {
            let reads = self.reads.entry((model, sample.load_class())).or_default();
            reads.0.push(sample.read_p50_ns);
            if let Some(excess) = excess {
                self.model_excess.entry(model).or_default().0.push(excess);
            }
        }
        if let Some(excess) = excess {
            self.node_excess
                .entry(&drive.node)
                .or_default()
                .0
                .push(excess);
        }
    }

    fn sort(&mut self) {
        let groups = self.reads.values_mut();
        let groups = groups.chain(self.model_excess.values_mut());
        for group in groups.chain(self.node_excess.values_mut()) {
            group.0.sort_unstable();
        }
    }

    fn peers(&self, drive: &DriveEntry, sample: &Sample, excess: Option<u64>) -> Peers {
        let model = model_of(drive);
        let reads = model.and_then(|model| self.reads.get(&(model, sample.load_class())));
        let reads = reads.and_then(|group| group.others(sample.read_p50_ns));
        let (count, median_ns, upper_quartile_ns) = reads.unwrap_or_default();
        let by_model = model.and_then(|model| self.model_excess.get(model));
        let by_node = self.node_excess.get(&*drive.node);
        let slowed = |group: Option<&Group>| group?.others(excess?).map(|(_, median, _)| median);
        Peers {
            count,
            median_ns,
            upper_quartile_ns,
            common_permille: slowed(by_model).max(slowed(by_node)).unwrap_or(1_000),
        }
    }
}

/// The model that makes drives peers. What is behind two loop devices may differ in all.
fn model_of(drive: &DriveEntry) -> Option<&str> {
    (!drive.is_loop && !drive.model.is_empty()).then_some(&*drive.model)
}

impl Health {
    /// Nothing is known yet.
    #[must_use]
    pub const fn new(settings: Settings) -> Self {
        Self {
            settings,
            drives: BTreeMap::new(),
        }
    }

    /// Looks at all drives, and says which verdicts are to be written.
    pub fn round(&mut self, inventory: &Inventory, now: Timestamp) -> Vec<Judgement> {
        self.drives
            .retain(|name, _| inventory.drive(name).is_some());
        let mut groups = Groups::default();
        let mut samples = BTreeMap::new();
        for drive in inventory.drives() {
            let kept = self
                .drives
                .entry(drive.name.clone())
                .or_insert_with(|| Kept {
                    history: History::new(drive.verdict.as_ref(), now),
                    written_at: None,
                });
            let failing = drive.phase == DrivePhase::Failing;
            kept.history.failing = failing.then_some(Reason::IoErrors);
            let sample = Sample::of(drive, self.settings, now);
            if let Some(sample) = sample.filter(|_| drive.phase == DrivePhase::Ready) {
                let excess = kept
                    .history
                    .own_excess(&sample)
                    .map(|excess| excess.permille);
                groups.add(drive, &sample, excess);
                samples.insert(drive.name.clone(), (sample, excess));
            }
        }
        groups.sort();
        let mut verdicts = Vec::new();
        for drive in inventory.drives() {
            let Some(kept) = self.drives.get_mut(&drive.name) else {
                continue;
            };
            let mut peers = Peers::default();
            if let Some((sample, excess)) = samples.get(&drive.name) {
                peers = groups.peers(drive, sample, *excess);
                kept.history.observe(*sample, &peers, now);
            }
            if kept.history.failing.is_some() || kept.history.is_known() {
                verdicts.push((drive, assess(&kept.history, &peers, self.settings, now)));
            }
        }
        self.ration(inventory, &mut verdicts);
        self.changed(verdicts, now)
    }

    /// Lets at most one drive of a node be withdrawn for slowness: who is withdrawn already, else the slowest.
    fn ration(&self, inventory: &Inventory, verdicts: &mut [(&DriveEntry, HealthVerdict)]) {
        let is_withdrawn =
            |state: HealthState| matches!(state, HealthState::Slow | HealthState::Probation);
        let stood = |drive: &DriveEntry| self.drives.get(&drive.name).map(|k| &k.history.standing);
        let mut withdrawn: BTreeMap<&str, Arc<str>> = BTreeMap::new();
        for drive in inventory.drives() {
            if stood(drive).is_some_and(|standing| is_withdrawn(standing.state)) {
                withdrawn.insert(&drive.node, drive.name.clone());
            }
        }
        let new = |drive: &DriveEntry, verdict: &HealthVerdict| {
            verdict.state == HealthState::Slow
                && stood(drive).is_none_or(|standing| standing.state == HealthState::Healthy)
        };
        let mut slowest: BTreeMap<&str, (u64, Arc<str>)> = BTreeMap::new();
        for (drive, verdict) in verdicts
            .iter()
            .filter(|(drive, verdict)| new(drive, verdict))
        {
            tracing::trace!(drive = &*drive.name, state = ?verdict.state, "turned slow");
            let kept = self.drives.get(&drive.name);
            let vote = kept.and_then(|kept| kept.history.votes.back());
            let found = (
                vote.map_or(0, |vote| vote.excess.permille),
                drive.name.clone(),
            );
            let worst = slowest.entry(&drive.node).or_insert_with(|| found.clone());
            if found > *worst {
                *worst = found;
            }
        }
        for (node, (_, drive)) in slowest {
            withdrawn.entry(node).or_insert(drive);
        }
        for (drive, verdict) in verdicts.iter_mut().filter(|(drive, v)| new(drive, v)) {
            let Some(other) = withdrawn
                .get(&*drive.node)
                .filter(|other| **other != drive.name)
            else {
                continue;
            };
            let Some(standing) = stood(drive) else {
                continue;
            };
            verdict.state = standing.state;
            verdict.since = standing.since;
            verdict.relapses = standing.relapses;
            verdict.message = format!(
                "{}, but {other} of this node is withdrawn already, and one at a time is the most",
                verdict.message.trim_end_matches("; no new volumes")
            );
        }
    }

    /// Keeps the verdicts, and picks those that are to be written.
    fn changed(
        &mut self,
        verdicts: Vec<(&DriveEntry, HealthVerdict)>,
        now: Timestamp,
    ) -> Vec<Judgement> {
        let mut list = Vec::new();
        for (drive, verdict) in verdicts {
            let Some(kept) = self.drives.get_mut(&drive.name) else {
                continue;
            };
            kept.history.standing = verdict.clone();
            let written = drive.verdict.as_ref();
            let turned = match written {
                Some(written) => written.state != verdict.state,
                None => verdict.state != HealthState::Healthy,
            };
            let other_word = written.is_none_or(|written| written.reason != verdict.reason);
            let figures_differ = written.is_some_and(|written| {
                verdict.state != HealthState::Healthy && written.message != verdict.message
                    || has_moved(written.typical_read_ns, verdict.typical_read_ns)
            });
            let due = kept
                .written_at
                .is_none_or(|at| now.duration_since(at) >= self.settings.rewrite_after());
            if turned || other_word || (figures_differ && due) {
                kept.written_at = Some(now);
                list.push(Judgement {
                    drive: drive.name.clone(),
                    verdict,
                    turned,
                });
            }
        }
        list
    }
}

fn has_moved(written: Option<u64>, now: Option<u64>) -> bool {
    match (written, now) {
        (Some(written), Some(now)) => {
            written.abs_diff(now).saturating_mul(1_000)
                > written.saturating_mul(TYPICAL_MOVED_PERMILLE)
        }
        (written, now) => written != now,
    }
}
