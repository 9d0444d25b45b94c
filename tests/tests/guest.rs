//! Level guest. In an emulated machine with NVMe drives and a kernel that has project quota: a volume's size for real,
//! power cuts, and drives that are pulled out or fail. The kernel of a test machine may have neither.

#![cfg(test)]

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tests::guest::{Guest, Images, on_guests};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
const SLACK: u64 = 64 << 10;

/// A class that asks for enforcement.
const CLASS: &str = r#"printf '%s\n' 'apiVersion: storage.k8s.io/v1' 'kind: StorageClass' 'metadata: {name: any}' \
    'provisioner: ringpv.io' >/var/lib/ringpv/class.yaml"#;

const INIT: &str =
    "cd /var/lib/ringpv; ringpv discover --overwrite; ringpv init drives.yaml; ringpv list drives";

/// Bytes of all files of a volume.
fn used(guest: &Guest, name: &str) -> u64 {
    guest.number(&format!("du -s --block-size=1 /srv/{name} | cut -f1"))
}

fn size(guest: &Guest, name: &str) -> u64 {
    guest.number(&format!("df --output=size -B1 /srv/{name} | tail -n 1"))
}

/// Makes a file of so many bytes at once; a quota counts them as it counts written ones.
fn allocate(guest: &Guest, file: &str, bytes: u64) {
    guest.ok(&format!("fallocate -l {bytes} /srv/{file}"));
}

/// Fills a volume until it is full, the end as any program would, and checks how full that is.
fn is_full_at(guest: &Guest, name: &str, bytes: u64) {
    let full = guest.run(&format!(
        "dd if=/dev/zero of=/srv/{name}/end bs=1M count=1024"
    ));
    assert!(
        full.code != Some(0) && full.stderr.contains("No space left"),
        "{full}"
    );
    guest.ok("sync");
    let used = used(guest, name);
    assert!((bytes - SLACK..=bytes).contains(&used), "{used} of {bytes}");
}

/// `list volumes` shows the very number that the file system counts, once the volume has come to rest.
fn listed_to_the_block(guest: &Guest, name: &str) {
    let counted = used(guest, name);
    let listed = || {
        let volume = guest.json(&format!("ringpv list volumes {name} -o json"));
        volume["items"][0]["status"]["usedBytes"].as_u64()
    };
    guest.until(&format!("list says that {name} uses {counted}"), || {
        listed() == Some(counted)
    });
}

/// Runs a script that prints a number whenever something was acknowledged, while somebody cuts the power; gives the
/// last that was, which is above `least`.
fn acknowledged_until_the_cut(guest: Guest, script: &str, least: u64) -> u64 {
    let said = thread::scope(|scope| {
        let writer = scope.spawn(|| guest.run(script));
        thread::sleep(Duration::from_secs(5));
        guest.outside("kill", &[]);
        writer.join().expect("it was run").stdout
    });
    // The last line may be torn.
    let whole = said.rsplit_once('\n').map_or("", |(lines, _)| lines);
    let last = whole.lines().last().and_then(|line| line.parse().ok());
    last.filter(|n| *n > least)
        .unwrap_or_else(|| panic!("too few to tell anything: {said}"))
}

/// Numbered records in a file, each made durable before it is acknowledged.
fn records(file: &str) -> String {
    format!(
        r#"i=0; while :; do i=$((i + 1)); echo "record $i" >>/srv/{file}; sync /srv/{file}; echo $i; done"#
    )
}

