//! Schemas, defaults, rules, unknown fields.

use anyhow::{Context as _, Result, ensure};
use http::Request;
use kube::ResourceExt as _;
use kube::api::{
    Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, ValidationDirective,
};
use kube::core::ApiResource;
use serde_json::{Value, json};

use super::{Ground, LABEL, at, refused};

async fn try_spec(ground: &Ground, spec: Value) -> kube::Result<DynamicObject> {
    let mut volume = ground.volume("a");
    volume.data = json!({ "spec": spec });
    let params = PostParams::default();
    ground.volumes().create(&params, &volume).await
}

pub(super) async fn values_are_held_to_the_schema(ground: &Ground) -> Result<()> {
    for (spec, said) in [
        (
            json!({"csiName": "a", "node": "n"}),
            "spec.capacityBytes: Required value",
        ),
        (
            json!({"csiName": "a", "node": "n", "capacityBytes": "1Gi"}),
            "spec.capacityBytes in body must be of type integer: \"string\"",
        ),
        (
            json!({"csiName": "a", "node": "n", "capacityBytes": 0}),
            "spec.capacityBytes: Invalid value: 0: spec.capacityBytes in body should be greater than or equal to 1",
        ),
        (
            json!({"csiName": "a", "node": "", "capacityBytes": 1}),
            "spec.node in body should be at least 1 chars long",
        ),
        (
            json!({"csiName": "a", "node": "n", "capacityBytes": 1, "capacityEnforcement": "Lax"}),
            "spec.capacityEnforcement: Unsupported value: \"Lax\": supported values: ",
        ),
    ] {
        let status = refused(try_spec(ground, spec.clone()).await, 422, "Invalid")?;
        ensure!(status.message.contains(said), "{spec}: {}", status.message);
    }
    Ok(())
}

pub(super) async fn causes_name_the_fields(ground: &Ground) -> Result<()> {
    let tried = try_spec(ground, json!({"csiName": "a", "capacityBytes": 0})).await;
    let status = refused(tried, 422, "Invalid")?;
    let details = status.details.context("no details")?;
    let mut causes: Vec<(&str, &str)> = details
        .causes
        .iter()
        .map(|cause| (cause.field.as_str(), cause.reason.as_str()))
        // A kube-apiserver adds that it has not looked at the rules.
        .filter(|(field, _)| *field != "<nil>")
        .collect();
    causes.sort_unstable();
    ensure!(
        causes
            == [
                ("spec.capacityBytes", "FieldValueInvalid"),
                ("spec.node", "FieldValueRequired")
            ],
        "{causes:?}"
    );
    ensure!(
        details.kind == "Volume" && details.group == "ringpv.io",
        "{details:?}"
    );
    Ok(())
}

pub(super) async fn defaults_are_filled_in(ground: &Ground) -> Result<()> {
    let created = ground.create(&ground.volume("a")).await?;
    ensure!(at(&created, "/spec/fsType") == "xfs", "{:?}", created.data);
    ensure!(at(&created, "/spec/capacityEnforcement") == "Strict");
    ensure!(at(&created, "/spec/release") == false);
    let name = created.name_any();
    let patched = ground
        .patch(&name, json!({"spec": {"fsType": null}}))
        .await?;
    ensure!(at(&patched, "/spec/fsType") == "xfs");
    Ok(())
}

pub(super) async fn rules_on_names_hold(ground: &Ground) -> Result<()> {
    let resource = ApiResource::erase::<api::Drive>(&());
    let drives: Api<DynamicObject> = Api::all_with(ground.client.clone(), &resource);
    let drive = DynamicObject::new(&ground.name("drive"), &resource).data(json!({
        "spec": {"node": "n", "device": {"sizeBytes": 1, "fingerprint": {"identity": "i", "content": "c"}}},
    }));
    let status = refused(
        drives.create(&PostParams::default(), &drive).await,
        422,
        "Invalid",
    )?;
    ensure!(
        status.message.contains("a Drive's name is the UUID"),
        "{}",
        status.message
    );
    Ok(())
}

pub(super) async fn rules_on_changes_hold(ground: &Ground) -> Result<()> {
    let mut wanted = ground.volume("a");
    wanted.data =
        json!({"spec": {"csiName": "a", "node": "n", "capacityBytes": 1024, "drive": "d"}});
    let name = ground.create(&wanted).await?.name_any();
    for (patch, said) in [
        (
            json!({"spec": {"capacityBytes": 512}}),
            "capacity never shrinks",
        ),
        (json!({"spec": {"drive": "e"}}), "drive never changes"),
        (json!({"spec": {"drive": null}}), "drive never changes"),
        (json!({"spec": {"csiName": "b"}}), "CSI name never change"),
    ] {
        let status = refused(ground.patch(&name, patch.clone()).await, 422, "Invalid")?;
        ensure!(status.message.contains(said), "{patch}: {}", status.message);
    }
    // But to the drive that was named, and only together with the name's end.
    ground
        .patch(&name, json!({"spec": {"moveTo": "e"}}))
        .await?;
    for patch in [
        json!({"spec": {"drive": "e"}}),
        json!({"spec": {"drive": "f", "moveTo": null}}),
    ] {
        let status = refused(ground.patch(&name, patch.clone()).await, 422, "Invalid")?;
        ensure!(
            status.message.contains("moveTo named"),
            "{patch}: {}",
            status.message
        );
    }
    ground
        .patch(&name, json!({"spec": {"drive": "e", "moveTo": null}}))
        .await?;
    ground
        .patch(
            &name,
            json!({"spec": {"capacityBytes": 2048, "release": true}}),
        )
        .await?;
    let back = ground
        .patch(&name, json!({"spec": {"release": false}}))
        .await;
    refused(back, 422, "Invalid")?;
    Ok(())
}

