//! A class as a file: a Kubernetes StorageClass, the same text that `kubectl apply` takes. Its parameters go to the
//! controller as they are; which of them mean something is the controller's to say.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use api::Reason;
use api::names::DRIVER;
use k8s_openapi::api::storage::v1::StorageClass;

use crate::advice::{Refusal, Stop};

/// Parameters that concern Kubernetes' own provisioner: it takes them out, and so do we.
const SIDECAR_PREFIX: &str = "csi.storage.k8s.io/";

/// The parameters of the class in a file; none without a file.
pub(crate) fn parameters(path: Option<&Path>) -> Result<BTreeMap<String, String>, Stop> {
    let Some(path) = path else {
        return Ok(BTreeMap::new());
    };
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the class {}", path.display()))?;
    parse(&text).map_err(|detail| {
        Stop::refused(
            Refusal::new(Reason::FileInvalid, path.display().to_string())
                .detail(detail)
                .next("deploy/examples holds classes to begin with"),
        )
    })
}

fn parse(text: &str) -> Result<BTreeMap<String, String>, String> {
    let value: serde_yaml::Value = serde_yaml::from_str(text).map_err(|e| e.to_string())?;
    let kind = value
        .get("kind")
        .and_then(serde_yaml::Value::as_str)
        .unwrap_or_default();
    if kind != "StorageClass" {
        return Err(format!("its kind is {kind:?}; a class is a StorageClass"));
    }
    let class: StorageClass = serde_yaml::from_value(value).map_err(|e| e.to_string())?;
    if class.provisioner != DRIVER {
        return Err(format!(
            "its provisioner is {:?}; it must be {DRIVER}",
            class.provisioner
        ));
    }
    let mut parameters: BTreeMap<_, _> = class.parameters.unwrap_or_default().into_iter().collect();
    parameters.retain(|key, _| !key.starts_with(SIDECAR_PREFIX));
    Ok(parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASS: &str = "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: hot}\nprovisioner: ringpv.io\nparameters:\n  access-tier: hot\n  csi.storage.k8s.io/fstype: xfs\n";

    #[test]
    fn classes() {
        let parameters = parse(CLASS).unwrap();
        assert_eq!(
            parameters,
            BTreeMap::from([("access-tier".to_owned(), "hot".to_owned())])
        );
        for (from, to, said) in [
            ("StorageClass", "Pod", "a class is a StorageClass"),
            ("ringpv.io", "other.io", "must be ringpv.io"),
            ("parameters:", "parameters: x\nmore:", "invalid type"),
            ("kind:", "kind", "line"),
        ] {
            let error = parse(&CLASS.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(said), "{from}: {error}");
        }
    }
}
