//! What users and publishers may cost: memory of the broker and of a session.

use std::io::{Read, Write};
use std::net::TcpStream;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use crate::background_broker::password;
use crate::client;
use crate::support::process::peak_kib;
use crate::support::{Place, Server, Wrapped, wait_until};

const MIB: usize = 1 << 20;

/// A broker whose clients may make it hold 64 MiB.
fn small() -> (Place, Server) {
    let place = Place::new();
    let server = Server::start_with(&place, 0, 0, &["--memory-limit", "64"]);
    (place, server)
}

/// The management API by its port, with a login.
struct Api {
    address: String,
    login: String,
}

impl Api {
    fn of(place: &Place) -> Self {
        let status = &place.json(["status"])[0];
        let url = status["mgmt_url"].as_str().unwrap();
        let login = BASE64_STANDARD.encode(format!("cbroker:{}", password(place)));
        Self {
            address: url.strip_prefix("http://").unwrap().to_owned(),
            login,
        }
    }

    /// Sends a request and leaves its answer unread.
    fn open(&self, method: &str, path: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Basic {}\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n",
            self.address,
            self.login,
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        stream
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> u16 {
        let mut stream = self.open(method, path, body);
        let status = status(&mut stream);
        let _rest = stream.read_to_end(&mut Vec::new());
        status
    }

    fn get(&self, path: &str) -> String {
        let mut stream = self.open("GET", path, "");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn publish(&self, queue: &str, payload: &str) -> u16 {
        let body = json!({"routing_key": queue, "payload": payload, "payload_encoding": "string",
            "properties": {}});
        let path = "/api/exchanges/%2f/amq.default/publish";
        self.ask("POST", path, &body.to_string())
    }
}

/// The status of an answer, of which no more is read.
fn status(stream: &mut TcpStream) -> u16 {
    let mut start = [0; 12];
    stream.read_exact(&mut start).unwrap();
    std::str::from_utf8(&start[9..]).unwrap().parse().unwrap()
}

#[test]
fn answers_that_nobody_reads_are_bounded_for_each_user() {
    let (place, _server) = small();
    let api = Api::of(&place);
    api.ask("PUT", "/api/queues/%2f/q", r#"{"durable":true}"#);
    for _ in 0..8 {
        assert_eq!(api.publish("q", &"x".repeat(MIB)), 200);
    }
    let mut unread: Vec<_> = (0..20)
        .map(|_| api.open("GET", "/api/queues/%2f/q/peek", ""))
        .collect();
    let statuses: Vec<_> = unread.iter_mut().map(status).collect();
    assert!(statuses.contains(&200), "{statuses:?}");
    assert!(
        statuses.contains(&503),
        "160 MiB of answers were held: {statuses:?}"
    );
    drop(unread);
    let look = || api.ask("GET", "/api/queues/%2f/q/peek", "");
    wait_until(|| look() == 200, || "what is gone is not free again".into());
}

#[test]
fn publishes_by_http_are_refused_while_those_by_amqp_wait_for_memory() {
    let (place, _server) = small();
    let api = Api::of(&place);
    api.ask("PUT", "/api/queues/%2f/q", r#"{"durable":false}"#);
    let payload = "x".repeat(MIB);
    let statuses: Vec<_> = (0..150).map(|_| api.publish("q", &payload)).collect();
    let taken = statuses.iter().filter(|status| **status == 200).count();
    assert!(
        (8..=80).contains(&taken),
        "{taken} MiB were taken: {statuses:?}"
    );
    // Between two of them the alarm may end for a moment, so the last one may be taken or not.
    let are_known = statuses.iter().all(|status| [200, 503].contains(status));
    assert!(are_known, "{statuses:?}");
}

#[test]
fn three_hundred_megabytes_that_are_no_messages_take_little_memory_and_disk() {
    let place = Place::new();
    let _server = Server::start(&place);
    let session = Wrapped::open(&place, "backend", &[]);
    let pid = session.terminal.pid();
    let text = "no message ".repeat(100_000);
    let url = place.ok(["status", "--show-url"]);
    client::publish_raw(&url, "backend", std::iter::repeat_n(text, 300));
    let dlq = place.home().join("dlq");
    let files = || {
        let entries = std::fs::read_dir(&dlq).into_iter().flatten().flatten();
        // The session may remove one while they are counted.
        entries
            .filter_map(|entry| Some(entry.metadata().ok()?.len()))
            .collect::<Vec<_>>()
    };
    let log = || std::fs::read_to_string(place.home().join("logs/backend.log")).unwrap();
    wait_until(|| log().matches("a dead letter").count() == 300, log);
    let bytes: u64 = files().iter().sum();
    assert!(bytes <= 20 << 20, "{bytes} bytes on disk");
    let peak = peak_kib(pid) / 1024;
    eprintln!("the peak of the session is {peak} MiB, {bytes} bytes on disk");
    assert!(peak < 150, "{peak} MiB");
    drop(session);
}

/// A message of nearly 1 MiB: these fields, and then this item as often as it fits.
fn full_of(id: usize, fields: &str, item: &str, end: &str) -> String {
    let head = format!(
        r#"{{"id":"{id}","from":"a","to":"backend","ts":"2026-01-01T00:00:00.000Z",{fields}"#
    );
    let count = (MIB - head.len() - end.len()) / item.len() - 1;
    head + &item.repeat(count) + end
}

#[test]
fn held_messages_of_many_small_values_cost_a_session_no_more_than_their_texts() {
    let place = Place::new();
    let _server = Server::start(&place);
    let session = Wrapped::open(&place, "backend", &[]);
    place.ok(["pause", "backend"]);
    let bodies = (0..24).map(|id| match id % 3 {
        0 => full_of(id, r#""message":"m","v2":["#, r#"{"":0},"#, "0]}"),
        1 => {
            let names = (0..90_000).map(|number| format!(r#""{number:x}":0,"#));
            full_of(id, &names.collect::<String>(), " ", r#""message":"m"}"#)
        }
        _ => full_of(id, r#""message":""#, "text", r#""}"#),
    });
    let url = place.ok(["status", "--show-url"]);
    client::publish_raw(&url, "backend", bodies);
    let held = || place.listed("backend").unwrap()["held"].clone();
    wait_until(|| held() == 24, || format!("{} are held", held()));
    let peak = peak_kib(session.terminal.pid()) / 1024;
    eprintln!("the peak of the session is {peak} MiB");
    assert!(peak < 100, "{peak} MiB");
}

#[test]
fn a_session_takes_its_messages_while_publishers_wait_for_memory() {
    let (place, _server) = small();
    client::make_queue(&place, "backend");
    let url = place.ok(["status", "--show-url"]);
    // They are transient, so they have no other place than memory, and the last ones wait.
    let publishing = std::thread::spawn(move || {
        let bodies = std::iter::repeat_n("no message ".repeat(100_000), 70);
        client::publish_raw(&url, "backend", bodies);
    });
    let is_full = || {
        let nodes = Api::of(&place).get("/api/nodes");
        nodes.contains("\"mem_alarm\":true")
    };
    wait_until(is_full, || "memory is not short".into());
    let session = Wrapped::open_unattached(&place, "backend", &[]);
    wait_until(
        || publishing.is_finished(),
        || format!("publishers wait for ever; {}", session.terminal.shown()),
    );
    publishing.join().unwrap();
}
