//! Level loop. An agent that does not renew its Lease: its node is marked, people are told, no volume is placed there, and
//! all is as before once it is heard of again. A node that will not come back is forgotten; when it does, its data are
//! there.

#![cfg(test)]

use api::names::{LEASE_AGENT_PREFIX, NAMESPACE};
use api::{Drive, Reason, Volume};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tests::command::until;
use tests::data;
use tests::machine::{LIMIT, Machine, NODE};

const MIB: u64 = 1 << 20;

fn is_silent(machine: &Machine) -> bool {
    let status = machine.node().and_then(|node| node.status);
    status.is_some_and(|status| status.silent_since.is_some())
}

/// Ends the agent, and has its Lease end at once: else it would take three minutes.
fn falls_silent(machine: &mut Machine) {
    assert!(!is_silent(machine));
    machine.kill_agent();
    let leases: Api<Lease> = Api::namespaced(machine.client(), NAMESPACE);
    let name = format!("{LEASE_AGENT_PREFIX}{NODE}");
    let short = Patch::Merge(json!({"spec": {"leaseDurationSeconds": 1}}));
    let params = PatchParams::default();
    let patched = leases.patch(&name, &params, &short);
    machine.runtime.block_on(patched).unwrap();
    until("the node to be marked", LIMIT, || {
        is_silent(machine).then_some(())
    });
}

#[test]
fn silent_and_heard_again() {
    let Some(mut machine) = Machine::running("silent_and_heard_again", &[640 * MIB]) else {
        return;
    };
    machine.init_all();
    falls_silent(&mut machine);
    let listed = machine.ringpv(&["list", "nodes"]).ok().stdout;
    assert!(listed.contains("Silent"), "{listed}");
    let refused = machine.create_volume("v", "8Mi").refused(1, "NoFit");
    assert!(
        refused.stderr.contains("1 drive: 1 on silent nodes"),
        "{refused}"
    );

    machine.start_agent();
    until("the mark to be taken away", LIMIT, || {
        (!is_silent(&machine)).then_some(())
    });
    let listed = machine.ringpv(&["list", "nodes"]).ok().stdout;
    assert!(
        !listed.contains("Silent") && listed.contains("Ready"),
        "{listed}"
    );
    machine.create_volume("v", "8Mi").ok();
    for reason in [Reason::NodeSilent, Reason::NodeHeard] {
        until("people to be told", LIMIT, || {
            machine.is_told(NODE, reason).then_some(())
        });
    }
}

#[test]
fn a_forgotten_node_keeps_its_data() {
    let Some(mut machine) = Machine::running("a_forgotten_node_keeps_its_data", &[640 * MIB])
    else {
        return;
    };
    machine.init_all();
    let file = machine.mounted_volume("kept", "50MiB").join("file");
    data::write(&file, 7, 40);
    machine
        .ringpv(&["forget", NODE, "--yes", NODE])
        .refused(1, "NodeHeard");
    falls_silent(&mut machine);

    machine.ringpv(&["forget", NODE]).refused(1, "NotConfirmed");
    let would = machine.ringpv(&["forget", NODE, "--dry-run"]).ok();
    assert!(would.stdout.contains("1 drive and 1 volume"), "{would}");
    assert_eq!(machine.list::<Volume>().len(), 1);
    machine.ringpv(&["forget", NODE, "--yes", NODE]).ok();
    assert!(machine.list::<Volume>().is_empty());
    assert!(machine.list::<Drive>().is_empty());
    assert!(machine.node().is_none());

    machine.start_agent();
    until("the drive to be adopted", LIMIT, || {
        let adopted = machine.ringpv(&["adopt", "--all"]);
        (adopted.code == Some(0)).then_some(())
    });
    assert!(data::is_whole(&file, 7, 40), "what was mounted stays");
    machine.ringpv(&["volumes", "unmount", "kept"]).ok();
    let path = machine.path("again").display().to_string();
    machine.ringpv(&["volumes", "mount", "kept", &path]).ok();
    let file = machine.path("again").join("file");
    assert!(data::is_whole(&file, 7, 40), "and is mounted again");
}
