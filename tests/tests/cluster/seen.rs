//! What Grafana shows: a real Prometheus scrapes agents and controllers under load, and every panel of every dashboard
//! has something to show, in a unit.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use serde_json::Value;
use tests::kubernetes::PATIENCE;
use tests::process::Process;
use tests::tree::root;

use tests::kubernetes::stage::{CLASS, Stage, pod};

const DASHBOARDS: [&str; 2] = ["fleet.json", "drive.json"];
/// Where Prometheus serves, in the cluster's network.
const ADDRESS: &str = "127.0.0.1:19090";
const LOAD: &str = "while true; do dd if=/dev/urandom of=/busy/file bs=64k count=64 2>/dev/null; sync; \
                    cat /busy/file > /dev/null; sleep 0.2; done";

pub(crate) fn story(stage: &Stage) {
    stage
        .install(&["--controller-flag=--health-window=5s"])
        .ok();
    stage.claim("busy", CLASS, "64Mi");
    stage.apply(&pod("busy", &["busy"], LOAD));
    stage.run(&["busy"]);
    // For refusals to be counted there have to be some.
    stage.claim("too-much", "immediate", "500Gi");

    let prometheus = start(stage);
    stage.cluster.until("all are scraped", || {
        let up = query(stage, "sum(up)");
        up[0]["value"][1] == "3"
    });
    let mut empty = Vec::new();
    for name in DASHBOARDS {
        let text = fs::read_to_string(root().join("deploy/grafana").join(name)).unwrap();
        let dashboard: Value = serde_json::from_str(&text).unwrap();
        let (titles, panels) = panels(&dashboard);
        assert!(panels.len() > 10, "{titles:?}");
        for (title, expression) in panels {
            let shown = || {
                let answer = query(stage, &expression);
                answer.as_array().is_some_and(|all| !all.is_empty())
            };
            if !in_time(shown) {
                empty.push(format!("{name}: {title}: {expression}"));
            }
        }
    }
    assert!(
        empty.is_empty(),
        "nothing to show:\n{}\n{}",
        empty.join("\n"),
        prometheus.said()
    );
    prometheus.stop();
    stage.delete(&["pvc", "too-much"]);
    stage.clear();
    stage.install(&[]).ok();
}

/// Titles, and the queries as Grafana sends them for all nodes and one drive.
fn panels(dashboard: &Value) -> (Vec<String>, Vec<(String, String)>) {
    let (mut titles, mut queries) = (Vec::new(), Vec::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap().to_owned();
        if panel["type"] == "row" {
            continue;
        }
        let unit = panel["fieldConfig"]["defaults"]["unit"].as_str();
        assert!(
            unit.is_some_and(|unit| !unit.is_empty()),
            "{title} has no unit"
        );
        assert!(
            panel["description"].is_string(),
            "{title} says not what it is"
        );
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            let expression = expression
                .replace("$__rate_interval", "10s")
                .replace("$node", ".*");
            queries.push((title.clone(), expression.replace("$drive", ".*")));
        }
        titles.push(title);
    }
    (titles, queries)
}

/// Prometheus, which scrapes the pods every second.
fn start(stage: &Stage) -> Process {
    let ours = [
        "--namespace=ringpv",
        "get",
        "pods",
        "--selector=app.kubernetes.io/name=ringpv",
        "--output=json",
    ];
    let list: Value = serde_json::from_str(&stage.kubectl(&ours)).unwrap();
    let mut targets = String::new();
    for pod in list["items"].as_array().unwrap() {
        let port = &pod["metadata"]["annotations"]["prometheus.io/port"];
        let (ip, port) = (
            pod["status"]["podIP"].as_str().unwrap(),
            port.as_str().unwrap(),
        );
        if pod["metadata"]["deletionTimestamp"].is_null() {
            write!(targets, "'{ip}:{port}',").unwrap();
        }
    }
    let config = stage.cluster.path("prometheus.yaml");
    let text = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
         scrape_configs: [{{job_name: ringpv, static_configs: [{{targets: [{targets}]}}]}}]\n"
    );
    fs::write(&config, text).unwrap();
    let mut command = stage.cluster.inside("prometheus");
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            stage.cluster.path("prometheus").display()
        ))
        .arg(format!("--web.listen-address={ADDRESS}"));
    Process::start(command, &stage.cluster.path("prometheus.log"))
}

/// What a query answers now.
fn query(stage: &Stage, expression: &str) -> Value {
    let mut command = stage.cluster.inside("promtool");
    let address = format!("http://{ADDRESS}");
    command.args(["query", "instant", "--format=json", &address, expression]);
    let outcome = tests::command::run(command, PATIENCE);
    let result: Value = serde_json::from_str(outcome.stdout.trim()).unwrap_or_default();
    result
}

fn in_time(so: impl Fn() -> bool) -> bool {
    let end = tests::command::now() + Duration::from_secs(60);
    while !so() {
        if tests::command::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    true
}
