//! `ringpv-agent`.

use std::process::ExitCode;

use agent::args::Args;
use clap::Parser as _;

/// Threads of the runtime: it waits, and the drives' own threads work.
const RUNTIME_THREADS: usize = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    match start(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(
                clippy::print_stderr,
                reason = "the last words of a process that did not start"
            )]
            {
                eprintln!("ringpv-agent: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn start(args: Args) -> anyhow::Result<()> {
    block::sys::give_memory_back_early();
    let log = api::serve::logs::init(&args.log)?;
    #[cfg(any(debug_assertions, feature = "faults"))]
    if let Some(point) = &args.fault_point {
        api::serve::faults::arm(point);
    }
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .enable_all()
        .build()?
        .block_on(agent::run::run(args, log))
}
