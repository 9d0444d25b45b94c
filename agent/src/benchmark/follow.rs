//! Follows the Benchmarks of this node, runs them, and writes what they found.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api::benchmark::{BenchmarkPhase, Pattern, WorkloadResult};
use api::{Benchmark, BenchmarkStatus, Drive, Reason};
use bench::{End, Report};
use futures::TryStreamExt as _;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams};
use kube::runtime::watcher;
use serde_json::json;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::host::{Host, HostError, Run};
use crate::objects::{self, Version, WriteError};
use crate::own;
use crate::reconcile::Context;
use crate::records::{probe_parts, scratch};
use crate::registry::MountedDrive;
use crate::standing::merge_patch;
use crate::worker::Lane;

use super::{Failure, Task, is_wanted, ratio_to_past, ratio_to_peers, read_p99_ns, surplus, tasks};

/// Between two writes of how far a benchmark is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// How often a drive that is measured by somebody else is asked for again.
const BUSY_WAIT: Duration = Duration::from_millis(500);

/// Runs this node's benchmarks until `stop`. `drives` are the ids of its Drives, once they are known.
pub async fn run(
    ctx: Context,
    drives: watch::Receiver<Option<BTreeSet<String>>>,
    stop: CancellationToken,
) {
    let api: Api<Benchmark> = Api::all(ctx.client.clone());
    let mut events = own::watch(api.clone(), &ctx.site.node);
    let mut runs = Runs {
        ctx,
        api,
        all: BTreeMap::new(),
        running: BTreeMap::new(),
        ended: BTreeSet::new(),
        turns: BTreeMap::new(),
        tasks: JoinSet::new(),
        listed: BTreeSet::new(),
    };
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = runs.tasks.join_next() => {
                if let Ok(benchmark) = ended {
                    runs.running.remove(&benchmark.name_any());
                    runs.ended.extend(benchmark.uid());
                }
            }
            event = events.try_next() => match event {
                Ok(Some(event)) => runs.take(event),
                Ok(None) => break,
                Err(error) => tracing::warn!(%error, reason = %Reason::ApiUnavailable, "Benchmarks cannot be watched; tried again"),
            },
        }
        let known = drives.borrow().clone();
        if let Some(known) = known {
            runs.start();
            runs.tidy(&known).await;
        }
    }
    runs.running
        .values()
        .for_each(|cancel| cancel.store(true, Ordering::Relaxed));
    runs.tasks.shutdown().await;
}

struct Runs {
    ctx: Context,
    api: Api<Benchmark>,
    all: BTreeMap<String, Benchmark>,
    /// What is under way, and how it is ended.
    running: BTreeMap<String, Arc<AtomicBool>>,
    /// What was run by this process, by uid: its last status may not have come back by the watch yet.
    ended: BTreeSet<String>,
    /// One benchmark at a time on one drive.
    turns: BTreeMap<String, Arc<Mutex<()>>>,
    tasks: JoinSet<Benchmark>,
    listed: BTreeSet<String>,
}

impl Runs {
    fn take(&mut self, event: watcher::Event<Benchmark>) {
        match event {
            watcher::Event::Init => self.listed.clear(),
            watcher::Event::InitApply(one) => {
                self.listed.insert(one.name_any());
                self.all.insert(one.name_any(), one);
            }
            watcher::Event::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                self.all.retain(|name, _| listed.contains(name));
            }
            watcher::Event::Apply(one) => {
                self.all.insert(one.name_any(), one);
            }
            watcher::Event::Delete(one) => {
                self.all.remove(&one.name_any());
            }
        }
        for (name, cancel) in &self.running {
            let wanted = self
                .all
                .get(name)
                .is_some_and(|one| one.metadata.deletion_timestamp.is_none());
            if !wanted {
                cancel.store(true, Ordering::Relaxed);
            }
        }
    }

    fn start(&mut self) {
        let there: BTreeSet<String> = self.all.values().filter_map(|one| one.uid()).collect();
        self.ended.retain(|uid| there.contains(uid));
        for (name, one) in &self.all {
            let ended = one.uid().is_some_and(|uid| self.ended.contains(&uid));
            if ended || self.running.contains_key(name) || !is_wanted(one) {
                continue;
            }
            let turn = self.turns.entry(one.spec.drive.clone()).or_default();
            let cancel = Arc::new(AtomicBool::new(false));
            self.running.insert(name.clone(), Arc::clone(&cancel));
            let measurement = Measurement {
                ctx: self.ctx.clone(),
                api: self.api.clone(),
                name: name.clone(),
                benchmark: one.clone(),
                version: Version::of(one),
                stored: one.status.clone().unwrap_or_default(),
                past: self.all.values().cloned().collect(),
                cancel,
            };
            self.tasks.spawn(measurement.in_turn(Arc::clone(turn)));
        }
    }

    /// Deletes what is no longer kept.
    async fn tidy(&mut self, drives: &BTreeSet<String>) {
        let all: Vec<Benchmark> = self.all.values().cloned().collect();
        for name in surplus(&all, drives) {
            match self.api.delete(&name, &DeleteParams::default()).await {
                Ok(_) => {
                    self.all.remove(&name);
                }
                Err(error) => {
                    tracing::debug!(benchmark = name, %error, "A benchmark that is not kept could not be deleted")
                }
            }
        }
    }
}

