//! xfs_repair: its phases while it runs, and what its end means.

use std::path::Path;
use std::time::Duration;

use api::drive::{RepairMode, RepairOutcome};

use super::super::{HostError, RepairTurn, Repairing};
use super::{device_path, program};

const REPAIR: &str = "xfs_repair";
/// So long a turn waits for news.
const TURN: Duration = Duration::from_secs(1);
/// What is left of the agent's own limit of memory for the agent.
const OWN_MIB: u64 = 256;
/// A limit above this is none: what control groups say where there is no limit.
const UNLIMITED_MIB: u64 = 1 << 40;

struct Run {
    mode: RepairMode,
    device: String,
    program: program::Running,
    phase: (u32, String),
}

pub(super) fn begin(device: &str, mode: RepairMode) -> Result<Box<dyn Repairing>, HostError> {
    let path = device_path(device).to_string_lossy().into_owned();
    let memory = memory_mib(Path::new("/sys/fs/cgroup"), Path::new("/proc/self/cgroup"));
    let memory = memory.map(|mib| mib.saturating_sub(OWN_MIB).max(OWN_MIB).to_string());
    let mut words = match mode {
        RepairMode::Check => vec!["-n"],
        // -e: its exit tells whether anything had to be mended
        RepairMode::Repair => vec!["-e"],
        RepairMode::ZeroLog => vec!["-e", "-L"],
    };
    if let Some(memory) = &memory {
        words.extend(["-m", memory]);
    }
    words.push(&path);
    Ok(Box::new(Run {
        mode,
        device: device.to_owned(),
        program: program::start(REPAIR, &words, device, !mode.writes())?,
        phase: (0, String::new()),
    }))
}

impl Repairing for Run {
    fn wait(&mut self) -> Result<RepairTurn, HostError> {
        let ended = self
            .program
            .wait(TURN)
            .map_err(|error| HostError::io("wait for xfs_repair on", &self.device, error))?;
        let said = self.program.said();
        if let Some(code) = ended {
            return Ok(RepairTurn::Ended(outcome(self.mode, code), said));
        }
        if let Some(phase) = said.lines().rev().find_map(phase) {
            self.phase = phase;
        }
        Ok(RepairTurn::Phase(self.phase.0, self.phase.1.clone()))
    }
}

/// `Phase 3 - for each AG...`
fn phase(line: &str) -> Option<(u32, String)> {
    let (number, what) = line.trim().strip_prefix("Phase ")?.split_once(" - ")?;
    let what = what.trim_end_matches('.').to_owned();
    Some((number.parse().ok()?, what))
}

/// What its exit status means (xfs_repair(8)); `None` where a signal ended it.
fn outcome(mode: RepairMode, code: Option<i32>) -> RepairOutcome {
    match (mode, code) {
        (_, Some(0)) => RepairOutcome::Clean,
        (RepairMode::Check, Some(1)) => RepairOutcome::Damaged,
        (RepairMode::Repair, Some(2)) => RepairOutcome::DirtyLog,
        (RepairMode::Repair | RepairMode::ZeroLog, Some(4)) => RepairOutcome::Repaired,
        (RepairMode::Check | RepairMode::Repair | RepairMode::ZeroLog, _) => RepairOutcome::Failed,
    }
}

/// The memory that this process and what it starts may have, where control groups limit it: beyond it all of them are killed.
fn memory_mib(groups: &Path, own: &Path) -> Option<u64> {
    let own = std::fs::read_to_string(own).ok()?;
    let files = own.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let path = path.trim_start_matches('/');
        match controllers {
            "" => Some(groups.join(path).join("memory.max")),
            "memory" => Some(
                groups
                    .join("memory")
                    .join(path)
                    .join("memory.limit_in_bytes"),
            ),
            _ => None,
        }
    });
    // In a group's own namespace it is at the top.
    let tops = ["memory.max", "memory/memory.limit_in_bytes"].map(|name| groups.join(name));
    let limits = files.chain(tops).filter_map(|file| {
        let bytes: u64 = std::fs::read_to_string(file).ok()?.trim().parse().ok()?;
        Some(bytes >> 20)
    });
    limits.min().filter(|mib| *mib < UNLIMITED_MIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_read() {
        assert_eq!(
            phase("Phase 3 - for each AG..."),
            Some((3, "for each AG".to_owned()))
        );
        for other in ["        - agno = 0", "Phase", "Phase x - y", "done"] {
            assert_eq!(phase(other), None, "{other}");
        }
    }

    #[test]
    fn ends_mean_what_the_manual_says() {
        use RepairMode::{Check, Repair, ZeroLog};
        use RepairOutcome::{Clean, Damaged, DirtyLog, Failed, Repaired};
        for (mode, code, meant) in [
            (Check, Some(0), Clean),
            (Check, Some(1), Damaged),
            (Check, Some(2), Failed),
            (Repair, Some(0), Clean),
            (Repair, Some(4), Repaired),
            (Repair, Some(2), DirtyLog),
            (Repair, Some(1), Failed),
            (ZeroLog, Some(4), Repaired),
            (ZeroLog, Some(0), Clean),
            (ZeroLog, Some(2), Failed),
            (Repair, None, Failed),
        ] {
            assert_eq!(outcome(mode, code), meant, "{mode:?} {code:?}");
        }
    }

    #[test]
    fn a_limit_of_memory_is_found_in_either_version() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        let write = |path: &str, text: &str| {
            std::fs::create_dir_all(at(path).parent().unwrap()).unwrap();
            std::fs::write(at(path), text).unwrap();
        };
        assert_eq!(memory_mib(&at("none"), &at("none")), None);
        write("v2/own", "0::/kubepods/pod1\n");
        write("v2/sys/kubepods/pod1/memory.max", "max\n");
        assert_eq!(memory_mib(&at("v2/sys"), &at("v2/own")), None);
        write("v2/sys/kubepods/pod1/memory.max", "1073741824\n");
        assert_eq!(memory_mib(&at("v2/sys"), &at("v2/own")), Some(1024));
        write("v1/own", "5:cpu:/x\n4:memory:/y\n");
        write(
            "v1/sys/memory/y/memory.limit_in_bytes",
            "9223372036854771712\n",
        );
        assert_eq!(memory_mib(&at("v1/sys"), &at("v1/own")), None);
        write("v1/sys/memory/memory.limit_in_bytes", "536870912\n");
        assert_eq!(memory_mib(&at("v1/sys"), &at("v1/own")), Some(512));
    }
}
