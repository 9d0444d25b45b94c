//! Level loop. Without root: each program says so in one sentence, with what to do, and with the exit code of a refusal.

#![cfg(test)]

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::process::Command;

use tests::command::{ours, program, run};
use tests::loopdev::LoopDevice;
use tests::machine::LIMIT;

/// A user who may do nothing.
const NOBODY: u32 = 65534;
/// Exit code of a refusal.
const REFUSED: i32 = 1;

/// One of our programs, as nobody.
fn as_nobody(name: &str) -> Command {
    let mut command = program("setpriv");
    let nobody = NOBODY.to_string();
    command.args(["--reuid", &nobody, "--regid", &nobody, "--clear-groups"]);
    command.arg(ours(name)).current_dir("/");
    command
}

/// Only root can start a program as somebody else.
fn skipped(test: &str) -> bool {
    let why = LoopDevice::refusal();
    if let Some(why) = &why {
        tests::skip(test, why);
    }
    why.is_some()
}

#[test]
fn the_agent_says_so() {
    if skipped("the_agent_says_so") {
        return;
    }
    let mut agent = as_nobody("ringpv-agent");
    agent.args(["--node", "here", "--kubeconfig", "/nowhere"]);
    let outcome = run(agent, LIMIT)
        .refused(REFUSED, "NotRoot: ")
        .refused(REFUSED, "sudo");
    assert_eq!(outcome.stderr.lines().count(), 1, "one sentence: {outcome}");
}

#[test]
fn the_controller_says_so_of_its_directory() {
    if skipped("the_controller_says_so_of_its_directory") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let start = |embedded: &std::path::Path| {
        let mut controller = as_nobody("ringpv-controller");
        controller.arg("--embedded").arg(embedded);
        let socket = format!("unix://{}", dir.path().join("c.sock").display());
        controller.arg("--csi-endpoint").arg(socket);
        run(controller, LIMIT)
            .refused(REFUSED, "NotRoot: ")
            .refused(REFUSED, "sudo")
    };
    // A directory under one that is root's alone.
    drop(start(&dir.path().join("store")));
    // A directory of nobody's in which one file is root's: that is no damaged store.
    let path = dir.path().join("store");
    open_to_all(dir.path());
    std::fs::create_dir(&path).unwrap();
    chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
    std::fs::write(path.join("store.redb"), "for root alone").unwrap();
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path.join("store.redb"), mode).unwrap();
    let outcome = start(&path);
    assert!(!outcome.stderr.contains("damaged"), "{outcome}");
}

fn open_to_all(dir: &std::path::Path) {
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn the_command_line_says_so_of_its_kubeconfig() {
    if skipped("the_command_line_says_so_of_its_kubeconfig") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("kubeconfig");
    std::fs::write(&file, "apiVersion: v1\nkind: Config\n").unwrap();
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&file, mode).unwrap();
    let given = |command: &mut Command| {
        command.arg("--kubeconfig").arg(&file);
    };
    let named = |command: &mut Command| {
        command.env("KUBECONFIG", &file);
    };
    for how in [&given as &dyn Fn(&mut Command), &named] {
        let mut command = as_nobody("kubectl-ringpv");
        command.env_remove("KUBECONFIG").args(["list", "drives"]);
        how(&mut command);
        let outcome = run(command, LIMIT).refused(REFUSED, "refused: NotRoot: ");
        assert!(outcome.stderr.contains("sudo"), "{outcome}");
        assert!(outcome.stderr.contains("--kubeconfig"), "{outcome}");
    }
}
