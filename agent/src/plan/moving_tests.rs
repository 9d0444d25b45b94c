//! A drive that moves here from another cluster while it is mounted.

use super::testing::*;
use super::*;
use crate::probe::fixture::{CLUSTER, DRIVE, OTHER_CLUSTER};
use ClaimState::Formatted;

#[test]
fn a_drive_that_is_mounted_and_moves_here() {
    let finish = "unmount take-over mount relabel attach";
    let ours = || record(DRIVE, CLUSTER);
    let theirs = || record(DRIVE, OTHER_CLUSTER);
    let claimed = |by: &str| device(true, Ok(Some(claim(Formatted, DRIVE, by, "u9"))));
    let in_use = |content| mounted(whole(), content);
    let shared = |mut seen: Observed| {
        seen.mounted.as_mut().unwrap().shared = true;
        seen
    };
    let read_only = |mut seen: Observed| {
        seen.mounted.as_mut().unwrap().read_only = true;
        seen
    };
    let adopting = but(used(), |d| d.spec.adopt_from = Some(OTHER_CLUSTER.into()));
    check(vec![
        (
            "taken over",
            adopting.clone(),
            in_use(theirs()),
            "relabel attach".into(),
        ),
        (
            "to be taken over",
            adopting.clone(),
            mounted(claimed(OTHER_CLUSTER), theirs()),
            finish.into(),
        ),
        (
            "to be taken over, its volumes mounted",
            adopting.clone(),
            shared(mounted(claimed(OTHER_CLUSTER), theirs())),
            "relabel attach".into(),
        ),
        (
            "a take-over that was interrupted",
            adopting.clone(),
            read_only(mounted(claimed(OTHER_CLUSTER), theirs())),
            finish.into(),
        ),
        (
            "theirs and read-only, its volumes mounted",
            adopting.clone(),
            shared(read_only(mounted(claimed(OTHER_CLUSTER), theirs()))),
            "ReadOnly DriveReadOnly".into(),
        ),
        (
            "moved but for its claim, its volumes mounted",
            adopting.clone(),
            shared(Observed {
                attached: true,
                ..mounted(claimed(OTHER_CLUSTER), ours())
            }),
            "settled".into(),
        ),
        (
            "moved but for its claim",
            adopting.clone(),
            Observed {
                attached: true,
                ..mounted(claimed(OTHER_CLUSTER), ours())
            },
            finish.into(),
        ),
        (
            "moved but for the claim of a third cluster",
            adopting,
            Observed {
                attached: true,
                ..mounted(claimed("c3"), ours())
            },
            "settled".into(),
        ),
        (
            "moved but for its claim, and nobody said so",
            used(),
            mounted(claimed(OTHER_CLUSTER), ours()),
            "attach".into(),
        ),
    ]);
}
