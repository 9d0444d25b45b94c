//! The disk that a machine begins with: a file system on which its containerd finds all images. This machine's containerd puts
//! them there, in seconds; an emulated one would take minutes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Kubernetes, PATIENCE};
use crate::command::{now, program, run};

/// The bytes of a machine's disk.
const DISK_BYTES: u64 = 6 << 30;

impl Kubernetes {
    /// Makes a disk for each of these files.
    ///
    /// # Errors
    /// What could not be made, with what was said.
    pub(super) fn stock(&self, disks: &[PathBuf]) -> Result<()> {
        let Some((first, others)) = disks.split_first() else {
            return Ok(());
        };
        let place = self.path("machines").join("stock");
        fs::create_dir_all(&place)?;
        File::create(first)?.set_len(DISK_BYTES)?;
        done("mkfs.xfs", &["-q"], &[first])?;
        done("mount", &["-o", "loop"], &[first, &place])?;
        let filled = self.fill(&place);
        done("umount", &[], &[&place])?;
        filled?;
        for disk in others {
            done("cp", &["--sparse=always"], &[first, disk])?;
        }
        Ok(())
    }

    /// Puts the images below a folder that is to be the cluster's on another machine.
    fn fill(&self, place: &Path) -> Result<()> {
        let beside = |name: &str| place.with_extension(name);
        let (config, socket) = (beside("toml"), beside("sock"));
        let text = format!(
            r#"version = 2
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{socket}"
"#,
            root = place.join("containerd").display(),
            state = beside("state").display(),
            socket = socket.display(),
        );
        fs::write(&config, text)?;
        let address = format!("--address={}", socket.display());
        let log = File::create(beside("log"))?;
        let mut containerd = self.marked(program("containerd"));
        containerd.arg("--config").arg(&config);
        let containerd = containerd.stdout(log.try_clone()?).stderr(log).spawn();
        let mut containerd = containerd.context("containerd")?;
        let end = now() + PATIENCE;
        while let Err(error) = done("ctr", &[&address, "version"], &[]) {
            ensure!(now() < end, "{error}");
            thread::sleep(Duration::from_millis(50));
        }
        let images = fs::read_dir(self.images())?;
        let imported: Result<()> = images.into_iter().try_for_each(|image| {
            let words = [&address, "--namespace=k8s.io", "image", "import"];
            done("ctr", &words, &[&image?.path()])
        });
        end_orderly(&mut containerd)?;
        imported
    }
}

fn end_orderly(process: &mut Child) -> Result<()> {
    kill(Pid::from_raw(process.id().try_into()?), Signal::SIGTERM)?;
    let status = process.wait()?;
    ensure!(
        status.success(),
        "containerd for the machines ended with {status}"
    );
    Ok(())
}

fn done(name: &str, words: &[&str], paths: &[&Path]) -> Result<()> {
    let mut command = program(name);
    command.args(words).args(paths);
    let outcome = run(command, PATIENCE);
    ensure!(outcome.code == Some(0), "{outcome}");
    Ok(())
}
