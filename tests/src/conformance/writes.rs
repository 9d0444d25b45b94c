//! Create, replace, merge patch; the status subresource; conflicts.

use anyhow::{Context as _, Result, ensure};
use futures::future::join_all;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use super::{Ground, at, refused, revision};

pub(super) async fn creation_fills_in_what_is_the_servers(ground: &Ground) -> Result<()> {
    let mut wanted = ground.volume("a");
    wanted.metadata.generation = Some(7);
    wanted.metadata.uid = Some("mine".to_owned());
    let created = ground.create(&wanted).await?;
    let meta = &created.metadata;
    ensure!(
        meta.generation == Some(1),
        "generation {:?}",
        meta.generation
    );
    ensure!(
        meta.uid.as_deref().is_some_and(|uid| uid.len() == 36),
        "uid {:?}",
        meta.uid
    );
    ensure!(meta.creation_timestamp.is_some(), "no creationTimestamp");
    ensure!(
        meta.namespace.is_none(),
        "a namespace: {:?}",
        meta.namespace
    );
    revision(&created)?;
    let read = ground.volumes().get(&created.name_any()).await?;
    ensure!(read == created, "{read:?} is not {created:?}");
    Ok(())
}

pub(super) async fn a_name_is_taken_once(ground: &Ground) -> Result<()> {
    let volume = ground.volume("a");
    ground.create(&volume).await?;
    let again = ground
        .volumes()
        .create(&PostParams::default(), &volume)
        .await;
    let status = refused(again, 409, "AlreadyExists")?;
    let expected = format!("volumes.ringpv.io \"{}\" already exists", volume.name_any());
    ensure!(status.message == expected, "{}", status.message);
    Ok(())
}

pub(super) async fn names_are_generated_from_a_prefix(ground: &Ground) -> Result<()> {
    let mut volume = ground.volume("a");
    let prefix = ground.name("gen-");
    volume.metadata.name = None;
    volume.metadata.generate_name = Some(prefix.clone());
    let names = [
        ground.create(&volume).await?.name_any(),
        ground.create(&volume).await?.name_any(),
    ];
    let [first, second] = &names;
    ensure!(first != second, "{first} twice");
    for name in &names {
        ensure!(
            name.starts_with(&prefix) && name.len() == prefix.len() + 5,
            "{name}"
        );
    }
    Ok(())
}

pub(super) async fn what_is_not_there_is_not_found(ground: &Ground) -> Result<()> {
    let name = ground.name("none");
    let volumes = ground.volumes();
    let status = refused(volumes.get(&name).await, 404, "NotFound")?;
    ensure!(
        status.message == format!("volumes.ringpv.io \"{name}\" not found"),
        "{}",
        status.message
    );
    refused(
        ground.patch(&name, json!({"spec": {}})).await,
        404,
        "NotFound",
    )?;
    refused(
        volumes.delete(&name, &DeleteParams::default()).await,
        404,
        "NotFound",
    )?;
    ensure!(volumes.get_opt(&name).await?.is_none());
    Ok(())
}

pub(super) async fn status_changes_by_its_subresource_alone(ground: &Ground) -> Result<()> {
    let mut wanted = ground.volume("a");
    put(&mut wanted.data, json!({"status": {"phase": "Ready"}}))?;
    let created = ground.create(&wanted).await?;
    ensure!(at(&created, "/status").is_null(), "status by create");
    let name = created.name_any();
    let both = json!({"metadata": {"labels": {"extra": "x"}}, "spec": {"capacityBytes": 2048},
        "status": {"phase": "Ready"}});
    let params = PatchParams::default();
    let patched = ground
        .volumes()
        .patch_status(&name, &params, &Patch::Merge(&both))
        .await?;
    ensure!(at(&patched, "/status/phase") == "Ready");
    ensure!(
        at(&patched, "/spec/capacityBytes") == 1024,
        "spec by status"
    );
    ensure!(!patched.labels().contains_key("extra"), "labels by status");
    let mut other = both;
    put(&mut other, json!({"status": {"phase": "Lost"}}))?;
    let patched = ground.patch(&name, other).await?;
    ensure!(
        at(&patched, "/status/phase") == "Ready",
        "status by the object"
    );
    ensure!(at(&patched, "/spec/capacityBytes") == 2048);
    Ok(())
}

