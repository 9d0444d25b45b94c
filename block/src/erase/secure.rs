//! Secure erasing: the commands by which an NVMe drive destroys what its cells hold, where zeroing only makes it unreadable.
//! Pure: what a drive says of itself in, the command out. [`Eraser`](super::Eraser) sends it.
//!
//! | | Format NVM | Sanitize |
//! |---|---|---|
//! | what it destroys | one namespace; on some drives all of them | all that the drive ever held, spare cells and caches too |
//! | while it is under way | the command has not ended | the drive answers no read and no write, also after a power cut |
//! | afterwards the namespace reads | what the drive likes | what the drive likes |
//!
//! The rules: never by itself, only where a person chose it by name; never where it would destroy another namespace; a format is
//! made with the sectors that the namespace has. Both take the claim along, so who uses them writes it again, and
//! zeroes as ever afterwards: that a drive was erased says nothing of what it then reads.
//!
//! Source: NVM Express Base Specification 2.0, Identify (5.17), Format NVM (5.14), Sanitize (5.24), Sanitize Status (5.16.1.20).

use std::io;

use nix::errno::Errno;

use crate::error::NvmeStatus;

pub(crate) mod kernel;
pub(crate) mod sanitize;

use kernel::AdminCommand;
pub use sanitize::Begun;

/// Bytes of an Identify data structure.
pub(crate) const IDENTIFY_BYTES: usize = 4096;

const OPCODE_GET_LOG_PAGE: u8 = 0x02;
const OPCODE_IDENTIFY: u8 = 0x06;
const OPCODE_FORMAT: u8 = 0x80;
const OPCODE_SANITIZE: u8 = 0x84;

const ALL_NAMESPACES: u32 = 0xffff_ffff;

/// A short command.
const SHORT_MS: u32 = 10_000;
/// Formatting ends with its command; a drive that takes longer is stuck.
const FORMAT_MS: u32 = 3 * 3600 * 1000;

/// How.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secure {
    /// Format NVM with a secure erase: cryptographic where the drive can, else of the user data.
    Format,
    /// Sanitize: block erase where the drive can, else cryptographic, else overwriting.
    Sanitize,
}

/// The command that a drive is sent, and its word in the proof of erasure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    pub(crate) how: Secure,
    cdw10: u32,
    word: &'static str,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secured {
    /// The drive is at it.
    Underway {
        /// For the next look.
        begun: Begun,
        /// Bytes done, as a share of the whole.
        done_bytes: u64,
        /// The whole.
        total_bytes: u64,
    },
    /// It is done.
    Done {
        /// `format-crypto`, `format-user-data`, `sanitize-block`, `sanitize-crypto`, `sanitize-overwrite`.
        method: &'static str,
    },
}

/// Why a drive was not securely erased.
#[derive(Debug, thiserror::Error)]
pub enum SecureError {
    /// It is no NVMe namespace.
    #[error("it is no NVMe drive")]
    NotNvme,
    /// Only a part of a namespace.
    #[error("it is a partition, and the whole drive would be erased")]
    Partition,
    /// The drive does not know the command.
    #[error("the drive has no {0}")]
    Lacks(&'static str),
    /// It would destroy what nobody named.
    #[error("the drive has {0} namespaces, and all of them would be erased")]
    Namespaces(usize),
    /// It may destroy what nobody can see.
    #[error(
        "the drive has other controllers and does not list their namespaces, which would be erased as well"
    )]
    Controllers,
    /// The kernel did not pass the command on, or it did not end.
    #[error("{0}")]
    Command(&'static str, #[source] io::Error),
    /// The drive answered with an error.
    #[error("{0}: {1}")]
    Status(&'static str, NvmeStatus),
    /// Somebody else had the drive begin one, or we did before we died. It proves nothing of what is asked for now.
    #[error("the drive is at a Sanitize that was not begun here")]
    Others,
    /// What was begun is not what the drive tells of.
    #[error("the drive's latest Sanitize is not the one that was begun here")]
    Unknown,
    /// Another drive answers than the one that was told to.
    #[error("the drive that answers is not the one whose Sanitize was begun")]
    Another,
    /// Sanitize began, and does not go on.
    #[error("the drive's Sanitize has not moved for {0} h")]
    Stuck(u64),
    /// Sanitize began, and failed. The drive answers nothing until another one succeeds.
    #[error("the drive's Sanitize failed")]
    Failed,
}

impl SecureError {
    /// The drive cannot do it, today as tomorrow; nothing was sent to it that changes anything.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::NotNvme
                | Self::Partition
                | Self::Lacks(_)
                | Self::Namespaces(_)
                | Self::Controllers
        )
    }

    /// It went wrong so that another try wears the drive, and may destroy what is not understood: a person decides.
    #[must_use]
    pub const fn needs_a_person(&self) -> bool {
        matches!(
            self,
            Self::Unknown | Self::Another | Self::Stuck(_) | Self::Failed
        )
    }
}

