//! A fake agent that looks like Codex, and whose start drops the first text that is submitted to it.
//!
//! Relies on the sink's terminal mode, and on the keys of the other fake agent.

use std::io::{Read, Write};
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
    let mut is_starting = true;
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
                Key::Enter if std::mem::take(&mut is_starting) => {
                    write_line(&mut log, &format!("dropped {line}"));
                    line.clear();
                }
                Key::Enter => {
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
