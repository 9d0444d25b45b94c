//! Emptying the trash of a drive: only what a release put there, piece by piece, on the drive's long lane.
//!
//! A piece is small, so a measurement on the same lane waits for little; an interruption anywhere costs nothing, for the
//! next start goes on with what is left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::Reason;
use api::serve::faults;

use super::refusal::Refusal;
use super::seen::names;
use super::service::Volumes;
use crate::host::Host;
use crate::registry::MountedDrive;
use crate::worker::Lane;

/// Entries removed in one piece.
const PIECE_ENTRIES: u64 = 2_000;
/// How long a piece may take, together with what waits before it: a benchmark may run for minutes.
const PIECE_TIMEOUT: Duration = Duration::from_secs(3600);

impl Volumes {
    /// Empties the trash of every mounted drive.
    pub(super) fn empty_all_trash(&self) {
        for drive in self.inner.registry.all() {
            self.empty_trash(&drive.id);
        }
    }

    /// Empties the trash of one drive, unless that is under way.
    pub(super) fn empty_trash(&self, drive: &str) {
        if !self.lock(&self.inner.emptying).insert(drive.to_owned()) {
            return;
        }
        let (volumes, drive) = (self.clone(), drive.to_owned());
        tokio::spawn(async move {
            let outcome = volumes.empty(&drive).await;
            volumes.lock(&volumes.inner.emptying).remove(&drive);
            match outcome {
                Ok(emptied) => emptied.iter().for_each(|name| {
                    // The name in the trash is the volume's, a hyphen and a number.
                    if let Some((volume, _)) = name.rsplit_once('-') {
                        volumes.look_again(volume);
                    }
                }),
                Err(refusal) => {
                    tracing::warn!(drive, reason = %refusal.reason, message = refusal.message, "The trash of a drive could not be emptied; this is tried again");
                }
            }
        });
    }

    async fn empty(&self, drive: &str) -> Result<Vec<String>, Refusal> {
        let mut emptied = Vec::new();
        // What cannot be removed keeps nothing else from going.
        let mut failed = BTreeMap::new();
        loop {
            // Asked anew for each piece: a drive that left in between is not worked on.
            let mounted = self.inner.registry.get(drive)?;
            let (host, worker) = (Arc::clone(&self.inner.host), mounted.worker.clone());
            let skip: BTreeSet<String> = failed.keys().cloned().collect();
            let job = move || remove_piece(host.as_ref(), &mounted, &skip);
            let piece = worker
                .run(Lane::Long, PIECE_TIMEOUT, job)
                .await
                .map_err(|error| Refusal::new(Reason::DriveUnavailable, error.to_string()))?;
            match piece? {
                Piece::Empty => break,
                Piece::Gone(name) => {
                    tracing::info!(drive, name, "Released data are gone");
                    emptied.push(name);
                }
                Piece::Partly => {}
                Piece::Failed(name, refusal) => {
                    failed.insert(name, refusal);
                }
            }
        }
        for (name, refusal) in failed {
            tracing::warn!(drive, name, reason = %refusal.reason, message = refusal.message, "Released data could not be removed; this is tried again");
        }
        Ok(emptied)
    }
}

enum Piece {
    Empty,
    Partly,
    Gone(String),
    Failed(String, Refusal),
}

fn remove_piece(
    host: &dyn Host,
    drive: &MountedDrive,
    skip: &BTreeSet<String>,
) -> Result<Piece, Refusal> {
    let trash = drive.trash_dir();
    let mut waiting = names(host, &trash)?.into_iter();
    let Some(name) = waiting.find(|name| !skip.contains(name)) else {
        return Ok(Piece::Empty);
    };
    faults::before("volume.empty");
    let removed = host.remove_tree(&trash.join(&name), PIECE_ENTRIES);
    faults::after("volume.empty");
    Ok(match removed {
        Ok(true) => Piece::Gone(name),
        Ok(false) => Piece::Partly,
        Err(error) => Piece::Failed(name, error.into()),
    })
}
