//! The tap: who may listen, and what it shows.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::fixture::{Server, eventually};
use crate::http::Answer;
use crate::peers::Peer;

/// Reads the head of the response: from then on everything is heard.
fn after_head(listening: TcpStream) -> BufReader<TcpStream> {
    let mut stream = BufReader::new(listening);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        assert!(stream.read_line(&mut line).unwrap() > 0, "the stream ended");
    }
    stream
}

/// Returns the lines of the next `seen` event.
fn next(stream: &mut impl BufRead) -> Vec<Value> {
    loop {
        let mut line = String::new();
        assert!(stream.read_line(&mut line).unwrap() > 0, "the stream ended");
        if let Some(data) = line.strip_prefix("data: ") {
            return serde_json::from_str(data.trim()).unwrap();
        }
    }
}

#[test]
fn a_publish_and_its_ack_are_heard_with_their_excerpt() {
    let server = Server::start();
    server.ask("PUT", "/api/queues/%2F/q", "{}");
    let listening = server
        .request("GET", "/api/tap")
        .signed_in(&server.sign_in())
        .open("");
    let mut stream = after_head(listening);
    let peer = Peer::connect(&server);
    peer.publish("", "q", &"x".repeat(5000));
    let published = next(&mut stream).remove(0);
    assert_eq!(
        (
            &published["what"],
            &published["routing_key"],
            &published["body_bytes"]
        ),
        (&json!("published"), &json!("q"), &json!(5000))
    );
    assert_eq!(published["excerpt"].as_str().unwrap().len(), 4096);
    peer.take("q");
    let taken = next(&mut stream).remove(0);
    assert_eq!(
        (&taken["what"], &taken["queue"]),
        (&json!("taken"), &json!("q"))
    );
    // A consumer's ack is another thing: that is how a session takes a message.
    let mut consumer = peer.attach("q");
    peer.publish("", "q", "again");
    peer.ack_next(&mut consumer);
    let mut what = Vec::new();
    while what.len() < 2 {
        what.extend(
            next(&mut stream)
                .into_iter()
                .map(|line| line["what"].clone()),
        );
    }
    assert_eq!(what, ["published", "acked"]);
}

/// Whoever knows the address can answer in place of the one who was asked.
#[test]
fn a_tap_shows_no_reply_address_to_users_who_may_not_read_the_message() {
    let server = Server::start();
    let user = r#"{"password":"pw","tags":"monitoring"}"#;
    server.ask("PUT", "/api/users/monitor", user);
    let none = r#"{"configure":"^$","write":"^$","read":"^$"}"#;
    server.ask("PUT", "/api/permissions/%2F/monitor", none);
    let asked = server.request("GET", "/api/tap").password("monitor", "pw");
    let mut stream = after_head(asked.open(""));
    let peer = Peer::connect(&server);
    peer.publish("", "amq.rabbitmq.reply-to.secret", "an answer");
    let line = next(&mut stream).remove(0);
    assert_eq!(line["routing_key"], "amq.rabbitmq.reply-to");
    assert_eq!(line["encoding"], "hidden");
}

#[test]
fn nobody_listens_without_the_right_to() {
    let server = Server::start();
    assert_eq!(server.request("GET", "/api/tap").send("").status, 401);
    server.ask(
        "PUT",
        "/api/users/bob",
        r#"{"password":"pw","tags":"management"}"#,
    );
    let bob = server.request("GET", "/api/tap").password("bob", "pw");
    assert_eq!(bob.send("").status, 401);
}

#[test]
fn one_user_who_takes_every_place_at_the_tap_keeps_no_other_out() {
    let server = Server::start();
    let user = r#"{"password":"pw","tags":"monitoring"}"#;
    assert_eq!(server.ask("PUT", "/api/users/bob", user).status, 201);
    let mut open = Vec::new();
    let refused = (0..40)
        .filter(|_| {
            let asked = server.request("GET", "/api/tap").password("bob", "pw");
            let stream = asked.open("");
            open.push(stream.try_clone().unwrap());
            Answer::head(stream).status == 503
        })
        .count();
    assert!(refused > 0, "bob has forty");
    let cookie = server.sign_in();
    let asked = server.request("GET", "/api/tap").signed_in(&cookie);
    assert_eq!(Answer::head(asked.open("")).status, 200);
}

#[test]
fn a_tap_ends_when_its_user_signs_out() {
    let server = Server::start();
    server.ask("PUT", "/api/queues/%2F/q", "{}");
    let cookie = server.sign_in();
    let asked = server.request("GET", "/api/tap").signed_in(&cookie);
    let mut stream = BufReader::new(asked.open(""));
    let mut head = String::new();
    stream.read_line(&mut head).unwrap();
    assert!(head.contains("200"), "{head}");
    let out = server
        .request("DELETE", "/api/session")
        .header("origin", &server.origin())
        .signed_in(&cookie);
    assert_eq!(out.send("").status, 204);
    server.publish("q", "secret");
    let mut rest = String::new();
    while stream.read_line(&mut rest).expect("the stream ends") > 0 {}
    assert!(!rest.contains("secret"), "{rest}");
}

#[test]
fn a_tap_ends_when_its_sign_in_expires() {
    let server = Server::start_with_page_sign_in(Duration::from_secs(2));
    // On a slow machine the sign-in may end before the tap is open.
    let stream = eventually("a tap of a sign-in that lives", || {
        let cookie = server.sign_in();
        let asked = server.request("GET", "/api/tap").signed_in(&cookie);
        let mut stream = BufReader::new(asked.open(""));
        let mut head = String::new();
        stream.read_line(&mut head).unwrap();
        head.contains("200").then_some(stream)
    });
    for line in stream.lines() {
        line.expect("the stream ends");
    }
}
