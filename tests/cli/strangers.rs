//! Attacks by another user of the same machine, and by users with few permissions. Each test is
//! named after one.

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use crate::background_broker::{
    api, kill_broker, password, publish, request, started, waiting, waiting_send,
};
use crate::foreign_listener::{OTHER_STRANGER, STRANGER, Stranger};
use crate::support::{Place, Wrapped, free_port, wait_until};

/// Neither in clear text nor as HTTP Basic has it, whatever the user.
fn assert_kept(password: &str, heard: &[u8]) {
    let heard = String::from_utf8_lossy(heard);
    let basic = heard.split("Basic ").skip(1).filter_map(|rest| {
        let login = BASE64_STANDARD.decode(rest.lines().next()?).ok()?;
        String::from_utf8(login).ok()
    });
    for said in [heard.to_string()].into_iter().chain(basic) {
        assert!(!said.contains(password), "the stranger heard {said:?}");
    }
}

/// A home whose broker was killed a moment ago, as its record says still.
fn crashed(place: &Place, [port, management]: [u16; 2]) -> String {
    let ports = [port.to_string(), management.to_string()];
    place.ok(["start", "--port", &ports[0], "--mgmt-port", &ports[1]]);
    let password = password(place);
    kill_broker(place);
    password
}

/// Writes the record of a container at these ports, whose login is the guest's if `guest`.
fn record_container(place: &Place, [port, management]: [u16; 2], guest: bool) {
    let record = json!({
        "version": 1, "kind": "container", "name": "cbroker-lavinmq", "port": port,
        "management_port": management, "guest": guest,
    });
    std::fs::create_dir_all(place.home()).unwrap();
    std::fs::write(place.home().join("broker.json"), record.to_string()).unwrap();
}

#[test]
fn another_user_who_takes_the_ports_after_a_crash_gets_no_password() {
    let place = Place::new();
    let [port, management] = [free_port(), free_port()];
    let password = crashed(&place, [port, management]);
    let Some(amqp) = Stranger::listen("127.0.0.1", port) else {
        return;
    };
    let Some(http) = Stranger::listen("127.0.0.1", management) else {
        return;
    };
    for arguments in [
        &["list"][..],
        &["send", "--to", "a", "-m", "x"],
        &["send", "--to", "a", "-m", "x", "--no-start"],
        &["inbox", "a"],
    ] {
        let ran = place.run(arguments);
        assert_eq!(ran.code, 3, "{arguments:?} {ran:?}");
        assert!(ran.err.contains("python3 (process "), "{ran:?}");
        assert!(ran.err.contains("of user nobody"), "{ran:?}");
    }
    let opened = place.home().join("opened");
    let opener = place.home().join("bin");
    std::fs::create_dir(&opener).unwrap();
    let program = opener.join("xdg-open");
    std::fs::write(&program, format!("#!/bin/sh\n: > '{}'\n", opened.display())).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let page_host = place.home().join("page-host");
    for arguments in [&["ui"][..], &["ui", "--json"]] {
        std::fs::write(&page_host, "01jd3zq8v4aaaaaaaaaaaaaaaa").unwrap();
        let mut command = place.command();
        let path = format!("{}:{}", opener.display(), std::env::var("PATH").unwrap());
        command
            .args(arguments)
            .env("DISPLAY", ":0")
            .env("PATH", path);
        let ran = command.output().unwrap();
        assert_eq!(ran.status.code(), Some(3), "{ran:?}");
        assert_eq!(String::from_utf8_lossy(&ran.stdout), "", "no address");
        let told = String::from_utf8_lossy(&ran.stderr);
        assert!(told.contains("of user nobody"), "{told}");
        assert!(!page_host.exists(), "he knows the name from an open page");
    }
    assert!(!opened.exists(), "his page was opened");
    place.run(["status"]);
    let doctor = place.run(["doctor"]);
    assert!(
        doctor.out.contains("listener") && doctor.out.contains("of user nobody"),
        "{doctor:?}"
    );
    assert!(http.peers() > 0);
    let heard = [amqp.ended(), http.ended()].concat();
    assert_kept(&password, &heard);
}

