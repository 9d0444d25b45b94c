//! The log: plain on a terminal, one JSON object a line elsewhere, always to standard error; its filter can be changed
//! while the process runs.

use std::io::IsTerminal as _;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// Why a log filter was not set.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// It cannot be read.
    #[error("{0:?} is not a log filter: write for example info, or warn,controller=debug")]
    Malformed(String),
    /// The process has a log already.
    #[error("the log is set up already")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
    /// The log is gone.
    #[error("the log filter cannot be changed any more")]
    Gone(#[source] reload::Error),
}

/// Changes the filter of a running process.
#[derive(Clone, Debug)]
pub struct LogFilter(reload::Handle<EnvFilter, Registry>);

impl LogFilter {
    /// The filter in force.
    #[must_use]
    pub fn get(&self) -> String {
        self.0.with_current(ToString::to_string).unwrap_or_default()
    }

    /// Another filter from now on.
    ///
    /// # Errors
    /// The filter cannot be read.
    pub fn set(&self, text: &str) -> Result<(), LogError> {
        self.0.reload(parse(text)?).map_err(LogError::Gone)
    }
}

/// Reads a filter such as `info` or `warn,controller=debug`.
fn parse(text: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::builder()
        .parse(text.trim())
        .map_err(|_| LogError::Malformed(text.to_owned()))
}

/// Sets the process's log up. Once.
///
/// # Errors
/// The filter cannot be read, or there is a log already.
pub fn init(filter: &str) -> Result<LogFilter, LogError> {
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let registry = tracing_subscriber::registry().with(filter);
    let writer = fmt::layer().with_writer(std::io::stderr);
    let result = if std::io::stderr().is_terminal() {
        registry.with(writer.with_target(false)).try_init()
    } else {
        let writer = writer.json().flatten_event(true).with_ansi(false);
        registry.with(writer).try_init()
    };
    result.map_err(LogError::Twice)?;
    Ok(LogFilter(handle))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        for good in ["info", "warn,controller=debug", "off", " info "] {
            assert!(parse(good).is_ok(), "{good}");
        }
        let error = parse("controller=loud").unwrap_err();
        assert!(error.to_string().contains("controller=loud"), "{error}");
    }
}
