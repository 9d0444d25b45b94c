//! A real Kubernetes on this machine: etcd, the control plane and a node, as plain processes in a network namespace of
//! their own. There is one at a time: a second test waits until the first has ended.
//!
//! ```text
//!  this machine                     namespace ringpv-kube, bridge br0: 10.77.0.254/24
//!  test ── 127.0.0.1:port ──────► API :6443 ─ etcd, controller-manager, scheduler
//!                                    ▲
//!                                    └─ native node: kubelet, containerd, kube-proxy ─ pods 10.88.254.0/24
//! ```
//!
//! All state lies in one folder. Whatever happens to the test, its processes end with the thread that started them, and
//! what is left of the folder is swept by the next start (see [`sweep`]).

mod binaries;
mod certificates;
mod control_plane;
mod image;
mod machine;
mod network;
mod node;
mod ringpv;
mod settings;
pub mod stage;
mod stock;
mod suite;
mod sweep;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kube::Client;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::command::{Outcome, now, program, run};
use crate::conformance::connect;
use crate::process::Process;
pub use binaries::{build, build_suite};
use control_plane::Credentials;
pub use machine::Machine;
use network::Forward;
pub use node::NATIVE;
pub use ringpv::{BUSYBOX, REGISTRY, fetch_images};
pub use suite::Selection;

/// Held by whoever has the cluster, and names its folder.
const LOCK: &str = "/run/ringpv-kube.lock";
/// The kubeconfigs of the administrator: within the namespace, and from outside.
const ADMIN: &str = "admin.kubeconfig";
const ADMIN_OUTSIDE: &str = "outside.kubeconfig";
/// What a node needs of the machine, and the Debian package that has it.
const NEEDED: [(&str, &str); 7] = [
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("iptables", "iptables"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("ip", "iproute2"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
];

/// Longest wait for a process to be ready, a command to end, or a thing to become so.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How a cluster is to be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Whether the API writes down every request; see [`Kubernetes::audited`].
    pub audit: bool,
}

/// A running cluster, until it is dropped.
pub struct Kubernetes {
    /// Runs what is asynchronous.
    pub runtime: Runtime,
    client: Client,
    processes: Vec<(&'static str, Process)>,
    credentials: Arc<Credentials>,
    programs: PathBuf,
    folder: PathBuf,
    // In this order: the namespace that is forwarded to goes with the place.
    _forward: Forward,
    _place: Place,
}

/// The folder of the one cluster, and the right to have it.
struct Place {
    folder: PathBuf,
    _lock: File,
}

impl Place {
    /// Waits for the lock, then clears what an earlier holder left.
    fn take(folder: PathBuf) -> Result<Self> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(LOCK);
        let mut lock = file.context(LOCK)?;
        if lock.try_lock().is_err() {
            crate::tell("another test has the cluster; waiting for its end");
            lock.lock()?;
        }
        let mut earlier = String::new();
        lock.read_to_string(&mut earlier)?;
        if Path::new(&earlier).is_absolute() {
            sweep::sweep(Path::new(&earlier));
        }
        lock.set_len(0)?;
        lock.rewind()?;
        lock.write_all(folder.as_os_str().as_encoded_bytes())?;
        sweep::sweep(&folder);
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(Self {
            folder,
            _lock: lock,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        sweep::sweep(&self.folder);
    }
}

/// Why there can be no cluster on this machine; `None` when there can.
#[must_use]
pub fn refusal() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("root is needed for namespaces and containers".to_owned());
    }
    let path = search_path();
    let is_there = |name: &str| std::env::split_paths(&path).any(|dir| dir.join(name).exists());
    let missing = NEEDED.iter().filter(|(name, _)| !is_there(name));
    let missing: Vec<&str> = missing.map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        return Some(format!("missing: apt-get install {}", missing.join(" ")));
    }
    if sweep::kubelet_of_others() {
        return Some("this machine is a node of another cluster: its kubelet runs".to_owned());
    }
    None
}

/// PATH, and where Debian keeps what root alone uses.
fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}

