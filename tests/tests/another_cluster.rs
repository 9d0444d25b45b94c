//! Level loop. An API that answers for another cluster than the one by whose id the agent goes: the agent ends before it
//! has done a thing for it, even where that cluster has an order ready for one of the node's devices.

#![cfg(test)]

use std::fs;
use std::path::Path;

use api::{DrivePhase, Reason};
use block::probe::{self, Target};
use tests::command::until;
use tests::machine::{LIMIT, Machine};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 640 * MIB;

/// A machine whose store wants its one device prepared, and nothing running.
fn with_an_order(test: &str) -> Option<Machine> {
    let mut machine = Machine::running(test, &[SIZE])?;
    machine.discover();
    machine.stop_agent();
    machine.ringpv(&["init", "drives.yaml", "--no-wait"]).ok();
    machine.stop_controller();
    fs::remove_dir_all(machine.path("state")).unwrap();
    Some(machine)
}

/// The agent ends by itself and says why, and its device holds nothing.
fn ends_with_nothing_done(machine: &mut Machine) {
    let agent = machine.agent().unwrap();
    assert!(agent.ended(LIMIT).is_some(), "{}", agent.said());
    let said = agent.said();
    assert!(said.contains(Reason::ForeignCluster.as_str()), "{said}");
    machine.kill_agent();
    let held = probe::read(&Target {
        path: Path::new("/dev").join(machine.device(0)),
        size_bytes: SIZE,
    });
    let held = held.unwrap();
    assert!(held.found.is_empty() && held.claim == Ok(None), "{held:?}");
}

#[test]
fn an_api_that_comes_late_is_asked_for_its_cluster_before_anything_is_done() {
    let Some(mut machine) =
        with_an_order("an_api_that_comes_late_is_asked_for_its_cluster_before_anything_is_done")
    else {
        return;
    };
    fs::create_dir_all(machine.path("state")).unwrap();
    fs::write(machine.path("state/cluster-id"), "of-another-cluster\n").unwrap();
    machine.launch_agent();
    let away = Reason::ApiUnavailable.as_str();
    until("the agent to go by the id that it remembers", LIMIT, || {
        machine.agent()?.said().contains(away).then_some(())
    });
    machine.start_controller();
    ends_with_nothing_done(&mut machine);
    // Started again, as its unit would: now it is that cluster's, and does what is ordered there.
    machine.start_agent();
    machine.drive_in(0, DrivePhase::Ready);
}

#[test]
fn a_new_kubeconfig_is_followed_within_the_cluster_alone() {
    let Some(mut machine) = with_an_order("a_new_kubeconfig_is_followed_within_the_cluster_alone")
    else {
        return;
    };
    let (store, other) = (machine.path("store"), machine.path("other"));
    fs::rename(&store, &other).unwrap();
    machine.start_controller();
    machine.start_agent();
    machine.stop_controller();
    fs::remove_dir_all(&store).unwrap();
    fs::rename(&other, &store).unwrap();
    machine.start_controller();
    ends_with_nothing_done(&mut machine);
    machine.start_agent();
    machine.drive_in(0, DrivePhase::Ready);
}
