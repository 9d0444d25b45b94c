//! Counts and times of gRPC calls, as a layer around all services of a process: `ringpv_csi_requests_total{rpc,code}`
//! and `ringpv_csi_request_duration_seconds{rpc}`. One log line a call, at `debug`; at `info` when it was refused.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::{counter::Counter, family::Family, histogram::Histogram};
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tonic::Code;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

/// Upper bounds of the durations, in seconds.
const DURATION_BOUNDS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    rpc: String,
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RpcLabel {
    rpc: String,
}

type Durations = Family<RpcLabel, Histogram, fn() -> Histogram>;

/// The layer.
#[derive(Clone, Debug)]
pub struct Calls {
    total: Family<CallLabels, Counter>,
    durations: Durations,
    /// Names of calls that are answered here; all others count as one, for a label is a closed set.
    known: Arc<[&'static str]>,
}

impl Calls {
    /// Registers the two metrics. `known`: the calls that are answered here, such as `CreateVolume`.
    #[must_use]
    pub fn new(registry: &mut Registry, known: &[&'static str]) -> Self {
        let durations: fn() -> Histogram = || Histogram::new(DURATION_BOUNDS);
        let calls = Self {
            total: Family::default(),
            durations: Family::new_with_constructor(durations),
            known: known.into(),
        };
        registry.register(
            "ringpv_csi_requests",
            "gRPC calls answered, by call and code",
            calls.total.clone(),
        );
        registry.register(
            "ringpv_csi_request_duration_seconds",
            "Time until a gRPC call was answered",
            calls.durations.clone(),
        );
        calls
    }

    fn name_of(&self, path: &str) -> &'static str {
        let last = path.rsplit('/').next().unwrap_or_default();
        self.known
            .iter()
            .find(|name| **name == last)
            .copied()
            .unwrap_or("other")
    }

    fn answered(&self, rpc: &'static str, code: Code, elapsed: std::time::Duration) {
        self.total
            .get_or_create(&CallLabels {
                rpc: rpc.to_owned(),
                code: format!("{code:?}"),
            })
            .inc();
        self.durations
            .get_or_create(&RpcLabel {
                rpc: rpc.to_owned(),
            })
            .observe(elapsed.as_secs_f64());
    }
}

impl<S> Layer<S> for Calls {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted {
            inner,
            calls: self.clone(),
        }
    }
}

/// A service whose calls are counted.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    inner: S,
    calls: Calls,
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl<S, In, Out> Service<Request<In>> for Counted<S>
where
    S: Service<Request<In>, Response = Response<Out>>,
    S::Future: Send + 'static,
    S::Error: Send,
    Out: Send + 'static,
{
    type Response = Response<Out>;
    type Error = S::Error;
    type Future = Boxed<Result<Response<Out>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<In>) -> Self::Future {
        let rpc = self.calls.name_of(request.uri().path());
        let calls = self.calls.clone();
        let begun = Instant::now();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            // A refusal is all headers; a body means that the call was answered.
            let code = match &answer {
                Ok(response) => response
                    .headers()
                    .get("grpc-status")
                    .map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes())),
                Err(_) => Code::Unknown,
            };
            let elapsed = begun.elapsed();
            calls.answered(rpc, code, elapsed);
            let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
            if code == Code::Ok {
                tracing::debug!(rpc, elapsed_ms, "call answered");
            } else {
                let message = answer.as_ref().ok().and_then(refusal).unwrap_or_default();
                tracing::info!(rpc, ?code, message, elapsed_ms, "call refused");
            }
            answer
        })
    }
}

/// The text of a refusal.
fn refusal<B>(response: &Response<B>) -> Option<String> {
    let status = tonic::Status::from_header_map(response.headers())?;
    Some(status.message().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_is_counted_by_name_and_code() {
        let mut registry = Registry::default();
        let calls = Calls::new(&mut registry, &["Probe"]);
        let mut service = calls.layer(tower::service_fn(|request: Request<()>| async move {
            let mut response = Response::new(());
            if request.uri().path().ends_with("Other") {
                let status = crate::status::status(crate::Reason::NotLeader, "");
                status.add_header(response.headers_mut()).unwrap();
            }
            Ok::<_, std::convert::Infallible>(response)
        }));
        for path in ["/csi.v1.Identity/Probe", "/csi.v1.Identity/Other"] {
            let request = Request::builder().uri(path).body(()).unwrap();
            service.call(request).await.unwrap();
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            r#"ringpv_csi_requests_total{rpc="Probe",code="Ok"} 1"#,
            r#"ringpv_csi_requests_total{rpc="other",code="Unavailable"} 1"#,
            r#"ringpv_csi_request_duration_seconds_count{rpc="Probe"} 1"#,
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
