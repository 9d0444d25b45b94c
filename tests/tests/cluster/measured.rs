//! A drive is measured again and again: each time an object, of which the last ten are kept.

use tests::kubernetes::stage::Stage;

pub(crate) fn story(stage: &Stage) {
    let drive = stage.all("rdrive")[0]["metadata"]["name"].clone();
    let drive = drive.as_str().unwrap();
    let bench = [
        "bench",
        drive,
        "--pattern=randread",
        "--block-size=4Ki",
        "--duration=1s",
    ];
    for _ in 0..11 {
        stage.cluster.ringpv(&bench).ok();
    }
    stage
        .cluster
        .until("ten are kept", || stage.all("rbench").len() == 10);
    let mut done = stage.all("rbench");
    done.retain(|it| it["status"]["phase"] == "Done");
    assert_eq!(done.len(), 10, "{done:#?}");
    let shown = stage.cluster.ringpv(&["list", "benchmarks"]).ok();
    assert_eq!(shown.stdout.lines().count(), 11, "{shown}");
}
