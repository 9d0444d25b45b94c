//! `list volumes`.

use std::collections::BTreeMap;

use api::condition::{self, ConditionStatus, ConditionType};
use api::{Drive, Reason, Volume, VolumePhase};
use clap::Args;
use jiff::Timestamp;
use kube::ResourceExt as _;
use serde_json::Value;

use crate::advice::{Hint, Refusal, Stop};
use crate::persistent_volumes::Claimed;
use crate::screen::Tone;
use crate::select::{LabelTerm, Names, by_names, device_name, nothing, short};
use crate::session::Session;
use crate::view::{Cell, Column, Row, column, natural, wide};

use super::drives::people_labels;
use super::{Changes, Listing, changes_of, show};

/// Flags of `list volumes`.
#[derive(Debug, Args)]
pub(crate) struct VolumesArgs {
    #[command(flatten)]
    pick: VolumeArgs,
    /// That no PersistentVolume names and nobody has mounted; clean destroys them, by name
    #[arg(long)]
    pv_gone: bool,
    #[command(flatten)]
    listing: Listing,
}

/// What picks volumes.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct VolumeArgs {
    /// Names of volumes, or how they begin
    #[arg(value_name = "VOLUME")]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    pub(crate) flags: VolumeFlags,
}

/// The same without names.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct VolumeFlags {
    /// On these nodes, such as node-{1...4}
    #[arg(short, long, value_name = "NODE", value_delimiter = ',')]
    pub(crate) node: Vec<String>,
    /// On these drives: ids, their first digits, or devices such as nvme{0...3}n1
    #[arg(short, long, value_name = "DRIVE", value_delimiter = ',')]
    pub(crate) drive: Vec<String>,
    /// In this state
    #[arg(long, value_name = "STATUS", value_delimiter = ',')]
    pub(crate) status: Vec<String>,
    /// With this label: k, k=v, k!=v
    #[arg(short, long, value_name = "LABEL", value_delimiter = ',')]
    pub(crate) label: Vec<LabelTerm>,
    /// For claims of this namespace
    #[arg(long, value_name = "NAMESPACE", value_delimiter = ',')]
    pub(crate) claim_namespace: Vec<String>,
    /// All of them
    #[arg(long)]
    pub(crate) all: bool,
}

impl VolumeFlags {
    fn is_empty(&self) -> bool {
        self.node.is_empty()
            && self.drive.is_empty()
            && self.status.is_empty()
            && self.label.is_empty()
            && self.claim_namespace.is_empty()
            && !self.all
    }

    fn of_claim(&self, volume: &Volume) -> bool {
        let namespaces = &self.claim_namespace;
        let claim = volume.spec.claim.as_ref();
        namespaces.is_empty() || claim.is_some_and(|c| namespaces.contains(&c.namespace))
    }
}

impl VolumeArgs {
    /// Whether anything was said.
    fn is_empty(&self) -> bool {
        self.names.is_empty() && self.flags.is_empty()
    }

    /// The volumes meant, for a verb that changes them.
    pub(crate) fn pick(&self, volumes: &[Volume], drives: &[Drive]) -> Result<Vec<Volume>, Stop> {
        if self.is_empty() {
            return Err(Stop::Usage(
                "say which volumes: their names, --node, --drive, --status, --label, --claim-namespace or --all".to_owned(),
            ));
        }
        self.filter(volumes, drives)
    }

