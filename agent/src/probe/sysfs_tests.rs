//! Facts read from trees as real machines show them.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::PathBuf;

use api::drive::Transport;

use super::facts::{DeviceFacts, DeviceKind, PartitionOf};
use super::fixture::policy;
use super::machine::Machine;
use super::mounts::{self, Usage};
use super::sysfs::{has_slow_serial, read_all, read_one, slow_serial};
use super::worth_reading;

const QUEUE: [(&str, &str); 4] = [
    ("queue/logical_block_size", "512"),
    ("queue/physical_block_size", "4096"),
    ("queue/rotational", "0"),
    ("queue/zoned", "none"),
];

fn with<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [QUEUE.as_slice(), more].concat()
}

fn facts(machine: &Machine) -> BTreeMap<String, DeviceFacts> {
    read_all(&machine.root(), &Usage::default(), |_| ()).unwrap()
}

#[test]
fn an_nvme_namespace_of_a_subsystem() {
    let machine = Machine::new();
    let subsystem = "virtual/nvme-subsystem/nvme-subsys0";
    let attributes = with(&[
        ("wwid", "eui.0025385b71b00001"),
        ("diskseq", "9"),
        ("hidden", "0"),
    ]);
    machine.device(&format!("{subsystem}/nvme0n1"), "259:1", 100, &attributes);
    let device = format!("sys/devices/{subsystem}");
    machine.link(&format!("{device}/nvme0n1/device"), "../../nvme-subsys0");
    machine.file(&format!("{device}/model"), "Fast One          \n");
    machine.file(&format!("{device}/serial"), "S123  \n");
    machine.file(&format!("{device}/firmware_rev"), "1.2\n");
    machine.file(&format!("{device}/nvme0/transport"), "pcie\n");
    // The path of it that multipath hides.
    let path = "pci0000:00/0000:00:04.0/nvme/nvme0/nvme0c0n1";
    machine.device(path, "0:0", 100, &with(&[("hidden", "1")]));
    let all = facts(&machine);
    let namespace = &all["nvme0n1"];
    assert_eq!(namespace.model, "Fast One");
    assert_eq!(namespace.serial, "S123");
    assert_eq!(namespace.firmware, "1.2");
    assert_eq!(namespace.wwid, "eui.0025385b71b00001");
    assert_eq!(namespace.transport, Transport::Nvme);
    assert_eq!(namespace.size_bytes, 100 << 30);
    assert_eq!(
        (
            namespace.logical_block_bytes,
            namespace.physical_block_bytes
        ),
        (512, 4096)
    );
    assert_eq!(
        (namespace.diskseq, namespace.major_minor.as_str()),
        (9, "259:1")
    );
    assert!(all["nvme0c0n1"].hidden);
    assert!(!worth_reading(&all["nvme0c0n1"], &policy()));
}

#[test]
fn how_devices_are_attached() {
    let pci = "pci0000:00/0000:00:1f.2";
    let cases = [
        (
            format!("{pci}/ata1/host0/target0:0:0/0:0:0:0/block/sda"),
            Transport::Sata,
            "0000:00:1f.2/0:0:0",
        ),
        (
            format!("{pci}/host3/port-3:0/end_device-3:0/target3:0:5/3:0:5:0/block/sdb"),
            Transport::Sas,
            "0000:00:1f.2/0:5:0",
        ),
        (
            "pci0000:00/0000:00:14.0/usb2/2-1/2-1:1.0/host6/target6:0:0/6:0:0:0/block/sdc"
                .to_owned(),
            Transport::Usb,
            "0000:00:14.0/2-1:1.0/0:0:0",
        ),
        (
            "pci0000:00/0000:00:05.0/virtio2/block/vda".to_owned(),
            Transport::Virtio,
            "0000:00:05.0",
        ),
        (
            "platform/soc@0/fe340000.mmc/mmc_host/mmc0/mmc0:0001/block/mmcblk0".to_owned(),
            Transport::Other,
            "soc@0/fe340000.mmc",
        ),
        (
            "pci0000:00/0000:00:06.0/nvme/nvme1/nvme1n1".to_owned(),
            Transport::Nvme,
            "0000:00:06.0",
        ),
        ("virtual/block/bcache0".to_owned(), Transport::Other, ""),
    ];
    let machine = Machine::new();
    for (number, (place, ..)) in cases.iter().enumerate() {
        machine.device(place, &format!("8:{number}"), 10, &QUEUE);
    }
    let all = facts(&machine);
    for (place, transport, fixed) in &cases {
        let name = place.rsplit('/').next().unwrap();
        assert_eq!(
            (all[name].transport, all[name].place.as_str()),
            (*transport, *fixed),
            "{name}"
        );
    }
}

