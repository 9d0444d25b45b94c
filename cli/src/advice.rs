//! How a verb ends short of its aim, and what a person does next. Two closed lists:
//!
//! * [`Stop`]: why it ended. Usage → 2, refused or nothing matched → 1, failed → 3. A refusal is a [`Reason`], so the
//!   word is the one that events, conditions, logs and metrics use.
//! * [`Hint`]: what is worth saying although the verb did its work. Each names the next command to type.

use std::fmt;

use anyhow::anyhow;
use api::Reason;

/// Exit code: wrong usage. clap uses the same.
pub(crate) const EXIT_USAGE: u8 = 2;
const EXIT_REFUSED: u8 = 1;
const EXIT_FAILED: u8 = 3;

/// Why a verb ended without doing what it was asked.
#[derive(Debug)]
pub(crate) enum Stop {
    /// What was typed cannot be meant.
    Usage(String),
    /// Nothing matched, or it was refused. Never empty.
    Refused(Vec<Refusal>),
    /// It was tried and did not work.
    Failed(anyhow::Error),
    /// It was tried and did not work, for a reason that somebody named. Never empty.
    FailedFor(Vec<Refusal>),
}

/// One refusal: the word, about what, the particulars, the next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The word.
    pub(crate) reason: Reason,
    /// What it is about: `loop10 on node-1`. Empty where there is no one thing.
    pub(crate) subject: String,
    /// What is special to this case; empty for the reason's own sentence.
    pub(crate) detail: String,
    /// The next step where the reason's own does not fit.
    pub(crate) next: Option<String>,
}

impl Refusal {
    /// A refusal with the reason's own sentence and advice.
    pub(crate) fn new(reason: Reason, subject: impl Into<String>) -> Self {
        Self {
            reason,
            subject: subject.into(),
            detail: String::new(),
            next: None,
        }
    }

    /// With particulars in place of the reason's own sentence.
    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// With another next step.
    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }
}

impl Refusal {
    fn advice(&self) -> &str {
        self.next.as_deref().unwrap_or(self.reason.advice())
    }
}

/// All of what was asked, or every refusal among it.
pub(crate) fn all_or_refused<T>(
    asked: impl Iterator<Item = Result<T, Refusal>>,
) -> Result<Vec<T>, Stop> {
    let (mut granted, mut refusals) = (Vec::new(), Vec::new());
    for one in asked {
        match one {
            Ok(one) => granted.push(one),
            Err(refusal) => refusals.push(refusal),
        }
    }
    if refusals.is_empty() {
        Ok(granted)
    } else {
        Err(Stop::Refused(refusals))
    }
}

/// Refusals one below the other. A next step that several share is said once, after the last of them.
pub(crate) fn list(refusals: &[Refusal], word: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for (index, refusal) in refusals.iter().enumerate() {
        let text = refusal.to_string();
        let same = refusals
            .get(index + 1)
            .is_some_and(|r| r.advice() == refusal.advice());
        let text = if same {
            text.lines().next().unwrap_or_default()
        } else {
            &text
        };
        lines.push(format!("{word}{text}"));
    }
    lines
}

impl fmt::Display for Refusal {
    /// `Reason: subject: sentence`, and the next step on a line of its own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.reason)?;
        if !self.subject.is_empty() {
            write!(f, "{}: ", self.subject)?;
        }
        let own = self.reason.meaning();
        f.write_str(if self.detail.is_empty() {
            own
        } else {
            &self.detail
        })?;
        let next = self.advice();
        if !next.is_empty() {
            write!(f, "\n  next: {next}")?;
        }
        Ok(())
    }
}

impl Stop {
    /// One refusal.
    pub(crate) fn refused(refusal: Refusal) -> Self {
        Self::Refused(vec![refusal])
    }

