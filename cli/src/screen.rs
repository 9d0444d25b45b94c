//! Where words go. Results to stdout, everything about them (progress, hints, refusals) to stderr, so that a pipe
//! carries results alone. Colour only on a terminal, and never with `NO_COLOR`.

use std::fmt::Display;
use std::io::{self, BufRead, IsTerminal as _, Write};

/// What a piece of text is to the reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Nothing special.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Wrong.
    Bad,
    /// A heading, or what matters.
    Bold,
    /// What matters less.
    Dim,
}

impl Tone {
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Good => "32",
            Self::Warn => "33",
            Self::Bad => "31",
            Self::Bold => "1",
            Self::Dim => "2",
        }
    }
}

/// The two outputs, the one input, and what they can do.
pub struct Screen {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    input: Option<Box<dyn BufRead + Send>>,
    colour: bool,
    live: bool,
}

impl Screen {
    /// The process's own standard streams.
    #[must_use]
    pub fn standard() -> Self {
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|v| v == "dumb");
        let both = io::stdin().is_terminal() && io::stderr().is_terminal();
        Self {
            out: Box::new(io::BufWriter::new(io::stdout())),
            err: Box::new(io::stderr()),
            input: both
                .then(|| Box::new(io::BufReader::new(io::stdin())) as Box<dyn BufRead + Send>),
            colour: io::stdout().is_terminal() && !no_colour && !dumb,
            live: io::stderr().is_terminal() && !dumb,
        }
    }

    /// Streams of the caller's: no colour, nothing live. `input` stands for a person at a terminal.
    #[must_use]
    pub fn to(
        out: impl Write + Send + 'static,
        err: impl Write + Send + 'static,
        input: Option<Box<dyn BufRead + Send>>,
    ) -> Self {
        Self {
            out: Box::new(out),
            err: Box::new(err),
            input,
            colour: false,
            live: false,
        }
    }

    /// Prints one line of the result.
    pub(crate) fn line(&mut self, text: impl Display) -> io::Result<()> {
        writeln!(self.out, "{text}")
    }

    /// Prints what is said about the result. The result so far goes out first, so that both read in order.
    pub(crate) fn note(&mut self, text: impl Display) -> io::Result<()> {
        self.out.flush()?;
        writeln!(self.err, "{text}")
    }

    /// Sends what was printed on its way.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// `text` in a tone, where the terminal can show it.
    pub(crate) fn paint(&self, tone: Tone, text: &str) -> String {
        if !self.colour || tone == Tone::Plain {
            return text.to_owned();
        }
        format!("\u{1b}[{}m{text}\u{1b}[0m", tone.code())
    }

    /// Whether stderr can be repainted.
    pub(crate) const fn live(&self) -> bool {
        self.live
    }

    /// Asks on stderr and reads one line; `None` where nobody is there to answer.
    pub(crate) fn ask(&mut self, question: &str) -> io::Result<Option<String>> {
        self.out.flush()?;
        let Some(input) = self.input.as_mut() else {
            return Ok(None);
        };
        write!(self.err, "{question} ")?;
        self.err.flush()?;
        let mut answer = String::new();
        input.read_line(&mut answer)?;
        Ok(Some(answer.trim().to_owned()))
    }
}
