//! Level loop. What can be in the way of a start: somebody else's socket, lock or store, no kubeconfig. The process
//! ends with exit status 1, which says that a person has to clear something, and one sentence says what.

#![cfg(test)]

use std::fs::{self, OpenOptions};
use std::path::Path;

use api::DrivePhase;
use tests::command::run;
use tests::machine::{LIMIT, Machine};

const MIB: u64 = 1 << 20;

/// Exit status of a process that something is in the way of.
const REFUSED: i32 = 1;

#[test]
fn a_stale_socket_is_replaced_and_a_file_is_not() {
    let Some(mut machine) =
        Machine::running("a_stale_socket_is_replaced_and_a_file_is_not", &[640 * MIB])
    else {
        return;
    };
    machine.kill_agent();
    machine.kill_controller();
    assert!(machine.path("agent.sock").exists() && machine.path("controller.sock").exists());
    machine.start_controller();
    machine.start_agent();
    machine.stop_agent();
    fs::write(machine.path("agent.sock"), "somebody's").unwrap();
    let agent = run(machine.agent_command(), LIMIT).refused(REFUSED, "agent.sock");
    assert!(agent.stderr.contains("it was left as it is"), "{agent}");
    assert_eq!(fs::read(machine.path("agent.sock")).unwrap(), b"somebody's");
    machine.stop_controller();
    fs::write(machine.path("controller.sock"), "somebody's").unwrap();
    let controller = run(machine.controller_command(), LIMIT).refused(REFUSED, "controller.sock");
    assert!(
        controller.stderr.contains("it was left as it is"),
        "{controller}"
    );
    assert_eq!(
        fs::read(machine.path("controller.sock")).unwrap(),
        b"somebody's"
    );
}

#[test]
fn one_controller_a_directory() {
    let Some(machine) = Machine::running("one_controller_a_directory", &[640 * MIB]) else {
        return;
    };
    let second = run(machine.controller_command(), LIMIT).refused(REFUSED, "StoreLocked");
    assert!(
        second
            .stderr
            .contains("stop it first, or give --embedded another directory"),
        "{second}"
    );
    let agent = run(machine.agent_command(), LIMIT).refused(REFUSED, "agent.sock");
    assert!(agent.stderr.contains("stop that one first"), "{agent}");
    machine.ringpv(&["list", "nodes"]).ok();
}

#[test]
fn a_damaged_store_is_said_and_left_alone() {
    let Some(mut machine) =
        Machine::running("a_damaged_store_is_said_and_left_alone", &[640 * MIB])
    else {
        return;
    };
    machine.init_all();
    machine.stop_agent();
    machine.stop_controller();
    let store = machine.path("store/store.redb");
    let whole = fs::read(&store).unwrap();
    for (name, content) in [
        ("truncated", whole[..whole.len() / 2].to_vec()),
        ("overwritten", vec![0x5a; whole.len()]),
    ] {
        fs::write(&store, &content).unwrap();
        let controller = run(machine.controller_command(), LIMIT).refused(REFUSED, "StoreDamaged");
        for words in ["store.redb", "move this file away", "kubectl ringpv adopt"] {
            assert!(controller.stderr.contains(words), "{name}: {controller}");
        }
        assert_eq!(fs::read(&store).unwrap(), content, "{name}: it was changed");
    }
    fs::write(&store, &whole).unwrap();
    machine.start_controller();
    machine.start_agent();
    machine.drive_in(0, DrivePhase::Ready);
}

#[test]
fn a_store_of_a_newer_version_is_said_and_left_alone() {
    let Some(mut machine) = Machine::running(
        "a_store_of_a_newer_version_is_said_and_left_alone",
        &[640 * MIB],
    ) else {
        return;
    };
    machine.init_all();
    machine.stop_agent();
    machine.stop_controller();
    let store = machine.path("store/store.redb");
    let format = |to: u64| {
        let facts = redb::TableDefinition::<&str, u64>::new("facts");
        let database = redb::Database::open(&store).unwrap();
        let transaction = database.begin_write().unwrap();
        let mut table = transaction.open_table(facts).unwrap();
        let from = table.insert("format", to).unwrap().unwrap().value();
        drop(table);
        transaction.commit().unwrap();
        from
    };
    let ours = format(99);
    let controller = run(machine.controller_command(), LIMIT).refused(REFUSED, "StoreNewer");
    for words in ["store.redb", "format 99", "start the newer version again"] {
        assert!(controller.stderr.contains(words), "{controller}");
    }
    // Not even its format was changed.
    assert_eq!(format(ours), 99);
    machine.start_controller();
    machine.start_agent();
    machine.drive_in(0, DrivePhase::Ready);
}

#[test]
fn nothing_is_left_open_after_a_refused_start() {
    let Some(machine) = Machine::new("nothing_is_left_open_after_a_refused_start", &[640 * MIB])
    else {
        return;
    };
    let agent = run(machine.agent_command(), LIMIT);
    // There is no kubeconfig yet.
    let agent = agent.refused(REFUSED, "store/kubeconfig");
    assert!(
        agent.stderr.contains("is the controller started"),
        "{agent}"
    );
    let device = OpenOptions::new()
        .read(true)
        .open(machine.devices()[0].path());
    assert!(device.is_ok() && !Path::new(&machine.path("state/mnt")).exists());
}
