//! `health DRIVE`: everything that is known about how fast and how well drives are, on one page each.

use api::condition::ConditionStatus;
use api::drive::{DriveDevice, HealthState};
use api::{Bytes, Drive, DriveStatus, Nanos};
use clap::Args;
use kube::ResourceExt as _;

use crate::advice::{Hint, Stop};
use crate::bench;
use crate::chart;
use crate::list::drives::{DriveRow, rows};
use crate::screen::Tone;
use crate::select::{DriveArgs, drive_label, short};
use crate::session::Session;
use crate::view::{self, Shaped, age, counted, seconds_between};

/// Flags of `health`.
#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    #[command(flatten)]
    drives: DriveArgs,
    #[command(flatten)]
    output: Shaped,
}

/// Runs `health`.
pub(crate) async fn run(session: &mut Session, args: &HealthArgs) -> Result<(), Stop> {
    let inventory = session.inventory().await?;
    let drives = args.drives.pick(&inventory.drives)?;
    if !args.output.is_table() {
        let list = view::list(&drives)?;
        return args.output.print(&mut session.screen, &list);
    }
    for row in rows(drives, &inventory.volumes, session.now()) {
        page(session, &row)?;
    }
    Ok(())
}

fn page(session: &mut Session, row: &DriveRow) -> Result<(), Stop> {
    let drive = &row.drive;
    let status = drive.status.clone().unwrap_or_default();
    let head = session.screen.paint(Tone::Bold, &drive_label(drive));
    session.screen.line(format!("{head}\n"))?;
    for (title, text) in facts(row, &status) {
        if !text.is_empty() {
            session.screen.line(format!("  {title:<10} {text}"))?;
        }
    }
    verdict(session, &status)?;
    conditions(session, &status)?;
    latency(session, drive, &status)
}

fn facts(row: &DriveRow, status: &DriveStatus) -> Vec<(&'static str, String)> {
    let spec = &row.drive.spec;
    let mut phase = format!("{:?}", status.phase);
    if spec.cordoned {
        phase.push_str(", cordoned: no new volumes");
    }
    if let Some(reason) = status.reason {
        let why = if status.message.is_empty() {
            reason.meaning()
        } else {
            &status.message
        };
        phase = format!("{phase} ({reason}: {why})");
    }
    let capacity = status.capacity.map_or_else(String::new, |c| {
        format!(
            "{}, {} for volumes; {} promised to {}, {} written",
            Bytes(c.total_bytes),
            Bytes(c.allocatable_bytes),
            Bytes(row.allocated_bytes),
            counted(row.volumes, "volume"),
            Bytes(c.used_bytes),
        )
    });
    let erased = status.erased.as_ref().map(ToString::to_string);
    vec![
        ("id", row.drive.name_any()),
        (
            "device",
            status.device.as_ref().map(device_text).unwrap_or_default(),
        ),
        ("tier", spec.access_tier.to_string()),
        ("state", phase),
        ("capacity", capacity),
        ("erased", erased.unwrap_or_default()),
    ]
}

fn device_text(device: &DriveDevice) -> String {
    let transport = device
        .transport
        .map(|t| format!("{t:?}"))
        .unwrap_or_default();
    let rotates = if device.rotational { "rotates" } else { "" };
    let words = [
        &device.name,
        &transport,
        &device.model,
        &device.serial,
        &device.firmware,
    ];
    let words = words
        .into_iter()
        .map(String::as_str)
        .chain([rotates])
        .filter(|w| !w.is_empty());
    words.collect::<Vec<_>>().join("  ")
}

fn verdict(session: &mut Session, status: &DriveStatus) -> Result<(), Stop> {
    let Some(verdict) = &status.verdict else {
        return Ok(session.screen.line("  health     not judged yet")?);
    };
    let tone = match verdict.state {
        HealthState::Healthy => Tone::Good,
        HealthState::Slow | HealthState::Probation => Tone::Warn,
        HealthState::Failing => Tone::Bad,
    };
    let word = session.screen.paint(tone, &format!("{:?}", verdict.state));
    let since = age(seconds_between(verdict.since, session.now()));
    let line = format!("  health     {word} for {since}: {}", verdict.message);
    session.screen.line(line)?;
    Ok(())
}

fn conditions(session: &mut Session, status: &DriveStatus) -> Result<(), Stop> {
    for condition in &status.conditions {
        let word = match condition.status {
            ConditionStatus::True => "yes",
            ConditionStatus::False => "no",
            ConditionStatus::Unknown => "unknown",
        };
        let why = match condition.message.as_str() {
            "" => condition.reason.meaning(),
            message => message,
        };
        let line = format!(
            "  {:?}: {word} ({}: {why})",
            condition.type_, condition.reason
        );
        session.screen.line(line)?;
    }
    Ok(())
}

fn latency(session: &mut Session, drive: &Drive, status: &DriveStatus) -> Result<(), Stop> {
    let latency = status.latency.clone().unwrap_or_default();
    let kernel = [
        ("mean read", latency.kernel_read_mean_ns),
        ("mean write", latency.kernel_write_mean_ns),
    ];
    let kernel: Vec<_> = kernel
        .into_iter()
        .filter_map(|(name, ns)| ns.map(|ns| format!("{name} {}", Nanos(ns))))
        .collect();
    if !kernel.is_empty() {
        let load = latency.load_hundredths.unwrap_or(0);
        let text = kernel.join(", ");
        let line = format!(
            "  in use     {text}, {}.{:02} in flight on average",
            load / 100,
            load % 100
        );
        session.screen.line(line)?;
    }
    let Some(read) = &latency.read else {
        return session.hint(&Hint::NeverMeasured {
            drive: short(&drive.name_any()).to_owned(),
        });
    };
    let when = read.measured_at.map_or_else(String::new, |t| {
        format!(", {} ago", age(seconds_between(t, session.now())))
    });
    let line = format!(
        "\n  random reads of 4 KiB, one at a time{when}\n    {}",
        bench::percentiles(read, None)
    );
    session.screen.line(line)?;
    for line in chart::draw(&chart::coarse(&read.buckets)) {
        session.screen.line(format!("    {line}"))?;
    }
    Ok(session.screen.line("")?)
}
