//! `ringpv-bench`: the library by hand, on a file or device.
#![forbid(unsafe_code)]

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use bench::report::json::{self, Entry};
use bench::report::{bytes, count, time};
use bench::{Limits, Progress, Report, RunError, Workload, run};
use block::null::Null;
use block::random::Random;
use block::sim::{SimClock, SimDrive};
use block::uring::passthrough::block_beside;
use block::{
    Backend, Choice, Device, Geometry, Mode, OpenError, Opened, Options, ReadOnly, ReadWrite,
    Target, Through, fitting, open, open_else_threads, open_passthrough, open_polled,
    probe_backend,
};
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nix::sys::signal::{SigSet, Signal};
use serde_json::{Map, Value};

mod args;
mod compare;
mod erasing;
mod jobs;
mod look;
mod permit;

use args::{Cli, Command, Engine, Format, Run};

const REFUSED: u8 = 1;
const USAGE: u8 = 2;
const FAILED: u8 = 3;

fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let done = match cli.command {
        Command::Run(args) => {
            let given = matches.subcommand_matches("run");
            run_jobs(&args, given.unwrap_or(&matches))
        }
        Command::Probe(args) => look::probe(&args),
        Command::Erase(args) => {
            cancel_on_signal().and_then(|cancel| erasing::erase_all(&args, &cancel))
        }
        Command::Compare(args) => {
            cancel_on_signal().and_then(|cancel| compare::compare(&args, &cancel))
        }
    };
    done.unwrap_or_else(|error| {
        let _gone = writeln!(std::io::stderr(), "ringpv-bench: {error:#}").is_err();
        ExitCode::from(code(&error))
    })
}

fn run_jobs(args: &Run, given: &ArgMatches) -> anyhow::Result<ExitCode> {
    let entries = match args.job_file() {
        Some(path) => job_file(path, args, &args::beside_a_job_file(given))?,
        None => {
            if let Some(words) = args::without_effect(given, args) {
                return Err(Usage(words.into()).into());
            }
            let report = measure(args)?;
            if args.format() == Format::Normal {
                out(&report.text());
            }
            let entries = vec![Entry::new(report)];
            print_json(args, &entries, None);
            entries
        }
    };
    Ok(verdict(&entries))
}

fn verdict(entries: &[Entry]) -> ExitCode {
    if entries.iter().all(|entry| entry.report.is_clean()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILED)
    }
}

fn out(text: &str) {
    // A reader that went away is no reason to fail.
    let _gone = std::io::stdout().write_all(text.as_bytes()).is_err();
}

/// What was measured, as JSON where that is wanted.
fn print_json(args: &Run, entries: &[Entry], global: Option<Map<String, Value>>) {
    if args.format() == Format::Normal {
        return;
    }
    let mut head = Map::new();
    let now = since_epoch();
    head.insert("timestamp".into(), now.as_secs().into());
    let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    head.insert("timestamp_ms".into(), millis.into());
    if let Some(global) = global {
        head.insert("global options".into(), global.into());
    }
    let bins = args.format() == Format::JsonPlus;
    out(&format!("{:#}\n", json::document(entries, bins, head)));
}

#[expect(
    clippy::disallowed_methods,
    reason = "the rim: when it was, and a number that no other run has"
)]
fn since_epoch() -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap_or_default()
}

/// The number of this run, for what it writes and verifies.
fn number() -> u64 {
    let nanos = u64::try_from(since_epoch().as_nanos()).unwrap_or(0);
    Random::new(nanos ^ (u64::from(std::process::id()) << 48)).bits()
}

/// Runs a job file.
fn job_file(path: &Path, args: &Run, beside: &[String]) -> anyhow::Result<Vec<Entry>> {
    if !beside.is_empty() {
        let words = format!(
            "{} beside a job file: say it in {}",
            beside.join(", "),
            path.display()
        );
        return Err(Usage(words).into());
    }
    let cancel = cancel_on_signal()?;
    let file = jobs::read(path)?;
    for note in &file.notes {
        self::note(note);
    }
    let ready = jobs::prepare(&file, args, number())?;
    let entries = jobs::measure(ready, &cancel, &mut |entry| {
        if args.format() == Format::Normal {
            out(&entry.report.text_of(&entry.name));
        }
    })?;
    print_json(args, &entries, Some(jobs::object(&file.global)));
    Ok(entries)
}

