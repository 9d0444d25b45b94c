use std::task::{Context, Poll};
use std::time::Duration;

use api::csi::volume_capability::access_mode::Mode;
use api::csi::{
    CapacityRange, ControllerExpandVolumeRequest, ControllerExpandVolumeResponse,
    CreateVolumeRequest, DeleteVolumeRequest, GetCapacityRequest, ListVolumesRequest,
    TopologyRequirement, ValidateVolumeCapabilitiesRequest,
};
use api::names::FINALIZER_DEVICE;
use api::testing::drive;
use api::{Drive, Volume};
use futures::future::BoxFuture;
use http::{Method, Response as HttpResponse};
use jiff::Timestamp;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::*;
use crate::asked::usage::tests::mounted;
use crate::embedded::{Embedded, Options};
use crate::lease::Campaign;
use crate::metrics::Metrics;
use crate::placement::Policy;

const GIB: i64 = 1 << 30;

/// A leader over an API in memory, and its service. No watch runs: it knows what it was told and what it did.
struct World {
    service: Service,
    client: Client,
    _embedded: Embedded,
}

async fn world(drives: Vec<Drive>) -> World {
    let embedded = Embedded::in_memory("cluster", Options::default()).unwrap();
    let client = embedded.client();
    world_with(drives, client.clone(), client, embedded).await
}

async fn world_with(drives: Vec<Drive>, its: Client, client: Client, embedded: Embedded) -> World {
    let mut campaign = Campaign::new(client.clone(), "me".to_owned(), None, Timestamp::now);
    assert!(campaign.win(&CancellationToken::new()).await);
    let metrics = Metrics::new(&mut Registry::default());
    let leadership = campaign.leadership();
    let leader = Leader::new(its, Policy::default(), leadership, metrics, Timestamp::now);
    for drive in drives {
        leader.inventory().apply_drive(&drive);
    }
    let ready = Readiness::waiting("");
    ready.set_ready();
    World {
        service: Service::new(Arc::new(leader), ready),
        client,
        _embedded: embedded,
    }
}

fn asked(name: &str, gib: i64) -> CreateVolumeRequest {
    CreateVolumeRequest {
        name: name.to_owned(),
        capacity_range: Some(CapacityRange {
            required_bytes: gib * GIB,
            limit_bytes: 0,
        }),
        volume_capabilities: vec![mounted(Mode::SingleNodeWriter, "xfs")],
        ..CreateVolumeRequest::default()
    }
}

fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> Code {
    result.map_or_else(|status| status.code(), |_| Code::Ok)
}

impl World {
    async fn create(&self, request: CreateVolumeRequest) -> Result<wire::Volume, Status> {
        let answer = self.service.create_volume(Request::new(request)).await?;
        Ok(answer.into_inner().volume.unwrap())
    }

    async fn delete(&self, id: &str) -> Result<(), Status> {
        let request = DeleteVolumeRequest {
            volume_id: id.to_owned(),
            ..DeleteVolumeRequest::default()
        };
        self.service.delete_volume(Request::new(request)).await?;
        Ok(())
    }

    async fn expand(&self, id: &str, gib: i64) -> Result<ControllerExpandVolumeResponse, Status> {
        let request = ControllerExpandVolumeRequest {
            volume_id: id.to_owned(),
            capacity_range: Some(CapacityRange {
                required_bytes: gib * GIB,
                limit_bytes: 0,
            }),
            ..ControllerExpandVolumeRequest::default()
        };
        let answer = self
            .service
            .controller_expand_volume(Request::new(request))
            .await?;
        Ok(answer.into_inner())
    }

    fn listed(&self) -> Vec<String> {
        let answer = self.service.list(&ListVolumesRequest::default()).unwrap();
        let entries = answer.entries.into_iter();
        entries
            .map(|entry| entry.volume.unwrap().volume_id)
            .collect()
    }

    fn used_gib(&self, drive: &str) -> u64 {
        self.service
            .leader
            .inventory()
            .drive(drive)
            .unwrap()
            .usage
            .bytes
            >> 30
    }

    async fn object(&self, name: &str) -> Option<Volume> {
        Api::<Volume>::all(self.client.clone())
            .get_opt(name)
            .await
            .unwrap()
    }
}