#[test]
fn a_scsi_disk_says_who_it_is() {
    let machine = Machine::new();
    let place = "pci0000:00/0000:00:1f.2/host0/target0:0:0/0:0:0:0/block/sda";
    machine.device(
        place,
        "8:0",
        10,
        &with(&[
            ("device/vendor", "SEAGATE "),
            ("device/model", "ST1"),
            ("device/rev", "E002"),
            ("device/wwid", "naa.5000c500a1b2c3d4"),
            ("queue/rotational", "1"),
        ]),
    );
    machine.file(
        &format!("sys/devices/{place}/device/vpd_pg80"),
        b"\0\x80\0\x08  ZA1234",
    );
    let all = facts(&machine);
    let disk = &all["sda"];
    assert_eq!(
        (disk.model.as_str(), disk.serial.as_str()),
        ("SEAGATE ST1", "ZA1234")
    );
    assert_eq!(
        (disk.wwid.as_str(), disk.firmware.as_str()),
        ("naa.5000c500a1b2c3d4", "E002")
    );
    assert!(disk.rotational);
}

#[test]
fn partitions_know_their_disk_and_it_them() {
    let machine = Machine::new();
    let disk = "pci0000:00/0000:00:05.0/virtio2/block/vda";
    machine.device(disk, "254:0", 10, &QUEUE);
    machine.device(
        &format!("{disk}/vda1"),
        "254:1",
        2,
        &[("partition", "1"), ("start", "2048")],
    );
    machine.device(
        &format!("{disk}/vda2"),
        "254:2",
        8,
        &[("partition", "2"), ("start", "4196352")],
    );
    let all = facts(&machine);
    assert_eq!(all["vda"].partitions, ["vda1", "vda2"]);
    let part = &all["vda2"];
    assert_eq!(part.kind, DeviceKind::Partition);
    assert_eq!(
        (part.size_bytes, part.physical_block_bytes),
        (8 << 30, 4096)
    );
    assert_eq!(part.transport, Transport::Virtio);
    let of = PartitionOf {
        disk: "vda".to_owned(),
        number: 2,
        start_sector: 4_196_352,
    };
    assert_eq!(part.partition, Some(of));
}

