//! What requests may cost the broker: attacks with large heads, bodies and answers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use lapin::options::{BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldArray, FieldTable};
use lapin::{Connection, ConnectionProperties};
use serde_json::json;

use crate::fixture::Server;
use crate::http::Answer;
use crate::support::process::{forget_peak, peak_kib};
use crate::support::{self, Place};

/// A broker with the user `bob`, who may use the API and has no permissions.
fn with_bob(server: Server) -> Server {
    let user = r#"{"password":"pw","tags":"management"}"#;
    assert_eq!(server.ask("PUT", "/api/users/bob", user).status, 201);
    let nothing = r#"{"configure":"^$","write":"^$","read":"^$"}"#;
    assert!(
        server
            .ask("PUT", "/api/permissions/%2F/bob", nothing)
            .status
            < 300
    );
    server
}

#[test]
fn an_endless_request_head_is_not_collected() {
    let server = Server::start();
    let mut stream = TcpStream::connect(server.page()).unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n")
        .unwrap();
    let header = format!("x-{}: {}\r\n", "n".repeat(20), "v".repeat(8000));
    let mut sent = 0;
    while sent < 300_000 && stream.write_all(header.as_bytes()).is_ok() {
        sent += header.len();
    }
    // The broker has ended the connection, with an answer or without.
    let mut answer = Vec::new();
    let _reset = stream.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer);
    assert!(
        answer.is_empty() || text.starts_with("HTTP/1.1 431"),
        "{text}"
    );
    let head = format!("{}\r\n", header.repeat(20));
    let mut stream = TcpStream::connect(server.page()).unwrap();
    let _closed =
        stream.write_all(format!("GET / HTTP/1.1\r\nhost: localhost\r\n{head}").as_bytes());
    let mut answer = Vec::new();
    let _reset = stream.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer);
    assert!(
        !text.starts_with("HTTP/1.1 200"),
        "160 KB of head were taken: {text}"
    );
}

#[test]
fn an_expression_or_columns_of_a_user_with_few_rights_stop_no_broker() {
    let server = with_bob(Server::start());
    let get = |path: &str| {
        let answer = server.request("GET", path).password("bob", "pw").send("");
        (answer.status, answer.body)
    };
    let columns: Vec<_> = (0..1600).map(|number| format!("a.b.c{number}")).collect();
    let (columns, deep) = (columns.join(","), vec!["a"; 100].join("."));
    for query in [
        "use_regex=true&name=(((a?)%7B30%7D)%7B30%7D)%7B30%7Dx".to_owned(),
        format!("use_regex=true&name={}", "a".repeat(257)),
        format!("columns={columns}"),
        format!("columns={deep}"),
        format!("sort={deep}"),
    ] {
        for list in ["queues", "exchanges", "bindings", "connections", "vhosts"] {
            let (status, body) = get(&format!("/api/{list}?{query}"));
            assert_eq!(status, 400, "{list}?{query}: {body}");
        }
    }
    let (status, body) = get("/api/queues?use_regex=true&name=%5Ea&columns=name");
    assert_eq!((status, body.as_str()), (200, "[]"));
}

#[test]
fn a_large_body_is_not_read_from_a_user_who_may_not_use_it() {
    let server = with_bob(Server::start());
    for path in [
        "/api/exchanges/%2F/amq.default/publish",
        "/api/definitions",
        "/api/definitions/missing",
        "/api/definitions/%2F",
    ] {
        let request = server.request("POST", path).password("bob", "pw");
        let begun = request.open_part("{", 150 << 20);
        let answer = Answer::head(begun);
        assert!(matches!(answer.status, 401 | 404), "{path}: {answer:?}");
    }
}

#[test]
fn a_document_that_would_take_gigabytes_when_parsed_is_refused() {
    let server = Server::start();
    // The smallest document that is refused: a slow machine needs long to read it.
    let many = "0,".repeat(5 << 20);
    let document = format!(r#"{{"queues":[{many}0]}}"#);
    let answer = server.ask("POST", "/api/definitions", &document);
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(answer.body.contains("too large"), "{answer:?}");
    // An object takes far more than a number, however few values it has.
    let objects = r#"{"":0},"#.repeat(400_000);
    let document = format!(r#"{{"queues":[{objects}0]}}"#);
    let answer = server.ask("POST", "/api/definitions", &document);
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(answer.body.contains("too large"), "{answer:?}");
    let message = format!(
        r#"{{"properties":{{"headers":{{"a":[{many}0]}}}},"routing_key":"q","payload":"",
        "payload_encoding":"string"}}"#
    );
    let path = "/api/exchanges/%2F/amq.default/publish";
    let answer = server.ask("POST", path, &message);
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(answer.body.contains("too large"), "{answer:?}");
}

