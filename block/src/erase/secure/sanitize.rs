//! What is done about a Sanitize, from what the drive's log says of its latest (kernel-notes/17). Pure.
//!
//! | the log says | not begun by us | begun by us |
//! |---|---|---|
//! | what it said before we began, for less than [`LOG_LATE_MAX`] | | waited for: it may be told late |
//! | under way | refused until it has ended: it is another's, and proves nothing of ours | waited for while its share moves |
//! | the same, with another command | | refused: somebody else's came between |
//! | completed | sent | proved, if the log moved since and the drive that answers is the one that was told |
//! | completed, as before we began | | proved where nothing was written since, else refused: it may be an earlier one |
//! | failed | sent: nothing but another one makes the drive answer again | refused, for a person to try again |
//! | never | sent | refused: what was begun is not known |
//!
//! A look that fails says nothing: what we began is waited for until no look has succeeded for [`SANITIZE_STILL_MAX`], or the
//! drive is gone ([`unseen`]).
//!
//! Begun by us means by this process since it took hold of the drive. The log has no word for who began one, so whoever comes
//! later (after the agent's death, too) does it anew. That the log moved means that it was seen under way, or tells of another
//! Sanitize than before we began.
//!
//! A drive whose Sanitize failed answers no read, so what it holds cannot be looked at before it is sent another. Only its
//! own word that this is why will do ([`is_closed`]):
//!
//! | the log says | a read by a command of its own | a read by the kernel | closed by a failed Sanitize |
//! |---|---|---|---|
//! | failed | "sanitize failed" | | yes |
//! | failed | anything else: data, a bad medium, "sanitize in progress" | | no |
//! | failed | cannot be had | EIO, which is all that the kernel makes of that status | yes |
//! | failed | cannot be had | anything else | no |
//! | anything else | | | no |

use std::time::Duration;

use nix::errno::Errno;

use super::kernel::AdminCommand;
use super::{ALL_NAMESPACES, Chosen, OPCODE_GET_LOG_PAGE, SHORT_MS, SecureError};
use crate::error::{NvmeStatus, errno_of};

/// Bytes of the Sanitize Status log page.
pub(crate) const SANITIZE_LOG_BYTES: usize = 512;
const SANITIZE_LOG_DWORDS: u32 = 128;
const LOG_SANITIZE_STATUS: u32 = 0x81;

/// A Sanitize whose share has not moved for so long is stuck. Some drives say nothing between begin and end.
pub(crate) const SANITIZE_STILL_MAX: Duration = Duration::from_secs(4 * 3600);

/// A drive has its log say what it began when it answers the command. One that has not by then is late.
pub(crate) const LOG_LATE_MAX: Duration = Duration::from_secs(60);

/// Asks for the Sanitize Status log page.
pub(crate) const fn sanitize_log() -> AdminCommand {
    AdminCommand {
        opcode: OPCODE_GET_LOG_PAGE,
        namespace: ALL_NAMESPACES,
        cdw10: LOG_SANITIZE_STATUS | (SANITIZE_LOG_DWORDS - 1) << 16,
        timeout_ms: SHORT_MS,
    }
}

/// What the drive says of its latest Sanitize.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sanitized {
    /// There was none.
    Never,
    /// It ended well.
    Completed,
    /// So many 65,536ths are done.
    Underway(u16),
    /// It failed.
    Failed,
}

/// The log page, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Log {
    pub(crate) latest: Sanitized,
    /// Command dword 10 of the latest.
    cdw10: u32,
    /// Nothing was written since.
    erased: bool,
}

impl Log {
    /// From its bytes.
    pub(crate) fn read(log: &[u8]) -> Self {
        let byte = |at: usize| log.get(at).copied().unwrap_or(0);
        let word = |at: usize| u16::from_le_bytes([byte(at), byte(at + 1)]);
        let latest = match word(2) & 0b111 {
            0 => Sanitized::Never,
            2 => Sanitized::Underway(word(0)),
            1 | 4 => Sanitized::Completed,
            // What is not known is not success.
            _ => Sanitized::Failed,
        };
        Self {
            latest,
            cdw10: u32::from(word(4)) | u32::from(word(6)) << 16,
            erased: word(2) & 1 << 8 != 0,
        }
    }

