//! Watches: order, selectors, bookmarks, ends; and kube's own watcher over them.

use anyhow::{Context as _, Result, bail, ensure};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, DynamicObject, WatchEvent, WatchParams};
use kube::runtime::watcher;
use serde_json::json;
use std::pin::pin;
use std::time::Duration;

use super::{Ground, LABEL};

/// Longest wait for an event.
const PATIENCE: Duration = Duration::from_secs(20);

fn mine(ground: &Ground) -> WatchParams {
    WatchParams::default().labels(&format!("{LABEL}={}", ground.tag))
}

/// The revision of a list now.
async fn now(ground: &Ground) -> Result<String> {
    let list = ground.volumes().list(&ground.mine()).await?;
    list.metadata.resource_version.context("no revision")
}

/// The next event as `+a`, `~a` or `-a` with the object's last part of the name; bookmarks are passed over.
async fn next<S>(ground: &Ground, events: &mut S) -> Result<(String, DynamicObject)>
where
    S: Stream<Item = kube::Result<WatchEvent<DynamicObject>>> + Unpin,
{
    let prefix = ground.name("");
    loop {
        let event = tokio::time::timeout(PATIENCE, events.try_next())
            .await
            .context("no event")??
            .context("the watch ended")?;
        let (sign, object) = match event {
            WatchEvent::Added(object) => ('+', object),
            WatchEvent::Modified(object) => ('~', object),
            WatchEvent::Deleted(object) => ('-', object),
            WatchEvent::Bookmark(_) => continue,
            WatchEvent::Error(status) => bail!("{status:?}"),
        };
        let name = object.name_any();
        let name = name.strip_prefix(&prefix).unwrap_or(&name);
        return Ok((format!("{sign}{name}"), object));
    }
}

async fn expect<S>(ground: &Ground, events: &mut S, expected: &[&str]) -> Result<()>
where
    S: Stream<Item = kube::Result<WatchEvent<DynamicObject>>> + Unpin,
{
    let mut seen = Vec::new();
    for _ in expected {
        seen.push(next(ground, events).await?.0);
    }
    ensure!(seen == expected, "{seen:?} is not {expected:?}");
    Ok(())
}

async fn delete(ground: &Ground, what: &str) -> Result<()> {
    let params = DeleteParams::default();
    ground.volumes().delete(&ground.name(what), &params).await?;
    Ok(())
}

async fn grow(ground: &Ground, what: &str) -> Result<()> {
    let patch = json!({"spec": {"capacityBytes": 2048}});
    ground.patch(&ground.name(what), patch).await?;
    Ok(())
}

pub(super) async fn a_watch_tells_what_happens_in_order(ground: &Ground) -> Result<()> {
    ground.create(&ground.volume("before")).await?;
    let from = now(ground).await?;
    ground.create(&ground.volume("a")).await?;
    let mut events = pin!(ground.volumes().watch(&mine(ground), &from).await?);
    expect(ground, &mut events, &["+a"]).await?;
    ground.create(&ground.volume("b")).await?;
    grow(ground, "a").await?;
    delete(ground, "b").await?;
    delete(ground, "a").await?;
    let mut last = 0;
    for expected in ["+b", "~a", "-b", "-a"] {
        let (seen, object) = next(ground, &mut events).await?;
        ensure!(seen == expected, "{seen} is not {expected}");
        let revision = super::revision(&object)?;
        ensure!(revision > last, "revision {revision} after {last}");
        last = revision;
    }
    Ok(())
}

pub(super) async fn a_watch_from_nothing_begins_with_what_is_there(ground: &Ground) -> Result<()> {
    ground.create(&ground.volume("a")).await?;
    let mut events = pin!(ground.volumes().watch(&mine(ground), "0").await?);
    expect(ground, &mut events, &["+a"]).await?;
    grow(ground, "a").await?;
    expect(ground, &mut events, &["~a"]).await
}

pub(super) async fn a_streaming_list_ends_in_a_bookmark(ground: &Ground) -> Result<()> {
    ground.create(&ground.volume("a")).await?;
    ground.create(&ground.volume("b")).await?;
    let params = WatchParams {
        send_initial_events: true,
        bookmarks: true,
        ..mine(ground)
    };
    let mut events = pin!(ground.volumes().watch(&params, "").await?);
    expect(ground, &mut events, &["+a", "+b"]).await?;
    let event = tokio::time::timeout(PATIENCE, events.try_next()).await??;
    let Some(WatchEvent::Bookmark(bookmark)) = event else {
        bail!("no bookmark, but {event:?}");
    };
    let end = bookmark
        .metadata
        .annotations
        .get("k8s.io/initial-events-end");
    ensure!(end.is_some_and(|end| end == "true"), "{end:?}");
    Ok(())
}

