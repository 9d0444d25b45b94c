//! The one writer. Mutations queue up; it takes all that wait, applies each to what the one before it left, writes
//! the lot in one transaction, and only then shows it to readers and answers. So an answer means: on disk. And the
//! more callers wait, the more of them share one flush.
//!
//! In memory the same code runs in the caller's own turn, without thread or queue: a simulated cluster in virtual
//! time replays to the letter.

use api::serve::faults;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot};

use super::Options;
use super::change::{Act, Effect, Mutation, Stamp};
use super::disk::Disk;
use super::kinds::Kind;
use super::object::{Object, lookup, set_meta, text_at};
use super::refusal::Refusal;
use super::state::{Entry, Happening, Shared};

/// Mutations that may wait for the writer.
const QUEUE_MAX: usize = 1_024;
/// Mutations that may share one flush.
const BATCH_MAX: usize = 256;

/// An answer to a mutation.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: u16,
    pub(crate) body: Value,
    pub(crate) warnings: Vec<String>,
}

struct Job {
    mutation: Mutation,
    reply: oneshot::Sender<Result<Outcome, Refusal>>,
}

/// The door to the writer.
pub(crate) struct Store {
    shared: Arc<Shared>,
    writer: Writer,
}

enum Writer {
    Inline(Box<Mutex<Engine>>),
    Thread(Mutex<Option<(mpsc::Sender<Job>, JoinHandle<()>)>>),
}

impl Store {
    /// A store that forgets.
    pub(crate) fn in_memory(shared: Arc<Shared>, options: &Options) -> Self {
        let engine = Engine::new(Arc::clone(&shared), None, options);
        Self {
            shared,
            writer: Writer::Inline(Box::new(Mutex::new(engine))),
        }
    }

    /// A store that remembers.
    pub(crate) fn on_disk(
        shared: Arc<Shared>,
        disk: Disk,
        options: &Options,
    ) -> std::io::Result<Self> {
        let mut engine = Engine::new(Arc::clone(&shared), Some(disk), options);
        let (sender, mut jobs) = mpsc::channel(QUEUE_MAX);
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || {
                let mut waiting = Vec::with_capacity(BATCH_MAX);
                while jobs.blocking_recv_many(&mut waiting, BATCH_MAX) > 0 {
                    engine.answer(std::mem::take(&mut waiting));
                }
            })?;
        Ok(Self {
            shared,
            writer: Writer::Thread(Mutex::new(Some((sender, thread)))),
        })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Does `mutation`, or says why not. When it answers, what it did is on disk.
    pub(crate) async fn mutate(&self, mutation: Mutation) -> Result<Outcome, Refusal> {
        let stopping = || Refusal::unavailable("the server is stopping".to_owned());
        let sender = match &self.writer {
            Writer::Inline(engine) => {
                let mut engine = engine.lock().unwrap_or_else(PoisonError::into_inner);
                let mut outcomes = engine.run(vec![mutation]);
                return outcomes.pop().unwrap_or_else(|| Err(stopping()));
            }
            Writer::Thread(thread) => thread
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .as_ref()
                .map(|(sender, _)| sender.clone())
                .ok_or_else(stopping)?,
        };
        let (reply, answer) = oneshot::channel();
        sender
            .send(Job { mutation, reply })
            .await
            .map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }

    /// Whether there is still somebody who writes.
    pub(crate) fn is_open(&self) -> bool {
        match &self.writer {
            Writer::Inline(_) => true,
            Writer::Thread(thread) => thread
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .as_ref()
                .is_some_and(|(_, thread)| !thread.is_finished()),
        }
    }

