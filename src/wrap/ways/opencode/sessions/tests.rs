//! Sessions by events and titles as opencode 1.18.33 sends them.

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
fn a_dialog_stays_known_while_another_session_is_shown() {
    let mut sessions = begun();
    sessions.handle_event(&titled("s1", "Find a bug"));
    sessions.handle_title("OC | Find a bug");
    sessions.handle_title("OC | Something else");
    let asked = json!({"sessionID": "s1", "permission": "bash"});
    let hidden = sessions.handle_event(&event("permission.asked", &asked));
    assert_eq!((hidden, sessions.asks()), (None, None));
    sessions.handle_title("OC | Find a bug");
    assert_eq!(sessions.asks().as_deref(), Some("bash"));
    sessions.handle_title("OC | Something else");
    sessions.handle_event(&event("permission.replied", &asked));
    sessions.handle_title("OC | Find a bug");
    assert_eq!(sessions.asks(), None);
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
fn an_old_prompt_that_is_announced_again_does_not_change_the_session() {
    let prompt = |session: &str, id: &str, agent: &str| {
        let info = json!({"id": id, "role": "user", "agent": agent});
        event(
            "message.updated",
            &json!({"sessionID": session, "info": info}),
        )
    };
    let mut sessions = begun();
    for id in ["s1", "s0"] {
        sessions.record(&json!({"id": id, "title": "Find a bug"}));
    }
    sessions.handle_title("OC | Find a bug");
    sessions.handle_event(&prompt("s1", "m1", "plan"));
    sessions.handle_event(&prompt("s1", "m2", "build"));
    sessions.handle_event(&prompt("s0", "m3", "build"));
    assert_eq!(sessions.current(), Some("s0"));
    sessions.handle_event(&prompt("s1", "m1", "plan"));
    assert_eq!(sessions.current(), Some("s0"));
    assert_eq!(sessions.settings("s1").agent.as_deref(), Some("build"));
}

#[test]
fn none_of_the_listed_sessions_of_one_title_counts_as_shown() {
    let listed = ["s1", "s0"].map(|id| json!({"id": id, "title": "Find a bug"}));
    let mut sessions = Sessions::default();
    sessions.handle_title("OC | Find a bug");
    sessions.record_all(listed.iter());
    assert_eq!(sessions.current(), None);
    sessions.handle_title("OC | Find a bug");
    assert_eq!(sessions.current(), None);
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
