//! Keeps the picture of the devices.
//!
//! | what happens | what is done |
//! |---|---|
//! | a uevent, or a device is closed after writing | facts of all, contents of that device (with its disk and partitions) |
//! | a mount or swap changes | facts of all |
//! | the set of our Drives changes | judged again |
//! | a device did not answer or failed | asked again, each time later |
//! | in any case, every half minute | facts of all |
//! | in any case, every hour; events were lost | facts and contents of all |
//!
//! Facts are cheap (a few system calls a device), contents cost reads. Contents are kept with the size and sequence
//! number of the medium that they were read from, so a device that took another's name is never taken for it.
//! Nothing is read often without cause: a sleeping disk shall sleep. Before the first write a device is read afresh in
//! any case ([`super::Discovery::reprobe`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use block::probe::Prober;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::facts::{DeviceFacts, Media};
use super::reader::{Reader, Survey, media_of, target_of};
use super::sysfs::{self, SysfsError};
use super::{Snapshot, judge_all};
use crate::uevent::{Change, Events};

/// How long a device may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How long a picture waits for what is being read: it is not shown by halves, unless a device is slow, which keeps nobody
/// waiting.
const HOLD: Duration = Duration::from_millis(40);
/// Changes are gathered for so long before they are looked at: one attach makes several events.
const GATHER: Duration = Duration::from_millis(100);
/// All facts are read again after this long (write protection, for one, is told by nobody), and every so many times the
/// contents as well, whatever was or was not told.
const RESCAN: Duration = Duration::from_secs(30);
const RESCANS_TO_CONTENTS: u32 = 120;
/// A device that did not answer is asked again after this long, then each time twice as long, up to a bound.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));

/// Whether two readings are of one medium of one size.
pub(super) fn same(one: &DeviceFacts, other: &DeviceFacts) -> bool {
    medium(one) == medium(other)
}

/// What contents belong to.
type Medium = (String, u64, u64);

fn medium(facts: &DeviceFacts) -> Medium {
    (facts.major_minor.clone(), facts.diskseq, facts.size_bytes)
}

/// Contents that are known.
struct Known {
    medium: Medium,
    media: Media,
}

/// What a read brought.
enum Brought {
    Media {
        name: String,
        medium: Medium,
        media: Media,
    },
    /// A virtio serial; `None` where the device did not say it in time.
    Serial {
        name: String,
        diskseq: u64,
        serial: Option<String>,
    },
}

/// When a device is asked again.
struct Retry {
    at: Instant,
    pause: Duration,
}

/// The task's state.
pub(super) struct Watcher {
    reader: Arc<Reader>,
    prober: Prober,
    publish: watch::Sender<Arc<Snapshot>>,
    drives: watch::Receiver<BTreeSet<String>>,
    survey: Survey,
    known: BTreeMap<String, Known>,
    serials: BTreeMap<String, (u64, Option<String>)>,
    /// Reads under way, and those of them that must be repeated because something changed meanwhile.
    reads: JoinSet<Brought>,
    reading: BTreeSet<String>,
    again: BTreeSet<String>,
    /// Devices whose contents may have changed since.
    stale: BTreeSet<String>,
    retries: BTreeMap<String, Retry>,
    /// When to look next: after a change, and in any case.
    look_at: Option<Instant>,
    rescan_at: Instant,
    /// Rescans until the contents are read as well.
    rescans_left: u32,
    /// Until then the picture waits for what is being read.
    hold: Option<Instant>,
    events: Events,
}

impl Watcher {
    pub(super) fn new(
        reader: Arc<Reader>,
        prober: Prober,
        publish: watch::Sender<Arc<Snapshot>>,
        drives: watch::Receiver<BTreeSet<String>>,
        events: Events,
    ) -> Self {
        let now = Instant::now();
        Self {
            reader,
            prober,
            publish,
            drives,
            survey: Survey::default(),
            known: BTreeMap::new(),
            serials: BTreeMap::new(),
            reads: JoinSet::new(),
            reading: BTreeSet::new(),
            again: BTreeSet::new(),
            stale: BTreeSet::new(),
            retries: BTreeMap::new(),
            look_at: None,
            rescan_at: now + RESCAN,
            rescans_left: RESCANS_TO_CONTENTS,
            hold: Some(now + HOLD),
            events,
        }
    }

    /// Watches until it is stopped.
    pub(super) async fn run(mut self, mut changes: mpsc::UnboundedReceiver<Change>) {
        if self.reading.is_empty() {
            self.hold = None;
            self.publish();
        }
        loop {
            let wake = self.next_wake();
            tokio::select! {
                Some(change) = changes.recv() => self.note(change),
                Ok(()) = self.drives.changed() => self.publish(),
                Some(Ok(brought)) = self.reads.join_next() => self.take(brought),
                () = sleep_until(wake) => self.look().await,
            }
        }
    }

