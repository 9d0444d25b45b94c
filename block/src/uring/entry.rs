//! From an operation to what the kernel reads: the entry names the operation's own memory and nothing else, which is what
//! `sys` relies on when it pushes it.

use io_uring::{opcode, squeue, types};

use crate::buffer::Buffer;
use crate::device::Op;

/// The file of an operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpFile {
    /// A descriptor, or an index of the registered files.
    pub(crate) number: i32,
    /// Which of both.
    pub(crate) fixed: bool,
    /// The ring, so that another ring's buffers are not taken for registered.
    pub(crate) ring: u32,
    /// `RWF_NOWAIT`, or nothing.
    pub(crate) rw_flags: i32,
}

impl OpFile {
    /// Gives what to push for `op` on this file to `push`. Not returned, and whole in each case: an entry that is put
    /// together from parts in memory costs more than all else that the engine does for an operation.
    #[inline(always)]
    pub(crate) fn entry<R>(
        self,
        op: &mut Op,
        user_data: u64,
        push: impl FnOnce(&squeue::Entry) -> R,
    ) -> R {
        let file = types::Fd(self.number);
        let flags = if self.fixed {
            squeue::Flags::FIXED_FILE
        } else {
            squeue::Flags::empty()
        };
        let whole = |entry: squeue::Entry| entry.flags(flags).user_data(user_data);
        match op {
            Op::Nop => push(&opcode::Nop::new().build().user_data(user_data)),
            Op::Flush => push(&whole(opcode::Fsync::new(file).build())),
            Op::Read { offset, buffer } => {
                let (place, len) = (buffer.as_mut_ptr(), length(buffer));
                let entry = match self.index(buffer) {
                    Some(index) => opcode::ReadFixed::new(file, place, len, index)
                        .offset(*offset)
                        .rw_flags(self.rw_flags)
                        .build(),
                    None => opcode::Read::new(file, place, len)
                        .offset(*offset)
                        .rw_flags(self.rw_flags)
                        .build(),
                };
                push(&whole(entry))
            }
            Op::Write { offset, buffer } => {
                let (place, len) = (buffer.as_ptr(), length(buffer));
                let entry = match self.index(buffer) {
                    Some(index) => opcode::WriteFixed::new(file, place, len, index)
                        .offset(*offset)
                        .build(),
                    None => opcode::Write::new(file, place, len).offset(*offset).build(),
                };
                push(&whole(entry))
            }
        }
    }

    fn index(self, buffer: &Buffer) -> Option<u16> {
        buffer
            .registered()
            .filter(|registered| registered.ring == self.ring)
            .map(|registered| registered.index)
    }
}

/// A buffer is at most [`BUFFER_BYTES_MAX`](crate::buffer::BUFFER_BYTES_MAX) long.
fn length(buffer: &Buffer) -> u32 {
    u32::try_from(buffer.len()).unwrap_or(0)
}
