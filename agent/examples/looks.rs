use agent::probe::{Policy, reader::{Reader, target_of}, sysfs::Root};
use block::probe::Prober;
use std::time::{Duration, Instant};
use std::sync::Arc;
use tokio::{sync::mpsc, task::JoinSet};
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let reader = Arc::new(Reader { root: Root::default(), policy: Policy { node: "n".into(), cluster_id: "c".into(), drive_bytes_min: 1, allow_loop: true, mount_root: "/x".into() }, only: None });
    let mut a = vec![]; let mut b = vec![]; let mut s = vec![];
    for round in 0..30 {
        for which in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            let prober = Prober::start(true).unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            let start = Instant::now();
            let mut set = JoinSet::new();
            let max = Duration::from_secs(5);
            let r = reader.clone();
            if which == 0 {
                let survey = tokio::task::spawn_blocking(move || r.survey(|_| ())).await.unwrap().unwrap();
                s.push(start.elapsed().as_secs_f64() * 1e3);
                for f in survey.facts.values().filter(|f| f.name.starts_with("loop")) {
                    let (p, t) = (prober.clone(), target_of(f));
                    set.spawn(async move { p.probe(t, max).await.is_ok() });
                }
            } else {
                let (tell, mut told) = mpsc::unbounded_channel();
                let survey = tokio::task::spawn_blocking(move || r.survey(|f| drop(tell.send(f.clone()))));
                while let Some(f) = told.recv().await {
                    if !f.name.starts_with("loop") { continue }
                    let (p, t) = (prober.clone(), target_of(&f));
                    set.spawn(async move { p.probe(t, max).await.is_ok() });
                }
                survey.await.unwrap().unwrap();
            }
            let mut n = 0;
            while let Some(ok) = set.join_next().await { assert!(ok.unwrap()); n += 1; }
            let ms = start.elapsed().as_secs_f64() * 1e3;
            if which == 0 { a.push(ms) } else { b.push(ms) }
            if round == 0 { println!("{n} devices") }
        }
    }
    for v in [&mut s, &mut a, &mut b] { v.sort_by(f64::total_cmp); println!("{:.1} {:.1} {:.1}", v[v.len()/4], v[v.len()/2], v[3*v.len()/4]); }
}
