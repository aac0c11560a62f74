//! `send`: what it prints, what it refuses, and what arrives.

use std::fs;
use std::thread;

use serde_json::Value;

use crate::client;
use crate::everywhere::everywhere;
use crate::support::{Place, Server, Wrapped, wait_until};

/// The envelopes that wait in a queue.
fn waiting(place: &Place, name: &str) -> Vec<Value> {
    place.json(["tail", name, "--no-ack"])
}

#[test]
fn a_message_waits_whole_until_its_session_opens() {
    everywhere(|place, name| {
        let to = name("backend");
        let said = place.ok([
            "send",
            "--to",
            &to,
            "-m",
            "the API is live",
            "--from",
            "dev-ops",
        ]);
        assert!(
            said.starts_with("sent 01") && said.contains(&format!("-> {to} (a new name")),
            "{said}"
        );
        let said = place.ok([
            "send",
            "--to",
            &to,
            "-m",
            "second",
            "--reply-to",
            "my-frontend",
            "--correlation-id",
            "c:1",
            "--priority",
            "high",
            "--meta",
            "intent=handoff",
            "--meta",
            "step=2",
            "-f",
            "/etc/hosts",
        ]);
        assert!(
            said.contains("(no session attached, 2 of 1000 waiting)"),
            "{said}"
        );
        let messages = waiting(place, &to);
        assert_eq!(
            (&messages[0]["message"], &messages[0]["from"]),
            (&"the API is live".into(), &"devOps".into())
        );
        assert!(messages[0].get("files").is_none() && messages[0].get("reply_to").is_none());
        let second = &messages[1];
        assert_eq!(second["from"], "cli");
        assert_eq!(second["to"], *to);
        assert_eq!(second["reply_to"], "myFrontend");
        assert_eq!(second["correlation_id"], "c:1");
        assert_eq!(second["priority"], "high");
        assert_eq!(
            second["metadata"],
            serde_json::json!({ "intent": "handoff", "step": "2" })
        );
        assert_eq!(second["files"], serde_json::json!(["/etc/hosts"]));
    });
}

#[test]
fn the_text_comes_from_an_option_a_file_or_standard_input() {
    everywhere(|place, name| {
        let to = name("texts");
        fs::write(place.path().join("notes.md"), "from a file\nsecond line\n").unwrap();
        place.ok(["send", "--to", &to, "--message-file", "notes.md"]);
        assert_eq!(
            place
                .run_with_input(["send", "--to", &to], b"from a pipe\n")
                .code,
            0
        );
        let messages = waiting(place, &to);
        assert_eq!(messages[0]["message"], "from a file\nsecond line");
        assert_eq!(messages[1]["message"], "from a pipe");
    });
}

#[test]
fn a_relative_file_becomes_absolute_and_a_missing_one_is_said() {
    everywhere(|place, name| {
        let to = name("files");
        fs::write(place.path().join("here.txt"), "x").unwrap();
        let ran = place.run([
            "send", "--to", &to, "-m", "x", "-f", "here.txt", "-f", "gone.txt",
        ]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.err.contains("gone.txt does not exist"), "{ran:?}");
        let folder = place.path().canonicalize().unwrap();
        let files = &waiting(place, &to)[0]["files"];
        assert_eq!(files[0], folder.join("here.txt").to_str().unwrap());
        assert!(files[1].as_str().unwrap().starts_with('/'));
    });
}

#[test]
fn several_recipients_get_a_message_each() {
    everywhere(|place, name| {
        let (one, two) = (name("one"), name("two"));
        let sent = place.json([
            "send", "--to", &one, "--to", &two, "--to", &one, "-m", "to both",
        ]);
        assert_eq!(sent.len(), 2, "a name that is said twice counts once");
        assert_ne!(sent[0]["id"], sent[1]["id"]);
        assert_eq!(waiting(place, &one)[0]["id"], sent[0]["id"]);
        assert_eq!(waiting(place, &two)[0]["id"], sent[1]["id"]);
    });
}

