//! The limits of vhosts and users: set by administrators, kept, and obeyed by AMQP and the API.

use serde_json::{Value, json};

use crate::fixture::{PASSWORD, Server, USER};
use crate::peers::Peer;

/// A broker with the vhost `lim`, into which ada may go.
fn server() -> Server {
    let server = Server::start();
    assert_eq!(server.ask("PUT", "/api/vhosts/lim", "").status, 201);
    server
}

fn set(server: &Server, path: &str, limit: i64) {
    let body = json!({ "value": limit }).to_string();
    let answer = server.ask("PUT", path, &body);
    assert_eq!(answer.status, 204, "{path}: {answer:?}");
}

fn connect(server: &Server) -> Result<Peer, String> {
    Peer::try_connect(server, (USER, PASSWORD), "lim")
}

fn refusal<T>(outcome: Result<T, String>) -> String {
    outcome.err().expect("it was let in")
}

fn limits(server: &Server, path: &str) -> Value {
    server.get(path).json()
}

#[test]
fn a_vhost_takes_so_many_connections_and_no_more() {
    let server = server();
    set(&server, "/api/vhost-limits/lim/max-connections", 1);
    let first = connect(&server).unwrap();
    let text = refusal(connect(&server));
    let told = "NOT_ALLOWED - access to vhost 'lim' refused for user 'ada': \
                connection limit (1) is reached";
    assert!(text.contains(told), "{text}");
    // Another vhost has its own limits.
    Peer::connect(&server);
    set(&server, "/api/vhost-limits/lim/max-connections", -1);
    let second = connect(&server).unwrap();
    set(&server, "/api/vhost-limits/lim/max-connections", 0);
    assert!(refusal(connect(&server)).contains("connection limit (0) is reached"));
    for peer in [first, second] {
        assert!(!peer.is_closed(), "a lowered limit ends nothing");
    }
}

#[test]
fn a_user_has_so_many_connections_and_channels_over_all_vhosts() {
    let server = server();
    set(&server, "/api/user-limits/ada/max-connections", 2);
    set(&server, "/api/user-limits/ada/max-channels", 3);
    let (first, second) = (connect(&server).unwrap(), Peer::connect(&server));
    let text = refusal(connect(&server));
    let told = "NOT_ALLOWED - connection refused for user 'ada': \
                user connection limit (2) is reached";
    assert!(text.contains(told), "{text}");
    // Each has one channel already.
    first.open_channel().unwrap();
    let text = refusal(second.open_channel());
    let told = "NOT_ALLOWED - number of channels opened for user 'ada' has reached the maximum \
                allowed user limit of (3)";
    assert!(text.contains(told), "{text}");
    let freed = server.ask("DELETE", "/api/user-limits/ada/max-channels", "");
    assert_eq!(freed.status, 204);
    first.open_channel().unwrap();
}

#[test]
fn a_vhost_takes_so_many_queues_by_amqp_and_by_the_api() {
    let server = server();
    set(&server, "/api/vhost-limits/lim/max-queues", 1);
    let peer = connect(&server).unwrap();
    peer.declare("a").unwrap();
    peer.declare("a").unwrap();
    let text = refusal(peer.declare("b"));
    let told = "cannot declare queue 'b': queue limit in vhost 'lim' (1) is reached";
    assert!(
        text.contains(&format!("PRECONDITION_FAILED - {told}")),
        "{text}"
    );
    let answer = server.ask("PUT", "/api/queues/lim/b", "{}");
    assert_eq!(
        (answer.status, &answer.json()["reason"]),
        (400, &json!(told))
    );
    assert_eq!(server.ask("PUT", "/api/queues/lim/a", "{}").status, 204);
    assert_eq!(server.ask("DELETE", "/api/queues/lim/a", "").status, 204);
    assert_eq!(server.ask("PUT", "/api/queues/lim/b", "{}").status, 201);
}

#[test]
fn of_connections_that_come_at_once_the_limit_lets_no_more_in() {
    let server = server();
    set(&server, "/api/user-limits/ada/max-connections", 3);
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..12).map(|_| scope.spawn(|| connect(&server))).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(outcomes.iter().filter(|one| one.is_ok()).count(), 3);
}

