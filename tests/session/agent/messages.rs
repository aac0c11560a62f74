//! Messages that reach the fake agent without a key, and what becomes of them in each state.
//!
//! Relies on the agent's state.

use std::time::Instant;

use serde_json::json;

use super::{Agent, Happening, State};

/// How a text came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A background hook ended with it.
    Reminder,
    /// The inbox socket; `is_next`: it may come between two tools.
    Inbox { is_next: bool },
    /// The plugin submitted it under this key.
    Plugin(u64),
}

impl Source {
    /// What the log calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Reminder => "reminder",
            Self::Inbox { .. } => "inbox",
            Self::Plugin(_) => "plugin",
        }
    }
}

const STOPPED: &str = "the session was stopped and nobody has sent input since";
const REMOVED: &str = "the session was stopped, and this was removed from the queue before it ran";
const UNBOUND: &str = "no session is bound";

impl Agent {
    /// A text came; it waits until the agent takes it.
    pub(super) fn receive(&mut self, happening: Happening) {
        match happening {
            Happening::Reminder(text) => {
                self.hooks.enqueue(&text);
                self.note(&format!("accepted {text}"));
                self.waiting.push_back((Source::Reminder, text));
            }
            Happening::Inbox { text, .. } if self.quirks.has("belated") => {
                self.note(&format!("belated {}", unwrapped(&text)));
                if !std::mem::replace(&mut self.is_belated, true) {
                    let when = self.stage.join("row");
                    self.hooks.transcribe_later(&unwrapped(&text), when);
                }
            }
            Happening::Inbox { text, is_next } => {
                self.hooks.enqueue_from_inbox();
                let text = unwrapped(&text);
                self.note(&format!("accepted {text}"));
                self.waiting.push_back((Source::Inbox { is_next }, text));
            }
            Happening::Held(text) => {
                self.note(&format!("held {}", unwrapped(&text)));
                self.state = State::Held;
            }
            Happening::Submit { key, text } => self.submit(key, text),
            Happening::Bytes(_) | Happening::Closed => {}
        }
    }

    fn submit(&mut self, key: u64, text: String) {
        self.note(&format!("asked to submit {text}"));
        if self.moved.is_some() {
            self.tell(&json!({"is": "failed", "key": key, "why": UNBOUND}));
        } else if self.is_stopped {
            self.tell(&json!({"is": "dropped", "key": key, "why": STOPPED}));
        } else if self.refuses(&text) {
            self.transcribe_refusal(&text);
            self.tell(&json!({"is": "dropped", "key": key, "why": "a hook blocked it"}));
        } else {
            self.waiting.push_back((Source::Plugin(key), text));
        }
    }

    /// A hook of the person's refuses this prompt.
    pub(super) fn refuses(&self, text: &str) -> bool {
        self.quirks.has("refuse") && text.contains("REFUSE")
    }

    /// The transcript says that a hook of the person's refused this prompt.
    pub(super) fn transcribe_refusal(&self, text: &str) {
        if !self.quirks.has("untold") {
            self.hooks.transcribe_refusal(text);
        }
    }

    /// Escape ended the turn: what the plugin submitted meanwhile is dropped.
    pub(super) fn stop(&mut self) {
        self.is_stopped = self.plugin.is_some();
        self.tell(&json!({"is": "stopped"}));
        let waiting = std::mem::take(&mut self.waiting);
        for (source, text) in waiting {
            match source {
                Source::Plugin(key) => {
                    self.tell(&json!({"is": "dropped", "key": key, "why": REMOVED}));
                }
                source => self.waiting.push_back((source, text)),
            }
        }
    }

    /// Takes what waits, where the agent is free.
    pub(super) fn take_waiting(&mut self) {
        if !matches!(self.state, State::Idle) || self.moved.is_some() {
            return;
        }
        let Some((source, text)) = self.waiting.pop_front() else {
            return;
        };
        if self.quirks.has("deaf") {
            return self.note(&format!("took {text}"));
        }
        if !matches!(source, Source::Plugin(_)) {
            self.hooks.dequeue();
        }
        if self.refuses(&text) {
            self.note(&format!("refused {text}"));
            self.transcribe_refusal(&text);
            return self.hooks.run("UserPromptSubmit", &[("prompt", &text)]);
        }
        match source {
            Source::Plugin(_) => self.hooks.transcribe_plugins(&text),
            _ => self.hooks.transcribe(&text),
        }
        self.note(&format!("{} {text}", source.name()));
        if let Source::Plugin(key) = source {
            let transcript = self.hooks.transcript().to_owned();
            self.tell(&json!({"is": "submitted", "key": key, "transcript": transcript}));
        }
        self.begin_turn(&text);
    }

    /// A tool ended in a running turn: what may come between two tools comes now.
    pub(super) fn take_between_tools(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        for (source, text) in waiting {
            if source == (Source::Inbox { is_next: true }) {
                self.hooks.dequeue();
                self.hooks.transcribe_between_tools(&text);
                self.note(&format!("between tools {text}"));
            } else {
                self.waiting.push_back((source, text));
            }
        }
    }

    /// The next time at which something happens by itself.
    pub(super) fn due(&self) -> Option<Instant> {
        match &self.state {
            State::Turn { until, tool } => Some(tool.map_or(*until, |tool| tool.min(*until))),
            _ => None,
        }
    }

    /// Tells the plugin's session of an event.
    pub(super) fn tell(&mut self, event: &serde_json::Value) {
        if let Some(plugin) = &mut self.plugin {
            plugin.say(event);
        }
    }
}

/// The text in the element that a line of the inbox holds.
pub(super) fn unwrapped(content: &str) -> String {
    let inside = content
        .split_once(">\n")
        .and_then(|(_, rest)| rest.strip_suffix("\n</cross-session-message>"));
    inside.unwrap_or(content).to_owned()
}
