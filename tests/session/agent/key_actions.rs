//! What each key does, in every state and view of the agent.

use serde_json::json;

use super::inbox::Manner;
use super::input::Key;
use super::{Agent, State, View, elsewhere};
use crate::sink;

impl Agent {
    /// Whether that was the last key.
    pub(super) fn press(&mut self, key: &Key) -> bool {
        let downs = std::mem::take(&mut self.downs);
        match (&self.state, self.view) {
            (State::Dialog { word }, _) => {
                let word = word.clone();
                self.answer(key, &word);
                return false;
            }
            (State::Menu(_) | State::Held, _) => {
                self.press_in_menu(key);
                return false;
            }
            (_, View::Agents | View::Subagent | View::Transcript) => {
                self.press_elsewhere(key);
                return false;
            }
            (_, View::Main) if self.is_normal => {
                self.command(key);
                return false;
            }
            (_, View::Main) => {}
        }
        match key {
            Key::Toggle => self.view = View::Transcript,
            Key::Text(text) if text == "!" && self.box_text.is_empty() => self.is_shell = true,
            Key::Paste(_) if self.swallows_paste() => self.swallowed_paste = true,
            Key::Text(text) | Key::Paste(text) => self.box_text.push_str(text),
            Key::Backspace if self.box_text.is_empty() => self.is_shell = false,
            Key::Backspace => drop(self.box_text.pop()),
            Key::Clear => self.box_text.clear(),
            Key::Escape => {
                if self.quirks.has("vim") {
                    self.is_normal = true;
                } else if let State::Turn { .. } = self.state {
                    self.note("interrupted");
                    self.state = State::Idle;
                    self.stop();
                }
            }
            Key::Left if self.box_text.is_empty() => self.leave(),
            Key::Left => {}
            Key::Down => {
                self.downs = downs + 1;
                self.note("down");
            }
            Key::Enter if downs > 1 && self.box_text.is_empty() => self.view = View::Subagent,
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

    fn press_in_menu(&mut self, key: &Key) {
        if matches!(key, Key::Escape | Key::Enter) {
            self.note("closed");
            self.state = State::Idle;
            self.tell(&json!({"is": "menu"}));
        }
    }

    fn answer(&mut self, key: &Key, word: &str) {
        match key {
            Key::Enter => {
                self.note(&format!("approved {word}"));
                self.hooks.run("PostToolUse", &[("tool_name", "Bash")]);
                self.tell(&json!({"is": "called", "call": "one"}));
                self.end_turn();
            }
            Key::Text(text) if text == "1" => {
                self.note(&format!("approved {word}"));
                self.tell(&json!({"is": "called", "call": "one"}));
                self.end_turn();
            }
            Key::Escape => {
                self.note(&format!("rejected {word}"));
                self.state = State::Idle;
                self.tell(&json!({"is": "called", "call": "one"}));
                self.tell(&json!({"is": "rest", "why": "rejected"}));
            }
            _ => {}
        }
    }

    /// The agents view is opened.
    fn leave(&mut self) {
        self.view = View::Agents;
        if self.moved.is_some() {
            return;
        }
        if self.quirks.has("moves") {
            let (settings, transcript) = (self.hooks.given(), self.hooks.transcript());
            self.moved = Some(elsewhere::move_session(&self.stage, settings, transcript));
        } else if self.quirks.has("claims") {
            self.hooks.go_on_in(elsewhere::SPARE_SESSION);
            self.moved = self.spare.take().map(elsewhere::claim);
        }
        if self.moved.is_some()
            && let Some(inbox) = &self.inbox
        {
            inbox.behave(Manner::Mute);
        }
    }

    /// Keys in another view: what is submitted there is for others.
    fn press_elsewhere(&mut self, key: &Key) {
        match key {
            Key::Text(_) | Key::Paste(_) | Key::Enter if self.view == View::Transcript => {
                self.note(&format!("in the transcript {key:?}"));
            }
            Key::Text(text) | Key::Paste(text) => self.box_text.push_str(text),
            Key::Enter => {
                let text = std::mem::take(&mut self.box_text);
                let whom = if self.view == View::Agents {
                    "new session"
                } else {
                    "to the subagent"
                };
                self.note(&format!("{whom} {text}"));
            }
            Key::Escape => self.view = View::Main,
            Key::Toggle if self.view == View::Transcript => self.view = View::Main,
            _ => {}
        }
    }

    fn swallows_paste(&self) -> bool {
        self.quirks.has("swallow") && !self.swallowed_paste
    }

    fn enter(&mut self) -> bool {
        if self.quirks.has("lost") && !self.swallowed && !self.box_text.is_empty() {
            self.swallowed = true;
            return false;
        }
        self.swallowed = false;
        let text = std::mem::take(&mut self.box_text);
        if std::mem::take(&mut self.is_shell) {
            self.note(&format!("shell {text}"));
            return false;
        }
        match text.as_str() {
            "/exit" => return true,
            "/model" => {
                self.state = State::Menu("Select model");
                self.tell(&json!({"is": "menu", "name": "model"}));
            }
            "/resume" => {
                self.state = State::Menu("Resume session");
                self.tell(&json!({"is": "menu", "name": "resume"}));
            }
            "" => {}
            text if self.quirks.has("deaf") => self.note(&format!("took {text}")),
            text => self.prompt(text),
        }
        false
    }
}
