//! Level pure. `kubectl ringpv <TAB>`: kubectl finds our script, runs it, and reads what may come next.

#![cfg(test)]

use std::os::unix::fs::PermissionsExt as _;

use tests::command::{ours, program, run};

/// kubectl runs the program with the words after `kubectl ringpv`, and reads candidates and a directive.
#[test]
fn kubectl_completes_through_the_script() {
    let dir = tempfile::tempdir().unwrap();
    let limit = std::time::Duration::from_secs(60);
    let mut print = program(ours("kubectl-ringpv"));
    print.args(["completion", "kubectl"]);
    let script = dir.path().join("kubectl_complete-ringpv");
    std::fs::write(&script, run(print, limit).ok().stdout).unwrap();
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&script, mode).unwrap();
    let beside = ours("kubectl-ringpv").parent().unwrap().to_owned();
    let path = format!("{}:/usr/bin:/bin", beside.display());
    let complete = |words: &[&str]| {
        let mut command = program(&script);
        command.args(words).env("PATH", &path);
        let outcome = run(command, limit).ok();
        let lines = outcome.stdout.lines().map(str::to_owned);
        lines.collect::<Vec<_>>()
    };
    let verbs = complete(&[""]);
    assert!(
        verbs.iter().any(|v| v.starts_with("discover\tShow ")),
        "{verbs:?}"
    );
    assert_eq!(verbs.last().unwrap(), ":4");
    assert_eq!(complete(&["list", "drives", "-o", "js"]).len(), 2);
    assert_eq!(complete(&["init", ""]).last().unwrap(), ":0");
    // A flag half typed is no flag of the script's own.
    let flags = complete(&["bench", "--he"]);
    assert_eq!(flags.last().unwrap(), ":4", "{flags:?}");
    assert!(flags[0].starts_with("--help"), "{flags:?}");
}
