//! Prints figures, each with its bound. Nothing is asserted: a machine that is busy or small shows so. As root:
//!
//! ```text
//! cargo build --release --workspace --bins
//! target/release/figures            # on this host
//! target/release/figures cluster    # on a real Kubernetes, which it starts: 24 drives, then 10,000; some twenty minutes
//! target/release/figures cluster pods claims    # only these
//! ```
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a report for people")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use tests::command::now;

mod cluster;
mod local;

/// Clock ticks a second in `/proc/PID/stat`: the kernel's fixed USER_HZ.
const TICKS: f64 = 100.0;

fn main() -> ExitCode {
    if cfg!(debug_assertions) {
        println!(
            "This is a debug build: the figures mean nothing. cargo build --release --workspace --bins"
        );
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let print = match words.as_slice() {
        [] => local::print,
        ["cluster", parts @ ..] if parts.iter().all(|part| cluster::is_part(part)) => {
            head();
            cluster::print(parts);
            return ExitCode::SUCCESS;
        }
        _ => {
            println!("usage: figures [cluster [{}]...]", cluster::PARTS.join("|"));
            return ExitCode::from(2);
        }
    };
    head();
    print();
    ExitCode::SUCCESS
}

fn head() {
    println!("{:<66} {:>18} {:>18}", "what", "measured", "goal");
}

fn line(what: &str, measured: &str, goal: &str) {
    println!("{what:<66} {measured:>18} {goal:>18}");
}

fn elapsed(since: Instant) -> Duration {
    now().duration_since(since)
}

/// Resident memory of a process, in MiB.
fn resident_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

/// Processor time that a process has used, in seconds.
fn processor_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace());
    let ticks = |n: usize| fields.clone()?.nth(n)?.parse::<f64>().ok();
    (ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0)) / TICKS
}

/// The value below which so many of a thousand lie.
fn quantile(times: &mut [Duration], permille: usize) -> Duration {
    times.sort_unstable();
    let place = (times.len() * permille / 1_000).min(times.len().saturating_sub(1));
    times.get(place).copied().unwrap_or_default()
}
