//! Level loop. `kill -9` of agent and controller: at every named point of init, stage and delete, and at any time while
//! volumes are made. The next start completes, and what was Ready keeps its data.

#![cfg(test)]

use std::collections::BTreeMap;
use std::time::Duration;

use api::{Drive, DrivePhase};
use kube::ResourceExt as _;
use tests::command::until;
use tests::csi::patiently;
use tests::data;
use tests::machine::{LIMIT, Machine, signalled};

const MIB: u64 = 1 << 20;

/// Every action of preparing a drive, before and after; and pieces of the long ones.
const INIT_POINTS: [&str; 21] = [
    "add-finalizer.before",
    "add-finalizer.after",
    "check.before",
    "check.after",
    "claim.before",
    "claim.after",
    "erase.before",
    "erase.piece",
    "erase.after",
    "verify.before",
    "verify.piece",
    "verify.after",
    "format.before",
    "format.after",
    "first-mount.after",
    "record.before",
    "record.after",
    "seal.before",
    "seal.after",
    "mount.after",
    "attach.after",
];

/// Starts the agent so that it dies at `point`, lets `act` lead it there, and waits for its death.
fn dies_at(machine: &mut Machine, point: &str, act: impl FnOnce(&Machine)) {
    machine.stop_agent();
    machine.agent_args = vec!["--fault-point".to_owned(), point.to_owned()];
    machine.start_agent();
    act(machine);
    let agent = machine.agent().unwrap();
    let status = agent
        .ended(LIMIT)
        .unwrap_or_else(|| panic!("it never came to {point}:\n{}", agent.said()));
    assert!(
        signalled(status),
        "at {point} it ended with {status}:\n{}",
        agent.said()
    );
    machine.agent_args.clear();
    machine.kill_agent();
}

#[test]
fn init_goes_on_after_a_kill_at_any_point() {
    let Some(mut machine) =
        Machine::running("init_goes_on_after_a_kill_at_any_point", &[640 * MIB])
    else {
        return;
    };
    machine.init_all();
    let witness = machine.mounted_volume("witness", "50MiB").join("file");
    data::write(&witness, 7, 50);
    for point in INIT_POINTS {
        machine.stop_agent();
        let index = machine.add_device(520 * MIB);
        machine.start_agent();
        machine.discover();
        // Read back whole, so that verifying is long enough to have pieces.
        let file = std::fs::read_to_string(machine.path("drives.yaml")).unwrap();
        let whole = file.replace("verify: Sample", "verify: Full");
        assert_ne!(whole, file);
        machine.write("drives.yaml", &whole);
        dies_at(&mut machine, point, |machine| {
            machine.ringpv(&["init", "drives.yaml", "--no-wait"]).ok();
        });
        machine.start_agent();
        let drive = machine.drive_in(index, DrivePhase::Ready);
        assert_eq!(machine.devices()[index].mounts().len(), 1, "{point}");
        assert!(data::is_whole(&witness, 7, 50), "{point}");
        machine.ringpv(&["remove", &drive.name_any()]).ok();
        until("the drive to be let go", LIMIT, || {
            machine.drive(index).is_none().then_some(())
        });
        machine.stop_agent();
        machine.remove_device(index);
        machine.start_agent();
    }
}

/// Every action by which a volume comes to its pod and goes.
const STAGE_POINTS: [&str; 6] = [
    "volume.write-record.after",
    "volume.make-directory.after",
    "volume.set-project.after",
    "volume.make-target.after",
    "volume.bind.before",
    "volume.bind.after",
];
const DELETE_POINTS: [&str; 5] = [
    "volume.trash.before",
    "volume.trash.after",
    "volume.remove-record.after",
    "volume.empty.before",
    "volume.let-go.before",
];

fn class() -> BTreeMap<&'static str, &'static str> {
    BTreeMap::from([("capacity-enforcement", "best-effort")])
}

