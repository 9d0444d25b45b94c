//! What the kernel says about block devices, as it happens: uevents by netlink, mounts and swaps by poll, and the
//! closing of a device that was written to by inotify (mkfs and wipefs cause no uevent of their own, kernel-notes/30;
//! udev would make one, but is not asked).
//!
//! One thread waits for all of them. Anything that is lost or cannot be watched leads to looking at everything again,
//! never to a stale answer for long.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, setsockopt,
    socket, sockopt,
};
use tokio::sync::mpsc;

/// The multicast group of the kernel's own events (udev's are in another).
const KERNEL_GROUP: u32 = 1;
/// Bytes of the longest event: the kernel's own limit is 2 KiB of environment.
const EVENT_MAX: usize = 8 << 10;
/// Bytes that the kernel queues for us: a shelf of drives coming up makes thousands of events.
const QUEUE_BYTES: usize = 4 << 20;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Something about this device.
    Device(String),
    /// A mount or swap.
    Use,
    /// Events were lost: look at everything.
    Everything,
}

/// The kernel's events, while this is kept.
#[derive(Debug)]
pub struct Events {
    written: Option<Arc<Written>>,
    stop: Arc<EventFd>,
}

/// Devices that are watched for being closed after writing.
#[derive(Debug)]
struct Written {
    inotify: Inotify,
    watched: Mutex<BTreeMap<String, WatchDescriptor>>,
}

/// What the thread waits for.
struct Sources {
    uevents: Option<OwnedFd>,
    written: Option<Arc<Written>>,
    polled: Vec<File>,
    stop: Arc<EventFd>,
}

/// Numbers of the sources in the epoll set; those polled follow.
const UEVENTS: u64 = 0;
const WRITTEN: u64 = 1;
const STOP: u64 = 2;
const POLLED: u64 = 3;

impl Events {
    /// Waits for events from now on; they go to `changes`. `proc` is the root of procfs. A source that is refused is
    /// told of in the log, and the others work.
    ///
    /// # Errors
    /// No thread, or no means to wait.
    pub fn start(proc: &Path, changes: mpsc::UnboundedSender<Change>) -> io::Result<Self> {
        let written = told(Written::new(), "writes to devices").map(Arc::new);
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?);
        let host = File::open(proc.join("1/mountinfo"));
        let mounts = host.or_else(|_| File::open(proc.join("self/mountinfo")));
        let mounts = told(mounts, "mounts");
        let swaps = File::open(proc.join("swaps")).ok(); // absent: a kernel without swap
        let sources = Sources {
            uevents: told(listen(), "kernel uevents"),
            written: written.clone(),
            polled: mounts.into_iter().chain(swaps).collect(),
            stop: Arc::clone(&stop),
        };
        let epoll = sources.epoll()?;
        thread::Builder::new()
            .name("uevents".to_owned())
            .spawn(move || sources.serve(&epoll, &changes))?;
        Ok(Self { written, stop })
    }

    /// Watches these devices for being closed after writing, and no others. A node that was made anew is watched anew.
    ///
    /// # Errors
    /// Says which device could not be watched, the first of them; the others are.
    pub fn watch_writes<'a>(
        &self,
        devices: impl IntoIterator<Item = (&'a str, &'a Path)>,
    ) -> Result<(), (String, Errno)> {
        match &self.written {
            Some(written) => written.watch(devices),
            None => Ok(()), // which was told at the start
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if let Err(errno) = self.stop.write(1) {
            tracing::warn!(%errno, "the thread of the uevents cannot be stopped");
        }
    }
}

/// A source of events, or `None`, which was told.
fn told<T>(source: io::Result<T>, what: &'static str) -> Option<T> {
    source
        .map_err(|error| {
            tracing::warn!(what, %error, "cannot be watched; devices are looked at every half minute instead");
        })
        .ok()
}

/// A socket that hears the kernel's uevents.
fn listen() -> io::Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        SockProtocol::NetlinkKObjectUEvent,
    )?;
    if setsockopt(&socket, sockopt::RcvBufForce, &QUEUE_BYTES).is_err() {
        // Not privileged enough for that much: as much as one may have. An overflow is told by the kernel.
        setsockopt(&socket, sockopt::RcvBuf, &QUEUE_BYTES)?;
    }
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))?;
    Ok(socket)
}

