//! What the demo does, step by step. Each step prints what it is about, runs the commands that a person would type,
//! and looks whether what they promise is so.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use api::{Drive, VolumePhase};
use kube::ResourceExt as _;
use tokio::time::Instant;

use super::slow::Throttle;
use super::stage::Stage;
use super::typing::Play;
use crate::advice::Stop;
use crate::args::Global;
use crate::discover::devices_of;
use crate::list::drives::rows;
use crate::screen::Screen;
use crate::select::{device_name, short};
use crate::session::{Inventory, Session};

/// The node's name in the demo.
const NODE: &str = "demo";
/// How long a process may take until it answers, on a machine with much else to do.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the agent's word about a mount is waited for before a list is printed without it.
const WORD_TIMEOUT: Duration = Duration::from_secs(5);

const INTRODUCTION: &str = "\
RingPV does its whole job here, on six loop devices that it makes and takes away again; no other device is touched.
A line that begins with $ is what you would type; what follows it is what the program answers. Ctrl-C cleans up.";

/// A drive's backing file.
struct Backing {
    file: &'static str,
    size: &'static str,
    options: &'static [&'static str],
}

/// Six drives that differ: where they are, how large, with which sectors, through the page cache or not.
const BACKINGS: [Backing; 6] = [
    Backing {
        file: "memory/a",
        size: "2G",
        options: &[],
    },
    Backing {
        file: "memory/b",
        size: "3G",
        options: &[],
    },
    Backing {
        file: "disk/c",
        size: "4G",
        options: &["--direct-io=on"],
    },
    Backing {
        file: "disk/d",
        size: "8G",
        options: &["--direct-io=on"],
    },
    Backing {
        file: "disk/e",
        size: "4G",
        options: &["--direct-io=on", "--sector-size", "4096"],
    },
    Backing {
        file: "disk/f",
        size: "2G",
        options: &["--direct-io=on"],
    },
];

const HOT: &str = "\
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata:
  name: hot
provisioner: ringpv.io
parameters:
  access-tier: hot
";
const ROOMY: &str = "\
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata:
  name: roomy
provisioner: ringpv.io
parameters:
  access-tier: warm,hot
  weights: latency=10,capacity=60,tier=20,volumes=10
";

/// Plays all of it; with `keep` up to where things would be taken away.
pub(super) async fn play(session: &mut Session, stage: &mut Stage, keep: bool) -> Result<(), Stop> {
    let began = Instant::now();
    let exe = std::env::current_exe().context("cannot tell where this program is")?;
    let global = Global {
        kubeconfig: Some(stage.path("embedded/kubeconfig")),
        ..Global::default()
    };
    let silent = Screen::to(std::io::sink(), std::io::sink(), None);
    let quiet = Session::new(silent, global, jiff::Timestamp::now, None);
    let mut play = Play {
        session,
        stage,
        quiet,
        exe,
        throttle: Throttle::Impossible("no agent runs".to_owned()),
    };
    play.say(INTRODUCTION)?;
    let devices = play.devices().await?;
    play.processes(&devices).await?;
    play.discover().await?;
    play.init().await?;
    play.measure().await?;
    play.place().await?;
    play.data().await?;
    play.expand().await?;
    play.slow().await?;
    if !keep {
        play.delete().await?;
        play.remove().await?;
    }
    let line = format!("\nAll of it took {} s.", began.elapsed().as_secs());
    Ok(session.screen.line(line)?)
}

/// How to talk to a demo that stays.
pub(super) fn how_to_talk(session: &mut Session, stage: &Stage) -> std::io::Result<()> {
    session
        .screen
        .line("\nIt is left running. To talk to it:\n")?;
    for (name, value) in stage.environment() {
        session.screen.line(format!("  export {name}={value}"))?;
    }
    let dir = stage.path("");
    let dir = dir.display().to_string();
    let dir = dir.trim_end_matches('/');
    session.screen.line(format!(
        "\n  kubectl ringpv list drives          (plain kubectl get drives works, too)\n  kubectl ringpv health --all\n\nTo take it away: kubectl ringpv demo --stop --dir {dir}"
    ))
}

