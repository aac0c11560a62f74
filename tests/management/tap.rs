//! The tap: who may listen, and what it shows.

use std::io::{BufRead, BufReader};

use serde_json::{Value, json};

use crate::fixture::Server;
use crate::peers::Peer;

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
        .header("cookie", &server.cookie())
        .open("");
    let mut stream = BufReader::new(listening);
    let mut head = String::new();
    while head != "\r\n" {
        head.clear();
        stream.read_line(&mut head).unwrap();
    }
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
    let acked = next(&mut stream).remove(0);
    assert_eq!(
        (&acked["what"], &acked["queue"]),
        (&json!("acked"), &json!("q"))
    );
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
