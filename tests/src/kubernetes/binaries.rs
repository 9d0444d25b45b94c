//! The programs of a cluster, built by Go from the modules that `tests/cluster/modules` pins, into a cache that outlives
//! the build folder: the first build takes ten minutes on two processors. `RINGPV_KUBERNETES=1.30` takes the module
//! `kubernetes-1.30` for `kubernetes`: the oldest version that RingPV is for.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use sha2::{Digest as _, Sha256};

use crate::command::run;
use crate::go::go;
use crate::tree::root;

/// How long one module may take.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Programs that are built from one module of `tests/cluster/modules`.
struct Module {
    /// Of what is built.
    name: &'static str,
    /// The folder of the module, which may have one for each version.
    folder: &'static str,
    programs: &'static [&'static str],
    package: Package,
}

/// What Go is asked to build.
enum Package {
    /// All tools of the module.
    Tools,
    /// One program.
    Program(&'static str),
    /// The tests of a package, as a program.
    Tests(&'static str),
}
use Package::{Program, Tests, Tools};

const MODULES: [Module; 5] = [
    Module {
        name: "kubernetes",
        folder: "kubernetes",
        programs: &[
            "kube-apiserver",
            "kube-controller-manager",
            "kube-proxy",
            "kube-scheduler",
            "kubectl",
            "kubelet",
        ],
        package: Tools,
    },
    Module {
        name: "etcd",
        folder: "etcd",
        programs: &["etcd"],
        package: Program("go.etcd.io/etcd/server/v3"),
    },
    Module {
        name: "provisioner",
        folder: "provisioner",
        programs: &["csi-provisioner"],
        package: Tools,
    },
    Module {
        name: "resizer",
        folder: "resizer",
        programs: &["csi-resizer"],
        package: Tools,
    },
    Module {
        name: "pause",
        folder: "pause",
        programs: &["pause"],
        package: Program("."),
    },
];

/// Kubernetes' own end-to-end suite, what its pods run, and what runs several processes of it.
const SUITE: [Module; 3] = [
    Module {
        name: "e2e",
        folder: "e2e",
        programs: &["e2e.test"],
        package: Tests("k8s.io/kubernetes/test/e2e"),
    },
    Module {
        name: "agnhost",
        folder: "e2e",
        programs: &["agnhost"],
        package: Program("k8s.io/kubernetes/test/images/agnhost"),
    },
    Module {
        name: "ginkgo",
        folder: "e2e",
        programs: &["ginkgo"],
        package: Program("github.com/onsi/ginkgo/v2/ginkgo"),
    },
];

/// The folder of what is kept: `$RINGPV_KUBE`, else `ringpv-kube` in the user's cache.
///
/// # Errors
/// When nothing says where that is.
pub(super) fn cache() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("RINGPV_KUBE") {
        return std::path::absolute(folder).context("RINGPV_KUBE names no folder");
    }
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(home);
    let cache = cache.context("neither RINGPV_KUBE, XDG_CACHE_HOME nor HOME is set")?;
    Ok(cache.join("ringpv-kube"))
}

/// The version of Kubernetes that is asked for, where it is not the newest.
pub(super) fn version() -> Option<String> {
    std::env::var("RINGPV_KUBERNETES").ok()
}

/// The folder of the programs.
///
/// # Errors
/// When nothing says where that is.
pub(super) fn programs() -> Result<PathBuf> {
    let name = version().map_or_else(|| "bin".to_owned(), |version| format!("bin-{version}"));
    Ok(cache()?.join(name))
}

/// Builds what is not built yet, and says where the programs lie.
///
/// # Errors
/// There is no Go, or it could not build them; with what it said.
pub fn build() -> Result<PathBuf> {
    build_all(&MODULES)
}

/// The same of Kubernetes' own end-to-end suite, which takes as long again.
///
/// # Errors
/// As [`build`].
pub fn build_suite() -> Result<PathBuf> {
    build_all(&SUITE)
}

fn build_all(modules: &[Module]) -> Result<PathBuf> {
    let folder = programs()?;
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let lock = File::create(folder.join(".lock"))?;
    lock.lock()?;
    for module in modules {
        module
            .build(&folder)
            .with_context(|| module.programs.join(", "))?;
    }
    Ok(folder)
}

impl Package {
    fn path(&self) -> &'static str {
        match self {
            Tools => "tool",
            Program(path) | Tests(path) => path,
        }
    }
}

