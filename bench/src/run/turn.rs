//! A run under way: the loop's state, and each of its turns.

use std::time::Duration;

use block::random::Random;
use block::{Buffer, Device, Ended, Op, OpKind, Wait};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

use super::count::{Alike, Count};
use super::{ERRORS_MAX, End, Limits, Progress, RunError};
use crate::report::{Cpu, Depths, Report, Sample};
use crate::verify::Written;
use crate::workload::{Pattern, Step, Steps, Workload};

/// Time between two calls of the progress callback.
const PROGRESS_EVERY_NS: u64 = 250_000_000;
/// Time that one sample covers.
const SAMPLE_NS: u64 = 1_000_000_000;

/// A run under way.
pub(super) struct Running<'a, D> {
    device: &'a mut D,
    workload: &'a Workload,
    limits: &'a Limits,
    steps: Steps,
    /// What was written, where it will be verified.
    written: Option<Written>,
    /// Tokens and buffers not in flight.
    idle: Vec<(u64, Option<Buffer>)>,
    /// When the operation of each token was submitted.
    stamps: Vec<u64>,
    batch_max: u64,
    operations_max: u64,
    /// Time from one operation to the next under a rate limit.
    pace_ns: u64,
    due_ns: u64,
    /// Measuring begins.
    start_ns: u64,
    end_ns: u64,
    /// Now, as of the last reading of the clock.
    now_ns: u64,
    /// The last sign of life.
    answered_ns: u64,
    warming_up: bool,
    issued: u64,
    count: Count,
    cpu: Cpu,
    window: Window,
    samples: Vec<Sample>,
    depths: Depths,
}

/// When the last tick and the last sample were, and how much was done by the former.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    tick_ns: u64,
    tick_operations: u64,
    sample_ns: u64,
    /// Reads until the last sample.
    reads_before: u64,
}

impl<'a, D: Device> Running<'a, D> {
    pub(super) fn new(
        device: &'a mut D,
        workload: &'a Workload,
        limits: &'a Limits,
    ) -> Result<Self, RunError> {
        let steps = workload
            .steps(device.geometry())
            .map_err(|error| RunError::Workload {
                device: device.name().to_owned(),
                error,
            })?;
        let operations_max = limits.operations_max(workload.block_bytes);
        if operations_max == u64::MAX && limits.duration.is_none() {
            return Err(RunError::Endless);
        }
        let depth = usize::try_from(workload.depth)
            .ok()
            .filter(|depth| (1..=device.depth()).contains(depth))
            .ok_or_else(|| RunError::Depth {
                depth: workload.depth,
                max: device.depth(),
            })?;
        let written = match workload.verify {
            Some(run) => Some(Written::new(run, steps.blocks(), depth).map_err(|error| {
                RunError::Workload {
                    device: device.name().to_owned(),
                    error,
                }
            })?),
            None => None,
        };
        let idle = buffers(device, workload, depth);
        let now_ns = device.now_ns();
        let start_ns = now_ns.saturating_add(nanos(limits.warm_up));
        Ok(Self {
            device,
            steps,
            written,
            idle,
            stamps: vec![0; depth],
            batch_max: batch_max(workload, depth),
            operations_max,
            pace_ns: limits.rate_iops.map_or(0, |rate| SAMPLE_NS / rate.max(1)),
            due_ns: now_ns,
            start_ns,
            end_ns: limits.duration.map_or(u64::MAX, |duration| {
                start_ns.saturating_add(nanos(duration))
            }),
            now_ns,
            answered_ns: now_ns,
            warming_up: true,
            issued: 0,
            count: Count::new(bytes_each(workload)),
            cpu: Cpu::default(),
            window: Window {
                tick_ns: now_ns,
                ..Window::default()
            },
            samples: Vec::new(),
            depths: Depths::default(),
            workload,
            limits,
        })
    }

