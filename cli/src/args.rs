//! What can be typed. A verb's own flags stand with the verb; here are the verbs, what all of them take, and the groups
//! of flags that several share. Everything that changes something has `--dry-run`; everything that destroys something
//! takes its target by name and asks for a word that belongs to that very target.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::{
    accept, adopt, bench, clean, confirm, cordon, demo, discover, explain, forget, health, info,
    init, install, label, list, move_volumes,
};
use crate::{remove, repair, support, suspend, tier, uninstall, volumes};

const EXAMPLES: &str = "\
From bare devices to a mounted volume:
  kubectl ringpv install                           in a cluster, once; one host alone needs it not
  kubectl ringpv discover                          what is there, and drives.yaml to look over
  kubectl ringpv init drives.yaml                  make drives of what it selects
  kubectl ringpv list drives                       how fast and how full they are
  kubectl ringpv volumes create data --size 10Gi --class hot.yaml
  kubectl ringpv volumes mount data /srv/data

All of that on six loop devices, and nothing left behind: kubectl ringpv demo

Names may hold ellipses: node-{1...4}, nvme{0...3}n1. A drive's id may be cut to its first digits.
Exit code: 0 done, 1 nothing matched or refused, 2 wrong usage, 3 failed.";

/// RingPV: local drives as volumes, placed by measured latency
#[derive(Debug, Parser)]
#[command(name = "kubectl-ringpv", bin_name = "kubectl ringpv", version, after_help = EXAMPLES)]
#[command(propagate_version = false, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Taken by all verbs.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Where the cluster is")]
pub(crate) struct Global {
    /// Kubeconfig [else $KUBECONFIG, ~/.kube/config, /var/lib/ringpv/embedded/kubeconfig]
    #[arg(long, global = true, hide_short_help = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, global = true, hide_short_help = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// CSI socket of the controller, for `volumes` and `explain --size`
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        value_name = "URL",
        env = "RINGPV_CONTROLLER_ENDPOINT",
        hide_env_values = true
    )]
    #[arg(default_value = "unix:///run/ringpv/controller.sock")]
    pub(crate) controller_endpoint: String,
    /// CSI socket of this host's agent, for `volumes`
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        value_name = "URL",
        env = "RINGPV_NODE_ENDPOINT",
        hide_env_values = true
    )]
    #[arg(default_value = "unix:///run/ringpv/agent.sock")]
    pub(crate) node_endpoint: String,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show the devices of all nodes and write drives.yaml
    Discover(discover::DiscoverArgs),
    /// Make drives of the devices that a drives.yaml selects
    Init(init::InitArgs),
    /// Bring back drives and volumes that are on devices but not in the API
    Adopt(adopt::AdoptArgs),
    /// Tell a lost drive where its device is now
    Accept(accept::AcceptArgs),
    /// Capacity and state of all nodes
    Info(info::InfoArgs),
    /// List drives, volumes, nodes or benchmarks
    #[command(subcommand, visible_alias = "get")]
    List(list::ListVerb),
    /// Create, mount, expand, unmount and delete volumes on this host
    #[command(subcommand, visible_alias = "volume")]
    Volumes(volumes::VolumesVerb),
    /// Set the access tier of drives
    #[command(subcommand, visible_alias = "drive")]
    Drives(tier::DrivesVerb),
    /// Set (k=v) and take away (k-) labels
    #[command(subcommand)]
    Label(label::LabelVerb),
    /// Place no new volumes on drives
    Cordon(cordon::CordonArgs),
    /// Place new volumes on drives again
    Uncordon(cordon::CordonArgs),
    /// Let pods that come use drives or volumes no more, for the time being
    #[command(subcommand)]
    Suspend(suspend::SuspendVerb),
    /// Let pods use drives or volumes again
    #[command(subcommand)]
    Resume(suspend::SuspendVerb),
    /// Measure drives
    Bench(bench::BenchArgs),
    /// Show how fast and how well a drive is
    Health(health::HealthArgs),
    /// Say why a volume is where it is, or where one would go
    Explain(explain::ExplainArgs),
    /// Have xfs_repair look over the file systems of suspended drives
    Repair(repair::RepairArgs),
    /// Let drives go, or erase them
    Remove(remove::RemoveArgs),
    /// Destroy volumes that nobody uses any more, by name
    Clean(clean::CleanArgs),
    /// Point the volumes of a failed drive to another one, where they begin empty
    Move(move_volumes::MoveArgs),
    /// Take away the objects of nodes that will not come back; their drives keep the data
    Forget(forget::ForgetArgs),
    /// Put RingPV into a cluster, or bring it to this version
    Install(Box<install::InstallArgs>),
    /// Take RingPV out of a cluster; drives, volumes and their data stay
    Uninstall(uninstall::UninstallArgs),
    /// Write all that tells how an installation is into a folder, for whoever helps
    Support(support::SupportArgs),
    /// Print a completion script for a shell, or for kubectl
    Completion {
        /// The shell
        shell: Shell,
    },
    /// What kubectl asks through the script that `completion kubectl` prints
    #[command(name = "__complete", hide = true, disable_help_flag = true)]
    Complete {
        /// The words typed, the last as far as it is there
        #[arg(last = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Print the version
    Version,
    /// See RingPV do its whole job on six loop devices, then clean up
    Demo(demo::DemoArgs),
}

/// Shells with completion.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Shell {
    /// Bourne again.
    Bash,
    /// Z.
    Zsh,
    /// Friendly interactive.
    Fish,
    /// kubectl's own completion, whatever the shell: what is to be kubectl_complete-ringpv.
    Kubectl,
}

/// Of every verb that changes something.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct DryRun {
    /// Show what would be done and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Of every verb that waits.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Wait {
    /// Stop waiting after this long; the work goes on without you
    #[arg(long, default_value = "10m", value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// Do not wait at all
    #[arg(long, conflicts_with = "timeout")]
    pub(crate) no_wait: bool,
}

/// Of every verb that destroys something.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Confirm {
    /// The word that it would ask for (a drive's fingerprint, a volume's name); may be repeated
    #[arg(long, value_name = "WORD", value_delimiter = ',')]
    pub(crate) yes: Vec<String>,
}

impl Confirm {
    /// The words given.
    pub(crate) fn words(&self) -> confirm::Words<'_> {
        confirm::Words::new(&self.yes)
    }
}

/// Reads `90s`, `10m`, `2h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let nanos: api::Nanos = text
        .parse()
        .map_err(|_| format!("{text:?} is not a time; write for example 90s, 10m or 2h"))?;
    Ok(Duration::from_nanos(nanos.0))
}

/// Reads `10Gi`.
pub(crate) fn size(text: &str) -> Result<api::Bytes, String> {
    let bytes: api::Bytes = text
        .parse()
        .map_err(|e: api::units::ParseUnitError| e.to_string())?;
    if bytes.0 == 0 {
        return Err("a size is more than nothing".to_owned());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_and_sizes() {
        assert_eq!(duration("10m"), Ok(Duration::from_mins(10)));
        assert!(duration("10").unwrap_err().contains("90s"));
        assert_eq!(size("5Gi"), Ok(api::Bytes(5 << 30)));
        assert!(size("5X").unwrap_err().contains("5Gi"));
        assert!(size("0").is_err());
    }
}