#[test]
fn limits_are_listed_kept_and_go_with_what_they_limit() {
    let server = server();
    set(&server, "/api/vhost-limits/lim/max-queues", 7);
    set(&server, "/api/vhost-limits/lim/max-connections", -1);
    set(&server, "/api/user-limits/ada/max-channels", 5);
    let of_vhost = json!([
        { "vhost": "lim", "value": { "max-connections": -1, "max-queues": 7 } }
    ]);
    let of_user = json!([{ "user": "ada", "value": { "max-channels": 5 } }]);
    let server = server.restart();
    for path in ["/api/vhost-limits", "/api/vhost-limits/lim"] {
        assert_eq!(limits(&server, path), of_vhost, "{path}");
    }
    for path in ["/api/user-limits", "/api/user-limits/ada"] {
        assert_eq!(limits(&server, path), of_user, "{path}");
    }
    assert_eq!(
        limits(&server, "/api/users/ada")["limits"],
        of_user[0]["value"]
    );
    let parameter = &limits(&server, "/api/parameters")[0];
    assert_eq!(parameter["component"], "vhost-limits");
    assert_eq!(limits(&server, "/api/vhost-limits/%2F"), json!([]));
    // A new vhost or user of the same name begins without limits, also after a restart.
    let user = r#"{"password":"x","tags":""}"#;
    assert_eq!(server.ask("PUT", "/api/users/bob", user).status, 201);
    set(&server, "/api/user-limits/bob/max-channels", 5);
    for path in ["/api/vhosts/lim", "/api/users/bob"] {
        assert_eq!(server.ask("DELETE", path, "").status, 204, "{path}");
        assert_eq!(server.ask("PUT", path, user).status, 201, "{path}");
    }
    let freed = server.ask("DELETE", "/api/user-limits/ada/max-channels", "");
    assert_eq!(freed.status, 204);
    for server in [server.restart()] {
        for path in ["/api/vhost-limits", "/api/user-limits", "/api/parameters"] {
            assert_eq!(limits(&server, path), json!([]), "{path}");
        }
    }
}

