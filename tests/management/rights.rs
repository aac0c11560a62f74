//! Every route of the API, asked by every kind of user: who may do what is one table, and a route
//! that is not in it fails the test.

use serde_json::Value;

use crate::fixture::{PASSWORD, Server, USER, eventually};
use crate::http::Answer;
use crate::peers::Peer;

/// The body of a message in a queue that only `ada` may read.
const BODY: &str = "a body for nobody else";

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// Everybody, signed in or not.
    Anybody,
    /// Users with any tag.
    Management,
    /// Users with any tag and the permission that AMQP asks for.
    Permitted,
    /// The user itself, and administrators.
    Own,
    /// The user itself, and those who monitor. The others do not learn that it is there.
    Seen,
    /// The user itself, and administrators. Those who see nothing of it do not learn that it is
    /// there.
    Ended,
    Monitoring,
    Administrator,
}

use Who::{Administrator, Anybody, Ended, Management, Monitoring, Own, Permitted, Seen};

const ROUTES: &[(Who, &str)] = &[
    (Anybody, "GET /"),
    (Anybody, "GET /live.js"),
    (Anybody, "GET /broker.js"),
    (Anybody, "GET /attention.js"),
    (Anybody, "GET /compose.js"),
    (Anybody, "GET /control.js"),
    (Anybody, "GET /dom.js"),
    (Anybody, "GET /sign_in.js"),
    (Anybody, "GET /drawer.js"),
    (Anybody, "GET /envelope.js"),
    (Anybody, "GET /message.js"),
    (Anybody, "GET /model.js"),
    (Anybody, "GET /names.js"),
    (Anybody, "GET /page.css"),
    (Anybody, "GET /page.js"),
    (Anybody, "GET /archive.js"),
    (Anybody, "GET /proof.js"),
    (Anybody, "GET /session_status.js"),
    (Anybody, "GET /stream.js"),
    (Anybody, "GET /confirm.js"),
    (Anybody, "GET /views.js"),
    (Anybody, "GET /api/auth"),
    (Management, "DELETE /api/session"),
    (Management, "GET /api/aliveness-test/{vhost}"),
    (Management, "GET /api/bindings"),
    (Management, "GET /api/bindings/{vhost}"),
    (
        Management,
        "GET /api/bindings/{vhost}/e/{source}/{kind}/{destination}",
    ),
    (
        Management,
        "GET /api/bindings/{vhost}/e/{source}/{kind}/{destination}/{key}",
    ),
    (Management, "GET /api/channels"),
    (Management, "GET /api/cluster-name"),
    (Management, "GET /api/connections"),
    (Management, "GET /api/connections/username/{user}"),
    (Management, "GET /api/consumers"),
    (Management, "GET /api/consumers/{vhost}"),
    (Management, "GET /api/definitions/{vhost}"),
    (Management, "GET /api/exchanges"),
    (Management, "GET /api/exchanges/{vhost}"),
    (Management, "GET /api/exchanges/{vhost}/{name}"),
    (
        Management,
        "GET /api/exchanges/{vhost}/{name}/bindings/destination",
    ),
    (
        Management,
        "GET /api/exchanges/{vhost}/{name}/bindings/source",
    ),
    (Management, "GET /api/extensions"),
    (Management, "GET /api/feature-flags"),
    (Management, "GET /api/global-parameters"),
    (Management, "GET /api/health/checks/alarms"),
    (Management, "GET /api/health/checks/local-alarms"),
    (
        Management,
        "GET /api/health/checks/node-is-mirror-sync-critical",
    ),
    (Management, "GET /api/health/checks/node-is-quorum-critical"),
    (Management, "GET /api/health/checks/port-listener/{port}"),
    (
        Management,
        "GET /api/health/checks/protocol-listener/{protocol}",
    ),
    (Management, "GET /api/health/checks/virtual-hosts"),
    (Management, "GET /api/healthchecks/node"),
    (Management, "GET /api/healthchecks/node/"),
    (Management, "GET /api/healthchecks/node/{name}"),
    (Management, "GET /api/operator-policies"),
    (Management, "GET /api/overview"),
    (Management, "GET /api/parameters"),
    (Management, "GET /api/policies"),
    (Management, "GET /api/queues"),
    (Management, "GET /api/queues/{vhost}"),
    (Management, "GET /api/queues/{vhost}/{name}"),
    (Management, "GET /api/queues/{vhost}/{name}/bindings"),
    (Management, "GET /api/session"),
    (Management, "GET /api/topic-permissions"),
    (Management, "GET /api/vhost-limits"),
    (Management, "GET /api/vhost-limits/{vhost}"),
    (Management, "GET /api/vhosts"),
    (Management, "GET /api/vhosts/{vhost}"),
    (Management, "GET /api/vhosts/{vhost}/channels"),
    (Management, "GET /api/vhosts/{vhost}/connections"),
    (Management, "GET /api/vhosts/{vhost}/topic-permissions"),
    (Management, "GET /api/whoami"),
    (Management, "POST /api/queues/{vhost}/{name}/actions"),
    (Management, "POST /api/session/token"),
    (
        Permitted,
        "DELETE /api/bindings/{vhost}/e/{source}/{kind}/{destination}/{key}",
    ),
    (Permitted, "DELETE /api/exchanges/{vhost}/{name}"),
    (Permitted, "DELETE /api/queues/{vhost}/{name}"),
    (Permitted, "DELETE /api/queues/{vhost}/{name}/contents"),
    (Permitted, "GET /api/queues/{vhost}/{name}/peek"),
    (
        Permitted,
        "POST /api/bindings/{vhost}/e/{source}/{kind}/{destination}",
    ),
    (Permitted, "POST /api/definitions/{vhost}"),
    (Permitted, "POST /api/exchanges/{vhost}/{name}/publish"),
    (Permitted, "POST /api/queues/{vhost}/{name}/get"),
    (Permitted, "PUT /api/exchanges/{vhost}/{name}"),
    (Permitted, "PUT /api/queues/{vhost}/{name}"),
    (Own, "GET /api/user-limits/{user}"),
    (Own, "GET /api/users/{user}"),
    (Own, "GET /api/users/{user}/permissions"),
    (Ended, "DELETE /api/connections/{name}"),
    (Seen, "GET /api/channels/{name}"),
    (Seen, "GET /api/connections/{name}"),
    (Seen, "GET /api/connections/{name}/channels"),
    (Monitoring, "GET /api/history"),
    (Monitoring, "GET /api/nodes"),
    (Monitoring, "GET /api/nodes/{name}"),
    (Monitoring, "GET /api/tap"),
    (Monitoring, "GET /metrics"),
    // The broker's own user alone, which is none of the users here.
    (Administrator, "DELETE /api/dead-letters/{id}"),
    (Administrator, "GET /api/dead-letters"),
    (Administrator, "GET /api/dead-letters/{id}"),
    (Administrator, "GET /api/messages"),
    (Administrator, "GET /api/messages/{name}/{id}"),
    (Administrator, "GET /api/openings"),
    (Administrator, "POST /api/dead-letters/{id}/resend"),
    (Administrator, "DELETE /api/permissions/{vhost}/{user}"),
    (Administrator, "DELETE /api/user-limits/{user}/{name}"),
    (Administrator, "DELETE /api/users/{user}"),
    (Administrator, "DELETE /api/vhost-limits/{vhost}/{name}"),
    (Administrator, "DELETE /api/vhosts/{vhost}"),
    (Administrator, "GET /api/definitions"),
    (Administrator, "GET /api/permissions"),
    (Administrator, "GET /api/permissions/{vhost}/{user}"),
    (Administrator, "GET /api/user-limits"),
    (Administrator, "GET /api/users"),
    (Administrator, "GET /api/users/without-permissions"),
    (Administrator, "GET /api/vhosts/{vhost}/permissions"),
    (Administrator, "POST /api/definitions"),
    (Administrator, "POST /api/users/bulk-delete"),
    (Administrator, "PUT /api/feature-flags/{name}/enable"),
    (Administrator, "PUT /api/permissions/{vhost}/{user}"),
    (Administrator, "PUT /api/user-limits/{user}/{name}"),
    (Administrator, "PUT /api/users/{user}"),
    (Administrator, "PUT /api/vhost-limits/{vhost}/{name}"),
    (Administrator, "PUT /api/vhosts/{vhost}"),
];

