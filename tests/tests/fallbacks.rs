//! Level loop. What `ringpv-bench` does where io_uring is refused, may lock too little memory, or is the slower engine: it
//! measures all the same, and says by what.

#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tests::command::{Outcome, ours, program, run};
use tests::loopdev::LoopDevice;

const LIMIT: Duration = Duration::from_secs(60);
/// What is locked is counted for all processes of a user: one measures at a time, and after what the one before it locked
/// was given back, which the kernel does a moment after its end.
static LOCKING: Mutex<()> = Mutex::new(());
const GIVEN_BACK: Duration = Duration::from_millis(500);
/// Words before a command that must not lock memory beyond its limit.
const BOUNDED: [&str; 5] = [
    "setpriv",
    "--bounding-set",
    "-ipc_lock",
    "--inh-caps",
    "-ipc_lock",
];

/// A file to read, in a folder that goes with it.
fn file() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::TempDir::with_prefix("ringpv-").unwrap();
    let path = folder.path().join("file");
    fs::write(&path, vec![7; 1 << 20]).unwrap();
    (folder, path)
}

/// `before` and what follows measures the file with 200 reads, 32 at a time.
fn measure(before: &[&str], path: &Path) -> Outcome {
    measure_at(before, path, "32")
}

fn measure_at(before: &[&str], path: &Path, depth: &str) -> Outcome {
    bench(before, path, &["--ops", "200", "--iodepth", depth])
}

fn bench(before: &[&str], what: &Path, how: &[&str]) -> Outcome {
    bench_to("run", before, what, how)
}

fn bench_to(verb: &str, before: &[&str], what: &Path, how: &[&str]) -> Outcome {
    let mut words = before
        .iter()
        .map(PathBuf::from)
        .chain([ours("ringpv-bench")]);
    let mut command = program(words.next().unwrap_or_default());
    command.args(words).arg(verb).arg(what).args(how);
    run(command, LIMIT)
}

fn with_ops(mut command: Command) -> Command {
    command.args(["--ops", "200", "--iodepth", "32"]);
    command
}

/// The same with so many KiB of memory to lock. `None`, and said so, where that cannot be.
fn measure_locking(test: &str, kib: u32, path: &Path) -> Option<Outcome> {
    bench_locking(test, kib, path, &["--ops", "200", "--iodepth", "32"])
}

fn bench_locking(test: &str, kib: u32, what: &Path, how: &[&str]) -> Option<Outcome> {
    locking(test, kib, |words| bench(words, what, how).ok())
}

/// What `measure` finds with these words before its command.
fn locking<T>(test: &str, kib: u32, measure: impl FnOnce(&[&str]) -> T) -> Option<T> {
    let mut trial = program(BOUNDED[0]);
    trial.args(&BOUNDED[1..]).arg("true");
    let tried = run(trial, LIMIT);
    if tried.code != Some(0) {
        tests::skip(test, &format!("setpriv: {}", tried.stderr.trim()));
        return None;
    }
    let _alone = LOCKING.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::sleep(GIVEN_BACK);
    let script = format!("ulimit -l {kib} && exec \"$@\"");
    let words = [&BOUNDED[..], &["sh", "-c", &script, "sh"]].concat();
    Some(measure(&words))
}

/// The line of the engine.
fn engine(outcome: &Outcome) -> &str {
    let line = outcome
        .stdout
        .lines()
        .find_map(|line| line.trim().strip_prefix("engine"));
    line.unwrap_or_else(|| panic!("no engine: {outcome}"))
        .trim()
}

/// Whether a ring is used where nothing is in its way; says so where not.
fn has_rings(test: &str, path: &Path) -> bool {
    let plain = measure(&[], path).ok();
    let rings = engine(&plain).starts_with("io_uring (");
    if !rings {
        tests::skip(test, plain.stderr.trim());
    }
    rings
}

#[test]
fn fewer_buffers_are_registered_where_little_memory_may_be_locked() {
    const TEST: &str = "fewer_buffers_are_registered_where_little_memory_may_be_locked";
    let (_folder, path) = file();
    if !has_rings(TEST, &path) {
        return;
    }
    let Some(outcome) = measure_locking(TEST, 64, &path) else {
        return;
    };
    let said = engine(&outcome);
    let registered = said.split_once(" of 32 buffers registered");
    let count: Option<u32> =
        registered.and_then(|(before, _)| before.rsplit(' ').next()?.parse().ok());
    assert!(count.is_some_and(|count| count < 32), "{outcome}");
    assert!(outcome.stdout.contains("200 operations"), "{outcome}");
}

