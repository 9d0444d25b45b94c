//! `list nodes`.

use api::StorageNode;
use api::condition::{self, ConditionStatus, ConditionType};
use api::storage_node::IoBackendName;
use clap::Args;
use jiff::Timestamp;
use kube::ResourceExt as _;
use serde_json::Value;

use crate::advice::{Hint, Stop};
use crate::discover::devices_of;
use crate::screen::Tone;
use crate::select::{Names, nothing};
use crate::session::Session;
use crate::view::{Cell, Column, Row, age, column, natural, seconds_between, wide};

use super::{Changes, Listing, changes_of, show};

/// Flags of `list nodes`.
#[derive(Debug, Args)]
pub(crate) struct NodesArgs {
    /// Names of nodes, such as node-{1...4}
    #[arg(value_name = "NODE")]
    names: Vec<String>,
    #[command(flatten)]
    listing: Listing,
}

struct NodeRow {
    node: StorageNode,
    now: Timestamp,
}

impl NodeRow {
    fn status(&self) -> api::StorageNodeStatus {
        self.node.status.clone().unwrap_or_default()
    }
}

impl Row for NodeRow {
    fn object(&self) -> Result<Value, serde_json::Error> {
        serde_json::to_value(&self.node)
    }

    fn name(&self) -> String {
        format!("storagenode.ringpv.io/{}", self.node.name_any())
    }
}

const COLUMNS: &[Column<NodeRow>] = &[
    column("NODE", |r| Cell::text(r.node.name_any())),
    column("STATUS", status),
    column("DEVICES", |r| Cell::count(devices_of(&r.node).len())),
    column("ELIGIBLE", |r| {
        Cell::count(usize::try_from(r.status().eligible).unwrap_or(0))
    }),
    column("DRIVES", |r| {
        Cell::count(usize::try_from(r.status().drives).unwrap_or(0))
    }),
    column("ORPHANS", |r| Cell::count(r.status().orphans.len())),
    column("IO", |r| match r.status().io_backend.name {
        IoBackendName::Uring => Cell::text("io_uring").toned(Tone::Good),
        IoBackendName::Threads => Cell::text("threads").toned(Tone::Warn),
    }),
    column("QUOTA", |r| {
        if r.status().project_quota {
            Cell::text("yes").toned(Tone::Good)
        } else {
            Cell::text("no").toned(Tone::Warn)
        }
    }),
    column("KERNEL", |r| Cell::text(r.status().kernel)),
    column("AGENT", |r| Cell::text(r.status().version)),
    wide("IO-REASON", |r| {
        Cell::text(r.status().io_backend.reason.as_str())
    }),
    wide("IO-DETAIL", |r| Cell::text(r.status().io_backend.message)),
    wide("TOPOLOGY", |r| {
        let pairs: Vec<_> = r
            .status()
            .topology
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        Cell::text(pairs.join(","))
    }),
    wide("CLUSTER", |r| Cell::text(r.status().cluster_id)),
    wide("AGE", |r| {
        Cell::age(
            r.node.metadata.creation_timestamp.as_ref().map(|t| t.0),
            r.now,
        )
    }),
];

fn status(row: &NodeRow) -> Cell {
    let status = row.status();
    if let Some(since) = status.silent_since {
        let text = format!("Silent {}", age(seconds_between(since, row.now)));
        return Cell::text(text).toned(Tone::Bad);
    }
    let ready = condition::get(&status.conditions, ConditionType::Ready);
    match ready.map(|condition| condition.status) {
        Some(ConditionStatus::True) => Cell::text("Ready").toned(Tone::Good),
        Some(ConditionStatus::False | ConditionStatus::Unknown) | None => {
            Cell::text("NotReady").toned(Tone::Warn)
        }
    }
}

/// Runs `list nodes`.
pub(crate) async fn run(session: &mut Session, args: &NodesArgs) -> Result<(), Stop> {
    let names = Names::new(&args.names, "NODE")?;
    let mut changes = Changes::new();
    if args.listing.watch {
        changes_of::<StorageNode>(session.client().await?, &mut changes);
    }
    let fetch = async |session: &mut Session| {
        let mut nodes: Vec<StorageNode> = session.all().await?;
        if nodes.is_empty() {
            session.hint(&Hint::ListIsEmpty {
                what: "nodes",
                command: "start ringpv-agent on each",
            })?;
        }
        nodes.retain(|n| names.matches(&n.name_any()));
        if nodes.is_empty() && !args.names.is_empty() {
            return Err(nothing("node"));
        }
        nodes.sort_by_cached_key(|n| natural(&n.name_any()));
        let now = session.now();
        Ok(nodes
            .into_iter()
            .map(|node| NodeRow { node, now })
            .collect())
    };
    show(session, COLUMNS, &args.listing, changes, fetch).await
}
