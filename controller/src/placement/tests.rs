use super::request::Class;
use super::*;
use api::drive::HealthState;
use api::testing::{DriveBuilder, drive, node, noon, volume};
use api::{DrivePhase, Reason};
use proptest::prelude::*;

const GIB: u64 = 1 << 30;

fn inventory(drives: Vec<DriveBuilder>) -> Inventory {
    let mut inventory = Inventory::default();
    for drive in drives {
        inventory.apply_drive(&drive.build());
    }
    inventory
}

fn request(gib: u64, parameters: &[(&str, &str)]) -> Request {
    let parameters = parameters.iter();
    let parameters = parameters.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Request {
        name: "v".to_owned(),
        bytes: gib * GIB,
        class: Class::parse(&parameters.collect()).unwrap(),
        places: Places::default(),
        now: noon(),
    }
}

fn chosen(request: &Request, inventory: &Inventory) -> Result<String, String> {
    place(request, inventory, Policy::default())
        .map(|placement| placement.chosen.drive)
        .map_err(|no_fit| no_fit.to_string())
}

/// The reason with which `drive`, which holds a volume of the group `ring`, is refused for 10 GiB.
fn refused_with(drive: DriveBuilder, parameters: &[(&str, &str)]) -> Reason {
    let mut inventory = inventory(vec![drive]);
    inventory.apply_volume(
        &volume("other")
            .on("n1", "d")
            .bytes(1)
            .spread("ring")
            .build(),
    );
    let question = request(10, parameters);
    let no_fit = place(&question, &inventory, Policy::default()).unwrap_err();
    let [Refusals { reason, count: 1 }] = no_fit.refused[..] else {
        panic!("{no_fit:?}");
    };
    let list = refusals(&question, &inventory, Policy::default(), 9);
    assert_eq!(list.first().map(|refused| refused.reason), Some(reason));
    reason
}

#[test]
fn what_a_drive_is_refuses_with_its_reason() {
    for (drive, reason) in [
        (drive("d").deleting(), Reason::BeingRemoved),
        (drive("d").phase(DrivePhase::Preparing), Reason::NotReady),
        (drive("d").phase(DrivePhase::Lost), Reason::NotReady),
        (drive("d").suspended(), Reason::NotReady),
        (drive("d").unguarded(), Reason::NotReady),
        (drive("d").cordoned(), Reason::Cordoned),
        (
            drive("d").health(HealthState::Slow, Reason::Slow),
            Reason::Unhealthy,
        ),
        (
            drive("d").health(HealthState::Probation, Reason::Probation),
            Reason::Unhealthy,
        ),
        (
            drive("d").health(HealthState::Failing, Reason::IoErrors),
            Reason::Unhealthy,
        ),
        (drive("d").quota(false), Reason::CapacityNotEnforced),
        (drive("d").holds(GIB), Reason::InsufficientCapacity),
    ] {
        assert_eq!(refused_with(drive, &[]), reason);
    }
    // The same drive takes what asks for none of it.
    let inventory = inventory(vec![drive("d")]);
    assert_eq!(chosen(&request(10, &[]), &inventory), Ok("d".to_owned()));
    let none = Policy {
        volumes_per_drive_max: 0,
        ..Policy::default()
    };
    let no_fit = place(&request(10, &[]), &inventory, none).unwrap_err();
    assert_eq!(
        no_fit.refused.first().map(|r| r.reason),
        Some(Reason::TooManyVolumes)
    );
}

#[test]
fn what_a_class_wants_refuses_with_its_reason() {
    let measured = drive("d").reads(9, 1_000_001, 99, noon());
    for (drive, key, value, reason) in [
        (
            drive("d").tier(AccessTier::Cold),
            "access-tier",
            "hot,warm",
            Reason::WrongTier,
        ),
        (
            drive("d").label("disk", "slow"),
            "drive-selector",
            "disk=fast",
            Reason::LabelMismatch,
        ),
        (drive("d"), "spread-id", "ring", Reason::SpreadTaken),
        (
            drive("d"),
            "max-read-latency-p99",
            "1ms",
            Reason::LatencyUnknown,
        ),
        (measured, "max-read-latency-p99", "1ms", Reason::TooSlow),
    ] {
        assert_eq!(refused_with(drive, &[(key, value)]), reason);
    }
}

#[test]
fn what_a_class_asks_for_passes() {
    let fits = drive("d")
        .tier(AccessTier::Warm)
        .label("disk", "fast")
        .quota(false)
        .reads(100_000, 400_000, 1_000, noon());
    let inventory = inventory(vec![fits]);
    let all = [
        ("access-tier", "hot,warm"),
        ("drive-selector", "disk in (fast)"),
        ("spread-id", "ring"),
        ("max-read-latency-p99", "400us"),
        ("capacity-enforcement", "best-effort"),
    ];
    assert_eq!(chosen(&request(100, &all), &inventory), Ok("d".to_owned()));
}

