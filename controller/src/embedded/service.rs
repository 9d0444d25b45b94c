//! Requests in, answers out: a tower service, the same for a socket, for the client inside this process and for a
//! simulated cluster.

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::{StreamExt as _, stream};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited, StreamBody};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::change::{Act, Mutation, Preconditions, UnknownFields};
use super::kinds::Kinds;
use super::refusal::Refusal;
use super::request::{Ask, Form, List, Query, Target, form};
use super::selector::Selector;
use super::store::{Outcome, Store};
use super::table::{self, of_one};
use super::watching::Watching;
use super::{Call, Options, discovery, openapi};

/// Longest body of a request.
const BODY_BYTES_MAX: usize = 3 << 20;

/// Least size of the pieces in which a list is sent.
const CHUNK_BYTES: usize = 64 << 10;

/// The body of an answer.
pub type AnswerBody = UnsyncBoxBody<Bytes, Infallible>;

/// The embedded API as a service. Clones serve the same objects.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

struct Inner {
    kinds: Kinds,
    store: Store,
    options: Options,
}

impl<B> tower::Service<Request<B>> for Service
where
    B: hyper::body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            Ok(inner
                .answer(request)
                .await
                .unwrap_or_else(|no| refused(&no)))
        })
    }
}

impl Service {
    pub(crate) fn new(kinds: Kinds, store: Store, options: Options) -> Self {
        Self(Arc::new(Inner {
            kinds,
            store,
            options,
        }))
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }
}

impl Inner {
    async fn answer<B>(&self, request: Request<B>) -> Result<Response<AnswerBody>, Refusal>
    where
        B: hyper::body::Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path();
        if parts.method == Method::GET {
            if matches!(path, "/healthz" | "/readyz" | "/livez") {
                if !self.store.is_open() {
                    return Err(Refusal::unavailable("the store is closed".to_owned()));
                }
                return Ok(answer(200, "text/plain", whole(Bytes::from_static(b"ok"))));
            }
            if let Some(document) = discovery::document(&self.kinds, path) {
                return Ok(said(200, &document));
            }
            let state = self.store.shared().read();
            if let Some(document) = openapi::document(&self.kinds, &state, path) {
                return Ok(said(200, &document));
            }
        }
        let target = Target::parse(&self.kinds, path)?;
        let body = collected(body).await?;
        let query = Query::parse(parts.uri.query());
        let ask = target.ask(&parts.method, &query, &parts.headers, &body)?;
        if let Some(observer) = &self.options.observer {
            observer(&Call::of(&target, &ask));
        }
        let form = form(&parts.headers, &query);
        match ask {
            Ask::Get => self.get(&target, form),
            Ask::List(list) => self.list(&target, &list, form),
            Ask::Watch(watch) => {
                let shared = self.store.shared();
                let clock = &self.options.clock;
                let watching = Watching::begin(shared, &target, watch, form, clock)?;
                let frames = watching
                    .lines()
                    .map(|line| Ok(hyper::body::Frame::data(line)));
                Ok(answer(
                    200,
                    "application/json",
                    StreamBody::new(frames).boxed_unsync(),
                ))
            }
            Ask::Mutate(mutation) => {
                let outcome = self.store.mutate(*mutation).await?;
                Ok(self.outcome(&target, outcome, form))
            }
            Ask::DeleteCollection { selector, dry_run } => {
                self.delete_all(&target, &selector, dry_run).await
            }
        }
    }

    fn get(&self, target: &Target, form: Form) -> Result<Response<AnswerBody>, Refusal> {
        let kind = &target.kind;
        let name = target.name.as_deref().unwrap_or_default();
        let state = self.store.shared().read();
        let object = state
            .get(&kind.key(&target.namespace, name))
            .ok_or_else(|| Refusal::not_found(kind, name))?
            .shown_as(kind);
        drop(state);
        Ok(self.one(target, 200, object, form))
    }

    /// One object in the form that is wanted.
    fn one(&self, target: &Target, code: u16, object: Bytes, form: Form) -> Response<AnswerBody> {
        match form {
            Form::Json => answer(code, "application/json", whole(object)),
            Form::Table(include) => {
                let object: Value = serde_json::from_slice(&object).unwrap_or_default();
                let table = of_one(&target.kind, object, include, (self.options.clock)());
                answer(code, "application/json", whole(Bytes::from(table)))
            }
        }
    }

    fn list(
        &self,
        target: &Target,
        list: &List,
        form: Form,
    ) -> Result<Response<AnswerBody>, Refusal> {
        let kind = &target.kind;
        let state = self.store.shared().read();
        let current = state.revision();
        match list.revision {
            Some(asked) if asked > current => return Err(Refusal::not_yet(asked, current)),
            Some(asked) if list.exact && asked < current => {
                return Err(Refusal::expired(
                    "The provided resource version is too old; lists are of the present".to_owned(),
                ));
            }
            Some(_) | None => {}
        }
        let objects = state.list(kind, &target.namespace, &list.selector);
        drop(state);
        let (head, tail, items): (_, _, Items) = match form {
            Form::Table(include) => {
                let (kind, now) = (Arc::clone(kind), (self.options.clock)());
                let head = table::head(&kind, current);
                let rows = objects.into_iter().map(move |object| {
                    let object = kind.show(object.value());
                    Bytes::from(table::row(&kind, object, include, now).to_string())
                });
                (head, table::TAIL, Box::new(rows))
            }
            Form::Json => {
                let head = format!(
                    r#"{{"apiVersion":"{}","kind":"{}List","metadata":{{"resourceVersion":"{current}"}},"items":["#,
                    kind.api_version(),
                    kind.kind
                );
                let kind = Arc::clone(kind);
                let items = objects
                    .into_iter()
                    .map(move |object| object.shown_as(&kind));
                (head, "]}", Box::new(items))
            }
        };
        Ok(answer(
            200,
            "application/json",
            in_chunks(head, items, tail),
        ))
    }

    fn outcome(&self, target: &Target, outcome: Outcome, form: Form) -> Response<AnswerBody> {
        let is_status = outcome
            .body
            .get("kind")
            .is_some_and(|kind| kind == "Status");
        let body = Bytes::from(outcome.body.to_string());
        let form = if is_status { Form::Json } else { form };
        let mut response = self.one(target, outcome.code, body, form);
        for warning in outcome.warnings {
            let text = format!("299 - \"{}\"", warning.replace('"', "\\\""));
            if let Ok(value) = header::HeaderValue::from_str(&text) {
                response.headers_mut().append(header::WARNING, value);
            }
        }
        response
    }

    async fn delete_all(
        &self,
        target: &Target,
        selector: &Selector,
        dry_run: bool,
    ) -> Result<Response<AnswerBody>, Refusal> {
        let kind = &target.kind;
        let (objects, revision) = {
            let state = self.store.shared().read();
            (
                state.list(kind, &target.namespace, selector),
                state.revision(),
            )
        };
        let mut items = Vec::with_capacity(objects.len());
        for object in objects {
            let deletion = Mutation {
                kind: Arc::clone(kind),
                namespace: target.namespace.clone(),
                name: Some(object.name.to_string()),
                act: Act::Delete(Preconditions::default()),
                dry_run,
                unknown_fields: UnknownFields::Ignore,
            };
            match self.store.mutate(deletion).await {
                Ok(_) => items.push(kind.show(object.value())),
                // Another was quicker.
                Err(refusal) if refusal.code == 404 => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(said(
            200,
            &json!({"apiVersion": kind.api_version(), "kind": format!("{}List", kind.kind),
                "metadata": {"resourceVersion": revision.to_string()}, "items": items}),
        ))
    }
}

async fn collected<B>(body: B) -> Result<Bytes, Refusal>
where
    B: hyper::body::Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Refusal::too_large(BODY_BYTES_MAX)),
        Err(error) => Err(Refusal::bad_request(format!(
            "the body cannot be read: {error}"
        ))),
    }
}

