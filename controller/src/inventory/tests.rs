use super::*;
use api::testing::{drive, lease, node, noon, volume};
use jiff::SignedDuration;

const GIB: u64 = 1 << 30;

fn with_drives(names: &[&str]) -> Inventory {
    let mut inventory = Inventory::default();
    for name in names {
        inventory.apply_drive(&drive(name).build());
    }
    inventory
}

fn used(inventory: &Inventory, drive: &str) -> (u64, u32) {
    let usage = &inventory.drive(drive).unwrap().usage;
    (usage.bytes / GIB, usage.volumes)
}

fn entry(name: &str, drive: &str, gib: u64) -> VolumeEntry {
    VolumeEntry::new(&volume(name).on("n1", drive).bytes(gib * GIB).build()).unwrap()
}

#[test]
fn a_promise_counts_until_it_is_seen_or_withdrawn() {
    let mut inventory = with_drives(&["d1"]);
    inventory.promise(entry("v1", "d1", 3), noon());
    inventory.promise(entry("v2", "d1", 4), noon());
    assert_eq!(used(&inventory, "d1"), (7, 2));
    // Seen: counted once.
    inventory.apply_volume(&volume("v1").on("n1", "d1").bytes(3 * GIB).build());
    assert_eq!(used(&inventory, "d1"), (7, 2));
    inventory.withdraw("v2");
    assert_eq!(used(&inventory, "d1"), (3, 1));
    assert!(inventory.volume("v2").is_none());
    inventory.remove_volume("v1");
    assert_eq!(used(&inventory, "d1"), (0, 0));
    assert_eq!(inventory.volumes().count(), 0);
}

#[test]
fn growth_counts_before_it_is_written_and_an_old_sight_does_not_undo_it() {
    let mut inventory = with_drives(&["d1"]);
    let small = volume("v1").on("n1", "d1").bytes(3 * GIB);
    inventory.apply_volume(&small.clone().build());
    inventory.promise(entry("v1", "d1", 5), noon());
    assert_eq!(used(&inventory, "d1"), (5, 1));
    // The node reports on the volume before it heard of the growth.
    inventory.apply_volume(&small.build());
    assert_eq!(used(&inventory, "d1"), (5, 1));
    inventory.apply_volume(&volume("v1").on("n1", "d1").bytes(5 * GIB).build());
    inventory.withdraw("v1");
    assert_eq!(used(&inventory, "d1"), (5, 1));
}

#[test]
fn a_drive_that_is_promised_is_not_undone_by_an_old_sight() {
    let mut inventory = with_drives(&["d1", "d2"]);
    let on = |drive: &str| volume("v1").on("n1", drive).bytes(3 * GIB).build();
    inventory.apply_volume(&on("d1"));
    inventory.promise(entry("v1", "d2", 3), noon());
    // Its agent reports on it before it was written that it is moved.
    inventory.apply_volume(&on("d1"));
    assert_eq!(
        (used(&inventory, "d1"), used(&inventory, "d2")),
        ((0, 0), (3, 1))
    );
    inventory.apply_volume(&on("d2"));
    assert!(
        !inventory.is_unconfirmed("v1"),
        "seen, and no promise any more"
    );
    // The same of an inline volume that had no drive.
    inventory.apply_volume(&volume("v2").ephemeral("n1").bytes(GIB).build());
    inventory.promise(entry("v2", "d1", 1), noon());
    inventory.apply_volume(&volume("v2").ephemeral("n1").bytes(GIB).build());
    assert_eq!(used(&inventory, "d1"), (1, 1));
}

#[test]
fn a_sight_of_an_end_ends_only_its_own_promise() {
    let mut inventory = with_drives(&["d1"]);
    inventory.apply_volume(&volume("v1").on("n1", "d1").build());
    let mut again = entry("v1", "d1", 2);
    again.uid = "another".to_owned();
    inventory.promise(again, noon());
    inventory.remove_volume("v1");
    assert_eq!(used(&inventory, "d1"), (2, 1));
    // A growth is of the same one.
    inventory.apply_volume(&volume("v2").on("n1", "d1").build());
    inventory.promise(entry("v2", "d1", 9), noon());
    inventory.remove_volume("v2");
    assert_eq!(used(&inventory, "d1"), (2, 1));
}

#[test]
fn doubt_grows_with_age() {
    let mut inventory = with_drives(&["d1"]);
    inventory.promise(entry("v1", "d1", 1), noon());
    let later = noon() + SignedDuration::from_secs(30);
    assert!(inventory.doubtful(noon()).is_empty());
    assert_eq!(inventory.doubtful(later), ["v1"]);
}

