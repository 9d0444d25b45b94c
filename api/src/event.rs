//! Events: what people are told of an object, beside what its status says. An event's reason is a [`Reason`], its message
//! a sentence and what to do.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::Reason;
use crate::names::{GROUP, VERSION};

/// Where events are of objects that are in no namespace: the API server takes them nowhere else.
pub const EVENTS_NAMESPACE: &str = "default";

/// A word to people about one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// `Drive`, `Volume` or `StorageNode`.
    pub kind: &'static str,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// The word.
    pub reason: Reason,
    /// The sentence.
    pub message: String,
    /// Whether somebody should look.
    pub warning: bool,
}

impl Notice {
    /// As it is sent to the API, by one of our programs.
    #[must_use]
    pub fn event(&self, component: &str, now: Timestamp) -> Event {
        let now = Time(now);
        Event {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}.", self.name)),
                namespace: Some(EVENTS_NAMESPACE.to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some(format!("{GROUP}/{VERSION}")),
                kind: Some(self.kind.to_owned()),
                name: Some(self.name.clone()),
                uid: Some(self.uid.clone()),
                ..ObjectReference::default()
            },
            reason: Some(self.reason.to_string()),
            message: Some(self.sentence()),
            type_: Some(if self.warning { "Warning" } else { "Normal" }.to_owned()),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            count: Some(1),
            source: Some(EventSource {
                component: Some(component.to_owned()),
                host: None,
            }),
            reporting_component: Some(component.to_owned()),
            ..Event::default()
        }
    }

    fn sentence(&self) -> String {
        match self.reason.advice() {
            "" => self.message.clone(),
            advice => format!("{}; {advice}", self.message),
        }
    }
}
