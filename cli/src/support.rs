//! `support`: all that tells how an installation is, in one new folder, for whoever helps: our objects, what Kubernetes has
//! of ours, events, logs and metrics. It reads, and changes nothing; Secrets and the contents of volumes are not looked at.
//! What cannot be had is said in `left-out.txt` and is no failure.

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use api::names::{DRIVER, GROUP, NAMESPACE};
use api::{Benchmark, Drive, Reason, StorageNode, Volume};
use clap::Args;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass};
use kube::api::{ListParams, LogParams};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::advice::{Refusal, Stop};
use crate::session::Session;
use crate::view::{counted, yaml};

/// Lines of one log.
const LOG_LINES: i64 = 20_000;
/// Where agents and controllers serve their metrics, by the name of their container.
const METRICS: [(&str, u16); 2] = [("agent", 9902), ("controller", 9901)];

/// Flags of `support`.
#[derive(Debug, Args)]
pub(crate) struct SupportArgs {
    /// The folder to write, which is not there yet [default: ringpv-support-TIME]
    #[arg(value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

/// The folder, and what it came to.
struct Bundle {
    folder: PathBuf,
    files: usize,
    left_out: Vec<String>,
}

impl Bundle {
    fn new(folder: PathBuf) -> Result<Self, Stop> {
        if folder.exists() {
            return Err(Stop::refused(Refusal::new(
                Reason::FileExists,
                folder.display().to_string(),
            )));
        }
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(Self {
            folder,
            files: 0,
            left_out: Vec::new(),
        })
    }

    fn write(&mut self, name: &str, text: &str) -> Result<(), Stop> {
        let path = self.folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).context("a folder")?;
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        self.files += 1;
        Ok(())
    }

    /// Writes what was answered, or notes why nothing was.
    fn take(&mut self, name: &str, answer: kube::Result<String>) -> Result<(), Stop> {
        match answer {
            Ok(text) => self.write(name, &text),
            Err(error) => {
                self.left_out.push(format!("{name}: {error}"));
                Ok(())
            }
        }
    }

    /// Writes all objects of one kind that `keep` keeps.
    async fn list<K>(&mut self, api: Api<K>, keep: fn(&K) -> bool) -> Result<(), Stop>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug,
    {
        let name = format!("objects/{}.yaml", K::plural(&()));
        let items = match api.list(&ListParams::default()).await {
            Ok(list) => list.items,
            Err(error) => return self.take(&name, Err(error)),
        };
        let items: Vec<_> = items
            .into_iter()
            .filter(keep)
            .map(|mut object| {
                // Who wrote which field is of no use to a reader, and is most of the text.
                object.meta_mut().managed_fields = None;
                object
            })
            .collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        self.write(&name, &yaml(&list)?)
    }
}

/// Runs `support`.
pub(crate) async fn run(session: &mut Session, args: &SupportArgs) -> Result<(), Stop> {
    let client = session.client().await?;
    let version = client.apiserver_version().await?;
    let stamp = session.now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let folder = args.folder.clone();
    let folder = folder.unwrap_or_else(|| PathBuf::from(format!("ringpv-support-{stamp}")));
    let mut bundle = Bundle::new(folder)?;
    let text = format!(
        "taken: {stamp}\nkubectl-ringpv: {}\nAPI server: {} ({})\n",
        env!("CARGO_PKG_VERSION"),
        version.git_version,
        version.platform
    );
    bundle.write("versions.txt", &text)?;
    ours(&mut bundle, &client).await?;
    clusters(&mut bundle, &client).await?;
    pods(&mut bundle, &client).await?;
    if !bundle.left_out.is_empty() {
        let left_out = bundle.left_out.join("\n") + "\n";
        bundle.write("left-out.txt", &left_out)?;
    }
    let (files, folder) = (counted(bundle.files, "file"), bundle.folder.display());
    session.screen.line(format!("{folder} written: {files}"))?;
    session.screen.note(format!(
        "it names nodes, devices with their serial numbers, claims and pods: look it over before you hand it on; tar czf {folder}.tar.gz {folder}"
    ))?;
    Ok(())
}