#[test]
fn a_slip_in_a_name_is_pointed_out_and_can_be_refused() {
    everywhere(|place, name| {
        let (known, slip) = (name("frontend"), name("fronteend"));
        place.ok(["send", "--to", &known, "-m", "x"]);
        place
            .run(["send", "--to", &slip, "--must-exist", "-m", "x"])
            .fails(1, &format!("no session has used the name `{slip}`"))
            .hints(&format!("did you mean `{known}`?"));
        let said = place.ok(["send", "--to", &slip, "-m", "x"]);
        assert!(
            said.contains(&format!("a new name; did you mean `{known}`?")),
            "{said}"
        );
        place.ok([
            "send",
            "--to",
            &slip,
            "--must-exist",
            "-m",
            "it is known now",
        ]);
    });
}

#[test]
fn a_full_queue_refuses_and_loses_nothing_unless_told_so() {
    everywhere(|place, name| {
        let to = name("full");
        place.ok(["send", "--to", &to, "-m", "0"]);
        client::publish(place, &to, (1..1000).map(|number| number.to_string()));
        place
            .run(["send", "--to", &to, "-m", "one more"])
            .fails(4, &format!("`{to}` is full: 1000 messages wait"))
            .hints("--drop-oldest");
        assert_eq!(waiting(place, &to)[0]["message"], "0");
        place.ok(["send", "--to", &to, "-m", "newest", "--drop-oldest"]);
        wait_until(
            || {
                let messages = waiting(place, &to);
                messages.len() == 1000
                    && messages[0]["message"] == "1"
                    && messages[999]["message"] == "newest"
            },
            || "the oldest message goes, and only that one".to_owned(),
        );
    });
}

#[test]
fn what_an_attached_session_holds_keeps_its_place_in_a_full_queue() {
    let place = Place::new();
    let _server = Server::start(&place);
    let session = Wrapped::open(&place, "full", &[]);
    place.ok(["pause", "full"]);
    client::publish(&place, "full", (0..830).map(|number| number.to_string()));
    let row = || place.listed("full").unwrap();
    wait_until(
        || row()["held"] == 32 && row()["pending"] == 798,
        || format!("the session holds 32: {:?}", row()),
    );
    for _ in 830..840 {
        place.ok(["send", "--to", "full", "-m", "x"]);
    }
    place
        .run(["send", "--to", "full", "-m", "one more"])
        .fails(
            4,
            "`full` is full: 808 messages wait beside those that its session holds",
        )
        .hints("--drop-oldest");
    drop(session);
    wait_until(
        || waiting(&place, "full").len() == 840,
        || "what the session held is back".to_owned(),
    );
    assert_eq!(waiting(&place, "full")[0]["message"], "0");
}

#[test]
fn what_cannot_be_a_message_is_refused_before_anything_is_sent() {
    let place = Place::new();
    let _server = Server::start(&place);
    let long = "x".repeat((1 << 20) + 1);
    fs::write(place.path().join("long"), &long).unwrap();
    fs::write(place.path().join("binary"), b"\xff\xfe").unwrap();
    place
        .run(["send", "--to", "a", "-m", ""])
        .fails(2, "the message is empty");
    place
        .run(["send", "--to", "a", "--message-file", "long"])
        .fails(2, "the message is too long")
        .hints("-f");
    place
        .run(["send", "--to", "a", "--message-file", "gone"])
        .fails(2, "cannot read gone");
    place
        .run(["send", "--to", "a", "--message-file", "binary"])
        .fails(2, "binary is not UTF-8");
    place
        .run(["send", "--to", "2", "-m", "x"])
        .fails(2, "`2` in --to is not a session name");
    place
        .run(["send", "--to", "a", "-m", "x", "--from", "!"])
        .fails(2, "`!` in --from is not a session name");
    place
        .run(["send", "--to", "a", "-m", "x", "--correlation-id", "a b"])
        .fails(2, "`a b` is not a message id");
    place
        .run(["send", "--to", "a", "-m", "x", "--meta", "novalue"])
        .fails(2, "invalid value 'novalue'");
    place
        .run(["send", "--to", "a", "-m", "x", "--priority", "urgent"])
        .fails(2, "invalid value 'urgent'");
    assert!(place.listed("a").is_none());
}

