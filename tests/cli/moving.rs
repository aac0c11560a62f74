//! `move`: messages arrive once, and queues keep their arguments.

use cbroker::peer::DeclareArguments;
use serde_json::{Value, json};

use crate::client;
use crate::everywhere::everywhere;
use crate::support::{Place, Rabbit, Server, Wrapped};

const TTL_MS: u64 = 7_200_000;

fn texts(messages: &[Value]) -> Vec<&str> {
    messages
        .iter()
        .map(|message| message["message"].as_str().unwrap())
        .collect()
}

/// Carries a queue from the place's broker to another and back, and looks at it at each station.
fn there_and_back(here: &Place, there: &Place, queue: &str) {
    client::make_queue_with(here, queue, TTL_MS);
    here.ok([
        "send",
        "--to",
        queue,
        "-m",
        "m0",
        "--priority",
        "high",
        "--meta",
        "k=v",
    ]);
    client::publish(here, queue, (1..4).map(|number| format!("m{number}")));
    let before = here.json(["tail", queue, "--no-ack"]);
    let url = client::endpoint(there).secret_url();
    let said = here.ok(["move", "--to", &url]);
    assert!(
        said.contains(&format!("{queue}: 4 messages")) && !said.contains(&url),
        "{said}"
    );
    assert!(here.listed(queue).is_none(), "the emptied queue goes");
    let declared = Some(DeclareArguments::of_session(Some(TTL_MS)));
    assert_eq!(client::arguments(there, queue), declared);
    assert_eq!(
        there.json(["tail", queue, "--no-ack"]),
        before,
        "each message is the same there"
    );

    let api = there.run(["status", "--json"]).out;
    let api: Value = serde_json::from_str(&api).unwrap();
    let api = api["mgmt_url"].as_str().unwrap();
    let back = ["move", "--from", &url, "--mgmt-url", api];
    let carried = here.json(back).remove(0);
    assert!(
        carried
            .as_array()
            .unwrap()
            .iter()
            .any(|row| row["name"] == *queue && row["messages"] == 4 && row["stays"].is_null()),
        "{carried}"
    );
    assert_eq!(
        texts(&here.json(["tail", queue, "--no-ack"])),
        ["m0", "m1", "m2", "m3"]
    );
    assert_eq!(client::arguments(here, queue), declared);
    assert_eq!(
        client::consumers(there, queue),
        None,
        "the emptied queue goes there too"
    );
}

#[test]
fn messages_move_between_two_embedded_brokers() {
    let (here, there) = (Place::new(), Place::new());
    let (_one, _other) = (Server::start(&here), Server::start(&there));
    there_and_back(&here, &there, "moved");
}

#[test]
fn messages_move_to_rabbitmq_and_back() {
    let Some(rabbit) = Rabbit::find() else { return };
    let own = ulid::Ulid::generate().to_string().to_lowercase();
    // A virtual host of one's own: `move --from` takes every session's queue.
    let rabbit = rabbit.with_vhost(&own);
    let (here, there) = (
        Place::new(),
        Place::at(&rabbit.url, Some(&rabbit.management)),
    );
    let _server = Server::start(&here);
    there_and_back(&here, &there, "moved");
}

#[test]
fn a_queue_in_use_is_not_deleted_and_the_broker_says_why() {
    everywhere(|place, name| {
        let queue = name("inUse");
        client::make_queue(place, &queue);
        client::publish(place, &queue, ["waits".to_owned()].into_iter());
        let stays = client::delete_unused(place, &queue).unwrap();
        assert!(stays.contains(&queue), "{stays}");
        place.ok(["purge", &queue, "--yes"]);
        assert_eq!(client::delete_unused(place, &queue), None);
        assert_eq!(client::consumers(place, &queue), None);
    });
}

#[test]
fn the_api_of_the_broker_that_is_moved_from_can_be_named() {
    let (here, there) = (Place::new(), Place::new());
    let (_one, other) = (Server::start(&here), Server::start(&there));
    client::make_queue(&there, "waiting");
    client::publish(&there, "waiting", (0..3).map(|number| format!("m{number}")));
    let url = client::endpoint(&there).secret_url();
    // Nothing listens at the usual port of an API, so the queues are not known. That is said, and
    // not that there are none.
    let unknown = ["move", "--from", &url, "--mgmt-url", "http://localhost:1"];
    here.run(unknown)
        .fails(3, "the queues of amqp://")
        .hints("--mgmt-url");
    assert_eq!(there.listed("waiting").unwrap()["pending"], 3);
    let api = format!("http://127.0.0.1:{}", other.management_port.unwrap());
    let said = here.ok(["move", "--from", &url, "--mgmt-url", &api]);
    assert!(said.contains("moved 1 queue with 3 messages"), "{said}");
    assert_eq!(
        texts(&here.json(["tail", "waiting", "--no-ack"])),
        ["m0", "m1", "m2"]
    );
}

