//! The picture of a small machine that is a tree of files, its devices being files too: reads, writes and their
//! closing are real, uevents are given by hand.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::Reason;
use block::probe::Prober;
use nix::sys::stat::Mode;
use tokio::time::timeout;

use super::discovery::ReprobeError;
use super::fixture::{CLUSTER, DRIVE, policy};
use super::machine::Machine;
use super::reader::Reader;
use super::{Discovery, Media, Policy, Seen, Snapshot};

const GIB: u64 = 1 << 30;

/// A machine with these disks of one GiB, all blank.
fn machine(disks: &[&str]) -> Machine {
    let machine = Machine::new();
    for (number, name) in disks.iter().enumerate() {
        let place = format!("pci0000:00/0000:00:0{number}.0/ata1/block/{name}");
        let attributes = [("device/wwid", *name), ("diskseq", "1")];
        machine.device(&place, &format!("8:{number}"), 1, &attributes);
        machine.file(&format!("dev/{name}"), "");
        node(&machine, name).set_len(GIB).unwrap();
    }
    machine.file("proc/1/mountinfo", "");
    machine
}

fn node(machine: &Machine, name: &str) -> std::fs::File {
    std::fs::OpenOptions::new()
        .write(true)
        .open(machine.root().dev.join(name))
        .unwrap()
}

async fn discovery(machine: &Machine, only: Option<BTreeSet<String>>) -> Discovery {
    let reader = Reader {
        root: machine.root(),
        policy: Policy {
            drive_bytes_min: GIB,
            ..policy()
        },
        only,
    };
    Discovery::start(reader, Prober::start(false).unwrap(), BTreeSet::new())
        .await
        .unwrap()
}

/// Waits until the picture is as wanted.
async fn until(discovery: &Discovery, wanted: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
    let mut pictures = discovery.subscribe();
    let found = timeout(
        Duration::from_secs(20),
        pictures.wait_for(|now| wanted(now)),
    )
    .await;
    let found = found.map(|now| Arc::clone(&now.unwrap()));
    found.unwrap_or_else(|_| panic!("never so: {:?}", discovery.snapshot()))
}

fn reasons(seen: &Seen) -> Vec<Reason> {
    seen.reasons.iter().map(|one| one.reason).collect()
}

/// The first sector of the file system of a drive, as far as it is looked at.
fn superblock() -> Vec<u8> {
    let mut sector = vec![0; 512];
    sector[..4].copy_from_slice(b"XFSB");
    let id = DRIVE.replace('-', "");
    for index in 0..16 {
        sector[32 + index] = u8::from_str_radix(&id[2 * index..2 * index + 2], 16).unwrap();
    }
    sector[108..120].copy_from_slice(api::names::filesystem_label(CLUSTER).as_bytes());
    sector
}

#[tokio::test]
async fn what_is_written_is_seen_without_a_word() {
    let machine = machine(&["sda", "sdb"]);
    let discovery = discovery(&machine, None).await;
    // On a busy machine the first picture may be told before the last device has answered.
    let first = until(&discovery, |now| now.complete).await;
    assert!(first.sees_host_mounts);
    assert!(
        first
            .devices
            .values()
            .all(|one| one.is_blank() && one.drive_id.is_some())
    );
    node(&machine, "sdb")
        .write_all_at(&superblock(), 0)
        .unwrap();
    let seen = until(&discovery, |now| !now.devices["sdb"].is_blank()).await;
    assert_eq!(reasons(&seen.devices["sdb"]), [Reason::Adoptable]);
    assert!(Arc::ptr_eq(&seen.devices["sda"], &first.devices["sda"]));
    // Once its Drive object is known it is managed, without another read.
    discovery.set_drives(BTreeSet::from([DRIVE.to_owned()]));
    let seen = until(&discovery, |now| {
        now.devices["sdb"].has(Reason::AlreadyManaged)
    })
    .await;
    assert_eq!(seen.by_drive(DRIVE).count(), 1);
    let identity = &seen.devices["sdb"].fingerprint.identity;
    assert_eq!(seen.by_identity(identity).count(), 1);
}

