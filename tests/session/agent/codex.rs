//! A fake agent that looks like Codex, and whose start drops the first text that is submitted to
//! it.
//!
//! With `waits` among its quirks the start keeps that text in the line instead, as `Waiting for
//! startup`; with `loads` it shows so before anything was typed.

use std::process::ExitCode;

use super::prompt_line::{Enter, Shown, converse, in_rows};
use super::quirks::Quirks;
use super::stage_path;

/// Runs until Ctrl-D or the end of input.
pub(crate) fn run() -> ExitCode {
    let waits = Quirks::of_environment().has("waits");
    let mut is_starting = true;
    converse(draw, || match std::mem::take(&mut is_starting) {
        true if waits => Enter::Waits,
        true => Enter::Drops,
        false => Enter::Submits,
    })
}

/// The last prompt stands above the line.
fn draw(shown: &Shown) -> String {
    let loads = Quirks::of_environment().has("loads") && !stage_path("go").exists();
    let line = match (shown.line.as_str(), &shown.waiting) {
        ("", Some(waiting)) => in_rows(waiting, "  ") + "\x1b7",
        ("", None) => "\x1b7\x1b[2mAsk Codex to do anything\x1b[0m".to_owned(),
        (line, _) => in_rows(line, "  ") + "\x1b7",
    };
    let above = match shown.history.as_str() {
        "" => " >_ OpenAI Codex".to_owned(),
        history => format!("› {history}\r\n\r\n• OK"),
    };
    let foot = if shown.waiting.is_some() || loads {
        "  Waiting for startup  · esc cancel"
    } else {
        "  ← for agents · ? for shortcuts"
    };
    format!("{above}\r\n\r\n\r\n› {line}\r\n\r\n  gpt-6-sol default\r\n{foot}\x1b8")
}
