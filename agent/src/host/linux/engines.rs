//! The engine of each device: the host's, unless threads fit the device better (see [`mod@block::fitting`]). That is found
//! out once for a device and depth, and told of.

use std::collections::BTreeMap;
use std::sync::Arc;

use block::{Backend, Fitting, Mode, Target, fitting};
use tokio::sync::watch;

/// A device as the kernel shows it now: a number may be given to another one later, with another `diskseq`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceKey {
    /// `major:minor`.
    pub major_minor: String,
    /// The kernel's count of media; 0 where it has none (before 5.15).
    pub diskseq: u64,
}

/// What was found out: the engine of each device, by depth.
pub type Fitted = BTreeMap<DeviceKey, BTreeMap<u32, Backend>>;

/// The engines.
#[derive(Clone, Debug)]
pub struct Engines {
    host: Backend,
    fitted: Arc<watch::Sender<Fitted>>,
}

impl Engines {
    /// Where `host` is what works on this host.
    #[must_use]
    pub fn new(host: Backend) -> Self {
        Self {
            host,
            fitted: Arc::new(watch::Sender::new(Fitted::new())),
        }
    }

    /// What works on this host.
    #[must_use]
    pub const fn host(&self) -> Backend {
        self.host
    }

    /// What was found out, and a way to wait for more.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Fitted> {
        self.fitted.subscribe()
    }

    /// The engine for a target at a depth. The first time it may read from it.
    pub(super) fn of<M: Mode>(&self, target: &Target<M>, depth: u32) -> Backend {
        let Some(key) = key(target) else {
            return self.host;
        };
        let known = |fitted: &Fitted| fitted.get(&key)?.get(&depth).copied();
        if let Some(known) = known(&self.fitted.borrow()) {
            return known;
        }
        let found = fitting(self.host, target, depth);
        told(target.name(), &found);
        if found.settled {
            self.fitted.send_modify(|fitted| {
                // What was behind that number before is gone.
                fitted.retain(|other, _| other.major_minor != key.major_minor || *other == key);
                fitted.entry(key).or_default().insert(depth, found.backend);
            });
        }
        found.backend
    }
}

fn key<M: Mode>(target: &Target<M>) -> Option<DeviceKey> {
    let (major, minor) = target.number()?;
    Some(DeviceKey {
        major_minor: format!("{major}:{minor}"),
        diskseq: target
            .attribute("diskseq")
            .and_then(|text| text.parse().ok())
            .unwrap_or(0),
    })
}

fn told(target: &str, found: &Fitting) {
    let Some(timing) = found.timing else { return };
    let (ring_ns, threads_ns, depth) = (timing.ring_ns, timing.threads_ns, timing.depth);
    match found.backend {
        Backend::Threads { .. } => {
            tracing::info!(
                target,
                depth,
                ring_ns,
                threads_ns,
                "Threads are used for this device: io_uring leaves each read to a kernel worker, and takes longer"
            );
        }
        Backend::Uring { .. } => {
            tracing::info!(
                target,
                depth,
                ring_ns,
                threads_ns,
                "io_uring is used for this device though it leaves each read to a kernel worker"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::{Choice, ReadOnly, probe_backend};

    #[test]
    fn a_device_is_asked_once() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let target = Target::<ReadOnly>::open(file.path()).unwrap();
        let host = probe_backend(Choice::Auto).unwrap();
        let engines = Engines::new(host);
        let mut news = engines.subscribe();
        let first = engines.of(&target, 1);
        assert!(news.has_changed().unwrap());
        let fitted = news.borrow_and_update().clone();
        let of_device = fitted.get(&key(&target).unwrap()).unwrap();
        assert_eq!(of_device.get(&1), Some(&first));
        assert_eq!(engines.of(&target, 1), first);
        assert!(!news.has_changed().unwrap());
        engines.of(&target, 2);
        assert!(news.has_changed().unwrap());
    }

    #[test]
    fn what_could_not_be_read_is_asked_again() {
        let Ok(host) = probe_backend(Choice::Uring) else {
            println!("SKIPPED: what_could_not_be_read_is_asked_again: no io_uring here");
            return;
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        let target = Target::<ReadOnly>::open(file.path()).unwrap();
        let engines = Engines::new(host);
        assert_eq!(engines.of(&target, 1), host);
        assert!(engines.subscribe().borrow().is_empty());
    }
}
