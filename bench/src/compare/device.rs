//! Devices that a comparison writes to: each is what it was, holds what it was left with, and is used by nobody else.
//!
//! After a round a device may hold, wherever a signature may be: zeroes; the pattern of the contest; what it held before the
//! round; and, where the contest has no pattern of its own, bytes that are nothing by name. Anything else somebody put there
//! meanwhile, and the device is written to no more.

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::Context as _;
use block::signature::{Area, Kind, everywhere, scan};
use block::{ReadOnly, Target};

use super::ground::Loop;
use crate::permit::{self, Hold};

/// A device that may be written to.
#[derive(Clone, Debug)]
pub(super) struct Device {
    pub(super) path: PathBuf,
    /// What it is; empty where nobody permitted to write to it.
    pub(super) identity: String,
    pub(super) size_bytes: u64,
    /// A file of random bytes as long as the device, for those that are written over between two rounds.
    pub(super) pattern: PathBuf,
    /// Of one that was given and may be written to.
    given: Option<Rc<Given>>,
}

/// A device that somebody named, for as long as it is written to.
#[derive(Debug)]
struct Given {
    /// An open device keeps its name, which the peers go by (kernel-notes/35).
    _open: Target<ReadOnly>,
    /// The word for it as it was left: at first the one that was given.
    left: RefCell<String>,
    /// What it held then, where a signature may be.
    held: RefCell<Held>,
}

/// Bytes of a device or file, by offset.
type Held = Vec<(u64, Vec<u8>)>;

/// Compared at once: no device writes less.
const BLOCK_BYTES: usize = 512;

/// What is read of a device of `size_bytes`, where a signature may be.
fn held(path: &Path, size_bytes: u64) -> anyhow::Result<Held> {
    let at = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(at)?;
    let read = |range: std::ops::Range<u64>| {
        let mut bytes = vec![0; usize::try_from(range.end - range.start)?];
        file.read_exact_at(&mut bytes, range.start)
            .with_context(at)?;
        Ok((range.start, bytes))
    };
    everywhere(size_bytes).into_iter().map(read).collect()
}

/// What is there by name: digests, and where.
fn named(size_bytes: u64, held: &Held) -> Vec<(u64, u64)> {
    let areas: Vec<Area<'_>> = held
        .iter()
        .map(|(offset, bytes)| Area {
            offset: *offset,
            bytes,
        })
        .collect();
    let found = scan(size_bytes, &areas).into_iter();
    found
        .filter(|one| one.kind != Kind::Unknown)
        .map(|one| (one.digest(), one.offset))
        .collect()
}

/// Whether something bears a name that did not, by bytes that were not there: half of what was may be left and be called
/// otherwise.
fn is_named_anew(size_bytes: u64, now: &Held, before: &Held) -> bool {
    let known = named(size_bytes, before);
    let block = |held: &Held, at: u64| {
        let block_bytes = BLOCK_BYTES as u64;
        let at = at / block_bytes * block_bytes;
        held.iter().find_map(|(offset, bytes)| {
            let start = usize::try_from(at.checked_sub(*offset)?).ok()?;
            bytes.get(start..start + BLOCK_BYTES).map(<[u8]>::to_vec)
        })
    };
    let mut found = named(size_bytes, now).into_iter();
    found.any(|(digest, at)| {
        known.iter().all(|(known, _)| *known != digest) && block(now, at) != block(before, at)
    })
}

/// Where there is a block that is neither zero nor as it is in any of `known`, at the same place.
fn stranger(now: &Held, known: &[&Held]) -> Option<u64> {
    let mut areas = now.iter().enumerate();
    areas.find_map(|(area, (offset, bytes))| {
        let mut blocks = bytes.chunks(BLOCK_BYTES).enumerate();
        let at = blocks.find_map(|(index, block)| {
            let at = index * BLOCK_BYTES;
            let same = |known: &&Held| {
                let there = known
                    .get(area)
                    .and_then(|(_, bytes)| bytes.get(at..at + block.len()));
                there == Some(block)
            };
            let ours = block.iter().all(|byte| *byte == 0) || known.iter().any(same);
            (!ours).then_some(at as u64)
        })?;
        Some(offset + at)
    })
}

