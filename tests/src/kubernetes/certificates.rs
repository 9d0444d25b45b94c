//! Who is who in a cluster: one authority, a certificate for every process and person, and the kubeconfig that bears it.

use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;

/// The authority of one cluster; what it issues lies in the cluster's folder.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    folder: PathBuf,
}

/// A certificate and its key, as files and as text.
pub(super) struct Identity {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    certificate_pem: String,
    key_pem: String,
}

impl Authority {
    /// A new one, in `folder`.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(super) fn new(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let mut params = CertificateParams::default();
        let name = "RingPV test cluster";
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_after = rcgen::date_time_ymd(2099, 1, 1);
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        let authority = Self {
            issuer: Issuer::new(params, key),
            pem,
            folder: folder.to_owned(),
        };
        secret(&authority.path(), &authority.pem)?;
        Ok(authority)
    }

    /// Its certificate.
    pub(super) fn path(&self) -> PathBuf {
        self.folder.join("authority.crt")
    }

    /// A certificate for `user` of `group`, who may also serve under `hosts`.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(super) fn issue(
        &self,
        file: &str,
        user: &str,
        group: &str,
        hosts: &[&str],
    ) -> Result<Identity> {
        let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
        let mut params = CertificateParams::new(hosts)?;
        params.distinguished_name.push(DnType::CommonName, user);
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        params.not_after = rcgen::date_time_ymd(2099, 1, 1);
        let key = KeyPair::generate()?;
        let identity = Identity {
            certificate: self.folder.join(format!("{file}.crt")),
            key: self.folder.join(format!("{file}.key")),
            certificate_pem: params.signed_by(&key, &self.issuer)?.pem(),
            key_pem: key.serialize_pem(),
        };
        secret(&identity.certificate, &identity.certificate_pem)?;
        secret(&identity.key, &identity.key_pem)?;
        Ok(identity)
    }

    /// The key that signs the tokens of service accounts, and the one that proves them.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(super) fn signing_key(&self) -> Result<(PathBuf, PathBuf)> {
        let pair = KeyPair::generate()?;
        let private = self.folder.join("accounts.key");
        let public = self.folder.join("accounts.pub");
        secret(&private, &pair.serialize_pem())?;
        secret(&public, &pair.public_key_pem())?;
        Ok((private, public))
    }

    /// Writes a kubeconfig with which `identity` talks to `server`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn kubeconfig(&self, path: &Path, identity: &Identity, server: &str) -> Result<()> {
        let data = |pem: &str| STANDARD.encode(pem);
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "ringpv-kube",
            "clusters": [{"name": "ringpv-kube", "cluster": {
                "server": server, "certificate-authority-data": data(&self.pem)}}],
            "users": [{"name": "user", "user": {
                "client-certificate-data": data(&identity.certificate_pem),
                "client-key-data": data(&identity.key_pem)}}],
            "contexts": [{"name": "ringpv-kube", "context": {"cluster": "ringpv-kube", "user": "user"}}],
        });
        secret(path, &serde_json::to_string_pretty(&config)?)
    }
}

/// Writes a file that is its owner's alone.
fn secret(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    let file = fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    let mut file = file.with_context(|| path.display().to_string())?;
    file.write_all(text.as_bytes())?;
    Ok(())
}
