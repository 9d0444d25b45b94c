//! Every `unsafe` of the workspace: typed wrappers over what the kernel offers and no safe crate does.
//!
//! Each function here is safe to call with any argument: what must hold for the one unsafe operation inside is
//! arranged by the function or by the types that it takes. One operation a block, at most 25 blocks.
#![expect(
    unsafe_code,
    reason = "the one place of the workspace where the kernel is given raw memory"
)]

use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::time::Duration;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use nix::errno::Errno;

use crate::buffer::{Buffer, Registered};
use crate::clock::Clock;
use crate::device::Op;
use crate::erase::secure::kernel::{AdminCommand, FirstBlock, Passthru};
use crate::error::errno_of;
use crate::extents::kernel::FileMap;
use crate::quota::kernel::{DiskQuota, FileAttributes, QuotaCommand};
use crate::uring::OpFile;
use crate::uring::abi::{
    ENTER_EXT_ARG, ENTER_GETEVENTS, ENTER_REGISTERED_RING, REGISTER_RING_FDS, RingPlace,
    UNREGISTER_RING_FDS, WaitArgument,
};
use crate::uring::passthrough::Namespace;

mod ioctl {
    //! Generated calls; each is `unsafe` and wrapped below.
    nix::ioctl_read_bad!(blksszget, nix::libc::BLKSSZGET, nix::libc::c_int);
    nix::ioctl_read!(fsgetxattr, b'X', 31, crate::quota::kernel::FileAttributes);
    nix::ioctl_write_ptr!(fssetxattr, b'X', 32, crate::quota::kernel::FileAttributes);
    nix::ioctl_readwrite!(
        nvme_admin,
        b'N',
        0x41,
        crate::erase::secure::kernel::Passthru
    );
    nix::ioctl_readwrite!(nvme_io, b'N', 0x43, crate::erase::secure::kernel::Passthru);
    // The size in the number is that of the header alone; the kernel reads from it how many extents follow.
    nix::ioctl_readwrite_bad!(
        fs_ioc_fiemap,
        nix::request_code_readwrite!(b'f', 11, 32),
        crate::extents::kernel::FileMap
    );
    nix::ioctl_none_bad!(nvme_ioctl_id, nix::request_code_none!(b'N', 0x40));
    nix::ioctl_read_bad!(loop_get_status64, 0x4C05, [u64; 29]);
}

/// What the kernel says of a loop device (`LOOP_GET_STATUS64`): device, inode and device number of its ground come first.
///
/// # Errors
/// Not a loop device (ENOTTY), or one that stands on nothing (ENXIO).
pub(crate) fn loop_status(device: BorrowedFd<'_>) -> Result<[u64; 29], Errno> {
    let mut status = [0; 29];
    // SAFETY: the ioctl writes one loop_info64, which is 232 bytes long, to as many; the descriptor is open while borrowed.
    unsafe { ioctl::loop_get_status64(device.as_raw_fd(), &raw mut status) }?;
    Ok(status)
}

/// Where `length` bytes of a file from `start` are on its device (`FS_IOC_FIEMAP`), at most [`FILE_MAP_EXTENTS`](crate::extents::kernel::FILE_MAP_EXTENTS)
/// extents. What was not written back yet is written back first.
///
/// # Errors
/// The file system does not know the call, or the file's map cannot be read.
pub(crate) fn file_map(file: BorrowedFd<'_>, start: u64, length: u64) -> Result<FileMap, Errno> {
    let mut map = FileMap::asking(start, length);
    // SAFETY: the kernel writes to the header and to at most `extent_count` extents, and so many follow the header.
    unsafe { ioctl::fs_ioc_fiemap(file.as_raw_fd(), &raw mut map) }?;
    Ok(map)
}

/// The logical sector of a block device (`BLKSSZGET`).
///
/// # Errors
/// Not a block device.
pub fn logical_sector_bytes(device: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut bytes: nix::libc::c_int = 0;
    // SAFETY: the ioctl writes one int, to a live int; the descriptor is open for as long as it is borrowed.
    unsafe { ioctl::blksszget(device.as_raw_fd(), &raw mut bytes) }?;
    u32::try_from(bytes).map_err(|_| Errno::ERANGE)
}

/// The number of a namespace of an NVMe drive (`NVME_IOCTL_ID`).
///
/// # Errors
/// Not an NVMe namespace.
pub(crate) fn namespace_id(device: BorrowedFd<'_>) -> Result<u32, Errno> {
    // SAFETY: the ioctl takes no argument and gives a number; the descriptor is open for as long as it is borrowed.
    let id = unsafe { ioctl::nvme_ioctl_id(device.as_raw_fd()) }?;
    u32::try_from(id).map_err(|_| Errno::ERANGE)
}

