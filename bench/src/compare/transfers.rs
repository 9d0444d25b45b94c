//! Reads and writes beside fio, and the way to the kernel and back beside fio's `t/io_uring`.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bench::{Limits, Pattern, Workload};
use block::{Choice, Options, ReadOnly, Target};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::Value;

use super::figures::{Figures, Goal, Measure};
use super::process::{Order, Program, find, run};
use super::{Contest, Device, Lab, Row, Side, Skipped};

/// Bytes of a device in memory that is read at random.
const READ_BYTES: u64 = 2 << 30;
/// Bytes of one that is written in order.
const WRITE_BYTES: u64 = 1 << 30;
/// Reads of a health check.
const CHECK_READS: u64 = 1000;

/// Random reads of 4 KiB, many at once.
pub(super) fn random_reads(lab: &Lab, depth: u32) -> anyhow::Result<Contest> {
    let device = lab.filled(READ_BYTES)?;
    let job = Job::new(&device, "randread", "4k", depth, lab.runtime);
    let tuned = ("fio, tuned", TUNED);
    let (cpu, of_default) = if depth < 64 {
        (0.80, 0.70)
    } else {
        (0.85, 0.60)
    };
    let row = |name: &str, peer, measure, goal| Row {
        name: format!("randread-{depth}/{name}"),
        peer,
        measure,
        goal,
    };
    let mut rows = vec![
        row("iops", tuned.0, Measure::Iops, Goal::AtLeast(1.0)),
        row("cpu", tuned.0, Measure::Cpu, Goal::AtMost(cpu)),
        row(
            "cpu-default",
            "fio, default",
            Measure::Cpu,
            Goal::AtMost(of_default),
        ),
        row("user-cpu", tuned.0, Measure::UserCpu, Goal::AtMost(0.22)),
    ];
    if depth < 64 {
        rows.push(row("p50", tuned.0, Measure::P50, Goal::Within(0.85, 1.05)));
    }
    Ok(Contest {
        what: format!("random reads of 4 KiB, depth {depth}"),
        rows,
        sides: vec![
            ours(lab, &job),
            fio(lab, tuned.0, &job, tuned.1),
            fio(lab, "fio, default", &job, |_| Vec::new()),
        ],
    })
}

/// Random reads of 4 KiB, one after another: what a device's latency is taken for.
pub(super) fn single_reads(lab: &Lab) -> anyhow::Result<Contest> {
    let device = lab.filled(READ_BYTES)?;
    let job = Job::new(&device, "randread", "4k", 1, lab.runtime);
    Ok(Contest {
        what: "random reads of 4 KiB, depth 1".into(),
        rows: vec![Row {
            name: "randread-1/p50".into(),
            peer: "fio, tuned",
            measure: Measure::P50,
            goal: Goal::Within(0.85, 1.05),
        }],
        sides: vec![ours(lab, &job), fio(lab, "fio, tuned", &job, TUNED)],
    })
}

/// The same by an NVMe drive's own commands, beside fio's and beside its block device.
pub(super) fn passthrough(lab: &Lab, depth: u32) -> anyhow::Result<Contest> {
    let device = lab.given.first().map(|device| device.path.as_path());
    let own = device.and_then(|path| path.file_name()?.to_str()?.strip_prefix("nvme"));
    let generic = own.map(|rest| Path::new("/dev").join(format!("ng{rest}")));
    let (Some(device), Some(generic)) = (device, generic) else {
        anyhow::bail!(Skipped("an NVMe drive has to be given".into()));
    };
    let blocks = Job::new(device, "randread", "4k", depth, lab.runtime);
    let commands = Job {
        generic: Some(generic.display().to_string()),
        ..Job::new(device, "randread", "4k", depth, lab.runtime)
    };
    let by_blocks = "by blocks";
    let row = |name: &str, peer, measure, goal| Row {
        name: format!("passthrough-{depth}/{name}"),
        peer,
        measure,
        goal,
    };
    let fio_name = "fio, io_uring_cmd";
    Ok(Contest {
        what: format!("random reads of 4 KiB by commands of the drive, depth {depth}"),
        rows: vec![
            row("iops", fio_name, Measure::Iops, Goal::AtLeast(1.0)),
            row("cpu", fio_name, Measure::Cpu, Goal::AtMost(0.80)),
            row("iops-blocks", by_blocks, Measure::Iops, Goal::AtLeast(1.0)),
            row("cpu-blocks", by_blocks, Measure::Cpu, Goal::AtMost(1.0)),
        ],
        sides: vec![
            ours(lab, &commands),
            fio(lab, fio_name, &commands, TUNED),
            Side {
                name: by_blocks,
                ..ours(lab, &blocks)
            },
        ],
    })
}

