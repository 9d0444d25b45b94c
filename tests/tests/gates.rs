//! Level loop. What stands between a device and its erasing: the gate that it must pass, and whoever else uses it. A
//! device that is refused is as it was, but for what the design says is written before.

#![cfg(test)]

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::thread;
use std::time::Duration;

use api::drive::Step;
use api::{Drive, DrivePhase, Reason};
use nix::libc;
use tests::command::{program, run, until};
use tests::data;
use tests::machine::{LIMIT, Machine};

const MIB: u64 = 1 << 20;

/// Exit codes of the command line.
const REFUSED: i32 = 1;
const FAILED: i32 = 3;

/// Writes drives.yaml with a gate for every drive.
fn discover_gated(machine: &Machine, gate: &str) {
    machine.discover();
    let file = fs::read_to_string(machine.path("drives.yaml")).unwrap();
    let gated = file.replace("    id: ", &format!("    gate: {gate}\n    id: "));
    assert_ne!(gated, file);
    machine.write("drives.yaml", &gated);
}

#[test]
fn a_drive_that_passes_its_gate_shows_what_it_showed() {
    let Some(machine) = Machine::running(
        "a_drive_that_passes_its_gate_shows_what_it_showed",
        &[640 * MIB],
    ) else {
        return;
    };
    discover_gated(
        &machine,
        "{readLatencyP99Max: 30s, readIopsMin: 1, writeMin: 1Ki}",
    );
    machine.ringpv(&["init", "drives.yaml"]).ok();
    let drive = machine.drive_in(0, DrivePhase::Ready);
    let gate = drive.spec.gate.unwrap();
    assert_eq!(gate.read_latency_p99_ns_max, Some(30_000_000_000));
    let read = drive.status.as_ref().unwrap().latency.clone().unwrap().read;
    let read = read.unwrap();
    assert!(read.count > 0 && read.p99_ns > 0, "{read:?}");
    let said = machine.ringpv(&["list", "drives", "-o", "wide"]).ok();
    tests::tell(&said.to_string());
    let file = machine.mounted_volume("v", "50MiB").join("file");
    data::write(&file, 31, 20);
    assert!(data::is_whole(&file, 31, 20));
}

#[test]
fn a_drive_that_fails_its_gate_is_not_erased_and_may_try_another() {
    let Some(machine) = Machine::running(
        "a_drive_that_fails_its_gate_is_not_erased_and_may_try_another",
        &[640 * MIB],
    ) else {
        return;
    };
    // No signature, so the device is blank to discovery; not one of the places that a gate writes to, either.
    let (mark, at) = (*b"somebody's bytes", 37 * MIB);
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open(machine.devices()[0].path())
        .unwrap();
    device.write_all_at(&mark, at).unwrap();
    device.sync_all().unwrap();
    discover_gated(
        &machine,
        "{readIopsMin: 4000000000, readLatencyP99Max: 1ns}",
    );
    let outcome = machine
        .ringpv(&["init", "drives.yaml"])
        .refused(FAILED, "GateFailed");
    for words in [
        "at most 1 ns is asked for",
        "at least 4000000000 are asked for",
        "ease the gate",
    ] {
        let said = format!("{}{}", outcome.stdout, outcome.stderr);
        assert!(said.contains(words), "{words:?} is not in {outcome}");
    }
    let drive = machine.drive_in(0, DrivePhase::Failed);
    let status = drive.status.clone().unwrap();
    assert_eq!(status.reason, Some(Reason::GateFailed));
    assert!(
        status.erased.is_none() && status.capacity.is_none(),
        "{status:?}"
    );
    assert_eq!(status.progress.map_or(Step::Gate, |p| p.step), Step::Gate);
    let kept = |why: &str| {
        let mut bytes = [0; 16];
        fs::File::open(machine.devices()[0].path())
            .unwrap()
            .read_exact_at(&mut bytes, at)
            .unwrap();
        assert_eq!(bytes, mark, "{why}");
    };
    kept("a gate alone erases nothing");
    // The same again fails again.
    machine
        .ringpv(&["init", "drives.yaml"])
        .refused(FAILED, "GateFailed");
    kept("nothing was erased by asking again");

    let file = fs::read_to_string(machine.path("drives.yaml")).unwrap();
    let eased = file.replace(
        "{readIopsMin: 4000000000, readLatencyP99Max: 1ns}",
        "{readIopsMin: 1}",
    );
    assert_ne!(eased, file);
    machine.write("drives.yaml", &eased);
    machine.ringpv(&["init", "drives.yaml"]).ok();
    let ready = machine.drive_in(0, DrivePhase::Ready);
    assert_eq!(ready.metadata.uid, drive.metadata.uid);
    let gate = ready.spec.gate.unwrap();
    assert_eq!(
        (gate.read_iops_min, gate.read_latency_p99_ns_max),
        (Some(1), None)
    );
}

