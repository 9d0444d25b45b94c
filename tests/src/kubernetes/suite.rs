//! Kubernetes' own end-to-end suite: its images, made here under the names that it asks for, and a run of it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::settings::KUBELET;
use super::sweep::PODS_LINK;
use super::{Kubernetes, build_suite};
use crate::command::{Outcome, run};

/// What holds images of the suite's own, among all that it may pull.
const OWN: &str = "/e2e-test-images/";

/// What to run of it, and how.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'a> {
    /// Regular expressions over the full names of cases.
    pub focus: &'a str,
    /// Those of the focus that are left out.
    pub skip: &'a str,
    /// Processes that run cases side by side. None: the cases are listed as passed, and nothing is run.
    pub processes: u32,
    /// How long all may take.
    pub limit: Duration,
}

impl Kubernetes {
    /// Builds the suite, and puts the images of its pods into the native node, and into machines that join later.
    ///
    /// # Errors
    /// When Go cannot build it, or the suite cannot name its images.
    pub fn load_suite(&self) -> Result<()> {
        let programs = build_suite()?;
        self.link_pods()?;
        let mut list = self.inside(programs.join("e2e.test"));
        list.arg("--list-images");
        let listed = run(list, super::PATIENCE);
        ensure!(listed.code == Some(0), "{listed}");
        // There may be several versions of one: what is in them is the same here.
        let images = |kind: &str| -> Vec<&str> {
            let wanted = format!("{OWN}{kind}:");
            let names = listed.stdout.lines().map(str::trim);
            names.filter(|name| name.contains(&wanted)).collect()
        };
        let root = self.busybox_folder()?;
        fs::create_dir_all(root.join("root"))?;
        fs::create_dir_all(root.join("etc"))?;
        fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
        fs::write(root.join("etc/group"), "root:x:0:\n")?;
        for name in images("busybox")
            .into_iter()
            .chain(images("glibc-dns-testing"))
        {
            self.image(name, &root, &["/bin/sh"])?;
        }
        for name in images("nginx") {
            self.image(name, &root, &["/bin/httpd", "-f"])?;
        }
        fs::copy(programs.join("agnhost"), root.join("agnhost")).context("agnhost")?;
        for name in images("agnhost") {
            self.image_with(name, &root, Some("/agnhost"), &["pause"])?;
        }
        fs::remove_file(root.join("agnhost"))?;
        Ok(())
    }

    /// The suite looks for the folders of pods where kubelet has them by default.
    fn link_pods(&self) -> Result<()> {
        fs::create_dir_all(Path::new(PODS_LINK).parent().context("a folder")?)?;
        let pods = self.path(KUBELET).join("pods");
        symlink(pods, PODS_LINK).with_context(|| format!("{PODS_LINK}, for the suite alone"))
    }

    /// Runs cases of the suite for the driver that a file defines; `report` gets what became of each, as JSON.
    ///
    /// # Errors
    /// When the suite was not built.
    pub fn run_suite(&self, driver: &Path, what: Selection<'_>, report: &Path) -> Result<Outcome> {
        let programs = build_suite()?;
        let (folder, name) = (report.parent(), report.file_name());
        let (folder, name) = folder.zip(name).context("a report is a file")?;
        let mut command = self.inside(programs.join("ginkgo"));
        command
            .current_dir(folder)
            .arg("run")
            .args(["--no-color", "--timeout=4h", "--keep-going"])
            .args(match what.processes {
                0 => vec!["--dry-run".to_owned()],
                processes => vec![format!("--procs={processes}")],
            })
            .arg(format!("--focus={}", what.focus))
            .arg(format!("--skip={}", what.skip))
            .arg(format!("--output-dir={}", folder.display()))
            .arg(format!("--json-report={}", name.display()))
            .arg(programs.join("e2e.test"))
            .arg("--")
            .args(["--provider=skeleton", "--minStartupPods=0"])
            .arg(format!(
                "--kubeconfig={}",
                self.path(super::ADMIN).display()
            ))
            .arg(format!("--storage.testdriver={}", driver.display()));
        Ok(run(command, what.limit))
    }
}