#[test]
fn properties_that_grow_in_binary_are_refused_beyond_a_frame() {
    let server = Server::start();
    server.ask("PUT", "/api/queues/%2F/q", "{}");
    for (zeros, status) in [(14_000, 200), (15_000, 400), (120_000, 400)] {
        let many = "0,".repeat(zeros);
        let message = format!(
            r#"{{"properties":{{"headers":{{"a":[{many}0]}}}},"routing_key":"q","payload":"",
            "payload_encoding":"string"}}"#
        );
        let path = "/api/exchanges/%2F/amq.default/publish";
        let answer = server.ask("POST", path, &message);
        assert_eq!(answer.status, status, "{zeros} zeros: {answer:?}");
    }
}

#[test]
fn keys_have_at_most_255_bytes_in_every_request() {
    let server = Server::start();
    server.ask("PUT", "/api/queues/%2F/q", "{}");
    for (length, fits) in [(255, true), (256, false)] {
        let key = "x".repeat(length);
        let binding = format!(r#"{{"routing_key":"{key}"}}"#);
        let publish = format!(
            r#"{{"properties":{{}},"routing_key":"{key}","payload":"",
            "payload_encoding":"string"}}"#
        );
        let document = format!(
            r#"{{"bindings":[{{"source":"amq.topic","vhost":"/","destination":"q",
            "destination_type":"queue","routing_key":"{key}","arguments":{{}}}}]}}"#
        );
        for (method, path, body) in [
            ("POST", "/api/bindings/%2F/e/amq.topic/q/q", &binding),
            ("POST", "/api/exchanges/%2F/amq.topic/publish", &publish),
            ("POST", "/api/definitions", &document),
        ] {
            let answer = server.ask(method, path, body);
            assert_eq!(answer.status < 300, fits, "{path}: {answer:?}");
        }
    }
}

#[test]
fn long_requests_to_sign_in_are_refused_and_slow_ones_keep_nobody_out() {
    let server = Server::start();
    let request = || {
        let request = server.request("POST", "/api/session");
        request.header("origin", &server.origin())
    };
    let long = format!(r#"{{"token":"{}"}}"#, "x".repeat(5000));
    assert_eq!(request().send(&long).status, 413);
    let slow: Vec<_> = (0..64)
        .map(|_| request().open_part(&long[..4000], 4096))
        .collect();
    let password = r#"{"username":"ada","password":"secret"}"#;
    assert_eq!(request().send(password).status, 200);
    drop(slow);
}

#[test]
fn a_list_of_consumers_with_large_arguments_is_rendered_one_at_a_time() {
    const CONSUMERS: usize = 40;
    /// Each takes some hundred bytes as JSON in memory, and a tenth of that in the consumer.
    const TABLES: usize = 3000;
    let place = Place::new();
    let server = support::Server::start(&place);
    let mut table = FieldTable::default();
    table.insert("".into(), AMQPValue::Boolean(true));
    let tables = vec![AMQPValue::FieldTable(table); TABLES];
    let mut arguments = FieldTable::default();
    arguments.insert("x".into(), AMQPValue::FieldArray(FieldArray::from(tables)));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let url = place.ok(["status", "--show-url"]);
    let consuming = async {
        let properties = ConnectionProperties::default();
        let connection = Connection::connect_with_runtime(
            url.trim(),
            properties,
            cbroker::peer::runtime::current(),
        )
        .await
        .unwrap();
        let channel = connection.create_channel().await.unwrap();
        let options = QueueDeclareOptions::default();
        let declared = channel.queue_declare("q".into(), options, FieldTable::default());
        declared.await.unwrap();
        // One that is dropped is cancelled.
        let mut consumers = Vec::new();
        for _ in 0..CONSUMERS {
            let options = BasicConsumeOptions::default();
            let consumer = channel.basic_consume("q".into(), "".into(), options, arguments.clone());
            consumers.push(consumer.await.unwrap());
        }
        (connection, consumers)
    };
    let limited = async { tokio::time::timeout(Duration::from_mins(3), consuming).await };
    let _consuming = runtime.block_on(limited).expect("the broker answers");
    for path in ["/api/consumers", "/api/queues/%2F/q"] {
        forget_peak(server.pid());
        let before = peak_kib(server.pid());
        let answer = server.ask(&place, "GET", path, "");
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.body.len() > CONSUMERS * TABLES * 5, "{path}");
        let more = peak_kib(server.pid()).saturating_sub(before);
        assert!(more < 40 << 10, "{path}: {more} KiB");
    }
}

