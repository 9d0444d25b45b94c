//! RingPV in a cluster as an administrator has it, with drives and classes, and the words to make claims and pods.

#![expect(
    clippy::indexing_slicing,
    reason = "of JSON: what an object lacks reads as null"
)]

use std::fs;
use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{BUSYBOX, Kubernetes, Machine, NATIVE, Options};
use crate::command::{Outcome, ours};
use crate::guest::Images;
use crate::loopdev::LoopDevice;

/// The class of most claims. This machine's kernel may have no project quota, without which a size is a promise only.
pub const CLASS: &str = "local";
const DRIVE_BYTES: u64 = 3 << 30;
/// Bytes of a mebibyte.
pub const MIB: u64 = 1 << 20;

/// RingPV in a cluster, with drives that are ready.
pub struct Stage {
    /// The cluster.
    pub cluster: Kubernetes,
    /// The devices of the native node.
    pub drives: Vec<LoopDevice>,
    /// From when to when a story has taken a role away from us.
    pub without_role: Vec<[Timestamp; 2]>,
    /// Of every `install`.
    flags: Vec<&'static str>,
    _folder: tempfile::TempDir,
}

impl Stage {
    /// A cluster with RingPV installed, two devices, and no drive yet. Health is looked at every few seconds.
    ///
    /// # Panics
    /// As all here does: when something is refused.
    pub fn installed() -> Self {
        Self::of(2, DRIVE_BYTES, &["--agent-flag=--health-interval=5s"])
    }

