//! `demo`: RingPV's whole job on six loop devices of this machine, with the real controller and the real agent as
//! processes. Each command that a person would type is printed and run, by this very binary, and its output is real;
//! what it shows is checked. At the end, at a failure and at Ctrl-C everything that was started is taken away again,
//! and only that: devices by their backing files, processes by id and start time, mounts by their place under the
//! demo's own directory.

mod interrupt;
mod script;
mod slow;
mod stage;
mod typing;

use std::path::PathBuf;

use anyhow::Context as _;
use api::Reason;
use clap::Args;

use crate::advice::{Refusal, Stop};
use crate::screen::Tone;
use crate::session::Session;
use interrupt::Interrupt;
use stage::Stage;

/// Flags of `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Leave it running at the end, to play with
    #[arg(long)]
    keep: bool,
    /// Take away a demo that was left running, or was killed
    #[arg(long, conflicts_with = "keep")]
    stop: bool,
    /// Where to put everything; must not exist. On a disk, so that some drives are slower than others
    #[arg(long, value_name = "DIR", default_value = "/var/tmp/ringpv-demo")]
    dir: PathBuf,
    /// Say what would be done and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Programs that it calls, and the Debian package of each.
const PROGRAMS: [(&str, &str); 6] = [
    ("losetup", "mount"),
    ("mount", "mount"),
    ("umount", "mount"),
    ("mkfs.xfs", "xfsprogs"),
    ("sha256sum", "coreutils"),
    ("truncate", "coreutils"),
];

const PLAN: &str = "\
The demo makes six files of 2 to 8 GiB (sparse: some 100 MiB are really used), two of them in memory, and loop devices
on them; starts ringpv-controller --embedded and ringpv-agent --devices <those six>; finds, formats and measures the
drives; places, mounts, fills, grows and deletes volumes; makes one drive slow; removes everything again. No other
device is touched.";

/// Runs `demo`.
pub(crate) async fn run(session: &mut Session, args: &DemoArgs) -> Result<(), Stop> {
    let dir = std::path::absolute(&args.dir).context("cannot tell where the directory is")?;
    if args.dry_run {
        let place = format!("{PLAN}\nAll of it under {}.", dir.display());
        return Ok(session.screen.line(place)?);
    }
    possible().await?;
    // Before the first thing is made, so that there is no moment at which a signal leaves something behind.
    let mut interrupt = Interrupt::listen()?;
    if args.stop {
        let stage = Stage::left_behind(&dir)?;
        return finish(session, stage).await;
    }
    let mut stage = Stage::new(dir)?;
    let result = tokio::select! {
        biased;
        () = interrupt.came() => None,
        result = script::play(session, &mut stage, args.keep) => Some(result),
    };
    match result {
        Some(Ok(())) if args.keep => Ok(script::how_to_talk(session, &stage)?),
        Some(Ok(())) => finish(session, stage).await,
        // Ctrl-C reaches the programs that the demo started, too: that they fail then is no failure of theirs.
        Some(Err(stop)) if !interrupt.came_just_now().await => {
            failed(session, &stage, &stop);
            finish(session, stage).await?;
            Err(stop)
        }
        None | Some(Err(_)) => {
            // The reader of a pipe may be gone; what was started is taken away all the same.
            drop(session.screen.note("\ninterrupted: taking everything away"));
            finish(session, stage).await?;
            Err(Stop::Failed(anyhow::anyhow!("the demo was interrupted")))
        }
    }
}

/// Says what went wrong, and what the processes said last. Nobody may be there to read it any more.
fn failed(session: &mut Session, stage: &Stage, stop: &Stop) {
    drop(session.screen.note(""));
    for line in stop.lines() {
        let line = session.screen.paint(Tone::Bad, &line);
        drop(session.screen.note(line));
    }
    drop(stage.show_logs(session));
}

/// Whether this machine can: Linux, root, the programs.
async fn possible() -> Result<(), Stop> {
    if !cfg!(target_os = "linux") {
        return Err(Stop::refused(
            Refusal::new(Reason::UnsupportedHere, "demo")
                .detail("loop devices and XFS are Linux's; run it there")
                .next(""),
        ));
    }
    let id = stage::output("id", &["-u"]).await?;
    if id.trim() != "0" {
        return Err(Stop::refused(
            Refusal::new(Reason::NotRoot, "demo").detail("loop devices and mounts need root"),
        ));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |program: &str| std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    let missing: Vec<_> = PROGRAMS
        .iter()
        .filter(|(program, _)| !there(program))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let refusals = missing.into_iter().map(|(program, package)| {
        let reason = if *program == "mkfs.xfs" {
            Reason::MkfsMissing
        } else {
            Reason::UnsupportedHere
        };
        Refusal::new(reason, *program)
            .detail(format!("{program} was not found"))
            .next(format!("apt-get install {package}"))
    });
    Err(Stop::Refused(refusals.collect()))
}

/// Takes everything away and looks whether it is gone. A second Ctrl-C does not stop this, for the first was listened
/// for.
async fn finish(session: &mut Session, stage: Stage) -> Result<(), Stop> {
    drop(session.screen.note(""));
    let left = stage.take_away().await?;
    if left.is_empty() {
        let line = session.screen.paint(
            Tone::Good,
            "Nothing is left: no mount, no loop device, no process, no file.",
        );
        return Ok(session.screen.line(line)?);
    }
    Err(Stop::Failed(anyhow::anyhow!(
        "still there: {}; kubectl ringpv demo --stop tries again",
        left.join(", ")
    )))
}
