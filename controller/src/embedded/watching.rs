//! A watch as a stream of lines. It holds a revision and reads what came after it from the history; selectors turn
//! a change into an addition or a deletion where an object begins or ceases to be meant.

use bytes::Bytes;
use futures::stream::{self, Stream};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Clock;
use super::kinds::Kind;
use super::object::{Object, put, set_meta};
use super::refusal::Refusal;
use super::request::{Form, Target, Watch};
use super::state::{Entry, Happening, Shared, TooOld};
use super::table::of_one;

/// How often a quiet watch is told how far it has come.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

/// One running watch.
pub(crate) struct Watching {
    shared: Arc<Shared>,
    follow: watch::Receiver<u64>,
    kind: Arc<Kind>,
    namespace: String,
    asked: Watch,
    form: Form,
    clock: Clock,
    revision: u64,
    lines: VecDeque<Bytes>,
    ends: Instant,
    bookmark_due: Instant,
    over: bool,
}

impl Watching {
    /// Begins a watch, or says why it cannot begin there.
    pub(crate) fn begin(
        shared: &Arc<Shared>,
        target: &Target,
        asked: Watch,
        form: Form,
        clock: &Clock,
    ) -> Result<Self, Refusal> {
        let follow = shared.follow();
        let begun = Instant::now();
        let mut watching = Self {
            shared: Arc::clone(shared),
            follow,
            kind: Arc::clone(&target.kind),
            namespace: target.namespace.clone(),
            form,
            clock: Arc::clone(clock),
            revision: asked.revision,
            lines: VecDeque::new(),
            ends: begun + Duration::from_secs(asked.seconds),
            bookmark_due: begun + BOOKMARK_EVERY,
            over: false,
            asked,
        };
        let shared = Arc::clone(shared);
        let state = shared.read();
        let current = state.revision();
        if watching.asked.initial_events || watching.asked.revision == 0 {
            if watching.asked.revision > current {
                return Err(Refusal::not_yet(watching.asked.revision, current));
            }
            for object in state.list(
                &watching.kind,
                &watching.namespace,
                &watching.asked.selector,
            ) {
                watching.say("ADDED", &object.shown_as(&watching.kind));
            }
            watching.revision = current;
            if watching.asked.initial_events && watching.asked.bookmarks {
                watching.bookmark(true);
            }
        }
        // A revision of long ago is told as the first event. As the answer's status it would be nothing new to
        // kube's watcher, which asks for the same revision again, for ever.
        drop(state);
        Ok(watching)
    }

    /// The lines of the watch as they come.
    pub(crate) fn lines(self) -> impl Stream<Item = Bytes> + Send {
        stream::unfold(self, |mut watching| async move {
            let line = watching.next().await?;
            Some((line, watching))
        })
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            if self.over {
                return None;
            }
            self.follow.mark_unchanged();
            self.read_on();
            if !self.lines.is_empty() {
                continue;
            }
            tokio::select! {
                biased;
                changed = self.follow.changed() => {
                    // The server is gone; so is the watch.
                    self.over = changed.is_err();
                }
                () = tokio::time::sleep_until(self.ends) => {
                    self.over = true;
                    if self.asked.bookmarks {
                        self.bookmark(false);
                    }
                }
                () = tokio::time::sleep_until(self.bookmark_due), if self.asked.bookmarks => {
                    self.bookmark(false);
                }
            }
        }
    }

    /// Takes in what happened since.
    fn read_on(&mut self) {
        let shared = Arc::clone(&self.shared);
        let state = shared.read();
        match state.since(self.revision) {
            Ok(entries) => {
                for entry in entries {
                    self.take_in(entry);
                }
                self.revision = state.revision();
            }
            Err(TooOld { oldest }) => {
                let message = format!("too old resource version: {} ({oldest})", self.revision);
                let status = Refusal::expired(message).status();
                self.say("ERROR", &Bytes::from(status.to_string()));
                self.over = true;
            }
        }
    }

    fn take_in(&mut self, entry: &Entry) {
        let of_kind = entry
            .key
            .split_once('/')
            .is_some_and(|(resource, _)| resource == self.kind.stored_as);
        let in_namespace = self.namespace.is_empty() || *self.namespace == *entry.object.namespace;
        if !of_kind || !in_namespace {
            return;
        }
        let meant = |object: &Object| self.asked.selector.matches(object);
        let was = entry.previous.as_ref().is_some_and(|object| meant(object));
        let is = entry.happening != Happening::Deleted && meant(&entry.object);
        let kind = Arc::clone(&self.kind);
        match (was, is) {
            (false, false) => {}
            (false, true) => self.say("ADDED", &entry.object.shown_as(&kind)),
            (true, true) => self.say("MODIFIED", &entry.object.shown_as(&kind)),
            (true, false) if entry.happening == Happening::Deleted => {
                self.say("DELETED", &entry.object.shown_as(&kind));
            }
            (true, false) => {
                let last = entry.previous.as_ref().map(|object| object.value());
                let mut last = kind.show(last.unwrap_or_default());
                let revision = entry.object.revision.to_string().into();
                set_meta(&mut last, "resourceVersion", revision);
                self.say("DELETED", &Bytes::from(last.to_string()));
            }
        }
    }

    fn bookmark(&mut self, initial_events_end: bool) {
        self.bookmark_due = Instant::now() + BOOKMARK_EVERY;
        let mut metadata = json!({"resourceVersion": self.revision.to_string()});
        if initial_events_end {
            put(
                &mut metadata,
                "annotations",
                json!({"k8s.io/initial-events-end": "true"}),
            );
        }
        let mut object = json!({"apiVersion": self.kind.api_version(), "kind": self.kind.kind,
            "metadata": metadata});
        // The Event types know no event without its object.
        match (self.kind.view.is_some(), self.kind.stored_as.as_str()) {
            (false, "events") => put(&mut object, "involvedObject", json!({})),
            (true, _) => put(&mut object, "regarding", json!({})),
            (false, _) => {}
        }
        self.say("BOOKMARK", &Bytes::from(object.to_string()));
    }

    fn say(&mut self, what: &str, object: &Bytes) {
        let mut line = Vec::with_capacity(object.len() + 32);
        line.extend_from_slice(b"{\"type\":\"");
        line.extend_from_slice(what.as_bytes());
        line.extend_from_slice(b"\",\"object\":");
        match self.form {
            Form::Table(include) if what != "ERROR" => {
                let object: Value = serde_json::from_slice(object).unwrap_or_default();
                let table = of_one(&self.kind, object, include, (self.clock)());
                line.extend_from_slice(table.as_bytes());
            }
            Form::Table(_) | Form::Json => line.extend_from_slice(object),
        }
        line.extend_from_slice(b"}\n");
        self.lines.push_back(Bytes::from(line));
    }
}
