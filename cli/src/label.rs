//! `label drives|volumes [NAME..] k=v k-`: people's own labels, for `--label` and for a class's `drive-selector`. The
//! ones that begin `ringpv.io/` are RingPV's. No name has an equals sign or ends in a dash, so names and labels may
//! stand in any order.

use std::collections::BTreeMap;
use std::str::FromStr;

use api::Drive;
use api::names::LABEL_PREFIX;
use clap::{Args, Subcommand};
use kube::ResourceExt as _;
use serde_json::{Map, Value, json};

use crate::advice::Stop;
use crate::args::DryRun;
use crate::change::{self, Change};
use crate::list::volumes::{VolumeArgs, VolumeFlags};
use crate::select::{DriveArgs, DriveFlags, drive_label};
use crate::session::Session;

/// What can be labelled.
#[derive(Debug, Subcommand)]
pub(crate) enum LabelVerb {
    /// Drives: kubectl ringpv label drives 1a2b3c4d rack=3 old-
    Drives(LabelDrives),
    /// Volumes: kubectl ringpv label volumes data owner=ann
    Volumes(LabelVolumes),
}

/// Flags of `label drives`.
#[derive(Debug, Args)]
pub(crate) struct LabelDrives {
    /// Ids of drives, and labels: key=value sets, key- takes away
    #[arg(value_name = "DRIVE|LABEL", required = true)]
    words: Vec<String>,
    #[command(flatten)]
    flags: DriveFlags,
    #[command(flatten)]
    dry_run: DryRun,
}

/// Flags of `label volumes`.
#[derive(Debug, Args)]
pub(crate) struct LabelVolumes {
    /// Names of volumes, and labels: key=value sets, key- takes away
    #[arg(value_name = "VOLUME|LABEL", required = true)]
    words: Vec<String>,
    #[command(flatten)]
    flags: VolumeFlags,
    #[command(flatten)]
    dry_run: DryRun,
}

/// One label to set, or to take away.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Edit {
    key: String,
    value: Option<String>,
}

impl FromStr for Edit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (key, value) = match (text.split_once('='), text.strip_suffix('-')) {
            (Some((key, value)), _) => (key, Some(value.to_owned())),
            (None, Some(key)) => (key, None),
            (None, None) => {
                return Err(format!(
                    "{text}: it reads key=value, or key- to take it away"
                ));
            }
        };
        let name = key.rsplit_once('/').map_or(key, |(_, name)| name);
        let prefix = key.rsplit_once('/').map_or("", |(prefix, _)| prefix);
        if !is_label_word(name) || name.is_empty() || prefix.len() > 253 || key.ends_with('/') {
            return Err(format!(
                "{key:?} is not a label key: letters, digits, '-', '_' and '.', 63 at most"
            ));
        }
        if key.starts_with(LABEL_PREFIX) {
            return Err(format!(
                "{key}: labels that begin {LABEL_PREFIX} are RingPV's own"
            ));
        }
        if value.as_deref().is_some_and(|v| !is_label_word(v)) {
            return Err(format!(
                "{text}: a label's value is letters, digits, '-', '_' and '.', 63 at most"
            ));
        }
        Ok(Self {
            key: key.to_owned(),
            value,
        })
    }
}

/// Whether the API server would take it as a label's name or value.
fn is_label_word(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let ends = |b: Option<u8>| b.is_none_or(|b| b.is_ascii_alphanumeric());
    text.len() <= 63
        && text.bytes().all(inner)
        && ends(text.bytes().next())
        && ends(text.bytes().next_back())
}

