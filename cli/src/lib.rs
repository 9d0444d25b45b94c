//! `kubectl ringpv`: shows and steers RingPV. It knows no devices; it speaks to the API server and, for volumes on a host
//! without Kubernetes, to the two CSI sockets. It runs on Linux, macOS and Windows.
//!
//! ```text
//!   args ─► one file a verb: fetch (session, socket) ─► decide (pure) ─► print (view, chart)
//!                                                          │
//!                 confirm: the word before data is lost ◄──┤
//!                 change: a patch checked against what was looked at
//! ```
//!
//! What it must never do: change anything by default, destroy anything without a word that belongs to that very target,
//! refuse without a reason and a next step ([`advice`]), print colour or progress into a pipe.
//!
//! Start reading at [`args`], then [`init`], which has all the parts.
#![forbid(unsafe_code)]

mod accept;
mod adopt;
mod advice;
mod args;
mod bench;
mod change;
mod chart;
mod class;
mod clean;
mod complete;
mod confirm;
mod cordon;
mod demo;
mod discover;
mod drives_file;
mod explain;
mod forget;
mod health;
mod info;
mod init;
mod install;
mod label;
mod list;
mod move_volumes;
mod orphans;
mod persistent_volumes;
mod progress;
mod remove;
mod repair;
mod screen;
mod select;
mod session;
mod socket;
mod support;
mod suspend;
#[cfg(test)]
mod testing;
mod tier;
mod uninstall;
mod view;
mod volumes;

use std::ffi::OsString;

use clap::{CommandFactory as _, Parser as _};
use jiff::Timestamp;
use kube::Client;

pub use screen::Screen;

use advice::{EXIT_USAGE, Stop};
use args::{Cli, Shell, Verb};
use screen::Tone;
use session::Session;

/// Runs one command and returns its exit code: 0 done, 1 nothing matched or refused, 2 wrong usage, 3 failed. With
/// `client`, that API server is used instead of a kubeconfig's.
pub async fn run(
    words: impl IntoIterator<Item = OsString>,
    mut screen: Screen,
    clock: fn() -> Timestamp,
    client: Option<Client>,
) -> u8 {
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => return usage(&mut screen, &error),
    };
    let mut session = Session::new(screen, cli.global, clock, client);
    let result = dispatch(&mut session, &cli.verb).await;
    let result = result.and_then(|()| Ok(session.screen.flush()?));
    match result {
        Ok(()) => 0,
        Err(stop) if stop.is_broken_pipe() => 0,
        Err(stop) => {
            for line in stop.lines() {
                let line = session.screen.paint(Tone::Plain, &line);
                // Nowhere is left to complain when stderr is gone; the exit code still tells.
                drop(session.screen.note(line));
            }
            stop.exit_code()
        }
    }
}

/// Help and version are results; everything else is a complaint.
fn usage(screen: &mut Screen, error: &clap::Error) -> u8 {
    let text = error.render().to_string();
    let text = text.trim_end();
    if error.use_stderr() {
        drop(screen.note(text));
        return EXIT_USAGE;
    }
    drop(screen.line(text));
    drop(screen.flush());
    0
}

async fn dispatch(session: &mut Session, verb: &Verb) -> Result<(), Stop> {
    match verb {
        Verb::Install(args) => install::run(session, args).await,
        Verb::Uninstall(args) => uninstall::run(session, args).await,
        Verb::Discover(args) => discover::run(session, args).await,
        Verb::Init(args) => init::run(session, args).await,
        Verb::Adopt(args) => adopt::run(session, args).await,
        Verb::Accept(args) => accept::run(session, args).await,
        Verb::Info(args) => info::run(session, args).await,
        Verb::List(verb) => list::run(session, verb).await,
        Verb::Volumes(verb) => volumes::run(session, verb).await,
        Verb::Drives(verb) => tier::run(session, verb).await,
        Verb::Label(verb) => label::run(session, verb).await,
        Verb::Cordon(args) => cordon::run(session, args, true).await,
        Verb::Uncordon(args) => cordon::run(session, args, false).await,
        Verb::Suspend(verb) => suspend::run(session, verb, true).await,
        Verb::Resume(verb) => suspend::run(session, verb, false).await,
        Verb::Bench(args) => bench::run(session, args).await,
        Verb::Health(args) => health::run(session, args).await,
        Verb::Explain(args) => explain::run(session, args).await,
        Verb::Repair(args) => repair::run(session, args).await,
        Verb::Remove(args) => remove::run(session, args).await,
        Verb::Clean(args) => clean::run(session, args).await,
        Verb::Move(args) => move_volumes::run(session, args).await,
        Verb::Forget(args) => forget::run(session, args).await,
        Verb::Support(args) => support::run(session, args).await,
        Verb::Completion { shell } => completion(session, *shell),
        Verb::Complete { words } => {
            for line in complete::lines(Cli::command(), words) {
                session.screen.line(line)?;
            }
            Ok(())
        }
        Verb::Version => {
            let line = format!("kubectl-ringpv {}", env!("CARGO_PKG_VERSION"));
            Ok(session.screen.line(line)?)
        }
        Verb::Demo(args) => demo::run(session, args).await,
    }
}

fn completion(session: &mut Session, shell: Shell) -> Result<(), Stop> {
    use clap_complete::aot::{Bash, Fish, Zsh, generate};

    let mut command = Cli::command();
    let name = "kubectl-ringpv";
    let mut script = Vec::new();
    match shell {
        Shell::Bash => generate(Bash, &mut command, name, &mut script),
        Shell::Zsh => generate(Zsh, &mut command, name, &mut script),
        Shell::Fish => generate(Fish, &mut command, name, &mut script),
        Shell::Kubectl => return Ok(session.screen.line(complete::SCRIPT)?),
    }
    Ok(session
        .screen
        .line(String::from_utf8_lossy(&script).trim_end())?)
}
