//! What is asked of placement: a name, bytes, a class, places. Class parameters are read strictly: one that is not
//! known is refused, with the list of those that are, because a misspelt wish would otherwise be ignored in silence.

use std::collections::BTreeMap;

use api::names::{
    PARAM_ACCESS_TIER, PARAM_CAPACITY_ENFORCEMENT, PARAM_DRIVE_SELECTOR,
    PARAM_MAX_READ_LATENCY_P99, PARAM_SPREAD_ID, PARAM_WEIGHTS, TOPOLOGY_NODE,
};
use api::volume::{CapacityEnforcement, ClaimRef};
use api::{AccessTier, Nanos};
use jiff::Timestamp;

use crate::labels::LabelSelector;
use crate::placement::score::Weights;

/// Parameters that a class may have.
pub const PARAMETERS: [&str; 6] = [
    PARAM_ACCESS_TIER,
    PARAM_SPREAD_ID,
    PARAM_DRIVE_SELECTOR,
    PARAM_MAX_READ_LATENCY_P99,
    PARAM_WEIGHTS,
    PARAM_CAPACITY_ENFORCEMENT,
];

/// Keys with this prefix are the sidecars' own.
const SIDECAR_PREFIX: &str = "csi.storage.k8s.io/";
/// Longest spread id, in bytes.
const SPREAD_ID_MAX: usize = 253;

/// A volume to be placed.
#[derive(Clone, Debug)]
pub struct Request {
    /// Name of the Volume. Ties are broken by it.
    pub name: String,
    /// Bytes that it takes.
    pub bytes: u64,
    /// What its class wants.
    pub class: Class,
    /// Where it may be.
    pub places: Places,
    /// When it is asked for.
    pub now: Timestamp,
}

/// What a storage class wants of a drive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Class {
    /// Tiers that are allowed, first choice first; empty for all.
    pub tiers: Vec<AccessTier>,
    /// At most one volume of this group on one drive.
    pub spread_id: Option<String>,
    /// Drives that are allowed.
    pub selector: LabelSelector,
    /// Highest acceptable read p99.
    pub read_latency_p99_ns_max: Option<u64>,
    /// How the criteria are weighed.
    pub weights: Weights,
    /// What the size is worth.
    pub enforcement: CapacityEnforcement,
}

/// A class parameter that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParameterError {
    /// Not a parameter.
    #[error("{0:?} is not a class parameter; there are {list}", list = PARAMETERS.join(", "))]
    Unknown(String),
    /// A value that it cannot have.
    #[error("{key}: {why}")]
    Value {
        /// The parameter.
        key: &'static str,
        /// What is wrong with its value.
        why: String,
    },
}

impl Class {
    /// Reads the parameters of a class.
    ///
    /// # Errors
    /// The first parameter that is not known or has no sense.
    pub fn parse(parameters: &BTreeMap<String, String>) -> Result<Self, ParameterError> {
        let mut class = Self::default();
        for (key, value) in parameters {
            if key.starts_with(SIDECAR_PREFIX) {
                check_sidecar_key(key, value)?;
                continue;
            }
            let known = PARAMETERS.into_iter().find(|known| known == key);
            let known = known.ok_or_else(|| ParameterError::Unknown(key.clone()))?;
            class.set(known, value)?;
        }
        Ok(class)
    }

    fn set(&mut self, key: &'static str, value: &str) -> Result<(), ParameterError> {
        let wrong = |why: String| ParameterError::Value { key, why };
        match key {
            PARAM_ACCESS_TIER => self.tiers = parse_tiers(value).map_err(wrong)?,
            PARAM_SPREAD_ID if value.is_empty() || value.len() > SPREAD_ID_MAX => {
                return Err(wrong(format!("write 1 to {SPREAD_ID_MAX} bytes")));
            }
            PARAM_SPREAD_ID => self.spread_id = Some(value.to_owned()),
            PARAM_DRIVE_SELECTOR => {
                self.selector = value.parse().map_err(|e| wrong(format!("{e}")))?;
            }
            PARAM_MAX_READ_LATENCY_P99 => {
                let Nanos(ceiling) = value.parse().map_err(|e| wrong(format!("{e}")))?;
                if ceiling == 0 {
                    return Err(wrong("no drive answers in no time".to_owned()));
                }
                self.read_latency_p99_ns_max = Some(ceiling);
            }
            PARAM_WEIGHTS => self.weights = value.parse().map_err(|e| wrong(format!("{e}")))?,
            _ => {
                self.enforcement = match value {
                    "strict" => CapacityEnforcement::Strict,
                    "best-effort" => CapacityEnforcement::BestEffort,
                    _ => {
                        return Err(wrong(format!(
                            "{value:?} is neither strict nor best-effort"
                        )));
                    }
                };
            }
        }
        Ok(())
    }
}

