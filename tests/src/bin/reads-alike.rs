//! `reads-alike DEVICE BYTES`: reads all of an NVMe drive by commands of its own and by its block device, in reads of so many
//! bytes, and says whether both gave the same. For the guest's test of passthrough.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a program says what it found")]

use std::path::Path;

use anyhow::Context as _;
use block::{
    Backend, Choice, Device, Op, Options, ReadOnly, Target, Through, Wait, open, open_passthrough,
    probe_backend,
};

const DEPTH: u32 = 8;

fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    let device = words.next().context("a device is missing")?;
    let bytes: usize = words.next().context("bytes are missing")?.parse()?;
    let target = Target::<ReadOnly>::open(Path::new(&device))?;
    let backend: Backend = probe_backend(Choice::Uring)?;
    let options = Options::new(DEPTH, bytes);
    let drive = open_passthrough(backend, target.clone(), options, false)?;
    let Through::Commands(mut drive) = drive else {
        anyhow::bail!("{device} takes no commands");
    };
    let mut blocks = open(backend, target, options)?;
    let size = blocks.geometry().size_bytes;
    for from in (0..size).step_by(bytes * DEPTH as usize) {
        let ours = some(&mut drive, from, bytes)?;
        anyhow::ensure!(
            ours == some(&mut blocks, from, bytes)?,
            "they differ from {from} on"
        );
    }
    println!("{size} bytes alike");
    Ok(())
}

/// As many reads at once as the depth, from here on to the end at most.
fn some(device: &mut impl Device, from: u64, bytes: usize) -> anyhow::Result<Vec<u8>> {
    let size = device.geometry().size_bytes;
    for token in 0..u64::from(DEPTH) {
        let offset = from + token * bytes as u64;
        let len = usize::try_from(size.saturating_sub(offset)).map_or(bytes, |it| it.min(bytes));
        if len > 0 {
            let buffer = device.buffer(len);
            device.submit(token, Op::Read { offset, buffer })?;
        }
    }
    let mut done = Vec::new();
    while device.in_flight() > 0 {
        device.complete(Wait::Forever, &mut done)?;
    }
    done.sort_unstable_by_key(|one| one.token);
    let mut read = Vec::new();
    for one in done {
        one.result?;
        read.extend_from_slice(one.op.into_buffer().as_deref().unwrap_or_default());
    }
    Ok(read)
}
