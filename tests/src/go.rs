//! Go, in the version that a module of ours asks for. A Go of 1.21 or later brings it by itself; an older one, as Debian 12
//! has, gets it as the module `golang.org/toolchain`, whose checksum it verifies like any other's.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::command::{program, run};

/// The first minor version that brings another one by itself.
const BRINGS_OTHERS: u32 = 21;
/// How long the download may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// A Go that can build the module in `directory`.
///
/// # Errors
/// There is no Go, or the version wanted cannot be had; with what to do.
pub fn go(directory: &Path) -> Result<Command, String> {
    let mut ask = program("go");
    ask.arg("version");
    let said = run(ask, PATIENCE);
    let minor = minor(&said.stdout).filter(|_| said.code == Some(0));
    let Some(minor) = minor else {
        return Err("Go is missing: install golang-go".to_owned());
    };
    let mut go = match minor {
        BRINGS_OTHERS.. => {
            let mut go = program("go");
            go.env("GOTOOLCHAIN", "auto");
            go
        }
        _ => toolchain(directory)?,
    };
    go.current_dir(directory);
    Ok(go)
}

/// What Go, and all that is built with it, calls this machine's architecture.
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    }
}

/// The second number of `go version go1.19.8 linux/amd64`.
fn minor(said: &str) -> Option<u32> {
    let version = said.split_whitespace().nth(2)?.strip_prefix("go1.")?;
    let digits = version.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

fn toolchain(directory: &Path) -> Result<Command, String> {
    let module = fs::read_to_string(directory.join("go.mod")).map_err(|error| error.to_string())?;
    let wanted = module.lines().find_map(|line| line.strip_prefix("go "));
    let wanted = wanted.ok_or("go.mod names no version of Go")?;
    let architecture = architecture();
    let name = format!("golang.org/toolchain@v0.0.1-go{wanted}.linux-{architecture}");
    // Outside of any module, so that nothing of ours is changed by it.
    let elsewhere = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut download = program("go");
    download.current_dir(&elsewhere);
    download.args(["mod", "download", "-json", &name]);
    let said = run(download, PATIENCE);
    let answer: Value = serde_json::from_str(&said.stdout).unwrap_or_default();
    let root = answer.get("Dir").and_then(Value::as_str).map(PathBuf::from);
    let root = root.ok_or_else(|| format!("Go {wanted} could not be had: {said}"))?;
    // Modules carry no permissions.
    for folder in ["bin", &format!("pkg/tool/linux_{architecture}")] {
        for entry in fs::read_dir(root.join(folder))
            .into_iter()
            .flatten()
            .flatten()
        {
            fs::set_permissions(entry.path(), Permissions::from_mode(0o555))
                .map_err(|error| format!("{}: {error}", entry.path().display()))?;
        }
    }
    let mut go = program(root.join("bin/go"));
    go.env("GOROOT", &root);
    Ok(go)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (said, wanted) in [
            ("go version go1.19.8 linux/amd64", Some(19)),
            ("go version go1.26 linux/amd64", Some(26)),
            ("go version go1.27rc1 linux/amd64", Some(27)),
            ("go version devel", None),
            ("", None),
        ] {
            assert_eq!(minor(said), wanted, "{said}");
        }
    }
}