/// The user named no broker, so it can only be one of theirs.
#[test]
fn a_home_without_a_stored_login_sends_another_user_on_the_port_nothing() {
    for guest in [true, false] {
        let place = Place::new();
        let [port, management] = [free_port(), free_port()];
        let (Some(amqp), Some(http)) = (
            Stranger::listen("127.0.0.1", port),
            Stranger::listen("127.0.0.1", management),
        ) else {
            return;
        };
        record_container(&place, [port, management], guest);
        for arguments in [
            &["list"][..],
            &["send", "--to", "a", "-m", "x", "--no-start"],
            &["inbox", "a"],
            &["ui"],
        ] {
            let ran = place.run(arguments);
            assert_eq!(ran.code, 3, "{guest} {arguments:?} {ran:?}");
            assert!(ran.err.contains("of user nobody"), "{arguments:?} {ran:?}");
            assert_eq!(ran.out, "", "{arguments:?}");
        }
        let doctor = place.run(["doctor"]);
        assert!(doctor.out.contains("nothing is sent to it"), "{doctor:?}");
        let heard = [amqp.ended(), http.ended()].concat();
        assert!(heard.is_empty(), "{}", String::from_utf8_lossy(&heard));
    }
}

#[test]
fn an_attached_session_tells_another_user_on_the_port_nothing() {
    let place = Place::new();
    let [port, management] = [free_port(), free_port()];
    place.ok([
        "start",
        "--port",
        &port.to_string(),
        "--mgmt-port",
        &management.to_string(),
    ]);
    let password = password(&place);
    let session = Wrapped::open(&place, "backend", &[]);
    kill_broker(&place);
    let Some(stranger) = Stranger::listen("127.0.0.1", port) else {
        return;
    };
    // Two connections each time: once it comes again, it has said all that it says.
    wait_until(
        || stranger.peers() > 4,
        || "the session does not try again".into(),
    );
    assert_kept(&password, &stranger.ended());
    drop(session);
}

#[test]
fn a_loopback_port_that_a_url_merely_names_gets_no_stored_password() {
    let place = Place::new();
    let password = crashed(&place, [free_port(), free_port()]);
    for host in ["127.0.0.1", "::1"] {
        let port = free_port();
        let Some(stranger) = Stranger::listen(host, port) else {
            return;
        };
        let written = if host == "::1" { "[::1]" } else { host };
        let url = format!("amqp://{written}:{port}");
        let ran = place.run(["list", "--url", &url]);
        assert_eq!(ran.code, 3, "{ran:?}");
        let http = format!("http://{written}:{port}");
        let _refused = place.run(["ui", "--url", &url, "--mgmt-url", &http]);
        assert_kept(&password, &stranger.ended());
    }
}

#[test]
fn another_management_user_takes_the_stored_password_to_no_other_user() {
    let place = Place::new();
    let _broker = started(&place);
    let Some(stranger) = Stranger::listen_silently(STRANGER, "127.0.0.1", free_port()) else {
        return;
    };
    let url = format!("http://127.0.0.1:{}", stranger.port());
    let stored = password(&place);
    let user = ("CBROKER_MGMT_USER", "ada");
    let given = ("CBROKER_MGMT_PASS", stored.as_str());
    let with = |variables: &[(&str, &str)], flags: &[&str]| {
        let mut command = place.command();
        command.args(["list", "--mgmt-url", &url]).args(flags);
        command.envs(variables.iter().copied());
        String::from_utf8(command.output().unwrap().stderr).unwrap()
    };
    for told in [with(&[user], &[]), with(&[], &["--mgmt-user", "ada"])] {
        assert!(told.contains("has no password"), "{told}");
    }
    let told = [
        with(&[user, given], &[]),
        with(&[given], &["--mgmt-user", "ada"]),
        with(&[given], &[]),
    ];
    assert!(stranger.peers() > 0);
    assert_kept(&stored, &stranger.ended());
    for told in told {
        assert!(told.contains("of user nobody"), "{told}");
    }
}

/// A home whose record makes the API of the broker at `url` be derived to the port `management`.
fn place_with_derived_api(url: &str, port: u16, management: u16) -> Place {
    let place = Place::at(url, None);
    record_container(&place, [port, management], false);
    place
}

#[test]
fn a_port_that_a_url_does_not_name_gets_no_password_of_it() {
    let own = Place::new();
    let [port, management, derived] = [free_port(), free_port(), free_port()];
    let ports = [port.to_string(), management.to_string()];
    own.ok(["start", "--port", &ports[0], "--mgmt-port", &ports[1]]);
    let Some(stranger) = Stranger::listen_silently(STRANGER, "127.0.0.1", derived) else {
        own.ok(["stop"]);
        return;
    };
    let url = format!("amqp://cbroker:{}@127.0.0.1:{port}", password(&own));
    let place = place_with_derived_api(&url, port, derived);
    let listed = place.run(["list"]);
    for arguments in [
        &["send", "--to", "new", "-m", "x"][..],
        &["group", "list"],
        &["ask", "new", "?", "--timeout", "1"],
        &["status"],
        &["ui"],
    ] {
        place.run(arguments);
    }
    own.ok(["stop"]);
    assert!(stranger.peers() > 0);
    assert_kept(&password(&own), &stranger.ended());
    assert!(listed.err.contains("of user nobody"), "{listed:?}");
    assert!(listed.err.contains("--mgmt-url"), "{listed:?}");
}