fn parse_tiers(value: &str) -> Result<Vec<AccessTier>, String> {
    let mut tiers = Vec::new();
    for word in value.split(',') {
        let tier: AccessTier = word.parse().map_err(|e| format!("{e}"))?;
        if tiers.contains(&tier) {
            return Err(format!("{tier} stands there twice"));
        }
        tiers.push(tier);
    }
    Ok(tiers)
}

fn check_sidecar_key(key: &str, value: &str) -> Result<(), ParameterError> {
    if key == "csi.storage.k8s.io/fstype" && !value.is_empty() && value != "xfs" {
        return Err(ParameterError::Value {
            key: "csi.storage.k8s.io/fstype",
            why: format!("{value:?} is not xfs, the only file system there is"),
        });
    }
    Ok(())
}

/// The claim that the provisioner tells of, where it was started with `--extra-create-metadata`.
#[must_use]
pub fn claim_of(parameters: &BTreeMap<String, String>) -> Option<ClaimRef> {
    let get = |key: &str| {
        let value = parameters.get(&format!("{SIDECAR_PREFIX}{key}"));
        value.cloned().unwrap_or_default()
    };
    let claim = ClaimRef {
        namespace: get("pvc/namespace"),
        name: get("pvc/name"),
        persistent_volume: get("pv/name"),
    };
    (claim != ClaimRef::default()).then_some(claim)
}

/// The parameters that are a class's own; what sidecars add says nothing about the volume wanted.
#[must_use]
pub fn class_parameters(parameters: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    parameters
        .iter()
        .filter(|(key, _)| !key.starts_with(SIDECAR_PREFIX))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// One place: segments that hold together.
pub type Segments = BTreeMap<String, String>;

/// Where a volume may be. Places are joined by OR; those preferred are tried in their order, before all others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// It must be in one of these; empty for anywhere.
    pub required: Vec<Segments>,
    /// It should be in the first of these that has room.
    pub preferred: Vec<Segments>,
}

impl Places {
    /// On one of these nodes.
    #[must_use]
    pub fn nodes<'a>(nodes: impl IntoIterator<Item = &'a str>) -> Self {
        let segments = |node: &str| Segments::from([(TOPOLOGY_NODE.to_owned(), node.to_owned())]);
        Self {
            required: nodes.into_iter().map(segments).collect(),
            preferred: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn a_whole_class() {
        let class = Class::parse(&parameters(&[
            ("access-tier", "hot, Warm"),
            ("spread-id", "ring-1"),
            ("drive-selector", "disk in (fast)"),
            ("max-read-latency-p99", "500us"),
            ("weights", "latency=80,volumes=0"),
            ("capacity-enforcement", "best-effort"),
            ("csi.storage.k8s.io/fstype", "xfs"),
            ("csi.storage.k8s.io/pvc/name", "data-0"),
        ]))
        .unwrap();
        assert_eq!(class.tiers, [AccessTier::Hot, AccessTier::Warm]);
        assert_eq!(class.spread_id.as_deref(), Some("ring-1"));
        assert!(!class.selector.is_empty());
        assert_eq!(class.read_latency_p99_ns_max, Some(500_000));
        assert_eq!(class.weights.latency, 80);
        assert_eq!(class.weights.volumes, 0);
        assert_eq!(class.weights.tier, Weights::default().tier);
        assert_eq!(class.enforcement, CapacityEnforcement::BestEffort);
        assert_eq!(Class::parse(&BTreeMap::new()), Ok(Class::default()));
    }

    #[test]
    fn every_refusal_says_what_may_be() {
        for (key, value, says) in [
            ("acces-tier", "hot", "access-tier, spread-id"),
            ("access-tier", "hottest", "hot, warm, cold, default"),
            ("access-tier", "hot,hot", "twice"),
            ("access-tier", "", "hot, warm, cold, default"),
            ("spread-id", "", "1 to 253"),
            ("drive-selector", "a in b", "write for example"),
            ("max-read-latency-p99", "500", "500us"),
            ("max-read-latency-p99", "0us", "no time"),
            ("weights", "speed=3", "latency, capacity, tier, volumes"),
            ("capacity-enforcement", "maybe", "best-effort"),
            ("csi.storage.k8s.io/fstype", "ext4", "xfs"),
        ] {
            let error = Class::parse(&parameters(&[(key, value)])).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(says), "{key}={value}: {text}");
            assert!(text.contains(key), "{text}");
        }
    }

    #[test]
    fn claims() {
        let given = parameters(&[
            ("csi.storage.k8s.io/pvc/name", "data-0"),
            ("csi.storage.k8s.io/pvc/namespace", "db"),
            ("access-tier", "hot"),
        ]);
        let claim = claim_of(&given).unwrap();
        assert_eq!(
            (claim.namespace.as_str(), claim.name.as_str()),
            ("db", "data-0")
        );
        assert_eq!(claim_of(&parameters(&[("access-tier", "hot")])), None);
        assert_eq!(
            class_parameters(&given),
            parameters(&[("access-tier", "hot")])
        );
    }
}
