//! `info`: one line a node, and the sum. What people ask first: how much is there, how much is promised, is all well.

use api::storage_node::IoBackendName;
use api::{Bytes, Drive, DrivePhase, Reason, Volume};
use clap::Args;
use kube::ResourceExt as _;
use serde_json::{Value, json};

use crate::advice::{Hint, Refusal, Stop};
use crate::discover::{Use, devices_of};
use crate::screen::Tone;
use crate::session::{Inventory, Session};
use crate::view::{self, Cell, Column, Format, Output, Row, column, counted, natural};

/// Flags of `info`.
#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    #[command(flatten)]
    output: Output,
}

#[derive(Default)]
struct NodeSum {
    node: String,
    drives: usize,
    ready: usize,
    capacity_bytes: u64,
    allocated_bytes: u64,
    used_bytes: u64,
    volumes: usize,
    eligible: usize,
}

impl Row for NodeSum {
    fn object(&self) -> Result<Value, serde_json::Error> {
        Ok(json!({
            "node": self.node,
            "drives": self.drives,
            "ready": self.ready,
            "allocatableBytes": self.capacity_bytes,
            "allocatedBytes": self.allocated_bytes,
            "usedBytes": self.used_bytes,
            "volumes": self.volumes,
            "eligibleDevices": self.eligible,
        }))
    }

    fn name(&self) -> String {
        format!("storagenode.ringpv.io/{}", self.node)
    }
}

const COLUMNS: &[Column<NodeSum>] = &[
    column("NODE", |s| Cell::text(&s.node)),
    column("DRIVES", |s| Cell::count(s.drives)),
    column("READY", |s| {
        let tone = if s.ready == s.drives {
            Tone::Good
        } else {
            Tone::Bad
        };
        Cell::count(s.ready).toned(tone)
    }),
    column("CAPACITY", |s| Cell::bytes(Some(s.capacity_bytes))),
    column("ALLOCATED", |s| Cell::bytes(Some(s.allocated_bytes))),
    column("USED", |s| Cell::bytes(Some(s.used_bytes))),
    column("VOLUMES", |s| Cell::count(s.volumes)),
    column("ELIGIBLE", |s| Cell::count(s.eligible)),
];

/// Sums by node: of every node that has reported, and of every one that a drive or volume names.
fn sums(inventory: &Inventory) -> Vec<NodeSum> {
    let mut sums = std::collections::BTreeMap::<String, NodeSum>::new();
    for node in &inventory.nodes {
        let sum = sums.entry(node.name_any()).or_default();
        let free = |d: &&api::Device| matches!(Use::of(d), Use::Free | Use::LosesData);
        sum.eligible = devices_of(node).iter().filter(free).count();
    }
    for Drive { spec, status, .. } in &inventory.drives {
        let sum = sums.entry(spec.node.clone()).or_default();
        let status = status.clone().unwrap_or_default();
        let capacity = status.capacity.unwrap_or_default();
        sum.drives += 1;
        sum.ready += usize::from(status.phase == DrivePhase::Ready);
        sum.capacity_bytes = sum
            .capacity_bytes
            .saturating_add(capacity.allocatable_bytes);
        sum.used_bytes = sum.used_bytes.saturating_add(capacity.used_bytes);
    }
    for Volume { spec, .. } in &inventory.volumes {
        let sum = sums.entry(spec.node.clone()).or_default();
        sum.volumes += 1;
        sum.allocated_bytes = sum.allocated_bytes.saturating_add(spec.capacity_bytes);
    }
    let mut sums: Vec<_> = sums
        .into_iter()
        .map(|(node, sum)| NodeSum { node, ..sum })
        .collect();
    sums.sort_by_cached_key(|s| natural(&s.node));
    sums
}

/// Runs `info`.
pub(crate) async fn run(session: &mut Session, args: &InfoArgs) -> Result<(), Stop> {
    let inventory = session.inventory().await?;
    let mut sums = sums(&inventory);
    if sums.is_empty() {
        return Err(Stop::refused(Refusal::new(Reason::NoAgent, "")));
    }
    view::print(&mut session.screen, COLUMNS, &mut sums, &args.output)?;
    if !matches!(args.output.output, Format::Table | Format::Wide) {
        return Ok(());
    }
    let total =
        |field: fn(&NodeSum) -> u64| Bytes(sums.iter().map(field).fold(0, u64::saturating_add));
    let (allocated, capacity) = (total(|s| s.allocated_bytes), total(|s| s.capacity_bytes));
    let count = |field: fn(&NodeSum) -> usize| sums.iter().map(field).sum::<usize>();
    let (volumes, drives) = (count(|s| s.volumes), count(|s| s.drives));
    let (volumes, drives) = (counted(volumes, "volume"), counted(drives, "drive"));
    let line = format!("\n{allocated} of {capacity} promised, {volumes}, {drives}");
    session.screen.line(line)?;
    hints(session, &inventory)
}

fn hints(session: &mut Session, inventory: &Inventory) -> Result<(), Stop> {
    let silent = inventory.silent_nodes();
    if !silent.is_empty() {
        session.hint(&Hint::Silent {
            nodes: silent.into_iter().collect::<Vec<_>>().join(", "),
        })?;
    }
    let mut without_quota = Vec::new();
    let mut orphans = 0;
    for node in &inventory.nodes {
        let Some(status) = &node.status else { continue };
        orphans += status.orphans.len();
        if !status.project_quota {
            without_quota.push(node.name_any());
        }
        let io = &status.io_backend;
        if io.name == IoBackendName::Threads && io.reason != Reason::ThreadsChosen {
            session.hint(&Hint::NoUring {
                node: node.name_any(),
                why: status.io_backend.reason.meaning().to_owned(),
            })?;
        }
    }
    if !without_quota.is_empty() {
        session.hint(&Hint::QuotaUnsupported {
            nodes: without_quota.join(", "),
        })?;
    }
    if orphans > 0 {
        session.hint(&Hint::Orphans { count: orphans })?;
    }
    Ok(())
}
