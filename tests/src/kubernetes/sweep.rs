//! The end of a cluster, whether its test came to its own or was killed: everything that belongs to the cluster's folder
//! goes, and only that.
//!
//! What belongs to a folder: processes that bear it in their environment ([`MARK`]; the shims inherit it); processes in a
//! control group named by a container that has its bundle there; mounts below it; and the few files that the programs
//! keep elsewhere, whatever they are told, as far as they point there.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::Pid;

use super::network;
use crate::command::now;
use crate::loopdev::{mounts, unmount};

/// The environment variable that holds the folder.
pub(super) const MARK: &str = "RINGPV_KUBE_FOLDER";

/// The control group of all pods.
pub(super) const GROUP: &str = "ringpv-kube";

/// Where containerd keeps the bundles of running containers, in its state.
const BUNDLES: &str = "containerd-state/io.containerd.runtime.v2.task/k8s.io";

/// What the network plugins remember of a pod, which libcni keeps here.
const RESULTS: &str = "/var/lib/cni/results";
/// Where kubelet links the logs of all containers.
const LOG_LINKS: &str = "/var/log/containers";
/// Where the suite looks for the folders of pods, wherever kubelet has them.
pub(super) const PODS_LINK: &str = "/var/lib/kubelet/pods";
/// The socket that every kubelet opens.
const KUBELET_SOCKET: &str = "/var/lib/kubelet/device-plugins/kubelet.sock";
/// Folders that the programs make where they are missing.
const MADE: [&str; 7] = [
    RESULTS,
    "/var/lib/cni",
    LOG_LINKS,
    "/run/containerd/s",
    "/run/containerd",
    "/var/lib/kubelet/device-plugins",
    "/var/lib/kubelet",
];

/// How long a process may take to go once it is killed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Ends what belongs to `folder`, and removes it.
pub(super) fn sweep(folder: &Path) {
    end_processes(folder);
    for mount in mounts().iter().rev() {
        if mount.target.starts_with(folder) {
            unmount(&mount.target);
        }
    }
    network::remove();
    remove_pointers(folder);
    remove_groups();
    if folder.exists()
        && let Err(error) = fs::remove_dir_all(folder)
    {
        crate::tell(&format!("{}: {error}", folder.display()));
    }
}

/// Containers first, so that their shims still reap them; until none is left, for what is killed may have been about to
/// start another.
fn end_processes(folder: &Path) {
    let containers = containers(folder);
    let end = now() + PATIENCE;
    loop {
        let contained = processes(|process| in_container(process, &containers));
        let marked = processes(|process| is_marked(process, folder));
        let doomed: Vec<i32> = contained.into_iter().chain(marked).collect();
        if doomed.is_empty() {
            return;
        }
        if now() > end {
            return crate::tell(&format!("these do not end: {doomed:?}"));
        }
        for pid in doomed {
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The ids of the containers that have a bundle in the folder.
fn containers(folder: &Path) -> Vec<String> {
    let bundles = fs::read_dir(folder.join(BUNDLES));
    let names = bundles.into_iter().flatten().flatten();
    names
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// All processes but this one and the dead that `is` holds for, by their ids.
fn processes(is: impl Fn(&Path) -> bool) -> Vec<i32> {
    let own = std::process::id();
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let process = entry.path();
        (pid != own && is(&process) && !is_dead(&process)).then(|| i32::try_from(pid).ok())?
    })
    .collect()
}

fn is_dead(process: &Path) -> bool {
    let status = fs::read_to_string(process.join("stat")).unwrap_or_default();
    let state = status.rsplit_once(')').map(|(_, rest)| rest.trim_start());
    state.is_none_or(|state| state.starts_with('Z'))
}

fn is_marked(process: &Path, folder: &Path) -> bool {
    let wanted = format!("{MARK}={}", folder.display());
    let environment = fs::read(process.join("environ")).unwrap_or_default();
    environment
        .split(|byte| *byte == 0)
        .any(|word| word == wanted.as_bytes())
}

/// Whether a kubelet runs that is no test's: two of them would take each other's plugins away.
pub(super) fn kubelet_of_others() -> bool {
    let Ok(socket) = UnixStream::connect(KUBELET_SOCKET) else {
        return false;
    };
    let Ok(listener) = getsockopt(&socket, PeerCredentials) else {
        return true;
    };
    let process = Path::new("/proc").join(listener.pid().to_string());
    let environment = fs::read(process.join("environ")).unwrap_or_default();
    let mut words = environment.split(|byte| *byte == 0);
    // One that is about to end has no environment left.
    !environment.is_empty() && !words.any(|word| word.starts_with(MARK.as_bytes()))
}

fn in_container(process: &Path, containers: &[String]) -> bool {
    let groups = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
    let mut names = groups.lines().flat_map(|line| line.split('/'));
    names.any(|name| containers.iter().any(|id| id == name))
}

/// Removes files elsewhere that point into the folder.
fn remove_pointers(folder: &Path) {
    let entries = |path: &str| fs::read_dir(path).into_iter().flatten().flatten();
    let containers = containers(folder);
    for bundle in &containers {
        let address = folder.join(BUNDLES).join(bundle).join("address");
        let address = fs::read_to_string(address).unwrap_or_default();
        if let Some(socket) = address.trim().strip_prefix("unix://") {
            fs::remove_file(socket).ok();
        }
    }
    let links = entries(LOG_LINKS).map(|link| link.path());
    for link in links.chain([PathBuf::from(PODS_LINK)]) {
        if fs::read_link(&link).is_ok_and(|target| target.starts_with(folder)) {
            fs::remove_file(link).ok();
        }
    }
    for result in entries(RESULTS) {
        let name = result.file_name().to_string_lossy().into_owned();
        if name
            .split('-')
            .any(|part| containers.iter().any(|id| id == part))
        {
            fs::remove_file(result.path()).ok();
        }
    }
    // Nobody has listened on it since kubelet was killed.
    if folder.exists() && UnixStream::connect(KUBELET_SOCKET).is_err() {
        fs::remove_file(KUBELET_SOCKET).ok();
    }
    for path in MADE {
        // Only where nothing is in it.
        fs::remove_dir(path).ok();
    }
}

/// The roots of the hierarchies of control groups: one of version 2, several of version 1.
pub(super) fn hierarchies() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let of = |line: &str| {
        let mut words = line.split(' ').skip(1);
        let path = words.next()?;
        matches!(words.next()?, "cgroup" | "cgroup2").then(|| PathBuf::from(path))
    };
    table.lines().filter_map(of).collect()
}

/// Removes the pods' control groups; one in which a process lives cannot be removed.
fn remove_groups() {
    for root in hierarchies() {
        remove_group(&root.join(GROUP));
    }
}

fn remove_group(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_group(&entry.path());
        }
    }
    fs::remove_dir(path).ok();
}