/// Writes of 1 MiB in order.
pub(super) fn writes(lab: &Lab, depth: u32) -> anyhow::Result<Contest> {
    let device = lab.writable(WRITE_BYTES)?;
    let job = Job::new(&device.path, "write", "1m", depth, lab.runtime);
    let name = "fio, zero_buffers";
    let row = |what: &str, measure, goal| Row {
        name: format!("write-{depth}/{what}"),
        peer: name,
        measure,
        goal,
    };
    Ok(Contest {
        what: format!("writes of 1 MiB in order, depth {depth}"),
        rows: vec![
            row("bytes", Measure::BytesPerSecond, Goal::AtLeast(0.98)),
            row("cpu", Measure::CpuPerByte, Goal::AtMost(0.65)),
        ],
        sides: vec![
            ours_writing(lab, &job, &device),
            fio(lab, name, &job, |_| {
                words("--zero_buffers --registerfiles --fixedbufs")
            })
            .writing_to(std::slice::from_ref(&device)),
        ],
    })
}

/// No-ops: what a program and the kernel do for an operation, without any device.
pub(super) fn no_ops(lab: &Lab) -> anyhow::Result<Contest> {
    const DEPTH: u32 = 32;
    let file = lab.scratch()?;
    let job = Job::new(&file, "nop", "4k", DEPTH, lab.runtime);
    let peer = match &lab.t_io_uring {
        Some(path) => t_io_uring(lab, path, &job),
        None => least_loop(lab, DEPTH),
    };
    Ok(Contest {
        what: format!(
            "no-ops, {DEPTH} at once; ours with all percentiles, {} without",
            peer.name
        ),
        rows: vec![Row {
            name: "nop/cpu".into(),
            peer: peer.name,
            measure: Measure::Cpu,
            goal: Goal::AtMost(1.10),
        }],
        sides: vec![ours(lab, &job), peer],
    })
}

/// A health check: a thousand reads inside a process that runs already, beside starting fio for them.
pub(super) fn health_check(lab: &Lab) -> anyhow::Result<Contest> {
    let (device, processor) = (lab.filled(READ_BYTES)?, lab.processor);
    let job = Job::new(&device, "randread", "4k", 1, lab.runtime);
    let once = format!("--number_ios={CHECK_READS}");
    let fio = match find("fio") {
        Some(path) => {
            let mut words = job.fio();
            words
                .retain(|word| !word.starts_with("--time_based") && !word.starts_with("--runtime"));
            words.push(once);
            pinned("fio", lab, Program::new(&path, words), |figures, _| {
                Ok(figures)
            })
        }
        None => Side::missing("fio", "fio"),
    };
    Ok(Contest {
        what: format!(
            "a health check of {CHECK_READS} reads, in a process that runs / by starting fio"
        ),
        rows: vec![Row {
            name: "health-check".into(),
            peer: "fio",
            measure: Measure::Wall,
            goal: Goal::AtLeast(15.0),
        }],
        sides: vec![
            Side::new("ours", move || on_processor(processor, || check(&device))),
            fio,
        ],
    })
}

/// Runs it on one processor alone, on a thread of its own, as its peer is run.
fn on_processor<T: Send>(
    processor: usize,
    run: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    let pinned = || {
        let mut processors = CpuSet::new();
        processors.set(processor)?;
        sched_setaffinity(Pid::from_raw(0), &processors)
            .with_context(|| format!("cannot run on processor {processor}"))?;
        run()
    };
    std::thread::scope(|scope| match scope.spawn(pinned).join() {
        Ok(done) => done,
        Err(_) => anyhow::bail!("the thread ended unexpectedly"),
    })
}

