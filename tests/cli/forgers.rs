//! Texts of strangers that pretend to be something else: lines of a log, colours, and results.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;

use crate::background_broker::{api, api_get, password, request, started, waiting_send};
use crate::support::{Place, Wrapped, wait_until};

const NASTY: &str = "a\u{1b}]0;title\u{7}\u{1b}]52;c;eA==\u{7}\u{1b}[2J\u{9b}31m\u{202e}b\r\n\
                     2026-11-27T00:00:00Z  INFO forged line";

/// Whether the text would do anything but be read.
fn acts(c: char) -> bool {
    c != '\n' && (c.is_control() || cbroker::clean::is_hidden(c))
}

/// A method on a channel.
fn method(class: u16, id: u16, arguments: &[u8]) -> Vec<u8> {
    let mut frame = vec![1, 0, 0];
    let length = u32::try_from(arguments.len() + 4).unwrap();
    frame.extend(length.to_be_bytes());
    frame.extend(class.to_be_bytes());
    frame.extend(id.to_be_bytes());
    frame.extend(arguments);
    frame.push(0xCE);
    frame
}

fn short(text: &str) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(text.len()).unwrap()];
    bytes.extend(text.as_bytes());
    bytes
}

fn long(text: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(text);
    bytes
}

/// Greets a broker with this login and vhost, and hears it out.
fn greet(port: u16, mechanism: &str, response: &[u8], vhost: &str) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let start_ok = [vec![0; 4], short(mechanism), long(response), short("en_US")].concat();
    let tune_ok = [0, 0, 0, 2, 0, 0, 0, 0];
    let open = [short(vhost), vec![0, 0]].concat();
    let all = [
        b"AMQP\x00\x00\x09\x01".to_vec(),
        method(10, 11, &start_ok),
        method(10, 31, &tune_ok),
        method(10, 40, &open),
        method(10, 51, &[]),
    ];
    stream.write_all(&all.concat()).unwrap();
    let _reset = stream.read_to_end(&mut Vec::new());
}

#[test]
fn names_that_strangers_send_forge_no_line_of_the_broker_s_log() {
    let place = Place::new();
    let _broker = started(&place);
    let status = place.json(["status"]);
    let port = status[0]["url"]
        .as_str()
        .unwrap()
        .rsplit(':')
        .next()
        .unwrap();
    let port: u16 = port.trim_end_matches('/').parse().unwrap();
    let password = password(&place);
    let plain = |user: &str, password: &str| format!("\0{user}\0{password}").into_bytes();
    greet(port, NASTY, &plain("guest", "guest"), "/");
    greet(port, "PLAIN", &plain(NASTY, "guest"), "/");
    greet(port, "PLAIN", &plain("cbroker", &password), NASTY);
    let log = || std::fs::read_to_string(place.home().join("logs/broker.log")).unwrap();
    wait_until(|| log().matches("forged").count() >= 2, log);
    let log = log();
    assert!(!log.contains(acts), "{log:?}");
    let is_forged = |line: &str| line.starts_with("2026-11-27T00:00:00Z") || line.starts_with('b');
    assert!(!log.lines().any(is_forged), "{log}");
    let shown = place.ok(["logs"]);
    assert!(
        !shown.contains(acts) && !shown.lines().any(is_forged),
        "{shown}"
    );
    place.ok(["stop"]);
}

#[test]
fn escape_sequences_in_a_receipt_do_not_reach_the_terminal_of_who_waits() {
    for json in [false, true] {
        let place = Place::new();
        let _broker = started(&place);
        let options = ["--timeout", "120", "--json"];
        let options = if json { &options[..] } else { &options[..2] };
        let (sending, message, receipts) = waiting_send(&place, options);
        // What a session says comes from hooks and peers, and the broker vouches for the session.
        for (state, final_one) in [("held", false), ("dead-lettered", true)] {
            let receipt = json!({"id": message["id"], "state": state, "reason": NASTY,
                "way": if final_one { json!(NASTY) } else { json!(null) }});
            let body = json!({"routing_key": receipts, "payload": receipt.to_string(),
                "payload_encoding": "string", "properties": {"user_id": "cbroker"}});
            api(&place, "exchanges/%2f/amq.default/publish", &body);
        }
        let ran = sending.wait_with_output().unwrap();
        let text = [ran.stdout, ran.stderr].concat();
        let shown = String::from_utf8(text).unwrap();
        assert!(
            shown.contains("forged line"),
            "the receipt arrived: {shown:?}"
        );
        assert!(!shown.contains(acts), "{shown:?}");
        assert!(
            !shown.lines().any(|line| line.starts_with("2026-11-27T00")),
            "{shown:?}"
        );
        place.ok(["stop"]);
    }
}

#[test]
fn a_stranger_lets_no_session_confirm_what_another_one_never_had() {
    let place = Place::new();
    let _broker = started(&place);
    let session = Wrapped::open(&place, "other", &[]);
    let (sending, message, receipts) = waiting_send(&place, &["--timeout", "60"]);
    // The same id to an attached session, with the address of who waits.
    let twin = json!({"id": message["id"], "from": "a", "to": "other",
        "ts": "2026-01-01T00:00:00.000Z", "message": "the twin"});
    for body in [json!({"id": message["id"]}), twin] {
        let body = json!({"routing_key": "other", "payload": body.to_string(),
            "payload_encoding": "string",
            "properties": {"headers": {"cbroker-receipt-to": receipts}}});
        api(&place, "exchanges/%2f/claudeBroker/publish", &body);
    }
    session.wait_for_submission("the twin");
    // Nor does the session say anything to a queue of answers that somebody else names.
    let watched = cbroker::name::SessionName::for_answer(ulid::Ulid::generate());
    let queue = format!("queues/%2f/{watched}");
    request(&place, "PUT", &queue, r#"{"durable":true}"#);
    let twin = json!({"id": "m2", "from": "a", "to": "other",
        "ts": "2026-01-01T00:00:00.000Z", "message": "the second twin"});
    let body = json!({"routing_key": "other", "payload": twin.to_string(),
        "payload_encoding": "string",
        "properties": {"headers": {"cbroker-receipt-to": watched.as_str()}}});
    api(&place, "exchanges/%2f/claudeBroker/publish", &body);
    session.wait_for_submission("the second twin");
    // What a session says goes out in its order.
    place.ok(["send", "other", "the last one", "--wait"]);
    assert_eq!(api_get(&place, &queue)["messages"], 0);
    let ran = sending.wait_with_output().unwrap();
    let shown = String::from_utf8([ran.stdout, ran.stderr].concat()).unwrap();
    assert_eq!(ran.status.code(), Some(4), "{shown}");
    assert!(shown.contains("no final receipt"), "{shown}");
    assert!(
        !shown.contains("delivered") && !shown.contains("dead-lettered"),
        "{shown}"
    );
    place.ok(["stop"]);
}

#[test]
fn the_largest_properties_that_the_api_takes_leave_a_session_able_to_hear() {
    let place = Place::new();
    let _broker = started(&place);
    let session = Wrapped::open(&place, "victim", &[]);
    let zeros = vec![0; 14_000];
    for (text, headers) in [
        ("with much", json!({"a": zeros})),
        ("with little", json!({})),
    ] {
        let message = json!({"id": text.replace(' ', "-"), "from": "a", "to": "victim",
            "ts": "2026-01-01T00:00:00.000Z", "message": text});
        let body = json!({"routing_key": "victim", "payload": message.to_string(),
            "payload_encoding": "string", "properties": {"headers": headers}});
        api(&place, "exchanges/%2f/claudeBroker/publish", &body);
        session.wait_for_submission(text);
    }
}
