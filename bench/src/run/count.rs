//! What a run counts.

use crate::report::Side;

/// Operations that ended well, submitted at once and seen to have ended at once: they have one latency.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Alike {
    /// When they were seen to have ended.
    pub(super) now_ns: u64,
    /// When they were submitted.
    pub(super) stamp_ns: u64,
    /// Writes rather than reads.
    pub(super) wrote: bool,
    /// How many.
    pub(super) count: u64,
}

/// The measured operations of a run, and of the sample under way.
#[derive(Debug)]
pub(super) struct Count {
    pub(super) read: Side,
    pub(super) write: Side,
    /// Only what was submitted since is measured; none yet during the warm-up.
    pub(super) since_ns: u64,
    /// Bytes that each operation moves.
    pub(super) bytes_each: u64,
    /// Operations of the sample under way.
    pub(super) sample_operations: u64,
    /// Their latencies together.
    pub(super) sample_latency_ns: u64,
}

impl Count {
    /// Nothing, and nothing is measured yet.
    pub(super) fn new(bytes_each: u64) -> Self {
        Self {
            read: Side::default(),
            write: Side::default(),
            since_ns: u64::MAX,
            bytes_each,
            sample_operations: 0,
            sample_latency_ns: 0,
        }
    }

    pub(super) const fn side(&mut self, wrote: bool) -> &mut Side {
        if wrote {
            &mut self.write
        } else {
            &mut self.read
        }
    }

    /// Counts what is measured.
    pub(super) fn settle(&mut self, alike: Alike) {
        if alike.count == 0 || alike.stamp_ns < self.since_ns {
            return;
        }
        let latency_ns = alike.now_ns - alike.stamp_ns;
        let bytes = self.bytes_each * alike.count;
        let side = self.side(alike.wrote);
        side.latency.record_n(latency_ns, alike.count);
        side.operations += alike.count;
        side.bytes += bytes;
        self.sample_operations += alike.count;
        self.sample_latency_ns += latency_ns * alike.count;
    }

    pub(super) const fn operations(&self) -> u64 {
        self.read.operations + self.write.operations
    }

    pub(super) const fn errors(&self) -> u64 {
        self.read.errors + self.write.errors
    }
}
