use super::*;
use api::DrivePhase;
use api::names::FINALIZER_DEVICE;
use api::testing::{DriveBuilder, drive, lease, node, noon, volume};

fn inventory(drives: Vec<DriveBuilder>) -> Inventory {
    let mut inventory = Inventory::default();
    for drive in drives {
        inventory.apply_drive(&drive.build());
    }
    inventory
}

fn step(lifecycle: &mut Lifecycle, inventory: &mut Inventory, seconds: i64) -> Vec<Effect> {
    let now = noon() + SignedDuration::from_secs(seconds);
    lifecycle.step(inventory, Policy::default(), now, true)
}

fn reasons(effects: &[Effect]) -> Vec<Reason> {
    let reason = |effect: &Effect| match effect {
        Effect::Tell(notice) | Effect::Refuse(notice) => Some(notice.reason),
        Effect::Finalizers { .. }
        | Effect::Place { .. }
        | Effect::Verdict(_)
        | Effect::Silence { .. } => None,
    };
    effects.iter().filter_map(reason).collect()
}

/// Every combination: what becomes of the finalizers.
#[test]
fn the_placement_finalizer() {
    for guarded in [false, true] {
        for deleting in [false, true] {
            for volumes in [0, 1] {
                let mut built = drive("d");
                if !guarded {
                    built = built.unguarded();
                }
                if deleting {
                    built = built.deleting();
                }
                let inventory = inventory(vec![built]);
                let effect = finalizers(inventory.drive("d").unwrap(), volumes);
                let wanted: Option<&[&str]> = match (guarded, deleting, volumes) {
                    (false, false, _) => Some(&[FINALIZER_DEVICE, FINALIZER_PLACEMENT]),
                    (true, true, 0) => Some(&[FINALIZER_DEVICE]),
                    _ => None,
                };
                let found = effect.map(|effect| {
                    let Effect::Finalizers { finalizers, .. } = effect else {
                        panic!("{effect:?}");
                    };
                    finalizers
                });
                assert_eq!(
                    found.as_deref(),
                    wanted
                        .map(|list| list.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>())
                        .as_deref(),
                    "{guarded} {deleting} {volumes}"
                );
            }
        }
    }
}

#[test]
fn a_promise_keeps_a_drive_as_a_volume_does() {
    let mut inventory = inventory(vec![drive("d").deleting()]);
    let entry = VolumeEntry::new(&volume("v").on("n1", "d").build()).unwrap();
    inventory.promise(entry, noon());
    let mut lifecycle = Lifecycle::default();
    let effects = step(&mut lifecycle, &mut inventory, 0);
    assert_eq!(reasons(&effects), [Reason::DriveInUse]);
    assert_eq!(step(&mut lifecycle, &mut inventory, 1), []);
    inventory.withdraw("v");
    let effects = step(&mut lifecycle, &mut inventory, 2);
    assert!(
        matches!(&effects[..], [Effect::Finalizers { .. }]),
        "{effects:?}"
    );
}

#[test]
fn inline_volumes_are_placed_on_their_node_one_after_the_other() {
    let mut inventory = inventory(vec![
        drive("d1").on("n1").holds(3 << 29),
        drive("d2").on("n2").holds(1 << 40),
    ]);
    for name in ["a", "b"] {
        inventory.apply_volume(&volume(name).ephemeral("n1").build());
    }
    let mut lifecycle = Lifecycle::default();
    let effects = step(&mut lifecycle, &mut inventory, 0);
    // 1 GiB each, and the drive of their node holds one.
    let [
        Effect::Place {
            volume: first,
            placement,
            ..
        },
        Effect::Refuse(notice),
    ] = &effects[..]
    else {
        panic!("{effects:?}");
    };
    assert_eq!(
        (first.as_str(), placement.chosen.drive.as_str()),
        ("a", "d1")
    );
    assert_eq!((notice.name.as_str(), notice.reason), ("b", Reason::NoFit));
    assert_eq!(
        notice.message,
        "2 drives: 1 on other nodes, 1 too small (at most 512 MiB free)"
    );
    // Said once, tried again later, and placed when there is room.
    assert_eq!(step(&mut lifecycle, &mut inventory, 6), []);
    inventory.withdraw("a");
    inventory.remove_volume("a");
    assert_eq!(step(&mut lifecycle, &mut inventory, 7), []);
    assert!(matches!(
        &step(&mut lifecycle, &mut inventory, 12)[..],
        [Effect::Place { .. }]
    ));
}

#[test]
fn a_volume_is_moved_once_nobody_uses_it() {
    let mut inventory = inventory(vec![
        drive("d1").on("n1").phase(DrivePhase::Lost),
        drive("d2").on("n1"),
        drive("d3").on("n2"),
    ]);
    let moving = |to: &str| volume("v").on("n1", "d1").moving_to(to);
    let mut lifecycle = Lifecycle::default();
    for (built, said) in [
        (moving("d9"), Reason::DriveNotFound),
        (moving("d3"), Reason::WrongTopology),
        (moving("d1"), Reason::AlreadyManaged),
        (moving("d2").published("/pod"), Reason::StillPublished),
    ] {
        inventory.apply_volume(&built.build());
        let effects = step(&mut lifecycle, &mut inventory, 0);
        assert_eq!(reasons(&effects), [said], "{effects:?}");
        assert_eq!(step(&mut lifecycle, &mut inventory, 1), [], "said once");
    }
    inventory.apply_volume(&moving("d2").build());
    let effects = step(&mut lifecycle, &mut inventory, 2);
    let [Effect::Place { placement, .. }] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert_eq!(placement.chosen.drive, "d2");
    assert_eq!(
        (inventory.volumes_on("d1"), inventory.volumes_on("d2")),
        (0, 1)
    );
    assert_eq!(step(&mut lifecycle, &mut inventory, 3), []);
}

