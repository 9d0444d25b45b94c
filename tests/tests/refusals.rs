//! Level loop. Bad input and faults: each gets one clear sentence with what to do, the right exit or gRPC code, and
//! nothing is lost by it.

#![cfg(test)]

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use api::storage_node::{DeviceVerdict, IoBackendName};
use api::{Drive, DrivePhase, Reason};
use kube::ResourceExt as _;
use tests::command::{program, run};
use tests::data;
use tests::loopdev::LoopDevice;
use tests::machine::{CLASS, LIMIT, Machine};
use tonic::Code;

const MIB: u64 = 1 << 20;

/// Exit codes of the command line.
const REFUSED: i32 = 1;
const USAGE: i32 = 2;
const FAILED: i32 = 3;

fn shell(script: &str) {
    let mut command = program("sh");
    command.args(["-c", script]);
    run(command, Duration::from_secs(60)).ok();
}

#[test]
fn a_drives_yaml_edited_into_nonsense() {
    let Some(machine) = Machine::running("a_drives_yaml_edited_into_nonsense", &[640 * MIB]) else {
        return;
    };
    machine.discover();
    let file = fs::read_to_string(machine.path("drives.yaml")).unwrap();
    let selected = "select: yes";
    assert!(file.contains(selected), "{file}");
    for (name, edited) in [
        ("no YAML", "drives: [".to_owned()),
        (
            "a field that is none",
            file.replace(selected, "select: yes\n    sellect: yes"),
        ),
        (
            "a tier that is none",
            file.replace("accessTier: ", "accessTier: blazing #"),
        ),
        (
            "a fingerprint that is none",
            file.replace("fingerprint: ", "fingerprint: nonsense #"),
        ),
        ("another version", file.replace("v1alpha1", "v9")),
    ] {
        machine.write("edited.yaml", &edited);
        let outcome = machine.ringpv(&["init", "edited.yaml"]);
        assert!(
            matches!(outcome.code, Some(REFUSED | USAGE)),
            "{name}: {outcome}"
        );
        assert!(outcome.stderr.contains("edited.yaml"), "{name}: {outcome}");
        assert!(machine.list::<Drive>().is_empty(), "{name}");
    }
}

#[test]
fn words_that_are_wrong() {
    let Some(machine) = Machine::running("words_that_are_wrong", &[640 * MIB]) else {
        return;
    };
    machine.init_all();
    machine
        .ringpv(&["volumes", "create", "v", "--size", "10X"])
        .refused(USAGE, "10X");
    machine
        .ringpv(&["volumes", "create", "v", "--size", "0"])
        .refused(USAGE, "0");
    machine.write(
        "class.yaml",
        &CLASS.replace("parameters:", "parameters:\n  access-tier: blazing"),
    );
    machine
        .ringpv(&[
            "volumes",
            "create",
            "v",
            "--size",
            "1Mi",
            "--class",
            "class.yaml",
        ])
        .refused(REFUSED, "blazing");
    machine.write(
        "class.yaml",
        &CLASS.replace("parameters:", "parameters:\n  acess-tier: hot"),
    );
    machine
        .ringpv(&[
            "volumes",
            "create",
            "v",
            "--size",
            "1Mi",
            "--class",
            "class.yaml",
        ])
        .refused(REFUSED, "acess-tier");
    machine
        .ringpv(&["drives", "access-tier", "set", "blazing", "--all"])
        .refused(USAGE, "blazing");
    machine.ringpv(&["nonsense"]).refused(USAGE, "nonsense");
    machine
        .ringpv(&["remove", "no-such-drive"])
        .refused(REFUSED, "no-such-drive");
    assert!(machine.list::<api::Volume>().is_empty());
}

