//! Tables of plans, and every plan broken off after each of its steps.

use std::path::{Path, PathBuf};

use super::*;
use crate::host::{MountEntry, QuotaUsage};
use crate::volumes::record::RecordError;
use crate::volumes::seen::Others;
use crate::volumes::testing::{mounted, promise, record};

const GIB: u64 = 1 << 30;
const STAGING: &str = "/staging";
const TARGET: &str = "/target";

fn empty_at(target: &Path) -> MountEntry {
    MountEntry {
        fs_type: "tmpfs".into(),
        source: "tmpfs".into(),
        ..mounted("/", target.to_str().unwrap(), true)
    }
}

/// A drive of 10 GiB with quota and nothing on it.
fn nothing() -> Seen {
    Seen {
        device: Some("259:0".into()),
        quota_enforced: true,
        allocatable_bytes: 10 * GIB,
        others: Some(Others::default()),
        ..Seen::default()
    }
}

/// The same with the volume of `record` on it.
fn provisioned(record: &Record) -> Seen {
    Seen {
        directory: Some(record.project_id),
        quota: Some(QuotaUsage {
            limits: limits(record.capacity_bytes),
            ..QuotaUsage::default()
        }),
        record: Some(Ok(record.clone())),
        ..nothing()
    }
}

fn staged() -> Wanted {
    Wanted::Staged {
        path: STAGING.into(),
    }
}

fn published(read_only: bool, exclusive: bool) -> Wanted {
    Wanted::Published {
        staging: Some(STAGING.into()),
        target: TARGET.into(),
        read_only,
        exclusive,
    }
}

/// What an action changes, as the kernel would.
fn happen(seen: &mut Seen, volume: &str, action: &Action) {
    match action {
        Action::WriteRecord(record) => seen.record = Some(Ok(record.clone())),
        Action::MakeDirectory => seen.directory = Some(0),
        Action::SetProject(project) => seen.directory = Some(*project),
        Action::SetLimits(_, limits) => {
            seen.quota = Some(QuotaUsage {
                limits: *limits,
                ..QuotaUsage::default()
            });
        }
        Action::MakeTarget(_) | Action::RemoveTarget(_) => {}
        Action::Bind { target, read_only } => {
            seen.mounts.retain(|entry| &entry.target != target);
            let root = format!("/volumes/{volume}");
            seen.mounts
                .push(mounted(&root, target.to_str().unwrap(), *read_only));
        }
        Action::BindEmpty(target) => seen.mounts.push(empty_at(target)),
        Action::Unmount(target) => seen.mounts.retain(|entry| &entry.target != target),
        Action::Trash(name) => {
            seen.directory = None;
            seen.quota = None;
            seen.trash.push(name.clone());
        }
        Action::RemoveRecord => seen.record = None,
    }
}

fn carry_out(mut seen: Seen, volume: &str, actions: &[Action]) -> Seen {
    for action in actions {
        happen(&mut seen, volume, action);
    }
    seen
}

#[test]
fn a_plan_broken_off_anywhere_is_completed_by_the_next_and_then_nothing_is_left_to_do() {
    let new = record("v1", 1, GIB);
    let grown = promise(&record("v1", 1, 2 * GIB));
    let mut on_stage = provisioned(&new);
    on_stage.mounts.push(mounted("/volumes/v1", STAGING, false));
    let mut lost_id = provisioned(&new);
    lost_id.directory = Some(0);
    let suspended = Promise {
        suspended: true,
        ..promise(&new)
    };
    let mut stood_in = provisioned(&new);
    stood_in.mounts.push(empty_at(Path::new(STAGING)));
    for (promise, wanted, seen, steps) in [
        (promise(&new), Wanted::Provisioned, nothing(), 4),
        (promise(&new), staged(), nothing(), 6),
        (promise(&new), staged(), provisioned(&new), 2),
        (promise(&new), staged(), on_stage.clone(), 0),
        (promise(&new), staged(), lost_id, 4),
        (promise(&new), staged(), stood_in.clone(), 2),
        (promise(&new), published(false, true), on_stage.clone(), 2),
        (promise(&new), published(true, false), on_stage.clone(), 2),
        (
            grown,
            Wanted::Expanded {
                required_bytes: 2 * GIB,
            },
            provisioned(&new),
            2,
        ),
        (suspended.clone(), staged(), nothing(), 2),
        (suspended.clone(), staged(), on_stage, 0),
        (suspended, published(false, true), stood_in, 2),
    ] {
        let whole = plan(&promise, &wanted, &seen).unwrap();
        assert_eq!(whole.actions.len(), steps, "{wanted:?} {:?}", whole.actions);
        let end = carry_out(seen.clone(), "v1", &whole.actions);
        for done in 0..=whole.actions.len() {
            let broken = carry_out(seen.clone(), "v1", &whole.actions[..done]);
            let rest = plan(&promise, &wanted, &broken).unwrap();
            let mended = carry_out(broken, "v1", &rest.actions);
            assert_eq!(mended, end, "{wanted:?} after {done}");
            let again = plan(&promise, &wanted, &mended).unwrap();
            assert_eq!(again.actions, Vec::new(), "{wanted:?}");
        }
    }
}