#[test]
fn a_volume_is_as_large_as_it_says_and_outlives_a_power_cut() {
    on_guests(
        "a_volume_is_as_large_as_it_says_and_outlives_a_power_cut",
        || {
            let images = Images::new();
            // The neighbour does not fit on B: it is on the drive that the other fills.
            let specs = [
                images.spec("A", "8G"),
                images.spec("B", "1G"),
                images.spec("state", "512M"),
            ];
            let options = [
                "--nvme", &specs[0], "--nvme", &specs[1], "--disk", &specs[2],
            ];
            let guest = Guest::boot("quota", &options);
            guest.start("");
            guest.ok(INIT);
            guest.ok(CLASS);
            guest.ok("cd /var/lib/ringpv
        ringpv volumes create five --size 5Gi --class class.yaml
        ringpv volumes mount five /srv/five
        ringpv volumes create neighbour --size 1Gi --class class.yaml
        ringpv volumes mount neighbour /srv/neighbour
        dd if=/dev/urandom of=/srv/neighbour/file bs=1M count=16 status=none; sync
        sha256sum /srv/neighbour/file >neighbour.sum
        [ $(stat -c %d /srv/five) = $(stat -c %d /srv/neighbour) ]");
            assert_eq!(size(&guest, "five"), 5 * GIB);
            // Not through the page cache, which an emulated processor is slow to fill.
            guest.ok("dd if=/dev/zero of=/srv/five/fill bs=4M count=1264 oflag=direct status=none");
            is_full_at(&guest, "five", 5 * GIB);
            guest.ok("sha256sum -c /var/lib/ringpv/neighbour.sum
        dd if=/dev/zero of=/srv/neighbour/more bs=1M count=8 status=none");

            // It grows while somebody writes on, to more than it could hold before.
            guest.ok("rm /srv/five/*");
            allocate(&guest, "five/stream", 5 * GIB - 256 * MIB);
            guest.ok("cd /var/lib/ringpv
        write() {
            for i in $(seq 24); do
                head -c 16M /dev/zero >>/srv/five/stream || return 1
                sleep 0.2
            done
        }
        write & writer=$!
        sleep 1
        ringpv volumes expand five 6Gi
        kill -0 $writer # it is at work still
        wait $writer
        sync");
            assert_eq!(size(&guest, "five"), 6 * GIB);
            listed_to_the_block(&guest, "five");

            let before = used(&guest, "five");
            let acknowledged = acknowledged_until_the_cut(guest, &records("neighbour/records"), 10);
            let guest = Guest::boot("quota", &options);
            guest.start("");
            guest.ok("ringpv volumes mount --all");
            assert_eq!(
                (size(&guest, "five"), used(&guest, "five")),
                (6 * GIB, before)
            );
            listed_to_the_block(&guest, "five");
            guest.ok(&format!(
                "sha256sum -c /var/lib/ringpv/neighbour.sum
        for i in $(seq {acknowledged}); do echo record $i; done >/run/acknowledged
        head -n {acknowledged} /srv/neighbour/records | cmp - /run/acknowledged"
            ));
            allocate(&guest, "five/more", 512 * MIB);
            is_full_at(&guest, "five", 6 * GIB);
        },
    );
}

#[test]
fn an_acknowledged_volume_outlives_a_power_cut() {
    on_guests("an_acknowledged_volume_outlives_a_power_cut", || {
        let images = Images::new();
        let specs = [images.spec("A", "1G"), images.spec("state", "512M")];
        let options = ["--nvme", &specs[0], "--disk", &specs[1]];
        let guest = Guest::boot("acknowledged", &options);
        guest.start("");
        guest.ok(INIT);
        guest.ok(CLASS);
        let script = "cd /var/lib/ringpv
        i=0; while ringpv volumes create v$((i + 1)) --size 1Mi --class class.yaml >/dev/null; do i=$((i + 1)); echo $i; done";
        let acknowledged = acknowledged_until_the_cut(guest, script, 1);
        let guest = Guest::boot("acknowledged", &options);
        guest.start("");
        guest.ok(&format!(
            "ringpv list volumes -o name $(for i in $(seq {acknowledged}); do echo v$i; done)"
        ));
    });
}

#[test]
fn nvme_drives_are_known_and_zero_themselves() {
    on_guests("nvme_drives_are_known_and_zero_themselves", || {
        let images = Images::new();
        let specs = [
            images.spec("A", "600M"),
            images.spec("B", "600M") + ",lba=4096",
            images.spec("state", "512M"),
        ];
        let options = [
            "--nvme", &specs[0], "--nvme", &specs[1], "--disk", &specs[2],
        ];
        let guest = Guest::boot("nvme", &options);
        // Data of somebody's, and more of them where no signature is.
        guest.ok("mkfs.ext4 -q /dev/nvme0n1
        echo OLD-DATA | dd of=/dev/nvme0n1 bs=1M seek=300 conv=notrunc,sync status=none");
        guest.start("");
        guest.ok(
            "cd /var/lib/ringpv; ringpv discover; sed -i 's/select: no/select: yes/' drives.yaml",
        );
        let node = guest.json("ringpv list nodes -o json");
        let devices = node["items"][0]["status"]["devices"].as_array();
        for (serial, sector) in [("A", 512), ("B", 4096)] {
            let device = devices
                .into_iter()
                .flatten()
                .find(|d| d["serial"] == serial);
            let device = device.unwrap_or_else(|| panic!("no drive {serial}: {node:#}"));
            let known = ["model", "transport", "proposedTier"].map(|key| device[key].as_str());
            let expected = ["QEMU NVMe Ctrl", "Nvme", "Hot"].map(Some);
            assert_eq!(known, expected, "{device:#}");
            assert_eq!(device["logicalBlockBytes"], sector, "{device:#}");
        }
        let refused = guest.run("cd /var/lib/ringpv; ringpv init drives.yaml");
        assert!(
            refused.code == Some(1) && refused.stderr.contains("ForceRequired"),
            "{refused}"
        );
        // Not even a person's general word is enough: it must name this very device with what it holds.
        let refused = guest.run("cd /var/lib/ringpv; ringpv init drives.yaml --dangerous");
        let (_, word) = refused.stderr.split_once("--yes ").unwrap_or_default();
        assert!(
            refused.code == Some(1) && refused.stderr.contains("NotConfirmed"),
            "{refused}"
        );
        guest.ok(&format!(
            "[ $(blkid -s TYPE -o value /dev/nvme0n1) = ext4 ]
        cd /var/lib/ringpv; ringpv init drives.yaml --dangerous --yes {}",
            word.trim()
        ));
        for serial in ["A", "B"] {
            let drive = guest.drive(serial);
            let erased = &drive["status"]["erased"];
            assert_eq!(erased["level"], "Logical", "{drive:#}");
            let bytes = erased["bytes"].as_u64();
            assert!(bytes > Some(590 * MIB), "all of it was erased: {drive:#}");
        }
        let place =
            guest.run("dd if=/dev/nvme0n1 bs=1M skip=300 count=1 status=none | grep OLD-DATA");
        assert_eq!(place.code, Some(1), "{place}");
    });
}

#[test]
fn a_drive_that_is_pulled_out_and_put_back() {
    on_guests("a_drive_that_is_pulled_out_and_put_back", || {
        let images = Images::new();
        let (drive, state) = (images.spec("A", "1G"), images.spec("state", "512M"));
        let guest = Guest::boot("pull", &["--nvme", &drive, "--disk", &state]);
        guest.start("");
        guest.ok(INIT);
        guest.ok(CLASS);
        guest.ok("cd /var/lib/ringpv
        ringpv volumes create v --size 100Mi --class class.yaml
        ringpv volumes mount v /srv/v
        echo kept >/srv/v/file; sync");
        guest.outside("unplug", &["nvme0"]);
        stands(&guest, "A", "Lost", "DriveLost");
        let refused = guest.run("ringpv volumes mount v /srv/again");
        assert!(
            refused.code != Some(0) && refused.stderr.contains("DriveUnavailable"),
            "{refused}"
        );
        guest.ok("ringpv volumes unmount v");
        guest.outside("plug", &[&drive]);
        stands(&guest, "A", "Ready", "Ready");
        guest.ok("ringpv volumes mount v /srv/v; [ \"$(cat /srv/v/file)\" = kept ]");
    });
}

/// Waits until a drive, named by its serial, is in a phase for a reason.
fn stands(guest: &Guest, serial: &str, phase: &str, reason: &str) {
    guest.until(&format!("drive {serial} is {phase}, {reason}"), || {
        let status = guest.drive(serial)["status"].clone();
        status["phase"] == phase && status["reason"] == reason
    });
}

#[test]
fn files_that_leave_their_project_show_on_the_drive() {
    on_guests("files_that_leave_their_project_show_on_the_drive", || {
        let images = Images::new();
        let (drive, state) = (images.spec("A", "1G"), images.spec("state", "512M"));
        let guest = Guest::boot("bypass", &["--nvme", &drive, "--disk", &state]);
        guest.start("");
        guest.ok(INIT);
        guest.ok(CLASS);
        guest.ok("cd /var/lib/ringpv
        ringpv volumes create v --size 200Mi --class class.yaml
        ringpv volumes mount v /srv/v");
        allocate(&guest, "v/file", 100 * MIB);
        let bypassed = || {
            let drive = guest.drive("A");
            let conditions = drive["status"]["conditions"].as_array();
            let mut found = conditions.into_iter().flatten();
            let found = found.find(|condition| condition["type"] == "QuotaBypassed");
            found.map(|condition| condition["status"].clone())
        };
        assert_eq!(bypassed(), None, "a file in its project is nothing to tell");
        let project = guest.number("xfs_io -c lsproj /srv/v/file | sed 's/.*= //'");
        assert_ne!(project, 0);
        guest.ok("xfs_io -c 'chproj 0' /srv/v/file");
        guest.until("the drive says that a file has left its project", || {
            bypassed() == Some("True".into())
        });
        guest.ok(&format!("xfs_io -c 'chproj {project}' /srv/v/file"));
        guest.until("the drive says that the file is back", || {
            bypassed() == Some("False".into())
        });
    });
}

#[test]
fn io_uring_forbidden_by_the_administrator() {
    on_guests("io_uring_forbidden_by_the_administrator", || {
        let images = Images::new();
        let (drive, state) = (images.spec("A", "600M"), images.spec("state", "512M"));
        let guest = Guest::boot("sysctl", &["--nvme", &drive, "--disk", &state]);
        guest.ok("echo 2 >/proc/sys/kernel/io_uring_disabled");
        guest.start("");
        let node = guest.json("ringpv list nodes -o json");
        let backend = &node["items"][0]["status"]["ioBackend"];
        let said = [&backend["name"], &backend["reason"]].map(Value::as_str);
        assert_eq!(said, [Some("Threads"), Some("UringDisabled")], "{node:#}");
        guest.ok(INIT);
    });
}

#[test]
fn engines_are_fitted_to_devices() {
    on_guests("engines_are_fitted_to_devices", || {
        let images = Images::new();
        let drive = images.spec("A", "600M");
        let guest = Guest::boot(
            "engines",
            &["--nvme", &drive, "--append", "nvme.poll_queues=1"],
        );
        let measured = |device: &str, options: &str| {
            let script = format!("ringpv-bench run {device} --ops 300 --iodepth 1 {options} 2>&1");
            let said = guest.ok(&script);
            tests::tell(&said);
            said
        };
        // Memory has no NOWAIT: both engines are timed, and the faster one is named with the figures.
        guest.ok("modprobe zram; echo 64M >/sys/block/zram0/disksize");
        let said = measured("/dev/zram0", "");
        assert!(said.contains("threads, 1 at a time"), "{said}");
        let by_threads = said.contains("threads are used: io_uring leaves each read");
        assert_eq!(by_threads, said.contains("pread and pwrite"), "{said}");
        // A drive of its own has it, and nothing is to be said.
        let said = measured("/dev/nvme0n1", "");
        assert!(said.contains("  engine   io_uring ("), "{said}");
        assert!(!said.contains("ringpv-bench:"), "{said}");
        // Polled only where that was asked for, and the kernel agrees.
        assert!(!said.contains("polled"), "{said}");
        let polls = guest.ok("cat /sys/block/nvme0n1/queue/io_poll");
        assert_eq!(polls.trim(), "1", "the drive has a queue to be polled");
        let said = measured("/dev/nvme0n1", "--iopoll");
        assert!(said.contains("ring registered, polled"), "{said}");
        assert!(said.contains("300 operations"), "{said}");
        let said = measured("/dev/vda", "--iopoll");
        assert!(said.contains("not polled: "), "{said}");
        // A drive that answers once a second: a polled run ends when its time is over all the same.
        guest.outside("slow", &["nvme0", "iops=1"]);
        let said =
            guest.ok("timeout 60 ringpv-bench run /dev/nvme0n1 --iopoll --iodepth 8 --runtime 2s");
        assert!(said.contains("polled"), "{said}");
    });
}

#[test]
fn a_drive_is_read_by_commands_of_its_own() {
    on_guests("a_drive_is_read_by_commands_of_its_own", || {
        let images = Images::new();
        let drives = [
            images.spec("A", "16M"),
            images.spec("B", "16M") + ",lba=4096",
        ];
        let guest = Guest::boot(
            "commands",
            &[
                "--nvme",
                &drives[0],
                "--nvme",
                &drives[1],
                "--append",
                "nvme.poll_queues=1",
            ],
        );
        let measured = |words: &str| {
            let said = guest.ok(&format!("ringpv-bench run {words} --ops 300 2>&1"));
            tests::tell(&said);
            assert!(said.contains("300 operations"), "{said}");
            said
        };
        for n in [0, 1] {
            // Something to read, the same by both ways; reads as long as a command may be, and one block at a time.
            guest.ok(&format!(
                "dd if=/dev/urandom of=/dev/nvme{n}n1 bs=1M count=16 oflag=direct status=none"
            ));
            for bytes in [4096, 512 << 10] {
                let said = guest.ok(&format!("reads-alike /dev/nvme{n}n1 {bytes}"));
                assert_eq!(said, "16777216 bytes alike\n");
            }
            let said = measured(&format!("/dev/nvme{n}n1 --passthrough"));
            assert!(
                said.contains(&format!("passthrough /dev/ng{n}n1)")),
                "{said}"
            );
            assert!(!said.contains("polled"), "{said}");
            let said = measured(&format!("/dev/ng{n}n1 --passthrough --iopoll"));
            assert!(
                said.contains(&format!("passthrough /dev/ng{n}n1)")),
                "{said}"
            );
            assert!(said.contains("ring registered, polled"), "{said}");
        }
        guest.ok("printf '[x]\\nfilename=/dev/ng0n1\\nioengine=io_uring_cmd\\ncmd_type=nvme\\nrw=randread\\nnumber_ios=300\\nsize=100%%\\n' >/run/x.fio");
        let said = guest.ok("ringpv-bench run /run/x.fio");
        assert!(said.contains("passthrough /dev/ng0n1)"), "{said}");

        // What has no commands of its own, or may not be read whole, is read as ever, and says why.
        guest.ok("echo ',' | sfdisk -q /dev/nvme0n1; udevadm settle");
        for (device, words, why) in [
            ("/dev/nvme0n1p1", "", "it is a partition"),
            ("/dev/vda", "", "it is no NVMe namespace"),
            ("/dev/nvme0n1", "--bs 8m", "one command reads at most "),
        ] {
            let said = measured(&format!("{device} {words} --passthrough"));
            assert!(said.contains(&format!(", no passthrough: {why}")), "{said}");
        }
        let refused = guest.run("ringpv-bench run /dev/nvme0n1 --passthrough --rw randwrite");
        assert!(
            refused.code == Some(2) && refused.stderr.contains("only reads"),
            "{refused}"
        );

        // A drive's own word for what went wrong.
        guest.outside("fault", &["nvme0", "read"]);
        let device = guest.device("A");
        // It is not always in force as soon as it is set.
        let words = "the first read says NVMe status 2h/81h: unrecovered read error";
        let read = format!("ringpv-bench run {device} --passthrough --ops 300");
        guest.until("the drive's status is told", || {
            let failed = guest.run(&read);
            failed.code == Some(3) && failed.stdout.contains(words)
        });
    });
}

#[test]
fn the_agent_tells_by_which_engine_a_drive_is_read() {
    on_guests("the_agent_tells_by_which_engine_a_drive_is_read", || {
        let images = Images::new();
        let (drive, state) = (images.spec("A", "600M"), images.spec("state", "512M"));
        let guest = Guest::boot("fitted", &["--nvme", &drive, "--disk", &state]);
        // A drive in memory has no NOWAIT, and what device mapper makes of it has none either.
        guest.ok("modprobe zram; echo 600M >/sys/block/zram0/disksize
        size=$(blockdev --getsz /dev/zram0)
        dmsetup create memory --uuid memory-1 --table \"0 $size linear /dev/zram0 0\"
        udevadm settle");
        guest.start("--metrics-listen 127.0.0.1:9500");
        guest.ok(INIT);
        let metrics = || {
            guest.ok("exec 3<>/dev/tcp/127.0.0.1/9500
            printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3
            grep -a io_backend <&3")
        };
        guest.until("both drives were read", || {
            metrics().matches("ringpv_drive_io_backend{").count() == 2
        });
        let said = metrics();
        tests::tell(&said);
        assert!(
            said.contains(
                "ringpv_io_backend{node=\"guest\",backend=\"uring\",reason=\"UringUsed\"} 1"
            ),
            "{said}"
        );
        let engine = |name: &str| {
            let node = guest.json("ringpv list nodes -o json");
            let devices = node["items"][0]["status"]["devices"].as_array();
            let mut found = devices.into_iter().flatten();
            let device = found.find(|device| device["name"] == name);
            device.map(|device| device["ioBackend"].clone())
        };
        // Which is faster in memory is the machine's to say; what it said is shown.
        let by_threads = said.contains("backend=\"threads\"");
        guest.until("the node's status says so as well", || {
            let shown = engine("dm-0").unwrap_or_default();
            by_threads == (shown["reason"] == "ThreadsFaster")
        });
        tests::tell(&format!("{:?}", engine("dm-0")));
        assert_eq!(engine("nvme0n1"), Some(Value::Null));
    });
}

#[test]
fn a_drive_that_fails_every_write() {
    on_guests("a_drive_that_fails_every_write", || {
        let images = Images::new();
        let specs = [
            images.spec("A", "1G"),
            images.spec("B", "1G"),
            images.spec("state", "512M"),
        ];
        let options = [
            "--nvme", &specs[0], "--nvme", &specs[1], "--disk", &specs[2],
        ];
        let guest = Guest::boot("faults", &options);
        guest.start("");
        guest.ok(INIT);
        guest.ok(CLASS);
        // Each is on a drive of its own: two do not fit on one.
        guest.ok("cd /var/lib/ringpv
        for v in 1 2; do
            ringpv volumes create v$v --size 600Mi --class class.yaml
            ringpv volumes mount v$v /srv/v$v
            echo kept >/srv/v$v/file
        done; sync");
        let bad = guest.drive("A")["metadata"]["name"].clone();
        let volumes = guest.json("ringpv list volumes -o json");
        let (on_bad, on_good) = match volumes["items"][0]["spec"]["drive"] == bad {
            true => ("v1", "v2"),
            false => ("v2", "v1"),
        };

        guest.outside("fault", &["nvme0", "write"]);
        let write = |volume: &str| {
            guest.run(&format!(
            "dd if=/dev/zero of=/srv/{volume}/more bs=1M count=4 conv=fsync; sync -f /srv/{volume}"
        ))
        };
        assert_ne!(write(on_bad).code, Some(0), "the writer is told");
        stands(&guest, "A", "ReadOnly", "FilesystemShutdown");
        write(on_good).ok();
        stands(&guest, "B", "Ready", "Ready");
        // It takes no new volume.
        let refused = guest.run(
            "cd /var/lib/ringpv
        ringpv volumes create third --size 250Mi --class class.yaml
        ringpv volumes create fourth --size 250Mi --class class.yaml",
        );
        assert!(
            refused.code == Some(1) && refused.stderr.contains("NoFit"),
            "{refused}"
        );
        guest.outside("fault", &["nvme0", "off"]);
        guest.cut();

        // What was durable before the fault is there once the drive is well again.
        let guest = Guest::boot("faults", &options);
        guest.start("");
        guest.ok("ringpv volumes mount --all
        for v in 1 2; do [ $(cat /srv/v$v/file) = kept ]; done");
        stands(&guest, "A", "Ready", "Ready");
    });
}

#[test]
fn what_fails_on_a_machine_that_stood_still_is_done_again() {
    let times = Cell::new(0);
    let test = || {
        on_guests(
            "what_fails_on_a_machine_that_stood_still_is_done_again",
            || {
                times.set(times.get() + 1);
                let guest = Guest::boot("still", &[]);
                if times.get() == 1 {
                    guest.ok("echo '<3>rcu: INFO: rcu_preempt detected stalls' >/dev/kmsg");
                }
                assert!(times.get() == 3, "on purpose");
            },
        );
    };
    // Once for the machine's fault; the second failure is the test's own.
    let failed = catch_unwind(AssertUnwindSafe(test)).is_err();
    if Guest::refusal().is_none() {
        assert_eq!((failed, times.get()), (true, 2));
    }
}
