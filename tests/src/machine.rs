//! One machine as its user has it: the real controller with its embedded store, the real agent, the real command
//! line, on loop devices, all in one temporary folder. Here its processes, in `machine/asked.rs` what they are asked.
//!
//! Whatever happens to a test, dropping its [`Machine`] ends its processes (by their ids), unmounts what lies in its
//! folder, lets its loop devices go, and removes the folder.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use api::Drive;
use kube::api::{Api, ListParams};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::command::{now, ours, program};
use crate::csi::Csi;
use crate::loopdev::{LoopDevice, mounts, unmount};
use crate::process::Process;

mod asked;

pub use asked::CLASS;

/// Node name of the one machine.
pub const NODE: &str = "here";

/// Longest that a start, a stop, or a drive's preparation may take.
pub const LIMIT: Duration = Duration::from_secs(60);

/// One machine.
pub struct Machine {
    /// Runs what is asynchronous.
    pub runtime: Runtime,
    controller: Option<Process>,
    agent: Option<Process>,
    /// Words put before the agent's command line: a sandbox.
    pub agent_within: Vec<PathBuf>,
    /// Words put behind the agent's command line.
    pub agent_args: Vec<String>,
    /// Words put behind the controller's command line.
    pub controller_args: Vec<String>,
    /// Whether the agent may take loop devices.
    pub loops_allowed: bool,
    drives: Vec<LoopDevice>,
    dir: TempDir,
}

impl Machine {
    /// A machine with a loop device of each size, nothing started. `None`, and said so, where that cannot be.
    ///
    /// # Panics
    /// When the machine has all it takes and it fails all the same.
    #[must_use]
    pub fn new(test: &str, sizes: &[u64]) -> Option<Self> {
        if let Some(why) = LoopDevice::refusal() {
            crate::skip(test, &why);
            return None;
        }
        let mut machine = Self {
            runtime: Runtime::new().expect("a runtime"),
            controller: None,
            agent: None,
            agent_within: Vec::new(),
            agent_args: Vec::new(),
            controller_args: Vec::new(),
            loops_allowed: true,
            drives: Vec::new(),
            dir: TempDir::with_prefix("ringpv-").expect("a temporary folder"),
        };
        for size in sizes {
            machine.add_device(*size);
        }
        Some(machine)
    }

    /// The same, with controller and agent running.
    #[must_use]
    pub fn running(test: &str, sizes: &[u64]) -> Option<Self> {
        let mut machine = Self::new(test, sizes)?;
        machine.start_controller();
        machine.start_agent();
        Some(machine)
    }

    /// A path in its folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Adds a loop device; the agent must be started after.
    pub fn add_device(&mut self, bytes: u64) -> usize {
        let index = self.drives.len();
        let file = self.path(&format!("device-{index}.img"));
        self.drives.push(LoopDevice::create(&file, bytes));
        index
    }

    /// Adds a loop device on a file that is there.
    pub fn add_device_on(&mut self, file: &Path) -> usize {
        self.drives.push(LoopDevice::attach(file));
        self.drives.len() - 1
    }

    /// Takes a loop device away, as if pulled out.
    ///
    /// # Panics
    /// When there is none of that index.
    pub fn remove_device(&mut self, index: usize) {
        drop(self.drives.remove(index));
    }

    /// Its loop devices.
    #[must_use]
    pub fn devices(&self) -> &[LoopDevice] {
        &self.drives
    }

    /// The kernel's name of a device.
    ///
    /// # Panics
    /// When there is none of that index.
    #[must_use]
    pub fn device(&self, index: usize) -> String {
        self.drives
            .get(index)
            .map(|device| device.name().to_owned())
            .expect("a device of that index")
    }

    // ---- the controller ----

    /// The controller's command line.
    #[must_use]
    pub fn controller_command(&self) -> Command {
        let mut command = program(ours("ringpv-controller"));
        command.arg("--embedded").arg(self.path("store"));
        command
            .arg("--csi-endpoint")
            .arg(self.endpoint("controller"))
            .args(&self.controller_args);
        command
    }

