//! Tools of other projects on the API, if they are installed. CI installs them.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::fixture::Server;

/// Whether a program is installed. CI must have it.
pub(crate) fn is_there(program: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok();
    assert!(
        found || std::env::var_os("CI").is_none(),
        "CI needs {program}"
    );
    found
}

#[test]
fn promtool_finds_nothing_wrong_with_the_metrics() {
    if !is_there("promtool") {
        return;
    }
    let server = Server::start();
    server.ask("PUT", "/api/queues/%2F/a%22b%5Cc", "{}");
    server.publish("a\"b\\c", "x");
    let metrics = server.get("/metrics");
    assert!(
        metrics
            .body
            .contains("cbroker_queue_messages_ready{vhost=\"/\",queue=\"a\\\"b\\\\c\"} 1")
    );
    let mut check = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = check.stdin.take().unwrap();
    input.write_all(metrics.body.as_bytes()).unwrap();
    drop(input);
    let output = check.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