impl Sources {
    fn epoll(&self) -> io::Result<Epoll> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let add = |fd: &dyn AsFd, flags, number| {
            epoll
                .add(fd.as_fd(), EpollEvent::new(flags, number))
                .map_err(io::Error::from)
        };
        add(&*self.stop, EpollFlags::EPOLLIN, STOP)?;
        if let Some(uevents) = &self.uevents {
            add(uevents, EpollFlags::EPOLLIN, UEVENTS)?;
        }
        if let Some(written) = &self.written {
            add(&written.inotify, EpollFlags::EPOLLIN, WRITTEN)?;
        }
        for (number, file) in (POLLED..).zip(&self.polled) {
            // These are always readable; what they tell of a change is the exception (kernel-notes/31).
            told(add(file, EpollFlags::EPOLLPRI, number), "mounts or swaps");
        }
        Ok(epoll)
    }

    /// Waits and tells, until it is stopped or nobody listens.
    fn serve(self, epoll: &Epoll, changes: &mpsc::UnboundedSender<Change>) {
        loop {
            let mut ready = [EpollEvent::empty(); 8];
            let count = match epoll.wait(&mut ready, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(errno) => {
                    tracing::warn!(%errno, "uevents have ended; devices are looked at every half minute instead");
                    return;
                }
            };
            for event in ready.iter().take(count) {
                let told = match event.data() {
                    STOP => return,
                    UEVENTS => self.uevents.as_ref().map(heard).unwrap_or_default(),
                    WRITTEN => self
                        .written
                        .as_deref()
                        .map(Written::closed)
                        .unwrap_or_default(),
                    _polled => vec![Change::Use],
                };
                for change in told {
                    if changes.send(change).is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// The events that are waiting in the socket.
fn heard(socket: &OwnedFd) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut buffer = [0; EVENT_MAX];
    loop {
        match recvfrom::<NetlinkAddr>(socket.as_raw_fd(), &mut buffer) {
            // Whoever may multicast to this group could say anything; only the kernel has port 0.
            Ok((_, Some(sender))) if sender.pid() != 0 => {}
            Ok((length, _)) => {
                let message = buffer.get(..length).unwrap_or_default();
                changes.extend(block_device(message).map(Change::Device));
            }
            Err(Errno::ENOBUFS) => changes.push(Change::Everything),
            Err(_) => return changes,
        }
    }
}

/// The device that an event is about, if it is a block device.
fn block_device(message: &[u8]) -> Option<String> {
    let mut block = false;
    let mut name = None;
    for field in message.split(|byte| *byte == 0) {
        match std::str::from_utf8(field).ok()?.split_once('=') {
            Some(("SUBSYSTEM", subsystem)) => block = subsystem == "block",
            Some(("DEVNAME", device)) => name = Some(device.to_owned()),
            Some(_) | None => {}
        }
    }
    name.filter(|_| block)
}

impl Written {
    fn new() -> io::Result<Self> {
        Ok(Self {
            inotify: Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?,
            watched: Mutex::default(),
        })
    }

    fn watch<'a>(
        &self,
        devices: impl IntoIterator<Item = (&'a str, &'a Path)>,
    ) -> Result<(), (String, Errno)> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let mut failed = Ok(());
        let mut now = BTreeMap::new();
        for (name, path) in devices {
            match self.inotify.add_watch(path, AddWatchFlags::IN_CLOSE_WRITE) {
                Ok(watch) => {
                    now.insert(name.to_owned(), watch);
                }
                Err(errno) => failed = failed.and(Err((name.to_owned(), errno))),
            }
        }
        for (name, watch) in watched.iter() {
            // A watch of a node that is gone went with it; that it is no more to be removed is no fault.
            if !now.values().any(|kept| kept == watch)
                && let Err(errno) = self.inotify.rm_watch(*watch)
                && errno != Errno::EINVAL
            {
                failed = failed.and(Err((name.clone(), errno)));
            }
        }
        *watched = now;
        failed
    }

    /// The devices that were closed after writing.
    fn closed(&self) -> Vec<Change> {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let events = self.inotify.read_events().unwrap_or_default();
        let change = |event: &nix::sys::inotify::InotifyEvent| {
            if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                return Some(Change::Everything);
            }
            let (name, _) = watched.iter().find(|(_, watch)| **watch == event.wd)?;
            Some(Change::Device(name.clone()))
        };
        events.iter().filter_map(change).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn only_events_of_block_devices_count() {
        let cases: [(&[u8], Option<&str>); 5] = [
            (
                b"change@/devices/virtual/block/loop3\0ACTION=change\0SUBSYSTEM=block\0MAJOR=7\0MINOR=3\0DEVNAME=loop3\0DEVTYPE=disk\0",
                Some("loop3"),
            ),
            (
                b"add@/devices/x/block/cciss!c0d0\0SUBSYSTEM=block\0DEVNAME=cciss/c0d0\0",
                Some("cciss/c0d0"),
            ),
            (
                b"add@/devices/pci0000:00/nvme/nvme0\0SUBSYSTEM=nvme\0DEVNAME=nvme0\0",
                None,
            ),
            (b"add@/devices/virtual/bdi/7:3\0SUBSYSTEM=bdi\0", None),
            (b"\xff\xfe\0SUBSYSTEM=block\0DEVNAME=sda\0", None),
        ];
        for (message, name) in cases {
            assert_eq!(block_device(message).as_deref(), name);
        }
    }

    /// Other tests and programs may mount or attach something meanwhile: only changes of these names count.
    async fn next(changes: &mut mpsc::UnboundedReceiver<Change>) -> Change {
        let ours = async {
            loop {
                match changes.recv().await.unwrap() {
                    Change::Device(name) if name.starts_with("test-") => {
                        return Change::Device(name);
                    }
                    Change::Device(_) | Change::Use | Change::Everything => {}
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), ours)
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn what_was_written_to_is_told_when_it_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        for path in [&one, &two] {
            std::fs::write(path, "").unwrap();
        }
        let (sender, mut changes) = mpsc::unbounded_channel();
        let events = Events::start(Path::new("/proc"), sender).unwrap();
        let both = [("test-1", one.as_path()), ("test-2", two.as_path())];
        events.watch_writes(both).unwrap();
        drop(File::open(&one).unwrap());
        std::fs::write(&two, "x").unwrap();
        let told = |name: &str| Change::Device(name.to_owned());
        assert_eq!(next(&mut changes).await, told("test-2"));
        // What is watched no more is silent; a missing one is told, and the rest is watched all the same.
        let gone = dir.path().join("gone");
        let failed = events.watch_writes([("test-0", gone.as_path()), ("test-1", one.as_path())]);
        assert_eq!(failed, Err(("test-0".to_owned(), Errno::ENOENT)));
        std::fs::write(&two, "y").unwrap();
        std::fs::write(&one, "y").unwrap();
        assert_eq!(next(&mut changes).await, told("test-1"));
        // Dropped, the thread ends and with it the channel.
        drop(events);
        while changes.recv().await.is_some() {}
    }
}
