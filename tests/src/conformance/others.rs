//! The kinds that are not ours: definitions, namespaces, leases, events; and discovery.

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Event, Namespace, ObjectReference};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::events::{Event as Notice, EventType, Recorder};
use kube::{CustomResourceExt as _, Resource as _, ResourceExt as _};
use serde_json::json;

use super::{Ground, NAMESPACE, refused};

pub(super) async fn definitions_are_established(ground: &Ground) -> Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(ground.client.clone());
    for crd in api::crds() {
        let served = api.get(&crd.name_any()).await?;
        ensure!(served.spec.names.plural == crd.spec.names.plural);
        ensure!(
            kube::runtime::wait::Condition::matches_object(
                &kube::runtime::conditions::is_crd_established(),
                Some(&served)
            ),
            "{:?}",
            served.status
        );
    }
    Ok(())
}

pub(super) async fn kinds_are_discovered_by_their_short_names(ground: &Ground) -> Result<()> {
    let groups = ground.client.list_api_groups().await?;
    for group in ["ringpv.io", "coordination.k8s.io", "events.k8s.io"] {
        ensure!(groups.groups.iter().any(|one| one.name == group), "{group}");
    }
    let resources = ground
        .client
        .list_api_group_resources("ringpv.io/v1alpha1")
        .await?;
    for crd in api::crds() {
        let plural = &crd.spec.names.plural;
        let found = resources.resources.iter().find(|one| one.name == *plural);
        let found = found.context("a kind is not discovered")?;
        ensure!(found.short_names == crd.spec.names.short_names, "{found:?}");
        ensure!(!found.namespaced);
        let status = format!("{plural}/status");
        ensure!(
            resources.resources.iter().any(|one| one.name == status),
            "{status}"
        );
    }
    let discovery = kube::discovery::pinned_kind(
        &ground.client,
        &kube::core::GroupVersionKind::gvk("ringpv.io", "v1alpha1", "Drive"),
    )
    .await?;
    ensure!(
        discovery.0.plural == api::Drive::plural(&()),
        "{:?}",
        discovery.0
    );
    ensure!(api::Drive::crd_name() == "drives.ringpv.io");
    Ok(())
}

pub(super) async fn the_cluster_has_an_id(ground: &Ground) -> Result<()> {
    let api: Api<Namespace> = Api::all(ground.client.clone());
    let uid = api
        .get("kube-system")
        .await?
        .metadata
        .uid
        .unwrap_or_default();
    ensure!(uid.len() == 36, "{uid:?}");
    ensure!(api.get(NAMESPACE).await?.metadata.uid.is_some());
    Ok(())
}

pub(super) async fn a_lease_is_renewed_by_one_holder(ground: &Ground) -> Result<()> {
    let api: Api<Lease> = Api::namespaced(ground.client.clone(), NAMESPACE);
    let name = ground.name("lease");
    let time = MicroTime("2026-01-02T03:04:05.678901Z".parse::<Timestamp>()?);
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some("one".to_owned()),
            lease_duration_seconds: Some(10),
            renew_time: Some(time.clone()),
            ..LeaseSpec::default()
        }),
    };
    let created = api.create(&PostParams::default(), &lease).await?;
    let spec = created.spec.clone().unwrap_or_default();
    ensure!(spec.renew_time == Some(time), "{spec:?}");
    let mut renewed = created.clone();
    renewed.spec = Some(LeaseSpec {
        renew_time: Some(MicroTime(Timestamp::UNIX_EPOCH)),
        ..spec
    });
    api.replace(&name, &PostParams::default(), &renewed).await?;
    refused(
        api.replace(&name, &PostParams::default(), &renewed).await,
        409,
        "Conflict",
    )?;
    let patch = json!({"spec": {"holderIdentity": "two"}});
    let patched = api
        .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    ensure!(
        patched
            .spec
            .and_then(|spec| spec.holder_identity)
            .as_deref()
            == Some("two")
    );
    api.delete(&name, &DeleteParams::default()).await?;
    let nowhere: Api<Lease> = Api::namespaced(ground.client.clone(), "no-such-namespace");
    refused(
        nowhere.create(&PostParams::default(), &lease).await,
        404,
        "NotFound",
    )?;
    Ok(())
}

