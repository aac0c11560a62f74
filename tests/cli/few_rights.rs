//! Attacks on sessions by broker users with few rights, or with a tag that lets them name others.
//! Each test is named after one.

use cbroker::peer;
use futures_util::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeBindOptions,
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use serde_json::{Value, json};

use crate::background_broker::{api_get, request, started, waiting};
use crate::client::{self, run};
use crate::support::{Place, Request, Server, Wrapped, wait_until};

const PRESENCE: &str = "claudeBroker.presence";
/// The client sees its own answers by this name, and needs no right for that.
const DIRECT: &str = "amq.rabbitmq.reply-to";

/// Makes the user `bob` with these tags, who may configure, write and read so much.
fn with_bob(place: &Place, tags: &str, [configure, write, read]: [&str; 3]) {
    let user = json!({ "password": "pw", "tags": tags });
    request(place, "PUT", "users/bob", &user.to_string());
    let rights = json!({ "configure": configure, "write": write, "read": read });
    request(place, "PUT", "permissions/%2f/bob", &rights.to_string());
}

/// A connection and a channel of bob's, with confirms.
async fn bob(place: &Place) -> (Connection, Channel) {
    let url = place.ok(["status", "--show-url"]);
    let (_, address) = url.trim().split_once('@').unwrap();
    let url = format!("amqp://bob:pw@{address}");
    let (properties, runtime) = (ConnectionProperties::default(), peer::runtime::current());
    let connection = Connection::connect_with_runtime(&url, properties, runtime);
    let connection = connection.await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let confirms = ConfirmSelectOptions::default();
    channel.confirm_select(confirms).await.unwrap();
    (connection, channel)
}

/// Publishes, and says whether the broker took it.
async fn publish(
    channel: &Channel,
    (exchange, key): (&str, &str),
    body: &Value,
    properties: BasicProperties,
) -> bool {
    let (options, body) = (BasicPublishOptions::default(), body.to_string());
    let sent = channel.basic_publish(
        exchange.into(),
        key.into(),
        options,
        body.as_bytes(),
        properties,
    );
    match sent.await {
        Ok(confirm) => confirm.await.is_ok_and(|confirm| confirm.is_ack()),
        Err(_) => false,
    }
}

/// What sessions answer bob, who asks all this in its own name and in none, and then who is there.
fn asked(place: &Place, requests: &[Value]) -> Vec<Value> {
    run(async {
        let (connection, channel) = bob(place).await;
        let no_ack = BasicConsumeOptions {
            no_ack: true,
            ..BasicConsumeOptions::default()
        };
        let heard = channel.basic_consume(DIRECT.into(), "".into(), no_ack, FieldTable::default());
        let mut heard = heard.await.unwrap();
        let nameless = BasicProperties::default().with_reply_to(DIRECT.into());
        let named = nameless.clone().with_user_id("bob".into());
        let who = json!({ "kind": "who" });
        for properties in [named, nameless.clone()] {
            for request in requests {
                assert!(publish(&channel, (PRESENCE, ""), request, properties.clone()).await);
            }
        }
        assert!(publish(&channel, (PRESENCE, ""), &who, nameless).await);
        let mut answers = Vec::new();
        // Requests are answered in their order: the one that anybody may ask comes last.
        while !answers
            .iter()
            .any(|answer: &Value| answer["kind"] == "state")
        {
            let answer = heard.next().await.unwrap().unwrap();
            answers.push(serde_json::from_slice(&answer.data).unwrap());
        }
        connection.close(200, "done".into()).await.unwrap();
        answers
    })
}

fn held(place: &Place) -> usize {
    let told = place.json(["inbox", "backend"]);
    told[0].as_array().map_or(0, Vec::len)
}

#[test]
fn a_user_who_may_write_to_presence_alone_pauses_reads_and_takes_nothing() {
    let place = Place::new();
    let _broker = started(&place);
    let session = Wrapped::open(&place, "backend", &[]);
    with_bob(&place, "", ["^$", r"^claudeBroker\.presence$", "^$"]);
    let scope = json!({ "name": "backend" });
    place.ok(["pause", "backend"]);
    place.ok(["send", "backend", "the secret"]);
    wait_until(|| held(&place) == 1, || place.ok(["inbox", "backend"]));
    let answers = asked(
        &place,
        &[
            json!({ "kind": "inbox", "scope": scope, "take": false }),
            json!({ "kind": "inbox", "scope": scope, "take": true }),
            json!({ "kind": "discard", "scope": "all", "removal": "purged" }),
            json!({ "kind": "resume", "scope": { "names": ["backend"] } }),
        ],
    );
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(answers[0]["state"], "paused", "{answers:?}");
    assert_eq!(held(&place), 1, "nothing was taken, dropped or let go");
    place.ok(["resume", "backend"]);
    session.wait_for_submission("the secret");
    let answers = asked(&place, &[json!({ "kind": "pause", "scope": "all" })]);
    assert_eq!(answers.len(), 1, "{answers:?}");
    place.ok(["send", "backend", "not held"]);
    session.wait_for_submission("not held");
}