    /// The same with so many devices of so many bytes, installed with these flags.
    pub fn of(devices: usize, bytes: u64, flags: &[&'static str]) -> Self {
        let cluster = Kubernetes::up(Options { audit: true });
        let cluster = cluster.unwrap_or_else(|error| panic!("{error:#}"));
        let loaded = cluster.load_ringpv(env!("CARGO_PKG_VERSION"));
        loaded.unwrap_or_else(|error| panic!("{error:#}"));
        // Not the folder for temporary files: it may be in memory.
        let built = ours("kube");
        let beside = built.ancestors().nth(2).expect("a target directory");
        let beside = beside.join("tmp");
        fs::create_dir_all(&beside).expect("a folder beside the programs");
        let folder = tempfile::tempdir_in(beside).expect("a folder");
        let drive =
            |number| LoopDevice::create(&folder.path().join(format!("drive-{number}")), bytes);
        let stage = Self {
            cluster,
            drives: (0..devices).map(drive).collect(),
            without_role: Vec::new(),
            flags: flags.to_vec(),
            _folder: folder,
        };
        let installed = stage.install(&[]).ok();
        crate::tell(&installed.to_string());
        stage
    }

    /// `kubectl ringpv install`, with the flags that this cluster needs, and more.
    pub fn install(&self, flags: &[&str]) -> Outcome {
        let names: Vec<_> = self.drives.iter().map(LoopDevice::name).collect();
        let devices = format!("--agent-flag=--devices={}", names.join(","));
        let mut words = vec![devices.as_str()];
        words.extend(&self.flags);
        words.extend(flags);
        self.cluster.install(&words)
    }

    /// Makes drives of all devices, and the classes.
    pub fn with_drives(&self) {
        self.init();
        self.class(CLASS, "WaitForFirstConsumer", json!({}));
        self.class("immediate", "Immediate", json!({}));
    }

    /// Makes drives of all devices, as a person does.
    pub fn init(&self) {
        let names: Vec<_> = self.drives.iter().map(LoopDevice::name).collect();
        self.cluster.until("all devices are seen", || {
            let seen = self.cluster.ringpv(&["discover", "--overwrite"]).stdout;
            names.iter().all(|name| seen.contains(name))
        });
        crate::tell(
            &self
                .cluster
                .ringpv(&["init", "drives.yaml"])
                .ok()
                .to_string(),
        );
    }

    /// Emulated machines as further nodes, each with two NVMe drives of a size, and made drives of RingPV.
    pub fn machines(&self, names: &[&str], size: &str, images: &Images) -> Vec<Machine> {
        // One that is plugged in again has other numbers (kernel-notes/37).
        self.install(&["--agent-flag=--devices=nvme{0...9}n{1...9}"])
            .ok();
        let options: Vec<[String; 4]> = names
            .iter()
            .map(|name| {
                let drive = |place: &str| images.spec(&format!("{name}-{place}"), size);
                ["--nvme".into(), drive("a"), "--nvme".into(), drive("b")]
            })
            .collect();
        let options: Vec<Vec<&str>> = options
            .iter()
            .map(|words| words.iter().map(String::as_str).collect())
            .collect();
        let wanted: Vec<(&str, &[&str])> = names
            .iter()
            .zip(&options)
            .map(|(name, options)| (*name, options.as_slice()))
            .collect();
        let joined = self.cluster.join(&wanted);
        let machines = joined.unwrap_or_else(|error| panic!("{error:#}"));
        self.cluster.until("all their drives are seen", || {
            let mut words = vec!["discover", "--overwrite"];
            words.extend(names.iter().flat_map(|name| ["--node", name]));
            let seen = self.cluster.ringpv(&words).stdout;
            seen.matches("nvme").count() == 2 * names.len()
        });
        crate::tell(
            &self
                .cluster
                .ringpv(&["init", "drives.yaml"])
                .ok()
                .to_string(),
        );
        machines
    }

    /// Makes a class that takes what the native node's kernel can do.
    pub fn class(&self, name: &str, binding: &str, more: Value) {
        let mut parameters = json!({"capacity-enforcement": "best-effort"});
        for (key, value) in more.as_object().into_iter().flatten() {
            parameters[key] = value.clone();
        }
        self.apply(&json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name},
            "provisioner": "ringpv.io", "allowVolumeExpansion": true, "volumeBindingMode": binding,
            "parameters": parameters,
        }));
    }

    /// Makes an object, or brings it to this.
    pub fn apply(&self, object: &Value) {
        self.cluster.apply(&object.to_string());
    }

    /// Makes a claim.
    pub fn claim(&self, name: &str, class: &str, size: &str) {
        self.apply(&claim(name, class, size));
    }

    /// What a command prints, that has to succeed.
    pub fn kubectl(&self, words: &[&str]) -> String {
        self.cluster.kubectl(words).ok().stdout
    }

    /// An object.
    pub fn get(&self, kind: &str, name: &str) -> Value {
        let text = self.kubectl(&["get", kind, name, "--output=json"]);
        serde_json::from_str(&text).expect("JSON of that form")
    }

    /// All objects of a kind in the default namespace, or of the cluster.
    pub fn all(&self, kind: &str) -> Vec<Value> {
        let text = self.kubectl(&["get", kind, "--output=json"]);
        let list: Value = serde_json::from_str(&text).expect("JSON of that form");
        list["items"].as_array().expect("JSON of that form").clone()
    }

    /// Waits until pods run.
    pub fn run(&self, pods: &[&str]) {
        for pod in pods {
            self.cluster.until(&format!("pod {pod} runs"), || {
                let ready = r#"--output=jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
                self.cluster.kubectl(&["get", "pod", pod, ready]).stdout == "True"
            });
        }
    }

    /// Runs a shell's line in a pod.
    pub fn sh(&self, pod: &str, line: &str) -> Outcome {
        self.cluster.kubectl(&["exec", pod, "--", "sh", "-c", line])
    }

    /// Deletes objects, and waits until they are gone.
    pub fn delete(&self, what: &[&str]) {
        let mut words = vec!["delete", "--wait", "--ignore-not-found", "--timeout=100s"];
        words.extend(what);
        self.cluster.kubectl(&words).ok();
    }

    /// Deletes pods and claims of the default namespace, and waits until the volumes of those claims are gone.
    pub fn clear(&self) {
        self.delete(&["statefulset,pod", "--all", "--grace-period=1"]);
        self.delete(&["pvc", "--all"]);
        self.cluster
            .until("no volume is left", || self.all("rvol").is_empty());
    }

    /// Deletes a pod, its claim and the claim's PersistentVolume, so that the volume stays and nothing names it. Its name.
    pub fn retain(&self, pod: &str, claim: &str) -> String {
        let name = self.get("pvc", claim)["spec"]["volumeName"].clone();
        let name = name.as_str().expect("JSON of that form");
        let retain = json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}}).to_string();
        self.kubectl(&["patch", "pv", name, "--patch", &retain]);
        let handle = self.get("pv", name)["spec"]["csi"]["volumeHandle"].clone();
        self.delete(&["pod", pod]);
        self.delete(&["pvc", claim]);
        self.delete(&["pv", name]);
        handle.as_str().expect("JSON of that form").to_owned()
    }

    /// The pod that leads.
    pub fn leader(&self) -> String {
        let lease = self.get("-nringpv", "lease/ringpv-controller");
        let holder = lease["spec"]["holderIdentity"].as_str();
        let holder = holder.expect("somebody leads").split(':').next();
        holder.unwrap_or_default().to_owned()
    }

    /// The leader's socket, which its sidecars alone see.
    pub fn leader_socket(&self) -> PathBuf {
        let uid = [
            "--namespace=ringpv",
            "get",
            "pod",
            &self.leader(),
            "--output=jsonpath={.metadata.uid}",
        ];
        let pod = self
            .cluster
            .kubelet_folder()
            .join("pods")
            .join(self.kubectl(&uid));
        pod.join("volumes/kubernetes.io~empty-dir/csi/csi.sock")
    }

    /// The only pod of the agents.
    pub fn agent(&self) -> String {
        let name = self.agent_if_any();
        assert!(!name.is_empty(), "no agent runs on {NATIVE}");
        name
    }

    /// The same, or nothing.
    pub fn agent_if_any(&self) -> String {
        let agents = [
            "--namespace=ringpv",
            "get",
            "pods",
            "--selector=app.kubernetes.io/component=agent",
            "--field-selector=status.phase=Running",
            "--output=jsonpath={.items[*].metadata.name}",
        ];
        let names = self.kubectl(&agents);
        names.split(' ').next_back().unwrap_or_default().to_owned()
    }

    /// Waits until an event about an object, of the default namespace or of none, says something.
    pub fn told(&self, object: &str, words: &str) {
        self.cluster
            .until(&format!("an event of {object} says {words:?}"), || {
                self.all("events").iter().any(|event| {
                    event["involvedObject"]["name"] == object
                        && event["message"]
                            .as_str()
                            .is_some_and(|it| it.contains(words))
                })
            });
    }
}

