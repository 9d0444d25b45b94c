//! What the kernel is given: an admin command as `linux/nvme_ioctl.h` has it.

/// An NVMe admin command: what of it differs from one to the next here.
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
