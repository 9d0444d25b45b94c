//! `discover`: the devices of all nodes, what each holds, what may be done with it and why not; and drives.yaml for
//! those that can become drives. The agents keep the list current by themselves: nothing is asked to refresh.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use api::condition::{self, ConditionType};
use api::names::FILESYSTEM_LABEL_PREFIX;
use api::storage_node::{DeviceVerdict, Signature};
use api::{Device, Drive, Reason, StorageNode};
use clap::Args;
use kube::ResourceExt as _;
use serde_json::Value;

use crate::advice::{Hint, Refusal, Stop};
use crate::args::DryRun;
use crate::drives_file::{self, Offer};
use crate::screen::Tone;
use crate::select::{Names, nothing, short};
use crate::session::Session;
use crate::view::{self, Cell, Column, Format, Output, Row, column, counted, natural, wide};

/// The signature of a claim block, as agents report it.
const CLAIM: &str = "ringpv-claim";
/// For so long an agent that is still looking at its devices is waited for; it gives each of them five seconds.
const LOOK_MAX: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// For so long an agent is waited for that has not told yet of a drive's removal.
const BEHIND_MAX: Duration = Duration::from_secs(3);

/// Flags of `discover`.
#[derive(Debug, Args)]
pub(crate) struct DiscoverArgs {
    /// On these nodes, such as node-{1...4}
    #[arg(short, long, value_name = "NODE", value_delimiter = ',')]
    node: Vec<String>,
    /// These devices, such as nvme{0...3}n1
    #[arg(short, long, value_name = "DEVICE", value_delimiter = ',')]
    drive: Vec<String>,
    /// Show the devices that cannot be used, too
    #[arg(long)]
    all: bool,
    /// Where to write what init reads
    #[arg(short, long, value_name = "FILE", default_value = "drives.yaml")]
    file: PathBuf,
    /// Write over a file that is there
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    dry_run: DryRun,
    #[command(flatten)]
    output: Output,
}

struct DeviceRow {
    node: String,
    device: Device,
}

/// What may be done with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// It can become a drive.
    Free,
    /// It can, and what it holds is lost.
    LosesData,
    /// It bears a drive that can be brought back.
    Adopt,
    /// It bears a drive of another cluster.
    Foreign,
    /// It is a drive.
    Taken,
    /// Nothing.
    No,
}

impl Use {
    /// Judges a device by what its agent said.
    pub(crate) fn of(device: &Device) -> Self {
        let has = |reason| device.reasons.iter().any(|r| r.reason == reason);
        match device.verdict {
            DeviceVerdict::Eligible if has(Reason::HoldsData) => Self::LosesData,
            DeviceVerdict::Eligible => Self::Free,
            DeviceVerdict::Denied if has(Reason::AlreadyManaged) => Self::Taken,
            DeviceVerdict::Denied if has(Reason::Adoptable) => Self::Adopt,
            DeviceVerdict::Denied if has(Reason::ForeignCluster) => Self::Foreign,
            DeviceVerdict::Denied => Self::No,
        }
    }

    const fn cell(self) -> (&'static str, Tone) {
        match self {
            Self::Free => ("yes", Tone::Good),
            Self::LosesData => ("loses data", Tone::Warn),
            Self::Adopt => ("adopt", Tone::Warn),
            Self::Foreign => ("foreign", Tone::Warn),
            Self::Taken => ("is a drive", Tone::Dim),
            Self::No => ("no", Tone::Dim),
        }
    }
}

impl Row for DeviceRow {
    fn object(&self) -> Result<Value, serde_json::Error> {
        let mut object = serde_json::to_value(&self.device)?;
        if let Value::Object(fields) = &mut object {
            fields.insert("node".to_owned(), self.node.clone().into());
        }
        Ok(object)
    }

    fn name(&self) -> String {
        format!("device/{}/{}", self.node, self.device.name)
    }
}