/// A claim.
pub fn claim(name: &str, class: &str, size: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class,
                 "resources": {"requests": {"storage": size}}},
    })
}

/// A pod of one container that runs a shell's line, with claims mounted at `/NAME`.
pub fn pod(name: &str, claims: &[&str], line: &str) -> Value {
    let volumes = claims
        .iter()
        .map(|claim| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}}));
    let mounts = claims
        .iter()
        .map(|claim| json!({"name": claim, "mountPath": format!("/{claim}")}));
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [container(line, mounts.collect())],
            "volumes": volumes.collect::<Vec<_>>(),
        },
    })
}

/// A StatefulSet whose pods rest, each with claims of its own mounted at `/NAME`.
pub fn stateful_set(name: &str, replicas: u32, claims: &[Value]) -> Value {
    let mounts = claims.iter().map(|claim| {
        let name = claim["metadata"]["name"]
            .as_str()
            .expect("JSON of that form");
        json!({"name": name, "mountPath": format!("/{name}")})
    });
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name},
        "spec": {
            "serviceName": name, "replicas": replicas, "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [container(REST, mounts.collect())]},
            },
            "volumeClaimTemplates": claims,
        },
    })
}

/// A container that runs a shell's line.
pub fn container(line: &str, mounts: Vec<Value>) -> Value {
    json!({"name": "main", "image": BUSYBOX, "imagePullPolicy": "Never", "command": ["sh", "-c", line],
           "volumeMounts": mounts})
}

/// A line that waits for ever, and ends when it is told to.
pub const REST: &str = "trap 'exit 0' TERM; while true; do sleep 1 & wait; done";

/// The size that is promised to a volume.
pub fn bytes_of(volume: &Value) -> u64 {
    volume["spec"]["capacityBytes"]
        .as_u64()
        .expect("JSON of that form")
}