#[test]
fn an_attached_session_keeps_its_queue_where_it_is_and_stops_no_other() {
    let (here, there) = (Place::new(), Place::new());
    let (_one, _other) = (Server::start(&here), Server::start(&there));
    for queue in ["alpha", "zulu"] {
        client::make_queue(&here, queue);
        client::publish(&here, queue, ["waits".to_owned()].into_iter());
    }
    let _session = Wrapped::open(&here, "busy", &[]);
    let ran = here.run(["move", "--to", &client::endpoint(&there).secret_url()]);
    ran.fails(1, "not everything was moved");
    let said = ran.err.lines().next().unwrap();
    assert!(
        said.starts_with("cbroker: `busy` stays: a session is attached to it"),
        "{said}"
    );
    assert!(
        ran.out.contains("moved 2 queues with 2 messages"),
        "{ran:?}"
    );
    for queue in ["alpha", "zulu"] {
        assert!(here.listed(queue).is_none(), "{queue}");
        assert_eq!(there.listed(queue).unwrap()["pending"], 1, "{queue}");
    }
    assert!(there.listed("busy").is_none());
}

#[test]
fn a_queue_that_the_target_does_not_take_stays_and_stops_no_other() {
    let (here, there) = (Place::new(), Place::new());
    let (_one, _other) = (Server::start(&here), Server::start(&there));
    for queue in ["alpha", "full", "zulu"] {
        client::make_queue(&here, queue);
        client::publish(&here, queue, ["waits".to_owned()].into_iter());
    }
    client::make_queue(&there, "full");
    client::publish(&there, "full", (0..1000).map(|number| format!("m{number}")));
    let ran = here.run([
        "move",
        "--json",
        "--to",
        &client::endpoint(&there).secret_url(),
    ]);
    ran.fails(4, "not everything was moved");
    let said: Value = serde_json::from_str(&ran.out).unwrap();
    let row = |name: &str| {
        let mut rows = said.as_array().unwrap().iter();
        rows.find(|row| row["name"] == name).unwrap().clone()
    };
    assert_eq!(row("alpha")["messages"], 1);
    assert_eq!(row("zulu")["messages"], 1);
    let stays = row("full")["stays"].as_str().unwrap().to_owned();
    assert!(stays.contains("is full"), "{stays}");
    assert_eq!(here.listed("full").unwrap()["pending"], 1);
}

/// Declares a queue as another program does.
fn declare(server: &Server, place: &Place, name: &str, arguments: &Value) {
    let body = json!({ "durable": true, "arguments": arguments });
    let path = format!("/api/queues/%2f/{name}");
    let answer = server.ask(place, "PUT", &path, &body.to_string());
    assert!(answer.status < 300, "{answer:?}");
}

/// The rows of `move --json`, by name.
fn row(printed: &str, name: &str) -> Value {
    let rows: Value = serde_json::from_str(printed).unwrap();
    let mut rows = rows.as_array().unwrap().iter();
    rows.find(|row| row["name"] == name).unwrap().clone()
}

#[test]
fn a_queue_whose_namesake_at_the_target_keeps_less_stays() {
    let (here, there) = (Place::new(), Place::new());
    let (_one, other) = (Server::start(&here), Server::start(&there));
    let with = |key: &str, value: Value| {
        let mut arguments = json!({"x-message-ttl": TTL_MS, "x-max-length": 1000,
            "x-overflow": "drop-head"});
        arguments[key] = value;
        arguments
    };
    let lossy = [
        ("few", with("x-max-length", json!(1))),
        ("brief", with("x-message-ttl", json!(1))),
        ("narrow", with("x-max-length-bytes", json!(10))),
        ("spied", with("x-dead-letter-exchange", json!("amq.fanout"))),
        ("refusing", with("x-overflow", json!("reject-publish"))),
    ];
    let safe = [
        ("longer", with("x-message-ttl", json!(2 * TTL_MS))),
        ("same", with("x-max-length", json!(1000))),
    ];
    for (name, arguments) in lossy.iter().chain(&safe) {
        declare(&other, &there, name, arguments);
        client::make_queue_with(&here, name, TTL_MS);
        client::publish(&here, name, (0..20).map(|number| format!("m{number}")));
    }
    let url = client::endpoint(&there).secret_url();
    let ran = here.run(["move", "--json", "--to", &url]);
    assert_eq!(ran.code, 1, "{ran:?}");
    for (name, _) in &lossy {
        let row = row(&ran.out, name);
        assert!(row["stays"].is_string(), "{row}");
        assert_eq!(here.listed(name).unwrap()["pending"], 20, "{name}");
    }
    assert!(
        ran.err.contains("its x-dead-letter-exchange differs"),
        "{ran:?}"
    );
    for (name, _) in &safe {
        assert!(row(&ran.out, name)["stays"].is_null(), "{ran:?}");
        assert_eq!(there.listed(name).unwrap()["pending"], 20, "{name}");
        assert!(here.listed(name).is_none(), "{name}");
    }
}

