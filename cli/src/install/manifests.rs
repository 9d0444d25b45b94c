//! The objects that make up an installation: those of `deploy/`, changed as the flags say. Pure.

use std::fmt;
use std::path::Path;

use anyhow::Context as _;
use serde::Deserialize as _;
use serde_json::{Map, Value, json};

use super::at;
use super::options::{KUBELET_DIR, KubeVersion, STATE_DIR};
use crate::advice::Stop;
use crate::install::InstallArgs;

/// In the order in which they are applied.
const SOURCES: [(&str, &str); 7] = [
    (
        "namespace.yaml",
        include_str!("../../../deploy/kubernetes/namespace.yaml"),
    ),
    ("crds.yaml", include_str!("../../../deploy/crds.yaml")),
    (
        "access.yaml",
        include_str!("../../../deploy/kubernetes/access.yaml"),
    ),
    (
        "admission.yaml",
        include_str!("../../../deploy/kubernetes/admission.yaml"),
    ),
    (
        "driver.yaml",
        include_str!("../../../deploy/kubernetes/driver.yaml"),
    ),
    (
        "controller.yaml",
        include_str!("../../../deploy/kubernetes/controller.yaml"),
    ),
    (
        "agent.yaml",
        include_str!("../../../deploy/kubernetes/agent.yaml"),
    ),
];

/// Label: the version of RingPV that an object is of.
pub(crate) const LABEL_VERSION: &str = "app.kubernetes.io/version";
/// Our version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Name of the policy that needs the node in the token.
const AGENTS_POLICY: &str = "ringpv-agents";

/// A whole installation.
#[derive(Clone, Debug)]
pub(crate) struct Manifests {
    /// In the order in which they are applied.
    pub(crate) objects: Vec<Object>,
    /// What the cluster is too old for, as sentences.
    pub(crate) left_out: Vec<String>,
}

/// One object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Object(pub(crate) Value);

impl Object {
    fn text(&self, path: &str) -> &str {
        at(&self.0, path).as_str().unwrap_or_default()
    }

    /// Its kind.
    pub(crate) fn kind(&self) -> &str {
        self.text("/kind")
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    /// Its group and version, as `apps/v1`.
    pub(crate) fn version(&self) -> &str {
        self.text("/apiVersion")
    }

    /// Its namespace, if it is in one.
    pub(crate) fn namespace(&self) -> Option<&str> {
        at(&self.0, "/metadata/namespace").as_str()
    }

    /// The mutable value at a path, made where it is not there.
    fn entry(&mut self, path: &[&str]) -> &mut Value {
        let mut value = &mut self.0;
        for part in path {
            if !value.is_object() {
                *value = Value::Object(Map::new());
            }
            value = &mut value[*part];
        }
        value
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.name())
    }
}

/// The objects as they stand in `deploy/`.
pub(crate) fn sources() -> Result<Vec<Object>, Stop> {
    let mut objects = Vec::new();
    for (file, text) in SOURCES {
        for document in serde_yaml::Deserializer::from_str(text) {
            let value = serde_yaml::Value::deserialize(document)
                .and_then(|mut value| {
                    value.apply_merge()?;
                    serde_yaml::from_value::<Value>(value)
                })
                .with_context(|| format!("deploy/…/{file}"))?;
            objects.push(Object(value));
        }
    }
    Ok(objects)
}

/// The objects for a cluster of this version.
pub(crate) fn of(args: &InstallArgs, cluster: KubeVersion) -> Result<Manifests, Stop> {
    let mut objects = sources()?;
    let mut left_out = Vec::new();
    if cluster < KubeVersion::NODE_IN_TOKEN {
        objects.retain(|object| object.name() != AGENTS_POLICY);
        let needs = KubeVersion::NODE_IN_TOKEN;
        left_out.push(format!(
            "the policy {AGENTS_POLICY}, which keeps each agent to its own node: it needs Kubernetes {needs}"
        ));
    }
    for object in &mut objects {
        *object.entry(&["metadata", "labels", LABEL_VERSION]) = json!(VERSION);
        *object.entry(&["metadata", "labels", "app.kubernetes.io/name"]) = json!("ringpv");
        match object.kind() {
            "DaemonSet" => agent(object, args),
            "Deployment" => controller(object, args),
            _ => {}
        }
    }
    Ok(Manifests { objects, left_out })
}

