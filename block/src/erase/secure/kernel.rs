//! What the kernel is given: a command as `linux/nvme_ioctl.h` has it.

use super::SHORT_MS;

/// Of the commands for data, not of the admin commands.
const OPCODE_READ: u8 = 0x02;

/// An NVMe command: what of it differs from one to the next here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AdminCommand {
    /// Opcode. Its two lowest bits say which way data go: 2 is from the drive.
    pub(crate) opcode: u8,
    /// Namespace id.
    pub(crate) namespace: u32,
    /// Command dword 10.
    pub(crate) cdw10: u32,
    /// After so long the kernel calls it off.
    pub(crate) timeout_ms: u32,
}

/// A read of a namespace's first block, which has no metadata: the drive sends these bytes, and no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FirstBlock {
    shift: u8,
}

impl FirstBlock {
    /// From the Identify data of the namespace; `None` where its blocks have metadata or a size that is none.
    pub(crate) fn of(namespace: &[u8]) -> Option<Self> {
        let flbas = *namespace.get(26)?;
        let format = usize::from(flbas & 0xf | (flbas >> 5 & 3) << 4);
        let [metadata_low, metadata_high, shift, _] =
            *namespace.get(128 + 4 * format..)?.first_chunk()?;
        let plain = metadata_low == 0 && metadata_high == 0 && (9..=16).contains(&shift);
        plain.then_some(Self { shift })
    }

    /// Bytes of it.
    pub(crate) const fn bytes(self) -> usize {
        1 << self.shift
    }

    /// What is sent: with all else 0, one block from the first on.
    pub(crate) const fn command(self, namespace: u32) -> AdminCommand {
        AdminCommand {
            opcode: OPCODE_READ,
            namespace,
            cdw10: 0,
            timeout_ms: SHORT_MS,
        }
    }
}

/// `struct nvme_passthru_cmd`.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct Passthru {
    opcode: u8,
    flags: u8,
    reserved: u16,
    namespace: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    data: u64,
    metadata_bytes: u32,
    data_bytes: u32,
    cdw10: u32,
    cdw11_to_15: [u32; 5],
    timeout_ms: u32,
    result: u32,
}

impl Passthru {
    /// `command` with `data_bytes` bytes of data at the address `data`. What is there, is its caller's to see to.
    pub(crate) fn new(command: AdminCommand, data: u64, data_bytes: u32) -> Self {
        Self {
            opcode: command.opcode,
            namespace: command.namespace,
            data,
            data_bytes,
            cdw10: command.cdw10,
            timeout_ms: command.timeout_ms,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_known_from_its_format() {
        // Format 0 of 512 bytes, 1 of 512 and 8 of metadata, 2 of 4096, 3 unused, 17 of 4096.
        let mut namespace = vec![0; 4096];
        for (format, metadata, shift) in [(0, 0, 9), (1, 8, 9), (2, 0, 12), (17, 0, 12)] {
            namespace[128 + 4 * format] = metadata;
            namespace[128 + 4 * format + 2] = shift;
        }
        let mut bytes = |flbas| {
            namespace[26] = flbas;
            FirstBlock::of(&namespace).map(FirstBlock::bytes)
        };
        assert_eq!(
            [0, 1, 2, 3, 0b010_0001].map(&mut bytes),
            [Some(512), None, Some(4096), None, Some(4096)]
        );
        assert_eq!(FirstBlock::of(&[]), None);
    }
}
