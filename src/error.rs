//! Errors for users: what happened, why, and what to do.
//!
//! `main` prints each error once, as one line and at most one hint.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use crate::exit::Exit;

/// A failure, described for the user. Its `source` is the cause.
#[derive(Debug, Clone)]
pub struct Error {
    what: String,
    why: Option<Arc<dyn StdError + Send + Sync>>,
    hint: Option<String>,
    exit: Exit,
}

impl Error {
    /// Creates a failure with exit code 1.
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            why: None,
            hint: None,
            exit: Exit::Failed,
        }
    }

    /// The reader of the output closed it: nothing to print, and not a failure.
    pub fn silent() -> Self {
        Self::new("").exit_with(Exit::Done)
    }

    /// Whether there is nothing to print.
    pub fn is_silent(&self) -> bool {
        self.what.is_empty()
    }

    /// An invalid command line: exit code 2.
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(what).exit_with(Exit::Usage)
    }

    /// Adds the cause: an error, which keeps its own causes, or a text.
    #[must_use]
    pub fn caused_by(mut self, why: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.why = Some(Arc::from(why.into()));
        self
    }

    /// Adds what the user can do.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Sets another exit code than 1.
    #[must_use]
    pub fn exit_with(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// Returns the exit code.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// Returns what happened and why, without the hint, for logs and `--json`.
    pub fn summary(&self) -> String {
        match &self.why {
            Some(why) => format!("{}: {}", flat(&self.what), flat(&why.to_string())),
            None => flat(&self.what),
        }
    }

    /// Returns the text for the user; in detail also each cause that adds something, on a line of
    /// its own.
    pub fn report(&self, is_detailed: bool) -> String {
        let mut text = self.to_string();
        let mut cause = self.source().and_then(StdError::source);
        while let Some(error) = cause.filter(|_| is_detailed) {
            let line = flat(&error.to_string());
            if !text.contains(&line) {
                text.push_str("\ncaused by: ");
                text.push_str(&line);
            }
            cause = error.source();
        }
        text
    }

    /// Returns the hint, if any.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.why
            .as_deref()
            .map(|why| why as &(dyn StdError + 'static))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cbroker: {}", self.summary())?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {}", flat(hint)),
            None => Ok(()),
        }
    }
}

/// Turns a text from elsewhere, which may contain line breaks or escape sequences, into one plain
/// line.
fn flat(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for part in text.split(|c: char| c.is_control() || c == '\u{2028}' || c == '\u{2029}') {
        let part = crate::clean::line(part);
        let part = part.trim();
        if !part.is_empty() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(part);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_and_a_hint() {
        let error = Error::new("no broker answers at amqp://localhost:5672")
            .caused_by("connection refused\n")
            .with_hint("start one with `cbroker start`")
            .exit_with(Exit::Unreachable);
        assert_eq!(
            error.to_string(),
            "cbroker: no broker answers at amqp://localhost:5672: connection refused\n\
             hint: start one with `cbroker start`"
        );
        assert_eq!(error.exit().code(), 3);
    }

    #[test]
    fn causes_that_add_something_are_told_in_detail_only() {
        #[derive(Debug, thiserror::Error)]
        #[error("the file is damaged")]
        struct Damaged(#[source] std::io::Error);
        let cause = std::io::Error::other("row 7\nhas no end");
        let error = Error::new("cannot start").caused_by(Damaged(cause));
        assert_eq!(
            error.report(false),
            "cbroker: cannot start: the file is damaged"
        );
        assert_eq!(
            error.report(true),
            "cbroker: cannot start: the file is damaged\ncaused by: row 7 has no end"
        );
    }

    #[test]
    fn a_foreign_text_cannot_break_the_line_or_colour_the_terminal() {
        let error = Error::new("refused").caused_by("a\r\nb\u{1b}[31mc");
        assert_eq!(error.to_string(), "cbroker: refused: a b [31mc");
    }
}
