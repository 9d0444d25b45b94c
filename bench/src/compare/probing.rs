//! Finding out what devices hold, beside the tools that do that.
//!
//! Ours reads one attribute of sysfs for each device, its size, and the places of the device where signatures are, as blkid
//! and wipefs do. `lsblk -O` tells some sixty columns of each, most of them from sysfs: beside it ours is the lighter job.

use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::figures::{Figures, Goal, Measure};
use super::ground::Slowed;
use super::process::{Order, Program, find, run, run_at_most};
use super::{Contest, Lab, Row, Side, Skipped};

/// Devices of the first contest.
const MANY: usize = 256;
/// Devices of the second.
const SOME: usize = 64;
/// Bytes of each: what mkfs.xfs asks for at least is 300 MiB.
const DEVICE_BYTES: u64 = 320 << 20;
/// The peer of the second.
const BLKID: &str = "blkid of all";
/// What blkid ends with where all devices are blank.
const NOTHING_FOUND: i32 = 2;
/// How long blkid is waited for where one device is slow. It takes longer.
const BLKID_LIMIT: Duration = Duration::from_secs(5);
/// The device that may be read once a second is told of no sooner, if the kernel holds it to that.
const SLOW_MS: f64 = 500.0;

/// The first program that is missing to make devices that hold something.
fn lacking() -> Option<&'static str> {
    let mut all = ["mkfs.xfs", "mkfs.ext4", "mkswap"].into_iter();
    all.find(|name| find(name).is_none())
}

/// Puts onto the file of a device what its number says; of seven one stays blank.
fn hold_something(index: usize, file: &Path) -> anyhow::Result<()> {
    let tool = |name: &str, words: &[&str]| {
        let tool = find(name).with_context(|| format!("{name} is missing"))?;
        let mut all: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        all.push(file.display().to_string());
        run(&[Program::new(&tool, all)], Order::InTurn).map(drop)
    };
    match index % 7 {
        0 => tool("mkfs.xfs", &["-q"]),
        1 => tool("mkfs.ext4", &["-q"]),
        2 => tool("mkswap", &[]),
        3 => write(file, 512, b"EFI PART\0\0\x01\0\x5c\0\0\0"),
        4 => write(file, 0, b"LUKS\xba\xbe\0\x01"),
        5 => write(
            file,
            512,
            b"LABELONE\x01\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0LVM2 001",
        ),
        _ => Ok(()),
    }
}

fn write(file: &Path, offset: u64, bytes: &[u8]) -> anyhow::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).open(file)?;
    file.seek(SeekFrom::Start(offset))?;
    Ok(file.write_all(bytes)?)
}

fn ours(lab: &Lab, devices: &[PathBuf], lacking: Option<&str>) -> Side {
    if let Some(tool) = lacking {
        return Side::missing("ours", tool);
    }
    let program = Program::new(&lab.own, words("probe", devices));
    Side::new("ours", move || {
        Ok(run(std::slice::from_ref(&program), Order::InTurn)?.0)
    })
}

fn words(first: &str, devices: &[PathBuf]) -> Vec<String> {
    let devices = devices.iter().map(|device| device.display().to_string());
    first
        .split_whitespace()
        .map(str::to_owned)
        .chain(devices)
        .collect()
}

