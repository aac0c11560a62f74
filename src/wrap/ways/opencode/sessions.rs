//! Tracks which of opencode's sessions is on the screen, what it does, and which texts the model
//! has, from the server's events and the terminal's title. Seen with opencode 1.18.33.
//!
//! A server serves one program, so every session begins in this terminal. A subagent's session has
//! a parent. `/new` and `/sessions` cause no event but change the title: `OC | <the session's
//! title>`, or `OpenCode` on the first screen and for a session without a title. If several
//! sessions have the title that is shown, a switch between them changes nothing that is seen here:
//! then the one with the last prompt counts as shown, and may be hidden.

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
    /// The agent (`build`, `plan`) and the model of the last prompt.
    settings: PromptSettings,
    /// Prompts without an answer, and the ids of the messages in them.
    prompts: BTreeMap<String, Vec<String>>,
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

    /// The session in which a prompt without an answer holds messages with all these ids.
    pub(super) fn with_prompt(&self, ids: &[String]) -> Option<String> {
        let holds_all = |held: &Vec<String>| ids.iter().all(|id| held.contains(id));
        let mut known = self.known.iter();
        let found = known.find(|(_, known)| known.prompts.values().any(holds_all));
        found.map(|(id, _)| id.clone())
    }

    /// Records a session and its title.
    pub(super) fn record(&mut self, session: &Value) {
        if let Some(id) = own_id(session) {
            let title = session["title"].as_str().unwrap_or_default();
            title.clone_into(&mut self.known.entry(id).or_default().title);
            self.handle_change();
        }
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
                SessionEvent::Asks(Some(what.to_owned()))
            }
            "question.asked" => SessionEvent::Asks(Some("an answer".to_owned())),
            "permission.replied" | "question.replied" | "question.rejected" => {
                SessionEvent::Asks(None)
            }
            "message.part.updated" => {
                let part = &properties["part"];
                // An answer may quote a message; that proves nothing.
                if let Some(ids) = known.prompts.get_mut(part["messageID"].as_str()?) {
                    ids.extend(ids_in(part["text"].as_str().unwrap_or_default()));
                }
                return None;
            }
            "message.updated" => {
                let session_event = known.message(&properties["info"]);
                if properties["info"]["role"] == "user" {
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
    /// Whether it has a title other than the default, which the terminal shows.
    fn has_title(&self) -> bool {
        !self.title.is_empty() && !self.title.starts_with(UNTITLED)
    }

    /// Handles a prompt, or the beginning of an answer: all earlier prompts are in the model's
    /// context then.
    fn message(&mut self, message: &Value) -> Option<SessionEvent> {
        let id = message["id"].as_str()?;
        if message["role"] == "user" {
            self.settings = PromptSettings::of(message);
            self.prompts.entry(id.to_owned()).or_default();
            return None;
        }
        // Ids of messages sort oldest first, so prompts up to the answered one precede the answer.
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
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    const LINE: &str = "[cbroker peer message from=a id=01] look [end]";

    fn event(kind: &str, properties: &Value) -> Value {
        json!({"type": kind, "properties": properties})
    }

    fn created(id: &str, title: &str) -> Value {
        event(
            "session.created",
            &json!({"sessionID": id, "info": {"id": id, "title": title}}),
        )
    }

    fn message(id: &str, role: &str, parent: Option<&str>) -> Value {
        let info = json!({"id": id, "role": role, "parentID": parent});
        event("message.updated", &json!({"sessionID": "s1", "info": info}))
    }

    fn part(message: &str, text: &str) -> Value {
        let part = json!({"type": "text", "messageID": message, "text": text});
        event(
            "message.part.updated",
            &json!({"sessionID": "s1", "part": part}),
        )
    }

    fn status(kind: &str) -> Value {
        event(
            "session.status",
            &json!({"sessionID": "s1", "status": {"type": kind}}),
        )
    }

    fn begun() -> Sessions {
        let mut sessions = Sessions::default();
        assert_eq!(
            sessions.handle_event(&created("s1", "New session - 1")),
            None
        );
        sessions
    }

    #[test]
    fn the_session_that_is_begun_is_shown_and_a_subagents_is_not() {
        let mut sessions = begun();
        let info = json!({"id": "s0", "parentID": "s1", "title": "sub"});
        sessions.handle_event(&event(
            "session.created",
            &json!({"sessionID": "s0", "info": info}),
        ));
        assert_eq!(sessions.current(), Some("s1"));
    }

    #[test]
    fn a_message_is_read_once_an_answer_to_it_or_to_a_later_prompt_is_begun() {
        let mut sessions = begun();
        assert_eq!(sessions.handle_event(&message("m1", "user", None)), None);
        assert_eq!(sessions.handle_event(&part("m1", LINE)), None);
        assert_eq!(
            sessions.handle_event(&message("m0", "assistant", Some("l9"))),
            None
        );
        let read = Some(SessionEvent::Read(vec!["01".into()]));
        assert_eq!(
            sessions.handle_event(&message("m3", "assistant", Some("m2"))),
            read
        );
        assert_eq!(sessions.handle_event(&part("m3", LINE)), None);
        assert_eq!(
            sessions.handle_event(&message("m5", "assistant", Some("m4"))),
            None
        );
    }

    #[test]
    fn the_settings_of_the_last_prompt_are_known() {
        let mut sessions = begun();
        assert_eq!(sessions.settings("s1"), PromptSettings::default());
        let info = json!({"id": "m1", "role": "user", "agent": "plan",
            "model": {"providerID": "p", "modelID": "m"}});
        sessions.handle_event(&event(
            "message.updated",
            &json!({"sessionID": "s1", "info": info}),
        ));
        let (agent, model) = (Some("plan".into()), Some(("p".into(), "m".into())));
        assert_eq!(sessions.settings("s1"), PromptSettings { agent, model });
    }

    #[test]
    fn turns_and_dialogs_of_the_session_are_reported() {
        let mut sessions = begun();
        assert_eq!(
            sessions.handle_event(&status("busy")),
            Some(SessionEvent::Busy(true))
        );
        let asked = json!({"sessionID": "s1", "permission": "bash"});
        let asks = sessions.handle_event(&event("permission.asked", &asked));
        assert_eq!(asks, Some(SessionEvent::Asks(Some("bash".into()))));
        let replied = sessions.handle_event(&event("permission.replied", &asked));
        assert_eq!(replied, Some(SessionEvent::Asks(None)));
        assert!(sessions.is_busy());
        assert_eq!(
            sessions.handle_event(&status("idle")),
            Some(SessionEvent::Busy(false))
        );
    }

    #[test]
    fn the_title_names_the_session_on_the_screen() {
        let mut sessions = begun();
        sessions.handle_title("OpenCode");
        assert_eq!(sessions.current(), Some("s1"), "it has no title yet");
        for (id, title) in [("s1", "Find a bug"), ("s2", "Write a long page about it")] {
            sessions.record(&json!({"id": id, "title": title}));
        }
        sessions.handle_title("OC | Write a long...");
        assert_eq!(sessions.current(), Some("s2"));
        sessions.handle_title("OpenCode");
        assert_eq!(sessions.current(), None, "the person left it");
        assert!(sessions.is_first_screen());
        sessions.handle_title("OC | Find a bug");
        assert_eq!(sessions.current(), Some("s1"));
        sessions.handle_title("OC | Something else");
        assert_eq!(sessions.current(), None);
        assert!(!sessions.is_first_screen());
    }

    fn titled(id: &str, title: &str) -> Value {
        let info = json!({"id": id, "title": title});
        event("session.updated", &json!({"sessionID": id, "info": info}))
    }

    #[test]
    fn of_sessions_with_one_title_the_one_with_the_last_prompt_counts_as_shown() {
        let mut sessions = begun();
        for id in ["s1", "s0"] {
            sessions.record(&json!({"id": id, "title": "Find a bug"}));
        }
        sessions.handle_title("OC | Find a bug");
        assert_eq!(sessions.current(), Some("s1"));
        assert!(sessions.may_be_hidden("s1"));
        sessions.handle_event(&titled("s0", "Another"));
        assert!(!sessions.may_be_hidden("s1"));
        sessions.handle_event(&titled("s0", "Find a bug"));
        // The person may have chosen either.
        sessions.handle_title("OC | Something else");
        sessions.handle_title("OC | Find a bug");
        assert_eq!(sessions.current(), None);
        sessions.handle_event(&message("m1", "user", None));
        assert_eq!(sessions.current(), Some("s1"));
        sessions.handle_title("OC | Something else");
        sessions.handle_title("OC | Find a bug");
        let deleted = event("session.deleted", &json!({"sessionID": "s0"}));
        let reported = sessions.handle_event(&deleted);
        assert_eq!(reported, Some(SessionEvent::Deleted("s0".into())));
        assert_eq!(sessions.current(), Some("s1"));
        assert!(!sessions.may_be_hidden("s1"));
    }

    #[test]
    fn a_new_title_may_be_seen_in_the_terminal_before_its_event_and_after_it() {
        let mut sessions = begun();
        sessions.handle_event(&titled("s1", "One"));
        sessions.handle_title("OC | One");
        sessions.handle_event(&titled("s1", "Two"));
        assert_eq!(sessions.current(), Some("s1"));
        sessions.handle_title("OC | Two");
        assert_eq!(sessions.current(), Some("s1"));
        sessions.handle_title("OC | Three");
        assert_eq!(sessions.current(), None);
        sessions.handle_event(&titled("s1", "Three"));
        assert_eq!(sessions.current(), Some("s1"));
    }
}