    /// Lets the writer finish what waits, and releases the store.
    pub(crate) fn close(&self) {
        let Writer::Thread(thread) = &self.writer else {
            return;
        };
        let taken = thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((sender, thread)) = taken {
            drop(sender);
            if thread.join().is_err() {
                tracing::error!("the store's thread panicked; start again");
            }
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

/// What is applied and not yet written.
#[derive(Default)]
struct Staged {
    objects: BTreeMap<String, Option<Arc<Object>>>,
    entries: Vec<Entry>,
}

struct Engine {
    shared: Arc<Shared>,
    disk: Option<Disk>,
    options: Options,
    revision: u64,
    /// Entries of a transaction that failed: whether they are on disk shows when the store is opened again.
    uncertain: Option<Vec<Entry>>,
}

impl Engine {
    fn new(shared: Arc<Shared>, disk: Option<Disk>, options: &Options) -> Self {
        let revision = shared.read().revision();
        Self {
            shared,
            disk,
            options: options.clone(),
            revision,
            uncertain: None,
        }
    }

    fn answer(&mut self, jobs: Vec<Job>) {
        let (mutations, replies): (Vec<_>, Vec<_>) = jobs
            .into_iter()
            .map(|job| (job.mutation, job.reply))
            .unzip();
        for (reply, outcome) in replies.into_iter().zip(self.run(mutations)) {
            // Who no longer waits does not hear.
            drop(reply.send(outcome));
        }
    }

    fn run(&mut self, mutations: Vec<Mutation>) -> Vec<Result<Outcome, Refusal>> {
        if let Err(refusal) = self.recover() {
            return mutations.iter().map(|_| Err(refusal.clone())).collect();
        }
        let mut staged = Staged::default();
        let outcomes: Vec<_> = mutations
            .into_iter()
            .map(|mutation| self.stage(mutation, &mut staged))
            .collect();
        match self.write(staged.entries) {
            Ok(()) => outcomes,
            // Also those that wrote nothing may rest on what another did.
            Err(refusal) => outcomes
                .into_iter()
                .map(|outcome| outcome.and(Err(refusal.clone())))
                .collect(),
        }
    }

    fn write(&mut self, entries: Vec<Entry>) -> Result<(), Refusal> {
        if entries.is_empty() {
            return Ok(());
        }
        faults::before("commit");
        if let Some(disk) = &mut self.disk
            && let Err(error) = disk.write(&entries, self.revision)
        {
            tracing::error!(%error, "the store cannot be written; free space or mend the disk");
            self.uncertain = Some(entries);
            self.revision = self.shared.read().revision();
            return Err(Refusal::internal(format!(
                "the store cannot be written: {error}"
            )));
        }
        faults::after("commit");
        self.shared.publish(entries);
        Ok(())
    }

    /// After a failed write: opens the store anew and sees whether the write is in it.
    fn recover(&mut self) -> Result<(), Refusal> {
        let (Some(entries), Some(disk)) = (self.uncertain.take(), &mut self.disk) else {
            return Ok(());
        };
        let known = self.shared.read().revision();
        let attempted = entries.last().map_or(known, |entry| entry.object.revision);
        match disk.reopen() {
            Ok(revision) if revision == known => {}
            Ok(revision) if revision == attempted => self.shared.publish(entries),
            Ok(revision) => {
                self.uncertain = Some(entries);
                return Err(Refusal::internal(format!(
                    "the store is at revision {revision}, which is not ours: another process wrote it; start again"
                )));
            }
            Err(error) => {
                self.uncertain = Some(entries);
                return Err(Refusal::internal(format!(
                    "the store cannot be opened again: {error}"
                )));
            }
        }
        self.revision = self.shared.read().revision();
        Ok(())
    }

    fn current(&self, staged: &Staged, key: &str) -> Option<Arc<Object>> {
        match staged.objects.get(key) {
            Some(object) => object.clone(),
            None => self.shared.read().get(key).cloned(),
        }
    }

    fn stage(&mut self, mut mutation: Mutation, staged: &mut Staged) -> Result<Outcome, Refusal> {
        let stamp = Stamp {
            now: (self.options.clock)(),
            revision: self.revision + 1,
            uid: (self.options.uids)(),
        };
        let kind = Arc::clone(&mutation.kind);
        if kind.namespaced {
            let namespace = format!("namespaces//{}", mutation.namespace);
            if self.shared.read().get(&namespace).is_none() {
                return Err(Refusal::no_such_namespace(&mutation.namespace));
            }
        }
        mutation.settle_name(&stamp)?;
        let name = mutation.name.as_deref().unwrap_or_default();
        let key = kind.key(&mutation.namespace, name);
        let current = self.current(staged, &key);
        let change = mutation.apply(current.as_ref().map(|object| object.value()), &stamp)?;
        let written = match &change.effect {
            Effect::Same(_) => None,
            Effect::Created(object) => Some((Happening::Added, object)),
            Effect::Modified(object) => Some((Happening::Modified, object)),
            Effect::Removed(object) => Some((Happening::Deleted, object)),
        };
        if let (Some((happening, object)), false) = (written, mutation.dry_run) {
            let object = Arc::new(Object::new(&kind, object));
            self.put(staged, &key, happening, object, current);
            if happening == Happening::Added && kind.stored_as == "events" {
                self.drop_oldest_event(&kind, staged);
            }
        }
        Ok(outcome(&mutation, &kind, change.effect, change.warnings))
    }

    fn put(
        &mut self,
        staged: &mut Staged,
        key: &str,
        happening: Happening,
        object: Arc<Object>,
        previous: Option<Arc<Object>>,
    ) {
        self.revision = object.revision;
        let left = (happening != Happening::Deleted).then(|| Arc::clone(&object));
        staged.objects.insert(key.to_owned(), left);
        staged.entries.push(Entry {
            happening,
            key: key.into(),
            object,
            previous,
        });
    }

    /// Keeps the number of events bounded.
    fn drop_oldest_event(&mut self, kind: &Kind, staged: &mut Staged) {
        let oldest = {
            let state = self.shared.read();
            let prefix = kind.prefix();
            let waiting = staged
                .objects
                .iter()
                .filter(|(key, object)| object.is_some() && key.starts_with(&prefix))
                .count();
            let settled = state
                .under(&prefix)
                .filter(|(key, _)| !staged.objects.contains_key(*key))
                .count();
            if settled + waiting <= self.options.events_max {
                return;
            }
            state
                .under(&prefix)
                .filter(|(key, _)| !staged.objects.contains_key(*key))
                .min_by_key(|(_, object)| object.revision)
                .map(|(key, object)| (key.to_owned(), Arc::clone(object)))
        };
        if let Some((key, object)) = oldest {
            let mut last = object.value();
            set_meta(
                &mut last,
                "resourceVersion",
                (self.revision + 1).to_string().into(),
            );
            let last = Arc::new(Object::new(kind, &last));
            self.put(staged, &key, Happening::Deleted, last, Some(object));
        }
    }
}

fn outcome(mutation: &Mutation, kind: &Kind, effect: Effect, warnings: Vec<String>) -> Outcome {
    let is_deletion = matches!(mutation.act, Act::Delete(_));
    let (code, body) = match effect {
        Effect::Created(object) => (201, kind.show(object)),
        Effect::Removed(object) if is_deletion => (200, deleted(kind, &object)),
        Effect::Same(object) | Effect::Modified(object) | Effect::Removed(object) => {
            (200, kind.show(object))
        }
    };
    Outcome {
        code,
        body,
        warnings,
    }
}

fn deleted(kind: &Kind, object: &Value) -> Value {
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {
            "name": text_at(object, &["metadata", "name"]),
            "group": kind.group,
            "kind": kind.plural,
            "uid": lookup(object, &["metadata", "uid"]),
        },
    })
}
