//! Zeroing devices, beside blkdiscard and dd; and what it does to a neighbour.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use bench::{Limits, Pattern, Report, Workload};
use block::erase::Range;
use block::erase::limiter::RATE_DEFAULT;
use block::{Choice, Options, ReadOnly, Target, bulk};

use super::figures::{Figures, Goal, Measure};
use super::process::{Order, Program, find, run};
use super::{Contest, Device, Lab, Row, Side};

/// Devices of a contest of several.
const SEVERAL: usize = 8;
/// Bytes of each.
const BYTES: u64 = 512 << 20;
/// Bytes of the only one.
const ONE_BYTES: u64 = 1 << 30;
/// What is read of a neighbour, from one process, at this rate.
const NEIGHBOUR_IOPS: u64 = 2000;
/// Places of a device that are looked at after it was zeroed, and bytes of each.
const LOOKED_AT: u64 = 32;
const LOOK_BYTES: u64 = 64 << 10;
/// What is read until something else ends is read so long at the most.
const LONGEST: Duration = Duration::from_mins(2);

/// Ours, over all devices at once. Each is written over before, by nobody's clock: zeroing what is zero is another job. And each
/// is looked at after, as those of the peer are.
fn ours(lab: &Lab, devices: &[Device], method: &'static str) -> Side {
    let (own, all) = (lab.own.clone(), devices.to_vec());
    Side::writing("ours", devices, move |holds| {
        refill(&all)?;
        let mut words = vec!["erase".to_owned(), "--method".into(), method.into()];
        words.extend(["--verify".into(), "none".into()]);
        for (device, word) in all.iter().zip(holds.let_go()?) {
            words.push(device.path.display().to_string());
            words.extend(["--fingerprint".into(), word]);
        }
        let figures = run(&[Program::new(&own, words)], Order::InTurn)?.0;
        are_zero(&all)?;
        Ok(figures)
    })
}

/// A tool, over devices that were written over before, and are held meanwhile. Only blkdiscard takes a hold of its own, of devices
/// that are nobody's but the comparison's.
fn peer(
    name: &'static str,
    tool: &'static str,
    devices: &[Device],
    words: impl Fn(&Device) -> Vec<String>,
    order: Order,
) -> Side {
    let Some(path) = find(tool) else {
        return Side::missing(name, tool);
    };
    let programs: Vec<Program> = devices
        .iter()
        .map(|device| Program::new(&path, words(device)))
        .collect();
    let all = devices.to_vec();
    let lets_go = tool == "blkdiscard" && devices.iter().all(Device::is_own);
    Side::writing(name, devices, move |holds| {
        refill(&all)?;
        if lets_go {
            holds.let_go()?;
        }
        let figures = run(&programs, order)?.0;
        are_zero(&all)?;
        Ok(figures)
    })
}

/// That zeroes are read where nobody's clock runs: at both ends of each device, and at places between.
fn are_zero(devices: &[Device]) -> anyhow::Result<()> {
    for device in devices {
        let target = Target::<ReadOnly>::open(&device.path)?;
        for place in 0..=LOOKED_AT {
            let last = device.size_bytes.saturating_sub(LOOK_BYTES);
            let range = Range {
                offset: last / LOOKED_AT * place / LOOK_BYTES * LOOK_BYTES,
                bytes: LOOK_BYTES,
            };
            let bytes = bulk::read(target.file(), range)?;
            anyhow::ensure!(
                bytes.iter().all(|byte| *byte == 0),
                "{} was not zeroed at {}",
                device.path.display(),
                range.offset
            );
        }
    }
    Ok(())
}

/// Something else than zeroes over all of each device.
fn refill(devices: &[Device]) -> anyhow::Result<()> {
    let dd = find("dd").context("dd (package coreutils) is missing")?;
    let words = |device: &Device| {
        let to = format!("of={}", device.path.display());
        let from = format!("if={}", device.pattern.display());
        vec![
            from,
            to,
            "bs=1M".into(),
            "oflag=direct".into(),
            "conv=nocreat,notrunc,fsync".into(),
            "status=none".into(),
        ]
    };
    let programs: Vec<Program> = devices
        .iter()
        .map(|device| Program::new(&dd, words(device)))
        .collect();
    run(&programs, Order::InTurn).map(drop)
}

/// Devices that zero by themselves.
pub(super) fn offloaded(lab: &Lab) -> anyhow::Result<Contest> {
    let devices = lab.zeroing(SEVERAL, BYTES)?;
    let words = |device: &Device| {
        let path = device.path.display().to_string();
        // -f: a device that somebody gave is held for it, and it takes no hold of its own, nor looks for a file system there.
        let force = (!device.is_own()).then(|| "-f".to_owned());
        force.into_iter().chain(["-z".into(), path]).collect()
    };
    let (turn, once) = ("blkdiscard -z in turn", "blkdiscard -z at once");
    let row = |name: &str, peer, goal| Row {
        name: format!("erase-8/{name}"),
        peer,
        measure: Measure::Wall,
        goal: Goal::AtLeast(goal),
    };
    Ok(Contest {
        what: format!("{SEVERAL} devices zeroed by themselves"),
        rows: vec![row("in-turn", turn, 10.0), row("at-once", once, 2.0)],
        sides: vec![
            ours(lab, &devices, "zero"),
            peer(turn, "blkdiscard", &devices, words, Order::InTurn),
            peer(once, "blkdiscard", &devices, words, Order::AtOnce),
        ],
    })
}

