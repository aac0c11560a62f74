//! One word for each state: the page says what `cbroker history` and `cbroker list` say.

use std::fs;

use cbroker::peer::PeerState;
use serde_json::{Value, json};

use crate::archive::page;
use crate::browser::{DESK, card, signed_in, text};
use crate::fixture;
use crate::peers::{Peer, presence_holding};
use crate::support::{Place, Server};

/// What may have become of a message, with a reason or a way where there is one.
const ENDS: [(&str, &str); 16] = [
    ("sent", ""),
    ("confirmed", ""),
    ("received", ""),
    ("requeued", ""),
    ("held", "permission for Bash"),
    ("handed-over", "plugin"),
    ("delivered", ""),
    ("delivered", "hook"),
    ("answered", ""),
    ("dead-lettered", "`from` is missing"),
    ("deleted", ""),
    ("purged", ""),
    ("expired", ""),
    ("dropped", ""),
    ("returned", "no queue accepts it"),
    ("unconfirmed", ""),
];

/// A history with a message of each end.
fn write_history(place: &Place) {
    let line = |number: usize, event: &str, more: Value| {
        let mut line = json!({
            "ts": format!("2026-01-01T00:00:{number:02}.000Z"), "id": format!("01STATE{number:02}"),
            "event": event, "session": "backend",
        });
        let (line_fields, more) = (line.as_object_mut().unwrap(), more.as_object().unwrap());
        line_fields.extend(more.clone());
        format!("{line}\n")
    };
    let mut history = String::new();
    for (number, (event, detail)) in ENDS.iter().enumerate() {
        let said = json!({ "message": { "from": "frontend", "text": event } });
        history += &line(number, "sent", said);
        let detail = match *detail {
            "" => json!({}),
            detail => json!({ "detail": detail }),
        };
        history += &line(number, event, detail);
    }
    let logs = place.home().join("logs");
    fs::create_dir_all(&logs).unwrap();
    fs::write(logs.join("messages.jsonl"), history).unwrap();
}

#[test]
fn a_message_is_called_on_the_page_what_the_history_calls_it() {
    let place = Place::new();
    let _server = Server::start(&place);
    write_history(&place);
    let Some(browser) = page(&place) else { return };
    browser.press("2");
    let history = place.ok(["history"]);
    for (number, (event, _)) in ENDS.iter().enumerate() {
        let id = format!("01STATE{number:02}");
        let pill = text(&id, ".pill");
        browser.until(&format!("{pill} !== ''"));
        let shown = browser.value(&pill);
        let shown = shown.as_str().unwrap();
        let told = format!(" backend {shown} {}\n", &id[id.len() - 6..]);
        assert!(history.contains(&told), "{event}: {told} in {history}");
    }
}

#[test]
fn a_session_is_called_on_the_page_what_the_list_calls_it() {
    let server = fixture::Server::start();
    let peer = Peer::connect(&server);
    let states = [
        "starting",
        "idle",
        "busy",
        "needs-you",
        "draft",
        "stuck",
        "paused",
        "notify",
    ];
    let name = |state: &str| state.replace('-', "");
    for state in states {
        peer.declare_session(&name(state));
    }
    let _attached = states.map(|state| peer.attach(&name(state)));
    let Some(browser) = signed_in(&server, &DESK) else {
        return;
    };
    for state in states {
        let presence = presence_holding(&name(state), state, None, 0);
        peer.publish_as_user("claudeBroker.presence", "", &presence);
    }
    for state in states {
        let known: PeerState = serde_json::from_value(json!(state)).unwrap();
        let pill = card(&name(state), ".pill");
        browser.until(&format!("{pill}.toLowerCase() === {}", json!(known.word())));
        browser.click(&format!("article[data-key={}] .open", name(state)));
        let line = "(document.querySelector('#look-body .rest > .muted')?.textContent ?? '')";
        browser.until(&format!(
            "{line}.endsWith({})",
            json!(format!(", {}", known.word()))
        ));
        browser.click("#look [data-close]");
        browser.until("!document.getElementById('look').open");
    }
}
