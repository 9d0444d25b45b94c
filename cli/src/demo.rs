//! `demo`: RingPV's whole job on six loop devices of this machine, with the real controller and the real agent as
//! processes. Each command that a person would type is printed and run, by this very binary, and its output is real;
//! what it shows is checked. At the end, at a failure and at Ctrl-C everything that was started is taken away again,
//! and only that: devices by their backing files, processes by id and start time, mounts by their place under the
//! demo's own directory.

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
drives; places, mounts, fills, grows and deletes volumes; makes one drive slow; removes everything again.";

/// Runs `demo`.
pub(crate) async fn run(session: &mut Session, args: &DemoArgs) -> Result<(), Stop> {
    let dir = std::path::absolute(&args.dir).context("cannot tell where the directory is")?;
    if args.dry_run {
        let place = format!("{PLAN}\nAll of it under {}.", dir.display());
        return Ok(session.screen.line(place)?);
    }
    possible().await?;
    if args.stop {
        let stage = Stage::left_behind(&dir)?;
        return finish(session, stage).await;
    }
    let mut stage = Stage::new(dir)?;
    let result = tokio::select! {
        result = script::play(session, &mut stage, args.keep) => result,
        () = interrupted() => Err(Stop::Failed(anyhow::anyhow!("interrupted; cleaning up"))),
    };
    match result {
        Ok(()) if args.keep => Ok(script::how_to_talk(session, &stage)?),
        Ok(()) => finish(session, stage).await,
        Err(stop) => {
            session.screen.note("")?;
            for line in stop.lines() {
                let line = session.screen.paint(Tone::Bad, &line);
                session.screen.note(line)?;
            }
            stage.show_logs(session)?;
            finish(session, stage).await?;
            Err(stop)
        }
    }
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

/// Ctrl-C, or a polite kill.
async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let (Ok(mut term), Ok(mut hangup)) = (
            signal(SignalKind::terminate()),
            signal(SignalKind::hangup()),
        ) {
            tokio::select! {
                _ = term.recv() => return,
                _ = hangup.recv() => return,
                _ = tokio::signal::ctrl_c() => return,
            }
        }
    }
    // An error here only means that there is no such signal to wait for.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Takes everything away and looks whether it is gone. A second Ctrl-C does not stop this.
async fn finish(session: &mut Session, stage: Stage) -> Result<(), Stop> {
    session.screen.note("")?;
    let guard = tokio::spawn(async { while tokio::signal::ctrl_c().await.is_ok() {} });
    let left = stage.take_away().await;
    guard.abort();
    let left = left?;
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