/// Devices that zeroes are written to.
pub(super) fn written(lab: &Lab, count: usize) -> anyhow::Result<Contest> {
    let bytes = if count == 1 { ONE_BYTES } else { BYTES };
    let devices = lab.overwritten(count, bytes)?;
    let blocks = bytes >> 20;
    let words = |device: &Device| {
        let to = format!("of={}", device.path.display());
        let count = format!("count={blocks}");
        vec![
            "if=/dev/zero".into(),
            to,
            "bs=1M".into(),
            count,
            "oflag=direct".into(),
            "conv=nocreat,notrunc,fsync".into(),
            "status=none".into(),
        ]
    };
    let goal = if count == 1 { 1.3 } else { 1.6 };
    Ok(Contest {
        what: format!("{count} devices zeroed by writes, beside dd in turn"),
        rows: vec![Row {
            name: format!("erase-writes-{count}"),
            peer: "dd",
            measure: Measure::Wall,
            goal: Goal::AtLeast(goal),
        }],
        sides: vec![
            ours(lab, &devices, "writes"),
            peer("dd", "dd", &devices, words, Order::InTurn),
        ],
    })
}

/// Reads of one device, while its neighbour is erased at the rate that the agent allows itself, and without.
pub(super) fn neighbour(lab: &Lab) -> anyhow::Result<Contest> {
    let erasing = Erasing {
        name: "neighbour",
        what: "a neighbour is erased by writes at the default rate",
        words: ["--method", "writes", "--rate", &RATE_DEFAULT.to_string()]
            .map(str::to_owned)
            .to_vec(),
        outlasts: true,
    };
    beside(lab, lab.overwritten(2, ONE_BYTES)?, erasing)
}

/// The same, while its neighbours zero by themselves, one after the other, as the agent lets them. No rate holds them; that
/// there is one says that others are to be spared.
pub(super) fn neighbour_offloaded(lab: &Lab) -> anyhow::Result<Contest> {
    let erasing = Erasing {
        name: "neighbour-offloaded",
        what: "neighbours zero by themselves, one after the other",
        words: ["--method", "zero", "--rate", &RATE_DEFAULT.to_string()]
            .map(str::to_owned)
            .to_vec(),
        outlasts: false,
    };
    beside(lab, lab.zeroing(SEVERAL, BYTES)?, erasing)
}

/// What neighbours are erased by.
struct Erasing {
    name: &'static str,
    what: &'static str,
    words: Vec<String>,
    /// It takes longer than the reads, which are as long as any timed run; else they end with it.
    outlasts: bool,
}

/// Reads of the first device, while the others are erased one after the other, and while nothing is.
fn beside(lab: &Lab, mut devices: Vec<Device>, erasing: Erasing) -> anyhow::Result<Contest> {
    let erased = devices.split_off(1);
    let Some(read) = devices.pop() else {
        anyhow::bail!("two devices are needed");
    };
    if lab.given.is_empty() {
        // What was never written is read from nowhere.
        refill(std::slice::from_ref(&read))?;
    }
    let (own, runtime) = (lab.own.clone(), lab.runtime);
    let alone = read.path.clone();
    let held = erased.clone();
    Ok(Contest {
        what: format!(
            "the 99th percentile of reads while {} / without",
            erasing.what
        ),
        rows: vec![Row {
            name: format!("{}/p99", erasing.name),
            peer: "nothing erased",
            measure: Measure::P99,
            goal: Goal::AtMost(1.5),
        }],
        sides: vec![
            Side::writing("ours", &held, move |holds| {
                refill(&erased)?;
                let erasers: Vec<Program> = erased
                    .iter()
                    .zip(holds.let_go()?)
                    .map(|(device, word)| {
                        let mut words = vec!["erase".to_owned(), "--verify".into(), "none".into()];
                        words.extend(erasing.words.iter().cloned());
                        words.push(device.path.display().to_string());
                        words.extend(["--fingerprint".into(), word]);
                        Program::new(&own, words)
                    })
                    .collect();
                let limit = if erasing.outlasts { runtime } else { LONGEST };
                while_run(erasers, |ended| {
                    let figures = reads(read.path.clone(), limit, ended)?;
                    anyhow::ensure!(
                        !erasing.outlasts || !ended.load(Ordering::Relaxed),
                        "the neighbour was erased before the reads had ended: give a shorter --runtime"
                    );
                    Ok(figures)
                })
            }),
            Side::new("nothing erased", move || {
                reads(alone.clone(), runtime, &AtomicBool::new(false))
            }),
        ],
    })
}

/// Does something while programs run one after the other; it is told when they have ended. Whatever comes of it: none of
/// them runs after.
fn while_run(
    programs: Vec<Program>,
    what: impl FnOnce(&AtomicBool) -> anyhow::Result<Figures>,
) -> anyhow::Result<Figures> {
    let ended = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&ended);
    let running = std::thread::spawn(move || {
        let done = run(&programs, Order::InTurn);
        told.store(true, Ordering::Relaxed);
        done
    });
    let figures = what(&ended);
    let Ok(done) = running.join() else {
        anyhow::bail!("the eraser's thread ended unexpectedly");
    };
    done?;
    figures
}

/// Reads until `ended`, for `limit` at the longest.
fn reads(device: PathBuf, limit: Duration, ended: &AtomicBool) -> anyhow::Result<Figures> {
    let workload = Workload::new(Pattern::RandRead, 4096, 4);
    let limits = Limits {
        rate_iops: Some(NEIGHBOUR_IOPS),
        ..Limits::time(limit)
    };
    let backend = block::probe_backend(Choice::Auto)?;
    let target = Target::<ReadOnly>::open(&device)?;
    let mut opened = block::open(backend, target, Options::new(4, 4096))?;
    let report: Report = bench::run(&mut opened, &workload, &limits, &mut |_| {}, ended)?;
    Ok(Figures {
        wall_s: report.elapsed.as_secs_f64(),
        p99_ns: Some(report.read.latency.percentile_ns(99.0) as f64),
        ..Figures::default()
    })
}