    /// Whether it tells of another Sanitize than `before`. That something was written since does not.
    fn moved_since(&self, before: &Self) -> bool {
        self.latest != before.latest || self.cdw10 != before.cdw10 || self.erased && !before.erased
    }
}

/// What came of a read of the drive's first block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Data.
    Data,
    /// The drive's own word.
    Drive(NvmeStatus),
    /// The kernel's word for it: no exact one could be had.
    Kernel(Errno),
}

/// Whether the drive answers no read because its latest Sanitize failed.
pub(crate) fn is_closed(log: Log, answer: Answer) -> bool {
    log.latest == Sanitized::Failed
        && match answer {
            Answer::Data => false,
            Answer::Drive(status) => status.is_sanitize_failed(),
            Answer::Kernel(errno) => errno == Errno::EIO,
        }
}

/// Which drive it is, as it says itself, with no byte of its media read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    serial: [u8; 20],
    nguid: [u8; 16],
    eui64: [u8; 8],
    namespace: u32,
}

impl Told {
    /// From the Identify data of the controller and of the namespace of this number.
    pub(crate) fn read(controller: &[u8], of_namespace: &[u8], namespace: u32) -> Self {
        Self {
            serial: field(controller, 4),
            nguid: field(of_namespace, 104),
            eui64: field(of_namespace, 120),
            namespace,
        }
    }
}

fn field<const N: usize>(data: &[u8], at: usize) -> [u8; N] {
    let bytes = data.get(at..at + N).and_then(|bytes| bytes.try_into().ok());
    bytes.unwrap_or([0; N])
}

/// A Sanitize that we had a drive begin, as it was at the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    pub(crate) chosen: Chosen,
    pub(crate) told: Told,
    /// What the log said before the command was sent.
    before: Log,
    /// The log moved since.
    moved: bool,
    share: u16,
    /// When the share moved last; at first, when the command was sent.
    moved_ns: u64,
    /// When the log was read last; at first, when the command was sent.
    looked_ns: u64,
}

impl Begun {
    pub(crate) const fn new(chosen: Chosen, told: Told, before: Log, now_ns: u64) -> Self {
        Self {
            chosen,
            told,
            before,
            moved: false,
            share: 0,
            moved_ns: now_ns,
            looked_ns: now_ns,
        }
    }

    /// With what the log says at once.
    pub(crate) fn seen(self, log: Log) -> Self {
        let moved = self.moved || log.cdw10 == self.chosen.cdw10 && log.moved_since(&self.before);
        Self { moved, ..self }
    }

    /// Looked at now.
    pub(crate) const fn looked(self, now_ns: u64) -> Self {
        Self {
            looked_ns: now_ns,
            ..self
        }
    }

    /// So many 65,536ths are done.
    pub(crate) const fn share(&self) -> u16 {
        self.share
    }
}

/// What is done where the log could not be read: what was begun goes on in the drive, whether or not it answers meanwhile.
pub(crate) fn unseen(
    error: SecureError,
    begun: Option<&Begun>,
    now_ns: u64,
) -> Result<Begun, SecureError> {
    let waits = |begun: &&Begun| {
        let unseen = Duration::from_nanos(now_ns.saturating_sub(begun.looked_ns));
        !is_gone(&error) && unseen <= SANITIZE_STILL_MAX
    };
    begun.filter(waits).copied().ok_or(error)
}

/// Nobody will answer any more.
fn is_gone(error: &SecureError) -> bool {
    let SecureError::Command(_, source) = error else {
        return false;
    };
    matches!(errno_of(source), Errno::ENODEV | Errno::ENXIO)
}

/// What is done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The drive is sent the command.
    Send,
    /// It is looked at again.
    Wait(Begun),
    /// It ended well, and was ours.
    Prove(Begun),
}

