//! `list` (and `get`): drives, volumes, nodes, benchmarks. A kind is its columns, how its rows are fetched, and what
//! may pick among them; printing and watching are the same for all.

pub(crate) mod benchmarks;
pub(crate) mod drives;
pub(crate) mod nodes;
pub(crate) mod volumes;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use clap::{Args, Subcommand};
use futures::StreamExt as _;
use futures::stream::{BoxStream, SelectAll};
use kube::core::ClusterResourceScope;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

use crate::advice::Stop;
use crate::session::Session;
use crate::view::{self, Column, Output, Row};

/// What can be listed.
#[derive(Debug, Subcommand)]
pub(crate) enum ListVerb {
    /// Drives: how fast, how full, how well
    #[command(visible_alias = "drive")]
    Drives(drives::DrivesArgs),
    /// Volumes: where, how large, how full, who uses them
    #[command(visible_alias = "volume")]
    Volumes(volumes::VolumesArgs),
    /// Nodes: what they have and how they read it
    #[command(visible_alias = "node")]
    Nodes(nodes::NodesArgs),
    /// Benchmarks: what was measured
    #[command(visible_alias = "benchmark")]
    Benchmarks(benchmarks::BenchmarksArgs),
}

/// Of every list.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Listing {
    #[command(flatten)]
    pub(crate) output: Output,
    /// Go on and show what changes
    #[arg(short, long)]
    pub(crate) watch: bool,
}

/// Runs `list`.
pub(crate) async fn run(session: &mut Session, verb: &ListVerb) -> Result<(), Stop> {
    match verb {
        ListVerb::Drives(args) => drives::run(session, args).await,
        ListVerb::Volumes(args) => volumes::run(session, args).await,
        ListVerb::Nodes(args) => nodes::run(session, args).await,
        ListVerb::Benchmarks(args) => benchmarks::run(session, args).await,
    }
}

/// A change of something watched; what changed is fetched anew.
pub(crate) type Changes = SelectAll<BoxStream<'static, ()>>;

/// Adds the changes of one kind.
pub(crate) fn changes_of<K>(client: Client, changes: &mut Changes)
where
    K: Resource<DynamicType = (), Scope = ClusterResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + 'static,
{
    let events = watcher(Api::<K>::all(client), watcher::Config::default()).default_backoff();
    changes.push(events.map(|_| ()).boxed());
}

/// Changes that come close together are shown together.
const SETTLE: Duration = Duration::from_millis(300);

/// Prints rows; with `--watch`, again and again as they change, until Ctrl-C.
pub(crate) async fn show<R: Row>(
    session: &mut Session,
    columns: &[Column<R>],
    listing: &Listing,
    mut changes: Changes,
    fetch: impl AsyncFn(&mut Session) -> Result<Vec<R>, Stop>,
) -> Result<(), Stop> {
    let mut rows = fetch(session).await?;
    view::print(&mut session.screen, columns, &mut rows, &listing.output)?;
    if !listing.watch {
        return Ok(());
    }
    let mut output = listing.output.clone();
    output.no_headers = true;
    let mut known = objects(&rows)?;
    loop {
        session.screen.flush()?;
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(()),
            change = changes.next() => if change.is_none() { return Ok(()) },
        }
        tokio::time::sleep(SETTLE).await;
        let now = fetch(session).await?;
        let seen = objects(&now)?;
        for gone in known.keys().filter(|name| !seen.contains_key(*name)) {
            session.screen.note(format!("{gone} is gone"))?;
        }
        let mut changed: Vec<R> = Vec::new();
        for row in now {
            let name = row.name();
            if known.get(&name) != seen.get(&name) {
                changed.push(row);
            }
        }
        view::print(&mut session.screen, columns, &mut changed, &output)?;
        known = seen;
    }
}

/// What a watch compares. A new resource version alone is no news.
fn objects<R: Row>(rows: &[R]) -> Result<BTreeMap<String, serde_json::Value>, Stop> {
    let mut objects = BTreeMap::new();
    for row in rows {
        let mut object = row.object()?;
        if let Some(metadata) = object.get_mut("metadata").and_then(|m| m.as_object_mut()) {
            metadata.remove("resourceVersion");
            metadata.remove("managedFields");
        }
        objects.insert(row.name(), object);
    }
    Ok(objects)
}
