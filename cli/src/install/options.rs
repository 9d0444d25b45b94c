//! What is typed, checked before anything is looked at.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde_json::{Value, json};

/// Where the kubelet keeps its things, unless told otherwise.
pub(crate) const KUBELET_DIR: &str = "/var/lib/kubelet";
/// Where agents keep theirs.
pub(crate) const STATE_DIR: &str = "/var/lib/ringpv";

/// `KEY=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) key: String,
    pub(crate) value: String,
}

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self {
                key: key.to_owned(),
                value: value.to_owned(),
            }),
            _ => Err(format!("{text:?} is no KEY=VALUE, such as disks=nvme")),
        }
    }
}

/// A taint that agents endure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Toleration {
    key: String,
    value: Option<String>,
    effect: Option<String>,
}

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

impl FromStr for Toleration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (taint, effect) = text
            .split_once(':')
            .map_or((text, None), |(taint, effect)| (taint, Some(effect)));
        let (key, value) = taint
            .split_once('=')
            .map_or((taint, None), |(key, value)| (key, Some(value)));
        if key.is_empty() {
            return Err(format!(
                "{text:?} names no taint, such as disks=nvme:NoSchedule"
            ));
        }
        if let Some(effect) = effect.filter(|effect| !EFFECTS.contains(effect)) {
            let known = EFFECTS.join(", ");
            return Err(format!("{effect:?} is no effect; it is one of {known}"));
        }
        Ok(Self {
            key: key.to_owned(),
            value: value.map(str::to_owned),
            effect: effect.map(str::to_owned),
        })
    }
}

impl Toleration {
    /// As it stands in a pod.
    pub(crate) fn object(&self) -> Value {
        let mut object = match &self.value {
            Some(value) => json!({"key": self.key, "operator": "Equal", "value": value}),
            None => json!({"key": self.key, "operator": "Exists"}),
        };
        if let (Some(object), Some(effect)) = (object.as_object_mut(), &self.effect) {
            object.insert("effect".to_owned(), json!(effect));
        }
        object
    }
}

/// A version of Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KubeVersion {
    major: u16,
    minor: u16,
}

impl KubeVersion {
    /// Older ones are refused.
    pub(crate) const OLDEST: Self = Self::new(1, 30);
    /// Tokens say the node of their pod, and custom resources are selected by fields, from here on.
    pub(crate) const NODE_IN_TOKEN: Self = Self::new(1, 32);
    /// What nothing is left out for.
    pub(crate) const NEWEST: Self = Self::new(1, 36);

    const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }
}

impl fmt::Display for KubeVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for KubeVersion {
    type Err = String;

    /// Reads `1.36`, `v1.36.3`, and `1.33+` as some providers write it.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut numbers = text.strip_prefix('v').unwrap_or(text).split('.');
        let mut number = || {
            let digits = numbers.next()?.trim_end_matches('+');
            digits.parse().ok()
        };
        match (number(), number()) {
            (Some(major), Some(minor)) => Ok(Self { major, minor }),
            _ => Err(format!(
                "{text:?} is no version of Kubernetes, such as 1.36"
            )),
        }
    }
}

/// A folder on a node, which may be of another system than this one.
pub(crate) fn folder(text: &str) -> Result<PathBuf, String> {
    let trimmed = text.trim_end_matches('/');
    let odd = |part: &str| part.is_empty() || part == "." || part == "..";
    match trimmed.strip_prefix('/') {
        Some(rest) if !rest.split('/').any(odd) => Ok(PathBuf::from(trimmed)),
        _ => Err(format!(
            "{text:?} is no plain absolute path, such as {KUBELET_DIR}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations_are_those_of_taints() {
        let object = |text: &str| Toleration::from_str(text).map(|it| it.object());
        assert_eq!(object("a"), Ok(json!({"key": "a", "operator": "Exists"})));
        assert_eq!(
            object("a=b:NoSchedule"),
            Ok(json!({"key": "a", "operator": "Equal", "value": "b", "effect": "NoSchedule"}))
        );
        assert_eq!(
            object("a:NoExecute"),
            Ok(json!({"key": "a", "operator": "Exists", "effect": "NoExecute"}))
        );
        assert!(object("=b").is_err());
        assert!(object("a:Never").unwrap_err().contains("PreferNoSchedule"));
    }

    #[test]
    fn versions_sort_as_numbers() {
        let version = |text: &str| KubeVersion::from_str(text).unwrap();
        assert!(version("1.9") < version("v1.30.2"));
        assert_eq!(version("1.33+"), version("1.33.0"));
        assert!(KubeVersion::from_str("one.two").is_err());
    }

    #[test]
    fn folders_are_absolute_and_plain() {
        assert_eq!(
            folder("/var/lib/k0s/kubelet/"),
            Ok(PathBuf::from("/var/lib/k0s/kubelet"))
        );
        for bad in ["", "/", "var", "/var/../etc", "/var//x"] {
            assert!(folder(bad).is_err(), "{bad}");
        }
    }
}
