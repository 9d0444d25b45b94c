//! RingPV in the cluster: its image and those of its sidecars, made of the programs that were built, and the words that
//! install it there.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Kubernetes;
use super::settings::{KUBELET, STATE};
use crate::command::{Outcome, ours, program, run};
use crate::tree::root;

/// Where all images of the cluster are said to come from; no such place is ever asked.
pub const REGISTRY: &str = "ringpv.test";
/// The image of pods that run commands: a shell and what belongs to it.
pub const BUSYBOX: &str = "ringpv.test/busybox:1";

const PROGRAMS: [&str; 4] = [
    "ringpv-agent",
    "ringpv-controller",
    "ringpv-bench",
    "kubectl-ringpv",
];
/// The sidecars, and the tags that the manifests name.
const SIDECARS: [(&str, &str); 2] = [("csi-provisioner", "v6.3.0"), ("csi-resizer", "v2.3.0")];
/// Debian's busybox that needs no other file.
const BUSYBOX_PROGRAM: &str = "/bin/busybox";

const LIMIT: Duration = Duration::from_secs(300);

/// Gets what RingPV's image takes from Debian, where it is not there yet.
///
/// # Errors
/// When Debian's packages cannot be had.
pub fn fetch_images() -> Result<()> {
    let mut fetch = program(root().join("deploy/image"));
    fetch.args(["fetch", "--missing"]);
    let outcome = run(fetch, LIMIT);
    ensure!(outcome.code == Some(0), "{outcome}");
    Ok(())
}

impl Kubernetes {
    /// Puts RingPV's image, with this tag, into the native node, and those of its sidecars and of busybox.
    ///
    /// # Errors
    /// When a program is not built, or an image cannot be made.
    pub fn load_ringpv(&self, tag: &str) -> Result<()> {
        self.load_own(tag)?;
        for (name, tag) in SIDECARS {
            let folder = self.path(name);
            fs::create_dir_all(&folder)?;
            fs::copy(self.programs.join(name), folder.join(name)).context(name)?;
            let (image, entry) = (format!("{REGISTRY}/{name}:{tag}"), format!("/{name}"));
            self.program_image(&image, &folder, &entry)?;
        }
        self.load_busybox()
    }

    /// Puts RingPV's own image, with this tag, into the native node.
    ///
    /// # Errors
    /// When a program is not built, or the image cannot be made.
    pub fn load_own(&self, tag: &str) -> Result<()> {
        let folder = self.path("own");
        fs::create_dir_all(&folder)?;
        for name in PROGRAMS {
            strip(&ours(name), &folder.join(name))?;
        }
        let mut image = program(root().join("deploy/image"));
        image
            .args(["build", "--name", &format!("{REGISTRY}/ringpv:{tag}")])
            .arg("--binaries")
            .arg(&folder)
            .arg("--output")
            .arg(self.images().join(format!("ringpv-{tag}.tar")))
            .arg("--load")
            .arg(self.containerd_socket());
        let outcome = run(image, LIMIT);
        ensure!(outcome.code == Some(0), "{outcome}");
        Ok(())
    }

    fn load_busybox(&self) -> Result<()> {
        let folder = self.busybox_folder()?;
        self.image(BUSYBOX, &folder, &["/bin/sh"])
    }

    /// A root file system of busybox alone.
    pub(super) fn busybox_folder(&self) -> Result<PathBuf> {
        let folder = self.path("busybox");
        let bin = folder.join("bin");
        fs::create_dir_all(&bin)?;
        fs::create_dir_all(folder.join("tmp"))?;
        fs::copy(BUSYBOX_PROGRAM, bin.join("busybox")).context(BUSYBOX_PROGRAM)?;
        let mut list = program(BUSYBOX_PROGRAM);
        list.arg("--list");
        for applet in run(list, LIMIT)
            .ok()
            .stdout
            .lines()
            .filter(|it| *it != "busybox")
        {
            let link = bin.join(applet);
            if !link.exists() {
                std::os::unix::fs::symlink("busybox", link)?;
            }
        }
        Ok(folder)
    }

    /// The command that installs RingPV into this cluster, but for the devices that agents may look at.
    #[must_use]
    pub fn install_line(&self) -> Vec<String> {
        vec![
            format!("KUBELET_DIR_PATH={}", self.path(KUBELET).display()),
            ours("kubectl-ringpv").display().to_string(),
            "install".to_owned(),
            format!("--registry={REGISTRY}"),
            format!("--state-dir={}", self.path(STATE).display()),
            "--agent-flag=--allow-loop".to_owned(),
        ]
    }

    /// Installs RingPV as an administrator would, with more flags.
    #[must_use]
    pub fn install(&self, flags: &[&str]) -> Outcome {
        let line = self.install_line();
        let words = line.iter().skip(2).map(String::as_str);
        let words: Vec<_> = words.chain(flags.iter().copied()).collect();
        self.ringpv(&words)
    }

    /// Runs `kubectl ringpv` as a person would.
    #[must_use]
    pub fn ringpv(&self, words: &[&str]) -> Outcome {
        let mut command = program(ours("kubectl-ringpv"));
        command
            .env("KUBECONFIG", self.kubeconfig())
            .env("HOME", &self.folder)
            .env("KUBELET_DIR_PATH", self.path(KUBELET))
            .current_dir(&self.folder)
            .args(words);
        run(command, LIMIT)
    }

    /// The folder of the native node's kubelet.
    #[must_use]
    pub fn kubelet_folder(&self) -> PathBuf {
        self.path(KUBELET)
    }
}

/// A copy without what only debuggers need: an image of that is loaded in seconds.
fn strip(program_: &Path, to: &Path) -> Result<()> {
    let mut strip = program("strip");
    strip.arg("-o").arg(to).arg(program_);
    let outcome = run(strip, LIMIT);
    ensure!(outcome.code == Some(0), "{outcome}");
    Ok(())
}
