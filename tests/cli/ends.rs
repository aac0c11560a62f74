//! Messages that end in the broker itself, without a command and without a session: the history
//! says how, and so does a sender that waits.

use serde_json::json;

use crate::background_broker::api;
use crate::client;
use crate::support::{Place, Server, wait_until};

/// What the history says became of the first message to a session.
fn state(place: &Place, name: &str) -> String {
    let history = place.json(["history", name]);
    let first = history.first().map(|message| message["state"].clone());
    first.map_or_else(String::new, |state| state.as_str().unwrap().to_owned())
}

fn ends(place: &Place, name: &str, end: &str) {
    wait_until(
        || state(place, name) == end,
        || format!("{name}: {}", state(place, name)),
    );
}

#[test]
fn the_history_says_how_a_message_ended_that_nobody_took() {
    let place = Place::new();
    let mut server = Server::start(&place);
    place.ok(["send", "brief", "x", "--ttl", "300"]);
    ends(&place, "brief", "expired");

    for (name, path, end) in [
        ("emptied", "/api/queues/%2F/emptied/contents", "purged"),
        ("gone", "/api/queues/%2F/gone", "deleted"),
    ] {
        place.ok(["send", name, "x"]);
        assert_eq!(state(&place, name), "queued");
        let answer = server.ask(&place, "DELETE", path, "");
        assert_eq!(answer.status, 204, "{answer:?}");
        ends(&place, name, end);
    }

    place.ok(["send", "full", "the oldest"]);
    client::publish(&place, "full", (0..1000).map(|number| number.to_string()));
    ends(&place, "full", "dropped");

    // One whose time passes while no broker runs.
    place.ok(["send", "meanwhile", "x", "--ttl", "1000"]);
    server.kill();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let _server = Server::start(&place);
    ends(&place, "meanwhile", "expired");
    let shown = place.ok(["history"]);
    for end in [
        "expired",
        "purged",
        "deleted with its queue",
        "dropped: the queue was full",
    ] {
        assert!(shown.contains(&format!(" {end} ")), "{end}: {shown}");
    }
}

#[test]
fn the_end_of_another_users_message_ends_no_message_of_the_user() {
    let place = Place::new();
    let server = Server::start(&place);
    place.ok(["send", "peer", "mine"]);
    let id = place.json(["history", "peer"])[0]["id"].clone();
    let forged = json!({
        "id": id, "from": "peer", "to": "peer", "ts": "2026-01-01T00:00:00.000Z", "message": "x",
    });
    let order = json!({
        "routing_key": "peer", "payload": forged.to_string(), "payload_encoding": "string",
        "properties": { "expiration": "0" },
    });
    // Its time is over once it is at the head of the queue.
    api(&place, "exchanges/%2f/claudeBroker/publish", &order);
    let taken = place.json(["tail", "peer", "-n", "1"]).remove(0);
    assert_eq!(taken["message"], "mine");
    let story = || place.json(["why", id.as_str().unwrap()]).remove(0);
    let events = |whose: bool| -> Vec<String> {
        let story = story();
        let entries = story.as_array().unwrap().iter();
        entries
            .filter(|entry| entry["publisher"].is_null() == whose)
            .map(|entry| entry["event"].as_str().unwrap().to_owned())
            .collect()
    };
    wait_until(|| events(false) == ["expired"], || format!("{:?}", story()));
    assert_eq!(events(true), ["sent", "confirmed"]);
    assert_eq!(state(&place, "peer"), "queued");
    drop(server);
}

#[test]
fn the_history_names_the_state_of_a_message_and_not_its_last_event() {
    // A waiting message was `confirmed` here, and `queued` on the page and in `inbox`.
    let place = Place::new();
    let _server = Server::start(&place);
    let logs = place.home().join("logs");
    std::fs::create_dir_all(&logs).unwrap();
    let events = [
        ("sent", None, "unconfirmed", "not confirmed"),
        ("delivered", Some("hook"), "delivered", "delivered (hook)"),
        ("confirmed", None, "queued", "queued"),
        ("received", None, "queued", "queued"),
        ("requeued", None, "queued", "queued"),
        ("repeated", None, "delivered", "delivered"),
        (
            "handed-over",
            Some("hook"),
            "handed-over",
            "handed over (hook)",
        ),
    ];
    let line = |id: &str, event: &str, detail: Option<&str>, said: &serde_json::Value| {
        let line = json!({
            "ts": "2026-01-01T00:00:00.000Z", "id": id, "event": event, "session": "backend",
            "detail": detail, "message": said,
        });
        format!("{line}\n")
    };
    let mut history = String::new();
    for (event, detail, _, _) in events {
        let said = json!({ "from": "frontend", "text": event });
        history += &line(event, "sent", None, &said);
        history += &line(event, event, detail, &serde_json::Value::Null);
    }
    std::fs::write(logs.join("messages.jsonl"), history).unwrap();
    let printed = place.ok(["history"]);
    let told = place.json(["history"]);
    assert_eq!(told.len(), events.len());
    for (message, (event, detail, state, words)) in told.iter().zip(events) {
        assert_eq!(message["state"], state, "{message}");
        assert_eq!(message["text"], event);
        let end = &event[event.len().saturating_sub(6)..];
        let heading = format!("frontend -> backend {words} {end}\n");
        assert!(printed.contains(&heading), "{heading}: {printed}");
        // `why` names a way in as the history does.
        if detail.is_some() {
            let story = place.ok(["why", event]);
            assert!(story.ends_with(&format!(" backend {words}\n")), "{story}");
        }
    }
}

#[test]
fn what_an_older_version_wrote_about_a_probe_is_left_out() {
    let place = Place::new();
    let server = Server::start(&place);
    let logs = place.home().join("logs");
    std::fs::create_dir_all(&logs).unwrap();
    let awaiting = "ask01JD3ZQ8V4K2M6N8P0R2T4V6X8";
    let mut history = String::new();
    for (id, from, session, publisher) in [
        ("01PROBE", "doctor", awaiting, None),
        ("01SHOWN", "doctor", "backend", None),
        ("01FORGED", "doctor", awaiting, Some("-")),
        ("01ANSWER", "frontend", awaiting, None),
    ] {
        for event in ["sent", "confirmed"] {
            let mut line = json!({
                "ts": "2026-01-01T00:00:00.000Z", "id": id, "event": event, "session": session,
            });
            if event == "sent" {
                line["message"] = json!({ "from": from, "text": "a probe" });
            }
            if let Some(publisher) = publisher {
                line["publisher"] = json!(publisher);
            }
            history += &line.to_string();
            history.push('\n');
        }
    }
    std::fs::write(logs.join("messages.jsonl"), history).unwrap();
    let ids = |told: &[serde_json::Value]| -> Vec<String> {
        let ids = told
            .iter()
            .map(|one| one["id"].as_str().unwrap().to_owned());
        ids.collect()
    };
    let mut told = ids(&place.json(["history"]));
    told.sort();
    assert_eq!(told, ["01ANSWER", "01FORGED", "01SHOWN"]);
    place
        .run(["why", "01PROBE"])
        .fails(1, "nothing is known of `01PROBE`");
    assert_eq!(place.json(["why", "01SHOWN"])[0][0]["event"], "sent");
    let page = server.api(&place, "/api/messages");
    let mut page = ids(page["messages"].as_array().unwrap());
    page.sort();
    assert_eq!(page, told, "the page");
}