    /// The exit code it stands for.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => EXIT_USAGE,
            Self::Refused(_) => EXIT_REFUSED,
            Self::Failed(_) | Self::FailedFor(_) => EXIT_FAILED,
        }
    }

    /// What is printed on stderr.
    pub(crate) fn lines(&self) -> Vec<String> {
        match self {
            Self::Usage(message) => vec![format!("usage: {message}")],
            Self::Refused(refusals) => list(refusals, "refused: "),
            Self::Failed(error) => vec![format!("failed: {}", chain(error))],
            Self::FailedFor(refusals) => list(refusals, "failed: "),
        }
    }

    /// Whether the reader of a pipe went away, which is nobody's failure.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        let Self::Failed(error) = self else {
            return false;
        };
        let io = error.downcast_ref::<std::io::Error>();
        io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    }
}

/// The causes joined with colons. A cause that its predecessor's text already holds is not said twice.
pub(crate) fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl From<serde_json::Error> for Stop {
    fn from(error: serde_json::Error) -> Self {
        Self::Failed(anyhow::Error::from(error).context("an object could not be written as JSON"))
    }
}

impl From<kube::Error> for Stop {
    /// What the API server refuses is a refusal; what it does not answer is a failure with the likely cause.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "everything but an answer is silence"
    )]
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.is_invalid() => {
                Self::refused(Refusal::new(Reason::InvalidArgument, "the API server").detail(status.message.clone()))
            }
            kube::Error::Api(status) if matches!(status.code, 401 | 403) => Self::Failed(anyhow!(
                "the API server does not let you: {}; the kubeconfig's token or role is not the right one",
                status.message
            )),
            kube::Error::Api(status) if status.code == 404 && status.message.contains("could not find the requested") => {
                Self::Failed(anyhow!(
                    "the API server does not know RingPV's resources; install them: kubectl ringpv install"
                ))
            }
            kube::Error::Api(status) => Self::Failed(anyhow!("the API server answers: {}", status.message)),
            other => Self::Failed(anyhow::Error::from(other).context(
                "the API server does not answer; is it running, and is the kubeconfig the right one?",
            )),
        }
    }
}

/// What is worth saying beside a result. Printed on stderr, so that a pipe never meets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hint {
    /// Devices that are not shown, counted by reason.
    DevicesHidden { count: usize, reasons: String },
    /// Devices could become drives.
    DevicesEligible { count: usize, file: String },
    /// No device could become a drive.
    NoneEligible,
    /// Devices bear drives of this cluster that have no object.
    Adoptable { count: usize },
    /// Devices bear drives of another cluster.
    Foreign { count: usize },
    /// Agents are not heard of.
    Silent { nodes: String },
    /// A node's kernel cannot enforce a volume's size.
    QuotaUnsupported { nodes: String },
    /// A node's agent reads with threads.
    NoUring { node: String, why: String },
    /// Volume directories without an object.
    Orphans { count: usize },
    /// A drive was never measured.
    NeverMeasured { drive: String },
    /// Nothing was changed.
    DryRun,
    /// The work goes on though nobody waits.
    GoesOn { command: String },
    /// A volume's size is a promise only.
    BestEffort { volume: String },
    /// A volume is there, but not mounted.
    MountNext { volume: String },
    /// Drives or volumes are suspended from now on.
    Suspended { what: &'static str },
    /// Drives are suspended still, and need not be.
    ResumeNext { drives: String },
    /// RingPV is in the cluster.
    Installed,
    /// RingPV's programs are out of the cluster, but not all that belongs to it.
    Remains(Remains),
    /// There is nothing to list.
    ListIsEmpty {
        what: &'static str,
        command: &'static str,
    },
}

/// What is there without RingPV's programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remains {
    /// Drives.
    pub(crate) drives: usize,
    /// Volumes.
    pub(crate) volumes: usize,
    /// PersistentVolumes of theirs.
    pub(crate) persistent_volumes: usize,
    /// Volumes that pods use.
    pub(crate) used: usize,
}

