//! Every metric of the controller, in one table. What the inventory knows is read when it is asked for; what happens
//! is counted when it happens.

use std::sync::Weak;

use api::drive::HealthState;
use api::{DrivePhase, Reason};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::{
    counter::Counter, family::Family, gauge::ConstGauge, gauge::Gauge, histogram::Histogram,
};
use prometheus_client::registry::{Registry, Unit};
use std::collections::BTreeMap;

use crate::leader::Leader;

/// Upper bounds of placement's times, in seconds.
const PLACE_BOUNDS: [f64; 9] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.05,
];
/// Upper bounds of the times of reconciliation, in seconds.
const RECONCILE_BOUNDS: [f64; 9] = [0.000_1, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

/// One word.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    /// `placed` or the reason why not.
    pub outcome: &'static str,
}

/// One reason.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// The word.
    pub reason: &'static str,
}

/// What happens. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Placements, by outcome.
    pub placements: Family<OutcomeLabel, Counter>,
    /// Drives refused in them, by reason.
    pub refusals: Family<ReasonLabel, Counter>,
    /// Time that one took, without the write.
    pub place_seconds: Histogram,
    /// Time of one effect: decision, write, answer.
    pub reconcile_seconds: Histogram,
    /// Effects that failed, by reason.
    pub reconcile_errors: Family<ReasonLabel, Counter>,
    /// 1 while this process leads.
    pub leads: Gauge,
}

impl Metrics {
    /// Registers them.
    #[must_use]
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            placements: Family::default(),
            refusals: Family::default(),
            place_seconds: Histogram::new(PLACE_BOUNDS),
            reconcile_seconds: Histogram::new(RECONCILE_BOUNDS),
            reconcile_errors: Family::default(),
            leads: Gauge::default(),
        };
        let Self {
            placements,
            refusals,
            place_seconds,
            reconcile_seconds,
            reconcile_errors,
            leads,
        } = metrics.clone();
        registry.register(
            "ringpv_placements",
            "Placements tried, by outcome",
            placements,
        );
        registry.register(
            "ringpv_placement_refusals",
            "Drives refused in placements, by reason",
            refusals,
        );
        registry.register_with_unit(
            "ringpv_placement_duration",
            "Time that a placement took, its write not included",
            Unit::Seconds,
            place_seconds,
        );
        registry.register_with_unit(
            "ringpv_reconcile_duration",
            "Time that an effect took, from queue to answer",
            Unit::Seconds,
            reconcile_seconds,
        );
        registry.register(
            "ringpv_reconcile_errors",
            "Effects that failed, by reason",
            reconcile_errors,
        );
        registry.register("ringpv_leader", "1 while this process leads", leads);
        metrics
    }

    /// A placement was tried.
    pub fn placed(
        &self,
        result: Result<&api::volume::Placement, &crate::placement::NoFit>,
        elapsed: std::time::Duration,
    ) {
        let (outcome, refused) = match result {
            Ok(placement) => (Reason::Placed, &placement.refused),
            Err(no_fit) => (no_fit.reason(), &no_fit.refused),
        };
        let outcome = outcome.as_str();
        self.placements
            .get_or_create(&OutcomeLabel { outcome })
            .inc();
        for refusals in refused {
            let reason = refusals.reason.as_str();
            self.refusals
                .get_or_create(&ReasonLabel { reason })
                .inc_by(u64::from(refusals.count));
        }
        self.place_seconds.observe(elapsed.as_secs_f64());
    }

    /// An effect failed.
    pub fn failed(&self, reason: Reason) {
        let reason = reason.as_str();
        self.reconcile_errors
            .get_or_create(&ReasonLabel { reason })
            .inc();
    }
}

/// What the inventory knows, read at each scrape.
#[derive(Debug)]
pub struct InventoryMetrics(Weak<Leader>);

impl InventoryMetrics {
    /// Registers them.
    pub fn register(registry: &mut Registry, leader: Weak<Leader>) {
        registry.register_collector(Box::new(Self(leader)));
    }
}

impl std::fmt::Debug for Leader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leader").finish_non_exhaustive()
    }
}