/// Has bob hold this queue for his connection alone, bound like a session's and into a group.
async fn hold_alone(channel: &Channel, name: &str, group: &str) {
    let alone = QueueDeclareOptions::exclusive();
    let declared = channel.queue_declare(name.into(), alone, FieldTable::default());
    declared.await.unwrap();
    for (exchange, key) in [("claudeBroker", name), ("claudeBroker.groups", group)] {
        let options = QueueBindOptions::default();
        let arguments = FieldTable::default();
        let bound =
            channel.queue_bind(name.into(), exchange.into(), key.into(), options, arguments);
        bound.await.unwrap();
    }
}

#[test]
fn a_queue_that_a_user_holds_alone_stops_no_command_for_other_sessions() {
    let place = Place::new();
    let _broker = started(&place);
    let session = Wrapped::open(&place, "backend", &["--group", "team"]);
    with_bob(&place, "", ["^aaa$", "^aaa$", r"^claudeBroker(\.groups)?$"]);
    run(async {
        let (_connection, channel) = bob(&place).await;
        hold_alone(&channel, "aaa", "team").await;
        let place = &place;
        let paused = place.json(["pause", "--all"]);
        assert_eq!(paused[0][0]["name"], "backend", "{paused:?}");
        assert_eq!(place.listed("backend").unwrap()["state"], "paused");
        place.ok(["resume", "--all"]);
        place.ok(["pause", "@team"]);
        place.ok(["resume", "@team"]);
        // The recipient that is refused comes first.
        let sent = place.run(["send", "@team", "to all of you"]);
        assert_ne!(sent.code, 0, "{sent:?}");
    });
    session.wait_for_submission("to all of you");
}

#[test]
fn a_name_that_a_user_holds_alone_keeps_no_program_from_running() {
    // It ended with "the broker refused", and the program never ran.
    let place = Place::new();
    let _broker = started(&place);
    // It makes the exchanges.
    let _other = Wrapped::open(&place, "other", &["--group", "team"]);
    with_bob(
        &place,
        "",
        ["^held$", "^held$", r"^claudeBroker(\.groups)?$"],
    );
    let session = run(async {
        let (_connection, channel) = bob(&place).await;
        hold_alone(&channel, "held", "team").await;
        let session = Wrapped::open_unattached(&place, "held", &[]);
        session.terminal.wait_for("runs without messages");
        session
    });
    let is_attached = || {
        let row = place.listed("held");
        row.is_some_and(|row| row["consumers"] == 1 && row["state"] != "unknown")
    };
    wait_until(is_attached, || session.terminal.shown());
    place.ok(["send", "--to", "held", "-m", "now it is ours"]);
    session.wait_for_submission("now it is ours");
}

/// The properties of a message in the name of the sessions' own user.
fn as_owner() -> BasicProperties {
    BasicProperties::default()
        .with_user_id("cbroker".into())
        .with_reply_to("amq.gen-bob".into())
}

#[test]
fn an_impersonator_commands_no_session() {
    let place = Place::new();
    let _broker = started(&place);
    let session = Wrapped::open(&place, "backend", &[]);
    with_bob(&place, "impersonator", [".*", ".*", ".*"]);
    let queues = api_get(&place, "queues");
    let mut names = queues.as_array().unwrap().iter();
    let hears = names.find_map(|queue| {
        queue["name"]
            .as_str()
            .filter(|name| name.starts_with("amq."))
    });
    let pause = json!({ "kind": "pause", "scope": "all" });
    run(async {
        for place_of in [
            (PRESENCE, ""),
            ("", hears.unwrap()),
            ("claudeBroker", "backend"),
        ] {
            let (_connection, channel) = bob(&place).await;
            let is_taken = publish(&channel, place_of, &pause, as_owner()).await;
            assert!(!is_taken, "{place_of:?}");
        }
        let (connection, channel) = bob(&place).await;
        detour(&channel).await;
        let presence = channel.exchange_bind(
            PRESENCE.into(),
            "detour".into(),
            "".into(),
            ExchangeBindOptions::default(),
            FieldTable::default(),
        );
        presence.await.unwrap();
        assert!(publish(&channel, ("detour", ""), &pause, as_owner()).await);
        connection.close(200, "done".into()).await.unwrap();
    });
    // What was asked before is heard before.
    wait_until(
        || {
            place
                .listed("backend")
                .is_some_and(|row| row["state"] == "idle")
        },
        || format!("{:?}", place.listed("backend")),
    );
    place.ok(["send", "backend", "not held"]);
    session.wait_for_submission("not held");
}

