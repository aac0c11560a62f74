//! A broker in the background, and what tests ask it by HTTP as its first user.

use std::process::{Child, Stdio};

use serde_json::json;

use crate::support::process::is_alive;
use crate::support::{Place, Request, free_port, wait_until};

/// Asks the management API as the first user.
pub(crate) fn api(place: &Place, path: &str, body: &serde_json::Value) -> serde_json::Value {
    request(place, "POST", path, &body.to_string())
}

pub(crate) fn api_get(place: &Place, path: &str) -> serde_json::Value {
    request(place, "GET", path, "")
}

pub(crate) fn request(place: &Place, method: &str, path: &str, body: &str) -> serde_json::Value {
    let status = &place.json(["status"])[0];
    let url = status["mgmt_url"].as_str().unwrap();
    let answer = Request::to_url(url, method, &format!("/api/{path}"))
        .password("cbroker", &password(place))
        .header("content-type", "application/json")
        .send(body);
    assert!(answer.status < 300, "{answer:?}");
    serde_json::from_str(&answer.body).unwrap_or_default()
}

pub(crate) fn publish(
    place: &Place,
    exchange: &str,
    key: &str,
    reply_to: &str,
    payload: &serde_json::Value,
) {
    let body = json!({
        "routing_key": key, "payload": payload.to_string(), "payload_encoding": "string",
        "properties": {"reply_to": reply_to},
    });
    api(place, &format!("exchanges/%2f/{exchange}/publish"), &body);
}

/// A broker in the background, which is stopped on drop: also where a test fails.
pub(crate) struct BackgroundBroker<'a>(&'a Place);

#[must_use]
pub(crate) fn started(place: &Place) -> BackgroundBroker<'_> {
    let [port, management] = [free_port().to_string(), free_port().to_string()];
    place.ok(["start", "--port", &port, "--mgmt-port", &management]);
    BackgroundBroker(place)
}

impl Drop for BackgroundBroker<'_> {
    fn drop(&mut self) {
        self.0.run(["stop"]);
    }
}

/// The first user's password.
pub(crate) fn password(place: &Place) -> String {
    let url = place.ok(["status", "--show-url"]);
    let (_, rest) = url.split_once("://cbroker:").unwrap();
    rest.split_once('@').unwrap().0.to_owned()
}

/// Kills the broker and waits until its process is gone.
pub(crate) fn kill_broker(place: &Place) {
    let record = std::fs::read(place.home().join("broker.json")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    let pid = i32::try_from(record["pid"].as_i64().unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let id = pid.as_raw_pid().unsigned_abs();
    wait_until(|| !is_alive(id), || "the broker does not end".into());
}

/// A `send --wait` to `ghost`, its message, and the queue in which it waits for receipts.
pub(crate) fn waiting_send(place: &Place, more: &[&str]) -> (Child, serde_json::Value, String) {
    let send = ["send", "--to", "ghost", "-m", "x", "--wait"];
    let (sending, message) = waiting(place, &[&send[..], more].concat());
    let queues = api_get(place, "queues");
    let names = queues.as_array().unwrap().iter();
    let mut names = names.filter_map(|queue| queue["name"].as_str());
    let receipts = names.find(|name| name.starts_with("ask")).unwrap();
    (sending, message, receipts.to_owned())
}

/// A command that waits, and the message that it sent to `ghost`.
pub(crate) fn waiting(place: &Place, arguments: &[&str]) -> (Child, serde_json::Value) {
    let mut command = place.command();
    command
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let waiting = command.spawn().unwrap();
    let mut message = None;
    wait_until(
        || {
            if place.listed("ghost").is_some() {
                message = place.json(["tail", "ghost", "--no-ack"]).pop();
            }
            message.is_some()
        },
        || "the message does not arrive".into(),
    );
    (waiting, message.unwrap())
}