/// What a refused document adds at most to the memory of a new broker, in percent of its own size.
fn growth(document: &str, reason: &str) -> u64 {
    let place = Place::new();
    let server = support::Server::start(&place);
    // What the first request of a kind loads is no part of it.
    let little = server.ask(&place, "POST", "/api/definitions/%2F", "{}");
    assert_eq!(little.status, 204, "{little:?}");
    forget_peak(server.pid());
    let before = peak_kib(server.pid());
    let answer = server.ask(&place, "POST", "/api/definitions/%2F", document);
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(answer.body.contains(reason), "{answer:?}");
    let more = peak_kib(server.pid()).saturating_sub(before) << 10;
    let growth = more * 100 / document.len() as u64;
    println!("{} bytes: {growth} percent", document.len());
    growth
}

#[test]
fn a_value_as_large_as_its_document_is_not_copied_before_it_is_refused() {
    let long = "a".repeat(60 << 20);
    for field in ["durable", "name", "auto_delete", "arguments"] {
        let document =
            format!(r#"{{"queues":[{{"name":"q","durable":true,"{field}":"{long}"}}]}}"#);
        let growth = growth(&document, "has at most 1 MiB");
        assert!(growth < 250, "{field}: {growth} percent");
    }
    let document = format!(r#"{{"rabbit_version":"{long}","queues":[]}}"#);
    let growth = growth(&document, "has at most 1 MiB");
    assert!(growth < 250, "{growth} percent");
}

#[test]
fn arguments_of_a_document_are_in_memory_once() {
    let long = "a".repeat(1 << 19);
    let queue = |name: usize| {
        format!(r#"{{"name":"q{name}","durable":true,"arguments":{{"x":"{long}"}}}},"#)
    };
    let queues: String = (0..120).map(queue).collect();
    let document = format!(r#"{{"queues":[{queues}{{"name":"last","durable":5}}]}}"#);
    let growth = growth(&document, "not_boolean");
    assert!(growth < 300, "{growth} percent");
}

/// Users or vhosts that would together take more than the 4 MiB that a small limit leaves for them.
fn many(kind: &str) -> serde_json::Value {
    let named = |number: usize| match kind {
        "users" => json!({ "name": format!("u{number}"), "password_hash": "", "tags": [] }),
        _ => json!({ "name": format!("v{number}"), "description": "x".repeat(1000) }),
    };
    (0..6000).map(named).collect()
}

#[test]
fn users_and_vhosts_fill_their_part_of_the_memory_and_no_more() {
    let place = Place::new();
    let server = support::Server::start_with(&place, 0, 0, &["--memory-limit", "64"]);
    let ask = |method: &str, path: &str, body: &str| server.ask(&place, method, path, body);
    for kind in ["users", "vhosts"] {
        let document = json!({ kind: many(kind) }).to_string();
        let refused = ask("POST", "/api/definitions", &document);
        assert_eq!(refused.status, 400, "{kind}");
        let reason = refused.json()["reason"].as_str().unwrap().to_owned();
        assert!(
            reason.contains("hold all the memory that they may (4 MiB)"),
            "{reason}"
        );
        let there = ask("GET", &format!("/api/{kind}?columns=name"), "").json();
        assert_eq!(there.as_array().unwrap().len(), 1, "nothing of it was made");
    }
    let long = json!({ "description": "x".repeat(60_000) }).to_string();
    let mut made = 0;
    let refused = loop {
        let answer = ask("PUT", &format!("/api/vhosts/v{made}"), &long);
        if answer.status != 201 {
            break answer;
        }
        made += 1;
        assert!(made < 200, "vhosts have no limit");
    };
    assert_eq!(refused.status, 400, "{refused:?}");
    let user = json!({ "password": "x", "tags": vec!["y".repeat(250); 200] }).to_string();
    assert_eq!(ask("PUT", "/api/users/late", &user).status, 400);
    // What is there may stay as it is, and what goes makes room.
    assert_eq!(ask("PUT", "/api/vhosts/v0", &long).status, 204);
    assert_eq!(ask("DELETE", "/api/vhosts/v0", "").status, 204);
    assert_eq!(ask("PUT", "/api/users/late", &user).status, 201);
    assert_eq!(ask("DELETE", "/api/users/late", "").status, 204);
    assert_eq!(ask("PUT", "/api/vhosts/v0", &long).status, 201);
}

/// Definitions, the next of a kind of which each document has 200.
fn two_hundred_more(kind: &str, document: usize) -> serde_json::Value {
    let numbers = 200 * document..200 * document + 200;
    match kind {
        "users" => json!({ "users": numbers.map(user).collect::<Vec<_>>() }),
        "vhosts" => json!({ "vhosts": numbers.map(vhost).collect::<Vec<_>>() }),
        _ => {
            let permitted = |number: usize| {
                let pattern = "^agent-[a-z]{1,20}$";
                json!({
                    "user": format!("u{document}"), "vhost": format!("v{}", number % 200),
                    "configure": pattern, "write": pattern, "read": pattern,
                })
            };
            json!({
                "vhosts": (0..200).map(vhost).collect::<Vec<_>>(),
                "users": [user(document)],
                "permissions": numbers.map(permitted).collect::<Vec<_>>(),
            })
        }
    }
}

fn user(number: usize) -> serde_json::Value {
    json!({ "name": format!("u{number}"), "password_hash": "", "tags": [] })
}

fn vhost(number: usize) -> serde_json::Value {
    json!({ "name": format!("v{number}") })
}

#[test]
fn a_hundred_thousand_users_permissions_or_vhosts_are_refused_below_the_ceiling() {
    const LIMIT_MIB: u64 = 64;
    for kind in ["users", "permissions", "vhosts"] {
        let place = Place::new();
        let limit = ["--memory-limit", &LIMIT_MIB.to_string()];
        let server = support::Server::start_with(&place, 0, 0, &limit);
        let refused = (0..500).find_map(|document| {
            let more = two_hundred_more(kind, document).to_string();
            let answer = server.ask(&place, "POST", "/api/definitions", &more);
            (answer.status != 204).then_some((document, answer))
        });
        let (made, refused) = refused.unwrap_or_else(|| panic!("{kind} have no limit"));
        assert_eq!(refused.status, 400, "{kind}");
        // Each vhost has seven exchanges.
        let full = match kind {
            "vhosts" => "exchanges, queues and bindings hold all the memory that they may",
            _ => "users, permissions and vhosts hold all the memory that they may",
        };
        assert!(refused.body.contains(full), "{kind}: {}", refused.body);
        assert!(made > 0, "{kind}: nothing was made");
        let (peak, ceiling) = (peak_kib(server.pid()) / 1024, LIMIT_MIB / 4 * 5 + 32);
        println!("{made} documents of 200 {kind}: peak {peak} MiB, ceiling {ceiling} MiB");
        assert!(peak <= ceiling, "{kind}: {peak} of {ceiling} MiB");
        let there = server.ask(&place, "GET", "/api/users", "");
        assert_eq!(there.status, 200, "{kind}: it is served as before");
    }
}

#[test]
fn a_tag_has_at_most_255_bytes() {
    let server = Server::start();
    for (bytes, status) in [(256, 400), (255, 201)] {
        let tags = ["t".repeat(bytes)];
        let user = json!({ "password": "x", "tags": tags }).to_string();
        assert_eq!(server.ask("PUT", "/api/users/bob", &user).status, status);
        let vhost = json!({ "tags": tags }).to_string();
        assert_eq!(server.ask("PUT", "/api/vhosts/v", &vhost).status, status);
    }
}