/// Names and labels, apart.
fn split(words: &[String]) -> Result<(Vec<String>, Vec<Edit>), Stop> {
    let (labels, names): (Vec<_>, Vec<_>) = words
        .iter()
        .cloned()
        .partition(|w| w.contains('=') || w.ends_with('-'));
    let edits: Vec<Edit> = labels
        .iter()
        .map(|l| l.parse())
        .collect::<Result<_, _>>()
        .map_err(Stop::Usage)?;
    let mut seen = BTreeMap::new();
    for edit in &edits {
        if seen
            .insert(&edit.key, &edit.value)
            .is_some_and(|old| *old != edit.value)
        {
            return Err(Stop::Usage(format!(
                "{} is given twice, differently",
                edit.key
            )));
        }
    }
    if edits.is_empty() {
        return Err(Stop::Usage(
            "say which label: key=value, or key- to take it away".to_owned(),
        ));
    }
    Ok((names, edits))
}

/// The merge patch, unless all is so already.
fn labels(edits: &[Edit], now: &BTreeMap<String, String>) -> Option<Value> {
    let news = edits.iter().any(|e| now.get(&e.key) != e.value.as_ref());
    let fields: Map<_, _> = edits
        .iter()
        .map(|e| (e.key.clone(), json!(e.value)))
        .collect();
    news.then(|| json!({"metadata": {"labels": fields}}))
}

/// Runs `label`.
pub(crate) async fn run(session: &mut Session, verb: &LabelVerb) -> Result<(), Stop> {
    match verb {
        LabelVerb::Drives(args) => drives(session, args).await,
        LabelVerb::Volumes(args) => volumes(session, args).await,
    }
}

async fn drives(session: &mut Session, args: &LabelDrives) -> Result<(), Stop> {
    let (ids, edits) = split(&args.words)?;
    let pick = DriveArgs {
        ids,
        flags: args.flags.clone(),
    };
    let all: Vec<Drive> = session.all().await?;
    let changes = pick.pick(&all)?.into_iter().map(|drive| Change {
        label: drive_label(&drive),
        patch: labels(&edits, drive.labels()),
        object: drive,
    });
    change::all(session, changes.collect(), "labelled", args.dry_run.dry_run).await
}

async fn volumes(session: &mut Session, args: &LabelVolumes) -> Result<(), Stop> {
    let (names, edits) = split(&args.words)?;
    let pick = VolumeArgs {
        names,
        flags: args.flags.clone(),
    };
    let inventory = session.inventory().await?;
    let picked = pick.pick(&inventory.volumes, &inventory.drives)?;
    let changes = picked.into_iter().map(|volume| Change {
        label: format!("volume {}", volume.name_any()),
        patch: labels(&edits, volume.labels()),
        object: volume,
    });
    change::all(session, changes.collect(), "labelled", args.dry_run.dry_run).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_as_the_api_server_would() {
        for (text, key, value) in [
            ("rack=3", "rack", Some("3")),
            ("rack-", "rack", None),
            ("a.b/c=d", "a.b/c", Some("d")),
            ("empty=", "empty", Some("")),
        ] {
            let edit: Edit = text.parse().unwrap();
            assert_eq!((edit.key.as_str(), edit.value.as_deref()), (key, value));
        }
        for bad in [
            "=v",
            "-",
            "k=-v",
            "k=a b",
            "k/=v",
            "ringpv.io/node=x",
            "ringpv.io/drive-",
            "ä=1",
        ] {
            assert!(bad.parse::<Edit>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_and_labels_in_any_order() {
        let words = ["rack=3", "1a2b", "old-"].map(str::to_owned);
        let (names, edits) = split(&words).unwrap();
        assert_eq!(names, ["1a2b"]);
        assert_eq!(edits.len(), 2);
        assert!(split(&["1a2b".to_owned()]).is_err());
        assert!(split(&["a=1".to_owned(), "a=2".to_owned()]).is_err());
    }

    #[test]
    fn no_patch_where_nothing_changes() {
        let now = BTreeMap::from([("rack".to_owned(), "3".to_owned())]);
        let edit = |text: &str| text.parse::<Edit>().unwrap();
        assert_eq!(labels(&[edit("rack=3"), edit("gone-")], &now), None);
        let patch = labels(&[edit("rack-")], &now).unwrap();
        assert_eq!(patch["metadata"]["labels"]["rack"], Value::Null);
    }
}
