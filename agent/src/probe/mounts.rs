//! Who uses a device by mounting it or swapping to it.
//!
//! The host's own table counts: `/proc/1/mountinfo`, for the agent's namespace may know less (or more, so that is
//! read as well). A file system may show an anonymous number (btrfs), so its source is looked up besides.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What is mounted and swapped to, by `major:minor`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Mount points.
    pub mounts: BTreeMap<String, BTreeSet<PathBuf>>,
    /// Devices with swap.
    pub swaps: BTreeSet<String>,
    /// Whether the host's table could be read. If not, only this process's own is known.
    pub of_host: bool,
}

/// Reads mounts and swaps. `proc` and `dev` are the roots of procfs and of the device nodes.
#[must_use]
pub fn read(proc: &Path, dev: &Path) -> Usage {
    let host = std::fs::read_to_string(proc.join("1/mountinfo"));
    let own = std::fs::read_to_string(proc.join("self/mountinfo")).unwrap_or_default();
    let mut usage = Usage {
        of_host: host.is_ok(),
        ..Usage::default()
    };
    let number_of = |source: &Path| number_of_node(dev, source);
    for table in [host.unwrap_or_default(), own] {
        for (number, point) in parse_mountinfo(&table, &number_of) {
            usage.mounts.entry(number).or_default().insert(point);
        }
    }
    let swaps = std::fs::read_to_string(proc.join("swaps")).unwrap_or_default();
    usage.swaps = parse_swaps(&swaps)
        .iter()
        .filter_map(|path| number_of(path))
        .collect();
    usage
}

/// `major:minor` of a device node named by a path under `/dev`, links followed.
fn number_of_node(dev: &Path, source: &Path) -> Option<String> {
    let below = source.strip_prefix("/dev").ok()?;
    let number = std::fs::metadata(dev.join(below)).ok()?.rdev();
    (number != 0).then(|| format!("{}:{}", libc::major(number), libc::minor(number)))
}

/// Mount points by `major:minor`: by the number in the table and by the number of the source.
fn parse_mountinfo(
    table: &str,
    number_of: &dyn Fn(&Path) -> Option<String>,
) -> Vec<(String, PathBuf)> {
    let mut all = Vec::new();
    for line in table.lines() {
        let Some((mount, file_system)) = line.split_once(" - ") else {
            continue;
        };
        let mut fields = mount.split(' ').skip(2);
        let (Some(number), Some(point)) = (fields.next(), fields.nth(1)) else {
            continue;
        };
        let point = PathBuf::from(unescaped(point));
        let source = file_system.split(' ').nth(1).unwrap_or_default();
        if let Some(other) = number_of(Path::new(&unescaped(source)))
            && other != number
        {
            all.push((other, point.clone()));
        }
        all.push((number.to_owned(), point));
    }
    all
}

/// Paths of swap areas.
fn parse_swaps(table: &str) -> Vec<PathBuf> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .map(|path| PathBuf::from(unescaped(path)))
        .collect()
}

/// The kernel writes blanks, tabs, newlines and backslashes as `\ooo`.
fn unescaped(field: &str) -> String {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let [first, tail @ ..] = rest {
        let octal = |b: &u8| b.is_ascii_digit().then(|| u32::from(b - b'0'));
        let code = match tail {
            [a, b, c, ..] if *first == b'\\' => octal(a)
                .zip(octal(b))
                .zip(octal(c))
                .and_then(|((a, b), c)| u8::try_from(a * 64 + b * 8 + c).ok()),
            _ => None,
        };
        bytes.push(code.unwrap_or(*first));
        rest = tail
            .get(if code.is_some() { 3 } else { 0 }..)
            .unwrap_or_default();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_by_number_and_by_source() {
        let table = "\
26 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
90 26 0:40 /sub /srv/a\\040b rw - btrfs /dev/sdb rw,subvol=/sub
91 26 253:0 / /data rw master:3 - xfs /dev/mapper/vg-data rw,prjquota
92 26 0:5 / /dev rw - devtmpfs devtmpfs rw
broken line
93 26 8:33 /x/y /mnt/bind ro - xfs /dev/sdc1 rw
";
        let number_of = |path: &Path| match path.to_str() {
            Some("/dev/sdb") => Some("8:16".to_owned()),
            Some("/dev/mapper/vg-data") => Some("253:0".to_owned()),
            _ => None,
        };
        let read = parse_mountinfo(table, &number_of);
        let read: Vec<(&str, &str)> = read
            .iter()
            .map(|(number, point)| (number.as_str(), point.to_str().unwrap()))
            .collect();
        assert_eq!(
            read,
            [
                ("8:1", "/"),
                ("8:16", "/srv/a b"),
                ("0:40", "/srv/a b"),
                ("253:0", "/data"),
                ("0:5", "/dev"),
                ("8:33", "/mnt/bind"),
            ]
        );
    }

    #[test]
    fn swaps_are_read() {
        let table = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
                     /dev/dm-1                               partition\t8388604\t\t0\t\t-2\n\
                     /swap\\040file                           file\t\t1048572\t\t0\t\t-3\n";
        assert_eq!(
            parse_swaps(table),
            [PathBuf::from("/dev/dm-1"), PathBuf::from("/swap file")]
        );
        assert_eq!(parse_swaps(""), Vec::<PathBuf>::new());
    }

    #[test]
    fn escapes_are_undone_and_broken_ones_are_kept() {
        for (text, plain) in [
            ("a\\040b", "a b"),
            ("\\134", "\\"),
            ("a\\", "a\\"),
            ("a\\9", "a\\9"),
            ("\\777", "\\777"),
        ] {
            assert_eq!(unescaped(text), plain);
        }
    }

    #[test]
    fn without_the_hosts_table_the_own_one_counts_and_that_is_said() {
        let proc = tempfile::tempdir().unwrap();
        std::fs::create_dir(proc.path().join("self")).unwrap();
        let line = "26 1 8:1 / /own rw - ext4 /dev/none rw\n";
        std::fs::write(proc.path().join("self/mountinfo"), line).unwrap();
        let usage = read(proc.path(), Path::new("/nowhere"));
        assert!(!usage.of_host);
        assert_eq!(usage.mounts["8:1"], BTreeSet::from([PathBuf::from("/own")]));
    }
}
