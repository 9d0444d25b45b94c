//! The demo's chapter about a slow drive, and making one slow for real: the kernel's own block throttle, for the agent's reads of that one device. The agent
//! runs in a cgroup of the demo's from its start; a limit written there holds back its reads and nobody else's.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use api::Drive;
use api::drive::{HealthState, HealthVerdict};
use kube::ResourceExt as _;
use tokio::time::Instant;

use super::script::p50;
use super::stage::Stage;
use super::typing::Play;
use crate::advice::Stop;
use crate::select::{drive_label, short};

/// How long a slow drive may take to be noticed: some ten seconds, and much longer where all is slow.
const SLOW_TIMEOUT: Duration = Duration::from_secs(120);
/// Where another drive of the node is withdrawn already, it is not waited for longer than this: four windows of the
/// demo's, which are its probation, and what comes before.
const OTHER_TIMEOUT: Duration = Duration::from_secs(45);

/// Reads a second that are let through: each then takes 1/10 s. The kernel counts them in slices of 1/10 s. With one a
/// slice every read but the first has to wait; with more, the others of a slice would pass at once, and the median, by
/// which a drive is judged, would be now a slow read and now a fast one.
const READS_PER_SECOND: u32 = 10;

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
        let name = format!("ringpv-demo-{}", std::process::id());
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

    /// The shell commands that slow a device and let it go again; or why there are none.
    fn commands(&self, device: &str) -> Result<Result<[String; 2], String>> {
        let (file, limits) = match self {
            Self::Impossible(why) => return Ok(Err(why.clone())),
            Self::V1(file) => (file, [READS_PER_SECOND.to_string(), "0".to_owned()]),
            Self::V2(file) => {
                let slow = format!("riops={READS_PER_SECOND}");
                (file, [slow, "riops=max".to_owned()])
            }
        };
        let number = number(device)?;
        Ok(Ok(limits.map(|limit| {
            format!("echo '{number} {limit}' > {}", file.display())
        })))
    }
}

impl Play<'_> {
    /// A drive is made slow. Whether it is found slow depends on what else the machine does: where it is not, that is
    /// said, and the demo goes on.
    pub(super) async fn slow(&mut self) -> Result<(), Stop> {
        let (id, device) = self.drive_of("fast").await?;
        self.chapter("A drive turns slow: no new volume is placed on it, and what is there stays")?;
        let [slow, free] = match self.throttle.commands(&device)? {
            Ok(commands) => commands,
            Err(why) => {
                return self.say(&format!(
                    "Skipped: {why}, so no drive can be made slow here."
                ));
            }
        };
        self.say(&format!(
            "The kernel lets the agent read {device} {READS_PER_SECOND} times a second from here on, as if the drive were wearing out."
        ))?;
        self.shell(&slow).await?;
        self.say("Waiting until the controller finds it slow; some ten seconds, or up to a minute on a busy machine.")?;
        let why_not = self.why_not_found_slow(&id).await?;
        if why_not.is_none() {
            self.around_the_slow_one(&id).await?;
        }
        self.shell(&free).await?;
        match why_not {
            Some(why) => self.say(&format!("Skipped: {why}.")),
            None => Ok(()),
        }
    }

    /// Waits until a drive is found slow; or tells why it was not.
    async fn why_not_found_slow(&mut self, id: &str) -> Result<Option<String>, Stop> {
        let began = Instant::now();
        let mut why = None;
        let decided = async |play: &mut Self| {
            let drives = play.drives().await?;
            let (this, others): (Vec<_>, Vec<_>) =
                drives.iter().partition(|drive| drive.name_any() == id);
            let verdict = this.first().and_then(|drive| verdict_of(drive));
            let slow = verdict.is_some_and(|v| is_bad(v.state));
            why = match others.iter().find(|drive| is_withdrawn(drive)) {
                _ if slow => None,
                Some(other) => Some(format!(
                    "{} was found slow before it, for this machine has much else to do, and of a node one drive at a time is withdrawn",
                    drive_label(other)
                )),
                None => Some(format!(
                    "the controller does not find it slow on this machine as it is now ({})",
                    verdict.map_or("it was not judged", |v| v.message.as_str())
                )),
            };
            let other = others.iter().any(|drive| is_withdrawn(drive));
            // On a busy machine it may be found slow at once, by the noise; it is shown when its own figures show why.
            let shows = this.first().is_some_and(|drive| is_held_back(drive));
            Ok(slow && shows || (slow || other) && began.elapsed() > OTHER_TIMEOUT)
        };
        self.within(SLOW_TIMEOUT, decided).await?;
        Ok(why)
    }

    /// What a slow drive means for volumes.
    async fn around_the_slow_one(&mut self, id: &str) -> Result<(), Stop> {
        self.ringpv(&["list", "drives", "--tier", "hot"], 0).await?;
        self.ringpv(&["health", short(id)], 0).await?;
        let create = [
            "volumes", "create", "next", "--size", "128Mi", "--class", "hot.yaml",
        ];
        self.ringpv(&create, 0).await?;
        if self.drive_of("next").await?.0 == id {
            return Err(Stop::Failed(anyhow!(
                "the new volume went to the slow drive"
            )));
        }
        self.ringpv(&["explain", "next"], 0).await?;
        let (fast, sum) = (self.place_of("mnt/fast"), self.place_of("work/sum"));
        self.shell(&format!("cd {fast}; sha256sum --check {sum}"))
            .await
    }
}

/// Whether the median of a drive's reads is that of reads that wait for the throttle.
fn is_held_back(drive: &Drive) -> bool {
    let waits_ns = 1_000_000_000 / u64::from(READS_PER_SECOND);
    (waits_ns / 2..u64::MAX).contains(&p50(drive))
}

fn verdict_of(drive: &Drive) -> Option<&HealthVerdict> {
    drive.status.as_ref()?.verdict.as_ref()
}

fn is_bad(state: HealthState) -> bool {
    matches!(state, HealthState::Slow | HealthState::Failing)
}

/// Whether a drive takes no new volumes for being, or having been, slow.
fn is_withdrawn(drive: &Drive) -> bool {
    let state = verdict_of(drive).map(|verdict| verdict.state);
    matches!(state, Some(HealthState::Slow | HealthState::Probation))
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