/// Signing in has a login of its own, and a proof is given for the id of a sign-in.
const WITHOUT_LOGIN: [&str; 2] = ["POST /api/session", "GET /api/session/proof"];

/// What exists: the names in the paths.
struct Names {
    connection: String,
    node: String,
}

/// Two vhosts with a queue, a message and an exchange each, and a user of each kind.
fn server() -> Server {
    let server = Server::start();
    let made = |method, path: &str, body: &str| {
        let answer = server.ask(method, path, body);
        assert!(answer.status < 300, "{path} {answer:?}");
    };
    made("PUT", "/api/vhosts/secluded", "");
    for vhost in ["%2F", "secluded"] {
        made(
            "PUT",
            &format!("/api/queues/{vhost}/own"),
            r#"{"durable":true}"#,
        );
        made(
            "PUT",
            &format!("/api/exchanges/{vhost}/x"),
            r#"{"type":"topic"}"#,
        );
        let binding = format!("/api/bindings/{vhost}/e/x/q/own");
        made("POST", &binding, r#"{"routing_key":"k"}"#);
        let message = format!(
            r#"{{"properties":{{}},"routing_key":"own","payload":"{BODY}",
            "payload_encoding":"string"}}"#
        );
        made(
            "POST",
            &format!("/api/exchanges/{vhost}/amq.default/publish"),
            &message,
        );
    }
    for (name, tags, expression) in [
        ("untagged", "", ".*"),
        ("low", "management", "^$"),
        ("may", "management", ".*"),
        ("monitor", "monitoring", "^$"),
        ("victim", "", "^$"),
    ] {
        let user = format!(r#"{{"password":"pw","tags":"{tags}"}}"#);
        made("PUT", &format!("/api/users/{name}"), &user);
        let all = format!(
            r#"{{"configure":"{expression}","write":"{expression}","read":"{expression}"}}"#
        );
        made("PUT", &format!("/api/permissions/%2F/{name}"), &all);
    }
    server
}

