//! One mutation on one object, case by case.

use super::super::kinds::Kinds;
use super::*;
use serde_json::json;

const ID: &str = "0d9f7a52-2f5c-8a61-9c3e-5a0a6e1b7c11";

fn mutation(act: Act) -> Mutation {
    let kinds = Kinds::new(&api::crds()).unwrap();
    Mutation {
        kind: Arc::clone(kinds.find("ringpv.io", "v1alpha1", "drives").unwrap()),
        namespace: String::new(),
        name: (!matches!(act, Act::Create(_))).then(|| ID.to_owned()),
        act,
        dry_run: false,
        unknown_fields: UnknownFields::Warn,
    }
}

fn stamp(revision: u64) -> Stamp {
    Stamp {
        now: "2026-01-01T00:00:00.5Z".parse().unwrap(),
        revision,
        uid: uuid::Uuid::from_u128(u128::from(revision)),
    }
}

fn drive() -> Value {
    json!({
        "apiVersion": "ringpv.io/v1alpha1",
        "kind": "Drive",
        "metadata": {"name": ID, "finalizers": ["ringpv.io/device"]},
        "spec": {"node": "n", "device": {"fingerprint": {"identity": "i", "content": "c"}, "sizeBytes": 1}},
    })
}

fn run(act: Act, current: Option<Value>, revision: u64) -> Result<Effect, Refusal> {
    let mut mutation = mutation(act);
    mutation.settle_name(&stamp(revision))?;
    Ok(mutation.apply(current, &stamp(revision))?.effect)
}

fn created() -> Value {
    let Effect::Created(object) = run(Act::Create(drive()), None, 5).unwrap() else {
        panic!("not created");
    };
    object
}

fn merge_main(current: Value, patch: Value) -> Result<Effect, Refusal> {
    let act = Act::Merge {
        patch,
        status: false,
    };
    run(act, Some(current), 9)
}

fn merge_status(current: Value, patch: Value) -> Result<Effect, Refusal> {
    let act = Act::Merge {
        patch,
        status: true,
    };
    run(act, Some(current), 9)
}

fn modified(effect: Result<Effect, Refusal>) -> Value {
    let Effect::Modified(object) = effect.unwrap() else {
        panic!("not modified");
    };
    object
}

#[test]
fn creation_fills_in_what_is_the_servers() {
    let mut wanted = drive();
    wanted["status"] = json!({"phase": "Ready"});
    wanted["metadata"]["generation"] = json!(7);
    let Effect::Created(object) = run(Act::Create(wanted), None, 5).unwrap() else {
        panic!("not created");
    };
    assert_eq!(object["metadata"]["resourceVersion"], "5");
    assert_eq!(object["metadata"]["generation"], 1);
    assert_eq!(
        object["metadata"]["creationTimestamp"],
        "2026-01-01T00:00:00Z"
    );
    assert_eq!(object["spec"]["accessTier"], "Default");
    assert_eq!(object.get("status"), None);
}

#[test]
fn creation_over_another_is_refused() {
    let refused = run(Act::Create(drive()), Some(created()), 6).unwrap_err();
    assert_eq!((refused.code, refused.reason), (409, "AlreadyExists"));
}

#[test]
fn an_object_against_its_schema_or_rules_is_refused() {
    let mut wanted = drive();
    wanted["metadata"]["name"] = json!("nvme0");
    let refused = run(Act::Create(wanted), None, 6).unwrap_err();
    assert_eq!(refused.code, 422);
    assert!(
        refused.message.contains("is the UUID that discover shows"),
        "{refused}"
    );

    let mut lost = created();
    lost["status"] = json!({"phase": "Lost"});
    for elsewhere in [
        json!({"node": "other"}),
        json!({"device": {"name": "sdz"}}),
        json!({"device": {"sizeBytes": 2}}),
        json!({"device": {"fingerprint": {"content": "other"}}}),
    ] {
        let patch = json!({ "spec": elsewhere });
        let refused = merge_main(created(), patch.clone()).unwrap_err();
        assert!(
            refused.message.contains("change only by accept"),
            "{patch}: {refused}"
        );
        modified(merge_main(lost.clone(), patch));
    }
}

#[test]
fn generation_counts_changes_of_what_is_wanted() {
    let labelled = modified(merge_main(
        created(),
        json!({"metadata": {"labels": {"a": "b"}}}),
    ));
    assert_eq!(labelled["metadata"]["generation"], 1);
    assert_eq!(labelled["metadata"]["resourceVersion"], "9");
    let cordoned = modified(merge_main(created(), json!({"spec": {"cordoned": true}})));
    assert_eq!(cordoned["metadata"]["generation"], 2);
    let reported = modified(merge_status(
        created(),
        json!({"status": {"phase": "Ready"}}),
    ));
    assert_eq!(reported["metadata"]["generation"], 1);
}