/// The kernel counts it as no holder, and lets others hold the ground exclusively.
#[test]
fn a_loop_device_is_told_on_what_it_stands_on() {
    let machine = Machine::new();
    let disk = |name: &str| format!("pci0000:00/0000:00:06.0/nvme/{name}");
    let (ground, other) = (disk("nvme0/nvme0n1"), disk("nvme1/nvme1n1"));
    machine.device(&ground, "259:0", 100, &QUEUE);
    machine.device(&other, "259:5", 100, &QUEUE);
    for (number, start) in [("1", "2048"), ("2", "4096")] {
        let part = format!("{ground}/nvme0n1p{number}");
        let attributes = [("partition", number), ("start", start)];
        machine.device(&part, &format!("259:{number}"), 10, &attributes);
    }
    let on = |number: &str, path: &str| {
        let place = format!("virtual/block/loop{number}");
        let attributes = with(&[("loop/backing_file", path)]);
        machine.device(&place, &format!("7:{number}"), 1, &attributes);
    };
    on("1", "/dev/nvme0n1p1");
    on("2", "/srv/nvme1n1");
    // Another name of the second disk, outside of /dev, by which the host knows it.
    let Some(node) = a_block_device() else {
        return println!(
            "SKIPPED: a_loop_device_is_told_on_what_it_stands_on: no block device is here"
        );
    };
    machine.link("proc/1/root/srv/nvme1n1", node.to_str().unwrap());
    let number = std::fs::metadata(&node).unwrap().rdev();
    let number = format!("{}:{}\n", libc::major(number), libc::minor(number));
    machine.file(&format!("sys/devices/{other}/dev"), number);
    let loops = |name: &str| facts(&machine)[name].loops.clone();
    assert_eq!(loops("nvme0n1p1"), ["loop1"]);
    assert_eq!(loops("nvme1n1"), ["loop2"]);
    for free in ["nvme0n1", "nvme0n1p2", "loop1"] {
        assert!(loops(free).is_empty(), "{free}");
    }
    on("3", "/dev/nvme0n1");
    assert_eq!(loops("nvme0n1"), ["loop3"]);
    assert_eq!(loops("nvme0n1p1"), ["loop1", "loop3"]);
    assert_eq!(loops("nvme0n1p2"), ["loop3"]);
}

/// Any of this machine.
fn a_block_device() -> Option<PathBuf> {
    let nodes = std::fs::read_dir("/dev").ok()?.flatten();
    let mut nodes = nodes.filter(|node| node.file_type().is_ok_and(|it| it.is_block_device()));
    nodes.next().map(|node| node.path())
}

#[test]
fn loop_devices_show_their_file() {
    let machine = Machine::new();
    let image = machine.root().dev.join("a.img");
    std::fs::write(&image, "").unwrap();
    let file = ("loop/backing_file", image.to_str().unwrap());
    let gone = ("loop/backing_file", "/gone.img (deleted)");
    let attributes = with(&[file, ("loop/offset", "4096")]);
    machine.device("virtual/block/loop3", "7:3", 1, &attributes);
    machine.device("virtual/block/loop4", "7:4", 0, &QUEUE);
    machine.device("virtual/block/loop5", "7:5", 1, &with(&[gone]));
    let all = facts(&machine);
    assert_eq!(all.keys().collect::<Vec<_>>(), ["loop3", "loop5"]);
    let backing = all["loop3"].backing.clone().unwrap();
    assert_eq!((backing.path, backing.offset_bytes), (image, 4096));
    assert!(!backing.inode.is_empty());
    let place = "virtual/block/loop3/loop3p1";
    machine.device(place, "259:0", 1, &[("partition", "1"), ("start", "8")]);
    assert_eq!(facts(&machine)["loop3p1"].transport, Transport::Loop);
    let backing = all["loop5"].backing.clone().unwrap();
    assert_eq!(backing.path, PathBuf::from("/gone.img"));
    assert_eq!(backing.inode, "");
}