/// Sends an admin command to the drive of an NVMe block device and waits for its end (`NVME_IOCTL_ADMIN_CMD`); the drive's
/// data, at most as many as `data` is long, come into `data`. The drive's status; 0 is success.
///
/// # Errors
/// The kernel did not pass it on, or it did not end: ENOTTY where it is no NVMe device.
pub(crate) fn nvme_admin(
    device: BorrowedFd<'_>,
    command: AdminCommand,
    data: &mut [u8],
) -> Result<u16, Errno> {
    let bytes = u32::try_from(data.len()).map_err(|_| Errno::EINVAL)?;
    let mut passthru = Passthru::new(command, data.as_mut_ptr() as u64, bytes);
    // SAFETY: the ioctl reads and writes one nvme_passthru_cmd, whose layout Passthru has, and as many bytes of `data` as it
    // is told; both are borrowed for longer than the call, and the drive itself never learns where they are.
    let status = unsafe { ioctl::nvme_admin(device.as_raw_fd(), &raw mut passthru) }?;
    u16::try_from(status).map_err(|_| Errno::ERANGE)
}

/// Reads the first block of an NVMe namespace by a command of its own (`NVME_IOCTL_IO_CMD`): the drive's very status, where a
/// read by the kernel has an errno. 0 is success.
///
/// # Errors
/// The kernel did not pass it on, or it did not end.
pub(crate) fn nvme_first_block(
    device: BorrowedFd<'_>,
    namespace: u32,
    block: FirstBlock,
) -> Result<u16, Errno> {
    let mut data = vec![0_u8; block.bytes()];
    let bytes = u32::try_from(data.len()).map_err(|_| Errno::EINVAL)?;
    let mut passthru = Passthru::new(block.command(namespace), data.as_mut_ptr() as u64, bytes);
    // SAFETY: as of `nvme_admin`; the drive sends one block, and `data` has the bytes of one (see `FirstBlock`).
    let status = unsafe { ioctl::nvme_io(device.as_raw_fd(), &raw mut passthru) }?;
    u16::try_from(status).map_err(|_| Errno::ERANGE)
}

/// A ring together with the memory that the kernel may be writing to: an operation put in is owned here until the kernel
/// has answered it, so nobody can free or touch its buffer in between. Of plain entries, or of the larger ones of
/// passthrough.
pub(crate) struct OwningRing<S = squeue::Entry, C = cqueue::Entry>
where
    S: squeue::EntryMarker,
    C: cqueue::EntryMarker,
{
    ring: IoUring<S, C>,
    /// Its place among the thread's registered rings, by which the kernel finds it faster than by descriptor.
    place: Option<u32>,
    /// What is in flight, by its token, which is its `user_data`.
    slots: Vec<Option<Op>>,
    in_flight: usize,
}

/// Sends no-ops through a ring, `depth` at once, `turns` times. How many came back.
pub(crate) fn no_ops(ring: &mut IoUring, depth: u32, turns: u32) -> Result<u64, Errno> {
    let entry = opcode::Nop::new().build();
    let mut done = 0;
    for _ in 0..turns {
        let mut queue = ring.submission();
        for _ in 0..depth {
            // SAFETY: a no-op names no memory.
            let _full = unsafe { queue.push(&entry) }.is_err();
        }
        drop(queue);
        ring.submit_and_wait(depth as usize)
            .map_err(|error| errno_of(&error))?;
        done += ring.completion().count() as u64;
    }
    Ok(done)
}

/// Gives a ring a place among those of this thread, or takes it away.
fn register_ring(fd: i32, operation: u32, place: &mut RingPlace) -> Result<(), Errno> {
    // SAFETY: both operations read one io_uring_rsrc_update, whose layout RingPlace has, and the first writes its offset back; it is
    // live and exclusively borrowed, and nothing of it is kept after the call.
    let answer = unsafe {
        nix::libc::syscall(
            nix::libc::SYS_io_uring_register,
            fd,
            operation,
            std::ptr::from_mut(place),
            1,
        )
    };
    Errno::result(answer).map(drop)
}

/// How long a dropped ring waits for what is in flight before it gives those buffers up.
const DROP_WAIT: Duration = Duration::from_millis(if cfg!(test) { 200 } else { 10_000 });