pub(super) async fn a_drive_stays_where_it_is_unless_lost(ground: &Ground) -> Result<()> {
    let resource = ApiResource::erase::<api::Drive>(&());
    let drives: Api<DynamicObject> = Api::all_with(ground.client.clone(), &resource);
    let name = format!("{:08x}-0000-8000-8000-00000000c0de", std::process::id());
    let mut drive = DynamicObject::new(&name, &resource).data(json!({
        "spec": {"node": "n", "device": {"name": "sda", "sizeBytes": 1, "fingerprint": {"identity": "i", "content": "c"}}},
    }));
    drive
        .labels_mut()
        .insert(LABEL.to_owned(), "drive".to_owned());
    drives.create(&PostParams::default(), &drive).await?;
    let said = a_drive_stays(&drives, &name).await;
    drives.delete(&name, &DeleteParams::default()).await?;
    said
}

async fn a_drive_stays(drives: &Api<DynamicObject>, name: &str) -> Result<()> {
    let params = PatchParams::default();
    let moves = [
        json!({"node": "other"}),
        json!({"device": {"name": "sdb"}}),
        json!({"device": {"sizeBytes": 2}}),
        json!({"device": {"fingerprint": {"identity": "other"}}}),
        json!({"device": {"fingerprint": {"content": "other"}}}),
    ];
    for spec in &moves {
        let patch = Patch::Merge(json!({ "spec": spec }));
        let status = refused(drives.patch(name, &params, &patch).await, 422, "Invalid")?;
        ensure!(
            status.message.contains("change only by accept"),
            "{spec}: {}",
            status.message
        );
    }
    let lost = Patch::Merge(json!({"status": {"phase": "Lost"}}));
    drives.patch_status(name, &params, &lost).await?;
    for spec in moves {
        let patch = Patch::Merge(json!({ "spec": spec }));
        drives.patch(name, &params, &patch).await?;
    }
    Ok(())
}

pub(super) async fn unknown_fields_are_dropped_or_refused(ground: &Ground) -> Result<()> {
    let created = ground.create(&ground.volume("a")).await?;
    let name = created.name_any();
    let patch = json!({"spec": {"colour": "blue", "capacityBytes": 2048}});
    let patched = ground.patch(&name, patch.clone()).await?;
    ensure!(at(&patched, "/spec/colour").is_null(), "{:?}", patched.data);
    ensure!(at(&patched, "/spec/capacityBytes") == 2048);
    let strict = PatchParams {
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::default()
    };
    let tried = ground
        .volumes()
        .patch(&name, &strict, &Patch::Merge(patch))
        .await;
    // A kube-apiserver refuses a strict patch as unprocessable, a strict creation as a bad request.
    let Err(kube::Error::Api(status)) = tried else {
        anyhow::bail!("not refused: {tried:?}");
    };
    ensure!(matches!(status.code, 400 | 422), "{status:?}");
    ensure!(
        status.message.contains("unknown field \"spec.colour\""),
        "{}",
        status.message
    );
    Ok(())
}

pub(super) async fn labels_are_held_to_their_form(ground: &Ground) -> Result<()> {
    let name = ground.create(&ground.volume("a")).await?.name_any();
    let patch = json!({"metadata": {"labels": {LABEL: "not a label"}}});
    let status = refused(ground.patch(&name, patch).await, 422, "Invalid")?;
    ensure!(
        status.message.contains("metadata.labels"),
        "{}",
        status.message
    );
    let mut volume = ground.volume("b");
    volume.metadata.name = Some(ground.name("UPPER"));
    let tried = ground
        .volumes()
        .create(&PostParams::default(), &volume)
        .await;
    let status = refused(tried, 422, "Invalid")?;
    ensure!(
        status.message.contains("RFC 1123 subdomain"),
        "{}",
        status.message
    );
    Ok(())
}

pub(super) async fn nonsense_is_a_bad_request(ground: &Ground) -> Result<()> {
    let post = |body: &str| {
        Request::post("/apis/ringpv.io/v1alpha1/volumes")
            .header("content-type", "application/json")
            .body(body.as_bytes().to_vec())
    };
    for body in [
        "{",
        "[]",
        "{\"kind\": \"Volume\", \"apiVersion\": \"ringpv.io/v1\"}",
    ] {
        let answer = ground.client.request::<Value>(post(body)?).await;
        refused(answer, 400, "BadRequest")?;
    }
    let other = "{\"kind\": \"Drive\", \"apiVersion\": \"ringpv.io/v1alpha1\"}";
    let answer = ground.client.request::<Value>(post(other)?).await;
    refused(answer, 422, "Invalid")?;
    let volume = ground.volume("a");
    ground.create(&volume).await?;
    let mut renamed = ground.volumes().get(&volume.name_any()).await?;
    renamed.metadata.name = Some(ground.name("other"));
    let put = Request::put(format!(
        "/apis/ringpv.io/v1alpha1/volumes/{}",
        volume.name_any()
    ))
    .header("content-type", "application/json")
    .body(serde_json::to_vec(&renamed)?)?;
    refused(ground.client.request::<Value>(put).await, 400, "BadRequest")?;
    let nowhere = Request::get("/apis/ringpv.io/v1alpha1/nothings").body(Vec::new())?;
    let answer = ground.client.request::<Value>(nowhere).await;
    ensure!(
        matches!(&answer, Err(kube::Error::Api(status)) if status.code == 404),
        "{answer:?}"
    );
    Ok(())
}
