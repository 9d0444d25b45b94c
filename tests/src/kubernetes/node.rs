//! The node that this machine itself is: containerd, kubelet and kube-proxy, all their state in the cluster's folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::api::Api;
use nix::mount::{MsFlags, mount};

use super::control_plane::Credentials;
use super::network::{ADDRESS, NATIVE_PODS};
use super::settings::{KUBELET, PAUSE, STATE, Settings};
use super::sweep::{GROUP, hierarchies};
use super::{Kubernetes, PATIENCE, image};
use crate::command::{program, run};

/// Name of the node.
pub const NATIVE: &str = "native";

impl Kubernetes {
    fn native(&self) -> Settings<'_> {
        Settings {
            folder: &self.folder,
            name: NATIVE,
            address: ADDRESS,
            pods: NATIVE_PODS,
        }
    }

    /// Starts what runs containers.
    pub(super) fn start_containers(&mut self, credentials: &Credentials) -> Result<()> {
        prepare_groups();
        let proof = credentials.node(&self.folder, "kubelet", NATIVE, ADDRESS)?;
        credentials.proxy(&self.folder)?;
        self.native().write(&self.folder, &proof)?;
        let mut containerd = self.system_program("containerd");
        containerd.arg("--config").arg(self.path("containerd.toml"));
        self.start("containerd", containerd);
        self.wait_for("containerd", |cluster| {
            run(cluster.ctr(&["version"]), PATIENCE).code == Some(0)
        })?;
        self.load_pause()
    }

    /// Starts the node's own processes.
    pub(super) fn start_node(&mut self) -> Result<()> {
        share(&self.path(KUBELET))?;
        share(&self.path(STATE))?;
        self.start("kubelet", self.kubelet());
        let mut proxy = self.program("kube-proxy");
        proxy.arg(format!("--config={}", self.native().at("proxy.yaml")));
        self.start("proxy", proxy);
        Ok(())
    }

    /// Waits until the API calls the node ready.
    pub(super) fn node_is_ready(&mut self) -> Result<()> {
        self.wait_for("kubelet", |cluster| {
            let nodes = Api::<Node>::all(cluster.client());
            let node = cluster.runtime.block_on(nodes.get_opt(NATIVE));
            node.ok().flatten().is_some_and(|node| is_ready(&node))
        })
    }

    fn load_pause(&self) -> Result<()> {
        let root = self.path("pause");
        fs::create_dir_all(&root)?;
        fs::copy(self.programs.join("pause"), root.join("pause")).context("pause")?;
        self.image(PAUSE, &root, &["/pause"])
    }

    /// The socket of what runs the native node's containers.
    pub(super) fn containerd_socket(&self) -> PathBuf {
        self.path("containerd.sock")
    }

    /// Puts an image, made of a folder, into the node.
    ///
    /// # Errors
    /// When its name is none, or the folder cannot be read.
    pub fn image(&self, name: &str, root: &Path, command: &[&str]) -> Result<()> {
        self.image_with(name, root, None, command)
    }

    pub(super) fn image_with(
        &self,
        name: &str,
        root: &Path,
        entry: Option<&str>,
        command: &[&str],
    ) -> Result<()> {
        // Kept for the machines that join later.
        fs::create_dir_all(self.images())?;
        let file = name.replace(['/', ':'], "_") + ".tar";
        let archive = self.images().join(file);
        image::archive(name, root, entry, command, &archive)?;
        self.import(&archive)
    }

    /// The same of an image whose one program takes a pod's arguments; no other node will have it.
    ///
    /// # Errors
    /// As [`Self::image`].
    pub fn program_image(&self, name: &str, root: &Path, entry: &str) -> Result<()> {
        let archive = self.path("image.tar");
        image::archive(name, root, Some(entry), &[], &archive)?;
        self.import(&archive)?;
        fs::remove_file(archive)?;
        Ok(())
    }

    fn import(&self, archive: &Path) -> Result<()> {
        let mut import = self.ctr(&["--namespace", "k8s.io", "image", "import"]);
        import.arg(archive);
        let outcome = run(import, PATIENCE);
        ensure!(outcome.code == Some(0), "{outcome}");
        Ok(())
    }

    /// The folder of the archives of images that every node has.
    pub(super) fn images(&self) -> PathBuf {
        self.path("images")
    }

    fn ctr(&self, words: &[&str]) -> Command {
        let mut command = program("ctr");
        command.arg("--address").arg(self.containerd_socket());
        command.args(words);
        command
    }

    /// Kills the kubelet, as its own fault would, starts it again, and waits until its node is ready.
    ///
    /// # Errors
    /// When it does not become so.
    pub fn restart_kubelet(&mut self) -> Result<()> {
        self.end("kubelet")?;
        self.start("kubelet", self.kubelet());
        self.node_is_ready()
    }

    fn kubelet(&self) -> Command {
        let mut command = self.program("kubelet");
        command.args(self.native().kubelet_words());
        command
    }
}

/// Makes a folder in which what a pod mounts with bidirectional propagation is seen by the others, and by kubelet.
fn share(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let (nothing, data) = (None::<&str>, None::<&str>);
    mount(Some(folder), folder, nothing, MsFlags::MS_BIND, data)?;
    let shared = MsFlags::MS_SHARED | MsFlags::MS_REC;
    mount(nothing, folder, nothing, shared, data)?;
    Ok(())
}

/// Whether its kubelet calls it ready.
pub(super) fn is_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Makes the pods' control group in every hierarchy. Kubelet refuses one whose controllers are not switched on; those that
/// cannot be are for it to complain about.
fn prepare_groups() {
    for root in hierarchies() {
        let known = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        for controller in known.split_whitespace() {
            let switch = format!("+{controller}");
            fs::write(root.join("cgroup.subtree_control"), switch).ok();
        }
        fs::create_dir_all(root.join(GROUP)).ok();
    }
}
