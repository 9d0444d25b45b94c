//! Level sanity. The upstream suite csi-sanity against the real controller and agent, with two loop drives.

#![cfg(test)]

use tests::machine::Machine;
use tests::sanity::{self, Subject};

/// Sparse: the suite's default volume has 10 GiB.
const DRIVE_BYTES: u64 = 64 << 30;

#[test]
fn csi_sanity_passes() {
    let Some(machine) = Machine::running("csi_sanity_passes", &[DRIVE_BYTES, DRIVE_BYTES]) else {
        return;
    };
    let suite = match sanity::build() {
        Ok(path) => path,
        Err(why) => return tests::skip("csi_sanity_passes", &why),
    };
    machine.init_all();
    let (passed, skipped) = sanity::hold(
        &suite,
        Subject {
            node: &machine.path("agent.sock"),
            controller: &machine.path("controller.sock"),
            staging: &machine.path("staging"),
            target: &machine.path("target"),
            folder: &machine.path("."),
            sizes: None,
        },
    );
    tests::tell(&format!(
        "COUNTED: {passed} passed, 0 failed, {skipped} skipped"
    ));
}
