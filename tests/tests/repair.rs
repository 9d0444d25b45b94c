//! Level loop. `repair`: a damaged file system is checked and mended by a person's word alone, while nobody uses it, and its
//! volumes are what they were; through a `kill -9` of the agent at any point as well.

#![cfg(test)]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use api::drive::RepairOutcome;
use api::{Drive, DrivePhase, Reason};
use kube::ResourceExt as _;
use tests::command::{program, run, until};
use tests::data;
use tests::loopdev::unmount;
use tests::machine::{LIMIT, Machine};
use tests::points::REPAIR;

const MIB: u64 = 1 << 20;

/// Does something to the device of a drive that is mounted nowhere meanwhile.
fn meddle(machine: &mut Machine, with: impl FnOnce(&Path)) {
    machine.stop_agent();
    let device = &machine.devices()[0];
    for mount in device.mounts().iter().rev() {
        unmount(mount);
    }
    with(&device.path());
    machine.start_agent();
}

/// Makes a file system inconsistent, so that it cannot be mounted.
fn damage(device: &Path) {
    let mut spoil = program("xfs_db");
    spoil
        .args(["-x", "-c", "agf 0", "-c", "write -d freeblks 1"])
        .arg(device);
    run(spoil, LIMIT).ok();
}

/// Takes its first superblock away. There are more.
fn behead(device: &Path) {
    let device = File::options().write(true).open(device).unwrap();
    device.write_all_at(&[0; 4096], 0).unwrap();
    device.sync_all().unwrap();
}

fn outcome(drive: &Drive) -> Option<RepairOutcome> {
    let status = drive.status.as_ref()?;
    status.repair.as_ref().map(|report| report.outcome)
}

fn word(drive: &Drive) -> String {
    drive.spec.device.fingerprint.to_string()
}

#[test]
fn only_by_a_persons_word_and_to_the_end() {
    let test = "only_by_a_persons_word_and_to_the_end";
    let Some(mut machine) = Machine::running(test, &[640 * MIB]) else {
        return;
    };
    machine.init_all();
    let path = machine.mounted_volume("v", "50Mi");
    data::write(&path.join("file"), 7, 40);
    let drive = machine.drive_in(0, DrivePhase::Ready);
    let id = drive.name_any();
    let repair = |machine: &Machine, more: &[&str]| {
        let words = ["repair", &id, "--timeout", "60s"];
        machine.ringpv(&[&words, more].concat())
    };

    // Not while pods may use it, not by more than its name, not without its word.
    repair(&machine, &[]).refused(1, "NotSuspended");
    repair(&machine, &["--check"]).refused(1, "NotSuspended");
    machine.ringpv(&["suspend", "drives", &id]).ok();
    machine
        .ringpv(&["repair", "--all"])
        .refused(2, "a repair takes its drives by id");
    repair(&machine, &["--check", "--zero-log"]).refused(2, "cannot be used with");
    repair(&machine, &[]).refused(1, "NotConfirmed");
    repair(&machine, &["--yes", "true"]).refused(1, "NotConfirmed");
    repair(&machine, &["--dry-run"])
        .ok()
        .refused(0, "would be repaired");
    assert_eq!(machine.drive_in(0, DrivePhase::Ready).spec.repair, None);

    // It waits for who uses it, and a person may think better of it.
    machine
        .ringpv(&["repair", &id, "--check", "--timeout", "3s"])
        .refused(3, "the repair waits until the pods");
    assert!(data::is_whole(&path.join("file"), 7, 40));
    machine.ringpv(&["resume", "drives", &id]).ok();
    assert_eq!(machine.drive_in(0, DrivePhase::Ready).spec.repair, None);
    machine.ringpv(&["volumes", "unmount", "v"]).ok();
    machine.ringpv(&["suspend", "drives", &id]).ok();

    let clean = repair(&machine, &["--check"]).ok();
    assert!(clean.stdout.contains("its file system is clean"), "{clean}");
    machine.drive_in(0, DrivePhase::Ready);

    meddle(&mut machine, damage);
    let drive = machine.drive_in(0, DrivePhase::Lost);
    let status = drive.status.clone().unwrap();
    assert_eq!(status.reason, Some(Reason::MountFailed), "{status:?}");
    repair(&machine, &["--check"]).refused(3, "is damaged; nothing was changed");
    let drive = machine.drive_in(0, DrivePhase::Lost);
    assert_eq!(outcome(&drive), Some(RepairOutcome::Damaged));
    let log = drive.status.clone().unwrap().repair.unwrap().log;
    assert!(log.contains("agf_freeblks 1, counted"), "{log}");
    repair(&machine, &["--zero-log", "--yes", &id]).refused(1, "NotConfirmed");

    let done = repair(&machine, &["--yes", &word(&drive)]).ok();
    assert!(done.stdout.contains("is repaired"), "{done}");
    assert!(done.stderr.contains("resume drives"), "{done}");
    let drive = machine.drive_in(0, DrivePhase::Ready);
    assert_eq!(outcome(&drive), Some(RepairOutcome::Repaired));
    machine.ringpv(&["resume", "drives", &id]).ok();
    mounts_again(&machine, &path);
    assert!(data::is_whole(&path.join("file"), 7, 40));
}

