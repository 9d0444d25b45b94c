//! Level loop. Erasing real devices: each method and its choice, the claim block that is spared, one rate for several
//! drives, and a person who suspends, resumes or calls off what is under way.

#![cfg(test)]

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api::drive::Step;
use api::{Drive, DrivePhase, Reason};
use block::claim::{CLAIM_BYTES, claim_offset};
use block::erase::{
    Course, EraseError, Erased, Eraser, Found, Limiter, Method, Ours, Piece, Plan, Range, Wanted,
    Warrant, erase,
};
use tests::command::{now, program, run, until};
use tests::loopdev::LoopDevice;
use tests::machine::{LIMIT, Machine};
use tests::removal;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 256 * MIB;
/// Exit code of what was tried and failed.
const FAILED: i32 = 3;

/// A loop device full of bytes that are not zero, held.
struct Full {
    device: LoopDevice,
    eraser: Eraser,
    warrant: Warrant,
}

impl Full {
    fn on(folder: &Path, name: &str, limiter: &Arc<Limiter>) -> Self {
        let path = folder.join(name);
        let device = LoopDevice::create(&path, SIZE);
        let whole = vec![0xa5; usize::try_from(SIZE).unwrap()];
        fs::write(device.path(), &whole).unwrap();
        Self::over(device, limiter)
    }

    /// Whatever is on it.
    fn over(device: LoopDevice, limiter: &Arc<Limiter>) -> Self {
        let held = File::options()
            .read(true)
            .write(true)
            .custom_flags(nix::libc::O_DIRECT | nix::libc::O_EXCL)
            .open(device.path())
            .unwrap();
        held.sync_all().unwrap();
        let backend = block::probe_backend(block::Choice::Auto).unwrap();
        let eraser =
            Eraser::new(Arc::new(held), backend.ring_flags(), Arc::clone(limiter)).unwrap();
        let found = Found {
            major_minor: eraser.major_minor(),
            size_bytes: SIZE,
            identity: "this one",
            content: "blank",
            blank: true,
            claim: Ok(None),
            file_system: None,
            held: String::new(),
            strangers: Vec::new(),
        };
        let ours = Ours {
            drive_id: "d",
            cluster_id: "c",
            incarnation: "i",
            identity: "this one",
            content: "blank",
        };
        let warrant = Warrant::to_prepare(ours, false, &found).unwrap();
        Self {
            device,
            eraser,
            warrant,
        }
    }

    fn erase(&self, course: Course) -> Result<Erased, EraseError> {
        let mut last = course.cursor();
        let mut grows = |done: u64, total: u64| {
            assert!(last <= done && done <= total || last > 0 && done == 0);
            last = done;
        };
        let go_on = AtomicBool::new(false);
        erase(&self.eraser, &self.warrant, course, &mut grows, &go_on)
    }

    /// All that was planned is zero, and the claim block is what it was.
    fn is_erased(&self, plan: &Plan) {
        for range in plan.erased() {
            assert_eq!(self.eraser.find_nonzero(*range).unwrap(), None, "{range:?}");
        }
        let mut claim = vec![0; usize::try_from(CLAIM_BYTES).unwrap()];
        let file = File::open(self.device.path()).unwrap();
        file.read_exact_at(&mut claim, claim_offset(SIZE).unwrap())
            .unwrap();
        assert!(claim.iter().all(|byte| *byte == 0xa5));
    }
}

fn cannot(test: &str) -> bool {
    let refusal = LoopDevice::refusal();
    if let Some(why) = &refusal {
        tests::skip(test, why);
    }
    refusal.is_some()
}

/// Makes a device that cannot zero by itself, or `None` where such a thing cannot be had: tmpfs knows no ZERO_RANGE, and
/// with the first one the kernel takes the device's offload away (kernel-notes/10).
fn without_offload(eraser: &Eraser, warrant: &Warrant) -> bool {
    let piece = Piece {
        trial: true,
        range: Range {
            offset: 0,
            bytes: MIB,
        },
        method: Method::ZeroRange,
    };
    eraser
        .zero(warrant, piece, true)
        .unwrap()
        .queue
        .zeroes_bytes_max
        == 0
}

