//! Level loop. Volumes are pointed to another drive of their node: they begin empty there, nothing is lost where they
//! were, and the way back finds it. While a pod has one mounted it stays.

#![cfg(test)]

use std::fs;

use api::{Drive, Reason, Volume};
use kube::ResourceExt as _;
use tests::command::until;
use tests::data;
use tests::machine::{LIMIT, Machine};

const MIB: u64 = 1 << 20;

fn drive_of(machine: &Machine) -> String {
    machine.volume("v").and_then(|it| it.spec.drive).unwrap()
}

#[test]
fn there_and_back() {
    let Some(machine) = Machine::running("there_and_back", &[640 * MIB, 640 * MIB]) else {
        return;
    };
    machine.init_all();
    let path = machine.mounted_volume("v", "50MiB");
    data::write(&path.join("file"), 3, 40);
    let from = drive_of(&machine);
    let drives = machine.list::<Drive>();
    let to = drives.iter().map(|it| it.name_any()).find(|it| *it != from);
    let to = to.unwrap();
    let shown = path.display().to_string();

    let there = ["move", &from, "--to", &to];
    machine.ringpv(&there).refused(1, "NotConfirmed");
    let word = ["--yes", &from, "--timeout", "3s"];
    // It is mounted, so it stays; whoever comes anew waits.
    machine
        .ringpv(&[&there[..], &word].concat())
        .refused(3, "StillPublished");
    assert_eq!(drive_of(&machine), from);
    assert!(data::is_whole(&path.join("file"), 3, 40));
    until("people to be told", LIMIT, || {
        machine.is_told("v", Reason::StillPublished).then_some(())
    });
    machine.ringpv(&["volumes", "unmount", "v"]).ok();
    until("it to be moved", LIMIT, || {
        (drive_of(&machine) == to).then_some(())
    });

    machine.ringpv(&["volumes", "mount", "v", &shown]).ok();
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0, "it begins empty");
    fs::write(path.join("new"), "new").unwrap();
    until("the data that stay to be shown", LIMIT, || {
        let status = machine.node().and_then(|node| node.status)?;
        let left = status.orphans.iter();
        let mut left = left.filter(|it| it.volume == "v" && it.drive == from);
        left.next().map(drop)
    });

    // The way back: what was there is there.
    machine.ringpv(&["volumes", "unmount", "v"]).ok();
    let back = ["move", &to, "--to", &from, "--yes", &to];
    machine.ringpv(&back).ok();
    machine.ringpv(&["volumes", "mount", "v", &shown]).ok();
    assert!(data::is_whole(&path.join("file"), 3, 40));
    assert!(!path.join("new").exists());
    assert_eq!(machine.list::<Volume>().len(), 1);
}
