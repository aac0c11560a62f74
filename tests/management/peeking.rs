//! Peeking into a queue: shows every message and changes nothing.

use crate::fixture::Server;
use crate::peers::Peer;

#[test]
fn peeking_changes_nothing() {
    let server = Server::start();
    server.ask("PUT", "/api/queues/%2F/q", "{}");
    for text in ["one", "two"] {
        server.publish("q", text);
    }
    for _ in 0..2 {
        let seen = server.get("/api/queues/%2F/q/peek?truncate=2").json();
        let payloads: Vec<_> = seen
            .as_array()
            .unwrap()
            .iter()
            .map(|message| message["payload"].clone())
            .collect();
        assert_eq!(payloads, ["on", "tw"]);
        assert_eq!(seen[0]["redelivered"], false);
    }
    assert_eq!(server.get("/api/queues/%2F/q").json()["messages_ready"], 2);
}

/// Answers to questions come to such queues. RabbitMQ refuses with the same words.
#[test]
fn a_queue_of_one_connection_is_not_read_over_http_by_anybody() {
    let server = Server::start();
    let peer = Peer::connect(&server);
    peer.declare_own("own");
    server.publish("own", "for this connection");
    let get = r#"{"count":1,"ackmode":"ack_requeue_true","encoding":"auto"}"#;
    for answer in [
        server.get("/api/queues/%2F/own/peek"),
        server.ask("POST", "/api/queues/%2F/own/get", get),
    ] {
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(answer.body.contains("cannot obtain exclusive access"));
        assert!(!answer.body.contains("for this connection"));
    }
    assert_eq!(server.get("/api/queues/%2F/own").json()["messages"], 1);
    peer.take("own");
}

/// Sessions hear questions from such queues: without its binding one could not be found any more.
#[test]
fn a_queue_of_one_connection_is_not_bound_and_not_unbound_over_http_by_anybody() {
    let server = Server::start();
    let exchange = "/api/exchanges/%2F/claudeBroker.presence";
    server.ask("PUT", exchange, r#"{"type":"fanout"}"#);
    let peer = Peer::connect(&server);
    let mut questions = peer.hear_questions();
    let bindings = || server.get(&format!("{exchange}/bindings/source")).json();
    let queue = bindings()[0]["destination"].as_str().unwrap().to_owned();
    let ends = format!("/api/bindings/%2F/e/claudeBroker.presence/q/{queue}");
    let document = serde_json::json!({
        "queues": [{"name": "new", "durable": true, "auto_delete": false, "arguments": {}}],
        "bindings": [{
            "source": "claudeBroker.presence",
            "destination": queue,
            "destination_type": "queue",
            "routing_key": "more",
            "arguments": {},
        }],
    });
    for answer in [
        server.ask("DELETE", &format!("{ends}/~"), ""),
        server.ask("POST", &ends, r#"{"routing_key":"more"}"#),
        server.ask("POST", "/api/definitions/%2F", &document.to_string()),
    ] {
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(answer.body.contains("cannot obtain exclusive access"));
    }
    assert_eq!(server.get("/api/queues/%2F/new").status, 404);
    assert_eq!(bindings().as_array().unwrap().len(), 1);
    peer.publish("claudeBroker.presence", "", "who is there?");
    assert!(peer.next(&mut questions).is_some());
}

#[test]
fn a_long_queue_is_looked_through_page_by_page_in_memory_and_on_disk() {
    let server = Server::start();
    let body = r#"{"durable":true,"arguments":{"x-max-priority":2}}"#;
    server.ask("PUT", "/api/queues/%2F/q", body);
    for number in 0..150 {
        server.publish("q", &format!("kept {number}"));
    }
    // After a restart these messages are only in the store; later ones are in memory behind them.
    let server = server.restart();
    for number in 0..20 {
        server.publish_urgent("q", &format!("new {number}"));
    }
    let mut seen: Vec<String> = Vec::new();
    let mut after = String::new();
    loop {
        let path = format!("/api/queues/%2F/q/peek?count=40{after}");
        let page = server.get(&path).json();
        let page = page.as_array().unwrap();
        assert!(page.len() <= 40);
        let Some(last) = page.last() else { break };
        after = format!("&after={}", last["cursor"].as_str().unwrap());
        seen.extend(
            page.iter()
                .map(|one| one["payload"].as_str().unwrap().to_owned()),
        );
        // Removing messages in the meantime does not change the position of others.
        server.ask(
            "POST",
            "/api/queues/%2F/q/get",
            r#"{"count":1,"ackmode":"ack_requeue_false"}"#,
        );
    }
    let new = (0..20).map(|number| format!("new {number}"));
    let kept = (0..150).map(|number| format!("kept {number}"));
    assert_eq!(seen, new.chain(kept).collect::<Vec<_>>());
    assert_eq!(server.get("/api/queues/%2F/q/peek?after=x").status, 400);
}
