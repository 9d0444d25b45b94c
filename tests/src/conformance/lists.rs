//! Lists: selectors, revisions, pages, tables.

use anyhow::{Context as _, Result, ensure};
use http::Request;
use kube::ResourceExt as _;
use kube::api::{DynamicObject, ListParams};
use kube::core::response::StatusCause;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

use super::{Ground, LABEL, refused};

/// Three volumes: `a` and `b` on node-1, `c` on node-2; `a` of tier hot, `b` of tier cold, `c` of none.
async fn three(ground: &Ground) -> Result<()> {
    for (what, node, tier) in [
        ("a", "node-1", Some("hot")),
        ("b", "node-1", Some("cold")),
        ("c", "node-2", None),
    ] {
        let mut volume = ground.volume(what);
        volume.data = json!({"spec": {"csiName": what, "node": node, "capacityBytes": 1}});
        if let Some(tier) = tier {
            volume
                .labels_mut()
                .insert("tier".to_owned(), tier.to_owned());
        }
        ground.create(&volume).await?;
    }
    Ok(())
}

async fn found(ground: &Ground, params: &ListParams) -> Result<String> {
    let prefix = ground.name("");
    let list = ground.volumes().list(params).await?;
    Ok(list
        .iter()
        .filter_map(|volume| volume.name_any().strip_prefix(&prefix).map(str::to_owned))
        .collect())
}

pub(super) async fn labels_select(ground: &Ground) -> Result<()> {
    three(ground).await?;
    for (labels, expected) in [
        ("tier=hot", "a"),
        ("tier!=hot", "bc"),
        ("tier in (hot,cold)", "ab"),
        ("tier notin (cold)", "ac"),
        ("tier", "ab"),
        ("!tier", "c"),
        ("tier=warm", ""),
    ] {
        let params = ListParams::default().labels(&format!("{LABEL}={},{labels}", ground.tag));
        let found = found(ground, &params).await?;
        ensure!(found == expected, "{labels}: {found:?}");
    }
    Ok(())
}

pub(super) async fn fields_select(ground: &Ground) -> Result<()> {
    three(ground).await?;
    for (fields, expected) in [
        ("spec.node=node-1".to_owned(), "ab"),
        ("spec.node!=node-1".to_owned(), "c"),
        (format!("metadata.name={}", ground.name("b")), "b"),
        (
            format!("metadata.name={},spec.node=node-2", ground.name("b")),
            "",
        ),
        (format!("metadata.name!={}", ground.name("b")), "ac"),
    ] {
        let found = found(ground, &ground.mine().fields(&fields)).await?;
        ensure!(found == expected, "{fields}: {found:?}");
    }
    Ok(())
}

pub(super) async fn other_fields_do_not_select(ground: &Ground) -> Result<()> {
    let params = ListParams::default().fields("spec.capacityBytes=1");
    let status = refused(ground.volumes().list(&params).await, 400, "BadRequest")?;
    ensure!(
        status
            .message
            .contains("field label not supported: spec.capacityBytes"),
        "{}",
        status.message
    );
    Ok(())
}

pub(super) async fn a_list_is_as_new_as_its_revision(ground: &Ground) -> Result<()> {
    let created = ground.create(&ground.volume("a")).await?;
    let revision = created.resource_version().context("no revision")?;
    let list = ground.volumes().list(&ground.mine().at(&revision)).await?;
    ensure!(list.items.len() == 1);
    let known = list.metadata.resource_version.context("no revision")?;
    ensure!(
        known.parse::<u64>()? >= revision.parse::<u64>()?,
        "{known} < {revision}"
    );
    let future = (revision.parse::<u64>()? + 1_000_000).to_string();
    // A client may ask again and again; what it must not get is a list that is older than it knows.
    let early = ground.mine().at(&future);
    let list = ground.volumes();
    match tokio::time::timeout(Duration::from_secs(4), list.list(&early)).await {
        Err(_) => {}
        Ok(answer) => {
            let status = refused(answer, 504, "Timeout")?;
            let causes = status.details.context("no details")?.causes;
            let too_large = |cause: &StatusCause| cause.reason == "ResourceVersionTooLarge";
            ensure!(causes.iter().any(too_large), "{causes:?}");
        }
    }
    Ok(())
}

pub(super) async fn a_list_can_be_read_in_pages(ground: &Ground) -> Result<()> {
    three(ground).await?;
    let mut names = BTreeSet::new();
    let mut params = ground.mine().limit(2);
    for _ in 0..3 {
        let page = ground.volumes().list(&params).await?;
        names.extend(page.items.iter().map(kube::ResourceExt::name_any));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = ground.mine().limit(2).continue_token(&token),
            None => break,
        }
    }
    ensure!(names.len() == 3, "{names:?}");
    Ok(())
}

pub(super) async fn a_table_has_the_columns_of_the_definition(ground: &Ground) -> Result<()> {
    three(ground).await?;
    let path = format!(
        "/apis/ringpv.io/v1alpha1/volumes?labelSelector={LABEL}%3D{}&limit=500",
        ground.tag
    );
    let request = Request::get(path)
        .header(
            "accept",
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
        )
        .body(Vec::new())?;
    let table: Value = ground.client.request(request).await?;
    ensure!(table.pointer("/kind") == Some(&json!("Table")), "{table}");
    let list = |pointer: &str| table.pointer(pointer).and_then(Value::as_array).cloned();
    let columns = list("/columnDefinitions").context("no columns")?;
    let name = |column: &Value| {
        let name = column.get("name").and_then(Value::as_str);
        name.unwrap_or_default().to_owned()
    };
    let names: Vec<String> = columns.iter().map(name).collect();
    let crd = <api::Volume as kube::CustomResourceExt>::crd();
    let defined: Vec<String> = std::iter::once("Name".to_owned())
        .chain(
            crd.spec
                .versions
                .iter()
                .flat_map(|version| {
                    version
                        .additional_printer_columns
                        .clone()
                        .unwrap_or_default()
                })
                .map(|column| column.name),
        )
        .collect();
    ensure!(names == defined, "{names:?}");
    let rows = list("/rows").context("no rows")?;
    ensure!(rows.len() == 3, "{} rows", rows.len());
    for row in &rows {
        let cells = row.pointer("/cells").and_then(Value::as_array);
        ensure!(
            cells.is_some_and(|cells| cells.len() == names.len()),
            "{row}"
        );
        let of: Option<DynamicObject> = row
            .get("object")
            .and_then(|object| serde_json::from_value(object.clone()).ok());
        let kind = of.and_then(|object| object.types).map(|types| types.kind);
        ensure!(kind.as_deref() == Some("PartialObjectMetadata"), "{row}");
    }
    Ok(())
}
