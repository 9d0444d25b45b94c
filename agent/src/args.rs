//! The command line, checked once. Sizes and times carry their units in what is typed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use api::serve::socket::{self, SocketError};
use api::{Bytes, Nanos};
use clap::{Parser, ValueEnum};

use crate::host::XfsErrors;
use crate::reconcile::Limits;
use crate::registration;

/// The RingPV agent: finds block devices, makes them drives on a person's word, and serves the volumes on them.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "ringpv-agent",
    version,
    after_help = "Exit status: 0 stopped, 1 refused or failed (what is in the way is said), 2 wrong usage."
)]
pub struct Args {
    /// Name of this node, as the API knows it.
    #[arg(long, env = "NODE_NAME")]
    pub node: String,

    /// How to reach the API. Without it, the service account of the pod.
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,

    /// Where the agent keeps its mounts and its few files.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/ringpv")]
    pub state_dir: PathBuf,

    /// The kubelet's folder, /var/lib/kubelet for most: the agent makes itself known to that kubelet, and serves CSI where it
    /// looks. Without it nothing is told to any kubelet.
    #[arg(long, value_name = "DIR", env = "KUBELET_DIR_PATH", value_parser = absolute)]
    pub kubelet_dir: Option<PathBuf>,

    /// Leave it to a sidecar, csi-node-driver-registrar, to make the agent known to the kubelet.
    #[arg(long, requires = "kubelet_dir")]
    pub no_self_register: bool,

    /// Where kubelet and the command line reach the CSI services. If not given: plugins/ringpv.io/csi.sock in the kubelet's
    /// folder, or unix:///run/ringpv/agent.sock where there is none.
    #[arg(long, value_name = "ENDPOINT")]
    pub csi_endpoint: Option<String>,

    /// Where metrics, health and the log filter are served. Nowhere, if not given.
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics_listen: Option<SocketAddr>,

    /// Let loop devices become drives: for tests and demos.
    #[arg(long)]
    pub allow_loop: bool,

    /// Look at these devices alone: names with ellipses, such as nvme{0...7}n{1...9},loop{10...15}. All, if not given. An
    /// NVMe drive that is plugged in again may have another number after the n.
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub devices: Vec<String>,

    /// Smallest device that may become a drive.
    #[arg(long, value_name = "SIZE", default_value = "512MiB")]
    pub min_size: Bytes,

    /// How devices are read and written.
    #[arg(long, value_enum, default_value_t)]
    pub io_backend: IoBackend,

    /// Time between two health reads of a drive.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = interval)]
    pub health_interval: Duration,

    /// Most bytes a second that zeroes written and read back may take, all drives of the node together: drives in use share
    /// its buses and processors. At least 1MiB, or unlimited. What a drive zeroes by itself is not counted; while volumes
    /// are on other drives it does so in short calls, and rests after each for as long, as far as this rate leaves it.
    #[arg(long, value_name = "SIZE", default_value = "100MiB", value_parser = erase_rate)]
    pub erase_rate_max: EraseRate,

    /// What XFS does when its own reads or writes fail: give up at once, so that everybody sees it, or as the kernel would.
    #[arg(long, value_enum, default_value_t)]
    pub xfs_errors: XfsErrorsArg,

    /// What is logged: info, or debug, or for example warn,agent=debug.
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

/// `--erase-rate-max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EraseRate {
    /// As fast as it goes.
    Unlimited,
    /// At most so many bytes a second.
    Bytes(u64),
}

/// Lowest rate: below it one piece of a device would take longer than a person waits for a pause.
const ERASE_RATE_MIN: u64 = 1 << 20;

fn erase_rate(text: &str) -> Result<EraseRate, String> {
    if text == "unlimited" {
        return Ok(EraseRate::Unlimited);
    }
    let rate: Bytes = text
        .parse()
        .map_err(|error| format!("{error}, or unlimited"))?;
    if rate.0 < ERASE_RATE_MIN {
        return Err(format!("{text:?} is below {}", Bytes(ERASE_RATE_MIN)));
    }
    Ok(EraseRate::Bytes(rate.0))
}

/// `--io-backend`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum IoBackend {
    /// io_uring where it works, else threads.
    #[default]
    Auto,
    /// io_uring, or not at all.
    Uring,
    /// Threads.
    Threads,
}

impl From<IoBackend> for block::Choice {
    fn from(backend: IoBackend) -> Self {
        match backend {
            IoBackend::Auto => Self::Auto,
            IoBackend::Uring => Self::Uring,
            IoBackend::Threads => Self::Threads,
        }
    }
}

/// `--xfs-errors`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum XfsErrorsArg {
    /// No retries: the file system shuts down at the first error that matters.
    #[default]
    FailFast,
    /// As the kernel does by itself: some errors are retried for ever.
    Kernel,
}

