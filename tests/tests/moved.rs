//! Level loop. The controller's directory is lost while pods run: the agent notices by itself, the drives move to the
//! cluster that the new directory is, with their volumes mounted throughout, and are whole after every boot from then on.

#![cfg(test)]

use api::{AccessTier, DrivePhase};
use kube::ResourceExt as _;
use tests::command::until;
use tests::data;
use tests::loopdev::{mounts, unmount};
use tests::machine::{LIMIT, Machine};

const MIB: u64 = 1 << 20;

/// A reboot, as far as mounts go.
fn power_off(machine: &mut Machine) {
    machine.kill_agent();
    for mount in mounts().iter().rev() {
        if mount.target.starts_with(machine.path("")) {
            unmount(&mount.target);
        }
    }
}

/// The cluster that the claim on the drive names.
fn claimed_by(machine: &Machine) -> Option<String> {
    let device = machine.node()?.status?.devices.into_iter().next()?;
    Some(device.holds_drive?.cluster_id)
}

/// A person says what no device can tell, and the drive's record has it.
fn say(machine: &Machine, drive: &str) {
    machine
        .ringpv(&["drives", "access-tier", "set", "cold", drive])
        .ok();
    machine.ringpv(&["label", "drives", drive, "rack=3"]).ok();
    until("the drive to know what was said of it", LIMIT, || {
        recorded(machine, drive).then_some(())
    });
}

/// Whether the drive's record has what was said.
fn recorded(machine: &Machine, drive: &str) -> bool {
    let record = machine.path(&format!("state/mnt/{drive}/.ringpv/drive.json"));
    let text = std::fs::read_to_string(record).unwrap();
    text.contains("Cold") && text.contains("rack")
}

/// Loses the directory under a running agent; the agent ends by itself and is started again, as its unit would. The old
/// and the new cluster.
fn lose_the_directory(machine: &mut Machine) -> (String, String) {
    let cluster = |machine: &Machine| machine.node().unwrap().status.unwrap().cluster_id;
    let old = cluster(machine);
    machine.stop_controller();
    std::fs::remove_dir_all(machine.path("store")).unwrap();
    machine.start_controller();
    let agent = machine.agent().unwrap();
    let ended = agent.ended(LIMIT);
    assert!(
        ended.is_some_and(|status| status.success()),
        "{ended:?}:\n{}",
        agent.said()
    );
    machine.kill_agent();
    machine.start_agent();
    let new = cluster(machine);
    assert_ne!(old, new);
    (old, new)
}

#[test]
fn drives_in_use_move_when_the_directory_is_lost() {
    let Some(mut machine) = Machine::running(
        "drives_in_use_move_when_the_directory_is_lost",
        &[640 * MIB],
    ) else {
        return;
    };
    machine.init_all();
    let file = machine.mounted_volume("kept", "50MiB").join("file");
    data::write(&file, 5, 50);
    let drive = machine.drive(0).unwrap().name_any();
    say(&machine, &drive);

    let (old, new) = lose_the_directory(&mut machine);
    assert!(data::is_whole(&file, 5, 50));
    until("the drive to be found", LIMIT, || claimed_by(&machine));
    machine
        .ringpv(&["adopt", "--all", "--from-cluster", &old])
        .ok();
    let adopted = machine.drive_in(0, DrivePhase::Ready);
    assert_eq!(adopted.name_any(), drive);
    assert_eq!(adopted.spec.access_tier, AccessTier::Cold);
    assert_eq!(adopted.labels().get("rack").map(String::as_str), Some("3"));
    assert!(recorded(&machine, &drive), "the record is as it was");
    until("the volume to be known", LIMIT, || machine.volume("kept"));
    // What is mounted is left mounted, so the claim waits.
    assert_eq!(claimed_by(&machine).unwrap(), old);
    assert!(data::is_whole(&file, 5, 50));

    machine.stop_controller();
    power_off(&mut machine);
    assert!(!file.exists());
    machine.launch_agent();
    machine
        .ringpv(&["volumes", "mount", "--all", "--timeout", "60s"])
        .ok();
    assert!(data::is_whole(&file, 5, 50), "without the API");
    machine.start_controller();
    machine.drive_in(0, DrivePhase::Ready);

    machine.ringpv(&["volumes", "unmount", "kept"]).ok();
    until("the claim to follow", LIMIT, || {
        (claimed_by(&machine)? == new).then_some(())
    });
    power_off(&mut machine);
    machine.start_agent();
    machine.drive_in(0, DrivePhase::Ready);
    let path = machine.path("mnt-kept").display().to_string();
    machine.ringpv(&["volumes", "mount", "kept", &path]).ok();
    assert!(data::is_whole(&file, 5, 50), "with the API");
}
