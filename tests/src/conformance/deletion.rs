//! Deletion, finalizers, preconditions.

use anyhow::{Result, ensure};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, Preconditions};
use serde_json::json;

use super::{Ground, refused, revision};

const FINALIZER: &str = "ringpv.io/device";

pub(super) async fn deletion_is_final_without_finalizers(ground: &Ground) -> Result<()> {
    let created = ground.create(&ground.volume("a")).await?;
    let name = created.name_any();
    let deleted = ground
        .volumes()
        .delete(&name, &DeleteParams::default())
        .await?;
    let status = deleted.right();
    let uid = status
        .and_then(|status| status.details)
        .map(|details| details.uid);
    ensure!(uid == created.metadata.uid, "{uid:?}");
    ensure!(ground.volumes().get_opt(&name).await?.is_none());
    let again = ground.create(&ground.volume("a")).await?;
    ensure!(
        again.metadata.uid != created.metadata.uid,
        "the same uid again"
    );
    Ok(())
}

pub(super) async fn deletion_waits_for_finalizers(ground: &Ground) -> Result<()> {
    let mut volume = ground.volume("a");
    volume.finalizers_mut().push(FINALIZER.to_owned());
    let created = ground.create(&volume).await?;
    let name = created.name_any();
    let volumes = ground.volumes();
    let deleted = volumes
        .delete(&name, &DeleteParams::default())
        .await?
        .left();
    let deleted = deleted.ok_or_else(|| anyhow::anyhow!("no object, but a status"))?;
    ensure!(deleted.metadata.deletion_timestamp.is_some());
    ensure!(
        deleted.metadata.generation == Some(2),
        "{:?}",
        deleted.metadata.generation
    );
    ensure!(revision(&deleted)? > revision(&created)?);
    volumes.delete(&name, &DeleteParams::default()).await?;
    let still = volumes.get(&name).await?;
    ensure!(still == deleted, "a second deletion changed it");
    ground
        .patch(&name, json!({"spec": {"capacityBytes": 4096}}))
        .await?;
    let last = ground
        .patch(&name, json!({"metadata": {"finalizers": []}}))
        .await?;
    ensure!(last.finalizers().is_empty());
    ensure!(volumes.get_opt(&name).await?.is_none(), "it is still there");
    Ok(())
}

pub(super) async fn a_deleted_object_gains_no_finalizer(ground: &Ground) -> Result<()> {
    let mut volume = ground.volume("a");
    volume.finalizers_mut().push(FINALIZER.to_owned());
    let name = ground.create(&volume).await?.name_any();
    ground
        .volumes()
        .delete(&name, &DeleteParams::default())
        .await?;
    let patch = json!({"metadata": {"finalizers": [FINALIZER, "ringpv.io/placement"]}});
    let status = refused(ground.patch(&name, patch).await, 422, "Invalid")?;
    ensure!(
        status.message.contains("no new finalizers can be added"),
        "{}",
        status.message
    );
    Ok(())
}

pub(super) async fn deletion_keeps_to_its_preconditions(ground: &Ground) -> Result<()> {
    let created = ground.create(&ground.volume("a")).await?;
    let name = created.name_any();
    let volumes = ground.volumes();
    let only = |uid: Option<String>, resource_version: Option<String>| DeleteParams {
        preconditions: Some(Preconditions {
            uid,
            resource_version,
        }),
        ..DeleteParams::default()
    };
    let strange = Some("00000000-0000-0000-0000-000000000000".to_owned());
    let by_uid = volumes.delete(&name, &only(strange, None)).await;
    refused(by_uid, 409, "Conflict")?;
    let by_version = volumes
        .delete(&name, &only(None, Some("1".to_owned())))
        .await;
    refused(by_version, 409, "Conflict")?;
    volumes
        .delete(&name, &only(created.uid(), created.resource_version()))
        .await?;
    ensure!(volumes.get_opt(&name).await?.is_none());
    Ok(())
}

pub(super) async fn a_selection_is_deleted_at_once(ground: &Ground) -> Result<()> {
    for (what, keep) in [("a", false), ("b", false), ("c", true)] {
        let mut volume = ground.volume(what);
        volume
            .labels_mut()
            .insert("keep".to_owned(), keep.to_string());
        ground.create(&volume).await?;
    }
    let doomed = ground
        .mine()
        .labels(&format!("{}={},keep=false", super::LABEL, ground.tag));
    let volumes = ground.volumes();
    volumes
        .delete_collection(&DeleteParams::default(), &doomed)
        .await?;
    let left: Vec<String> = volumes
        .list(&ground.mine())
        .await?
        .iter()
        .map(kube::ResourceExt::name_any)
        .collect();
    ensure!(left == [ground.name("c")], "{left:?}");
    Ok(())
}