#[test]
fn status_changes_by_its_subresource_alone() {
    let both = json!({"spec": {"cordoned": true}, "status": {"phase": "Ready"},
        "metadata": {"labels": {"a": "b"}}});
    let main = modified(merge_main(created(), both.clone()));
    assert_eq!(main.get("status"), None);
    assert_eq!(main["spec"]["cordoned"], true);
    let status = modified(merge_status(created(), both));
    assert_eq!(status["status"]["phase"], "Ready");
    assert_eq!(status["spec"]["cordoned"], false);
    assert_eq!(status["metadata"].get("labels"), None);
}

#[test]
fn a_write_to_another_version_is_refused() {
    let refused = merge_main(
        created(),
        json!({"metadata": {"resourceVersion": "4"}, "spec": {"cordoned": true}}),
    )
    .unwrap_err();
    assert_eq!((refused.code, refused.reason), (409, "Conflict"));
    let mut wanted = created();
    wanted["spec"]["cordoned"] = json!(true);
    let put = |object| Act::Replace {
        object,
        status: false,
    };
    modified(run(put(wanted.clone()), Some(created()), 9));
    wanted["metadata"]["resourceVersion"] = json!("4");
    assert_eq!(
        run(put(wanted.clone()), Some(created()), 9)
            .unwrap_err()
            .code,
        409
    );
    take(&mut wanted["metadata"], "resourceVersion");
    assert_eq!(run(put(wanted), Some(created()), 9).unwrap_err().code, 422);
}

#[test]
fn a_write_that_changes_nothing_is_no_write() {
    let effect = merge_main(
        created(),
        json!({"spec": {"cordoned": false, "gate": null}}),
    );
    assert_eq!(effect.unwrap(), Effect::Same(created()));
}

#[test]
fn deletion_waits_for_finalizers() {
    let delete = || Act::Delete(Preconditions::default());
    let deleted = modified(run(delete(), Some(created()), 9));
    assert_eq!(
        deleted["metadata"]["deletionTimestamp"],
        "2026-01-01T00:00:00Z"
    );
    assert_eq!(deleted["metadata"]["generation"], 2);
    assert_eq!(
        run(delete(), Some(deleted.clone()), 10).unwrap(),
        Effect::Same(deleted.clone())
    );
    let refused = merge_main(
        deleted.clone(),
        json!({"metadata": {"finalizers": ["ringpv.io/device", "a.b/c"]}}),
    );
    assert_eq!(refused.unwrap_err().code, 422);
    let effect = merge_main(deleted, json!({"metadata": {"finalizers": null}}));
    let Effect::Removed(last) = effect.unwrap() else {
        panic!("not removed");
    };
    assert_eq!(last["metadata"]["resourceVersion"], "9");
}

#[test]
fn deletion_keeps_to_its_preconditions() {
    for (preconditions, expected) in [
        (
            Preconditions {
                uid: Some("other".to_owned()),
                ..Preconditions::default()
            },
            Some(409),
        ),
        (
            Preconditions {
                resource_version: Some("4".to_owned()),
                ..Preconditions::default()
            },
            Some(409),
        ),
        (
            Preconditions {
                uid: Some(uuid::Uuid::from_u128(5).to_string()),
                resource_version: Some("5".to_owned()),
            },
            None,
        ),
    ] {
        let effect = run(Act::Delete(preconditions.clone()), Some(created()), 9);
        assert_eq!(effect.err().map(|e| e.code), expected, "{preconditions:?}");
    }
}

#[test]
fn unknown_fields_are_ignored_told_or_refused() {
    let mut wanted = drive();
    wanted["spec"]["colour"] = json!("blue");
    let mut mutation = mutation(Act::Create(wanted));
    mutation.settle_name(&stamp(5)).unwrap();
    let change = mutation.apply(None, &stamp(5)).unwrap();
    assert_eq!(change.warnings, ["unknown field \"spec.colour\""]);
    mutation.unknown_fields = UnknownFields::Ignore;
    assert!(mutation.apply(None, &stamp(5)).unwrap().warnings.is_empty());
    mutation.unknown_fields = UnknownFields::Strict;
    assert_eq!(mutation.apply(None, &stamp(5)).unwrap_err().code, 400);
}

#[test]
fn merge_patches_are_those_of_rfc_7386() {
    for (target, patch, expected) in [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (
            json!({"a": "b"}),
            json!({"b": "c"}),
            json!({"a": "b", "b": "c"}),
        ),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (
            json!({"a": {"b": "c"}}),
            json!({"a": {"b": "d", "c": null}}),
            json!({"a": {"b": "d"}}),
        ),
        (
            json!({"a": [{"b": "c"}]}),
            json!({"a": [1]}),
            json!({"a": [1]}),
        ),
        (
            json!({"e": null}),
            json!({"a": 1}),
            json!({"e": null, "a": 1}),
        ),
        (
            json!([1, 2]),
            json!({"a": "b", "c": null}),
            json!({"a": "b"}),
        ),
        (
            json!({}),
            json!({"a": {"bb": {"ccc": null}}}),
            json!({"a": {"bb": {}}}),
        ),
    ] {
        let mut merged = target.clone();
        merge(&mut merged, &patch);
        assert_eq!(merged, expected, "{target} {patch}");
    }
}