/// An exchange where a name is believed by nobody.
async fn detour(channel: &Channel) {
    let declared = channel.exchange_declare(
        "detour".into(),
        ExchangeKind::Direct,
        ExchangeDeclareOptions::default(),
        FieldTable::default(),
    );
    declared.await.unwrap();
}

#[test]
fn an_impersonator_answers_no_question_and_confirms_no_delivery() {
    let place = Place::new();
    let _broker = started(&place);
    with_bob(&place, "impersonator", [".*", ".*", ".*"]);
    for command in [
        &["ask", "ghost", "?", "--timeout", "40"][..],
        &["send", "ghost", "x", "--wait", "--timeout", "40"],
    ] {
        let (asking, message) = waiting(&place, command);
        let queues = api_get(&place, "queues");
        let mut names = queues.as_array().unwrap().iter();
        let waits = |name: &&str| name.starts_with("ask");
        let reply_to = names.find_map(|queue| queue["name"].as_str().filter(waits));
        let reply_to = reply_to.unwrap();
        let at = "2026-01-01T00:00:00.000Z";
        let answer = json!({ "id": "1", "from": "ghost", "to": reply_to, "ts": at,
            "message": "forged", "correlation_id": message["id"] });
        let receipt = json!({ "id": message["id"], "to": "ghost", "state": "delivered" });
        run(async {
            for body in [&answer, &receipt] {
                let (connection, channel) = bob(&place).await;
                detour(&channel).await;
                let bound = channel.queue_bind(
                    reply_to.into(),
                    "detour".into(),
                    reply_to.into(),
                    QueueBindOptions::default(),
                    FieldTable::default(),
                );
                bound.await.unwrap();
                assert!(publish(&channel, ("detour", reply_to), body, as_owner()).await);
                let is_taken = publish(&channel, ("", reply_to), body, as_owner()).await;
                assert!(!is_taken, "{body}");
                drop(connection);
            }
        });
        let ran = asking.wait_with_output().unwrap();
        assert_eq!(ran.status.code(), Some(4), "{ran:?}");
        let told = String::from_utf8_lossy(&ran.stdout);
        let is_fooled = told.contains("forged") || told.contains("delivered");
        assert!(!is_fooled, "{told}");
        place.ok(["delete", "ghost", "--yes"]);
    }
}

