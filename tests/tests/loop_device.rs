//! Level loop. The whole job on real loop devices with the real processes, as a person would do it: probe, init, mount,
//! place, hold data, grow, delete, give back; across restarts, a lost store, and objects deleted by plain means.

#![cfg(test)]

use std::time::Duration;

use api::storage_node::DeviceVerdict;
use api::{Benchmark, Drive, DrivePhase, Reason, StorageNode, Volume};
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams};
use tests::command::{program, run, until};
use tests::conformance::kubectl;
use tests::data;
use tests::loopdev::mounts;
use tests::machine::{LIMIT, Machine};

const MIB: u64 = 1 << 20;

#[test]
fn from_bare_devices_to_data_and_back() {
    let Some(machine) = Machine::running(
        "from_bare_devices_to_data_and_back",
        &[1024 * MIB, 640 * MIB],
    ) else {
        return;
    };
    assert_eq!(machine.discovered(0).verdict, DeviceVerdict::Eligible);
    machine.init_all();
    let drive = machine.drive_in(0, DrivePhase::Ready);
    assert_eq!(machine.devices()[0].mounts().len(), 1);
    let allocatable = drive.status.unwrap().capacity.unwrap().allocatable_bytes;
    assert!(
        (850 * MIB..1024 * MIB).contains(&allocatable),
        "{allocatable}"
    );

    let path = machine.mounted_volume("data", "200MiB");
    data::write(&path.join("file"), 1, 100);
    let volume = machine.volume("data").unwrap();
    assert_eq!(volume.spec.capacity_bytes, 200 * MIB);
    machine.ringpv(&["explain", "data"]).ok();

    machine
        .ringpv(&["volumes", "expand", "data", "300MiB"])
        .ok();
    until("the volume to grow", LIMIT, || {
        let status = machine.volume("data")?.status?;
        (status.capacity_bytes == Some(300 * MIB)).then_some(())
    });
    assert!(data::is_whole(&path.join("file"), 1, 100));

    machine.ringpv(&["volumes", "unmount", "data"]).ok();
    machine
        .ringpv(&["volumes", "delete", "data", "--yes", "data"])
        .ok();
    until("the volume to be gone", LIMIT, || {
        machine.volume("data").is_none().then_some(())
    });
    until("its bytes to be given back", LIMIT, || {
        let used = machine.list::<Drive>().iter().map(used_bytes).sum::<u64>();
        (used < 200 * MIB).then_some(())
    });

    for drive in machine.list::<Drive>() {
        machine.ringpv(&["remove", &drive.name_any()]).ok();
    }
    until("the drives to be let go", LIMIT, || {
        machine.list::<Drive>().is_empty().then_some(())
    });
    for device in machine.devices() {
        assert!(
            device.mounts().is_empty(),
            "{} is still mounted",
            device.name()
        );
    }
}

fn used_bytes(drive: &Drive) -> u64 {
    let capacity = drive.status.as_ref().and_then(|status| status.capacity);
    capacity.map_or(0, |capacity| capacity.used_bytes)
}

#[test]
fn data_stay_mounted_across_restarts() {
    let Some(mut machine) = Machine::running("data_stay_mounted_across_restarts", &[640 * MIB])
    else {
        return;
    };
    machine.init_all();
    let path = machine.mounted_volume("kept", "100MiB");
    data::write(&path.join("file"), 2, 50);
    machine.stop_agent();
    assert!(
        data::is_whole(&path.join("file"), 2, 50),
        "a stopped agent takes nothing away"
    );
    machine.stop_controller();
    machine.start_controller();
    machine.start_agent();
    machine.drive_in(0, DrivePhase::Ready);
    data::write(&path.join("more"), 3, 50);

    // After a reboot the table brings them back.
    machine.kill_agent();
    unmount_all(&machine);
    machine.start_agent();
    machine.drive_in(0, DrivePhase::Ready);
    machine.ringpv(&["volumes", "mount", "--all"]).ok();
    assert!(data::is_whole(&path.join("file"), 2, 50));
    assert!(data::is_whole(&path.join("more"), 3, 50));
}

