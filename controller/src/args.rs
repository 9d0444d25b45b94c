//! The command line, checked once. Sizes and times carry their units in what is typed.

use std::net::SocketAddr;
use std::path::PathBuf;

use api::Nanos;
use clap::Parser;
use jiff::SignedDuration;

use crate::embedded::Listen;
use crate::health::Settings;
use crate::placement::Policy;

/// The RingPV controller: places volumes, judges drives, answers CSI; with --embedded it also is the API.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "ringpv-controller",
    version,
    after_help = "Exit status: 0 stopped, 1 refused (what is in the way is said), 2 wrong usage, 3 failed or no longer leading."
)]
pub struct Args {
    /// Serve the API too, from a store in this directory: for one host, without Kubernetes.
    #[arg(long, value_name = "DIR", conflicts_with = "kubeconfig")]
    pub embedded: Option<PathBuf>,

    /// Where the embedded API listens: an address of this host alone. Port 0: the one used last, or any.
    #[arg(long, value_name = "ADDR", requires = "embedded")]
    pub listen: Option<Listen>,

    /// How to reach the API. Without it, the service account of the pod, else the user's own.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Where sidecars and the command line reach the CSI services.
    #[arg(
        long,
        value_name = "ENDPOINT",
        default_value = "unix:///run/ringpv/controller.sock"
    )]
    pub csi_endpoint: String,

    /// Where metrics, health and the log filter are served. Nowhere, if not given.
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics_listen: Option<SocketAddr>,

    /// Time over which a drive must be slow to be called so; votes are cast ten times in it.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = window)]
    pub health_window: SignedDuration,

    /// Volumes on one drive at most.
    #[arg(long, value_name = "NUMBER", default_value_t = Policy::default().volumes_per_drive_max)]
    pub volumes_per_drive_max: u32,

    /// Report free capacity weighted by latency, so that a scheduler that prefers room prefers nodes with fast drives.
    /// The largest volume that fits is reported as it is.
    #[arg(long)]
    pub capacity_by_latency: bool,

    /// What is logged: info, or debug, or for example warn,controller=debug.
    #[arg(
        long,
        value_name = "FILTER",
        env = "RINGPV_LOG",
        default_value = "info"
    )]
    pub log: String,

    /// Die as by kill -9 at a named point: for tests of what the next start makes of it.
    #[cfg(any(debug_assertions, feature = "faults"))]
    #[arg(long, value_name = "NAME", hide = true)]
    pub fault_point: Option<String>,
}

/// Shortest window: below it, a short stall is a verdict.
const WINDOW_SECONDS_MIN: u64 = 5;
/// Longest window.
const WINDOW_SECONDS_MAX: u64 = 86_400;

fn window(text: &str) -> Result<SignedDuration, String> {
    let Nanos(nanos) = text.parse().map_err(|error| format!("{error}"))?;
    let (min, max) = (WINDOW_SECONDS_MIN, WINDOW_SECONDS_MAX);
    if !(min * 1_000_000_000..=max * 1_000_000_000).contains(&nanos) {
        return Err(format!("it is between {min}s and {}h", max / 3_600));
    }
    Ok(SignedDuration::from_nanos(
        i64::try_from(nanos).unwrap_or(i64::MAX),
    ))
}

impl Args {
    /// What placement may do.
    #[must_use]
    pub const fn policy(&self) -> Policy {
        Policy {
            volumes_per_drive_max: self.volumes_per_drive_max,
            capacity_by_latency: self.capacity_by_latency,
        }
    }

    /// How fast verdicts are reached.
    #[must_use]
    pub const fn health(&self) -> Settings {
        Settings {
            window: self.health_window,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, String> {
        let words = std::iter::once("ringpv-controller").chain(line.split_whitespace());
        Args::try_parse_from(words).map_err(|error| error.to_string())
    }

    #[test]
    fn lines() {
        let args = parse("--embedded /x --health-window 20s").unwrap();
        assert_eq!(args.health().tick(), SignedDuration::from_secs(2));
        assert_eq!(args.policy(), Policy::default());
        assert!(
            parse("--capacity-by-latency")
                .unwrap()
                .policy()
                .capacity_by_latency
        );
        for (line, says) in [
            ("--embedded /x --kubeconfig /y", "cannot be used with"),
            ("--listen 127.0.0.1:0", "--embedded"),
            ("--health-window 1s", "between 5s and 24h"),
            ("--health-window 20", "500us"),
            ("--embedded /x --listen 0.0.0.0:80", "loopback"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(says), "{line}: {error}");
        }
    }
}