    /// Why it is over, if it is. Begins to measure when it is time to.
    pub(super) fn end(&mut self) -> Option<End> {
        if self.warming_up && self.now_ns >= self.start_ns {
            self.begin();
        }
        if self.warming_up {
            return self.silent();
        }
        if self.count.errors() >= ERRORS_MAX {
            return Some(End::Errors);
        }
        if self.issued >= self.operations_max || self.now_ns >= self.end_ns {
            return Some(End::Limit);
        }
        self.silent()
    }

    fn silent(&self) -> Option<End> {
        let silent_ns = self.now_ns.saturating_sub(self.answered_ns);
        (self.device.in_flight() > 0 && silent_ns >= nanos(self.limits.answer_within))
            .then_some(End::Unanswered)
    }

    fn begin(&mut self) {
        self.warming_up = false;
        // The warm-up ends with the completion that told the time.
        let late_ns = self.now_ns - self.start_ns;
        self.end_ns = self.end_ns.saturating_add(late_ns);
        self.start_ns = self.now_ns;
        self.count.since_ns = self.now_ns;
        self.cpu = used_cpu();
        self.window = Window {
            tick_ns: self.now_ns,
            sample_ns: self.now_ns,
            ..Window::default()
        };
    }

    /// Submits up to a batch.
    pub(super) fn fill(&mut self) -> Result<(), RunError> {
        let stamp = self.device.now_ns();
        let before = self.device.in_flight();
        if before == 0 {
            self.answered_ns = stamp;
        }
        let batch = self.batch(stamp);
        for _ in 0..batch {
            let Some((token, mut buffer)) = self.idle.pop() else {
                break;
            };
            let step = self.step();
            if let (Some(written), OpKind::Write, Some(buffer)) =
                (&mut self.written, step.kind, &mut buffer)
            {
                written.begin(token, &step, buffer);
            }
            let offset = step.offset;
            let op = match (step.kind, buffer) {
                (OpKind::Write, Some(buffer)) => Op::Write { offset, buffer },
                (OpKind::Read, Some(buffer)) => Op::Read { offset, buffer },
                (OpKind::Nop | OpKind::Flush | OpKind::Read | OpKind::Write, _) => Op::Nop,
            };
            if let Some(place) = stamp_of(&mut self.stamps, token) {
                *place = stamp;
            }
            self.device.submit(token, op).map_err(RunError::Refused)?;
        }
        self.due_ns = self.due_ns.saturating_add(self.pace_ns * batch);
        if !self.warming_up {
            self.issued += batch;
        }
        let after = self.device.in_flight();
        if !self.warming_up && after > before {
            self.depths.count((after - before) as u64, after);
        }
        Ok(())
    }

    /// The next step; where writes are verified, the next that writes no block twice at a time.
    #[inline]
    fn step(&mut self) -> Step {
        let mut step = self.steps.step();
        if let Some(written) = &self.written {
            while step.kind == OpKind::Write && written.is_busy(step.block) {
                step = self.steps.step();
            }
        }
        step
    }

    /// How many may be submitted now.
    fn batch(&self, now_ns: u64) -> u64 {
        let due = match now_ns.checked_sub(self.due_ns) {
            None => 0,
            Some(late_ns) => late_ns
                .checked_div(self.pace_ns)
                .map_or(u64::MAX, |periods| periods + 1),
        };
        let left = if self.warming_up {
            u64::MAX
        } else {
            self.operations_max.saturating_sub(self.issued)
        };
        let idle = self.idle.len() as u64;
        due.min(left).min(idle).min(self.batch_max)
    }

    /// Waits for one completion, not longer than to the next thing to do, and takes all there are.
    pub(super) fn reap(&mut self) -> Result<(), RunError> {
        let mut until_ns = self.next_event_ns();
        if !self.idle.is_empty() && self.issued < self.operations_max {
            if self.pace_ns == 0 {
                until_ns = 0;
            } else {
                until_ns = until_ns.min(self.due_ns);
            }
        }
        if self.device.in_flight() == 0 {
            self.device.sleep_until(until_ns);
        }
        let wait = if until_ns == 0 {
            Wait::No
        } else {
            Wait::Until(until_ns)
        };
        self.take(wait)
    }

