//! How a command is made, and what is never one. What a drive does with it is in `tests/tests/guest.rs`.

use super::*;
use crate::{Backend, Choice, Through, open_passthrough, probe_backend};

fn namespace() -> Namespace {
    Namespace {
        file: File::open("/dev/null").unwrap(),
        path: "/dev/ng0n1".into(),
        id: 3,
        sector_bytes: 4096,
        max_bytes: 1 << 17,
        fixed: true,
        ring: 1,
    }
}

fn word(command: &[u8; 80], at: usize) -> u32 {
    u32::from_ne_bytes(command[at..at + 4].try_into().unwrap())
}

#[test]
fn a_read_as_the_drive_is_told() {
    let offset = (5 << 32 | 7) * 512;
    let command = read_command(3, 512, offset, 8192, 0x1234_5678_9000).unwrap();
    assert_eq!(command[..4], [NVME_READ, 0, 0, 0]);
    assert_eq!(word(&command, 4), 3, "namespace");
    let address = u64::from_ne_bytes(command[24..32].try_into().unwrap());
    assert_eq!(address, 0x1234_5678_9000);
    assert_eq!(word(&command, 36), 8192, "bytes");
    assert_eq!((word(&command, 40), word(&command, 44)), (7, 5), "block");
    assert_eq!(word(&command, 48), 15, "blocks, from 0");
    let named = [0..1, 4..8, 24..32, 36..40, 40..52];
    for (at, byte) in (0..).zip(command) {
        let is_named = named.iter().any(|range| range.contains(&at));
        assert!(is_named || byte == 0, "byte {at} is {byte}");
    }
}

#[test]
fn what_no_command_reads() {
    let read = |offset, len| read_command(1, 4096, offset, len, 0).map(|it| word(&it, 48));
    assert_eq!(read(4096, 4096), Some(0));
    assert_eq!(read(0, 4096 << 16), Some(65_535));
    assert_eq!(read(0, (4096 << 16) + 4096), None, "too many blocks");
    assert_eq!(read(0, 0), None, "nothing");
    assert_eq!(read(512, 4096), None, "not from a block");
    assert_eq!(read(0, 4608), None, "not to a block");
}

#[test]
fn nothing_but_reads_becomes_a_command() {
    let namespace = namespace();
    let code = |mut op: Op| namespace.entry(&mut op, 9).map(|entry| entry.get_opcode());
    let buffer = || Buffer::zeroed(4096);
    let offset = 0;
    let command = Some(opcode::UringCmd80::CODE.into());
    assert_eq!(
        code(Op::Read {
            offset,
            buffer: buffer()
        }),
        command
    );
    assert_eq!(code(Op::Nop), Some(opcode::Nop::CODE.into()));
    assert_eq!(
        code(Op::Write {
            offset,
            buffer: buffer()
        }),
        None
    );
    assert_eq!(code(Op::Flush), None);
    let mut op = Op::Read {
        offset: 8192,
        buffer: buffer(),
    };
    let entry = format!("{:?}", namespace.entry(&mut op, 9).unwrap());
    assert!(entry.contains("user_data: 9"), "{entry}");
}

#[test]
fn how_long_a_command_may_be() {
    assert_eq!(max_bytes(512, Some(1024), Some(127)), 127 << 12);
    assert_eq!(max_bytes(512, Some(128), Some(127)), 128 << 10);
    assert_eq!(max_bytes(512, Some(1 << 20), Some(1 << 20)), 32 << 20);
    assert_eq!(max_bytes(512, None, None), 4096);
}

#[test]
fn which_device_stands_beside() {
    let of = |path: &str| generic_of(Path::new(path));
    let beside = "/sys/devices/pci0/nvme/nvme0/ng0n1";
    assert_eq!(
        of("/sys/devices/pci0/nvme/nvme0/nvme0n1"),
        Some(beside.into())
    );
    assert_eq!(of("/sys/devices/virtual/block/loop0"), None);
}

#[test]
fn what_an_answer_means() {
    assert_eq!(answer(0), Ok(()));
    let kernel = IoCause::Kernel(Errno::EINTR);
    assert_eq!(answer(-(Errno::EINTR as i32)), Err(kernel));
    let cause = answer(0x4281).unwrap_err();
    assert_eq!(
        cause.to_string(),
        "NVMe status 2h/81h: unrecovered read error"
    );
}

#[test]
fn what_is_no_drive_is_read_as_ever() {
    let backend = probe_backend(Choice::Auto).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let target = Target::<ReadOnly>::open(file.path()).unwrap();
    let options = Options::new(4, 4096);
    let Through::Blocks(mut opened) = open_passthrough(backend, target, options, false).unwrap()
    else {
        panic!("a file takes no commands");
    };
    if matches!(backend, Backend::Uring { .. }) {
        let said = opened.description();
        let expected = ", no passthrough: it is no NVMe namespace";
        assert!(said.ends_with(expected), "{said}");
    }
    let buffer = opened.buffer(4096);
    transfer(&mut opened, Op::Read { offset: 0, buffer }, Wait::Forever).unwrap();
}
