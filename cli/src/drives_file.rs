//! drives.yaml: written by `discover`, edited by a person, read by `init`. What a person may change is said in it; the
//! rest (node, device, id, size, fingerprint) tells which device is meant and guards it. Whatever is wrong is told
//! with its line, and all of it before anything is created.

use std::collections::BTreeMap;
use std::fmt;

use api::drive::{Erase, Gate};
use api::{AccessTier, Bytes, Device, Fingerprint, Nanos};
use jiff::Timestamp;
use serde::Deserialize;

/// The form of the file.
const VERSION: &str = "ringpv.io/v1alpha1";

/// One drive of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Line of its first word, counted from 1.
    pub(crate) line: usize,
    /// Whether it is to become a drive.
    pub(crate) select: bool,
    /// Node.
    pub(crate) node: String,
    /// Kernel's name at the time.
    pub(crate) device: String,
    /// Id the drive will get.
    pub(crate) id: String,
    /// Size in bytes.
    pub(crate) size_bytes: u64,
    /// The very device and what it held.
    pub(crate) fingerprint: Fingerprint,
    /// Access tier.
    pub(crate) access_tier: AccessTier,
    /// How it is erased.
    pub(crate) erase: Erase,
    /// What it must show first.
    pub(crate) gate: Option<Gate>,
}

/// Something wrong in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileError {
    /// Line, counted from 1; 0 where it is about the whole file.
    pub(crate) line: usize,
    /// What.
    pub(crate) message: String,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.message),
            line => write!(f, "line {line}: {}", self.message),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawFile {
    version: String,
    drives: Vec<RawEntry>,
}

/// An entry as it is typed. What has a form of its own stays text here, so that its error can tell its line.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawEntry {
    select: serde_yaml::Value,
    node: String,
    device: String,
    id: String,
    size: u64,
    fingerprint: String,
    #[serde(default)]
    access_tier: Option<String>,
    #[serde(default)]
    erase: RawErase,
    #[serde(default)]
    gate: Option<RawGate>,
}

/// The same as [`Erase`], but a misspelt field is an error: what is destroyed and how is never guessed.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawErase {
    #[serde(default)]
    method: api::drive::EraseMethod,
    #[serde(default)]
    verify: api::drive::EraseVerify,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawGate {
    #[serde(default)]
    read_latency_p99_max: Option<String>,
    #[serde(default)]
    read_iops_min: Option<u64>,
    #[serde(default)]
    write_min: Option<String>,
}

/// `yes` and `no` are words in YAML 1.2 and truths in 1.1; both are taken.
fn yes_or_no(value: &serde_yaml::Value) -> Result<bool, String> {
    let word = value.as_str().map(str::to_ascii_lowercase);
    match (value.as_bool(), word.as_deref()) {
        (Some(truth), _) => Ok(truth),
        (_, Some("yes" | "y" | "true")) => Ok(true),
        (_, Some("no" | "n" | "false")) => Ok(false),
        _ => Err("select is yes or no".to_owned()),
    }
}

/// Reads the file. All that can be told without looking at the cluster is told here.
pub(crate) fn parse(text: &str) -> Result<Vec<Entry>, Vec<FileError>> {
    let raw: RawFile = serde_yaml::from_str(text).map_err(|e| vec![yaml_error(&e)])?;
    let lines = Lines::of(text);
    if raw.version != VERSION {
        return Err(vec![FileError {
            line: lines.top("version"),
            message: format!(
                "version {:?} is not known; this one reads {VERSION}",
                raw.version
            ),
        }]);
    }
    let mut errors = Vec::new();
    let mut entries = Vec::new();
    for (index, raw) in raw.drives.into_iter().enumerate() {
        let mut wrong = |field: &str, message: String| {
            errors.push(FileError {
                line: lines.field(index, field),
                message,
            });
        };
        let entry = entry(raw, lines.entry(index), &mut wrong);
        check(&entry, &mut wrong);
        entries.push(entry);
    }
    errors.extend(twins(&entries, &lines));
    errors.sort_by_key(|e| e.line);
    if errors.is_empty() {
        Ok(entries)
    } else {
        Err(errors)
    }
}