#[test]
fn threads_are_used_where_no_memory_may_be_locked() {
    const TEST: &str = "threads_are_used_where_no_memory_may_be_locked";
    let (_folder, path) = file();
    if !has_rings(TEST, &path) {
        return;
    }
    let Some(outcome) = measure_locking(TEST, 0, &path) else {
        return;
    };
    assert!(outcome.stdout.contains("200 operations"), "{outcome}");
    if outcome.stderr.contains("RLIMIT_MEMLOCK") {
        assert!(engine(&outcome).starts_with("pread"), "{outcome}");
    } else {
        // From 5.12 until it was changed again the ring itself was not counted (kernel-notes/04).
        let said = engine(&outcome);
        assert!(said.contains(", 0 of 32 buffers registered"), "{outcome}");
    }
}

/// The small ring that is tried at the start is had, the large one of the measurement is not.
#[test]
fn a_large_ring_that_is_refused_gives_way_to_a_smaller_one_or_threads() {
    const TEST: &str = "a_large_ring_that_is_refused_gives_way_to_a_smaller_one_or_threads";
    let (_folder, path) = file();
    if !has_rings(TEST, &path) {
        return;
    }
    let plain = ["--ops", "200", "--iodepth", "1024"];
    let through = [&plain[..], &["--passthrough"]].concat();
    let cases: [&[&str]; 2] = [&plain, &through];
    for (kib, how) in [24, 64, 112, 144]
        .into_iter()
        .flat_map(|kib| cases.map(|case| (kib, case)))
    {
        let Some(outcome) = bench_locking(TEST, kib, &path, how) else {
            return;
        };
        let said = engine(&outcome);
        tests::tell(&format!("{kib} KiB {how:?}: {said}"));
        assert!(outcome.stdout.contains("200 operations"), "{outcome}");
        if said.starts_with("pread") {
            assert!(outcome.stderr.contains("threads are used: "), "{outcome}");
        } else {
            assert!(said.starts_with("io_uring ("), "{outcome}");
        }
    }
}

/// Of `probe` and `erase`: the ring that is tried at the start is had, those that they work with are not.
fn refused_or_told(test: &str, kib: u32, verb: &str, what: &Path, how: &[&str]) {
    let at = |engine: &str| {
        let how = [how, &["--engine", engine]].concat();
        locking(test, kib, |words| bench_to(verb, words, what, &how))
    };
    let (Some(insists), Some(chooses)) = (at("uring"), at("auto")) else {
        return;
    };
    insists.refused(3, "ENOMEM");
    let told = chooses.ok();
    assert!(told.stderr.contains("threads are used: "), "{told}");
    assert!(told.stderr.contains("ENOMEM"), "{told}");
}

/// Whether the kernel counts a ring among what is locked: not so from 5.12 until it was changed again (kernel-notes/04).
fn counts_rings(test: &str, path: &Path) -> bool {
    let Some(outcome) = measure_locking(test, 0, path) else {
        return false;
    };
    let counts = outcome.stderr.contains("RLIMIT_MEMLOCK");
    if !counts {
        tests::skip(test, "this kernel does not count a ring as locked memory");
    }
    counts
}

#[test]
fn a_probe_by_threads_is_refused_to_who_insists_and_told_to_who_does_not() {
    const TEST: &str = "a_probe_by_threads_is_refused_to_who_insists_and_told_to_who_does_not";
    let (_folder, path) = file();
    if !has_rings(TEST, &path) || !counts_rings(TEST, &path) {
        return;
    }
    for kib in [0, 8, 24] {
        refused_or_told(TEST, kib, "probe", &path, &[]);
    }
    let asks = bench_to("probe", &[], &path, &["--engine", "threads"]).ok();
    assert_eq!(asks.stderr, "");
}

#[test]
fn an_erase_by_threads_is_refused_to_who_insists_and_told_to_who_does_not() {
    const TEST: &str = "an_erase_by_threads_is_refused_to_who_insists_and_told_to_who_does_not";
    let (_folder, path) = file();
    if !has_rings(TEST, &path) || !counts_rings(TEST, &path) {
        return;
    }
    if let Some(why) = LoopDevice::refusal() {
        return tests::skip(TEST, &why);
    }
    fs::write(&path, vec![7; 16 << 20]).unwrap();
    let device = LoopDevice::attach(&path);
    // With 4 MiB there is a ring that writes, and none that reads back.
    for kib in [0, 8, 24, 4096] {
        // Each writes zeroes, and the word is that of a device full of something.
        fs::write(&path, vec![7; 16 << 20]).unwrap();
        let asked = bench_to("erase", &[], &device.path(), &[]).refused(1, "--fingerprint");
        let word = asked.stderr.split("--fingerprint ").nth(1).unwrap();
        let word = word.split_whitespace().next().unwrap();
        refused_or_told(
            TEST,
            kib,
            "erase",
            &device.path(),
            &["--method", "writes", "--fingerprint", word],
        );
    }
}

