//! Tracks which of opencode's sessions is on the screen, what it does, and which texts the model
//! has, from the server's events and the terminal's title. Seen with opencode 1.18.33.
//!
//! A server serves one program, so every session begins in this terminal. A subagent's session has
//! a parent. `/new` and `/sessions` cause no event but change the title: `OC | <the session's
//! title>`, or `OpenCode` on the first screen and for a session without a title. If several
//! sessions have the title that is shown, a switch between them cannot be detected: the session
//! with the last prompt counts as shown, although another one may be on the screen.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::wrap::ways::transcript::ids_in;

/// The prefix of the terminal's title while a session is shown.
const TITLE: &str = "OC | ";
/// The terminal's title on the first screen.
const NO_TITLE: &str = "OpenCode";
/// The prefix of the default title of a session.
const UNTITLED: &str = "New session";
/// The end of a title that was cut.
const CUT: &str = "...";

/// An event of the session on the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SessionEvent {
    /// A turn began or ended.
    Busy(bool),
    /// A dialog opened for this, or was answered (`None`).
    Asks(Option<String>),
    /// The messages with these ids are in the model's context.
    Read(Vec<String>),
    /// This session was deleted.
    Deleted(String),
}

#[derive(Debug, Default)]
struct KnownSession {
    title: String,
    is_busy: bool,
    /// What its dialog asks the person.
    asks: Option<String>,
    /// The agent (`build`, `plan`) and the model of the last prompt.
    settings: PromptSettings,
    /// Prompts without an answer, and the ids of the messages in them.
    prompts: BTreeMap<String, Vec<String>>,
    /// The id of the last prompt.
    last_prompt: String,
}

/// The agent and the model of the person's prompts. A prompt that does not name them would run with
/// the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PromptSettings {
    pub(super) agent: Option<String>,
    /// Provider and model.
    pub(super) model: Option<(String, String)>,
}

/// Whether a session that cbroker began is on the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visibility {
    /// It has no title yet, so the terminal's title does not tell.
    Unknown,
    /// The first screen is shown instead.
    Hidden,
    /// It is shown, or the person chose another one.
    Settled,
}

/// The sessions of one server.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    known: BTreeMap<String, KnownSession>,
    current: Option<String>,
    /// The session's title in the terminal's title.
    shown: Option<String>,
    is_first_screen: bool,
}

impl Sessions {
    /// The session on the screen.
    pub(super) fn current(&self) -> Option<&str> {
        self.current.as_deref()
    }

    /// Whether the first screen is shown, where the next prompt begins a session.
    pub(super) fn is_first_screen(&self) -> bool {
        self.is_first_screen && self.current.is_none()
    }

    /// Records that this session is shown now.
    pub(super) fn set_current(&mut self, id: &str) {
        self.known.entry(id.to_owned()).or_default();
        self.current = Some(id.to_owned());
    }

    /// Whether the session that cbroker began last is on the screen.
    pub(super) fn visibility(&self, id: &str) -> Visibility {
        let known = self.known.get(id);
        match known.filter(|_| self.current.as_deref() == Some(id)) {
            Some(known) if !known.has_title() => Visibility::Unknown,
            Some(_) if self.is_first_screen => Visibility::Hidden,
            _ => Visibility::Settled,
        }
    }

    /// Whether another screen with the same title may be shown instead of this session: the first
    /// one, if it has no title, or a session of its title.
    pub(super) fn may_be_hidden(&self, id: &str) -> bool {
        let is_like_first = self.is_first_screen && self.visibility(id) == Visibility::Unknown;
        is_like_first || self.with_shown_title().len() > 1
    }

    /// The settings of the last prompt of this session.
    pub(super) fn settings(&self, id: &str) -> PromptSettings {
        let known = self.known.get(id);
        known
            .map(|known| known.settings.clone())
            .unwrap_or_default()
    }

    /// Whether a turn runs in the session on the screen.
    pub(super) fn is_busy(&self) -> bool {
        let current = self.current.as_ref().and_then(|id| self.known.get(id));
        current.is_some_and(|known| known.is_busy)
    }

    /// What the dialog of the session on the screen asks the person.
    pub(super) fn asks(&self) -> Option<String> {
        let current = self.current.as_ref().and_then(|id| self.known.get(id));
        current?.asks.clone()
    }

    /// The session in which a prompt without an answer holds messages with all these ids.
    pub(super) fn with_prompt(&self, ids: &[String]) -> Option<String> {
        let holds_all = |held: &Vec<String>| ids.iter().all(|id| held.contains(id));
        let mut known = self.known.iter();
        let found = known.find(|(_, known)| known.prompts.values().any(holds_all));
        found.map(|(id, _)| id.clone())
    }

    /// Records a session and its title.
    pub(super) fn record(&mut self, session: &Value) {
        self.record_all(std::iter::once(session));
    }

