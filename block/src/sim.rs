//! A simulated drive: what it holds, how fast it answers, how it fails. Same seed and same operations, same history.
//!
//! A [`SimDrive`] is the thing itself: it outlives those who open it, loses what was not flushed when the power is cut, and
//! can be made slow, hung, worn or gone while in use. A [`SimDevice`] is one opening of it, behind the same
//! [`Device`] door as a real one. Time is a [`SimClock`] that all drives of a simulation share: it moves only when
//! somebody waits, and then exactly to the next thing that happens.
//!
//! ```text
//!   write ──► completed ──► cache ──flush──► medium          power cut: each cached write is kept, torn or lost
//!                 └─ lost write: acknowledged, never there
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;

use crate::buffer::Buffer;
use crate::device::{Completion, Device, Geometry, Op, OpKind, Options, Wait};
use crate::error::{DeviceError, IoCause, Refused};
use crate::random::Random;
use crate::target::Mode;
use crate::uring::{accept, failed, refused};

/// Writes that a drive keeps before it stores them unasked.
const CACHED_WRITES_MAX: usize = 64;

/// Virtual time, shared by all who hold a clone.
#[derive(Clone, Debug, Default)]
pub struct SimClock(Arc<AtomicU64>);

impl SimClock {
    /// Nanoseconds since the beginning of the simulation.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Moves to `at_ns`, never back.
    pub fn advance_to(&self, at_ns: u64) {
        self.0.fetch_max(at_ns, Ordering::Relaxed);
    }
}

/// How fast a drive answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimModel {
    /// A read's time without its transfer.
    pub read_ns: u64,
    /// A write's time without its transfer.
    pub write_ns: u64,
    /// A flush's time.
    pub flush_ns: u64,
    /// Time of 4096 bytes through one channel.
    pub page_ns: u64,
    /// Operations served at once; more of them queue.
    pub channels: u32,
    /// Each time is stretched by 0 to so many percent.
    pub spread_percent: u32,
    /// So many of a million operations take [`SimModel::tail_factor`] times as long.
    pub tail_per_million: u32,
    /// See there.
    pub tail_factor: u64,
}

impl SimModel {
    /// About an NVMe drive of a data centre.
    pub const NVME: Self = Self {
        read_ns: 75_000,
        write_ns: 15_000,
        flush_ns: 20_000,
        page_ns: 1_300,
        channels: 64,
        spread_percent: 20,
        tail_per_million: 500,
        tail_factor: 10,
    };
    /// About a SATA SSD.
    pub const SSD: Self = Self {
        read_ns: 120_000,
        write_ns: 60_000,
        flush_ns: 400_000,
        page_ns: 8_000,
        channels: 8,
        spread_percent: 30,
        tail_per_million: 1_000,
        tail_factor: 20,
    };
    /// About a disk that turns.
    pub const DISK: Self = Self {
        read_ns: 8_000_000,
        write_ns: 8_000_000,
        flush_ns: 12_000_000,
        page_ns: 20_000,
        channels: 1,
        spread_percent: 80,
        tail_per_million: 2_000,
        tail_factor: 5,
    };

    /// Time that an operation occupies its channel.
    fn service_ns(&self, kind: OpKind, len: usize, random: &mut Random) -> u64 {
        let base = match kind {
            OpKind::Nop => 0,
            OpKind::Read => self.read_ns,
            OpKind::Write => self.write_ns,
            OpKind::Flush => self.flush_ns,
        };
        let plain = base + self.page_ns * (len as u64).div_ceil(4096);
        let spread = random.below(plain * u64::from(self.spread_percent) / 100 + 1);
        let factor = if random.chance(self.tail_per_million) {
            self.tail_factor
        } else {
            1
        };
        (plain + spread) * factor
    }
}

/// What is wrong with a drive, changeable at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimFaults {
    /// Every operation takes so many percent of its time; 100 is healthy.
    pub slow_percent: u32,
    /// Reading these bytes (any of their sectors) is a medium error, until they are written again.
    pub bad_sectors: BTreeSet<u64>,
    /// Operations begun now never end.
    pub hung: bool,
    /// Every operation fails: the drive was pulled.
    pub gone: bool,
    /// So many of a million writes are acknowledged and never there.
    pub lost_writes_per_million: u32,
}

impl Default for SimFaults {
    fn default() -> Self {
        Self {
            slow_percent: 100,
            bad_sectors: BTreeSet::new(),
            hung: false,
            gone: false,
            lost_writes_per_million: 0,
        }
    }
}