/// The folder of the cluster that runs now, whoever has it.
#[must_use]
pub fn held() -> Option<PathBuf> {
    let lock = File::open(LOCK).ok()?;
    if lock.try_lock_shared().is_ok() {
        return None;
    }
    let folder = PathBuf::from(fs::read_to_string(LOCK).ok()?);
    folder.join(ADMIN).exists().then_some(folder)
}

/// A program that runs in the namespace of the cluster in `folder`, with its kubeconfig and its kubectl at hand.
///
/// # Errors
/// When nothing says where the programs lie.
pub fn within(folder: &Path, path: impl AsRef<Path>) -> Result<Command> {
    let mut command = network::inside(path);
    let mut words = binaries::programs()?.into_os_string();
    words.push(":");
    words.push(search_path());
    command
        .env("PATH", words)
        .env("KUBECACHEDIR", folder.join("kubectl-cache"))
        .env("KUBECONFIG", folder.join(ADMIN));
    Ok(command)
}

impl Kubernetes {
    /// Starts a cluster and waits until its node is ready. All of it ends with the calling thread, so that is to be one
    /// which lasts as long as the cluster is needed.
    ///
    /// # Errors
    /// What the machine lacks, or the process that does not become ready, with the end of its log.
    pub fn up(options: Options) -> Result<Self> {
        if let Some(why) = refusal() {
            bail!(why);
        }
        let programs = build()?;
        let place = Place::take(binaries::cache()?.join("run"))?;
        let folder = place.folder.clone();
        network::make()?;
        let forward = Forward::start()?;
        let credentials = Arc::new(Credentials::new(&folder)?);
        credentials.kubeconfig(&folder, "admin", "admin", "system:masters")?;
        let outside = folder.join(ADMIN_OUTSIDE);
        credentials.administrator(&outside, &forward.server())?;
        let runtime = Runtime::new()?;
        let client = runtime.block_on(connect(&outside))?;
        let mut cluster = Self {
            runtime,
            client,
            processes: Vec::new(),
            credentials: Arc::clone(&credentials),
            programs,
            folder,
            _forward: forward,
            _place: place,
        };
        // Each waits only for what it needs, so that the others start meanwhile.
        cluster.start_api(&credentials, options)?;
        cluster.start_containers(&credentials)?;
        cluster.api_is_ready()?;
        cluster.start_controllers(&credentials)?;
        cluster.start_node()?;
        cluster.controllers_are_ready()?;
        cluster.node_is_ready()?;
        Ok(cluster)
    }

    // ---- talking to it ----