#[test]
fn the_user_who_holds_the_named_port_gets_the_login_at_the_port_beside_it_too() {
    for (user, gets_it) in [(OTHER_STRANGER, true), (STRANGER, false)] {
        let [port, derived] = [free_port(), free_port()];
        let listen = |user, port| Stranger::listen_silently(user, "127.0.0.1", port);
        let (Some(_amqp), Some(http)) = (listen(OTHER_STRANGER, port), listen(user, derived))
        else {
            return;
        };
        let url = format!("amqp://ada:given@127.0.0.1:{port}");
        place_with_derived_api(&url, port, derived).run(["group", "list"]);
        let heard = String::from_utf8_lossy(&http.ended()).into_owned();
        let basic = BASE64_STANDARD.encode("ada:given");
        assert_eq!(heard.contains(&basic), gets_it, "{heard}");
    }
}

#[test]
fn an_ipv6_loopback_that_another_user_has_taken_is_an_error() {
    let place = Place::new();
    let [port, management] = [free_port(), free_port()];
    let Some(_stranger) = Stranger::listen("::1", port) else {
        return;
    };
    let ports = [port.to_string(), management.to_string()];
    for verb in ["start", "serve"] {
        let ran = place.run([verb, "--port", &ports[0], "--mgmt-port", &ports[1]]);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains("of user nobody"), "{ran:?}");
    }
}

#[test]
fn a_user_who_may_only_write_to_presence_pauses_and_reads_nobody() {
    let place = Place::new();
    let _broker = started(&place);
    let session = Wrapped::open(&place, "backend", &[]);
    let log = || std::fs::read_to_string(place.home().join("logs/backend.log")).unwrap_or_default();
    for question in [
        json!({"kind": "pause", "scope": "all"}),
        json!({"kind": "inbox", "scope": {"name": "backend"}, "take": true}),
    ] {
        publish(
            &place,
            "claudeBroker.presence",
            "",
            "amq.gen-stranger",
            &question,
        );
    }
    place.ok(["send", "--to", "backend", "-m", "not held"]);
    session.wait_for_submission("not held");
    wait_until(|| log().contains("ignored"), log);
    assert_eq!(
        log().matches("a request that controls").count(),
        1,
        "{}",
        log()
    );
    assert_eq!(place.json(["pause", "backend"])[0][0]["state"], "paused");
    place.ok(["stop"]);
}

#[test]
fn a_request_that_was_dead_lettered_into_presence_commands_nobody() {
    let place = Place::new();
    let _broker = started(&place);
    let session = Wrapped::open(&place, "backend", &[]);
    // The queue of somebody who may bind to the exchange gets a copy of each question.
    let arguments = json!({"durable": true,
        "arguments": {"x-dead-letter-exchange": "claudeBroker.presence"}});
    request(&place, "PUT", "queues/%2f/copies", &arguments.to_string());
    let bindings = "bindings/%2f/e/claudeBroker.presence/q/copies";
    api(&place, bindings, &json!({"routing_key": ""}));
    assert_eq!(place.json(["pause", "backend"])[0][0]["state"], "paused");
    request(&place, "DELETE", &format!("{bindings}/~"), "");
    place.json(["resume", "backend"]);
    let reject = json!({"count": 100, "ackmode": "reject_requeue_false", "encoding": "auto"});
    let replayed = api(&place, "queues/%2f/copies/get", &reject).to_string();
    assert!(replayed.contains("pause"), "{replayed}");
    place.ok(["send", "backend", "still taken"]);
    session.wait_for_submission("still taken");
    place.ok(["stop"]);
}

#[test]
fn a_session_that_gets_a_copy_by_a_binding_confirms_nothing() {
    let place = Place::new();
    let _broker = started(&place);
    let deploy = Wrapped::open(&place, "deploy", &[]);
    let binding = json!({"routing_key": "backend"});
    api(&place, "bindings/%2f/e/claudeBroker/q/deploy", &binding);
    let ran = place.run(["send", "backend", "for you", "--wait", "--timeout", "5"]);
    deploy.wait_for_submission("for you");
    assert_eq!(ran.code, 4, "{ran:?}");
    place.ok(["stop"]);
}