    /// When something other than a completion must be seen to.
    fn next_event_ns(&self) -> u64 {
        let begin_or_end_ns = if self.warming_up {
            self.start_ns
        } else {
            self.end_ns
        };
        begin_or_end_ns.min(self.window.tick_ns.saturating_add(PROGRESS_EVERY_NS))
    }

    fn take(&mut self, wait: Wait) -> Result<(), RunError> {
        let mut alike = Alike::default();
        let Self {
            device,
            stamps,
            idle,
            count,
            written,
            ..
        } = self;
        let mut answered = false;
        let now_ns = device.complete_each(wait, |ended| {
            let Ended {
                now_ns,
                token,
                kind,
                buffer,
                result,
            } = ended;
            answered = true;
            let stamp_ns = stamp_of(stamps, token).map_or(now_ns, |stamp| *stamp);
            let wrote = kind == OpKind::Write;
            if let (Some(written), true) = (written.as_mut(), wrote) {
                written.end(token, result.is_ok());
            }
            if let Err(error) = result {
                // An error counts whenever it comes.
                let side = count.side(wrote);
                side.errors += 1;
                side.first_error.get_or_insert(*error);
            } else if alike.count > 0 && alike.stamp_ns == stamp_ns && alike.wrote == wrote {
                alike.count += 1;
            } else {
                let next = Alike {
                    now_ns,
                    stamp_ns,
                    wrote,
                    count: 1,
                };
                count.settle(std::mem::replace(&mut alike, next));
            }
            idle.push((token, buffer));
        });
        self.now_ns = now_ns.map_err(RunError::Device)?;
        self.count.settle(alike);
        if answered {
            self.answered_ns = self.now_ns;
        }
        Ok(())
    }

    /// Takes samples and tells how far it is, when it is time to.
    pub(super) fn tick(&mut self, progress: &mut dyn FnMut(&Progress)) {
        let since_ns = self.now_ns.saturating_sub(self.window.tick_ns);
        if since_ns < PROGRESS_EVERY_NS {
            return;
        }
        let operations = self.count.operations();
        let iops = per_second(operations - self.window.tick_operations, since_ns);
        let elapsed_ns = if self.warming_up {
            0
        } else {
            self.now_ns - self.start_ns
        };
        progress(&Progress {
            warming_up: self.warming_up,
            elapsed: Duration::from_nanos(elapsed_ns),
            share: self.share(elapsed_ns),
            operations,
            iops,
            bytes_per_second: iops * self.count.bytes_each as f64,
            p99_ns: self
                .count
                .read
                .latency
                .percentile_ns(99.0)
                .max(self.count.write.latency.percentile_ns(99.0)),
        });
        self.window.tick_ns = self.now_ns;
        self.window.tick_operations = operations;
        if !self.warming_up {
            self.sample();
        }
    }

    fn share(&self, elapsed_ns: u64) -> f64 {
        let of_time = match self.limits.duration {
            Some(duration) => elapsed_ns as f64 / (nanos(duration) as f64).max(1.0),
            None => 0.0,
        };
        let of_operations = self.issued as f64 / self.operations_max as f64;
        of_time.max(of_operations).clamp(0.0, 1.0)
    }

    fn sample(&mut self) {
        let span_ns = self.now_ns.saturating_sub(self.window.sample_ns);
        if span_ns < SAMPLE_NS {
            return;
        }
        let operations = std::mem::take(&mut self.count.sample_operations);
        let latency_ns = std::mem::take(&mut self.count.sample_latency_ns);
        let iops = per_second(operations, span_ns);
        let reads = self.count.read.operations - self.window.reads_before;
        self.samples.push(Sample {
            iops,
            read_iops: per_second(reads, span_ns),
            bytes_per_second: iops * self.count.bytes_each as f64,
            latency_ns: latency_ns.checked_div(operations).unwrap_or(0) as f64,
        });
        self.window.sample_ns = self.now_ns;
        self.window.reads_before = self.count.read.operations;
        if let Some(steady) = self.limits.steady_state
            && steady.is_attained(&Sample::series(&self.samples, steady.measure))
        {
            self.end_ns = 0;
        }
    }