    /// The next time at which something is due.
    fn next_wake(&self) -> Instant {
        let retry = self.retries.values().map(|retry| retry.at).min();
        [self.look_at, self.hold, retry]
            .into_iter()
            .flatten()
            .fold(self.rescan_at, Instant::min)
    }

    fn look_soon(&mut self) {
        self.look_at.get_or_insert_with(|| Instant::now() + GATHER);
    }

    /// Remembers that contents may have changed.
    fn note(&mut self, change: Change) {
        match change {
            Change::Device(name) => {
                if let Some(facts) = self.survey.facts.get(&name) {
                    self.stale.extend(facts.partitions.iter().cloned());
                    self.stale
                        .extend(facts.partition.iter().map(|part| part.disk.clone()));
                }
                self.stale.insert(name);
            }
            Change::Use => {}
            Change::Everything => self.stale.extend(self.survey.facts.keys().cloned()),
        }
        self.look_soon();
    }

    /// Looks at all facts, and reads the contents that are missing, stale or due again.
    async fn look(&mut self) {
        let now = Instant::now();
        if self.hold.is_some_and(|until| until <= now) {
            self.hold = None;
            self.publish();
        }
        for (name, retry) in &mut self.retries {
            if retry.at <= now {
                self.stale.insert(name.clone());
                retry.pause = (retry.pause * 2).min(RETRY.1);
                retry.at = now + retry.pause;
                self.look_at = Some(now);
            }
        }
        if self.rescan_at <= now {
            self.rescan(now);
        }
        if self.look_at.is_none_or(|at| at > now) {
            return;
        }
        self.look_at = None;
        let reading = self.reading.len();
        if let Err(error) = self.survey().await {
            tracing::warn!(error = %error, "the devices cannot be listed; tried again");
            self.look_at = Some(now + RETRY.0);
            return;
        }
        if self.reading.len() > reading {
            self.hold = Some(now + HOLD);
        }
        self.publish();
    }

    /// Looks at all facts, now and then at the contents of what is not in use.
    fn rescan(&mut self, now: Instant) {
        self.rescan_at = now + RESCAN;
        self.look_at = Some(now);
        self.rescans_left = match self.rescans_left.checked_sub(1) {
            Some(left) => left,
            None => {
                let facts = self.survey.facts.values();
                let idle = facts.filter(|facts| facts.mounts.is_empty() && !facts.swap);
                self.stale.extend(idle.map(|facts| facts.name.clone()));
                RESCANS_TO_CONTENTS
            }
        };
    }

    /// Whether the last look saw the host's mount table.
    pub(super) const fn sees_host_mounts(&self) -> bool {
        self.survey.sees_host_mounts
    }

    /// Looks at all facts. Each device is read as soon as its own are known, while the others' are looked up.
    pub(super) async fn survey(&mut self) -> Result<(), SysfsError> {
        let reader = Arc::clone(&self.reader);
        let (tell, mut told) = mpsc::unbounded_channel();
        let survey = tokio::task::spawn_blocking(move || {
            // Nobody listens only where the task was stopped.
            reader.survey(|facts| drop(tell.send(facts.clone())))
        });
        while let Some(facts) = told.recv().await {
            self.begin_reads(&facts);
        }
        self.survey = match survey.await {
            Ok(survey) => survey?,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        };
        self.stale.clear();
        let facts = &self.survey.facts;
        self.known.retain(|name, _| facts.contains_key(name));
        self.serials.retain(|name, _| facts.contains_key(name));
        self.retries.retain(|name, _| facts.contains_key(name));
        self.watch_writes();
        Ok(())
    }

    /// Asks a device for what of its contents and its serial is missing or stale.
    fn begin_reads(&mut self, facts: &DeviceFacts) {
        let name = &facts.name;
        let is_stale = self.stale.contains(name);
        let serial = self.serials.get(name);
        let knows_serial = serial.is_some_and(|(diskseq, serial)| {
            *diskseq == facts.diskseq && (serial.is_some() || !is_stale)
        });
        if sysfs::has_slow_serial(facts) && !knows_serial && self.reading.insert(serial_mark(name))
        {
            let ask = ask_serial(self.reader.root.clone(), facts.clone());
            self.reads.spawn(ask);
        }
        if !self.reader.reads(facts) || (self.known_now(facts).is_some() && !is_stale) {
            return;
        }
        if self.reading.insert(name.clone()) {
            self.reads.spawn(read(self.prober.clone(), facts.clone()));
        } else {
            self.again.insert(name.clone());
        }
    }

