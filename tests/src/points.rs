//! The points at which the tests let agent and controller die as by `kill -9`, story by story, and what is not tried,
//! with the reason. `NAME@N` is the N-th time that a process comes to the point (`api::serve::faults`).
//!
//! The test below reads the names of all points off the code, so a new action is tried here or excused here.

/// The agent prepares a drive.
pub const INIT: [&str; 31] = [
    "add-finalizer.before",
    "add-finalizer.after",
    "check.before",
    "check.after",
    "claim.before",
    "claim.after",
    "gate.before",
    "gate.after",
    "erase.before",
    "erase.piece",
    "erase.after",
    "verify.before",
    "verify.piece",
    "verify.after",
    "format.before",
    "format.after",
    // The first death interrupts mkfs.xfs; clearing up after it is the second.
    "clear.before",
    "clear.piece",
    "clear.after",
    "first-mount.before",
    "first-mount.after",
    "record.before",
    // In the first part of the probe file, and in the scratch file behind its parts.
    "fill.piece",
    "fill.piece@5",
    "record.after",
    "seal.before",
    "seal.after",
    "mount.before",
    "mount.after",
    "attach.before",
    "attach.after",
];

/// The agent erases a drive with its removal.
pub const ERASING: [&str; 13] = [
    "unmount.before",
    "unmount.after",
    "check-removal.before",
    "check-removal.after",
    "erase.before",
    "erase.piece",
    "erase.after",
    "verify.before",
    "verify.after",
    "unclaim.before",
    "unclaim.after",
    "drop-finalizer.before",
    "drop-finalizer.after",
];

/// The agent moves a drive here from another cluster.
pub const MOVED: [&str; 6] = [
    "take-over.before",
    // With the drive mounted for a look, read-only.
    "take-over.piece",
    "take-over.after",
    "relabel.before",
    // With our label on it, and the other cluster's record.
    "relabel.piece",
    "relabel.after",
];

/// The agent has a damaged file system repaired.
pub const REPAIR: [&str; 3] = ["repair.before", "repair.piece", "repair.after"];

/// The agent makes a volume, mounts it for a pod, takes it away again and removes it.
pub const VOLUME: [&str; 28] = [
    "volume.write-record.before",
    "volume.write-record.after",
    "volume.make-directory.before",
    "volume.make-directory.after",
    "volume.set-project.before",
    "volume.set-project.after",
    // The first time it is staged, the second time published.
    "volume.make-target.before",
    "volume.make-target.after",
    "volume.make-target.after@2",
    "volume.bind.before",
    "volume.bind.after",
    "volume.bind.before@2",
    "volume.bind.after@2",
    // The first time it is unpublished, the second time unstaged.
    "volume.unmount.before",
    "volume.unmount.after",
    "volume.unmount.before@2",
    "volume.unmount.after@2",
    "volume.remove-target.before",
    "volume.remove-target.after",
    "volume.remove-target.after@2",
    "volume.trash.before",
    "volume.trash.after",
    "volume.remove-record.before",
    "volume.remove-record.after",
    "volume.empty.before",
    "volume.empty.after",
    "volume.let-go.before",
    "volume.let-go.after",
];

/// The same while a person has suspended the volume.
pub const SUSPENDED: [&str; 2] = ["volume.bind-empty.before", "volume.bind-empty.after"];

/// The agent makes and removes an inline ephemeral volume.
pub const INLINE: [&str; 6] = [
    "volume.promise-inline.before",
    "volume.promise-inline.after",
    "volume.release-inline.before",
    "volume.release-inline.after",
    "volume.delete-inline.before",
    "volume.delete-inline.after",
];

/// The controller makes, grows and deletes a volume.
pub const CONTROLLER_VOLUME: [&str; 8] = [
    "create.before",
    "create.after",
    "expand.before",
    "expand.after",
    "release.before",
    "release.after",
    "delete.before",
    "delete.after",
];

/// The controller chooses a drive for an inline ephemeral volume.
pub const CONTROLLER_INLINE: [&str; 2] = ["place.before", "place.after"];

/// The controller says why there is no drive for one.
pub const CONTROLLER_REFUSES: [&str; 2] = ["refuse.before", "refuse.after"];

/// The controller takes a new drive into its care and judges it; the same for finalizers when the drive is let go.
pub const CONTROLLER_DRIVE: [&str; 4] = [
    "finalizers.before",
    "finalizers.after",
    "verdict.before",
    "verdict.after",
];

/// The controller tells people that a drive which is to go holds volumes.
pub const CONTROLLER_TELLS: [&str; 2] = ["tell.before", "tell.after"];