/// A reboot, as far as mounts go: all that is mounted in the machine's folder is gone.
fn unmount_all(machine: &Machine) {
    for mount in mounts()
        .iter()
        .rev()
        .filter(|mount| mount.target.starts_with(machine.path("")))
    {
        tests::loopdev::unmount(&mount.target);
    }
}

#[test]
fn a_boot_without_the_api_brings_the_data_back() {
    let Some(mut machine) = Machine::running(
        "a_boot_without_the_api_brings_the_data_back",
        &[640 * MIB, 640 * MIB],
    ) else {
        return;
    };
    machine.init_all();
    let path = machine.mounted_volume("kept", "100MiB");
    data::write(&path.join("file"), 6, 50);
    // Once the controller only does not answer; once its directory is lost, the kubeconfig with it.
    for lost in [false, true] {
        machine.kill_controller();
        machine.kill_agent();
        unmount_all(&machine);
        assert!(!path.join("file").exists());
        if lost {
            std::fs::rename(machine.path("store"), machine.path("store.lost")).unwrap();
        }
        machine.launch_agent();
        machine
            .ringpv(&["volumes", "mount", "--all", "--timeout", "60s"])
            .ok();
        assert!(data::is_whole(&path.join("file"), 6, 50), "lost: {lost}");
        if lost {
            std::fs::rename(machine.path("store.lost"), machine.path("store")).unwrap();
        }
        machine.start_controller();
        machine.drive_in(0, DrivePhase::Ready);
        machine.drive_in(1, DrivePhase::Ready);
        until("the agent to know the API", LIMIT, || {
            let status = machine.volume("kept")?.status?;
            (status.phase == api::VolumePhase::Published).then_some(())
        });
        let agent = machine.agent().unwrap();
        assert!(agent.runs(), "it waited for the API:\n{}", agent.said());
    }
}

/// Waits until discovery tells that the first device bears a drive without an object.
fn await_adoptable(machine: &Machine) {
    machine.discovered_with(0, Reason::Adoptable);
}

#[test]
fn a_lost_store_is_rebuilt_from_the_drives() {
    let Some(mut machine) = Machine::running(
        "a_lost_store_is_rebuilt_from_the_drives",
        &[640 * MIB, 640 * MIB],
    ) else {
        return;
    };
    machine.init_all();
    let path = machine.mounted_volume("kept", "100MiB");
    data::write(&path.join("file"), 4, 50);
    let before = machine.volume("kept").unwrap().spec;
    let drive = machine.drive(0).unwrap().name_any();
    machine
        .ringpv(&["drives", "access-tier", "set", "cold", &drive])
        .ok();
    machine.ringpv(&["label", "drives", &drive, "rack=3"]).ok();
    let record = machine.path(&format!("state/mnt/{drive}/.ringpv/drive.json"));
    until("the drive to know what was said of it", LIMIT, || {
        let text = std::fs::read_to_string(&record).unwrap();
        (text.contains("Cold") && text.contains("rack")).then_some(())
    });
    machine.stop_agent();
    machine.stop_controller();
    std::fs::remove_file(machine.path("store/store.redb")).unwrap();
    machine.start_controller();
    machine.start_agent();
    assert!(machine.list::<Drive>().is_empty());
    assert!(
        data::is_whole(&path.join("file"), 4, 50),
        "mounted data need no object"
    );
    await_adoptable(&machine);

    machine.ringpv(&["adopt", "--all"]).ok();
    let adopted = machine.drive_in(0, DrivePhase::Ready);
    assert_eq!(adopted.spec.access_tier, api::AccessTier::Cold);
    assert_eq!(adopted.labels().get("rack").map(String::as_str), Some("3"));
    machine.drive_in(1, DrivePhase::Ready);
    let after = until("the volume to be known again", LIMIT, || {
        machine.volume("kept")
    })
    .spec;
    assert_eq!(
        (after.drive, after.capacity_bytes),
        (before.drive, before.capacity_bytes)
    );
    assert!(data::is_whole(&path.join("file"), 4, 50));
    machine.ringpv(&["volumes", "unmount", "kept"]).ok();
    let again = path.display().to_string();
    machine.ringpv(&["volumes", "mount", "kept", &again]).ok();
    assert!(data::is_whole(&path.join("file"), 4, 50));
}

