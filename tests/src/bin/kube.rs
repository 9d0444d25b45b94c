//! A real Kubernetes on this machine, for people: the one that the tests of level cluster use.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people"
)]

use std::io::Read as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use tests::command::now;
use tests::kubernetes::{Kubernetes, Options, build, build_suite, fetch_images, held, within};
use tokio::signal::unix::{SignalKind, signal};

const HELP: &str = "\
kube: a real Kubernetes on this machine: control plane and one node, in a network namespace of its own
(built with all else: target/debug/kube; or: cargo run -p tests --bin kube -- ...)

  kube build [--suite]  build its programs from their Go modules, where that is not done yet (ten minutes the first time);
                        --suite: and Kubernetes' own end-to-end suite (ten more)
  kube hold [--audit] [--ringpv]
                        start it, say how to use it, and end all of it when standard input ends; --audit: the API keeps a
                        log of every request; --ringpv: with RingPV's images in the node, and how to install it
  kube exec -- CMD...   run a command in the network of the cluster that is held, with KUBECONFIG set and kubectl at hand

Root is needed, and the Debian packages containerd runc containernetworking-plugins iptables nftables conntrack iproute2.
Programs and state lie in $RINGPV_KUBE (default ~/.cache/ringpv-kube).
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["build", flags @ ..] if matches!(flags, [] | ["--suite"]) => {
            fetch_images().and_then(|()| build()).and_then(|folder| {
                if !flags.is_empty() {
                    build_suite()?;
                }
                println!("{}", folder.display());
                Ok(ExitCode::SUCCESS)
            })
        }
        ["hold", flags @ ..]
            if flags
                .iter()
                .all(|flag| ["--audit", "--ringpv"].contains(flag)) =>
        {
            let audit = flags.contains(&"--audit");
            hold(Options { audit }, flags.contains(&"--ringpv"))
        }
        ["exec", "--", command, rest @ ..] => exec(command, rest),
        ["-h" | "--help"] => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("kube: {error:#}");
        ExitCode::from(3)
    })
}

fn hold(options: Options, ringpv: bool) -> Result<ExitCode> {
    let start = now();
    let cluster = Kubernetes::up(options)?;
    println!(
        "ready after {:.1} s\n\n  export KUBECONFIG={}\n  {} get nodes\n\nIn its network: kube exec -- CMD. \
         Logs: {}. End of input (Ctrl-D) ends it.",
        start.elapsed().as_secs_f64(),
        cluster.kubeconfig().display(),
        cluster.kubectl_program().display(),
        cluster.path("*.log").display(),
    );
    if ringpv {
        cluster.load_ringpv(env!("CARGO_PKG_VERSION"))?;
        println!("  {}", cluster.install_line().join(" "));
    }
    // On a thread of its own: a read from a terminal cannot be taken back.
    let (end, ended) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut all = Vec::new();
        std::io::stdin().read_to_end(&mut all).ok();
        end.send(()).ok();
    });
    cluster.runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            _ = ended => {}
            interrupted = tokio::signal::ctrl_c() => interrupted?,
            _ = terminate.recv() => {}
        }
        anyhow::Ok(())
    })?;
    let start = now();
    drop(cluster);
    println!("ended after {:.1} s", start.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}

fn exec(command: &str, rest: &[&str]) -> Result<ExitCode> {
    let Some(folder) = held() else {
        bail!("no cluster runs; start one with: kube hold");
    };
    let mut command = within(&folder, command)?;
    let status = command.args(rest).status();
    let code = status.context("it does not start")?.code();
    Ok(code
        .and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from))
}