    /// Starts the controller and waits until it serves.
    ///
    /// # Panics
    /// With its log, when it does not in time.
    pub fn start_controller(&mut self) {
        let mut process = Process::start(self.controller_command(), &self.path("controller.log"));
        let end = now() + LIMIT;
        while !self.controller_serves() {
            if !process.runs() || now() > end {
                panic!(
                    "the controller does not serve; its log:\n{}",
                    process.said()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.controller = Some(process);
    }

    /// Starts the controller and waits for nothing.
    pub fn launch_controller(&mut self) {
        let command = self.controller_command();
        self.controller = Some(Process::start(command, &self.path("controller.log")));
    }

    /// Whether the controller serves.
    #[must_use]
    pub fn controller_serves(&self) -> bool {
        self.path("store/kubeconfig").exists()
            && self.runtime.block_on(async {
                let Ok(client) = self.connect().await else {
                    return false;
                };
                Api::<Drive>::all(client)
                    .list(&ListParams::default())
                    .await
                    .is_ok()
                    && Csi::at(&self.path("controller.sock")).ready().await
            })
    }

    /// SIGKILL to the controller.
    pub fn kill_controller(&mut self) {
        if let Some(process) = self.controller.take() {
            process.kill();
        }
    }

    /// SIGTERM to the controller; it must end well.
    ///
    /// # Panics
    /// With its log, when it does not.
    pub fn stop_controller(&mut self) {
        if let Some(process) = self.controller.take() {
            let log = process.said();
            let status = process.stop();
            assert!(
                status.success(),
                "the controller ended with {status}:\n{log}"
            );
        }
    }

    // ---- the agent ----

    /// The agent's command line.
    #[must_use]
    pub fn agent_command(&self) -> Command {
        let names: Vec<&str> = self.drives.iter().map(LoopDevice::name).collect();
        let mut words = self.agent_within.clone();
        words.push(ours("ringpv-agent"));
        let mut words = words.into_iter();
        let mut command = program(words.next().unwrap_or_default());
        command.args(words).args(["--node", NODE]);
        if self.loops_allowed {
            command.arg("--allow-loop");
        }
        command
            .arg("--kubeconfig")
            .arg(self.path("store/kubeconfig"));
        command.arg("--state-dir").arg(self.path("state"));
        command.arg("--csi-endpoint").arg(self.endpoint("agent"));
        command.arg("--devices").arg(names.join(","));
        let rate = "--erase-rate-max";
        if !self.agent_args.iter().any(|word| word == rate) {
            command.args([rate, "unlimited"]);
        }
        command.args(&self.agent_args);
        command
    }

    /// Starts the agent and waits until it serves and knows all devices.
    ///
    /// # Panics
    /// With its log, when it does not in time.
    pub fn start_agent(&mut self) {
        let mut process = Process::start(self.agent_command(), &self.path("agent.log"));
        let end = now() + LIMIT;
        while !self.agent_serves() {
            if !process.runs() || now() > end {
                panic!("the agent does not serve; its log:\n{}", process.said());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.agent = Some(process);
    }

    /// Starts the agent and waits for nothing.
    pub fn launch_agent(&mut self) {
        let command = self.agent_command();
        self.agent = Some(Process::start(command, &self.path("agent.log")));
    }

    fn agent_serves(&self) -> bool {
        let Some(node) = self.node() else {
            return false;
        };
        let seen = node.status.map(|status| status.devices).unwrap_or_default();
        let all = self
            .drives
            .iter()
            .all(|drive| seen.iter().any(|device| device.name == drive.name()));
        let socket = self.path("agent.sock");
        all && self
            .runtime
            .block_on(async { Csi::at(&socket).ready().await })
    }

    /// The agent's process, while it runs.
    pub fn agent(&mut self) -> Option<&mut Process> {
        self.agent.as_mut()
    }

    /// The controller's process, while it runs.
    pub fn controller(&mut self) -> Option<&mut Process> {
        self.controller.as_mut()
    }

    /// SIGKILL to the agent.
    pub fn kill_agent(&mut self) {
        if let Some(process) = self.agent.take() {
            process.kill();
        }
    }

    /// SIGTERM to the agent; it must end well.
    ///
    /// # Panics
    /// With its log, when it does not.
    pub fn stop_agent(&mut self) {
        if let Some(process) = self.agent.take() {
            let log = process.said();
            let status = process.stop();
            assert!(status.success(), "the agent ended with {status}:\n{log}");
        }
    }

    fn endpoint(&self, name: &str) -> String {
        format!("unix://{}", self.path(&format!("{name}.sock")).display())
    }

    /// What the agent and the controller said last.
    #[must_use]
    pub fn logs(&self) -> String {
        let said = |process: Option<&Process>| process.map(Process::said).unwrap_or_default();
        format!(
            "---- controller\n{}\n---- agent\n{}",
            said(self.controller.as_ref()),
            said(self.agent.as_ref())
        )
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            crate::tell(&self.logs());
        }
        self.kill_agent();
        self.kill_controller();
        for mount in mounts().iter().rev() {
            if mount.target.starts_with(self.dir.path()) {
                unmount(&mount.target);
            }
        }
        self.drives.clear();
    }
}

/// Whether a process ended by a signal.
#[must_use]
pub fn signalled(status: ExitStatus) -> bool {
    status.signal().is_some()
}