    /// The volumes meant; all where nothing was said.
    pub(crate) fn filter(&self, volumes: &[Volume], drives: &[Drive]) -> Result<Vec<Volume>, Stop> {
        let flags = &self.flags;
        let names = by_names(&self.names, volumes.iter().map(|v| v.name_any()), "volume")?;
        let nodes = Names::new(&flags.node, "--node")?;
        let devices = Names::new(&flags.drive, "--drive")?;
        let phases = flags
            .status
            .iter()
            .map(|s| phase(s))
            .collect::<Result<Vec<_>, _>>()?;
        let on = |volume: &Volume| {
            let Some(id) = volume
                .spec
                .drive
                .as_ref()
                .filter(|_| !flags.drive.is_empty())
            else {
                return flags.drive.is_empty();
            };
            let drive = drives.iter().find(|d| d.name_any() == *id);
            drive.is_some_and(|d| devices.matches(device_name(d)))
                || flags.drive.iter().any(|d| id.starts_with(d.as_str()))
        };
        let picked: Vec<_> = volumes
            .iter()
            .filter(|v| self.names.is_empty() || names.contains(&v.name_any()))
            .filter(|v| nodes.matches(&v.spec.node) && on(v) && flags.of_claim(v))
            .filter(|v| phases.is_empty() || phases.contains(&phase_of(v)))
            .filter(|v| flags.label.iter().all(|term| term.matches(v.labels())))
            .cloned()
            .collect();
        if picked.is_empty() && !self.is_empty() && !flags.all {
            return Err(nothing("volume"));
        }
        Ok(picked)
    }
}

fn phase(text: &str) -> Result<VolumePhase, Stop> {
    let found = VolumePhase::ALL
        .into_iter()
        .find(|p| format!("{p:?}").eq_ignore_ascii_case(text));
    found.ok_or_else(|| {
        let all: Vec<_> = VolumePhase::ALL
            .iter()
            .map(|p| format!("{p:?}").to_lowercase())
            .collect();
        Stop::Usage(format!("--status {text}: it is one of {}", all.join(", ")))
    })
}

fn phase_of(volume: &Volume) -> VolumePhase {
    volume.status.as_ref().map(|s| s.phase).unwrap_or_default()
}

struct VolumeRow {
    volume: Volume,
    device: String,
    tier: &'static str,
    now: Timestamp,
}

impl Row for VolumeRow {
    fn object(&self) -> Result<Value, serde_json::Error> {
        serde_json::to_value(&self.volume)
    }

    fn name(&self) -> String {
        format!("volume.ringpv.io/{}", self.volume.name_any())
    }
}

const COLUMNS: &[Column<VolumeRow>] = &[
    column("VOLUME", |r| Cell::text(r.volume.name_any())),
    column("CAPACITY", |r| {
        Cell::bytes(Some(r.volume.spec.capacity_bytes))
    }),
    column("USED", |r| {
        Cell::bytes(r.volume.status.as_ref().and_then(|s| s.used_bytes))
    }),
    column("NODE", |r| Cell::text(&r.volume.spec.node)),
    column("DEVICE", |r| Cell::text(&r.device)),
    column("DRIVE", |r| {
        Cell::text(
            r.volume
                .spec
                .drive
                .as_deref()
                .map(short)
                .unwrap_or_default(),
        )
    }),
    column("TIER", |r| Cell::text(r.tier)),
    column("STATUS", status),
    column("CLAIM", claim),
    wide("REASON", |r| {
        let reason = r.volume.status.as_ref().and_then(|s| s.reason);
        Cell::text(reason.map(|x| x.as_str()).unwrap_or_default())
    }),
    wide("PATHS", |r| {
        let targets = r.volume.status.iter().flat_map(|s| &s.targets);
        Cell::text(
            targets
                .map(|t| t.path.as_str())
                .collect::<Vec<_>>()
                .join(","),
        )
    }),
    wide("PODS", |r| {
        let targets = r.volume.status.iter().flat_map(|s| &s.targets);
        let pods = targets.map(|t| t.pod.as_str()).filter(|p| !p.is_empty());
        Cell::text(pods.collect::<Vec<_>>().join(","))
    }),
    wide("INODES", |r| {
        let inodes = r.volume.status.as_ref().and_then(|s| s.used_inodes);
        inodes.map_or_else(Cell::none, |n| {
            Cell::count(usize::try_from(n).unwrap_or(usize::MAX))
        })
    }),
    wide("ENFORCED", |r| {
        let status = r.volume.status.as_ref();
        let enforced = status
            .and_then(|s| condition::get(&s.conditions, ConditionType::CapacityEnforced))
            .map(|condition| condition.status);
        match enforced {
            Some(ConditionStatus::True) => Cell::text("yes"),
            Some(ConditionStatus::False) => Cell::text("no"),
            Some(ConditionStatus::Unknown) | None => Cell::none(),
        }
    }),
    wide("SPREAD", |r| {
        Cell::text(r.volume.spec.spread_id.clone().unwrap_or_default())
    }),
    wide("LABELS", |r| Cell::text(people_labels(r.volume.labels()))),
    wide("AGE", |r| {
        Cell::age(
            r.volume.metadata.creation_timestamp.as_ref().map(|t| t.0),
            r.now,
        )
    }),
    wide("CSI-NAME", |r| Cell::text(&r.volume.spec.csi_name)),
    wide("MESSAGE", |r| {
        let status = r.volume.status.as_ref();
        Cell::text(status.map(|s| s.message.clone()).unwrap_or_default())
    }),
];

