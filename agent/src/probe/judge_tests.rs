//! One device or a few, and what is said of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use api::Reason;
use api::drive::{AccessTier, Transport};
use api::storage_node::DeviceVerdict;
use block::claim::{Claim, ClaimError, ClaimState};
use block::signature::{Found, Kind};

use super::facts::{DeviceFacts, DeviceKind, Media};
use super::fixture::{
    CLUSTER, DRIVE, OTHER_CLUSTER, OTHER_DRIVE, claim, judged, nvme, ours, policy, read, reasons,
    xfs,
};
use super::{Policy, judge_all, worth_reading};

/// One device alone: its reasons, and that the verdict follows from them.
fn check(what: &str, facts: DeviceFacts, drives: &[&str], expected: &[Reason]) {
    let name = facts.name.clone();
    let all = judged(vec![facts], drives);
    let seen = &all[&name];
    assert_eq!(reasons(seen), expected, "{what}: {:?}", seen.reasons);
    let eligible = expected.iter().all(|reason| *reason == Reason::HoldsData);
    assert_eq!(seen.verdict == DeviceVerdict::Eligible, eligible, "{what}");
    assert_eq!(seen.drive_id.is_some(), eligible, "{what}");
}

/// A drive that differs from a good one.
fn but(change: impl FnOnce(&mut DeviceFacts)) -> DeviceFacts {
    let mut facts = nvme("a");
    change(&mut facts);
    facts
}

#[test]
fn what_a_device_is() {
    let nameless = but(|d| {
        d.serial.clear();
        d.wwid.clear();
        d.place.clear();
    });
    let optical = but(|d| {
        d.kind = DeviceKind::CdRom;
        d.removable = true;
        d.media = Media::Unread;
    });
    let cases: Vec<(&str, DeviceFacts, &[Reason])> = vec![
        ("a blank drive", nvme("a"), &[]),
        (
            "too small",
            but(|d| d.size_bytes = (512 << 20) - 512),
            &[Reason::TooSmall],
        ),
        ("just large enough", but(|d| d.size_bytes = 512 << 20), &[]),
        ("hidden", but(|d| d.hidden = true), &[Reason::Hidden]),
        (
            "read-only",
            but(|d| d.read_only = true),
            &[Reason::ReadOnlyDevice],
        ),
        (
            "removable",
            but(|d| d.removable = true),
            &[Reason::RemovableMedia],
        ),
        ("optical", optical, &[Reason::CdRom]),
        (
            "memory",
            but(|d| d.kind = DeviceKind::Unsupported),
            &[Reason::UnsupportedKind],
        ),
        ("zoned", but(|d| d.zoned = true), &[Reason::UnsupportedKind]),
        (
            "odd sectors",
            but(|d| d.logical_block_bytes = 16384),
            &[Reason::UnsupportedSectorSize],
        ),
        ("4 KiB sectors", but(|d| d.logical_block_bytes = 4096), &[]),
        (
            "without any identity",
            nameless,
            &[Reason::NoStableIdentity],
        ),
        (
            "a loop device, allowed",
            but(|d| d.kind = DeviceKind::Loop),
            &[],
        ),
    ];
    for (what, facts, expected) in cases {
        check(what, facts, &[], expected);
    }
    let message = "5 s".to_owned();
    let silent = but(|d| {
        d.media = Media::Unresponsive {
            message: message.clone(),
        }
    });
    check("silent", silent, &[], &[Reason::Unresponsive]);
    let broken = but(|d| d.media = Media::Failed { message });
    check("broken", broken, &[], &[Reason::ReadFailed]);
}

#[test]
fn loop_devices_only_where_they_are_allowed() {
    let facts = BTreeMap::from([("a".to_owned(), but(|d| d.transport = Transport::Loop))]);
    let strict = Policy {
        allow_loop: false,
        ..policy()
    };
    let all = judge_all(&facts, &BTreeSet::new(), &strict);
    assert_eq!(reasons(&all["a"]), [Reason::LoopNotAllowed]);
    assert!(!worth_reading(&facts["a"], &strict));
    assert!(worth_reading(&facts["a"], &policy()));
}

#[test]
fn who_uses_it() {
    let one = |name: &str| vec![name.to_owned()];
    let cases: Vec<(&str, DeviceFacts, Reason)> = vec![
        (
            "mounted",
            but(|d| d.mounts = vec!["/data".into()]),
            Reason::Mounted,
        ),
        ("swap", but(|d| d.swap = true), Reason::SwapInUse),
        (
            "held",
            but(|d| d.holders = one("dm-0")),
            Reason::HeldByOther,
        ),
        (
            "below a loop device",
            but(|d| d.loops = one("loop3")),
            Reason::HeldByOther,
        ),
        (
            "partitioned",
            but(|d| d.partitions = one("ap1")),
            Reason::Partitioned,
        ),
    ];
    for (what, facts, expected) in cases {
        check(what, facts, &[], &[expected]);
    }
    let many = but(|d| d.mounts = (0..5).map(|n| format!("/m{n}").into()).collect());
    let all = judged(vec![many], &[]);
    assert_eq!(all["a"].reasons[0].message, "/m0, /m1, /m2 and 2 more");
}

