//! Level sim. The start of an agent over simulated devices and the embedded API in memory: a drive whose mount comes to no
//! end delays no other drive, and is used once it answers; one that is late is mounted without the API.

#![cfg(test)]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agent::host::{Host as _, XfsErrors};
use agent::metrics::Metrics;
use agent::probe::{Policy, Snapshot};
use agent::reconcile::{self, Context, FromDisk, Limits, START_WAIT};
use agent::records::{DriveRecord, drive_record};
use agent::registry::Registry;
use agent::site::Site;
use agent::volumes::Volumes;
use api::condition::{ConditionStatus, ConditionType};
use api::drive::DeviceClaim;
use api::{AccessTier, Drive, DrivePhase, DriveSpec, Reason, Volume};
use controller::embedded::{Embedded, Options};
use jiff::Timestamp;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tests::command::now;
use tests::host::SimHost;
use tests::host::disk::Disk;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const NODE: &str = "n1";
const CLUSTER: &str = "c1";
const PATIENCE: Duration = Duration::from_secs(20);

/// A machine with two drives, and what its agent is told.
struct Machine {
    host: SimHost,
    client: Client,
    site: Arc<Site>,
    snapshots: watch::Sender<Arc<Snapshot>>,
}

impl Machine {
    fn new() -> Self {
        let site = Site {
            node: NODE.to_owned(),
            cluster_id: CLUSTER.to_owned(),
            state_dir: PathBuf::from("/var/lib/ringpv"),
            xfs_errors: XfsErrors::FailFast,
        };
        let host = SimHost::default();
        {
            let mut machine = host.machine();
            machine.policy = Some(Policy {
                node: NODE.to_owned(),
                cluster_id: CLUSTER.to_owned(),
                drive_bytes_min: 512 << 20,
                allow_loop: false,
                mount_root: site.state_dir.join("mnt"),
            });
            for index in 0..2 {
                let serial = format!("serial-{index}");
                let disk = Disk::blank(&serial, 1 << 30, true);
                machine.space.plug(&format!("nvme{index}n1"), &serial);
                machine.space.disks.insert(serial, disk);
            }
        }
        let embedded = Embedded::in_memory(CLUSTER, Options::default()).unwrap();
        Self {
            client: Client::new(embedded.service(), "ringpv"),
            snapshots: watch::Sender::new(Arc::new(host.snapshot(&BTreeSet::new()))),
            host,
            site: Arc::new(site),
        }
    }

    /// What a process that has just started knows.
    fn context(&self) -> Context {
        self.look();
        let registry = Registry::default();
        let limits = Limits {
            health_interval: Duration::from_secs(60),
            erase_bytes_per_second_max: None,
        };
        Context {
            host: Arc::new(self.host.clone()),
            site: Arc::clone(&self.site),
            client: self.client.clone(),
            volumes: Volumes::new(
                Arc::new(self.host.clone()),
                NODE,
                registry.clone(),
                self.client.clone(),
                Timestamp::now,
            ),
            registry,
            snapshots: self.snapshots.subscribe(),
            metrics: Arc::new(Metrics::new(
                &mut prometheus_client::registry::Registry::default(),
                &limits,
            )),
            limits,
            erase_turns: Arc::default(),
            clock: Timestamp::now,
        }
    }

    fn look(&self) {
        let snapshot = self.host.snapshot(&BTreeSet::new());
        self.snapshots.send_replace(Arc::new(snapshot));
    }

    fn drives(&self) -> Api<Drive> {
        Api::all(self.client.clone())
    }

    /// Makes every device a drive. Their ids, in the order of the devices.
    async fn init(&self) -> Vec<String> {
        let ctx = self.context();
        let stop = CancellationToken::new();
        let running = tokio::spawn(reconcile::run(ctx, watch::Sender::new(None), stop.clone()));
        let mut ids = Vec::new();
        for seen in self.host.snapshot(&BTreeSet::new()).devices.values() {
            let id = seen.drive_id.clone().expect("an eligible device");
            let spec = DriveSpec {
                node: NODE.to_owned(),
                device: DeviceClaim {
                    fingerprint: seen.fingerprint.clone(),
                    name: seen.facts.name.clone(),
                    size_bytes: seen.facts.size_bytes,
                },
                ..api::testing::drive(&id).build().spec
            };
            let drive = Drive::new(&id, spec);
            let created = self.drives().create(&PostParams::default(), &drive).await;
            created.expect("the API takes the Drive");
            ids.push(id);
        }
        for id in &ids {
            self.until(id, |phase, _| phase == DrivePhase::Ready).await;
        }
        stop.cancel();
        running.await.unwrap();
        ids
    }

