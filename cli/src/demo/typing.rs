//! Typing as a person would: a line is printed, run, and its output goes straight to the reader's screen.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use api::Reason;
use tokio::process::Command;
use tokio::time::Instant;

use super::slow::Throttle;
use super::stage::Stage;
use crate::advice::{Refusal, Stop};
use crate::screen::Tone;
use crate::session::Session;

/// How often something is looked at again.
const AGAIN: Duration = Duration::from_millis(100);

/// The demo under way.
pub(super) struct Play<'a> {
    /// The reader's screen.
    pub(super) session: &'a mut Session,
    /// What was started.
    pub(super) stage: &'a mut Stage,
    /// The same cluster, asked without a word.
    pub(super) quiet: Session,
    /// This program; the others lie beside it.
    pub(super) exe: PathBuf,
    /// What makes a drive slow.
    pub(super) throttle: Throttle,
}

impl Play<'_> {
    /// What the next commands are about.
    pub(super) fn chapter(&mut self, text: &str) -> Result<(), Stop> {
        let text = self
            .session
            .screen
            .paint(Tone::Bold, &format!("\n# {text}"));
        self.session.screen.line(text)?;
        Ok(self.session.screen.flush()?)
    }

    /// Says something between the commands.
    pub(super) fn say(&mut self, text: &str) -> Result<(), Stop> {
        self.session.screen.line(text)?;
        Ok(self.session.screen.flush()?)
    }

    /// Shows a command as it is typed.
    pub(super) fn prompt(&mut self, line: &str) -> Result<(), Stop> {
        let line = self.session.screen.paint(Tone::Dim, &format!("$ {line}"));
        self.session.screen.line(line)?;
        Ok(self.session.screen.flush()?)
    }

    /// Types a command of this program and lets it print. `code` is how it is to end.
    pub(super) async fn ringpv(&mut self, words: &[&str], code: i32) -> Result<(), Stop> {
        let shown: Vec<_> = words.iter().map(|w| quoted(w)).collect();
        self.prompt(&format!("kubectl ringpv {}", shown.join(" ")))?;
        let mut command = Command::new(&self.exe);
        command.args(words);
        self.foreground(
            command,
            code,
            &format!("kubectl ringpv {}", words.join(" ")),
        )
        .await
    }

    /// Types a line into a shell.
    pub(super) async fn shell(&mut self, line: &str) -> Result<(), Stop> {
        self.prompt(line)?;
        let mut command = Command::new("sh");
        command.args(["-ec", line]);
        self.foreground(command, 0, line).await
    }

    async fn foreground(
        &mut self,
        mut command: Command,
        code: i32,
        what: &str,
    ) -> Result<(), Stop> {
        command
            .envs(self.stage.environment())
            .current_dir(self.stage.path("work"));
        let output = self.stage.run(command).await;
        let status = output.with_context(|| format!("cannot run {what}"))?.status;
        if let Some(name) = self.stage.ended() {
            return Err(Stop::Failed(anyhow!("{name} ended by itself")));
        }
        match status.code() {
            Some(got) if got == code => Ok(()),
            Some(got) => Err(Stop::Failed(anyhow!("{what}: exit code {got}, not {code}"))),
            None => Err(Stop::Failed(anyhow!("{what}: ended by a signal"))),
        }
    }

    /// A place under the demo's directory, as text.
    pub(super) fn place_of(&self, name: &str) -> String {
        self.stage.path(name).display().to_string()
    }

    /// Starts a program that lies beside this one.
    pub(super) async fn start(&mut self, name: &str, args: &[String]) -> Result<u32, Stop> {
        let program = self.exe.with_file_name(name);
        if !program.is_file() {
            return Err(Stop::refused(
                Refusal::new(Reason::UnsupportedHere, program.display().to_string())
                    .detail("the program is not beside this one")
                    .next("cargo build --release --bins, then run the demo from there"),
            ));
        }
        self.prompt(&format!("{name} {} &", args.join(" ")))?;
        Ok(self.stage.start(name, &program, args).await?)
    }

    /// Waits for something to become so, and fails where it does not.
    pub(super) async fn until(
        &mut self,
        what: &str,
        limit: Duration,
        so: impl AsyncFnMut(&mut Self) -> Result<bool, Stop>,
    ) -> Result<(), Stop> {
        if self.within(limit, so).await? {
            return Ok(());
        }
        Err(Stop::Failed(anyhow!(
            "waited {} s for {what}",
            limit.as_secs()
        )))
    }

    /// Waits for something to become so, and says whether it did.
    pub(super) async fn within(
        &mut self,
        limit: Duration,
        mut so: impl AsyncFnMut(&mut Self) -> Result<bool, Stop>,
    ) -> Result<bool, Stop> {
        let end = Instant::now() + limit;
        while !so(self).await? {
            if let Some(name) = self.stage.ended() {
                return Err(Stop::Failed(anyhow!("{name} ended by itself")));
            }
            if Instant::now() > end {
                return Ok(false);
            }
            tokio::time::sleep(AGAIN).await;
        }
        Ok(true)
    }
}

/// A word as a person would have to type it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{word}'")
    }
}
