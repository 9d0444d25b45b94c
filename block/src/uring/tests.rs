//! What only the inside of a ring can show: that the kernel itself refuses writes, how it steps down, what a drop does.
//! What every engine must do is in `tests/engines.rs`.

use std::cell::RefCell;
use std::os::fd::AsRawFd as _;
use std::time::Instant;

use super::queues::register_pool;
use super::*;
use crate::backend::{Backend, Choice, WhyThreads, open, probe_backend};
use crate::error::BackendError;
use crate::sys;
use crate::target::ReadOnly;

fn file() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    file
}

/// The flags of this host's rings; says so and gives nothing where io_uring is refused.
fn flags(test: &str) -> Option<RingFlags> {
    match probe_backend(Choice::Auto) {
        Ok(Backend::Uring { flags }) => Some(flags),
        Ok(Backend::Threads { why }) => {
            println!("SKIPPED: {test}: {why}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn the_kernel_refuses_what_a_reader_must_not_do() {
    let Some(flags) = flags("the_kernel_refuses_what_a_reader_must_not_do") else {
        return;
    };
    let file = file();
    let target = Target::<ReadOnly>::open(file.path()).unwrap();
    let mut ring = Ring::new(target, Options::new(4, 4096), flags).unwrap();
    // Past the engine's own refusal, to the kernel's.
    let buffer = ring.buffer(4096);
    let ops = [Op::Write { offset: 0, buffer }, Op::Flush, Op::Nop];
    for (token, op) in (0..).zip(ops) {
        ring.queues.ring.push(ring.file, token, op).unwrap();
        let mut done = Vec::new();
        ring.complete(Wait::Forever, &mut done).unwrap();
        let ended = done.pop().unwrap();
        let errno = ended.result.err().and_then(|error| error.errno());
        let expected = (ended.op.kind() != OpKind::Nop).then_some(Errno::EACCES);
        assert_eq!(errno, expected, "{:?}", ended.op.kind());
    }
}

#[test]
fn buffers_step_down_on_enomem() {
    for (granted, expected) in [(8, 8), (5, 4), (1, 1), (0, 0)] {
        let tried = RefCell::new(Vec::new());
        let pool = register_pool(8, 4096, |buffers| {
            tried.borrow_mut().push(buffers.len());
            if buffers.len() <= granted {
                Ok(())
            } else {
                Err(Errno::ENOMEM)
            }
        });
        assert_eq!(pool.len(), expected, "{:?}", tried.borrow());
    }
    let calls = RefCell::new(0);
    let pool = register_pool(8, 4096, |_| {
        *calls.borrow_mut() += 1;
        Err(Errno::EOPNOTSUPP)
    });
    assert_eq!((pool.len(), calls.into_inner()), (0, 1));
}

#[test]
fn each_level_of_flags_works() {
    let Some(best) = flags("each_level_of_flags_works") else {
        return;
    };
    let file = file();
    for flags in RingFlags::STEPS {
        if flags > best {
            println!("not tried: {flags}: this kernel has not all of them");
            continue;
        }
        let target = Target::<ReadOnly>::open(file.path()).unwrap();
        let mut ring = Ring::new(target, Options::new(4, 4096), flags).unwrap();
        let buffer = ring.buffer(4096);
        ring.submit(3, Op::Read { offset: 0, buffer }).unwrap();
        let mut done = Vec::new();
        ring.complete(Wait::Until(ring.now_ns() + 5_000_000_000), &mut done)
            .unwrap();
        assert_eq!(done.len(), 1, "{flags}");
        assert!(done[0].result.is_ok(), "{flags}: {:?}", done[0].result);
    }
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "how long a drop takes is the point"
)]
fn a_drop_waits_no_longer_than_it_must() {
    let Some(flags) = flags("a_drop_waits_no_longer_than_it_must") else {
        return;
    };
    let (reading, _writing) = nix::unistd::pipe().unwrap();
    let ring = flags.build(1).unwrap();
    ring.submitter().register_enable_rings().unwrap();
    let mut ring = OwningRing::new(ring, 1);
    let file = OpFile {
        number: reading.as_raw_fd(),
        fixed: false,
        ring: 0,
        rw_flags: 0,
    };
    let buffer = Buffer::zeroed(4096);
    ring.push(file, 0, Op::Read { offset: 0, buffer }).unwrap();
    ring.enter(0, None).unwrap();
    assert_eq!(
        ring.in_flight(),
        1,
        "a pipe that nobody writes to does not answer"
    );
    let before = Instant::now();
    drop(ring);
    let waited = before.elapsed();
    assert!(waited >= Duration::from_millis(200), "{waited:?}");
    assert!(waited < Duration::from_secs(5), "{waited:?}");
}

#[test]
fn threads_take_over_where_a_sandbox_refuses_io_uring() {
    // The filter holds for this one thread, and ends with it.
    std::thread::spawn(|| {
        sys::refuse_io_uring().unwrap();
        let sysctl = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
        let why = match sysctl.ok().and_then(|text| text.trim().parse().ok()) {
            Some(value) if value > 0 => WhyThreads::Sysctl { value },
            Some(_) | None => WhyThreads::Seccomp,
        };
        let backend = probe_backend(Choice::Auto).unwrap();
        assert_eq!(backend, Backend::Threads { why });
        assert!(backend.to_string().contains("io_uring"), "{backend}");
        assert_eq!(probe_backend(Choice::Uring), Err(BackendError { why }));

        let file = file();
        let target = Target::<ReadOnly>::open(file.path()).unwrap();
        let mut device = open(backend, target, Options::new(4, 4096)).unwrap();
        assert_eq!(device.engine(), "threads");
        let buffer = device.buffer(4096);
        crate::device::transfer(&mut device, Op::Read { offset: 0, buffer }, Wait::Forever)
            .unwrap();
    })
    .join()
    .unwrap();
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "executing a file shows whether somebody has it open for writing"
)]
fn the_file_is_free_as_soon_as_the_ring_is_dropped() {
    let Some(flags) = flags("the_file_is_free_as_soon_as_the_ring_is_dropped") else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("true");
    let mut busy = 0;
    for _ in 0..20 {
        std::fs::copy("/bin/true", &path).unwrap();
        let target = Target::<crate::ReadWrite>::open_file(&path).unwrap();
        let mut ring = Ring::new(target, Options::new(32, 4096), flags).unwrap();
        let buffer = ring.buffer(4096);
        ring.submit(0, Op::Read { offset: 0, buffer }).unwrap();
        ring.complete(Wait::Forever, &mut Vec::new()).unwrap();
        assert!(
            std::process::Command::new(&path).status().is_err(),
            "it is open for writing"
        );
        drop(ring);
        let status = std::process::Command::new(&path).status();
        busy += usize::from(status.is_err());
    }
    // Another test's child may hold a copy of the descriptor for a moment; a ring that is only closed fails each time.
    assert!(busy <= 5, "{busy} of 20");
}

#[test]
fn polling_is_tried_and_done_without() {
    let Some(flags) = flags("polling_is_tried_and_done_without") else {
        return;
    };
    let file = file();
    let target = || Target::<ReadOnly>::open(file.path()).unwrap();
    // Past the look at sysfs: what the kernel itself says.
    let tried = Ring::tried(target(), Options::new(4, 4096), flags).unwrap();
    let polls = match &tried {
        Ok(ring) => ring.description().ends_with(", polled"),
        Err(why) => {
            println!("not polled: {why}");
            false
        }
    };
    assert_eq!(tried.is_ok(), polls);
    drop(tried);
    let mut ring = Ring::polled(target(), Options::new(4, 4096), flags).unwrap();
    let said = ring.description();
    let expected = [", polled", ", not polled: "];
    assert!(expected.iter().any(|words| said.contains(words)), "{said}");
    for token in 0..4 {
        let buffer = ring.buffer(4096);
        let offset = token * 4096;
        ring.submit(token, Op::Read { offset, buffer }).unwrap();
    }
    let mut done = Vec::new();
    let patience = Wait::Until(ring.now_ns() + 5_000_000_000);
    while ring.in_flight() > 0 {
        ring.complete(patience, &mut done).unwrap();
    }
    assert!(done.iter().all(|one| one.result.is_ok()), "{done:?}");
}

#[test]
fn a_ring_that_polls_keeps_the_time_it_was_given() {
    let Some(flags) = flags("a_ring_that_polls_keeps_the_time_it_was_given") else {
        return;
    };
    let file = file();
    let target = Target::<ReadOnly>::open(file.path()).unwrap();
    let mut ring = Ring::new(target, Options::new(1, 4096), flags).unwrap();
    ring.queues.polling = Polling::Polled;
    let (reading, _writing) = nix::unistd::pipe().unwrap();
    let pipe = OpFile {
        number: reading.as_raw_fd(),
        fixed: false,
        ring: 0,
        rw_flags: 0,
    };
    let buffer = Buffer::zeroed(4096);
    ring.queues
        .ring
        .push(pipe, 0, Op::Read { offset: 0, buffer })
        .unwrap();
    let mut done = Vec::new();
    let until = ring.now_ns() + 20_000_000;
    ring.complete(Wait::Until(until), &mut done).unwrap();
    assert!(ring.now_ns() >= until, "it waited");
    assert_eq!((done.len(), ring.in_flight()), (0, 1), "a pipe is silent");
}