#[tokio::test]
async fn a_volume_is_one_object_and_may_be_asked_for_again() {
    let world = world(vec![drive("d1").build()]).await;
    let volume = world.create(asked("pvc-1", 3)).await.unwrap();
    assert_eq!(
        (volume.volume_id.as_str(), volume.capacity_bytes),
        ("pvc-1", 3 * GIB)
    );
    let place = &volume.accessible_topology[0].segments;
    assert_eq!(place.get(TOPOLOGY_NODE).map(String::as_str), Some("n1"));
    let object = world.object("pvc-1").await.unwrap();
    assert_eq!(object.spec.drive.as_deref(), Some("d1"));
    assert_eq!(
        object.metadata.finalizers,
        Some(vec![FINALIZER_DEVICE.to_owned()])
    );
    assert_eq!(object.spec.placement.unwrap().chosen.drive, "d1");

    assert_eq!(world.create(asked("pvc-1", 3)).await.unwrap(), volume);
    assert_eq!(world.create(asked("pvc-1", 2)).await.unwrap(), volume);
    assert_eq!(
        code(world.create(asked("pvc-1", 4)).await),
        Code::AlreadyExists
    );
    let mut other_class = asked("pvc-1", 3);
    other_class.parameters = BTreeMap::from([("spread-id".to_owned(), "x".to_owned())]);
    let refused = world.create(other_class).await.unwrap_err();
    assert!(
        refused.message().starts_with("VolumeConflict: "),
        "{refused:?}"
    );
    let mut elsewhere = asked("pvc-1", 3);
    let segments = BTreeMap::from([(TOPOLOGY_NODE.to_owned(), "n2".to_owned())]);
    elsewhere.accessibility_requirements = Some(TopologyRequirement {
        requisite: vec![Topology { segments }],
        preferred: vec![],
    });
    assert_eq!(code(world.create(elsewhere).await), Code::AlreadyExists);
    assert_eq!(world.used_gib("d1"), 3);
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_its_reason() {
    let world = world(vec![drive("d1").holds(10 << 30).build()]).await;
    let parameter = |key: &str, value: &str| {
        let mut request = asked("v", 1);
        request.parameters = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        request
    };
    let mut content = asked("v", 1);
    content.volume_content_source = Some(wire::VolumeContentSource::default());
    let mut nothing = asked("v", 1);
    nothing.volume_capabilities.clear();
    for (request, wanted, says) in [
        (asked("", 1), Code::InvalidArgument, "name is missing"),
        (
            asked(&"x".repeat(129), 1),
            Code::InvalidArgument,
            "longer than 128",
        ),
        (nothing, Code::InvalidArgument, "no volume capability"),
        (content, Code::InvalidArgument, "Unsupported: "),
        (
            parameter("access-tyre", "hot"),
            Code::InvalidArgument,
            "there are access-tier, ",
        ),
        (
            parameter("access-tier", "hot"),
            Code::ResourceExhausted,
            "1 drive: 1 wrong tier",
        ),
        (
            asked("v", 11),
            Code::ResourceExhausted,
            "NoFit: no drive takes 11 GiB: 1 drive: 1 too small (at most 10 GiB free)",
        ),
    ] {
        let status = world.create(request).await.unwrap_err();
        assert_eq!(status.code(), wanted, "{status:?}");
        assert!(status.message().contains(says), "{status:?}");
    }
    assert_eq!(world.used_gib("d1"), 0);
}

#[tokio::test]
async fn who_does_not_lead_answers_nothing() {
    let world = world(vec![drive("d1").build()]).await;
    world.service.ready.set_waiting("another controller leads");
    let status = world.create(asked("v", 1)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("another controller leads"));
    assert_eq!(code(world.delete("v").await), Code::Unavailable);
    let request = GetCapacityRequest::default();
    assert_eq!(
        code(world.service.get_capacity(Request::new(request)).await),
        Code::Unavailable
    );
    // Ready, but the lease is not held.
    world.service.ready.set_ready();
    let idle = Leader::new(
        world.client.clone(),
        Policy::default(),
        crate::lease::Leadership::following(),
        world.service.leader.metrics.clone(),
        Timestamp::now,
    );
    let drives = std::mem::take(&mut *world.service.leader.inventory());
    *idle.inventory() = drives;
    let service = Service::new(Arc::new(idle), world.service.ready.clone());
    let refused = service.create(asked("v", 1)).await.unwrap_err();
    assert!(refused.message().starts_with("NotLeader: "), "{refused:?}");
}

#[tokio::test]
async fn one_call_a_volume_at_a_time() {
    let world = world(vec![drive("d1").build()]).await;
    let turn = world.service.turn("v").unwrap();
    assert_eq!(code(world.create(asked("v", 1)).await), Code::Aborted);
    assert_eq!(code(world.delete("v").await), Code::Aborted);
    drop(turn);
    assert_eq!(code(world.create(asked("v", 1)).await), Code::Ok);
}

#[tokio::test]
async fn deleting_gives_the_word_and_keeps_the_bytes_until_the_data_are_gone() {
    let world = world(vec![drive("d1").build()]).await;
    world.create(asked("v", 3)).await.unwrap();
    assert_eq!(world.listed(), ["v"]);
    for _ in 0..2 {
        world.delete("v").await.unwrap();
        let object = world.object("v").await.unwrap();
        assert!(object.spec.release && object.metadata.deletion_timestamp.is_some());
    }
    assert_eq!(world.listed(), Vec::<String>::new());
    assert_eq!(world.used_gib("d1"), 3);
    // The name is not free before its data are gone.
    assert_eq!(code(world.create(asked("v", 3)).await), Code::Aborted);
    assert_eq!(code(world.expand("v", 4).await), Code::NotFound);
    for unknown in ["never-was", "No/Name"] {
        assert_eq!(code(world.delete(unknown).await), Code::Ok);
    }
}

#[tokio::test]
async fn what_is_mounted_is_not_deleted() {
    let world = world(vec![drive("d1").build()]).await;
    world.create(asked("v", 1)).await.unwrap();
    let volumes: Api<Volume> = Api::all(world.client.clone());
    let patch = |path: Option<&str>| {
        let patch = serde_json::json!({ "status": { "phase": "Staged", "stagingPath": path } });
        Patch::Merge(patch)
    };
    let params = PatchParams::default();
    let staged = volumes
        .patch_status("v", &params, &patch(Some("/staging")))
        .await
        .unwrap();
    world.service.leader.inventory().apply_volume(&staged);
    let refused = world.delete("v").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(!world.object("v").await.unwrap().spec.release);
    // Unmounted, and the watch is behind: it looks itself.
    volumes
        .patch_status("v", &params, &patch(None))
        .await
        .unwrap();
    world.delete("v").await.unwrap();
}

#[tokio::test]
async fn sizes_are_absolute_and_never_shrink() {
    let world = world(vec![drive("d1").holds(10 << 30).build()]).await;
    world.create(asked("v", 3)).await.unwrap();
    for _ in 0..2 {
        let grown = world.expand("v", 5).await.unwrap();
        assert_eq!(grown.capacity_bytes, 5 * GIB);
        assert!(grown.node_expansion_required);
        assert_eq!(world.used_gib("d1"), 5);
    }
    assert_eq!(world.expand("v", 4).await.unwrap().capacity_bytes, 5 * GIB);
    assert_eq!(code(world.expand("v", 11).await), Code::ResourceExhausted);
    assert_eq!(code(world.expand("absent", 11).await), Code::NotFound);
    assert_eq!(world.used_gib("d1"), 5);
    assert_eq!(
        world.object("v").await.unwrap().spec.capacity_bytes,
        5 << 30
    );
}

#[tokio::test]
async fn pages_and_room() {
    let world = world(vec![drive("d1").holds(10 << 30).build()]).await;
    for name in ["a", "b", "c"] {
        world.create(asked(name, 1)).await.unwrap();
    }
    let page = |max_entries, starting_token: &str| {
        world.service.list(&ListVolumesRequest {
            max_entries,
            starting_token: starting_token.to_owned(),
        })
    };
    let first = page(2, "").unwrap();
    assert_eq!(
        (first.entries.len(), first.next_token.as_str()),
        (2, "after:b")
    );
    let rest = page(2, &first.next_token).unwrap();
    assert_eq!((rest.entries.len(), rest.next_token.as_str()), (1, ""));
    assert_eq!(code(page(2, "invalid-token")), Code::Aborted);
    assert_eq!(code(page(-1, "")), Code::InvalidArgument);

    let room = world
        .service
        .capacity(GetCapacityRequest::default())
        .unwrap();
    assert_eq!(
        (room.available_capacity, room.maximum_volume_size),
        (7 * GIB, Some(7 * GIB))
    );
    let elsewhere = BTreeMap::from([(TOPOLOGY_NODE.to_owned(), "n2".to_owned())]);
    let none = world.service.capacity(GetCapacityRequest {
        accessible_topology: Some(Topology {
            segments: elsewhere,
        }),
        ..GetCapacityRequest::default()
    });
    assert_eq!(none.unwrap().maximum_volume_size, Some(0));
}

#[tokio::test]
async fn validates_and_explains() {
    let world = world(vec![
        drive("d1").holds(10 << 30).build(),
        drive("d2").cordoned().build(),
    ])
    .await;
    world.create(asked("v", 1)).await.unwrap();
    let validate = |mode| ValidateVolumeCapabilitiesRequest {
        volume_id: "v".to_owned(),
        volume_capabilities: vec![mounted(mode, "")],
        ..ValidateVolumeCapabilitiesRequest::default()
    };
    assert!(
        world
            .service
            .validate(validate(Mode::SingleNodeWriter))
            .unwrap()
            .confirmed
            .is_some()
    );
    let refused = world
        .service
        .validate(validate(Mode::MultiNodeMultiWriter))
        .unwrap();
    assert!(refused.confirmed.is_none() && refused.message.contains("ReadWriteOnce"));

    let explain = |gib: u64| {
        world.service.what_if(ExplainRequest {
            required_bytes: gib << 30,
            ..ExplainRequest::default()
        })
    };
    use api::csi::ringpv::explain_response::Answer;
    let fits = explain(2).unwrap();
    let Some(Answer::PlacementJson(json)) = fits.answer else {
        panic!("{fits:?}");
    };
    let placement: api::volume::Placement = serde_json::from_str(&json).unwrap();
    assert_eq!(placement.chosen.drive, "d1");
    assert_eq!(fits.refused[0].reason, "Cordoned");
    let Some(Answer::NoFit(no_fit)) = explain(20).unwrap().answer else {
        panic!("20 GiB fit into 10");
    };
    assert_eq!(
        no_fit.message,
        "2 drives: 1 cordoned, 1 too small (at most 9 GiB free)"
    );
    assert_eq!(world.listed(), ["v"]);
}

/// Passes requests on, but loses the answer of the first that creates a Volume.
#[derive(Clone)]
struct LosesOneAnswer {
    inner: crate::embedded::Service,
    lost: Arc<Mutex<bool>>,
}

impl tower::Service<http::Request<kube::client::Body>> for LosesOneAnswer {
    type Response = HttpResponse<crate::embedded::AnswerBody>;
    type Error = tower::BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<kube::client::Body>) -> Self::Future {
        let creates = request.method() == Method::POST && request.uri().path().ends_with("volumes");
        let lose = creates && !std::mem::replace(&mut *self.lost.lock().unwrap(), true);
        let answer = tower::Service::call(&mut self.inner, request);
        Box::pin(async move {
            let answer = answer.await.map_err(tower::BoxError::from)?;
            if lose {
                return Err("connection reset".into());
            }
            Ok(answer)
        })
    }
}

#[tokio::test]
async fn a_lost_answer_is_looked_up_and_nothing_counts_twice() {
    let embedded = Embedded::in_memory("cluster", Options::default()).unwrap();
    let lossy = LosesOneAnswer {
        inner: embedded.service(),
        lost: Arc::default(),
    };
    let its = Client::new(lossy, "ringpv");
    let drives = vec![drive("d1").build(), drive("d2").build()];
    let client = embedded.client();
    let world = world_with(drives, its, client, embedded).await;

    assert_eq!(code(world.create(asked("v", 3)).await), Code::Unavailable);
    let drive = world.object("v").await.unwrap().spec.drive.unwrap();
    assert_eq!(world.used_gib(&drive), 3);
    assert_eq!(world.listed(), Vec::<String>::new());
    let volume = world.create(asked("v", 3)).await.unwrap();
    assert_eq!(volume.volume_id, "v");
    assert_eq!(world.used_gib("d1") + world.used_gib("d2"), 3);
    assert_eq!(world.listed(), ["v"]);
    tokio::time::timeout(Duration::from_secs(5), world.delete("v"))
        .await
        .unwrap()
        .unwrap();
}
