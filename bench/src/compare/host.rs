//! What machine a comparison was held on, and which peers it was held with: figures are worth little to whoever does not know.
//! What cannot be told is null.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::process::{Program, find};

/// The programs that contests compare with. `t/io_uring` tells no version.
const PEERS: [&str; 6] = ["blkdiscard", "blkid", "dd", "fio", "lsblk", "wipefs"];

/// How long one is waited for while it says its version.
const LIMIT: Duration = Duration::from_secs(5);

/// The kernel's release, the processors, and the versions of the peers that are on this machine.
pub(super) fn facts() -> Value {
    let kernel = nix::sys::utsname::uname().ok();
    let kernel = kernel.map(|names| names.release().to_string_lossy().into_owned());
    let table = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let (model, count) = processors(&table);
    let peers: Map<String, Value> = PEERS
        .into_iter()
        .filter_map(|name| Some((name, Program::new(&find(name)?, ["--version"]))))
        .map(|(name, program)| (name.to_owned(), program.first_line(LIMIT).into()))
        .collect();
    json!({ "kernel": kernel, "cpuModel": model, "cpuCount": count, "peers": peers })
}

/// What `/proc/cpuinfo` calls the first processor, and how many it lists.
fn processors(table: &str) -> (Option<&str>, Option<usize>) {
    let facts = || {
        let split = table.lines().filter_map(|line| line.split_once(':'));
        split.map(|(name, value)| (name.trim(), value.trim()))
    };
    let model = facts().find(|(name, _)| *name == "model name");
    let count = facts().filter(|(name, _)| *name == "processor").count();
    (model.map(|(_, value)| value), (count > 0).then_some(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cpuinfo_tells() {
        let two = "processor\t: 0\nmodel name\t: AMD EPYC: 9\nflags\t\t: fpu\n\nprocessor\t: 1\nmodel name\t: Another\n";
        assert_eq!(processors(two), (Some("AMD EPYC: 9"), Some(2)));
        // Not all processors have names.
        assert_eq!(processors("processor\t: 0\n"), (None, Some(1)));
        assert_eq!(processors(""), (None, None));
    }

    #[test]
    fn facts_of_this_machine() {
        let facts = facts();
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert_eq!(facts["kernel"], release.trim());
        assert!(facts["peers"].is_object(), "{facts}");
        if find("dd").is_some() {
            assert!(facts["peers"].get("dd").is_some(), "{facts}");
        }
    }
}
