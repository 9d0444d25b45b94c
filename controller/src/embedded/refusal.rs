//! What a client is told when it does not get what it asked for: a `Status` object, with the code, the reason
//! and the wording of a kube-apiserver, because clients branch on the first two and people search for the third.

use serde_json::{Value, json};
use std::fmt;

use super::kinds::Kind;

/// A request that was not done.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Refusal {
    /// HTTP status.
    pub(crate) code: u16,
    /// One of the API's words: `NotFound`, `Conflict`, `Invalid`, …
    pub(crate) reason: &'static str,
    /// For people.
    pub(crate) message: String,
    details: Value,
}

/// One field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cause {
    /// Path of the field; empty for the object itself.
    pub(crate) field: String,
    /// `FieldValueInvalid`, `FieldValueRequired`, …
    pub(crate) reason: &'static str,
    /// What is wrong with it, without the path.
    pub(crate) message: String,
}

impl Cause {
    pub(crate) fn invalid(field: &str, shown: &str, message: &str) -> Self {
        Self {
            field: field.to_owned(),
            reason: "FieldValueInvalid",
            message: format!("Invalid value: {shown}: {message}"),
        }
    }

    pub(crate) fn required(field: &str) -> Self {
        Self {
            field: field.to_owned(),
            reason: "FieldValueRequired",
            message: "Required value".to_owned(),
        }
    }

    pub(crate) fn forbidden(field: &str, message: &str) -> Self {
        Self {
            field: field.to_owned(),
            reason: "FieldValueForbidden",
            message: format!("Forbidden: {message}"),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}

fn about(kind: &Kind, name: &str) -> Value {
    json!({"name": name, "group": kind.group, "kind": kind.plural})
}

impl Refusal {
    fn new(code: u16, reason: &'static str, message: String, details: Value) -> Self {
        Self {
            code,
            reason,
            message,
            details,
        }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message.into(), json!({}))
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized".to_owned(), json!({}))
    }

    /// No such path.
    pub(crate) fn no_such_path() -> Self {
        Self::new(
            404,
            "NotFound",
            "the server could not find the requested resource".to_owned(),
            json!({}),
        )
    }

    pub(crate) fn not_found(kind: &Kind, name: &str) -> Self {
        Self::new(
            404,
            "NotFound",
            format!("{} \"{name}\" not found", kind.resource),
            about(kind, name),
        )
    }

    pub(crate) fn no_such_namespace(name: &str) -> Self {
        Self::new(
            404,
            "NotFound",
            format!("namespaces \"{name}\" not found"),
            json!({"name": name, "kind": "namespaces"}),
        )
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource".to_owned(),
            json!({}),
        )
    }

    pub(crate) fn already_exists(kind: &Kind, name: &str) -> Self {
        Self::new(
            409,
            "AlreadyExists",
            format!("{} \"{name}\" already exists", kind.resource),
            about(kind, name),
        )
    }

    pub(crate) fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        Self::new(
            409,
            "Conflict",
            format!(
                "Operation cannot be fulfilled on {} \"{name}\": {why}",
                kind.resource
            ),
            about(kind, name),
        )
    }

    pub(crate) fn stale(kind: &Kind, name: &str) -> Self {
        Self::conflict(
            kind,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// A resource version that is no longer, or was never, in the history.
    pub(crate) fn expired(message: String) -> Self {
        Self::new(410, "Expired", message, json!({}))
    }

    pub(crate) fn too_large(limit_bytes: usize) -> Self {
        Self::new(
            413,
            "RequestEntityTooLarge",
            format!("limit is {limit_bytes} bytes"),
            json!({}),
        )
    }

    pub(crate) fn unsupported_media_type(message: String) -> Self {
        Self::new(415, "UnsupportedMediaType", message, json!({}))
    }

    pub(crate) fn invalid(kind: &Kind, name: &str, causes: &[Cause]) -> Self {
        let said: Vec<String> = causes.iter().map(Cause::to_string).collect();
        let said = match said.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let qualified = if kind.group.is_empty() {
            kind.kind.clone()
        } else {
            format!("{}.{}", kind.kind, kind.group)
        };
        let listed: Vec<Value> = causes
            .iter()
            .map(
                |cause| json!({"reason": cause.reason, "message": cause.message, "field": cause.field}),
            )
            .collect();
        Self::new(
            422,
            "Invalid",
            format!("{qualified} \"{name}\" is invalid: {said}"),
            json!({"name": name, "group": kind.group, "kind": kind.kind, "causes": listed}),
        )
    }

    /// The server is on its way out: clients wait and try again.
    pub(crate) fn unavailable(message: String) -> Self {
        Self::new(
            503,
            "ServiceUnavailable",
            message,
            json!({"retryAfterSeconds": 1}),
        )
    }

    /// What trying again does not mend.
    pub(crate) fn internal(message: String) -> Self {
        Self::new(500, "InternalError", message, json!({}))
    }

    /// A resource version that this server has not reached.
    pub(crate) fn not_yet(asked: u64, current: u64) -> Self {
        Self::new(
            504,
            "Timeout",
            format!("Too large resource version: {asked}, current: {current}"),
            json!({
                "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
                "retryAfterSeconds": 1
            }),
        )
    }

    /// The object that says so.
    pub(crate) fn status(&self) -> Value {
        json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": self.details,
            "code": self.code,
        })
    }
}
