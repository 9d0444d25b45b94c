//! As a kubelet's client writes to the socket, and what becomes of it; the kubelet itself is in `tests/tests/cluster.rs`.

use loona_hpack::Encoder;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);
/// A frame of headers, and one that ends a stream for an error.
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;

/// A frame of HTTP/2.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// One call as a kubelet makes it, the escaped path of the socket as authority. The kind of the first frame of its stream
/// that the server answers with.
async fn call(socket: &Path, method: &str, message: &[u8]) -> u8 {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let authority = socket.display().to_string().replace('/', "%2F");
    let path = format!("/pluginregistration.Registration/{method}");
    let headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", &path),
        (":authority", &authority),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let headers = headers.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes.extend(frame(HEADERS, 4, 1, &Encoder::new().encode(headers)));
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend(message);
    bytes.extend(frame(0, 1, 1, &body));
    stream.write_all(&bytes).await.unwrap();
    loop {
        let mut header = [0; 9];
        stream.read_exact(&mut header).await.unwrap();
        let [l0, l1, l2, kind, _, .., id] = header;
        let mut payload = vec![0; u32::from_be_bytes([0, l0, l1, l2]) as usize];
        stream.read_exact(&mut payload).await.unwrap();
        if id == 1 {
            return kind;
        }
    }
}

fn service(standing: &watch::Sender<Standing>) -> Service {
    Service {
        csi: "/csi.sock".into(),
        standing: standing.clone(),
        registered: Gauge::default(),
        ready: Readiness::waiting(UNKNOWN),
    }
}

#[tokio::test]
async fn a_kubelet_is_understood_only_by_way_of_localhost() {
    let dir = tempfile::tempdir().unwrap();
    let (standing, _) = watch::channel(Standing::default());
    let (strict, lenient) = (dir.path().join("strict.sock"), dir.path().join("a.sock"));
    let connections = UnixListenerStream::new(UnixListener::bind(&strict).unwrap());
    let server = tonic::transport::Server::builder()
        .add_service(RegistrationServer::new(service(&standing)))
        .serve_with_incoming(connections);
    let server = tokio::spawn(server);
    // Should this ever be another answer, nothing has to be rewritten any more.
    assert_eq!(call(&strict, "GetInfo", &[]).await, RST_STREAM);
    server.abort();

    let stop = CancellationToken::new();
    let registration = KubeletRegistration::new(lenient.clone(), &mut Registry::default());
    let run = tokio::spawn(registration.run("/csi.sock".into(), stop.clone()));
    there(&lenient).await;
    assert_eq!(call(&lenient, "GetInfo", &[]).await, HEADERS);
    stop.cancel();
    run.await.unwrap();
    assert!(!lenient.exists(), "it takes its socket along");
}

async fn there(socket: &Path) {
    let look = async {
        while !socket.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap();
}

#[tokio::test]
async fn what_the_kubelet_says_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.sock");
    let stop = CancellationToken::new();
    let registration = KubeletRegistration::new(path.clone(), &mut Registry::default());
    let registered = registration.registered.clone();
    let ready = registration.ready();
    let run = tokio::spawn(registration.run("/csi.sock".into(), stop.clone()));
    there(&path).await;
    for so in [true, false, true] {
        let told = RegistrationStatus {
            plugin_registered: so,
            error: "no such driver".to_owned(),
        };
        let answer = call(&path, "NotifyRegistrationStatus", &told.encode_to_vec()).await;
        assert_eq!(answer, HEADERS);
        assert_eq!(registered.get(), i64::from(so));
        let why = ready.get().err();
        let refused = format!("{REFUSED}: no such driver");
        assert_eq!(why, (!so).then_some(refused));
    }
    stop.cancel();
    run.await.unwrap();
    assert_eq!(registered.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_stays_brings_a_new_socket() {
    let (standing, seen) = watch::channel(Standing::default());
    let dir = tempfile::tempdir().unwrap();
    let over = over(dir.path(), seen, CancellationToken::new());
    tokio::pin!(over);
    let refused = || Standing::Refused("no".to_owned());
    // One that is taken back does not.
    standing.send_replace(refused());
    let wait = tokio::time::timeout(AGAIN_AFTER / 2, &mut over);
    assert!(wait.await.is_err());
    standing.send_replace(Standing::Registered);
    assert!(
        tokio::time::timeout(AGAIN_AFTER * 2, &mut over)
            .await
            .is_err()
    );
    standing.send_replace(refused());
    assert!(
        tokio::time::timeout(AGAIN_AFTER * 2, &mut over)
            .await
            .is_ok()
    );
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_was_taken_away_is_made_anew() {
    let (_standing, seen) = watch::channel(Standing::default());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.sock");
    std::fs::write(&path, "").unwrap();
    let over = over(&path, seen, CancellationToken::new());
    tokio::pin!(over);
    assert!(
        tokio::time::timeout(LOOK_EVERY * 3, &mut over)
            .await
            .is_err()
    );
    std::fs::remove_file(&path).unwrap();
    assert!(
        tokio::time::timeout(LOOK_EVERY * 3, &mut over)
            .await
            .is_ok()
    );
}
