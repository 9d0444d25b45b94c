//! Orphans: volumes of which only the directory on a drive is left, as the nodes tell of them. Which of them can be brought
//! back or destroyed by name, and the object that does it.

use std::collections::BTreeMap;

use api::names::{ANNOTATION_ADOPTS, FINALIZER_DEVICE, LABEL_DRIVE, LABEL_NODE};
use api::storage_node::Orphan;
use api::volume::FsType;
use api::{Reason, Volume, VolumeSpec};
use kube::ResourceExt as _;

use crate::advice::Refusal;
use crate::select::short;

/// An orphan with its node.
pub(crate) type Left = (String, Orphan);

/// Apart: those that a name means, and why it does not mean the others. Of two drives with data of one volume, as a move
/// leaves them, no one is the right one until a person names it; `next` says how, for a volume.
pub(crate) fn apart(
    orphans: impl IntoIterator<Item = Left>,
    next: impl Fn(&str) -> String,
) -> (Vec<Left>, Vec<Refusal>) {
    let mut by_name: BTreeMap<String, Vec<Left>> = BTreeMap::new();
    for left in orphans {
        by_name.entry(left.1.volume.clone()).or_default().push(left);
    }
    let (mut may, mut refused) = (Vec::new(), Vec::new());
    for (name, copies) in by_name {
        let label = format!("volume {name}");
        let places: Vec<String> = copies.iter().map(place).collect();
        let places = places.join(" and ");
        match copies.as_slice() {
            [(_, orphan)] if is_readable(orphan) => may.extend(copies),
            [_] => refused.push(
                Refusal::new(Reason::RecordUnreadable, label)
                    .detail(format!("on {places}; its files are where they were"))
                    .next("kubectl ringpv support, and ask; nothing is done with them meanwhile"),
            ),
            [..] => refused.push(
                Refusal::new(Reason::AmbiguousName, label)
                    .detail(format!(
                        "data of it are on {places}; a move leaves the earlier data where they were"
                    ))
                    .next(next(&name)),
            ),
        }
    }
    (may, refused)
}

/// What an agent tells of a directory without a readable record is its name alone.
fn is_readable(orphan: &Orphan) -> bool {
    !orphan.incarnation.is_empty() && orphan.capacity_bytes > 0
}

fn place((node, orphan): &Left) -> String {
    format!("drive {} of {node}", short(&orphan.drive))
}

/// The Volume that a record on a drive tells of. It names the record's incarnation: only so does it get its data.
pub(crate) fn volume_of(node: &str, orphan: &Orphan) -> Volume {
    let mut volume = Volume::new(
        &orphan.volume,
        VolumeSpec {
            csi_name: orphan.csi_name.clone(),
            node: node.to_owned(),
            drive: Some(orphan.drive.clone()),
            capacity_bytes: orphan.capacity_bytes,
            fs_type: FsType::Xfs,
            capacity_enforcement: orphan.capacity_enforcement,
            single_writer: orphan.single_writer,
            ephemeral: orphan.ephemeral,
            claim: orphan.claim.clone(),
            spread_id: orphan.spread_id.clone(),
            parameters: orphan.parameters.clone(),
            placement: None,
            suspended: false,
            release: false,
            move_to: None,
        },
    );
    let labels = [(LABEL_NODE, node), (LABEL_DRIVE, orphan.drive.as_str())];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
    *volume.labels_mut() = labels.into();
    volume
        .annotations_mut()
        .insert(ANNOTATION_ADOPTS.to_owned(), orphan.incarnation.clone());
    volume.finalizers_mut().push(FINALIZER_DEVICE.to_owned());
    volume
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_name_means_one_readable_copy_or_none() {
        let orphan = |volume: &str, drive: &str| testing::orphan(volume, drive);
        let mut unreadable = orphan("dark", "d1");
        (unreadable.incarnation, unreadable.capacity_bytes) = (String::new(), 0);
        let all = [
            ("n1".to_owned(), orphan("moved", "d1")),
            ("n1".to_owned(), orphan("plain", "d1")),
            ("n1".to_owned(), unreadable),
            ("n2".to_owned(), orphan("moved", "d2")),
        ];
        let (may, refused) = apart(all, |name| format!("name the drive of {name}"));
        let may: Vec<&str> = may.iter().map(|(_, it)| it.volume.as_str()).collect();
        assert_eq!(may, ["plain"]);
        let reasons: Vec<Reason> = refused.iter().map(|it| it.reason).collect();
        assert_eq!(reasons, [Reason::RecordUnreadable, Reason::AmbiguousName]);
        let ambiguous = &refused[1];
        assert!(
            ambiguous
                .detail
                .contains("drive d1 of n1 and drive d2 of n2")
        );
        assert_eq!(ambiguous.next.as_deref(), Some("name the drive of moved"));
    }
}
