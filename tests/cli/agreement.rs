//! Sessions of the TypeScript tool and of cbroker exchange messages on one broker.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::client;
use crate::everywhere::everywhere;
use crate::support::{Place, Wrapped, skip};

/// Runs a part of `agreement.js`; `None` where node or amqplib is missing.
fn typescript(place: &Place, verb: &str, queue: &str) -> Option<String> {
    let modules = std::env::var("CBROKER_TEST_NODE_MODULES").unwrap_or_default();
    let node = || {
        let mut command = Command::new("node");
        command.env("NODE_PATH", &modules);
        command
    };
    if !node()
        .args(["-e", "require('amqplib')"])
        .output()
        .is_ok_and(|output| output.status.success())
    {
        skip("amqplib is not there (CBROKER_TEST_NODE_MODULES)");
        return None;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/agreement.js");
    let output = node()
        .arg(script)
        .args([&client::endpoint(place).secret_url(), verb, queue])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn an_envelope_of_the_typescript_tool_is_injected() {
    everywhere(|place, name| {
        let who = name("typed");
        if typescript(place, "publish", &who).is_none() {
            return;
        }
        let session = Wrapped::open(place, &who, &[]);
        assert_eq!(
            session.wait_for_submission("01HZ7K8M2N3P4Q5R6S7T8U9V"),
            "[cbroker peer message from=myPythonBackend id=01HZ7K8M2N3P4Q5R6S7T8U9V \
             reply_to=myPythonBackend correlation_id=01HZ7K8M2N3P4Q5R6S7T8U9V] \
             GET /users/:id/preferences is live. See the OpenAPI file. \
             (files: /repo/api/openapi.yaml) (metadata: {\"intent\":\"feature-handoff\"}) [end]"
        );
        // It declares the same queue as we do: a difference would have been refused.
        typescript(place, "publish", &who);
    });
}

#[test]
fn our_envelopes_are_valid_for_the_typescript_tool_field_by_field() {
    everywhere(|place, name| {
        let to = name("peer");
        place.ok([
            "send",
            "--to",
            &to,
            "-m",
            "Über alles\nsecond line",
            "--from",
            "dev-ops",
            "--reply-to",
            "me",
            "--correlation-id",
            "c-1",
            "--priority",
            "low",
            "--meta",
            "a=b",
            "-f",
            "/etc/hosts",
        ]);
        let Some(seen) = typescript(place, "check", &to) else {
            return;
        };
        let seen: Value = serde_json::from_str(&seen).unwrap();
        assert_eq!((&seen["from"], &seen["to"]), (&json!("devOps"), &json!(to)));
        assert_eq!(seen["message"], "Über alles\nsecond line");
        assert_eq!(seen["files"], json!(["/etc/hosts"]));
    });
}
