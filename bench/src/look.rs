//! `ringpv-bench probe`: what devices hold, all at once, each told of as soon as it is known.

use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use block::Backend;
use block::probe::{Contents, ProbeError, Prober, Target};
use nix::sys::stat::{major, minor};
use serde_json::json;
use tokio::task::JoinSet;

use crate::args::Probe;

/// Reads the devices and tells of each.
pub(crate) fn probe(args: &Probe) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    runtime.block_on(all(args))
}

#[expect(clippy::disallowed_methods, reason = "the clock at the rim")]
async fn all(args: &Probe) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let choice = args.engine.into();
    let backend = block::probe_backend(choice)?;
    let prober = Prober::start(backend.ring_flags().is_some())?;
    let why_threads = match backend {
        Backend::Threads { why } => Some(why.to_string()),
        Backend::Uring { .. } => prober.why_threads(),
    };
    crate::tell_of_threads(choice, why_threads.as_deref())?;
    let mut probes = JoinSet::new();
    for path in &args.devices {
        let (prober, path, deadline) = (prober.clone(), path.clone(), args.deadline);
        probes.spawn(async move {
            let found = match size_of(&path) {
                Ok(size_bytes) => {
                    let path = path.clone();
                    prober.probe(Target { path, size_bytes }, deadline).await
                }
                Err(source) => Err(ProbeError::Open {
                    path: path.clone(),
                    source,
                }),
            };
            (path, found)
        });
    }
    let mut failed = false;
    let mut out = std::io::stdout().lock();
    while let Some(probed) = probes.join_next().await {
        let (path, found) = probed?;
        let device = path.display().to_string();
        failed |= found.is_err();
        let line = if args.json {
            as_json(&device, &found, start.elapsed())
        } else {
            as_text(&device, &found)
        };
        if writeln!(out, "{line}").is_err() {
            break;
        }
    }
    if why_threads.is_none() {
        // It may have ended meanwhile.
        crate::tell_of_threads(choice, prober.why_threads().as_deref())?;
    }
    Ok(if failed {
        ExitCode::from(crate::FAILED)
    } else {
        ExitCode::SUCCESS
    })
}

/// Bytes of a file or device, without opening it: that may take as long as the device does.
fn size_of(path: &Path) -> std::io::Result<u64> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.file_type().is_block_device() {
        return Ok(metadata.len());
    }
    let (major, minor) = (major(metadata.rdev()), minor(metadata.rdev()));
    let sectors = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/size"))?;
    sectors
        .trim()
        .parse::<u64>()
        .map(|sectors| sectors * SYSFS_SECTOR_BYTES)
        .map_err(std::io::Error::other)
}

/// Bytes of a sector as sysfs counts them, whatever the device's own are.
const SYSFS_SECTOR_BYTES: u64 = 512;

fn as_text(device: &str, found: &Result<Contents, ProbeError>) -> String {
    match found {
        Ok(contents) if contents.found.is_empty() => format!("{device}: blank"),
        Ok(contents) => {
            let all: Vec<String> = contents
                .found
                .iter()
                .map(|one| {
                    format!("{} {}", one.kind.as_str(), one.detail())
                        .trim_end()
                        .to_owned()
                })
                .collect();
            format!("{device}: {}", all.join(", "))
        }
        Err(error) => format!("{device}: {}", sentence(error)),
    }
}

fn as_json(device: &str, found: &Result<Contents, ProbeError>, after: Duration) -> String {
    let after_ms = after.as_secs_f64() * 1000.0;
    let told = match found {
        Ok(contents) => {
            let found: Vec<_> = contents
                .found
                .iter()
                .map(|one| {
                    json!({
                        "kind": one.kind.as_str(),
                        "offset": one.offset,
                        "uuid": one.uuid,
                        "label": one.label,
                        "damaged": one.damaged,
                    })
                })
                .collect();
            json!({ "device": device, "afterMs": after_ms, "found": found })
        }
        Err(error) => json!({ "device": device, "afterMs": after_ms, "error": sentence(error) }),
    };
    told.to_string()
}

fn sentence(error: &ProbeError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
