//! This node's own objects among all of a kind. A server selects them by `spec.node`, from Kubernetes 1.31 on; an older one
//! cannot, so there all are watched and the others' are let alone.

use std::fmt::Debug;

use api::{Benchmark, Drive, Volume};
use futures::stream::{self, BoxStream, StreamExt as _};
use kube::Resource;
use kube::api::{Api, ListParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use serde::de::DeserializeOwned;

/// What a server answers that cannot select by a field of an object of ours.
const UNKNOWN_FIELD: &str = "field label not supported";

/// An object that belongs to a node.
pub trait OfNode {
    /// The node's name.
    fn node(&self) -> &str;
}

macro_rules! of_node {
    ($($kind:ty),*) => {$(
        impl OfNode for $kind {
            fn node(&self) -> &str {
                &self.spec.node
            }
        }
    )*};
}
of_node!(Benchmark, Drive, Volume);

/// Follows a node's objects, for ever.
pub fn watch<K>(api: Api<K>, node: &str) -> BoxStream<'static, watcher::Result<Event<K>>>
where
    K: Resource<DynamicType = ()> + OfNode + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let narrow = watcher::Config::default().fields(&selector(node));
    let events = watcher(api.clone(), narrow).default_backoff().boxed();
    let node = node.to_owned();
    let state = (events, Some(api), node);
    stream::unfold(state, |(mut events, mut narrowed, node)| async move {
        loop {
            let event = events.next().await?;
            match (&event, &narrowed) {
                (Err(watcher::Error::InitialListFailed(error)), Some(api)) if is_unknown(error) => {
                    tracing::info!(
                        kind = &*K::kind(&()),
                        "This server cannot select by node (Kubernetes before 1.31): all objects are watched"
                    );
                    let all = watcher(api.clone(), watcher::Config::default());
                    events = all.default_backoff().boxed();
                    narrowed = None;
                }
                (Ok(of_another), None) if !is_of(of_another, &node) => {}
                (_, _) => return Some((event, (events, narrowed, node))),
            }
        }
    })
    .boxed()
}

/// Lists a node's objects.
///
/// # Errors
/// The API does not answer.
pub async fn list<K>(api: &Api<K>, node: &str) -> kube::Result<Vec<K>>
where
    K: OfNode + Clone + DeserializeOwned + Debug,
{
    let narrow = ListParams::default().fields(&selector(node));
    let listed = match api.list(&narrow).await {
        Err(error) if is_unknown(&error) => api.list(&ListParams::default()).await?,
        listed => listed?,
    };
    let mut items = listed.items;
    items.retain(|object| object.node() == node);
    Ok(items)
}

fn selector(node: &str) -> String {
    format!("spec.node={node}")
}

fn is_unknown(error: &kube::Error) -> bool {
    let kube::Error::Api(answer) = error else {
        return false;
    };
    answer.code == 400 && answer.message.contains(UNKNOWN_FIELD)
}

fn is_of<K: OfNode>(event: &Event<K>, node: &str) -> bool {
    match event {
        Event::Init | Event::InitDone => true,
        Event::InitApply(object) | Event::Apply(object) | Event::Delete(object) => {
            object.node() == node
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use kube::Client;
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    fn drive(name: &str, node: &str) -> Value {
        let mut drive = api::testing::drive(name).build();
        drive.spec.node = node.to_owned();
        serde_json::to_value(drive).unwrap()
    }

    /// A server as of 1.30: it lists, and knows no field.
    fn old_server() -> Client {
        let service = tower::service_fn(|request: Request<Body>| async move {
            let query = request.uri().query().unwrap_or_default();
            let (code, body) = if query.contains("fieldSelector") {
                let message = "Unable to find: field label not supported: spec.node";
                let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                    "message": message, "reason": "BadRequest", "code": 400});
                (400, status)
            } else if query.contains("watch=") {
                return std::future::pending().await;
            } else {
                let list = json!({"kind": "DriveList", "apiVersion": "ringpv.io/v1alpha1",
                    "metadata": {"resourceVersion": "7"}, "items": [drive("d1", "n1"), drive("d2", "n2")]});
                (200, list)
            };
            let answer = Response::builder().status(code);
            let body = Body::from(serde_json::to_vec(&body).unwrap());
            Ok::<_, std::convert::Infallible>(answer.body(body).unwrap())
        });
        Client::new(service, "default")
    }

    #[tokio::test]
    async fn a_server_that_cannot_select_is_watched_whole() {
        let api: Api<Drive> = Api::all(old_server());
        let mut events = watch(api.clone(), "n2");
        let mut seen = Vec::new();
        while let Some(event) = events.next().await {
            match event.unwrap() {
                Event::InitApply(drive) => seen.push(drive.metadata.name.unwrap()),
                Event::InitDone => break,
                Event::Init | Event::Apply(_) | Event::Delete(_) => {}
            }
        }
        assert_eq!(seen, ["d2"]);
        let listed = list(&api, "n1").await.unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].node(), "n1");
    }
}
