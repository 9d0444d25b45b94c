//! Finding out what devices hold, beside the tools that do that.

use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use super::figures::{Figures, Goal, Measure};
use super::ground::Slowed;
use super::process::{Order, Program, find, run, run_at_most};
use super::{Contest, Lab, Row, Side};

/// Devices of the first contest.
const MANY: usize = 256;
/// Devices of the second.
const SOME: usize = 64;
/// Bytes of each: what mkfs.xfs asks for at least is 300 MiB.
const DEVICE_BYTES: u64 = 320 << 20;
/// The peer of the second.
const BLKID: &str = "blkid of all";
/// How long blkid is waited for where one device is slow. It takes longer.
const BLKID_LIMIT: Duration = Duration::from_secs(5);

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

fn peer(name: &'static str, tool: &str, words: Vec<Vec<String>>) -> Side {
    let Some(path) = find(tool) else {
        return Side::missing(name, tool);
    };
    let programs: Vec<Program> = words
        .into_iter()
        .map(|words| Program::new(&path, words))
        .collect();
    Side::new(name, move || Ok(run(&programs, Order::InTurn)?.0))
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
        // A blank device is a failure to it, which is no failure here.
        .map(|device| {
            let script = "blkid -p -o udev \"$0\"; true".to_owned();
            vec!["-c".to_owned(), script, device.display().to_string()]
        })
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
        what: format!("what {count} devices hold"),
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
                vec![words("-c /dev/null -o export", &devices)],
            ),
            peer(single, "sh", each),
            peer(wipefs, "wipefs", vec![words("-n -J", &devices)]),
            peer(lsblk, "lsblk", vec![words("-J -O", &[])]),
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
        around_the_slow(lab, &devices)
    };
    let row = |name: &str, peer, measure, goal| Row {
        name: format!("probe-slow/{name}"),
        peer,
        measure,
        goal,
    };
    Ok(Contest {
        what: format!(
            "what {SOME} devices hold, one of which answers once a second: until all others are told of"
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
fn around_the_slow(lab: &Lab, devices: &[PathBuf]) -> (Side, Side) {
    let ours = Program::new(&lab.own, words("probe --json", devices));
    let ours = Side::new("ours", move || {
        others(&run(std::slice::from_ref(&ours), Order::InTurn)?.1)
    });
    let Some(path) = find("blkid") else {
        return (ours, Side::missing(BLKID, "blkid"));
    };
    let blkid = Program::new(&path, words("-c /dev/null -o export", devices));
    let blkid = Side::new(BLKID, move || run_at_most(&blkid, BLKID_LIMIT));
    (ours, blkid)
}

/// From the start of the process to the last but one that was told of.
fn others(said: &str) -> anyhow::Result<Figures> {
    let mut after: Vec<f64> = said
        .lines()
        .filter_map(|line| {
            let told: serde_json::Value = serde_json::from_str(line).ok()?;
            told.get("afterMs")?.as_f64()
        })
        .collect();
    after.sort_by(f64::total_cmp);
    let last = after
        .len()
        .checked_sub(2)
        .and_then(|index| after.get(index));
    Ok(Figures {
        wall_s: last.context("it told of less than two devices")? / 1000.0,
        ..Figures::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slow_one_is_not_waited_for() {
        let said = "{\"device\":\"a\",\"afterMs\":3.5}\n{\"device\":\"b\",\"afterMs\":2000}\n{\"device\":\"c\",\"afterMs\":2}\n";
        assert_eq!(others(said).unwrap().wall_s, 0.0035);
        assert!(others("{\"afterMs\":1}").is_err());
    }
}