fn mounts_again(machine: &Machine, path: &Path) {
    let shown = path.display().to_string();
    until("the volume to be mounted, and no stand-in", LIMIT, || {
        // The first time nothing is mounted.
        drop(machine.ringpv(&["volumes", "unmount", "v"]));
        let mounted = machine.ringpv(&["volumes", "mount", "v", &shown]);
        let there = mounted.code == Some(0) && path.join("file").exists();
        there.then_some(())
    });
}

#[test]
fn a_lost_superblock_comes_back_and_what_is_not_ours_is_let_be() {
    let test = "a_lost_superblock_comes_back_and_what_is_not_ours_is_let_be";
    let Some(mut machine) = Machine::running(test, &[640 * MIB]) else {
        return;
    };
    machine.init_all();
    let path = machine.mounted_volume("v", "50Mi");
    data::write(&path.join("file"), 7, 40);
    machine.ringpv(&["volumes", "unmount", "v"]).ok();
    let drive = machine.drive_in(0, DrivePhase::Ready);
    let id = drive.name_any();
    let word = word(&drive);
    let repair =
        |machine: &Machine| machine.ringpv(&["repair", &id, "--yes", &word, "--timeout", "60s"]);
    machine.ringpv(&["suspend", "drives", &id]).ok();

    meddle(&mut machine, behead);
    machine.drive_in(0, DrivePhase::Lost);
    repair(&machine).ok();
    machine.drive_in(0, DrivePhase::Ready);

    // Somebody made a file system of their own where ours was: it is not what the word was about.
    meddle(&mut machine, |device| {
        behead(device);
        let mut make = program("mkfs.ext4");
        make.args(["-q", "-F", "-E", "nodiscard"])
            .arg(device)
            .arg("64M");
        run(make, LIMIT).ok();
    });
    machine.drive_in(0, DrivePhase::Lost);
    let before = head(&machine);
    repair(&machine).refused(3, "ext4 that is not this drive's; nothing was written");
    assert_eq!(head(&machine), before);
}

/// What the first 64 MiB hold.
fn head(machine: &Machine) -> Vec<u8> {
    let mut bytes = vec![0; 64 << 20];
    let device = File::open(machine.devices()[0].path()).unwrap();
    device.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn a_repair_goes_on_after_a_kill_at_any_point() {
    let test = "a_repair_goes_on_after_a_kill_at_any_point";
    let Some(mut machine) = Machine::running(test, &[640 * MIB]) else {
        return;
    };
    machine.init_all();
    let path = machine.mounted_volume("v", "50Mi");
    data::write(&path.join("file"), 7, 40);
    machine.ringpv(&["volumes", "unmount", "v"]).ok();
    let drive = machine.drive_in(0, DrivePhase::Ready);
    let id = drive.name_any();
    machine.ringpv(&["suspend", "drives", &id]).ok();
    for point in REPAIR {
        meddle(&mut machine, damage);
        machine.stop_agent();
        machine.agent_args = vec!["--fault-point".to_owned(), point.to_owned()];
        machine.launch_agent();
        machine.agent_args.clear();
        machine
            .ringpv(&["repair", &id, "--yes", &word(&drive), "--no-wait"])
            .ok();
        let agent = machine.agent().unwrap();
        let status = agent.ended(LIMIT);
        assert!(
            status.is_some(),
            "it never came to {point}:\n{}",
            agent.said()
        );
        machine.kill_agent();
        // What it began may be at its end only now.
        std::thread::sleep(Duration::from_millis(500));
        machine.start_agent();
        let drive = machine.drive_in(0, DrivePhase::Ready);
        let outcome = outcome(&drive);
        let well = [Some(RepairOutcome::Repaired), Some(RepairOutcome::Clean)];
        assert!(well.contains(&outcome), "{point}: {outcome:?}");
    }
    machine.ringpv(&["resume", "drives", &id]).ok();
    mounts_again(&machine, &path);
    assert!(data::is_whole(&path.join("file"), 7, 40));
}