/// What a drive says of itself, as far as it matters here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Abilities {
    oacs: u16,
    fna: u8,
    sanicap: u32,
    flbas: u8,
    dps: u8,
    namespaces: usize,
    /// Whether the list may lack some, of controllers that are not asked.
    hides_some: bool,
}

impl Abilities {
    /// From the Identify data of the controller, of the namespace, and the list of the controller's namespaces.
    pub(crate) fn read(controller: &[u8], namespace: &[u8], list: &[u8]) -> Self {
        let byte = |data: &[u8], at: usize| data.get(at).copied().unwrap_or(0);
        let byte32 = |at: usize| u32::from(byte(controller, at));
        let oacs = u16::from(byte(controller, 256)) | u16::from(byte(controller, 257)) << 8;
        Self {
            oacs,
            // CMIC, bit 1: the subsystem may have more controllers.
            hides_some: byte(controller, 76) & 1 << 1 != 0 && !Self::manages_namespaces(oacs),
            fna: byte(controller, 524),
            sanicap: byte32(328) | byte32(329) << 8 | byte32(330) << 16 | byte32(331) << 24,
            flbas: byte(namespace, 26),
            dps: byte(namespace, 29),
            namespaces: list
                .chunks_exact(4)
                .take_while(|id| id.iter().any(|byte| *byte != 0))
                .count(),
        }
    }

    /// Whether the drive knows more namespaces than those that are attached.
    pub(crate) const fn manages_namespaces(controller_oacs: u16) -> bool {
        controller_oacs & 1 << 3 != 0
    }

    /// That nothing but the namespace that was named would be erased by what is of all namespaces.
    const fn is_alone(&self) -> Result<(), SecureError> {
        match (self.namespaces, self.hides_some) {
            (2.., _) => Err(SecureError::Namespaces(self.namespaces)),
            (_, true) => Err(SecureError::Controllers),
            (_, false) => Ok(()),
        }
    }

    /// Optional admin commands.
    pub(crate) const fn oacs(&self) -> u16 {
        self.oacs
    }

    /// The command, or why there is none.
    pub(crate) fn choose(&self, how: Secure) -> Result<Chosen, SecureError> {
        match how {
            Secure::Format => self.format(),
            Secure::Sanitize => self.sanitize(),
        }
    }

    fn format(&self) -> Result<Chosen, SecureError> {
        if self.oacs & 1 << 1 == 0 {
            return Err(SecureError::Lacks("Format NVM"));
        }
        // Bit 0: a format, bit 1: a secure erase is of all namespaces.
        if self.fna & 0b11 != 0 {
            self.is_alone()?;
        }
        let (secure_erase, word) = if self.fna & 1 << 2 == 0 {
            (1, "format-user-data")
        } else {
            (2, "format-crypto")
        };
        let (flbas, dps) = (u32::from(self.flbas), u32::from(self.dps));
        // The sectors that it has: their format, where their metadata are, their protection and where that is.
        let cdw10 = flbas & 0xf
            | (flbas >> 4 & 1) << 4
            | (dps & 7) << 5
            | (dps >> 3 & 1) << 8
            | secure_erase << 9
            | (flbas >> 5 & 3) << 12;
        Ok(Chosen {
            how: Secure::Format,
            cdw10,
            word,
        })
    }

