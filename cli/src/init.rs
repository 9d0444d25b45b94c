//! `init FILE`: makes drives of the devices that drives.yaml selects. Everything is read and checked before anything is
//! created; what would be lost is shown and asked for drive by drive; then the agents work and the progress of all
//! drives is shown until each is ready or failed. The agents go on when nobody looks: a second `init` joins them. A drive
//! that failed is tried again when the file asks for another gate.

mod check;
pub(crate) mod wait;

use std::path::PathBuf;

use anyhow::Context as _;
use api::drive::Gate;
use api::{Bytes, Device, Drive, Nanos, Reason};
use clap::Args;
use kube::ResourceExt as _;
use serde_json::json;

use crate::advice::{self, Hint, Refusal, Stop};
use crate::args::{Confirm, DryRun, Wait};
use crate::change;
use crate::confirm::{self, Target};
use crate::drives_file;
use crate::screen::Tone;
use crate::select::short;
use crate::session::Session;
use crate::view::{self, Cell, Column, column};
use check::{Step, check};

/// Flags of `init`.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The file that discover wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Also take devices that hold data, and destroy it: each is confirmed by its fingerprint
    #[arg(long)]
    dangerous: bool,
    #[command(flatten)]
    confirm: Confirm,
    #[command(flatten)]
    dry_run: DryRun,
    #[command(flatten)]
    wait: Wait,
}

/// A drive to be created.
struct Planned {
    drive: Drive,
    device: Device,
    loses: String,
}

const COLUMNS: &[Column<Planned>] = &[
    column("DRIVE", |p| Cell::text(short(&p.drive.name_any()))),
    column("NODE", |p| Cell::text(&p.drive.spec.node)),
    column("DEVICE", |p| Cell::text(&p.drive.spec.device.name)),
    column("SIZE", |p| {
        Cell::bytes(Some(p.drive.spec.device.size_bytes))
    }),
    column("MODEL", |p| Cell::text(&p.device.model)),
    column("TIER", |p| Cell::text(p.drive.spec.access_tier.as_str())),
    column("ERASE", |p| {
        let erase = p.drive.spec.erase;
        Cell::text(format!("{:?}, verify {:?}", erase.method, erase.verify).to_lowercase())
    }),
    column("GATE", |p| {
        Cell::text(p.drive.spec.gate.map(gate_text).unwrap_or_default())
    }),
    column("DESTROYS", |p| {
        let nothing = p.loses.is_empty();
        let text = if nothing { "nothing" } else { &p.loses };
        Cell::text(text).toned(if nothing { Tone::Plain } else { Tone::Bad })
    }),
];

fn gate_text(gate: Gate) -> String {
    let mut bounds = Vec::new();
    if let Some(ns) = gate.read_latency_p99_ns_max {
        bounds.push(format!("read p99 ≤ {}", Nanos(ns)));
    }
    if let Some(iops) = gate.read_iops_min {
        bounds.push(format!("reads ≥ {iops}/s"));
    }
    if let Some(rate) = gate.write_bytes_per_second_min {
        bounds.push(format!("write ≥ {}/s", Bytes(rate)));
    }
    bounds.join(", ")
}

/// Runs `init`.
pub(crate) async fn run(session: &mut Session, args: &InitArgs) -> Result<(), Stop> {
    let name = args.file.display().to_string();
    let text = std::fs::read_to_string(&args.file)
        .with_context(|| format!("cannot read {name}; kubectl ringpv discover writes one"))?;
    let entries = drives_file::parse(&text).map_err(|errors| {
        let refusals = errors.iter().map(|e| {
            Refusal::new(Reason::FileInvalid, &name)
                .detail(e.to_string())
                .next("correct it, or have a new one: kubectl ringpv discover --overwrite")
        });
        Stop::Refused(refusals.collect())
    })?;
    if !entries.iter().any(|e| e.select) {
        return Err(Stop::refused(
            Refusal::new(Reason::NothingMatched, &name)
                .detail("no drive is selected")
                .next(format!("set select: yes for the drives to make, in {name}")),
        ));
    }
    let inventory = session.inventory().await?;
    let steps = check(&entries, &inventory, args.dangerous).map_err(Stop::Refused)?;
    let Sorted {
        planned,
        joined,
        regated,
    } = sort(session, steps)?;
    view::table(
        &mut session.screen,
        &COLUMNS.iter().collect::<Vec<_>>(),
        &planned,
        false,
    )?;
    if args.dry_run.dry_run {
        return session.hint(&Hint::DryRun);
    }
    let targets: Vec<_> = planned.iter().filter_map(target).collect();
    confirm::confirm(
        &mut session.screen,
        &targets,
        args.confirm.words(),
        "Init of",
    )?;
    let mut drives = create(session, planned).await?;
    drives.extend(joined);
    let stale = regated.iter().map(|(drive, _)| drive.clone()).collect();
    drives.extend(regate(session, regated).await?);
    wait::until_ready(
        session,
        &drives,
        stale,
        &args.wait,
        &format!("kubectl ringpv init {name}"),
    )
    .await
}

