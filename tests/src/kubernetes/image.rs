//! Container images made of a folder, as archives that `ctr image import` takes: no registry, no builder.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::command::{program, run};
use crate::go::architecture;

const PATIENCE: Duration = Duration::from_secs(300);
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A digest as text.
pub(super) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes the image `name` (`example.test/app:1`) of one layer, the folder `root`, as an archive to `output`. What a pod
/// gives as its arguments goes to the program `entry`, or takes the place of `command` where there is none.
///
/// # Errors
/// When the name has no host part or tag, or the folder cannot be read.
pub(super) fn archive(
    name: &str,
    root: &Path,
    entry: Option<&str>,
    command: &[&str],
    output: &Path,
) -> Result<()> {
    let host = name
        .split_once('/')
        .is_some_and(|(host, _)| host.contains('.'));
    ensure!(
        host && name.contains(':'),
        "{name}: an image's name has a host part and a tag: example.test/app:1"
    );
    let layout = tempfile::TempDir::new_in(output.parent().unwrap_or(Path::new(".")))?;
    let at = |name: &str| layout.path().join(name);
    fs::create_dir_all(at("blobs/sha256"))?;
    let layer = at("layer.tar");
    tar(root, &layer)?;
    let (digest, size) = sum(&layer)?;
    fs::rename(&layer, at("blobs/sha256").join(&digest))?;

    let blob = |value: &Value| -> Result<(String, usize)> {
        let bytes = serde_json::to_vec(value)?;
        let digest = hex(&Sha256::digest(&bytes));
        fs::write(at("blobs/sha256").join(&digest), &bytes)?;
        Ok((digest, bytes.len()))
    };
    let config = blob(&json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {"Entrypoint": entry.map(|entry| [entry]), "Cmd": command, "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    }))?;
    let part = |kind: &str, (digest, size): (String, usize)| {
        json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": format!("sha256:{digest}"), "size": size,
        })
    };
    let manifest = blob(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": part("config.v1+json", config),
        "layers": [part("layer.v1.tar", (digest, size))],
    }))?;
    let mut entry = part("manifest.v1+json", manifest);
    if let Some(entry) = entry.as_object_mut() {
        let annotations = json!({"io.containerd.image.name": name});
        entry.insert("annotations".to_owned(), annotations);
    }
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    fs::write(at("index.json"), index.to_string())?;
    let version = json!({"imageLayoutVersion": "1.0.0"});
    fs::write(at("oci-layout"), version.to_string())?;
    tar(layout.path(), output)
}

/// Digest and size of a file, read in pieces: an image may be larger than what a test should hold.
fn sum(path: &Path) -> Result<(String, usize)> {
    let mut file = fs::File::open(path)?;
    let (mut hash, mut size) = (Sha256::new(), 0);
    let mut piece = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut piece)?;
        let Some(bytes) = piece.get(..read).filter(|bytes| !bytes.is_empty()) else {
            return Ok((hex(&hash.finalize()), size));
        };
        hash.update(bytes);
        size += read;
    }
}

/// The same archive of the same folder, whoever owns it and whenever it was written.
fn tar(folder: &Path, output: &Path) -> Result<()> {
    let mut tar = program("tar");
    tar.args(["--create", "--sort=name", "--mtime=@0", "--numeric-owner"])
        .args(["--owner=0", "--group=0"]);
    tar.arg("--file").arg(output).arg("--directory").arg(folder);
    tar.arg(".");
    let outcome = run(tar, PATIENCE);
    ensure!(outcome.code == Some(0), "{outcome}");
    fs::metadata(output).context("no archive")?;
    Ok(())
}