const COLUMNS: &[Column<DeviceRow>] = &[
    column("NODE", |r| Cell::text(&r.node)),
    column("DEVICE", |r| Cell::text(&r.device.name)),
    column("SIZE", |r| Cell::bytes(Some(r.device.size_bytes))),
    column("MODEL", |r| Cell::text(&r.device.model)),
    column("TRANSPORT", |r| {
        Cell::text(format!("{:?}", r.device.transport))
    }),
    column("TIER", |r| Cell::text(r.device.proposed_tier.as_str())),
    column("HOLDS", |r| Cell::text(holds(&r.device))),
    column("AVAILABLE", |r| {
        let (text, tone) = Use::of(&r.device).cell();
        Cell::text(text).toned(tone)
    }),
    column("REASON", |r| {
        let words: Vec<_> = r.device.reasons.iter().map(|x| x.reason.as_str()).collect();
        Cell::text(words.join(","))
    }),
    wide("SERIAL", |r| Cell::text(&r.device.serial)),
    wide("WWID", |r| Cell::text(&r.device.wwid)),
    wide("SECTOR", |r| {
        Cell::bytes(Some(r.device.logical_block_bytes.into()))
    }),
    wide("ROTATES", |r| {
        Cell::text(if r.device.rotational { "yes" } else { "no" })
    }),
    wide("DRIVE-ID", |r| {
        Cell::text(r.device.drive_id.clone().unwrap_or_default())
    }),
    wide("FINGERPRINT", |r| {
        Cell::text(r.device.fingerprint.to_string())
    }),
    wide("WHY", |r| {
        let texts: Vec<_> = r
            .device
            .reasons
            .iter()
            .map(|x| x.message.as_str())
            .collect();
        Cell::text(texts.join("; "))
    }),
];

/// What a device holds, in words; empty for nothing.
pub(crate) fn holds(device: &Device) -> String {
    if let Some(held) = &device.holds_drive {
        let mut words = vec![format!("drive {}", short(&held.id))];
        if held.volumes > 0 {
            let count = usize::try_from(held.volumes).unwrap_or(usize::MAX);
            words.push(counted(count, "volume"));
        }
        let besides = device.signatures.iter().filter(|one| !is_of_a_drive(one));
        words.extend(besides.map(signature));
        return words.join(", ");
    }
    let words: Vec<_> = device.signatures.iter().map(signature).collect();
    words.join(", ")
}

/// Whether a signature is that of a drive of ours: its claim block, or its file system by the label.
fn is_of_a_drive(signature: &Signature) -> bool {
    signature.kind == CLAIM || signature.detail.starts_with(FILESYSTEM_LABEL_PREFIX)
}

/// A signature by its name, and by the label or UUID by which people know it.
fn signature(signature: &Signature) -> String {
    match signature.detail.as_str() {
        "" => signature.kind.clone(),
        detail => format!("{} {detail:?}", signature.kind),
    }
}

/// Runs `discover`.
pub(crate) async fn run(session: &mut Session, args: &DiscoverArgs) -> Result<(), Stop> {
    let (nodes, devices) = (
        Names::new(&args.node, "--node")?,
        Names::new(&args.drive, "--drive")?,
    );
    let all = looked_at(session, &nodes).await?;
    let mut rows: Vec<_> = all
        .iter()
        .flat_map(|n| devices_of(n).iter().map(|d| (n.name_any(), d.clone())))
        .filter(|(_, device)| devices.matches(&device.name))
        .map(|(node, device)| DeviceRow { node, device })
        .collect();
    rows.sort_by_cached_key(|r| (natural(&r.node), natural(&r.device.name)));
    if rows.is_empty() {
        return Err(nothing("device"));
    }
    let (mut shown, hidden): (Vec<_>, Vec<_>) = rows
        .into_iter()
        .partition(|r| args.all || !matches!(Use::of(&r.device), Use::No | Use::Taken));
    view::print(&mut session.screen, COLUMNS, &mut shown, &args.output)?;
    hint_hidden(session, &hidden)?;
    let count = |what| shown.iter().filter(|r| Use::of(&r.device) == what).count();
    let (adoptable, foreign) = (count(Use::Adopt), count(Use::Foreign));
    if adoptable > 0 {
        session.hint(&Hint::Adoptable { count: adoptable })?;
    }
    if foreign > 0 {
        session.hint(&Hint::Foreign { count: foreign })?;
    }
    if !matches!(args.output.output, Format::Table | Format::Wide) {
        return Ok(());
    }
    write_file(session, args, &shown)
}

