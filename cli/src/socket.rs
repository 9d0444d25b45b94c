//! The two CSI sockets: the controller's (create, expand, delete, what-if) and this host's agent's (stage, publish).
//! What comes back as a refusal is shown with the same word, sentence and advice as everywhere.

use api::Reason;
use api::csi::controller_client::ControllerClient;
use api::csi::node_client::NodeClient;
use api::csi::ringpv::placement_client::PlacementClient;
use tonic::transport::Channel;

use crate::advice::{Refusal, Stop};
use crate::session::Session;

/// CreateVolume and its kin.
pub(crate) async fn controller(session: &Session) -> Result<ControllerClient<Channel>, Stop> {
    let channel = connect(&session.global.controller_endpoint, "ringpv-controller").await?;
    Ok(ControllerClient::new(channel))
}

/// Placement without creation.
pub(crate) async fn placement(session: &Session) -> Result<PlacementClient<Channel>, Stop> {
    let channel = connect(&session.global.controller_endpoint, "ringpv-controller").await?;
    Ok(PlacementClient::new(channel))
}

/// NodeStageVolume and its kin.
pub(crate) async fn node(session: &Session) -> Result<NodeClient<Channel>, Stop> {
    let channel = connect(&session.global.node_endpoint, "ringpv-agent").await?;
    Ok(NodeClient::new(channel))
}

#[cfg(unix)]
async fn connect(endpoint: &str, server: &str) -> Result<Channel, Stop> {
    use hyper_util::rt::TokioIo;
    use tokio::net::UnixStream;

    let path = endpoint
        .strip_prefix("unix://")
        .or_else(|| endpoint.strip_prefix("unix:"))
        .filter(|path| path.starts_with('/'))
        .ok_or_else(|| {
            Stop::Usage(format!(
                "{endpoint:?} is no CSI endpoint; it reads unix:///run/ringpv/agent.sock"
            ))
        })?
        .to_owned();
    // Tried once here, so that the likely causes can be told apart.
    UnixStream::connect(&path)
        .await
        .map_err(|error| no_socket(&path, server, &error))?;
    let connector = tower::service_fn(move |_: http::Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let uri = tonic::transport::Endpoint::from_static("http://localhost");
    let channel = uri.connect_with_connector(connector).await;
    channel.map_err(|e| {
        Stop::Failed(anyhow::Error::from(e).context(format!("{endpoint} does not speak gRPC")))
    })
}

#[cfg(unix)]
fn no_socket(path: &str, server: &str, error: &std::io::Error) -> Stop {
    use std::io::ErrorKind;

    let kind = error.kind();
    let refusal = if kind == ErrorKind::NotFound {
        Refusal::new(Reason::SocketUnavailable, path)
            .detail("there is no such socket")
            .next(format!("start {server}, or name its socket"))
    } else if kind == ErrorKind::ConnectionRefused {
        Refusal::new(Reason::SocketUnavailable, path)
            .detail("the socket is there, but nobody listens on it")
            .next(format!("start {server}"))
    } else if kind == ErrorKind::PermissionDenied {
        Refusal::new(Reason::NotRoot, path)
    } else {
        Refusal::new(Reason::SocketUnavailable, path).detail(error.to_string())
    };
    Stop::refused(refusal)
}

#[cfg(not(unix))]
#[expect(
    clippy::unused_async,
    reason = "the same signature as where there are sockets"
)]
async fn connect(endpoint: &str, _server: &str) -> Result<Channel, Stop> {
    Err(Stop::refused(
        Refusal::new(Reason::UnsupportedHere, endpoint)
            .detail("volumes are handled over Unix sockets, on the host that has them"),
    ))
}

impl From<tonic::Status> for Stop {
    /// What the server refuses is a refusal; that it could not is a failure.
    fn from(status: tonic::Status) -> Self {
        use tonic::Code;

        let Some(reason) = api::status::reason_of(&status) else {
            return Self::Failed(anyhow::anyhow!("{:?}: {}", status.code(), status.message()));
        };
        let sentence = status
            .message()
            .split_once(": ")
            .map_or("", |(_, rest)| rest);
        let advice = format!("; {}", reason.advice());
        let sentence = sentence.strip_suffix(&advice).unwrap_or(sentence);
        let refusal = Refusal::new(reason, "").detail(sentence);
        match status.code() {
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unauthenticated => Self::refused(refusal),
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => Self::FailedFor(vec![refusal]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_back() {
        let stop = Stop::from(api::status::status(Reason::NoFit, "6 drives: 6 too small"));
        assert_eq!(stop.exit_code(), 1);
        assert_eq!(
            stop.lines(),
            ["refused: NoFit: 6 drives: 6 too small\n  next: the counts say why each was refused"]
        );
        let stop = Stop::from(api::status::status(Reason::DriveUnavailable, ""));
        assert_eq!(stop.exit_code(), 3);
        assert_eq!(Stop::from(tonic::Status::internal("boom")).exit_code(), 3);
    }
}
