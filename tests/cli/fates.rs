//! What a sender that waits is told when its message ends: nobody says of a message that is gone
//! that it stays in the queue.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use futures_util::StreamExt;

use crate::client;
use crate::support::{Place, Server, Wrapped, wait_until};

/// A `send` under way, which waits long enough.
fn started(place: &Place, to: &str, more: &[&str]) -> Child {
    let command = ["send", "--to", to, "-m", "x", "--timeout", "300"];
    let mut command_line = place.command();
    command_line.args(command).args(more);
    command_line.stdout(Stdio::piped()).stderr(Stdio::piped());
    command_line.spawn().unwrap()
}

/// The same once its message waits in the queue of `to`.
fn sending(place: &Place, to: &str, more: &[&str]) -> Child {
    let before = count(place, to);
    let child = started(place, to, more);
    wait_until(
        || count(place, to) > before,
        || "the message waits".to_owned(),
    );
    child
}

fn count(place: &Place, to: &str) -> usize {
    match place.listed(to) {
        Some(_) => place.json(["tail", to, "--no-ack"]).len(),
        None => 0,
    }
}

/// Its exit code, and what it printed.
fn said(child: Child) -> (i32, String) {
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    (output.status.code().unwrap(), text)
}

/// Asks the API of its broker to delete something.
fn delete(place: &Place, server: &Server, path: &str) {
    let answer = server.ask(place, "DELETE", path, "");
    assert_eq!(answer.status, 204, "{answer:?}");
}

/// It ended so, its story says so too, and nothing else was said of it.
fn ended(place: &Place, child: Child, end: &str) {
    let (code, said) = said(child);
    assert_eq!(code, 1, "{said}");
    assert!(said.lines().any(|line| line == end), "{said}");
    assert!(!said.contains("stays"), "{said}");
    let id = said.split(' ').nth(1).unwrap();
    let story = place.ok(["why", id]);
    assert!(story.contains(end), "{story}");
}

#[test]
fn a_message_that_is_purged_deleted_or_dropped_is_reported() {
    let place = Place::new();
    let _server = Server::start(&place);
    let first = sending(&place, "peer", &["--wait"]);
    place.ok(["purge", "peer", "--yes"]);
    ended(&place, first, "purged");
    let second = sending(&place, "peer", &["--wait"]);
    place.ok(["delete", "peer", "--yes"]);
    ended(&place, second, "deleted with its queue");
    let third = sending(&place, "peer", &["--wait"]);
    client::publish(&place, "peer", (1..1000).map(|number| number.to_string()));
    place.ok(["send", "--to", "peer", "-m", "newest", "--drop-oldest"]);
    ended(&place, third, "dropped: the queue was full");
    assert_eq!(count(&place, "peer"), 1000, "no other one was dropped");
}

/// The page and other programs end messages too, and the broker itself does.
#[test]
fn a_message_that_ends_in_the_broker_is_told_of() {
    let place = Place::new();
    let server = Server::start(&place);
    let first = sending(&place, "peer", &["--wait"]);
    delete(&place, &server, "/api/queues/%2F/peer/contents");
    ended(&place, first, "purged");
    let second = sending(&place, "peer", &["--wait"]);
    delete(&place, &server, "/api/queues/%2F/peer");
    ended(&place, second, "deleted with its queue");
    let third = sending(&place, "peer", &["--wait"]);
    client::publish(&place, "peer", (0..1000).map(|number| number.to_string()));
    ended(&place, third, "dropped: the queue was full");
}

/// What `send`, `send --wait` and `ask` say of a message to `peer` that the broker answers with a
/// nack, each time: not confirmed, never returned or sent.
fn are_not_confirmed(place: &Place) {
    let refused = "is not confirmed: the broker refused it";
    for more in [&[][..], &["--wait"], &["--wait=answered"]] {
        let ran = place.run([&["send", "peer", "one more"][..], more].concat());
        ran.fails(4, &format!("the message to `peer` {refused}"))
            .hints("it may have arrived: see `cbroker why ");
        assert_eq!(ran.out, "", "no end is claimed");
    }
    let question = place.run(["ask", "--to", "peer", "-m", "one more?"]);
    question
        .fails(4, &format!("the question to `peer` {refused}"))
        .hints("it may have arrived: see `cbroker why ");
}

/// The states of the messages to `peer`, as the history has them.
fn states(place: &Place) -> Vec<String> {
    let history = place.json(["history", "peer"]);
    let states = history.iter().map(|message| message["state"].as_str());
    states.map(|state| state.unwrap().to_owned()).collect()
}

