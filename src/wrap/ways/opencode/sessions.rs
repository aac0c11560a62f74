//! Which of opencode's sessions is the one on the screen, what it does, and which texts the model
//! has. Fed with the events of the server and the title of the terminal. Seen with opencode
//! 1.18.33.
//!
//! A server serves one program, so every session that is begun there is begun in our terminal. A
//! subagent's session has a parent. `/new` and `/sessions` are in no event, but in the title:
//! `OC | <the session's title>`, or `OpenCode` on the first screen and for a session without a
//! title.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::wrap::ways::transcript::ids_in;

/// What begins the terminal's title while a session is shown.
const TITLE: &str = "OC | ";
/// The terminal's title elsewhere.
const NO_TITLE: &str = "OpenCode";
/// What begins the title of a session that has none of its own yet.
const UNTITLED: &str = "New session";
/// What stands at the end of a title that was cut.
const CUT: &str = "...";

/// What happened in the session on the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SessionNews {
    /// A turn began or ended.
    Busy(bool),
    /// A dialog opened for this, or (`None`) was answered.
    Asks(Option<String>),
    /// The messages with these ids are in the model's context.
    Read(Vec<String>),
}

#[derive(Debug, Default)]
struct KnownSession {
    title: String,
    is_busy: bool,
    /// The agent (`build`, `plan`) and the model of the last prompt.
    settings: PromptSettings,
    /// Prompts that no answer was begun to, and the ids of the messages in them.
    prompts: BTreeMap<String, Vec<String>>,
}

/// What a prompt of the person's runs with; a prompt that says nothing of it would run with the
/// defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PromptSettings {
    pub(super) agent: Option<String>,
    /// Provider and model.
    pub(super) model: Option<(String, String)>,
}

/// Whether a session that was begun is on the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// It has no title yet, so the terminal's cannot tell.
    Unknown,
    /// The first screen is shown in its place.
    Hidden,
    /// It is shown, or the person chose another one.
    Settled,
}

/// The sessions of one server.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    known: BTreeMap<String, KnownSession>,
    current: Option<String>,
    is_first_screen: bool,
}

impl Sessions {
    /// The session on the screen.
    pub(super) fn current(&self) -> Option<&str> {
        self.current.as_deref()
    }

    /// The first screen is shown: the next prompt begins a session.
    pub(super) fn is_first_screen(&self) -> bool {
        self.is_first_screen && self.current.is_none()
    }

    /// This session is shown now.
    pub(super) fn shows(&mut self, id: &str) {
        self.known.entry(id.to_owned()).or_default();
        self.current = Some(id.to_owned());
    }

    /// Whether the session that was begun last is on the screen.
    pub(super) fn sight(&self, id: &str) -> Sight {
        let known = self.known.get(id);
        match known.filter(|_| self.current.as_deref() == Some(id)) {
            Some(known) if !known.has_title() => Sight::Unknown,
            Some(_) if self.is_first_screen => Sight::Hidden,
            _ => Sight::Settled,
        }
    }

    /// What the last prompt of this session ran with.
    pub(super) fn settings(&self, id: &str) -> PromptSettings {
        let known = self.known.get(id);
        known
            .map(|known| known.settings.clone())
            .unwrap_or_default()
    }

    /// Whether a turn runs in it.
    pub(super) fn is_busy(&self) -> bool {
        let current = self.current.as_ref().and_then(|id| self.known.get(id));
        current.is_some_and(|known| known.is_busy)
    }

    /// Whether a prompt that no answer was begun to holds messages with all these ids.
    pub(super) fn has_prompt(&self, ids: &[String]) -> bool {
        let mut prompts = self.known.values().flat_map(|known| known.prompts.values());
        prompts.any(|held| ids.iter().all(|id| held.contains(id)))
    }

    /// Records a session and its title.
    pub(super) fn learn(&mut self, session: &Value) {
        if let Some(id) = own_id(session) {
            let title = session["title"].as_str().unwrap_or_default();
            title.clone_into(&mut self.known.entry(id).or_default().title);
        }
    }

    /// The terminal's title says which session is shown. Ids of sessions
    /// sort newest first, so of several with one title the newest is found.
    pub(super) fn titled(&mut self, title: &str) {
        self.is_first_screen = title == NO_TITLE;
        if let Some(shown) = title.strip_prefix(TITLE) {
            let is_shown = |known: &KnownSession| match shown.strip_suffix(CUT) {
                Some(start) => known.title.starts_with(start),
                None => known.title == shown,
            };
            let current = self.current.as_ref().and_then(|id| self.known.get(id));
            if !current.is_some_and(is_shown) {
                let mut known = self.known.iter();
                let found = known.find(|(_, known)| is_shown(known));
                self.current = found.map(|(id, _)| id.clone());
            }
        } else if title == NO_TITLE {
            // A session that has no title yet has this one too.
            let current = self.current.as_ref().and_then(|id| self.known.get(id));
            if current.is_some_and(KnownSession::has_title) {
                self.current = None;
            }
        }
    }