#[test]
fn inline_volumes_wait_for_the_lease_and_for_sense() {
    let mut inventory = inventory(vec![drive("d1")]);
    inventory.apply_volume(&volume("a").ephemeral("n1").build());
    inventory.apply_volume(&volume("gone").ephemeral("n1").deleting().build());
    let odd = volume("odd").ephemeral("n1").parameter("colour", "red");
    inventory.apply_volume(&odd.build());
    let mut lifecycle = Lifecycle::default();
    let none = lifecycle.step(&mut inventory, Policy::default(), noon(), false);
    assert_eq!(none, []);
    let effects = step(&mut lifecycle, &mut inventory, 0);
    assert!(matches!(&effects[0], Effect::Place { volume, .. } if volume == "a"));
    assert_eq!(reasons(&effects), [Reason::InvalidParameter]);
    assert_eq!(effects.len(), 2);
}

#[test]
fn over_allocation_is_told_once_each_time() {
    let mut inventory = inventory(vec![drive("d").holds(1 << 30)]);
    let mut lifecycle = Lifecycle::default();
    for _ in 0..2 {
        inventory.apply_volume(&volume("v").on("n1", "d").bytes(2 << 30).build());
        let effects = step(&mut lifecycle, &mut inventory, 0);
        assert_eq!(reasons(&effects), [Reason::OverAllocated]);
        assert_eq!(step(&mut lifecycle, &mut inventory, 1), []);
        inventory.remove_volume("v");
        assert_eq!(step(&mut lifecycle, &mut inventory, 2), []);
    }
}

/// The node of a volume that may go anywhere.
fn chosen(inventory: &Inventory, seconds: i64) -> Result<String, String> {
    let request = Request {
        name: "v".to_owned(),
        bytes: 1,
        class: Class::default(),
        places: Places::default(),
        now: noon() + SignedDuration::from_secs(seconds),
    };
    let placement = place(&request, inventory, Policy::default());
    let node = placement.map(|placement| placement.chosen.node);
    node.map_err(|no_fit| no_fit.to_string())
}

#[test]
fn a_silent_node_is_marked_and_takes_no_volumes() {
    let at = |seconds| noon() + SignedDuration::from_secs(seconds);
    let mut inventory = inventory(vec![drive("d1").on("n1"), drive("d2").on("n2")]);
    for name in ["n1", "n2"] {
        inventory.apply_node(&node(name, &[]));
        inventory.hear(name, &lease(name, at(0)), at(0));
    }
    let mut lifecycle = Lifecycle::default();
    assert_eq!(step(&mut lifecycle, &mut inventory, 180), []);
    inventory.hear("n2", &lease("n2", at(150)), at(150));
    let effects = step(&mut lifecycle, &mut inventory, 181);
    let silence = |since| Effect::Silence {
        node: "n1".to_owned(),
        uid: "uid-of-n1".to_owned(),
        since,
    };
    assert_eq!(effects, [silence(Some(at(181)))]);
    let mut marked = node("n1", &[]);
    marked.status.get_or_insert_default().silent_since = Some(at(181));
    inventory.apply_node(&marked);
    assert_eq!(step(&mut lifecycle, &mut inventory, 182), []);

    assert_eq!(chosen(&inventory, 182), Ok("n2".to_owned()));
    inventory.remove_drive("d2");
    assert_eq!(
        chosen(&inventory, 182).unwrap_err(),
        "1 drive: 1 on silent nodes"
    );

    inventory.hear("n1", &lease("n1", at(190)), at(190));
    assert_eq!(step(&mut lifecycle, &mut inventory, 190), [silence(None)]);
}

#[test]
fn a_node_without_an_object_or_a_lease_takes_no_volumes_after_a_while() {
    let at = |seconds| noon() + SignedDuration::from_secs(seconds);
    let mut inventory = inventory(vec![drive("d1").on("n1"), drive("d2").on("n2")]);
    inventory.apply_node(&node("n2", &[]));
    let mut lifecycle = Lifecycle::default();
    for seconds in [0, 180] {
        inventory.note_lacks(at(seconds));
        assert_eq!(step(&mut lifecycle, &mut inventory, seconds), []);
        for name in ["n1", "n2"] {
            assert!(!inventory.is_silent(name));
        }
    }
    inventory.note_lacks(at(181));
    // The one has no object that could say so: it is silent at once. The other is when its object says so.
    assert_eq!(chosen(&inventory, 181), Ok("n2".to_owned()));
    let silence = Effect::Silence {
        node: "n2".to_owned(),
        uid: "uid-of-n2".to_owned(),
        since: Some(at(181)),
    };
    assert_eq!(step(&mut lifecycle, &mut inventory, 181), [silence]);
    let mut marked = node("n2", &[]);
    marked.status.get_or_insert_default().silent_since = Some(at(181));
    inventory.apply_node(&marked);
    assert_eq!(
        chosen(&inventory, 182).unwrap_err(),
        "2 drives: 2 on silent nodes"
    );
    let volume = VolumeEntry::new(&volume("v").ephemeral("n1").build()).unwrap();
    let request = inline_request(&volume, at(182)).unwrap();
    let d1 = inventory.drive("d1").unwrap();
    let named = place_on(d1, &request, &inventory, Policy::default());
    assert_eq!(named, Err(Reason::NodeSilent));
}
