//! etcd, the API, and the two processes that act on it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde_json::json;

use super::certificates::{Authority, Identity};
use super::network::{ADDRESS, API_PORT, API_SERVICE, SERVICES};
use super::settings::Proof;
use super::{Kubernetes, Options};

/// etcd, which listens on the namespace's loopback alone.
const STORE: &str = "http://127.0.0.1:2379";
const STORE_PEER: &str = "http://127.0.0.1:2380";
/// Where the scheduler says that it is well.
const SCHEDULER: &str = "https://127.0.0.1:10259";

/// Requests that a process may send a second, and at once. By default it waits for itself.
const UNLIMITED: [&str; 2] = ["--kube-api-qps=1000", "--kube-api-burst=2000"];

/// Where the audit log lies in the folder.
pub(super) const AUDIT: &str = "audit.log";

/// Everything a process needs to talk to the API: who issues, who serves, and where the kubeconfigs lie.
pub(super) struct Credentials {
    pub(super) authority: Authority,
    server: Identity,
    to_kubelet: Identity,
}

impl Credentials {
    /// Makes them all.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(super) fn new(folder: &Path) -> Result<Self> {
        let authority = Authority::new(&folder.join("pki"))?;
        let hosts = [
            "127.0.0.1",
            ADDRESS,
            API_SERVICE,
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
        ];
        Ok(Self {
            server: authority.issue("server", "kube-apiserver", "ringpv", &hosts)?,
            to_kubelet: authority.issue("to-kubelet", "to-kubelet", "system:masters", &[])?,
            authority,
        })
    }

    /// Writes the kubeconfig of an administrator who reaches the API at `server`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn administrator(&self, path: &Path, server: &str) -> Result<()> {
        let identity = self
            .authority
            .issue("outside", "admin", "system:masters", &[])?;
        self.authority.kubeconfig(path, &identity, server)
    }

    /// Writes the kubeconfig of a process in the namespace, which bears the process's name.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn kubeconfig(
        &self,
        folder: &Path,
        process: &str,
        user: &str,
        group: &str,
    ) -> Result<()> {
        let identity = self.authority.issue(process, user, group, &[])?;
        let server = format!("https://{ADDRESS}:{API_PORT}");
        let path = folder.join(format!("{process}.kubeconfig"));
        self.authority.kubeconfig(&path, &identity, &server)
    }

    /// Issues what a node proves itself with, and writes its kubelet's kubeconfig.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn node(
        &self,
        folder: &Path,
        process: &str,
        name: &str,
        address: &str,
    ) -> Result<Proof> {
        let (user, group) = (format!("system:node:{name}"), "system:nodes");
        self.kubeconfig(folder, process, &user, group)?;
        let identity = self.authority.issue(name, &user, group, &[address, name])?;
        Ok(Proof {
            authority: self.authority.path(),
            certificate: identity.certificate,
            key: identity.key,
        })
    }

    /// Writes the kubeconfig of the nodes' kube-proxy.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn proxy(&self, folder: &Path) -> Result<()> {
        let group = "system:node-proxier";
        self.kubeconfig(folder, "proxy", "system:kube-proxy", group)
    }
}

impl Kubernetes {
    /// Starts the API and its store.
    pub(super) fn start_api(&mut self, credentials: &Credentials, options: Options) -> Result<()> {
        self.start("etcd", self.etcd());
        self.start("apiserver", self.apiserver(credentials, options)?);
        Ok(())
    }

    /// Waits until the API serves.
    pub(super) fn api_is_ready(&mut self) -> Result<()> {
        self.wait_for("apiserver", |cluster| cluster.answers("/readyz"))
    }

    /// Starts those who act on what the API holds.
    pub(super) fn start_controllers(&mut self, credentials: &Credentials) -> Result<()> {
        self.start("controller-manager", self.controller_manager(credentials)?);
        self.start("scheduler", self.scheduler(credentials)?);
        Ok(())
    }