/// What could not be asked for.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

fn code(error: &anyhow::Error) -> u8 {
    let impossible = matches!(
        error.downcast_ref(),
        Some(RunError::Workload { .. } | RunError::Endless)
    );
    if error.is::<Usage>() || impossible {
        USAGE
    } else if error.is::<permit::Refusal>() {
        REFUSED
    } else {
        FAILED
    }
}

fn measure(args: &Run) -> anyhow::Result<Report> {
    // Before any thread starts, so that each of them leaves the signals to the one that waits for them.
    let cancel = cancel_on_signal()?;
    if args.verify && args.engine == Engine::Null {
        return Err(Usage(
            "--verify: the engine null keeps nothing that could be read back".into(),
        )
        .into());
    }
    let block_bytes = usize::try_from(args.bs).unwrap_or(usize::MAX).min(64 << 20);
    let options = Options::new(args.iodepth, block_bytes);
    let simulated = Geometry {
        size_bytes: args.offset.saturating_add(args.size.unwrap_or(0)),
        sector_bytes: 512,
    };
    match (args.engine, &args.target) {
        (Engine::Null | Engine::Sim, _) if args.iopoll || args.passthrough => {
            let words = "--iopoll and --passthrough go with a block device or a file";
            Err(Usage(words.into()).into())
        }
        (Engine::Null, _) => on(&mut Null::new(simulated, options), args, &cancel),
        (Engine::Sim, _) => {
            let model = args.sim_model.figures();
            let drive = SimDrive::new("sim", simulated, model, SimClock::default(), args.randseed);
            on(&mut drive.open::<ReadWrite>(options), args, &cancel)
        }
        (Engine::Auto | Engine::Uring | Engine::Threads, Some(path)) => {
            if args.iopoll && args.rw.writes() {
                return Err(Usage("--iopoll: only reads are polled".into()).into());
            }
            if args.passthrough && args.rw.writes() {
                return Err(
                    Usage("--passthrough: only reads are sent to the drive so".into()).into(),
                );
            }
            let choice = args.engine.real().unwrap_or_default();
            let backend = probe_backend(choice)?;
            if args.rw.writes() {
                let target = permit::writable(path, args.write_file, args.fingerprint.as_deref())?;
                let backend = fitted(choice, backend, &target, args.iodepth);
                let mut device = opened(choice, backend, target, options, open)?;
                return on(&mut device, args, &cancel);
            }
            if args.write_file || args.fingerprint.is_some() {
                let words = "--write-file and --fingerprint go with a pattern that writes";
                return Err(Usage(words.into()).into());
            }
            let beside = args.passthrough.then(|| block_beside(path)).flatten();
            let target = Target::<ReadOnly>::open(beside.as_deref().unwrap_or(path))?;
            let backend = fitted(choice, backend, &target, args.iodepth);
            read(target, backend, options, args, &cancel)
        }
        (Engine::Auto | Engine::Uring | Engine::Threads, None) => {
            Err(Usage("name a block device or a file (or --engine null or sim)".into()).into())
        }
    }
}

/// Reads, in the way that was asked for.
fn read(
    target: Target<ReadOnly>,
    backend: Backend,
    options: Options,
    args: &Run,
    cancel: &AtomicBool,
) -> anyhow::Result<Report> {
    if let Backend::Threads { .. } = backend {
        if args.iopoll {
            note("--iopoll is without effect: threads do not poll");
        }
        if args.passthrough {
            note("--passthrough is without effect: threads send no commands");
        }
    }
    let choice = args.engine.real().unwrap_or_default();
    if args.passthrough {
        return match through(choice, backend, target, options, args.iopoll)? {
            Through::Commands(mut drive) => on(&mut drive, args, cancel),
            Through::Blocks(mut device) => on(&mut device, args, cancel),
        };
    }
    let open = if args.iopoll { open_polled } else { open };
    on(
        &mut opened(choice, backend, target, options, open)?,
        args,
        cancel,
    )
}

/// A drive by its own commands, where it takes them; else, and where no ring is to be had any more, as [`opened`].
fn through(
    choice: Choice,
    backend: Backend,
    target: Target<ReadOnly>,
    options: Options,
    polled: bool,
) -> anyhow::Result<Through> {
    match open_passthrough(backend, target.clone(), options, polled) {
        Err(error) if choice == Choice::Auto && error.is_of_ring() => {
            opened(choice, backend, target, options, open).map(Through::Blocks)
        }
        opened => Ok(opened?),
    }
}