/// What is done, by kind.
#[derive(Default)]
struct Sorted {
    planned: Vec<Planned>,
    joined: Vec<Drive>,
    regated: Vec<(Drive, Option<Gate>)>,
}

/// Apart: what is created, what is changed, and what is only waited for. What is a drive already is said.
fn sort(session: &mut Session, steps: Vec<Step>) -> Result<Sorted, Stop> {
    let (mut sorted, mut kept) = (Sorted::default(), Vec::new());
    for step in steps {
        match step {
            Step::Create {
                drive,
                loses,
                device,
            } => sorted.planned.push(Planned {
                drive: *drive,
                device: *device,
                loses,
            }),
            Step::Join(drive) => sorted.joined.push(*drive),
            Step::Regate(drive, gate) => sorted.regated.push((*drive, gate)),
            Step::Keep(drive) => kept.push(
                Refusal::new(Reason::AlreadyInitialized, wait::label(&drive)).detail(format!(
                    "it is drive {} already; left as it is",
                    short(&drive.name_any())
                )),
            ),
        }
    }
    if sorted.planned.is_empty() && sorted.joined.is_empty() && sorted.regated.is_empty() {
        return Err(Stop::Refused(kept));
    }
    for line in advice::list(&kept, "") {
        session.screen.note(line)?;
    }
    Ok(sorted)
}

/// Writes the gates that the file asks for now. The agent tries such a drive again.
async fn regate(
    session: &mut Session,
    regated: Vec<(Drive, Option<Gate>)>,
) -> Result<Vec<Drive>, Stop> {
    let api = session.api::<Drive>().await?;
    let mut drives = Vec::new();
    for (drive, gate) in regated {
        let label = wait::label(&drive);
        // A merge patch leaves alone what it does not name, so a bound that is no more is named.
        let gate = gate.map(|gate| {
            json!({
                "readLatencyP99NsMax": gate.read_latency_p99_ns_max,
                "readIopsMin": gate.read_iops_min,
                "writeBytesPerSecondMin": gate.write_bytes_per_second_min,
            })
        });
        let body = json!({ "spec": { "gate": gate } });
        drives.push(change::patch_despite_reports(&api, &drive, body).await?);
        session
            .screen
            .line(format!("{label} is tried again, with the gate of the file"))?;
    }
    Ok(drives)
}

fn target(planned: &Planned) -> Option<Target> {
    (!planned.loses.is_empty()).then(|| Target {
        name: wait::label(&planned.drive),
        loses: planned.loses.clone(),
        word: planned.drive.spec.device.fingerprint.to_string(),
    })
}

/// Creates the objects. A drive that somebody else made meanwhile is told at the end; the others are made all the same.
async fn create(session: &mut Session, planned: Vec<Planned>) -> Result<Vec<Drive>, Stop> {
    let api = session.api::<Drive>().await?;
    let mut drives = Vec::new();
    let mut refusals = Vec::new();
    for Planned { drive, .. } in planned {
        match api.create(&change::post(), &drive).await {
            Ok(made) => drives.push(made),
            Err(kube::Error::Api(status)) if status.is_already_exists() => refusals.push(
                Refusal::new(Reason::AlreadyInitialized, wait::label(&drive)),
            ),
            Err(error) => return Err(error.into()),
        }
    }
    if drives.is_empty() && !refusals.is_empty() {
        return Err(Stop::Refused(refusals));
    }
    for line in advice::list(&refusals, "") {
        session.screen.note(line)?;
    }
    Ok(drives)
}
