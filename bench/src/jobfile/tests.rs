//! Job files as people write them, and what is wrong with some.

use super::*;
use crate::steady::Measure;

const GEOMETRY: Geometry = Geometry {
    size_bytes: 1 << 30,
    sector_bytes: 512,
};

fn jobs(text: &str) -> JobFile {
    parse(text).unwrap_or_else(|mistakes| panic!("{text}\n{mistakes:?}"))
}

/// A job of these lines, with what every job needs.
fn one(lines: &str) -> Job {
    jobs(&format!("[x]\nfilename=/dev/x\ndirect=1\n{lines}"))
        .jobs
        .remove(0)
}

/// The one mistake.
fn mistake(text: &str) -> String {
    match parse(text) {
        Err(mistakes) if mistakes.len() == 1 => mistakes[0].to_string(),
        other => panic!("{text}\n{other:?}"),
    }
}

#[test]
fn a_file_as_people_write_it() {
    let file = jobs(
        "; a comment\n\
         [global]\n\
         ioengine=io_uring   # another\n\
         direct=1\n\
         filename=/dev/nvme0n1\n\
         group_reporting\n\
         thread\n\
         runtime=30\n\
         \n\
         [randread]\n\
         rw=randread\n\
         bs=4k\n\
         iodepth=32\n\
         time_based\n\
         ramp_time=5s\n\
         [global]\n\
         iodepth=8\n\
         [write]\n\
         stonewall\n\
         readwrite=write\n\
         blocksize=1M\n\
         size=50%\n\
         offset=1g\n",
    );
    assert_eq!(file.jobs.len(), 2);
    let [read, write] = &file.jobs[..] else {
        panic!("{file:?}");
    };
    assert_eq!(
        (read.name.as_str(), read.engine),
        ("randread", Choice::Uring)
    );
    assert_eq!(read.workload, Workload::new(Pattern::RandRead, 4096, 32));
    let limits = read.limits(GEOMETRY).unwrap();
    assert_eq!(limits.duration, Some(Duration::from_secs(30)));
    assert_eq!(
        (limits.bytes, limits.warm_up),
        (None, Duration::from_secs(5))
    );
    assert_eq!(write.workload, Workload::new(Pattern::Write, 1 << 20, 8));
    assert_eq!((write.offset, write.size), (1 << 30, Amount::Percent(50)));
    assert_eq!(
        read.options,
        [
            ("rw", "randread"),
            ("bs", "4k"),
            ("iodepth", "32"),
            ("ramp_time", "5s")
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
    );
    assert_eq!(write.options[0], ("rw".to_owned(), "write".to_owned()));
    assert_eq!(file.global.len(), 5);
    assert_eq!(
        file.notes,
        ["without effect: group_reporting, thread (one job runs at a time)"]
    );
}

#[test]
fn defaults_are_fios() {
    let job = one("");
    assert_eq!(job.workload, Workload::new(Pattern::Read, 4096, 1));
    assert_eq!((job.engine, job.verify), (Choice::Threads, false));
    assert_eq!(job.percentiles, PERCENTILES);
    // Once over all of it, whatever its time.
    let limits = job.limits(GEOMETRY).unwrap();
    assert_eq!((limits.bytes, limits.duration), (Some(1 << 30), None));
}

#[test]
fn when_a_job_ends() {
    for (lines, bytes, seconds) in [
        ("size=10m", Some(10 << 20), None),
        ("size=10m\nruntime=5", Some(10 << 20), Some(5)),
        ("size=10m\nruntime=1m\ntime_based", None, Some(60)),
        ("size=10m\nio_size=1m", Some(1 << 20), None),
        ("size=10m\nio_size=1g\nruntime=2", Some(1 << 30), Some(2)),
        ("size=25%", Some(256 << 20), None),
        ("size=100%\noffset=256m", Some(768 << 20), None),
        ("size=10000\nbs=4k", Some(8192), None),
        ("size=512", Some(4096), None),
    ] {
        let limits = one(lines).limits(GEOMETRY).unwrap();
        assert_eq!(
            (limits.bytes, limits.duration),
            (bytes, seconds.map(Duration::from_secs)),
            "{lines}"
        );
    }
    let count = one("number_ios=7").limits(GEOMETRY).unwrap();
    assert_eq!(count.operations, Some(7));
    for (lines, words) in [
        ("size=2g", "fio would make the file longer"),
        ("size=1g\noffset=4k", "fio would make the file longer"),
        ("offset=1g", "is not below"),
    ] {
        let error = one(lines).limits(GEOMETRY).unwrap_err();
        assert!(error.contains(words), "{lines}: {error}");
    }
}

#[test]
fn what_each_option_means() {
    assert_eq!(one("rw=readwrite").workload.pattern, Pattern::Rw);
    assert_eq!(one("rwmixwrite=30").workload.read_percent, 70);
    assert_eq!(one("bs=0x1000").workload.block_bytes, 4096);
    assert_eq!(one("randseed=9").workload.seed, 9);
    assert_eq!(one("rate=8m\nbs=64k").limits.rate_iops, Some(128));
    assert_eq!(one("rate_iops=500").limits.rate_iops, Some(500));
    assert_eq!(one("name=other").name, "other");
    assert_eq!(
        one("directory=/mnt\nfilename=f").filename,
        PathBuf::from("/mnt/f")
    );
    assert_eq!(one("percentile_list=50:99.9").percentiles, [50.0, 99.9]);
    assert_eq!(
        one("runtime=2msec").limits.duration,
        Some(Duration::from_millis(2))
    );
    assert!(one("rw=write\nverify=crc32c").verify);
    // A synchronous engine has one operation at a time.
    assert_eq!(one("ioengine=psync\niodepth=32").workload.depth, 1);
    let libaio = jobs("[x]\nfilename=x\ndirect=1\nioengine=libaio\niodepth=32");
    assert_eq!(libaio.jobs[0].workload.depth, 32);
    assert_eq!(
        libaio.notes,
        ["without effect: ioengine=libaio (io_uring is used)"]
    );
    assert!(!one("ioengine=io_uring").passthrough);
    let through = one("ioengine=io_uring_cmd\ncmd_type=nvme\niodepth=8\nhipri");
    assert!(through.passthrough && through.polled);
    assert_eq!((through.engine, through.workload.depth), (Choice::Uring, 8));
    // fio's default; and what is sent to a drive goes through no cache.
    let file = jobs("[x]\nfilename=/dev/ng0n1\nioengine=io_uring_cmd");
    assert!(file.jobs[0].passthrough);
    let steady = one("ss=bw_slope:1%\nss_dur=20\nss_ramp=5")
        .limits
        .steady_state
        .unwrap();
    assert_eq!((steady.measure, steady.slope), (Measure::Bandwidth, true));
    assert_eq!(steady.window, Duration::from_secs(20));
    assert_eq!(steady.ramp, Duration::from_secs(5));
}

#[test]
fn what_is_refused() {
    for (lines, words) in [
        (
            "bsrange=4k-8k",
            "line 4: bsrange is not supported; supported are name, filename, ",
        ),
        ("bs=4k,8k", "line 4: bs=4k,8k: one size for everything"),
        (
            "bs=4kib",
            "line 4: bs=4kib: with an i it is a power of 1000 to fio",
        ),
        ("rw=trim", "\"trim\" is not one of read, write"),
        ("rw=read:8", "is not one of"),
        ("iodepth=2000", "a whole number from 1 to 1024"),
        ("ioengine=rbd", "it is not one of io_uring"),
        (
            "numjobs=4",
            "line 4: numjobs=4: one job runs at a time; only numjobs=1 is supported",
        ),
        ("fsync=1", "only fsync=0 is supported"),
        (
            "hipri\nioengine=io_uring\nrw=randrw",
            "line 1: [x] has hipri and writes: only reads are polled",
        ),
        (
            "hipri",
            "line 1: [x] has hipri and an engine that does not poll",
        ),
        (
            "ioengine=io_uring_cmd\nrw=randwrite",
            "line 1: [x] has ioengine=io_uring_cmd and writes: only reads",
        ),
        ("cmd_type=scsi", "cmd_type=scsi: only nvme is supported"),
        ("direct=0", "fio would go through the page cache"),
        ("buffered=1", "fio would go through the page cache"),
        ("filename=/dev/a:/dev/b", "one device or file"),
        ("filename=${DEV}", "variables are not supported"),
        ("verify=md5", "it is not one of crc32c, pattern"),
        ("verify=crc32c", "line 1: [x] has verify and does not write"),
        ("ss=iops:2%", "line 1: [x] has ss and no ss_dur"),
        ("ss=depth:2%", "is not like iops:2%"),
        ("time_based", "line 1: [x] has time_based and no runtime"),
        ("time_based\nruntime=1\nio_size=1g", "overrides io_size"),
        ("rw=randrw\nrate_iops=5", "limits the rate of a mix"),
        ("rate=1k", "a rate below one operation a second"),
        ("runtime=0", "it leaves nothing to measure"),
        ("percentile_list=0:50", "up to 20 numbers"),
    ] {
        let found = mistake(&format!("[x]\nfilename=/dev/x\ndirect=1\n{lines}"));
        assert!(found.contains(words), "{lines}: {found}");
    }
}

#[test]
fn what_a_file_needs() {
    for (text, words) in [
        ("", "line 1: there is no job"),
        ("[global]\nbs=4k", "line 1: there is no job"),
        (
            "bs=4k\n[x]\nfilename=x\ndirect=1",
            "line 1: an option stands below",
        ),
        ("[x\nfilename=x", "line 1: a section is [global] or"),
        ("[x]\nfilename=x", "line 1: [x] has no direct=1"),
        ("[x]\ndirect=1", "line 1: [x] has no filename"),
        (
            "[global]\nfilename=x\ndirect=1\n[a]\n[b]\nstonewall=0",
            "line 5: [b] has no stonewall: fio would run it side by side",
        ),
    ] {
        let found = parse(text).unwrap_err()[0].to_string();
        assert!(found.contains(words), "{text}: {found}");
    }
    // A mistake of [global] is told once, and all of a file together.
    let mistakes = parse("[global]\nfilename=x\ndirect=1\nstonewall\nwhat=1\n[a]\nbs=x\n[b]\nbs=y")
        .unwrap_err();
    let lines: Vec<usize> = mistakes.iter().map(|mistake| mistake.line).collect();
    assert_eq!(lines, [5, 7, 9]);
}