#[test]
fn nobody_waits_at_the_queue_of_an_answer_that_timed_out() {
    everywhere(|place, _| {
        place
            .run([
                "send",
                "--to",
                "ask01JD3ZQ8V4K2M6N8P0R2T4V6X8",
                "-m",
                "late",
            ])
            .fails(4, "no `cbroker ask` waits for an answer");
    });
}

#[test]
fn a_message_with_a_ttl_is_gone_after_it() {
    everywhere(|place, name| {
        let to = name("short");
        place.ok(["send", "--to", &to, "-m", "short-lived", "--ttl", "300"]);
        place.ok(["send", "--to", &to, "-m", "lasting"]);
        wait_until(
            || {
                waiting(place, &to)
                    .iter()
                    .map(|message| &message["message"])
                    .eq(["lasting"])
            },
            || format!("{:?}", waiting(place, &to)),
        );
    });
}

#[test]
fn a_receipt_says_delivered_held_or_that_none_came() {
    everywhere(|place, name| {
        let to = name("receiver");
        place
            .run([
                "send",
                "--to",
                &to,
                "-m",
                "to nobody",
                "--wait",
                "--timeout",
                "1",
            ])
            .fails(
                4,
                &format!("no final receipt from `{to}` within 1 s: no session has received it"),
            );
        let session = Wrapped::open(place, &to, &[]);
        session.wait_for_submission("to nobody");
        let said = place.ok(["send", "--to", &to, "-m", "hello", "--wait"]);
        assert!(
            said.contains("(session attached") && said.trim_end().ends_with("delivered (keyboard)"),
            "{said}"
        );
        session.wait_for_submission("hello [end]");

        place.ok(["pause", &to]);
        let ran = place.run([
            "send",
            "--to",
            &to,
            "-m",
            "later",
            "--wait",
            "--timeout",
            "20",
        ]);
        ran.fails(
            4,
            &format!("no final receipt from `{to}` within 20 s: it is held: paused"),
        )
        .hints(&format!("`cbroker resume {to}`"));
        assert!(ran.out.contains("held: paused"), "{ran:?}");
        place.ok(["resume", &to]);
        session.wait_for_submission("later");

        let receipt = &place.json(["send", "--to", &to, "-m", "in JSON", "--wait"])[0]["receipt"];
        assert_eq!(receipt["state"], "delivered");
    });
}

#[test]
fn a_message_that_left_its_queue_without_a_receipt_is_not_said_to_wait_there() {
    let place = Place::new();
    let _server = Server::start(&place);
    let to = "elsewhere";
    let wait = ["send", "--to", to, "-m", "x", "--wait", "--timeout", "6"];
    place.ok(["send", "--to", to, "-m", "first"]);
    thread::scope(|scope| {
        let sending = scope.spawn(|| place.run(wait));
        place.ok(["tail", to, "-n", "2"]);
        let ran = sending.join().unwrap();
        assert!(ran.err.contains("it is no longer in the queue"), "{ran:?}");
        assert!(!ran.err.contains("it stays in the queue"), "{ran:?}");
        assert_eq!(ran.code, 4);
    });
}

#[test]
fn a_password_in_an_argument_is_warned_about_and_never_printed() {
    let place = Place::new();
    let ran = place.run([
        "--url",
        "amqp://user:topsecret@localhost:1",
        "send",
        "--to",
        "a",
        "-m",
        "x",
    ]);
    ran.fails(
        3,
        "no broker answers at amqp://user:***@localhost:1: connection refused",
    );
    assert!(
        ran.err.contains("CBROKER_URL") && ran.err.contains("url_file"),
        "{ran:?}"
    );
    assert!(!ran.err.contains("topsecret") && !ran.out.contains("topsecret"));
}

