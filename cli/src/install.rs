//! `install`: puts RingPV into a cluster, or brings what is there to this version. What is put there stands as YAML in
//! `deploy/`; the flags change those objects ([`manifests`]), the API server merges them into what it has ([`apply`]),
//! and then the pods are waited for ([`rollout`]).
//!
//! It never deletes anything, and never touches a drive: all it does can be done again.

pub(crate) mod apply;
pub(crate) mod manifests;
mod options;
mod rollout;

use std::path::PathBuf;

use api::Reason;
use clap::{Args, ValueEnum};
use kube::Client;
use serde_json::Value;

use crate::advice::{Hint, Refusal, Stop};
use crate::args::{DryRun, Wait};
use crate::progress::Board;
use crate::screen::Tone;
use crate::session::Session;
use crate::view::{self, Cell, Column, column, yaml};
use apply::{Cluster, Outcome};
use manifests::{Manifests, Object};
use options::{Pair, Toleration};

pub(crate) use options::KubeVersion;

/// Flags of `install`.
#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    /// Agents on the nodes with these labels alone
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',')]
    pub(crate) node_selector: Vec<Pair>,
    /// Agents only on nodes without taints, but for these [else: on all nodes]
    #[arg(long, value_name = "KEY[=VALUE][:EFFECT]", value_delimiter = ',')]
    pub(crate) toleration: Vec<Toleration>,
    /// Where all images come from: HOST/PATH/ringpv, HOST/PATH/csi-provisioner, HOST/PATH/csi-resizer
    #[arg(long, value_name = "HOST[/PATH]")]
    pub(crate) registry: Option<String>,
    /// RingPV's own image [default: ringpv:VERSION in the registry, else localhost/ringpv:VERSION, as deploy/image makes it]
    #[arg(long, value_name = "NAME:TAG")]
    pub(crate) image: Option<String>,
    /// Secret of namespace ringpv with the word for the registry
    #[arg(long, value_name = "NAME")]
    pub(crate) image_pull_secret: Vec<String>,
    /// The kubelet's folder on the nodes
    #[arg(long, value_name = "DIR", env = "KUBELET_DIR_PATH", hide_env_values = true, value_parser = options::folder)]
    #[arg(default_value = options::KUBELET_DIR)]
    pub(crate) kubelet_dir: PathBuf,
    /// Where agents keep their mounts and their few files on the nodes
    #[arg(long, value_name = "DIR", default_value = options::STATE_DIR, value_parser = options::folder)]
    pub(crate) state_dir: PathBuf,
    /// Controllers, one of which leads
    #[arg(long, value_name = "NUMBER", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub(crate) replicas: u8,
    /// A flag for all agents, as ringpv-agent --help shows them; may be repeated
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    pub(crate) agent_flag: Vec<String>,
    /// A flag for the controllers, as ringpv-controller --help shows them; may be repeated
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    pub(crate) controller_flag: Vec<String>,
    /// Print what would be applied, and apply nothing: for kubectl apply --server-side, or a repository
    #[arg(
        short,
        long,
        value_enum,
        value_name = "yaml|json",
        hide_possible_values = true
    )]
    output: Option<Text>,
    /// What the printed objects are for [else: the newest that is known]
    #[arg(long, value_name = "VERSION", requires = "output")]
    kube_version: Option<KubeVersion>,
    #[command(flatten)]
    dry_run: DryRun,
    #[command(flatten)]
    wait: Wait,
}

/// What `-o` may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Text {
    Yaml,
    Json,
}

/// A line of the table.
struct Done {
    object: Object,
    outcome: Outcome,
}

/// The table's columns; of a dry run nothing is done.
fn columns(dry_run: bool) -> [Column<Done>; 4] {
    [
        column("KIND", |done: &Done| Cell::text(done.object.kind())),
        column("NAME", |done| Cell::text(done.object.name())),
        column(if dry_run { "WOULD BE" } else { "DONE" }, |done| {
            Cell::text(done.outcome.word()).toned(match done.outcome {
                Outcome::Unchanged => Tone::Dim,
                Outcome::Created | Outcome::Changed(_) => Tone::Good,
            })
        }),
        column("CHANGED", |done| Cell::text(done.outcome.changes())),
    ]
}

