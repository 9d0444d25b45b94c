//! Blocks that tell of themselves, and drives that lose, tear and misdirect them.

use block::sim::{SimClock, SimDevice, SimDrive, SimModel};
use block::{Geometry, Options, ReadWrite};

use super::*;
use crate::Report;
use crate::run::{End, Limits, run};
use crate::workload::{Pattern, Workload};

const GEOMETRY: Geometry = Geometry {
    size_bytes: 1 << 20,
    sector_bytes: 512,
};
const RUN: u64 = 77;

fn stamp(offset: u64, generation: u32) -> Stamp {
    Stamp {
        run: RUN,
        offset,
        generation,
        length: 4096,
    }
}

fn block_of(stamp: &Stamp) -> Vec<u8> {
    let mut block = vec![0xee; stamp.length as usize];
    stamp.fill(&mut block);
    block
}

fn drive() -> SimDrive {
    SimDrive::new("sim", GEOMETRY, SimModel::NVME, SimClock::default(), 1)
}

fn workload(pattern: Pattern) -> Workload {
    Workload {
        verify: Some(RUN),
        ..Workload::new(pattern, 4096, 8)
    }
}

fn bench(drive: &SimDrive, workload: &Workload, operations: u64) -> Report {
    let mut device: SimDevice<ReadWrite> = drive.open(Options::new(8, 4096));
    let cancel = AtomicBool::new(false);
    run(
        &mut device,
        workload,
        &Limits::operations(operations),
        &mut |_| {},
        &cancel,
    )
    .unwrap()
}

/// Writes all 256 blocks once, changes something on the drive, and reads back.
fn after(change: impl FnOnce(&SimDrive)) -> Verified {
    let drive = drive();
    let workload = workload(Pattern::Write);
    let mut steps = workload.steps(GEOMETRY).unwrap();
    let mut written = Written::new(RUN, steps.blocks(), 8).unwrap();
    for _ in 0..steps.blocks() {
        let step = steps.step();
        let mut block = vec![0; 4096];
        written.begin(0, &step, &mut block);
        drive.poke(step.offset, &block);
        written.end(0, true);
    }
    change(&drive);
    let mut device: SimDevice<ReadWrite> = drive.open(Options::new(8, 4096));
    let cancel = AtomicBool::new(false);
    read_back(
        &mut device,
        (&steps, &written),
        8,
        Duration::from_secs(1),
        &cancel,
    )
    .unwrap()
    .unwrap()
}

#[test]
fn a_block_tells_of_itself() {
    for length in [512, 4096, 1 << 20] {
        let stamp = Stamp {
            length,
            ..stamp(8192, 3)
        };
        let block = block_of(&stamp);
        assert_eq!(stamp.check(&block), Ok(()));
        assert_eq!(Stamp::read(&block), Some(stamp));
    }
    // Nothing of one block is in another of the same run.
    let (one, other) = (block_of(&stamp(0, 1)), block_of(&stamp(4096, 1)));
    assert_ne!(one[HEADER_BYTES..], other[HEADER_BYTES..]);
    assert_ne!(one[HEADER_BYTES..], block_of(&stamp(0, 2))[HEADER_BYTES..]);
}

#[test]
fn what_is_wrong_with_a_block() {
    let expected = stamp(8192, 3);
    let check = |block: &[u8]| expected.check(block).unwrap_err().to_string();
    assert_eq!(check(&[0; 4096]), "only zeros are there: a lost write");
    assert_eq!(check(&[7; 4096]), "torn or corrupt from its byte 0 on");
    assert_eq!(
        check(&block_of(&stamp(8192, 2))),
        "generation 3 was written last and generation 2 is there: a lost write"
    );
    assert_eq!(
        check(&block_of(&stamp(4096, 3))),
        "the block that was written to 4096 is there: a misdirected write"
    );
    let earlier = Stamp { run: 1, ..expected };
    assert_eq!(
        check(&block_of(&earlier)),
        "a block of an earlier run is there: a lost write"
    );
    // New before, old behind; and the other way round.
    let (new, old) = (block_of(&expected), block_of(&stamp(8192, 2)));
    let torn = [&new[..1536], &old[1536..]].concat();
    assert_eq!(
        check(&torn),
        "torn or corrupt from its byte 1536 on; its header tells of generation 3 at 8192"
    );
    let torn = [&old[..1536], &new[1536..]].concat();
    assert!(check(&torn).ends_with("its header tells of generation 2 at 8192"));
    for byte in [0, 9, 20, 31, CRC_AT, 36, HEADER_BYTES, 4095] {
        let mut block = new.clone();
        block[byte] ^= 1;
        let wrong = expected.check(&block).unwrap_err();
        assert!(
            matches!(wrong, Wrong::Corrupt { from, .. } if from == byte),
            "{byte}: {wrong}"
        );
    }
}

