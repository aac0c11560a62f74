//! Rights that a user loses take effect at once on open connections, consumers, sign-ins and taps.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use lapin::BasicProperties;

use crate::fixture::{Server, USER, eventually};
use crate::http::{Answer, PageLogin};
use crate::peers::Peer;

const ALL: &str = r#"{"configure":".*","write":".*","read":".*"}"#;
const NO_READ: &str = r#"{"configure":".*","write":".*","read":"^$"}"#;

/// Starts a broker with the queue `q` and the user `bob`, who has all permissions in `/`.
fn with_bob(tags: &str) -> Server {
    let server = Server::start();
    let body = format!(r#"{{"password":"pw","tags":"{tags}"}}"#);
    assert_eq!(server.ask("PUT", "/api/users/bob", &body).status, 201);
    permit(&server, ALL);
    server.ask("PUT", "/api/queues/%2F/q", r#"{"durable":true}"#);
    server
}

fn permit(server: &Server, permissions: &str) {
    let path = "/api/permissions/%2F/bob";
    assert!(server.ask("PUT", path, permissions).status < 300);
}

fn closed(peer: &Peer, what: &str) {
    eventually(what, || peer.is_closed().then_some(()));
}

#[test]
fn a_deleted_user_loses_connections_and_consumers() {
    let server = with_bob("");
    let bob = Peer::connect_as(&server, "bob", "pw");
    let mut consumer = bob.attach("q");
    let ada = Peer::connect(&server);
    server.ask("DELETE", "/api/users/bob", "");
    closed(&bob, "bob's connection is closed");
    server.publish("q", "secret");
    assert_eq!(bob.next(&mut consumer), None);
    assert!(!ada.is_closed(), "others stay");
}

#[test]
fn a_changed_password_ends_what_was_opened_with_the_old_one() {
    let server = with_bob("management");
    let bob = Peer::connect_as(&server, "bob", "pw");
    let same = r#"{"password":"pw","tags":"management"}"#;
    assert_eq!(server.ask("PUT", "/api/users/bob", same).status, 204);
    bob.publish("", "q", "still here");
    assert!(!bob.is_closed(), "the same password changes nothing");
    let other = r#"{"password":"other","tags":"management"}"#;
    server.ask("PUT", "/api/users/bob", other);
    closed(&bob, "the connection with the old password is closed");
}

#[test]
fn a_user_who_is_shut_out_of_a_vhost_loses_its_connections_there() {
    let server = with_bob("");
    let bob = Peer::connect_as(&server, "bob", "pw");
    server.ask("DELETE", "/api/permissions/%2F/bob", "");
    closed(&bob, "bob's connection to the vhost is closed");
}

#[test]
fn a_withdrawn_read_permission_cancels_the_consumer_and_nothing_else() {
    let server = with_bob("");
    let bob = Peer::connect_as(&server, "bob", "pw");
    let mut consumer = bob.attach("q");
    server.publish("q", "before");
    assert_eq!(bob.next(&mut consumer).as_deref(), Some("before"));
    permit(&server, NO_READ);
    server.publish("q", "after");
    assert_eq!(bob.next(&mut consumer), None, "cancelled");
    assert!(!bob.is_closed(), "what is still allowed goes on");
    bob.publish("", "q", "one more");
    let consumers = server.get("/api/queues/%2F/q").json()["consumers"].clone();
    assert_eq!(consumers, 0);
}

#[test]
fn a_withdrawn_write_permission_stops_a_publisher_that_published_before() {
    let server = with_bob("");
    let bob = Peer::connect_as(&server, "bob", "pw");
    bob.publish("", "q", "one");
    eventually("the first message is there", || {
        (server.get("/api/queues/%2F/q").json()["messages"] == 1).then_some(())
    });
    permit(&server, r#"{"configure":".*","write":"^$","read":".*"}"#);
    bob.publish("", "q", "two");
    eventually("the channel of the publisher is closed", || {
        bob.has_closed_channel().then_some(())
    });
    assert_eq!(server.get("/api/queues/%2F/q").json()["messages"], 1);
}

#[test]
fn an_open_transaction_publishes_nothing_with_a_right_that_was_withdrawn_before_its_commit() {
    let server = with_bob("management,impersonator");
    let messages = || server.get("/api/queues/%2F/q").json()["messages"].clone();
    let begun = |user: &str| {
        let bob = Peer::connect_as(&server, "bob", "pw");
        bob.begin();
        let properties = BasicProperties::default().with_user_id(user.into());
        bob.publish_with("", "q", "waits", properties);
        // The broker has the publish before it answers this.
        bob.declare("another").unwrap();
        bob
    };
    let (bob, other, impersonator) = (begun("bob"), begun("bob"), begun("ada"));
    bob.commit().unwrap();
    assert_eq!(messages(), 1, "with all rights");
    let tags = r#"{"password":"pw","tags":"management"}"#;
    assert_eq!(server.ask("PUT", "/api/users/bob", tags).status, 204);
    let refused = impersonator.commit().unwrap_err();
    assert!(refused.contains("user_id"), "{refused}");
    permit(&server, r#"{"configure":".*","write":"^$","read":".*"}"#);
    let refused = other.commit().unwrap_err();
    assert!(refused.contains("refused for user 'bob'"), "{refused}");
    assert_eq!(messages(), 1);
}

#[test]
fn what_a_user_bound_stays_with_the_vhost_and_nothing_new_is_bound_without_the_right() {
    let server = with_bob("management");
    let bind = |key: &str| {
        let path = "/api/bindings/%2F/e/amq.topic/q/q";
        let request = server.request("POST", path).password("bob", "pw");
        request
            .send(&format!(r#"{{"routing_key":"{key}"}}"#))
            .status
    };
    let dead_letters = |name: &str| {
        let path = format!("/api/queues/%2F/{name}");
        let request = server.request("PUT", &path).password("bob", "pw");
        let arguments = r#"{"arguments":{"x-dead-letter-exchange":"amq.topic"}}"#;
        request.send(arguments).status
    };
    assert_eq!((bind("before"), dead_letters("before")), (201, 201));
    permit(&server, r#"{"configure":".*","write":"^$","read":"^$"}"#);
    assert_eq!((bind("after"), dead_letters("after")), (401, 401));
    let bindings = server.get("/api/queues/%2F/q/bindings").json();
    let keys = bindings.as_array().unwrap().iter();
    let keys: Vec<_> = keys.map(|binding| binding["routing_key"].clone()).collect();
    assert_eq!(keys, ["q", "before"], "{bindings}");
}

/// Opens the tap as `bob` and skips the header of the response.
fn tap(server: &Server) -> BufReader<TcpStream> {
    let asked = server.request("GET", "/api/tap").password("bob", "pw");
    let mut stream = BufReader::new(asked.open(""));
    let mut head = String::new();
    while head != "\r\n" {
        head.clear();
        stream.read_line(&mut head).unwrap();
    }
    stream
}

/// Reads until a message says so.
fn until_the_end(mut stream: BufReader<TcpStream>) -> String {
    let mut heard = String::new();
    while !heard.contains("the end") {
        assert!(stream.read_line(&mut heard).unwrap() > 0, "{heard}");
    }
    heard
}

/// Reads to the end of the stream, which the broker must close.
fn rest(mut stream: BufReader<TcpStream>) -> String {
    let mut rest = String::new();
    while stream.read_line(&mut rest).expect("the stream ends") > 0 {}
    rest
}

#[test]
fn a_tap_ends_with_its_user_its_password_and_its_tag() {
    for change in ["delete", "password", "tag"] {
        let server = with_bob("monitoring");
        let stream = tap(&server);
        match change {
            "delete" => server.ask("DELETE", "/api/users/bob", ""),
            "password" => {
                let body = r#"{"password":"other","tags":"monitoring"}"#;
                server.ask("PUT", "/api/users/bob", body)
            }
            _ => {
                let body = r#"{"password":"pw","tags":"management"}"#;
                server.ask("PUT", "/api/users/bob", body)
            }
        };
        server.publish("q", "secret");
        assert!(!rest(stream).contains("secret"), "{change}");
    }
}

#[test]
fn a_tap_shows_no_body_to_who_may_not_read_the_queue() {
    let server = with_bob("monitoring");
    let mut stream = tap(&server);
    let mut heard = String::new();
    server.publish("q", "for bob");
    while !heard.contains("for bob") {
        assert!(stream.read_line(&mut heard).unwrap() > 0, "{heard}");
    }
    permit(&server, NO_READ);
    server.publish("q", "hidden one");
    server.ask("PUT", "/api/queues/%2F/marker", "{}");
    permit(
        &server,
        r#"{"configure":".*","write":".*","read":"^marker$"}"#,
    );
    server.publish("marker", "the end");
    while !heard.contains("the end") {
        assert!(stream.read_line(&mut heard).unwrap() > 0, "{heard}");
    }
    assert!(!heard.contains("hidden one"), "{heard}");
    let kept = tap(&server);
    drop(kept);
}

#[test]
fn a_user_who_may_read_only_server_named_queues_gets_no_answer_of_another_user() {
    let server = with_bob("monitoring");
    permit(
        &server,
        r#"{"configure":"^$","write":"^$","read":"^(amq\\..*|marker)$"}"#,
    );
    server.ask("PUT", "/api/queues/%2F/marker", "{}");
    let of_bob = tap(&server);
    let owner = server.request("GET", "/api/tap");
    let owner = owner.signed_in(&server.sign_in()).open("");
    let order = serde_json::json!({
        "properties": { "user_id": USER }, "routing_key": "amq.gen-cbroker-page",
        "payload": "a held text", "payload_encoding": "string",
    });
    let path = "/api/exchanges/%2F/amq.default/publish";
    let answer = server.ask("POST", path, &order.to_string());
    assert_eq!(answer.json()["routed"], false, "{answer:?}");
    server.publish("marker", "the end");
    assert!(until_the_end(BufReader::new(owner)).contains("a held text"));
    let bobs = until_the_end(of_bob);
    assert!(bobs.contains("amq.gen-cbroker-page"), "{bobs}");
    assert!(!bobs.contains("a held text"), "{bobs}");
}

#[test]
fn a_queue_of_one_connection_lets_no_other_user_read_what_it_gets() {
    let server = with_bob("monitoring");
    permit(
        &server,
        r#"{"configure":"^$","write":"^$","read":"^(amq\\..*|own|marker)$"}"#,
    );
    server.ask("PUT", "/api/queues/%2F/marker", "{}");
    let of_bob = tap(&server);
    let owner = server.request("GET", "/api/tap");
    let owner = owner.signed_in(&server.sign_in()).open("");
    let peer = Peer::connect(&server);
    peer.declare_session("backend");
    // Where a command waits for answers, and where a session hears questions.
    peer.declare_own("own");
    let mut questions = peer.hear_questions();
    peer.publish_as_user("", "own", "a held text");
    peer.publish("", "own", "a nameless text");
    peer.take("own");
    peer.publish_as_user("claudeBroker.presence", "", "a question");
    peer.next(&mut questions);
    server.publish("marker", "the end");
    let texts = ["a held text", "a nameless text", "a question"];
    let owners = until_the_end(BufReader::new(owner));
    let bobs = until_the_end(of_bob);
    for text in texts {
        assert!(owners.contains(text), "{text}: {owners}");
        assert!(!bobs.contains(text), "{text}: {bobs}");
    }
    assert!(bobs.contains(r#""routing_key":"own""#), "{bobs}");
}

#[test]
fn recent_lines_of_the_tap_are_shown_by_the_current_rights() {
    let server = with_bob("monitoring");
    let first = tap(&server);
    server.publish("q", "kept one");
    permit(
        &server,
        r#"{"configure":".*","write":".*","read":"^marker$"}"#,
    );
    server.ask("PUT", "/api/queues/%2F/marker", "{}");
    let stream = tap(&server);
    drop(first);
    server.publish("marker", "the end");
    let heard = until_the_end(stream);
    assert!(!heard.contains("kept one"), "{heard}");
}

#[test]
fn the_page_of_a_user_who_lost_its_tag_shows_nothing_more() {
    let server = with_bob("management");
    let signed_in = server
        .request("POST", "/api/session")
        .header("origin", &server.origin())
        .send(r#"{"username":"bob","password":"pw"}"#);
    let cookie = PageLogin::of(&signed_in);
    let ask = || {
        let asked = server.request("GET", "/api/queues").signed_in(&cookie);
        asked.send("").status
    };
    assert_eq!(ask(), 200);
    server.ask("PUT", "/api/users/bob", r#"{"password":"pw","tags":""}"#);
    assert_eq!(ask(), 401);
    assert_eq!(server.get("/api/whoami").json()["name"], USER);
}

#[test]
fn a_request_that_was_begun_before_its_user_lost_its_rights_does_nothing() {
    let server = Server::start();
    let admin = r#"{"password":"pw","tags":"administrator"}"#;
    for (change, method, path, body) in [
        (
            "tag",
            "PUT",
            "/api/users/bob",
            r#"{"password":"pw","tags":""}"#,
        ),
        (
            "password",
            "PUT",
            "/api/users/bob",
            r#"{"password":"other","tags":"administrator"}"#,
        ),
        ("user", "DELETE", "/api/users/bob", ""),
    ] {
        server.ask("PUT", "/api/users/bob", admin);
        let late = format!("late-{change}");
        let wanted = format!(
            r#"{{"password":"x","tags":"administrator","{}":0}}"#,
            "x".repeat(40)
        );
        let request = server.request("PUT", &format!("/api/users/{late}"));
        let request = request.password("bob", "pw");
        let mut begun = request.open_part(&wanted[..20], wanted.len());
        // The request was let in: another one on the same connection list is behind it.
        eventually("the broker reads the request", || {
            let seen = server
                .request("GET", "/api/whoami")
                .password("bob", "pw")
                .send("");
            (seen.status == 200).then_some(())
        });
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert!(server.ask(method, path, body).status < 300);
        begun.write_all(&wanted.as_bytes()[20..]).unwrap();
        let answer = Answer::head(begun);
        assert_eq!(answer.status, 401, "{change}: {answer:?}");
        let made = server.get(&format!("/api/users/{late}"));
        assert_eq!(made.status, 404, "{change}: {made:?}");
    }
}

#[test]
fn a_publish_that_was_begun_before_its_permission_was_withdrawn_arrives_nowhere() {
    let server = with_bob("management");
    let message =
        r#"{"properties":{},"routing_key":"q","payload":"late","payload_encoding":"string"}"#;
    let request = server.request("POST", "/api/exchanges/%2F/amq.default/publish");
    let mut begun = request
        .password("bob", "pw")
        .open_part(&message[..20], message.len());
    std::thread::sleep(std::time::Duration::from_millis(300));
    permit(&server, r#"{"configure":".*","write":"^$","read":".*"}"#);
    begun.write_all(&message.as_bytes()[20..]).unwrap();
    let answer = Answer::head(begun);
    assert_eq!(answer.status, 401, "{answer:?}");
    assert_eq!(server.get("/api/queues/%2F/q").json()["messages"], 0);
}