#[test]
fn stacks_and_odd_kinds() {
    let machine = Machine::new();
    let dm = with(&[("dm/uuid", "LVM-abc"), ("slaves/sda", "")]);
    let md = with(&[
        ("md/level", "raid1"),
        ("slaves/sda", ""),
        ("slaves/sdb", ""),
    ]);
    let pci = "pci0000:00/0000:00:1f.2";
    let devices = [
        ("virtual/block/nbd0", "43:0", 0, QUEUE.to_vec()),
        ("virtual/block/zram0", "252:0", 1, QUEUE.to_vec()),
        ("virtual/block/dm-0", "253:0", 1, dm),
        ("virtual/block/md127", "9:127", 1, md),
        ("virtual/block/sda", "8:0", 1, with(&[("holders/dm-0", "")])),
        (
            &format!("{pci}/ata2/host1/target1:0:0/1:0:0:0/block/sr0"),
            "11:0",
            1,
            QUEUE.to_vec(),
        ),
        (
            &format!("{pci}/cciss0/block/cciss!c0d0"),
            "104:0",
            1,
            QUEUE.to_vec(),
        ),
    ];
    for (place, number, gib, attributes) in &devices {
        machine.device(place, number, *gib, attributes);
    }
    let all = facts(&machine);
    let names: Vec<&str> = all.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["cciss/c0d0", "dm-0", "md127", "sda", "sr0", "zram0"]
    );
    assert_eq!(all["sda"].holders, ["dm-0"]);
    assert_eq!(
        (all["dm-0"].kind, all["dm-0"].wwid.as_str()),
        (DeviceKind::DeviceMapper, "LVM-abc")
    );
    assert_eq!(all["dm-0"].slaves, ["sda"]);
    assert_eq!(
        (all["md127"].kind, all["md127"].slaves.len()),
        (DeviceKind::Md, 2)
    );
    assert_eq!(all["sr0"].kind, DeviceKind::CdRom);
    assert_eq!(all["zram0"].kind, DeviceKind::Unsupported);
    assert_eq!(
        all["cciss/c0d0"].path,
        machine.root().dev.join("cciss/c0d0")
    );
    let one = read_one(&machine.root(), &Usage::default(), "cciss/c0d0").unwrap();
    assert_eq!(one, all["cciss/c0d0"]);
    assert_eq!(read_one(&machine.root(), &Usage::default(), "sdz"), None);
}

#[test]
fn a_virtio_serial_is_asked_for_apart() {
    let machine = Machine::new();
    let place = "pci0000:00/0000:00:05.0/virtio2/block/vda";
    machine.device(
        place,
        "254:0",
        10,
        &with(&[("serial", "data-1"), ("device/vendor", "0x1af4")]),
    );
    let all = facts(&machine);
    assert_eq!(
        (all["vda"].serial.as_str(), all["vda"].model.as_str()),
        ("", "")
    );
    assert!(has_slow_serial(&all["vda"]));
    assert_eq!(slow_serial(&machine.root(), "vda"), "data-1");
}

#[test]
fn nonsense_in_attributes_is_survived() {
    let machine = Machine::new();
    machine.device(
        "virtual/block/loop3",
        "7:3",
        1,
        &[
            ("queue/logical_block_size", "x"),
            ("loop/offset", "-1"),
            ("diskseq", ""),
        ],
    );
    machine.device("virtual/block/bad", "8:1", 1, &[("size", "many")]);
    machine.file("sys/devices/virtual/block/blob/size", [0xff, 0xfe]);
    machine.link("sys/class/block/blob", "../../devices/virtual/block/blob");
    machine.link("sys/class/block/dangling", "../../devices/nowhere");
    let all = facts(&machine);
    assert_eq!(all.keys().collect::<Vec<_>>(), ["loop3"]);
    assert_eq!(all["loop3"].logical_block_bytes, 512);
}

#[test]
fn mounts_and_swaps_come_with_the_facts() {
    let machine = Machine::new();
    machine.device(
        "pci0000:00/0000:00:05.0/virtio2/block/vda",
        "254:0",
        10,
        &QUEUE,
    );
    machine.device(
        "pci0000:00/0000:00:06.0/virtio3/block/vdb",
        "254:16",
        10,
        &QUEUE,
    );
    machine.file("proc/1/mountinfo", "26 1 254:0 / / rw - ext4 /dev/vda rw\n");
    machine.file(
        "proc/self/mountinfo",
        "26 1 254:0 / /mine rw - ext4 /dev/vda rw\n",
    );
    let root = machine.root();
    let usage = mounts::read(&root.proc, &root.dev);
    assert!(usage.of_host);
    let all = read_all(&root, &usage, |_| ()).unwrap();
    assert_eq!(
        all["vda"].mounts,
        [PathBuf::from("/"), PathBuf::from("/mine")]
    );
    assert!(all["vdb"].mounts.is_empty());
}
