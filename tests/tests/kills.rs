//! Level loop, beside the others. `kill -9` of the agent at every named point of init, stage and delete, and of the controller at any time
//! while volumes are made. The next start completes, and what was Ready keeps its data. The points, and those that
//! cannot be tried, are in `tests::points`; `controller_kills.rs` has those of the controller.

#![cfg(test)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use api::{Drive, DrivePhase, Volume};
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tests::command::{now, until};
use tests::csi::best_effort;
use tests::data;
use tests::loopdev::unmount;
use tests::machine::{LIMIT, Machine, signalled};
use tests::points::{ERASING, INIT, INLINE, MOVED, SUSPENDED, VOLUME};
use tests::removal;
use tonic::{Code, Status};

const MIB: u64 = 1 << 20;

/// Lets the agent run into `point` from now on.
fn arm(machine: &mut Machine, point: &str) {
    machine.stop_agent();
    machine.agent_args = vec!["--fault-point".to_owned(), point.to_owned()];
    machine.launch_agent();
    machine.agent_args.clear();
}

/// Waits for the agent's death at `point`.
fn dead(machine: &mut Machine, point: &str) {
    let agent = machine.agent().unwrap();
    let status = agent
        .ended(LIMIT)
        .unwrap_or_else(|| panic!("it never came to {point}:\n{}", agent.said()));
    assert!(
        signalled(status),
        "at {point} it ended with {status}:\n{}",
        agent.said()
    );
    machine.kill_agent();
}

/// drives.yaml for what is there now: read back whole, so that verifying is long enough to have pieces.
fn discover_whole(machine: &Machine, gate: bool) {
    machine.discover();
    let file = std::fs::read_to_string(machine.path("drives.yaml")).unwrap();
    let mut whole = file.replace("verify: Sample", "verify: Full");
    assert_ne!(whole, file);
    if gate {
        whole = whole.replace("    id: ", "    gate: {readLatencyP99Max: 30s}\n    id: ");
    }
    machine.write("drives.yaml", &whole);
}

/// Leads an init into `point`, and sees that the next start ends it well.
fn init_through(machine: &mut Machine, index: usize, point: &str) -> Drive {
    discover_whole(machine, point.starts_with("gate"));
    // Only after an interrupted mkfs.xfs is there something to clear.
    let clears = point.starts_with("clear");
    arm(machine, if clears { "format.after" } else { point });
    machine.ringpv(&["init", "drives.yaml", "--no-wait"]).ok();
    dead(machine, point);
    if clears {
        arm(machine, point);
        dead(machine, point);
    }
    machine.start_agent();
    let drive = machine.drive_in(index, DrivePhase::Ready);
    assert_eq!(machine.devices()[index].mounts().len(), 1, "{point}");
    drive
}

/// Removes and erases a drive, through `point` if there is one. Its device is as blank as before.
fn erase_through(machine: &mut Machine, index: usize, drive: &Drive, point: Option<&str>) {
    if let Some(point) = point {
        arm(machine, point);
    }
    removal::begin(machine, drive);
    if let Some(point) = point {
        dead(machine, point);
        machine.start_agent();
    }
    removal::end(machine, index, drive);
    assert!(machine.devices()[index].mounts().is_empty(), "{point:?}");
}

#[test]
fn init_and_removal_go_on_after_a_kill_at_any_point() {
    let Some(mut machine) = Machine::running(
        "init_and_removal_go_on_after_a_kill_at_any_point",
        &[640 * MIB],
    ) else {
        return;
    };
    machine.init_all();
    let witness = machine.mounted_volume("witness", "50MiB").join("file");
    data::write(&witness, 7, 50);
    machine.stop_agent();
    let index = machine.add_device(520 * MIB);
    machine.start_agent();
    let mut erasing = ERASING.into_iter();
    for point in INIT {
        let begun = now();
        let drive = init_through(&mut machine, index, point);
        let removal = erasing.next();
        erase_through(&mut machine, index, &drive, removal);
        assert!(data::is_whole(&witness, 7, 50), "{point}, {removal:?}");
        tests::tell(&format!("{point}, {removal:?}: {:?}", begun.elapsed()));
    }
    assert_eq!(erasing.next(), None, "all points of a removal were tried");
}