#[test]
fn every_way_leaves_zeroes_and_the_claim() {
    if cannot("every_way_leaves_zeroes_and_the_claim") {
        return;
    }
    let disk = tempfile::tempdir().unwrap();
    // With a rate what the device does by itself is cut, and rests.
    let limiters = [None, Some(500 * MIB)].map(|rate| Arc::new(Limiter::new(rate)));
    for limiter in &limiters {
        for wanted in [Wanted::Signatures, Wanted::Auto, Wanted::Zero] {
            let full = Full::on(disk.path(), &format!("{wanted:?}"), limiter);
            let plan = Plan::new(wanted, SIZE);
            let erased = full.erase(Course::new(plan.clone(), 0)).unwrap();
            println!("{wanted:?} on a disk: {erased:?}");
            assert_eq!(
                (erased.bytes, erased.whole),
                (plan.total_bytes(), plan.is_whole())
            );
            full.is_erased(&plan);
        }
    }
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let full = Full::on(memory.path(), "memory", &limiters[0]);
    if !without_offload(&full.eraser, &full.warrant) {
        tests::skip(
            "every_way_leaves_zeroes_and_the_claim",
            "this tmpfs knows ZERO_RANGE",
        );
        return;
    }
    let erased = full
        .erase(Course::new(Plan::new(Wanted::Auto, SIZE), 0))
        .unwrap();
    assert_eq!(
        (erased.methods.as_str(), erased.whole),
        ("zero-writes", false)
    );
    // Only its signature areas were written.
    let between = Range {
        offset: 32 * MIB,
        bytes: MIB,
    };
    assert_eq!(full.eraser.find_nonzero(between).unwrap(), Some(32 * MIB));
    let plan = Plan::new(Wanted::Zero, SIZE);
    let erased = full.erase(Course::new(plan.clone(), 0)).unwrap();
    assert_eq!(
        (erased.methods.as_str(), erased.whole),
        ("zero-writes", true)
    );
    full.is_erased(&plan);
}

/// What a loop device's file did not take from the disk below, erasing does not take either.
#[test]
fn a_sparse_file_stays_sparse() {
    if cannot("a_sparse_file_stays_sparse") {
        return;
    }
    let disk = tempfile::tempdir().unwrap();
    let path = disk.path().join("sparse");
    let device = LoopDevice::create(&path, SIZE);
    let sparse = Full::over(device, &Arc::new(Limiter::unlimited()));
    assert!(!sparse.eraser.queue().one_command);
    sparse
        .erase(Course::new(Plan::new(Wanted::Auto, SIZE), 0))
        .unwrap();
    let taken = fs::metadata(&path).unwrap().blocks() * 512;
    assert!(taken < MIB, "{taken} bytes of the disk");
    let full = Full::on(disk.path(), "full", &Arc::new(Limiter::unlimited()));
    assert!(full.eraser.queue().one_command);
}

/// A partition has no queue of its own in sysfs: what its disk can do by itself, it can.
#[test]
fn a_partition_zeroes_as_its_disk_does() {
    if cannot("a_partition_zeroes_as_its_disk_does") {
        return;
    }
    let disk = tempfile::tempdir().unwrap();
    let device = LoopDevice::create(&disk.path().join("parted"), SIZE);
    let path = device.path().display().to_string();
    let mut shell = program("sh");
    // Some kernels read no partition tables; partx tells them.
    let table = format!("echo ',,L' | sfdisk -q {path} && partx --update {path}");
    shell.args(["-c", &table]);
    run(shell, LIMIT).ok();
    let queue = |path: &str| {
        let held = File::open(path).unwrap();
        let limiter = Arc::new(Limiter::unlimited());
        Eraser::new(Arc::new(held), None, limiter).unwrap().queue()
    };
    let whole = queue(&path);
    assert!(whole.zeroes_bytes_max > 0);
    assert_eq!(queue(&format!("{path}p1")), whole);
}

#[test]
fn what_was_called_off_goes_on_from_its_cursor() {
    if cannot("what_was_called_off_goes_on_from_its_cursor") {
        return;
    }
    let disk = tempfile::tempdir().unwrap();
    let full = Full::on(disk.path(), "disk", &Arc::new(Limiter::unlimited()));
    let stop = AtomicBool::new(false);
    let mut after_one = |done: u64, _total: u64| stop.store(done > 0, Ordering::Relaxed);
    let course = Course::new(Plan::new(Wanted::Zero, SIZE), 0);
    let stopped = erase(&full.eraser, &full.warrant, course, &mut after_one, &stop);
    let Err(EraseError::Cancelled {
        done_bytes,
        total_bytes,
    }) = stopped
    else {
        panic!("{stopped:?}");
    };
    assert!(done_bytes > 0 && done_bytes < total_bytes);
    full.erase(Course::resumed(Wanted::Zero, SIZE, done_bytes, total_bytes))
        .unwrap();
    full.is_erased(&Plan::new(Wanted::Zero, SIZE));
}

