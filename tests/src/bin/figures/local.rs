//! One host: placement, the controller on its own store, an idle agent, the demo.

use std::collections::BTreeMap;
use std::time::Duration;

use api::Drive;
use api::csi::controller_client::ControllerClient;
use api::drive::AccessTier;
use api::testing::{drive, noon};
use controller::inventory::Inventory;
use controller::placement::request::{Class, Places, Request};
use controller::placement::{Policy, place};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tests::command::{now, ours, program, run};
use tests::csi::create_request;
use tests::machine::Machine;

use super::{elapsed, line, processor_seconds, quantile, resident_mib};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const IDLE: Duration = Duration::from_secs(60);
const DRIVES: usize = 1_000;
const VOLUMES: usize = 5_000;
const CALLERS: usize = 16;

pub(super) fn print() {
    placement();
    controller();
    agent();
    demo();
}

fn placement() {
    let mut inventory = Inventory::default();
    for number in 0..10_000 {
        let tier = if number % 3 == 0 {
            AccessTier::Hot
        } else {
            AccessTier::Warm
        };
        let built = drive(&format!("drive-{number}")).on(&format!("node-{}", number / 12));
        inventory.apply_drive(&built.tier(tier).holds((10 + number % 90) * GIB).build());
    }
    let mut times: Vec<Duration> = (0..200)
        .map(|number| {
            let request = Request {
                name: format!("volume-{number}"),
                bytes: 5 * GIB,
                class: Class::default(),
                places: Places::default(),
                now: noon(),
            };
            let begun = now();
            let placed = place(&request, &inventory, Policy::default());
            assert!(placed.is_ok(), "it fits");
            elapsed(begun)
        })
        .collect();
    let median = quantile(&mut times, 500);
    line(
        "place over 10,000 drives (median)",
        &format!("{:.2} ms", median.as_secs_f64() * 1e3),
        "2 ms",
    );
}

fn controller() {
    let Some(mut machine) = Machine::new("figures", &[]) else {
        return;
    };
    machine.start_controller();
    make_drives(&machine);
    let begun = now();
    let mut times = make_volumes(&machine);
    let all = elapsed(begun).as_secs_f64();
    let p99 = quantile(&mut times, 990);
    let rate = f64::from(u32::try_from(times.len()).unwrap_or(0)) / all;
    line(
        "CreateVolume, durable, 16 callers",
        &format!("{rate:.0} /s"),
        "≥ 300 /s",
    );
    line(
        "CreateVolume, p99",
        &format!("{:.1} ms", p99.as_secs_f64() * 1e3),
        "50 ms",
    );

    let mut best = Duration::MAX;
    for _ in 0..5 {
        let begun = now();
        machine.ringpv(&["list", "drives"]).ok();
        best = best.min(elapsed(begun));
    }
    line(
        "kubectl ringpv list drives, 1,000 drives",
        &format!("{} ms", best.as_millis()),
        "100 ms",
    );
    let pid = machine.controller().map_or(0, |process| process.id());
    line(
        "controller and store, 1,000 drives and 5,000 volumes: RSS",
        &format!("{:.0} MiB", resident_mib(pid)),
        "100 MiB",
    );
}

/// Drives as an agent would have reported them.
fn make_drives(machine: &Machine) {
    let drives: Api<Drive> = Api::all(machine.client());
    machine.runtime.block_on(async {
        for number in 0..DRIVES {
            let name = format!("00000000-0000-8000-8000-{number:012x}");
            let built = drive(&name)
                .on(&format!("node-{}", number / 12))
                .holds(1 << 40)
                .build();
            let bare = Drive::new(&name, built.spec.clone());
            drives
                .create(&PostParams::default(), &bare)
                .await
                .expect("a drive");
            let status = Patch::Merge(json!({ "status": built.status }));
            let params = PatchParams::default();
            drives
                .patch_status(&name, &params, &status)
                .await
                .expect("its status");
        }
    });
    // The leader guards each before it places on it.
    tests::command::until("all drives to be guarded", Duration::from_secs(60), || {
        let guarded = |drive: &Drive| {
            drive
                .metadata
                .finalizers
                .as_ref()
                .is_some_and(|f| !f.is_empty())
        };
        machine.list::<Drive>().iter().all(guarded).then_some(())
    });
}

/// Volumes by several callers at once; how long each call took.
fn make_volumes(machine: &Machine) -> Vec<Duration> {
    machine.runtime.block_on(async {
        let mut callers = tokio::task::JoinSet::new();
        for caller in 0..CALLERS {
            let csi = machine.controller_csi();
            callers.spawn(async move {
                let channel = csi.channel().await.expect("the controller's socket");
                let mut client = ControllerClient::new(channel);
                let mut times = Vec::new();
                for number in (caller..VOLUMES).step_by(CALLERS) {
                    let name = format!("volume-{number}");
                    let request = create_request(&name, 1 << 30, &BTreeMap::new());
                    let begun = now();
                    client.create_volume(request).await.expect("a volume");
                    times.push(elapsed(begun));
                }
                times
            });
        }
        callers.join_all().await.concat()
    })
}

fn agent() {
    let Some(mut machine) = Machine::running("figures", &[520 * MIB; 24]) else {
        return;
    };
    machine.init_all();
    std::thread::sleep(Duration::from_secs(20));
    let pid = machine.agent().map_or(0, |process| process.id());
    let before = processor_seconds(pid);
    std::thread::sleep(IDLE);
    let share = (processor_seconds(pid) - before) / IDLE.as_secs_f64() * 100.0;
    line(
        "agent with 24 loop drives, idle: RSS",
        &format!("{:.0} MiB", resident_mib(pid)),
        "30 MiB",
    );
    line(
        "agent with 24 loop drives, idle: CPU",
        &format!("{share:.2} % of a core"),
        "0.3 %",
    );
}

fn demo() {
    let begun = now();
    let mut command = program(ours("kubectl-ringpv"));
    command.arg("demo");
    let outcome = run(command, Duration::from_secs(600));
    let said = match outcome.code {
        Some(0) => format!("{:.0} s", elapsed(begun).as_secs_f64()),
        code => format!("failed ({code:?})"),
    };
    line("kubectl ringpv demo", &said, "60 s");
}