#[test]
fn volumes_may_be_seen_before_their_drive() {
    let mut inventory = Inventory::default();
    inventory.apply_volume(&volume("v1").on("n1", "d1").spread("ring").build());
    assert_eq!(inventory.volumes_on("d1"), 1);
    inventory.apply_drive(&drive("d1").build());
    assert_eq!(used(&inventory, "d1"), (1, 1));
    assert!(inventory.drive("d1").unwrap().usage.spread.contains("ring"));
    // A drive that comes back elsewhere (accept) takes its volumes along, and leaves nothing behind.
    inventory.apply_drive(&drive("d1").on("n2").build());
    assert_eq!(inventory.drives().count(), 1);
    assert_eq!(used(&inventory, "d1"), (1, 1));
    assert!(inventory.node("n1").is_none());
    inventory.remove_drive("d1");
    assert_eq!(
        (inventory.drives().count(), inventory.volumes_on("d1")),
        (0, 1)
    );
}

#[test]
fn an_inline_volume_counts_once_it_has_a_drive() {
    let mut inventory = with_drives(&["d1"]);
    inventory.apply_volume(&volume("v1").ephemeral("n1").build());
    assert_eq!(used(&inventory, "d1"), (0, 0));
    inventory.apply_volume(&volume("v1").ephemeral("n1").on("n1", "d1").build());
    assert_eq!(used(&inventory, "d1"), (1, 1));
}

#[test]
fn references_follow_the_drives() {
    let mut inventory = Inventory::default();
    assert_eq!(inventory.latency_references(), References::default());
    for (name, tier, ns) in [
        ("h1", AccessTier::Hot, 10),
        ("h2", AccessTier::Hot, 30),
        ("h3", AccessTier::Hot, 20),
        ("c1", AccessTier::Cold, 900),
    ] {
        inventory.apply_drive(&drive(name).tier(tier).reads(ns, ns, 9, noon()).build());
    }
    let references = inventory.latency_references();
    assert_eq!(references.tier_ns(AccessTier::Hot), Some(20));
    assert_eq!(references.tier_ns(AccessTier::Cold), Some(900));
    assert_eq!(references.tier_ns(AccessTier::Warm), None);
    assert_eq!(references.all_ns, Some(20));
    inventory.remove_drive("c1");
    assert_eq!(
        inventory.latency_references().tier_ns(AccessTier::Cold),
        None
    );
}

#[test]
fn nodes_are_kept_while_they_have_drives() {
    let mut inventory = with_drives(&["d1"]);
    inventory.apply_node(&node("n1", &[("zone", "a")]));
    inventory.apply_node(&node("n2", &[]));
    inventory.remove_node("n1");
    inventory.remove_node("n2");
    assert!(
        inventory
            .node("n1")
            .is_some_and(|(_, node)| node.topology.is_empty())
    );
    assert!(inventory.node("n2").is_none());
}

fn at(seconds: i64) -> Timestamp {
    noon() + SignedDuration::from_secs(seconds)
}

/// What fell silent without an object, and what is to be written to objects.
fn look(inventory: &mut Inventory, seconds: i64) -> (usize, Vec<(String, bool)>) {
    let fallen = inventory.note_lacks(at(seconds)).len();
    let turns = inventory.turns(at(seconds));
    let turns = turns.map(|(name, _, silent)| (name.to_owned(), silent));
    (fallen, turns.collect())
}

fn heard(seconds: i64) -> Inventory {
    let mut inventory = with_drives(&["d1"]);
    inventory.apply_node(&node("n1", &[]));
    inventory.hear("n1", &lease("n1", at(seconds)), at(seconds));
    inventory
}

#[test]
fn a_node_whose_object_is_gone_falls_silent() {
    let mut inventory = heard(0);
    assert_eq!(look(&mut inventory, 100), (0, vec![]));
    // Its Lease goes with it, somewhat later; that does not count anew.
    inventory.remove_node("n1");
    assert_eq!(look(&mut inventory, 100), (0, vec![]));
    inventory.forget_lease("n1");
    assert_eq!(look(&mut inventory, 280), (0, vec![]));
    assert!(!inventory.is_silent("n1"));
    assert_eq!(look(&mut inventory, 281), (1, vec![]));
    assert!(inventory.is_silent("n1"));
    assert_eq!(look(&mut inventory, 282), (0, vec![]), "said once");
    // A list that begins anew says again that it is gone.
    inventory.remove_node("n1");
    assert!(inventory.is_silent("n1"));
    // Its agent makes an object, and has as long again to make the Lease.
    inventory.apply_node(&node("n1", &[]));
    assert!(!inventory.is_silent("n1"));
    assert_eq!(look(&mut inventory, 300), (0, vec![]));
    assert_eq!(look(&mut inventory, 480), (0, vec![]));
    inventory.hear("n1", &lease("n1", at(480)), at(480));
    assert_eq!(look(&mut inventory, 500), (0, vec![]));
}