/// Runs `install`.
pub(crate) async fn run(session: &mut Session, args: &InstallArgs) -> Result<(), Stop> {
    if let Some(text) = args.output {
        let version = args.kube_version.unwrap_or(KubeVersion::NEWEST);
        refuse_old(version)?;
        let manifests = manifests::of(args, version)?;
        return print(session, &manifests, text);
    }
    let client = session.client().await?;
    let version = version_of(&client).await?;
    refuse_old(version)?;
    let manifests = manifests::of(args, version)?;
    let cluster = Cluster::new(client, args.dry_run.dry_run);
    cluster.refuse_newer(&manifests).await?;
    let done = apply_all(session, &cluster, &manifests).await?;
    if args.dry_run.dry_run {
        return session.hint(&Hint::DryRun);
    }
    if args.wait.no_wait {
        return Ok(());
    }
    rollout::wait(session, &cluster, &done, args.wait.timeout).await?;
    session.hint(&Hint::Installed)
}

fn print(session: &mut Session, manifests: &Manifests, text: Text) -> Result<(), Stop> {
    match text {
        Text::Yaml => {
            for object in &manifests.objects {
                session.screen.line("---")?;
                session.screen.line(yaml(&object.0)?.trim_end())?;
            }
        }
        Text::Json => {
            let list = view::list(manifests.objects.iter().map(|object| &object.0))?;
            session.screen.line(serde_json::to_string_pretty(&list)?)?;
        }
    }
    notes(session, manifests)
}

/// What was left out, and why.
fn notes(session: &mut Session, manifests: &Manifests) -> Result<(), Stop> {
    for left_out in &manifests.left_out {
        session.screen.note(format!("left out: {left_out}"))?;
    }
    Ok(())
}

async fn apply_all(
    session: &mut Session,
    cluster: &Cluster,
    manifests: &Manifests,
) -> Result<Vec<Object>, Stop> {
    let label = ("all".to_owned(), "RingPV".to_owned());
    let mut board = Board::new(&session.screen, std::slice::from_ref(&label));
    let all = manifests.objects.len();
    let mut done = Vec::with_capacity(all);
    for (index, object) in manifests.objects.iter().enumerate() {
        let percent = u32::try_from(index * 100 / all).unwrap_or(100);
        board.show(
            &mut session.screen,
            "all",
            percent,
            "Applying",
            &object.to_string(),
        )?;
        let outcome = cluster.apply(object).await?;
        let object = object.clone();
        done.push(Done { object, outcome });
    }
    let applied = if cluster.dry_run {
        "Looked at"
    } else {
        "Applied"
    };
    board.show(&mut session.screen, "all", 100, applied, "")?;
    board.finish();
    let columns = columns(cluster.dry_run);
    let columns: Vec<_> = columns.iter().collect();
    view::table(&mut session.screen, &columns, &done, false)?;
    notes(session, manifests)?;
    Ok(done.into_iter().map(|done| done.object).collect())
}

/// The cluster's version.
async fn version_of(client: &Client) -> Result<KubeVersion, Stop> {
    let info = client.apiserver_version().await?;
    if info.git_version.contains("+ringpv") {
        return Err(Stop::refused(
            Refusal::new(Reason::UnsupportedHere, "this API server")
                .detail("it is that of ringpv-controller --embedded, which needs no installation")
                .next("start ringpv-agent on this host; for a cluster, name its kubeconfig with --kubeconfig"),
        ));
    }
    let text = format!("{}.{}", info.major, info.minor);
    text.parse().map_err(|error: String| {
        Stop::Failed(anyhow::anyhow!(
            "the API server says that it is {text}: {error}"
        ))
    })
}

fn refuse_old(version: KubeVersion) -> Result<(), Stop> {
    if version >= KubeVersion::OLDEST {
        return Ok(());
    }
    Err(Stop::refused(
        Refusal::new(Reason::UnsupportedHere, format!("Kubernetes {version}"))
            .detail(format!("RingPV needs {} or later", KubeVersion::OLDEST))
            .next("upgrade the cluster first"),
    ))
}

/// A value at a path of an object, for reading.
fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    value.pointer(path).unwrap_or(&Value::Null)
}
