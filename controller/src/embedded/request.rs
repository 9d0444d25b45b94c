//! What a request asks for, read from its method, path, query and headers. Everything outside the subset is
//! refused here, in a sentence that says so.

use http::{HeaderMap, Method, header};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::change::{Act, Mutation, Preconditions, UnknownFields};
use super::kinds::{Kind, Kinds};
use super::object::text_at;
use super::refusal::Refusal;
use super::selector::Selector;
use super::table::Include;

/// Longest time a watch is kept open without the client saying so.
const WATCH_SECONDS: u64 = 1_800;

/// One request for objects.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) kind: Arc<Kind>,
    /// Empty for cluster-scoped objects and for lists over all namespaces.
    pub(crate) namespace: String,
    pub(crate) name: Option<String>,
    pub(crate) status: bool,
}

/// What is asked for about the target.
#[derive(Debug)]
pub(crate) enum Ask {
    Get,
    List(List),
    Watch(Watch),
    Mutate(Box<Mutation>),
    DeleteCollection { selector: Selector, dry_run: bool },
}

/// A list.
#[derive(Debug)]
pub(crate) struct List {
    pub(crate) selector: Selector,
    /// Not older than this; or exactly this.
    pub(crate) revision: Option<u64>,
    pub(crate) exact: bool,
}

/// A watch.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    pub(crate) selector: Selector,
    /// From here on; 0 for what is there now and all that follows.
    pub(crate) revision: u64,
    /// What is there now comes first, and a bookmark says where it ends.
    pub(crate) initial_events: bool,
    pub(crate) bookmarks: bool,
    pub(crate) seconds: u64,
}

/// In which form objects are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Json,
    Table(Include),
}

/// The query of a request.
#[derive(Debug, Default)]
pub(crate) struct Query(BTreeMap<String, String>);

impl Query {
    pub(crate) fn parse(text: Option<&str>) -> Self {
        let pairs = text
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (unescape(name), unescape(value))
                })
                .collect(),
        )
    }

    fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    fn is(&self, name: &str) -> bool {
        matches!(self.text(name), "true" | "1")
    }

    fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        match self.text(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                Refusal::bad_request(format!("{name}: Invalid value: {text:?}: must be a number"))
            }),
        }
    }

    fn dry_run(&self) -> bool {
        self.text("dryRun") == "All"
    }

    fn unknown_fields(&self) -> Result<UnknownFields, Refusal> {
        match self.text("fieldValidation") {
            "" | "Warn" => Ok(UnknownFields::Warn),
            "Ignore" => Ok(UnknownFields::Ignore),
            "Strict" => Ok(UnknownFields::Strict),
            other => Err(Refusal::bad_request(format!(
                "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
            ))),
        }
    }

    fn selector(&self, kind: &Kind) -> Result<Selector, Refusal> {
        Selector::parse(kind, self.text("labelSelector"), self.text("fieldSelector"))
    }
}

