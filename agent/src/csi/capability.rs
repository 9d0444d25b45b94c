//! Which uses of a volume are served. What is not is refused with what to write instead; nothing is ignored.

use api::Reason;
use api::csi::VolumeCapability;
use api::csi::volume_capability::access_mode::Mode;
use api::csi::volume_capability::{AccessType, MountVolume};

use crate::volumes::Refusal;

/// Mount options that ask for what holds anyway, or for reading alone.
const MOUNT_FLAGS: [&str; 5] = ["defaults", "rw", "ro", "noatime", "nodiratime"];

/// How a volume is to be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Use {
    /// Writes are refused.
    pub(super) read_only: bool,
    /// At one place alone.
    pub(super) exclusive: bool,
}

/// Checks a capability.
pub(super) fn check(capability: Option<&VolumeCapability>) -> Result<Use, Refusal> {
    let Some(capability) = capability else {
        return Err(missing("volume_capability"));
    };
    let mount = match &capability.access_type {
        Some(AccessType::Mount(mount)) => mount,
        Some(AccessType::Block(_)) => {
            return Err(unsupported(
                "raw block volumes are not served; ask for volumeMode: Filesystem",
            ));
        }
        None => return Err(missing("volume_capability.access_type")),
    };
    let mode = capability
        .access_mode
        .and_then(|mode| Mode::try_from(mode.mode).ok())
        .unwrap_or(Mode::Unknown);
    let use_ = match mode {
        Mode::SingleNodeWriter | Mode::SingleNodeMultiWriter => Use::default(),
        Mode::SingleNodeReaderOnly => Use {
            read_only: true,
            exclusive: false,
        },
        Mode::SingleNodeSingleWriter => Use {
            read_only: false,
            exclusive: true,
        },
        Mode::MultiNodeReaderOnly | Mode::MultiNodeSingleWriter | Mode::MultiNodeMultiWriter => {
            return Err(unsupported(
                "a volume on a local drive serves one node; ask for ReadWriteOnce or ReadWriteOncePod",
            ));
        }
        Mode::Unknown => return Err(missing("volume_capability.access_mode")),
    };
    let read_only = options(mount)?;
    Ok(Use {
        read_only: use_.read_only || read_only,
        ..use_
    })
}

/// Checks the options of a mount; whether it is read-only.
fn options(mount: &MountVolume) -> Result<bool, Refusal> {
    if !matches!(mount.fs_type.as_str(), "" | "xfs") {
        let message = format!("file system {:?} is not served; xfs is", mount.fs_type);
        return Err(unsupported(&message));
    }
    if !mount.volume_mount_group.is_empty() {
        return Err(unsupported("volume_mount_group is not served; fsGroup is"));
    }
    let flags = || mount.mount_flags.iter().map(String::as_str);
    match flags().find(|flag| !MOUNT_FLAGS.contains(flag)) {
        Some(flag) => {
            let known = MOUNT_FLAGS.join(", ");
            let message = format!("mount option {flag:?} is not served; these are: {known}");
            Err(unsupported(&message))
        }
        None => Ok(flags().any(|flag| flag == "ro")),
    }
}

/// A field that must be there and is not.
pub(super) fn missing(field: &str) -> Refusal {
    Refusal::new(Reason::InvalidArgument, format!("{field} is missing"))
}

fn unsupported(message: &str) -> Refusal {
    Refusal::new(Reason::Unsupported, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::csi::volume_capability::{AccessMode, BlockVolume};

    fn asked(mode: Mode, fs_type: &str, flags: &[&str]) -> VolumeCapability {
        VolumeCapability {
            access_type: Some(AccessType::Mount(MountVolume {
                fs_type: fs_type.into(),
                mount_flags: flags.iter().map(ToString::to_string).collect(),
                volume_mount_group: String::new(),
            })),
            access_mode: Some(AccessMode { mode: mode.into() }),
        }
    }

    #[test]
    fn uses() {
        let ok = |read_only, exclusive| {
            Ok(Use {
                read_only,
                exclusive,
            })
        };
        for (mode, fs_type, flags, expected) in [
            (Mode::SingleNodeWriter, "", vec![], ok(false, false)),
            (
                Mode::SingleNodeMultiWriter,
                "xfs",
                vec!["noatime"],
                ok(false, false),
            ),
            (Mode::SingleNodeSingleWriter, "xfs", vec![], ok(false, true)),
            (Mode::SingleNodeSingleWriter, "", vec!["ro"], ok(true, true)),
            (Mode::SingleNodeReaderOnly, "", vec![], ok(true, false)),
            (
                Mode::MultiNodeMultiWriter,
                "",
                vec![],
                Err(Reason::Unsupported),
            ),
            (
                Mode::MultiNodeReaderOnly,
                "",
                vec![],
                Err(Reason::Unsupported),
            ),
            (Mode::Unknown, "", vec![], Err(Reason::InvalidArgument)),
            (
                Mode::SingleNodeWriter,
                "ext4",
                vec![],
                Err(Reason::Unsupported),
            ),
            (
                Mode::SingleNodeWriter,
                "",
                vec!["sync"],
                Err(Reason::Unsupported),
            ),
        ] {
            let capability = asked(mode, fs_type, &flags);
            let found = check(Some(&capability)).map_err(|refusal| refusal.reason);
            assert_eq!(found, expected, "{mode:?} {fs_type} {flags:?}");
        }
        assert_eq!(check(None).unwrap_err().reason, Reason::InvalidArgument);
        let mut block = asked(Mode::SingleNodeWriter, "", &[]);
        block.access_type = Some(AccessType::Block(BlockVolume {}));
        assert_eq!(check(Some(&block)).unwrap_err().reason, Reason::Unsupported);
        block.access_type = None;
        assert_eq!(
            check(Some(&block)).unwrap_err().reason,
            Reason::InvalidArgument
        );
    }
}
