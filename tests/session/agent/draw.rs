//! What the fake agent shows: its box between two rules, a dialog, or another view.
//!
//! Relies on the terminal's size.

use std::fmt::Write as _;

use super::{Agent, State, View};
use crate::sink;

const RULE_WIDTH: usize = 80;
/// A longer text is shown as a placeholder.
const PLACEHOLDER_FROM: usize = 800;

impl Agent {
    pub(super) fn draw(&mut self) {
        let window = size();
        if window != std::mem::replace(&mut self.window, window) {
            self.note(&format!("window {} {}", window.0, window.1));
        }
        let rule = "─".repeat(RULE_WIDTH);
        let mut out = String::from("\x1b[?2026h\x1b[H\x1b[2J");
        for line in self.history.iter().rev().take(3).rev() {
            let line: String = line
                .chars()
                .take(RULE_WIDTH)
                .filter(|c| !c.is_control())
                .collect();
            let _infallible = write!(out, "> {line}\r\n");
        }
        if let Some(dialog) = self.dialog() {
            let _infallible = write!(out, "{rule}\r\n {dialog}");
        }
        match (&self.state, self.view) {
            (State::Dialog { .. } | State::Trust | State::Menu(_) | State::Held, _) => {}
            (_, View::Main) => self.draw_box(&mut out, "", ""),
            (_, View::Agents) => self.draw_box(
                &mut out,
                "describe a task for a new session",
                "enter to open · space to reply",
            ),
            (_, View::Transcript) => {
                let _infallible = write!(
                    out,
                    "> the whole conversation\r\n\r\n{rule}\r\n  Showing detailed \
                     transcript · ctrl+o to toggle"
                );
            }
            (_, View::Subagent) => {
                self.draw_box(&mut out, "Message @general-purpose…", "Esc to go back");
            }
        }
        if !self.quirks.has("notitle") {
            let title = match (&self.state, self.view) {
                (_, View::Agents) => "✳ work · claude agents",
                (State::Turn { .. }, _) => "⠂ Claude Code",
                _ => "✳ Claude Code",
            };
            let _infallible = write!(out, "\x1b]0;{title}\x07");
        }
        out.push_str("\x1b[?2026l");
        sink::say(&out);
    }

    /// What stands in place of the box while the agent asks something.
    fn dialog(&self) -> Option<String> {
        let lines = match &self.state {
            State::Dialog { word } if word == "plan" => {
                " Ready to code?\n\n Would you like to proceed?\n ❯ 1. Yes, and auto-accept \
                 edits\n   2. No, keep planning\n"
                    .to_owned()
            }
            State::Dialog { word } => format!(
                " Bash command {word}\n\n Do you want to proceed?\n ❯ 1. Yes\n   2. No\n\n \
                 Esc to cancel"
            ),
            State::Trust => {
                " Do you trust the files in this folder?\n\n ❯ 1. No, exit\n   2. Yes, \
                 proceed\n\n Enter to confirm · Esc to exit"
                    .to_owned()
            }
            State::Menu(title) => {
                format!(" {title}\n\n ❯ 1. Default\n   2. Other\n\n Enter to confirm · Esc to exit")
            }
            State::Held => {
                " Held message from another session\n\n ❯ 1. Deny\n   2. Allow\n".to_owned()
            }
            State::Idle | State::Turn { .. } => return None,
        };
        Some(lines.trim_start().replace('\n', "\r\n"))
    }

    fn draw_box(&mut self, out: &mut String, placeholder: &str, footer: &str) {
        let (rows, columns) = self.window;
        let mark = if self.is_shell { '!' } else { '❯' };
        let lines = if self.box_text.len() > PLACEHOLDER_FROM {
            vec!["[Pasted text #1]".to_owned()]
        } else {
            wrapped(&self.box_text, columns.saturating_sub(4).max(1))
        };
        // The box grows to about a quarter of the window, and then shows the end of its text.
        let room = (rows / 4).max(2);
        let hidden = lines.len().saturating_sub(room);
        if hidden > 0 {
            self.note("scrolled");
        }
        let rule = "─".repeat(RULE_WIDTH.min(columns));
        let _infallible = match hidden {
            0 => write!(out, "{rule}\r\n{mark} "),
            hidden => write!(out, "─── ↑ {hidden} more ───\r\n  "),
        };
        let _infallible = write!(out, "{}", lines[hidden..].join("\r\n  "));
        let grey = match placeholder {
            text if self.box_text.is_empty() && !text.is_empty() => {
                format!("\x1b7\x1b[7m{}\x1b[0;2m{}\x1b[0m", &text[..1], &text[1..])
            }
            _ => "\x1b7".to_owned(),
        };
        let footer = match (&self.state, footer) {
            (State::Turn { .. }, _) => "esc to interrupt",
            (_, "") if self.stops => "running stop hooks… esc to interrupt",
            (_, "") if self.quirks.has("vim") && !self.is_normal => "-- INSERT --",
            (_, "") => "? for shortcuts",
            (_, footer) => footer,
        };
        let _infallible = write!(out, "{grey}\r\n{rule}\r\n  {footer}\x1b8");
    }
}

/// Rows and columns of the terminal.
fn size() -> (usize, usize) {
    let size = rustix::termios::tcgetwinsize(std::io::stdout());
    size.map_or((24, 80), |size| (size.ws_row.into(), size.ws_col.into()))
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for line in text.split('\n') {
        let characters: Vec<char> = line.chars().collect();
        let pieces = characters.chunks(width).map(|piece| piece.iter().collect());
        lines.extend(pieces);
        if line.is_empty() {
            lines.push(String::new());
        }
    }
    lines
}