/// Our own kinds.
async fn ours(bundle: &mut Bundle, client: &Client) -> Result<(), Stop> {
    let of = || client.clone();
    bundle.list(Api::<StorageNode>::all(of()), |_| true).await?;
    bundle.list(Api::<Drive>::all(of()), |_| true).await?;
    bundle.list(Api::<Volume>::all(of()), |_| true).await?;
    bundle.list(Api::<Benchmark>::all(of()), |_| true).await?;
    let events = Api::<Event>::all(of());
    bundle
        .list(events, |event| {
            let about = event.involved_object.api_version.as_deref();
            about.is_some_and(|version| version.starts_with(GROUP))
                || event.namespace().as_deref() == Some(NAMESPACE)
        })
        .await?;
    let leases = Api::<Lease>::namespaced(of(), NAMESPACE);
    bundle.list(leases, |_| true).await
}

/// What Kubernetes has that is of ours.
async fn clusters(bundle: &mut Bundle, client: &Client) -> Result<(), Stop> {
    let of = || client.clone();
    let in_ours = NAMESPACE;
    bundle.list(Api::<Node>::all(of()), |_| true).await?;
    bundle
        .list(Api::<CSIDriver>::all(of()), |it| it.name_any() == DRIVER)
        .await?;
    bundle.list(Api::<CSINode>::all(of()), |_| true).await?;
    bundle
        .list(Api::<StorageClass>::all(of()), |it| {
            it.provisioner == DRIVER
        })
        .await?;
    bundle
        .list(Api::<PersistentVolume>::all(of()), |it| {
            let csi = it.spec.as_ref().and_then(|spec| spec.csi.as_ref());
            csi.is_some_and(|csi| csi.driver == DRIVER)
        })
        .await?;
    bundle
        .list(Api::<PersistentVolumeClaim>::all(of()), |it| {
            let provisioner = "volume.kubernetes.io/storage-provisioner";
            it.annotations().get(provisioner).map(String::as_str) == Some(DRIVER)
        })
        .await?;
    let capacities = Api::<CSIStorageCapacity>::namespaced(of(), in_ours);
    bundle.list(capacities, |_| true).await?;
    bundle
        .list(Api::<Deployment>::namespaced(of(), in_ours), |_| true)
        .await?;
    bundle
        .list(Api::<DaemonSet>::namespaced(of(), in_ours), |_| true)
        .await?;
    bundle
        .list(Api::<Pod>::namespaced(of(), in_ours), |_| true)
        .await
}

/// The logs of our pods, of this run and the one before, and their metrics.
async fn pods(bundle: &mut Bundle, client: &Client) -> Result<(), Stop> {
    let api = Api::<Pod>::namespaced(client.clone(), NAMESPACE);
    // That they cannot be listed was noted with the objects.
    let Ok(pods) = api.list(&ListParams::default()).await else {
        return Ok(());
    };
    for pod in pods {
        let name = pod.name_any();
        let statuses = pod
            .status
            .as_ref()
            .and_then(|it| it.container_statuses.clone());
        for container in statuses.unwrap_or_default() {
            for previous in [false, true] {
                if previous && container.restart_count == 0 {
                    continue;
                }
                let params = LogParams {
                    container: Some(container.name.clone()),
                    previous,
                    tail_lines: Some(LOG_LINES),
                    timestamps: true,
                    ..LogParams::default()
                };
                let which = if previous { ".previous" } else { "" };
                let file = format!("logs/{name}/{}{which}.log", container.name);
                let log = api.logs(&name, &params).await;
                bundle.take(&file, log)?;
            }
            let port = METRICS.iter().find(|(of, _)| *of == container.name);
            if let Some((_, port)) = port {
                let path =
                    format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}:{port}/proxy/metrics");
                let request = http::Request::get(path).body(Vec::new());
                let request = request.context("a request for metrics")?;
                let metrics = client.request_text(request).await;
                bundle.take(&format!("metrics/{name}.txt"), metrics)?;
            }
        }
    }
    Ok(())
}