#[test]
fn no_fit_counts_most_first() {
    let mut drives: Vec<_> = (0..3)
        .map(|i| drive(&format!("s{i}")).holds(GIB << i))
        .collect();
    drives.extend((0..2).map(|i| drive(&format!("c{i}")).cordoned()));
    drives.push(drive("x").on("n2"));
    let mut asked = request(10, &[]);
    asked.places = Places::nodes(["n1"]);
    let no_fit = place(&asked, &inventory(drives), Policy::default()).unwrap_err();
    assert_eq!(
        no_fit.to_string(),
        "6 drives: 3 too small (at most 4 GiB free), 2 cordoned, 1 on other nodes"
    );
    assert_eq!(no_fit.reason(), Reason::NoFit);
    let none = place(&asked, &Inventory::default(), Policy::default()).unwrap_err();
    assert_eq!(
        (none.reason(), none.to_string().as_str()),
        (Reason::NoDrives, "there are no drives")
    );
}

#[test]
fn the_fast_drive_wins_and_the_unknown_never_by_latency() {
    let fast = || drive("fast").reads(50_000, 90_000, 1_000, noon());
    let slow = || drive("slow").reads(500_000, 900_000, 1_000, noon());
    let third = || drive("third").reads(400_000, 900_000, 1_000, noon());
    let all = inventory(vec![slow(), fast(), third(), drive("unknown")]);
    let placement = place(&request(1, &[]), &all, Policy::default()).unwrap();
    assert_eq!(placement.chosen.drive, "fast");
    let last = placement.runners_up.last().unwrap();
    assert_eq!((last.drive.as_str(), last.latency), ("unknown", 0));
    // Though weighed alone, an unknown drive does not beat a slow one.
    let only = [("weights", "latency=1,capacity=0,tier=0,volumes=0")];
    let two = inventory(vec![slow(), drive("unknown")]);
    assert_eq!(chosen(&request(1, &only), &two), Ok("slow".to_owned()));
    // Unless the slow one has no room.
    let mut full = inventory(vec![slow(), drive("unknown")]);
    full.apply_volume(&volume("big").on("n1", "slow").bytes(100 * GIB).build());
    assert_eq!(chosen(&request(1, &only), &full), Ok("unknown".to_owned()));
}

#[test]
fn tiers_are_tried_in_their_order_but_not_at_any_price() {
    let hot = || {
        drive("hot")
            .tier(AccessTier::Hot)
            .reads(50_000, 90_000, 1_000, noon())
    };
    let cold = || {
        drive("cold")
            .tier(AccessTier::Cold)
            .reads(5_000_000, 9_000_000, 1_000, noon())
    };
    let both = inventory(vec![hot(), cold()]);
    assert_eq!(
        chosen(&request(1, &[("access-tier", "hot,cold")]), &both),
        Ok("hot".to_owned())
    );
    assert_eq!(
        chosen(&request(1, &[("access-tier", "cold,hot")]), &both),
        Ok("cold".to_owned())
    );
    let mut full = both;
    full.apply_volume(&volume("big").on("n1", "hot").bytes(100 * GIB).build());
    assert_eq!(
        chosen(&request(1, &[("access-tier", "hot,cold")]), &full),
        Ok("cold".to_owned())
    );
}

#[test]
fn equal_drives_fill_evenly() {
    let mut inventory = inventory((0..4).map(|i| drive(&format!("d{i}"))).collect());
    for index in 0..40 {
        let mut asked = request(2, &[]);
        asked.name = format!("v{index}");
        let drive = chosen(&asked, &inventory).unwrap();
        inventory.apply_volume(&volume(&asked.name).on("n1", &drive).bytes(2 * GIB).build());
    }
    for drive in inventory.drives() {
        assert_eq!(drive.usage.volumes, 10, "{}", drive.name);
    }
}

