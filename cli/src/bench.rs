//! `bench DRIVE`: creates a Benchmark, shows how far it is, then what it found: percentiles, the histogram, the ratio
//! to the drive's own last run and to its peers. Reads by default; a profile that writes uses the drive's reserved
//! scratch file, never a volume.

mod report;

pub(crate) use report::percentiles;

use std::collections::BTreeMap;

use api::benchmark::{BenchmarkPhase, Pattern, Profile, Workload};
use api::names::{LABEL_DRIVE, LABEL_NODE};
use api::{Benchmark, BenchmarkSpec, Bytes, Drive, DrivePhase, Reason};
use clap::Args;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource as _, ResourceExt as _};

use crate::advice::{Hint, Refusal, Stop};
use crate::args::{DryRun, Wait, duration, size};
use crate::change;
use crate::init::wait;
use crate::progress::{Board, End, follow};
use crate::select::{DriveArgs, drive_label, short};
use crate::session::Session;
use crate::view::{self, Shaped};

/// Flags of `bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    drives: DriveArgs,
    /// quick: reads, some seconds; full: reads and writes, a minute or two
    #[arg(long, value_name = "PROFILE", value_parser = profile, default_value = "quick")]
    profile: Profile,
    #[command(flatten)]
    custom: Custom,
    #[command(flatten)]
    dry_run: DryRun,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    output: Shaped,
}

/// A workload of one's own.
#[derive(Debug, Args)]
#[command(next_help_heading = "A workload of your own, in place of a profile")]
pub(crate) struct Custom {
    /// randread, randwrite, randrw, read, write, rw
    #[arg(long, value_name = "PATTERN", value_parser = pattern, conflicts_with = "profile")]
    pattern: Option<Pattern>,
    /// Bytes per operation
    #[arg(long, value_name = "SIZE", value_parser = size, requires = "pattern", default_value = "4Ki")]
    block_size: Bytes,
    /// Operations in flight
    #[arg(long, value_name = "N", requires = "pattern", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1024))]
    depth: u32,
    /// How long
    #[arg(long, value_name = "TIME", value_parser = duration, requires = "pattern", default_value = "5s")]
    duration: std::time::Duration,
    /// At most so many operations
    #[arg(long, value_name = "N", requires = "pattern")]
    operations: Option<u64>,
    /// At most so many operations a second
    #[arg(long, value_name = "N", requires = "pattern")]
    rate: Option<u64>,
    /// Share of reads in percent, for randrw and rw
    #[arg(long, value_name = "PERCENT", requires = "pattern", value_parser = clap::value_parser!(u32).range(0..=100))]
    read_percent: Option<u32>,
}

fn profile(text: &str) -> Result<Profile, String> {
    match text.to_ascii_lowercase().as_str() {
        "quick" => Ok(Profile::Quick),
        "full" => Ok(Profile::Full),
        _ => Err("it is quick or full; or describe one with --pattern".to_owned()),
    }
}

fn pattern(text: &str) -> Result<Pattern, String> {
    match text.to_ascii_lowercase().as_str() {
        "randread" => Ok(Pattern::RandRead),
        "randwrite" => Ok(Pattern::RandWrite),
        "randrw" => Ok(Pattern::RandRw),
        "read" => Ok(Pattern::Read),
        "write" => Ok(Pattern::Write),
        "rw" => Ok(Pattern::Rw),
        _ => Err("it is one of randread, randwrite, randrw, read, write, rw".to_owned()),
    }
}

/// The workload asked for; `None` for a profile.
fn workload(custom: &Custom) -> Result<Option<Workload>, Stop> {
    let Some(pattern) = custom.pattern else {
        return Ok(None);
    };
    let block = u32::try_from(custom.block_size.0).ok();
    let block_bytes = block
        .filter(|b| (512..=16 << 20).contains(b) && b % 512 == 0)
        .ok_or_else(|| Stop::Usage("--block-size: a multiple of 512, 16Mi at most".to_owned()))?;
    let mixed = matches!(pattern, Pattern::RandRw | Pattern::Rw);
    if custom.read_percent.is_some() && !mixed {
        return Err(Stop::Usage(
            "--read-percent goes with --pattern randrw or rw".to_owned(),
        ));
    }
    Ok(Some(Workload {
        pattern,
        block_bytes,
        depth: custom.depth,
        read_percent: mixed.then(|| custom.read_percent.unwrap_or(50)),
        duration_ms: u64::try_from(custom.duration.as_millis()).ok(),
        operations: custom.operations,
        rate_iops: custom.rate,
        warm_up_ms: 0,
        seed: 0,
    }))
}