#[test]
fn a_read_only_bind_broken_between_its_halves_is_finished() {
    let own = record("v1", 1, GIB);
    let mut seen = provisioned(&own);
    seen.mounts = vec![
        mounted("/volumes/v1", STAGING, false),
        mounted("/volumes/v1", TARGET, false),
    ];
    let bind = Action::Bind {
        target: TARGET.into(),
        read_only: true,
    };
    let rest = plan(&promise(&own), &published(true, false), &seen).unwrap();
    assert_eq!(rest.actions, vec![bind]);
}

#[test]
fn limits_stand_before_anything_is_mounted() {
    let plan = plan(&promise(&record("v1", 1, GIB)), &staged(), &nothing()).unwrap();
    let place = |wanted: fn(&Action) -> bool| plan.actions.iter().position(wanted).unwrap();
    let order = [
        place(|a| matches!(a, Action::WriteRecord(_))),
        place(|a| matches!(a, Action::MakeDirectory)),
        place(|a| matches!(a, Action::SetProject(_))),
        place(|a| matches!(a, Action::SetLimits(..))),
        place(|a| matches!(a, Action::Bind { .. })),
    ];
    assert!(order.is_sorted(), "{order:?}");
}

#[test]
fn project_ids() {
    let others = |ids: &[u32]| {
        Some(Others {
            recorded_bytes: 0,
            projects: ids.iter().copied().collect(),
        })
    };
    // On the directory, recorded, taken by others: chosen.
    for (directory, recorded, taken, chosen) in [
        (None, 0, vec![], 1),
        (None, 0, vec![0, 1, 2, 4], 3),
        (None, 5, vec![], 5),
        (None, 5, vec![5], 1),
        (Some(0), 5, vec![], 5),
        (Some(9), 5, vec![], 9),
        // Somebody gave the directory the id of another volume: the recorded one is set again.
        (Some(9), 5, vec![9], 5),
        (Some(9), 9, vec![1, 9], 2),
    ] {
        let own = record("v1", recorded, GIB);
        let mut seen = provisioned(&own);
        seen.directory = directory;
        seen.others = others(&taken);
        if recorded == 0 {
            seen.record = None;
        }
        let plan = plan(&promise(&own), &Wanted::Provisioned, &seen).unwrap();
        assert_eq!(
            plan.project_id, chosen,
            "{directory:?} {recorded} {taken:?}"
        );
        let limited = plan
            .actions
            .iter()
            .any(|action| matches!(action, Action::SetLimits(id, _) if *id == chosen));
        assert_eq!(limited, directory != Some(chosen), "{:?}", plan.actions);
    }
}

fn refusal(promise: &Promise, wanted: &Wanted, seen: &Seen) -> Reason {
    plan(promise, wanted, seen).unwrap_err().reason
}

#[test]
fn capacity_is_enforced_or_refused() {
    let own = record("v1", 1, GIB);
    let mut plain = nothing();
    plain.quota_enforced = false;
    assert_eq!(
        refusal(&promise(&own), &staged(), &plain),
        Reason::CapacityNotEnforced
    );
    let mut best_effort = promise(&own);
    best_effort.record.capacity_enforcement = CapacityEnforcement::BestEffort;
    let plan = plan(&best_effort, &staged(), &plain).unwrap();
    let has_limits = |action: &Action| matches!(action, Action::SetLimits(..));
    assert!(!plan.actions.iter().any(has_limits));
    assert!(plan.actions.contains(&Action::SetProject(1)));
}

