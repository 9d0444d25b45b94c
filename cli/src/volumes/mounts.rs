//! The mount table of a host without Kubernetes: which volume is mounted where. `volumes mount` and `unmount` keep it,
//! `volumes mount --all` makes it so again after a boot. It is written beside and renamed: a power cut leaves the old
//! table or the new one.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use api::Reason;
use api::names::{CONTEXT_DRIVE, CONTEXT_INCARNATION};
use serde::{Deserialize, Serialize};

use crate::advice::{Refusal, Stop};

/// Form of the file.
const VERSION: &str = "ringpv.io/v1alpha1";
const HEADER: &str = "# Volumes mounted on this host by kubectl ringpv volumes mount; mounted again at boot by mount --all.\n";

/// The table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mounts {
    version: String,
    /// Its entries, in the order in which they were made.
    pub(crate) mounts: Vec<Mount>,
}

/// One volume at one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Mount {
    /// Volume id.
    pub(crate) volume: String,
    /// Where.
    pub(crate) path: PathBuf,
    /// Whether writes are refused there.
    #[serde(default)]
    pub(crate) read_only: bool,
    /// Whether the volume is for one mount alone. Kept so that a boot without an API mounts it as it was; absent in a
    /// table of an older version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) single_writer: Option<bool>,
    /// Its drive, and below the UID of its object: a boot without an API mounts this very volume, not another of its
    /// name. Absent in a table of an older version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) drive: Option<String>,
    /// UID of its object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) incarnation: Option<String>,
}

impl Mount {
    /// What the agent is told of the volume beyond its name.
    pub(crate) fn context(&self) -> BTreeMap<String, String> {
        let known = [
            (CONTEXT_DRIVE, &self.drive),
            (CONTEXT_INCARNATION, &self.incarnation),
        ];
        known
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)))
            .collect()
    }

    /// Whether both mean the same mount.
    fn is_same(&self, other: &Self) -> bool {
        (&self.volume, &self.path, self.read_only) == (&other.volume, &other.path, other.read_only)
    }
}

impl Default for Mounts {
    fn default() -> Self {
        Self {
            version: VERSION.to_owned(),
            mounts: Vec::new(),
        }
    }
}

impl Mounts {
    /// Reads the table; an absent one is empty.
    pub(crate) fn read(file: &Path) -> Result<Self, Stop> {
        let name = file.display().to_string();
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => {
                return Err(Stop::Failed(
                    anyhow::Error::from(error).context(format!("cannot read {name}")),
                ));
            }
        };
        let invalid =
            |detail: String| Stop::refused(Refusal::new(Reason::FileInvalid, &name).detail(detail));
        let table: Self = serde_yaml::from_str(&text).map_err(|e| invalid(e.to_string()))?;
        if table.version != VERSION {
            return Err(invalid(format!("version {:?} is not known", table.version)));
        }
        Ok(table)
    }

    /// Writes the table, durably.
    pub(crate) fn write(&self, file: &Path) -> Result<(), Stop> {
        let context = || format!("cannot write the mount table {}", file.display());
        let body = serde_yaml::to_string(self).with_context(context)?;
        let directory = file.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(directory).with_context(context)?;
        let beside = file.with_extension("yaml.new");
        let mut new = std::fs::File::create(&beside).with_context(context)?;
        new.write_all(format!("{HEADER}{body}").as_bytes())
            .with_context(context)?;
        new.sync_all().with_context(context)?;
        std::fs::rename(&beside, file).with_context(context)?;
        #[cfg(unix)]
        std::fs::File::open(directory)
            .and_then(|d| d.sync_all())
            .with_context(context)?;
        Ok(())
    }

    /// Adds an entry; false where it is there already, with what is known of the volume now.
    pub(crate) fn add(&mut self, mount: Mount) -> Result<bool, Refusal> {
        let Some(old) = self.mounts.iter_mut().find(|m| m.path == mount.path) else {
            self.mounts.push(mount);
            return Ok(true);
        };
        if old.is_same(&mount) {
            *old = mount;
            return Ok(false);
        }
        let how = if old.read_only { ", read-only" } else { "" };
        Err(
            Refusal::new(Reason::StillPublished, mount.path.display().to_string())
                .detail(format!("volume {} is mounted there{how}", old.volume)),
        )
    }

    /// Where a volume is mounted.
    pub(crate) fn of(&self, volume: &str) -> Vec<Mount> {
        self.mounts
            .iter()
            .filter(|m| m.volume == volume)
            .cloned()
            .collect()
    }

    /// Whether an entry's volume is for one mount alone. An older table does not say it, but such a volume never had a
    /// second mount, and one that has no second mount may be asked for alone.
    pub(crate) fn is_single_writer(&self, mount: &Mount) -> bool {
        mount
            .single_writer
            .unwrap_or_else(|| self.of(&mount.volume).len() == 1)
    }

    /// Takes an entry out.
    pub(crate) fn remove(&mut self, volume: &str, path: &Path) {
        self.mounts
            .retain(|m| !(m.volume == volume && m.path == path));
    }
}

