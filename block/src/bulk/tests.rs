use super::*;

const MIB: u64 = 1 << 20;

/// By threads and, where there is one, by a ring; with a limit and without.
fn ways() -> Vec<(Option<RingFlags>, Arc<Limiter>)> {
    let found = crate::probe_backend(crate::Choice::Auto).unwrap();
    let mut ways = Vec::new();
    for uring in [None, found.ring_flags()] {
        for rate in [None, Some(500 * MIB)] {
            ways.push((uring, Arc::new(Limiter::new(rate))));
        }
    }
    ways
}

#[test]
fn lanes_share_a_range_without_gap_or_overlap() {
    let range = Range {
        offset: 4096,
        bytes: 21 * MIB + 512,
    };
    let only: Vec<Lane> = vec![Lane::ONLY];
    for lanes in [Lane::all().collect(), only] {
        let mut all: Vec<Range> = lanes
            .into_iter()
            .flat_map(|lane| lane.transfers(range, MIB))
            .collect();
        all.sort_unstable();
        let mut end = range.offset;
        for transfer in all {
            assert_eq!(transfer.offset, end);
            end += transfer.bytes;
        }
        assert_eq!(end, range.offset + range.bytes);
    }
}

#[test]
fn a_range_is_zeroed_and_nothing_beside_it() {
    for (uring, limiter) in ways() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let size = 20 * MIB;
        std::fs::write(file.path(), vec![0xa5; usize::try_from(size).unwrap()]).unwrap();
        let direct = File::options()
            .read(true)
            .write(true)
            .open(file.path())
            .unwrap();
        let bulk = Bulk::new(Arc::new(direct), uring, limiter);
        let range = Range {
            offset: MIB,
            bytes: 17 * MIB + 4096,
        };
        assert_eq!(bulk.find_nonzero(range).unwrap(), Some(MIB));
        bulk.zero(range).unwrap();
        assert_eq!(bulk.find_nonzero(range).unwrap(), None);
        let whole = Range {
            offset: MIB,
            bytes: size - MIB,
        };
        let end = range.offset + range.bytes;
        assert_eq!(
            bulk.find_nonzero(whole).unwrap(),
            Some(end),
            "uring: {uring:?}"
        );
        let before = Range {
            offset: 0,
            bytes: MIB,
        };
        assert_eq!(bulk.find_nonzero(before).unwrap(), Some(0));
    }
}

/// Both ways, whatever this machine has: nothing here depends on a ring.
#[test]
fn where_a_ring_is_refused_threads_read_and_one_that_died_begins_anew() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let size = usize::try_from(2 * MIB).unwrap();
    std::fs::write(file.path(), vec![0; size]).unwrap();
    let of = |bytes| Range { offset: 0, bytes };
    let bulk = || {
        let limiter = Arc::new(Limiter::new(None));
        let flags = Some(RingFlags::Plain);
        Bulk::new(Arc::new(file.reopen().unwrap()), flags, limiter)
    };
    let refused = bulk();
    let never = || panic!("no ring is asked for");
    // One transfer needs none.
    assert_eq!(refused.find(of(MIB), never).unwrap(), None);
    let refusal = || Err(io::Error::from_raw_os_error(libc::ENOMEM));
    assert_eq!(refused.find(of(2 * MIB), refusal).unwrap(), None);
    assert_eq!(refused.find(of(2 * MIB), never).unwrap(), None);

    let died = Bulk {
        reader: Reader::that_died(),
        ..bulk()
    };
    let mut begun = false;
    let again = || {
        begun = true;
        refusal()
    };
    assert_eq!(died.find(of(2 * MIB), again).unwrap(), None);
    assert!(begun);
}

#[test]
fn where_a_ring_is_refused_threads_write_zeroes() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![7; 8192]).unwrap();
    let bulk = Bulk::new(
        Arc::new(file.reopen().unwrap()),
        Some(RingFlags::Plain),
        Arc::new(Limiter::new(None)),
    );
    let all = Range {
        offset: 0,
        bytes: 8192,
    };
    for errno in [libc::EPERM, libc::EMFILE, libc::ENOMEM] {
        let refused = |_| Err(zeroes::Failure::Ring(io::Error::from_raw_os_error(errno)));
        bulk.zero_by(all, refused).unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap(), [0; 8192]);
        std::fs::write(file.path(), vec![7; 8192]).unwrap();
    }
    let broken = |part| {
        let error = io::Error::from_raw_os_error(libc::EIO);
        Err(zeroes::Failure::Write(part, error))
    };
    let error = bulk.zero_by(all, broken).unwrap_err();
    assert_eq!(error.source.raw_os_error(), Some(libc::EIO));
}

#[test]
fn a_failure_is_told() {
    let all = Range {
        offset: 0,
        bytes: 3 * MIB,
    };
    for (uring, limiter) in ways() {
        let reading = tempfile::NamedTempFile::new().unwrap();
        let reading = Arc::new(File::open(reading.path()).unwrap());
        let bulk = Bulk::new(reading, uring, limiter);
        let error = bulk.zero(all).unwrap_err();
        assert_eq!(error.source.raw_os_error(), Some(libc::EBADF), "{uring:?}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    for (uring, limiter) in ways() {
        let handle = Arc::new(file.reopen().unwrap());
        let bulk = Bulk::new(handle, uring, limiter);
        for bytes in [4096, 3 * MIB] {
            let error = bulk.find_nonzero(Range { offset: 0, bytes }).unwrap_err();
            let told = error.to_string();
            assert!(
                told.starts_with("read ") && told.ends_with(" bytes at 0"),
                "{told}"
            );
        }
    }
}