fn agent(object: &mut Object, args: &InstallArgs) {
    let pod = object.entry(&["spec", "template", "spec"]);
    if let Some(labels) = pod.get_mut("nodeSelector").and_then(Value::as_object_mut) {
        let wanted = args.node_selector.iter();
        labels.extend(wanted.map(|pair| (pair.key.clone(), json!(pair.value))));
    }
    if !args.toleration.is_empty() {
        pod["tolerations"] = args.toleration.iter().map(|it| it.object()).collect();
    }
    images(pod, args);
    // Longest first: the folder itself stands in the flags, what is below it in the mounts.
    for (usual, wanted) in [
        (KUBELET_DIR, &args.kubelet_dir),
        (STATE_DIR, &args.state_dir),
    ] {
        relocate(pod, usual, wanted);
    }
    flags(pod, &args.agent_flag);
}

fn controller(object: &mut Object, args: &InstallArgs) {
    *object.entry(&["spec", "replicas"]) = json!(args.replicas);
    let pod = object.entry(&["spec", "template", "spec"]);
    images(pod, args);
    flags(pod, &args.controller_flag);
}

/// The image of each container.
fn images(pod: &mut Value, args: &InstallArgs) {
    let secrets = args.image_pull_secret.iter();
    let secrets: Vec<_> = secrets.map(|name| json!({"name": name})).collect();
    if !secrets.is_empty() {
        pod["imagePullSecrets"] = json!(secrets);
    }
    let containers = pod["containers"].as_array_mut();
    for container in containers.into_iter().flatten() {
        let image = container["image"].as_str().unwrap_or_default();
        container["image"] = json!(image_of(image, args));
    }
}

fn image_of(image: &str, args: &InstallArgs) -> String {
    let is_ours = !image.contains(':');
    if let (true, Some(image)) = (is_ours, &args.image) {
        return image.clone();
    }
    let image = if is_ours {
        format!("{image}:{VERSION}")
    } else {
        image.to_owned()
    };
    match &args.registry {
        Some(registry) => {
            let name = image.rsplit('/').next().unwrap_or_default();
            format!("{}/{name}", registry.trim_end_matches('/'))
        }
        None => image,
    }
}

