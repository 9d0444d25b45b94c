//! `kubectl-ringpv`, also known as `kubectl ringpv`. Everything is in the library, where tests can reach it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use cli::Screen;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let code = cli::run(
        std::env::args_os(),
        Screen::standard(),
        jiff::Timestamp::now,
        None,
    )
    .await;
    ExitCode::from(code)
}