/// Takes an entry's texts for what they mean; one that means nothing is told, and its place filled.
fn entry(raw: RawEntry, line: usize, wrong: &mut impl FnMut(&str, String)) -> Entry {
    let select = yes_or_no(&raw.select).unwrap_or_else(|e| {
        wrong("select", e);
        false
    });
    let fingerprint = read("fingerprint", Some(raw.fingerprint), wrong);
    let access_tier = read("accessTier", raw.access_tier, wrong);
    let gate = raw.gate.map(|g| Gate {
        read_latency_p99_ns_max: read("gate", g.read_latency_p99_max, wrong).map(|n: Nanos| n.0),
        read_iops_min: g.read_iops_min,
        write_bytes_per_second_min: read("gate", g.write_min, wrong).map(|b: Bytes| b.0),
    });
    Entry {
        line,
        select,
        node: raw.node,
        device: raw.device.trim_start_matches("/dev/").to_owned(),
        id: raw.id,
        size_bytes: raw.size,
        fingerprint: fingerprint.unwrap_or_default(),
        access_tier: access_tier.unwrap_or_default(),
        erase: Erase {
            method: raw.erase.method,
            verify: raw.erase.verify,
        },
        gate,
    }
}

fn read<T>(field: &str, text: Option<String>, wrong: &mut impl FnMut(&str, String)) -> Option<T>
where
    T: std::str::FromStr,
    T::Err: fmt::Display,
{
    match text?.parse() {
        Ok(value) => Some(value),
        Err(error) => {
            wrong(field, format!("{error}"));
            None
        }
    }
}

fn check(entry: &Entry, wrong: &mut impl FnMut(&str, String)) {
    if !is_uuid(&entry.id) {
        wrong(
            "id",
            format!("id {:?} is not one that discover writes", entry.id),
        );
    }
    if entry.node.is_empty() {
        wrong("node", "node is empty".to_owned());
    }
    if entry.size_bytes == 0 {
        wrong("size", "size is 0".to_owned());
    }
    let Some(gate) = entry.gate else { return };
    let bounds = [
        gate.read_latency_p99_ns_max,
        gate.read_iops_min,
        gate.write_bytes_per_second_min,
    ];
    if bounds.contains(&Some(0)) {
        wrong("gate", "a bound of 0 in gate tests nothing".to_owned());
    } else if bounds == [None; 3] {
        let fields = "readLatencyP99Max, readIopsMin or writeMin";
        wrong(
            "gate",
            format!("gate tests nothing; leave it away, or give {fields}"),
        );
    }
}

/// Entries that mean the same device or the same drive.
fn twins(entries: &[Entry], lines: &Lines<'_>) -> Vec<FileError> {
    let mut seen = BTreeMap::new();
    let mut errors = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let keys = [
            ("id", entry.id.clone()),
            (
                "fingerprint",
                format!("{} on {}", entry.fingerprint.identity, entry.node),
            ),
        ];
        for (field, key) in keys {
            if let Some(first) = seen.insert((field, key), entry.line) {
                errors.push(FileError {
                    line: lines.field(index, field),
                    message: format!("the same {field} as the drive of line {first}"),
                });
            }
        }
    }
    errors
}

fn is_uuid(text: &str) -> bool {
    let groups: Vec<_> = text.split('-').collect();
    let lengths: Vec<_> = groups.iter().map(|g| g.len()).collect();
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    lengths == [8, 4, 4, 4, 12] && groups.iter().all(|g| g.bytes().all(hex))
}

/// The YAML reader's error with its place cut out of the text, for the line stands before it already.
fn yaml_error(error: &serde_yaml::Error) -> FileError {
    let text = error.to_string();
    let line = error.location().map_or(0, |l| l.line());
    let message = text
        .rsplit_once(" at line ")
        .map_or(text.as_str(), |(before, _)| before);
    FileError {
        line,
        message: message.to_owned(),
    }
}