    /// An event of the server.
    pub(super) fn happened(&mut self, event: &Value) -> Option<SessionNews> {
        let said = &event["properties"];
        let kind = event["type"].as_str()?;
        if kind == "session.created" {
            self.learn(&said["info"]);
            self.current = Some(own_id(&said["info"])?);
            return None;
        }
        let id = said["sessionID"].as_str()?;
        let is_current = self.current.as_deref() == Some(id);
        let known = self.known.get_mut(id)?;
        let news = match kind {
            "session.updated" => {
                let title = said["info"]["title"].as_str()?;
                title.clone_into(&mut known.title);
                return None;
            }
            "session.deleted" => {
                self.known.remove(id);
                self.current.take_if(|current| current == id);
                return None;
            }
            "session.status" => {
                known.is_busy = said["status"]["type"] != "idle";
                SessionNews::Busy(known.is_busy)
            }
            "permission.asked" => {
                let what = said["permission"].as_str().unwrap_or("permission");
                SessionNews::Asks(Some(what.to_owned()))
            }
            "question.asked" => SessionNews::Asks(Some("an answer".to_owned())),
            "permission.replied" | "question.replied" | "question.rejected" => {
                SessionNews::Asks(None)
            }
            "message.part.updated" => {
                let part = &said["part"];
                // An answer may quote a message; that proves nothing.
                if let Some(ids) = known.prompts.get_mut(part["messageID"].as_str()?) {
                    ids.extend(ids_in(part["text"].as_str().unwrap_or_default()));
                }
                return None;
            }
            "message.updated" => return known.message(&said["info"]),
            _ => return None,
        };
        is_current.then_some(news)
    }
}

impl KnownSession {
    /// It has one of its own, which the terminal shows.
    fn has_title(&self) -> bool {
        !self.title.is_empty() && !self.title.starts_with(UNTITLED)
    }

    /// A prompt, or an answer that was begun: what was said before that is in the model's context.
    fn message(&mut self, message: &Value) -> Option<SessionNews> {
        let id = message["id"].as_str()?;
        if message["role"] == "user" {
            self.settings = PromptSettings::of(message);
            self.prompts.entry(id.to_owned()).or_default();
            return None;
        }
        // Ids of messages sort oldest first, so what is not later than the prompt was said before
        // the answer.
        let prompt = message["parentID"].as_str()?;
        let later = self.prompts.split_off(&format!("{prompt}\0"));
        let read = std::mem::replace(&mut self.prompts, later);
        let read: Vec<String> = read.into_values().flatten().collect();
        (!read.is_empty()).then_some(SessionNews::Read(read))
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

/// The id of a session that is no subagent's.
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
        assert_eq!(sessions.happened(&created("s1", "New session - 1")), None);
        sessions
    }

    #[test]
    fn the_session_that_is_begun_is_shown_and_a_subagents_is_not() {
        let mut sessions = begun();
        let info = json!({"id": "s0", "parentID": "s1", "title": "sub"});
        sessions.happened(&event(
            "session.created",
            &json!({"sessionID": "s0", "info": info}),
        ));
        assert_eq!(sessions.current(), Some("s1"));
    }

    #[test]
    fn a_message_is_read_once_an_answer_to_it_or_to_a_later_prompt_is_begun() {
        let mut sessions = begun();
        assert_eq!(sessions.happened(&message("m1", "user", None)), None);
        assert_eq!(sessions.happened(&part("m1", LINE)), None);
        assert_eq!(
            sessions.happened(&message("m0", "assistant", Some("l9"))),
            None
        );
        let read = Some(SessionNews::Read(vec!["01".into()]));
        assert_eq!(
            sessions.happened(&message("m3", "assistant", Some("m2"))),
            read
        );
        assert_eq!(sessions.happened(&part("m3", LINE)), None);
        assert_eq!(
            sessions.happened(&message("m5", "assistant", Some("m4"))),
            None
        );
    }

    #[test]
    fn the_settings_of_the_last_prompt_are_known() {
        let mut sessions = begun();
        assert_eq!(sessions.settings("s1"), PromptSettings::default());
        let info = json!({"id": "m1", "role": "user", "agent": "plan",
            "model": {"providerID": "p", "modelID": "m"}});
        sessions.happened(&event(
            "message.updated",
            &json!({"sessionID": "s1", "info": info}),
        ));
        let (agent, model) = (Some("plan".into()), Some(("p".into(), "m".into())));
        assert_eq!(sessions.settings("s1"), PromptSettings { agent, model });
    }

    #[test]
    fn turns_and_dialogs_of_the_session_are_told() {
        let mut sessions = begun();
        assert_eq!(
            sessions.happened(&status("busy")),
            Some(SessionNews::Busy(true))
        );
        let asked = json!({"sessionID": "s1", "permission": "bash"});
        let asks = sessions.happened(&event("permission.asked", &asked));
        assert_eq!(asks, Some(SessionNews::Asks(Some("bash".into()))));
        let replied = sessions.happened(&event("permission.replied", &asked));
        assert_eq!(replied, Some(SessionNews::Asks(None)));
        assert!(sessions.is_busy());
        assert_eq!(
            sessions.happened(&status("idle")),
            Some(SessionNews::Busy(false))
        );
    }

    #[test]
    fn the_title_says_which_session_is_shown() {
        let mut sessions = begun();
        sessions.titled("OpenCode");
        assert_eq!(sessions.current(), Some("s1"), "it has no title yet");
        for (id, title) in [("s1", "Find a bug"), ("s2", "Write a long page about it")] {
            sessions.learn(&json!({"id": id, "title": title}));
        }
        sessions.titled("OC | Write a long...");
        assert_eq!(sessions.current(), Some("s2"));
        sessions.titled("OpenCode");
        assert_eq!(sessions.current(), None, "the person left it");
        assert!(sessions.is_first_screen());
        sessions.titled("OC | Find a bug");
        assert_eq!(sessions.current(), Some("s1"));
        sessions.titled("OC | Something else");
        assert_eq!(sessions.current(), None);
        assert!(!sessions.is_first_screen());
    }
}