/// Where volumes are staged: beside the table.
pub(crate) fn staging(file: &Path, volume: &str) -> PathBuf {
    file.parent()
        .unwrap_or(Path::new("/"))
        .join("staging")
        .join(volume)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(volume: &str, path: &str, read_only: bool) -> Mount {
        Mount {
            volume: volume.to_owned(),
            path: path.into(),
            read_only,
            single_writer: Some(false),
            drive: Some("d1".to_owned()),
            incarnation: Some(format!("uid-of-{volume}")),
        }
    }

    #[test]
    fn a_table_of_an_older_version_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mounts.yaml");
        let text = "version: ringpv.io/v1alpha1\nmounts:\n- {volume: a, path: /srv/a, readOnly: false}\n- {volume: b, path: /srv/b}\n- {volume: b, path: /srv/c}\n";
        std::fs::write(&file, text).unwrap();
        let mut table = Mounts::read(&file).unwrap();
        let alone: Vec<bool> = table
            .mounts
            .iter()
            .map(|m| table.is_single_writer(m))
            .collect();
        assert_eq!(alone, [true, false, false]);
        assert_eq!(
            table.add(mount("a", "/srv/a", false)),
            Ok(false),
            "the same mount, though an older table says less of it"
        );
        assert_eq!(table.mounts[1].context(), BTreeMap::new());
        let context = table.mounts[0].context();
        assert_eq!(context[CONTEXT_DRIVE], "d1", "what it lacked is known now");
        assert_eq!(context[CONTEXT_INCARNATION], "uid-of-a");
        let known = mount("d", "/srv/d", false);
        assert!(!table.is_single_writer(&known));
    }

    #[test]
    fn a_table_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("state/mounts.yaml");
        let mut table = Mounts::read(&file).unwrap();
        assert_eq!(table, Mounts::default());
        assert_eq!(table.add(mount("a", "/srv/a", false)), Ok(true));
        assert_eq!(table.add(mount("a", "/srv/b", true)), Ok(true));
        assert_eq!(table.add(mount("a", "/srv/a", false)), Ok(false));
        assert_eq!(
            table.add(mount("a", "/srv/a", true)).unwrap_err().reason,
            Reason::StillPublished
        );
        assert_eq!(
            table.add(mount("b", "/srv/a", false)).unwrap_err().reason,
            Reason::StillPublished
        );
        table.write(&file).unwrap();
        assert_eq!(Mounts::read(&file).unwrap(), table);
        table.remove("a", Path::new("/srv/a"));
        assert_eq!(table.of("a"), [mount("a", "/srv/b", true)]);
    }

    #[test]
    fn nonsense_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mounts.yaml");
        for text in [
            "mounts: 3",
            "version: v9\nmounts: []",
            "version: ringpv.io/v1alpha1\nmounts: [{volume: a}]",
        ] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(Mounts::read(&file).unwrap_err().exit_code(), 1, "{text}");
        }
    }
}
