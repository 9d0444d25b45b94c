//! PersistentVolumes of the cluster: which of them name volumes of ours, and new ones for volumes that none names. As long
//! as one does, somebody counts on the data, though no pod may run. The embedded API has no such objects.

use std::collections::BTreeMap;

use anyhow::Context as _;
use api::names::{DRIVER, TOPOLOGY_NODE};
use api::{Reason, Volume};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::advice::{Refusal, Stop};
use crate::change;
use crate::session::Session;

/// Objects of one answer of the server.
const PAGE: u32 = 500;

/// What names volumes, by the volume's name.
#[derive(Debug, Default)]
pub(crate) struct Claimed(BTreeMap<String, Named>);

/// One that names a volume.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    persistent_volume: String,
    /// `NAMESPACE/NAME` of the claim that it is bound to, or was.
    claim: Option<String>,
}

impl Claimed {
    /// Asks the cluster; `None` where it has no such objects.
    pub(crate) async fn ask(session: &mut Session) -> Result<Option<Self>, Stop> {
        let api: Api<PersistentVolume> = Api::all(session.client().await?);
        let mut claimed = Self::default();
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let list = match api.list(&page).await {
                Ok(list) => list,
                Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            claimed.0.extend(list.items.iter().filter_map(named));
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => return Ok(Some(claimed)),
            }
        }
    }

    /// Why a volume may not be destroyed: who names it.
    pub(crate) fn refusal(&self, volume: &str) -> Option<Refusal> {
        let Named {
            persistent_volume,
            claim,
        } = self.0.get(volume)?;
        let (of, first) = match claim {
            Some(claim) => {
                let (namespace, name) = claim.split_once('/').unwrap_or(("", claim));
                let delete = format!("kubectl delete pvc --namespace {namespace} {name}, then ");
                (format!(" (of the claim {claim})"), delete)
            }
            None => (String::new(), String::new()),
        };
        let refusal = Refusal::new(Reason::StillClaimed, format!("volume {volume}")).detail(
            format!("the PersistentVolume {persistent_volume}{of} names it"),
        );
        Some(refusal.next(format!(
            "if nobody needs its data: {first}kubectl delete pv {persistent_volume} where that is still there"
        )))
    }

    /// Who names a volume: its claim, else the PersistentVolume itself.
    pub(crate) fn by(&self, volume: &str) -> Option<&str> {
        let named = self.0.get(volume)?;
        Some(named.claim.as_ref().unwrap_or(&named.persistent_volume))
    }

    /// Whether nothing counts on a volume: no PersistentVolume names it, and nobody has it mounted.
    pub(crate) fn is_gone(&self, volume: &Volume) -> bool {
        let published = volume
            .status
            .iter()
            .any(|status| !status.targets.is_empty());
        !published && !self.0.contains_key(&volume.name_any())
    }
}

/// The volume that a PersistentVolume names, if it is one of ours.
fn named(pv: &PersistentVolume) -> Option<(String, Named)> {
    let spec = pv.spec.as_ref()?;
    let source = spec.csi.as_ref().filter(|csi| csi.driver == DRIVER)?;
    let claim = spec.claim_ref.as_ref().and_then(|claim| {
        let (namespace, name) = (claim.namespace.as_ref()?, claim.name.as_ref()?);
        Some(format!("{namespace}/{name}"))
    });
    let named = Named {
        persistent_volume: pv.name_any(),
        claim,
    };
    Some((source.volume_handle.clone(), named))
}

/// A PersistentVolume for a volume that none names, of a StorageClass (empty for none), kept for the claim that the volume
/// was made for; none where that is not on record, for then any claim could get the data. What it names is never deleted
/// with it: who adopts has yet to look whether all is there.
fn made_for(volume: &Volume, class: &str) -> Result<Option<PersistentVolume>, Stop> {
    let spec = &volume.spec;
    let claim = spec.claim.clone().unwrap_or_default();
    if claim.name.is_empty() {
        return Ok(None);
    }
    let name = match claim.persistent_volume.as_str() {
        "" => volume.name_any(),
        name => name.to_owned(),
    };
    let mode = if spec.single_writer {
        "ReadWriteOncePod"
    } else {
        "ReadWriteOnce"
    };
    let pv = json!({
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": spec.capacity_bytes.to_string()},
            "accessModes": [mode],
            "storageClassName": class,
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"namespace": claim.namespace, "name": claim.name},
            "csi": {"driver": DRIVER, "volumeHandle": volume.name_any(), "fsType": "xfs"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": TOPOLOGY_NODE, "operator": "In", "values": [spec.node]},
            ]}]}},
        },
    });
    Ok(Some(
        serde_json::from_value(pv).context("a PersistentVolume")?,
    ))
}