/// The reference to this case's volume, whether it is there or not.
async fn about(ground: &Ground) -> Result<ObjectReference> {
    let volume = ground.volumes().get_opt(&ground.name("a")).await?;
    Ok(ObjectReference {
        api_version: Some("ringpv.io/v1alpha1".to_owned()),
        kind: Some("Volume".to_owned()),
        name: Some(ground.name("a")),
        uid: volume.and_then(|volume| volume.metadata.uid),
        ..ObjectReference::default()
    })
}

fn notice(note: &str) -> Notice {
    Notice {
        type_: EventType::Warning,
        reason: "Slow".to_owned(),
        note: Some(note.to_owned()),
        action: "Check".to_owned(),
        secondary: None,
    }
}

/// The events about this case's volume, by field selector, as kubectl asks.
async fn told(ground: &Ground) -> Result<Vec<Event>> {
    let api: Api<Event> = Api::namespaced(ground.client.clone(), NAMESPACE);
    let fields = format!(
        "involvedObject.kind=Volume,involvedObject.name={},type=Warning,reason=Slow",
        ground.name("a")
    );
    Ok(api
        .list(&ListParams::default().fields(&fields))
        .await?
        .items)
}

/// Publishes one event about this case's volume.
pub(super) async fn publish(ground: &Ground) -> Result<()> {
    let recorder = Recorder::new(ground.client.clone(), "ringpv-test".into());
    recorder
        .publish(&notice("reads take long"), &about(ground).await?)
        .await?;
    Ok(())
}

/// Removes the events about this case's volume.
pub(super) async fn forget(ground: &Ground) -> Result<()> {
    let api: Api<Event> = Api::namespaced(ground.client.clone(), NAMESPACE);
    for event in told(ground).await? {
        api.delete(&event.name_any(), &DeleteParams::default())
            .await?;
    }
    Ok(())
}

pub(super) async fn events_are_one_under_two_names(ground: &Ground) -> Result<()> {
    use k8s_openapi::api::events::v1::Event as NewEvent;
    publish(ground).await?;
    let found = told(ground).await?;
    let [event] = found.as_slice() else {
        anyhow::bail!("{} events", found.len());
    };
    ensure!(
        event.message.as_deref() == Some("reads take long"),
        "{event:?}"
    );
    ensure!(event.reporting_component.as_deref() == Some("ringpv-test"));
    let api: Api<NewEvent> = Api::namespaced(ground.client.clone(), NAMESPACE);
    let new = api.get(&event.name_any()).await?;
    ensure!(new.note == event.message, "{new:?}");
    ensure!(new.metadata.uid == event.metadata.uid);
    ensure!(new.regarding.and_then(|object| object.name) == event.involved_object.name);
    forget(ground).await
}

pub(super) async fn events_are_where_their_objects_are(ground: &Ground) -> Result<()> {
    let mut reference = about(ground).await?;
    reference.namespace = None;
    let event = |namespace: &str| Event {
        metadata: ObjectMeta {
            generate_name: Some("of-none.".to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: reference.clone(),
        reason: Some("Slow".to_owned()),
        type_: Some("Warning".to_owned()),
        ..Event::default()
    };
    let params = PostParams::default();
    let elsewhere: Api<Event> = Api::namespaced(ground.client.clone(), "kube-system");
    let made = elsewhere.create(&params, &event("kube-system")).await;
    let status = refused(made, 422, "Invalid")?;
    ensure!(
        status.message.contains("does not match event.namespace"),
        "{}",
        status.message
    );
    let api: Api<Event> = Api::namespaced(ground.client.clone(), NAMESPACE);
    api.create(&params, &event(NAMESPACE)).await?;
    forget(ground).await
}

pub(super) async fn a_recorder_counts_repeated_events(ground: &Ground) -> Result<()> {
    let recorder = Recorder::new(ground.client.clone(), "ringpv-test".into());
    for _ in 0..3 {
        recorder
            .publish(&notice("again"), &about(ground).await?)
            .await?;
    }
    let found = told(ground).await?;
    let counts: Vec<_> = found
        .iter()
        .map(|event| event.series.as_ref().and_then(|series| series.count))
        .collect();
    ensure!(counts == [Some(3)], "{counts:?}");
    forget(ground).await
}