/// Everything of ours that is in the API.
fn all_objects(machine: &Machine) -> Vec<String> {
    let mut names = Vec::new();
    names.extend(machine.list::<Volume>().iter().map(|one| one.name_any()));
    names.extend(machine.list::<Drive>().iter().map(|one| one.name_any()));
    names.extend(machine.list::<Benchmark>().iter().map(|one| one.name_any()));
    names.extend(
        machine
            .list::<StorageNode>()
            .iter()
            .map(|one| one.name_any()),
    );
    names
}

/// Deletes every object of all four kinds by `delete`; no data go, what is mounted stays mounted, and adopt brings
/// back what was there.
fn deleting_every_object_by(test: &str, delete: impl FnOnce(&Machine)) {
    let Some(machine) = Machine::running(test, &[640 * MIB]) else {
        return;
    };
    machine.init_all();
    let path = machine.mounted_volume("kept", "100MiB");
    data::write(&path.join("file"), 5, 50);
    let drive = machine.drive(0).unwrap();
    machine.ringpv(&["bench", &drive.name_any()]).ok();
    let node = machine.node().unwrap().metadata.uid;
    assert_eq!(all_objects(&machine).len(), 4);
    delete(&machine);
    for volume in machine.list::<Volume>() {
        assert!(volume.metadata.deletion_timestamp.is_some(), "{volume:?}");
        assert!(!volume.spec.release, "nobody gave the word for {volume:?}");
    }
    for drive in machine.list::<Drive>() {
        assert!(drive.metadata.deletion_timestamp.is_some(), "{drive:?}");
    }
    until(
        "the node to be told of anew, and the results to go",
        LIMIT,
        || {
            let node_is_new = machine.node()?.metadata.uid != node;
            (node_is_new && machine.list::<Benchmark>().is_empty()).then_some(())
        },
    );
    std::thread::sleep(Duration::from_secs(2));
    assert!(
        data::is_whole(&path.join("file"), 5, 50),
        "what a pod has mounted stays"
    );
    assert_eq!(
        machine.devices()[0].mounts().len(),
        3,
        "nor is it unmounted"
    );

    machine.ringpv(&["volumes", "unmount", "kept"]).ok();
    until("the objects to go", LIMIT, || {
        (machine.list::<Volume>().is_empty() && machine.list::<Drive>().is_empty()).then_some(())
    });
    await_adoptable(&machine);
    machine.ringpv(&["adopt", "--all"]).ok();
    let again = machine.drive_in(0, DrivePhase::Ready);
    assert_eq!(again.name_any(), drive.name_any());
    let path = path.display().to_string();
    until("the volume to be adopted", LIMIT, || machine.volume("kept"));
    machine.ringpv(&["volumes", "mount", "kept", &path]).ok();
    assert!(data::is_whole(&machine.path("mnt-kept/file"), 5, 50));
}

#[test]
fn deleting_every_object_deletes_no_data() {
    deleting_every_object_by("deleting_every_object_deletes_no_data", |machine| {
        // One by one and all at once, in an order that no person would choose.
        delete_all::<StorageNode>(machine);
        for benchmark in machine.list::<Benchmark>() {
            delete::<Benchmark>(machine, &benchmark.name_any());
        }
        for drive in machine.list::<Drive>() {
            delete::<Drive>(machine, &drive.name_any());
        }
        delete_all::<Volume>(machine);
    });
}