#[test]
fn codes_of_calls_that_cannot_be() {
    let Some(machine) = Machine::running("codes_of_calls_that_cannot_be", &[640 * MIB]) else {
        return;
    };
    let csi = machine.controller_csi();
    let class = BTreeMap::from([("capacity-enforcement", "best-effort")]);
    let code = |name: &str, bytes: i64, class: &BTreeMap<&str, &str>| {
        let answer = machine.runtime.block_on(csi.create(name, bytes, class));
        answer.map(|_| ()).map_err(|status| status.code())
    };
    assert_eq!(
        code("no-drives", 1 << 20, &class),
        Err(Code::ResourceExhausted)
    );
    machine.init_all();
    assert_eq!(code("", 1 << 20, &class), Err(Code::InvalidArgument));
    assert_eq!(code("negative", -1, &class), Err(Code::InvalidArgument));
    assert_eq!(
        code("too-large", 1 << 40, &class),
        Err(Code::ResourceExhausted)
    );
    let unknown = BTreeMap::from([("access-tier", "blazing")]);
    assert_eq!(
        code("unknown-tier", 1 << 20, &unknown),
        Err(Code::InvalidArgument)
    );
    assert_eq!(code("here", 1 << 20, &class), Ok(()));
    assert_eq!(code("here", 1 << 20, &class), Ok(()), "the same again");
    assert_eq!(code("here", 2 << 20, &class), Err(Code::AlreadyExists));
    let agent = machine.agent_csi();
    let stage = |id: &str| {
        let staging = machine.path("staging");
        machine
            .runtime
            .block_on(agent.stage(id, &staging))
            .map_err(|status| status.code())
    };
    assert_eq!(stage("no-such-volume"), Err(Code::NotFound));
    assert_eq!(stage(""), Err(Code::InvalidArgument));
    assert_eq!(
        machine
            .runtime
            .block_on(csi.delete("no-such-volume"))
            .map_err(|s| s.code()),
        Ok(())
    );
}

#[test]
fn a_device_that_changed_after_discover_is_left_alone() {
    let Some(machine) = Machine::running(
        "a_device_that_changed_after_discover_is_left_alone",
        &[640 * MIB],
    ) else {
        return;
    };
    machine.discover();
    shell(&format!(
        "mkfs.ext4 -q -L precious {}",
        machine.devices()[0].path().display()
    ));
    let outcome = machine.ringpv(&["init", "drives.yaml"]);
    let outcome = outcome.refused(FAILED, "FingerprintChanged");
    let label =
        fs::read(machine.devices()[0].path()).map(|bytes| bytes[1024 + 0x78..1024 + 0x80].to_vec());
    assert_eq!(label.unwrap(), b"precious", "{outcome}");
}

#[test]
fn data_go_only_with_the_word_and_the_fingerprint() {
    let Some(machine) = Machine::new(
        "data_go_only_with_the_word_and_the_fingerprint",
        &[640 * MIB],
    ) else {
        return;
    };
    let mut machine = machine;
    shell(&format!(
        "mkfs.ext4 -q -L precious {}",
        machine.devices()[0].path().display()
    ));
    machine.start_controller();
    machine.start_agent();
    machine.discover();
    let file = fs::read_to_string(machine.path("drives.yaml")).unwrap();
    machine.write("drives.yaml", &file.replace("select: no", "select: yes"));
    let outcome = machine.ringpv(&["init", "drives.yaml"]);
    assert_eq!(outcome.code, Some(REFUSED), "{outcome}");
    let outcome = machine.ringpv(&["init", "drives.yaml", "--dangerous"]);
    assert_eq!(outcome.code, Some(REFUSED), "nobody confirms: {outcome}");
    let outcome = machine.ringpv(&["init", "drives.yaml", "--dangerous", "--yes", "wrong/word"]);
    assert_eq!(outcome.code, Some(REFUSED), "{outcome}");
    assert!(machine.reasons(0).contains(&Reason::HoldsData));
    let word = machine.discovered(0).fingerprint.to_string();
    machine
        .ringpv(&["init", "drives.yaml", "--dangerous", "--yes", &word])
        .ok();
    machine.drive_in(0, DrivePhase::Ready);
}

