//! Images made by the real tools, or by hand as those would, with `blkid -p` as the oracle.

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::process::Command;

use super::tests::{Device, SIZE, kinds, scan_file};
use super::{KIB, MIB, everywhere, first, md_0_90_offset};

/// Says that a part of these tests cannot be had here, and why; the runner counts it.
fn skip(what: &str, why: &str) {
    println!("SKIPPED: oracle/{}: {why}", what.replace(' ', "-"));
}

/// Runs a tool of the machine on `file`, which comes last unless FILE says where; EMPTY is an empty folder beside it.
/// `None`, where it is missing.
#[expect(
    clippy::disallowed_methods,
    reason = "mkfs tools and blkid are what is compared with"
)]
fn run(tool: &str, args: &[&str], file: &Path) -> Option<std::process::Output> {
    let path = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        .into_iter()
        .map(|dir| Path::new(dir).join(tool))
        .find(|path| path.exists());
    let mut command = Command::new(path?);
    for arg in args {
        match *arg {
            "FILE" => command.arg(file),
            "EMPTY" => command.arg(file.with_file_name("empty")),
            arg => command.arg(arg),
        };
    }
    if !args.contains(&"FILE") {
        command.arg(file);
    }
    Some(command.output().unwrap())
}

/// What `blkid -p` says: TYPE or PTTYPE in lower case, UUID, LABEL.
fn blkid(file: &Path) -> Option<(String, String, String)> {
    let output = run("blkid", &["-p", "-o", "export"], file)?;
    let text = String::from_utf8(output.stdout).unwrap();
    let value = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .unwrap_or_default()
            .replace("\\ ", " ")
    };
    let kind = [value("TYPE"), value("PTTYPE")]
        .into_iter()
        .find(|kind| !kind.is_empty())
        .unwrap_or_default();
    Some((kind.to_lowercase(), value("UUID"), value("LABEL")))
}

const MADE: &[(&str, &str, &[&str])] = &[
    ("xfs", "mkfs.xfs", &["-q", "-L", "rpv:1a2b3c4d"]),
    (
        "xfs without checksums",
        "mkfs.xfs",
        &["-q", "-m", "crc=0", "-L", "old"],
    ),
    ("ext2", "mke2fs", &["-q", "-t", "ext2", "-L", "two words"]),
    ("ext3", "mke2fs", &["-q", "-t", "ext3"]),
    ("ext4", "mke2fs", &["-q", "-t", "ext4", "-L", "data"]),
    (
        "external journal",
        "mke2fs",
        &["-q", "-O", "journal_dev", "-b", "4096"],
    ),
    ("btrfs", "mkfs.btrfs", &["-q", "-L", "tree"]),
    ("swap", "mkswap", &["-L", "sw"]),
    ("swap of 64 KiB pages", "mkswap", &["-p", "65536"]),
    ("f2fs", "mkfs.f2fs", &["-q", "-l", "flash"]),
    ("fat32", "mkfs.vfat", &["-F", "32", "-n", "STICK"]),
    ("fat16", "mkfs.vfat", &["-F", "16"]),
    ("exfat", "mkfs.exfat", &[]),
    (
        "ntfs",
        "mkfs.ntfs",
        &[
            "-F", "-Q", "-q", "-s", "512", "-p", "0", "-H", "0", "-S", "0",
        ],
    ),
    ("minix", "mkfs.minix", &[]),
    ("minix 3", "mkfs.minix", &["-3"]),
    ("bfs", "mkfs.bfs", &["-N", "48"]),
    ("erofs", "mkfs.erofs", &["--quiet", "FILE", "EMPTY"]),
    ("nilfs2", "mkfs.nilfs2", &["-q"]),
    ("jfs", "mkfs.jfs", &["-q"]),
    ("udf", "mkudffs", &[]),
    ("reiserfs", "mkreiserfs", &["-q", "-ff"]),
    (
        "LUKS1",
        "cryptsetup",
        &[
            "luksFormat",
            "--type",
            "luks1",
            "-q",
            "--key-file",
            "/proc/version",
        ],
    ),
    (
        "LUKS2",
        "cryptsetup",
        &[
            "luksFormat",
            "--type",
            "luks2",
            "-q",
            "--key-file",
            "/proc/version",
        ],
    ),
];

/// Kinds of which we read no name: what holds a UDF tells where its names are only many sectors later.
const NAMELESS: [&str; 1] = ["udf"];