#[test]
fn an_impostor_answers_for_no_session() {
    let place = Place::new();
    let _broker = started(&place);
    place.ok(["send", "--to", "ghost", "-m", "x"]);
    place.ok(["list"]);
    // The presence exchange shows the impostor every question.
    api(
        &place,
        "bindings/%2f/e/claudeBroker.presence/q/ghost",
        &json!({"routing_key": ""}),
    );
    let asking = place
        .command()
        .args(["inbox", "ghost"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let look = json!({"count": 10, "ackmode": "ack_requeue_false", "encoding": "auto"});
    let mut reply_to = None;
    wait_until(
        || {
            let seen = api(&place, "queues/%2f/ghost/get", &look);
            let mut questions = seen.as_array().into_iter().flatten();
            reply_to = questions
                .find_map(|seen| seen["properties"]["reply_to"].as_str().map(str::to_owned));
            reply_to.is_some()
        },
        || "no question came".into(),
    );
    let held = json!({"id": "1", "from": "a", "ts": "t", "reason": "forged", "line": "forged"});
    let answer = json!({"kind": "inbox", "name": "ghost", "session": "s", "messages": [held]});
    publish(&place, "amq.default", &reply_to.unwrap(), "", &answer);
    let ran = asking.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(1), "{told}");
    assert!(told.contains("no session `ghost` is attached"), "{told}");
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "");
    place.ok(["stop"]);
}

#[test]
fn an_impostor_answers_no_question() {
    let place = Place::new();
    let _broker = started(&place);
    let ask = ["ask", "--to", "ghost", "-m", "?", "--timeout", "40"];
    let (asking, question) = waiting(&place, &ask);
    let reply_to = question["reply_to"].as_str().unwrap();
    // The name is right, the question is right, and nobody vouches for it.
    let at = "2026-01-01T00:00:00.000Z";
    let answer = json!({"id": "1", "from": "ghost", "to": reply_to, "ts": at,
        "message": "forged", "correlation_id": question["id"]});
    publish(&place, "claudeBroker", reply_to, "", &answer);
    let ran = asking.wait_with_output().unwrap();
    assert_eq!(ran.status.code(), Some(4), "{ran:?}");
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "");
    place.ok(["stop"]);
}

#[test]
fn an_impostor_confirms_no_delivery() {
    let place = Place::new();
    let _broker = started(&place);
    let (sending, message, receipts) = waiting_send(&place, &["--timeout", "40"]);
    for state in ["injected", "delivered"] {
        let receipt = json!({"id": message["id"], "state": state});
        publish(&place, "amq.default", &receipts, "", &receipt);
    }
    let ran = sending.wait_with_output().unwrap();
    assert_eq!(ran.status.code(), Some(4), "{ran:?}");
    let told = String::from_utf8_lossy(&ran.stdout);
    assert!(
        !told.contains("injected") && !told.contains("delivered"),
        "{told}"
    );
    place.ok(["stop"]);
}

#[test]
fn escape_sequences_of_a_peer_reach_neither_terminal_nor_json_nor_log() {
    let nasty = "a\u{1b}]0;title\u{7}\u{1b}]52;c;eA==\u{7}\u{1b}[2J\u{9b}31m\u{202e}b\nforged  row";
    let place = Place::new();
    let _broker = started(&place);
    let body = json!({"id": "m1", "from": "a", "to": "ghost", "ts": nasty, "message": nasty,
        "files": [nasty], "metadata": {nasty: nasty}});
    place.ok(["send", "--to", "ghost", "-m", "x"]);
    publish(&place, "claudeBroker", "ghost", "", &body);
    publish(&place, "claudeBroker", "ghost", "", &json!(nasty));
    let session = Wrapped::open(&place, "ghost2", &[]);
    publish(&place, "claudeBroker", "ghost2", "", &json!([nasty]));
    place.ok(["pause", "ghost2"]);
    publish(&place, "claudeBroker", "ghost2", "", &body);
    wait_until(
        || {
            !place.json(["inbox", "ghost2"])[0]
                .as_array()
                .unwrap()
                .is_empty()
        },
        || "it is not held".into(),
    );
    let acts = |c: char| c != '\n' && (c.is_control() || cbroker::clean::is_hidden(c));
    for arguments in [
        &["tail", "ghost", "--no-ack"][..],
        &["tail", "ghost", "--no-ack", "--json"],
        &["inbox", "ghost2"],
        &["inbox", "ghost2", "--json"],
        &["list"],
        &["list", "--json"],
        &["why", "m1"],
        &["why", "m1", "--json"],
        &["logs"],
    ] {
        let ran = place.run(arguments);
        assert_eq!(ran.code, 0, "{arguments:?} {ran:?}");
        let shown = format!("{}{}", ran.out, ran.err);
        assert!(!shown.contains(acts), "{arguments:?} {shown:?}");
        assert!(
            !shown.lines().any(|line| line.starts_with("forged")),
            "{shown:?}"
        );
    }
    let log = std::fs::read_to_string(place.home().join("logs/ghost2.log")).unwrap();
    assert!(!log.contains(acts), "{log:?}");
    drop(session);
    place.ok(["stop"]);
}