#[test]
fn a_drive_is_not_promised_twice() {
    let mut seen = nothing();
    seen.others = Some(Others {
        recorded_bytes: 9 * GIB,
        ..Others::default()
    });
    let fits = promise(&record("v1", 0, GIB));
    assert!(plan(&fits, &staged(), &seen).is_ok());
    let too_much = promise(&record("v1", 0, GIB + 1));
    assert_eq!(refusal(&too_much, &staged(), &seen), Reason::OverAllocated);
    // What stands stays usable at its old size; only the growth is refused.
    let own = record("v1", 1, GIB);
    let mut grown = provisioned(&own);
    grown.others = seen.others.clone();
    let promise = promise(&record("v1", 1, 2 * GIB));
    let plan = plan(&promise, &staged(), &grown).unwrap();
    assert_eq!(plan.capacity_bytes, GIB);
    assert_eq!(plan.shortfall.unwrap().reason, Reason::OverAllocated);
    let expanded = Wanted::Expanded {
        required_bytes: 2 * GIB,
    };
    assert_eq!(refusal(&promise, &expanded, &grown), Reason::OverAllocated);
}

#[test]
fn a_stale_object_shrinks_nothing() {
    let own = record("v1", 1, 2 * GIB);
    let stale = promise(&record("v1", 1, GIB));
    let plan = plan(&stale, &Wanted::Provisioned, &provisioned(&own)).unwrap();
    assert_eq!((plan.actions, plan.capacity_bytes), (vec![], 2 * GIB));
}

#[test]
fn the_data_of_an_earlier_object_are_neither_given_nor_released() {
    let mut earlier = record("v1", 1, GIB);
    earlier.incarnation = "u0".into();
    let own = promise(&record("v1", 0, GIB));
    let seen = provisioned(&earlier);
    assert_eq!(refusal(&own, &staged(), &seen), Reason::EarlierData);
    assert_eq!(end(&own, true, &seen), Ok(End::LetGo));
    let mut recordless = seen.clone();
    recordless.record = None;
    assert_eq!(refusal(&own, &staged(), &recordless), Reason::EarlierData);
    assert_eq!(end(&own, true, &recordless), Ok(End::LetGo));

    let adopting = Promise {
        adopts: Some("u0".into()),
        ..own.clone()
    };
    let taken_over = plan(&adopting, &staged(), &seen).unwrap();
    let rewritten = Record {
        formerly: vec!["u0".into()],
        ..record("v1", 1, GIB)
    };
    assert_eq!(
        taken_over.actions.first(),
        Some(&Action::WriteRecord(rewritten))
    );
    // A record without a directory has no bytes behind it.
    let mut promise_only = seen;
    promise_only.directory = None;
    assert!(plan(&own, &staged(), &promise_only).is_ok());
}

#[test]
fn a_damaged_record_is_mended_only_with_a_second_witness() {
    let own = record("v1", 3, GIB);
    let mut seen = provisioned(&own);
    seen.record = Some(Err(RecordError::Damaged {
        volume: "v1".into(),
        why: "cut".into(),
    }));
    let blind = promise(&own);
    assert_eq!(refusal(&blind, &staged(), &seen), Reason::RecordUnreadable);
    let witnessed = Promise {
        witness: Some(3),
        ..blind
    };
    let mended = plan(&witnessed, &Wanted::Provisioned, &seen).unwrap();
    assert_eq!(mended.actions, vec![Action::WriteRecord(own)]);
    seen.record = Some(Err(RecordError::Newer {
        volume: "v1".into(),
        format: 9,
    }));
    assert_eq!(
        refusal(&witnessed, &staged(), &seen),
        Reason::RecordUnreadable
    );
}