/// Percent-decoding, with `+` for a space.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let mut ahead = rest.clone();
        let code = (byte == b'%').then(|| {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            let code = digit(ahead.next())? * 16 + digit(ahead.next())?;
            u8::try_from(code).ok()
        });
        match code.flatten() {
            Some(code) => {
                bytes.push(code);
                rest = ahead;
            }
            None => bytes.push(if byte == b'+' { b' ' } else { byte }),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Target {
    /// Reads `/api/v1/…` and `/apis/GROUP/VERSION/…`.
    pub(crate) fn parse(kinds: &Kinds, path: &str) -> Result<Self, Refusal> {
        let parts: Vec<String> = path
            .split('/')
            .filter(|s| !s.is_empty())
            .map(unescape)
            .collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return Err(Refusal::no_such_path()),
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
            rest => ("", rest),
        };
        let (plural, name, status) = match rest {
            [plural] => (*plural, None, false),
            [plural, name] => (*plural, Some((*name).to_owned()), false),
            [plural, name, "status"] => (*plural, Some((*name).to_owned()), true),
            _ => return Err(Refusal::no_such_path()),
        };
        let kind = kinds
            .find(group, version, plural)
            .filter(|kind| namespace.is_empty() || kind.namespaced)
            .filter(|kind| name.is_none() || !kind.namespaced || !namespace.is_empty())
            .filter(|kind| !status || kind.status)
            .ok_or_else(Refusal::no_such_path)?;
        Ok(Self {
            kind: Arc::clone(kind),
            namespace: namespace.to_owned(),
            name,
            status,
        })
    }

    /// What `method` asks for about this target.
    pub(crate) fn ask(
        &self,
        method: &Method,
        query: &Query,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Ask, Refusal> {
        let is_read = matches!(*method, Method::GET | Method::HEAD);
        if !is_read && !self.kind.writable {
            return Err(Refusal::method_not_allowed());
        }
        match (method, &self.name) {
            (_, Some(_)) if is_read && !query.is("watch") => Ok(Ask::Get),
            (_, name) if is_read && query.is("watch") => self.watch(query, name.as_deref()),
            (_, None) if is_read => self.list(query),
            (&Method::POST, None) if !self.is_scattered() => {
                self.mutate(query, Act::Create(json(headers, body, CREATE_TYPES)?))
            }
            (&Method::PUT, Some(_)) => self.mutate(
                query,
                Act::Replace {
                    object: json(headers, body, CREATE_TYPES)?,
                    status: self.status,
                },
            ),
            (&Method::PATCH, Some(_)) => self.mutate(
                query,
                Act::Merge {
                    patch: json(headers, body, PATCH_TYPES)?,
                    status: self.status,
                },
            ),
            (&Method::DELETE, Some(_)) if !self.status => self.delete(query, body),
            (&Method::DELETE, None) if !self.is_scattered() => Ok(Ask::DeleteCollection {
                selector: query.selector(&self.kind)?,
                dry_run: query.dry_run() || body_dry_run(&options(body)?),
            }),
            _ => Err(Refusal::method_not_allowed()),
        }
    }

    /// Whether this means all namespaces, in which nothing can be made or deleted.
    fn is_scattered(&self) -> bool {
        self.kind.namespaced && self.namespace.is_empty()
    }

    fn list(&self, query: &Query) -> Result<Ask, Refusal> {
        // All objects come in one answer; a client that holds a token got it elsewhere.
        if !query.text("continue").is_empty() {
            return Err(Refusal::expired(
                "The provided continue parameter is not from this server. Start the list again without it."
                    .to_owned(),
            ));
        }
        let how = query.text("resourceVersionMatch");
        Ok(Ask::List(List {
            selector: query.selector(&self.kind)?,
            revision: query.number("resourceVersion")?,
            exact: how == "Exact",
        }))
    }

    fn watch(&self, query: &Query, name: Option<&str>) -> Result<Ask, Refusal> {
        let fields = match name {
            None => query.text("fieldSelector").to_owned(),
            Some(name) => format!("metadata.name={name},{}", query.text("fieldSelector")),
        };
        let initial_events = query.is("sendInitialEvents");
        if initial_events && query.text("resourceVersionMatch") != "NotOlderThan" {
            return Err(Refusal::bad_request(
                "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
        Ok(Ask::Watch(Watch {
            selector: Selector::parse(&self.kind, query.text("labelSelector"), &fields)?,
            revision: query.number("resourceVersion")?.unwrap_or(0),
            initial_events,
            bookmarks: query.is("allowWatchBookmarks"),
            seconds: query.number("timeoutSeconds")?.unwrap_or(WATCH_SECONDS),
        }))
    }

    fn mutate(&self, query: &Query, act: Act) -> Result<Ask, Refusal> {
        Ok(Ask::Mutate(Box::new(Mutation {
            kind: Arc::clone(&self.kind),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            act,
            dry_run: query.dry_run(),
            unknown_fields: query.unknown_fields()?,
        })))
    }

    fn delete(&self, query: &Query, body: &[u8]) -> Result<Ask, Refusal> {
        let options = options(body)?;
        let precondition = |field| text_at(&options, &["preconditions", field]).map(str::to_owned);
        let preconditions = Preconditions {
            uid: precondition("uid"),
            resource_version: precondition("resourceVersion"),
        };
        let Ask::Mutate(mut mutation) = self.mutate(query, Act::Delete(preconditions))? else {
            return Err(Refusal::method_not_allowed());
        };
        mutation.dry_run |= body_dry_run(&options);
        Ok(Ask::Mutate(mutation))
    }
}

/// `DeleteOptions`; the object without fields where there is no body.
fn options(body: &[u8]) -> Result<Value, Refusal> {
    if body.is_empty() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    serde_json::from_slice(body)
        .map_err(|error| Refusal::bad_request(format!("the body is not understood: {error}")))
}

fn body_dry_run(options: &Value) -> bool {
    let listed = options.get("dryRun").and_then(Value::as_array);
    listed.is_some_and(|all| all.iter().any(|one| one == "All"))
}

const CREATE_TYPES: &[&str] = &["application/json"];
const PATCH_TYPES: &[&str] = &["application/merge-patch+json"];

fn json(headers: &HeaderMap, body: &[u8], accepted: &[&str]) -> Result<Value, Refusal> {
    let given = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .unwrap_or("application/json")
        .trim();
    if given.contains("apply-patch") {
        return Err(Refusal::unsupported_media_type(
            "server-side apply is not served here; create the object, or change it by a merge patch (kubectl patch --type=merge, edit, label, annotate)"
                .to_owned(),
        ));
    }
    if !accepted.contains(&given) {
        return Err(Refusal::unsupported_media_type(format!(
            "the body of the request was in an unknown format ({given}) - accepted media types include: {}",
            accepted.join(", ")
        )));
    }
    serde_json::from_slice(body)
        .map_err(|error| Refusal::bad_request(format!("the body is not understood: {error}")))
}

/// The form that `Accept` asks for first, of those that are served.
pub(crate) fn form(headers: &HeaderMap, query: &Query) -> Form {
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let wants_table = accept.split(',').any(|range| {
        let parameters: Vec<&str> = range.split(';').map(str::trim).collect();
        parameters.contains(&"as=Table") && parameters.contains(&"v=v1")
    });
    if !wants_table {
        return Form::Json;
    }
    Form::Table(match query.text("includeObject") {
        "None" => Include::Nothing,
        "Object" => Include::Object,
        _ => Include::Metadata,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str) -> Option<(String, String, Option<String>, bool)> {
        let kinds = Kinds::new(&api::crds()).unwrap();
        let target = Target::parse(&kinds, path).ok()?;
        let kind = target.kind.resource.clone();
        Some((kind, target.namespace, target.name, target.status))
    }

    #[test]
    fn paths_name_objects() {
        let some = |kind: &str, namespace: &str, name: Option<&str>, status| {
            let name = name.map(str::to_owned);
            Some((kind.to_owned(), namespace.to_owned(), name, status))
        };
        for (path, expected) in [
            ("/api/v1/namespaces", some("namespaces", "", None, false)),
            (
                "/api/v1/namespaces/a",
                some("namespaces", "", Some("a"), false),
            ),
            (
                "/api/v1/namespaces/a/events",
                some("events", "a", None, false),
            ),
            ("/api/v1/events", some("events", "", None, false)),
            ("/api/v1/events/x", None),
            (
                "/apis/ringpv.io/v1alpha1/drives/d/status",
                some("drives.ringpv.io", "", Some("d"), true),
            ),
            ("/apis/ringpv.io/v1alpha1/namespaces/a/drives", None),
            ("/apis/ringpv.io/v1/drives", None),
            (
                "/apis/coordination.k8s.io/v1/namespaces/a/leases/l/status",
                None,
            ),
            ("/apis/ringpv.io/v1alpha1/pods", None),
            ("/api/v1/namespaces/a/status", None),
        ] {
            assert_eq!(target(path), expected, "{path}");
        }
    }

    #[test]
    fn queries_are_unescaped() {
        let query = Query::parse(Some("labelSelector=a%3Db%2Cc+in+%28d%29&watch=true&x=%zz"));
        assert_eq!(query.text("labelSelector"), "a=b,c in (d)");
        assert_eq!(query.text("x"), "%zz");
        assert!(query.is("watch"));
    }

    fn refused(method: Method, path: &str, content_type: &str) -> u16 {
        let kinds = Kinds::new(&api::crds()).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
        Target::parse(&kinds, path)
            .and_then(|target| target.ask(&method, &Query::default(), &headers, b"{}"))
            .map_or_else(|refusal| refusal.code, |_| 200)
    }

    #[test]
    fn what_is_not_served_is_refused() {
        const DRIVE: &str = "/apis/ringpv.io/v1alpha1/drives/d";
        for (method, path, content_type, expected) in [
            (Method::PATCH, DRIVE, "application/merge-patch+json", 200),
            (Method::PATCH, DRIVE, "application/apply-patch+yaml", 415),
            (Method::PATCH, DRIVE, "application/json-patch+json", 415),
            (
                Method::PATCH,
                DRIVE,
                "application/strategic-merge-patch+json",
                415,
            ),
            (Method::POST, DRIVE, "application/json", 405),
            (Method::POST, "/api/v1/namespaces", "application/json", 405),
            (
                Method::DELETE,
                "/api/v1/namespaces/default",
                "application/json",
                405,
            ),
            (
                Method::POST,
                "/apis/ringpv.io/v1alpha1/drives",
                "application/yaml",
                415,
            ),
            (Method::POST, "/api/v1/events", "application/json", 405),
        ] {
            assert_eq!(
                refused(method.clone(), path, content_type),
                expected,
                "{method} {path} {content_type}"
            );
        }
    }
}
