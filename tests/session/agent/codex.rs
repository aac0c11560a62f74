//! A fake agent that looks like Codex, and whose start drops the first text that is submitted to
//! it.

use std::io::Write;
use std::process::ExitCode;

use super::prompt_line::{Enter, converse};
use crate::sink;

/// Runs until Ctrl-D or the end of input.
pub(crate) fn run() -> ExitCode {
    let mut is_starting = true;
    converse(draw, || {
        if std::mem::take(&mut is_starting) {
            Enter::Drops
        } else {
            Enter::Submits
        }
    })
}

/// The last prompt stands above the line.
fn draw(history: &str, line: &str) {
    let shown = match line {
        "" => "\x1b7\x1b[2mAsk Codex to do anything\x1b[0m".to_owned(),
        line => format!("{line}\x1b7"),
    };
    let above = match history {
        "" => " >_ OpenAI Codex".to_owned(),
        history => format!("› {history}"),
    };
    sink::say(&format!(
        "\x1b[H\x1b[2J{above}\r\n\r\n\r\n› {shown}\r\n\r\n  gpt-6-sol default\x1b8"
    ));
    let _terminal_is_gone = std::io::stdout().flush();
}