/// Who is told to use another drive may put his data on this one; neither a start of the agent nor another gate takes
/// them for what was named.
#[test]
fn what_is_put_on_a_device_after_its_gate_failed_stays() {
    let Some(mut machine) = Machine::running(
        "what_is_put_on_a_device_after_its_gate_failed_stays",
        &[640 * MIB],
    ) else {
        return;
    };
    let strict = "{readIopsMin: 4000000000}";
    discover_gated(&machine, strict);
    machine
        .ringpv(&["init", "drives.yaml"])
        .refused(FAILED, "GateFailed");
    let mut mkfs = program("mkfs.ext4");
    // Without discarding, which would take the claim along: the harder case.
    mkfs.args(["-q", "-E", "nodiscard", "-L", "photos"])
        .arg(machine.devices()[0].path());
    run(mkfs, LIMIT).ok();
    let before = machine.devices()[0].checksum();
    let refused = |machine: &Machine| {
        until("the drive to be refused", LIMIT, || {
            let drive = machine.list::<Drive>().pop()?;
            let status = drive.status?;
            let changed = status.reason == Some(Reason::FingerprintChanged);
            changed.then_some(status.message)
        })
    };
    refused(&machine);
    machine.kill_agent();
    machine.start_agent();
    // What the first agent saw may have been mkfs at work; what this one sees is its work.
    until("the refusal to name what is there", LIMIT, || {
        refused(&machine).contains("photos").then_some(())
    });
    let file = fs::read_to_string(machine.path("drives.yaml")).unwrap();
    machine.write("drives.yaml", &file.replace(strict, "{readIopsMin: 1}"));
    machine
        .ringpv(&["init", "drives.yaml"])
        .refused(FAILED, "FingerprintChanged");
    assert_eq!(machine.devices()[0].checksum(), before);
}

/// The word to wait is given while the gate runs: what comes next, the first MiB of erasing, is not done.
#[test]
fn a_word_that_comes_before_the_first_piece_is_heard() {
    let test = "a_word_that_comes_before_the_first_piece_is_heard";
    let Some(machine) = Machine::running(test, &[640 * MIB]) else {
        return;
    };
    let open = || {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        options.open(machine.devices()[0].path()).unwrap()
    };
    open().write_all_at(&[7; 16], MIB * 3 / 4).unwrap();
    discover_gated(&machine, "{readIopsMin: 1}");
    machine.ringpv(&["init", "drives.yaml", "--no-wait"]).ok();
    until("the gate to run", LIMIT, || {
        let progress = machine.drive(0)?.status?.progress?;
        (progress.step == Step::Gate).then_some(())
    });
    machine.ringpv(&["suspend", "drives", "--all"]).ok();
    let status = until("the drive to rest", LIMIT, || {
        let status = machine.drive(0)?.status?;
        (status.reason == Some(Reason::Suspended)).then_some(status)
    });
    assert!(status.latency.is_none(), "the gate was not waited for");
    let mut bytes = [0; 16];
    open().read_exact_at(&mut bytes, MIB * 3 / 4).unwrap();
    // What was there before, or what the gate wrote.
    assert_ne!(bytes, [0; 16], "something is there still");
    machine.ringpv(&["resume", "drives", "--all"]).ok();
    machine.drive_in(0, DrivePhase::Ready);
}