#[test]
fn a_queue_that_is_unusual_on_both_sides_is_moved_as_far_as_its_limit() {
    let (here, there) = (Place::new(), Place::new());
    let (one, other) = (Server::start(&here), Server::start(&there));
    let arguments = json!({ "x-max-length": 50 });
    for (server, place) in [(&one, &here), (&other, &there)] {
        declare(server, place, "small", &arguments);
    }
    // This binds it.
    client::make_queue(&here, "small");
    client::make_queue(&there, "small");
    client::publish(&here, "small", (0..40).map(|number| format!("m{number}")));
    client::publish(&there, "small", (0..20).map(|number| format!("n{number}")));
    let url = client::endpoint(&there).secret_url();
    let ran = here.run(["move", "--json", "--to", &url]);
    assert_eq!(ran.code, 4, "{ran:?}");
    assert_eq!(row(&ran.out, "small")["messages"], 30, "{ran:?}");
    assert_eq!(here.listed("small").unwrap()["pending"], 10);
    assert_eq!(there.listed("small").unwrap()["pending"], 50);
    there.ok(["purge", "small", "--yes"]);
    here.ok(["move", "--to", &url]);
    assert_eq!(there.listed("small").unwrap()["pending"], 10);
}

#[test]
fn a_consumer_at_the_target_lets_no_message_be_dropped() {
    let (here, there) = (Place::new(), Place::new());
    let (_one, _other) = (Server::start(&here), Server::start(&there));
    for place in [&here, &there] {
        client::make_queue(place, "full");
    }
    client::publish(&here, "full", (0..20).map(|number| format!("m{number}")));
    client::publish(&there, "full", (0..1000).map(|number| format!("n{number}")));
    let url = client::endpoint(&there).secret_url();
    client::run(async {
        let (_connection, channel) = client::connected(&url).await;
        let _consumer = client::consume_one(&channel, "full").await;
        let ran = here.run(["move", "--json", "--to", &url]);
        assert_eq!(ran.code, 4, "{ran:?}");
        let stays = row(&ran.out, "full")["stays"].as_str().unwrap().to_owned();
        assert!(stays.contains("is full"), "{stays}");
    });
    assert_eq!(here.listed("full").unwrap()["pending"], 20);
    let kept = there.json(["tail", "full", "--no-ack"]);
    assert_eq!((kept.len(), texts(&kept)[0]), (1000, "n0"));
}

#[test]
fn the_own_users_messages_are_his_at_the_target_and_no_others() {
    let (here, there) = (Place::new(), Place::new());
    let (_one, other) = (Server::start(&here), Server::start(&there));
    client::make_queue(&here, "mixed");
    client::publish(&here, "mixed", ["mine".to_owned()].into_iter());
    let url = here.ok(["status", "--show-url"]);
    let body = json!({"id": "s1", "from": "a", "to": "mixed",
        "ts": "2026-01-01T00:00:00.000Z", "message": "nobody's"});
    client::publish_raw(&url, "mixed", std::iter::once(body.to_string()));
    here.ok(["move", "--to", &client::endpoint(&there).secret_url()]);
    let look = json!({"count": 10, "ackmode": "ack_requeue_true", "encoding": "auto"});
    let path = "/api/queues/%2f/mixed/get";
    let seen = other.ask(&there, "POST", path, &look.to_string()).json();
    let seen_ones = seen.as_array().unwrap().iter();
    let users: Vec<_> = seen_ones
        .map(|seen| &seen["properties"]["user_id"])
        .collect();
    assert_eq!(users, [&json!("cbroker"), &Value::Null], "{seen}");
}