    fn sanitize(&self) -> Result<Chosen, SecureError> {
        let (cdw10, word) = match self.sanicap & 0b111 {
            0 => return Err(SecureError::Lacks("Sanitize")),
            kinds if kinds & 1 << 1 != 0 => (2, "sanitize-block"),
            kinds if kinds & 1 != 0 => (4, "sanitize-crypto"),
            // One pass.
            _ => (3 | 1 << 4, "sanitize-overwrite"),
        };
        self.is_alone()?;
        Ok(Chosen {
            how: Secure::Sanitize,
            cdw10,
            word,
        })
    }
}

impl Chosen {
    /// Its word in the proof of erasure.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        self.word
    }

    /// What it is called in errors.
    pub(crate) const fn name(&self) -> &'static str {
        match self.how {
            Secure::Format => "Format NVM",
            Secure::Sanitize => "Sanitize",
        }
    }

    /// What is sent.
    pub(crate) const fn command(&self, namespace: u32) -> AdminCommand {
        let (opcode, namespace, timeout_ms) = match self.how {
            Secure::Format => (OPCODE_FORMAT, namespace, FORMAT_MS),
            // It has no namespace: it is of all.
            Secure::Sanitize => (OPCODE_SANITIZE, 0, SHORT_MS),
        };
        AdminCommand {
            opcode,
            namespace,
            cdw10: self.cdw10,
            timeout_ms,
        }
    }
}

/// Which Identify data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Identify {
    /// Of the namespace.
    Namespace,
    /// Of the controller.
    Controller,
    /// Numbers of the namespaces that are attached to the controller.
    Attached,
    /// Numbers of all namespaces that the drive has, attached or not.
    Allocated,
}

impl Identify {
    /// What is sent.
    pub(crate) const fn command(self, namespace: u32) -> AdminCommand {
        let (cdw10, namespace) = match self {
            Self::Namespace => (0x00, namespace),
            Self::Controller => (0x01, 0),
            Self::Attached => (0x02, 0),
            Self::Allocated => (0x10, 0),
        };
        AdminCommand {
            opcode: OPCODE_IDENTIFY,
            namespace,
            cdw10,
            timeout_ms: SHORT_MS,
        }
    }
}

