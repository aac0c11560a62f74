//! Clients in other languages. Each is a script in this folder that prints `ok` at its end.
//!
//! `CBROKER_TEST_PYTHON` names a Python with pika, `CBROKER_TEST_NODE_MODULES` a folder with
//! amqplib. If they are missing, the test prints that and passes, unless
//! `CBROKER_TEST_OUTSIDE=required`.

use std::path::Path;
use std::process::Command;

use crate::server::Server;

/// Runs `command` with the broker's URL as its last argument.
fn run(command: &mut Command, server: &Server) {
    let output = command.arg(&server.url).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.trim_end().ends_with("ok"),
        "{said}\n{wrong}"
    );
}

/// Whether `probe` succeeds. Fails the test if outside programs are required.
fn is_there(what: &str, probe: &mut Command) -> bool {
    let there = probe.output().is_ok_and(|output| output.status.success());
    let required = std::env::var("CBROKER_TEST_OUTSIDE").is_ok_and(|value| value == "required");
    assert!(there || !required, "{what} is required and not there");
    if !there {
        eprintln!("skipped: {what} is not there");
    }
    there
}

fn script(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/interop")
        .join(name)
}

#[test]
fn pika_publishes_consumes_and_is_refused_in_the_words_it_knows() {
    let python = std::env::var("CBROKER_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    if is_there("pika", Command::new(&python).args(["-c", "import pika"])) {
        run(
            Command::new(&python).arg(script("pika_client.py")),
            &Server::start(),
        );
    }
}

/// The certificate is self-signed, so the system does not trust it.
#[test]
fn pika_does_the_same_over_tls_when_it_trusts_the_certificate() {
    let python = std::env::var("CBROKER_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    if !is_there("pika", Command::new(&python).args(["-c", "import pika"]))
        || !is_there("openssl", Command::new("openssl").arg("version"))
    {
        return;
    }
    let (server, certificate) = Server::start_tls().unwrap();
    let mut pika = Command::new(&python);
    pika.arg(script("pika_client.py"));
    let distrustful = pika.arg(&server.url).output().unwrap();
    assert!(!distrustful.status.success());
    assert!(String::from_utf8_lossy(&distrustful.stderr).contains("CERTIFICATE_VERIFY_FAILED"));
    run(
        Command::new(&python)
            .arg(script("pika_client.py"))
            .env("SSL_CERT_FILE", certificate),
        &server,
    );
}

#[test]
fn amqplib_publishes_the_envelope_of_the_typescript_tool() {
    let modules = std::env::var("CBROKER_TEST_NODE_MODULES").unwrap_or_default();
    let mut probe = Command::new("node");
    if is_there(
        "amqplib",
        probe
            .args(["-e", "require('amqplib')"])
            .env("NODE_PATH", &modules),
    ) {
        run(
            Command::new("node")
                .env("NODE_PATH", &modules)
                .arg(script("amqplib_client.js")),
            &Server::start(),
        );
    }
}
