//! Level loop, beside the others. `kill -9` of the controller: at every write of an init, and around everything that it does to a volume or
//! a drive. Whoever called calls again, the next start completes, and nothing is lost or there twice. The points are in
//! `tests::points`.

#![cfg(test)]

use std::time::Duration;

use api::names::FINALIZER_PLACEMENT;
use api::{Drive, DrivePhase, Reason, Volume};
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams};
use tests::command::{now, until};
use tests::csi::best_effort;
use tests::data;
use tests::machine::{LIMIT, Machine, signalled};
use tests::points::{
    CONTROLLER_DRIVE, CONTROLLER_INLINE, CONTROLLER_REFUSES, CONTROLLER_TELLS, CONTROLLER_VOLUME,
    STORE,
};
use tests::removal;
use tonic::{Code, Status};

const MIB: u64 = 1 << 20;

/// A machine whose controller dies once, and is started again as its unit would.
struct Dying<'a> {
    machine: &'a mut Machine,
    point: String,
    deaths: u32,
}

impl<'a> Dying<'a> {
    /// The controller runs into `point` from now on.
    fn at(machine: &'a mut Machine, point: &str) -> Self {
        machine.stop_controller();
        machine
            .controller_args
            .extend(["--fault-point".to_owned(), point.to_owned()]);
        machine.launch_controller();
        let args = machine.controller_args.len() - 2;
        machine.controller_args.truncate(args);
        Self {
            machine,
            point: point.to_owned(),
            deaths: 0,
        }
    }

    /// Starts the controller anew if it died.
    fn revive(&mut self) {
        let point = &self.point;
        let Some(controller) = self.machine.controller() else {
            return;
        };
        if controller.runs() {
            return;
        }
        let status = controller.ended(LIMIT).unwrap();
        assert!(
            signalled(status),
            "{point}: {status}:\n{}",
            controller.said()
        );
        self.machine.kill_controller();
        self.machine.start_controller();
        self.deaths += 1;
    }

