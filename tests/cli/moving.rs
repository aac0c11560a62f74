//! `move`: from one broker to another, nothing lost and nothing doubled.

use serde_json::Value;

use crate::client;
use crate::support::{Place, Rabbit, Server, Wrapped};

fn texts(messages: &[Value]) -> Vec<&str> {
    messages
        .iter()
        .map(|message| message["message"].as_str().unwrap())
        .collect()
}

/// Carries a queue from the place's broker to another and back, and looks at it at each station.
fn there_and_back(here: &Place, there: &Place, queue: &str) {
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
    assert_eq!(here.listed(queue).unwrap()["pending"], 0);
    assert_eq!(
        there.json(["tail", queue, "--no-ack"]),
        before,
        "each message is the same there"
    );

    let carried = here.json(["move", "--from", &url]).remove(0);
    assert!(
        carried
            .as_array()
            .unwrap()
            .iter()
            .any(|row| row["name"] == *queue && row["messages"] == 4),
        "{carried}"
    );
    assert_eq!(
        texts(&here.json(["tail", queue, "--no-ack"])),
        ["m0", "m1", "m2", "m3"]
    );
    assert!(there.json(["tail", queue, "--no-ack"]).is_empty());
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
    let (here, there) = (
        Place::new(),
        Place::at(&rabbit.url, Some(&rabbit.management)),
    );
    let _server = Server::start(&here);
    let own = ulid::Ulid::generate().to_string().to_lowercase();
    here.ok(["send", "--to", &format!("moved{own}"), "-m", "m0"]);
    client::publish(
        &here,
        &format!("moved{own}"),
        (1..4).map(|number| format!("m{number}")),
    );
    let url = client::endpoint(&there).secret_url();
    here.ok(["move", "--to", &url]);
    let arrived = there.json(["tail", &format!("moved{own}"), "--no-ack"]);
    assert_eq!(texts(&arrived), ["m0", "m1", "m2", "m3"]);
}

#[test]
fn an_attached_session_keeps_its_queue_where_it_is() {
    let (here, there) = (Place::new(), Place::new());
    let (_one, _other) = (Server::start(&here), Server::start(&there));
    let _session = Wrapped::open(&here, "busy", &[]);
    here.run(["move", "--to", &client::endpoint(&there).secret_url()])
        .fails(1, "a session is attached to `busy`");
}