#[test]
fn a_message_that_its_queue_refuses_is_not_confirmed() {
    let place = Place::new();
    let _server = Server::start(&place);
    client::make_queue_of_one(&place.ok(["status", "--show-url"]), "peer");
    place.ok(["send", "peer", "the one that it takes"]);
    are_not_confirmed(&place);
    let refused = ["unconfirmed"; 4];
    assert_eq!(states(&place), [&["queued"][..], &refused].concat());
    let printed = place.ok(["history", "peer"]);
    assert!(printed.contains(" not confirmed: "), "{printed}");
}

#[test]
fn a_message_that_only_a_strangers_queue_refuses_is_not_said_to_be_returned() {
    let place = Place::new();
    let _server = Server::start(&place);
    let url = place.ok(["status", "--show-url"]);
    client::make_queue(&place, "peer");
    client::make_queue_of_one(&url, "stranger");
    client::bind(&url, "stranger", "peer");
    place.ok(["send", "peer", "fills the queue of the stranger"]);
    are_not_confirmed(&place);
    let waiting = place.json(["tail", "peer", "--no-ack"]);
    assert_eq!(
        waiting.len(),
        5,
        "the session's queue has each: {waiting:?}"
    );
    let _session = Wrapped::open(&place, "peer", &[]);
    wait_until(
        || states(&place).iter().all(|state| state == "delivered"),
        || format!("the history knows better then: {:?}", states(&place)),
    );
}

#[test]
fn an_expired_message_is_reported_even_if_others_wait() {
    let place = Place::new();
    let _server = Server::start(&place);
    place.ok(["send", "--to", "peer", "-m", "lasting"]);
    // It may expire before a look at the queue.
    let first = started(&place, "peer", &["--wait", "--ttl", "2000"]);
    ended(&place, first, "expired");
    place.ok(["send", "--to", "peer", "-m", "last"]);
    let taken = place.json(["tail", "peer", "-n", "2"]);
    let texts: Vec<_> = taken.iter().map(|taken| &taken["message"]).collect();
    assert_eq!(texts, ["lasting", "last"]);
}

#[test]
fn a_sender_whose_broker_is_killed_hears_that_nothing_is_known_and_its_message_arrives() {
    let place = Place::new();
    let mut server = Server::start(&place);
    let mut waiting = sending(&place, "peer", &["--wait"]);
    let mut line = String::new();
    let mut printed = BufReader::new(waiting.stdout.take().unwrap());
    printed.read_line(&mut line).unwrap();
    let id = line.split_whitespace().nth(1).unwrap().to_owned();
    assert!(line.starts_with("sent "), "{line}");
    server.kill_and_restart(&place);
    let (code, said) = said(waiting);
    assert_eq!(code, 4, "{said}");
    let is_told = said.contains("no final receipt from `peer`") && said.contains("cbroker why");
    assert!(is_told, "{said}");
    for unknown in ["stays", "delivered", "expired", "purged"] {
        assert!(!said.contains(unknown), "{said}");
    }
    let session = Wrapped::open(&place, "peer", &[]);
    session.wait_for_submission(&id);
    wait_until(
        || place.ok(["why", &id]).contains("delivered"),
        || "its story says so".to_owned(),
    );
}

#[test]
fn a_message_that_another_program_took_is_not_said_to_wait_or_to_have_expired() {
    let place = Place::new();
    let _server = Server::start(&place);
    place.ok(["send", "--to", "peer", "-m", "first"]);
    let taking = place
        .command()
        .args(["tail", "peer"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until(
        || {
            place
                .listed("peer")
                .is_some_and(|peer| peer["consumers"] == 1)
        },
        || "a program of another kind is attached".to_owned(),
    );
    let wait = [
        "send",
        "--to",
        "peer",
        "-m",
        "x",
        "--wait",
        "--timeout",
        "2",
    ];
    let ran = place.run(wait);
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.err.contains("sends no receipts"), "{ran:?}");
    assert!(!ran.err.contains("stays"), "{ran:?}");
    let mut taking = taking;
    taking.kill().unwrap();
    taking.wait().unwrap();
}

#[test]
fn a_stranger_s_copy_that_waits_is_not_the_message_that_another_program_took() {
    let place = Place::new();
    let _server = Server::start(&place);
    client::make_queue(&place, "peer");
    let url = place.ok(["status", "--show-url"]);
    let (attached, is_attached) = std::sync::mpsc::sync_channel(1);
    let (done, until_done) = tokio::sync::oneshot::channel::<()>();
    let taking = std::thread::spawn(move || {
        client::run(async {
            let (connection, channel) = client::connected(&url).await;
            let mut messages = client::consume_one(&channel, "peer").await;
            attached.send(()).unwrap();
            let taken = messages.next().await.unwrap().unwrap();
            // The same bytes, and nobody vouches for who sent them.
            let copy = channel.basic_publish(
                "claudeBroker".into(),
                "peer".into(),
                lapin::options::BasicPublishOptions::default(),
                &taken.data,
                lapin::BasicProperties::default(),
            );
            copy.await.unwrap();
            let _is_done = until_done.await;
            connection.close(200, "done".into()).await.unwrap();
        });
    });
    is_attached.recv().unwrap();
    let ran = place.run(["send", "peer", "x", "--wait", "--timeout", "5"]);
    assert_eq!(count(&place, "peer"), 1, "the copy waits");
    drop(done);
    taking.join().unwrap();
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.err.contains("sends no receipts"), "{ran:?}");
    assert!(!ran.err.contains("stays"), "{ran:?}");
}