#[test]
fn a_move_from_another_cluster_goes_on_after_a_kill_at_any_point() {
    let Some(mut machine) = Machine::running(
        "a_move_from_another_cluster_goes_on_after_a_kill_at_any_point",
        &[640 * MIB],
    ) else {
        return;
    };
    machine.init_all();
    let file = machine.mounted_volume("kept", "50MiB").join("file");
    data::write(&file, 6, 50);
    for point in MOVED {
        let cluster = machine.node().unwrap().status.unwrap().cluster_id;
        machine.ringpv(&["volumes", "unmount", "kept"]).ok();
        machine.stop_agent();
        machine.stop_controller();
        for target in machine.devices()[0].mounts().iter().rev() {
            unmount(target);
        }
        // Without its whole directory the store begins anew, as another cluster.
        std::fs::remove_dir_all(machine.path("store")).unwrap();
        machine.start_controller();
        machine.start_agent();
        arm(&mut machine, point);
        until("the drive to be found", LIMIT, || {
            machine.node()?.status?.devices.first()?.holds_drive.clone()
        });
        let adopt = ["adopt", "--all", "--from-cluster", &cluster, "--no-wait"];
        machine.ringpv(&adopt).ok();
        dead(&mut machine, point);
        machine.start_agent();
        machine.drive_in(0, DrivePhase::Ready);
        until("what was moved to be shown as ours", LIMIT, || {
            let adopted = machine.ringpv(&["adopt", "--all"]);
            (adopted.code == Some(0)).then(|| machine.volume("kept"))?
        });
        let path = machine.path("mnt-kept").display().to_string();
        machine.ringpv(&["volumes", "mount", "kept", &path]).ok();
        assert!(data::is_whole(&file, 6, 50), "{point}");
    }
}

/// One volume through its whole life, while the agent dies once on the way and is started again, as its unit would.
struct Life<'a> {
    machine: &'a mut Machine,
    point: &'a str,
    deaths: u32,
}