    /// Records all these before one of them may count as the only one of its title.
    pub(super) fn record_all<'a>(&mut self, sessions: impl Iterator<Item = &'a Value>) {
        for session in sessions {
            if let Some(id) = own_id(session) {
                let title = session["title"].as_str().unwrap_or_default();
                title.clone_into(&mut self.known.entry(id).or_default().title);
            }
        }
        self.handle_change();
    }

    /// Handles the terminal's title, which names the session that is shown.
    pub(super) fn handle_title(&mut self, title: &str) {
        self.is_first_screen = title == NO_TITLE;
        self.shown = title.strip_prefix(TITLE).map(str::to_owned);
        if self.shown.is_some() {
            let current = self.current.as_deref();
            let is_shown = current.is_some_and(|id| self.with_shown_title().contains(&id));
            if !is_shown {
                self.current = self.only_one_shown();
            }
        } else if title == NO_TITLE {
            // A session without a title has this one too.
            let current = self.current.as_ref().and_then(|id| self.known.get(id));
            if current.is_some_and(KnownSession::has_title) {
                self.current = None;
            }
        }
    }

    /// Handles a change of the known titles. The terminal shows the new title of its session a
    /// moment later, so the session stays.
    fn handle_change(&mut self) {
        if self.current.is_none() {
            self.current = self.only_one_shown();
        }
    }

    /// The session whose title is shown, if there is only one.
    fn only_one_shown(&self) -> Option<String> {
        match self.with_shown_title().as_slice() {
            [one] => Some((*one).to_owned()),
            _ => None,
        }
    }

    /// Handles a prompt in this session: the person sent it from the screen, or this way did.
    fn handle_prompt(&mut self, id: &str) {
        if self.with_shown_title().contains(&id) {
            self.current = Some(id.to_owned());
        }
    }

    /// The sessions whose title is shown.
    fn with_shown_title(&self) -> Vec<&str> {
        let Some(shown) = &self.shown else {
            return Vec::new();
        };
        let is_shown = |known: &KnownSession| match shown.strip_suffix(CUT) {
            Some(start) => known.title.starts_with(start),
            None => known.title == *shown,
        };
        let fitting = self.known.iter().filter(|(_, known)| is_shown(known));
        fitting.map(|(id, _)| id.as_str()).collect()
    }

    /// Handles an event of the server.
    pub(super) fn handle_event(&mut self, event: &Value) -> Option<SessionEvent> {
        let properties = &event["properties"];
        let kind = event["type"].as_str()?;
        if kind == "session.created" {
            self.record(&properties["info"]);
            self.current = Some(own_id(&properties["info"])?);
            return None;
        }
        let id = properties["sessionID"].as_str()?;
        let is_current = self.current.as_deref() == Some(id);
        let known = self.known.get_mut(id)?;
        let session_event = match kind {
            "session.updated" => {
                let title = properties["info"]["title"].as_str()?;
                title.clone_into(&mut known.title);
                self.handle_change();
                return None;
            }
            "session.deleted" => {
                self.known.remove(id);
                self.current.take_if(|current| current == id);
                self.handle_change();
                return Some(SessionEvent::Deleted(id.to_owned()));
            }
            "session.status" => {
                known.is_busy = properties["status"]["type"] != "idle";
                SessionEvent::Busy(known.is_busy)
            }
            "permission.asked" => {
                let what = properties["permission"].as_str().unwrap_or("permission");
                known.set_asks(Some(what))
            }
            "question.asked" => known.set_asks(Some("an answer")),
            "permission.replied" | "question.replied" | "question.rejected" => known.set_asks(None),
            "message.part.updated" => {
                let part = &properties["part"];
                // An answer may quote a message; that proves nothing.
                if let Some(ids) = known.prompts.get_mut(part["messageID"].as_str()?) {
                    ids.extend(ids_in(part["text"].as_str().unwrap_or_default()));
                }
                return None;
            }
            "message.updated" => {
                let is_new = known.is_new_prompt(&properties["info"]);
                let session_event = known.message(&properties["info"]);
                if is_new {
                    self.handle_prompt(id);
                }
                return session_event;
            }
            _ => return None,
        };
        is_current.then_some(session_event)
    }
}

impl KnownSession {
    fn set_asks(&mut self, asks: Option<&str>) -> SessionEvent {
        self.asks = asks.map(str::to_owned);
        SessionEvent::Asks(self.asks.clone())
    }

    /// Whether it has a title other than the default, which the terminal shows.
    fn has_title(&self) -> bool {
        !self.title.is_empty() && !self.title.starts_with(UNTITLED)
    }

    /// Whether the message is a prompt that was not seen. opencode announces old ones again, as
    /// when their turn is summed up. Ids of messages sort oldest first.
    fn is_new_prompt(&self, message: &Value) -> bool {
        let is_newer = |id: &str| id > self.last_prompt.as_str();
        message["role"] == "user" && message["id"].as_str().is_some_and(is_newer)
    }

    /// Handles a prompt, or the beginning of an answer: all earlier prompts are in the model's
    /// context then.
    fn message(&mut self, message: &Value) -> Option<SessionEvent> {
        let id = message["id"].as_str()?;
        if message["role"] == "user" {
            if self.is_new_prompt(message) {
                self.settings = PromptSettings::of(message);
                self.prompts.entry(id.to_owned()).or_default();
                id.clone_into(&mut self.last_prompt);
            }
            return None;
        }
        // Prompts are sorted oldest first too, so those up to the answered one precede the answer.
        let prompt = message["parentID"].as_str()?;
        let later = self.prompts.split_off(&format!("{prompt}\0"));
        let read = std::mem::replace(&mut self.prompts, later);
        let read: Vec<String> = read.into_values().flatten().collect();
        (!read.is_empty()).then_some(SessionEvent::Read(read))
    }
}

impl PromptSettings {
    fn of(prompt: &Value) -> Self {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let model = &prompt["model"];
        Self {
            agent: text(&prompt["agent"]),
            model: text(&model["providerID"]).zip(text(&model["modelID"])),
        }
    }
}

/// The id of a session, unless it is a subagent's.
fn own_id(session: &Value) -> Option<String> {
    let is_own = session["parentID"].is_null();
    session["id"].as_str().filter(|_| is_own).map(str::to_owned)
}

#[cfg(test)]
mod tests;
