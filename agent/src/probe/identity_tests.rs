//! Fingerprints: what is part of them, and what is not.

use std::collections::{BTreeMap, BTreeSet};

use api::Reason;
use block::signature::{Found, Kind};

use super::facts::{BackingFile, DeviceFacts, DeviceKind, Media, PartitionOf};
use super::fixture::{judged, nvme, policy, read, reasons, xfs};
use super::{Policy, judge_all};

#[test]
fn identities_are_stable_and_apart() {
    let identity = |facts: DeviceFacts| judged(vec![facts], &[])["a"].fingerprint.identity.clone();
    let first = identity(nvme("a"));
    assert_eq!(first.len(), 16);
    // Neither the name nor what it holds nor its place is part of it.
    let moved = DeviceFacts {
        major_minor: "259:9".to_owned(),
        place: "0000:09:00.0".to_owned(),
        firmware: "2".to_owned(),
        media: read(vec![xfs("u", "l")], Ok(None)),
        diskseq: 99,
        ..nvme("a")
    };
    assert_eq!(identity(moved), first);
    let changed = [
        DeviceFacts {
            size_bytes: (1 << 40) + 4096,
            ..nvme("a")
        },
        DeviceFacts {
            logical_block_bytes: 4096,
            ..nvme("a")
        },
        DeviceFacts {
            wwid: "eui.2".to_owned(),
            ..nvme("a")
        },
        DeviceFacts {
            wwid: String::new(),
            ..nvme("a")
        },
        DeviceFacts {
            wwid: String::new(),
            serial: "T".to_owned(),
            ..nvme("a")
        },
        DeviceFacts {
            wwid: String::new(),
            serial: String::new(),
            ..nvme("a")
        },
    ];
    let mut all: BTreeSet<String> = changed.into_iter().map(identity).collect();
    all.insert(first);
    assert_eq!(all.len(), 7);
}

#[test]
fn a_shared_disk_is_one_drive_and_a_template_is_not() {
    let on = |node: &str, wwid: &str| {
        let facts = DeviceFacts {
            wwid: wwid.to_owned(),
            ..nvme("a")
        };
        let policy = Policy {
            node: node.to_owned(),
            ..policy()
        };
        let all = judge_all(
            &BTreeMap::from([("a".to_owned(), facts)]),
            &BTreeSet::new(),
            &policy,
        );
        all["a"].drive_id.clone().unwrap()
    };
    for wwid in [
        "eui.0025385b71b00001",
        "naa.5000c500a1b2c3d4",
        "uuid.3f1e2d4c",
    ] {
        assert_eq!(on("n1", wwid), on("n2", wwid), "{wwid}");
    }
    for wwid in [
        "",
        "t10.ATA QEMU HARDDISK QM00001",
        "nvme.1b36-64",
        "naa.3000000000000001",
    ] {
        assert_ne!(on("n1", wwid), on("n2", wwid), "{wwid}");
    }
}

#[test]
fn the_id_of_a_new_drive_follows_from_the_fingerprint() {
    let id = |facts: DeviceFacts| judged(vec![facts], &[])["a"].drive_id.clone().unwrap();
    let first = id(nvme("a"));
    assert_eq!(first, id(nvme("a")));
    assert_eq!(first.len(), 36);
    assert_eq!(&first[14..15], "8", "{first}");
    let holds = DeviceFacts {
        media: read(vec![xfs("u", "l")], Ok(None)),
        ..nvme("a")
    };
    assert_ne!(first, id(holds));
}

#[test]
fn contents_are_told_apart() {
    let content = |media: Media| {
        let all = judged(vec![DeviceFacts { media, ..nvme("a") }], &[]);
        all["a"].fingerprint.content.clone()
    };
    assert_eq!(content(read(vec![], Ok(None))), "blank");
    assert_eq!(content(Media::Unread), "unread");
    let one = content(read(vec![xfs("u", "l")], Ok(None)));
    let others = [
        vec![xfs("v", "l")],
        vec![xfs("u", "m")],
        vec![Found {
            offset: 512,
            ..xfs("u", "l")
        }],
        vec![Found {
            kind: Kind::Ext4,
            ..xfs("u", "l")
        }],
        vec![Found {
            damaged: true,
            ..xfs("u", "l")
        }],
        vec![xfs("u", "l"), xfs("u", "l")],
    ];
    for other in others {
        assert_ne!(content(read(other.clone(), Ok(None))), one, "{other:?}");
    }
}

#[test]
fn stacks_have_the_identity_of_what_they_are_built_upon() {
    let part = DeviceFacts {
        kind: DeviceKind::Partition,
        partition: Some(PartitionOf {
            disk: "a".to_owned(),
            number: 1,
            start_sector: 2048,
        }),
        serial: String::new(),
        wwid: String::new(),
        place: String::new(),
        ..nvme("ap1")
    };
    let second = DeviceFacts {
        partition: Some(PartitionOf {
            disk: "a".to_owned(),
            number: 2,
            start_sector: 9999,
        }),
        ..DeviceFacts {
            name: "ap2".to_owned(),
            ..part.clone()
        }
    };
    let disk = DeviceFacts {
        partitions: vec!["ap1".to_owned(), "ap2".to_owned()],
        ..nvme("a")
    };
    let array = DeviceFacts {
        kind: DeviceKind::Md,
        slaves: vec!["ap1".to_owned(), "ap2".to_owned()],
        ..DeviceFacts {
            name: "md0".to_owned(),
            partition: None,
            ..part.clone()
        }
    };
    let all = judged(vec![disk, part.clone(), second.clone(), array.clone()], &[]);
    let identities: BTreeSet<&str> = all
        .values()
        .map(|one| one.fingerprint.identity.as_str())
        .collect();
    assert_eq!(identities.len(), 4, "{identities:?}");
    assert!(!identities.contains(""));
    // Without its disk a partition has none, and so has what is built upon it.
    let all = judged(vec![part, second, array], &[]);
    assert!(
        all.values()
            .all(|one| reasons(one).contains(&Reason::NoStableIdentity))
    );
}

#[test]
fn a_loop_device_is_its_file() {
    let with = |inode: &str, path: &str, offset_bytes| {
        let facts = DeviceFacts {
            kind: DeviceKind::Loop,
            serial: String::new(),
            wwid: String::new(),
            place: String::new(),
            backing: Some(BackingFile {
                path: path.into(),
                inode: inode.to_owned(),
                offset_bytes,
            }),
            ..nvme("a")
        };
        judged(vec![facts], &[])["a"].fingerprint.identity.clone()
    };
    let all: BTreeSet<String> = [
        with("1:2", "/a.img", 0),
        with("1:3", "/a.img", 0),
        with("1:2", "/b.img", 0),
        with("1:2", "/a.img", 4096),
    ]
    .into();
    assert_eq!(all.len(), 4);
}