#[test]
fn what_a_device_cannot_do_is_refused_untouched() {
    let test = "what_a_device_cannot_do_is_refused_untouched";
    let Some(machine) = Machine::running(test, &[640 * MIB]) else {
        return;
    };
    machine.discover();
    let before = machine.devices()[0].checksum();
    let file = fs::read_to_string(machine.path("drives.yaml")).unwrap();
    for method in ["Format", "Sanitize"] {
        machine.write(
            "drives.yaml",
            &file.replace("method: Auto", &format!("method: {method}")),
        );
        let refused = machine.ringpv(&["init", "drives.yaml"]);
        let refused = refused.refused(FAILED, "EraseUnsupported").to_string();
        assert!(refused.contains("no NVMe drive"), "{refused}");
        assert_eq!(machine.devices()[0].checksum(), before, "{method}");
        // It was claimed by nobody, so it is free again.
        let drive = machine.drive_in(0, DrivePhase::Failed);
        let name = drive.metadata.name.unwrap_or_default();
        machine.ringpv(&["remove", &name]).ok();
    }
    machine.write("drives.yaml", &file);
    machine.ringpv(&["init", "drives.yaml"]).ok();
    let drive = machine.drive_in(0, DrivePhase::Ready);
    let name = drive.metadata.name.unwrap_or_default();
    let word = drive.spec.device.fingerprint.to_string();
    let words = ["remove", &name, "--erase", "--yes", &word];
    let refused = machine.ringpv(&[&words[..], &["--method", "format"]].concat());
    refused.refused(FAILED, "EraseUnsupported");
    // The latest word counts: it is let go as it is.
    machine.ringpv(&["remove", &name]).ok();
    assert!(machine.list::<Drive>().is_empty());
    let mut blkid = program("blkid");
    blkid.args(["-p", "-s", "TYPE", "-o", "value"]);
    blkid.arg(machine.devices()[0].path());
    assert_eq!(run(blkid, LIMIT).ok().stdout.trim(), "xfs");
}

#[test]
fn drives_share_one_rate() {
    if cannot("drives_share_one_rate") {
        return;
    }
    let limiter = Arc::new(Limiter::new(Some(200 * MIB)));
    let disk = tempfile::tempdir_in("/dev/shm").unwrap();
    let fulls: Vec<Full> = ["a", "b"]
        .map(|name| Full::on(disk.path(), name, &limiter))
        .into();
    for full in &fulls {
        if !without_offload(&full.eraser, &full.warrant) {
            tests::skip("drives_share_one_rate", "this tmpfs knows ZERO_RANGE");
            return;
        }
    }
    let begun = now();
    std::thread::scope(|scope| {
        for full in &fulls {
            let course = Course::new(Plan::new(Wanted::Zero, SIZE), 0);
            scope.spawn(move || full.erase(course).unwrap());
        }
    });
    // 512 MiB at 200 MiB a second.
    let took = begun.elapsed();
    println!("two drives of 256 MiB at 200 MiB/s: {took:?}");
    assert!(
        (Duration::from_millis(2450)..Duration::from_secs(8)).contains(&took),
        "{took:?}"
    );
    let begun = now();
    let found = fulls[0].eraser.find_nonzero(Range {
        offset: 0,
        bytes: 100 * MIB,
    });
    assert_eq!(found.unwrap(), None);
    assert!(
        begun.elapsed() > Duration::from_millis(450),
        "reading back is paced, too"
    );
}

/// A machine with one device that must be written to be zeroed, at a rate at which that takes some seconds.
fn slow(test: &str) -> Option<(Machine, tempfile::TempDir)> {
    let mut machine = Machine::new(test, &[])?;
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let file: PathBuf = memory.path().join("device");
    File::create(&file).unwrap().set_len(520 * MIB).unwrap();
    let index = machine.add_device_on(&file);
    let path = machine.devices()[index].path();
    let mut command = program("fallocate");
    command
        .args(["--zero-range", "--length", "1MiB"])
        .arg(&path);
    run(command, LIMIT).ok();
    let limit = format!(
        "/sys/block/{}/queue/write_zeroes_max_bytes",
        machine.device(index)
    );
    if fs::read_to_string(limit).is_ok_and(|limit| limit.trim() != "0") {
        tests::skip(test, "this tmpfs knows ZERO_RANGE");
        return None;
    }
    machine.start_controller();
    machine.agent_args = vec!["--erase-rate-max".to_owned(), "80MiB".to_owned()];
    machine.start_agent();
    machine.discover();
    let file = fs::read_to_string(machine.path("drives.yaml")).unwrap();
    machine.write("drives.yaml", &file.replace("method: Auto", "method: Zero"));
    Some((machine, memory))
}

/// Bytes erased or read back, while that is under way.
fn cursor(drive: &Drive, step: Step) -> Option<u64> {
    let progress = drive.status.as_ref()?.progress.as_ref()?;
    (progress.step == step && progress.done_bytes > 0).then_some(progress.done_bytes)
}