/// The embedded API writes: tried at each write of an init, by its number.
pub const STORE: [&str; 2] = ["commit.before", "commit.after"];

/// What is not tried, and why.
pub const EXCUSED: [(&str, &str); 9] = [
    (
        "volume.set-limits.before",
        "needs project quota, which this kernel may not have; a repeated limit is the same limit, and the guest tests set it",
    ),
    (
        "volume.set-limits.after",
        "needs project quota, which this kernel may not have; a repeated limit is the same limit, and the guest tests set it",
    ),
    (
        "secure-erase.before",
        "a loop device erases no cells; the simulated cluster restarts the agent here, and the guest tests kill it",
    ),
    (
        "secure-erase.piece",
        "a loop device erases no cells; the simulated cluster restarts the agent here, and the guest tests kill it",
    ),
    (
        "secure-erase.after",
        "a loop device erases no cells; the simulated cluster restarts the agent here, and the guest tests kill it",
    ),
    (
        "abandon.before",
        "a mounted loop device cannot be pulled out; the simulated cluster restarts the agent here, and the guest tests unplug drives",
    ),
    (
        "abandon.after",
        "a mounted loop device cannot be pulled out; the simulated cluster restarts the agent here, and the guest tests unplug drives",
    ),
    (
        "silence.before",
        "a mark that each leader decides anew from the agents' Leases; an agent is silent after minutes only",
    ),
    (
        "silence.after",
        "a mark that each leader decides anew from the agents' Leases; an agent is silent after minutes only",
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::tree::Tree;

    /// Names of the actions of an enum: what its `name` gives.
    fn action_names(text: &str) -> impl Iterator<Item = &str> {
        let body = text
            .split_once("const fn name(")
            .map_or("", |(_, rest)| rest);
        let body = body.split_once("\n    }\n").map_or("", |(body, _)| body);
        body.lines()
            .filter_map(|line| line.split_once("=> \"")?.1.strip_suffix("\","))
    }

    /// Points that are named where the process comes to them.
    fn named_points(text: &str) -> BTreeSet<String> {
        let mut points = BTreeSet::new();
        for (call, moments) in [
            ("faults::before(", &["before"][..]),
            ("faults::piece(", &["piece"][..]),
            ("faults::after(", &["after"][..]),
            ("faults::around(", &["before", "after"][..]),
        ] {
            for (_, rest) in text.match_indices(call).map(|(at, _)| text.split_at(at)) {
                let argument = rest.trim_start_matches(call).trim_start();
                let name = argument
                    .strip_prefix('"')
                    .and_then(|rest| rest.split_once('"'));
                if let Some((name, _)) = name {
                    points.extend(moments.iter().map(|moment| format!("{name}.{moment}")));
                }
            }
        }
        points
    }

    #[test]
    fn every_point_is_tried_or_excused() {
        let tree = Tree::read();
        let mut points = BTreeSet::new();
        for file in ["agent/src/plan/action.rs", "agent/src/volumes/plan.rs"] {
            let names: Vec<&str> = action_names(tree.text(file)).collect();
            assert!(names.len() > 8, "{file}: {names:?}");
            for name in names {
                points.extend([format!("{name}.before"), format!("{name}.after")]);
            }
        }
        let servers = ["agent/src", "controller/src"];
        for (_, text) in tree
            .rust()
            .filter(|(path, _)| servers.iter().any(|server| path.starts_with(server)))
        {
            points.extend(named_points(text));
        }
        let tried: BTreeSet<&str> = INIT
            .iter()
            .chain(&ERASING)
            .chain(&MOVED)
            .chain(&REPAIR)
            .chain(&VOLUME)
            .chain(&SUSPENDED)
            .chain(&INLINE)
            .chain(&CONTROLLER_VOLUME)
            .chain(&CONTROLLER_INLINE)
            .chain(&CONTROLLER_DRIVE)
            .chain(&CONTROLLER_REFUSES)
            .chain(&CONTROLLER_TELLS)
            .chain(&STORE)
            .map(|point| point.split('@').next().unwrap_or(point))
            .collect();
        let excused: BTreeSet<&str> = EXCUSED.iter().map(|(point, _)| *point).collect();
        for point in &points {
            let point = point.as_str();
            assert!(
                tried.contains(point) != excused.contains(point),
                "{point} is neither tried nor excused, or both"
            );
        }
        // The pieces of the long actions are named by the loop that does them piece by piece.
        let pieces = ["erase.piece", "verify.piece", "clear.piece", "repair.piece"];
        for point in tried.iter().chain(&excused) {
            assert!(
                points.contains(*point) || pieces.contains(point),
                "the code has no point {point}"
            );
        }
    }
}
