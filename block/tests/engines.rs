//! One body of tests over every engine: what the `Device` door promises, whoever stands behind it.

#![cfg(test)]

use std::collections::BTreeSet;
use std::path::Path;

use block::device::transfer;
use block::null::Null;
use block::sim::{SimClock, SimDrive, SimModel};
use block::{
    Backend, Buffer, Choice, Completion, Device, Geometry, IoCause, Mode, Op, OpKind, Options,
    ReadOnly, ReadWrite, Target, Wait, open, probe_backend,
};

const SIZE_BYTES: u64 = 4 << 20;
const BLOCK: usize = 8192;
const DEPTH: u32 = 4;

const GEOMETRY: Geometry = Geometry {
    size_bytes: SIZE_BYTES,
    sector_bytes: 512,
};

/// What is wanted of an engine beyond its opening.
#[derive(Clone, Copy, PartialEq)]
enum Holds {
    /// What is written is read again.
    Data,
    /// Nothing.
    Nothing,
}

/// Runs `body` over each engine that this host can have, opened for reading and writing.
fn each_engine(depth: u32, body: fn(&mut dyn Device, Holds)) {
    let options = Options::new(depth, BLOCK);
    println!("null");
    body(&mut Null::new(GEOMETRY, options), Holds::Nothing);
    println!("sim");
    let drive = SimDrive::new("sim", GEOMETRY, SimModel::NVME, SimClock::default(), 1);
    body(&mut drive.open::<ReadWrite>(options), Holds::Data);
    for choice in [Choice::Threads, Choice::Uring] {
        let backend = match probe_backend(choice) {
            Ok(backend) => backend,
            Err(error) => {
                println!("SKIPPED: engines: {error}");
                continue;
            }
        };
        println!("{backend}");
        let file = file();
        let target = Target::<ReadWrite>::open_file(file.path()).unwrap();
        body(&mut open(backend, target, options).unwrap(), Holds::Data);
    }
}

/// The same for readers.
fn each_reader(depth: u32, body: fn(&mut dyn Device)) {
    let options = Options::new(depth, BLOCK);
    let drive = SimDrive::new("sim", GEOMETRY, SimModel::NVME, SimClock::default(), 1);
    body(&mut drive.open::<ReadOnly>(options));
    let file = file();
    for choice in [Choice::Threads, Choice::Auto] {
        let target = Target::<ReadOnly>::open(file.path()).unwrap();
        let backend = probe_backend(choice).unwrap();
        body(&mut open(backend, target, options).unwrap());
    }
}

fn file() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(SIZE_BYTES).unwrap();
    file
}

/// Contents that tell blocks apart.
fn contents(block: u64) -> Vec<u8> {
    let stamp = block.wrapping_mul(0x9e37_79b9).to_le_bytes();
    stamp.iter().copied().cycle().take(BLOCK).collect()
}

fn complete_all(device: &mut dyn Device) -> Vec<Completion> {
    let mut done = Vec::new();
    while device.in_flight() > 0 {
        device.complete(Wait::Forever, &mut done).unwrap();
    }
    done
}

#[test]
fn what_is_written_is_read_again() {
    fn body(device: &mut dyn Device, holds: Holds) {
        let blocks: Vec<u64> = (0..32).map(|n| n * 7 % 64).collect();
        for (write, chunk) in [(true, blocks.chunks(4)), (false, blocks.chunks(4))]
            .into_iter()
            .flat_map(|(write, chunks)| chunks.map(move |chunk| (write, chunk)))
        {
            for (token, &block) in (0..).zip(chunk.iter().take(device.depth())) {
                let offset = block * BLOCK as u64;
                let mut buffer = device.buffer(BLOCK);
                assert_eq!(buffer.len(), BLOCK);
                let op = if write {
                    buffer.copy_from_slice(&contents(block));
                    Op::Write { offset, buffer }
                } else {
                    Op::Read { offset, buffer }
                };
                device.submit(token, op).unwrap();
            }
            let expected: BTreeSet<u64> = (0..chunk.len().min(device.depth()) as u64).collect();
            let done = complete_all(device);
            let tokens: BTreeSet<u64> = done.iter().map(|one| one.token).collect();
            assert_eq!((tokens, done.len()), (expected.clone(), expected.len()));
            for Completion { token, op, result } in done {
                result.unwrap();
                let block = chunk[usize::try_from(token).unwrap()];
                assert_eq!(op.offset(), block * BLOCK as u64);
                let buffer = op.into_buffer().unwrap();
                if holds == Holds::Data {
                    assert!(*buffer == *contents(block), "block {block}");
                }
            }
        }
        transfer(device, Op::Flush, Wait::Forever).unwrap();
    }
    each_engine(DEPTH, body);
    each_engine(1, body);
}