#[test]
fn a_node_that_never_had_an_object_falls_silent() {
    let mut inventory = with_drives(&["d1"]);
    // A Lease alone does not help: an agent that lives makes both.
    inventory.hear("n1", &lease("n1", at(0)), at(0));
    assert_eq!(look(&mut inventory, 0), (0, vec![]));
    inventory.hear("n1", &lease("n1", at(150)), at(150));
    assert_eq!(look(&mut inventory, 180), (0, vec![]));
    assert_eq!(look(&mut inventory, 181), (1, vec![]));
    inventory.remove_drive("d1");
    assert!(inventory.node("n1").is_none());
}

#[test]
fn a_silent_node_stays_silent_when_its_object_is_deleted() {
    let mut inventory = heard(0);
    let mut marked = node("n1", &[]);
    marked.status.get_or_insert_default().silent_since = Some(at(181));
    inventory.apply_node(&marked);
    inventory.remove_node("n1");
    assert!(inventory.is_silent("n1"));
    inventory.forget_lease("n1");
    assert_eq!(look(&mut inventory, 1_000), (0, vec![]));
    assert!(inventory.is_silent("n1"));
    inventory.apply_node(&node("n1", &[]));
    assert!(!inventory.is_silent("n1"), "its agent made it anew");
}

#[test]
fn a_node_without_a_lease_falls_silent() {
    let silent = || (0, vec![("n1".to_owned(), true)]);
    let mut inventory = with_drives(&[]);
    inventory.apply_node(&node("n1", &[]));
    assert_eq!(look(&mut inventory, 0), (0, vec![]));
    assert_eq!(look(&mut inventory, 180), (0, vec![]));
    assert_eq!(look(&mut inventory, 181), silent());
    assert_eq!(look(&mut inventory, 182), silent(), "until it is written");
    // Another object is a sign of life.
    let mut other = node("n1", &[]);
    other.metadata.uid = Some("another".to_owned());
    inventory.apply_node(&other);
    assert_eq!(look(&mut inventory, 183), (0, vec![]));
    assert_eq!(look(&mut inventory, 364), silent());
    other.status.get_or_insert_default().silent_since = Some(at(364));
    inventory.apply_node(&other);
    assert_eq!(look(&mut inventory, 365), (0, vec![]));
    // The first Lease that is seen may be an old one; the next is a renewal.
    inventory.hear("n1", &lease("n1", at(370)), at(370));
    assert_eq!(look(&mut inventory, 370), (0, vec![]));
    inventory.hear("n1", &lease("n1", at(430)), at(430));
    let heard_again = (0, vec![("n1".to_owned(), false)]);
    assert_eq!(look(&mut inventory, 430), heard_again);
}

#[test]
fn a_lease_that_goes_and_comes_back_in_time_changes_nothing() {
    let mut inventory = heard(0);
    assert_eq!(look(&mut inventory, 100), (0, vec![]));
    inventory.forget_lease("n1");
    assert_eq!(look(&mut inventory, 101), (0, vec![]));
    assert_eq!(look(&mut inventory, 281), (0, vec![]));
    inventory.hear("n1", &lease("n1", at(281)), at(281));
    assert_eq!(look(&mut inventory, 282), (0, vec![]));
    inventory.forget_lease("n1");
    assert_eq!(look(&mut inventory, 300), (0, vec![]));
    assert_eq!(look(&mut inventory, 480), (0, vec![]), "counted anew");
}

#[test]
fn data_without_an_object_count_until_they_have_one_or_are_gone() {
    let mut inventory = with_drives(&["d1", "d2"]);
    let left: api::storage_node::Orphan = serde_json::from_value(serde_json::json!({
        "volume": "v1", "drive": "d1", "capacityBytes": 3 * GIB, "since": noon(),
    }))
    .unwrap();
    let mut reported = node("n1", &[]);
    reported.status.as_mut().unwrap().orphans.push(left);
    inventory.apply_node(&reported);
    assert_eq!(used(&inventory, "d1"), (3, 0));
    assert_eq!(used(&inventory, "d2"), (0, 0));
    inventory.apply_drive(&drive("d1").build());
    assert_eq!(used(&inventory, "d1"), (3, 0), "whoever was heard of first");
    inventory.promise(entry("v1", "d1", 3), noon());
    assert_eq!(used(&inventory, "d1"), (3, 1), "adopted");
    inventory.withdraw("v1");
    inventory.apply_node(&node("n1", &[]));
    assert_eq!(used(&inventory, "d1"), (0, 0));
}

#[test]
fn listing_goes_on_after_a_name_that_is_gone() {
    let mut inventory = with_drives(&["d1"]);
    for name in ["a", "b", "c"] {
        inventory.apply_volume(&volume(name).on("n1", "d1").build());
    }
    let names = |after: &str| -> Vec<String> {
        inventory
            .volumes_after(after)
            .map(|entry| entry.name.clone())
            .collect()
    };
    assert_eq!(names(""), ["a", "b", "c"]);
    assert_eq!(names("a"), ["b", "c"]);
    assert_eq!(names("bb"), ["c"]);
}
