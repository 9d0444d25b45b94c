//! Ctrl-C, or a polite kill. It is listened for from before the demo makes anything until its process ends: from then
//! on these signals no longer end the process, they only say that everything is to be taken away.

use std::time::Duration;

use anyhow::{Context as _, Result};

/// A program that the same Ctrl-C ended may be seen to end before the signal is.
const TOGETHER: Duration = Duration::from_millis(200);

/// The signals that ask the demo to end.
#[cfg(unix)]
pub(super) struct Interrupt([tokio::signal::unix::Signal; 3]);

#[cfg(unix)]
impl Interrupt {
    /// Listens from now on.
    pub(super) fn listen() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};

        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    /// Waits for one of them.
    pub(super) async fn came(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// Where there are no such signals there is no demo either.
#[cfg(not(unix))]
pub(super) struct Interrupt;

#[cfg(not(unix))]
impl Interrupt {
    /// Listens from now on.
    #[expect(
        clippy::unnecessary_wraps,
        reason = "the same signature as where there are signals"
    )]
    pub(super) fn listen() -> Result<Self> {
        Ok(Self)
    }

    /// Waits for one of them.
    pub(super) async fn came(&mut self) {
        // An error here only means that there is no such signal to wait for.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Interrupt {
    /// Whether one came together with what was just seen.
    pub(super) async fn came_just_now(&mut self) -> bool {
        tokio::time::timeout(TOGETHER, self.came()).await.is_ok()
    }
}