/// One benchmark under way.
struct Measurement {
    ctx: Context,
    api: Api<Benchmark>,
    name: String,
    benchmark: Benchmark,
    version: Version,
    stored: BenchmarkStatus,
    past: Vec<Benchmark>,
    cancel: Arc<AtomicBool>,
}

impl Measurement {
    async fn in_turn(mut self, turn: Arc<Mutex<()>>) -> Benchmark {
        let _mine = turn.lock().await;
        self.run().await;
        self.benchmark
    }

    async fn run(&mut self) {
        let begun = BenchmarkStatus {
            phase: BenchmarkPhase::Running,
            reason: Some(Reason::BenchmarkRunning),
            started_at: Some((self.ctx.clock)()),
            ..BenchmarkStatus::default()
        };
        let outcome = match self.fit_drive().await {
            Ok((drive, tasks)) => self.measure(begun.clone(), &drive, &tasks).await,
            Err(failure) => Err(failure),
        };
        if self.cancel.load(Ordering::Relaxed) {
            return;
        }
        let mut status = match outcome {
            Ok(results) => self.done(begun, results).await,
            Err(failure) => BenchmarkStatus {
                phase: BenchmarkPhase::Failed,
                reason: Some(failure.reason),
                message: failure.message,
                percent: self.stored.percent,
                ..begun
            },
        };
        status.ended_at = Some((self.ctx.clock)());
        tracing::info!(benchmark = self.name, drive = self.benchmark.spec.drive, reason = ?status.reason, message = status.message, "A benchmark ended");
        self.write(status).await;
    }

    /// The drive, if it can be measured now, and what is to be run.
    async fn fit_drive(&self) -> Result<(MountedDrive, Vec<Task>), Failure> {
        let refused = |message: String| Failure {
            reason: Reason::BenchmarkRefused,
            message,
        };
        let spec = &self.benchmark.spec;
        let tasks = tasks(spec).map_err(|unfit| refused(unfit.0))?;
        let drive =
            self.ctx.registry.get(&spec.drive).map_err(|error| {
                refused(format!("{error}; kubectl ringpv list drives says why"))
            })?;
        if drive.read_only {
            return Err(refused(format!("drive {} is read-only", spec.drive)));
        }
        while drive.worker.is_busy(Lane::Long) && !self.cancel.load(Ordering::Relaxed) {
            tokio::time::sleep(BUSY_WAIT).await;
        }
        Ok((drive, tasks))
    }

    async fn measure(
        &mut self,
        mut status: BenchmarkStatus,
        drive: &MountedDrive,
        tasks: &[Task],
    ) -> Result<Vec<WorkloadResult>, Failure> {
        let mut results = Vec::with_capacity(tasks.len());
        self.write(status.clone()).await;
        for (number, task) in (0u32..).zip(tasks) {
            let (progress, mut share) = watch::channel(0u32);
            let job = job(
                self.ctx.host.clone(),
                drive,
                task,
                progress,
                self.cancel.clone(),
            );
            let mut run = std::pin::pin!(drive.worker.run(Lane::Long, task.time_max(), job));
            let count = u32::try_from(tasks.len()).unwrap_or(u32::MAX);
            let outcome = loop {
                tokio::select! {
                    outcome = &mut run => break outcome,
                    () = tokio::time::sleep(PROGRESS_INTERVAL) => {
                        status.percent = (number * 100 + *share.borrow_and_update()) / count.max(1);
                        self.write(status.clone()).await;
                    }
                }
            };
            let report = match outcome {
                Ok(Ok(report)) => report,
                Ok(Err(error)) => return Err(failed(error.sentence())),
                Err(error) => return Err(failed(error.to_string())),
            };
            if let Some(failure) = complaint(&report) {
                return Err(failure);
            }
            results.push(task.result(&report, (self.ctx.clock)()));
        }
        Ok(results)
    }