#[test]
fn what_mkfs_tools_write_is_named_as_blkid_names_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    // Each counts as a test; one of them this function itself.
    println!("COUNTED: {} passed, 0 failed, 0 skipped", MADE.len() - 1);
    for (what, tool, args) in MADE {
        let path = dir.path().join("image");
        File::create(&path).unwrap().set_len(320 * MIB).unwrap();
        let Some(output) = run(tool, args, &path) else {
            skip(what, &format!("{tool} is not on this machine"));
            continue;
        };
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr).replace('\n', " ");
            skip(what, &format!("{tool} does not make it: {why}"));
            continue;
        }
        let Some((kind, uuid, label)) = blkid(&path) else {
            skip(what, "blkid is not on this machine");
            continue;
        };
        let found = scan_file(&path, first);
        let Some(ours) = found.iter().find(|one| one.kind.as_str() == kind) else {
            panic!("{what}: blkid says {kind}, we {found:?}");
        };
        if !NAMELESS.contains(what) {
            assert_eq!((&ours.uuid, &ours.label), (&uuid, &label), "{what}");
        }
        assert!(!ours.damaged && !ours.unfinished, "{what}: {found:?}");
        assert_eq!(
            scan_file(&path, everywhere)
                .iter()
                .find(|one| one.kind.as_str() == kind),
            Some(ours)
        );
    }
}

#[test]
fn partition_tables_are_named_as_blkid_names_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    for table in ["gpt", "msdos"] {
        File::create(&path).unwrap().set_len(SIZE).unwrap();
        let Some(_) = parted(
            &path,
            &["mklabel", table, "mkpart", "primary", "1MiB", "32MiB"],
        ) else {
            return skip("partition tables", "parted is not on this machine");
        };
        let Some((kind, _, _)) = blkid(&path) else {
            return skip("partition tables", "blkid is not on this machine");
        };
        let found = scan_file(&path, first);
        assert!(
            found
                .iter()
                .all(|one| one.kind.as_str() == kind && !one.damaged),
            "{found:?}"
        );
        assert_eq!(found.len(), if table == "gpt" { 2 } else { 1 }, "{found:?}");
    }
    // The copy at the end is found when the first is gone.
    File::create(&path).unwrap().set_len(SIZE).unwrap();
    parted(&path, &["mklabel", "gpt"]);
    let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all(&[0; 32768]).unwrap();
    assert_eq!(kinds(&scan_file(&path, first)), ["gpt"]);
}

#[expect(clippy::disallowed_methods, reason = "parted is what is compared with")]
fn parted(file: &Path, args: &[&str]) -> Option<()> {
    let made = Command::new("/usr/sbin/parted")
        .arg("-s")
        .arg(file)
        .args(args)
        .status();
    made.ok().map(|status| assert!(status.success()))
}

/// An md 1.x superblock at `at`, as the kernel would accept it.
fn md1(at: u64) -> Vec<u8> {
    let mut sb = vec![0; 260];
    sb[..4].copy_from_slice(&0xa92b_4efc_u32.to_le_bytes());
    sb[4..8].copy_from_slice(&1_u32.to_le_bytes());
    sb[16..32].copy_from_slice(&[0x11; 16]);
    sb[32..38].copy_from_slice(b"host:0");
    sb[144..152].copy_from_slice(&(at / 512).to_le_bytes());
    sb[220..224].copy_from_slice(&2_u32.to_le_bytes());
    let sum: u64 = sb
        .chunks(4)
        .map(|w| u64::from(u32::from_le_bytes(w.try_into().unwrap())))
        .sum();
    let folded = u32::try_from((sum & 0xffff_ffff) + (sum >> 32)).unwrap();
    sb[216..220].copy_from_slice(&folded.to_le_bytes());
    sb
}

/// CRC-32 as zlib begins and ends it: reflected, from `crc`, without the last inversion.
fn crc32(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 * (crc & 1))
        })
    })
}

/// The label of an LVM2 physical volume in the second sector, with the header that names it.
fn lvm2() -> Vec<u8> {
    let mut label = vec![0; 512];
    label[..8].copy_from_slice(b"LABELONE");
    label[8..16].copy_from_slice(&1_u64.to_le_bytes());
    label[20..24].copy_from_slice(&32_u32.to_le_bytes());
    label[24..32].copy_from_slice(b"LVM2 001");
    label[32..64].copy_from_slice(b"AbCdEf0123456789abcdefGHIJKLmnop");
    let sum = crc32(0xf597_a6cf, &label[20..]);
    label[16..20].copy_from_slice(&sum.to_le_bytes());
    label
}

/// The anchor of a DDF array, in the last sector.
fn ddf() -> Vec<u8> {
    let mut header = vec![0xff; 512];
    header[..4].copy_from_slice(&[0xde, 0x11, 0xde, 0x11]);
    header[8..32].copy_from_slice(b"RINGPV  0123456789abcdef");
    header[32..40].copy_from_slice(b"01.02.00");
    let sum = !crc32(!0, &header);
    header[4..8].copy_from_slice(&sum.to_be_bytes());
    header
}

/// Two labels of a ZFS pool, their rings of uberblocks alone.
fn zfs(device: Device) -> Device {
    let blocks = (0..2_u64).flat_map(|label| (0..32).map(move |block| (label, block)));
    blocks.fold(device, |device, (label, block)| {
        let at = label * 256 * KIB + 128 * KIB + block * KIB;
        device.with(at, &0x00ba_b10c_u64.to_le_bytes())
    })
}