fn status(row: &VolumeRow) -> Cell {
    let mut text = format!("{:?}", phase_of(&row.volume));
    let tone = match phase_of(&row.volume) {
        VolumePhase::Lost => Tone::Bad,
        VolumePhase::Pending | VolumePhase::Releasing => Tone::Warn,
        VolumePhase::Ready | VolumePhase::Staged | VolumePhase::Published => Tone::Good,
    };
    if row.volume.metadata.deletion_timestamp.is_some() {
        text.push_str(if row.volume.spec.release {
            ",Deleting"
        } else {
            ",LettingGo"
        });
    }
    if row.volume.spec.move_to.is_some() {
        text.push_str(",Moving");
    }
    if row.volume.spec.suspended {
        text.push_str(",Suspended");
    }
    Cell::text(text).toned(tone)
}

fn claim(row: &VolumeRow) -> Cell {
    let claim = row.volume.spec.claim.as_ref();
    Cell::text(
        claim
            .map(|c| format!("{}/{}", c.namespace, c.name))
            .unwrap_or_default(),
    )
}

/// Runs `list volumes`.
pub(crate) async fn run(session: &mut Session, args: &VolumesArgs) -> Result<(), Stop> {
    let mut changes = Changes::new();
    if args.listing.watch {
        changes_of::<Volume>(session.client().await?, &mut changes);
    }
    let fetch = async |session: &mut Session| {
        let inventory = session.inventory().await?;
        if inventory.volumes.is_empty() {
            session.hint(&Hint::ListIsEmpty {
                what: "volumes",
                command: "kubectl ringpv volumes create, or a PersistentVolumeClaim, makes one",
            })?;
        }
        let drives: BTreeMap<_, _> = inventory.drives.iter().map(|d| (d.name_any(), d)).collect();
        let mut picked = args.pick.filter(&inventory.volumes, &inventory.drives)?;
        if args.pv_gone {
            let claimed = Claimed::ask(session).await?.ok_or_else(|| {
                Stop::refused(
                    Refusal::new(Reason::Unsupported, "--pv-gone")
                        .detail("this server has no PersistentVolumes"),
                )
            })?;
            picked.retain(|volume| claimed.is_gone(volume));
        }
        let mut rows: Vec<_> = picked
            .into_iter()
            .map(|volume| {
                let drive = volume.spec.drive.as_ref().and_then(|id| drives.get(id));
                VolumeRow {
                    device: drive.map(|d| device_name(d).to_owned()).unwrap_or_default(),
                    tier: drive
                        .map(|d| d.spec.access_tier.as_str())
                        .unwrap_or_default(),
                    now: session.now(),
                    volume,
                }
            })
            .collect();
        rows.sort_by_cached_key(|r| natural(&r.volume.name_any()));
        Ok(rows)
    };
    show(session, COLUMNS, &args.listing, changes, fetch).await
}