/// What is done about a Sanitize, or why nothing is.
pub(crate) fn next(log: Log, begun: Option<&Begun>, now_ns: u64) -> Result<Next, SecureError> {
    let Some(begun) = begun else {
        return match log.latest {
            Sanitized::Underway(_) => Err(SecureError::Others),
            Sanitized::Never | Sanitized::Completed | Sanitized::Failed => Ok(Next::Send),
        };
    };
    let moved = begun.moved || log.moved_since(&begun.before);
    let still = Duration::from_nanos(now_ns.saturating_sub(begun.moved_ns));
    if !moved && still <= LOG_LATE_MAX {
        return Ok(Next::Wait(*begun));
    }
    let ours = log.cdw10 == begun.chosen.cdw10;
    match log.latest {
        Sanitized::Never => Err(SecureError::Unknown),
        Sanitized::Underway(_) | Sanitized::Completed | Sanitized::Failed if !ours => {
            Err(SecureError::Unknown)
        }
        // One of the same kind, after which nothing was written, is as good, whichever of the two it is.
        Sanitized::Completed if moved || log.erased => Ok(Next::Prove(*begun)),
        Sanitized::Completed => Err(SecureError::Unknown),
        Sanitized::Failed => Err(SecureError::Failed),
        Sanitized::Underway(share) if share != begun.share => Ok(Next::Wait(Begun {
            share,
            moved: true,
            moved_ns: now_ns,
            ..*begun
        })),
        Sanitized::Underway(_) if still > SANITIZE_STILL_MAX => {
            Err(SecureError::Stuck(still.as_secs() / 3600))
        }
        Sanitized::Underway(_) => Ok(Next::Wait(Begun {
            moved: true,
            ..*begun
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::erase::secure::Secure;

    const SECOND: u64 = 1_000_000_000;

    fn page(progress: u16, status: u16, cdw10: u32) -> Log {
        let mut log = vec![0; SANITIZE_LOG_BYTES];
        log[..2].copy_from_slice(&progress.to_le_bytes());
        log[2..4].copy_from_slice(&status.to_le_bytes());
        log[4..8].copy_from_slice(&cdw10.to_le_bytes());
        Log::read(&log)
    }

    const NEVER: u16 = 0;
    const DONE: u16 = 1;
    const UNDERWAY: u16 = 2;
    const FAILED: u16 = 3;
    /// Completed, and nothing was written since.
    const CLEAN: u16 = 0x101;

    /// Begun a second after the clock's start, when the log said so.
    fn begun_after(before: Log) -> Begun {
        let chosen = Chosen {
            how: Secure::Sanitize,
            cdw10: 2,
            word: "sanitize-block",
        };
        Begun::new(chosen, Told::read(&[], &[], 1), before, SECOND)
    }

    /// The same on a drive that was never sanitized.
    fn begun() -> Begun {
        begun_after(page(0xffff, NEVER, 0))
    }

    fn said(log: Log, begun: Option<&Begun>, now_ns: u64) -> String {
        match next(log, begun, now_ns) {
            Ok(Next::Send) => "send".to_owned(),
            Ok(Next::Wait(begun)) => format!("wait {} {}", begun.share, begun.moved_ns / SECOND),
            Ok(Next::Prove(_)) => "prove".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_log_is_read() {
        // Bits 3 to 7 count the passes of overwriting, bit 8 says that nothing was written since.
        for (status, sanitized) in [
            (0, Sanitized::Never),
            (0x101, Sanitized::Completed),
            (0x00a, Sanitized::Underway(0x8000)),
            (3, Sanitized::Failed),
            (4, Sanitized::Completed),
            (5, Sanitized::Failed),
            (7, Sanitized::Failed),
        ] {
            assert_eq!(page(0x8000, status, 0).latest, sanitized);
        }
        assert_eq!(page(0, 1, 0x0102_0304).cdw10, 0x0102_0304);
        assert_eq!(
            [1, 0x101].map(|status| page(0, status, 0).erased),
            [false, true]
        );
        assert_eq!(Log::read(&[]).latest, Sanitized::Never);
        assert_eq!(sanitize_log().cdw10, 0x007f_0081);
    }

    #[test]
    fn each_state_has_its_answer() {
        let others = "the drive is at a Sanitize that was not begun here";
        let unknown = "the drive's latest Sanitize is not the one that was begun here";
        let ours = &begun();
        let limit = 1 + SANITIZE_STILL_MAX.as_secs();
        let late = 2 + LOG_LATE_MAX.as_secs();
        for (status, share, cdw10, begun, seconds, expected) in [
            (NEVER, 0xffff, 0, None, 1, "send"),
            (DONE, 0xffff, 2, None, 1, "send"),
            (FAILED, 7, 2, None, 1, "send"),
            // The very command that we would send: it is another's all the same.
            (UNDERWAY, 7, 2, None, 1, others),
            (UNDERWAY, 7, 4, None, 1, others),
            (NEVER, 0xffff, 0, Some(ours), 2, "wait 0 1"),
            (NEVER, 0xffff, 0, Some(ours), late, unknown),
            (DONE, 0xffff, 2, Some(ours), 2, "prove"),
            (DONE, 0xffff, 4, Some(ours), 2, unknown),
            (FAILED, 7, 2, Some(ours), 2, "the drive's Sanitize failed"),
            (FAILED, 7, 4, Some(ours), 2, unknown),
            (UNDERWAY, 7, 4, Some(ours), 2, unknown),
            (UNDERWAY, 7, 2, Some(ours), 2, "wait 7 2"),
            // Back to the start, for another pass: it moves.
            (UNDERWAY, 0, 2, Some(ours), 2, "wait 0 1"),
            (UNDERWAY, 0, 2, Some(ours), limit, "wait 0 1"),
            (
                UNDERWAY,
                0,
                2,
                Some(ours),
                limit + 1,
                "the drive's Sanitize has not moved for 4 h",
            ),
        ] {
            let log = page(share, status, cdw10);
            let told = said(log, begun, seconds * SECOND);
            assert_eq!(told, expected, "{log:?} {begun:?} {seconds}");
        }
    }

    /// What an earlier Sanitize left in the log is not taken for ours, whether the log is late or the drive is done already.
    #[test]
    fn an_earlier_one_proves_nothing() {
        let unknown = "the drive's latest Sanitize is not the one that was begun here";
        let failed = "the drive's Sanitize failed";
        let (soon, late) = (2, 2 + LOG_LATE_MAX.as_secs());
        for ((before, cdw10), now, seconds, expected) in [
            ((DONE, 2), DONE, soon, "wait 0 1"),
            ((DONE, 2), DONE, late, unknown),
            ((DONE, 2), CLEAN, soon, "prove"),
            // One of another kind was the latest before.
            ((DONE, 4), DONE, soon, "prove"),
            ((FAILED, 2), DONE, soon, "prove"),
            ((NEVER, 0), DONE, soon, "prove"),
            // Nothing was written between the two: either is a proof, once there was time for ours.
            ((CLEAN, 2), CLEAN, soon, "wait 0 1"),
            ((CLEAN, 2), CLEAN, late, "prove"),
            // Somebody wrote: that is no sign of ours.
            ((CLEAN, 2), DONE, soon, "wait 0 1"),
            ((CLEAN, 2), DONE, late, unknown),
            ((FAILED, 2), FAILED, soon, "wait 0 1"),
            ((FAILED, 2), FAILED, late, failed),
            ((DONE, 2), FAILED, soon, failed),
            ((DONE, 2), UNDERWAY, soon, "wait 0 1"),
        ] {
            let begun = begun_after(page(0xffff, before, cdw10));
            let log = page(if now == UNDERWAY { 0 } else { 0xffff }, now, 2);
            let told = said(log, Some(&begun), seconds * SECOND);
            assert_eq!(told, expected, "{begun:?} {log:?} {seconds}");
        }
        // The latest of another kind stays in the log for a moment.
        let begun = begun_after(page(0xffff, DONE, 4));
        let log = page(0xffff, DONE, 4);
        assert_eq!(said(log, Some(&begun), soon * SECOND), "wait 0 1");
        assert_eq!(said(log, Some(&begun), late * SECOND), unknown);
        // Seen under way at its very begin: what the log says next is of that one.
        let begun = begun_after(page(0xffff, DONE, 2));
        let Ok(Next::Wait(seen)) = next(page(0, UNDERWAY, 2), Some(&begun), SECOND) else {
            panic!("not waited for");
        };
        assert_eq!(
            said(page(0xffff, DONE, 2), Some(&seen), soon * SECOND),
            "prove"
        );
    }

    #[test]
    fn only_a_failed_sanitize_closes_a_drive() {
        let drive = |status| Answer::Drive(NvmeStatus::new(status));
        for (status, answer, closed) in [
            (FAILED, drive(0x01c), true),
            // With the flag that says to not try again.
            (FAILED, drive(0x401c), true),
            (FAILED, Answer::Kernel(Errno::EIO), true),
            (FAILED, Answer::Data, false),
            // In progress, a bad medium, a code of another type.
            (FAILED, drive(0x01d), false),
            (FAILED, drive(0x281), false),
            (FAILED, drive(0x11c), false),
            (FAILED, Answer::Kernel(Errno::ENODATA), false),
            (FAILED, Answer::Kernel(Errno::ENXIO), false),
            (UNDERWAY, drive(0x01c), false),
            (DONE, drive(0x01c), false),
            (NEVER, Answer::Kernel(Errno::EIO), false),
        ] {
            let log = page(0, status, 2);
            assert_eq!(is_closed(log, answer), closed, "{log:?} {answer:?}");
        }
    }

    /// One that moves once in a while may take days.
    #[test]
    fn what_moves_is_waited_for() {
        let step = (SANITIZE_STILL_MAX.as_secs() - 1) * SECOND;
        let (mut begun, mut now_ns) = (begun(), SECOND);
        for share in 1..40 {
            now_ns += step;
            let Ok(Next::Wait(later)) = next(page(share, 2, 2), Some(&begun), now_ns) else {
                panic!("{share}");
            };
            begun = later;
        }
        assert_eq!(begun.share(), 39);
    }

    #[test]
    fn a_drive_is_known_without_its_media() {
        let mut controller = vec![0; 4096];
        let mut namespace = vec![0; 4096];
        controller[4..8].copy_from_slice(b"S123");
        namespace[104..120].fill(7);
        let told = Told::read(&controller, &namespace, 1);
        assert_eq!(told, Told::read(&controller, &namespace, 1));
        assert_ne!(told, Told::read(&controller, &namespace, 2));
        for (data, at) in [(0, 4), (0, 23), (1, 104), (1, 127)] {
            let mut both = [controller.clone(), namespace.clone()];
            both[data][at] ^= 1;
            assert_ne!(told, Told::read(&both[0], &both[1], 1), "{data} {at}");
        }
    }

    #[test]
    fn a_failed_look_does_not_end_the_wait() {
        let failed = |errno: Errno| SecureError::Command("Sanitize Status", errno.into());
        let begun = begun();
        let at = |hours: u64| hours * 3600 * SECOND;
        for (errno, now, waits) in [
            (Errno::EIO, at(1), true),
            (Errno::EINTR, at(4), true),
            (Errno::EIO, at(5), false),
            (Errno::ENODEV, at(1), false),
        ] {
            let found = unseen(failed(errno), Some(&begun), begun.looked_ns + now);
            assert_eq!(found.is_ok(), waits, "{errno} after {now} ns");
        }
        // A good look in between, and it is waited for as long again.
        let looked = begun.looked(begun.looked_ns + at(3));
        let found = unseen(failed(Errno::EIO), Some(&looked), begun.looked_ns + at(5));
        assert_eq!(found.ok(), Some(looked));
        // What nobody here began is not waited for.
        assert!(unseen(failed(Errno::EIO), None, 0).is_err());
    }
}