impl Device {
    /// One of our own.
    pub(super) fn made(made: &Loop, size_bytes: u64) -> anyhow::Result<Self> {
        Ok(Self {
            identity: permit::identity_of(&made.path)?,
            path: made.path.clone(),
            size_bytes,
            pattern: PathBuf::new(),
            given: None,
        })
    }

    /// Whether it was made for the comparison, and holds nothing of anybody's.
    pub(super) fn is_own(&self) -> bool {
        self.given.is_none()
    }

    /// One that was given; it may be written to, if its word was given too.
    pub(super) fn given(path: &Path, word: Option<&str>) -> anyhow::Result<Self> {
        // The kernel's own name: a link to it may lead to another device by the time at which a peer follows it.
        let path = &path
            .canonicalize()
            .with_context(|| format!("cannot open {}", path.display()))?;
        let target = Target::<ReadOnly>::open(path)?;
        let size_bytes = target.geometry().size_bytes;
        let mut device = Self {
            path: path.clone(),
            identity: String::new(),
            size_bytes,
            pattern: PathBuf::new(),
            given: None,
        };
        if let Some(word) = word {
            permit::writable(path, false, Some(word))?;
            device.identity = permit::identity_of(path)?;
            device.given = Some(Rc::new(Given {
                _open: target,
                left: word.to_owned().into(),
                held: held(path, size_bytes)?.into(),
            }));
        }
        Ok(device)
    }

    /// Holds it, if it is still that device, holds what it was left with, and nobody uses it.
    fn hold(&self) -> anyhow::Result<Hold> {
        let hold = Hold::take(&self.path)?;
        let (identity, fingerprint) = hold.look()?;
        anyhow::ensure!(
            identity == self.identity,
            "{} is another device than at the beginning: nothing more is written",
            self.path.display()
        );
        anyhow::ensure!(
            self.given
                .as_ref()
                .is_none_or(|given| fingerprint == *given.left.borrow()),
            "somebody else has written to {} since the last round: nothing more is written",
            self.path.display()
        );
        Ok(hold)
    }

    /// What a round has left it with, if that is what a round leaves.
    pub(super) fn remember(&self) -> anyhow::Result<()> {
        let Some(given) = &self.given else {
            return Ok(());
        };
        let word = permit::fingerprint(&self.path)?;
        let now = held(&self.path, self.size_bytes)?;
        let before = given.held.borrow().clone();
        let is_strange = if self.pattern.as_os_str().is_empty() {
            is_named_anew(self.size_bytes, &now, &before)
        } else {
            let pattern = held(&self.pattern, self.size_bytes)?;
            stranger(&now, &[&pattern, &before]).is_some()
        };
        anyhow::ensure!(
            !is_strange,
            "{} holds what no round leaves: somebody else has written to it during the last one, and nothing more is written",
            self.path.display()
        );
        given.left.replace(word);
        given.held.replace(now);
        Ok(())
    }
}

/// Devices that are held while programs write to them that take no hold of their own. Those inherit it: a program that outlives
/// this one keeps others from the device for as long as it may write.
#[derive(Debug)]
pub(super) struct Holds(Vec<Hold>);

impl Holds {
    /// All of them, or none.
    pub(super) fn take(devices: &[Device]) -> anyhow::Result<Self> {
        let held = devices.iter().map(|device| {
            let hold = device.hold()?;
            hold.inherited()?;
            Ok(hold)
        });
        Ok(Self(held.collect::<anyhow::Result<_>>()?))
    }