/// A drive of the simulation. Clones are the same drive.
#[derive(Clone, Debug)]
pub struct SimDrive {
    name: Arc<str>,
    geometry: Geometry,
    model: SimModel,
    clock: SimClock,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    /// Content by sector number; what is not here is zero.
    medium: BTreeMap<u64, Box<[u8]>>,
    /// Completed writes that were not flushed, oldest first.
    cache: Vec<(u64, Box<[u8]>)>,
    faults: SimFaults,
    random: Random,
    /// Rises when the power is cut: those who had the drive open have it no more.
    power: u64,
    /// When each channel is free.
    channels: Vec<u64>,
}

impl SimDrive {
    /// A blank drive.
    ///
    /// # Panics
    /// When the model has no channel.
    #[must_use]
    pub fn new(
        name: &str,
        geometry: Geometry,
        model: SimModel,
        clock: SimClock,
        seed: u64,
    ) -> Self {
        assert!(model.channels > 0, "a drive without channels never answers");
        let state = State {
            medium: BTreeMap::new(),
            cache: Vec::new(),
            faults: SimFaults::default(),
            random: Random::new(seed),
            power: 0,
            channels: vec![0; model.channels as usize],
        };
        Self {
            name: name.into(),
            geometry,
            model,
            clock,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Opens it.
    #[must_use]
    pub fn open<M: Mode>(&self, options: Options) -> SimDevice<M> {
        let power = self.lock().power;
        SimDevice {
            depth: options.depth as usize,
            drive: self.clone(),
            power,
            submitted: 0,
            pending: BTreeMap::new(),
            mode: PhantomData,
        }
    }

    /// Size and sector.
    #[must_use]
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Changes what is wrong with it, from now on.
    pub fn inject(&self, change: impl FnOnce(&mut SimFaults)) {
        change(&mut self.lock().faults);
    }

    /// Cuts the power, and gives it back: what is in flight is gone, and each write since the last flush is kept, torn after
    /// some sector, or lost, as the seed decides. All openings end.
    pub fn cut_power(&self) {
        let sector = self.sector();
        let mut state = self.lock();
        state.power += 1;
        for (offset, bytes) in std::mem::take(&mut state.cache) {
            let sectors = (bytes.len() / sector) as u64;
            let kept = match state.random.below(3) {
                0 => 0,
                1 => state.random.below(sectors + 1),
                _ => sectors,
            };
            let kept = usize::try_from(kept).unwrap_or(0) * sector;
            if let Some(bytes) = bytes.get(..kept) {
                state.store(offset, bytes, sector);
            }
        }
        state.channels.fill(0);
    }

    /// What is there now, unflushed writes included, as another program on the host would read it.
    #[must_use]
    pub fn peek(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.lock().load(offset, &mut bytes, self.sector());
        bytes
    }

    /// Writes and flushes at once, as another program on the host would (`offset` and length in whole sectors).
    pub fn poke(&self, offset: u64, bytes: &[u8]) {
        let sector = self.sector();
        let mut state = self.lock();
        state.flush(sector);
        state.store(offset, bytes, sector);
    }

    fn sector(&self) -> usize {
        self.geometry.sector_bytes as usize
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// When an operation that begins now ends.
    fn schedule(&mut self, model: &SimModel, now_ns: u64, kind: OpKind, len: usize) -> u64 {
        let service = model.service_ns(kind, len, &mut self.random);
        let service = service * u64::from(self.faults.slow_percent) / 100;
        match self.channels.iter_mut().min() {
            Some(free_ns) => {
                *free_ns = now_ns.max(*free_ns) + service;
                *free_ns
            }
            None => now_ns + service,
        }
    }

    /// Carries out an operation whose time has come.
    fn perform(&mut self, op: &mut Op, sector: usize) -> Result<(), IoCause> {
        if self.faults.gone {
            return Err(IoCause::Kernel(Errno::ENODEV));
        }
        match op {
            Op::Nop => {}
            Op::Flush => self.flush(sector),
            Op::Read { offset, buffer } => {
                let first = *offset / sector as u64;
                let end = first + (buffer.len() / sector) as u64;
                if self.faults.bad_sectors.range(first..end).next().is_some() {
                    return Err(IoCause::Kernel(Errno::ENODATA));
                }
                self.load(*offset, buffer, sector);
            }
            Op::Write { offset, buffer } => {
                let first = *offset / sector as u64;
                let end = first + (buffer.len() / sector) as u64;
                self.faults
                    .bad_sectors
                    .retain(|bad| !(first..end).contains(bad));
                if !self.random.chance(self.faults.lost_writes_per_million) {
                    if self.cache.len() >= CACHED_WRITES_MAX {
                        self.flush(sector);
                    }
                    self.cache.push((*offset, Box::from(&**buffer)));
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self, sector: usize) {
        for (offset, bytes) in std::mem::take(&mut self.cache) {
            self.store(offset, &bytes, sector);
        }
    }

    fn store(&mut self, offset: u64, bytes: &[u8], sector: usize) {
        let first = offset / sector as u64;
        for (number, content) in (first..).zip(bytes.chunks_exact(sector)) {
            if content.iter().all(|byte| *byte == 0) {
                self.medium.remove(&number);
            } else {
                self.medium.insert(number, content.into());
            }
        }
    }

    fn load(&self, offset: u64, into: &mut [u8], sector: usize) {
        into.fill(0);
        let end = offset + into.len() as u64;
        let sectors = offset / sector as u64..end.div_ceil(sector as u64);
        for (number, content) in self.medium.range(sectors) {
            overlay(offset, into, number * sector as u64, content);
        }
        for (at, content) in &self.cache {
            overlay(offset, into, *at, content);
        }
    }
}

/// Copies what of `content` (which lies at `at`) falls into `into` (which lies at `offset`).
fn overlay(offset: u64, into: &mut [u8], at: u64, content: &[u8]) {
    let skip = usize::try_from(offset.saturating_sub(at)).unwrap_or(usize::MAX);
    let start = usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX);
    if let (Some(from), Some(to)) = (content.get(skip..), into.get_mut(start..)) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = *from;
        }
    }
}

/// One opening of a simulated drive.
#[derive(Debug)]
pub struct SimDevice<M> {
    drive: SimDrive,
    power: u64,
    depth: usize,
    submitted: u64,
    /// By the time of their end, then by the order of their submission. A hung one ends at [`NEVER`].
    pending: BTreeMap<(u64, u64), (u64, Op)>,
    mode: PhantomData<fn() -> M>,
}

/// The end of time.
const NEVER: u64 = u64::MAX;

impl<M: Mode> Device for SimDevice<M> {
    fn name(&self) -> &str {
        &self.drive.name
    }

    fn engine(&self) -> &'static str {
        "sim"
    }

    fn description(&self) -> String {
        format!("simulated, {} channels", self.drive.model.channels)
    }

    fn geometry(&self) -> Geometry {
        self.drive.geometry
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn in_flight(&self) -> usize {
        self.pending.len()
    }

    fn now_ns(&self) -> u64 {
        self.drive.clock.now_ns()
    }

    fn sleep_until(&self, at_ns: u64) {
        self.drive.clock.advance_to(at_ns);
    }

    fn buffer(&mut self, len: usize) -> Buffer {
        Buffer::zeroed(len)
    }

    fn submit(&mut self, token: u64, op: Op) -> Result<(), Refused> {
        let accepted = if self.pending.len() >= self.depth {
            Err(IoCause::Full { depth: self.depth })
        } else {
            accept::<M>(&self.drive.geometry, &op)
        };
        if let Err(cause) = accepted {
            return Err(refused(&self.drive.name, op, cause));
        }
        let now_ns = self.drive.clock.now_ns();
        let mut state = self.drive.lock();
        let end_ns = if state.faults.hung {
            NEVER
        } else {
            state.schedule(&self.drive.model, now_ns, op.kind(), op.len())
        };
        drop(state);
        self.submitted += 1;
        self.pending.insert((end_ns, self.submitted), (token, op));
        Ok(())
    }

    fn complete(&mut self, wait: Wait, done: &mut Vec<Completion>) -> Result<(), DeviceError> {
        let Some((&(next_ns, _), (_, op))) = self.pending.first_key_value() else {
            return Ok(());
        };
        match wait {
            Wait::No => {}
            Wait::Until(at_ns) => self.drive.clock.advance_to(next_ns.min(at_ns)),
            Wait::Forever if next_ns == NEVER => {
                return Err(DeviceError::Unanswered {
                    device: Arc::clone(&self.drive.name),
                    kind: op.kind(),
                });
            }
            Wait::Forever => self.drive.clock.advance_to(next_ns),
        }
        let now_ns = self.drive.clock.now_ns();
        while let Some(entry) = self
            .pending
            .first_entry()
            .filter(|next| next.key().0 <= now_ns)
        {
            let (token, mut op) = entry.remove();
            let mut state = self.drive.lock();
            let performed = if state.power == self.power {
                state.perform(&mut op, self.drive.sector())
            } else {
                Err(IoCause::Kernel(Errno::ENODEV))
            };
            drop(state);
            done.push(Completion {
                token,
                result: performed.map_err(|cause| failed(&self.drive.name, &op, cause)),
                op,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
