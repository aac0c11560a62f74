//! The conversation of fake agents whose prompt is one line without a box: keys change the line,
//! and Enter submits it.
//!
//! Relies on the sink's terminal mode, and on the keys of the other fake agent.

use std::io::Read;
use std::process::ExitCode;

use super::input::{Key, Parser};
use super::{stage_path, write_line};
use crate::sink;

/// Characters of a row of the line.
const ROW: usize = 80;

/// What Enter does to the line.
pub(super) enum Enter {
    Submits,
    /// The text is lost, as if it had never been typed.
    Drops,
    /// The text stays where it is.
    DoesNothing,
    /// It is submitted at the first key after there is `$STAGE/go`.
    Waits,
}

/// What such an agent shows.
#[derive(Default)]
pub(super) struct Shown {
    /// The last prompt.
    pub(super) history: String,
    /// What waits to be submitted.
    pub(super) waiting: Option<String>,
    /// What stands in the line.
    pub(super) line: String,
}

/// Runs until Ctrl-D or the end of input, and shows what `draw` returns after each key. What is
/// submitted or dropped, and what waits, is written to `$STAGE/agent.log`.
pub(super) fn converse(draw: fn(&Shown) -> String, mut enter: impl FnMut() -> Enter) -> ExitCode {
    let mut log = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(stage_path("agent.log"))
        .unwrap();
    write_line(&mut log, &format!("process {}", std::process::id()));
    sink::raw();
    sink::say("\x1b[?2004h");
    let mut parser = Parser::default();
    let mut shown = Shown::default();
    let mut piece = vec![0; 65536];
    show(&draw(&shown));
    loop {
        let count = std::io::stdin().read(&mut piece).unwrap_or(0);
        if count == 0 {
            return ExitCode::SUCCESS;
        }
        if stage_path("go").exists()
            && let Some(text) = shown.waiting.take()
        {
            write_line(&mut log, &format!("submitted {text}"));
            shown.history = text;
        }
        for key in parser.read(&piece[..count]) {
            match key {
                Key::Text(text) | Key::Paste(text) => shown.line.push_str(&text),
                Key::Enter => {
                    let line = std::mem::take(&mut shown.line);
                    match enter() {
                        Enter::Submits => {
                            write_line(&mut log, &format!("submitted {line}"));
                            shown.history = line;
                        }
                        Enter::Drops => write_line(&mut log, &format!("dropped {line}")),
                        Enter::DoesNothing => shown.line = line,
                        Enter::Waits => {
                            write_line(&mut log, &format!("waits {line}"));
                            shown.waiting = Some(line);
                        }
                    }
                }
                Key::Clear => shown.line.clear(),
                Key::End => return ExitCode::SUCCESS,
                _ => {}
            }
        }
        show(&draw(&shown));
    }
}

/// A text in the line, as agents break it: the rows after the first begin with `indent`.
pub(super) fn in_rows(text: &str, indent: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    let rows: Vec<String> = letters.chunks(ROW).map(String::from_iter).collect();
    rows.join(&format!("\r\n{indent}"))
}

/// Puts a screen in the place of the last one.
fn show(screen: &str) {
    sink::say(&format!("\x1b[H\x1b[2J{screen}"));
}