/// Its disks come in the order of their names: while the second one's attributes are waited for, the first is read.
#[tokio::test]
async fn a_device_is_read_while_others_are_looked_up() {
    let machine = Arc::new(machine(&["sda", "sdb"]));
    let pipe = |path: &Path| {
        std::fs::remove_file(path).unwrap();
        nix::unistd::mkfifo(path, Mode::S_IRWXU).unwrap();
    };
    // A pipe is opened for writing, without waiting, once somebody has it open to read.
    let is_read = |path: &Path| {
        let mut options = std::fs::OpenOptions::new();
        options.write(true).custom_flags(libc::O_NONBLOCK);
        options.open(path).ok()
    };
    let disk = machine.root().dev.join("sda");
    pipe(&disk);
    let attribute = machine.root().sys.join("class/block/sdb/size");
    let size = std::fs::read(&attribute).unwrap();
    pipe(&attribute);
    let its = Arc::clone(&machine);
    let began = tokio::spawn(async move { discovery(&its, None).await });
    let in_time = timeout(Duration::from_secs(20), async {
        while is_read(&disk).is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut answer = loop {
            if let Some(answer) = is_read(&attribute) {
                break answer;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        assert!(!began.is_finished(), "the look goes on");
        answer.write_all(&size).unwrap();
    });
    in_time.await.expect("the first disk is read meanwhile");
    let discovery = began.await.unwrap();
    let seen = until(&discovery, |now| now.devices["sdb"].is_blank()).await;
    assert!(seen.devices["sda"].is_unread(), "a pipe is no disk");
}

/// It is shown without what the silent one holds, long before that is given up.
#[tokio::test]
async fn a_silent_device_keeps_nobody_waiting() {
    let machine = machine(&["sda", "sdb"]);
    let silent = machine.root().dev.join("sda");
    std::fs::remove_file(&silent).unwrap();
    nix::unistd::mkfifo(&silent, Mode::S_IRWXU).unwrap();
    let discovery = discovery(&machine, None).await;
    let seen = until(&discovery, |now| now.devices["sdb"].is_blank()).await;
    assert!(!seen.complete);
    let Media::Unresponsive { message } = &seen.devices["sda"].facts.media else {
        panic!("{:?}", seen.devices["sda"].facts.media);
    };
    assert!(message.contains("not answered yet"), "{message}");
}

#[tokio::test]
async fn devices_come_and_go_and_change_their_size() {
    let machine = machine(&["sda"]);
    let discovery = discovery(&machine, None).await;
    let late = (
        "pci0000:00/0000:00:09.0/ata1/block/sdz",
        [("device/wwid", "z")],
    );
    machine.device(late.0, "8:99", 1, &late.1);
    discovery.changed("sdz");
    // Its node is not there yet; it is told, and tried again.
    let seen = until(&discovery, |now| now.devices.contains_key("sdz")).await;
    assert_eq!(reasons(&seen.devices["sdz"]), [Reason::ReadFailed]);
    machine.file("dev/sdz", "");
    node(&machine, "sdz").set_len(2 * GIB).unwrap();
    let seen = until(&discovery, |now| now.devices["sdz"].is_blank()).await;
    let small = seen.devices["sdz"].fingerprint.clone();
    machine.file(&format!("sys/devices/{}/size", late.0), "4194304\n");
    discovery.changed("/dev/sdz");
    let seen = until(&discovery, |now| now.devices["sdz"].fingerprint != small).await;
    assert!(seen.devices["sdz"].is_blank());
    assert_eq!(seen.devices["sdz"].facts.size_bytes, 2 * GIB);
    std::fs::remove_file(machine.root().sys.join("class/block/sdz")).unwrap();
    discovery.changed("sdz");
    until(&discovery, |now| !now.devices.contains_key("sdz")).await;
}

#[tokio::test]
async fn only_what_is_allowed_is_shown() {
    let machine = machine(&["sda", "sdb"]);
    let only = BTreeSet::from(["sdb".to_owned(), "sdx".to_owned()]);
    let discovery = discovery(&machine, Some(only)).await;
    let shown = discovery.snapshot();
    assert_eq!(shown.devices.keys().collect::<Vec<_>>(), ["sdb"]);
    assert!(shown.complete);
    // Who misses a device learns where it is.
    assert_eq!(shown.left_out.values().collect::<Vec<_>>(), ["sda"]);
}

#[tokio::test]
async fn a_machine_without_devices_is_complete_at_once() {
    let discovery = discovery(&machine(&[]), None).await;
    assert!(discovery.snapshot().complete);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_look_sees_what_the_picture_does_not_show_yet() {
    let machine = machine(&["sda"]);
    let discovery = discovery(&machine, None).await;
    let known = discovery.snapshot().devices["sda"].fingerprint.clone();
    let fresh = |name: &'static str| {
        let discovery = discovery.clone();
        async move {
            let look = move || discovery.reprobe(name);
            tokio::task::spawn_blocking(look).await.unwrap()
        }
    };
    assert_eq!(fresh("sda").await.unwrap().fingerprint, known);
    // Mounted a moment ago: a file tells nobody that it changed, as procfs would.
    machine.file(
        "proc/1/mountinfo",
        "26 1 8:0 / /data rw - xfs /dev/sda rw\n",
    );
    let seen = fresh("/dev/sda").await.unwrap();
    assert_eq!(reasons(&seen), [Reason::Mounted]);
    assert_eq!(seen.fingerprint, known);
    machine.file("proc/1/mountinfo", "");
    node(&machine, "sda")
        .write_all_at(b"data", 300 << 10)
        .unwrap();
    let seen = fresh("sda").await.unwrap();
    assert_eq!(reasons(&seen), [Reason::HoldsData]);
    assert_ne!(seen.fingerprint.content, known.content);
    assert_eq!(seen.fingerprint.identity, known.identity);
    let gone = fresh("sdq").await.unwrap_err();
    assert!(matches!(gone, ReprobeError::NotFound(_)), "{gone}");
}