/// Devices that no tool of this machine makes, with what the formats' own documents say is in them.
fn by_hand(size: u64) -> Vec<(&'static str, Device)> {
    let end = (size - size % 4096) - 8 * KIB;
    let mut md090 = 0xa92b_4efc_u32.to_le_bytes().to_vec();
    md090.resize(64, 0);
    md090[8..12].copy_from_slice(&90_u32.to_le_bytes());
    md090[20..24].copy_from_slice(&0x1234_5678_u32.to_le_bytes());
    md090[52..56].copy_from_slice(&0x9abc_def0_u32.to_le_bytes());
    let bcache = *b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81";
    let bluestore = b"bluestore block device\n3f2504e0-4f89-11d3-9a0c-0305e82c3301\n";
    let one = |offset, bytes: &[u8]| Device::new(size).with(offset, bytes);
    vec![
        ("md 1.0", one(end, &md1(end))),
        ("md 1.1", one(0, &md1(0))),
        ("md 1.2", one(4096, &md1(4096))),
        ("md 0.90", one(md_0_90_offset(size).unwrap(), &md090)),
        (
            "bcache",
            one(4096 + 0x18, &bcache).with(4096 + 40, &[0x22; 16]),
        ),
        ("vdo", one(0, b"dmvdo001").with(40, &[0x33; 16])),
        ("bluestore", one(0, bluestore)),
        ("hibernation", one(4086, b"S1SUSPEND")),
        (
            "iso9660",
            one(32 * KIB, b"\x01CD001\x01").with(34 * KIB, b"\xffCD001\x01"),
        ),
        (
            "jfs",
            one(32 * KIB, b"JFS1").with(32 * KIB + 136, &[0x44; 16]),
        ),
        (
            "gfs2",
            one(64 * KIB, &[1, 0x16, 0x19, 0x70, 0, 0, 0, 1])
                .with(64 * KIB + 24, &1801_u32.to_be_bytes())
                .with(64 * KIB + 28, &1900_u32.to_be_bytes()),
        ),
        (
            "reiserfs",
            one(64 * KIB + 0x34, b"ReIsEr2Fs").with(64 * KIB + 44, &4096_u16.to_le_bytes()),
        ),
        ("vmfs", one(2 * MIB, &[0x5e, 0xf1, 0xab, 0x2f])),
        ("isw", one(size - 1024, b"Intel Raid ISM Cfg Sig. 1.2.00")),
        ("squashfs", one(0, b"hsqs").with(28, &[4, 0])),
        ("lvm2", one(512, &lvm2())),
        ("ddf", one(size / 512 * 512 - 512, &ddf())),
        ("zfs", zfs(Device::new(size))),
        ("bitlocker", one(0, b"\xeb\x58\x90-FVE-FS-")),
        ("apfs", one(32, b"NXSB").with(36, &4096_u32.to_le_bytes())),
        (
            // In the last whole 4 KiB; blkid looks in the last 4 KiB, which is the same on most devices.
            "drbd",
            one(end + 4 * KIB + 60, &[0x83, 0x74, 0x02, 0x6b]),
        ),
        ("stratis", one(512 + 4, b"!Stra0tis\x86\xff\x02^\x41rh")),
    ]
}

#[test]
fn what_is_written_by_hand_is_named_as_blkid_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    for (what, device) in by_hand(SIZE + 24 * KIB + 512) {
        device.write_to(&path);
        let Some((kind, uuid, _)) = blkid(&path) else {
            return println!(
                "SKIPPED: what_is_written_by_hand_is_named_as_blkid_names_it: blkid (util-linux) is missing"
            );
        };
        let found = scan_file(&path, everywhere);
        assert_eq!(found, device.scan(), "{what}");
        if kind.is_empty() {
            println!("{what}: blkid of this version says nothing; we say {found:?}");
        } else {
            // A structure and its copies are one thing.
            let mut named = kinds(&found);
            named.dedup();
            assert_eq!(named, [kind.as_str()], "{what}");
        }
        assert!(!found[0].damaged, "{what}: {found:?}");
        if !uuid.is_empty() && !found[0].uuid.is_empty() {
            assert_eq!(found[0].uuid, uuid, "{what}");
        }
    }
}

#[test]
fn an_xfs_that_was_not_finished_or_is_damaged_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    File::create(&path).unwrap().set_len(320 * MIB).unwrap();
    if run("mkfs.xfs", &["-q"], &path).is_none() {
        return println!(
            "SKIPPED: an_xfs_that_was_not_finished_or_is_damaged_says_so: mkfs.xfs (xfsprogs) is missing"
        );
    }
    let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(126)).unwrap();
    file.write_all(&[1]).unwrap();
    let found = scan_file(&path, first);
    assert_eq!(kinds(&found), ["xfs"]);
    assert!(found[0].unfinished && found[0].damaged);
    assert!(
        found[0].detail().ends_with("damaged unfinished"),
        "{}",
        found[0].detail()
    );
}
