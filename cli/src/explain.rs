//! `explain`: why a volume is where it is, from the scores that were kept when it was placed; or, with a size and a
//! class, where one would go now, without creating anything.

use std::collections::BTreeMap;
use std::path::PathBuf;

use api::csi::ringpv::explain_response::Answer;
use api::csi::ringpv::{ExplainRequest, ExplainResponse, RefusedDrive};
use api::volume::{Placement, Scored};
use api::{Bytes, Drive, Reason, Volume};
use clap::Args;
use kube::ResourceExt as _;
use serde_json::{Value, json};

use crate::advice::{Refusal, Stop};
use crate::args::size;
use crate::class;
use crate::screen::Tone;
use crate::select::{by_names, device_name, drive_label, nothing, short};
use crate::session::{Inventory, Session};
use crate::socket;
use crate::view::{self, Cell, Column, Shaped, age, column, seconds_between};

/// Flags of `explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// Name of a volume
    #[arg(
        value_name = "VOLUME",
        required_unless_present = "size",
        conflicts_with = "size"
    )]
    volume: Option<String>,
    /// What if: a volume of this size
    #[arg(long, value_name = "SIZE", value_parser = size)]
    size: Option<Bytes>,
    /// What if: of this class (a StorageClass as a file)
    #[arg(long, value_name = "FILE", requires = "size")]
    class: Option<PathBuf>,
    /// What if: on one of these nodes
    #[arg(long, value_name = "NODE", requires = "size", value_delimiter = ',')]
    node: Vec<String>,
    #[command(flatten)]
    output: Shaped,
}

struct ScoreRow {
    rank: usize,
    scored: Scored,
    drive: Option<Drive>,
}

const COLUMNS: &[Column<ScoreRow>] = &[
    column("RANK", |r| Cell::count(r.rank)),
    column("DRIVE", |r| Cell::text(short(&r.scored.drive))),
    column("NODE", |r| Cell::text(&r.scored.node)),
    column("DEVICE", |r| {
        Cell::text(r.drive.as_ref().map(device_name).unwrap_or_default())
    }),
    column("TIER", |r| {
        Cell::text(
            r.drive
                .as_ref()
                .map(|d| d.spec.access_tier.as_str())
                .unwrap_or_default(),
        )
    }),
    column("SCORE", |r| count(r.scored.total).toned(Tone::Bold)),
    column("LATENCY", |r| count(r.scored.latency)),
    column("CAPACITY", |r| count(r.scored.capacity)),
    column("TIER-ORDER", |r| count(r.scored.tier)),
    column("VOLUMES", |r| count(r.scored.volumes)),
];

fn count(number: u32) -> Cell {
    Cell::count(usize::try_from(number).unwrap_or(usize::MAX))
}

/// Runs `explain`.
pub(crate) async fn run(session: &mut Session, args: &ExplainArgs) -> Result<(), Stop> {
    let inventory = session.inventory().await?;
    match (&args.volume, args.size) {
        (Some(name), _) => kept(session, name, &inventory, args.output),
        (None, Some(size)) => {
            let parameters = class::parameters(args.class.as_deref())?;
            let shape = args.output;
            what_if(session, size, parameters, &args.node, &inventory, shape).await
        }
        (None, None) => Err(Stop::Usage(
            "explain a VOLUME, or what if: --size".to_owned(),
        )),
    }
}

/// Why a volume is where it is.
fn kept(
    session: &mut Session,
    name: &str,
    inventory: &Inventory,
    output: Shaped,
) -> Result<(), Stop> {
    let names = by_names(
        &[name.to_owned()],
        inventory.volumes.iter().map(|v| v.name_any()),
        "volume",
    )?;
    let Some(volume) = inventory
        .volumes
        .iter()
        .find(|v| names.contains(&v.name_any()))
    else {
        return Err(nothing("volume"));
    };
    let Volume { spec, .. } = volume;
    let drive = inventory
        .drives
        .iter()
        .find(|d| Some(d.name_any()) == spec.drive);
    let place = drive.map_or_else(
        || {
            spec.drive
                .as_deref()
                .map_or("no drive yet".to_owned(), |id| {
                    format!("drive {}", short(id))
                })
        },
        drive_label,
    );
    let Some(placement) = &spec.placement else {
        return Err(Stop::refused(
            Refusal::new(Reason::NothingMatched, name)
                .detail(format!(
                    "it is on {place}; why was not recorded (it was adopted, or made by hand)"
                ))
                .next(""),
        ));
    };
    if !output.is_table() {
        let told = json!({
            "volume": volume.name_any(),
            "capacityBytes": spec.capacity_bytes,
            "parameters": spec.parameters,
            "placement": placement,
        });
        return output.print(&mut session.screen, &told);
    }
    let since = age(seconds_between(placement.at, session.now()));
    let name = session.screen.paint(Tone::Bold, &volume.name_any());
    session.screen.line(format!(
        "{name}: {} on {place}, chosen {since} ago among {} drives",
        Bytes(spec.capacity_bytes),
        placement.considered
    ))?;
    asked_for(session, &spec.parameters)?;
    scores(session, placement, inventory)
}

