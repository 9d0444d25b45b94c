//! Level loop. An agent that does not renew its Lease: its node is marked, people are told, no volume is placed there, and
//! all is as before once it is heard of again.

#![cfg(test)]

use api::Reason;
use api::names::{LEASE_AGENT_PREFIX, NAMESPACE};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tests::command::until;
use tests::machine::{CLASS, LIMIT, Machine, NODE};

const MIB: u64 = 1 << 20;

#[test]
fn silent_and_heard_again() {
    let Some(mut machine) = Machine::running("silent_and_heard_again", &[640 * MIB]) else {
        return;
    };
    machine.init_all();
    machine.write("class.yaml", CLASS);
    let create = "volumes create v --size 8Mi --class class.yaml";
    let create: Vec<&str> = create.split(' ').collect();
    let silent = |machine: &Machine| {
        let status = machine.node().and_then(|node| node.status);
        status.is_some_and(|status| status.silent_since.is_some())
    };
    assert!(!silent(&machine));

    machine.kill_agent();
    // Else it would take three minutes.
    let leases: Api<Lease> = Api::namespaced(machine.client(), NAMESPACE);
    let (name, short) = (
        format!("{LEASE_AGENT_PREFIX}{NODE}"),
        json!({"spec": {"leaseDurationSeconds": 1}}),
    );
    let (params, short) = (PatchParams::default(), Patch::Merge(&short));
    let patched = leases.patch(&name, &params, &short);
    machine.runtime.block_on(patched).unwrap();
    until("the node to be marked", LIMIT, || {
        silent(&machine).then_some(())
    });
    let listed = machine.ringpv(&["list", "nodes"]).ok().stdout;
    assert!(listed.contains("Silent"), "{listed}");
    let refused = machine.ringpv(&create).refused(1, "NoFit");
    assert!(
        refused.stderr.contains("1 drive: 1 on silent nodes"),
        "{refused}"
    );

    machine.start_agent();
    until("the mark to be taken away", LIMIT, || {
        (!silent(&machine)).then_some(())
    });
    let listed = machine.ringpv(&["list", "nodes"]).ok().stdout;
    assert!(
        !listed.contains("Silent") && listed.contains("Ready"),
        "{listed}"
    );
    machine.ringpv(&create).ok();
    for reason in [Reason::NodeSilent, Reason::NodeHeard] {
        until("people to be told", LIMIT, || {
            machine.is_told(NODE, reason).then_some(())
        });
    }
}
