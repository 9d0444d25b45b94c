//! `ringpv-controller`: see the crate `controller`.

use std::process::ExitCode;

use clap::Parser as _;
use controller::args::Args;

/// Threads of the runtime.
const RUNTIME_THREADS: usize = 4;

fn main() -> ExitCode {
    match start(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(
                clippy::print_stderr,
                reason = "the last words of a process that did not start, or had to end"
            )]
            {
                eprintln!("ringpv-controller: {error:#}");
            }
            ExitCode::from(exit_status(&error))
        }
    }
}

fn exit_status(error: &anyhow::Error) -> u8 {
    if error.is::<api::serve::logs::LogError>() {
        return 2;
    }
    error
        .downcast_ref::<controller::run::RunError>()
        .map_or(3, controller::run::RunError::exit_status)
}

fn start(args: Args) -> anyhow::Result<()> {
    let log = api::serve::logs::init(&args.log)?;
    #[cfg(any(debug_assertions, feature = "faults"))]
    if let Some(point) = &args.fault_point {
        api::serve::faults::arm(point);
    }
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .enable_all()
        .build()?
        .block_on(controller::run::run(args, log))?;
    Ok(())
}