#[test]
fn places() {
    let zone = |zone: &str| Segments::from([("zone".to_owned(), zone.to_owned())]);
    let host = |name: &str| Segments::from([(TOPOLOGY_NODE.to_owned(), name.to_owned())]);
    let mut inventory = inventory(vec![
        drive("d1").on("n1").holds(50 * GIB),
        drive("d2").on("n2").holds(500 * GIB),
        drive("d3").on("n3").holds(50 * GIB),
    ]);
    for (name, in_zone) in [("n1", "a"), ("n2", "a"), ("n3", "b")] {
        inventory.apply_node(&node(name, &[("zone", in_zone)]));
    }
    for (required, preferred, wanted) in [
        (vec![], vec![], Some("d2")),
        (vec![host("n1")], vec![], Some("d1")),
        (
            vec![host("n1"), host("n3")],
            vec![host("n3"), host("n1")],
            Some("d3"),
        ),
        (
            vec![host("n1"), host("n3")],
            vec![host("n1"), host("n3")],
            Some("d1"),
        ),
        (vec![zone("b")], vec![], Some("d3")),
        (vec![zone("a"), zone("b")], vec![zone("b")], Some("d3")),
        (vec![zone("a")], vec![host("n1")], Some("d1")),
        (vec![], vec![host("n3")], Some("d3")),
        // Nothing fits where it is preferred: then elsewhere, if that is allowed.
        (vec![], vec![host("absent")], Some("d2")),
        (vec![host("absent")], vec![], None),
        (vec![zone("c")], vec![], None),
        // All segments of one place hold together.
        (
            vec![zone("b").into_iter().chain(host("n1")).collect()],
            vec![],
            None,
        ),
    ] {
        let mut asked = request(10, &[]);
        asked.places = Places {
            required,
            preferred,
        };
        let found = chosen(&asked, &inventory).ok();
        assert_eq!(found.as_deref(), wanted, "{:?}", asked.places);
    }
    // Preferred, but full: the next.
    inventory.apply_volume(&volume("big").on("n3", "d3").bytes(45 * GIB).build());
    let mut asked = request(10, &[]);
    asked.places.preferred = vec![host("n3"), host("n1")];
    assert_eq!(chosen(&asked, &inventory), Ok("d1".to_owned()));
}

#[test]
fn room_is_what_place_would_find() {
    let mut inventory = inventory(vec![
        drive("d1").holds(10 * GIB),
        drive("d2").holds(30 * GIB),
        drive("d3").holds(90 * GIB).cordoned(),
    ]);
    inventory.apply_volume(&volume("v1").on("n1", "d2").bytes(10 * GIB).build());
    let room = room(&request(0, &[]), &inventory, Policy::default());
    assert_eq!((room.largest_bytes, room.free_bytes), (20 * GIB, 30 * GIB));
    assert!(chosen(&request(20, &[]), &inventory).is_ok());
    assert!(chosen(&request(21, &[]), &inventory).is_err());
}

#[test]
fn where_switched_on_fast_drives_look_roomier_than_they_are_slow() {
    let weighted = Policy {
        capacity_by_latency: true,
        ..Policy::default()
    };
    let free = |drives: Vec<DriveBuilder>| {
        let room = room(&request(0, &[]), &inventory(drives), weighted);
        assert_eq!(
            room.largest_bytes,
            10 * GIB,
            "the largest fit is the true one"
        );
        room.free_bytes
    };
    let holds = |name: &str| drive(name).holds(10 * GIB);
    let unknown = free(vec![holds("unknown")]);
    assert_eq!(unknown, 5 * GIB);
    let measured = |ns: u64| {
        let reference = drive("other")
            .holds(0)
            .reads(100_000, 200_000, 1_000, noon());
        free(vec![holds("d").reads(ns, 2 * ns, 1_000, noon()), reference])
    };
    assert!(measured(50_000) > measured(1_000_000), "fast above slow");
    assert!(
        measured(1_000_000) >= unknown,
        "nothing is below the unknown"
    );
}

proptest! {
    /// Whatever is asked in whatever order: no drive is promised more than it holds, and the same question has the
    /// same answer, however the inventory came to be.
    #[test]
    fn never_beyond_capacity_and_always_the_same(
        sizes in prop::collection::vec(1_u64..200, 1..12),
        asked in prop::collection::vec((1_u64..60, any::<bool>(), 0_u8..4), 1..80),
    ) {
        let drives = || sizes.iter().enumerate().map(|(index, gib)| {
            drive(&format!("d{index}")).on(&format!("n{}", index % 3)).holds(gib * GIB)
        });
        let mut ahead = inventory(drives().collect());
        let mut behind = inventory(drives().rev().collect());
        for (index, (gib, spread, gone)) in asked.iter().enumerate() {
            let group: &[(&str, &str)] = if *spread { &[("spread-id", "ring")] } else { &[] };
            let mut question = request(*gib, group);
            question.name = format!("v{index}");
            let placement = place(&question, &ahead, Policy::default());
            prop_assert_eq!(&placement, &place(&question, &behind, Policy::default()));
            if let Ok(placement) = placement {
                let mut built = volume(&question.name)
                    .on(&placement.chosen.node, &placement.chosen.drive)
                    .bytes(question.bytes);
                if *spread {
                    built = built.spread("ring");
                }
                // One learns of it by its own promise, the other by a watch event.
                let built = built.build();
                let entry = crate::inventory::VolumeEntry::new(&built).unwrap();
                ahead.promise(entry, noon());
                behind.apply_volume(&built);
            }
            if *gone == 0 && index > 0 {
                let name = format!("v{}", index / 2);
                ahead.withdraw(&name);
                behind.remove_volume(&name);
            }
            for drive in ahead.drives() {
                prop_assert!(drive.usage.bytes <= drive.allocatable_bytes);
                prop_assert!(!drive.is_over_allocated());
                let seen = behind.drive(&drive.name).map(|drive| &drive.usage);
                prop_assert_eq!(Some(&drive.usage), seen);
            }
        }
    }
}