#[expect(clippy::disallowed_methods, reason = "the clock at the rim")]
fn check(device: &Path) -> anyhow::Result<Figures> {
    let start = Instant::now();
    let backend = block::probe_backend(Choice::Auto)?;
    let workload = Workload::new(Pattern::RandRead, 4096, 1);
    let limits = Limits::operations(CHECK_READS);
    let mut opened = block::open(
        backend,
        Target::<ReadOnly>::open(device)?,
        Options::new(1, 4096),
    )?;
    let cancel = AtomicBool::new(false);
    let report = bench::run(&mut opened, &workload, &limits, &mut |_| {}, &cancel)?;
    drop(opened);
    anyhow::ensure!(
        report.read.operations == CHECK_READS,
        "not all reads were answered"
    );
    Ok(Figures {
        wall_s: start.elapsed().as_secs_f64(),
        ..Figures::default()
    })
}

/// A workload, for both sides.
struct Job {
    device: String,
    pattern: &'static str,
    block: &'static str,
    depth: u32,
    runtime: Duration,
    /// The character device of the drive, where it is sent its own commands.
    generic: Option<String>,
}

impl Job {
    fn new(
        device: &Path,
        pattern: &'static str,
        block: &'static str,
        depth: u32,
        runtime: Duration,
    ) -> Self {
        Self {
            device: device.display().to_string(),
            pattern,
            block,
            depth,
            runtime,
            generic: None,
        }
    }

    fn fio(&self) -> Vec<String> {
        let Self {
            device,
            pattern,
            block,
            depth,
            runtime,
            generic,
        } = self;
        let (device, engine) = match generic {
            // There is no page cache, and fio cannot open the character device past one.
            Some(generic) => (generic, "io_uring_cmd --cmd_type=nvme"),
            None => (device, "io_uring --direct=1"),
        };
        // It takes a colon for the end of a name.
        let device = device.replace(':', "\\:");
        words(&format!(
            "--name=compare --filename={device} --ioengine={engine} --rw={pattern} --bs={block} \
             --iodepth={depth} --runtime={}ms --time_based --output-format=json --thread --lat_percentiles=1",
            runtime.as_millis()
        ))
    }

