//! Which ways of use are supported: a mounted XFS, on one node. What is not is refused with what to do instead.

use api::Reason;
use api::csi::VolumeCapability;
use api::csi::volume_capability::{AccessType, access_mode::Mode};
use tonic::Status;

/// How a volume is to be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// By one pod alone.
    pub single_writer: bool,
}

/// Reads the capabilities that a caller asks for; there must be one at least.
pub fn parse(capabilities: &[VolumeCapability]) -> Result<Usage, Status> {
    if capabilities.is_empty() {
        return Err(api::status::status(
            Reason::InvalidArgument,
            "no volume capability was given",
        ));
    }
    let mut usage = Usage::default();
    for capability in capabilities {
        if let Some(why) = unsupported(capability) {
            return Err(api::status::status(Reason::Unsupported, &why));
        }
        usage.single_writer |= mode_of(capability) == Mode::SingleNodeSingleWriter;
    }
    Ok(usage)
}

fn mode_of(capability: &VolumeCapability) -> Mode {
    let mode = capability.access_mode.map(|mode| mode.mode());
    mode.unwrap_or(Mode::Unknown)
}

/// Why a capability is not supported.
pub fn unsupported(capability: &VolumeCapability) -> Option<String> {
    match &capability.access_type {
        None => return Some("the access type is missing; use mount".to_owned()),
        Some(AccessType::Block(_)) => {
            return Some(
                "raw block volumes do not exist here; use volumeMode Filesystem".to_owned(),
            );
        }
        Some(AccessType::Mount(mount)) if !matches!(mount.fs_type.as_str(), "" | "xfs") => {
            return Some(format!("the file system is xfs, not {:?}", mount.fs_type));
        }
        Some(AccessType::Mount(mount)) if !mount.volume_mount_group.is_empty() => {
            return Some("mounting for a group does not exist here; use fsGroup".to_owned());
        }
        Some(AccessType::Mount(_)) => {}
    }
    match mode_of(capability) {
        Mode::SingleNodeWriter
        | Mode::SingleNodeReaderOnly
        | Mode::SingleNodeSingleWriter
        | Mode::SingleNodeMultiWriter => None,
        Mode::MultiNodeReaderOnly | Mode::MultiNodeSingleWriter | Mode::MultiNodeMultiWriter => {
            let why = "a volume is on one node's drive; use ReadWriteOnce or ReadWriteOncePod";
            Some(why.to_owned())
        }
        Mode::Unknown => Some("the access mode is missing or unknown".to_owned()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use api::csi::volume_capability::{AccessMode, BlockVolume, MountVolume};

    /// A mounted file system, used so.
    pub(crate) fn mounted(mode: Mode, fs_type: &str) -> VolumeCapability {
        VolumeCapability {
            access_mode: Some(AccessMode { mode: mode.into() }),
            access_type: Some(AccessType::Mount(MountVolume {
                fs_type: fs_type.to_owned(),
                ..MountVolume::default()
            })),
        }
    }

    #[test]
    fn one_node_one_file_system() {
        for (mode, single_writer) in [
            (Mode::SingleNodeWriter, false),
            (Mode::SingleNodeReaderOnly, false),
            (Mode::SingleNodeMultiWriter, false),
            (Mode::SingleNodeSingleWriter, true),
        ] {
            for fs_type in ["", "xfs"] {
                let usage = parse(&[mounted(mode, fs_type)]).unwrap();
                assert_eq!(usage, Usage { single_writer });
            }
        }
        for mode in [
            Mode::Unknown,
            Mode::MultiNodeReaderOnly,
            Mode::MultiNodeSingleWriter,
            Mode::MultiNodeMultiWriter,
        ] {
            assert!(parse(&[mounted(mode, "")]).is_err(), "{mode:?}");
        }
    }

    #[test]
    fn refusals_say_what_to_do() {
        let good = mounted(Mode::SingleNodeWriter, "");
        let block = VolumeCapability {
            access_type: Some(AccessType::Block(BlockVolume {})),
            ..good.clone()
        };
        let nothing = VolumeCapability {
            access_type: None,
            ..good.clone()
        };
        for (capabilities, says) in [
            (vec![], "no volume capability"),
            (vec![good.clone(), block], "volumeMode Filesystem"),
            (vec![nothing], "use mount"),
            (vec![mounted(Mode::SingleNodeWriter, "ext4")], "xfs, not"),
            (
                vec![good, mounted(Mode::MultiNodeMultiWriter, "")],
                "ReadWriteOnce",
            ),
        ] {
            let status = parse(&capabilities).unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            assert!(status.message().contains(says), "{status:?}");
        }
    }
}