/// Where the entries and their fields stand. The file's own shape is enough for it: each entry begins with a dash.
struct Lines<'a> {
    text: Vec<&'a str>,
    entries: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Self {
        let text: Vec<_> = text.lines().collect();
        let mut numbered = text.iter().zip(1..);
        let start = numbered
            .find(|(line, _)| line.starts_with("drives"))
            .map_or(0, |(_, n)| n);
        let dash = |line: &str| line.trim_start().starts_with("- ") || line.trim() == "-";
        let entries = text
            .iter()
            .zip(1..)
            .filter(|(line, n)| *n > start && dash(line))
            .map(|(_, n)| n)
            .collect();
        Self { text, entries }
    }

    /// First line of an entry.
    fn entry(&self, index: usize) -> usize {
        self.entries.get(index).copied().unwrap_or(0)
    }

    /// Line of a field of an entry; the entry's first where it is not there.
    fn field(&self, index: usize, field: &str) -> usize {
        let first = self.entry(index);
        let next = self.entries.get(index + 1).copied().unwrap_or(usize::MAX);
        let here = |line: &str| {
            let line = line.trim_start().trim_start_matches("- ").trim_start();
            line.strip_prefix(field)
                .is_some_and(|rest| rest.starts_with(':'))
        };
        let mut lines = self.text.iter().zip(1..);
        lines
            .find(|(line, n)| (first..next).contains(n) && here(line))
            .map_or(first, |(_, n)| n)
    }

    /// Line of a field of the file itself.
    fn top(&self, field: &str) -> usize {
        let mut lines = self.text.iter().zip(1..);
        lines
            .find(|(line, _)| line.starts_with(field))
            .map_or(0, |(_, n)| n)
    }
}

/// A device that `discover` offers.
#[derive(Clone, Debug)]
pub(crate) struct Offer<'a> {
    /// Its node.
    pub(crate) node: &'a str,
    /// The device.
    pub(crate) device: &'a Device,
    /// What is on it, in words; empty for nothing.
    pub(crate) holds: String,
}

