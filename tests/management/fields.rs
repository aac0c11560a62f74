//! What RabbitMQ 3.10 says of queues, exchanges, vhosts and nodes, and what it takes for granted.

use serde_json::{Value, json};

use crate::fixture::{Server, eventually};
use crate::peers::Peer;

#[test]
fn a_queue_or_exchange_is_transient_by_default() {
    let server = Server::start();
    for (path, body) in [
        ("/api/queues/%2F/q1", "{}"),
        ("/api/queues/%2F/q2", ""),
        ("/api/exchanges/%2F/x1", "{}"),
        ("/api/exchanges/%2F/x2", ""),
    ] {
        assert_eq!(server.ask("PUT", path, body).status, 201, "{path}");
        let made = server.get(path).json();
        assert_eq!(made["durable"], false, "{path}");
        assert_eq!(made["auto_delete"], false, "{path}");
    }
    assert_eq!(server.get("/api/exchanges/%2F/x1").json()["type"], "direct");
    server.ask("PUT", "/api/queues/%2F/q3", r#"{"durable":"true"}"#);
    assert_eq!(server.get("/api/queues/%2F/q3").json()["durable"], true);
}

#[test]
fn a_queue_says_how_much_of_it_is_persistent() {
    let server = Server::start();
    server.ask("PUT", "/api/queues/%2F/kept", r#"{"durable":true}"#);
    server.ask("PUT", "/api/queues/%2F/lost", r#"{"durable":false}"#);
    for queue in ["kept", "lost"] {
        server.publish(queue, "four");
        server.publish(queue, "four");
        server.publish_urgent(queue, "12345");
    }
    let seen = |queue: &str| {
        let queue = server.get(&format!("/api/queues/%2F/{queue}")).json();
        [
            "messages",
            "messages_persistent",
            "message_bytes_persistent",
        ]
        .map(|field| queue[field].as_u64().unwrap())
    };
    assert_eq!(seen("kept"), [3, 2, 8]);
    assert_eq!(seen("lost"), [3, 0, 0]);
    // Those in a client's hands count, and those that are gone do not.
    let peer = Peer::connect(&server);
    let mut consumer = peer.attach("kept");
    peer.ack_next(&mut consumer);
    eventually("one of two left", || {
        (seen("kept") == [2, 1, 4]).then_some(())
    });
    drop(peer);
    eventually("both back", || {
        let queue = server.get("/api/queues/%2F/kept").json();
        (queue["messages_ready"] == 2).then_some(())
    });
    assert_eq!(seen("kept"), [2, 1, 4]);
    server.ask("DELETE", "/api/queues/%2F/kept/contents", "");
    assert_eq!(seen("kept"), [0, 0, 0]);
    // What comes back from the store is persistent.
    server.publish("kept", "four");
    let server = server.restart();
    let queue = server.get("/api/queues/%2F/kept").json();
    assert_eq!(queue["messages_persistent"], 1);
}

#[test]
fn a_queue_names_the_one_consumer_that_it_gives_to() {
    let server = Server::start();
    let single = r#"{"arguments":{"x-single-active-consumer":true}}"#;
    server.ask("PUT", "/api/queues/%2F/single", single);
    server.ask("PUT", "/api/queues/%2F/plain", "{}");
    let field = |queue: &str| {
        let queue = server.get(&format!("/api/queues/%2F/{queue}")).json();
        queue["single_active_consumer_tag"].clone()
    };
    assert_eq!(field("single"), Value::Null);
    let peer = Peer::connect(&server);
    let (first, _second) = (peer.attach("single"), peer.attach("single"));
    let _other = peer.attach("plain");
    assert_eq!(field("single"), first.tag().as_str());
    assert_eq!(field("plain"), Value::Null);
}

#[test]
fn a_queue_says_how_well_its_consumers_keep_up() {
    let server = Server::start();
    server.ask("PUT", "/api/queues/%2F/q", "{}");
    let utilisation = || {
        let queue = server.get("/api/queues/%2F/q").json();
        assert_eq!(queue["consumer_utilisation"], queue["consumer_capacity"]);
        queue["consumer_utilisation"].as_f64().unwrap()
    };
    assert!(utilisation() < 0.001, "there are none");
    let peer = Peer::connect(&server);
    peer.prefetch(1);
    let mut consumer = peer.attach("q");
    assert!(utilisation() > 0.999, "they wait for messages");
    server.publish("q", "1");
    server.publish("q", "2");
    eventually("messages that wait for an ack", || {
        (utilisation() < 0.5).then_some(())
    });
    peer.ack_next(&mut consumer);
    peer.ack_next(&mut consumer);
    eventually("consumers that wait again", || {
        (utilisation() > 0.999).then_some(())
    });
}

#[test]
fn exchanges_and_vhosts_count_what_goes_through_them() {
    let server = Server::start();
    for queue in ["q1", "q2"] {
        server.ask("PUT", &format!("/api/queues/%2F/{queue}"), "{}");
        let path = format!("/api/bindings/%2F/e/amq.fanout/q/{queue}");
        server.ask("POST", &path, "{}");
    }
    let peer = Peer::connect(&server);
    for _ in 0..3 {
        peer.publish("amq.fanout", "", "x");
    }
    peer.publish("", "q1", "x");
    peer.publish("amq.direct", "nobody", "x");
    peer.take("q1");
    let flow = |name: &str| {
        let exchange = server.get(&format!("/api/exchanges/%2F/{name}")).json();
        ["publish_in", "publish_out"].map(|field| exchange["message_stats"][field].clone())
    };
    eventually("all of them", || {
        (flow("amq.fanout") == [json!(3), json!(6)]).then_some(())
    });
    assert_eq!(flow("amq.default"), [json!(1), json!(1)]);
    eventually("the one without a queue", || {
        (flow("amq.direct") == [json!(1), json!(0)]).then_some(())
    });
    let listed = server.get("/api/exchanges/%2F").json();
    let listed = listed.as_array().unwrap().iter();
    let fanout = listed.filter(|exchange| exchange["name"] == "amq.fanout");
    let counts: Vec<_> = fanout
        .map(|exchange| &exchange["message_stats"]["publish_in"])
        .collect();
    assert_eq!(counts, [&json!(3)]);
    let of_vhost = |fields: [&str; 3]| {
        let vhost = server.get("/api/vhosts/%2F").json();
        fields.map(|field| vhost["message_stats"][field].clone())
    };
    eventually("the vhost's", || {
        let seen = of_vhost(["publish", "get", "ack"]);
        (seen == [json!(5), json!(1), json!(1)]).then_some(())
    });
    // What is gone was counted nevertheless.
    drop(peer);
    for queue in ["q1", "q2"] {
        server.ask("DELETE", &format!("/api/queues/%2F/{queue}"), "");
    }
    eventually("a later look", || {
        let overview = server.get("/api/overview").json();
        (overview["object_totals"]["queues"] == 0 && overview["object_totals"]["connections"] == 0)
            .then_some(())
    });
    assert_eq!(
        of_vhost(["publish", "get", "ack"]),
        [json!(5), json!(1), json!(1)]
    );
}

#[test]
fn the_metrics_count_what_channels_did_that_nobody_saw_open() {
    let server = Server::start();
    server.ask("PUT", "/api/queues/%2F/q", "{}");
    for _ in 0..3 {
        // Between two looks a channel opens, publishes and closes.
        Peer::publish_and_leave(&server, "q");
        Peer::publish_and_leave(&server, "no such queue");
    }
    eventually("all that was published, confirmed and returned", || {
        let metrics = server.get("/metrics").body;
        let counted = |name: &str| metrics.lines().any(|line| line == name);
        (counted("cbroker_messages_published_total 6")
            && counted("cbroker_messages_confirmed_total 6")
            && counted("cbroker_messages_unroutable_total 3"))
        .then_some(())
    });
}

#[test]
fn a_slash_at_the_end_of_a_path_changes_nothing() {
    let server = Server::start();
    for (method, path, body, status) in [
        ("PUT", "/api/vhosts/v/", "", 201),
        ("PUT", "/api/queues/%2F/q/", "{}", 201),
        ("PUT", "/api/exchanges/%2F/x/", r#"{"type":"fanout"}"#, 201),
        (
            "POST",
            "/api/bindings/%2F/e/x/q/q/",
            r#"{"routing_key":"k"}"#,
            201,
        ),
        ("GET", "/api/queues/", "", 200),
        ("GET", "/api/queues/%2F/", "", 200),
        ("GET", "/api/queues/%2F/q/", "", 200),
        ("GET", "/api/bindings/%2F/e/x/q/q/k/", "", 200),
        ("GET", "/api/overview/?columns=node", "", 200),
        ("DELETE", "/api/queues/%2F/q/contents/", "", 204),
        ("DELETE", "/api/queues/%2F/q/", "", 204),
        ("GET", "/api/queues/%2F/q/", "", 404),
    ] {
        let answer = server.ask(method, path, body);
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
    }
}

#[test]
fn limits_and_feature_flags_have_their_paths() {
    let server = Server::start();
    for path in [
        "/api/feature-flags",
        "/api/vhost-limits",
        "/api/vhost-limits/%2F",
        "/api/user-limits",
        "/api/user-limits/ada",
    ] {
        let answer = server.get(path);
        assert_eq!((answer.status, answer.json()), (200, json!([])), "{path}");
    }
}

#[test]
fn nodes_and_connections_say_what_they_may_and_do_hold() {
    let server = Server::start();
    let node = server.get("/api/nodes").json()[0].clone();
    assert!(node["disk_free_limit"].as_u64().unwrap() > 0);
    let _peer = Peer::connect(&server);
    let connection = server.get("/api/connections").json()[0].clone();
    assert!(
        connection["held_bytes"].as_u64().unwrap() >= 4096,
        "its read buffer"
    );
}

#[test]
fn a_get_brings_everything_that_was_asked_for_though_the_store_has_it() {
    const COUNT: usize = 40;
    let server = Server::start();
    server.ask("PUT", "/api/queues/%2F/q", r#"{"durable":true}"#);
    let body = "x".repeat(1_000_000);
    for _ in 0..COUNT {
        server.publish("q", &body);
    }
    let server = server.restart();
    let get = |mode: &str| {
        let body = json!({ "count": 100_000, "ackmode": mode, "encoding": "auto" });
        let answer = server.ask("POST", "/api/queues/%2F/q/get", &body.to_string());
        let got = answer.json();
        let got = got.as_array().unwrap();
        assert!(
            got.iter()
                .all(|message| message["payload_bytes"] == 1_000_000)
        );
        got.len()
    };
    assert_eq!(get("ack_requeue_true"), COUNT);
    assert_eq!(get("ack_requeue_false"), COUNT);
    assert_eq!(get("ack_requeue_false"), 0);
}

/// A request that is refused: method, path, body and the reason of the answer.
type Refused = (&'static str, &'static str, Value, Value);

fn refused_for_queues() -> Vec<Refused> {
    const PUBLISH: &str = "/api/exchanges/%2F/amq.default/publish";
    const GET: &str = "/api/queues/%2F/q/get";
    vec![
        (
            "PUT",
            "/api/queues/%2F/p",
            json!({ "durable": 5 }),
            json!(["not_boolean", 5]),
        ),
        (
            "PUT",
            "/api/queues/%2F/p",
            json!({ "auto_delete": "x" }),
            json!(["not_boolean", "x"]),
        ),
        ("PUT", "/api/queues/%2F/p", json!([1]), json!("not_json")),
        (
            "POST",
            GET,
            json!({ "count": "x", "ackmode": "ack_requeue_true", "encoding": "auto" }),
            json!(["not_integer", "x"]),
        ),
        (
            "POST",
            GET,
            json!({ "count": 1, "ackmode": "ack_requeue_true", "encoding": "nope" }),
            json!("Unsupported encoding. Please use auto or base64."),
        ),
        (
            "POST",
            GET,
            json!({ "count": 1, "encoding": "auto" }),
            json!("[{key_missing,ackmode}]"),
        ),
        (
            "POST",
            PUBLISH,
            json!({
                "properties": {}, "routing_key": "q", "payload": 5, "payload_encoding": "string",
            }),
            json!("payload_not_string"),
        ),
        (
            "POST",
            PUBLISH,
            json!({
                "properties": {}, "routing_key": "q", "payload": "", "payload_encoding": "no",
            }),
            json!(["unsupported_encoding", "no"]),
        ),
    ]
}

fn refused_for_users_and_vhosts() -> Vec<Refused> {
    vec![
        (
            "PUT",
            "/api/users/bob",
            json!({ "password": 5, "tags": "" }),
            json!("password: a value of another type is needed"),
        ),
        (
            "PUT",
            "/api/users/bob",
            json!({ "tags": 5 }),
            json!(["not_a_list_of_tags", 5]),
        ),
        (
            "PUT",
            "/api/vhosts/v",
            json!({ "tags": 5 }),
            json!(["not_a_list_of_tags", 5]),
        ),
        (
            "PUT",
            "/api/permissions/%2F/nobody",
            json!({ "configure": "", "write": "", "read": "" }),
            json!("vhost_or_user_not_found"),
        ),
        (
            "PUT",
            "/api/permissions/nowhere/ada",
            json!({ "configure": "", "write": "", "read": "" }),
            json!("vhost_or_user_not_found"),
        ),
    ]
}

#[test]
fn refusals_are_rabbitmqs_and_name_nothing_of_this_program() {
    let server = Server::start();
    server.ask("PUT", "/api/queues/%2F/q", "{}");
    let requests = refused_for_queues()
        .into_iter()
        .chain(refused_for_users_and_vhosts());
    for (method, path, body, reason) in requests {
        let refused = server.ask(method, path, &body.to_string());
        assert_eq!(refused.status, 400, "{path} {body}");
        assert_eq!(refused.json()["reason"], reason, "{path} {body}");
    }
    assert_eq!(server.get("/api/users/bob").status, 404);
    assert_eq!(server.get("/api/vhosts/v").status, 404);
    for path in [
        "/api/queues?page=1&page=2",
        "/api/queues/%ff",
        "/api/queues/%2F/%ff",
        "/api/queues/%2F/q/bindings/%ff",
    ] {
        let refused = server.get(path);
        let told = if refused.status == 404 {
            "Not Found"
        } else {
            "the path, the query or the body cannot be understood"
        };
        assert_eq!(refused.json()["reason"], told, "{path}: {}", refused.status);
    }
}

#[test]
fn a_new_binding_says_where_it_is_whatever_is_in_its_names() {
    let server = Server::start();
    server.ask("PUT", "/api/queues/%2F/a%2Fb", "{}");
    let ends = "/api/bindings/%2F/e/amq.direct/q/a%2Fb";
    for (key, location) in [("k", "a%2Fb/k"), ("k/l", "a%2Fb/k%252Fl"), ("", "a%2Fb/~")] {
        let body = json!({ "routing_key": key }).to_string();
        let made = server.ask("POST", ends, &body);
        assert_eq!(
            (made.status, made.header("location")),
            (201, Some(location))
        );
        let place = format!("/api/bindings/%2F/e/amq.direct/q/{location}");
        assert_eq!(server.get(&place).json()["routing_key"], key, "{place}");
    }
}