#[test]
fn a_sender_waits_for_the_answer_and_its_text_is_printed() {
    let place = Place::new();
    let _server = Server::start(&place);
    let asking = sending(&place, "peer", &["--wait=answered"]);
    let question = place.json(["tail", "peer", "--no-ack"]).remove(0);
    let (id, reply_to) = (
        question["id"].as_str().unwrap(),
        question["reply_to"].as_str().unwrap(),
    );
    for (from, text) in [("impostor", "not this"), ("peer", "Port 8080")] {
        let answer = ["--from", from, "--correlation-id", id, "-m", text];
        place.ok([&["send", "--to", reply_to][..], &answer].concat());
    }
    let (code, said) = said(asking);
    assert_eq!(code, 0, "{said}");
    assert!(said.ends_with("answered\nPort 8080\n"), "{said}");
    assert!(
        place.ok(["why", id]).contains("peer answered"),
        "in its story"
    );
    let in_vain = [
        "send",
        "--to",
        "peer",
        "-m",
        "y",
        "--wait=answered",
        "--timeout",
        "1",
    ];
    let because = "no answer from `peer` within 1 s: no session has received it";
    place.run(in_vain).fails(4, because);
    let elsewhere = [
        "send",
        "--to",
        "peer",
        "-m",
        "z",
        "--reply-to",
        "other",
        "--wait=answered",
    ];
    place.run(elsewhere).fails(
        2,
        "`--wait=answered` does not see an answer that goes to `other`",
    );
}

#[test]
fn a_message_that_expired_after_its_session_ended_is_not_said_to_stay() {
    let place = Place::new();
    let _server = Server::start(&place);
    let session = Wrapped::open(&place, "peer", &[]);
    place.ok(["pause", "peer"]);
    let send = |more: &[&str]| {
        let wait = ["send", "peer", "x", "--wait"];
        let mut command = place.command();
        command.args(wait).args(more);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut printed = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.starts_with("held") {
            line.clear();
            assert!(printed.read_line(&mut line).unwrap() > 0, "no hold");
        }
        child
    };
    let brief = send(&["--ttl", "5000", "--timeout", "120"]);
    let lasting = send(&["--timeout", "30"]);
    drop(session);
    let (code, said_of_brief) = said(brief);
    assert_eq!(code, 1, "{said_of_brief}");
    assert!(!said_of_brief.contains("stays"), "{said_of_brief}");
    let history = place.json(["history", "peer"]);
    let states: Vec<_> = history.iter().map(|message| &message["state"]).collect();
    assert!(states.contains(&&"expired".into()), "{states:?}");
    let (code, said_of_lasting) = said(lasting);
    assert_eq!(code, 4, "{said_of_lasting}");
    assert!(said_of_lasting.contains("it stays"), "{said_of_lasting}");
}

#[test]
fn a_question_whose_queue_is_purged_is_not_waited_for() {
    let place = Place::new();
    let _server = Server::start(&place);
    place.ok(["send", "--to", "peer", "-m", "first"]);
    let asking = place
        .command()
        .args(["ask", "--to", "peer", "-m", "Which port?"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until(
        || count(&place, "peer") == 2,
        || "the question waits".to_owned(),
    );
    place.ok(["purge", "peer", "--yes"]);
    let (code, said) = said(asking);
    assert_eq!(code, 4, "{said}");
    assert!(
        said.contains("no answer will come from `peer`: it is purged"),
        "{said}"
    );
}