/// The nodes that are asked for. One whose agent is still looking at its devices is waited for, a while: an agent that
/// has just started would else show none, or half of them. So is one that shows a drive which was removed just now.
async fn looked_at(session: &mut Session, names: &Names) -> Result<Vec<StorageNode>, Stop> {
    let begun = tokio::time::Instant::now();
    loop {
        let drives: Vec<Drive> = session.all().await?;
        let drives: BTreeSet<String> = drives.iter().map(kube::ResourceExt::name_any).collect();
        let mut all: Vec<StorageNode> = session.all().await?;
        if all.is_empty() {
            return Err(Stop::refused(Refusal::new(Reason::NoAgent, "")));
        }
        all.retain(|n| names.matches(&n.name_any()));
        let waited = begun.elapsed();
        let looking = all.iter().any(is_looking) && waited < LOOK_MAX;
        let behind = all.iter().any(|n| is_behind(n, &drives)) && waited < BEHIND_MAX;
        if !looking && !behind {
            return Ok(all);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Whether an agent has not heard from every device yet, nor given one up.
fn is_looking(node: &StorageNode) -> bool {
    let conditions = node.status.as_ref().map_or(&[][..], |s| &s.conditions);
    condition::get(conditions, ConditionType::Ready)
        .is_some_and(|ready| ready.reason == Reason::Unresponsive)
}

/// Whether a node still calls a device a drive of this cluster that has no Drive any more.
fn is_behind(node: &StorageNode, drives: &BTreeSet<String>) -> bool {
    devices_of(node).iter().any(|device| {
        let managed = |one: &api::storage_node::DeviceReason| one.reason == Reason::AlreadyManaged;
        let held = device.holds_drive.as_ref();
        device.reasons.iter().any(managed) && held.is_some_and(|held| !drives.contains(&held.id))
    })
}

/// The devices an agent reported.
pub(crate) fn devices_of(node: &StorageNode) -> &[Device] {
    node.status.as_ref().map_or(&[], |s| s.devices.as_slice())
}

fn hint_hidden(session: &mut Session, hidden: &[DeviceRow]) -> Result<(), Stop> {
    if hidden.is_empty() {
        return Ok(());
    }
    let mut counts = BTreeMap::new();
    for reason in hidden.iter().filter_map(|r| r.device.reasons.first()) {
        *counts.entry(reason.reason).or_insert(0_usize) += 1;
    }
    let reasons: Vec<_> = counts
        .iter()
        .map(|(reason, n)| format!("{n} {reason}"))
        .collect();
    session.hint(&Hint::DevicesHidden {
        count: hidden.len(),
        reasons: reasons.join(", "),
    })
}

fn write_file(session: &mut Session, args: &DiscoverArgs, rows: &[DeviceRow]) -> Result<(), Stop> {
    let offers: Vec<_> = rows
        .iter()
        .filter(|r| {
            matches!(Use::of(&r.device), Use::Free | Use::LosesData) && r.device.drive_id.is_some()
        })
        .map(|r| Offer {
            node: &r.node,
            device: &r.device,
            holds: holds(&r.device),
        })
        .collect();
    if offers.is_empty() {
        return session.hint(&Hint::NoneEligible);
    }
    if args.dry_run.dry_run {
        return session.hint(&Hint::DryRun);
    }
    let name = args.file.display().to_string();
    let text = drives_file::write(&offers, &name, session.now());
    if save(&args.file, &text, args.overwrite)? {
        session.hint(&Hint::DevicesEligible {
            count: offers.len(),
            file: name,
        })
    } else {
        Err(Stop::refused(Refusal::new(Reason::FileExists, name)))
    }
}

/// Writes the file; false where one is there, with other content, that may hold somebody's edits.
fn save(path: &Path, text: &str, overwrite: bool) -> Result<bool, Stop> {
    let context = || format!("cannot write {}", path.display());
    let mut options = OpenOptions::new();
    options.write(true);
    if overwrite {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    let mut file = match options.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let old = std::fs::read_to_string(path).unwrap_or_default();
            return Ok(same_but_time(&old, text));
        }
        Err(error) => return Err(Stop::Failed(anyhow::Error::from(error).context(context()))),
    };
    file.write_all(text.as_bytes()).with_context(context)?;
    Ok(true)
}

/// Whether two files differ at most in their first line, which holds the time.
fn same_but_time(old: &str, new: &str) -> bool {
    let rest = |text: &str| text.split_once('\n').map(|(_, rest)| rest.to_owned());
    rest(old) == rest(new)
}