#[test]
fn escape_sequences_in_a_user_s_name_reach_no_session_s_log() {
    let place = Place::new();
    let _broker = started(&place);
    let _session = Wrapped::open(&place, "backend", &[]);
    let (name, in_path) = ("bob\u{1b}]0;x\u{7}\u{202e}", "bob%1B%5D0;x%07%E2%80%AE");
    let user = json!({ "password": "pw", "tags": "management" });
    request(
        &place,
        "PUT",
        &format!("users/{in_path}"),
        &user.to_string(),
    );
    let rights = json!({ "configure": "^$", "write": ".*", "read": "^$" });
    let permissions = format!("permissions/%2f/{in_path}");
    request(&place, "PUT", &permissions, &rights.to_string());
    let pause = json!({ "kind": "pause", "scope": "all" }).to_string();
    let message = json!({ "routing_key": "", "payload": pause, "payload_encoding": "string",
        "properties": { "reply_to": "amq.gen-bob", "user_id": name } });
    let status = &place.json(["status"])[0];
    let url = status["mgmt_url"].as_str().unwrap();
    let path = format!("/api/exchanges/%2f/{PRESENCE}/publish");
    let answer = Request::to_url(url, "POST", &path)
        .password(name, "pw")
        .send(&message.to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
    let log = || std::fs::read_to_string(place.home().join("logs/backend.log")).unwrap_or_default();
    wait_until(|| log().contains("came from bob"), log);
    let acts = |c: char| c != '\n' && (c.is_control() || cbroker::clean::is_hidden(c));
    assert!(!log().contains(acts), "{:?}", log());
}

#[test]
fn a_user_who_consumes_under_a_session_s_name_keeps_no_pause_waiting() {
    let place = Place::new();
    let _broker = started(&place);
    let _session = Wrapped::open(&place, "backend", &[]);
    with_bob(&place, "", ["^aaa$", "^aaa$", "^(aaa|claudeBroker)$"]);
    run(async {
        let (_connection, channel) = bob(&place).await;
        let options = QueueDeclareOptions::durable();
        channel
            .queue_declare("aaa".into(), options, none())
            .await
            .unwrap();
        let (exchange, options) = ("claudeBroker".into(), QueueBindOptions::default());
        let bound = channel.queue_bind("aaa".into(), exchange, "aaa".into(), options, none());
        bound.await.unwrap();
        // It never answers, and takes places in the session's queue too.
        let _consumers = [
            consume(&channel, "aaa").await,
            consume(&channel, "aaa").await,
        ];
        for command in [
            ["pause", "--all"],
            ["resume", "--all"],
            ["pause", "backend"],
        ] {
            let ran = place.run([&command[..], &["-v"]].concat());
            assert_eq!(ran.code, 0, "{ran:?}");
            assert!(ran.out.starts_with("backend: "), "{ran:?}");
            assert!(ran.err.contains("waits for 1 answer\n"), "{ran:?}");
        }
    });
}

#[test]
fn a_user_who_makes_a_group_large_keeps_it_in_hand() {
    let place = Place::new();
    let _broker = started(&place);
    let _session = Wrapped::open(&place, "backend", &["--group", "team"]);
    with_bob(
        &place,
        "",
        ["^b+[0-9]+$", "^b+[0-9]+$", r"^claudeBroker\.groups$"],
    );
    run(async {
        let (_connection, channel) = bob(&place).await;
        for number in 0..300 {
            let name = format!("{}{number}", "b".repeat(60));
            let options = QueueDeclareOptions::durable();
            let declared = channel.queue_declare(name.as_str().into(), options, none());
            declared.await.unwrap();
            let (queue, exchange) = (name.as_str().into(), "claudeBroker.groups".into());
            let options = QueueBindOptions::default();
            let bound = channel.queue_bind(queue, exchange, "team".into(), options, none());
            bound.await.unwrap();
        }
    });
    for (wish, state) in [("pause", "paused"), ("resume", "idle")] {
        let told = place.json([wish, "@team"]);
        assert_eq!(told[0][0]["name"], "backend", "{told:?}");
        assert_eq!(told[0][0]["state"], state, "{told:?}");
    }
}

#[test]
fn a_user_who_consumes_from_a_closed_session_s_queue_keeps_no_message_from_moving() {
    let place = Place::new();
    let _broker = started(&place);
    let there = Place::new();
    let _server = Server::start(&there);
    with_bob(&place, "", ["^$", "^$", "^backend$"]);
    client::make_queue(&place, "backend");
    client::publish(
        &place,
        "backend",
        (0..10).map(|number| format!("m{number}")),
    );
    let url = client::endpoint(&there).secret_url();
    run(async {
        let (_connection, channel) = bob(&place).await;
        let _consumer = client::consume_one(&channel, "backend").await;
        let ran = place.run(["move", "--to", &url]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(
            ran.err.contains("cbroker delete backend --yes --force"),
            "{ran:?}"
        );
    });
    assert_eq!(there.listed("backend").unwrap()["pending"], 9);
    wait_until(
        || client::consumers(&place, "backend") == Some(0),
        || "it still consumes".into(),
    );
    place.ok(["move", "--to", &url]);
    assert_eq!(there.listed("backend").unwrap()["pending"], 10);
}

fn none() -> FieldTable {
    FieldTable::default()
}

async fn consume(channel: &Channel, queue: &str) -> lapin::Consumer {
    let options = BasicConsumeOptions::default();
    let consumer = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
    consumer.await.unwrap()
}

#[test]
fn a_queue_that_was_declared_first_and_forwards_messages_is_reported() {
    let place = Place::new();
    let _broker = started(&place);
    let usual = json!({"x-message-ttl": 60_000, "x-max-length": 1000, "x-overflow": "drop-head"});
    for (name, more) in [
        ("other", json!({})),
        ("spied", json!({"x-dead-letter-exchange": "amq.fanout"})),
    ] {
        let mut arguments = usual.clone();
        for (key, value) in more.as_object().unwrap() {
            arguments[key] = value.clone();
        }
        let body = json!({ "durable": true, "arguments": arguments });
        request(
            &place,
            "PUT",
            &format!("queues/%2f/{name}"),
            &body.to_string(),
        );
    }
    let session = Wrapped::open(&place, "spied", &[]);
    let shown = session.terminal.shown();
    assert!(
        shown.contains("its x-dead-letter-exchange differs"),
        "{shown}"
    );
    place.ok(["send", "spied", "arrives all the same"]);
    session.wait_for_submission("arrives all the same");
    let session = Wrapped::open(&place, "other", &[]);
    let shown = session.terminal.shown();
    assert!(shown.contains("it has a TTL of 60000 ms"), "{shown}");
    assert!(!shown.contains("differs"), "{shown}");
}
