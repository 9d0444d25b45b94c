//! Level loop. What `ringpv-bench` does to devices besides measuring: it tells what they hold, and erases them on a person's
//! word, checked against the very device.

#![cfg(test)]

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::command::{Outcome, ours, program, run, until, wait};
use tests::loopdev::LoopDevice;

const LIMIT: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
const SIZE: u64 = 96 * MIB;
const REFUSED: i32 = 1;
const USAGE: i32 = 2;

fn bench(words: &[&str]) -> Outcome {
    let mut command = program(ours("ringpv-bench"));
    command.args(words);
    run(command, LIMIT)
}

/// Devices full of something; nothing, and said so, where there are none.
fn devices(test: &str, count: usize) -> Option<(tempfile::TempDir, Vec<LoopDevice>)> {
    if let Some(why) = LoopDevice::refusal() {
        println!("SKIPPED: {test}: {why}");
        return None;
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let made = (0..count).map(|index| {
        let file = folder.path().join(format!("device{index}"));
        let byte = u8::try_from(index).unwrap() + 7;
        fs::write(&file, vec![byte; usize::try_from(SIZE).unwrap()]).unwrap();
        LoopDevice::attach(&file)
    });
    let made = made.collect();
    Some((folder, made))
}

fn path(device: &LoopDevice) -> String {
    device.path().display().to_string()
}

/// The word that a refusal names.
fn fingerprint(device: &LoopDevice) -> String {
    let refused = bench(&["erase", &path(device)]).refused(REFUSED, "--fingerprint");
    let word = refused.stderr.split("--fingerprint ").nth(1).unwrap();
    word.split_whitespace().next().unwrap().to_owned()
}

/// Bytes of a device's ground that are not zero.
fn left(device: &LoopDevice) -> usize {
    let bytes = fs::read(device.file()).unwrap();
    bytes.iter().filter(|byte| **byte != 0).count()
}

#[test]
fn what_devices_hold_is_told_of_each() {
    let Some((folder, made)) = devices("what_devices_hold_is_told_of_each", 1) else {
        return;
    };
    let xfs = folder.path().join("xfs");
    let blank = folder.path().join("blank");
    fs::File::create(&xfs).unwrap().set_len(320 * MIB).unwrap();
    fs::File::create(&blank).unwrap().set_len(8 * MIB).unwrap();
    let mut mkfs = program("mkfs.xfs");
    mkfs.arg("-q").arg(&xfs);
    run(mkfs, LIMIT).ok();
    let paths: Vec<PathBuf> = vec![made[0].path(), xfs, blank, folder.path().join("none")];
    let words: Vec<String> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    for engine in ["auto", "threads"] {
        let mut all = vec!["probe", "--json", "--engine", engine];
        all.extend(words.iter().map(String::as_str));
        let told = bench(&all);
        assert_eq!(told.code, Some(3), "one of them does not exist: {told}");
        let mut kinds: Vec<(String, String)> = told
            .stdout
            .lines()
            .map(|line| {
                let told: Value = serde_json::from_str(line).unwrap();
                let kind = told["found"][0]["kind"].as_str();
                let kind = kind.unwrap_or(if told["error"].is_null() {
                    "blank"
                } else {
                    "error"
                });
                (told["device"].as_str().unwrap().to_owned(), kind.to_owned())
            })
            .collect();
        kinds.sort();
        let mut expected: Vec<(String, String)> = words
            .iter()
            .cloned()
            .zip(["unknown-data", "xfs", "blank", "error"].map(str::to_owned))
            .collect();
        expected.sort();
        assert_eq!(kinds, expected, "{engine}");
    }
}

#[test]
fn a_device_is_erased_by_its_own_word_alone() {
    let Some((folder, made)) = devices("a_device_is_erased_by_its_own_word_alone", 2) else {
        return;
    };
    let [one, other] = &made[..] else {
        panic!("two devices");
    };
    let (word, another) = (fingerprint(one), fingerprint(other));
    let (one_path, other_path) = (path(one), path(other));
    let full = usize::try_from(SIZE).unwrap();
    // Exchanged words, one word for two, and a device in use: nothing is written to either.
    let pair = |first: &str, second: &str| {
        bench(&[
            "erase",
            &one_path,
            &other_path,
            "--fingerprint",
            first,
            "--fingerprint",
            second,
        ])
    };
    pair(&another, &word).refused(REFUSED, "not the fingerprint");
    pair(&word, &word).refused(REFUSED, "not the fingerprint");
    let counted = bench(&["erase", &one_path, &other_path, "--fingerprint", &word]);
    counted.refused(USAGE, "one --fingerprint for each");
    let above = exclusively(one).unwrap();
    bench(&["erase", &one_path, "--fingerprint", &word]).refused(REFUSED, "in use");
    drop(above);
    assert_eq!((left(one), left(other)), (full, full));
    let erased = bench(&[
        "erase",
        &one_path,
        "--verify",
        "full",
        "--fingerprint",
        &word,
    ])
    .ok();
    assert!(
        erased.stdout.contains("96.0 MiB read back as zeroes"),
        "{erased}"
    );
    assert_eq!((left(one), left(other)), (0, full));
    // What was named is not what it is any more.
    bench(&["erase", &one_path, "--fingerprint", &word]).refused(REFUSED, "not the fingerprint");
    for (how, engine) in [("zero", "threads"), ("writes", "auto")] {
        let word = fingerprint(other);
        let words = ["erase", &other_path, "--method", how, "--engine", engine];
        let done = bench(&[&words[..], &["--fingerprint", &word]].concat()).ok();
        assert!(done.stdout.contains("all of it"), "{done}");
        assert_eq!(left(other), 0, "{how}");
        fs::write(other.file(), vec![9; full]).unwrap();
    }
    drop(made);
    drop(folder);
}

/// A comparison that writes to a device, stopped while one of its programs does: no more is written before it is let go on.
struct Stopped(Child);

impl Stopped {
    /// While the program that is called so, with this first word, writes: `during` is looked at until it ends.
    fn comparing(device: &LoopDevice, writer: (&str, &str), during: impl FnOnce()) -> Self {
        let (stopped, program) = Self::at(device, writer);
        stopped.signal(Signal::SIGSTOP);
        during();
        until("the end of that program", LIMIT, || {
            let stat = fs::read_to_string(format!("/proc/{program}/stat")).ok()?;
            stat.contains(") Z ").then_some(())
        });
        stopped
    }

    /// Once that program has begun, with its process's id.
    fn at(device: &LoopDevice, writer: (&str, &str)) -> (Self, String) {
        let (path, word) = (path(device), fingerprint(device));
        let mut command = program(ours("ringpv-bench"));
        command.args(["compare", &path, "--fingerprint", &word]);
        command.args(["--only", "write-8", "--rounds", "50", "--runtime", "1s"]);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stopped = Self(child);
        let id = stopped.0.id();
        let children = format!("/proc/{id}/task/{id}/children");
        let program = until(writer.0, LIMIT, || {
            let of = fs::read_to_string(&children).ok()?;
            let program = of.split_whitespace().next()?.to_owned();
            let words = fs::read_to_string(format!("/proc/{program}/cmdline")).ok()?;
            let (name, rest) = words.split_once('\0')?;
            (name.ends_with(writer.0) && rest.starts_with(writer.1)).then_some(program)
        });
        (stopped, program)
    }

    fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.0.id().try_into().unwrap());
        kill(id, signal).unwrap();
    }

    /// What it says once it is let go on.
    fn goes_on(mut self) -> String {
        self.signal(Signal::SIGCONT);
        let status = wait(&mut self.0, LIMIT).expect("it ends");
        let mut said = String::new();
        let mut stderr = self.0.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        assert_eq!(status.code(), Some(3), "{said}");
        said
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn exclusively(device: &LoopDevice) -> std::io::Result<fs::File> {
    fs::File::options()
        .read(true)
        .custom_flags(nix::libc::O_EXCL)
        .open(device.path())
}

/// A loop device does not hold its ground, and knows it by one of its names alone.
#[test]
fn what_a_loop_device_stands_on_is_not_written_to_by_any_name() {
    let test = "what_a_loop_device_stands_on_is_not_written_to_by_any_name";
    let Some((folder, made)) = devices(test, 1) else {
        return;
    };
    let device = &made[0];
    let before = device.checksum();
    let (link, other) = (folder.path().join("link"), folder.path().join("other"));
    fs::hard_link(device.file(), &link).unwrap();
    fs::write(&other, vec![7; 1 << 20]).unwrap();
    let write = |file: &std::path::Path| {
        let file = file.display().to_string();
        bench(&["run", &file, "--rw", "write", "--write-file", "--ops", "8"])
    };
    write(&other).ok();
    for name in [device.file(), &link] {
        write(name).refused(REFUSED, &format!("backs {}", path(device)));
    }
    // Its path leads elsewhere now.
    fs::rename(&other, device.file()).unwrap();
    write(device.file()).ok();
    write(&link).refused(REFUSED, &format!("backs {}", path(device)));
    assert_eq!(device.checksum(), before);
}

/// Nor on a partition of it, or on its whole disk.
#[test]
fn what_a_loop_device_stands_on_in_part_is_not_written_to() {
    let test = "what_a_loop_device_stands_on_in_part_is_not_written_to";
    let Some((_folder, made)) = devices(test, 1) else {
        return;
    };
    let disk = path(&made[0]);
    // Some kernels read no partition tables; partx tells them.
    let mut table = program("sh");
    table.args([
        "-c",
        "echo ',,L' | sfdisk -q $0 && partx --update $0",
        &disk,
    ]);
    run(table, LIMIT).ok();
    let part = format!("{disk}p1");
    until(&part, LIMIT, || fs::metadata(&part).ok());
    for (below, other) in [(&part, &disk), (&disk, &part)] {
        let upon = LoopDevice::attach(below.as_ref());
        let before = upon.checksum();
        for target in [below, other] {
            let word = ["erase", target, "--fingerprint", "0123456789abcdef"];
            bench(&word).refused(REFUSED, &format!("{target} backs {}", path(&upon)));
        }
        assert_eq!(upon.checksum(), before);
    }
}

/// fio opens a device as anybody may: it is the comparison that keeps it from being mounted meanwhile.
#[test]
fn a_comparison_holds_the_device_that_a_peer_writes_to() {
    let test = "a_comparison_holds_the_device_that_a_peer_writes_to";
    if !std::path::Path::new("/usr/bin/fio").exists() {
        return tests::skip(test, "fio is missing");
    }
    let Some((_folder, made)) = devices(test, 1) else {
        return;
    };
    let device = &made[0];
    let refused = || {
        let error = exclusively(device).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::EBUSY), "{error}");
    };
    let stopped = Stopped::comparing(device, ("/fio", "--name=compare"), refused);
    drop(stopped);
    until("the end of the hold", LIMIT, || exclusively(device).ok());
}

