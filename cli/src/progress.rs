//! Showing work under way, and following it. On a terminal one live line per object; elsewhere a line whenever a step
//! begins. Following ends with the work, with the time, or when the person leaves: the work itself goes on.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use futures::StreamExt as _;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use kube::core::ClusterResourceScope;
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::advice::Stop;
use crate::screen::Screen;

/// How following ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It was enough.
    Done,
    /// The time was over.
    TimedOut,
    /// The person pressed Ctrl-C.
    Left,
}

/// Follows all objects of one kind until `enough` says so.
pub(crate) async fn follow<K>(
    api: Api<K>,
    timeout: Duration,
    mut enough: impl FnMut(&BTreeMap<String, K>) -> Result<bool, Stop>,
) -> Result<End, Stop>
where
    K: Resource<DynamicType = (), Scope = ClusterResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + 'static,
{
    let mut objects = BTreeMap::new();
    let mut listed = false;
    let mut events = Box::pin(watcher(api, Config::default()).default_backoff());
    let mut leave = Box::pin(tokio::signal::ctrl_c());
    let mut over = Box::pin(tokio::time::sleep(timeout));
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            _ = &mut leave => return Ok(End::Left),
            () = &mut over => return Ok(End::TimedOut),
        };
        match event {
            Some(Ok(Event::Init)) => {
                objects.clear();
                listed = false;
            }
            Some(Ok(Event::InitApply(object) | Event::Apply(object))) => {
                objects.insert(object.name_any(), object);
            }
            Some(Ok(Event::InitDone)) => listed = true,
            Some(Ok(Event::Delete(object))) => {
                objects.remove(&object.name_any());
            }
            // The watcher comes back by itself; the time limit is the end of patience.
            Some(Err(_)) => {}
            None => return Ok(End::TimedOut),
        }
        if listed && enough(&objects)? {
            return Ok(End::Done);
        }
    }
}

/// Without a terminal, an object's steps that follow each other faster than this are not all said.
const PAUSE: Duration = Duration::from_secs(1);

/// A line of live progress per object.
pub(crate) struct Board {
    lines: BTreeMap<String, Line>,
    width: usize,
    multi: Option<MultiProgress>,
}

struct Line {
    label: String,
    step: String,
    percent: u32,
    said: Option<Instant>,
    bar: Option<ProgressBar>,
}

const BAR: &str = "{prefix}  {bar:24}  {msg}";

impl Board {
    /// A board of `(key, label)`.
    pub(crate) fn new(screen: &Screen, labels: &[(String, String)]) -> Self {
        let multi = screen.live().then(MultiProgress::new);
        let width = labels
            .iter()
            .map(|(_, l)| l.chars().count())
            .max()
            .unwrap_or(0);
        let style = ProgressStyle::with_template(BAR)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("█▓░");
        let lines = labels.iter().map(|(key, label)| {
            let bar = multi.as_ref().map(|m| {
                let bar = m.add(ProgressBar::new(100)).with_style(style.clone());
                bar.set_prefix(format!("{label:width$}"));
                bar
            });
            let line = Line {
                label: label.clone(),
                step: String::new(),
                percent: 0,
                said: None,
                bar,
            };
            (key.clone(), line)
        });
        Self {
            lines: lines.collect(),
            width,
            multi,
        }
    }

    /// Shows one object's step, its particulars and the whole's percentage.
    pub(crate) fn show(
        &mut self,
        screen: &mut Screen,
        key: &str,
        percent: u32,
        step: &str,
        detail: &str,
    ) -> Result<(), Stop> {
        let Some(line) = self.lines.get_mut(key) else {
            return Ok(());
        };
        let gap = if detail.is_empty() { "" } else { "  " };
        // A step may be done again on the way; the whole never goes back.
        line.percent = line.percent.max(percent);
        let text = format!("{:>3} %  {step}{gap}{detail}", line.percent);
        if let Some(bar) = &line.bar {
            bar.set_position(u64::from(line.percent));
            bar.set_message(text);
            return Ok(());
        }
        let recently = line.said.is_some_and(|then| then.elapsed() < PAUSE);
        if line.step == step || (recently && percent > 0 && percent < 100) {
            return Ok(());
        }
        step.clone_into(&mut line.step);
        line.said = Some(Instant::now());
        Ok(screen.note(format!("{:width$}  {text}", line.label, width = self.width))?)
    }

    /// Leaves the lines as they are; what is printed next comes below them.
    pub(crate) fn finish(self) {
        for line in self.lines.values() {
            if let Some(bar) = &line.bar {
                bar.abandon();
            }
        }
        drop(self.multi);
    }
}
