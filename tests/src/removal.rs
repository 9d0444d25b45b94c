//! A drive is removed and erased, so that its device is as blank as before.

use api::Drive;
use kube::ResourceExt as _;

use crate::command::until;
use crate::machine::{LIMIT, Machine};

/// Gives the word, and waits for nothing.
///
/// # Panics
/// When it is not taken in time.
pub fn begin(machine: &Machine, drive: &Drive) {
    let (name, word) = (drive.name_any(), drive.spec.device.fingerprint.to_string());
    let words = ["remove", &name, "--erase", "--yes", &word, "--no-wait"];
    // Refused where the agent writes the object in the same moment.
    until("the drive to be removed", LIMIT, || {
        (machine.ringpv(&words).code == Some(0)).then_some(())
    });
}

/// Waits until the drive is let go and its device is blank.
///
/// # Panics
/// When that is not in time.
pub fn end(machine: &Machine, index: usize, drive: &Drive) {
    let name = drive.name_any();
    until("the drive to be let go", LIMIT, || {
        let gone = machine.list::<Drive>().iter().all(|d| d.name_any() != name);
        let blank = machine.discovered(index).holds_drive.is_none();
        (gone && blank).then_some(())
    });
}

/// All of it.
///
/// # Panics
/// When there is no drive on the device, or it is not gone in time.
pub fn erase(machine: &Machine, index: usize) {
    let drive = machine.drive(index).expect("a drive on the device");
    begin(machine, &drive);
    end(machine, index, &drive);
}