#[test]
fn limits_move_with_the_definitions() {
    let server = server();
    set(&server, "/api/vhost-limits/lim/max-queues", 1);
    set(&server, "/api/user-limits/ada/max-channels", 5);
    for queue in ["a", "b"] {
        // The second one is over the limit that comes with it.
        set(&server, "/api/vhost-limits/lim/max-queues", 2);
        let path = format!("/api/queues/lim/{queue}");
        assert_eq!(server.ask("PUT", &path, r#"{"durable":true}"#).status, 201);
    }
    set(&server, "/api/vhost-limits/lim/max-queues", 1);
    let document = server.get("/api/definitions").json();
    assert_eq!(
        document["parameters"],
        json!([{
            "component": "vhost-limits", "name": "limits", "vhost": "lim",
            "value": { "max-queues": 1 },
        }])
    );
    let of_vhost = server.get("/api/definitions/lim").json();
    assert_eq!(of_vhost["parameters"], document["parameters"]);
    let other = Server::start();
    set(&other, "/api/user-limits/ada/max-connections", 50);
    let answer = other.ask("POST", "/api/definitions", &document.to_string());
    assert_eq!(answer.status, 204, "{answer:?}");
    assert_eq!(
        limits(&other, "/api/vhost-limits"),
        json!([{ "vhost": "lim", "value": { "max-queues": 1 } }])
    );
    assert_eq!(
        limits(&other, "/api/user-limits"),
        json!([{ "user": "ada", "value": { "max-channels": 5, "max-connections": 50 } }])
    );
    assert_eq!(
        other
            .get("/api/queues/lim")
            .json()
            .as_array()
            .unwrap()
            .len(),
        2
    );
    // All of a vhost's limits are replaced, and a document with a wrong one changes nothing.
    let parameter = |value: Value| {
        let line = json!({ "component": "vhost-limits", "name": "limits", "value": value });
        json!({ "parameters": [line] }).to_string()
    };
    let wrong = parameter(json!({ "max-connections": 9, "max-queues": "x" }));
    let answer = other.ask("POST", "/api/definitions/lim", &wrong);
    let reason = answer.json()["reason"].as_str().unwrap().to_owned();
    assert_eq!(answer.status, 400);
    assert!(reason.contains("max-queues should be a number"), "{reason}");
    let right = parameter(json!({ "max-connections": 9 }));
    assert_eq!(
        other.ask("POST", "/api/definitions/lim", &right).status,
        204
    );
    assert_eq!(
        limits(&other, "/api/vhost-limits"),
        json!([{ "vhost": "lim", "value": { "max-connections": 9 } }])
    );
}

#[test]
fn a_user_with_few_rights_imports_no_more_queues_than_the_limit() {
    let server = server();
    set(&server, "/api/vhost-limits/lim/max-queues", 1);
    let user = r#"{"password":"pw","tags":"management"}"#;
    assert_eq!(server.ask("PUT", "/api/users/bob", user).status, 201);
    let all = r#"{"configure":".*","write":".*","read":".*"}"#;
    let path = "/api/permissions/lim/bob";
    assert_eq!(server.ask("PUT", path, all).status, 201);
    let queue = |name: &str| json!({ "name": name, "durable": true });
    let document = |names: &[&str]| {
        let queues: Vec<_> = names.iter().map(|name| queue(name)).collect();
        json!({ "queues": queues }).to_string()
    };
    let bring_in = |names: &[&str]| {
        let request = server.request("POST", "/api/definitions/lim");
        request.password("bob", "pw").send(&document(names))
    };
    let answer = bring_in(&["a", "b"]);
    let reason = answer.json()["reason"].to_string();
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(
        reason.contains("queue limit in vhost 'lim' (1)"),
        "{reason}"
    );
    assert_eq!(server.get("/api/queues/lim").json(), json!([]));
    assert_eq!(bring_in(&["a"]).status, 204);
    // An administrator may bring back what was there before the limit.
    let answer = server.ask("POST", "/api/definitions/lim", &document(&["a", "b"]));
    assert_eq!(answer.status, 204, "{answer:?}");
}

#[test]
fn an_unknown_limit_is_refused_in_rabbitmqs_words() {
    let server = server();
    let (vhost, user) = (
        "/api/vhost-limits/lim/max-queues",
        "/api/user-limits/ada/max-channels",
    );
    for (path, body, reason) in [
        (vhost, "xx", json!("not_json")),
        (vhost, "{}", json!("[{key_missing,value}]")),
        (
            vhost,
            r#"{"value":"1"}"#,
            json!("Validation failed\n\nmax-queues should be a number, actually was <<\"1\">>\n"),
        ),
        (
            vhost,
            r#"{"value":null}"#,
            json!("Validation failed\n\nmax-queues should be a number, actually was null\n"),
        ),
        (
            user,
            r#"{"value":1.5}"#,
            json!("max-channels should be a number, actually was 1.5"),
        ),
        (
            "/api/vhost-limits/lim/max-channels",
            r#"{"value":1}"#,
            json!("Validation failed\n\nUnrecognised terms [{<<\"max-channels\">>,1}] in limits\n"),
        ),
        (
            "/api/user-limits/ada/max-foo",
            r#"{"value":1}"#,
            json!("Unrecognised terms [{<<\"max-foo\">>,1}] in user-limits"),
        ),
        (
            "/api/user-limits/nobody/max-channels",
            r#"{"value":1}"#,
            json!(["no_such_user", "nobody"]),
        ),
    ] {
        let answer = server.ask("PUT", path, body);
        assert_eq!(
            (answer.status, &answer.json()["reason"]),
            (400, &reason),
            "{path} {body}"
        );
    }
    for path in ["/api/vhost-limits", "/api/user-limits"] {
        assert_eq!(limits(&server, path), json!([]));
    }
}

#[test]
fn a_vhost_or_user_that_does_not_exist_has_no_limits() {
    let server = server();
    for path in ["/api/vhost-limits", "/api/user-limits"] {
        let missing = format!("{path}/nope");
        assert_eq!(server.get(&missing).status, 404, "{missing}");
        let missing = format!("{path}/nope/max-connections");
        assert_eq!(server.ask("DELETE", &missing, "").status, 404, "{missing}");
    }
    let missing = "/api/vhost-limits/nope/max-queues";
    assert_eq!(server.ask("PUT", missing, r#"{"value":1}"#).status, 404);
    for path in [
        "/api/vhost-limits/lim/max-queues",
        "/api/user-limits/ada/max-foo",
    ] {
        assert_eq!(
            server.ask("DELETE", path, "").status,
            204,
            "there is none: {path}"
        );
    }
}