#[test]
fn a_refused_operation_comes_home() {
    fn body(device: &mut dyn Device, _: Holds) {
        let size_bytes = device.geometry().size_bytes;
        let cases = [
            (1, BLOCK, IoCause::Misaligned { sector_bytes: 512 }),
            (0, 100, IoCause::Misaligned { sector_bytes: 512 }),
            (size_bytes, 512, IoCause::Beyond { size_bytes }),
            (size_bytes - 512, 1024, IoCause::Beyond { size_bytes }),
        ];
        for (offset, len, cause) in cases {
            let buffer = Buffer::copy_of(&vec![7; len]);
            let refused = device.submit(0, Op::Write { offset, buffer }).unwrap_err();
            assert_eq!((refused.error.cause, refused.error.offset), (cause, offset));
            assert_eq!(*refused.op.into_buffer().unwrap(), vec![7; len]);
        }
        assert_eq!(device.in_flight(), 0);
    }
    each_engine(DEPTH, body);
}

#[test]
fn no_more_than_the_depth() {
    fn body(device: &mut dyn Device, _: Holds) {
        let depth = device.depth();
        for round in 0..3 {
            for token in 0..depth as u64 {
                device.submit(token, Op::Nop).unwrap();
            }
            assert_eq!(device.in_flight(), depth);
            let refused = device.submit(99, Op::Nop).unwrap_err();
            assert_eq!(refused.error.cause, IoCause::Full { depth });
            assert!(refused.error.is_transient());
            assert_eq!(complete_all(device).len(), depth, "round {round}");
        }
    }
    each_engine(DEPTH, body);
    each_engine(1, body);
}

#[test]
fn nothing_in_flight_is_not_waited_for() {
    fn body(device: &mut dyn Device, _: Holds) {
        let mut done = Vec::new();
        for wait in [Wait::No, Wait::Until(u64::MAX), Wait::Forever] {
            device.complete(wait, &mut done).unwrap();
        }
        assert!(done.is_empty());
    }
    each_engine(DEPTH, body);
    each_engine(1, body);
}

#[test]
fn polling_is_enough() {
    fn body(device: &mut dyn Device, _: Holds) {
        // Written first: a hole is read without the device.
        let buffer = Buffer::copy_of(&contents(1));
        let buffer = transfer(device, Op::Write { offset: 0, buffer }, Wait::Forever).unwrap();
        let buffer = buffer.unwrap();
        device.submit(0, Op::Read { offset: 0, buffer }).unwrap();
        let patience = device.now_ns() + 5_000_000_000;
        let mut done = Vec::new();
        while done.is_empty() && device.now_ns() < patience {
            device.complete(Wait::No, &mut done).unwrap();
            device.sleep_until(device.now_ns() + 100_000);
        }
        assert_eq!(done.len(), 1);
    }
    each_engine(DEPTH, body);
    each_engine(1, body);
}

#[test]
fn the_clock_goes_on() {
    fn body(device: &mut dyn Device, _: Holds) {
        let before = device.now_ns();
        device.sleep_until(before + 2_000_000);
        assert!(device.now_ns() >= before + 2_000_000);
    }
    each_engine(1, body);
}

