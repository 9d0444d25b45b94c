//! How a device is touched: reads and writes that bypass the page cache, through io_uring or, where the kernel or a
//! sandbox refuses that, through threads.
//!
//! ```text
//!   caller ── Op (owns its Buffer) ──► Device::submit ──► queue ──► Device::complete ── Completion (Op comes home) ──► caller
//!
//!   Device  ◄── Ring<ReadOnly>    io_uring that the kernel itself restricts to reads
//!           ◄── Ring<ReadWrite>   io_uring for those who may write
//!           ◄── Passthrough       an NVMe drive's own reads, for a person at `ringpv-bench`
//!           ◄── Blocking<_>       threads with pread and pwrite
//!           ◄── Null              completes at once: measures the caller
//!           ◄── SimDevice         a simulated drive: seeded latencies and faults, a virtual clock
//! ```
//!
//! Rules that hold everywhere here:
//!
//! - All transfers are direct (`O_DIRECT`): offsets and lengths are multiples of the sector, memory is aligned.
//!   What is not is refused before the kernel sees it.
//! - A [`Buffer`] goes in with its [`Op`] and comes home with its [`Completion`], or with the refusal. While the
//!   kernel may touch it nobody else can: there is no reference to get wrong.
//! - Dropping a device waits for what is in flight. A drive that never answers costs its buffers (they are leaked, and
//!   that is logged), never memory safety.
//! - Nothing is opened for writing but by the explicit constructors of [`Target<ReadWrite>`](Target).
//! - A device carries its own clock, so that a simulated one can run in virtual time.
//!
//! This crate knows nothing of Kubernetes, and it is the only one with `unsafe`, all of it in `sys.rs`.
//!
//! Start reading at [`device`], then [`backend`].

pub mod backend;
pub mod blocking;
pub mod buffer;
pub mod bulk;
pub mod claim;
mod clock;
pub mod device;
pub mod erase;
pub mod error;
pub mod extents;
pub mod fitting;
pub mod loopdev;
pub mod null;
pub mod probe;
pub mod quota;
pub mod random;
pub mod signature;
pub mod sim;
pub mod sys;
pub mod target;
pub mod uring;

pub use backend::{
    Backend, Choice, Opened, Through, WhyThreads, open, open_else_threads, open_passthrough,
    open_polled, probe_backend,
};
pub use buffer::Buffer;
pub use device::{Completion, Device, Ended, Geometry, Op, OpKind, Options, Wait};
pub use error::{BackendError, DeviceError, IoCause, IoError, NvmeStatus, OpenError, Refused};
pub use fitting::{Fitting, Timing, fitting};
pub use target::{Mode, ReadOnly, ReadWrite, Target};
pub use uring::Ring;
