//! `dead`: messages that a session refused are listed, sent again with what they lacked, or
//! dropped.

use serde_json::{Value, json};

use crate::background_broker::api;
use crate::client;
use crate::support::{Place, Server, Wrapped, wait_until};

/// The dead letters, once there are so many.
fn dead(place: &Place, count: usize) -> Vec<Value> {
    let mut letters = Vec::new();
    wait_until(
        || {
            letters = place.json(["dead"]);
            letters.len() == count
        },
        || format!("{count} dead letters: {:?}", place.json(["dead"])),
    );
    letters
}

/// Publishes a body that need not be a message.
fn publish(place: &Place, body: &[u8]) {
    let url = client::endpoint(place).secret_url();
    client::publish_raw(&url, "backend", [body].into_iter());
}

fn id(letter: &Value) -> &str {
    letter["id"].as_str().unwrap()
}

#[test]
fn a_refused_message_is_listed_and_mended_and_delivered() {
    let place = Place::new();
    let _server = Server::start(&place);
    let session = Wrapped::open(&place, "backend", &[]);
    assert!(place.ok(["dead"]).contains("no dead letters"));
    // No id, no sender, no time: a script that publishes by hand.
    publish(&place, br#"{"message":"half a \u202emessage"}"#);
    let letters = dead(&place, 1);
    let letter = &letters[0];
    assert_eq!(
        (&letter["queue"], &letter["error"]),
        (&json!("backend"), &json!("`id` is missing"))
    );
    let shown = place.ok(["dead", "backend"]);
    assert!(
        shown.starts_with(id(letter)) && shown.contains("backend `id` is missing"),
        "{shown}"
    );
    assert!(place.json(["dead", "another"]).is_empty());
    assert_eq!(
        place.ok(["dead", "another"]),
        "no dead letters of `another`; `cbroker dead` shows those of others\n"
    );
    let listed = place.run(["list"]);
    assert_eq!(
        listed.err, "cbroker: 1 dead letter: `cbroker dead` shows why\n",
        "{listed:?}"
    );
    let sent = place
        .json(["dead", "--resend", &id(letter)[..6], "--yes"])
        .remove(0);
    assert_eq!(sent["to"], "backend");
    let line = session.wait_for_submission("half a message");
    assert!(line.contains(" from=cli "), "{line}");
    dead(&place, 0);
    assert_eq!(place.run(["list"]).err, "");
    let story = place.json(["why", sent["id"].as_str().unwrap()]).remove(0);
    let was = format!("it was the dead letter {}", id(letter));
    assert_eq!(story[0]["detail"], was, "{story}");
}

#[test]
fn one_letter_is_dropped_and_the_others_stay() {
    let place = Place::new();
    let _server = Server::start(&place);
    let _session = Wrapped::open(&place, "backend", &[]);
    for body in [&b"one"[..], b"\xff\xfe", b"three"] {
        publish(&place, body);
    }
    let letters = dead(&place, 3);
    let binary = letters
        .iter()
        .find(|letter| letter["raw"] == "//4=")
        .unwrap();
    assert_eq!(binary["encoding"], "base64");
    place
        .run(["dead", "--resend", id(binary), "--yes"])
        .fails(
            1,
            &format!("the dead letter {} cannot be sent again", id(binary)),
        )
        .hints("cbroker dead --json");
    assert_eq!(
        place.ok(["dead", "--drop", id(binary)]),
        format!("dropped {} of backend\n", id(binary))
    );
    let raws: Vec<Value> = dead(&place, 2)
        .iter()
        .map(|letter| letter["raw"].clone())
        .collect();
    assert_eq!(raws, ["one", "three"]);
    place
        .run(["dead", "--drop", id(binary)])
        .fails(1, &format!("there is no dead letter `{}`", id(binary)));
    // A session goes on to add to a file that was written anew.
    publish(&place, b"four");
    assert_eq!(dead(&place, 3)[2]["raw"], "four");
}

#[test]
fn the_story_of_a_message_says_that_its_dead_letter_was_dropped() {
    let place = Place::new();
    let server = Server::start(&place);
    let _session = Wrapped::open(&place, "backend", &[]);
    for message_id in ["m1", "m2"] {
        let text = json!({ "id": message_id, "message": "no sender" }).to_string();
        let own = json!({
            "routing_key": "backend", "payload": text, "payload_encoding": "string",
            "properties": { "user_id": "cbroker" },
        });
        api(&place, "exchanges/%2f/claudeBroker/publish", &own);
    }
    let letters = dead(&place, 2);
    let id_of = |message_id: &str| {
        let found = letters
            .iter()
            .find(|letter| letter["message_id"] == message_id);
        id(found.unwrap()).to_owned()
    };
    place.ok(["dead", "--drop", &id_of("m1")]);
    let path = format!("/api/dead-letters/{}", id_of("m2"));
    let dropped = server.ask(&place, "DELETE", &path, "");
    assert_eq!(dropped.status, 200, "{dropped:?}");
    for message_id in ["m1", "m2"] {
        let story = place.ok(["why", message_id]);
        let last = story.lines().last().unwrap();
        assert!(
            last.ends_with(" backend dead-lettered: its dead letter was dropped"),
            "{story}"
        );
    }
}

#[test]
fn a_message_whose_id_was_used_twice_can_be_sent_under_its_own() {
    let place = Place::new();
    let _server = Server::start(&place);
    let session = Wrapped::open(&place, "backend", &[]);
    let body = |text: &str| {
        let message = json!({
            "id": "m1", "from": "api", "to": "backend", "ts": "2026-01-01T00:00:00.000Z",
            "message": text,
        });
        message.to_string().into_bytes()
    };
    publish(&place, &body("the first"));
    session.wait_for_submission("the first");
    publish(&place, &body("the second"));
    let letters = dead(&place, 1);
    assert_eq!(letters[0]["message_id"], "m1");
    place.ok(["dead", "--resend", id(&letters[0]), "--yes"]);
    let line = session.wait_for_submission("the second");
    assert!(line.contains(" from=api "), "{line}");
}

#[test]
fn a_dead_letter_of_a_stranger_goes_as_the_users_own_only_after_a_second_word() {
    let place = Place::new();
    let _server = Server::start(&place);
    let session = Wrapped::open(&place, "backend", &[]);
    let text = |words: &str| json!({ "from": "frontend", "message": words }).to_string();
    let own = json!({
        "routing_key": "backend", "payload": text("my own"), "payload_encoding": "string",
        "properties": { "user_id": "cbroker" },
    });
    api(&place, "exchanges/%2f/claudeBroker/publish", &own);
    dead(&place, 1);
    publish(&place, text("a forged one").as_bytes());
    let letters = dead(&place, 2);
    let whose: Vec<_> = letters.iter().map(|letter| &letter["is_own"]).collect();
    assert_eq!(whose, [&json!(true), &json!(false)], "{letters:?}");
    let shown = place.ok(["dead"]);
    assert_eq!(
        shown.matches("publisher not confirmed").count(),
        1,
        "{shown}"
    );
    let [own, forged] = [id(&letters[0]), id(&letters[1])];
    place
        .run(["dead", "--resend", forged])
        .fails(2, "another user may have published")
        .hints("add --yes");
    assert_eq!(dead(&place, 2), letters);
    place.ok(["dead", "--resend", own]);
    session.wait_for_submission("my own");
    place.ok(["dead", "--resend", forged, "--yes"]);
    session.wait_for_submission("a forged one");
    dead(&place, 0);
}

#[test]
fn a_letter_of_which_only_the_beginning_was_kept_is_not_sent_again() {
    let place = Place::new();
    let _server = Server::start(&place);
    let _session = Wrapped::open(&place, "backend", &[]);
    let body = "x".repeat(100 << 10);
    publish(&place, body.as_bytes());
    let letter = dead(&place, 1).remove(0);
    assert_eq!(letter["cut_from"], body.len(), "{}", id(&letter));
    let kept = letter["raw"].as_str().unwrap();
    assert!(body.starts_with(kept) && kept.len() <= 64 << 10);
    assert!(kept.len() > 60 << 10, "{} bytes were kept", kept.len());
    let shown = place.ok(["dead"]);
    let note = format!("({} of {} bytes were kept)", kept.len(), body.len());
    assert!(shown.contains(&note), "{shown}");
    let resent = place.run(["dead", "--resend", id(&letter), "--yes"]);
    resent.fails(1, "the dead letter ");
    assert!(resent.err.contains("only the beginning"), "{resent:?}");
    dead(&place, 1);
}
