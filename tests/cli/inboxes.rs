//! The queues that sessions and commands consume.

use std::process::Stdio;
use std::time::Duration;

use cbroker::name::SessionName;
use cbroker::peer::{
    Inbox, InboxEvent, InboxOptions, Receipt, ReceiptState, ReceivedMessage, Sharing,
};
use futures_util::StreamExt;
use lapin::types::FieldTable;
use serde_json::json;

use crate::background_broker::{api_get, started};
use crate::client;
use crate::support::{Place, Server, wait_until};

fn options(place: &Place, name: &str, prefetch: u16) -> InboxOptions {
    InboxOptions {
        endpoint: client::endpoint(place),
        name: SessionName::new(name).unwrap(),
        groups: Vec::new(),
        ttl_ms: 60_000,
        prefetch,
        sharing: Sharing::Shared,
        endpoint_finder: None,
    }
}

/// The next message. The session must not have lost its queue before.
async fn next(inbox: &mut Inbox) -> Box<ReceivedMessage> {
    loop {
        match inbox.next().await.unwrap() {
            InboxEvent::Delivery(message) => return message,
            InboxEvent::Attached(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_session_that_asks_for_more_never_leaves_its_queue() {
    let place = Place::new();
    let server = Server::start(&place);
    // A broker deletes such a queue, and what waits in it, when its last consumer leaves.
    let body = json!({ "durable": true, "auto_delete": true }).to_string();
    let made = server.ask(&place, "PUT", "/api/queues/%2f/peer", &body);
    assert!(made.status < 300, "{made:?}");
    client::make_queue(&place, "peer");
    client::publish(&place, "peer", (0..3).map(|number| format!("m{number}")));
    let options = options(&place, "peer", 1);
    client::run(async {
        let mut inbox = Inbox::open(options);
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(next(&mut inbox).await);
            inbox.ask_for_more();
        }
        let bodies: Vec<_> = held
            .iter()
            .map(|message| String::from_utf8_lossy(&message.body).into_owned())
            .collect();
        for (number, body) in bodies.iter().enumerate() {
            assert!(body.contains(&format!("\"m{number}\"")), "{bodies:?}");
        }
        for message in held {
            message.ack().await;
        }
    });
}

#[test]
fn a_session_that_asks_for_more_hears_all_in_their_order() {
    const COUNT: usize = 400;
    let place = Place::new();
    let _server = Server::start(&place);
    client::make_queue(&place, "peer");
    client::publish(
        &place,
        "peer",
        (0..COUNT).map(|number| format!("m{number}")),
    );
    let options = options(&place, "peer", 4);
    client::run(async {
        let mut inbox = Inbox::open(options);
        for number in 0..COUNT {
            let message = next(&mut inbox).await;
            let body = String::from_utf8_lossy(&message.body).into_owned();
            assert!(body.contains(&format!("\"m{number}\"")), "{number}: {body}");
            inbox.ask_for_more();
            message.ack().await;
        }
    });
}

#[test]
fn what_a_session_says_last_goes_out_although_messages_wait_for_it() {
    let place = Place::new();
    let _server = Server::start(&place);
    let url = place.ok(["status", "--show-url"]);
    client::make_queue(&place, "peer");
    client::make_bare_queue(&url, "told");
    client::publish(&place, "peer", (0..200).map(|number| format!("m{number}")));
    let options = options(&place, "peer", 4);
    client::run(async {
        let mut inbox = Inbox::open(options);
        next(&mut inbox).await;
        // More come than there is room for while nobody reads.
        for _ in 0..20 {
            inbox.ask_for_more();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let receipt = Receipt {
            id: "m0".into(),
            to: None,
            state: ReceiptState::Held,
            reason: None,
            way: None,
        };
        inbox.outgoing_sender().receipt("told", receipt);
        inbox.close(Duration::from_secs(20)).await;
        let (_connection, channel) = client::connected(&url).await;
        let options = lapin::options::BasicGetOptions::default();
        let told = channel.basic_get("told".into(), options).await.unwrap();
        assert!(told.is_some(), "the last words were not sent");
    });
}

#[test]
fn the_queue_in_which_a_command_collects_answers_has_its_bounds() {
    // Its name is in each question, and anybody may publish to a queue whose name he knows.
    let place = Place::new();
    let _broker = started(&place);
    client::make_queue(&place, "ghost");
    // Attached as a session is, and silent on the presence exchange: it is waited for.
    let mut silent = place.command();
    let mut silent = silent.args(["tail", "ghost"]).spawn().unwrap();
    wait_until(
        || client::consumers(&place, "ghost") == Some(1),
        || "tail does not consume".into(),
    );
    let ask = || {
        let mut asking = place.command();
        let asking = asking.args(["inbox", "ghost"]).stderr(Stdio::null());
        asking.spawn().unwrap()
    };
    let mut asking = ask();
    let mut seen = None;
    wait_until(
        || {
            // A machine may be slower than its patience.
            if asking.try_wait().unwrap().is_some() {
                asking = ask();
            }
            seen = queue_for_answers(&place);
            seen.is_some()
        },
        || "it asks nobody".into(),
    );
    let _ended = asking.wait();
    silent.kill().unwrap();
    silent.wait().unwrap();
    let (seen, queue) = seen.unwrap();
    assert_eq!(seen["ack_required"], true, "{seen}");
    assert_ne!(seen["prefetch_count"], 0, "{seen}");
    let arguments = &queue["arguments"];
    for bound in ["x-max-length", "x-max-length-bytes"] {
        assert!(arguments[bound].is_number(), "{arguments}");
    }
}

/// The consumer of a queue that the broker named, and the queue.
fn queue_for_answers(place: &Place) -> Option<(serde_json::Value, serde_json::Value)> {
    let find = |path: &str, is_wanted: &dyn Fn(&serde_json::Value) -> bool| {
        let all = api_get(place, path);
        let mut all = all.as_array().unwrap().iter();
        all.find(|one| is_wanted(one)).cloned()
    };
    let is_named_by_broker = |one: &serde_json::Value| {
        let queue = one["queue"]["name"].as_str();
        queue.is_some_and(|name| name.starts_with("amq."))
    };
    let consumer = find("consumers", &is_named_by_broker)?;
    let queue = find("queues", &|queue| {
        queue["name"] == consumer["queue"]["name"]
    })?;
    Some((consumer, queue))
}

/// Answers the next request for what `backend` holds with each of these answers.
async fn answer_inbox(
    url: String,
    answers: Vec<serde_json::Value>,
    ready: std::sync::mpsc::SyncSender<()>,
) {
    let (_connection, channel) = client::connected(&url).await;
    let _attached = client::consume_one(&channel, "backend").await;
    let options = lapin::options::QueueDeclareOptions::exclusive();
    let queue = channel.queue_declare("".into(), options, FieldTable::default());
    let queue = queue.await.unwrap().name().clone();
    let bound = channel.queue_bind(
        queue.clone(),
        "claudeBroker.presence".into(),
        "".into(),
        lapin::options::QueueBindOptions::default(),
        FieldTable::default(),
    );
    bound.await.unwrap();
    let options = lapin::options::BasicConsumeOptions {
        no_ack: true,
        ..lapin::options::BasicConsumeOptions::default()
    };
    let requests = channel.basic_consume(queue, "".into(), options, FieldTable::default());
    let mut requests = requests.await.unwrap();
    ready.send(()).unwrap();
    let reply_to = loop {
        let request = requests.next().await.unwrap().unwrap();
        if String::from_utf8_lossy(&request.data).contains(r#""kind":"inbox""#) {
            break request.properties.reply_to().clone().unwrap();
        }
    };
    for answer in answers {
        let answer = answer.to_string();
        let published = channel.basic_publish(
            "".into(),
            reply_to.clone(),
            lapin::options::BasicPublishOptions::default(),
            answer.as_bytes(),
            lapin::BasicProperties::default().with_user_id("cbroker".into()),
        );
        published.await.unwrap();
    }
    // Stays attached until the broker ends.
    while let Some(Ok(_)) = requests.next().await {}
}

#[test]
fn an_answer_to_another_question_is_not_what_a_session_holds() {
    // The first answer of a session counted, whatever it said, and the inbox was empty.
    let place = Place::new();
    let _broker = started(&place);
    client::make_queue(&place, "backend");
    place.ok(["list"]);
    let url = place.ok(["status", "--show-url"]);
    let state = json!({
        "kind": "state", "name": "backend", "session": "01", "agent": "a", "state": "idle",
        "held": 1, "pid": 1, "host": "h", "since": "2026-01-01T00:00:00Z",
    });
    let held = json!({
        "kind": "inbox", "name": "backend", "session": "01",
        "messages": [{
            "id": "m1", "from": "peer", "ts": "2026-01-01T00:00:00.000Z", "state": "held",
            "reason": "paused", "line": "read me",
        }],
    });
    let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || client::run(answer_inbox(url, vec![state, held], ready)));
    is_ready.recv().unwrap();
    assert_eq!(place.ok(["inbox", "backend"]), "held: paused read me\n");
}