impl<S: squeue::EntryMarker, C: cqueue::EntryMarker> OwningRing<S, C> {
    /// Over a ring with room for `depth` entries.
    pub(crate) fn new(ring: IoUring<S, C>, depth: usize) -> Self {
        Self {
            ring,
            place: None,
            slots: (0..depth).map(|_| None).collect(),
            in_flight: 0,
        }
    }

    /// The ring, for what is safe to do with it.
    pub(crate) const fn ring(&self) -> &IoUring<S, C> {
        &self.ring
    }

    /// Operations owned now.
    pub(crate) const fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Registers `buffers` with the kernel, in this order, and marks them with their place.
    ///
    /// # Errors
    /// As the kernel says: ENOMEM above the limit of locked memory.
    pub(crate) fn register(&self, buffers: &mut [Buffer], ring: u32) -> Result<(), Errno> {
        let vectors: Vec<nix::libc::iovec> = buffers
            .iter_mut()
            .map(|buffer| nix::libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: buffer.capacity(),
            })
            .collect();
        // SAFETY: each vector names the whole of a live buffer. The kernel pins those pages itself; they are only ever used by
        // an operation that owns the buffer registered there, so a buffer dropped early leaves an index that nobody uses.
        unsafe { self.ring.submitter().register_buffers(&vectors) }
            .map_err(|error| errno_of(&error))?;
        for (index, buffer) in (0u16..).zip(buffers) {
            buffer.set_registered(Registered { ring, index });
        }
        Ok(())
    }

    /// Registers the ring with this thread. Whether it is: there is room for 16 in a thread, and before 5.18 for none
    /// (kernel-notes/14).
    pub(crate) fn register_self(&mut self) -> bool {
        let fd = self.ring.as_raw_fd();
        let mut update = RingPlace {
            offset: u32::MAX,
            reserved: 0,
            data: u64::from(fd.unsigned_abs()),
        };
        self.place = register_ring(fd, REGISTER_RING_FDS, &mut update)
            .ok()
            .map(|()| update.offset);
        self.place.is_some()
    }

    /// Puts `op` into the slot of its token and has it queued; gives it back when there is no room, or none for this token.
    #[inline(always)]
    fn keep(
        &mut self,
        token: u64,
        op: Op,
        push: impl FnOnce(&mut squeue::SubmissionQueue<'_, S>, &mut Op) -> bool,
    ) -> Result<(), Op> {
        let slot = usize::try_from(token).unwrap_or(usize::MAX);
        let Some(place) = self.slots.get_mut(slot).filter(|place| place.is_none()) else {
            return Err(op);
        };
        if push(&mut self.ring.submission(), place.insert(op)) {
            self.in_flight += 1;
            return Ok(());
        }
        place.take().map_or(Ok(()), Err)
    }

    /// Hands over what is queued; waits until `want` have ended or `timeout` is over. What has ended is posted, whether or
    /// not it was waited for.
    ///
    /// # Errors
    /// As the kernel says; ETIME after the time-out.
    #[inline]
    pub(crate) fn enter(&mut self, want: u32, timeout: Option<Duration>) -> Result<(), Errno> {
        let queued = u32::try_from(self.ring.submission().len()).unwrap_or(u32::MAX);
        let (number, registered) = match self.place {
            Some(place) => (place, ENTER_REGISTERED_RING),
            None => (self.ring.as_raw_fd().unsigned_abs(), 0),
        };
        let timespec = timeout.filter(|_| want > 0).map(types::Timespec::from);
        let argument = timespec
            .as_ref()
            .map(|timespec| WaitArgument::until(std::ptr::from_ref(timespec).addr() as u64));
        let (extended, address, length) = match &argument {
            Some(argument) => (
                ENTER_EXT_ARG,
                std::ptr::from_ref(argument),
                size_of::<WaitArgument>(),
            ),
            None => (0, std::ptr::null(), 0),
        };
        let flags = ENTER_GETEVENTS | extended | registered;
        // SAFETY: the entries handed over name only memory of operations owned by `slots` (see `push`); the argument, if there is one,
        // and the time that it names outlive the call, and the kernel only reads them.
        let entered = unsafe {
            nix::libc::syscall(
                nix::libc::SYS_io_uring_enter,
                number,
                queued,
                want,
                flags,
                address,
                length,
            )
        };
        Errno::result(entered).map(drop)
    }

    /// Takes all answers that are posted: token, operation, the kernel's result.
    #[inline(always)]
    pub(crate) fn reap(&mut self, mut answered: impl FnMut(u64, Op, i32)) {
        for entry in self.ring.completion() {
            let entry: cqueue::Entry = entry.into();
            let token = entry.user_data();
            let slot = usize::try_from(token).unwrap_or(usize::MAX);
            if let Some(op) = self.slots.get_mut(slot).and_then(Option::take) {
                self.in_flight -= 1;
                answered(token, op, entry.result());
            }
        }
    }
}