#[test]
fn one_writer_alone_and_only_what_is_staged() {
    let own = record("v1", 1, GIB);
    let ask = |mounts: Vec<MountEntry>, exclusive| {
        let mut seen = provisioned(&own);
        seen.mounts = mounts;
        plan(&promise(&own), &published(false, exclusive), &seen).map_err(|r| r.reason)
    };
    let staging = mounted("/volumes/v1", STAGING, false);
    let other = mounted("/volumes/v1", "/other", false);
    let sub_path = mounted("/volumes/v1/data", "/sub", false);
    let foreign = mounted("/volumes/v2", TARGET, false);
    let read_only = mounted("/volumes/v1", TARGET, true);
    assert_eq!(ask(vec![], false).unwrap_err(), Reason::NotStaged);
    let both = vec![staging.clone(), other];
    assert!(ask(both.clone(), false).is_ok());
    assert_eq!(ask(both, true).unwrap_err(), Reason::StillPublished);
    assert!(ask(vec![staging.clone(), sub_path], true).is_ok());
    let taken = ask(vec![staging.clone(), foreign], true);
    assert_eq!(taken.unwrap_err(), Reason::TargetConflict);
    let otherwise = ask(vec![staging, read_only], true);
    assert_eq!(otherwise.unwrap_err(), Reason::TargetConflict);
}

#[test]
fn a_drive_that_refuses_writes_still_serves_what_stands() {
    let own = record("v1", 1, GIB);
    let mut seen = provisioned(&own);
    seen.read_only = true;
    assert!(plan(&promise(&own), &staged(), &seen).is_ok());
    let mut bare = nothing();
    bare.read_only = true;
    assert_eq!(
        refusal(&promise(&own), &staged(), &bare),
        Reason::DriveReadOnly
    );
    assert_eq!(
        end(&promise(&own), true, &seen).unwrap_err().reason,
        Reason::DriveReadOnly
    );
    assert_eq!(end(&promise(&own), false, &seen), Ok(End::LetGo));
}

#[test]
fn only_its_own_mount_is_taken_away() {
    let path = PathBuf::from(TARGET);
    let both = vec![
        Action::Unmount(path.clone()),
        Action::RemoveTarget(path.clone()),
    ];
    for (mount, actions) in [
        (None, vec![Action::RemoveTarget(path.clone())]),
        (Some(mounted("/volumes/v1", TARGET, false)), both.clone()),
        (Some(empty_at(&path)), both),
        (Some(mounted("/volumes/v2", TARGET, false)), vec![]),
        (Some(mounted("/", TARGET, false)), vec![]),
    ] {
        let seen = Seen {
            mounts: mount.into_iter().collect(),
            ..nothing()
        };
        assert_eq!(unmount("v1", &seen, &path), actions);
    }
}

#[test]
fn a_volume_goes_step_by_step_and_only_when_nothing_of_it_is_mounted() {
    let own = record("v1", 1, GIB);
    let promise = promise(&own);
    let mut seen = provisioned(&own);
    seen.mounts = vec![mounted("/volumes/v1/data", "/sub", true)];
    for release in [true, false] {
        let refused = end(&promise, release, &seen).unwrap_err();
        assert_eq!(refused.reason, Reason::StillPublished);
    }
    let mut elsewhere = mounted("/volumes/v1", "/y", false);
    elsewhere.major_minor = "259:1".into();
    seen.mounts = vec![mounted("/volumes/v11", "/x", true), elsewhere];
    assert_eq!(end(&promise, false, &seen), Ok(End::LetGo));

    seen.trash = vec!["v1-3".into()];
    let Ok(End::Act(actions)) = end(&promise, true, &seen) else {
        panic!("it has data");
    };
    let steps = vec![Action::Trash("v1-4".into()), Action::RemoveRecord];
    assert_eq!(actions, steps);
    // Broken off after the rename, the record goes next; then the trash; then the object.
    let broken = carry_out(seen, "v1", &steps[..1]);
    let rest = end(&promise, true, &broken).unwrap();
    assert_eq!(rest, End::Act(vec![Action::RemoveRecord]));
    let mut gone = carry_out(broken, "v1", &steps[1..]);
    let names = vec!["v1-3".to_owned(), "v1-4".to_owned()];
    assert_eq!(end(&promise, true, &gone), Ok(End::Empty(names)));
    gone.trash.clear();
    assert_eq!(end(&promise, true, &gone), Ok(End::LetGo));
}

