use super::*;

const MIB: u64 = 1 << 20;
const SOON: Duration = Duration::from_secs(20);

/// Both engines; the ring only where this machine has one.
fn engines() -> Vec<(&'static str, Prober)> {
    let mut engines = vec![("threads", Prober::start(false).unwrap())];
    match Prober::start(true).unwrap() {
        ring if ring.uses_ring() => engines.push(("ring", ring)),
        _ => println!("SKIPPED: probe::tests: the ring: io_uring is refused here"),
    }
    engines
}

/// A file in place of a device: 8 MiB and a half sector less than a multiple of 4 KiB, with `bytes` at `offset`.
fn image(dir: &Path, name: &str, offset: u64, bytes: &[u8]) -> Target {
    let path = dir.join(name);
    let size_bytes = 8 * MIB + 512;
    let file = File::create(&path).unwrap();
    file.set_len(size_bytes).unwrap();
    file.write_all_at(bytes, offset).unwrap();
    Target { path, size_bytes }
}

fn names(contents: &Contents) -> Vec<&'static str> {
    contents.found.iter().map(|one| one.kind.as_str()).collect()
}

#[tokio::test]
async fn both_engines_find_the_same_in_both_phases() {
    let dir = tempfile::tempdir().unwrap();
    let claim = Claim {
        state: crate::claim::ClaimState::Formatted,
        drive_id: "3f1e2d4c-0000-8000-8000-000000000001".to_owned(),
        cluster_id: "c".to_owned(),
        incarnation: "i".to_owned(),
        identity: "d".to_owned(),
        left: None,
        named: Vec::new(),
    };
    let at = claim_offset(8 * MIB + 512).unwrap();
    let cases = [
        (image(dir.path(), "blank", 0, &[]), vec![]),
        (image(dir.path(), "xfs", 0, b"XFSB"), vec!["xfs"]),
        (
            image(dir.path(), "end", 8 * MIB, &[7]),
            vec!["unknown-data"],
        ),
        (
            image(dir.path(), "vmfs", 2 * MIB, &[0x5e, 0xf1, 0xab, 0x2f]),
            vec!["vmfs"],
        ),
        (
            image(dir.path(), "claim", at, &claim.encode().unwrap()),
            vec!["ringpv-claim"],
        ),
    ];
    for (engine, prober) in engines() {
        for (target, expected) in &cases {
            let contents = prober.probe(target.clone(), SOON).await.unwrap();
            assert_eq!(names(&contents), *expected, "{engine}");
            let claimed = expected.contains(&"ringpv-claim").then(|| claim.clone());
            assert_eq!(contents.claim, Ok(claimed), "{engine}");
        }
    }
}

/// Whatever ends it: what is asked for next is answered, by threads.
#[tokio::test]
async fn a_ring_that_ends_is_followed_by_threads() {
    let dir = tempfile::tempdir().unwrap();
    let target = image(dir.path(), "xfs", 0, b"XFSB");
    for (engine, prober) in engines() {
        let mut ended = prober.ring_ended();
        assert!(!*ended.borrow());
        if let Engine::Uring(threads) = &prober.engine {
            threads.break_off();
            ended.wait_for(|ended| *ended).await.unwrap();
        }
        assert!(!prober.uses_ring(), "{engine}");
        let contents = prober.probe(target.clone(), SOON).await.unwrap();
        assert_eq!(names(&contents), ["xfs"], "{engine}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_says_what_and_where() {
    let dir = tempfile::tempdir().unwrap();
    let missing = Target {
        path: dir.path().join("missing"),
        size_bytes: MIB,
    };
    let mut short = image(dir.path(), "short", 0, &[]);
    short.size_bytes += 4 * MIB;
    for (engine, prober) in engines() {
        let error = prober.probe(missing.clone(), SOON).await.unwrap_err();
        assert!(
            matches!(error, ProbeError::Open { .. }),
            "{engine}: {error}"
        );
        let error = prober.probe(short.clone(), SOON).await.unwrap_err();
        assert!(
            matches!(error, ProbeError::Read { .. }),
            "{engine}: {error}"
        );
        assert!(!error.is_unresponsive());
    }
}

/// A pipe without a writer stands for a device that never answers: a thread hangs in opening it.
#[tokio::test]
async fn stuck_devices_delay_nobody_and_are_asked_again_when_they_have_answered() {
    for (engine, prober) in engines() {
        stuck_devices_delay_nobody(engine, prober).await;
    }
}

async fn stuck_devices_delay_nobody(engine: &str, prober: Prober) {
    let dir = tempfile::tempdir().unwrap();
    let stuck: Vec<Target> = (0..2 * AT_ONCE_MAX)
        .map(|n| Target {
            path: dir.path().join(format!("stuck{n}")),
            size_bytes: 8 * MIB,
        })
        .collect();
    let mut waiting = Vec::new();
    for target in &stuck {
        nix::unistd::mkfifo(&target.path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (prober, target) = (prober.clone(), target.clone());
        waiting.push(tokio::spawn(async move {
            prober.probe(target, Duration::from_secs(3)).await
        }));
    }
    let fine = image(dir.path(), "fine", 0, b"XFSB");
    let answer = tokio::time::timeout(Duration::from_secs(2), prober.probe(fine, SOON)).await;
    assert_eq!(names(&answer.unwrap().unwrap()), ["xfs"], "{engine}");
    for task in waiting {
        let error = task.await.unwrap().unwrap_err();
        assert!(matches!(error, ProbeError::Unresponsive { .. }), "{error}");
    }
    let first = stuck[0].clone();
    let error = prober.probe(first.clone(), SOON).await.unwrap_err();
    assert!(matches!(error, ProbeError::StillWaiting { .. }), "{error}");
    // Each answers at last: with nonsense, as a pipe does, but it answers.
    for target in &stuck {
        drop(
            std::fs::OpenOptions::new()
                .write(true)
                .open(&target.path)
                .unwrap(),
        );
    }
    while !prober.busy.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    std::fs::remove_file(&first.path).unwrap();
    let error = prober.probe(first, SOON).await.unwrap_err();
    assert!(matches!(error, ProbeError::Open { .. }), "{error}");
}

/// Whoever shows by what devices are read asks one question, whenever it was that the ring was lost.
#[test]
fn a_ring_that_was_refused_at_the_start_counts_as_ended() {
    for refused in [None, Some("no memory")] {
        let prober = Prober {
            engine: Engine::Threads {
                refused: refused.map(Into::into),
            },
            places: Arc::new(Semaphore::new(1)),
            busy: Arc::default(),
        };
        assert!(!prober.uses_ring());
        assert_eq!(*prober.ring_ended().borrow(), refused.is_some());
        assert_eq!(prober.why_threads().as_deref(), refused);
    }
}
