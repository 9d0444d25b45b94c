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
}

impl OpFile {
    /// What to push for `op` on this file.
    pub(crate) fn entry(self, op: &mut Op) -> squeue::Entry {
        let file = types::Fd(self.number);
        let entry = match op {
            Op::Nop => return opcode::Nop::new().build(),
            Op::Flush => opcode::Fsync::new(file).build(),
            Op::Read { offset, buffer } => {
                let (place, len) = (buffer.as_mut_ptr(), length(buffer));
                match self.index(buffer) {
                    Some(index) => opcode::ReadFixed::new(file, place, len, index)
                        .offset(*offset)
                        .build(),
                    None => opcode::Read::new(file, place, len).offset(*offset).build(),
                }
            }
            Op::Write { offset, buffer } => {
                let (place, len) = (buffer.as_ptr(), length(buffer));
                match self.index(buffer) {
                    Some(index) => opcode::WriteFixed::new(file, place, len, index)
                        .offset(*offset)
                        .build(),
                    None => opcode::Write::new(file, place, len).offset(*offset).build(),
                }
            }
        };
        if self.fixed {
            entry.flags(squeue::Flags::FIXED_FILE)
        } else {
            entry
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
