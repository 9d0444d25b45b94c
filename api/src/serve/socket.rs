//! A Unix socket to listen at: a stale file of an earlier process is replaced, a live one is refused, and anything
//! that is no socket is left alone.
//!
//! The socket is bound under a name of its own, given its mode, and only then renamed to the name wanted, so nobody
//! reaches it in between by the modes that the umask would have given it.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;

/// Who may connect: the owner alone.
pub const OWNER: u32 = 0o600;
/// Who may connect: the owner and the group.
pub const OWNER_AND_GROUP: u32 = 0o660;

/// Longest socket path that the kernel takes, in bytes, without its closing zero.
const PATH_BYTES_MAX: usize = 107;

/// Why a socket could not be listened at.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The endpoint is not a Unix socket's.
    #[error("{0:?} is not a socket: write unix:///run/ringpv/NAME.sock")]
    Malformed(String),
    /// The kernel takes no such long path.
    #[error("the socket path {} is longer than {PATH_BYTES_MAX} bytes", .0.display())]
    TooLong(PathBuf),
    /// Somebody answers there.
    #[error("{} is served by another process: stop that one first, or use another socket", .0.display())]
    Live(PathBuf),
    /// Something else is there.
    #[error("{} is there and is no socket: it was left as it is", .0.display())]
    NotASocket(PathBuf),
    /// The file system said no.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// The path of an endpoint: `unix:///run/x.sock`, `unix:/run/x.sock` or the absolute path itself.
///
/// # Errors
/// [`SocketError::Malformed`] and [`SocketError::TooLong`].
pub fn path_of(endpoint: &str) -> Result<PathBuf, SocketError> {
    let path = endpoint.strip_prefix("unix:").unwrap_or(endpoint);
    let path = path.strip_prefix("//").unwrap_or(path);
    if !path.starts_with('/') || path.starts_with("//") || path.ends_with('/') {
        return Err(SocketError::Malformed(endpoint.to_owned()));
    }
    if path.len() > PATH_BYTES_MAX {
        return Err(SocketError::TooLong(PathBuf::from(path)));
    }
    Ok(PathBuf::from(path))
}

/// A socket that is being listened at. Its file goes away with it.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    file: SocketFile,
}

/// The file of a socket, removed on drop if it is still the same one.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let same = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == self.inode);
        if same && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "the socket file stays");
        }
    }
}

impl Socket {
    /// The connections, as tonic takes them, and the file, which is to live as long as they do.
    #[must_use]
    pub fn into_parts(self) -> (UnixListenerStream, SocketFile) {
        (UnixListenerStream::new(self.listener), self.file)
    }
}

/// Listens at `path`, reachable by `mode` alone.
///
/// # Errors
/// Somebody serves it, something that is no socket is in the way, or the file system refuses.
pub async fn listen(path: &Path, mode: u32) -> Result<Socket, SocketError> {
    let io = |action| {
        move |source| SocketError::Io {
            action,
            path: path.to_owned(),
            source,
        }
    };
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        Ok(_) if UnixStream::connect(path).await.is_ok() => {
            return Err(SocketError::Live(path.to_owned()));
        }
        Ok(_) => tracing::info!(socket = %path.display(), "a stale socket is replaced"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io("cannot look at")(error)),
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(io("cannot make the directory of"))?;
    }
    let own = own_name(path);
    match std::fs::remove_file(&own) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io("cannot replace")(error));
        }
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&own).map_err(io("cannot listen at"))?;
    let settled = std::fs::set_permissions(&own, std::fs::Permissions::from_mode(mode))
        .and_then(|()| std::fs::rename(&own, path))
        .and_then(|()| std::fs::symlink_metadata(path));
    match settled {
        Ok(found) => Ok(Socket {
            listener,
            file: SocketFile {
                path: path.to_owned(),
                inode: (found.dev(), found.ino()),
            },
        }),
        Err(error) => {
            std::fs::remove_file(&own).ok();
            Err(io("cannot set up")(error))
        }
    }
}

/// The name under which a socket is bound before it takes its own: short, beside it, one per process.
fn own_name(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        for endpoint in ["unix:///run/a.sock", "unix:/run/a.sock", "/run/a.sock"] {
            assert_eq!(path_of(endpoint).unwrap(), Path::new("/run/a.sock"));
        }
        for bad in [
            "",
            "unix:",
            "run/a.sock",
            "tcp://1.2.3.4:5",
            "unix://run/a",
            "/run/",
        ] {
            assert!(
                matches!(path_of(bad), Err(SocketError::Malformed(_))),
                "{bad}"
            );
        }
        let long = format!("/{}", "x".repeat(PATH_BYTES_MAX));
        assert!(matches!(path_of(&long), Err(SocketError::TooLong(_))));
    }

    #[tokio::test]
    async fn stale_is_replaced_live_is_refused_files_are_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er.sock");

        let first = listen(&path, OWNER).await.unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, OWNER);
        assert!(matches!(
            listen(&path, OWNER).await,
            Err(SocketError::Live(_))
        ));

        // A process that was killed leaves its file behind, and nobody answers.
        let (connections, file) = first.into_parts();
        drop(connections);
        std::mem::forget(file);
        let second = listen(&path, OWNER_AND_GROUP).await.unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, OWNER_AND_GROUP);
        drop(second);
        assert!(!path.exists());
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            0
        );

        std::fs::write(&path, "somebody's").unwrap();
        assert!(matches!(
            listen(&path, OWNER).await,
            Err(SocketError::NotASocket(_))
        ));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "somebody's");
    }
}