#[test]
fn threads_are_used_where_a_sandbox_refuses_io_uring() {
    let sandbox = tests::tree::root().join("tests/without-uring");
    let mut trial = program(&sandbox);
    trial.arg("true");
    let tried = run(trial, LIMIT);
    if tried.code != Some(0) {
        let test = "threads_are_used_where_a_sandbox_refuses_io_uring";
        return tests::skip(test, tried.stderr.trim());
    }
    let (_folder, path) = file();
    let outcome = measure(&[&sandbox.display().to_string()], &path).ok();
    assert!(outcome.stdout.contains("200 operations"), "{outcome}");
    assert_eq!(engine(&outcome), "pread and pwrite on 32 threads");
    let why = outcome.stderr.contains("threads are used: ")
        && (outcome.stderr.contains("seccomp") || outcome.stderr.contains("io_uring_disabled"));
    assert!(why, "{outcome}");
    // Who insists is told the same.
    let mut insists = program(&sandbox);
    insists.arg(ours("ringpv-bench")).arg("run").arg(&path);
    insists.args(["--engine", "uring"]);
    run(with_ops(insists), LIMIT).refused(3, "io_uring");
}

/// A block device in compressed memory: it has no NOWAIT. It goes with this value.
struct Zram(String);

impl Zram {
    fn create() -> Result<Self, String> {
        let number = fs::read_to_string("/sys/class/zram-control/hot_add")
            .map_err(|error| format!("/sys/class/zram-control/hot_add: {error}"))?;
        let zram = Self(number.trim().to_owned());
        let size = format!("/sys/block/zram{}/disksize", zram.0);
        fs::write(&size, "16M").map_err(|error| format!("{size}: {error}"))?;
        Ok(zram)
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/dev/zram{}", self.0))
    }
}

impl Drop for Zram {
    fn drop(&mut self) {
        drop(fs::write(format!("/sys/block/zram{}/reset", self.0), "1"));
        drop(fs::write("/sys/class/zram-control/hot_remove", &self.0));
    }
}

#[test]
fn a_device_without_nowait_gets_the_engine_that_is_faster() {
    const TEST: &str = "a_device_without_nowait_gets_the_engine_that_is_faster";
    let (_folder, path) = file();
    if !has_rings(TEST, &path) {
        return;
    }
    let zram = match Zram::create() {
        Ok(zram) => zram,
        Err(why) => return tests::skip(TEST, &why),
    };
    for depth in ["1", "16"] {
        let mut command = program(ours("ringpv-bench"));
        command.arg("run").arg(zram.path());
        command.args(["--ops", "500", "--iodepth", depth]);
        let outcome = run(command, LIMIT).ok();
        // Which is faster is the machine's to say; that it was asked, and heeded, is ours.
        tests::tell(outcome.stderr.trim());
        let said = format!("threads, {depth} at a time");
        assert!(outcome.stderr.contains(&said), "{outcome}");
        let by_threads = outcome.stderr.contains("threads are used: ");
        assert_eq!(by_threads, engine(&outcome).starts_with("pread"));
    }
}

#[test]
fn what_cannot_be_polled_goes_by_interrupts() {
    const TEST: &str = "what_cannot_be_polled_goes_by_interrupts";
    let (_folder, path) = file();
    if !has_rings(TEST, &path) {
        return;
    }
    let mut command = program(ours("ringpv-bench"));
    command.arg("run").arg(&path).args(["--iopoll"]);
    let outcome = run(with_ops(command), LIMIT).ok();
    let said = engine(&outcome);
    tests::tell(said);
    let polls = said.ends_with(", polled");
    assert!(polls || said.contains(", not polled: "), "{outcome}");
}

#[test]
fn what_takes_no_commands_is_read_as_ever() {
    const TEST: &str = "what_takes_no_commands_is_read_as_ever";
    let (_folder, path) = file();
    if !has_rings(TEST, &path) {
        return;
    }
    let mut command = program(ours("ringpv-bench"));
    command.arg("run").arg(&path).arg("--passthrough");
    let outcome = run(with_ops(command), LIMIT).ok();
    let said = engine(&outcome);
    tests::tell(said);
    assert!(
        said.ends_with(", no passthrough: it is no NVMe namespace"),
        "{outcome}"
    );
}