/// The kernel's answer to an admin command, as an error of `what`.
pub(crate) fn answered(what: &'static str, answer: Result<u16, Errno>) -> Result<(), SecureError> {
    match answer {
        Ok(0) => Ok(()),
        Ok(status) => Err(SecureError::Status(what, NvmeStatus::new(status))),
        Err(Errno::ENOTTY) => Err(SecureError::NotNvme),
        Err(errno) => Err(SecureError::Command(what, errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A drive with these optional commands, and so many namespaces.
    fn drive(oacs: u16, fna: u8, sanicap: u32, namespaces: usize) -> Abilities {
        let mut controller = vec![0; IDENTIFY_BYTES];
        controller[256..258].copy_from_slice(&oacs.to_le_bytes());
        controller[328..332].copy_from_slice(&sanicap.to_le_bytes());
        controller[524] = fna;
        let mut list = vec![0; IDENTIFY_BYTES];
        for n in 0..namespaces {
            list[4 * n] = u8::try_from(n + 1).unwrap();
        }
        Abilities::read(&controller, &vec![0; IDENTIFY_BYTES], &list)
    }

    fn chosen(abilities: Abilities, how: Secure) -> String {
        match abilities.choose(how) {
            Ok(chosen) => format!("{} {:#x}", chosen.word(), chosen.cdw10),
            Err(error) => error.to_string(),
        }
    }

    /// With two ports, and without commands that list what the other port alone has.
    #[test]
    fn what_may_be_hidden_is_not_erased() {
        for (oacs, cmic, is_refused) in [
            (1 << 1, 0, false),
            (1 << 1, 1 << 1, true),
            // It lists all that there are.
            (1 << 1 | 1 << 3, 1 << 1, false),
        ] {
            let mut controller = vec![0; IDENTIFY_BYTES];
            controller[256..258].copy_from_slice(&u16::to_le_bytes(oacs));
            controller[328] = 1 << 1;
            controller[76] = cmic;
            let mut list = vec![0; IDENTIFY_BYTES];
            list[0] = 1;
            for (fna, how) in [(1, Secure::Format), (0, Secure::Sanitize)] {
                controller[524] = fna;
                let drive = Abilities::read(&controller, &vec![0; IDENTIFY_BYTES], &list);
                let refused = matches!(drive.choose(how), Err(SecureError::Controllers));
                assert_eq!(refused, is_refused, "{oacs:#x} {cmic} {how:?}");
            }
            // A format of the one namespace is of no other.
            controller[524] = 0;
            let drive = Abilities::read(&controller, &vec![0; IDENTIFY_BYTES], &list);
            drive.choose(Secure::Format).unwrap();
        }
    }

    #[test]
    fn what_a_drive_can_do_decides() {
        const FORMAT: u16 = 1 << 1;
        let all = "the drive has 2 namespaces, and all of them would be erased";
        for (abilities, format, sanitize) in [
            (
                drive(0, 0, 0, 1),
                "the drive has no Format NVM",
                "the drive has no Sanitize",
            ),
            (
                drive(FORMAT, 0, 0b010, 1),
                "format-user-data 0x200",
                "sanitize-block 0x2",
            ),
            (
                drive(FORMAT, 0b100, 0b111, 1),
                "format-crypto 0x400",
                "sanitize-block 0x2",
            ),
            (
                drive(FORMAT, 0b111, 0b101, 1),
                "format-crypto 0x400",
                "sanitize-crypto 0x4",
            ),
            (
                drive(FORMAT, 0, 0b100, 1),
                "format-user-data 0x200",
                "sanitize-overwrite 0x13",
            ),
            // A format of one of two, where formats are of one.
            (drive(FORMAT, 0b100, 0b001, 2), "format-crypto 0x400", all),
            (drive(FORMAT, 0b001, 0b001, 2), all, all),
            (drive(FORMAT, 0b010, 0b001, 2), all, all),
        ] {
            assert_eq!(chosen(abilities, Secure::Format), format, "{abilities:?}");
            assert_eq!(
                chosen(abilities, Secure::Sanitize),
                sanitize,
                "{abilities:?}"
            );
        }
    }

    #[test]
    fn a_format_keeps_the_sectors() {
        let mut namespace = vec![0; IDENTIFY_BYTES];
        // Format 0x25 of the sectors, metadata at their end; protection of type 2, in the first bytes.
        namespace[26] = 0b0101_0101;
        namespace[29] = 0b1010;
        let mut controller = vec![0; IDENTIFY_BYTES];
        controller[256] = 1 << 1;
        let abilities = Abilities::read(&controller, &namespace, &[1, 0, 0, 0]);
        let chosen = abilities.choose(Secure::Format).unwrap();
        let command = chosen.command(7);
        assert_eq!((command.opcode, command.namespace), (0x80, 7));
        assert_eq!(command.cdw10, 0b10_0011_0101_0101);
    }

    #[test]
    fn what_the_drive_answers_is_told() {
        let told = |answer| answered("Format NVM", answer).unwrap_err().to_string();
        assert_eq!(
            told(Ok(0x10a)),
            "Format NVM: NVMe status 1h/0ah: invalid format"
        );
        assert_eq!(told(Err(Errno::ENOTTY)), "it is no NVMe drive");
        assert!(answered("Format NVM", Ok(0)).is_ok());
    }
}
