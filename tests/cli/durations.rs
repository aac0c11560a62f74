//! Durations with units, as the commands take them.

use std::process::Stdio;
use std::thread;
use std::time::Duration;

use crate::client;
use crate::support::{Place, Server, Wrapped};

/// The time to live of the first message of a queue, as the broker has it. The message stays.
fn expiration(place: &Place, queue: &str) -> String {
    let url = place.ok(["status", "--show-url"]);
    let got = client::run(async {
        let (_connection, channel) = client::connected(url.trim()).await;
        let options = lapin::options::BasicGetOptions::default();
        let got = channel.basic_get(queue.into(), options).await.unwrap();
        got.unwrap().delivery.properties.expiration().clone()
    });
    got.unwrap().to_string()
}

#[test]
fn a_duration_with_a_unit_has_that_length() {
    let place = Place::new();
    let _server = Server::start(&place);
    for (queue, ttl, milliseconds) in [
        ("a", "10m", "600000"),
        ("b", "2h", "7200000"),
        ("c", "1500ms", "1500"),
        ("d", "90s", "90000"),
        // A bare number counts milliseconds.
        ("e", "60000", "60000"),
    ] {
        place.ok(["send", queue, "x", "--ttl", ttl]);
        assert_eq!(expiration(&place, queue), milliseconds, "{ttl}");
    }
    // Read as 1100 seconds, these would take longer than any test.
    place
        .run(["send", "f", "x", "--wait", "--timeout", "1100ms"])
        .fails(4, "");
    place
        .run(["ask", "f", "?", "--timeout", "1100ms"])
        .fails(4, "");
    place
        .run(["wait", "f", "--until", "idle", "--timeout", "1100ms"])
        .fails(4, "");
    // A minute is no 1 ms, and no 1 s: the receipt comes after both.
    let waiting = place
        .command()
        .args(["send", "g", "x", "--wait", "--timeout", "1m"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(1500));
    let session = Wrapped::open(&place, "g", &[]);
    let ended = waiting.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    drop(session);
}
