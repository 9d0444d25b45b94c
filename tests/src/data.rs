//! Data that a test writes and looks for again: told apart by a seed, compared byte by byte.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::Path;

const CHUNK: usize = 1 << 16;

/// Bytes that follow from a seed.
fn chunk(seed: u64, index: u64) -> Vec<u8> {
    let mut state = seed ^ index.rotate_left(32);
    let mut bytes = Vec::with_capacity(CHUNK);
    while bytes.len() < CHUNK {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

/// Writes a file of so many chunks of 64 KiB, durably.
///
/// # Panics
/// When that fails.
pub fn write(path: &Path, seed: u64, chunks: u64) {
    let mut file = File::create(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    for index in 0..chunks {
        file.write_all(&chunk(seed, index))
            .expect("room for the data");
    }
    file.sync_all().expect("durable data");
    let folder = path.parent().and_then(|folder| File::open(folder).ok());
    folder
        .map(|folder| folder.sync_all())
        .transpose()
        .expect("a durable name");
}

/// Whether a file is what [`write()`] made of it.
#[must_use]
pub fn is_whole(path: &Path, seed: u64, chunks: u64) -> bool {
    let Ok(mut file) = File::open(path) else {
        return false;
    };
    if fs::metadata(path).map_or(0, |found| found.len()) != chunks * CHUNK as u64 {
        return false;
    }
    let mut bytes = vec![0; CHUNK];
    (0..chunks).all(|index| file.read_exact(&mut bytes).is_ok() && bytes == chunk(seed, index))
}
