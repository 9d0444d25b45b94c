//! What our processes rely on of the Kubernetes API, as cases over a client: written once, and held against the
//! embedded API in memory, over its socket, and against a real kube-apiserver.
//!
//! A case makes its own objects under throwaway names, sees only those, and leaves none. On a real cluster nothing
//! of RingPV may run meanwhile: its controller would take the cases' objects for its own.

mod deletion;
pub mod kubectl;
mod lists;
mod others;
mod validation;
mod watching;
mod writes;

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::BoxFuture;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, Status};
use kube::{Client, Resource, ResourceExt as _};
use serde_json::{Value, json};
use std::fmt::Debug;
use std::path::Path;
use std::time::Duration;

/// Longest time for one case.
const CASE_MAX: Duration = Duration::from_secs(120);
/// Label that every object of a case bears; its value is the case's tag.
const LABEL: &str = "ringpv-conformance";
/// Namespace of the namespaced objects of the cases; every cluster has it.
const NAMESPACE: &str = "default";

/// One case.
struct Case {
    /// What must hold.
    name: &'static str,
    run: for<'a> fn(&'a Ground) -> BoxFuture<'a, Result<()>>,
}

macro_rules! cases {
    ($($module:ident: $($name:ident),* $(,)?;)*) => {
        vec![$($(Case {
            name: stringify!($name),
            run: |ground| Box::pin($module::$name(ground)),
        }),*),*]
    };
}

/// All cases.
fn cases() -> Vec<Case> {
    cases! {
        writes:
            creation_fills_in_what_is_the_servers,
            a_name_is_taken_once,
            names_are_generated_from_a_prefix,
            what_is_not_there_is_not_found,
            status_changes_by_its_subresource_alone,
            generation_counts_changes_of_the_spec,
            a_stale_replacement_conflicts,
            a_replacement_names_a_version,
            a_stale_patch_conflicts,
            a_status_of_an_object_gone_by_now_conflicts,
            a_patch_that_changes_nothing_is_no_write,
            of_concurrent_replacements_one_wins,
            concurrent_patches_of_other_fields_all_land,
            the_servers_own_metadata_stays,
            a_dry_run_leaves_nothing;
        validation:
            values_are_held_to_the_schema,
            causes_name_the_fields,
            defaults_are_filled_in,
            rules_on_names_hold,
            rules_on_changes_hold,
            a_drive_stays_where_it_is_unless_lost,
            unknown_fields_are_dropped_or_refused,
            labels_are_held_to_their_form,
            nonsense_is_a_bad_request;
        deletion:
            deletion_is_final_without_finalizers,
            deletion_waits_for_finalizers,
            a_deleted_object_gains_no_finalizer,
            deletion_keeps_to_its_preconditions,
            a_selection_is_deleted_at_once;
        lists:
            labels_select,
            fields_select,
            other_fields_do_not_select,
            a_list_is_as_new_as_its_revision,
            a_list_can_be_read_in_pages,
            a_table_has_the_columns_of_the_definition;
        watching:
            a_watch_tells_what_happens_in_order,
            a_watch_from_nothing_begins_with_what_is_there,
            a_streaming_list_ends_in_a_bookmark,
            a_watch_with_a_selector_tells_of_coming_and_going,
            a_watch_of_one_name_tells_of_no_other,
            a_watch_from_long_ago_is_gone,
            a_watch_ends_after_its_time,
            the_watcher_sees_every_change;
        others:
            definitions_are_established,
            kinds_are_discovered_by_their_short_names,
            the_cluster_has_an_id,
            a_lease_is_renewed_by_one_holder,
            events_are_one_under_two_names,
            events_are_where_their_objects_are,
            a_recorder_counts_repeated_events;
    }
}

/// Where a case runs: a client, and a tag that nothing else bears.
struct Ground {
    client: Client,
    tag: String,
}

impl Case {
    /// Runs the case against what `client` talks to; `tag` is part of every name it makes.
    ///
    /// # Errors
    /// With what does not hold.
    async fn run(&self, client: Client, tag: &str) -> Result<()> {
        let ground = Ground {
            client,
            tag: tag.to_owned(),
        };
        let result = (self.run)(&ground).await;
        result.and(ground.sweep().await)
    }
}