/// A comparison that is killed leaves a peer writing: nobody else gets the device before that has ended.
#[test]
fn what_outlives_a_comparison_keeps_its_device() {
    let test = "what_outlives_a_comparison_keeps_its_device";
    if !std::path::Path::new("/usr/bin/fio").exists() {
        return tests::skip(test, "fio is missing");
    }
    let Some((_folder, made)) = devices(test, 1) else {
        return;
    };
    let device = &made[0];
    let (mut comparing, peer) = Stopped::at(device, ("/fio", "--name=compare"));
    let peer = Pid::from_raw(peer.parse().unwrap());
    kill(peer, Signal::SIGSTOP).unwrap();
    comparing.0.kill().unwrap();
    comparing.0.wait().unwrap();
    let error = exclusively(device).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::EBUSY), "{error}");
    kill(peer, Signal::SIGKILL).unwrap();
    until("the end of the hold", LIMIT, || exclusively(device).ok());
}

/// A comparison writes for minutes: what it was allowed to at the beginning may be somebody else's by now.
#[test]
fn a_comparison_writes_to_no_other_device_than_it_was_given() {
    let test = "a_comparison_writes_to_no_other_device_than_it_was_given";
    let Some((folder, made)) = devices(test, 1) else {
        return;
    };
    let device = &made[0];
    // It holds the device itself: when it has ended nobody does.
    let ours = ("/ringpv-bench", "run");
    let stopped = Stopped::comparing(device, ours, || {});
    let above = exclusively(device).unwrap();
    let before = device.checksum();
    let said = stopped.goes_on();
    assert!(said.contains("in use"), "{said}");
    assert_eq!(device.checksum(), before);
    drop(above);

    // What a device stands on is what a loop device is.
    let stopped = Stopped::comparing(device, ours, || {});
    fs::rename(device.file(), folder.path().join("moved")).unwrap();
    let before = device.checksum();
    let said = stopped.goes_on();
    assert!(said.contains("another device than"), "{said}");
    assert_eq!(device.checksum(), before);
}

/// Whether the figures of a comparison can be had at all; what they are is for a machine that does nothing else.
#[test]
fn a_comparison_is_held() {
    let held = bench(&[
        "compare",
        "--only",
        "nop",
        "--rounds",
        "2",
        "--runtime",
        "50ms",
        "--json",
    ])
    .ok();
    let told: Value = serde_json::from_str(&held.stdout).unwrap();
    let row = &told["rows"][0];
    assert_eq!(row["name"], "nop/cpu", "{held}");
    assert!(row["ratio"]["median"].as_f64().unwrap() > 0.0, "{held}");
    bench(&["compare", "--only", "everything"]).refused(USAGE, "not one of");
    bench(&[
        "compare",
        "/dev/null",
        "--fingerprint",
        "a",
        "--fingerprint",
        "b",
    ])
    .refused(USAGE, "one --fingerprint for each");
}
