//! Quota on a real file system: set `RINGPV_QUOTA_DIR` to an empty directory on an XFS that is mounted with `prjquota`.
//! Elsewhere this says why it is skipped. `RINGPV_PLAIN_XFS_DIR` is an XFS without quota.
#![cfg(test)]

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;

use block::quota::{Directory, Limits, QuotaError};

const MIB: u64 = 1 << 20;

fn directory(variable: &str, name: &str) -> Option<PathBuf> {
    let Some(root) = std::env::var_os(variable) else {
        println!("skipped: {variable} names no directory");
        return None;
    };
    let path = PathBuf::from(root).join(name);
    fs::create_dir_all(&path).unwrap();
    Some(path)
}

/// Writes until the kernel refuses, and says how much was taken.
fn fill(path: &PathBuf) -> (u64, ErrorKind) {
    let mut file = fs::File::options()
        .create(true)
        .append(true)
        .open(path)
        .unwrap();
    let chunk = vec![7_u8; 64 * 1024];
    loop {
        if let Err(error) = file.write_all(&chunk).and_then(|()| file.sync_data()) {
            return (file.metadata().unwrap().len(), error.kind());
        }
    }
}

#[test]
fn limits_hold_and_grow_while_the_neighbour_is_untouched() {
    let Some(one) = directory("RINGPV_QUOTA_DIR", "one") else {
        return;
    };
    let Some(two) = directory("RINGPV_QUOTA_DIR", "two") else {
        return;
    };
    let (first, second) = (
        Directory::open(&one).unwrap(),
        Directory::open(&two).unwrap(),
    );
    first.set_project(41).unwrap();
    second.set_project(42).unwrap();
    assert_eq!(
        (first.project().unwrap(), second.project().unwrap()),
        (41, 42)
    );
    let limits = |bytes| Limits { bytes, inodes: 100 };
    first.set_limits(41, limits(16 * MIB)).unwrap();
    second.set_limits(42, limits(8 * MIB)).unwrap();

    let (written, why) = fill(&one.join("f"));
    assert_eq!(why, ErrorKind::StorageFull);
    assert!(
        (16 * MIB - 64 * 1024..=16 * MIB).contains(&written),
        "{written}"
    );
    let full = first.usage(41).unwrap();
    assert_eq!(full.limits, limits(16 * MIB));
    assert!((written..=16 * MIB).contains(&full.used_bytes), "{full:?}");
    assert_eq!(full.used_inodes, 2);
    assert_eq!(first.usage(42).unwrap().used_bytes, 0);

    first.set_limits(41, limits(24 * MIB)).unwrap();
    let (grown, _) = fill(&one.join("f"));
    assert!((23 * MIB..=24 * MIB).contains(&grown), "{grown}");

    let made = (0..200)
        .take_while(|n| fs::write(two.join(n.to_string()), "").is_ok())
        .count();
    assert_eq!(made, 99, "the directory itself is the hundredth");
    let known: Vec<u32> = first
        .projects(1, 10)
        .unwrap()
        .iter()
        .map(|usage| usage.project)
        .collect();
    assert_eq!(known, [41, 42]);
    assert_eq!(first.projects(1, 1).unwrap().len(), 1);
    assert_eq!(first.usage(4_000_000_000).unwrap().used_inodes, 0);
}

#[test]
fn without_quota_an_id_is_kept_and_a_limit_refused() {
    let Some(path) = directory("RINGPV_PLAIN_XFS_DIR", "plain") else {
        return;
    };
    let directory = Directory::open(&path).unwrap();
    directory.set_project(7).unwrap();
    fs::create_dir_all(path.join("below")).unwrap();
    assert_eq!(
        Directory::open(&path.join("below"))
            .unwrap()
            .project()
            .unwrap(),
        7
    );
    let refused = [
        directory.set_limits(7, Limits::default()).unwrap_err(),
        directory.usage(7).unwrap_err(),
        directory.projects(0, 1).unwrap_err(),
    ];
    assert!(
        refused.iter().all(QuotaError::is_unsupported),
        "{refused:?}"
    );
}