/// Writes the file. A device that holds data is not selected: taking it is a person's word, given twice.
pub(crate) fn write(offers: &[Offer<'_>], file: &str, now: Timestamp) -> String {
    let when = now.strftime("%Y-%m-%dT%H:%M:%SZ");
    let mut text = format!("# Devices that can become drives, as seen at {when}.\n");
    text.push_str(HEADER);
    let more =
        format!("# Look it over, then: kubectl ringpv init {file}\nversion: {VERSION}\ndrives:\n");
    text.push_str(&more);
    for offer in offers {
        push_entry(&mut text, offer);
    }
    text
}

const HEADER: &str = "\
#
# You may edit
#   select      yes: it becomes a drive; no: it is left alone. Entries may be deleted too.
#   accessTier  Hot, Warm, Cold or Default: what a class asks for with access-tier.
#   erase       method: Auto (what the device zeroes by itself, else every place of a signature),
#                       Signatures (only those places), Zero (all of it; may take hours);
#               verify: None, Sample or Full.
#   gate        what it must show before it is formatted, for example
#               gate: {readLatencyP99Max: 500us, readIopsMin: 10000, writeMin: 200Mi}
# The rest says which device is meant and what it held. Where that is no longer so, init refuses
# the drive and writes nothing to it.
";

fn push_entry(text: &mut String, offer: &Offer<'_>) {
    let Offer {
        node,
        device,
        holds,
    } = offer;
    let Some(id) = &device.drive_id else { return };
    let model = if device.model.is_empty() {
        String::new()
    } else {
        format!(", {}", one_line(&device.model))
    };
    let (select, state) = if holds.is_empty() {
        ("yes", "empty".to_owned())
    } else {
        let held = one_line(holds);
        (
            "no",
            format!("HOLDS {held}: select it only if that may be destroyed; init will ask"),
        )
    };
    let size = Bytes(device.size_bytes);
    let fields = [
        format!("\n  # {} on {node}: {size}{model}; {state}", device.name),
        format!("  - select: {select}"),
        format!("    node: {}", quoted(node)),
        format!("    device: {}", quoted(&device.name)),
        format!("    accessTier: {}", device.proposed_tier),
        "    erase: {method: Auto, verify: Sample}".to_owned(),
        format!("    id: {id}"),
        format!("    size: {}", device.size_bytes),
        format!(
            "    fingerprint: {}",
            quoted(&device.fingerprint.to_string())
        ),
    ];
    for field in fields {
        text.push_str(&field);
        text.push('\n');
    }
}

/// A text that cannot end its comment line.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// A scalar that YAML reads back as this very text.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '/' | '.');
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic());
    if starts && text.chars().all(plain) {
        return text.to_owned();
    }
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "1a2b3c4d-0000-8000-8000-00000000000a";

    fn file(entry: &str) -> String {
        format!("# a comment\nversion: ringpv.io/v1alpha1\ndrives:\n{entry}")
    }

    fn good() -> String {
        file(&format!(
            "  - select: yes\n    node: n1\n    device: /dev/nvme0n1\n    id: {ID}\n    size: 1073741824\n    fingerprint: aa11/blank\n    accessTier: hot\n    gate: {{readLatencyP99Max: 500us, writeMin: 200Mi}}\n"
        ))
    }

    #[test]
    fn a_good_file() {
        let entries = parse(&good()).unwrap();
        let [entry] = entries.as_slice() else {
            panic!("{entries:?}")
        };
        assert_eq!(
            (entry.line, entry.select, entry.device.as_str()),
            (4, true, "nvme0n1")
        );
        assert_eq!(entry.access_tier, AccessTier::Hot);
        let gate = entry.gate.unwrap();
        assert_eq!(gate.read_latency_p99_ns_max, Some(500_000));
        assert_eq!(gate.write_bytes_per_second_min, Some(200 << 20));
    }

    #[test]
    fn nonsense_is_told_with_its_line() {
        let cases: &[(&str, &str, usize, &str)] = &[
            ("yes", "perhaps", 4, "select is yes or no"),
            ("hot", "lukewarm", 10, "not an access tier"),
            ("accessTier", "acesTier", 10, "unknown field `acesTier`"),
            ("aa11/blank", "aa11", 9, "not a fingerprint"),
            ("1073741824", "big", 8, "invalid type"),
            ("1073741824", "0", 8, "size is 0"),
            (ID, "drive-1", 7, "not one that discover writes"),
            ("500us", "500", 11, "not a duration"),
            (
                "readLatencyP99Max: 500us, writeMin: 200Mi",
                "",
                11,
                "gate tests nothing",
            ),
            (
                "readLatencyP99Max: 500us",
                "readIopsMin: 0",
                11,
                "tests nothing",
            ),
            ("ringpv.io/v1alpha1", "v1", 2, "version"),
            ("    node: n1\n", "", 4, "missing field `node`"),
            ("  - select", "  select", 0, ""),
        ];
        for (from, to, line, message) in cases {
            let text = good().replacen(from, to, 1);
            let errors = parse(&text).unwrap_err();
            let error = &errors[0];
            assert!(error.message.contains(message), "{from} -> {to}: {error}");
            if *line > 0 {
                assert_eq!(error.line, *line, "{from} -> {to}: {error}");
            }
        }
        assert!(parse("").is_err());
    }

    #[test]
    fn one_device_once() {
        let twice = format!("{}{}", good(), good().split_once("drives:\n").unwrap().1);
        let errors = parse(&twice).unwrap_err();
        let said: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "line 15: the same id as the drive of line 4",
                "line 17: the same fingerprint as the drive of line 4"
            ]
        );
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut device = crate::testing::device("nvme0n1");
        device.model = "Evil\nmodel: yes".to_owned();
        let empty = Offer {
            node: "0123",
            device: &device,
            holds: String::new(),
        };
        let mut other = crate::testing::device("nvme1n1");
        other.drive_id = Some(ID.to_owned());
        let full = Offer {
            node: "node: 1",
            device: &other,
            holds: "ext4 \"a\nb\"".to_owned(),
        };
        let text = write(&[empty, full], "drives.yaml", Timestamp::UNIX_EPOCH);
        let entries = parse(&text).unwrap();
        assert_eq!(entries.len(), 2, "{text}");
        assert_eq!(
            (entries[0].select, entries[0].node.as_str()),
            (true, "0123")
        );
        assert_eq!(
            (entries[1].select, entries[1].node.as_str()),
            (false, "node: 1")
        );
        assert_eq!(entries[0].fingerprint, device.fingerprint);
        assert_eq!(entries[0].size_bytes, device.size_bytes);
    }
}