impl From<XfsErrorsArg> for XfsErrors {
    fn from(errors: XfsErrorsArg) -> Self {
        match errors {
            XfsErrorsArg::FailFast => Self::FailFast,
            XfsErrorsArg::Kernel => Self::Kernel,
        }
    }
}

/// Shortest time between two health reads: below it they would be a load of their own.
const INTERVAL_MIN: Duration = Duration::from_secs(1);

fn interval(text: &str) -> Result<Duration, String> {
    let nanos: Nanos = text.parse().map_err(|error| format!("{error}"))?;
    let interval = Duration::from_nanos(nanos.0);
    if interval < INTERVAL_MIN {
        return Err(format!("{text:?} is below {} s", INTERVAL_MIN.as_secs()));
    }
    Ok(interval)
}

/// Where CSI is served without a kubelet.
const CSI_ENDPOINT: &str = "unix:///run/ringpv/agent.sock";

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        return Ok(path);
    }
    Err(format!(
        "{text:?} is no absolute path, such as /var/lib/kubelet"
    ))
}

impl Args {
    /// Where the CSI services are reached.
    ///
    /// # Errors
    /// It is not a Unix socket's path.
    pub fn csi_path(&self) -> Result<PathBuf, SocketError> {
        match (&self.csi_endpoint, &self.kubelet_dir) {
            (Some(endpoint), _) => socket::path_of(endpoint),
            (None, Some(kubelet)) => {
                socket::path_of(&registration::csi_path(kubelet).display().to_string())
            }
            (None, None) => socket::path_of(CSI_ENDPOINT),
        }
    }

    /// Where the kubelet learns of them, if it is to learn of them from here.
    #[must_use]
    pub fn registration_path(&self) -> Option<PathBuf> {
        let kubelet = self.kubelet_dir.as_ref();
        let kubelet = kubelet.filter(|_| !self.no_self_register)?;
        Some(registration::socket_path(kubelet))
    }

    /// The bounds of the reconciler.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            health_interval: self.health_interval,
            erase_bytes_per_second_max: match self.erase_rate_max {
                EraseRate::Unlimited => None,
                EraseRate::Bytes(rate) => Some(rate),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, String> {
        let words = std::iter::once("ringpv-agent").chain(line.split(' '));
        Args::try_parse_from(words).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_those_of_the_manual() {
        let args = parse("--node n1").unwrap();
        assert_eq!(args.min_size, Bytes(512 << 20));
        assert_eq!(args.health_interval, Duration::from_secs(60));
        assert_eq!(args.io_backend, IoBackend::Auto);
        assert_eq!(
            args.limits().erase_bytes_per_second_max,
            Some(block::erase::limiter::RATE_DEFAULT)
        );
        let unlimited = parse("--node n1 --erase-rate-max unlimited").unwrap();
        assert_eq!(unlimited.limits().erase_bytes_per_second_max, None);
        assert!(!args.allow_loop && args.devices.is_empty());
    }

    #[test]
    fn sockets_are_where_the_kubelet_looks() {
        let paths = |line: &str| {
            let args = parse(line).unwrap();
            let text = |path: PathBuf| path.display().to_string();
            (
                text(args.csi_path().unwrap()),
                args.registration_path().map(text),
            )
        };
        assert_eq!(paths("--node n1"), ("/run/ringpv/agent.sock".into(), None));
        let kubelet = "--node n1 --kubelet-dir /var/lib/kubelet";
        let registers = "/var/lib/kubelet/plugins_registry/ringpv.io-reg.sock".to_owned();
        let csi = "/var/lib/kubelet/plugins/ringpv.io/csi.sock".to_owned();
        assert_eq!(paths(kubelet), (csi.clone(), Some(registers.clone())));
        let sidecar = format!("{kubelet} --no-self-register");
        assert_eq!(paths(&sidecar), (csi, None));
        let elsewhere = format!("{kubelet} --csi-endpoint unix:///csi/csi.sock");
        assert_eq!(paths(&elsewhere), ("/csi/csi.sock".into(), Some(registers)));
    }

    #[test]
    fn what_is_typed_is_taken() {
        let args = parse("--node n1 --devices loop{1...2},sdb --erase-rate-max 100MB --health-interval 2s --io-backend threads").unwrap();
        assert_eq!(args.devices, ["loop{1...2}", "sdb"]);
        assert_eq!(args.erase_rate_max, EraseRate::Bytes(100_000_000));
        assert_eq!(args.health_interval, Duration::from_secs(2));
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            "",
            "--node n1 --min-size x",
            "--node n1 --no-self-register",
            "--node n1 --kubelet-dir var/lib/kubelet",
            "--node n1 --health-interval 1ms",
            "--node n1 --health-interval 60",
            "--node n1 --erase-rate-max 0",
            "--node n1 --erase-rate-max fast",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