impl Collector for InventoryMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(leader) = self.0.upgrade() else {
            return Ok(());
        };
        // Copied out, so that the lock is not held while text is made.
        let mut drives = Vec::new();
        let mut phases: BTreeMap<&'static str, i64> = BTreeMap::new();
        let mut volumes: i64 = 0;
        // Both are always told: none is a figure, too.
        let mut nodes = BTreeMap::from([("heard", 0_i64), ("silent", 0)]);
        {
            let inventory = leader.inventory();
            for drive in inventory.drives() {
                let state = drive.verdict.as_ref().map(|verdict| verdict.state);
                drives.push((
                    drive.name.clone(),
                    drive.node.clone(),
                    drive.usage.bytes,
                    state,
                ));
                *phases.entry(phase_name(drive.phase)).or_default() += 1;
            }
            for (_, node) in inventory.nodes() {
                let agent = if node.silent_since.is_some() {
                    "silent"
                } else {
                    "heard"
                };
                *nodes.entry(agent).or_default() += 1;
            }
            volumes += inventory.volumes().map(|_| 1_i64).sum::<i64>();
        }
        encode_allocated(&mut encoder, &drives)?;
        encode_health(&mut encoder, &drives)?;
        let mut family =
            encoder.encode_descriptor("ringpv_drives", "Drives, by phase", None, gauge())?;
        for (phase, count) in phases {
            let labels = [("phase", phase)];
            ConstGauge::new(count).encode(family.encode_family(&labels)?)?;
        }
        let help = "Nodes, by whether their agents are heard of";
        let mut family = encoder.encode_descriptor("ringpv_nodes", help, None, gauge())?;
        for (agent, count) in nodes {
            let labels = [("agent", agent)];
            ConstGauge::new(count).encode(family.encode_family(&labels)?)?;
        }
        let help = "Volumes, promised ones included";
        let family = encoder.encode_descriptor("ringpv_volumes", help, None, gauge())?;
        ConstGauge::new(volumes).encode(family)
    }
}

type DriveRow = (
    std::sync::Arc<str>,
    std::sync::Arc<str>,
    u64,
    Option<HealthState>,
);

const fn gauge() -> prometheus_client::metrics::MetricType {
    prometheus_client::metrics::MetricType::Gauge
}

fn encode_allocated(
    encoder: &mut DescriptorEncoder<'_>,
    drives: &[DriveRow],
) -> Result<(), std::fmt::Error> {
    let help = "Bytes promised to volumes";
    let mut family =
        encoder.encode_descriptor("ringpv_drive_allocated", help, Some(&Unit::Bytes), gauge())?;
    for (drive, node, bytes, _) in drives {
        let labels = [("drive", &**drive), ("node", &**node)];
        let bytes = i64::try_from(*bytes).unwrap_or(i64::MAX);
        ConstGauge::new(bytes).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn encode_health(
    encoder: &mut DescriptorEncoder<'_>,
    drives: &[DriveRow],
) -> Result<(), std::fmt::Error> {
    let help = "1 for the state that a drive's health is in";
    let mut family = encoder.encode_descriptor("ringpv_drive_health", help, None, gauge())?;
    for (drive, node, _, state) in drives {
        let Some(state) = state else { continue };
        let state = match state {
            HealthState::Healthy => "Healthy",
            HealthState::Slow => "Slow",
            HealthState::Probation => "Probation",
            HealthState::Failing => "Failing",
        };
        let labels = [("drive", &**drive), ("node", &**node), ("state", state)];
        ConstGauge::new(1_i64).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

const fn phase_name(phase: DrivePhase) -> &'static str {
    match phase {
        DrivePhase::Pending => "Pending",
        DrivePhase::Preparing => "Preparing",
        DrivePhase::Ready => "Ready",
        DrivePhase::Failed => "Failed",
        DrivePhase::ReadOnly => "ReadOnly",
        DrivePhase::Failing => "Failing",
        DrivePhase::Lost => "Lost",
        DrivePhase::Repairing => "Repairing",
        DrivePhase::Removing => "Removing",
    }
}