fn put(target: &mut serde_json::Value, fields: serde_json::Value) -> Result<()> {
    let target = target.as_object_mut().context("no object")?;
    target.extend(fields.as_object().context("no object")?.clone());
    Ok(())
}

pub(super) async fn generation_counts_changes_of_the_spec(ground: &Ground) -> Result<()> {
    let created = ground.create(&ground.volume("a")).await?;
    let name = created.name_any();
    let labelled = ground
        .patch(&name, json!({"metadata": {"labels": {"extra": "x"}}}))
        .await?;
    ensure!(labelled.metadata.generation == Some(1));
    ensure!(revision(&labelled)? > revision(&created)?);
    let reported = ground
        .volumes()
        .patch_status(
            &name,
            &PatchParams::default(),
            &Patch::Merge(json!({"status": {"phase": "Ready"}})),
        )
        .await?;
    ensure!(reported.metadata.generation == Some(1));
    let grown = ground
        .patch(&name, json!({"spec": {"capacityBytes": 4096}}))
        .await?;
    ensure!(grown.metadata.generation == Some(2));
    Ok(())
}

pub(super) async fn a_stale_replacement_conflicts(ground: &Ground) -> Result<()> {
    let created = ground.create(&ground.volume("a")).await?;
    let name = created.name_any();
    let volumes = ground.volumes();
    let mut wanted = created.clone();
    put(
        &mut wanted.data,
        json!({"spec": {"csiName": "a", "node": "node-1", "capacityBytes": 2048}}),
    )?;
    let params = PostParams::default();
    let replaced = volumes.replace(&name, &params, &wanted).await?;
    ensure!(at(&replaced, "/spec/capacityBytes") == 2048);
    let status = refused(
        volumes.replace(&name, &params, &wanted).await,
        409,
        "Conflict",
    )?;
    ensure!(
        status.message.contains("the object has been modified"),
        "{}",
        status.message
    );
    refused(
        volumes.replace_status(&name, &params, &wanted).await,
        409,
        "Conflict",
    )?;
    Ok(())
}

pub(super) async fn a_replacement_names_a_version(ground: &Ground) -> Result<()> {
    let mut volume = ground.create(&ground.volume("a")).await?;
    volume.metadata.resource_version = None;
    let replaced = ground
        .volumes()
        .replace(&volume.name_any(), &PostParams::default(), &volume)
        .await;
    let status = refused(replaced, 422, "Invalid")?;
    ensure!(
        status.message.contains("metadata.resourceVersion"),
        "{}",
        status.message
    );
    Ok(())
}

pub(super) async fn a_stale_patch_conflicts(ground: &Ground) -> Result<()> {
    let created = ground.create(&ground.volume("a")).await?;
    let name = created.name_any();
    let patch = |size: u64| {
        json!({"metadata": {"resourceVersion": created.resource_version()},
            "spec": {"capacityBytes": size}})
    };
    ground.patch(&name, patch(2048)).await?;
    refused(ground.patch(&name, patch(4096)).await, 409, "Conflict")?;
    Ok(())
}

/// The name is another object's by now. Of a custom resource only the version says so: a uid in a patch of the status is
/// not looked at.
pub(super) async fn a_status_of_an_object_gone_by_now_conflicts(ground: &Ground) -> Result<()> {
    let wanted = ground.volume("a");
    let first = ground.create(&wanted).await?;
    let (name, volumes) = (first.name_any(), ground.volumes());
    volumes.delete(&name, &DeleteParams::default()).await?;
    let second = ground.create(&wanted).await?;
    ensure!(second.uid() != first.uid());
    let patch = json!({"metadata": {"resourceVersion": first.resource_version()},
        "status": {"phase": "Ready"}});
    let params = PatchParams::default();
    let patched = volumes
        .patch_status(&name, &params, &Patch::Merge(&patch))
        .await;
    refused(patched, 409, "Conflict")?;
    ensure!(volumes.get(&name).await? == second, "it was written");
    Ok(())
}