fn whole(bytes: Bytes) -> AnswerBody {
    Full::new(bytes).boxed_unsync()
}

/// What a list is made of, as text.
type Items = Box<dyn Iterator<Item = Bytes> + Send>;

/// A list that is put together as it is sent: the whole of it is never in memory.
fn in_chunks(head: String, mut items: Items, tail: &'static str) -> AnswerBody {
    let mut chunk = BytesMut::from(head.as_bytes());
    let mut is_first = true;
    let mut is_over = false;
    let chunks = std::iter::from_fn(move || {
        if is_over {
            return None;
        }
        while chunk.len() < CHUNK_BYTES {
            let Some(item) = items.next() else {
                is_over = true;
                chunk.extend_from_slice(tail.as_bytes());
                break;
            };
            if !std::mem::take(&mut is_first) {
                chunk.extend_from_slice(b",");
            }
            chunk.extend_from_slice(&item);
        }
        Some(Ok(hyper::body::Frame::data(chunk.split().freeze())))
    });
    StreamBody::new(stream::iter(chunks)).boxed_unsync()
}

fn said(code: u16, value: &Value) -> Response<AnswerBody> {
    answer(
        code,
        "application/json",
        whole(Bytes::from(value.to_string())),
    )
}

/// The answer to a request that is refused.
pub(crate) fn refused(refusal: &Refusal) -> Response<AnswerBody> {
    said(refusal.code, &refusal.status())
}

fn answer(code: u16, content_type: &'static str, body: AnswerBody) -> Response<AnswerBody> {
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(content_type),
    );
    response
}
