//! The small files beside the store: who may come in, and how they know it is us.
//!
//! | file | what | who reads it |
//! |---|---|---|
//! | `lock` | held while a controller runs | nobody |
//! | `cluster-id` | the id that this cluster's drives bear; outlives a lost store, as the store outlives it | this process |
//! | `token` | bearer token | this process; anything that is root |
//! | `ca.crt`, `server.crt`, `server.key` | the certificate for loopback and the authority that signed it | this process |
//! | `kubeconfig` | address, authority and token together | agent, CLI, kubectl |
//!
//! The authority's key is thrown away once it has signed: nothing else will ever be trusted for it. Each file is
//! written whole under another name, flushed and renamed, and all but certificates are for root alone.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

use super::OpenError;

/// The file with the cluster's id.
const CLUSTER_ID: &str = "cluster-id";

/// Why credentials cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file.
    #[error("{path}: cannot be read or written", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A certificate or key.
    #[error("no certificate for loopback can be made: {0}")]
    Certificate(String),
}

/// Who may come in, and how they know it is us.
pub(crate) struct Credentials {
    pub(crate) token: Token,
    pub(crate) authority_pem: String,
    pub(crate) tls: Arc<rustls::ServerConfig>,
}

/// A bearer token, compared in constant time by its hash.
#[derive(Clone)]
pub(crate) struct Token {
    text: String,
    hash: [u8; 32],
}

impl Token {
    fn new(text: &str) -> Self {
        let text = text.trim().to_owned();
        Self {
            hash: Sha256::digest(&text).into(),
            text,
        }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Whether an `Authorization` header bears this token.
    pub(crate) fn admits(&self, header: Option<&http::HeaderValue>) -> bool {
        let given = header
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .map(str::trim);
        given.is_some_and(|given| <[u8; 32]>::from(Sha256::digest(given)) == self.hash)
    }
}

/// Makes the directory, for root alone, and holds it against a second controller while the file lives.
pub(crate) fn lock(directory: &Path) -> Result<File, OpenError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| OpenError::unusable(directory, source))?;
    let path = directory.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|source| OpenError::unusable(&path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::StoreLocked {
            path: directory.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(OpenError::unusable(&path, source)),
    }
}

/// Reads the cluster's id, where there is one.
pub(crate) fn cluster_id(directory: &Path) -> Result<Option<String>, OpenError> {
    let path = directory.join(CLUSTER_ID);
    match std::fs::read_to_string(&path) {
        Ok(text) => match Uuid::parse_str(text.trim()) {
            Ok(id) => Ok(Some(id.to_string())),
            Err(_) => Err(OpenError::ClusterId { path }),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(OpenError::unusable(&path, source)),
    }
}

/// Keeps the cluster's id beside the store. One that is there already must be the same.
pub(crate) fn keep_cluster_id(
    directory: &Path,
    there: Option<&str>,
    of_store: &str,
) -> Result<(), OpenError> {
    let path = directory.join(CLUSTER_ID);
    match there {
        Some(id) if id == of_store => Ok(()),
        Some(id) => Err(OpenError::OtherCluster {
            path,
            found: id.to_owned(),
            of_store: of_store.to_owned(),
        }),
        None => replace(&path, &format!("{of_store}\n"), 0o600)
            .map_err(|source| OpenError::unusable(&path, source)),
    }
}

/// Writes a file whole or not at all.
pub(crate) fn replace(path: &Path, content: &str, mode: u32) -> std::io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&fresh)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

impl Credentials {
    /// Reads the credentials in `directory`; makes those that are missing.
    pub(crate) fn ready(directory: &Path) -> Result<Self, CredentialsError> {
        let token = kept(&directory.join("token"), || {
            format!("{}{}\n", Uuid::new_v4().simple(), Uuid::new_v4().simple())
        })?;
        let [authority, certificate, key] =
            ["ca.crt", "server.crt", "server.key"].map(|name| directory.join(name));
        if ![&authority, &certificate, &key]
            .iter()
            .all(|path| path.exists())
        {
            let fresh = Fresh::make().map_err(|e| CredentialsError::Certificate(e.to_string()))?;
            for (path, content, mode) in [
                (&authority, fresh.authority, 0o644),
                (&certificate, fresh.certificate, 0o644),
                (&key, fresh.key, 0o600),
            ] {
                replace(path, &content, mode).map_err(|source| file_error(path, source))?;
            }
        }
        let authority_pem =
            std::fs::read_to_string(&authority).map_err(|source| file_error(&authority, source))?;
        Ok(Self {
            token: Token::new(&token),
            authority_pem,
            tls: Arc::new(tls(&certificate, &key)?),
        })
    }

