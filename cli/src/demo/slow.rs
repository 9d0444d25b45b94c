//! Making one drive slow for real: the kernel's own block throttle, for the agent's reads of that one device. The agent
//! runs in a cgroup of the demo's from its start; a limit written there holds back its reads and nobody else's.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::stage::Stage;

/// Reads a second that are let through: each then takes 1/25 s.
const READS_PER_SECOND: u32 = 25;

/// The throttle of this machine, or why there is none.
pub(super) enum Throttle {
    /// cgroup v1: a file of the blkio controller.
    V1(PathBuf),
    /// cgroup v2: a file of the io controller.
    V2(PathBuf),
    /// There is none; why.
    Impossible(String),
}

impl Throttle {
    /// Makes a cgroup and puts a process into it.
    pub(super) fn new(stage: &mut Stage, process: u32) -> Result<Self> {
        let name = format!("ringpv-demo-{process}");
        let v1 = Path::new("/sys/fs/cgroup/blkio");
        if v1.join("blkio.throttle.read_iops_device").is_file() {
            let cgroup = make(stage, &v1.join(name), None)?;
            join(&cgroup, process)?;
            return Ok(Self::V1(cgroup.join("blkio.throttle.read_iops_device")));
        }
        let v2 = Path::new("/sys/fs/cgroup");
        let controllers =
            std::fs::read_to_string(v2.join("cgroup.controllers")).unwrap_or_default();
        if !controllers.split_ascii_whitespace().any(|c| c == "io") {
            return Ok(Self::Impossible(
                "this kernel has no block throttle".to_owned(),
            ));
        }
        let switch = v2.join("cgroup.subtree_control");
        let on = std::fs::read_to_string(&switch).unwrap_or_default();
        let switched = if on.split_ascii_whitespace().any(|c| c == "io") {
            None
        } else if let Err(error) = std::fs::write(&switch, "+io") {
            return Ok(Self::Impossible(format!(
                "the io controller cannot be switched on: {error}"
            )));
        } else {
            Some(switch)
        };
        let cgroup = make(stage, &v2.join(name), switched)?;
        let limit = cgroup.join("io.max");
        if !limit.is_file() {
            return Ok(Self::Impossible(
                "this kernel has no block throttle".to_owned(),
            ));
        }
        join(&cgroup, process)?;
        Ok(Self::V2(limit))
    }

    /// The shell command that slows a device, or lets it go again; or why there is none.
    pub(super) fn command(&self, device: &str, slow: bool) -> Result<Result<String, String>> {
        let (file, limit) = match (self, slow) {
            (Self::Impossible(why), _) => return Ok(Err(why.clone())),
            (Self::V1(file), true) => (file, READS_PER_SECOND.to_string()),
            (Self::V1(file), false) => (file, "0".to_owned()),
            (Self::V2(file), true) => (file, format!("riops={READS_PER_SECOND}")),
            (Self::V2(file), false) => (file, "riops=max".to_owned()),
        };
        Ok(Ok(format!(
            "echo '{} {limit}' > {}",
            number(device)?,
            file.display()
        )))
    }
}

fn make(stage: &mut Stage, cgroup: &Path, switched: Option<PathBuf>) -> Result<PathBuf> {
    stage.remember_cgroup(cgroup.to_owned(), switched)?;
    std::fs::create_dir(cgroup).with_context(|| format!("cannot make {}", cgroup.display()))?;
    Ok(cgroup.to_owned())
}

fn join(cgroup: &Path, process: u32) -> Result<()> {
    let file = cgroup.join("cgroup.procs");
    std::fs::write(&file, process.to_string())
        .with_context(|| format!("cannot write {}", file.display()))
}

/// Major and minor of a device.
fn number(device: &str) -> Result<String> {
    let file = format!("/sys/class/block/{device}/dev");
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    Ok(text.trim().to_owned())
}