    /// Waits for what is in flight.
    pub(super) fn drain(&mut self, end: End) -> Result<End, RunError> {
        let steady = end == End::Limit && self.end_ns == 0;
        let mut end = if steady { End::Steady } else { end };
        while self.device.in_flight() > 0 && end != End::Unanswered {
            let patience_ns = self
                .answered_ns
                .saturating_add(nanos(self.limits.answer_within));
            self.take(Wait::Until(patience_ns))?;
            if let Some(unanswered) = self.silent() {
                end = unanswered;
            }
        }
        Ok(end)
    }

    /// What was written, with the steps that tell where, if it is to be verified.
    pub(super) fn written(&mut self) -> Option<(Steps, Written)> {
        let written = self.written.take()?;
        Some((self.steps.clone(), written))
    }

    pub(super) fn report(self, end: End) -> Report {
        let used = used_cpu();
        let elapsed_ns = if self.warming_up {
            0
        } else {
            self.now_ns - self.start_ns
        };
        Report {
            device: self.device.name().to_owned(),
            engine: self.device.engine(),
            description: self.device.description(),
            workload: self.workload.clone(),
            end,
            elapsed: Duration::from_nanos(elapsed_ns),
            read: self.count.read,
            write: self.count.write,
            unanswered: self.device.in_flight() as u64,
            cpu: Cpu {
                user: used.user.saturating_sub(self.cpu.user),
                system: used.system.saturating_sub(self.cpu.system),
            },
            samples: self.samples,
            depths: self.depths,
            steady_state: self.limits.steady_state,
            verified: None,
        }
    }
}

/// A token, and where operations move bytes a buffer, for each operation in flight; with random contents where they will be written.
fn buffers<D: Device>(
    device: &mut D,
    workload: &Workload,
    depth: usize,
) -> Vec<(u64, Option<Buffer>)> {
    let mut random = Random::new(workload.seed).fork();
    (0..depth as u64)
        .map(|token| {
            if workload.pattern == Pattern::Nop {
                return (token, None);
            }
            let mut buffer = device.buffer(workload.block_bytes as usize);
            if workload.pattern.writes() {
                random.fill(&mut buffer);
            }
            (token, Some(buffer))
        })
        .collect()
}

fn bytes_each(workload: &Workload) -> u64 {
    if workload.pattern == Pattern::Nop {
        return 0;
    }
    u64::from(workload.block_bytes)
}

/// Operations handed over at once. Half of the depth, so that the device has the other half to do meanwhile; all of it where there
/// is no device.
fn batch_max(workload: &Workload, depth: usize) -> u64 {
    let depth = depth as u64;
    if workload.pattern == Pattern::Nop {
        return depth;
    }
    (depth / 2).max(1)
}

fn stamp_of(stamps: &mut [u64], token: u64) -> Option<&mut u64> {
    stamps.get_mut(usize::try_from(token).ok()?)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn per_second(count: u64, span_ns: u64) -> f64 {
    count as f64 * 1e9 / (span_ns as f64).max(1.0)
}

/// CPU time of this process until now; nothing where the kernel does not say.
fn used_cpu() -> Cpu {
    let micros = |time: nix::sys::time::TimeVal| {
        Duration::from_micros(u64::try_from(time.num_microseconds()).unwrap_or(0))
    };
    getrusage(UsageWho::RUSAGE_SELF)
        .map(|usage| Cpu {
            user: micros(usage.user_time()),
            system: micros(usage.system_time()),
        })
        .unwrap_or_default()
}