#[test]
fn devices_that_somebody_uses_are_denied() {
    let Some(mut machine) = Machine::new(
        "devices_that_somebody_uses_are_denied",
        &[640 * MIB, 640 * MIB, 640 * MIB, 100 * MIB],
    ) else {
        return;
    };
    let path = |index: usize| machine.devices()[index].path().display().to_string();
    let mounted = machine.path("elsewhere");
    fs::create_dir(&mounted).unwrap();
    shell(&format!(
        "mkfs.ext4 -q {0} && mount {0} {1}",
        path(0),
        mounted.display()
    ));
    // Some kernels read no partition tables; partx tells them.
    shell(&format!(
        "echo ',,L' | sfdisk -q {0} && partx --update {0}",
        path(1)
    ));
    shell(&format!("mkswap -q {}", path(2)));
    let swapped = {
        let mut swapon = program("swapon");
        swapon.arg(path(2));
        run(swapon, LIMIT).code == Some(0)
    };
    // The kernel lets others hold what a loop device stands on.
    let upon = LoopDevice::attach(&machine.devices()[3].path());
    machine.start_controller();
    machine.start_agent();
    machine.discovered_with(0, Reason::Mounted);
    machine.discovered_with(1, Reason::Partitioned);
    machine.discovered_with(3, Reason::TooSmall);
    machine.discovered_with(3, Reason::HeldByOther);
    let (told, message) = (machine.discovered(3), format!("{} on it", upon.name()));
    assert!(
        told.reasons.iter().any(|one| one.message == message),
        "{told:?}"
    );
    if swapped {
        machine.discovered_with(2, Reason::SwapInUse);
        shell(&format!(
            "swapoff {}",
            machine.devices()[2].path().display()
        ));
    }
    for index in [0, 1, 3] {
        assert_eq!(machine.discovered(index).verdict, DeviceVerdict::Denied);
    }
    let said = machine
        .ringpv(&["discover", "--all", "--overwrite"])
        .ok()
        .stdout;
    for word in ["Mounted", "Partitioned", "TooSmall"] {
        assert!(said.contains(word), "{word} is not in {said}");
    }
}

#[test]
fn two_devices_with_one_drive_are_both_refused() {
    let Some(mut machine) =
        Machine::running("two_devices_with_one_drive_are_both_refused", &[640 * MIB])
    else {
        return;
    };
    machine.init_all();
    let file = machine.mounted_volume("kept", "50MiB").join("file");
    data::write(&file, 11, 20);
    machine.ringpv(&["volumes", "unmount", "kept"]).ok();
    machine.stop_agent();
    for target in machine.devices()[0].mounts().iter().rev() {
        tests::loopdev::unmount(target);
    }
    let copy = machine.path("copy.img");
    fs::copy(machine.devices()[0].file(), &copy).unwrap();
    machine.add_device_on(&copy);
    machine.start_agent();
    machine.discovered_with(0, Reason::DuplicateDriveId);
    machine.discovered_with(1, Reason::DuplicateDriveId);
    assert!(
        machine
            .devices()
            .iter()
            .all(|device| device.mounts().is_empty())
    );
    machine.stop_agent();
    machine.remove_device(1);
    machine.start_agent();
    machine.drive_in(0, DrivePhase::Ready);
    let path = machine.path("mnt-kept").display().to_string();
    machine.ringpv(&["volumes", "mount", "kept", &path]).ok();
    assert!(data::is_whole(&file, 11, 20));
}

#[test]
fn a_full_drive_takes_no_more() {
    let Some(machine) = Machine::running("a_full_drive_takes_no_more", &[640 * MIB]) else {
        return;
    };
    machine.init_all();
    machine.create_volume("most", "500MiB").ok();
    machine
        .create_volume("more", "200MiB")
        .refused(REFUSED, "NoFit: no drive takes 200 MiB");
    machine.create_volume("less", "10MiB").ok();
}