    async fn done(&self, begun: BenchmarkStatus, results: Vec<WorkloadResult>) -> BenchmarkStatus {
        let p99_ns = read_p99_ns(&results);
        let drives = match p99_ns {
            Some(_) => self.drives().await,
            None => Vec::new(),
        };
        let drive = &self.benchmark.spec.drive;
        BenchmarkStatus {
            phase: BenchmarkPhase::Done,
            reason: Some(Reason::BenchmarkDone),
            percent: 100,
            ratio_to_past: p99_ns.and_then(|p99| ratio_to_past(&self.benchmark, p99, &self.past)),
            ratio_to_peers: p99_ns.and_then(|p99| ratio_to_peers(drive, p99, &drives)),
            results,
            ..begun
        }
    }

    /// All Drives of the cluster: peers of a model are on other nodes as well.
    async fn drives(&self) -> Vec<Drive> {
        let api: Api<Drive> = Api::all(self.ctx.client.clone());
        match api.list(&ListParams::default()).await {
            Ok(list) => list.items,
            Err(error) => {
                tracing::warn!(benchmark = self.name, %error, "Drives could not be listed; no ratio to peers");
                Vec::new()
            }
        }
    }

    async fn write(&mut self, status: BenchmarkStatus) {
        let value = |status: &BenchmarkStatus| serde_json::to_value(status).unwrap_or_default();
        let Some(change) = merge_patch(&value(&self.stored), &value(&status)) else {
            return;
        };
        let (version, patch) = (&self.version, json!({ "status": change }));
        match objects::patch_status(&self.api, &self.name, version, &patch).await {
            Ok(written) => {
                self.version = Version::of(&written);
                self.stored = status;
            }
            Err(WriteError::Gone(_) | WriteError::Replaced(_)) => {
                self.cancel.store(true, Ordering::Relaxed)
            }
            Err(error) => {
                let error = anyhow::Error::new(error);
                tracing::warn!(benchmark = self.name, error = format!("{error:#}"), reason = %Reason::ApiUnavailable, "A benchmark's status could not be written");
            }
        }
    }
}

/// One workload, for the drive's thread.
fn job(
    host: Arc<dyn Host>,
    drive: &MountedDrive,
    task: &Task,
    progress: watch::Sender<u32>,
    cancel: Arc<AtomicBool>,
) -> impl FnOnce() -> Result<Report, HostError> + Send + 'static {
    let (root, device, task) = (drive.root.clone(), drive.device.clone(), task.clone());
    move || {
        let (mut workload, limits) = (task.to_bench(), task.limits());
        let mut tell = |progress_now: &bench::Progress| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a share from 0 to 1"
            )]
            let percent = (progress_now.share * 100.0) as u32;
            progress.send_replace(percent.min(100));
        };
        if task.workload.pattern.writes() {
            let run = Run {
                workload: &workload,
                limits: &limits,
                progress: &mut tell,
                cancel: &cancel,
            };
            return host.measure_file(&scratch(&root), run);
        }
        // Sequential reads need longer runs than the parts of a small drive's probe file have.
        let files = if task.workload.pattern == Pattern::RandRead {
            probe_parts(&root)
        } else {
            vec![scratch(&root)]
        };
        for file in files {
            workload.extents.extend(host.extents(&file)?);
        }
        let run = Run {
            workload: &workload,
            limits: &limits,
            progress: &mut tell,
            cancel: &cancel,
        };
        host.measure(&device, run)
    }
}

fn failed(message: String) -> Failure {
    Failure {
        reason: Reason::BenchmarkFailed,
        message,
    }
}

/// What a report shows that makes its figures worthless.
fn complaint(report: &Report) -> Option<Failure> {
    match report.end {
        End::Limit | End::Steady => None,
        End::Cancelled => Some(failed("it was cancelled".to_owned())),
        End::Unanswered => Some(failed("the drive did not answer".to_owned())),
        End::Errors => {
            let why = report
                .first_error()
                .map_or_else(String::new, |error| format!(": {error}"));
            Some(failed(format!(
                "{} operations failed{why}",
                report.errors()
            )))
        }
    }
}