#[test]
fn all_reasons_are_given_at_once() {
    let wretched = DeviceFacts {
        size_bytes: 4096,
        read_only: true,
        removable: true,
        swap: true,
        mounts: vec!["/x".into()],
        holders: vec!["dm-0".to_owned()],
        partitions: vec!["ap1".to_owned()],
        media: read(vec![xfs("u", "data")], Ok(None)),
        ..nvme("a")
    };
    let expected = [
        Reason::TooSmall,
        Reason::ReadOnlyDevice,
        Reason::Partitioned,
        Reason::HeldByOther,
        Reason::Mounted,
        Reason::SwapInUse,
        Reason::RemovableMedia,
        Reason::HoldsData,
    ];
    check("wretched", wretched, &[], &expected);
}

type Claimed = Result<Option<Claim>, ClaimError>;

fn preparing(cluster: &str) -> Claimed {
    Ok(Some(claim(DRIVE, cluster, ClaimState::Preparing)))
}

fn formatted(cluster: &str) -> Claimed {
    Ok(Some(claim(DRIVE, cluster, ClaimState::Formatted)))
}

fn holds(what: &str, found: &[Found], claim: Claimed, drives: &[&str], reason: Reason) {
    let media = read(found.to_vec(), claim);
    check(what, but(|d| d.media = media), drives, &[reason]);
}

#[test]
fn whose_it_is() {
    use Reason::{Adoptable, AlreadyManaged, ClaimConflict, ForeignCluster, HoldsData};
    let none: &[&str] = &[];
    let object: &[&str] = &[DRIVE];
    let (ours_is, theirs) = (&[ours(DRIVE, CLUSTER)], &[ours(DRIVE, OTHER_CLUSTER)]);
    let others = Ok(Some(claim(OTHER_DRIVE, CLUSTER, ClaimState::Formatted)));
    holds(
        "somebody's XFS",
        &[xfs(DRIVE, "data")],
        Ok(None),
        none,
        HoldsData,
    );
    holds(
        "with its object",
        ours_is,
        formatted(CLUSTER),
        object,
        AlreadyManaged,
    );
    holds("without", ours_is, formatted(CLUSTER), none, Adoptable);
    holds("its claim lost", ours_is, Ok(None), none, Adoptable);
    holds(
        "its claim damaged",
        ours_is,
        Err(ClaimError::Damaged),
        none,
        Adoptable,
    );
    holds(
        "another cluster's",
        theirs,
        formatted(OTHER_CLUSTER),
        none,
        ForeignCluster,
    );
    holds(
        "by its label alone",
        theirs,
        Ok(None),
        object,
        ForeignCluster,
    );
    holds(
        "our label, their claim",
        ours_is,
        formatted(OTHER_CLUSTER),
        object,
        ForeignCluster,
    );
    holds("two ids", ours_is, others, object, ClaimConflict);
}

fn claim_block() -> Found {
    Found {
        offset: 1 << 30,
        kind: Kind::Claim,
        ..xfs("", "")
    }
}

#[test]
fn what_a_claim_means_while_a_drive_is_made() {
    use Reason::{AlreadyManaged, ClaimConflict, ForeignCluster, HoldsData};
    let only = [claim_block()];
    let made = [ours(DRIVE, CLUSTER), claim_block()];
    let remains = [ours("another", CLUSTER), claim_block()];
    let foreign = [ours("another", OTHER_CLUSTER), claim_block()];
    holds("begun", &only, preparing(CLUSTER), &[DRIVE], AlreadyManaged);
    holds("forgotten", &only, preparing(CLUSTER), &[], HoldsData);
    holds("never mounted", &made, preparing(CLUSTER), &[], HoldsData);
    let over = || {
        Ok(Some(Claim {
            named: vec![ours("another", CLUSTER).digest()],
            ..claim(DRIVE, CLUSTER, ClaimState::Preparing)
        }))
    };
    holds(
        "begun over another's remains",
        &remains,
        over(),
        &[DRIVE, "another"],
        AlreadyManaged,
    );
    holds(
        "forgotten over another's remains",
        &remains,
        over(),
        &[],
        HoldsData,
    );
    let since = preparing(CLUSTER);
    holds(
        "another that came since",
        &remains,
        since,
        &[DRIVE, "another"],
        ClaimConflict,
    );
    holds(
        "over a drive of another cluster",
        &foreign,
        preparing(CLUSTER),
        &[DRIVE],
        ForeignCluster,
    );
    holds(
        "theirs",
        &only,
        preparing(OTHER_CLUSTER),
        &[],
        ForeignCluster,
    );
    holds("damaged", &only, Err(ClaimError::Damaged), &[], HoldsData);
}