impl OwningRing {
    /// Queues `op` on `file` (an index of the registered files when `fixed`); gives it back when there is no room, or none
    /// for this token.
    #[inline(always)]
    pub(crate) fn push(&mut self, file: OpFile, token: u64, op: Op) -> Result<(), Op> {
        self.keep(token, op, |queue, op| {
            file.entry(op, token, |entry| {
                // SAFETY: the entry names no memory but that of the operation that is now in its slot, at an address that does not move
                // with it, and stays there until its completion is reaped or, if that never comes, for ever.
                unsafe { queue.push(entry) }.is_ok()
            })
        })
    }
}

impl OwningRing<squeue::Entry128, cqueue::Entry32> {
    /// The same for a command to a drive, which can only be a read (see [`Namespace::entry`]); gives back what is none, too.
    pub(crate) fn push(&mut self, namespace: &Namespace, token: u64, op: Op) -> Result<(), Op> {
        self.keep(token, op, |queue, op| {
            namespace.entry(op, token).is_some_and(|entry| {
                // SAFETY: the entry names no memory but the buffer of the operation in its slot, as above, and the drive is told to write
                // as many bytes as that is long, in blocks of the size that it had when it was opened (kernel-notes/22).
                unsafe { queue.push(&entry) }.is_ok()
            })
        })
    }
}

impl<S: squeue::EntryMarker, C: cqueue::EntryMarker> Drop for OwningRing<S, C> {
    fn drop(&mut self) {
        // A ring that polls heeds no time-out (kernel-notes/21).
        let polled = self.ring.params().is_setup_iopoll().then(Clock::start);
        while self.in_flight() > 0 {
            let entered = self.enter(u32::from(polled.is_none()), Some(DROP_WAIT));
            let ends = polled.is_some_and(|it| u128::from(it.now_ns()) > DROP_WAIT.as_nanos());
            match entered {
                Ok(()) | Err(Errno::EINTR | Errno::EAGAIN | Errno::EBUSY) if !ends => {}
                Ok(()) | Err(_) => break,
            }
            self.reap(|_, _, _| {});
        }
        if let Some(place) = self.place.take() {
            // Else the thread would keep the ring, and the ring its file, until it ends.
            let mut update = RingPlace {
                offset: place,
                ..RingPlace::default()
            };
            let fd = self.ring.as_raw_fd();
            let _kept = register_ring(fd, UNREGISTER_RING_FDS, &mut update).is_err();
        }
        let lost: Vec<Op> = self.slots.iter_mut().filter_map(Option::take).collect();
        if !lost.is_empty() {
            tracing::warn!(
                operations = lost.len(),
                "the device never answered; its buffers are given up"
            );
            // The kernel may still write to them.
            std::mem::forget(lost);
            return;
        }
        // Closing a ring lets go of its file at some later time; whoever opens the device next must find it free
        // (kernel-notes/05). Nothing to do where there was none.
        let submitter = self.ring.submitter();
        let _none = submitter.unregister_files().is_err();
        let _none = submitter.unregister_buffers().is_err();
    }
}

// ---- time ----

/// The processor's counter of time, where it has one. It is not waited for what was begun before.
#[inline]
pub(crate) fn processor_ticks() -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: every x86-64 has the instruction; it touches no memory. Where the kernel forbids it to programs the process
        // ends by SIGSEGV, which is a choice made for a process by itself (prctl).
        Some(unsafe { std::arch::x86_64::_rdtsc() })
    }
    #[cfg(not(target_arch = "x86_64"))]
    None
}

// ---- writing zeroes ----

/// A ring whose operations all write the one piece of zeroes of this process ([`crate::buffer::zeroes`]). That memory is
/// never freed and never written to, so an operation in flight borrows nothing that could go away.
pub(crate) struct ZeroRing(IoUring);

impl ZeroRing {
    /// Over a ring that is not yet enabled.
    ///
    /// # Errors
    /// As the kernel says: ENOMEM above the limit of locked memory.
    pub(crate) fn new(ring: IoUring) -> Result<Self, Errno> {
        let vector = nix::libc::iovec {
            iov_base: crate::buffer::zeroes().as_ptr().cast_mut().cast(),
            iov_len: crate::buffer::zeroes().len(),
        };
        // SAFETY: the vector names the whole of memory that lives for ever; the operations of `push`, the only ones that
        // this ring gets, make the kernel read from it and never write.
        unsafe { ring.submitter().register_buffers(&[vector]) }.map_err(|e| errno_of(&e))?;
        Ok(Self(ring))
    }