/// A tool, that finds nothing of the devices in the page cache: one that was given with its word is kept open, which would keep there
/// what was read before (kernel-notes/36).
fn peer(name: &'static str, tool: &str, devices: &[PathBuf], words: Vec<Vec<String>>) -> Side {
    let Some(path) = find(tool) else {
        return Side::missing(name, tool);
    };
    let programs: Vec<Program> = words
        .into_iter()
        .map(|words| Program::new(&path, words))
        .map(|program| match tool {
            "blkid" => program.or(NOTHING_FOUND),
            _ => program,
        })
        .collect();
    let devices = devices.to_vec();
    Side::new(name, move || {
        for device in &devices {
            let device = std::fs::File::open(device)?;
            posix_fadvise(&device, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        }
        Ok(run(&programs, Order::InTurn)?.0)
    })
}

/// All devices of a large machine, or those that are given.
pub(super) fn all(lab: &Lab) -> anyhow::Result<Contest> {
    let given = lab.given.iter().map(|device| device.path.clone());
    let mut devices: Vec<PathBuf> = given.collect();
    let lacking = lacking().filter(|_| devices.is_empty());
    let count = if devices.is_empty() {
        MANY
    } else {
        devices.len()
    };
    if devices.is_empty() && lacking.is_none() {
        devices = lab.many(MANY, DEVICE_BYTES, hold_something)?;
    }
    let each: Vec<Vec<String>> = devices
        .iter()
        .map(|device| words("-p -o udev", std::slice::from_ref(device)))
        .collect();
    let row = |name: &str, peer, goal| Row {
        name: format!("probe-{count}/{name}"),
        peer,
        measure: Measure::Wall,
        goal: Goal::AtLeast(goal),
    };
    let (blkid, single, lsblk) = (BLKID, "blkid -p of each", "lsblk -J -O");
    let wipefs = "wipefs -n -J";
    Ok(Contest {
        what: format!(
            "what {count} devices hold: one attribute of sysfs (size) and the signatures of each, a lighter job than that \
             of lsblk -O, which shows some sixty columns"
        ),
        rows: vec![
            row("blkid", blkid, 20.0),
            row("blkid-each", single, 35.0),
            row("wipefs", wipefs, 20.0),
            row("lsblk", lsblk, 2.5),
        ],
        sides: vec![
            ours(lab, &devices, lacking),
            peer(
                blkid,
                "blkid",
                &devices,
                vec![words("-c /dev/null -o export", &devices)],
            ),
            peer(single, "blkid", &devices, each),
            peer(wipefs, "wipefs", &devices, vec![words("-n -J", &devices)]),
            peer(lsblk, "lsblk", &devices, vec![words("-J -O", &devices)]),
        ],
    })
}

/// One of many may be read once a second.
pub(super) fn slow(lab: &Lab) -> anyhow::Result<Contest> {
    let lacking = lacking();
    let (ours, blkid) = if let Some(tool) = lacking {
        (Side::missing("ours", tool), Side::missing(BLKID, tool))
    } else {
        let devices = lab.many(SOME, DEVICE_BYTES, hold_something)?;
        let one = devices.get(SOME / 2).context("a device in the middle")?;
        lab.keep(Slowed::new(one, 1)?);
        around_the_slow(lab, &devices, one)
    };
    let row = |name: &str, peer, measure, goal| Row {
        name: format!("probe-slow/{name}"),
        peer,
        measure,
        goal,
    };
    Ok(Contest {
        what: format!(
            "what {SOME} devices hold (size and signatures), one of which answers once a second: until all others are told of"
        ),
        rows: vec![
            row("blkid", BLKID, Measure::Wall, Goal::AtLeast(20.0)),
            row("50ms", "50 ms", Measure::Wall, Goal::AtLeast(1.0)),
        ],
        sides: vec![
            ours,
            blkid,
            Side::new("50 ms", || {
                Ok(Figures {
                    wall_s: 0.05,
                    ..Figures::default()
                })
            }),
        ],
    })
}

/// Ours and blkid, over devices of which one is slow.
fn around_the_slow(lab: &Lab, devices: &[PathBuf], slow: &Path) -> (Side, Side) {
    let ours = Program::new(&lab.own, words("probe --json", devices));
    let nothing = Program::new(&lab.own, ["--version"]);
    let slow = slow.display().to_string();
    let ours = Side::new("ours", move || {
        let start = run(std::slice::from_ref(&nothing), Order::InTurn)?.0;
        let said = run(std::slice::from_ref(&ours), Order::InTurn)?.1;
        others(start.wall_s, &said, &slow)
    });
    let Some(path) = find("blkid") else {
        return (ours, Side::missing(BLKID, "blkid"));
    };
    let blkid = Program::new(&path, words("-c /dev/null -o export", devices)).or(NOTHING_FOUND);
    let blkid = Side::new(BLKID, move || run_at_most(&blkid, BLKID_LIMIT));
    (ours, blkid)
}

/// From the start of the process to the last but one that was told of. The process tells the time since it began to look;
/// `start_s` comes on top: what the same program takes from its start to its end when it has nothing to do. The last must be
/// the device that is slow, and late: else all of them were fast.
fn others(start_s: f64, said: &str, slow: &str) -> anyhow::Result<Figures> {
    let mut told: Vec<(f64, String)> = said
        .lines()
        .filter_map(|line| {
            let told: serde_json::Value = serde_json::from_str(line).ok()?;
            let device = told.get("device")?.as_str()?.to_owned();
            Some((told.get("afterMs")?.as_f64()?, device))
        })
        .collect();
    told.sort_by(|one, other| one.0.total_cmp(&other.0));
    let [.., (others_ms, _), (last_ms, last)] = told.as_slice() else {
        anyhow::bail!("it told of less than two devices");
    };
    anyhow::ensure!(
        last == slow && *last_ms >= SLOW_MS,
        Skipped("the limit had no effect".into())
    );
    Ok(Figures {
        wall_s: start_s + others_ms / 1000.0,
        ..Figures::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(all: &[(&str, f64)]) -> String {
        let line = |(device, after): &(&str, f64)| {
            format!("{{\"device\":\"{device}\",\"afterMs\":{after}}}\n")
        };
        all.iter().map(line).collect()
    }

    #[test]
    fn the_slow_one_is_not_waited_for() {
        let said = told(&[("a", 3.5), ("b", 2000.0), ("c", 2.0)]);
        assert_eq!(others(0.0, &said, "b").unwrap().wall_s, 0.0035);
        let later = others(0.5, &said, "b").unwrap().wall_s;
        assert!((later - 0.5035).abs() < 1e-9, "{later}");
        assert!(others(0.0, &told(&[("b", 2000.0)]), "b").is_err());
    }

    #[test]
    fn where_nothing_was_slow_nothing_is_compared() {
        for all in [
            // Not last, and not late.
            [("b", 3.5), ("a", 2000.0)],
            [("a", 3.5), ("b", 499.0)],
        ] {
            let error = others(0.0, &told(&all), "b").unwrap_err();
            // As a contest is told that a round of it failed.
            let error = error.context("what: ours");
            let Skipped(why) = error.downcast::<Skipped>().unwrap();
            assert_eq!(why, "the limit had no effect");
        }
        assert!(others(0.0, &told(&[("a", 3.5), ("b", 500.0)]), "b").is_ok());
    }
}
