//! csi-sanity against the driver as it is installed: the agent's socket where the kubelet has it, and the leader's, which
//! its sidecars alone see.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tests::sanity::{self, Subject};

use tests::kubernetes::stage::{MIB, Stage};

pub(crate) fn story(stage: &Stage) {
    let suite = sanity::build().unwrap_or_else(|why| panic!("{why}"));
    let kubelet = stage.cluster.kubelet_folder();
    // Of the kubelet's folders the agent sees this one and that of the pods, from which the kubelet removes what is no pod's.
    let inside = || {
        tempfile::Builder::new()
            .prefix("sanity-")
            .tempdir_in(kubelet.join("plugins"))
            .unwrap()
    };
    let (staging, target) = (inside(), inside());
    let folder = tempfile::tempdir().unwrap();
    let near = |socket: &Path, name: &str| {
        let short = folder.path().join(name);
        symlink(socket, &short).unwrap();
        short
    };
    let (passed, skipped) = sanity::hold(
        &suite,
        Subject {
            node: &near(&kubelet.join("plugins/ringpv.io/csi.sock"), "node"),
            controller: &near(&stage.leader_socket(), "controller"),
            staging: &staging.path().join("staging"),
            target: &target.path().join("target"),
            folder: folder.path(),
            sizes: Some((16 * MIB, 32 * MIB)),
        },
    );
    println!("csi-sanity: {passed} passed, {skipped} skipped");
    assert!(stage.all("rvol").is_empty(), "it left volumes");
    nothing_is_left(staging.path());
    nothing_is_left(target.path());
}

fn nothing_is_left(folder: &Path) {
    let left: Vec<_> = fs::read_dir(folder).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}