    /// Waits until a pod would be admitted, and scheduled.
    pub(super) fn controllers_are_ready(&mut self) -> Result<()> {
        self.wait_for("scheduler", |cluster| {
            let well = ["--server", SCHEDULER, "get", "--raw", "/healthz"];
            cluster.kubectl_inside(&well).code == Some(0)
        })?;
        self.wait_for("controller-manager", |cluster| {
            cluster.answers("/api/v1/namespaces/default/serviceaccounts/default")
        })
    }

    fn etcd(&self) -> Command {
        let mut command = self.program("etcd");
        command.arg("--data-dir").arg(self.path("etcd"));
        command
            .args(["--listen-client-urls", STORE])
            .args(["--advertise-client-urls", STORE])
            .args(["--listen-peer-urls", STORE_PEER])
            .args(["--initial-advertise-peer-urls", STORE_PEER])
            .args(["--initial-cluster", &format!("default={STORE_PEER}")])
            // What it holds ends with it.
            .args(["--unsafe-no-fsync", "--log-level", "warn"]);
        command
    }

    fn apiserver(&self, credentials: &Credentials, options: Options) -> Result<Command> {
        let (private, public) = credentials.authority.signing_key()?;
        let (server, to_kubelet) = (&credentials.server, &credentials.to_kubelet);
        let mut command = self.program("kube-apiserver");
        command.args([
            &format!("--etcd-servers={STORE}"),
            &format!("--service-cluster-ip-range={SERVICES}"),
            &format!("--advertise-address={ADDRESS}"),
            &format!("--secure-port={API_PORT}"),
            "--bind-address=0.0.0.0",
            "--allow-privileged=true",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--endpoint-reconciler-type=lease",
            "--kubelet-preferred-address-types=InternalIP",
        ]);
        let authority = credentials.authority.path();
        for (flag, path) in [
            ("client-ca-file", &authority),
            ("tls-cert-file", &server.certificate),
            ("tls-private-key-file", &server.key),
            ("service-account-key-file", &public),
            ("service-account-signing-key-file", &private),
            ("kubelet-certificate-authority", &authority),
            ("kubelet-client-certificate", &to_kubelet.certificate),
            ("kubelet-client-key", &to_kubelet.key),
        ] {
            command.arg(format!("--{flag}={}", path.display()));
        }
        if options.audit {
            let policy = self.path("audit-policy.yaml");
            let text = json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy",
                "omitStages": ["RequestReceived"], "rules": [{"level": "Metadata"}]});
            fs::write(&policy, text.to_string())?;
            command.arg(format!("--audit-policy-file={}", policy.display()));
            let log = self.path(AUDIT);
            command.arg(format!("--audit-log-path={}", log.display()));
        }
        Ok(command)
    }

    fn controller_manager(&self, credentials: &Credentials) -> Result<Command> {
        let user = "system:kube-controller-manager";
        credentials.kubeconfig(&self.folder, "controller-manager", user, "ringpv")?;
        let mut command = self.program("kube-controller-manager");
        command.args([
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            "--secure-port=0",
        ]);
        command.args(UNLIMITED);
        for (flag, path) in [
            ("kubeconfig", self.path("controller-manager.kubeconfig")),
            (
                "service-account-private-key-file",
                self.path("pki/accounts.key"),
            ),
            ("root-ca-file", credentials.authority.path()),
            ("flex-volume-plugin-dir", self.path("plugins")),
        ] {
            command.arg(format!("--{flag}={}", path.display()));
        }
        Ok(command)
    }

    fn scheduler(&self, credentials: &Credentials) -> Result<Command> {
        let user = "system:kube-scheduler";
        credentials.kubeconfig(&self.folder, "scheduler", user, "ringpv")?;
        let mut command = self.program("kube-scheduler");
        command.arg("--leader-elect=false").args(UNLIMITED);
        for (flag, path) in [
            ("kubeconfig", &self.path("scheduler.kubeconfig")),
            ("tls-cert-file", &credentials.server.certificate),
            ("tls-private-key-file", &credentials.server.key),
        ] {
            command.arg(format!("--{flag}={}", path.display()));
        }
        Ok(command)
    }
}