/// Makes one for each of these volumes that none names and that is to stay.
pub(crate) async fn make(
    session: &mut Session,
    volumes: &[&Volume],
    class: &str,
) -> Result<(), Stop> {
    let claimed = Claimed::ask(session).await?.ok_or_else(|| {
        Stop::refused(
            Refusal::new(Reason::Unsupported, "--pv-class")
                .detail("this server has no PersistentVolumes"),
        )
    })?;
    let lacks = |volume: &&&Volume| {
        let leaving = volume.spec.release || volume.metadata.deletion_timestamp.is_some();
        !leaving && !volume.spec.ephemeral && claimed.by(&volume.name_any()).is_none()
    };
    let api: Api<PersistentVolume> = Api::all(session.client().await?);
    for volume in volumes.iter().filter(lacks) {
        let Some(pv) = made_for(volume, class)? else {
            let text = "volume {} gets no PersistentVolume: for which claim it was made is not on record, and any claim could take it; write one with a claimRef by hand";
            session
                .screen
                .note(text.replace("{}", &volume.name_any()))?;
            continue;
        };
        let name = pv.name_any();
        match api.create(&change::post(), &pv).await {
            Ok(_) => session.screen.line(format!(
                "PersistentVolume {name} made for volume {}",
                volume.name_any()
            ))?,
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                let refusal = Refusal::new(
                    Reason::NameConflict,
                    format!("volume {}", volume.name_any()),
                )
                .detail(format!(
                    "a PersistentVolume {name} is there, and names something else"
                ))
                .next("kubectl delete it, or write one of another name by hand");
                session.screen.note(refusal)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use api::volume::{ClaimRef, Target};
    use serde_json::Value;

    use super::*;
    use crate::testing;

    fn pv(name: &str, driver: &str, handle: &str, claim: Value) -> PersistentVolume {
        serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"csi": {"driver": driver, "volumeHandle": handle}, "claimRef": claim},
        }))
        .unwrap()
    }

    fn claimed() -> Claimed {
        let all = [
            pv(
                "one",
                DRIVER,
                "v1",
                json!({"namespace": "db", "name": "data"}),
            ),
            pv("two", DRIVER, "v2", Value::Null),
            pv("theirs", "other.io", "v3", Value::Null),
        ];
        Claimed(all.iter().filter_map(named).collect())
    }

    #[test]
    fn who_names_a_volume_is_said_with_the_way_out() {
        let refusal = claimed().refusal("v1").unwrap();
        assert_eq!(refusal.reason, Reason::StillClaimed);
        assert!(refusal.detail.contains("one (of the claim db/data)"));
        let next = refusal.next.unwrap();
        assert!(
            next.contains("kubectl delete pvc --namespace db data, then kubectl delete pv one")
        );
        let refusal = claimed().refusal("v2").unwrap();
        assert!(!refusal.next.unwrap().contains("pvc"));
        assert_eq!(claimed().refusal("v3"), None, "another driver's");
    }

    #[test]
    fn a_new_one_is_kept_for_its_claim() {
        let mut volume = testing::volume("v9", "n1", "d1", 1 << 20);
        assert_eq!(
            made_for(&volume, "").unwrap(),
            None,
            "it would be anybody's"
        );
        volume.spec.claim = Some(ClaimRef {
            namespace: "db".to_owned(),
            name: "data".to_owned(),
            persistent_volume: "pvc-1".to_owned(),
        });
        let pv = made_for(&volume, "ringpv").unwrap().unwrap();
        assert_eq!(pv.name_any(), "pvc-1");
        let claimed = Claimed(named(&pv).into_iter().collect());
        assert_eq!(claimed.by("v9"), Some("db/data"));
        let policy = pv.spec.unwrap().persistent_volume_reclaim_policy;
        assert_eq!(policy.as_deref(), Some("Retain"));
    }

    #[test]
    fn gone_is_what_nobody_names_or_uses() {
        let mut volume = testing::volume("v3", "n1", "d1", 1 << 20);
        assert!(claimed().is_gone(&volume));
        assert!(!claimed().is_gone(&testing::volume("v1", "n1", "d1", 1 << 20)));
        if let Some(status) = &mut volume.status {
            status.targets = vec![Target {
                path: "/pod".to_owned(),
                read_only: false,
                pod: String::new(),
            }];
        }
        assert!(
            !claimed().is_gone(&volume),
            "an inline volume has no PersistentVolume"
        );
    }
}