    fn ours(&self) -> Vec<String> {
        let Self {
            device,
            pattern,
            block,
            depth,
            runtime,
            generic,
        } = self;
        let way = generic.as_ref().map_or("", |_| "--passthrough");
        words(&format!(
            "run {device} --engine uring --rw {pattern} --bs {block} --iodepth {depth} --runtime {}ms --json {way}",
            runtime.as_millis()
        ))
    }
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// fio as an expert would have it: nothing looked up or pinned anew for an operation, half the depth handed over at once.
const TUNED: fn(u32) -> Vec<String> = |depth| {
    let half = (depth / 2).max(1);
    words(&format!(
        "--registerfiles --fixedbufs --norandommap --randrepeat=0 --iodepth_batch_submit={half} \
         --iodepth_batch_complete_min=1 --iodepth_batch_complete_max={half}"
    ))
};

/// A program on the one processor, and what its figures are by what it said.
fn pinned(
    name: &'static str,
    lab: &Lab,
    program: Program,
    told: impl Fn(Figures, &str) -> anyhow::Result<Figures> + 'static,
) -> Side {
    match program.on_processor(lab.processor) {
        Ok(program) => Side::new(name, move || {
            let (figures, said) = run(std::slice::from_ref(&program), Order::InTurn)?;
            told(figures, &said)
        }),
        Err(missing) => Side::missing(name, missing),
    }
}

fn ours(lab: &Lab, job: &Job) -> Side {
    let program = Program::new(&lab.own, job.ours());
    let way = job.generic.as_ref().map(|it| format!("passthrough {it})"));
    pinned("ours", lab, program, move |figures, said| {
        let goes = way.as_ref().is_none_or(|way| said.contains(way));
        anyhow::ensure!(
            goes,
            "the drive took no commands: see ringpv-bench run --passthrough"
        );
        by_report(figures, said)
    })
}

/// The word that allows writing is that of the device as the round before left it.
fn ours_writing(lab: &Lab, job: &Job, device: &Device) -> Side {
    let (own, words, processor) = (lab.own.clone(), job.ours(), lab.processor);
    if let Err(missing) = Program::new(&own, &words).on_processor(processor) {
        return Side::missing("ours", missing);
    }
    Side::writing("ours", std::slice::from_ref(device), move |holds| {
        let mut words = words.clone();
        words.push("--fingerprint".into());
        words.extend(holds.let_go()?);
        let program = Program::new(&own, words).on_processor(processor);
        let program = program.map_err(|name| anyhow::anyhow!("{name} is gone"))?;
        let (figures, said) = run(&[program], Order::InTurn)?;
        by_report(figures, &said)
    })
}

fn fio(lab: &Lab, name: &'static str, job: &Job, more: fn(u32) -> Vec<String>) -> Side {
    let Some(path) = find("fio") else {
        return Side::missing(name, "fio");
    };
    let mut words = job.fio();
    words.extend(more(job.depth));
    pinned(name, lab, Program::new(&path, words), by_report)
}

/// What fio's JSON says, which ours says in the same words.
fn by_report(figures: Figures, said: &str) -> anyhow::Result<Figures> {
    // fio may say something else first.
    let json = said.get(said.find('{').context("it gave no JSON")?..);
    let report: Value = serde_json::from_str(json.unwrap_or_default())?;
    let job = report
        .pointer("/jobs/0")
        .context("its JSON has no job in it")?;
    let number = |side: &str, path: &str| job.pointer(&format!("/{side}/{path}"))?.as_f64();
    let side = if number("write", "total_ios") > Some(0.0) {
        "write"
    } else {
        "read"
    };
    Ok(Figures {
        operations: number(side, "total_ios"),
        iops: number(side, "iops"),
        bytes_per_s: number(side, "bw_bytes"),
        p50_ns: number(side, "lat_ns/percentile/50.000000"),
        p99_ns: number(side, "lat_ns/percentile/99.000000"),
        ..figures
    })
}

fn t_io_uring(lab: &Lab, path: &Path, job: &Job) -> Side {
    // It tells of each second but the last.
    let seconds = job.runtime.as_secs().max(2);
    let depth = job.depth;
    let program = Program::new(
        path,
        words(&format!(
            "-N1 -d{depth} -s{depth} -c{depth} -p0 -r{seconds} {}",
            job.device
        )),
    );
    pinned("t/io_uring", lab, program, move |figures, said| {
        Ok(Figures {
            operations: told_by_t_io_uring(said).map(|rate| rate * seconds as f64),
            ..figures
        })
    })
}

/// The mean of its seconds: `IOPS=21.35M, BW=...`.
fn told_by_t_io_uring(said: &str) -> Option<f64> {
    let rates = said.lines().filter_map(|line| {
        let rate = line.strip_prefix("IOPS=")?.split(',').next()?;
        let unit = rate.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let number: f64 = rate.strip_suffix(unit)?.parse().ok()?;
        let scale = match unit {
            "" => 1.0,
            "K" => 1e3,
            "M" => 1e6,
            _ => return None,
        };
        Some(number * scale)
    });
    let rates: Vec<f64> = rates.collect();
    let mean = rates.iter().sum::<f64>() / rates.len() as f64;
    (mean > 0.0).then_some(mean)
}

/// Where `t/io_uring` is not to be had: the least that a loop over a ring can be.
fn least_loop(lab: &Lab, depth: u32) -> Side {
    let (runtime, processor) = (lab.runtime, lab.processor);
    Side::new("a bare loop", move || {
        let (operations, user_s, system_s) =
            on_processor(processor, || Ok(block::uring::bare_loop(depth, runtime)?))?;
        Ok(Figures {
            wall_s: runtime.as_secs_f64(),
            user_s,
            system_s,
            operations: Some(operations as f64),
            ..Figures::default()
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_t_io_uring_tells() {
        let said = "submitter=0, tid=7\nIOPS=21.35M, BW=83GiB/s, IOS/call=32/32\nIOPS=900K, BW=1\nExiting\nMaximum IOPS=21.35M\n";
        assert_eq!(told_by_t_io_uring(said), Some(11_125_000.0));
        assert_eq!(told_by_t_io_uring("ring setup failed"), None);
    }

    #[test]
    fn what_fio_tells() {
        let said = r#"fio: a note
            {"jobs": [{"read": {"total_ios": 0}, "write": {"total_ios": 10, "iops": 5.5, "bw_bytes": 4096,
             "lat_ns": {"percentile": {"50.000000": 700}}}}]}"#;
        let figures = by_report(Figures::default(), said).unwrap();
        assert_eq!(figures.operations, Some(10.0));
        assert_eq!((figures.iops, figures.p50_ns), (Some(5.5), Some(700.0)));
        assert!(by_report(Figures::default(), "no").is_err());
    }
}