/// Waits until a step has done more than `bytes`, and says how many.
fn beyond(machine: &Machine, step: Step, bytes: u64) -> u64 {
    until("the step to be under way", LIMIT, || {
        cursor(&machine.drive(0)?, step).filter(|done| *done > bytes)
    })
}

fn erasing(machine: &Machine) -> u64 {
    beyond(machine, Step::Erase, 0)
}

/// Waits until a drive rests, sees that it does, and gives its cursor.
fn resting(machine: &Machine, step: Step) -> u64 {
    let rests = || {
        let drive = machine.drive(0)?;
        let status = drive.status.as_ref()?;
        let said = status.message.contains(" rests at ");
        (status.reason == Some(Reason::Suspended) && said).then(|| cursor(&drive, step))?
    };
    let at = until("the drive to rest", LIMIT, rests);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(rests(), Some(at), "it rests");
    at
}

#[test]
fn suspended_killed_and_resumed() {
    let Some((mut machine, _memory)) = slow("suspended_killed_and_resumed") else {
        return;
    };
    machine.ringpv(&["init", "drives.yaml", "--no-wait"]).ok();
    let before = erasing(&machine);
    machine.ringpv(&["suspend", "drives", "--all"]).ok();
    let rested = resting(&machine, Step::Erase);
    assert!(before <= rested && rested < 520 * MIB);
    // Neither a death nor a restart changes that.
    machine.kill_agent();
    machine.start_agent();
    assert_eq!(resting(&machine, Step::Erase), rested);
    machine.ringpv(&["resume", "drives", "--all"]).ok();
    beyond(&machine, Step::Erase, rested);
    machine.kill_agent();
    machine.start_agent();
    let drive = machine.drive_in(0, DrivePhase::Ready);
    let erased = drive.status.and_then(|status| status.erased).unwrap();
    assert_eq!(
        (erased.method.as_str(), erased.level),
        ("zero-writes", api::drive::EraseLevel::Logical)
    );
    let health = machine.ringpv(&["health", "--all"]).ok();
    assert!(
        health.stdout.contains("logical: the device answers zeroes"),
        "{health}"
    );

    // The same for a removal that erases: nothing is destroyed while it is suspended.
    machine.ringpv(&["suspend", "drives", "--all"]).ok();
    let drive = machine.drive(0).unwrap();
    removal::begin(&machine, &drive);
    until("the removal to rest", LIMIT, || {
        let status = machine.drive(0)?.status?;
        let rests =
            status.phase == DrivePhase::Removing && status.reason == Some(Reason::Suspended);
        rests.then_some(())
    });
    machine.ringpv(&["resume", "drives", "--all"]).ok();
    removal::end(&machine, 0, &drive);
}

/// Reading all of it back takes as long as erasing it did.
#[test]
fn reading_back_goes_on_from_its_cursor() {
    let Some((mut machine, _memory)) = slow("reading_back_goes_on_from_its_cursor") else {
        return;
    };
    let file = fs::read_to_string(machine.path("drives.yaml")).unwrap();
    machine.write(
        "drives.yaml",
        &file.replace("verify: Sample", "verify: Full"),
    );
    machine.ringpv(&["init", "drives.yaml", "--no-wait"]).ok();
    beyond(&machine, Step::Verify, 100 * MIB);
    machine.ringpv(&["suspend", "drives", "--all"]).ok();
    let rested = resting(&machine, Step::Verify);
    machine.kill_agent();
    machine.start_agent();
    assert_eq!(resting(&machine, Step::Verify), rested);
    machine.ringpv(&["resume", "drives", "--all"]).ok();
    // The first that is seen of it is not its beginning.
    let first = until("reading back to go on", LIMIT, || {
        let drive = machine.drive(0)?;
        let preparing = drive.status.as_ref()?.reason == Some(Reason::Preparing);
        cursor(&drive, Step::Verify).filter(|_| preparing)
    });
    assert!(first >= rested, "{first} after {rested}");
    let drive = machine.drive_in(0, DrivePhase::Ready);
    let erased = drive.status.and_then(|status| status.erased).unwrap();
    assert_eq!(erased.method, "zero-writes");
    assert_eq!(erased.verified_bytes, erased.bytes);
}

#[test]
fn called_off_by_removing_the_drive() {
    let Some((machine, _memory)) = slow("called_off_by_removing_the_drive") else {
        return;
    };
    machine.ringpv(&["init", "drives.yaml", "--no-wait"]).ok();
    erasing(&machine);
    let begun = now();
    machine.ringpv(&["remove", "--all"]).ok();
    until("the drive to be let go", LIMIT, || {
        machine.list::<Drive>().is_empty().then_some(())
    });
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "erasing all would take longer"
    );
}
