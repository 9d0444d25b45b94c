//! Memory for direct transfers: aligned, owned, and away while the kernel has it.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::OnceLock;

/// Every buffer begins at a multiple of this: the page size, which no device asks to exceed.
pub const ALIGNMENT: usize = 4096;

/// The longest buffer: what the kernel registers as one.
pub const BUFFER_BYTES_MAX: usize = 1 << 30;

/// Owned memory, aligned to [`ALIGNMENT`]. Reads and writes take it along and bring it home. One pointer wide, for it is moved
/// some six times with each operation.
pub struct Buffer(Box<Memory>);

struct Memory {
    /// Longer than needed by one alignment; never grown, so its place never changes.
    bytes: Vec<u8>,
    start: usize,
    len: usize,
    capacity: usize,
    registered: Option<Registered>,
}

/// The place of a buffer among those registered with one ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Registered {
    /// The ring.
    pub(crate) ring: u32,
    /// Its index there.
    pub(crate) index: u16,
}

impl Buffer {
    /// `len` zero bytes.
    ///
    /// # Panics
    /// When `len` is above [`BUFFER_BYTES_MAX`].
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        assert!(len <= BUFFER_BYTES_MAX, "a transfer is at most 1 GiB");
        let bytes = vec![0u8; len + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT);
        assert!(
            start < ALIGNMENT,
            "an address has an aligned one within a page"
        );
        Self(Box::new(Memory {
            bytes,
            start,
            len,
            capacity: len,
            registered: None,
        }))
    }

    /// A copy of `bytes`.
    #[must_use]
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buffer = Self::zeroed(bytes.len());
        buffer.copy_from_slice(bytes);
        buffer
    }

    /// Bytes that it can hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.0.capacity
    }

    /// Makes it `len` bytes long; what it holds beyond its former length is what it held before.
    ///
    /// # Panics
    /// When `len` is above its capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.0.capacity, "a buffer never grows");
        self.0.len = len;
    }

    /// Marks it as registered.
    pub(crate) fn set_registered(&mut self, registered: Registered) {
        self.0.registered = Some(registered);
    }

    /// Where it is registered, if it is.
    pub(crate) fn registered(&self) -> Option<Registered> {
        self.0.registered
    }
}

impl fmt::Debug for Buffer {
    /// Without what it holds: that is long, and may be somebody's data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("len", &self.0.len)
            .field("registered", &self.0.registered)
            .finish_non_exhaustive()
    }
}

/// Bytes of [`zeroes`].
pub(crate) const ZEROES_BYTES: usize = 1 << 20;

/// Zeroes to write from: one piece for all drives of the process, aligned, never freed and never changed.
pub(crate) fn zeroes() -> &'static [u8] {
    static ZEROES: OnceLock<&'static [u8]> = OnceLock::new();
    ZEROES.get_or_init(|| {
        let memory: &'static [u8] = Vec::leak(vec![0; ZEROES_BYTES + ALIGNMENT]);
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        memory.get(start..start + ZEROES_BYTES).unwrap_or_default()
    })
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let memory = &*self.0;
        memory
            .bytes
            .get(memory.start..memory.start + memory.len)
            .unwrap_or_default()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        let memory = &mut *self.0;
        memory
            .bytes
            .get_mut(memory.start..memory.start + memory.len)
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_and_whole() {
        for len in [0, 1, 512, 4096, 1 << 20] {
            let buffer = Buffer::zeroed(len);
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr().align_offset(ALIGNMENT), 0);
            assert!(buffer.iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn there_are_zeroes() {
        assert_eq!(zeroes().len(), ZEROES_BYTES);
        assert_eq!(zeroes().as_ptr().align_offset(ALIGNMENT), 0);
        assert!(zeroes().iter().all(|byte| *byte == 0));
    }

    #[test]
    fn shorter_and_back() {
        let mut buffer = Buffer::copy_of(b"abcdef");
        buffer.set_len(3);
        assert_eq!(&*buffer, b"abc");
        buffer.set_len(6);
        assert_eq!(&*buffer, b"abcdef");
    }

    #[test]
    #[should_panic(expected = "a buffer never grows")]
    fn never_grows() {
        Buffer::zeroed(512).set_len(513);
    }
}