    /// Waits until `look` finds something, the controller's death coming in between.
    fn until<T>(&mut self, what: &str, mut look: impl FnMut(&Machine) -> Option<T>) -> T {
        let end = now() + LIMIT;
        loop {
            self.revive();
            if self.machine.controller_serves()
                && let Some(found) = look(self.machine)
            {
                return found;
            }
            assert!(now() < end, "{}: waited in vain for {what}", self.point);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A call that its caller repeats until it is done.
    fn call<T, F>(&mut self, what: &str, mut call: impl FnMut(&Machine) -> F) -> T
    where
        F: Future<Output = Result<T, Status>>,
    {
        let end = now() + LIMIT;
        loop {
            let status = match self.machine.runtime.block_on(call(self.machine)) {
                Ok(answer) => return answer,
                Err(status) => status,
            };
            let point = self.point.clone();
            self.revive();
            // A call that was under way when the controller died ends with an error of the transport; and the agent
            // finds no drive chosen as long as nobody leads.
            let again = [
                Code::Aborted,
                Code::Unavailable,
                Code::Unknown,
                Code::ResourceExhausted,
            ];
            assert!(again.contains(&status.code()), "{point}: {what}: {status}");
            assert!(now() < end, "{point}: {what}: {status}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// There is one volume of that name and size.
    fn holds(&mut self, name: &str, bytes: u64) {
        self.until("the volume to be as promised", |machine| {
            let volume = volume_of(machine, name)??;
            (volume.spec.capacity_bytes == bytes).then_some(())
        });
    }

    /// It died, as it should have, and serves again.
    fn died(mut self) {
        if self.deaths == 0 {
            let controller = self.machine.controller().unwrap();
            let ended = controller.ended(LIMIT);
            assert!(
                ended.is_some(),
                "it never came to {}:\n{}",
                self.point,
                controller.said()
            );
            self.revive();
        }
        assert_eq!(self.deaths, 1, "{}", self.point);
    }
}

/// All objects of a kind, if the API answers.
fn all<K>(machine: &Machine) -> Option<Vec<K>>
where
    K: kube::Resource<Scope = kube::core::ClusterResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let (api, params) = (Api::<K>::all(machine.client()), ListParams::default());
    let list = machine.runtime.block_on(api.list(&params)).ok()?;
    Some(list.items)
}

/// The Drive that was made of a device, if the API answers.
fn drive_of(machine: &Machine, index: usize) -> Option<Option<Drive>> {
    let name = machine.device(index);
    let mut drives = all::<Drive>(machine)?.into_iter();
    Some(drives.find(|drive| drive.spec.device.name == name))
}

/// The Volume of a name, if the API answers. It is never there twice.
fn volume_of(machine: &Machine, name: &str) -> Option<Option<Volume>> {
    let mut named = all::<Volume>(machine)?;
    named.retain(|volume| volume.spec.csi_name == name);
    assert!(named.len() < 2, "{name} is there twice");
    Some(named.pop())
}

/// The API dies at each write of an init in turn, now just before it, now just behind it, whoever writes: the person,
/// the agent, the controller itself.
#[test]
fn init_goes_on_after_the_api_died_at_any_write() {
    let Some(mut machine) =
        Machine::running("init_goes_on_after_the_api_died_at_any_write", &[640 * MIB])
    else {
        return;
    };
    machine.init_all();
    let witness = machine.mounted_volume("witness", "50MiB").join("file");
    data::write(&witness, 21, 50);
    machine.stop_agent();
    let index = machine.add_device(520 * MIB);
    machine.start_agent();
    machine.discover();
    for (write, moment) in (1..).zip(STORE.into_iter().cycle()) {
        let point = format!("{moment}@{write}");
        // An agent that saw many deaths waits longer and longer before it asks again.
        machine.stop_agent();
        machine.start_agent();
        let begun = now();
        let mut dying = Dying::at(&mut machine, &point);
        let drive = dying.until("the drive to be Ready", |machine| {
            // Whoever typed it types it again, if nothing came of it.
            if drive_of(machine, index)?.is_none() {
                drop(machine.ringpv(&["init", "drives.yaml", "--no-wait"]));
            }
            let drive = drive_of(machine, index)??;
            (drive.status.as_ref()?.phase == DrivePhase::Ready).then_some(drive)
        });
        let deaths = dying.deaths;
        assert!(deaths < 2, "{point}");
        if deaths == 0 {
            // What it was to die at is still before it.
            machine.kill_controller();
            machine.start_controller();
        }
        assert_eq!(machine.list::<Drive>().len(), 2, "{point}");
        assert_eq!(machine.devices()[index].mounts().len(), 1, "{point}");
        assert_eq!(
            machine.drive(index).unwrap().metadata.uid,
            drive.metadata.uid,
            "{point}"
        );
        assert!(data::is_whole(&witness, 21, 50), "{point}");
        removal::erase(&machine, index);
        tests::tell(&format!("{point}: {deaths} deaths, {:?}", begun.elapsed()));
        if deaths == 0 {
            assert!(write > 10, "an init is more than {write} writes");
            return;
        }
    }
}

#[test]
fn a_volume_is_made_grown_and_deleted_once_whenever_the_controller_dies() {
    let Some(mut machine) = Machine::running(
        "a_volume_is_made_grown_and_deleted_once_whenever_the_controller_dies",
        &[640 * MIB],
    ) else {
        return;
    };
    machine.init_all();
    let witness = machine.mounted_volume("witness", "50MiB").join("file");
    data::write(&witness, 22, 50);
    for (number, point) in CONTROLLER_VOLUME.into_iter().enumerate() {
        let name = &format!("v{number}");
        let csi = machine.controller_csi();
        let mut dying = Dying::at(&mut machine, point);
        let volume = dying.call("create", |_| {
            let csi = csi.clone();
            async move { csi.create(name, 10 << 20, &best_effort()).await }
        });
        dying.holds(name, 10 * MIB);
        let id = &volume.volume_id;
        let grown = dying.call("expand", |_| {
            let csi = csi.clone();
            async move { csi.expand(id, 20 << 20).await }
        });
        assert_eq!(grown, 20 << 20, "{point}");
        dying.holds(name, 20 * MIB);
        dying.call("delete", |_| {
            let csi = csi.clone();
            async move { csi.delete(id).await }
        });
        dying.until("the volume to be gone", |machine| {
            volume_of(machine, name)?.is_none().then_some(())
        });
        dying.died();
        assert!(data::is_whole(&witness, 22, 50), "{point}");
    }
    no_promise_is_left(&machine, 50 * MIB);
}

/// All that is not a volume of `taken` bytes can be had as one.
fn no_promise_is_left(machine: &Machine, taken: u64) {
    let status = machine.drive_in(0, DrivePhase::Ready).status.unwrap();
    let rest = status.capacity.unwrap().allocatable_bytes / MIB * MIB - taken;
    let csi = machine.controller_csi();
    let rest = i64::try_from(rest).unwrap();
    let all = async { csi.create("all", rest, &best_effort()).await };
    machine.runtime.block_on(all).unwrap();
}

#[test]
fn an_inline_volume_is_placed_once_whenever_the_controller_dies() {
    let Some(mut machine) = Machine::running(
        "an_inline_volume_is_placed_once_whenever_the_controller_dies",
        &[640 * MIB],
    ) else {
        return;
    };
    machine.init_all();
    inline_volumes_are_refused(&mut machine);
    for (number, point) in CONTROLLER_INLINE.into_iter().enumerate() {
        let name = &format!("inline{number}");
        let target = machine.path(&format!("target-{name}"));
        let (csi, path) = (machine.agent_csi(), target.as_path());
        let mut dying = Dying::at(&mut machine, point);
        // The kubelet calls until it is done; meanwhile no drive is chosen while the controller is away.
        let kubelet = {
            let (csi, name, target) = (csi.clone(), name.clone(), target.clone());
            dying.machine.runtime.spawn(async move {
                while csi.publish_inline(&name, "10Mi", &target).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            })
        };
        dying.until("the volume to be placed", |machine| {
            volume_of(machine, name)??.spec.drive
        });
        dying.until("the volume to be mounted", |_| {
            kubelet.is_finished().then_some(())
        });
        dying.holds(name, 10 * MIB);
        data::write(&target.join("file"), 23, 10);
        dying.call("unpublish", |_| {
            let csi = csi.clone();
            async move { csi.unpublish(name, path).await }
        });
        dying.until("the volume to be gone", |machine| {
            volume_of(machine, name)?.is_none().then_some(())
        });
        dying.died();
    }
    no_promise_is_left(&machine, 0);
}

/// Of a size that no drive has: the pod is told why, whenever the controller dies.
fn inline_volumes_are_refused(machine: &mut Machine) {
    for (number, point) in CONTROLLER_REFUSES.into_iter().enumerate() {
        let name = &format!("large{number}");
        let target = machine.path(&format!("target-{name}"));
        let (csi, path) = (machine.agent_csi(), target.as_path());
        let mut dying = Dying::at(machine, point);
        let kubelet = {
            let (csi, name, target) = (csi.clone(), name.clone(), target.clone());
            dying.machine.runtime.spawn(async move {
                loop {
                    match csi.publish_inline(&name, "10Gi", &target).await {
                        Err(refused) if refused.code() == Code::ResourceExhausted => {
                            return refused;
                        }
                        Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                        Ok(()) => panic!("no drive holds so much"),
                    }
                }
            })
        };
        dying.until("the pod to be told why", |_| {
            kubelet.is_finished().then_some(())
        });
        let refused = dying.machine.runtime.block_on(kubelet).unwrap();
        assert!(refused.message().contains("too small"), "{refused}");
        dying.until("people to be told", |machine| {
            let volume = volume_of(machine, name)??.name_any();
            machine.is_told(&volume, Reason::NoFit).then_some(())
        });
        dying.call("unpublish", |_| {
            let csi = csi.clone();
            async move { csi.unpublish(name, path).await }
        });
        dying.until("the volume to be gone", |machine| {
            volume_of(machine, name)?.is_none().then_some(())
        });
        dying.died();
    }
}

#[test]
fn a_drive_is_cared_for_whenever_the_controller_dies() {
    let Some(mut machine) = Machine::new(
        "a_drive_is_cared_for_whenever_the_controller_dies",
        &[520 * MIB],
    ) else {
        return;
    };
    machine.controller_args = vec!["--health-window".to_owned(), "5s".to_owned()];
    machine.agent_args = vec!["--health-interval".to_owned(), "1s".to_owned()];
    machine.start_controller();
    machine.start_agent();
    machine.discover();
    for point in CONTROLLER_DRIVE {
        let mut dying = Dying::at(&mut machine, point);
        dying.until("the drive to be there", |machine| {
            drop(machine.ringpv(&["init", "drives.yaml", "--no-wait"]));
            drive_of(machine, 0)?
        });
        dying.until("the drive to be judged", |machine| {
            let drive = drive_of(machine, 0)??;
            assert!(drive.finalizers().len() < 3, "{point}: {drive:?}");
            let held = drive.finalizers().contains(&FINALIZER_PLACEMENT.to_owned());
            let status = drive.status?;
            let ready = status.phase == DrivePhase::Ready;
            (held && ready && status.verdict.is_some()).then_some(())
        });
        dying.died();
        if point.starts_with("finalizers") {
            let drive = machine.drive_in(0, DrivePhase::Ready);
            let mut dying = Dying::at(&mut machine, point);
            let (name, word) = (drive.name_any(), drive.spec.device.fingerprint.to_string());
            let words = ["remove", &name, "--erase", "--yes", &word, "--no-wait"];
            dying.until("the drive to be let go", |machine| {
                drop(machine.ringpv(&words));
                drive_of(machine, 0)?.is_none().then_some(())
            });
            dying.died();
            until("the device to be blank", LIMIT, || {
                let held = machine.discovered(0).holds_drive;
                held.is_none().then_some(())
            });
        } else {
            removal::erase(&machine, 0);
        }
    }
}

#[test]
fn people_are_told_whenever_the_controller_dies() {
    let Some(mut machine) =
        Machine::running("people_are_told_whenever_the_controller_dies", &[640 * MIB])
    else {
        return;
    };
    for point in CONTROLLER_TELLS {
        machine.init_all();
        let file = machine.mounted_volume("kept", "50MiB").join("file");
        data::write(&file, 24, 50);
        let name = machine.drive(0).unwrap().name_any();
        let mut dying = Dying::at(&mut machine, point);
        dying.until("the drive to be on its way", |machine| {
            let drives = Api::<Drive>::all(machine.client());
            let params = DeleteParams::default();
            let deleted = drives.delete(&name, &params);
            machine.runtime.block_on(deleted).ok().map(drop)
        });
        dying.until("people to be told", |machine| {
            machine.is_told(&name, Reason::DriveInUse).then_some(())
        });
        dying.died();
        assert!(data::is_whole(&file, 24, 50), "{point}");
        machine.ringpv(&["volumes", "unmount", "kept"]).ok();
        machine
            .ringpv(&["volumes", "delete", "kept", "--yes", "kept"])
            .ok();
        until("the drive to be let go", LIMIT, || {
            machine.list::<Drive>().is_empty().then_some(())
        });
        until("the drive to be adopted", LIMIT, || {
            (machine.ringpv(&["adopt", "--all"]).code == Some(0)).then_some(())
        });
        machine.drive_in(0, DrivePhase::Ready);
        removal::erase(&machine, 0);
    }
}