/// Runs all cases against what `client` talks to, and says so case by case.
///
/// # Errors
/// With every case that does not hold.
pub async fn hold(client: Client, place: &str) -> Result<()> {
    prepare(&client).await?;
    let mut failed = Vec::new();
    let cases = cases();
    let count = cases.len();
    for (index, case) in cases.into_iter().enumerate() {
        let tag = format!("{}-{index}", std::process::id());
        match tokio::time::timeout(CASE_MAX, case.run(client.clone(), &tag)).await {
            Ok(Ok(())) => crate::tell(&format!("case {place} {} ... ok", case.name)),
            Ok(Err(error)) => failed.push(format!("{}: {error:#}", case.name)),
            Err(_) => failed.push(format!("{}: takes too long", case.name)),
        }
    }
    // The test itself counts as one.
    crate::tell(&format!(
        "COUNTED: {} passed, 0 failed, 0 skipped",
        count - failed.len() - usize::from(failed.is_empty())
    ));
    ensure!(failed.is_empty(), "{place}:\n  {}", failed.join("\n  "));
    Ok(())
}

/// A client for a kubeconfig.
///
/// # Errors
/// When there is none to read.
pub async fn connect(kubeconfig: &Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    Ok(Client::try_from(config)?)
}

/// Makes the definitions where they are missing, as on a real cluster, and waits until they are served.
///
/// # Errors
/// When they cannot be made.
pub async fn prepare(client: &Client) -> Result<()> {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    use kube::runtime::{conditions, wait::await_condition};
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in api::crds() {
        let name = crd.name_any();
        if api.get_opt(&name).await?.is_none() {
            api.create(&kube::api::PostParams::default(), &crd).await?;
        }
        let established = await_condition(api.clone(), &name, conditions::is_crd_established());
        tokio::time::timeout(Duration::from_secs(30), established)
            .await
            .context("the definition is not established")??;
    }
    Ok(())
}

impl Ground {
    /// A name that is this case's alone.
    fn name(&self, what: &str) -> String {
        format!("conf-{}-{what}", self.tag)
    }

    /// What selects this case's objects.
    fn mine(&self) -> ListParams {
        ListParams::default().labels(&format!("{LABEL}={}", self.tag))
    }

    fn of<K: Resource<DynamicType = ()>>(&self) -> Api<DynamicObject> {
        Api::all_with(self.client.clone(), &ApiResource::erase::<K>(&()))
    }

    fn volumes(&self) -> Api<DynamicObject> {
        self.of::<api::Volume>()
    }

    /// A Volume that is as it should be.
    fn volume(&self, what: &str) -> DynamicObject {
        let resource = ApiResource::erase::<api::Volume>(&());
        let mut volume = DynamicObject::new(&self.name(what), &resource).data(json!({
            "spec": {"csiName": what, "node": "node-1", "capacityBytes": 1024},
        }));
        volume
            .labels_mut()
            .insert(LABEL.to_owned(), self.tag.clone());
        volume
    }

    async fn create(&self, volume: &DynamicObject) -> Result<DynamicObject> {
        let params = kube::api::PostParams::default();
        Ok(self.volumes().create(&params, volume).await?)
    }

    async fn patch(&self, name: &str, patch: Value) -> kube::Result<DynamicObject> {
        let params = PatchParams::default();
        self.volumes()
            .patch(name, &params, &Patch::Merge(patch))
            .await
    }

    /// Removes what the case left.
    async fn sweep(&self) -> Result<()> {
        let volumes = self.volumes();
        for volume in volumes.list(&self.mine()).await? {
            let name = volume.name_any();
            if !volume.finalizers().is_empty() {
                let patch = json!({"metadata": {"finalizers": null}});
                self.patch(&name, patch).await.ok();
            }
            volumes.delete(&name, &DeleteParams::default()).await.ok();
        }
        Ok(())
    }
}

/// The value at a JSON pointer; null where there is none.
fn at<'a>(object: &'a DynamicObject, pointer: &str) -> &'a Value {
    object.data.pointer(pointer).unwrap_or(&Value::Null)
}

/// The revision of an object as a number.
fn revision(object: &DynamicObject) -> Result<u64> {
    let text = object.resource_version().context("no resourceVersion")?;
    Ok(text.parse()?)
}

/// That a request was refused, and how.
fn refused<T: Debug>(result: kube::Result<T>, code: u16, reason: &str) -> Result<Box<Status>> {
    match result {
        Err(kube::Error::Api(status)) => {
            ensure!(
                status.code == code && status.reason == reason,
                "refused by {} {}, not {code} {reason}: {}",
                status.code,
                status.reason,
                status.message
            );
            Ok(status)
        }
        Err(error) => Err(error).context("no refusal, but an error"),
        Ok(done) => bail!("not refused: {done:?}"),
    }
}