#[test]
fn stage_and_delete_go_on_after_a_kill_at_any_point() {
    let Some(mut machine) = Machine::running(
        "stage_and_delete_go_on_after_a_kill_at_any_point",
        &[640 * MIB],
    ) else {
        return;
    };
    machine.init_all();
    let witness = machine.mounted_volume("witness", "50MiB").join("file");
    data::write(&witness, 8, 50);
    for (number, point) in STAGE_POINTS.into_iter().chain(DELETE_POINTS).enumerate() {
        let name = format!("v{number}");
        let (staging, target) = (
            machine.path(&format!("staging-{number}")),
            machine.path(&format!("target-{number}")),
        );
        std::fs::create_dir(&staging).unwrap();
        let (controller, agent) = (machine.controller_csi(), machine.agent_csi());
        let deleting = DELETE_POINTS.contains(&point);
        let stage = async || {
            patiently(100, || agent.stage(&name, &staging)).await?;
            patiently(100, || agent.publish(&name, &staging, &target, false)).await
        };
        let unstage = async || {
            patiently(100, || agent.unpublish(&name, &target)).await?;
            patiently(100, || agent.unstage(&name, &staging)).await
        };
        if deleting {
            machine.runtime.block_on(async {
                controller.create(&name, 10 << 20, &class()).await.unwrap();
                stage().await.unwrap();
            });
            data::write(&target.join("file"), 9, 10);
            machine.runtime.block_on(unstage()).unwrap();
        }
        dies_at(&mut machine, point, |machine| {
            machine.runtime.block_on(async {
                if deleting {
                    controller.delete(&name).await.unwrap();
                } else {
                    controller.create(&name, 10 << 20, &class()).await.unwrap();
                    drop(agent.stage(&name, &staging).await);
                }
            });
        });
        machine.start_agent();
        machine.drive_in(0, DrivePhase::Ready);
        if !deleting {
            machine
                .runtime
                .block_on(stage())
                .unwrap_or_else(|e| panic!("{point}: {e}"));
            data::write(&target.join("file"), 10, 10);
            machine.runtime.block_on(async {
                unstage().await.unwrap_or_else(|e| panic!("{point}: {e}"));
                controller.delete(&name).await.unwrap();
            });
        }
        until(&format!("{name} to be gone after {point}"), LIMIT, || {
            machine.volume(&name).is_none().then_some(())
        });
        assert!(!target.join("file").exists(), "{point}");
        assert!(data::is_whole(&witness, 8, 50), "{point}");
    }
}

#[test]
fn what_the_controller_acknowledged_survives_it() {
    let Some(mut machine) = Machine::running(
        "what_the_controller_acknowledged_survives_it",
        &[1024 * MIB],
    ) else {
        return;
    };
    machine.init_all();
    let mut acknowledged: BTreeMap<String, String> = BTreeMap::new();
    for round in 0..8_u64 {
        let (sender, answers) = std::sync::mpsc::channel();
        for caller in 0..4 {
            let (csi, sender) = (machine.controller_csi(), sender.clone());
            machine.runtime.spawn(async move {
                for number in 0.. {
                    let name = format!("v-{round}-{caller}-{number}");
                    let answer = csi.create(&name, 1 << 20, &class()).await;
                    let Ok(volume) = answer else { return };
                    if sender.send((name, volume.volume_id)).is_err() {
                        return;
                    }
                }
            });
        }
        std::thread::sleep(Duration::from_millis(40 + 37 * round));
        machine.kill_controller();
        drop(sender);
        acknowledged.extend(answers);
        machine.start_controller();
        for (name, id) in &acknowledged {
            let volume = machine
                .volume(id)
                .unwrap_or_else(|| panic!("{name} was acknowledged and is gone"));
            assert_eq!(&volume.spec.csi_name, name);
        }
    }
    assert!(
        acknowledged.len() > 8,
        "only {} volumes were made",
        acknowledged.len()
    );
    // Some were made and never acknowledged: their callers would call again.
    for volume in machine.list::<api::Volume>() {
        acknowledged.insert(volume.spec.csi_name.clone(), volume.name_any());
    }
    let csi = machine.controller_csi();
    machine.runtime.block_on(async {
        for (name, id) in &acknowledged {
            let again = csi.create(name, 1 << 20, &class()).await.unwrap();
            assert_eq!(
                &again.volume_id, id,
                "the same call again is the same volume"
            );
            csi.delete(id).await.unwrap();
        }
    });
    until("all volumes to be gone", LIMIT, || {
        machine.list::<api::Volume>().is_empty().then_some(())
    });
    let drives: Vec<Drive> = machine.list();
    assert_eq!(drives.len(), 1);
}
