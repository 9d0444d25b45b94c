//! How a node's own processes are set, be it this machine or an emulated one: what lies in the cluster's folder lies
//! under the same path on every node, so that one DaemonSet fits them all.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use super::network::PODS;
use super::sweep::GROUP;

/// Where the network plugins lie.
pub(super) const PLUGINS: &str = "/usr/lib/cni";
/// The image of the process that holds a pod's namespaces.
pub(super) const PAUSE: &str = "ringpv.test/pause:1";
/// The kubelet's folder, in the cluster's.
pub(super) const KUBELET: &str = "kubelet";
/// The agents' folder, in the cluster's.
pub(super) const STATE: &str = "ringpv";

/// A node, and the folder that its processes see.
pub(super) struct Settings<'a> {
    pub(super) folder: &'a Path,
    pub(super) name: &'a str,
    pub(super) address: &'a str,
    /// The addresses of its pods.
    pub(super) pods: &'a str,
}

/// The files of an identity, as the node's processes see them.
pub(super) struct Proof {
    pub(super) authority: PathBuf,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

impl Settings<'_> {
    /// Writes the files, all but the kubeconfigs, into `to`; and says them to lie in the node's folder.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(super) fn write(&self, to: &Path, proof: &Proof) -> Result<()> {
        fs::create_dir_all(to.join("cni"))?;
        fs::write(to.join("cni/10-ringpv.conflist"), self.network())?;
        fs::write(to.join("containerd.toml"), self.containerd())?;
        fs::write(to.join("resolv.conf"), "")?;
        fs::write(to.join("kubelet.yaml"), self.kubelet(proof).to_string())?;
        fs::write(to.join("proxy.yaml"), self.proxy().to_string())?;
        Ok(())
    }

    /// The words that kubelet is started with.
    pub(super) fn kubelet_words(&self) -> Vec<String> {
        let files = [
            ("config", "kubelet.yaml"),
            ("kubeconfig", "kubelet.kubeconfig"),
            ("root-dir", KUBELET),
            ("cert-dir", "pki"),
        ];
        let files = files.map(|(flag, name)| format!("--{flag}={}", self.at(name)));
        let own = [
            format!("--hostname-override={}", self.name),
            format!("--node-ip={}", self.address),
            "--v=2".to_owned(),
        ];
        files.into_iter().chain(own).collect()
    }

    /// A path in the node's folder, as text.
    pub(super) fn at(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn network(&self) -> String {
        let network = json!({
            "cniVersion": "0.4.0", "name": "ringpv-kube", "plugins": [
                {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
                 "ipam": {"type": "host-local", "dataDir": self.at("addresses"),
                          "ranges": [[{"subnet": self.pods}]], "routes": [{"dst": "0.0.0.0/0"}]}},
                {"type": "portmap", "capabilities": {"portMappings": true}},
            ],
        });
        network.to_string()
    }

    fn containerd(&self) -> String {
        format!(
            r#"version = 2
root = "{root}"
state = "{state}"
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
Root = "{runc}"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{PLUGINS}"
conf_dir = "{network}"
"#,
            root = self.at("containerd"),
            state = self.at("containerd-state"),
            socket = self.at("containerd.sock"),
            runc = self.at("runc"),
            network = self.at("cni"),
        )
    }

    fn kubelet(&self, proof: &Proof) -> Value {
        json!({
            "kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true},
                               "x509": {"clientCAFile": proof.authority}},
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": proof.certificate, "tlsPrivateKeyFile": proof.key,
            "containerRuntimeEndpoint": format!("unix://{}", self.at("containerd.sock")),
            "resolvConf": self.at("resolv.conf"), "podLogsDir": self.at("pod-logs"), "volumePluginDir": self.at("plugins"),
            // Machines with either version of control groups, and with swap.
            "cgroupDriver": "cgroupfs", "cgroupRoot": format!("/{GROUP}"), "failCgroupV1": false, "failSwapOn": false,
            "enforceNodeAllocatable": [], "oomScoreAdj": 0,
            // However full the machine is, no pod is evicted and no image collected.
            "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%",
                             "imagefs.available": "0%"},
            "imageGCHighThresholdPercent": 100, "localStorageCapacityIsolation": false,
            // Tests wait for these.
            "syncFrequency": "5s", "volumeStatsAggPeriod": "5s",
        })
    }

    fn proxy(&self) -> Value {
        // Kubernetes 1.30 has to be told; since 1.33 there is nothing to tell.
        let gates = match super::binaries::version() {
            Some(_) => json!({"NFTablesProxyMode": true}),
            None => json!({}),
        };
        json!({
            "kind": "KubeProxyConfiguration", "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "clientConnection": {"kubeconfig": self.at("proxy.kubeconfig")},
            "featureGates": gates, "mode": "nftables", "clusterCIDR": PODS, "hostnameOverride": self.name,
            // The limits on connections are the machine's, not this namespace's.
            "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        })
    }
}