    fn take(&mut self, brought: Brought) {
        match brought {
            Brought::Serial {
                name,
                diskseq,
                serial,
            } => {
                self.reading.remove(&serial_mark(&name));
                if serial.is_none() {
                    self.ask_later(&name);
                }
                self.serials.insert(name, (diskseq, serial));
            }
            Brought::Media {
                name,
                medium,
                media,
            } => {
                self.reading.remove(&name);
                if self.again.remove(&name) {
                    self.stale.insert(name.clone());
                    self.look_soon();
                }
                match media {
                    Media::Unresponsive { .. } | Media::Failed { .. } => self.ask_later(&name),
                    Media::Read { .. } | Media::Unread => {
                        self.retries.remove(&name);
                    }
                }
                self.known.insert(name, Known { medium, media });
            }
        }
        if self.reading.is_empty() {
            self.hold = None;
        }
        self.publish();
    }

    fn ask_later(&mut self, name: &str) {
        self.retries
            .entry(name.to_owned())
            .or_insert_with(|| Retry {
                at: Instant::now() + RETRY.0,
                pause: RETRY.0,
            });
    }

    fn watch_writes(&mut self) {
        let readable = self
            .survey
            .facts
            .values()
            .filter(|facts| self.reader.reads(facts))
            .map(|facts| (facts.name.as_str(), facts.path.as_path()));
        if let Err((device, errno)) = self.events.watch_writes(readable) {
            tracing::debug!(device, %errno, "writes to a device cannot be watched");
        }
    }

    /// What is known of a device's contents, if it was read of this very medium.
    fn known_now(&self, facts: &DeviceFacts) -> Option<&Media> {
        let known = self.known.get(&facts.name)?;
        (known.medium == medium(facts)).then_some(&known.media)
    }

    /// All facts with what is known of the contents.
    fn facts(&self) -> BTreeMap<String, DeviceFacts> {
        let mut all = self.survey.facts.clone();
        for facts in all.values_mut() {
            let silent = |message: &str| Media::Unresponsive {
                message: message.to_owned(),
            };
            if self.reader.reads(facts) {
                let known = self.known_now(facts).cloned();
                facts.media = known.unwrap_or_else(|| silent("it has not answered yet"));
            }
            let disk = facts
                .partition
                .as_ref()
                .map_or(&facts.name, |part| &part.disk);
            if let Some((_, serial)) = self.serials.get(disk) {
                match serial {
                    Some(serial) => facts.serial.clone_from(serial),
                    None => facts.media = silent("it has not said its serial"),
                }
            }
        }
        all
    }

    /// Publishes the picture, if it is another.
    fn publish(&mut self) {
        if self.hold.is_some() {
            return;
        }
        let drives = self.drives.borrow_and_update().clone();
        let mut seen = judge_all(&self.facts(), &drives, &self.reader.policy);
        let mut left_out = BTreeMap::new();
        seen.retain(|name, one| {
            let shows = self.reader.shows(name);
            if !shows && !one.fingerprint.identity.is_empty() {
                left_out.insert(one.fingerprint.identity.clone(), name.clone());
            }
            shows
        });
        let complete = seen
            .values()
            .filter(|one| self.reader.reads(&one.facts))
            .all(|one| self.known_now(&one.facts).is_some());
        self.publish.send_if_modified(|snapshot| {
            let same = snapshot.generation > 0
                && snapshot.complete == complete
                && snapshot.left_out == left_out
                && snapshot.devices.len() == seen.len()
                && snapshot
                    .devices
                    .iter()
                    .all(|(name, old)| seen.get(name) == Some(old));
            if same {
                return false;
            }
            let devices = std::mem::take(&mut seen)
                .into_iter()
                .map(|(name, new)| match snapshot.devices.get(&name) {
                    Some(old) if **old == new => (name, Arc::clone(old)),
                    Some(_) | None => (name, Arc::new(new)),
                })
                .collect();
            *snapshot = Arc::new(Snapshot {
                generation: snapshot.generation + 1,
                complete,
                sees_host_mounts: self.survey.sees_host_mounts,
                devices,
                left_out: std::mem::take(&mut left_out),
            });
            true
        });
    }
}

/// The mark of a serial that is being asked for, among the names of devices being read.
fn serial_mark(name: &str) -> String {
    format!("{name} serial")
}

async fn read(prober: Prober, facts: DeviceFacts) -> Brought {
    let answer = prober.probe(target_of(&facts), ANSWER_MAX).await;
    Brought::Media {
        medium: medium(&facts),
        name: facts.name,
        media: media_of(answer),
    }
}

/// Asks a virtio disk for its serial on a thread of its own, which may hang with the disk.
async fn ask_serial(root: sysfs::Root, facts: DeviceFacts) -> Brought {
    let (answer, answered) = oneshot::channel();
    let name = facts.name.clone();
    let asked = thread::Builder::new()
        .name("serial".to_owned())
        .spawn(move || drop(answer.send(sysfs::slow_serial(&root, &name))));
    let serial = match asked {
        Ok(_) => timeout(ANSWER_MAX, answered)
            .await
            .ok()
            .and_then(Result::ok),
        Err(_) => None,
    };
    Brought::Serial {
        name: facts.name,
        diskseq: facts.diskseq,
        serial,
    }
}