    /// The ring, for what is safe to do with it.
    pub(crate) const fn ring(&mut self) -> &mut IoUring {
        &mut self.0
    }

    /// Queues the writing of `bytes` zeroes; false when there is no room.
    pub(crate) fn push(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        bytes: u32,
        token: u64,
    ) -> bool {
        let zeroes = crate::buffer::zeroes();
        assert!(
            bytes as usize <= zeroes.len(),
            "no more zeroes than there are"
        );
        let file = types::Fd(file.as_raw_fd());
        let entry = opcode::WriteFixed::new(file, zeroes.as_ptr(), bytes, 0);
        let entry = entry.offset(offset).build().user_data(token);
        // SAFETY: the entry names memory that lives for ever and is only read, as many bytes of it as there are.
        unsafe { self.0.submission().push(&entry) }.is_ok()
    }
}

// ---- memory ----

/// Has the allocator keep few pools, and give large pieces back to the kernel when they are freed. A process with two
/// threads a drive would else keep as many pools as the machine has cores, each as large as its largest job ever was.
/// Call it before there are threads. Without effect where the C library is another than glibc.
pub fn give_memory_back_early() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (nix::libc::M_ARENA_MAX, 2),
        (nix::libc::M_MMAP_THRESHOLD, 64 << 10),
        (nix::libc::M_TRIM_THRESHOLD, 128 << 10),
    ] {
        // SAFETY: mallopt takes any two integers and refuses what it does not know.
        let _taken = unsafe { nix::libc::mallopt(parameter, value) } == 1;
    }
}

// ---- project quota ----

/// Project id and flags of a file (`FS_IOC_FSGETXATTR`).
pub(crate) fn file_attributes(file: BorrowedFd<'_>) -> Result<FileAttributes, Errno> {
    let mut attributes = FileAttributes::default();
    // SAFETY: the ioctl writes one fsxattr, whose layout FileAttributes has, to a live one; the descriptor is open.
    unsafe { ioctl::fsgetxattr(file.as_raw_fd(), &raw mut attributes) }?;
    Ok(attributes)
}

/// Sets project id and flags of a file (`FS_IOC_FSSETXATTR`).
pub(crate) fn set_file_attributes(
    file: BorrowedFd<'_>,
    attributes: &FileAttributes,
) -> Result<(), Errno> {
    // SAFETY: the ioctl reads one fsxattr, whose layout FileAttributes has, from a live one; the descriptor is open.
    unsafe { ioctl::fssetxattr(file.as_raw_fd(), attributes) }?;
    Ok(())
}

/// `quotactl_fd`, kernel 5.14 and later: like quotactl, but for the file system of an open file instead of a device's
/// name.
///
/// # Errors
/// As the kernel says: `ENOENT` for a project that has neither limits nor use.
pub(crate) fn quotactl(
    file: BorrowedFd<'_>,
    command: QuotaCommand,
    project: u32,
    quota: &mut DiskQuota,
) -> Result<(), Errno> {
    // SAFETY: each command that there is reads or writes exactly one fs_disk_quota, whose layout DiskQuota has, at the given
    // address, which is live and exclusively borrowed; nothing is kept after the call.
    let answer = unsafe {
        nix::libc::syscall(
            nix::libc::SYS_quotactl_fd,
            file.as_raw_fd(),
            command.number(),
            project,
            std::ptr::from_mut(quota),
        )
    };
    Errno::result(answer).map(drop)
}

/// Refuses io_uring to this thread, as a container's seccomp profile does: EPERM for its three system calls (425 to 427).
#[cfg(test)]
pub(crate) fn refuse_io_uring() -> Result<(), Errno> {
    use nix::libc;
    let statement = |code: u32, jt, jf, k| libc::sock_filter {
        code: u16::try_from(code).unwrap_or(0),
        jt,
        jf,
        k,
    };
    let mut filter = [
        // Load the number of the system call.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 2, 425),
        statement(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, 1, 0, 427),
        statement(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | 1,
        ),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: 5,
        filter: filter.as_mut_ptr(),
    };
    nix::sys::prctl::set_no_new_privs()?;
    // SAFETY: the kernel copies the program, of five statements as it says, before the call returns.
    let answer = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    Errno::result(answer).map(drop)
}