/// Runs `bench`.
pub(crate) async fn run(session: &mut Session, args: &BenchArgs) -> Result<(), Stop> {
    let workload = workload(&args.custom)?;
    let all: Vec<Drive> = session.all().await?;
    let drives = args.drives.pick(&all)?;
    let not_ready = drives.iter().filter(|d| {
        d.status
            .as_ref()
            .is_none_or(|s| s.phase != DrivePhase::Ready)
    });
    let refusals: Vec<_> = not_ready
        .map(|d| Refusal::new(Reason::NotReady, drive_label(d)))
        .collect();
    if !refusals.is_empty() {
        return Err(Stop::Refused(refusals));
    }
    if args.dry_run.dry_run {
        return would(session, &drives, args, workload.as_ref());
    }
    let api = session.api::<Benchmark>().await?;
    let (mut started, mut asked_for) = (Vec::new(), BTreeMap::new());
    for drive in &drives {
        let made = api
            .create(
                &change::post(),
                &object(drive, args.profile, workload.clone()),
            )
            .await?;
        started.push((made.name_any(), wait::label(drive)));
        asked_for.insert(made.name_any(), made);
    }
    if args.wait.no_wait {
        for (name, label) in started.iter().filter(|_| args.output.is_table()) {
            session
                .screen
                .line(format!("benchmark {name} of {label} asked for"))?;
        }
        args.output
            .print(&mut session.screen, &view::list(asked_for.values())?)?;
        return session.hint(&Hint::GoesOn {
            command: "kubectl ringpv list benchmarks".to_owned(),
        });
    }
    let (end, done) = watch(session, &started, args).await?;
    asked_for.extend(done);
    args.output
        .print(&mut session.screen, &view::list(asked_for.values())?)?;
    let drives = drives.iter().zip(&started);
    conclude(session, drives, &asked_for, end, args.output)
}

/// What would be measured.
fn would(
    session: &mut Session,
    drives: &[Drive],
    args: &BenchArgs,
    workload: Option<&Workload>,
) -> Result<(), Stop> {
    let objects = drives
        .iter()
        .map(|drive| object(drive, args.profile, workload.cloned()));
    args.output
        .print(&mut session.screen, &view::list(objects)?)?;
    for drive in drives.iter().filter(|_| args.output.is_table()) {
        session
            .screen
            .line(format!("{} would be measured", drive_label(drive)))?;
    }
    session.hint(&Hint::DryRun)
}

/// The object, owned by its drive.
fn object(drive: &Drive, profile: Profile, workload: Option<Workload>) -> Benchmark {
    let id = drive.name_any();
    let spec = BenchmarkSpec {
        node: drive.spec.node.clone(),
        drive: id.clone(),
        profile: if workload.is_some() {
            Profile::Custom
        } else {
            profile
        },
        workload,
    };
    let mut benchmark = Benchmark::new("", spec);
    benchmark.metadata.name = None;
    benchmark.metadata.generate_name = Some(format!("bench-{}-", short(&id)));
    let labels = [(LABEL_NODE, &drive.spec.node), (LABEL_DRIVE, &id)];
    *benchmark.labels_mut() = labels.map(|(k, v)| (k.to_owned(), v.clone())).into();
    benchmark.owner_references_mut().push(OwnerReference {
        api_version: Drive::api_version(&()).into_owned(),
        kind: Drive::kind(&()).into_owned(),
        name: id,
        uid: drive.uid().unwrap_or_default(),
        ..OwnerReference::default()
    });
    benchmark
}

