//! A fake agent that looks like Gemini, and that ignores Enter until its start is over: `$STAGE/go`
//! ends it.
//!
//! Relies on the sink's terminal mode, and on the keys of the other fake agent.

use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

use super::input::{Key, Parser};
use super::{stage_path, write_line};
use crate::sink;

/// Runs until Ctrl-D or the end of input.
pub(crate) fn run() -> ExitCode {
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
                Key::Enter if Path::exists(&stage_path("go")) => {
                    write_line(&mut log, &format!("submitted {line}"));
                    history = std::mem::take(&mut line);
                }
                Key::Clear => line.clear(),
                Key::End => return ExitCode::SUCCESS,
                _ => {}
            }
        }
        draw(&history, &line);
    }
}

/// The last prompt stands above the line.
fn draw(history: &str, line: &str) {
    let rule = "─".repeat(80);
    let shown = match line {
        "" => "\x1b7\x1b[2m Type your message or @path/to/file\x1b[0m".to_owned(),
        line => format!("{line}\x1b7"),
    };
    let foot = " workspace (/directory)       sandbox       /model";
    sink::say(&format!(
        "\x1b[H\x1b[2J > {history}\r\n{rule}\r\n Shift+Tab to accept edits\r\n\r\n > {shown}\r\n\r\n{foot}\x1b8"
    ));
    let _terminal_is_gone = std::io::stdout().flush();
}