#[test]
fn a_reader_reads_and_nothing_else() {
    fn body(device: &mut dyn Device) {
        let buffer = device.buffer(BLOCK);
        let refused = device
            .submit(0, Op::Write { offset: 0, buffer })
            .unwrap_err();
        assert_eq!(refused.error.cause, IoCause::ReadOnly);
        assert_eq!(refused.op.kind(), OpKind::Write);
        let refused = device.submit(0, Op::Flush).unwrap_err();
        assert_eq!(refused.error.cause, IoCause::ReadOnly);
        let buffer = device.buffer(BLOCK);
        let read = transfer(device, Op::Read { offset: 0, buffer }, Wait::Forever).unwrap();
        assert!(read.unwrap().iter().all(|byte| *byte == 0));
    }
    each_reader(DEPTH, body);
    each_reader(1, body);
}

#[test]
fn a_file_that_shrank_gives_a_short_read() {
    for choice in [Choice::Threads, Choice::Auto] {
        let file = file();
        let target = Target::<ReadOnly>::open(file.path()).unwrap();
        let backend = probe_backend(choice).unwrap();
        let mut device = open(backend, target, Options::new(2, BLOCK)).unwrap();
        file.as_file().set_len(4096).unwrap();
        let buffer = device.buffer(BLOCK);
        device.submit(0, Op::Read { offset: 0, buffer }).unwrap();
        let done = complete_all(&mut device);
        let error = done[0].result.as_ref().unwrap_err();
        assert_eq!(error.cause, IoCause::Short { done: 4096 }, "{backend}");
    }
}

#[test]
fn a_buffer_of_another_ring_is_a_plain_one() {
    let Ok(backend) = probe_backend(Choice::Uring) else {
        println!("SKIPPED: a_buffer_of_another_ring_is_a_plain_one: no io_uring here");
        return;
    };
    let (one, other) = (file(), file());
    let ring = |path: &Path| {
        let target = Target::<ReadWrite>::open_file(path).unwrap();
        open(backend, target, Options::new(2, BLOCK)).unwrap()
    };
    let (mut one, mut other) = (ring(one.path()), ring(other.path()));
    let mut buffer = one.buffer(BLOCK);
    buffer.fill(5);
    let home = transfer(&mut other, Op::Write { offset: 0, buffer }, Wait::Forever).unwrap();
    let mut buffer = home.unwrap();
    buffer.fill(0);
    let read = transfer(&mut other, Op::Read { offset: 0, buffer }, Wait::Forever).unwrap();
    assert!(read.unwrap().iter().all(|byte| *byte == 5));
}

#[test]
fn operations_in_flight_are_finished_by_a_drop() {
    for choice in [Choice::Threads, Choice::Auto] {
        let file = file();
        let target = Target::<ReadWrite>::open_file(file.path()).unwrap();
        let backend = probe_backend(choice).unwrap();
        let mut device = open(backend, target, Options::new(DEPTH, BLOCK)).unwrap();
        for token in 0..u64::from(DEPTH) {
            let mut buffer = device.buffer(BLOCK);
            buffer.fill(9);
            let offset = token * BLOCK as u64;
            device.submit(token, Op::Write { offset, buffer }).unwrap();
        }
        device.complete(Wait::No, &mut Vec::new()).unwrap();
        drop(device);
        let written = std::fs::read(file.path()).unwrap();
        let written = &written[..BLOCK * DEPTH as usize];
        assert!(written.iter().all(|byte| *byte == 9), "{backend}");
    }
}

#[test]
fn depth_is_bounded() {
    fn refused<M: Mode>(target: Target<M>, backend: Backend, depth: u32) -> String {
        match open(backend, target, Options::new(depth, 512)) {
            Ok(_) => panic!("a depth of {depth} was taken"),
            Err(error) => error.to_string(),
        }
    }
    let file = file();
    for choice in [Choice::Threads, Choice::Auto] {
        let backend = probe_backend(choice).unwrap();
        for depth in [0, 1025] {
            let target = Target::<ReadOnly>::open(file.path()).unwrap();
            let text = refused(target, backend, depth);
            let expected = format!("a depth of {depth} is not between 1 and 1024");
            assert!(text.ends_with(&expected), "{text}");
        }
    }
}
