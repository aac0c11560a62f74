//! A fake agent that looks and behaves like Claude Code where it was measured: an input box between two rules,
//! drafts, paste detection, shell mode, a permission dialog, busy turns, a title, hooks and the way without a keyboard.
//!
//! What happens in it is written to `$STAGE/agent.log`, a line each. Words in a prompt script it: `SLOWn` makes a turn
//! of n tenths of a second, `ASK{word}` opens a permission dialog whose approval is logged as `approved word`.
//! `AGENT` in the environment lists quirks: `nohooks`, `notitle`, `slow` (late redraws), `lost` (swallows the first
//! Enter of each prompt), `swallow` (and the first paste), `late` (starts after a second), `forgetful` (writes no transcript).
//!
//! Relies on the sink's terminal mode.

mod hooks;
mod input;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use crate::sink;
use hooks::Hooks;
use input::{Key, Parser};

const RULE_WIDTH: usize = 80;

/// What reaches the agent's one loop.
pub(crate) enum Happening {
    /// Bytes of one read.
    Bytes(Vec<u8>),
    /// A background hook ended with 2 and these words.
    Reminder(String),
    /// No more input.
    Closed,
}

enum State {
    Idle,
    Turn { until: Instant },
    Dialog { word: String },
}

struct Agent {
    box_text: String,
    is_shell: bool,
    state: State,
    history: Vec<String>,
    reminders: Vec<String>,
    hooks: Hooks,
    quirks: String,
    swallowed: bool,
    swallowed_paste: bool,
    log: std::fs::File,
}

/// Runs until `/exit`, Ctrl-D or the end of input.
pub(crate) fn run(arguments: &[OsString]) -> ExitCode {
    let stage = std::env::var_os("STAGE")
        .map(std::path::PathBuf::from)
        .unwrap_or_default();
    let log = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(stage.join("agent.log"))
        .unwrap();
    let quirks = std::env::var("AGENT").unwrap_or_default();
    let (tell, hear) = sync_channel(1024);
    let hooks = Hooks::of(
        arguments,
        stage.join("transcript.jsonl"),
        tell.clone(),
        &quirks,
    );
    let mut agent = Agent {
        box_text: String::new(),
        is_shell: false,
        state: State::Idle,
        history: Vec::new(),
        reminders: Vec::new(),
        hooks,
        quirks,
        swallowed: false,
        swallowed_paste: false,
        log,
    };
    agent.note(&format!("arguments {arguments:?}"));
    sink::raw();
    read_keys(tell);
    if agent.quirks.contains("late") {
        std::thread::sleep(Duration::from_secs(1));
    }
    sink::say("\x1b[?2004h\x1b[?1004h\x1b[?25l");
    agent.draw();
    agent.hooks.run("SessionStart", &[]);
    agent.note("started");
    agent.live(&hear);
    sink::say("\x1b[?25h\x1b[?1004l\x1b[?2004l");
    ExitCode::SUCCESS
}

fn read_keys(tell: SyncSender<Happening>) {
    std::thread::spawn(move || {
        let mut piece = vec![0; 65536];
        loop {
            let count = std::io::stdin().read(&mut piece).unwrap_or(0);
            let happening = if count == 0 {
                Happening::Closed
            } else {
                Happening::Bytes(piece[..count].to_vec())
            };
            if tell.send(happening).is_err() || count == 0 {
                return;
            }
        }
    });
}

impl Agent {
    fn live(&mut self, hear: &Receiver<Happening>) {
        let mut parser = Parser::default();
        loop {
            let wait = match self.state {
                State::Turn { until } => until.saturating_duration_since(Instant::now()),
                State::Idle | State::Dialog { .. } => Duration::from_hours(1),
            };
            match hear.recv_timeout(wait) {
                Ok(Happening::Bytes(bytes)) => {
                    for key in parser.read(&bytes) {
                        if self.press(&key) {
                            return;
                        }
                    }
                    if self.quirks.contains("slow") {
                        std::thread::sleep(Duration::from_millis(400));
                    }
                }
                Ok(Happening::Reminder(words)) => {
                    self.hooks.enqueue(&words);
                    self.note(&format!("accepted {words}"));
                    self.reminders.push(words);
                }
                Ok(Happening::Closed) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => self.end_turn(),
            }
            if matches!(self.state, State::Idle) && !self.reminders.is_empty() {
                let words = self.reminders.remove(0);
                self.note(&format!("reminder {words}"));
                self.hooks.transcribe(&words);
                self.begin_turn(&words);
            }
            self.draw();
        }
    }

