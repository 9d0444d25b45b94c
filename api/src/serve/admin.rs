//! The endpoint for those who watch a process: `/metrics` (OpenMetrics text), `/healthz` (it runs), `/readyz` (it can
//! serve, or why not), `/log` (the filter; changed by PUT, from this host alone).

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text;
use prometheus_client::metrics::{family::Family, gauge::Gauge};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use super::Readiness;
use super::logs::LogFilter;

/// Content type of the metrics.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the endpoint shows.
#[derive(Clone)]
pub struct Admin {
    /// The process's metrics.
    pub metrics: Arc<Registry>,
    /// Whether it can serve: where all of these say so.
    pub ready: Vec<Readiness>,
    /// Its log filter.
    pub log: LogFilter,
}

/// A registry that says already what was built: `ringpv_build_info{process,version}`.
#[must_use]
pub fn registry(process: &'static str) -> Registry {
    registry_with(process, Registry::default())
}

/// The same of a process that is one node's: every metric bears the label `node`.
#[must_use]
pub fn registry_of_node(process: &'static str, node: &str) -> Registry {
    let label = ("node".into(), node.to_owned().into());
    registry_with(process, Registry::with_labels(std::iter::once(label)))
}

fn registry_with(process: &'static str, mut registry: Registry) -> Registry {
    let info = Family::<[(&'static str, &'static str); 2], Gauge>::default();
    let labels = [("process", process), ("version", env!("CARGO_PKG_VERSION"))];
    info.get_or_create(&labels).set(1);
    registry.register("ringpv_build_info", "Which binary this is", info);
    registry
}

/// Serves until `stop`.
///
/// # Errors
/// The listener failed.
pub async fn serve(
    listener: TcpListener,
    admin: Admin,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/log", get(log).put(set_log))
        .with_state(admin)
        .into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, router)
        .with_graceful_shutdown(stop)
        .await
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let mut body = String::new();
    match text::encode(&mut body, &admin.metrics) {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn readyz(State(admin): State<Admin>) -> (StatusCode, String) {
    let waiting = admin.ready.iter().filter_map(|ready| ready.get().err());
    let why: Vec<String> = waiting.collect();
    if why.is_empty() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    let why = format!("{}\n", why.join("; "));
    (StatusCode::SERVICE_UNAVAILABLE, why)
}

async fn log(State(admin): State<Admin>) -> String {
    admin.log.get() + "\n"
}

async fn set_log(
    State(admin): State<Admin>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    filter: String,
) -> (StatusCode, String) {
    if !peer.ip().is_loopback() {
        let refusal = "the log filter is changed from this host alone\n";
        return (StatusCode::FORBIDDEN, refusal.to_owned());
    }
    match admin.log.set(&filter) {
        Ok(()) => {
            tracing::info!(filter = admin.log.get(), "log filter changed");
            (StatusCode::OK, admin.log.get() + "\n")
        }
        Err(error) => {
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                write!(text, ": {error}").ok();
                cause = error.source();
            }
            (StatusCode::BAD_REQUEST, text + "\n")
        }
    }
}