/// A device by `open`; where no engine was asked for and no ring is to be had any more, by threads, and said so.
fn opened<M: Mode>(
    choice: Choice,
    backend: Backend,
    target: Target<M>,
    options: Options,
    open: impl FnOnce(Backend, Target<M>, Options) -> Result<Opened<M>, OpenError>,
) -> anyhow::Result<Opened<M>> {
    if choice != Choice::Auto {
        return Ok(open(backend, target, options)?);
    }
    let (device, instead) = open_else_threads(backend, target, options, open)?;
    if let Some(error) = instead {
        note(&format!(
            "threads are used: {:#}",
            anyhow::Error::new(error)
        ));
    }
    Ok(device)
}

/// The engine that fits the device where none was asked for, and said so where threads are used.
fn fitted<M: Mode>(choice: Choice, host: Backend, target: &Target<M>, depth: u32) -> Backend {
    if choice != Choice::Auto {
        return host;
    }
    let fitting = fitting(host, target, depth);
    match (fitting.backend, fitting.timing) {
        (Backend::Threads { why }, _) => note(&format!("threads are used: {why}")),
        (Backend::Uring { .. }, Some(timing)) => note(&format!(
            "io_uring leaves each read of this device to a kernel worker, and is used: {timing}"
        )),
        (Backend::Uring { .. }, None) => {}
    }
    fitting.backend
}

/// Refuses threads to who insisted upon io_uring; who chose nothing is told why it is them.
fn tell_of_threads(choice: Choice, why: Option<&str>) -> anyhow::Result<()> {
    match (choice, why) {
        (Choice::Uring, Some(why)) => anyhow::bail!("io_uring was asked for, but {why}"),
        (Choice::Auto, Some(why)) => note(&format!("threads are used: {why}")),
        (Choice::Threads, _) | (_, None) => {}
    }
    Ok(())
}

/// Says something beside what was asked for.
pub(crate) fn note(words: &str) {
    let _gone = writeln!(std::io::stderr(), "ringpv-bench: {words}").is_err();
}

/// Compiled for each engine, so that the loop and the engine are one.
fn on<D: Device>(device: &mut D, args: &Run, cancel: &AtomicBool) -> anyhow::Result<Report> {
    let limits = args.limits().map_err(Usage)?;
    let mut workload = args.workload(device.geometry()).map_err(Usage)?;
    workload.verify = args.verify.then(number);
    Ok(shown(device, &workload, &limits, cancel)?)
}

/// Runs a workload, and shows how far it is.
fn shown<D: Device>(
    device: &mut D,
    workload: &Workload,
    limits: &Limits,
    cancel: &AtomicBool,
) -> Result<Report, RunError> {
    let live = live();
    let mut show = |progress: &Progress| show(&live, progress);
    let report = run(device, workload, limits, &mut show, cancel);
    live.finish_and_clear();
    report
}

/// The first Ctrl-C (or SIGTERM) ends the run with what was measured until then, the second ends the process.
fn cancel_on_signal() -> anyhow::Result<Arc<AtomicBool>> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block().context("cannot block signals")?;
    let cancel = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&cancel);
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            if signals.wait().is_ok() {
                told.store(true, Ordering::Relaxed);
                // From now on they act as they always do, on this thread.
                let _blocked = signals.thread_unblock().is_err();
                loop {
                    std::thread::park();
                }
            }
        })
        .context("cannot start a thread")?;
    Ok(cancel)
}

/// A line that is there while the run is, on a terminal only.
fn live() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(1000), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{bar:24} {percent:>3}%  {msg}") {
        bar.set_style(style);
    }
    bar
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share between 0 and 1, in thousandths"
)]
fn show(live: &ProgressBar, progress: &Progress) {
    live.set_message(if progress.warming_up {
        "warming up".to_owned()
    } else {
        format!(
            "{} IOPS  {}/s  p99 {}",
            count(progress.iops),
            bytes(progress.bytes_per_second),
            time(progress.p99_ns),
        )
    });
    live.set_position((progress.share * 1000.0) as u64);
}