    /// Whether that was the last key.
    fn press(&mut self, key: &Key) -> bool {
        if let State::Dialog { word } = &self.state {
            let word = word.clone();
            match key {
                Key::Enter => {
                    self.note(&format!("approved {word}"));
                    self.hooks.run("PostToolUse", &[("tool_name", "Bash")]);
                    self.end_turn();
                }
                Key::Text(text) if text == "1" => {
                    self.note(&format!("approved {word}"));
                    self.end_turn();
                }
                Key::Escape => {
                    self.note(&format!("rejected {word}"));
                    self.state = State::Idle;
                }
                _ => {}
            }
            return false;
        }
        match key {
            Key::Text(text) if text == "!" && self.box_text.is_empty() => self.is_shell = true,
            Key::Paste(_) if self.swallows_paste() => self.swallowed_paste = true,
            Key::Text(text) | Key::Paste(text) => self.box_text.push_str(text),
            Key::Backspace if self.box_text.is_empty() => self.is_shell = false,
            Key::Backspace => drop(self.box_text.pop()),
            Key::Clear => self.box_text.clear(),
            Key::Escape => {
                if let State::Turn { .. } = self.state {
                    self.note("interrupted");
                    self.state = State::Idle;
                }
            }
            Key::Enter => return self.enter(),
            Key::Stop => {
                sink::say("\r\nsuspended\r\n");
                let _stopped = rustix::process::kill_process(
                    rustix::process::getpid(),
                    rustix::process::Signal::STOP,
                );
                sink::raw();
            }
            Key::End => return true,
        }
        false
    }

    fn swallows_paste(&self) -> bool {
        self.quirks.contains("swallow") && !self.swallowed_paste
    }

    fn enter(&mut self) -> bool {
        if self.quirks.contains("lost") && !self.swallowed && !self.box_text.is_empty() {
            self.swallowed = true;
            return false;
        }
        self.swallowed = false;
        let text = std::mem::take(&mut self.box_text);
        if std::mem::take(&mut self.is_shell) {
            self.note(&format!("shell {text}"));
            return false;
        }
        if text == "/exit" {
            return true;
        }
        if !text.is_empty() {
            self.note(&format!("submitted {}", text.replace('\n', "\\n")));
            self.history.push(text.clone());
            self.hooks.transcribe(&text);
            self.begin_turn(&text);
        }
        false
    }

    fn begin_turn(&mut self, prompt: &str) {
        let tenths = prompt.split("SLOW").nth(1).and_then(|rest| {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u64>().ok()
        });
        self.state = State::Turn {
            until: Instant::now() + Duration::from_millis(100 * tenths.unwrap_or(2)),
        };
        self.draw();
        self.hooks.run("UserPromptSubmit", &[("prompt", prompt)]);
        if let Some(word) = prompt
            .split("ASK{")
            .nth(1)
            .and_then(|rest| rest.split('}').next())
        {
            self.hooks
                .run("PermissionRequest", &[("tool_name", "Bash")]);
            self.state = State::Dialog {
                word: word.to_owned(),
            };
        }
    }

    fn end_turn(&mut self) {
        self.state = State::Idle;
        self.draw();
        self.hooks.run("Stop", &[]);
        self.note("turn ended");
    }

    fn draw(&self) {
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
        if let State::Dialog { word } = &self.state {
            let _infallible = write!(
                out,
                "{rule}\r\n Bash command {word}\r\n\r\n Do you want to proceed?\r\n ❯ 1. Yes\r\n   2. No\r\n\r\n Esc to cancel"
            );
        } else {
            let mark = if self.is_shell { '!' } else { '❯' };
            let shown = if self.box_text.len() > 800 {
                "[Pasted text #1]".to_owned()
            } else {
                self.box_text.replace('\n', "\r\n  ")
            };
            let footer = if matches!(self.state, State::Turn { .. }) {
                "esc to interrupt"
            } else {
                "? for shortcuts"
            };
            let _infallible = write!(
                out,
                "{rule}\r\n{mark} {shown}\x1b7\r\n{rule}\r\n  {footer}\x1b8"
            );
        }
        if !self.quirks.contains("notitle") {
            let sign = if matches!(self.state, State::Turn { .. }) {
                '⠂'
            } else {
                '✳'
            };
            let _infallible = write!(out, "\x1b]0;{sign} Claude Code\x07");
        }
        out.push_str("\x1b[?2026l");
        sink::say(&out);
    }

    fn note(&mut self, what: &str) {
        self.log.write_all(format!("{what}\n").as_bytes()).unwrap();
    }
}
