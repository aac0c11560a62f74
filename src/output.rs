//! What is printed: results on stdout for a person or a program, notices on stderr.
//!
//! A reader that goes away (`cbroker list | head`) ends the command quietly, as it does for every good tool.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::config::{Config, Environment, Format, Volume};
use crate::error::Error;

/// How a piece of text stands out on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Something went well.
    Good,
    /// Something is wrong.
    Bad,
    /// Something to look at.
    Warning,
    /// Less important than the rest.
    Dim,
    /// A heading.
    Bold,
}

/// Where a command prints.
#[derive(Debug, Clone)]
pub struct Output {
    format: Format,
    volume: Volume,
    has_colour: bool,
}

impl Output {
    /// Prints as the configuration says; in colour only on a terminal and without `NO_COLOR`.
    pub fn new(config: &Config) -> Self {
        let has_colour = io::stdout().is_terminal() && allows_colour(&config.environment);
        Self {
            format: config.format,
            volume: config.volume,
            has_colour,
        }
    }

    /// Whether results are JSON.
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// One line of a result for a person; nothing under `--json`.
    pub fn line(&self, text: impl AsRef<str>) -> Result<(), Error> {
        if self.is_json() {
            return Ok(());
        }
        print_line(text.as_ref())
    }

    /// One JSON value on a line of its own under `--json`; nothing otherwise.
    pub fn json(&self, value: &impl Serialize) -> Result<(), Error> {
        if !self.is_json() {
            return Ok(());
        }
        let text = serde_json::to_string(value)
            .map_err(|error| Error::new("cannot print as JSON").because(error))?;
        print_line(&text)
    }

    /// One line on stderr about what happens beside the result; nothing under `--quiet`.
    pub fn notice(&self, text: impl AsRef<str>) {
        if self.volume != Volume::Quiet {
            // Nobody can be told that stderr is closed.
            let _ = writeln!(io::stderr(), "cbroker: {}", text.as_ref());
        }
    }

    /// One line on stderr about what happens behind the scenes, under `-v`.
    pub fn detail(&self, text: impl AsRef<str>) {
        if matches!(self.volume, Volume::Verbose(_)) {
            self.notice(text);
        }
    }

    /// An error beside others: where a command goes on after it.
    pub fn error(&self, error: &Error) {
        let _ = writeln!(io::stderr(), "{error}");
    }

    /// The text in a style, where the terminal shows it.
    pub fn paint(&self, style: Style, text: &str) -> String {
        if !self.has_colour {
            return text.to_owned();
        }
        let code = match style {
            Style::Good => "32",
            Style::Bad => "31",
            Style::Warning => "33",
            Style::Dim => "2",
            Style::Bold => "1",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }

    /// Rows as columns, the first row as heading. Widths count characters.
    pub fn table(&self, heading: &[&str], rows: &[Vec<String>]) -> Result<(), Error> {
        if self.is_json() {
            return Ok(());
        }
        let widths: Vec<usize> = (0..heading.len())
            .map(|column| {
                let cells = rows
                    .iter()
                    .filter_map(|row| row.get(column))
                    .map(|cell| cell.chars().count());
                cells
                    .chain([heading[column].chars().count()])
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let spread = |cells: &[String]| {
            let padded: Vec<String> = cells
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            padded.join("  ").trim_end().to_owned()
        };
        let heading: Vec<String> = heading.iter().map(|cell| (*cell).to_owned()).collect();
        self.line(self.paint(Style::Bold, &spread(&heading)))?;
        rows.iter().try_for_each(|row| self.line(spread(row)))
    }
}

/// Text that is the same for a person and a program: help, a completion script, a manual page.
pub fn raw(text: &str) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    through(
        stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush()),
    )
}

/// Whether the user and the terminal allow colour at all (<https://no-color.org>).
pub fn allows_colour(environment: &Environment) -> bool {
    environment.get("NO_COLOR").is_none() && environment.text("TERM") != Some("dumb")
}

/// A number and what it counts: `1 message`, `2 messages`.
pub fn counted(count: impl Into<u64>, what: &str) -> String {
    match count.into() {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}

fn print_line(text: &str) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    through(
        stdout
            .write_all(format!("{text}\n").as_bytes())
            .and_then(|()| stdout.flush()),
    )
}

fn through(written: io::Result<()>) -> Result<(), Error> {
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Error::silent(),
        _ => Error::new("cannot write the result").because(error),
    })
}
