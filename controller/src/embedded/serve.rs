//! The API on a socket: TLS on a loopback address, where kubectl, agent and CLI can reach it with the kubeconfig that is
//! written here. Whoever comes must bear the token; others learn nothing but 401.

use http::{Request, header};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

use super::credentials::{Credentials, CredentialsError, Token, replace};
use super::refusal::Refusal;
use super::service::{AnswerBody, Service, refused};

/// Connections at one time.
const CONNECTIONS_MAX: usize = 512;
/// Time for a client to complete TLS, and then to show the token: any process of this host can open a connection.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Rest after a failed accept, which is mostly a want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where to listen: an address of this host alone. Port 0: the one used last, or any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen(SocketAddr);

impl Default for Listen {
    fn default() -> Self {
        Self((Ipv4Addr::LOCALHOST, 0).into())
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// No place where this API may listen.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{0:?}: the embedded API listens on a loopback address, 127.0.0.1:PORT or [::1]:PORT, nowhere else"
)]
pub struct MalformedListen(pub String);

impl FromStr for Listen {
    type Err = MalformedListen;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse()
            .ok()
            .filter(|address: &SocketAddr| address.ip().is_loopback())
            .map(Self)
            .ok_or_else(|| MalformedListen(text.to_owned()))
    }
}

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Credentials.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The address.
    #[error("{listen}: cannot listen there")]
    Bind {
        /// Where.
        listen: Listen,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// An API in memory has no place for credentials.
    #[error("an embedded API in memory is not served on a socket")]
    NoDirectory,
}

/// A running server. It stops when dropped.
#[derive(Debug)]
pub struct Server {
    address: String,
    kubeconfig: PathBuf,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Server {
    /// Where it listens, as a URL.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The kubeconfig for it.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Ends all connections and waits for them.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }

    pub(crate) async fn start(
        service: Service,
        directory: &Path,
        listen: &Listen,
    ) -> Result<Self, ServeError> {
        let credentials = Credentials::ready(directory)?;
        let kubeconfig = directory.join("kubeconfig");
        let guard = Guard {
            service,
            token: credentials.token.clone(),
            admitted: Arc::default(),
        };
        let listener = bind(listen.0, &kubeconfig).await;
        let bound = listener.and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (bound, listener) = bound.map_err(|source| ServeError::Bind {
            listen: *listen,
            source,
        })?;
        let address = format!("https://{bound}");
        let tls = TlsAcceptor::from(Arc::clone(&credentials.tls));
        let content = credentials.kubeconfig(&address);
        replace(&kubeconfig, &content, 0o600).map_err(|source| CredentialsError::File {
            path: kubeconfig.clone(),
            source,
        })?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(accept(listener, tls, guard, stop.clone(), tasks.clone()));
        tasks.close();
        Ok(Self {
            address,
            kubeconfig,
            stop,
            tasks,
        })
    }
}

/// Binds `address`; for port 0 first the port of the last run, which other processes' kubeconfigs still name.
async fn bind(address: SocketAddr, kubeconfig: &Path) -> std::io::Result<TcpListener> {
    if address.port() == 0
        && let Some(last) = last_address(kubeconfig).filter(|last| last.ip() == address.ip())
        && let Ok(listener) = TcpListener::bind(last).await
    {
        return Ok(listener);
    }
    TcpListener::bind(address).await
}

fn last_address(kubeconfig: &Path) -> Option<SocketAddr> {
    let text = std::fs::read_to_string(kubeconfig).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("server: https://"))?;
    line.trim().parse().ok()
}

/// The service behind the token.
#[derive(Clone)]
struct Guard {
    service: Service,
    token: Token,
    /// Of this connection: whether it has shown the token.
    admitted: Arc<AtomicBool>,
}

impl Guard {
    async fn call(mut self, request: Request<Incoming>) -> http::Response<AnswerBody> {
        if !self
            .token
            .admits(request.headers().get(header::AUTHORIZATION))
        {
            return refused(&Refusal::unauthorized());
        }
        self.admitted.store(true, Ordering::Relaxed);
        match self.service.call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

async fn accept(
    listener: TcpListener,
    tls: TlsAcceptor,
    guard: Guard,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await.ok();
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            std::io::Result::Ok((stream, place))
        };
        tokio::select! {
            () = stop.cancelled() => return,
            accepted = accepted => match accepted {
                Ok((stream, place)) => {
                    let (tls, guard, stop) = (tls.clone(), guard.clone(), stop.clone());
                    tasks.spawn(async move {
                        let handshake = tokio::time::timeout(HANDSHAKE_MAX, tls.accept(stream));
                        if let Ok(Ok(stream)) = handshake.await {
                            converse(stream, guard, stop).await;
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection to the API was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

/// One connection until either side ends it.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    guard: Guard,
    stop: CancellationToken,
) {
    let admitted = Arc::new(AtomicBool::new(false));
    let guard = Guard {
        admitted: Arc::clone(&admitted),
        ..guard
    };
    let stranger = async {
        tokio::time::sleep(HANDSHAKE_MAX).await;
        if admitted.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    let service = hyper::service::service_fn(move |request| {
        let guard = guard.clone();
        async move { Ok::<_, std::convert::Infallible>(guard.call(request).await) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        result = connection => if let Err(error) = result {
            tracing::debug!(%error, "a connection to the API broke");
        },
        () = stranger => {}
        () = stop.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_listens_on_this_host_alone() {
        for (text, expected) in [
            ("127.0.0.1:0", true),
            ("127.0.0.2:6443", true),
            ("[::1]:6443", true),
            ("0.0.0.0:6443", false),
            ("192.168.0.1:6443", false),
            ("[::]:1", false),
            ("localhost", false),
            ("unix:/run/a", false),
        ] {
            assert_eq!(text.parse::<Listen>().is_ok(), expected, "{text}");
        }
    }
}