    /// The kubeconfig for `server`.
    pub(crate) fn kubeconfig(&self, server: &str) -> String {
        use base64::Engine as _;
        let authority = base64::engine::general_purpose::STANDARD.encode(&self.authority_pem);
        let token = self.token.text();
        let namespace = api::names::NAMESPACE;
        format!(
            "apiVersion: v1
kind: Config
clusters:
- name: ringpv-embedded
  cluster:
    server: {server}
    certificate-authority-data: {authority}
users:
- name: root
  user:
    token: {token}
contexts:
- name: ringpv-embedded
  context:
    cluster: ringpv-embedded
    user: root
    namespace: {namespace}
current-context: ringpv-embedded
"
        )
    }
}

fn file_error(path: &Path, source: std::io::Error) -> CredentialsError {
    CredentialsError::File {
        path: path.to_owned(),
        source,
    }
}

/// The content of a file, which is made where it is missing or empty.
fn kept(path: &Path, make: impl FnOnce() -> String) -> Result<String, CredentialsError> {
    match std::fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => Ok(text),
        Err(error) if error.kind() != ErrorKind::NotFound => Err(file_error(path, error)),
        Ok(_) | Err(_) => {
            let text = make();
            replace(path, &text, 0o600).map_err(|source| file_error(path, source))?;
            Ok(text)
        }
    }
}

struct Fresh {
    authority: String,
    certificate: String,
    key: String,
}

impl Fresh {
    fn make() -> Result<Self, rcgen::Error> {
        let end = rcgen::date_time_ymd(2099, 1, 1);
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "RingPV embedded API authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_after = end;
        let authority_key = KeyPair::generate()?;
        let authority = params.self_signed(&authority_key)?;
        let issuer = Issuer::new(params, authority_key);

        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let mut params = CertificateParams::new(names)?;
        params
            .distinguished_name
            .push(DnType::CommonName, "RingPV embedded API");
        params.insert_extended_key_usage(rcgen::ExtendedKeyUsagePurpose::ServerAuth);
        params.not_after = end;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?;
        Ok(Self {
            authority: authority.pem(),
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

fn tls(certificate: &Path, key: &Path) -> Result<rustls::ServerConfig, CredentialsError> {
    let unusable = |path: &Path, what: String| {
        CredentialsError::Certificate(format!(
            "{}: {what}; remove ca.crt, server.crt and server.key beside it to have new ones made",
            path.display()
        ))
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| unusable(certificate, error.to_string()))?;
    let private =
        PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, error.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_no_client_auth()
                .with_single_cert(chain, private)
        })
        .map_err(|error| unusable(certificate, error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_made_once_and_kept() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let first = Credentials::ready(directory.path()).unwrap();
        let again = Credentials::ready(directory.path()).unwrap();
        assert_eq!(first.token.text(), again.token.text());
        assert_eq!(first.authority_pem, again.authority_pem);
        for name in ["token", "server.key"] {
            let mode = std::fs::metadata(directory.path().join(name))
                .unwrap()
                .permissions();
            assert_eq!(mode.mode() & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn only_the_token_is_admitted() {
        let token = Token::new("abc\n");
        let admits = |header: Option<&'static str>| {
            let header = header.map(http::HeaderValue::from_static);
            token.admits(header.as_ref())
        };
        assert!(admits(Some("Bearer abc")));
        assert!(!admits(Some("Bearer abcd")));
        assert!(!admits(Some("Bearer ")));
        assert!(!admits(Some("Basic abc")));
        assert!(!admits(None));
    }

    #[test]
    fn the_cluster_id_is_kept_and_never_guessed() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let id = "7cea37a9-9d6a-4fd4-bd05-0950c9163418";
        assert_eq!(cluster_id(directory).unwrap(), None);
        keep_cluster_id(directory, None, id).unwrap();
        assert_eq!(cluster_id(directory).unwrap().as_deref(), Some(id));
        keep_cluster_id(directory, Some(id), id).unwrap();
        assert!(matches!(
            keep_cluster_id(directory, Some(id), "00000000-0000-0000-0000-000000000000"),
            Err(OpenError::OtherCluster { .. })
        ));
        std::fs::write(directory.join(CLUSTER_ID), "").unwrap();
        assert!(matches!(
            cluster_id(directory),
            Err(OpenError::ClusterId { .. })
        ));
    }

    #[test]
    fn one_controller_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let held = lock(directory.path()).unwrap();
        assert!(matches!(
            lock(directory.path()),
            Err(OpenError::StoreLocked { .. })
        ));
        drop(held);
        lock(directory.path()).unwrap();
    }
}
