//! Export and import of everything.

use serde_json::{Value, json};

use crate::fixture::{Server, USER};

fn names(list: &Value) -> Vec<&str> {
    let names = list.as_array().unwrap().iter();
    names.map(|item| item["name"].as_str().unwrap()).collect()
}

#[test]
fn what_one_broker_exports_another_brings_in() {
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
fn bringing_in_the_same_again_signs_nobody_out() {
    let server = Server::start();
    let cookie = server.cookie();
    let document = server.get("/api/definitions").body;
    assert_eq!(
        server.ask("POST", "/api/definitions", &document).status,
        204
    );
    let still = server
        .request("GET", "/api/session")
        .header("cookie", &cookie);
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

#[test]
fn a_document_that_cannot_be_is_refused_with_its_reason() {
    let server = Server::start();
    let line = json!({ "queues": [{ "name": "q", "vhost": "nope" }] });
    let refused = server.ask("POST", "/api/definitions", &line.to_string());
    assert_eq!(refused.status, 404);
    let line = json!({ "queues": [{ "name": "amq.q", "vhost": "/" }] });
    let refused = server.ask("POST", "/api/definitions", &line.to_string());
    assert_eq!(refused.status, 401);
}
