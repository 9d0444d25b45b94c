//! `list drives`.

use std::collections::BTreeMap;

use api::drive::HealthState;
use api::{Drive, DrivePhase, Volume};
use clap::Args;
use jiff::Timestamp;
use kube::ResourceExt as _;
use serde_json::Value;

use crate::advice::{Hint, Stop};
use crate::screen::Tone;
use crate::select::{DriveArgs, device_name, short};
use crate::session::Session;
use crate::view::{Cell, Column, Row, column, natural, wide};

use super::{Changes, Listing, changes_of, show};

/// Flags of `list drives`.
#[derive(Debug, Args)]
pub(crate) struct DrivesArgs {
    #[command(flatten)]
    drives: DriveArgs,
    #[command(flatten)]
    listing: Listing,
}

/// A drive and what is promised on it.
pub(crate) struct DriveRow {
    /// The drive.
    pub(crate) drive: Drive,
    /// Promised, summed over its volumes.
    pub(crate) allocated_bytes: u64,
    /// Its volumes.
    pub(crate) volumes: usize,
    /// Whether its node's agent is not heard of.
    is_silent: bool,
    now: Timestamp,
}

impl DriveRow {
    /// What may still be promised.
    pub(crate) fn free_bytes(&self) -> Option<u64> {
        let capacity = self.drive.status.as_ref()?.capacity?;
        Some(
            capacity
                .allocatable_bytes
                .saturating_sub(self.allocated_bytes),
        )
    }

    fn read(&self) -> Option<&api::LatencySummary> {
        self.drive.status.as_ref()?.latency.as_ref()?.read.as_ref()
    }

    fn phase(&self) -> DrivePhase {
        self.drive
            .status
            .as_ref()
            .map(|s| s.phase)
            .unwrap_or_default()
    }
}

impl Row for DriveRow {
    fn object(&self) -> Result<Value, serde_json::Error> {
        serde_json::to_value(&self.drive)
    }

    fn name(&self) -> String {
        format!("drive.ringpv.io/{}", self.drive.name_any())
    }
}

/// Columns of a drive.
pub(crate) const COLUMNS: &[Column<DriveRow>] = &[
    column("DRIVE", |r| Cell::text(short(&r.drive.name_any()))),
    column("NODE", |r| Cell::text(&r.drive.spec.node)),
    column("DEVICE", |r| Cell::text(device_name(&r.drive))),
    column("TIER", |r| Cell::text(r.drive.spec.access_tier.as_str())),
    column("SIZE", |r| {
        let capacity = r.drive.status.as_ref().and_then(|s| s.capacity);
        Cell::bytes(Some(
            capacity.map_or(r.drive.spec.device.size_bytes, |c| c.total_bytes),
        ))
    }),
    column("FREE", |r| Cell::bytes(r.free_bytes())),
    column("VOLUMES", |r| Cell::count(r.volumes)),
    column("READ-P50", |r| Cell::nanos(r.read().map(|l| l.p50_ns))),
    column("READ-P99", |r| Cell::nanos(r.read().map(|l| l.p99_ns))),
    column("HEALTH", health),
    column("STATUS", status),
    wide("REASON", |r| {
        let status = r.drive.status.as_ref();
        Cell::text(
            status
                .and_then(|s| s.reason)
                .map(|x| x.as_str())
                .unwrap_or_default(),
        )
    }),
    wide("ALLOCATED", |r| Cell::bytes(Some(r.allocated_bytes))),
    wide("USED", |r| {
        let capacity = r.drive.status.as_ref().and_then(|s| s.capacity);
        Cell::bytes(capacity.map(|c| c.used_bytes))
    }),
    wide("MODEL", |r| device(r, |d| d.model.clone())),
    wide("SERIAL", |r| device(r, |d| d.serial.clone())),
    wide("MEASURED", |r| {
        Cell::age(r.read().and_then(|l| l.measured_at), r.now)
    }),
    wide("LABELS", |r| Cell::text(people_labels(r.drive.labels()))),
    wide("AGE", |r| {
        Cell::age(
            r.drive.metadata.creation_timestamp.as_ref().map(|t| t.0),
            r.now,
        )
    }),
    wide("ID", |r| Cell::text(r.drive.name_any())),
    wide("MESSAGE", |r| {
        let status = r.drive.status.as_ref();
        Cell::text(status.map(|s| s.message.clone()).unwrap_or_default())
    }),
];