impl fmt::Display for Remains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "what remains: {} drives and {} volumes with their data and objects, {} PersistentVolumes, \
             the definitions of RingPV's kinds; kubectl ringpv install takes them up again",
            self.drives, self.volumes, self.persistent_volumes
        )?;
        if self.used > 0 {
            write!(
                f,
                "\npods use {} of the volumes: they go on, but cannot end cleanly before RingPV is installed again",
                self.used
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DevicesHidden { count, reasons } => {
                write!(
                    f,
                    "not shown, for they cannot be used: {count} ({reasons}); --all shows them"
                )
            }
            Self::Installed => {
                f.write_str("next: kubectl ringpv discover shows the devices of all nodes")
            }
            Self::ResumeNext { drives } => write!(
                f,
                "next: kubectl ringpv resume drives {drives} lets pods use it again"
            ),
            Self::Remains(remains) => remains.fmt(f),
            Self::DevicesEligible { count, file } => write!(
                f,
                "{count} written to {file}; look it over, then: kubectl ringpv init {file}"
            ),
            Self::NoneEligible => f.write_str("no device can become a drive; --all shows why"),
            Self::Adoptable { count } => write!(
                f,
                "bearing a drive of this cluster without its object: {count}; kubectl ringpv adopt --all"
            ),
            Self::Foreign { count } => write!(
                f,
                "bearing a drive of another cluster: {count}; they are left alone; kubectl ringpv adopt says more"
            ),
            Self::Silent { nodes } => write!(
                f,
                "{}: {nodes}; {}",
                Reason::NodeSilent.meaning(),
                Reason::NodeSilent.advice()
            ),
            Self::QuotaUnsupported { nodes } => write!(
                f,
                "{}: {nodes}; classes there need capacity-enforcement: best-effort",
                Reason::QuotaUnsupported.meaning()
            ),
            Self::NoUring { node, why } => write!(f, "{node} does not use io_uring: {why}"),
            Self::Orphans { count } => write!(
                f,
                "{count} volume directories have no object; kubectl ringpv adopt brings them back, clean NAME removes one"
            ),
            Self::NeverMeasured { drive } => {
                write!(f, "never measured; kubectl ringpv bench {drive}")
            }
            Self::DryRun => f.write_str("dry run: nothing was changed"),
            Self::GoesOn { command } => {
                write!(f, "it goes on without you; look again with: {command}")
            }
            Self::BestEffort { volume } => write!(
                f,
                "{volume}: {}; df in it may show more",
                Reason::BestEffortCapacity.meaning()
            ),
            Self::MountNext { volume } => {
                write!(f, "mount it: kubectl ringpv volumes mount {volume} PATH")
            }
            Self::Suspended { what } => write!(
                f,
                "what is mounted stays until its pod goes; pods that come get an empty, read-only stand-in; kubectl ringpv resume {what} ends that"
            ),
            Self::ListIsEmpty { what, command } => write!(f, "there are no {what}; {command}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_word_sentence_and_next_step() {
        let plain = Refusal::new(Reason::DriveInUse, "1a2b3c4d");
        assert_eq!(
            plain.to_string(),
            "DriveInUse: 1a2b3c4d: volumes are on the drive\n  next: delete them first"
        );
        let special = Refusal::new(Reason::NothingMatched, "")
            .detail("no drive is called x")
            .next("kubectl ringpv list drives");
        assert_eq!(
            special.to_string(),
            "NothingMatched: no drive is called x\n  next: kubectl ringpv list drives"
        );
    }

    #[test]
    fn exit_codes() {
        let refusal = Refusal::new(Reason::NotConfirmed, "");
        for (stop, code) in [
            (Stop::Usage(String::new()), 2),
            (Stop::refused(refusal), 1),
            (Stop::Failed(anyhow!("x")), 3),
        ] {
            assert_eq!(stop.exit_code(), code, "{stop:?}");
        }
    }

    #[test]
    fn causes_are_said_once() {
        let inner = std::io::Error::other("no route");
        let error = anyhow::Error::from(inner).context("cannot connect: no route");
        assert_eq!(chain(&error), "cannot connect: no route");
    }
}