pub(super) async fn a_watch_with_a_selector_tells_of_coming_and_going(
    ground: &Ground,
) -> Result<()> {
    ground.create(&ground.volume("a")).await?;
    ground.create(&ground.volume("b")).await?;
    let from = now(ground).await?;
    let params = WatchParams::default().labels(&format!("{LABEL}={},tier=hot", ground.tag));
    let mut events = pin!(ground.volumes().watch(&params, &from).await?);
    let label = |tier: Option<&str>| json!({"metadata": {"labels": {"tier": tier}}});
    let a = ground.name("a");
    ground.patch(&a, label(Some("hot"))).await?;
    grow(ground, "a").await?;
    grow(ground, "b").await?;
    ground.patch(&a, label(Some("cold"))).await?;
    ground.patch(&a, label(Some("hot"))).await?;
    delete(ground, "a").await?;
    expect(ground, &mut events, &["+a", "~a", "-a", "+a", "-a"]).await
}

pub(super) async fn a_watch_of_one_name_tells_of_no_other(ground: &Ground) -> Result<()> {
    let from = now(ground).await?;
    let params = WatchParams::default().fields(&format!("metadata.name={}", ground.name("b")));
    let mut events = pin!(ground.volumes().watch(&params, &from).await?);
    for what in ["a", "b", "c"] {
        ground.create(&ground.volume(what)).await?;
    }
    delete(ground, "b").await?;
    expect(ground, &mut events, &["+b", "-b"]).await
}

pub(super) async fn a_watch_from_long_ago_is_gone(ground: &Ground) -> Result<()> {
    ground.create(&ground.volume("a")).await?;
    let gone = |code: u16, reason: &str| code == 410 && matches!(reason, "Expired" | "Gone");
    // Within the stream, not as its status: kube's watcher lists anew after the one, and never after the other.
    let mut events = pin!(ground.volumes().watch(&mine(ground), "1").await?);
    let event = tokio::time::timeout(PATIENCE, events.try_next()).await??;
    let Some(WatchEvent::Error(status)) = event else {
        bail!("not gone: {event:?}");
    };
    ensure!(gone(status.code, &status.reason), "{status:?}");
    Ok(())
}

pub(super) async fn a_watch_ends_after_its_time(ground: &Ground) -> Result<()> {
    let from = now(ground).await?;
    let params = mine(ground).timeout(1);
    let events = ground.volumes().watch(&params, &from).await?;
    let all: Vec<_> = tokio::time::timeout(PATIENCE, events.try_collect::<Vec<_>>())
        .await
        .context("it did not end")??;
    let told = all
        .iter()
        .filter(|event| !matches!(event, WatchEvent::Bookmark(_)))
        .count();
    ensure!(told == 0, "{all:?}");
    Ok(())
}

pub(super) async fn the_watcher_sees_every_change(ground: &Ground) -> Result<()> {
    for config in [
        watcher::Config::default(),
        watcher::Config::default().streaming_lists(),
    ] {
        ground.create(&ground.volume("a")).await?;
        let config = config.labels(&format!("{LABEL}={}", ground.tag));
        let mut events = watcher(ground.volumes(), config).boxed();
        let mut next = async || {
            tokio::time::timeout(PATIENCE, events.try_next())
                .await
                .context("no event")??
                .context("the watcher ended")
        };
        ensure!(matches!(next().await?, watcher::Event::Init));
        ensure!(matches!(next().await?, watcher::Event::InitApply(_)));
        ensure!(matches!(next().await?, watcher::Event::InitDone));
        ground.create(&ground.volume("b")).await?;
        let watcher::Event::Apply(object) = next().await? else {
            bail!("no addition");
        };
        ensure!(object.name_any() == ground.name("b"));
        delete(ground, "a").await?;
        let watcher::Event::Delete(object) = next().await? else {
            bail!("no deletion");
        };
        ensure!(object.name_any() == ground.name("a"));
        delete(ground, "b").await?;
    }
    Ok(())
}
