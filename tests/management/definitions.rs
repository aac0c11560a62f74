//! Export and import of definitions.

use serde_json::{Value, json};

use crate::fixture::{PASSWORD, Server, USER};

fn names(list: &Value) -> Vec<&str> {
    let names = list.as_array().unwrap().iter();
    names.map(|item| item["name"].as_str().unwrap()).collect()
}

#[test]
fn one_broker_imports_what_another_exported() {
    let server = Server::start();
    for (path, body) in [
        ("/api/vhosts/v2", ""),
        ("/api/users/bob", r#"{"password":"pw","tags":"monitoring"}"#),
        (
            "/api/permissions/v2/bob",
            r#"{"configure":"","write":".*","read":"^q"}"#,
        ),
        (
            "/api/queues/v2/q",
            r#"{"arguments":{"x-max-length":10,"x-overflow":"reject-publish"}}"#,
        ),
        (
            "/api/exchanges/v2/x",
            r#"{"type":"topic","internal":true,"arguments":{"alternate-exchange":"amq.fanout"}}"#,
        ),
    ] {
        assert_eq!(server.ask("PUT", path, body).status, 201, "{path}");
    }
    let bind = server.ask(
        "POST",
        "/api/bindings/v2/e/x/q/q",
        r#"{"routing_key":"a.#","arguments":{"m":1}}"#,
    );
    assert_eq!(bind.status, 201);
    let document = server.get("/api/definitions");
    let other = Server::start();
    assert_eq!(
        other.ask("POST", "/api/definitions", &document.body).status,
        204
    );
    let brought = other.get("/api/definitions").json();
    let exported = document.json();
    for part in ["vhosts", "queues", "exchanges", "bindings", "permissions"] {
        assert_eq!(brought[part], exported[part], "{part}");
    }
    assert_eq!(names(&brought["users"]), [USER, "bob"]);
    let bob = other.request("GET", "/api/whoami").password("bob", "pw");
    assert_eq!(bob.send("").status, 200, "the password's hash came along");
}

#[test]
fn importing_the_same_definitions_again_signs_nobody_out() {
    let server = Server::start();
    let cookie = server.sign_in();
    let document = server.get("/api/definitions").body;
    assert_eq!(
        server.ask("POST", "/api/definitions", &document).status,
        204
    );
    let still = server.request("GET", "/api/session").signed_in(&cookie);
    assert_eq!(still.send("").status, 200);
}

#[test]
fn a_vhosts_topology_moves_to_another() {
    let server = Server::start();
    server.ask("PUT", "/api/queues/%2F/q", "{}");
    server.ask("POST", "/api/bindings/%2F/e/amq.direct/q/q", "{}");
    server.ask("PUT", "/api/vhosts/v2", "");
    let document = server.get("/api/definitions/%2F");
    assert_eq!(document.json()["queues"][0].get("vhost"), None);
    let brought = server.ask("POST", "/api/definitions/v2", &document.body);
    assert_eq!(brought.status, 204);
    assert_eq!(names(&server.get("/api/queues/v2").json()), ["q"]);
}

/// Documents with one faulty object each, and the reason that the refusal gives.
fn faulty_documents() -> Vec<(Value, &'static str)> {
    let mut documents = faulty_queues();
    documents.extend(faulty_exchanges_and_bindings());
    documents.extend(faulty_users_and_shapes());
    documents
}

fn queue(name: &str, vhost: &str) -> Value {
    json!({ "name": name, "vhost": vhost, "durable": true })
}

fn faulty_queues() -> Vec<(Value, &'static str)> {
    let fine = queue("fine", "/");
    vec![
        (
            json!({ "queues": [fine, queue("q", "nope")] }),
            "queue 'q' in vhost 'nope': no vhost 'nope'",
        ),
        (
            json!({ "queues": [fine, queue("amq.q", "/")] }),
            "queue 'amq.q' in vhost '/': Access refused.",
        ),
        (
            json!({ "queues": [fine, { "name": "q", "vhost": "/" }] }),
            "queue 'q' in vhost '/': [{key_missing,durable}]",
        ),
        (
            json!({ "queues": [fine, { "name": "q", "vhost": "/", "durable": 5 }] }),
            "queue 'q' in vhost '/': [\"not_boolean\",5]",
        ),
        (
            json!({ "queues": [fine, { "name": "there", "vhost": "/", "durable": true }] }),
            "queue 'there' in vhost '/': \
             inequivalent arg 'durable' for queue 'there' in vhost '/': \
             received 'true' but current is 'false'",
        ),
    ]
}

fn faulty_exchanges_and_bindings() -> Vec<(Value, &'static str)> {
    let fine = queue("fine", "/");
    let exchange = |name: &str, kind: &str| {
        json!({
            "name": name, "vhost": "/", "type": kind, "durable": true,
        })
    };
    let binding = |source: &str, destination: &str| {
        json!({
            "source": source, "vhost": "/", "destination": destination, "destination_type": "queue",
            "routing_key": "k", "arguments": {},
        })
    };
    vec![
        (
            json!({ "queues": [fine], "exchanges": [exchange("x", "nope")] }),
            "exchange 'x' in vhost '/': unknown exchange type 'nope'",
        ),
        (
            json!({ "queues": [fine], "exchanges": [exchange("amq.x", "direct")] }),
            "exchange 'amq.x' in vhost '/': Access refused.",
        ),
        (
            json!({ "queues": [fine], "bindings": [binding("amq.direct", "nope")] }),
            "binding from 'amq.direct' to 'nope' in vhost '/': no queue 'nope' in vhost '/'",
        ),
        (
            json!({ "queues": [fine], "bindings": [binding("nope", "fine")] }),
            "binding from 'nope' to 'fine' in vhost '/': no exchange 'nope' in vhost '/'",
        ),
    ]
}

fn faulty_users_and_shapes() -> Vec<(Value, &'static str)> {
    vec![
        (
            json!({ "vhosts": [{ "name": "new" }], "users": [{ "name": "bob" }] }),
            "user 'bob': tags_not_present",
        ),
        (
            json!({ "users": [{ "name": "bob", "tags": "" }, { "name": "bob", "tags": "" }] }),
            "user 'bob': it occurs twice",
        ),
        (
            json!({
                "vhosts": [{ "name": "new" }],
                "permissions": [
                    { "user": "eve", "vhost": "new", "configure": "", "write": "", "read": "" },
                ],
            }),
            "permissions of 'eve' in vhost 'new': no user 'eve'",
        ),
        (json!({ "queues": {} }), "queues must be a list"),
        (json!([]), "failed_to_parse_json"),
    ]
}

#[test]
fn a_document_that_cannot_be_changes_nothing_and_names_what_cannot_be() {
    let server = Server::start();
    server.ask("PUT", "/api/queues/%2F/there", r#"{"durable":false}"#);
    let everything = || {
        let paths = ["definitions", "vhosts", "users", "queues"];
        paths.map(|path| names_of(&server.get(&format!("/api/{path}")).json()))
    };
    let before = everything();
    for (document, told) in faulty_documents() {
        let refused = server.ask("POST", "/api/definitions", &document.to_string());
        assert_eq!(refused.status, 400, "{document}");
        assert_eq!(refused.json()["reason"], told, "{document}");
        assert_eq!(everything(), before, "{document}");
    }
}

/// What there is, without the figures that change by themselves.
fn names_of(answer: &Value) -> Value {
    match answer {
        Value::Array(_) => json!(names(answer)),
        document => json!([
            document["queues"],
            document["exchanges"],
            document["bindings"]
        ]),
    }
}

#[test]
fn server_named_queues_can_be_imported_again() {
    let server = Server::start();
    let name = "amq.gen-Tz8oYFsS6mX7yFpWlOVoDA";
    let queue = json!({
        "name": name, "vhost": "/", "durable": true, "auto_delete": false, "arguments": {},
    });
    let binding = json!({
        "source": "amq.fanout", "vhost": "/", "destination": name, "destination_type": "queue",
        "routing_key": "", "arguments": {},
    });
    let document = json!({ "queues": [queue], "bindings": [binding] }).to_string();
    assert_eq!(
        server.ask("POST", "/api/definitions", &document).status,
        204
    );
    let exported = server.get("/api/definitions").body;
    let path = format!("/api/queues/%2F/{name}");
    assert_eq!(server.ask("DELETE", &path, "").status, 204);
    assert_eq!(
        server.ask("POST", "/api/definitions", &exported).status,
        204
    );
    let bound = server.get(&format!("{path}/bindings")).json();
    assert_eq!(bound.as_array().unwrap().len(), 2);
    // Nobody makes such names up by the API.
    assert_eq!(
        server.ask("PUT", "/api/queues/%2F/amq.gen-x", "{}").status,
        401
    );
}

/// RabbitMQ accepts such a key, and so did older versions. The broker refused its own export.
#[test]
fn a_queue_whose_dead_letter_key_is_too_long_is_imported_and_not_declared() {
    let server = Server::start();
    let arguments = json!({
        "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "k".repeat(300),
    });
    let queue = json!({ "durable": true, "auto_delete": false, "arguments": arguments });
    let declare = || server.ask("PUT", "/api/queues/%2F/q", &queue.to_string());
    let refused = declare();
    assert_eq!(refused.status, 400);
    let reason = "invalid arg 'x-dead-letter-routing-key'";
    assert!(refused.body.contains(reason), "{}", refused.body);
    let mut line = queue.clone();
    (line["name"], line["vhost"]) = ("q".into(), "/".into());
    let document = json!({ "queues": [line] }).to_string();
    for _ in 0..2 {
        let imported = server.ask("POST", "/api/definitions", &document);
        assert_eq!(imported.status, 204, "{}", imported.body);
    }
    let exported = server.get("/api/definitions").json();
    assert_eq!(exported["queues"][0]["arguments"], arguments);
    // It is there, and the same.
    assert_eq!(declare().status, 204);
}

#[test]
fn a_form_imports_definitions_and_redirects_its_sender() {
    let server = Server::start();
    let send = |path: &str, parts: &[(&str, &str)]| {
        let mut body = String::new();
        for (name, value) in parts {
            body += "--edge\r\nContent-Disposition: form-data; name=\"";
            body += name;
            body += "\"; filename=\"d.json\"\r\nContent-Type: application/json\r\n\r\n";
            body += value;
            body += "\r\n";
        }
        body += "--edge--\r\n";
        let request = server.request("POST", path).password(USER, PASSWORD);
        let request = request.header("content-type", "multipart/form-data; boundary=edge");
        request.send(&body)
    };
    let queue = |name: &str| {
        json!({ "queues": [{ "name": name, "vhost": "/", "durable": true }] }).to_string()
    };
    let plain = send("/api/definitions", &[("file", &queue("one"))]);
    assert_eq!(plain.status, 204);
    let back = send(
        "/api/definitions",
        &[("redirect", "../#/import"), ("file", &queue("two"))],
    );
    assert_eq!(
        (back.status, back.header("location")),
        (303, Some("../#/import"))
    );
    let elsewhere = [
        ("file", queue("three")),
        ("redirect", "https://example.com".to_owned()),
    ];
    let elsewhere = elsewhere
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    assert_eq!(send("/api/definitions", &elsewhere).status, 204);
    let bare = json!({ "queues": [{ "name": "four", "durable": true }] }).to_string();
    assert_eq!(send("/api/definitions/%2F", &[("file", &bare)]).status, 204);
    assert_eq!(
        send("/api/definitions", &[("other", &queue("five"))]).status,
        400
    );
    let mut found = server.get("/api/queues").json();
    found
        .as_array_mut()
        .unwrap()
        .sort_by_key(|queue| queue["name"].to_string());
    assert_eq!(names(&found), ["four", "one", "three", "two"]);
}

#[test]
fn a_vhost_keeps_its_description_and_tags() {
    let server = Server::start();
    let path = "/api/vhosts/v";
    let shown = |server: &Server| {
        let vhost = server.get(path).json();
        assert_eq!(vhost["metadata"]["tags"], vhost["tags"]);
        (vhost["description"].clone(), vhost["tags"].clone())
    };
    let put = |body: &str| server.ask("PUT", path, body).status;
    assert_eq!(put(r#"{"description":"one","tags":"a, b"}"#), 201);
    assert_eq!(shown(&server), (json!("one"), json!(["a", "b"])));
    assert_eq!(put(r#"{"description":"two","tags":["c"]}"#), 204);
    let document = server.get("/api/definitions").body;
    let server = server.restart();
    assert_eq!(shown(&server), (json!("two"), json!(["c"])));
    let other = Server::start();
    assert_eq!(other.ask("POST", "/api/definitions", &document).status, 204);
    assert_eq!(shown(&other), (json!("two"), json!(["c"])));
    let later = r#"{"vhosts":[{"name":"v","metadata":{"description":"three","tags":["d"]}}]}"#;
    assert_eq!(other.ask("POST", "/api/definitions", later).status, 204);
    assert_eq!(shown(&other), (json!("three"), json!(["d"])));
}

#[test]
fn who_may_import_into_a_vhost_makes_no_queue_with_a_name_of_the_server() {
    let server = Server::start();
    let user = r#"{"password":"pw","tags":"management"}"#;
    assert_eq!(server.ask("PUT", "/api/users/bob", user).status, 201);
    let all = r#"{"configure":".*","write":".*","read":".*"}"#;
    let path = "/api/permissions/%2F/bob";
    assert_eq!(server.ask("PUT", path, all).status, 201);
    let name = "amq.gen-0000000000000000000000";
    let document = format!(r#"{{"queues":[{{"name":"{name}","durable":true}}]}}"#);
    let import = |user: &str, password: &str| {
        let request = server.request("POST", "/api/definitions/%2F");
        request.password(user, password).send(&document)
    };
    let refused = import("bob", "pw");
    assert_eq!(refused.status, 401, "{refused:?}");
    assert!(refused.body.contains("reserved prefix"), "{refused:?}");
    let path = format!("/api/queues/%2F/{name}");
    assert_eq!(server.get(&path).status, 404);
    // RabbitMQ lets administrators do so, who bring their own exports in again.
    assert_eq!(import("ada", "secret").status, 204);
    assert_eq!(server.get(&path).status, 200);
    assert_eq!(import("bob", "pw").status, 204, "it is there as it is");
}

#[test]
fn the_first_line_that_its_sender_may_not_declare_ends_a_document() {
    let server = Server::start();
    let user = r#"{"password":"pw","tags":"management"}"#;
    assert_eq!(server.ask("PUT", "/api/users/few", user).status, 201);
    let few = r#"{"configure":"^mine","write":"^mine","read":"^mine"}"#;
    let path = "/api/permissions/%2F/few";
    assert_eq!(server.ask("PUT", path, few).status, 201);
    let mine = json!({ "name": "mine", "type": "fanout", "durable": true });
    let exchange = |name: &str| json!({ "name": name, "type": "fanout", "durable": true });
    let binding = |source: &str, destination: &str| {
        json!({
            "source": source, "destination": destination, "destination_type": "exchange",
            "routing_key": "",
        })
    };
    let alternate = json!({ "alternate-exchange": "amq.fanout" });
    let to_foreign = json!({
        "name": "mine-2", "type": "fanout", "durable": true, "arguments": alternate,
    });
    let limit = json!({
        "component": "vhost-limits", "name": "limits", "value": { "max-queues": 1 },
    });
    // Behind the forbidden line is one that cannot be, which nobody looks at any more.
    for (section, forbidden) in [
        ("parameters", limit),
        ("exchanges", exchange("foreign")),
        ("exchanges", to_foreign),
        ("queues", json!({ "name": "foreign", "durable": true })),
        ("bindings", binding("mine", "amq.fanout")),
        ("bindings", binding("amq.fanout", "mine")),
        ("bindings", binding("nowhere", "mine")),
    ] {
        let mut document = json!({ "exchanges": [mine] });
        let lines = [forbidden.clone(), json!("no line")];
        match document[section].as_array_mut() {
            Some(list) => list.extend(lines),
            None => document[section] = json!(lines),
        }
        let request = server.request("POST", "/api/definitions/%2F");
        let refused = request.password("few", "pw").send(&document.to_string());
        assert_eq!(refused.status, 401, "{forbidden}: {refused:?}");
        let made = server.get("/api/exchanges/%2F/mine");
        assert_eq!(made.status, 404, "{forbidden}");
    }
    let document = json!({ "exchanges": [mine], "bindings": [binding("mine", "mine")] });
    let request = server.request("POST", "/api/definitions/%2F");
    let taken = request.password("few", "pw").send(&document.to_string());
    assert_eq!(taken.status, 204, "{taken:?}");
}

#[test]
fn bindings_do_not_copy_the_exchange_that_they_name() {
    let server = Server::start();
    let exchange = json!({
        "name": "x", "type": "fanout", "durable": true, "arguments": { "a": vec!["a"; 200_000] },
    });
    let binding = |key: usize| {
        json!({
            "source": "x", "destination": "x", "destination_type": "exchange",
            "routing_key": key.to_string(),
        })
    };
    let bindings: Vec<_> = (0..10_000).map(binding).collect();
    let document = json!({ "exchanges": [exchange], "bindings": bindings }).to_string();
    // With a copy for each binding, this takes longer than the client waits.
    let brought = server.ask("POST", "/api/definitions/%2F", &document);
    assert_eq!(brought.status, 204, "{brought:?}");
}

#[test]
fn a_document_that_changes_its_sender_is_carried_out_whole() {
    let server = Server::start();
    let mut document = server.get("/api/definitions").json();
    let users = document["users"].as_array_mut().unwrap();
    assert_eq!(users[0]["name"], USER);
    users[0] = json!({ "name": USER, "password": "other", "tags": "management" });
    users.push(json!({ "name": "zoe", "password": "pw", "tags": "management" }));
    let permission = json!({
        "user": "zoe", "vhost": "v", "configure": "", "write": "", "read": ".*",
    });
    document["permissions"]
        .as_array_mut()
        .unwrap()
        .push(permission);
    document["vhosts"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "name": "v" }));
    let brought = server.ask("POST", "/api/definitions", &document.to_string());
    assert_eq!(brought.status, 204, "{brought:?}");
    let who = |user: &str, password: &str| {
        let request = server.request("GET", "/api/vhosts/v");
        request.password(user, password).send("").status
    };
    assert_eq!((who(USER, PASSWORD), who(USER, "other")), (401, 200));
    assert_eq!(who("zoe", "pw"), 200);
}