impl Module {
    fn source(&self) -> PathBuf {
        let modules = root().join("tests/cluster/modules");
        let of_version = version().map(|version| format!("{}-{version}", self.folder));
        of_version
            .map(|folder| modules.join(folder))
            .filter(|folder| folder.exists())
            .unwrap_or_else(|| modules.join(self.folder))
    }

    /// What the programs are built from: every file of the module's folder.
    fn recipe(&self) -> Result<String> {
        let mut files: Vec<PathBuf> = fs::read_dir(self.source())?
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<_>>()?;
        files.sort();
        let mut hash = Sha256::new();
        hash.update(self.package.path());
        for file in files {
            hash.update(file.file_name().unwrap_or_default().as_encoded_bytes());
            hash.update(fs::read(&file)?);
        }
        Ok(super::image::hex(&hash.finalize()))
    }

    fn build(&self, folder: &Path) -> Result<()> {
        let stamp = folder.join(format!(".{}", self.name));
        let recipe = self.recipe()?;
        let built = self
            .programs
            .iter()
            .all(|program| folder.join(program).exists());
        if built && fs::read_to_string(&stamp).is_ok_and(|stamp| stamp == recipe) {
            return Ok(());
        }
        crate::tell(&format!("building {}", self.programs.join(", ")));
        let mut go = go(&self.source()).map_err(|why| anyhow!(why))?;
        go.env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=readonly");
        match self.package {
            Tools | Program(_) => go.arg("build"),
            Tests(_) => go.args(["test", "-c"]),
        };
        go.args(["-trimpath", "-ldflags", &self.flags()?, "-o"]);
        match self.programs {
            [program] => go.arg(folder.join(program)),
            // A folder: each program is named by its package.
            _ => go.arg(folder.join("")),
        };
        go.arg(self.package.path());
        let built = run(go, PATIENCE);
        ensure!(built.code == Some(0), "Go could not build it: {built}");
        fs::write(&stamp, recipe)?;
        Ok(())
    }

    /// The linker's: no symbols, and the version that the programs tell each other.
    fn flags(&self) -> Result<String> {
        let mut flags = "-s -w".to_owned();
        let module = fs::read_to_string(self.source().join("go.mod"))?;
        if let Some(version) = required(&module, "k8s.io/kubernetes") {
            let mut parts = version.trim_start_matches('v').split('.');
            let (major, minor) = (parts.next(), parts.next());
            for (name, value) in [
                ("gitVersion", Some(version)),
                ("gitMajor", major),
                ("gitMinor", minor),
            ] {
                let value = value.unwrap_or_default();
                flags += &format!(" -X k8s.io/component-base/version.{name}={value}");
            }
        }
        Ok(flags)
    }
}

/// The version of another module that a `go.mod` requires on a line of its own.
fn required<'a>(module: &'a str, name: &str) -> Option<&'a str> {
    module.lines().find_map(|line| {
        let words = line.strip_prefix("require ")?.strip_prefix(name)?;
        words.strip_prefix(' ')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_required_version() {
        let module = "module x\n\nrequire k8s.io/kubernetes v1.36.3\n\nrequire (\n\ta v1\n)\n";
        assert_eq!(required(module, "k8s.io/kubernetes"), Some("v1.36.3"));
        assert_eq!(required(module, "k8s.io/kube"), None);
    }
}