#[test]
fn a_device_that_is_held_for_a_moment_is_waited_for() {
    let Some(machine) = Machine::running(
        "a_device_that_is_held_for_a_moment_is_waited_for",
        &[640 * MIB],
    ) else {
        return;
    };
    machine.discover();
    let holder = hold(&machine);
    let release = thread::spawn(move || {
        thread::sleep(Duration::from_millis(1200));
        drop(holder);
    });
    machine.ringpv(&["init", "drives.yaml"]).ok();
    release.join().unwrap();
}

/// As a tool does that looks for its own on a device.
fn hold(machine: &Machine) -> File {
    let mut options = OpenOptions::new();
    let exclusive = options.read(true).custom_flags(libc::O_EXCL);
    exclusive.open(machine.devices()[0].path()).unwrap()
}

#[test]
fn a_device_that_somebody_holds_is_not_written() {
    let Some(machine) =
        Machine::running("a_device_that_somebody_holds_is_not_written", &[640 * MIB])
    else {
        return;
    };
    machine.discover();
    let before = machine.devices()[0].checksum();
    let holder = hold(&machine);
    let outcome = machine
        .ringpv(&["init", "drives.yaml", "--timeout", "5s"])
        .refused(FAILED, "OpenedByOther");
    assert!(outcome.to_string().contains("lsof"), "{outcome}");
    let drive = machine.drive_in(0, DrivePhase::Failed);
    assert_eq!(drive.status.unwrap().reason, Some(Reason::OpenedByOther));
    assert_eq!(machine.devices()[0].checksum(), before);
    // Once he lets go, it goes on by itself.
    drop(holder);
    machine.drive_in(0, DrivePhase::Ready);
}

#[test]
fn a_device_that_was_mounted_since_discover_is_not_written() {
    let Some(machine) = Machine::running(
        "a_device_that_was_mounted_since_discover_is_not_written",
        &[640 * MIB],
    ) else {
        return;
    };
    let device = machine.devices()[0].path();
    let mut mkfs = program("mkfs.ext4");
    mkfs.args(["-q", "-L", "precious"]).arg(&device);
    run(mkfs, LIMIT).ok();
    machine.discovered_with(0, Reason::HoldsData);
    machine.discover();
    let file = fs::read_to_string(machine.path("drives.yaml")).unwrap();
    machine.write("drives.yaml", &file.replace("select: no", "select: yes"));
    let word = machine.discovered(0).fingerprint.to_string();
    let place = machine.path("elsewhere");
    fs::create_dir(&place).unwrap();
    let mut mount = program("mount");
    mount.arg(&device).arg(&place);
    run(mount, LIMIT).ok();
    data::write(&place.join("file"), 32, 20);
    // With every word given: who destroys this file system does not know that it is in use.
    let words = ["init", "drives.yaml", "--dangerous", "--yes", &word];
    let outcome = machine.ringpv(&words);
    assert!(matches!(outcome.code, Some(REFUSED | FAILED)), "{outcome}");
    let said = format!("{}{}", outcome.stdout, outcome.stderr);
    assert!(said.contains("Mounted"), "{outcome}");
    assert!(said.contains("unmount it"), "{outcome}");
    assert!(data::is_whole(&place.join("file"), 32, 20));
    let mut label = [0; 8];
    let bytes = fs::File::open(&device).unwrap();
    bytes.read_exact_at(&mut label, 1024 + 0x78).unwrap();
    assert_eq!(&label, b"precious");
    assert!(
        machine
            .list::<Drive>()
            .iter()
            .all(|drive| drive.status.as_ref().is_none_or(|s| s.capacity.is_none()))
    );
}
