//! A fake agent that looks like opencode, in which a turn runs that nobody saw begin: what is
//! entered is shown as `QUEUED`, and its model reads it later.

use std::process::ExitCode;

use super::prompt_line::{Enter, Shown, converse, in_rows};
use super::stage_path;

/// Columns of its frame.
const WIDTH: usize = 90;

/// Runs until Ctrl-D or the end of input.
pub(crate) fn run() -> ExitCode {
    converse(draw, || {
        if stage_path("go").exists() {
            Enter::Submits
        } else {
            Enter::Waits
        }
    })
}

/// The rows of a text within the frame.
fn framed(text: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    let rows = letters.chunks(WIDTH - 4).map(String::from_iter);
    let framed: Vec<String> = rows.map(|row: String| format!("  ┃  {row}\r\n")).collect();
    framed.concat()
}

/// Prompts stand in frames above the line's.
fn draw(shown: &Shown) -> String {
    let prompt = match (&shown.waiting, shown.history.as_str()) {
        (Some(text), _) => format!("  ┃\r\n{}  ┃   QUEUED\r\n  ┃", framed(text)),
        (None, "") => String::new(),
        (None, text) => format!("  ┃\r\n{}  ┃\r\n\r\n     OK", framed(text)),
    };
    let line = match shown.line.as_str() {
        "" => "\x1b7\x1b[2mAsk anything… \"Fix a bug\"\x1b[0m".to_owned(),
        line => in_rows(line, "  ┃  ") + "\x1b7",
    };
    let foot = if shown.waiting.is_some() {
        "   ■■⬝⬝  esc interrupt      ctrl+p commands"
    } else {
        "   /work          15  ctrl+p commands"
    };
    format!(
        "{prompt}\r\n\r\n  ┃\r\n  ┃  {line}\r\n  ┃\r\n  ┃  Build · m fake\r\n  \
         ╹{}\r\n{foot}\x1b8",
        "▀".repeat(WIDTH)
    )
}