#[test]
fn a_good_drive_passes() {
    for (pattern, blocks) in [
        (Pattern::Write, 256),
        (Pattern::RandWrite, 256),
        (Pattern::Rw, 256),
    ] {
        let report = bench(&drive(), &workload(pattern), 4000);
        assert_eq!(report.end, End::Limit);
        let verified = report.verified.unwrap();
        assert_eq!(
            (verified.blocks, verified.wrong, verified.unknown),
            (blocks, 0, 0),
            "{pattern}"
        );
    }
    // Only what was written.
    let report = bench(&drive(), &workload(Pattern::Write), 10);
    assert_eq!(report.verified.unwrap().blocks, 10);
}

#[test]
fn lost_writes_are_found() {
    let drive = drive();
    let first = bench(&drive, &workload(Pattern::Write), 256);
    assert_eq!(first.verified.unwrap().wrong, 0);
    drive.inject(|faults| faults.lost_writes_per_million = 100_000);
    let again = Workload {
        verify: Some(RUN + 1),
        ..workload(Pattern::RandWrite)
    };
    let report = bench(&drive, &again, 4000);
    let verified = report.verified.clone().unwrap();
    assert!((5..60).contains(&verified.wrong), "{}", verified.wrong);
    assert!(
        verified
            .first
            .iter()
            .all(|one| matches!(one.wrong, Wrong::Generation { .. } | Wrong::OtherRun))
    );
    assert!(!report.is_clean());
    let text = report.text();
    assert!(text.contains(" blocks wrong"), "{text}");
    assert!(text.contains("a lost write"), "{text}");
    let json = report.json();
    assert_eq!(json["jobs"][0]["error"], 84);
    assert_eq!(json["ringpv"]["verify"]["wrong"], verified.wrong);
}

#[test]
fn what_happens_between_writing_and_reading_is_found() {
    assert_eq!(
        after(|_| {}),
        Verified {
            blocks: 256,
            ..Verified::default()
        }
    );
    let verified = after(|drive| {
        drive.poke(4096 + 512, &[0; 512]);
        drive.poke(40_960, &drive.peek(8192, 4096));
        drive.inject(|faults| faults.bad_sectors.extend([160]));
    });
    assert_eq!((verified.blocks, verified.wrong), (256, 3));
    let mut first = verified.first;
    first.sort_by_key(|mismatch| mismatch.offset);
    let told: Vec<String> = first.iter().map(Mismatch::to_string).collect();
    assert_eq!(
        told[..2],
        [
            "block at 4096: torn or corrupt from its byte 512 on; its header tells of generation 1 at 4096",
            "block at 40960: the block that was written to 8192 is there: a misdirected write"
        ]
    );
    assert!(
        told[2].starts_with("block at 81920: read of 4096 bytes at 81920 of sim: "),
        "{told:?}"
    );
}

#[test]
fn a_write_that_failed_is_not_judged() {
    let mut written = Written::new(RUN, 16, 1).unwrap();
    let step = Step {
        kind: OpKind::Write,
        offset: 4096,
        block: 1,
    };
    let mut block = vec![0; 4096];
    written.begin(0, &step, &mut block);
    assert!(written.is_busy(1) && !written.is_busy(0));
    written.end(0, false);
    assert_eq!(
        (written.states[1], written.is_busy(1)),
        (1 | UNKNOWN, false)
    );
    // The next one that succeeds tells again.
    written.begin(0, &step, &mut block);
    written.end(0, true);
    assert_eq!(written.states[1], 2);
    assert_eq!(stamp(4096, 2).check(&block), Ok(()));
}

#[test]
fn what_cannot_be_verified() {
    let mut device: SimDevice<ReadWrite> = drive().open(Options::new(8, 4096));
    let mut error = |workload: &Workload| {
        let cancel = AtomicBool::new(false);
        let limits = Limits::operations(1);
        let error = run(&mut device, workload, &limits, &mut |_| {}, &cancel).unwrap_err();
        std::error::Error::source(&error)
            .map(ToString::to_string)
            .unwrap()
    };
    assert!(error(&workload(Pattern::RandRead)).contains("does not write"));
    let mut few = workload(Pattern::Write);
    few.block_bytes = 128 << 10;
    assert!(
        error(&few).contains("8 blocks at a depth of 8"),
        "{}",
        error(&few)
    );
    assert!(Written::new(RUN, BLOCKS_MAX + 1, 1).is_err());
}