fn described(server: &Server) -> Vec<String> {
    let document = server.get("/api/openapi.json").json();
    let paths = document["paths"].as_object().unwrap();
    let each = paths.iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().unwrap().keys();
        methods.map(move |method| format!("{} {path}", method.to_uppercase()))
    });
    each.collect()
}

impl Names {
    fn fill(&self, path: &str, vhost: &str, user: &str) -> String {
        let name = match path.split('/').nth(2) {
            Some("exchanges") => "x",
            Some("connections") => &self.connection,
            Some("channels") => &format!("{}%20(1)", self.connection),
            Some("nodes") => &self.node,
            _ => "own",
        };
        let values = [
            ("{vhost}", vhost),
            ("{user}", user),
            ("{source}", "x"),
            ("{kind}", "q"),
            ("{destination}", "own"),
            ("{key}", "k"),
            ("{port}", "1"),
            ("{protocol}", "amqp"),
            ("{name}", name),
        ];
        let mut path = path.to_owned();
        for (part, value) in values {
            path = path.replace(part, value);
        }
        path
    }
}

/// A body that the route understands.
fn body(route: &str) -> &'static str {
    match route {
        "POST /api/users/bulk-delete" => r#"{"users":["victim"]}"#,
        "PUT /api/users/{user}" => r#"{"password":"taken","tags":"administrator"}"#,
        "PUT /api/permissions/{vhost}/{user}" => r#"{"configure":".*","write":".*","read":".*"}"#,
        "POST /api/exchanges/{vhost}/{name}/publish" => {
            r#"{"properties":{},"routing_key":"k","payload":"x","payload_encoding":"string"}"#
        }
        "POST /api/queues/{vhost}/{name}/get" => r#"{"count":1,"ackmode":"ack_requeue_true"}"#,
        "POST /api/definitions" => r#"{"users":[{"name":"victim","tags":"administrator"}]}"#,
        "POST /api/definitions/{vhost}" => r#"{"queues":[{"name":"new","durable":true}]}"#,
        "PUT /api/exchanges/{vhost}/{name}" => r#"{"type":"topic"}"#,
        "PUT /api/queues/{vhost}/{name}" => r#"{"durable":true}"#,
        route if route.starts_with("GET") => "",
        _ => "{}",
    }
}

fn ask(server: &Server, route: &str, path: &str, user: Option<&str>) -> Answer {
    let method = route.split(' ').next().unwrap();
    let request = server.request(method, path);
    let password = |user| if user == USER { PASSWORD } else { "pw" };
    let request = match user {
        Some(user) => request.password(user, password(user)),
        None => request,
    };
    // Streams are read no further than their head.
    if path == "/api/tap" {
        let answer = request.header("x-unused", "1").open("");
        return Answer::head(answer);
    }
    request.send(body(route))
}

fn is_refused(answer: &Answer) -> bool {
    matches!(answer.status, 401 | 403)
}

/// Which of these users the route refuses.
fn refused_are(who: Who) -> &'static [Option<&'static str>] {
    const NOBODY: Option<&str> = None;
    match who {
        Anybody => &[],
        Management => &[NOBODY, Some("untagged")],
        Permitted => &[NOBODY, Some("untagged"), Some("low"), Some("monitor")],
        Seen | Monitoring => &[NOBODY, Some("untagged"), Some("low"), Some("may")],
        Own | Ended | Administrator => &[
            NOBODY,
            Some("untagged"),
            Some("low"),
            Some("may"),
            Some("monitor"),
        ],
    }
}