#[test]
fn what_a_claim_means_after_a_drive_was_in_use() {
    use Reason::ClaimConflict;
    let half = Found {
        unfinished: true,
        ..ours(DRIVE, CLUSTER)
    };
    let later = Err(ClaimError::Version(9));
    let others = [xfs("u", "data"), claim_block()];
    let broken = [half, claim_block()];
    holds(
        "emptied",
        &[claim_block()],
        formatted(CLUSTER),
        &[],
        ClaimConflict,
    );
    holds(
        "formatted by hand",
        &others,
        formatted(CLUSTER),
        &[],
        ClaimConflict,
    );
    holds(
        "half formatted",
        &broken,
        formatted(CLUSTER),
        &[],
        ClaimConflict,
    );
    holds(
        "of a later version",
        &[claim_block()],
        later,
        &[],
        ClaimConflict,
    );
}

#[test]
fn a_drive_in_its_place_is_not_called_mounted() {
    let bears = |mounts: &[&str], cluster| DeviceFacts {
        mounts: mounts.iter().map(PathBuf::from).collect(),
        media: read(vec![ours(DRIVE, cluster)], Ok(None)),
        ..nvme("a")
    };
    let place = format!("/var/lib/ringpv/mnt/{DRIVE}");
    // With the bind mounts of its volumes, which show the same number.
    let in_place = bears(&[&place, "/var/lib/kubelet/pods/x"], CLUSTER);
    check(
        "managed",
        in_place.clone(),
        &[DRIVE],
        &[Reason::AlreadyManaged],
    );
    check("adoptable", in_place, &[], &[Reason::Adoptable]);
    let elsewhere = bears(&["/mnt"], CLUSTER);
    check(
        "elsewhere",
        elsewhere,
        &[DRIVE],
        &[Reason::Mounted, Reason::AlreadyManaged],
    );
    let foreign = bears(&[&place], OTHER_CLUSTER);
    check(
        "foreign",
        foreign,
        &[],
        &[Reason::Mounted, Reason::ForeignCluster],
    );
}

#[test]
fn what_two_devices_must_not_share() {
    let same = |name: &str| DeviceFacts {
        wwid: "eui.1".to_owned(),
        ..nvme(name)
    };
    let all = judged(vec![same("a"), same("b"), nvme("c")], &[]);
    assert_eq!(reasons(&all["a"]), [Reason::DuplicateIdentity]);
    assert_eq!(all["a"].reasons[0].message, "b");
    assert_eq!(reasons(&all["b"]), [Reason::DuplicateIdentity]);
    assert_eq!(reasons(&all["c"]), []);
    // Another size is another device, whatever it says of itself.
    let larger = DeviceFacts {
        size_bytes: 2 << 40,
        ..same("b")
    };
    assert_eq!(reasons(&judged(vec![same("a"), larger], &[])["a"]), []);

    let bears = |name: &str| DeviceFacts {
        media: read(vec![ours(DRIVE, CLUSTER)], Ok(None)),
        ..nvme(name)
    };
    let all = judged(vec![bears("a"), bears("b")], &[DRIVE]);
    for name in ["a", "b"] {
        assert_eq!(
            reasons(&all[name]),
            [Reason::AlreadyManaged, Reason::DuplicateDriveId]
        );
    }
    // One that was mounted before the copy came stays what it was.
    let mounted = DeviceFacts {
        mounts: vec![format!("/var/lib/ringpv/mnt/{DRIVE}").into()],
        ..bears("a")
    };
    let all = judged(vec![mounted, bears("b")], &[DRIVE]);
    assert_eq!(reasons(&all["a"]), [Reason::AlreadyManaged]);
    assert_eq!(
        reasons(&all["b"]),
        [Reason::AlreadyManaged, Reason::DuplicateDriveId]
    );
    // The members of a mirror show the file system of the array; that is no copy.
    let member = DeviceFacts {
        holders: vec!["md0".to_owned()],
        ..bears("a")
    };
    let array = DeviceFacts {
        kind: DeviceKind::Md,
        ..bears("md0")
    };
    let all = judged(vec![member, array], &[DRIVE]);
    assert_eq!(reasons(&all["md0"]), [Reason::AlreadyManaged]);
}

#[test]
fn tiers_follow_from_how_a_device_is_attached() {
    let cases = [
        (false, Transport::Nvme, AccessTier::Hot),
        (false, Transport::NvmeFabric, AccessTier::Warm),
        (false, Transport::Sata, AccessTier::Warm),
        (true, Transport::Sata, AccessTier::Cold),
        (true, Transport::Nvme, AccessTier::Cold),
        (false, Transport::Usb, AccessTier::Cold),
        (true, Transport::Loop, AccessTier::Default),
        (true, Transport::Md, AccessTier::Cold),
        (false, Transport::Virtio, AccessTier::Default),
    ];
    for (rotational, transport, tier) in cases {
        let facts = DeviceFacts {
            rotational,
            transport,
            ..nvme("a")
        };
        assert_eq!(
            judged(vec![facts], &[])["a"].device().proposed_tier,
            tier,
            "{transport:?}"
        );
    }
}