impl Play<'_> {
    /// The drives, by device.
    pub(super) async fn drives(&mut self) -> Result<Vec<Drive>, Stop> {
        let mut drives = self.quiet.all::<Drive>().await?;
        drives.sort_by_key(|d| device_name(d).to_owned());
        Ok(drives)
    }

    async fn devices(&mut self) -> Result<Vec<String>, Stop> {
        self.chapter("Six drives of different kinds: two in memory, four on disk, one of these with an old file system")?;
        for name in ["work", "log", "run", "memory", "disk", "mnt"] {
            std::fs::create_dir(self.stage.path(name))
                .with_context(|| format!("cannot make {name}"))?;
        }
        let memory = self.place_of("memory");
        self.shell(&format!(
            "mount -t tmpfs -o size=6g,mode=0700 ringpv-demo {memory}"
        ))
        .await?;
        let mut devices = Vec::new();
        for backing in &BACKINGS {
            let file = self.place_of(backing.file);
            self.stage
                .output("truncate", &["-s", backing.size, &file])
                .await?;
            if backing.file.ends_with('f') {
                self.stage
                    .output("mkfs.xfs", &["-q", "-L", "photos", &file])
                    .await?;
            }
            devices.push(self.attach(backing, &file).await?);
        }
        Ok(devices)
    }

    /// A loop device on a file; where the file system cannot do direct I/O, through the page cache.
    async fn attach(&mut self, backing: &Backing, file: &str) -> Result<String, Stop> {
        let mut args = vec!["--find", "--show"];
        args.extend(backing.options);
        args.push(file);
        self.prompt(&format!(
            "truncate -s {} {file}; losetup {}",
            backing.size,
            args.join(" ")
        ))?;
        let device = match self.stage.output("losetup", &args).await {
            Ok(device) => device,
            Err(_) => {
                let plain = ["--find", "--show", file];
                self.stage.output("losetup", &plain).await?
            }
        };
        self.session.screen.line(device.trim())?;
        Ok(device.trim().trim_start_matches("/dev/").to_owned())
    }

    async fn processes(&mut self, devices: &[String]) -> Result<(), Stop> {
        self.chapter(
            "The controller, which is its own API server here, and the agent, as processes",
        )?;
        let environment = self.stage.environment();
        let endpoint = |name: &str| environment.get(name).cloned().unwrap_or_default();
        let controller = [
            "--embedded".to_owned(),
            self.place_of("embedded"),
            "--csi-endpoint".to_owned(),
            endpoint("RINGPV_CONTROLLER_ENDPOINT"),
            "--health-window".to_owned(),
            "8s".to_owned(),
        ];
        self.start("ringpv-controller", &controller).await?;
        self.until(
            "the controller to answer",
            START_TIMEOUT,
            async |play: &mut Self| {
                Ok(play.stage.path("run/controller.sock").exists()
                    && play.quiet.inventory().await.is_ok())
            },
        )
        .await?;
        let agent = [
            "--node".to_owned(),
            NODE.to_owned(),
            "--kubeconfig".to_owned(),
            self.place_of("embedded/kubeconfig"),
            "--state-dir".to_owned(),
            self.place_of("state"),
            "--csi-endpoint".to_owned(),
            endpoint("RINGPV_NODE_ENDPOINT"),
            "--allow-loop".to_owned(),
            "--devices".to_owned(),
            devices.join(","),
            "--health-interval".to_owned(),
            "1s".to_owned(),
        ];
        let agent = self.start("ringpv-agent", &agent).await?;
        self.throttle = Throttle::new(self.stage, agent)?;
        let count = devices.len();
        self.until(
            "the agent to report its devices",
            START_TIMEOUT,
            async |play: &mut Self| {
                let Inventory { nodes, .. } = play.quiet.inventory().await?;
                Ok(nodes.first().is_some_and(|n| devices_of(n).len() >= count))
            },
        )
        .await?;
        for (name, value) in environment {
            self.prompt(&format!("export {name}={value}"))?;
        }
        Ok(())
    }

    async fn discover(&mut self) -> Result<(), Stop> {
        self.chapter("What is there? Discovery reads, and writes nothing but drives.yaml")?;
        self.ringpv(&["discover"], 0).await?;
        self.shell("sed -n '/^drives:/,+10p' drives.yaml").await
    }

    async fn init(&mut self) -> Result<(), Stop> {
        self.chapter(
            "Select the one with the old file system, too: init refuses, and has touched none of them",
        )?;
        self.shell("sed -i 's/select: no/select: yes/' drives.yaml")
            .await?;
        self.ringpv(&["init", "drives.yaml"], 1).await?;
        let Inventory { nodes, .. } = self.quiet.inventory().await?;
        let devices = nodes.first().map(devices_of).unwrap_or_default();
        let full = devices.iter().find(|d| !d.signatures.is_empty());
        let word = full.map(|d| d.fingerprint.to_string()).unwrap_or_default();
        self.chapter(
            "With --dangerous, and the fingerprint of what is to be lost as drives.yaml names it, it is done",
        )?;
        self.ringpv(&["init", "drives.yaml", "--dangerous", "--yes", &word], 0)
            .await
    }

    async fn measure(&mut self) -> Result<(), Stop> {
        self.chapter("How fast are they? One in memory and one on disk, in detail: how many reads took how long")?;
        let drives = self.drives().await?;
        let picks: Vec<_> = [0, 2]
            .into_iter()
            .filter_map(|n| drives.get(n))
            .map(|d| d.name_any())
            .collect();
        let picks: Vec<_> = picks.iter().map(|id| short(id)).collect();
        self.ringpv(&[&["bench"], picks.as_slice()].concat(), 0)
            .await?;
        self.chapter("The two fastest become hot, the others warm")?;
        let mut measured: Vec<_> = drives.iter().map(|d| (p50(d), d.name_any())).collect();
        measured.sort();
        let ids: Vec<_> = measured.iter().map(|(_, id)| short(id)).collect();
        let (fast, rest) = ids.split_at_checked(2).unwrap_or_default();
        self.ringpv(
            &[&["drives", "access-tier", "set", "hot"], fast].concat(),
            0,
        )
        .await?;
        self.ringpv(
            &[&["drives", "access-tier", "set", "warm"], rest].concat(),
            0,
        )
        .await?;
        self.ringpv(&["list", "drives"], 0).await
    }

    async fn place(&mut self) -> Result<(), Stop> {
        self.chapter("Volumes of two classes: one where it is fast, one where there is room")?;
        let Inventory { nodes, .. } = self.quiet.inventory().await?;
        let quota = nodes
            .first()
            .and_then(|n| n.status.as_ref())
            .is_some_and(|s| s.project_quota);
        let more = if quota {
            ""
        } else {
            self.say("This kernel has no project quota, so the classes say that a size is a promise only.")?;
            "  capacity-enforcement: best-effort\n"
        };
        for (file, text) in [("work/hot.yaml", HOT), ("work/roomy.yaml", ROOMY)] {
            std::fs::write(self.stage.path(file), format!("{text}{more}"))
                .context("cannot write a class")?;
        }
        self.shell("cat hot.yaml").await?;
        let (fast, big) = (self.place_of("mnt/fast"), self.place_of("mnt/big"));
        self.ringpv(
            &[
                "volumes", "create", "fast", "--size", "256Mi", "--class", "hot.yaml",
            ],
            0,
        )
        .await?;
        self.ringpv(
            &[
                "volumes",
                "create",
                "big",
                "--size",
                "1Gi",
                "--class",
                "roomy.yaml",
            ],
            0,
        )
        .await?;
        self.ringpv(&["volumes", "mount", "fast", &fast], 0).await?;
        self.ringpv(&["volumes", "mount", "big", &big], 0).await?;
        // What the agent reports comes a moment after the mount; the list is right without it, only less telling.
        let reported = async |play: &mut Self| {
            let Inventory { volumes, .. } = play.quiet.inventory().await?;
            let mut phases = volumes.iter().map(|v| v.status.as_ref().map(|s| s.phase));
            Ok(phases.all(|phase| phase == Some(VolumePhase::Published)))
        };
        self.within(WORD_TIMEOUT, reported).await?;
        self.ringpv(&["list", "volumes"], 0).await?;
        self.chapter("Why there? And where would another go?")?;
        self.ringpv(&["explain", "fast"], 0).await?;
        self.ringpv(&["explain", "--size", "100Gi", "--class", "hot.yaml"], 1)
            .await
    }

    async fn data(&mut self) -> Result<(), Stop> {
        self.chapter(
            "Data go in, the volume is unmounted and mounted again, and they come back the same",
        )?;
        let (fast, big) = (self.place_of("mnt/fast"), self.place_of("mnt/big"));
        let write = format!(
            "dd if=/dev/urandom of={fast}/data bs=1M count=48 conv=fsync status=none; cp {fast}/data {big}/data"
        );
        self.shell(&write).await?;
        self.shell(&format!(
            "cd {fast}; sha256sum data | tee {}/sum",
            self.place_of("work")
        ))
        .await?;
        self.ringpv(&["volumes", "unmount", "fast"], 0).await?;
        self.ringpv(&["volumes", "mount", "fast", &fast], 0).await?;
        let sum = self.place_of("work/sum");
        self.shell(&format!(
            "cd {fast}; sha256sum --check {sum}; cd {big}; sha256sum --check {sum}"
        ))
        .await
    }

    async fn expand(&mut self) -> Result<(), Stop> {
        self.chapter("It grows while it is mounted")?;
        self.ringpv(&["volumes", "expand", "fast", "512Mi"], 0)
            .await?;
        self.ringpv(&["list", "volumes"], 0).await
    }

    /// The drive of a volume, as its id and its device.
    pub(super) async fn drive_of(&mut self, volume: &str) -> Result<(String, String), Stop> {
        let Inventory {
            volumes, drives, ..
        } = self.quiet.inventory().await?;
        let volume = volumes.iter().find(|v| v.name_any() == volume);
        let id = volume
            .and_then(|v| v.spec.drive.clone())
            .unwrap_or_default();
        let drive = drives.iter().find(|d| d.name_any() == id);
        let device = drive.map(|d| device_name(d).to_owned()).unwrap_or_default();
        Ok((id, device))
    }

    async fn delete(&mut self) -> Result<(), Stop> {
        self.chapter("Delete: a volume in use is refused; by name and word it goes, and its capacity comes back")?;
        self.ringpv(&["volumes", "delete", "fast", "--yes", "fast"], 1)
            .await?;
        let Inventory { volumes, .. } = self.quiet.inventory().await?;
        for volume in volumes.iter().map(|v| v.name_any()) {
            if volume != "next" {
                self.ringpv(&["volumes", "unmount", &volume], 0).await?;
            }
            self.ringpv(&["volumes", "delete", &volume, "--yes", &volume], 0)
                .await?;
        }
        self.ringpv(&["list", "drives"], 0).await?;
        let Inventory {
            drives, volumes, ..
        } = self.quiet.inventory().await?;
        let promised: u64 = rows(drives, &volumes, self.session.now())
            .iter()
            .map(|r| r.allocated_bytes)
            .sum();
        if promised != 0 {
            return Err(Stop::Failed(anyhow!("{promised} bytes are still promised")));
        }
        Ok(())
    }

    async fn remove(&mut self) -> Result<(), Stop> {
        self.chapter("Let the drives go: one erased, the others as they are, so that adopt could bring them back")?;
        let drives = self.drives().await?;
        let Some(last) = drives.last() else {
            return Err(Stop::Failed(anyhow!("there are no drives")));
        };
        let (id, word) = (last.name_any(), last.spec.device.fingerprint.to_string());
        self.ringpv(&["remove", short(&id), "--erase", "--yes", &word], 0)
            .await?;
        self.ringpv(&["remove", "--all"], 0).await?;
        self.ringpv(&["discover", "--dry-run"], 0).await?;
        match self.drives().await?.as_slice() {
            [] => Ok(()),
            left => Err(Stop::Failed(anyhow!(
                "{} drives are still there",
                left.len()
            ))),
        }
    }
}

/// The median of a drive's reads, in nanoseconds; one that was never measured comes last.
pub(super) fn p50(drive: &Drive) -> u64 {
    let latency = drive.status.as_ref().and_then(|s| s.latency.as_ref());
    latency
        .and_then(|l| l.read.as_ref())
        .map_or(u64::MAX, |r| r.p50_ns)
}