    /// Waits until a Drive stands as wanted.
    async fn until(&self, id: &str, wanted: impl Fn(DrivePhase, Option<Reason>) -> bool) {
        self.until_drive(id, |drive| {
            let status = drive.status.clone().unwrap_or_default();
            wanted(status.phase, status.reason)
        })
        .await;
    }

    async fn until_drive(&self, id: &str, wanted: impl Fn(&Drive) -> bool) {
        let end = now() + PATIENCE;
        loop {
            let drive = self.drives().get(id).await.unwrap();
            if wanted(&drive) {
                return;
            }
            assert!(now() < end, "it stands otherwise: {drive:#?}");
            self.look();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn one_hung_mount_delays_no_other_drive() {
    let machine = Machine::new();
    let ids = machine.init().await;
    let [hung, other] = ids.as_slice() else {
        panic!("two drives: {ids:?}");
    };
    machine.host.reboot();
    machine.host.hang("nvme0n1", true);

    let ctx = machine.context();
    let began = now();
    let mut from_disk = FromDisk::new(ctx.clone());
    from_disk.first().await;
    assert!(now() - began < START_WAIT + Duration::from_secs(5));
    assert!(ctx.registry.get(hung).is_err() && ctx.registry.get(other).is_ok());
    assert_eq!(from_disk.late(), 1, "it goes on by itself");

    // The API shows which one it is, and nothing is begun a second time on the drive that hangs.
    let stop = CancellationToken::new();
    let running = tokio::spawn(reconcile::run(
        ctx.clone(),
        watch::Sender::new(None),
        stop.clone(),
    ));
    let unresponsive = Some(Reason::Unresponsive);
    machine
        .until(hung, |phase, reason| {
            (phase, reason) == (DrivePhase::Lost, unresponsive)
        })
        .await;
    machine
        .until(other, |phase, _| phase == DrivePhase::Ready)
        .await;
    let worker = ctx.registry.worker(hung);
    assert!(worker.is_busy(agent::worker::Lane::Long));
    assert!(!worker.is_busy(agent::worker::Lane::Calls));

    machine.host.hang("nvme0n1", false);
    machine
        .until(hung, |phase, _| phase == DrivePhase::Ready)
        .await;
    from_disk.finish().await;
    let mounted = ctx.registry.get(hung).unwrap();
    let (host, root): (Arc<dyn agent::host::Host>, _) =
        (Arc::clone(&ctx.host), mounted.root.clone());
    let read = mounted.call(&host, move |host, _| host.list_dir(&root));
    assert!(read.await.unwrap().is_ok());
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn a_drive_that_is_late_is_mounted_while_nobody_can_be_asked() {
    let machine = Machine::new();
    let ids = machine.init().await;
    let [late, other] = ids.as_slice() else {
        panic!("two drives: {ids:?}");
    };
    // Once it answers while the agent still waits for it; once it is plugged in when nobody waits any more.
    for answers in [false, true] {
        machine.host.reboot();
        let serial = machine.host.machine().space.unplug("nvme0n1").unwrap();
        let ctx = machine.context();
        machine
            .snapshots
            .send_modify(|snapshot| Arc::make_mut(snapshot).complete = answers);
        let appears = async {
            until_mounted(&ctx, other).await;
            assert!(ctx.registry.get(late).is_err());
            machine.host.machine().space.plug("nvme0n1", &serial);
            machine.look();
            until_mounted(&ctx, late).await;
        };
        let mut from_disk = FromDisk::new(ctx.clone());
        if answers {
            from_disk.first().await;
            from_disk.until(appears).await;
        } else {
            tokio::join!(from_disk.first(), appears);
        }
        from_disk.finish().await;
    }
}

async fn until_mounted(ctx: &Context, id: &str) {
    let end = now() + PATIENCE;
    while ctx.registry.get(id).is_err() {
        assert!(now() < end, "drive {id} is not mounted");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn more_promised_than_there_is_shows_on_the_drive_until_it_ends() {
    let machine = Machine::new();
    let ids = machine.init().await;
    let volumes: Api<Volume> = Api::all(machine.client.clone());
    for (name, drive) in ["v1", "v2"].into_iter().zip([&ids[0], &ids[0]]) {
        let mut volume = api::testing::volume(name)
            .on(NODE, drive)
            .bytes(700 << 20)
            .build();
        (volume.metadata.uid, volume.metadata.resource_version) = (None, None);
        let created = volumes.create(&PostParams::default(), &volume).await;
        created.unwrap();
    }
    let stop = CancellationToken::new();
    let ctx = machine.context();
    let running = tokio::spawn(ctx.volumes.clone().run(stop.clone()));
    while ctx.volumes.promised_bytes(&ids[0]).is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(ctx.volumes.promised_bytes(&ids[0]), Some(1400 << 20));
    assert_eq!(ctx.volumes.promised_bytes(&ids[1]), Some(0));
    let drives = tokio::spawn(reconcile::run(ctx, watch::Sender::new(None), stop.clone()));
    let over = |drive: &Drive| {
        let conditions = drive.status.iter().flat_map(|status| &status.conditions);
        let mut of_type = conditions.filter(|c| c.type_ == ConditionType::OverAllocated);
        of_type.next().map(|c| c.status)
    };
    machine
        .until_drive(&ids[0], |drive| over(drive) == Some(ConditionStatus::True))
        .await;
    assert_eq!(over(&machine.drives().get(&ids[1]).await.unwrap()), None);
    let params = PatchParams::default();
    let smaller = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    volumes.patch("v2", &params, &smaller).await.unwrap();
    volumes
        .delete("v2", &DeleteParams::default())
        .await
        .unwrap();
    machine
        .until_drive(&ids[0], |drive| over(drive) == Some(ConditionStatus::False))
        .await;
    stop.cancel();
    running.await.unwrap();
    drives.await.unwrap();
}

#[tokio::test]
async fn what_a_person_said_of_a_drive_is_on_it() {
    let machine = Machine::new();
    let ids = machine.init().await;
    let stop = CancellationToken::new();
    let ctx = machine.context();
    let registry = ctx.registry.clone();
    let running = tokio::spawn(reconcile::run(ctx, watch::Sender::new(None), stop.clone()));
    let said = Patch::Merge(json!({
        "spec": {"accessTier": "Cold", "suspended": true}, "metadata": {"labels": {"rack": "3"}},
    }));
    let params = PatchParams::default();
    machine
        .drives()
        .patch(&ids[0], &params, &said)
        .await
        .unwrap();
    let place = machine.site.mount_dir(&ids[0]);
    let end = now() + PATIENCE;
    loop {
        let text = machine.host.read_file(&drive_record(&place)).unwrap();
        let said = DriveRecord::parse(&text.unwrap()).unwrap().said;
        if said.access_tier == Some(AccessTier::Cold) {
            assert_eq!(said.labels.get("rack").map(String::as_str), Some("3"));
            assert!(said.suspended);
            break;
        }
        assert!(now() < end, "{said:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The next process, that only mounts it, knows as much.
    stop.cancel();
    running.await.unwrap();
    assert_eq!(registry.said()[&ids[0]].access_tier, Some(AccessTier::Cold));
    machine.host.reboot();
    let ctx = machine.context();
    let mut from_disk = FromDisk::new(ctx.clone());
    from_disk.first().await;
    assert_eq!(from_disk.late(), 0);
    assert_eq!(ctx.registry.said(), registry.said());
    let suspended = [&ids[0], &ids[1]].map(|id| ctx.registry.is_suspended(id));
    assert_eq!(suspended, [true, false]);
}

#[tokio::test]
async fn a_late_mount_is_registered_while_the_api_is_away() {
    let machine = Machine::new();
    let ids = machine.init().await;
    machine.host.reboot();
    machine.host.hang("nvme1n1", true);
    let ctx = machine.context();
    let mut from_disk = FromDisk::new(ctx.clone());
    from_disk.first().await;
    assert_eq!(ctx.registry.all().len(), 1);
    machine.host.hang("nvme1n1", false);
    from_disk.finish().await;
    assert_eq!(ctx.registry.all().len(), ids.len());
}