fn asked_for(session: &mut Session, parameters: &BTreeMap<String, String>) -> Result<(), Stop> {
    let pairs: Vec<_> = parameters.iter().map(|(k, v)| format!("{k}={v}")).collect();
    if pairs.is_empty() {
        return Ok(());
    }
    Ok(session
        .screen
        .line(format!("asked for {}", pairs.join(", ")))?)
}

fn scores(session: &mut Session, placement: &Placement, inventory: &Inventory) -> Result<(), Stop> {
    let find = |id: &str| {
        inventory
            .drives
            .iter()
            .find(|d| d.name_any() == id)
            .cloned()
    };
    let ranked = std::iter::once(&placement.chosen).chain(&placement.runners_up);
    let rows: Vec<_> = ranked
        .zip(1..)
        .map(|(scored, rank)| ScoreRow {
            rank,
            drive: find(&scored.drive),
            scored: scored.clone(),
        })
        .collect();
    session.screen.line("")?;
    view::table(
        &mut session.screen,
        &COLUMNS.iter().collect::<Vec<_>>(),
        &rows,
        false,
    )?;
    let refused: Vec<_> = placement
        .refused
        .iter()
        .map(|r| format!("{} {} ({})", r.count, r.reason, r.reason.meaning()))
        .collect();
    if refused.is_empty() {
        return Ok(());
    }
    Ok(session
        .screen
        .line(format!("\nrefused: {}", refused.join(", ")))?)
}

/// Where a volume would go.
pub(crate) async fn what_if(
    session: &mut Session,
    size: Bytes,
    parameters: BTreeMap<String, String>,
    nodes: &[String],
    inventory: &Inventory,
    output: Shaped,
) -> Result<(), Stop> {
    let request = ExplainRequest {
        required_bytes: size.0,
        parameters,
        nodes: nodes.to_vec(),
    };
    let asked = request.parameters.clone();
    let mut client = socket::placement(session).await?;
    let ExplainResponse { answer, refused } = client.explain(request).await?.into_inner();
    if !output.is_table() {
        let told = would_be(size, &asked, answer.as_ref(), &refused)?;
        output.print(&mut session.screen, &told)?;
    }
    match answer {
        Some(Answer::PlacementJson(_)) if !output.is_table() => Ok(()),
        Some(Answer::PlacementJson(text)) => {
            let placement: Placement = serde_json::from_str(&text)?;
            let chosen = inventory
                .drives
                .iter()
                .find(|d| d.name_any() == placement.chosen.drive);
            let place = chosen.map_or_else(|| placement.chosen.drive.clone(), drive_label);
            session.screen.line(format!(
                "{size} would go to {place}, among {} drives; nothing was created",
                placement.considered
            ))?;
            asked_for(session, &asked)?;
            scores(session, &placement, inventory)?;
            one_by_one(session, &refused, inventory)
        }
        Some(Answer::NoFit(no_fit)) => {
            if output.is_table() {
                one_by_one(session, &refused, inventory)?;
            }
            Err(Stop::refused(
                Refusal::new(Reason::NoFit, size.to_string())
                    .detail(no_fit.message)
                    .next(""),
            ))
        }
        None => Err(Stop::Failed(anyhow::anyhow!(
            "the controller answered nothing; is it of another version?"
        ))),
    }
}

/// What would be, for programs; in place of a placement nothing, where no drive can hold it.
fn would_be(
    size: Bytes,
    parameters: &BTreeMap<String, String>,
    answer: Option<&Answer>,
    refused: &[RefusedDrive],
) -> Result<Value, Stop> {
    let placement: Option<Placement> = match answer {
        Some(Answer::PlacementJson(text)) => Some(serde_json::from_str(text)?),
        Some(Answer::NoFit(_)) | None => None,
    };
    let refused: Vec<_> = refused
        .iter()
        .map(|one| json!({"drive": one.drive, "node": one.node, "reason": one.reason}))
        .collect();
    Ok(json!({
        "capacityBytes": size.0,
        "parameters": parameters,
        "placement": placement,
        "refused": refused,
    }))
}

fn one_by_one(
    session: &mut Session,
    refused: &[RefusedDrive],
    inventory: &Inventory,
) -> Result<(), Stop> {
    for RefusedDrive {
        drive,
        node,
        reason,
    } in refused
    {
        let found = inventory.drives.iter().find(|d| d.name_any() == *drive);
        let label = found.map_or_else(|| format!("drive {} on {node}", short(drive)), drive_label);
        let meaning = reason.parse().map_or("", Reason::meaning);
        session
            .screen
            .line(format!("  {label}: {reason}: {meaning}"))?;
    }
    Ok(())
}