/// Replaces a folder of the node wherever a flag, a mount or a volume names it.
fn relocate(value: &mut Value, usual: &str, wanted: &Path) {
    match value {
        Value::String(text) => {
            let (before, path) = text
                .split_once('=')
                .map_or(("", text.as_str()), |(flag, path)| (flag, path));
            let Some(rest) = path.strip_prefix(usual) else {
                return;
            };
            if rest.is_empty() || rest.starts_with('/') {
                let equals = if before.is_empty() { "" } else { "=" };
                *text = format!("{before}{equals}{}{rest}", wanted.display());
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|it| relocate(it, usual, wanted)),
        Value::Object(values) => values
            .values_mut()
            .for_each(|it| relocate(it, usual, wanted)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Adds flags to our own container, the first.
fn flags(pod: &mut Value, flags: &[String]) {
    if let Some(args) = pod
        .pointer_mut("/containers/0/args")
        .and_then(Value::as_array_mut)
    {
        args.extend(flags.iter().map(|flag| json!(flag)));
    }
}

/// What an installation is deleted by, last applied first; without what holds or describes data.
pub(crate) fn removable() -> Result<Vec<Object>, Stop> {
    let mut objects = sources()?;
    objects.retain(|object| object.kind() != "CustomResourceDefinition");
    objects.reverse();
    Ok(objects)
}

/// The definitions of our kinds, with which all their objects go.
pub(crate) fn definitions() -> Result<Vec<Object>, Stop> {
    let mut objects = sources()?;
    objects.retain(|object| object.kind() == "CustomResourceDefinition");
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: InstallArgs,
    }

    fn made(line: &str, version: &str) -> Manifests {
        let words = std::iter::once("install").chain(line.split_whitespace());
        let args = Line::try_parse_from(words).unwrap().args;
        of(&args, version.parse().unwrap()).unwrap()
    }

    fn find<'a>(manifests: &'a Manifests, kind: &str) -> &'a Object {
        let mut all = manifests.objects.iter();
        all.find(|object| object.kind() == kind).unwrap()
    }

    #[test]
    fn every_object_is_whole() {
        let manifests = made("", "1.36");
        assert!(manifests.left_out.is_empty());
        let mut seen = std::collections::BTreeSet::new();
        for object in &manifests.objects {
            assert!(!object.version().is_empty(), "{object}");
            assert_eq!(at(&object.0, "/metadata/labels")[LABEL_VERSION], VERSION);
            let place = (object.namespace().map(str::to_owned), object.to_string());
            let version = object.version().to_owned();
            assert!(seen.insert((place, version)), "{object} twice");
        }
        let crds = manifests
            .objects
            .iter()
            .filter(|it| it.kind() == "CustomResourceDefinition");
        assert_eq!(crds.count(), api::crds().len());
    }

    #[test]
    fn old_clusters_get_what_they_know() {
        let manifests = made("", "1.30");
        assert!(
            !manifests
                .objects
                .iter()
                .any(|it| it.name() == AGENTS_POLICY)
        );
        assert!(manifests.left_out.iter().any(|it| it.contains("1.32")));
    }

    #[test]
    fn images_come_from_where_they_are_said_to() {
        let images = |line: &str| -> Vec<String> {
            let manifests = made(line, "1.36");
            let all = ["Deployment", "DaemonSet"].into_iter().flat_map(|kind| {
                let pod = at(&find(&manifests, kind).0, "/spec/template/spec/containers").clone();
                pod.as_array().unwrap().clone()
            });
            all.map(|it| it["image"].as_str().unwrap().to_owned())
                .collect()
        };
        let ours = format!("localhost/ringpv:{VERSION}");
        let usual = images("");
        assert_eq!((&usual[0], &usual[3]), (&ours, &ours));
        assert!(usual[1].starts_with("registry.k8s.io/sig-storage/csi-provisioner:v"));
        for image in images("--registry example.test/mirror/") {
            assert!(image.starts_with("example.test/mirror/"), "{image}");
            assert_eq!(image.matches('/').count(), 2, "{image}");
        }
        let own = images("--image example.test/ringpv:fix");
        assert_eq!(
            (own[0].as_str(), &own[1]),
            ("example.test/ringpv:fix", &usual[1])
        );
    }

    #[test]
    fn folders_are_replaced_everywhere() {
        let manifests = made(
            "--kubelet-dir /var/snap/microk8s/kubelet --state-dir /data/ringpv",
            "1.36",
        );
        let agent = find(&manifests, "DaemonSet").0.to_string();
        assert!(
            !agent.contains(KUBELET_DIR) && !agent.contains(STATE_DIR),
            "{agent}"
        );
        for part in [
            "--kubelet-dir=/var/snap/microk8s/kubelet\"",
            "/var/snap/microk8s/kubelet/pods",
            "\"/data/ringpv\"",
        ] {
            assert!(agent.contains(part), "{part}: {agent}");
        }
    }

    #[test]
    fn selectors_tolerations_and_flags_reach_the_agents() {
        let manifests = made(
            "--node-selector disks=nvme --toleration a=b:NoSchedule --agent-flag --allow-loop --image-pull-secret word",
            "1.36",
        );
        let pod = at(&find(&manifests, "DaemonSet").0, "/spec/template/spec").clone();
        assert_eq!(
            pod["nodeSelector"],
            json!({"kubernetes.io/os": "linux", "disks": "nvme"})
        );
        assert_eq!(pod["tolerations"].as_array().unwrap().len(), 1);
        assert_eq!(
            pod["containers"][0]["args"].as_array().unwrap().last(),
            Some(&json!("--allow-loop"))
        );
        assert_eq!(pod["imagePullSecrets"], json!([{"name": "word"}]));
        let everything = made("", "1.36");
        let pod = at(&find(&everything, "DaemonSet").0, "/spec/template/spec").clone();
        assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}]));
    }
}