#[test]
fn deleting_every_object_by_plain_kubectl_deletes_no_data() {
    let test = "deleting_every_object_by_plain_kubectl_deletes_no_data";
    if kubectl::kubectl().is_none() {
        return tests::skip(test, "kubectl is not installed");
    }
    deleting_every_object_by(test, |machine| {
        let mut kubectl = program("kubectl");
        kubectl
            .arg("--kubeconfig")
            .arg(machine.path("store/kubeconfig"))
            .arg("--cache-dir")
            .arg(machine.path("kubectl-cache"))
            .args(["delete", "--all", "--wait=false"])
            .arg("storagenodes.ringpv.io,drives.ringpv.io,volumes.ringpv.io,benchmarks.ringpv.io");
        let said = run(kubectl, LIMIT).ok().stdout;
        for kind in ["storagenode", "drive", "volume", "benchmark"] {
            assert!(
                said.contains(&format!("{kind}.ringpv.io")),
                "{kind}: {said}"
            );
        }
    });
}

fn delete<K>(machine: &Machine, name: &str)
where
    K: kube::Resource<Scope = kube::core::ClusterResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let (api, params) = (Api::<K>::all(machine.client()), DeleteParams::default());
    let deleted = machine.runtime.block_on(api.delete(name, &params));
    deleted.unwrap_or_else(|error| panic!("{name}: {error}"));
}

fn delete_all<K>(machine: &Machine)
where
    K: kube::Resource<Scope = kube::core::ClusterResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let (all, none) = (ListParams::default(), DeleteParams::default());
    let api = Api::<K>::all(machine.client());
    let deleted = machine.runtime.block_on(api.delete_collection(&none, &all));
    deleted.unwrap();
}

#[test]
fn a_drive_that_is_elsewhere_is_lost_until_it_is_accepted() {
    let Some(mut machine) = Machine::running(
        "a_drive_that_is_elsewhere_is_lost_until_it_is_accepted",
        &[640 * MIB],
    ) else {
        return;
    };
    machine.init_all();
    let file = machine.mounted_volume("kept", "50MiB").join("file");
    data::write(&file, 14, 50);
    machine.ringpv(&["volumes", "unmount", "kept"]).ok();
    let before = machine.drive_in(0, DrivePhase::Ready);
    let name = before.name_any();
    machine.ringpv(&["accept", &name]).refused(1, "not Lost");
    machine.stop_agent();
    for target in machine.devices()[0].mounts().iter().rev() {
        tests::loopdev::unmount(target);
    }
    // The file below a loop device is its identity: a copy of it is the same drive in another place.
    let moved = machine.path("moved.img");
    std::fs::copy(machine.devices()[0].file(), &moved).unwrap();
    machine.remove_device(0);
    machine.add_device_on(&moved);
    machine.start_agent();
    let lost = until("the drive to be Lost", LIMIT, || {
        let mut drives = machine.list::<Drive>().into_iter();
        let drive = drives.find(|drive| drive.name_any() == name)?;
        (drive.status.as_ref()?.phase == DrivePhase::Lost).then_some(drive)
    });
    let status = lost.status.unwrap();
    assert_eq!(status.reason, Some(Reason::FingerprintChanged));
    assert!(
        status.message.contains("ringpv accept"),
        "{}",
        status.message
    );
    assert!(machine.devices()[0].mounts().is_empty());
    for reason in [Reason::Preparing, Reason::Ready, Reason::FingerprintChanged] {
        until("people to be told of each turn", LIMIT, || {
            machine.is_told(&name, reason).then_some(())
        });
    }
    let path = machine.path("mnt-kept").display().to_string();
    machine
        .ringpv(&["volumes", "mount", "kept", &path])
        .refused(3, "DriveUnavailable");

    let planned = machine.ringpv(&["accept", &name, "--dry-run"]).ok();
    assert!(planned.stdout.contains("would be accepted"), "{planned}");
    machine.ringpv(&["accept", &name]).ok();
    let drive = machine.drive_in(0, DrivePhase::Ready);
    assert_eq!(drive.metadata.uid, before.metadata.uid);
    assert_ne!(
        drive.spec.device.fingerprint.identity,
        before.spec.device.fingerprint.identity
    );
    machine.ringpv(&["volumes", "mount", "kept", &path]).ok();
    assert!(data::is_whole(&file, 14, 50));
}