    /// Lets go of them, for a program that takes its own hold: the words of the devices as they were held to the last.
    pub(super) fn let_go(&mut self) -> anyhow::Result<Vec<String>> {
        let words = self.0.iter().map(|hold| Ok(hold.look()?.1));
        let words = words.collect();
        self.0.clear();
        words
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt as _;

    use super::super::ground::{Fill, Under, make};
    use super::*;

    const LUKS: &[u8] = b"LUKS\xba\xbe\0\x02";

    fn write(path: &Path, bytes: &[u8]) {
        let device = File::options().write(true).open(path).unwrap();
        device.write_all_at(bytes, 0).unwrap();
        device.sync_all().unwrap();
    }

    /// Nobody holds the device then, and it is the same one: only what it holds tells that it is somebody's.
    #[test]
    fn what_somebody_writes_between_two_rounds_is_not_written_over() {
        const TEST: &str = "what_somebody_writes_between_two_rounds_is_not_written_over";
        let made = match make(Under::Memory, 8 << 20, Fill::Random, |_| Ok(())) {
            Ok(made) => made,
            Err(error) => return println!("SKIPPED: {TEST}: {error:#}"),
        };
        let word = permit::fingerprint(&made.path).unwrap();
        let device = Device::given(&made.path, Some(&word)).unwrap();
        drop(device.hold().unwrap());
        // What a round itself leaves is known for the next.
        write(&made.path, &[7; 512]);
        device.remember().unwrap();
        drop(device.hold().unwrap());
        write(&made.path, LUKS);
        for _ in 0..2 {
            let refused = device.hold().unwrap_err().to_string();
            assert!(
                refused.contains("somebody else has written to"),
                "{refused}"
            );
        }
    }

    /// What is written in a round is not adopted by its end, and not written over in the next.
    #[test]
    fn what_somebody_writes_during_a_round_ends_the_contest() {
        const TEST: &str = "what_somebody_writes_during_a_round_ends_the_contest";
        let made = match make(Under::Memory, 8 << 20, Fill::Random, |_| Ok(())) {
            Ok(made) => made,
            Err(error) => return println!("SKIPPED: {TEST}: {error:#}"),
        };
        let pattern = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(pattern.path(), vec![9; 8 << 20]).unwrap();
        for with in [PathBuf::new(), pattern.path().to_path_buf()] {
            write(&made.path, &[0; 512]);
            let word = permit::fingerprint(&made.path).unwrap();
            let mut device = Device::given(&made.path, Some(&word)).unwrap();
            device.pattern = with;
            // Part of it zeroed, part of it patterned: as a round that fails leaves it.
            write(&made.path, &[9; 1024]);
            device.remember().unwrap();
            drop(device.hold().unwrap());
            write(&made.path, LUKS);
            let refused = device.remember().unwrap_err().to_string();
            assert!(refused.contains("holds what no round leaves"), "{refused}");
            assert!(refused.contains(&made.path.display().to_string()));
            device.hold().unwrap_err();
        }
    }

    /// A peer that followed the link again would write to what it leads to by then.
    #[test]
    fn a_link_is_followed_once() {
        const TEST: &str = "a_link_is_followed_once";
        let made = match make(Under::Memory, 8 << 20, Fill::Random, |_| Ok(())) {
            Ok(made) => made,
            Err(error) => return println!("SKIPPED: {TEST}: {error:#}"),
        };
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("by-path");
        std::os::unix::fs::symlink(&made.path, &link).unwrap();
        assert_eq!(Device::given(&link, None).unwrap().path, made.path);
    }

    #[test]
    fn only_zeroes_and_what_is_known_are_no_strangers() {
        let of = |blocks: &[u8]| -> Held {
            let bytes = blocks.iter().flat_map(|byte| [*byte; BLOCK_BYTES]);
            vec![(4096, bytes.collect())]
        };
        let (before, pattern) = (of(&[1, 1, 1, 1]), of(&[2, 2, 2, 2]));
        for (now, at) in [
            ([1, 2, 0, 1], None),
            ([0, 0, 0, 0], None),
            ([2, 2, 3, 0], Some(4096 + 1024)),
        ] {
            assert_eq!(stranger(&of(&now), &[&before, &pattern]), at);
        }
    }
}
