use super::*;

const OURS: Ours<'_> = Ours {
    drive_id: "d1",
    cluster_id: "c1",
    incarnation: "u1",
    identity: "i1",
    content: "x1",
};

fn found() -> Found<'static> {
    Found {
        major_minor: "7:1",
        size_bytes: 1 << 30,
        identity: "i1",
        content: "x1",
        blank: false,
        claim: Ok(None),
        file_system: None,
        held: "x1".into(),
        strangers: Vec::new(),
    }
}

fn claim(state: ClaimState, drive: &str, cluster: &str, incarnation: &str) -> Claim {
    Claim {
        state,
        drive_id: drive.into(),
        cluster_id: cluster.into(),
        incarnation: incarnation.into(),
        identity: "i1".into(),
        left: None,
        named: Vec::new(),
    }
}

/// The three rights, each as the refusal's first word or `-`.
fn rights(found: &Found<'_>, force: bool) -> [String; 3] {
    [
        Warrant::to_prepare(OURS, force, found),
        Warrant::to_resume(OURS, found),
        Warrant::to_remove(OURS, found),
    ]
    .map(|right| match right {
        Ok(_) => "-".into(),
        Err(why) => format!("{why:?}")
            .chars()
            .take_while(|c| c.is_alphanumeric())
            .collect(),
    })
}

fn let_be(left: &str) -> Claim {
    Claim {
        left: Some(left.into()),
        ..claim(Preparing, "d1", "c1", "u1")
    }
}