#[test]
fn without_mkfs_nothing_is_written() {
    let Some(mut machine) = Machine::new("without_mkfs_nothing_is_written", &[640 * MIB]) else {
        return;
    };
    // A name space of its own for the agent, in which mkfs.xfs is covered by an empty, unexecutable nothing.
    let hide = "d=$(dirname $(command -v mkfs.xfs)); mkdir -p $0/up $0/work && mknod $0/up/mkfs.xfs c 0 0 && \
                mount -t overlay overlay -o lowerdir=$d,upperdir=$0/up,workdir=$0/work $d && exec \"$@\"";
    machine.write("hide.sh", hide);
    let area = machine.path("hidden");
    fs::create_dir(&area).unwrap();
    let mut probe = program("unshare");
    probe.args(["-m", "sh", "-c", hide]).arg(&area).arg("true");
    if run(probe, LIMIT).code != Some(0) {
        return tests::skip(
            "without_mkfs_nothing_is_written",
            "the kernel has no overlay file system",
        );
    }
    fs::remove_dir_all(&area).unwrap();
    fs::create_dir(&area).unwrap();
    machine.agent_within = ["unshare", "-m", "sh", "-c", hide].map(Into::into).to_vec();
    machine.agent_within.push(area);
    machine.start_controller();
    machine.start_agent();
    machine.discover();
    machine
        .ringpv(&["init", "drives.yaml"])
        .refused(FAILED, "MkfsMissing");
    let drive = machine.drive_in(0, DrivePhase::Failed);
    assert_eq!(drive.status.unwrap().reason, Some(Reason::MkfsMissing));
    machine.stop_agent();
    machine.agent_within.clear();
    machine.start_agent();
    machine.drive_in(0, DrivePhase::Ready);
}

#[test]
fn io_uring_refused_is_said_and_done_without() {
    let Some(mut machine) = Machine::new("io_uring_refused_is_said_and_done_without", &[640 * MIB])
    else {
        return;
    };
    let sandbox = tests::tree::root().join("tests/without-uring");
    let mut probe = program(&sandbox);
    probe.arg("true");
    let probed = run(probe, LIMIT);
    if probed.code != Some(0) {
        return tests::skip("io_uring_refused_is_said_and_done_without", &probed.stderr);
    }
    machine.agent_within = vec![sandbox];
    machine.start_controller();
    machine.start_agent();
    let backend = machine.node().unwrap().status.unwrap().io_backend;
    assert_eq!(
        (backend.name, backend.reason),
        (IoBackendName::Threads, Reason::UringRefused)
    );
    machine.init_all();
    let file = machine.mounted_volume("v", "50MiB").join("file");
    data::write(&file, 12, 20);
    assert!(data::is_whole(&file, 12, 20));
}

#[test]
fn loop_devices_need_their_flag() {
    let Some(mut machine) = Machine::new("loop_devices_need_their_flag", &[640 * MIB]) else {
        return;
    };
    machine.loops_allowed = false;
    machine.start_controller();
    machine.start_agent();
    machine.discovered_with(0, Reason::LoopNotAllowed);
}

#[test]
fn a_drive_of_another_cluster_is_shown_and_left_alone() {
    let Some(mut machine) = Machine::running(
        "a_drive_of_another_cluster_is_shown_and_left_alone",
        &[640 * MIB],
    ) else {
        return;
    };
    machine.init_all();
    let file = machine.mounted_volume("kept", "50MiB").join("file");
    data::write(&file, 13, 20);
    machine.ringpv(&["volumes", "unmount", "kept"]).ok();
    let id = machine.drive(0).unwrap().name_any();
    machine.stop_agent();
    for target in machine.devices()[0].mounts().iter().rev() {
        tests::loopdev::unmount(target);
    }
    let before = machine.devices()[0].checksum();
    let image = machine.devices()[0].file().to_owned();
    let Some(mut other) = Machine::new("a_drive_of_another_cluster_is_shown_and_left_alone", &[])
    else {
        return;
    };
    machine.remove_device(0);
    other.add_device_on(&image);
    other.start_controller();
    other.start_agent();
    other.discovered_with(0, Reason::ForeignCluster);
    assert_eq!(other.discovered(0).holds_drive.unwrap().id, id);
    assert_ne!(other.ringpv(&["adopt", "--all"]).code, Some(0));
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(
        other.devices()[0].checksum(),
        before,
        "not a byte of it changed"
    );
}