async fn watch(
    session: &mut Session,
    started: &[(String, String)],
    args: &BenchArgs,
) -> Result<(End, BTreeMap<String, Benchmark>), Stop> {
    let mut board = Board::new(&session.screen, started);
    let mut last = BTreeMap::new();
    let api = session.api::<Benchmark>().await?;
    let screen = &mut session.screen;
    let end = follow(
        api,
        args.wait.timeout,
        |all: &BTreeMap<String, Benchmark>| {
            let mut open = false;
            for (name, _) in started {
                let Some(benchmark) = all.get(name) else {
                    continue;
                };
                let status = benchmark.status.clone().unwrap_or_default();
                open |= matches!(
                    status.phase,
                    BenchmarkPhase::Pending | BenchmarkPhase::Running
                );
                let percent = if status.phase == BenchmarkPhase::Done {
                    100
                } else {
                    status.percent
                };
                board.show(
                    screen,
                    name,
                    percent,
                    &format!("{:?}", status.phase),
                    &status.message,
                )?;
                last.insert(name.clone(), benchmark.clone());
            }
            Ok(!open && last.len() == started.len())
        },
    )
    .await;
    board.finish();
    Ok((end?, last))
}

/// Tells what came of it, in words only where nothing else was asked for.
fn conclude<'a>(
    session: &mut Session,
    drives: impl Iterator<Item = (&'a Drive, &'a (String, String))>,
    done: &BTreeMap<String, Benchmark>,
    end: End,
    output: Shaped,
) -> Result<(), Stop> {
    let mut failures = Vec::new();
    for (drive, (name, label)) in drives {
        let status = done
            .get(name)
            .and_then(|b| b.status.clone())
            .unwrap_or_default();
        match status.phase {
            BenchmarkPhase::Done if !output.is_table() => {}
            BenchmarkPhase::Done => report::print(&mut session.screen, drive, &status)?,
            BenchmarkPhase::Failed => failures.push(
                Refusal::new(status.reason.unwrap_or(Reason::BenchmarkFailed), label)
                    .detail(status.message),
            ),
            BenchmarkPhase::Pending | BenchmarkPhase::Running => {
                failures.push(
                    Refusal::new(Reason::TimedOut, label).next("kubectl ringpv list benchmarks"),
                );
            }
        }
    }
    if end != End::Done {
        session.hint(&Hint::GoesOn {
            command: "kubectl ringpv list benchmarks".to_owned(),
        })?;
    }
    if failures.is_empty() {
        return Ok(());
    }
    Err(Stop::FailedFor(failures))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn custom(pattern: Option<Pattern>) -> Custom {
        Custom {
            pattern,
            block_size: Bytes(4096),
            depth: 4,
            duration: std::time::Duration::from_secs(5),
            operations: None,
            rate: None,
            read_percent: None,
        }
    }

    #[test]
    fn workloads() {
        assert!(matches!(workload(&custom(None)), Ok(None)));
        let Ok(Some(mixed)) = workload(&custom(Some(Pattern::RandRw))) else {
            panic!("a workload");
        };
        assert_eq!(
            (mixed.read_percent, mixed.duration_ms),
            (Some(50), Some(5_000))
        );
        let mut odd = custom(Some(Pattern::Read));
        odd.block_size = Bytes(1000);
        assert!(matches!(workload(&odd), Err(Stop::Usage(_))));
        let mut senseless = custom(Some(Pattern::Read));
        senseless.read_percent = Some(30);
        assert!(matches!(workload(&senseless), Err(Stop::Usage(_))));
    }

    #[test]
    fn a_benchmark_is_owned_by_its_drive() {
        let mut drive = testing::drive("1a2b3c4d-0", "n1", "loop1", DrivePhase::Ready);
        drive.metadata.uid = Some("u1".to_owned());
        let benchmark = object(&drive, Profile::Quick, None);
        assert_eq!(benchmark.owner_references()[0].uid, "u1");
        assert_eq!(
            benchmark.metadata.generate_name.as_deref(),
            Some("bench-1a2b3c4d-")
        );
        let written = serde_json::to_value(&benchmark).unwrap();
        assert!(written["metadata"].get("name").is_none(), "{written}");
    }
}
