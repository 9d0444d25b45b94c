//! A drive that erases its cells: asked what it can, told to, and looked at until it is through.

use std::os::fd::AsFd as _;
use std::time::Duration;

use nix::errno::Errno;

use super::{Eraser, kernel_name};
use crate::claim::CLAIM_BYTES;
use crate::erase::secure::kernel::{AdminCommand, FirstBlock};
use crate::erase::secure::sanitize::{
    self, Answer, Log, Next, SANITIZE_LOG_BYTES, Sanitized, Told, sanitize_log,
};
use crate::erase::secure::{
    Abilities, Begun, Chosen, IDENTIFY_BYTES, Identify, Secure, SecureError, Secured, answered,
};
use crate::erase::{Range, Warrant};
use crate::error::{NvmeStatus, errno_of};
use crate::sys;

/// Between two looks at a Sanitize.
const SANITIZE_LOOK: Duration = Duration::from_millis(250);

impl Eraser {
    /// The command that would erase it securely, or why there is none. Nothing is changed by asking.
    ///
    /// # Errors
    /// [`SecureError`].
    pub fn can_secure(&self, how: Secure) -> Result<Chosen, SecureError> {
        // Other drivers may take an NVMe request for one of their own (kernel-notes/16).
        if !kernel_name(&self.sysfs).starts_with("nvme") {
            return Err(SecureError::NotNvme);
        }
        if self.sysfs.join("partition").exists() {
            return Err(SecureError::Partition);
        }
        let controller = self.identify(Identify::Controller)?;
        let attached = self.identify(Identify::Attached)?;
        let namespace = self.identify(Identify::Namespace)?;
        let abilities = Abilities::read(&controller, &namespace, &attached);
        if !Abilities::manages_namespaces(abilities.oacs()) {
            return abilities.choose(how);
        }
        let allocated = self.identify(Identify::Allocated)?;
        Abilities::read(&controller, &namespace, &allocated).choose(how)
    }

    /// Whether its latest Sanitize failed, and it answers no read because of that: it does not until another one succeeds.
    ///
    /// # Errors
    /// [`SecureError`].
    pub fn has_failed_to_sanitize(&self) -> Result<bool, SecureError> {
        self.can_secure(Secure::Sanitize)?;
        let log = self.sanitize_log()?;
        // Looked at first: a drive that is well is not read for this.
        if log.latest != Sanitized::Failed {
            return Ok(false);
        }
        Ok(sanitize::is_closed(log, self.read_first_block()?))
    }

    /// Reads where a read shall fail, by a command of its own if that can be had.
    fn read_first_block(&self) -> Result<Answer, SecureError> {
        if let Some(block) = FirstBlock::of(&self.identify(Identify::Namespace)?)
            && let Ok(status) = sys::nvme_first_block(self.file.as_fd(), self.namespace()?, block)
        {
            return Ok(match status {
                0 => Answer::Data,
                status => Answer::Drive(NvmeStatus::new(status)),
            });
        }
        let first = Range {
            offset: 0,
            bytes: CLAIM_BYTES,
        };
        Ok(match self.bulk.find_nonzero(first) {
            Ok(_) => Answer::Data,
            Err(error) => Answer::Kernel(errno_of(&error.source)),
        })
    }

    /// Erases it securely, its claim block included, or says how far that is: a Sanitize goes on by itself, and this is
    /// called again until it is done, from the second time on with what was `begun` (see [`Begun`]).
    ///
    /// # Errors
    /// [`SecureError`].
    ///
    /// # Panics
    /// The warrant is for another device, or not for erasing.
    pub fn secure(
        &self,
        warrant: &Warrant,
        how: Secure,
        begun: Option<&Begun>,
    ) -> Result<Secured, SecureError> {
        warrant.assert_device(&self.major_minor, self.size_bytes);
        warrant.assert_erasable(Range {
            offset: 0,
            bytes: 0,
        });
        match how {
            Secure::Format => {
                let chosen = self.can_secure(how)?;
                self.admin(chosen.name(), chosen.command(self.namespace()?), &mut [])?;
                Ok(Secured::Done {
                    method: chosen.word(),
                })
            }
            Secure::Sanitize => self.sanitize(begun),
        }
    }

    fn sanitize(&self, begun: Option<&Begun>) -> Result<Secured, SecureError> {
        let now_ns = self.clock.now_ns();
        let begun = match self.sanitize_log() {
            Err(error) => sanitize::unseen(error, begun, now_ns)?,
            Ok(log) => match sanitize::next(log, begun, now_ns)? {
                Next::Wait(begun) => begun.looked(now_ns),
                Next::Prove(begun) => {
                    let told = match self.told() {
                        Ok(told) => told,
                        Err(error) => {
                            return self.underway(sanitize::unseen(error, Some(&begun), now_ns)?);
                        }
                    };
                    if told != begun.told {
                        return Err(SecureError::Another);
                    }
                    return Ok(Secured::Done {
                        method: begun.chosen.word(),
                    });
                }
                Next::Send => self.begin_sanitize(log)?,
            },
        };
        self.underway(begun)
    }

    fn begin_sanitize(&self, log: Log) -> Result<Begun, SecureError> {
        let (chosen, told) = (self.can_secure(Secure::Sanitize)?, self.told()?);
        self.admin(chosen.name(), chosen.command(0), &mut [])?;
        let begun = Begun::new(chosen, told, log, self.clock.now_ns());
        // At once: a short one is seen under way now or never. What cannot be read now is read at the next look.
        let seen = self.sanitize_log().map(|log| begun.seen(log));
        Ok(seen.unwrap_or(begun))
    }

    /// Until the next look.
    fn underway(&self, begun: Begun) -> Result<Secured, SecureError> {
        std::thread::sleep(SANITIZE_LOOK);
        Ok(Secured::Underway {
            done_bytes: self.size_bytes / (1 << 16) * u64::from(begun.share()),
            total_bytes: self.size_bytes,
            begun,
        })
    }

    fn sanitize_log(&self) -> Result<Log, SecureError> {
        let mut log = vec![0; SANITIZE_LOG_BYTES];
        self.admin("Sanitize Status", sanitize_log(), &mut log)?;
        Ok(Log::read(&log))
    }

    fn told(&self) -> Result<Told, SecureError> {
        let controller = self.identify(Identify::Controller)?;
        let namespace = self.identify(Identify::Namespace)?;
        Ok(Told::read(&controller, &namespace, self.namespace()?))
    }

    fn namespace(&self) -> Result<u32, SecureError> {
        match sys::namespace_id(self.file.as_fd()) {
            Ok(id) => Ok(id),
            Err(Errno::ENOTTY) => Err(SecureError::NotNvme),
            Err(errno) => Err(SecureError::Command("the namespace's number", errno.into())),
        }
    }

    fn identify(&self, what: Identify) -> Result<Vec<u8>, SecureError> {
        let mut data = vec![0; IDENTIFY_BYTES];
        let command = what.command(self.namespace()?);
        self.admin("Identify", command, &mut data)?;
        Ok(data)
    }

    fn admin(
        &self,
        what: &'static str,
        command: AdminCommand,
        data: &mut [u8],
    ) -> Result<(), SecureError> {
        answered(what, sys::nvme_admin(self.file.as_fd(), command, data))
    }
}