impl Life<'_> {
    /// Starts the agent anew if it died.
    fn revive(&mut self) {
        if self.machine.agent().is_some_and(|agent| agent.runs()) {
            return;
        }
        self.deaths += 1;
        dead(self.machine, self.point);
        self.machine.start_agent();
    }

    /// A call that its caller repeats until it is done.
    fn call<F>(&mut self, what: &str, mut call: impl FnMut(&Machine) -> F)
    where
        F: Future<Output = Result<(), Status>>,
    {
        let end = now() + LIMIT;
        loop {
            let answer = self.machine.runtime.block_on(call(self.machine));
            let Err(status) = answer else { return };
            let point = self.point;
            self.revive();
            // A call that was under way when the agent died ends with an error of the transport.
            let again = [Code::Aborted, Code::Unavailable, Code::Unknown];
            assert!(again.contains(&status.code()), "{point}: {what}: {status}");
            assert!(now() < end, "{point}: {what}: {status}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the volume's object is gone.
    fn gone(&mut self, name: &str) {
        let end = now() + LIMIT;
        while self.machine.volume(name).is_some() {
            assert!(now() < end, "{name} is still there after {}", self.point);
            self.revive();
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn stage(&mut self, name: &str, staging: &Path, target: &Path) {
        self.call("stage", |machine| {
            let agent = machine.agent_csi();
            async move { agent.stage(name, staging).await }
        });
        self.call("publish", |machine| {
            let agent = machine.agent_csi();
            async move { agent.publish(name, staging, target, false).await }
        });
    }

    fn unstage(&mut self, name: &str, staging: &Path, target: &Path) {
        self.call("unpublish", |machine| {
            let agent = machine.agent_csi();
            async move { agent.unpublish(name, target).await }
        });
        self.call("unstage", |machine| {
            let agent = machine.agent_csi();
            async move { agent.unstage(name, staging).await }
        });
    }

    fn suspend(&self, name: &str, suspended: bool) {
        let volumes = Api::<Volume>::all(self.machine.client());
        let patch = Patch::Merge(json!({ "spec": { "suspended": suspended } }));
        let (name, params) = (name.to_owned(), PatchParams::default());
        let patched = volumes.patch(&name, &params, &patch);
        self.machine.runtime.block_on(patched).unwrap();
    }

    /// Made, mounted, written to, unmounted, mounted again, deleted.
    fn of_a_claim(&mut self, name: &str) {
        let staging = self.machine.path(&format!("staging-{name}"));
        let target = self.machine.path(&format!("target-{name}"));
        std::fs::create_dir(&staging).unwrap();
        let controller = self.machine.controller_csi();
        let created = async { controller.create(name, 10 << 20, &best_effort()).await };
        self.machine.runtime.block_on(created).unwrap();
        if SUSPENDED.contains(&self.point) {
            self.suspend(name, true);
            self.stage(name, &staging, &target);
            assert!(std::fs::write(target.join("file"), "x").is_err());
            self.unstage(name, &staging, &target);
            self.suspend(name, false);
            std::fs::create_dir_all(&staging).unwrap();
        }
        self.stage(name, &staging, &target);
        let file = target.join("file");
        data::write(&file, 9, 10);
        self.unstage(name, &staging, &target);
        assert!(!file.exists() && !target.exists(), "{}", self.point);
        std::fs::create_dir_all(&staging).unwrap();
        self.stage(name, &staging, &target);
        assert!(data::is_whole(&file, 9, 10), "{}", self.point);
        self.unstage(name, &staging, &target);
        self.call("delete", |machine| {
            let controller = machine.controller_csi();
            async move { controller.delete(name).await }
        });
        self.gone(name);
    }

    /// Made by its pod and gone with it.
    fn of_a_pod(&mut self, name: &str) {
        let target = self.machine.path(&format!("target-{name}"));
        let path = target.as_path();
        self.call("publish", |machine| {
            let agent = machine.agent_csi();
            async move { agent.publish_inline(name, "10Mi", path).await }
        });
        data::write(&target.join("file"), 10, 10);
        self.call("unpublish", |machine| {
            let agent = machine.agent_csi();
            async move { agent.unpublish(name, path).await }
        });
        self.gone(name);
    }
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
    let points = VOLUME.into_iter().chain(SUSPENDED).chain(INLINE);
    for (number, point) in points.enumerate() {
        arm(&mut machine, point);
        let mut life = Life {
            machine: &mut machine,
            point,
            deaths: 0,
        };
        let name = format!("v{number}");
        if INLINE.contains(&point) {
            life.of_a_pod(&name);
        } else {
            life.of_a_claim(&name);
        }
        // Behind the last step, the death may be noticed by nobody.
        if life.deaths == 0 {
            dead(&mut machine, point);
            machine.start_agent();
        }
        assert!(data::is_whole(&witness, 8, 50), "{point}");
        let drive = machine.drive_in(0, DrivePhase::Ready).name_any();
        let root = machine.path("state/mnt").join(drive);
        for folder in ["volumes", ".ringpv/volumes"] {
            let left = std::fs::read_dir(root.join(folder)).unwrap().count();
            assert_eq!(left, 1, "the witness alone is in {folder} after {point}");
        }
        let trash = std::fs::read_dir(root.join(".trash")).unwrap().count();
        assert_eq!(trash, 0, "{point}");
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
                    let answer = csi.create(&name, 1 << 20, &best_effort()).await;
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
            let again = csi.create(name, 1 << 20, &best_effort()).await.unwrap();
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
