//! Level loop. Suspending a volume, or a drive with all volumes on it: what is mounted stays, who comes gets an empty
//! stand-in, and after the word to go on everything is as it was.

#![cfg(test)]

use std::fs;
use std::path::Path;

use tests::command::until;
use tests::machine::{LIMIT, Machine};

const MIB: u64 = 1 << 20;

fn entries(path: &Path) -> usize {
    fs::read_dir(path).unwrap().count()
}

/// Unmounts the volume and mounts it again, until what is there has so many entries: the agent hears of the word a
/// moment after it was said.
fn mounted_anew_with(machine: &Machine, path: &Path, wanted: usize) {
    let shown = path.display().to_string();
    until("what is mounted to be as was said", LIMIT, || {
        machine.ringpv(&["volumes", "unmount", "v"]).ok();
        machine.ringpv(&["volumes", "mount", "v", &shown]).ok();
        (entries(path) == wanted).then_some(())
    });
}

#[test]
fn suspended_and_resumed() {
    let Some(machine) = Machine::running("suspended_and_resumed", &[640 * MIB]) else {
        return;
    };
    machine.init_all();
    let path = machine.mounted_volume("v", "8Mi");
    fs::write(path.join("kept"), "x").unwrap();
    machine
        .ringpv(&["suspend", "volumes", "no-such-volume"])
        .refused(1, "NothingMatched");
    machine
        .ringpv(&["suspend", "drives", "--drive", "loop{9000...9001}"])
        .refused(1, "NothingMatched");
    machine
        .ringpv(&["suspend", "drives", "--all", "--dry-run"])
        .ok();
    for (what, which) in [("drives", "--all"), ("volumes", "v")] {
        machine
            .ringpv(&["suspend", what, which])
            .ok()
            .refused(0, "is now suspended");
        // What is mounted stays.
        assert_eq!(entries(&path), 1);
        mounted_anew_with(&machine, &path, 0);
        assert!(fs::write(path.join("new"), "").is_err());
        machine
            .ringpv(&["resume", what, which])
            .ok()
            .refused(0, "is now resumed");
        mounted_anew_with(&machine, &path, 1);
        assert_eq!(fs::read_to_string(path.join("kept")).unwrap(), "x");
    }
}