#[test]
fn the_table_of_rights_has_every_route_and_no_other() {
    let server = Server::start();
    let mut described = described(&server);
    described.retain(|route| !WITHOUT_LOGIN.contains(&route.as_str()));
    let mut known: Vec<_> = ROUTES
        .iter()
        .map(|(_, route)| (*route).to_owned())
        .collect();
    described.sort();
    known.sort();
    assert_eq!(known, described);
}

#[test]
fn no_route_exceeds_the_rights_of_a_user() {
    let server = server();
    let ada = Peer::connect(&server);
    let (connection, node) = eventually("ada's connection is listed", || {
        let listed = server.get("/api/connections").json();
        let name = listed[0]["name"]
            .as_str()?
            .replace(' ', "%20")
            .replace('>', "%3E");
        let node = server.get("/api/overview").json()["node"].clone();
        Some((name, node.as_str()?.to_owned()))
    });
    let names = Names { connection, node };
    for (who, route) in ROUTES {
        let path = route.split(' ').nth(1).unwrap();
        for user in refused_are(*who) {
            let path = names.fill(path, "%2F", "victim");
            let answer = ask(&server, route, &path, *user);
            let is_hidden = matches!(who, Seen | Ended) && answer.status == 404;
            assert!(
                is_refused(&answer) || is_hidden,
                "{route} by {user:?}: {answer:?}"
            );
        }
        if path.contains("{vhost}") && *who != Administrator {
            let hidden = names.fill(path, "secluded", "victim");
            for user in ["low", "may"] {
                let answer = ask(&server, route, &hidden, Some(user));
                assert!(is_refused(&answer), "{hidden} by {user}: {answer:?}");
            }
        }
    }
    assert!(!ada.is_closed(), "nobody ended her connection");
    for vhost in ["%2F", "secluded"] {
        let queue = server.get(&format!("/api/queues/{vhost}/own")).json();
        assert_eq!(queue["messages"], 1, "what was refused changed nothing");
        let new = server.get(&format!("/api/queues/{vhost}/new"));
        assert_eq!(new.status, 404, "what was refused made nothing");
    }
    let victim = server.get("/api/users/victim").json();
    assert_eq!(victim["tags"], Value::Array(Vec::new()));
}

#[test]
fn every_user_reads_what_its_rights_say_and_no_body_no_password_and_no_hidden_vhost() {
    let server = server();
    let names = Names {
        connection: "none".into(),
        node: server.get("/api/overview").json()["node"]
            .as_str()
            .unwrap()
            .to_owned(),
    };
    for (who, route) in ROUTES.iter().filter(|(_, route)| route.starts_with("GET")) {
        for user in ["low", "may", "monitor", USER] {
            if refused_are(*who).contains(&Some(user)) && *who != Own || *who == Seen {
                continue;
            }
            let path = names.fill(route.split(' ').nth(1).unwrap(), "%2F", user);
            let answer = ask(&server, route, &path, Some(user));
            assert!(!is_refused(&answer), "{route} by {user}: {answer:?}");
            let may_read = matches!(user, "may" | "ada");
            assert!(may_read || !answer.body.contains(BODY), "{route} by {user}");
            let has_hash = answer.body.contains("password_hash");
            assert!(
                user == USER || *who == Own || !has_hash,
                "{route} by {user}"
            );
            let has_hidden = answer.body.contains("secluded");
            // Who monitors learns which vhosts there are.
            let may_know = matches!(user, "monitor" | "ada");
            assert!(may_know || !has_hidden, "{route} by {user}: {answer:?}");
        }
    }
}

#[test]
fn the_overview_of_a_user_counts_only_what_it_sees() {
    let server = server();
    let _ada = Peer::connect(&server);
    let overview = |user| {
        let route = "GET /api/overview";
        ask(&server, route, "/api/overview", Some(user)).json()
    };
    for (user, messages, queues, connections) in [("monitor", 2, 2, 1), ("low", 1, 1, 0)] {
        eventually("the counts of this user", || {
            let shown = overview(user);
            let totals = &shown["object_totals"];
            let is_right = shown["queue_totals"]["messages"] == messages
                && totals["queues"] == queues
                && totals["connections"] == connections;
            is_right.then_some(())
        });
    }
    for field in ["churn_rates", "listeners", "contexts"] {
        assert!(overview("low").get(field).is_none(), "{field}");
        assert!(overview("monitor").get(field).is_some(), "{field}");
    }
}
