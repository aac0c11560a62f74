//! What RabbitMQ's tools rely on: statuses, fields and texts as in RabbitMQ 3.10.

use serde_json::{Value, json};

use crate::fixture::{PASSWORD, Server, USER, eventually};
use crate::peers::Peer;

#[test]
fn a_queue_is_declared_once_and_then_it_must_agree() {
    let server = Server::start();
    let put = |body: &str| server.ask("PUT", "/api/queues/%2F/q", body);
    assert_eq!(put(r#"{"durable":false}"#).status, 201);
    assert_eq!(put(r#"{"durable":false}"#).status, 204);
    let refused = put(r#"{"durable":true}"#);
    assert_eq!(refused.status, 400);
    let reason = "inequivalent arg 'durable' for queue 'q' in vhost '/': \
                  received 'true' but current is 'false'";
    assert_eq!(
        refused.json(),
        json!({ "error": "bad_request", "reason": reason })
    );
    let bad = server.ask(
        "PUT",
        "/api/queues/%2F/p",
        r#"{"arguments":{"x-message-ttl":-1}}"#,
    );
    let reason = "invalid arg 'x-message-ttl' for queue 'p' in vhost '/': {value_negative,-1}";
    assert_eq!(bad.json()["reason"], reason);
    assert_eq!(
        server.ask("PUT", "/api/queues/%2F/p", "nojson").json()["reason"],
        "not_json"
    );
}

#[test]
fn an_object_that_does_not_exist_is_not_found() {
    let server = Server::start();
    for path in [
        "/api/queues/%2F/nope",
        "/api/exchanges/%2F/nope",
        "/api/nope",
        "/api/vhosts/nope",
        "/api/connections/nope",
        "/nope",
    ] {
        let answer = server.get(path);
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(
            answer.json(),
            json!({ "error": "Object Not Found", "reason": "Not Found" })
        );
    }
    assert_eq!(server.ask("PUT", "/api/overview", "{}").status, 405);
}

#[test]
fn messages_are_published_got_given_back_and_taken() {
    let server = Server::start();
    server.ask("PUT", "/api/queues/%2F/q", "{}");
    let body = json!({
        "properties": { "headers": { "n": 1 }, "content_type": "text/plain" },
        "routing_key": "q", "payload": "aGk=", "payload_encoding": "base64",
    });
    let publish = "/api/exchanges/%2F/amq.default/publish";
    let routed = server.ask("POST", publish, &body.to_string());
    assert_eq!(routed.json(), json!({ "routed": true }));
    let get = |mode: &str| {
        let body = json!({ "count": 5, "ackmode": mode, "encoding": "auto" });
        server
            .ask("POST", "/api/queues/%2F/q/get", &body.to_string())
            .json()
    };
    let got = get("ack_requeue_true");
    assert_eq!(got[0]["payload"], "hi");
    assert_eq!(
        got[0]["properties"],
        json!({ "headers": { "n": 1 }, "content_type": "text/plain" })
    );
    assert_eq!(got[0]["redelivered"], false);
    assert_eq!(get("ack_requeue_false")[0]["redelivered"], true);
    assert_eq!(get("ack_requeue_false"), json!([]));
}

#[test]
fn a_message_for_nobody_is_not_routed_and_an_unknown_exchange_is_named() {
    let server = Server::start();
    let body = r#"{"properties":{},"routing_key":"x","payload":"","payload_encoding":"string"}"#;
    let publish = |exchange: &str| {
        server.ask(
            "POST",
            &format!("/api/exchanges/%2F/{exchange}/publish"),
            body,
        )
    };
    assert_eq!(publish("amq.fanout").json(), json!({ "routed": false }));
    let unknown = publish("nope");
    assert_eq!(unknown.status, 400);
    assert_eq!(
        unknown.json()["reason"],
        "404 NOT_FOUND - no exchange 'nope' in vhost '/'"
    );
}

#[test]
fn bindings_are_made_found_and_taken_away_by_their_key() {
    let server = Server::start();
    server.ask("PUT", "/api/queues/%2F/q", "{}");
    let ends = "/api/bindings/%2F/e/amq.topic/q/q";
    let made = server.ask("POST", ends, r#"{"routing_key":"a.#"}"#);
    assert_eq!(
        (made.status, made.header("location")),
        (201, Some("q/a.%2523"))
    );
    server.ask("POST", ends, r#"{"routing_key":"a.#","arguments":{"m":1}}"#);
    let between = server.get(ends).json();
    assert_eq!(between.as_array().unwrap().len(), 2);
    let with_arguments = between[1]["properties_key"].as_str().unwrap().to_owned();
    assert!(with_arguments.starts_with("a.%23~"), "{with_arguments}");
    assert_eq!(
        server.ask("DELETE", &format!("{ends}/a.%23"), "").status,
        204
    );
    let twice = with_arguments.replace('%', "%25");
    assert_eq!(
        server.ask("DELETE", &format!("{ends}/{twice}"), "").status,
        204
    );
    assert_eq!(server.ask("DELETE", &format!("{ends}/zz"), "").status, 404);
    let left = server.get("/api/queues/%2F/q/bindings").json();
    assert_eq!(left.as_array().unwrap().len(), 1, "the default one stays");
    assert_eq!(left[0]["source"], "");
    let nowhere = server.ask("POST", "/api/bindings/%2F/e/amq.direct/q/nope", "{}");
    assert_eq!(
        (nowhere.status, nowhere.json()["reason"].clone()),
        (404, json!("no queue 'nope' in vhost '/'"))
    );
}

#[test]
fn lists_come_in_pages() {
    let server = Server::start();
    for number in 0..7 {
        server.ask("PUT", &format!("/api/queues/%2F/q{number}"), "{}");
    }
    let page = server
        .get("/api/queues?page=2&page_size=3&name=q&columns=name&sort=name")
        .json();
    assert_eq!(
        page["items"],
        json!([{ "name": "q3" }, { "name": "q4" }, { "name": "q5" }])
    );
    assert_eq!(
        (&page["page_count"], &page["total_count"]),
        (&json!(3), &json!(7))
    );
    assert_eq!(server.get("/api/queues?page=9").status, 400);
}

#[test]
fn a_selected_column_equals_the_field_of_the_whole_object() {
    let server = Server::start();
    server.ask(
        "PUT",
        "/api/queues/%2F/q",
        r#"{"arguments":{"x-max-length":9}}"#,
    );
    server.publish("q", "x");
    let columns = "name,vhost,durable,auto_delete,arguments,consumers,messages_ready,\
                   messages_unacknowledged,messages,state";
    let narrow = server.get(&format!("/api/queues?columns={columns}")).json();
    let whole = server.get("/api/queues").json();
    for column in columns.split(',') {
        assert_eq!(narrow[0][column], whole[0][column], "{column}");
        assert!(!whole[0][column].is_null(), "{column}");
    }
}

#[test]
fn users_and_permissions_rule_what_may_be_done() {
    let server = Server::start();
    let put = |path: &str, body: &str| server.ask("PUT", path, body).status;
    assert_eq!(
        put("/api/users/bob", r#"{"password":"pw"}"#),
        400,
        "no tags"
    );
    assert_eq!(
        put("/api/users/bob", r#"{"password":"pw","tags":"management"}"#),
        201
    );
    let bob = |method: &str, path: &str, body: &str| {
        server
            .request(method, path)
            .password("bob", "pw")
            .send(body)
    };
    assert_eq!(
        bob("GET", "/api/users", "").json()["reason"],
        "Not administrator user"
    );
    assert_eq!(
        bob("GET", "/api/queues/%2F", "").json()["reason"],
        "User not authorised to access virtual host"
    );
    let allowed = r#"{"configure":"^bob-","write":"","read":""}"#;
    assert_eq!(put("/api/permissions/%2F/bob", allowed), 201);
    assert_eq!(bob("PUT", "/api/queues/%2F/bob-q", "{}").status, 201);
    assert_eq!(bob("PUT", "/api/queues/%2F/q", "{}").status, 401);
    let purge = "/api/queues/%2F/bob-q/contents";
    assert_eq!(
        bob("DELETE", purge, "").status,
        401,
        "reading is not allowed"
    );
    assert_eq!(
        put(
            "/api/permissions/%2F/bob",
            r#"{"configure":"(","write":"","read":""}"#
        ),
        400
    );
    assert_eq!(server.ask("DELETE", "/api/users/bob", "").status, 204);
    assert_eq!(bob("GET", "/api/whoami", "").status, 401);
}

#[test]
fn a_user_without_a_tag_may_not_use_the_api() {
    let server = Server::start();
    server.ask("PUT", "/api/users/app", r#"{"password":"pw","tags":""}"#);
    let refused = server
        .request("GET", "/api/whoami")
        .password("app", "pw")
        .send("");
    assert_eq!(
        (refused.status, refused.json()["reason"].clone()),
        (401, json!("Not management user"))
    );
}

#[test]
fn users_vhosts_and_topology_survive_a_restart() {
    let server = Server::start();
    server.ask(
        "PUT",
        "/api/users/bob",
        r#"{"password":"pw","tags":"monitoring"}"#,
    );
    server.ask("PUT", "/api/vhosts/v2", "");
    server.ask(
        "PUT",
        "/api/permissions/v2/bob",
        r#"{"configure":".*","write":"","read":""}"#,
    );
    server.ask("PUT", "/api/queues/v2/q", r#"{"durable":true}"#);
    let server = server.restart();
    let bob = server
        .request("GET", "/api/queues/v2")
        .password("bob", "pw")
        .send("");
    assert_eq!(bob.json()[0]["name"], "q");
    assert_eq!(server.ask("DELETE", "/api/vhosts/v2", "").status, 204);
    let server = server.restart();
    assert_eq!(server.get("/api/vhosts/v2").status, 404);
    assert_eq!(
        server.get("/api/users/bob/permissions").json(),
        json!([]),
        "they went with the vhost"
    );
}

#[test]
fn connections_channels_and_consumers_are_seen_and_can_be_closed() {
    let server = Server::start();
    let peer = Peer::connect(&server);
    peer.declare_session("backend");
    let _consumer = peer.attach("backend");
    let connection = eventually("the connection", || {
        let list = server.get("/api/connections").json();
        list.get(0)
            .filter(|link| link["state"] == "running")
            .cloned()
    });
    assert_eq!(
        (&connection["user"], &connection["vhost"]),
        (&json!(USER), &json!("/"))
    );
    assert_eq!(connection["channels"], 1);
    let name = connection["name"].as_str().unwrap();
    let channel = server.get("/api/channels").json()[0].clone();
    assert_eq!(channel["name"], format!("{name} (1)"));
    assert_eq!(channel["consumer_count"], 1);
    let consumer = server.get("/api/consumers/%2F").json()[0].clone();
    assert_eq!(
        consumer["queue"],
        json!({ "name": "backend", "vhost": "/" })
    );
    assert_eq!(consumer["channel_details"]["connection_name"], name);
    let escaped = name.replace(' ', "%20").replace('>', "%3E");
    let path = format!("/api/connections/{escaped}");
    assert_eq!(
        server.get(&format!("{path}/channels")).json()[0]["number"],
        1
    );
    assert_eq!(server.ask("DELETE", &path, "").status, 204);
    eventually("its end", || {
        (server.get(&path).status == 404).then_some(())
    });
    assert_eq!(server.get("/api/consumers").json(), json!([]));
}

#[test]
fn the_checks_of_health_say_ok() {
    let server = Server::start();
    let port = format!("/api/health/checks/port-listener/{}", server.amqp.port());
    for path in [
        "/api/aliveness-test/%2F",
        "/api/health/checks/alarms",
        "/api/health/checks/local-alarms",
        "/api/health/checks/virtual-hosts",
        "/api/health/checks/protocol-listener/amqp",
        &port,
    ] {
        let answer = server.get(path);
        assert_eq!(
            (answer.status, answer.json()["status"].clone()),
            (200, json!("ok")),
            "{path}"
        );
    }
    assert_eq!(
        server
            .get("/api/health/checks/protocol-listener/mqtt")
            .status,
        503
    );
}

#[test]
fn the_overview_counts_what_happens() {
    let server = Server::start();
    server.ask("PUT", "/api/queues/%2F/q", "{}");
    server.publish("q", "x");
    eventually("the message in the totals", || {
        let overview = server.get("/api/overview").json();
        (overview["queue_totals"]["messages"] == 1 && overview["object_totals"]["queues"] == 1)
            .then_some(())
    });
    let node = &server.get("/api/nodes").json()[0];
    assert_eq!(node["running"], true);
    assert!(node["mem_used"].as_u64().unwrap() > 0);
    assert_eq!(
        server.get("/api/whoami").json(),
        json!({ "name": USER, "tags": ["administrator"] })
    );
    let history = server.get("/api/history").json();
    assert!(!history["at_ms"].as_array().unwrap().is_empty());
}

/// Every path of the document is served for its method. Without a login, only the public files are.
#[test]
fn the_openapi_document_is_what_is_served() {
    let server = Server::start();
    let document = server.get("/api/openapi.json").json();
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 70, "{}", paths.len());
    let open = [
        "/",
        "/live.js",
        "/broker.js",
        "/attention.js",
        "/compose.js",
        "/control.js",
        "/dom.js",
        "/sign_in.js",
        "/drawer.js",
        "/envelope.js",
        "/message.js",
        "/model.js",
        "/names.js",
        "/page.css",
        "/page.js",
        "/archive.js",
        "/proof.js",
        "/session_status.js",
        "/stream.js",
        "/confirm.js",
        "/views.js",
        "/api/auth",
    ];
    for (path, methods) in paths {
        let real: String = path
            .split('/')
            .map(|part| if part.starts_with('{') { "1" } else { part })
            .collect::<Vec<_>>()
            .join("/");
        for (method, told) in methods.as_object().unwrap() {
            let answer = server.request(&method.to_uppercase(), &real).send("");
            let expected = if open.contains(&path.as_str()) {
                200
            } else if (path.as_str(), method.as_str()) == ("/api/session", "post") {
                403
            } else {
                401
            };
            assert_eq!(answer.status, expected, "{method} {path}");
            let named = path.matches('{').count();
            assert_eq!(
                told["parameters"].as_array().unwrap().len(),
                named,
                "{path}"
            );
        }
        let answer = server.ask("PATCH", &real, "");
        assert_eq!(answer.status, 405, "{path} is a route");
    }
}

#[test]
fn a_wrong_password_is_counted_and_refused() {
    let server = Server::start();
    let wrong = server
        .request("GET", "/api/whoami")
        .password(USER, "wrong")
        .send("");
    assert_eq!(
        wrong.json(),
        json!({ "error": "not_authorized", "reason": "Login failed" })
    );
    let metrics = server.get("/metrics").body;
    assert!(
        metrics.contains("cbroker_logins_refused_total 1"),
        "{metrics}"
    );
    assert!(!metrics.contains(PASSWORD));
}

#[test]
fn a_body_that_is_too_large_is_refused_before_it_is_read() {
    let server = Server::start();
    let large = Value::String("x".repeat(100 * 1024)).to_string();
    let refused = server
        .request("POST", "/api/session")
        .header("origin", &server.origin())
        .send(&large);
    assert_eq!(refused.status, 413);
}
