//! `ringpv-bench erase`: zeroes block devices as the agent does, several at once, for hosts and devices that RingPV does not
//! manage. The word for each device is its fingerprint, checked under the hold in which it is erased (see `permit`).

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use block::bulk;
use block::claim::CLAIM_BYTES;
use block::erase::run::{Erased, Eraser, erase};
use block::erase::{
    Course, Found, Limiter, Ours, Plan, Range, Turns, Wanted, Warrant, part_at, rings,
};
use block::uring::RingFlags;
use block::{Backend, Choice, ReadWrite, Target, WhyThreads};

use crate::args::{Erase, EraseHow, EraseVerify};
use crate::{Usage, permit};

/// Bytes read back at once.
const VERIFY_BYTES: u64 = 64 << 20;
/// Which blocks a sample reads.
const SAMPLE_SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// Erases all devices at once; the first failure is told, the others are erased all the same.
pub(crate) fn erase_all(args: &Erase, cancel: &AtomicBool) -> anyhow::Result<ExitCode> {
    if args.fingerprint.len() != args.devices.len() && !args.fingerprint.is_empty() {
        return Err(
            Usage("give one --fingerprint for each device, in the same order".into()).into(),
        );
    }
    // All are permitted and held before the first is written to. Each is looked at at once with the others, or many fast
    // drives would wait for that longer than for being zeroed.
    let held: Vec<Target<ReadWrite>> = std::thread::scope(|scope| {
        let mut words = args.fingerprint.iter().map(String::as_str);
        let looks: Vec<_> = args
            .devices
            .iter()
            .map(|path| (path, words.next()))
            .map(|(path, word)| scope.spawn(move || permit::writable(path, false, word)))
            .collect();
        let permitted = looks.into_iter().map(|look| match look.join() {
            Ok(permitted) => permitted,
            Err(_) => Err(anyhow::anyhow!("a device's thread ended unexpectedly")),
        });
        permitted.collect::<anyhow::Result<_>>()
    })?;
    let limiter = Arc::new(Limiter::new(args.rate));
    let reads = args.verify != EraseVerify::None;
    let refused = |flags| rings::refused(flags, held.len(), &limiter, reads);
    let flags = ring_flags(args.engine.into(), refused)?;
    let shown = Mutex::new(std::io::stdout());
    let turns = Arc::new(Turns::default());
    let failures: Vec<anyhow::Error> = std::thread::scope(|scope| {
        let threads: Vec<_> = held
            .iter()
            .map(|target| {
                let (limiter, shown) = (Arc::clone(&limiter), &shown);
                let eraser = Eraser::new(Arc::clone(target.file()), flags, limiter);
                let eraser = eraser.map(|eraser| eraser.in_turn(&turns));
                scope.spawn(move || one(target, args, eraser?, shown, cancel))
            })
            .collect();
        threads
            .into_iter()
            .filter_map(|thread| match thread.join() {
                Ok(done) => done.err(),
                Err(_) => Some(anyhow::anyhow!("a device's thread ended unexpectedly")),
            })
            .collect()
    });
    if let Some(why) = bulk::refusal() {
        crate::note(&format!("threads are used: {why}"));
    }
    match failures.into_iter().next() {
        Some(first) => Err(first),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// The flags of the rings by which devices are erased; `None` where threads do it, which is said. `refused` tries those rings.
fn ring_flags(
    choice: Choice,
    refused: impl Fn(RingFlags) -> Option<WhyThreads>,
) -> anyhow::Result<Option<RingFlags>> {
    let backend = block::probe_backend(choice)?;
    let why_threads = match backend {
        Backend::Threads { why } => Some(why),
        // Who insists is refused before anything is written; else what is refused later is told later.
        Backend::Uring { flags } if choice == Choice::Uring => refused(flags),
        Backend::Uring { .. } => None,
    };
    let words = why_threads.map(|why| why.to_string());
    crate::tell_of_threads(choice, words.as_deref())?;
    Ok(backend.ring_flags().filter(|_| why_threads.is_none()))
}

fn one(
    target: &Target<ReadWrite>,
    args: &Erase,
    eraser: Eraser,
    shown: &Mutex<std::io::Stdout>,
    cancel: &AtomicBool,
) -> anyhow::Result<()> {
    let name = target.name();
    let warrant = warrant(&eraser).with_context(|| format!("{name} cannot be erased"))?;
    let (wanted, by_writes) = match args.method {
        EraseHow::Auto => (Wanted::Auto, false),
        EraseHow::Signatures => (Wanted::Signatures, false),
        EraseHow::Zero => (Wanted::Zero, false),
        EraseHow::Writes => (Wanted::Zero, true),
    };
    let plan = Plan::new(wanted, eraser.size_bytes());
    let course = if by_writes {
        Course::by_writes(plan, 0)
    } else {
        Course::new(plan, 0)
    };
    // The agent keeps its own block at the end of a device; here nothing is kept. What follows flushes it.
    let last = Range {
        offset: warrant.claim_offset(),
        bytes: CLAIM_BYTES,
    };
    bulk::write_unflushed(target.file(), last.offset, &vec![0; block::claim::SIZE])
        .with_context(|| format!("{name} is not erased"))?;
    let erased = erase(&eraser, &warrant, course, &mut |_, _| {}, cancel)
        .with_context(|| format!("{name} is not erased"))?;
    let read_bytes = verify(&eraser, &erased, wanted, last, args.verify)
        .with_context(|| format!("{name} could not be read back"))?;
    let line = format!(
        "{name}: {} of zeroes by {}, {}{}\n",
        bench::report::bytes((erased.bytes + last.bytes) as f64),
        erased.methods,
        if erased.whole {
            "all of it"
        } else {
            "its signature areas"
        },
        match read_bytes {
            0 => "; not read back".to_owned(),
            bytes => format!(
                "; {} read back as zeroes",
                bench::report::bytes(bytes as f64)
            ),
        }
    );
    let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
    let _gone = shown.write_all(line.as_bytes()).is_err();
    Ok(())
}

/// The right to erase what `permit` gave out: there the fingerprint was found to be this device's, under the hold that it is
/// still in. So it is given for what the device is, without a second look.
fn warrant(eraser: &Eraser) -> anyhow::Result<Warrant> {
    let word = "as permitted";
    let ours = Ours {
        drive_id: "",
        cluster_id: "",
        incarnation: "",
        identity: word,
        content: word,
    };
    let found = Found {
        major_minor: eraser.major_minor(),
        size_bytes: eraser.size_bytes(),
        identity: word,
        content: word,
        blank: false,
        claim: Ok(None),
        file_system: None,
        held: String::new(),
        strangers: Vec::new(),
    };
    Ok(Warrant::to_prepare(ours, true, &found)?)
}

/// Reads back what is asked for; how many bytes that were.
fn verify(
    eraser: &Eraser,
    erased: &Erased,
    wanted: Wanted,
    last: Range,
    level: EraseVerify,
) -> anyhow::Result<u64> {
    let size = eraser.size_bytes();
    let plan = match erased.whole {
        true => Plan::new(wanted, size),
        false => Plan::new(Wanted::Signatures, size),
    };
    let mut ranges = match level {
        EraseVerify::None => return Ok(0),
        EraseVerify::Sample => plan.sample(SAMPLE_SEED),
        EraseVerify::Full => plan.erased().to_vec(),
    };
    ranges.push(last);
    let mut done = 0;
    while let Some(part) = part_at(&ranges, done, VERIFY_BYTES) {
        if let Some(at) = eraser.find_nonzero(part)? {
            anyhow::bail!("byte {at} is not zero");
        }
        done += part.bytes;
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn words_are_counted() {
        let args = Erase {
            devices: vec![Path::new("/dev/a").into(), Path::new("/dev/b").into()],
            fingerprint: vec!["1".into()],
            method: EraseHow::Auto,
            verify: EraseVerify::Sample,
            rate: None,
            engine: crate::args::RealEngine::Auto,
        };
        let refused = erase_all(&args, &AtomicBool::new(false)).unwrap_err();
        assert!(refused.to_string().contains("one --fingerprint for each"));
    }
}