fn device(row: &DriveRow, field: fn(&api::drive::DriveDevice) -> String) -> Cell {
    let device = row.drive.status.as_ref().and_then(|s| s.device.as_ref());
    Cell::text(device.map(field).unwrap_or_default())
}

fn health(row: &DriveRow) -> Cell {
    let verdict = row.drive.status.as_ref().and_then(|s| s.verdict.as_ref());
    verdict.map_or_else(Cell::none, |v| {
        let tone = match v.state {
            HealthState::Healthy => Tone::Good,
            HealthState::Slow | HealthState::Probation => Tone::Warn,
            HealthState::Failing => Tone::Bad,
        };
        Cell::text(format!("{:?}", v.state)).toned(tone)
    })
}

fn status(row: &DriveRow) -> Cell {
    let mut text = format!("{:?}", row.phase());
    let reason = row.drive.status.as_ref().and_then(|s| s.reason);
    if let (DrivePhase::Pending | DrivePhase::Failed, Some(reason)) = (row.phase(), reason)
        && reason.as_str() != text
    {
        text.push(':');
        text.push_str(reason.as_str());
    }
    if row.drive.metadata.deletion_timestamp.is_some() && row.phase() != DrivePhase::Removing {
        text.push_str(",Removing");
    }
    if row.drive.spec.cordoned {
        text.push_str(",Cordoned");
    }
    if row.drive.spec.suspended {
        text.push_str(",Suspended");
    }
    if row.is_silent {
        // What it says is what its agent said last.
        text.push_str(",NodeSilent");
        return Cell::text(text).toned(Tone::Bad);
    }
    let tone = match row.phase() {
        DrivePhase::Ready if row.drive.spec.cordoned => Tone::Warn,
        DrivePhase::Ready => Tone::Good,
        DrivePhase::Pending
        | DrivePhase::Preparing
        | DrivePhase::Repairing
        | DrivePhase::Removing => Tone::Warn,
        DrivePhase::Failed | DrivePhase::ReadOnly | DrivePhase::Failing | DrivePhase::Lost => {
            Tone::Bad
        }
    };
    Cell::text(text).toned(tone)
}

/// The labels that people set.
pub(crate) fn people_labels(labels: &BTreeMap<String, String>) -> String {
    let theirs = labels
        .iter()
        .filter(|(key, _)| !key.starts_with(api::names::LABEL_PREFIX))
        .map(|(key, value)| format!("{key}={value}"));
    theirs.collect::<Vec<_>>().join(",")
}

/// Rows of drives, in the order of node and device.
pub(crate) fn rows(drives: Vec<Drive>, volumes: &[Volume], now: Timestamp) -> Vec<DriveRow> {
    let mut sums: BTreeMap<&str, (u64, usize)> = BTreeMap::new();
    for volume in volumes {
        if let Some(drive) = &volume.spec.drive {
            let sum = sums.entry(drive).or_default();
            sum.0 = sum.0.saturating_add(volume.spec.capacity_bytes);
            sum.1 += 1;
        }
    }
    let mut rows: Vec<_> = drives
        .into_iter()
        .map(|drive| {
            let (allocated_bytes, volumes) = sums
                .get(drive.name_any().as_str())
                .copied()
                .unwrap_or_default();
            DriveRow {
                drive,
                allocated_bytes,
                volumes,
                is_silent: false,
                now,
            }
        })
        .collect();
    rows.sort_by_cached_key(|r| (natural(&r.drive.spec.node), natural(device_name(&r.drive))));
    rows
}

/// Runs `list drives`.
pub(crate) async fn run(session: &mut Session, args: &DrivesArgs) -> Result<(), Stop> {
    let mut changes = Changes::new();
    if args.listing.watch {
        let client = session.client().await?;
        changes_of::<Drive>(client.clone(), &mut changes);
        changes_of::<Volume>(client, &mut changes);
    }
    let fetch = async |session: &mut Session| {
        let inventory = session.inventory().await?;
        if inventory.drives.is_empty() {
            session.hint(&Hint::ListIsEmpty {
                what: "drives",
                command: "kubectl ringpv discover",
            })?;
        }
        let picked = args.drives.filter(&inventory.drives)?;
        let mut rows = rows(picked, &inventory.volumes, session.now());
        let silent = inventory.silent_nodes();
        for row in &mut rows {
            row.is_silent = silent.contains(&row.drive.spec.node);
        }
        Ok(rows)
    };
    show(session, COLUMNS, &args.listing, changes, fetch).await
}
