use super::*;
use crate::device::transfer;
use crate::target::{ReadOnly, ReadWrite};

const GEOMETRY: Geometry = Geometry {
    size_bytes: 64 << 20,
    sector_bytes: 512,
};

fn drive(seed: u64) -> SimDrive {
    SimDrive::new("sim", GEOMETRY, SimModel::NVME, SimClock::default(), seed)
}

fn opened(drive: &SimDrive) -> SimDevice<ReadWrite> {
    drive.open(Options::new(8, 4096))
}

fn write(device: &mut dyn Device, offset: u64, bytes: &[u8]) {
    let buffer = Buffer::copy_of(bytes);
    transfer(device, Op::Write { offset, buffer }, Wait::Forever).unwrap();
}

fn read(device: &mut dyn Device, offset: u64, len: usize) -> Result<Buffer, DeviceError> {
    let buffer = device.buffer(len);
    transfer(device, Op::Read { offset, buffer }, Wait::Forever).map(Option::unwrap)
}

#[test]
fn one_seed_one_history() {
    let history = |seed| {
        let drive = drive(seed);
        let mut device = opened(&drive);
        let mut times = Vec::new();
        for index in 0..200 {
            let buffer = device.buffer(4096);
            let offset = index * 4096;
            transfer(&mut device, Op::Read { offset, buffer }, Wait::Forever).unwrap();
            times.push(device.now_ns());
        }
        times
    };
    assert_eq!(history(3), history(3));
    assert_ne!(history(3), history(4));
}

#[test]
fn overlapping_writes_read_back() {
    let drive = drive(1);
    let mut device = opened(&drive);
    write(&mut device, 0, &[1; 2048]);
    transfer(&mut device, Op::Flush, Wait::Forever).unwrap();
    write(&mut device, 512, &[2; 512]);
    let mut expected = vec![1; 2048];
    expected[512..1024].fill(2);
    assert_eq!(&*read(&mut device, 0, 2048).unwrap(), &expected[..]);
    assert_eq!(drive.peek(768, 1024), expected[768..1792]);
    drive.poke(0, &[0; 512]);
    assert_eq!(drive.peek(0, 513), [vec![0; 512], vec![2]].concat());
}

#[test]
fn channels_queue() {
    let model = SimModel {
        channels: 1,
        spread_percent: 0,
        tail_per_million: 0,
        ..SimModel::NVME
    };
    let drive = SimDrive::new("sim", GEOMETRY, model, SimClock::default(), 1);
    let mut device: SimDevice<ReadOnly> = drive.open(Options::new(2, 4096));
    for token in 0..2 {
        let buffer = device.buffer(4096);
        device
            .submit(token, Op::Read { offset: 0, buffer })
            .unwrap();
    }
    let one = model.read_ns + model.page_ns;
    let mut done = Vec::new();
    device.complete(Wait::Forever, &mut done).unwrap();
    assert_eq!((done.len(), device.now_ns()), (1, one));
    device.complete(Wait::Until(one + 1), &mut done).unwrap();
    assert_eq!((done.len(), device.now_ns()), (1, one + 1));
    device.complete(Wait::Forever, &mut done).unwrap();
    assert_eq!((done.len(), device.now_ns()), (2, 2 * one));
}

#[test]
fn bad_sectors_until_written() {
    let drive = drive(1);
    drive.inject(|faults| faults.bad_sectors.extend([9]));
    let mut device = opened(&drive);
    let error = read(&mut device, 4096, 4096).unwrap_err();
    let DeviceError::Io(error) = error else {
        panic!("{error}");
    };
    assert_eq!(error.errno(), Some(Errno::ENODATA));
    assert!(!error.is_transient());
    read(&mut device, 0, 4096).unwrap();
    write(&mut device, 4608, &[7; 512]);
    read(&mut device, 4096, 4096).unwrap();
}

#[test]
fn slow_hung_and_gone() {
    let drive = drive(1);
    let mut device = opened(&drive);
    read(&mut device, 0, 4096).unwrap();
    let healthy = device.now_ns();
    drive.inject(|faults| faults.slow_percent = 10_000);
    read(&mut device, 0, 4096).unwrap();
    assert!(device.now_ns() - healthy > 50 * healthy);

    drive.inject(|faults| faults.hung = true);
    assert!(matches!(
        read(&mut device, 0, 512),
        Err(DeviceError::Unanswered { .. })
    ));
    assert_eq!(device.in_flight(), 1);
    let until = device.now_ns() + 1_000;
    let mut done = Vec::new();
    device.complete(Wait::Until(until), &mut done).unwrap();
    assert_eq!((done.len(), device.now_ns()), (0, until));

    drive.inject(|faults| {
        faults.hung = false;
        faults.gone = true;
    });
    let mut device = opened(&drive);
    let error = read(&mut device, 0, 512).unwrap_err();
    let DeviceError::Io(error) = error else {
        panic!("{error}");
    };
    assert_eq!(error.errno(), Some(Errno::ENODEV));
}

#[test]
fn lost_writes_are_acknowledged() {
    let drive = drive(1);
    drive.inject(|faults| faults.lost_writes_per_million = 1_000_000);
    let mut device = opened(&drive);
    write(&mut device, 0, &[1; 512]);
    transfer(&mut device, Op::Flush, Wait::Forever).unwrap();
    assert_eq!(drive.peek(0, 512), [0; 512]);
}

#[test]
fn a_power_cut_keeps_what_was_flushed_and_may_tear_the_rest() {
    let mut fates = BTreeSet::new();
    for seed in 0..50 {
        let drive = drive(seed);
        let mut device = opened(&drive);
        write(&mut device, 0, &[1; 512]);
        transfer(&mut device, Op::Flush, Wait::Forever).unwrap();
        write(&mut device, 4096, &[2; 2048]);
        drive.cut_power();
        assert_eq!(drive.peek(0, 512), [1; 512], "seed {seed}");
        let after = drive.peek(4096, 2048);
        let kept = after.iter().filter(|byte| **byte == 2).count();
        assert_eq!(kept % 512, 0, "a sector is written whole");
        assert!(after[..kept].iter().all(|byte| *byte == 2));
        fates.insert(kept);
        let error = read(&mut device, 0, 512).unwrap_err();
        assert!(matches!(error, DeviceError::Io(_)), "the opening ended");
    }
    assert!(fates.len() >= 4, "kept, lost and torn all occur: {fates:?}");
}
