//! What it costs to look for signatures in the areas that discovery reads at first: the first 72 KiB of a device and the
//! last 64 KiB. `cargo bench -p bench --bench signatures` measures; `cargo test` runs each once.

use std::hint::black_box;

use block::signature::{Area, scan};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const SIZE: u64 = 1 << 40;
const HEAD: usize = 72 << 10;
const TAIL: usize = 64 << 10;

/// The head of a device with XFS of version 5, as far as its superblock goes: sizes, UUID, label, and the checksum.
fn xfs() -> Vec<u8> {
    let mut head = vec![0; HEAD];
    let mut put = |at: usize, bytes: &[u8]| {
        for (place, byte) in head.iter_mut().skip(at).zip(bytes) {
            *place = *byte;
        }
    };
    put(0, b"XFSB");
    put(4, &4096u32.to_be_bytes());
    put(8, &(SIZE / 4096).to_be_bytes());
    put(32, &[0x5a; 16]);
    put(100, &0xb4a5u16.to_be_bytes());
    put(102, &512u16.to_be_bytes());
    put(108, b"scratch");
    let crc = crc32c::crc32c(head.get(..512).unwrap_or_default());
    for (place, byte) in head.iter_mut().skip(224).zip(crc.to_le_bytes()) {
        *place = byte;
    }
    head
}

fn signatures(criterion: &mut Criterion) {
    let tail = vec![0; TAIL];
    let mut group = criterion.benchmark_group("signatures");
    group.throughput(Throughput::Bytes((HEAD + TAIL) as u64));
    for (name, head, found) in [("blank", vec![0; HEAD], 0), ("xfs", xfs(), 1)] {
        let areas = [
            Area {
                offset: 0,
                bytes: &head,
            },
            Area {
                offset: SIZE - TAIL as u64,
                bytes: &tail,
            },
        ];
        let whole = scan(SIZE, &areas);
        let whole = whole.iter().filter(|one| !one.damaged);
        assert_eq!(whole.count(), found, "{name}");
        group.bench_function(name, |bencher| {
            bencher.iter(|| scan(SIZE, black_box(&areas)));
        });
    }
    group.finish();
}

criterion_group!(benches, signatures);
criterion_main!(benches);
