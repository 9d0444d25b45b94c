//! What `sys` hands to the kernel where the io-uring crate has no call for it: numbers and layouts of the kernel's `io_uring.h`.

/// `io_uring_enter` reads what the kernel has for us, too; without it, deferred completions are not posted (kernel-notes/08).
pub(crate) const ENTER_GETEVENTS: u32 = 1 << 0;
/// Its last argument is a [`WaitArgument`].
pub(crate) const ENTER_EXT_ARG: u32 = 1 << 3;
/// Its first argument is a [`RingPlace`]'s offset.
pub(crate) const ENTER_REGISTERED_RING: u32 = 1 << 4;
pub(crate) const REGISTER_RING_FDS: u32 = 20;
pub(crate) const UNREGISTER_RING_FDS: u32 = 21;
/// Bytes of the kernel's set of signals, where none is given.
const SIGNALS_BYTES: u32 = 8;

/// `struct io_uring_getevents_arg` of the kernel.
#[repr(C)]
pub(crate) struct WaitArgument {
    signals: u64,
    signals_bytes: u32,
    min_wait_us: u32,
    timespec: u64,
}

impl WaitArgument {
    /// Waits as long as the time says that is at this address.
    pub(crate) const fn until(timespec: u64) -> Self {
        Self {
            signals: 0,
            signals_bytes: SIGNALS_BYTES,
            min_wait_us: 0,
            timespec,
        }
    }
}

/// `struct io_uring_rsrc_update` of the kernel, as it takes and gives the places of rings.
#[repr(C)]
#[derive(Default)]
pub(crate) struct RingPlace {
    pub(crate) offset: u32,
    pub(crate) reserved: u32,
    pub(crate) data: u64,
}