#[test]
fn what_is_kept_can_be_adopted() {
    let own = record("v1", 3, GIB);
    let mut seen = provisioned(&own);
    seen.record = None;
    let witnessed = Promise {
        witness: Some(3),
        ..promise(&own)
    };
    let kept = end(&witnessed, false, &seen).unwrap();
    assert_eq!(kept, End::Act(vec![Action::WriteRecord(own)]));
}

#[test]
fn names_in_the_trash() {
    for (volume, name, of) in [
        ("v1", "v1-0", true),
        ("v1", "v1-12", true),
        ("v1", "v1", false),
        ("v1", "v1-", false),
        ("v1", "v1-1-0", false),
        ("v1-1", "v1-1-0", true),
        ("v", "v1-0", false),
    ] {
        assert_eq!(is_trash_of(volume, name), of, "{volume} {name}");
    }
    assert_eq!(trash_name("v1", &[]), "v1-0");
    let taken = ["v1-9".to_owned(), "v1-10".to_owned(), "v2-77".to_owned()];
    assert_eq!(trash_name("v1", &taken), "v1-11");
}

#[test]
fn default_limits() {
    for (capacity, bytes, inodes) in [
        (5 * GIB, 5 * GIB, 327_680),
        (GIB + 1, GIB, 65_536),
        (1 << 20, 1 << 20, INODES_MIN),
    ] {
        assert_eq!(limits(capacity), QuotaLimits { bytes, inodes });
    }
}

#[test]
fn a_drive_that_is_there_to_stay_is_waited_for() {
    let drive = api::testing::drive("d");
    assert_eq!(end_without_drive(Some(&drive.clone().build())), None);
    assert_eq!(
        end_without_drive(Some(&drive.deleting().build())),
        Some(End::LetGo)
    );
    assert_eq!(end_without_drive(None), Some(End::LetGo));
}

#[test]
fn who_means_another_volume_of_the_name_gets_nothing() {
    let own = record("v1", 1, GIB);
    let adopted = Promise {
        adopts: Some(own.incarnation.clone()),
        record: Record {
            incarnation: "second".into(),
            ..own.clone()
        },
        ..promise(&own)
    };
    let meaning = |promise: &Promise, incarnation: &str| Promise {
        meant: Some(incarnation.to_owned()),
        ..promise.clone()
    };
    let seen = provisioned(&own);
    let named = meaning(&promise(&own), &own.incarnation);
    assert!(plan(&named, &staged(), &seen).is_ok());
    let other = meaning(&promise(&own), "other");
    assert_eq!(refusal(&other, &staged(), &seen), Reason::EarlierData);
    assert_eq!(refusal(&other, &staged(), &nothing()), Reason::EarlierData);

    // Adopted data are the same data, for whoever meant them before and after, and after a second adoption.
    let both = [own.incarnation.as_str(), "second"];
    let whole = plan(&meaning(&adopted, both[0]), &staged(), &seen).unwrap();
    let seen = carry_out(seen, "v1", &whole.actions);
    let written = seen.record.clone().unwrap().unwrap();
    assert_eq!(written.formerly, std::slice::from_ref(&own.incarnation));
    let from_disk = Promise {
        record: written,
        ..promise(&own)
    };
    for incarnation in both {
        for promise in [&adopted, &from_disk] {
            let promise = meaning(promise, incarnation);
            assert!(plan(&promise, &staged(), &seen).is_ok(), "{incarnation}");
        }
    }
    let third = meaning(&from_disk, "third");
    assert_eq!(refusal(&third, &staged(), &seen), Reason::EarlierData);
}

#[test]
fn a_suspension_is_recorded_where_the_drive_can_be_written() {
    let own = record("v1", 1, GIB);
    let mut suspended = promise(&own);
    (suspended.suspended, suspended.record.suspended) = (true, true);
    let mut seen = provisioned(&own);
    let whole = plan(&suspended, &Wanted::Provisioned, &seen).unwrap();
    let recorded = Record {
        suspended: true,
        ..own.clone()
    };
    assert_eq!(whole.actions, [Action::WriteRecord(recorded.clone())]);
    seen.read_only = true;
    let whole = plan(&suspended, &Wanted::Provisioned, &seen).unwrap();
    assert_eq!(whole.actions, []);
    // Resumed, and the drive cannot be told: its data are given all the same.
    seen.record = Some(Ok(recorded));
    assert!(plan(&promise(&own), &staged(), &seen).is_ok());
}
