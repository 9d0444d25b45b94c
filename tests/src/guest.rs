//! An emulated machine with NVMe drives, in which the programs built here run: `tests/guest/vm`.
//!
//! The guest is killed when its value is dropped, and also when the whole test is: it lives as long as the standard
//! input of its keeper.

use std::cell::Cell;
use std::io::{BufRead as _, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::command::{Outcome, now, ours, program, run};
use crate::tree::root;

/// What every script in a guest begins with.
const PRELUDE: &str = "\
set -e
export PATH=/host:$PATH KUBECONFIG=/var/lib/ringpv/embedded/kubeconfig
ringpv() { kubectl-ringpv \"$@\"; }
";

/// Starts both processes in a guest whose state lies on its first virtio disk, and waits until they serve.
const START: &str = "\
[ -n \"$(blkid /dev/vdb)\" ] || mkfs.ext4 -q /dev/vdb
mkdir -p /var/lib/ringpv /run/ringpv
mountpoint -q /var/lib/ringpv || mount /dev/vdb /var/lib/ringpv
setsid ringpv-controller --embedded /var/lib/ringpv/embedded >>/var/lib/ringpv/controller.log 2>&1 &
for i in $(seq 300); do ringpv list nodes >/dev/null 2>&1 && break; sleep 0.2; done
setsid ringpv-agent --node guest --kubeconfig $KUBECONFIG --health-interval 2s $AGENT_ARGS >>/var/lib/ringpv/agent.log 2>&1 &
for i in $(seq 300); do ringpv list nodes -o name 2>/dev/null | grep -q guest && [ -S /run/ringpv/agent.sock ] && break; sleep 0.2; done
ringpv list nodes
";

/// An agent looks at a volume every half minute, at a drive every minute.
const UNTIL_MAX: Duration = Duration::from_secs(120);

/// How often a test is done where the emulation fails it.
const TESTS_MAX: u32 = 3;

thread_local! {
    /// Whether a machine of this thread's test stood still.
    static STOOD_STILL: Cell<bool> = const { Cell::new(false) };
}

/// Runs a test that boots guests, or says that there can be none. Where it fails and the processors of a guest stood
/// still meanwhile, it is done again from the start: on a busy host the emulation at times loses a timer's interrupt.
///
/// # Panics
/// When the test does.
pub fn on_guests(test: &str, body: impl Fn()) {
    if let Some(why) = Guest::refusal() {
        return crate::skip(test, &why);
    }
    for attempt in 1.. {
        STOOD_STILL.set(false);
        let Err(panic) = catch_unwind(AssertUnwindSafe(&body)) else {
            return;
        };
        if attempt == TESTS_MAX || !STOOD_STILL.get() {
            resume_unwind(panic);
        }
        crate::tell(&format!("{test}: an emulated machine stood still; again"));
    }
}

/// A guest.
#[derive(Debug)]
pub struct Guest {
    name: String,
    keeper: Child,
    alive: Option<ChildStdin>,
}

fn vm() -> Command {
    program(root().join("tests/guest/vm"))
}

/// What `vm exec` ends with when the script does not.
const NO_ANSWER: i32 = 124;

/// How often a guest is started before it is given up.
const BOOTS_MAX: u32 = 3;

impl Guest {
    /// Why there can be no guest here; `None` when there can.
    #[must_use]
    pub fn refusal() -> Option<String> {
        let mut list = vm();
        list.arg("list");
        let listed = run(list, Duration::from_secs(20));
        (listed.code != Some(0))
            .then(|| format!("tests/guest/vm does not run: {}", listed.stderr.trim()))
    }

    /// Boots a guest with these options of `vm`. The folder of our programs is `/host` in it. An emulated machine now
    /// and then does not come up where the host is busy; it is started again then.
    ///
    /// # Panics
    /// When it does not boot.
    #[must_use]
    pub fn boot(name: &str, options: &[&str]) -> Self {
        let programs = ours("ringpv-agent");
        Self::boot_sharing(name, programs.parent().unwrap_or(&programs), options)
    }

    /// The same with another folder at `/host`.
    ///
    /// # Panics
    /// When it does not boot.
    #[must_use]
    pub fn boot_sharing(name: &str, share: &Path, options: &[&str]) -> Self {
        let booted = (1..=BOOTS_MAX).find_map(|attempt| {
            let name = format!("{name}-{}-{attempt}", std::process::id());
            Self::boot_once(name, share, options)
        });
        booted.unwrap_or_else(|| panic!("the guest {name} did not boot in {BOOTS_MAX} attempts"))
    }

    fn boot_once(name: String, share: &Path, options: &[&str]) -> Option<Self> {
        let mut command = vm();
        command
            .args(["hold", &name, "--share"])
            .arg(share)
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut keeper = command.spawn().expect("vm starts");
        let alive = keeper.stdin.take();
        let output = keeper.stdout.take().expect("its standard output");
        let mut line = String::new();
        drop(BufReader::new(output).read_line(&mut line));
        let guest = Self {
            name,
            keeper,
            alive,
        };
        (line == "ready\n").then_some(guest)
    }

    /// Runs a script in the guest; the script ends at its first failing command.
    #[must_use]
    pub fn run(&self, script: &str) -> Outcome {
        let mut command = vm();
        command
            .args(["exec", &self.name, "--timeout", "240"])
            .arg(format!("{PRELUDE}{script}"));
        let outcome = run(command, Duration::from_secs(260));
        Outcome {
            command: script.to_owned(),
            ..outcome
        }
    }

    /// Runs a script that must succeed, and gives its standard output.
    ///
    /// # Panics
    /// With what it said and what our processes logged, when it fails.
    pub fn ok(&self, script: &str) -> String {
        let outcome = self.run(script);
        assert!(outcome.code != Some(NO_ANSWER), "{outcome}");
        if outcome.code != Some(0) {
            let logs = self.run("tail -n 40 /var/lib/ringpv/*.log");
            panic!("{outcome}\n{logs}\n{}", self.console());
        }
        outcome.stdout
    }

    /// The number that a script prints.
    ///
    /// # Panics
    /// When it fails, or prints something else.
    #[must_use]
    pub fn number(&self, script: &str) -> u64 {
        let said = self.ok(script);
        said.trim()
            .parse()
            .unwrap_or_else(|_| panic!("{script} says {said:?}"))
    }

    /// What a script prints, as JSON.
    ///
    /// # Panics
    /// When it fails, or prints something else.
    #[must_use]
    pub fn json(&self, script: &str) -> Value {
        let said = self.ok(script);
        serde_json::from_str(&said).unwrap_or_else(|e| panic!("{script}: {e}: {said}"))
    }

    /// The Drive of the device with this serial; null when there is none.
    #[must_use]
    pub fn drive(&self, serial: &str) -> Value {
        let all = self.json("ringpv list drives -o json");
        let items = all.get("items").and_then(Value::as_array);
        let is_it = |drive: &&Value| {
            drive
                .pointer("/status/device/serial")
                .is_some_and(|it| it == serial)
        };
        let found = items.into_iter().flatten().find(is_it);
        found.cloned().unwrap_or_default()
    }

    /// The node of the NVMe drive with this serial. The kernel numbers drives as it comes to them, not in the order of
    /// their slots.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn device(&self, serial: &str) -> String {
        let script = format!(
            "for disk in /sys/block/nvme*; do read -r serial <$disk/device/serial
            [ $serial != {serial} ] || echo /dev/${{disk##*/}}; done"
        );
        let found = self.ok(&script).trim().to_owned();
        assert!(!found.is_empty(), "no drive has the serial {serial}");
        found
    }

    /// Waits until something is so.
    ///
    /// # Panics
    /// When it is not after two minutes, with all that can be seen.
    pub fn until(&self, what: &str, mut so: impl FnMut() -> bool) {
        let end = now() + UNTIL_MAX;
        while !so() {
            if now() > end {
                let seen = self.run(
                    "set +e; ringpv list drives -o wide; ringpv list volumes -o wide; dmesg | tail -n 40; tail -n 40 /var/lib/ringpv/*.log",
                );
                panic!(
                    "not so after {UNTIL_MAX:?}: {what}\n{seen}\n{}",
                    self.console()
                );
            }
            thread::sleep(Duration::from_millis(500));
        }
    }

    /// Whether its kernel says that a processor stood still, or says nothing at all.
    fn stood_still(&self) -> bool {
        let mut command = vm();
        command.args(["exec", &self.name, "--timeout", "60", "dmesg"]);
        let outcome = run(command, Duration::from_secs(80));
        let marks = ["detected stall", "self-detected stall", "soft lockup"];
        outcome.code == Some(NO_ANSWER) || marks.iter().any(|mark| outcome.stdout.contains(mark))
    }

    /// The end of what its kernel said.
    fn console(&self) -> Outcome {
        let mut command = vm();
        command.args(["console", &self.name]);
        run(command, Duration::from_secs(20))
    }

    /// Starts controller and agent in it, and waits until both serve.
    pub fn start(&self, agent_args: &str) {
        self.ok(&format!("AGENT_ARGS='{agent_args}'\n{START}"));
    }

    /// Does something to its drives from outside: `plug`, `unplug`, `slow`, `fault`.
    pub fn outside(&self, verb: &str, words: &[&str]) {
        let mut command = vm();
        command.args([verb, &self.name]).args(words);
        run(command, Duration::from_secs(60)).ok();
    }

    /// A power cut.
    pub fn cut(self) {
        self.outside("kill", &[]);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if thread::panicking() && self.stood_still() {
            STOOD_STILL.set(true);
        }
        // Its keeper ends it and removes its folder.
        drop(self.alive.take());
        drop(self.keeper.wait());
    }
}

/// A folder for a guest's images that is removed with its value.
#[derive(Debug)]
pub struct Images(tempfile::TempDir);

impl Images {
    /// An empty folder.
    ///
    /// # Panics
    /// When there is no room for one.
    #[must_use]
    pub fn new() -> Self {
        Self(tempfile::TempDir::with_prefix("ringpv-guest-").expect("a temporary folder"))
    }

    /// A SPEC of `vm` for an image in it.
    #[must_use]
    pub fn spec(&self, name: &str, size: &str) -> String {
        let path = self.0.path().join(name);
        format!("file={},size={size},serial={name}", path.display())
    }
}

impl Default for Images {
    fn default() -> Self {
        Self::new()
    }
}
