//! A machine as a tree of files: sysfs, procfs and device nodes that a test writes.

use std::os::unix::fs::symlink;
use std::path::Path;

use super::sysfs::Root;

pub(super) struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    pub(super) fn new() -> Self {
        let machine = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        for dir in ["sys/class/block", "proc/1", "proc/self", "dev"] {
            std::fs::create_dir_all(machine.dir.path().join(dir)).unwrap();
        }
        machine
    }

    pub(super) fn root(&self) -> Root {
        Root {
            sys: self.dir.path().join("sys"),
            proc: self.dir.path().join("proc"),
            dev: self.dir.path().join("dev"),
        }
    }

    /// A file below the machine's root.
    pub(super) fn file(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(super) fn link(&self, path: &str, target: &str) {
        let path = self.dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    /// A block device at its place below `sys/devices`, of so many GiB, with further attributes.
    pub(super) fn device(&self, place: &str, number: &str, gib: u64, attributes: &[(&str, &str)]) {
        let name = Path::new(place).file_name().unwrap().to_str().unwrap();
        let own = format!("sys/devices/{place}");
        self.link(
            &format!("sys/class/block/{name}"),
            &format!("../../devices/{place}"),
        );
        let usual = [
            ("dev", number.to_owned()),
            ("size", (gib << 21).to_string()),
            ("ro", "0".to_owned()),
            (
                "uevent",
                format!("DEVNAME={}\nDEVTYPE=disk\n", name.replace('!', "/")),
            ),
        ];
        for (attribute, text) in usual {
            self.file(&format!("{own}/{attribute}"), format!("{text}\n"));
        }
        for (attribute, text) in attributes {
            self.file(&format!("{own}/{attribute}"), format!("{text}\n"));
        }
    }
}
