//! The conversation of fake agents whose prompt is one line without a box: keys change the line,
//! and Enter submits it.
//!
//! Relies on the sink's terminal mode, and on the keys of the other fake agent.

use std::io::Read;
use std::process::ExitCode;

use super::input::{Key, Parser};
use super::{stage_path, write_line};
use crate::sink;

/// What Enter does to the line.
pub(super) enum Enter {
    Submits,
    /// The text is lost, as if it had never been typed.
    Drops,
    /// The text stays where it is.
    DoesNothing,
}

/// Runs until Ctrl-D or the end of input. `draw` gets the last prompt and the line; what is
/// submitted or dropped is written to `$STAGE/agent.log`.
pub(super) fn converse(draw: fn(&str, &str), mut enter: impl FnMut() -> Enter) -> ExitCode {
    let mut log = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(stage_path("agent.log"))
        .unwrap();
    sink::raw();
    sink::say("\x1b[?2004h");
    let mut parser = Parser::default();
    let (mut line, mut history) = (String::new(), String::new());
    let mut piece = vec![0; 65536];
    draw(&history, &line);
    loop {
        let count = std::io::stdin().read(&mut piece).unwrap_or(0);
        if count == 0 {
            return ExitCode::SUCCESS;
        }
        for key in parser.read(&piece[..count]) {
            match key {
                Key::Text(text) | Key::Paste(text) => line.push_str(&text),
                Key::Enter => match enter() {
                    Enter::Submits => {
                        write_line(&mut log, &format!("submitted {line}"));
                        history = std::mem::take(&mut line);
                    }
                    Enter::Drops => {
                        write_line(&mut log, &format!("dropped {line}"));
                        line.clear();
                    }
                    Enter::DoesNothing => {}
                },
                Key::Clear => line.clear(),
                Key::End => return ExitCode::SUCCESS,
                _ => {}
            }
        }
        draw(&history, &line);
    }
}