pub(super) async fn a_patch_that_changes_nothing_is_no_write(ground: &Ground) -> Result<()> {
    let created = ground.create(&ground.volume("a")).await?;
    let same = ground
        .patch(
            &created.name_any(),
            json!({"spec": {"capacityBytes": 1024, "claim": null}}),
        )
        .await?;
    ensure!(revision(&same)? == revision(&created)?, "it was written");
    Ok(())
}

pub(super) async fn of_concurrent_replacements_one_wins(ground: &Ground) -> Result<()> {
    let created = ground.create(&ground.volume("a")).await?;
    let name = created.name_any();
    let volumes = ground.volumes();
    let params = PostParams::default();
    let wanted: Vec<_> = (0..8)
        .map(|index| {
            let mut wanted = created.clone();
            wanted
                .labels_mut()
                .insert("who".to_owned(), index.to_string());
            wanted
        })
        .collect();
    let results = join_all(
        wanted
            .iter()
            .map(|one| volumes.replace(&name, &params, one)),
    )
    .await;
    let winners = results.iter().filter(|result| result.is_ok()).count();
    ensure!(winners == 1, "{winners} of 8 won");
    Ok(())
}

pub(super) async fn concurrent_patches_of_other_fields_all_land(ground: &Ground) -> Result<()> {
    let created = ground.create(&ground.volume("a")).await?;
    let name = created.name_any();
    let patches = (0..8).map(|index| {
        let patch = json!({"metadata": {"labels": {format!("l{index}"): "x"}}});
        ground.patch(&name, patch)
    });
    for result in join_all(patches).await {
        result?;
    }
    let labels = ground.volumes().get(&name).await?.labels().len();
    ensure!(labels == 9, "{labels} labels");
    Ok(())
}

pub(super) async fn the_servers_own_metadata_stays(ground: &Ground) -> Result<()> {
    let created = ground.create(&ground.volume("a")).await?;
    let name = created.name_any();
    let patched = ground
        .patch(
            &name,
            json!({"metadata": {"creationTimestamp": "2001-01-01T00:00:00Z", "generation": 9,
                "labels": {"extra": "x"}}}),
        )
        .await?;
    ensure!(patched.metadata.creation_timestamp == created.metadata.creation_timestamp);
    ensure!(patched.metadata.generation == Some(1));
    ensure!(patched.metadata.deletion_timestamp.is_none());
    let deletion = json!({"metadata": {"deletionTimestamp": "2001-01-01T00:00:00Z"}});
    refused(ground.patch(&name, deletion).await, 422, "Invalid")?;
    let uid = json!({"metadata": {"uid": "00000000-0000-0000-0000-000000000000"}});
    refused(ground.patch(&name, uid).await, 422, "Invalid")?;
    let mut other = ground.volumes().get(&name).await?;
    other.metadata.uid = Some("00000000-0000-0000-0000-000000000000".to_owned());
    let replaced = ground
        .volumes()
        .replace(&name, &PostParams::default(), &other)
        .await;
    refused(replaced, 409, "Conflict")?;
    Ok(())
}

pub(super) async fn a_dry_run_leaves_nothing(ground: &Ground) -> Result<()> {
    let volumes = ground.volumes();
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let tried = volumes.create(&dry, &ground.volume("a")).await?;
    ensure!(tried.metadata.uid.is_some());
    let name = tried.name_any();
    ensure!(volumes.get_opt(&name).await?.is_none(), "it was created");
    let mut bad = ground.volume("a");
    put(&mut bad.data, json!({"spec": {"capacityBytes": 0}}))?;
    refused(volumes.create(&dry, &bad).await, 422, "Invalid")?;

    let created = ground.create(&ground.volume("a")).await?;
    let dry = PatchParams {
        dry_run: true,
        ..PatchParams::default()
    };
    let patch = json!({"spec": {"capacityBytes": 4096}});
    let patched = volumes.patch(&name, &dry, &Patch::Merge(patch)).await?;
    ensure!(at(&patched, "/spec/capacityBytes") == 4096);
    volumes
        .delete(&name, &DeleteParams::default().dry_run())
        .await?;
    let read = volumes.get(&name).await?;
    ensure!(read == created, "it was changed");
    Ok(())
}