#[test]
fn every_send_from_a_session_has_hops_one_more_than_what_it_answers_and_no_other_send_has() {
    everywhere(|place, name| {
        let to = name("hops");
        let session = ulid::Ulid::generate().to_string();
        let send = |inside: bool| {
            let mut command = place.command();
            command.args(["send", "--to", &to, "-m", "text"]);
            if inside {
                command.env("CBROKER_SESSION", &session);
            }
            assert!(command.output().unwrap().status.success());
            client::hops_of_the_first(place, &to)
        };
        assert_eq!(send(false), None, "a person or a script outside");
        assert_eq!(send(true), Some(0), "a person began");
        fs::create_dir_all(place.home().join("sessions")).unwrap();
        fs::write(place.home().join(format!("sessions/{session}.hops")), "4").unwrap();
        assert_eq!(send(true), Some(5), "in answer to a message of four hops");
    });
}

/// It was waited for 30 s, and then nothing was said but that it had not confirmed.
#[test]
fn a_broker_that_takes_no_messages_is_quoted_with_its_reason() {
    let place = Place::new();
    let server = Server::start_with(&place, 0, 0, &["--memory-limit", "1"]);
    // Nearly all that it may hold, so that it stops in the middle.
    let large = vec![b'x'; 1_000_000];
    // What it has written to its store takes no memory: each message may still be the last one that
    // it takes.
    let refused = |command: &[&str], why: &str| {
        let mut last = None;
        wait_until(
            || {
                let ran = place.run_with_input(command, &large);
                let is_refused = ran.err.contains(why);
                last = Some(ran);
                is_refused
            },
            || format!("{command:?} is refused"),
        );
        last.unwrap()
    };
    let why = "is not confirmed: the broker does not accept messages: low on memory";
    let ran = refused(&["send", "--to", "first", "--to", "other"], why);
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.err.contains("hint: free what it is low on"), "{ran:?}");
    let waiting = ["send", "--to", "first", "--wait", "--timeout", "1"];
    assert_eq!(refused(&waiting, why).code, 4);
    let asking = ["ask", "--to", "first", "--timeout", "1"];
    let why = "the broker does not accept messages: low on memory";
    assert_eq!(refused(&asking, why).code, 4);
    let queues = server.api(&place, "/api/queues?columns=name");
    let names = queues.as_array().unwrap().iter();
    let left: Vec<_> = names
        .filter(|queue| queue["name"].as_str().unwrap().starts_with("ask"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_recipient_and_the_text_may_stand_without_options() {
    let place = Place::new();
    let _server = Server::start(&place);
    place.ok(["send", "list", "- fix the tests"]);
    place.ok(["send", "--to", "list", "a word after --to"]);
    place.ok(["send", "list", "--ttl", "10m", "options between"]);
    for text in ["- fix the tests", "a word after --to", "options between"] {
        let taken = place.json(["tail", "list", "-n", "1"]);
        assert_eq!(taken[0]["message"], text);
    }
    place
        .run(["ask", "list", "why?", "--timeout", "100ms"])
        .fails(4, "");
}

#[test]
fn several_recipients_are_written_with_commas() {
    let place = Place::new();
    let _server = Server::start(&place);
    place.ok(["send", "a,b", "one"]);
    place.ok(["send", "--to", "b,c", "--to", "a", "-m", "two"]);
    for (name, texts) in [
        ("a", &["one", "two"][..]),
        ("b", &["one", "two"]),
        ("c", &["two"]),
    ] {
        let waiting: Vec<_> = waiting(&place, name)
            .iter()
            .map(|message| message["message"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(waiting, texts, "{name}");
    }
}

#[test]
fn a_text_may_begin_with_a_dash() {
    let place = Place::new();
    let _server = Server::start(&place);
    place.ok(["send", "--to", "list", "-m", "- fix the tests"]);
    place.ok(["send", "--to", "list", "--message", "--all of them"]);
    for text in ["- fix the tests", "--all of them"] {
        let taken = place.json(["tail", "list", "-n", "1"]);
        assert_eq!(taken[0]["message"], text);
    }
    place
        .run(["ask", "--to", "list", "-m", "- why?", "--timeout", "1"])
        .fails(4, "");
}