    /// A client of its API, as an administrator.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The administrator's kubeconfig, good on this machine while the cluster runs.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.path(ADMIN_OUTSIDE)
    }

    /// The kubectl of its own version.
    #[must_use]
    pub fn kubectl_program(&self) -> PathBuf {
        self.programs.join("kubectl")
    }

    /// Runs kubectl as a person would.
    #[must_use]
    pub fn kubectl(&self, words: &[&str]) -> Outcome {
        let mut command = program(self.kubectl_program());
        command.env("KUBECONFIG", self.kubeconfig());
        command.env("HOME", &self.folder).args(words);
        run(command, PATIENCE)
    }

    /// Runs kubectl in the namespace.
    fn kubectl_inside(&self, words: &[&str]) -> Outcome {
        let mut command = self.program("kubectl");
        command.env("KUBECONFIG", self.path(ADMIN)).args(words);
        run(command, PATIENCE)
    }

    /// Applies manifests.
    ///
    /// # Panics
    /// When the API refuses them.
    pub fn apply(&self, manifests: &str) {
        let file = self.path("manifests.yaml");
        fs::write(&file, manifests).expect("a file in the cluster's folder");
        let file = file.display().to_string();
        self.kubectl(&["apply", "--filename", &file]).ok();
    }

    /// A program that runs in the cluster's network.
    ///
    /// # Panics
    /// Never while the cluster runs.
    #[must_use]
    pub fn inside(&self, path: impl AsRef<Path>) -> Command {
        within(&self.folder, path).expect("the programs were built")
    }

    /// Waits until something is so; the kubelet alone may take two minutes to try again what failed.
    ///
    /// # Panics
    /// When it is not in time, with all that can be seen.
    pub fn until(&self, what: &str, mut so: impl FnMut() -> bool) {
        let end = now() + 2 * PATIENCE;
        while !so() {
            if now() > end {
                let pods = self.kubectl(&["get", "pods", "--all-namespaces", "--output", "wide"]);
                let events = self.kubectl(&["events", "--all-namespaces", "--types=Warning"]);
                panic!("not so after {:?}: {what}\n{pods}\n{events}", 2 * PATIENCE);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Every request that the API answered, as audit events, oldest first; none where [`Options::audit`] is off.
    #[must_use]
    pub fn audited(&self) -> Vec<Value> {
        let log = fs::read_to_string(self.path(control_plane::AUDIT)).unwrap_or_default();
        let events = log.lines().map(serde_json::from_str);
        events.filter_map(Result::ok).collect()
    }

    /// The end of what each of its processes said.
    #[must_use]
    pub fn logs(&self) -> String {
        let logs = self.processes.iter();
        logs.map(|(name, process)| format!("---- {name}\n{}\n", process.said()))
            .collect()
    }

    // ---- its processes ----

    /// A path in its folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A program that was built, to run in the namespace.
    fn program(&self, name: &str) -> Command {
        self.marked(network::inside(self.programs.join(name)))
    }

    /// A program of the machine, to run in the namespace.
    fn system_program(&self, name: &str) -> Command {
        self.marked(network::inside(name))
    }

    fn marked(&self, mut command: Command) -> Command {
        command
            .current_dir(&self.folder)
            .env(sweep::MARK, &self.folder)
            .env("HOME", &self.folder)
            .env("PATH", search_path());
        command
    }

    fn start(&mut self, name: &'static str, command: Command) {
        let log = self.path(&format!("{name}.log"));
        self.processes.push((name, Process::start(command, &log)));
    }

    /// Ends a process as its own fault would.
    fn end(&mut self, name: &str) -> Result<()> {
        let place = self.processes.iter().position(|(of, _)| *of == name);
        let place = place.with_context(|| format!("{name} was not started"))?;
        self.processes.remove(place).1.kill();
        Ok(())
    }

    /// Stops the API for so long: it takes connections, and answers nothing.
    ///
    /// # Panics
    /// When it does not run.
    pub fn without_api(&self, time: Duration) {
        let found = self.processes.iter().find(|(of, _)| *of == "apiserver");
        let id = found.and_then(|(_, process)| i32::try_from(process.id()).ok());
        let id = Pid::from_raw(id.expect("the API runs"));
        kill(id, Signal::SIGSTOP).expect("it is ours");
        std::thread::sleep(time);
        kill(id, Signal::SIGCONT).expect("it is ours");
        self.until("the API answers again", || self.answers("/readyz"));
    }

    /// Whether the API answers a request well.
    fn answers(&self, path: &str) -> bool {
        let request = http::Request::get(path).body(Vec::new());
        request.is_ok_and(|request| {
            let answer = self.client.request_text(request);
            self.runtime.block_on(answer).is_ok()
        })
    }

    /// Waits until a look succeeds.
    fn until_telling(&self, what: &str, mut look: impl FnMut(&Self) -> Result<()>) -> Result<()> {
        let end = now() + PATIENCE;
        while let Err(error) = look(self) {
            if now() > end {
                return Err(error.context(format!("not so after {PATIENCE:?}: {what}")));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Waits until a process is ready.
    fn wait_for(&mut self, name: &str, ready: impl Fn(&Self) -> bool) -> Result<()> {
        let end = now() + PATIENCE;
        while !ready(self) {
            let process = self.processes.iter_mut().find(|(of, _)| *of == name);
            let (_, process) = process.with_context(|| format!("{name} was not started"))?;
            if !process.runs() {
                bail!("{name} ended; its log:\n{}", process.said());
            }
            if now() > end {
                let said = process.said();
                bail!("{name} is not ready after {PATIENCE:?}; its log:\n{said}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        if std::thread::panicking() {
            crate::tell(&self.logs());
        }
        // Last started, first ended: kubelet starts no pod again. Its containers end in the sweep.
        while let Some((_, process)) = self.processes.pop() {
            process.kill();
        }
    }
}