use ClaimState::{Formatted, Preparing};
type Change = fn(&mut Found<'static>);

/// Case, what the device shows beside data with a matching fingerprint, the person's force, and the three rights.
const CASES: &[(&str, Change, bool, [&str; 3])] = &[
    (
        "blank",
        |f| f.blank = true,
        false,
        ["-", "NotClaimed", "NotClaimed"],
    ),
    (
        "data, no force",
        |_| {},
        false,
        ["Force", "NotClaimed", "NotClaimed"],
    ),
    (
        "data, force",
        |_| {},
        true,
        ["-", "NotClaimed", "NotClaimed"],
    ),
    (
        "content changed",
        |f| f.content = "x2",
        true,
        ["Content", "NotClaimed", "NotClaimed"],
    ),
    ("other device", |f| f.identity = "i2", true, ["Identity"; 3]),
    (
        "too small",
        |f| {
            f.size_bytes = 4096;
            f.blank = true;
        },
        false,
        ["TooSmall", "NotClaimed", "NotClaimed"],
    ),
    (
        "our claim",
        |f| f.claim = Ok(Some(claim(Preparing, "d1", "c1", "u1"))),
        false,
        ["Force", "-", "-"],
    ),
    (
        "our claim, other device",
        |f| {
            f.claim = Ok(Some(claim(Preparing, "d1", "c1", "u1")));
            f.identity = "i2";
        },
        true,
        ["Identity"; 3],
    ),
    (
        "an earlier object's claim",
        |f| f.claim = Ok(Some(claim(Preparing, "d1", "c1", "u0"))),
        true,
        ["-", "OtherDrive", "-"],
    ),
    (
        "in use as ours",
        |f| f.claim = Ok(Some(claim(Formatted, "d1", "c1", "u1"))),
        true,
        ["InUseBefore", "InUseBefore", "-"],
    ),
    (
        "our file system, claim gone",
        |f| f.file_system = Some(("d1", Bearer::ThisCluster)),
        true,
        ["InUseBefore", "NotClaimed", "NotClaimed"],
    ),
    (
        "another drive, never in use",
        |f| {
            f.claim = Ok(Some(claim(Preparing, "d2", "c1", "u2")));
            f.file_system = Some(("d2", Bearer::ThisCluster));
        },
        true,
        ["-", "OtherDrive", "OtherDrive"],
    ),
    (
        "a drive that came to be under our claim",
        |f| {
            f.claim = Ok(Some(claim(Preparing, "d1", "c1", "u1")));
            f.file_system = Some(("d2", Bearer::ThisCluster));
        },
        true,
        ["OtherDrive"; 3],
    ),
    (
        "somebody's data under our claim",
        |f| {
            f.claim = Ok(Some(claim(Preparing, "d1", "c1", "u1")));
            f.strangers = vec!["ext4".into()];
        },
        false,
        ["Force", "Stranger", "Stranger"],
    ),
    (
        "somebody's data over our drive",
        |f| {
            f.claim = Ok(Some(claim(Formatted, "d1", "c1", "u1")));
            f.strangers = vec!["ext4".into()];
        },
        true,
        ["InUseBefore", "InUseBefore", "Stranger"],
    ),
    (
        "let be, and as it was left",
        |f| f.claim = Ok(Some(let_be("x1"))),
        false,
        ["Force", "-", "-"],
    ),
    (
        "let be, and other than it was left",
        |f| f.claim = Ok(Some(let_be("x0"))),
        false,
        ["Force", "Left", "-"],
    ),
    (
        "another cluster's file system under our claim",
        |f| {
            f.claim = Ok(Some(claim(Preparing, "d1", "c1", "u1")));
            f.file_system = Some(("d2", Bearer::OtherCluster));
        },
        true,
        ["OtherCluster"; 3],
    ),
    (
        "another drive",
        |f| f.claim = Ok(Some(claim(Formatted, "d2", "c1", "u2"))),
        true,
        ["OtherDrive"; 3],
    ),
    (
        "another drive, claim gone",
        |f| f.file_system = Some(("d2", Bearer::ThisCluster)),
        true,
        ["OtherDrive", "NotClaimed", "OtherDrive"],
    ),
    (
        "another cluster's claim",
        |f| f.claim = Ok(Some(claim(Preparing, "d1", "c2", "u1"))),
        true,
        ["OtherCluster"; 3],
    ),
    (
        "another cluster, claim gone",
        |f| f.file_system = Some(("d1", Bearer::OtherCluster)),
        true,
        ["OtherCluster", "NotClaimed", "OtherCluster"],
    ),
    (
        "damaged claim, no force",
        |f| f.claim = Err(ClaimError::Damaged),
        false,
        ["Force", "NotClaimed", "NotClaimed"],
    ),
    (
        "damaged claim, force",
        |f| f.claim = Err(ClaimError::Damaged),
        true,
        ["-", "NotClaimed", "NotClaimed"],
    ),
    (
        "a later version's claim",
        |f| f.claim = Err(ClaimError::Version(2)),
        true,
        ["OtherDrive", "NotClaimed", "OtherDrive"],
    ),
];

#[test]
fn who_may_write() {
    for (name, change, force, expected) in CASES {
        let mut found = found();
        change(&mut found);
        assert_eq!(
            rights(&found, *force),
            expected.map(str::to_owned),
            "{name}"
        );
    }
}

#[test]
fn a_drive_moves_here_only_from_the_cluster_named() {
    use ClaimState::{Formatted, Preparing};
    let right = |claim, from: &str| {
        let found = Found { claim, ..found() };
        Warrant::to_adopt(OURS, from, &found).map(|warrant| warrant.scope)
    };
    let theirs = || Ok(Some(claim(Formatted, "d1", "c2", "u9")));
    assert_eq!(right(theirs(), "c2"), Ok(Scope::Claim));
    assert!(matches!(
        right(theirs(), "c3"),
        Err(Unwarranted::OtherCluster(_))
    ));
    let other = Ok(Some(claim(Formatted, "d2", "c2", "u9")));
    assert!(matches!(
        right(other, "c2"),
        Err(Unwarranted::OtherDrive(_))
    ));
    let incomplete = Ok(Some(claim(Preparing, "d1", "c2", "u9")));
    for missing in [incomplete, Ok(None), Err(ClaimError::Damaged)] {
        assert!(matches!(
            right(missing, "c2"),
            Err(Unwarranted::NotClaimed(_))
        ));
    }
}

#[test]
fn a_warrant_is_for_one_device_and_spares_the_claim() {
    let found = Found {
        blank: true,
        ..found()
    };
    let warrant = Warrant::to_prepare(OURS, false, &found).unwrap();
    warrant.assert_device("7:1", 1 << 30);
    warrant.assert_erasable(Range {
        offset: 0,
        bytes: warrant.claim_offset(),
    });
    let refused = [
        Range {
            offset: 0,
            bytes: warrant.claim_offset() + 1,
        },
        Range {
            offset: warrant.claim_offset() + 4095,
            bytes: 1,
        },
        Range {
            offset: 1 << 30,
            bytes: 1,
        },
        Range {
            offset: u64::MAX,
            bytes: u64::MAX,
        },
    ];
    for range in refused {
        assert!(
            std::panic::catch_unwind(|| warrant.assert_erasable(range)).is_err(),
            "{range:?}"
        );
    }
    for (device, size) in [("7:2", 1 << 30), ("7:1", 1 << 31)] {
        assert!(std::panic::catch_unwind(|| warrant.assert_device(device, size)).is_err());
    }
}

#[test]
fn after_a_secure_erase_only_the_blank_device_itself_will_do() {
    let granted: Vec<&str> = CASES
        .iter()
        .filter(|(_, change, ..)| {
            let mut found = found();
            change(&mut found);
            [false, true]
                .map(|removal| Warrant::to_go_on_blank(OURS, removal, &found).is_ok())
                .contains(&true)
        })
        .map(|(name, ..)| *name)
        .collect();
    assert_eq!(granted, ["blank"]);
    let mut blank = found();
    blank.blank = true;
    let takes_claim =
        |removal| Warrant::to_go_on_blank(OURS, removal, &blank).is_ok_and(|it| it.takes_claim());
    assert_eq!([false, true].map(takes_claim), [false, true]);
}

#[test]
fn a_failed_sanitize_is_done_again_on_that_very_drive_alone() {
    let again = |state, removal, found: &Found<'_>| {
        Warrant::to_sanitize_again(OURS, removal, state, found).map(|it| it.takes_claim())
    };
    let mut unread = found();
    unread.claim = Ok(None);
    unread.file_system = None;
    let (failed, reads) = ((true, true), (true, false));
    assert_eq!(again(failed, false, &unread), Ok(false));
    assert_eq!(again(failed, true, &unread), Ok(true));
    // What can be read is looked at, whatever the drive says of its latest Sanitize.
    for state in [reads, (false, true), (false, false)] {
        assert!(again(state, false, &unread).is_err(), "{state:?}");
    }
    for (name, change, ..) in CASES {
        let mut found = found();
        change(&mut found);
        if found.identity != OURS.identity || found.file_system.is_some() || found.claim != Ok(None)
        {
            assert!(again(failed, false, &found).is_err(), "{name}");
        }
    }
}
